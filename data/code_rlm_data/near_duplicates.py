"""Near copies of texts across splits: rows that an earlier split holds already, or nearly.

from code_rlm.data.splits import split_dataset
from code_rlm_data.near_duplicates import near_duplicates

parts = split_dataset(dataset, seed=0)
print(near_duplicates({name: part["text"] for name, part in parts.items()}))
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datasketch import MinHash, MinHashLSH

from code_rlm.data.schema import DataError

_TOKEN = re.compile(r"\w+|[^\w\s]|[\r\n]\s*")
_PERMUTATIONS = 128
_LONGEST_BAND = 32
# A pair at the threshold becomes a candidate with at least this probability.
_RECALL_AT_THRESHOLD = 0.99


@dataclass(frozen=True)
class NearDuplicate:
    """A row and the row most similar to it in an earlier split.

    Attributes:
        split: Split of the row; `row` is its number there.
        row: Number of the row.
        other_split: Split of the similar row.
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
        recall_at_threshold: Least probability that a pair at the threshold is reported; 1 for "exact".
        rows: Split to how many rows were looked at.
        matches: One for each row and each earlier split in which it has a near copy, the most similar.
    """

    method: str
    threshold: float
    recall_at_threshold: float
    rows: dict[str, int]
    matches: list[NearDuplicate]

    def counts(self) -> dict[tuple[str, str], int]:
        """Returns (split, earlier split) to how many rows of the one have a near copy in the other."""
        return dict(Counter((match.split, match.other_split) for match in self.matches))

    def rows_in(self, split: str) -> list[int]:
        """Returns the rows of a split that have a near copy in any earlier split, in order."""
        return sorted({match.row for match in self.matches if match.split == split})

    def __str__(self) -> str:
        counts = self.counts()
        lines = [
            f"{split}: {count} of {self.rows[split]} rows ({100 * count / self.rows[split]:.2f}%) have a near copy "
            f"in {other}"
            for (split, other), count in counts.items()
        ]
        head = f"{self.method}, similarity of at least {self.threshold:g}, reported with p >= {self.recall_at_threshold:.3f}"
        return "\n".join([head, *(lines or ["no near copies across splits"])])


def near_duplicates(
    splits: Mapping[str, Sequence[str]],
    *,
    method: str = "minhash",
    threshold: float = 0.8,
    shingle: int = 5,
    seed: int = 0,
) -> NearDuplicates:
    """Finds rows that are copies, or nearly, of a row in an earlier split.

    Texts are split into tokens: a run of letters, digits and underscores, one other visible character, or a line break
    with the empty lines and the indentation after it. Spacing inside lines, indentation, empty lines and line
    ends do not count; line breaks, case, comments and names do.

    * "exact" compares SHA-256 of the token sequence.
    * "minhash" compares the sets of runs of `shingle` tokens (a shorter text is one run). Candidates come from 128
      MinHash values in bands, chosen so that a pair at the threshold is one with a probability of at least 0.99; each
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
    bands, band_rows, recall = _banding(threshold)
    earlier: list[_Index] = []
    matches: list[NearDuplicate] = []
    for name, texts in splits.items():
        own = _Index(name, bands, band_rows)
        answers: dict[frozenset[bytes], list[tuple[str, int, float]]] = {}
        for row, text in enumerate(texts):
            shingles = _shingles(text, shingle)
            if shingles not in answers:  # a copy inside the split has the same answer, and adds nothing to the index
                signature = MinHash(num_perm=_PERMUTATIONS, seed=seed)
                signature.update_batch(shingles)
                own.add(row, shingles, signature)
                nearest = (index.nearest(shingles, signature, threshold) for index in earlier)
                answers[shingles] = [answer for answer in nearest if answer is not None]
            matches += [NearDuplicate(name, row, *answer) for answer in answers[shingles]]
        earlier.append(own)
    return NearDuplicates("minhash", threshold, recall, rows, matches)


@dataclass
class _Index:
    """Different texts of one split, to be searched by their MinHash signatures."""

    split: str
    bands: int
    band_rows: int
    shingles: dict[int, frozenset[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = MinHashLSH(num_perm=_PERMUTATIONS, params=(self.bands, self.band_rows))

    def add(self, row: int, shingles: frozenset[bytes], signature: MinHash) -> None:
        """Adds a row."""
        self.shingles[row] = shingles
        self.table.insert(row, signature)

    def nearest(
        self, shingles: frozenset[bytes], signature: MinHash, threshold: float
    ) -> tuple[str, int, float] | None:
        """Returns (split, row, similarity) of the most similar row, the first of equals; None below the threshold."""
        best: tuple[float, int] | None = None
        for row in self.table.query(signature):
            similarity = _jaccard(shingles, self.shingles[row])
            if similarity >= threshold and (best is None or (similarity, -row) > (best[0], -best[1])):
                best = (similarity, row)
        return None if best is None else (self.split, best[1], best[0])


def _exact_matches(splits: Mapping[str, Sequence[str]]) -> list[NearDuplicate]:
    """Matches rows by the hash of their tokens; the first such row of each earlier split is named."""
    first: dict[str, dict[bytes, int]] = {}
    matches = []
    for name, texts in splits.items():
        own: dict[bytes, int] = {}
        for row, text in enumerate(texts):
            key = hashlib.sha256("\x00".join(_tokens(text)).encode("utf-8", "surrogatepass")).digest()
            for other, seen in first.items():
                if key in seen:
                    matches.append(NearDuplicate(name, row, other, seen[key], 1.0))
            own.setdefault(key, row)
        first[name] = own
    return matches


def _banding(threshold: float) -> tuple[int, int, float]:
    """Returns (bands, values a band, recall at the threshold), with as long bands as the recall allows."""
    for band_rows in range(_LONGEST_BAND, 1, -1):
        bands = _PERMUTATIONS // band_rows
        recall = 1.0 - (1.0 - threshold**band_rows) ** bands
        if recall >= _RECALL_AT_THRESHOLD:
            return bands, band_rows, recall
    return _PERMUTATIONS, 1, 1.0 - (1.0 - threshold) ** _PERMUTATIONS


def _tokens(text: str) -> list[str]:
    """Returns the tokens of a text that `near_duplicates` compares."""
    return ["\n" if token[0] in "\r\n" else token for token in _TOKEN.findall(text.strip())]


def _shingles(text: str, size: int) -> frozenset[bytes]:
    """Returns the different 64-bit hashes of a text's runs of `size` tokens."""
    tokens = _tokens(text)
    starts = range(max(len(tokens) - size, 0) + 1)
    runs = {"\x00".join(tokens[start : start + size]) for start in starts}
    return frozenset(hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest() for run in runs)


def _jaccard(left: frozenset[bytes], right: frozenset[bytes]) -> float:
    """Returns the Jaccard similarity of two sets."""
    both = len(left & right)
    return both / (len(left) + len(right) - both)


__all__ = ["NearDuplicate", "NearDuplicates", "near_duplicates"]
