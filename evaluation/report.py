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
from functools import partial
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
    top_1,
    top_share,
    within_group_spearman,
)

SCORES: dict[str, Callable[[Any, Any], float]] = {
    "spearman": spearman,
    "kendall": kendall,
    "mape": mape,
    "median_ape": median_ape,
}
# Groups whose targets spread less than this share of their median hold little to rank but noise.
MINIMUM_SPREAD = 0.05
NOMINALS = (0.5, 0.8, 0.9, 0.95)
TOP_SHARES = (0.05, 0.1, 0.25)
PACKAGES = ("code-rlm", "torch", "transformers", "numpy", "scipy", "scikit-learn")


@dataclass
class Predictions:
    """What a model and the baselines said about the rows of one task and metric.

    Attributes:
        target: True values, `(rows,)`. Where not finite (a program that failed) the row is left out and counted.
        written: Targets as the model's number format writes them, `(rows,)`; an interval is judged by these, since its ends
            are such numbers too. By the targets themselves when not given.
        median: The model's point estimates, `(rows,)`. Where NaN (no number predicted) the row is left out and counted.
        quantiles: Quantile level between 0 and 1 to quantiles, `(rows,)` each.
        groups: Name of each row's group, `(rows,)`; each row is its own when not given.
        truncated: Whether the model saw only a part of the row's text, `(rows,)`; none when not given.
        log_probs: Natural logarithm of the probability the model gave to the target, `(rows,)`.
        baselines: Name to predictions, `(rows,)` each.
        uncalibrated: The model's own quantiles by level where `quantiles` are calibrated ones, `(rows,)` each.
        languages: Kind of each row's input, `(rows,)`.
        smaller_is_better: Direction of the metric, for the choice of the best rows.
        out_of_range: How many targets lie outside the number format; nothing predicted can be right for them.
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
    out_of_range: int = 0
    seconds_per_row: float | None = None
    written: Any = None


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
          `out_of_range`: rows scored whose target the number format cannot write, where there are any;
        - `spearman`, `kendall`, `mape`, `median_ape`: `{"value", "low", "high"}`; `log_rmse`: a number;
        - `within_groups`: `{"spearman", "median", "groups", "too_small", "too_narrow", "minimum_spread"}`: mean and median
          rho inside groups of more than 8 rows whose targets spread by at least 5% of their median, how many groups that
          are, and how many are left out;
        - `selection`: `top_1`, how often the best row of such a group is chosen, and `top_1_chance`, how often by lot;
          `top_5_percent`, ...: of the rows predicted in the best 5%, the share that is there (chance is the share);
        - `coverage`: of the central intervals of 50, 80, 90 and 95% that the quantiles form, by the nominal coverage;
          `coverage_interval`: its confidence interval `[low, high]`; `coverage_of_groups`: with every group weighing the same;
          `width`: median of width over |target|; `crps`: mean; `nll`: nats, where there are log-probabilities;
        - `uncalibrated`: `coverage`, `coverage_of_groups`, `width`, `crps`, `spearman`, `mape` of the model's own quantiles,
          where the others are calibrated; so `calibrated` tells which;
        - `truncated_share`; `seconds_per_row`; `languages`: name to `n`, `groups`, the four scores and `coverage`;
          `within_languages`, where several have more than 8 rows: mean over those languages of rho inside each, `{"value",
          "low", "high"}`;
        - `baselines`: name to `spearman`, `kendall`, `mape`, `median_ape`; `spearman_interval`, its confidence interval `[low,
          high]`; `ahead`, `{"value", "low", "high"}`: how far the model's Spearman is above it, on the same resampled groups;
          `within_languages`, a number.

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

    written = target[keep] if predictions.written is None else column("written", predictions.written)
    target, median = target[keep], median[keep]
    groups = None if predictions.groups is None else column("groups", predictions.groups)
    entry: dict[str, Any] = {"n": int(keep.sum())}
    entry["groups"] = entry["n"] if groups is None else len(np.unique(groups.astype(str)))
    excluded = {"target_not_finite": int(no_target.sum()), "no_prediction": int(no_prediction.sum())}
    if any(excluded.values()):
        entry["excluded"] = {reason: count for reason, count in excluded.items() if count}
    if predictions.out_of_range:
        entry["out_of_range"] = predictions.out_of_range

    def resampled(statistic: Callable[..., float], *arrays: np.ndarray, within: Any = groups) -> dict[str, Any]:
        found = bootstrap_interval(statistic, *arrays, groups=within, level=level, n=resamples, seed=seed)
        return {end: _number(getattr(found, end)) for end in ("value", "low", "high")}

    entry |= {name: resampled(score, target, median) for name, score in SCORES.items()}
    entry["log_rmse"] = _number(log_rmse(target, median))
    if groups is not None:
        entry["within_groups"] = _within_groups(target, median, groups)
    entry["selection"] = _selection(target, median, groups, predictions.smaller_is_better)

    quantiles = {q: column(f"quantile {q}", values) for q, values in predictions.quantiles.items()}
    entry |= _interval_scores(written, quantiles, groups)
    entry["coverage_interval"] = {}
    for nominal, (low, high) in _reported_intervals(quantiles).items():
        inside = ((quantiles[low] <= written) & (written <= quantiles[high])).astype(np.float64)
        found = resampled(np.mean, inside)
        entry["coverage_interval"][f"{nominal:g}"] = [found["low"], found["high"]]
    entry["calibrated"] = bool(predictions.uncalibrated)
    if predictions.uncalibrated:
        own = {q: column(f"uncalibrated quantile {q}", v) for q, v in predictions.uncalibrated.items()}
        entry["uncalibrated"] = _interval_scores(written, own, groups)
        if 0.5 in own:
            entry["uncalibrated"] |= {name: _number(SCORES[name](target, own[0.5])) for name in ("spearman", "mape")}
    if predictions.log_probs is not None:
        entry["nll"] = _number(nll(column("log_probs", predictions.log_probs)))
    truncated = np.zeros(rows) if predictions.truncated is None else predictions.truncated
    entry["truncated_share"] = float(column("truncated", truncated).astype(bool).mean())
    if predictions.seconds_per_row is not None:
        entry["seconds_per_row"] = predictions.seconds_per_row

    if predictions.languages is not None:
        languages = column("languages", predictions.languages).astype(str)
        entry["languages"] = {}
        for name in sorted(set(languages)):
            of = languages == name
            here = None if groups is None else groups[of]
            entry["languages"][name] = {
                "n": int(of.sum()),
                "groups": int(of.sum()) if here is None else len(np.unique(here.astype(str))),
                # One language: the scores are those of all rows.
                **{
                    score: entry[score] if of.all() else resampled(function, target[of], median[of], within=here)
                    for score, function in SCORES.items()
                },
                "coverage": _interval_scores(written[of], {q: v[of] for q, v in quantiles.items()}, here)["coverage"],
            }
        counted = np.isin(languages, per_group_spearman(target, median, languages).names)
        if len(set(languages[counted])) > 1:
            columns = (target[counted], median[counted], languages[counted])
            within = None if groups is None else groups[counted]
            entry["within_languages"] = resampled(partial(within_group_spearman, more_than=1), *columns, within=within)
    entry["baselines"] = {}
    for name, values in predictions.baselines.items():
        prediction = column(f"baseline {name}", values)
        found = {key: _number(score(target, prediction)) for key, score in SCORES.items()}
        own = resampled(spearman, target, prediction)
        found["spearman_interval"] = [own["low"], own["high"]]
        found["ahead"] = resampled(_spearman_ahead, target, median, prediction)
        if "within_languages" in entry:
            found["within_languages"] = _number(within_group_spearman(target, prediction, languages))
        entry["baselines"][name] = found
    return entry


def _spearman_ahead(target: np.ndarray, prediction: np.ndarray, other: np.ndarray) -> float:
    """How far the Spearman of one prediction is above that of another; one that says the same of all rows has none, 0."""
    ranks = [0.0 if np.ptp(values) == 0 else spearman(target, values) for values in (prediction, other)]
    return ranks[0] - ranks[1]


def _within_groups(target: np.ndarray, median: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Rank agreement inside groups that are large and wide enough."""
    inside = per_group_spearman(target, median, groups, minimum_spread=MINIMUM_SPREAD)
    return {
        "spearman": float(inside.values.mean()) if inside.values.size else None,
        "median": float(np.median(inside.values)) if inside.values.size else None,
        "groups": inside.values.size,
        "too_small": inside.too_small,
        "too_narrow": inside.too_narrow,
        "minimum_spread": MINIMUM_SPREAD,
    }


def _selection(target: np.ndarray, median: np.ndarray, groups: np.ndarray | None, smaller: bool) -> dict[str, Any]:
    """How often choosing by the prediction chooses right."""
    shares = {
        f"top_{share:.0%}".replace("%", "_percent"): top_share(target, median, share, lower_is_better=smaller)
        for share in TOP_SHARES
    }
    if groups is None:
        return shares
    names = groups.astype(str)
    of = np.isin(names, per_group_spearman(target, median, names, minimum_spread=MINIMUM_SPREAD).names)
    if not of.any():
        return {"top_1": None, "top_1_chance": None, **shares}
    best = top_1(target[of], median[of], names[of], lower_is_better=smaller)
    chance = top_1(target[of], np.zeros(int(of.sum())), names[of], lower_is_better=smaller)
    return {"top_1": best, "top_1_chance": chance, **shares}


def _reported_intervals(quantiles: Mapping[float, Any]) -> dict[float, tuple[float, float]]:
    """Of the central intervals that the quantiles form, those that reports are about."""
    return {nominal: ends for nominal, ends in central_intervals(quantiles).items() if nominal in NOMINALS}


def _interval_scores(
    target: np.ndarray, quantiles: Mapping[float, np.ndarray], groups: np.ndarray | None
) -> dict[str, Any]:
    """Coverage and width of the central intervals that the quantiles form, and their CRPS."""
    quantiles = {float(q): np.asarray(values, dtype=np.float64) for q, values in quantiles.items()}
    scores: dict[str, Any] = {"coverage": {}, "coverage_of_groups": {}, "width": {}}
    _, index, counts = np.unique(
        np.arange(target.size) if groups is None else groups.astype(str), return_inverse=True, return_counts=True
    )
    weights = 1 / counts[index] / len(counts)
    for nominal, (low, high) in _reported_intervals(quantiles).items():
        name, ends = f"{nominal:g}", (quantiles[low], quantiles[high])
        scores["coverage"][name] = interval_coverage(target, *ends)
        scores["coverage_of_groups"][name] = float(weights @ ((ends[0] <= target) & (target <= ends[1])))
        scores["width"][name] = _number(interval_width(*ends, target))
    if quantiles:
        levels = sorted(quantiles)
        values = np.stack([quantiles[q] for q in levels], axis=1)
        finite = np.isfinite(values).all()
        scores["crps"] = _number(crps_from_quantiles(target, values, levels).mean()) if finite else None
    return scores


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
    notes: Sequence[str] = (),
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
        notes: What a reader must know, a sentence each.

    Returns:
        `{"tasks": {task: {metric: score_predictions(...)}}, "model", "versions", "hardware", "date", "level",
        "resamples", "seed", "notes"}`.

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
        "notes": list(notes),
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
    """Writes a report of `build_report` as Markdown: scores, intervals, choice, languages, baselines, and what is left out.

    Args:
        report: As built, or as read back from `report.json`.

    Returns:
        The text, ending in a newline.
    """
    entries = [(task, metric, entry) for task, metrics in report["tasks"].items() for metric, entry in metrics.items()]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    scores = [
        [
            *(task, metric, f"{entry['n']} ({entry['groups']})"),
            *(_with_interval(entry[name], percent=name.endswith("ape")) for name in SCORES),
            _text(entry["truncated_share"], percent=True),
        ]
        for task, metric, entry in entries
    ]
    lines = [f"# Evaluation of {report['model']}", "", f"{report['date']}, {report['hardware']}; {versions}.", ""]
    lines += [
        f"In brackets: {report['level']:.0%} confidence intervals, {report['resamples']} resamples of whole groups.",
        "",
        *_table(["task", "metric", "rows (groups)", "Spearman", "Kendall", "MAPE", "median APE", "truncated"], scores),
    ]
    for title, header, rows in (
        _interval_section(entries),
        _choice_section(entries),
        _language_section(entries),
        _baseline_section(entries),
    ):
        if rows:
            lines += ["", f"## {title}", "", *_table(header, rows)]
    notes = [f"- {note}" for note in report.get("notes", ())]
    for task, metric, entry in entries:
        for reason, count in entry.get("excluded", {}).items():
            notes.append(f"- {task}, {metric}: {count} rows left out ({reason.replace('_', ' ')}).")
        if entry.get("out_of_range"):
            notes.append(f"- {task}, {metric}: {entry['out_of_range']} targets lie outside the number format.")
    if notes:
        lines += ["", "## Notes", "", *notes]
    return "\n".join(lines) + "\n"


_Entries = Sequence[tuple[str, str, Mapping[str, Any]]]
_Section = tuple[str, list[str], list[list[str]]]


def _interval_section(entries: _Entries) -> _Section:
    """Coverage and width of intervals, NLL and CRPS; the model's own beside the calibrated."""
    nominals = sorted({nominal for _, _, entry in entries for nominal in entry["coverage"]}, key=float)
    header = ["task", "metric", "intervals", *(f"in {float(n):.0%} interval" for n in nominals)]
    header += [f"width of {float(n):.0%}" for n in nominals if n in ("0.5", "0.9")] + ["CRPS", "NLL"]
    rows = []
    for task, metric, entry in entries:
        both = [("calibrated" if entry.get("calibrated") else "the model's own", entry)]
        if entry.get("calibrated"):
            both.insert(0, ("the model's own", entry["uncalibrated"]))
        for name, found in both if entry["coverage"] else ():
            row = [task, metric, name, *(_text(found["coverage"].get(n), percent=True) for n in nominals)]
            row += [_text(found["width"].get(n), percent=True) for n in nominals if n in ("0.5", "0.9")]
            crps = found.get("crps")
            rows.append([*row, "–" if crps is None else f"{crps:.4g}", _text(found.get("nll"))])
    return "Intervals", header, rows


def _choice_section(entries: _Entries) -> _Section:
    """Rank agreement inside groups, and how often a choice by the prediction is right."""
    header = [
        "task",
        "metric",
        "rho in groups: mean",
        "median",
        "groups",
        "too small",
        "too narrow",
        "best one",
        "by lot",
    ]
    header += [f"best {share:.0%}" for share in TOP_SHARES]
    rows = []
    for task, metric, entry in entries:
        inside, chosen = entry.get("within_groups"), entry.get("selection", {})
        if inside is None:
            continue
        counts = [str(inside.get(name, "–")) for name in ("groups", "too_small", "too_narrow")]
        row = [task, metric, _text(inside["spearman"]), _text(inside.get("median")), *counts]
        row += [_text(chosen.get(name), percent=True) for name in ("top_1", "top_1_chance")]
        shares = [f"top_{share:.0%}".replace("%", "_percent") for share in TOP_SHARES]
        rows.append([*row, *(_text(chosen.get(name), percent=True) for name in shares)])
    return "Choice", header, rows


def _language_section(entries: _Entries) -> _Section:
    """Scores by kind of input, for tasks with several."""
    header = ["task", "metric", "language", "rows (groups)", "Spearman", "Kendall", "MAPE", "median APE"]
    rows = [
        [
            *(task, metric, language, f"{found['n']} ({found['groups']})"),
            *(_with_interval(found[name], percent=name.endswith("ape")) for name in SCORES),
        ]
        for task, metric, entry in entries
        if len(entry.get("languages", {})) > 1
        for language, found in entry["languages"].items()
    ]
    rows += [
        [task, metric, "mean inside one", "", _with_interval(entry["within_languages"]), "", "", ""]
        for task, metric, entry in entries
        if "within_languages" in entry
    ]
    return "By language", header, rows


def _baseline_section(entries: _Entries) -> _Section:
    """The model beside the baselines."""
    header = ["task", "metric", "predictor", "Spearman", "Kendall", "MAPE", "median APE", "model ahead in Spearman by"]
    rows = []
    for task, metric, entry in entries:
        if entry["baselines"]:
            own = {name: entry[name]["value"] for name in SCORES}
            own["spearman_interval"] = [entry["spearman"]["low"], entry["spearman"]["high"]]
            for predictor, values in {"**this model**": own, **entry["baselines"]}.items():
                low, high = values.get("spearman_interval", (None, None))
                rho = _with_interval({"value": values["spearman"], "low": low, "high": high})
                cells = [
                    rho,
                    *(_text(values[name], percent=name.endswith("ape")) for name in SCORES if name != "spearman"),
                ]
                ahead = _with_interval(values["ahead"]) if "ahead" in values else "–"
                rows.append([task, metric, predictor, *cells, ahead])
    return "Beside simple regressors", header, rows


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
