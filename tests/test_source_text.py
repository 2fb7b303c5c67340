"""Source text of a machine as a table to pretrain on: what is counted, how files are cut, what is left out."""

from __future__ import annotations

import pandas as pd
import pytest

from code_rlm.training.options import make_options
from code_rlm.training.sources import load_sources
from code_rlm_data.source_text import METRICS, main, measure, pieces, source_files

PYTHON = '''import os


def f(x, n):
    """Doc with [brackets]."""
    out = []
    for i in range(n):  # [1, 2]
        if x[i] > 3:
            out.append({"a": 1, "b": [2, 3]})
    return list(out)
'''
GO = "func f(n int) []int {\n\tv := make([]int, n)\n\tfor i := 0; i < n; i++ {\n\t\tv[i] = g(i)\n\t}\n\treturn v\n}"
C = "int *f(int n) {\n  int *v = malloc(n * 4);\n  while (n--) { if (n) v[n] = n; }\n  return v;\n}"


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("python", PYTHON, {"lines_count": 11, "loops_count": 1, "branches_count": 1, "calls_count": 4, "numbers_count": 4,
                            "arrays_count": 3, "tables_count": 1, "strings_count": 2, "nesting_levels_count": 3,
                            "names_count": 9}),
        ("go", GO, {"loops_count": 1, "branches_count": 0, "calls_count": 3, "numbers_count": 1, "nesting_levels_count": 3}),
        ("c", C, {"loops_count": 1, "branches_count": 1, "arrays_count": 1, "tables_count": 0, "numbers_count": 1}),
    ],
)  # fmt: skip
def test_when_code_is_measured_then_each_count_is_what_stands_there(language, text, expected):
    counts = measure(text, language)
    assert tuple(counts) == METRICS
    assert {name: counts[name] for name in expected} == expected


def test_when_no_lexer_reads_a_language_then_there_is_no_measure():
    assert measure("x", "no such language") is None


def test_when_a_file_is_cut_then_nothing_is_lost_and_blocks_stay_whole():
    blocks = [f"def f{i}(x):\n    y = x + {i}\n\n    return y" for i in range(30)]
    found = list(pieces("\n\n\n".join(blocks) + "\n", 200))
    assert len(found) > 5 and all(len(piece) <= 200 for piece in found)
    assert all(piece.startswith("def ") and piece.endswith("return y") for piece in found)
    assert "".join("".join(found).split()) == "".join("".join(blocks).split())
    # A block longer than a piece is cut where a line ends.
    long = "\n".join(["def g():", *(f"    a{i} = {i}" for i in range(60))])
    found = list(pieces(long, 200))
    assert "\n".join(found) == long and all(len(piece) <= 200 for piece in found)


def test_when_a_long_line_follows_a_short_block_then_no_piece_is_too_long():
    text = "\n".join(["x = 1", "", "def f():", "    " + "a" * 186, "    " + "b" * 180, "    return 1"])
    found = list(pieces(text, 210))
    assert max(map(len, found)) <= 210 and "".join("".join(found).split()) == "".join(text.split())


def test_when_a_root_lies_inside_another_then_its_files_are_read_once(tmp_path):
    inner = tmp_path / "lib" / "site-packages"
    for folder in (tmp_path / "lib" / "json", inner / "numpy", inner / "torch"):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("x = 1\n")
    files = source_files([tmp_path / "lib", inner, inner])["python"]
    assert sorted(group for _, _, group in files) == ["lib/json", "site-packages/numpy", "site-packages/torch"]


def test_when_a_machine_is_read_then_the_table_can_be_trained_on(tmp_path, capsys, tokenizer):
    for package in ("one", "two", "three", "four", "five", "six"):
        (tmp_path / "lib" / package).mkdir(parents=True)
        for name in ("a", "b"):
            text = PYTHON.replace("out", f"{package}_{name}") * 2
            (tmp_path / "lib" / package / f"{name}.py").write_text(text)
    (tmp_path / "lib" / "one" / "double.py").write_text(PYTHON.replace("out", "two_a") * 2)
    (tmp_path / "lib" / "one" / "minified.js").write_text("x();" * 500)
    (tmp_path / "lib" / "one" / "latin.c").write_bytes(C.encode() + "\n// \xe4\n".encode("latin-1") * 9)
    (tmp_path / "lib" / "one" / "code.go").write_text(f"package p\n\n{GO}\n")
    out = tmp_path / "out" / "source.parquet"
    assert main(["--out", str(out), "--roots", str(tmp_path / "lib"), "--pieces", "50"]) == 0
    assert (
        "13 pieces, 1 doubles and 2 files (no text, or very long lines) left out; go 1, python 12"
        in capsys.readouterr().out
    )
    table = pd.read_parquet(out)
    assert table.text.is_unique and set(table.group) == {
        f"lib/{n}" for n in ("one", "two", "three", "four", "five", "six")
    }
    assert all(measure(row.text, row.language) == {m: row[m] for m in METRICS} for _, row in table.iterrows())
    entry = {"file": str(out), "target_columns": ["names_count", "lines_count"], "group_column": "group",
             "language_column": "language", "validation": 0.2, "test": 0, "on_error": "skip",
             "mask_tokens": 0.15, "mask_span": 3}  # fmt: skip
    (loaded,), _ = load_sources(make_options(data=[entry], masked_token_loss=1.0), tokenizer)
    assert len(loaded.train) + len(loaded.validation) == 13 and loaded.train.mask_span == 3.0


def test_when_there_is_nothing_to_read_then_one_line_says_so(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "x.parquet"), "--roots", str(tmp_path / "none")]) == 2
    assert "is no folder; give folders of source text with --roots" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "x.parquet"), "--roots", str(tmp_path)]) == 2
    assert "there is no source text in" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()
