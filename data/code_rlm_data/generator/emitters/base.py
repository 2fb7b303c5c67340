"""What every emitter shares: types of expressions, precedence, dispatch of container operations, default lowerings.

An emitter turns a `Program` into the text of one language. A subclass gives statements their syntax and every
container operation that it supports one method, named after the operation: `arr_get(a, i)`, `map_add(m, key, delta)`.
Methods for questions return the text of an expression, methods for changes return lines. Their first argument is a
`Target`, the name as text with its type; the others are `Value`s, text with type and precedence.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from code_rlm_data.generator import ir
from code_rlm_data.generator.ir import INT, LONG, Type

# How tightly the text of an expression binds.
ATOM = 3
TIMES = 2
PLUS = 1
LOOSE = 0
# What a change of a container becomes: a line, several, or nothing.
Lines = str | list[str] | None
T = TypeVar("T")


class Value(str):
    """Text of an expression with its type and how tightly it binds."""

    type: Type
    level: int

    def __new__(cls, text: str, type: Type = LONG, level: int = ATOM) -> Value:
        value = super().__new__(cls, text)
        value.type = type
        value.level = level
        return value

    @property
    def atom(self) -> Value:
        """The value, in brackets where it needs them to stand inside another expression."""
        return self if self.level == ATOM else Value(f"({self})", self.type)


class Target(str):
    """Text of a container's name with its type and the function's view of it."""

    type: Type
    name: str

    def __new__(cls, text: str, type: Type, name: str) -> Target:
        target = super().__new__(cls, text)
        target.type = type
        target.name = name
        return target

    @property
    def elem(self) -> str:
        """Element type: u8, i32, i64 or f64."""
        return self.type.elem

    @property
    def form(self) -> str:
        """Which of the language's forms it is stored in."""
        return self.type.form


@dataclass(frozen=True)
class Style:
    """What varies in a text without changing what it does.

    Attributes:
        seed: Of all picks between idioms.
        comments: Whether notes become comments.
        names: IR name to words; a name that is missing is its own single word.
        indent: Spaces of a level, 0 for the language's own.
    """

    seed: int = 0
    comments: bool = True
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    indent: int = 0


class Emitter:
    """Base of all emitters. `Emitter(program, style).text()` is the whole file."""

    language = ""
    # Container kinds and features (see `ir.uses`) that the language expresses in its own standard library.
    supports: frozenset[str] = frozenset()
    # Kind to the ways a language stores it; the generator picks one and writes it into the type.
    forms: dict[str, tuple[str, ...]] = {}
    # Element types that make a difference in the text.
    elements: tuple[str, ...] = ir.ELEMENTS
    max_depth = 5_000
    # Simple operations in a millisecond and the start of the process in ms, for the budget: fitted to a first measurement
    # of 500 programs, so that seven of ten take no longer than estimated.
    speed = 10_000
    start_ms = 20.0
    # Bytes that one element of a kind costs; "elem" stands for the element's own width.
    bytes_of: dict[str, float] = {}

    case = "snake"
    function_case: str | None = None
    constant_case = "upper"
    indent = 4
    line_comment = "//"
    operators = {"+": "+", "-": "-", "*": "*", "/": "/", "%": "%", "&": "&", "|": "|", "^": "^"}
    comparisons = {"<": "<", "<=": "<=", ">": ">", ">=": ">=", "==": "==", "!=": "!="}
    both = "&&"
    either = "||"
    semicolon = ""

    def __init__(self, program: ir.Program, style: Style) -> None:
        self.program = program
        self.style = style
        self.functions = {each.name: each for each in program.functions}
        self.mutated = ir.mutated(program)
        self.needs = ir.uses(program)
        self.lines: list[str] = []
        self.depth = 0
        self.snippets: dict[str, str] = {}
        self.imports: set[str] = set()
        self.types: dict[str, Type] = {}
        self.sizes: dict[str, Value] = {}
        self.function = program.main
        self.constants = dict(program.constants)
        # Names of the function that take another value after their declaration.
        self.varying: set[str] = set()
        self._fresh = 0

    # Text

    def text(self) -> str:
        """Returns the whole file."""
        raise NotImplementedError

    def pick(self, what: str, *options: T) -> T:
        """Chooses an idiom at random.

        Args:
            what: Names the choice; the same name gets the same option everywhere in a program.
            options: To choose from; one that stands there twice is twice as likely.
        """
        return random.Random(f"{self.style.seed}/{what}").choice(options)

    def put(self, *lines: str | Iterable[str] | None) -> None:
        """Appends lines at the current depth."""
        for line in lines:
            if line is None:
                continue
            if isinstance(line, str):
                for each in line.split("\n"):
                    pad = " " * ((self.style.indent or self.indent) * self.depth)
                    self.lines.append(pad + each if each else "")
            else:
                self.put(*line)

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Puts lines one level deeper."""
        self.depth += 1
        yield
        self.depth -= 1

    @contextmanager
    def captured(self) -> Iterator[list[str]]:
        """Collects what is put into a list instead of the file."""
        outer = self.lines
        self.lines = []
        collected = self.lines
        yield collected
        self.lines = outer

    def fresh(self, stem: str) -> str:
        """Returns a name that the program does not use."""
        self._fresh += 1
        return f"{stem}{self._fresh}"

    def need(self, name: str, text: str) -> None:
        """Adds a helper to the file once."""
        self.snippets.setdefault(name, text.strip("\n"))

    # Names

    def words(self, name: str) -> tuple[str, ...]:
        return self.style.names.get(name, tuple(name.split("_")))

    def spell(self, words: tuple[str, ...], case: str) -> str:
        if case == "camel":
            return words[0] + "".join(word.capitalize() for word in words[1:])
        if case == "pascal":
            return "".join(word.capitalize() for word in words)
        if case == "upper":
            return "_".join(words).upper()
        return ("-" if case == "kebab" else "_").join(words)

    def v(self, name: str) -> str:
        """Returns the text of a variable or constant."""
        return self.spell(self.words(name), self.constant_case if name in self.constants else self.case)

    def f(self, name: str) -> str:
        """Returns the text of a function's name."""
        return self.spell(self.words(name), self.function_case or self.case)

    def target(self, name: str) -> Target:
        return Target(self.v(name), self.types[name], name)

    # Expressions

    def type_of(self, node: object) -> Type:
        """Returns the type of an expression."""
        if isinstance(node, ir.Int):
            return INT if node.value < 2**31 else LONG
        if isinstance(node, ir.Var):
            if node.name in self.constants:
                return INT if self.constants[node.name] < 2**31 else LONG
            return self.types[node.name]
        if isinstance(node, ir.Bin):
            sides = self.type_of(node.left), self.type_of(node.right)
            return INT if sides == (INT, INT) else LONG
        if isinstance(node, ir.Call):
            return self.functions[node.name].result_type
        if isinstance(node, ir.Ask):
            return self.ask_type(node)
        if isinstance(node, ir.Nil):
            return Type(node.kind)
        if isinstance(node, ir.Cons):
            return ir.LIST
        if isinstance(node, ir.Node):
            return ir.TREE
        return LONG

    def ask_type(self, node: ir.Ask) -> Type:
        kind, _, op = node.op.partition(".")
        if op == "len":
            return INT
        if kind in ("arr", "vec", "mat", "jag"):
            return INT if self.types[node.target].elem in ("u8", "i32") else LONG
        if op in ("tail", "left", "right"):
            return Type(kind)
        return LONG

    def x(self, node: object) -> Value:
        """Returns the text of an expression or condition."""
        type = self.type_of(node)
        if isinstance(node, ir.Int):
            return Value(self.literal(node.value, type), type)
        if isinstance(node, ir.Var):
            return Value(self.variable(node.name), type)
        if isinstance(node, ir.Wide):
            return self.wide(self.x(node.value))
        if isinstance(node, ir.Bin):
            left, right = self.unified(self.x(node.left), self.x(node.right), type)
            return self.binary(node.op, left, right, type)
        if isinstance(node, ir.Cmp):
            left = self.x(node.left)
            right = self.x(node.right)
            both = INT if (left.type, right.type) == (INT, INT) else LONG
            return self.compare(node.op, *self.unified(left, right, both))
        if isinstance(node, (ir.Both, ir.Either)):
            return self.joined(node)
        if isinstance(node, ir.Ask):
            return self.ask(node)
        if isinstance(node, ir.Call):
            return self.call(node)
        if isinstance(node, ir.Nil):
            return Value(self.nil(node.kind), type)
        if isinstance(node, ir.Cons):
            return Value(self.cons(self.as_long(self.x(node.head)), self.x(node.tail)), type)
        if isinstance(node, ir.Node):
            parts = self.x(node.left), self.as_long(self.x(node.value)), self.x(node.right)
            return Value(self.node(*parts), type)
        raise TypeError(f"no expression: {node!r}")

    def literal(self, value: int, type: Type) -> str:
        return str(value)

    def variable(self, name: str) -> str:
        return self.v(name)

    def wide(self, value: Value) -> Value:
        """Makes a long of an int; where all numbers are wide, nothing."""
        return Value(value, LONG, value.level)

    def as_long(self, value: Value) -> Value:
        return value if value.type == LONG else self.wide(value)

    def narrow(self, value: Value) -> Value:
        """Makes an int of a long."""
        return Value(value, INT, value.level)

    def unified(self, left: Value, right: Value, type: Type) -> tuple[Value, Value]:
        """Brings two sides to one type, for languages that ask for it."""
        return left, right

    def fit(self, value: Value, type: Type) -> Value:
        """Brings a value to the type of the variable that takes it."""
        if type == INT and value.type == LONG:
            return self.narrow(value)
        if type == LONG and value.type == INT:
            return self.widened(value)
        return value

    def widened(self, value: Value) -> Value:
        """Makes a long of an int where it is stored in one; implicit in most languages."""
        return value

    def binary(self, op: str, left: Value, right: Value, type: Type) -> Value:
        if op in ("min", "max"):
            return Value(self.extreme(op, left, right), type)
        if op == "+":
            return Value(f"{left if left.level >= PLUS else left.atom} + {self._at(right, TIMES)}", type, PLUS)
        if op == "-":
            return Value(f"{left if left.level >= PLUS else left.atom} - {self._at(right, TIMES)}", type, PLUS)
        if op == "/":
            return self.divide(left, right, type)
        if op in ("*", "%"):
            return Value(f"{self._at(left, TIMES)} {self.operators[op]} {right.atom}", type, TIMES)
        return Value(f"{left.atom} {self.operators[op]} {right.atom}", type, LOOSE)

    def divide(self, left: Value, right: Value, type: Type) -> Value:
        return Value(f"{self._at(left, TIMES)} {self.operators['/']} {right.atom}", type, TIMES)

    @staticmethod
    def _at(value: Value, level: int) -> str:
        return value if value.level >= level else value.atom

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"{op}({left}, {right})"

    def compare(self, op: str, left: Value, right: Value) -> Value:
        sides = (left if left.level >= PLUS else left.atom), (right if right.level >= PLUS else right.atom)
        return Value(f"{sides[0]} {self.comparisons[op]} {sides[1]}", LONG, LOOSE)

    def joined(self, node: ir.Both | ir.Either) -> Value:
        word = self.both if isinstance(node, ir.Both) else self.either
        left = self.x(node.left)
        right = self.x(node.right)
        sides = [
            side.atom if isinstance(part, (ir.Both, ir.Either)) else side
            for side, part in ((left, node.left), (right, node.right))
        ]
        return Value(f"{sides[0]} {word} {sides[1]}", LONG, LOOSE)

    def ask(self, node: ir.Ask) -> Value:
        type = self.type_of(node)
        answer = getattr(self, node.op.replace(".", "_"))(self.handle(node), *self.values(node.args))
        return Value(answer, type, getattr(answer, "level", ATOM))

    def handle(self, node: ir.Ask | ir.Do) -> Target | Value:
        """Returns what an operation works on: a container's name, or, for lists and trees, a value."""
        if node.op.split(".")[0] in ("list", "tree"):
            return Value(self.variable(node.target), self.types[node.target])
        return self.target(node.target)

    def call(self, node: ir.Call) -> Value:
        function = self.functions[node.name]
        arguments = []
        for argument, (name, type) in zip(node.args, function.params):
            if type.kind in ir.CONTAINERS and type.kind not in ("list", "tree"):
                arguments.append(self.reference(self.target(argument.name), name in self.mutated[node.name]))
            else:
                arguments.append(self.argument(self.fit(self.x(argument), type)))
        return Value(self.apply(node.name, arguments), function.result_type)

    def argument(self, value: Value) -> str:
        return value

    def reference(self, target: Target, changes: bool) -> str:
        """Returns how a container is given to a function that changes it or not."""
        return str(target)

    def apply(self, name: str, arguments: list[str]) -> str:
        return f"{self.f(name)}({', '.join(arguments)})"

    # Statements

    def body(self, statements: tuple) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let):
            self.let(node.name, node.type, self.fit(self.x(node.value), node.type))
        elif isinstance(node, ir.Assign):
            self.assign(node)
        elif isinstance(node, ir.New):
            if node.type.kind in ("arr", "jag"):
                self.sizes[node.name] = self.x(node.args[0])
            target = self.target(node.name)
            self.put(getattr(self, f"{node.type.kind}_new")(target, *map(self.x, node.args)))
        elif isinstance(node, ir.Copy):
            self.sizes[node.name] = self.x(node.size)
            make = getattr(self, f"{self.types[node.source].kind}_copy")
            self.put(make(self.target(node.name), self.target(node.source), self.x(node.size)))
        elif isinstance(node, ir.Join):
            self.put(self.strs_join(self.target(node.name), self.target(node.source), node.separator))
        elif isinstance(node, ir.Do):
            self.do(node)
        elif isinstance(node, ir.Free):
            self.put(self.free(self.target(node.name)))
        elif isinstance(node, ir.For):
            self.count(node)
        elif isinstance(node, ir.While):
            self.repeat(node)
        elif isinstance(node, ir.If):
            self.branch(node)
        elif isinstance(node, ir.Each):
            self.each(node)
        elif isinstance(node, ir.Fold):
            getattr(self, f"fold_{node.mode}")(node)
        elif isinstance(node, ir.Note):
            if self.style.comments:
                self.put(self.comment(node.text))
        else:
            raise TypeError(f"no statement: {node!r}")

    def comment(self, text: str) -> str:
        return f"{self.line_comment} {text}"

    def let(self, name: str, type: Type, value: Value) -> None:
        raise NotImplementedError

    def assign(self, node: ir.Assign) -> None:
        value = self.fit(self.x(node.value), self.types[node.name])
        self.put(f"{self.variable(node.name)} = {value}{self.semicolon}")

    def do(self, node: ir.Do) -> None:
        self.put(getattr(self, node.op.replace(".", "_"))(self.target(node.target), *self.values(node.args)))

    def values(self, args: tuple) -> list[str]:
        """Returns the texts of arguments; what is text already, such as a word's prefix, stays as it is."""
        return [each if isinstance(each, str) else self.x(each) for each in args]

    def free(self, target: Target) -> str | list[str] | None:
        return None

    def count(self, node: ir.For) -> None:
        raise NotImplementedError

    def repeat(self, node: ir.While) -> None:
        raise NotImplementedError

    def branch(self, node: ir.If) -> None:
        raise NotImplementedError

    def each(self, node: ir.Each) -> None:
        getattr(self, f"{self.types[node.target].kind}_each")(node, self.target(node.target))

    def arr_each(self, node: ir.Each, a: Target) -> None:
        """Loops by index, where a language has no better way."""
        self._each_by_index(node, f"{a.type.kind}.get", ir.Var("each size"))

    vec_each = arr_each

    def _each_by_index(self, node: ir.Each, get: str, size: object) -> None:
        index = self.fresh("at_")
        self.types[index] = INT
        high = ir.Ask("vec.len", node.target) if get == "vec.get" else self.size_node(node.target)
        value = ir.Ask(get, node.target, (ir.Var(index),))
        self.hoist(index, INT)
        self.hoist(node.var, LONG)
        self.count(ir.For(index, ir.Int(0), high, (ir.Let(node.var, LONG, value), *node.body)))

    def hoist(self, name: str, type: Type) -> None:
        """Declares a variable that a lowering adds, for languages that declare at the top of a function."""

    def size_node(self, name: str) -> object:
        """Returns the size that an array was declared with, as an expression."""
        for node in ir.walk(self.function.body):
            if isinstance(node, ir.New) and node.name == name:
                return node.args[0]
            if isinstance(node, ir.Copy) and node.name == name:
                return node.size
        raise KeyError(f"{name} is no array of this function")

    def fold_loop(self, node: ir.Fold) -> None:
        """Adds in a plain loop."""
        self.varying.add(node.name)
        self.hoist(node.var, INT)
        self.statement(ir.Let(node.name, LONG, ir.Int(0)))
        add = ir.Assign(node.name, ir.Bin("+", ir.Var(node.name), node.value))
        self.count(ir.For(node.var, node.low, node.high, (add,) if node.keep is None else (ir.If(node.keep, (add,)),)))

    def fold_lazy(self, node: ir.Fold) -> None:
        """Streams the values; where a language has no way to, the loop does the same."""
        self.fold_loop(node)

    def fold_list(self, node: ir.Fold) -> None:
        """Stores the values, then adds them."""
        self.varying.add(node.name)
        values = self.fresh("kept_")
        each = self.fresh("item_")
        self.types[values] = self.formed(Type("vec", "i64"))
        self.types[each] = LONG
        self.hoist(values, self.types[values])
        self.hoist(node.var, INT)
        self.hoist(each, LONG)
        self.statement(ir.New(values, self.types[values]))
        push = ir.Do("vec.push", values, (node.value,))
        body = (push,) if node.keep is None else (ir.If(node.keep, (push,)),)
        self.count(ir.For(node.var, node.low, node.high, body))
        self.statement(ir.Let(node.name, LONG, ir.Int(0)))
        total = ir.Assign(node.name, ir.Bin("+", ir.Var(node.name), ir.Var(each)))
        self.each(ir.Each(each, values, (total,)))
        self.put(self.free(self.target(values)))

    # Functions

    def enter(self, function: ir.Function) -> None:
        """Begins a function: its names are known from here on."""
        self.function = function
        self.sizes = {}
        self.varying = ir.assigned(function)
        self.types = {name: self.formed(type) for name, type in ir.declared(function).items()}

    def formed(self, type: Type) -> Type:
        """Chooses how a container is stored: one form for each kind in a program, so that functions agree."""
        forms = self.forms.get(type.kind)
        return Type(type.kind, type.elem, self.pick(f"form {type.kind}", *forms)) if forms else type

    @classmethod
    def cost_of(cls, kind: str, elem: str, form: str) -> float:
        """Returns the bytes that one element costs; 0 in `bytes_of` stands for the element's own width."""
        cost = cls.bytes_of.get(f"{kind}.{form}", cls.bytes_of.get(kind, 0))
        return cost or {"u8": 1, "i32": 4, "i64": 8, "f64": 8}.get(elem, 8)


__all__ = ["ATOM", "LOOSE", "PLUS", "TIMES", "Emitter", "Lines", "Style", "Target", "Value"]
