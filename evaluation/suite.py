"""Every table of the paper, measured on the published data with a checkpoint: `code-rlm evaluate --suite paper`.

    code-rlm evaluate --suite paper --model runs/paper/final --out paper_report
    code-rlm evaluate --suite paper --model published --data-root DATA --few-shot 300 --out paper_report

Rows are those of the test split by group: the first of the stream's order that have the metric, at most 1,024 of each language
or space, as many as the paper reports on. The paper's splits are random; `--split all` takes rows of any. With
`--few-shot STEPS` the rows that ask for it are measured after fine-tuning the checkpoint for so many steps on 16, 100 or 1,000
architectures of the space, its encoder frozen; without it they stay empty. What no checkpoint can show alone (ablations) is
listed with the paper's figures and what runs it.

Writes suite.json and suite.md. A table that cannot be read does not end the others: its rows say why.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from code_rlm.console import write_markdown
from code_rlm.data.published import PUBLISHED, PublishedTable, counted, sample_rows, select, table_path
from code_rlm.data.schema import Example, to_dataset
from code_rlm.errors_rlm import MetricError, RLMError
from code_rlm.evaluation.metrics import EvaluationError, bootstrap_interval, kendall, spearman
from code_rlm.evaluation.paper import SOURCE, TABLES, PaperRow
from code_rlm.evaluation.predictions import predict_rows
from code_rlm.evaluation.results import table
from code_rlm.evaluation.shards import is_main_process, to_own_device
from code_rlm.loading import DEFAULT_CHECKPOINT, load

STATISTICS: dict[str, Callable[[Any, Any], float]] = {"spearman": spearman, "kendall": kendall}
ROWS = 1024
LEAST_ROWS = 8


@dataclass
class Measured:
    """One row of the paper, measured.

    Attributes:
        row: Which.
        value, low, high: Its statistic with a bootstrap interval over groups; None where it was not measured.
        rows, groups: Rows scored, and groups among them.
        why: Why it was not measured; empty where it was.
    """

    row: PaperRow
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    groups: int = 0
    why: str = ""

    def cells(self) -> list[str]:
        """Returns the cells of its line in the report."""
        here = "–" if self.value is None else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
        count = f"{self.rows} ({self.groups})" if self.rows else "–"
        return [self.row.label, self.row.statistic, f"{self.row.value:.3f}", here, count, self.why or self.row.note]


@dataclass
class Tables:
    """The published tables of a run: each is opened once.

    Attributes:
        root: Data root; None for the hub.
        split: Split by group; None for all rows.
        seed: Of the split and of the order.
        rows: Rows of each key.
    """

    root: str | None
    split: str | None
    seed: int
    rows: int

    def __post_init__(self) -> None:
        self._found: dict[Any, Dataset | RLMError] = {}
        self.notes: list[str] = []

    def rows_of(self, row: PaperRow, split: str | None = "", limit: int | None = None) -> Dataset:
        """Returns the rows that belong to a row of the paper.

        Raises:
            RLMError: The table cannot be read.
        """
        chosen = self.split if split == "" else split
        key = (row.task, row.spaces, row.languages, row.metric, chosen, limit)
        if key not in self._found:
            try:
                self._read(row, chosen, limit)
            except RLMError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, RLMError):
            raise found
        return found

    def _read(self, row: PaperRow, split: str | None, limit: int | None) -> None:
        """Reads the rows of a row, and in the same pass those of all rows that differ from it in the language alone."""
        alike = [
            r for t in TABLES for r in t.rows if (r.task, r.spaces, r.metric) == (row.task, row.spaces, row.metric)
        ]
        languages = [name for each in alike for name in each.languages] if row.languages else []
        asked: dict[str, Any] = {"spaces": list(row.spaces), "seed": self.seed, "on_error": "skip"}
        asked |= {"languages": languages} if languages else {"metrics": [row.metric]}
        table_: PublishedTable
        table_, options = select(row.task, table_path(PUBLISHED[row.task], self.root), split, **asked)
        count = limit or self.rows

        def language(example: Example) -> str:
            return example.language

        found, counts = sample_rows(table_, options, count, language if languages else None)
        self.notes += counted(counts, f"{row.task} {', '.join(row.spaces)}")
        for each in alike if languages else [row]:
            mine = [example for example in found if not each.languages or example.language in each.languages]
            key = (each.task, each.spaces, each.languages, each.metric, split, limit)
            self._found[key] = to_dataset(mine)


def measure_row(
    row: PaperRow, tables: Tables, model: Any, processor: Any, args: argparse.Namespace, rows: Dataset | None = None
) -> Measured:
    """Measures one row of the paper with a checkpoint.

    Args:
        row: Which.
        tables: Where its rows are.
        model, processor: The checkpoint.
        args: Options of the command.
        rows: Rows to measure on; by default those of the row's table.
    """
    try:
        known = model.config.metric_names()
        if row.metric not in known:
            raise MetricError(f"the checkpoint does not predict {row.metric}")
        rows = tables.rows_of(row) if rows is None else rows
        if len(rows) < LEAST_ROWS:
            raise EvaluationError(f"{len(rows)} rows of the {args.split} split, fewer than {LEAST_ROWS}")
        found = predict_rows(
            model, processor, rows, row.metric, batch_size=args.batch_size, calibrated=not args.uncalibrated
        )
        score = bootstrap_interval(
            STATISTICS[row.statistic], found.target, found.median, groups=found.groups, n=args.resamples, seed=args.seed
        )
        if not math.isfinite(score.value):
            raise EvaluationError(f"predictions or targets of the {len(rows)} rows do not vary")
    except RLMError as error:
        return Measured(row, why=str(error).splitlines()[0])
    groups = len({str(group) for group in rows["group"]})
    return Measured(row, score.value, score.low, score.high, len(found.target), groups)


def few_shot_row(row: PaperRow, tables: Tables, args: argparse.Namespace, cache: dict[Any, Any]) -> Measured:
    """Fine-tunes the checkpoint on a few architectures of the row's space and measures it on others.

    Args:
        row: Which; its `samples` are how many.
        tables: Where its rows are.
        args: Options of the command.
        cache: Fine-tuned checkpoints of this run, by space and samples.
    """
    from code_rlm.evaluation.few_shot import fine_tuned

    if not args.few_shot:
        return Measured(row, why="fine-tuning was not asked for (--few-shot STEPS)")
    try:
        if (found := len(tables.rows_of(row))) < LEAST_ROWS:  # before the work is done
            raise EvaluationError(f"{found} rows of the {args.split} split, fewer than {LEAST_ROWS}")
        key = (row.spaces, row.samples)
        if key not in cache:
            train = tables.rows_of(row, "train", row.samples)
            if len(train) < row.samples:
                raise EvaluationError(f"{len(train)} training rows, {row.samples} are wanted")
            folder = Path(args.out) / "few_shot" / f"{'_'.join(row.spaces)}_{row.samples}"
            source = args.model or str(DEFAULT_CHECKPOINT)
            model, processor = load(fine_tuned(source, train, row.metric, folder, steps=args.few_shot, seed=args.seed))
            to_own_device(model)
            cache[key] = model, processor
        model, processor = cache[key]
    except RLMError as error:
        return Measured(row, why=str(error).splitlines()[0])
    return measure_row(row, tables, model, processor, args)


def evaluate_suite(args: argparse.Namespace) -> Path:
    """Runs `code-rlm evaluate --suite paper` and returns the path of suite.json.

    Raises:
        EvaluationError: Options that do not go with a suite.
    """
    for name in ("task", "data", "metrics", "target_columns"):
        if getattr(args, name):
            raise EvaluationError(f"--suite names its own tables and metrics; leave out --{name.replace('_', '-')}.")
    model, processor = load(args.model)
    to_own_device(model)
    split = None if args.split == "all" else args.split
    tables = Tables(args.data_root, split, args.seed, args.max_rows or ROWS)
    cache: dict[Any, Any] = {}
    measured: dict[str, list[Measured]] = {}
    for each in TABLES:
        measured[each.title] = []
        for row in each.rows:
            if each.needs:
                found = Measured(row, why=each.needs)
            elif row.samples:
                found = few_shot_row(row, tables, args, cache)
            else:
                found = measure_row(row, tables, model, processor, args)
            measured[each.title].append(found)
            if is_main_process() and not each.needs:
                said = found.why or f"{found.value:.3f}"
                print(f"{each.title}, {row.label}: {said}", file=sys.stderr)
    path = Path(args.out) / "suite.json"
    if is_main_process():
        _write(path, measured, tables.notes, args)
    return path


def _write(path: Path, measured: dict[str, list[Measured]], notes: Sequence[str], args: argparse.Namespace) -> None:
    """Writes suite.json and suite.md, and the latter to standard output."""
    source = args.model or f"code-rlm {DEFAULT_CHECKPOINT.name}"
    source = Path(source).name if os.path.isdir(source) else source
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "model": source,
        "date": datetime.date.today().isoformat(),
        "split": args.split,
        "seed": args.seed,
        "few_shot_steps": args.few_shot,
        "tables": {title: [dataclasses.asdict(each) for each in rows] for title, rows in measured.items()},
        "notes": list(dict.fromkeys(notes)),
    }
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = "\n".join(suite_lines(report["model"], args.split, measured, report["notes"])) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    write_markdown(text, sys.stdout)


def suite_lines(model: str, split: str, measured: dict[str, list[Measured]], notes: Sequence[str]) -> list[str]:
    """Returns the report: each table of the paper with what was measured beside."""
    lines = [
        f"# {model} beside the paper",
        "",
        f"Figures of {SOURCE}. Here: rows of the {split} split, by group; in brackets a 95% bootstrap interval over groups. "
        "The paper's splits are random, so that solutions of one problem are on both sides; ours are not.",
    ]
    header = ["", "statistic", "paper", "here", "rows (groups)", "remarks"]
    for each in TABLES:
        rows = measured[each.title]
        lines += ["", f"## {each.title}", "", *([each.about, ""] if each.about else [])]
        lines += table(header, [found.cells() for found in rows])
        both = [found for found in rows if found.value is not None]
        if len(both) > 1:
            paper, here = (
                sum(values) / len(both) for values in zip(*((f.row.value, f.value or 0.0) for f in both), strict=True)
            )
            lines += ["", f"Mean of the {len(both)} measured: paper {paper:.3f}, here {here:.3f}."]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return lines


__all__ = ["Measured", "Tables", "evaluate_suite", "few_shot_row", "measure_row", "suite_lines"]
