"""Checkpoints with weights rounded on disk."""

import pytest
import tiny
import torch
from safetensors.torch import load_file

import code_rlm
from code_rlm.hub.shrink import main, shrink


def test_when_weights_are_rounded_then_they_take_half_and_load_in_float32(make_model, tokenizer, batch, tmp_path):
    base = tiny.save(make_model, tokenizer, tmp_path / "base")
    (base / "state").mkdir()
    before = (base / "model.safetensors").stat().st_size
    after = shrink(base, tmp_path / "small")
    assert 0.45 * before < after < 0.6 * before
    assert {t.dtype for t in load_file(tmp_path / "small" / "model.safetensors").values()} == {torch.bfloat16}
    assert not (tmp_path / "small" / "state").exists() and not list((tmp_path / "small").glob("*.py"))
    (whole, _), (rounded, _) = code_rlm.load(base), code_rlm.load(tmp_path / "small")
    assert {p.dtype for p in rounded.parameters()} == {torch.float32}
    for (name, a), b in zip(whole.named_parameters(), rounded.parameters(), strict=True):
        assert torch.equal(a.to(torch.bfloat16).float(), b), name


def test_when_metrics_are_left_out_then_the_copy_knows_the_others_alone(make_model, tokenizer, tmp_path, capsys):
    base = tiny.save(make_model, tokenizer, tmp_path / "base")
    known = code_rlm.load(base)[0].config.metric_names()
    gone, defaults = known[0], code_rlm.load(base)[0].config.default_metrics
    assert any(gone in names for names in defaults.values())
    shrink(base, tmp_path / "small", [gone])
    config = code_rlm.load(tmp_path / "small")[0].config
    assert config.metric_names() == known[1:] and not any(gone in names for names in config.default_metrics.values())
    assert main([str(base), "--out", str(tmp_path / "none"), "--without", "nothing_ms"]) == 2
    assert f"no metric nothing_ms; it has {gone}" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_when_there_is_nothing_to_round_then_the_error_says_so(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has no model.safetensors" in capsys.readouterr().err
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "there").mkdir()
    assert main([str(tmp_path), "--out", str(tmp_path / "there")]) == 2
    with pytest.raises(Exception, match=r"header|deserializ"):
        shrink(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
