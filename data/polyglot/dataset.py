"""From generated programs to the data set: the table of programs, measuring in turns, the second pass, the parquet file."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from code_rlm.data.measure import Limits, Program, measure_programs, read_programs
from code_rlm.data.polyglot.emitters import EMITTERS
from code_rlm.data.polyglot.generate import Budget, can_write, problem_families, samples
from code_rlm.data.polyglot.reference import answer
from code_rlm.data.schema import DataError

logger = logging.getLogger(__name__)

LIMITS = Limits(wall_s=30.0, cpu_s=10.0, memory_bytes=1 << 30)
METRICS = ("peak_rss_bytes", "cpu_time_ms", "idle_peak_rss_bytes")
_LINE_EVERY_S = 30


def generate(args: argparse.Namespace) -> str:
    """Write the table of programs; returns what it holds, in words."""
    budget = Budget(most_ms=args.most_ms, most_bytes=args.most_mb * 1e6)
    problems, variants, languages = args.problems, args.variants, args.languages
    total = variants * sum(
        can_write(EMITTERS[language], problem_families(args.seed, problem))
        for problem in range(problems)
        for language in languages
        if language in EMITTERS
    )
    answers: dict[int, str] = {}
    rows: list[dict[str, Any]] = []
    last, variant = time.monotonic(), ""
    quiet = not sys.stderr.isatty()
    for made in tqdm(samples(args.seed, problems, variants, languages, budget), "programs", total, disable=quiet):
        if made.name.rsplit("-", 1)[0] != variant:
            variant, answers = made.name.rsplit("-", 1)[0], {}
        key = hash(made.program)
        if key not in answers:
            answers[key] = answer(made.program, made.cost.operations)
        rows.append(
            {
                "name": made.name,
                "text": made.text,
                "language": made.language,
                "group": made.group,
                "expected_stdout": answers[key],
                "size": made.size,
                "estimated_bytes": made.estimated_bytes,
                "estimated_ms": made.estimated_ms,
            }
        )
        if quiet and time.monotonic() - last > _LINE_EVERY_S:
            last = time.monotonic()
            print(f"{len(rows)} of {total} programs", file=sys.stderr, flush=True)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    counts = Counter(row["language"] for row in rows)
    return f"{path}: {len(rows)} programs; " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def in_turns(programs: Sequence[Program], batch: int) -> Iterator[list[Program]]:
    """Yield programs in turns: `batch` of every language, then the next of every language, in their order."""
    by_language: dict[str, list[Program]] = defaultdict(list)
    for program in programs:
        by_language[program.language].append(program)
    for start in range(0, max(map(len, by_language.values()), default=0), batch):
        yield [each for own in by_language.values() for each in own[start : start + batch]]


def measure(programs: str, out: str, *, hours: float | None, batch: int, core: int | None, repeats: int = 1) -> str:
    """Measure a table of programs in turns of all languages, until it is done or the time is up."""
    return _measured(list(read_programs(programs)), out, hours, batch, core, repeats)


def _measured(
    programs: Sequence[Program], out: str, hours: float | None, batch: int, core: int | None, repeats: int
) -> str:
    if core is not None:
        os.sched_setaffinity(0, {core})
    end = None if hours is None else time.monotonic() + hours * 3600
    so_far: list[Program] = []
    for turn in in_turns(programs, batch):
        if end is not None and time.monotonic() > end:
            break
        so_far += turn
        path = measure_programs(so_far, out, limits=LIMITS, repeats=repeats, metrics=METRICS, source="polyglot_memory")
        print(f"{len(so_far)} of {len(programs)} programs in {path}", file=sys.stderr, flush=True)
    if not so_far:
        raise DataError("nothing was measured: no programs, or no time")
    return f"{out}: {len(so_far)} of {len(programs)} programs"
