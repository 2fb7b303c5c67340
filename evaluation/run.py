"""Measures a checkpoint on held-out groups, with baselines fitted on the same training split.

    code-rlm evaluate --task bhive_zen4 tritonbench --data-root DATA --out report
    code-rlm evaluate --model runs/mine/final --data mine.parquet --text-column code --target-columns latency_ms \\
        --group-column problem --language python --out report

Writes report.json and report.md to the folder.
"""

import argparse
import datetime
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from code_rlm.data.external import generic
from code_rlm.data.readers import read_task
from code_rlm.errors_rlm import RLMError
from code_rlm.evaluation.baselines import BASELINES, fit_predict
from code_rlm.evaluation.metrics import EvaluationError
from code_rlm.evaluation.predictions import predict_rows, seen_text
from code_rlm.evaluation.report import Predictions, build_report, write_report
from code_rlm.evaluation.rows import measured
from code_rlm.loading import DEFAULT_CHECKPOINT, load


def build_parser() -> argparse.ArgumentParser:
    """The argument parser of `code-rlm evaluate`."""
    parser = argparse.ArgumentParser(
        "code-rlm evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="checkpoint folder or hub id; by default the weights that ship")
    parser.add_argument("--task", nargs="+", default=[], metavar="NAME", help="tasks of data/readers.py")
    parser.add_argument("--data-root", help="folder of the tasks' tables")
    parser.add_argument("--data", metavar="FILE", help="a table of your own: CSV, JSONL, parquet, hub id")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--target-columns", nargs="+", default=[], help="columns named as the metrics are")
    parser.add_argument("--group-column")
    parser.add_argument("--language-column")
    parser.add_argument("--language", help="kind of input of every row, where no column tells")
    parser.add_argument("--context-columns", nargs="*", default=[])
    parser.add_argument(
        "--metrics", nargs="+", help="only these; by default all that the model knows and the rows have"
    )
    parser.add_argument("--split", default="test", help="split of the rows to predict [test]")
    parser.add_argument("--max-rows", type=int, help="at most so many rows of each task")
    parser.add_argument(
        "--train-rows", type=int, default=10_000, help="at most so many rows to fit baselines on [10000]"
    )
    parser.add_argument("--baselines", nargs="*", default=list(BASELINES), choices=BASELINES, metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0, help="of the split, of row limits and of the bootstrap")
    parser.add_argument("--out", required=True, help="folder for report.json and report.md")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line; 2 and one line on unusable arguments or data."""
    args = build_parser().parse_args(argv)
    logging.disable_progress_bar()
    try:
        evaluate(args)
    except (RLMError, ImportError) as error:
        print(f"code-rlm evaluate: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(args: argparse.Namespace) -> Path:
    """Runs an evaluation and returns the path of report.json."""
    if bool(args.task) == bool(args.data):
        raise EvaluationError("Give either --task NAMES with --data-root, or --data FILE with its columns.")
    model, tokenizer = load(args.model)
    tasks: dict[str, dict[str, Predictions]] = {}
    training_rows: dict[str, int] = {}
    for name in args.task or [args.data]:
        train, test = read_rows(name, args)
        training_rows[Path(name).name] = len(train)
        present = sorted({m for names in test["metrics"] for m in names})
        wanted = args.metrics or [m for m in model.config.metric_names() if m in present]
        if missing := [m for m in wanted if m not in present]:
            raise EvaluationError(f"{name} has no {', '.join(missing)}; it has {', '.join(present)}.")
        for metric in wanted:
            model.config.metric(metric)
            if not len(measured(test, metric)[0]):
                raise EvaluationError(f"{name}: no row of the {args.split} split has a value of {metric}.")
            if not len(measured(train, metric)[0]) and args.baselines:
                raise EvaluationError(
                    f"{name}: no row of the train split has a value of {metric} to fit baselines on; pass --baselines with "
                    "no name for none."
                )
        if not wanted:
            raise EvaluationError(f"The model predicts none of the metrics of {name}: {', '.join(present)}.")
        tasks[Path(name).name] = {m: score(model, tokenizer, train, test, m, args) for m in wanted}
    source = args.model or f"code-rlm {DEFAULT_CHECKPOINT.name}"
    source = Path(source).name if os.path.isdir(source) else source
    report = build_report(tasks, model=source, date=datetime.date.today().isoformat(), seed=args.seed)
    report |= {"split": args.split, "rows_baselines_were_fitted_on": training_rows}
    path, readable = write_report(report, args.out)
    print(readable.read_text())
    return path


def read_rows(name: str, args: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Training rows for the baselines and rows to predict, at most as many as asked for."""
    if args.task:

        def read(split: str, limit: int | None) -> Dataset:
            return read_task(name, args.data_root, split, seed=args.seed, limit=limit)

        return read("train", args.train_rows), read(args.split, args.max_rows)
    parts = [
        generic(
            args.data,
            text_column=args.text_column,
            target_columns=args.target_columns,
            group_column=args.group_column,
            language_column=args.language_column,
            language=args.language,
            context_columns=args.context_columns,
            split=split,
            seed=args.seed,
        )
        for split in ("train", args.split)
    ]
    limits = (args.train_rows, args.max_rows)
    return tuple(_limited(rows, limit, args.seed) for rows, limit in zip(parts, limits, strict=True))


def _limited(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    if limit is None or len(rows) <= limit:
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit]))


def score(model, tokenizer, train: Dataset, test: Dataset, metric: str, args: argparse.Namespace) -> Predictions:
    """Predictions of the model and of every baseline for one metric."""
    began = time.perf_counter()
    found = predict_rows(model, tokenizer, test, metric, batch_size=args.batch_size)
    seconds = time.perf_counter() - began
    print(f"{metric}: {len(found.target)} rows, {1e3 * seconds / len(found.target):.1f} ms each", file=sys.stderr)
    fit_index, fit_values = measured(train, metric)
    index, _ = measured(test, metric)
    fit_rows, rows = train.select(fit_index), test.select(index)
    fit_texts, texts = [seen_text(r) for r in fit_rows], [seen_text(r) for r in rows]
    found.baselines = {
        name: fit_predict(name, fit_texts, fit_values, texts, groups=fit_rows["group"], seed=args.seed)
        for name in _usable(args.baselines, fit_rows)
    }
    return found


def _usable(names: Sequence[str], rows: Dataset) -> list[str]:
    """Leaves out the context-only baseline where rows have no context to read."""
    has_context = any(rows["context"])
    return [n for n in names if n != "context_only" or has_context]


if __name__ == "__main__":
    sys.exit(main())
