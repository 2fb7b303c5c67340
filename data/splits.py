"""Splits by group, fixed by a hash.

A group goes to a split by the SHA-256 of the seed and the group's name alone. Adding rows or groups moves nothing,
and no group is in two splits. The shares hold over groups, not rows: few or uneven groups make the shares of rows
differ.

    from code_rlm.data.splits import split_dataset

    parts = split_dataset(dataset, seed=0)

Near copies across splits: `code_rlm_data.near_duplicates`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from datasets import Dataset, DatasetDict

from code_rlm.data.schema import DataError

SPLITS = ("train", "validation", "test")


def split_of(group: str, *, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> str:
    """Returns the split of a group: "train", "validation" or "test".

    Args:
        group: Name of the group; not empty.
        seed: Another seed gives another assignment.
        validation: Expected share of groups, from 0 to 1.
        test: Expected share of groups; together with `validation` at most 1.

    Raises:
        DataError: The group is empty or no string, or the shares are impossible.
    """
    _check_shares(validation, test)
    if not isinstance(group, str) or not group:
        raise DataError(f"group must be a string that is not empty, got {group!r}")
    digest = hashlib.sha256(f"{seed}\x00{group}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2.0**64
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def split_labels(groups: Iterable[str], *, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> np.ndarray:
    """Returns the split of every row: an array of str, `(rows,)`. Each group is hashed once.

    Raises:
        DataError: A group is empty or no string, naming its row; or the shares are impossible.
    """
    _check_shares(validation, test)
    known: dict[str, str] = {}
    labels = []
    for row, group in enumerate(groups):
        if group not in known:
            try:
                known[group] = split_of(group, seed=seed, validation=validation, test=test)
            except DataError as error:
                raise DataError(f"row {row}, column 'group': {error}") from None
        labels.append(known[group])
    return np.array(labels, dtype="<U10")


def split_dataset(
    dataset: Dataset, *, column: str = "group", seed: int = 0, validation: float = 0.1, test: float = 0.1
) -> DatasetDict:
    """Splits a Dataset by a column of groups. All three splits are there, an empty one with no rows.

    Raises:
        DataError: The column is missing, or a group in it is empty.
    """
    if column not in dataset.column_names:
        raise DataError(f"no column {column!r}; the data set has {', '.join(dataset.column_names)}")
    labels = split_labels(dataset[column], seed=seed, validation=validation, test=test)
    return DatasetDict({name: dataset.select(np.flatnonzero(labels == name)) for name in SPLITS})


def _check_shares(validation: float, test: float) -> None:
    """Raises where the shares of validation and test are impossible."""
    if not (0 <= validation <= 1 and 0 <= test <= 1 and validation + test <= 1):
        raise DataError(
            f"validation={validation} and test={test} must each be from 0 to 1 and together at most 1; "
            "the rest is train"
        )


__all__ = ["SPLITS", "split_dataset", "split_labels", "split_of"]
