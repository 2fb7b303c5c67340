"""Plots: every function draws the numbers on the Axes that it is given, and returns these."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from matplotlib.patches import Ellipse

from code_rlm.evaluation import plots
from code_rlm.evaluation.metrics import EvaluationError
from code_rlm.evaluation.report import Predictions

RNG = np.random.default_rng(0)
TARGET = RNG.lognormal(size=200)
PREDICTION = TARGET * RNG.lognormal(sigma=0.3, size=200)
GROUPS = np.repeat(np.arange(10), 20)
QUANTILES = {q: PREDICTION * (0.5 + q) for q in (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975)}


def pareto(ax=None):
    values = np.stack([PREDICTION[:30], TARGET[:30]], 1)
    return plots.pareto_plot(
        values, values * 0.5, values * 2, np.arange(30) < 3, [f"n{i}" for i in range(30)], labels=("x", "y"), ax=ax
    )


DRAW = {
    "scatter": lambda ax: plots.prediction_scatter(TARGET, PREDICTION, QUANTILES[0.05], QUANTILES[0.95], ax=ax),
    "calibration": lambda ax: plots.calibration_curve(TARGET, {"own": QUANTILES}, ax=ax),
    "groups": lambda ax: plots.group_histogram(TARGET, PREDICTION, GROUPS, ax=ax),
    "selection": lambda ax: plots.selection_curve(TARGET, {"this model": PREDICTION, "length": -TARGET}, ax=ax),
    "targets": lambda ax: plots.target_histogram(TARGET, PREDICTION, ax=ax),
    "pareto": pareto,
}


@pytest.mark.parametrize("name", DRAW)
def test_when_axes_are_given_then_they_are_drawn_on_and_returned(name, tmp_path):
    ax = plots.new_axes()
    empty = tmp_path / "empty.png"
    ax.figure.savefig(empty)
    assert DRAW[name](ax) is ax and ax.get_xlabel() and ax.get_ylabel()
    ax.figure.savefig(tmp_path / "drawn.png", bbox_inches="tight")
    assert (tmp_path / "drawn.png").stat().st_size > 1.5 * empty.stat().st_size
    own = DRAW[name](None)
    assert own is not ax and own.figure is not ax.figure
    assert "matplotlib.pyplot" not in sys.modules  # no global state, no window


def test_when_quantiles_are_calibrated_then_the_reliability_curve_is_the_diagonal():
    levels = np.linspace(0.05, 0.95, 19)
    uniform = RNG.random(5000)
    ax = plots.calibration_curve(uniform, {"own": {q: np.full(5000, q) for q in levels}})
    curve = next(line for line in ax.lines if len(line.get_xdata()) == 19)
    assert np.abs(curve.get_xdata() - curve.get_ydata()).max() < 0.03


def test_when_choice_is_perfect_then_the_selection_curve_is_one():
    ax = plots.selection_curve(TARGET, {"oracle": TARGET, "opposite": -TARGET})
    oracle, opposite = ax.lines[1].get_ydata(), ax.lines[2].get_ydata()
    assert (oracle == 1).all() and opposite[0] == 0
    turned = plots.selection_curve(TARGET, {"opposite": -TARGET}, smaller_is_better=False)
    assert turned.lines[1].get_ydata()[0] == 0


def test_when_targets_span_decades_then_the_histogram_counts_all_of_them_on_a_logarithmic_axis():
    ax = plots.target_histogram(TARGET, PREDICTION)
    assert ax.get_xscale() == "log" and plots.target_histogram(TARGET % 1 + 5).get_xscale() == "linear"
    counts = [sum(bar.get_height() for bar in container) for container in ax.containers]
    assert counts == [200, 200]


def test_when_two_numbers_are_drawn_together_then_ellipses_slant_as_they_move_together():
    x = RNG.normal(size=(2, 4000, 1))
    draws = [np.hstack([10 + x[0], 20 + x[0] + 0.1 * RNG.normal(size=(4000, 1))]), np.hstack([10 + x[1], 20 - x[1]])]
    points = np.array([[10.0, 20.0], [10.0, 20.0]])
    arguments = {"labels": ("x", "y"), "level": 0.9}
    ax = plots.pareto_plot(points, points - 1, points + 1, [True, False], ["a", "b"], draws=draws, **arguments)
    first, second = (patch for patch in ax.patches if isinstance(patch, Ellipse))
    angles = sorted((patch.angle + 90) % 180 - 90 for patch in (first, second))
    assert angles[0] == pytest.approx(-45, abs=3) and angles[1] == pytest.approx(45, abs=3)
    plain = plots.pareto_plot(points, points - 1, points + 1, [True, False], ["a", "b"], **arguments)
    assert {patch.angle for patch in plain.patches if isinstance(patch, Ellipse)} == {0.0}


def test_when_no_group_counts_then_the_histogram_is_refused():
    with pytest.raises(EvaluationError, match="no group of more than 8 rows"):
        plots.group_histogram(TARGET, PREDICTION, np.arange(200))


def test_when_a_report_is_drawn_then_each_metric_has_its_plots(tmp_path):
    rows = Predictions(
        TARGET, PREDICTION, QUANTILES, groups=GROUPS, baselines={"constant": np.ones(200), "noisy": TARGET**2},
        uncalibrated={q: v * 2 for q, v in QUANTILES.items()},
    )  # fmt: skip
    alone = Predictions(TARGET[:1], PREDICTION[:1])
    written = plots.report_plots({"my/table.csv": {"latency_ms@pixel3": rows, "one": alone}}, tmp_path / "new")
    kinds = ("scatter", "targets", "calibration", "selection", "groups")
    assert [path.name for path in written] == [f"my_table.csv-latency_ms_pixel3-{kind}.png" for kind in kinds]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_when_matplotlib_is_missing_then_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "code_rlm.evaluation.plots")
    with pytest.raises(ImportError, match=r"pip install 'code-rlm\[plots\]'"):
        importlib.import_module("code_rlm.evaluation.plots")
