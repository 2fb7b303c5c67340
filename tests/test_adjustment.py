"""Adjusted distributions: novelty mixtures and lower bounds."""

import numpy as np
import pytest

from code_rlm.distributions_rlm import Adjustment, Distribution
from code_rlm.errors_rlm import CheckpointError

EDGES = np.linspace(0.0, 10.0, 11)


def uniform(adjustment=None):
    """The uniform distribution over 0 to 10, in ten pieces."""
    return Distribution(EDGES[:-1].copy(), EDGES[1:].copy(), np.full(10, 0.1), adjustment=adjustment)


def test_when_nothing_more_is_known_then_quantiles_are_those_of_the_pieces():
    assert uniform().quantiles([0.05, 0.5, 0.95]) == pytest.approx([0.5, 5.0, 9.5])
    assert uniform(Adjustment()).quantiles([0.05, 0.5, 0.95]) == pytest.approx([0.5, 5.0, 9.5])


def test_when_an_input_is_novel_then_the_distribution_is_a_mixture():
    adjusted = uniform(Adjustment(0.5, (100.0, 1000.0)))
    assert adjusted.cdf(np.array([10.0, 100.0, 1000.0]), "right") == pytest.approx([0.5, 0.75, 1.0])
    assert adjusted.quantiles([0.25, 0.6, 0.9]) == pytest.approx([5.0, 100.0, 1000.0])


@pytest.mark.parametrize("bound", [0.0, 2.5, 5.0, 9.9])
def test_when_there_is_a_lower_bound_then_nothing_lies_below_it_and_the_rest_stays(bound):
    adjusted = uniform(Adjustment(lower_bound=bound, bound_ratios=(1.0, 1.2)))
    assert (adjusted.quantiles([0.001, 0.3, 0.7, 0.999]) >= bound).all()
    beyond = np.array([x for x in (9.95, 9.99) if x > 1.2 * bound])
    assert adjusted.cdf(beyond, "right") == pytest.approx(uniform().cdf(beyond, "right"))
    assert adjusted.cdf(np.array([1e9]), "right") == pytest.approx(1.0)


def test_when_the_bound_lies_above_all_mass_then_the_answer_is_its_ratios():
    adjusted = uniform(Adjustment(lower_bound=64.0, bound_ratios=(1.0, 1.1, 1.5)))
    assert adjusted.quantiles([0.1, 0.5, 0.9]) == pytest.approx([64.0, 70.4, 96.0])


def test_when_distributions_are_adjusted_then_the_cdf_inverts_the_quantiles():
    adjusted = uniform(Adjustment(0.3, (0.5, 20.0, 30.0), lower_bound=3.3, bound_ratios=(1.0, 1.5)))
    levels = np.linspace(0.01, 0.99, 50)
    values = adjusted.quantiles(levels)
    assert (np.diff(values) >= 0).all()
    assert (adjusted.cdf(values, "right") >= levels - 1e-9).all()
    assert (adjusted.cdf(values, "left") <= levels + 1e-9).all()


def test_when_an_adjustment_is_wrong_then_the_error_says_so():
    with pytest.raises(CheckpointError, match="novelty_weight"):
        Adjustment(1.5, (1.0,))
    with pytest.raises(CheckpointError, match="bound_ratios"):
        Adjustment(lower_bound=1.0, bound_ratios=(0.5,))
