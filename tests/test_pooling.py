"""Pooling: a score's distribution pooled into the digit tree, and how its weights are fitted."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from test_ensemble import fitted, source_of
from toy import options_of

from code_rlm import CheckpointError, load
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.digit_tree_rlm import token_cells
from code_rlm.distributions_rlm import PoolingComponent, ScoreScale
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.features_rlm import FeatureLayout
from code_rlm.numbers_rlm import NumberCodec, NumberFormat
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.train import train
from code_rlm.training.ensemble import settings_for
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, make_options
from code_rlm.training.pooling import (
    DECODER_WEIGHTS,
    MOST_COST,
    WEIGHTS,
    CrpsGrid,
    PoolingRows,
    best_component,
    fallback,
    fit_pooling,
)

ABOUT_TEN = PoolingComponent(0.1, 0.3, 1.0)
LOGARITHM = ScoreScale(True, (0.0, 1.0), (0.0, 1.0))


@pytest.fixture(scope="module")
def pooled_model(make_model, small_format):
    """Writes one digit and three exponents, about the score of its one metric."""
    model = make_model(
        number_format=small_format.to_dict(),
        ensemble=EnsembleConfig(FeatureLayout(buckets=64), metrics=("a_ms",), scales=(LOGARITHM,)).to_dict(),
        metrics=[{"name": "a_ms", "unit": "ms"}, {"name": "b_ms", "unit": "ms"}],
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        model.ensemble.weight.normal_(generator=generator)
    model.config.fitted.pooling = {"a_ms": PoolingComponent(0.2, 0.5, 1.0)}
    return model


@pytest.fixture
def featured(pooled_model, batch):
    """The shared batch with features, drawn at random."""
    size = pooled_model.ensemble.settings.input_size
    return {**batch, "features": torch.randn((3, size), generator=torch.Generator().manual_seed(5))}


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


def test_when_a_metric_has_a_component_then_numbers_near_its_score_gain(pooled_model, featured):
    encoded = pooled_model.encode(featured)
    encoded.scores[:] = np.log([[0.3], [5.0], [70.0]])
    medians = pooled_model.predict(encoded, (0.5,), metrics=["a_ms"]).quantiles[:, 0, 0]
    assert medians.tolist() == pytest.approx([0.3, 5.0, 70.0], rel=0.35)
    other = pooled_model.predict(encoded, (0.5,), metrics=["b_ms"]).quantiles[:, 0, 0]
    components = dict(pooled_model.config.fitted.pooling)
    pooled_model.config.fitted.pooling = {}
    try:
        alone = pooled_model.predict(encoded, (0.5,), metrics=["b_ms"]).quantiles[:, 0, 0]
    finally:
        pooled_model.config.fitted.pooling = components
    assert other.tolist() == alone.tolist()


def test_when_all_codes_are_asked_for_then_they_sum_to_one_and_quantiles_cdf_and_draws_agree(pooled_model, featured):
    codec, rows = pooled_model.codec, len(featured["input_ids"])
    values = codec.decode(all_codes(codec))
    encoded = pooled_model.encode(featured)
    probs = np.exp(
        np.stack([pooled_model.log_prob(encoded, np.full(rows, v), metrics=["a_ms"])[:, 0] for v in values], 1)
    )
    assert probs.sum(1) == pytest.approx(np.ones(rows), abs=1e-9)
    finite = np.isfinite(values)
    order = np.argsort(values[finite])
    running = np.cumsum(probs[:, finite][:, order], 1) / probs[:, finite].sum(1, keepdims=True)
    found = pooled_model.predict(encoded, (0.1, 0.5, 0.9), metrics=["a_ms"]).quantiles[:, 0]
    for row in range(rows):
        wanted = [values[finite][order][np.searchsorted(running[row], level)] for level in (0.1, 0.5, 0.9)]
        assert found[row].tolist() == wanted
    below = pooled_model.cdf(encoded, [2.0], metrics=["a_ms"])[:, 0]
    assert below == pytest.approx((probs * (finite & (values < 2.0))).sum(1) / (probs * finite).sum(1), abs=1e-6)
    draws = pooled_model.sample(encoded, 4000, metrics=["a_ms"])[:, :, 0]
    drawn = np.nanmean(np.where(np.isfinite(draws), draws < 2.0, np.nan), 1)
    assert drawn == pytest.approx(below, abs=0.04)


def test_when_the_components_weight_is_zero_then_the_decoder_answers_alone():
    rng = np.random.default_rng(0)
    log_probs = np.log(rng.dirichlet(np.ones(5), 4))
    finite = np.tile([True, True, True, True, False], (4, 1))
    masses = rng.random((4, 5))
    alone = dataclasses.replace(ABOUT_TEN, decoder_weight=1.0, weight=0.0).pool(log_probs, masses, finite)
    assert np.allclose(alone, log_probs)
    pooled = ABOUT_TEN.pool(log_probs, masses, finite)
    assert np.allclose(np.exp(pooled).sum(1), 1) and np.allclose(pooled[:, 4], log_probs[:, 4])
    # What the grammar forbids stays forbidden, and a component without mass changes nothing.
    log_probs[0, 1] = -np.inf
    assert ABOUT_TEN.pool(log_probs, np.zeros_like(masses), finite)[0, 1] == -np.inf


def test_when_values_lie_far_from_the_score_then_masses_keep_their_ratio():
    low, high = np.array([1e6, 1e9]), np.array([1.1e6, 1.1e9])
    near, far = ABOUT_TEN.masses(LOGARITHM.score(low), LOGARITHM.score(high), np.full(2, np.log(10)))
    assert 0 < far < near < 1e-40
    # A logistic tail: the mass falls by exp(-distance / scale).
    assert np.log(near / far) == pytest.approx(np.log(1000) / 0.1, rel=1e-6)


def test_when_scores_predict_held_out_rows_then_the_component_stays_and_helps(make_model, tokenizer):
    rng = np.random.default_rng(0)
    train, held_out = source_of(tokenizer, rng), source_of(tokenizer, rng, 80)
    model, mixture, _ = fitted(make_model, tokenizer, train, [held_out])
    model.config.metrics = [
        {"name": "t_ms", "unit": "ms", "smaller_is_better": True, "description": "", "languages": []}
    ]
    items = [mixture.build(held_out, row, [0]) for row in range(80)]
    batch = RLMProcessor(tokenizer, model.config).collate(items)
    lines = []
    fit_pooling(model, [held_out], mixture, lines.append)
    component = model.config.fitted.pooling_of("t_ms")
    assert component.weight > 0 and "gains" in lines[0]
    after = model.predict(batch, (0.5,), metrics=["t_ms"]).quantiles[:, 0, 0]
    truth = held_out.values[:, 0]
    assert spearmanr(after, truth).statistic > 0.75
    # What the fit promised is what the model's quantiles gain, CRPS being twice the mean pinball loss of all of them.
    own, promised = RLMConfig.from_dict(model.config.to_dict()), float(lines[0].split("gains ")[1].split(" ")[0])
    levels, scale = tuple((np.arange(100) + 0.5) / 100), model.ensemble.settings.scale_of("t_ms")

    def crps():
        found = scale.score(model.predict(batch, levels, metrics=["t_ms"]).quantiles[:, 0])
        error = scale.score(truth)[:, None] - found
        return 2 * np.where(error > 0, levels * error, (np.array(levels) - 1) * error).mean()

    pooled = crps()
    model.config.fitted.pooling = {}
    assert 1 - pooled / crps() == pytest.approx(promised, abs=0.05) and promised > 0.1
    assert own.fitted.pooling_of("t_ms") == component


def test_when_the_score_is_noise_then_the_component_is_as_wide(make_model, tokenizer):
    train = source_of(tokenizer, np.random.default_rng(0), informative=False)
    held_out = source_of(tokenizer, np.random.default_rng(1), 60, informative=False)
    model, mixture, _ = fitted(make_model, tokenizer, train, [held_out])
    held_out.ensemble_scores[:] = np.random.default_rng(2).normal(0, 40, held_out.ensemble_scores.shape)
    lines = []
    fit_pooling(model, [held_out], mixture, lines.append)
    kept = model.config.fitted.pooling_of("t_ms")
    # A decoder that was never trained gains from any idea of the size, but only from one as wide as the noise.
    assert kept.scale > 10 and kept.decoder_weight == 0


def evidence_of(codec, values, log_probs, scores, errors=1.0):
    """Held-out rows of a metric whose scores are its logarithms."""
    codes = codec.encode(values)
    states = codec.states(codes)[:, :-1]
    log_probs = np.where(codec.allowed[states], log_probs, -np.inf)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    cells = [token_cells(codec, codes[:, :place], states[:, place]) for place in range(codes.shape[1])]
    low, high, finite = (np.stack(parts, 1) for parts in zip(*cells, strict=True))
    return PoolingRows(
        *(log_probs, codes, LOGARITHM.score(low), LOGARITHM.score(high), finite),
        scores=scores,
        residual_scales=np.broadcast_to(errors, len(values)),
        truth=np.log(values),
        groups=np.arange(len(values)).astype(str),
    )


def test_when_the_component_has_all_weight_then_its_crps_is_that_of_a_logistic_distribution(make_model):
    codec, rng = make_model().codec, np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, 40))
    codes = codec.encode(values)
    evidence = evidence_of(
        codec, values, np.zeros((*codes.shape, codec.vocab_size)), np.log(values) + rng.normal(0, 1, 40)
    )
    for scale in (0.05, 0.3, 1.0):
        found = evidence.crps(PoolingComponent(scale, 0.0, 1.0, floor=1e-9), CrpsGrid(evidence, scale))
        z = (evidence.truth - evidence.scores) / scale
        # Gneiting and Raftery's formula, the error by far distances written without overflow.
        known = scale * (np.abs(z) + 2 * np.log1p(np.exp(-np.abs(z))) - 1)
        assert found == pytest.approx(known, rel=0.05, abs=0.02 * scale)


def test_when_some_scores_err_farther_than_others_then_a_component_is_as_wide_as_each(make_model):
    codec, rng = make_model().codec, np.random.default_rng(2)
    values, errors = np.exp(rng.normal(0, 1, 200)), np.tile([0.02, 0.4], 100)
    flat, scores = np.zeros((*codec.encode(values).shape, codec.vocab_size)), np.log(values) + rng.logistic(0, errors)
    known, unknown = (evidence_of(codec, values, flat, scores, each) for each in (errors, 1.0))
    found = best_component(known)
    assert 0.4 < found.component.scale < 1.5  # in units of the errors
    # Rows that err little get narrower answers, and none of the others with more than before.
    grid = CrpsGrid(known, found.component.scale)
    narrow, wide = known.crps(found.component, grid), unknown.crps(best_component(unknown).component, grid)
    assert narrow[::2].mean() < 0.6 * wide[::2].mean() and narrow[1::2].mean() < 1.02 * wide[1::2].mean()
    component = PoolingComponent(0.3, 0.0, 1.0, floor=1e-9)
    together = known.crps(component, CrpsGrid(known, 0.3))
    z = (known.truth - known.scores) / (0.3 * errors)
    assert together == pytest.approx(
        0.3 * errors * (np.abs(z) + 2 * np.log1p(np.exp(-np.abs(z))) - 1), rel=0.05, abs=0.01
    )


def test_when_scores_err_farther_in_one_domain_then_its_intervals_are_wider(make_model, tokenizer):
    model = make_model(max_input_tokens=128)
    settings = dataclasses.replace(
        settings_for(tokenizer, buckets=64, structure_buckets=8), metrics=("a_ms",), scales=(LOGARITHM,),
        domains={"a_ms": ("onnx", "onnx gelu", "onnx relu")}, residual_scales=(0.0, 0.5, 0.1, 0.2),
    )  # fmt: skip
    model.add_ensemble(settings)
    model.config.fitted.pooling = {"a_ms": PoolingComponent(1.0, 0.0, 1.0)}
    texts = ["in 1 8\ngelu", "in 1 8\nrelu", "in 1 8\nfc 8", "print(1)", "in 1 8\nrelu\ngelu"]
    inputs = [
        {"text": text, "language": language}
        for text, language in zip(texts, ("onnx", "onnx", "onnx", "python", "onnx"), strict=True)
    ]
    batch = RLMProcessor(tokenizer, model.config)(inputs, ["a_ms"])
    found = model.ensemble.residual_scales(batch["features"])
    # Of two domains that match the last; where nothing is known the metric's widest.
    assert found[:, 0].tolist() == [0.1, 0.2, 0.5, 0.5, 0.2]
    low, high = np.log(model.predict(batch, (0.05, 0.95), metrics=["a_ms"]).quantiles[:, 0]).T
    expected = 2 * np.log(19)  # between the quantiles of a standard logistic distribution
    assert high - low == pytest.approx(expected * found[:, 0], rel=0.05)


def test_when_a_decoder_knows_only_last_digits_then_the_score_has_weight(make_model):
    """It takes a number for another one, but given the first digits it knows the rest; likelihood rewards the rest."""
    codec, rng = make_model().codec, np.random.default_rng(1)
    values = np.exp(rng.normal(0, 1, 60))
    codes, taken = codec.encode(values), codec.encode(rng.permutation(values))
    log_probs = np.zeros((*codes.shape, codec.vocab_size))
    np.put_along_axis(log_probs[:, :3], taken[:, :3, None], 5.0, 2)
    np.put_along_axis(log_probs[:, 3:], codes[:, 3:, None], 12.0, 2)
    evidence = evidence_of(codec, values, log_probs, np.log(values) + rng.logistic(0, 0.3, 60))
    found = best_component(evidence)
    grid = CrpsGrid(evidence, found.component.scale)
    tried = [
        PoolingComponent(found.component.scale, own, power)
        for own in DECODER_WEIGHTS
        for power in WEIGHTS
        if own + power > 0
    ]
    likeliest = max(tried, key=lambda component: evidence.log_likelihood(component).mean())
    chosen, other = (evidence.crps(component, grid).mean() for component in (found.component, likeliest))
    assert (
        chosen < 0.95 * other
        and found.component.decoder_weight < likeliest.decoder_weight
        and "of the CRPS" in str(found)
    )


def test_when_a_decoder_is_sure_of_no_number_at_all_then_every_crps_is_a_number(make_model):
    codec, rng = make_model().codec, np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, 20))
    shape = (len(values), codec.length, codec.vocab_size)
    log_probs = np.zeros(shape)
    log_probs[:5, 0] = -400.0
    log_probs[:5, 0, next(iter(codec.outcome_tokens.values()))] = 400.0
    found = best_component(evidence_of(codec, values, log_probs, np.log(values) + rng.logistic(0, 0.3, 20)))
    assert np.isfinite([found.gain, found.error]).all() and found.component.weight > 0


def test_when_no_truth_has_a_score_then_the_fallback_is_fitted(make_model, tokenizer):
    train, held_out = (source_of(tokenizer, np.random.default_rng(seed), 60) for seed in range(2))
    model, mixture, _ = fitted(make_model, tokenizer, train, [held_out])
    held_out.values[:] = 0.0
    assert model.ensemble.settings.scale_of("t_ms").logarithm
    lines = []
    fit_pooling(model, [held_out], mixture, lines.append)
    assert "a fallback" in lines[0]


def test_when_a_decoder_strays_into_another_unit_then_the_fallback_makes_that_rare(make_model):
    codec, rng = make_model().codec, np.random.default_rng(0)
    values = np.exp(rng.normal(0, 1, 40))
    scores = np.log(values) + rng.logistic(0, 0.3, 40)
    codes = codec.encode(values)
    shape = (*codes.shape, codec.vocab_size)
    sure = np.zeros(shape)
    np.put_along_axis(sure, codes[..., None], 8.0, 2)
    found = fallback(evidence_of(codec, values, sure, scores))
    assert abs(found.gain) < MOST_COST  # an answer that is right stays as it is
    # Its exponent is three times out of ten that of a number a million times as large.
    astray = sure.copy()
    np.put_along_axis(astray, codec.encode(values * 1e6)[..., None], np.log(0.3 / 0.7) + 8.0, 2)
    np.put_along_axis(astray, codes[..., None], 8.0, 2)
    evidence = evidence_of(codec, values, astray, scores)
    lost = [np.exp(evidence.log_likelihood(component)).mean() for component in (None, found.component)]
    assert lost[0] < 0.75 and lost[1] > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"scale": 0.0}, "a scale above 0"), ({"weight": float("nan")}, "finite numbers")],
)
def test_when_a_component_is_invalid_then_the_error_says_so(changes, message):
    with pytest.raises(CheckpointError, match=message):
        PoolingComponent.from_dict({**ABOUT_TEN.to_dict(), **changes})


def test_when_a_component_has_no_score_scale_then_the_config_is_refused(make_config):
    with pytest.raises(CheckpointError, match="no fitted ensemble metric"):
        make_config(pooling={"a_ms": ABOUT_TEN.to_dict()})


def test_when_there_are_no_steps_then_the_path_is_fitted_and_all_that_is_trained_stays(toy, tmp_path):
    first = train(options_of(toy, tmp_path / "first", "--steps", 4, "--ensemble", "{buckets: 64}"))
    flags = ["--init", first, "--model", "{}", "--steps", 0, "--ensemble", "{trees: 3}"]
    out = train(options_of(toy, tmp_path / "second", *flags))
    assert train(options_of(toy, tmp_path / "second", *flags)) == out  # once ended it stays so
    before, after = (load(path)[0] for path in (first, out))
    own = dict(before.named_parameters())
    assert all(torch.equal(own[name], p) for name, p in after.named_parameters())
    assert after.ensemble.settings.trees == 3 and after.ensemble.tree_left.any()
    with pytest.raises(TrainError, match="nothing for patience or lora"):
        options_of(toy, tmp_path / "third", *flags, "--patience", 2)
    with pytest.raises(TrainError, match="and there is none"):
        train(options_of(toy, tmp_path / "third", "--steps", 0))


def test_when_there_are_no_steps_then_only_metrics_that_are_fitted_anew_lose_their_component(
    make_model, tokenizer, tmp_path
):
    model, _, _ = fitted(make_model, tokenizer, source_of(tokenizer, np.random.default_rng(0)))
    model.config.fitted.pooling = {"t_ms": ABOUT_TEN}
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")

    def kept(steps, *metrics):
        options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), steps=steps)
        entries = [{"name": name, "unit": "ms", "smaller_is_better": True, "languages": ["python"]} for name in metrics]
        return build_model(options, tokenizer, entries).config.fitted.pooling

    assert kept(0) == kept(0, "other_ms") == {"t_ms": ABOUT_TEN}
    assert kept(0, "t_ms") == kept(1) == {}
