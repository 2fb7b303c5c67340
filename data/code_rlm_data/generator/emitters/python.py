"""Python 3: lists or packed arrays, dict, set, deque, generators; cells as tuples or classes."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Emitter, Lines, Target, Value

_CODES = {"u8": "B", "i32": "i", "i64": "q", "f64": "d"}


class Python(Emitter):
    language = "python"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"arr": ("list", "array"), "vec": ("list", "array"), "mat": ("nested", "flat")}
    max_depth = 20_000
    speed = 65_000
    start_ms = 15.0
    bytes_of = {
        "arr.list": 40,
        "vec.list": 42,
        "mat.nested": 40,
        "jag": 42,
        "map": 130,
        "smap": 170,
        "set": 90,
        "deque": 42,
    }
    bytes_of |= {"str": 1, "strs": 64, "list": 90, "tree": 100, "call": 550}
    line_comment = "#"
    operators = {**Emitter.operators, "/": "//"}
    both = "and"
    either = "or"

    def text(self) -> str:
        structure = bool(self.pick("main", 0, 1))
        deep = "recursion" in self.needs or "tree" in self.needs
        blocks: list[list[str]] = []
        for function in self.program.functions:
            with self.captured() as lines:
                self.define(function)
            blocks.append(lines)
        with self.captured() as main:
            self.enter(self.program.main)
            if structure:
                self.put("def main():")
                self.depth = 1
            if deep:
                self.imports.add("import sys")
                self.put(f"sys.setrecursionlimit({self.pick('limit', 100000, 200000, 1000000)})")
            self.body(self.program.body)
            self.put(f"print({self.x(self.program.result)})")
            self.depth = 0
            if structure:
                self.put("", "", *self.pick("guard", ['if __name__ == "__main__":', "    main()"], ["main()"]))
        constants = [f"{self.v(name)} = {value}" for name, value in self.program.constants]
        head = [f"{self.line_comment} {self.program.note}"] if self.style.comments and self.program.note else []
        parts = [[*head, *sorted(self.imports, key=lambda line: (line.startswith("from"), line))], constants]
        parts += [text.split("\n") for text in self.snippets.values()]
        gap = "\n\n\n"
        return gap.join("\n".join(part) for part in [*parts, *blocks, main] if part) + "\n"

    def define(self, function: ir.Function) -> None:
        self.enter(function)
        self.put(f"def {self.f(function.name)}({', '.join(self.v(name) for name, _ in function.params)}):")
        with self.indented():
            if function.note and self.style.comments:
                self.put(f'"""{function.note}"""')
            self.body(function.body)
            if function.result is not None:
                self.put(f"return {self.x(function.result)}")

    # Statements

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        self.put(f"{self.v(name)} = {value}")

    def assign(self, node: ir.Assign) -> None:
        value = node.value
        name = self.v(node.name)
        short = isinstance(value, ir.Bin) and value.op in "+-*%&|^" and value.left == ir.Var(node.name)
        if short and self.pick("augmented", 1, 1, 0):
            self.put(f"{name} {self.operators[value.op]}= {self.x(value.right)}")
        else:
            super().assign(node)

    def block(self, head: str, statements: tuple) -> None:
        self.put(head)
        with self.indented():
            before = len(self.lines)
            self.body(statements)
            if len(self.lines) == before or all(line.strip().startswith("#") for line in self.lines[before:]):
                self.put("pass")

    def count(self, node: ir.For) -> None:
        low = self.x(node.low)
        high = self.x(node.high)
        step = self.x(node.step)
        if node.down:
            span = f"range({self.x(ir.minus_one(node.high))}, {self.x(ir.minus_one(node.low))}, -1)"
        elif step != "1":
            span = f"range({low}, {high}, {step})"
        else:
            span = f"range({high})" if low == "0" else f"range({low}, {high})"
        used = any(item == ir.Var(node.var) for item in ir.walk(node.body))
        self.block(f"for {self.v(node.var) if used else '_'} in {span}:", node.body)

    def repeat(self, node: ir.While) -> None:
        self.block(f"while {self.x(node.condition)}:", node.body)

    def branch(self, node: ir.If, word: str = "if") -> None:
        self.block(f"{word} {self.x(node.condition)}:", node.then)
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ir.If):
            self.branch(node.orelse[0], "elif")
        elif node.orelse:
            self.block("else:", node.orelse)

    def free(self, target: Target) -> str | list[str] | None:
        return self.pick(f"free {target}", f"del {target}", f"{target} = None")

    # Arrays

    def packed(self, elem: str, size: str, fill: str) -> str:
        if elem == "u8":
            return f"bytearray({size})" if fill == "0" else f"bytearray([{fill}]) * {size}"
        self.imports.add("from array import array")
        return f'array("{_CODES[elem]}", [{fill}]) * {size}'

    def filled(self, a: Target, size: Value, fill: str) -> str:
        fill = f"{fill}.0" if a.elem == "f64" and fill.isdigit() else fill
        if a.form == "array":
            return self.packed(a.elem, size.atom, fill)
        return self.pick(
            "fill", f"[{fill}] * {size.atom}", f"[{fill}] * {size.atom}", f"[{fill} for _ in range({size})]"
        )

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        return f"{a} = {self.filled(a, size, fill)}"

    def arr_get(self, a: Target, i: Value) -> str:
        return f"int({a}[{i}])" if a.elem == "f64" else f"{a}[{i}]"

    vec_get = arr_get

    def store(self, a: Target, value: Value) -> str:
        return f"float({value})" if a.elem == "f64" else value

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {self.store(a, value)}"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"{a} = {self.pick('copy', f'{source}[:]', f'{source}[:]' if a.elem == 'u8' else f'{source}[0:{size}]')}"

    vec_copy = arr_copy

    def arr_sort(self, a: Target) -> Lines:
        if a.form == "array":
            made = "bytearray(sorted({}))" if a.elem == "u8" else f'array("{_CODES[a.elem]}", sorted({{}}))'
            if a.elem != "u8":
                self.imports.add("from array import array")
            return f"{a}[:] = {made.format(a)}"
        return self.pick("sort", f"{a}.sort()", f"{a}[:] = sorted({a})")

    vec_sort = arr_sort

    def arr_each(self, node: ir.Each, a: Target) -> None:
        if a.elem == "f64":
            return super().arr_each(node, a)
        self.block(f"for {self.v(node.var)} in {a}:", node.body)

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        if a.form == "array" and a.elem != "u8":
            self.imports.add("from array import array")
            return f'{a} = array("{_CODES[a.elem]}")'
        return f"{a} = bytearray()" if a.form == "array" else f"{a} = []"

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}.append({self.store(a, value)})"

    def vec_pop(self, a: Target) -> Lines:
        return f"int({a}.pop())" if a.elem == "f64" else f"{a}.pop()"

    def vec_len(self, a: Target) -> str:
        return f"len({a})"

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        if a.form == "flat":
            self.sizes[a.name] = columns
            return f"{a} = {self.packed(a.elem, f'({rows.atom} * {columns.atom})', fill)}"
        fill = f"{fill}.0" if a.elem == "f64" and fill.isdigit() else fill
        return f"{a} = [[{fill}] * {columns.atom} for _ in range({rows})]"

    def cell(self, a: Target, i: Value, j: Value) -> str:
        if a.form == "flat":
            return f"{a}[{i.atom} * {self.width(a)} + {j}]"
        return f"{a}[{i}][{j}]"

    def width(self, a: Target) -> str:
        return self.sizes[a.name].atom

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return f"int({self.cell(a, i, j)})" if a.elem == "f64" else self.cell(a, i, j)

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)}"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"{a} = [[] for _ in range({rows})]"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}].append({self.store(a, value)})"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"len({a}[{i}])"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return f"int({a}[{i}][{j}])" if a.elem == "f64" else f"{a}[{i}][{j}]"

    # Maps and sets

    def map_new(self, m: Target) -> Lines:
        return f"{m} = {self.pick('dict', '{}', 'dict()')}"

    smap_new = map_new

    def key(self, prefix: str, value: str) -> str:
        return self.pick("key", f'"{prefix}" + str({value})', f'f"{prefix}{{{value}}}"')

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"{m}.get({key}, {default})"

    def map_has(self, m: Target, key: Value) -> Value:
        return Value(f"{key} in {m}", level=LOOSE)

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value}"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        test = [f"if {key} in {m}:", f"    {m}[{key}] += {delta}", "else:", f"    {m}[{key}] = {delta}"]
        return self.pick("add", f"{m}[{key}] = {m}.get({key}, 0) + {delta}", test)

    def map_del(self, m: Target, key: Value) -> Lines:
        return f"{m}.pop({key}, None)"

    def map_len(self, m: Target) -> str:
        return f"len({m})"

    smap_len = set_len = deque_len = str_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.block(f"for {self.v(node.var)} in {m}.values():", node.body)

    smap_each = map_each

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{m}.get({self.key(prefix, value)}, {default})"

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        key = self.key(prefix, value)
        return f"{m}[{key}] = {m}.get({key}, 0) + {delta}"

    def set_new(self, s: Target) -> Lines:
        return f"{s} = set()"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.add({value})"

    def set_has(self, s: Target, value: Value) -> Value:
        return Value(f"{value} in {s}", level=LOOSE)

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.discard({value})"

    # Queues and texts

    def deque_new(self, q: Target) -> Lines:
        self.imports.add("from collections import deque")
        return f"{q} = deque()"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.append({value})"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}.popleft()"

    def str_new(self, s: Target) -> Lines:
        return f'{s} = ""'

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} += chr({code})"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s} += str({value})"

    def str_each(self, node: ir.Each, s: Target) -> None:
        each = self.v(node.var)
        if self.pick("chars", 0, 1):
            self.block(f"for {each} in map(ord, {s}):", node.body)
        else:
            self.block(f"for {each} in {s}.encode():", node.body)

    def strs_new(self, s: Target) -> Lines:
        return f"{s} = []"

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}.append({self.key(prefix, value)})"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'{target} = "{separator}".join({source})'

    # Cells

    def nil(self, kind: str) -> str:
        return "None"

    def cell_class(self, name: str, *fields: str) -> str | None:
        """Returns the class of cells, or None where they are tuples."""
        style = self.pick("cells", "tuple", "class", "slots")
        if style == "tuple":
            return None
        lines = [f"class {name}:"]
        if style == "slots":
            lines += [f"    __slots__ = ({', '.join(repr(each) for each in fields)})".replace("'", '"'), ""]
        lines += [
            f"    def __init__(self, {', '.join(fields)}):",
            *(f"        self.{each} = {each}" for each in fields),
        ]
        self.need(name, "\n".join(lines))
        return name

    def cons(self, head: Value, tail: Value) -> str:
        return f"{self.cell_class('Cell', 'value', 'rest') or ''}({head}, {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        return f"{self.cell_class('Tree', 'left', 'value', 'right') or ''}({left}, {value}, {right})"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} is not None", level=LOOSE)

    tree_some = list_some

    def part(self, kind: str, c: str, place: int) -> str:
        names = ("value", "rest") if kind == "list" else ("left", "value", "right")
        made = self.cell_class("Cell" if kind == "list" else "Tree", *names)
        return f"{c}[{place}]" if made is None else f"{c}.{names[place]}"

    def list_head(self, c: Value) -> str:
        return self.part("list", c, 0)

    def list_tail(self, c: Value) -> str:
        return self.part("list", c, 1)

    def tree_left(self, c: Value) -> str:
        return self.part("tree", c, 0)

    def tree_value(self, c: Value) -> str:
        return self.part("tree", c, 1)

    def tree_right(self, c: Value) -> str:
        return self.part("tree", c, 2)

    # Folds

    def generator(self, node: ir.Fold) -> str:
        low = self.x(node.low)
        high = self.x(node.high)
        var = self.v(node.var)
        keep = "" if node.keep is None else f" if {self.x(node.keep)}"
        span = high if low == "0" else f"{low}, {high}"
        return f"{self.x(node.value)} for {var} in range({span}){keep}"

    def fold_lazy(self, node: ir.Fold) -> None:
        self.put(f"{self.v(node.name)} = sum({self.generator(node)})")

    def fold_list(self, node: ir.Fold) -> None:
        if self.pick("fold", 0, 1):
            self.put(f"{self.v(node.name)} = sum([{self.generator(node)}])")
        else:
            kept = self.fresh("kept")
            self.put(f"{kept} = [{self.generator(node)}]", f"{self.v(node.name)} = sum({kept})")


EMITTER = Python
