"""Splits by group, fixed by a hash, and a search for near copies across them.

A group goes to a split by the SHA-256 of the seed and the group's name alone. Adding rows or groups moves nothing,
and no group is in two splits. The shares hold over groups, not rows: few or uneven groups make the shares of rows
differ.

    from code_rlm.data.splits import near_duplicates, split_dataset

    parts = split_dataset(dataset, seed=0)
    print(near_duplicates({name: part["text"] for name, part in parts.items()}))
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict

from code_rlm.data.schema import DataError

SPLITS = ("train", "validation", "test")

_TOKEN = re.compile(r"\w+|[^\w\s]|[\r\n]\s*")
_PERMUTATIONS = 128
# Candidates are looked up in bands; a pair at the threshold must be found with at least this probability.
_RECALL_AT_THRESHOLD = 0.99


def split_of(group: str, *, seed: int = 0, validation: float = 0.1, test: float = 0.1) -> str:
    """Return the split of a group: "train", "validation" or "test".

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
    """Return the split of every row: an array of str, `(rows,)`. Each group is hashed once.

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
    """Split a Dataset by a column of groups. All three splits are there, an empty one with no rows.

    Raises:
        DataError: The column is missing, or a group in it is empty.
    """
    if column not in dataset.column_names:
        raise DataError(f"no column {column!r}; the data set has {', '.join(dataset.column_names)}")
    labels = split_labels(dataset[column], seed=seed, validation=validation, test=test)
    return DatasetDict({name: dataset.select(np.flatnonzero(labels == name)) for name in SPLITS})


@dataclass(frozen=True)
class NearDuplicate:
    """A row and the row most like it in an earlier split.

    Attributes:
        split: Split of the row; `row` is its number there.
        row: Number of the row.
        other_split: Split of the like row.
        other_row: Its number there.
        similarity: Jaccard similarity of the two shingle sets, from the threshold to 1.
    """

    split: str
    row: int
    other_split: str
    other_row: int
    similarity: float


@dataclass
class NearDuplicates:
    """Result of `near_duplicates`.

    Attributes:
        method: "minhash" or "exact".
        threshold: Least similarity that counts; 1 for "exact".
        recall_at_threshold: Least probability that a pair at the threshold was found; 1 for "exact".
        rows: Split to how many rows were looked at.
        matches: One for each row and each earlier split in which it has a near copy, the most alike.
    """

    method: str
    threshold: float
    recall_at_threshold: float
    rows: dict[str, int]
    matches: list[NearDuplicate]

    def counts(self) -> dict[tuple[str, str], int]:
        """Return (split, earlier split) to how many rows of the one have a near copy in the other."""
        return dict(Counter((match.split, match.other_split) for match in self.matches))

    def rows_in(self, split: str) -> list[int]:
        """Return the rows of a split that have a near copy in any earlier split, in order."""
        return sorted({match.row for match in self.matches if match.split == split})

    def __str__(self) -> str:
        counts = self.counts()
        lines = [
            f"{split}: {count} of {self.rows[split]} rows ({100 * count / self.rows[split]:.2f}%) have a near copy "
            f"in {other}"
            for (split, other), count in counts.items()
        ]
        head = (
            f"{self.method}, similarity of at least {self.threshold:g}, found with p >= {self.recall_at_threshold:.3f}"
        )
        return "\n".join([head, *(lines or ["no near copies across splits"])])


def near_duplicates(
    splits: Mapping[str, Sequence[str]],
    *,
    method: str = "minhash",
    threshold: float = 0.8,
    shingle: int = 5,
    seed: int = 0,
) -> NearDuplicates:
    """Find rows that are copies, or nearly, of a row in an earlier split.

    Texts are cut into tokens: a run of letters, digits and underscores, one other visible character, or a line break
    with the empty lines and the indentation after it. Spacing inside lines, indentation, empty lines and the kind of
    line end do not count; line breaks, case, comments and names do.

    * "exact" compares SHA-256 of the token sequence.
    * "minhash" compares the sets of runs of `shingle` tokens (a shorter text is one run). Candidates come from 128
      MinHash values in bands, chosen so that a pair at the threshold is found with a probability of at least 0.99; each
      candidate is then checked by the exact Jaccard similarity of its sets, so that nothing below the threshold is
      reported. A pair above the threshold is missed with a probability of at most 0.01.

    Args:
        splits: Name to texts, in the order in which to compare: train first, then what must not resemble it.
        method: "minhash" or "exact".
        threshold: Least Jaccard similarity, over 0 and up to 1. Unused by "exact".
        shingle: Tokens in a run, at least 1. Unused by "exact".
        seed: Of the MinHash permutations.

    Raises:
        DataError: Unknown method, or a threshold or shingle length out of range.
    """
    if method not in ("minhash", "exact"):
        raise DataError(f"unknown method {method!r}; give 'minhash' or 'exact'")
    if not 0 < threshold <= 1:
        raise DataError(f"threshold must be over 0 and at most 1, got {threshold}")
    if shingle < 1:
        raise DataError(f"shingle must be at least 1 token, got {shingle}")
    rows = {name: len(texts) for name, texts in splits.items()}
    if method == "exact":
        return NearDuplicates("exact", 1.0, 1.0, rows, _exact_matches(splits))

    band_rows, bands, recall = _banding(threshold)
    random = np.random.default_rng(seed)
    keys_of_permutations = random.integers(0, 1 << 64, size=(_PERMUTATIONS, 1), dtype=np.uint64)

    names = list(splits)
    shingles: dict[str, list[np.ndarray]] = {}
    tables: dict[str, list[dict[bytes, list[int]]]] = {}
    matches: list[NearDuplicate] = []
    for position, name in enumerate(names):
        shingles[name] = []
        own: list[dict[bytes, list[int]]] = [defaultdict(list) for _ in range(bands)]
        first_of: dict[bytes, int] = {}
        answers: dict[bytes, list[tuple[str, int, float]]] = {}
        for row, text in enumerate(splits[name]):
            hashes = _shingle_hashes(text, shingle)
            shingles[name].append(hashes)
            key = hashes.tobytes()
            # A copy inside the split has the answer of the first of its kind, and adds nothing to the tables.
            if key not in first_of:
                first_of[key] = row
                signature = _mix(hashes[None, :] ^ keys_of_permutations).min(axis=1)
                keys = [signature[band * band_rows : (band + 1) * band_rows].tobytes() for band in range(bands)]
                for table, band_key in zip(own, keys):
                    table[band_key].append(row)
                answers[key] = []
                for other in names[:position]:
                    candidates = {c for table, band_key in zip(tables[other], keys) for c in table.get(band_key, ())}
                    best = max(((_jaccard(hashes, shingles[other][c]), -c) for c in candidates), default=(0.0, 0))
                    if best[0] >= threshold:
                        answers[key].append((other, -best[1], best[0]))
            matches += [NearDuplicate(name, row, *answer) for answer in answers[key]]
        tables[name] = own
    return NearDuplicates("minhash", threshold, recall, rows, matches)


def _check_shares(validation: float, test: float) -> None:
    """Raise where the shares of validation and test are impossible."""
    if not (0 <= validation <= 1 and 0 <= test <= 1 and validation + test <= 1):
        raise DataError(
            f"validation={validation} and test={test} must each be from 0 to 1 and together at most 1; "
            "the rest is train"
        )


def _exact_matches(splits: Mapping[str, Sequence[str]]) -> list[NearDuplicate]:
    """Match rows by the hash of their tokens; the first such row of each earlier split is named."""
    first: dict[str, dict[bytes, int]] = {}
    matches = []
    for name, texts in splits.items():
        own: dict[bytes, int] = {}
        for row, text in enumerate(texts):
            key = hashlib.sha256("\x00".join(_tokens(text)).encode("utf-8", "surrogatepass")).digest()
            matches += [NearDuplicate(name, row, other, seen[key], 1.0) for other, seen in first.items() if key in seen]
            own.setdefault(key, row)
        first[name] = own
    return matches


def _banding(threshold: float) -> tuple[int, int, float]:
    """Return (values a band, bands, recall at the threshold), with as long bands as the recall allows."""
    for band_rows in range(32, 0, -1):
        bands = _PERMUTATIONS // band_rows
        recall = 1.0 - (1.0 - threshold**band_rows) ** bands
        if recall >= _RECALL_AT_THRESHOLD:
            return band_rows, bands, recall
    return 1, _PERMUTATIONS, 1.0 - (1.0 - threshold) ** _PERMUTATIONS


def _tokens(text: str) -> list[str]:
    """Cut a text into the tokens that `near_duplicates` compares."""
    return ["\n" if token[0] in "\r\n" else token for token in _TOKEN.findall(text.strip())]


def _shingle_hashes(text: str, size: int) -> np.ndarray:
    """Return the sorted distinct 64-bit hashes of a text's token runs, `(shingles,)`."""
    tokens = _tokens(text)
    runs = {"\x00".join(tokens[start : start + size]) for start in range(max(len(tokens) - size, 0) + 1)}
    data = (hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest() for run in runs)
    return np.unique(np.frombuffer(b"".join(data), dtype=np.uint64))


def _mix(values: np.ndarray) -> np.ndarray:
    """Scramble 64-bit integers one to one (the finaliser of MurmurHash3).

    MinHash needs orders of the shingles that have nothing to do with one another. A multiplication alone, without
    a full reduction, keeps too much of the order it is given.
    """
    shift = np.uint64(33)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> shift)) * np.uint64(factor)
    return values ^ (values >> shift)


def _jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Return the Jaccard similarity of two sorted sets without repeats."""
    both = len(np.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


__all__ = ["SPLITS", "NearDuplicate", "NearDuplicates", "near_duplicates", "split_dataset", "split_labels", "split_of"]
