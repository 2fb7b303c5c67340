"""Fits regressors for inputs unlike the training rows (`ensemble_rlm.EnsembleConfig.fallbacks`).

The transformer and the first regressors of a metric answer for texts like their training rows. A fallback regressor is fitted
to all rows that have the metric, whatever their source, on one linear scale of their logarithms, so that it extrapolates. Its
out-of-fold residuals make the interval of its answers: they come from groups that the fit did not see (split conformal
prediction, Papadopoulos et al. 2002, ECML).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse as sparse

from code_rlm.data.mixture import Mixture, Source
from code_rlm.distributions_rlm import Regressor, ScoreScale
from code_rlm.ensemble_rlm import FALLBACK
from code_rlm.familiarity_rlm import NoveltyPool
from code_rlm.features_rlm import RLMFeatureExtractor, token_texts
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.stats import equal_weights, spearman, weighted_quantiles
from code_rlm.training.ensemble import (
    Fitted,
    Part,
    fit_regressors,
    raw_features,
    usable_values,
    weighted_features,
    write_regressors,
)
from code_rlm.training.hidden import component_tables
from code_rlm.training.options import TrainError

RESIDUALS = 31  # of a pool
LEAST_GROUPS = 30  # of a language with residuals of its own
FALLBACK_WEIGHT = 1.0  # of the pool in the answer to an input that is not familiar at all


def fit_fallbacks(
    model: RLMForConditionalGeneration,
    metrics: Sequence[str],
    mixed: Sequence[Source],
    fallback_only: Sequence[Source],
    mixture: Mixture,
    log: Callable[[str], None] = lambda text: None,
) -> None:
    """Fits fallback regressors and their novelty pools.

    Args:
        model: Its ensemble was fitted to the mixture's sources. It gets the regressors, its fitted state the pools.
        metrics: Which metrics get one.
        mixed: Sources that the other regressors were fitted to as well.
        fallback_only: Sources for the fallback regressors alone. Residuals are those of the sources among them that no
            familiarity reference describes: they are what the transformer does not know.
        mixture: Builds the inputs, as in training.
        log: Gets a line of each metric.

    Raises:
        TrainError: A metric without a regressor, or without rows.
    """
    ensemble = model.ensemble
    if ensemble is None:
        raise TrainError("ensemble.fallbacks needs the feature ensemble; leave ensemble: false out.")
    settings = ensemble.settings
    if unknown := sorted(set(metrics) - set(settings.metrics)):
        raise TrainError(
            f"ensemble.fallbacks names {', '.join(unknown)}, for which the ensemble has no regressor; it has "
            f"{', '.join(settings.metrics)}."
        )
    sources = [source for source in (*mixed, *fallback_only) if set(metrics) & set(source.metrics)]
    whole = replace(mixture, max_tokens=model.config.max_input_tokens)
    extractor = RLMFeatureExtractor(settings.features, token_texts(mixture.tokenizer))
    rows = {id(source): raw_features(extractor, source, whole)[0] for source in sources}
    for key, components in component_tables(ensemble, sources, (), mixture.tokenizer, log).items():
        rows[key] = sparse.hstack([rows[key], components]).tocsr()
    asked: dict[Regressor, list[Part]] = {}
    scales: dict[Regressor, ScoreScale] = {}
    for metric in metrics:
        found = [Part(source, *usable_values(source, metric)) for source in sources if metric in source.metrics]
        parts = [part for part in found if len(part.rows)]
        values = np.concatenate([part.values for part in parts]) if parts else np.zeros(0)
        if not len(values) or np.ptp(values) == 0:
            raise TrainError(f"ensemble.fallbacks names {metric}, of which there are no two different values.")
        asked[metric, FALLBACK] = parts
        scales[metric, FALLBACK] = ScoreScale.linear(values)
    fitted = fit_regressors(asked, scales, weighted_features(ensemble, rows), rows, settings, log)
    write_regressors(model, {}, fitted)
    familiarity = model.config.fitted.familiarity
    for (metric, domain), one in fitted.items():
        known = {name.partition(" (")[0] for name in familiarity.metrics.get(metric, ())}
        unknown_sources = [source for source in fallback_only if source.name not in known]
        parts, scale = asked[metric, domain], scales[metric, domain]
        familiarity.pools[metric] = _pool(one, parts, unknown_sources, scale)
        for line in describe_sources(one, parts, scale):
            log(f"fallback: {metric}, {line}")


def describe_sources(fitted: Fitted, parts: Sequence[Part], scale: ScoreScale) -> list[str]:
    """Returns a line for each source on the predictions of rows whose group was left out.

    A line has the rank correlation, the median factor between prediction and value on a scale of logarithms, and the share of
    values in the 90% interval that the residuals of the other sources give, and in that of the source's other groups.

    Args:
        fitted: The regressor, its rows in the order of the parts.
        parts: The rows of each source.
        scale: Of the scores.
    """
    lines = []
    source = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    every_group = np.concatenate([np.array(part.source.groups)[part.rows] for part in parts])
    for number, part in enumerate(parts):
        own = source == number
        residuals, groups = fitted.residuals[own], every_group[own]
        text = (
            f"{part.source.name}: {len(residuals)} rows, Spearman {spearman(fitted.out_of_fold[own], part.values):.3f}"
        )
        if scale.logarithm:
            nats_per_score = (scale.values[-1] - scale.values[0]) / (scale.scores[-1] - scale.scores[0])
            text += f", median factor {np.exp(np.median(np.abs(residuals)) * nats_per_score):.2f}"
        shares = [f"{_held_by_groups(residuals, groups):.0%} in that of its other groups"]
        if not own.all():
            inside = _inside(residuals, fitted.residuals[~own], every_group[~own])
            shares.insert(0, f"{inside.mean():.0%} in the 90% interval of the other sources")
        lines.append(", ".join([text, *shares]))
    return lines


def _inside(residuals: np.ndarray, others: np.ndarray, groups: np.ndarray, interval: float = 0.9) -> np.ndarray:
    """Returns which residuals lie inside the central interval of others, whose groups weigh the same, bool `(rows,)`."""
    tail = (1 - interval) / 2
    low, high = weighted_quantiles(others, equal_weights(groups), np.array([tail, 1 - tail]))
    return (residuals >= low) & (residuals <= high)


def _held_by_groups(residuals: np.ndarray, groups: np.ndarray) -> float:
    """Returns the share of residuals inside the 90% interval of those of other groups, in ten folds of groups."""
    _, number = np.unique(groups, return_inverse=True)
    fold = np.random.default_rng(0).permutation(number.max() + 1)[number] % 10
    held = np.zeros(len(residuals), bool)
    for one in np.unique(fold):
        others = fold != one
        if not others.any():
            return float("nan")
        held[fold == one] = _inside(residuals[fold == one], residuals[others], groups[others])
    return float(held.mean())


def _pool(fitted: Fitted, parts: Sequence[Part], preferred: Sequence[Source], scale: ScoreScale) -> NoveltyPool:
    """The novelty pool of a fallback regressor.

    Args:
        fitted: The regressor with its out-of-fold residuals, in the order of the parts' rows.
        parts: The rows that it was fitted to.
        preferred: Sources whose residuals count alone where they have some.
        scale: Of its scores.
    """
    chosen = [np.full(len(part.rows), any(part.source is each for each in preferred)) for part in parts]
    use = np.concatenate(chosen)
    if not use.any():
        use[:] = True
    languages = np.array([part.source.languages[row] for part in parts for row in part.rows])[use]
    groups = np.array([f"{part.source.name}/{part.source.groups[row]}" for part in parts for row in part.rows])[use]
    residuals = fitted.residuals[use]
    by_language = {"": _equally_likely(residuals, groups)}
    for language in sorted(set(languages)):
        own = languages == language
        if len(set(groups[own])) >= LEAST_GROUPS:
            by_language[language] = _equally_likely(residuals[own], groups[own])
    names = ", ".join(dict.fromkeys(part.source.name for part in parts))
    described = f"fallback regressor fitted to {names}; residuals of {len(set(groups))} groups left out"
    return NoveltyPool(FALLBACK_WEIGHT, {}, described, scale, by_language)


def _equally_likely(residuals: np.ndarray, groups: np.ndarray) -> tuple[float, ...]:
    """Representatives of residuals, every group weighing the same, ascending, rounded to four decimals."""
    levels = (np.arange(RESIDUALS) + 0.5) / RESIDUALS
    return tuple(np.round(weighted_quantiles(residuals, equal_weights(groups), levels), 4).tolist())


__all__ = ["FALLBACK_WEIGHT", "LEAST_GROUPS", "RESIDUALS", "describe_sources", "fit_fallbacks"]
