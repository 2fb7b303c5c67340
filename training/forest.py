"""Boosted regression trees of the lexical path: grown by scikit-learn, kept as tensors (`lexical_rlm.LexicalPath`).

Trees see what a ridge regression cannot: that a size matters only where something is allocated. They are grown on the ridge's
targets and folds.
"""

import numpy as np
import scipy.sparse as sparse
import torch
from sklearn.ensemble import HistGradientBoostingRegressor

from code_rlm.lexical_rlm import TREE_NODES, LexicalPath, LexicalSettings

FOLDS = 5  # groups are left out in so many parts
MOST_ROWS = 100_000  # beyond, trees are grown on a part of the rows


class Forest:
    """The trees of one metric, and those of each fold that have not seen its groups.

    Args:
        x: The path's raw features `(rows, size)`.
        y: The rows' scores `(rows,)`.
        fold: Of each row, one of `FOLDS`, `(rows,)`.
        settings: The path's: the most trees, and how many n-grams and places of numbers they can look at.

    Attributes:
        trees: How many there are: as many as suit the groups of the first fold best.
        found: What the trees of each row's fold say of it `(rows,)`.
    """

    def __init__(self, x: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, settings: LexicalSettings):
        self.columns = _choose_columns(x, settings)
        dense = self._dense(x)
        part = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
        pilot = self._grow(dense, y, part[fold[part] != 0], settings.trees)
        self.trees = _best_count(pilot, dense[fold == 0], y[fold == 0])
        self.by_fold = [self._grow(dense, y, part[fold[part] != number], self.trees) for number in range(FOLDS)]
        self.found = np.zeros(len(y))
        for number in range(FOLDS):
            if (fold == number).any():
                self.found[fold == number] = _predict(self.by_fold[number], dense[fold == number])
        self.whole = self._grow(dense, y, part, self.trees)

    def _dense(self, x: sparse.csr_matrix) -> np.ndarray:
        return x[:, self.columns].toarray().astype(np.float32, copy=False)

    def _grow(self, x: np.ndarray, y: np.ndarray, rows: np.ndarray, trees: int):
        """A fitted regressor; None where no rows are left to fit it on."""
        if not len(rows):
            return None
        regressor = HistGradientBoostingRegressor(
            max_iter=trees,
            learning_rate=0.08,
            max_leaf_nodes=(TREE_NODES + 1) // 2,
            min_samples_leaf=min(20, max(2, len(rows) // 20)),
            l2_regularization=1.0,
            early_stopping=False,
            random_state=0,
        )
        return regressor.fit(x[rows], y[rows])

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """What the trees that have not seen a fold say of rows `(rows,)`."""
        return _predict(self.by_fold[number], self._dense(x))

    def asked_for(self, left_out: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The features that the trees ask for, those first that their splits gain most by, int `(features,)`, and the gains.

        Args:
            left_out: Of the trees that have not seen this fold.
        """
        regressor = self.whole if left_out is None else self.by_fold[left_out]
        gains = np.zeros(len(self.columns))
        for (predictor,) in regressor._predictors if regressor is not None else ():
            inner = predictor.nodes[~predictor.nodes["is_leaf"].astype(bool)]
            # The first trees gain most; the root lets the later ones, which tell close calls, have a say.
            np.add.at(gains, inner["feature_idx"], np.sqrt(np.maximum(inner["gain"], 0)))
        order = np.argsort(-gains, kind="stable")
        order = order[gains[order] > 0]
        return self.columns[order], gains[order]

    def write(self, path: LexicalPath, regressor: int, weight: float) -> None:
        """Puts the trees, weighted, into a path's place for a regressor's; their common start goes into its bias."""
        with torch.no_grad():
            path.bias[regressor] += weight * float(np.ravel(self.whole._baseline_prediction)[0])
            for name in ("feature", "left", "right", "threshold", "value"):
                getattr(path, f"tree_{name}")[regressor] = 0
            for number, (predictor,) in enumerate(self.whole._predictors):
                nodes = predictor.nodes
                count, leaf = len(nodes), nodes["is_leaf"].astype(bool)
                own = np.arange(count)
                written = {
                    "feature": np.where(leaf, 0, self.columns[nodes["feature_idx"]]),
                    "left": np.where(leaf, own, nodes["left"]),
                    "right": np.where(leaf, own, nodes["right"]),
                    "threshold": np.where(leaf, 0.0, nodes["num_threshold"]),
                    "value": np.where(leaf, nodes["value"] * weight, 0.0),
                }
                for name, values in written.items():
                    target = getattr(path, f"tree_{name}")
                    target[regressor, number, :count] = torch.from_numpy(values.astype(np.float64)).to(target.dtype)


def _choose_columns(x: sparse.csr_matrix, settings: LexicalSettings) -> np.ndarray:
    """The n-grams and the places of the code's numbers that differ most among the texts, and all else that differs at all."""
    x = x.astype(np.float64)  # a variance is a small difference of large sums
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2

    def most_varied(first: int, end: int, count: int) -> np.ndarray:
        return np.sort(first + np.argsort(-variance[first:end], kind="stable")[:count])

    kept, first = [], 0
    for kind, count in settings.parts.items():
        most = {"grams": settings.tree_grams, "placed": settings.tree_numbers}.get(kind, count)
        kept.append(most_varied(first, first + count, most))
        first += count
    columns = np.concatenate(kept)
    differing = columns[variance[columns] > 1e-9]
    return differing if len(differing) else columns[-1:]


def _best_count(regressor, x: np.ndarray, y: np.ndarray) -> int:
    """With how many of its trees a regressor errs least on rows that it has not seen; all of them without such rows."""
    if regressor is None or not len(x):
        return 1 if regressor is None else regressor.max_iter
    return 1 + int(np.argmin([np.sum((found - y) ** 2) for found in regressor.staged_predict(x)]))


def _predict(regressor, x: np.ndarray) -> np.ndarray:
    return np.zeros(len(x)) if regressor is None or not len(x) else regressor.predict(x)


__all__ = ["Forest"]
