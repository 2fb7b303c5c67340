"""Two metrics of several files: which of them no other one beats in both.

    code-rlm pareto nets/ --metrics latency_ms@pixel3 cifar10_valid_accuracy_percent --plot front.png
    code-rlm pareto a.py b.py c.py --metrics peak_memory_bytes cpu_time_ms --format json

Each metric is asked for alone; the registry names the direction. The front is that of the medians. Beside it
stands the probability that a file is best in each metric, from whole distributions (`CodeRegressionPipeline.rank`).

With `--joint` pairs of numbers are drawn as well, the second given the first: p(y1 | x) p(y2 | y1, x). The plot then shows how
the two move together: its ellipses slant, and the JSON has the rank correlation of each file's draws.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from transformers.utils import logging

from code_rlm import cli
from code_rlm.console import quantity, write_csv, write_json, write_table
from code_rlm.errors_rlm import InputError, MetricError
from code_rlm.evaluation.metrics import spearman
from code_rlm.loading import pipeline
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.predict import find_inputs, parse_pairs

COLUMNS = ("file", "on_front", "metric", "value", "unit", "low", "high", "level", "calibrated", "probability_best")


def pareto_front(values: Any, smaller_is_better: Sequence[bool]) -> np.ndarray:
    """Which candidates no other one beats: none is at least as good in both metrics and better in one; bool `(candidates,)`.

    Args:
        values: `(candidates, metrics)`; a NaN is never on the front.
        smaller_is_better: Direction of each metric.
    """
    costs = np.asarray(values, dtype=np.float64) * np.where(smaller_is_better, 1.0, -1.0)
    known = ~np.isnan(costs).any(1)
    front = known.copy()
    for i in np.flatnonzero(known):
        better = (costs <= costs[i]).all(1) & (costs < costs[i]).any(1)
        front[i] = not better[known].any()
    return front


DRAWS = 512


def compare(
    pipe: CodeRegressionPipeline, inputs: Sequence[Any], metrics: Sequence[str], *, joint: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """Predicts two metrics for every input.

    Args:
        pipe: The pipeline.
        inputs: Inputs of any kind that it takes, two at least.
        metrics: Two names.
        joint: Draw pairs of numbers, too, the second given the first.
        **options: Those of `CodeRegressionPipeline.rank`.

    Returns:
        One dict for each input, in their order: `file`, `on_front`, and each metric's entry of `rank`; with `joint` also
        `draws`, pairs of numbers, and `correlation`, Spearman's of these (None where one of them does not vary).

    Raises:
        MetricError: Not two different metrics.
        InputError: Fewer than two inputs.
    """
    if len(metrics) != 2 or metrics[0] == metrics[1]:
        raise MetricError(f"A Pareto front needs two different metrics, got {', '.join(metrics) or 'none'}.")
    if len(inputs) < 2:
        raise InputError(f"A Pareto front needs at least two inputs, got {len(inputs)}.")
    rows: list[dict[str, Any]] = [{} for _ in inputs]
    for metric in metrics:
        for entry in pipe.rank(inputs, metric, **options):
            rows[entry["index"]]["file"] = entry.pop("source")
            rows[entry.pop("index")][metric] = entry
    if joint:
        for row, answer in zip(
            rows, pipe(list(inputs), metrics=list(metrics), num_samples=DRAWS, **options), strict=True
        ):
            by_metric = {entry["metric"]: entry["samples"] for entry in answer}
            row["draws"] = list(zip(*(by_metric[metric] for metric in metrics), strict=True))
            row["correlation"] = _correlation(row["draws"])
    values = np.array([[_number(row[metric]["value"]) for metric in metrics] for row in rows])
    front = pareto_front(values, [pipe.model.config.metric(m).smaller_is_better for m in metrics])
    return [{"file": row.pop("file"), "on_front": bool(on), **row} for row, on in zip(rows, front, strict=True)]


def _number(value: float | str | None) -> float:
    return float("nan") if value is None or value == "failed" else float(value)


def _finite(draws: Sequence[Sequence[Any]]) -> np.ndarray:
    """Returns the pairs that are both finite numbers, `(pairs, 2)`."""
    pairs = np.array([[_number(value) for value in pair] for pair in draws], dtype=np.float64).reshape(-1, 2)
    return pairs[np.isfinite(pairs).all(1)]


def _correlation(draws: Sequence[Sequence[Any]]) -> float | None:
    """Returns Spearman's correlation of pairs; None where one side does not vary."""
    pairs = _finite(draws)
    if len(pairs) < 3 or not np.ptp(pairs, axis=0).all():
        return None
    return round(spearman(*pairs.T), 4)


def draw(rows: Sequence[dict[str, Any]], metrics: Sequence[str], path: Path) -> None:
    """Writes the plot.

    Raises:
        InputError: No row has finite numbers in both metrics.
    """
    from code_rlm.evaluation.plots import pareto_plot

    columns = {k: np.array([[_number(row[m][k]) for m in metrics] for row in rows]) for k in ("value", "low", "high")}
    whole = np.isfinite(np.stack(list(columns.values()))).all((0, 2))
    if not whole.any():
        raise InputError("No file has finite numbers in both metrics; there is nothing to draw.")
    labels = [f"{m} ({unit})" if (unit := rows[0][m]["unit"]) else m for m in metrics]
    ax = pareto_plot(
        columns["value"][whole],
        columns["low"][whole],
        columns["high"][whole],
        [row["on_front"] for row, drawn in zip(rows, whole, strict=True) if drawn],
        [Path(row["file"]).name for row, drawn in zip(rows, whole, strict=True) if drawn],
        labels=(labels[0], labels[1]),
        level=rows[0][metrics[0]]["level"],
        draws=[_finite(row["draws"]) for row, drawn in zip(rows, whole, strict=True) if drawn]
        if "draws" in rows[0]
        else None,
    )
    ax.figure.canvas.print_figure(path, bbox_inches="tight")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `code-rlm pareto` and returns its exit status."""
    return cli.main(["pareto", *(sys.argv[1:] if argv is None else argv)])


def run(args: argparse.Namespace, out: TextIO) -> int:
    """`code-rlm pareto`."""
    if args.plot:
        import code_rlm.evaluation.plots  # noqa: F401  (an error before the work is done)
    context = parse_pairs(args.context, "--context")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    inputs = [Path(path) for path, _ in find_inputs(args.files)]
    pipe = pipeline(args.model)
    options = {"context": context, "interval": args.interval, "calibrated": not args.uncalibrated}
    options |= {"language": args.language, "batch_size": args.batch_size}
    rows = compare(pipe, inputs, args.metrics, joint=args.joint, **options)
    if args.plot:
        draw(rows, args.metrics, Path(args.plot))
    rows = [{name: value for name, value in row.items() if name != "draws"} for row in rows]
    style = args.format or ("table" if out.isatty() else "json")
    write_rows(rows, args.metrics, style, out)
    return 0


def write_rows(rows: Sequence[dict[str, Any]], metrics: Sequence[str], style: str, out: TextIO) -> None:
    """Writes the comparison as a table, JSON or CSV."""
    if style == "json":
        write_json(rows, out)
    elif style == "csv":
        lines = [
            {"file": row["file"], "on_front": row["on_front"], **row[metric]} for row in rows for metric in metrics
        ]
        write_csv(lines, COLUMNS, out)
    else:
        write_front(rows, metrics, out)


def write_front(rows: Sequence[dict[str, Any]], metrics: Sequence[str], out: TextIO) -> None:
    """Writes a table for people: the front first, by the first metric."""
    head = ["", "file"]
    for metric in metrics:
        head += [metric, f"{rows[0][metric]['level']:.0%} interval", "P(best)"]
    lines = []
    for row in sorted(rows, key=lambda r: (not r["on_front"], r[metrics[0]]["rank"])):
        cells = ["*" if row["on_front"] else "", row["file"]]
        for metric in metrics:
            entry = row[metric]
            low, high = quantity(entry["low"], entry["unit"]), quantity(entry["high"], entry["unit"])
            cells += [quantity(entry["value"], entry["unit"]), f"{low} to {high}", f"{entry['probability_best']:.1%}"]
        lines.append(cells)
    write_table(head, lines, out)
    out.write(f"* no other file is better in both; {sum(r['on_front'] for r in rows)} of {len(rows)}\n")


__all__ = ["compare", "main", "pareto_front"]

if __name__ == "__main__":
    sys.exit(main())
