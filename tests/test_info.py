"""`code-rlm metrics` and `code-rlm info`: what the config of a checkpoint holds, without its weights."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
import torch

import code_rlm
from code_rlm.cli import main
from code_rlm.info import describe, describe_metric, read_config
from code_rlm.loading import DEFAULT_CHECKPOINT


def run(capsys, *argv) -> tuple[int, str, str]:
    capsys.readouterr()
    return main(list(map(str, argv))), *capsys.readouterr()


def test_when_metrics_are_listed_then_each_of_the_registry_is_there(checkpoint, capsys):
    status, out, _ = run(capsys, "metrics", "--model", checkpoint)
    rows = json.loads(out)
    config = read_config(checkpoint)
    assert status == 0 and [row["metric"] for row in rows] == config.metric_names()
    assert rows[4]["smaller_is_better"] is False and rows[4]["unit"] == "%" and rows[4]["least"] is None
    only = json.loads(run(capsys, "metrics", "--model", checkpoint, "--language", "onnx")[1])
    assert [row["metric"] for row in only] == ["accuracy_percent", "latency_ms@pixel3"]
    assert run(capsys, "metrics", "--model", checkpoint, "--language", "cobol")[0] == 2


def test_when_the_weights_that_ship_are_listed_then_ranges_and_calibrations_are_those_of_their_state(capsys):
    rows = {row["metric"]: row for row in csv.DictReader(io.StringIO(run(capsys, "metrics", "--format", "csv")[1]))}
    fitted = read_config(None).fitted
    assert int(rows["cycles"]["calibrated_on_rows"]) == fitted.calibration["cycles"].rows
    assert 0 < float(rows["cycles"]["least"]) < 1 < float(rows["cycles"]["most"])
    for name, scale in fitted.score_scales.items():
        ends = [math.exp(v) if scale.logarithm else v for v in (scale.values[0], scale.values[-1])]
        assert [float(rows[name]["least"]), float(rows[name]["most"])] == pytest.approx(ends, rel=1e-5)
    head, *lines = run(capsys, "metrics", "--format", "table")[1].splitlines()
    assert head.split()[:2] == ["metric", "best"] and len(lines) == len(rows)


def test_when_a_checkpoint_is_described_then_its_numbers_are_those_of_the_loaded_model(checkpoint, pipe, capsys):
    facts = describe(checkpoint)
    # Tied and derived weights are not stored: what is in the file is what is counted.
    stored = sum(t.numel() for t in pipe.model.state_dict().values() if isinstance(t, torch.Tensor))
    assert float(facts["parameters"].rstrip("M")) == pytest.approx(stored / 1e6, abs=0.02)
    assert facts["code_rlm"] == code_rlm.__version__ and facts["packages"]["torch"] == torch.__version__
    out = run(capsys, "info", "--model", checkpoint, "--format", "table")[1]
    assert f"checkpoint: {checkpoint}\n" in out and "longest input tokens: 160\n" in out
    assert json.loads(run(capsys, "info", "--format", "json")[1])["checkpoint"].startswith("default")


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c"])
def test_when_there_is_no_checkpoint_then_one_line_says_so(capsys, name):
    status, out, err = run(capsys, "info", "--model", name)
    assert (status, out) == (2, "") and err == f"code-rlm info: There is no checkpoint folder {name}.\n"


@pytest.mark.parametrize("name", [None, "default", "checkpoints/default"])
def test_when_the_weights_that_ship_are_named_then_any_folder_finds_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert read_config(name).metric_names() == read_config(DEFAULT_CHECKPOINT).metric_names()


def test_when_a_folder_has_the_name_then_it_comes_first(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").symlink_to(checkpoint)
    assert "peak_memory_bytes" in read_config("default").metric_names()
    assert describe_metric(read_config("default"), "cycles")["domains"] == []
