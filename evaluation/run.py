"""Measures a checkpoint on held-out groups, with baselines fitted on the training split of the same table.

    code-rlm evaluate --task bhive_zen4 tritonbench --data-root DATA --out report
    code-rlm evaluate --model runs/mine/final --data mine.parquet --text-column code --target-columns latency_ms \\
        --group-column problem --language python --out report
    code-rlm evaluate --task bhive_zen4 --data-root NEW --split all --train-data-root DATA --out report
    accelerate launch --num_processes 4 -m code_rlm evaluate --task bhive_zen4 --data-root DATA --out report

Writes report.json and report.md to the folder, and plots where matplotlib is installed. Under `accelerate launch` the rows
are shared out over the processes, and the report is the same.
"""

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from code_rlm import cli
from code_rlm.console import write_markdown
from code_rlm.errors_rlm import RLMError
from code_rlm.evaluation.baselines import BASELINES, fit_predict, fit_predict_numbers
from code_rlm.evaluation.metrics import EvaluationError
from code_rlm.evaluation.predictions import predict_rows, seen_text
from code_rlm.evaluation.report import Predictions, build_report, write_report
from code_rlm.evaluation.rows import (
    COMPUTED,
    measured,
    read_rows,
    table_names,
    table_title,
    wanted_metrics,
)
from code_rlm.evaluation.shards import is_main_process, to_own_device
from code_rlm.loading import DEFAULT_CHECKPOINT, load


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `code-rlm evaluate` and returns its exit status."""
    return cli.main(["evaluate", *(sys.argv[1:] if argv is None else argv)])


def evaluate(args: argparse.Namespace) -> Path:
    """Runs an evaluation and returns the path of report.json, written by the main process."""
    logging.disable_progress_bar()
    names = table_names(args)
    wanted_baselines(args)
    model, processor = load(args.model)
    to_own_device(model)
    tasks: dict[str, dict[str, Predictions]] = {}
    training_rows: dict[str, int] = {}
    notes: list[str] = []
    for name in names:
        title = table_title(name)
        rows = read_rows(name, args, args.split, args.max_rows)
        metrics = wanted_metrics(model.config, rows, name, args)
        tasks[title] = {}
        for metric in metrics:
            try:
                found = predict_rows(
                    model, processor, rows, metric, batch_size=args.batch_size, calibrated=not args.uncalibrated
                )
            except RLMError as error:
                raise type(error)(f"{name}, {args.split} split: {error}") from None
            tasks[title][metric] = found
            if is_main_process():
                print(f"{title}, {metric}: {speed(found)}", file=sys.stderr)
            notes += [f"{title}, {metric}: {note}" for note in odd(found)]
        if is_main_process() and wanted_baselines(args):
            train, why = rows_to_fit(name, args, rows)
            training_rows[title] = len(train)
            notes += [f"{title}: {note}" for note in why]
            for metric, found in tasks[title].items():
                found.baselines = fit_baselines(train, rows, metric, args)
                if len(train) and not found.baselines:
                    notes.append(f"{title}, {metric}: no training row has a value, so there are no baselines.")
    path = Path(args.out) / "report.json"
    if not is_main_process():
        return path
    source = args.model or f"code-rlm {DEFAULT_CHECKPOINT.name}"
    source = Path(source).name if os.path.isdir(source) else source
    report = build_report(
        tasks,
        model=source,
        date=datetime.date.today().isoformat(),
        seed=args.seed,
        resamples=args.resamples,
        notes=notes,
    )
    report |= {"split": args.split, "rows_baselines_were_fitted_on": training_rows}
    path, readable = write_report(report, args.out)
    draw(tasks, args.out)
    write_markdown(readable.read_text(encoding="utf-8"), sys.stdout)
    return path


def draw(tasks: dict[str, dict[str, Predictions]], folder: str) -> None:
    """Writes the plots beside the report, where matplotlib is installed."""
    try:
        from code_rlm.evaluation.plots import report_plots
    except ImportError as error:
        print(f"code-rlm evaluate: no plots, as {error}", file=sys.stderr)
        return
    written = report_plots(tasks, folder)
    print(f"{len(written)} plots are in {folder}", file=sys.stderr)


def speed(found: Predictions) -> str:
    """How many rows were predicted and, where it is known, the time of each."""
    count = f"{len(found.target)} rows"
    return count if found.seconds_per_row is None else f"{count}, {1e3 * found.seconds_per_row:.1f} ms each"


def odd(found: Predictions) -> list[str]:
    """What makes scores of these rows undefined or loose."""
    target, notes = found.target, []
    if len(target) == 1:
        notes.append("one row; nothing can be ranked.")
    elif np.ptp(target) == 0:
        notes.append(f"all {len(target)} targets are {target[0]:g}; nothing can be ranked.")
    if len(target) > 1 and found.groups is not None and len(np.unique(found.groups)) == 1:
        notes.append("all rows are of one group; there are no confidence intervals.")
    if found.unfamiliar is not None and (share := float(np.mean(found.unfamiliar > 0))):
        notes.append(
            f"{share:.1%} of the rows are unlike the training rows: predict answers them by a fallback, in part or whole; the "
            "scores here are the model's without it."
        )
    if found.bounded is not None and (share := float(np.mean(found.bounded))):
        notes.append(
            f"{share:.1%} of the intervals begin below a lower bound, at which predict cuts them; here they are not cut."
        )
    return notes


def rows_to_fit(name: str, args: argparse.Namespace, rows: Dataset) -> tuple[Dataset, list[str]]:
    """Rows to fit baselines on, none of a group that is evaluated; and what a reader must know of them."""
    if args.train_data_root is None and args.split in ("all", "train"):
        reason = f"the rows evaluated are those of {'every split' if args.split == 'all' else 'the training split'}"
        return rows.select([]), [f"no baselines, as {reason}; name others with --train-data-root."]
    train = read_rows(name, args, "train", args.train_rows, args.train_data_root)
    evaluated = set(rows["group"])
    apart = [i for i, group in enumerate(train["group"]) if group not in evaluated]
    notes = []
    if len(apart) < len(train):
        notes.append(f"{len(train) - len(apart)} training rows left out of the baselines: their groups are evaluated.")
    if not apart:
        notes.append("no training rows, so there are no baselines; name some with --train-data-root.")
    return train.select(apart), notes


def fit_baselines(train: Dataset, rows: Dataset, metric: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Predictions of every baseline for the rows that have the metric; none where no training row has it."""
    fit_index, fit_values = measured(train, metric)
    if not len(fit_index):
        return {}
    index, _ = measured(rows, metric)
    fit_rows, rows = train.select(fit_index), rows.select(index)
    fit_texts, texts = [seen_text(r) for r in fit_rows], [seen_text(r) for r in rows]
    found = {
        name: fit_predict(name, fit_texts, fit_values, texts, groups=fit_rows["group"], seed=args.seed)
        for name in usable(wanted_baselines(args), fit_rows)
    }
    for number in COMPUTED:
        known, asked = numbers_of(fit_rows, number), numbers_of(rows, number)
        if number != metric and not (np.isnan(known).all() or np.isnan(asked).all()):
            found[number.removesuffix("_count")] = fit_predict_numbers(known, fit_values, asked, seed=args.seed)
    return found


def numbers_of(rows: Dataset, metric: str) -> np.ndarray:
    """Values of a metric, NaN where a row has none; float64 `(rows,)`."""
    index, values = measured(rows, metric)
    column = np.full(len(rows), np.nan)
    column[index] = values
    return column


def wanted_baselines(args: argparse.Namespace) -> list[str]:
    """Returns the baselines asked for, all by default.

    Raises:
        EvaluationError: A name that is none of them.
    """
    if args.baselines is None:
        return list(BASELINES)
    for name in args.baselines:
        if name not in BASELINES:
            raise EvaluationError(f"There is no baseline {name}; choose of {', '.join(BASELINES)}.")
    return list(args.baselines)


def usable(names: Sequence[str], rows: Dataset) -> list[str]:
    """Leaves out the context-only baseline where rows have no context to read."""
    has_context = any(rows["context"])
    return [n for n in names if n != "context_only" or has_context]


if __name__ == "__main__":
    sys.exit(main())
