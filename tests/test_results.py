"""Tables from stored reports: what is committed is what the reports give, and losing is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from code_rlm.evaluation.paper import FIGURES
from code_rlm.evaluation.readme import CHART, PICTURE, render, results_picture, results_table, shipped_report
from code_rlm.evaluation.results import PAGE, SCORES, coverage_words, main, page, rows_of, stored_reports, who_wins

ROOT = Path(__file__).parents[1]


def entry(rho: float, low: float, high: float, tree: float, **changes) -> dict:
    """A metric of a report: the model's Spearman with its interval, and that of one baseline."""
    score = {"value": rho, "low": low, "high": high}
    error = {"value": 0.5, "low": 0.4, "high": 0.6}
    return {
        **{"n": 40, "groups": 9, "spearman": score, "kendall": score, "mape": error, "median_ape": error},
        **{"coverage": {"0.5": 0.5, "0.9": 0.8}, "coverage_interval": {"0.5": [0.4, 0.6], "0.9": [0.7, 0.85]}},
        **{"width": {"0.5": 1.0, "0.9": 3.0}, "calibrated": True},
        "uncalibrated": {"coverage": {"0.5": 0.3, "0.9": 0.6}, "width": {"0.5": 0.5, "0.9": 1.5}},
        "baselines": {
            "constant": {"spearman": None, "kendall": None, "mape": 0.9, "median_ape": 0.9},
            "gradient_boosting": {"spearman": tree, "kendall": tree, "mape": 0.45, "median_ape": 0.45},
        },
        **changes,
    }


def report(**metrics: dict) -> dict:
    return {
        **{"tasks": {"mine": metrics}, "model": "m", "versions": {"torch": "2"}, "hardware": "one core"},
        **{"date": "2026-01-31", "level": 0.95, "resamples": 10, "seed": 0, "notes": ["a note"], "split": "test"},
    }


def test_when_the_page_is_made_anew_then_the_committed_one_already_is_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (ROOT / PAGE).read_text(encoding="utf-8") == page(stored_reports(ROOT)), (
        "run: python -m code_rlm.evaluation.results"
    )
    assert main(["--check"]) == 0


def test_when_a_report_changes_then_the_check_fails_and_writing_mends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 2  # no report here
    (tmp_path / "checkpoints/default").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    stored = tmp_path / "checkpoints/default/report.json"
    stored.write_text(json.dumps(report(x_ms=entry(0.8, 0.7, 0.9, 0.5))))
    assert main([]) == 0 and main(["--check"]) == 0
    stored.write_text(json.dumps(report(x_ms=entry(0.81, 0.7, 0.9, 0.5))))
    assert main(["--check"]) == 1


@pytest.mark.parametrize(
    ("tree", "verdict", "behind"),
    [
        (0.5, "**the model is ahead of every baseline**", False),
        (0.75, "the model is ahead, with boosted trees within the interval", False),
        (0.85, "boosted trees is better, within the interval", True),
        (0.95, "**boosted trees wins**", True),
    ],
)
def test_when_a_baseline_is_better_then_the_page_says_so(tree, verdict, behind):
    rows = rows_of(report(x_ms=entry(0.8, 0.7, 0.9, tree)))
    assert rows[0].verdict() == verdict and rows[0].is_behind("spearman") is behind
    written = page({"r.json": report(x_ms=entry(0.8, 0.7, 0.9, tree))})
    assert f"| {verdict} |" in written
    assert f"better in {int(behind)} of 1 rows" in who_wins(rows)[0]
    # Of errors the smaller is better: 0.45 against 0.5, inside 0.4 to 0.6.
    assert rows[0].verdict("mape") == "boosted trees is better, within the interval"


def test_when_scores_are_not_defined_then_there_is_no_comparison():
    nothing = {"value": None, "low": None, "high": None}
    rows = rows_of(report(x_ms=entry(0.8, 0.7, 0.9, 0.5, spearman=nothing)))
    assert rows[0].verdict() == "nothing to compare with" and "of 1 rows" not in who_wins(rows)[0].split("MAPE")[0]
    assert page({"r.json": report(x_ms=entry(0.8, 0.7, 0.9, 0.5, spearman=nothing, baselines={}))})


def test_when_intervals_miss_their_level_then_it_is_told_and_calibration_shown():
    calibrated, own = entry(0.8, 0.7, 0.9, 0.5), entry(0.8, 0.7, 0.9, 0.5, calibrated=False)
    del own["uncalibrated"]
    rows = rows_of(report(x_ms=calibrated, y_ms=own))
    words = coverage_words(rows)
    assert "leaves 90% out for: mine x_ms (80.0%), mine y_ms (80.0%)" in words[0] and words[1].endswith("mine y_ms.")
    written = page({"r.json": report(x_ms=calibrated, y_ms=own)})
    assert "| 30.0% → 50.0% | 60.0% → 80.0% | 70.0% to 85.0% | 1.50 → 3.00 |" in written
    assert "| 50.0% | 80.0% | 70.0% to 85.0% | 3.00 |" in written


def test_when_a_metric_is_in_the_paper_then_its_figures_stand_beside_ours():
    for figure in FIGURES:
        assert figure.score in SCORES and 0 < figure.value < 1
        assert figure.comparable.startswith(("No: ", "Nearly: ", "Yes: ")) and figure.where
    known = {"tasks": {"nasbench201": {"latency_ms@pixel3": entry(0.9, 0.8, 0.95, 0.5)}}}
    row = rows_of(known)[0]
    assert [figure.value for figure in row.paper] == [0.731] and row.hardware == "Google Pixel 3"
    assert not rows_of({"tasks": {"mine": {"latency_ms@pixel3": entry(0.9, 0.8, 0.95, 0.5)}}})[0].paper


def test_when_a_table_has_several_languages_then_rank_inside_one_is_told():
    several = entry(0.8, 0.7, 0.9, 0.6, within_languages={"value": 0.4, "low": 0.3, "high": 0.5})
    several["baselines"]["gradient_boosting"]["within_languages"] = 0.25
    text = page({"r": report(x_ms=entry(0.8, 0.7, 0.9, 0.6), y_ms=several)})
    found = text.split("### Inside one language")[1].split("###")[0]
    assert "| mine | y_ms | 0.400 (0.300 to 0.500) | – | 0.250 |" in found and "x_ms" not in found
    assert "Inside one language" not in page({"r": report(x_ms=entry(0.8, 0.7, 0.9, 0.6))})


def test_when_rows_are_read_then_the_report_is_as_before():
    given = report(x_ms=entry(0.8, 0.7, 0.9, 0.5, truncated_share=0.25, excluded={"no_prediction": 2}))
    before = copy.deepcopy(given)
    written = page({"r.json": given})
    assert given == before
    assert "25.0% of the rows were longer" in written and "2 rows left out (no prediction)" in written


def test_when_the_picture_is_made_anew_then_the_committed_one_already_is_it():
    drawn = results_picture(shipped_report())
    assert (ROOT / PICTURE).read_text(encoding="utf-8") == drawn, "run: python -m code_rlm.evaluation.readme"
    assert len(drawn) < 100_000 and len(ElementTree.fromstring(drawn)) > 5 * len(CHART)


def test_when_a_score_changes_then_the_picture_and_the_readme_table_change():
    stored = {"tasks": {"bhive_zen4": {"cycles": entry(0.8, 0.7, 0.9, 0.5)}}}
    other = {"tasks": {"bhive_zen4": {"cycles": entry(0.6, 0.5, 0.9, 0.55)}}}
    assert "| 40 (9) | **0.80** (0.70 to 0.90) | 0.50 boosted trees | 80% |" in results_table(stored)
    assert "| 40 (9) | **0.60** (0.50 to 0.90) | 0.55 boosted trees | 80% |" in results_table(other)
    points = []
    for report in (stored, other):
        picture = ElementTree.fromstring(results_picture(report))
        points.append([float(c.get("cx")) for c in picture.iter("{http://www.w3.org/2000/svg}circle")][-1])
    assert points[0] > points[1]


def test_when_the_readme_is_written_then_only_the_part_asked_for_changes(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = "<!-- results -->\nold\n<!-- end -->\n<!-- output: benchmarks/data.py -->\nold\n<!-- end -->\n"
    one = render(text, only="results")
    assert results_table(shipped_report()) in one and one.count("old\n") == 1
    both = render(text)
    assert (ROOT / "benchmarks/results/data.md").read_text(encoding="utf-8") in both and "old\n" not in both
