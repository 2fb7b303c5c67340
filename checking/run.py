"""`code-rlm check`: does a change need more memory or time than allowed.

    code-rlm check --base main --max peak_rss_bytes=2GB --max-increase cpu_time_ms=20%
    code-rlm check --before old/ --after new/ --max-increase peak_rss_bytes=10% --format markdown

Both versions of each changed file are predicted. A limit is breached where it is exceeded with at least `--probability`. Files
unlike the training rows are reported and breach nothing, unless `--unfamiliar breach` is given.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from transformers.utils import logging

from code_rlm.checking.limits import Limits, check_changes
from code_rlm.checking.reports import write_report
from code_rlm.checking.versions import Change, folder_changes, git_changes
from code_rlm.errors_rlm import InputError
from code_rlm.loading import load, pipeline
from code_rlm.predict import parse_pairs


def check(args: argparse.Namespace, out: TextIO) -> int:
    """Runs the command; returns 0, or 1 where a limit is breached.

    Raises:
        RLMError: Limits, revisions or folders that cannot be used.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    most, increase = parse_pairs(args.max, "--max"), parse_pairs(args.max_increase, "--max-increase")
    options = {
        "context": parse_pairs(args.context, "--context"),
        "interval": args.interval,
        "language": args.language,
        "batch_size": args.batch_size,
    }
    with _changes(args) as changes:
        model, processor = load(args.model)
        pipe = pipeline(model, processor)
        limits = Limits.parse(
            model.config, most, increase, probability=args.probability, unfamiliar=args.unfamiliar == "breach"
        )
        findings, skipped = check_changes(pipe, changes, limits, **options)
    write_report(findings, skipped, args.format or ("table" if out.isatty() else "json"), out)
    for style in ("markdown", "sarif"):
        if path := getattr(args, style):
            # Appended: GitHub's summary of a step may hold something already.
            with open(path, "a" if style == "markdown" else "w", encoding="utf-8") as file:
                write_report(findings, skipped, style, file)
    return 1 if any(each.breaches for each in findings) else 0


@contextlib.contextmanager
def _changes(args: argparse.Namespace) -> Iterator[list[Change]]:
    """Gives the changed files that the arguments name."""
    folders = [folder for folder in (args.before, args.after) if folder]
    if bool(args.base) == bool(folders) or len(folders) == 1:
        raise InputError("Give --base REVISION, or two folders: --before OLD --after NEW.")
    if args.base:
        with git_changes(args.base, args.head, args.files) as changes:
            yield changes
        return
    if args.head or args.files:
        raise InputError("--head and files go with --base; two folders are compared whole.")
    yield folder_changes(Path(args.before), Path(args.after))


__all__ = ["check"]
