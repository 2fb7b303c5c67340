"""What the languages share whose declarations open a scope: a body is a chain of bindings and actions.

OCaml and Scheme write a declaration as `let` around all that follows. A body here is a list of parts, each a binding
(name, expression) or the lines of an action, and a subclass writes the chain.
"""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Emitter, Target, Value

Binding = tuple[str, str]


class Nested(Emitter):
    """Emitter whose container declarations return one binding, or several, instead of lines."""

    def chain(self, parts: list[Binding | list[str]], last: str | None) -> list[str]:
        """Returns the lines of a body: bindings and actions in order, and `last`, its value."""
        raise NotImplementedError

    def lines_of(self, statements: tuple, last: str | None = None) -> list[str]:
        """Returns the lines of a body, not indented."""
        return self.chain(self.parts(statements), last)

    def parts(self, statements: tuple) -> list[Binding | list[str]]:
        made: list[Binding | list[str]] = []
        for node in statements:
            made += self.part(node)
        return made

    def part(self, node: object) -> list[Binding | list[str]]:
        """Returns what a statement is in the chain."""
        if isinstance(node, ir.Let):
            return [(self.v(node.name), self.bound(node.name, self.x(node.value)))]
        if isinstance(node, ir.New):
            if node.type.kind in ("arr", "jag"):
                self.sizes[node.name] = self.x(node.args[0])
            target = self.target(node.name)
            made = getattr(self, f"{node.type.kind}_new")(target, *map(self.x, node.args))
            return made if isinstance(made, list) else [(str(target), made)]
        if isinstance(node, ir.Copy):
            self.sizes[node.name] = self.x(node.size)
            make = getattr(self, f"{self.types[node.source].kind}_copy")
            source = self.target(node.source)
            return [(self.v(node.name), make(self.target(node.name), source, self.x(node.size)))]
        if isinstance(node, ir.Join):
            return [(self.v(node.name), self.strs_join(node, self.target(node.source), node.separator))]
        if isinstance(node, ir.Assign):
            return [[self.assignment(node.name, self.x(node.value))]]
        if isinstance(node, ir.Do):
            made = getattr(self, node.op.replace(".", "_"))(self.target(node.target), *self.values(node.args))
            return [made if isinstance(made, list) else [made]]
        if isinstance(node, ir.Free):
            made = self.free(self.target(node.name))
            return [] if made is None else [[made]]
        if isinstance(node, ir.For):
            return [self.counted(node)]
        if isinstance(node, ir.While):
            return [self.repeated(node)]
        if isinstance(node, ir.If):
            return [self.branched(node)]
        if isinstance(node, ir.Each):
            return [getattr(self, f"{self.types[node.target].kind}_each")(node, self.target(node.target))]
        if isinstance(node, ir.Fold):
            return getattr(self, f"folded_{node.mode}")(node)
        if isinstance(node, ir.Note):
            return [[self.comment(node.text)]] if self.style.comments else []
        raise TypeError(f"no statement: {node!r}")

    def bound(self, name: str, value: Value) -> str:
        """Returns what a variable is bound to: its value, or a cell that holds it."""
        return value

    def assignment(self, name: str, value: Value) -> str:
        raise NotImplementedError

    def counted(self, node: ir.For) -> list[str]:
        raise NotImplementedError

    def repeated(self, node: ir.While) -> list[str]:
        raise NotImplementedError

    def branched(self, node: ir.If) -> list[str]:
        raise NotImplementedError

    def folded_loop(self, node: ir.Fold) -> list[Binding | list[str]]:
        self.varying.add(node.name)
        add = ir.Assign(node.name, ir.Bin("+", ir.Var(node.name), node.value))
        body = (add,) if node.keep is None else (ir.If(node.keep, (add,)),)
        return [
            *self.part(ir.Let(node.name, ir.LONG, ir.Int(0))),
            *self.part(ir.For(node.var, node.low, node.high, body)),
        ]

    def folded_list(self, node: ir.Fold) -> list[Binding | list[str]]:
        return self.folded_loop(node)

    def folded_lazy(self, node: ir.Fold) -> list[Binding | list[str]]:
        return self.folded_loop(node)

    def shifted(self, lines: list[str], by: int = 2) -> list[str]:
        return [" " * by + line for line in lines]


__all__ = ["Binding", "Nested", "Target", "Value"]
