"""Plots of predictions and intervals. Every function draws on one Axes and returns it.

    from code_rlm.evaluation.plots import calibration_curve, prediction_scatter

    ax = prediction_scatter(target, median, low, high, title="cycles")
    ax.figure.savefig("cycles.png")

All take `ax=`, and make a figure of their own without it. Needs matplotlib, which the extra `plots` brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import chi2, norm, rankdata

from code_rlm.evaluation.metrics import EvaluationError, per_group_spearman, spearman, top_share
from code_rlm.evaluation.report import MINIMUM_SPREAD, Predictions

try:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse, Patch
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, PercentFormatter
except ImportError as error:
    raise ImportError("the plots need matplotlib: pip install 'code-rlm[plots]'") from error

# Okabe and Ito's colours, which people with any colour vision can distinguish.
BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#999999", "#222222"
CURVES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", BLACK)
MOST_POINTS = 4000


def new_axes(size: tuple[float, float] = (5.0, 4.2)) -> Axes:
    """Returns axes on a figure of their own, without a window and without pyplot's global state."""
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _dressed(ax: Axes, title: str | None, x: str, y: str) -> Axes:
    """Returns the axes with labels, title and grid."""
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
    """Draws predictions against true values on probit axes: the ranks of each side as normal scores.

    Dense and sparse ranges read alike on these axes. The diagonal is perfect ranking; the ticks name values of the metric at
    quantiles. Where interval ends are given, points whose interval misses the true value have another colour. More than 4,000
    rows are sampled.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.
        low, high: Ends of each row's interval, `(rows,)`.
        ax: Where to draw.
        title: Of the plot.
        seed: Of the sample.
    """
    ax = new_axes() if ax is None else ax
    truth = np.asarray(target, dtype=np.float64)
    predicted = np.asarray(prediction, dtype=np.float64)
    rho = spearman(truth, predicted)
    count = len(truth)
    has_intervals = low is not None and high is not None
    inside = np.ones(count, dtype=bool)
    if has_intervals:
        inside = (np.asarray(low) <= truth) & (truth <= np.asarray(high))
    shown = np.arange(count)
    if count > MOST_POINTS:
        shown = np.sort(np.random.default_rng(seed).permutation(count)[:MOST_POINTS])

    ax.axline((0, 0), slope=1, color=GREY, linewidth=1, linestyle="--", zorder=1)
    x, y = _normal_scores(truth), _normal_scores(predicted)
    many = len(shown) > 500
    size = 7 if many else 14
    alpha = 0.35 if many else 0.6
    for chosen, color, label in ((inside, BLUE, "interval holds"), (~inside, ORANGE, "interval misses")):
        if chosen.any():
            rows = shown[chosen[shown]]
            name = f"{label} ({chosen.mean():.0%})" if has_intervals else None
            ax.scatter(x[rows], y[rows], s=size, color=color, alpha=alpha, linewidths=0, label=name)
    _name_quantiles(ax.xaxis, truth)
    _name_quantiles(ax.yaxis, predicted)
    if has_intervals:
        ax.legend(loc="upper left", fontsize="small", frameon=False)
    ax.set_aspect("equal")
    heading = f"{title}: " if title else ""
    labels = ("true value (ranks, probit)", "prediction (ranks, probit)")
    return _dressed(ax, f"{heading}rho {rho:.3f}, {count} rows", *labels)


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Returns the normal scores of the ranks, `(rows,)`."""
    return norm.ppf((rankdata(values) - 0.5) / len(values))


def _name_quantiles(axis: Axis, values: np.ndarray) -> None:
    """Puts ticks at quantiles of values, `(rows,)`, on an axis of normal scores, and names the values there."""
    levels = [0.01, 0.1, 0.5, 0.9, 0.99] if len(values) >= 50 else [0.1, 0.5, 0.9]
    axis.set_major_locator(FixedLocator(norm.ppf(levels)))
    axis.set_major_formatter(FixedFormatter([_short(v) for v in np.quantile(values, levels, method="nearest")]))


def _short(value: float) -> str:
    """Returns a number in a few characters: 1.2k, 3M."""
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
    """Draws the share of true values at or under the quantile of each level. Calibrated quantiles are on the diagonal.

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
        # A true value that equals the quantile counts half, so that values which repeat do not all fall on one side.
        under = np.array([(np.mean(target < by_level[q]) + np.mean(target <= by_level[q])) / 2 for q in levels])
        gap = np.abs(under - levels).max()
        ax.plot(levels, under, marker="o", markersize=4, color=color, label=f"{name} (largest gap {gap:.1%})")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    ax.legend(loc="upper left", fontsize="small", frameon=False)
    return _dressed(ax, title, "level of the quantile", "true values under it")


def group_histogram(
    target: Any, prediction: Any, groups: Any, *, ax: Axes | None = None, title: str | None = None, more_than: int = 8
) -> Axes:
    """Draws a histogram of Spearman's rho inside groups, such as the solutions of one problem; groups as in the report.

    Raises:
        EvaluationError: No group is large and wide enough.
    """
    found = per_group_spearman(target, prediction, groups, more_than=more_than, minimum_spread=MINIMUM_SPREAD)
    if not len(found.values):
        raise EvaluationError(f"no group of more than {more_than} rows whose targets differ; there is nothing to draw")
    ax = new_axes() if ax is None else ax
    ax.hist(found.values, bins=np.linspace(-1, 1, 21).tolist(), color=BLUE, alpha=0.85, edgecolor="white")
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


def target_histogram(
    target: Any, prediction: Any = None, *, ax: Axes | None = None, title: str | None = None, bins: int = 40
) -> Axes:
    """Draws a histogram of true values and, where there are some, of predictions; logarithmic where they span a factor of 10.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.
        ax: Where to draw.
        title: Of the plot.
        bins: Number of bins.
    """
    ax = new_axes() if ax is None else ax
    columns = {"true values": np.asarray(target, dtype=np.float64)}
    if prediction is not None:
        columns["predictions"] = np.asarray(prediction, dtype=np.float64)
    everything = np.concatenate(list(columns.values()))
    everything = everything[np.isfinite(everything)]
    logarithmic = bool(everything.min() > 0 and everything.max() / everything.min() > 10)
    if logarithmic:
        edges = np.geomspace(everything.min(), everything.max(), bins + 1)
    else:
        edges = np.linspace(everything.min(), everything.max() + 1e-12, bins + 1)
    for (name, values), color in zip(columns.items(), (BLUE, ORANGE), strict=False):
        ax.hist(values[np.isfinite(values)], bins=edges.tolist(), color=color, alpha=0.55, label=name)
    if logarithmic:
        ax.set_xscale("log")
    ax.legend(fontsize="small", frameon=False)
    heading = f"{title}: " if title else ""
    return _dressed(ax, f"{heading}{len(columns['true values'])} rows", "value", "rows")


def selection_curve(
    target: Any,
    predictions: Mapping[str, Any],
    *,
    smaller_is_better: bool = True,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draws the share of the rows predicted in the best p% that truly is there, over p. The diagonal is choice by lot.

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
    return _dressed(ax, title, "rows chosen, best first", "share that truly belongs there")


def pareto_plot(
    values: Any,
    low: Any,
    high: Any,
    front: Sequence[bool],
    names: Sequence[str],
    *,
    labels: tuple[str, str],
    level: float = 0.9,
    draws: Sequence[np.ndarray] | None = None,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draws two objectives of several candidates: medians, the Pareto front, and an ellipse over each candidate's intervals.

    An ellipse spans the central intervals of both metrics, or slants as joint draws do; axes are logarithmic where everything
    drawn is positive and spans more than a factor of 10.

    Args:
        values, low, high: Medians and ends of the intervals, `(candidates, 2)`.
        front: Which candidates no other one beats in both metrics, `(candidates,)`.
        names: Of the candidates; those on the front are numbered, and listed beside the axes.
        labels: Of the axes.
        level: Of the intervals, for the legend.
        draws: Pairs of numbers drawn for each candidate together, `(draws, 2)` each: ellipses are then those of normal
            distributions with their means and covariances, and hold `level` of them.
        ax: Where to draw.
        title: Of the plot.
    """
    ax = new_axes((6.2, 4.8)) if ax is None else ax
    is_front = np.asarray(front, dtype=bool)
    ends = [np.asarray(v, dtype=np.float64) for v in (values, low, high)]
    logarithmic = [bool((ends[1][:, k] > 0).all() and ends[2][:, k].max() / ends[1][:, k].min() > 10) for k in (0, 1)]
    # Ellipses cannot be drawn on logarithmic axes: the axes are linear, and what is drawn on them are logarithms.
    middle, least, most = (_drawn(points, logarithmic) for points in ends)

    for i in np.argsort(is_front, kind="stable"):  # the front on top
        # Medians are seldom in the middle of their interval: the ellipse stands on the interval, the point on the median.
        center = (least[i] + most[i]) / 2
        width, height = np.maximum(most[i] - least[i], 1e-9)
        angle = 0.0
        if draws is not None and len(draws[i]) > 2:
            center, width, height, angle = _covariance_ellipse(
                _drawn(_drawable(draws[i], logarithmic), logarithmic), level
            )
        fill = {"facecolor": BLUE, "alpha": 0.13} if is_front[i] else {"facecolor": GREY, "alpha": 0.05}
        ax.add_patch(Ellipse(center, width, height, angle=angle, edgecolor="none", zorder=2 + is_front[i], **fill))
    dominated = middle[~is_front]
    ax.scatter(dominated[:, 0], dominated[:, 1], s=14, color=GREY, linewidths=0, label="dominated", zorder=4)
    best = np.flatnonzero(is_front)[np.argsort(middle[is_front, 0])]
    ax.plot(*middle[best].T, color=BLUE, linewidth=1.2, marker="o", markersize=5, label="Pareto front", zorder=5)
    _number_points(ax, middle[best], [names[i] for i in best])
    for k, axis in enumerate((ax.xaxis, ax.yaxis)):
        if logarithmic[k]:
            _logarithmic_ticks(axis, least[:, k].min(), most[:, k].max())
    ax.margins(0.05)
    ax.autoscale_view()
    what = "intervals" if draws is None else "of joint draws"
    density = Patch(facecolor=BLUE, alpha=0.25, label=f"{level:.0%} {what}")
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], density], fontsize="small", frameon=False)
    return _dressed(ax, title, *labels)


def _drawable(points: np.ndarray, logarithmic: Sequence[bool]) -> np.ndarray:
    """Returns the points `(points, 2)` that have a place on the axes: above zero where an axis is logarithmic."""
    keep = np.ones(len(points), dtype=bool)
    for k in (0, 1):
        keep &= ~np.asarray(logarithmic[k]) | (points[:, k] > 0)
    return points[keep]


def _covariance_ellipse(points: np.ndarray, level: float) -> tuple[np.ndarray, float, float, float]:
    """Returns center, width, height and angle in degrees of the ellipse that holds a share of normally distributed points."""
    values, vectors = np.linalg.eigh(np.cov(points.T))
    width, height = 2 * np.sqrt(chi2.ppf(level, 2) * np.maximum(values[::-1], 1e-18))
    return points.mean(0), width, height, float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))


def _drawn(points: np.ndarray, logarithmic: Sequence[bool]) -> np.ndarray:
    """Returns points `(candidates, 2)` as they are drawn: decimal logarithms on the axes that are logarithmic."""
    columns = [np.log10(points[:, k]) if logarithmic[k] else points[:, k] for k in (0, 1)]
    return np.stack(columns, axis=1)


def _number_points(ax: Axes, points: np.ndarray, names: Sequence[str]) -> None:
    """Numbers points `(points, 2)` and lists their names beside the axes, at most 24 lines."""
    listed = []
    for number, (point, name) in enumerate(zip(points, names, strict=True), start=1):
        above = 5 if number % 2 else -11  # neighbours do not overlap
        ax.annotate(
            str(number),
            point,
            xytext=(0, above),
            textcoords="offset points",
            fontsize="x-small",
            color=BLACK,
            zorder=6,
            ha="center",
        )
        listed.append(f"{number}  {name}")
    if len(listed) > 24:
        listed = [*listed[:23], f"and {len(listed) - 23} more"]
    ax.text(1.02, 1.0, "\n".join(listed), transform=ax.transAxes, va="top", fontsize="x-small", color=BLACK)


def _logarithmic_ticks(axis: Axis, least: float, most: float) -> None:
    """Puts ticks of a logarithmic scale on an axis of decimal logarithms between two of these."""
    first, last = np.floor(least), np.ceil(most)
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [exponent + np.log10(step) for exponent in np.arange(first, last + 1) for step in steps]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _short(10.0**value)))


def report_plots(tasks: Mapping[str, Mapping[str, Predictions]], folder: str | Path) -> list[Path]:
    """Writes the plots of a report as PNG files: `TASK-METRIC-PLOT.png`.

    Args:
        tasks: Task to metric to predictions, as in `build_report`.
        folder: Made if need be.

    Returns:
        The paths.
    """
    target_folder = Path(folder)
    target_folder.mkdir(parents=True, exist_ok=True)
    written = []
    for task, metrics in tasks.items():
        for metric, predictions in metrics.items():
            for plot, ax in _plots_of(predictions, f"{task}, {metric}").items():
                name = "-".join(_file_name(part) for part in (task, metric, plot))
                written.append(target_folder / f"{name}.png")
                ax.figure.canvas.print_figure(written[-1], bbox_inches="tight")
    return written


def _file_name(part: str) -> str:
    """Returns a name with everything replaced that a file's name should not hold."""
    return "".join(c if c.isalnum() or c in "._" else "_" for c in part)


def _plots_of(predictions: Predictions, title: str) -> dict[str, Axes]:
    """Returns the plots that the rows of one metric allow, by name; none for fewer than two rows."""
    keep = np.isfinite(predictions.target) & ~np.isnan(predictions.median)
    if keep.sum() < 2:
        return {}
    target = predictions.target[keep]
    median = predictions.median[keep]
    quantiles = {level: values[keep] for level, values in predictions.quantiles.items()}
    plots = {"scatter": prediction_scatter(target, median, quantiles.get(0.05), quantiles.get(0.95), title=title)}
    plots["targets"] = target_histogram(target, median, title=title)

    if quantiles and predictions.uncalibrated:
        own = {level: values[keep] for level, values in predictions.uncalibrated.items()}
        curves = {"the model's own": own, "calibrated": quantiles}
        plots["calibration"] = calibration_curve(target, curves, title=title)
    elif quantiles:
        plots["calibration"] = calibration_curve(target, {"the model's own": quantiles}, title=title)

    predictors = {"this model": median}
    for name, values in predictions.baselines.items():
        if np.ptp(values[keep]) > 0:  # a constant chooses nothing
            predictors[name] = values[keep]
    smaller = predictions.smaller_is_better
    plots["selection"] = selection_curve(target, predictors, smaller_is_better=smaller, title=title)

    if predictions.groups is not None:
        groups = np.asarray(predictions.groups)[keep]
        if len(per_group_spearman(target, median, groups, minimum_spread=MINIMUM_SPREAD).values):
            plots["groups"] = group_histogram(target, median, groups, title=title)
    return plots


__all__ = [
    "calibration_curve",
    "group_histogram",
    "new_axes",
    "pareto_plot",
    "prediction_scatter",
    "report_plots",
    "selection_curve",
    "target_histogram",
]
