"""What the families build with: names, choices of the problem and of the variant, sizes, sources of numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from code_rlm_data.generator import ir
from code_rlm_data.generator.ir import (
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
        self.problem = problem
        self.variant = variant
        self.index = index
        self.size = size
        self.supports = supports
        self.max_depth = max_depth
        self.constants: list[tuple[str, int]] = []
        self.functions: list[Function] = []
        self._used: dict[str, int] = {}

    def for_problem(self, what: str, *options: Any) -> Any:
        """Chooses for the problem."""
        return random.Random(f"{self.problem}/{self.index}/{what}").choice(options)

    def for_variant(self, what: str, *options: Any) -> Any:
        """Chooses for the variant."""
        return random.Random(f"{self.variant}/{self.index}/{what}").choice(options)

    def able(self, *features: str) -> bool:
        """Returns whether the language has all of these."""
        return set(features) <= self.supports

    def name(self, role: str) -> str:
        """Returns a name of a role that nothing else in the program has."""
        count = self._used[role] = self._used.get(role, 0) + 1
        return f"{role}_{self.index}_{count}"

    def var(self, role: str) -> Var:
        """Returns a variable of a role, with a name that nothing else in the program has."""
        return Var(self.name(role))

    def vars(self, *roles: str) -> tuple[Var, ...]:
        """Returns a variable for each role."""
        return tuple(self.var(role) for role in roles)

    def constant(self, role: str, value: int) -> Int | Var:
        """Returns a number of the program: a named constant, or the literal itself."""
        if self.for_variant(f"constant {role}", True, True, False):
            name = self.name(role)
            self.constants.append((name, value))
            return Var(name)
        return Int(value)

    # Numbers to work on

    def source(self, limit: int) -> Source:
        """Returns a source of pseudo-random numbers below `limit`."""
        return Source(self, limit)

    def mix(self, check: Var, value: Any) -> Assign:
        """Stir a value into a checksum below 2**30."""
        factor = self.for_problem("check factor", 31, 33, 37, 131)
        modulus = self.for_problem("check modulus", 1000000007, 998244353)
        form = self.for_problem("check", "poly", "poly", "sum", "xor")
        if form == "poly":
            return Assign(check.name, (check * factor + value) % modulus)
        if form == "sum":
            return Assign(check.name, (check + Bin("*", Bin("%", value, Int(1009)), Int(factor))) % modulus)
        # Bitwise operators stay below 2**31: JavaScript has no more.
        return Assign(check.name, ((check ^ Bin("%", value, Int(1048573))) * factor + 1) % modulus)

    def fresh_check(self) -> tuple[Var, Let]:
        """Returns a checksum variable and its declaration."""
        check = self.var("check")
        return check, Let(check.name, LONG, Int(self.for_problem("check start", 0, 1, 7, 17)))

    # Short forms of common nodes

    def array(self, role: str, elem: str, size: Any, fill: int = 0) -> tuple[str, New]:
        name = self.name(role)
        return name, New(name, Type("arr", elem), (ir.node(size), Int(fill)))

    def growing(self, role: str, elem: str, entries: Any) -> tuple[str, New]:
        name = self.name(role)
        return name, New(name, Type("vec", elem), (), ir.node(entries))

    def loop(self, high: Any, body: Sequence[Any], *, var: Var | None = None, low: Any = 0, step: Any = 1) -> For:
        var = var or self.var("i")
        return For(var.name, ir.node(low), ir.node(high), tuple(body), ir.node(step))

    def elem(self, *options: str) -> str:
        """Chooses an element type for the variant."""
        return self.for_variant("elem", *(options or ("i32", "i64", "f64", "i32", "i64")))


class Source:
    """Pseudo-random numbers by a recurrence with state or a formula of the index.

    `setup` declares what it needs; `step` are statements before each use, and `value(i)` the number itself.
    """

    def __init__(self, stage: Stage, limit: int) -> None:
        self.stage = stage
        self.limit = limit
        self.kind = stage.for_problem("source", "recurrence", "recurrence", "linear", "square", "masked")
        self.seed = stage.for_variant("source seed", *range(1, 10000, 7))
        self.setup: list[Any] = []
        self.step: list[Any] = []
        if self.kind == "recurrence":
            self.state = Var(stage.name("state"))
            factor = stage.for_problem("source factor", 48271, 16807, 69621)
            advance: Any = self.state * factor % MODULUS
            if stage.for_variant("source call", True, False, False):
                name = stage.name("advance")
                seed = Var(stage.name("seed"))
                stage.functions.append(Function(name, ((seed.name, LONG),), (), seed * factor % MODULUS))
                advance = Call(name, (self.state,))
            self.setup = [Let(self.state.name, LONG, Int(self.seed))]
            self.step = [Assign(self.state.name, advance)]

    def value(self, index: Var) -> Any:
        """Returns the number for an index; below `limit`."""
        factor = self.stage.for_problem("source factor", 7919, 48271, 104729)
        if self.kind == "recurrence":
            return self.state % self.limit
        if self.kind == "linear":
            return (Wide(index) * factor + self.seed) % 1000003 % self.limit
        if self.kind == "square":
            return (Wide(index) * Wide(index) + self.seed) % 999983 % self.limit
        return ((Wide(index) * factor % 1048573) ^ self.seed) % self.limit


__all__ = ["INT", "LONG", "MODULUS", "Ask", "Do", "Source", "Stage"]
