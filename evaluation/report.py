"""Turns predictions of each row into `report.json` and `report.md`.

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
from code_rlm.stats import equal_weights

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
    """What a model and the baselines predict for the rows of one task and metric.

    Attributes:
        target: True values, `(rows,)`. Where not finite (a program that failed) the row is left out and counted.
        written: Targets as the model's number format writes them, `(rows,)`; an interval is judged by these, since its ends
            are such numbers too. By the targets themselves when not given.
        median: The model's point estimates, `(rows,)`. Where NaN (no number predicted) the row is left out and counted.
        quantiles: Quantile level between 0 and 1 to quantiles, `(rows,)` each.
        groups: Name of each row's group, `(rows,)`; each row is its own when not given.
        truncated: Whether the model saw only a part of the row's text, `(rows,)`; none when not given.
        unfamiliar: Share of the fallback in what `predict` answers, in [0, 1], `(rows,)`. The other columns are without it.
        bounded: Whether `predict` cuts the row's interval at a lower bound, `(rows,)`; likewise.
        log_probs: Natural logarithm of the probability the model gave to the target, `(rows,)`.
        baselines: Name to predictions, `(rows,)` each.
        uncalibrated: The model's own quantiles by level where `quantiles` are calibrated ones, `(rows,)` each.
        languages: Language of each row's input, `(rows,)`.
        smaller_is_better: Direction of the metric, for the choice of the best rows.
        out_of_range: How many targets lie outside the number format; nothing predicted can be right for them.
        seconds_per_row: Time that the predictions took.
    """

    target: Any
    median: Any
    quantiles: Mapping[float, Any] = field(default_factory=dict)
    groups: Sequence[Any] | np.ndarray | None = None
    truncated: Any = None
    unfamiliar: Any = None
    bounded: Any = None
    log_probs: Any = None
    baselines: Mapping[str, Any] = field(default_factory=dict)
    uncalibrated: Mapping[float, Any] = field(default_factory=dict)
    languages: Any = None
    smaller_is_better: bool = True
    out_of_range: int = 0
    seconds_per_row: float | None = None
    written: Any = None


def _column(name: str, values: Any, rows: int) -> np.ndarray:
    """Returns the values of a column, `(rows,)`."""
    array = np.asarray(values)
    if array.shape != (rows,):
        raise EvaluationError(f"{name} must have one value a row, `({rows},)`; its shape is {array.shape}")
    return array


def _number(value: float) -> float | None:
    """Returns a float that JSON can hold; None for NaN and infinity, which it cannot."""
    return float(value) if math.isfinite(value) else None


def _group_count(groups: np.ndarray | None, rows: int) -> int:
    """Returns the number of groups; that of rows where each row is its own."""
    return rows if groups is None else len(np.unique(groups.astype(str)))


class _ScoredRows:
    """The rows of some predictions that can be scored, and how confidence intervals are resampled.

    Attributes:
        given: The predictions.
        no_target, no_prediction: Rows left out, bool `(rows given,)`.
        target, written, median: Float64 `(rows,)`, see `Predictions`.
        groups: `(rows,)`; None where each row is its own group.
        quantiles, own_quantiles: Level to quantiles `(rows,)`, as users get them and before calibration.
    """

    def __init__(self, predictions: Predictions, level: float, resamples: int, seed: int):
        target = np.asarray(predictions.target, dtype=np.float64)
        if target.ndim != 1:
            raise EvaluationError(f"target must have one dimension, `(rows,)`; its shape is {target.shape}")
        median = _column("median", predictions.median, target.size).astype(np.float64)
        self.given = predictions
        self.no_target = ~np.isfinite(target)
        self.no_prediction = ~self.no_target & np.isnan(median)
        self._kept = ~self.no_target & ~self.no_prediction
        if not self._kept.any():
            raise EvaluationError(f"none of the {target.size} rows has both a finite target and a prediction")
        self.target = target[self._kept]
        self.median = median[self._kept]
        self.written = self.target if predictions.written is None else self.column("written", predictions.written)
        self.groups = None if predictions.groups is None else self.column("groups", predictions.groups)
        self.quantiles = self._levels("quantile", predictions.quantiles)
        self.own_quantiles = self._levels("uncalibrated quantile", predictions.uncalibrated)
        self._level = level
        self._resamples = resamples
        self._seed = seed

    def __len__(self) -> int:
        return len(self.target)

    def column(self, name: str, values: Any) -> np.ndarray:
        """Returns the scored rows of a column of all rows."""
        return _column(name, values, len(self._kept))[self._kept]

    def _levels(self, name: str, quantiles: Mapping[float, Any]) -> dict[float, np.ndarray]:
        return {level: self.column(f"{name} {level}", values) for level, values in quantiles.items()}

    def resampled(
        self, statistic: Callable[..., float], *arrays: np.ndarray, rows: np.ndarray | None = None
    ) -> dict[str, float | None]:
        """Returns a score with its confidence interval as a dictionary that JSON can hold.

        Args:
            statistic: Called with the arrays.
            *arrays: Columns of the scored rows.
            rows: Which of them count, bool `(rows,)`; all when not given.
        """
        chosen = np.ones(len(self), dtype=bool) if rows is None else rows
        groups = None if self.groups is None else self.groups[chosen]
        columns = [array[chosen] for array in arrays]
        found = bootstrap_interval(
            statistic, *columns, groups=groups, level=self._level, n=self._resamples, seed=self._seed
        )
        return {end: _number(getattr(found, end)) for end in ("value", "low", "high")}


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
          where the others are calibrated; `calibrated` is true there;
        - `fallback_share`, `bounded_share`, where known: of the rows that `predict` answers by a fallback, as they are unlike
          the training rows, and whose intervals it cuts at a lower bound; the scores are those of the model without either;
        - `truncated_share`; `seconds_per_row`; `languages`: name to `n`, `groups`, the four scores and `coverage`;
          `within_languages`, where several have more than 8 rows: mean over those languages of rho inside each, `{"value",
          "low", "high"}`;
        - `baselines`: name to `spearman`, `kendall`, `mape`, `median_ape`; `spearman_interval`, its confidence interval `[low,
          high]`; `ahead`, `{"value", "low", "high"}`: how far the model's Spearman is above it, on the same resampled groups;
          `within_languages`, a number.

    Raises:
        EvaluationError: Columns that do not fit together, or no row that can be scored.
    """
    rows = _ScoredRows(predictions, level, resamples, seed)
    target, median = rows.target, rows.median
    entry: dict[str, Any] = {"n": len(rows), "groups": _group_count(rows.groups, len(rows))}
    excluded = {"target_not_finite": int(rows.no_target.sum()), "no_prediction": int(rows.no_prediction.sum())}
    if any(excluded.values()):
        entry["excluded"] = {reason: count for reason, count in excluded.items() if count}
    if predictions.out_of_range:
        entry["out_of_range"] = predictions.out_of_range

    entry |= {name: rows.resampled(score, target, median) for name, score in SCORES.items()}
    entry["log_rmse"] = _number(log_rmse(target, median))
    if rows.groups is not None:
        entry["within_groups"] = _within_groups(target, median, rows.groups)
    entry["selection"] = _selection(target, median, rows.groups, predictions.smaller_is_better)
    entry |= _distribution_scores(rows)

    if predictions.log_probs is not None:
        entry["nll"] = _number(nll(rows.column("log_probs", predictions.log_probs)))
    entry["truncated_share"] = 0.0
    if predictions.truncated is not None:
        entry["truncated_share"] = float(rows.column("truncated", predictions.truncated).astype(bool).mean())
    if predictions.unfamiliar is not None:
        entry["fallback_share"] = float((rows.column("unfamiliar", predictions.unfamiliar) > 0).mean())
    if predictions.bounded is not None:
        entry["bounded_share"] = float(rows.column("bounded", predictions.bounded).astype(bool).mean())
    if predictions.seconds_per_row is not None:
        entry["seconds_per_row"] = predictions.seconds_per_row

    languages = None
    if predictions.languages is not None:
        languages = rows.column("languages", predictions.languages).astype(str)
        entry |= _language_scores(rows, languages, {name: entry[name] for name in SCORES})
    within = languages if "within_languages" in entry else None
    entry["baselines"] = {name: _baseline_scores(rows, name, within) for name in predictions.baselines}
    return entry


def _distribution_scores(rows: _ScoredRows) -> dict[str, Any]:
    """Returns the scores of the intervals, calibrated and not, and the confidence intervals of their coverage."""
    entry = _interval_scores(rows.written, rows.quantiles, rows.groups)
    entry["coverage_interval"] = {}
    for nominal, (low, high) in _reported_intervals(rows.quantiles).items():
        inside = (rows.quantiles[low] <= rows.written) & (rows.written <= rows.quantiles[high])
        found = rows.resampled(np.mean, inside.astype(np.float64))
        entry["coverage_interval"][f"{nominal:g}"] = [found["low"], found["high"]]
    entry["calibrated"] = bool(rows.own_quantiles)
    if rows.own_quantiles:
        entry["uncalibrated"] = _interval_scores(rows.written, rows.own_quantiles, rows.groups)
        if 0.5 in rows.own_quantiles:
            own_median = rows.own_quantiles[0.5]
            for name in ("spearman", "mape"):
                entry["uncalibrated"][name] = _number(SCORES[name](rows.target, own_median))
    return entry


def _language_scores(rows: _ScoredRows, languages: np.ndarray, overall: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the scores by language, and the mean rank agreement inside one where several have enough rows.

    Args:
        rows: The rows.
        languages: The language of each row, `(rows,)`.
        overall: The scores of all rows; of a single language they are not computed again.
    """
    by_language: dict[str, Any] = {}
    names = sorted(set(languages))
    for name in names:
        here = languages == name
        groups = None if rows.groups is None else rows.groups[here]
        scores = dict(overall)
        if len(names) > 1:
            scores = {key: rows.resampled(score, rows.target, rows.median, rows=here) for key, score in SCORES.items()}
        quantiles = {level: values[here] for level, values in rows.quantiles.items()}
        coverage = _interval_scores(rows.written[here], quantiles, groups)["coverage"]
        count = int(here.sum())
        by_language[name] = {"n": count, "groups": _group_count(groups, count), **scores, "coverage": coverage}
    entry: dict[str, Any] = {"languages": by_language}
    # Resampling can leave a language with few rows: those that have enough without it stay.
    counted = np.isin(languages, per_group_spearman(rows.target, rows.median, languages).names)
    if len(set(languages[counted])) > 1:
        mean_inside = partial(within_group_spearman, more_than=1)
        entry["within_languages"] = rows.resampled(mean_inside, rows.target, rows.median, languages, rows=counted)
    return entry


def _baseline_scores(rows: _ScoredRows, name: str, languages: np.ndarray | None) -> dict[str, Any]:
    """Returns the scores of a baseline; rank agreement inside languages only where these are given, `(rows,)`."""
    prediction = rows.column(f"baseline {name}", rows.given.baselines[name])
    entry: dict[str, Any] = {key: _number(score(rows.target, prediction)) for key, score in SCORES.items()}
    interval = rows.resampled(spearman, rows.target, prediction)
    entry["spearman_interval"] = [interval["low"], interval["high"]]
    entry["ahead"] = rows.resampled(_spearman_ahead, rows.target, rows.median, prediction)
    if languages is not None:
        entry["within_languages"] = _number(within_group_spearman(rows.target, prediction, languages))
    return entry


def _spearman_ahead(target: np.ndarray, prediction: np.ndarray, other: np.ndarray) -> float:
    """Returns the Spearman of one prediction less that of another; a constant prediction counts as 0."""
    ranks = [0.0 if np.ptp(values) == 0 else spearman(target, values) for values in (prediction, other)]
    return ranks[0] - ranks[1]


def _within_groups(target: np.ndarray, median: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """Returns rank agreement inside groups that are large and wide enough."""
    inside = per_group_spearman(target, median, groups, minimum_spread=MINIMUM_SPREAD)
    return {
        "spearman": float(inside.values.mean()) if inside.values.size else None,
        "median": float(np.median(inside.values)) if inside.values.size else None,
        "groups": inside.values.size,
        "too_small": inside.too_small,
        "too_narrow": inside.too_narrow,
        "minimum_spread": MINIMUM_SPREAD,
    }


def _share_key(share: float) -> str:
    """Returns the key of `top_share` in a report: 0.05 is top_5_percent."""
    return f"top_{share * 100:.0f}_percent"


def _selection(target: np.ndarray, median: np.ndarray, groups: np.ndarray | None, smaller: bool) -> dict[str, Any]:
    """Returns how often choosing by the prediction chooses right."""
    shares = {_share_key(share): top_share(target, median, share, lower_is_better=smaller) for share in TOP_SHARES}
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
    """Returns those of the central intervals that the quantiles form which reports are about."""
    return {nominal: ends for nominal, ends in central_intervals(quantiles).items() if nominal in NOMINALS}


def _interval_scores(target: np.ndarray, quantiles: Mapping[float, Any], groups: np.ndarray | None) -> dict[str, Any]:
    """Returns coverage and width of the central intervals that the quantiles form, and their CRPS."""
    by_level = {float(level): np.asarray(values, dtype=np.float64) for level, values in quantiles.items()}
    weights = equal_weights(np.arange(target.size) if groups is None else groups.astype(str))
    scores: dict[str, Any] = {"coverage": {}, "coverage_of_groups": {}, "width": {}}
    for nominal, levels in _reported_intervals(by_level).items():
        name = f"{nominal:g}"
        low, high = by_level[levels[0]], by_level[levels[1]]
        scores["coverage"][name] = interval_coverage(target, low, high)
        scores["coverage_of_groups"][name] = float(weights @ ((low <= target) & (target <= high)))
        scores["width"][name] = _number(interval_width(low, high, target))
    if by_level:
        known = sorted(by_level)
        values = np.stack([by_level[level] for level in known], axis=1)
        scores["crps"] = None
        if np.isfinite(values).all():
            scores["crps"] = _number(crps_from_quantiles(target, values, known).mean())
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
    """Returns the versions of Python and of those of the packages that are installed."""
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
    """Returns a number as text; a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.1f}%" if percent else f"{value:.3f}"


def _with_interval(score: Mapping[str, float | None], percent: bool = False) -> str:
    """Returns a score as text, with its interval in brackets where there is one."""
    value, low, high = (_text(score[end], percent) for end in ("value", "low", "high"))
    return value if score["low"] is None or score["high"] is None else f"{value} ({low} to {high})"


def _line(cells: Iterable[str]) -> str:
    """Returns one line of a Markdown table. A bar inside a cell would start another one, so it is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Returns the lines of a Markdown table."""
    return [_line(header), "|" + "---|" * len(header), *(_line(row) for row in rows)]


_Entries = Sequence[tuple[str, str, Mapping[str, Any]]]
_Section = tuple[str, list[str], list[list[str]]]


def report_markdown(report: Mapping[str, Any]) -> str:
    """Writes a report of `build_report` as Markdown: scores, intervals, choice, languages, baselines, and what is left out.

    Args:
        report: As built, or as read back from `report.json`.

    Returns:
        The text, ending in a newline.
    """
    entries = []
    for task, metrics in report["tasks"].items():
        entries += [(task, metric, entry) for metric, entry in metrics.items()]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"# Evaluation of {report['model']}",
        "",
        f"{report['date']}, {report['hardware']}; {versions}.",
        "",
        f"In brackets: {report['level']:.0%} confidence intervals, {report['resamples']} resamples of whole groups.",
        "",
        *_score_lines(entries),
    ]
    sections = (_interval_section, _choice_section, _language_section, _baseline_section)
    for section in sections:
        title, header, rows = section(entries)
        if rows:
            lines += ["", f"## {title}", "", *_table(header, rows)]
    if notes := _notes(report, entries):
        lines += ["", "## Notes", "", *notes]
    return "\n".join(lines) + "\n"


def _score_lines(entries: _Entries) -> list[str]:
    """Returns the table of the model's scores."""
    rows = []
    for task, metric, entry in entries:
        scores = [_with_interval(entry[name], percent=name.endswith("ape")) for name in SCORES]
        counts = f"{entry['n']} ({entry['groups']})"
        rows.append([task, metric, counts, *scores, _text(entry["truncated_share"], percent=True)])
    return _table(["task", "metric", "rows (groups)", "Spearman", "Kendall", "MAPE", "median APE", "truncated"], rows)


def _notes(report: Mapping[str, Any], entries: _Entries) -> list[str]:
    """Returns the report's notes, and one for each reason that rows are left out or cannot be right."""
    notes = [f"- {note}" for note in report.get("notes", ())]
    for task, metric, entry in entries:
        for reason, count in entry.get("excluded", {}).items():
            notes.append(f"- {task}, {metric}: {count} rows left out ({reason.replace('_', ' ')}).")
        if entry.get("out_of_range"):
            notes.append(f"- {task}, {metric}: {entry['out_of_range']} targets lie outside the number format.")
    return notes


def _interval_section(entries: _Entries) -> _Section:
    """Returns coverage and width of intervals, NLL and CRPS; the model's own beside the calibrated."""
    nominals = sorted({nominal for _, _, entry in entries for nominal in entry["coverage"]}, key=float)
    wide = [nominal for nominal in nominals if nominal in ("0.5", "0.9")]
    header = ["task", "metric", "intervals", *(f"in {float(nominal):.0%} interval" for nominal in nominals)]
    header += [*(f"width of {float(nominal):.0%}" for nominal in wide), "CRPS", "NLL"]
    rows = []
    for task, metric, entry in entries:
        if not entry["coverage"]:
            continue
        found = [("the model's own", entry)]
        if entry.get("calibrated"):
            found = [("the model's own", entry["uncalibrated"]), ("calibrated", entry)]
        for name, scores in found:
            coverage = [_text(scores["coverage"].get(nominal), percent=True) for nominal in nominals]
            width = [_text(scores["width"].get(nominal), percent=True) for nominal in wide]
            crps = "–" if scores.get("crps") is None else f"{scores['crps']:.4g}"
            rows.append([task, metric, name, *coverage, *width, crps, _text(scores.get("nll"))])
    return "Intervals", header, rows


def _choice_section(entries: _Entries) -> _Section:
    """Returns rank agreement inside groups, and how often a choice by the prediction is right."""
    header = ["task", "metric", "rho in groups: mean", "median", "groups", "too small", "too narrow"]
    header += ["best one", "by lot", *(f"best {share:.0%}" for share in TOP_SHARES)]
    rows = []
    for task, metric, entry in entries:
        inside = entry.get("within_groups")
        if inside is None:
            continue
        chosen = entry.get("selection", {})
        correlations = [_text(inside["spearman"]), _text(inside.get("median"))]
        counts = [str(inside.get(name, "–")) for name in ("groups", "too_small", "too_narrow")]
        names = ["top_1", "top_1_chance", *(_share_key(share) for share in TOP_SHARES)]
        shares = [_text(chosen.get(name), percent=True) for name in names]
        rows.append([task, metric, *correlations, *counts, *shares])
    return "Choice", header, rows


def _language_section(entries: _Entries) -> _Section:
    """Returns scores by language, for tasks with several."""
    header = ["task", "metric", "language", "rows (groups)", "Spearman", "Kendall", "MAPE", "median APE"]
    rows = []
    for task, metric, entry in entries:
        if len(entry.get("languages", {})) < 2:
            continue
        for language, found in entry["languages"].items():
            scores = [_with_interval(found[name], percent=name.endswith("ape")) for name in SCORES]
            rows.append([task, metric, language, f"{found['n']} ({found['groups']})", *scores])
    for task, metric, entry in entries:
        if "within_languages" in entry:
            rows.append([task, metric, "mean inside one", "", _with_interval(entry["within_languages"]), "", "", ""])
    return "By language", header, rows


def _baseline_section(entries: _Entries) -> _Section:
    """Returns the model beside the baselines."""
    header = ["task", "metric", "predictor", "Spearman", "Kendall", "MAPE", "median APE", "model ahead in Spearman by"]
    rows = []
    for task, metric, entry in entries:
        if not entry["baselines"]:
            continue
        own: dict[str, Any] = {name: entry[name]["value"] for name in SCORES}
        own["spearman_interval"] = [entry["spearman"]["low"], entry["spearman"]["high"]]
        for predictor, values in {"**this model**": own, **entry["baselines"]}.items():
            low, high = values.get("spearman_interval", (None, None))
            rho = _with_interval({"value": values["spearman"], "low": low, "high": high})
            others = [_text(values[name], percent=name.endswith("ape")) for name in SCORES if name != "spearman"]
            ahead = _with_interval(values["ahead"]) if "ahead" in values else "–"
            rows.append([task, metric, predictor, rho, *others, ahead])
    return "Beside simple regressors", header, rows


def write_report(report: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Writes `report.json` and `report.md` into a folder, made if need be, and returns their paths."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    as_json = target / "report.json"
    as_markdown = target / "report.md"
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
