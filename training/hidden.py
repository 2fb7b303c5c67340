"""Fits what the feature ensemble reads of a language model's hidden states: principal components, and a ridge on them.

Hidden states are thousands of dense, correlated features of another scale than n-grams. So they have a penalty of their own:
the ridge on them is one more base learner, stacked beside the ridge on the other features, and both end up as one linear map.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sparse
import torch

from code_rlm.data.mixture import Source
from code_rlm.ensemble_rlm import FeatureEnsemble
from code_rlm.language_model_rlm import HiddenStates
from code_rlm.processing_rlm import code_texts
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.trees import FOLDS

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-6, 5))
_MOST_ROWS = 20_000  # beyond, components are fitted to a sample of the texts
_LEAST_SPREAD = 1e-3  # of a hidden state, as a share of the mean spread: what never differs is not read


def component_tables(
    ensemble: FeatureEnsemble,
    train: Sequence[Source],
    others: Sequence[Source],
    tokenizer: RLMTokenizer,
    log: Callable[[str], None],
) -> dict[int, sparse.csr_matrix]:
    """Principal components of the hidden states of every row `(rows, components)`, by the source's id.

    They are fitted to the training texts where the ensemble has none yet, and kept from then on.

    Raises:
        CheckpointError: The language model cannot be had.
    """
    model = ensemble.settings.features.language_model
    if model is None:
        return {}
    read = HiddenStates(model, log)
    hidden = {id(source): read(code_texts(tokenizer, source.bodies)) for source in (*train, *others)}
    if not ensemble.hidden_scale.any():
        fit_components(ensemble, torch.cat([hidden[id(source)] for source in train]))
    return {key: sparse.csr_matrix(ensemble.components(rows).numpy()) for key, rows in hidden.items()}


def fit_components(ensemble: FeatureEnsemble, hidden: torch.Tensor) -> None:
    """Fits the principal components of hidden states `(rows, hidden)`, the largest first; total variance is about 1.

    The decomposition is randomised (Halko et al. 2011, SIAM Review 53); with fewer rows than components the last are zero.
    """
    sample = torch.from_numpy(np.random.default_rng(0).permutation(len(hidden))[:_MOST_ROWS])
    hidden = hidden[sample]
    spread = hidden.std(0, correction=0)
    differs = spread > _LEAST_SPREAD * spread.mean()
    ensemble.hidden_center.copy_(hidden.mean(0))
    ensemble.hidden_scale.copy_(torch.where(differs, 1 / spread, 0.0))
    width, count = ensemble.hidden_directions.shape
    states = ensemble.standardised(hidden)  # as they will be read, by mean and spread in the type of the buffers
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        directions = torch.pca_lowrank(states, q=min(count, *states.shape), niter=4)[2]
    ensemble.hidden_directions.zero_()
    ensemble.hidden_directions[:, : directions.shape[1]] = (directions / width**0.5).to(ensemble.hidden_directions)


class HiddenRidge:
    """Ridge regression of one metric on the principal components, by eigendecomposition.

    Args:
        x: The ensemble's raw features `(rows, read size)`.
        y: The rows' scores `(rows,)`.
        fold: The fold of each row, below `FOLDS`, int `(rows,)`.
        first: Where the components begin among the features.

    Attributes:
        penalty: The best on the groups left out, of `PENALTIES`.
        out_of_fold: Out-of-fold predictions `(rows,)`.
    """

    def __init__(self, x: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, first: int):
        self._first = first
        dense = self._components(x)
        paths = [_RidgePath(dense[fold != number], y[fold != number]) for number in range(FOLDS)]
        found = np.zeros((len(PENALTIES), len(y)))
        for number, path in enumerate(paths):
            for place, penalty in enumerate(PENALTIES):
                weight, bias = path.solve(penalty)
                found[place, fold == number] = dense[fold == number] @ weight + bias
        best = int(np.argmin(((found - y) ** 2).sum(1)))
        self.penalty, self.out_of_fold = PENALTIES[best], found[best]
        self._by_fold = [path.solve(self.penalty) for path in paths]
        self._whole = _RidgePath(dense, y).solve(self.penalty)

    def _components(self, x: sparse.csr_matrix) -> np.ndarray:
        return x[:, self._first :].toarray().astype(np.float64)

    def left_out(self, number: int, x: sparse.csr_matrix) -> np.ndarray:
        """Predictions of the regression that has not seen a fold `(rows,)`, from raw features `(rows, read size)`."""
        weight, bias = self._by_fold[number]
        return self._components(x) @ weight + bias

    def write(self, ensemble: FeatureEnsemble, regressor: int, stacking_weight: float) -> None:
        """Writes the regression, weighted, to the ensemble's linear map."""
        weight, bias = self._whole
        ensemble.weight[self._first :, regressor] = torch.from_numpy(stacking_weight * weight).to(ensemble.weight)
        ensemble.bias[regressor] += stacking_weight * bias


class _RidgePath:
    """Ridge regressions of all penalties on some rows; without rows they predict 0."""

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self._mean: np.ndarray = x.mean(0) if len(y) else np.zeros(x.shape[1])
        self._start = float(y.mean()) if len(y) else 0.0
        centered = x - self._mean
        self._values, self._vectors = np.linalg.eigh(centered.T @ centered)
        self._target = self._vectors.T @ (centered.T @ (y - self._start))

    def solve(self, penalty: float) -> tuple[np.ndarray, float]:
        """Weights `(components,)` and bias of one penalty."""
        weight = self._vectors @ (self._target / (np.maximum(self._values, 0.0) + penalty))
        return weight, self._start - float(self._mean @ weight)


__all__ = ["PENALTIES", "HiddenRidge", "component_tables", "fit_components"]
