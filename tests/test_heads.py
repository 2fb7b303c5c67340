"""A linear head trained by squared error in the decoder's place: the paper's baseline."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy import log_of

import code_rlm
from code_rlm.data.external import generic
from code_rlm.data.splits import split_dataset
from code_rlm.evaluation.predictions import predict_rows
from code_rlm.train import train
from code_rlm.training.options import TrainError, TrainOptions, make_options


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """A table whose texts are all of one length, so that every batch has numbers of all sizes."""
    path = tmp_path_factory.mktemp("programs") / "programs.csv"
    rows = [f"x = [{i}],{3 * (i // 10) + i % 10 / 10},{i}" for i in range(100, 400)]
    path.write_text("\n".join(["text,latency_ms,cycles", *rows]))
    return path


@pytest.fixture(scope="module")
def options(toy, programs):
    """Makes options of a run on the first number of that table."""
    given = yaml.safe_load((toy / "toy.yaml").read_text())
    source = {"file": str(programs), "target_columns": ["latency_ms"], "language": "python"}
    given |= {
        "data": [source],
        "default_metrics": {},
        "eval_every": 40,
        "save_every": 40,
        "steps": 40,
        "learning_rate": 0.02,
    }

    def make(out: Path, **changes: Any) -> TrainOptions:
        return make_options(**copy.deepcopy({**given, "out": str(out), **changes}))

    return make


def training_rows(programs: Path) -> Any:
    rows = generic(programs, target_columns=["latency_ms"], language="python")
    return split_dataset(rows, seed=0)["train"]


@pytest.fixture(scope="module")
def regressed(options, tmp_path_factory) -> Path:
    """The folder of a run of the normalised head."""
    out = tmp_path_factory.mktemp("regressed") / "run"
    train(options(out, head="normalised_mse", score="spearman"))
    return out


def test_when_a_head_is_trained_then_its_error_falls_and_the_decoder_stays(regressed):
    losses = [entry["loss"] for entry in log_of(regressed) if "loss" in entry]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    last = log_of(regressed)[-1]
    assert last["spearman"]["programs.csv"]["latency_ms"] > 0.5
    model, _ = code_rlm.load(regressed / "final")
    before = {n for n, p in model.decoder.named_parameters() if "norm" in n and not torch.equal(p, torch.ones_like(p))}
    assert before == set()


def test_when_targets_are_normalised_then_the_scale_is_that_of_the_training_rows(regressed, programs):
    model, processor = code_rlm.load(regressed / "final")
    rows = training_rows(programs)
    values = np.array([v[0] for v in rows["values"]])
    assert model.config.regression_scale == pytest.approx([values.mean(), values.std()])
    found = predict_rows(model, processor, rows, "latency_ms")
    assert found.quantiles == {} and found.log_probs is None
    assert np.mean((found.median - values) ** 2) < 0.8 * values.var()  # in milliseconds again


def test_when_it_is_asked_then_it_answers_with_a_point(regressed):
    (answer,) = code_rlm.pipeline(regressed / "final")("x = [321]", language="python")
    assert np.isfinite(answer["value"]) and answer["low"] is answer["high"] is answer["level"] is None


def test_when_the_loss_is_computed_then_it_is_the_squared_error_in_units_of_the_scale(make_model, batch):
    model = make_model()
    model.add_regression_head(5.0, 2.0)
    torch.nn.init.normal_(model.regression_head.weight)
    targets = torch.tensor([4.0, 9.0, 5.5], dtype=torch.float64)
    labels = torch.tensor([[3, 4, 1], [3, -100, -100], [-100, -100, -100]])
    with torch.no_grad():
        found = model(**batch, labels=labels, targets=targets)
        summed = model(**batch, labels=labels, targets=targets, num_items_in_batch=1)
    errors = ((model.regress(batch) - targets.numpy()) / 2.0) ** 2
    assert float(found.loss) == pytest.approx((3 * errors[0] + errors[1]) / 4, rel=1e-5)
    assert float(summed.loss) == pytest.approx(3 * errors[0] + errors[1], rel=1e-5)


def test_when_a_head_is_tuned_further_then_it_is_kept_until_the_decoder_is_asked_for(regressed, options, tmp_path):
    start = {"init": str(regressed / "final"), "tokenizer": None, "model": {}, "steps": 1}
    kept, _ = code_rlm.load(train(options(tmp_path / "kept", **start)))
    assert kept.config.regression_scale == code_rlm.load(regressed / "final")[0].config.regression_scale
    dropped, _ = code_rlm.load(train(options(tmp_path / "dropped", **start, head="decoder")))
    assert dropped.regression_head is None and not dropped.config.regression_head
    assert "regression_head.weight" not in dropped.state_dict()


def test_when_the_encoder_is_frozen_then_the_head_learns_from_kept_features(options, tmp_path):
    frozen = {"freeze_encoder": True, "feature_cache": str(tmp_path / "features"), "steps": 3}
    train(options(tmp_path / "run", head="mse", **frozen))
    assert json.loads((tmp_path / "run" / "final" / "config.json").read_text())["regression_scale"] == [0.0, 1.0]
    assert [entry["loss"] for entry in log_of(tmp_path / "run") if "loss" in entry]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "answers one metric, and the data has cycles, latency_ms"),
        ({"digit_loss": 1.0}, "digit_loss go with the decoder alone"),
        ({"ensemble": {}}, "ensemble go with the decoder alone"),
    ],
    ids=["two metrics", "digit loss", "ensemble"],
)
def test_when_a_head_has_no_use_for_an_option_then_it_is_refused(options, tmp_path, changes, message):
    given = options(tmp_path / "run", head="mse", **changes)
    if not changes:
        given.data.sources[0]["target_columns"] = ["latency_ms", "cycles"]
    with pytest.raises(TrainError, match=message):
        train(given)


def test_when_runs_failed_then_a_head_asks_for_them_to_be_left_out(options, tmp_path):
    path = tmp_path / "failed.csv"
    path.write_text(
        "text,latency_ms,outcome\n"
        + "".join(f"x={i},{'' if i % 5 == 0 else i},{'timeout' if i % 5 == 0 else 'ok'}\n" for i in range(60))
    )
    source = {"file": str(path), "target_columns": ["latency_ms"], "outcome_column": "outcome", "language": "python"}
    with pytest.raises(TrainError, match=r"\d+ of \d+ rows have another outcome\. Set failures: drop"):
        train(options(tmp_path / "run", head="mse", data=[source]))
    train(options(tmp_path / "run", head="mse", data=[{**source, "failures": "drop"}], steps=1))
