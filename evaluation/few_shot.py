"""Fine-tuning a checkpoint on a few measured rows, its encoder frozen, and what it forgets of other tables.

    python -m code_rlm.evaluation.few_shot --task nasbench101 --data-root DATA --samples 16 100 1000 \\
        --remember bhive_zen4 nasbench201 --steps 200 --out forgetting.md

The decoder alone is trained, by Adafactor at 5e-5 (arXiv 2509.26476, section 4). The table has, for each number of samples, the
statistic on the task's test split, and on the test split of each task of `--remember` before and after.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers.utils import logging

from code_rlm.data.readers import read_task
from code_rlm.evaluation.metrics import kendall, spearman
from code_rlm.evaluation.predictions import predict_rows
from code_rlm.evaluation.results import table
from code_rlm.evaluation.rows import measured
from code_rlm.loading import load

LEARNING_RATE = 5e-5


def fine_tuned(
    source: str,
    rows: Dataset,
    metric: str,
    folder: Path,
    *,
    steps: int = 300,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> Path:
    """Fine-tunes a checkpoint on rows of the schema, all of them, and returns the folder of the result.

    Args:
        source: Checkpoint folder or hub id; its encoder stays as it is.
        rows: Rows in the schema.
        metric: The metric to learn.
        folder: Where the run goes.
        steps: Optimiser steps.
        learning_rate: Peak learning rate.
        seed: Of the run.
    """
    from code_rlm.train import train
    from code_rlm.training.options import make_options

    folder.mkdir(parents=True, exist_ok=True)
    index, values = measured(rows, metric)
    chosen = rows.select(index)
    columns: dict[str, list[Any]] = {name: list(chosen[name]) for name in ("text", "language", "group")}
    contexts = [dict(line.split(": ", 1) for line in lines) for lines in chosen["context"]]
    keys = list(dict.fromkeys(key for context in contexts for key in context))
    for key in keys:
        columns[key] = [context.get(key) for context in contexts]
    Dataset.from_dict({**columns, metric: values.tolist()}).to_parquet(folder / "rows.parquet")
    entry = {
        "file": str(folder / "rows.parquet"),
        "target_columns": [metric],
        "group_column": "group",
        "language_column": "language",
        "context_columns": keys,
        "validation": 0,
        "test": 0,
    }
    model, _ = load(source)
    options = make_options(
        out=str(folder / "run"),
        seed=seed,
        data={
            "sources": [entry],
            "max_tokens": model.config.max_input_tokens_of(metric),
            "max_objectives": 1,
            "batch_tokens": 16_384,
        },
        model={"init": source, "freeze_encoder": True},
        optimizer={"name": "adafactor", "learning_rate": learning_rate, "clip": 2.0, "weight_decay": 0.0},
        schedule={"steps": steps, "warmup": 0.1},
        checkpointing={"every": steps, "keep": 1},
        evaluation={"every": steps},
        logging={"every": steps},
    )
    return train(options)


def _score(folder: str | Path, rows: Dataset, metric: str) -> tuple[float, float]:
    """Returns Spearman's rho and Kendall's tau of a checkpoint's medians."""
    model, processor = load(folder)
    found = predict_rows(model, processor, rows, metric, calibrated=False)
    return spearman(found.target, found.median), kendall(found.target, found.median)


def forgetting(
    source: str,
    task: str,
    metric: str,
    samples: Sequence[int],
    remember: Sequence[tuple[str, str]],
    out: Path,
    *,
    data_root: str | None,
    steps: int,
    rows: int,
    seed: int = 0,
) -> list[str]:
    """Returns the table of what a task gains and others lose by fine-tuning on some of its rows.

    Args:
        source: The checkpoint.
        task, metric: What it is fine-tuned on.
        samples: Numbers of training rows.
        remember: Pairs of a task and a metric that it knew before.
        out: Folder of the runs.
        data_root: Folder of the tables.
        steps: Optimiser steps of each run.
        rows: Test rows of each table.
        seed: Of draws and runs.
    """
    tests = {(name, asked): read_task(name, data_root, "test", metrics=[asked], limit=rows) for name, asked in remember}
    target = read_task(task, data_root, "test", metrics=[metric], limit=rows)
    header = ["trained on", f"{task}: rho", "tau", *(f"{name}: rho" for name, _ in remember)]
    lines = []
    for count in (0, *samples):
        folder: str | Path = source
        if count:
            train = read_task(task, data_root, "train", metrics=[metric], limit=count, seed=seed)
            folder = fine_tuned(source, train, metric, out / f"{task}_{count}", steps=steps, seed=seed)
        cells = [f"{value:.3f}" for value in _score(folder, target, metric)]
        cells += [f"{_score(folder, rows_, asked)[0]:.3f}" for (_, asked), rows_ in tests.items()]
        lines.append([str(count) if count else "nothing", *cells])
        print(*lines[-1], file=sys.stderr, flush=True)
    return table(header, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint to fine-tune")
    parser.add_argument("--task", required=True, help="task to fine-tune on")
    parser.add_argument("--metric", default="cifar10_valid_accuracy_percent", help="its metric")
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 100, 1000], help="training rows")
    parser.add_argument("--remember", nargs="*", default=[], metavar="TASK:METRIC", help="what it must not forget")
    parser.add_argument("--data-root", help="folder of the tables")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of each run")
    parser.add_argument("--rows", type=int, default=200, help="test rows of each table")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; the table is OUT/forgetting.md")
    args = parser.parse_args(argv)
    logging.disable_progress_bar()
    pairs = [tuple(each.split(":", 1)) for each in args.remember]
    lines = forgetting(
        args.model, args.task, args.metric, args.samples, pairs, args.out,
        data_root=args.data_root, steps=args.steps, rows=args.rows,
    )  # fmt: skip
    (args.out / "forgetting.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["fine_tuned", "forgetting"]
