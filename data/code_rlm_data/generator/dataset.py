"""From generated programs to the data set: the table of programs, measuring in turns, the second pass, the parquet file."""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from code_rlm.data.readers import TASKS
from code_rlm.data.schema import FEATURES, DataError, Example
from code_rlm_data import cards
from code_rlm_data.generator.emitters import EMITTERS
from code_rlm_data.generator.generate import Budget, Sample, can_write, problem_families, samples
from code_rlm_data.generator.reference import answer
from code_rlm_data.measure import Limits, Program, measure_programs, read_programs

METRICS = ("peak_rss_bytes", "cpu_time_ms", "idle_peak_rss_bytes")
_LINE_EVERY_S = 30


@dataclass(frozen=True)
class Plan:
    """How a table of programs is measured.

    Attributes:
        task: Name of the task, also the source of its rows.
        limits: Of each run.
    """

    task: str
    limits: Limits


POLYGLOT = Plan("polyglot_memory", Limits(wall_s=30.0, cpu_s=10.0, memory_bytes=1 << 30))


def generate(args: argparse.Namespace) -> str:
    """Writes the table of programs.

    Args:
        args: Options of the command `generate`.

    Returns:
        What the table holds, in words.
    """
    budget = Budget(most_ms=args.most_ms, most_bytes=args.most_mb * 1e6)
    total = args.variants * _count_texts(args.seed, args.problems, args.languages)
    quiet = not sys.stderr.isatty()
    answers: dict[int, str] = {}  # of the programs of one variant, which differ between languages with other features
    variant = ""
    rows: list[dict[str, Any]] = []
    logged = time.monotonic()
    programs = samples(args.seed, args.problems, args.variants, args.languages, budget)
    for made in tqdm(programs, "programs", total, disable=quiet):
        if made.name.rsplit("-", 1)[0] != variant:
            variant = made.name.rsplit("-", 1)[0]
            answers = {}
        key = hash(made.program)
        if key not in answers:
            answers[key] = answer(made.program, made.cost.operations)
        rows.append(_row(made, answers[key]))
        if quiet and time.monotonic() - logged > _LINE_EVERY_S:
            logged = time.monotonic()
            print(f"{len(rows)} of {total} programs", file=sys.stderr, flush=True)
    path = Path(args.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    counts = Counter(row["language"] for row in rows)
    return f"{path}: {len(rows)} programs; " + ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _count_texts(seed: int, problems: int, languages: Sequence[str]) -> int:
    """Returns how many texts a variant of all problems has: a language writes what it supports."""
    count = 0
    for problem in range(problems):
        families = problem_families(seed, problem)
        count += sum(can_write(EMITTERS[language], families) for language in languages if language in EMITTERS)
    return count


def _row(made: Sample, expected_stdout: str) -> dict[str, Any]:
    """Returns the row of a program in the table that `measure` reads."""
    return {
        "name": made.name,
        "text": made.text,
        "language": made.language,
        "group": made.group,
        "expected_stdout": expected_stdout,
        "size": made.size,
        "estimated_bytes": made.estimated_bytes,
        "estimated_ms": made.estimated_ms,
    }


def in_turns(programs: Sequence[Program], batch: int) -> Iterator[list[Program]]:
    """Yields programs in turns: `batch` of every language, then the next of every language, in their order."""
    by_language: dict[str, list[Program]] = defaultdict(list)
    for program in programs:
        by_language[program.language].append(program)
    for start in range(0, max(map(len, by_language.values()), default=0), batch):
        turn: list[Program] = []
        for own in by_language.values():
            turn += own[start : start + batch]
        yield turn


def measure(
    programs: str,
    out: str,
    *,
    hours: float | None,
    batch: int,
    core: int | None,
    repeats: int = 1,
    plan: Plan = POLYGLOT,
) -> str:
    """Measures a table of programs in turns of all languages, until it is done or the time is up."""
    return _measured(list(read_programs(programs)), out, hours, batch, core, repeats, plan)


def _measured(
    programs: Sequence[Program], out: str, hours: float | None, batch: int, core: int | None, repeats: int, plan: Plan
) -> str:
    if core is not None:
        os.sched_setaffinity(0, {core})
    end = None if hours is None else time.monotonic() + hours * 3600
    so_far: list[Program] = []
    for turn in in_turns(programs, batch):
        if end is not None and time.monotonic() > end:
            break
        so_far += turn
        path = measure_programs(so_far, out, limits=plan.limits, repeats=repeats, metrics=METRICS, source=plan.task)
        print(f"{len(so_far)} of {len(programs)} programs in {path}", file=sys.stderr, flush=True)
    if not so_far:
        raise DataError("nothing was measured: no programs, or no time")
    return f"{out}: {len(so_far)} of {len(programs)} programs"


def measure_again(programs: str, measured: str, out: str, *, each: int, core: int | None, plan: Plan = POLYGLOT) -> str:
    """Measures `each` ok programs of every language a second time, those first in the order of their text's hash."""
    texts = {(row.language, row.text) for row in _rows(measured) if row.outcome == "ok"}
    chosen: list[Program] = []
    counts: Counter[str] = Counter()
    known = [each_ for each_ in read_programs(programs) if (each_.language, each_.text) in texts]
    for program in sorted(known, key=lambda program: hashlib.sha256(program.text.encode()).digest()):
        if counts[program.language] < each:
            counts[program.language] += 1
            chosen.append(program)
    return _measured(chosen, out, None, each, core, 1, plan)


def _rows(folder: str) -> list[Example]:
    """Returns the rows of a folder that `measure` wrote."""
    path = Path(folder, "data.parquet")
    if not path.is_file():
        raise DataError(f"no file {path}; give the folder that `measure` wrote with --out")
    return [Example(**row) for row in pq.read_table(path, columns=list(FEATURES)).to_pylist()]


def noise_between(first: Sequence[Example], second: Sequence[Example]) -> dict[str, dict[str, float]]:
    """Returns, for each language and metric, the median of |a - b| / mean(a, b) over programs that both passes hold."""
    before = {(row.language, row.text): _numbers(row) for row in first if row.outcome == "ok"}
    differences: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in second:
        other = before.get((row.language, row.text))
        if row.outcome != "ok" or other is None:
            continue
        for metric in METRICS[:2]:
            a = other[metric]
            b = _numbers(row)[metric]
            differences[row.language][metric].append(2 * abs(a - b) / (a + b) if a + b else 0.0)
    noise = {}
    for language, of_metric in sorted(differences.items()):
        medians = {metric: statistics.median(values) for metric, values in of_metric.items()}
        noise[language] = {"programs": float(len(of_metric[METRICS[0]])), **medians}
    return noise


def _numbers(row: Example) -> dict[str, float | None]:
    return dict(zip(row.metrics, row.values))


def export(measured: str, out: str, *, noise: str | None = None, least: int = 0, plan: Plan = POLYGLOT) -> str:
    """Writes the data set: a parquet file for each split and the card. Rows that failed stay, without numbers.

    Args:
        measured: Folder of the first pass.
        out: Folder of the data set.
        noise: Folder of the second pass.
        least: Ok rows that a language must have to be in the set.
        plan: How it was measured; names the task.

    Raises:
        DataError: No language has that many.
    """
    rows = _rows(measured)
    ok = Counter(row.language for row in rows if row.outcome == "ok")
    left_out = sorted({row.language for row in rows if ok[row.language] < least})
    kept = [row for row in rows if row.language not in left_out]
    if not kept:
        raise DataError(f"no language has {least} ok rows; there are " + ", ".join(f"{k} {v}" for k, v in ok.items()))
    reason = f"{', '.join(left_out)}, with fewer than {least} ok rows" if left_out else ""
    task = TASKS[plan.task]
    cards.export_rows(
        kept,
        out,
        cards.FACTS[task.name],
        name=task.name,
        description=task.description,
        offered=len(rows),
        left_because=reason,
        sections=lambda: {
            "Range of sizes": _size_range(kept),
            "Noise": _noise(noise_between(kept, _rows(noise)) if noise else {}),
        },
    )
    size = sum(file.stat().st_size for file in Path(out).glob("*.parquet"))
    return f"{out}: {len(kept)} rows, {size / 1e6:.1f} MB" + (f"; left out: {reason}" if reason else "")


def _size_range(rows: Sequence[Example]) -> str:
    """Reports how far apart the rows of a problem lie, in one language and over what an idle process needs."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row.outcome == "ok":
            numbers = _numbers(row)
            groups[row.group, row.language].append(max(numbers[METRICS[0]] - numbers[METRICS[2]], 1e4))
    ratios = [max(values) / min(values) for values in groups.values() if len(values) > 1]
    if not ratios:
        return "There is one variant of each problem in a language so far."
    return (
        "Between the largest and the smallest variant of a problem in one language lie, in the median, a factor of "
        f"{statistics.median(ratios):.1f} in the memory over an idle process."
    )


def _noise(noise: dict[str, dict[str, float]]) -> str:
    if not noise:
        return "There was no second pass: the noise of these numbers is not known yet."
    lines = ["A second pass over some programs; median of the difference over the mean of the two:", ""]
    lines += ["| language | programs | peak RSS | CPU time |", "|---|---|---|---|"]
    for language, medians in noise.items():
        memory = 100 * medians["peak_rss_bytes"]
        cpu = 100 * medians["cpu_time_ms"]
        lines.append(f"| {language} | {medians['programs']:.0f} | {memory:.2f}% | {cpu:.1f}% |")
    return "\n".join(lines)


def add_measuring(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands that take a table of programs to a data set: measure, remeasure, export."""
    measuring = commands.add_parser("measure", help="measure the programs of a table, language by language in turn")
    measuring.add_argument("programs", help="table that generate wrote")
    measuring.add_argument("--out", required=True, metavar="FOLDER", help="where the measured rows are kept")
    measuring.add_argument("--hours", type=float, help="stop after this long; the same command goes on later")
    measuring.add_argument("--batch", type=int, default=12, help="programs of each language in a turn [12]")
    measuring.add_argument("--core", type=int, help="core to measure on; by default any")

    noise = commands.add_parser("remeasure", help="measure some of the measured programs again, for the noise")
    noise.add_argument("programs", help="table that generate wrote")
    noise.add_argument("--measured", required=True, metavar="FOLDER", help="what measure wrote")
    noise.add_argument("--out", required=True, metavar="FOLDER", help="where the second pass is kept")
    noise.add_argument("--programs-each", type=int, default=20, help="programs of each language [20]")
    noise.add_argument("--core", type=int, help="core to measure on; by default any")

    exporting = commands.add_parser("export", help="write the data set and its card")
    exporting.add_argument("measured", help="folder that measure wrote")
    exporting.add_argument("--noise", metavar="FOLDER", help="folder that remeasure wrote, for the card")
    exporting.add_argument("--out", required=True, metavar="FOLDER", help="folder of the data set")
    exporting.add_argument("--least", type=int, default=0, help="ok rows a language must have to be in the set [0]")


def run_measuring(args: argparse.Namespace, plan: Plan = POLYGLOT) -> str:
    """Runs a command of `add_measuring`; returns what it made, in words."""
    if args.command == "measure":
        return measure(args.programs, args.out, hours=args.hours, batch=args.batch, core=args.core, plan=plan)
    if args.command == "remeasure":
        each = args.programs_each
        return measure_again(args.programs, args.measured, args.out, each=each, core=args.core, plan=plan)
    return export(args.measured, args.out, noise=args.noise, least=args.least, plan=plan)


__all__ = [
    "METRICS",
    "POLYGLOT",
    "Plan",
    "add_measuring",
    "export",
    "generate",
    "in_turns",
    "measure",
    "measure_again",
    "noise_between",
    "run_measuring",
]
