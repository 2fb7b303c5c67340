"""PHP 8: arrays for nearly everything, SplFixedArray, SplQueue, strings, generators."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled


class Php(Braces):
    language = "php"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"arr": ("array", "array", "fixed"), "deque": ("SplQueue", "array"), "mat": ("nested", "flat")}
    forms |= {"list": ("array", "class"), "tree": ("array", "class")}
    max_depth = 20_000
    speed = 180_000
    start_ms = 17.0
    bytes_of = {"arr": 16, "vec": 24, "mat": 16, "jag": 24, "map": 48, "smap": 90, "set": 48, "deque": 40, "str": 2}
    bytes_of |= {"strs": 56, "list": 400, "tree": 400, "call": 160, "row": 64}
    case = "snake"
    whole_division = False
    comparisons = {**Braces.comparisons, "==": "===", "!=": "!=="}

    @property
    def loop_word(self) -> str:
        return ""

    def text(self) -> str:
        functions, main = self.written()
        form = self.pick("constants", "const {} = {};", "define('{}', {});")
        constants = [form.format(self.v(name), value) for name, value in self.program.constants]
        helpers = [text.split("\n") for text in self.snippets.values()]
        if self.pick("main", 0, 1):
            body = ["function main() {", *main, "}", "", "main();"]
        else:
            body = [line[(self.style.indent or self.indent) :] for line in main]
        return assembled(["<?php", *self.title()], constants, *helpers, functions, body)

    def v(self, name: str) -> str:
        text = super().v(name)
        return text if name in self.constants else f"${text}"

    def fresh(self, stem: str) -> str:
        return f"${super().fresh(stem)}"

    def words(self, name: str) -> tuple[str, ...]:
        return super().words(name.lstrip("$"))

    def wide(self, value: Value) -> Value:
        return Value(value, ir.LONG, value.level)

    def narrow(self, value: Value) -> Value:
        return Value(value, ir.INT, value.level)

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        return f"{name} = {value};"

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        return f"{'&' if changes and type.kind not in ('list', 'tree') else ''}{self.v(name)}"

    def head(self, function: ir.Function, parameters: str) -> str:
        return f"function {self.f(function.name)}({parameters})"

    def show(self, value: Value) -> None:
        self.put(self.pick("echo", f'echo {value}, "\\n";', f"echo {value.atom} . PHP_EOL;"))

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"{op}({left}, {right})"

    def divide(self, left: Value, right: Value, type: ir.Type) -> Value:
        return Value(f"intdiv({left}, {right})", type)

    elif_word = "else"

    def free(self, a: Target) -> str | list[str] | None:
        return f"unset({a});" if self.pick("free", 0, 1) else f"{a} = null;"

    def store(self, a: Target, value: Value) -> str:
        return f"(float) {value.atom}" if a.elem == "f64" else value

    def load(self, a: Target, text: str) -> Value:
        return Value(f"(int) {text}", level=2) if a.elem == "f64" else Value(text)

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        if a.form == "fixed":
            at = self.fresh("q")
            fill = self.store(a, Value(fill))
            return [f"{a} = new SplFixedArray({size});", f"for ({at} = 0; {at} < {size}; {at}++) {a}[{at}] = {fill};"]
        return f"{a} = array_fill(0, {size}, {f'{fill}.0' if a.elem == 'f64' else fill});"

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{i}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {self.store(a, value)};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"{a} = clone {source};" if a.form == "fixed" else f"{a} = {source};"

    def arr_sort(self, a: Target) -> Lines:
        if a.form == "fixed":
            plain = self.fresh("plain")
            return [f"{plain} = {a}->toArray();", f"sort({plain});", f"{a} = SplFixedArray::fromArray({plain});"]
        return f"sort({a});"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        if a.elem == "f64":
            super().arr_each(node, a)
        else:
            self.braced(f"foreach ({a} as {self.v(node.var)})", node.body)

    def vec_each(self, node: ir.Each, a: Target) -> None:
        self.arr_each(node, a)

    def vec_new(self, a: Target) -> Lines:
        return f"{a} = [];"

    map_new = smap_new = set_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}[] = {self.store(a, value)};"

    def vec_pop(self, a: Target) -> Lines:
        return self.load(a, f"array_pop({a})")

    def vec_len(self, a: Target) -> str:
        return f"count({a})"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if a.form == "flat":
            return f"{a} = array_fill(0, {rows.atom} * {columns.atom}, {fill});"
        at = self.fresh("q")
        return [f"{a} = [];", f"for ({at} = 0; {at} < {rows}; {at}++) {a}[] = array_fill(0, {columns}, {fill});"]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"{a} = array_fill(0, {rows}, []);"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}][] = {self.store(a, value)};"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"count({a}[{i}])"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{i}][{j}]")

    # Maps, sets, queues, texts

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({m}[{key}] ?? {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"isset({m}[{key}])"

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value};"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        test = [
            f"if (isset({m}[{key}])) {{",
            f"    {m}[{key}] += {delta};",
            "} else {",
            f"    {m}[{key}] = {delta};",
            "}",
        ]
        return self.pick("add", f"{m}[{key}] = ({m}[{key}] ?? 0) + {delta};", test)

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.braced(f"foreach ({m} as {self.v(node.var)})", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}" . {value.atom}'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        word = self.fresh("word")
        return [f"{word} = {self.key(prefix, value)};", f"{m}[{word}] = ({m}[{word}] ?? 0) + {delta};"]

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"({m}[{self.key(prefix, value)}] ?? {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}[{value}] = true;"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"unset({s}[{value}]);"

    def deque_new(self, q: Target) -> Lines:
        return f"{q} = new SplQueue();" if q.form == "SplQueue" else [f"{q} = [];", f"{q}_head = 0;"]

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}->enqueue({value});" if q.form == "SplQueue" else f"{q}[] = {value};"

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "deque.pop":
            q = self.target(node.value.target)
            if q.form == "array":
                self.put(f"{self.v(node.name)} = {q}[{q}_head];", f"unset({q}[{q}_head++]);")
                return
        super().statement(node)

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}->dequeue()"

    def str_new(self, s: Target) -> Lines:
        return f'{s} = "";'

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} .= chr({code});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s} .= {value.atom};"

    def str_each(self, node: ir.Each, s: Target) -> None:
        at = self.fresh("q")
        self.put(f"for ({at} = 0, {at}n = strlen({s}); {at} < {at}n; {at}++) {{")
        with self.indented():
            self.put(f"{self.v(node.var)} = ord({s}[{at}]);")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}[] = {self.key(prefix, value)};"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'{target} = implode("{separator}", {source});'

    # Cells

    def nil(self, kind: str) -> str:
        return "null"

    def made(self, kind: str, **fields: str) -> str:
        if self.formed(ir.Type(kind)).form == "array":
            return f"[{', '.join(fields.values())}]"
        name = "Cell" if kind == "list" else "Tree"
        given = ", ".join(f"public ${each}" for each in fields)
        self.need(name, f"class {name} {{\n    function __construct({given}) {{}}\n}}")
        return f"new {name}({', '.join(fields.values())})"

    def cons(self, head: Value, tail: Value) -> str:
        return self.made("list", value=head, rest=tail)

    def node(self, left: Value, value: Value, right: Value) -> str:
        return self.made("tree", left=left, value=value, right=right)

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} !== null", level=LOOSE)

    tree_some = list_some

    def part(self, kind: str, c: Value, place: int, name: str) -> str:
        return f"{c}[{place}]" if self.formed(ir.Type(kind)).form == "array" else f"{c}->{name}"

    def list_head(self, c: Value) -> str:
        return self.part("list", c, 0, "value")

    def list_tail(self, c: Value) -> str:
        return self.part("list", c, 1, "rest")

    def tree_left(self, c: Value) -> str:
        return self.part("tree", c, 0, "left")

    def tree_value(self, c: Value) -> str:
        return self.part("tree", c, 1, "value")

    def tree_right(self, c: Value) -> str:
        return self.part("tree", c, 2, "right")

    # Folds

    def fold_lazy(self, node: ir.Fold) -> None:
        name = super().fresh("stream")
        low = self.x(node.low)
        high = self.x(node.high)
        var = self.v(node.var)
        locals_ = [each.name for each in ir.walk((node.high, node.value, node.keep or ())) if isinstance(each, ir.Var)]
        bound = sorted({self.v(each) for each in locals_ if each not in self.constants and each != node.var})
        use = f" use ({', '.join(bound)})" if bound else ""
        keep = "" if node.keep is None else f"if ({self.x(node.keep)}) "
        lines = [f"for ({var} = {low}; {var} < {high}; {var}++) {{", f"    {keep}yield {self.x(node.value)};", "}"]
        self.put(
            f"${name} = function (){use} {{", *("    " + line for line in lines), "};", f"{self.v(node.name)} = 0;"
        )
        self.put(f"foreach (${name}() as $part) {self.v(node.name)} += $part;")

    def fold_list(self, node: ir.Fold) -> None:
        if self.pick("fold", 0, 1):
            super().fold_list(node)
            return
        var = self.v(node.var)
        span = f"range({self.x(node.low)}, {self.x(ir.minus_one(node.high))})"
        keep = span if node.keep is None else f"array_filter({span}, fn({var}) => {self.x(node.keep)})"
        self.put(f"{self.v(node.name)} = array_sum(array_map(fn({var}) => {self.x(node.value)}, {keep}));")


EMITTER = Php
