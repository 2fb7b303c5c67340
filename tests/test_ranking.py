"""Which candidate is best: exact probabilities, the pipeline's ranking, and the Pareto command."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import tiny
from scipy import stats

from code_rlm.cli import main
from code_rlm.distributions_rlm import Calibration, Distribution, probability_best
from code_rlm.errors_rlm import InputError, MetricError

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|{}~1|nor_conv_3x3~2|"
TEXTS = ["x = 1\n", "def f(n):\n    return [0] * n\n", "print(1)\n" * 9, "import os\n", "y = [k for k in range(9)]\n"]


def atoms(values, mass, **others) -> Distribution:
    values = np.array(values, dtype=float)
    return Distribution(values, values, np.array(mass, dtype=float), **others)


def normal(mean: float, pieces: int = 2000) -> Distribution:
    edges = stats.norm.ppf(np.linspace(1e-6, 1 - 1e-6, pieces + 1), loc=mean)
    return Distribution(edges[:-1], edges[1:], np.full(pieces, 1 / pieces))


def test_when_values_are_single_then_probabilities_are_those_of_enumeration():
    rng = np.random.default_rng(0)
    candidates = [(rng.integers(0, 5, 4) + 0.0, rng.dirichlet(np.ones(4))) for _ in range(4)]
    for smaller in (True, False):
        expected = np.zeros(4)
        for picks in itertools.product(range(4), repeat=4):
            values = np.array([candidates[i][0][k] for i, k in enumerate(picks)])
            chance = np.prod([candidates[i][1][k] for i, k in enumerate(picks)])
            best = values == (values.min() if smaller else values.max())
            expected += chance * best / best.sum()
        merged = []
        for values, mass in candidates:
            distinct, index = np.unique(values, return_inverse=True)
            merged.append(atoms(distinct, np.bincount(index, mass)))
        found = probability_best(merged, smaller)
        assert found == pytest.approx(expected) and found.sum() == pytest.approx(1)


def test_when_distributions_are_normal_then_the_closed_form_is_met():
    a, b = normal(0.0), normal(0.8)
    assert probability_best([a, b])[0] == pytest.approx(stats.norm.cdf(0.8 / np.sqrt(2)), abs=1e-3)
    assert probability_best([a, b], smaller_is_better=False)[1] == pytest.approx(
        stats.norm.cdf(0.8 / np.sqrt(2)), abs=1e-3
    )
    assert probability_best([normal(1.0, 200)] * 40) == pytest.approx(np.full(40, 1 / 40), abs=1e-6)


def test_when_a_candidate_may_fail_then_it_is_best_only_where_it_does_not():
    found = probability_best([atoms([1.0], [1.0], finite=0.25), atoms([2.0], [1.0])])
    assert found == pytest.approx([0.25, 0.75])
    assert probability_best([atoms([1.0], [1.0], finite=0.25), atoms([2.0], [1.0], finite=0.5)]).sum() == pytest.approx(
        0.625
    )


def test_when_distributions_are_calibrated_then_their_function_is_the_calibrated_one():
    calibration = Calibration((0.1, 0.5, 0.9), (0.02, 0.3, 0.97), pool_weight=0.25, pool_values=(3.0, 1.0))
    plain = normal(0.0)
    calibrated = Distribution(plain.low, plain.high, plain.mass, calibration=calibration)
    points = np.array([-1.0, 0.5, 1.0, 2.0, 5.0])
    own = 0.75 * plain.cdf(points, "left") + 0.25 * np.array([0, 0, 0, 0.5, 1])
    assert calibrated.cdf(points, "left") == pytest.approx(calibration.calibrated(own))
    assert calibrated.cdf(points, "right")[2] > calibrated.cdf(points, "left")[2]
    assert {1.0, 3.0} <= set(calibrated.edges)
    assert probability_best([calibrated, calibrated]) == pytest.approx([0.5, 0.5])


# The model and the pipeline


def test_when_a_distribution_is_cut_into_pieces_then_it_agrees_with_cdf_and_pairs(pipe):
    model = pipe.model
    inputs = pipe.processor([{"text": text, "language": "python"} for text in TEXTS[:2]], ["cpu_time_ms"])
    encoded = model.encode(inputs)
    wholes = model.distributions(encoded, 1e-4, metrics=["cpu_time_ms"])
    thresholds = model.predict(encoded, (0.1, 0.5, 0.9), metrics=["cpu_time_ms"]).quantiles[:, 0]
    expected = model.cdf(encoded, thresholds, metrics=["cpu_time_ms"])
    for row, whole in enumerate(wholes):
        assert (
            whole.mass.sum() == pytest.approx(1) and whole.mass[whole.low < whole.high].max() <= 1.1e-4 / whole.finite
        )
        assert whole.cdf(thresholds[row], "left") == pytest.approx(expected[row], abs=2e-4)
    swapped = {k: v.flip(0) for k, v in inputs.items()}
    less = model.probability_less(encoded, model.encode(swapped), metrics=["cpu_time_ms"])[0]
    finite = np.array([w.finite for w in wholes])
    for whole in wholes:
        whole.finite = 1.0
    assert probability_best(wholes)[0] == pytest.approx(less, abs=3e-3) and (finite <= 1).all()


def test_when_candidates_are_ranked_then_entries_are_the_pipelines_and_chances_sum_to_one(pipe):
    ranked = pipe.rank(TEXTS, "cpu_time_ms", language="python")
    assert [entry["rank"] for entry in ranked] == [1, 2, 3, 4, 5]
    assert sorted(entry["index"] for entry in ranked) == [0, 1, 2, 3, 4]
    values = [entry["value"] for entry in ranked]
    assert values == sorted(values)
    answers = pipe(TEXTS, metrics=["cpu_time_ms"], language="python")
    for entry in ranked:
        assert {k: entry[k] for k in answers[entry["index"]][0]} == answers[entry["index"]][0]
    assert 0.9 < sum(entry["probability_best"] for entry in ranked) <= 1 + 1e-9
    again = pipe.rank(TEXTS, "cpu_time_ms", language="python", batch_size=2)
    assert [e["index"] for e in again] == [e["index"] for e in ranked]
    assert [e["probability_best"] for e in again] == pytest.approx([e["probability_best"] for e in ranked], abs=1e-4)


def test_when_larger_is_better_then_the_largest_stands_first(pipe):
    values = [e["value"] for e in pipe.rank(TEXTS, "accuracy_percent", language="onnx")]
    assert values == sorted(values, reverse=True)


def test_when_ranking_is_impossible_then_the_error_says_why(pipe):
    with pytest.raises(MetricError, match="does not predict 'speed'"):
        pipe.rank(TEXTS, "speed")
    with pytest.raises(InputError, match="the list is empty"):
        pipe.rank([], "cpu_time_ms")
    with pytest.raises(InputError, match="A list of inputs is needed"):
        pipe.rank("x = 1", "cpu_time_ms")
    with pytest.raises(InputError, match="Input 1: "):
        pipe.rank(["x = 1", 3], "cpu_time_ms", language="python")
    with pytest.raises(MetricError, match="nothing to rank by"):
        pipe.rank(TEXTS, "cpu_time_ms", given={"cpu_time_ms": 3.0})
    with pytest.raises(TypeError, match="metrics cannot be given"):
        pipe.rank(TEXTS, "cpu_time_ms", metrics=["cycles"])


# The command


def test_when_values_are_compared_then_the_front_is_what_nothing_beats():
    from code_rlm.evaluation.pareto import pareto_front

    values = [[1, 5], [2, 2], [2, 3], [5, 1], [1, 5], [float("nan"), 0]]
    assert pareto_front(values, [True, True]).tolist() == [True, True, False, True, True, False]
    assert pareto_front(values, [True, False]).tolist() == [True, False, False, False, True, False]


@pytest.fixture
def networks(tmp_path):
    from code_rlm.data.nas_graphs import build_graph

    folder = tmp_path / "nets"
    folder.mkdir()
    for operator in ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"):
        graph = build_graph("nasbench201", CELL.format(operator))
        (folder / f"{operator}.onnx").write_bytes(graph.SerializeToString())
    return folder


def test_when_networks_are_compared_then_table_json_csv_and_plot_agree(checkpoint, networks, tmp_path, capsys):
    plot = tmp_path / "front.png"
    metrics = ("latency_ms@pixel3", "accuracy_percent")
    argv = ["pareto", str(networks), "--metrics", *metrics, "--model", str(checkpoint)]
    assert main([*argv, "--format", "json", "--plot", str(plot)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 4 and any(row["on_front"] for row in rows)
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 5000
    for row in rows:
        beaten = [
            r
            for r in rows
            if r[metrics[0]]["value"] < row[metrics[0]]["value"] and r[metrics[1]]["value"] > row[metrics[1]]["value"]
        ]
        assert not (beaten and row["on_front"])
    assert main([*argv, "--format", "table"]) == 0
    head, *lines, note = capsys.readouterr().out.splitlines()
    assert (
        "P(best)" in head
        and len(lines) == 4
        and sum(line.startswith("*") for line in lines) == sum(r["on_front"] for r in rows)
    )
    assert note.startswith("* no other file")
    assert main([*argv, "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9


@pytest.mark.parametrize(
    ("files", "metrics", "message"),
    [
        (["a.py"], ["peak_memory_bytes", "cpu_time_ms"], "at least two inputs, got 1"),
        (["a.py", "b.py"], ["cpu_time_ms", "cpu_time_ms"], "two different metrics"),
        (["a.py", "b.py"], ["cpu_time_ms", "speed"], "does not predict 'speed'"),
        (["a.py", "missing.py"], ["peak_memory_bytes", "cpu_time_ms"], r"missing.py does not exist"),
    ],
)
def test_when_a_front_is_impossible_then_one_line_says_why(
    checkpoint, tmp_path, monkeypatch, capsys, files, metrics, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(tiny.PYTHON)
    assert main(["pareto", *files, "--metrics", *metrics, "--model", str(checkpoint)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
