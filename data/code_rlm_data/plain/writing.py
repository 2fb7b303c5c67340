"""Writes a program: a template, sizes that were drawn for a target, names, spelled numbers, and a way to declare sizes."""

from __future__ import annotations

import math
import random
import re
from dataclasses import dataclass

from code_rlm_data.plain.declarations import choose_place
from code_rlm_data.plain.names import SIGILS, Names
from code_rlm_data.plain.numerals import is_plain, spell
from code_rlm_data.plain.styles import restyle
from code_rlm_data.plain.templates import Template, choose

MOST_BYTES = 3.0e9
MOST_NS = 12e9
_LEAST_BYTES = 3e5
_LEAST_NS = 1e6
_LEAST_SIZE = 1e4
_SMALL = 0.15  # share of programs whose size is small whatever they do
_HOLE = re.compile(r"⟦([^⟦⟧]*)⟧")
_DRAWN = re.compile(r"^(\d+)\.\.(\d+)$")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a program and what it is expected to need."""

    n: int
    m: int
    bytes: float
    ns: float


def draw_sizes(template: Template, rng: random.Random) -> Sizes:
    """Draws sizes: a target in bytes or seconds on a logarithmic scale, and the largest round n that keeps to it."""
    m = rng.choice(template.second) if template.second else 1
    if not template.by:
        return Sizes(1, m, template.bytes_of(1, m), template.ns_of(1, m))
    by = rng.choice(("mem", "time")) if template.by == "both" else template.by
    most_bytes = MOST_BYTES
    most_ns = MOST_NS
    if by == "size":
        n = round(_log_uniform(_LEAST_SIZE, template.most, rng))
    elif rng.random() < _SMALL:
        most_ns = 20e6
        n = min(round(_log_uniform(2, 3000, rng)), _largest(template, m, 1e6, most_ns))
    elif by == "mem":
        most_bytes = _log_uniform(_LEAST_BYTES, MOST_BYTES, rng)
        n = _largest(template, m, most_bytes, MOST_NS * rng.uniform(0.3, 1))
    else:
        most_ns = _log_uniform(_LEAST_NS, MOST_NS, rng)
        n = _largest(template, m, MOST_BYTES, most_ns)
    n = max(1, min(_rounded(n, rng), template.most))
    return Sizes(n, m, template.bytes_of(n, m), template.ns_of(n, m))


def _log_uniform(low: float, high: float, rng: random.Random) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _largest(template: Template, m: int, most_bytes: float, most_ns: float) -> int:
    """Returns the largest n within both limits, 1 if there is none."""
    low = 1
    high = template.most
    while low < high:
        middle = (low + high + 1) // 2
        if template.bytes_of(middle, m) <= most_bytes and template.ns_of(middle, m) <= most_ns:
            low = middle
        else:
            high = middle - 1
    return low


def _rounded(value: int, rng: random.Random) -> int:
    """Rounds down to a number as people choose them: one or two digits and zeros, a power of two, or any."""
    draw = rng.random()
    if value < 20 or draw < 0.08:
        return value
    if draw < 0.25:
        return 1 << (value.bit_length() - 1)
    digits = 1 if draw < 0.65 else 2 if draw < 0.88 else 3
    unit = 10 ** max(len(str(value)) - digits, 0)
    return value // unit * unit


def write(template: Template, sizes: Sizes, rng: random.Random) -> str:
    """Returns the text of a program."""
    names = Names(template.language, rng)
    text = choose(template.text, rng)
    text = re.sub(r"§([A-Za-z]+\d?)", lambda match: names.of(match.group(1)), text)
    text = _HOLE.sub(lambda match: _draw(match, rng), text)
    if template.by:
        text = _with_sizes(template, text, sizes, names, rng)
    return restyle(text, template.language, rng)


def _draw(match: re.Match[str], rng: random.Random) -> str:
    bounds = _DRAWN.match(match.group(1))
    return str(rng.randint(int(bounds.group(1)), int(bounds.group(2)))) if bounds else match.group(0)


def _with_sizes(template: Template, text: str, sizes: Sizes, names: Names, rng: random.Random) -> str:
    """Fills the holes of sizes: with literals, or with names that are declared where the language and the text allow it."""
    values = {"n": sizes.n, "m": sizes.m}
    used = [key for key in values if any(re.search(rf"\b{key}\b", hole) for hole in _HOLE.findall(text))]
    place = choose_place(template, text, rng)
    if place is None or not used:
        spelled: dict[int, str] = {}
        return _HOLE.sub(lambda match: _literal(match, text, values, template, spelled, rng), text)
    called = {key: names.of(key).upper() if place.capitals else names.of(key) for key in used}
    constant = template.language == "php"  # constants there have no sigil
    sigil = "$" if template.language in SIGILS and not constant else ""

    def named(match: re.Match[str]) -> str:
        expression = match.group(1)
        for key, name in called.items():
            expression = re.sub(rf"\b{key}\b", lambda _, name=name: f"{sigil}{name}", expression)
        alone = re.fullmatch(r"[\w$]+", expression) or _is_bracketed(match.string, *match.span())
        return expression if alone else f"({expression})"

    return place.declare(_HOLE.sub(named, text), [(called[key], values[key]) for key in used], rng)


def _literal(
    match: re.Match[str],
    text: str,
    values: dict[str, int],
    template: Template,
    known: dict[int, str],
    rng: random.Random,
) -> str:
    """Returns a size in place; one value has one spelling in a program."""
    value = int(eval(match.group(1).replace("/", "//"), {"__builtins__": {}}, values))
    if value not in known:
        known[value] = spell(value, template.language, rng, template.type_name or "usize")
    spelled = known[value]
    return spelled if is_plain(spelled) or _is_bracketed(text, *match.span()) else f"({spelled})"


def _is_bracketed(text: str, start: int, end: int) -> bool:
    """Returns whether what stands at a place needs no brackets of its own."""
    before = text[:start].rstrip(" ")[-1:]
    return before in "([=," and text[start - 2 : start] not in (".(",) and text[end : end + 1] in ")],;\n"


__all__ = ["MOST_BYTES", "MOST_NS", "Sizes", "draw_sizes", "write"]
