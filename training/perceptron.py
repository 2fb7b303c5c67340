"""Trains the perceptrons of the lexical path (`perceptron_rlm.py`): some for a metric, and as many for each fold left out."""

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
    """The perceptrons of one metric, which answer together, and those of each fold that have not seen its groups.

    Args:
        x: The path's raw features `(rows, size)`.
        y: The rows' scores `(rows,)`.
        fold: Of each row, one of `FOLDS`, `(rows,)`.
        forest: The trees grown on the same rows. What those ask for most is read, each fold's own for its perceptrons.
        columns: How many features at most.
        count: How many perceptrons; they differ in how they begin and in the order of the rows.

    Attributes:
        found: What the perceptrons of each row's fold say of it, on average `(rows,)`.
        whole: Those fitted to all rows; none where the trees ask for nothing.
    """

    def __init__(
        self, x: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, forest: Forest, columns: int, count: int = 1
    ):
        def fitted(keep: np.ndarray, asked_for: np.ndarray) -> list[_Network]:
            found = [_Network.to(x, y, keep, asked_for[:columns], seed) for seed in range(count)]
            return [network for network in found if network is not None]

        self.by_fold = [fitted(fold != number, forest.asked_for(number)) for number in range(FOLDS)]
        self.found = np.zeros(len(y))
        for number in range(FOLDS):
            self.found[fold == number] = self.left_out(number, x[fold == number])
        self.whole = fitted(np.ones(len(y), bool), forest.asked_for())

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """What the perceptrons that have not seen a fold say of rows, on average `(rows,)`."""
        networks = self.by_fold[number]
        return np.mean([network.predict(x) for network in networks], 0) if networks else np.zeros(x.shape[0])

    def write(self, path: LexicalPath, regressor: int, weight: float) -> None:
        """Puts the perceptrons, weighted, into a path's places for this regressor's."""
        settings = path.settings
        own = [n for n, each in enumerate(settings.perceptrons) if each == settings.regressors[regressor]]
        for number, network in zip(own, self.whole, strict=True):
            path.bias[regressor] += network.write(path.perceptrons, number, weight / len(own))


class _Network:
    """A perceptron fitted to some rows.

    Args:
        columns: The features that it reads.
        center, scale: See `Perceptrons`, `(columns,)` each.
    """

    def __init__(self, columns: np.ndarray, center: np.ndarray, scale: np.ndarray):
        self.columns, self.center, self.scale = columns, center, scale
        widths = [len(columns), *[WIDTH] * LAYERS]
        layers = [
            layer
            for before, after in pairwise(widths)
            for layer in (nn.Linear(before, after), nn.SiLU(), nn.Dropout(DROPOUT))
        ]
        self.net = nn.Sequential(*layers, nn.Linear(WIDTH, 1))

    @classmethod
    def to(
        cls, x: sparse.csr_matrix, y: np.ndarray, keep: np.ndarray, columns: np.ndarray, seed: int
    ) -> "_Network | None":
        """Fits one to the rows to keep; None without any or without columns, as where trees have found nothing to ask for."""
        rows = np.flatnonzero(keep)
        if not len(rows) or not len(columns):
            return None
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MOST_ROWS])
        dense = x[rows][:, columns].toarray().astype(np.float32)
        mean, spread = dense.mean(0), dense.std(0)
        # As a checkpoint in bfloat16 will hold them.
        center, scale = (
            torch.tensor(each, dtype=torch.bfloat16).float().numpy()
            for each in (mean, np.where(spread > 0, 1 / np.maximum(spread, LEAST_SPREAD), 0.0))
        )
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.random.default_generator.manual_seed(seed)
            fitted = cls(columns, center, scale)
            fitted._train(torch.from_numpy(dense), torch.from_numpy(y[rows]).float())
        fitted.net.eval()
        return fitted

    def _read(self, dense: torch.Tensor) -> torch.Tensor:
        return ((dense - torch.from_numpy(self.center)) * torch.from_numpy(self.scale)).clamp(-REACH, REACH)

    def _train(self, dense: torch.Tensor, y: torch.Tensor) -> None:
        read, batch = self._read(dense), min(BATCH, max(LEAST_BATCH, len(y) // 4), len(y))
        steps = len(y) // batch
        optimizer = torch.optim.AdamW(self.net.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=EPOCHS * steps, pct_start=WARMUP
        )
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(y))[: steps * batch].split(batch):
                loss = ((self.net(read[rows])[:, 0] - y[rows]) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def predict(self, x: sparse.csr_matrix) -> np.ndarray:
        """What it says of rows, float64 `(rows,)`."""
        found = np.zeros(x.shape[0])
        for start in range(0, x.shape[0], 4096):
            part = torch.from_numpy(x[start : start + 4096][:, self.columns].toarray().astype(np.float32))
            with torch.no_grad():
                found[start : start + 4096] = self.net(self._read(part))[:, 0].numpy()
        return found

    def write(self, into: perceptron_rlm.Perceptrons, number: int, weight: float) -> float:
        """Puts it, weighted, into the place of a path's perceptron; returns what it adds to the regressor's bias."""
        linear = [layer for layer in self.net if isinstance(layer, nn.Linear)]
        first, *others, last = [layer.weight.detach().T for layer in linear]
        count = len(self.columns)
        for name in ("feature", "center", "scale", "first"):
            getattr(into, name)[number] = 0
        for name, values in (("feature", self.columns), ("center", self.center), ("scale", self.scale)):
            buffer = getattr(into, name)
            buffer[number, :count] = torch.from_numpy(values).to(buffer)
        into.first[number, :count] = first.to(into.first)
        into.hidden[number] = torch.stack(others).to(into.hidden)
        into.bias[number] = torch.stack([layer.bias.detach() for layer in linear[:-1]]).to(into.bias)
        into.last[number] = (last[:, 0] * weight).to(into.last)
        return weight * linear[-1].bias.item()


__all__ = ["Perceptrons"]
