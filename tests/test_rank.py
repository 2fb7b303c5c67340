"""`code-rlm rank`: the pipeline's order, outputs, and candidates that are measured."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest
import tiny

from code_rlm.cli import main

METRIC = "cpu_time_ms"


@pytest.fixture
def candidates(tmp_path):
    """Three programs that run, and a file that cannot be read."""
    for name, text in {
        "a.py": tiny.PYTHON,
        "b.py": "print(sum(range(9)))\n",
        "c.py": "x = [1] * 50\n",
        "empty.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def run(checkpoint, capsys):
    def call(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        return main(["rank", *map(str, argv), "--metric", METRIC, "--model", str(checkpoint)]), *capsys.readouterr()

    return call


def test_when_files_are_ranked_then_the_order_is_that_of_the_pipeline(run, candidates, pipe):
    paths = [candidates / name for name in ("a.py", "b.py", "c.py")]
    status, out, err = run(*paths, "--context", "machine=small", "--interval", "0.8", "--format", "json")
    rows = json.loads(out)
    expected = pipe.rank(paths, METRIC, context={"machine": "small"}, interval=0.8)
    assert (status, err) == (0, "")
    assert [row["file"] for row in rows] == [row["source"] for row in expected]
    assert [row["probability_best"] for row in rows] == [row["probability_best"] for row in expected]
    assert [row["rank"] for row in rows] == [1, 2, 3] and rows[0]["level"] == 0.8


def test_when_a_folder_holds_a_file_that_cannot_be_read_then_the_others_are_ranked(run, candidates):
    status, out, err = run(candidates, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 1 and len(rows) == 3 and "skipped" in err and "empty.py" in err
    head, *lines = run(candidates / "a.py", candidates / "b.py", "--format", "table")[1].splitlines()
    assert head.split() == ["rank", "file", METRIC, "90%", "interval", "P(best)", "familiarity"]
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_when_a_table_is_ranked_then_each_row_is_a_candidate(run, tmp_path):
    (tmp_path / "table.jsonl").write_text(
        "".join(json.dumps({"code": f"x = [{n}]", "language": "python"}) + "\n" for n in range(3))
    )
    rows = json.loads(run(tmp_path / "table.jsonl")[1])
    assert sorted(row["file"].rpartition(":")[2] for row in rows) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["a.py"], "at least two inputs, got 1"), (["a.py", "nowhere.py"], "nowhere.py does not exist")],
)
def test_when_there_is_nothing_to_rank_then_one_line_says_so(run, candidates, monkeypatch, argv, message):
    monkeypatch.chdir(candidates)
    status, out, err = run(*argv)
    assert (status, out) == (2, "") and err.startswith("code-rlm rank: ") and message in err


def test_when_measuring_is_not_installed_then_one_line_says_what_to_install(run, candidates, monkeypatch):
    for name in ("code_rlm_data", "code_rlm_data.measure"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, err = run(candidates / "a.py", candidates / "b.py", "--measure-top", "1")
    assert status == 2 and "--measure-top needs the package code_rlm_data" in err


@pytest.mark.slow
def test_when_the_likeliest_are_measured_then_their_numbers_are_certain_and_a_failed_one_is_last(run, candidates):
    pytest.importorskip("code_rlm_data.measure")
    (candidates / "fails.py").write_text("raise SystemExit(3)\n")
    paths = [candidates / name for name in ("a.py", "b.py", "fails.py")]
    status, out, err = run(*paths, "--measure-top", "3", "--format", "json")
    rows = json.loads(out)
    assert status == 0 and "fails.py failed: runtime_error" in err
    assert all(row["measured"] for row in rows) and rows[-1]["file"].endswith("fails.py")
    assert rows[-1]["value"] is None and rows[-1]["probability_best"] == 0
    assert rows[0]["value"] <= rows[1]["value"] and rows[0]["low"] == rows[0]["high"] == rows[0]["value"]
    assert rows[0]["probability_best"] == pytest.approx(1.0)
    (_, first, second) = run(*paths[:2], "--measure-top", "1", "--format", "table")
    assert "measured" in first and " to " in first and "measuring" in second
