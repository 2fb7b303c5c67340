"""LeetCodeDataset measured: peak memory of each solution on the inputs of its asserts, and on larger ones made of them.

    code-rlm measure leetcode --data-root DATA --out measured/leetcode

`DATA/python/LeetCodeDataset-v0.2.0-train.jsonl.gz` (MIT) has 1,890 problems, each with a solution and a few asserts. A row is
one call: the solution is the text, the arguments stand in the context as they are or, where they are long, by their sizes, so
that text and context together determine the number. The value is tracemalloc's peak of the call alone: arguments are made
before it is traced. Group: the problem.

Asserts are tiny, so each problem is also run on inputs of about 50, 500 and 5,000 items, grown from its largest assert
(`enlarge`). Nobody knows the right answer to these, nor whether they keep the problem's rules: a solution that raises on one
has been asked something it need not answer, so such a row is counted and left out. Its line is in the journal.

    code-rlm measure leetcode --data-root DATA --solutions solutions.parquet --sizes 500 5000 --out measured/solutions

measures other people's Python solutions of the same problems, on the first assert and on the same larger inputs, so that
solutions of a problem can be ranked. The table has the columns text, language and task_id. Arguments are passed by position,
since people name them as they like.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import logging
import math
import os
import random
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from code_rlm_data.measure.observers import Protocol
from code_rlm_data.measure.programs import Limits, MeasureError, Program
from code_rlm_data.measure.session import measure_programs

logger = logging.getLogger(__name__)

SOURCE_FILE = "python/LeetCodeDataset-v0.2.0-train.jsonl.gz"
TABLE_FILE = "python/leetcode_memory.parquet"
SOLUTIONS_FILE = "python/leetcode_solutions.parquet"
SIZES = (50, 500, 5000)
LIMITS = Limits(wall_s=20, cpu_s=2, memory_bytes=1 << 30, processes=4)
# No times, and two traced calls in place of eleven: the peak hardly ever changes from call to call, and the second shows where.
PROTOCOL = Protocol(call_repeats=0, call_traced=2)

_MATRIX_NAMES = ("grid", "matrix", "mat", "board", "image", "maze", "heights", "isconnected", "rooms", "graph")
# What LeetCode's judge imports for everyone. The data set's prompts hide the built-in pow; xrange of Python 2 is today's range.
_JUDGE_IMPORTS = """
import bisect, builtins, collections, copy, functools, heapq, itertools, math, operator, random, re, string
pow, xrange = builtins.pow, range
"""
_SETUP = "import sys\nsys.setrecursionlimit(20000)\n"


@dataclass(frozen=True)
class Wrapped:
    """An argument that the data set's helpers build: `list_node([1, 2])`."""

    helper: str
    value: Any

    def __repr__(self) -> str:
        return f"{self.helper}({self.value!r})"


def measure_leetcode(
    data_root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    limits: Limits = LIMITS,
    protocol: Protocol = PROTOCOL,
    sizes: tuple[int, ...] = SIZES,
    problems: int | None = None,
    seed: int = 0,
    workers: int = 1,
    resume: bool = True,
    solutions: str | os.PathLike | None = None,
) -> Path:
    """Measures the data set; returns the path of the table that the task `leetcode_memory` or `leetcode_solutions` reads.

    Args:
        data_root: Folder that holds `SOURCE_FILE`.
        out: Folder for the table; as a data root it serves the task.
        limits: Of one call.
        protocol: Calls of each row.
        sizes: Numbers of items that asserts are grown to.
        problems: At most so many problems, drawn by a hash of seed and name; a larger number keeps those drawn.
        seed: Of the inputs and of which problems.
        workers: Programs measured at once.
        resume: Go on from what is there.
        solutions: Table of solutions to measure in place of the data set's own: columns text, language, task_id.
    """
    programs = list(leetcode_programs(data_root, sizes=sizes, problems=problems, seed=seed, solutions=solutions))
    out = Path(out)
    path = measure_programs(
        programs,
        out / "all",
        limits=limits,
        protocol=protocol,
        metrics=["peak_memory_bytes"],
        workers=workers,
        resume=resume,
        source="leetcode_solutions" if solutions else "leetcode_memory",
    )
    table = pq.read_table(path)
    outcomes = table["outcome"].to_pylist()
    grown = [program.name.rpartition(" ")[2].startswith("size") for program in programs]
    keep = [not (large and outcome in ("runtime_error", "wrong_answer")) for large, outcome in zip(grown, outcomes)]
    flat = table.select(["text", "context", "group", "outcome", "hardware", "versions"])
    flat = flat.append_column(
        "peak_memory_bytes", pa.array([cell[0] for cell in table["values"].to_pylist()], pa.float64())
    )
    target = out / (SOLUTIONS_FILE if solutions else TABLE_FILE)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(flat.filter(keep), target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)
    counts = Counter((("grown" if large else "assert"), outcome) for large, outcome in zip(grown, outcomes))
    logger.info(
        "%s: %d rows; %d grown inputs on which the solution raised left out; %s",
        target,
        sum(keep),
        len(keep) - sum(keep),
        ", ".join(f"{kind} {outcome} {count}" for (kind, outcome), count in sorted(counts.items())),
    )
    return target


def leetcode_programs(
    data_root: str | os.PathLike,
    *,
    sizes: tuple[int, ...] = SIZES,
    problems: int | None = None,
    seed: int = 0,
    solutions: str | os.PathLike | None = None,
) -> Iterator[Program]:
    """Yields a program for every assert and every size of every problem.

    With `solutions` these are the Python solutions of that table, on the first assert and every size.

    Raises:
        MeasureError: A file is missing or not as expected.
    """
    path = Path(data_root) / SOURCE_FILE
    if not path.is_file():
        raise MeasureError(f"no file {path}; LeetCodeDataset v0.2.0 (train) must lie there below the data root")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    entries.sort(key=lambda entry: hashlib.sha256(f"{seed}\x00{entry['task_id']}".encode()).digest())
    texts = read_solutions(solutions) if solutions else None
    for entry in entries[:problems]:
        try:
            calls = _calls_of(entry, sizes, seed)
            if texts is None:
                yield from (_program(entry, each) for each in calls)
                continue
            shared = [each for each in calls if each.number in (0, None)]
            for place, text in enumerate(texts.get(entry["task_id"], ())):
                yield from (_program(entry, each, text, f" solution {place}") for each in shared)
        except (SyntaxError, ValueError, KeyError, IndexError) as error:
            raise MeasureError(f"{path}: problem {entry.get('task_id')!r}: {error}") from error


def read_solutions(path: str | os.PathLike) -> dict[str, list[str]]:
    """Returns the distinct Python solutions of each problem of a table with the columns text, language and task_id.

    Raises:
        MeasureError: The file cannot be read or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=["text", "language", "task_id"])
    except (OSError, pa.ArrowInvalid) as error:
        raise MeasureError(
            f"{path}: a parquet table with the columns text, language and task_id is needed: {error}"
        ) from error
    found: dict[str, dict[str, None]] = {}
    for row in table.to_pylist():
        if row["language"] == "python" and row["text"].strip():
            found.setdefault(row["task_id"], {})[row["text"]] = None
    return {task: list(texts) for task, texts in found.items()}


@dataclass(frozen=True)
class _Call:
    """One call of a problem's solution.

    Attributes:
        arguments: Name, or place as a string, to value.
        name: "assert 0", "size500".
        number: Of the assert; None for a grown input.
        check: Statements that test the result; empty for a grown input, whose answer nobody knows.
    """

    arguments: Mapping[str, Any]
    name: str
    number: int | None = None
    check: str = ""


def _calls_of(entry: Mapping[str, Any], sizes: tuple[int, ...], seed: int) -> list[_Call]:
    """Returns the calls of one problem: its asserts, and inputs grown from the largest of them."""
    calls = []
    for number, statement in enumerate(ast.parse(entry["test"]).body[0].body):
        check = f"candidate = lambda *_, **__: result\n{ast.unparse(statement)}"
        calls.append(_Call(_arguments(statement), f"assert {number}", number, check))
    largest = max((call.arguments for call in calls), key=lambda call: sum(map(count_items, call.values())))
    seen = {repr(call.arguments) for call in calls}
    for size in sizes:
        grown = enlarge(largest, size, random.Random(f"{seed}/{entry['task_id']}/{size}"))
        if repr(grown) not in seen:  # nothing in it could grow
            seen.add(repr(grown))
            calls.append(_Call(grown, f"size{size}"))
    return calls


def _program(entry: Mapping[str, Any], call: _Call, solution: str = "", suffix: str = "") -> Program:
    """Returns the program that makes one call of the problem's own solution, or of another one."""
    values = call.arguments
    positional = ", ".join(repr(value) for key, value in values.items() if solution or key.isdigit())
    named = ", ".join(f"{key!r}: {value!r}" for key, value in values.items() if not (solution or key.isdigit()))
    return Program(
        solution or entry["completion"],
        language="python",
        group=entry["task_id"],
        name=f"{entry['task_id']}{suffix} {call.name}",
        context=tuple(f"argument {key}: {describe(value)}" for key, value in values.items()),
        prelude=entry["prompt"] + (_JUDGE_IMPORTS if solution else ""),
        # The object is made before: in Python 3.11 each of the first 30 of a class is 8 bytes smaller than the one before.
        setup=f"{_SETUP}solve = {entry['entry_point']}\npositional, named = [{positional}], {{{named}}}",
        call="result = solve(*positional, **named)",
        check=call.check,
    )


def _arguments(statement: ast.stmt) -> dict[str, Any]:
    """Returns the arguments of the one call of `candidate` in an assert; a positional one is named by its place."""
    calls = [
        node
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "candidate"
    ]
    if len(calls) != 1:
        raise ValueError(f"expected one call of candidate in {ast.unparse(statement)[:80]!r}, found {len(calls)}")
    found = {str(place): _value(node) for place, node in enumerate(calls[0].args)}
    return found | {keyword.arg: _value(keyword.value) for keyword in calls[0].keywords}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1 and not node.keywords:
        return Wrapped(node.func.id, ast.literal_eval(node.args[0]))
    return ast.literal_eval(node)


# ---------------------------------------------------------------------------------------------------- sizes


def count_items(value: Any) -> int:
    """Returns how many characters and numbers an argument holds."""
    if isinstance(value, Wrapped):
        return count_items(value.value)
    if isinstance(value, (list, tuple)):
        return sum(map(count_items, value))
    return len(value) if isinstance(value, str) else 1


def describe(value: Any) -> str:
    """Returns an argument in words: as it is where it is short, otherwise by kind, sizes and range."""
    if isinstance(value, Wrapped):
        return f"{value.helper} of {describe(value.value)}"
    if len(repr(value)) <= 40:
        return repr(value).replace("\n", "\\n")
    if isinstance(value, str):
        return f"str of {len(value)} characters"
    if isinstance(value, (list, tuple)):
        return f"list of {len(value)} {_describe_items(list(value))}"
    return f"{type(value).__name__} of {len(repr(value))} characters"


def _describe_items(items: list) -> str:
    types = sorted({type(item).__name__ for item in items})
    if types in (["list"], ["str"]):
        lengths = _range(list(map(len, items)))
        if types == ["str"]:
            return f"str of {lengths} characters"
        return f"list of {lengths} {_describe_items(list(chain.from_iterable(items)))}"
    numbers = [item for item in items if isinstance(item, (int, float))]
    return " or ".join(types) + (f" from {_range(numbers)}" if numbers else "")


def _range(numbers: list) -> str:
    low = min(numbers, default=0)
    high = max(numbers, default=0)
    return f"{low}" if low == high else f"{low} to {high}"


def enlarge(call: Mapping[str, Any], size: int, rng: random.Random) -> dict[str, Any]:
    """Grows the arguments of a call until they hold about `size` items.

    All lists and strings grow by one factor, so that those of one length stay so. What an argument is like is kept: the
    range of its numbers, or a range that is its length (indices, nodes); distinct and sorted values; the letters of
    strings; the widths of rows that are records; rectangles. A number that is the length of another argument or one more than
    the largest index in it follows. Where there is nothing but numbers, they are multiplied.

    Args:
        call: Name to value.
        size: Items wanted.
        rng: Where everything random comes from.
    """
    held = sum(count_items(value) for value in call.values() if _grows(value))
    if not held:
        numbers = [value for value in call.values() if _is_int(value) and value > 1]
        factor = size / max(numbers, default=size)
        if factor <= 1:
            return dict(call)
        return {k: max(2, int(v * factor)) if _is_int(v) and v > 1 else v for k, v in call.items()}
    factor = size / held
    if factor <= 1:
        return dict(call)
    grown = {name: _grow(value, factor, rng, name) if _grows(value) else value for name, value in call.items()}
    for name, value in call.items():
        if _is_int(value) and value > 1:
            grown[name] = _follow(value, call, grown, factor)
    return grown


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ints_of(rows: Sequence[Sequence[Any]]) -> list[int]:
    """Returns the whole numbers of all rows."""
    return [item for item in chain.from_iterable(rows) if _is_int(item)]


def _grows(value: Any) -> bool:
    inner = value.value if isinstance(value, Wrapped) else value
    return isinstance(inner, (list, str)) and len(inner) > 0


def _follow(number: int, call: Mapping[str, Any], grown: Mapping[str, Any], factor: float) -> int:
    """Returns the number that stands to the grown arguments as it stood to those that it came with."""
    for name, value in call.items():
        if isinstance(value, (list, str)) and len(value) == number:
            return len(grown[name])
        if isinstance(value, list) and value and all(isinstance(row, list) for row in value):
            before = _ints_of(value)
            after = _ints_of(grown[name])
            if before and max(before) in (number, number - 1):
                return max(after) + number - max(before)
    return number


def _grow(value: Any, factor: float, rng: random.Random, name: str) -> Any:
    if isinstance(value, Wrapped):
        return Wrapped(value.helper, _grow(value.value, factor, rng, name))
    if isinstance(value, str):
        return _grow_string(value, round(len(value) * factor), rng)
    if all(isinstance(row, list) for row in value):
        widths = {len(row) for row in value}
        width = max(widths)
        is_matrix = len(widths) == 1 and (
            width > 3 or len(value) == width or any(part in name.lower() for part in _MATRIX_NAMES)
        )
        if is_matrix:
            side = math.sqrt(factor)
            shape = (max(1, round(len(value) * side)), max(1, round(width * side)))
            items = list(chain.from_iterable(value))
            drawn = _grow_items(items, shape[0] * shape[1], rng)
            return [drawn[start : start + shape[1]] for start in range(0, len(drawn), shape[1])]
        return _grow_records(value, max(1, round(len(value) * factor)), factor, rng)
    return _grow_items(value, max(1, round(len(value) * factor)), rng)


def _grow_string(text: str, length: int, rng: random.Random) -> str:
    """Returns letters at random from those there are; text with marks is repeated, as it may be an expression."""
    if text.isalnum():
        return "".join(rng.choices(text, k=length))
    return (text * (length // len(text) + 1))[: max(len(text), length // len(text) * len(text))]


def _grow_records(rows: list[list], count: int, factor: float, rng: random.Random) -> list[list]:
    """Rows like those there are, column by column. Whole numbers up to about the number of rows are taken for indices."""
    width = max(map(len, rows))
    numbers = _ints_of(rows)
    scale = factor if numbers and 0 <= max(numbers) <= len(rows) + 1 else 1
    columns = [[row[place] for row in rows if place < len(row)] for place in range(width)]
    lengths = [len(row) for row in rows]
    ascending = all(row == sorted(row) for row in rows) if numbers and len(numbers) == sum(lengths) else False
    seen: set[str] = set()
    grown = []
    for number in range(count):
        row = [_draw(columns[place], scale, rng) for place in range(lengths[number % len(rows)])]
        row = sorted(row) if ascending else row
        if len(rows) == len({repr(each) for each in rows}) and repr(row) in seen:
            row = [_draw(columns[place], scale, rng) for place in range(len(row))]
            row = sorted(row) if ascending else row
        seen.add(repr(row))
        grown.append(row)
    if len(rows) > 1 and rows == sorted(rows, key=repr):
        grown.sort(key=repr)
    return grown


def _draw(values: list, scale: float, rng: random.Random) -> Any:
    """Returns one value like some."""
    if values and all(map(_is_int, values)):
        return rng.randint(
            min(values), max(min(values), math.ceil(max(values) * scale) if max(values) > 0 else max(values))
        )
    value = rng.choice(values)
    return _grow_string(value, len(value), rng) if isinstance(value, str) and value else value


def _grow_items(items: list, count: int, rng: random.Random) -> list:
    """Returns numbers, strings and others like those there are."""
    if items and all(map(_is_int, items)):
        low = min(items)
        high = max(items)
        distinct = len(items) > 2 and len(set(items)) == len(items)
        if 0 <= low and high in (len(items) - 1, len(items)):
            high = count - len(items) + high
        if distinct:
            high = max(high, low + 2 * count) if high - low + 1 < count else high
            grown = rng.sample(range(low, high + 1), count)
        else:
            grown = [rng.randint(low, high) for _ in range(count)]
        if len(items) > 2 and items == sorted(items):
            grown.sort()
        elif len(items) > 2 and items == sorted(items, reverse=True):
            grown.sort(reverse=True)
        return grown
    if items and all(isinstance(item, str) for item in items):
        letters = sorted(set("".join(items))) or list(string.ascii_lowercase)
        if all(len(item) == 1 for item in items):
            return rng.choices(items, k=count)
        if all(item.isalnum() for item in items) and len(set(items)) == len(items):
            # Distinct words need more letters than a few short ones have.
            letters = sorted({*letters, *string.ascii_lowercase}) if all(item.islower() for item in items) else letters
            return ["".join(rng.choices(letters, k=len(rng.choice(items)) + 2)) for _ in range(count)]
        return rng.choices(items, k=count)
    # Trees are level by level with None for what is not there; the first items stand near the root.
    return [*items, *rng.choices(items, k=max(0, count - len(items)))]


__all__ = [
    "LIMITS",
    "PROTOCOL",
    "SIZES",
    "SOLUTIONS_FILE",
    "SOURCE_FILE",
    "TABLE_FILE",
    "Wrapped",
    "count_items",
    "describe",
    "enlarge",
    "leetcode_programs",
    "measure_leetcode",
    "read_solutions",
]
