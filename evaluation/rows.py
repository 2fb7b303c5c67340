"""Which rows `evaluate` and `calibrate` read: the tables behind their options."""

import argparse
from pathlib import Path

import numpy as np
from datasets import Dataset

from code_rlm.configuration_rlm import RLMConfig
from code_rlm.data.published import PUBLISHED, read_published
from code_rlm.data.readers import TASKS, read_task
from code_rlm.data.tables import read_table
from code_rlm.evaluation.metrics import EvaluationError

# Computed from an architecture rather than measured: numbers to compare with, not to predict where nobody asks.
COMPUTED = ("flops_count", "params_count")
# Rows of a published table, which are too many to read all, where no number is given.
STREAMED_ROWS = 1024


def table_names(args: argparse.Namespace) -> list[str]:
    """The tables asked for.

    Raises:
        EvaluationError: Neither tasks nor a file, or both.
    """
    if bool(args.task) == bool(args.data):
        raise EvaluationError("Give either --task NAMES with --data-root, or --data FILE with its columns.")
    for option in ("task", "target_columns", "metrics"):
        given = getattr(args, option) or []
        if repeated := sorted({name for name in given if given.count(name) > 1}):
            raise EvaluationError(f"--{option.replace('_', '-')} names {', '.join(repeated)} more than once.")
    return args.task or [args.data]


def read_rows(
    name: str, args: argparse.Namespace, split: str, limit: int | None, data_root: str | None = None
) -> Dataset:
    """Rows of one split of a table, at most `limit`.

    Args:
        name: Task, or the file of `--data`.
        args: Options of the command.
        split: `all` for every row.
        limit: None for no limit; of published tables, 1,024.
        data_root: Another folder than that of `--data-root`; for a file another file.

    Raises:
        DataError: A bad file; the message names file, row and column.
    """
    part = None if split == "all" else split
    if name in PUBLISHED:
        wanted = {"spaces": args.spaces, "languages": args.languages, "metrics": args.metrics}
        return read_published(
            name, data_root or args.data_root, part, limit=limit or STREAMED_ROWS, seed=args.seed, **wanted
        )
    if args.spaces or args.languages:
        raise EvaluationError(f"--spaces and --languages choose rows of {', '.join(PUBLISHED)}; {name} has none.")
    if args.task:
        task, asked = TASKS.get(name), (*COMPUTED, *(args.metrics or ()))
        metrics = None
        if task is not None:
            metrics = [*task.metrics, *task.former, *(m for m in task.extra_metrics if m in asked)]
        return read_task(name, data_root or args.data_root, part, metrics=metrics, seed=args.seed, limit=limit)
    rows = read_table(
        data_root or args.data,
        text_column=args.text_column,
        target_columns=args.target_columns,
        group_column=args.group_column,
        language_column=args.language_column,
        language=args.language,
        context_columns=args.context_columns,
        split=part,
        seed=args.seed,
    )
    if limit is None or len(rows) <= limit:
        return rows
    return rows.select(np.sort(np.random.default_rng(args.seed).permutation(len(rows))[:limit]))


def measured(rows: Dataset, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the rows that have a value of the metric, and the values."""
    index, values = [], []
    for i, (names, numbers) in enumerate(zip(rows["metrics"], rows["values"], strict=True)):
        if metric in names and numbers[names.index(metric)] is not None:
            index.append(i)
            values.append(numbers[names.index(metric)])
    return np.array(index, dtype=np.int64), np.array(values, dtype=np.float64)


def wanted_metrics(config: RLMConfig, rows: Dataset, name: str, args: argparse.Namespace) -> list[str]:
    """The metrics to work on: those asked for, or all that the model knows and the rows have.

    Raises:
        EvaluationError: A metric that no row has, or none that both know.
        MetricError: A metric that the model does not know.
    """
    if not len(rows):
        raise EvaluationError(
            f"{name}: the {args.split} split has no rows; choose another with --split, or --split all."
        )
    present = sorted({m for names in rows["metrics"] for m in names})
    secondary = TASKS[name].extra_metrics if name in TASKS else ()
    wanted = args.metrics or [m for m in config.metric_names() if m in present and m not in secondary]
    if not wanted:
        raise EvaluationError(
            f"The model predicts none of the metrics of {name}: {', '.join(present)}. It knows: "
            f"{', '.join(config.metric_names()) or 'none'}."
        )
    for metric in wanted:
        if metric not in present:
            raise EvaluationError(f"{name} has no {metric}; it has {', '.join(present)}.")
        config.metric(metric)
        if not len(measured(rows, metric)[0]):
            raise EvaluationError(f"{name}: no row of the {args.split} split has a value of {metric}.")
    return list(wanted)


def table_title(name: str) -> str:
    """How reports call a table: the task, or the file's name."""
    return Path(name).name


__all__ = ["measured", "read_rows", "table_names", "table_title", "wanted_metrics"]
