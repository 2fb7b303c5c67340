"""Fits the feature ensemble (`ensemble_rlm.py`) before the first step: base learners, stacked and cross-fitted by group.

The regressors of a metric are fitted on the training rows that have the metric, on normal scores of its values. The base
learners are a ridge regression and, if the ensemble has them, boosted trees (`trees.py`), MLPs (`mlp.py`) and a ridge
regression on the hidden states of a language model (`hidden.py`). Their stacking weights are fitted to out-of-fold
predictions, every group weighing the same (stacked regressions, Breiman 1996, Machine Learning 24).
In training the model reads out-of-fold predictions, too (stacking, Wolpert 1992): scores of regressors fitted on the row itself
are better than any in use, and would teach the decoder to trust them too far. Validation rows and everything after training
get the scores of the regressors fitted on all rows.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.optimize import nnls
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import spearmanr

from code_rlm.console import with_progress
from code_rlm.data.mixture import Mixture, Source
from code_rlm.distributions_rlm import Regressor, ScoreScale
from code_rlm.ensemble_rlm import FALLBACK, EnsembleConfig, FeatureEnsemble
from code_rlm.features_rlm import STRUCTURES, FeatureLayout, RLMFeatureExtractor, in_domain, token_texts
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed
from code_rlm.processing_rlm import length_batches, pad_inputs
from code_rlm.stats import equal_weights, logistic_scale
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.cost_model import CostModel
from code_rlm.training.hidden import HiddenRidge, component_tables
from code_rlm.training.mlp import FittedMLPs, MLPOutput
from code_rlm.training.trees import FOLDS, Forest

BaseLearner = Forest | MLPOutput | HiddenRidge | CostModel  # beside the ridge on n-grams and numbers
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
LEAST_ROWS = 50  # with fewer there is nothing to choose a penalty by, and the metric gets no regressor
_MANY_ROWS = 5_000  # beyond, one fold is enough to choose the penalty by
_BATCH_TOKENS, _BATCH_ROWS = 65_536, 512
ALIKE = 0.9  # rank correlation from which on metrics share MLPs
DOMAIN_ROWS = 1000  # of a source, to be a domain by itself
_NEARLY_ALL = 0.999
_FAR = 8.0  # no score lies farther out: on the scale of an earlier fit a value of 0 may have none


def settings_for(tokenizer: RLMTokenizer, **changes: Any) -> EnsembleConfig:
    """Settings without metrics for a tokenizer; `changes` are fields of `EnsembleConfig` or of its `FeatureLayout`."""
    return EnsembleConfig(features=FeatureLayout.for_tokenizer(tokenizer)).changed(**changes)


def fit_ensemble(
    model: RLMForConditionalGeneration,
    train: Sequence[Source],
    validation: Sequence[Source],
    mixture: Mixture,
    log: Callable[[str], None] = lambda text: None,
    score_training: bool = True,
) -> None:
    """Fits regressors for every metric of the training sources and gives all sources their scores.

    Metrics that the ensemble has already and that no source has stay as they are; the inverse document frequencies are computed
    with the first fit and kept. A metric that has a regressor already and is fitted again to texts of one language whose
    structure is read gets a second regressor for these: the decoder was trained on scores of the first, which stays for all
    other texts. Sources whose texts differ from all others by their words get a regressor each, for texts with these words.
    Metrics of the same texts that rank these alike share MLPs.

    Args:
        model: Its config has `ensemble`; the ensemble is widened by metrics that it does not know.
        train: Sources to fit on; their `ensemble_scores` become cross-fitted ones, float32 `(rows, metrics)`.
        validation: Sources that get the scores of the final regressors.
        mixture: Builds the inputs, as in training.
        log: Gets a line of each metric: its penalty, stacking weights and cross-fitted rank correlation.
        score_training: Whether the training sources get scores, too; a run without steps does not read them.
    """
    # As much of the text as the model will read in use, even where training reads less.
    whole = replace(mixture, max_tokens=model.config.max_input_tokens)
    extractor = RLMFeatureExtractor(model.ensemble.settings.features, token_texts(mixture.tokenizer))
    rows, words = {}, {}
    for source in (*train, *validation):
        rows[id(source)], words[id(source)] = raw_features(extractor, source, whole)
    for key, components in component_tables(model.ensemble, train, validation, mixture.tokenizer, log).items():
        rows[key] = sparse.hstack([rows[key], components]).tocsr()
    if not any(model.ensemble.settings.scales):
        model.ensemble.idf.data = _inverse_document_frequency([rows[id(s)] for s in train], model.ensemble.settings)
    features = weighted_features(model.ensemble, rows)
    asked: dict[Regressor, Sequence[Part]] = {}
    scales: dict[str, ScoreScale] = {}
    for metric in dict.fromkeys(m for source in train for m in source.metrics):
        parts = [Part(s, *usable_values(s, metric)) for s in train if metric in s.metrics]
        target = np.concatenate([part.values for part in parts])
        parts = [part for part in parts if len(part.rows)]
        if len(target) < LEAST_ROWS or np.ptp(target) == 0:
            log(f"feature ensemble: {metric} has {len(target)} usable rows, no regressor")
            continue
        # A metric's own template has no line that names the language.
        templated = metric in (model.config.templates or {})
        language = None if templated else _own_language(model.ensemble.settings, metric, parts)
        known = model.ensemble.settings.scale_of(metric) if language else None
        scales[metric] = known or ScoreScale.normal(target)
        asked |= {(metric, domain): chosen for domain, chosen in _domains(language, parts, train, words).items()}
    scale_of = {regressor: scales[regressor[0]] for regressor in asked}
    fitted = fit_regressors(asked, scale_of, features, rows, model.ensemble.settings, log)
    held = {metric for source in validation for metric in source.metrics}
    if lost := sorted(set(model.config.fitted.pooling) & (set(scales) - held)):
        log(
            f"feature ensemble: the pooling of {', '.join(lost)} goes, which was fitted to other scores; no rows to refit it"
        )
    write_regressors(model, scales, fitted)
    settings = model.ensemble.settings
    weight, bias = model.ensemble.weight.double().numpy(), model.ensemble.bias.double().numpy()
    membership = RLMFeatureExtractor(settings.features, (), settings.domain_names)
    for source in (*(train if score_training else ()), *validation):
        scores = (features[id(source)] @ weight + bias).astype(np.float32)
        if settings.trees:
            scores += _further_scores(model.ensemble, rows[id(source)])
        members = membership.membership(words[id(source)]).bool().numpy()
        source.ensemble_scores = model.ensemble.chosen(torch.from_numpy(scores), members).numpy()
    for source in train if score_training else ():
        x, fold = features[id(source)], _folds(source)
        for (metric, domain), one in fitted.items():
            own = np.array([domain is None or in_domain(domain, each) for each in words[id(source)]], bool)
            for number in range(FOLDS if metric in source.metrics else 0):
                index = np.flatnonzero(own & (fold == number))
                scores = one.left_out(number, x[index], rows[id(source)][index])
                source.ensemble_scores[index, settings.metrics.index(metric)] = scores


@dataclass
class Part:
    """Rows of a source that have a metric.

    Attributes:
        source: The source.
        rows: Which, int `(rows,)`.
        values: The metric's `(rows,)`.
    """

    source: Source
    rows: np.ndarray
    values: np.ndarray


@dataclass
class Fitted:
    """What was fitted to one metric.

    Attributes:
        weight, bias: Of the ridge regression on all rows, as the path holds them.
        by_fold: Those of the regressions that have not seen a fold.
        out_of_fold: Out-of-fold predictions of the rows, all learners stacked, `(rows,)`.
        residuals: The rows' scores minus these, `(rows,)`.
        residual_scale: Their typical size, see `EnsembleConfig.residual_scales`.
        described: The penalty and the stacking weights, for the log.
        learners: The base learners beside the ridge with their stacking weights.
    """

    weight: np.ndarray
    bias: float
    by_fold: list[tuple[np.ndarray, float]]
    out_of_fold: np.ndarray
    residuals: np.ndarray
    residual_scale: float
    described: str
    learners: list[tuple[BaseLearner, float]]

    @classmethod
    def to(
        cls,
        x: sparse.csr_matrix,
        y: np.ndarray,
        fold: np.ndarray,
        groups: np.ndarray,
        buckets: int,
        learners: Sequence[BaseLearner],
    ) -> "Fitted":
        """Fits the ridge to features `(rows, token size)` and scores `(rows,)`, then the stacking weights of all learners."""
        ridge = _Ridge(x, y, buckets)
        penalty, by_fold, found = ridge.cross_fit(fold)
        weight, bias = ridge.fit(np.ones(len(y), bool), penalty)
        described = f"penalty {penalty:g}"
        if not learners:
            return cls(weight, bias, by_fold, found, y - found, _typical(found - y, groups), described, [])
        predictions = np.stack([found, *(learner.out_of_fold for learner in learners)], 1)
        # A group weighs the same whatever its rows: one large group that none predicts well would decide alone.
        share = np.sqrt(equal_weights(groups))
        stacking_weights, _ = nnls(predictions * share[:, None], y * share)
        if not stacking_weights.any():  # a single group is never left out: nothing is known of any learner
            stacking_weights[0] = 1.0
        own, others = float(stacking_weights[0]), stacking_weights[1:].tolist()
        weighted = list(zip(learners, others, strict=True))
        weighed = [f"{_described(learner)} {own_weight:.2f}" for learner, own_weight in weighted]
        stacked = predictions @ stacking_weights
        return cls(
            own * weight,
            own * bias,
            [(own * w, own * b) for w, b in by_fold],
            stacked,
            y - stacked,
            _typical(stacked - y, groups),
            f"{described}, ridge {own:.2f}, {', '.join(weighed)}",
            [(learner, own_weight) for learner, own_weight in weighted if own_weight > 0],
        )

    def left_out(self, number: int, x: sparse.csr_matrix, counts: sparse.csr_matrix) -> np.ndarray:
        """Scores by all that have not seen a fold, of features `x` and raw ones `counts`, `(rows,)`."""
        weight, bias = self.by_fold[number]
        scores = x[:, : len(weight)] @ weight + bias
        for learner, stacking_weight in self.learners:
            scores = scores + stacking_weight * learner.left_out(number, counts)
        return scores


def set_unread(model: RLMForConditionalGeneration, known: Collection[str], trained: bool) -> None:
    """Leaves scores that the decoder was never trained with out of its memory, or takes all in where it is to be trained.

    Without this a new metric would move the answers for all others a little.

    Args:
        model: Its ensemble was fitted.
        known: Metrics that the ensemble was fitted to before.
        trained: Whether steps follow.
    """
    settings = model.ensemble.settings
    unread = [name for name in settings.metrics if name in settings.unread or (known and name not in known)]
    settings = replace(settings, unread=() if trained else tuple(unread))
    model.ensemble.settings = settings
    model.config.set_ensemble(settings)


def write_regressors(
    model: RLMForConditionalGeneration, scales: Mapping[str, ScoreScale], fitted: Mapping[Regressor, Fitted]
) -> None:
    """Makes room for regressors in a model's ensemble and writes their base learners into it.

    Args:
        model: Gets them in the place of earlier ones for the same texts.
        scales: Of the metrics whose scores the decoder reads.
        fitted: What was fitted, by metric and domain.
    """
    _widen(model, scales, fitted)
    settings = model.ensemble.settings
    for each, one in fitted.items():
        column = settings.regressors.index(each)
        model.ensemble.weight.data[:, column] = 0.0
        model.ensemble.weight.data[: len(one.weight), column] = torch.from_numpy(one.weight).float()
        model.ensemble.bias.data[column] = one.bias
        for learner, stacking_weight in one.learners:
            if not isinstance(learner, MLPOutput):  # these share networks
                learner.write(model.ensemble, column, stacking_weight)
    sharing = _sharing(fitted)
    first = len(settings.mlps) - sum(len(mlps.whole) for mlps, _ in sharing)
    for mlps, answers in sharing:
        places = [
            (settings.regressors.index(each), metric, stacking_weight) for each, metric, stacking_weight in answers
        ]
        mlps.write(model.ensemble, first, places)
        first += len(mlps.whole)


def fit_regressors(
    asked: Mapping[Regressor, Sequence[Part]],
    scales: Mapping[Regressor, ScoreScale],
    features: Mapping[int, sparse.csr_matrix],
    counts: Mapping[int, sparse.csr_matrix],
    settings: EnsembleConfig,
    log: Callable[[str], None],
) -> dict[Regressor, Fitted]:
    """Fits every regressor, metrics of the same texts that rank these alike together.

    Fallback regressors have a cost model among their base learners, and whole families of groups are left out for them: what
    counts is how they do on texts unlike all that they have seen.

    Args:
        asked: The regressors, and the rows that each is fitted to.
        scales: Of every regressor's scores.
        features, counts: Of every source's texts `(rows, size)`, as they are and raw, by its id.
    """
    fitted: dict[Regressor, Fitted] = {}
    for sources, regressors in _of_the_same_texts(asked):
        y = np.full((sum(map(len, sources)), len(regressors)), np.nan)
        starts = np.cumsum([0, *map(len, sources[:-1])])
        for number, each in enumerate(regressors):
            for start, part in zip(starts, asked[each], strict=True):
                y[start + part.rows, number] = np.clip(scales[each].score(part.values), -_FAR, _FAR)
        x, raw = (sparse.vstack([table[id(s)] for s in sources]).tocsr() for table in (features, counts))
        is_fallback = regressors[0][1] == FALLBACK
        fold = np.concatenate([_family_folds(source) if is_fallback else _folds(source) for source in sources])
        groups = np.concatenate([np.array(source.groups) for source in sources])
        for alike in _alike(y) if settings.mlp_features else [[n] for n in range(y.shape[1])]:
            keep = np.isfinite(y[:, alike]).any(1)
            cost_scales = [scales[regressors[number]] if is_fallback else None for number in alike]
            found = _fit_together(
                x[keep], raw[keep], y[keep][:, alike], fold[keep], groups[keep], settings, cost_scales
            )
            fitted |= {regressors[number]: one for number, one in zip(alike, found, strict=True)}
            for number, one in zip(alike, found, strict=True):
                metric, domain = regressors[number]
                values = np.concatenate([part.values for part in asked[metric, domain]])
                log(
                    f"feature ensemble: {metric}{f' ({domain})' if domain else ''}, {len(values)} rows, {one.described}, "
                    f"cross-fitted Spearman {spearmanr(one.out_of_fold, values).statistic:.3f}"
                )
    return {each: fitted[each] for each in asked}


def _of_the_same_texts(asked: Mapping[Regressor, Sequence[Part]]) -> list[tuple[list[Source], list[Regressor]]]:
    """The regressors to fit, those together that are fitted to texts of the same sources, behind these."""
    found: dict[tuple, tuple[list[Source], list[Regressor]]] = {}
    for (metric, domain), parts in asked.items():
        sources = [part.source for part in parts]
        found.setdefault((domain, *map(id, sources)), (sources, []))[1].append((metric, domain))
    return list(found.values())


def _alike(y: np.ndarray) -> list[list[int]]:
    """Metrics that rank texts alike, each with all others of its set, for scores `(rows, metrics)`, NaN where there is none."""
    found: list[list[int]] = []
    for metric in range(y.shape[1]):
        for those in found:
            if all(_ranked_alike(y[:, metric], y[:, other]) for other in those):
                those.append(metric)
                break
        else:
            found.append([metric])
    return found


def _ranked_alike(one: np.ndarray, other: np.ndarray) -> bool:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < LEAST_ROWS or not np.ptp(one[both]) or not np.ptp(other[both]):
        return False
    return spearmanr(one[both], other[both]).statistic >= ALIKE


def _fit_together(
    x: sparse.csr_matrix,
    counts: sparse.csr_matrix,
    y: np.ndarray,
    fold: np.ndarray,
    groups: np.ndarray,
    settings: EnsembleConfig,
    cost_scales: Sequence[ScoreScale | None],
) -> list[Fitted]:
    """Fits all base learners to metrics of the same texts that share MLPs, and stacks them for each.

    Args:
        x, counts: Features of the texts, as they are and raw, `(rows, size)`.
        y: Scores, NaN where a text has none, `(rows, metrics)`.
        fold, groups: Of each text `(rows,)`.
        settings: Of the ensemble.
        cost_scales: Of each metric with a cost model the linear scale of its scores, else None.
    """
    having = [np.flatnonzero(np.isfinite(own)) for own in y.T]
    learners: list[list[BaseLearner]] = [[] for _ in having]
    tokens = settings.features.token_size
    if settings.trees:
        forests = [Forest(counts[rows], y[rows, m], fold[rows], settings) for m, rows in enumerate(having)]
        learners = [[forest] for forest in forests]
        if settings.mlp_features:
            mlps = FittedMLPs(counts, y, fold, forests, settings.mlp_features, settings.mlp_count)
            for metric, rows in enumerate(having):
                answer = mlps.output(metric, rows)
                learners[metric] += [] if answer is None else [answer]
    for metric, (rows, scale) in enumerate(zip(having, cost_scales, strict=True)):
        if scale is not None and scale.logarithm and settings.features.parts["costs"]:
            values = scale.values_at(y[rows, metric])
            learners[metric].append(CostModel(counts[rows], settings.features, values, fold[rows], scale))
    if settings.features.language_model is not None:
        for metric, rows in enumerate(having):
            learners[metric].append(HiddenRidge(counts[rows], y[rows, metric], fold[rows], tokens))
        x = x[:, :tokens]
    return [
        Fitted.to(x[rows], y[rows, metric], fold[rows], groups[rows], settings.features.buckets, learners[metric])
        for metric, rows in enumerate(having)
    ]


def _sharing(
    fitted: Mapping[Regressor, Fitted],
) -> list[tuple[FittedMLPs, list[tuple[Regressor, int, float]]]]:
    """The MLPs of nonzero weight, with the regressors that they answer, which of their metrics each is, and its weight."""
    found: dict[int, tuple[FittedMLPs, list]] = {}
    for each, one in fitted.items():
        for learner, stacking_weight in one.learners:
            if isinstance(learner, MLPOutput):
                answers = found.setdefault(id(learner.mlps), (learner.mlps, []))[1]
                answers.append((each, learner.metric, stacking_weight))
    return list(found.values())


def _typical(errors: np.ndarray, groups: np.ndarray) -> float:
    """Their scale, every group weighing the same."""
    return max(logistic_scale(np.abs(errors), equal_weights(groups)), 1e-4)


def _described(learner: BaseLearner) -> str:
    if isinstance(learner, Forest):
        return f"{learner.trees} trees"
    names = {MLPOutput: "MLPs", HiddenRidge: "ridge on hidden states", CostModel: "cost model"}
    return names[type(learner)]


def raw_features(
    extractor: RLMFeatureExtractor, source: Source, mixture: Mixture
) -> tuple[sparse.csr_matrix, list[frozenset[str]]]:
    """Features of every row, n-grams not yet weighted and scaled, and its words (`RLMFeatureExtractor.words`)."""
    # A metric's own template has no line that names the language.
    plain = np.array([metric not in (mixture.templates or {}) for metric in source.metrics], dtype=bool)
    asked = (source.present * (1 + plain)).argmax(1)[:, None]
    items = [mixture.build(source, row, asked[row]) for row in range(len(source))]
    lengths = [len(item.input_ids) for item in items]
    batches = length_batches(lengths, batch_tokens=_BATCH_TOKENS, batch_size=_BATCH_ROWS)
    blocks: list[sparse.csr_matrix] = []
    words: list[frozenset[str]] = []
    for batch in with_progress(batches, len(items), "texts"):
        inputs = pad_inputs([items[i].input_ids for i in batch], mixture.tokenizer.pad_token_id)
        languages = [items[i].language for i in batch]
        blocks.append(sparse.csr_matrix(extractor.raw(**inputs, languages=languages).numpy()))
        words += extractor.words(**inputs, languages=languages)
    back = np.argsort(np.concatenate(batches))
    return sparse.vstack(blocks).tocsr()[back], [words[row] for row in back]


def _inverse_document_frequency(rows: Sequence[sparse.csr_matrix], settings: EnsembleConfig) -> torch.Tensor:
    """1 - log of the share of texts that hold an n-gram, the sources counted alike whatever their size."""
    shares = [np.asarray((x[:, : settings.features.buckets] > 0).mean(0)).ravel() for x in rows]
    return torch.from_numpy(1 - np.log(np.mean(shares, 0).clip(1e-3, 1))).float()


def weighted_features(ensemble: FeatureEnsemble, rows: Mapping[int, sparse.csr_matrix]) -> dict[int, sparse.csr_matrix]:
    """The features of every source as `FeatureEnsemble.weighted` gives them, from raw ones, by the source's id."""
    buckets = ensemble.settings.features.buckets
    idf = ensemble.idf.double().numpy()
    return {key: _scaled(counts, idf, buckets) for key, counts in rows.items()}


def _scaled(x: sparse.csr_matrix, idf: np.ndarray, buckets: int) -> sparse.csr_matrix:
    """The features as `FeatureEnsemble.features` gives them."""
    grams = x[:, :buckets].multiply(idf[None]).tocsr()
    norms = np.sqrt(np.asarray(grams.multiply(grams).sum(1)).ravel())
    return sparse.hstack([sparse.diags(1 / np.maximum(norms, 1e-6)) @ grams, x[:, buckets:]]).tocsr()


def _further_scores(path: FeatureEnsemble, rows: sparse.csr_matrix) -> np.ndarray:
    """What the path's trees and MLPs add to every row's scores, float32 `(rows, regressors)`."""
    # Dense a part at a time: all of a large table would take gigabytes.
    starts = range(0, rows.shape[0], 256)
    return torch.cat([path.further(torch.from_numpy(rows[i : i + 256].toarray()).float()) for i in starts]).numpy()


def _folds(source: Source) -> np.ndarray:
    """Of each row the fold that its group is in, int `(rows,)`."""
    return np.array([fold_of(group) for group in source.groups])


def _family_folds(source: Source) -> np.ndarray:
    """Of each row the fold that its group's family is in, int `(rows,)`: the first word of a group's name is its family."""
    return np.array([fold_of(re.split(r"[\s/]", group, maxsplit=1)[0]) for group in source.groups])


def fold_of(group: str) -> int:
    """The fold in which a group is left out, below `FOLDS`."""
    return int.from_bytes(hashlib.sha256(f"lexical\x00{group}".encode()).digest()[:8], "big") % FOLDS


def usable_rows(source: Source, metric: str) -> np.ndarray:
    """Rows of a source that have a finite value of a metric, int `(rows,)`."""
    column = source.metrics.index(metric)
    values = source.values[:, column]
    return np.flatnonzero(source.present[:, column] & np.isfinite(values) & ~is_failed(values))


def usable_values(source: Source, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a source that have a finite value of a metric, and the values."""
    index = usable_rows(source, metric)
    return index, source.values[index, source.metrics.index(metric)]


def _own_language(settings: EnsembleConfig, metric: str, parts: Sequence[Part]) -> str | None:
    """The language of all rows of a metric, if its structure is read and the metric has a regressor already; else None."""
    found = {part.source.languages[row] for part in parts for row in part.rows}
    earlier = metric in settings.metrics and settings.scale_of(metric) is not None
    own = earlier and settings.features.reads_structure and len(found) == 1 and found <= set(STRUCTURES)
    return found.pop() if own else None


def _domains(
    language: str | None, parts: Sequence[Part], train: Sequence[Source], words: Mapping[int, Sequence[frozenset[str]]]
) -> dict[str | None, Sequence[Part]]:
    """The domains of texts that a metric gets regressors for, and the rows that each is fitted to.

    A source of many rows is a domain of its own if its texts differ from those of all others by their words: they have some
    words all in common, and hardly any text of another source has all of these. Otherwise all of a language are one domain. Of
    a source of few rows it is not known which words all such texts have.

    Args:
        language: Of all texts of the metric, None if it is to have a single regressor.
        parts: The rows that have the metric.
        train: All sources.
        words: Of every source's texts, by its id.
    """
    found: dict[str | None, Sequence[Part]] = {}
    for part in parts if language else ():
        own = [words[id(part.source)][row] for row in part.rows]
        counts = Counter(word for each in own for word in each)
        common = sorted(word for word, count in counts.items() if count >= _NEARLY_ALL * len(own))
        domain = " ".join([language, *(word for word in common if word != language)])
        others = [
            [in_domain(domain, each) for each in words[id(s)] if language in each]
            for s in train
            if s is not part.source
        ]
        if (
            len(own) >= DOMAIN_ROWS
            and np.ptp(part.values) > 0
            and all(sum(o) <= (1 - _NEARLY_ALL) * len(o) for o in others)
        ):
            found[domain] = [part]
    return found if len(found) == len(parts) else {language: parts}


def _widen(
    model: RLMForConditionalGeneration,
    scales: Mapping[str, ScoreScale],
    fitted: Mapping[Regressor, Fitted],
) -> None:
    """Makes the metrics those fitted now and those fitted earlier, and notes what the scores of all of them stand for.

    Args:
        scales: Of the metrics that are fitted now.
        fitted: What is fitted now, by metric and domain.
    """
    old = model.ensemble
    # Channels of a path that was begun anew have no scale, and go if nothing fits them again.
    kept = [i for i, name in enumerate(old.settings.metrics) if name in scales or old.settings.scales[i] is not None]
    known = {old.settings.metrics[i]: old.settings.scales[i] for i in kept} | dict(scales)
    domains = {name: domain_names for name, domain_names in old.settings.domains.items() if name in known}
    fallbacks = [name for name in old.settings.fallbacks if name in known]
    fallbacks += [name for name, domain in fitted if domain == FALLBACK and name not in fallbacks]
    for name, domain in fitted:
        if domain == FALLBACK:
            continue
        # What is fitted now replaces all that were fitted to some of its texts, and comes after the others.
        others = [
            each
            for each in domains.pop(name, ())
            if domain and each != domain and ((name, each) in fitted or not in_domain(domain, each.split()))
        ]
        if domain:
            domains[name] = (*others, domain)
    settings = replace(
        old.settings,
        metrics=tuple(known),
        scales=tuple(known.values()),
        domains=domains,
        fallbacks=tuple(fallbacks),
        unread=tuple(name for name in old.settings.unread if name in known),
        mlps=(),
        residual_scales=(),
    )
    before = old.settings.regressors
    stay = {
        number: [each for each in answered if each in settings.regressors and each not in fitted]
        for number, answered in enumerate(old.settings.mlps)
    }
    stay = {number: answered for number, answered in stay.items() if answered}
    further = [[each for each, _, _ in answers] for shared, answers in _sharing(fitted) for _ in shared.whole]
    errors = dict(zip(before, old.settings.residual_scales, strict=True)) | {
        each: one.residual_scale for each, one in fitted.items()
    }
    settings = replace(
        settings,
        mlps=(*stay.values(), *further),
        residual_scales=tuple(errors[each] for each in settings.regressors),
    )
    model.add_ensemble(settings)
    # A pooling component is valid only with the scores that it was fitted to.
    pooling = model.config.fitted.pooling
    model.config.fitted.pooling = {name: pooling[name] for name in pooling if name in known and name not in scales}
    there = [number for number, each in enumerate(before) if each in settings.regressors and each not in fitted]
    carry_over(old, model.ensemble, {number: settings.regressors.index(before[number]) for number in there}, kept)
    if stay:
        outputs = [(number, each) for number, answered in enumerate(old.settings.mlps) for each in answered]
        answers = [place for place, (number, each) in enumerate(outputs) if each in stay.get(number, ())]
        for name, buffer in old.mlps.named_buffers():
            own = answers if name == "last" else list(stay)
            getattr(model.ensemble.mlps, name)[: len(own)] = buffer[own]


def carry_over(
    old: FeatureEnsemble, new: FeatureEnsemble, regressors: Mapping[int, int], metrics: Sequence[int]
) -> None:
    """Copies ridge regressions and trees of some regressors, and all that is not a regressor's own.

    Args:
        old, new: Ensembles with features of one layout; the new one may have room for more trees.
        regressors: Number of a regressor in the old ensemble to its number in the new one.
        metrics: Which metrics of the old ensemble are the first of the new one.
    """
    there, here = list(regressors), list(regressors.values())
    new.weight.data[:, here] = old.weight.data[:, there]
    new.bias.data[here] = old.bias.data[there]
    new.score_embedding.data[: len(metrics)] = old.score_embedding.data[list(metrics)]
    if old.settings.trees:
        for name in ("tree_feature", "tree_left", "tree_right", "tree_threshold", "tree_value"):
            getattr(new, name)[here, : old.settings.trees] = getattr(old, name)[there]
    for number, metric in enumerate(old.settings.fallbacks):
        if metric in new.settings.fallbacks:
            row = new.settings.fallbacks.index(metric)
            new.fallback_rates[row] = old.fallback_rates[number]
            new.fallback_line[row] = old.fallback_line[number]
    new.idf.data = old.idf.data
    new.score_proj.weight.data = old.score_proj.weight.data


class _Ridge:
    """Ridge regression of one metric by conjugate gradients.

    Args:
        x: `(rows, features)`.
        y: Scores `(rows,)`.
        buckets: How many features are n-grams; those behind them are standardised, without a dense copy.
    """

    def __init__(self, x: sparse.csr_matrix, y: np.ndarray, buckets: int):
        self.y = y
        mean = np.asarray(x.mean(0)).ravel()
        variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
        own = np.arange(x.shape[1]) < buckets
        # Those that are no n-grams are logarithms: one that hardly ever differs must not become huge where it does.
        spread = np.where(own, 1.0, np.maximum(np.sqrt(np.maximum(variance, 0.0)), 0.5))
        self.x = sparse.hstack([x @ sparse.diags(1 / spread), np.ones((x.shape[0], 1))]).tocsr()
        self.center, self.spread = np.where(own, 0.0, mean / spread), spread

    def _solve(self, keep: np.ndarray, penalty: float) -> np.ndarray:
        x, y, center = self.x[keep], self.y[keep], np.append(self.center, 0.0)
        back = x.T.tocsr()

        def normal(w: np.ndarray) -> np.ndarray:
            found = x @ w - center @ w
            return back @ found - center * found.sum() + penalty * w

        # N-grams and sizes differ in scale by orders of magnitude: without the diagonal the rare ones would not be fitted.
        squares = np.asarray(x.multiply(x).sum(0) - 2 * x.multiply(center).sum(0)).ravel() + len(y) * center**2
        inverse = 1 / (np.maximum(squares, 0.0) + penalty)
        operator = LinearOperator((x.shape[1],) * 2, matvec=normal)
        return cg(operator, back @ y - center * y.sum(), rtol=1e-3, maxiter=60, M=sparse.diags(inverse))[0]

    def _plain(self, solution: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights and bias for features that are not standardised."""
        return solution[:-1] / self.spread, float(solution[-1] - self.center @ solution[:-1])

    def fit(self, keep: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
        """Weights `(features,)` and bias fitted on some of the rows."""
        return self._plain(self._solve(keep, penalty))

    def cross_fit(self, fold: np.ndarray) -> tuple[float, list[tuple[np.ndarray, float]], np.ndarray]:
        """The best penalty on groups left out, a regressor for each fold that has not seen it, and its scores `(rows,)`."""
        tried = range(FOLDS) if len(self.y) <= _MANY_ROWS else range(1)
        errors = [[self._error(fold == number, penalty) for number in tried] for penalty in PENALTIES]
        penalty = PENALTIES[int(np.argmin(np.sum(errors, 1)))]
        solutions = [self._solve(fold != number, penalty) for number in range(FOLDS)]
        found = np.zeros(len(self.y))
        for number, solution in enumerate(solutions):
            found[fold == number] = self._predict(fold == number, solution)
        return penalty, [self._plain(s) for s in solutions], found

    def _error(self, left_out: np.ndarray, penalty: float) -> float:
        return float(np.sum((self._predict(left_out, self._solve(~left_out, penalty)) - self.y[left_out]) ** 2))

    def _predict(self, rows: np.ndarray, solution: np.ndarray) -> np.ndarray:
        return self.x[rows] @ solution - self.center @ solution[:-1]


__all__ = ["fit_ensemble", "fold_of", "settings_for", "usable_rows"]
