"""Parts of a text that can be left out, and what leaving them out does to a prediction (occlusion).

Each part is left out in turn and the exact median is read again (Zeiler and Fergus 2014, arXiv 1311.2901; for text Li, Monroe
and Jurafsky 2016, arXiv 1612.08220). Source code has lines or blocks, assembly instructions, a printed ONNX graph operators.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .errors_rlm import InputError

UNITS = ("line", "block", "operator")
_CLOSING = re.compile(
    r"[\s)\]};,]*|end\b.*|else\b.*|elif\b.*|except\b.*|finally\b.*|catch\b.*|\}\s*(else|catch|finally)\b.*"
)
_ARGUMENT = re.compile(r"v\d+|[a-z]")


@dataclass(frozen=True)
class Part:
    """Lines of a text that are left out together.

    Attributes:
        name: What it is: the operator's name, else the text of its first line.
        lines: Numbers of its lines, from 0, ascending.
    """

    name: str
    lines: tuple[int, ...]


def default_unit(language: str | None) -> str:
    """Returns the kind of part for a language: operators of graphs, else lines."""
    return "operator" if language == "onnx" else "line"


def parts_of(text: str, unit: str, most: int = 128) -> list[Part]:
    """Divides a text into parts; blank lines belong to none.

    Args:
        text: The code, as the model reads it.
        unit: `line`, `block` (a line at the outermost indentation with all that is indented below it) or `operator` (all lines
            of a printed graph that apply the same operator, or that count the cost of one).
        most: More parts than this are joined with their neighbours, as evenly as possible.

    Raises:
        InputError: Another unit, or a text with one part only, which cannot be compared with anything.
    """
    if unit not in UNITS:
        raise InputError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}.")
    lines = text.splitlines()
    if unit == "operator":
        return _checked(_operators(lines))
    parts = _blocks(lines) if unit == "block" else [Part(line, (i,)) for i, line in enumerate(lines) if line.strip()]
    if len(parts) > most:
        ends = [round(k * len(parts) / most) for k in range(most + 1)]
        parts = [_joined(parts[start:end]) for start, end in pairwise(ends)]
    return _checked(parts)


def _checked(parts: list[Part]) -> list[Part]:
    if len(parts) < 2:
        raise InputError("The text has one part only, so there is nothing to compare it with; take a smaller unit.")
    return parts


def _joined(parts: Sequence[Part]) -> Part:
    return Part(parts[0].name, tuple(number for part in parts for number in part.lines))


def _blocks(lines: Sequence[str]) -> list[Part]:
    """Blocks by indentation; a line that only closes or continues the block before it belongs to that one."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    margin = min((_indentation(lines[number]) for number in filled), default=0)
    blocks: list[list[int]] = []
    for number in filled:
        line = lines[number]
        begins = _indentation(line) == margin and not _CLOSING.fullmatch(line.strip())
        if begins or not blocks:
            blocks.append([])
        blocks[-1].append(number)
    return [Part(lines[block[0]], tuple(block)) for block in blocks]


def _indentation(line: str) -> int:
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())


def _operators(lines: Sequence[str]) -> list[Part]:
    """Lines by the operator that they apply, in the order in which these first occur."""
    found: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        if words := line.split():
            found.setdefault(_operator(words), []).append(number)
    return [Part(name, tuple(numbers)) for name, numbers in found.items()]


def _operator(words: Sequence[str]) -> str:
    """Returns what a line of a printed graph is about.

    Lines read `conv x80 conv m184467` (what an operator costs in all), `def f`, `v1 = relu v0`, `v0 + relu v1` and `f x5` (five
    times block f).
    """
    if len(words) > 2 and re.fullmatch(r"x\d+", words[1]):
        return f"cost of {words[0]}"
    if words[0] == "def":
        return " ".join(words[:2])
    body = list(words[2:] if len(words) > 2 and words[1] == "=" else words)
    while len(body) > 2 and body[1] == "+" and _ARGUMENT.fullmatch(body[0]):
        body = body[2:]
    return body[0]


def without(text: str, lines: Sequence[int]) -> str:
    """Returns a text without some of its lines."""
    dropped = set(lines)
    return "".join(line for number, line in enumerate(text.splitlines(keepends=True)) if number not in dropped)


def effects(value: float, others: Sequence[float]) -> list[dict[str, Any]]:
    """Returns what leaving out each part does.

    Args:
        value: Median of the whole text.
        others: Median without each part.

    Returns:
        For each part `value_without`, `effect` (`value - value_without`, what the part adds), and `weight`, by which parts are
        ranked: the logarithm of `value / value_without` where both are above zero, else the effect. Without a number there is
        no effect (None), and the weight is 0.
    """
    found: list[dict[str, Any]] = []
    for other in others:
        if not math.isfinite(other):
            found.append({"value_without": None, "effect": None, "weight": 0.0})
            continue
        positive = value > 0 and other > 0
        weight = math.log(value / other) if positive else value - other
        found.append({"value_without": other, "effect": value - other, "weight": weight})
    return found


__all__ = ["UNITS", "Part", "default_unit", "effects", "parts_of", "without"]
