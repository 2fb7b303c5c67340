"""Familiarity of held-out rows and of foreign ones, and what intervals hold on both.

    python benchmarks/familiarity.py --data-root DATA --unfamiliar measured.parquet

For every task whose training rows the checkpoint describes: the share of test rows below the threshold, the area under the ROC
curve of familiarity between its test rows and the rows of each other source (other tasks, and the sources of `--unfamiliar`,
a table of measured programs in the schema of `code_rlm.data`), and the share of values in 90% intervals. Of the foreign
programs also with the novelty pool left out, and the median ratio of an interval's ends.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata

import code_rlm
from code_rlm.data.readers import TASKS, read_task
from code_rlm.familiarity_rlm import UNFAMILIAR, Familiarity

ROWS = 100


def area_under_roc(low: np.ndarray, high: np.ndarray) -> float:
    """Probability that a value of `high` is above one of `low`, ties counted half."""
    ranks = rankdata(np.concatenate([low, high]))
    return float((ranks[len(low) :].sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))


def familiarities(
    pipe: code_rlm.CodeRegressionPipeline, familiarity: Familiarity, rows: Sequence[Mapping], metric: str
) -> np.ndarray:
    """Familiarity of rows with the training rows of a metric, `(rows,)`; 0 where the metric has none of their language."""
    inputs = [{"text": row["text"], "language": row["language"], "context": row["context"]} for row in rows]
    return np.array([answer[0].get("familiarity", np.nan) for answer in pipe(inputs, metrics=[metric])])


def held(pipe: code_rlm.CodeRegressionPipeline, rows: Sequence[Mapping], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Whether each value lies in its 90% interval, and the ratio of the interval's ends, `(rows,)` each."""
    inputs = [{"text": row["text"], "language": row["language"], "context": row["context"]} for row in rows]
    values = np.array([row["values"][row["metrics"].index(metric)] for row in rows], dtype=float)
    answers = [answer[0] for answer in pipe(inputs, metrics=[metric])]
    low = np.array([answer["low"] for answer in answers], dtype=float)
    high = np.array([answer["high"] for answer in answers], dtype=float)
    return (low <= values) & (values <= high), high / np.maximum(low, 1e-12)


def rows_with(rows: Sequence[Mapping], metric: str) -> list[Mapping]:
    """Rows that have a value of a metric."""
    return [r for r in rows if metric in r["metrics"] and r["values"][r["metrics"].index(metric)] is not None]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder of the tasks' tables")
    parser.add_argument("--unfamiliar", help="measured programs, in the schema")
    parser.add_argument("--model", help="checkpoint; by default the weights that ship")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of each source [100]")
    args = parser.parse_args()
    pipe = code_rlm.pipeline(args.model)
    familiarity = pipe.model.config.fitted.familiarity
    test: dict[str, list[Mapping]] = {}
    metric_of: dict[str, str] = {}
    for task in TASKS:
        known = [name for name in TASKS[task].metrics if name in familiarity.metrics]
        if known and (TASKS[task].ships or (Path(args.data_root) / TASKS[task].file).exists()):
            root = None if TASKS[task].ships else args.data_root
            test[task] = list(read_task(task, root, "test", limit=args.rows))
            metric_of[task] = known[0]
    foreign: dict[str, list[Mapping]] = {}
    if args.unfamiliar:
        for row in pq.read_table(args.unfamiliar).to_pylist():
            foreign.setdefault(row["source"], []).append(row)
    foreign = {source: rows[: args.rows] for source, rows in foreign.items()}

    print(
        "| task | below .05 | in 90% interval | ends' ratio | area under ROC against each other source, least and median |"
    )
    print("|---|---|---|---|---|")
    for task, metric in metric_of.items():
        own = familiarities(pipe, familiarity, test[task], metric)
        areas = {}
        for source, rows in {**test, **foreign}.items():
            if source != task and not _shares_rows(task, source):
                areas[source] = area_under_roc(familiarities(pipe, familiarity, rows, metric), own)
        inside, ratio = held(pipe, rows_with(test[task], metric), metric)
        least = min(areas, key=areas.__getitem__)
        print(
            f"| {task}, {metric} | {(own < UNFAMILIAR).mean():.1%} | {inside.mean():.0%} | {np.median(ratio):.2f} | "
            f"{areas[least]:.3f} ({least}), {np.median(list(areas.values())):.3f} |",
            flush=True,
        )
    if not foreign:
        return
    print("\n| metric | source | rows | in 90% interval, without the pool | with it | ends' ratio without | with |")
    print("|---|---|---|---|---|---|---|")
    for metric in ("peak_rss_bytes", "cpu_time_ms"):
        for source, rows in foreign.items():
            chosen = rows_with(rows, metric)
            after, wide = held(pipe, chosen, metric)
            pools = familiarity.pools
            familiarity.pools = {name: replace(pool, weight=0.0) for name, pool in pools.items()}
            before, narrow = held(pipe, chosen, metric)
            familiarity.pools = pools
            print(
                f"| {metric} | {source} | {len(chosen)} | {before.mean():.0%} | {after.mean():.0%} | "
                f"{np.median(narrow):.1f} | {np.median(wide):.1f} |",
                flush=True,
            )


def _shares_rows(task: str, source: str) -> bool:
    """Whether two tasks are tables of the same networks or programs."""
    return task.partition("_")[0] == source.partition("_")[0]


if __name__ == "__main__":
    main()
