"""LoRA: every adapter is trained, and an adapter's folder gives the same answers however it is loaded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from peft import AutoPeftModelForSeq2SeqLM, PeftModel
from safetensors.torch import load_file
from toy import log_of
from transformers import AutoModelForSeq2SeqLM, BertConfig, T5Config

import code_rlm
from code_rlm import CheckpointError, RLMConfig, RLMForConditionalGeneration
from code_rlm.cli import main as cli
from code_rlm.distributions_rlm import Calibration
from code_rlm.ensemble_rlm import changed_slices, composed
from code_rlm.evaluation.calibration import write_calibration
from code_rlm.train import train
from code_rlm.training.adapters import add_lora, attention_layers, base_of, save_adapter
from code_rlm.training.ensemble import settings_for
from code_rlm.training.options import LoraOptions, TrainError, make_options

CODE = "x = [3] * 1000\n"


@pytest.fixture(scope="module")
def base(make_model, tokenizer, tmp_path_factory) -> Path:
    return tiny.save(make_model, tokenizer, tmp_path_factory.mktemp("base"))


def lora_run(toy: Path, base: Path, out: Path, **changes) -> Path:
    source = {
        "file": str(toy / "toy.parquet"),
        "text_column": "code",
        "target_columns": ["peak_memory_bytes", "cpu_time_ms"],
        "group_column": "problem",
        "context_columns": ["machine"],
        "language": "python",
    }
    options = {
        "out": str(out),
        "init": str(base),
        "data": [source],
        "lora": {"rank": 4},
        "steps": 4,
        "save_every": 2,
        "eval_every": 2,
        "log_every": 1,
        "max_tokens": 128,
        "max_objectives": 2,
        "batch_tokens": 1000,
        "learning_rate": 3e-2,
    }
    return train(make_options(**{**options, **changes}))


@pytest.fixture(scope="module")
def adapted(toy, base, tmp_path_factory) -> Path:
    """The folder of a LoRA run."""
    out = tmp_path_factory.mktemp("lora") / "run"
    assert lora_run(toy, base, out) == out / "final"
    return out


def logits_of(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch, labels=torch.full((3, 7), 5)).logits


@pytest.mark.parametrize("target", ["attention", "linear", ["Wqkv", "decoder.layers.0.cross_attn.q_proj"]])
def test_when_adapters_are_trained_then_every_one_has_a_gradient(make_model, batch, target):
    model = add_lora(make_model(), LoraOptions(rank=2, target=target), "base")
    adapters = {n: p for n, p in model.named_parameters() if "lora_" in n}
    assert any(".encoder." in n for n in adapters) and any(".decoder." in n for n in adapters)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        *adapters,
        *(n for n, _ in model.named_parameters() if "number_head.modules_to_save" in n),
    }
    # A LoRA starts as zero, its second factor is: after one step both factors must move.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    labels = torch.tensor(model.codec.encode([1.5, -2.25e3, 7e-4]))
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(**batch, labels=labels).loss.backward()
        optimizer.step()
    still = [n for n, p in model.named_parameters() if p.requires_grad and not p.grad.abs().max() > 0]
    assert not still


@pytest.mark.parametrize(
    "encoder",
    [
        T5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2),
        BertConfig(vocab_size=99, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16),
    ],
    ids=lambda c: c.model_type,
)
def test_when_the_encoder_is_another_then_its_attention_is_found(make_config, encoder):
    model = RLMForConditionalGeneration(RLMConfig(**{**make_config().to_dict(), "encoder": encoder}))
    layers = attention_layers(model)
    assert len([n for n in layers if n.startswith("encoder.")]) == 2 * 4  # query, key, value, output
    assert len([n for n in layers if n.startswith("decoder.")]) == 2 * 8
    add_lora(model, LoraOptions(rank=2), "base")


def test_when_the_encoder_is_frozen_then_the_decoder_alone_is_adapted(make_model):
    model = add_lora(make_model(freeze_encoder=True), LoraOptions(rank=2), "base").train()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and not any(".encoder." in n for n in trained)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ["no_such"]}, r"lora.target names \['no_such'\], which no linear layer fits; there is encoder"),
        ({"train": ["norm"]}, r"lora.train names 'norm', which fits \d+ modules"),
        ({"train": ["no_such"]}, "lora.train names 'no_such', which fits 0 modules"),
    ],
)
def test_when_names_fit_nothing_or_too_much_then_the_error_says_so(make_model, options, message):
    with pytest.raises(TrainError, match=message):
        add_lora(make_model(), LoraOptions(**{"rank": 2, **options}), "base")


def test_when_lora_has_no_checkpoint_or_unknown_keys_then_it_is_refused():
    with pytest.raises(TrainError, match="give init"):
        make_options(lora={})
    with pytest.raises(TrainError, match=r"There is no option lora\.rnk\. Did you mean lora\.rank\?"):
        make_options(lora={"rnk": 4}, init="x")
    with pytest.raises(TrainError, match=r"lora\.rank must be a whole number above 0 or nothing; got 0"):
        make_options(lora={"rank": 0}, init="x")
    with pytest.raises(TrainError, match=r"lora\.target must be attention, linear or a list of names"):
        make_options(lora={"rank": 4, "target": "attn"}, init="x")


def test_when_a_lora_run_ends_then_adapter_and_merged_model_answer_alike(adapted, base, toy, batch):
    merged, adapter = code_rlm.load(adapted / "final")[0], code_rlm.load(adapted / "adapter")[0]
    assert torch.equal(logits_of(merged, batch), logits_of(adapter, batch))
    assert (logits_of(merged, batch) - logits_of(code_rlm.load(base)[0], batch)).abs().max() > 0.01
    small, whole = (
        (adapted / f / n).stat().st_size
        for f, n in (("adapter", "adapter_model.safetensors"), ("final", "model.safetensors"))
    )
    assert small < whole / 2
    assert not (adapted / "adapter" / "state").exists() and (adapted / "step-4" / "state").exists()
    one, other = (code_rlm.pipeline(adapted / f)(CODE, metrics=["cpu_time_ms"])[0] for f in ("adapter", "final"))
    assert [one[k] for k in ("value", "low", "high", "unit")] == [other[k] for k in ("value", "low", "high", "unit")]


def test_when_an_adapter_is_predicted_with_then_the_command_finds_its_base(adapted, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    assert cli(["predict", "a.py", "--model", str(adapted / "adapter"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["metric"] == "peak_memory_bytes"


def test_when_an_adapter_is_trained_then_its_registry_travels_with_it(toy, base, tmp_path, batch):
    rows = tmp_path / "mine.csv"
    rows.write_text("text,wall_time_s\n" + "".join(f"x = {i},{i}.5\n" for i in range(40)))
    lora_run(
        toy, base, tmp_path / "run", data=[{"file": str(rows), "target_columns": ["wall_time_s"], "language": "lua"}]
    )
    model, _ = code_rlm.load(tmp_path / "run" / "adapter")
    assert model.config.metric("wall_time_s").unit == "s" and model.config.metrics_for("lua") == ["wall_time_s"]
    assert "wall_time_s" not in code_rlm.load(base)[0].config.metric_names()


def test_when_peft_loads_the_adapter_itself_then_it_answers_the_same(adapted, batch):
    model = AutoPeftModelForSeq2SeqLM.from_pretrained(adapted / "adapter")
    assert type(base_of(model)) is RLMForConditionalGeneration
    torch.testing.assert_close(logits_of(model, batch), logits_of(code_rlm.load(adapted / "final")[0], batch))


def test_when_a_lora_run_is_resumed_then_it_goes_on_bit_by_bit(toy, base, adapted, tmp_path, monkeypatch):
    out = shutil.copytree(adapted, tmp_path / "run")
    for gone in ("step-4", "final", "adapter", "best"):
        shutil.rmtree(out / gone)
    lora_run(toy, base, out)
    assert (out / "final" / "model.safetensors").read_bytes() == (adapted / "final" / "model.safetensors").read_bytes()
    assert [e["loss"] for e in log_of(out) if "loss" in e] == [e["loss"] for e in log_of(adapted) if "loss" in e]


def test_when_an_adapter_is_to_be_adapted_again_then_the_merged_model_is_asked_for(toy, adapted, tmp_path):
    with pytest.raises(TrainError, match="is a LoRA adapter itself; start from the merged model"):
        lora_run(toy, adapted / "adapter", tmp_path / "run")


def test_when_the_base_is_gone_or_changed_then_the_adapter_is_refused(adapted, base, make_model, tokenizer, tmp_path):
    moved = shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    entry = json.loads((moved / "adapter_base.json").read_text())
    (moved / "adapter_base.json").write_text(json.dumps({**entry, "base": str(tmp_path / "gone")}))
    with pytest.raises(CheckpointError, match=r"its base .*gone is not there. Put the base there"):
        code_rlm.load(moved)
    shutil.copytree(base, tmp_path / "gone")
    code_rlm.load(moved)
    tiny.save(lambda **c: make_model(seed=1, **c), tokenizer, tmp_path / "gone")
    with pytest.raises(CheckpointError, match="holds other weights than those it was trained on"):
        code_rlm.load(moved)
    # A path beside the adapter is found from anywhere.
    shutil.copytree(base, moved / "base")
    (moved / "adapter_base.json").write_text(json.dumps({**entry, "base": "base"}))
    code_rlm.load(moved)
    (moved / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError):
        code_rlm.load(moved)


def test_when_weights_of_an_adapter_are_missing_then_it_is_refused(adapted, tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(next(n for n in tensors if "lora_B" in n))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing adapter keys"):
        code_rlm.load(folder)


def test_when_the_head_is_trained_whole_then_only_that_changes_beside_the_adapters(
    make_model, tokenizer, base, tmp_path, batch
):
    model = add_lora(code_rlm.load(base)[0], LoraOptions(rank=2, train=["number_head", "embed_positions"]), str(base))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.requires_grad and "modules_to_save" in name:
                p.add_(0.5)
    (tmp_path / "a").mkdir()
    save_adapter(model, tokenizer, tmp_path / "a")
    after, before = code_rlm.load(tmp_path / "a")[0].state_dict(), code_rlm.load(base)[0].state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"number_head.weight", "decoder.embed_positions.weight"}


def test_when_the_base_has_a_lexical_path_then_the_adapter_brings_its_channels(
    toy, make_model, tokenizer, batch, tmp_path
):
    """The base knows one metric's metric, the run fits another: both folders must answer alike."""
    settings = settings_for(tokenizer, buckets=64, number_buckets=4, code_numbers=16, name_numbers=16, number_context=2)
    ensemble = dataclasses.replace(settings, metrics=("cpu_time_ms",)).to_dict()
    base = tiny.save(make_model, tokenizer, tmp_path / "base", ensemble=ensemble)
    final = lora_run(toy, base, tmp_path / "run")
    merged, adapted = code_rlm.load(final)[0], code_rlm.load(tmp_path / "run" / "adapter")[0]
    assert merged.config.ensemble["metrics"] == ["cpu_time_ms", "peak_memory_bytes"]
    assert merged.ensemble.weight.abs().sum(0).gt(0).all()
    assert torch.equal(merged.ensemble.weight, adapted.ensemble.weight)
    assert merged.config.fitted.pooling == adapted.config.fitted.pooling
    assert torch.allclose(logits_of(merged, batch), logits_of(adapted, batch), atol=1e-5)
    assert_peft_answers_alike(merged, base, tmp_path / "run" / "adapter", batch)
    names = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert not any(".ensemble." in name for name in names)
    with pytest.raises(TrainError, match="has a feature ensemble of its own with buckets 64"):
        lora_run(toy, base, tmp_path / "other", ensemble={"buckets": 128})


def assert_peft_answers_alike(merged, base, adapter, batch):
    """Every way to load an adapter gives the metrics, the ensemble and the answers of the merged model."""
    ways = [
        PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), adapter),
        AutoPeftModelForSeq2SeqLM.from_pretrained(adapter),
        AutoModelForSeq2SeqLM.from_pretrained(adapter),
    ]
    for model in map(base_of, ways):
        assert model.config.metric_names() == merged.config.metric_names()
        assert model.config.fitted == merged.config.fitted
        assert torch.equal(model.ensemble.weight, merged.ensemble.weight)
        assert torch.allclose(logits_of(model, batch), logits_of(merged, batch), atol=1e-5)


def test_when_an_adapter_is_calibrated_then_peft_brings_the_calibration(adapted, tmp_path):
    folder = shutil.copytree(adapted / "adapter", tmp_path / "adapter")
    before = AutoModelForSeq2SeqLM.from_pretrained(folder).config.fitted.calibration
    write_calibration(folder, folder, {"cpu_time_ms": Calibration((0.1, 0.9), (0.2, 0.8), rows=5)})
    after = AutoModelForSeq2SeqLM.from_pretrained(folder).config.fitted.calibration
    assert before["cpu_time_ms"] != after["cpu_time_ms"] and after["cpu_time_ms"].rows == 5


@pytest.mark.parametrize("axis", [0, 1])
def test_when_slices_of_a_tensor_are_new_then_only_they_are_kept(axis):
    base = torch.arange(12.0).view(3, 4)
    tensor = torch.cat([base, base.narrow(axis, 1, 1) + 0.5], axis).flip(axis)
    source, changed = changed_slices(tensor, base, axis)
    assert len(changed) == 1 and torch.equal(composed(source, changed, base, axis), tensor)
    source, changed = changed_slices(tensor, None, axis)
    assert torch.equal(composed(source, changed, None, axis), tensor)


def test_when_a_lora_run_is_described_then_only_what_it_trains_is_counted(toy, base, tmp_path, capsys):
    lora_run(toy, base, tmp_path / "run", dry_run=True)
    adapted = capsys.readouterr().out
    lora_run(toy, base, tmp_path / "run", dry_run=True, lora=None, max_tokens=74)
    whole = capsys.readouterr().out
    trained = [float(text.split("parameters, ")[1].split("M trained")[0]) for text in (adapted, whole)]
    assert 0 < trained[0] < 0.5 * trained[1] and "advice" not in adapted
    assert "of the inputs lose their middle; raise data.max_tokens (the model reads 160 tokens)" in whole
