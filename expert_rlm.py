"""Experts: what the lexical path's score says of a number, multiplied into the digit tree.

A `LexicalExpert` is a distribution of one metric about its channel's score (`lexical_rlm.py`), as wide as the scores' errors on
rows held out from training. At every node of the tree the decoder's probabilities and the expert's are pooled: each is raised
to a power, both fitted on the held-out rows, and their product scaled to sum to 1 (a logarithmic opinion pool, Genest and Zidek
1986, Statistical Science 1). So the tree stays a tree, and quantiles, samples, log-probabilities and P(a < b) stay exact and
agree with each other. Where the decoder is better by itself the expert's power is 0 and the metric has no expert.

How the powers are fitted: `training/experts.py`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from .errors_rlm import CheckpointError
from .numbers_rlm import NumberCodec


@dataclass(frozen=True)
class LexicalExpert:
    """A metric's distribution about its score, and the weights of the pool.

    Attributes:
        spread: Scale of the logistic distribution about the score, in units of the error of the regressor that tells it, where
            that is known (`LexicalSettings.errors`), and of the score where not.
        own_power: Power of the decoder's probabilities.
        power: Power of the expert's.
        floor: Share of the decoder's probabilities in the expert's before the power, so that it never rules out what the
            decoder is sure of.
        rows, groups: What it was fitted on.
    """

    spread: float
    own_power: float
    power: float
    floor: float = 1e-6
    rows: int = 0
    groups: int = 0

    def __post_init__(self):
        numbers = (self.spread, self.own_power, self.power, self.floor)
        if not all(isinstance(v, (int, float)) and np.isfinite(v) for v in numbers):
            raise CheckpointError(f"An expert's fields must be finite numbers, got {asdict(self)}.")
        if self.spread <= 0 or self.own_power < 0 or self.power < 0 or not 0 < self.floor <= 1:
            raise CheckpointError(
                f"An expert needs a spread above 0, powers of at least 0 and a floor in (0, 1]; got {asdict(self)}."
            )

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "LexicalExpert":
        """Builds an expert from its JSON form; unknown and missing keys are an error."""
        if not isinstance(entry, Mapping) or set(entry) - {f.name for f in fields(cls)}:
            raise CheckpointError(f"An expert has the keys {[f.name for f in fields(cls)]}, got {entry!r:.200}.")
        try:
            return cls(**entry)
        except TypeError as error:
            raise CheckpointError(f"An expert lacks a key: {error}.") from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields."""
        return asdict(self)

    def masses(
        self, low: np.ndarray, high: np.ndarray, scores: np.ndarray, errors: np.ndarray | float = 1.0
    ) -> np.ndarray:
        """P(low < y < high) about the scores, float64; ends, scores and the spread's unit on the channel's scale.

        Arrays of one shape or broadcast to it.
        """
        ends = [(end - scores) / (self.spread * errors) for end in (low, high)]
        # On the side where both tails are small, so that their difference keeps its digits.
        flip = ends[0] + ends[1] > 0
        first, second = np.where(flip, -ends[1], ends[0]), np.where(flip, -ends[0], ends[1])
        return np.maximum(_sigmoid(second) - _sigmoid(first), 0.0)

    def pool(self, log_probs: np.ndarray, masses: np.ndarray, finite: np.ndarray) -> np.ndarray:
        """The pooled log-probabilities of the tokens at some nodes.

        Args:
            log_probs: The decoder's, float64 `(nodes, vocabulary)`, minus infinity where the grammar allows no token.
            masses: The expert's mass behind each token, `(nodes, vocabulary)`; 0 where it stands for no finite number.
            finite: Which tokens lead to finite numbers, bool `(nodes, vocabulary)`; the others (special outcomes) keep their
                probabilities.
        """
        own = np.where(finite, np.exp(log_probs), 0.0)
        total = own.sum(1, keepdims=True)
        masses = np.where(finite, masses, 0.0)
        whole = masses.sum(1, keepdims=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            own = own / total
            # Beyond the reach of float64 the expert has no opinion on what comes next.
            other = np.where(whole > 1e-300, masses / whole, own)
            pooled = self.own_power * np.log(own) + self.power * np.log((1 - self.floor) * other + self.floor * own)
            pooled = np.where(finite & (own > 0), pooled, -np.inf)
            pooled -= pooled.max(1, keepdims=True)
            pooled += np.log(total) - np.log(np.exp(pooled).sum(1, keepdims=True))
        return np.where(finite & (total > 0), pooled, log_probs)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def token_cells(codec: NumberCodec, prefixes: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, ...]:
    """The range of values behind each token that may come next, up to halfway to its neighbours.

    Args:
        codec: The number codec; its digits must be ordered by significance.
        prefixes: int `(nodes, places)`, the tokens so far.
        states: The automaton's state behind each, int `(nodes,)`.

    Returns:
        Two float64 arrays low and high `(nodes, vocabulary)`, and bool `(nodes, vocabulary)`: which tokens lead to finite
        numbers.
    """
    node, token = np.nonzero(codec.allowed[states])
    if not prefixes.shape[1]:
        keep = ~np.isin(token, list(codec.outcome_tokens.values()))
        node, token = node[keep], token[keep]
    codes = np.concatenate([prefixes[node], token[:, None]], 1)
    ends = codec.bounds(codes, codec.transitions[states[node], token])
    shape = (len(states), codec.vocab_size)
    low, high, finite = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    low[node, token] = ends[0] - _half_step(codec, ends[0], -1)
    high[node, token] = ends[1] + _half_step(codec, ends[1], 1)
    finite[node, token] = np.isfinite(ends[0]) & np.isfinite(ends[1])
    return low, high, finite


def _half_step(codec: NumberCodec, values: np.ndarray, side: int) -> np.ndarray:
    """Half the distance from a number of the format to its neighbour above (`side` 1) or below (-1)."""
    size = np.abs(values)
    # Towards zero from a power of ten the numbers lie ten times closer.
    towards_zero = np.sign(values) == -side
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(size * np.where(towards_zero, 1 - 1e-12, 1 + 1e-12)))
    exponent = np.where(size > 0, exponent, codec.min_exponent + codec.format.mantissa_digits - 1)
    return 0.5 * 10.0 ** (exponent - codec.format.mantissa_digits + 1)


__all__ = ["LexicalExpert", "token_cells"]
