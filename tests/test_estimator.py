"""`CodeRegressor`: scikit-learn's conventions, tables of every kind, and answers that are the pipeline's own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tiny
from datasets import Dataset
from loopback_hub import LoopbackHub
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.utils import estimator_checks, get_tags

from code_rlm import CodeRegressor, RLMError
from code_rlm.cli import main
from code_rlm.data.schema import DataError
from code_rlm.errors_rlm import InputError, MetricError

CODES = [f"x = [{i}] * {10**power}\n" for i in range(40) for power in range(1, 5)]
GROUPS = [f"p{i}" for i in range(40) for _ in range(1, 5)]
BYTES = np.array([8.0 * 10**power + i for i in range(40) for power in range(1, 5)])
SMALL = {"ensemble": {"buckets": 256, "number_buckets": 16}}


@pytest.fixture(scope="module")
def base(make_model, tokenizer, tmp_path_factory):
    return tiny.save(make_model, tokenizer, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def settings(base):
    return {"language": "python", "init": str(base), "options": SMALL}


@pytest.fixture(scope="module")
def fitted(settings):
    return CodeRegressor(metric="heap_bytes", **settings).fit(CODES, BYTES, groups=GROUPS)


@pytest.fixture(scope="module")
def double(settings):
    """A regressor of two targets, fitted to a DataFrame; a quarter of the second target is missing."""
    y = pd.DataFrame({"heap_bytes": BYTES, "wall_time_s": BYTES / 1e4})
    y.iloc[::4, 1] = np.nan
    table = pd.DataFrame({"code": CODES, "language": "python", "context": [{"machine": "a"}] * len(CODES)})
    return CodeRegressor(**settings).fit(table, y, groups=pd.Series(GROUPS))


# ---------------------------------------------------------------------------------------------------- answers


def test_when_a_table_is_fitted_then_unseen_programs_are_ranked_by_their_size(fitted):
    new = [f"x = [{i}] * {size}\n" for i in (41, 42) for size in (10, 100, 1000, 10000)]
    truth = [size for _ in (41, 42) for size in (10, 100, 1000, 10000)]
    assert spearmanr(fitted.predict(new), truth).statistic > 0.8
    assert any(line.startswith("calibrated heap_bytes") for line in fitted.fit_log_)


def test_when_numbers_are_asked_for_then_they_are_those_of_the_pipeline(fitted):
    entries = [answer[0] for answer in fitted.pipeline_(CODES[:5], metrics=["heap_bytes"], interval=0.8)]
    assert fitted.predict(CODES[:5]).tolist() == [entry["value"] for entry in entries]
    expected = [[entry["low"], entry["high"]] for entry in entries]
    assert fitted.predict_interval(CODES[:5], level=0.8).tolist() == expected
    quantiles = fitted.predict_quantiles(CODES[:5], (0.1, 0.5, 0.9))
    assert quantiles == pytest.approx(np.array([[e["low"], e["value"], e["high"]] for e in entries]), rel=1e-5)


def test_when_a_limit_is_given_then_its_probability_agrees_with_quantiles_and_draws(fitted):
    limit = float(np.median(BYTES))
    above = fitted.prob_above(CODES[:8], limit)
    levels = np.linspace(0.01, 0.99, 99)
    from_quantiles = (fitted.predict_quantiles(CODES[:8], levels) > limit).mean(1)
    assert above == pytest.approx(from_quantiles, abs=0.03)
    drawn = fitted.sample(CODES[:8], n=400)
    assert drawn.shape == (8, 400) and np.array_equal(drawn, fitted.sample(CODES[:8], n=400), equal_nan=True)
    known = np.isfinite(drawn)
    assert above == pytest.approx((known & (drawn > limit)).sum(1) / known.sum(1), abs=0.12)
    with pytest.raises(MetricError, match="must be a finite number"):
        fitted.prob_above(CODES[:1], float("nan"))


def test_when_several_targets_are_fitted_then_answers_have_an_axis_for_them(double):
    assert double.metrics_ == ["heap_bytes", "wall_time_s"]
    table = pd.DataFrame({"text": CODES[:3], "context": [["machine: a"]] * 3})
    assert double.predict(table).shape == (3, 2)
    assert double.predict_quantiles(table, (0.2, 0.8)).shape == (3, 2, 2)
    assert double.prob_above(table, [100.0, 1.0]).shape == (3, 2)
    assert double.sample(table, n=5).shape == (3, 2, 5)
    assert [row["rank"] for row in double.rank(table, "wall_time_s")] == [1, 2, 3]
    with pytest.raises(MetricError, match="needs a metric: one of heap_bytes, wall_time_s"):
        double.rank(table)
    with pytest.raises(MetricError, match="2 targets need one limit each"):
        double.prob_above(table, [1.0, 2.0, 3.0])
    assert double.pipeline_.model.config.metric("wall_time_s").unit == "s"


def test_when_candidates_are_ranked_then_the_direction_is_that_of_the_regressor(fitted):
    ranked = fitted.rank(CODES[:4])
    values = [entry["value"] for entry in ranked]
    chances = [entry["probability_best"] for entry in ranked]
    assert values == sorted(values) and 0.5 < sum(chances) <= 1 + 1e-6  # the rest: no number at all


@pytest.mark.parametrize("kind", [list, np.array, pd.Series, "column", "frame", "dataset"])
def test_when_inputs_come_in_another_container_then_answers_are_the_same(fitted, kind):
    texts = CODES[:4]
    given = {
        "column": lambda: np.array(texts)[:, None],
        "frame": lambda: pd.DataFrame({"code": texts}, index=[7, 8, 9, 10]),
        "dataset": lambda: Dataset.from_dict({"text": texts, "language": ["python"] * 4}),
    }
    rows = given[kind]() if isinstance(kind, str) else kind(texts)
    assert fitted.predict(rows).tolist() == fitted.predict(texts).tolist()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("x = 1", "X must be a list of inputs, got one"),
        (pd.DataFrame({"source": ["x = 1"]}), "needs a column named text or code, got source"),
        (["x = 1", 3], "Row 1: Cannot read int"),
        ([], "X is empty"),
        (np.array([["a", "b"]]), "or one column of code"),
        (3, "got int"),
    ],
)
def test_when_inputs_are_unusable_then_the_error_names_the_row(fitted, inputs, message):
    with pytest.raises(InputError, match=message):
        fitted.predict(inputs)


@pytest.mark.parametrize(
    ("rows", "targets", "more", "message"),
    [
        (CODES[:5], [1.0] * 4, {}, "X has 5 rows and y has 4"),
        (CODES[:3], [1.0, float("nan"), 2.0], {}, "NaN or infinity"),
        (CODES[:3], None, {}, "requires y to be passed"),
        (CODES[:3], ["fast", "slow", "slow"], {}, "y must hold numbers"),
        (CODES[:3], [1.0, 2.0, 3.0], {"groups": ["a"]}, "X has 3 rows and groups has 1"),
        (CODES[:20], np.arange(20.0) + 1, {}, "50 training rows with different values are needed"),
    ],
)
def test_when_a_table_cannot_be_fitted_then_the_error_says_why(settings, rows, targets, more, message):
    with pytest.raises((InputError, DataError), match=message):
        CodeRegressor(metric="heap_bytes", **settings).fit(rows, targets, **more)


# ---------------------------------------------------------------------------------------------------- scikit-learn

CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_mixin_order",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
]


@pytest.mark.parametrize("name", CHECKS)
def test_when_scikit_learn_checks_what_needs_no_numbers_as_input_then_it_passes(name):
    getattr(estimator_checks, name)("CodeRegressor", CodeRegressor())


def test_when_tags_are_read_then_inputs_are_text_and_targets_may_be_several():
    tags = get_tags(CodeRegressor())
    assert tags.input_tags.string and not tags.input_tags.two_d_array
    assert tags.estimator_type == "regressor" and tags.target_tags.required and tags.target_tags.multi_output


def test_when_the_same_table_is_fitted_again_then_answers_and_parameters_are_the_same(fitted):
    before = fitted.get_params()
    again = clone(fitted)
    with pytest.raises(NotFittedError):
        again.predict(CODES[:1])
    assert again.fit(CODES, BYTES, groups=GROUPS) is again
    assert again.get_params() == before == fitted.get_params()
    assert again.predict(CODES[:6]).tolist() == fitted.predict(CODES[:6]).tolist()
    state = set(vars(again))
    again.predict(CODES[:2])
    assert set(vars(again)) == state


def test_when_rows_are_reordered_or_few_then_each_answer_is_the_same(fitted):
    whole = fitted.predict(CODES[:6])
    assert fitted.predict(CODES[:6][::-1])[::-1] == pytest.approx(whole, rel=2e-3)
    assert np.concatenate([fitted.predict([text]) for text in CODES[:6]]) == pytest.approx(whole, rel=2e-3)


def test_when_a_grid_is_searched_then_the_better_setting_is_found(settings):
    options = [{**SMALL, "ensemble": {"buckets": 256, "number_buckets": count}} for count in (1, 16)]
    search = GridSearchCV(
        CodeRegressor(metric="heap_bytes", **settings),
        {"options": options},
        scoring=lambda estimator, X, y: spearmanr(estimator.predict(X), y).statistic,
        cv=GroupKFold(2),
        error_score="raise",
    )
    search.fit(CODES, BYTES, groups=GROUPS)
    assert len(search.cv_results_["mean_test_score"]) == 2 and np.isfinite(search.best_score_)
    assert search.best_estimator_.predict(CODES[:2]).shape == (2,)
    scores = cross_val_score(search.best_estimator_, CODES, BYTES, groups=GROUPS, cv=GroupKFold(2))
    assert scores.shape == (2,) and (scores <= 1).all()  # R2, as for every regressor


# ---------------------------------------------------------------------------------------------------- storage


def test_when_it_is_saved_then_another_regressor_and_the_command_answer_the_same(fitted, double, tmp_path, capsys):
    expected = fitted.predict_interval(CODES[:3])
    fitted.save(tmp_path / "saved")
    read = CodeRegressor.load(tmp_path / "saved")
    assert read.get_params() == fitted.get_params() and read.metrics_ == ["heap_bytes"]
    assert read.predict_interval(CODES[:3]).tolist() == expected.tolist()
    (tmp_path / "a.py").write_text(CODES[0])
    assert main(["predict", str(tmp_path / "a.py"), "--model", str(tmp_path / "saved"), "--format", "csv"]) == 0
    assert f"heap_bytes,{fitted.predict(CODES[:1])[0]:g}"[:14] in capsys.readouterr().out
    double.save(tmp_path / "double")
    assert CodeRegressor.load(tmp_path / "double").predict(CODES[:2]).shape == (2, 2)


def test_when_it_is_pickled_then_its_copy_answers_the_same(fitted):
    copy = pickle.loads(pickle.dumps(fitted))
    assert copy.predict(CODES[:3]).tolist() == fitted.predict(CODES[:3]).tolist()


def test_when_a_checkpoint_is_read_then_it_answers_a_metric_that_it_knows(base):
    read = CodeRegressor.from_pretrained(base, metric="cycles", language="x86asm")
    assert read.predict(["add eax, 1"]).shape == (1,)
    with pytest.raises(MetricError, match=r"so name the metric: .*, one of peak_memory_bytes, "):
        CodeRegressor.from_pretrained(base)
    with pytest.raises(MetricError, match="does not predict 'speed'"):
        CodeRegressor.from_pretrained(base, metric="speed")
    with pytest.raises(RLMError, match="There is no checkpoint folder"):
        CodeRegressor.from_pretrained("./nowhere", metric="cycles")


PUSH = """
import sys
from code_rlm import CodeRegressor
regressor = CodeRegressor.load(sys.argv[1])
regressor.push_to_hub("tester/bytes")
again = CodeRegressor.from_pretrained("tester/bytes")
assert again.get_params() == regressor.get_params()
print(again.predict(["x = [1] * 100"])[0])
"""


@pytest.mark.slow
def test_when_it_is_pushed_then_it_is_read_from_the_hub_again(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    with LoopbackHub(tmp_path / "hub") as hub:
        done = subprocess.run(
            [sys.executable, "-c", PUSH, str(tmp_path / "saved")],
            env={**os.environ, **hub.env(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert hub.unknown_requests == []
    assert float(done.stdout.splitlines()[-1]) == fitted.predict(["x = [1] * 100"])[0]
