"""A model that writes numbers as text: its few codes are a distribution, and what is asked of it agrees with them."""

import itertools

import numpy as np
import pytest
import torch

from code_rlm.errors_rlm import MetricError
from code_rlm.numbers_rlm import NumberCodec, NumberFormat

FORMAT = NumberFormat.text(1, -1, 1)
VALUES = [0.0, *(s * m * 10.0**e for s, m, e in itertools.product((1, -1), range(1, 10), (-1, 0, 1)))]


@pytest.fixture(scope="module")
def text_model(make_model):
    """A tiny random model in a layout of 55 numbers."""
    return make_model(number_format=FORMAT.to_dict(), metrics=[{"name": "latency_ms", "languages": ["python"]}])


def test_when_all_numbers_are_asked_for_then_their_probabilities_sum_to_one(text_model, batch):
    found = [text_model.log_prob(batch, [v] * 3, metrics=["latency_ms"])[:, 0] for v in VALUES]
    assert np.exp(found).sum(0) == pytest.approx(np.ones(3), abs=1e-5)
    below = np.exp([f for f, v in zip(found, VALUES, strict=True) if v < 3.5]).sum(0)
    assert text_model.cdf(batch, [3.5], metrics=["latency_ms"])[:, 0] == pytest.approx(below, abs=1e-5)


def test_when_there_is_no_order_then_quantiles_come_from_draws(text_model, batch):
    with pytest.raises(MetricError, match="layout"):
        text_model.predict(batch, metrics=["latency_ms"])
    drawn = text_model.predict(batch, (0.1, 0.5, 0.9), metrics=["latency_ms"], draws=256, seed=1)
    assert drawn.draws == 256 and set(drawn.quantiles.ravel().tolist()) <= set(NumberCodec(FORMAT).decode(
        NumberCodec(FORMAT).encode(VALUES)).tolist())  # fmt: skip


def test_when_the_loss_is_taken_then_it_is_the_log_probability(text_model, batch):
    values = np.array([0.3, -20.0, 7.0])
    labels = torch.from_numpy(text_model.codec.encode(values))
    with torch.no_grad():
        loss = float(text_model(**batch, labels=labels, num_items_in_batch=1).loss)
    assert loss == pytest.approx(-text_model.log_prob(batch, values, metrics=["latency_ms"]).sum(), rel=1e-5)
