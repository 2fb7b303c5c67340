"""A base learner that extrapolates: a sum of amounts of work or memory, each at a rate of its own.

    log value = log(sum_k exp(theta_k) a_k)

The amounts a_k are the cost features (`FeatureLayout.cost_features`): multiply-adds by kind of operator, bytes by kind of
container, a constant for each language. Rates are positive, so more of anything never costs less. Trees end at the largest
training row, and a regression on logarithms multiplies what should be added. This goes on along the sum.

Source: rates are fitted by L-BFGS to a Huber loss of the logarithm's errors (Huber 1964, Annals of Mathematical Statistics 35),
with a normal prior on their logarithms, so that no kind that the training rows hardly have gets a rate of 0.
"""

import numpy as np
import scipy.sparse as sparse
from scipy.optimize import minimize

from code_rlm.distributions_rlm import ScoreScale
from code_rlm.ensemble_rlm import FeatureEnsemble
from code_rlm.features_rlm import FeatureLayout
from code_rlm.training.trees import FOLDS

ERROR_SCALE = 0.25  # of the loss: a factor of 1.28
HUBER_LIMIT = 4.0  # in error scales, from where on the loss is linear
PRIOR_DEVIATION = 1.5  # of a rate's logarithm
_PRIOR_LEVEL = 0.05  # quantile of value / amount that a rate is expected at
_ITERATIONS = 300
_LEAST_SUM = 1e-30  # of the metric: a text without any amount has a logarithm, too


class CostModel:
    """The cost model of one metric, and for each fold the one that has not seen its groups.

    Args:
        raw: The ensemble's raw features `(rows, size)`.
        layout: Of these features.
        values: The metric `(rows,)`, all above 0.
        fold: The fold of each row, below `FOLDS`, int `(rows,)`.
        scale: Of the metric's scores, of logarithms and linear (`ScoreScale.linear`).

    Attributes:
        out_of_fold: Out-of-fold predictions as scores `(rows,)`.
        rates: Fitted to all rows, in the metric's unit per unit of each amount, `(amounts,)`.
    """

    def __init__(
        self, raw: sparse.csr_matrix, layout: FeatureLayout, values: np.ndarray, fold: np.ndarray, scale: ScoreScale
    ):
        self.layout, self.scale = layout, scale
        amounts = cost_amounts(raw, layout)
        logarithms = np.log(values)
        self._by_fold = [fit_rates(amounts[fold != number], logarithms[fold != number]) for number in range(FOLDS)]
        self.out_of_fold = np.zeros(len(values))
        for number in range(FOLDS):
            own = np.flatnonzero(fold == number)
            self.out_of_fold[own] = self.left_out(number, raw[own])
        self.rates = fit_rates(amounts, logarithms)

    def left_out(self, number: int, raw: sparse.csr_matrix) -> np.ndarray:
        """Returns scores `(rows,)` of raw features by the rates that have not seen a fold."""
        return self.scale.score(np.maximum(cost_amounts(raw, self.layout) @ self._by_fold[number], _LEAST_SUM))

    def write(self, ensemble: FeatureEnsemble, regressor: int, weight: float) -> None:
        """Writes the rates, weighted, into the ensemble's buffers for a fallback regressor, which is named by its number."""
        metric, _ = ensemble.settings.regressors[regressor]
        row = ensemble.settings.fallbacks.index(metric)
        score_per_nat = (self.scale.scores[-1] - self.scale.scores[0]) / (self.scale.values[-1] - self.scale.values[0])
        offset = self.scale.scores[0] - score_per_nat * self.scale.values[0]
        ensemble.fallback_rates[row] = ensemble.fallback_rates.new_tensor(self.rates)
        ensemble.fallback_line[row] = ensemble.fallback_line.new_tensor([weight * score_per_nat, weight * offset])


def cost_amounts(raw: sparse.csr_matrix, layout: FeatureLayout) -> np.ndarray:
    """Returns the amounts behind the cost features of raw features `(rows, size)`, float64 `(rows, amounts)`."""
    first = layout.first("costs")
    return np.expm1(raw[:, first : first + layout.parts["costs"]].toarray().astype(np.float64))


def fit_rates(amounts: np.ndarray, logarithms: np.ndarray) -> np.ndarray:
    """Returns the rate of each amount, float64 `(amounts,)`; 0 for an amount that no row has, and all 0 without rows.

    Args:
        amounts: `(rows, amounts)`, at least 0.
        logarithms: Natural logarithms of the values `(rows,)`.
    """
    present = np.flatnonzero(amounts.any(0))
    rates = np.zeros(amounts.shape[1])
    if not len(present):
        return rates
    own = amounts[:, present]
    expected = np.array([_expected_rate(column, logarithms) for column in own.T])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        shares = own * np.exp(theta)
        total = np.maximum(shares.sum(1), _LEAST_SUM)
        errors = (np.log(total) - logarithms) / ERROR_SCALE
        slopes = np.clip(errors, -HUBER_LIMIT, HUBER_LIMIT)
        deviations = (theta - expected) / PRIOR_DEVIATION
        value = (slopes * errors - 0.5 * slopes**2).sum() + 0.5 * (deviations**2).sum()
        gradient = (slopes / ERROR_SCALE / total) @ shares + deviations / PRIOR_DEVIATION
        return float(value), gradient

    found = minimize(loss, expected, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    rates[present] = np.exp(found.x)
    return rates


def _expected_rate(amounts: np.ndarray, logarithms: np.ndarray) -> float:
    """Logarithm of a rate at which an amount alone rarely costs more than the whole."""
    some = amounts > 0
    return float(np.quantile(logarithms[some] - np.log(amounts[some]), _PRIOR_LEVEL))


__all__ = ["CostModel", "cost_amounts", "fit_rates"]
