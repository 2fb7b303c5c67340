"""Tables that no model can learn from: one line that names file, row and column, or a counted drop where it is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from code_rlm.data import external
from code_rlm.data.external import generic
from code_rlm.data.mixture import Source, mixture_weights
from code_rlm.data.schema import DataError, Example, to_dataset
from code_rlm.errors_rlm import RLMError
from code_rlm.numbers_rlm import is_failed
from code_rlm.training.options import TrainOptions, make_options
from code_rlm.training.sources import load_sources, registry

ROWS = 60


def table(folder: Path, name: str = "mine.csv", rows: int = ROWS, **columns) -> Path:
    """A good table but for the columns given."""
    cells = {"text": [f"x = {i}" for i in range(rows)], "latency_ms": [i + 0.5 for i in range(rows)]}
    frame = pd.DataFrame({**cells, "kernel": [f"k{i % 12}" for i in range(rows)], **columns})
    path = folder / name
    {"csv": lambda: frame.to_csv(path, index=False), "parquet": lambda: frame.to_parquet(path)}[path.suffix[1:]]()
    return path


def options_for(path: Path, **entry) -> TrainOptions:
    source = {"file": str(path), "target_columns": ["latency_ms"], "language": "python", **entry}
    return make_options(data=[source], max_tokens=128, out=str(path.parent / "run"))


def with_cell(value) -> list:
    return [value if i == 7 else i + 0.5 for i in range(ROWS)]


PLACE = r"mine.csv: 1 bad cells:\n  row 7 \(line 9\), column 'latency_ms': "
TIMEOUTS = {"end": ["ok", "crashed"] * (ROWS // 2)}
TWICE = "target_columns must name each column and each metric once"


@pytest.mark.parametrize(
    ("columns", "entry", "message"),
    [
        ({"latency_ms": with_cell("fast")}, {}, PLACE + "expected a number, got 'fast'"),
        ({"latency_ms": with_cell("nan")}, {}, PLACE + "nan is not a number to learn; leave the cell empty"),
        ({"latency_ms": with_cell("inf")}, {}, PLACE + "inf is not a number to learn"),
        (
            {"latency_ms": with_cell(1e25)},
            {},
            PLACE + r"1e\+25 is outside the number format, which writes .* to 9.999e\+20",
        ),
        ({"latency_ms": with_cell(1e-25)}, {}, PLACE + "1e-25 is outside the number format.*; change the unit"),
        (
            {"latency_ms": 3.0},
            {},
            r"mine.csv, column of latency_ms: every one of the \d+ training rows holds 3.*on_error: skip",
        ),
        (
            {"kernel": "one"},
            {"group_column": "kernel"},
            r"60 rows in 1 groups \(kernel\); a split .* validation: 0 and test: 0",
        ),
        (
            {"text": ["" if i == 3 else "x" for i in range(ROWS)]},
            {},
            r"row 3 \(line 5\), column 'text': expected a text",
        ),
        ({}, {"target_columns": ["latency_ms", "latency_ms"]}, TWICE),
        ({"other": 1.0}, {"target_columns": {"latency_ms": "a_ms", "other": "a_ms"}}, TWICE),
        ({}, {"target_columns": ["speed"]}, "mine.csv: no column speed; there is text, latency_ms, kernel"),
        (
            TIMEOUTS,
            {"outcome_column": "end"},
            r"row 1 \(line 3\), column 'end': expected one of ok, timeout, .*, got 'crashed'",
        ),
        ({}, {"on_error": "ignore"}, "on_error must be one of raise, skip or nothing; got 'ignore'"),
        ({}, {"failures": "maybe"}, "failures must be one of outcome, drop or nothing; got 'maybe'"),
        ({}, {"mask_tokens": 2}, "mask_tokens must be a number of at least 0 and below 1 or nothing; got 2"),
        ({}, {"mask_tokens": 0.1, "mask_span": 0.5}, "mask_span must be a number of at least 1 or nothing; got 0.5"),
        ({}, {"mask_span": 3}, "mask_span is the length of what mask_tokens hides; set mask_tokens as well"),
        ({}, {"weight": 0}, "weight must be a number above 0 or nothing; got 0"),
        ({}, {"validation": 0.8, "test": 0.8}, "must each be from 0 to 1 and together at most 1"),
    ],
)
def test_when_a_table_is_bad_then_one_line_says_where_and_what_to_do(tokenizer, tmp_path, columns, entry, message):
    with pytest.raises(RLMError, match=message):
        load_sources(options_for(table(tmp_path, **columns), **entry), tokenizer)


def test_when_there_is_one_row_then_the_error_says_that_a_split_leaves_nothing(tokenizer, tmp_path):
    path = table(tmp_path, rows=1)
    with pytest.raises(DataError, match=r"mine.csv: 1 rows in 1 groups"):
        load_sources(options_for(path), tokenizer)
    with pytest.raises(DataError, match=r"every one of the 1 training rows holds 0.5"):
        load_sources(options_for(path, validation=0, test=0), tokenizer)


def test_when_the_only_group_is_wanted_then_all_rows_train(tokenizer, tmp_path):
    options = options_for(table(tmp_path, kernel="one"), group_column="kernel", validation=0, test=0)
    (loaded,), weights = load_sources(options, tokenizer)
    assert len(loaded.train) == ROWS and loaded.validation is None and weights == [1.0]


def test_when_bad_rows_are_to_be_skipped_then_they_are_counted(tokenizer, tmp_path, caplog):
    cells = [{3: "fast", 4: "inf", 5: "1e30"}.get(i, i + 0.5) for i in range(ROWS)]
    options = options_for(table(tmp_path, latency_ms=cells), on_error="skip", validation=0, test=0)
    with caplog.at_level(logging.WARNING):
        (loaded,), _ = load_sources(options, tokenizer)
    assert len(loaded.train) == ROWS - 3
    assert (
        "3 rows with a bad cell skipped, the first: row 3 (line 5), column 'latency_ms': expected a number"
        in caplog.text
    )


def test_when_a_constant_metric_is_to_be_skipped_then_it_is_named_and_the_others_train(tokenizer, tmp_path):
    path = table(tmp_path, size_bytes=64.0)
    options = options_for(path, target_columns=["latency_ms", "size_bytes"], on_error="skip")
    (loaded,), _ = load_sources(options, tokenizer)
    assert loaded.train.metrics == ["latency_ms"] and "size_bytes left out (64 in every row)" in str(loaded)
    assert [entry["name"] for entry in registry(options, [loaded])] == ["latency_ms"]


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl", "mine.json"])
def test_when_a_file_is_not_utf8_then_the_line_and_the_byte_are_named(tmp_path, name):
    rows = [{"text": "x = 1", "latency_ms": 1.5}, {"text": "gr\u00fcn = 1", "latency_ms": 2.5}]
    lines = {
        "csv": "text,latency_ms\n" + "".join(f"{r['text']},{r['latency_ms']}\n" for r in rows),
        "jsonl": "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows),
        "json": "[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "]",
    }[name.split(".")[1]]
    path = tmp_path / name
    path.write_bytes(lines.encode("latin-1"))
    number = next(i for i, line in enumerate(lines.splitlines(), 1) if "\u00fc" in line)
    with pytest.raises(DataError, match=rf"{name}: line {number}, byte \d+: 0xfc is not UTF-8; save the file as UTF-8"):
        generic(path, target_columns=["latency_ms"], language="python")
    path.write_bytes(lines.encode("utf-8-sig"))
    assert generic(path, target_columns=["latency_ms"], language="python")["text"][1] == "gr\u00fcn = 1"


def test_when_columns_are_double_then_the_file_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,ms,ms\nx,1,2\n")
    pq.write_table(pa.table([["x"], [1.0], [2.0]], names=["text", "ms", "ms"]), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "ms": 1, "ms": 2}\n')
    (tmp_path / "a.json").write_text('[{"text": "x", "ms": 1, "ms": 2}]')
    for name, message in (
        ("a.csv", "a.csv: column ms more than once in the header"),
        ("a.parquet", "a.parquet: column ms more than once in the file"),
        ("a.jsonl", "a.jsonl: line 1: key 'ms' more than once in an object"),
        ("a.json", "a.json: key 'ms' more than once in an object"),
    ):
        with pytest.raises(DataError, match=message):
            generic(tmp_path / name, target_columns=["ms"], language="python")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_when_a_line_is_enormous_then_it_is_refused_before_it_is_read(tmp_path, monkeypatch, name):
    monkeypatch.setattr(external, "_MAX_LINE_CHARS", 10_000)
    start = "text,ms\nx,1\n" if name == "a.csv" else '{"text": "x", "ms": 1}\n{"text": "'
    (tmp_path / name).write_text(start + "y" * 50_000)
    line = 3 if name == "a.csv" else 2
    with pytest.raises(DataError, match=f"{name}: line {line} is longer than 10000 characters"):
        generic(tmp_path / name, target_columns=["ms"], language="python")


def test_when_a_quote_is_not_closed_then_the_row_is_named_before_the_file_is_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text('text,ms\nx,1\n"y,2\n' + "z,3\n" * 50)
    message = "a.csv: a cell of the row that begins in line 3 goes on to line {} .*; is a quote not closed"
    with pytest.raises(DataError, match=message.format(53)):
        generic(path, target_columns=["ms"], language="python")
    monkeypatch.setattr(external, "_MAX_LINE_CHARS", 40)
    with pytest.raises(DataError, match=message.format(r"1\d")):
        generic(path, target_columns=["ms"], language="python")


def test_when_a_json_list_is_enormous_then_lines_are_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "x", "ms": 1.0}] * 50))
    monkeypatch.setattr(external, "_MAX_JSON_CHARS", 1000)
    with pytest.raises(DataError, match=r"^\S*a.json: more than 1000 characters in one list.* as \.jsonl"):
        generic(path, target_columns=["ms"], language="python")


def test_when_the_encoding_is_utf16_or_a_parquet_cell_is_no_text_then_the_place_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("text,ms\nx,1\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"a.csv: line 1, byte 1: 0xff is not UTF-8.*`iconv -f UTF-16 -t UTF-8`"):
        generic(tmp_path / "a.csv", target_columns=["ms"], language="python")
    offsets, cells = np.array([0, 3, 6], dtype=np.int32), b"abcd\xfff"
    text = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(cells)])
    pq.write_table(pa.table({"text": text, "ms": [1.0, 2.0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: row 1, column 'text': byte 2 is not UTF-8"):
        generic(tmp_path / "a.parquet", target_columns=["ms"], language="python")


def test_when_a_text_is_enormous_then_row_and_column_are_named_or_it_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "MAX_TEXT_CHARS", 1000)
    path = table(tmp_path, "a.parquet", text=["y" * (2000 if i == 5 else 10) for i in range(ROWS)])
    with pytest.raises(DataError, match=r"row 5, column 'text': 2000 characters are over the limit of 1000"):
        generic(path, target_columns=["latency_ms"], language="python")
    assert len(generic(path, target_columns=["latency_ms"], language="python", on_error="skip")) == ROWS - 1


def test_when_a_text_is_half_a_surrogate_pair_then_row_and_column_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x\\ud800", "ms": 1}\n')
    with pytest.raises(DataError, match=r"row 0 \(line 1\), column 'text': character 1 is half of a surrogate pair"):
        generic(tmp_path / "a.jsonl", target_columns=["ms"], language="python")


def test_when_a_text_is_a_megabyte_then_only_its_ends_are_tokenised_and_it_counts_as_cut(tokenizer):
    rows = to_dataset([Example("a " * 500_000 + "end", "c", ["cycles"], [7.0], group="g")])
    source = Source.from_dataset("long", rows, tokenizer, max_tokens=64)
    assert source.truncated.all() and len(source.bodies[0]) < 20_000


def test_when_a_task_holds_a_number_that_cannot_be_written_then_row_and_metric_are_named(tokenizer):
    rows = to_dataset([Example("x", "c", ["cycles"], [v], group="g") for v in (1.0, 1e30)])
    with pytest.raises(DataError, match=r"blocks: row 1 of the split, cycles: 1 of 1 values are outside"):
        Source.from_dataset("blocks", rows, tokenizer)


# ---------------------------------------------------------------------------------------------------- what is learned


def test_when_runs_failed_then_they_are_outcomes_or_dropped_as_the_source_says(tokenizer, tmp_path):
    ends = ["timeout" if i % 3 == 0 else "" for i in range(ROWS)]
    path = table(tmp_path, latency_ms=["" if i % 3 == 0 else i + 0.5 for i in range(ROWS)], end=ends)
    entry = {"outcome_column": "end", "validation": 0, "test": 0}
    (kept,), _ = load_sources(options_for(path, **entry), tokenizer)
    assert len(kept.train) == ROWS and kept.train.failed == is_failed(kept.train.values).sum() == ROWS // 3
    assert is_failed(tokenizer.decode_numbers(kept.train.codes[kept.train.present])).sum() == ROWS // 3
    assert "20 failed runs as outcomes" in str(kept)
    (dropped,), _ = load_sources(options_for(path, failures="drop", **entry), tokenizer)
    assert len(dropped.train) == ROWS - ROWS // 3 == ROWS - dropped.train.dropped
    assert "20 rows without any value dropped" in str(dropped)


def test_when_language_and_context_stand_in_columns_then_each_row_has_its_own(tokenizer, tmp_path):
    languages, sizes = ["C", "lua"] * (ROWS // 2), ["", 4, 8] * (ROWS // 3)
    path = table(tmp_path, lang=languages, size=sizes)
    options = options_for(path, language=None, language_column="lang", context_columns=["size"], validation=0, test=0)
    (loaded,), _ = load_sources(options, tokenizer)
    assert loaded.train.languages == [name.lower() for name in languages]
    assert loaded.train.contexts[:3] == [(), ("size: 4",), ("size: 8",)]
    assert registry(options, [loaded])[0]["languages"] == ["c", "lua"]


def test_when_sources_have_no_weights_then_they_are_drawn_by_size_and_temperature():
    assert mixture_weights([100, 300], [None, None], 1.0) == [0.25, 0.75]
    assert mixture_weights([100, 900], [None, None], 2.0) == pytest.approx([0.25, 0.75])
    assert mixture_weights([100, 900], [None, None], 1e9) == pytest.approx([0.5, 0.5])
    assert mixture_weights([1, 1], [3, 1], 2.0) == [0.75, 0.25]
    assert mixture_weights([100, 100, 5], [None, None, 0.2], 2.0) == pytest.approx([0.4, 0.4, 0.2])
    with pytest.raises(DataError, match=r"sum to 1.5, which leaves nothing for the sources without one"):
        mixture_weights([1, 1], [1.5, None], 2.0)
