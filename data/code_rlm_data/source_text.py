"""Source text that a machine has anyway, with measures that are read off it: to pretrain on before there are measurements.

    python -m code_rlm_data.source_text --out source.parquet                           # Python and what came with it
    python -m code_rlm_data.source_text --out source.parquet --roots /usr/lib/go/src /usr/share/perl --pieces 3000

Files are split into pieces of whole top-level blocks; each piece is measured by itself, with the lexers of Pygments, so that
everything that a measure counts stands in the text. The table is one for the training option `file`; with `mask_tokens`,
`mask_span` and `masked_token_loss` the encoder learns to restore hidden spans of the same text as well.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from code_rlm.data.schema import DataError
from code_rlm.errors_rlm import RLMError
from code_rlm.processing_rlm import LANGUAGES

METRICS = (
    "lines_count", "names_count", "numbers_count", "nesting_levels_count", "loops_count", "branches_count", "calls_count",
    "arrays_count", "tables_count", "strings_count",
)  # fmt: skip
LOOPS = {"for", "foreach", "foreach_reverse", "while", "until", "repeat", "loop"}
BRANCHES = {"if", "elif", "elsif", "elseif", "unless", "switch", "case", "match", "when", "cond", "select", "given"}
# What makes a container, by the name that is called or stands for the type, in lower case and without underscores.
ARRAYS = {
    "array", "arraylist", "list", "vec", "vector", "slice", "malloc", "calloc", "realloc", "zeros", "ones", "empty", "full",
    "ndarray", "tensor", "buffer", "bytearray", "tuple", "deque", "makearray", "makevector",
}  # fmt: skip
TABLES = {
    "dict", "map", "hashmap", "treemap", "hash", "hashtable", "unorderedmap", "set", "hashset", "frozenset", "defaultdict",
    "ordereddict", "counter", "object", "makehashtable",
}  # fmt: skip
LEXER_OF = {"python": "python3", "fortran": "fortran", "bash": "bash"}  # where Pygments has another name
_OPENS = "([{"
_CLOSES = ")]}"
_LONGEST_LINE = 400  # a file with a longer one is generated or minified
_LEAST_LINES = 6
_LARGEST_FILE = 200_000


@lru_cache
def _lexer(language: str) -> Any:
    """Returns the lexer of a language, None where Pygments has none."""
    try:
        from pygments.lexers import get_lexer_by_name
        from pygments.util import ClassNotFound
    except ImportError:
        raise DataError("measuring source text needs Pygments: pip install 'code-rlm-data[source]'") from None
    try:
        return get_lexer_by_name(LEXER_OF.get(language, language), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def measure(text: str, language: str) -> dict[str, int] | None:
    """Returns counts of a piece of code by METRICS; None where no lexer reads the language.

    A loop or branch is a keyword of LOOPS or BRANCHES; a call, a name with a bracket right behind it; an array or a table, a
    name of ARRAYS or TABLES, or a bracket that opens a literal; nesting, the most brackets open or levels of indentation.
    """
    lexer = _lexer(language)
    if lexer is None:
        return None
    counter = _TokenCounter(language)
    for token, word in lexer.get_tokens(text):
        counter.read(token, word)
    counts = counter.counts
    counts["lines_count"] = text.count("\n") + 1
    counts["names_count"] = len(counter.names)
    counts["nesting_levels_count"] = max(counter.deepest, _indentation(text))
    return counts


class _TokenCounter:
    """Counts what the tokens of a piece of code are, in their order.

    Attributes:
        counts: By METRICS.
        names: Different names.
        deepest: Most brackets open at once.
    """

    def __init__(self, language: str) -> None:
        self.counts = dict.fromkeys(METRICS, 0)
        self.names: set[str] = set()
        self.deepest = 0
        self._braces_are_tables = language in ("python", "javascript", "typescript")
        self._depth = 0
        self._before = ""  # the name right before, if nothing stands between
        self._after_value = False  # whether a value could end here
        self._in_string = False

    def read(self, token: Any, word: str) -> None:
        """Counts one token, given its type of Pygments and its text."""
        from pygments.token import Comment, Keyword, Literal, Name, Operator, Punctuation

        is_documentation = token in Literal.String.Doc
        if token in Literal.String and not is_documentation:
            self.counts["strings_count"] += not self._in_string  # a string may be several tokens
            self._in_string = True
            self._follow("", after_value=True)
            return
        self._in_string = False
        if token in Comment or is_documentation:
            return
        if not word.strip():
            self._before = ""
        elif token in Literal.Number:
            self.counts["numbers_count"] += 1
            self._follow("", after_value=True)
        elif token in Name or token in Keyword:
            self._read_word(word, is_name=token in Name)
        elif token in Punctuation or token in Operator:
            for mark in word:
                self._read_mark(mark)
        else:
            self._follow("", after_value=False)

    def _follow(self, before: str, *, after_value: bool) -> None:
        self._before = before
        self._after_value = after_value

    def _read_word(self, word: str, *, is_name: bool) -> None:
        plain = word.lower().replace("_", "")
        self.counts["arrays_count"] += plain in ARRAYS
        self.counts["tables_count"] += plain in TABLES
        if is_name:
            self.names.add(word)
        else:
            self.counts["loops_count"] += plain in LOOPS
            self.counts["branches_count"] += plain in BRANCHES
        self._follow(word if is_name else "", after_value=is_name)

    def _read_mark(self, mark: str) -> None:
        if mark in _OPENS:
            self._depth += 1
            self.deepest = max(self.deepest, self._depth)
            self.counts["calls_count"] += mark == "(" and bool(self._before)
            if not self._after_value:
                self.counts["arrays_count"] += mark == "["
                self.counts["tables_count"] += mark == "{" and self._braces_are_tables
        elif mark in _CLOSES:
            self._depth = max(0, self._depth - 1)
        self._follow("", after_value=mark in _CLOSES)


def _indentation(text: str) -> int:
    """Returns the most levels of indentation open at once."""
    open_at = [0]
    most = 0
    for line in text.splitlines():
        if bare := line.lstrip():
            column = len(line.expandtabs(8)) - len(bare.expandtabs(8))
            while len(open_at) > 1 and column < open_at[-1]:
                open_at.pop()
            if column > open_at[-1]:
                open_at.append(column)
            most = max(most, len(open_at) - 1)
    return most


def pieces(text: str, longest: int) -> Iterator[str]:
    """Splits a file into runs of top-level blocks of at most `longest` characters; a longer block, where a line ends.

    Only a line that is longer itself makes a longer piece.
    """
    lines = text.expandtabs(4).splitlines() if text.startswith("\t") else text.splitlines()
    piece: list[str] = []
    size = safe = 0  # safe: how many lines of the piece end where a block does
    for line in lines:
        begins = bool(piece) and not piece[-1].strip() and line[:1].strip() != "" and line[0] not in _CLOSES
        safe = len(piece) if begins else safe
        while piece and size + len(line) + 1 > longest:
            end = safe or len(piece)
            yield "\n".join(piece[:end]).strip("\n")
            piece = piece[end:]
            size = sum(len(each) + 1 for each in piece)
            safe = 0
        piece.append(line)
        size += len(line) + 1
    yield "\n".join(piece).strip("\n")


def rows_of(file: tuple[str, str, str], *, longest: int) -> list[dict[str, Any]] | None:
    """Returns the rows of a (path, language, group); None where it cannot be read as text or has lines that nobody wrote."""
    path, language, group = file
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if max(map(len, text.splitlines()), default=0) > _LONGEST_LINE:
        return None
    rows = []
    for piece in pieces(text, longest):
        if piece.count("\n") + 1 >= _LEAST_LINES and (counts := measure(piece, language)):
            rows.append({"text": piece, "language": language, "group": group, **counts})
    return rows


def source_files(roots: Iterable[Path]) -> dict[str, list[tuple[str, str, str]]]:
    """Returns the files below the roots by language, each as (path, language, group).

    A group is a folder or file right below a root.
    """
    of_language: dict[str, list[tuple[str, str, str]]] = {}
    roots = list(dict.fromkeys(roots))
    places = {root.resolve() for root in roots}
    for root in roots:
        if not root.is_dir():
            raise DataError(f"{root} is no folder; give folders of source text with --roots")
        for folder, folders, files in os.walk(root):
            # A root inside another, as installed packages are, is read once, with groups of its own.
            inside = [each for each in folders if each not in ("__pycache__", "node_modules", ".git")]
            folders[:] = sorted(each for each in inside if Path(folder, each).resolve() not in places)
            for name in sorted(files):
                path = Path(folder, name)
                language = LANGUAGES.get(path.suffix.lower())
                if language in (None, "onnx", "x86asm") or path.is_symlink() or path.stat().st_size > _LARGEST_FILE:
                    continue
                group = f"{root.name}/{path.relative_to(root).parts[0]}"
                of_language.setdefault(language, []).append((str(path), language, group))
    return of_language


def write(out: str, roots: Sequence[Path], *, each: int, longest: int, seed: int = 0) -> str:
    """Writes the table; returns what it holds, in words. All cores measure.

    Args:
        out: Parquet file, with the columns text, language, group and METRICS.
        roots: Folders to take files from.
        each: The most pieces of a language.
        longest: The most characters of a piece.
        seed: Of the order in which files are taken.

    Raises:
        DataError: A root that is no folder, or no source text in any.
    """
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    doubles = unread = 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for language, files in sorted(source_files(roots).items()):
            rng.shuffle(files)
            # A few pieces a file at the most, so that a language is not a few large files.
            before = len(rows)
            taken = files[: 2 * each]
            for drawn in tqdm(pool.map(partial(rows_of, longest=longest), taken, chunksize=16), language, len(taken)):
                if drawn is None:
                    unread += 1
                    continue
                for row in rng.sample(drawn, min(3, len(drawn))):
                    digest = hashlib.sha256(row["text"].encode()).digest()[:16]
                    if digest in seen:
                        doubles += 1
                    elif len(rows) - before < each:
                        seen.add(digest)
                        rows.append(row)
                if len(rows) - before >= each:
                    break
    if not rows:
        raise DataError(f"there is no source text in {', '.join(map(str, roots))}")
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    counts = Counter(row["language"] for row in rows)
    words = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{path}: {len(rows)} pieces, {doubles} doubles and {unread} files (no text, or very long lines) left out; {words}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; 2 and one line on what cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, metavar="FILE", help="parquet table to write")
    python = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "include")]
    parser.add_argument(
        "--roots", type=Path, nargs="+", default=[Path(p) for p in python if os.path.isdir(p)], metavar="FOLDER",
        help="folders to take files from [this Python's library, packages and headers]",
    )  # fmt: skip
    parser.add_argument("--pieces", type=int, default=4000, help="the most pieces of a language [4000]")
    parser.add_argument("--longest", type=int, default=1600, help="the most characters of a piece [1600]")
    parser.add_argument("--seed", type=int, default=0, help="of the order in which files are taken [0]")
    args = parser.parse_args(argv)
    try:
        print(write(args.out, args.roots, each=args.pieces, longest=args.longest, seed=args.seed))
    except RLMError as error:
        print(f"source_text: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())


__all__ = ["METRICS", "measure", "pieces", "rows_of", "source_files", "write"]
