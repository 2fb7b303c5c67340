"""Trains the perceptrons of the lexical path (`perceptron_rlm.py`): some for one metric or several, as many for each fold.

What one metric teaches of a text serves others that rank texts alike (multitask learning, Caruana 1997, Machine Learning 28):
the accuracies that a network reaches on four data sets are four noisy answers to nearly the same question.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sparse
import torch
from torch import nn

from code_rlm import perceptron_rlm
from code_rlm.lexical_rlm import LexicalPath
from code_rlm.perceptron_rlm import LAYERS, REACH, WIDTH
from code_rlm.training.forest import FOLDS, MOST_ROWS, Forest

EPOCHS, BATCH, LEAST_BATCH, DROPOUT = 60, 256, 16, 0.1
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 4e-3, 0.01, 0.15
LEAST_SPREAD = 0.1  # a feature that hardly ever differs must not become huge where it does


class Perceptrons:
    """The perceptrons of some metrics, which answer together, and those of each fold that have not seen its groups.

    Args:
        x: The path's raw features `(rows, size)`.
        y: The rows' scores `(rows, metrics)`, NaN where a row has none.
        fold: Of each row, one of `FOLDS`, `(rows,)`.
        forests: The trees of each metric. What those ask for most is read, each fold's own for its perceptrons.
        columns: How many features at most.
        count: How many perceptrons; they differ in how they begin and in the order of the rows.

    Attributes:
        found: What the perceptrons of each row's fold say of it, on average `(rows, metrics)`.
        whole: Those fitted to all rows; none where the trees ask for nothing.
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
        def fitted(keep: np.ndarray, left_out: int | None) -> list[_Network]:
            read = _asked_for_most(forests, left_out)[:columns]
            found = [_Network.to(x, y, keep, read, seed) for seed in range(count)]
            return [network for network in found if network is not None]

        self.by_fold = [fitted(fold != number, number) for number in range(FOLDS)]
        self.found = np.zeros(y.shape)
        for number in range(FOLDS):
            self.found[fold == number] = self.left_out(number, x[fold == number])
        self.whole = fitted(np.ones(len(y), bool), None)

    def answer(self, metric: int, rows: np.ndarray) -> "Answer | None":
        """What they say of a metric that some of their rows have, int `(rows,)`; None where they know nothing of it."""
        return Answer(self, metric, rows) if any(network.told[metric] for network in self.whole) else None

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """What the perceptrons that have not seen a fold say of rows, on average `(rows, metrics)`; 0 of metrics unknown to
        them."""
        networks = self.by_fold[number]
        if not networks:
            return np.zeros((x.shape[0], self.found.shape[1]))
        return np.mean([network.predict(x) for network in networks], 0)

    def write(self, path: LexicalPath, first: int, answers: Sequence[tuple[int, int, float]]) -> None:
        """Puts the perceptrons into a path's places from one on.

        Args:
            first: The place of the first of them.
            answers: For each output there its regressor, which of the metrics that is here, and what it is worth.
        """
        for number, network in enumerate(self.whole, start=first):
            shares = [(regressor, metric, worth / len(self.whole)) for regressor, metric, worth in answers]
            network.write(path.perceptrons, number, [(metric, share) for _, metric, share in shares])
            for regressor, metric, share in shares:
                path.bias[regressor] += share * float(network.bias[metric])


@dataclass
class Answer:
    """What some perceptrons say of one of their metrics.

    Attributes:
        perceptrons: The perceptrons.
        metric: Which.
        rows: Those of the perceptrons' rows that have it, int `(rows,)`.
    """

    perceptrons: Perceptrons
    metric: int
    rows: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """What the perceptrons of each row's fold say of it `(rows,)`."""
        return self.perceptrons.found[self.rows, self.metric]

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """What the perceptrons that have not seen a fold say of rows, on average `(rows,)`."""
        return self.perceptrons.left_out(number, x)[:, self.metric]


def _asked_for_most(forests: Sequence[Forest], left_out: int | None) -> np.ndarray:
    """The features that trees ask for, those first that they gain most by, every metric's trees alike, int `(features,)`."""
    gains: dict[int, float] = {}
    for forest in forests:
        columns, own = forest.asked_for(left_out)
        for column, gain in zip(columns.tolist(), (own / own.sum()).tolist(), strict=True):
            gains[column] = gains.get(column, 0.0) + gain
    return np.array(sorted(gains, key=lambda column: -gains[column]), dtype=np.int64)


class _Network:
    """A perceptron fitted to some rows.

    Args:
        columns: The features that it reads.
        center, scale: See `perceptron_rlm.Perceptrons`, `(columns,)` each.
        told: Which metrics it has seen values of, bool `(metrics,)`; of the others it says 0.
    """

    def __init__(self, columns: np.ndarray, center: np.ndarray, scale: np.ndarray, told: np.ndarray):
        self.columns, self.center, self.scale, self.told = columns, center, scale, told
        widths = [len(columns), *[WIDTH] * LAYERS]
        layers = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.SiLU(), nn.Dropout(DROPOUT))
        ]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, len(told)))

    @classmethod
    def to(
        cls, x: sparse.csr_matrix, y: np.ndarray, keep: np.ndarray, columns: np.ndarray, seed: int
    ) -> "_Network | None":
        """Fits one to the rows to keep; None without any or without columns, as where trees have found nothing to ask for."""
        having = [np.flatnonzero(keep & np.isfinite(own)) for own in y.T]
        told = np.array([len(rows) > 0 for rows in having])
        if not told.any() or not len(columns):
            return None
        # Each metric keeps as many rows as if it were alone.
        rows = np.unique(np.concatenate([np.random.default_rng(0).permutation(own)[:MOST_ROWS] for own in having]))
        dense = x[rows][:, columns].toarray().astype(np.float32)
        mean, spread = dense.mean(0), dense.std(0)
        # As a checkpoint in bfloat16 will hold them.
        center, scale = (
            torch.tensor(each, dtype=torch.bfloat16).float().numpy()
            for each in (mean, np.where(spread > 0, 1 / np.maximum(spread, LEAST_SPREAD), 0.0))
        )
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.random.default_generator.manual_seed(seed)
            fitted = cls(columns, center, scale, told)
            fitted._train(torch.from_numpy(dense), torch.from_numpy(y[rows]).float())
        fitted.net.eval()
        return fitted

    def _read(self, dense: torch.Tensor) -> torch.Tensor:
        return ((dense - torch.from_numpy(self.center)) * torch.from_numpy(self.scale)).clamp(-REACH, REACH)

    def _train(self, dense: torch.Tensor, y: torch.Tensor) -> None:
        read, batch = self._read(dense), min(BATCH, max(LEAST_BATCH, len(y) // 4), len(y))
        steps = len(y) // batch
        told, y = torch.isfinite(y), torch.nan_to_num(y)
        optimizer = torch.optim.AdamW(self.net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=EPOCHS * steps, pct_start=WARMUP
        )
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(y))[: steps * batch].split(batch):
                loss = ((self.net(read[rows]) - y[rows]) ** 2 * told[rows]).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def predict(self, x: sparse.csr_matrix) -> np.ndarray:
        """What it says of rows, float64 `(rows, metrics)`."""
        found = np.zeros((x.shape[0], len(self.told)))
        for start in range(0, x.shape[0], 4096):
            part = torch.from_numpy(x[start : start + 4096][:, self.columns].toarray().astype(np.float32))
            with torch.no_grad():
                found[start : start + 4096] = self.net(self._read(part)).numpy()
        return found * self.told

    @property
    def bias(self) -> torch.Tensor:
        """Of its outputs `(metrics,)`."""
        return self.net[-1].bias.detach()

    def write(self, into: perceptron_rlm.Perceptrons, number: int, shares: Sequence[tuple[int, float]]) -> None:
        """Puts it into the place of a path's perceptron, all but the bias of its outputs.

        Args:
            shares: For each output there which of the metrics that is here, and what it is worth.
        """
        linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        first, *others = [layer.weight.detach().T for layer in linear[:-1]]
        count = len(self.columns)
        for name in ("feature", "center", "scale", "first"):
            getattr(into, name)[number] = 0
        for name, values in (("feature", self.columns), ("center", self.center), ("scale", self.scale)):
            buffer = getattr(into, name)
            buffer[number, :count] = torch.from_numpy(values).to(buffer)
        into.first[number, :count] = first.to(into.first)
        into.hidden[number] = torch.stack(others).to(into.hidden)
        into.bias[number] = torch.stack([layer.bias.detach() for layer in linear[:-1]]).to(into.bias)
        outputs = [place for place, owner in enumerate(into.owner) if owner == number]
        for place, (metric, worth) in zip(outputs, shares, strict=True):
            into.last[place] = (linear[-1].weight.detach()[metric] * worth).to(into.last)


__all__ = ["Answer", "Perceptrons"]
