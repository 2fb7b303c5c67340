"""What the languages with braces share: loops, branches, functions with typed or untyped parameters."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Emitter, Value
from code_rlm_data.generator.ir import INT, LONG, Type


class Braces(Emitter):
    """Emitter of a language whose blocks stand in braces."""

    semicolon = ";"
    case = "camel"
    # Word before a loop variable, and before a declaration without a type.
    loop_word = "int "
    cast_int = "(int) "
    cast_long = "(long) "

    # Types and declarations

    def type_text(self, type: Type) -> str:
        """Returns a type as it is written in declarations."""
        raise NotImplementedError

    def declare(self, type: Type, name: str, value: str) -> str:
        return f"{self.type_text(type)} {name} = {value};"

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        self.put(self.declare(self.types[name], self.v(name), value))

    def wide(self, value: Value) -> Value:
        return Value(f"{self.cast_long}{value.atom}", LONG) if value.type == INT else value

    def narrow(self, value: Value) -> Value:
        return Value(f"{self.cast_int}{value.atom}", INT)

    def ternary(self, condition: str, yes: str, no: str) -> str:
        return f"({condition} ? {yes} : {no})"

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return self.ternary(f"{left.atom} {'<' if op == 'min' else '>'} {right.atom}", left.atom, right.atom)

    def assign(self, node: ir.Assign) -> None:
        value = node.value
        name = self.variable(node.name)
        short = isinstance(value, ir.Bin) and value.op in "+-*%&|^/" and value.left == ir.Var(node.name)
        if short and self.pick("augmented", 1, 1, 0) and (value.op != "/" or self.whole_division):
            right = self.x(value.right)
            if self.types[node.name] == INT and right.type != INT:
                right = self.narrow(right)
            if value.op in "+-" and right == "1" and self.increment and self.pick("increment", 1, 0):
                self.put(f"{name}{value.op * 2};")
            else:
                self.put(f"{name} {self.operators[value.op]}= {right};")
        else:
            super().assign(node)

    # Whether `/` divides whole numbers, and `++` exists.
    whole_division = True
    increment = True

    # Blocks

    def braced(self, head: str, statements: tuple, after: str = "}") -> None:
        self.put(f"{head} {{")
        with self.indented():
            self.body(statements)
        self.put(after)

    def count(self, node: ir.For) -> None:
        low, high, step = (self.fit(self.x(each), INT) for each in (node.low, node.high, node.step))
        var = self.variable(node.var)
        word = self.loop_word
        if node.down:
            top = self.fit(self.x(ir.minus_one(node.high)), INT)
            head = f"for ({word}{var} = {top}; {var} >= {low}; {self.one_less(var)})"
        elif step == "1":
            head = f"for ({word}{var} = {low}; {var} < {high}; {self.one_more(var)})"
        else:
            head = f"for ({word}{var} = {low}; {var} < {high}; {var} += {step})"
        self.braced(head, node.body)

    def one_more(self, var: str) -> str:
        return self.pick("++", f"{var}++", f"++{var}") if self.increment else f"{var} += 1"

    def one_less(self, var: str) -> str:
        return f"{var}--" if self.increment else f"{var} -= 1"

    def repeat(self, node: ir.While) -> None:
        self.braced(f"while ({self.x(node.condition)})", node.body)

    def condition(self, node: ir.If) -> str:
        return f"if ({self.x(node.condition)})"

    elif_word = "else "

    def branch(self, node: ir.If, lead: str = "") -> None:
        self.put(f"{lead}{self.condition(node)} {{")
        with self.indented():
            self.body(node.then)
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ir.If):
            self.branch(node.orelse[0], f"}} {self.elif_word}")
        elif node.orelse:
            self.put("} else {")
            with self.indented():
                self.body(node.orelse)
            self.put("}")
        else:
            self.put("}")

    # Functions

    def parameter(self, name: str, type: Type, changes: bool) -> str:
        return f"{self.type_text(type)} {self.v(name)}"

    def head(self, function: ir.Function, parameters: str) -> str:
        return f"{self.type_text(function.result_type)} {self.f(function.name)}({parameters})"

    def define(self, function: ir.Function) -> None:
        self.enter(function)
        changed = self.mutated[function.name]
        parameters = [self.parameter(name, self.types[name], name in changed) for name, _ in function.params]
        if function.note and self.style.comments:
            self.put(self.comment(function.note))
        self.put(f"{self.head(function, ', '.join(parameters))} {{")
        with self.indented():
            self.prologue(function)
            self.body(function.body)
            self.finish(self.fit(self.x(function.result), function.result_type))
        self.put("}")

    def prologue(self, function: ir.Function) -> None:
        """Puts what stands before a function's own statements."""

    def finish(self, value: str) -> None:
        self.put(f"return {value};")

    def written(self, indent: int = 0) -> tuple[list[str], list[str]]:
        """Returns the lines of all functions, an empty line between them, and those of the main body."""
        functions: list[str] = []
        self.depth = indent
        for function in self.program.functions:
            with self.captured() as lines:
                self.define(function)
            functions += ["", *lines] if functions else lines
        with self.captured() as main:
            self.depth = indent + 1
            self.enter(self.program.main)
            self.prologue(self.program.main)
            self.body(self.program.body)
            self.show(self.x(self.program.result))
        self.depth = 0
        return functions, main

    def show(self, value: Value) -> None:
        """Puts the statement that prints the answer."""
        raise NotImplementedError

    def title(self) -> list[str]:
        """Returns the comment at the head of the file."""
        return [self.comment(self.program.note)] if self.style.comments and self.program.note else []


def assembled(*parts: list[str]) -> str:
    """Joins the parts of a file, an empty line between them."""
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


__all__ = ["Braces", "assembled"]
