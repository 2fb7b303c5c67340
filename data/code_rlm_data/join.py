"""Joins measurements that are kept by hash of their text with a table of the texts.

    python -m code_rlm_data.join benchmarks/results/public_programs.csv TEXTS.parquet --out public_programs.parquet

Measurements of other people's programs are published without the texts. `TEXTS` has a column `text`; the measurements a column
`text_sha256_16`, the first 16 hexadecimal digits of the SHA-256 of a text. The result has the columns of the measurements and
`text`, and is read by `data: [{file: ..., text_column: text, ...}]`.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from code_rlm.data.schema import DataError
from code_rlm.errors_rlm import RLMError

HASH_COLUMN = "text_sha256_16"


def text_hash(text: str) -> str:
    """Returns the first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def join(measurements: pd.DataFrame, texts: Sequence[str]) -> pd.DataFrame:
    """Returns the measurements whose text is there, with the texts in a column `text`.

    Args:
        measurements: Has `HASH_COLUMN`.
        texts: Candidates, in any order.

    Raises:
        DataError: No such column, or no measurement of any of the texts.
    """
    if HASH_COLUMN not in measurements:
        raise DataError(f"the measurements have no column {HASH_COLUMN}; they have {', '.join(measurements)}")
    by_hash = pd.DataFrame({"text": list(dict.fromkeys(texts))})
    by_hash[HASH_COLUMN] = by_hash["text"].map(text_hash)
    joined = measurements.merge(by_hash, on=HASH_COLUMN, how="inner")
    if joined.empty:
        raise DataError(f"none of {len(by_hash)} texts was measured; are they the texts that the measurements name?")
    return joined


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 and one line on tables that cannot be joined."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", type=Path, help="CSV with hashes and numbers")
    parser.add_argument("texts", type=Path, help="parquet table with a column text")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="parquet table to write")
    args = parser.parse_args(argv)
    try:
        for path in (args.measurements, args.texts):
            if not path.is_file():
                raise DataError(f"no file {path}")
        measured = pd.read_csv(args.measurements, dtype={HASH_COLUMN: str})
        joined = join(measured, pd.read_parquet(args.texts, columns=["text"])["text"].tolist())
        joined.to_parquet(args.out)
    except (RLMError, ValueError, OSError) as error:
        print(f"join: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {len(joined)} of {len(measured)} measurements have their text")
    return 0


if __name__ == "__main__":
    sys.exit(main())
