"""Names of a program's variables and functions, in one of several manners.

A name of the IR gives its role ("values_0_1"). Here it becomes words that emitters spell in their language's case:
short, plain, descriptive or careless. No two names of a program differ only in case, as Pascal and Fortran do not see
it; loop variables of one depth share a name, as people have it.
"""

from __future__ import annotations

import random

from code_rlm_data.generator import ir

MANNERS = ("short", "plain", "long", "careless", "mixed")

# Words that some language reserves or defines, and that a role may turn into.
_TAKEN = frozenset(
    "and array as at base begin bool break byte call case char class const data def default del dict div do done double "
    "downto each else elif end enum exit false fi file final float fn for from func function global goto head id if "
    "impl import in inline int integer interface is it item1 label lambda last left1 len length let list local lock long "
    "loop map match max min mod module mut name new next nil no node1 not null object of on op or ord out override "
    "package params pass print procedure program proc raise range read real rec ref register repeat result return "
    "right1 root1 select self set shl short shr signed sizeof static step string struct sub sum super switch table tail "
    "template text then this throw to tree true try type typedef uint ulong union unit unless unsafe until use using val "
    "value var virtual void volatile when where while with word write xor yield abs lines words y0 y1 j0 j1 jn yn gamma "
    "stdin stdout argv argc env main t time index count size kind allocate target source flags pos copy width order "
    "left right state seed first second key keys values previous current best total check limit items".split()
) - frozenset(
    "values first second key best total check limit left right count current previous state seed size items root width "
    "source copy flags index order keys".split()
)

_WORDS = {
    "values": ["data", "numbers", "nums", "samples", "input", "series"],
    "size": ["n", "size", "total", "limit", "amount"],
    "count": ["n", "count", "m", "amount", "num"],
    "limit": ["n", "limit", "bound", "upper"],
    "check": ["acc", "digest", "hash", "checksum", "answer", "res"],
    "state": ["rng", "state", "x", "seed", "lcg"],
    "total": ["total", "acc", "s", "running"],
    "result": ["res", "output", "ans", "made"],
    "table": ["dp", "grid", "memo", "tab"],
    "grid": ["grid", "matrix", "mat", "board"],
    "queue": ["queue", "q", "waiting", "pending"],
    "stack": ["stack", "st", "pile"],
    "heap": ["heap", "h", "pq"],
    "seen": ["seen", "visited", "known"],
    "counts": ["counts", "freq", "tally", "hits", "bins"],
    "text": ["buf", "sb", "text", "letters"],
    "parent": ["parent", "up", "forest"],
    "head": ["head", "front", "chain"],
    "advance": ["advance", "next_random", "step_rng", "lcg", "shuffle_seed"],
    "stage": ["solve", "run", "compute", "process", "work", "simulate", "evaluate"],
    "item": ["item", "v", "x", "elt", "entry"],
    "side": ["n", "side", "dim", "edge"],
    "build": ["build", "make_tree", "grow", "construct"],
    "walk": ["walk", "descend", "recurse", "go_down"],
}
_ADJECTIVES = ("my", "the", "local", "main", "big", "inner", "work", "first", "cur", "all", "num")
_CARELESS = ("tmp", "foo", "aux", "stuff", "thing", "var", "val", "obj", "z", "xx", "temp")
_LOOPS = (("i", "j", "k", "l", "p"), ("a", "b", "c", "d", "e"), ("ii", "jj", "kk", "ll", "mm"))
_LOOPS += (("idx", "jdx", "kdx", "ldx", "mdx"), ("x", "y", "z", "u", "w"))


def choose_names(program: ir.Program, seed: str) -> dict[str, tuple[str, ...]]:
    """Returns words for every name of a program; the seed decides alone."""
    rng = random.Random(f"{seed}/names")
    manner = rng.choice(MANNERS)
    loops = rng.choice(_LOOPS)
    names: dict[str, tuple[str, ...]] = {}
    used = {*_TAKEN, *loops}

    def take(name: str, manner: str) -> None:
        if name in names:
            return
        for attempt in range(1000):
            words = _candidate(name.split("_")[0], manner, rng)
            if attempt > 3:
                words = (*words[:-1], f"{words[-1]}{attempt - 2}")
            key = "".join(words).lower()
            if key not in used:
                used.add(key)
                names[name] = words
                return
        raise ValueError(f"no name found for {name}")

    for name, _ in program.constants:
        take(name, manner)
    for function in (*program.functions, program.main):
        if function.name != "main":
            take(function.name, "plain" if manner == "careless" else manner)
        for name, _ in function.params:
            take(name, manner)
        _loop_names(function.body, 0, loops, names)
        for name in ir.declared(function):
            take(name, rng.choice(MANNERS) if manner == "mixed" else manner)
    return names


def _loop_names(body: tuple, depth: int, loops: tuple[str, ...], names: dict[str, tuple[str, ...]]) -> None:
    """Names loop variables by their depth."""
    for node in body:
        if isinstance(node, (ir.For, ir.Fold)):
            names[node.var] = (loops[depth],)
        if isinstance(node, (ir.For, ir.While, ir.Each)):
            _loop_names(node.body, depth + isinstance(node, ir.For), loops, names)
        elif isinstance(node, ir.If):
            _loop_names(node.then, depth, loops, names)
            _loop_names(node.orelse, depth, loops, names)


def _candidate(role: str, manner: str, rng: random.Random) -> tuple[str, ...]:
    if manner == "mixed":
        manner = rng.choice(MANNERS[:-1])
    word = rng.choice(_WORDS.get(role, [role]))
    if manner == "short":
        return (rng.choice((word[0], role[0], word[:2], role[0] + str(rng.randrange(10)))),)
    if manner == "long":
        return (rng.choice(_ADJECTIVES), *word.split("_"))
    if manner == "careless":
        return (rng.choice(_CARELESS) + rng.choice(("", str(rng.randrange(1, 10)))),)
    return tuple(word.split("_"))


__all__ = ["choose_names"]
