"""The losses beside cross-entropy, the optimisers and the running average of weights."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from toy import log_of, options_of

import code_rlm
from code_rlm.generation_rlm import NumberGrammar
from code_rlm.numbers_rlm import NumberCodec, NumberFormat
from code_rlm.train import train
from code_rlm.training.losses import Objective, Ordinals, digit_loss, masked_token_loss, ranking_loss
from code_rlm.training.models import check_masked_tokens
from code_rlm.training.optimizers import WeightAverage, build_optimizers, schedule
from code_rlm.training.options import TrainError, make_options


def certain(codec: NumberCodec, codes: torch.Tensor, sharp: float = 30.0) -> torch.Tensor:
    """Logits of a model that is sure of codes `(batch, places)`."""
    return sharp * torch.nn.functional.one_hot(codes, codec.vocab_size).float()


def tools(format: NumberFormat | None = None):
    codec = NumberCodec(format)
    return codec, NumberGrammar(codec), Ordinals(codec)


def test_when_a_digit_is_wrong_then_the_loss_is_how_far_it_is_off():
    codec, grammar, ordinals = tools()
    labels = torch.from_numpy(codec.encode([1.234e3]))
    for other, distance in ((1.234e3, 0), (1.235e3, 1), (1.134e3, 1), (1.239e3, 5), (1.234e5, 2), (9.234e3, 8)):
        logits = certain(codec, torch.from_numpy(codec.encode([other])))
        assert digit_loss(logits, labels, grammar, ordinals).item() == pytest.approx(distance, abs=1e-3)
    # Half the mass three digits away: Wasserstein-1 of 1.5.
    both = torch.maximum(*(certain(codec, torch.from_numpy(codec.encode([v]))) for v in (1.234e3, 1.237e3)))
    assert digit_loss(both, labels, grammar, ordinals).item() == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(
    "format", [NumberFormat(), NumberFormat.p10(4, 10), NumberFormat.ieee()], ids=lambda f: f.layout
)
def test_when_formats_differ_then_the_digit_loss_falls_to_zero_at_the_truth(format):
    codec, grammar, ordinals = tools(format)
    labels = torch.from_numpy(codec.encode([[1.5, -2.5e-3], [0.0, 7e4]])).reshape(2, -1)
    labels = torch.cat([labels, torch.full((2, 2), -100)], 1)
    logits = torch.randn(*labels.shape, codec.vocab_size, requires_grad=True)
    loss = digit_loss(logits, labels, grammar, ordinals)
    loss.backward()
    assert loss > 1 and torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
    assert digit_loss(certain(codec, labels.clamp_min(0)), labels, grammar, ordinals) < 1e-3


def test_when_an_outcome_is_the_label_then_the_digit_loss_has_nothing_to_say():
    codec, grammar, ordinals = tools()
    labels = torch.from_numpy(codec.encode([code_rlm.FAILED, math.inf, math.nan]))
    assert digit_loss(torch.randn(3, codec.length, codec.vocab_size), labels, grammar, ordinals) == 0


VALUES = [-3.2e4, -1.5, -1.4, 0.0, 2e-3, 1.5, 1.6, 9.9, 10.1, 4e6]


def test_when_predictions_are_in_order_then_the_ranking_loss_is_small_and_reversed_it_is_large():
    codec, grammar, ordinals = tools()
    labels = torch.from_numpy(codec.encode(VALUES))
    metric = torch.zeros(len(VALUES), dtype=torch.long)
    right = ranking_loss(certain(codec, labels), labels, metric, codec.length, grammar, ordinals)
    # Each pair of true neighbours differs by at least one step at the place where they part.
    assert right < math.log1p(math.exp(-1.0))
    for i, j in itertools.combinations(range(len(VALUES)), 2):
        pair = labels[[i, j]]
        good = ranking_loss(certain(codec, pair), pair, metric[:2], codec.length, grammar, ordinals).item()
        # A model that is sure of the other's answer: at the place where they part it expects the other's token.
        bad = ranking_loss(certain(codec, pair.flip(0)), pair, metric[:2], codec.length, grammar, ordinals).item()
        assert good < math.log(2) < bad, (VALUES[i], VALUES[j])


def test_when_pairs_are_of_other_metrics_equal_or_outcomes_then_they_do_not_count():
    codec, grammar, ordinals = tools()
    labels = torch.from_numpy(codec.encode([1.0, 2.0, 2.0, math.nan]))
    logits = torch.randn(4, codec.length, codec.vocab_size, requires_grad=True)

    def loss(metric: list[int], rows: list[int]) -> torch.Tensor:
        return ranking_loss(logits[rows], labels[rows], torch.tensor(metric), codec.length, grammar, ordinals)

    assert loss([0, 1], [0, 1]) == 0 and loss([0, 0], [1, 2]) == 0 and loss([0, 0], [0, 3]) == 0
    assert loss([0, 0], [0, 1]) > 0
    loss([0, 0], [0, 3]).backward()
    assert not logits.grad.any()


def test_when_the_format_is_not_ordered_then_ranking_is_refused():
    codec = NumberCodec(NumberFormat.p10(4, 10))
    with pytest.raises(TrainError, match=r"needs the 'ordered' number format.*'p10'"):
        Objective(make_options(ranking_loss=1.0), codec, torch.device("cpu"))


@pytest.mark.parametrize("name", ["digit_loss", "ranking_loss"])
def test_when_a_loss_is_asked_for_then_it_falls_in_training_and_the_logged_loss_stays_cross_entropy(
    make_model, batch, name
):
    model = make_model().train()
    labels = torch.from_numpy(model.codec.encode([1.5, 27.0, 3e5]))
    inputs = {**batch, "labels": labels, "first_metric": torch.zeros(3, dtype=torch.long)}
    plain = Objective(make_options(), model.codec, torch.device("cpu"))
    other = Objective(make_options(**{name: 2.0}), model.codec, torch.device("cpu"))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    extra = []
    for _ in range(12):
        total, (cross_entropy, restored) = other(model, inputs, 18)
        assert cross_entropy == plain(model, inputs, 18)[0] and restored == 0
        extra.append((total - cross_entropy).item())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert 0 < extra[-1] < 0.7 * extra[0]


def test_when_hidden_tokens_are_to_be_restored_then_only_their_places_count():
    embeddings = torch.eye(5)
    memory = torch.zeros(2, 4, 5)  # a place more than the text has: a score of the feature ensemble
    memory[0, 1, 3], memory[1, 2, 0] = 40.0, 40.0
    hidden = torch.full((2, 3), -100)
    hidden[0, 1], hidden[1, 2] = 3, 1
    loss = masked_token_loss(memory.requires_grad_(), embeddings, hidden)
    assert loss.item() == pytest.approx(40.0)  # one is certain, the other certain of another token
    loss.backward()
    assert memory.grad[hidden.new_zeros(2, 4).bool().scatter(1, torch.tensor([[1], [2]]), True)].any()
    assert not memory.grad[:, [0, 3]].any()
    assert masked_token_loss(memory, embeddings, torch.full((2, 3), -100)) == 0


def test_when_tokens_are_hidden_then_the_encoder_learns_to_restore_them_beside_the_numbers(make_model, batch):
    model = make_model().train()
    labels = torch.from_numpy(model.codec.encode([1.5, 27.0, 3e5]))
    hidden = torch.where(torch.arange(batch["input_ids"].shape[1]) == 3, batch["input_ids"], -100)
    inputs = {**batch, "labels": labels, "hidden": hidden}
    objective = Objective(
        make_options(masked_token_loss=0.5, data=[{"mask_tokens": 0.1}]), model.codec, torch.device("cpu")
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    found = []
    for _ in range(12):
        total, parts = objective(model, inputs, 18, 3)
        assert total.item() == pytest.approx(parts[0].item() + 0.5 * parts[1].item())
        found.append(parts)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert (found[-1] < 0.8 * found[0]).all()


# ---------------------------------------------------------------------------------------------------- optimisers


@pytest.mark.parametrize("name", ["adamw", "adafactor", "muon"])
def test_when_an_optimiser_is_chosen_then_it_holds_every_parameter_once_and_training_learns(
    toy, tmp_path, name, make_model
):
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    model = make_model()
    held = [
        p for o in build_optimizers(model, make_options(optimizer=name)) for g in o.param_groups for p in g["params"]
    ]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    rate = {"adafactor": 0.05}.get(name, 3e-3)
    train(options_of(toy, tmp_path / "run", "--optimizer", name, "--learning_rate", rate))
    losses = [e["loss"] for e in log_of(tmp_path / "run") if "loss" in e]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:3])


def test_when_muon_is_chosen_then_it_takes_the_matrices_of_layers_and_adamw_the_rest(make_model):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    model = make_model()
    muon, adamw = build_optimizers(model, make_options(optimizer="muon"))
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    names = {id(p): n for n, p in model.named_parameters()}
    taken = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    assert "decoder.layers.0.gate_proj.weight" in taken and any(n.startswith("encoder.layers") for n in taken)
    assert not taken & {"number_head.weight", "decoder.embed_tokens.weight", "decoder.embed_positions.weight"}


def test_when_torch_has_no_muon_then_the_error_says_which_has(make_model, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    with pytest.raises(TrainError, match=r"has no Muon; install torch 2.9 or later"):
        build_optimizers(make_model(), make_options(optimizer="muon"))


def test_when_steps_pass_then_the_rate_rises_to_its_peak_and_falls_to_its_end():
    options = make_options(steps=100, warmup=0.1, final_learning_rate=0.05)
    rates = [schedule(options, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert max(rates) == 1 and rates[-1] == pytest.approx(0.05) and sorted(rates[10:], reverse=True) == rates[10:]


def test_when_weights_are_averaged_then_the_average_follows_its_formula_and_the_model_gets_its_own_back():
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data[:] = 1.0
    average = WeightAverage(layer, 0.5)
    expected = 1.0
    for step in range(1, 6):
        layer.weight.data += 1.0
        average.update()
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * (1.0 + step)
    with average.in_place():
        assert layer.weight.tolist() == [[pytest.approx(expected)] * 2]
    assert layer.weight.tolist() == [[6.0, 6.0]]


@pytest.mark.slow
def test_when_a_run_keeps_an_average_then_it_is_saved_and_resumed_bit_by_bit(toy, tmp_path):
    flags = ["--ema", 0.9, "--steps", 8, "--save_every", 4, "--eval_every", 4]
    train(options_of(toy, tmp_path / "whole", *flags))
    train(options_of(toy, tmp_path / "again", *flags))
    import shutil

    for gone in ("step-8", "final", "best"):
        shutil.rmtree(tmp_path / "again" / gone)
    train(options_of(toy, tmp_path / "again", *flags))
    saved = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "again")]
    assert saved[0] == saved[1]
    train(options_of(toy, tmp_path / "plain", *flags[2:]))
    assert saved[0] != (tmp_path / "plain" / "final" / "model.safetensors").read_bytes()
    losses = [[e["loss"] for e in log_of(tmp_path / name) if "loss" in e] for name in ("whole", "plain")]
    assert losses[0] == losses[1]


def test_when_an_encoder_cannot_learn_to_restore_then_it_is_refused(make_model):
    options = make_options(masked_token_loss=1.0, data=[{"mask_tokens": 0.1}])
    check_masked_tokens(make_model(), options)
    with pytest.raises(TrainError, match="this one is frozen; set freeze_encoder: false"):
        check_masked_tokens(make_model(freeze_encoder=True), options)
    narrow = make_model()
    narrow.set_input_embeddings(torch.nn.Embedding(10, 3))
    with pytest.raises(TrainError, match="which are 3 wide in this encoder where its output is"):
        check_masked_tokens(narrow, options)
    check_masked_tokens(narrow, make_options())
