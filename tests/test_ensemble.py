"""The feature ensemble: its features, its closed-form fit, and what the model makes of its scores."""

import dataclasses
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
import yaml
from safetensors.torch import load_file

import code_rlm
import code_rlm.training.models
from code_rlm import CheckpointError
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.schema import Example, to_dataset
from code_rlm.distributions_rlm import PoolingComponent, ScoreScale
from code_rlm.ensemble_rlm import EnsembleConfig, FeatureEnsemble
from code_rlm.features_rlm import COST_NAMES, FeatureLayout, RLMFeatureExtractor, token_texts
from code_rlm.loading import DEFAULT_CHECKPOINT
from code_rlm.processing_rlm import RLMProcessor, format_header, tokenize
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training import ensemble
from code_rlm.training.ensemble import fit_ensemble, settings_for
from code_rlm.training.mlp import _fit, _Part
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, make_options
from code_rlm.training.trees import Forest
from code_rlm.x86_rlm import dependency_features

SMALL = {"buckets": 128, "number_buckets": 8}


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    """MLPs are trained for a third of the epochs, which is enough for the tables of these tests."""
    monkeypatch.setattr("code_rlm.training.mlp.FEW_EPOCHS", 20)


@pytest.fixture(scope="module")
def settings(tokenizer):
    return settings_for(tokenizer, **SMALL)


def read(tokenizer, settings, *texts, language="python"):
    """Features of texts, header included."""
    extractor = RLMFeatureExtractor(settings.features, token_texts(tokenizer), settings.domain_names)
    return extractor(*ids_of(tokenizer, *texts), [language] * len(texts))


def features_of(model, tokenizer, items):
    """Features of a mixture's items, as the checkpoint's processor makes them."""
    return RLMProcessor(tokenizer, model.config).collate(items)["features"]


def scores_of(model, tokenizer, items):
    return model.ensemble.scores(features_of(model, tokenizer, items))


def ids_of(tokenizer, *texts):
    rows = tokenize(tokenizer, list(texts))
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def test_when_texts_are_batched_then_their_features_are_those_of_each_alone(settings, tokenizer):
    texts = ["# predict: a\nx = 1\n", "# predict: a\n# n_size: 3x4\ndef f(y):\n    return y * 2\n", "# predict: a\n"]
    together = read(tokenizer, settings, *texts)
    for row, text in enumerate(texts):
        assert torch.allclose(read(tokenizer, settings, text)[0], together[row], atol=1e-6)


def test_when_other_metrics_are_asked_for_then_the_features_stay(settings, tokenizer):
    body = "# language: python\nfor i in range(10):\n    print(i)\n"
    one, other = (read(tokenizer, settings, f"# predict: {m}\n{body}") for m in ("a", "latency_ms, b"))
    assert torch.equal(one, other)
    assert not torch.equal(one, read(tokenizer, settings, f"# predict: a\n{body}x"))


def test_when_numbers_stand_in_the_header_then_they_count_and_in_the_code_they_do_not(settings, tokenizer):
    first = settings.features.buckets

    def sums(context, code):
        text = format_header(["a"], "python", context) + code
        return read(tokenizer, settings, text)[0, first : first + settings.features.number_buckets]

    assert sums([], "x = 1234\n").sum() == 0
    assert sums(["length: 999"], "x = 1234\n").sum() == pytest.approx(3.0)
    # 9, 99, and the number of their elements, each as log10(1 + n)
    assert sums(["input_size: 9x99"], "x\n").sum() == pytest.approx(1 + 2 + np.log10(892), rel=1e-6)


def test_when_a_tokenizer_reads_no_single_digits_then_numbers_are_left_out(settings, tokenizer):
    bare = settings.changed(digit_tokens=())
    features = read(tokenizer, bare, format_header(["a"], None, ["n: 12"]))
    first = bare.features.buckets
    assert features[:, first : first + 2 * bare.features.number_buckets].abs().sum() == 0


def test_when_a_text_belongs_to_domains_then_the_last_columns_hold_them(settings, tokenizer):
    known = settings.changed(structure_buckets=8)
    domains = {"a": ("onnx", "onnx relu", "x86asm")}
    known = dataclasses.replace(known, metrics=("a",), domains=domains)
    text = format_header(["a"], "onnx", []) + "in 1 3 8 8\nrelu 16\nfc 9"
    assert known.input_size == known.features.size + 3 and known.domain_names == domains["a"]
    assert read(tokenizer, known, text, language="onnx")[0, -3:].tolist() == [1, 1, 0]
    assert read(tokenizer, known, text.replace("relu", "gelu"), language="onnx")[0, -3:].tolist() == [1, 0, 0]
    # A text of a metric's own template has no header that names its language.
    assert read(tokenizer, known, text, language=None)[0, -3:].tolist() == [0, 0, 0]


def test_when_features_are_of_another_layout_then_the_error_names_both_sizes(settings):
    ensemble = FeatureEnsemble(settings, 32)
    with pytest.raises(ValueError, match=rf"features must be \(batch, {settings.input_size}\), got \(2, 3\)"):
        ensemble.scores(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bucket": 3}, "ensemble has unknown keys"),
        ({"features": {"bucket": 3}}, "ensemble.features has unknown keys"),
        ({"features": 3}, "ensemble.features must be a mapping"),
        ({"features": {"buckets": 0}}, "ensemble.features.buckets must be a whole number"),
        ({"features": {"digit_tokens": [1, 2]}}, "10 token ids or none"),
    ],
)
def test_when_settings_are_wrong_then_the_error_says_so(entry, message):
    with pytest.raises(CheckpointError, match=message):
        EnsembleConfig.from_dict(entry)


# ------------------------------------------------------------------------------------------------ what scores stand for


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("accuracies", 100 - np.random.default_rng(0).lognormal(2, 0.5, 800)),
        ("bytes", np.random.default_rng(1).lognormal(15, 3, 800)),
        ("differences", np.random.default_rng(2).normal(-1, 5, 800)),
        ("many of one value", np.where(np.arange(800) % 3 == 0, 5.0, np.random.default_rng(3).lognormal(2, 1, 800))),
    ],
)
def test_when_values_are_scored_then_scores_are_normal_and_in_their_order(name, values):
    scale = ScoreScale.normal(values)
    scores = scale.score(values)
    assert abs(scores.mean()) < 0.1 and scores.std() == pytest.approx(1, abs=0.1)
    order = np.argsort(values, kind="stable")
    assert (np.diff(scores[order]) >= 0).all() and (np.diff(scores[order])[np.diff(values[order]) > 0] > 0).all()
    assert scale.logarithm == (name != "differences")
    beyond = scale.score(np.array([values.min() / 100 if scale.logarithm else values.min() - 20, values.max() * 100]))
    assert beyond[0] < scores.min() - 1 and beyond[1] > scores.max() + 1
    again = ScoreScale.from_dict(json.loads(json.dumps(scale.to_dict())))
    assert again == scale and np.array_equal(again.score(values), scores)


@pytest.mark.parametrize("outlier", [10.0, 1e-9])
def test_when_a_few_values_lie_far_off_then_they_do_not_rule_the_scores(outlier):
    values = 100 - np.random.default_rng(0).lognormal(2, 0.5, 20_000)
    values[:10] = outlier
    scores = ScoreScale.normal(values).score(values)
    assert scores.std() == pytest.approx(1, abs=0.02) and np.abs(scores).max() < 4.2
    assert (scores[:10] ** 2).sum() < 0.01 * (scores**2).sum()


def test_when_a_zero_stands_beside_a_giant_then_there_is_order_between():
    values = np.concatenate([np.random.default_rng(0).lognormal(2, 1, 2000), [0.0, 1e9]])
    scores = ScoreScale.normal(values).score(values)
    assert scores.std() == pytest.approx(1, abs=0.05) and len(np.unique(scores.round(2))) > 200


def test_when_values_are_one_but_for_rounding_then_their_logarithms_are_not_taken():
    scale = ScoreScale.normal(np.array([1e15] * 60 + [1e15 + 1] * 60))
    assert not scale.logarithm and scale.score(np.array([1e15, 1e15 + 1])).tolist() == [-1.0, 1.0]


def test_when_nearly_all_values_are_one_then_there_is_a_scale_still():
    usual, rare = ScoreScale.normal(np.array([3.0] * 9999 + [4.0])).score(np.array([3.0, 4.0]))
    assert abs(usual) < 0.2 and rare == pytest.approx(3.9, abs=0.1)
    assert ScoreScale(True, (0.0, 1.0), (0.0, 1.0)).score(np.array([0.0, 1.0])).tolist() == [-np.inf, 0.0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"logarithm": True, "values": [1.0, 1.0], "scores": [0.0, 1.0]}, "values must be two or more rising"),
        ({"logarithm": True, "values": [1.0, 2.0], "scores": [0.0, float("nan")]}, "scores must be two or more rising"),
        ({"logarithm": True, "values": [1.0, 2.0], "scores": [0.0, 1.0, 2.0]}, "2 values and 3 scores"),
        ([True, 0.0, 1.0], "has the keys"),
    ],
)
def test_when_a_scale_is_wrong_then_the_error_says_so(entry, message):
    with pytest.raises(CheckpointError, match=message):
        ScoreScale.from_dict(entry)


# -------------------------------------------------------------------------------------------------------- the fit


def source_of(tokenizer, rng, rows=240, *, informative=True, name="rows"):
    """Rows of words; the target is ruled by how often `foo` stands in them, or by nothing."""
    examples = []
    for row in range(rows):
        words = rng.choice(["foo", "bar", "(x)", "y = z"], 6)
        value = 10.0 ** (np.sum(words == "foo") if informative else rng.normal())
        text = " ".join([*words, f"id{row}"])
        examples.append(Example(text, "python", ["t_ms"], [float(value)], group=f"g{row}", source=name))
    return Source.from_dataset(name, to_dataset(examples), tokenizer)


def fitted(make_model, tokenizer, train, validation=()):
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL))
    mixture = Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0)
    said = []
    fit_ensemble(model, [train], list(validation), mixture, said.append)
    return model.eval(), mixture, said


def correlation(a, b):
    return np.corrcoef(a, np.log(b))[0, 1]


def test_when_a_word_rules_the_target_then_rows_left_out_are_told_from_it(make_model, tokenizer):
    rng = np.random.default_rng(0)
    train, held_out = source_of(tokenizer, rng), source_of(tokenizer, rng, 80)
    model, mixture, said = fitted(make_model, tokenizer, train, [held_out])
    assert correlation(train.ensemble_scores[:, 0], train.values[:, 0]) > 0.8
    assert correlation(held_out.ensemble_scores[:, 0], held_out.values[:, 0]) > 0.8
    assert "t_ms, 240 rows" in said[0]
    # The module gives new texts the scores that the fit gave them.
    items = [mixture.build(held_out, row, [0]) for row in range(80)]
    assert np.allclose(mixture.collate(items)["ensemble_scores"], held_out.ensemble_scores)
    scores = scores_of(model, tokenizer, items)
    assert np.allclose(scores.numpy(), held_out.ensemble_scores, atol=1e-3)


def test_when_nothing_rules_the_target_then_cross_fitted_scores_do_not_give_it_away(make_model, tokenizer):
    train = source_of(tokenizer, np.random.default_rng(1), informative=False)
    model, mixture, _ = fitted(make_model, tokenizer, train)
    items = [mixture.build(train, row, [0]) for row in range(len(train))]
    own = scores_of(model, tokenizer, items)[:, 0].numpy()
    assert correlation(own, train.values[:, 0]) > 0.3  # it has seen them
    assert correlation(train.ensemble_scores[:, 0], train.values[:, 0]) < 0.2


def test_when_there_are_few_rows_then_the_metric_gets_no_channel(make_model, tokenizer):
    model, _, said = fitted(make_model, tokenizer, source_of(tokenizer, np.random.default_rng(0), 20))
    assert model.config.ensemble["metrics"] == []
    assert "no regressor" in said[0]


def test_when_another_metric_is_fitted_later_then_earlier_channels_stay(make_model, tokenizer):
    train = source_of(tokenizer, np.random.default_rng(0))
    model, _, _ = fitted(make_model, tokenizer, train)
    before = {name: p.clone() for name, p in model.ensemble.state_dict().items()}
    later = dataclasses.replace(train, metrics=["other_bytes"])
    fit_ensemble(model, [later], [], Mixture([later], [1.0], tokenizer, 128, 2048, 1, 0))
    assert model.config.ensemble["metrics"] == ["t_ms", "other_bytes"]
    after = model.ensemble.state_dict()
    assert torch.equal(after["weight"][:, 0], before["weight"][:, 0])
    assert torch.equal(after["score_embedding"][0], before["score_embedding"][0])
    assert torch.equal(after["idf"], before["idf"]) and torch.equal(
        after["score_proj.weight"], before["score_proj.weight"]
    )
    assert later.ensemble_scores.shape == (len(later), 2)


# -------------------------------------------------------------------------------------------------------- the model


@pytest.fixture(scope="module")
def ensemble_model(make_model, tokenizer):
    """A tiny model with two metrics of random regressors."""
    model = make_model(ensemble=dataclasses.replace(settings_for(tokenizer, **SMALL), metrics=("a", "b")).to_dict())
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.nn.init.normal_(model.ensemble.weight)
    return model


@pytest.fixture(scope="module")
def featured(ensemble_model, batch):
    """The shared batch with features, drawn at random."""
    generator = torch.Generator().manual_seed(5)
    size = ensemble_model.ensemble.settings.input_size
    return {**batch, "features": 0.1 * torch.randn((3, size), generator=generator)}


def test_when_inputs_are_padded_then_answers_are_those_of_each_alone(ensemble_model, featured, alone):
    together = ensemble_model.predict(featured).quantiles
    for row, inputs in enumerate(alone):
        own = {**inputs, "features": featured["features"][row : row + 1]}
        assert np.allclose(ensemble_model.predict(own).quantiles[0], together[row], rtol=1e-5)
    memory = ensemble_model.encode(featured)
    assert memory.memory[0][0].shape[2] == featured["input_ids"].shape[1] + 2


def test_when_there_are_no_features_then_the_transformer_answers_alone_and_says_so(make_model, settings, batch, alone):
    model = make_model(ensemble=dataclasses.replace(settings, metrics=("a", "b")).to_dict())
    bare = make_model()
    bare.load_state_dict(model.state_dict(), strict=False)
    with pytest.warns(UserWarning, match="no features"):
        found = model.predict(batch)
    assert not found.features_used and np.array_equal(found.quantiles, bare.predict(batch).quantiles)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no features")  # the warning comes once
        assert np.allclose(model.predict(alone[1]).quantiles[0], found.quantiles[1], rtol=1e-5)
        tokens = model.generate(**batch, num_objectives=1)
        features = torch.zeros(3, settings.input_size)
        assert model.predict({**batch, "features": features}).features_used
    assert torch.equal(tokens, bare.generate(**batch, num_objectives=1))


def test_when_generate_writes_numbers_then_it_reads_the_features_too(ensemble_model, featured):
    tokens = ensemble_model.generate(**featured, num_objectives=1)
    labels = tokens[:, 1:]
    logits = ensemble_model(**featured, labels=labels).logits
    allowed = ensemble_model.grammar.scores(logits, labels)
    length = ensemble_model.codec.length
    assert torch.equal(allowed.argmax(-1)[:, :length], labels[:, :length])
    scores = ensemble_model.ensemble.scores(featured["features"])
    other = ensemble_model(**featured, labels=labels, ensemble_scores=scores + 2).logits
    assert not torch.allclose(logits, other, atol=1e-3)


def test_when_a_checkpoint_is_saved_then_the_ensemble_comes_back(ensemble_model, featured, tmp_path):
    ensemble_model.save_pretrained(tmp_path)
    again = type(ensemble_model).from_pretrained(tmp_path).eval()
    assert np.array_equal(again.predict(featured).quantiles, ensemble_model.predict(featured).quantiles)
    trained = {name for name, p in again.ensemble.named_parameters() if p.requires_grad}
    assert trained == {"score_embedding", "score_proj.weight"}


def test_when_a_path_is_begun_anew_then_channels_are_fitted_again_or_go(make_model, tokenizer, tmp_path):
    train = source_of(tokenizer, np.random.default_rng(0))
    model, _, _ = fitted(make_model, tokenizer, train)
    other = dataclasses.replace(train, metrics=["other_bytes"])
    mixture = Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0)
    fit_ensemble(model, [other], [], mixture)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    options = make_options(
        data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble={"largest_numbers": 2, "buckets": 64}
    )
    changed = build_model(options, tokenizer, [])
    assert changed.ensemble.settings.features.size == 64 + 2 * 8 + 2 + 2 and not changed.ensemble.weight.any()
    assert torch.equal(changed.ensemble.score_embedding, model.ensemble.score_embedding)
    fit_ensemble(changed, [train], [], Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0))
    assert changed.config.ensemble["metrics"] == ["t_ms"]
    assert torch.equal(changed.ensemble.score_embedding[0], model.ensemble.score_embedding[0])
    assert correlation(train.ensemble_scores[:, 0], train.values[:, 0]) > 0.8


def test_when_lexical_is_false_then_the_path_goes_and_true_keeps_it(make_model, tokenizer, tmp_path):
    train = source_of(tokenizer, np.random.default_rng(0))
    model, _, _ = fitted(make_model, tokenizer, train)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")

    def built(**options):
        return build_model(
            make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), **options), tokenizer, []
        )

    assert torch.equal(built(ensemble=True).ensemble.weight, model.ensemble.weight)
    bare = built(ensemble=False)
    assert bare.ensemble is None and bare.config.ensemble is None
    bare.save_pretrained(tmp_path / "bare")
    assert not [name for name in load_file(tmp_path / "bare" / "model.safetensors") if name.startswith("ensemble")]
    with pytest.raises(TrainError, match="An adapter keeps the feature ensemble"):
        built(ensemble=False, lora={})


def test_when_numbers_of_the_code_are_features_then_the_largest_counts_behind_each_token(settings, tokenizer):
    wide = settings.changed(largest_numbers=2, code_numbers=64)

    def numbers(code, context=()):
        text = format_header(["a"], "python", context) + code
        return read(tokenizer, wide, text)[0, -66:-2]

    none, one = numbers("x = y\n"), numbers("x(9)\n", ["length: 12345"])
    assert none.sum() == 0 and one.sum() == pytest.approx(1.0)
    assert torch.equal(numbers("x(9)\nx(4)\n"), one) and torch.equal(numbers("x(4)\nx(9)\n"), one)
    both = numbers("x(9)\ny = [99]\n")
    assert both.sum() == pytest.approx(3.0) and torch.equal(both.minimum(one), one)
    text = format_header(["a"], "python", []) + "x = y\n"
    assert len(read(tokenizer, wide, text)[0]) == wide.input_size


def test_when_names_are_bound_to_numbers_then_they_count_where_they_are_used(settings, tokenizer):
    named = settings.changed(name_numbers=64)

    def names(code, context=()):
        text = format_header(["a"], "python", context) + code
        found = read(tokenizer, named, text)[0]
        assert len(found) == named.input_size
        return found[-66:-2]

    assert names("f(9)\nx = y\n", ["n: 12345"]).sum() == 0
    bound, used = names("n = 99\n"), names("n = 99\nf(n)\n")
    # `n` itself stands behind a line break, then behind a bracket.
    assert bound.sum() == pytest.approx(2.0) and used.sum() == pytest.approx(4.0)
    assert torch.equal(used.minimum(bound), bound)
    # Behind the same token the largest counts, whatever the name.
    more = names("n = 99\nk = 9\nf(n)\nf(k)\n")
    assert torch.equal(more, used)
    # With a context of two tokens, the buckets of one token stay, and as many again follow.
    wider = named.changed(number_context=2)

    def contexts(code):
        found = read(tokenizer, wider, format_header(["a"], "python", []) + code)[0]
        assert len(found) == wider.input_size
        return found[-130:-66], found[-66:-2]

    one, two = contexts("n = 99\nf(n)\ng(n)\n")
    assert torch.equal(one, used) and two.sum() == pytest.approx(6.0)
    # A header's numbers bind nothing.
    text = format_header(["a"], "python", ["n = 12345"]) + "f(n)\n"
    assert read(tokenizer, named, text)[:, -66:-2].sum() == 0


@pytest.mark.parametrize(
    ("setting", "code"), [("code_numbers", "f(9)\ng(9)\n"), ("name_numbers", "n = 9\nf(n)\ng(n)\n")]
)
def test_when_two_tokens_before_a_number_count_then_calls_of_two_functions_differ(settings, tokenizer, setting, code):
    wide = settings.changed(number_context=2, **{setting: 64})
    found = read(tokenizer, wide, format_header(["a"], "python", []) + code)[0, -130:-2].view(2, 64)
    # Behind one token `(` is one bucket, behind two there are two; where the name is bound it stands behind a line break.
    calls = found.sum(1) - torch.tensor([1.0, 1.0]) * (setting == "name_numbers")
    assert calls.tolist() == pytest.approx([1.0, 2.0])


def test_when_texts_with_names_are_batched_then_their_features_are_those_of_each_alone(settings, tokenizer):
    wide = settings.changed(code_numbers=64, name_numbers=64, number_context=2)
    names = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    many = "".join(f"{name} = 1\n" for name in names) + "".join(f"f({name})\n" for name in names)
    texts = ["n = 99\nf(n)\n", many, "x = 1\n", "n = 5\n" * 600]
    texts = [format_header(["a"], "python", []) + text for text in texts]
    together = read(tokenizer, wide, *texts)
    for row, text in enumerate(texts):
        assert torch.allclose(read(tokenizer, wide, text)[0], together[row], atol=1e-6)


def named_source(tokenizer, rng, rows=240):
    """The target is what the name in the brackets is bound to; other names are bound to other numbers."""
    examples = []
    for row in range(rows):
        one, other = (int(10 ** rng.uniform(1, 5)) for _ in range(2))
        used, value = [("n", one), ("m", other)][rng.integers(2)]
        text = f"n = {one}\nm = {other}\nx = make({used})\n"
        examples.append(Example(text, "python", ["t_ms"], [float(value)], group=f"g{row}", source="named"))
    return Source.from_dataset("named", to_dataset(examples), tokenizer)


def test_when_a_path_reads_names_then_it_tells_what_the_code_makes_of_them(make_model, tokenizer, tmp_path):
    train = named_source(tokenizer, np.random.default_rng(0))
    plain, mixture, _ = fitted(make_model, tokenizer, train)
    for each in (plain, tokenizer):
        each.save_pretrained(tmp_path / "base")

    def built(ensemble):
        options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble=ensemble)
        return build_model(options, tokenizer, [])

    found = {}
    for names in (0, 64):
        model = built({"code_numbers": 64, "name_numbers": names})
        fit_ensemble(model, [train], [], mixture)
        found[names] = correlation(train.ensemble_scores[:, 0], train.values[:, 0])
    assert found[64] > 0.95 > 0.85 > found[0]
    # A loaded checkpoint reads the same, and so does another run that goes on.
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    text = {"text": "n = 90\nm = 9000\nx = make(m)\n", "language": "python"}
    expected = model.eval().ensemble.scores(RLMProcessor(tokenizer, model.config)(text, ["t_ms"])["features"])
    again, processor = code_rlm.load(tmp_path / "base")
    assert torch.equal(again.ensemble.scores(processor(text, ["t_ms"])["features"]), expected)
    assert torch.equal(built(True).ensemble.scores(processor(text, ["t_ms"])["features"]), expected)


@pytest.mark.parametrize(
    ("ensemble", "message"),
    [
        ({"number_context": 2}, "set code_numbers or name_numbers"),
        ({"tree_numbers": 9}, "set trees"),
        ({"tree_grams": 9}, "set trees"),
        ({"mlp_features": 9}, "set trees, too, or mlp_features: 0"),
        ({"trees": 3, "mlp_count": 2}, "set mlp_features, too"),
    ],
)
def test_when_a_setting_would_come_to_nothing_then_the_error_says_so(
    make_model, tokenizer, tmp_path, ensemble, message
):
    for each in (make_model(), tokenizer):
        each.save_pretrained(tmp_path / "base")
    options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble=ensemble)
    with pytest.raises(TrainError, match=message):
        build_model(options, tokenizer, [])


@pytest.mark.parametrize("name", ["largest_numbers", "code_numbers", "name_numbers"])
def test_when_digits_are_not_read_one_by_one_then_numbers_are_refused(
    make_model, tokenizer, tmp_path, monkeypatch, name
):
    for each in (make_model(), tokenizer):
        each.save_pretrained(tmp_path / "base")
    monkeypatch.setattr(code_rlm.training.models, "digit_tokens", lambda tokenizer: ())
    options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble={name: 8})
    with pytest.raises(TrainError, match=f"{name} need a tokenizer that reads digits one by one"):
        build_model(options, tokenizer, [])


def test_when_the_tokenizer_grew_then_names_are_read_of_the_new_tokens_too(make_model, tokenizer, tmp_path):
    train = named_source(tokenizer, np.random.default_rng(0), 60)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, name_numbers=64))
    fit_ensemble(model, [train], [], Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0))
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    wider = code_rlm.load(tmp_path / "base")[1].tokenizer
    wider.add_tokens(["rowsandcolumns"])
    wider.save_pretrained(tmp_path / "wider")
    options = make_options(
        data=[{}], max_objectives=3, init=str(tmp_path / "base"), tokenizer=str(tmp_path / "wider"), ensemble=True
    )
    grown = build_model(options, wider, [])
    assert torch.equal(grown.ensemble.weight, model.ensemble.weight)
    found = read(wider, grown.ensemble.settings, "# predict: a\nrowsandcolumns = 99\nf(rowsandcolumns)\n")
    assert found[0, -66:-2].sum() > 2  # bound, and used


def test_when_the_largest_numbers_are_features_then_they_are_those_of_the_code(settings, tokenizer):
    wide = settings.changed(largest_numbers=3)
    text = format_header(["a"], "python", ["length: 99999"]) + "x = 9\ny = [0] * 999 + z99\n"
    found = read(tokenizer, wide, text)[0, -5:-2]
    assert found.tolist() == pytest.approx([3.0, 2.0, 1.0])
    few = read(tokenizer, wide, format_header(["a"], "python", []) + "x = 9\n")[0, -5:-2]
    assert few.tolist() == pytest.approx([1.0, 0.0, 0.0])


def test_when_there_are_more_places_of_numbers_than_trees_look_at_then_those_that_differ_most_stay(settings):
    settings = settings.changed(code_numbers=16, number_context=2, trees=3, tree_grams=5, tree_numbers=4)
    rng = np.random.default_rng(0)
    spread = np.ones(settings.features.size)
    first = settings.features.size - 2 - 32
    wide = [first + 3, first + 17, first + 20, first + 31]
    spread[wide], spread[:5], spread[-2:] = 10, 10, 0.01
    rows = sparse.csr_matrix(rng.uniform(size=(60, settings.features.size)) * spread)
    grown = Forest(rows, rng.normal(size=60), np.arange(60) % 2, settings)
    header = range(settings.features.buckets, settings.features.buckets + 2 * settings.features.number_buckets)
    assert grown.columns.tolist() == [*range(5), *header, *wide, settings.features.size - 2, settings.features.size - 1]


def test_when_a_metric_of_ones_own_is_learned_then_the_shipped_channels_stay():
    """Settings that differ from the shipped ones would begin the path anew and lose its metrics."""
    asked = yaml.safe_load((Path(__file__).parents[1] / "configs" / "finetune.yaml").read_text())["ensemble"]
    shipped = code_rlm.RLMConfig.from_pretrained(DEFAULT_CHECKPOINT).ensemble_config()
    assert shipped.changed(**asked) == shipped


def stepped_source(tokenizer, rng, rows=300):
    """The target jumps where `foo` stands more often than `bar`: no sum of counts tells it."""
    examples = []
    for row in range(rows):
        words = rng.choice(["foo", "bar", "(x)", "y = z"], 8)
        foo, bar = np.sum(words == "foo"), np.sum(words == "bar")
        value = 100.0 if (foo > 2) != (bar > 2) else 1.0
        text = " ".join([*words, f"id{row}"])
        examples.append(
            Example(text, "python", ["t_ms"], [value * np.exp(0.01 * rng.normal())], group=f"g{row}", source="rows")
        )
    return Source.from_dataset("rows", to_dataset(examples), tokenizer)


def test_when_trees_are_grown_then_they_tell_what_a_sum_cannot_and_tensors_say_the_same(
    make_model, tokenizer, tmp_path
):
    rng = np.random.default_rng(0)
    train, held_out = stepped_source(tokenizer, rng), stepped_source(tokenizer, rng, 100)
    mixture = Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0)
    found = {}
    for trees in (0, 30):
        model = make_model(max_input_tokens=128)
        model.add_ensemble(settings_for(tokenizer, **SMALL, trees=trees, tree_grams=100))
        said = []
        fit_ensemble(model, [train], [held_out], mixture, said.append)
        found[trees] = correlation(held_out.ensemble_scores[:, 0], held_out.values[:, 0])
    assert found[30] > found[0] + 0.15 and found[30] > 0.8
    assert correlation(train.ensemble_scores[:, 0], train.values[:, 0]) > 0.7
    items = [mixture.build(held_out, row, [0]) for row in range(100)]
    scores = scores_of(model, tokenizer, items)
    assert np.allclose(scores.numpy(), held_out.ensemble_scores, atol=1e-3)
    # And they come back with the checkpoint, and go on to another metric.
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    loaded = code_rlm.load(tmp_path / "base")[0]
    assert torch.equal(scores_of(loaded, tokenizer, items), scores)
    other = dataclasses.replace(train, metrics=["other_bytes"])
    fit_ensemble(loaded, [other], [], Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0))
    again = scores_of(loaded, tokenizer, items)
    assert torch.allclose(again[:, 0], scores[:, 0]) and again.shape[1] == 2


def smooth_source(tokenizer, rng, rows=300):
    """The target is a product of two counts: no sum tells it, and few trees tell it in steps."""
    examples = []
    for row in range(rows):
        foo, bar = rng.integers(0, 12, 2)
        text = " ".join([*rng.permutation(["foo"] * foo + ["bar"] * bar), f"id{row}"])
        examples.append(Example(text, "python", ["t_ms"], [(1 + foo) / (1.0 + bar)], group=f"g{row}", source="rows"))
    return Source.from_dataset("rows", to_dataset(examples), tokenizer)


def kept(model, tokenizer, mixture, held_out, folder):
    """Inputs and scores of held-out rows, as the fit gave them, and the checkpoint that says the same."""
    items = [mixture.build(held_out, row, [0]) for row in range(100)]
    scores = scores_of(model, tokenizer, items)
    assert np.allclose(scores.numpy(), held_out.ensemble_scores, atol=1e-3)
    for each in (model, tokenizer):
        each.save_pretrained(folder)
    loaded = code_rlm.load(folder)[0]
    assert torch.equal(scores_of(loaded, tokenizer, items), scores)
    return items, scores, loaded


def test_when_perceptrons_speak_beside_trees_then_both_tell_more_and_checkpoints_keep_them(
    make_model, tokenizer, tmp_path
):
    rng = np.random.default_rng(0)
    train, held_out = smooth_source(tokenizer, rng), smooth_source(tokenizer, rng, 100)
    mixture = Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0)
    found = {}
    for columns in (0, 20):
        model = make_model(max_input_tokens=128)
        model.add_ensemble(settings_for(tokenizer, **SMALL, trees=5, mlp_features=columns))
        said = []
        fit_ensemble(model, [train], [held_out], mixture, said.append)
        found[columns] = correlation(held_out.ensemble_scores[:, 0], held_out.values[:, 0])
    assert found[20] > 0.99 and 1 - found[20] < 0.5 * (1 - found[0])
    assert model.ensemble.settings.mlps == ((("t_ms", None),),) and ", MLPs 0." in said[0]
    # Scores of the training rows are by perceptrons that have not seen them, and as good as on new rows.
    assert 0.9 < correlation(train.ensemble_scores[:, 0], train.values[:, 0]) < 0.9999
    items, scores, loaded = kept(model, tokenizer, mixture, held_out, tmp_path / "base")
    # Another metric's fit leaves them alone, a fit without them takes this one's away.
    other = dataclasses.replace(train, metrics=["other_bytes"])
    fit_ensemble(loaded, [other], [], Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0))
    again = scores_of(loaded, tokenizer, items)
    assert torch.allclose(again[:, 0], scores[:, 0], atol=1e-6) and len(loaded.ensemble.settings.mlps) == 2
    options = make_options(
        data=[{}], max_objectives=1, init=str(tmp_path / "base"), ensemble={"mlp_features": 0}, steps=0
    )
    without = build_model(options, tokenizer, [])
    fit_ensemble(without, [train], [], mixture)
    assert without.ensemble.settings.mlps == () and not hasattr(without.ensemble, "mlps")


def test_when_several_perceptrons_answer_together_then_the_path_says_their_mean(make_model, tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    train, held_out = smooth_source(tokenizer, rng), smooth_source(tokenizer, rng, 100)
    mixture = Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, trees=5, mlp_features=20, mlp_count=3))
    fit_ensemble(model, [train], [held_out], mixture)
    assert model.ensemble.settings.mlps == ((("t_ms", None),),) * 3
    items = [mixture.build(held_out, row, [0]) for row in range(100)]
    raw = features_of(model, tokenizer, items)
    own, grown = model.ensemble.mlps(raw), model.ensemble.further(raw)[:, 0]
    assert np.corrcoef(own.T.numpy()).min() > 0.9 and own.std(1).min() > 1e-4
    model.ensemble.mlps.last[1:] = 0
    assert torch.allclose(model.ensemble.further(raw)[:, 0], grown - own[:, 1] - own[:, 2], atol=1e-5)
    model.ensemble.mlps.last[0] *= 3  # one of them, instead of the mean of three
    alone = correlation(model.ensemble.further(raw)[:, 0].numpy(), held_out.values[:, 0])
    together = correlation(grown.numpy(), held_out.values[:, 0])
    assert together > 0.99 and together > alone - 1e-3
    truth = model.ensemble.settings.scale_of("t_ms").score(held_out.values[:, 0])
    assert np.abs(held_out.ensemble_scores[:, 0] - truth).mean() < 0.2  # three times as far off were they summed
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    # A fit with fewer takes the others' places away and leaves those of other metrics alone.
    options = make_options(data=[{}], max_objectives=1, init=str(tmp_path / "base"), ensemble={"mlp_count": 2}, steps=0)
    other, fewer = dataclasses.replace(train, metrics=["other_bytes"]), build_model(options, tokenizer, [])
    fit_ensemble(fewer, [other], [], Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0))
    assert fewer.ensemble.settings.mlps == (*[(("t_ms", None),)] * 3, *[(("other_bytes", None),)] * 2)
    fit_ensemble(fewer, [train], [], mixture)
    assert fewer.ensemble.settings.mlps == (*[(("other_bytes", None),)] * 2, *[(("t_ms", None),)] * 2)


def answered(source, rng, metrics, noise=0.05, missing=None):
    """The rows of a smooth source with other metrics: noisy multiples of its own, or of its inverse where called `inverse`.

    Args:
        missing: Rows that lack a metric, by its name.
    """
    exact = np.log(source.values[:, 0])
    columns = [
        np.exp((-1 if "inverse" in name else 1) * exact + noise * rng.normal(size=len(exact))) for name in metrics
    ]
    values = np.stack(columns, 1)
    for name, rows in (missing or {}).items():
        values[rows, metrics.index(name)] = np.nan
    own = {"codes": np.repeat(source.codes, len(metrics), 1), "values": values, "present": np.isfinite(values)}
    return dataclasses.replace(source, metrics=list(metrics), **own)


def off(model, source, metric):
    """How far a source's scores are from those of its values, on average."""
    column, target = source.metrics.index(metric), model.ensemble.settings.metrics.index(metric)
    rows = source.present[:, column]
    truth = model.ensemble.settings.scale_of(metric).score(source.values[rows, column])
    return float(np.abs(source.ensemble_scores[rows, target] - truth).mean())


@pytest.mark.slow
def test_when_metrics_rank_texts_alike_then_they_share_perceptrons_and_learn_of_each_other(
    make_model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr("code_rlm.training.mlp.FEW_EPOCHS", 100)  # how much sharing helps is measured
    rng = np.random.default_rng(0)
    few = {"a_ms": np.flatnonzero(np.arange(300) % 5 != 0)}  # of a few rows are known, of b all
    train = answered(smooth_source(tokenizer, rng), rng, ["a_ms", "inverse_ms", "b_ms"], missing=few)
    second = answered(
        smooth_source(tokenizer, rng, 60), rng, ["b_ms", "a_ms", "inverse_ms"], missing={"a_ms": range(12, 60)}
    )
    second.groups = [f"second {group}" for group in second.groups]
    held_out = answered(smooth_source(tokenizer, rng, 100), rng, ["inverse_ms", "b_ms", "a_ms"], noise=0.0)
    mixture = Mixture([train, second], [0.5, 0.5], tokenizer, 128, 2048, 3, 0)
    errors, cross_fitted = {}, {}
    for alike in (2.0, None):  # nothing is alike; as it is
        with pytest.MonkeyPatch.context() as patch:
            if alike:
                patch.setattr("code_rlm.training.ensemble.ALIKE", alike)
            model = make_model(max_input_tokens=128)
            model.add_ensemble(settings_for(tokenizer, **SMALL, trees=12, mlp_features=40, mlp_count=2))
            fit_ensemble(model, [train, second], [held_out], mixture)
        errors[alike] = {name: off(model, held_out, name) for name in train.metrics}
        cross_fitted[alike] = {name: max(off(model, train, name), off(model, second, name)) for name in train.metrics}
    assert model.ensemble.settings.metrics == ("a_ms", "inverse_ms", "b_ms")
    pair, alone = (("a_ms", None), ("b_ms", None)), (("inverse_ms", None),)
    assert model.ensemble.settings.mlps == (pair, pair, alone, alone)
    assert errors[None]["a_ms"] < 0.8 * errors[2.0]["a_ms"], (errors, cross_fitted)
    assert cross_fitted[None]["a_ms"] < cross_fitted[2.0]["a_ms"]
    assert all(error < 0.2 for found in (errors[None], cross_fitted[None]) for error in found.values())
    # What speaks alone is as it was.
    assert errors[None]["inverse_ms"] == pytest.approx(errors[2.0]["inverse_ms"], abs=1e-6)
    # A checkpoint keeps them, and a new fit of one of the two leaves the other alone.
    items, scores, loaded = kept(model, tokenizer, mixture, held_out, tmp_path / "base")
    anew = answered(smooth_source(tokenizer, rng), rng, ["a_ms"])
    fit_ensemble(loaded, [anew], [], Mixture([anew], [1.0], tokenizer, 128, 2048, 1, 0))
    assert loaded.ensemble.settings.mlps[:2] == ((("b_ms", None),),) * 2
    again = scores_of(loaded, tokenizer, items)
    assert torch.allclose(again[:, 1:], scores[:, 1:], atol=1e-6) and not torch.allclose(again[:, 0], scores[:, 0])


@pytest.mark.parametrize("seed", range(2))
def test_when_all_rows_of_a_metric_are_one_group_then_others_perceptrons_do_not_speak_for_it_unheard(
    make_model, tokenizer, seed
):
    rng = np.random.default_rng(seed)
    train = answered(smooth_source(tokenizer, rng), rng, ["a_ms", "b_ms"], missing={"b_ms": np.arange(80, 300)})
    train.groups = ["family" if row < 80 else group for row, group in enumerate(train.groups)]
    held_out = answered(smooth_source(tokenizer, rng, 100), rng, ["a_ms", "b_ms"], noise=0.0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, trees=5, mlp_features=20))
    fit_ensemble(model, [train], [held_out], Mixture([train], [1.0], tokenizer, 128, 2048, 2, 0))
    assert off(model, held_out, "b_ms") < 0.6 and off(model, held_out, "a_ms") < 0.2


def test_when_there_are_more_rows_than_are_learned_from_then_a_rare_metric_keeps_its_own(monkeypatch):
    monkeypatch.setattr("code_rlm.training.mlp.MOST_ROWS", 40)
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.normal(size=(2000, 6)))
    y = np.stack([x.toarray()[:, 0]] * 2, 1)
    y[50:, 1] = np.nan
    part = _Part.of(x, y, np.ones(2000, bool), np.arange(6))
    assert part.has_value[:, 1].sum() >= 40 and part.has_value[:, 0].sum() >= 79
    without = _Part.of(x, y, np.arange(2000) >= 50, np.arange(6))
    assert without.has_value.any(0).tolist() == [True, False]


def test_when_mlps_are_fitted_side_by_side_then_each_learns_its_own_part(monkeypatch):
    monkeypatch.setattr("code_rlm.training.mlp.FEW_EPOCHS", 60)
    rng = np.random.default_rng(0)
    x = sparse.csr_matrix(rng.normal(size=(300, 6)))
    rises, falls = x.toarray()[:, 0], -x.toarray()[:, 1]
    parts = [
        _Part.of(x, rises[:, None], np.arange(300) < 200, np.array([0, 3])),
        _Part.of(x, falls[:, None], np.arange(300) >= 50, np.array([1, 2, 4])),
    ]
    found = _fit(parts, 2)
    for part, truth in zip(parts, (rises, falls), strict=True):
        for network in found[part]:
            assert np.corrcoef(network.predict(x)[:, 0], truth)[0, 1] > 0.95
    first, second = found[parts[0]]
    assert not np.array_equal(first.predict(x), second.predict(x))


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_when_there_are_few_groups_then_the_fit_goes_through_and_something_speaks(make_model, tokenizer, groups):
    train = smooth_source(tokenizer, np.random.default_rng(0), 60)
    train.groups = [f"g{row % groups}" for row in range(60)]
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, trees=5, mlp_features=8))
    fit_ensemble(model, [train], [], Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0))
    assert np.isfinite(train.ensemble_scores).all()
    assert model.ensemble.weight.any() or model.ensemble.tree_left.any() or model.ensemble.settings.mlps


def test_when_a_checkpoint_is_kept_in_bfloat16_then_perceptrons_say_nearly_the_same(make_model, tokenizer):
    train = smooth_source(tokenizer, np.random.default_rng(0))
    mixture = Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, trees=5, mlp_features=20))
    fit_ensemble(model, [train], [], mixture)
    items = [mixture.build(train, row, [0]) for row in range(100)]
    raw = features_of(model, tokenizer, items)
    exact, center = model.ensemble.mlps(raw), model.ensemble.mlps.center.clone()
    model.to(torch.bfloat16)
    assert torch.equal(model.ensemble.mlps.center.float(), center) and center.any()
    assert (model.ensemble.mlps(raw) - exact).abs().max() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlps": [["b_ms", None]]}, "names some of the regressors"),
        ({"mlps": [["a_ms", "onnx"]]}, "names some of the regressors"),
        ({"mlps": [["a_ms", None]], "mlp_features": 0}, "needs mlp_features and trees"),
        ({"mlps": [["a_ms", None]], "trees": 0}, "needs mlp_features and trees"),
        ({"mlps": [[["a_ms", None], ["a_ms", None]]]}, "each once"),
        ({"mlps": [[]]}, "names some of the regressors"),
        ({"mlps": 3}, "must be a list of lists of regressors"),
        ({"mlps": ["a_ms"]}, "must be a list of lists of regressors"),
        ({"mlps": [[["a_ms"]]]}, "must be a list of lists of regressors"),
        ({"mlps": [[[["a_ms"], None]]]}, "must be a list of lists of regressors"),
        ({"mlp_features": -1}, "mlp_features must be a whole number"),
        ({"mlp_count": 0}, "mlp_count must be a whole number"),
    ],
)
def test_when_a_perceptron_has_no_regressor_or_no_columns_then_the_error_says_so(settings, changes, message):
    known = {**settings.to_dict(), "metrics": ["a_ms"], "scales": [None], "trees": 3, "mlp_features": 4}
    one = EnsembleConfig.from_dict({**known, "mlps": [[["a_ms", None]]]})
    assert one == EnsembleConfig.from_dict({**known, "mlps": [["a_ms", None]]})  # one may stand by itself
    assert EnsembleConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    with pytest.raises(CheckpointError, match=message):
        EnsembleConfig.from_dict({**known, **changes})


@pytest.mark.parametrize(
    ("first", "more"),
    [
        ({}, {"trees": 5}),
        ({"trees": 3, "tree_grams": 40}, {"trees": 9, "tree_grams": 20}),
        ({"trees": 3, "name_numbers": 16}, {"structure_buckets": 32}),
        ({"trees": 3}, {"mlp_features": 8}),
        ({"trees": 3, "mlp_features": 4}, {"trees": 5, "mlp_features": 8, "mlp_count": 2}),
        ({"trees": 3, "structure_buckets": 32, "mlp_features": 4}, {"position_buckets": 16}),
        ({"mlp_features": 4, "mlp_count": 3, "trees": 3}, {"structure_buckets": 8, "position_buckets": 16}),
        ({"trees": 3, "structure_buckets": 32}, {"cost_features": True}),
    ],
    ids=["trees", "more trees", "wiring", "perceptrons", "more perceptrons", "places", "wiring and places", "costs"],
)
def test_when_a_path_gets_room_for_more_then_what_was_fitted_stays(make_model, tokenizer, tmp_path, first, more):
    train = source_of(tokenizer, np.random.default_rng(0))
    mixture = Mixture([train], [1.0], tokenizer, 128, 2048, 1, 0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **{**SMALL, **first}))
    fit_ensemble(model, [train], [], mixture)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble=more)
    widened = build_model(options, tokenizer, [])
    items = [mixture.build(train, row, [0]) for row in range(4)]
    before, after = (scores_of(m, tokenizer, items) for m in (model, widened))
    assert torch.allclose(before, after, atol=1e-6) and widened.config.ensemble["metrics"] == ["t_ms"]
    assert before.std() > 0 and widened.ensemble.settings.changed(**more) == widened.ensemble.settings
    other = dataclasses.replace(train, metrics=["other_bytes"])
    fit_ensemble(widened, [other], [], Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0))
    again = scores_of(widened, tokenizer, items)
    assert torch.allclose(again[:, :1], before, atol=1e-6) and again.shape[1] == 2


def block_source(tokenizer, rng, rows=300):
    """Blocks; the target is how much longer a chain gets from run to run."""
    examples = []
    for row in range(rows):
        names = rng.choice(["rax", "rbx", "rcx", "rdx"], rng.integers(2, 9))
        text = "\n".join(f"add {name}, 1" for name in names)
        value = dependency_features(text)["chain cycles"]
        examples.append(Example(text, "x86asm", ["t_ms"], [float(value)], group=f"g{row}", source="blocks"))
    return Source.from_dataset("blocks", to_dataset(examples), tokenizer)


def test_when_structure_is_read_later_then_only_texts_of_its_language_get_other_scores(make_model, tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    words, blocks, held_out = source_of(tokenizer, rng), block_source(tokenizer, rng), block_source(tokenizer, rng, 100)
    mixture = Mixture([words, blocks], [0.5, 0.5], tokenizer, 128, 2048, 1, 0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, trees=3))
    fit_ensemble(model, [words, blocks], [held_out], mixture)
    before = correlation(held_out.ensemble_scores[:, 0], held_out.values[:, 0])
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    options = make_options(
        data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble={"structure_buckets": 64, "trees": 30}
    )
    later = build_model(options, tokenizer, [])
    fit_ensemble(later, [blocks], [held_out], Mixture([blocks], [1.0], tokenizer, 128, 2048, 1, 0))
    assert later.config.ensemble["domains"] == {"t_ms": ["x86asm"]} and later.ensemble.weight.shape[1] == 2
    assert correlation(held_out.ensemble_scores[:, 0], held_out.values[:, 0]) > max(0.9, before + 0.1)
    later.save_pretrained(tmp_path / "later")
    loaded = type(later).from_pretrained(tmp_path / "later").eval()
    for source, same in ((words, True), (held_out, False)):
        items = [mixture.build(source, row, [0]) for row in range(100)]
        old, new, again = (scores_of(m, tokenizer, items)[:, 0] for m in (model, later, loaded))
        assert torch.equal(new, again) and torch.allclose(old, new, atol=1e-6) == same
        if not same:
            assert np.allclose(new.numpy(), source.ensemble_scores[:100, 0], atol=1e-3)
    # Fitted to all texts at once, one regressor does.
    fit_ensemble(later, [words, blocks], [], mixture)
    assert later.config.ensemble["domains"] == {} and later.ensemble.weight.shape[1] == 1


def dialect_source(tokenizer, rng, word, sign, rows=150):
    """Graphs that all have a word; the target falls or rises with the number of their convolutions."""
    examples = []
    for row in range(rows):
        count = int(rng.integers(0, 9))
        text = f"in 1 3 8 8\n{word} 16\n" + "conv3x3 16\n" * count + f"fc {row + 3}"
        examples.append(Example(text, "onnx", ["t_ms"], [10.0 + sign * count], group=f"{word}{row}", source=word))
    return Source.from_dataset(word, to_dataset(examples), tokenizer)


def test_when_sources_differ_in_their_words_then_each_gets_a_regressor_of_its_own(
    make_model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(ensemble, "DOMAIN_ROWS", 150)
    rng = np.random.default_rng(0)
    two = [dialect_source(tokenizer, rng, word, sign) for word, sign in (("relu", 1), ("gelu", -1))]
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=64, position_buckets=32))
    words = source_of(tokenizer, rng)
    fit_ensemble(model, [words], [], Mixture([words], [1.0], tokenizer, 128, 2048, 1, 0))
    mixture = Mixture(two, [0.5, 0.5], tokenizer, 128, 2048, 1, 0)
    fit_ensemble(model, two, [], mixture)
    assert model.config.ensemble["domains"] == {"t_ms": ["onnx fc in relu", "onnx fc gelu in"]}
    errors = model.ensemble.settings.residual_scales
    assert len(errors) == 3 and min(errors) > 0
    for source, error in zip(two, errors[1:], strict=True):
        apart = np.abs(
            source.ensemble_scores[:, 0] - model.ensemble.settings.scale_of("t_ms").score(source.values[:, 0])
        )
        assert np.median(apart) == pytest.approx(error * np.log(3), rel=0.1)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    loaded = code_rlm.load(tmp_path / "base")[0]
    for source in two:
        items = [mixture.build(source, row, [0]) for row in range(len(source))]
        scores = scores_of(loaded, tokenizer, items)[:, 0].numpy()
        assert correlation(scores, np.exp(source.values[:, 0])) > 0.9
        # In training each row has the score of the regressor that will tell it later, fitted without it.
        assert correlation(source.ensemble_scores[:, 0], np.exp(source.values[:, 0])) > 0.9
        assert not np.allclose(scores, source.ensemble_scores[:, 0], atol=1e-6)
    # Of a text of neither source the decoder knows what the first regressor says.
    other = {"text": "in 1 3 8 8\nconv3x3 16\nfc 9", "language": "onnx"}
    features = RLMProcessor(tokenizer, loaded.config)(other, ["t_ms"])["features"]
    weighted = loaded.ensemble.weighted(features[:, : loaded.ensemble.settings.features.size])
    first = weighted @ loaded.ensemble.weight[:, 0] + loaded.ensemble.bias[0]
    assert torch.allclose(loaded.ensemble.scores(features)[0, 0], first[0])
    # Fitted anew to one of them, the other's stays.
    before = loaded.ensemble.weight[:, 2].clone()
    fit_ensemble(loaded, two[:1], [], Mixture(two[:1], [1.0], tokenizer, 128, 2048, 1, 0))
    assert loaded.ensemble.settings.domains == {"t_ms": ("onnx fc gelu in", "onnx fc in relu")}
    assert torch.equal(loaded.ensemble.weight[:, 1], before)


def test_when_a_small_source_looks_like_another_then_the_fit_keeps_both_apart_or_neither(
    make_model, tokenizer, monkeypatch
):
    """All texts of one are of the other's kind; among tens of thousands of programs they are few."""
    monkeypatch.setattr(ensemble, "DOMAIN_ROWS", 60)
    rng = np.random.default_rng(0)
    small, large = dialect_source(tokenizer, rng, "relu", 1, 60), dialect_source(tokenizer, rng, "fc", -1)
    programs = source_of(tokenizer, rng)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=64))
    fit_ensemble(model, [programs], [], Mixture([programs], [1.0], tokenizer, 128, 2048, 1, 0))
    monkeypatch.setattr(ensemble, "_NEARLY_ALL", 0.75)  # a quarter of 360 texts, were they one
    sources = [small, large, dataclasses.replace(programs, metrics=["other_ms"])]
    fit_ensemble(model, sources, [], Mixture(sources, [0.4, 0.4, 0.2], tokenizer, 128, 2048, 1, 0))
    assert model.ensemble.settings.domains == {"t_ms": ("onnx",)}


def test_when_a_source_has_no_value_of_a_metric_then_the_others_keep_their_kinds(make_model, tokenizer, monkeypatch):
    monkeypatch.setattr(ensemble, "DOMAIN_ROWS", 150)
    rng = np.random.default_rng(0)
    sources = [dialect_source(tokenizer, rng, word, sign) for word, sign in (("relu", 1), ("gelu", -1), ("tanh", 1))]
    sources[2].values[:] = np.nan
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=64))
    for some in (sources[:1], sources):
        mixture = Mixture(some, [1 / len(some)] * len(some), tokenizer, 128, 2048, 1, 0)
        fit_ensemble(model, some, [], mixture)
    assert model.ensemble.settings.domains == {"t_ms": ("onnx fc in relu", "onnx fc gelu in")}


def test_when_a_metric_has_a_template_then_the_others_rows_still_have_a_language(make_model, tokenizer):
    source = dialect_source(tokenizer, np.random.default_rng(0), "relu", -1)
    two = dataclasses.replace(
        source,
        metrics=["a_ms", "t_ms"],
        values=np.repeat(source.values, 2, 1),
        codes=np.repeat(source.codes, 2, 1),
        present=np.repeat(source.present, 2, 1),
    )
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=64))
    model.config.metrics = [{"name": "a_ms", "template": "Time of: {text}"}, {"name": "t_ms"}]
    mixture = Mixture([two], [1.0], tokenizer, 128, 2048, 2, 0, templates=model.config.templates)
    for _ in range(2):
        fit_ensemble(model, [two], [], mixture)
        two.values = 20 - two.values  # what the first regressor has learned is wrong
    two.values = 20 - two.values
    assert model.ensemble.settings.domains == {"t_ms": ("onnx",)}
    assert correlation(two.ensemble_scores[:, 1], two.values[:, 1]) > 0.9


def test_when_texts_of_a_source_look_like_another_s_then_all_of_the_language_are_one_kind(
    make_model, tokenizer, monkeypatch
):
    monkeypatch.setattr(ensemble, "DOMAIN_ROWS", 150)
    rng = np.random.default_rng(0)
    plain, more = dialect_source(tokenizer, rng, "fc", 1), dialect_source(tokenizer, rng, "relu", -1)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=64))
    found = []
    for sources in ([plain], [more], [plain, more]):
        shares = [1 / len(sources)] * len(sources)
        fit_ensemble(model, sources, [], Mixture(sources, shares, tokenizer, 128, 2048, 1, 0))
        found.append(model.ensemble.settings.domains.get("t_ms"))
    # All words of the first source's texts stand in the second's.
    assert found == [None, ("onnx fc in relu",), ("onnx",)]


@pytest.mark.parametrize(
    "changes",
    [
        {"domains": {"b_ms": "onnx"}},
        {"domains": {"a_ms": "latin"}},
        {"domains": {"a_ms": "onnx"}, "features": {}},
        {"domains": {"a_ms": ["onnx", "onnx"]}},
        {"domains": {"a_ms": ["relu onnx"]}},
        {"domains": {"a_ms": []}},
        {"domains": {"a_ms": 3}},
        {"domains": {"a_ms": [None]}},
    ],
)
def test_when_a_second_regressor_fits_no_channel_or_language_then_the_error_says_so(settings, changes):
    known = {**settings.changed(structure_buckets=8).to_dict(), "metrics": ["a_ms"], "scales": [None]}
    EnsembleConfig.from_dict({**known, "domains": {"a_ms": "onnx"}})
    two = {
        **known,
        "metrics": ["b_ms", "a_ms"],
        "scales": [None] * 2,
        "domains": {"b_ms": "onnx", "a_ms": "x86asm"},
    }
    one = EnsembleConfig.from_dict(two)
    again = EnsembleConfig.from_dict(json.loads(json.dumps(one.to_dict(), sort_keys=True)))
    assert again.regressors == one.regressors == [("b_ms", None), ("a_ms", None), ("a_ms", "x86asm"), ("b_ms", "onnx")]
    with pytest.raises(CheckpointError, match="domains names metrics and domains of texts"):
        EnsembleConfig.from_dict({**known, **changes})


def fitted_to_both(make_model, tokenizer):
    """A model whose path reads structure, fitted to words and blocks at once, and these."""
    rng = np.random.default_rng(0)
    words, blocks = source_of(tokenizer, rng), block_source(tokenizer, rng, 120)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=32))
    fit_ensemble(model, [words, blocks], [], Mixture([words, blocks], [0.5, 0.5], tokenizer, 128, 2048, 1, 0))
    return model, words, blocks


def test_when_a_path_is_begun_anew_then_second_regressors_and_lost_experts_go(make_model, tokenizer, tmp_path):
    model, words, blocks = fitted_to_both(make_model, tokenizer)
    fit_ensemble(model, [blocks], [], Mixture([blocks], [1.0], tokenizer, 128, 2048, 1, 0))
    assert model.ensemble.settings.domains == {"t_ms": ("x86asm",)}
    expert = PoolingComponent(0.1, 0.5, 0.5)
    model.config.fitted.pooling = {"t_ms": expert}
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    other = dataclasses.replace(words, metrics=["other_bytes"])
    for changes in ({"buckets": 64}, {"structure_buckets": 0}):
        options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble=changes, steps=0)
        changed = build_model(options, tokenizer, [])
        fit_ensemble(changed, [other], [], Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0))
        assert changed.config.ensemble["metrics"] == ["other_bytes"] and changed.config.ensemble["domains"] == {}
        assert changed.config.fitted.pooling == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": ["onnx"]}, "domains must be a mapping"),
        ({"residual_scales": 0.5}, "residual_scales must be a list"),
        ({"residual_scales": [0.5]}, "residual_scales must be a number of at least 0 for each of 2 regressors"),
        ({"residual_scales": [0.5, -1.0]}, "residual_scales must be a number of at least 0"),
        ({"residual_scales": [0.5, "much"]}, "residual_scales must be a number of at least 0"),
    ],
)
def test_when_kinds_or_errors_are_malformed_then_the_error_says_so(settings, changes, message):
    known = {**settings.changed(structure_buckets=8).to_dict(), "metrics": ["a_ms"], "scales": [None]}
    one = EnsembleConfig.from_dict({**known, "domains": {"a_ms": "onnx"}, "residual_scales": [0.0, 0.5]})
    assert EnsembleConfig.from_dict(json.loads(json.dumps(one.to_dict()))) == one and one.residual_scales == (0.0, 0.5)
    with pytest.raises(CheckpointError, match=message):
        EnsembleConfig.from_dict({**known, "domains": {"a_ms": "onnx"}, **changes})


def test_when_scores_change_and_no_rows_validate_them_then_the_expert_goes_and_that_is_said(make_model, tokenizer):
    model, words, _ = fitted_to_both(make_model, tokenizer)
    other = dataclasses.replace(words, metrics=["other_bytes"])
    expert = PoolingComponent(0.1, 0.5, 0.5)
    said = []
    for source, left in ((other, ["t_ms"]), (words, [])):
        model.config.fitted.pooling = {"t_ms": expert}
        fit_ensemble(model, [source], [], Mixture([source], [1.0], tokenizer, 128, 2048, 1, 0), said.append)
        assert list(model.config.fitted.pooling) == left
    assert [line for line in said if "the pooling of t_ms goes" in line] and "the pooling" not in "".join(said[:1])
    before = len(said)
    model.config.fitted.pooling = {"t_ms": expert}
    fit_ensemble(model, [words], [words], Mixture([words], [1.0], tokenizer, 128, 2048, 1, 0), said.append)
    assert not any("the pooling of" in line for line in said[before:])


def test_when_a_value_has_no_score_on_the_earlier_scale_then_the_fit_stays_finite(make_model, tokenizer):
    rng = np.random.default_rng(0)
    blocks = block_source(tokenizer, rng, 120)
    mixture = Mixture([blocks], [1.0], tokenizer, 128, 2048, 1, 0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, structure_buckets=32, trees=3))
    fit_ensemble(model, [blocks], [], mixture)
    assert model.ensemble.settings.scale_of("t_ms").logarithm
    blocks.values[0] = 0.0
    fit_ensemble(model, [blocks], [], mixture)
    assert model.ensemble.settings.domains and np.isfinite(blocks.ensemble_scores).all()


def test_when_a_source_holds_several_languages_then_each_row_trains_on_the_score_it_gets_later(make_model, tokenizer):
    model, _, _ = fitted_to_both(make_model, tokenizer)
    rows = [
        Example(f"foo {k}", "python", ["u_ms"], [float(k + 1)], group=f"p{k}", source="mixed") for k in range(60)
    ] + [
        Example("add rax, 1\n" * (k % 7 + 1), "x86asm", ["t_ms"], [float(k % 7 + 1)], group=f"b{k}", source="mixed")
        for k in range(60)
    ]
    mixed = Source.from_dataset("mixed", to_dataset(rows), tokenizer)
    mixture = Mixture([mixed], [1.0], tokenizer, 128, 2048, 1, 0)
    fit_ensemble(model, [mixed], [], mixture)
    assert model.ensemble.settings.domains == {"t_ms": ("x86asm",)}
    python = [row for row, language in enumerate(mixed.languages) if language == "python"]
    items = [mixture.build(mixed, r, np.flatnonzero(mixed.present[r])[:1]) for r in python]
    later = scores_of(model, tokenizer, items)[:, 0].numpy()
    assert len(python) == 60 and np.allclose(mixed.ensemble_scores[python, 0], later, atol=1e-3)


def costs_of(tokenizer, text: str, language: str, **changes) -> dict[str, float]:
    """The cost features of a text by name."""
    layout = settings_for(tokenizer, **SMALL, **changes).features
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    raw = RLMFeatureExtractor(layout, token_texts(tokenizer)).raw(ids, None, [language])
    assert raw.shape[1] == layout.size
    return dict(zip(layout.cost_features, raw[0, layout.size - len(layout.cost_features) :].tolist(), strict=True))


def test_when_costs_are_features_then_each_has_a_column_at_the_end():
    tokenizer = RLMTokenizer.from_pretrained(DEFAULT_CHECKPOINT)
    text = "# metrics: peak_rss_bytes\n# language: python\na = [i * i for i in range(20000000)]\n"
    found = costs_of(tokenizer, text, "python", cost_features=True)
    assert tuple(found) == COST_NAMES
    assert found["program.iterations"] == pytest.approx(math.log1p(2e7), rel=1e-5)
    assert found["program.grown_bytes"] == pytest.approx(math.log1p(8.2e8), rel=0.02)
    assert not any(costs_of(tokenizer, text, "x86asm", cost_features=True).values())
    one = costs_of(tokenizer, text, "python", cost_features=["program.iterations"])
    assert one == {"program.iterations": found["program.iterations"]}


def test_when_a_layout_has_costs_then_others_keep_their_columns_and_unknown_names_are_refused(tokenizer):
    plain = settings_for(tokenizer, **SMALL)
    wired = plain.changed(cost_features=True)
    assert list(wired.features.parts)[-2:] == ["costs", "hidden"] and wired.features.size == plain.features.size + len(
        COST_NAMES
    )
    assert plain.features.parts["costs"] == 0 and FeatureLayout.from_dict(wired.features.to_dict()) == wired.features
    for names in (["program.iterations"] * 2, ["program.nonsense"], 3):
        with pytest.raises(CheckpointError, match="cost_features"):
            plain.changed(cost_features=names)
