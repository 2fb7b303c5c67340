"""What commands write for people and for programs: tables, CSV, JSON, numbers in human units, progress, log lines.

On a terminal tables and progress bars are drawn by rich; elsewhere a table is plain text in columns.
"""

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

FORMATS = ("table", "json", "csv")
_HIDDEN = ContextVar("bars are hidden", default=False)


def log(text: str) -> None:
    """Writes a line to standard error."""
    print(text, file=sys.stderr, flush=True)


def human(value: float | str | None, unit: str) -> tuple[str, str]:
    """Returns a number and its unit as people write them: 1536 bytes as 1.5 KiB, 0.002 ms as 2 us."""
    if value is None or isinstance(value, str):
        return str(value), unit
    size = abs(value)
    scales = [(1.0, unit)]
    if unit == "bytes":
        scales = [(1024.0**-k, name) for k, name in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))]
    elif unit == "ms" and size:
        scales = [(1e6, "ns"), (1e3, "us"), (1.0, "ms"), (1e-3, "s")]
    # The largest unit of which there is at least one.
    scale, name = next(((s, n) for s, n in reversed(scales) if size * s >= 1), scales[0])
    value *= scale
    text = f"{value:.4g}" if scale == 1 else f"{value:.3g}"
    if "e+" in text and abs(value) < 1e15:  # thousands are written out: 1,000 KiB, 2,500 s
        text = f"{value:,.0f}"
    return text, name


def quantity(value: float | str | None, unit: str) -> str:
    """Returns a number with its unit in one text."""
    return " ".join(human(value, unit))


def write_table(head: Sequence[str], lines: Iterable[Sequence[str]], out: TextIO) -> None:
    """Writes a table: drawn by rich on a terminal, otherwise as plain text in columns with two spaces between.

    Args:
        head: Titles of the columns.
        lines: Cells of each row.
        out: Where to.
    """
    rows = [tuple(line) for line in lines]
    if out.isatty():
        _write_rich_table(head, rows, out)
        return
    widths = [max(len(line[column]) for line in [tuple(head), *rows]) for column in range(len(head))]
    for line in [tuple(head), *rows]:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        out.write("  ".join(cells).rstrip() + "\n")


def _write_rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], out: TextIO) -> None:
    """Writes a table with rich; columns without any text are left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    kept = [column for column in range(len(head)) if head[column] or any(row[column] for row in rows)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in kept:
        table.add_column(Text(head[column]), overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[column]) for column in kept))
    Console(file=out).print(table)


def write_facts(lines: Iterable[str], out: TextIO) -> None:
    """Writes lines of the form `name: value`, one below the other; on a terminal the names stand out."""
    if not out.isatty():
        out.writelines(f"{line}\n" for line in lines)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out)
    for line in lines:
        name, colon, value = line.partition(": ")
        console.print(Text.assemble((name + colon, "bold"), value), soft_wrap=True)


def write_markdown(text: str, out: TextIO) -> None:
    """Writes Markdown: rendered by rich on a terminal, otherwise as it is."""
    if not out.isatty():
        out.write(text + "\n")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(file=out).print(Markdown(text))


def write_json(rows: Sequence[Mapping[str, Any]], out: TextIO) -> None:
    """Writes one list of objects."""
    json.dump(rows, out, indent=1, allow_nan=False)
    out.write("\n")


def write_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], out: TextIO) -> None:
    """Writes one line per row, with a header; other keys of a row are left out."""
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def with_progress(parts: Sequence[Sequence[Any]], total: int, unit: str) -> Iterator[Sequence[Any]]:
    """Yields parts of a whole; on a terminal a progress bar counts their items where there are many.

    Args:
        parts: The parts.
        total: Items in all of them.
        unit: What an item is, for the bar.
    """
    if total < 64 or not shows_bars():
        yield from parts
        return
    with ProgressBar(total, unit) as bar:
        for part in parts:
            yield part
            bar.advance(len(part))


def progress(total: int, unit: str) -> "AbstractContextManager[ProgressBar | NoBar]":
    """Returns a progress bar to advance by hand; elsewhere than on a terminal one that shows nothing.

    Args:
        total: Where it ends.
        unit: What is counted.
    """
    return ProgressBar(total, unit) if shows_bars() else NoBar()


@contextmanager
def without_bars() -> Iterator[None]:
    """Shows no progress bars, also on a terminal."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def shows_bars() -> bool:
    """Returns whether a progress bar would be shown now."""
    return sys.stderr.isatty() and not _HIDDEN.get() and not ProgressBar.shown


class NoBar:
    """Stands where no progress is shown; a context manager like `ProgressBar`."""

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, steps: int) -> None:
        """Shows nothing."""


class ProgressBar:
    """A bar of rich on standard error, with count, speed and time left; a context manager.

    Args:
        total: Where it ends.
        unit: What is counted.
        start: Where it begins.

    Attributes:
        shown: Whether any bar is on the screen; work inside other work shows none of its own.
    """

    shown = False

    def __init__(self, total: int, unit: str, start: int = 0):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn(elapsed_when_finished=True))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(unit, total=total, completed=start)
        self.count = start

    def __enter__(self) -> "ProgressBar":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Puts the bar on the screen."""
        self._progress.start()
        ProgressBar.shown = True

    def advance(self, steps: int) -> None:
        """Moves the bar on."""
        self.count += steps
        self._progress.advance(self._task, steps)

    def log(self, text: str) -> None:
        """Writes a line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Takes the bar away."""
        self._progress.stop()
        ProgressBar.shown = False


__all__ = [
    "FORMATS", "NoBar", "ProgressBar", "human", "log", "progress", "quantity", "shows_bars", "with_progress", "without_bars",
    "write_csv", "write_facts", "write_json", "write_markdown", "write_table",
]  # fmt: skip
