"""Distributions of one number: score scale, pooling, calibration, comparison.

The decoder defines a distribution over the numbers of the format (`digit_tree_rlm.py`). On its way to an answer it meets, in
this order:

1. `ScoreScale`: the map between a metric's values and the scores of the feature ensemble (`ensemble_rlm.py`).
2. `PoolingComponent`: a logistic distribution about such a score, pooled with the decoder's probabilities at every node of
   the tree (a logarithmic opinion pool, Genest and Zidek 1986, Statistical Science 1).
3. `Calibration`: a linear pool with the metric's own values, then a monotone map of levels (Gneiting and Ranjan 2013,
   Electronic Journal of Statistics 7; Kuleshov et al. 2018, arXiv 1807.00263).
4. `Distribution` and `probability_best`: whole distributions, and which of several candidates is the best.

`FittedState` (`configuration_rlm.py`) holds what was fitted for the first three. How each part is fitted:
`training/ensemble.py` (scales), `training/pooling.py`, `evaluation/calibration.py`. Everything here is float64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import Any, Literal, TypeVar

import numpy as np

from .errors_rlm import CheckpointError, MetricError

Regressor = tuple[str, str | None]
"""A regressor of the feature ensemble: its metric, and the domain that it is for (None: all other texts)."""


# ------------------------------------------------------------------------------------------------- score scale

_LARGEST_LOGARITHM = 700.0  # of a float64


@dataclass(frozen=True)
class ScoreScale:
    """A rising, piecewise linear map from a metric's values, or their logarithms, to scores.

    Attributes:
        logarithm: Whether the map is of the values' natural logarithm.
        values: Knots, rising: values or their logarithms.
        scores: Scores at the knots, rising. Beyond the ends the map continues with its mean slope.
    """

    logarithm: bool
    values: tuple[float, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("values", "scores"):
            knots = np.array(getattr(self, name), dtype=float)
            rising = knots.ndim == 1 and len(knots) >= 2 and np.isfinite(knots).all() and (np.diff(knots) > 0).all()
            if not rising:
                raise CheckpointError(
                    f"A scale's {name} must be two or more rising numbers, got {getattr(self, name)!r}."
                )
            object.__setattr__(self, name, tuple(knots.tolist()))
        if len(self.values) != len(self.scores):
            raise CheckpointError(f"A scale has {len(self.values)} values and {len(self.scores)} scores.")
        object.__setattr__(self, "logarithm", bool(self.logarithm))

    @classmethod
    def from_dict(cls, entry: "ScoreScale | Mapping[str, Any]") -> "ScoreScale":
        """Returns the scale of a JSON form `{logarithm, values, scores}`.

        Raises:
            CheckpointError: Unknown or missing keys, or knots that do not rise.
        """
        if isinstance(entry, cls):
            return entry
        known = [f.name for f in fields(cls)]
        if not isinstance(entry, Mapping) or set(entry) != set(known):
            raise CheckpointError(f"A scale has the keys {known}, got {entry!r:.200}.")
        return cls(**entry)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready fields."""
        return {"logarithm": self.logarithm, "values": list(self.values), "scores": list(self.scores)}

    @classmethod
    def normal(cls, values: np.ndarray, knots: int = 33) -> "ScoreScale":
        """Returns the scale on which the given values have standard normal scores (van der Waerden 1952).

        Accuracies crowd below 100, memory above that of an idle process. On normal scores squared error weighs their order
        everywhere; on the metric's own scale or its logarithm's it weighs the outliers alone.

        Args:
            values: Values of the metric `(rows,)`, not all equal.
            knots: The most knots of the map.
        """
        ordered = np.sort(np.asarray(values, dtype=float))
        logarithm = bool(ordered[0] > 0 and np.log(ordered[0]) < np.log(ordered[-1]))
        ordered = np.log(ordered) if logarithm else ordered
        reach = NormalDist().inv_cdf(1 - 0.5 / len(ordered))
        knot_scores = np.linspace(-reach, reach, knots)
        levels = np.array([NormalDist().cdf(score) for score in knot_scores])
        levels[[0, -1]] = 0, 1  # no observed value lies beyond the outermost knots
        knot_values = np.quantile(ordered, levels)
        # Knots closer than rounding are one knot: values that occur many times get the mean of their scores.
        rounding = 1e-9 * np.maximum(np.abs(knot_values[1:]), np.abs(knot_values[:-1]))
        is_new = np.concatenate([[True], np.diff(knot_values) > rounding])
        merged_into = np.cumsum(is_new) - 1
        merged_scores = np.bincount(merged_into, knot_scores) / np.bincount(merged_into)
        if len(merged_scores) < 2:  # nearly all values are equal
            return cls(logarithm, (ordered[0], ordered[-1]), (-1.0, 1.0))
        return cls(logarithm, tuple(knot_values[is_new]), tuple(merged_scores))

    def score(self, values: Any) -> np.ndarray:
        """Returns the scores of values, float64 of the same shape; minus infinity for 0 where the map is of logarithms."""
        x = np.asarray(values, dtype=float)
        if self.logarithm:
            with np.errstate(divide="ignore"):
                x = np.log(np.maximum(x, 0.0))
        first, last = self.values[0], self.values[-1]
        mean_slope = (self.scores[-1] - self.scores[0]) / (last - first)
        beyond = np.minimum(x - first, 0.0) + np.maximum(x - last, 0.0)
        return np.interp(x, self.values, self.scores) + mean_slope * beyond

    def values_at(self, scores: Any) -> np.ndarray:
        """Returns the values that have some scores, in the metric's unit, float64 of the same shape; the inverse of `score`."""
        y = np.asarray(scores, dtype=float)
        first, last = self.scores[0], self.scores[-1]
        mean_slope = (self.values[-1] - self.values[0]) / (last - first)
        beyond = np.minimum(y - first, 0.0) + np.maximum(y - last, 0.0)
        x = np.interp(y, self.scores, self.values) + mean_slope * beyond
        return np.exp(np.minimum(x, _LARGEST_LOGARITHM)) if self.logarithm else x

    @classmethod
    def linear(cls, values: np.ndarray) -> "ScoreScale":
        """Returns the standardised scale of the given values, or of their logarithms where all are above 0.

        It is the same line everywhere, so that scores beyond those of the values keep their meaning.

        Args:
            values: Values of the metric `(rows,)`, not all equal.
        """
        x = np.asarray(values, dtype=float)
        logarithm = bool(x.min() > 0)
        x = np.log(x) if logarithm else x
        return cls(logarithm, (float(x.mean() - x.std()), float(x.mean() + x.std())), (-1.0, 1.0))


# ----------------------------------------------------------------------------------------------------- pooling


@dataclass(frozen=True)
class PoolingComponent:
    """A logistic distribution about a metric's score, and the weights of the pool with the decoder.

    At every node of the digit tree both distributions are raised to their weights, multiplied and normalised. The tree stays
    a tree, so quantiles, samples, log-probabilities and P(a < b) stay exact and consistent with each other. A metric for
    which the decoder is better alone has no component.

    Attributes:
        scale: Scale of the logistic distribution, in units of the residual scale of the regressor that gave the score
            (`FittedState.residual_scales`), or of the score where that is unknown.
        decoder_weight: Exponent of the decoder's probabilities.
        weight: Exponent of the component's probabilities.
        floor: Share of the decoder's probabilities mixed into the component's before the exponent, so that the component
            never rules out what the decoder is certain of.
        rows, groups: Size of the validation data that it was fitted on.
    """

    scale: float
    decoder_weight: float
    weight: float
    floor: float = 1e-6
    rows: int = 0
    groups: int = 0

    def __post_init__(self) -> None:
        numbers = (self.scale, self.decoder_weight, self.weight, self.floor)
        if not all(isinstance(v, (int, float)) and np.isfinite(v) for v in numbers):
            raise CheckpointError(f"A pooling component's fields must be finite numbers, got {asdict(self)}.")
        if self.scale <= 0 or self.decoder_weight < 0 or self.weight < 0 or not 0 < self.floor <= 1:
            raise CheckpointError(
                "A pooling component needs a scale above 0, weights of at least 0 and a floor in (0, 1]; got "
                f"{asdict(self)}."
            )

    @classmethod
    def from_dict(cls, entry: "PoolingComponent | Mapping[str, Any]") -> "PoolingComponent":
        """Returns the component of a JSON form.

        Raises:
            CheckpointError: Unknown or missing keys, or fields out of range.
        """
        return _from_entry(cls, entry, "pooling component")

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready fields."""
        return asdict(self)

    def masses(
        self, low: np.ndarray, high: np.ndarray, scores: np.ndarray, residual_scales: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """Returns P(low < y < high) under the component.

        Args:
            low, high: Ends of the ranges, as scores.
            scores: Centre of each distribution.
            residual_scales: Residual scale of each score.

        Returns:
            float64 of the common shape that the arguments broadcast to.
        """
        standard_low = (low - scores) / (self.scale * residual_scales)
        standard_high = (high - scores) / (self.scale * residual_scales)
        # Mirrored to the side where both cumulative probabilities are small, so that their difference keeps its digits.
        mirrored = standard_low + standard_high > 0
        first = np.where(mirrored, -standard_high, standard_low)
        second = np.where(mirrored, -standard_low, standard_high)
        return np.maximum(_sigmoid(second) - _sigmoid(first), 0.0)

    def pool(self, log_probs: np.ndarray, masses: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """Returns the pooled log-probabilities of the tokens at some nodes.

        Args:
            log_probs: The decoder's, float64 `(nodes, vocabulary)`, minus infinity where the grammar allows no token.
            masses: The component's mass behind each token, `(nodes, vocabulary)`; ignored where it leads to no finite number.
            finite: Which tokens lead to finite numbers, bool `(nodes, vocabulary)`; special outcomes keep their
                probabilities.

        Returns:
            float64 `(nodes, vocabulary)`.
        """
        decoder = np.where(finite, np.exp(log_probs), 0.0)
        finite_mass = decoder.sum(1, keepdims=True)
        masses = np.where(finite, masses, 0.0)
        component_mass = masses.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            decoder = decoder / finite_mass
            # Where the component's mass underflows float64 it adds nothing: the decoder's probabilities take its place.
            component = np.where(component_mass > 1e-300, masses / component_mass, decoder)
            component = (1 - self.floor) * component + self.floor * decoder
            pooled = self.decoder_weight * np.log(decoder) + self.weight * np.log(component)
            pooled = np.where(finite & (decoder > 0), pooled, -np.inf)
            pooled -= pooled.max(1, keepdims=True)
            # Normalised to the mass that the decoder gives to finite numbers.
            pooled += np.log(finite_mass) - np.log(np.exp(pooled).sum(1, keepdims=True))
        return np.where(finite & (finite_mass > 0), pooled, log_probs)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)) without overflow."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + tail), tail / (1 + tail))


# ------------------------------------------------------------------------------------------------- calibration

# A quantile needs a level strictly inside (0, 1); the tree's float64 sums resolve no finer level.
_LEAST_LEVEL = 1e-12


@dataclass(frozen=True)
class Calibration:
    """A correction of one metric's distributions, fitted on rows held out from training.

    1. *Pooling.* Each distribution is mixed with that of the metric as a whole, a few equally likely values, so that its
       tails hold observed values instead of any number of the format.
    2. *Levels.* The pooled quantile at level `g(p)` is the calibrated quantile at level p, and the calibrated P(y < t) is
       `g^-1` of the pooled one. One monotone map `g` serves every interval, the median and every threshold.

    With a pool, calibrated quantiles end at its outermost values, unless the model's own quantile lies beyond.

    Attributes:
        levels: Calibrated levels, strictly ascending inside (0, 1).
        model_levels: Level of the pooled distribution for each, ascending, in [0, 1]. Between them, and on to (0, 0) and
            (1, 1), the map is linear.
        pool_weight: Weight of the pool in each distribution's finite part, in [0, 1).
        pool_values: Equally likely values of the metric, in its unit.
        rows, groups: Size of the data that it was fitted on.
        source: Description of that data.
    """

    levels: tuple[float, ...]
    model_levels: tuple[float, ...]
    pool_weight: float = 0.0
    pool_values: tuple[float, ...] = ()
    rows: int = 0
    groups: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("levels", "model_levels", "pool_values"):
            try:
                object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
            except (TypeError, ValueError):
                raise CheckpointError(
                    f"A calibration's {name} must be a list of numbers, got {getattr(self, name)!r}."
                ) from None
        levels, model_levels = np.array(self.levels), np.array(self.model_levels)
        strictly_ascending = len(levels) > 0 and bool((np.diff(levels, prepend=0.0, append=1.0) > 0).all())
        ascending = bool((np.diff(model_levels, prepend=0.0, append=1.0) >= 0).all())
        if not strictly_ascending or not ascending or len(model_levels) != len(levels):
            raise CheckpointError(
                "A calibration needs levels that ascend strictly inside (0, 1), and as many model_levels that ascend in "
                f"[0, 1]; got {len(levels)} levels {list(self.levels[:3])}... and {len(model_levels)} model_levels "
                f"{list(self.model_levels[:3])}..."
            )
        if not 0 <= self.pool_weight < 1 or (self.pool_weight and not self.pool_values):
            raise CheckpointError(
                f"A calibration's pool_weight must be in [0, 1), with pool_values unless it is 0; got {self.pool_weight!r} and "
                f"{len(self.pool_values)} values."
            )
        if not np.isfinite(self.pool_values).all():
            raise CheckpointError("A calibration's pool_values must be finite.")

    @classmethod
    def from_dict(cls, entry: "Calibration | Mapping[str, Any]") -> "Calibration":
        """Returns the calibration of a JSON form.

        Raises:
            CheckpointError: Unknown or missing keys, or fields out of range.
        """
        return _from_entry(cls, entry, "calibration")

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-ready fields."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def model_level(self, levels: Any) -> np.ndarray:
        """Returns the levels of the pooled distribution at which its quantiles are calibrated, float64 of the same shape."""
        model_levels = np.interp(levels, (0.0, *self.levels, 1.0), (0.0, *self.model_levels, 1.0))
        return np.clip(model_levels, _LEAST_LEVEL, 1 - _LEAST_LEVEL)

    def pooled(self, probabilities: Any, values: Any, side: Literal["left", "right"]) -> np.ndarray:
        """Returns the pooled distribution's P(y < value), side `left`, or P(y <= value), side `right`, for the model's own."""
        if not self.pool_weight:
            return np.asarray(probabilities, dtype=np.float64)
        pool = np.searchsorted(np.sort(self.pool_values), values, side=side) / len(self.pool_values)
        return (1 - self.pool_weight) * np.asarray(probabilities) + self.pool_weight * pool

    def calibrated(self, probabilities: Any) -> np.ndarray:
        """Returns calibrated probabilities P(y < t) for those of the pooled distribution, float64 of the same shape.

        Where several levels have one model level, the middle of them.
        """
        model_levels = np.array((0.0, *self.model_levels, 1.0))
        levels = np.array((0.0, *self.levels, 1.0))
        distinct, first = np.unique(model_levels, return_index=True)
        last = np.searchsorted(model_levels, distinct, side="right") - 1
        middle = (levels[first] + levels[last]) / 2
        middle[0], middle[-1] = 0.0, 1.0
        return np.interp(probabilities, distinct, middle)


_Entry = TypeVar("_Entry", PoolingComponent, Calibration)


def _from_entry(cls: type[_Entry], entry: Any, name: str) -> _Entry:
    """Returns a dataclass of its JSON form; unknown and missing keys are a `CheckpointError`."""
    if isinstance(entry, cls):
        return entry
    known = [f.name for f in fields(cls)]
    if not isinstance(entry, Mapping) or set(entry) - set(known):
        raise CheckpointError(f"A {name} has the keys {known}, got {entry!r:.200}.")
    try:
        return cls(**entry)
    except TypeError as error:
        raise CheckpointError(f"A {name} lacks a key: {error}.") from None


# ------------------------------------------------------------------------------------------------- comparison

# Slots between edges that are integrated at once: bounds the memory of the products.
_SLOTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Adjustment:
    """What is known of one input and metric beside the model's distribution F.

    1. *Novelty.* An input unlike the training rows gets `(1 - w) F + w G`, where G is what the metric is for such inputs.
    2. *Lower bound.* Where the value cannot lie below b, the mass of F below b goes to b times the ratios that rows with
       such bounds had: a distribution far below the bound is replaced, one above it stays as it is.

    Attributes:
        novelty_weight: w, in [0, 1].
        novelty_values: Equally likely values of G, in the metric's unit.
        lower_bound: b, in the metric's unit; None where nothing is known.
        bound_ratios: Equally likely ratios of values to their bounds, each at least 1.
    """

    novelty_weight: float = 0.0
    novelty_values: tuple[float, ...] = ()
    lower_bound: float | None = None
    bound_ratios: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not 0 <= self.novelty_weight <= 1 or (self.novelty_weight and not self.novelty_values):
            raise CheckpointError(
                f"novelty_weight must be in [0, 1], with novelty_values unless it is 0; got {self.novelty_weight!r} and "
                f"{len(self.novelty_values)} values."
            )
        if not self.bound_ratios or min(self.bound_ratios) < 1:
            raise CheckpointError(f"bound_ratios must be at least 1, got {self.bound_ratios!r}.")

    def applied(
        self, probabilities: np.ndarray, below_bound: float, values: np.ndarray, side: Literal["left", "right"]
    ) -> np.ndarray:
        """Returns adjusted probabilities P(y < value), side `left`, or P(y <= value), float64 `(values,)`.

        Args:
            probabilities: Those of F at the values.
            below_bound: F's P(y < b).
            values: In the metric's unit.
            side: Side of both.
        """
        mixed = self._mixed(probabilities, values, side)
        if self.lower_bound is None:
            return mixed
        below = float(self._mixed(np.array([below_bound]), np.array([self.lower_bound]), "left")[0])
        at_bound = np.sort(self.lower_bound * np.array(self.bound_ratios))
        replaced = below * np.searchsorted(at_bound, values, side=side) / len(at_bound)
        return np.where(values < self.lower_bound, 0.0, np.maximum(mixed - below, 0.0) + replaced)

    def bounds(
        self, least: np.ndarray, most: np.ndarray, below_bound: tuple[float, float], values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns bounds of the adjusted P(y <= value), where those of F are known within bounds.

        Args:
            least, most: Bounds of F at the values, float64 `(values,)`.
            below_bound: Bounds of F's P(y < b).
            values: In the metric's unit.

        Returns:
            Two float64 arrays `(values,)`, ascending where the bounds of F are.
        """
        least, most = self._mixed(least, values, "right"), self._mixed(most, values, "right")
        if self.lower_bound is None:
            return least, most
        bound = np.array([self.lower_bound])
        least_below, most_below = (self._mixed(np.array([below]), bound, "left")[0] for below in below_bound)
        at_bound = np.sort(self.lower_bound * np.array(self.bound_ratios))
        # Of the mass below the bound, the share that goes to values above this one.
        beyond = 1 - np.searchsorted(at_bound, values, side="right") / len(at_bound)
        is_possible = values >= self.lower_bound
        least = np.where(is_possible, np.maximum(least - most_below * beyond, 0.0), 0.0)
        return least, np.where(is_possible, most - least_below * beyond, 0.0)

    def _mixed(self, probabilities: np.ndarray, values: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        if not self.novelty_weight:
            return probabilities
        novel = np.searchsorted(np.sort(self.novelty_values), values, side=side) / len(self.novelty_values)
        return (1 - self.novelty_weight) * probabilities + self.novelty_weight * novel

    @property
    def edges(self) -> tuple[float, ...]:
        """Values at which an adjusted distribution function bends or jumps beyond those of F."""
        bound = () if self.lower_bound is None else tuple(self.lower_bound * ratio for ratio in self.bound_ratios)
        return (*self.novelty_values, *bound, *(() if self.lower_bound is None else (self.lower_bound,)))


@dataclass
class Distribution:
    """One metric's distribution for one input, as disjoint pieces with their masses.

    Inside a piece the mass counts as uniform, so the error of an answer is at most of the order of a piece's mass.

    Attributes:
        low, high: Ends of the pieces, ascending and disjoint, float64 `(pieces,)`; equal for a single value.
        mass: Mass of each piece, sum 1, `(pieces,)`.
        finite: Probability that there is a number at all.
        calibration: Applied to the distribution, None for the model's own.
        adjustment: Applied after the calibration, None where nothing more is known of the input.
    """

    low: np.ndarray
    high: np.ndarray
    mass: np.ndarray
    finite: float = 1.0
    calibration: Calibration | None = None
    adjustment: Adjustment | None = None

    def __post_init__(self) -> None:
        order = np.lexsort((self.high, self.low))
        self.low, self.high, self.mass = self.low[order], self.high[order], self.mass[order]
        self._mass_below = np.concatenate([[0.0], np.cumsum(self.mass)])

    def cdf(self, values: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        """Returns P(y < value) for the side `left`, P(y <= value) for `right`, of the finite part, float64 `(values,)`."""
        probabilities = self._calibrated_cdf(values, side)
        if self.adjustment is None:
            return probabilities
        bound = self.adjustment.lower_bound
        below = 0.0 if bound is None else float(self._calibrated_cdf(np.array([bound]), "left")[0])
        return self.adjustment.applied(probabilities, below, values, side)

    def quantiles(self, levels: Sequence[float]) -> np.ndarray:
        """Returns the smallest values at which the distribution function reaches each level, float64 `(levels,)`."""
        edges = self.edges
        reached = self.cdf(edges, "right")
        result = np.empty(len(levels))
        for number, level in enumerate(levels):
            index = int(np.searchsorted(reached, level * (1 - 1e-12)))
            index = min(index, len(edges) - 1)
            right = edges[index]
            before = float(self.cdf(edges[index : index + 1], "left")[0])
            if index == 0 or before < level:
                result[number] = right  # a jump at the edge reaches the level
                continue
            left, start = edges[index - 1], reached[index - 1]
            share = 1.0 if before <= start else (level - start) / (before - start)
            result[number] = left + np.clip(share, 0.0, 1.0) * (right - left)
        return result

    def bracket(self, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Returns bounds of the quantiles that hold wherever in its piece each mass lies, float64 `(levels,)` each."""
        edges = self.edges
        least = self._calibrated(self._mass_below[np.searchsorted(self.high, edges, "right")], edges, "right")
        most = self._calibrated(self._mass_below[np.searchsorted(self.low, edges, "right")], edges, "right")
        if self.adjustment is not None:
            least, most = self.adjustment.bounds(least, most, self._mass_below_bound(self.adjustment), edges)
        wanted = np.asarray(levels)
        # Rounding must not leave a quantile out.
        first = np.searchsorted(most, wanted * (1 - 1e-9))
        last = np.searchsorted(least, wanted * (1 + 1e-9))
        end = len(edges) - 1
        return edges[np.minimum(first, end)], edges[np.minimum(last, end)]

    def _mass_below_bound(self, adjustment: Adjustment) -> tuple[float, float]:
        """Returns bounds of P(y < the adjustment's lower bound), 0 without one."""
        if adjustment.lower_bound is None:
            return 0.0, 0.0
        bound = np.array([adjustment.lower_bound])
        least = self._calibrated(self._mass_below[np.searchsorted(self.high, bound, "left")], bound, "left")
        most = self._calibrated(self._mass_below[np.searchsorted(self.low, bound, "left")], bound, "left")
        return float(least[0]), float(most[0])

    def sample(self, count: int, seed: int = 0) -> np.ndarray:
        """Returns independent draws of the finite part, float64 `(count,)`."""
        return self.quantiles(np.random.default_rng(seed).uniform(1e-12, 1.0, count).tolist())

    def _calibrated_cdf(self, values: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        # The first piece that does not lie wholly below the value.
        index = np.searchsorted(self.high, values, side=side)
        probabilities = self._mass_below[index]
        piece = np.minimum(index, len(self.mass) - 1)
        low, width = self.low[piece], self.high[piece] - self.low[piece]
        is_inside = (index < len(self.mass)) & (low < values) & (width > 0)
        share = np.clip((values - low) / np.where(width > 0, width, 1.0), 0.0, 1.0)
        probabilities = np.minimum(probabilities + np.where(is_inside, share * self.mass[piece], 0.0), 1.0)
        return self._calibrated(probabilities, values, side)

    def _calibrated(self, probabilities: np.ndarray, values: np.ndarray, side: Literal["left", "right"]) -> np.ndarray:
        """Returns calibrated probabilities for those of the pieces `(values,)`."""
        if self.calibration is None:
            return probabilities
        return self.calibration.calibrated(self.calibration.pooled(probabilities, values, side))

    @property
    def edges(self) -> np.ndarray:
        """All values at which the distribution function bends or jumps, ascending `(edges,)`."""
        pool = () if self.calibration is None else self.calibration.pool_values
        further = () if self.adjustment is None else self.adjustment.edges
        return np.unique(np.concatenate([self.low, self.high, pool, further]))


def probability_best(distributions: Sequence[Distribution], smaller_is_better: bool = True) -> np.ndarray:
    """Returns the probability that each candidate is the best, the candidates taken as independent.

        distributions = model.distributions(inputs, metrics=["latency_ms"])
        probability_best(distributions, smaller_is_better=True)  # one for each input

    Values of several candidates that fall into one slot, between two neighbouring edges or at one of them, tie there. Ties
    are broken by an independent uniform priority: candidate i wins the slot with `m_i * integral_0^1 prod_j (worse_j + u *
    m_j) du`, where `m` is the mass in the slot and `worse` that behind it. The integrand is a polynomial in u, for which
    Gauss-Legendre quadrature is exact. A candidate that gives no number (a program that fails) is never the best.

    Args:
        distributions: One for each candidate.
        smaller_is_better: Direction of the metric.

    Returns:
        float64 `(candidates,)`. The sum is the probability that any candidate gives a number; 1 where all surely do.

    Raises:
        MetricError: No candidates.
    """
    if not distributions:
        raise MetricError("There are no candidates to rank.")
    masses = _slot_masses(distributions)
    if not smaller_is_better:
        masses = masses[:, ::-1]
    masses = masses[:, (masses > 0).any(0)]
    worse = np.maximum(1.0 - np.cumsum(masses, 1), 0.0)
    # Exact for products of up to 2 * nodes factors; beyond that the product is smooth enough.
    nodes, weights = np.polynomial.legendre.leggauss(min(32, len(distributions) // 2 + 1))
    nodes, weights = (nodes + 1) / 2, weights / 2  # from [-1, 1] to [0, 1]
    result = np.zeros(len(distributions))
    for start in range(0, masses.shape[1], _SLOTS_AT_ONCE):
        slots = slice(start, start + _SLOTS_AT_ONCE)
        mass = masses[:, slots, None]
        products_of_others = _products_of_others(worse[:, slots, None] + nodes * mass)
        result += ((products_of_others @ weights) * mass[..., 0]).sum(1)
    return result


def _slot_masses(distributions: Sequence[Distribution]) -> np.ndarray:
    """Returns each candidate's mass at every edge and between neighbouring edges, ascending, `(candidates, slots)`."""
    edges = np.unique(np.concatenate([d.edges for d in distributions]))
    masses = np.zeros((len(distributions), 2 * len(edges) - 1))
    for row, distribution in enumerate(distributions):
        left, right = distribution.cdf(edges, "left"), distribution.cdf(edges, "right")
        masses[row, ::2] = right - left
        masses[row, 1::2] = left[1:] - right[:-1]
        masses[row] = np.maximum(masses[row], 0.0)
        masses[row] *= distribution.finite / max(masses[row].sum(), 1e-300)
    return masses


def _products_of_others(factors: np.ndarray) -> np.ndarray:
    """Returns for each candidate the product of all other candidates' factors, `(candidates, ...)`; no division by 0."""
    before, after = np.ones_like(factors), np.ones_like(factors)
    for i in range(1, len(factors)):
        before[i] = before[i - 1] * factors[i - 1]
        after[-i - 1] = after[-i] * factors[-i]
    return before * after


# ----------------------------------------------------------------------------------------------- derived metrics


@dataclass(frozen=True)
class DerivedMetric:
    """A metric that is computed from the medians of others: exp(intercept + sum of weight * ln(median)).

    Fitted to a few measurements, as of a device that the checkpoint was not trained on (`code-rlm adapt`).

    Attributes:
        sources: Metrics, each asked for alone.
        weights: One for each.
        intercept: On the logarithm's scale.
        residuals: Of the measurements, each left out of the fit once, as logarithms; ascending.
    """

    sources: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float
    residuals: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.sources or len(self.sources) != len(self.weights):
            raise CheckpointError(
                f"A derived metric has one weight for each source, got {len(self.weights)} for {len(self.sources)}."
            )
        if not np.isfinite([*self.weights, self.intercept, *self.residuals]).all():
            raise CheckpointError("The weights of a derived metric must be finite.")

    def value(self, medians: Any) -> np.ndarray:
        """Returns the metric of medians `(..., sources)`; NaN where one of them is not above zero."""
        known = np.asarray(medians, dtype=np.float64)
        logarithms = np.log(np.where(known > 0, known, np.nan))
        return np.exp(self.intercept + logarithms @ np.asarray(self.weights))

    def factors(self, level: float) -> tuple[float, float] | None:
        """Returns what a value is multiplied by for the ends of an interval (split conformal prediction, arXiv 2107.07511).

        None where there are too few measurements for the level.
        """
        rank = math.ceil((1 - (1 - level) / 2) * (len(self.residuals) + 1))
        if rank > len(self.residuals):
            return None
        return math.exp(self.residuals[len(self.residuals) - rank]), math.exp(self.residuals[rank - 1])

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "DerivedMetric":
        """Returns the metric of its JSON form."""
        numbers = {name: tuple(float(x) for x in entry[name]) for name in ("weights", "residuals")}
        return cls(tuple(map(str, entry["sources"])), intercept=float(entry["intercept"]), **numbers)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON form."""
        lists = {name: list(getattr(self, name)) for name in ("sources", "weights", "residuals")}
        return {**lists, "intercept": self.intercept}


__all__ = [
    "Adjustment",
    "Calibration",
    "DerivedMetric",
    "Distribution",
    "PoolingComponent",
    "Regressor",
    "ScoreScale",
    "probability_best",
]
