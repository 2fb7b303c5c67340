"""Experts: a score's distribution pooled into the digit tree, and how its weight is found."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from test_lexical import fitted, source_of
from toy import options_of

from code_rlm import CheckpointError, load
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.expert_rlm import LexicalExpert, token_cells
from code_rlm.inputs_rlm import format_header
from code_rlm.lexical_rlm import LexicalSettings, ScoreScale
from code_rlm.numbers_rlm import NumberCodec, NumberFormat
from code_rlm.train import train
from code_rlm.training.experts import MOST_COST, OWN_POWERS, POWERS, Evidence, Ruler, best_expert, fit_experts, guard
from code_rlm.training.lexical import settings_for, token_texts
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, TrainOptions

ABOUT_TEN = LexicalExpert(0.1, 0.3, 1.0)
LOGARITHM = ScoreScale(True, (0.0, 1.0), (0.0, 1.0))


@pytest.fixture(scope="module")
def expert_model(make_model, small_format):
    """Writes one digit and three exponents, about the score of its one channel."""
    model = make_model(
        number_format=small_format.to_dict(),
        lexical=LexicalSettings(channels=("a_ms",), buckets=64, scales=(LOGARITHM,)).to_dict(),
        metrics=[{"name": "a_ms", "unit": "ms"}, {"name": "b_ms", "unit": "ms"}],
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        model.lexical.weight.normal_(generator=generator)
    model.config.experts = {"a_ms": LexicalExpert(0.2, 0.5, 1.0).to_dict()}
    return model


def all_codes(codec):
    """Every code of a small format."""
    grown = [((), codec.START)]
    for _ in range(codec.length):
        grown = [
            ((*code, int(t)), int(codec.transitions[state, t]))
            for code, state in grown
            for t in np.flatnonzero(codec.allowed[state])
        ]
    return np.array([code for code, _ in grown])


def test_when_cells_are_laid_side_by_side_then_they_cover_the_line_once(small_format):
    codec = NumberCodec(NumberFormat(mantissa_digits=2, min_exponent=-1, max_exponent=1, specials=("failed",)))
    start = np.array([[codec.ids["<+>"]], [codec.ids["<->"]]])
    low, high, finite = token_cells(codec, start, codec.states(start)[:, -1])
    for row, order in ((0, 1), (1, -1)):
        ends = [(a, b) for a, b, keep in zip(low[row], high[row], finite[row], strict=True) if keep]
        ends = ends[::order]
        assert len(ends) == 3
        for (_, before), (after, _) in itertools.pairwise(ends):
            assert before == pytest.approx(after, rel=1e-9)


def test_when_a_score_speaks_then_the_numbers_nearest_to_it_gain(expert_model, batch):
    encoded = expert_model.encode(batch)
    encoded.scores[:] = np.log([[0.3], [5.0], [70.0]])
    medians = expert_model.predict(encoded, (0.5,), metrics=["a_ms"]).quantiles[:, 0, 0]
    assert medians.tolist() == pytest.approx([0.3, 5.0, 70.0], rel=0.35)
    other = expert_model.predict(encoded, (0.5,), metrics=["b_ms"]).quantiles[:, 0, 0]
    expert_free = dict(expert_model.config.experts)
    expert_model.config.experts = {}
    try:
        alone = expert_model.predict(encoded, (0.5,), metrics=["b_ms"]).quantiles[:, 0, 0]
    finally:
        expert_model.config.experts = expert_free
    assert other.tolist() == alone.tolist()


def test_when_all_codes_are_asked_for_then_they_sum_to_one_and_quantiles_cdf_and_draws_agree(expert_model, batch):
    codec, rows = expert_model.codec, len(batch["input_ids"])
    values = codec.decode(all_codes(codec))
    encoded = expert_model.encode(batch)
    probs = np.exp(
        np.stack([expert_model.log_prob(encoded, np.full(rows, v), metrics=["a_ms"])[:, 0] for v in values], 1)
    )
    assert probs.sum(1) == pytest.approx(np.ones(rows), abs=1e-9)
    finite = np.isfinite(values)
    order = np.argsort(values[finite])
    running = np.cumsum(probs[:, finite][:, order], 1) / probs[:, finite].sum(1, keepdims=True)
    found = expert_model.predict(encoded, (0.1, 0.5, 0.9), metrics=["a_ms"]).quantiles[:, 0]
    for row in range(rows):
        wanted = [values[finite][order][np.searchsorted(running[row], level)] for level in (0.1, 0.5, 0.9)]
        assert found[row].tolist() == wanted
    below = expert_model.cdf(encoded, [2.0], metrics=["a_ms"])[:, 0]
    assert below == pytest.approx((probs * (finite & (values < 2.0))).sum(1) / (probs * finite).sum(1), abs=1e-6)
    draws = expert_model.sample(encoded, 4000, metrics=["a_ms"])[:, :, 0]
    drawn = np.nanmean(np.where(np.isfinite(draws), draws < 2.0, np.nan), 1)
    assert drawn == pytest.approx(below, abs=0.04)


def test_when_the_experts_power_is_zero_then_the_decoder_answers_alone():
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(5), 4))
    finite = np.tile([True, True, True, True, False], (4, 1))
    masses = rng.random((4, 5))
    alone = dataclasses.replace(ABOUT_TEN, own_power=1.0, power=0.0).pool(log_probs, masses, finite)
    assert np.allclose(alone, log_probs)
    pooled = ABOUT_TEN.pool(log_probs, masses, finite)
    assert np.allclose(np.exp(pooled).sum(1), 1) and np.allclose(pooled[:, 4], log_probs[:, 4])
    # What the grammar forbids stays forbidden, and an expert without an opinion has none.
    log_probs[0, 1] = -np.inf
    assert ABOUT_TEN.pool(log_probs, np.zeros_like(masses), finite)[0, 1] == -np.inf


def test_when_values_lie_far_from_the_score_then_masses_keep_their_ratio():
    low, high = np.array([1e6, 1e9]), np.array([1.1e6, 1.1e9])
    near, far = ABOUT_TEN.masses(LOGARITHM.score(low), LOGARITHM.score(high), np.full(2, np.log(10)))
    assert 0 < far < near < 1e-40
    # A logistic tail: the mass falls by exp(-distance / spread).
    assert np.log(near / far) == pytest.approx(np.log(1000) / 0.1, rel=1e-6)


def test_when_held_out_rows_are_told_by_the_score_then_the_expert_stays_and_helps(make_model, tokenizer):
    rng = np.random.default_rng(0)
    train, held_out = source_of(tokenizer, rng), source_of(tokenizer, rng, 80)
    model, mixture, _ = fitted(make_model, tokenizer, train, [held_out])
    model.config.metrics = [{"name": "t_ms", "unit": "ms", "smaller_is_better": True, "description": "", "kinds": []}]
    batch = mixture.collate([mixture.build(held_out, row, [0]) for row in range(80)])
    said = []
    fit_experts(model, [held_out], mixture, said.append)
    expert = model.config.expert_of("t_ms")
    assert expert.power > 0 and "gains" in said[0]
    after = model.predict(batch, (0.5,), metrics=["t_ms"]).quantiles[:, 0, 0]
    truth = held_out.values[:, 0]
    assert spearmanr(after, truth).statistic > 0.75
    # What the fit promised is what the model's quantiles gain, CRPS being twice the mean pinball loss of all of them.
    own, promised = RLMConfig.from_dict(model.config.to_dict()), float(said[0].split("gains ")[1].split(" ")[0])
    levels, scale = tuple((np.arange(100) + 0.5) / 100), model.lexical.settings.scale_of("t_ms")

    def crps():
        found = scale.score(model.predict(batch, levels, metrics=["t_ms"]).quantiles[:, 0])
        error = scale.score(truth)[:, None] - found
        return 2 * np.where(error > 0, levels * error, (np.array(levels) - 1) * error).mean()

    pooled = crps()
    model.config.experts = {}
    assert 1 - pooled / crps() == pytest.approx(promised, abs=0.05) and promised > 0.1
    assert own.expert_of("t_ms") == expert


def test_when_the_score_is_noise_then_the_expert_is_as_wide(make_model, tokenizer):
    train = source_of(tokenizer, np.random.default_rng(0), informative=False)
    held_out = source_of(tokenizer, np.random.default_rng(1), 60, informative=False)
    model, mixture, _ = fitted(make_model, tokenizer, train, [held_out])
    held_out.lexical_scores[:] = np.random.default_rng(2).normal(0, 40, held_out.lexical_scores.shape)
    said = []
    fit_experts(model, [held_out], mixture, said.append)
    kept = model.config.expert_of("t_ms")
    # A decoder that was never trained gains from any idea of the size, but only from one as wide as the noise.
    assert kept.spread > 10 and kept.own_power == 0


def evidence_of(codec, values, log_probs, scores, errors=1.0):
    """Held-out rows of a metric whose scores are its logarithms."""
    codes = codec.encode(values)
    states = codec.states(codes)[:, :-1]
    log_probs = np.where(codec.allowed[states], log_probs, -np.inf)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    cells = [token_cells(codec, codes[:, :place], states[:, place]) for place in range(codes.shape[1])]
    low, high, finite = (np.stack(parts, 1) for parts in zip(*cells, strict=True))
    return Evidence(
        *(log_probs, codes, LOGARITHM.score(low), LOGARITHM.score(high), finite),
        scores=scores,
        errors=np.broadcast_to(errors, len(values)),
        truth=np.log(values),
        groups=np.arange(len(values)).astype(str),
    )


def test_when_the_score_alone_speaks_then_its_crps_is_that_of_a_logistic_distribution(make_model):
    codec, rng = make_model().codec, np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, 40))
    codes = codec.encode(values)
    evidence = evidence_of(
        codec, values, np.zeros((*codes.shape, codec.vocab_size)), np.log(values) + rng.normal(0, 1, 40)
    )
    for spread in (0.05, 0.3, 1.0):
        found = evidence.crps(LexicalExpert(spread, 0.0, 1.0, floor=1e-9), Ruler(evidence, spread))
        z = (evidence.truth - evidence.scores) / spread
        # Gneiting and Raftery's formula, the error by far distances written without overflow.
        known = spread * (np.abs(z) + 2 * np.log1p(np.exp(-np.abs(z))) - 1)
        assert found == pytest.approx(known, rel=0.05, abs=0.02 * spread)


def test_when_some_scores_err_farther_than_others_then_an_expert_is_as_wide_as_each(make_model):
    codec, rng = make_model().codec, np.random.default_rng(2)
    values, errors = np.exp(rng.normal(0, 1, 200)), np.tile([0.02, 0.4], 100)
    flat, scores = np.zeros((*codec.encode(values).shape, codec.vocab_size)), np.log(values) + rng.logistic(0, errors)
    known, unknown = (evidence_of(codec, values, flat, scores, each) for each in (errors, 1.0))
    found = best_expert(known)
    assert 0.4 < found.expert.spread < 1.5  # in units of the errors
    # Rows that err little are told with less doubt, and none of the others with more than before.
    ruler = Ruler(known, found.expert.spread)
    narrow, wide = known.crps(found.expert, ruler), unknown.crps(best_expert(unknown).expert, ruler)
    assert narrow[::2].mean() < 0.6 * wide[::2].mean() and narrow[1::2].mean() < 1.02 * wide[1::2].mean()
    spread = LexicalExpert(0.3, 0.0, 1.0, floor=1e-9)
    together = known.crps(spread, Ruler(known, 0.3))
    z = (known.truth - known.scores) / (0.3 * errors)
    assert together == pytest.approx(
        0.3 * errors * (np.abs(z) + 2 * np.log1p(np.exp(-np.abs(z))) - 1), rel=0.05, abs=0.01
    )


def test_when_scores_err_farther_on_one_kind_of_text_then_its_intervals_are_wider(make_model, tokenizer):
    model = make_model(max_input_tokens=128)
    settings = dataclasses.replace(
        settings_for(tokenizer, buckets=64, structure_buckets=8), channels=("a_ms",), scales=(LOGARITHM,),
        structured={"a_ms": ("onnx", "onnx gelu", "onnx relu")}, errors=(0.0, 0.5, 0.1, 0.2),
    )  # fmt: skip
    model.add_lexical_path(settings)
    model.lexical.read_vocabulary(token_texts(tokenizer))
    model.config.experts = {"a_ms": LexicalExpert(1.0, 0.0, 1.0).to_dict()}
    texts = ["in 1 8\ngelu", "in 1 8\nrelu", "in 1 8\nfc 8", "print(1)", "in 1 8\nrelu\ngelu"]
    headers = [format_header(["a_ms"], language, []) for language in ("onnx", "onnx", "onnx", "python", "onnx")]
    batch = tokenizer([a + b for a, b in zip(headers, texts, strict=True)], padding=True, return_tensors="pt")
    found = model.lexical.errors(model.lexical.words(batch["input_ids"], batch["attention_mask"]))
    # Of two kinds that suit the last; of what nobody knows the channel's widest.
    assert found[:, 0].tolist() == [0.1, 0.2, 0.5, 0.5, 0.2]
    low, high = np.log(model.predict(batch, (0.05, 0.95), metrics=["a_ms"]).quantiles[:, 0]).T
    expected = 2 * np.log(19)  # between the quantiles of a standard logistic distribution
    assert high - low == pytest.approx(expected * found[:, 0], rel=0.05)


def test_when_a_decoder_knows_last_digits_and_not_the_first_then_the_score_is_heard(make_model):
    """It takes a number for another one, but given the first digits it knows the rest; likelihood hears the rest."""
    codec, rng = make_model().codec, np.random.default_rng(1)
    values = np.exp(rng.normal(0, 1, 60))
    codes, taken = codec.encode(values), codec.encode(rng.permutation(values))
    log_probs = np.zeros((*codes.shape, codec.vocab_size))
    np.put_along_axis(log_probs[:, :3], taken[:, :3, None], 5.0, 2)
    np.put_along_axis(log_probs[:, 3:], codes[:, 3:, None], 12.0, 2)
    evidence = evidence_of(codec, values, log_probs, np.log(values) + rng.logistic(0, 0.3, 60))
    found = best_expert(evidence)
    ruler = Ruler(evidence, found.expert.spread)
    tried = [
        LexicalExpert(found.expert.spread, own, power) for own in OWN_POWERS for power in POWERS if own + power > 0
    ]
    likeliest = max(tried, key=lambda expert: evidence.log_likelihood(expert).mean())
    chosen, other = (evidence.crps(expert, ruler).mean() for expert in (found.expert, likeliest))
    assert chosen < 0.95 * other and found.expert.own_power < likeliest.own_power and "of the CRPS" in str(found)


def test_when_a_decoder_is_sure_of_no_number_at_all_then_every_crps_is_a_number(make_model):
    codec, rng = make_model().codec, np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, 20))
    shape = (len(values), codec.length, codec.vocab_size)
    log_probs = np.zeros(shape)
    log_probs[:5, 0] = -400.0
    log_probs[:5, 0, next(iter(codec.outcome_tokens.values()))] = 400.0
    found = best_expert(evidence_of(codec, values, log_probs, np.log(values) + rng.logistic(0, 0.3, 20)))
    assert np.isfinite([found.gain, found.error]).all() and found.expert.power > 0


def test_when_no_truth_has_a_score_then_there_is_no_expert_to_choose(make_model, tokenizer):
    train, held_out = (source_of(tokenizer, np.random.default_rng(seed), 60) for seed in range(2))
    model, mixture, _ = fitted(make_model, tokenizer, train, [held_out])
    held_out.values[:] = 0.0
    assert model.lexical.settings.scale_of("t_ms").logarithm
    said = []
    fit_experts(model, [held_out], mixture, said.append)
    assert "a guard" in said[0]


def test_when_a_decoder_strays_into_another_unit_then_the_guard_makes_that_rare(make_model):
    codec, rng = make_model().codec, np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, 40))
    scores = np.log(values) + rng.logistic(0, 0.3, 40)
    codes = codec.encode(values)
    shape = (*codes.shape, codec.vocab_size)
    sure = np.zeros(shape)
    np.put_along_axis(sure, codes[..., None], 8.0, 2)
    watched = guard(evidence_of(codec, values, sure, scores))
    assert abs(watched.gain) < MOST_COST  # an answer that is right stays as it is
    # Its exponent is told three times out of ten as that of a number a million times as large.
    astray = sure.copy()
    np.put_along_axis(astray, codec.encode(values * 1e6)[..., None], np.log(0.3 / 0.7) + 8.0, 2)
    np.put_along_axis(astray, codes[..., None], 8.0, 2)
    evidence = evidence_of(codec, values, astray, scores)
    lost = [np.exp(evidence.log_likelihood(expert)).mean() for expert in (None, watched.expert)]
    assert lost[0] < 0.75 and lost[1] > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"spread": 0.0}, "a spread above 0"), ({"power": float("nan")}, "finite numbers")],
)
def test_when_an_expert_is_wrong_then_the_error_says_so(changes, message):
    with pytest.raises(CheckpointError, match=message):
        LexicalExpert.from_dict({**ABOUT_TEN.to_dict(), **changes})


def test_when_an_expert_has_no_channel_then_the_config_is_refused(make_config):
    with pytest.raises(CheckpointError, match="no fitted lexical channel"):
        make_config(experts={"a_ms": ABOUT_TEN.to_dict()})


def test_when_there_are_no_steps_then_the_path_is_fitted_and_all_that_is_trained_stays(toy, tmp_path):
    first = train(options_of(toy, tmp_path / "first", "--steps", 4, "--lexical", "{buckets: 64}"))
    flags = ["--init", first, "--model", "{}", "--steps", 0, "--lexical", "{trees: 3}"]
    out = train(options_of(toy, tmp_path / "second", *flags))
    assert train(options_of(toy, tmp_path / "second", *flags)) == out  # once ended it stays so
    before, after = (load(path)[0] for path in (first, out))
    own = dict(before.named_parameters())
    assert all(torch.equal(own[name], p) for name, p in after.named_parameters())
    assert after.lexical.settings.trees == 3 and after.lexical.tree_left.any()
    with pytest.raises(TrainError, match="nothing for patience or lora"):
        options_of(toy, tmp_path / "third", *flags, "--patience", 2)
    with pytest.raises(TrainError, match="and there is none"):
        train(options_of(toy, tmp_path / "third", "--steps", 0))


def test_when_there_are_no_steps_then_only_metrics_that_are_fitted_anew_lose_their_expert(
    make_model, tokenizer, tmp_path
):
    model, _, _ = fitted(make_model, tokenizer, source_of(tokenizer, np.random.default_rng(0)))
    model.config.experts = {"t_ms": ABOUT_TEN.to_dict()}
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")

    def kept(steps, *metrics):
        options = TrainOptions(data=[{}], max_objectives=3, init=str(tmp_path / "base"), steps=steps)
        entries = [{"name": name, "unit": "ms", "smaller_is_better": True, "kinds": ["python"]} for name in metrics]
        return build_model(options, tokenizer, entries).config.experts

    assert kept(0) == kept(0, "other_ms") == {"t_ms": ABOUT_TEN.to_dict()}
    assert kept(0, "t_ms") == kept(1) == {}
