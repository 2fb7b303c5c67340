"""The mean of checkpoints."""

import pytest
import torch
from tiny import save

from code_rlm.averaging import average, main
from code_rlm.loading import load


@pytest.fixture
def checkpoints(make_model, tokenizer, tmp_path):
    first, second = (save(make_model, tokenizer, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    return str(first), str(second)


def test_when_two_checkpoints_are_averaged_then_every_weight_is_their_mean(checkpoints, tmp_path):
    first, second = (load(c)[0].state_dict() for c in checkpoints)
    assert not torch.equal(first["number_head.weight"], second["number_head.weight"])
    assert main([*checkpoints, "--out", str(tmp_path / "mean")]) == 0
    for name, weight in load(tmp_path / "mean")[0].state_dict().items():
        assert torch.equal(weight, ((first[name].double() + second[name].double()) / 2).float())


def test_when_checkpoints_differ_in_shape_then_nothing_is_written(checkpoints, make_model, tokenizer, tmp_path, capsys):
    wide = save(make_model, tokenizer, tmp_path / "wide", decoder_intermediate_size=48)
    assert main([checkpoints[0], str(wide), "--out", str(tmp_path / "mean")]) == 2
    assert "only like models" in capsys.readouterr().err
    assert not (tmp_path / "mean").exists()


def test_when_there_is_one_checkpoint_then_the_error_says_how_many_are_needed(checkpoints, tmp_path):
    with pytest.raises(ValueError, match="at least two"):
        average([checkpoints[0]], str(tmp_path / "mean"))
