"""Calibration: the map of levels, its fit, exact answers through it, and the command that writes it into a checkpoint."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import code_rlm
from code_rlm.cli import main
from code_rlm.distributions_rlm import Calibration
from code_rlm.errors_rlm import CheckpointError, MetricError
from code_rlm.evaluation import calibration as fitting

METRICS = [{"name": "value", "languages": ["python"]}]
SKEWED = Calibration((0.1, 0.5, 0.9), (0.02, 0.3, 0.97))
POOLED = Calibration((0.1, 0.5, 0.9), (0.02, 0.3, 0.97), pool_weight=0.4, pool_values=(-3.0, 0.2, 0.2, 5.0))


# The map


def test_when_levels_are_mapped_there_and_back_then_they_are_the_same():
    levels = np.linspace(0.001, 0.999, 50)
    assert SKEWED.calibrated(SKEWED.model_level(levels)) == pytest.approx(levels)
    assert SKEWED.model_level([0.1, 0.5, 0.7]) == pytest.approx([0.02, 0.3, 0.635])
    assert Calibration.from_dict(json.loads(json.dumps(POOLED.to_dict()))) == POOLED


def test_when_levels_share_a_model_level_then_probabilities_stay_in_order():
    flat = Calibration((0.1, 0.4, 0.6, 0.9), (0.0, 0.5, 0.5, 1.0))
    found = flat.calibrated([0.0, 0.25, 0.5, 0.75, 1.0])
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1]) and (flat.model_level([0.05, 0.95]) > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [0.5, 0.1, 0.9]}, "ascend strictly"),
        ({"levels": [0.0, 0.5, 0.9]}, "ascend strictly"),
        ({"levels": []}, "ascend strictly"),
        ({"model_levels": [0.5, 0.1, 0.9]}, "ascend in"),
        ({"model_levels": [0.1, 0.5]}, "3 levels"),
        ({"levels": ["low", 0.5, 0.9]}, "list of numbers"),
        ({"pool_weight": 0.5}, "pool_values unless it is 0"),
        ({"pool_weight": 1.0, "pool_values": [1.0]}, r"in \[0, 1\)"),
        ({"pool_weight": 0.5, "pool_values": [float("inf")]}, "must be finite"),
        ({"colour": 1}, "has the keys"),
    ],
)
def test_when_a_map_cannot_be_used_then_the_error_says_why(make_config, changes, message):
    with pytest.raises(CheckpointError, match=message):
        make_config(metrics=METRICS, calibration={"value": {**SKEWED.to_dict(), **changes}})


def test_when_an_unknown_metric_is_calibrated_then_it_is_an_error(make_config):
    with pytest.raises(MetricError, match=r"calibration names \['speed'\]"):
        make_config(metrics=METRICS, calibration={"speed": SKEWED.to_dict()})


# Exact answers


def enumerated(model, batch) -> tuple[np.ndarray, np.ndarray]:
    """Every finite value that the model can write, ascending, and its probability for each input `(batch, values)`."""
    codec = model.codec
    codes = np.array(list(itertools.product(range(codec.vocab_size), repeat=codec.length)))
    codes = codes[codec.states(codes)[:, -1] == codec.END]
    values = codec.decode(codes)
    values = np.sort(values[np.isfinite(values)])
    columns = [model.log_prob(batch, np.full(len(batch["input_ids"]), v), metrics=["value"])[:, 0] for v in values]
    return values, np.exp(np.stack(columns, 1))


@pytest.mark.parametrize("calibration", [SKEWED, POOLED], ids=["levels", "pool"])
def test_when_answers_are_calibrated_then_they_are_those_of_the_enumerated_distribution(
    make_model, small_format, batch, calibration
):
    model = make_model(
        number_format=small_format.to_dict(), metrics=METRICS, calibration={"value": calibration.to_dict()}
    )
    values, mass = enumerated(model, batch)
    mass = mass / mass.sum(1, keepdims=True)
    pool = np.array(calibration.pool_values)
    every = np.concatenate([values, pool])
    order = np.argsort(every, kind="stable")
    levels, thresholds = (0.05, 0.3, 0.5, 0.9), (-4.0, 0.2, 0.25, 5.0, 60.0)
    found = model.predict(batch, levels, metrics=["value"], calibrated=True)
    own = model.predict(batch, levels, metrics=["value"], calibrated=False)
    own_quantiles, is_calibrated = own.quantiles[:, 0], own.calibrated
    below = model.cdf(batch, thresholds, metrics=["value"], calibrated=True)
    for row in range(len(mass)):
        weight = calibration.pool_weight
        joint = np.concatenate([(1 - weight) * mass[row], np.full(len(pool), weight / max(1, len(pool)))])[order]
        wanted = calibration.model_level(levels)
        expected = every[order][np.searchsorted(np.cumsum(joint), wanted * (1 - 1e-9))]
        if weight:
            least, most = np.minimum(pool.min(), own_quantiles[row]), np.maximum(pool.max(), own_quantiles[row])
            expected = np.clip(expected, least, most)
        assert found.quantiles[row, 0] == pytest.approx(expected)
        own = [joint[every[order] < t].sum() for t in thresholds]
        assert below[row] == pytest.approx(calibration.calibrated(own), abs=1e-6)
    assert found.calibrated == (True,) and is_calibrated == (False,)


def test_when_a_metric_has_no_calibration_then_asking_for_it_changes_nothing(model, batch):
    plain, asked = (model.predict(batch, metrics=["value"], calibrated=c) for c in (False, True))
    assert (plain.quantiles == asked.quantiles).all() and asked.calibrated == (False,)


# The fit


def drawn(groups: int, rows: int, seed: int, overconfidence: float = 2.0, shift: float = 0.0) -> fitting.HeldOut:
    """Truths around what a model expects, `overconfidence` times as far as it thinks; rows of a group err alike."""
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(groups), rows)
    expected = rng.normal(size=groups * rows) * 3
    error = 0.8 * rng.normal(size=groups)[names] + 0.6 * rng.normal(size=groups * rows)
    values = expected + overconfidence * error + shift

    def cdf(t: np.ndarray) -> np.ndarray:
        return stats.norm.cdf(t - expected)

    pool = np.quantile(values, (np.arange(fitting.POOL_VALUES) + 0.5) / fitting.POOL_VALUES)
    edges = fitting.cell_edges(pool)
    level = cdf(values)
    return fitting.HeldOut(values, level, level, stats.norm.cdf(edges - expected[:, None]), edges, pool, names)


@pytest.mark.parametrize(("overconfidence", "shift"), [(2.0, 0.0), (0.5, 0.0), (1.5, 1.0)])
def test_when_the_model_is_wrong_about_itself_then_calibrated_intervals_hold_at_their_levels(overconfidence, shift):
    seen = drawn(2000, 1, 0, overconfidence, shift)
    new = drawn(4000, 1, 1, overconfidence, shift)
    calibration = fitting.fit_calibration(seen)
    before = fitting.covered(new, None, 0.9).mean()
    assert abs(before - 0.9) > 0.05
    for interval in (0.5, 0.8, 0.9, 0.95):
        assert fitting.covered(new, calibration, interval).mean() == pytest.approx(interval, abs=0.03)
    crossed = fitting.cross_fitted_coverage(seen)
    assert crossed[0.9][0] == pytest.approx(before, abs=0.03) and crossed[0.9][1] == pytest.approx(0.9, abs=0.02)


def test_when_the_model_is_right_then_the_map_hardly_changes_levels():
    calibration = fitting.fit_calibration(drawn(3000, 1, 2, 1.0))
    assert calibration.pool_weight < 0.05
    assert np.abs(np.array(calibration.model_levels) - calibration.levels).max() < 0.03


@pytest.mark.parametrize(("groups", "rows"), [(20, 1), (60, 1), (8, 6), (20, 6), (20, 30), (150, 2)])
def test_when_groups_are_few_then_new_groups_are_covered_as_often_as_promised(groups, rows):
    """Counted among K + 1 as one that falls outside, groups of many rows would be covered too often: 94 to 99% for 90."""
    hits, naive = [], []
    for seed in range(100):
        calibration, new = fitting.fit_calibration(drawn(groups, rows, seed)), drawn(200, 1, 1000 + seed)
        hits.append([fitting.covered(new, calibration, interval).mean() for interval in (0.8, 0.9)])
        naive.append(fitting.covered(new, None, 0.9).mean())
    assert np.mean(naive) < 0.7
    assert np.mean(hits, 0) == pytest.approx([0.8, 0.9], abs=0.025)


@pytest.mark.parametrize(("groups", "rows"), [(30, 4), (5, 1), (10, 1), (20, 1), (50, 2)])
def test_when_groups_are_few_then_the_map_is_symmetric_and_keeps_the_median(groups, rows):
    calibration = fitting.fit_calibration(drawn(groups, rows, 3, shift=2.0))
    own, levels = np.array(calibration.model_levels), np.array(calibration.levels)
    assert own == pytest.approx(1 - own[::-1], abs=1e-6) and own[levels == 0.5] == pytest.approx(0.5)
    moved = fitting.fit_calibration(drawn(400, 4, 3, shift=2.0))
    assert moved.model_level(0.5) > 0.6


def test_when_one_group_has_most_rows_then_it_weighs_no_more_than_the_others():
    rows = drawn(200, 1, 4)
    bent = drawn(1, 2000, 5, shift=50.0)
    names = np.r_[rows.groups, np.full(len(bent), 999)]
    joined = [np.concatenate([getattr(rows, c), getattr(bent, c)]) for c in ("values", "below", "up_to", "cells")]
    calibration = fitting.fit_calibration(fitting.HeldOut(*joined, rows.edges, rows.pool, names))
    assert fitting.covered(drawn(4000, 1, 6), calibration, 0.9).mean() == pytest.approx(0.9, abs=0.04)


def test_when_truths_share_a_code_then_a_perfect_model_stays_as_it_is():
    rng = np.random.default_rng(7)
    values = rng.integers(0, 3, size=3000).astype(float)
    pool = np.repeat([0.0, 1.0, 2.0], [22, 21, 21])
    edges = np.array([1.0, 2.0])
    cells = np.broadcast_to(edges / 3, (3000, 2))
    rows = fitting.HeldOut(values, values / 3, (values + 1) / 3, cells, edges, pool, np.arange(3000))
    calibration = fitting.fit_calibration(rows)
    assert np.abs(np.array(calibration.model_levels) - calibration.levels).max() < 0.03


# The command


@pytest.fixture
def table(tmp_path):
    """A table of 60 programs in 30 groups."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "code": f"x = [0] * {n}\nprint(len(x) + {n % 7})\n",
            "peak_memory_bytes": 1e6 * rng.lognormal(),
            "problem": n // 2,
        }
        for n in range(60)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "mine.parquet")
    return tmp_path / "mine.parquet"


def run(table, *argv) -> int:
    columns = ["--text-column", "code", "--target-columns", "peak_memory_bytes", "--group-column", "problem"]
    fixed = ["calibrate", "--data", str(table), *columns, "--language", "python", "--split", "all"]
    return main([*fixed, *map(str, argv)])


def calibrations_in(folder):
    """JSON form of a checkpoint's calibrations."""
    return json.loads((folder / "fitted_state.json").read_text())["calibration"]


def test_when_a_checkpoint_is_calibrated_then_a_copy_answers_by_it_and_nothing_else_changes(
    checkpoint, table, tmp_path, capsys
):
    out = tmp_path / "new" / "calibrated"
    assert run(table, "--model", checkpoint, "--out", out) == 0
    shown = capsys.readouterr().out
    assert "60 (30)" in shown and "->" in shown and str(out / "fitted_state.json") in shown
    assert {p.name for p in out.iterdir()} == {*(p.name for p in checkpoint.iterdir()), "fitted_state.json"}
    assert sorted(p.name for p in out.parent.iterdir()) == ["calibrated"]
    for path in checkpoint.iterdir():
        if path.name != "config.json" and path.is_file():
            assert (out / path.name).read_bytes() == path.read_bytes()
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (checkpoint, out))
    assert (before.pop("fitted"), after.pop("fitted")) == (None, "fitted_state.json")
    assert after == before
    assert list(calibrations_in(out)) == ["peak_memory_bytes"]

    pipe, own = code_rlm.pipeline(out), code_rlm.pipeline(checkpoint)
    text = "x = [0] * 31\nprint(len(x) + 3)\n"
    memory, time = pipe(text)
    assert memory["calibrated"] and not time["calibrated"]
    assert (memory["low"], memory["high"]) != (own(text)[0]["low"], own(text)[0]["high"])
    assert pipe(text, calibrated=False) == own(text)
    level = out / "again"
    pipe.model.save_pretrained(level)
    assert calibrations_in(level) == calibrations_in(out)


def test_when_it_is_written_in_place_then_other_metrics_keep_theirs(checkpoint, table, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    config["calibration"] = {"cycles": SKEWED.to_dict(), "peak_memory_bytes": SKEWED.to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    assert run(table, "--model", folder, "--in-place") == 0
    found = calibrations_in(folder)
    assert "calibration" not in json.loads((folder / "config.json").read_text())
    assert found["cycles"] == SKEWED.to_dict()
    assert found["peak_memory_bytes"]["groups"] == 30 and found["peak_memory_bytes"]["source"].startswith(
        "mine.parquet"
    )
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_when_tables_share_a_metric_then_it_is_fitted_on_both_and_their_groups_stay_apart(
    checkpoint, table, tmp_path, monkeypatch
):
    read = fitting.read_rows
    sizes = {"first": 60, "second": 20}
    monkeypatch.setattr(fitting, "table_names", lambda args: list(sizes))

    def first_rows(name, *given):
        rows = read(str(table), *given)
        return rows.select(range(min(sizes[name], len(rows))))

    monkeypatch.setattr(fitting, "read_rows", first_rows)
    assert run(table, "--model", checkpoint, "--out", tmp_path / "both") == 0
    entry = calibrations_in(tmp_path / "both")["peak_memory_bytes"]
    assert (entry["rows"], entry["groups"]) == (80, 40)
    assert entry["source"].startswith("first + second")


def test_when_calibration_is_impossible_then_one_line_says_why_and_nothing_is_written(
    checkpoint, table, tmp_path, capsys
):
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept.txt").write_text("mine")
    small = tmp_path / "small.parquet"
    pd.read_parquet(table).head(8).to_parquet(small)
    for where, argv, message in (
        (table, ["--model", checkpoint, "--out", full], "is there already and not empty"),
        (
            small,
            ["--model", checkpoint, "--out", tmp_path / "new"],
            "8 rows in 4 groups; a calibration needs at least 5",
        ),
        (table, ["--model", "nobody/hub-id", "--out", tmp_path / "new"], "is not a folder"),
        (table, ["--model", checkpoint, "--out", tmp_path / "new", "--metrics", "speed"], "has no speed; it has"),
    ):
        assert run(where, *argv) == 2
        err = capsys.readouterr().err
        assert message in err and err.startswith("code-rlm calibrate: ") and err.count("\n") == 1
    assert not (tmp_path / "new").exists() and (full / "kept.txt").read_text() == "mine"


def test_when_predict_is_told_uncalibrated_then_it_is_the_models_own_answer(checkpoint, table, tmp_path, capsys):
    out = tmp_path / "calibrated"
    assert run(table, "--model", checkpoint, "--out", out) == 0
    path = tmp_path / "a.py"
    path.write_text("x = [0] * 31\nprint(len(x) + 3)\n")
    capsys.readouterr()

    def answers(model, *argv):
        assert main(["predict", str(path), "--model", str(model), "--format", "json", *argv]) == 0
        return json.loads(capsys.readouterr().out)

    assert answers(out, "--uncalibrated") == answers(checkpoint)
    assert answers(out)[0]["calibrated"] and answers(out) != answers(checkpoint)


def test_when_the_model_knows_nothing_of_a_metric_then_the_pool_is_given_weight():
    rows = drawn(1000, 1, 8, overconfidence=1.0)
    lost = np.random.default_rng(9).permutation(len(rows))
    astray = fitting.HeldOut(rows.values, rows.below, rows.up_to, rows.cells[lost], rows.edges, rows.pool, rows.groups)
    assert fitting.best_weight(astray) == fitting.MOST_POOL > 0.1 > fitting.best_weight(rows)
