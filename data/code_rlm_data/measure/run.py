"""Measures programs into a data set: time and memory of each, under limits, a row for every program.

    code-rlm measure solutions/ --out measured                       # a folder; NAME.in and NAME.out lie beside NAME.py
    code-rlm measure programs.parquet --out measured --workers 2     # a table with columns text, language, stdin, ...
    code-rlm measure model.onnx --out measured                       # through onnxruntime
    code-rlm measure leetcode --data-root DATA --out measured        # LeetCodeDataset (a folder of that name: ./leetcode)
    code-rlm measure leetcode --data-root DATA --solutions solutions.parquet --out measured   # other people's solutions
    code-rlm measure --languages                                     # what can be measured here

Writes data.parquet in the schema, and journal.jsonl with every number and the last output of failing programs. Killed and
started again with the same command, it goes on. Programs get processes, files and a user of their
own and no network where the kernel allows; this is not a sandbox for hostile code.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from code_rlm.errors_rlm import RLMError
from code_rlm_data.measure.leetcode import LIMITS, PROTOCOL, SIZES, measure_leetcode
from code_rlm_data.measure.observers import DEFAULT_METRICS, PAPER_PROTOCOL
from code_rlm_data.measure.programs import BUILD_LIMITS, RUN_LIMITS, MeasureError, read_programs
from code_rlm_data.measure.session import measure_programs
from code_rlm_data.measure.toolchains import TOOLCHAINS
from code_rlm_data.measure.worker import version_of


def build_parser(leetcode: bool = False) -> argparse.ArgumentParser:
    """Returns the argument parser of `code-rlm measure`, or of `code-rlm measure leetcode`."""
    parser = argparse.ArgumentParser(
        "code-rlm measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if leetcode:
        parser.add_argument("leetcode", choices=["leetcode"])
        parser.add_argument(
            "--data-root", required=True, help="folder with python/LeetCodeDataset-v0.2.0-train.jsonl.gz"
        )
        parser.add_argument("--problems", type=int, help="at most so many problems, drawn by a hash")
        parser.add_argument(
            "--sizes", type=int, nargs="*", default=list(SIZES), help=f"items to grow inputs to {SIZES}"
        )
        parser.add_argument("--solutions", help="parquet table of other solutions: text, language, task_id")
        parser.add_argument("--seed", type=int, default=0, help="of larger inputs and of which problems [0]")
    else:
        parser.add_argument("programs", nargs="?", help="folder, program or table")
        parser.add_argument(
            "--languages", action="store_true", help="list languages, their versions and packages, and end"
        )
        parser.add_argument("--language", help="language of every program; by default that of the suffix or the column")
        parser.add_argument(
            "--metrics", nargs="+", help=f"by default {' '.join(DEFAULT_METRICS)}, or those of the language"
        )
        parser.add_argument("--source", default="measured", help="name for the column of that name [measured]")
        parser.add_argument("--no-namespaces", action="store_true", help="do without the kernel's namespaces")
        _add_fields(parser, BUILD_LIMITS, "build-", "of a build")
    parser.add_argument("--out", help="folder for the table and the journal")
    parser.add_argument("--workers", type=int, default=1, help="programs at once, each pinned to a core [1]")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    _add_fields(parser, LIMITS if leetcode else RUN_LIMITS, "", "of a run")
    _add_fields(parser, PROTOCOL if leetcode else PAPER_PROTOCOL, "", "")
    return parser


def _add_fields(parser: argparse.ArgumentParser, defaults: Any, prefix: str, what: str) -> None:
    """Returns a flag for every field of a dataclass."""
    for each in fields(defaults):
        value = getattr(defaults, each.name)
        text = " ".join(filter(None, (f"{each.metadata['help']}", what, f"[{value}]")))
        flag = f"--{prefix}{each.name}".replace("_", "-")
        parser.add_argument(flag, type=float if each.name.endswith("_s") else int, help=text)


def _read_fields(args: argparse.Namespace, defaults: Any, prefix: str = "") -> Any:
    given = {each.name: getattr(args, f"{prefix}{each.name}") for each in fields(defaults)}
    return replace(defaults, **{name: value for name, value in given.items() if value is not None})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; 2 and one line on what cannot be used."""
    argv = list(sys.argv[1:] if argv is None else argv)
    leetcode = argv[:1] == ["leetcode"]
    args = build_parser(leetcode).parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("code-rlm measure: %(message)s"))
    log = logging.getLogger("code_rlm_data.measure")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        if not leetcode and args.languages:
            print_languages()
            return 0
        if not args.out or not (leetcode or args.programs):
            raise MeasureError("give what to measure and --out FOLDER, or --languages")
        shared = {"workers": args.workers, "resume": not args.fresh}
        if leetcode:
            path = measure_leetcode(
                args.data_root,
                args.out,
                limits=_read_fields(args, LIMITS),
                protocol=_read_fields(args, PROTOCOL),
                sizes=tuple(args.sizes),
                problems=args.problems,
                seed=args.seed,
                solutions=args.solutions,
                **shared,
            )
        else:
            path = measure_programs(
                read_programs(args.programs, language=args.language),
                args.out,
                limits=_read_fields(args, RUN_LIMITS),
                build_limits=_read_fields(args, BUILD_LIMITS, "build_"),
                protocol=_read_fields(args, PAPER_PROTOCOL),
                metrics=args.metrics,
                source=args.source,
                namespaces=not args.no_namespaces,
                **shared,
            )
        print(path)
    except RLMError as error:
        print(f"code-rlm measure: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("code-rlm measure: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(handler)
    return 0


def print_languages() -> None:
    """Returns a line for each language: its version, or what to install."""
    for language, tools in TOOLCHAINS.items():
        missing = tools.missing()
        found = f"needs {', '.join(missing)}: {tools.remedy()}" if missing else version_of(language)
        print(f"{language:12} {found}")


if __name__ == "__main__":
    sys.exit(main())
