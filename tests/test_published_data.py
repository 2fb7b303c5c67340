"""The paper's two data sets: which rows are read, under which names, in which order, and how little of the files."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import pandas as pd
import published_tables as tables
import pytest
import tiny
from datasets import IterableDataset
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub

from code_rlm.configuration_rlm import LANGUAGE_NAMES, language_of_name
from code_rlm.data import published
from code_rlm.data.published import (
    RowStream,
    code_regression,
    graph_arch_regression,
    parse_metadata,
    read_published,
    sample_rows,
    select,
    space_key,
)
from code_rlm.data.schema import DataError

ROWS = 200


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with both tables. Not to be changed by tests."""
    return tables.write_both(tmp_path_factory.mktemp("published"), ROWS)


@pytest.fixture(scope="module")
def programs(root) -> Path:
    return root / "Code-Regression"


@pytest.fixture(scope="module")
def graphs(root) -> Path:
    return root / "GraphArch-Regression"


def stream(path, name="code_regression", **asked) -> RowStream:
    return RowStream(*select(name, path, **asked), repeat=False)


# Names


def test_when_programs_are_read_then_each_space_has_a_metric_of_its_own(programs):
    rows = list(code_regression(programs))
    metrics = {(row["source"], *row["metrics"], row["units"][0]) for row in rows}
    assert metrics == {
        ("code_regression/APPS", "peak_memory_bytes", "bytes"),
        ("code_regression/CDSS", "judge_memory_bytes", "bytes"),
        ("code_regression/KBSS", "latency_ms@rtx_a6000", "ms"),
    }
    by_group = {row["group"]: row for row in rows}
    assert by_group["APPS/4"]["values"][0] in [8.0 * 10 * (i + 1) + 56 for i in (12, 13, 14)]
    assert by_group["KBSS/KBSS_3"]["values"] == [0.004]
    assert isinstance(code_regression(programs), IterableDataset)
    assert list(code_regression(programs, streaming=False)) == rows


@pytest.mark.parametrize(
    ("name", "ours"), [("C++", "cpp"), ("C#", "csharp"), ("F#", "fsharp"), ("Visual Basic", "vb"), ("OCaml", "ocaml")]
)
def test_when_a_language_is_spelled_as_published_then_it_has_our_name_and_is_written_back(name, ours, programs):
    assert language_of_name(name) == language_of_name(ours) == ours and LANGUAGE_NAMES[ours] == name
    rows = list(stream(programs, spaces=["codenet"], languages=[name])) or list(
        stream(programs, spaces=["CDSS"], languages=[ours])
    )
    assert rows and {row.language for row in rows} == {ours}


def test_when_a_language_is_not_known_then_it_is_one_word():
    assert language_of_name(" Common  Lisp ") == "commonlisp"


@pytest.mark.parametrize("spelling", ["NB101", "nb-101", "NASBench101", "nasbench_101", "NAS-Bench-101"])
def test_when_a_space_is_spelled_otherwise_then_it_is_found(spelling, graphs):
    rows = list(stream(graphs, "graph_arch_regression", spaces=[spelling]))
    assert space_key(spelling) == "nasbench101"
    assert {row.source for row in rows} == {"graph_arch_regression/NASBench101"}


def test_when_a_family_of_spaces_is_named_then_its_members_are_read(graphs):
    rows = list(stream(graphs, "graph_arch_regression", spaces=["nds", "OFA"]))
    assert {row.context[0] for row in rows} == {"space: ENAS", "space: NASNet", "space: OfaMB"}


def test_when_a_space_is_unknown_then_the_message_lists_what_there_is(graphs, programs):
    with pytest.raises(
        DataError, match="no space NB301; there are ENAS, NASBench101, NASBench201, NASNet, OfaMB, SNAS"
    ):
        select("graph_arch_regression", graphs, spaces=["NB301"])
    with pytest.raises(DataError, match="no space NB201; there are APPS, CDSS, KBSS"):
        code_regression(programs, spaces=["NB201"])
    with pytest.raises(DataError, match="spaces must be a list of names, got 'APPS'"):
        code_regression(programs, spaces="APPS")


def test_when_graphs_are_read_then_accuracies_are_by_space_and_the_space_is_context(graphs):
    found = {row.context[0]: row for row in stream(graphs, "graph_arch_regression")}
    assert found["space: OfaMB"].metrics == ["validation_accuracy@ofamb"] and found["space: OfaMB"].values[0] <= 1
    assert found["space: NASBench101"].values[0] > 1
    metrics = ["validation_accuracy@nasbench201", "latency_ms@pixel3", "latency_ms@eyeriss"]
    assert found["space: NASBench201"].metrics == metrics and found["space: NASBench201"].values[2] is None
    assert found["space: ENAS"].group.startswith("ENAS/") and found["space: SNAS"].values


def test_when_metrics_are_named_then_sizes_and_proxies_are_read_and_the_others_counted(graphs):
    one = stream(graphs, "graph_arch_regression", spaces=["NB201"], metrics=["flops", "zcp_nwot", "latency_ms@pixel3"])
    rows = list(one)
    assert rows[0].metrics == ["flops", "zcp_nwot", "latency_ms@pixel3"]
    with_accuracy = sum(i % 30 != 11 for i in range(ROWS // 2))
    assert one.counts["unlisted_metric"] == with_accuracy


# What is left out is counted


def test_when_targets_are_missing_or_zero_then_the_rows_are_left_out_and_counted(programs):
    apps = stream(programs, spaces=["APPS"])
    assert len(list(apps)) == apps.counts["kept"] == ROWS - 2 and apps.counts["no_target"] == 2
    judged = stream(programs, spaces=["CDSS"])
    assert min(row.values[0] for row in judged) > 0
    assert judged.counts["zero_target"] == 5 and judged.counts["kept"] == ROWS - 5


def test_when_a_problem_has_no_id_then_the_row_is_its_own_group_and_counted(programs):
    judged = stream(programs, spaces=["CDSS"])
    own = [row.group for row in judged if row.group.startswith("CDSS/CDSS_")]
    missing = [i for i in range(ROWS) if i % 50 == 3]
    assert judged.counts["no_problem"] == len(missing) and len(own) == len(missing)


def test_when_metadata_holds_infinity_then_the_value_is_missing_and_counted(graphs):
    found = stream(
        graphs, "graph_arch_regression", spaces=["NB101"], metrics=["validation_accuracy@nasbench101", "zcp_snip"]
    )
    assert {row.values[1] for row in found} == {None}
    assert found.counts["infinite"] == ROWS // 2
    assert parse_metadata("{'a': inf, 'b': -inf, 'c': nan}") == {"a": float("inf"), "b": float("-inf"), "c": None}


def test_when_a_row_has_no_metadata_then_it_is_read(graphs):
    assert parse_metadata(None) == parse_metadata("") == {}
    assert len(list(stream(graphs, "graph_arch_regression", spaces=["SNAS"]))) == ROWS // 2 - 3


def test_when_a_unit_is_not_the_cards_then_it_is_converted_or_counted(tmp_path):
    rows = [row for row in tables.code_rows(4) if row["space"] == "CDSS"]
    rows[0]["metric_type"], rows[1]["metric_type"] = "memory_kb", "memory"
    tables.write(tmp_path / "t.parquet", iter(rows), tables.CODE, 10)
    found = RowStream(*select("code_regression", tmp_path / "t.parquet"), repeat=False, block=1)
    values = [row.values[0] for row in found]
    assert values[:2] == [rows[0]["target"] * 1024, rows[1]["target"]] and found.counts["unknown_unit"] == 1


def test_when_splits_are_counted_then_they_add_up_to_the_table(programs):
    whole, parts = stream(programs), [stream(programs, split=s) for s in ("train", "validation", "test")]
    list(whole)
    total = Counter()
    groups = []
    for part in parts:
        groups.append({row.group for row in part})
        total.update(part.counts)
    assert total == whole.counts and total["no_target"] == 2
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


def test_when_rows_are_left_out_then_the_log_says_how_many_and_why(root, caplog):
    rows = read_published("code_regression", root, "train", spaces=["APPS", "CDSS"])
    assert len(rows) > 200
    assert "rows without any value, left out" in caplog.text and "recorded a memory of 0" in caplog.text


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("metadata", "{'p_id': 'p01'}", "column 'metadata': no language, but p_id"),
        ("metadata", "print('never run')", "column 'metadata': no Python literal"),
        ("input", "", "column 'text': empty text"),
        ("identifier", None, "column 'identifier': empty, and the metadata has none of problem_id, p_id"),
    ],
)
def test_when_a_row_is_bad_then_it_is_named_or_skipped_and_counted(column, cell, message, tmp_path, caplog):
    rows = [row for row in tables.code_rows(8) if row["space"] == "CDSS"]
    rows[3][column] = cell  # this one has no problem's id
    tables.write(tmp_path / "t.parquet", iter(rows), tables.CODE, 10)
    with pytest.raises(DataError, match=f"row 3 of row group 0, {message}"):
        code_regression(tmp_path, streaming=False)
    assert len(code_regression(tmp_path, streaming=False, on_error="skip")) == 6
    assert "1 rows that cannot be read" in caplog.text


def test_when_arguments_are_wrong_then_the_message_says_how(programs, tmp_path):
    for call, message in [
        (lambda: code_regression(programs, "dev"), "no split 'dev'"),
        (lambda: code_regression(programs, on_error="ignore"), "must be 'raise' or 'skip'"),
        (lambda: code_regression(programs, languages="cpp"), "languages must be a list"),
        (lambda: graph_arch_regression(programs), "no column uid, arch_str, val_accuracy"),
        (lambda: code_regression(tmp_path), r"no \.parquet file"),
        (lambda: code_regression(tmp_path / "none"), "no file or folder"),
    ]:
        with pytest.raises(DataError, match=message):
            call()
    (tmp_path / "t.parquet").write_text("text")
    with pytest.raises(DataError, match="not a parquet file"):
        code_regression(tmp_path)


# Order, shares, resuming


def keys(rows) -> list[tuple]:
    return [(row.group, row.text) for row in rows]


def test_when_a_stream_is_shuffled_then_epochs_differ_and_hold_the_same_rows(programs):
    table, options = select("code_regression", programs, spaces=["CDSS"])
    once = keys(RowStream(table, options, repeat=False, block=64))
    assert once != sorted(once) and once == keys(RowStream(table, options, repeat=False, block=64))
    endless = RowStream(table, options, block=1)
    first, second = keys(endless.take(len(once))), keys(endless.take(len(once)))
    assert sorted(first) == sorted(second) == sorted(once)
    shuffled = RowStream(table, options, block=64)
    assert keys(shuffled.take(len(once))) != keys(shuffled.take(len(once)))


@pytest.mark.parametrize("lanes", [2, 3, 16])
def test_when_lanes_share_a_table_then_each_row_is_read_once(lanes, programs):
    table, options = select("code_regression", programs, spaces=["APPS", "KBSS"])
    shares = [keys(RowStream(table, options, lane, lanes, repeat=False)) for lane in range(lanes)]
    assert all(shares)
    assert sorted(row for share in shares for row in share) == sorted(keys(RowStream(table, options, repeat=False)))


@pytest.mark.parametrize("taken", [0, 1, 37, 64, 200, 431])
def test_when_a_stream_goes_on_from_its_state_then_the_rows_are_those_it_would_have_had(taken, programs):
    table, options = select("code_regression", programs, spaces=["CDSS"], split="train")
    whole = RowStream(table, options, block=64)
    whole.take(taken)
    state = json.loads(json.dumps(whole.state))
    assert keys(RowStream(table, options, state=state, block=64).take(150)) == keys(whole.take(150))


def test_when_a_reader_has_no_rows_then_it_says_so_and_does_not_wait_for_ever(programs):
    table, options = select("code_regression", programs, spaces=["CDSS"], languages=["cobol"])
    with pytest.raises(DataError, match="reader 1 of 2 finds no row of spaces CDSS, languages cobol"):
        RowStream(table, options, 0, 2).take(1)


def test_when_rows_are_sampled_by_language_then_each_has_its_share(programs):
    table, options = select("code_regression", programs, spaces=["CDSS"], languages=["C++", "ruby"])
    rows, _ = sample_rows(table, options, 7, key=lambda row: row.language)
    assert Counter(row.language for row in rows) == {"cpp": 7, "ruby": 7}


def test_when_the_datasets_library_shares_out_the_shards_then_each_row_is_read_once(programs):
    whole = code_regression(programs, spaces=["CDSS"], shards=4)
    assert whole.num_shards == 4
    read = [row["text"] for i in range(2) for row in whole.shard(2, i)]
    assert sorted(read) == sorted(row["text"] for row in whole)


# How little is read


class CountingFile(io.FileIO):
    read_bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        CountingFile.read_bytes += len(data)
        return data


def test_when_few_rows_are_asked_for_then_little_of_the_file_is_read(tmp_path, monkeypatch):
    # Texts of 2,000 random characters do not compress.
    letters = pd.util.hash_array(pd.Series(range(300_000)).to_numpy()).astype(str)
    rows = list(tables.code_rows(900))
    for i, row in enumerate(rows):
        row["input"] += "".join(letters[110 * i : 110 * i + 110])
    path = tables.write(tmp_path / "t.parquet", iter(rows), tables.CODE, 1000)  # APPS and CDSS share the first group
    monkeypatch.setattr(published, "_open", lambda file: CountingFile(file))

    def cost(**asked) -> float:
        CountingFile.read_bytes = 0
        assert list(stream(path, **asked))
        return CountingFile.read_bytes / path.stat().st_size

    assert cost() > 0.9
    assert cost(spaces=["KBSS"]) < 0.6  # the second group alone
    with pytest.raises(AssertionError):
        cost(spaces=["APPS"], languages=["cpp"])
    assert CountingFile.read_bytes < 0.05 * path.stat().st_size  # no text at all


def test_when_a_row_group_has_no_statistics_then_its_column_shows_its_spaces(tmp_path):
    table = pd.DataFrame(list(tables.code_rows(20)))
    table.to_parquet(tmp_path / "t.parquet", row_group_size=15, write_statistics=False)
    opened, _ = select("code_regression", tmp_path)
    assert [dict(held) for held in opened.spaces] == [{"APPS": 15}, {"APPS": 5, "CDSS": 10}, {"CDSS": 10, "KBSS": 4}]
    assert opened.rows(["APPS", "KBSS"]) == 24


@pytest.mark.slow
def test_when_the_data_set_is_on_the_hub_then_its_rows_stream_from_one_revision(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    code = """
import json, sys
from code_rlm.data.published import RowStream, select
table, options = select("code_regression", "author/Code-Regression", spaces=["KBSS"])
rows = list(RowStream(table, options, repeat=False, block=1))
print(json.dumps([[r.group for r in rows], sorted({p.file for p in table.pieces})]))
"""
    with LoopbackHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("author/Code-Regression", repo_type="dataset")
        sha = api.upload_folder(repo_id="author/Code-Regression", folder_path=programs, repo_type="dataset").oid
        env = {**hub.env(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        groups, files = tiny.run_python(code, cwd=tmp_path, env=env)
    assert groups == [
        row.group for row in RowStream(*select("code_regression", programs, spaces=["KBSS"]), repeat=False, block=1)
    ]
    assert files == [f"hf://datasets/author/Code-Regression@{sha}/data/train-0.parquet"]
