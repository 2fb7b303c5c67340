"""How large the numbers of a text are, told to the encoder."""

import pytest
import torch

from code_rlm import CheckpointError
from code_rlm.inputs_rlm import tokenize
from code_rlm.loading import load
from code_rlm.magnitudes_rlm import KNOTS_PER_DECADE, MagnitudeEmbedding, read_numbers
from code_rlm.training.features import encoder_digest
from code_rlm.training.lexical import digit_tokens
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, TrainOptions


def ids_of(tokenizer, text):
    return torch.tensor(tokenize(tokenizer, [text]))


@pytest.fixture
def embedding(tokenizer):
    made = MagnitudeEmbedding(digit_tokens(tokenizer), 3)
    # What is added is then the size itself, in decades.
    made.weight.data = torch.arange(len(made.weight)).float()[:, None].expand(-1, 3) / KNOTS_PER_DECADE
    return made


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    for each in (make_model(), tokenizer):
        each.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def built(folder, tokenizer, **options):
    return build_model(TrainOptions(data=[{}], max_objectives=3, init=folder, **options), tokenizer, [])


def test_when_digits_follow_each_other_then_they_are_one_number(tokenizer):
    ids = ids_of(tokenizer, "x = 305 + y[7]")
    digit, begins, number = read_numbers(ids, torch.ones_like(ids, dtype=torch.bool), digit_tokens(tokenizer))
    assert digit.sum() == 4 and begins.sum() == 2
    assert number[begins].tolist() == [305.0, 7.0] and not number[~begins].any()


def test_when_a_token_is_a_digit_then_the_size_of_its_number_is_added(embedding, tokenizer):
    ids = ids_of(tokenizer, "x = 9999 + y[99]\nz = 0")
    digit, *_ = read_numbers(ids, torch.ones_like(ids, dtype=torch.bool), embedding.digit_tokens)
    added = embedding(ids)
    assert added.shape == (*ids.shape, 3) and not added[~digit].any()
    assert added[digit][:, 0].tolist() == pytest.approx([4, 4, 4, 4, 2, 2, 0])


def test_when_a_number_lies_between_knots_or_beyond_then_it_is_interpolated_or_the_last(embedding, tokenizer):
    (size,) = embedding(ids_of(tokenizer, "149")).amax((1, 2)).tolist()
    assert size == pytest.approx(2.1761, abs=1e-3)
    (most,) = embedding(ids_of(tokenizer, "9" * 40)).amax((1, 2)).tolist()
    assert most == pytest.approx(10.0)


def test_when_magnitudes_are_added_then_answers_change_only_with_training(folder, tokenizer):
    plain, model = built(folder, tokenizer), built(folder, tokenizer, magnitudes=True)
    ids = ids_of(tokenizer, "x = [0] * 4000")
    assert torch.equal(plain.encode_memory(ids), model.encode_memory(ids))
    model.encode_memory(ids).square().sum().backward()
    assert model.magnitudes.weight.grad.abs().sum() > 0
    before = encoder_digest(model)
    torch.nn.init.normal_(model.magnitudes.weight)
    assert not torch.allclose(plain.encode_memory(ids), model.encode_memory(ids), atol=1e-3)
    assert encoder_digest(model) not in (before, encoder_digest(plain))


def test_when_a_checkpoint_is_saved_then_magnitudes_come_back(folder, tokenizer, tmp_path):
    model = built(folder, tokenizer, magnitudes=True)
    torch.nn.init.normal_(model.magnitudes.weight)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "wide")
    again, _ = load(str(tmp_path / "wide"))
    ids = ids_of(tokenizer, "x = 17")
    assert torch.equal(again.encode_memory(ids), model.eval().encode_memory(ids))
    assert torch.equal(built(str(tmp_path / "wide"), tokenizer).magnitudes.weight, model.magnitudes.weight)


def test_when_the_encoder_is_frozen_then_so_are_its_magnitudes(folder, tokenizer):
    model = built(folder, tokenizer, magnitudes=True, freeze_encoder=True).train()
    assert not model.magnitudes.weight.requires_grad
    model.encoder_requires_grad_(True)
    assert model.magnitudes.weight.requires_grad


def test_when_magnitudes_cannot_be_then_the_error_says_why(folder, tokenizer, make_model):
    with pytest.raises(TrainError, match=r"which an adapter of .* would not hold"):
        built(folder, tokenizer, magnitudes=True, lora={})
    with pytest.raises(CheckpointError, match="10 different token ids"):
        make_model(magnitude_digits=[1, 2, 3])
