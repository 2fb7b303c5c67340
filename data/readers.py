"""Readers of published measurements: one name, one table, one Dataset in the schema.

    from code_rlm.data.readers import TASKS, read_task

    print("\n".join(f"{name}: {task.summary}" for name, task in TASKS.items()))
    train = read_task("bhive_zen4", data_root="measurements", split="train")

`data_root` is any folder with the layout

    asm/bhive_zen4.parquet          codenet/python_sample.parquet     kernels/tritonbench.parquet
    nas/nasbench201.parquet         nas/nasbench101.parquet           nas/nasbench_macro.parquet
    nas/accel_nasbench.parquet      nas/fbnet.parquet                 nas/ofa.parquet
    nas/darts_swap.parquet          nas/timm_accuracy.parquet         nas/timm_bench.parquet
    python/leetcode_memory.parquet  python/leetcode_solutions.parquet polyglot_memory/*.parquet
    inductor_triton/*.parquet       networks_cpu/*.parquet            polyglot_range/*.parquet

and without it the environment variable CODE_RLM_DATA names the folder. A reader needs only its own file, and of that
only the columns it uses. Rows are split by group (`code_rlm.data.splits`), and chosen before any text is built:
architectures are turned into ONNX text for the rows that are asked for and no others.

Tables of your own, and data sets of the hub, are read by `code_rlm.data.external`; those published with the paper by
`code_rlm.data.published`, under the names `code_regression` and `graph_arch_regression`.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import logging
import os
import re
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm.auto import tqdm

from code_rlm.data.external import parquet_rows
from code_rlm.data.graph_texts import graph_text
from code_rlm.data.schema import FEATURES, DataError, Example, to_dataset, unit_of, validate
from code_rlm.data.splits import SPLITS, split_of

logger = logging.getLogger(__name__)

DATA_ROOT_VARIABLE = "CODE_RLM_DATA"
# Distribution that carries the tables of tasks with `ships`, each in a folder named like the task's file.
_SHIPPED_WITH = "code_rlm_data"
# Rows whose texts are built at once by several processes.
_WINDOW = 4096


@dataclass(frozen=True)
class Column:
    """Where a metric's number comes from: a column, times a factor that brings it to the unit of the metric's name.

    `hardware` is what this metric was measured on, where the task's metrics differ in that.
    """

    name: str
    factor: float = 1.0
    hardware: str = ""


@dataclass
class _Input:
    """What a task's function makes of a row: the parts of an `Example` that are not its numbers.

    `build`, if given, is called to make the text, and only for rows that are kept. `metrics` names the ones the row
    has, where not all; `device` is added to them after an "@".
    """

    group: str
    text: str = ""
    build: tuple[Callable[..., str], tuple] | None = None
    language: str = "onnx"
    context: list[str] = field(default_factory=list)
    metrics: Sequence[str] | None = None
    device: str = ""
    outcome: str = "ok"
    hardware: str | None = None
    versions: str = ""


@dataclass(frozen=True)
class Task:
    """A table of measurements and how it is read.

    Attributes:
        name: What `read_task` is given.
        file: Path of the table below the data root.
        columns: Columns that the reader needs besides those of the metrics.
        metrics: Metric to column: the measured ones, read by default.
        extra_metrics: Metric to column: computed or secondary ones, read when `metrics=` names them.
        splits: Splits that the source fixes itself, name to the column of booleans that marks their rows.
        licence: Licence of the source.
        hardware: What was measured on, of metrics whose `Column` names nothing else; see `hardware_of`.
        description: The reader's docstring.
        ships: Whether the table comes with the package code-rlm-data, and is read from it where no data root is given.
        packed: Whether the table is in the schema itself, as `code_rlm_data.cards` writes it; a metric's column is then
            the number that stands beside its name.
        former: Names that metrics had in earlier versions, to column: read when `metrics=` names them.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    metrics: Mapping[str, Column]
    extra_metrics: Mapping[str, Column]
    splits: Mapping[str, str]
    licence: str
    hardware: str
    description: str
    read_row: Callable[[dict[str, Any]], _Input] = field(repr=False)
    ships: bool = False
    packed: bool = False
    former: Mapping[str, Column] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the description."""
        return self.description.splitlines()[0]

    def hardware_of(self, metric: str) -> str:
        """Returns what a metric of the task was measured on; empty where the source does not name it or it does not matter.

        Raises:
            DataError: The task has no such metric.
        """
        known = {**self.metrics, **self.extra_metrics, **self.former}
        name, _, device = metric.partition("@")
        column = known.get(metric) or known.get(name)
        if column is None:
            raise DataError(f"{self.name} has no metric {metric!r}; it has {', '.join(known)}")
        # Of a table whose rows name the device, the metric's name is all there is.
        return column.hardware or (device_name(device) if device and metric not in known else self.hardware)


TASKS: dict[str, Task] = {}


def _task(
    file: str,
    *,
    columns: Sequence[str],
    metrics: Mapping[str, Column],
    licence: str,
    hardware: str,
    extra_metrics: Mapping[str, Column] | None = None,
    splits: Mapping[str, str] | None = None,
    former: Mapping[str, Column] | None = None,
    ships: bool = False,
    packed: bool = False,
) -> Callable[[Callable[[dict[str, Any]], _Input]], Callable[[dict[str, Any]], _Input]]:
    """Registers a function from a row to an `_Input` as the task of the function's name."""

    def register(function: Callable[[dict[str, Any]], _Input]) -> Callable[[dict[str, Any]], _Input]:
        description = "\n".join(line.strip() for line in (function.__doc__ or "").strip().splitlines())
        TASKS[function.__name__] = Task(
            name=function.__name__,
            file=file,
            columns=tuple(columns),
            metrics=dict(metrics),
            extra_metrics=dict(extra_metrics or {}),
            splits=dict(splits or {}),
            licence=licence,
            hardware=hardware,
            description=description,
            read_row=function,
            ships=ships,
            packed=packed,
            former=dict(former or {}),
        )
        return function

    return register


def read_task(
    name: str,
    data_root: str | os.PathLike | None = None,
    split: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    workers: int = 1,
    on_error: str = "raise",
) -> Dataset:
    """Reads a task's table into a Dataset in the schema, checked by `validate`.

    Args:
        name: One of `TASKS`.
        data_root: Folder with the tables; without it, the environment variable CODE_RLM_DATA.
        split: "train", "validation" or "test" by group, a split that the task fixes itself (`TASKS[name].splits`), or
            None for every row.
        metrics: Which metrics, in this order; by default all that were measured. Their names are the task's, without
            the device where that changes from row to row.
        limit: At most this many rows of the split, drawn by a hash of the seed and the row's number and left in the
            order of the file; None for all.
        seed: Of the split and of `limit`.
        validation: Share of groups in validation.
        test: Share of groups in test.
        workers: Processes that turn architectures into text; more than one needs a `__main__` guard in scripts.
        on_error: "raise" when no text can be built of a row, or "skip" to leave such rows out, each logged, and their
            number at the end: newer versions of timm no longer know every model.

    Raises:
        DataError: Unknown task, split or metric; a missing folder, file or column; a bad row, naming file, row, column.
    """
    task, rows, wanted, total = _select(name, data_root, split, metrics, limit, seed, validation, test)
    examples = _examples(task, rows, wanted, workers, on_error)
    dataset = to_dataset(_progress(examples, total, name))
    validate(dataset, source=name)
    dataset.info.description = task.description
    dataset.info.license = task.licence
    return dataset


def iter_task(
    name: str,
    data_root: str | os.PathLike | None = None,
    split: str | None = None,
    *,
    metrics: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    validation: float = 0.1,
    test: float = 0.1,
    on_error: str = "raise",
) -> Iterator[Example]:
    """Yields the examples of a task one by one, each text built as it is reached. Arguments as in `read_task`.

    A batch of the table is in memory at a time, however long the table is.
    """
    task, rows, wanted, _ = _select(name, data_root, split, metrics, limit, seed, validation, test)
    yield from _examples(task, rows, wanted, 1, on_error)


def count_rows(name: str, data_root: str | os.PathLike | None = None) -> int:
    """Returns how many rows a task's table has, whether or not a text can be built of each.

    Raises:
        DataError: Unknown task, or its table is not there.
    """
    if name not in TASKS:
        raise DataError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    return sum(pq.read_metadata(file).num_rows for file in _files(_table(TASKS[name], data_root)))


class _Row(NamedTuple):
    """A row that was chosen: its number in the table, its parts, and its cells by column."""

    number: int
    given: _Input
    cells: dict[str, Any]


def _select(
    name: str,
    data_root: str | os.PathLike | None,
    split: str | None,
    metrics: Sequence[str] | None,
    limit: int | None,
    seed: int,
    validation: float,
    test: float,
) -> tuple[Task, Iterator[_Row], dict[str, Column], int | None]:
    """Checks what is asked for; returns (task, rows read as they are needed, metrics, how many rows if that is known)."""
    if name not in TASKS:
        raise DataError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    task = TASKS[name]
    known = {**task.metrics, **task.extra_metrics, **task.former}
    unknown = [metric for metric in metrics or () if metric not in known]
    if unknown or (metrics is not None and not metrics):
        raise DataError(f"{name} has no metric {', '.join(unknown) or '(none given)'}; it has {', '.join(known)}")
    wanted = dict(task.metrics) if metrics is None else {metric: known[metric] for metric in metrics}
    if split is not None and split not in SPLITS and split not in task.splits:
        raise DataError(f"{name} has no split {split!r}; give {', '.join([*SPLITS, *task.splits])} or None for all")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}; None reads every row")
    marker = None if split is None else task.splits.get(split)

    def in_split(row: _Row) -> bool:
        if split is None:
            return True
        if marker is not None:
            return row.cells[marker]
        try:
            return split_of(row.given.group, seed=seed, validation=validation, test=test) == split
        except DataError as error:
            raise DataError(f"{path}: row {row.number}: {error}") from None

    path = _table(task, data_root)
    columns = [*task.columns] if marker is None else [*task.columns, marker]
    total = limit
    drawn: set[int] | None = None
    if limit is not None:
        # A first pass finds which rows: those whose hashes are the smallest.
        numbers = (row.number for row in _rows(task, path, columns) if in_split(row))
        drawn = set(
            heapq.nsmallest(limit, numbers, key=lambda row: hashlib.sha256(f"{seed}\x00{row}".encode()).digest())
        )
        total = len(drawn)
    elif split is None:
        total = sum(pq.read_metadata(file).num_rows for file in _files(path))
    columns = list(dict.fromkeys([*columns, *(column.name for column in wanted.values())]))
    return task, filter(in_split, _rows(task, path, columns, drawn)), wanted, total


def _table(task: Task, data_root: str | os.PathLike | None) -> Path:
    """Returns the path of a task's table: below the data root, or the one that ships where no root is given."""
    shipped = _shipped(task) if task.ships and data_root is None else None
    if shipped is not None:
        return shipped
    try:
        return _data_root(data_root) / task.file
    except DataError as error:
        if not task.ships:
            raise
        raise DataError(
            f"the table of {task.name} comes with the package code-rlm-data, which is not installed: "
            f"pip install code-rlm-data (in a checkout: pip install ./data); or {error}"
        ) from None


def _shipped(task: Task) -> Path | None:
    """Returns the path of a table that ships with code-rlm-data, None where that is not installed."""
    spec = find_spec(_SHIPPED_WITH)
    folders = (spec and spec.submodule_search_locations) or ()
    paths = [Path(folder, task.file) for folder in folders]
    return next((path for path in paths if path.exists()), None)


def _files(path: Path) -> list[Path]:
    """Returns the files of a table: itself, or a folder's parquet files in the order of their names."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(
            f"no file {path}; give data_root= the folder that holds {'/'.join(path.parts[-2:])}, or set the "
            f"environment variable {DATA_ROOT_VARIABLE}"
        )
    try:
        for file in files:
            pq.read_schema(file)
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: not a parquet file ({error})") from None
    return files


def _rows(task: Task, path: Path, columns: Sequence[str], only: Container[int] | None = None) -> Iterator[_Row]:
    """Yields the rows of a table, or those whose numbers are in `only`, a batch in memory at a time."""
    number = -1
    for file in _files(path):
        for cells in parquet_rows(file, list(FEATURES) if task.packed else columns):
            number += 1
            if only is not None and number not in only:
                continue
            if task.packed:
                values = dict(zip(cells["metrics"], cells["values"]))
                cells |= {column: values.get(column) for column in columns if column not in FEATURES}
            try:
                yield _Row(number, task.read_row(cells), cells)
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                shown = ", ".join(f"{key}={str(cells[key])[:60]!r}" for key in task.columns)
                what = error or type(error).__name__
                raise DataError(f"{file}: row {number}: {what}; the row has {shown}") from error


def _data_root(data_root: str | os.PathLike | None) -> Path:
    """Returns the folder of the tables, from the argument or the environment."""
    given = data_root or os.environ.get(DATA_ROOT_VARIABLE)
    if not given:
        raise DataError(
            f"no data folder: give data_root='FOLDER', or set the environment variable {DATA_ROOT_VARIABLE}"
        )
    if not Path(given).is_dir():
        raise DataError(f"no folder {given}; data_root= must name the folder with asm/, codenet/, kernels/ and nas/")
    return Path(given)


def _examples(
    task: Task, rows: Iterator[_Row], wanted: Mapping[str, Column], workers: int, on_error: str
) -> Iterator[Example]:
    """Yields the examples of rows, building texts in `workers` processes."""
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    seen = skipped = 0
    for row, text in _texts(rows, workers):
        seen += 1
        if isinstance(text, Exception):
            message = (
                f"{task.file}: row {row.number}, columns {', '.join(task.columns)}: no text could be built: {text}"
            )
            if on_error == "raise":
                raise DataError(message) from text
            skipped += 1
            logger.warning("skipped: %s", message)
            continue
        given = row.given
        metrics = [metric for metric in wanted if given.metrics is None or metric in given.metrics]
        yield Example(
            text=text,
            language=given.language,
            context=given.context,
            metrics=[f"{metric}@{given.device}" if given.device else metric for metric in metrics],
            values=[_value(task, row, metric, wanted[metric]) for metric in metrics],
            group=given.group,
            source=task.name,
            outcome=given.outcome,
            hardware=_measured_on(task, metrics) if given.hardware is None else given.hardware,
            versions=given.versions,
        )
    if skipped:
        logger.warning("%s: %d of %d rows skipped", task.name, skipped, seen)


def _value(task: Task, row: _Row, metric: str, column: Column) -> float | None:
    """Returns a metric's number in the unit of its name, None where it is missing."""
    cell = row.cells[column.name]
    if cell is None:
        return None
    if not _is_number(cell):
        raise DataError(f"{task.file}: row {row.number}, column {column.name!r}: {cell!r} is not a number")
    # Counts are stored in millions by some tables; what comes back must be whole.
    return float(round(cell * column.factor)) if unit_of(metric) == "count" else float(cell) * column.factor


def _measured_on(task: Task, metrics: Sequence[str]) -> str:
    """Returns everything that a row's metrics were measured on, each once."""
    return "; ".join(dict.fromkeys(each for each in map(task.hardware_of, metrics) if each not in ("", COMPUTED)))


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _texts(rows: Iterator[_Row], workers: int) -> Iterator[tuple[_Row, str | Exception]]:
    """Yields every row with its text, or with the error that came of building it."""
    if workers <= 1:
        yield from ((row, _text_of(row.given.text, row.given.build)) for row in rows)
        return
    # A forked child would inherit torch's locked threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while window := list(islice(rows, _WINDOW)):
            texts = [row.given.text for row in window]
            builds = [row.given.build for row in window]
            yield from zip(window, pool.map(_text_of, texts, builds, chunksize=16))


def _text_of(text: str, build: tuple[Callable[..., str], tuple] | None) -> str | Exception:
    """Returns a text, built if need be. Errors are returned: the caller knows the row."""
    if build is None:
        return text
    function, arguments = build
    try:
        return function(*arguments)
    except ImportError:
        raise
    except Exception as error:
        return error


def _progress(examples: Iterable[Example], total: int | None, name: str) -> Iterator[Example]:
    """Shows a bar on a terminal, and elsewhere log a line every 30 seconds."""
    last = time.monotonic()
    for done, example in enumerate(tqdm(examples, total=total, desc=name, disable=None, delay=2), start=1):
        if time.monotonic() - last > 30:
            last = time.monotonic()
            logger.info("%s: %d of %s rows read", name, done, total or "?")
        yield example


def _graph(space: str, arch: Any, group: Any, **others: Any) -> _Input:
    """Returns the input of a row whose text is the graph of an architecture."""
    return _Input(group=str(group), build=(graph_text, (space, arch)), **others)


# Basic blocks, kernels, programs

# Columns of a table in the schema that are not its numbers.
_PACKED = ("text", "language", "context", "group", "outcome", "hardware", "versions")


def _packed(row: dict[str, Any]) -> _Input:
    """Returns the input of a row that is in the schema already."""
    return _Input(**{column: row[column] for column in _PACKED})


@_task(
    "asm/bhive_zen4.parquet",
    columns=("asm", "hex"),
    metrics={"cycles": Column("cycles")},
    licence="MIT (blocks)",
    hardware="AMD Zen 4, one core",
)
def bhive_zen4(row: dict[str, Any]) -> _Input:
    """x86-64 basic blocks and their cycles per iteration on one AMD Zen 4 core.

    Source: blocks of BHive (MIT), timed again on Zen 4; the value is the median of three passes.
    Text: Intel syntax, one instruction a line. Language: "x86asm". Unit: core clock cycles per iteration of the block.
    Group: the block's bytes in hex. Two encodings of one text are two groups: `near_duplicates` finds them.
    """
    return _Input(text=row["asm"].replace("; ", "\n"), language="x86asm", group=row["hex"])


@_task(
    "kernels/tritonbench.parquet",
    columns=("set", "text", "input_size", "group"),
    metrics={"latency_ms": Column("latency_ms")},
    extra_metrics={"bandwidth_gb_per_s": Column("gbs"), "throughput_tflop_per_s": Column("tflops")},
    licence="Apache-2.0",
    hardware="one GPU, not named by the source",
)
def tritonbench(row: dict[str, Any]) -> _Input:
    """GPU kernels of TritonBench with their latency at several input sizes.

    Source: TritonBench (Apache-2.0). Set G is Triton files from GitHub (language "triton"), set T PyTorch operators
    (language "pytorch"). Context: "input_size: 1024x2048, 2048", the shapes of the arguments, with "value=2" for an
    argument that is a plain number. Unit: milliseconds, on one GPU that the table does not name. Group: set and kernel,
    so that no kernel is in two splits at different sizes. Extra metrics: GB/s and TFLOP/s as the source derived them
    from the latency; some are 0.
    """
    languages = {"G": "triton", "T": "pytorch"}
    if row["set"] not in languages:
        raise ValueError(f"column 'set': {row['set']!r} is neither 'G' nor 'T'")
    return _Input(
        text=row["text"],
        language=languages[row["set"]],
        context=[f"input_size: {input_size(row['input_size'])}"],
        group=row["group"],
    )


def input_size(arguments: str) -> str:
    """Writes a JSON list of argument shapes as "1024x2048, 2048, scalar, value=2".

    Args:
        arguments: Such as "[[1024, 2048], [2048], [], 2]". A list is the shape of an array, [] of one without
            dimensions; anything else is the argument itself.

    Raises:
        ValueError: Not a JSON list of such items.
    """
    items = json.loads(arguments)
    if not isinstance(items, list):
        raise ValueError(f"column 'input_size': {arguments!r} is not a list")
    parts = []
    for item in items:
        if isinstance(item, list):
            # A list of shapes stands for an argument that is a list of arrays.
            flat = [input_size(json.dumps([each])) if isinstance(each, list) else str(each) for each in item]
            nested = any(isinstance(each, list) for each in item)
            parts.append(f"[{', '.join(flat)}]" if nested else "x".join(flat) or "scalar")
        else:
            parts.append(f"value={json.dumps(item)}")
    return ", ".join(parts)


@_task(
    "codenet/python_sample.parquet",
    columns=("text", "group", "language"),
    metrics={"judge_memory_bytes": Column("mem_kb", 1024.0), "judge_cpu_time_ms": Column("time_ms")},
    former={"peak_memory_bytes@codenet": Column("mem_kb", 1024.0), "cpu_time_ms@codenet": Column("time_ms")},
    licence="CDLA-Permissive-2.0 (Project CodeNet)",
    hardware="online judge, not named by the source",
)
def codenet_python(row: dict[str, Any]) -> _Input:
    """Accepted Python submissions of Project CodeNet with the judge's memory and time.

    Source: a sample of Project CodeNet. Language: "python". Units: the judge's peak memory, recorded in kB and given in
    bytes (times 1024), and its CPU time in milliseconds, on the judge's machine: metrics of their own, named after the judge,
    as another way to measure gives other numbers; checkpoints of earlier versions know them as `...@codenet`. Context: none,
    the problem's text is not part of the sample. Group: the problem.
    """
    return _Input(text=undouble(row["text"]), language=row["language"].lower(), group=row["group"])


@_task(
    "python/leetcode_memory.parquet",
    columns=("text", "context", "group", "outcome", "hardware", "versions", "peak_memory_bytes"),
    metrics={"peak_memory_bytes": Column("peak_memory_bytes")},
    licence="MIT (LeetCodeDataset)",
    hardware="",
)
def leetcode_memory(row: dict[str, Any]) -> _Input:
    """Solutions of LeetCode problems with the peak memory of one call.

    Source: LeetCodeDataset (MIT), measured by `code-rlm measure leetcode --data-root DATA --out FOLDER`, which makes
    the table; then FOLDER is the data root. That takes about 0.1 s of processor time for each of 10,300 rows. Language:
    "python". Unit: bytes, the peak that tracemalloc saw during the call above what was there before. Context: each
    argument, as it is where it is short, otherwise by kind, sizes and range. A row without a value has the outcome of
    its call. Group: the problem.
    """
    return _Input(
        text=row["text"],
        language="python",
        context=list(row["context"]),
        group=row["group"],
        outcome=row["outcome"],
        hardware=row["hardware"],
        versions=row["versions"],
    )


@_task(
    "python/leetcode_solutions.parquet",
    columns=("text", "context", "group", "outcome", "hardware", "versions", "peak_memory_bytes"),
    metrics={"peak_memory_bytes": Column("peak_memory_bytes")},
    licence="MIT",
    hardware="",
)
def leetcode_solutions(row: dict[str, Any]) -> _Input:
    """Python solutions of LeetCode problems by several people, with the peak memory of one call.

    Source: solutions of public repositories (MIT) on inputs made of LeetCodeDataset's asserts, measured by `code-rlm measure
    leetcode --data-root DATA --solutions TABLE --sizes 500 5000 --out FOLDER`, which makes the table; then FOLDER is the data
    root. All solutions of a problem get the same arguments. Language: "python". Unit: bytes, as in `leetcode_memory`. Context:
    each argument. Group: the problem.
    """
    return leetcode_memory(row)


@_task(
    "polyglot_memory",
    columns=_PACKED,
    metrics={"peak_rss_bytes": Column("peak_rss_bytes"), "cpu_time_ms": Column("cpu_time_ms")},
    extra_metrics={"idle_peak_rss_bytes": Column("idle_peak_rss_bytes")},
    licence="Apache-2.0",
    hardware="",
    ships=True,
    packed=True,
)
def polyglot_memory(row: dict[str, Any]) -> _Input:
    """Generated programs in 17 and more languages with the peak memory and CPU time of a run.

    Source: `code_rlm_data.generator`, measured by `code_rlm_data.measure`; the card beside the table has hardware,
    versions and noise. Without a data root the table of this package is read, if it has one; `python -m
    code_rlm_data.generator --help` lists the steps that make one. Units: bytes, the peak resident size of the process with its
    runtime; milliseconds of user and system time, the start included. A row whose run failed has the outcome and no
    numbers. Group: the problem, one skeleton in many variants and languages. Extra metric: what a program of the
    language needs that does nothing.
    """
    return _packed(row)


@_task(
    "polyglot_range",
    columns=_PACKED,
    metrics={"peak_rss_bytes": Column("peak_rss_bytes"), "cpu_time_ms": Column("cpu_time_ms")},
    extra_metrics={"idle_peak_rss_bytes": Column("idle_peak_rss_bytes")},
    licence="Apache-2.0",
    hardware="",
    ships=True,
    packed=True,
)
def polyglot_range(row: dict[str, Any]) -> _Input:
    """Programs in everyday style, from hello world to gigabytes and seconds, with the peak memory and CPU time of a run.

    Source: `code_rlm_data.plain`, templates with drawn sizes, names and spellings, measured by `code_rlm_data.measure`; the
    card beside the table has hardware, versions and noise. Units: bytes, the peak resident size of the process with its
    runtime; milliseconds of user and system time, the start included. A row whose run failed has the outcome and no
    numbers. Group: the task, the same in all languages and sizes. Extra metric: what a program of the language needs that
    does nothing.
    """
    return _packed(row)


@_task(
    "inductor_triton",
    columns=_PACKED,
    metrics={"latency_ms": Column("latency_ms")},
    licence="Apache-2.0",
    hardware="",
    packed=True,
)
def inductor_triton(row: dict[str, Any]) -> _Input:
    """Triton source that PyTorch's Inductor writes for random small modules, with the latency of a call.

    Source: `python -m code_rlm_data.inductor`, which makes the table. Text: the module that Inductor writes, kernels and
    the calls of them. Language: "triton". Context: "input_size: 32x64", the shapes of the inputs. Unit: milliseconds of
    one call of the whole module; none where the table was made without a GPU, or where the source does not compile or
    run, as its outcome records. Group: the module without its sizes.
    """
    return _packed(row)


@_task(
    "networks_cpu",
    columns=_PACKED,
    metrics={
        "latency_ms@cpu": Column("latency_ms@cpu"),
        "peak_memory_bytes@cpu": Column("peak_memory_bytes@cpu"),
    },
    licence="Apache-2.0",
    hardware="",
    ships=True,
    packed=True,
)
def networks_cpu(row: dict[str, Any]) -> _Input:
    """Generated ONNX networks of 50 families with latency and memory on one CPU core.

    Source: `code_rlm_data.networks`, which draws and measures them with onnxruntime on one thread; the card beside the table
    has hardware, versions and noise. Without a data root the table of this package is read, if it has one. Language: "onnx".
    Units: milliseconds of one run; bytes by which the process grows from before the model is loaded to its peak. Group: family
    and skeleton; the first word is the family, so that whole families can be left out.
    """
    return _packed(row)


# Architectures

_NASBENCH201_DEVICES = (
    *(f"{gpu}_{batch}" for gpu in ("1080ti", "2080ti", "titan_rtx", "titanx", "titanxp") for batch in (1, 32, 256)),
    *("essential_ph_1", "eyeriss", "fpga", "gold_6226", "gold_6240", "pixel2", "pixel3", "raspi4"),
    *("samsung_a50", "samsung_s7", "silver_4114", "silver_4210r"),
)
_FBNET_DEVICES = tuple(device.replace("_256", "_64") for device in _NASBENCH201_DEVICES)
_OFA_DEVICES = tuple(f"{gpu}_{batch}" for gpu in ("2080ti", "titan_rtx", "titan_xp", "v100") for batch in (1, 32, 64))
_DEVICES = {
    "1080ti": "NVIDIA GTX 1080 Ti",
    "2080ti": "NVIDIA RTX 2080 Ti",
    "3090": "NVIDIA RTX 3090",
    "a100": "NVIDIA A100",
    "essential_ph_1": "Essential Phone PH-1",
    "cpu": "CPU, one thread",
    "eyeriss": "Eyeriss accelerator, simulated by HW-NAS-Bench",
    "fpga": "Xilinx ZC706 FPGA",
    "gold_6226": "Intel Xeon Gold 6226",
    "gold_6240": "Intel Xeon Gold 6240",
    "pixel2": "Google Pixel 2",
    "pixel3": "Google Pixel 3",
    "raspi4": "Raspberry Pi 4",
    "samsung_a50": "Samsung Galaxy A50",
    "samsung_s7": "Samsung Galaxy S7",
    "silver_4114": "Intel Xeon Silver 4114",
    "silver_4210r": "Intel Xeon Silver 4210R",
    "titan_rtx": "NVIDIA Titan RTX",
    "titan_xp": "NVIDIA Titan Xp",
    "titanx": "NVIDIA Titan X",
    "titanxp": "NVIDIA Titan Xp",
    "tpuv2": "Google TPU v2",
    "tpuv3": "Google TPU v3",
    "v100": "NVIDIA V100",
    "vck190": "AMD VCK190 FPGA",
    "zcu102": "AMD ZCU102 FPGA",
}
COMPUTED = "computed from the network, not measured"


def device_name(device: str) -> str:
    """Returns what the part of a metric's name after the @ stands for: "1080ti_32" is "NVIDIA GTX 1080 Ti, batch 32"."""
    name, _, batch = device.rpartition("_")
    if name in _DEVICES and batch.isdigit():
        return f"{_DEVICES[name]}, batch {batch}"
    return _DEVICES.get(device, device)


def _by_device(metric: str, column: str, devices: Iterable[str]) -> dict[str, Column]:
    """Returns a metric on several devices: the names "METRIC@DEVICE" to columns whose name holds the device."""
    return {f"{metric}@{each}": Column(column.format(each), hardware=device_name(each)) for each in devices}


def undouble(text: str) -> str:
    """Takes back the doubling of every line break, where the text has no other: `a\\n\\nb` becomes `a\\nb`."""
    runs = re.findall(r"\n+", text)
    return text.replace("\n\n", "\n") if runs and all(len(run) % 2 == 0 for run in runs) else text


@_task(
    "nas/nasbench201.parquet",
    columns=("arch_str", "isomorphism_class"),
    metrics={
        "cifar10_valid_accuracy_percent": Column("cifar10_valid_accuracy"),
        "cifar10_test_accuracy_percent": Column("cifar10_test_accuracy"),
        "cifar100_test_accuracy_percent": Column("cifar100_test_accuracy"),
        "imagenet16_test_accuracy_percent": Column("imagenet16_test_accuracy"),
        **_by_device("latency_ms", "latency_ms_{}", _NASBENCH201_DEVICES),
    },
    extra_metrics={
        "cifar10_test_accuracy_12_epochs_percent": Column("cifar10_test_accuracy_12ep"),
        "params_count": Column("params_m", 1e6, COMPUTED),
        "flops_count": Column("flops_m", 1e6, COMPUTED),
    },
    licence="MIT (NATS-Bench; HELP)",
    hardware="",
)
def nasbench201(row: dict[str, Any]) -> _Input:
    """NAS-Bench-201 cells with accuracy on three data sets and latency on 27 device settings.

    Source: NATS-Bench tables (accuracy) and HELP (latency), MIT. Text: the network as ONNX text, language "onnx".
    Units: percent; milliseconds of one forward pass, where a number after a GPU's name is the batch
    ("latency_ms@1080ti_32").
    Latencies under 0.05 ms on pixel3 and raspi4 belong to cells that connect nothing. Group: the isomorphism class with
    its sums in one order (`canonical_class`), as cells that compute the same function have the same text. Extra
    metrics: accuracy after 12 epochs, and parameters and operations, which are computed and not measured.
    """
    group = canonical_class(row["isomorphism_class"])
    # Hundreds of cells that connect nothing, all at chance: under this name the default split trains on them. Without them in
    # training a model cannot know what they are; in a test they would be one network counted hundreds of times.
    return _graph("nasbench201", row["arch_str"], "disconnected" if group == "#" else group)


def canonical_class(expression: str) -> str:
    """Writes the isomorphism class of a NAS-Bench-201 cell in one way.

    The source writes the terms of a sum in the order of the edges, so that "(0)@nor_conv_3x3+0" and
    "0+(0)@nor_conv_3x3" are two classes of one network, and by them copies would fall in two splits. Here the terms are
    sorted, nested sums are joined, and "#", the edge without operator, is left out of sums with other terms; an
    operator on nothing is nothing.

    Args:
        expression: Sum of terms, each "0" (the input), "#", or a sum in brackets, with "@operator" after it or not.

    Raises:
        ValueError: Not such a sum.
    """
    tokens = re.findall(r"[()+#@]|[a-z]\w*|0|.", expression)
    position = 0

    def take(*expected: str) -> str:
        nonlocal position
        token = tokens[position] if position < len(tokens) else "the end"
        if expected and token not in expected:
            raise ValueError(f"column 'isomorphism_class': expected {' or '.join(expected)}, got {token}")
        position += 1
        return token

    def read_sum() -> list[str]:
        terms = read_term()
        while position < len(tokens) and tokens[position] == "+":
            take("+")
            terms = terms + read_term()
        return sorted(term for term in terms if term != "#") or ["#"]

    def read_term() -> list[str]:
        terms = [take("0", "#", "(")]
        if terms == ["("]:
            terms = read_sum()
            take(")")
        while position < len(tokens) and tokens[position] == "@":
            take("@")
            operator = take()
            if not operator.isidentifier():
                raise ValueError(f"column 'isomorphism_class': expected an operator after @, got {operator}")
            terms = ["#"] if terms == ["#"] else [f"({'+'.join(terms)})@{operator}"]
        return terms

    terms = read_sum()
    if position < len(tokens):
        raise ValueError(f"column 'isomorphism_class': {tokens[position]!r} after the end of the sum")
    return "+".join(terms)


@_task(
    "nas/nasbench101.parquet",
    columns=("hash", "adjacency", "ops"),
    metrics={"cifar10_valid_accuracy_percent": Column("val_acc_108", 100.0)},
    extra_metrics={
        "cifar10_valid_accuracy_4_epochs_percent": Column("val_acc_4", 100.0),
        "cifar10_valid_accuracy_12_epochs_percent": Column("val_acc_12", 100.0),
        "cifar10_valid_accuracy_36_epochs_percent": Column("val_acc_36", 100.0),
        "train_time_s": Column("train_time_s"),
        "params_count": Column("params", hardware=COMPUTED),
    },
    splits={"flan_train": "in_flan_train", "flan_test": "in_flan_test"},
    licence="Apache-2.0",
    hardware="TPU v2 (training)",
)
def nasbench101(row: dict[str, Any]) -> _Input:
    """NAS-Bench-101 cells with CIFAR-10 validation accuracy after 108 epochs.

    Source: NAS-Bench-101 (Apache-2.0); the cells are isomorphic representatives of the original ones. Text: the network
    as ONNX text, language "onnx". Unit: percent (the table has fractions, times 100). Group: the cell's hash. Splits
    "flan_train" and "flan_test" are those of the FLAN predictor. Extra metrics: accuracy after 4, 12 and 36 epochs,
    training seconds, and parameters, which are computed and not measured.
    """
    return _graph("nasbench101", {"adjacency": row["adjacency"], "ops": row["ops"]}, row["hash"])


@_task(
    "nas/nasbench_macro.parquet",
    columns=("arch",),
    metrics={"cifar10_test_accuracy_percent": Column("mean_acc")},
    extra_metrics={
        "params_count": Column("params", hardware=COMPUTED),
        "flops_count": Column("flops", hardware=COMPUTED),
    },
    licence="Apache-2.0",
    hardware="",
)
def nasbench_macro(row: dict[str, Any]) -> _Input:
    """NAS-Bench-Macro networks with CIFAR-10 accuracy, the mean of three trainings.

    Source: NAS-Bench-Macro (Apache-2.0). Text: the network as ONNX text, language "onnx". Unit: percent. Group: the
    architecture's string. Extra metrics: parameters and operations, computed and not measured.
    """
    return _graph("nasbench_macro", row["arch"], row["arch"])


_ACCEL_GENES = tuple(f"block{block}_{gene}" for block in range(7) for gene in ("e", "k", "l", "se"))


@_task(
    "nas/accel_nasbench.parquet",
    columns=("id", *_ACCEL_GENES),
    metrics={
        "imagenet_proxy_top1_accuracy_percent": Column("val_top1"),
        **_by_device(
            "throughput_images_per_s",
            "platform_perf.throughput_{}.throughput_mean",
            ("a100", "3090", "tpuv2", "tpuv3", "zcu102", "vck190"),
        ),
        **_by_device("latency_ms", "platform_perf.latency_{}.latency_mean", ("zcu102", "vck190")),
    },
    extra_metrics={
        "imagenet_proxy_top5_accuracy_percent": Column("val_top5"),
        "train_time_s": Column("train_time"),
        "params_count": Column("model_info.params", 1e6, COMPUTED),
        "macs_count": Column("model_info.macs", 1e6, COMPUTED),
    },
    licence="Apache-2.0",
    hardware="",
)
def accel_nasbench(row: dict[str, Any]) -> _Input:
    """MnasNet-like networks of Accel-NASBench with proxy accuracy and speed on six accelerators.

    Source: Accel-NASBench (Apache-2.0). Text: the network as ONNX text, language "onnx". Units: percent top-1 on
    ImageNet under the source's shortened training; images per second on A100, RTX 3090, TPU v2 and v3, and the FPGAs
    ZCU102 and VCK190; milliseconds on the FPGAs. Some throughputs are missing. Group: the network's id. Extra metrics:
    top-5, training seconds, and parameters and multiply-accumulates, computed and not measured.
    """
    return _graph("accel_nasbench", {gene: row[gene] for gene in _ACCEL_GENES}, row["id"])


@_task(
    "nas/fbnet.parquet",
    columns=("index", "ops"),
    metrics=_by_device("latency_ms", "lat_{}", _FBNET_DEVICES),
    extra_metrics={
        "params_count": Column("params", hardware=COMPUTED),
        "flops_count": Column("flops", hardware=COMPUTED),
    },
    licence="MIT (HELP)",
    hardware="",
)
def fbnet(row: dict[str, Any]) -> _Input:
    """FBNet networks of 22 blocks with latency on 27 device settings.

    Source: HELP (MIT). Text: the network as ONNX text, language "onnx". Unit: milliseconds of one forward pass; a
    number after a GPU's name is the batch. Latency on the 2080 Ti at batch 1 hardly follows the operations: that is
    noise. Group: the network's index. Extra metrics: parameters and operations, computed and not measured.
    """
    return _graph("fbnet", row["ops"], row["index"])


@_task(
    "nas/ofa.parquet",
    columns=("index", "ks", "e", "d", "r"),
    metrics=_by_device("latency_ms", "lat_{}", _OFA_DEVICES),
    licence="MIT (HELP)",
    hardware="",
)
def ofa(row: dict[str, Any]) -> _Input:
    """Once-for-all MobileNetV3 networks with latency on 12 GPU settings.

    Source: HELP (MIT). Text: the network as ONNX text, language "onnx"; the input's resolution is in its shape. Unit:
    milliseconds of one forward pass; the number after a GPU's name is the batch. Group: the network's index.
    """
    lists = {name: json.loads(row[name]) for name in ("ks", "e", "d")}
    return _graph("ofa", {**lists, "r": row["r"]}, row["index"])


@_task(
    "nas/darts_swap.parquet",
    columns=("genotype",),
    metrics={"cifar10_valid_accuracy_percent": Column("c10_val_acc")},
    licence="as published with SWAP-NAS",
    hardware="",
)
def darts(row: dict[str, Any]) -> _Input:
    """DARTS cells with CIFAR-10 validation accuracy.

    Source: the architectures that SWAP-NAS trained. Text: the network as ONNX text, language "onnx". Unit: percent.
    Group: the genotype.
    """
    return _graph("darts", row["genotype"], row["genotype"])


# timm


def timm_family(model: str) -> str:
    """Returns the family of a timm model, by which its rows are grouped.

    Left out are the pretraining tag, prefixes that name where weights come from ("tf_", "gluon_", "swsl_", ...),
    everything after the first underscore and everything from two digits on: "tf_efficientnet_b0.ns_jft_in1k" is
    "efficientnet", "resnet200d.ra2_in1k" is "resnet".
    """
    name = re.sub(r"^((tf|gluon|ig|ssl|swsl|legacy|jx|ens|adv|dm|test)_)+", "", model.split(".", 1)[0])
    first = name.split("_", 1)[0]
    return re.sub(r"\d{2,}.*$", "", first) or first


@lru_cache(maxsize=2048)
def _timm_text(model: str) -> str:
    """Returns the printed module tree of a timm model, built without weights."""
    try:
        import timm
    except ImportError as error:
        raise DataError(f"this task builds the models with timm: pip install 'code-rlm[timm]' ({error})") from error
    import torch

    with torch.device("meta"):
        return str(timm.create_model(model, pretrained=False))


@_task(
    "nas/timm_accuracy.parquet",
    columns=("model", "img_size"),
    metrics={
        "imagenet_top1_accuracy_percent": Column("imagenet_top1"),
        "imagenet_top5_accuracy_percent": Column("imagenet_top5"),
    },
    extra_metrics={
        "imagenet_real_top1_accuracy_percent": Column("imagenet-real_top1"),
        "imagenetv2_top1_accuracy_percent": Column("imagenetv2-matched-frequency_top1"),
        "imagenet_a_top1_accuracy_percent": Column("imagenet-a_top1"),
        "imagenet_r_top1_accuracy_percent": Column("imagenet-r_top1"),
        "sketch_top1_accuracy_percent": Column("sketch_top1"),
    },
    licence="Apache-2.0",
    hardware="",
)
def timm_accuracy(row: dict[str, Any]) -> _Input:
    """Pretrained models of timm with ImageNet accuracy. Needs the package timm.

    Source: timm's results (Apache-2.0). Text: the module tree as PyTorch prints it, language "pytorch". Context:
    "image_size: 224x224" and "weights: ns_jft_in1k", the pretraining tag, as one architecture has several. Unit:
    percent. Group: the model's family (`timm_family`). Extra metrics: accuracy on five other versions of ImageNet.
    """
    _, _, tag = row["model"].partition(".")
    weights = [f"weights: {tag}"] if tag else []
    return _Input(
        group=timm_family(row["model"]),
        build=(_timm_text, (row["model"],)),
        language="pytorch",
        context=[f"image_size: {row['img_size']}x{row['img_size']}", *weights],
    )


_TIMM_BENCH = re.compile(
    r"benchmark-(?P<mode>infer|train)-(?P<precision>[a-z0-9_]+)-(?P<layout>nchw|nhwc)-(?P<torch>pt\d+)-"
    r"(?P<cuda>cu\d+|cpu)-(?P<device>[a-z0-9_]+)(?P<dynamo>-dynamo)?"
)


@_task(
    "nas/timm_bench.parquet",
    columns=("bench", "model", "infer_batch_size", "infer_img_size", "train_batch_size", "train_img_size")
    + ("infer_step_time", "train_step_time"),
    metrics={
        "inference_images_per_s": Column("infer_samples_per_sec"),
        "inference_step_ms": Column("infer_step_time"),
        "train_images_per_s": Column("train_samples_per_sec"),
        "train_step_ms": Column("train_step_time"),
    },
    licence="Apache-2.0",
    hardware="",
)
def timm_speed(row: dict[str, Any]) -> _Input:
    """Models of timm with inference or training speed on several GPUs and CPUs. Needs the package timm.

    Source: timm's benchmark results (Apache-2.0). Text: the module tree as PyTorch prints it, language "pytorch".
    Context: batch size, image size, precision, memory layout, and whether the model was compiled. Units: images per
    second; milliseconds for a step over a batch. The device follows the @ ("inference_step_ms@rtx3090").
    A row without a time has the outcome runtime_error: the benchmark lists the model and has nothing for it. Group: the
    model's family.
    """
    match = _TIMM_BENCH.fullmatch(row["bench"])
    if match is None:
        raise ValueError(f"column 'bench': {row['bench']!r} does not name mode, precision, layout, versions and device")
    mode = match["mode"]
    device = {"4090": "rtx4090", "5090": "rtx5090"}.get(match["device"], match["device"])
    sizes = (("batch_size", row[f"{mode}_batch_size"]), ("image_size", row[f"{mode}_img_size"]))
    settings = [f"precision: {match['precision']}", f"layout: {match['layout']}"]
    settings += [f"compiled: {'yes' if match['dynamo'] else 'no'}"]
    prefix = {"infer": "inference", "train": "train"}[mode]
    return _Input(
        group=timm_family(row["model"]),
        build=(_timm_text, (row["model"],)),
        language="pytorch",
        context=[f"{name}: {int(size)}" for name, size in sizes if size is not None] + settings,
        metrics=[f"{prefix}_images_per_s", f"{prefix}_step_ms"],
        device=device,
        outcome="ok" if row[f"{mode}_step_time"] is not None else "runtime_error",
        hardware=device,
        versions=" ".join(part for part in (match["torch"], match["cuda"]) if part != "cpu"),
    )


__all__ = [
    "COMPUTED",
    "DATA_ROOT_VARIABLE",
    "TASKS",
    "Column",
    "Task",
    "canonical_class",
    "count_rows",
    "device_name",
    "input_size",
    "iter_task",
    "read_task",
    "timm_family",
]
