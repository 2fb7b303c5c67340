"""Regressors that no text reaches are dropped, and answers stay."""

import pytest
import torch

import code_rlm
from code_rlm.errors_rlm import CheckpointError
from code_rlm.hub.compact import compact, main
from code_rlm.loading import DEFAULT_CHECKPOINT

BLOCK = {"text": "add rax, 1\nimul rcx, rax\n", "language": "x86asm"}


@pytest.fixture(scope="module")
def shipped():
    return code_rlm.load(DEFAULT_CHECKPOINT)


def test_when_a_language_has_a_regressor_for_every_row_then_it_takes_the_place_of_the_first(shipped):
    model, processor = shipped
    familiarity = model.config.fitted.familiarity
    settings = model.ensemble.settings
    # The weights that ship are compact: a metric gets a second regressor for its language.
    wide = settings.changed(domains={**settings.domains, "cycles": ("x86asm",)}, mlps=(), residual_scales=())
    model.add_ensemble(wide)
    assert {familiarity.references[name].languages for name in familiarity.metrics["cycles"]} == {("x86asm",)}
    before = model.ensemble
    settings = before.settings
    number = settings.regressors.index(("cycles", "x86asm"))
    before.weight.data[:, number] = torch.randn(len(before.weight), generator=torch.Generator().manual_seed(0)) * 1e-3
    before.bias.data[number] = 0.5
    read = processor(BLOCK, ["cycles"])["features"]
    column = settings.metrics.index("cycles")
    expected = before.scores(read)[0, column]
    dropped = compact(model)
    after = model.ensemble.settings
    assert "cycles" in dropped and len(after.regressors) == len(settings.regressors) - len(dropped)
    assert ("cycles", "x86asm") not in after.regressors
    read = type(processor)(processor.tokenizer, model.config)(BLOCK, ["cycles"])["features"]
    assert torch.allclose(model.ensemble.scores(read)[0, column], expected, atol=1e-5)
    assert after.residual_scales[column] == settings.residual_scales[number]


def test_when_there_is_nothing_to_compact_then_the_error_says_so(make_model, tokenizer, tmp_path, capsys):
    model = make_model()
    with pytest.raises(CheckpointError, match="no feature ensemble"):
        compact(model)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    (tmp_path / "there").mkdir()
    assert main([str(tmp_path / "base"), "--out", str(tmp_path / "there")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([str(tmp_path / "base"), "--out", str(tmp_path / "new")]) == 2
    assert "no feature ensemble" in capsys.readouterr().err and not (tmp_path / "new").exists()
