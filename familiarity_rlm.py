"""Familiarity: whether an input is like the rows that a metric was learned from, and why not.

A `Reference` describes the training rows of one domain (a data set in one language) for one or more metrics. Six novelty scores
compare an input with it, each larger the stranger the input is:

    =============  =================================================================================================
    ``words``      share of its words (operators, instructions, identifiers) that no training row has, and facts
                   such as a network's input shape that no training row shares
    ``ngrams``     share of its pairs of words and signs that no training row has
    ``numbers``    decades by which its largest constant lies beyond the largest of the training rows
    ``context``    context keys that all training rows have and it lacks, and keys that none of them has
    ``length``     natural logarithm of its tokens outside the range of the training rows
    ``embedding``  distance of the mean encoder state to the nearest training centroid, in typical distances
    =============  =================================================================================================

Each score becomes a conformal p-value among held-out rows of the domain, every group with the same weight (Vovk et al. 2005,
Algorithmic Learning in a Random World). Beyond the largest held-out score the p-value falls as an exponential tail, so
that few groups do not hide how far away an input is. The smallest of the six, as a score of its own, is compared with those of
the held-out rows in the same way. That p-value is the *familiarity*: of inputs like the training rows a share of about t has a
familiarity below t. The scores with the smallest p-values give the reasons, as strings that a person can act on.
"""

import base64
import math
import re
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from .distributions_rlm import ScoreScale
from .errors_rlm import CheckpointError
from .source_rlm import allocated_bytes, tokens

SCORES = ("words", "ngrams", "numbers", "context", "length", "embedding")
WORD_BITS = 2**16
NGRAM_BITS = 2**15
CENTROIDS = 16
UNFAMILIAR = 0.05  # below this familiarity an answer is marked
_NO_POOL, _WHOLE_POOL = 0.1, 0.01  # familiarities between which the novelty pool gains its weight
_REASON = 0.1  # a score with a p-value above this is no reason
# Of the tails of the scores: shares of words and pairs, decades, keys, natural logarithms of length, typical distances.
_LEAST_SCALES = (0.03, 0.03, 0.15, 0.1, 0.1, 0.1)
_MOST_DEFAULTS = 2  # metrics answered for a domain without default metrics of its own
_MOST_NAMED = 3  # words that one reason lists


@dataclass
class Observation:
    """What the novelty scores see of one input.

    Attributes:
        words: Operators, instructions or identifiers, in the order of the text.
        ngrams: Hash buckets of its pairs of words and signs, int `(pairs,)`, below `NGRAM_BITS`.
        largest_number: The largest constant, 0 where there is none.
        context: Keys of its context lines.
        tokens: Its length in tokens.
        signature: Facts that must match exactly, by name, such as the input shape of a network.
        embedding: Mean encoder state `(hidden size,)`, None where it was not computed.
    """

    words: Sequence[str]
    ngrams: np.ndarray
    largest_number: float
    context: frozenset[str]
    tokens: int
    signature: Mapping[str, str] = field(default_factory=dict)
    embedding: np.ndarray | None = None


def hash_bits(items: Sequence[str], bits: int) -> np.ndarray:
    """Buckets of strings, int64 `(items,)`."""
    return np.array([zlib.crc32(item.encode()) % bits for item in items], dtype=np.int64)


@dataclass(eq=False)
class Reference:
    """The training rows of a domain, and the scores of its held-out groups.

    Attributes:
        domain: Name of the domain, for tables and reasons: `nasbench201`, `generated programs (cpp)`.
        languages: Languages of its rows.
        words: Buckets of words that the training rows have, bool `(WORD_BITS,)`.
        ngrams: Buckets of token pairs that they have, bool `(NGRAM_BITS,)`.
        largest_number: The largest constant of any row but one in a hundred.
        required_context: Context keys that all rows have.
        known_context: Context keys that any row has.
        shortest, longest: Range of their lengths, tokens, but one row in a hundred at either end.
        signatures: By name the values that rows have.
        centroids: Centroids of their mean encoder states, float32 `(centroids, hidden size)`, empty where none were computed.
        typical_distance: Median distance of a training row to its nearest centroid.
        held_out: Scores of held-out rows, float64 `(rows, SCORES)`.
        held_out_groups: Group of each of these rows, int `(rows,)`.
    """

    domain: str
    languages: tuple[str, ...]
    words: np.ndarray
    ngrams: np.ndarray
    largest_number: float
    required_context: frozenset[str]
    known_context: frozenset[str]
    shortest: float
    longest: float
    signatures: Mapping[str, tuple[str, ...]]
    centroids: np.ndarray
    typical_distance: float
    held_out: np.ndarray
    held_out_groups: np.ndarray
    _combined: np.ndarray | None = field(default=None, repr=False, compare=False)
    _read_from: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)  # JSON form

    @classmethod
    def fit(
        cls,
        domain: str,
        languages: Sequence[str],
        training: Sequence[Observation],
        groups: Sequence[Any],
        held_out: Sequence[Observation] = (),
        held_out_groups: Sequence[Any] = (),
        folds: int = 5,
    ) -> "Reference":
        """Describes training rows and scores rows that the description has not seen.

        Training rows are scored against the other folds of their groups, held-out rows against all training rows.

        Args:
            domain: Name.
            languages: Languages of the rows.
            training: Rows that the weights were trained on.
            groups: Group of each.
            held_out: Rows of other groups.
            held_out_groups: Group of each.
            folds: Number of folds that the groups of the training rows are divided into.

        Raises:
            CheckpointError: Fewer than two groups in all.
        """
        names, number = np.unique([f"training {g}" for g in groups], return_inverse=True)
        if len(names) < 2:
            raise CheckpointError(f"{domain}: familiarity needs two groups of training rows or more, got {len(names)}.")
        reference = cls._describe(domain, languages, training)
        fold_of_group = np.random.default_rng(0).permutation(len(names)) % min(folds, len(names))
        fold = fold_of_group[number]
        rows: list[list[float]] = []
        row_groups: list[str] = []
        for one in range(fold.max() + 1):
            seen = [row for row, own in zip(training, fold, strict=True) if own != one]
            partial = cls._describe(domain, languages, seen)
            for index in np.flatnonzero(fold == one).tolist():
                rows.append(list(partial.scores(training[index]).values()))
                row_groups.append(names[number[index]])
        for observed, group in zip(held_out, held_out_groups, strict=True):
            rows.append(list(reference.scores(observed).values()))
            row_groups.append(f"held out {group}")
        reference.held_out = np.array(rows)
        reference.held_out_groups = np.unique(row_groups, return_inverse=True)[1]
        return reference

    @classmethod
    def _describe(cls, domain: str, languages: Sequence[str], training: Sequence[Observation]) -> "Reference":
        """A reference without held-out scores."""
        words = np.zeros(WORD_BITS, dtype=bool)
        ngrams = np.zeros(NGRAM_BITS, dtype=bool)
        signatures: dict[str, set[str]] = {}
        for row in training:
            words[hash_bits(sorted(set(row.words)), WORD_BITS)] = True
            ngrams[row.ngrams] = True
            for name, value in row.signature.items():
                signatures.setdefault(name, set()).add(value)
        lengths = [row.tokens for row in training]
        numbers = [row.largest_number for row in training]
        keys = [row.context for row in training]
        states = [row.embedding for row in training if row.embedding is not None]
        centroids, distance = _clusters(np.array(states), CENTROIDS) if states else (np.zeros((0, 0)), 1.0)
        return cls(
            domain=domain,
            languages=tuple(languages),
            words=words,
            ngrams=ngrams,
            largest_number=float(np.quantile(numbers, 0.99, method="higher")),
            required_context=frozenset.intersection(*keys),
            known_context=frozenset.union(*keys),
            shortest=float(np.quantile(lengths, 0.01, method="lower")),
            longest=float(np.quantile(lengths, 0.99, method="higher")),
            signatures={name: tuple(sorted(values)) for name, values in sorted(signatures.items())},
            centroids=centroids.astype(np.float32),
            typical_distance=distance,
            held_out=np.zeros((0, len(SCORES))),
            held_out_groups=np.zeros(0, dtype=int),
        )

    def scores(self, row: Observation) -> dict[str, float]:
        """Novelty scores of an input by name, see the module."""
        distinct = sorted(set(row.words))
        strange = 0.0 if not distinct else float(np.mean(~self.words[hash_bits(distinct, WORD_BITS)]))
        mismatches = len(self.mismatches(row))
        pairs = 0.0 if not len(row.ngrams) else float(np.mean(~self.ngrams[row.ngrams]))
        beyond = math.log10(1 + row.largest_number) - math.log10(1 + self.largest_number)
        keys = len(self.required_context - row.context) + len(row.context - self.known_context)
        tokens = max(row.tokens, 1)
        outside = max(math.log(tokens / max(self.longest, 1)), math.log(max(self.shortest, 1) / tokens), 0.0)
        distance = 0.0
        if row.embedding is not None and len(self.centroids):
            distance = float(_distances(row.embedding[None], self.centroids)[0] / self.typical_distance)
        return {
            "words": strange + mismatches,
            "ngrams": pairs,
            "numbers": max(beyond, 0.0),
            "context": float(keys),
            "length": outside,
            "embedding": distance,
        }

    def mismatches(self, row: Observation) -> list[str]:
        """Names of facts, such as the shape of a network's input, in which no training row is like an input."""
        return [name for name, values in self.signatures.items() if row.signature.get(name, "none") not in values]

    def compare(self, row: Observation) -> "Comparison":
        """Familiarity of an input, with reasons."""
        scores = self.scores(row)
        own = self._p_values(np.array(list(scores.values())))
        combined = -math.log(own.min())
        familiarity = tail_p_value(combined, self._held_out_combined(), self._weights())
        reasons: list[str] = []
        if familiarity < UNFAMILIAR or own.min() <= _REASON:
            by_rank = np.argsort(own, kind="stable")
            for number in by_rank:
                if own[number] <= _REASON and scores[SCORES[number]] > 0:
                    reasons += self._reasons(SCORES[number], row)
        return Comparison(self.domain, familiarity, tuple(reasons), scores)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: Any) -> "Reference":
        """Returns the reference itself: copies of a config share it, and nothing changes one that is fitted."""
        return self

    def _weights(self, without: int | None = None) -> np.ndarray:
        """Weight of each held-out row, every group 1 in all; 0 for the rows of a group that is left out."""
        counts = np.bincount(self.held_out_groups)
        weights = 1.0 / counts[self.held_out_groups]
        return weights if without is None else np.where(self.held_out_groups == without, 0.0, weights)

    def _p_values(self, scores: np.ndarray, without: int | None = None) -> np.ndarray:
        """p-values `(SCORES,)` of novelty scores among the held-out rows, one group left out."""
        weights = self._weights(without)
        columns = zip(scores, self.held_out.T, _LEAST_SCALES, strict=True)
        return np.array([tail_p_value(score, column, weights, least) for score, column, least in columns])

    def _held_out_combined(self) -> np.ndarray:
        """Negative logarithm of each held-out row's smallest p-value, its own group left out, `(rows,)`."""
        if self._combined is None:
            pairs = zip(self.held_out, self.held_out_groups, strict=True)
            self._combined = np.array([-math.log(self._p_values(row, group).min()) for row, group in pairs])
        return self._combined

    def _reasons(self, score: str, row: Observation) -> list[str]:
        """Why a score is large, in words."""
        if score == "words":
            return [*self._signature_reasons(row), *self._word_reasons(row)]
        if score == "ngrams":
            share = float(np.mean(~self.ngrams[row.ngrams]))
            return [f"{share:.0%} of its pairs of words were never seen"]
        if score == "numbers":
            return [f"largest constant {row.largest_number:.3g}, trained up to {self.largest_number:.3g}"]
        if score == "context":
            lacking = [f"no {key}, which every training row had" for key in sorted(self.required_context - row.context)]
            return lacking + [f"{key} was never given in training" for key in sorted(row.context - self.known_context)]
        if score == "length":
            return [f"{row.tokens:,} tokens, trained on {self.shortest:,.0f} to {self.longest:,.0f}"]
        return [f"unlike the training rows of {self.domain} as a whole"]

    def _signature_reasons(self, row: Observation) -> list[str]:
        reasons = []
        for name, values in self.signatures.items():
            own = row.signature.get(name, "none")
            if own not in values:
                known = ", ".join(values[:_MOST_NAMED])
                reasons.append(f"{name} {own}; trained on {known}{' and others' if len(values) > _MOST_NAMED else ''}")
        return reasons

    def _word_reasons(self, row: Observation) -> list[str]:
        distinct = list(dict.fromkeys(row.words))
        strange = [word for word, new in zip(distinct, ~self.words[hash_bits(distinct, WORD_BITS)], strict=True) if new]
        if not strange:
            return []
        more = len(strange) - _MOST_NAMED
        return [f"{', '.join(strange[:_MOST_NAMED])}{f' and {more} other words' if more > 0 else ''} never seen"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; bit sets and centroids are compressed."""
        if self._read_from is not None:  # compressing them takes a third of a load, which writes the config twice
            return dict(self._read_from)
        return {
            "domain": self.domain,
            "languages": list(self.languages),
            "words": _packed(np.packbits(self.words)),
            "ngrams": _packed(np.packbits(self.ngrams)),
            "largest_number": self.largest_number,
            "required_context": sorted(self.required_context),
            "known_context": sorted(self.known_context),
            "shortest": self.shortest,
            "longest": self.longest,
            "signatures": {name: list(values) for name, values in self.signatures.items()},
            "centroids": _packed(self.centroids.astype(np.float16)),
            "typical_distance": self.typical_distance,
            "held_out": np.round(self.held_out, 5).tolist(),
            "held_out_groups": self.held_out_groups.tolist(),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "Reference":
        """Builds a reference from its JSON form; unknown and missing keys are an error."""
        if not isinstance(entry, Mapping) or set(entry) != {
            f.name for f in fields(cls) if f.init and not f.name.startswith("_")
        }:
            raise CheckpointError(
                f"A familiarity reference has the keys {[f.name for f in fields(cls)]}, got {entry!r:.200}."
            )
        plain = dict(entry)
        plain["languages"] = tuple(entry["languages"])
        plain["words"] = np.unpackbits(_unpacked(entry["words"]).view(np.uint8)).astype(bool)
        plain["ngrams"] = np.unpackbits(_unpacked(entry["ngrams"]).view(np.uint8)).astype(bool)
        plain["required_context"] = frozenset(entry["required_context"])
        plain["known_context"] = frozenset(entry["known_context"])
        plain["signatures"] = {name: tuple(values) for name, values in entry["signatures"].items()}
        plain["centroids"] = _unpacked(entry["centroids"]).astype(np.float32)
        plain["held_out"] = np.array(entry["held_out"], dtype=float).reshape(-1, len(SCORES))
        plain["held_out_groups"] = np.array(entry["held_out_groups"], dtype=int)
        return cls(**plain, _read_from=entry)


@dataclass(frozen=True)
class Comparison:
    """Familiarity of an input with one domain.

    Attributes:
        domain: Name of the domain.
        familiarity: Conformal p-value in (0, 1].
        reasons: Why it is low, the strongest first; empty where it is not.
        scores: Novelty scores by name.
    """

    domain: str
    familiarity: float
    reasons: tuple[str, ...]
    scores: Mapping[str, float]


def tail_p_value(score: float, held_out: np.ndarray, weights: np.ndarray, least_scale: float = 0.01) -> float:
    """Share of held-out scores at least as large as a score, with an exponential tail beyond the largest.

    Args:
        score: Novelty of an input.
        held_out: Scores `(rows,)`.
        weights: Weight of each row, summing to the number of groups `(rows,)`; rows of weight 0 do not count.
        least_scale: Least scale of the exponential tail, in units of the score.
    """
    groups = weights.sum()
    at_least = weights[held_out >= score - 1e-12].sum()
    p_value = (1.0 + at_least) / (1.0 + groups)
    counted = held_out[weights > 0]
    if not len(counted) or score <= counted.max() + 1e-12:
        return float(p_value)
    # The tail falls as fast as the scores do between their median and their 90th percentile.
    scale = max((np.quantile(counted, 0.9) - np.median(counted)) / math.log(5.0), 0.05 * counted.max(), least_scale)
    return float(max(p_value * math.exp(-(score - counted.max()) / scale), 1e-300))


def _distances(states: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Euclidean distance of each state `(rows, size)` to its nearest centroid."""
    squared = (states**2).sum(1)[:, None] - 2 * states @ centroids.T + (centroids**2).sum(1)
    return np.sqrt(np.maximum(squared.min(1), 0.0))


def _clusters(states: np.ndarray, count: int) -> tuple[np.ndarray, float]:
    """Centroids by Lloyd's algorithm, and the median distance of a state to its nearest."""
    random = np.random.default_rng(0)
    centroids = states[random.permutation(len(states))[: min(count, len(states))]].astype(float)
    for _ in range(20):
        squared = (states**2).sum(1)[:, None] - 2 * states @ centroids.T + (centroids**2).sum(1)
        nearest = squared.argmin(1)
        for number in range(len(centroids)):
            if (nearest == number).any():
                centroids[number] = states[nearest == number].mean(0)
    return centroids, float(max(np.median(_distances(states, centroids)), 1e-6))


def _packed(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON: type, shape and compressed bytes."""
    data = _compressed(np.ascontiguousarray(array).tobytes())
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}


@lru_cache(maxsize=1024)  # configs are compared, copied and written many times in one run
def _compressed(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data, 9)).decode()


def _unpacked(entry: Mapping[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b85decode(entry["data"]))
    return np.frombuffer(data, dtype=entry["dtype"]).reshape(entry["shape"])


# ---------------------------------------------------------------------------------------------------- of a checkpoint


@dataclass(frozen=True)
class NoveltyPool:
    """What a metric is for inputs unlike the training rows.

    It is the prediction of a fallback regressor (`EnsembleConfig.fallbacks`) plus the residuals that it had on groups left out
    of its fit. Without such a regressor it is values that the metric has in other inputs of the language.

    Attributes:
        weight: Share of the pool in the answer to an input that is not familiar at all, in [0, 1].
        values: Language to equally likely values of the metric; "" for languages without their own.
        source: The rows that they come from, in words.
        scale: Scale of the fallback regressor's scores, None without one.
        residuals: Language to equally likely differences between true and predicted scores; "" for languages without their own.
    """

    weight: float
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    source: str = ""
    scale: ScoreScale | None = None
    residuals: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def values_for(self, language: str | None, score: float | None = None) -> tuple[float, ...]:
        """Equally likely values of the metric for an input, ascending, in its unit.

        Args:
            language: Of the input.
            score: What the fallback regressor predicts, None without one.
        """
        name = language or ""
        if self.scale is None or score is None:
            return self.values.get(name) or self.values.get("", ())
        residuals = self.residuals.get(name) or self.residuals.get("", ())
        return tuple(self.scale.values_at(score + np.array(residuals)).tolist())

    def weight_at(self, familiarity: float) -> float:
        """Share of the pool at a familiarity: none from 0.1 on, all of `weight` up to 0.01, linear in its logarithm between."""
        ramp = (math.log10(_NO_POOL) - math.log10(max(familiarity, 1e-300))) / math.log10(_NO_POOL / _WHOLE_POOL)
        return self.weight * min(max(ramp, 0.0), 1.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields; those of the fallback regressor only where there is one."""
        plain: dict[str, Any] = {"weight": self.weight, "source": self.source}
        plain["values"] = {language: list(values) for language, values in self.values.items()}
        if self.scale is not None:
            plain["scale"] = self.scale.to_dict()
            plain["residuals"] = {language: list(values) for language, values in self.residuals.items()}
        return plain

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "NoveltyPool":
        """Builds a pool from its JSON form; a `KeyError`, `TypeError` or `ValueError` where it cannot be read."""
        scale = entry.get("scale")
        return cls(
            float(entry["weight"]),
            _numbers_by_language(entry["values"]),
            entry.get("source", ""),
            None if scale is None else ScoreScale.from_dict(scale),
            _numbers_by_language(entry.get("residuals", {})),
        )


def _numbers_by_language(entry: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    return {language: tuple(map(float, numbers)) for language, numbers in entry.items()}


@dataclass
class Familiarity:
    """What a checkpoint knows of its training rows, and how it answers beyond them.

    Attributes:
        references: Domain to its `Reference`.
        metrics: Metric to the domains that it was trained on.
        pools: Metric to its `NoveltyPool`.
        idle: Metric to language to the least that any program of the language has, such as the memory of an idle process.
        bound_ratios: Metric to equally likely ratios of values to their lower bounds, see `Adjustment`.
        fallbacks: Metric to the domains that its fallback regressor was fitted to beyond those of `metrics`.
    """

    references: dict[str, Reference] = field(default_factory=dict)
    metrics: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pools: dict[str, NoveltyPool] = field(default_factory=dict)
    idle: dict[str, dict[str, float]] = field(default_factory=dict)
    bound_ratios: dict[str, tuple[float, ...]] = field(default_factory=dict)
    fallbacks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def compare(self, metric: str, language: str | None, row: Observation) -> Comparison | None:
        """Compares an input with the domains of a metric; the nearest counts. None for a metric that nothing is known of."""
        if metric not in self.metrics:
            return None
        domains = [self.references[domain] for domain in self.metrics[metric]]
        own = [reference for reference in domains if language in reference.languages]
        if not own:
            languages = sorted({each for reference in domains for each in reference.languages})
            reason = f"{language} input; {metric} was trained on {', '.join(languages)}"
            return Comparison("", 0.0, (reason,), {})
        return max((reference.compare(row) for reference in own), key=lambda comparison: comparison.familiarity)

    def compare_fallback(self, metric: str, language: str | None, row: Observation) -> "Comparison | None":
        """Compares an input with the further domains of a metric's fallback; None where none is of the language."""
        domains = [self.references[domain] for domain in self.fallbacks.get(metric, ())]
        own = [reference.compare(row) for reference in domains if language in reference.languages]
        return max(own, key=lambda comparison: comparison.familiarity, default=None)

    def requires(self, key: str, metrics: Collection[str], language: str) -> bool:
        """Whether all training rows of a language have a context key, for one of some metrics."""
        for metric in metrics:
            domains = [self.references[domain] for domain in self.metrics.get(metric, ())]
            own = [reference for reference in domains if language in reference.languages]
            if own and all(key in reference.required_context for reference in own):
                return True
        return False

    def default_metrics(self, names: Sequence[str], known: Sequence[str], language: str, row: Observation) -> list[str]:
        """The metrics to answer for an input where none is named: those that its domain was trained for.

        Args:
            names: Default metrics of the language.
            known: All metrics of the checkpoint, in their order.
            language: Language of the input.
            row: The input.

        Returns:
            The default metrics that a domain without mismatches has; else the first two metrics of the nearest such domain;
            none where every domain of the language has a mismatch.
        """
        trained = {domain for domains in self.metrics.values() for domain in domains}
        domains = {name: self.references[name] for name in trained if language in self.references[name].languages}
        fitting = {name: each for name, each in domains.items() if not each.mismatches(row)}
        if not domains:
            return list(names)
        own = [name for name in names if name not in self.metrics or fitting.keys() & set(self.metrics[name])]
        if own or not fitting:
            return own
        nearest = max(fitting, key=lambda name: fitting[name].compare(row).familiarity)
        return [name for name in known if nearest in self.metrics.get(name, ())][:_MOST_DEFAULTS]

    def lower_bound(self, metric: str, language: str | None, text: str) -> float | None:
        """The least that a metric can be for an input, in its unit; None where nothing is known.

        Resident memory: that of an idle process of the language, and allocations of constant size that the program writes to.

        Args:
            metric: Name.
            language: Language of the input.
            text: Its code.
        """
        name = metric.partition("@")[0]
        idle = self.idle.get(metric, {}).get(language or "")
        if name == "peak_rss_bytes" and idle is not None:
            return idle + allocated_bytes(text, language or "")
        return None

    def without(self, metrics: Collection[str]) -> "Familiarity":
        """A copy that knows nothing of some metrics."""
        kept = {name: domains for name, domains in self.metrics.items() if name not in metrics}
        fallbacks = {name: domains for name, domains in self.fallbacks.items() if name not in metrics}
        needed = {domain for domains in (*kept.values(), *fallbacks.values()) for domain in domains}
        return Familiarity(
            {domain: reference for domain, reference in self.references.items() if domain in needed},
            kept,
            {name: pool for name, pool in self.pools.items() if name not in metrics},
            {name: values for name, values in self.idle.items() if name not in metrics},
            {name: ratios for name, ratios in self.bound_ratios.items() if name not in metrics},
            fallbacks,
        )

    def merged(self, other: "Familiarity") -> "Familiarity":
        """This with what another one knows; of what both know, the other's."""
        merged = Familiarity(
            {**self.references, **other.references},
            {**self.metrics, **other.metrics},
            {**self.pools, **other.pools},
            {**self.idle, **other.idle},
            {**self.bound_ratios, **other.bound_ratios},
            {**self.fallbacks, **other.fallbacks},
        )
        return merged.without(())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "references": [reference.to_dict() for reference in self.references.values()],
            "metrics": {name: list(domains) for name, domains in self.metrics.items()},
            "pools": {name: pool.to_dict() for name, pool in self.pools.items()},
            "idle": self.idle,
            "bound_ratios": {name: list(ratios) for name, ratios in self.bound_ratios.items()},
            "fallbacks": {name: list(domains) for name, domains in self.fallbacks.items()},
        }

    @classmethod
    def from_dict(cls, entry: "Familiarity | Mapping[str, Any]") -> "Familiarity":
        """Builds the whole from its JSON form.

        Raises:
            CheckpointError: Keys or entries that cannot be read.
        """
        if isinstance(entry, cls):
            return entry
        known = [f.name for f in fields(cls)]
        if not isinstance(entry, Mapping) or set(entry) - set(known):
            raise CheckpointError(f"familiarity has the keys {known}, got {entry!r:.200}.")
        try:
            references = [Reference.from_dict(each) for each in entry.get("references", ())]
            pools = {name: NoveltyPool.from_dict(pool) for name, pool in entry.get("pools", {}).items()}
            return cls(
                {reference.domain: reference for reference in references},
                {name: tuple(domains) for name, domains in entry.get("metrics", {}).items()},
                pools,
                {name: dict(values) for name, values in entry.get("idle", {}).items()},
                {name: tuple(map(float, ratios)) for name, ratios in entry.get("bound_ratios", {}).items()},
                {name: tuple(domains) for name, domains in entry.get("fallbacks", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"familiarity has an entry that cannot be read: {error!r}.") from None


# ---------------------------------------------------------------------------------------------------- observation

_DIGITS = re.compile(r"\d[\d.]*")
_PIECE = re.compile(r"[^\W\d]\w*|\d[\w.]*|[^\w\s]")
_ONNX_INPUT = re.compile(r"^in ([\d n?]+)$", re.MULTILINE)
_ONNX_WIDTH = re.compile(r"^(?:v\d+ = )?fc (\d+)", re.MULTILINE)
_ONNX_WORD = re.compile(r"(?<!\S)[a-z][a-z0-9_.-]*(?!\S)")
_ONNX_NUMBERED = re.compile(r"[vxmow]\d+|[a-z]\d?")


def observe(
    text: str,
    language: str,
    context: Sequence[str],
    token_ids: Sequence[int],
    embedding: np.ndarray | None = None,
) -> Observation:
    """What the novelty scores see of an input.

    Args:
        text: The code as the model reads it, without its header.
        language: Its language.
        context: Context lines, `key: value`.
        token_ids: Token ids of the code, without header and special tokens.
        embedding: Mean encoder state `(hidden size,)`.
    """
    readers = {"onnx": _graph_words, "x86asm": _assembly_words}
    words, numbers, signature = readers.get(language, _source_words)(text, language)
    # All numbers are one word here: which digits stand side by side says nothing of where a text comes from.
    pieces = [_DIGITS.sub("0", piece) for piece in _PIECE.findall(text)]
    pairs = [f"{first} {second}" for first, second in pairwise(pieces)]
    return Observation(
        words=words,
        ngrams=np.unique(hash_bits(pairs, NGRAM_BITS)),
        largest_number=float(max(numbers, default=0)),
        context=frozenset(line.partition(":")[0].strip() for line in context),
        tokens=len(token_ids),
        signature=signature,
        embedding=embedding,
    )


def _source_words(text: str, language: str) -> tuple[list[str], list[float], dict[str, str]]:
    """Identifiers and keywords of a program, and its integers other than moduli."""
    code = tokens(text, language)
    words = [token.text for token in code if token.text[0].isalpha() or token.text[0] == "_"]
    numbers = [float(token.value) for token in code if isinstance(token.value, int) and not _is_modulus(token.value)]
    return words, numbers, {}


def _is_modulus(value: int) -> bool:
    """Whether an integer is one of the primes that programs compute modulo: 10^9 + 7, 998244353 and the like."""
    return value in (998_244_353, 1_000_000_007, 1_000_000_009) or value > 2**62


def _graph_words(text: str, language: str) -> tuple[list[str], list[float], dict[str, str]]:
    """Operators of an ONNX text, no numbers; the shapes of its inputs and the width of its last layer must be known."""
    statements = [line for line in text.splitlines() if not line.startswith(("total ", "# "))]
    found = [word for line in statements for word in _ONNX_WORD.findall(line)]
    words = [word for word in found if not _ONNX_NUMBERED.fullmatch(word)]
    shapes = ["x".join(shape.split()) for shape in _ONNX_INPUT.findall(text)]
    widths = _ONNX_WIDTH.findall(text)
    return words, [], {"network input": " and ".join(shapes) or "none", "outputs": widths[-1] if widths else "none"}


def _assembly_words(text: str, language: str) -> tuple[list[str], list[float], dict[str, str]]:
    """Mnemonics of an x86 listing, and each with the widest class of its vector registers."""
    words: list[str] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            mnemonic = line.split()[0]
            words.append(mnemonic)
            words += [f"{mnemonic} {width}" for width in ("zmm", "ymm", "xmm") if width in line][:1]
    return words, [], {}


__all__ = [
    "NGRAM_BITS",
    "SCORES",
    "UNFAMILIAR",
    "Comparison",
    "Familiarity",
    "NoveltyPool",
    "Observation",
    "Reference",
    "hash_bits",
    "observe",
    "tail_p_value",
]
