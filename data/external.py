"""Readers of tables of your own.

    from code_rlm.data.external import generic

    mine = generic("runs.csv", text_column="code", target_columns={"seconds": "wall_time_s"}, language="python")

Rows come in the schema's columns, split by group as `code_rlm.data.splits` does; errors name file, row and column of a bad
cell. The data sets published with the paper are read by `code_rlm.data.published`.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, load_dataset

from code_rlm.data.schema import OUTCOMES, DataError, Example, to_dataset, validate
from code_rlm.data.splits import SPLITS, split_of

logger = logging.getLogger(__name__)

_MOST_PROBLEMS = 20
# No program is this long; a file with such a line is something else, and reading it whole would fill the memory.
MAX_TEXT_CHARS = 1 << 24
_MAX_LINE_CHARS = 1 << 26
# A .json file is one value and read whole.
_MAX_JSON_CHARS = 1 << 28


def generic(
    path: str | os.PathLike,
    *,
    text_column: str = "text",
    target_columns: Sequence[str] | Mapping[str, str],
    group_column: str | None = None,
    language_column: str | None = None,
    language: str | None = None,
    context_columns: Sequence[str] = (),
    outcome_column: str | None = None,
    source: str | None = None,
    on_error: str = "raise",
    magnitudes: tuple[float, float] | None = None,
    hub_split: str = "train",
    split: str | None = None,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
) -> Dataset:
    """Reads a table of any columns into the schema.

    Args:
        path: A .csv, .tsv, .jsonl, .json (a list of objects) or .parquet file, the text formats also with .gz after it;
            or the id of a data set of the hub, such as "user/name".
        text_column: Column of the text.
        target_columns: Columns of the numbers, named as the metrics are to be ("latency_ms"), or column to metric. An
            empty cell or null is a missing value; NaN and infinity are errors.
        group_column: Column of the group. Without one, equal texts make a group.
        language_column: Column of the language, put in lower case. Either this or `language`.
        language: Language of every row.
        context_columns: Columns that become "column: value" lines; an empty cell gives no line.
        outcome_column: Column with how the row's run ended, one of `OUTCOMES`; an empty cell is "ok".
        source: Name for the column of that name; by default the file's name.
        on_error: "raise", or "skip" to leave out rows with a bad cell; how many and the first of them is logged.
        magnitudes: The smallest and the largest magnitude that the numbers, unless zero, may have; None for any.
        hub_split: Which split of a hub data set to read.
        split: "train", "validation" or "test" by group; None for every row.
        seed: Of the split.
        validation: Share of groups in validation.
        test: Share of groups in test.

    Raises:
        DataError: A missing file or column, or bad cells: the message names file, row (from 0) and column of the first
            20 of them.
    """
    path = os.fspath(path)
    targets = dict(target_columns) if isinstance(target_columns, Mapping) else {name: name for name in target_columns}
    if isinstance(target_columns, str) or not targets:
        raise DataError(f"target_columns must be a list of columns or a dictionary, got {target_columns!r}")
    if len(targets) < len(target_columns) or len(set(targets.values())) < len(targets):
        raise DataError(f"target_columns must name each column and each metric once, got {target_columns!r}")
    _check_on_error(on_error)
    if isinstance(context_columns, str):
        raise DataError(f"context_columns must be a list of columns, got {context_columns!r}")
    if (language_column is None) == (language is None):
        raise DataError("give one of language_column='COLUMN' and language='python'")
    _check_split(split)
    optional = [name for name in (group_column, language_column, outcome_column) if name is not None]
    columns = list(dict.fromkeys([text_column, *targets, *optional, *context_columns]))
    name = source or Path(path).name

    examples: list[Example] = []
    problems: list[str] = []
    problem_count = bad_rows = 0
    for _, place, cells in _records(path, columns, hub_split):
        wrong_cells: list[str] = []
        text = cells[text_column]
        if wrong := _wrong_text(text):
            wrong_cells.append(f"column {text_column!r}: {wrong}")
            text = ""
        group = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        if group_column is not None:
            group = "" if cells[group_column] is None else str(cells[group_column])
            if not group:
                wrong_cells.append(f"column {group_column!r}: empty group")
        cell = language if language_column is None else cells[language_column]
        if not isinstance(cell, str) or not cell.strip():
            wrong_cells.append(f"column {language_column!r}: expected a language, got {_short(cell)}")
            cell = ""
        values = []
        for column in targets:
            try:
                values.append(_number(cells[column], magnitudes))
            except ValueError as error:
                wrong_cells.append(f"column {column!r}: {error}")
        outcome = "ok" if outcome_column is None else cells[outcome_column] or "ok"
        if outcome not in OUTCOMES:
            wrong_cells.append(
                f"column {outcome_column!r}: expected one of {', '.join(OUTCOMES)}, got {_short(outcome)}"
            )
        context = []
        for column in context_columns:
            if cells[column] is None or cells[column] == "":
                continue
            context.append(f"{column}: {cells[column]}")
            if "\n" in context[-1]:
                wrong_cells.append(f"column {column!r}: a line of context cannot hold a line break")
        problem_count += len(wrong_cells)
        bad_rows += bool(wrong_cells)
        problems += [f"  {place}, {message}" for message in wrong_cells][: _MOST_PROBLEMS - len(problems)]
        if wrong_cells or not _in_split(group, split, seed, validation, test):
            continue
        names = list(targets.values())
        examples.append(Example(text, cell.strip().lower(), names, values, None, context, group, name, outcome))
    if problem_count and on_error == "raise":
        more = f"\n  and {problem_count - len(problems)} more" if problem_count > len(problems) else ""
        hint = "\non_error: skip leaves such rows out"
        raise DataError(f"{path}: {problem_count} bad cells:\n" + "\n".join(problems) + more + hint)
    if problem_count:
        logger.warning("%s: %d rows with a bad cell skipped, the first: %s", path, bad_rows, problems[0].strip())
    dataset = to_dataset(examples)
    validate(dataset, source=path)
    return dataset


def read_cells(
    path: str | os.PathLike, columns: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (place in words, cells) of a table in any of the formats of `generic`.

    Args:
        path: File, or id of a data set of the hub.
        columns: Columns that must be there.
        optional: Columns that are given where they are there.

    Raises:
        DataError: No such table, or a column is missing.
    """
    for _, place, cells in _records(os.fspath(path), columns, "train", optional):
        yield place, cells


def _records(
    path: str, columns: Sequence[str], hub_split: str, optional: Sequence[str] = ()
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (row from 0, its place in words, the columns asked for) of a file, a folder of parquet or a hub id."""
    file = Path(path)
    kind = file.name.lower().removesuffix(".gz").rpartition(".")[2]
    if file.is_dir():
        files = sorted(file.rglob("*.parquet"))
        if not files:
            raise DataError(f"{path}: no .parquet file in the folder")
        rows: Iterator[tuple[str, dict[str, Any]]] = (
            (f"file {each.relative_to(file)}", cells)
            for each in files
            for cells in parquet_rows(each, columns, optional)
        )
    elif not file.exists() and path.count("/") == 1 and kind not in _FORMATS:
        rows = _hub(path, columns, hub_split)
    elif not file.is_file():
        raise DataError(
            f"no file {path}; give an existing file, or the id of a data set of the hub such as 'user/name'"
        )
    elif kind not in _FORMATS:
        raise DataError(f"{path}: unknown format; give {', '.join('.' + each for each in _FORMATS)}, or a hub id")
    elif kind == "parquet":
        rows = (("", cells) for cells in parquet_rows(file, columns, optional))
    else:
        rows = _TEXT_READERS[kind](file, columns)
    for row, (where, cells) in enumerate(rows):
        asked_for = {name: cells[name] for name in (*columns, *optional) if name in cells}
        yield row, f"row {row}{f' ({where})' if where else ''}", asked_for


def _open(file: Path, mode: str = "rt") -> Any:
    """Opens a file, unpacked where its name ends in .gz; text with line ends as they are."""
    opener = gzip.open if file.name.lower().endswith(".gz") else open
    if "b" in mode:
        return opener(file, mode)
    return opener(file, mode, encoding="utf-8-sig", newline="")


def _lines(file: Path, stream: Any) -> Iterator[str]:
    """Yields the lines of an open text file, none longer than the limit."""
    number = 1
    while line := stream.readline(_MAX_LINE_CHARS + 1):
        if len(line) > _MAX_LINE_CHARS:
            raise DataError(
                f"{file}: line {number} is longer than {_MAX_LINE_CHARS} characters; is it a table of texts?"
            )
        yield line
        number += 1


def _unreadable(file: Path, error: Exception) -> DataError:
    """Describes where in a file the bytes stop being UTF-8, or whatever else keeps it from being read."""
    if not isinstance(error, UnicodeDecodeError):
        return DataError(f"{file}: {error}")
    with _open(file, "rb") as stream:
        for number, line in enumerate(iter(lambda: stream.readline(_MAX_LINE_CHARS), b""), start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as found:
                shown = line[found.start]
                likely = "UTF-16" if number == 1 and line[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
                return DataError(
                    f"{file}: line {number}, byte {found.start + 1}: 0x{shown:02x} is not UTF-8; save the file as UTF-8, "
                    f"for example with `iconv -f {likely} -t UTF-8`"
                )
    return DataError(f"{file}: not UTF-8 ({error})")


def _need(file: Path | str, columns: Sequence[str], present: Sequence[str], where: str = "") -> None:
    """Raises where a column that is asked for is not there."""
    missing = [name for name in columns if name not in present]
    if missing:
        own = {"text", "language", "metrics", "values"} <= set(present)
        hint = "; it is in this package's own schema: leave out names of columns, and name metrics" if own else ""
        raise DataError(
            f"{file}: {where}no column {', '.join(missing)}; there is {', '.join(map(str, present)) or 'none'}{hint}"
        )


def _csv(file: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a table with a header; every cell is a string."""
    limit = csv.field_size_limit()
    last = 0
    try:
        # The module's default of 128 KiB is less than a long program.
        csv.field_size_limit(_MAX_LINE_CHARS)
        with _open(file) as stream:
            reader = csv.reader(_lines(file, stream), delimiter=delimiter, strict=True)
            header = next(reader, [])
            last = reader.line_num
            _need(file, columns, header)
            double = sorted({name for name in columns if header.count(name) > 1})
            if double:
                raise DataError(f"{file}: column {', '.join(double)} more than once in the header")
            for cells in reader:
                last = reader.line_num
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{file}: line {reader.line_num}: {len(cells)} cells, the header has {len(header)}")
                yield f"line {reader.line_num}", dict(zip(header, cells))
    except csv.Error as error:
        if "field" in str(error) or "unexpected end" in str(error):
            raise DataError(
                f"{file}: a cell of the row that begins in line {last + 1} goes on to line {reader.line_num} ({error}); is a "
                "quote not closed?"
            ) from None
        raise DataError(f"{file}: line {reader.line_num}: {error}") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise _unreadable(file, error) from None
    finally:
        csv.field_size_limit(limit)


def _tsv(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    return _csv(file, columns, delimiter="\t")


def _jsonl(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields one object a line; empty lines are none."""
    try:
        with _open(file) as stream:
            for number, line in enumerate(_lines(file, stream), start=1):
                if not line.strip():
                    continue
                try:
                    cells = json.loads(line, object_pairs_hook=_object)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{file}: line {number}: {error}") from None
                if not isinstance(cells, dict):
                    raise DataError(f"{file}: line {number}: expected an object, got {_short(cells)}")
                _need(file, columns, list(cells), f"line {number}: ")
                yield f"line {number}", cells
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise _unreadable(file, error) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds a JSON object; a key that stands in it twice has no one value."""
    cells = dict(pairs)
    if len(cells) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} more than once in an object")
    return cells


def _json(file: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a list."""
    try:
        with _open(file) as stream:
            text = stream.read(_MAX_JSON_CHARS + 1)
        rows = None if len(text) > _MAX_JSON_CHARS else json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError, gzip.BadGzipFile, EOFError) as error:
        raise _unreadable(file, error) from None
    if len(text) > _MAX_JSON_CHARS:
        raise DataError(
            f"{file}: more than {_MAX_JSON_CHARS} characters in one list, which is read whole; write one object a line as "
            ".jsonl, which is read line by line"
        )
    if not isinstance(rows, list):
        raise DataError(f"{file}: expected a list of objects, got {_short(rows)}; one object a line is .jsonl")
    for row, cells in enumerate(rows):
        if not isinstance(cells, dict):
            raise DataError(f"{file}: row {row}: expected an object, got {_short(cells)}")
        _need(file, columns, list(cells), f"row {row}: ")
        yield "", cells


def parquet_rows(file: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Yields the rows of a parquet file, a batch at a time."""
    try:
        with pq.ParquetFile(file) as opened:
            present = opened.schema_arrow.names
            _need(file, columns, present)
            if double := sorted({name for name in columns if present.count(name) > 1}):
                raise DataError(f"{file}: column {', '.join(double)} more than once in the file")
            wanted = [*columns, *(name for name in optional if name in present)]
            start = 0
            for batch in opened.iter_batches(batch_size=1024, columns=wanted):
                try:
                    rows = batch.to_pylist()
                except UnicodeDecodeError:
                    raise _not_utf8(file, batch, start) from None
                yield from rows
                start += len(rows)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: not a parquet file ({error})") from None


def _not_utf8(file: Path, batch: pa.RecordBatch, start: int) -> DataError:
    """Describes which cell of a batch, whose first row is row `start`, is called text and is none."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for row, cell in enumerate(column):
            try:
                cell.as_py()
            except UnicodeDecodeError as error:
                return DataError(f"{file}: row {start + row}, column {name!r}: byte {error.start + 1} is not UTF-8")
    return DataError(f"{file}: not UTF-8")


def _hub(path: str, columns: Sequence[str], hub_split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the rows of a data set of the hub, streamed."""
    try:
        rows = load_dataset(path, split=hub_split, streaming=True)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no such file, and the hub's data set of that id cannot be read: {error}") from error
    for row, cells in enumerate(rows):
        if row == 0:
            _need(path, columns, list(cells))
        yield "", cells


# Each yields (place in words, cells).
_TEXT_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[tuple[str, dict[str, Any]]]]] = {
    "csv": _csv,
    "tsv": _tsv,
    "jsonl": _jsonl,
    "json": _json,
}
_FORMATS = (*_TEXT_READERS, "parquet")


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error must be 'raise' or 'skip', got {on_error!r}")


def _check_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise DataError(f"no split {split!r}; give {', '.join(SPLITS)} or None for all")


def _in_split(group: str, split: str | None, seed: int, validation: float, test: float) -> bool:
    return split is None or split_of(group, seed=seed, validation=validation, test=test) == split


def _wrong_text(text: Any) -> str | None:
    """Describes what is wrong with a cell that should hold a text, None where nothing is."""
    if not isinstance(text, str) or not text.strip():
        return f"expected a text, got {_short(text)}"
    if len(text) > MAX_TEXT_CHARS:
        return f"{len(text)} characters are over the limit of {MAX_TEXT_CHARS}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"character {error.start} is half of a surrogate pair and no text"
    return None


def _number(cell: Any, magnitudes: tuple[float, float] | None = None) -> float | None:
    """Returns a cell as a finite float, None where it is empty.

    Raises:
        ValueError: Anything else, or a magnitude outside `magnitudes`.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return None
    try:
        # float() takes "1_000", which in a table is more likely a slip.
        if isinstance(cell, bool) or not isinstance(cell, (int, float, str)) or "_" in str(cell):
            raise ValueError
        number = float(cell)
    except (ValueError, OverflowError):
        raise ValueError(f"expected a number, got {_short(cell)}") from None
    if not math.isfinite(number):
        raise ValueError(f"{cell} is not a number to learn; leave the cell empty where the value is missing")
    if magnitudes is not None and number and not magnitudes[0] <= abs(number) <= magnitudes[1]:
        raise ValueError(
            f"{cell} is outside the number format, which writes magnitudes of {magnitudes[0]:g} to {magnitudes[1]:g}; "
            "change the unit, or the exponents of the tokenizer's number_format"
        )
    return number


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


__all__ = [
    "generic",
    "parquet_rows",
    "read_cells",
]
