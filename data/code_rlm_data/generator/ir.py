"""The one internal form of every generated program: typed statements over numbers and containers.

A program has constants, functions and a main body, and prints one number. Everything a language must be able to express is
here, and nothing is here that some language cannot express: loops have no `break`, a function returns at its end, a name
is declared once in a function. Numbers are never negative, and no value or intermediate reaches 2**53, so that every
language computes the same.

Types are `Type(kind, elem, form)`. Kinds:

    int, long                 whole numbers: below 2**31 (sizes, indices), below 2**53 (the rest)
    arr, vec, mat, jag        fixed array, growing array, matrix, growing rows; `elem` is u8, i32, i64 or f64
    map, smap, set, deque     whole number to whole number, text to whole number, distinct numbers, queue
    str, strs                 text that grows, growing array of texts
    list, tree                immutable cells: (head, tail), (left, value, right)

`form` picks among a language's ways to store the same thing: see `Emitter.forms`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

ELEMENTS = ("u8", "i32", "i64", "f64")
CONTAINERS = ("arr", "vec", "mat", "jag", "map", "smap", "set", "deque", "str", "strs", "list", "tree")


@dataclass(frozen=True)
class Type:
    """What a name holds; see the module's docstring."""

    kind: str
    elem: str = ""
    form: str = ""


INT = Type("int")
LONG = Type("long")
LIST = Type("list")
TREE = Type("tree")


# Expressions


class Expression:
    """Operators that build nodes: `Var("i") * 3 + 1`; plain numbers become literals. `==` stays comparison of nodes."""

    def __add__(self, other: Any) -> Bin:
        return Bin("+", self, node(other))

    def __sub__(self, other: Any) -> Bin:
        return Bin("-", self, node(other))

    def __mul__(self, other: Any) -> Bin:
        return Bin("*", self, node(other))

    def __floordiv__(self, other: Any) -> Bin:
        return Bin("/", self, node(other))

    def __mod__(self, other: Any) -> Bin:
        return Bin("%", self, node(other))

    def __xor__(self, other: Any) -> Bin:
        return Bin("^", self, node(other))

    def __and__(self, other: Any) -> Bin:
        return Bin("&", self, node(other))

    def __lt__(self, other: Any) -> Cmp:
        return Cmp("<", self, node(other))

    def __le__(self, other: Any) -> Cmp:
        return Cmp("<=", self, node(other))

    def __gt__(self, other: Any) -> Cmp:
        return Cmp(">", self, node(other))

    def __ge__(self, other: Any) -> Cmp:
        return Cmp(">=", self, node(other))

    def equals(self, other: Any) -> Cmp:
        return Cmp("==", self, node(other))

    def differs(self, other: Any) -> Cmp:
        return Cmp("!=", self, node(other))


def node(value: Any) -> Any:
    """Returns a literal for a number, and any node as it is."""
    return Int(value) if isinstance(value, int) else value


@dataclass(frozen=True)
class Int(Expression):
    """A literal."""

    value: int


@dataclass(frozen=True)
class Var(Expression):
    """A name: variable, parameter or constant."""

    name: str


@dataclass(frozen=True)
class Wide(Expression):
    """A number as a long, so that what is computed with it does not overflow an int."""

    value: Any


@dataclass(frozen=True)
class Bin(Expression):
    """Arithmetic. `op` is one of + - * / % & | ^ min max; `/` is whole division; `-` never goes below 0."""

    op: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Cmp:
    """A comparison of numbers: < <= > >= == !=. Only in conditions."""

    op: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Both:
    """And; the right side is evaluated only where the left side holds."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Either:
    """Or; the right side is evaluated only where the left side does not hold."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Ask(Expression):
    """A question to a container, or a value made of others: `op` is "kind.name", such as "arr.get".

    Args are expressions. "vec.pop" and "deque.pop" change the container and stand alone on the right of Let or Assign.
    """

    op: str
    target: str
    args: tuple = ()


@dataclass(frozen=True)
class Call(Expression):
    """A call; an argument that is a container is a `Var`, passed by reference."""

    name: str
    args: tuple = ()


@dataclass(frozen=True)
class Nil:
    """The empty list or tree."""

    kind: str


@dataclass(frozen=True)
class Cons:
    """A list cell before a list."""

    head: Any
    tail: Any


@dataclass(frozen=True)
class Node:
    """A tree cell."""

    left: Any
    value: Any
    right: Any


# Statements


@dataclass(frozen=True)
class Let:
    """Declare a number, list or tree and give it a value."""

    name: str
    type: Type
    value: Any


@dataclass(frozen=True)
class Assign:
    """Give a declared name another value."""

    name: str
    value: Any


@dataclass(frozen=True)
class New:
    """Declare a container. `args`: arr (size, fill), mat (rows, columns, fill), jag (rows); others none.

    `entries` is an estimate, in constants, of how many elements it will hold, for kinds that grow.
    """

    name: str
    type: Type
    args: tuple = ()
    entries: Any = Int(0)


@dataclass(frozen=True)
class Copy:
    """Declare an array or growing array as a copy of another of `size` elements."""

    name: str
    source: str
    size: Any


@dataclass(frozen=True)
class Join:
    """Declare a text that joins the texts of `source`, `separator` between them."""

    name: str
    source: str
    separator: str
    entries: Any = Int(0)


@dataclass(frozen=True)
class Do:
    """Change a container: `op` is "kind.name", such as "arr.set"."""

    op: str
    target: str
    args: tuple = ()


@dataclass(frozen=True)
class Free:
    """Give a container back, where the language has a way to; it is not used any more."""

    name: str


@dataclass(frozen=True)
class For:
    """Count `var` from `low` to below `high` by `step`, or down from `high` - 1 to `low`.

    `trips` estimates how often the body runs, where constants do not give it.
    """

    var: str
    low: Any
    high: Any
    body: tuple
    step: Any = Int(1)
    down: bool = False
    trips: Any = None


@dataclass(frozen=True)
class While:
    """Repeat while the condition holds; `trips` estimates how often, in constants."""

    condition: Any
    body: tuple
    trips: Any


@dataclass(frozen=True)
class If:
    """A branch; `chance` estimates how often it is taken."""

    condition: Any
    then: tuple
    orelse: tuple = ()
    chance: float = 0.5


@dataclass(frozen=True)
class Each:
    """Loop over the elements of an arr or vec, the values of a map, or the character codes of a str, in any order."""

    var: str
    target: str
    body: tuple
    trips: Any = Int(0)


@dataclass(frozen=True)
class Fold:
    """Declare `name` as the sum of `value` over `var` from `low` to below `high` where `keep` holds.

    `mode`: "loop", "list" (the values stand in a container before they are added) or "lazy" (a generator or stream).
    `value` and `keep` use `var`, constants and literals only.
    """

    name: str
    var: str
    low: Any
    high: Any
    value: Any
    keep: Any
    mode: str


@dataclass(frozen=True)
class Note:
    """A comment."""

    text: str


@dataclass(frozen=True)
class Function:
    """A function. `calls` estimates how many calls one call from outside leads to, itself included; `depth` how deep."""

    name: str
    params: tuple[tuple[str, Type], ...]
    body: tuple
    result: Any
    result_type: Type = LONG
    calls: Any = Int(1)
    depth: Any = Int(1)
    note: str = ""


@dataclass(frozen=True)
class Program:
    """Constants, functions in order of use, and a main body that prints `result`."""

    constants: tuple[tuple[str, int], ...]
    functions: tuple[Function, ...]
    body: tuple
    result: Any
    note: str = ""

    @property
    def main(self) -> Function:
        """The main body as a function without parameters."""
        return Function("main", (), self.body, self.result)


def walk(node: Any) -> Iterator[Any]:
    """Yields every node of a tree of nodes, parents first."""
    if isinstance(node, (tuple, list)):
        for item in node:
            yield from walk(item)
    elif hasattr(node, "__dataclass_fields__") and not isinstance(node, Type):
        yield node
        for each in fields(node):
            yield from walk(getattr(node, each.name))


def declared(function: Function) -> dict[str, Type]:
    """Returns every name that a function declares, parameters and loop variables included, with its type."""
    types = dict(function.params)
    for node in walk(function.body):
        if isinstance(node, (Let, New)):
            types[node.name] = node.type
        elif isinstance(node, Copy):
            types[node.name] = types[node.source]
        elif isinstance(node, Join):
            types[node.name] = Type("str")
        elif isinstance(node, For):
            types[node.var] = INT
        elif isinstance(node, Fold):
            types[node.name] = LONG
            types[node.var] = INT
        elif isinstance(node, Each):
            types[node.var] = LONG
    return types


def uses(program: Program) -> set[str]:
    """Returns the container kinds that a program needs, and "sort", "recursion" and "lazy" where it has them."""
    found: set[str] = set()
    for function in (*program.functions, program.main):
        found |= {each.kind for each in declared(function).values()} & set(CONTAINERS)
        for node in walk(function.body):
            if isinstance(node, Do) and node.op.endswith(".sort"):
                found.add("sort")
            if isinstance(node, Call) and node.name == function.name:
                found.add("recursion")
            if isinstance(node, Fold):
                found |= {"lazy"} if node.mode == "lazy" else {"vec"} if node.mode == "list" else set()
    return found


def assigned(function: Function) -> set[str]:
    """Returns the names that a function assigns after declaring them."""
    return {node.name for node in walk(function.body) if isinstance(node, Assign)}


def mutated(program: Program) -> dict[str, set[str]]:
    """Returns, for each function, the containers that it changes, by itself or through a function it calls."""
    functions = {each.name: each for each in (*program.functions, program.main)}
    changed = {name: _changed_here(each) for name, each in functions.items()}
    while True:
        before = sum(map(len, changed.values()))
        for name, function in functions.items():
            for node in walk((function.body, function.result)):
                if isinstance(node, Call):
                    for argument, (parameter, _) in zip(node.args, functions[node.name].params):
                        if isinstance(argument, Var) and parameter in changed[node.name]:
                            changed[name].add(argument.name)
        if sum(map(len, changed.values())) == before:
            return changed


def _changed_here(function: Function) -> set[str]:
    pops = ("vec.pop", "deque.pop")
    return {
        node.target
        for node in walk(function.body)
        if isinstance(node, Do) or (isinstance(node, Ask) and node.op in pops)
    }


def minus_one(node: object) -> object:
    """Returns an expression less one, without a needless `+ 1 - 1`."""
    if isinstance(node, Int):
        return Int(node.value - 1)
    if isinstance(node, Bin) and node.op == "+" and node.right == Int(1):
        return node.left
    return Bin("-", node, Int(1))


__all__ = [
    *("CONTAINERS", "ELEMENTS", "INT", "LIST", "LONG", "TREE", "Ask", "Assign", "Bin", "Both", "Call", "Cmp", "Cons"),
    *("Copy", "Do", "Each", "Either", "Fold", "For", "Free", "Function", "If", "Int", "Join", "Let", "New", "Nil"),
    *(
        "Node",
        "Note",
        "Program",
        "Type",
        "Var",
        "While",
        "Wide",
        "assigned",
        "declared",
        "minus_one",
        "mutated",
        "node",
        "uses",
        "walk",
    ),
]
