"""The cache of architectures' texts: right, shared, and never in the way."""

import sqlite3

import pytest

from code_rlm.data import graph_texts, nas_graphs
from code_rlm.data.graph_texts import graph_text
from code_rlm.onnx_text_rlm import onnx_to_text

REAL_CACHE_FILE = graph_texts.cache_file  # as imported, before the tests' own takes its place
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A cache of its own, not yet there."""
    monkeypatch.setattr(graph_texts, "cache_file", lambda: tmp_path / "new" / "texts.sqlite3")
    graph_texts._opened.cache_clear()
    yield tmp_path / "new" / "texts.sqlite3"
    graph_texts._opened.cache_clear()


def refuse(*_):
    raise AssertionError("built again")


def test_when_a_text_was_built_then_another_process_finds_it(file, monkeypatch):
    expected = onnx_to_text(nas_graphs.build_graph("nasbench201", CELL))
    assert graph_text("nasbench201", CELL) == expected
    graph_texts._opened.cache_clear()
    monkeypatch.setattr(nas_graphs, "build_graph", refuse)
    assert graph_text("nasbench201", CELL) == expected
    with pytest.raises(AssertionError, match="built again"):
        graph_text("nasbench201", CELL.replace("avg_pool_3x3", "none"))


def test_when_an_architecture_cannot_be_built_then_nothing_is_kept(file):
    with pytest.raises(ValueError):
        graph_text("nasbench201", "nonsense")
    assert sqlite3.connect(file).execute("SELECT count(*) FROM texts").fetchone() == (0,)


def test_when_the_cache_is_broken_or_cannot_be_then_texts_are_built_and_it_is_logged(
    file, tmp_path, monkeypatch, caplog
):
    file.parent.mkdir()
    file.write_bytes(b"no database at all" * 100)
    assert graph_text("nasbench201", CELL).count("conv3x3") and "cannot be used" in caplog.text
    caplog.clear()
    (tmp_path / "plain").write_text("a file")
    monkeypatch.setattr(graph_texts, "cache_file", lambda: tmp_path / "plain" / "texts.sqlite3")
    graph_texts._opened.cache_clear()
    assert graph_text("nasbench201", CELL) and "cannot be used" in caplog.text


def test_when_the_cache_fails_on_the_way_then_texts_are_built_and_it_is_logged_once(file, caplog):
    expected = graph_text("nasbench201", CELL)
    graph_texts._opened().execute("DROP TABLE texts")
    graph_texts._warn_once.cache_clear()
    assert [graph_text("nasbench201", CELL) for _ in range(3)] == [expected] * 3
    assert caplog.text.count("delete it if it is broken") == 1


def test_when_the_code_that_writes_texts_changes_then_so_does_the_file(monkeypatch, tmp_path):
    monkeypatch.undo()
    for name in graph_texts._WRITERS:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("one")
    monkeypatch.setattr(graph_texts, "__file__", str(tmp_path / "data" / "graph_texts.py"))
    before = REAL_CACHE_FILE()
    assert REAL_CACHE_FILE() == before
    target.write_text("two")
    assert REAL_CACHE_FILE() != before and before.parent == REAL_CACHE_FILE().parent
