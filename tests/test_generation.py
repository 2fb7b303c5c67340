"""Numbers out of the network: generation under the grammar, and exact answers against brute force over all codes."""

import copy
from functools import lru_cache

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_outputs import BaseModelOutput

from code_rlm.errors_rlm import MetricError, NumberRangeError, RLMError
from code_rlm.generation_rlm import NumberLogitsProcessor
from code_rlm.numbers_rlm import FAILED, NumberCodec, NumberFormat, is_failed

LEVELS = np.round(np.arange(0.02, 0.99, 0.03), 2).tolist()
FORMATS = {
    "ordered": NumberFormat(mantissa_digits=2, min_exponent=-2, max_exponent=2),
    "ordered, one exponent": NumberFormat(mantissa_digits=2, min_exponent=0, max_exponent=0, specials=()),
    "ieee": NumberFormat.ieee(1, 1),
    "p10": NumberFormat.p10(2, 2),
}


@pytest.fixture(scope="module", params=FORMATS)
def any_model(request, make_model):
    """A tiny model for each layout, in formats small enough to enumerate."""
    return make_model(number_format=FORMATS[request.param].to_dict())


@pytest.fixture(scope="module", params=[name for name in FORMATS if name != "p10"])
def readable_model(request, make_model):
    """As `any_model`, for the layouts that quantiles can be read off."""
    return make_model(number_format=FORMATS[request.param].to_dict())


# Brute force: every code of a format, its probability from teacher-forced logits and a set of allowed prefixes


@lru_cache
def all_codes(number_format: NumberFormat) -> tuple[np.ndarray, np.ndarray]:
    """Codes `(codes, length)` and values `(codes,)` of a small format."""
    codec = NumberCodec(number_format)
    paths = [((), codec.START)]
    for _ in range(codec.length):
        paths = [
            ((*ids, t), codec.transitions[s, t]) for ids, s in paths for t in np.flatnonzero(codec.transitions[s] >= 0)
        ]
    codes = np.array([ids for ids, _ in paths])
    return codes, codec.decode(codes)


def brute_log_probs(model, inputs, before=()) -> np.ndarray:
    """Log-probabilities `(batch, codes)` of every code as the next number after the codes `before`, float64."""
    codes, _ = all_codes(model.codec.format)
    before = np.array(before, dtype=np.int64).reshape(-1)
    answers = np.concatenate([np.broadcast_to(before, (len(codes), len(before))), codes], 1)
    tokens = torch.from_numpy(np.concatenate([np.zeros((len(codes), 1), np.int64), answers[:, :-1]], 1))
    followers: dict[tuple, set] = {}
    for code in codes.tolist():
        for place, token in enumerate(code):
            followers.setdefault(tuple(code[:place]), set()).add(token)
    mask = np.full((len(codes), model.codec.length, model.codec.vocab_size), -np.inf)
    for row, code in enumerate(codes.tolist()):
        for place in range(len(code)):
            mask[row, place, list(followers[tuple(code[:place])])] = 0
    results = []
    with torch.no_grad():
        for row in range(len(inputs["input_ids"])):
            one = {name: rows[row : row + 1] for name, rows in inputs.items()}
            memory = BaseModelOutput(last_hidden_state=model.encode_memory(**one).expand(len(codes), -1, -1))
            seen = one.get("attention_mask")
            seen = None if seen is None else seen.expand(len(codes), -1)
            logits = model(
                encoder_outputs=memory, attention_mask=seen, decoder_input_ids=tokens, use_cache=False
            ).logits
            scores = logits[:, len(before) :].double().numpy() + mask
            scores -= np.log(np.exp(scores - scores.max(-1, keepdims=True)).sum(-1, keepdims=True)) + scores.max(
                -1, keepdims=True
            )
            results.append(np.take_along_axis(scores, codes[..., None], 2)[..., 0].sum(1))
    return np.array(results)


def finite_part(values, probabilities):
    """Finite values in ascending order and their probabilities, summing to one."""
    keep = np.isfinite(values)
    values, probabilities = values[keep], probabilities[keep]
    order = np.argsort(values)
    return values[order], probabilities[order] / probabilities.sum()


def brute_quantiles(values, probabilities, levels=LEVELS):
    values, probabilities = finite_part(values, probabilities)
    return [values[np.argmax(np.cumsum(probabilities) >= level)] for level in levels]


def code_of(model, value):
    return model.codec.encode(value).reshape(-1)


def row_of(inputs, row):
    return {name: rows[row : row + 1] for name, rows in inputs.items()}


def test_when_all_codes_are_summed_then_brute_force_is_a_distribution(any_model, batch):
    assert np.exp(brute_log_probs(any_model, batch)).sum(1) == pytest.approx(1, abs=1e-9)


# generate()


def numbers_of(model, ids, objectives=None) -> np.ndarray:
    """Reads generated ids back; every answer must be whole numbers, the end, padding."""
    codec, answers = model.codec, []
    for row in ids.tolist():
        assert row[0] == 0
        states = codec.states(np.array(row[1:]))
        assert (states >= 0).all()
        end = len(row) - 1 if codec.eos_token_id not in row[1:] else row[1:].index(codec.eos_token_id)
        assert end % codec.length == 0 and states[end] == codec.END
        assert end // codec.length == objectives or objectives is None
        assert set(row[1 + end + 1 :]) <= {0}
        answers.append(codec.decode(np.array(row[1 : 1 + end]).reshape(-1, codec.length)))
    return answers


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_when_objectives_are_numbered_then_generate_writes_exactly_so_many(any_model, batch, objectives):
    answers = numbers_of(any_model, any_model.generate(**batch, num_objectives=objectives), objectives)
    assert np.shape(answers) == (3, objectives)


@pytest.mark.parametrize("changes", [{}, {"encoder_layers": [0, 1, -1]}])
def test_when_generate_keeps_a_cache_then_it_writes_what_it_writes_without_one(make_model, batch, changes):
    model = make_model(seed=3, **changes)
    if changes:
        with torch.no_grad():
            model.layer_mix.copy_(torch.tensor([3.0, 0.0, -3.0]))
    cached, plain = (model.generate(**batch, num_objectives=3, use_cache=flag) for flag in (True, False))
    assert torch.equal(cached, plain)
    # Greedy: no other first token is likelier, by the exact methods' own account of the memory.
    draws = model.sample(batch, 1, temperature=1e-6, metrics=["a", "b", "c"])[:, 0]
    written = model.codec.decode(cached[:, 1:-1].reshape(len(cached), 3, -1))
    assert np.array_equal(draws, written, equal_nan=True)


@pytest.mark.parametrize("seed", range(4))
def test_when_objectives_are_free_then_generate_writes_one_to_the_most(make_model, batch, seed):
    model = make_model(seed, number_format=FORMATS["ordered"].to_dict())
    for options in ({}, {"do_sample": True, "num_return_sequences": 8}):
        torch.manual_seed(seed)
        answers = numbers_of(model, model.generate(**batch, **options))
        assert {len(a) for a in answers} <= {1, 2, 3}


def test_when_the_end_is_likely_or_unlikely_then_answers_are_short_or_long(make_model, batch):
    model = make_model(number_format=FORMATS["ordered"].to_dict())
    eos = model.codec.eos_token_id
    for push, count in ((1e4, 1), (-1e4, 3)):
        with torch.no_grad():
            model.number_head = torch.nn.Linear(32, model.codec.vocab_size)
            model.number_head.weight.zero_()
            model.number_head.bias.zero_()
            model.number_head.bias[eos] = push
        ids = model.generate(**batch)
        assert [len(a) for a in numbers_of(model, ids)] == [count] * 3
        assert (ids[:, -1] == eos).all()


def test_when_answers_end_at_different_places_then_the_rest_is_padding(make_model, batch):
    model = make_model(number_format=FORMATS["ordered"].to_dict())
    torch.manual_seed(0)
    ids = model.generate(**batch, do_sample=True, num_return_sequences=16)
    lengths = [len(a) for a in numbers_of(model, ids)]
    assert len(set(lengths)) > 1
    assert [(row[1:] != 0).sum().item() for row in ids] == [n * model.codec.length + 1 for n in lengths]


def test_when_generation_is_greedy_then_each_token_is_the_likeliest_allowed_one(any_model, batch):
    codes, _ = all_codes(any_model.codec.format)
    log_probs = brute_log_probs(any_model, batch)
    ids = any_model.generate(**batch, num_objectives=1)[:, 1 : 1 + any_model.codec.length].numpy()
    for row in range(3):
        left = np.arange(len(codes))
        for place in range(codes.shape[1]):
            tokens = np.unique(codes[left, place])
            masses = [np.exp(log_probs[row, left[codes[left, place] == t]]).sum() for t in tokens]
            left = left[codes[left, place] == tokens[int(np.argmax(masses))]]
        assert ids[row].tolist() == codes[left[0]].tolist()


@pytest.mark.parametrize("inputs", ["batch", "alone"])
def test_when_beams_cover_all_prefixes_then_beam_search_finds_the_likeliest_code(small_model, batch, inputs, request):
    codes, _ = all_codes(small_model.codec.format)
    best = codes[brute_log_probs(small_model, batch).argmax(1)]
    given_inputs = [batch] if inputs == "batch" else request.getfixturevalue("alone")
    options = {"num_objectives": 1, "num_beams": 16, "renormalize_logits": True}
    found = torch.cat([small_model.generate(**one, **options) for one in given_inputs])
    assert np.array_equal(found[:, 1:4].numpy(), best)


def test_when_beam_search_writes_several_numbers_then_they_are_whole(any_model, batch):
    ids = any_model.generate(**batch, num_objectives=2, num_beams=3, num_return_sequences=3)
    assert ids.shape[0] == 9
    numbers_of(any_model, ids, 2)


def test_when_generation_samples_then_frequencies_are_the_models(small_model, batch):
    codes, _ = all_codes(small_model.codec.format)
    torch.manual_seed(0)
    options = {"num_objectives": 1, "do_sample": True, "top_k": 0, "num_return_sequences": 2000}
    ids = small_model.generate(**row_of(batch, 1), **options)[:, 1:4].numpy()
    probabilities = np.exp(brute_log_probs(small_model, row_of(batch, 1))[0])
    counts = (ids[:, None] == codes).all(2).sum(0)
    assert counts.sum() == 2000
    assert (np.abs(counts / 2000 - probabilities) < 4.5 * np.sqrt(probabilities / 2000) + 1e-3).all()


def test_when_generation_runs_in_a_batch_then_rows_are_as_alone(any_model, batch, alone):
    together = any_model.generate(**batch, num_objectives=2)
    for row, inputs in enumerate(alone):
        assert any_model.generate(**inputs, num_objectives=2)[0].tolist() == together[row].tolist()


def test_when_a_cache_is_not_used_then_generation_is_the_same(model, batch):
    with_cache = model.generate(**batch, num_objectives=2)
    assert torch.equal(model.generate(**batch, num_objectives=2, use_cache=False), with_cache)


def test_when_the_grammar_is_switched_off_then_objectives_cannot_be_numbered(make_model, batch):
    model = make_model(constrain_numbers=False)
    with pytest.raises(ValueError, match="num_objectives needs the number grammar"):
        model.generate(**batch, num_objectives=1)
    assert model.generate(**batch, max_new_tokens=5).shape[1] <= 6


def test_when_another_processor_is_passed_then_both_apply(small_model, batch):
    class NoMinus(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, [small_model.codec.ids[t] for t in ("<->", "<zero>", "<failed>")]] = float("-inf")
            return scores

    processors = transformers.LogitsProcessorList([NoMinus()])
    answers = numbers_of(small_model, small_model.generate(**batch, num_objectives=2, logits_processor=processors), 2)
    assert (np.array(answers) > 0).all()
    assert len(processors) == 1


# The logits processor with another model


@pytest.fixture(scope="module")
def gpt2():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=97,
            n_positions=64,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=96,
            eos_token_id=90,
            pad_token_id=91,
        )
        return transformers.GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "num_return_sequences": 6}, {"num_beams": 3}])
@pytest.mark.parametrize(
    "number_format", [NumberFormat(mantissa_digits=3, min_exponent=-4, max_exponent=4), FORMATS["ieee"]]
)
def test_when_another_model_writes_numbers_then_the_grammar_holds_through_its_token_ids(gpt2, options, number_format):
    codec = NumberCodec(number_format)
    token_ids = list(reversed(range(40, 40 + codec.vocab_size)))
    eos, pad = token_ids[codec.eos_token_id], token_ids[codec.pad_token_id]
    prompt = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(1))
    processor = NumberLogitsProcessor(codec, 2, prompt_length=9, token_ids=token_ids)
    torch.manual_seed(0)
    ids = gpt2.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        logits_processor=[processor],
        max_new_tokens=30,
        eos_token_id=eos,
        pad_token_id=pad,
        **options,
    )
    back = {theirs: ours for ours, theirs in enumerate(token_ids)}
    for row in ids[:, 9:].tolist():
        ours = [back[i] for i in row]
        assert ours[2 * codec.length] == codec.eos_token_id and set(ours[2 * codec.length + 1 :]) <= {0}
        assert codec.decode(np.array(ours[: 2 * codec.length]).reshape(2, -1)).shape == (2,)


def test_when_scores_are_processed_then_allowed_ones_stay_and_the_callers_are_not_changed(small_model):
    codec = small_model.codec
    processor = NumberLogitsProcessor(codec, 1)
    ids = torch.tensor([[0], [0]])
    scores = torch.randn(2, codec.vocab_size + 3)
    before = scores.clone()
    processed = processor(ids, scores)
    allowed = [codec.ids[t] for t in ("<failed>", "<->", "<zero>", "<+>")]
    assert torch.equal(processed[:, allowed], scores[:, allowed])
    assert torch.isinf(processed).sum(1).tolist() == [codec.vocab_size + 3 - 4] * 2
    assert torch.equal(scores, before) and ids.tolist() == [[0], [0]]
    whole = torch.cat([ids, torch.from_numpy(codec.encode([1.0, 0.0]))], 1)
    assert processor(whole, scores).isfinite().nonzero().tolist() == [[0, 1], [1, 1]]  # the end alone
    ended = torch.cat([whole, torch.ones(2, 1, dtype=torch.long)], 1)
    assert processor(ended, scores).isfinite().nonzero().tolist() == [[0, 0], [1, 0]]  # padding alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_objectives": 0}, "num_objectives must be at least 1, got 0"),
        ({"token_ids": [1, 2]}, "token_ids must name one id for each of the codec's 61 tokens"),
    ],
)
def test_when_a_processor_is_misused_then_the_message_says_how(options, message):
    with pytest.raises(ValueError, match=message):
        NumberLogitsProcessor(NumberCodec(), **options)


# Exact answers for one metric


def test_when_quantiles_are_predicted_then_they_are_those_of_all_codes(readable_model, batch):
    _, values = all_codes(readable_model.codec.format)
    probabilities = np.exp(brute_log_probs(readable_model, batch))
    prediction = readable_model.predict(batch, LEVELS)
    assert prediction.quantiles.shape == (3, 1, len(LEVELS)) and prediction.quantiles.dtype == np.float64
    assert (prediction.metrics, prediction.levels, prediction.conditioning) == (("value",), tuple(LEVELS), "none")
    for row in range(3):
        assert prediction.quantiles[row, 0].tolist() == brute_quantiles(values, probabilities[row])


def test_when_outcomes_are_predicted_then_they_are_those_of_all_codes(make_model, batch):
    model = make_model(number_format=FORMATS["ordered"].to_dict())
    _, values = all_codes(model.codec.format)
    probabilities = np.exp(brute_log_probs(model, batch))
    outcomes = model.predict(batch).outcomes
    failed = is_failed(values)
    masks = {
        "nan": np.isnan(values) & ~failed,
        "failed": failed,
        "-inf": values == -np.inf,
        "+inf": values == np.inf,
    }
    assert outcomes.keys() == masks.keys()
    for name, mask in masks.items():
        assert outcomes[name] == pytest.approx(probabilities[:, mask].sum(1, keepdims=True), rel=1e-4)


@pytest.mark.parametrize("level", [1e-6, 0.3, 0.5, 1 - 1e-6])
def test_when_the_format_is_large_then_quantiles_and_cdf_agree(model, batch, level):
    value = model.predict(batch, level).quantiles[:, 0]
    below = model.cdf(batch, value)[:, 0]
    up_to = model.cdf(batch, np.nextafter(value, np.inf))[:, 0]
    assert (below < level + 1e-7).all() and (level - 1e-7 <= up_to).all()
    assert (below < up_to).all()


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6))
@settings(max_examples=20, deadline=None)
def test_when_levels_come_in_any_number_and_order_then_each_quantile_is_as_alone(small_model, model, batch, levels):
    together = small_model.predict(batch, levels).quantiles[:, 0]
    for column, level in enumerate(levels):
        assert np.array_equal(together[:, column], small_model.predict(batch, [level]).quantiles[:, 0, 0])
    for net in (small_model, model):
        assert (np.diff(net.predict(batch, sorted(levels)).quantiles[:, 0]) >= 0).all()


def test_when_all_mass_is_special_then_quantiles_are_nan_and_outcomes_say_why(make_model, batch, small_format):
    model = make_model(number_format=small_format.to_dict())
    model.number_head = torch.nn.Linear(32, model.codec.vocab_size)
    with torch.no_grad():
        model.number_head.bias[model.codec.ids["<failed>"]] = 1e5
    prediction = model.predict(batch, metrics=["a", "b"])
    assert np.isnan(prediction.quantiles).all()
    assert (prediction.outcomes["failed"] == 1).all()
    assert is_failed(model.sample(batch, 5)).all()
    marginal = model.predict(batch, metrics=["a", "b"], conditioning="marginal")
    assert np.isnan(marginal.quantiles).all() and (marginal.outcomes["failed"] == 1).all()


def test_when_a_cdf_is_asked_for_then_it_is_that_of_all_codes(any_model, batch):
    _, values = all_codes(any_model.codec.format)
    probabilities = np.exp(brute_log_probs(any_model, batch))
    finite = np.sort(values[np.isfinite(values)])
    thresholds = np.concatenate([finite[::7], finite[::7] * 1.01 + 1e-9, [-np.inf, np.inf, 0.0, -0.0]])
    cdf = any_model.cdf(batch, thresholds)
    assert cdf.shape == (3, len(thresholds))
    for row in range(3):
        support, mass = finite_part(values, probabilities[row])
        assert cdf[row] == pytest.approx([mass[support < t].sum() for t in thresholds], abs=1e-6)
    own = np.stack([thresholds, -thresholds, thresholds / 2])
    by_row = any_model.cdf(batch, own)
    assert by_row[0] == pytest.approx(cdf[0], abs=1e-12)
    assert by_row[1] == pytest.approx(any_model.cdf(row_of(batch, 1), own[1])[0], abs=1e-5)
    assert any_model.cdf(batch, 1.0).shape == (3, 1)


def test_when_log_probabilities_are_asked_for_then_they_are_those_of_all_codes(any_model, batch):
    _, values = all_codes(any_model.codec.format)
    expected = brute_log_probs(any_model, batch)
    picked = np.random.default_rng(0).permutation(len(values))[:30]
    for i in picked:
        assert any_model.log_prob(batch, [values[i]] * 3) == pytest.approx(expected[:, [i]], abs=1e-4)
    assert any_model.log_prob(batch, values[picked[:3], None]) == pytest.approx(
        expected[np.arange(3), picked[:3], None], abs=1e-4
    )


def test_when_a_log_probability_is_of_a_value_between_codes_then_it_is_of_the_rounded_one(model, batch):
    assert np.array_equal(model.log_prob(batch, [1.23456] * 3), model.log_prob(batch, [1.235] * 3))
    with pytest.raises(NumberRangeError):
        model.log_prob(batch, [1e30] * 3)


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-9])
def test_when_a_mean_is_asked_for_then_the_true_one_lies_in_its_bracket(any_model, batch, tolerance):
    _, values = all_codes(any_model.codec.format)
    probabilities = np.exp(brute_log_probs(any_model, batch))
    mean, error = any_model.mean(batch, tolerance, return_error=True)
    assert mean.shape == error.shape == (3,)
    assert np.array_equal(any_model.mean(batch, tolerance), mean)
    for row in range(3):
        support, mass = finite_part(values, probabilities[row])
        true = (support * mass).sum()
        slack = 1e-5 * (np.abs(support) * mass).sum()
        assert abs(mean[row] - true) <= error[row] + slack
        assert error[row] <= tolerance * abs(true) + slack


def test_when_the_tolerance_is_small_then_the_mean_of_a_large_format_is_bracketed_closely(model, batch):
    rough, rough_error = model.mean(batch, 0.1, return_error=True)
    close, close_error = model.mean(batch, 1e-3, return_error=True)
    assert (np.abs(rough - close) <= rough_error + close_error).all()
    assert (close_error <= 1e-3 * np.abs(close)).all() and (close_error <= rough_error).all()


@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-10])
def test_when_two_inputs_are_compared_then_the_probability_is_that_of_all_pairs_of_codes(any_model, batch, tolerance):
    _, values = all_codes(any_model.codec.format)
    probabilities = np.exp(brute_log_probs(any_model, batch))
    others = {name: rows[[1, 2, 0]] for name, rows in batch.items()}
    found = any_model.probability_less(batch, others, tolerance)
    for row, other in enumerate([1, 2, 0]):
        (a, p), (b, q) = finite_part(values, probabilities[row]), finite_part(values, probabilities[other])
        exact = ((p[:, None] * q) * ((a[:, None] < b) + 0.5 * (a[:, None] == b))).sum()
        assert found[row] == pytest.approx(exact, abs=tolerance + 1e-5)
    assert any_model.probability_less(batch, batch, 1e-10) == pytest.approx(0.5, abs=1e-6)
    assert any_model.probability_less(others, batch, 1e-10) + any_model.probability_less(
        batch, others, 1e-10
    ) == pytest.approx(1, abs=1e-6)


# Samples


def test_when_samples_are_drawn_then_their_frequencies_are_the_models(any_model, batch):
    _, values = all_codes(any_model.codec.format)
    probabilities = np.exp(brute_log_probs(any_model, batch))
    n = 20_000
    samples = any_model.sample(batch, n)
    assert samples.shape == (3, n, 1) and samples.dtype == np.float64
    bits = values.view(np.uint64)
    for row in range(3):
        drawn, counts = np.unique(samples[row, :, 0].view(np.uint64), return_counts=True)
        assert np.isin(drawn, bits).all()
        frequencies = np.zeros(len(values))
        frequencies[[int(np.flatnonzero(bits == b)[0]) for b in drawn]] = counts / n
        assert (np.abs(frequencies - probabilities[row]) < 5 * np.sqrt(probabilities[row] / n) + 2e-4).all()


def test_when_several_metrics_are_sampled_then_the_draws_are_joint(small_model, batch):
    codes, values = all_codes(small_model.codec.format)
    one = row_of(batch, 0)
    n = 40_000
    draws = small_model.sample(one, n, metrics=["a", "b"])[0]
    first = np.exp(brute_log_probs(small_model, one)[0])
    for i in np.argsort(-first)[:4]:
        chosen = draws[:, 0].view(np.uint64) == values[i : i + 1].view(np.uint64)
        assert chosen.mean() == pytest.approx(first[i], abs=5 * np.sqrt(first[i] / n))
        second = np.exp(brute_log_probs(small_model, one, codes[i])[0])
        for j in np.argsort(-second)[:4]:
            share = (draws[chosen, 1].view(np.uint64) == values[j : j + 1].view(np.uint64)).mean()
            assert share == pytest.approx(second[j], abs=5 * np.sqrt(second[j] / chosen.sum()))


def test_when_a_seed_is_given_then_draws_are_the_same_and_another_seed_gives_others(model, batch):
    first = model.sample(batch, 50, seed=3, metrics=["a", "b"])
    assert np.array_equal(model.sample(batch, 50, seed=3, metrics=["a", "b"]), first, equal_nan=True)
    assert not np.array_equal(model.sample(batch, 50, seed=4, metrics=["a", "b"]), first, equal_nan=True)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - neither global state may matter
    assert np.array_equal(model.sample(batch, 50, seed=3, metrics=["a", "b"]), first, equal_nan=True)


def test_when_a_batch_is_sampled_then_each_row_draws_as_alone_and_in_any_order(model, batch, alone):
    together = model.sample(batch, 40, seed=5, metrics=["a", "b"])
    for row, inputs in enumerate(alone):
        assert np.array_equal(model.sample(inputs, 40, seed=5, metrics=["a", "b"])[0], together[row], equal_nan=True)
    turned = {name: rows[[2, 0, 1]] for name, rows in batch.items()}
    assert np.array_equal(model.sample(turned, 40, seed=5, metrics=["a", "b"]), together[[2, 0, 1]], equal_nan=True)
    narrow = {name: rows.to(torch.int32) for name, rows in batch.items()}
    assert np.array_equal(model.sample(narrow, 40, seed=5, metrics=["a", "b"]), together, equal_nan=True)


def test_when_the_temperature_is_low_or_the_nucleus_small_then_draws_are_the_greedy_answer(any_model, batch):
    greedy = np.array(numbers_of(any_model, any_model.generate(**batch, num_objectives=2), 2))
    for options in ({"temperature": 1e-4}, {"top_p": 1e-6}):
        draws = any_model.sample(batch, 20, metrics=["a", "b"], **options)
        assert np.array_equal(draws, np.broadcast_to(greedy[:, None], draws.shape), equal_nan=True)


def test_when_the_nucleus_is_given_then_unlikely_first_tokens_are_never_drawn(small_model, batch):
    codes, _ = all_codes(small_model.codec.format)
    probabilities = np.exp(brute_log_probs(small_model, batch))
    draws = small_model.codec.encode(small_model.sample(batch, 3000, top_p=0.6)[:, :, 0])[:, :, 0]
    for row in range(3):
        tokens = np.unique(codes[:, 0])
        mass = np.array([probabilities[row, codes[:, 0] == t].sum() for t in tokens])
        order = np.argsort(-mass)
        kept = order[: int(np.searchsorted(np.cumsum(mass[order]), 0.6)) + 1]
        assert set(draws[row].tolist()) == set(tokens[kept].tolist())


# Several metrics


def test_when_values_are_given_then_the_others_are_conditioned_on_them(small_model, batch):
    codes, values = all_codes(small_model.codec.format)
    known = [2.0, "failed", 0.0]
    for row in range(3):
        log_probs = brute_log_probs(small_model, row_of(batch, row), code_of(small_model, known[row]))
        expected = brute_quantiles(values, np.exp(log_probs[0]))
        for inputs, value in ((batch, known), (row_of(batch, row), known[row]), (row_of(batch, row), [known[row]])):
            prediction = small_model.predict(inputs, LEVELS, metrics=["a", "b"], given={"a": value})
            assert (prediction.metrics, prediction.conditioning) == (("b",), "none")
            assert prediction.quantiles[row if inputs is batch else 0, 0].tolist() == expected
        picked = values[7]
        found = small_model.log_prob(row_of(batch, row), [picked], metrics=["a", "b"], given={"a": known[row]})
        assert found == pytest.approx(log_probs[:, [7]], abs=1e-4)
        support, mass = finite_part(values, np.exp(log_probs[0]))
        options = {"metrics": ["a", "b"], "given": {"a": known[row]}}
        assert small_model.cdf(row_of(batch, row), 0.5, **options)[0, 0] == pytest.approx(
            mass[support < 0.5].sum(), abs=1e-6
        )
        mean, error = small_model.mean(row_of(batch, row), 1e-9, return_error=True, **options)
        assert mean[0] == pytest.approx((support * mass).sum(), abs=error[0] + 1e-4)
    assert len(codes) == 56


def test_when_one_value_is_given_for_all_then_it_is_given_to_each(small_model, batch):
    one = small_model.predict(batch, LEVELS, metrics=["a", "b"], given={"a": 2.0}).quantiles
    each = small_model.predict(batch, LEVELS, metrics=["a", "b"], given={"a": np.array([2.0] * 3)}).quantiles
    other = small_model.predict(batch, LEVELS, metrics=["a", "b"], given={"a": -30.0}).quantiles
    assert np.array_equal(one, each) and not np.array_equal(one, other)


def test_when_conditioning_is_median_then_later_metrics_follow_the_medians(small_model, batch):
    _, values = all_codes(small_model.codec.format)
    prediction = small_model.predict(batch, LEVELS, metrics=["a", "b", "c"])
    assert prediction.metrics == ("a", "b", "c") and prediction.conditioning == "median"
    assert prediction.quantiles.shape == (3, 3, len(LEVELS))
    for row in range(3):
        before = []
        for index in range(3):
            probabilities = np.exp(brute_log_probs(small_model, row_of(batch, row), before)[0])
            assert prediction.quantiles[row, index].tolist() == brute_quantiles(values, probabilities)
            assert prediction.outcomes["failed"][row, index] == pytest.approx(
                probabilities[is_failed(values)].sum(), rel=1e-4
            )
            before = [*before, *code_of(small_model, brute_quantiles(values, probabilities, [0.5])[0])]


def test_when_metrics_are_scored_together_then_each_follows_those_before(small_model, batch):
    codes, values = all_codes(small_model.codec.format)
    picked = np.array([[3, 20], [40, 55], [11, 12]])
    found = small_model.log_prob(batch, values[picked], metrics=["a", "b"])
    for row, (i, j) in enumerate(picked):
        first = brute_log_probs(small_model, row_of(batch, row))[0, i]
        second = brute_log_probs(small_model, row_of(batch, row), codes[i])[0, j]
        assert found[row] == pytest.approx([first, second], abs=1e-4)


def second_metric(model, inputs):
    """Probabilities of the second number given each code of the first `(codes, codes)`, and of the first."""
    codes, _ = all_codes(model.codec.format)
    first = np.exp(brute_log_probs(model, inputs)[0])
    return first, np.array([np.exp(brute_log_probs(model, inputs, code)[0]) for code in codes])


def test_when_conditioning_is_marginal_then_it_is_the_mixture_over_the_paths(small_model, batch):
    _, values = all_codes(small_model.codec.format)
    for row in range(3):
        inputs = row_of(batch, row)
        first, second = second_metric(small_model, inputs)
        finite = np.isfinite(values)
        points = brute_quantiles(values, first, (np.arange(4) + 0.5) / 4)
        weights = np.zeros(len(values))
        for point in points:
            weights[np.flatnonzero(values == point)[0]] += first[finite].sum() / 4
        weights[is_failed(values)] = first[is_failed(values)]
        mixture = weights @ second
        prediction = small_model.predict(inputs, LEVELS, metrics=["a", "b"], conditioning="marginal", paths=4)
        assert prediction.conditioning == "marginal"
        assert prediction.quantiles[0, 0].tolist() == brute_quantiles(values, first)
        assert prediction.quantiles[0, 1].tolist() == brute_quantiles(values, mixture)
        assert prediction.outcomes["failed"][0, 1] == pytest.approx(mixture[is_failed(values)].sum(), rel=1e-4)


def test_when_paths_are_many_then_the_marginal_is_exact(small_model, batch):
    _, values = all_codes(small_model.codec.format)
    inputs = row_of(batch, 0)
    first, second = second_metric(small_model, inputs)
    options = {"metrics": ["a", "b"], "conditioning": "marginal", "paths": 1000}
    found = small_model.predict(inputs, LEVELS, **options).quantiles[0, 1]
    support, mass = finite_part(values, first @ second)
    for level, value in zip(LEVELS, found, strict=True):
        assert mass[support < value].sum() - 5e-3 <= level <= mass[support <= value].sum() + 5e-3


@pytest.mark.parametrize("conditioning", ["median", "marginal"])
def test_when_a_batch_is_predicted_then_rows_are_as_alone(small_model, model, batch, alone, conditioning):
    # In the large format a code holds so little mass that rounding in float32 may move a quantile to the next one.
    for net, tolerance in ((small_model, 0), (model, 1.1e-3)):
        options = {"metrics": ["a", "b", "c"], "conditioning": conditioning, "paths": 5}
        together = net.predict(batch, (0.1, 0.5, 0.9), **options)
        turned = net.predict({name: rows[[2, 0, 1]] for name, rows in batch.items()}, (0.1, 0.5, 0.9), **options)
        assert np.allclose(turned.quantiles, together.quantiles[[2, 0, 1]], rtol=tolerance, atol=0)
        for row, inputs in enumerate(alone):
            one = net.predict(inputs, (0.1, 0.5, 0.9), **options)
            assert np.allclose(one.quantiles[0], together.quantiles[row], rtol=tolerance, atol=0)
            for name in one.outcomes:
                assert one.outcomes[name][0] == pytest.approx(together.outcomes[name][row], abs=1e-5)


def test_when_answers_other_than_quantiles_are_batched_then_rows_are_as_alone(model, batch, alone):
    questions = (
        lambda inputs: model.cdf(inputs, [1.0, -2.0, 1e5]),
        lambda inputs: model.mean(inputs),
        lambda inputs: model.log_prob(inputs, [1.5] * len(inputs["input_ids"])),
        lambda inputs: model.probability_less(inputs, inputs),
    )
    for ask in questions:
        together = ask(batch)
        for row, inputs in enumerate(alone):
            assert ask(inputs)[0] == pytest.approx(together[row], rel=1e-3, abs=1e-5)


# How it is asked


def test_when_inputs_are_encoded_once_then_every_question_can_be_asked_of_them(model, batch):
    encoded = model.encode(batch)
    assert len(encoded) == 3 and model.encode(encoded) is encoded
    questions = (
        lambda inputs: model.predict(inputs, metrics=["a", "b"]).quantiles,
        lambda inputs: model.cdf(inputs, 1.0),
        lambda inputs: model.mean(inputs),
        lambda inputs: model.sample(inputs, 7),
        lambda inputs: model.log_prob(inputs, [1.0, FAILED, 0.0]),
        lambda inputs: model.probability_less(inputs, inputs),
    )
    for ask in questions:
        assert np.array_equal(ask(encoded), ask(batch), equal_nan=True)


def test_when_everything_is_asked_then_the_callers_are_not_changed_and_training_goes_on(make_model, batch):
    model = make_model().train()
    inputs = copy.deepcopy(batch)
    metrics, known = ["a", "b"], {"a": np.array([1.0, 2.0, 3.0])}
    options = {"metrics": metrics, "given": known}
    model.predict(inputs, [0.5], **options)
    model.predict(inputs, [0.5], metrics=metrics, conditioning="marginal", paths=3)
    model.cdf(inputs, 1.0, **options)
    model.log_prob(inputs, [1.0] * 3, **options)
    model.mean(inputs, **options)
    model.sample(inputs, 3, **options)
    model.probability_less(inputs, inputs)
    assert model.training and model.encoder.training and model.decoder.training
    assert all(torch.equal(inputs[name], batch[name]) for name in batch) and inputs.keys() == batch.keys()
    assert metrics == ["a", "b"] and known["a"].tolist() == [1.0, 2.0, 3.0]
    labels = torch.from_numpy(model.codec.encode([1.0, 2.0, 3.0]))
    model(**inputs, labels=labels).loss.backward()  # nothing was left behind by inference
    evaluated = make_model().eval()
    evaluated.predict(batch)
    assert not evaluated.training


def test_when_dropout_is_on_then_answers_are_still_exact(make_model, batch):
    model = make_model(decoder_dropout=0.5).train()
    first = model.predict(batch).quantiles
    assert np.array_equal(model.predict(batch).quantiles, first)
    assert np.array_equal(model.eval().predict(batch).quantiles, first)


def test_when_the_question_fails_then_training_still_goes_on(make_model, batch):
    model = make_model().train()
    with pytest.raises(RLMError):
        model.predict(batch, metrics=["a", "b"], given={"a": 1e99})
    assert model.training


@pytest.mark.parametrize("number_format", [NumberFormat.p10(2, 2), NumberFormat.p10()])
def test_when_the_layout_is_p10_then_quantiles_are_refused_and_other_answers_work(make_model, batch, number_format):
    model = make_model(number_format=number_format.to_dict())
    for options in ({}, {"metrics": ["a", "b"], "conditioning": "marginal"}):
        with pytest.raises(MetricError, match=r"p10 layout are not ordered.*Use sample\(\) or generate\(\)"):
            model.predict(batch, **options)
    assert np.isfinite(model.sample(batch, 10, metrics=["a", "b"])).all()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m, x: m.predict(x, []), r"Quantile levels must lie strictly between 0 and 1, got \[\]"),
        (lambda m, x: m.predict(x, 0), r"strictly between 0 and 1, got \[0\]"),
        (lambda m, x: m.predict(x, [0.5, 1.0]), r"strictly between 0 and 1, got \[0.5, 1.0\]"),
        (lambda m, x: m.predict(x, [-0.1]), "strictly between 0 and 1"),
        (lambda m, x: m.predict(x, [float("nan")]), "strictly between 0 and 1"),
        (lambda m, x: m.predict(x, conditioning="mean"), "conditioning must be 'median' or 'marginal', got 'mean'"),
        (lambda m, x: m.predict(x, metrics=[]), r"metrics must name each metric once, got \[\]"),
        (lambda m, x: m.predict(x, metrics=["a", "a"]), "must name each metric once"),
        (lambda m, x: m.predict(x, metrics="ab"), r"metrics must be a list of names, .*metrics=\['ab'\]"),
        (lambda m, x: m.predict(x, metrics=["a", "b", "c", "d"]), "4 metrics asked for; this model answers at most 3"),
        (lambda m, x: m.predict(x, metrics=["a"], given={"b": 1}), r"given names \['b'\], which metrics does not"),
        (lambda m, x: m.predict(x, metrics=["a", "b"], given={"b": 1}), r"come first .*put \['b'\] at the start"),
        (lambda m, x: m.predict(x, metrics=["a"], given={"a": 1}), "Every metric is given; leave at least one"),
        (lambda m, x: m.predict(x, metrics=["a", "b"], given={"a": [1, 2]}), r"given\['a'\] .*each of the 3 inputs"),
        (
            lambda m, x: m.predict(x, metrics=["a", "b"], given={"a": [[1], [2], [3]]}),
            r"given\['a'\] must be one value",
        ),
        (lambda m, x: m.predict(x, metrics=["a", "b"], given={"a": True}), "A bool is not a measurement"),
        (lambda m, x: m.cdf(x, float("nan")), "A threshold is NaN"),
        (
            lambda m, x: m.cdf(x, [[1.0], [2.0]]),
            r"thresholds must be \(thresholds,\) or \(3, thresholds\), got \(2, 1\)",
        ),
        (lambda m, x: m.cdf(x, np.zeros((3, 1, 1))), "thresholds must be"),
        (lambda m, x: m.log_prob(x, [1.0, 2.0]), r"values must have shape \(3, 1\), got \(2,\)"),
        (lambda m, x: m.log_prob(x, 1.0), r"values must have shape \(3, 1\)"),
        (lambda m, x: m.log_prob(x, np.ones((2, 3)), metrics=["a", "b"]), r"shape \(3, 2\), got \(2, 3\)"),
        (lambda m, x: m.log_prob(x, np.ones(6), metrics=["a", "b"]), r"shape \(3, 2\), got \(6,\)"),
        (lambda m, x: m.mean(x, 0), "tolerance must be above zero, got 0"),
        (lambda m, x: m.sample(x, 0), "needs n >= 1.*got 0, 1.0, 1.0"),
        (lambda m, x: m.sample(x, 1, temperature=0), "temperature > 0"),
        (lambda m, x: m.sample(x, 1, top_p=1.5), r"top_p in \(0, 1\]"),
        (lambda m, x: m.probability_less(x, row_of(x, 0)), "3 inputs cannot be paired with 1 others"),
    ],
)
def test_when_a_question_makes_no_sense_then_the_message_says_why(model, batch, ask, message):
    with pytest.raises(RLMError, match=message):
        ask(model, batch)


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_ids": torch.zeros(3, dtype=torch.long)},
        {"input_ids": torch.zeros((0, 4), dtype=torch.long)},
        {"input_ids": torch.zeros((2, 0), dtype=torch.long)},
        {"input_ids": torch.ones((2, 4), dtype=torch.long), "attention_mask": torch.ones((2, 3))},
    ],
)
def test_when_token_ids_have_no_rows_or_columns_then_the_message_gives_the_shape(model, inputs):
    with pytest.raises(
        ValueError, match=r"input_ids must be a non-empty \(batch, length\) with a mask of its shape, got \("
    ):
        model.predict(inputs)
