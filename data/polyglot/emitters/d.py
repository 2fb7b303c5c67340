"""D: dynamic arrays, associative arrays, structs and classes, ranges of Phobos."""

from __future__ import annotations

from code_rlm.data.polyglot import ir
from code_rlm.data.polyglot.emitters.base import LOOSE, Value
from code_rlm.data.polyglot.emitters.braces import Braces, assembled
from code_rlm.data.polyglot.ir import INT, LONG

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
    cast_int, cast_long = "cast(int) ", "cast(long) "

    def text(self) -> str:
        functions, main = self.written()
        self.imports.add("std.stdio")
        word = self.pick("constants", "enum int", "immutable int", "enum")
        constants = [f"{word} {self.v(name)} = {value};" for name, value in self.program.constants]
        imports = [f"import {each};" for each in sorted(self.imports)]
        helpers = [text.split("\n") for text in self.snippets.values()]
        return assembled([*self.title()], imports, constants, *helpers, functions, ["void main() {", *main, "}"])

    def wide(self, value):
        return Value(f"cast(long) {value.atom}", LONG, 2) if value.type == INT else value

    def type_text(self, type):
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

    def declare(self, type, name, value):
        if type.kind not in ("int", "long", "list", "tree") and self.pick("auto", 0, 1):
            return f"auto {name} = {value};"
        return f"{self.type_text(type)} {name} = {value};"

    def parameter(self, name, type, changes):
        word = "ref " if changes else ""
        return f"{word}{self.type_text(type)} {self.v(name)}"

    def show(self, value):
        self.put(f"writeln({value});")

    def extreme(self, op, left, right):
        self.imports.add("std.algorithm")
        return f"{op}({left}, {right})"

    def free(self, a):
        return f"{a} = null;" if a.type.kind in ("arr", "vec", "strs") else None

    def store(self, a, value: Value) -> str:
        if a.elem == "u8" and not value.isdigit():
            return f"cast(ubyte) {value.atom}"
        return self.narrow(value) if a.elem == "i32" and value.type == LONG else value

    def load(self, a, text: str) -> Value:
        return Value(f"cast(long) {text}", LONG, 2) if a.elem == "f64" else Value(text)

    # Arrays

    def arr_new(self, a, size, fill):
        lines = [self.declare(a.type, a, f"new {_ELEM[a.elem]}[{size}]")]
        # A double begins as not a number.
        return lines if fill == "0" and a.elem != "f64" else [*lines, f"{a}[] = {fill};"]

    def arr_get(self, a, i):
        return self.load(a, f"{a}[{i}]")

    vec_get = arr_get

    def arr_set(self, a, i, value):
        return f"{a}[{i}] = {self.store(a, value)};"

    vec_set = arr_set

    def arr_copy(self, a, source, size):
        return self.declare(a.type, a, f"{source}.dup")

    def arr_sort(self, a):
        self.imports.add("std.algorithm")
        return self.pick("sort", f"sort({a});", f"{a}.sort();")

    def arr_each(self, node, a):
        item = self.fresh("item")
        self.put(f"foreach ({item}; {a}) {{")
        with self.indented():
            self.put(f"long {self.v(node.var)} = {'cast(long) ' if a.elem == 'f64' else ''}{item};")
            self.body(node.body)
        self.put("}")

    vec_each = arr_each

    def vec_new(self, a):
        return f"{self.type_text(a.type)} {a};"

    map_new = smap_new = set_new = str_new = strs_new = vec_new

    def vec_push(self, a, value):
        return f"{a} ~= {self.store(a, value)};"

    def statement(self, node):
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "vec.pop":
            stack = self.target(node.value.target)
            self.put(f"long {self.v(node.name)} = {self.load(stack, f'{stack}[$ - 1]')};", f"{stack}.length -= 1;")
            self.put(f"{stack}.assumeSafeAppend();")
        else:
            super().statement(node)

    def vec_len(self, a):
        return f"cast(int) {a}.length"

    def ask(self, node):
        made = super().ask(node)
        return Value(made, made.type, 2) if made.startswith("cast(") else made

    map_len = smap_len = set_len = vec_len

    def mat_new(self, a, rows, columns, fill):
        self.sizes[a.name] = columns
        row, elem = self.fresh("line"), _ELEM[a.elem]
        plain = fill == "0" and a.elem != "f64"
        if a.form == "flat":
            lines = [self.declare(a.type, a, f"new {elem}[cast(size_t) {rows.atom} * {columns.atom}]")]
            return lines if plain else [*lines, f"{a}[] = {fill};"]
        lines = [self.declare(a.type, a, f"new {elem}[][]({rows}, {columns})")]
        return lines if plain else [*lines, f"foreach ({row}; {a}) {row}[] = {fill};"]

    def cell(self, a, i, j) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a, i, j):
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a, i, j, value):
        return f"{self.cell(a, i, j)} = {self.store(a, value)};"

    def jag_new(self, a, rows):
        return f"auto {a} = new {_ELEM[a.elem]}[][{rows}];"

    def jag_push(self, a, i, value):
        return f"{a}[{i}] ~= {self.store(a, value)};"

    def jag_len(self, a, i):
        return f"cast(int) {a}[{i}].length"

    def jag_get(self, a, i, j):
        return self.load(a, f"{a}[{i}][{j}]")

    # Maps, sets, queues, texts

    def map_get(self, m, key, default):
        return f"{m}.get({key}, {default})"

    def map_has(self, m, key):
        return Value(f"({key.atom} in {m}) !is null", level=LOOSE)

    set_has = map_has

    def map_set(self, m, key, value):
        return f"{m}[{key}] = {value};"

    def map_add(self, m, key, delta):
        return self.pick("add", f"{m}[{key}] = {m}.get({key}, 0) + {delta};", f"{m}[{key}] += {delta};")

    def map_each(self, node, m):
        self.braced(f"foreach (long {self.v(node.var)}; {m}{self.pick('values', '', '.byValue')})", node.body)

    smap_each = map_each

    def key(self, prefix, value) -> str:
        self.imports.add("std.conv")
        return f'"{prefix}" ~ to!string({value})'

    def smap_add(self, m, prefix, value, delta):
        return f"{m}[{self.key(prefix, value)}] += {delta};"

    def smap_get(self, m, prefix, value, default):
        return f"{m}.get({self.key(prefix, value)}, {default})"

    def set_add(self, s, value):
        return f"{s}[{value}] = true;"

    def set_del(self, s, value):
        return f"{s}.remove({value});"

    def deque_new(self, q):
        return [f"long[] {q};", f"size_t {q}Head = 0;"]

    def deque_push(self, q, value):
        return f"{q} ~= {value};"

    def deque_pop(self, q):
        return f"{q}[{q}Head++]"

    def deque_len(self, q):
        return f"cast(int) ({q}.length - {q}Head)"

    def str_add_char(self, s, code):
        return f"{s} ~= cast(char) {code.atom};"

    def str_add_int(self, s, value):
        self.imports.add("std.conv")
        return f"{s} ~= to!string({value});"

    def str_each(self, node, s):
        item = self.fresh("c")
        self.put(f"foreach ({item}; {s}) {{")
        with self.indented():
            self.put(f"long {self.v(node.var)} = {item};")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s, prefix, value):
        return f"{s} ~= {self.key(prefix, value)};"

    def strs_join(self, target, source, separator):
        self.imports.add("std.array")
        return f'auto {target} = {source}.join("{separator}");'

    # Cells

    def nil(self, kind):
        return "null"

    def cons(self, head, tail):
        name = self.type_text(ir.LIST).rstrip("*")
        return f"new {name}({tail}, {head})"

    def node(self, left, value, right):
        name = self.type_text(ir.TREE).rstrip("*")
        return f"new {name}({left}, {right}, {value})"

    def list_some(self, c):
        return Value(f"{c} !is null", level=LOOSE)

    tree_some = list_some

    def list_head(self, c):
        return f"{c}.value"

    tree_value = list_head

    def list_tail(self, c):
        return f"{c}.next"

    def tree_left(self, c):
        return f"{c}.left"

    def tree_right(self, c):
        return f"{c}.right"

    # Folds

    def chain(self, node: ir.Fold) -> str:
        self.imports |= {"std.range", "std.algorithm"}
        var = self.v(node.var)
        keep = "" if node.keep is None else f".filter!({var} => {self.x(node.keep)})"
        return f"iota({self.x(node.low)}, {self.x(node.high)}){keep}.map!({var} => cast(long) ({self.x(node.value)}))"

    def fold_lazy(self, node):
        self.put(f"long {self.v(node.name)} = {self.chain(node)}.sum;")

    def fold_list(self, node):
        if self.pick("fold", 0, 1):
            super().fold_list(node)
            return
        self.imports.add("std.array")
        kept = self.fresh("kept")
        self.put(f"auto {kept} = {self.chain(node)}.array;", f"long {self.v(node.name)} = {kept}.sum;")


EMITTER = D
