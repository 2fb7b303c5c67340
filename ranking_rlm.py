"""Which of several is best: exact probabilities from whole distributions, taken as independent of each other.

    distributions = model.distributions(inputs, metrics=["latency_ms"])
    probability_best(distributions, smaller_is_better=True)  # one for each input

A distribution is cut into pieces, each a range of values with its mass; inside a piece the mass is taken as even, so the
error is at most of the order of a piece's mass. Where several candidates can have one value, each of them wins the tie with
the same probability. A candidate that gives no number (a program that fails) never is best.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibration_rlm import Calibration
from .errors_rlm import MetricError

_CHUNK = 4096


@dataclass
class Distribution:
    """One metric of one input.

    Attributes:
        low, high: Ends of the pieces, ascending and disjoint, float64 `(pieces,)`; equal for a single value.
        mass: Of each piece, sum 1, `(pieces,)`.
        finite: Probability that there is a number at all.
        calibration: What mends the distribution, where the checkpoint has a calibration.
    """

    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray
    finite: float = 1.0
    calibration: Calibration | None = None

    def __post_init__(self):
        order = np.lexsort((self.high, self.low))
        self.low, self.high, self.mass = self.low[order], self.high[order], self.mass[order]
        self._below = np.concatenate([[0.0], np.cumsum(self.mass)])

    def cdf(self, values: np.ndarray, side: str) -> np.ndarray:
        """P(y < value) for the side `left`, P(y <= value) for `right`, float64 `(values,)`, of the finite part."""
        index = np.searchsorted(self.high, values, side="left" if side == "left" else "right")
        found = self._below[index]
        inside = np.minimum(index, len(self.mass) - 1)
        low, width = self.low[inside], self.high[inside] - self.low[inside]
        partly = (index < len(self.mass)) & (low < values) & (width > 0)
        share = np.clip((values - low) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        found = np.minimum(found + np.where(partly, share * self.mass[inside], 0.0), 1.0)
        if self.calibration is None:
            return found
        return self.calibration.calibrated(self.calibration.pooled(found, values, side))

    @property
    def edges(self) -> np.ndarray:
        """All values at which the distribution function bends or jumps, `(edges,)`."""
        pool = () if self.calibration is None else self.calibration.pool_values
        return np.unique(np.concatenate([self.low, self.high, pool]))


def probability_best(distributions: Sequence[Distribution], smaller_is_better: bool = True) -> np.ndarray:
    """P(each is best), float64 `(candidates,)`.

    Values of a candidate that fall into one slot, between two neighbouring ends of pieces or at one of them, tie there; with
    an independent uniform priority for each, candidate i wins it with `m_i * integral_0^1 prod_j (worse_j + u * m_j) du`, where
    `m` is the mass in the slot and `worse` that behind it. The integrand is a polynomial in u: Gauss-Legendre is exact.

    Returns:
        Probabilities that sum to the probability that any candidate gives a number; 1 where all surely do.

    Raises:
        MetricError: No candidates.
    """
    if not distributions:
        raise MetricError("There are no candidates to rank.")
    edges = np.unique(np.concatenate([d.edges for d in distributions]))
    masses = np.zeros((len(distributions), 2 * len(edges) - 1))
    for row, each in enumerate(distributions):
        left, right = each.cdf(edges, "left"), each.cdf(edges, "right")
        masses[row, ::2] = right - left
        masses[row, 1::2] = left[1:] - right[:-1]
        masses[row] = np.maximum(masses[row], 0.0)
        masses[row] *= each.finite / max(masses[row].sum(), 1e-300)
    if not smaller_is_better:
        masses = masses[:, ::-1]
    masses = masses[:, (masses > 0).any(0)]
    worse = np.maximum(1.0 - np.cumsum(masses, 1), 0.0)
    # Exact for products of up to 2 * nodes factors; beyond that the product is smooth enough.
    nodes, weights = np.polynomial.legendre.leggauss(min(32, len(distributions) // 2 + 1))
    nodes, weights = (nodes + 1) / 2, weights / 2
    result = np.zeros(len(distributions))
    for start in range(0, masses.shape[1], _CHUNK):
        here, behind = masses[:, start : start + _CHUNK, None], worse[:, start : start + _CHUNK, None]
        factors = behind + nodes * here
        before, after = np.ones_like(factors), np.ones_like(factors)
        for i in range(1, len(factors)):
            before[i] = before[i - 1] * factors[i - 1]
            after[-i - 1] = after[-i] * factors[-i]
        result += ((before * after) @ weights * here[..., 0]).sum(1)
    return result


__all__ = ["Distribution", "probability_best"]
