"""Numbers out of the network: the grammar in torch, the logits processor, and exact answers from the digit tree.

The model defines a tree: a node is a prefix of a number's code, its children the tokens that the grammar allows next, each
with a probability. A prefix can only grow into values between two bounds, so the tree is a probability distribution cut
into pieces `(mass, low, high)`, and every question needs only the pieces that matter to it opened further:

- a quantile: those that could hold it. In the `ordered` format that is one path per quantile, and paths share prefixes
- P(y < t): those that t falls into
- the mean: those whose mass times width is still above the tolerance
- P(a < b) of two inputs: those of one that overlap those of the other

One loop, `_Walk.open_pieces`, serves them all. Sampling walks down the same tree. Nodes of one input stand side by side on
the query axis of its cross-attention: the memory's keys and values exist once per input, whatever is asked.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LogitsProcessor

from .calibration_rlm import Calibration
from .errors_rlm import MetricError
from .expert_rlm import LexicalExpert, token_cells
from .lexical_rlm import ScoreScale
from .numbers_rlm import NumberCodec, is_failed
from .ranking_rlm import Distribution


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
class EncodedInputs:
    """Inputs after the encoder, ready for any number of questions.

    Attributes:
        memory: Cross-attention keys and values of every decoder layer, each `(batch, kv_heads, length, head_dim)`.
        mask: True for what is to be read `(batch, length)`, None when nothing is padded.
        fingerprints: One integer per input, of its token ids; they seed sampling, so that an input gets the same samples
            alone and in any batch.
        scores: The lexical path's scores float64 `(batch, channels)`, None without one.
        errors: How far each may be from the truth (`LexicalPath.errors`), likewise.
    """

    memory: list[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor | None
    fingerprints: list[int]
    scores: np.ndarray | None = None
    errors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.fingerprints)


@dataclass
class Prediction:
    """Exact quantiles of each input and metric.

    Attributes:
        metrics: The metrics asked for, in decoding order.
        levels: Quantile levels, ascending as asked.
        quantiles: float64 `(batch, metrics, levels)`, over the finite part of each distribution; NaN where all of it is a
            special outcome.
        outcomes: Probability of each special outcome that the format has, float64 `(batch, metrics)` by name.
        conditioning: `median`: each metric given the medians of those before it; `marginal`: averaged over their
            distribution; `none` for a single metric.
        calibrated: For each metric, whether the checkpoint's calibration was applied.
        draws: How many samples the quantiles were estimated from; None: they are exact.
    """

    metrics: tuple[str, ...]
    levels: tuple[float, ...]
    quantiles: np.ndarray
    outcomes: dict[str, np.ndarray]
    conditioning: Literal["none", "median", "marginal"]
    calibrated: tuple[bool, ...] = ()
    draws: int | None = None


@dataclass
class _Pieces:
    """A distribution cut into pieces; float64 and int64 arrays `(pieces,)`."""

    owner: np.ndarray
    mass: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["_Pieces"]) -> "_Pieces":
        return cls(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("owner", "mass", "low", "high")))

    def __getitem__(self, index: np.ndarray) -> "_Pieces":
        return _Pieces(self.owner[index], self.mass[index], self.low[index], self.high[index])


@dataclass
class _Opinion:
    """An expert on the metric that is being decoded, the scale of its scores, each input's score, and how far that may be from
    the truth, `(batch,)`."""

    expert: LexicalExpert
    scale: ScoreScale
    scores: np.ndarray
    errors: np.ndarray

    def masses(self, low: np.ndarray, high: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """P(low < y < high) of inputs `(nodes,)`, for ranges of values `(nodes, vocabulary)`."""
        ends = self.scale.score(low), self.scale.score(high)
        return self.expert.masses(*ends, self.scores[rows, None], self.errors[rows, None])


@dataclass
class _Nodes:
    """Prefixes that the decoder has read.

    Attributes:
        row: The input that each belongs to, int `(nodes,)`.
        depth: Places read, the start token included.
        cache: Self-attention keys and values of every layer, `(nodes, heads, depth, head_dim)`.
        logits: Of the next token, float64 `(nodes, vocabulary)`.
    """

    row: np.ndarray
    depth: int
    cache: list[tuple[torch.Tensor, torch.Tensor]]
    logits: np.ndarray


class _NodeCache:
    """Gives each new node its parent's keys and values and keeps its own."""

    def __init__(self, layers: list[tuple[torch.Tensor, torch.Tensor]], parents: torch.Tensor | None):
        self.before = layers if parents is None else [(k[parents], v[parents]) for k, v in layers]
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.before:
            keys = torch.cat([self.before[index][0], keys], 2)
            values = torch.cat([self.before[index][1], values], 2)
        self.layers.append((keys, values))
        return keys, values


class _Pack:
    """Lays the nodes of one input side by side on its query axis, and takes them back."""

    def __init__(self, rows: np.ndarray, batch: int, device: torch.device):
        counts = np.bincount(rows, minlength=batch)
        self.batch, self.width = batch, int(counts.max())
        order = np.argsort(rows, kind="stable")
        slot = np.empty(len(rows), dtype=np.int64)
        slot[order] = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows[order]]
        places = rows * self.width + slot
        even = len(rows) == batch * self.width and bool((places == np.arange(len(rows))).all())
        self.places = None if even else torch.from_numpy(places).to(device)

    def pack(self, x: torch.Tensor) -> torch.Tensor:
        length, size = x.shape[1:]
        if self.places is not None:
            x = x.new_zeros(self.batch * self.width, length, size).index_copy_(0, self.places, x)
        return x.reshape(self.batch, self.width * length, size)

    def unpack(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(self.batch * self.width, -1, x.shape[-1])
        return x if self.places is None else x[self.places]


class _Walk:
    """Walks down the digit trees of one batch; the decoder reads each distinct prefix once."""

    def __init__(self, model: Any, encoded: EncodedInputs):
        self.model, self.codec, self.encoded = model, model.codec, encoded
        self.device = encoded.memory[0][0].device

    def root(self) -> _Nodes:
        """One node per input, at the start token."""
        rows = np.arange(len(self.encoded))
        tokens = np.full((len(rows), 1), self.model.config.decoder_start_token_id)
        return self._read(rows, tokens, 0, [], None)[0]

    def extend(self, nodes: _Nodes, parents: np.ndarray, tokens: np.ndarray) -> tuple[_Nodes, np.ndarray]:
        """Reads further tokens behind some of the nodes.

        Args:
            nodes: Where to go on from.
            parents: Index into the nodes, int `(new nodes,)`.
            tokens: int `(new nodes, places)`.

        Returns:
            The new nodes, and the logits after each of their tokens, float64 `(new nodes, places, vocabulary)`.
        """
        same = len(parents) == len(nodes.row) and bool((parents == np.arange(len(parents))).all())
        index = None if same else torch.from_numpy(parents).to(self.device)
        return self._read(nodes.row[parents], tokens, nodes.depth, nodes.cache, index)

    def _read(self, rows, tokens, depth, cache, parents) -> tuple[_Nodes, np.ndarray]:
        past = _NodeCache(cache, parents)
        hidden = self.model.decoder(
            torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self.device),
            self.encoded.memory,
            self.encoded.mask,
            start=depth,
            past=past,
            pack=_Pack(rows, len(self.encoded), self.device),
        )
        logits = self.model.number_head(hidden).double().cpu().numpy()
        return _Nodes(rows, depth + tokens.shape[1], past.layers, logits[:, -1]), logits

    def log_probs(
        self,
        logits: np.ndarray,
        states: np.ndarray,
        prefixes: np.ndarray,
        rows: np.ndarray,
        opinion: _Opinion | None = None,
    ) -> np.ndarray:
        """Log-probabilities over the allowed tokens, float64 `(nodes, vocabulary)`, minus infinity elsewhere.

        Args:
            logits: The decoder's `(nodes, vocabulary)`.
            states: The automaton's states `(nodes,)`.
            prefixes: Tokens of the number so far `(nodes, places)`.
            rows: The input that each node belongs to `(nodes,)`.
            opinion: An expert to pool them with.
        """
        scores = np.where(self.codec.allowed[states], logits, -np.inf)
        scores = scores - scores.max(-1, keepdims=True)
        with np.errstate(divide="ignore"):
            own = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        if opinion is None:
            return own
        low, high, finite = token_cells(self.codec, prefixes, states)
        return opinion.expert.pool(own, opinion.masses(low, high, rows), finite)

    def open_pieces(
        self,
        nodes: _Nodes,
        owner: np.ndarray,
        weight: np.ndarray,
        owners: int,
        need: Callable[[_Pieces, int], np.ndarray],
        calibration: Calibration | None = None,
        opinion: _Opinion | None = None,
    ) -> tuple[_Pieces, np.ndarray]:
        """Opens the pieces of one number's distribution until none is needed further.

        Args:
            nodes: Where the number begins.
            owner: Whose distribution each node adds to, int `(nodes,)`.
            weight: The mass of each node `(nodes,)`.
            owners: How many owners there are.
            need: Given all pieces, and how many of them (the last ones) can still be opened, tells which of those to open.
            calibration: Pools the finite part of each distribution with its values, which are pieces of their own.
            opinion: An expert that every node's probabilities are pooled with.

        Returns:
            The pieces, and the mass of each special outcome `(owners, specials of the format)`.
        """
        codec = self.codec
        outcomes = np.zeros((owners, len(codec.outcome_tokens)))
        column = np.full(codec.vocab_size, -1)
        column[list(codec.outcome_tokens.values())] = np.arange(outcomes.shape[1])
        states = np.full(len(owner), codec.START)
        prefixes = np.empty((len(owner), 0), dtype=np.int64)
        closed: list[_Pieces] = []
        for place in range(codec.length):
            log_probs = self.log_probs(nodes.logits, states, prefixes, nodes.row, opinion)
            parent, token = np.nonzero(codec.allowed[states])
            mass = weight[parent] * np.exp(log_probs[parent, token])
            if place == 0 and outcomes.size:
                special = column[token] >= 0
                np.add.at(outcomes, (owner[parent[special]], column[token[special]]), mass[special])
                parent, token, mass = parent[~special], token[~special], mass[~special]
            if place == 0 and calibration is not None and calibration.pool_weight:
                closed.append(_pooled(calibration, np.bincount(owner[parent], mass, owners)))
            next_states = codec.transitions[states[parent], token]
            next_prefixes = np.concatenate([prefixes[parent], token[:, None]], 1)
            children = _Pieces(owner[parent], mass, *codec.bounds(next_prefixes, next_states))
            wide = children.low < children.high
            if not wide.all():
                closed.append(children[~wide])
                children, parent, token = children[wide], parent[wide], token[wide]
                next_states, next_prefixes, mass = next_states[wide], next_prefixes[wide], mass[wide]
            if not len(parent):
                break
            opened = need(_Pieces.joined([*closed, children]), len(parent)) & (mass > 0)
            closed.append(children[~opened])
            if not opened.any():
                break
            nodes, _ = self.extend(nodes, parent[opened], token[opened, None])
            owner, weight = children.owner[opened], mass[opened]
            states, prefixes = next_states[opened], next_prefixes[opened]
        return _Pieces.joined(closed), outcomes

    def follow(
        self, nodes: _Nodes, parents: np.ndarray, codes: np.ndarray, opinion: _Opinion | None = None
    ) -> tuple[_Nodes, np.ndarray]:
        """Reads whole numbers `(new nodes, length)`; returns the nodes behind them and each number's log-probability."""
        after, logits = self.extend(nodes, parents, codes)
        logits = np.concatenate([nodes.logits[parents][:, None], logits[:, :-1]], 1)
        states, total = np.maximum(self.codec.states(codes)[:, :-1], 0), np.zeros(len(codes))
        for place in range(codes.shape[1]):
            log_probs = self.log_probs(logits[:, place], states[:, place], codes[:, :place], after.row, opinion)
            total += np.take_along_axis(log_probs, codes[:, place, None], 1)[:, 0]
        return after, total


def _pooled(calibration: Calibration, finite: np.ndarray) -> _Pieces:
    """The pool's values as pieces beside distributions of the finite mass `(owners,)`."""
    count, values = len(calibration.pool_values), np.array(calibration.pool_values)
    share = calibration.pool_weight / (1 - calibration.pool_weight) / count
    owner = np.repeat(np.arange(len(finite)), count)
    every = np.tile(values, len(finite))
    return _Pieces(owner, finite[owner] * share, every, every)


def _bracket(pieces: _Pieces, total: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds between which each owner's quantiles lie.

    A quantile is the smallest value whose cumulative mass reaches the level. It is at least the first `low` in ascending
    order of `low` at which the mass suffices, and at most the first such `high` in ascending order of `high`.

    Args:
        pieces: The distribution.
        total: Finite mass of each owner `(owners,)`.
        levels: `(owners, levels)` or `(1, levels)`.

    Returns:
        Two float64 arrays `(owners, levels)`.
    """
    owners = len(total)
    target = levels * total[:, None] * (1 - 1e-12)
    bounds = []
    for values in (pieces.low, pieces.high):
        order = np.lexsort((values, pieces.owner))
        mass, owner = pieces.mass[order], pieces.owner[order]
        starts = np.searchsorted(owner, np.arange(owners + 1))
        running = np.concatenate([[0.0], np.cumsum(mass)])
        first = np.searchsorted(running[1:], running[starts[:-1], None] + target)
        first = np.clip(first, starts[:-1, None], np.maximum(starts[1:, None] - 1, starts[:-1, None]))
        bounds.append(values[order][np.minimum(first, len(order) - 1)])
    return bounds[0], bounds[1]


class ExactGenerationMixin:
    """Exact answers for a model with `codec`, `decoder`, `number_head` and `encode_memory`.

    Every method takes `inputs` as the tokenizer returns them (`input_ids` and `attention_mask`, tensors) or as `encode`
    returns them; with `metrics`, the names in the header's order, and `given`, known values of the first of them.
    """

    @contextmanager
    def _answering(self):
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

    def encode(self, inputs: Mapping[str, torch.Tensor] | EncodedInputs) -> EncodedInputs:
        """Runs the encoder once, for any number of questions."""
        if isinstance(inputs, EncodedInputs):
            return inputs
        device = self.number_head.weight.device
        ids = torch.as_tensor(inputs["input_ids"]).to(device, torch.long)
        mask = inputs.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else torch.as_tensor(mask).to(device)
        if ids.ndim != 2 or not ids.shape[0] or not ids.shape[1] or mask.shape != ids.shape:
            raise ValueError(
                f"input_ids must be a non-empty (batch, length) with a mask of its shape, got {tuple(ids.shape)}."
            )
        with self._answering():
            padded = not bool(mask.all())
            scores = errors = None
            if self.lexical is not None:
                words = self.lexical.words(ids, mask if padded else None)
                scores, errors = self.lexical.scores(ids, mask if padded else None, words), self.lexical.errors(words)
            memory = self.encode_memory(ids, mask if padded else None, scores)
            memory = self.decoder.project_memory(self.memory_norm(memory))
            seen = self.memory_mask(mask.bool()) if padded else None
        rows = [row[keep.bool()].cpu().numpy() for row, keep in zip(ids, mask, strict=True)]
        known = None if scores is None else scores.double().cpu().numpy()
        return EncodedInputs(memory, seen, [zlib.crc32(r.tobytes()) for r in rows], known, errors)

    def _opinion(self, encoded: EncodedInputs, metric: str) -> _Opinion | None:
        """The expert's opinion on a metric, None where the decoder answers alone."""
        expert = self.config.expert_of(metric)
        if expert is None or encoded.scores is None:
            return None
        settings = self.lexical.settings
        channel = settings.channels.index(metric)
        return _Opinion(expert, settings.scale_of(metric), encoded.scores[:, channel], encoded.errors[:, channel])

    def _begin(self, inputs, metrics, given) -> tuple[_Walk, _Nodes, tuple[str, ...]]:
        """The walk, its nodes behind the given values, and the metrics that are still asked for."""
        if isinstance(metrics, str):
            raise MetricError(
                f"metrics must be a list of names, got the text {metrics!r}. Write metrics=[{metrics!r}]."
            )
        metrics = ("value",) if metrics is None else tuple(metrics)
        given = dict(given or {})
        limit = self.config.max_objectives
        if not metrics or len(set(metrics)) != len(metrics):
            raise MetricError(f"metrics must name each metric once, got {list(metrics)}.")
        if len(metrics) > limit:
            raise MetricError(f"{len(metrics)} metrics asked for; this model answers at most {limit} at once.")
        if unknown := [name for name in given if name not in metrics]:
            raise MetricError(f"given names {unknown}, which metrics does not: {list(metrics)}.")
        if set(metrics[: len(given)]) != set(given):
            raise MetricError(
                f"Given metrics come first in decoding order: put {list(given)} at the start of metrics, got {list(metrics)}."
            )
        if len(given) == len(metrics):
            raise MetricError("Every metric is given; leave at least one to predict.")
        walk = _Walk(self, self.encode(inputs))
        nodes = walk.root()
        for name in metrics[: len(given)]:
            codes = self.codec.encode(
                np.array(given[name], dtype=object) if isinstance(given[name], str) else given[name]
            )
            try:
                codes = np.broadcast_to(codes, (len(walk.encoded), self.codec.length)).copy()
            except ValueError:
                raise MetricError(
                    f"given[{name!r}] must be one value or one for each of the {len(walk.encoded)} inputs."
                ) from None
            nodes, _ = walk.follow(nodes, np.arange(len(nodes.row)), codes)
        return walk, nodes, metrics[len(given) :]

    def predict(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        conditioning: Literal["median", "marginal"] = "median",
        paths: int = 16,
        calibrated: bool = False,
        draws: int | None = None,
        seed: int = 0,
    ) -> Prediction:
        """Exact quantiles of every metric asked for.

        Args:
            inputs: See the class.
            quantiles: Levels, each inside (0, 1).
            metrics: Names in the header's order; None for one unnamed metric.
            given: Known values by name, one or one per input; these metrics come first in `metrics`.
            conditioning: What a later metric is conditioned on: the medians of the earlier ones, or (`marginal`) their
                whole distribution, represented by `paths` equally probable quantiles and the special outcomes with their
                probabilities.
            paths: Points that represent the earlier metrics in `marginal`.
            calibrated: Mend the distributions by the checkpoint's calibration, for the metrics that have one. The medians
                that later metrics are conditioned on are calibrated too.
            draws: Estimate them from so many joint draws instead (each metric's are then marginal over those before it), for
                a layout whose digits are not ordered (p10, text), which has no exact ones.
            seed: Of the draws.

        Raises:
            MetricError: A level outside (0, 1), or metrics and given that do not fit together.
        """
        levels = np.array([quantiles] if np.ndim(quantiles) == 0 else list(quantiles), dtype=np.float64)
        if not len(levels) or not ((levels > 0) & (levels < 1)).all():
            raise MetricError(f"Quantile levels must lie strictly between 0 and 1, got {np.ravel(quantiles).tolist()}.")
        if conditioning not in ("median", "marginal"):
            raise MetricError(f"conditioning must be 'median' or 'marginal', got {conditioning!r}.")
        if draws is not None:
            return self._estimate(inputs, levels, draws, seed, metrics, given, calibrated)
        with self._answering():
            walk, nodes, asked = self._begin(inputs, metrics, given)
            batch = len(walk.encoded)
            weight = np.ones(batch)
            found = np.empty((batch, len(asked), len(levels)))
            outcomes = {name: np.zeros((batch, len(asked))) for name in self.codec.outcome_tokens}
            calibrations = [self.config.calibration_of(name) if calibrated else None for name in asked]
            for index, calibration in enumerate(calibrations):
                opinion = self._opinion(walk.encoded, asked[index])
                last = index == len(asked) - 1
                wanted = levels
                if not last and conditioning == "median":
                    wanted = np.append(levels, 0.5)
                values, masses = self._quantiles(
                    walk, nodes, nodes.row, weight, batch, wanted[None], calibration, opinion
                )
                found[:, index] = values[:, : len(levels)]
                for column, name in enumerate(outcomes):
                    outcomes[name][:, index] = masses[:, column]
                if not last and conditioning == "median":
                    nodes = self._continue(walk, nodes, np.arange(batch), values[:, -1], masses)
                elif not last:
                    nodes, weight = self._spread(walk, nodes, weight, paths, index == 0, opinion)
        how = "none" if len(asked) == 1 else conditioning
        known = tuple(c is not None for c in calibrations)
        return Prediction(asked, tuple(levels.tolist()), found, outcomes, how, known)

    def _estimate(self, inputs, levels, draws, seed, metrics, given, calibrated) -> Prediction:
        """Quantiles and special outcomes of joint draws, in place of exact ones."""
        drawn = self.sample(inputs, draws, seed=seed, metrics=metrics, given=given)
        asked = tuple(m for m in (metrics or ("value",)) if m not in (given or {}))
        found = np.full((*drawn.shape[::2], len(levels)), np.nan)
        calibrations = [self.config.calibration_of(name) if calibrated else None for name in asked]
        for row, column in np.ndindex(found.shape[:2]):
            values = drawn[row, :, column]
            own = levels if calibrations[column] is None else calibrations[column].model_level(levels)
            if len(values := values[np.isfinite(values)]):
                found[row, column] = np.quantile(values, own, method="inverted_cdf")
        failed = is_failed(drawn)
        kinds = {"nan": np.isnan(drawn) & ~failed, "failed": failed, "-inf": drawn == -np.inf, "+inf": drawn == np.inf}
        outcomes = {name: kinds[name].mean(1) for name in self.codec.outcome_tokens}
        how = "none" if len(asked) == 1 else "marginal"
        known = tuple(c is not None for c in calibrations)
        return Prediction(asked, tuple(levels.tolist()), found, outcomes, how, known, draws)

    def _quantiles(
        self, walk, nodes, owner, weight, owners, levels, calibration=None, opinion=None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Quantiles `(owners, levels)` of the weighted mixture of the nodes of each owner, and its special outcomes."""
        asked = levels
        if calibration is not None:
            levels = calibration.model_level(levels)
        if not self.codec.ordered_digits:
            raise MetricError(
                f"The digits of the {self.codec.format.layout} layout are not ordered by significance, so quantiles cannot be "
                "read off its tree. Use sample() or generate(), or predict(draws=1024) for an estimate."
            )
        whole = np.bincount(owner, weight, owners)

        def total(pieces: _Pieces) -> np.ndarray:
            return np.bincount(pieces.owner, pieces.mass, owners)

        def need(pieces: _Pieces, count: int) -> np.ndarray:
            low, high = _bracket(pieces, total(pieces), levels)
            tail = pieces[np.arange(len(pieces.owner) - count, len(pieces.owner))]
            overlap = (tail.low[:, None] <= high[tail.owner]) & (tail.high[:, None] >= low[tail.owner])
            return (overlap & (low < high)[tail.owner]).any(1)

        pieces, outcomes = walk.open_pieces(nodes, owner, weight, owners, need, calibration, opinion)
        finite = total(pieces)
        values = _bracket(pieces, finite, levels)[0]
        values[finite <= 0] = np.nan
        if calibration is not None and calibration.pool_weight:
            # A few groups can ask for levels so far out that the model has only noise there: no end goes beyond all that was
            # seen, unless the model's own does.
            least, most = min(calibration.pool_values), max(calibration.pool_values)
            if ((values < least) | (values > most)).any():
                own, _ = self._quantiles(walk, nodes, owner, weight, owners, asked, None, opinion)
                values = np.clip(values, np.minimum(least, own), np.maximum(most, own))
        return values, outcomes / whole[:, None]

    def _continue(self, walk, nodes, parents, values, masses) -> _Nodes:
        """The nodes behind one value each; where nothing is finite, behind the likeliest special outcome."""
        values = values.astype(object)
        for i in np.flatnonzero(np.isnan(values.astype(float))):
            name = list(self.codec.outcome_tokens)[int(np.argmax(masses[i]))]
            values[i] = name if name == "failed" else float(name)
        return walk.follow(nodes, parents, self.codec.encode(values))[0]

    def _spread(self, walk, nodes, weight, paths, first, opinion) -> tuple[_Nodes, np.ndarray]:
        """Nodes that stand for the distribution of the number that begins at `nodes`, and their weights.

        The first number is cut into `paths` equally probable parts, each represented by its middle quantile, besides the
        special outcomes. A later one continues every path by one quantile of its conditional distribution, the levels
        assigned to the paths by a fixed permutation (a Latin hypercube).
        """
        count = len(nodes.row)
        middles = (np.arange(paths) + 0.5) / paths
        if first:
            levels = np.broadcast_to(middles, (count, paths))
        else:
            order = np.random.default_rng(0).permutation(paths)
            within = np.arange(count) - np.searchsorted(nodes.row, nodes.row)  # the same in any batch
            levels = middles[order[within % paths]][:, None]
        values, masses = self._quantiles(walk, nodes, np.arange(count), np.ones(count), count, levels, None, opinion)
        finite = np.maximum(0.0, 1 - masses.sum(1))
        parents, numbers, weights = [], [], []
        for column in range(levels.shape[1]):
            parents.append(np.flatnonzero(~np.isnan(values[:, column])))
            numbers.append(values[parents[-1], column].astype(object))
            weights.append((weight * finite / levels.shape[1])[parents[-1]])
        for column, name in enumerate(self.codec.outcome_tokens):
            parents.append(np.flatnonzero(masses[:, column] > 1e-9))
            numbers.append(np.full(len(parents[-1]), name if name == "failed" else float(name), dtype=object))
            weights.append((weight * masses[:, column])[parents[-1]])
        parents, numbers = np.concatenate(parents), np.concatenate(numbers)
        order = np.argsort(nodes.row[parents], kind="stable")
        after, _ = walk.follow(nodes, parents[order], self.codec.encode(numbers[order]))
        return after, np.concatenate(weights)[order]

    def cdf(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        thresholds: Any,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        calibrated: bool = False,
    ) -> np.ndarray:
        """P(y < t), exact, over the finite part of the first metric asked for.

        Args:
            inputs: See the class.
            thresholds: One, `(thresholds,)` for every input, or `(batch, thresholds)`.
            metrics: Names in the header's order.
            given: Known values of the first of them.
            calibrated: Mend the distribution by the checkpoint's calibration, where the metric has one.

        Returns:
            float64 `(batch, thresholds)`.
        """
        with self._answering():
            walk, nodes, asked = self._begin(inputs, metrics, given)
            batch = len(walk.encoded)
            thresholds = np.atleast_1d(np.asarray(thresholds, dtype=np.float64))
            if np.isnan(thresholds).any():
                raise MetricError("A threshold is NaN.")
            if thresholds.ndim > 2 or (thresholds.ndim == 2 and len(thresholds) not in (1, batch)):
                raise MetricError(f"thresholds must be (thresholds,) or ({batch}, thresholds), got {thresholds.shape}.")
            thresholds = np.broadcast_to(thresholds, (batch, thresholds.shape[-1]))
            calibration = self.config.calibration_of(asked[0]) if calibrated else None

            def need(pieces: _Pieces, count: int) -> np.ndarray:
                tail = pieces[np.arange(len(pieces.owner) - count, len(pieces.owner))]
                cut = thresholds[tail.owner]
                return ((tail.low[:, None] < cut) & (cut <= tail.high[:, None])).any(1)

            opinion = self._opinion(walk.encoded, asked[0])
            pieces, _ = walk.open_pieces(nodes, nodes.row, np.ones(batch), batch, need, calibration, opinion)
            below = pieces.mass[:, None] * (pieces.high[:, None] < thresholds[pieces.owner])
            total = np.bincount(pieces.owner, pieces.mass, batch)
            sums = np.zeros(thresholds.shape)
            np.add.at(sums, pieces.owner, below)
            found = sums / total[:, None]
            return found if calibration is None else calibration.calibrated(found)

    def log_prob(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        values: Any,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Log-probability of values as written in the number format, each metric given those before it.

        Args:
            inputs: See the class.
            values: `(batch,)` for one metric, `(batch, metrics asked for)` for several; special outcomes included.
            metrics: Names in the header's order.
            given: Known values of the first of them.

        Returns:
            Natural logarithms, float64 `(batch, metrics asked for)`.
        """
        with self._answering():
            walk, nodes, asked = self._begin(inputs, metrics, given)
            batch = len(walk.encoded)
            codes = self.codec.encode(values)
            shape = (batch,) if codes.ndim == 2 and len(asked) == 1 else (batch, len(asked))
            if codes.shape[:-1] != shape:
                raise MetricError(f"values must have shape ({batch}, {len(asked)}), got {codes.shape[:-1]}.")
            codes = codes.reshape(batch, len(asked), self.codec.length)
            result = np.empty((batch, len(asked)))
            for index in range(len(asked)):
                opinion = self._opinion(walk.encoded, asked[index])
                nodes, result[:, index] = walk.follow(nodes, np.arange(batch), codes[:, index], opinion)
            return result

    def place_logits(
        self, inputs: Mapping[str, torch.Tensor] | EncodedInputs, codes: np.ndarray, *, metrics=("value",)
    ) -> np.ndarray:
        """The decoder's own logits at each place of given numbers, experts left out.

        Args:
            inputs: See the class.
            codes: Token ids of one number for each input, int `(batch, codec.length)`.
            metrics: The one metric's name.

        Returns:
            float64 `(batch, codec.length, vocabulary)`.
        """
        with self._answering():
            walk, nodes, _ = self._begin(inputs, metrics, None)
            _, logits = walk.extend(nodes, np.arange(len(codes)), codes[:, :-1])
            return np.concatenate([nodes.logits[:, None], logits], 1)

    def mean(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        tolerance: float = 1e-2,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        return_error: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Mean of the finite part of the first metric asked for, its error bracketed.

        The mean of a heavy-tailed answer is ruled by its tail: mass of 1e-9 on the largest exponent counts. The median is
        the better point estimate; this is for sums and expected costs.

        Args:
            inputs: See the class.
            tolerance: The tree is opened until the bracket's half-width is at most this share of the mean.
            metrics: Names in the header's order.
            given: Known values of the first of them.
            return_error: Also return the bracket's half-width.

        Returns:
            float64 `(batch,)`, and the half-widths if asked for.
        """
        if not tolerance > 0:
            raise MetricError(f"tolerance must be above zero, got {tolerance}.")
        with self._answering():
            walk, nodes, asked = self._begin(inputs, metrics, given)
            batch = len(walk.encoded)

            def need(pieces: _Pieces, count: int) -> np.ndarray:
                least = np.bincount(pieces.owner, pieces.mass * pieces.low, batch)
                most = np.bincount(pieces.owner, pieces.mass * pieces.high, batch)
                size = np.where(np.sign(least) == np.sign(most), np.minimum(np.abs(least), np.abs(most)), 0.0)
                error = pieces.mass * (pieces.high - pieces.low) / 2
                spent = np.bincount(pieces.owner[:-count], error[:-count], batch)
                tail = np.arange(len(error) - count, len(error))
                order = tail[np.lexsort((error[tail], pieces.owner[tail]))]
                running = np.cumsum(error[order])
                owner = pieces.owner[order]
                before = np.concatenate([[0.0], running])[np.searchsorted(owner, owner)]
                affordable = spent[owner] + running - before <= tolerance * size[owner]
                opened = np.zeros(len(error), dtype=bool)
                opened[order] = ~affordable
                return opened[tail]

            opinion = self._opinion(walk.encoded, asked[0])
            pieces, _ = walk.open_pieces(nodes, nodes.row, np.ones(batch), batch, need, None, opinion)
            total = np.bincount(pieces.owner, pieces.mass, batch)
            middle = np.bincount(pieces.owner, pieces.mass * (pieces.low / 2 + pieces.high / 2), batch) / total
            error = np.bincount(pieces.owner, pieces.mass * (pieces.high - pieces.low) / 2, batch) / total
            return (middle, error) if return_error else middle

    def distributions(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        tolerance: float = 1e-3,
        *,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
        calibrated: bool = False,
    ) -> list[Distribution]:
        """The whole distribution of the first metric asked for, cut into pieces of little mass.

        Args:
            inputs: See the class.
            tolerance: No piece but a single value has more mass than this.
            metrics: Names in the header's order.
            given: Known values of the first of them.
            calibrated: Mend the distributions by the checkpoint's calibration, where the metric has one.

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
        with self._answering():
            walk, nodes, asked = self._begin(inputs, metrics, given)
            batch = len(walk.encoded)
            calibration = self.config.calibration_of(asked[0]) if calibrated else None

            def need(pieces: _Pieces, count: int) -> np.ndarray:
                return pieces.mass[-count:] > tolerance

            opinion = self._opinion(walk.encoded, asked[0])
            pieces, _ = walk.open_pieces(nodes, nodes.row, np.ones(batch), batch, need, None, opinion)
            found = []
            for row in range(batch):
                own = pieces[np.flatnonzero((pieces.owner == row) & (pieces.mass > 0))]
                if not len(own.mass):
                    raise MetricError(f"Input {row}: the model expects no finite {asked[0]} at all.")
                finite = float(own.mass.sum())
                found.append(Distribution(own.low, own.high, own.mass / finite, min(finite, 1.0), calibration))
            return found

    def probability_less(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        others: Mapping[str, torch.Tensor] | EncodedInputs,
        tolerance: float = 1e-3,
        *,
        metrics: Sequence[str] | None = None,
    ) -> np.ndarray:
        """P(a < b) + P(a = b) / 2 for pairs of inputs, their first metrics taken as independent, over their finite parts.

        Args:
            inputs, others: As many of one as of the other.
            tolerance: The trees are opened until the undecided mass is at most twice this.
            metrics: Names in the headers' order.

        Returns:
            float64 `(batch,)`, each within `tolerance` of the exact probability.
        """
        sides = []
        for side in (inputs, others):
            with self._answering():
                sides.append(self._begin(side, metrics, None))
        batch = len(sides[0][0].encoded)
        if len(sides[1][0].encoded) != batch:
            raise MetricError(f"{batch} inputs cannot be paired with {len(sides[1][0].encoded)} others.")
        # Both sides are opened to pieces so small that pairs which overlap hold little mass together.
        share = tolerance

        def need(pieces: _Pieces, count: int) -> np.ndarray:
            return pieces.mass[-count:] > share

        while True:
            parts = []
            for walk, nodes, asked in sides:
                with self._answering():
                    opinion = self._opinion(walk.encoded, asked[0])
                    pieces, _ = walk.open_pieces(nodes, nodes.row, np.ones(batch), batch, need, None, opinion)
                parts.append(pieces)
            result, undecided = np.zeros(batch), np.zeros(batch)
            for i in range(batch):
                a, b = (p[p.owner == i] for p in parts)
                joint = a.mass[:, None] * b.mass / (a.mass.sum() * b.mass.sum())
                less, more = a.high[:, None] < b.low, a.low[:, None] > b.high
                equal = (a.low[:, None] == b.high) & (a.high[:, None] == b.low)
                result[i] = (joint * less).sum() + 0.5 * (joint * ~(less | more)).sum()
                undecided[i] = (joint * ~(less | more | equal)).sum()
            if (undecided <= 2 * tolerance).all() or share < 1e-12:
                return result
            share /= 10

    def sample(
        self,
        inputs: Mapping[str, torch.Tensor] | EncodedInputs,
        n: int = 64,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        metrics: Sequence[str] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Joint draws of all metrics asked for; equal prefixes are computed once.

        Args:
            inputs: See the class.
            n: Draws per input.
            seed: The same seed and input give the same draws, alone and in any batch.
            temperature: Above zero; 1 draws from the model's own distribution.
            top_p: Keep the likeliest tokens that together hold this much at each place, in (0, 1].
            metrics: Names in the header's order.
            given: Known values of the first of them.

        Returns:
            float64 `(batch, n, metrics asked for)`; NaN for `nan`, `FAILED` for `failed`.
        """
        if n < 1 or not temperature > 0 or not 0 < top_p <= 1:
            raise MetricError(
                f"sample() needs n >= 1, temperature > 0 and top_p in (0, 1]; got {n}, {temperature}, {top_p}."
            )
        with self._answering():
            walk, nodes, asked = self._begin(inputs, metrics, given)
            codec, batch = self.codec, len(walk.encoded)
            random = [np.random.default_rng([seed, mark]) for mark in walk.encoded.fingerprints]
            at = np.repeat(np.arange(batch), n)  # the node that each draw stands on
            codes = np.empty((batch * n, len(asked), codec.length), dtype=np.int64)
            for index in range(len(asked)):
                states, prefixes = np.full(len(nodes.row), codec.START), np.empty((len(nodes.row), 0), dtype=np.int64)
                opinion = self._opinion(walk.encoded, asked[index])
                for place in range(codec.length):
                    log_probs = walk.log_probs(nodes.logits, states, prefixes, nodes.row, opinion)
                    cumulative = np.cumsum(_nucleus(_tempered(log_probs, temperature), top_p), 1)
                    draws = np.concatenate([r.random(n) for r in random]) * cumulative[at, -1]
                    token = (cumulative[at] <= draws[:, None]).sum(1)
                    codes[:, index, place] = token
                    if index == len(asked) - 1 and place == codec.length - 1:
                        break
                    pairs, at = np.unique(at * codec.vocab_size + token, return_inverse=True)
                    parents, tokens = np.divmod(pairs, codec.vocab_size)
                    states = codec.transitions[states[parents], tokens]
                    prefixes = np.concatenate([prefixes[parents], tokens[:, None]], 1)
                    nodes, _ = walk.extend(nodes, parents, tokens[:, None])
            return codec.decode(codes).reshape(batch, n, len(asked))


def _tempered(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities `(..., vocabulary)` at a temperature."""
    scores = log_probs / temperature
    probs = np.exp(scores - scores.max(-1, keepdims=True))
    return probs / probs.sum(-1, keepdims=True)


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    """The smallest set of likeliest tokens that holds `top_p`, the others at zero; rows `(..., vocabulary)`."""
    if top_p >= 1:
        return probs
    order = np.argsort(-probs, axis=-1, kind="stable")
    ranked = np.take_along_axis(probs, order, -1)
    kept = np.cumsum(ranked, -1) - ranked < top_p
    result = np.zeros_like(probs)
    np.put_along_axis(result, order, np.where(kept, ranked, 0.0), -1)
    return result


__all__ = ["EncodedInputs", "ExactGenerationMixin", "NumberGrammar", "NumberLogitsProcessor", "Prediction"]
