"""Measurements by hash of text meet their texts again."""

import pandas as pd
import pytest

from code_rlm.data.schema import DataError
from code_rlm_data.join import join, main, text_hash

TEXTS = ["print(1)\n", "print('é')\n", "x = 2\n"]


def test_when_texts_are_joined_then_each_measurement_has_its_own(tmp_path, capsys):
    measured = pd.DataFrame(
        {
            "text_sha256_16": [text_hash(TEXTS[1]), text_hash("gone"), text_hash(TEXTS[0])],
            "cpu_time_ms": [2.0, 3.0, 1.0],
        }
    )
    measured.to_csv(tmp_path / "m.csv", index=False)
    pd.DataFrame({"text": [*TEXTS, TEXTS[0]]}).to_parquet(tmp_path / "t.parquet")
    assert main([str(tmp_path / "m.csv"), str(tmp_path / "t.parquet"), "--out", str(tmp_path / "o.parquet")]) == 0
    assert "2 of 3 measurements" in capsys.readouterr().out
    joined = pd.read_parquet(tmp_path / "o.parquet")
    assert dict(zip(joined["text"], joined["cpu_time_ms"], strict=True)) == {TEXTS[1]: 2.0, TEXTS[0]: 1.0}


def test_when_nothing_fits_then_the_error_says_so(tmp_path, capsys):
    with pytest.raises(DataError, match="none of 3 texts"):
        join(pd.DataFrame({"text_sha256_16": ["0" * 16]}), TEXTS)
    with pytest.raises(DataError, match="no column text_sha256_16; they have a"):
        join(pd.DataFrame({"a": [1]}), TEXTS)
    assert main([str(tmp_path / "no.csv"), str(tmp_path / "t"), "--out", str(tmp_path / "o")]) == 2
    assert "no file" in capsys.readouterr().err
