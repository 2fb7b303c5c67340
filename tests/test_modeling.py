"""The network: its loss, its gradients, and the same numbers by every way through it."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput

from code_rlm.errors_rlm import CheckpointError
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import NumberCodec, NumberFormat


def labels_of(codec: NumberCodec, values) -> torch.Tensor:
    """Number tokens of values `(batch, objectives)` and the end token."""
    ids = codec.encode(values).reshape(len(values), -1)
    return torch.from_numpy(np.concatenate([ids, np.full((len(values), 1), codec.eos_token_id)], 1))


def teacher_forced(model, inputs, values) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, labels=labels_of(model.codec, values)).logits


@pytest.fixture
def training(make_model, small_format):
    """A model of its own in training mode."""
    return make_model(number_format=small_format.to_dict()).train()


VALUES = [[1.0, 0.2], [-30.0, 0.0], ["failed", 4.0]]


# The loss


def allowed_by_hand(codec: NumberCodec, written: list[int]) -> set[int]:
    """What may follow in a format of one digit, three exponents and `failed`, spelt out."""
    name = [codec.vocabulary[i] for i in written]
    if "<eos>" in name:
        return {codec.ids["<pad>"]}
    number = name[len(name) - len(name) % 3 :]
    if not number:
        return {codec.ids[t] for t in ("<failed>", "<->", "<zero>", "<+>", *(["<eos>"] if name else []))}
    if number[0] in ("<failed>", "<zero>"):
        return {codec.ids["<.>"]}
    return {codec.ids[t] for t in (["<E-1>", "<E0>", "<E1>"] if len(number) == 1 else [f"<{d}>" for d in range(1, 10)])}


def test_when_labels_are_given_then_the_loss_is_the_cross_entropy_over_allowed_tokens(small_model, batch):
    labels = labels_of(small_model.codec, VALUES)
    labels[1, 3:6] = labels[1, 6]  # the second answer ends after one number
    labels[1, 4:] = -100
    output = small_model(**batch, labels=labels)
    losses = []
    for row, answer in enumerate(labels.tolist()):
        for place, token in enumerate(answer):
            if token != -100:
                allowed = sorted(allowed_by_hand(small_model.codec, answer[:place]))
                scores = output.logits[row, place, allowed].double().log_softmax(0)
                losses.append(-scores[allowed.index(token)])
    assert len(losses) == 7 + 4 + 7
    assert output.loss.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    by_items = small_model(**batch, labels=labels, num_items_in_batch=torch.tensor(36)).loss
    assert by_items.item() == pytest.approx(output.loss.item() / 2, rel=1e-6)


def test_when_tokens_are_forced_then_they_cost_nothing(small_model, batch):
    codec = small_model.codec
    labels = torch.from_numpy(codec.encode([0.0] * 3))
    assert codec.vocabulary[labels[0, 1]] == codec.vocabulary[labels[0, 2]] == "<.>"
    output = small_model(**batch, labels=labels, num_items_in_batch=1)
    allowed = sorted(allowed_by_hand(codec, []))
    first = output.logits[:, 0, allowed].log_softmax(1)[:, allowed.index(codec.ids["<zero>"])]
    assert output.loss.item() == pytest.approx(-first.sum().item(), rel=1e-5)


def test_when_a_published_code_is_not_canonical_then_its_loss_is_finite(make_model, batch):
    model = make_model(number_format=NumberFormat.ieee(1, 2).to_dict())
    underflow = model.codec.encode([1e-12] * 3, out_of_range="saturate")
    assert (model.codec.states(underflow)[:, -1] == -1).all()
    output = model(**batch, labels=torch.from_numpy(underflow))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_when_nothing_to_decode_is_given_then_the_message_points_to_predict(model, batch):
    with pytest.raises(ValueError, match=r"needs decoder_input_ids or labels; for predictions use predict\(\)"):
        model(**batch)


def test_when_labels_are_shifted_then_the_callers_are_not_changed(small_model, batch):
    labels = labels_of(small_model.codec, VALUES)
    labels[0, -1] = -100
    before, ids = labels.clone(), batch["input_ids"].clone()
    shifted = small_model.prepare_decoder_input_ids_from_labels(labels)
    small_model(**batch, labels=labels)
    assert torch.equal(labels, before) and torch.equal(batch["input_ids"], ids)
    assert shifted[:, 0].eq(0).all() and torch.equal(shifted[1, 1:], labels[1, :-1]) and (shifted >= 0).all()


# Gradients


@pytest.mark.parametrize("changes", [{}, {"encoder_layers": [0, 1, -1]}, {"decoder_dropout": 0.1}])
def test_when_the_loss_goes_backward_then_it_reaches_every_parameter(make_model, small_format, batch, changes):
    model = make_model(number_format=small_format.to_dict(), **changes).train()
    model(**batch, labels=labels_of(model.codec, VALUES)).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_when_a_model_trains_then_it_learns_its_batch(training, batch):
    labels = labels_of(training.codec, VALUES)
    optimizer = torch.optim.AdamW(training.parameters(), lr=3e-3)
    first = training(**batch, labels=labels).loss.item()
    for _ in range(60):
        optimizer.zero_grad()
        training(**batch, labels=labels).loss.backward()
        optimizer.step()
    assert training(**batch, labels=labels).loss.item() < 0.05 < first / 10
    prediction = training.predict(batch, quantiles=[0.5], metrics=["a", "b"])
    assert prediction.quantiles[:2, :, 0].tolist() == [[1.0, 0.2], [-30.0, 0.0]]
    assert prediction.outcomes["failed"][:, 0].round().tolist() == [0, 0, 1]
    assert prediction.quantiles[2, 1, 0] == 4.0  # given that the first one failed


def test_when_gradients_are_checkpointed_then_they_are_the_same(training, batch):
    labels = labels_of(training.codec, VALUES)
    runs = []
    for layer in training.decoder.layers:
        layer.mlp_norm.register_forward_hook(lambda *_: runs.append(1))
    training(**batch, labels=labels).loss.backward()
    plain = {n: p.grad.clone() for n, p in training.named_parameters()}
    assert len(runs) == 2
    training.zero_grad()
    training.gradient_checkpointing_enable()
    training(**batch, labels=labels).loss.backward()
    assert len(runs) == 2 + 4  # every layer ran a second time
    for name, parameter in training.named_parameters():
        assert torch.allclose(parameter.grad, plain[name], atol=1e-6), name


def test_when_the_encoder_is_frozen_then_the_mix_of_layers_still_trains(make_model, batch):
    model = make_model(freeze_encoder=True, encoder_layers=[0, 1, 2]).train()
    model(**batch, labels=labels_of(model.codec, [[1.0], [2.0], [3.0]])).loss.backward()
    assert model.layer_mix.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.encoder.parameters())


# One result by every way


def test_when_the_answer_is_decoded_step_by_step_then_logits_equal_teacher_forcing(model, batch):
    values = [[1.5, -2.0], [0.0, 3e5], ["failed", 1e-9]]
    whole = teacher_forced(model, batch, values)
    tokens = model.prepare_decoder_input_ids_from_labels(labels_of(model.codec, values))
    past, encoder_outputs, steps = None, None, []
    with torch.no_grad():
        for place in range(tokens.shape[1]):
            text = batch if encoder_outputs is None else {"attention_mask": batch["attention_mask"]}
            output = model(
                **text,
                decoder_input_ids=tokens[:, place : place + 1],
                encoder_outputs=encoder_outputs,
                past_key_values=past,
                use_cache=True,
            )
            past, encoder_outputs = output.past_key_values, (output.encoder_last_hidden_state,)
            steps.append(output.logits)
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-5)
    assert past.get_seq_length() == tokens.shape[1]


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_when_the_cache_is_filled_in_two_blocks_then_logits_are_the_same(model, batch, cut):
    values = [[1.5, -2.0], [0.0, 3e5], ["failed", 1e-9]]
    whole = teacher_forced(model, batch, values)
    tokens = model.prepare_decoder_input_ids_from_labels(labels_of(model.codec, values))
    with torch.no_grad():
        first = model(**batch, decoder_input_ids=tokens[:, :cut], use_cache=True)
        memory = BaseModelOutput(last_hidden_state=first.encoder_last_hidden_state)
        second = model(
            attention_mask=batch["attention_mask"],
            decoder_input_ids=tokens[:, cut:],
            encoder_outputs=memory,
            past_key_values=first.past_key_values,
        )
    assert torch.allclose(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"encoder_layers": [0, -1]}, {"decoder_num_key_value_heads": 4}])
def test_when_rows_are_padded_into_a_batch_then_logits_are_those_of_the_row_alone(make_model, batch, alone, changes):
    model = make_model(**changes)
    values = [[1.5, -2.0], [0.0, 3e5], ["failed", 1e-9]]
    together = teacher_forced(model, batch, values)
    for row, inputs in enumerate(alone):
        assert torch.allclose(teacher_forced(model, inputs, values[row : row + 1])[0], together[row], atol=1e-5)


def test_when_padding_holds_other_tokens_then_nothing_changes(model, batch):
    values = [[1.5], [2.0], [3.0]]
    other = {**batch, "input_ids": batch["input_ids"].where(batch["attention_mask"].bool(), torch.tensor(99))}
    assert not torch.equal(other["input_ids"], batch["input_ids"])
    assert torch.allclose(teacher_forced(model, other, values), teacher_forced(model, batch, values), atol=1e-5)


def test_when_a_later_label_changes_then_earlier_logits_do_not(model, alone):
    a = teacher_forced(model, alone[0], [[1.5, -2.0]])
    b = teacher_forced(model, alone[0], [[1.5, 3e5]])
    assert torch.allclose(a[:, :7], b[:, :7], atol=1e-6)
    assert not torch.allclose(a[:, 8:], b[:, 8:], atol=1e-2)


def test_when_key_value_heads_are_grouped_then_it_is_attention_with_repeated_heads(make_model, batch):
    grouped, full = make_model(decoder_num_key_value_heads=2), make_model(decoder_num_key_value_heads=4)
    weights = grouped.state_dict()
    for name in [n for n in weights if "cross_attn.k_proj" in n or "cross_attn.v_proj" in n]:
        weights[name] = weights[name].view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32)
    full.load_state_dict(weights)
    values = [[1.5], [2.0], ["failed"]]
    assert torch.allclose(teacher_forced(full, batch, values), teacher_forced(grouped, batch, values), atol=1e-5)


def test_when_inputs_differ_then_logits_and_predictions_differ(model, make_model, alone):
    logits = [teacher_forced(model, inputs, [[1.5]]) for inputs in alone]
    answers = [model.predict(inputs, quantiles=np.linspace(0.02, 0.98, 25)).quantiles for inputs in alone]
    # The likeliest number of random weights can be one for all three inputs, but not under every seed.
    generated = []
    for each in (model, make_model(seed=1), make_model(seed=2)):
        numbers = [each.generate(**inputs, num_objectives=1)[0].tolist() for inputs in alone]
        generated.append(len({tuple(number) for number in numbers}))
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert (logits[a] - logits[b]).abs().max() > 0.05
        assert not np.array_equal(answers[a], answers[b])
    assert max(generated) > 1
    last = {"input_ids": alone[0]["input_ids"].clone()}
    last["input_ids"][0, -1] = 7
    assert (teacher_forced(model, last, [[1.5]]) - logits[0]).abs().max() > 1e-3


def test_when_a_model_is_new_then_no_two_layers_are_alike(make_model):
    model = make_model(decoder_num_layers=3)
    layers = [dict(layer.named_parameters()) for layer in model.decoder.layers]
    for name in layers[0]:
        if name.endswith("norm.weight"):
            assert all(torch.equal(layer[name], torch.ones(32)) for layer in layers)
        else:
            assert all(not torch.allclose(layers[a][name], layers[b][name]) for a, b in ((0, 1), (1, 2), (0, 2)))
            assert all(0.2 < layer[name].std() < 0.3 for layer in layers)


# Variants


def test_when_several_encoder_layers_are_read_then_their_weights_train_and_matter(make_model, batch):
    model = make_model(encoder_layers=[0, 1, -1])
    plain = make_model()
    assert model.layer_mix.shape == (3,) and plain.layer_mix is None
    before = teacher_forced(model, batch, VALUES)
    with torch.no_grad():
        hidden = model.encoder(**batch, output_hidden_states=True)
        states = [hidden.hidden_states[0], hidden.hidden_states[1], hidden.last_hidden_state]
        normed = [s / s.pow(2).mean(-1, keepdim=True).sqrt() for s in states]
        assert torch.allclose(model.encode_memory(**batch), sum(normed) / 3, atol=1e-4)
        model.layer_mix[0] = 20.0
        assert torch.allclose(model.encode_memory(**batch), normed[0], atol=1e-4)
    assert not torch.allclose(teacher_forced(model, batch, VALUES), before, atol=1e-2)


@pytest.mark.parametrize("layers", [[0, 3], [-4]])
def test_when_an_encoder_layer_does_not_exist_then_the_message_counts_them(make_model, batch, layers):
    with pytest.raises(CheckpointError, match="go beyond the encoder's 3 hidden states"):
        make_model(encoder_layers=layers).encode_memory(**batch)


def test_when_the_model_is_in_bfloat16_then_it_answers_and_learns(model, batch):
    half = copy.deepcopy(model).to(torch.bfloat16)
    labels = labels_of(model.codec, [[1.5], [2.0], ["failed"]])
    loss = half.train()(**batch, labels=labels).loss
    loss.backward()
    with torch.no_grad():
        assert loss.item() == pytest.approx(model(**batch, labels=labels).loss.item(), rel=0.05)
    assert all(p.grad.dtype == torch.bfloat16 for p in half.parameters() if p.grad is not None)
    prediction = half.predict(batch)
    assert prediction.quantiles.dtype == np.float64 and np.isfinite(prediction.quantiles).all()
    ids = half.eval().generate(**batch, num_objectives=1)
    assert len(model.codec.decode(ids[:, 1:7])) == 3


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_when_the_decoder_is_compiled_then_logits_are_those_of_eager(make_model, batch, backend):
    model = make_model(decoder_num_layers=1)
    expected = teacher_forced(model, batch, [[1.5], [2.0], [3.0]])
    torch._dynamo.reset()
    model.decoder = torch.compile(model.decoder, backend=backend)
    assert torch.allclose(teacher_forced(model, batch, [[1.5], [2.0], [3.0]]), expected, atol=1e-5)
    torch._dynamo.reset()


def test_when_the_text_vocabulary_is_resized_then_the_numeric_one_stays(make_model, batch):
    model = make_model()
    before = teacher_forced(model, batch, [[1.5], [2.0], [3.0]])
    model.resize_token_embeddings(310)
    assert model.get_input_embeddings().weight.shape == (310, 32)
    assert model.get_output_embeddings().weight.shape == (model.codec.vocab_size, 32)
    assert model.config.encoder.vocab_size == 310
    assert torch.allclose(teacher_forced(model, batch, [[1.5], [2.0], [3.0]]), before, atol=1e-6)


# Saving


@pytest.mark.parametrize("loader", [RLMForConditionalGeneration, AutoModelForSeq2SeqLM], ids=lambda c: c.__name__)
def test_when_a_model_is_saved_and_loaded_then_it_is_the_same(make_model, batch, tmp_path, loader):
    model = make_model(encoder_layers=[0, -1], freeze_encoder=True)
    with torch.no_grad():
        model.layer_mix[0] = 0.7
    model.save_pretrained(tmp_path)
    again, info = loader.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is RLMForConditionalGeneration and not any(info.values())
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    of_loading = {"dtype": None, "_name_or_path": ""}
    assert again.config.to_dict() | of_loading == model.config.to_dict() | of_loading
    assert np.array_equal(again.predict(batch).quantiles, model.predict(batch).quantiles)
    assert not again.training and not [p for p in again.encoder.parameters() if p.requires_grad]


def test_when_a_model_is_saved_in_bfloat16_then_it_loads_so_as_a_whole(make_model, batch, tmp_path):
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    again = RLMForConditionalGeneration.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert np.isfinite(again.predict(batch).quantiles).all()
    single = RLMForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in single.parameters()} == {torch.float32}
    assert np.isfinite(single.predict(batch).quantiles).all()


def test_when_code_travels_with_a_checkpoint_then_it_also_does_after_a_second_save(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "one")
    RLMForConditionalGeneration.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    for folder in ("one", "two"):
        names = {path.name for path in (tmp_path / folder).glob("*.py")}
        assert {"modeling_rlm.py", "configuration_rlm.py", "numbers_rlm.py", "pipeline_rlm.py"} <= names


@pytest.mark.parametrize("how", ["remote", "own"])
@pytest.mark.parametrize("what", ["quantiles", "generated"])
def test_when_a_checkpoint_is_loaded_in_a_fresh_process_then_its_answers_are_the_same(reloaded, how, what):
    assert reloaded[how][what] == reloaded["here"][what]
    assert reloaded[how]["class"] == {"remote": "transformers_modules", "own": "code_rlm"}[how] + (
        ".RLMForConditionalGeneration"
    )
