"""How often the parts of a program are run: its loops, ranges, conditions, calls and recursion."""

import math
from collections.abc import Callable

from .program_facts_rlm import (
    CELLS,
    COMPARISONS,
    DEPTH,
    DOTS,
    INCLUSIVE,
    ITERATES,
    LENGTHS,
    MEMORY,
    MOST,
    NEXT,
    PRECEDENCE,
    SPLITS,
    UNKNOWN_COUNT,
    UPDATES,
    VOCABULARY,
)
from .program_text_rlm import MOST_STEPS, STRING, Function
from .program_values_rlm import Block, Routine, Values, first_of


class Loops(Values):
    """A program, and how often its loops and functions run."""

    def _collect_blocks(self) -> None:
        outline = self.outline
        self.in_header = bytearray(len(self.texts) + 1)
        for number, function in enumerate(outline.functions):
            self.blocks.append(Block("function", *function.body, function.at, function=number + 1))
        for head in outline.heads:
            kind = "condition" if head.kind == "condition" else "loop"
            self.blocks.append(Block(kind, *head.body, head.at, head.header, word=head.kind if kind == "loop" else ""))
            if kind == "loop":
                first, last = head.header
                self.in_header[first : min(last, first + MOST_STEPS)] = b"\1" * max(
                    min(last, first + MOST_STEPS) - first, 0
                )
        for at, text in enumerate(self.texts):
            if text in RANGES and not self.in_header[at]:
                RANGES[text](self, at)
            elif text in CELLS:
                self._cells(at)

    def _chain(self, at: int, header: tuple[int, int], word: str) -> None:
        """A loop over a range that stands in no header: the rest of its statement is its body."""
        end = self.outline.statement_end(at)
        if self.facts.layout == "indent" and "do" in self.texts[at : self.outline.line_end(at)][:40]:
            end = max(end, self.outline.indented_end(at))
        around = self.outline.outer[header[0]]
        first = header[0]
        if around >= 0 and self.text(around) == "(":  # other arguments of a call are no part of it
            part = next(
                (part for part in self.outline.split(around + 1, self.outline.closing[around]) if part[1] > at), None
            )
            end = min(end, part[1]) if part is not None else end
        if around >= 0 and self.text(around) in ("(", "[") and self.outline.closing[around] <= header[1]:
            after = self.outline.closing[around] + 1
            if self.text(after) in (".", "?.", "|>") or (
                after < len(self.texts) and not self.outline.starts_line(after)
            ):
                end = max(end, self.outline.statement_end(after))  # (0..n).map(...)
            if self.facts.layout == "indent" and "do" in self.texts[around : self.outline.line_end(around)][:40]:
                end = max(end, self.outline.indented_end(around))
            first = around
        self.blocks.append(Block("loop", first, end, header[0], header, word=word))

    def _cells(self, at: int) -> None:
        """An array whose elements a function makes: `Array(n) { ... }`, `Array.new(n) { ... }`, `Array.init n (fun ...)`."""
        closing = self.outline.closing
        header: tuple[int, int] | None = None
        body: tuple[int, int] | None = None
        opened = at + 3 if self.text(at + 1) == "." and self.text(at + 2) == "new" else at + 1
        if self.language in ("kotlin", "ruby", "scala") and self.text(opened) == "(":
            after = closing[opened] + 1
            if self.text(after) in ("{", "do"):
                end = closing[after] if self.text(after) == "{" else self.outline.indented_end(at)
                header, body = (opened + 1, closing[opened]), (after + 1, end)
        elif (
            self.language in ("javascript", "typescript")
            and self.text(at + 2) == "from"
            and self.text(at + 5) == "length"
        ):
            header, body = (at + 7, at + 8), (at + 4, closing[at + 3])
        elif self.language == "ocaml" and self.text(at) == "init":
            end = closing[at + 1] + 1
            header, body = (at + 1, end), (end, closing[end] + 1)
        if header is not None and body is not None and body[0] < body[1]:
            self.blocks.append(Block("loop", *body, header[0], header, word="cells"))

    def _dots(self, at: int) -> None:
        """`a..b` outside of a header."""
        begin = at - 1
        for _ in range(12):
            if begin < 0 or self.text(begin) in ("(", "[", ",", "=", "<-", "in", "return", ";", "{", ":="):
                break
            closes = (")", "]", "}") if self.language == "perl" else (")", "]")
            begin = (self.outline.opening[begin] if self.text(begin) in closes else begin) - 1
        begin += 1
        before, after = self.text(begin - 1), self.text(at + 1)
        if self.language == "pascal" or self.text(begin - 2) == "array":
            return
        if begin >= at or after in (",", ")", "]", "}", "") or (before == "[" and self.language == "rust"):
            return
        if self.values[begin] is not None and self.text(begin) == STRING:
            return
        end = at + 1
        for _ in range(12):
            if self.text(end) in (")", "]", ",", ";", "{", "do", "") or self.outline.starts_line(end):
                break
            end = self.outline.closing[end] + 1
        self._chain(at, (begin, end), "range")

    def _range_call(self, at: int) -> None:
        """`range(n)`, `IntStream.range(a, b)`, `Enumerable.Range(a, n)` outside of a header."""
        if self.text(at + 1) == "(" and self.outline.closing[at + 1] != at + 1:
            if self.text(at) == "repeat" and (self.language != "kotlin" or self.text(at - 1) == "."):
                return
            self._chain(at, (at, self.outline.closing[at + 1] + 1), "range")

    def _repeated(self, at: int) -> None:
        """`n.times`, `a.upto(b)`."""
        if self.text(at) == "step" and self.language not in ("ruby",):
            return
        if self.text(at - 1) == ".":
            end = self.outline.closing[at + 1] + 1 if self.text(at + 1) == "(" else at + 1
            begin = at - 2
            begin = self.outline.opening[begin] if begin >= 0 else at
            if self.text(begin) in LENGTHS and self.text(begin - 1) == ".":
                begin -= 2
            self._chain(at, (max(begin, 0), end), "range")

    def _each(self, at: int) -> None:
        """`a.map(...)` on a container of known size."""
        if self.text(at - 1) == "." and self.text(at - 2)[:1].isalpha() and self.text(at - 3) not in (".", "]"):
            end = self.outline.statement_end(at)
            if self.facts.layout == "indent" and "do" in self.texts[at : self.outline.line_end(at)][:40]:
                end = max(end, self.outline.indented_end(at))
            self.blocks.append(Block("loop", at, end, at, (at - 2, at - 1), word="each"))

    def _nest(self) -> None:
        """Parents of blocks, and the innermost block of every token."""
        count = len(self.texts)
        self.blocks.append(Block("function", 0, count, 0))
        for block in self.blocks:
            block.first, block.last = max(block.first, 0), min(block.last, count)
        self.blocks = [block for block in self.blocks if block.first <= block.last]
        # Comprehensions with the same body: the first loop is the outer one.
        order = {"function": 0, "condition": 1, "loop": 2, "cells": 3}
        self.blocks.sort(key=lambda block: (block.first, -block.last, order[block.kind], block.head))
        self.block_of = [0] * count
        waiting: list[int] = []
        for number, block in enumerate(self.blocks):
            while waiting and self.blocks[waiting[-1]].last <= block.first and waiting[-1] != 0:
                waiting.pop()
            if waiting:
                around = self.blocks[waiting[-1]]
                block.parent, block.last = waiting[-1], min(block.last, around.last)
                if block.kind != "function":
                    block.function = around.function
                elif block.function:
                    self.routines[block.function].parent = around.function
                block.conditional = (around.conditional and block.kind != "function") or block.kind == "condition"
            waiting.append(number)
        self._mark_tokens()

    def _mark_tokens(self) -> None:
        """The innermost block of every token."""
        changes = sorted((block.first, number) for number, block in enumerate(self.blocks))
        waiting: list[int] = []
        at = 0
        for first, number in changes:
            at = self._fill(waiting, at, first)
            waiting.append(number)
        self._fill(waiting, at, len(self.texts))

    def _fill(self, waiting: list[int], at: int, until: int) -> int:
        while at < until:
            while len(waiting) > 1 and self.blocks[waiting[-1]].last <= at:
                waiting.pop()
            stop = min(until, self.blocks[waiting[-1]].last) if len(waiting) > 1 else until
            stop = max(stop, at + 1)
            self.block_of[at:stop] = [waiting[-1] if waiting else 0] * (stop - at)
            at = stop
        return at

    def _unknown_depth(self, number: int) -> int:
        depth = 0
        for _ in range(DEPTH * 4):
            if number < 0:
                break
            block = self.blocks[number]
            depth += block.kind == "loop" and not block.known
            number = block.parent
        return depth

    def _chance(self, block: Block) -> float:
        """How often a condition such as `i % 3 == 0` holds; 1 for others."""
        if self._is_false(block):
            return 0.0
        for at in range(block.head + 1, min(block.head + 16, len(self.texts))):
            if self.text(at) in ("{", ":", "then", ";", "do"):
                break
            if self.text(at) in ("%", "mod", "rem") and self.text(at + 2) in (
                "==",
                "===",
                "=",
                "!=",
                "!==",
                "<>",
                "~=",
            ):
                modulus = self._operand(at + 1, 0)[0]
                if modulus is None or modulus < 2:
                    break
                return 1 / modulus if self.text(at + 2) in ("==", "===", "=") else 1 - 1 / modulus
        return 1.0

    def _is_false(self, block: Block) -> bool:
        """Whether a condition compares a name with a number that it never exceeds: its only other changes are in the body."""
        at = block.head + 1
        at += self.text(at) == "("
        if self.facts.layout == "parens":
            operator, name, bound = self.text(at), self.text(at + 1), at + 2
        else:
            name, operator, bound = self.text(at), self.text(at + 1), at + 2
        if (
            operator not in (">", "<", "==", "===", ">=", "<=", "=")
            or name not in self.bound_at
            or bound >= len(self.values)
        ):
            return False
        limit, value = self.values[bound], self.lookup(name, at)
        outside = [place for place in self.bound_at[name] if not block.first <= place < block.last]
        if (
            limit is None
            or value is None
            or len(outside) != 1
            or self.text(bound) == STRING
            or self.text(block.head) == "else"
        ):
            return False
        holds = {">": value > limit, "<": value < limit, ">=": value >= limit, "<=": value <= limit}
        return not holds.get(operator, value == limit)

    def _count(self, block: Block) -> float | None:
        """How often a loop runs, None where the text does not say."""
        first, last = block.header or (0, 0)
        if first >= last:
            return None
        if block.word == "cells":
            return self._between(block, 0.0, self.expression(first), 1.0, False)
        if block.word in ("range", "each"):
            return self._iterable(block, first, last)
        parts = self.outline.split(first, last, (";",))
        if len(parts) == 3 or (len(parts) == 2 and self.text(block.head) == "for"):
            return self._three_parts(block, parts)
        if len(parts) == 2:  # foreach (i; 0 .. n)
            block.variable = self.text(parts[0][1] - 1)
            return self._iterable(block, *parts[1])
        if self.facts.layout == "parens":
            return self._scheme_do(block, first)
        colon = first_of(self.texts, first, last, ("in", "of", "<-", "range"))
        if colon is None and self.text(block.head) in ("for", "foreach"):
            colon = first_of(self.texts, first, last, (":",))
        if self.text(block.head) == "foreach" and self.language == "php":
            stop = first_of(self.texts, first, last, ("as",)) or last
            return self._iterable(block, first, stop)
        if self.language == "perl" and self.text(block.head) in ("for", "foreach") and self.text(first + 1) == "(":
            block.variable = self.text(first)
            return self._iterable(block, first + 1, last + 1)
        if colon is not None:
            block.variable = self.text(
                first if self.text(first) not in ("(", "let", "const", "var", "auto") else first + 1
            )
            if self.text(colon) == ":":
                block.variable = self.text(colon - 1)
            elif self.language in ("javascript", "typescript", "csharp", "java"):
                block.variable = self.text(colon - 1)
            return self._iterable(block, colon + 1, last)
        assigned = first_of(self.texts, first, last, ("=", ":="))
        if assigned is not None and self.text(block.head) in ("for", "do"):
            return self._counted(block, assigned, last)
        return self._while(block, first, last)

    def _counted(self, block: Block, assigned: int, last: int) -> float | None:
        """`i = a, b, c` and `i := a to b`."""
        block.variable = self.text(assigned - 1)
        word = first_of(self.texts, assigned, last, ("to", "downto"))
        if word is not None:
            start, stop = self.expression(assigned + 1), self.expression(word + 1)
            if self.text(word) == "downto":
                start, stop = stop, start
            return self._between(block, start, stop, 1.0, True)
        parts = self.outline.split(assigned + 1, last)
        if len(parts) < 2:
            return None
        stop = self.expression(parts[1][0])
        step = self.expression(parts[2][0]) if len(parts) > 2 else 1.0
        if len(parts) > 2 and parts[2][1] - parts[2][0] == 1:
            multiples = self._multiples(block, self.text(parts[2][0]), stop)
            if multiples is not None:
                return multiples
        return self._between(block, self.expression(parts[0][0]), stop, step, True)

    def _between(
        self, block: Block, start: float | None, stop: float | None, step: float | None, inclusive: bool
    ) -> float | None:
        """Numbers from start to stop."""
        if start is None and stop is not None and stop > 0 and (step or 1) > 0:
            start = 0.0  # an unknown start is small as a rule
        if start is None or stop is None:
            return None
        if step is not None and step < 0:
            start, stop, step = stop, start, -step
        block.low, block.high = min(start, stop), max(start, stop)
        return max((stop - start) / (step or 1.0) + inclusive, 0.0)

    def _iterable(self, block: Block, first: int, last: int, depth: int = 0) -> float | None:
        """Number of elements of what is iterated over."""
        outline = self.outline
        last = min(last, len(self.texts))
        if depth > 6 or first >= last:
            return None
        while self.text(first) in ("&", "*", "mut", "@"):
            first += 1
        dots = first_of(self.texts, first, min(last, first + 60), DOTS, outline)
        if dots is not None:
            return self._dotted(block, first, dots, last)
        text = self.text(first)
        method = self.text(outline.closing[first] + 2) if text == "(" else ""
        if method in ("times", "upto", "downto", "step") and self.text(outline.closing[first] + 1) == ".":
            return self._counted_by(block, first, outline.closing[first] + 2)
        if text in ("(", "[") and outline.closing[first] != first and outline.closing[first] < last:
            close = outline.closing[first]
            inner = first_of(self.texts, first + 1, min(close, first + 60), DOTS, outline)
            if inner is not None:
                count = self._dotted(block, first + 1, inner, close)
                return self._stepped(block, count, close + 1, last)
            if text == "[" or self.language in ("perl", "bash"):
                commas = len(outline.split(first + 1, close))
                return (
                    float(commas)
                    if commas > 1 or close - first <= 2
                    else self._iterable(block, first + 1, close, depth + 1)
                )
            return self._iterable(block, first + 1, close, depth + 1)
        for at in range(first, min(first + 8, last)):
            name = self.text(at)
            if name in ("range", "xrange", "rangeClosed", "Range", "arange", "trange", "prange", "iota", "LongRange"):
                if self.text(at + 1) == "(":
                    return self._stepped(block, self._range(block, at), outline.closing[at + 1] + 1, last)
            if name in SPLITS and (words := self._word_count(at)) is not None:
                return self._each_word(block, words)
            if name in ("times", "repeat", "upto", "downto", "step") and at > first:
                return self._counted_by(block, first, at)
            if (
                name in ("enumerate", "reversed", "sorted", "zip", "list", "tqdm", "iter", "set", "tuple", "rev")
                and self.text(at + 1) == "("
            ):
                return self._iterable(block, at + 2, outline.closing[at + 1], depth + 1)
            if name in ("product", "permutations", "combinations") and self.text(at + 1) == "(":
                return self._combined(block, name, at + 1)
            if name == "seq":
                low, after = self._operand(at + 1, 0)
                high, end = self._operand(after, 0)
                return self._between(block, low if end > after else 1.0, high if end > after else low, 1.0, True)
            if self.text(at + 1) == "(":
                break
        if text == "repeat" and self.text(first + 1) == "(":
            return self._between(block, 0.0, self.expression(first + 2), 1.0, False)
        if text in self.sizes:
            if text in self.rows and block.variable:
                self.sizes[block.variable] = self.rows[text]
            return self._each_word(block, self.sizes[text]) if text in self.words else self.sizes[text]
        if text == STRING:
            return float(self.values[first] or 0)
        if self.language in ("go", "swift") or block.word == "range":
            return self._between(block, 0.0, self.expression(first), 1.0, False)
        return None

    def _each_word(self, block: Block, count: float) -> float:
        """The words that a loop goes over, of which many are equal."""
        name = block.variable
        if self.language == "go":  # for i, word := range
            bound = first_of(self.texts, block.head, block.head + 8, (":=",))
            name = self.text(bound - 1) if bound is not None else ""
        if name:
            self.limits[name] = min(count, VOCABULARY * math.sqrt(count))
        return count

    def _counted_by(self, block: Block, first: int, at: int) -> float | None:
        """`n.times`, `a.upto(b)`, `b.downto(a)`, `a.step(b, c)`: the receiver begins at `first`, the method is at `at`."""
        method, low = self.text(at), self._receiver(first, at - 1)
        if method in ("times", "repeat"):
            return self._between(block, 0.0, low, 1.0, False)
        if self.text(at + 1) != "(":
            return None
        parts = self.outline.split(at + 2, self.outline.closing[at + 1])
        high = self.expression(at + 2)
        if method == "step" and len(parts) == 2:
            multiples = self._multiples(block, self.text(parts[1][0]), high)
            return (
                self._between(block, low, high, self.expression(parts[1][0]), True) if multiples is None else multiples
            )
        if method == "downto":
            low, high = high, low
        return self._between(block, low, high, 1.0, True)

    def _receiver(self, first: int, last: int) -> float | None:
        """The value of what a method is called on, between two tokens."""
        if last - first == 1:
            value = self.values[first]
            return float(value) if value is not None else self.lookup(self.text(first), first)
        if self.text(first + 2) in LENGTHS:  # `a.length.times`
            return self._operand(first, 0)[0]
        return self._binary(first + 1, 1, 0)[0] if self.text(first) == "(" else None

    def _dotted(self, block: Block, first: int, dots: int, last: int) -> float | None:
        """`a..b` with a step behind it."""
        operator = self.text(dots)
        start, stop = self.expression(first), self.expression(dots + 1)
        if self.language == "haskell" and self.text(dots - 2) == ",":
            start = self.expression(first)
        inclusive = {"..": self.facts.inclusive, "...": self.language != "ruby", "..=": True, "..<": False, "until": False,
                     "to": True}.get(operator, True)  # fmt: skip
        step = 1.0
        if operator == "downTo":
            start, stop = stop, start
        for at in range(dots, min(dots + 12, last)):
            if self.text(at) in ("step", "step_by", "by"):
                step = self.expression(at + 1 + (self.text(at + 1) == "(")) or 1.0
        return self._between(block, start, stop, step, inclusive)

    def _stepped(self, block: Block, count: float | None, at: int, last: int) -> float | None:
        """A count with the step that follows it."""
        if count is None or at >= last or self.text(at) not in (".", "step"):
            return count
        step_at = at + (self.text(at) == ".")
        if self.text(step_at) in ("step_by", "step", "by"):
            step = self.expression(step_at + 1 + (self.text(step_at + 1) == "("))
            return count / step if step else count
        return count

    def _range(self, block: Block, at: int) -> float | None:
        """`range(n)`, `range(a, b)`, `range(a, b, c)`, `Enumerable.Range(a, n)`."""
        parts = self.outline.split(at + 2, self.outline.closing[at + 1])
        values = [self.expression(begin) for begin, _ in parts[:3]]
        if not values:
            return None
        if self.text(at) == "Range":
            block.high = values[-1] or 0.0
            return values[-1]
        if len(values) == 1:
            return self._between(block, 0.0, values[0], 1.0, False)
        step = values[2] if len(values) > 2 else 1.0
        if len(values) > 2 and parts[2][1] - parts[2][0] == 1:
            multiples = self._multiples(block, self.text(parts[2][0]), values[1])
            if multiples is not None:
                return multiples
        return self._between(
            block, values[0], values[1], step, self.text(at) == "rangeClosed" or self.language == "php"
        )

    def _multiples(self, block: Block, step: str, stop: float | None) -> float | None:
        """A loop over the multiples of an outer loop's variable, as in a sieve: the mean over the outer loop."""
        number = block.parent
        for _ in range(DEPTH * 2):
            if number < 0 or stop is None:
                return None
            outer = self.blocks[number]
            if outer.kind == "loop" and outer.variable == step and outer.high > 1:
                block.low, block.high = 0.0, stop
                multiples = math.log(outer.high + 1)
                if block.conditional:  # of primes alone
                    multiples = math.log(multiples + 1) + 1
                return max(stop * multiples / outer.high, 0.0)
            number = outer.parent
        return None

    def _combined(self, block: Block, name: str, opened: int) -> float | None:
        """`itertools.product`, `permutations` and `combinations`."""
        parts = self.outline.split(opened + 1, self.outline.closing[opened])
        if not parts:
            return None
        sizes: list[float | None] = []
        repeat = 1.0
        for begin, end in parts:
            if self.text(begin) == "repeat":
                repeat = self.expression(begin + 2) or 1.0
            elif name == "product" or not sizes:
                sizes.append(self._iterable(block, begin, end, 1))
            else:
                repeat = self.expression(begin) or 1.0
        if any(size is None for size in sizes):
            return None
        known = [size for size in sizes if size is not None]
        if name == "product":
            return math.prod(known) ** min(repeat, 20)
        n = min(known[0], 40.0)
        chosen = repeat if len(parts) > 1 else n
        log = math.lgamma(n + 1) - math.lgamma(max(n - chosen, 0) + 1)
        return math.exp(min(log - (math.lgamma(chosen + 1) if name == "combinations" else 0.0), 40.0))

    def _three_parts(self, block: Block, parts: list[tuple[int, int]]) -> float | None:
        """`for (init; condition; step)`."""
        init, condition = parts[0], parts[1]
        step = parts[2] if len(parts) > 2 else (condition[1], condition[1])
        variable, change, amount = self._step_of(*step)
        if (
            not variable
            and any(text in NEXT for text in self.texts[step[0] : step[1]][:8])
            and self.amounts["objects"] > 1
        ):
            return min(self.amounts["objects"], 1e9) / max(block.weight, 1.0)
        if not variable:
            variable, change, amount = self._step_in_body(block, condition)
        block.variable = variable
        start: float | None = None
        for at in range(init[0], min(init[1], init[0] + 40)):
            if self.text(at) in ("=", ":=") and (self.text(at - 1) == variable or not variable):
                start = self.expression(at + 1)
                variable = variable or self.text(at - 1)
        if start is None:
            start = self.routines[self.now].first.get(variable)
        return self._stepping(block, variable, start, condition, change, amount)

    def _step_of(self, first: int, last: int) -> tuple[str, str, float | str]:
        """The variable that a step changes, the operator, and by what."""
        for at in range(first, min(last, first + 12)):
            text = self.text(at)
            if text in ("++", "--"):
                name = self.text(at - 1) if at > first else self.text(at + 1)
                return name, text[0], 1.0
            if text in UPDATES:
                amount = self.expression(at + 1)
                if amount is None or self.text(at + 1)[:1].isalpha():
                    return self.text(at - 1), text[:-1], amount if amount is not None else self.text(at + 1)
                return self.text(at - 1), text[:-1], amount
            if text in ("=", ":=", "<-") and self.text(at + 1) == self.text(at - 1) and self.text(at + 2) in PRECEDENCE:
                return self.text(at - 1), self.text(at + 2), self.expression(at + 3) or 1.0
        return "", "", 1.0

    def _step_in_body(self, block: Block, condition: tuple[int, int]) -> tuple[str, str, float | str]:
        """The step of a `while` loop: a change in its body of a name in its condition."""
        words = self.texts[condition[0] : min(condition[1], condition[0] + 30)]
        wanted = {text for text in words if text[:1].isalpha() or text[:1] == "_"}
        found: tuple[str, str, float | str] = ("", "", 1.0)
        last = min(block.last, block.first + MOST_STEPS)
        halves = False
        for at in range(block.first, last):
            text = self.text(at)
            if text in ("/", "//", "*", ">>", "<<", "div", "quotient") and (
                self.values[at + 1] if at + 1 < last else 0
            ) in (1, 2):
                halves = True
            if text not in UPDATES and text not in ("=", ":=", "<-"):
                continue
            name = self.text(at - 1) if self.text(at - 1) in wanted else self.text(at + 1)
            if name not in wanted or (name != self.text(at - 1) and text not in ("++", "--")):
                continue
            step = self._step_of(max(at - 1, 0), at + 4)
            if step[0] == name and step[1] in ("*", "/", "//", "<<", ">>", "div"):
                return step
            if step[0] == name:
                found = found if found[0] else step
            elif halves or any(
                self.text(k) in ("*", "/") and self.values[k + 1] == 2 for k in range(at, min(at + 6, last - 1))
            ):
                return name, "*", 2.0  # a search or a heap
        return found

    def _while(self, block: Block, first: int, last: int) -> float | None:
        """A loop with a condition alone."""
        variable, change, amount = self._step_in_body(block, (first, last))
        if not variable:
            body = self.texts[block.first : min(block.last, block.first + 80)]
            if any(text in NEXT for text in body) and self.amounts["objects"] > 1:
                return min(self.amounts["objects"], 1e9) / max(block.weight, 1.0)  # along a list
            return 20.0 if "mid" in body else None
        block.variable = variable
        start = self.routines[self.now].first.get(variable)
        if start is None:
            start = self.lookup(variable, first)
        return self._stepping(block, variable, start, (first, last), change, amount)

    def _stepping(self, block: Block, variable: str, start: float | None, condition: tuple[int, int], change: str,
                  amount: float | str) -> float | None:  # fmt: skip
        """Iterations of a variable from its start until a condition fails."""
        if isinstance(amount, str):
            amount = 1.0
        first, last = condition
        bound: float | None = None
        root = 1
        inclusive = False
        for at in range(first, min(last, first + 40)):
            operator = self.text(at)
            if operator not in COMPARISONS:
                continue
            left = self.texts[first:at]
            if variable in left:
                root = min(left.count(variable), 3) if "*" in left else 1
                bound, inclusive = self.expression(at + 1), operator in INCLUSIVE
                break
            if variable in self.texts[at + 1 : last]:
                bound, inclusive = self.expression(first), operator in INCLUSIVE
                break
        if change in ("*", "<<", "/", "//", ">>", "div"):
            base = 2.0**amount if change in ("<<", ">>") else max(float(amount), 1.5)
            top = max(value for value in (start, bound, 2.0) if value is not None)
            if start is None and bound is None:
                top = 1e6
            block.high = top
            return max(math.log(max(top, 2.0)) / math.log(max(base, 1.5)), 1.0)
        if bound is None:
            if change == "-" and start is not None:  # while (n--)
                bound = 0.0
            else:
                return None
        if root > 1:
            bound = max(bound, 0.0) ** (1 / root)
        if change == "-":
            start, bound = bound, start
        if change not in ("+", "-"):
            return None
        step_name = self._step_name(block, variable)
        if step_name and change == "+":
            multiples = self._multiples(block, step_name, bound)
            if multiples is not None:
                return multiples
        return self._between(block, start, bound, float(amount), inclusive)

    def _step_name(self, block: Block, variable: str) -> str:
        """The name that a loop's step adds, "" for a number."""
        if block.header is None:
            return ""
        first, last = block.header
        regions = ((max(last - 6, first), last), (block.first, min(block.last, block.first + 120)))
        for begin, end in regions:
            for at in range(begin, end):
                if self.text(at) == variable and self.text(at + 1) == "+=" and self.text(at + 2)[:1].isalpha():
                    return self.text(at + 2)
                if self.text(at) == variable and self.text(at + 1) in ("=", ":=") and self.text(at + 2) == variable:
                    return self.text(at + 4) if self.text(at + 4)[:1].isalpha() else ""
        return ""

    def _scheme_do(self, block: Block, first: int) -> float | None:
        """`((i 0 (+ i 1))) ((= i n))`."""
        if self.text(block.head) == "dotimes":
            block.variable = self.text(first + 1)
            return self._between(block, 0.0, self._operand(first + 2, 0)[0], 1.0, False)
        block.variable = self.text(first + 2)
        start = self._operand(first + 3, 0)[0]
        test = self.outline.closing[first] + 1
        for at in range(test, min(test + 8, len(self.texts))):
            if self.text(at) == block.variable:
                return self._between(block, start, self._operand(at + 1, 0)[0], 1.0, False)
        return None

    def _arguments(self, at: int) -> list[tuple[int, int]]:
        """Arguments of the call whose name is at a token."""
        if self.facts.layout == "parens":
            close = self.outline.closing[self.outline.outer[at]] if self.outline.outer[at] >= 0 else at
            return self._juxtaposed(at + 1, close)
        if self.text(at + 1) == "(" and self.language not in ("haskell", "ocaml"):
            return self.outline.split(at + 2, self.outline.closing[at + 1])
        if self.language == "cpp" and self.text(at + 2) == "(":
            return self.outline.split(at + 3, self.outline.closing[at + 2])
        return self._juxtaposed(at + 1, self.outline.line_end(at))

    def _juxtaposed(self, first: int, last: int) -> list[tuple[int, int]]:
        parts: list[tuple[int, int]] = []
        while first < last and len(parts) < 12:
            text = self.text(first)
            if not (text[:1].isalnum() or text[:1] in '_(["!') or text in ("in", "then", "else", "do", "where"):
                break
            first += text == "!"
            end = self.outline.closing[first] + 1
            parts.append((first, end))
            first = end
        return parts

    def _call(self, number: int, at: int) -> None:
        """A call of a function of the text: how often, and with what."""
        routine, caller = self.routines[number], self.routines[self.now]
        block = self.blocks[self.block_of[at]]
        times = block.weight * caller.calls * caller.recursion
        earlier = routine.calls
        routine.calls = min(routine.calls + times, MOST)
        share = times / max(earlier + times, 1e-9)
        if routine.source is None:
            return
        for name, (begin, _) in zip(routine.source.parameters, self._arguments(at)):
            if not name:
                continue
            value = self.expression(begin) if self.facts.layout != "parens" else self._operand(begin, 0)[0]
            if value is not None:  # the mean of all calls, and the largest
                mean = routine.names.get(name)
                routine.names[name] = value if mean is None else mean + share * (value - mean)
                routine.first[name] = routine.names[name] or 0.0
                routine.largest[name] = max(value, routine.largest.get(name, 0.0))
            while self.text(begin) in ("&", "mut", "*"):
                begin += 1
            if self.text(begin) in self.sizes:
                self.sizes.setdefault(name, self.sizes[self.text(begin)])

    def _call_let(self, number: int, at: int) -> None:
        """`(let loop ((i 0)) ...)`: a call with the first values."""
        routine, caller = self.routines[number], self.routines[self.now]
        assert routine.source is not None
        block = self.blocks[self.block_of[at]]
        routine.calls = min(routine.calls + block.weight * caller.calls * caller.recursion, MOST)
        inner = at + 2
        for name in routine.source.parameters:
            value = self._operand(inner + 2, 0)[0]
            if value is not None:
                routine.names[name] = routine.first[name] = value
            inner = self.outline.closing[inner] + 1

    def _recursion(self, routine: Routine) -> None:
        """How many calls a recursive function makes."""
        source, amounts = routine.source, self.amounts
        if source is None:
            return
        amounts["recursive_functions"] += 1
        amounts["recursion_branching"] = max(amounts["recursion_branching"], float(len(routine.own_calls)))
        body = self.texts[source.body[0] : min(source.body[1], source.body[0] + 2000)]
        around = self.texts[max(source.at - 12, 0) : source.at]
        routine.names |= routine.largest
        names = {name for name in routine.names if routine.names[name] is not None}
        known = [routine.names[name] or 0.0 for name in source.parameters if name in names]
        decrements: list[float] = []
        halves = False
        size: float | None = None
        per_name: dict[str, list[float]] = {}
        upward = ""
        splits = 0  # arguments that a call computes
        for at in routine.own_calls[:8]:
            for name, (begin, end) in zip(source.parameters, self._arguments(at)):
                change = self._change(name, begin, end)
                if change is None:
                    splits += end - begin <= 3 and self._is_local(self.text(begin), source)
                    continue
                if change[0] == "/":
                    halves = True
                else:
                    per_name.setdefault(name, []).append(change[1])
                if name in names or name in self.sizes:
                    size = max(size or 0.0, routine.names.get(name) or self.sizes.get(name) or 0.0)
                if change[0] == "+":
                    bound = self._bound_of(name, source)
                    start = routine.names.get(name) or 0.0
                    if bound is not None:
                        size = max(bound - start, size or 0.0)
                        upward = name
        if splits >= len(routine.own_calls) > 1 and not per_name and known:  # quicksort: two parts of what it was given
            halves, size = True, max(known)
        if per_name:
            name = max(per_name, key=lambda each: len(per_name[each]))
            decrements = per_name[name]
            if not upward:
                size = routine.names.get(name) if name in names else self.sizes.get(name, size)
        remembers = any(text in MEMORY or text.lower().startswith(("memo", "cache")) for text in (*body[:400], *around))
        amounts["remembers"] += remembers
        argument = size if size is not None else (max(known) if known else None)
        amounts["recursion_argument"] = max(amounts["recursion_argument"], argument or 0.0)
        routine.recursion = self._recursion_calls(routine, argument, decrements, halves, remembers)
        if argument is not None and decrements:
            depth = min(argument / max(decrements[0], 1.0), routine.recursion)
            if self.facts.layout != "parens":
                amounts["recursion_depth"] = max(amounts["recursion_depth"], depth)
        if len(routine.own_calls) == 1:
            amounts["iterations"] += min(routine.recursion * max(routine.calls, 1.0), MOST)
        amounts["recursion_calls"] = min(amounts["recursion_calls"] + routine.recursion * max(routine.calls, 1.0), MOST)
        if argument is None or routine.recursion <= 2:
            return
        # Inside, arguments are smaller than at the first call: halves add up to n on each of log n levels.
        spreads = halves and not decrements and len(routine.own_calls) > 1
        share = math.log2(argument + 2) / max(argument, 1.0) if spreads else 0.5
        for name in source.parameters:
            value = routine.names.get(name)
            if value is not None and (name in per_name or halves):
                routine.names[name] = value * share
                routine.first[name] = value * share
            elif name in self.sizes and (name in per_name or halves):
                self.sizes[name] *= share

    def _change(self, name: str, begin: int, end: int) -> tuple[str, float] | None:
        """How an argument differs from the parameter: ("-", 1) for `n - 1`, ("/", 2) for `n / 2`."""
        texts = self.texts[begin : min(end, begin + 12)]
        if self.facts.layout == "parens":
            if texts[:1] == ["("] and len(texts) > 3 and texts[2] == name and texts[1] in ("-", "/", "quotient", "+"):
                return {"quotient": "/"}.get(texts[1], texts[1]), float(self.values[begin + 3] or 1)
            return None
        while texts and texts[0] == "(":
            texts, begin = texts[1:], begin + 1
        if (
            any(self._is_halved(text) for text in texts[:6] if text[:1].isalpha())
            or "/" in texts
            or "//" in texts
            or ">>" in texts
            or "div" in texts
        ):
            return "/", 2.0
        if texts and texts[0] == name and "[" in texts and ":" in texts:
            return "-", 1.0  # items[1:]
        if len(texts) > 2 and texts[0] == name and texts[1] in ("-", "+"):
            if self.values[begin + 2] is None:
                return ("/", 2.0) if self._is_halved(texts[2]) else None
            return texts[1], float(self.values[begin + 2] or 1)
        return None

    def _is_local(self, name: str, source: Function) -> bool:
        """Whether a name is bound in a function."""
        places = self.bound_at.get(name, ())
        return name not in source.parameters and any(source.body[0] <= at < source.body[1] for at in places[:4])

    def _is_halved(self, name: str) -> bool:
        """Whether a name is bound to the half of something."""
        for at in self.bound_at.get(name, ())[:4]:
            for place in range(at, min(at + 12, len(self.texts) - 1)):
                if self.text(place) in ("/", "//", ">>", "div", ">>>") and self.values[place + 1] in (1, 2):
                    return True
                if self.text(place) == ";":
                    break
        return False

    def _bound_of(self, name: str, source: Function) -> float | None:
        """What a parameter is compared with in a function's body."""
        for at in range(source.body[0], min(source.body[1], source.body[0] + MOST_STEPS)):
            if self.text(at) != name:
                continue
            if self.facts.layout == "parens":
                if self.text(at - 1) in ("<", "<=", "=", ">=", ">", "eqv?", "=?"):
                    return self._operand(at + 1, 0)[0]
            elif self.text(at + 1) in COMPARISONS or self.text(at + 1) in ("==", "===", "="):
                return self.expression(at + 2)
        return None

    def _recursion_calls(
        self, routine: Routine, size: float | None, decrements: list[float], halves: bool, remembers: bool
    ) -> float:
        branches = len(routine.own_calls)
        in_loop = any(self._in_loop(at) for at in routine.own_calls[:8])
        if size is None:
            return UNKNOWN_COUNT * branches
        if remembers:  # each argument once, whatever the number of calls
            return max(size / max(routine.calls, 1.0), 1.0)
        if in_loop and decrements:
            # Every choice once on each level; a test before the call leaves about 1.7 ** -n of them, as in n queens.
            body = (
                self.texts[routine.source.body[0] : min(routine.source.body[1], routine.source.body[0] + MOST_STEPS)]
                if routine.source
                else []
            )
            pruned = body.count("if") + body.count("continue") + body.count("guard") > 1
            return math.exp(min(max(math.lgamma(min(size, 30.0) + 1) - 0.54 * size * pruned, 0.0), 30.0))
        if decrements and len(decrements) >= 2:
            # The larger root of sum(x ** -d) = 1 is the factor by which one more step multiplies the calls.
            root = growth_rate(decrements)
            return math.exp(min(size * math.log(root), 41.0))
        if halves and branches >= 2:
            return max(size, 1.0)
        if halves:
            return math.log2(size + 2)
        return (
            max(size / (decrements[0] if decrements and decrements[0] > 0 else 1.0), 1.0)
            if decrements
            else UNKNOWN_COUNT * branches
        )

    def _in_loop(self, at: int) -> bool:
        number = self.block_of[at]
        for _ in range(DEPTH * 2):
            if number < 0 or self.blocks[number].kind == "function":
                return False
            if self.blocks[number].kind == "loop":
                return True
            number = self.blocks[number].parent
        return False

    def _loop_of(self, at: int) -> Block | None:
        """The loop around whose variable a token is."""
        number = self.block_of[at] if at < len(self.block_of) else 0
        for _ in range(DEPTH):
            block = self.blocks[number]
            if block.kind == "loop" and block.variable == self.text(at):
                return block
            if block.kind == "function" or block.parent < 0:
                return None
            number = block.parent
        return None

    def _times(self, at: int) -> float:
        """How often a token is run."""
        routine = self.routines[self.now]
        return min(self.blocks[self.block_of[at]].weight * routine.calls * routine.recursion, 1e12)


def growth_rate(decrements: list[float]) -> float:
    """The x > 1 with sum(x ** -d) = 1."""
    steps = [max(step, 1.0) for step in decrements[:8]]
    low, high = 1.0, float(len(steps) + 1)
    for _ in range(40):
        middle = (low + high) / 2
        if sum(middle**-step for step in steps) > 1:
            low = middle
        else:
            high = middle
    return high


RANGES: dict[str, Callable[[Loops, int], None]] = {
    **dict.fromkeys(DOTS, Loops._dots),
    **dict.fromkeys(("range", "rangeClosed", "Range", "xrange", "repeat", "iota"), Loops._range_call),
    **dict.fromkeys(("times", "upto", "downto", "step"), Loops._repeated),
    **dict.fromkeys(ITERATES, Loops._each),
}


__all__ = ["RANGES", "Loops", "growth_rate"]
