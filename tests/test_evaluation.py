"""Scores, baselines and reports: known values, invariances, calibration of exact quantiles, degenerate input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from code_rlm.errors_rlm import RLMError
from code_rlm.evaluation import baselines, metrics, report

RANK_SCORES = (metrics.spearman, metrics.kendall)
PAIR_SCORES = (*RANK_SCORES, metrics.mape, metrics.median_ape, metrics.log_rmse, metrics.top_1, metrics.top_share)

values = st.integers(-5, 5).map(float)  # few values, many ties
columns = st.integers(2, 30).map(lambda n: arrays(np.float64, n, elements=values))
pairs = columns.flatmap(lambda column: st.tuples(column, column))


# Scores of two columns


def test_when_values_are_known_then_scores_match_them():
    target, prediction = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 3.0, 2.0, 12.0])
    assert metrics.spearman(target, prediction) == pytest.approx(0.8)
    assert metrics.kendall(target, prediction) == pytest.approx(4 / 6)
    assert metrics.mape(target, prediction) == pytest.approx((0 + 0.5 + 0.5 + 0.5) / 4)
    assert metrics.median_ape(target, prediction) == pytest.approx(0.5)
    assert metrics.log_rmse(target, target * math.e) == pytest.approx(1.0)
    assert metrics.nll(np.log([0.5, 0.25])) == pytest.approx(1.5 * math.log(2))


@given(pairs)
@settings(deadline=None)
def test_when_columns_have_ties_then_rank_scores_are_those_of_scipy(pair):
    target, prediction = pair
    constant = np.ptp(target) == 0 or np.ptp(prediction) == 0
    for score, reference in ((metrics.spearman, stats.spearmanr), (metrics.kendall, stats.kendalltau)):
        if constant:
            assert math.isnan(score(target, prediction))
        else:
            assert score(target, prediction) == pytest.approx(reference(target, prediction).statistic)


@given(pairs, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_when_rows_are_shuffled_then_no_score_changes(pair, random):
    order = list(range(len(pair[0])))
    random.shuffle(order)
    for score in PAIR_SCORES:
        assert score(*pair) == pytest.approx(score(pair[0][order], pair[1][order]), nan_ok=True)


@given(pairs)
@settings(deadline=None)
def test_when_the_prediction_is_rescaled_monotonically_then_rank_scores_stay(pair):
    target, prediction = pair
    for score in (*RANK_SCORES, metrics.top_1, metrics.top_share):
        assert score(target, prediction) == pytest.approx(score(target, np.exp(prediction)), nan_ok=True)
    for score in RANK_SCORES:
        assert score(target, prediction) == pytest.approx(-score(target, -prediction), nan_ok=True)


@given(pairs, st.floats(1e-6, 1e6))
@settings(deadline=None)
def test_when_the_unit_changes_then_relative_errors_stay(pair, unit):
    target, prediction = np.abs(pair[0]) + 1, np.abs(pair[1]) + 1
    for score in (metrics.mape, metrics.median_ape, metrics.log_rmse):
        assert score(target, prediction) == pytest.approx(score(unit * target, unit * prediction))


def test_when_a_score_is_undefined_then_it_is_nan():
    for score in RANK_SCORES:
        assert math.isnan(score([1.0], [2.0]))
        assert math.isnan(score([1.0, 1.0], [2.0, 3.0]))
    assert math.isnan(metrics.mape([0.0, 1.0], [1.0, 1.0]))
    assert math.isnan(metrics.log_rmse([1.0, 2.0], [1.0, -2.0]))
    assert math.isnan(metrics.interval_width([0.0], [1.0], [0.0]))
    assert metrics.mape([1.0], [math.inf]) == math.inf


@pytest.mark.parametrize("score", PAIR_SCORES)
@pytest.mark.parametrize(
    ("target", "prediction", "message"),
    [
        ([], [], "target has no rows"),
        ([1.0, 2.0], [1.0], "target has 2 rows and prediction 1"),
        ([1.0, math.nan, math.nan], [1.0, 2.0, 3.0], "target is not finite in 2 of 3 rows, first in row 1"),
        ([1.0, math.inf], [1.0, 2.0], "target is not finite in 1 of 2 rows"),
        ([1.0, 2.0], [1.0, math.nan], "prediction is NaN in 1 of 2 rows, first in row 1"),
        ([[1.0]], [[1.0]], "one dimension"),
    ],
)
def test_when_rows_cannot_be_scored_then_the_error_says_why(score, target, prediction, message):
    with pytest.raises(metrics.EvaluationError, match=message) as caught:
        score(target, prediction)
    assert isinstance(caught.value, RLMError)


def test_when_scores_are_taken_then_the_callers_arrays_stay_as_they_were():
    target, prediction = np.array([3.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])
    for score in PAIR_SCORES:
        score(target, prediction)
    assert target.tolist() == [3, 1, 2] and prediction.tolist() == [1, 2, 3]


# Intervals and distributions


def test_when_quantiles_are_exact_then_coverage_is_nominal():
    rng = np.random.default_rng(0)
    location = rng.normal(size=20_000)
    target = location + rng.normal(size=location.size)
    for nominal in (0.5, 0.9):
        half = stats.norm.ppf(0.5 + nominal / 2)
        assert metrics.interval_coverage(target, location - half, location + half) == pytest.approx(nominal, abs=0.01)
        assert metrics.interval_width(location - half, location + half) == pytest.approx(2 * half)


def test_when_ends_are_swapped_then_it_is_an_error():
    with pytest.raises(metrics.EvaluationError, match="low exceeds high in row 1"):
        metrics.interval_coverage([1.0, 1.0], [0.0, 2.0], [1.0, 0.0])


@given(arrays(np.float64, 7, elements=st.floats(-100, 100)), st.floats(-100, 100))
@settings(deadline=None)
def test_when_levels_are_even_then_crps_is_that_of_the_ensemble(members, target):
    levels = (np.arange(7) + 0.5) / 7
    ours = metrics.crps_from_quantiles([target], [np.sort(members)], levels)[0]
    pairwise = np.abs(members[:, None] - members).mean()
    assert ours == pytest.approx(np.abs(members - target).mean() - pairwise / 2, abs=1e-9)


def test_when_the_distribution_is_normal_then_crps_nears_its_closed_form():
    levels = (np.arange(2000) + 0.5) / 2000
    quantiles = stats.norm.ppf(levels)
    for y in (-1.5, 0.0, 0.7):
        exact = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / math.sqrt(math.pi)
        assert metrics.crps_from_quantiles([y], [quantiles], levels)[0] == pytest.approx(exact, abs=1e-3)
    point = metrics.crps_from_quantiles([3.0], [[1.0, 1.0, 1.0]], [0.05, 0.5, 0.95])
    assert point == pytest.approx([2.0])


@pytest.mark.parametrize("levels", [[0.5, 0.1], [0.0, 0.5], [0.5, 1.0], [0.5, 0.5]])
def test_when_levels_do_not_ascend_inside_0_and_1_then_it_is_an_error(levels):
    with pytest.raises(metrics.EvaluationError, match="levels must ascend"):
        metrics.crps_from_quantiles([1.0], [[1.0, 2.0]], levels)


def test_when_levels_are_paired_then_lone_ones_are_left():
    assert metrics.central_intervals([0.05, 0.25, 0.5, 0.75, 0.95, 0.99]) == {0.5: (0.25, 0.75), 0.9: (0.05, 0.95)}


# Groups and selection


def test_when_groups_are_small_or_flat_then_they_are_left_out_and_counted():
    up = np.arange(1.0, 11)
    target = np.r_[up, up[:4], np.full(10, 7.0), 100 + up / 100, up]
    prediction = np.r_[up, up[:4], up, up, np.zeros(10)]
    groups = np.repeat(["up", "few", "flat", "narrow", "no answer"], [10, 4, 10, 10, 10])
    scores = metrics.per_group_spearman(target, prediction, groups, minimum_spread=0.05)
    assert scores.names.tolist() == ["no answer", "up"] and scores.values.tolist() == pytest.approx([0.0, 1.0])
    assert (scores.too_small, scores.too_narrow) == (1, 2)
    assert metrics.within_group_spearman(target, prediction, groups, minimum_spread=0.05) == pytest.approx(0.5)
    assert metrics.within_group_spearman(target, prediction, groups) == pytest.approx(2 / 3)
    assert math.isnan(metrics.within_group_spearman(target, prediction, groups, more_than=10))


def test_when_the_best_row_is_chosen_then_ties_count_by_their_chance():
    target, groups = [1.0, 2.0, 3.0, 1.0, 2.0], ["a", "a", "a", "b", "b"]
    assert metrics.top_1(target, [0.0, 5.0, 9.0, 1.0, 0.0], groups) == 0.5
    assert metrics.top_1(target, [0.0, 5.0, 9.0, 1.0, 0.0], groups, lower_is_better=True) == 0.5
    assert metrics.top_1(target, [0.0, 1.0, 1.0, 1.0, 1.0], groups) == 0.5
    assert metrics.top_1([2.0, 2.0, 1.0], [1.0, 0.0, 0.0]) == 1.0


def test_when_a_share_is_chosen_then_chance_is_the_share():
    target = np.arange(100.0)
    assert metrics.top_share(target, target, 0.1) == 1.0
    assert metrics.top_share(target, -target, 0.1) == 0.0
    assert metrics.top_share(target, -target, 0.1, lower_is_better=True) == 0.0
    assert metrics.top_share(target, np.zeros(100), 0.1) == pytest.approx(0.1)
    assert metrics.top_share(target, target, 1.0) == 1.0
    with pytest.raises(metrics.EvaluationError, match="share must be"):
        metrics.top_share(target, target, 0.0)


# Bootstrap


def test_when_resampled_then_the_interval_holds_the_value_and_repeats():
    rng = np.random.default_rng(1)
    target = rng.normal(size=200)
    prediction = target + rng.normal(size=200)
    first = metrics.bootstrap_interval(metrics.spearman, target, prediction, n=200, seed=3)
    assert first == metrics.bootstrap_interval(metrics.spearman, target, prediction, n=200, seed=3)
    assert first != metrics.bootstrap_interval(metrics.spearman, target, prediction, n=200, seed=4)
    assert first.low < first.value < first.high and first.resamples == 200
    narrow = metrics.bootstrap_interval(metrics.spearman, target, prediction, n=200, seed=3, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high


def test_when_rows_repeat_inside_groups_then_only_groups_tell_the_uncertainty():
    rng = np.random.default_rng(2)
    per_group = rng.normal(size=40)
    rows, groups = np.repeat(per_group, 25), np.repeat(np.arange(40), 25)
    by_group = metrics.bootstrap_interval(np.mean, rows, groups=groups, n=2000)
    by_row = metrics.bootstrap_interval(np.mean, rows, n=2000)
    expected = 2 * 1.96 * per_group.std() / math.sqrt(40)
    assert by_group.high - by_group.low == pytest.approx(expected, rel=0.1)
    assert by_row.high - by_row.low == pytest.approx(expected / 5, rel=0.1)


def test_when_the_bootstrap_is_repeated_then_its_interval_covers_at_its_level():
    rng = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        interval = metrics.bootstrap_interval(np.mean, rng.exponential(size=60), level=0.9, n=200, seed=seed)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.8 <= hits / 200 <= 0.96


def test_when_there_is_nothing_to_resample_then_the_ends_are_nan():
    one_group = metrics.bootstrap_interval(np.mean, [1.0, 2.0], groups=["a", "a"])
    assert one_group.value == 1.5 and math.isnan(one_group.low) and math.isnan(one_group.high)
    undefined = metrics.bootstrap_interval(metrics.spearman, [1.0, 1.0], [1.0, 2.0])
    assert math.isnan(undefined.value) and math.isnan(undefined.low)
    with pytest.raises(metrics.EvaluationError, match="same number of rows"):
        metrics.bootstrap_interval(metrics.spearman, [1.0, 2.0], [1.0])
    few = metrics.bootstrap_interval(metrics.spearman, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], n=200)
    assert 0 < few.resamples < 200  # three equal draws have no correlation


# Baselines


def kernels(rows: int = 120) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Texts whose time is known from their header and their operator; groups by operator."""
    rng = np.random.default_rng(0)
    texts, times_ms, groups = [], [], []
    for row in range(rows):
        size, operator = 2 ** int(rng.integers(4, 12)), ("add", "matmul", "softmax")[row % 3]
        body = f"def {operator}_{row % 12}(x):\n    return x.{operator}()\n"
        texts.append(f"# input_size: {size}x64\n{body}" + "#\n" * (row % 5))
        times_ms.append(1e-3 * size * {"add": 1, "matmul": 8, "softmax": 3}[operator])
        groups.append(row % 12)
    return texts, np.array(times_ms), np.array(groups)


@pytest.mark.parametrize(("name", "least"), [("context_only", 0.6), ("tfidf_ridge", 0.9), ("gradient_boosting", 0.9)])
def test_when_texts_tell_the_value_then_the_baseline_finds_it(name, least):
    texts, times_ms, groups = kernels()
    test = groups >= 9
    train_texts = [text for text, out in zip(texts, test) if not out]
    test_texts = [text for text, out in zip(texts, test) if out]
    prediction = baselines.fit_predict(name, train_texts, times_ms[~test], test_texts, groups=groups[~test])
    assert prediction.dtype == np.float64 and (prediction > 0).all()
    assert metrics.spearman(times_ms[test], prediction) > least
    again = baselines.fit_predict(name, train_texts, times_ms[~test], test_texts, groups=groups[~test])
    assert (prediction == again).all()


def test_when_length_tells_the_value_then_length_finds_it():
    texts = ["x = 1\n" * n for n in range(1, 81)]
    prediction = baselines.fit_predict("length_only", texts[::2], np.arange(1.0, 81)[::2], texts[1::2])
    assert metrics.spearman(np.arange(1.0, 81)[1::2], prediction) > 0.9
    assert (baselines.fit_predict("constant", texts, np.arange(80.0), ["", "y"]) == 39.5).all()


@pytest.mark.parametrize("name", baselines.BASELINES)
@pytest.mark.parametrize("train", [["a"], ["", "", ""], ["a b", "", "# n: 3\nc"]])
def test_when_there_is_little_to_learn_from_then_predictions_are_still_numbers(name, train):
    prediction = baselines.fit_predict(name, train, np.arange(len(train)) - 1.0, ["a", "# n: 5\n", "é\n\tλ"])
    assert prediction.shape == (3,) and np.isfinite(prediction).all()
    assert baselines.fit_predict(name, train, np.ones(len(train)), []).shape == (0,)


@pytest.mark.parametrize(
    ("name", "texts", "targets", "message"),
    [
        ("oracle", ["a"], [1.0], "unknown baseline 'oracle'; choose from constant"),
        ("constant", [], [], "at least one"),
        ("constant", ["a"], [1.0, 2.0], "one value for each training text"),
        ("constant", ["a", "b"], [1.0, math.nan], "1 of 2 training values are not finite"),
    ],
)
def test_when_training_rows_are_bad_then_the_error_says_why(name, texts, targets, message):
    with pytest.raises(metrics.EvaluationError, match=message):
        baselines.fit_predict(name, texts, targets, ["a"])


def test_when_a_header_names_shapes_then_their_sizes_are_read():
    text = "# input_size: [[8, 64], [64, 2]]\n// tile: 3x5, 7x2\n# dtype: fp16\n; scale: 1e3\nx: 3\n# late: 4\n"
    sizes = {key: np.exp(logs) for key, logs in baselines.context_sizes(text).items()}
    assert set(sizes) == {"input_size", "tile", "scale"}
    assert sizes["input_size"] == pytest.approx([640, 64, 65536])
    assert sizes["tile"] == pytest.approx([29, 7, 210])
    assert sizes["scale"] == pytest.approx([1000, 1000, 1000])
    assert baselines.context_sizes("") == {}


# Report


def predictions(rows: int = 400) -> report.Predictions:
    rng = np.random.default_rng(5)
    location = rng.normal(size=rows)
    target = np.exp(location + 0.3 * rng.normal(size=rows))
    quantiles = {q: np.exp(location + 0.3 * stats.norm.ppf(q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return report.Predictions(
        target,
        quantiles[0.5],
        quantiles,
        groups=np.arange(rows) // 10,
        truncated=np.arange(rows) < rows // 4,
        log_probs=np.full(rows, -2.0),
        baselines={"constant": np.ones(rows), "noisy": target * np.exp(rng.normal(size=rows))},
    )


def test_when_predictions_are_scored_then_the_entry_holds_every_number():
    rows = predictions()
    entry = report.score_predictions(rows, resamples=100)
    assert (entry["n"], entry["groups"], entry["truncated_share"], entry["nll"]) == (400, 40, 0.25, 2.0)
    assert entry["spearman"]["value"] == metrics.spearman(rows.target, rows.median)
    assert entry["mape"]["low"] < entry["mape"]["value"] < entry["mape"]["high"]
    assert entry["coverage"]["0.5"] == pytest.approx(0.5, abs=0.08)
    assert entry["coverage"]["0.9"] == pytest.approx(0.9, abs=0.05)
    assert 0 < entry["width"]["0.5"] < entry["width"]["0.9"] and entry["crps"] > 0
    assert entry["within_groups"]["groups"] == 40
    assert entry["baselines"]["constant"]["spearman"] is None
    assert entry["baselines"]["noisy"]["kendall"] == metrics.kendall(rows.target, rows.baselines["noisy"])
    assert "excluded" not in entry


def test_when_rows_are_not_numbers_then_they_are_counted_and_nothing_else_changes():
    clean = predictions()
    rows = len(clean.target)

    def with_two_more(values: np.ndarray, last: list[float]) -> np.ndarray:
        return np.r_[values, last]

    dirty = report.Predictions(
        with_two_more(clean.target, [math.nan, 1.0]),
        with_two_more(clean.median, [1.0, math.nan]),
        {q: with_two_more(values, [math.nan, math.nan]) for q, values in clean.quantiles.items()},
        groups=with_two_more(clean.groups, [0, 0]),
        truncated=with_two_more(clean.truncated, [True, True]),
        log_probs=with_two_more(clean.log_probs, [-1.0, -1.0]),
        baselines={name: with_two_more(values, [1.0, 1.0]) for name, values in clean.baselines.items()},
    )
    entry = report.score_predictions(dirty, resamples=20)
    assert entry.pop("excluded") == {"target_not_finite": 1, "no_prediction": 1}
    assert entry == report.score_predictions(clean, resamples=20)
    assert entry["n"] == rows


def test_when_a_report_is_written_then_both_files_agree_with_it(tmp_path):
    bare = report.Predictions([1.0, 2.0, math.nan], [1.0, 2.0, 3.0])
    tasks = {"kernels": {"latency_ms": predictions()}, "a|b": {"count": bare}}
    built = report.build_report(tasks, model="tester/model", date="2026-01-31", hardware="one CPU", resamples=50)
    as_json, as_markdown = report.write_report(built, tmp_path / "new" / "folder")
    assert json.loads(as_json.read_text(encoding="utf-8")) == built
    text = as_markdown.read_text(encoding="utf-8")
    assert text == report.report_markdown(json.loads(as_json.read_text(encoding="utf-8")))
    assert "Evaluation of tester/model" in text and "in 90% interval" in text and "**this model**" in text
    assert "- a|b, count: 1 rows left out (target not finite)." in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in tables[:4]}) == 1
    assert f"{built['tasks']['kernels']['latency_ms']['spearman']['value']:.3f} (" in text
    assert built["versions"]["numpy"] == np.__version__
    assert report.this_hardware()


def test_when_a_column_does_not_fit_then_the_error_names_task_and_column():
    bad = report.Predictions([1.0, 2.0], [1.0, 2.0], baselines={"short": [1.0]})
    message = "task 'asm', metric 'cycles': baseline short must have one value a row"
    with pytest.raises(metrics.EvaluationError, match=message):
        report.build_report({"asm": {"cycles": bad}}, model="m", date="2026-01-31")
    with pytest.raises(metrics.EvaluationError, match="none of the 1 rows"):
        report.score_predictions(report.Predictions([math.nan], [1.0]))


def test_when_targets_have_more_digits_than_the_format_then_intervals_are_judged_by_what_it_writes():
    target, low, high = np.array([1.2344, 2.0]), np.array([1.234, 1.9]), np.array([1.234, 2.1])
    given = {"target": target, "median": low, "quantiles": {0.05: low, 0.95: high}}
    assert report.score_predictions(report.Predictions(**given))["coverage"]["0.9"] == 0.5
    written = report.Predictions(**given, written=np.array([1.234, 2.0]))
    assert report.score_predictions(written)["coverage"]["0.9"] == 1.0
    assert report.score_predictions(written)["coverage_interval"]["0.9"] == [1.0, 1.0]


def test_when_rows_are_answered_by_a_fallback_or_cut_by_a_bound_then_the_report_has_their_shares():
    values = np.arange(1.0, 9.0)
    entry = report.score_predictions(
        report.Predictions(values, values, unfamiliar=np.array([0, 0.2, 1, 0, 0, 0, 0, 0.0]), bounded=values > 6)
    )
    assert entry["fallback_share"] == 0.25 and entry["bounded_share"] == 0.25
    assert not {"fallback_share", "bounded_share"} & set(report.score_predictions(report.Predictions(values, values)))
