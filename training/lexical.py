"""Fits the lexical path (`lexical_rlm.py`) before the first step: ridge regression on n-grams, cross-fitted by group.

Each metric's regressor is fitted on the training rows that have the metric, on normal scores of its values.
Beside the ridge speak boosted trees (`forest.py`) and perceptrons (`perceptron.py`), if the path has them, weighted by what
they are worth together on rows left out, every group alike (stacked regressions, Breiman 1996, Machine Learning 24).
What the model sees of it in training are scores of regressors that have not seen the row's group (as in stacking,
Wolpert 1992): scores of the regressor fitted on the row itself would be better than any that the model will meet later, and
teach it to trust them too far. Validation rows and everything after training get the scores of the regressor fitted on all.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.optimize import nnls
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import spearmanr

from code_rlm.data.mixture import Mixture, Source
from code_rlm.evaluation.calibration import equal_weights
from code_rlm.lexical_rlm import STRUCTURES, LexicalPath, LexicalSettings, ScoreScale
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.forest import FOLDS, Forest
from code_rlm.training.perceptron import Perceptron

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
LEAST_ROWS = 50  # with fewer there is nothing to choose a penalty by, and the metric gets no channel
_MANY_ROWS = 5_000  # beyond, one fold is enough to choose the penalty by
_BATCH_TOKENS = 65_536
_FAR = 8.0  # no score lies farther out: on the scale of an earlier fit a value of 0 may have none


def digit_tokens(tokenizer: RLMTokenizer) -> tuple[int, ...]:
    """Token ids of the digits 0 to 9; none where the tokenizer does not read digits one by one."""
    vocabulary = tokenizer.get_vocab()
    digits = tuple(vocabulary.get(str(d), -1) for d in range(10))
    return () if -1 in digits else digits


def token_texts(tokenizer: RLMTokenizer) -> list[str]:
    """The text of every token by id, empty for those that are no text."""
    special = set(tokenizer.all_special_ids)
    ids = range(max(tokenizer.get_vocab().values()) + 1)
    return ["" if i in special else tokenizer.decode([i]) for i in ids]


def settings_for(tokenizer: RLMTokenizer, **changes) -> LexicalSettings:
    """Settings without channels for a tokenizer: its digits, the tokens that hold a line break, those that begin a comment."""
    texts = token_texts(tokenizer)
    if changes.get("name_numbers") or changes.get("structure_buckets"):
        changes["vocabulary"] = len(texts)
    lines = [i for i, text in enumerate(texts) if "\n" in text]
    comments = [i for i, text in enumerate(texts) if text.startswith("#")]
    return LexicalSettings(
        digit_tokens=digit_tokens(tokenizer),
        line_tokens=tuple(lines),
        comment_tokens=tuple(comments),
        **{**changes, "channels": (), "scales": ()},
    )


def fit_lexical_path(
    model: RLMForConditionalGeneration,
    train: Sequence[Source],
    validation: Sequence[Source],
    mixture: Mixture,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Fits a channel for every metric of the training sources and gives all sources their scores.

    Channels that the model already has for other metrics stay as they are; the inverse document frequencies are computed
    with the first fit and kept. A channel that is there already and is fitted anew to texts of one language whose structure is
    read gets a second regressor for these: of all other texts the decoder knows the scores of the first.

    Args:
        model: Its config has `lexical`; the path is widened by channels for metrics that it does not know.
        train: Sources to fit on; their `lexical_scores` become cross-fitted ones, float32 `(rows, channels)`.
        validation: Sources that get the scores of the final regressors.
        mixture: Builds the inputs, as in training.
        say: Told the penalty and the cross-fitted rank correlation of each channel.
    """
    if not model.lexical.knows_vocabulary():
        raise ValueError(
            "The lexical path reads names or operators, and has not been told the vocabulary: read_vocabulary()."
        )
    # As much of the text as the model will read in use, even where training reads less.
    whole = replace(mixture, max_tokens=model.config.max_input_tokens)
    rows = {id(source): _raw_features(model.lexical, source, whole) for source in (*train, *validation)}
    if not any(model.lexical.settings.scales):
        model.lexical.idf.data = _inverse_document_frequency([rows[id(s)] for s in train], model.lexical.settings)
    buckets = model.lexical.settings.buckets
    idf = model.lexical.idf.double().numpy()
    features = {key: _scaled(counts, idf, buckets) for key, counts in rows.items()}
    folds = {id(s): np.array([_fold(group) for group in s.groups]) for s in train}
    fitted: dict[str, _Fitted] = {}
    scales: dict[str, ScoreScale] = {}
    languages: dict[str, str | None] = {}
    for metric in dict.fromkeys(m for source in train for m in source.metrics):
        parts = [(s, *_usable(s, metric)) for s in train if metric in s.metrics]
        target = np.concatenate([values for _, _, values in parts])
        if len(target) < LEAST_ROWS or np.ptp(target) == 0:
            say(f"lexical path: {metric} has {len(target)} usable rows, no channel")
            continue
        x = sparse.vstack([features[id(s)][index] for s, index, _ in parts]).tocsr()
        fold = np.concatenate([folds[id(s)][index] for s, index, _ in parts])
        # A metric's own template has no line that names the language.
        templated = metric in (model.config.templates or {})
        languages[metric] = None if templated else _own_language(model.lexical.settings, metric, parts)
        known = model.lexical.settings.scale_of(metric) if languages[metric] else None
        regressor = _Ridge(x, target, buckets, known)
        penalty, by_fold, found = regressor.cross_fit(fold)
        weight, bias = regressor.fit(np.ones(len(target), bool), penalty)
        voices, own, worth = [], 1.0, []
        if model.lexical.settings.trees:
            counts = sparse.vstack([rows[id(s)][index] for s, index, _ in parts]).tocsr()
            voices = _voices(counts, regressor.y, fold, model.lexical.settings)
            said = np.stack([found, *(voice.found for voice in voices)], 1)
            # A group weighs the same whatever its rows: one large group that none can tell would decide alone.
            share = np.sqrt(equal_weights(np.concatenate([np.array(s.groups)[index] for s, index, _ in parts])))
            (own, *worth), _ = nnls(said * share[:, None], regressor.y * share)
            own = own if own or any(worth) else 1.0  # a single group is never left out: nothing is known of any voice
            found = said @ [own, *worth]
            weighed = [f"{_described(voice)} {share:.2f}" for voice, share in zip(voices, worth, strict=True)]
            say(f"lexical path: {metric}, ridge weighs {own:.2f}, {', '.join(weighed)}")
        heard = [(voice, share) for voice, share in zip(voices, worth, strict=True) if share > 0]
        fitted[metric] = _Fitted(own * weight, own * bias, [(own * w, own * b) for w, b in by_fold], heard)
        scales[metric] = regressor.scale
        rho = spearmanr(found, target).statistic
        say(f"lexical path: {metric}, {len(target)} rows, penalty {penalty:g}, cross-fitted Spearman {rho:.3f}")
    _widen(model, scales, languages, {metric for metric, one in fitted.items() if one.has_perceptron})
    channels = model.lexical.settings.channels
    for metric, one in fitted.items():
        column = model.lexical.settings.regressors.index((metric, languages[metric]))
        model.lexical.weight.data[:, column] = torch.from_numpy(one.weight).float()
        model.lexical.bias.data[column] = one.bias
        for voice, worth in one.voices:
            voice.write(model.lexical, column, worth)
    weight, bias = model.lexical.weight.double().numpy(), model.lexical.bias.double().numpy()
    for source in (*train, *validation):
        scores = (features[id(source)] @ weight + bias).astype(np.float32)
        if model.lexical.settings.trees:
            scores += _further_scores(model.lexical, rows[id(source)])
        source.lexical_scores = model.lexical.chosen(torch.from_numpy(scores), source.languages).numpy()
    for source in train:
        x = features[id(source)]
        for metric in set(source.metrics) & set(fitted):
            own = np.isin(source.languages, [languages[metric]] if languages[metric] else source.languages)
            for number in range(FOLDS):
                index = np.flatnonzero(own & (folds[id(source)] == number))
                scores = fitted[metric].left_out(number, x[index], rows[id(source)][index])
                source.lexical_scores[index, channels.index(metric)] = scores


@dataclass
class _Fitted:
    """What was fitted to one metric.

    Attributes:
        weight, bias: Of the ridge regression on all rows, as the path holds them.
        by_fold: Those of the regressions that have not seen a fold.
        voices: What has a say beside it, and what that is worth.
    """

    weight: np.ndarray
    bias: float
    by_fold: list[tuple[np.ndarray, float]]
    voices: list[tuple[Forest | Perceptron, float]] = field(default_factory=list)

    @property
    def has_perceptron(self) -> bool:
        """Whether a perceptron has a say."""
        return any(isinstance(voice, Perceptron) for voice, _ in self.voices)

    def left_out(self, number: int, x: sparse.csr_matrix, counts: sparse.csr_matrix) -> np.ndarray:
        """Scores by all that have not seen a fold, of features `x` and raw ones `counts`, `(rows,)`."""
        weight, bias = self.by_fold[number]
        return x @ weight + bias + sum(worth * voice.left_out(number, counts) for voice, worth in self.voices)


def _voices(
    counts: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, settings: LexicalSettings
) -> list[Forest | Perceptron]:
    """What speaks beside the ridge, fitted to raw features `(rows, size)` and scores `(rows,)`."""
    forest = Forest(counts, y, fold, settings)
    if not settings.perceptron_columns:
        return [forest]
    perceptron = Perceptron(counts, y, fold, forest, settings.perceptron_columns)
    return [forest] if perceptron.whole is None else [forest, perceptron]


def _described(voice: Forest | Perceptron) -> str:
    return f"{voice.trees} trees" if isinstance(voice, Forest) else "perceptron"


def _raw_features(path: LexicalPath, source: Source, mixture: Mixture) -> sparse.csr_matrix:
    """The path's features of every row, its n-grams not yet weighted and scaled."""
    items = [mixture.build(source, row, np.flatnonzero(source.present[row])[:1]).ids for row in range(len(source))]
    order = sorted(range(len(items)), key=lambda row: len(items[row]))
    blocks, start = [], 0
    while start < len(order):
        end = start + 1
        while end < len(order) and len(items[order[end]]) * (end + 1 - start) <= _BATCH_TOKENS and end - start < 512:
            end += 1
        group = [items[row] for row in order[start:end]]
        ids = torch.zeros((len(group), len(group[-1])), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(group):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.as_tensor(tokens), 1
        blocks.append(sparse.csr_matrix(path.raw_features(ids, mask).numpy()))
        start = end
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return sparse.vstack(blocks).tocsr()[back]


def _inverse_document_frequency(rows: Sequence[sparse.csr_matrix], settings: LexicalSettings) -> torch.Tensor:
    """1 - log of the share of texts that hold an n-gram, the sources counted alike whatever their size."""
    shares = [np.asarray((x[:, : settings.buckets] > 0).mean(0)).ravel() for x in rows]
    return torch.from_numpy(1 - np.log(np.mean(shares, 0).clip(1e-3, 1))).float()


def _scaled(x: sparse.csr_matrix, idf: np.ndarray, buckets: int) -> sparse.csr_matrix:
    """The features as `LexicalPath.features` gives them."""
    grams = x[:, :buckets].multiply(idf[None]).tocsr()
    norms = np.sqrt(np.asarray(grams.multiply(grams).sum(1)).ravel())
    return sparse.hstack([sparse.diags(1 / np.maximum(norms, 1e-6)) @ grams, x[:, buckets:]]).tocsr()


def _further_scores(path: LexicalPath, rows: sparse.csr_matrix) -> np.ndarray:
    """What the path's trees and perceptrons add to every row's scores, float32 `(rows, regressors)`."""
    # Dense a part at a time: all of a large table would take gigabytes.
    starts = range(0, rows.shape[0], 256)
    return torch.cat([path.further(torch.from_numpy(rows[i : i + 256].toarray()).float()) for i in starts]).numpy()


def _fold(group: str) -> int:
    return int.from_bytes(hashlib.sha256(f"lexical\x00{group}".encode()).digest()[:8], "big") % FOLDS


def usable_rows(source: Source, metric: str) -> np.ndarray:
    """Rows of a source that have a finite value of a metric, int `(rows,)`."""
    column = source.metrics.index(metric)
    values = source.values[:, column]
    return np.flatnonzero(source.present[:, column] & np.isfinite(values) & ~is_failed(values))


def _usable(source: Source, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a source that have a finite value of a metric, and the values."""
    index = usable_rows(source, metric)
    return index, source.values[index, source.metrics.index(metric)]


def _own_language(settings: LexicalSettings, metric: str, parts: Sequence[tuple]) -> str | None:
    """The language of all rows of a metric, if its structure is read and the metric has a regressor already; else None."""
    found = {source.languages[row] for source, index, _ in parts for row in index}
    earlier = metric in settings.channels and settings.scale_of(metric) is not None
    own = earlier and settings.structure_buckets and len(found) == 1 and found <= set(STRUCTURES)
    return found.pop() if own else None


def _widen(
    model: RLMForConditionalGeneration,
    scales: Mapping[str, ScoreScale],
    languages: Mapping[str, str | None],
    with_perceptron: Collection[str] = (),
) -> None:
    """Makes the channels those fitted now and those fitted earlier, and notes what the scores of all of them stand for."""
    old = model.lexical
    # Channels of a path that was begun anew have no scale, and go if nothing fits them again.
    kept = [i for i, name in enumerate(old.settings.channels) if name in scales or old.settings.scales[i] is not None]
    known = {old.settings.channels[i]: old.settings.scales[i] for i in kept} | dict(scales)
    # A first regressor that is fitted now has seen all that a second one of its metric had.
    structured = {n: kind for n, kind in old.settings.structured.items() if n in known and languages.get(n, kind)}
    structured |= {name: kind for name, kind in languages.items() if kind and name in scales}
    settings = replace(
        old.settings, channels=tuple(known), scales=tuple(known.values()), structured=structured, perceptrons=()
    )
    before = old.settings.regressors
    fitted = {(name, languages.get(name)) for name in scales}
    stay = [each for each in old.settings.perceptrons if each in settings.regressors and each not in fitted]
    perceptrons = (*stay, *((name, languages.get(name)) for name in scales if name in with_perceptron))
    settings = replace(settings, perceptrons=perceptrons)
    model.add_lexical_path(settings)
    model.config.experts = {name: e for name, e in (model.config.experts or {}).items() if name in known}
    there = [number for number, each in enumerate(before) if each in settings.regressors and each not in fitted]
    here = [settings.regressors.index(before[number]) for number in there]
    model.lexical.weight.data[:, here] = old.weight.data[:, there]
    model.lexical.bias.data[here] = old.bias.data[there]
    model.lexical.channel_embedding.data[: len(kept)] = old.channel_embedding.data[kept]
    for part in {"reader", "texts"} & set(dict(old.named_children())):
        setattr(model.lexical, part, getattr(old, part))
    if model.lexical.settings.trees:
        for name in ("tree_feature", "tree_left", "tree_right", "tree_threshold", "tree_value"):
            getattr(model.lexical, name)[here] = getattr(old, name)[there]
    if stay:
        kept_there = [old.settings.perceptrons.index(each) for each in stay]
        for name, buffer in old.perceptrons.named_buffers():
            getattr(model.lexical.perceptrons, name)[: len(stay)] = buffer[kept_there]
    model.lexical.idf.data, model.lexical.score_proj.weight.data = old.idf.data, old.score_proj.weight.data


class _Ridge:
    """Ridge regression of one metric by conjugate gradients.

    Args:
        x: `(rows, features)`.
        values: In the metric's unit `(rows,)`. `scale` keeps what the scores stand for.
        buckets: How many features are n-grams; those behind them are standardised, without a dense copy.
        scale: What the scores are to stand for; by default normal scores of the values.
    """

    def __init__(self, x: sparse.csr_matrix, values: np.ndarray, buckets: int, scale: ScoreScale | None = None):
        self.scale = scale or ScoreScale.normal(values)
        self.y = np.clip(self.scale.score(values), -_FAR, _FAR)
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


__all__ = ["digit_tokens", "fit_lexical_path", "settings_for", "token_texts", "usable_rows"]
