"""Plots of predictions, intervals and training. Every function draws on one Axes and returns it.

    from code_rlm.evaluation.plots import calibration_curve, prediction_scatter

    ax = prediction_scatter(target, median, low, high, title="cycles")
    ax.figure.savefig("cycles.png")

All take `ax=`, and make a figure of their own without it. Needs matplotlib, which the extra `plots` brings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from code_rlm.evaluation.metrics import EvaluationError, per_group_spearman, spearman, top_share
from code_rlm.evaluation.report import MINIMUM_SPREAD, Predictions

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse, Patch
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter
except ImportError as error:
    raise ImportError("the plots need matplotlib: pip install 'code-rlm[plots]'") from error

# Okabe and Ito's colours: told apart with any kind of colour vision.
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#999999", "#222222"
CURVES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", BLACK)
MOST_POINTS = 4000


def new_axes(size: tuple[float, float] = (5.0, 4.2)) -> Axes:
    """Axes on a figure of their own, which no window and no global state knows of."""
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _dressed(ax: Axes, title: str | None, x: str, y: str) -> Axes:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title, fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def prediction_scatter(
    target: Any,
    prediction: Any,
    low: Any = None,
    high: Any = None,
    *,
    ax: Axes | None = None,
    title: str | None = None,
    seed: int = 0,
) -> Axes:
    """Prediction against truth on probit axes: each side's ranks as normal scores, so that dense and sparse ranges read alike.

    The diagonal is perfect ranking; the ticks name values of the metric at the truth's quantiles. Where interval ends are
    given, points whose interval misses the truth are drawn in another colour. More than 4,000 rows are sampled.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.
        low, high: Ends of each row's interval, `(rows,)`.
        ax: Where to draw.
        title: Of the plot.
        seed: Of the sample.
    """
    ax = new_axes() if ax is None else ax
    target, prediction = np.asarray(target, dtype=np.float64), np.asarray(prediction, dtype=np.float64)
    rho = spearman(target, prediction)
    count = len(target)
    x, y = (stats.norm.ppf((stats.rankdata(values) - 0.5) / count) for values in (target, prediction))
    shown = np.arange(count)
    if count > MOST_POINTS:
        shown = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_POINTS])
    size, alpha = (7, 0.35) if len(shown) > 500 else (14, 0.6)
    inside = np.ones(count, dtype=bool)
    if low is not None and high is not None:
        inside = (np.asarray(low) <= target) & (target <= np.asarray(high))
    ax.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--", zorder=1)
    for chosen, color, label in ((inside, BLUE, "interval holds"), (~inside, ORANGE, "interval misses")):
        if chosen.any():
            of = shown[chosen[shown]]
            name = f"{label} ({chosen.mean():.0%})" if low is not None else None
            ax.scatter(x[of], y[of], s=size, alpha=alpha, color=color, linewidths=0, label=name)
    levels = np.array([0.01, 0.1, 0.5, 0.9, 0.99]) if count >= 50 else np.array([0.1, 0.5, 0.9])
    for axis, values in ((ax.xaxis, target), (ax.yaxis, prediction)):
        axis.set_major_locator(FixedLocator(stats.norm.ppf(levels)))
        names = [_short(v) for v in np.quantile(values, levels, method="nearest")]
        axis.set_major_formatter(
            FuncFormatter(lambda _, place, names=names: names[place] if place < len(names) else "")
        )
    if low is not None:
        ax.legend(loc="upper left", fontsize="small", frameon=False)
    ax.set_aspect("equal")
    heading = f"{title}: " if title else ""
    return _dressed(ax, f"{heading}rho {rho:.3f}, {count} rows", "truth (ranks, probit)", "prediction (ranks, probit)")


def _short(value: float) -> str:
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-6:
        return f"{value:.1e}"
    for scale, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= scale:
            return f"{value / scale:.3g}{name}"
    return f"{value:.3g}"


def calibration_curve(
    target: Any,
    quantiles: Mapping[str, Mapping[float, Any]],
    *,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Reliability of quantiles: the share of truths at or under the quantile of each level; the diagonal is honest.

    Args:
        target: True values, `(rows,)`.
        quantiles: Name of a curve ("the model's own", "calibrated") to level to quantiles, `(rows,)` each.
        ax: Where to draw.
        title: Of the plot.
    """
    ax = new_axes() if ax is None else ax
    target = np.asarray(target, dtype=np.float64)
    ax.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--", zorder=1)
    for (name, by_level), color in zip(quantiles.items(), (ORANGE, BLUE, GREEN), strict=False):
        levels = np.array(sorted(by_level))
        # A truth that equals the quantile is half under it: with values that repeat, neither side may have all.
        under = [np.mean(target < by_level[q]) / 2 + np.mean(target <= by_level[q]) / 2 for q in levels]
        gap = np.abs(np.array(under) - levels).max()
        ax.plot(levels, under, marker="o", markersize=4, color=color, label=f"{name} (largest gap {gap:.1%})")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.legend(loc="upper left", fontsize="small", frameon=False)
    return _dressed(ax, title, "level of the quantile", "truths under it")


def group_histogram(
    target: Any, prediction: Any, groups: Any, *, ax: Axes | None = None, title: str | None = None, more_than: int = 8
) -> Axes:
    """Histogram of Spearman's rho inside groups, such as the solutions of one problem; groups as in the report.

    Raises:
        EvaluationError: No group is large and wide enough.
    """
    found = per_group_spearman(target, prediction, groups, more_than=more_than, minimum_spread=MINIMUM_SPREAD)
    if not len(found.values):
        raise EvaluationError(f"no group of more than {more_than} rows whose targets differ; there is nothing to draw")
    ax = new_axes() if ax is None else ax
    ax.hist(found.values, bins=np.linspace(-1, 1, 21), color=BLUE, alpha=0.85, edgecolor="white")
    middle = float(np.median(found.values))
    ax.axvline(middle, color=ORANGE, linewidth=1.5, label=f"median {middle:.2f}")
    ax.axvline(0, color=GREY, linewidth=1, linestyle="--")
    ax.set_xlim(-1, 1)
    ax.legend(loc="upper left", fontsize="small", frameon=False)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    left_out = f"left out: {found.too_small} groups too small, {found.too_narrow} too narrow"
    heading = f"{title}: " if title else ""
    return _dressed(
        ax, f"{heading}{len(found.values)} groups", f"Spearman's rho inside the group\n({left_out})", "groups"
    )


def selection_curve(
    target: Any,
    predictions: Mapping[str, Any],
    *,
    smaller_is_better: bool = True,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Of the rows predicted in the best p%, the share that truly is there, over p; the diagonal is choice by lot.

    Args:
        target: True values, `(rows,)`.
        predictions: Name of a predictor to its predictions, `(rows,)` each.
        smaller_is_better: Direction of the metric.
        ax: Where to draw.
        title: Of the plot.
    """
    ax = new_axes() if ax is None else ax
    least = max(0.01, 1 / len(np.asarray(target)))
    shares = np.unique(np.geomspace(least, 1, 40))
    ax.plot(shares, shares, color=GREY, linewidth=1, linestyle="--", label="by lot")
    for position, (name, values) in enumerate(predictions.items()):
        found = [top_share(target, values, share, lower_is_better=smaller_is_better) for share in shares]
        first = position == 0
        ax.plot(
            shares,
            found,
            color=CURVES[position % len(CURVES)],
            linewidth=2.2 if first else 1.2,
            label=name,
            zorder=3 - first,
        )
    ax.set_xscale("log")
    ax.set(xlim=(least, 1), ylim=(0, 1.02))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.legend(loc="lower right", fontsize="small", frameon=False)
    return _dressed(ax, title, "rows chosen, best first", "of them truly there")


def pareto_plot(
    values: Any,
    low: Any,
    high: Any,
    front: Sequence[bool],
    names: Sequence[str],
    *,
    labels: tuple[str, str],
    level: float = 0.9,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Two objectives of several candidates: medians, the Pareto front, and an ellipse of the predicted density each.

    An ellipse spans the central intervals of both metrics; axes are logarithmic where everything drawn is positive and spans
    more than a factor of 10.

    Args:
        values, low, high: Medians and ends of the intervals, `(candidates, 2)`.
        front: Which candidates no other one beats in both metrics, `(candidates,)`.
        names: Of the candidates; those on the front are numbered, and listed beside the axes.
        labels: Of the axes.
        level: Of the intervals, for the legend.
        ax: Where to draw.
        title: Of the plot.
    """
    ax = new_axes((6.2, 4.8)) if ax is None else ax
    values, low, high = (np.asarray(v, dtype=np.float64) for v in (values, low, high))
    front = np.asarray(front, dtype=bool)
    logarithmic = [bool((low[:, k] > 0).all() and high[:, k].max() / low[:, k].min() > 10) for k in (0, 1)]

    def drawn(points: np.ndarray) -> np.ndarray:
        return np.stack([np.log10(points[:, k]) if logarithmic[k] else points[:, k] for k in (0, 1)], 1)

    middle, least, most = drawn(values), drawn(low), drawn(high)
    for i in np.argsort(front, kind="stable"):  # the front on top
        # Medians are seldom in the middle of their interval: the ellipse stands on the interval, the point on the median.
        center, size = (least[i] + most[i]) / 2, np.maximum(most[i] - least[i], 1e-9)
        fill = {"facecolor": BLUE, "alpha": 0.13} if front[i] else {"facecolor": GREY, "alpha": 0.05}
        ax.add_patch(Ellipse(center, *size, edgecolor="none", zorder=2 + front[i], **fill))
    ax.scatter(*middle[~front].T, s=14, color=GREY, linewidths=0, label="dominated", zorder=4)
    best = np.flatnonzero(front)[np.argsort(middle[front, 0])]
    ax.plot(*middle[best].T, color=BLUE, linewidth=1.2, marker="o", markersize=5, label="Pareto front", zorder=5)
    listed = []
    for number, i in enumerate(best, start=1):
        above = 5 if number % 2 else -11
        style = {"fontsize": "x-small", "color": BLACK, "zorder": 6, "ha": "center"}
        ax.annotate(str(number), middle[i], xytext=(0, above), textcoords="offset points", **style)
        listed.append(f"{number}  {names[i]}")
    if len(listed) > 24:
        listed = [*listed[:23], f"and {len(listed) - 23} more"]
    ax.text(1.02, 1.0, "\n".join(listed), transform=ax.transAxes, va="top", fontsize="x-small", color=BLACK)
    for k, axis in enumerate((ax.xaxis, ax.yaxis)):
        if logarithmic[k]:
            first, last = np.floor(least[:, k].min()), np.ceil(most[:, k].max())
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            ticks = [e + np.log10(s) for e in np.arange(first, last + 1) for s in steps]
            axis.set_major_locator(FixedLocator(ticks))
            axis.set_major_formatter(FuncFormatter(lambda v, _: _short(10.0**v)))
    ax.margins(0.05)
    ax.autoscale_view()
    density = Patch(facecolor=BLUE, alpha=0.25, label=f"{level:.0%} intervals")
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], density], fontsize="small", frameon=False)
    return _dressed(ax, title, *labels)


def learning_curves(
    logs: Mapping[str, str | Path], *, ax: Axes | None = None, title: str | None = None, smoothing: int = 5
) -> Axes:
    """Validation losses over steps, and training losses on an axis of their own, from the `log.jsonl` of runs.

    Of a single run every source has a curve; of several runs the means over sources are compared. A run that has not been
    validated yet shows its training loss alone.

    Args:
        logs: Name of a run to its log.
        ax: Where to draw.
        title: Of the plot.
        smoothing: Training losses averaged in each point.

    Raises:
        EvaluationError: A log without a loss; the message names file and line where it is not JSON.
    """
    ax = new_axes((6.2, 4.2)) if ax is None else ax
    read = {name: _losses(Path(path)) for name, path in logs.items()}
    side = ax.twinx() if any(validation for _, validation in read.values()) else ax
    curves = iter(CURVES * (1 + len(logs)))
    for name, (training, validation) in read.items():
        steps, losses = (np.array(column, dtype=np.float64) for column in zip(*training))
        if len(losses) >= 2 * smoothing:
            kernel = np.ones(smoothing) / smoothing
            steps, losses = np.convolve(steps, kernel, "valid"), np.convolve(losses, kernel, "valid")
        color = GREY if len(read) == 1 else next(curves)
        side.plot(steps, losses, color=color, linewidth=1.0, alpha=0.7, linestyle=":" if side is not ax else "-")
        ax.plot([], [], color=color, linewidth=1.0, linestyle=":" if side is not ax else "-", label=f"{name}, training")
        if validation and len(read) > 1:
            means = [(step, float(np.mean(list(scores.values())))) for step, scores in validation]
            ax.plot(*zip(*means), color=color, linewidth=1.6, marker="o", markersize=4, label=f"{name}, validation")
        elif validation:
            for source in dict.fromkeys(source for _, scores in validation for source in scores):
                points = [(step, scores[source]) for step, scores in validation if source in scores]
                ax.plot(*zip(*points), color=next(curves), linewidth=1.6, marker="o", markersize=4, label=source)
    if side is not ax:
        side.set_ylabel("training loss (nats a token)")
        side.spines["top"].set_visible(False)
    ax.legend(fontsize="small", frameon=False)
    _dressed(ax, title, "step", "validation loss (nats a number)" if side is not ax else "training loss (nats a token)")
    ax.spines["right"].set_visible(side is not ax)
    return ax


def _losses(path: Path) -> tuple[list[tuple[int, float]], list[tuple[int, dict[str, float]]]]:
    """(step, loss) of a log's training lines, and (step, loss by source) of its validation lines."""
    training, validation = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise EvaluationError(f"{path}: line {number} is not JSON: {error}") from None
        if isinstance(entry.get("loss"), (int, float)):
            training.append((entry["step"], entry["loss"]))
        if isinstance(entry.get("validation"), dict):
            scores = {k: v for k, v in entry["validation"].items() if isinstance(v, (int, float))}
            validation.append((entry["step"], scores))
    if not training:
        raise EvaluationError(f"{path} has no line with a loss")
    return training, validation


def report_plots(tasks: Mapping[str, Mapping[str, Predictions]], folder: str | Path) -> list[Path]:
    """Writes the plots of a report as PNG files: `TASK-METRIC-PLOT.png`.

    Args:
        tasks: Task to metric to predictions, as in `build_report`.
        folder: Made if need be.

    Returns:
        The paths.
    """
    folder, written = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)

    def save(ax: Axes, *parts: str) -> None:
        name = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in parts)
        written.append(folder / f"{name}.png")
        ax.figure.savefig(written[-1], bbox_inches="tight")

    for task, metrics in tasks.items():
        for metric, found in metrics.items():
            keep = np.isfinite(found.target) & ~np.isnan(found.median)
            if keep.sum() < 2:
                continue
            target, median = found.target[keep], found.median[keep]
            quantiles = {q: values[keep] for q, values in found.quantiles.items()}
            title = f"{task}, {metric}"
            save(
                prediction_scatter(target, median, quantiles.get(0.05), quantiles.get(0.95), title=title),
                task,
                metric,
                "scatter",
            )
            curves = {"calibrated" if found.uncalibrated else "the model's own": quantiles}
            if found.uncalibrated:
                curves = {"the model's own": {q: v[keep] for q, v in found.uncalibrated.items()}, **curves}
            if quantiles:
                save(calibration_curve(target, curves, title=title), task, metric, "calibration")
            predictors = {
                "this model": median,
                **{n: v[keep] for n, v in found.baselines.items() if np.ptp(v[keep]) > 0},
            }
            chosen = selection_curve(target, predictors, smaller_is_better=found.smaller_is_better, title=title)
            save(chosen, task, metric, "selection")
            groups = None if found.groups is None else np.asarray(found.groups)[keep]
            if groups is not None and len(
                per_group_spearman(target, median, groups, minimum_spread=MINIMUM_SPREAD).values
            ):
                save(group_histogram(target, median, groups, title=title), task, metric, "groups")
    return written


__all__ = [
    "calibration_curve",
    "group_histogram",
    "learning_curves",
    "new_axes",
    "pareto_plot",
    "prediction_scatter",
    "report_plots",
    "selection_curve",
]
