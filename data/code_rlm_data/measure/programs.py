"""What is measured: programs and the limits that they run under, and where they are read from.

from code_rlm_data.measure import Program, read_programs

one = Program("print(sum(map(int, input().split())))", "python", stdin="1 2\\n", expected_stdout="3\\n")
many = read_programs("solutions/")  # or a table: parquet, CSV, JSONL
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from code_rlm.data.external import read_cells
from code_rlm.errors_rlm import RLMError
from code_rlm.onnx_text_rlm import onnx_to_text
from code_rlm_data.measure.toolchains import LANGUAGE_OF_SUFFIX


class MeasureError(RLMError):
    """A program, option or tool with which nothing can be measured."""


@dataclass(frozen=True)
class Program:
    """One program with one input: one row of the data set.

    Attributes:
        text: Source code, also the text of the row.
        language: One of `TOOLCHAINS`.
        stdin: What the program reads.
        expected_stdout: What it must print; spaces at the ends of lines and the text do not count. None accepts all.
        group: What never falls in two splits; empty, equal texts make a group.
        name: For messages and the details of a run; not part of the row.
        context: "key: value" lines of the row.
        arguments: Command line arguments.
        prelude: Python only, for metrics of a call: code that runs before the text, once.
        setup: Python only, for metrics of a call: statements that run before every call and are not measured.
        call: Python only: the statements that are measured; by default the text itself.
        check: Python only: statements that run after the first call; an AssertionError is a wrong answer.
        file: Path of the model, where `text` is not what runs (ONNX).
    """

    text: str
    language: str
    stdin: str = ""
    expected_stdout: str | None = None
    group: str = ""
    name: str = ""
    context: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    prelude: str = ""
    setup: str = ""
    call: str = ""
    check: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise MeasureError(f"program {self.name or '(no name)'}: empty text; give its source code")
        object.__setattr__(self, "context", tuple(self.context))
        object.__setattr__(self, "arguments", tuple(self.arguments))
        if not self.group:
            object.__setattr__(self, "group", hashlib.sha256(self.text.encode()).hexdigest()[:16])

    def digest(self) -> str:
        """Returns the SHA-256 of all that distinguishes this program from another, in hex."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Limits:
    """What one run of a program may use. Every field is checked to be positive."""

    wall_s: float = field(default=10.0, metadata={"help": "seconds on the clock"})
    cpu_s: float = field(default=10.0, metadata={"help": "seconds of processor time, in each process"})
    memory_bytes: int = field(default=2 << 30, metadata={"help": "resident bytes of all its processes together"})
    processes: int = field(default=64, metadata={"help": "processes and threads at once"})
    output_bytes: int = field(default=16 << 20, metadata={"help": "bytes on standard output and standard error"})
    file_bytes: int = field(default=64 << 20, metadata={"help": "bytes in files, all together"})

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise MeasureError(
                    f"limit {each.name} must be a number over 0 ({each.metadata['help']}), got {value!r}"
                )


RUN_LIMITS = Limits()
BUILD_LIMITS = Limits(wall_s=120, cpu_s=120, memory_bytes=4 << 30, processes=256, file_bytes=1 << 30)

_OPTIONAL = ("stdin", "expected_stdout", "group", "name", "prelude", "setup", "call", "check", "context", "arguments")


def read_programs(path: str | os.PathLike, *, language: str | None = None) -> Iterator[Program]:
    """Yields the programs of a file, a folder or a table.

    A folder is walked in order of names; a file `NAME.SUFFIX` is a program if its suffix is known. Inputs lie beside it:
    `NAME.in` is its standard input, `NAME.out` what it must print, and `NAME/*.in` with `NAME/*.out` several inputs, each
    giving a program. The folder that holds the program names its group, if it is not the one given.

    A table (.parquet, .csv, .tsv, .jsonl, .json) has the columns `text` and, unless given, `language`, and any of `stdin`,
    `expected_stdout`, `group`, `name`, `prelude`, `setup`,
    `call`, `check`, `context` and `arguments`. The
    last two are lists, in text formats written as JSON; other columns are left alone.

    Args:
        path: Where the programs are.
        language: Language of every program; by default that of the suffix or the column.

    Raises:
        MeasureError: Nothing there, or a row that is no program, naming it.
    """
    path = Path(path)
    if not path.exists():
        raise MeasureError(f"no file or folder {path}; give a folder of programs, a program or a table of programs")
    if path.is_dir():
        found = 0
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(each for each in folders if not each.startswith(".") and each != "__pycache__")
            for name in sorted(names):
                file = Path(folder, name)
                if (language or LANGUAGE_OF_SUFFIX.get(file.suffix)) and file.suffix not in (".in", ".out"):
                    found += 1
                    yield from _programs_of_file(file, path, language)
        if not found:
            raise MeasureError(f"{path} holds no program; known suffixes: {' '.join(sorted(LANGUAGE_OF_SUFFIX))}")
    elif path.suffix in LANGUAGE_OF_SUFFIX or (language and path.suffix not in _TABLES):
        yield from _programs_of_file(path, path.parent, language)
    elif path.name.removesuffix(".gz").endswith(_TABLES):
        yield from _programs_of_table(path, language)
    else:
        known = " ".join(sorted([*LANGUAGE_OF_SUFFIX, *_TABLES]))
        raise MeasureError(f"{path}: the suffix is of no known language; pass --language, or use one of {known}")


_TABLES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")


def _programs_of_file(file: Path, root: Path, language: str | None) -> Iterator[Program]:
    """Yields a file's program, once for every input beside it."""
    language = language or LANGUAGE_OF_SUFFIX[file.suffix]
    name = file.relative_to(root).as_posix()
    group = file.parent.relative_to(root).as_posix() if file.parent != root else ""
    text = onnx_to_text(file) if language == "onnx" else _read(file)
    inputs = sorted(file.with_suffix("").glob("*.in")) if file.with_suffix("").is_dir() else []
    if not inputs:
        inputs = [file.with_suffix(".in")]
    for each in inputs:
        expected = each.with_suffix(".out")
        yield Program(
            text,
            language,
            stdin=_read(each) if each.is_file() else "",
            expected_stdout=_read(expected) if expected.is_file() else None,
            group=group,
            name=name if len(inputs) == 1 else f"{name} {each.stem}",
            file=str(file.resolve()) if language == "onnx" else "",
        )


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise MeasureError(f"{file}: not UTF-8 text (byte {error.start})") from None


def _programs_of_table(path: Path, language: str | None) -> Iterator[Program]:
    needed = ["text"] if language else ["text", "language"]
    for place, cells in read_cells(path, needed, _OPTIONAL):
        values = {name: cell for name, cell in cells.items() if cell is not None and cell != ""}
        if language:
            values["language"] = language
        for name in ("context", "arguments"):
            values[name] = _items(values.get(name, ()), f"{path}: {place}, column {name!r}")
        values.setdefault("name", place)
        try:
            yield Program(**values)
        except (MeasureError, TypeError) as error:
            raise MeasureError(f"{path}: {place}: {error}") from None


def _items(cell: Any, where: str) -> Sequence[str]:
    """Returns a cell that holds a list of strings, in text formats as JSON."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except json.JSONDecodeError as error:
            raise MeasureError(f"{where}: expected a list written as JSON, got {cell[:60]!r} ({error})") from None
    if not isinstance(cell, (list, tuple)) or not all(isinstance(each, str) for each in cell):
        raise MeasureError(f"{where}: expected a list of strings, got {str(cell)[:60]!r}")
    return cell


__all__ = ["BUILD_LIMITS", "RUN_LIMITS", "Limits", "MeasureError", "Program", "read_programs"]
