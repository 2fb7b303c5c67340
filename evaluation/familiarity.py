"""Fits what a checkpoint knows of its training rows (`familiarity_rlm.py`), and how it answers beyond them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from code_rlm.evaluation.rows import measured
from code_rlm.familiarity_rlm import UNFAMILIAR, Familiarity, NoveltyPool, Observation, Reference, observe
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed
from code_rlm.processing_rlm import CodeInput, RLMProcessor, length_batches

TRAINING_ROWS = 600  # of a domain that are described
HELD_OUT_ROWS = 200
_LEAST_OWN = 10  # rows of a language in its own pool
POOL_VALUES = 21  # of a novelty pool, and ratios of a bound
DEFAULT_WEIGHT = 0.6  # of a novelty pool where no rows unlike the training rows are known
_SPREAD = (0.1, 1.0, 10.0)  # factors on the training values in a pool without such rows
_PERCENT_SPREAD = (0.3, 0.7, 1.0)  # a percentage cannot be ten times as large
_LEAST_ALLOCATED = 1_000_000  # bytes from which on a bound says more than that a process is there


def observations(processor: RLMProcessor, rows: Dataset, metric: str) -> list[Observation]:
    """What the novelty scores see of the rows of a table, each asked for one metric.

    Args:
        processor: The checkpoint's processor.
        rows: A table in the schema.
        metric: Name of the metric in the header.
    """
    inputs = [CodeInput(row["text"], row["language"], tuple(row["context"])) for row in rows]
    encoded = processor.encode(inputs, [[metric]] * len(inputs))
    return [
        observe(item.text, item.language or "", item.context, each.code_ids)
        for item, each in zip(inputs, encoded, strict=True)
    ]


def fit_familiarity(
    model: RLMForConditionalGeneration,
    processor: RLMProcessor,
    tables: Mapping[str, tuple[Dataset, Dataset]],
    unfamiliar: Sequence[tuple[str, Dataset]] = (),
    seed: int = 0,
) -> Familiarity:
    """Describes the training rows of every metric of some tables.

    Args:
        model, processor: The checkpoint.
        tables: Name to training rows and held-out rows of other groups.
        unfamiliar: Names and rows of tables that the weights were not trained on, to fit what a metric is beyond the training
            rows. Sources differ by name.
        seed: Of the rows that are drawn from large tables.

    Returns:
        References by table and language, novelty pools, and lower bounds.
    """
    found = Familiarity()
    random = np.random.default_rng(seed)
    for name, (training, held_out) in tables.items():
        for language in sorted(set(training["language"])):
            domain = name if len(set(training["language"])) == 1 else f"{name} ({language})"
            own = _drawn(training, language, TRAINING_ROWS, random)
            others = _drawn(held_out, language, HELD_OUT_ROWS, random)
            known = set(model.config.metric_names())
            metrics = sorted({m for names in own["metrics"] for m in names} & known)
            if not metrics or len(set(own["group"])) < 2:
                continue
            reference = Reference.fit(
                domain,
                [language],
                observations(processor, own, metrics[0]),
                own["group"],
                observations(processor, others, metrics[0]) if len(others) else (),
                others["group"],
            )
            found.references[domain] = reference
            for metric in metrics:
                found.metrics[metric] = (*found.metrics.get(metric, ()), domain)
    for metric in found.metrics:
        values = np.concatenate([_values(rows, metric)[1] for rows, _ in tables.values()])
        known_pool = model.config.fitted.familiarity.pools.get(metric)
        has_fallback = known_pool is not None and known_pool.scale is not None
        found.pools[metric] = known_pool if has_fallback else _default_pool(metric, values)
        training = [rows for rows, _ in tables.values()]
        beyond = [rows for _, rows in unfamiliar]
        if metric.partition("@")[0] == "peak_rss_bytes":
            found.idle[metric] = idle_memory([*training, *beyond], metric)
        # A bound changes the answers that lie below it, most of them for inputs unlike the training rows.
        ratios = bound_ratios(found, beyond, metric) or bound_ratios(found, training, metric)
        if ratios is not None:
            found.bound_ratios[metric] = ratios
    with_fallback = () if model.ensemble is None else model.ensemble.settings.fallbacks
    for metric in dict.fromkeys((*found.metrics, *with_fallback)):
        parts = [(name, rows) for name, rows in unfamiliar if len(_values(rows, metric)[1])]
        if parts and metric in with_fallback:  # it was fitted to such rows
            references = _fallback_references(processor, parts, metric, random)
            found.references |= {reference.domain: reference for reference in references}
            found.fallbacks[metric] = tuple(reference.domain for reference in references)
        elif parts:
            found.pools[metric] = fit_pool(model, processor, found, parts, metric)
    return found


def _fallback_references(
    processor: RLMProcessor, parts: Sequence[tuple[str, Dataset]], metric: str, random: np.random.Generator
) -> list[Reference]:
    """Descriptions of the rows that a fallback regressor was fitted to, by language.

    Args:
        processor: Of the checkpoint.
        parts: Names and rows of the sources.
        metric: Name of the metric in the header.
        random: Draws rows of large sources.
    """
    references = []
    for language in sorted({language for _, rows in parts for language in rows["language"]}):
        seen: list[Observation] = []
        groups: list[str] = []
        for name, rows in parts:
            own = _drawn(rows.select(_values(rows, metric)[0]), language, TRAINING_ROWS, random)
            seen += observations(processor, own, metric)
            groups += [f"{name}/{group}" for group in own["group"]]
        if len(set(groups)) > 1:
            references.append(Reference.fit(f"fallback ({language})", [language], seen, groups, (), ()))
    return references


def _drawn(rows: Dataset, language: str, limit: int, random: np.random.Generator) -> Dataset:
    """At most so many rows of a language."""
    index = np.flatnonzero(np.array(rows["language"]) == language)
    return rows.select(np.sort(random.permutation(index)[:limit]))


def _values(rows: Dataset, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices and finite values of the rows that have a metric."""
    index, values = measured(rows, metric)
    finite = np.isfinite(values) & ~is_failed(values)
    return index[finite], values[finite]


def _quantiles(values: np.ndarray, count: int = POOL_VALUES) -> tuple[float, ...]:
    """Equally likely representatives of values, ascending, rounded to four digits."""
    levels = (np.arange(count) + 0.5) / count
    return tuple(float(f"{v:.4g}") for v in np.quantile(values, levels))


def _default_pool(metric: str, values: np.ndarray) -> NoveltyPool:
    """A pool from training values alone: these, a tenth and ten times as large; of percentages smaller ones only."""
    factors = _PERCENT_SPREAD if "percent" in metric else _SPREAD
    spread = np.concatenate([values * factor for factor in factors])
    described = f"training values times {', '.join(f'{factor:g}' for factor in factors)}"
    return NoveltyPool(DEFAULT_WEIGHT, {"": _quantiles(spread)}, described)


def idle_memory(tables: Sequence[Dataset], metric: str) -> dict[str, float]:
    """Least memory of a process by language: a tenth below the least of the training rows, in bytes."""
    least: dict[str, float] = {}
    for rows in tables:
        index, values = _values(rows, metric)
        for i, value in zip(index, values, strict=True):
            language = rows[int(i)]["language"]
            least[language] = min(least.get(language, math.inf), 0.9 * float(value))
    return least


def bound_ratios(familiarity: Familiarity, tables: Sequence[Dataset], metric: str) -> tuple[float, ...] | None:
    """Equally likely ratios of a metric's values to their lower bounds, each at least 1.

    Args:
        familiarity: Gives the bounds.
        tables: Training rows.
        metric: Name.

    Returns:
        None where no row has a bound; of memory only allocations count that say more than that a process is there.
    """
    ratios: list[float] = []
    for rows in tables:
        index, values = _values(rows, metric)
        for i, value in zip(index, values, strict=True):
            row = rows[int(i)]
            bound = familiarity.lower_bound(metric, row["language"], row["text"])
            idle = familiarity.idle.get(metric, {}).get(row["language"], 0.0)
            if bound and bound - idle >= (_LEAST_ALLOCATED if idle else 0.0):
                ratios.append(max(value / bound, 1.0))
    return _quantiles(np.array(ratios)) if len(ratios) >= POOL_VALUES else None


def fit_pool(
    model: RLMForConditionalGeneration,
    processor: RLMProcessor,
    familiarity: Familiarity,
    parts: Sequence[tuple[str, Dataset]],
    metric: str,
) -> NoveltyPool:
    """Fits the novelty pool of a metric to rows that the weights were not trained on.

    The values of a language are those of its rows, and a few of the largest of all languages. The weight is the one with the
    least CRPS on the logarithmic scale of those whose 90% intervals hold `LEAST_COVERAGE` of the rows, each source left out of
    the pool in turn; where none does, the one whose intervals hold most.

    Args:
        model, processor: The checkpoint.
        familiarity: References of the metric.
        parts: Source and rows.
        metric: Name.
    """
    rows = [
        row
        for source, table in parts
        for row in _novel_rows(model, processor, familiarity, source, table, metric)
        if row.familiarity < UNFAMILIAR
    ]
    losses, coverages = [], []
    for weight in WEIGHTS:
        pools = [_pool_values([r for r in rows if r.source != row.source] or rows, row.language) for row in rows]
        scored = [mixture_crps(row.quantiles, pool, weight, row.value) for row, pool in zip(rows, pools, strict=True)]
        held = [mixture_holds(row.quantiles, pool, weight, row.value) for row, pool in zip(rows, pools, strict=True)]
        losses.append(float(np.mean(scored)))
        coverages.append(float(np.mean(held)))
    enough = [k for k, coverage in enumerate(coverages) if coverage >= LEAST_COVERAGE]
    chosen = min(enough, key=losses.__getitem__) if enough else int(np.argmax(coverages))
    languages = ["", *sorted({row.language for row in rows})]
    by_source = Counter(row.source for row in rows)
    described = ", ".join(f"{count} of {source}" for source, count in sorted(by_source.items()))
    return NoveltyPool(
        WEIGHTS[chosen],
        {language: tuple(_pool_values(rows, language).tolist()) for language in languages},
        f"{len(rows)} rows: {described}; 90% intervals held {coverages[chosen]:.0%} of a source left out, "
        f"{coverages[0]:.0%} without the pool",
    )


LEAST_COVERAGE = 0.88
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


_LARGEST = (0.95, 0.98, 0.995)  # levels of the largest values of all languages in a language's pool


@dataclass
class _NovelRow:
    """A row that the weights were not trained on: equally likely values of its answer `(levels,)`, and its familiarity."""

    source: str
    language: str
    value: float
    quantiles: np.ndarray
    familiarity: float


def _pool_values(rows: Sequence[_NovelRow], language: str) -> np.ndarray:
    """Equally likely values of a language, and of the largest of all; of all languages where the language has few rows."""
    every = np.array([row.value for row in rows])
    own = np.array([row.value for row in rows if row.language == language])
    largest = np.quantile(every, _LARGEST)
    body = own if len(own) >= _LEAST_OWN else every
    return np.array([*_quantiles(body, POOL_VALUES - len(_LARGEST)), *(float(f"{v:.4g}") for v in largest)])


def _novel_rows(
    model: RLMForConditionalGeneration,
    processor: RLMProcessor,
    familiarity: Familiarity,
    source: str,
    table: Dataset,
    metric: str,
    batch_size: int = 16,
) -> list[_NovelRow]:
    """The rows of a table that have a metric, answered and compared with the training rows."""
    index, values = _values(table, metric)
    rows = table.select(index)
    inputs = [CodeInput(row["text"], row["language"], tuple(row["context"])) for row in rows]
    encoded = processor.encode(inputs, [[metric]] * len(inputs))
    answered: list[_NovelRow] = []
    for batch in length_batches([len(each.input_ids) for each in encoded], batch_size=batch_size):
        memory = model.encode(processor.collate([encoded[i] for i in batch]))
        quantiles = model.predict(memory, LEVELS, metrics=[metric], calibrated=True).quantiles[:, 0]
        for row, i in enumerate(batch):
            item = inputs[i]
            language = item.language or ""
            seen = observe(item.text, language, item.context, encoded[i].code_ids)
            comparison = familiarity.compare(metric, language, seen)
            found = 1.0 if comparison is None else comparison.familiarity
            if np.isfinite(quantiles[row]).all():
                answered.append(_NovelRow(source, language, float(values[i]), quantiles[row], found))
    return answered


LEVELS = tuple((np.arange(20) + 0.5) / 20)


def mixture_crps(quantiles: np.ndarray, pool: np.ndarray, weight: float, value: float) -> float:
    """CRPS, on the scale of natural logarithms, of `(1 - weight) F + weight G` at a value.

    Args:
        quantiles: Equally likely values of F `(levels,)`.
        pool: Equally likely values of G `(values,)`.
        weight: Share of G.
        value: The observed value.

    Source: Gneiting and Raftery 2007, Journal of the American Statistical Association 102: E|X - y| - E|X - X'| / 2.
    """
    points = np.log(np.maximum(np.concatenate([quantiles, pool]), 1e-12))
    masses = np.concatenate(
        [np.full(len(quantiles), (1 - weight) / len(quantiles)), np.full(len(pool), weight / len(pool))]
    )
    truth = math.log(max(value, 1e-12))
    distances = np.abs(points[:, None] - points)
    return float(masses @ np.abs(points - truth) - 0.5 * masses @ distances @ masses)


def mixture_holds(quantiles: np.ndarray, pool: np.ndarray, weight: float, value: float, interval: float = 0.9) -> bool:
    """Whether the central interval of `(1 - weight) F + weight G` holds a value, see `mixture_crps`."""
    points = np.concatenate([quantiles, pool])
    masses = np.concatenate(
        [np.full(len(quantiles), (1 - weight) / len(quantiles)), np.full(len(pool), weight / len(pool))]
    )
    below = masses[points < value].sum()
    at_most = masses[points <= value].sum()
    tail = (1 - interval) / 2
    return bool(at_most >= tail and below <= 1 - tail)


__all__ = [
    "bound_ratios",
    "fit_familiarity",
    "fit_pool",
    "idle_memory",
    "mixture_crps",
    "mixture_holds",
    "observations",
]
