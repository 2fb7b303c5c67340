"""Calibration: what rows held out from training say about the distributions of a metric.

A model that is too sure of itself finds more than a tenth of the truths outside its 90% intervals, and far out in the tails
of its distributions there is little but noise. A `Calibration`, one per metric, kept in the checkpoint's config, mends both:

1. *Pooling.* Each distribution is mixed with that of the metric as a whole, a few equally likely values, so that the tails
   hold what was seen and not any number of the format. A model that knows its limits gets a weight near 0.
2. *Levels.* The pooled quantile at level `g(p)` is the calibrated quantile at level p, and the calibrated P(y < t) is `g^-1` of
   the pooled one. The map `g` is monotone: it serves every interval, the median and every threshold, and the answers to one
   question never contradict those to another.

Where there is a pool, calibrated quantiles end at its outermost values, unless the model's own quantile lies beyond.

Together they are a linear pool with transformed levels (Gneiting and Ranjan 2013, Electronic Journal of Statistics 7), the
transform empirical (Kuleshov et al. 2018, arXiv 1807.00263), each group left out in turn. How both are fitted:
`evaluation/calibration.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np

from .errors_rlm import CheckpointError


@dataclass(frozen=True)
class Calibration:
    """How the distributions of one metric are mended.

    Attributes:
        levels: Calibrated levels, strictly ascending inside (0, 1).
        model_levels: Level of the pooled distribution for each, ascending, in [0, 1]. Between them, and on to (0, 0) and
            (1, 1), the map is linear.
        pool_weight: Weight of the pool in each distribution's finite part, in [0, 1).
        pool_values: The pool: equally likely values of the metric, in its unit.
        rows, groups: What it was fitted on.
        source: Which rows these were, in words.
    """

    levels: tuple[float, ...]
    model_levels: tuple[float, ...]
    pool_weight: float = 0.0
    pool_values: tuple[float, ...] = ()
    rows: int = 0
    groups: int = 0
    source: str = ""

    def __post_init__(self):
        for name in ("levels", "model_levels", "pool_values"):
            try:
                object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
            except (TypeError, ValueError):
                raise CheckpointError(
                    f"A calibration's {name} must be a list of numbers, got {getattr(self, name)!r}."
                ) from None
        levels, own = np.array(self.levels), np.array(self.model_levels)
        inside = len(levels) and (np.diff(levels, prepend=0.0, append=1.0) > 0).all()
        if not inside or len(own) != len(levels) or not (np.diff(own, prepend=0.0, append=1.0) >= 0).all():
            raise CheckpointError(
                "A calibration needs levels that ascend strictly inside (0, 1), and as many model_levels that ascend in "
                f"[0, 1]; got {len(levels)} levels {list(self.levels[:3])}... and {len(own)} model_levels "
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
    def from_dict(cls, entry: Mapping[str, Any]) -> "Calibration":
        """Builds a map from its JSON form; unknown keys are an error."""
        if not isinstance(entry, Mapping) or set(entry) - {f.name for f in fields(cls)}:
            raise CheckpointError(f"A calibration has the keys {[f.name for f in fields(cls)]}, got {entry!r:.200}.")
        try:
            return cls(**entry)
        except TypeError as error:
            raise CheckpointError(f"A calibration lacks a key: {error}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def model_level(self, levels: Any) -> np.ndarray:
        """Levels of the pooled distribution at which its quantiles are calibrated; float64 of the shape of `levels`."""
        inner = np.interp(levels, (0.0, *self.levels, 1.0), (0.0, *self.model_levels, 1.0))
        # A quantile needs a level strictly inside (0, 1); beyond a trillionth the float64 sums of the tree say nothing.
        return np.clip(inner, 1e-12, 1 - 1e-12)

    def pooled(self, probabilities: Any, values: Any, side: Literal["left", "right"]) -> np.ndarray:
        """P(y < value), side `left`, or P(y <= value) of the pooled distribution for the model's own; float64."""
        if not self.pool_weight:
            return np.asarray(probabilities, dtype=np.float64)
        pool = np.searchsorted(np.sort(self.pool_values), values, side=side) / len(self.pool_values)
        return (1 - self.pool_weight) * np.asarray(probabilities) + self.pool_weight * pool

    def calibrated(self, probabilities: Any) -> np.ndarray:
        """Calibrated probabilities P(y < t) for those of the pooled distribution; float64 of their shape.

        Where several levels have one model level: the middle of them.
        """
        own, levels = np.array((0.0, *self.model_levels, 1.0)), np.array((0.0, *self.levels, 1.0))
        distinct, first = np.unique(own, return_index=True)
        last = np.searchsorted(own, distinct, side="right") - 1
        middle = (levels[first] + levels[last]) / 2
        middle[0], middle[-1] = 0.0, 1.0
        return np.interp(probabilities, distinct, middle)


__all__ = ["Calibration"]
