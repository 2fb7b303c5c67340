"""Java 17: primitive arrays or boxed lists, HashMap, HashSet, ArrayDeque, StringBuilder, records, streams."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled
from code_rlm_data.generator.ir import INT, LONG

_ELEM = {"u8": "byte", "i32": "int", "i64": "long", "f64": "double"}
_BOX = {"u8": "Integer", "i32": "Integer", "i64": "Long", "f64": "Double"}


class Java(Braces):
    language = "java"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"map": ("HashMap", "TreeMap"), "set": ("HashSet", "TreeSet"), "arr": ("array", "array", "list")}
    max_depth = 4_000
    speed = 120_000
    start_ms = 67.0
    bytes_of = {"arr.list": 28, "vec": 34, "jag": 34, "map": 80, "smap": 120, "set": 72, "deque": 28, "str": 3}
    bytes_of |= {"strs": 72, "list": 28, "tree": 36, "call": 120, "row": 40}

    def text(self) -> str:
        functions, main = self.written(1)
        word = self.pick("constants", "static final int", "private static final int", "static int")
        constants = [f"    {word} {self.v(name)} = {value};" for name, value in self.program.constants]
        imports = [f"import {each};" for each in sorted(self.imports)]
        helpers = ["    " + line if line else "" for text in self.snippets.values() for line in text.split("\n")]
        inside = assembled(
            constants, helpers, functions, ["    public static void main(String[] args) {", *main, "    }"]
        )
        return assembled([*self.title()], imports, ["public class Main {", inside.rstrip("\n"), "}"])

    def wide(self, value: Value) -> Value:
        return Value(f"(long) {value.atom}", LONG, 2) if value.type == INT else value

    def util(self, name: str) -> str:
        self.imports.add("java.util.*" if self.pick("star", 1, 0) else f"java.util.{name}")
        return name

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return type.kind
        if type.kind == "arr":
            return f"{_ELEM[type.elem]}[]" if type.form == "array" else f"{self.util('ArrayList')}<{_BOX[type.elem]}>"
        if type.kind == "mat":
            return f"{_ELEM[type.elem]}[][]"
        if type.kind == "vec":
            return f"{self.util('ArrayList')}<{_BOX[type.elem]}>"
        if type.kind == "jag":
            return f"{self.util('ArrayList')}<{self.util('ArrayList')}<{_BOX[type.elem]}>>"
        if type.kind == "map":
            return f"{self.util(type.form)}<Long, Long>"
        if type.kind == "smap":
            return f"{self.util('HashMap')}<String, Long>"
        if type.kind == "set":
            return f"{self.util(type.form)}<Long>"
        if type.kind == "deque":
            return f"{self.util('ArrayDeque')}<Long>"
        if type.kind == "strs":
            return f"{self.util('ArrayList')}<String>"
        if type.kind == "str":
            return "StringBuilder"
        name, fields = (
            ("Cell", "long value, Cell next") if type.kind == "list" else ("Tree", "Tree left, long value, Tree right")
        )
        if self.pick("record", 1, 0):
            self.need(name, f"record {name}({fields}) {{}}")
        else:
            parts = [each.split() for each in fields.split(", ")]
            lines = [f"static class {name} {{", *(f"    final {kind} {each};" for kind, each in parts)]
            lines += [
                f"    {name}({fields}) {{",
                *(f"        this.{each} = {each};" for _, each in parts),
                "    }",
                "}",
            ]
            self.need(name, "\n".join(lines))
        return name

    def head(self, function: ir.Function, parameters: str) -> str:
        word = self.pick("static", "static", "private static")
        return f"{word} {self.type_text(function.result_type)} {self.f(function.name)}({parameters})"

    def show(self, value: Value) -> None:
        self.put(f"System.out.println({value});")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"Math.{op}({left}, {right})"

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} = null;" if a.type.kind in ("arr", "vec", "strs") else None

    def store(self, a: Target, value: Value, boxed: bool) -> str:
        if a.elem == "f64":
            return f"(double) {value.atom}"
        if a.elem == "i64":
            return f"(long) {value.atom}" if value.type == INT and boxed else value
        if a.elem == "u8" and not boxed:
            return value if value.isdigit() else f"(byte) {value.atom}"
        return self.narrow(value) if value.type == LONG else value

    def load(self, a: Target, text: str) -> Value:
        return Value(f"(long) {text}", LONG, 2) if a.elem == "f64" else Value(text, LONG)

    def index(self, i: Value) -> str:
        return i if i.type == INT else self.narrow(i)

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        if a.form == "list":
            box = _BOX[a.elem]
            util = self.util("Collections")
            fill = {"i64": f"{fill}L", "f64": f"{fill}.0"}.get(a.elem, fill)
            return f"{self.type_text(a.type)} {a} = new ArrayList<{box}>({util}.nCopies({size}, {fill}));"
        lines = [f"{self.type_text(a.type)} {a} = new {_ELEM[a.elem]}[{size}];"]
        return (
            lines
            if fill == "0"
            else [*lines, f"{self.util('Arrays')}.fill({a}, {self.store(a, Value(fill, INT), False)});"]
        )

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{self.index(i)}]" if a.form == "array" else f"{a}.get({self.index(i)})")

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        if a.form == "list":
            return f"{a}.set({self.index(i)}, {self.store(a, value, True)});"
        return f"{a}[{self.index(i)}] = {self.store(a, value, False)};"

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        if a.form == "list":
            return f"{self.type_text(a.type)} {a} = new ArrayList<>({source});"
        made = self.pick("copy", f"{source}.clone()", f"{self.util('Arrays')}.copyOf({source}, {size})")
        return f"{self.type_text(a.type)} {a} = {made};"

    def arr_sort(self, a: Target) -> Lines:
        return f"{self.util('Collections')}.sort({a});" if a.form == "list" else f"{self.util('Arrays')}.sort({a});"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        each = self.v(node.var)
        if a.elem == "f64":
            item = self.fresh("d")
            self.put(f"for (double {item} : {a}) {{")
            with self.indented():
                self.put(f"long {each} = (long) {item};")
                self.body(node.body)
            self.put("}")
        else:
            self.braced(f"for (long {each} : {a})", node.body)

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return f"{self.type_text(a.type)} {a} = new {self.type_text(a.type).split('<')[0]}<>();"

    map_new = smap_new = set_new = deque_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}.add({self.store(a, value, True)});"

    def vec_pop(self, a: Target) -> Lines:
        text = f"{a}.remove({a}.size() - 1)"
        return f"{text}.longValue()" if a.elem == "f64" else text

    def vec_get(self, a: Target, i: Value) -> str:
        return f"{a}.get({self.index(i)}).longValue()" if a.elem == "f64" else f"{a}.get({self.index(i)})"

    def vec_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}.set({self.index(i)}, {self.store(a, value, True)});"

    def vec_len(self, a: Target) -> str:
        return f"{a}.size()"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        lines = [f"{self.type_text(a.type)} {a} = new {_ELEM[a.elem]}[{rows}][{columns}];"]
        if fill == "0":
            return lines
        row = self.fresh("line")
        fill = self.store(a, Value(fill, INT), False)
        return [*lines, f"for ({_ELEM[a.elem]}[] {row} : {a}) {self.util('Arrays')}.fill({row}, {fill});"]

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{self.index(i)}][{self.index(j)}]")

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{a}[{self.index(i)}][{self.index(j)}] = {self.store(a, value, False)};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        at = self.fresh("q")
        made = f"new {self.util('ArrayList')}<>()"
        return [
            f"{self.type_text(a.type)} {a} = {made};",
            f"for (int {at} = 0; {at} < {rows}; {at}++) {a}.add({made});",
        ]

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}.get({self.index(i)}).add({self.store(a, value, True)});"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}.get({self.index(i)}).size()"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        text = f"{a}.get({self.index(i)}).get({self.index(j)})"
        return f"{text}.longValue()" if a.elem == "f64" else text

    # Maps, sets, queues, texts

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"{m}.getOrDefault({self.as_long(key)}, {default}L)"

    def map_has(self, m: Target, key: Value) -> str:
        return f"{m}.containsKey({self.as_long(key)})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}.put({self.as_long(key)}, {self.as_long(value)});"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        key = self.as_long(key)
        merge = f"{m}.merge({key}, {delta}L, Long::sum);"
        return self.pick("add", merge, f"{m}.put({key}, {m}.getOrDefault({key}, 0L) + {delta});")

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.braced(f"for (long {self.v(node.var)} : {m}.values())", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}" + {value.atom}'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"{m}.merge({self.key(prefix, value)}, {delta}L, Long::sum);"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{m}.getOrDefault({self.key(prefix, value)}, {default}L)"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.add({self.as_long(value)});"

    def set_has(self, s: Target, value: Value) -> str:
        return f"{s}.contains({self.as_long(value)})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.remove({self.as_long(value)});"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.addLast({self.as_long(value)});"

    def deque_pop(self, q: Target) -> Lines:
        return self.pick("poll", f"{q}.pollFirst()", f"{q}.removeFirst()")

    def ask(self, node: ir.Ask) -> Value:
        made = super().ask(node)
        # A Long does not become an int by a cast.
        if node.op in ("deque.pop",) or (node.op == "vec.pop" and self.types[node.target].elem == "i64"):
            return Value(f"{made}.longValue()" if self.pick("unbox", 1) else made, made.type)
        boxed = node.op in ("vec.get", "jag.get") or (node.op == "arr.get" and self.types[node.target].form == "list")
        if boxed and self.types[node.target].elem == "i64":
            return Value(f"{made}.longValue()", made.type)
        if boxed and self.types[node.target].elem in ("i32", "u8"):
            return Value(f"{made}.intValue()", made.type)
        if node.op == "arr.get" and self.types[node.target].elem == "f64" and boxed:
            return Value(f"{self.target(node.target)}.get({self.index(self.x(node.args[0]))}).longValue()", made.type)
        return made

    def str_new(self, s: Target) -> Lines:
        return f"StringBuilder {s} = new StringBuilder();"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s}.append((char) {code.atom});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s}.append({value});"

    def str_each(self, node: ir.Each, s: Target) -> None:
        at = self.fresh("q")
        each = self.v(node.var)
        text = f"{s}.toString()" if self.pick("copy text", 0, 1) else None
        if text:
            self.braced(f"for (long {each} : {text}.toCharArray())", node.body)
            return
        self.put(f"for (int {at} = 0; {at} < {s}.length(); {at}++) {{")
        with self.indented():
            self.put(f"long {each} = {s}.charAt({at});")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}.add({self.key(prefix, value)});"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'StringBuilder {target} = new StringBuilder(String.join("{separator}", {source}));'

    # Cells

    def nil(self, kind: str) -> str:
        return "null"

    def cons(self, head: Value, tail: Value) -> str:
        return f"new {self.type_text(ir.LIST)}({head}, {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        return f"new {self.type_text(ir.TREE)}({left}, {value}, {right})"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} != null", level=LOOSE)

    tree_some = list_some

    def part(self, c: object, name: str) -> str:
        return f"{c}.{name}()" if self.pick("record", 1, 0) else f"{c}.{name}"

    def list_head(self, c: Value) -> str:
        return self.part(c, "value")

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return self.part(c, "next")

    def tree_left(self, c: Value) -> str:
        return self.part(c, "left")

    def tree_right(self, c: Value) -> str:
        return self.part(c, "right")

    # Folds

    def stream(self, node: ir.Fold) -> str:
        self.imports.add("java.util.stream.IntStream")
        var = self.v(node.var)
        keep = "" if node.keep is None else f".filter({var} -> {self.x(node.keep)})"
        return (
            f"IntStream.range({self.x(node.low)}, {self.x(node.high)}){keep}.mapToLong({var} -> {self.x(node.value)})"
        )

    def fold_lazy(self, node: ir.Fold) -> None:
        self.put(f"long {self.v(node.name)} = {self.stream(node)}.sum();")

    def fold_list(self, node: ir.Fold) -> None:
        kind = self.pick("fold", "array", "list", "loop")
        kept = self.fresh("kept")
        if kind == "array":
            self.put(f"long[] {kept} = {self.stream(node)}.toArray();")
            self.put(f"long {self.v(node.name)} = 0;", f"for (long part : {kept}) {self.v(node.name)} += part;")
        elif kind == "list":
            self.imports |= {"java.util.stream.Collectors", "java.util.List"}
            self.put(f"List<Long> {kept} = {self.stream(node)}.boxed().collect(Collectors.toList());")
            self.put(f"long {self.v(node.name)} = {kept}.stream().mapToLong(Long::longValue).sum();")
        else:
            super().fold_list(node)


EMITTER = Java
