"""Statistics that every part of the package shares; nothing in this file imports from the package.

Groups are rows that are not independent of each other: variants of one program, networks of one search space.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import spearmanr


def equal_weights(groups: np.ndarray) -> np.ndarray:
    """Returns weights that are equal between groups and within each group.

    Args:
        groups: Name or number of each row's group, `(rows,)`.

    Returns:
        float64 `(rows,)`, sum 1.
    """
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / counts[index] / len(counts)


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: np.ndarray | float) -> np.ndarray:
    """Returns the smallest values whose cumulative weight reaches each level.

    Args:
        values: Values `(rows,)`.
        weights: Their weights `(rows,)`, not negative; their sum need not be 1.
        levels: Levels in [0, 1], any shape.

    Returns:
        Values of the shape of `levels`.
    """
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weights[order])
    first = np.searchsorted(running, np.asarray(levels) * running[-1])
    # Rounding in the cumulative sum may leave a level of 1 behind the last row.
    return values[order][np.minimum(first, len(values) - 1)]


def logistic_scale(distances: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Returns the scale of the logistic distribution about 0 that has the median of these distances.

    The median of |x| of a standard logistic x is log 3.

    Args:
        distances: Absolute errors `(rows,)`.
        weights: Weight of each row `(rows,)`; None for equal ones.
    """
    median = np.median(distances) if weights is None else weighted_quantiles(distances, weights, 0.5)
    return float(median) / float(np.log(3))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Spearman's rank correlation rho; ties have their mean rank, infinities rank as such.

    Args:
        x: Values `(rows,)`, no NaN.
        y: Values `(rows,)`, no NaN.

    Returns:
        From -1 to 1; NaN for less than two rows and where one side is constant.
    """
    if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all():
        return float("nan")
    # Rounding may lead beyond the ends.
    return float(np.clip(spearmanr(x, y).statistic, -1.0, 1.0))


def bootstrap_scores(
    statistic: Callable[..., float], arrays: Sequence[np.ndarray], group: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """Returns a statistic of resampled rows. Whole groups are drawn with replacement, as many as there are.

    Args:
        statistic: Called with the drawn rows of the arrays; must not depend on their order.
        arrays: At least one; the first axis of each is rows.
        group: The number of each row's group, int `(rows,)`, counted from 0 without gaps.
        resamples: The number of resamples.
        seed: The same seed draws the same groups.

    Returns:
        float64 `(resamples,)`.
    """
    rng = np.random.default_rng(seed)
    rows = np.arange(len(group))
    groups = int(group.max()) + 1
    scores = np.empty(resamples)
    for number in range(resamples):
        times_drawn = np.bincount(rng.integers(0, groups, size=groups), minlength=groups)
        drawn = np.repeat(rows, times_drawn[group])
        scores[number] = statistic(*(array[drawn] for array in arrays))
    return scores


__all__ = ["bootstrap_scores", "equal_weights", "logistic_scale", "spearman", "weighted_quantiles"]
