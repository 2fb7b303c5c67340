"""D: dynamic arrays, associative arrays, structs and classes, ranges of Phobos."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled
from code_rlm_data.generator.ir import INT, LONG

_ELEM = {"u8": "ubyte", "i32": "int", "i64": "long", "f64": "double"}


class D(Braces):
    language = "d"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"mat": ("nested", "flat"), "list": ("class", "struct"), "tree": ("class", "struct")}
    max_depth = 40_000
    speed = 800_000
    start_ms = 6.0
    bytes_of = {"vec": 24, "jag": 26, "map": 80, "smap": 120, "set": 70, "deque": 24, "str": 3, "strs": 56}
    bytes_of |= {"list": 40, "tree": 48, "call": 128, "row": 64}
    cast_int = "cast(int) "
    cast_long = "cast(long) "

    def text(self) -> str:
        functions, main = self.written()
        self.imports.add("std.stdio")
        word = self.pick("constants", "enum int", "immutable int", "enum")
        constants = [f"{word} {self.v(name)} = {value};" for name, value in self.program.constants]
        imports = [f"import {each};" for each in sorted(self.imports)]
        helpers = [text.split("\n") for text in self.snippets.values()]
        return assembled([*self.title()], imports, constants, *helpers, functions, ["void main() {", *main, "}"])

    def wide(self, value: Value) -> Value:
        return Value(f"cast(long) {value.atom}", LONG, 2) if value.type == INT else value

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return type.kind
        elem = _ELEM.get(type.elem, "long")
        if type.kind in ("arr", "vec", "deque") or (type.kind == "mat" and type.form == "flat"):
            return f"{elem}[]"
        if type.kind in ("mat", "jag"):
            return f"{elem}[][]"
        if type.kind in ("map", "smap", "set", "str", "strs"):
            return {
                "map": "long[long]",
                "smap": "long[string]",
                "set": "bool[long]",
                "str": "char[]",
                "strs": "string[]",
            }[type.kind]
        name, links = ("Cell", ("next",)) if type.kind == "list" else ("Tree", ("left", "right"))
        struct = self.formed(type).form == "struct"
        link = f"{name}*" if struct else name
        fields = [*(f"    {link} {each};" for each in links), "    long value;"]
        if not struct:
            given = ", ".join([*(f"{name} {each}" for each in links), "long value"])
            fields += [
                "",
                f"    this({given}) {{",
                *(f"        this.{each} = {each};" for each in (*links, "value")),
                "    }",
            ]
        self.need(name, "\n".join([f"{'struct' if struct else 'class'} {name} {{", *fields, "}"]))
        return link

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        if type.kind not in ("int", "long", "list", "tree") and self.pick("auto", 0, 1):
            return f"auto {name} = {value};"
        return f"{self.type_text(type)} {name} = {value};"

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        word = "ref " if changes else ""
        return f"{word}{self.type_text(type)} {self.v(name)}"

    def show(self, value: Value) -> None:
        self.put(f"writeln({value});")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        self.imports.add("std.algorithm")
        return f"{op}({left}, {right})"

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} = null;" if a.type.kind in ("arr", "vec", "strs") else None

    def store(self, a: Target, value: Value) -> str:
        if a.elem == "u8" and not value.isdigit():
            return f"cast(ubyte) {value.atom}"
        return self.narrow(value) if a.elem == "i32" and value.type == LONG else value

    def load(self, a: Target, text: str) -> Value:
        return Value(f"cast(long) {text}", LONG, 2) if a.elem == "f64" else Value(text)

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        lines = [self.declare(a.type, a, f"new {_ELEM[a.elem]}[{size}]")]
        # A double begins as not a number.
        return lines if fill == "0" and a.elem != "f64" else [*lines, f"{a}[] = {fill};"]

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{i}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {self.store(a, value)};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return self.declare(a.type, a, f"{source}.dup")

    def arr_sort(self, a: Target) -> Lines:
        self.imports.add("std.algorithm")
        return self.pick("sort", f"sort({a});", f"{a}.sort();")

    def arr_each(self, node: ir.Each, a: Target) -> None:
        item = self.fresh("item")
        self.put(f"foreach ({item}; {a}) {{")
        with self.indented():
            self.put(f"long {self.v(node.var)} = {'cast(long) ' if a.elem == 'f64' else ''}{item};")
            self.body(node.body)
        self.put("}")

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return f"{self.type_text(a.type)} {a};"

    map_new = smap_new = set_new = str_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a} ~= {self.store(a, value)};"

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "vec.pop":
            stack = self.target(node.value.target)
            self.put(f"long {self.v(node.name)} = {self.load(stack, f'{stack}[$ - 1]')};", f"{stack}.length -= 1;")
            self.put(f"{stack}.assumeSafeAppend();")
        else:
            super().statement(node)

    def vec_len(self, a: Target) -> str:
        return f"cast(int) {a}.length"

    def ask(self, node: ir.Ask) -> Value:
        made = super().ask(node)
        return Value(made, made.type, 2) if made.startswith("cast(") else made

    map_len = smap_len = set_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        row = self.fresh("line")
        elem = _ELEM[a.elem]
        plain = fill == "0" and a.elem != "f64"
        if a.form == "flat":
            lines = [self.declare(a.type, a, f"new {elem}[cast(size_t) {rows.atom} * {columns.atom}]")]
            return lines if plain else [*lines, f"{a}[] = {fill};"]
        lines = [self.declare(a.type, a, f"new {elem}[][]({rows}, {columns})")]
        return lines if plain else [*lines, f"foreach ({row}; {a}) {row}[] = {fill};"]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"auto {a} = new {_ELEM[a.elem]}[][{rows}];"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] ~= {self.store(a, value)};"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"cast(int) {a}[{i}].length"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{i}][{j}]")

    # Maps, sets, queues, texts

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"{m}.get({key}, {default})"

    def map_has(self, m: Target, key: Value) -> Value:
        return Value(f"({key.atom} in {m}) !is null", level=LOOSE)

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value};"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return self.pick("add", f"{m}[{key}] = {m}.get({key}, 0) + {delta};", f"{m}[{key}] += {delta};")

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.braced(f"foreach (long {self.v(node.var)}; {m}{self.pick('values', '', '.byValue')})", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        self.imports.add("std.conv")
        return f'"{prefix}" ~ to!string({value})'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"{m}[{self.key(prefix, value)}] += {delta};"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{m}.get({self.key(prefix, value)}, {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}[{value}] = true;"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.remove({value});"

    def deque_new(self, q: Target) -> Lines:
        return [f"long[] {q};", f"size_t {q}Head = 0;"]

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q} ~= {value};"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}[{q}Head++]"

    def deque_len(self, q: Target) -> str:
        return f"cast(int) ({q}.length - {q}Head)"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} ~= cast(char) {code.atom};"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        self.imports.add("std.conv")
        return f"{s} ~= to!string({value});"

    def str_each(self, node: ir.Each, s: Target) -> None:
        item = self.fresh("c")
        self.put(f"foreach ({item}; {s}) {{")
        with self.indented():
            self.put(f"long {self.v(node.var)} = {item};")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s} ~= {self.key(prefix, value)};"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        self.imports.add("std.array")
        return f'auto {target} = {source}.join("{separator}");'

    # Cells

    def nil(self, kind: str) -> str:
        return "null"

    def cons(self, head: Value, tail: Value) -> str:
        name = self.type_text(ir.LIST).rstrip("*")
        return f"new {name}({tail}, {head})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        name = self.type_text(ir.TREE).rstrip("*")
        return f"new {name}({left}, {right}, {value})"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} !is null", level=LOOSE)

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

    # Folds

    def chain(self, node: ir.Fold) -> str:
        self.imports |= {"std.range", "std.algorithm"}
        var = self.v(node.var)
        keep = "" if node.keep is None else f".filter!({var} => {self.x(node.keep)})"
        return f"iota({self.x(node.low)}, {self.x(node.high)}){keep}.map!({var} => cast(long) ({self.x(node.value)}))"

    def fold_lazy(self, node: ir.Fold) -> None:
        self.put(f"long {self.v(node.name)} = {self.chain(node)}.sum;")

    def fold_list(self, node: ir.Fold) -> None:
        if self.pick("fold", 0, 1):
            super().fold_list(node)
            return
        self.imports.add("std.array")
        kept = self.fresh("kept")
        self.put(f"auto {kept} = {self.chain(node)}.array;", f"long {self.v(node.name)} = {kept}.sum;")


EMITTER = D
