"""Scores of numeric predictions: rank agreement, relative errors, intervals, distributions, and their uncertainty.

    from code_rlm.evaluation.metrics import bootstrap_interval, spearman

    print(bootstrap_interval(spearman, target, prediction, groups=problem))

Everything is float64 and counts every row given. A score that the rows do not define is NaN, as each docstring states: a
constant column has no rank agreement, a target of zero has no relative error. Rows that cannot be scored at all (NaN,
lengths that differ, none) are an `EvaluationError`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import kendalltau

from code_rlm import stats
from code_rlm.errors_rlm import RLMError


class EvaluationError(RLMError):
    """Predictions cannot be scored as given."""


class Interval(NamedTuple):
    """A score with its confidence interval.

    Attributes:
        value: The score on the rows given.
        low: Lower end of the interval; NaN where the rows do not define it.
        high: Upper end.
        resamples: Bootstrap resamples that defined the score; fewer than asked for where some were degenerate.
    """

    value: float
    low: float
    high: float
    resamples: int


class GroupScores(NamedTuple):
    """Rank agreement inside groups.

    Attributes:
        names: Groups that were scored, sorted, `(scored,)`.
        values: Spearman's rho inside each, `(scored,)`.
        too_small: Groups left out because they have too few rows.
        too_narrow: Groups left out because their targets hardly differ.
    """

    names: np.ndarray
    values: np.ndarray
    too_small: int
    too_narrow: int


def _rows(name: str, values: Any, *, finite: bool = False) -> np.ndarray:
    """Returns the values as float64 `(rows,)`; NaN, and infinity where `finite`, is an error."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise EvaluationError(f"{name} must have one dimension, `(rows,)`; its shape is {array.shape}")
    if array.size == 0:
        raise EvaluationError(f"{name} has no rows; give at least one")
    bad = ~np.isfinite(array) if finite else np.isnan(array)
    if bad.any():
        found = "not finite" if finite else "NaN"
        raise EvaluationError(
            f"{name} is {found} in {bad.sum()} of {array.size} rows, first in row {int(bad.argmax())}; "
            "leave these rows out and report how many they were"
        )
    return array


def _pair(target: Any, prediction: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns targets and predictions as float64 `(rows,)` each, of equal length."""
    true_values = _rows("target", target, finite=True)
    predicted = _rows("prediction", prediction)
    if true_values.size != predicted.size:
        raise EvaluationError(f"target has {true_values.size} rows and prediction {predicted.size}; they must pair up")
    return true_values, predicted


def _group_index(groups: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sorted names of the groups and, for each row, the position of its group among them."""
    labels = np.asarray(groups)
    if labels.shape != (rows,):
        raise EvaluationError(f"groups must name one group a row, `({rows},)`; its shape is {labels.shape}")
    return np.unique(labels.astype(str) if labels.dtype == object else labels, return_inverse=True)


def spearman(target: Any, prediction: Any) -> float:
    """Returns Spearman's rank correlation rho: Pearson's correlation of the ranks, ties at their mean rank.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`; infinities rank as such.

    Returns:
        From -1 to 1; NaN for one row or when either side is constant.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a target that is not finite.
    """
    return stats.spearman(*_pair(target, prediction))


def kendall(target: Any, prediction: Any) -> float:
    """Returns Kendall's tau-b: concordant less discordant pairs, over pairs, with the correction for ties.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`; infinities rank as such.

    Returns:
        From -1 to 1; NaN for one row or when either side is constant.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a target that is not finite.
    """
    target, prediction = _pair(target, prediction)
    if target.size < 2:
        return math.nan
    # The p-value is not used: its exact form is slow, its asymptotic one divides by zero on two rows.
    method = "asymptotic" if target.size > 2 else "auto"
    return float(kendalltau(target, prediction, variant="b", method=method).statistic)


def _relative_errors(target: Any, prediction: Any) -> np.ndarray | None:
    """Returns `|prediction - target| / |target|`, `(rows,)`; None where a target is zero."""
    target, prediction = _pair(target, prediction)
    if (target == 0).any():
        return None
    return np.abs(prediction - target) / np.abs(target)


def mape(target: Any, prediction: Any) -> float:
    """Returns the mean absolute percentage error, `mean(|prediction - target| / |target|)`, as a share: 0.25 is 25%.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.

    Returns:
        0 or more; NaN when any target is zero.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a target that is not finite.
    """
    errors = _relative_errors(target, prediction)
    return math.nan if errors is None else float(errors.mean())


def median_ape(target: Any, prediction: Any) -> float:
    """Returns the median absolute percentage error as a share: 0.25 is 25%.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.

    Returns:
        0 or more; NaN when any target is zero.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a target that is not finite.
    """
    errors = _relative_errors(target, prediction)
    return math.nan if errors is None else float(np.median(errors))


def log_rmse(target: Any, prediction: Any) -> float:
    """Returns the root mean squared error of the natural logarithms; about the relative error while that is small.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.

    Returns:
        0 or more; NaN when any target or prediction is zero or negative.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a target that is not finite.
    """
    target, prediction = _pair(target, prediction)
    if (target <= 0).any() or (prediction <= 0).any():
        return math.nan
    return float(np.sqrt(np.mean((np.log(prediction) - np.log(target)) ** 2)))


def _bounds(low: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of intervals as float64 `(rows,)` each, the lower ones not above the upper ones."""
    low = _rows("low", low)
    high = _rows("high", high)
    if low.size != high.size:
        raise EvaluationError(f"low has {low.size} rows and high {high.size}; they must pair up")
    if (low > high).any():
        row = int((low > high).argmax())
        raise EvaluationError(f"low exceeds high in row {row}: {low[row]:g} > {high[row]:g}; are they swapped?")
    return low, high


def interval_coverage(target: Any, low: Any, high: Any) -> float:
    """Returns the share of targets inside their interval, ends included. A calibrated 90% interval covers 0.9.

    Args:
        target: True values, `(rows,)`, finite.
        low: Lower ends, `(rows,)`.
        high: Upper ends, `(rows,)`.

    Returns:
        From 0 to 1.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a lower end above its upper one.
    """
    low, high = _bounds(low, high)
    target, _ = _pair(target, low)
    return float(np.mean((low <= target) & (target <= high)))


def interval_width(low: Any, high: Any, scale: Any = None) -> float:
    """Returns the median width of the intervals; of two that cover alike, the narrower is better.

    Args:
        low: Lower ends, `(rows,)`.
        high: Upper ends, `(rows,)`.
        scale: What to measure each width in, `(rows,)`, usually the target or the median; 1 when not given.

    Returns:
        In the unit of the ends, or relative to `|scale|`; NaN when any scale is zero.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a lower end above its upper one.
    """
    low, high = _bounds(low, high)
    if scale is None:
        return float(np.median(high - low))
    scale, _ = _pair(scale, low)
    return math.nan if (scale == 0).any() else float(np.median((high - low) / np.abs(scale)))


def nll(log_probs: Any) -> float:
    """Returns the mean negative log-likelihood of the targets, in nats a row.

    Args:
        log_probs: Natural logarithm of the probability (or density) that the model gave each target, `(rows,)`.

    Returns:
        Infinity when any target was impossible.

    Raises:
        EvaluationError: No rows or a NaN.
    """
    return float(-_rows("log_probs", log_probs).mean())


def crps_from_quantiles(target: Any, quantiles: Any, levels: Sequence[float]) -> np.ndarray:
    """Returns the continuous ranked probability score of each row, from quantiles of the predicted distribution.

    The score is the integral of the quantile (pinball) losses over all levels,
    `CRPS = 2 * integral_0^1 (1{y < q(t)} - t) * (q(t) - y) dt` (Laio and Tamea 2007, Hydrology and Earth System
    Sciences 11; Gneiting and Ranjan 2011, Journal of Business & Economic Statistics 29). Here each given level stands
    for the levels nearest to it: weights are the distances between the midpoints of neighbours, with 0 and 1 at the
    ends. With levels `(k - 1/2) / K` this is exactly the score of the K quantiles taken as equally likely values; with
    few levels, and none in the tails, it only compares models that were asked for the same levels.

    Args:
        target: True values, `(rows,)`, finite.
        quantiles: Quantiles, `(rows, levels)`, finite.
        levels: Their levels, each between 0 and 1, ascending, `(levels,)`.

    Returns:
        `(rows,)`, in the unit of the target, 0 or more; smaller is better. For a point forecast the absolute error.

    Raises:
        EvaluationError: Shapes that do not fit, levels outside (0, 1) or not ascending, or a value that is not finite.
    """
    target = _rows("target", target, finite=True)
    values = np.asarray(quantiles, dtype=np.float64)
    level = np.asarray(levels, dtype=np.float64)
    inside = level.ndim == 1 and level.size > 0 and (level > 0).all() and (level < 1).all()
    if not inside or (np.diff(level) <= 0).any():
        raise EvaluationError(f"levels must ascend strictly inside (0, 1); got {list(levels)}")
    if values.shape != (target.size, level.size):
        raise EvaluationError(
            f"quantiles must have the shape (rows, levels) = ({target.size}, {level.size}); it is {values.shape}"
        )
    if not np.isfinite(values).all():
        raise EvaluationError("quantiles must be finite; leave rows without a finite distribution out and count them")
    edges = np.concatenate([[0.0], (level[1:] + level[:-1]) / 2, [1.0]])
    error = values - target[:, None]
    return 2 * (((error > 0) - level) * error) @ np.diff(edges)


def per_group_spearman(
    target: Any, prediction: Any, groups: Any, *, more_than: int = 8, minimum_spread: float = 0.0
) -> GroupScores:
    """Returns Spearman's rho inside every group that has enough rows, such as the solutions of one problem.

    A group whose predictions are all equal scores 0. Leaving it out would favour a model that does not answer.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.
        groups: Name of each row's group, `(rows,)`.
        more_than: Only groups of more rows than this are scored.
        minimum_spread: Only groups are scored whose targets spread at least this far, as
            `(max - min) / median(|target|)`: 0.05 leaves out groups within 5%, where ranks are mostly noise. Groups
            with one value only are always left out.

    Returns:
        The scores by group and how many groups were left out, and why.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, a target that is not finite, or a bad option.
    """
    if more_than < 1 or minimum_spread < 0:
        raise EvaluationError(f"need more_than >= 1 and minimum_spread >= 0; got {more_than} and {minimum_spread}")
    target, prediction = _pair(target, prediction)
    names, index = _group_index(groups, target.size)
    by_group = np.argsort(index, kind="stable")
    ends = np.cumsum(np.bincount(index))
    scored, values = [], []
    too_small = too_narrow = 0
    for name, rows in zip(names, np.split(by_group, ends[:-1]), strict=True):
        truth = target[rows]
        if rows.size <= more_than:
            too_small += 1
        elif np.ptp(truth) == 0 or np.ptp(truth) < minimum_spread * np.median(np.abs(truth)):
            too_narrow += 1
        else:
            rho = spearman(truth, prediction[rows])
            scored.append(name)
            values.append(0.0 if math.isnan(rho) else rho)
    return GroupScores(np.array(scored, dtype=names.dtype), np.array(values, dtype=np.float64), too_small, too_narrow)


def within_group_spearman(
    target: Any, prediction: Any, groups: Any, *, more_than: int = 8, minimum_spread: float = 0.0
) -> float:
    """Returns the mean over groups of Spearman's rho inside each; see `per_group_spearman` for the groups that count.

    Returns:
        From -1 to 1; NaN when no group counts.
    """
    scores = per_group_spearman(target, prediction, groups, more_than=more_than, minimum_spread=minimum_spread)
    return float(scores.values.mean()) if scores.values.size else math.nan


def top_1(target: Any, prediction: Any, groups: Any = None, *, lower_is_better: bool = False) -> float:
    """Returns the share of groups in which the row predicted best is truly best.

    Where several rows share the best prediction, one of them is taken to be drawn at random; where several share the
    best target, any of them is right.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.
        groups: Name of each row's group, `(rows,)`; all rows are one group when not given.
        lower_is_better: True for times and sizes, False for accuracies and throughputs.

    Returns:
        From 0 to 1.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, or a target that is not finite.
    """
    target, prediction = _pair(target, prediction)
    names, index = _group_index(np.zeros(target.size, dtype=int) if groups is None else groups, target.size)
    if lower_is_better:
        target, prediction = -target, -prediction

    def is_best(values: np.ndarray) -> np.ndarray:
        best = np.full(names.size, -np.inf)
        np.maximum.at(best, index, values)
        return values == best[index]

    chosen = is_best(prediction)
    right = np.bincount(index, weights=chosen & is_best(target)) / np.bincount(index, weights=chosen)
    return float(right.mean())


def top_share(target: Any, prediction: Any, share: float = 0.1, *, lower_is_better: bool = False) -> float:
    """Returns which share of the rows predicted in the best `share` truly is there; chance is `share`.

    The best `share` are `ceil(share * rows)` rows, so precision and recall are one number. Rows that tie at the border
    count by the probability that a random order of the ties takes them in.

    Args:
        target: True values, `(rows,)`, finite.
        prediction: Predicted values, `(rows,)`.
        share: Above 0, at most 1: 0.1 is the best tenth.
        lower_is_better: True for times and sizes, False for accuracies and throughputs.

    Returns:
        From 0 to 1.

    Raises:
        EvaluationError: No rows, lengths that differ, a NaN, a target that is not finite, or a bad share.
    """
    if not 0 < share <= 1:
        raise EvaluationError(f"share must be above 0 and at most 1; got {share}")
    target, prediction = _pair(target, prediction)
    count = min(target.size, math.ceil(share * target.size - 1e-9))

    def membership(values: np.ndarray) -> np.ndarray:
        values = values if lower_is_better else -values
        border = np.partition(values, count - 1)[count - 1]
        inside = values < border
        tied = values == border
        return inside + tied * ((count - inside.sum()) / tied.sum())

    return float(membership(target) @ membership(prediction)) / count


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: Any,
    groups: Any = None,
    level: float = 0.95,
    n: int = 1000,
    seed: int = 0,
) -> Interval:
    """Returns a score with its percentile bootstrap interval; whole groups are drawn with replacement.

    Rows of one group are not independent, so groups are drawn: as many as there are, each with all its rows. The
    statistic must not depend on the order of rows. Ten thousand rows take about three seconds with rank correlations,
    less with anything simpler.

    Args:
        statistic: Called with the arrays' drawn rows, returns a number.
        *arrays: At least one; the first axis of each is rows.
        groups: Name of each row's group, `(rows,)`; every row is its own group when not given.
        level: Coverage of the interval, between 0 and 1.
        n: Number of resamples.
        seed: The same seed gives the same interval.

    Returns:
        Score, ends and how many resamples defined the score. The ends are NaN with a single group, with fewer than two
        defined resamples, and when the score itself is NaN.

    Raises:
        EvaluationError: No arrays or rows, lengths that differ, or a bad level or number of resamples.
    """
    if not 0 < level < 1 or n < 1:
        raise EvaluationError(f"need 0 < level < 1 and n >= 1; got level={level}, n={n}")
    data = [np.asarray(array) for array in arrays]
    sizes = {array.shape[0] if array.ndim else 0 for array in data}
    if len(sizes) != 1 or sizes == {0}:
        raise EvaluationError(f"give arrays with the same number of rows, at least one; got {sorted(sizes)} rows")
    rows = sizes.pop()
    value = float(statistic(*data))
    index = np.arange(rows) if groups is None else _group_index(groups, rows)[1]
    count = int(index.max()) + 1
    if count < 2 or math.isnan(value):
        return Interval(value, math.nan, math.nan, 0)
    scores = stats.bootstrap_scores(statistic, data, index, n, seed)
    scores = scores[~np.isnan(scores)]
    if scores.size < 2:
        return Interval(value, math.nan, math.nan, scores.size)
    tail = (1 - level) / 2
    # "lower" and "higher" never mix an infinite score into a finite one, as interpolation would.
    low = float(np.quantile(scores, tail, method="lower"))
    high = float(np.quantile(scores, 1 - tail, method="higher"))
    return Interval(value, low, high, scores.size)


def central_intervals(levels: Mapping[float, Any] | Sequence[float]) -> dict[float, tuple[float, float]]:
    """Pairs quantile levels into central intervals: 0.05 with 0.95 is `{0.9: (0.05, 0.95)}`.

    Args:
        levels: Quantile levels between 0 and 1, or a mapping whose keys they are.

    Returns:
        Coverage of each interval, ascending, and the two levels that bound it; a level without counterpart is in none.
    """
    pairs = {}
    for low, high in itertools.combinations(sorted(levels), 2):
        if abs(low + high - 1) < 1e-9:
            pairs[round(high - low, 9)] = (low, high)
    return dict(sorted(pairs.items()))


__all__ = [
    "EvaluationError",
    "GroupScores",
    "Interval",
    "bootstrap_interval",
    "central_intervals",
    "crps_from_quantiles",
    "interval_coverage",
    "interval_width",
    "kendall",
    "log_rmse",
    "mape",
    "median_ape",
    "nll",
    "per_group_spearman",
    "spearman",
    "top_1",
    "top_share",
    "within_group_spearman",
]
