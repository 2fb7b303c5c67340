"""`code-rlm evaluate` on a tiny checkpoint: what the report holds, which rows baselines see, bad input, several processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny

from code_rlm.cli import evaluate_parser, main
from code_rlm.data.readers import TASKS
from code_rlm.data.train_tokenizer import train_tokenizer
from code_rlm.evaluation.rows import read_rows
from code_rlm.evaluation.run import rows_to_fit
from code_rlm.numbers_rlm import NumberFormat

CELL = "|nor_conv_3x3~0|+|skip_connect~0|{}~1|+|avg_pool_3x3~0|{}~1|{}~2|"
OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


@pytest.fixture(autouse=True)
def progress_bars_as_before():
    yield
    from transformers.utils import logging

    logging.enable_progress_bar()


def programs(rows: int = 240, seed: int = 0) -> pd.DataFrame:
    """Programs of 24 problems in two languages; memory grows with a number in the text."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 400, rows)
    return pd.DataFrame(
        {
            "code": [f"x = [{n}] * {n}\nprint(x, {i})\n" for i, n in enumerate(sizes)],
            "peak_memory_bytes": 1e4 * sizes * rng.lognormal(sigma=0.1, size=rows),
            "cpu_time_ms": np.where(rng.random(rows) < 0.1, None, rng.lognormal(size=rows)),
            "problem": [f"{seed}-{i % 24}" for i in range(rows)],
            "kind": np.where(np.arange(rows) % 5, "python", "ruby"),
        }
    )


@pytest.fixture
def table(tmp_path):
    programs().to_parquet(tmp_path / "mine.parquet")
    return tmp_path / "mine.parquet"


@pytest.fixture
def run(checkpoint, table, tmp_path, capsys):
    """Runs the command; returns status, report (None where none was written), standard error."""

    def evaluate(*argv, data=table, targets=("peak_memory_bytes",), language=("--language-column", "kind")):
        columns = ["--text-column", "code", "--group-column", "problem", *language, "--target-columns", *targets]
        out = tmp_path / "report"
        fixed = ["evaluate", "--data", str(data), *columns, "--model", str(checkpoint), "--out", str(out)]
        capsys.readouterr()
        status = main([*fixed, "--resamples", "50", *map(str, argv)])
        path = out / "report.json"
        return status, json.loads(path.read_text()) if path.exists() else None, capsys.readouterr().err

    return evaluate


def test_when_a_table_has_two_languages_then_each_has_scores(run, table):
    programs(720).to_parquet(table)
    status, report, _ = run(targets=("peak_memory_bytes", "cpu_time_ms"))
    assert status == 0 and set(report["tasks"]["mine.parquet"]) == {"peak_memory_bytes", "cpu_time_ms"}
    entry = report["tasks"]["mine.parquet"]["peak_memory_bytes"]
    assert set(entry["languages"]) == {"python", "ruby"}
    assert sum(part["n"] for part in entry["languages"].values()) == entry["n"]
    for part in entry["languages"].values():
        assert set(part["spearman"]) == {"value", "low", "high"} and set(part["coverage"]) == {
            "0.5",
            "0.8",
            "0.9",
            "0.95",
        }
    # Predictions that are all equal rank nothing, which counts as 0.
    inside = np.mean([part["spearman"]["value"] or 0.0 for part in entry["languages"].values()])
    assert entry["within_languages"]["value"] == pytest.approx(inside)
    assert entry["within_languages"]["low"] <= inside <= entry["within_languages"]["high"]
    assert set(entry["baselines"]) == {"constant", "length_only", "tfidf_ridge", "gradient_boosting"}
    assert entry["baselines"]["gradient_boosting"]["spearman"] > 0.5
    assert entry["baselines"]["gradient_boosting"]["within_languages"] > 0.5
    assert entry["baselines"]["constant"]["within_languages"] == 0
    assert entry["seconds_per_row"] > 0 and entry["calibrated"] is False and "uncalibrated" not in entry
    assert set(entry["selection"]) == {"top_1", "top_1_chance", "top_5_percent", "top_10_percent", "top_25_percent"}
    assert entry["within_groups"]["groups"] + entry["within_groups"]["too_small"] == entry["groups"]
    low, high = entry["coverage_interval"]["0.9"]
    assert low <= entry["coverage"]["0.9"] <= high


def test_when_the_checkpoint_is_calibrated_then_both_intervals_are_reported(run, checkpoint, table, tmp_path):
    columns = ["--text-column", "code", "--group-column", "problem", "--language", "python"]
    asked = ["--target-columns", "peak_memory_bytes", "--split", "train", "--out", str(tmp_path / "calibrated")]
    assert main(["calibrate", "--model", str(checkpoint), "--data", str(table), *columns, *asked]) == 0
    options = ("--model", tmp_path / "calibrated", "--split", "all")
    _, report, _ = run(*options)
    entry = report["tasks"]["mine.parquet"]["peak_memory_bytes"]
    assert entry["calibrated"] and abs(entry["coverage"]["0.9"] - 0.9) < abs(
        entry["uncalibrated"]["coverage"]["0.9"] - 0.9
    )
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| the model's own |" in text and "| calibrated |" in text
    _, plain, _ = run(*options, "--uncalibrated")
    own = plain["tasks"]["mine.parquet"]["peak_memory_bytes"]
    assert own["coverage"] == entry["uncalibrated"]["coverage"] and not own["calibrated"]


def test_when_every_split_is_evaluated_then_baselines_are_left_out_and_the_report_says_so(run, tmp_path):
    _, report, _ = run("--split", "all")
    assert report["tasks"]["mine.parquet"]["peak_memory_bytes"]["n"] == 240
    assert report["tasks"]["mine.parquet"]["peak_memory_bytes"]["baselines"] == {}
    assert re.search("mine.parquet: no baselines, .* --train-data-root", "\n".join(report["notes"]))
    assert "--train-data-root" in (tmp_path / "report" / "report.md").read_text()


def test_when_other_training_rows_are_named_then_none_of_an_evaluated_group_is_used(run, table, tmp_path):
    others = tmp_path / "others.parquet"
    pd.concat([programs(seed=1), programs()]).to_parquet(others)
    _, report, _ = run("--split", "all", "--train-data-root", others)
    assert set(report["tasks"]["mine.parquet"]["peak_memory_bytes"]["baselines"]) >= {"constant", "gradient_boosting"}
    assert any(
        "training rows left out of the baselines: their groups are evaluated" in note for note in report["notes"]
    )
    argv = ["--data", str(table), "--text-column", "code", "--group-column", "problem", "--language", "python"]
    argv += ["--target-columns", "peak_memory_bytes", "--out", "x", "--split", "all", "--train-data-root", str(others)]
    args = evaluate_parser().parse_args(argv)
    rows = read_rows(str(table), args, "all", None)
    train, notes = rows_to_fit(str(table), args, rows)
    assert len(train) == report["rows_baselines_were_fitted_on"]["mine.parquet"] > 100
    assert not set(train["group"]) & set(rows["group"]) and len(notes) == 1


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"peak_memory_bytes": 7.0}, "all .* targets are 7; nothing can be ranked"),
        ({"problem": "one"}, "all rows are of one group; there are no confidence intervals"),
        ({"peak_memory_bytes": 1e30}, None),
    ],
)
def test_when_scores_are_undefined_then_they_are_null_and_the_report_says_why(run, tmp_path, change, note):
    programs(60).assign(**change).to_parquet(tmp_path / "odd.parquet")
    status, report, _ = run("--split", "all", data=tmp_path / "odd.parquet")
    assert status == 0
    entry = report["tasks"]["odd.parquet"]["peak_memory_bytes"]
    if note is None:
        assert entry["out_of_range"] == 60 and entry["nll"] is None
        assert "60 targets lie outside the number format" in (tmp_path / "report" / "report.md").read_text()
    else:
        assert re.search(note, "\n".join(report["notes"]))
        assert entry["spearman"]["low"] is None


def test_when_there_is_one_row_then_it_is_scored_as_far_as_one_can(run, tmp_path):
    programs(1).to_parquet(tmp_path / "one.parquet")
    status, report, _ = run("--split", "all", data=tmp_path / "one.parquet")
    entry = report["tasks"]["one.parquet"]["peak_memory_bytes"]
    assert status == 0 and entry["n"] == 1 and entry["spearman"]["value"] is None and entry["mape"]["value"] >= 0
    assert "one row; nothing can be ranked" in "\n".join(report["notes"])


@pytest.mark.parametrize(
    ("cells", "argv", "message"),
    [
        (
            {"peak_memory_bytes": ["1", "fast"]},
            [],
            r"bad.csv: 1 bad cells:\s+row 1 \(line 4\), column 'peak_memory_bytes'.*'fast'",
        ),
        ({"peak_memory_bytes": ["1", "nan"]}, [], r"row 1 \(line 4\), column 'peak_memory_bytes': nan is not a number"),
        ({"peak_memory_bytes": ["inf", "1"]}, [], r"row 0 \(line 3\), column 'peak_memory_bytes': inf is not a number"),
        ({"problem": ["", "a"]}, [], r"row 0 \(line 3\), column 'problem': empty group"),
        ({"code": ["x", " "]}, [], r"row 1 \(line 3\), column 'code': expected a text"),
        ({}, ["--target-columns", "peak_memory_bytes", "peak_memory_bytes"], "names peak_memory_bytes more than once"),
        ({}, ["--target-columns"], "expected at least one argument"),
        ({}, ["--group-column", "task"], "no column task; there is code, peak_memory_bytes"),
        ({}, ["--split", "validation"], "the validation split has no rows; choose another"),
        ({}, ["--max-rows", "0"], "--max-rows: 0 must be >0"),
    ],
)
def test_when_a_table_is_bad_then_the_error_names_file_row_and_column(run, tmp_path, cells, argv, message, capsys):
    good = {"code": ["x\ny", "z"], "peak_memory_bytes": ["1", "2"], "problem": ["a", "b"], "kind": ["python", "python"]}
    pd.DataFrame({**good, **cells}).to_csv(tmp_path / "bad.csv", index=False)
    try:
        status, report, err = run("--split", "all", *argv, data=tmp_path / "bad.csv")
    except SystemExit as stop:
        status, report, err = stop.code, None, capsys.readouterr().err
    assert status == 2 and report is None
    assert re.search(message, err), err


def test_when_a_file_is_not_utf8_then_the_error_names_file_and_line(run, tmp_path):
    path = tmp_path / "latin.csv"
    rows = "".join(f"y = {i},1,p{i},python\n" for i in range(3)) + "caf\xe9,1,p9,python\n"
    path.write_bytes(("code,peak_memory_bytes,problem,kind\n" + rows).encode("latin-1"))
    status, report, err = run("--split", "all", data=path)
    assert status == 2 and report is None and re.search(r"latin\.csv: .*UTF-8", err, re.I), err


@pytest.fixture
def architectures(tmp_path):
    """A data root with a table of NAS-Bench-201 cells; latency follows the operations."""
    task = TASKS["nasbench201"]
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        operators = [OPERATORS[k] for k in rng.integers(0, 5, 3)]
        flops = 10 + 30 * operators.count("nor_conv_3x3") + 5 * operators.count("nor_conv_1x1") + 0.01 * i
        row = {column.name: flops for column in (*task.metrics.values(), *task.extra_metrics.values())}
        row |= {"arch_str": CELL.format(*operators), "isomorphism_class": f"(0)@nor_conv_3x3+((0)@skip_connect)@op{i}"}
        rows.append(row)
    (tmp_path / "root" / "nas").mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(tmp_path / "root" / "nas" / "nasbench201.parquet")
    return tmp_path / "root"


def test_when_inputs_are_networks_then_operations_and_parameters_are_baselines(
    checkpoint, architectures, tmp_path, capsys
):
    argv = ["evaluate", "--task", "nasbench201", "--data-root", str(architectures), "--model", str(checkpoint)]
    assert main([*argv, "--resamples", "20", "--baselines", "constant", "--out", str(tmp_path / "report")]) == 0
    entries = json.loads((tmp_path / "report" / "report.json").read_text())["tasks"]["nasbench201"]
    assert set(entries) == {"latency_ms@pixel3"}
    baselines = entries["latency_ms@pixel3"]["baselines"]
    assert set(baselines) == {"constant", "flops", "params"}
    assert baselines["flops"]["spearman"] > 0.8 and baselines["constant"]["spearman"] is None


def in_two_processes(folder: Path, command: Sequence[str]) -> str:
    """Runs the command in two processes that share the work; returns what they print."""
    launch = ["accelerate.commands.launch", "--cpu", "--num_machines", "1", "--num_processes", "2"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", *launch),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            "-m",
            "code_rlm.cli",
            *command,
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_when_two_processes_evaluate_then_the_report_is_that_of_one(checkpoint, table, tmp_path, capsys):
    columns = ["--text-column", "code", "--group-column", "problem", "--language", "python"]
    asked = ["--target-columns", "peak_memory_bytes", "--split", "all", "--resamples", "20", "--batch-size", "16"]
    command = ["evaluate", "--data", str(table), *columns, *asked, "--model", str(checkpoint), "--out"]
    assert main([*command, str(tmp_path / "one")]) == 0
    assert in_two_processes(tmp_path, [*command, str(tmp_path / "two")]).count("# Evaluation of") == 1
    assert capsys.readouterr().out.count("# Evaluation of") == 1
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    for found in (one, two):
        found["tasks"]["mine.parquet"]["peak_memory_bytes"].pop("seconds_per_row")
    assert one == two


@pytest.mark.slow
def test_when_two_processes_predict_then_the_answers_are_those_of_one(checkpoint, tmp_path, capsys):
    for i in range(20):
        (tmp_path / f"p{i:02}.py").write_text(f"x = [0] * {i}\n" * (1 + i % 3))
    command = ["predict", str(tmp_path), "--model", str(checkpoint), "--format", "csv", "--batch-size", "1"]
    assert main(command) == 0
    alone = capsys.readouterr().out.replace("\r\n", "\n")  # as a process's text is read
    assert in_two_processes(tmp_path, command) == alone and alone.count("\n") == 41


@pytest.mark.parametrize(
    "changes",
    [{"regression_head": True}, {"number_format": NumberFormat.p10(4).to_dict()}],
    ids=["regression head", "p10"],
)
def test_when_a_checkpoint_has_no_exact_quantiles_then_it_is_evaluated_and_calibration_refused(
    make_model, tokenizer, table, tmp_path, capsys, changes
):
    layout = NumberFormat.p10(4) if "number_format" in changes else None
    own = train_tokenizer(iter(["x = [1]\n"] * 4), 300, layout) if layout else tokenizer
    folder = tiny.save(make_model, own, tmp_path / "other", **changes)
    columns = ["--text-column", "code", "--group-column", "problem", "--language", "python"]
    argv = ["--data", str(table), *columns, "--target-columns", "peak_memory_bytes", "--model", str(folder)]
    limits = ["--max-rows", "12", "--resamples", "20", "--baselines", "constant"]
    assert main(["evaluate", *argv, *limits, "--split", "all", "--out", str(tmp_path / "report")]) == 0
    entry = json.loads((tmp_path / "report" / "report.json").read_text())["tasks"]["mine.parquet"]["peak_memory_bytes"]
    assert entry["n"] == 12 and set(entry["coverage"]) == (set() if layout is None else {"0.5", "0.8", "0.9", "0.95"})
    capsys.readouterr()
    assert main(["calibrate", *argv, "--out", str(tmp_path / "new")]) == 2
    assert "only exact quantiles can be calibrated" in capsys.readouterr().err
