"""Values of expressions in a program: what its text says that a bound or a size is.

Estimates, not exact values: a loop's variable stands for its mean, a parameter for the mean of what it is called with, and an
unknown part of a sum counts nothing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from .program_facts_rlm import (
    CLASS_WORDS,
    COMPARISONS,
    DEPTH,
    LENGTHS,
    MOST,
    PRECEDENCE,
    PREFIXES,
    SAME,
    SIZES,
    WORD_CHARACTERS,
)
from .program_text_rlm import MOST_STEPS, STRING, Function, Outline


@dataclass
class Block:
    """A function, loop, condition or allocation with its place and what it multiplies.

    Attributes:
        kind: "function", "loop", "cells" or "condition".
        first, last: Its first token and the one behind its last.
        head: The token that it begins with; its estimate is made there.
        header: What a loop says, None where the count is given.
        function: The number of the function that it stands in.
        parent: The block around it, -1 for none.
        count: How often its content is run.
        known: Whether the text says so.
        variable: The loop's variable.
        low, high: The variable's range.
        weight: Product of the counts of the loops of its function, its own included.
        kept: Product of the counts of what is kept: comprehensions and allocations.
        depth: Number of loops, its own included.
        conditional: Whether it stands under a condition.
    """

    kind: str
    first: int
    last: int
    head: int
    header: tuple[int, int] | None = None
    word: str = ""
    function: int = 0
    parent: int = -1
    count: float = 1.0
    known: bool = True
    variable: str = ""
    low: float = 0.0
    high: float = 0.0
    weight: float = 1.0
    kept: float = 1.0
    depth: int = 0
    conditional: bool = False


@dataclass
class Routine:
    """What is known of a function while it is estimated.

    Attributes:
        source: Its definition, None for the code outside of functions.
        names: Values of its parameters and variables.
        first: Values that names are bound to first, for loops that change them.
        largest: The largest values of its parameters.
        calls: How often it is called.
        events: Tokens at which something happens, with what does.
        own_calls: Tokens of its calls of itself.
        recursion: How many calls one call makes in all.
        parent: The number of the function that it is defined in.
    """

    source: Function | None
    names: dict[str, float | None] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    calls: float = 0.0
    events: list[tuple[int, Callable[[int], None]]] = field(default_factory=list)
    callees: dict[int, int] = field(default_factory=dict)
    own_calls: list[int] = field(default_factory=list)
    recursion: float = 1.0
    parent: int = 0


class Values:
    """A program, and what its names and expressions stand for.

    Args:
        outline: Its tokens, functions, loops and conditions.
    """

    def __init__(self, outline: Outline):
        self.outline, self.facts, self.language = outline, outline.facts, outline.language
        self.texts, self.values = outline.texts, outline.values
        self._length, self._padded = len(outline.texts), [*outline.texts, *[""] * 64]
        self.now = 0  # the function that is estimated
        self.occurrences = Counter(self.texts)
        self.amounts: defaultdict[str, float] = defaultdict(float)
        self.routines = [Routine(None), *(Routine(function) for function in outline.functions)]
        self.by_name = {function.name: number + 1 for number, function in enumerate(outline.functions)}
        self.sizes: dict[str, float] = {}  # elements of containers by name
        self.kinds: dict[str, str] = {}  # "map" or "string" where a name is bound to one
        self.made_at: dict[str, int] = {}  # where a name is bound first
        self.called_at: dict[str, list[int]] = {}  # calls of functions by name
        self.kept_at: dict[int, bool] = {}  # whether what is bound at a token is kept
        self.fixed: set[str] = set()  # arrays of a size that no store changes
        self.rows: dict[str, float] = {}  # elements of their rows
        self.limits: dict[str, float] = {}  # how many values a name can have
        self.words: set[str] = set()  # names of containers of words
        self.element: dict[str, int] = {}  # bytes of an element of a container
        self.by_class = self._read_classes()
        self.blocks: list[Block] = []
        self.block_of: list[int] = []  # the innermost block of every token
        self.bound_at: dict[str, list[int]] = {}  # where names are bound

    def _read_classes(self) -> dict[str, int]:
        """Names of classes and structs with their numbers of fields."""
        found: dict[str, int] = {}
        texts, closing = self.texts, self.outline.closing
        for at in [at for at, text in enumerate(texts) if text in CLASS_WORDS]:
            name = self.text(at + 1)
            opened = next((k for k in range(at + 1, min(at + 12, len(texts))) if texts[k] == "{"), -1)
            after = self.text(closing[opened] + 1) if opened >= 0 else ""
            fields = 2
            if opened >= 0:
                inside = [
                    k for k in range(opened + 1, min(closing[opened], opened + 200)) if self.outline.outer[k] == opened
                ]
                ends = (";", ",") if self.language != "go" else ()
                fields = sum(texts[k] in ends for k in inside) or sum(self.outline.starts_line(k) for k in inside) or 2
            elif self.language == "python":
                slots = next((k for k in range(at, min(at + 40, len(texts) - 2)) if texts[k] == "__slots__"), -1)
                body = texts[at : min(self.outline.indented_end(at), at + 120)]
                fields = (
                    len(self.outline.split(slots + 3, closing[slots + 2])) if slots >= 0 else body.count("self") or 2
                )
            for each in (name, after):
                if each[:1].isalpha():
                    found[each] = fields
        return found

    def text(self, at: int) -> str:
        """The text of a token, "" outside the program."""
        return self._padded[at] if at < self._length else ""  # a little before the first stands the padding

    def lookup(self, name: str, at: int) -> float | None:
        """The value of a name at a token: a loop's variable by its mean, then the function's names, then global ones."""
        number = self.block_of[at] if at < len(self.block_of) else 0
        for _ in range(DEPTH * 4):
            block = self.blocks[number]
            if block.variable == name and block.kind == "loop":
                return (block.low + block.high) / 2
            if block.kind == "function" or block.parent < 0:
                break
            number = block.parent
        number = self.now
        for _ in range(DEPTH):
            own = self.routines[number].names
            if name in own or number == 0:
                return own.get(name)
            number = self.routines[number].parent
        return self.routines[0].names.get(name)

    def _assigned(self, at: int) -> int:
        """The token of the name that `=` at a token binds; its type may stand between: `let a: Vec<i64> = ...`."""
        name_at = at - 1
        line = self.outline.starts[self.outline.lines[at]]
        angles = 0
        for back in range(at - 1, max(line, at - 20), -1):
            angles += self.text(back).count(">") - self.text(back).count("<")
            if self.text(back) in ("=", ";", "?") or (self.text(back) in ("(", ",") and angles == 0):
                break
            if self.text(back) == ":" and self.text(back - 1)[:1].isalpha():
                name_at = back - 1
        if self.language == "go":  # var n int = 5
            words = self.texts[max(line, at - 8) : at]
            if "var" in words or (words and words[0] == "const"):
                name_at = max(line, at - 8) + (words.index("var") if "var" in words else 0) + 1
        while name_at > line and self.text(name_at) in ("]", ")"):
            name_at = self.outline.opening[name_at] - 1
        return name_at

    def expression(self, at: int) -> float | None:
        """The value of the expression that begins at a token, None where the text does not say it."""
        value, end = self._binary(at, 1, 0)
        following = self.text(end)
        if following == "?" and not self.text(end + 1) == "":
            first, end = self._binary(end + 1, 1, 0)
            second = self._binary(end + 1, 1, 0)[0] if self.text(end) == ":" else None
            return known_largest(first, second)
        if following in COMPARISONS or following in ("==", "and", "&&"):
            return self._after_condition(end)
        if following in ("||", "or", "??", "?:"):
            other, end = self._binary(end + 1, 1, 0)
            return value if value is not None else other
        if following == "if" and self.language == "python":
            for _ in range(40):
                end += 1
                if self.text(end) in ("else", ""):
                    return known_largest(value, self._binary(end + 1, 1, 0)[0])
        if self.text(at) == "if":
            return self._after_condition(at)
        return value

    def _after_condition(self, end: int) -> float | None:
        """The value of `condition ? a : b` and `if condition then a else b` behind the condition."""
        for step in range(24):
            text = self.text(end + step)
            if text in ("?", "then", "{"):
                first, stop = self._binary(end + step + 1, 1, 0)
                for _ in range(4):
                    if self.text(stop) in (":", "else"):
                        skip = 2 if self.text(stop + 1) == "{" else 1
                        return known_largest(first, self._binary(stop + skip, 1, 0)[0])
                    stop += 1
                return first if text == "?" else None
            if text in ("", ";") or (step and self.outline.starts_line(end + step) and text != "?"):
                return None
        return None

    def _binary(self, at: int, least: int, depth: int) -> tuple[float | None, int]:
        if depth > DEPTH:
            return None, at
        left, at = self._operand(at, depth)
        for _ in range(40):
            operator = self.text(at)
            precedence = PRECEDENCE.get(operator, 0)
            if precedence < least or (self.outline.starts_line(at) and self.facts.newline_ends):
                break
            if operator == "^" and self.language not in ("lua", "haskell", "r", "julia"):
                break
            right, after = self._binary(at + 1, precedence + (precedence < 8), depth + 1)
            if after == at + 1:
                return left, at
            left, at = apply(operator, left, right), after
        return left, at

    def _operand(self, at: int, depth: int) -> tuple[float | None, int]:
        """The value of an operand, and the token behind it."""
        text = self.text(at)
        if text in ("-", "+", "&", "*", "!", "~", "not", "#", "\\", "ref"):
            if text == "#" and self.text(at + 2) == "[" and self.text(at + 1) in self.rows:
                return self.rows[self.text(at + 1)], self.outline.closing[at + 2] + 1
            if text == "#" and self.text(at + 1) in self.sizes:
                return self.sizes[self.text(at + 1)], at + 2
            value, end = self._operand(at + 1, depth + 1) if depth < DEPTH else (None, at + 1)
            return (-value if text == "-" and value is not None else value), end
        value = self.values[at] if at < len(self.values) else None
        if text == STRING:
            return None, self._postfix(at + 1)
        if value is not None:
            end = at + 1
            return (float(value) if abs(value) < MOST else MOST), self._postfix(end)
        if text == "(":
            return self._in_parentheses(at, depth)
        if text in ("[", "{"):
            return None, self._postfix(self.outline.closing[at] + 1)
        if text[:1].isalpha() or text[:1] == "_":
            return self._named(at, depth)
        return None, at

    def _in_parentheses(self, at: int, depth: int) -> tuple[float | None, int]:
        close = self.outline.closing[at]
        if close == at:
            return None, at + 1
        if self.facts.layout == "parens":
            return self._prefix(at, close, depth), close + 1
        inside, end = self._binary(at + 1, 1, depth + 1)
        following = self.text(close + 1)
        if end == close and inside is None and close - at <= 4 and (following[:1].isalnum() or following == "("):
            return self._operand(close + 1, depth + 1)  # a cast
        if self.text(end) == "?" or self.text(end) in COMPARISONS:
            inside = self.expression(at + 1)
        elif end != close:
            inside = None
        return inside, self._postfix(close + 1)

    def _prefix(self, at: int, close: int, depth: int) -> float | None:
        """`(* n n)`."""
        operator = self.text(at + 1)
        operator = {"quotient": "/", "modulo": "%", "remainder": "%", "expt": "**"}.get(operator, operator)
        value, inner = self._operand(at + 2, depth + 1) if depth < DEPTH else (None, close)
        while inner < close and depth < DEPTH:
            other, end = self._operand(inner, depth + 1)
            value = apply(operator, value, other)
            inner = max(end, inner + 1)
        return value if operator in PRECEDENCE else None

    def _named(self, at: int, depth: int) -> tuple[float | None, int]:
        """A name with what follows: members, calls, indexes."""
        outline, name = self.outline, self.text(at)
        after = self.text(at + 1)
        if after in (".", "::") and name in PREFIXES and self.text(at + 2)[:1].isalpha():
            if self.text(at + 2) not in LENGTHS:
                return self._named(at + 2, depth)
        if after == "(" and outline.closing[at + 1] != at + 1:
            close = outline.closing[at + 1]
            return self._applied(name, at + 2, close, depth), self._postfix(close + 1)
        if name == "sizeof" and after != "(":  # sizeof *p
            end = at + 1
            while self.text(end) == "*":
                end += 1
            return self._sizeof_pointed(at), end + 1
        if name == "static_cast" and after == "<":
            opened = self._closing_angle(at + 1)
            if self.text(opened) == "(":
                return self._binary(opened + 1, 1, depth + 1)[0] if depth < DEPTH else None, outline.closing[opened] + 1
        if name in ("cast",) and after == "(":
            return self._operand(outline.closing[at + 1] + 1, depth + 1)
        if (
            name in ("sqrt", "floor", "isqrt", "fromIntegral", "toInteger") and depth < DEPTH
        ):  # applied without parentheses
            value, end = self._operand(at + 1, depth + 1)
            return (math.sqrt(max(value, 0.0)) if value is not None and "sqrt" in name else value), end
        if after == "[" and name in self.rows and self.text(outline.closing[at + 1] + 2) in LENGTHS:
            end = outline.closing[at + 1] + 3
            return self.rows[name], self._postfix(outline.closing[end] + 1 if self.text(end) == "(" else end)
        if after in (".", "->", "?.") and self.text(at + 2) in LENGTHS and name in self.sizes:
            end = at + 3
            return self.sizes[name], self._postfix(outline.closing[end] + 1 if self.text(end) == "(" else end)
        if after == "." and self.text(at + 2) in ("to_i", "to_f", "value", "clone", "abs", "floor"):
            return self.lookup(name, at), self._postfix(at + 3)
        end = self._postfix(at + 1)
        if end > at + 1 and after != "as":
            return (
                self.lookup(f"{self.text(at + 2)}", at) if after in (".", "->", "::") and end == at + 3 else None
            ), end
        if self.language in ("haskell", "ocaml") and name in self.by_name:
            return None, at + 1
        return self.lookup(name, at), end

    def _applied(self, name: str, first: int, close: int, depth: int) -> float | None:
        """The value of a call."""
        if depth >= DEPTH:
            return None
        if name in SAME:
            return self._binary(first, 1, depth + 1)[0]
        if name in ("sqrt", "isqrt"):
            value = self._binary(first, 1, depth + 1)[0]
            return None if value is None else math.sqrt(max(value, 0.0))
        if name in ("pow", "min", "max", "log2", "log", "log10"):
            parts = [self._binary(begin, 1, depth + 1)[0] for begin, _ in self.outline.split(first, close)]
            if name == "pow":
                return apply("**", *parts) if len(parts) == 2 else None
            known = [part for part in parts if part is not None]
            if name.startswith("log"):
                return math.log2(max(known[0], 1.0)) if known else None
            return (min(known) if name == "min" else max(known)) if known else None
        if name in ("len", "length", "count", "sizeof", "strlen", "size"):
            if name == "sizeof":
                return float(self._type_size(self.texts[first:close]))
            if self.text(first + 1) == "[":
                return self.rows.get(self.text(first))
            return self.sizes.get(self.text(first))
        return None

    def _word_count(self, at: int) -> float | None:
        """Words of the text that is split by the method or function at a token; None where its length is not known."""
        if self.text(at + 1) != "(":
            return None
        name = self.text(at - 2)
        if self.text(at - 1) not in (".", "?.", "->") or name == "strings":
            name = self.text(at + 2) if name == "strings" else ""
        if self.kinds.get(name) != "string" or name not in self.sizes:
            return None
        return self.sizes[name] / WORD_CHARACTERS

    def _postfix(self, at: int) -> int:
        """The token behind members, calls, indexes and conversions that follow an operand."""
        outline = self.outline
        for _ in range(24):
            text = self.text(at)
            if text in (".", "->", "::", "?.") and (self.text(at + 1)[:1].isalpha() or self.text(at + 1)[:1] == "_"):
                at += 2
            elif (
                text in ("(", "[")
                and outline.closing[at] != at
                and not (self.facts.newline_ends and outline.starts_line(at))
            ):
                if self.facts.layout == "parens" or self.language in ("haskell", "ocaml"):
                    return at
                at = outline.closing[at] + 1
            elif text == "as" and self.text(at + 1)[:1].isalpha():
                at += 2
            elif text == "!" and self.language == "typescript":
                at += 1
            else:
                return at
        return at

    def _type_size(self, texts: list[str]) -> int:
        """Bytes of a type that is spelled by some tokens."""
        if "*" in texts or "&" in texts:
            return 8
        if "long" in texts:
            return 8
        for text in texts:
            if text in SIZES:
                return SIZES[text]
            if text in self.by_class:
                return self._struct_size(text)
        return 24

    def _sizeof_pointed(self, at: int) -> float:
        """Bytes of what the pointer points to that is declared on a token's line."""
        line = self.outline.starts[self.outline.lines[at]]
        declared = [text for text in self.texts[max(line, at - 16) : at] if text in SIZES or text in self.by_class]
        return float(self._type_size(declared[-1:])) if declared else 24.0

    def _struct_size(self, name: str) -> int:
        """Bytes of a struct that the text defines: 8 for a field."""
        fields = self.by_class[name]
        return 8 * max(fields, 1)

    def _closing_angle(self, at: int) -> int:
        """The token behind angle brackets that open at a token."""
        depth = 0
        for step in range(40):
            text = self.text(at + step)
            depth += (text == "<") - (text == ">") - 2 * (text == ">>")
            if depth <= 0:
                return at + step + 1
        return at + 1


def known_largest(first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None


def first_of(
    texts: list[str], first: int, last: int, wanted: tuple[str, ...], outline: Outline | None = None
) -> int | None:
    """The first of some tokens between two places, outside of brackets where an outline is given."""
    at = first
    for _ in range(MOST_STEPS):
        if at >= last or at >= len(texts):
            return None
        if texts[at] in wanted:
            return at
        at = (outline.closing[at] if outline is not None else at) + 1
    return None


def apply(operator: str, left: float | None, right: float | None) -> float | None:
    """The value of `left operator right` for estimates: an unknown part of a sum counts nothing."""
    if left is None or right is None:
        if operator in ("-", "+"):
            return left if left is not None else (right if operator == "+" else None)
        if operator in ("%", "mod", "rem", "&") and right is not None:
            return right / 2
        return None
    if operator in ("/", "//", "div", "quot"):
        return left / right if right else None
    if operator in ("%", "mod", "rem"):
        return math.fmod(left, right) if right else None
    if operator in ("<<", "shl", "lsl"):
        return bounded(left * 2.0 ** min(max(right, 0.0), 64.0))
    if operator in (">>", ">>>", "shr", "lsr", "ushr"):
        return left / 2.0 ** min(max(right, 0.0), 64.0)
    if operator in ("**", "^", "^^"):
        if left == 0 or abs(right) * math.log2(abs(left) + 1) > 100:
            return 0.0 if left == 0 else MOST
        return bounded(abs(left) ** right)
    if operator == "*":
        return bounded(left * right)
    if operator == "+":
        return bounded(left + right)
    return bounded(left - right) if operator == "-" else None


def bounded(value: float) -> float:
    return min(max(value, -MOST), MOST)


__all__ = ["Block", "Routine", "Values", "apply", "bounded", "first_of", "known_largest"]
