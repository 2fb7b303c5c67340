"""Trains the MLPs of the feature ensemble (`ensemble_rlm.MLPs`): some for one metric or several, as many for each fold.

Metrics that rank texts alike are learned together (multitask learning, Caruana 1997, Machine Learning 28): the accuracies that
a network reaches on four data sets are four noisy observations of nearly the same quantity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.sparse as sparse
import torch
from torch import nn

from code_rlm.ensemble_rlm import MLP_LAYERS, MLP_REACH, MLP_WIDTH, FeatureEnsemble, MLPs
from code_rlm.training.trees import FOLDS, MOST_ROWS, Forest

EPOCHS, BATCH, LEAST_BATCH, DROPOUT = 60, 256, 16, 0.1
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
        def fitted(keep: np.ndarray, left_out: int | None) -> list[_Network]:
            read = _asked_for_most(forests, left_out)[:columns]
            found = [_Network.to(x, y, keep, read, seed) for seed in range(count)]
            return [network for network in found if network is not None]

        self.by_fold = [fitted(fold != number, number) for number in range(FOLDS)]
        self.out_of_fold = np.zeros(y.shape)
        for number in range(FOLDS):
            self.out_of_fold[fold == number] = self.left_out(number, x[fold == number])
        self.whole = fitted(np.ones(len(y), bool), None)

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


class _Network:
    """An MLP fitted to some rows.

    Args:
        columns: The features that it reads.
        center, scale: See `MLPs`, `(columns,)` each.
        observed: Which metrics it has seen values of, bool `(metrics,)`; the others' predictions are 0.
    """

    def __init__(self, columns: np.ndarray, center: np.ndarray, scale: np.ndarray, observed: np.ndarray):
        self.columns, self.center, self.scale, self.observed = columns, center, scale, observed
        widths = [len(columns), *[MLP_WIDTH] * MLP_LAYERS]
        layers = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.SiLU(), nn.Dropout(DROPOUT))
        ]
        self.net = nn.Sequential(*layers, nn.Linear(MLP_WIDTH, len(observed)))

    @classmethod
    def to(
        cls, x: sparse.csr_matrix, y: np.ndarray, keep: np.ndarray, columns: np.ndarray, seed: int
    ) -> "_Network | None":
        """Fits one to the rows to keep; None without any or without columns, as where the trees have no split."""
        having = [np.flatnonzero(keep & np.isfinite(own)) for own in y.T]
        observed = np.array([len(rows) > 0 for rows in having])
        if not observed.any() or not len(columns):
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
            fitted = cls(columns, center, scale, observed)
            fitted._train(torch.from_numpy(dense), torch.from_numpy(y[rows]).float())
        fitted.net.eval()
        return fitted

    def _read(self, dense: torch.Tensor) -> torch.Tensor:
        return ((dense - torch.from_numpy(self.center)) * torch.from_numpy(self.scale)).clamp(-MLP_REACH, MLP_REACH)

    def _train(self, dense: torch.Tensor, y: torch.Tensor) -> None:
        read, batch = self._read(dense), min(BATCH, max(LEAST_BATCH, len(y) // 4), len(y))
        steps = len(y) // batch
        observed, y = torch.isfinite(y), torch.nan_to_num(y)
        optimizer = torch.optim.AdamW(self.net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=EPOCHS * steps, pct_start=WARMUP
        )
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(y))[: steps * batch].split(batch):
                loss = ((self.net(read[rows]) - y[rows]) ** 2 * observed[rows]).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def predict(self, x: sparse.csr_matrix) -> np.ndarray:
        """Predictions of rows, float64 `(rows, metrics)`."""
        found = np.zeros((x.shape[0], len(self.observed)))
        for start in range(0, x.shape[0], 4096):
            part = torch.from_numpy(x[start : start + 4096][:, self.columns].toarray().astype(np.float32))
            with torch.no_grad():
                found[start : start + 4096] = self.net(self._read(part)).numpy()
        return found * self.observed

    @property
    def bias(self) -> torch.Tensor:
        """Of its outputs `(metrics,)`."""
        return self.net[-1].bias.detach()

    def write(self, into: MLPs, number: int, shares: Sequence[tuple[int, float]]) -> None:
        """Puts it into the place of an ensemble's MLP, all but the bias of its outputs.

        Args:
            shares: For each output there which of the metrics that is here, and its stacking weight.
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
        for place, (metric, weight) in zip(outputs, shares, strict=True):
            into.last[place] = (linear[-1].weight.detach()[metric] * weight).to(into.last)


__all__ = ["FittedMLPs", "MLPOutput"]
