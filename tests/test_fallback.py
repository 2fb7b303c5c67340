"""Fallback regressors: fitted to more than the transformer reads, and the answer to inputs unlike its training rows."""

import numpy as np
import pytest
import torch

import code_rlm
from code_rlm import CheckpointError
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.schema import Example, to_dataset
from code_rlm.distributions_rlm import ScoreScale
from code_rlm.ensemble_rlm import FALLBACK, EnsembleConfig
from code_rlm.familiarity_rlm import Familiarity, NoveltyPool, Reference, observe
from code_rlm.pipeline_rlm import CodeRegressionPipeline
from code_rlm.processing_rlm import CodeInput, RLMProcessor
from code_rlm.training.ensemble import fit_ensemble, set_unread, settings_for
from code_rlm.training.fallback import RESIDUALS, fit_fallbacks
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, make_options
from code_rlm.training.sources import load_sources

SIZES = {"buckets": 128, "number_buckets": 8, "largest_numbers": 2, "code_numbers": 64}
METRIC = "t_bytes"


def source_of(tokenizer, name, least, most, rows=200):
    """Programs that hold a list of n items of 8 bytes, n log-uniform."""
    random = np.random.default_rng(len(name))
    examples = []
    for row in range(rows):
        n = int(10 ** random.uniform(least, most))
        value = 8.0 * n * random.lognormal(sigma=0.1)
        examples.append(Example(f"x = [0] * {n}\n", "python", [METRIC], [value], group=f"{name}{row}", source=name))
    return Source.from_dataset(name, to_dataset(examples), tokenizer)


@pytest.fixture(scope="module")
def world(make_model, tokenizer, tmp_path_factory):
    """A model of small programs with a fallback for large ones, its checkpoint, and the scores of before."""
    mixed, beyond = source_of(tokenizer, "small", 1, 3), source_of(tokenizer, "large", 3, 8)
    model = make_model(max_input_tokens=128, metrics=[{"name": METRIC, "unit": "bytes", "languages": ["python"]}])
    model.add_ensemble(settings_for(tokenizer, **SIZES))
    mixture = Mixture([mixed], [1.0], tokenizer, 128, 2048, 1, 0)
    fit_ensemble(model, [mixed], [], mixture)
    probe = RLMProcessor(tokenizer, model.config)("x = [0] * 77\n", [METRIC])
    before = model.ensemble.scores(probe["features"]).clone()
    log = []
    fit_fallbacks(model, [METRIC], [mixed], [beyond], mixture, log.append)
    folder = tmp_path_factory.mktemp("fallback")
    for each in (model.eval(), tokenizer):
        each.save_pretrained(folder)
    return model, before, log, folder


def seen(processor, n):
    """What familiarity sees of a program."""
    read = CodeInput(f"x = [0] * {n}\n", "python", ())
    [encoded] = processor.encode([read], [[METRIC]])
    return observe(read.text, "python", (), encoded.code_ids)


def fallback_score(model, processor, n):
    features = processor({"text": f"x = [0] * {n}\n", "language": "python"}, [METRIC])["features"]
    return float(model.ensemble.fallback_scores(features)[0, 0])


def test_when_a_program_is_larger_than_the_mixtures_then_the_fallback_knows_its_size(world, tokenizer):
    model, _, log, _ = world
    pool = model.config.fitted.familiarity.pools[METRIC]
    processor = RLMProcessor(tokenizer, model.config)
    for n in (5_000, 200_000, 9_000_000):
        values = pool.values_for("python", fallback_score(model, processor, n))
        assert len(values) == RESIDUALS and list(values) == sorted(values)
        assert 0.5 < values[RESIDUALS // 2] / (8 * n) < 2
        assert values[0] < 8 * n < values[-1]
    assert "small: 200 rows, Spearman 0.9" in log[1] and "large: 200 rows" in log[2] and "median factor 1." in log[2]
    other, own = (int(share.split("%")[0].split()[-1]) for share in log[2].split(", ")[-2:])
    assert "of the other sources" in log[2] and 0 <= other <= 100 and 80 <= own <= 100
    assert "400 rows" in log[0] and f"({FALLBACK})" in log[0]
    assert pool.weight == 1 and "200 groups left out" in pool.source


def test_when_a_fallback_is_fitted_then_the_decoders_scores_and_scales_stay(world, tokenizer):
    model, before, _, _ = world
    probe = RLMProcessor(tokenizer, model.config)("x = [0] * 77\n", [METRIC])
    assert np.allclose(model.ensemble.scores(probe["features"]), before, atol=1e-6)
    settings = model.ensemble.settings
    assert settings.regressors == [(METRIC, None), (METRIC, FALLBACK)] and settings.fallbacks == (METRIC,)
    known = model.ensemble.residual_scales(probe["features"])[0, 0]
    assert known == settings.residual_scales[0] != settings.residual_scales[1]


def test_when_the_checkpoint_is_loaded_then_fallback_and_pool_come_back(world, tokenizer):
    model, _, _, folder = world
    again, processor = code_rlm.load(folder)
    assert again.config.fitted.familiarity.pools == model.config.fitted.familiarity.pools
    own = RLMProcessor(tokenizer, model.config)
    assert fallback_score(again, processor, 4321) == pytest.approx(fallback_score(model, own, 4321), abs=1e-5)


def test_when_an_input_is_unlike_the_training_rows_then_the_pipeline_answers_from_the_fallback(world):
    model, processor = code_rlm.load(world[3])
    familiarity = model.config.fitted.familiarity
    rows = [seen(processor, n) for n in range(10, 1000, 10)]
    groups = list(map(str, range(len(rows))))
    familiarity.references["small"] = Reference.fit(
        "small", ["python"], rows[::2], groups[::2], rows[1::2], groups[1::2]
    )
    familiarity.metrics[METRIC] = ("small",)
    pipe = CodeRegressionPipeline(model=model, processor=processor, tokenizer=processor.tokenizer)
    n = 9_000_000
    text = {"text": f"x = [0] * {n}\n", "language": "python"}
    answer = pipe(text, metrics=[METRIC], calibrated=True)[0]
    values = familiarity.pools[METRIC].values_for("python", fallback_score(model, processor, n))
    assert answer["familiarity"] < 0.01
    assert answer["value"] == pytest.approx(values[RESIDUALS // 2], rel=1e-4)
    assert answer["low"] < 8 * n < answer["high"] and answer["high"] / answer["low"] < 20
    plain = pipe(text, metrics=[METRIC], calibrated=False)[0]
    assert plain["value"] != answer["value"]
    # Rows of the fallback regressor make such programs familiar, and do not change the number.
    large = [seen(processor, 7 * 10**power) for power in range(1, 9)] * 10
    own = Reference.fit("fallback (python)", ["python"], large, [str(row) for row in range(len(large))])
    familiarity.references[own.domain] = own
    familiarity.fallbacks[METRIC] = (own.domain,)
    again = pipe(text, metrics=[METRIC], calibrated=True)[0]
    assert again["familiarity"] > 0.05 and again["value"] == answer["value"]
    assert Familiarity.from_dict(familiarity.to_dict()).fallbacks == familiarity.fallbacks
    assert not familiarity.without([METRIC]).references


def test_when_a_fallback_is_asked_for_a_metric_without_regressor_then_the_error_lists_them(world, tokenizer):
    model = world[0]
    mixed = source_of(tokenizer, "small", 1, 3, rows=5)
    mixture = Mixture([mixed], [1.0], tokenizer, 128, 2048, 1, 0)
    with pytest.raises(TrainError, match=rf"other_ms.*it has {METRIC}"):
        fit_fallbacks(model, ["other_ms"], [mixed], [], mixture)
    with pytest.raises(CheckpointError, match="fallbacks names metrics of the ensemble"):
        EnsembleConfig(metrics=("a",), fallbacks=("b",))


def test_when_a_source_is_for_the_fallback_alone_then_it_takes_no_part_in_the_mixture(toy, tokenizer, tmp_path):
    table = {
        "file": str(toy / "toy.parquet"),
        "text_column": "code",
        "target_columns": ["peak_memory_bytes"],
        "group_column": "problem",
        "language": "python",
    }

    def loaded(*entries, fallbacks=("peak_memory_bytes",)):
        options = make_options(data=list(entries), ensemble={"fallbacks": list(fallbacks)}, max_objectives=1)
        return load_sources(options, tokenizer)

    sources, weights = loaded({**table, "weight": 2}, {**table, "fallback_only": True})
    assert [each.fallback_only for each in sources] == [False, True] and len(weights) == 1
    assert "for the fallback regressors alone" in str(sources[1])
    with pytest.raises(TrainError, match=r"ensemble\.fallbacks names no metric"):
        loaded(table, {**table, "fallback_only": True}, fallbacks=())
    with pytest.raises(TrainError, match="Every data source has fallback_only"):
        loaded({**table, "fallback_only": True})
    with pytest.raises(TrainError, match="is streamed, and fallback regressors read whole tables"):
        loaded(table, {"task": "code_regression", "fallback_only": True})
    with pytest.raises(TrainError, match=r"fallback_only must be .*got 1"):
        loaded(table, {**table, "fallback_only": 1})


def test_when_a_metric_is_added_without_training_then_the_decoder_reads_what_it_read_before(world, tokenizer):
    model, processor = code_rlm.load(world[3])
    text = {"text": "x = [0] * 77\n", "language": "python"}
    before = model.encode_memory(**processor(text, [METRIC]))
    other = source_of(tokenizer, "other", 1, 3)
    other.metrics = ["other_bytes"]
    mixture = Mixture([other], [1.0], tokenizer, 128, 2048, 1, 0)
    fit_ensemble(model, [other], [], mixture)
    set_unread(model, [METRIC], trained=False)
    after = model.encode_memory(**processor(text, [METRIC]))
    assert model.ensemble.settings.metrics == (METRIC, "other_bytes") and model.config.ensemble["unread"] == [
        "other_bytes"
    ]
    assert torch.allclose(after, before, atol=1e-6)
    set_unread(model, [METRIC], trained=True)
    assert model.encode_memory(**processor(text, [METRIC])).shape[1] == before.shape[1] + 1


def test_when_there_is_no_ensemble_then_fallbacks_are_refused(world):
    options = make_options(
        data=[{}], init=str(world[3]), max_objectives=1, ensemble={"use": False, "fallbacks": [METRIC]}
    )
    with pytest.raises(TrainError, match="fallbacks are regressors of the feature ensemble"):
        build_model(options, code_rlm.load(world[3])[1].tokenizer, [])


@pytest.mark.parametrize("values", [[1.0, 10.0, 1e6], [-3.0, 0.0, 5.0]])
def test_when_scores_are_read_back_then_values_come_again_also_beyond_the_knots(values):
    for scale in (ScoreScale.linear(np.array(values)), ScoreScale.normal(np.array(values))):
        probes = np.array([values[0], values[1], values[2], values[2] * 50])
        assert np.allclose(scale.values_at(scale.score(probes)), probes, rtol=1e-9)


def test_when_a_language_has_residuals_of_its_own_then_these_are_used():
    scale = ScoreScale(True, (0.0, 1.0), (0.0, 1.0))
    pool = NoveltyPool(1.0, {"": (5.0,)}, "", scale, {"": (-1.0, 1.0), "go": (0.0,)})
    assert np.allclose(pool.values_for("go", 2.0), np.exp(2.0))
    assert np.allclose(pool.values_for("lua", 2.0), np.exp([1.0, 3.0]))
    assert pool.values_for("go") == (5.0,)
    assert NoveltyPool.from_dict(pool.to_dict()) == pool
