"""The fitted state: what leaves config.json, where it is saved, and that no way to load a checkpoint loses it."""

import copy
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from loopback_hub import LoopbackHub
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM

import code_rlm
from code_rlm import CheckpointError
from code_rlm.configuration_rlm import FITTED_STATE_NAME, FittedState, RLMConfig
from code_rlm.distributions_rlm import Calibration, PoolingComponent, ScoreScale
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.features_rlm import FeatureLayout
from code_rlm.loading import DEFAULT_CHECKPOINT
from code_rlm.modeling_rlm import RLMForConditionalGeneration

SCALE = ScoreScale(True, (0.0, 1.0), (0.0, 1.0))
REGRESSOR = ("peak_memory_bytes", None)
STATE = FittedState(
    score_scales={"peak_memory_bytes": SCALE},
    residual_scales={REGRESSOR: 0.25},
    pooling={"peak_memory_bytes": PoolingComponent(0.2, 0.5, 1.0, rows=7, groups=3)},
    calibration={"peak_memory_bytes": Calibration((0.1, 0.5, 0.9), (0.02, 0.5, 0.97), source="held-out rows")},
)
# Loads in a process that knows neither the test nor, without remote code, the package.
FRESH = """
import json, sys
import torch
from transformers import AutoModelForSeq2SeqLM
folder, trust = sys.argv[1], sys.argv[2] == "trust"
if not trust:
    import code_rlm
model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=trust).eval()
ids = torch.arange(2, 40)[None]
quantiles = model.predict({"input_ids": ids}, metrics=["peak_memory_bytes"], calibrated=True).quantiles
print(json.dumps([model.config.fitted.to_dict(), quantiles.tolist()]))
"""

# Pushes a checkpoint, and its config alone to another repository, then loads both from there.
PUSH = """
import json, sys
import code_rlm
from transformers import AutoModelForSeq2SeqLM
model, tokenizer = code_rlm.load(sys.argv[1])
model.push_to_hub("tester/fitted")
tokenizer.push_to_hub("tester/fitted")
model.config.push_to_hub("tester/config")
states = [
    AutoModelForSeq2SeqLM.from_pretrained("tester/fitted").config.fitted,
    code_rlm.load("tester/fitted")[0].config.fitted,
    code_rlm.RLMConfig.from_pretrained("tester/config").fitted,
]
print(json.dumps([state.to_dict() for state in states]))
"""


@pytest.fixture(scope="module")
def checkpoint(make_model, tokenizer, tmp_path_factory):
    """A checkpoint with an ensemble of one metric, its pooling and its calibration."""
    ensemble = EnsembleConfig(FeatureLayout(buckets=64), metrics=("peak_memory_bytes",)).to_dict()
    return tiny.save(
        make_model, tokenizer, tmp_path_factory.mktemp("fitted") / "model", ensemble=ensemble, fitted=STATE
    )


def answers(model):
    inputs = {"input_ids": torch.arange(2, 40)[None]}
    return model.predict(inputs, metrics=["peak_memory_bytes"], calibrated=True).quantiles.tolist()


def test_when_a_model_is_saved_then_its_state_stands_beside_the_config(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["fitted"] == FITTED_STATE_NAME
    assert not {"calibration", "pooling"} & set(config) and not {"scales", "mlps"} & set(config["ensemble"])
    assert FittedState.read(checkpoint / FITTED_STATE_NAME) == STATE
    assert json.loads((checkpoint / FITTED_STATE_NAME).read_text())["schema"] == 1
    assert not [path.name for path in checkpoint.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("trust", ["trust", "package"])
def test_when_a_fresh_process_loads_it_then_state_and_answers_are_the_same(checkpoint, trust, tmp_path):
    state, quantiles = tiny.run_python(FRESH, checkpoint, trust, cwd=tmp_path, hidden=trust == "trust")
    assert FittedState.from_dict(state) == STATE
    assert quantiles == answers(code_rlm.load(checkpoint)[0])


def test_when_it_is_loaded_by_any_class_then_the_state_comes_along(checkpoint):
    loaded = [
        code_rlm.load(checkpoint)[0].config,
        RLMConfig.from_pretrained(checkpoint),
        AutoConfig.from_pretrained(checkpoint),
        AutoModelForSeq2SeqLM.from_pretrained(checkpoint).config,
        RLMConfig.from_pretrained(checkpoint / "config.json"),
    ]
    for config in loaded:
        assert config.fitted == STATE and config.ensemble_config().scale_of("peak_memory_bytes") == SCALE
        assert RLMConfig.from_dict(config.to_dict()).fitted == STATE


@pytest.mark.slow
def test_when_it_is_on_a_hub_then_the_state_is_pushed_and_read_with_the_weights(checkpoint, tmp_path):
    with LoopbackHub(tmp_path / "hub") as hub:
        env = hub.env(tmp_path / "home")
        pushed = tiny.run_python(PUSH, checkpoint, cwd=tmp_path, env=env)
        assert [FittedState.from_dict(state) for state in pushed] == [STATE] * 3
        state, quantiles = tiny.run_python(FRESH, "tester/fitted", "trust", cwd=tmp_path, env=env, hidden=True)
        assert FittedState.from_dict(state) == STATE
        assert quantiles == answers(code_rlm.load(checkpoint)[0])


def test_when_a_copy_of_the_config_changes_then_the_original_does_not(checkpoint):
    config = RLMConfig.from_pretrained(checkpoint)
    for other in (copy.deepcopy(config), RLMConfig(**{**config.to_dict(), "fitted": config.fitted})):
        other.fitted.pooling.clear()
        other.set_ensemble(None)
        assert other.fitted.score_scales == {} and config.fitted == STATE and config.ensemble is not None


def test_when_a_state_is_empty_then_there_is_no_file_and_an_old_one_goes(checkpoint, make_config, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    make_config().save_pretrained(folder)
    assert not (folder / FITTED_STATE_NAME).exists()
    assert RLMConfig.from_pretrained(folder).fitted == FittedState()


def test_when_the_states_file_is_missing_or_damaged_then_the_error_names_it(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    state = folder / FITTED_STATE_NAME
    for text, message in (
        ("{", "not JSON of a fitted state"),
        ('{"schema": 2}', "has schema 2; this version reads schema 1"),
        ('{"voices": {}}', "has the keys"),
        ('{"residual_scales": [{"metric": "a"}]}', "cannot be read"),
        ('{"calibration": {"speed": {"levels": [0.5], "model_levels": [0.5]}}}', "calibration names"),
        ('{"score_scales": {"speed": {"logarithm": true, "values": [0, 1], "scores": [0, 1]}}}', "no regressor"),
    ):
        state.write_text(text)
        with pytest.raises(code_rlm.RLMError, match=message):
            code_rlm.load(folder)
    state.unlink()
    for load in (code_rlm.load, AutoConfig.from_pretrained, RLMConfig.from_pretrained):
        with pytest.raises(CheckpointError, match=r"lacks fitted_state\.json, which its config.json names"):
            load(folder)


def test_when_a_config_of_an_earlier_release_holds_the_state_then_it_is_read(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "old")
    (folder / FITTED_STATE_NAME).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["fitted"]
    state = STATE.to_dict()
    config["experts"] = {"peak_memory_bytes": {"spread": 0.2, "own_power": 0.5, "power": 1.0, "rows": 7, "groups": 3}}
    config["calibration"] = state["calibration"]
    ensemble = config.pop("ensemble")
    layout = ensemble.pop("features")
    config["lexical"] = {
        **layout, **ensemble, "scales": [SCALE.to_dict()], "perceptrons": [], "errors": [0.25], "vocabulary": 0
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = code_rlm.load(folder)
    assert model.config.fitted == STATE
    assert answers(model) == answers(code_rlm.load(checkpoint)[0])


def test_when_the_shipped_checkpoint_is_saved_then_its_config_is_small_and_nothing_is_lost(tmp_path):
    config = RLMConfig.from_pretrained(DEFAULT_CHECKPOINT)
    config.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").stat().st_size < 20_000
    again = RLMConfig.from_pretrained(tmp_path)
    assert again.fitted == config.fitted and again.ensemble_config() == config.ensemble_config()
    assert again.fitted.calibration and again.fitted.pooling and again.fitted.score_scales and again.fitted.mlps
    assert np.isfinite(list(again.fitted.residual_scales.values())).all()


def test_when_config_and_weights_are_of_release_0_1_then_they_load_whole(tmp_path):
    """The config of release 0.1's weights is kept in tests/data; the weights here have its names and shapes."""
    for file in DEFAULT_CHECKPOINT.iterdir():
        if file.name.startswith("tokenizer"):
            (tmp_path / file.name).symlink_to(file)
    packed = Path(__file__).parent / "data" / "config_0.1.json.gz"
    (tmp_path / "config.json").write_bytes(gzip.decompress(packed.read_bytes()))
    model = RLMForConditionalGeneration(RLMConfig.from_pretrained(tmp_path))
    earlier = {"ensemble.score_embedding": "lexical.channel_embedding", "ensemble.mlps.": "lexical.perceptrons."}
    earlier |= {"ensemble.": "lexical.", "number_embeddings.": "magnitudes."}
    weights = {}
    for name, tensor in model.state_dict().items():
        own = next((now for now in earlier if name.startswith(now)), "")
        weights[earlier.get(own, "") + name.removeprefix(own)] = tensor.clone()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = code_rlm.load(tmp_path)[0]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    fitted, metrics = loaded.config.fitted, loaded.config.ensemble_config().metrics
    assert len(metrics) == len(fitted.score_scales) == 27 and "cycles" in metrics
    assert fitted.pooling and fitted.calibration and fitted.mlps
    # What was fitted then and not since is in the weights that ship to the last digit.
    shipped = RLMConfig.from_pretrained(DEFAULT_CHECKPOINT).fitted
    for part in ("pooling", "calibration", "score_scales"):
        now = getattr(shipped, part)
        assert {name: now.get(name) for name in getattr(fitted, part)} == getattr(fitted, part), part
