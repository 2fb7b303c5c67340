"""Trains the MLPs of the feature ensemble (`ensemble_rlm.MLPs`): some for one metric or several, as many for each fold.

Metrics that rank texts alike are learned together (multitask learning, Caruana 1997, Machine Learning 28): the accuracies that
a network reaches on four data sets are four noisy observations of nearly the same quantity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sparse
import torch
import torch.nn.functional as F
from torch import nn

from code_rlm.console import progress
from code_rlm.ensemble_rlm import MLP_LAYERS, MLP_REACH, MLP_WIDTH, FeatureEnsemble, MLPs
from code_rlm.training.trees import FOLDS, MOST_ROWS, Forest

BATCH, LEAST_BATCH, DROPOUT = 256, 16, 0.1
EPOCHS, FEW_EPOCHS = 60, 40
MANY_ROWS = (
    5_000  # up to these the last epochs gain nothing that is not noise, and all networks are trained side by side
)
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 4e-3, 0.01, 0.15
LEAST_SPREAD = 0.1  # a feature that hardly ever differs must not become huge where it does


class FittedMLPs:
    """The MLPs of some metrics, which answer together, and those of each fold that have not seen its groups.

    Args:
        x: The path's raw features `(rows, size)`.
        y: The rows' scores `(rows, metrics)`, NaN where a row has none.
        fold: Of each row, one of `FOLDS`, `(rows,)`.
        forests: The trees of each metric. The features that they split by most are read, each fold's own for its MLPs.
        columns: How many features at most.
        count: How many MLPs; they differ in how they begin and in the order of the rows.

    Attributes:
        out_of_fold: Predictions of the rows by the MLPs that have not seen their fold, on average `(rows, metrics)`.
        whole: Those fitted to all rows; none where the trees have no split.
    """

    def __init__(
        self,
        x: sparse.csr_matrix,
        y: np.ndarray,
        fold: np.ndarray,
        forests: Sequence[Forest],
        columns: int,
        count: int = 1,
    ):
        parts = [_Part.of(x, y, fold != number, _asked_for_most(forests, number)[:columns]) for number in range(FOLDS)]
        parts.append(_Part.of(x, y, np.ones(len(y), bool), _asked_for_most(forests, None)[:columns]))
        known = [part for part in parts if part is not None]
        together = [known] if known and len(y) <= MANY_ROWS else [[part] for part in known]
        fitted = {part: networks for some in together for part, networks in _fit(some, count).items()}
        found = [[] if part is None else fitted[part] for part in parts]
        self.by_fold, self.whole = found[:FOLDS], found[FOLDS]
        self.out_of_fold = np.zeros(y.shape)
        for number in range(FOLDS):
            self.out_of_fold[fold == number] = self.left_out(number, x[fold == number])

    def output(self, metric: int, rows: np.ndarray) -> "MLPOutput | None":
        """Their output for a metric of some of their rows, int `(rows,)`; None where they have seen no value of it."""
        return MLPOutput(self, metric, rows) if any(network.observed[metric] for network in self.whole) else None

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """Predictions of rows by the MLPs that have not seen a fold, on average `(rows, metrics)`; 0 for metrics that
        they have not seen."""
        networks = self.by_fold[number]
        if not networks:
            return np.zeros((x.shape[0], self.out_of_fold.shape[1]))
        return np.mean([network.predict(x) for network in networks], 0)

    def write(self, ensemble: FeatureEnsemble, first: int, answers: Sequence[tuple[int, int, float]]) -> None:
        """Writes the MLPs to an ensemble's places from one on.

        Args:
            first: The place of the first of them.
            answers: For each output there its regressor, which of the metrics that is here, and its stacking weight.
        """
        for number, network in enumerate(self.whole, start=first):
            shares = [(regressor, metric, weight / len(self.whole)) for regressor, metric, weight in answers]
            network.write(ensemble.mlps, number, [(metric, share) for _, metric, share in shares])
            for regressor, metric, share in shares:
                ensemble.bias[regressor] += share * float(network.bias[metric])


@dataclass
class MLPOutput:
    """The output of some MLPs for one of their metrics.

    Attributes:
        mlps: The MLPs.
        metric: Which.
        rows: Those of the MLPs' rows that have it, int `(rows,)`.
    """

    mlps: FittedMLPs
    metric: int
    rows: np.ndarray

    @property
    def out_of_fold(self) -> np.ndarray:
        """Predictions of the rows by the MLPs that have not seen their fold, on average `(rows,)`."""
        return self.mlps.out_of_fold[self.rows, self.metric]

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """Predictions of rows by the MLPs that have not seen a fold, on average `(rows,)`."""
        return self.mlps.left_out(number, x)[:, self.metric]


def _asked_for_most(forests: Sequence[Forest], left_out: int | None) -> np.ndarray:
    """The features that trees split by, those of the largest gain first, every metric's trees alike, int `(features,)`."""
    gains: dict[int, float] = {}
    for forest in forests:
        columns, own = forest.asked_for(left_out)
        for column, gain in zip(columns.tolist(), (own / own.sum()).tolist(), strict=True):
            gains[column] = gains.get(column, 0.0) + gain
    return np.array(sorted(gains, key=lambda column: -gains[column]), dtype=np.int64)


@dataclass(eq=False)
class _Part:
    """The rows that some MLPs are fitted to, as they read them.

    Attributes:
        columns: The features that they read, int `(features,)`.
        center, scale: See `MLPs`, `(features,)` each.
        read: What is read of every row, float32 `(rows, features)`.
        y: Scores float32 `(rows, metrics)`, 0 where there is none.
        has_value: Where there is one, bool `(rows, metrics)`.
    """

    columns: np.ndarray
    center: torch.Tensor
    scale: torch.Tensor
    read: torch.Tensor
    y: torch.Tensor
    has_value: torch.Tensor

    @classmethod
    def of(cls, x: sparse.csr_matrix, y: np.ndarray, keep: np.ndarray, columns: np.ndarray) -> "_Part | None":
        """Returns the rows to keep; None without any or without columns, as where the trees have no split."""
        having = [np.flatnonzero(keep & np.isfinite(own)) for own in y.T]
        if not any(len(rows) for rows in having) or not len(columns):
            return None
        # Each metric keeps as many rows as if it were alone.
        rows = np.unique(np.concatenate([np.random.default_rng(0).permutation(own)[:MOST_ROWS] for own in having]))
        dense = x[rows][:, columns].toarray().astype(np.float32)
        mean, spread = dense.mean(0), dense.std(0)
        # As a checkpoint in bfloat16 will hold them.
        center, scale = (
            torch.tensor(each, dtype=torch.bfloat16).float()
            for each in (mean, np.where(spread > 0, 1 / np.maximum(spread, LEAST_SPREAD), 0.0))
        )
        scores = torch.from_numpy(y[rows]).float()
        read = _standardised(torch.from_numpy(dense), center, scale)
        return cls(columns, center, scale, read, torch.nan_to_num(scores), torch.isfinite(scores))


def _standardised(dense: torch.Tensor, center: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Returns features as MLPs read them, of the same shape `(rows, features)`."""
    return ((dense - center) * scale).clamp(-MLP_REACH, MLP_REACH)


class _Layer(nn.Module):
    """Linear layers of some networks side by side, initialised as torch initialises one of them alone."""

    def __init__(self, networks: int, size: int, outputs: int):
        super().__init__()
        alone = [nn.Linear(size, outputs) for _ in range(networks)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in alone]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in alone]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns `(networks, rows, outputs)` of inputs `(networks, rows, size)`."""
        return torch.baddbmm(self.bias[:, None], x, self.weight)


def _fit(parts: Sequence[_Part], count: int) -> dict[_Part, list["_Network"]]:
    """Fits some networks to each part, all side by side: on a CPU a small product costs little more than its call."""
    owners = [part for part in parts for _ in range(count)]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.random.default_generator.manual_seed(0)
        widths = [max(len(part.columns) for part in parts), *[MLP_WIDTH] * MLP_LAYERS, parts[0].y.shape[1]]
        layers = nn.ModuleList(_Layer(len(owners), before, after) for before, after in pairwise(widths))
        _train(layers, parts, count)
    found: dict[_Part, list[_Network]] = {part: [] for part in parts}
    for number, part in enumerate(owners):
        weights = [layer.weight[number].detach() for layer in layers]
        weights[0] = weights[0][: len(part.columns)].clone()
        found[part].append(_Network(part, weights, [layer.bias[number].detach() for layer in layers]))
    return found


def _train(layers: nn.ModuleList, parts: Sequence[_Part], count: int) -> None:
    """Trains networks, `count` for each part, every one on batches of its own."""
    most = max(len(part.y) for part in parts)
    batch = min(BATCH, max(LEAST_BATCH, most // 4), *(len(part.y) for part in parts))
    read = _padded([part.read for part in parts], most, layers[0].weight.shape[1])
    y = _padded([part.y for part in parts], most, parts[0].y.shape[1])
    has_value = _padded([part.has_value.float() for part in parts], most, parts[0].y.shape[1])
    part_of = torch.arange(len(parts)).repeat_interleave(count)[:, None]
    orders = [_shuffled(len(parts[number].y), batch) for number in part_of[:, 0].tolist()]
    steps = (FEW_EPOCHS if most <= MANY_ROWS else EPOCHS) * (most // batch)
    optimizer = torch.optim.AdamW(layers.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARMUP)
    with progress(steps, "MLP steps") as bar:
        for _ in range(steps):
            rows = torch.stack([next(order) for order in orders])
            found = read[part_of, rows]
            for layer in layers[:-1]:
                found = F.dropout(F.silu(layer(found)), DROPOUT)
            errors = (layers[-1](found) - y[part_of, rows]) ** 2 * has_value[part_of, rows]
            # Networks share no weight: the sum of their losses gives each its own gradient.
            loss = errors.sum(2).mean(1).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.advance(1)


def _padded(tables: Sequence[torch.Tensor], rows: int, columns: int) -> torch.Tensor:
    """Returns tables `(rows, columns)` of different sizes as one, zeros behind each, `(tables, rows, columns)`."""
    padded = torch.zeros(len(tables), rows, columns)
    for number, table in enumerate(tables):
        padded[number, : table.shape[0], : table.shape[1]] = table
    return padded


def _shuffled(rows: int, batch: int) -> Iterator[torch.Tensor]:
    """Yields batches of row numbers `(batch,)`, pass by pass in a new order; what is left of a pass is left out."""
    while True:
        yield from torch.randperm(rows)[: rows // batch * batch].split(batch)


class _Network:
    """A fitted MLP.

    Args:
        part: What it was fitted to.
        weights: Of its layers, `(inputs, outputs)` each.
        biases: Of its layers, `(outputs,)` each.
    """

    def __init__(self, part: _Part, weights: list[torch.Tensor], biases: list[torch.Tensor]):
        self.columns, self.center, self.scale = part.columns, part.center, part.scale
        self.weights, self.biases = weights, biases
        # Which metrics it has seen values of, bool `(metrics,)`; the others' predictions are 0.
        self.observed = part.has_value.any(0).numpy()

    def predict(self, x: sparse.csr_matrix) -> np.ndarray:
        """Predictions of rows, float64 `(rows, metrics)`."""
        found = np.zeros((x.shape[0], len(self.observed)))
        for start in range(0, x.shape[0], 4096):
            part = torch.from_numpy(x[start : start + 4096][:, self.columns].toarray().astype(np.float32))
            with torch.no_grad():
                layer = _standardised(part, self.center, self.scale)
                for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
                    layer = F.silu(layer @ weight + bias)
                found[start : start + 4096] = (layer @ self.weights[-1] + self.biases[-1]).numpy()
        return found * self.observed

    @property
    def bias(self) -> torch.Tensor:
        """Of its outputs `(metrics,)`."""
        return self.biases[-1]

    def write(self, into: MLPs, number: int, shares: Sequence[tuple[int, float]]) -> None:
        """Puts it into the place of an ensemble's MLP, all but the bias of its outputs.

        Args:
            shares: For each output there which of the metrics that is here, and its stacking weight.
        """
        first, *others = self.weights[:-1]
        count = len(self.columns)
        for name in ("feature", "center", "scale", "first"):
            getattr(into, name)[number] = 0
        for name, values in (("feature", self.columns), ("center", self.center), ("scale", self.scale)):
            buffer = getattr(into, name)
            buffer[number, :count] = torch.as_tensor(values).to(buffer)
        into.first[number, :count] = first.to(into.first)
        into.hidden[number] = torch.stack(others).to(into.hidden)
        into.bias[number] = torch.stack(self.biases[:-1]).to(into.bias)
        outputs = [place for place, owner in enumerate(into.owner) if owner == number]
        for place, (metric, weight) in zip(outputs, shares, strict=True):
            into.last[place] = (self.weights[-1][:, metric] * weight).to(into.last)


__all__ = ["FittedMLPs", "MLPOutput"]
