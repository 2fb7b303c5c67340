"""What a program will cost, estimated from its text alone: operations and elements, by the hints in the IR.

Loops between constants are counted, other loops and branches by their hints. Memory is an upper bound: everything that
is ever allocated counts, except that a container declared inside a loop counts once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from code_rlm_data.generator import ir

_LOOKUPS = {"map": 1, "set": 1, "smap": 2}
_WEIGHTS = {"deque": 2, "str": 2, "strs": 8, "list": 2, "tree": 2}


@dataclass
class Cost:
    """Estimates: simple `operations`, `lookups` in hash tables, and `elements`, (kind, element type) to how many."""

    operations: float = 0.0
    lookups: float = 0.0
    elements: Counter = field(default_factory=Counter)


def estimate(program: ir.Program) -> Cost:
    """Returns the cost of a program.

    Raises:
        ValueError: A loop whose bounds are not constant and that gives no `trips`.
    """
    return _Walk(program).run()


class _Walk:
    def __init__(self, program: ir.Program) -> None:
        self.program = program
        self.functions = {each.name: each for each in program.functions}
        self.constants = dict(program.constants)
        self.cost = Cost()
        self.active: set[str] = set()
        # Elements of an array, or of a mean row of a jag.
        self.rows: dict[str, float] = {}
        self.types: dict[str, ir.Type] = {}

    def run(self) -> Cost:
        self.types = ir.declared(self.program.main)
        self.statements(self.program.body, 1.0, dict(self.constants))
        self.expression(self.program.result, 1.0, dict(self.constants))
        return self.cost

    def number(self, node: Any, env: dict[str, float]) -> float | None:
        """Returns the value of an expression of constants, or None."""
        if isinstance(node, ir.Int):
            return node.value
        if isinstance(node, ir.Var):
            return env.get(node.name)
        if isinstance(node, ir.Wide):
            return self.number(node.value, env)
        if isinstance(node, ir.Ask) and node.op == "jag.len":
            return self.rows.get(node.target)
        if isinstance(node, ir.Bin):
            left = self.number(node.left, env)
            right = self.number(node.right, env)
            if left is None or right is None:
                return None
            return {
                "+": lambda: left + right, "-": lambda: left - right, "*": lambda: left * right,
                "/": lambda: left // max(right, 1), "%": lambda: left % max(right, 1),
                "min": lambda: min(left, right), "max": lambda: max(left, right),
            }.get(node.op, lambda: None)()  # fmt: skip
        return None

    def known(self, node: Any, env: dict[str, float], what: str) -> float:
        value = self.number(node, env)
        if value is None:
            raise ValueError(f"{what}: {node} is not known from constants")
        return max(float(value), 0.0)

    def statements(self, body: tuple, times: float, env: dict[str, float]) -> None:
        for node in body:
            self.statement(node, times, env)

    def statement(self, node: Any, times: float, env: dict[str, float]) -> None:
        if isinstance(node, ir.Let):
            value = self.number(node.value, env)
            if value is not None and node.type == ir.INT:
                env[node.name] = value
            self.expression(node.value, times, env)
        elif isinstance(node, ir.Assign):
            env.pop(node.name, None)
            self.expression(node.value, times, env)
        elif isinstance(node, ir.New):
            self.allocate(node, times, env)
        elif isinstance(node, ir.Copy):
            size = self.known(node.size, env, f"copy {node.name}")
            self.cost.elements["arr", self.types[node.source].elem] += size
            self.cost.operations += times * size / 8
        elif isinstance(node, ir.Join):
            self.cost.elements["str", ""] += self.known(node.entries, env, f"join {node.name}")
            self.cost.operations += times * self.known(node.entries, env, f"join {node.name}") / 8
        elif isinstance(node, ir.Do):
            self.cost.operations += times * _WEIGHTS.get(node.op.split(".")[0], 1)
            self.cost.lookups += times * _LOOKUPS.get(node.op.split(".")[0], 0)
            if node.op.endswith(".sort"):
                size = self.rows.get(node.target, 0.0)
                self.cost.operations += times * size * int(size).bit_length()
            for each in node.args:
                self.expression(each, times, env)
        elif isinstance(node, ir.For):
            self.count(node, times, env)
        elif isinstance(node, ir.While):
            trips = self.known(node.trips, env, "while") * times
            self.expression(node.condition, trips, env)
            self.statements(node.body, trips, env)
        elif isinstance(node, ir.If):
            self.expression(node.condition, times, env)
            self.statements(node.then, times * node.chance, dict(env))
            self.statements(node.orelse, times * (1 - node.chance), dict(env))
        elif isinstance(node, ir.Each):
            trips = self.known(node.trips, env, "each") * times
            self.cost.operations += trips
            self.statements(node.body, trips, env)
        elif isinstance(node, ir.Fold):
            trips = (self.known(node.high, env, "fold") - self.known(node.low, env, "fold")) * times
            self.expression(node.value, trips, env)
            self.cost.operations += trips * (1 if node.mode == "loop" else 3)
            if node.mode == "list":
                self.cost.elements["vec", "i64"] += trips

    def count(self, node: ir.For, times: float, env: dict[str, float]) -> None:
        low = self.number(node.low, env)
        high = self.number(node.high, env)
        if node.trips is not None:
            trips = self.known(node.trips, env, "for")
        elif low is None or high is None:
            raise ValueError(f"for {node.var}: {node.low} to {node.high} is not known from constants")
        else:
            trips = max(high - low, 0.0) / max(self.known(node.step, env, "for"), 1.0)
        inner = dict(env)
        if low is not None and high is not None:
            inner[node.var] = (low + high) / 2
        self.cost.operations += trips * times
        self.statements(node.body, trips * times, inner)

    def allocate(self, node: ir.New, times: float, env: dict[str, float]) -> None:
        kind = node.type.kind
        elem = node.type.elem
        if not times:
            return
        if kind == "arr":
            size = self.known(node.args[0], env, node.name)
            self.rows[node.name] = size
        elif kind == "mat":
            size = self.known(node.args[0], env, node.name) * self.known(node.args[1], env, node.name)
            self.cost.elements["row", ""] += self.known(node.args[0], env, node.name)
        else:
            size = self.known(node.entries, env, node.name)
            if kind == "jag":
                rows = max(self.known(node.args[0], env, node.name), 1.0)
                self.rows[node.name] = size / rows
                self.cost.elements["row", ""] += rows
        self.cost.elements[kind, elem] += size
        self.cost.operations += times * (size / 20 if kind in ("arr", "mat") else 1)

    def expression(self, node: Any, times: float, env: dict[str, float]) -> None:
        if isinstance(node, (ir.Bin, ir.Cmp, ir.Both, ir.Either)):
            self.cost.operations += times
            self.expression(node.left, times, env)
            self.expression(node.right, times, env)
        elif isinstance(node, ir.Wide):
            self.expression(node.value, times, env)
        elif isinstance(node, ir.Ask):
            self.cost.operations += times * _WEIGHTS.get(node.op.split(".")[0], 1)
            self.cost.lookups += times * _LOOKUPS.get(node.op.split(".")[0], 0)
            for each in node.args:
                self.expression(each, times, env)
        elif isinstance(node, ir.Cons):
            self.cost.operations += 4 * times
            self.cost.elements["list", ""] += times
            self.expression(node.head, times, env)
        elif isinstance(node, ir.Node):
            self.cost.operations += 6 * times
            self.cost.elements["tree", ""] += times
            for each in (node.left, node.value, node.right):
                self.expression(each, times, env)
        elif isinstance(node, ir.Call):
            self.call(node, times, env)

    def call(self, node: ir.Call, times: float, env: dict[str, float]) -> None:
        for each in node.args:
            self.expression(each, times, env)
        if node.name in self.active:
            return
        function = self.functions[node.name]
        inner = dict(self.constants)
        for argument, (name, type) in zip(node.args, function.params):
            value = self.number(argument, env)
            if value is not None and type == ir.INT:
                inner[name] = value
        calls = self.known(function.calls, inner, function.name) * times
        depth = self.known(function.depth, inner, function.name)
        if depth > 1:
            self.cost.elements["call", ""] += depth
        self.cost.operations += 4 * calls
        self.active.add(node.name)
        outer = self.types
        self.types = {**self.types, **ir.declared(function)}
        self.statements(function.body, calls, inner)
        if function.result is not None:
            self.expression(function.result, calls, inner)
        self.types = outer
        self.active.discard(node.name)


__all__ = ["Cost", "estimate"]
