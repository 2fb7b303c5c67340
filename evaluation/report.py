"""From predictions of each row to `report.json` and `report.md`.

    from code_rlm.evaluation.report import Predictions, build_report, write_report

    rows = Predictions(target, median, quantiles={0.05: q05, 0.25: q25, 0.75: q75, 0.95: q95}, groups=problem)
    report = build_report({"leetcode": {"peak_memory_bytes": rows}}, model="code-rlm", date="2026-01-31")
    write_report(report, "runs/evaluation")

Shares are from 0 to 1 in the JSON and percent in the table. Correlations and relative errors of the model carry a
confidence interval from resampled groups (`bootstrap_interval`). A score that the rows do not define is null, and rows
that could not be scored are counted under `excluded`.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from code_rlm.evaluation.metrics import (
    EvaluationError,
    bootstrap_interval,
    central_intervals,
    crps_from_quantiles,
    interval_coverage,
    interval_width,
    kendall,
    log_rmse,
    mape,
    median_ape,
    nll,
    per_group_spearman,
    spearman,
)

SCORES: dict[str, Callable[[Any, Any], float]] = {
    "spearman": spearman,
    "kendall": kendall,
    "mape": mape,
    "median_ape": median_ape,
}
PACKAGES = ("code-rlm", "torch", "transformers", "numpy", "scipy", "scikit-learn")


@dataclass
class Predictions:
    """What a model and the baselines said about the rows of one task and metric.

    Attributes:
        target: True values, `(rows,)`. Where not finite (a program that failed) the row is left out and counted.
        median: The model's point estimates, `(rows,)`. Where NaN (no number predicted) the row is left out and counted.
        quantiles: Quantile level between 0 and 1 to quantiles, `(rows,)` each.
        groups: Name of each row's group, `(rows,)`; each row is its own when not given.
        truncated: Whether the model saw only a part of the row's text, `(rows,)`; none when not given.
        log_probs: Natural logarithm of the probability the model gave to the target, `(rows,)`.
        baselines: Name to predictions, `(rows,)` each.
        uncalibrated: The model's own quantiles by level where `quantiles` are calibrated ones, `(rows,)` each.
        languages: Kind of each row's input, `(rows,)`.
        smaller_is_better: Direction of the metric, for the choice of the best rows.
        seconds_per_row: Time that the predictions took.
    """

    target: Any
    median: Any
    quantiles: Mapping[float, Any] = field(default_factory=dict)
    groups: Sequence[Any] | np.ndarray | None = None
    truncated: Any = None
    log_probs: Any = None
    baselines: Mapping[str, Any] = field(default_factory=dict)
    uncalibrated: Mapping[float, Any] = field(default_factory=dict)
    languages: Any = None
    smaller_is_better: bool = True
    seconds_per_row: float | None = None


def _column(name: str, values: Any, rows: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (rows,):
        raise EvaluationError(f"{name} must have one value a row, `({rows},)`; its shape is {array.shape}")
    return array


def _number(value: float) -> float | None:
    """A float that JSON can hold; None for what it cannot, NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def score_predictions(
    predictions: Predictions, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Scores the predictions of one task and metric.

    Args:
        predictions: The rows.
        level: Coverage of the confidence intervals, between 0 and 1.
        resamples: Bootstrap resamples for each interval.
        seed: Of the resampling.

    Returns:
        A dictionary that JSON can hold:

        - `n`, `groups`: rows scored and groups among them; `excluded`: rows left out, by reason, where there are any;
        - `spearman`, `kendall`, `mape`, `median_ape`: `{"value", "low", "high"}`; `log_rmse`: a number;
        - `within_groups`: `{"spearman", "groups"}`, mean rho inside groups of more than 8 rows and how many there are;
        - `coverage`, `width`: of each central interval that the quantiles form, by its nominal coverage; the width is
          the median of width over |target|; `crps`: mean, where there are quantiles; `nll`: nats, where there are
          log-probabilities;
        - `truncated_share`; `baselines`: name to `spearman`, `kendall`, `mape`, `median_ape`.

    Raises:
        EvaluationError: Columns that do not fit together, or no row that can be scored.
    """
    target = np.asarray(predictions.target, dtype=np.float64)
    if target.ndim != 1:
        raise EvaluationError(f"target must have one dimension, `(rows,)`; its shape is {target.shape}")
    rows = target.size
    median = _column("median", predictions.median, rows).astype(np.float64)
    no_target = ~np.isfinite(target)
    no_prediction = ~no_target & np.isnan(median)
    keep = ~no_target & ~no_prediction
    if not keep.any():
        raise EvaluationError(f"none of the {rows} rows has both a finite target and a prediction")

    def column(name: str, values: Any) -> np.ndarray:
        return _column(name, values, rows)[keep]

    target, median = target[keep], median[keep]
    groups = None if predictions.groups is None else column("groups", predictions.groups)
    entry: dict[str, Any] = {"n": int(keep.sum())}
    entry["groups"] = entry["n"] if groups is None else len(np.unique(groups.astype(str)))
    excluded = {"target_not_finite": int(no_target.sum()), "no_prediction": int(no_prediction.sum())}
    if any(excluded.values()):
        entry["excluded"] = {reason: count for reason, count in excluded.items() if count}
    for name, score in SCORES.items():
        interval = bootstrap_interval(score, target, median, groups=groups, level=level, n=resamples, seed=seed)
        entry[name] = {end: _number(getattr(interval, end)) for end in ("value", "low", "high")}
    entry["log_rmse"] = _number(log_rmse(target, median))
    if groups is not None:
        inside = per_group_spearman(target, median, groups).values
        entry["within_groups"] = {"spearman": float(inside.mean()) if inside.size else None, "groups": inside.size}
    quantiles = {
        float(q): column(f"quantile {q}", values).astype(np.float64) for q, values in predictions.quantiles.items()
    }
    entry["coverage"], entry["width"] = {}, {}
    for nominal, (low, high) in central_intervals(quantiles).items():
        entry["coverage"][f"{nominal:g}"] = interval_coverage(target, quantiles[low], quantiles[high])
        entry["width"][f"{nominal:g}"] = _number(interval_width(quantiles[low], quantiles[high], target))
    if quantiles:
        levels = sorted(quantiles)
        values = np.stack([quantiles[q] for q in levels], axis=1)
        finite = np.isfinite(values).all()
        entry["crps"] = _number(crps_from_quantiles(target, values, levels).mean()) if finite else None
    if predictions.log_probs is not None:
        entry["nll"] = _number(nll(column("log_probs", predictions.log_probs)))
    truncated = np.zeros(rows) if predictions.truncated is None else predictions.truncated
    entry["truncated_share"] = float(column("truncated", truncated).astype(bool).mean())
    entry["baselines"] = {}
    for name, values in predictions.baselines.items():
        prediction = column(f"baseline {name}", values)
        entry["baselines"][name] = {key: _number(score(target, prediction)) for key, score in SCORES.items()}
    return entry


def build_report(
    tasks: Mapping[str, Mapping[str, Predictions]],
    *,
    model: str,
    date: str,
    versions: Mapping[str, str] | None = None,
    hardware: str | None = None,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores all tasks.

    Args:
        tasks: Task to metric to predictions.
        model: Name or folder of the checkpoint.
        date: Day of the evaluation, as in `2026-01-31`.
        versions: Package to version; those installed here when not given.
        hardware: What the model ran on; this machine when not given.
        level: Coverage of the confidence intervals.
        resamples: Bootstrap resamples for each interval.
        seed: Of the resampling.

    Returns:
        `{"tasks": {task: {metric: score_predictions(...)}}, "model", "versions", "hardware", "date", "level",
        "resamples", "seed"}`.

    Raises:
        EvaluationError: Predictions that cannot be scored; the message names task and metric.
    """
    scored: dict[str, dict[str, Any]] = {}
    for task, metrics in tasks.items():
        scored[task] = {}
        for metric, predictions in metrics.items():
            try:
                scored[task][metric] = score_predictions(predictions, level=level, resamples=resamples, seed=seed)
            except EvaluationError as error:
                raise EvaluationError(f"task {task!r}, metric {metric!r}: {error}") from error
    return {
        "tasks": scored,
        "model": model,
        "versions": dict(installed_versions() if versions is None else versions),
        "hardware": this_hardware() if hardware is None else hardware,
        "date": date,
        "level": level,
        "resamples": resamples,
        "seed": seed,
    }


def installed_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and of those of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def this_hardware() -> str:
    """Names the GPU if torch sees one, else the processor and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names: list[str] = []
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _text(value: float | None, percent: bool = False) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if percent else f"{value:.3f}"


def _with_interval(score: Mapping[str, float | None], percent: bool = False) -> str:
    value, low, high = (_text(score[end], percent) for end in ("value", "low", "high"))
    return value if score["low"] is None or score["high"] is None else f"{value} ({low} to {high})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        # A bar inside a cell would start another one.
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in rows)]


def report_markdown(report: Mapping[str, Any]) -> str:
    """Writes a report of `build_report` as Markdown: a table of the model's scores and one beside the baselines.

    Args:
        report: As built, or as read back from `report.json`.

    Returns:
        The text, ending in a newline.
    """
    entries = [(task, metric, entry) for task, metrics in report["tasks"].items() for metric, entry in metrics.items()]
    nominals = sorted({nominal for _, _, entry in entries for nominal in entry["coverage"]}, key=float)
    header = ["task", "metric", "rows (groups)", "Spearman", "Kendall", "MAPE", "median APE"]
    header += [f"in {float(nominal):.0%} interval" for nominal in nominals] + ["truncated"]
    scores, beside, notes = [], [], []
    for task, metric, entry in entries:
        row = [task, metric, f"{entry['n']} ({entry['groups']})"]
        row += [_with_interval(entry[name], percent=name.endswith("ape")) for name in SCORES]
        row += [_text(entry["coverage"].get(nominal), percent=True) for nominal in nominals]
        scores.append([*row, _text(entry["truncated_share"], percent=True)])
        if entry["baselines"]:
            own = {name: entry[name]["value"] for name in SCORES}
            for predictor, values in {"**this model**": own, **entry["baselines"]}.items():
                cells = [_text(values[name], percent=name.endswith("ape")) for name in SCORES]
                beside.append([task, metric, predictor, *cells])
        for reason, count in entry.get("excluded", {}).items():
            notes.append(f"- {task}, {metric}: {count} rows left out ({reason.replace('_', ' ')}).")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"# Evaluation of {report['model']}", "", f"{report['date']}, {report['hardware']}; {versions}.", ""]
    lines += [
        f"In brackets: {report['level']:.0%} confidence intervals, {report['resamples']} resamples of whole groups.",
        "",
        *_table(header, scores),
    ]
    if beside:
        lines += ["", "## Beside simple regressors", ""]
        lines += _table(["task", "metric", "predictor", "Spearman", "Kendall", "MAPE", "median APE"], beside)
    if notes:
        lines += ["", "## Rows left out", "", *notes]
    return "\n".join(lines) + "\n"


def write_report(report: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Writes `report.json` and `report.md` into a folder, made if need be, and returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    as_json, as_markdown = folder / "report.json", folder / "report.md"
    as_json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    as_markdown.write_text(report_markdown(report), encoding="utf-8")
    return as_json, as_markdown


__all__ = [
    "SCORES",
    "Predictions",
    "build_report",
    "installed_versions",
    "report_markdown",
    "score_predictions",
    "this_hardware",
    "write_report",
]
