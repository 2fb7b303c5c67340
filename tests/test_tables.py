"""A table in the schema is recognised by its columns: by training, calibration, evaluation and prediction."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import tiny

import code_rlm
from code_rlm.cli import main
from code_rlm.data.schema import FEATURES, DataError, Example, to_dataset
from code_rlm.data.tables import read_table


@pytest.fixture
def measured(tmp_path):
    """A folder as `code-rlm measure` writes it."""
    rows = [
        Example(
            f"x = [{i}] * {10**power}\n", "python", ["peak_rss_bytes", "cpu_time_ms"], [1e6 * 10**power + i, 1.0 * power + i],
            context=["input: small"], group=f"p{i}" if i else "", source="measured", hardware="one core",
        )
        for i in range(90)
        for power in (1, 3)
    ]  # fmt: skip
    rows.append(Example("x = 1 / 0\n", "python", ["peak_rss_bytes"], [None], group="p91", outcome="runtime_error"))
    (tmp_path / "measured").mkdir()
    pq.write_table(to_dataset(rows).data.table, tmp_path / "measured" / "data.parquet")
    return tmp_path / "measured"


def test_when_a_table_is_in_the_schema_then_no_column_needs_a_name(measured):
    whole = read_table(measured / "data.parquet")
    assert len(whole) == 181 and whole[180]["outcome"] == "runtime_error"
    assert (
        len(set(whole["group"][:3])) == 3 and whole["group"][3] == "p1"
    )  # equal texts make a group where there is none
    parts = [read_table(measured, split=name) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 181 and all(map(len, parts))
    assert not set(parts[0]["group"]) & set(parts[1]["group"])


def test_when_the_table_is_jsonl_then_it_is_recognised_too(measured, tmp_path):
    rows = read_table(measured).to_list()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_table(tmp_path / "rows.jsonl").to_list() == rows


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"drop": "units"}, {}, "needs target_columns, .* it lacks units"),
        ({}, {"group_column": "group"}, "is in the schema .* leave out group_column"),
        ({"empty": 3}, {}, "row 3, column 'text': empty text"),
    ],
)
def test_when_a_table_cannot_be_read_then_the_error_says_what_to_do(measured, tmp_path, change, options, message):
    rows = read_table(measured).to_list()
    for row in rows:
        row.pop(change.get("drop"), None)
    if "empty" in change:
        rows[change["empty"]]["text"] = " "
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=message):
        read_table(path, **options)
    if "empty" in change:
        assert len(read_table(path, on_error="skip")) == len(rows) - 1
    with pytest.raises(DataError, match="no file"):
        read_table(tmp_path / "nowhere.parquet")


@pytest.mark.slow
def test_when_measured_rows_are_trained_on_then_every_command_takes_the_table(
    measured, make_model, tokenizer, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    tiny.save(make_model, tokenizer, tmp_path / "base")
    train = ["--init", "base", "--data", "[{file: measured}]", "--steps", "0", "--max-objectives", "2"]
    assert main(["train", *train, "--ensemble", "{buckets: 256, number_buckets: 16}", "--out", "run"]) == 0
    told = capsys.readouterr().err
    assert "calibrated peak_rss_bytes on " in told
    config = code_rlm.RLMConfig.from_pretrained("run/final")
    assert config.fitted.calibration_of("cpu_time_ms").source == "measured, validation split, seed 0"
    assert config.metrics_for("python") == ["peak_rss_bytes", "cpu_time_ms"]
    assert config.metric("peak_rss_bytes").description == "measured, measured on one core"
    assert main(["calibrate", "--model", "run/final", "--data", "measured", "--out", "again"]) == 0
    evaluate = ["--data", "measured", "--baselines", "constant", "--resamples", "20", "--out", "report"]
    assert main(["evaluate", "--model", "again", *evaluate]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["tasks"]["measured"]) == {"peak_rss_bytes", "cpu_time_ms"}
    capsys.readouterr()
    assert main(["predict", "measured/data.parquet", "--model", "again", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["metric"] for row in rows} == {"peak_rss_bytes", "cpu_time_ms"} and len(rows) == 2 * 181
    assert all("familiarity" in row for row in rows) and set(FEATURES) >= {"context"}
    # The rows' context is read with them.
    pipe = code_rlm.pipeline(tmp_path / "again")
    text = {"text": "x = [0] * 10\n", "language": "python"}
    with_context = pipe({**text, "context": ["input: small"]})
    assert [row["value"] for row in rows[:2]] == [entry["value"] for entry in with_context]


@pytest.mark.slow
def test_when_calibration_is_left_out_then_answers_are_not_calibrated(
    measured, make_model, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny.save(make_model, tokenizer, tmp_path / "base")
    train = [
        "--init",
        "base",
        "--data",
        "[{file: measured}]",
        "--steps",
        "0",
        "--max-objectives",
        "2",
        "--calibrate",
        "false",
    ]
    assert main(["train", *train, "--ensemble", "{buckets: 256, number_buckets: 16}", "--out", "run"]) == 0
    assert code_rlm.RLMConfig.from_pretrained("run/final").fitted.calibration == {}
