"""Problems, variants and texts: what is drawn from the seed, and how sizes are kept within the budget.

A problem is a skeleton: one to three families with the choices that make it compute what it computes. It is the group
of all its rows. A variant draws how it is done (element types, in place or copied, stored or streamed, helper functions,
distractors) and how large; each language writes it with names and idioms of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from code_rlm.data.schema import DataError
from code_rlm_data.generator.cost import Cost, estimate
from code_rlm_data.generator.emitters import EMITTERS
from code_rlm_data.generator.emitters.base import Emitter, Style
from code_rlm_data.generator.families import FAMILIES
from code_rlm_data.generator.ir import (
    INT,
    LONG,
    Ask,
    Assign,
    Call,
    Do,
    For,
    Free,
    Function,
    If,
    Int,
    Let,
    New,
    Note,
    Program,
    Type,
    Var,
)
from code_rlm_data.generator.naming import choose_names
from code_rlm_data.generator.stage import Stage

SMALLEST = 60
LARGEST = 40_000_000
# Rungs of sizes: languages whose budgets differ still meet on the same rung, and share the expected answer.
RUNG = 1.6


@dataclass(frozen=True)
class Budget:
    """Limits of the estimates that a program is drawn within.

    Attributes:
        most_ms: CPU time, the start of the process included.
        most_bytes: Memory over that of an idle process.
        least_bytes: What the largest size of a variant should reach; less only where the code needs none.
        decades: How far below the largest size that fits the sizes go, as a power of ten.
    """

    most_ms: float = 260.0
    most_bytes: float = 280e6
    least_bytes: float = 1e6
    decades: float = 1.8


@dataclass(frozen=True)
class Sample:
    """One generated program: its text and what it was drawn from.

    Attributes:
        name: "p012-v03-python".
        group: The problem, "p012" with its families.
        size: Elements of the main stage.
        program: The IR, for the expected answer.
        cost: The estimate.
        estimated_bytes: Over an idle process, an upper bound by the emitter's table.
        estimated_ms: CPU time by the emitter's table.
    """

    name: str
    group: str
    language: str
    text: str
    size: int
    program: Program
    cost: Cost
    estimated_bytes: float
    estimated_ms: float


def problem_families(seed: int, problem: int) -> tuple[str, ...]:
    """Returns the families of a problem's stages, the main one first."""
    rng = random.Random(f"{seed}/{problem}/families")
    names = sorted(FAMILIES)
    # Every family leads equally often.
    first = names[(problem + rng.randrange(0, 1)) % len(names)]
    rest = [rng.choice(names) for _ in range(rng.choice((0, 1, 1, 2)))]
    return (first, *rest)


def group_of(seed: int, problem: int) -> str:
    """Returns the name of a problem's group."""
    return f"s{seed}-p{problem:04d}-" + "+".join(problem_families(seed, problem))


def can_write(emitter: type[Emitter], families: Sequence[str]) -> bool:
    """Returns whether a language supports what these families need."""
    return all(FAMILIES[name].needs <= emitter.supports for name in families)


def build_program(
    seed: int, problem: int, variant: int, size: int, supports: frozenset[str], max_depth: int
) -> Program:
    """Builds the IR of a variant at a size. Languages that support the same get the same program."""
    key = f"{seed}/{problem}"
    own = f"{seed}/{problem}/{variant}"
    rng = random.Random(f"{own}/layout")
    constants: list[tuple[str, int]] = []
    functions: list[Function] = []
    body: list[Any] = []
    results: list[Any] = []
    for index, name in enumerate(problem_families(seed, problem)):
        share = 1.0 if index == 0 else random.Random(f"{key}/{index}/share").choice((0.02, 0.1, 0.3, 1.0))
        stage = Stage(key, own, index, max(int(size * share), 8), supports, max_depth)
        statements, result = FAMILIES[name].build(stage)
        functions += stage.functions
        title = FAMILIES[name].title
        layout = rng.choice(("function", "function", "parameters", "inline", "local"))
        if layout in ("function", "parameters"):
            function = f"stage_{index}_1"
            params = tuple((each, INT) for each, _ in stage.constants) if layout == "parameters" else ()
            arguments = tuple(Int(value) for _, value in stage.constants) if params else ()
            if not params:
                constants += stage.constants
            functions.append(Function(function, params, tuple(statements), result, note=title))
            results.append(Call(function, arguments))
        else:
            body.append(Note(title))
            if layout == "local":
                body += [Let(each, INT, Int(value)) for each, value in stage.constants]
            else:
                constants += stage.constants
            body += statements
            results.append(result)
        extra_constants, extra_functions, extra = _distraction(rng, index)
        constants += extra_constants
        functions += extra_functions
        body += extra
    if len(results) == 1:
        return Program(tuple(constants), tuple(functions), tuple(body), results[0], _title(seed, problem))
    answer = Var("check_9_1")
    body.append(Let(answer.name, LONG, results[0]))
    body += [Assign(answer.name, (answer % 1000000007 * 31 + result) % 1000000007) for result in results[1:]]
    return Program(tuple(constants), tuple(functions), tuple(body), answer, _title(seed, problem))


def _title(seed: int, problem: int) -> str:
    return " and ".join(name.replace("_", " ") for name in problem_families(seed, problem))


def _distraction(rng: random.Random, index: int) -> tuple[list[tuple[str, int]], list[Function], list[Any]]:
    """Returns constants, functions and statements that hardly change what the program needs."""
    kind = rng.choice(("none", "none", "none", "constant", "small", "function", "branch", "freed"))
    large = rng.choice((1000000, 5000000, 10000000, 123456789, 2000000))
    i = Var(f"i_8{index}_1")
    name = f"spare_8{index}_1"
    total = Var(f"total_8{index}_1")
    constant = f"capacity_8{index}_1"
    if kind == "constant":
        return [(constant, large)], [], []
    if kind == "function":
        x = Var(f"x_8{index}_1")
        value = Var(f"result_8{index}_1")
        body = (Let(value.name, LONG, Int(0)), For(i.name, Int(0), x, (Assign(value.name, value + i),), trips=Int(1)))
        return [], [Function(f"unused_8{index}_1", ((x.name, INT),), body, value, note="not called")], []
    if kind in ("small", "freed"):
        size = rng.choice((10, 16, 32, 100)) if kind == "small" else rng.choice((1000, 5000, 20000))
        fill = For(i.name, Int(0), Int(size), (Do("arr.set", name, (i, i * 3)),))
        look = For(f"i_8{index}_2", Int(0), Int(size), (
            Assign(total.name, total + Ask("arr.get", name, (Var(f"i_8{index}_2"),))),))  # fmt: skip
        statements = [New(name, Type("arr", rng.choice(("i32", "i64"))), (Int(size), Int(0))), fill]
        statements += [Let(total.name, LONG, Int(0)), look, If(total.equals(1), (Assign(total.name, Int(2)),), (), 0.0)]
        return [], [], [*statements, *([Free(name)] if kind == "freed" else [])]
    if kind == "branch":
        size = Var(constant)
        inside = (
            New(name, Type("arr", "i64"), (size, Int(0))),
            Do("arr.set", name, (Int(0), Int(1))),
            Assign(total.name, total + Ask("arr.get", name, (Int(0),))),
        )
        dead = If(total > rng.choice((5, 100, 1000)), inside, (), 0.0)
        return [(constant, large)], [], [Let(total.name, LONG, Int(rng.choice((0, 1, 3)))), dead]
    return [], [], []


@lru_cache(maxsize=4096)
def _sized(
    seed: int, problem: int, variant: int, rung: int, supports: frozenset[str], max_depth: int
) -> tuple[int, Program, Cost]:
    """Returns (size, program, cost) of a variant at a rung."""
    jitter = random.Random(f"{seed}/{problem}/{variant}/size").uniform(0.8, 1.25)
    size = SMALLEST * RUNG**rung * jitter
    digits = random.Random(f"{seed}/{problem}/{variant}/round").choice((1, 2, 2, 3))
    step = 10 ** max(int(math.log10(size)) + 1 - digits, 0)
    size = max(int(size / step) * step, 10)
    program = build_program(seed, problem, variant, size, supports, max_depth)
    return size, program, estimate(program)


def costs(emitter: type[Emitter], cost: Cost, style_seed: int) -> tuple[float, float]:
    """Returns (bytes over an idle process, milliseconds) that a language is expected to need."""
    total = 0.0
    for (kind, elem), count in cost.elements.items():
        forms = emitter.forms.get(kind)
        form = random.Random(f"{style_seed}/form {kind}").choice(forms) if forms else ""
        total += count * emitter.cost_of(kind, elem, form)
    # A lookup that leaves the cache costs about the same in every compiled language, however fast its arithmetic.
    lookup_ms = max(6 / emitter.speed, 100e-6)
    return total, emitter.start_ms + cost.operations / emitter.speed + cost.lookups * lookup_ms


def sample(seed: int, problem: int, variant: int, language: str, budget: Budget = Budget()) -> Sample | None:
    """Draws one program; None where the language does not support the problem, or not within the budget at any size."""
    emitter = EMITTERS[language]
    if not can_write(emitter, problem_families(seed, problem)):
        return None
    own = f"{seed}/{problem}/{variant}/{language}"
    style_seed = random.Random(f"{own}/style").randrange(2**32)

    def fits(rung: int) -> bool:
        *_, cost = _sized(seed, problem, variant, rung, emitter.supports, emitter.max_depth)
        needed, ms = costs(emitter, cost, style_seed)
        return needed <= budget.most_bytes and ms <= budget.most_ms

    if not fits(0):
        return None
    low = 0
    high = int(math.log(LARGEST / SMALLEST, RUNG))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    span = budget.decades * math.log(10) / math.log(RUNG)
    # The variant decides how far down, the same for every language; more of the large than of the small.
    down = random.Random(f"{seed}/{problem}/{variant}/down").random() ** 2
    rung = max(int(low - down * span), 0)
    while rung < low:
        *_, cost = _sized(seed, problem, variant, rung, emitter.supports, emitter.max_depth)
        if costs(emitter, cost, style_seed)[0] >= budget.least_bytes:
            break
        rung += 1
    size, program, cost = _sized(seed, problem, variant, rung, emitter.supports, emitter.max_depth)
    needed, ms = costs(emitter, cost, style_seed)
    picks = random.Random(f"{own}/picks")
    style = Style(style_seed, picks.random() < 0.5, choose_names(program, own), picks.choice((0, 0, 2, 4)))
    text = emitter(program, style).text()
    name = f"s{seed}-p{problem:04d}-v{variant:02d}-{language}"
    return Sample(name, group_of(seed, problem), language, text, size, program, cost, needed, ms)


def samples(
    seed: int, problems: int, variants: int, languages: Sequence[str], budget: Budget = Budget()
) -> Iterator[Sample]:
    """Yields programs variant by variant, each in every language that can write it; texts are distinct.

    Raises:
        DataError: An unknown language.
    """
    unknown = [language for language in languages if language not in EMITTERS]
    if unknown:
        raise DataError(f"no emitter for {', '.join(unknown)}; there are {', '.join(EMITTERS)}")
    seen: set[str] = set()
    for variant in range(variants):
        for problem in range(problems):
            for language in languages:
                made = sample(seed, problem, variant, language, budget)
                if made is not None and made.text not in seen:
                    seen.add(made.text)
                    yield made


__all__ = [
    "Budget",
    "Sample",
    "build_program",
    "can_write",
    "costs",
    "group_of",
    "problem_families",
    "sample",
    "samples",
]
