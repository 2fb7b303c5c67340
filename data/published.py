"""The two data sets published with "Regression Language Models for Code", read as streams: chosen spaces and languages alone.

    from code_rlm.data.published import code_regression, graph_arch_regression

    kernels = code_regression(spaces=["KBSS"], split="train")       # streams from the hub
    cells = graph_arch_regression("folder", spaces=["NB201"])       # or from a folder of parquet files

As sources of a run: `{task: code_regression, spaces: [APPS, CDSS], languages: [cpp, python]}`. They lie in the folder
`code_regression` or `Code-Regression` (`graph_arch_regression`, `GraphArch-Regression`) below the data root; where there is no
such folder they are read from the hub, at the revision that the hub has when reading begins.

How little is read. The statistics of a row group, or its column `space`, show which spaces it holds; others are skipped. Of the
rest the narrow columns are read first. The column of texts is opened only where a row is wanted, in buffers of 1 MiB, up to the
last row that is wanted.

How rows come. A `RowStream` permutes the row groups by seed and epoch, shares them out over lanes (one for each process and
worker that reads) and shuffles blocks of rows. Where it stands is a few whole numbers (`RowStream.state`); from there it goes
on with exactly the rows that it would have had.

Nothing is left out in silence: `RowStream.counts` and the log name every reason (`REASONS`) and its number.
"""

from __future__ import annotations

import ast
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from code_rlm.configuration_rlm import language_of_name
from code_rlm.data.schema import FEATURES, DataError, Example, to_dataset, validate
from code_rlm.data.splits import SPLITS, split_of

logger = logging.getLogger(__name__)

MAX_METADATA_CHARS = 1 << 18
# Rows that are shuffled together, and rows of a file that are decoded at once.
BLOCK, _DECODED = 1024, 256
_BUFFER_BYTES = 1 << 20

REASONS = {
    "no_target": "rows without any value, left out",
    "zero_target": "rows whose judge recorded a memory of 0, left out",
    "infinite": "infinite values, taken as missing",
    "no_problem": "rows without a problem's id, each a group of its own",
    "unknown_unit": "rows whose metric_type is another than the card's, read in the card's unit",
    "unlisted_metric": "values of metrics that are not learned, left out",
    "unreadable": "rows that cannot be read, left out",
}


# ------------------------------------------------------------------------------------------------ spaces


@dataclass(frozen=True)
class CodeSpace:
    """A space of the published programs.

    Attributes:
        language: Language of its rows; None where the metadata names it.
        metric: Name of its metric.
        metric_type: What the card calls its target.
        hardware: What was measured on.
        zero_is_missing: Whether a target of 0 means that nothing was recorded.
    """

    language: str | None
    metric: str
    metric_type: str
    hardware: str = ""
    zero_is_missing: bool = False


CODE_SPACES = {
    "APPS": CodeSpace("python", "peak_memory_bytes", "memory_bytes"),
    "CDSS": CodeSpace(None, "judge_memory_bytes", "memory_bytes", "online judge", zero_is_missing=True),
    "KBSS": CodeSpace("triton", "latency_ms@rtx_a6000", "latency_ms", "RTX A6000"),
}
# Units in which a table may record what the metric's name has in bytes.
_FACTORS = {"memory_kb": 1024.0, "memory_kib": 1024.0, "memory_mb": 1e6}
ACCURACY = "validation_accuracy"
# Other names of spaces, lower case and without signs: that of one space, or what the names of several begin with.
_ALIASES: dict[str, tuple[str, ...]] = {
    "leetcode": ("apps",),
    "codenet": ("cdss",),
    "kernelbook": ("kbss",),
    "triton": ("kbss",),
    "nds": ("nasnet", "amoeba", "pnas", "enas", "darts"),
    "ofa": ("ofamb", "ofapn", "ofarn"),
}


def space_key(name: str) -> str:
    """Returns what two spellings of one space have in common: `NB101`, `NASBench101` and `nas-bench-101` are `nasbench101`."""
    plain = "".join(re.findall(r"[a-z0-9]+", name.casefold()))
    return re.sub(r"^nb(?=\d)", "nasbench", plain)


def chosen_spaces(wanted: Sequence[str] | None, present: Sequence[str], where: str) -> list[str]:
    """Returns the spaces of a table that are asked for, as the table spells them.

    Args:
        wanted: Names in any spelling, or of families (`NDS`, `Ofa`); None for all.
        present: Spaces of the table.
        where: The table, for the message.

    Raises:
        DataError: A name that fits none; the message lists what there is.
    """
    if wanted is None:
        return list(present)
    if isinstance(wanted, str) or not wanted:
        raise DataError(f"{where}: spaces must be a list of names, got {wanted!r}; there are {', '.join(present)}")
    chosen: list[str] = []
    for name in wanted:
        key = space_key(str(name))
        fitting = [each for each in present if space_key(each) == key]
        for alias in () if fitting else _ALIASES.get(key, ()):
            fitting += [each for each in present if space_key(each).startswith(alias)]
        if not fitting:
            raise DataError(f"{where}: no space {name}; there are {', '.join(present) or 'none'}")
        chosen += [each for each in fitting if each not in chosen]
    return chosen


def accuracy_metric(space: str) -> str:
    """Returns the name of a space's accuracy: one for each, as some spaces give percent and others fractions."""
    return f"{ACCURACY}@{space_key(space)}"


# ------------------------------------------------------------------------------------------------ cells


class _BareNames(ast.NodeTransformer):
    """Replaces what Python prints for numbers that are no literals."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        values = {"nan": None, "inf": math.inf, "Infinity": math.inf, "NaN": None}
        return ast.copy_location(ast.Constant(values[node.id]), node) if node.id in values else node


def parse_metadata(text: str | None, max_chars: int = MAX_METADATA_CHARS) -> dict[str, Any]:
    """Reads a dictionary written as Python source, without running anything.

    A bare `nan`, which Python prints for a missing number, becomes None; a bare `inf` stays infinite. None and an empty text
    are an empty dictionary.

    Raises:
        DataError: Not a string, longer than `max_chars`, no Python literal, or no dictionary.
    """
    if text is None or text == "":
        return {}
    if not isinstance(text, str):
        raise DataError(f"column 'metadata': expected str, got {_short(text)}")
    if len(text) > max_chars:
        raise DataError(f"column 'metadata': {len(text)} characters are over the limit of {max_chars}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        value = ast.literal_eval(_BareNames().visit(tree))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"column 'metadata': no Python literal ({error}): {_short(text)}") from None
    if not isinstance(value, dict):
        raise DataError(f"column 'metadata': expected a dictionary, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _number(cell: Any, column: str, counts: Counter[str]) -> float | None:
    """Returns a cell as a number; None where it is missing, NaN, or infinite, which is counted.

    Raises:
        DataError: Anything else.
    """
    if cell is None:
        return None
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        raise DataError(f"column {column!r}: expected a number, got {_short(cell)}")
    if math.isnan(cell):
        return None
    if math.isinf(cell):
        counts["infinite"] += 1
        return None
    return float(cell)


@dataclass(frozen=True)
class Head:
    """All of a row but its text: what the narrow columns hold; `reason` is that for which it is left out, if any."""

    space: str
    language: str
    group: str
    metrics: list[str]
    values: list[float | None]
    context: list[str] = field(default_factory=list)
    hardware: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Options:
    """What is asked of a published table.

    Attributes:
        spaces: As the table spells them.
        languages: Languages by our names; None for all.
        metrics: Which metrics; None for all that were measured.
        group_keys: Keys of the metadata that name the problem, in order of preference.
        split: Split by group, None for every row.
        seed: Of the split and of the order.
        validation: Share of groups in validation.
        test: Share of groups in test.
        on_error: "raise" or "skip".
    """

    spaces: tuple[str, ...] = ()
    languages: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None
    group_keys: tuple[str, ...] = ("problem_id", "p_id")
    split: str | None = None
    seed: int = 0
    validation: float = 0.1
    test: float = 0.1
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise DataError(f"no split {self.split!r}; give {', '.join(SPLITS)} or None for all")
        if self.on_error not in ("raise", "skip"):
            raise DataError(f"on_error must be 'raise' or 'skip', got {self.on_error!r}")

    def takes(self, group: str) -> bool:
        """Whether a group belongs to the split."""
        if self.split is None:
            return True
        return split_of(group, seed=self.seed, validation=self.validation, test=self.test) == self.split


def _code_head(cells: Mapping[str, Any], options: Options, counts: Counter[str]) -> Head | None:
    """Returns the head of a row of programs; None where its language is not asked for.

    Raises:
        DataError: A bad cell.
    """
    space = CODE_SPACES.get(cells["space"])
    if space is None:
        raise DataError(f"column 'space': unknown {_short(cells['space'])}; known are {', '.join(CODE_SPACES)}")
    metadata = parse_metadata(cells["metadata"])
    language = space.language
    if language is None:
        named = metadata.get("language")
        if not isinstance(named, str) or not named.strip():
            raise DataError(f"column 'metadata': no language, but {', '.join(map(str, metadata)) or 'nothing'}")
        language = language_of_name(named)
    if options.languages is not None and language not in options.languages:
        return None
    value = _number(cells["target"], "target", counts)
    reason = "no_target" if value is None else ""
    if options.metrics is not None and space.metric not in options.metrics:
        reason = "unlisted_metric"
    elif value is not None:
        if value == 0 and space.zero_is_missing:
            reason = "zero_target"
        factor = _FACTORS.get(str(cells["metric_type"]), 1.0)
        counts["unknown_unit"] += factor == 1.0 and cells["metric_type"] != space.metric_type
        value *= factor
    keys = (metadata.get(key) for key in options.group_keys)
    problem = next((key for key in keys if key not in (None, "")), None)
    if problem is None:
        counts["no_problem"] += 1
        problem = cells["identifier"]
    if problem is None or problem == "":
        raise DataError(f"column 'identifier': empty, and the metadata has none of {', '.join(options.group_keys)}")
    group = f"{cells['space']}/{problem}"
    return Head(cells["space"], language, group, [space.metric], [value], [], space.hardware, reason)


def _graph_head(cells: Mapping[str, Any], options: Options, counts: Counter[str]) -> Head | None:
    """Returns the head of a row of architectures; None where graphs are not asked for.

    Raises:
        DataError: A bad cell.
    """
    space = cells["space"]
    if not isinstance(space, str) or not space:
        raise DataError(f"column 'space': expected a name, got {_short(space)}")
    if options.languages is not None and "onnx" not in options.languages:
        return None
    found = {accuracy_metric(space): _number(cells["val_accuracy"], "val_accuracy", counts)}
    for key, cell in parse_metadata(cells["metadata"]).items():
        name = str(key)
        if name.startswith("lat_"):
            found[f"latency_ms@{name[4:].lower()}"] = _number(cell, f"metadata, {name}", counts)
        elif name.startswith("zcp_") and options.metrics is not None and name in options.metrics:
            found[name] = _number(cell, f"metadata, {name}", counts)
    for name in ("flops", "params"):
        if options.metrics is not None and name in options.metrics:
            found[name] = _number(cells[name], name, counts)
    if options.metrics is not None:
        counts["unlisted_metric"] += sum(found[name] is not None for name in found if name not in options.metrics)
        found = {name: found[name] for name in options.metrics if name in found}
    reason = "no_target" if all(value is None for value in found.values()) else ""
    arch = cells["arch_str"] or cells["uid"]
    if arch is None or arch == "":
        raise DataError("columns 'arch_str' and 'uid': both empty")
    context = [f"space: {space}"]
    return Head(space, "onnx", f"{space}/{arch}", [*found], [*found.values()], context, reason=reason)


@dataclass(frozen=True)
class PublishedTask:
    """A published data set and how it is read.

    Attributes:
        name: What `task:` and `--task` are given.
        repo: Id on the hub.
        folders: Folders below the data root in which it may lie.
        columns: The narrow columns.
        description: First line for people.
        licence: Of the source.
        head: Reads the narrow columns of a row.
    """

    name: str
    repo: str
    folders: tuple[str, ...]
    columns: tuple[str, ...]
    description: str
    licence: str
    head: Callable[[Mapping[str, Any], Options, Counter[str]], Head | None]


_GRAPH_COLUMNS = ("identifier", "space", "uid", "arch_str", "val_accuracy", "flops", "params", "metadata")
PUBLISHED = {
    "code_regression": PublishedTask(
        "code_regression",
        "akhauriyash/Code-Regression",
        ("code_regression", "Code-Regression"),
        ("identifier", "space", "target", "metric_type", "metadata"),
        "Programs and kernels published with the paper: APPS and CodeNet memory, KernelBook latency.",
        "as published; CodeNet is CDLA-Permissive-2.0",
        _code_head,
    ),
    "graph_arch_regression": PublishedTask(
        "graph_arch_regression",
        "akhauriyash/GraphArch-Regression",
        ("graph_arch_regression", "GraphArch-Regression"),
        _GRAPH_COLUMNS,
        "Printed ONNX graphs published with the paper: accuracies of NAS spaces, latencies of two.",
        "MIT",
        _graph_head,
    ),
}


# ------------------------------------------------------------------------------------------------ files


@dataclass(frozen=True)
class Piece:
    """The rows of one row group, or those of them whose number leaves `part` when divided by `parts`."""

    file: str
    group: int
    rows: int
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class PublishedTable:
    """The files of a published table and what they hold; see `open_table`.

    Attributes:
        task: Which table.
        path: Folder, file or hub id, for messages.
        pieces: Its row groups.
        spaces: For each row group, space to rows.
    """

    task: PublishedTask
    path: str
    pieces: tuple[Piece, ...]
    spaces: tuple[Mapping[str, int], ...]

    @property
    def present(self) -> list[str]:
        """The spaces that there are, by name."""
        return sorted({space for each in self.spaces for space in each})

    def rows(self, spaces: Sequence[str]) -> int:
        """Returns how many rows the spaces have, of all languages and splits."""
        return sum(each.get(space, 0) for each in self.spaces for space in spaces)

    def holding(self, spaces: Sequence[str]) -> list[Piece]:
        """Returns the row groups that hold a row of one of the spaces."""
        return [p for p, held in zip(self.pieces, self.spaces, strict=True) if any(held.get(s) for s in spaces)]


@lru_cache(maxsize=1)
def _file_system() -> HfFileSystem:
    return HfFileSystem()


def _open(file: str) -> BinaryIO:
    """Opens a file of the hub (`hf://...`) or of a folder for reading."""
    return _file_system().open(file, "rb", block_size=_BUFFER_BYTES) if file.startswith("hf://") else open(file, "rb")


def _parquet(stream: BinaryIO, file: str) -> pq.ParquetFile:
    """Opens a parquet file so that it is read in small buffers.

    Raises:
        DataError: Not a parquet file.
    """
    try:
        return pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: not a parquet file ({error})") from None


def _files(path: str) -> list[str]:
    """Returns the parquet files of a folder, a file, or a data set of the hub at its present revision.

    Raises:
        DataError: There are none.
    """
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        files = [str(each) for each in sorted(Path(path).rglob("*.parquet"))]
    elif path.count("/") == 1 and not path.startswith((".", "~", "/")):
        try:
            about = HfApi().dataset_info(path)
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(f"{path}: no such folder, and the hub's data set cannot be read: {reason}") from error
        names = sorted(each.rfilename for each in about.siblings or [] if each.rfilename.endswith(".parquet"))
        files = [f"hf://datasets/{path}@{about.sha}/{name}" for name in names]
    else:
        raise DataError(f"no file or folder {path}")
    if not files:
        raise DataError(f"{path}: no .parquet file there")
    return files


def _spaces_of(parquet: pq.ParquetFile, group: int) -> dict[str, int]:
    """Returns the spaces of a row group and their rows: from its statistics, or from the column."""
    about = parquet.metadata.row_group(group)
    names = parquet.schema_arrow.names
    statistics = about.column(names.index("space")).statistics
    if statistics is not None and statistics.has_min_max and statistics.null_count == 0:
        if statistics.min == statistics.max:
            return {str(statistics.min): about.num_rows}
    column = parquet.read_row_group(group, columns=["space"]).column("space")
    return {str(each["values"]): each["counts"] for each in column.value_counts().to_pylist()}


def open_table(task: PublishedTask, path: str | os.PathLike) -> PublishedTable:
    """Reads what a table's row groups hold: footers, and the column `space` where these do not show it.

    Raises:
        DataError: No such table, or a column is missing.
    """
    pieces: list[Piece] = []
    spaces: list[dict[str, int]] = []
    for file in _files(os.fspath(path)):
        with _open(file) as stream, _parquet(stream, file) as parquet:
            present = parquet.schema_arrow.names
            if missing := [name for name in (*task.columns, "input") if name not in present]:
                raise DataError(f"{file}: no column {', '.join(missing)}; there is {', '.join(present) or 'none'}")
            for group in range(parquet.num_row_groups):
                pieces.append(Piece(file, group, parquet.metadata.row_group(group).num_rows))
                spaces.append(_spaces_of(parquet, group))
    return PublishedTable(task, os.fspath(path), tuple(pieces), tuple(spaces))


def table_path(task: PublishedTask, data_root: str | os.PathLike | None) -> str:
    """Returns where a published table is read from: a folder below the data root, or else the hub."""
    folders = [Path(data_root, name) for name in task.folders] if data_root is not None else []
    return next((str(folder) for folder in folders if folder.is_dir()), task.repo)


# ------------------------------------------------------------------------------------------------ rows


def _piece_rows(
    table: PublishedTable, piece: Piece, options: Options, start: int, counts: Counter[str]
) -> Iterator[tuple[int, Example]]:
    """Yields (number in the row group, example) of the rows of a piece that are asked for, from row `start` on.

    Raises:
        DataError: A row that cannot be read, unless such rows are skipped.
    """
    with _open(piece.file) as narrow, _open(piece.file) as wide:
        heads = _batches(narrow, piece, table.task.columns)
        texts = _batches(wide, piece, ["input"])
        for first, cells in heads:
            last = first + len(cells)
            if last <= start:
                continue
            chosen: dict[int, Head] = {}
            for row in range(max(first, start), last):
                if row % piece.parts != piece.part:
                    continue
                head = _checked_head(table, piece, row, cells[row - first], options, counts)
                if head is not None:
                    chosen[row] = head
            if chosen:
                block = next(found for at, found in texts if at == first)
                for row, head in chosen.items():
                    example = _checked_example(table, piece, row, head, block[row - first]["input"], options, counts)
                    if example is not None:
                        counts["kept"] += 1
                        yield row, example


def _batches(stream: BinaryIO, piece: Piece, columns: Sequence[str]) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    """Yields (first row, rows) of columns of a row group, a few hundred rows in memory at a time."""
    first = 0
    with _parquet(stream, piece.file) as parquet:
        for batch in parquet.iter_batches(_DECODED, row_groups=[piece.group], columns=list(columns)):
            yield first, _LazyRows(batch)
            first += batch.num_rows


class _LazyRows(Sequence):
    """The rows of a batch as dictionaries, made when the first is asked for."""

    def __init__(self, batch: pa.RecordBatch):
        self._batch = batch
        self._rows: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return self._batch.num_rows

    def __getitem__(self, row: Any) -> Any:
        if self._rows is None:
            self._rows = self._batch.to_pylist()
        return self._rows[row]


def _checked_head(
    table: PublishedTable, piece: Piece, row: int, cells: Mapping[str, Any], options: Options, counts: Counter[str]
) -> Head | None:
    """Returns a row's head, None where it is not asked for or left out."""
    if cells["space"] not in options.spaces:
        return None
    try:
        # A row of another split is not counted: the counts of all splits add up to those of the table.
        noted: Counter[str] = Counter()
        head = table.task.head(cells, options, noted)
        if head is None or not options.takes(head.group):
            return None
        counts.update(noted)
        if head.reason:
            counts[head.reason] += 1
            return None
        return head
    except DataError as error:
        _bad_row(piece, row, error, options, counts)
    return None


def _checked_example(
    table: PublishedTable,
    piece: Piece,
    row: int,
    head: Head,
    text: Any,
    options: Options,
    counts: Counter[str],
) -> Example | None:
    """Returns a row in the schema, None where it is bad and such rows are skipped."""
    example = Example(
        text=text,
        language=head.language,
        context=head.context,
        metrics=head.metrics,
        values=head.values,
        group=head.group,
        source=f"{table.task.name}/{head.space}",
        hardware=head.hardware,
    )
    report = validate([example], strict=False)
    if report.ok:
        return example
    words = "; ".join(f"column {each.column!r}: {each.message}" for each in report.problems)
    _bad_row(piece, row, DataError(words), options, counts)
    return None


def _bad_row(piece: Piece, row: int, error: DataError, options: Options, counts: Counter[str]) -> None:
    """Raises, or counts a row that cannot be read and logs the first ones."""
    where = f"{piece.file}: row {row} of row group {piece.group}, {error}"
    if options.on_error == "raise":
        raise DataError(f"{where}\non_error: skip leaves such rows out") from None
    counts["unreadable"] += 1
    if counts["unreadable"] <= 5:
        logger.warning("skipped: %s", where)


def counted(counts: Mapping[str, int], name: str) -> list[str]:
    """Returns one line for each reason for which rows or values of a table were left out."""
    return [f"{name}: {counts[reason]} {words}" for reason, words in REASONS.items() if counts.get(reason)]


def _shared_out(pieces: Sequence[Piece], lanes: int) -> list[Piece]:
    """Returns pieces of which there is at least one for each lane: where there are too few, each is shared row by row."""
    parts = math.ceil(lanes / max(1, len(pieces)))
    return [replace(piece, part=part, parts=parts) for piece in pieces for part in range(parts)]


class RowStream:
    """Examples of a published table, endlessly or for one epoch, in an order that depends on the seed alone.

    Args:
        table: Where they come from.
        options: Which of them.
        lane: The share of this reader, from 0.
        lanes: How many readers there are.
        state: Where to go on; None for the beginning.
        repeat: Begin again at the end; the order of every epoch is another.
        block: Rows that are shuffled together; 1 keeps their order.

    Attributes:
        counts: What was kept and left out, by reason.
    """

    def __init__(
        self,
        table: PublishedTable,
        options: Options,
        lane: int = 0,
        lanes: int = 1,
        *,
        state: Mapping[str, int] | None = None,
        repeat: bool = True,
        block: int = BLOCK,
    ):
        self.table, self.options, self.lane, self.lanes = table, options, lane, lanes
        self.repeat, self.block = repeat, block
        self.counts: Counter[str] = Counter()
        self._pieces = _shared_out(table.holding(options.spaces), lanes)
        # Of the block in work: where it began, how many of its rows were given, and the rows.
        self._began = {"epoch": 0, "piece": 0, "row": 0, **{k: v for k, v in (state or {}).items() if k != "used"}}
        self._used = int((state or {}).get("used", 0))
        self._rows: list[Example] | None = None
        self._next = self._began
        self._reader: Iterator[tuple[dict[str, int], Example]] | None = None

    @property
    def state(self) -> dict[str, int]:
        """Where the stream stands: what its constructor takes as `state`."""
        return {**self._began, "used": self._used}

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        while self._rows is None or self._used >= len(self._rows):
            if self._rows is not None:
                self._began, self._used = self._next, 0
            self._rows = self._read_block()
            if not self._rows:
                raise StopIteration
        self._used += 1
        return self._rows[self._used - 1]

    def take(self, count: int) -> list[Example]:
        """Returns the next rows, fewer at the end of a stream that does not repeat."""
        return [example for _, example in zip(range(count), self, strict=False)]

    def _read_block(self) -> list[Example]:
        """Returns the block that begins at `_began`, shuffled, and notes where the next one begins."""
        if self._reader is None:
            self._reader = self._read_from(**self._began)
        rows: list[Example] = []
        for after, example in self._reader:
            rows.append(example)
            self._next = after
            if len(rows) == self.block:
                break
        if not rows:
            return rows
        key = [self.options.seed, self.lane, *(self._began[name] for name in ("epoch", "piece", "row"))]
        return [rows[i] for i in np.random.default_rng(key).permutation(len(rows))]

    def _read_from(self, epoch: int, piece: int, row: int) -> Iterator[tuple[dict[str, int], Example]]:
        """Yields (where the next row begins, example), from a place on."""
        while True:
            order = np.arange(len(self._pieces))
            if self.block > 1:
                order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self._pieces))
            mine = [self._pieces[i] for i in order[self.lane :: self.lanes]]
            found = piece > 0 or row > 0
            for number in range(piece, len(mine)):
                for at, example in _piece_rows(self.table, mine[number], self.options, row, self.counts):
                    found = True
                    yield {"epoch": epoch, "piece": number, "row": at + 1}, example
                row = 0
            if not self.repeat:
                return
            if not found:
                asked = f"spaces {', '.join(self.options.spaces)}"
                asked += f", languages {', '.join(self.options.languages)}" if self.options.languages else ""
                raise DataError(
                    f"{self.table.path}: reader {self.lane + 1} of {self.lanes} finds no row of {asked}, "
                    f"{self.options.split or 'any'} split; give other spaces or languages, or fewer processes and workers"
                )
            epoch, piece = epoch + 1, 0


def sample_rows(
    table: PublishedTable, options: Options, count: int, key: Callable[[Example], Any] | None = None
) -> tuple[list[Example], Counter[str]]:
    """Returns at most `count` rows of each key, those that come first in the stream's order, and what was left out.

    Args:
        table: The table.
        options: Which rows.
        count: Rows of each key.
        key: What rows are counted by, such as their language; None for one count.
    """
    stream = RowStream(table, options, repeat=False)
    taken: Counter[Any] = Counter()
    kept: list[Example] = []
    # Other keys may still come, unless they are the languages that were asked for.
    keys = 1 if key is None else len(options.languages or ())
    for example in stream:
        name = None if key is None else key(example)
        if taken[name] < count:
            taken[name] += 1
            kept.append(example)
            if len(kept) == count * keys:
                break
    return kept, stream.counts


def select(
    name: str,
    path: str | os.PathLike,
    split: str | None = None,
    *,
    spaces: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    **others: Any,
) -> tuple[PublishedTable, Options]:
    """Opens a published table and checks what is asked of it.

    Args:
        name: One of `PUBLISHED`.
        path: Folder, file or hub id.
        split: See `code_regression`.
        spaces: In any spelling.
        languages: By our names (`cpp`) or as published (`C++`).
        metrics: Which metrics; None for all that were measured.
        **others: Further fields of `Options`.

    Raises:
        DataError: An unknown table, space or option.
    """
    if name not in PUBLISHED:
        raise DataError(f"unknown published table {name!r}; known are {', '.join(PUBLISHED)}")
    for given, value in (("languages", languages), ("metrics", metrics)):
        if value is not None and (isinstance(value, str) or not value):
            raise DataError(f"{name}: {given} must be a list of names, got {value!r}")
    wanted = None if languages is None else tuple(language_of_name(each) for each in languages)
    asked = None if metrics is None else tuple(metrics)
    options = Options(languages=wanted, metrics=asked, split=split, **others)  # before anything is opened
    table = open_table(PUBLISHED[name], path)
    return table, replace(options, spaces=tuple(chosen_spaces(spaces, table.present, name)))


def read_published(
    name: str, data_root: str | os.PathLike | None, split: str | None, *, limit: int | None = None, **asked: Any
) -> Dataset:
    """Reads rows of a published table into a Dataset in the schema.

    Args:
        name: One of `PUBLISHED`.
        data_root: Folder below which it may lie; else it is read from the hub.
        split: Split by group, None for every row.
        limit: At most so many rows, those that come first in the stream's order; None for all.
        **asked: Further arguments of `select`.

    Raises:
        DataError: See `select`; or no row.
    """
    table, options = select(name, table_path(PUBLISHED[name], data_root), split, **asked)
    stream = RowStream(table, options, repeat=False)
    rows = stream.take(limit) if limit is not None else list(stream)
    for line in counted(stream.counts, name):
        logger.warning(line)
    dataset = to_dataset(rows)
    dataset.info.description = PUBLISHED[name].description
    dataset.info.license = PUBLISHED[name].licence
    return dataset


def _rows_of_lanes(lanes: list[int], count: int, table: PublishedTable, options: Options) -> Iterator[dict[str, Any]]:
    """Yields the rows of lanes as dictionaries, for `IterableDataset`, which gives each of its workers some of the lanes."""
    for lane in lanes:
        stream = RowStream(table, options, lane, count, repeat=False, block=1)
        yield from (example.as_dict() for example in stream)
        for line in counted(stream.counts, table.task.name):
            logger.warning(line)


def _published(name: str, path: Any, split: str | None, streaming: bool, shards: int, **asked: Any) -> Any:
    table, options = select(name, path, split, **asked)
    if streaming:
        arguments = {"lanes": list(range(shards)), "count": shards, "table": table, "options": options}
        return IterableDataset.from_generator(_rows_of_lanes, features=FEATURES, gen_kwargs=arguments)
    dataset = to_dataset(_rows_of_lanes([0], 1, table, options))
    validate(dataset, source=os.fspath(path))
    return dataset


def code_regression(
    path: str | os.PathLike = PUBLISHED["code_regression"].repo,
    split: str | None = None,
    *,
    spaces: Sequence[str] | None = None,
    languages: Sequence[str] | None = None,
    group_keys: Sequence[str] = ("problem_id", "p_id"),
    streaming: bool = True,
    shards: int = 1,
    on_error: str = "raise",
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
) -> Dataset | IterableDataset:
    """Reads the published programs: Python memory (APPS), judged submissions (CDSS), Triton kernels (KBSS).

    Source: "Regression Language Models for Code" (arXiv 2509.26476), on the hub. Metrics: `peak_memory_bytes` (APPS: what
    tracemalloc saw), `judge_memory_bytes` (CDSS: what the judge recorded, another measure), `latency_ms@rtx_a6000` (KBSS).
    Language: "python", the metadata's language by our name ("C++" is "cpp"), "triton". Group: space and the first of
    `group_keys` in the metadata; a row with none of them is a group of its own, named by its identifier, and then splits may
    share a problem. Rows without a target, and CDSS rows with a target of 0, are left out and counted.

    Args:
        path: Id on the hub, a parquet file, or a folder of them.
        split: "train", "validation" or "test" by group, made here: the hub has only one. None for every row.
        spaces: Of "APPS", "CDSS", "KBSS"; None for all.
        languages: By our names or as published; None for all.
        group_keys: Keys of the metadata that name the problem, in order of preference.
        streaming: Give an IterableDataset that reads as it goes; otherwise a Dataset.
        shards: Parts of the stream that workers of a DataLoader share out.
        on_error: "raise", or "skip" to leave out rows that cannot be read, the first of them logged, and their number.
        seed: Of the split.
        validation: Share of groups in validation.
        test: Share of groups in test.

    Raises:
        DataError: A missing file or column, an unknown space, or (unless skipped) a bad row, naming row and column.
    """
    asked = {"spaces": spaces, "languages": languages, "group_keys": tuple(group_keys), "on_error": on_error}
    return _published(
        "code_regression", path, split, streaming, shards, seed=seed, validation=validation, test=test, **asked
    )


def graph_arch_regression(
    path: str | os.PathLike = PUBLISHED["graph_arch_regression"].repo,
    split: str | None = None,
    *,
    spaces: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    streaming: bool = True,
    shards: int = 1,
    on_error: str = "raise",
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
) -> Dataset | IterableDataset:
    """Reads the published architectures: printed ONNX graphs with accuracy and latencies.

    Source: "Regression Language Models for Code" (arXiv 2509.26476), on the hub. Language: "onnx". Metrics: the accuracy of
    each space under a name of its own, such as "validation_accuracy@nasbench101", as some spaces give percent and others
    fractions; the metadata's lat_DEVICE as "latency_ms@DEVICE". Further ones where `metrics` names them: flops, params (the
    source states no units) and zero-cost proxies (zcp_NAME). Context: "space: NASBench101", as the table spells it. Group:
    space and architecture string, or space and uid where there is no string.

    Args:
        path: Id on the hub, a parquet file, or a folder of them.
        split: "train", "validation" or "test" by group, made here: the hub has only one. None for every row.
        spaces: In any spelling ("NB201", "NASBench201") or families ("NDS", "Ofa"); None for all.
        metrics: Which metrics; None for accuracies and latencies.
        streaming: Give an IterableDataset that reads as it goes; otherwise a Dataset.
        shards: Parts of the stream that workers of a DataLoader share out.
        on_error: "raise", or "skip" to leave out rows that cannot be read, the first of them logged, and their number.
        seed: Of the split.
        validation: Share of groups in validation.
        test: Share of groups in test.

    Raises:
        DataError: A missing file or column, an unknown space, or (unless skipped) a bad row, naming row and column.
    """
    asked = {"spaces": spaces, "metrics": metrics, "on_error": on_error}
    return _published(
        "graph_arch_regression", path, split, streaming, shards, seed=seed, validation=validation, test=test, **asked
    )


__all__ = [
    "CODE_SPACES",
    "MAX_METADATA_CHARS",
    "PUBLISHED",
    "REASONS",
    "Options",
    "PublishedTable",
    "RowStream",
    "accuracy_metric",
    "chosen_spaces",
    "code_regression",
    "counted",
    "graph_arch_regression",
    "open_table",
    "parse_metadata",
    "read_published",
    "sample_rows",
    "select",
    "space_key",
    "table_path",
]
