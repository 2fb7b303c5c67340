"""The cost model: positive rates that add up, and predictions beyond the rows that it was fitted to."""

import numpy as np
import pytest
import scipy.sparse as sparse
import torch

import code_rlm
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.schema import Example, to_dataset
from code_rlm.distributions_rlm import ScoreScale
from code_rlm.features_rlm import FeatureLayout
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.training.cost_model import CostModel, fit_rates
from code_rlm.training.ensemble import fit_ensemble, settings_for
from code_rlm.training.fallback import fit_fallbacks
from code_rlm.training.trees import FOLDS

METRIC = "t_bytes"


def test_when_values_are_a_sum_of_amounts_then_the_rates_are_found():
    random = np.random.default_rng(0)
    amounts = np.stack(
        [np.ones(300), *(10.0 ** random.uniform(-2, 5, (2, 300)) * (random.uniform(size=(2, 300)) < 0.7))], 1
    )
    rates = np.array([50.0, 3.0, 0.02])
    values = amounts @ rates * random.lognormal(sigma=0.05, size=300)
    found = fit_rates(amounts, np.log(values))
    assert np.allclose(found, rates, rtol=0.15)
    assert fit_rates(np.pad(amounts, ((0, 0), (0, 1))), np.log(values))[-1] == 0  # an amount that no row has
    assert not fit_rates(amounts[:0], np.zeros(0)).any()


def test_when_a_fold_is_left_out_then_its_rows_have_no_part_in_their_predictions():
    layout = FeatureLayout(cost_features=("program.iterations",), buckets=1, number_buckets=1)
    raw = np.zeros((60, layout.size))
    amounts = np.linspace(10, 1000, 60)
    raw[:, layout.first("costs")] = np.log1p(amounts)
    fold = np.arange(60) % FOLDS
    values = np.where(fold == 1, 700.0, 7.0) * amounts  # one fold is of another world
    model = CostModel(sparse.csr_matrix(raw), layout, values, fold, ScoreScale(True, (0.0, 1.0), (0.0, 1.0)))
    assert np.allclose(np.exp(model.out_of_fold[fold == 1]), 7 * amounts[fold == 1], rtol=0.1)
    again = model.left_out(1, sparse.csr_matrix(raw[fold == 1]))
    assert np.array_equal(again, model.out_of_fold[fold == 1])


@pytest.fixture(scope="module", params=[True, False], ids=["costs", "no costs"])
def fitted(request, make_model, tokenizer):
    """A fallback regressor of programs of at most 80 KB, with cost features or without."""
    random = np.random.default_rng(1)
    examples = []
    for row in range(200):
        n = int(10 ** random.uniform(1, 4))
        value = (3000 + 8.0 * n) * random.lognormal(sigma=0.05)
        examples.append(Example(f"x = [0] * {n}\n", "python", [METRIC], [value], group=f"g{row}", source="small"))
    source = Source.from_dataset("small", to_dataset(examples), tokenizer)
    registry = [{"name": METRIC, "unit": "bytes", "languages": ["python"]}]
    model = make_model(max_input_tokens=128, metrics=registry)
    sizes = {"buckets": 128, "number_buckets": 8, "trees": 20, "cost_features": request.param}
    model.add_ensemble(settings_for(tokenizer, **sizes))
    mixture = Mixture([source], [1.0], tokenizer, 128, 2048, 1, 0)
    fit_ensemble(model, [source], [], mixture)
    fit_fallbacks(model, [METRIC], [source], [], mixture)
    return model.eval(), request.param


def predicted(model, processor, n):
    features = processor({"text": f"x = [0] * {n}\n", "language": "python"}, [METRIC])["features"]
    score = model.ensemble.fallback_scores(features)[0, 0].double().numpy()
    return float(model.config.fitted.familiarity.pools[METRIC].scale.values_at(score))


def test_when_a_program_is_ten_thousand_times_as_large_then_only_a_cost_model_follows(fitted, tokenizer):
    model, has_costs = fitted
    processor = RLMProcessor(tokenizer, model.config)
    ratio = predicted(model, processor, 100_000_000) / 8e8
    assert (0.4 < ratio < 2.5) == has_costs, ratio
    assert bool(model.ensemble.fallback_line.any()) == has_costs


def test_when_the_checkpoint_is_saved_then_rates_come_back_and_more_never_costs_less(fitted, tokenizer, tmp_path):
    model, has_costs = fitted
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path)
    again, processor = code_rlm.load(tmp_path)
    assert torch.equal(again.ensemble.fallback_rates, model.ensemble.fallback_rates)
    assert again.config.ensemble_config() == model.config.ensemble_config()
    if has_costs:
        assert (again.ensemble.fallback_rates >= 0).all()
        values = [predicted(again, processor, 10**power) for power in range(5, 9)]
        assert values == sorted(values)
