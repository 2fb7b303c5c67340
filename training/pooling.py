"""Fits the pooling components of a checkpoint (`distributions_rlm.PoolingComponent`) on rows held out from training.

For each metric with a fitted score scale, the component's scale and the two weights of the pool are chosen from a small grid
by the mean continuous ranked probability score (CRPS, Gneiting and Raftery 2007, JASA 102) on the score scale, each group
weighing the same. The log-likelihood of a number weighs its last digit as much as its first: for programs measured to the
byte it prefers a decoder that memorised common byte counts to scores that rank programs. A component is kept where its gain
over the decoder alone exceeds the gain's standard error over groups; with `MANY_GROUPS` any gain suffices.

A metric without such a component gets a fallback, too wide to choose between likely answers. It makes answers that are wrong
by orders of magnitude, in another metric's unit for instance, some twenty times less likely; they are too rare for a sample
to show.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from code_rlm.console import progress
from code_rlm.data.mixture import Mixture, Source
from code_rlm.digit_tree_rlm import masked_log_softmax, token_cells
from code_rlm.distributions_rlm import PoolingComponent, ScoreScale
from code_rlm.evaluation.encoding import BATCH, RowEncoder
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import RLMProcessor, length_batches
from code_rlm.stats import logistic_scale
from code_rlm.training.ensemble import usable_rows

# The grid: exponents of the decoder's and of the component's probabilities, and scales as multiples of the logistic
# distribution that fits the scores' errors.
DECODER_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25)
SCALES = (0.4, 0.6, 0.8, 1.0, 1.3)
# Distances from the truth and from the score at which a distribution is evaluated, in scales; they double up to FARTHEST.
DISTANCES = (0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, *(4.5 * 2.0**k for k in range(1, 11)))
FARTHEST = 8.0  # on the score scale; mass beyond counts as if it lay there
FALLBACK_DECODER_WEIGHT, FALLBACK_WEIGHT = 1.0, 0.25
FALLBACK_SCALE = 3.0
MOST_COST = 0.02  # nats of log-likelihood that a fallback may cost
MOST_ROWS = 1000
SCREENED_ROWS = 128
LEAST_GROUPS = 5
MANY_GROUPS = 100
_LEAST_SCALE = 1e-4


@dataclass
class PoolingRows:
    """Held-out rows of one metric: the decoder's probabilities and the ensemble's scores.

    Attributes:
        log_probs: The decoder's at each position of the true number, float64 `(rows, positions, vocabulary)`.
        codes: The true number, int `(rows, positions)`.
        low, high: Range of each token (`digit_tree_rlm.token_cells`) as scores, float64 `(rows, positions, vocabulary)`.
        finite: Which tokens lead to finite numbers, bool `(rows, positions, vocabulary)`.
        scores: The ensemble's `(rows,)`.
        residual_scales: Residual scale of each score `(rows,)`.
        truth: Scores of the true values `(rows,)`.
        groups: Name of each row's group `(rows,)`.
    """

    log_probs: np.ndarray
    codes: np.ndarray
    low: np.ndarray
    high: np.ndarray
    finite: np.ndarray
    scores: np.ndarray
    residual_scales: np.ndarray
    truth: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: np.ndarray) -> "PoolingRows":
        return PoolingRows(*(getattr(self, each.name)[rows] for each in fields(self)))

    def log_likelihood(self, component: PoolingComponent | None) -> np.ndarray:
        """Returns the log-probability of each true number, float64 `(rows,)`; None: of the decoder alone."""
        true = np.take_along_axis(self._pooled(component), self.codes[..., None], 2)
        return true[..., 0].sum(1)

    def _pooled(self, component: PoolingComponent | None) -> np.ndarray:
        """Returns log-probabilities at each position of the true number, `(rows, positions, vocabulary)`."""
        if component is None:
            return self.log_probs
        scores, residual_scales = self.scores[:, None, None], self.residual_scales[:, None, None]
        masses = component.masses(self.low, self.high, scores, residual_scales)
        nodes = (-1, self.log_probs.shape[-1])
        pooled = component.pool(self.log_probs.reshape(nodes), masses.reshape(nodes), self.finite.reshape(nodes))
        return pooled.reshape(self.log_probs.shape)

    def crps(self, component: PoolingComponent | None, grid: "CrpsGrid") -> np.ndarray:
        """Returns the CRPS of each row's distribution on the score scale, float64 `(rows,)`; smaller is better.

        The tokens beside each token of the true number divide all other numbers into cells. Their masses are exact; the
        distribution inside a cell is the grid's assumption.

        Args:
            component: Pooled with the decoder; None for the decoder alone.
            grid: Of these rows.
        """
        log_probs = self._pooled(component)
        true = np.take_along_axis(log_probs, self.codes[..., None], 2)
        # Log-probability of the true prefix before each position.
        prefix = np.cumsum(true, 1) - true
        masses = np.where(grid.cells, np.exp(prefix + log_probs), 0.0).reshape(len(self), -1)
        masses = np.take_along_axis(masses, grid.order, 1)
        # A decoder may give no mass to numbers at all: then the distribution function is 0 everywhere.
        total = np.maximum(masses.sum(1, keepdims=True), 1e-300)
        cdf = np.einsum("rc,rcp->rp", masses, grid.share) / total
        # The integral of (cdf - [point > truth])^2 by the trapezoidal rule. The indicator jumps at the truth, which is a point
        # of the grid: each step takes the indicator of its upper end at both ends.
        upper = np.where(grid.beyond, 1 - cdf, cdf) ** 2
        lower = np.where(grid.beyond[:, 1:], 1 - cdf[:, :-1], cdf[:, :-1]) ** 2
        return ((lower + upper[:, 1:]) / 2 * np.diff(grid.points, axis=1)).sum(1)


class CrpsGrid:
    """Points about the true values and the scores, and the share of each cell's numbers below each point.

    Numbers inside a cell are assumed to follow a logistic distribution about the score: for a cell of tens, the score decides
    which end is the likelier.

    Args:
        rows: The rows, their truths finite.
        scale: Scale of that distribution, in units of the residual scales.

    Attributes:
        points: `(rows, points)` on the score scale, ascending; the truth is one of them.
        beyond: Which points lie beyond the truth, bool `(rows, points)`.
        cells: Which tokens at which positions are cells, bool `(rows, positions, vocabulary)`: finite ones beside the true
            number's, and its last.
        order: Index of each row's cells among all `positions * vocabulary`, `(rows, cells)`; rows with fewer cells are padded
            with others.
        share: `(rows, cells, points)`.
    """

    def __init__(self, rows: PoolingRows, scale: float):
        distances = np.array([*(-distance for distance in DISTANCES), 0.0, *DISTANCES])
        offsets = np.clip(scale * rows.residual_scales[:, None] * distances, -FARTHEST, FARTHEST)
        about_truth, about_score = rows.truth[:, None] + offsets, rows.scores[:, None] + offsets
        self.points = np.sort(np.concatenate([about_truth, about_score], 1), 1)
        self.beyond = self.points > rows.truth[:, None]
        self.cells = self._cells(rows)
        flat = self.cells.reshape(len(rows), -1)
        self.order = np.argsort(~flat, axis=1, kind="stable")[:, : flat.sum(1).max()]
        self.share = self._share(rows, scale)

    @staticmethod
    def _cells(rows: PoolingRows) -> np.ndarray:
        """Returns which tokens are cells, bool `(rows, positions, vocabulary)`."""
        is_true = np.zeros(rows.finite.shape, dtype=bool)
        np.put_along_axis(is_true, rows.codes[..., None], True, 2)
        is_true[:, -1] = False  # behind the last token there is nothing to divide further
        return rows.finite & ~is_true

    def _of_cells(self, ends: np.ndarray) -> np.ndarray:
        """Returns the entries `(rows, positions, vocabulary)` of the cells, `(rows, cells, 1)`."""
        flat = np.where(self.cells, ends, 0.0).reshape(len(ends), -1)
        return np.take_along_axis(flat, self.order, 1)[..., None]

    def _share(self, rows: PoolingRows, scale: float) -> np.ndarray:
        """Returns the share of each cell's numbers below each point, float32 `(rows, cells, points)`."""
        logistic = PoolingComponent(scale, 1.0, 0.0)
        low, high = self._of_cells(rows.low), self._of_cells(rows.high)
        scores, residual_scales = rows.scores[:, None, None], rows.residual_scales[:, None, None]
        points = self.points[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            whole = logistic.masses(low, high, scores, residual_scales)
            part = logistic.masses(low, np.clip(points, low, high), scores, residual_scales) / whole
        # Where the mass underflows all of it lies at the end that is nearer to the score.
        nearer_end = np.where(low > scores, low, high)
        return np.where(whole > 1e-300, part, points >= nearer_end).astype(np.float32)


@dataclass
class Candidate:
    """A component with its gain over the decoder alone.

    Attributes:
        component: The component.
        gain: Mean over groups, in `unit`.
        error: Standard error of the gain over groups.
        unit: Nats of log-likelihood, or the CRPS as a share of the decoder's.
    """

    component: PoolingComponent
    gain: float
    error: float
    unit: str

    @classmethod
    def of(cls, rows: PoolingRows, component: PoolingComponent, gains: np.ndarray, unit: str) -> "Candidate":
        """Returns the candidate of a component with its gains `(groups,)`."""
        component = replace(component, rows=len(rows), groups=len(np.unique(rows.groups)))
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        return cls(component, float(gains.mean()), float(error), unit)

    def __str__(self) -> str:
        return f"gains {self.gain:.3f} {self.unit} (+- {self.error:.3f})"


def fit_pooling(
    model: RLMForConditionalGeneration,
    sources: Sequence[Source],
    mixture: Mixture,
    log: Callable[[str], None] = lambda text: None,
    encode: RowEncoder | None = None,
    screened: bool = False,
) -> None:
    """Gives the model a pooling component for every metric that it serves better than the decoder alone.

    Components of metrics that no source has stay as they are. Reading the texts is most of the cost. With `screened` a sample
    of `SCREENED_ROWS` rows is read first, and if the decoder gets no weight on it, no more are: the component is then fitted
    to the scores of all rows. A decoder that was never trained with a metric rarely has a weight.

    Args:
        model: With a feature ensemble; otherwise nothing happens.
        sources: Rows held out from training, with the ensemble's scores.
        mixture: Builds the inputs, as in training.
        log: Called with one line for each metric.
        encode: Keeps what is read for the fits that follow; None: there are none.
        screened: See above.
    """
    if model.ensemble is None or not model.codec.ordered_digits:
        return
    settings = model.ensemble.settings
    encode = encode or RowEncoder(model, RLMProcessor(mixture.tokenizer, model.config))
    components = dict(model.config.fitted.pooling)
    for metric, scale in zip(settings.metrics, settings.scales, strict=True):
        held_out = [source for source in sources if metric in source.metrics and source.ensemble_scores is not None]
        if scale is None or not held_out:
            continue
        components.pop(metric, None)
        if not any(len(usable_rows(source, metric)) for source in held_out):
            log(f"pooling: {metric} has no finite values to validate on, none fitted")
            continue
        reader = _Reader(encode, held_out, mixture, metric, scale)
        groups = len({source.groups[row] for source, row, _ in reader.chosen})
        if groups < LEAST_GROUPS:
            log(f"pooling: {metric} has {groups} groups to validate on, none fitted")
            continue
        rows, candidate, note, is_kept = _chosen_component(reader, screened)
        if is_kept:
            components[metric] = candidate.component
        weights = f"weights {candidate.component.decoder_weight:g} and {candidate.component.weight:g}"
        log(
            f"pooling: {metric}, {len(rows)} rows in {groups} groups, {candidate} with {weights}{note}"
            + ("" if is_kept else ": left out")
        )
    model.config.fitted.pooling = components


def choose_component(rows: PoolingRows) -> tuple[Candidate, str, bool]:
    """Returns the best component or else the fallback, a note on which of them it is, and whether to keep it."""
    groups = len(np.unique(rows.groups))
    if np.isfinite(rows.truth).any():  # a value of 0 has no score on a scale of logarithms
        candidate = best_component(rows)
        is_significant = candidate.gain > candidate.error or (groups >= MANY_GROUPS and candidate.gain > 0)
        if candidate.component.weight > 0 and is_significant:
            return candidate, "", True
    candidate = fallback(rows)
    return candidate, ", a fallback", candidate.gain > -MOST_COST


class _Reader:
    """Reads held-out rows of one metric batch by batch, each asked for this metric alone.

    Args:
        encode: Of the model.
        sources: Rows with the ensemble's scores.
        mixture: Builds the inputs, as in training.
        metric: Its name.
        scale: Its score scale.

    Attributes:
        batches: Indices of the rows of each batch, the shortest texts first.
    """

    def __init__(self, encode: RowEncoder, sources: Sequence[Source], mixture: Mixture, metric: str, scale: ScoreScale):
        self.encode, self.model, self.scale = encode, encode.model, scale
        # As much of the text as the model reads in use, even where training reads less.
        whole = replace(mixture, max_tokens=self.model.config.max_input_tokens)
        self.column = self.model.ensemble.settings.metrics.index(metric)
        self.chosen = _chosen_rows(sources, metric)
        self.items = [whole.build(source, row, [column]) for source, row, column in self.chosen]
        self.batches = length_batches([len(item.input_ids) for item in self.items], batch_size=BATCH)

    def sample(self, least: int) -> list[np.ndarray]:
        """Returns batches of at least so many rows, texts of all lengths; all batches where there are few."""
        count = -(-least // BATCH)
        if count >= len(self.batches):
            return self.batches
        return [self.batches[i] for i in np.linspace(0, len(self.batches) - 1, count).round().astype(int)]

    def read(self, batches: Sequence[np.ndarray], with_text: bool = True) -> PoolingRows:
        """Returns the rows of some batches.

        Args:
            batches: Some of the reader's.
            with_text: Whether the texts are read; without, the decoder's probabilities mean nothing.
        """
        encode = self.encode.whole if with_text else self.encode.scores_alone
        codec, index = self.model.codec, np.concatenate(batches)
        logits, residual_scales = [], []
        with progress(len(index), "validation rows") as bar:
            for batch in batches:
                encoded = encode([self.items[i] for i in batch])
                logits.append(self.model.code_logits(encoded, self._codes(batch)))
                residual_scales.append(encoded.residual_scales[:, self.column])
                bar.advance(len(batch))
        codes, chosen = self._codes(index), [self.chosen[i] for i in index]
        states = codec.states(codes)[:, :-1]
        cells = [token_cells(codec, codes[:, :end], states[:, end]) for end in range(codes.shape[1])]
        low, high, finite = (np.stack(parts, 1) for parts in zip(*cells, strict=True))
        return PoolingRows(
            log_probs=masked_log_softmax(np.concatenate(logits), codec.allowed[states]),
            codes=codes,
            low=self.scale.score(low),
            high=self.scale.score(high),
            finite=finite,
            scores=np.array([source.ensemble_scores[row, self.column] for source, row, _ in chosen], dtype=np.float64),
            residual_scales=np.concatenate(residual_scales),
            truth=self.scale.score([source.values[row, column] for source, row, column in chosen]),
            groups=np.array([source.groups[row] for source, row, _ in chosen]),
        )

    def _codes(self, index: np.ndarray) -> np.ndarray:
        return np.stack([source.codes[row, column] for source, row, column in (self.chosen[i] for i in index)])


def _chosen_component(reader: _Reader, screened: bool) -> tuple[PoolingRows, Candidate, str, bool]:
    """Returns the rows that the texts were read of, and what `choose_component` does.

    Args:
        reader: Of the metric.
        screened: Whether a sample of the rows may leave the decoder out.
    """
    sample = reader.sample(SCREENED_ROWS) if screened else reader.batches
    rows = reader.read(sample)
    if len(sample) < len(reader.batches):
        if len(np.unique(rows.groups)) >= LEAST_GROUPS:
            candidate, note, is_kept = choose_component(rows)
            if is_kept and candidate.component.decoder_weight == 0:
                every = reader.read(reader.batches, with_text=False)
                return every, best_without_decoder(every, rows), note, True
        rows = reader.read(reader.batches)
    return rows, *choose_component(rows)


def _chosen_rows(sources: Sequence[Source], metric: str) -> list[tuple[Source, int, int]]:
    """Returns usable rows of a metric, at most `MOST_ROWS` at random: source, row and the metric's column there."""
    usable = []
    for source in sources:
        column = source.metrics.index(metric)
        usable += [(source, int(row), column) for row in usable_rows(source, metric)]
    if len(usable) <= MOST_ROWS:
        return usable
    return [usable[i] for i in np.random.default_rng(0).permutation(len(usable))[:MOST_ROWS]]


def best_component(rows: PoolingRows) -> Candidate:
    """Returns the component of the lowest mean CRPS."""
    known = rows[np.isfinite(rows.truth)]
    grid = CrpsGrid(known, _fitted_scale(rows))
    component, crps = _best_of(known, grid, _tried(_fitted_scale(rows), DECODER_WEIGHTS))
    alone = _group_means(known, known.crps(None, grid))
    return Candidate.of(rows, component, (alone - crps) / alone.mean(), "of the CRPS")


def best_without_decoder(rows: PoolingRows, sample: PoolingRows) -> Candidate:
    """Returns the component of the lowest mean CRPS of those that give the decoder no weight.

    Args:
        rows: All rows; the decoder's probabilities do not count.
        sample: Rows with the decoder's probabilities, to measure the gain over the decoder on.
    """
    known = rows[np.isfinite(rows.truth)]
    fitted_scale = _fitted_scale(rows)
    component, _ = _best_of(known, CrpsGrid(known, fitted_scale), _tried(fitted_scale, (0.0,)))
    seen = sample[np.isfinite(sample.truth)]
    grid = CrpsGrid(seen, _fitted_scale(sample))
    alone, pooled = (_group_means(seen, seen.crps(each, grid)) for each in (None, component))
    return Candidate.of(rows, component, (alone - pooled) / alone.mean(), "of the CRPS")


def _tried(fitted_scale: float, decoder_weights: Sequence[float]) -> list[PoolingComponent]:
    """Returns the grid of components for a scale."""
    return [
        PoolingComponent(fitted_scale * scale, decoder_weight, weight)
        for scale, decoder_weight, weight in itertools.product(SCALES, decoder_weights, WEIGHTS)
        if decoder_weight + weight > 0
    ]


def _best_of(
    rows: PoolingRows, grid: CrpsGrid, tried: Sequence[PoolingComponent]
) -> tuple[PoolingComponent, np.ndarray]:
    """Returns the component of the lowest mean CRPS, and its CRPS in each group `(groups,)`."""
    crps = [_group_means(rows, rows.crps(component, grid)) for component in tried]
    best = int(np.argmin([each.mean() for each in crps]))
    return tried[best], crps[best]


def fallback(rows: PoolingRows) -> Candidate:
    """Returns a component that changes only answers that are far off."""
    scale = FALLBACK_SCALE * _fitted_scale(rows)
    component = PoolingComponent(scale, FALLBACK_DECODER_WEIGHT, FALLBACK_WEIGHT)
    gains = rows.log_likelihood(component) - rows.log_likelihood(None)
    return Candidate.of(rows, component, _group_means(rows, gains), "nats")


def _group_means(rows: PoolingRows, values: np.ndarray) -> np.ndarray:
    """Returns the mean of each group's values, `(groups,)`."""
    _, group = np.unique(rows.groups, return_inverse=True)
    return np.bincount(group, values) / np.bincount(group)


def _fitted_scale(rows: PoolingRows) -> float:
    """Returns the scale of the logistic distribution with the scores' median error, in units of the residual scales."""
    errors = np.abs(rows.truth - rows.scores) / rows.residual_scales
    errors = errors[np.isfinite(errors)]  # a value of 0 has no score on a scale of logarithms
    return max(logistic_scale(errors), _LEAST_SCALE) if len(errors) else 1.0


__all__ = [
    "Candidate",
    "CrpsGrid",
    "PoolingRows",
    "best_component",
    "best_without_decoder",
    "choose_component",
    "fallback",
    "fit_pooling",
]
