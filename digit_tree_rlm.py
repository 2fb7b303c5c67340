"""The digit tree: the distribution that a decoder defines over numbers, cut into pieces and opened where a question needs it.

A node of the tree is a prefix of a number's code, its children are the tokens that the grammar allows next, each with a
probability. A prefix can only grow into values between two bounds, so a set of nodes is a probability distribution cut into
pieces `(mass, low, high)`, and a question needs only those pieces opened further that matter to it:

- a quantile: those that could hold it. In the `ordered` format that is one path per quantile, and paths share prefixes
- P(y < t): those that contain t
- the mean: those whose mass times width is above the tolerance
- P(a < b) of two inputs, whole distributions: those of much mass

One loop, `TreeWalk.open_pieces`, serves all of them; they differ in the function that selects pieces. Sampling walks down the
same tree. Nodes of one input stand side by side on the query axis of its cross-attention (`QueryLayout`): the memory's keys
and values exist once per input. Outside the network everything is float64. The public methods: `generation_rlm.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .distributions_rlm import Adjustment, Calibration, Distribution, PoolingComponent, ScoreScale
from .errors_rlm import MetricError
from .numbers_rlm import NumberCodec

# Special outcomes of less mass are left out where paths stand for a whole distribution.
_LEAST_OUTCOME = 1e-9


@dataclass
class EncodedInputs:
    """Inputs after the encoder, ready for any number of questions.

    Attributes:
        memory: Cross-attention keys and values of every decoder layer, each `(batch, kv_heads, length, head_dim)`.
        mask: True for what is to be read `(batch, length)`, None when nothing is padded.
        fingerprints: One integer per input, of its token ids; they seed sampling, so that an input gets the same samples
            alone and in any batch.
        scores: The feature ensemble's scores float64 `(batch, metrics)`, None without one.
        residual_scales: Residual scale of each score (`FeatureEnsemble.residual_scales`), float64 `(batch, metrics)`.
        features: The inputs' features `(batch, size)`, None without an ensemble.
    """

    memory: list[tuple[torch.Tensor, torch.Tensor]]
    mask: torch.Tensor | None
    fingerprints: list[int]
    scores: np.ndarray | None = None
    residual_scales: np.ndarray | None = None
    features: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.fingerprints)

    def __getitem__(self, rows: Sequence[int]) -> "EncodedInputs":
        """Returns some of the inputs, in the order of their rows."""
        index = torch.tensor(rows, device=self.memory[0][0].device)
        return EncodedInputs(
            [(keys[index], values[index]) for keys, values in self.memory],
            None if self.mask is None else self.mask[index],
            [self.fingerprints[row] for row in rows],
            None if self.scores is None else self.scores[rows],
            None if self.residual_scales is None else self.residual_scales[rows],
            None if self.features is None else self.features[index.to(self.features.device)],
        )


# ------------------------------------------------------------------------------------------------------ pieces


@dataclass
class Pieces:
    """Distributions cut into pieces.

    Attributes:
        owner: The distribution that each piece belongs to, int64 `(pieces,)`.
        mass: Probability of each piece, float64 `(pieces,)`.
        low, high: Least and largest value of each piece, float64 `(pieces,)`; equal for a single value.
    """

    owner: np.ndarray
    mass: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Pieces"]) -> "Pieces":
        """Returns the pieces of all parts, in their order."""
        return cls(
            np.concatenate([part.owner for part in parts]),
            np.concatenate([part.mass for part in parts]),
            np.concatenate([part.low for part in parts]),
            np.concatenate([part.high for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: np.ndarray | slice) -> "Pieces":
        return Pieces(self.owner[index], self.mass[index], self.low[index], self.high[index])

    def last(self, count: int) -> "Pieces":
        """Returns the last pieces; in `open_pieces` those that can still be opened."""
        return self[len(self) - count :]

    def sums(self, values: np.ndarray, owners: int) -> np.ndarray:
        """Returns the sum of values `(pieces,)` by owner, `(owners,)`."""
        return np.bincount(self.owner, values, owners)

    def masses(self, owners: int) -> np.ndarray:
        """Returns the mass of each owner's distribution, `(owners,)`."""
        return self.sums(self.mass, owners)


Selection = Callable[[Pieces, int], np.ndarray]
"""A function of all pieces, and of how many of them (the last) can still be opened; returns which of those to open, bool."""


def bracket(pieces: Pieces, total: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns bounds between which each owner's quantiles lie.

    A quantile is the smallest value whose cumulative mass reaches the level. It is at least the first `low`, in ascending
    order of `low`, at which the cumulative mass suffices, and at most the first such `high` in ascending order of `high`.

    Args:
        pieces: The distributions.
        total: Finite mass of each owner `(owners,)`.
        levels: `(owners, levels)` or `(1, levels)`.

    Returns:
        Two float64 arrays `(owners, levels)`.
    """
    # A level that is met exactly must not be missed by the rounding of the cumulative sum.
    wanted = levels * total[:, None] * (1 - 1e-12)
    return _first_reaching(pieces, pieces.low, wanted), _first_reaching(pieces, pieces.high, wanted)


def _first_reaching(pieces: Pieces, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns for each owner the first of its values, ascending, at which its cumulative mass reaches those wanted.

    Args:
        pieces: The distributions.
        values: One end of each piece `(pieces,)`.
        wanted: Cumulative masses `(owners, levels)`.
    """
    # Owners stand behind each other in one sorted row, so that one cumulative sum and one search serve all of them.
    order = np.lexsort((values, pieces.owner))
    starts = np.searchsorted(pieces.owner[order], np.arange(len(wanted) + 1))
    running = np.concatenate([[0.0], np.cumsum(pieces.mass[order])])
    mass_before_owner = running[starts[:-1], None]
    first = np.searchsorted(running[1:], mass_before_owner + wanted)
    first_of_owner = starts[:-1, None]
    last_of_owner = np.maximum(starts[1:, None] - 1, first_of_owner)
    first = np.clip(first, first_of_owner, last_of_owner)
    return values[order][np.minimum(first, len(order) - 1)]


def open_for_quantiles(levels: np.ndarray, owners: int) -> Selection:
    """Returns the selection of pieces that could hold a quantile, for levels `(owners, levels)` or `(1, levels)`."""

    def select(pieces: Pieces, count: int) -> np.ndarray:
        low, high = bracket(pieces, pieces.masses(owners), levels)
        tail = pieces.last(count)
        overlaps = (tail.low[:, None] <= high[tail.owner]) & (tail.high[:, None] >= low[tail.owner])
        is_open = (low < high)[tail.owner]
        return (overlaps & is_open).any(1)

    return select


def open_at_thresholds(thresholds: np.ndarray) -> Selection:
    """Returns the selection of pieces that contain a threshold of their owner, thresholds `(owners, thresholds)`."""

    def select(pieces: Pieces, count: int) -> np.ndarray:
        tail = pieces.last(count)
        own = thresholds[tail.owner]
        return ((tail.low[:, None] < own) & (own <= tail.high[:, None])).any(1)

    return select


def open_above_mass(mass: float) -> Selection:
    """Returns the selection of pieces of more than this mass."""

    def select(pieces: Pieces, count: int) -> np.ndarray:
        return pieces.last(count).mass > mass

    return select


def open_for_adjusted_quantiles(
    mass: float, levels: Sequence[float], adjustments: Sequence[Adjustment | None], calibration: Calibration | None
) -> Selection:
    """Returns the selection of pieces of more than this mass that could hold a quantile of an adjusted distribution.

    Args:
        mass: Pieces of at most this mass stay closed.
        levels: Of the adjusted distributions, the same for all owners.
        adjustments: One for each owner, None where nothing more is known.
        calibration: Applied before the adjustments.
    """

    def select(pieces: Pieces, count: int) -> np.ndarray:
        tail = pieces.last(count)
        selected = tail.mass > mass
        for owner in np.unique(tail.owner[selected]):
            own = pieces[(pieces.owner == owner) & (pieces.mass > 0)]
            adjustment = adjustments[int(owner)]
            known = Distribution(own.low, own.high, own.mass / own.mass.sum(), 1.0, calibration, adjustment)
            low, high = known.bracket(levels)
            if adjustment is not None and adjustment.lower_bound is not None:
                # The mass below the bound counts in every quantile.
                low, high = np.append(low, adjustment.lower_bound), np.append(high, adjustment.lower_bound)
            overlaps = (tail.low[:, None] <= high) & (tail.high[:, None] >= low)
            selected &= (tail.owner != owner) | overlaps.any(1)
        return selected

    return select


def open_for_mean(tolerance: float, owners: int) -> Selection:
    """Returns the selection of pieces that must be opened to know each owner's mean to a relative tolerance.

    A piece's error is its mass times half its width. Pieces of the least error stay closed as long as all errors together are
    affordable.
    """

    def select(pieces: Pieces, count: int) -> np.ndarray:
        least = pieces.sums(pieces.mass * pieces.low, owners)
        most = pieces.sums(pieces.mass * pieces.high, owners)
        size = np.where(np.sign(least) == np.sign(most), np.minimum(np.abs(least), np.abs(most)), 0.0)
        error = pieces.mass * (pieces.high - pieces.low) / 2
        # What can no longer be opened has spent part of the tolerance.
        closed = len(pieces) - count
        spent = np.bincount(pieces.owner[:closed], error[:closed], owners)
        tail = np.arange(closed, len(pieces))
        order = tail[np.lexsort((error[tail], pieces.owner[tail]))]
        owner = pieces.owner[order]
        running = np.cumsum(error[order])
        before_owner = np.concatenate([[0.0], running])[np.searchsorted(owner, owner)]
        affordable = spent[owner] + running - before_owner <= tolerance * size[owner]
        opened = np.zeros(len(pieces), dtype=bool)
        opened[order] = ~affordable
        return opened[tail]

    return select


def _pool_pieces(calibration: Calibration, finite: np.ndarray) -> Pieces:
    """Returns the pool's values as pieces beside distributions of the finite mass `(owners,)`."""
    values = np.array(calibration.pool_values)
    # The pool has its weight once its pieces and the distribution's own are normalised together.
    share = calibration.pool_weight / (1 - calibration.pool_weight) / len(values)
    owner = np.repeat(np.arange(len(finite)), len(values))
    repeated = np.tile(values, len(finite))
    return Pieces(owner, finite[owner] * share, repeated, repeated)


# ----------------------------------------------------------------------------------------- pooling at the nodes


@dataclass
class ScorePooling:
    """A pooling component on the metric that is being decoded.

    Attributes:
        component: The component.
        scale: Scale of the scores.
        scores: Score of each input `(batch,)`.
        residual_scales: Residual scale of each score `(batch,)`.
    """

    component: PoolingComponent
    scale: ScoreScale
    scores: np.ndarray
    residual_scales: np.ndarray

    def masses(self, low: np.ndarray, high: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns P(low < y < high) of inputs `(nodes,)`, for ranges of values `(nodes, vocabulary)`."""
        low, high = self.scale.score(low), self.scale.score(high)
        return self.component.masses(low, high, self.scores[rows, None], self.residual_scales[rows, None])


def token_cells(
    codec: NumberCodec, prefixes: np.ndarray, states: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the range of values behind each token that may come next, up to halfway to its neighbours.

    Args:
        codec: The number codec; its digits must be ordered by significance.
        prefixes: int `(nodes, positions)`, the tokens so far.
        states: The automaton's state behind each, int `(nodes,)`.

    Returns:
        Two float64 arrays low and high `(nodes, vocabulary)`, and bool `(nodes, vocabulary)`: which tokens lead to finite
        numbers.
    """
    node, token = np.nonzero(codec.allowed[states])
    if not prefixes.shape[1]:
        is_number = ~np.isin(token, list(codec.outcome_tokens.values()))
        node, token = node[is_number], token[is_number]
    codes = np.concatenate([prefixes[node], token[:, None]], 1)
    least, most = codec.bounds(codes, codec.transitions[states[node], token])
    shape = (len(states), codec.vocab_size)
    low, high, finite = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=bool)
    low[node, token] = least - _half_step(codec, least, -1)
    high[node, token] = most + _half_step(codec, most, 1)
    finite[node, token] = np.isfinite(least) & np.isfinite(most)
    return low, high, finite


def _half_step(codec: NumberCodec, values: np.ndarray, side: int) -> np.ndarray:
    """Returns half the distance from a number of the format to its neighbour above (`side` 1) or below (-1)."""
    size = np.abs(values)
    # Towards zero from a power of ten the numbers lie ten times closer.
    towards_zero = np.sign(values) == -side
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log10(size * np.where(towards_zero, 1 - 1e-12, 1 + 1e-12)))
    exponent = np.where(size > 0, exponent, codec.min_exponent + codec.format.mantissa_digits - 1)
    return 0.5 * 10.0 ** (exponent - codec.format.mantissa_digits + 1)


# -------------------------------------------------------------------------------------------------- tree walk


@dataclass
class Nodes:
    """Prefixes that the decoder has read.

    Attributes:
        row: The input that each belongs to, int `(nodes,)`.
        depth: Tokens read, the start token included.
        cache: Self-attention keys and values of every layer, `(nodes, heads, depth, head_dim)`.
        logits: Of the next token, float64 `(nodes, vocabulary)`.
    """

    row: np.ndarray
    depth: int
    cache: list[tuple[torch.Tensor, torch.Tensor]]
    logits: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


class NodeCache:
    """Gives each new node its parent's keys and values, and keeps the new node's own.

    Args:
        parent_layers: Keys and values of every layer at the parents; empty at the root.
        parents: Index of each new node's parent `(nodes,)`; None where they are the parents, in their order.
    """

    def __init__(self, parent_layers: list[tuple[torch.Tensor, torch.Tensor]], parents: torch.Tensor | None):
        if parents is not None:
            parent_layers = [(keys[parents], values[parents]) for keys, values in parent_layers]
        self.parent_layers = parent_layers
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, keys: torch.Tensor, values: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns a layer's keys and values with those of the parents in front, each `(nodes, heads, depth, head_dim)`."""
        if self.parent_layers:
            parent_keys, parent_values = self.parent_layers[index]
            keys = torch.cat([parent_keys, keys], 2)
            values = torch.cat([parent_values, values], 2)
        self.layers.append((keys, values))
        return keys, values


class QueryLayout:
    """Lays the nodes of one input side by side on its query axis, and takes them back.

    Args:
        rows: The input that each node belongs to, int `(nodes,)`.
        batch: Number of inputs.
        device: Where the nodes' tensors are.
    """

    def __init__(self, rows: np.ndarray, batch: int, device: torch.device):
        counts = np.bincount(rows, minlength=batch)
        self.batch, self.width = batch, int(counts.max())
        # A node's slot is its rank among the nodes of its input.
        order = np.argsort(rows, kind="stable")
        first_of_row = np.cumsum(counts) - counts
        slot = np.empty(len(rows), dtype=np.int64)
        slot[order] = np.arange(len(rows)) - first_of_row[rows[order]]
        positions = rows * self.width + slot
        is_identity = len(rows) == batch * self.width and bool((positions == np.arange(len(rows))).all())
        self.positions = None if is_identity else torch.from_numpy(positions).to(device)

    def to_queries(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `(batch, width * length, size)` of `(nodes, length, size)`; zeros where an input has fewer nodes."""
        length, size = x.shape[1:]
        if self.positions is not None:
            x = x.new_zeros(self.batch * self.width, length, size).index_copy_(0, self.positions, x)
        return x.reshape(self.batch, self.width * length, size)

    def to_nodes(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `(nodes, length, size)` of `(batch, width * length, size)`."""
        x = x.reshape(self.batch * self.width, -1, x.shape[-1])
        return x if self.positions is None else x[self.positions]


@dataclass
class _Frontier:
    """Nodes of one level of a number's tree, while it is being opened.

    Attributes:
        nodes: The nodes.
        owner: The distribution that each adds to, int `(nodes,)`.
        weight: Mass of each `(nodes,)`.
        states: The automaton's state of each `(nodes,)`.
        prefixes: Tokens of the number so far `(nodes, positions)`.
    """

    nodes: Nodes
    owner: np.ndarray
    weight: np.ndarray
    states: np.ndarray
    prefixes: np.ndarray


@dataclass
class _Children:
    """Tokens that may follow the nodes of a frontier, as pieces; arrays `(children,)`, prefixes `(children, positions)`."""

    parent: np.ndarray
    token: np.ndarray
    states: np.ndarray
    prefixes: np.ndarray
    pieces: Pieces

    def __getitem__(self, index: np.ndarray) -> "_Children":
        return _Children(
            self.parent[index], self.token[index], self.states[index], self.prefixes[index], self.pieces[index]
        )


class TreeWalk:
    """Walks down the digit trees of one batch; the decoder reads each distinct prefix once.

    Args:
        model: A model with `codec`, `decoder`, `number_head` and `config`.
        encoded: The inputs.
    """

    def __init__(self, model: Any, encoded: EncodedInputs):
        self.model, self.encoded = model, encoded
        self.codec: NumberCodec = model.codec
        self.device = encoded.memory[0][0].device

    def root(self) -> Nodes:
        """Returns one node per input, at the start token."""
        rows = np.arange(len(self.encoded))
        tokens = np.full((len(rows), 1), self.model.config.decoder_start_token_id)
        return self._read(rows, tokens, 0, [], None)[0]

    def extend(self, nodes: Nodes, parents: np.ndarray, tokens: np.ndarray) -> tuple[Nodes, np.ndarray]:
        """Reads further tokens behind some of the nodes.

        Args:
            nodes: Where to continue.
            parents: Index into the nodes, int `(new nodes,)`.
            tokens: int `(new nodes, positions)`.

        Returns:
            The new nodes, and the logits after each of their tokens, float64 `(new nodes, positions, vocabulary)`.
        """
        are_all = len(parents) == len(nodes) and bool((parents == np.arange(len(parents))).all())
        index = None if are_all else torch.from_numpy(parents).to(self.device)
        return self._read(nodes.row[parents], tokens, nodes.depth, nodes.cache, index)

    def _read(
        self,
        rows: np.ndarray,
        tokens: np.ndarray,
        depth: int,
        parent_layers: list[tuple[torch.Tensor, torch.Tensor]],
        parents: torch.Tensor | None,
    ) -> tuple[Nodes, np.ndarray]:
        """Runs the decoder on tokens `(nodes, positions)` behind prefixes of a depth; see `extend`."""
        past = NodeCache(parent_layers, parents)
        hidden = self.model.decoder(
            torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64)).to(self.device),
            self.encoded.memory,
            self.encoded.mask,
            start=depth,
            past=past,
            layout=QueryLayout(rows, len(self.encoded), self.device),
        )
        logits = self.model.number_head(hidden).double().cpu().numpy()
        return Nodes(rows, depth + tokens.shape[1], past.layers, logits[:, -1]), logits

    def log_probs(
        self,
        logits: np.ndarray,
        states: np.ndarray,
        prefixes: np.ndarray,
        rows: np.ndarray,
        pooling: ScorePooling | None = None,
    ) -> np.ndarray:
        """Returns log-probabilities over the allowed tokens, float64 `(nodes, vocabulary)`, minus infinity elsewhere.

        Args:
            logits: The decoder's `(nodes, vocabulary)`.
            states: The automaton's states `(nodes,)`.
            prefixes: Tokens of the number so far `(nodes, positions)`.
            rows: The input that each node belongs to `(nodes,)`.
            pooling: Component to pool them with.
        """
        decoder = masked_log_softmax(logits, self.codec.allowed[states])
        if pooling is None:
            return decoder
        low, high, finite = token_cells(self.codec, prefixes, states)
        return pooling.component.pool(decoder, pooling.masses(low, high, rows), finite)

    def open_pieces(
        self,
        nodes: Nodes,
        owner: np.ndarray,
        weight: np.ndarray,
        owners: int,
        select: Selection,
        calibration: Calibration | None = None,
        pooling: ScorePooling | None = None,
    ) -> tuple[Pieces, np.ndarray]:
        """Opens the pieces of one number's distribution, level by level, until the selection asks for no more.

        Args:
            nodes: Where the number begins.
            owner: The distribution that each node adds to, int `(nodes,)`.
            weight: Mass of each node `(nodes,)`.
            owners: How many distributions there are.
            select: Which pieces to open.
            calibration: Adds its pool's values to each distribution, as pieces of their own.
            pooling: Component that every node's probabilities are pooled with.

        Returns:
            The pieces, and the mass of each special outcome `(owners, special outcomes of the format)`.
        """
        states = np.full(len(owner), self.codec.START)
        frontier = _Frontier(nodes, owner, weight, states, np.empty((len(owner), 0), dtype=np.int64))
        outcomes = np.zeros((owners, len(self.codec.outcome_tokens)))
        closed: list[Pieces] = []
        for position in range(self.codec.length):
            parent, token, mass = self._steps(frontier, pooling)
            if position == 0:
                parent, token, mass = self._split_outcomes(frontier, parent, token, mass, outcomes)
                if calibration is not None and calibration.pool_weight:
                    finite = np.bincount(owner[parent], mass, owners)
                    closed.append(_pool_pieces(calibration, finite))
            children = self._children(frontier, parent, token, mass)
            is_range = children.pieces.low < children.pieces.high
            if not is_range.all():  # a single value cannot be opened
                closed.append(children.pieces[~is_range])
                children = children[is_range]
            if not len(children.parent):
                break
            selected = select(Pieces.joined([*closed, children.pieces]), len(children.parent))
            selected = selected & (children.pieces.mass > 0)
            closed.append(children.pieces[~selected])
            if not selected.any():
                break
            frontier = self._descend(frontier, children[selected])
        return Pieces.joined(closed), outcomes

    def _steps(self, frontier: _Frontier, pooling: ScorePooling | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns parent, token and mass of everything that the grammar allows behind a frontier, `(steps,)` each."""
        nodes = frontier.nodes
        log_probs = self.log_probs(nodes.logits, frontier.states, frontier.prefixes, nodes.row, pooling)
        parent, token = np.nonzero(self.codec.allowed[frontier.states])
        mass = frontier.weight[parent] * np.exp(log_probs[parent, token])
        return parent, token, mass

    def _split_outcomes(
        self, frontier: _Frontier, parent: np.ndarray, token: np.ndarray, mass: np.ndarray, outcomes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Adds the mass of first tokens that are special outcomes to `outcomes`, and returns the other steps."""
        if not outcomes.size:
            return parent, token, mass
        column = np.full(self.codec.vocab_size, -1)
        column[list(self.codec.outcome_tokens.values())] = np.arange(outcomes.shape[1])
        special = column[token] >= 0
        cells = (frontier.owner[parent[special]], column[token[special]])
        np.add.at(outcomes, cells, mass[special])
        return parent[~special], token[~special], mass[~special]

    def _children(self, frontier: _Frontier, parent: np.ndarray, token: np.ndarray, mass: np.ndarray) -> _Children:
        """Returns the pieces of values that steps lead to."""
        states = self.codec.transitions[frontier.states[parent], token]
        prefixes = np.concatenate([frontier.prefixes[parent], token[:, None]], 1)
        low, high = self.codec.bounds(prefixes, states)
        return _Children(parent, token, states, prefixes, Pieces(frontier.owner[parent], mass, low, high))

    def _descend(self, frontier: _Frontier, children: _Children) -> _Frontier:
        """Lets the decoder read the tokens of some children; returns them as the next frontier."""
        nodes, _ = self.extend(frontier.nodes, children.parent, children.token[:, None])
        return _Frontier(nodes, children.pieces.owner, children.pieces.mass, children.states, children.prefixes)

    def follow(
        self, nodes: Nodes, parents: np.ndarray, codes: np.ndarray, pooling: ScorePooling | None = None
    ) -> tuple[Nodes, np.ndarray]:
        """Reads whole numbers behind some nodes.

        Args:
            nodes: Where the numbers begin.
            parents: Index into the nodes, int `(new nodes,)`.
            codes: Token ids of one number for each, int `(new nodes, codec.length)`.
            pooling: Component that probabilities are pooled with.

        Returns:
            The nodes behind the numbers, and each number's log-probability, float64 `(new nodes,)`.
        """
        after, logits = self.extend(nodes, parents, codes)
        logits = np.concatenate([nodes.logits[parents][:, None], logits[:, :-1]], 1)
        states = np.maximum(self.codec.states(codes)[:, :-1], 0)
        total = np.zeros(len(codes))
        for position in range(codes.shape[1]):
            prefixes = codes[:, :position]
            log_probs = self.log_probs(logits[:, position], states[:, position], prefixes, after.row, pooling)
            total += np.take_along_axis(log_probs, codes[:, position, None], 1)[:, 0]
        return after, total

    # ---------------------------------------------------------------------------------- questions to the tree

    def quantiles(
        self,
        nodes: Nodes,
        owner: np.ndarray,
        weight: np.ndarray,
        owners: int,
        levels: np.ndarray,
        calibration: Calibration | None = None,
        pooling: ScorePooling | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns quantiles of the weighted mixture of each owner's nodes.

        Args:
            nodes, owner, weight, owners, calibration, pooling: See `open_pieces`.
            levels: `(owners, levels)` or `(1, levels)`.

        Returns:
            Quantiles of the finite part float64 `(owners, levels)`, NaN where there is none, and the probability of each
            special outcome `(owners, special outcomes)`.

        Raises:
            MetricError: A layout whose digits are not ordered by significance.
        """
        if not self.codec.ordered_digits:
            raise MetricError(
                f"The digits of the {self.codec.format.layout} layout are not ordered by significance, so quantiles cannot be "
                "read off its tree. Use sample() or generate(), or predict(draws=1024) for an estimate."
            )
        model_levels = levels if calibration is None else calibration.model_level(levels)
        select = open_for_quantiles(model_levels, owners)
        pieces, outcomes = self.open_pieces(nodes, owner, weight, owners, select, calibration, pooling)
        finite = pieces.masses(owners)
        values, _ = bracket(pieces, finite, model_levels)
        values[finite <= 0] = np.nan
        if calibration is not None and calibration.pool_weight:
            least, most = min(calibration.pool_values), max(calibration.pool_values)
            if ((values < least) | (values > most)).any():
                # A few groups can ask for levels so far out that the model has only noise there: no quantile lies beyond the
                # pool, unless the model's own does.
                own, _ = self.quantiles(nodes, owner, weight, owners, levels, None, pooling)
                values = np.clip(values, np.minimum(least, own), np.maximum(most, own))
        total_weight = np.bincount(owner, weight, owners)
        return values, outcomes / total_weight[:, None]

    def follow_values(self, nodes: Nodes, parents: np.ndarray, values: np.ndarray, outcomes: np.ndarray) -> Nodes:
        """Returns the nodes behind one value each; where it is NaN, behind the likeliest special outcome.

        Args:
            nodes: Where the numbers begin.
            parents: Index into the nodes, int `(new nodes,)`.
            values: float64 `(new nodes,)`.
            outcomes: Probability of each special outcome `(new nodes, special outcomes)`.
        """
        names = list(self.codec.outcome_tokens)
        numbers = values.astype(object)
        for i in np.flatnonzero(np.isnan(values)):
            numbers[i] = _outcome_value(names[int(np.argmax(outcomes[i]))])
        return self.follow(nodes, parents, self.codec.encode(numbers))[0]

    def representative_paths(
        self, nodes: Nodes, weight: np.ndarray, paths: int, is_first: bool, pooling: ScorePooling | None
    ) -> tuple[Nodes, np.ndarray]:
        """Returns nodes that stand for the distribution of the number that begins at `nodes`, and their weights.

        The first number is divided into `paths` equally probable parts, each represented by its middle quantile, besides the
        special outcomes. A later one continues every path by one quantile of its conditional distribution, the levels
        assigned to the paths by a fixed permutation (a Latin hypercube).

        Args:
            nodes: Where the number begins.
            weight: Mass of each node `(nodes,)`.
            paths: Number of parts.
            is_first: Whether this is the first number of the answer.
            pooling: Component that probabilities are pooled with.
        """
        count = len(nodes)
        levels = self._path_levels(nodes, paths, is_first)
        values, outcomes = self.quantiles(nodes, np.arange(count), np.ones(count), count, levels, None, pooling)
        finite = np.maximum(0.0, 1 - outcomes.sum(1))
        parents: list[np.ndarray] = []
        numbers: list[np.ndarray] = []
        weights: list[np.ndarray] = []
        for column in range(levels.shape[1]):
            with_value = np.flatnonzero(~np.isnan(values[:, column]))
            parents.append(with_value)
            numbers.append(values[with_value, column].astype(object))
            weights.append((weight * finite / levels.shape[1])[with_value])
        for column, name in enumerate(self.codec.outcome_tokens):
            with_outcome = np.flatnonzero(outcomes[:, column] > _LEAST_OUTCOME)
            parents.append(with_outcome)
            numbers.append(np.full(len(with_outcome), _outcome_value(name), dtype=object))
            weights.append((weight * outcomes[:, column])[with_outcome])
        all_parents, all_numbers = np.concatenate(parents), np.concatenate(numbers)
        # Nodes of one input stand together, as at the root.
        order = np.argsort(nodes.row[all_parents], kind="stable")
        after, _ = self.follow(nodes, all_parents[order], self.codec.encode(all_numbers[order]))
        return after, np.concatenate(weights)[order]

    def _path_levels(self, nodes: Nodes, paths: int, is_first: bool) -> np.ndarray:
        """Returns the levels at which nodes are continued, `(nodes, paths)` for the first number, `(nodes, 1)` later."""
        middles = (np.arange(paths) + 0.5) / paths
        if is_first:
            return np.broadcast_to(middles, (len(nodes), paths))
        permutation = np.random.default_rng(0).permutation(paths)
        # Rank among the nodes of the same input, so that the levels do not depend on the batch.
        rank = np.arange(len(nodes)) - np.searchsorted(nodes.row, nodes.row)
        return middles[permutation[rank % paths]][:, None]


def masked_log_softmax(logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Returns log-probabilities over the allowed tokens, minus infinity elsewhere, float64 `(..., vocabulary)`."""
    scores = np.where(allowed, logits, -np.inf)
    scores = scores - scores.max(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def _outcome_value(name: str) -> str | float:
    """Returns a special outcome as the codec reads it."""
    return name if name == "failed" else float(name)


__all__ = [
    "EncodedInputs",
    "NodeCache",
    "Nodes",
    "Pieces",
    "QueryLayout",
    "ScorePooling",
    "TreeWalk",
    "bracket",
    "masked_log_softmax",
    "open_above_mass",
    "open_at_thresholds",
    "open_for_adjusted_quantiles",
    "open_for_mean",
    "open_for_quantiles",
    "token_cells",
]
