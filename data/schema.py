"""One table for every kind of measured text: the columns, one row of it, and the check that a table follows it.

    from code_rlm.data.schema import Example, to_dataset, validate

    rows = [Example("add eax, ebx", "x86asm", ["cycles"], [1.0], group="01d8")]
    print(validate(to_dataset(rows)))

Columns:

* ``text``, the input, and ``language``, its kind in lower case ("python", "x86asm", "triton", "onnx", ...).
* ``context``, lines of the form ``key: value`` that belong to the input but are not its text ("input_size: 1024x4096").
* ``metrics``, ``values``, ``units``: three lists of one length. The unit is part of the metric's name, the device
  follows an ``@`` ("latency_ms@pixel3"). A null value is a missing one; NaN and infinity are errors.
* ``group``: rows of one group never fall in two splits. ``source``: the data set the row comes from.
* ``outcome``: what happened when the row was measured. ``hardware`` and ``versions``: where, and with what.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset, Features, List, Value

from code_rlm.errors_rlm import RLMError

OUTCOMES = ("ok", "timeout", "compile_error", "runtime_error", "wrong_answer")

FEATURES = Features(
    {
        "text": Value("string"),
        "language": Value("string"),
        "context": List(Value("string")),
        "metrics": List(Value("string")),
        "values": List(Value("float64")),
        "units": List(Value("string")),
        "group": Value("string"),
        "source": Value("string"),
        "outcome": Value("string"),
        "hardware": Value("string"),
        "versions": Value("string"),
    }
)

# The longest ending that fits names the unit; "_s" must not win over "_per_s".
_UNIT_OF_ENDING = {
    "images_per_s": "images/s",
    "gb_per_s": "GB/s",
    "tflop_per_s": "TFLOP/s",
    "cycles": "cycles",
    "percent": "percent",
    "bytes": "bytes",
    "count": "count",
    "fraction": "fraction",
    "mb": "MB",
    "kb": "kB",
    "ms": "ms",
    "us": "us",
    "ns": "ns",
    "s": "s",
}

_VALIDATE_BATCH = 8192


class DataError(RLMError):
    """Anything wrong with data: a missing file or column, a bad cell, an unknown task."""


@lru_cache(maxsize=4096)
def unit_of(metric: str) -> str:
    """Returns the unit that a metric's name ends in, or "" where the name holds none.

    Args:
        metric: Name with an optional device, such as "latency_ms@pixel3".
    """
    name = metric.split("@", 1)[0]
    for ending, unit in _UNIT_OF_ENDING.items():
        if name == ending or name.endswith("_" + ending):
            return unit
    return ""


@dataclass
class Example:
    """One row of the schema.

    Attributes:
        text: The input; not empty.
        language: Kind of the input, lower case.
        metrics: Names of what was measured, no name twice.
        values: One number for each metric, None where it is missing.
        units: One for each metric; left out, they are read off the names.
        context: "key: value" lines.
        group: What never falls in two splits.
        source: Name of the data set.
        outcome: One of `OUTCOMES`.
        hardware: Machine or device that was measured.
        versions: Software that took part, such as "python 3.12.3; numpy 2.1".
    """

    text: str
    language: str
    metrics: list[str]
    values: list[float | None]
    units: list[str] | None = None
    context: list[str] = field(default_factory=list)
    group: str = ""
    source: str = ""
    outcome: str = "ok"
    hardware: str = ""
    versions: str = ""

    def __post_init__(self) -> None:
        if self.units is None:
            self.units = [unit_of(metric) for metric in self.metrics]

    def as_dict(self) -> dict[str, Any]:
        """Returns the row as a dictionary in the order of the columns."""
        return {name: getattr(self, name) for name in FEATURES}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: which row (counted from 0), which column, and what."""

    row: int | None
    column: str
    message: str

    def __str__(self) -> str:
        where = "" if self.row is None else f"row {self.row}, "
        return f"{where}column {self.column!r}: {self.message}"


@dataclass
class Report:
    """What `validate` saw. Counts cover every row, sound or not.

    Attributes:
        rows: Rows looked at.
        values: Numbers present.
        missing: Null values.
        rows_without_value: Rows whose values are all null, or that have none.
        metrics: Metric to how many rows have a number for it.
        outcomes: Outcome to rows.
        languages: Language to rows.
        groups: Distinct groups that are not empty.
        rows_without_group: Rows whose group is empty.
        problem_count: Everything wrong.
        problems: The first of them, at most as many as asked for.
    """

    rows: int = 0
    values: int = 0
    missing: int = 0
    rows_without_value: int = 0
    metrics: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    languages: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    rows_without_group: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def __str__(self) -> str:
        lines = [
            f"{self.rows} rows, {self.groups} groups, {self.values} values, {self.missing} missing, "
            f"{self.rows_without_value} rows without a value, {self.rows_without_group} rows without a group",
            "outcomes: " + ", ".join(f"{name} {count}" for name, count in sorted(self.outcomes.items())),
            "languages: " + ", ".join(f"{name} {count}" for name, count in sorted(self.languages.items())),
            "metrics: " + ", ".join(f"{name} {count}" for name, count in sorted(self.metrics.items())),
            f"{self.problem_count} problems",
        ]
        lines += [f"  {problem}" for problem in self.problems]
        if self.problem_count > len(self.problems):
            lines.append(f"  and {self.problem_count - len(self.problems)} more")
        return "\n".join(lines)


def to_dataset(rows: Iterable[Example | Mapping[str, Any]]) -> Dataset:
    """Builds a Dataset in the schema.

    Args:
        rows: Examples, or dictionaries with the schema's columns. None in `values` stays null.

    Raises:
        DataError: A row has a column too many or too few, or a cell of another type, naming row and column.
    """
    columns: dict[str, list] = {name: [] for name in FEATURES}
    for index, row in enumerate(rows):
        cells = row.as_dict() if isinstance(row, Example) else row
        _check_names(list(cells), f"row {index}")
        for name, column in columns.items():
            column.append(cells[name])
    arrays = []
    for schema_field in FEATURES.arrow_schema:
        try:
            arrays.append(pa.array(columns[schema_field.name], type=schema_field.type, from_pandas=False))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise DataError(_first_bad_cell(columns[schema_field.name], schema_field, error)) from None
    return Dataset(pa.Table.from_arrays(arrays, schema=FEATURES.arrow_schema))


def validate(data: Any, *, source: str = "", strict: bool = True, max_problems: int = 20) -> Report:
    """Checks that a table follows the schema, row by row, and counts what is in it.

    Wrong are: a column missing or unknown, a cell of another type, empty text, a language that is empty or not lower
    case, a context line that is not "key: value", lists of different lengths, an empty or repeated metric, NaN or
    infinity, a unit that contradicts the metric's name, and an unknown outcome. Nothing is changed and nothing dropped.

    Args:
        data: A datasets.Dataset, a pyarrow Table, a pandas DataFrame, or a sequence of `Example` or dictionaries.
        source: Name of the data for the messages.
        strict: Raise when something is wrong; otherwise only report it.
        max_problems: How many problems to keep in full; the rest is counted.

    Returns:
        The counts, and the problems.

    Raises:
        DataError: Something is wrong and `strict` is set.
    """
    report = Report()
    metrics: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    groups: set[str] = set()

    def add(row: int | None, column: str, message: str) -> None:
        report.problem_count += 1
        if len(report.problems) < max_problems:
            report.problems.append(Problem(row, column, message))

    absent: set[str] = set()
    for start, names, batch in _batches(data):
        for name in FEATURES:
            if name not in names and name not in absent:
                absent.add(name)
                add(None, name, f"missing; the table has {', '.join(map(str, names)) or 'no columns'}")
        for name in names:
            if name not in FEATURES and name not in absent:
                absent.add(name)
                add(None, str(name), f"not in the schema, which has {', '.join(FEATURES)}")
        for offset, cells in enumerate(batch):
            row = start + offset
            report.rows += 1
            _check_row(row, cells, add)
            values = cells.get("values")
            numbers = 0
            if isinstance(values, (list, tuple)):
                numbers = sum(value is not None for value in values)
                report.values += numbers
                report.missing += len(values) - numbers
                if isinstance(cells.get("metrics"), (list, tuple)):
                    metrics.update(m for m, v in zip(cells["metrics"], values) if v is not None and isinstance(m, str))
            report.rows_without_value += numbers == 0
            if isinstance(cells.get("outcome"), str):
                outcomes[cells["outcome"]] += 1
            if isinstance(cells.get("language"), str):
                languages[cells["language"]] += 1
            if isinstance(cells.get("group"), str) and cells["group"]:
                groups.add(cells["group"])
            else:
                report.rows_without_group += 1
    report.metrics = dict(metrics)
    report.outcomes = dict(outcomes)
    report.languages = dict(languages)
    report.groups = len(groups)
    if strict and not report.ok:
        name = f"{source}: " if source else ""
        shown = "\n".join(f"  {problem}" for problem in report.problems)
        more = report.problem_count - len(report.problems)
        rest = f"\n  and {more} more; validate(..., strict=False) returns a report with the counts" if more else ""
        raise DataError(f"{name}{report.problem_count} problems in {report.rows} rows:\n{shown}{rest}")
    return report


def _check_names(names: Sequence[str], where: str) -> None:
    """Raises where a row's columns are not the schema's."""
    missing = [name for name in FEATURES if name not in names]
    unknown = [name for name in names if name not in FEATURES]
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
        raise DataError(f"{where}: columns {'; '.join(parts)}. The schema has {', '.join(FEATURES)}")


def _first_bad_cell(cells: list, schema_field: pa.Field, error: Exception) -> str:
    """Describes which cell of a column does not fit its type."""
    for row, cell in enumerate(cells):
        try:
            pa.array([cell], type=schema_field.type, from_pandas=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            shown = repr(cell)
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            return f"row {row}, column {schema_field.name!r}: expected {schema_field.type}, got {shown}"
    return f"column {schema_field.name!r}: {error}"


def _batches(data: Any) -> Iterable[tuple[int, list[str], list[dict]]]:
    """Yields (first row's number, column names, rows as dictionaries) over any table."""
    if isinstance(data, pd.DataFrame):
        records = data.to_dict("records")
        yield 0, list(data.columns), [{k: _as_list(v) for k, v in record.items()} for record in records]
    elif isinstance(data, pa.Table):
        # Even an empty table has columns to check.
        for start in range(0, max(data.num_rows, 1), _VALIDATE_BATCH):
            yield start, data.column_names, data.slice(start, _VALIDATE_BATCH).to_pylist()
    elif isinstance(data, Dataset):
        plain = data.with_format("arrow")
        for start in range(0, max(len(plain), 1), _VALIDATE_BATCH):
            table = plain[start : start + _VALIDATE_BATCH] if len(plain) else plain.data.table
            yield start, plain.column_names, table.to_pylist()
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, Mapping)):
        for row, cells in enumerate(data):
            cells = cells.as_dict() if isinstance(cells, Example) else cells
            if not isinstance(cells, Mapping):
                raise DataError(f"row {row}: expected an Example or a dictionary, got {type(cells).__name__}")
            yield row, list(cells), [{k: _as_list(v) for k, v in cells.items()}]
    else:
        raise DataError(
            f"cannot validate {type(data).__name__}; give a datasets.Dataset, a pyarrow Table, a pandas DataFrame "
            "or a list of Examples"
        )


def _as_list(cell: Any) -> Any:
    """Turns an array or a NumPy number into plain Python, and leaves the rest."""
    return cell.tolist() if hasattr(cell, "tolist") else cell


def _check_row(row: int, cells: Mapping[str, Any], add: Any) -> None:
    """Calls `add(row, column, message)` for all that is wrong with one row."""
    for name in ("text", "language", "group", "source", "outcome", "hardware", "versions"):
        if name in cells and not isinstance(cells[name], str):
            add(row, name, f"expected str, got {_named(cells[name])}")
    text = cells.get("text")
    language = cells.get("language")
    outcome = cells.get("outcome")
    if isinstance(text, str) and not text.strip():
        add(row, "text", "empty text")
    if isinstance(language, str) and (not language.strip() or language != language.lower()):
        add(row, "language", f"{language!r} must be lower case and not empty")
    if isinstance(outcome, str) and outcome not in OUTCOMES:
        add(row, "outcome", f"unknown outcome {outcome!r}; known are {', '.join(OUTCOMES)}")

    lists: dict[str, list] = {}
    for name, kind in (("context", str), ("metrics", str), ("units", str), ("values", float)):
        if name not in cells:
            continue
        cell = cells[name]
        if not isinstance(cell, (list, tuple)):
            add(row, name, f"expected a list, got {_named(cell)}")
            continue
        lists[name] = list(cell)
        for position, item in enumerate(cell):
            if kind is str and not isinstance(item, str):
                add(row, name, f"item {position}: expected str, got {_named(item)}")
            elif kind is float and item is not None:
                if isinstance(item, bool) or not isinstance(item, (int, float)):
                    add(row, name, f"item {position}: expected a number or null, got {_named(item)}")
                elif not math.isfinite(item):
                    add(row, name, f"item {position}: {item} is not a number to learn; a missing value is null")
    for position, line in enumerate(lists.get("context", [])):
        if isinstance(line, str) and (":" not in line or "\n" in line):
            add(row, "context", f"item {position}: {line!r} is not one line of the form 'key: value'")
    metrics = lists.get("metrics")
    if metrics is None:
        return
    for name in ("values", "units"):
        if name in lists and len(lists[name]) != len(metrics):
            add(row, name, f"{len(lists[name])} {name} for {len(metrics)} metrics")
    if "" in metrics:
        add(row, "metrics", f"item {metrics.index('')}: empty name")
    names = [metric for metric in metrics if isinstance(metric, str)]
    if len(set(names)) != len(names):
        add(row, "metrics", f"{', '.join(sorted(m for m, n in Counter(names).items() if n > 1))} more than once")
    for metric, unit in zip(metrics, lists.get("units", [])):
        if isinstance(metric, str) and isinstance(unit, str) and unit and unit_of(metric) not in ("", unit):
            add(row, "units", f"{unit!r} contradicts the metric's name {metric!r}, whose unit is {unit_of(metric)!r}")


def _named(value: Any) -> str:
    """Names a wrong cell by type and, shortened, by value."""
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


__all__ = ["FEATURES", "OUTCOMES", "DataError", "Example", "Problem", "Report", "to_dataset", "unit_of", "validate"]
