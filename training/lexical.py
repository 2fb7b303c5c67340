"""Fits the lexical path (`lexical_rlm.py`) before the first step: ridge regression on n-grams, cross-fitted by group.

Each metric's regressor is fitted on the training rows that have the metric, on normal scores of its values.
Beside the ridge speak boosted trees (`forest.py`) and perceptrons (`perceptron.py`), if the path has them, weighted by what
they are worth together on rows left out, every group alike (stacked regressions, Breiman 1996, Machine Learning 24).
What the model sees of it in training are scores of regressors that have not seen the row's group (as in stacking,
Wolpert 1992): scores of the regressor fitted on the row itself would be better than any that the model will meet later, and
teach it to trust them too far. Validation rows and everything after training get the scores of the regressor fitted on all.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sparse
import torch
from scipy.optimize import nnls
from scipy.sparse.linalg import LinearOperator, cg
from scipy.stats import spearmanr

from code_rlm.data.mixture import Mixture, Source
from code_rlm.evaluation.calibration import equal_weights, weighted_quantiles
from code_rlm.lexical_rlm import STRUCTURES, LexicalPath, LexicalSettings, ScoreScale, of_kind
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import is_failed
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.forest import FOLDS, Forest
from code_rlm.training.perceptron import Answer, Perceptrons

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0)
LEAST_ROWS = 50  # with fewer there is nothing to choose a penalty by, and the metric gets no channel
_MANY_ROWS = 5_000  # beyond, one fold is enough to choose the penalty by
_BATCH_TOKENS = 65_536
ALIKE = 0.9  # rank correlation from which on metrics share perceptrons
KIND_ROWS = 1000  # of a source, to be a kind of texts by itself
_NEARLY_ALL = 0.999
Regressor = tuple[str, str | None]  # one of LexicalSettings.regressors
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
    if any(changes.get(name) for name in ("name_numbers", "structure_buckets", "place_buckets")):
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
    read gets a second regressor for these: of all other texts the decoder knows the scores of the first. Sources whose texts
    can be told from those of all others by their words get a regressor each, for texts with these words. Metrics of the same
    texts that rank these alike share perceptrons.

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
    rows, words = {}, {}
    for source in (*train, *validation):
        rows[id(source)], words[id(source)] = _raw_features(model.lexical, source, whole)
    if not any(model.lexical.settings.scales):
        model.lexical.idf.data = _inverse_document_frequency([rows[id(s)] for s in train], model.lexical.settings)
    buckets = model.lexical.settings.buckets
    idf = model.lexical.idf.double().numpy()
    features = {key: _scaled(counts, idf, buckets) for key, counts in rows.items()}
    asked: dict[Regressor, Sequence[_Part]] = {}
    scales: dict[str, ScoreScale] = {}
    for metric in dict.fromkeys(m for source in train for m in source.metrics):
        parts = [_Part(s, *_usable(s, metric)) for s in train if metric in s.metrics]
        target = np.concatenate([part.values for part in parts])
        parts = [part for part in parts if len(part.rows)]
        if len(target) < LEAST_ROWS or np.ptp(target) == 0:
            say(f"lexical path: {metric} has {len(target)} usable rows, no channel")
            continue
        # A metric's own template has no line that names the language.
        templated = metric in (model.config.templates or {})
        language = None if templated else _own_language(model.lexical.settings, metric, parts)
        known = model.lexical.settings.scale_of(metric) if language else None
        scales[metric] = known or ScoreScale.normal(target)
        asked |= {(metric, kind): chosen for kind, chosen in _kinds(language, parts, train, words).items()}
    fitted = _fit_all(asked, scales, features, rows, model.lexical.settings, say)
    held = {metric for source in validation for metric in source.metrics}
    if lost := sorted(set(model.config.experts or {}) & (set(scales) - held)):
        say(
            f"lexical path: the experts of {', '.join(lost)} go, which were fitted to other scores; no rows to fit new ones to"
        )
    _widen(model, scales, fitted)
    settings = model.lexical.settings
    for each, one in fitted.items():
        column = settings.regressors.index(each)
        model.lexical.weight.data[:, column] = torch.from_numpy(one.weight).float()
        model.lexical.bias.data[column] = one.bias
        for voice, worth in one.voices:
            if isinstance(voice, Forest):
                voice.write(model.lexical, column, worth)
    sharing = _sharing(fitted)
    first = len(settings.perceptrons) - sum(len(perceptrons.whole) for perceptrons, _ in sharing)
    for perceptrons, answers in sharing:
        places = [(settings.regressors.index(each), metric, worth) for each, metric, worth in answers]
        perceptrons.write(model.lexical, first, places)
        first += len(perceptrons.whole)
    weight, bias = model.lexical.weight.double().numpy(), model.lexical.bias.double().numpy()
    for source in (*train, *validation):
        scores = (features[id(source)] @ weight + bias).astype(np.float32)
        if settings.trees:
            scores += _further_scores(model.lexical, rows[id(source)])
        source.lexical_scores = model.lexical.chosen(torch.from_numpy(scores), words[id(source)]).numpy()
    for source in train:
        x, fold = features[id(source)], _folds(source)
        for (metric, kind), one in fitted.items():
            own = np.array([kind is None or of_kind(kind, each) for each in words[id(source)]], bool)
            for number in range(FOLDS if metric in source.metrics else 0):
                index = np.flatnonzero(own & (fold == number))
                scores = one.left_out(number, x[index], rows[id(source)][index])
                source.lexical_scores[index, settings.channels.index(metric)] = scores


@dataclass
class _Part:
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
class _Fitted:
    """What was fitted to one metric.

    Attributes:
        weight, bias: Of the ridge regression on all rows, as the path holds them.
        by_fold: Those of the regressions that have not seen a fold.
        found: Scores of the rows by all that have not seen their fold `(rows,)`.
        error: How far these are from the rows' own, see `LexicalSettings.errors`.
        described: The penalty, and what each voice is worth.
        voices: What has a say beside it, and what that is worth.
    """

    weight: np.ndarray
    bias: float
    by_fold: list[tuple[np.ndarray, float]]
    found: np.ndarray
    error: float
    described: str
    voices: list[tuple[Forest | Answer, float]]

    @classmethod
    def to(
        cls,
        x: sparse.csr_matrix,
        y: np.ndarray,
        fold: np.ndarray,
        groups: np.ndarray,
        buckets: int,
        voices: Sequence[Forest | Answer],
    ) -> "_Fitted":
        """Fits the ridge to features `(rows, size)` and scores `(rows,)`, and weighs it and all others."""
        ridge = _Ridge(x, y, buckets)
        penalty, by_fold, found = ridge.cross_fit(fold)
        weight, bias = ridge.fit(np.ones(len(y), bool), penalty)
        described = f"penalty {penalty:g}"
        if not voices:
            return cls(weight, bias, by_fold, found, _typical(found - y, groups), described, [])
        said = np.stack([found, *(voice.found for voice in voices)], 1)
        # A group weighs the same whatever its rows: one large group that none can tell would decide alone.
        share = np.sqrt(equal_weights(groups))
        (own, *worth), _ = nnls(said * share[:, None], y * share)
        own = own if own or any(worth) else 1.0  # a single group is never left out: nothing is known of any voice
        weighed = [f"{_described(voice)} {share:.2f}" for voice, share in zip(voices, worth, strict=True)]
        return cls(
            own * weight,
            own * bias,
            [(own * w, own * b) for w, b in by_fold],
            said @ [own, *worth],
            _typical(said @ [own, *worth] - y, groups),
            f"{described}, ridge weighs {own:.2f}, {', '.join(weighed)}",
            [(voice, share) for voice, share in zip(voices, worth, strict=True) if share > 0],
        )

    def left_out(self, number: int, x: sparse.csr_matrix, counts: sparse.csr_matrix) -> np.ndarray:
        """Scores by all that have not seen a fold, of features `x` and raw ones `counts`, `(rows,)`."""
        weight, bias = self.by_fold[number]
        return x @ weight + bias + sum(worth * voice.left_out(number, counts) for voice, worth in self.voices)


def _fit_all(
    asked: Mapping[Regressor, Sequence[_Part]],
    scales: Mapping[str, ScoreScale],
    features: Mapping[int, sparse.csr_matrix],
    counts: Mapping[int, sparse.csr_matrix],
    settings: LexicalSettings,
    say: Callable[[str], None],
) -> dict[Regressor, _Fitted]:
    """Fits every regressor, metrics of the same texts that rank these alike together.

    Args:
        asked: The regressors, and the rows that each is fitted to.
        scales: Of every metric.
        features, counts: Of every source's texts `(rows, size)`, as they are and raw, by its id.
    """
    fitted: dict[Regressor, _Fitted] = {}
    for sources, regressors in _of_the_same_texts(asked):
        y = np.full((sum(map(len, sources)), len(regressors)), np.nan)
        starts = np.cumsum([0, *map(len, sources[:-1])])
        for number, each in enumerate(regressors):
            for start, part in zip(starts, asked[each], strict=True):
                y[start + part.rows, number] = np.clip(scales[each[0]].score(part.values), -_FAR, _FAR)
        x, raw = (sparse.vstack([table[id(s)] for s in sources]).tocsr() for table in (features, counts))
        fold = np.concatenate([_folds(source) for source in sources])
        groups = np.concatenate([np.array(source.groups) for source in sources])
        for alike in _alike(y) if settings.perceptron_columns else [[n] for n in range(y.shape[1])]:
            keep = np.isfinite(y[:, alike]).any(1)
            found = _fit_together(x[keep], raw[keep], y[keep][:, alike], fold[keep], groups[keep], settings)
            fitted |= {regressors[number]: one for number, one in zip(alike, found, strict=True)}
            for number, one in zip(alike, found, strict=True):
                metric, kind = regressors[number]
                values = np.concatenate([part.values for part in asked[metric, kind]])
                say(
                    f"lexical path: {metric}{f' ({kind})' if kind else ''}, {len(values)} rows, {one.described}, "
                    f"cross-fitted Spearman {spearmanr(one.found, values).statistic:.3f}"
                )
    return {each: fitted[each] for each in asked}


def _of_the_same_texts(asked: Mapping[Regressor, Sequence[_Part]]) -> list[tuple[list[Source], list[Regressor]]]:
    """The regressors to fit, those together that are fitted to texts of the same sources, behind these."""
    found: dict[tuple, tuple[list[Source], list[Regressor]]] = {}
    for (metric, kind), parts in asked.items():
        sources = [part.source for part in parts]
        found.setdefault((kind, *map(id, sources)), (sources, []))[1].append((metric, kind))
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
    settings: LexicalSettings,
) -> list[_Fitted]:
    """Fits all voices to metrics of the same texts that share perceptrons, and weighs them for each.

    Args:
        x, counts: Features of the texts, as they are and raw, `(rows, size)`.
        y: Scores, NaN where a text has none, `(rows, metrics)`.
        fold, groups: Of each text `(rows,)`.
    """
    having = [np.flatnonzero(np.isfinite(own)) for own in y.T]
    voices: list[list[Forest | Answer]] = [[] for _ in having]
    if settings.trees:
        forests = [Forest(counts[rows], y[rows, m], fold[rows], settings) for m, rows in enumerate(having)]
        voices = [[forest] for forest in forests]
        if settings.perceptron_columns:
            perceptrons = Perceptrons(counts, y, fold, forests, settings.perceptron_columns, settings.perceptron_count)
            for metric, rows in enumerate(having):
                answer = perceptrons.answer(metric, rows)
                voices[metric] += [] if answer is None else [answer]
    return [
        _Fitted.to(x[rows], y[rows, metric], fold[rows], groups[rows], settings.buckets, voices[metric])
        for metric, rows in enumerate(having)
    ]


def _sharing(
    fitted: Mapping[Regressor, _Fitted],
) -> list[tuple[Perceptrons, list[tuple[Regressor, int, float]]]]:
    """The perceptrons that have a say, with the regressors they speak for, which of their metrics each is, its worth."""
    found: dict[int, tuple[Perceptrons, list]] = {}
    for each, one in fitted.items():
        for voice, worth in one.voices:
            if isinstance(voice, Answer):
                answers = found.setdefault(id(voice.perceptrons), (voice.perceptrons, []))[1]
                answers.append((each, voice.metric, worth))
    return list(found.values())


def logistic_scale(distances: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Scale of the logistic distribution about 0 that has the median of these distances `(rows,)`."""
    middle = np.median(distances) if weights is None else weighted_quantiles(distances, weights, 0.5)
    return float(middle) / np.log(3)  # the median of |x| of a standard logistic x is log 3


def _typical(errors: np.ndarray, groups: np.ndarray) -> float:
    """Their scale, every group weighing the same."""
    return max(logistic_scale(np.abs(errors), equal_weights(groups)), 1e-4)


def _described(voice: Forest | Answer) -> str:
    return f"{voice.trees} trees" if isinstance(voice, Forest) else "perceptrons"


def _raw_features(
    path: LexicalPath, source: Source, mixture: Mixture
) -> tuple[sparse.csr_matrix, list[frozenset[str]]]:
    """The path's features of every row, its n-grams not yet weighted and scaled, and what `LexicalPath.words` says of it."""
    # A metric's own template has no line that names the language.
    plain = np.array([metric not in (mixture.templates or {}) for metric in source.metrics], dtype=bool)
    asked = (source.present * (1 + plain)).argmax(1)[:, None]
    items = [mixture.build(source, row, asked[row]).ids for row in range(len(source))]
    order = sorted(range(len(items)), key=lambda row: len(items[row]))
    blocks, words, start = [], [], 0
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
        words += path.words(ids, mask) if path.settings.reads_structure else [frozenset()] * len(group)
        start = end
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return sparse.vstack(blocks).tocsr()[back], [words[row] for row in back]


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


def _folds(source: Source) -> np.ndarray:
    """Of each row the fold that its group is in, int `(rows,)`."""
    return np.array([_fold(group) for group in source.groups])


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


def _own_language(settings: LexicalSettings, metric: str, parts: Sequence[_Part]) -> str | None:
    """The language of all rows of a metric, if its structure is read and the metric has a regressor already; else None."""
    found = {part.source.languages[row] for part in parts for row in part.rows}
    earlier = metric in settings.channels and settings.scale_of(metric) is not None
    own = earlier and settings.reads_structure and len(found) == 1 and found <= set(STRUCTURES)
    return found.pop() if own else None


def _kinds(
    language: str | None, parts: Sequence[_Part], train: Sequence[Source], words: Mapping[int, Sequence[frozenset[str]]]
) -> dict[str | None, Sequence[_Part]]:
    """The kinds of texts that a metric gets regressors for, and the rows that each is fitted to.

    A source of many rows is a kind of its own if its texts can be told from those of all others: they have some words all in
    common, and hardly any text of another source has all of these. Where one cannot, all of a language are one kind. Of few
    rows nobody knows which words all such texts have.

    Args:
        language: Of all texts of the metric, None if it is to have a single regressor.
        parts: The rows that have the metric.
        train: All sources.
        words: Of every source's texts, by its id.
    """
    found: dict[str | None, Sequence[_Part]] = {}
    for part in parts if language else ():
        own = [words[id(part.source)][row] for row in part.rows]
        counts = Counter(word for each in own for word in each)
        common = sorted(word for word, count in counts.items() if count >= _NEARLY_ALL * len(own))
        kind = " ".join([language, *(word for word in common if word != language)])
        others = [
            [of_kind(kind, each) for each in words[id(s)] if language in each] for s in train if s is not part.source
        ]
        if (
            len(own) >= KIND_ROWS
            and np.ptp(part.values) > 0
            and all(sum(o) <= (1 - _NEARLY_ALL) * len(o) for o in others)
        ):
            found[kind] = [part]
    return found if len(found) == len(parts) else {language: parts}


def _widen(
    model: RLMForConditionalGeneration,
    scales: Mapping[str, ScoreScale],
    fitted: Mapping[Regressor, _Fitted],
) -> None:
    """Makes the channels those fitted now and those fitted earlier, and notes what the scores of all of them stand for.

    Args:
        scales: Of the channels that are fitted now.
        fitted: What is fitted now, by channel and kind of text.
    """
    old = model.lexical
    # Channels of a path that was begun anew have no scale, and go if nothing fits them again.
    kept = [i for i, name in enumerate(old.settings.channels) if name in scales or old.settings.scales[i] is not None]
    known = {old.settings.channels[i]: old.settings.scales[i] for i in kept} | dict(scales)
    structured = {name: kinds for name, kinds in old.settings.structured.items() if name in known}
    for name, kind in fitted:
        # What is fitted now takes the place of all that were fitted to some of its texts, and speaks after the others.
        others = [
            each
            for each in structured.pop(name, ())
            if kind and each != kind and ((name, each) in fitted or not of_kind(kind, frozenset(each.split())))
        ]
        if kind:
            structured[name] = (*others, kind)
    settings = replace(
        old.settings,
        channels=tuple(known),
        scales=tuple(known.values()),
        structured=structured,
        perceptrons=(),
        errors=(),
    )
    before = old.settings.regressors
    stay = {
        number: [each for each in answered if each in settings.regressors and each not in fitted]
        for number, answered in enumerate(old.settings.perceptrons)
    }
    stay = {number: answered for number, answered in stay.items() if answered}
    further = [[each for each, _, _ in answers] for shared, answers in _sharing(fitted) for _ in shared.whole]
    errors = dict(zip(before, old.settings.errors, strict=True)) | {each: one.error for each, one in fitted.items()}
    settings = replace(
        settings,
        perceptrons=(*stay.values(), *further),
        errors=tuple(errors[each] for each in settings.regressors),
    )
    model.add_lexical_path(settings)
    # An expert is as wide as the scores err that it was fitted to.
    model.config.experts = {
        name: e for name, e in (model.config.experts or {}).items() if name in known and name not in scales
    }
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
        outputs = [(number, each) for number, answered in enumerate(old.settings.perceptrons) for each in answered]
        answers = [place for place, (number, each) in enumerate(outputs) if each in stay.get(number, ())]
        for name, buffer in old.perceptrons.named_buffers():
            own = answers if name == "last" else list(stay)
            getattr(model.lexical.perceptrons, name)[: len(own)] = buffer[own]
    model.lexical.idf.data, model.lexical.score_proj.weight.data = old.idf.data, old.score_proj.weight.data


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


__all__ = ["digit_tokens", "fit_lexical_path", "settings_for", "token_texts", "usable_rows"]
