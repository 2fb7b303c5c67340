"""Go: slices, maps, structs behind pointers, sort and strings packages."""

from __future__ import annotations

from dataclasses import replace

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled

_ELEM = {"u8": "uint8", "i32": "int32", "i64": "int64", "f64": "float64"}


class Go(Braces):
    language = "go"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion"})
    forms = {"mat": ("nested", "flat"), "set": ("struct", "bool")}
    max_depth = 60_000
    speed = 650_000
    start_ms = 3.0
    bytes_of = {"vec": 24, "jag": 24, "map": 48, "smap": 80, "set": 28, "deque": 24, "str": 3, "strs": 60, "list": 24}
    bytes_of |= {"tree": 32, "call": 140, "row": 40}
    semicolon = ""

    def text(self) -> str:
        # Tabs at the end count in fours.
        self.style = replace(self.style, indent=4)
        functions, main = self.written()
        self.imports.add("fmt")
        constants = [f"const {self.v(name)} = {value}" for name, value in self.program.constants]
        if len(constants) > 1 and self.pick("const block", 0, 1):
            constants = ["const (", *("    " + line.removeprefix("const ") for line in constants), ")"]
        imports = [f'import "{each}"' for each in sorted(self.imports)]
        if len(imports) > 1:
            imports = ["import (", *(f'    "{each}"' for each in sorted(self.imports)), ")"]
        helpers = [text.split("\n") for text in self.snippets.values()]
        body = ["func main() {", *main, "}"]
        text = assembled([*self.title()], ["package main"], imports, constants, *helpers, functions, body)
        return "\n".join(_tabs(line) for line in text.split("\n"))

    constant_case = "camel"

    # Go has no int narrower than the machine's for sizes: every number is an int.
    def wide(self, value: Value) -> Value:
        return Value(value, ir.LONG, value.level)

    def narrow(self, value: Value) -> Value:
        return Value(value, ir.INT, value.level)

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return "int"
        elem = _ELEM.get(type.elem, "int")
        if type.kind in ("arr", "vec") or (type.kind == "mat" and type.form == "flat"):
            return f"[]{elem}"
        if type.kind in ("mat", "jag"):
            return f"[][]{elem}"
        if type.kind == "set":
            return "map[int]struct{}" if type.form == "struct" else "map[int]bool"
        if type.kind in ("list", "tree"):
            name, links = ("cell", "next *cell") if type.kind == "list" else ("tree", "left, right *tree")
            self.need(name, f"type {name} struct {{\n    value int\n    {links}\n}}")
            return f"*{name}"
        known = {"map": "map[int]int", "smap": "map[string]int", "deque": "[]int", "str": "[]byte", "strs": "[]string"}
        return known[type.kind]

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        if type.kind in ("int", "long") and self.pick("var", 1, 1, 0):
            return f"{name} := {value}"
        return f"var {name} {self.type_text(type)} = {value}"

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        super().let(name, type, value)
        used = any(node == ir.Var(name) or getattr(node, "target", "") == name for node in self.reads)
        if not used:
            self.put(f"_ = {self.v(name)}")

    @property
    def reads(self) -> list[object]:
        return list(ir.walk((self.function.body, self.function.result)))

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        return f"{self.v(name)} {self.type_text(type)}"

    def head(self, function: ir.Function, parameters: str) -> str:
        return f"func {self.f(function.name)}({parameters}) {self.type_text(function.result_type)}"

    def finish(self, value: str) -> None:
        self.put(f"return {value}")

    def show(self, value: Value) -> None:
        self.put(f"fmt.Println({value})")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        sign = "<" if op == "min" else ">"
        self.need(
            f"{op}Int",
            f"func {op}Int(a, b int) int {{\n    if a {sign} b {{\n        return a\n    }}\n    return b\n}}",
        )
        return f"{op}Int({left}, {right})"

    def one_more(self, var: str) -> str:
        return f"{var}++"

    def count(self, node: ir.For) -> None:
        low = self.x(node.low)
        high = self.x(node.high)
        step = self.x(node.step)
        var = self.variable(node.var)
        if node.down:
            head = f"for {var} := {self.x(ir.minus_one(node.high))}; {var} >= {low}; {var}--"
        else:
            head = f"for {var} := {low}; {var} < {high}; {f'{var}++' if step == '1' else f'{var} += {step}'}"
        self.braced(head, node.body)

    def repeat(self, node: ir.While) -> None:
        self.braced(f"for {self.x(node.condition)}", node.body)

    def condition(self, node: ir.If) -> str:
        return f"if {self.x(node.condition)}"

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} = nil" if a.type.kind in ("arr", "vec", "strs") else None

    def store(self, a: Target, value: Value) -> str:
        return value if value.isdigit() else f"{_ELEM[a.elem]}({value})"

    def index(self, i: Value) -> str:
        return i

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        at = self.fresh("q")
        lines = [f"{a} := make([]{_ELEM[a.elem]}, {size})"]
        return lines if fill == "0" else [*lines, f"for {at} := range {a} {{", f"    {a}[{at}] = {fill}", "}"]

    def arr_get(self, a: Target, i: Value) -> str:
        return f"int({a}[{i}])"

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {self.store(a, value)}"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        made = [f"{a} := make([]{_ELEM[a.elem]}, {size})", f"copy({a}, {source})"]
        return self.pick("copy", made, [f"{a} := append([]{_ELEM[a.elem]}(nil), {source}...)"])

    def arr_sort(self, a: Target) -> Lines:
        self.imports.add("sort")
        return f"sort.Slice({a}, func(x, y int) bool {{ return {a}[x] < {a}[y] }})"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        item = self.fresh("item")
        self.put(f"for _, {item} := range {a} {{")
        with self.indented():
            self.put(f"{self.v(node.var)} := int({item})")
            self.body(node.body)
        self.put("}")

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        text = self.type_text(a.type)
        return self.pick("empty", f"var {a} {text}", f"{a} := {text}{{}}", f"{a} := make({text}, 0)")

    deque_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a} = append({a}, {self.store(a, value)})"

    def statement(self, node: object) -> None:
        pops = ("vec.pop", "deque.pop")
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op in pops:
            source = self.target(node.value.target)
            if node.value.op == "vec.pop":
                self.put(
                    f"{self.v(node.name)} := int({source}[len({source})-1])", f"{source} = {source}[:len({source})-1]"
                )
            else:
                self.put(f"{self.v(node.name)} := {source}[0]", f"{source} = {source}[1:]")
        else:
            super().statement(node)

    def vec_len(self, a: Target) -> str:
        return f"len({a})"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        at = self.fresh("q")
        k = self.fresh("q")
        if a.form == "flat":
            lines = [f"{a} := make([]{_ELEM[a.elem]}, {rows.atom}*{columns.atom})"]
            return lines if fill == "0" else [*lines, f"for {at} := range {a} {{", f"    {a}[{at}] = {fill}", "}"]
        lines = [f"{a} := make([][]{_ELEM[a.elem]}, {rows})", f"for {at} := range {a} {{"]
        lines.append(f"    {a}[{at}] = make([]{_ELEM[a.elem]}, {columns})")
        if fill != "0":
            lines += [f"    for {k} := range {a}[{at}] {{", f"        {a}[{at}][{k}] = {fill}", "    }"]
        return [*lines, "}"]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom}*{self.sizes[a.name].atom}+{j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return f"int({self.cell(a, i, j)})"

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)}"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"{a} := make([][]{_ELEM[a.elem]}, {rows})"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = append({a}[{i}], {self.store(a, value)})"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"len({a}[{i}])"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return f"int({a}[{i}][{j}])"

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        text = self.type_text(m.type)
        return self.pick("map", f"{m} := make({text})", f"{m} := {text}{{}}")

    smap_new = set_new = map_new

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        if default == "0":
            return f"{m}[{key}]"
        raise NotImplementedError("a default other than 0")

    def map_has(self, m: Target, key: Value) -> str:
        self.need(
            "has",
            "func has[V any](m map[int]V, key int) bool {\n    _, ok := m[key]\n    return ok\n}",
        )
        return f"has({m}, {key})"

    def set_has(self, s: Target, value: Value) -> str:
        return f"{s}[{value}]" if s.form == "bool" else self.map_has(s, value)

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value}"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"{m}[{key}]++" if delta == "1" and self.pick("++", 0, 1) else f"{m}[{key}] += {delta}"

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.braced(f"for _, {self.v(node.var)} := range {m}", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        if self.pick("key", 0, 1):
            return f'fmt.Sprintf("{prefix}%d", {value})'
        self.imports.add("strconv")
        return f'"{prefix}" + strconv.Itoa({value})'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"{m}[{self.key(prefix, value)}] += {delta}"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{m}[{self.key(prefix, value)}]"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}[{value}] = {'true' if s.form == 'bool' else 'struct{}{}'}"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"delete({s}, {value})"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q} = append({q}, {value})"

    def str_new(self, s: Target) -> Lines:
        return f"{s} := []byte{{}}" if self.pick("bytes", 0, 1) else f"var {s} []byte"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} = append({s}, byte({code}))"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        self.imports.add("strconv")
        return f"{s} = append({s}, strconv.Itoa({value})...)"

    def str_each(self, node: ir.Each, s: Target) -> None:
        item = self.fresh("c")
        self.put(f"for _, {item} := range {s} {{")
        with self.indented():
            self.put(f"{self.v(node.var)} := int({item})")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s} = append({s}, {self.key(prefix, value)})"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        self.imports.add("strings")
        return f'{target} := []byte(strings.Join({source}, "{separator}"))'

    # Cells

    def nil(self, kind: str) -> str:
        return "nil"

    def cons(self, head: Value, tail: Value) -> str:
        self.type_text(ir.LIST)
        return f"&cell{{{head}, {tail}}}"

    def node(self, left: Value, value: Value, right: Value) -> str:
        self.type_text(ir.TREE)
        return f"&tree{{value: {value}, left: {left}, right: {right}}}"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} != nil", level=LOOSE)

    tree_some = list_some

    def list_head(self, c: Value) -> str:
        return f"{c}.value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}.next"

    def tree_left(self, c: Value) -> str:
        return f"{c}.left"

    def tree_right(self, c: Value) -> str:
        return f"{c}.right"


def _tabs(line: str) -> str:
    """Indents by tabs, as gofmt does."""
    body = line.lstrip(" ")
    spaces = len(line) - len(body)
    return "\t" * (spaces // 4) + " " * (spaces % 4) + body


EMITTER = Go
