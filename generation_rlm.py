"""Numbers out of the network: the grammar in torch, the logits processor, and the methods that give exact answers.

- `NumberGrammar`: the codec's automaton as tensors, for the loss and for `generate()`
- `NumberLogitsProcessor`: keeps the library's `generate()` to the grammar
- `ExactGenerationMixin`: `predict`, `cdf`, `mean`, `distributions`, `sample` and others, read off the digit tree
  (`digit_tree_rlm.py`)
"""

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LogitsProcessor

from .digit_tree_rlm import (
    EncodedInputs,
    Nodes,
    Pieces,
    ScorePooling,
    Selection,
    TreeWalk,
    open_above_mass,
    open_at_thresholds,
    open_for_adjusted_quantiles,
    open_for_mean,
)
from .distributions_rlm import Adjustment, Calibration, Distribution
from .errors_rlm import MetricError
from .numbers_rlm import NumberCodec, is_failed

TokenizedInputs = Mapping[str, torch.Tensor]
# Opened below this mass, pieces of two equal inputs still overlap: what is left undecided is a tie.
_LEAST_MASS = 1e-12


class NumberGrammar:
    """The codec's automaton as tensors, kept once per device."""

    def __init__(self, codec: NumberCodec):
        self.codec = codec
        self._tables: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def tables(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Next states int64 and allowed tokens bool, both `(states, vocabulary)`; forbidden steps stay in a dead end."""
        if device not in self._tables:
            steps = torch.from_numpy(self.codec.transitions.astype(np.int64)).to(device)
            self._tables[device] = steps.clamp_min(0), steps >= 0
        return self._tables[device]

    def states(self, tokens: torch.Tensor) -> torch.Tensor:
        """The state before each of the tokens `(batch, places)` and after the last: int64 `(batch, places + 1)`."""
        steps, _ = self.tables(tokens.device)
        states = [tokens.new_full((len(tokens),), self.codec.START)]
        for t in range(tokens.shape[1]):
            states.append(steps[states[-1], tokens[:, t]])
        return torch.stack(states, 1)

    def scores(self, logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits in float32, minus infinity where the grammar allows no token behind those before.

        The given token itself always counts as allowed, so that codes of published layouts that no canonical grammar lists
        still have a finite loss.

        Args:
            logits: `(batch, places, vocabulary)`.
            tokens: `(batch, places)`, the tokens that the logits of each place predict.
        """
        _, allowed = self.tables(tokens.device)
        mask = allowed[self.states(tokens)[:, :-1]].scatter(2, tokens[..., None], True)
        return logits.float().masked_fill(~mask, float("-inf"))

    def loss(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items: int | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-entropy over the tokens that the grammar allows at each place; forced tokens cost nothing.

        Args:
            logits: `(batch, places, vocabulary)`.
            labels: `(batch, places)`; -100 is ignored.
            num_items: Divide the sum by this instead of by the number of labels.
        """
        known = labels != -100
        tokens = labels.clamp_min(0)
        losses = F.cross_entropy(self.scores(logits, tokens)[known], tokens[known], reduction="sum")
        return losses / (known.sum() if num_items is None else num_items)


class NumberLogitsProcessor(LogitsProcessor):
    """Keeps `generate()` to the number grammar; works with any model that can write the codec's tokens.

    Args:
        codec: The number codec.
        num_objectives: Exactly so many numbers, then the end token. None: at least one and at most `max_objectives`.
        max_objectives: Upper limit where `num_objectives` is None.
        prompt_length: Tokens before the first number token in `input_ids`: 1 for our decoder's start token, the prompt's
            length for a decoder-only model.
        token_ids: For another model: its token id for each id of the codec's vocabulary. None: the ids are the same.
    """

    def __init__(
        self,
        codec: NumberCodec,
        num_objectives: int | None = None,
        *,
        max_objectives: int = 1,
        prompt_length: int = 1,
        token_ids: list[int] | None = None,
    ):
        if num_objectives is not None and num_objectives < 1:
            raise ValueError(f"num_objectives must be at least 1, got {num_objectives}.")
        if token_ids is not None and len(token_ids) != codec.vocab_size:
            raise ValueError(f"token_ids must name one id for each of the codec's {codec.vocab_size} tokens.")
        self.codec, self.grammar = codec, NumberGrammar(codec)
        self.least, self.most = (num_objectives, num_objectives) if num_objectives else (1, max_objectives)
        self.prompt_length, self.token_ids = prompt_length, token_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Sets the scores `(batch, vocabulary)` of tokens that cannot continue a number to minus infinity."""
        tokens = input_ids[:, self.prompt_length :]
        ids = None
        if self.token_ids is not None:
            ids = torch.tensor(self.token_ids, device=input_ids.device)
            # Tokens outside the codec's vocabulary can only stand after the end, where padding is all there is.
            tokens = (tokens[..., None] == ids).int().argmax(-1)
        _, allowed = self.grammar.tables(scores.device)
        state = self.grammar.states(tokens)[:, -1]
        mask = allowed[state].clone()
        written = tokens.shape[1] // self.codec.length
        at_end = state == self.codec.END
        if written < self.least:
            mask[at_end, self.codec.eos_token_id] = False
        elif written >= self.most:
            mask[at_end] = False
            mask[at_end, self.codec.eos_token_id] = True
        if ids is not None:
            mask = torch.zeros_like(scores, dtype=torch.bool).index_copy(1, ids, mask)
        elif scores.shape[1] > mask.shape[1]:
            mask = F.pad(mask, (0, scores.shape[1] - mask.shape[1]))
        return scores.masked_fill(~mask, float("-inf"))


# ---------------------------------------------------------------------------------------------------- answers


@dataclass
class Prediction:
    """Exact quantiles of each input and metric.

    Attributes:
        metrics: The metrics asked for, in decoding order.
        levels: Quantile levels, as asked.
        quantiles: float64 `(batch, metrics, levels)`, over the finite part of each distribution; NaN where all of it is a
            special outcome.
        outcomes: Probability of each special outcome that the format has, float64 `(batch, metrics)` by name.
        conditioning: `median`: each metric given the medians of those before it; `marginal`: averaged over their
            distribution; `none` for a single metric.
        calibrated: For each metric, whether the checkpoint's calibration was applied.
        draws: Number of samples that the quantiles were estimated from; None: they are exact.
        features_used: Whether the feature ensemble's scores were read; False for inputs without features, which the
            transformer answers alone, and for models without an ensemble.
    """

    metrics: tuple[str, ...]
    levels: tuple[float, ...]
    quantiles: np.ndarray
    outcomes: dict[str, np.ndarray]
    conditioning: Literal["none", "median", "marginal"]
    calibrated: tuple[bool, ...] = ()
    draws: int | None = None
    features_used: bool = False


@dataclass
class _Question:
    """A walk that stands behind the given values.

    Attributes:
        walk: The walk.
        nodes: One node per input.
        metrics: The metrics still to be answered, in decoding order.
    """

    walk: TreeWalk
    nodes: Nodes
    metrics: tuple[str, ...]

    @property
    def batch(self) -> int:
        return len(self.walk.encoded)


class ExactGenerationMixin:
    """Exact answers for a model with an encoder, `codec`, `decoder` and `number_head`.

    Every method takes `inputs` as the processor returns them (`input_ids`, `attention_mask` and, for the feature ensemble,
    `features`, tensors) or as `encode` returns them; with `metrics`, the names in the header's order, and `given`, known
    values of the first of them.
    """

    # Of the model that this is mixed into.
    config: Any
    codec: NumberCodec
    decoder: Any
    number_head: Any
    ensemble: Any
    memory_norm: Any
    memory_mask: Any
    encode_layers: Any
    mix_layers: Any
    _memory: Any
    _read_features: Any
    training: bool
    train: Any
    eval: Any

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode without gradients, as long as a question takes."""
        # Walking through all modules costs as much as a decoder step: only where dropout is on.
        was_training = self.training
        if was_training:
            self.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            if was_training:
                self.train()

    def encode(self, inputs: TokenizedInputs | EncodedInputs, metrics: Collection[str] | None = None) -> EncodedInputs:
        """Runs the encoder once, for any number of questions.

        Batches of training hold `ensemble_scores` in place of `features`; without features no distribution is pooled.

        Args:
            inputs: See the class.
            metrics: What the questions will be about, None for any metric.
        """
        if isinstance(inputs, EncodedInputs):
            return inputs
        device = self.number_head.weight.device
        ids = torch.as_tensor(inputs["input_ids"]).to(device, torch.long)
        given_mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if given_mask is None else torch.as_tensor(given_mask).to(device)
        if ids.ndim != 2 or not ids.shape[0] or not ids.shape[1] or mask.shape != ids.shape:
            raise ValueError(
                f"input_ids must be a non-empty (batch, length) with a mask of its shape, got {tuple(ids.shape)}."
            )
        padded_mask = None if bool(mask.all()) else mask
        scores = residual_scales = None
        features = None
        with self._inference():
            if self.ensemble is not None and inputs.get("ensemble_scores") is not None:
                scores = torch.as_tensor(inputs["ensemble_scores"]).to(device)
            elif (features := self._read_features(inputs.get("features"))) is not None:
                scores = self.ensemble.scores(features, metrics)
                residual_scales = self.ensemble.residual_scales(features)
            states = self.encode_layers(ids, padded_mask)
            memory = self._memory(states, None, scores)
            keys_and_values = self.decoder.project_memory(self.memory_norm(memory))
            memory_mask = None if padded_mask is None else self.memory_mask(padded_mask.bool(), memory.shape[1])
        fingerprints = []
        for row, keep in zip(ids, mask, strict=True):
            own_ids = row[keep.bool()].cpu().numpy()
            fingerprints.append(zlib.crc32(own_ids.tobytes()))
        known_scores = None if scores is None else scores.double().cpu().numpy()
        return EncodedInputs(keys_and_values, memory_mask, fingerprints, known_scores, residual_scales, features)

    def fallback_scores(self, encoded: EncodedInputs, metric: str) -> np.ndarray | None:
        """Returns a metric's scores for inputs unlike the training rows, float64 `(batch,)`; None without such a regressor."""
        if self.ensemble is None or encoded.features is None or metric not in self.ensemble.settings.fallbacks:
            return None
        with self._inference():
            return self.ensemble.fallback_scores(encoded.features, (metric,))[:, 0].double().cpu().numpy()

    def _pooling(self, encoded: EncodedInputs, metric: str) -> ScorePooling | None:
        """Returns the pooling of a metric with its scores, None where the decoder answers alone."""
        component = self.config.fitted.pooling_of(metric)
        if component is None or encoded.scores is None or encoded.residual_scales is None:
            return None
        settings = self.ensemble.settings
        column = settings.metrics.index(metric)
        scale = settings.scale_of(metric)
        return ScorePooling(component, scale, encoded.scores[:, column], encoded.residual_scales[:, column])

    def _calibrations(self, metrics: Sequence[str], calibrated: bool) -> list[Calibration | None]:
        """Returns the calibration to apply to each metric, None where there is none or none is asked for."""
        return [self.config.fitted.calibration_of(name) if calibrated else None for name in metrics]

    def _ask(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        metrics: Sequence[str] | None,
        given: Mapping[str, Any] | None,
    ) -> _Question:
        """Encodes the inputs and reads the given values."""
        names, known = self._checked(metrics, given)
        walk = TreeWalk(self, self.encode(inputs, names))
        nodes = walk.root()
        for name in names[: len(known)]:
            codes = self._given_codes(name, known[name], len(walk.encoded))
            nodes, _ = walk.follow(nodes, np.arange(len(nodes)), codes)
        return _Question(walk, nodes, names[len(known) :])

    def _checked(
        self, metrics: Sequence[str] | None, given: Mapping[str, Any] | None
    ) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Returns the metrics in decoding order and the given values by name.

        Raises:
            MetricError: They do not fit together, or are too many.
        """
        if isinstance(metrics, str):
            raise MetricError(
                f"metrics must be a list of names, got the text {metrics!r}. Write metrics=[{metrics!r}]."
            )
        names = ("value",) if metrics is None else tuple(metrics)
        known = dict(given or {})
        limit = self.config.max_objectives
        if not names or len(set(names)) != len(names):
            raise MetricError(f"metrics must name each metric once, got {list(names)}.")
        if len(names) > limit:
            raise MetricError(f"{len(names)} metrics asked for; this model answers at most {limit} at once.")
        if unknown := [name for name in known if name not in names]:
            raise MetricError(f"given names {unknown}, which metrics does not: {list(names)}.")
        if set(names[: len(known)]) != set(known):
            raise MetricError(
                f"Given metrics come first in decoding order: put {list(known)} at the start of metrics, got {list(names)}."
            )
        if len(known) == len(names):
            raise MetricError("Every metric is given; leave at least one to predict.")
        return names, known

    def _given_codes(self, name: str, value: Any, batch: int) -> np.ndarray:
        """Returns the codes of a given metric's values, int `(batch, codec.length)`."""
        if isinstance(value, str):  # a special outcome
            value = np.array(value, dtype=object)
        codes = self.codec.encode(value)
        try:
            return np.broadcast_to(codes, (batch, self.codec.length)).copy()
        except ValueError:
            raise MetricError(f"given[{name!r}] must be one value or one for each of the {batch} inputs.") from None

    # ---------------------------------------------------------------------------------------------- quantiles

    def predict(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        quantiles: Sequence[float] | float = (0.05, 0.5, 0.95),
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        conditioning: Literal["median", "marginal"] = "median",
        paths: int = 16,
        calibrated: bool = True,
        draws: int | None = None,
        seed: int = 0,
    ) -> Prediction:
        """Returns exact quantiles of every metric asked for.

        Args:
            inputs: See the class.
            quantiles: Levels, each inside (0, 1).
            metrics: Names in the header's order; None for one unnamed metric.
            given: Known values by name, one or one per input; these metrics come first in `metrics`.
            conditioning: What a later metric is conditioned on: the medians of the earlier ones, or (`marginal`) their
                whole distribution, represented by `paths` equally probable quantiles and the special outcomes with their
                probabilities.
            paths: Points that represent the earlier metrics in `marginal`.
            calibrated: Apply the checkpoint's calibration, for the metrics that have one. The medians that later metrics are
                conditioned on are calibrated too.
            draws: Estimate the quantiles from this many joint draws instead (each metric's are then marginal over those
                before it), for a layout whose digits are not ordered (p10, text) and which has no exact ones.
            seed: Seed of the draws.

        Raises:
            MetricError: A level outside (0, 1), or metrics and given that do not fit together.
        """
        levels = np.array([quantiles] if np.ndim(quantiles) == 0 else list(quantiles), dtype=np.float64)  # type: ignore[arg-type]
        if not len(levels) or not ((levels > 0) & (levels < 1)).all():
            raise MetricError(f"Quantile levels must lie strictly between 0 and 1, got {np.ravel(quantiles).tolist()}.")
        if conditioning not in ("median", "marginal"):
            raise MetricError(f"conditioning must be 'median' or 'marginal', got {conditioning!r}.")
        if draws is not None:
            return self._estimate(inputs, levels, draws, seed, metrics, given, calibrated)
        with self._inference():
            question = self._ask(inputs, metrics, given)
            calibrations = self._calibrations(question.metrics, calibrated)
            values, outcomes = self._exact_quantiles(question, levels, calibrations, conditioning, paths)
        return Prediction(
            question.metrics,
            tuple(levels.tolist()),
            values,
            outcomes,
            "none" if len(question.metrics) == 1 else conditioning,
            tuple(calibration is not None for calibration in calibrations),
            features_used=question.walk.encoded.scores is not None,
        )

    def _exact_quantiles(
        self,
        question: _Question,
        levels: np.ndarray,
        calibrations: Sequence[Calibration | None],
        conditioning: Literal["median", "marginal"],
        paths: int,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns quantiles `(batch, metrics, levels)`, and the probability of each special outcome `(batch, metrics)`."""
        walk, nodes, batch = question.walk, question.nodes, question.batch
        shape = (batch, len(question.metrics))
        quantiles = np.empty((*shape, len(levels)))
        outcomes = {name: np.zeros(shape) for name in self.codec.outcome_tokens}
        weight = np.ones(batch)
        for index, metric in enumerate(question.metrics):
            pooling = self._pooling(walk.encoded, metric)
            is_last = index == len(question.metrics) - 1
            # The next metric is conditioned on the median, whether or not it was asked for.
            needs_median = not is_last and conditioning == "median"
            wanted = np.append(levels, 0.5) if needs_median else levels
            values, outcome_masses = walk.quantiles(
                nodes, nodes.row, weight, batch, wanted[None], calibrations[index], pooling
            )
            quantiles[:, index] = values[:, : len(levels)]
            for column, name in enumerate(outcomes):
                outcomes[name][:, index] = outcome_masses[:, column]
            if needs_median:
                nodes = walk.follow_values(nodes, np.arange(batch), values[:, -1], outcome_masses)
            elif not is_last:
                nodes, weight = walk.representative_paths(nodes, weight, paths, index == 0, pooling)
        return quantiles, outcomes

    def _estimate(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        levels: np.ndarray,
        draws: int,
        seed: int,
        metrics: Sequence[str] | None,
        given: Mapping[str, Any] | None,
        calibrated: bool,
    ) -> Prediction:
        """Returns quantiles and special outcomes of joint draws, in place of exact ones."""
        encoded = self.encode(inputs)
        drawn = self.sample(encoded, draws, seed=seed, metrics=metrics, given=given)
        asked = tuple(name for name in (metrics or ("value",)) if name not in (given or {}))
        calibrations = self._calibrations(asked, calibrated)
        batch, _, count = drawn.shape
        quantiles = np.full((batch, count, len(levels)), np.nan)
        for row, column in np.ndindex(batch, count):
            values = drawn[row, :, column]
            calibration = calibrations[column]
            model_levels = levels if calibration is None else calibration.model_level(levels)
            finite = values[np.isfinite(values)]
            if len(finite):
                quantiles[row, column] = np.quantile(finite, model_levels, method="inverted_cdf")
        failed = is_failed(drawn)
        is_outcome = {
            "nan": np.isnan(drawn) & ~failed,
            "failed": failed,
            "-inf": drawn == -np.inf,
            "+inf": drawn == np.inf,
        }
        outcomes = {name: is_outcome[name].mean(1) for name in self.codec.outcome_tokens}
        return Prediction(
            asked,
            tuple(levels.tolist()),
            quantiles,
            outcomes,
            "none" if len(asked) == 1 else "marginal",
            tuple(calibration is not None for calibration in calibrations),
            draws,
            encoded.scores is not None,
        )

    # ---------------------------------------------------------------------------------------- one distribution

    def _open(self, question: _Question, select: Selection, calibration: Calibration | None = None) -> Pieces:
        """Returns the pieces of the first metric's distributions, one owner per input."""
        pooling = self._pooling(question.walk.encoded, question.metrics[0])
        nodes, batch = question.nodes, question.batch
        weight = np.ones(batch)
        pieces, _ = question.walk.open_pieces(nodes, nodes.row, weight, batch, select, calibration, pooling)
        return pieces

    def cdf(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        thresholds: Any,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        calibrated: bool = True,
    ) -> np.ndarray:
        """Returns P(y < t), exact, over the finite part of the first metric asked for.

        Args:
            inputs: See the class.
            thresholds: One, `(thresholds,)` for every input, or `(batch, thresholds)`.
            metrics: Names in the header's order.
            given: Known values of the first of them.
            calibrated: Apply the checkpoint's calibration, where the metric has one.

        Returns:
            float64 `(batch, thresholds)`.

        Raises:
            MetricError: A threshold that is NaN, or thresholds of another shape.
        """
        with self._inference():
            question = self._ask(inputs, metrics, given)
            batch = question.batch
            own = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
            if np.isnan(own).any():
                raise MetricError("A threshold is NaN.")
            if own.ndim > 2 or (own.ndim == 2 and len(own) not in (1, batch)):
                raise MetricError(f"thresholds must be (thresholds,) or ({batch}, thresholds), got {own.shape}.")
            own = np.broadcast_to(own, (batch, own.shape[-1]))
            (calibration,) = self._calibrations(question.metrics[:1], calibrated)
            pieces = self._open(question, open_at_thresholds(own), calibration)
        below = np.zeros(own.shape)
        np.add.at(below, pieces.owner, pieces.mass[:, None] * (pieces.high[:, None] < own[pieces.owner]))
        probabilities = below / pieces.masses(batch)[:, None]
        return probabilities if calibration is None else calibration.calibrated(probabilities)

    def mean(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        tolerance: float = 1e-2,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        return_error: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Returns the mean of the finite part of the first metric asked for, with a bound on its error.

        The mean of a heavy-tailed answer is ruled by its tail: mass of 1e-9 on the largest exponent counts. The median is
        the better point estimate; this is for sums and expected costs.

        Args:
            inputs: See the class.
            tolerance: The tree is opened until the half-width of the bounds is at most this share of the mean.
            metrics: Names in the header's order.
            given: Known values of the first of them.
            return_error: Also return the half-width of the bounds.

        Returns:
            float64 `(batch,)`, and the half-widths if asked for.

        Raises:
            MetricError: A tolerance that is not above zero.
        """
        if not tolerance > 0:
            raise MetricError(f"tolerance must be above zero, got {tolerance}.")
        with self._inference():
            question = self._ask(inputs, metrics, given)
            batch = question.batch
            pieces = self._open(question, open_for_mean(tolerance, batch))
        total = pieces.masses(batch)
        # Halves before the sum: the sum of two largest numbers would overflow.
        middle = pieces.sums(pieces.mass * (pieces.low / 2 + pieces.high / 2), batch) / total
        error = pieces.sums(pieces.mass * (pieces.high - pieces.low) / 2, batch) / total
        return (middle, error) if return_error else middle

    def distributions(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        tolerance: float = 1e-3,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        calibrated: bool = True,
        adjustments: Sequence[Adjustment] | None = None,
        levels: Sequence[float] | None = None,
    ) -> list[Distribution]:
        """Returns the whole distribution of the first metric asked for, cut into pieces of little mass.

        Args:
            inputs: See the class.
            tolerance: No piece but a single value has more mass than this.
            metrics: Names in the header's order.
            given: Known values of the first of them.
            calibrated: Apply the checkpoint's calibration, where the metric has one.
            adjustments: What is known of each input beside its distribution.
            levels: Keep the tolerance only where these quantiles of the adjusted distributions lie: the quantiles are the
                same, and a tenth of the pieces is opened. None: keep it everywhere.

        Returns:
            One for each input.

        Raises:
            MetricError: An input for which no finite number has any probability, a tolerance outside (0, 1), or a
                layout whose digits are not ordered by significance.
        """
        if not 0 < tolerance < 1:
            raise MetricError(f"tolerance must be in (0, 1), got {tolerance}.")
        if not self.codec.ordered_digits:
            raise MetricError(
                f"The pieces of the {self.codec.format.layout} layout overlap, and there is no order in them."
            )
        with self._inference():
            question = self._ask(inputs, metrics, given)
            (calibration,) = self._calibrations(question.metrics[:1], calibrated)
            own = [None] * question.batch if adjustments is None else list(adjustments)
            select = open_above_mass(tolerance)
            if levels is not None:
                select = open_for_adjusted_quantiles(tolerance, levels, own, calibration)
            pieces = self._open(question, select)
        result = []
        for row in range(question.batch):
            part = pieces[np.flatnonzero((pieces.owner == row) & (pieces.mass > 0))]
            if not len(part):
                raise MetricError(f"Input {row}: the model expects no finite {question.metrics[0]} at all.")
            finite = float(part.mass.sum())
            whole = Distribution(part.low, part.high, part.mass / finite, min(finite, 1.0), calibration, own[row])
            result.append(whole)
        return result

    def probability_less(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        others: TokenizedInputs | EncodedInputs,
        tolerance: float = 1e-3,
        *,
        metrics: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Returns P(a < b) + P(a = b) / 2 for pairs of inputs, over their finite parts.

        The first metrics of both are taken as independent.

        Args:
            inputs, others: As many of one as of the other.
            tolerance: The trees are opened until the undecided mass is at most twice this.
            metrics: Names in the headers' order.

        Returns:
            float64 `(batch,)`, each within `tolerance` of the exact probability.

        Raises:
            MetricError: Numbers of inputs that differ.
        """
        with self._inference():
            first, second = self._ask(inputs, metrics, None), self._ask(others, metrics, None)
        batch = first.batch
        if second.batch != batch:
            raise MetricError(f"{batch} inputs cannot be paired with {second.batch} others.")
        # Both sides are opened to pieces so small that pairs which overlap hold little mass together.
        largest_mass = tolerance
        while True:
            with self._inference():
                a = self._open(first, open_above_mass(largest_mass))
                b = self._open(second, open_above_mass(largest_mass))
            result, undecided = np.zeros(batch), np.zeros(batch)
            for i in range(batch):
                result[i], undecided[i] = _compared(a[a.owner == i], b[b.owner == i])
            if (undecided <= 2 * tolerance).all() or largest_mass < _LEAST_MASS:
                return result
            largest_mass /= 10

    # ------------------------------------------------------------------------------------------- single codes

    def log_prob(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        values: Any,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Returns the log-probability of values as written in the number format, each metric given those before it.

        Args:
            inputs: See the class.
            values: `(batch,)` for one metric, `(batch, metrics asked for)` for several; special outcomes included.
            metrics: Names in the header's order.
            given: Known values of the first of them.

        Returns:
            Natural logarithms, float64 `(batch, metrics asked for)`.

        Raises:
            MetricError: Values of another shape.
        """
        with self._inference():
            question = self._ask(inputs, metrics, given)
            walk, nodes, batch, asked = question.walk, question.nodes, question.batch, question.metrics
            codes = self.codec.encode(values)
            shape = (batch,) if codes.ndim == 2 and len(asked) == 1 else (batch, len(asked))
            if codes.shape[:-1] != shape:
                raise MetricError(f"values must have shape ({batch}, {len(asked)}), got {codes.shape[:-1]}.")
            codes = codes.reshape(batch, len(asked), self.codec.length)
            result = np.empty((batch, len(asked)))
            for index, metric in enumerate(asked):
                pooling = self._pooling(walk.encoded, metric)
                nodes, result[:, index] = walk.follow(nodes, np.arange(batch), codes[:, index], pooling)
            return result

    def code_logits(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        codes: np.ndarray,
        *,
        metrics: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Returns the decoder's own logits at each position of given numbers, without pooling.

        Args:
            inputs: See the class.
            codes: Token ids of one number for each input, int `(batch, codec.length)`.
            metrics: The one metric's name.

        Returns:
            float64 `(batch, codec.length, vocabulary)`.
        """
        with self._inference():
            question = self._ask(inputs, metrics, None)
            first = question.nodes.logits[:, None]
            _, later = question.walk.extend(question.nodes, np.arange(len(codes)), codes[:, :-1])
            return np.concatenate([first, later], 1)

    def sample(
        self,
        inputs: TokenizedInputs | EncodedInputs,
        n: int = 64,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Returns joint draws of all metrics asked for; equal prefixes are computed once.

        Args:
            inputs: See the class.
            n: Draws per input.
            seed: The same seed and input give the same draws, alone and in any batch.
            temperature: Above zero; 1 draws from the model's own distribution.
            top_p: Keep the likeliest tokens that together hold this much at each position, in (0, 1].
            metrics: Names in the header's order.
            given: Known values of the first of them.

        Returns:
            float64 `(batch, n, metrics asked for)`; NaN for `nan`, `FAILED` for `failed`.

        Raises:
            MetricError: An argument out of range.
        """
        if n < 1 or not temperature > 0 or not 0 < top_p <= 1:
            raise MetricError(
                f"sample() needs n >= 1, temperature > 0 and top_p in (0, 1]; got {n}, {temperature}, {top_p}."
            )
        with self._inference():
            question = self._ask(inputs, metrics, given)
            codes = self._sampled_codes(question, n, seed, temperature, top_p)
        return self.codec.decode(codes).reshape(question.batch, n, len(question.metrics))

    def _sampled_codes(self, question: _Question, n: int, seed: int, temperature: float, top_p: float) -> np.ndarray:
        """Returns the token ids of draws, int `(batch * n, metrics, codec.length)`."""
        walk, nodes, batch, codec = question.walk, question.nodes, question.batch, self.codec
        generators = [np.random.default_rng([seed, fingerprint]) for fingerprint in walk.encoded.fingerprints]
        node_of_draw = np.repeat(np.arange(batch), n)
        codes = np.empty((batch * n, len(question.metrics), codec.length), dtype=np.int64)
        for index, metric in enumerate(question.metrics):
            pooling = self._pooling(walk.encoded, metric)
            states = np.full(len(nodes), codec.START)
            prefixes = np.empty((len(nodes), 0), dtype=np.int64)
            for position in range(codec.length):
                log_probs = walk.log_probs(nodes.logits, states, prefixes, nodes.row, pooling)
                cumulative = np.cumsum(_nucleus(_tempered(log_probs, temperature), top_p), 1)
                uniform = np.concatenate([generator.random(n) for generator in generators])
                own = cumulative[node_of_draw]
                token = (own <= (uniform * own[:, -1])[:, None]).sum(1)
                codes[:, index, position] = token
                if index == len(question.metrics) - 1 and position == codec.length - 1:
                    break  # nothing follows
                # Draws with the same prefix share a node.
                pairs, node_of_draw = np.unique(node_of_draw * codec.vocab_size + token, return_inverse=True)
                parents, tokens = np.divmod(pairs, codec.vocab_size)
                states = codec.transitions[states[parents], tokens]
                prefixes = np.concatenate([prefixes[parents], tokens[:, None]], 1)
                nodes, _ = walk.extend(nodes, parents, tokens[:, None])
        return codes


def _compared(a: Pieces, b: Pieces) -> tuple[float, float]:
    """Returns P(a < b) + P(a = b) / 2 of two distributions, and the mass of the pairs of pieces that overlap."""
    joint = a.mass[:, None] * b.mass / (a.mass.sum() * b.mass.sum())
    less = a.high[:, None] < b.low
    more = a.low[:, None] > b.high
    equal = (a.low[:, None] == b.high) & (a.high[:, None] == b.low)  # both are one value
    overlap = ~(less | more)
    probability = (joint * less).sum() + 0.5 * (joint * overlap).sum()
    return float(probability), float((joint * (overlap & ~equal)).sum())


def _tempered(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Returns probabilities `(..., vocabulary)` at a temperature."""
    scores = log_probs / temperature
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    return probs / probs.sum(-1, keepdims=True)


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    """Returns the smallest set of likeliest tokens that holds `top_p`, the others at zero; rows `(..., vocabulary)`."""
    if top_p >= 1:
        return probs
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    is_kept = np.cumsum(ranked, -1) - ranked < top_p
    result = np.zeros_like(probs)
    np.put_along_axis(result, order, np.where(is_kept, ranked, 0.0), -1)
    return result


__all__ = ["EncodedInputs", "ExactGenerationMixin", "NumberGrammar", "NumberLogitsProcessor", "Prediction"]
