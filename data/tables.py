"""Tables of one's own: one in the schema, recognised by its columns, or any other, by the columns that the options name.

from code_rlm.data.tables import read_table

measured = read_table("measured/data.parquet")  # as code-rlm measure writes it
mine = read_table("runs.csv", text_column="code", target_columns=["latency_ms"], language="python")
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from code_rlm.data.external import generic, read_cells
from code_rlm.data.schema import FEATURES, DataError, to_dataset, validate
from code_rlm.data.splits import split_labels

logger = logging.getLogger(__name__)

# Options of `generic` that name columns or stand for them; a table in the schema needs none.
_COLUMN_OPTIONS = ("group_column", "language_column", "language", "context_columns", "outcome_column", "source")


def read_table(
    path: str | os.PathLike,
    *,
    split: str | None = None,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    on_error: str = "raise",
    **columns: Any,
) -> Dataset:
    """Reads a table into the schema.

    Args:
        path: As `generic` takes it; a folder of parquet files too.
        split: "train", "validation" or "test" by group; None for every row.
        seed: Of the split.
        validation: Share of groups in validation.
        test: Share of groups in test.
        on_error: "raise", or "skip" to leave out rows with a bad cell.
        **columns: Further options of `generic`. Without `target_columns` the table must be in the schema.

    Raises:
        DataError: A missing file or column, or bad cells.
    """
    if columns.get("target_columns"):
        return generic(path, split=split, seed=seed, validation=validation, test=test, on_error=on_error, **columns)
    _, cells = next(read_cells(path, (), tuple(FEATURES)), ("", {}))
    if lacking := [name for name in FEATURES if name not in cells]:
        raise DataError(
            f"{path} needs target_columns, a list of columns named as the metrics are: it is not in the schema of "
            f"code_rlm.data, of which it lacks {', '.join(lacking)}."
        )
    if named := [name for name in _COLUMN_OPTIONS if columns.get(name)]:
        raise DataError(
            f"{path} is in the schema of code_rlm.data, which names its columns; leave out {', '.join(named)}."
        )
    rows = [_grouped(cells) for _, cells in read_cells(path, tuple(FEATURES))]
    if on_error == "skip":
        sound = [row for row in rows if validate([row], strict=False).ok]
        if len(sound) < len(rows):
            logger.warning("%s: %d rows with a bad cell skipped", path, len(rows) - len(sound))
        rows = sound
    dataset = to_dataset(rows)
    validate(dataset, source=os.fspath(path))
    if split is None:
        return dataset
    labels = split_labels(dataset["group"], seed=seed, validation=validation, test=test)
    return dataset.select(np.flatnonzero(labels == split))


def _grouped(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row in plain Python; without a group, equal texts make one."""
    row = {name: cell.tolist() if hasattr(cell, "tolist") else cell for name, cell in cells.items()}
    if not row["group"]:
        row["group"] = hashlib.sha256(str(row["text"]).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return row


__all__ = ["read_table"]
