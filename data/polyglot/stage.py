"""What the families build with: names, choices of the problem and of the variant, sizes, sources of numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from code_rlm.data.polyglot import ir
from code_rlm.data.polyglot.ir import (
    INT,
    LONG,
    Ask,
    Assign,
    Bin,
    Call,
    Do,
    For,
    Function,
    Int,
    Let,
    New,
    Type,
    Var,
    Wide,
)

MODULUS = 2147483647


class Stage:
    """One stage of a program under construction.

    `p` answers choices that all variants of the problem share, `o` those of this variant; both depend on nothing but
    the seeds and the name of the choice, so that sizes change nothing else.

    Args:
        problem: Seed of the problem.
        variant: Seed of the variant.
        index: Place of the stage in the program.
        size: How many elements the stage works on, roughly.
        supports: What the language supports; choices that need more are not offered.
        max_depth: Deepest recursion of the language.
    """

    def __init__(
        self, problem: str, variant: str, index: int, size: int, supports: frozenset[str], max_depth: int
    ) -> None:
        self.problem, self.variant, self.index, self.size = problem, variant, index, size
        self.supports, self.max_depth = supports, max_depth
        self.constants: list[tuple[str, int]] = []
        self.functions: list[Function] = []
        self._used: dict[str, int] = {}

    def p(self, what: str, *options: Any) -> Any:
        """Choose for the problem."""
        return random.Random(f"{self.problem}/{self.index}/{what}").choice(options)

    def o(self, what: str, *options: Any) -> Any:
        """Choose for the variant."""
        return random.Random(f"{self.variant}/{self.index}/{what}").choice(options)

    def able(self, *features: str) -> bool:
        """Whether the language has all of these."""
        return set(features) <= self.supports

    def name(self, role: str) -> str:
        """Return a name of a role that nothing else in the program has."""
        count = self._used[role] = self._used.get(role, 0) + 1
        return f"{role}_{self.index}_{count}"

    def constant(self, role: str, value: int) -> Int | Var:
        """Return a number of the program: a named constant, or the literal itself."""
        if self.o(f"constant {role}", True, True, False):
            name = self.name(role)
            self.constants.append((name, value))
            return Var(name)
        return Int(value)

    # Numbers to work on

    def source(self, limit: int) -> Source:
        """Return a source of pseudo-random numbers below `limit`."""
        return Source(self, limit)

    def mix(self, check: Var, value: Any) -> Assign:
        """Stir a value into a checksum below 2**30."""
        factor, modulus = self.p("check factor", 31, 33, 37, 131), self.p("check modulus", 1000000007, 998244353)
        form = self.p("check", "poly", "poly", "sum", "xor")
        if form == "poly":
            return Assign(check.name, (check * factor + value) % modulus)
        if form == "sum":
            return Assign(check.name, (check + Bin("*", Bin("%", value, Int(1009)), Int(factor))) % modulus)
        # Bitwise operators stay below 2**31: JavaScript has no more.
        return Assign(check.name, ((check ^ Bin("%", value, Int(1048573))) * factor + 1) % modulus)

    def fresh_check(self) -> tuple[Var, Let]:
        """Return a checksum variable and its declaration."""
        check = Var(self.name("check"))
        return check, Let(check.name, LONG, Int(self.p("check start", 0, 1, 7, 17)))

    # Shorter ways to say common things

    def array(self, role: str, elem: str, size: Any, fill: int = 0) -> tuple[str, New]:
        name = self.name(role)
        return name, New(name, Type("arr", elem), (ir.node(size), Int(fill)))

    def growing(self, role: str, elem: str, entries: Any) -> tuple[str, New]:
        name = self.name(role)
        return name, New(name, Type("vec", elem), (), ir.node(entries))

    def loop(self, high: Any, body: Sequence[Any], *, var: Var | None = None, low: Any = 0, step: Any = 1) -> For:
        var = var or Var(self.name("i"))
        return For(var.name, ir.node(low), ir.node(high), tuple(body), ir.node(step))

    def elem(self, *options: str) -> str:
        """Choose an element type for the variant."""
        return self.o("elem", *(options or ("i32", "i64", "f64", "i32", "i64")))


class Source:
    """Pseudo-random numbers by a recurrence with state or a formula of the index.

    `setup` declares what it needs; `step` are statements before each use, and `value(i)` the number itself.
    """

    def __init__(self, stage: Stage, limit: int) -> None:
        self.stage, self.limit = stage, limit
        self.kind = stage.p("source", "recurrence", "recurrence", "linear", "square", "masked")
        self.seed = stage.o("source seed", *range(1, 10000, 7))
        self.setup: list[Any] = []
        self.step: list[Any] = []
        if self.kind == "recurrence":
            self.state = Var(stage.name("state"))
            factor = stage.p("source factor", 48271, 16807, 69621)
            advance: Any = self.state * factor % MODULUS
            if stage.o("source call", True, False, False):
                name, seed = stage.name("advance"), Var(stage.name("seed"))
                stage.functions.append(Function(name, ((seed.name, LONG),), (), seed * factor % MODULUS))
                advance = Call(name, (self.state,))
            self.setup = [Let(self.state.name, LONG, Int(self.seed))]
            self.step = [Assign(self.state.name, advance)]

    def value(self, index: Var) -> Any:
        """Return the number for an index; below `limit`."""
        factor = self.stage.p("source factor", 7919, 48271, 104729)
        if self.kind == "recurrence":
            return self.state % self.limit
        if self.kind == "linear":
            return (Wide(index) * factor + self.seed) % 1000003 % self.limit
        if self.kind == "square":
            return (Wide(index) * Wide(index) + self.seed) % 999983 % self.limit
        return ((Wide(index) * factor % 1048573) ^ self.seed) % self.limit


__all__ = ["INT", "LONG", "MODULUS", "Ask", "Do", "Source", "Stage"]
