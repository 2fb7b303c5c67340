"""Boosted regression trees of the feature ensemble: fitted by LightGBM, stored as tensors of `ensemble_rlm.FeatureEnsemble`.

Trees model what a ridge regression cannot: that a size matters only where something is allocated. They are fitted to the
ridge's targets on the ridge's folds, so that their out-of-fold predictions can be weighted beside the ridge's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import scipy.sparse as sparse
import torch

from code_rlm.ensemble_rlm import TREE_NODES, EnsembleConfig, FeatureEnsemble

FOLDS = 5  # parts that groups are left out in
MOST_ROWS = 100_000  # beyond, trees are fitted on a sample of the rows

PARAMETERS = {
    "objective": "regression",
    "num_leaves": (TREE_NODES + 1) // 2,
    "learning_rate": 0.08,
    "lambda_l2": 1.0,
    "max_bin": 255,
    # Features hold no missing values, and the walk through the tensors compares numbers alone.
    "use_missing": False,
    # The common start is the mean of the scores, which `Forest` subtracts itself.
    "boost_from_average": False,
    # The least number of rows in a leaf differs between the fits that share one table of binned features.
    "feature_pre_filter": False,
    # The same trees for the same rows, whatever the number of threads.
    "deterministic": True,
    "force_col_wise": True,
    "seed": 0,
    "verbosity": -1,
}
_LEAST_ROWS_OF_LEAF, _MOST_ROWS_OF_LEAF = 2, 20
_PATIENCE = 100  # trees without a smaller error on the rows left out, after which no more are fitted
_TOLERANCE = 0.002  # share of the least error that fewer trees may cost


class Forest:
    """The trees of one metric, and for each fold the trees that have not seen its groups.

    Args:
        x: The ensemble's raw features `(rows, size)`.
        y: The rows' scores `(rows,)`.
        fold: The fold of each row, below `FOLDS`, int `(rows,)`.
        settings: The most trees, and how many n-grams and positions of numbers trees may read.

    Attributes:
        columns: The features that trees may read, int `(columns,)`.
        trees: The number of trees, chosen on the first fold (`fewest_trees`).
        out_of_fold: Out-of-fold predictions `(rows,)`.
    """

    def __init__(self, x: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, settings: EnsembleConfig):
        self.columns = choose_columns(x, settings)
        read = x[:, self.columns].tocsr().astype(np.float32)
        table = lightgbm.Dataset(read, label=y, params=PARAMETERS, free_raw_data=False)
        sample = np.sort(np.random.default_rng(0).permutation(len(y))[:MOST_ROWS])

        # The first fold's trees are fitted with all trees allowed: its rows show how many of them are needed.
        left_out = np.flatnonzero(fold == 0)
        first, errors = _fit(table, y, sample[fold[sample] != 0], settings.trees, left_out)
        self.trees = fewest_trees(errors)
        self._by_fold = [_Trees(first.booster, first.start, self.trees)]
        for number in range(1, FOLDS):
            self._by_fold.append(_fit(table, y, sample[fold[sample] != number], self.trees)[0])
        self.out_of_fold = np.zeros(len(y))
        for number, trees in enumerate(self._by_fold):
            left_out = np.flatnonzero(fold == number)
            self.out_of_fold[left_out] = trees.predict(read[left_out])
        self._whole = _fit(table, y, sample, self.trees)[0]

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """Returns predictions of the trees that have not seen a fold.

        Args:
            number: The fold.
            x: The ensemble's raw features `(rows, size)`.

        Returns:
            Scores `(rows,)`.
        """
        return self._by_fold[number].predict(x[:, self.columns])

    def predict(self, x: sparse.csr_matrix) -> np.ndarray:
        """Returns predictions `(rows,)` of the trees fitted on all rows from raw features `(rows, size)`."""
        return self._whole.predict(x[:, self.columns])

    def asked_for(self, left_out: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the features that the trees split on, those of the largest gain first.

        Args:
            left_out: Reads the trees that have not seen this fold; by default those fitted on all rows.

        Returns:
            Numbers of the features, int `(features,)`, and their gains `(features,)`.
        """
        trees = self._whole if left_out is None else self._by_fold[left_out]
        gains = np.zeros(len(self.columns))
        for nodes in trees.nodes():
            # The first trees gain most. The square root keeps the later ones, which decide close calls, in the sum.
            np.add.at(gains, nodes.feature[~nodes.is_leaf], np.sqrt(nodes.gain[~nodes.is_leaf]))
        order = np.argsort(-gains, kind="stable")
        order = order[gains[order] > 0]
        return self.columns[order], gains[order]

    def write(self, ensemble: FeatureEnsemble, regressor: int, weight: float) -> None:
        """Writes the trees, weighted, into the ensemble's buffers; their common start is added to the bias.

        Args:
            ensemble: Its `tree_*` buffers hold at least as many trees.
            regressor: The regressor that the trees belong to.
            weight: The stacking weight.
        """
        with torch.no_grad():
            ensemble.bias[regressor] += weight * self._whole.start
            for name in ("feature", "left", "right", "threshold", "value"):
                getattr(ensemble, f"tree_{name}")[regressor] = 0
            for number, nodes in enumerate(self._whole.nodes()):
                columns = {
                    "feature": np.where(nodes.is_leaf, 0, self.columns[nodes.feature]),
                    "left": nodes.left,
                    "right": nodes.right,
                    "threshold": nodes.threshold,
                    "value": weight * nodes.value,
                }
                for name, values in columns.items():
                    buffer = getattr(ensemble, f"tree_{name}")
                    buffer[regressor, number, : len(values)] = torch.from_numpy(values).to(buffer.dtype)


@dataclass(frozen=True)
class Nodes:
    """The nodes of one tree as columns, the root first, each `(nodes,)`.

    Attributes:
        feature: The column that an inner node compares; 0 in leaves.
        left, right: The nodes that follow: `left` where `x <= threshold`. A leaf is followed by itself.
        threshold: The largest float32 not above LightGBM's threshold, so that float32 features fall on the same side; 0 in
            leaves.
        value: What a leaf adds; 0 in inner nodes.
        gain: What an inner node's split gains; 0 in leaves.
    """

    feature: np.ndarray
    left: np.ndarray
    right: np.ndarray
    threshold: np.ndarray
    value: np.ndarray
    gain: np.ndarray

    @property
    def is_leaf(self) -> np.ndarray:
        """Whether a node is a leaf, bool `(nodes,)`."""
        return self.left == np.arange(len(self.left))

    @classmethod
    def of(cls, structure: dict) -> Nodes:
        """Returns the nodes of a `tree_structure` of `lightgbm.Booster.dump_model`."""
        nodes = [structure]
        left, right = [], []
        for number, node in enumerate(nodes):  # grows while it is read: children are appended, parents first
            if "leaf_value" in node:
                left.append(number)
                right.append(number)
            else:
                left.append(len(nodes))
                right.append(len(nodes) + 1)
                nodes += [node["left_child"], node["right_child"]]
        return cls(
            feature=np.array([node.get("split_feature", 0) for node in nodes], dtype=np.int64),
            left=np.array(left, dtype=np.int64),
            right=np.array(right, dtype=np.int64),
            threshold=_rounded_down(np.array([node.get("threshold", 0.0) for node in nodes], dtype=np.float64)),
            value=np.array([node.get("leaf_value", 0.0) for node in nodes], dtype=np.float64),
            gain=np.array([max(node.get("split_gain", 0.0), 0.0) for node in nodes], dtype=np.float64),
        )


def _rounded_down(values: np.ndarray) -> np.ndarray:
    """Returns the largest float32 numbers that are not above the float64 values."""
    nearest = values.astype(np.float32)
    return np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)


@dataclass(frozen=True)
class _Trees:
    """Fitted trees and the mean that they start from; no booster where there were no rows to fit on."""

    booster: lightgbm.Booster | None
    start: float
    count: int

    def predict(self, read: sparse.csr_matrix) -> np.ndarray:
        """Returns scores `(rows,)` of rows of the chosen columns `(rows, columns)`."""
        if self.booster is None or not read.shape[0]:
            return np.zeros(read.shape[0])
        return self.start + np.asarray(self.booster.predict(read, num_iteration=self.count))

    def nodes(self) -> list[Nodes]:
        """Returns the nodes of every tree."""
        if self.booster is None:
            return []
        trees = self.booster.dump_model(num_iteration=self.count)["tree_info"]
        return [Nodes.of(tree["tree_structure"]) for tree in trees]


def _fit(
    table: lightgbm.Dataset, y: np.ndarray, rows: np.ndarray, count: int, watched: np.ndarray | None = None
) -> tuple[_Trees, list[float]]:
    """Fits trees on some rows of a table of binned features.

    Args:
        table: Features of all rows.
        y: Scores of all rows `(rows,)`.
        rows: The rows to fit on, int, ascending.
        count: The number of trees.
        watched: Rows to measure the error on after each tree, int, ascending.

    Returns:
        The trees, and the mean squared error on the watched rows with the first tree, the first two, and so on. Without rows to
        fit on there is one tree at most; without watched rows all trees count as the best.
    """
    if not len(rows):
        return _Trees(None, 0.0, count), [0.0]
    start = float(y[rows].mean())
    least = min(_MOST_ROWS_OF_LEAF, max(_LEAST_ROWS_OF_LEAF, len(rows) // 20))
    parameters = {**PARAMETERS, "min_data_in_leaf": least, "metric": "l2"}
    measured: dict[str, dict[str, list[float]]] = {}
    held_out: list[lightgbm.Dataset] = []
    callbacks: list[Callable[..., Any]] = []
    if watched is not None and len(watched):
        held_out = [_part(table, watched, y[watched] - start)]
        patience = lightgbm.early_stopping(_PATIENCE, verbose=False)
        callbacks = [lightgbm.record_evaluation(measured), patience]
    booster = lightgbm.train(
        parameters,
        _part(table, rows, y[rows] - start),
        num_boost_round=count,
        valid_sets=held_out,
        valid_names=["held out"] * len(held_out),
        callbacks=callbacks,
    )
    errors = measured["held out"]["l2"] if measured else [*[1.0] * (count - 1), 0.0]
    return _Trees(booster, start, count), errors


def fewest_trees(errors: Sequence[float]) -> int:
    """Returns the fewest trees whose error on rows left out is within `_TOLERANCE` of the least.

    Args:
        errors: With the first tree, the first two, and so on.
    """
    return 1 + int(np.argmax(np.array(errors) <= min(errors) * (1 + _TOLERANCE)))


def _part(table: lightgbm.Dataset, rows: np.ndarray, labels: np.ndarray) -> lightgbm.Dataset:
    """Returns some rows of a table of binned features with labels of their own."""
    part = table.subset(rows.tolist()).construct()
    part.set_label(labels)
    return part


def choose_columns(x: sparse.csr_matrix, settings: EnsembleConfig) -> np.ndarray:
    """Returns the n-grams and positions of numbers that vary most among the texts, and all other features that vary at all.

    Of the components of hidden states there are none: trees on them rank texts worse than a ridge regression, and a text's size
    or loops are among the other features already.
    """
    x = x.astype(np.float64)  # a variance is a small difference of large sums
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    limits = {"grams": settings.tree_grams, "placed": settings.tree_numbers, "hidden": 0}
    kept = []
    first = 0
    for part, count in settings.features.parts.items():
        order = np.argsort(-variance[first : first + count], kind="stable")
        kept.append(first + np.sort(order[: limits.get(part, count)]))
        first += count
    columns = np.concatenate(kept)
    varying = columns[variance[columns] > 1e-9]
    return varying if len(varying) else columns[-1:]


__all__ = ["FOLDS", "MOST_ROWS", "PARAMETERS", "Forest", "Nodes", "choose_columns", "fewest_trees"]
