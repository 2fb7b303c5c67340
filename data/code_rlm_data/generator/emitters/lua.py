"""Lua 5.4: tables for everything, strings joined by table.concat, coroutines as streams."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, TIMES, Emitter, Lines, Target, Value


class Lua(Emitter):
    language = "lua"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"mat": ("nested", "flat"), "list": ("record", "pair"), "tree": ("record", "pair")}
    max_depth = 15_000
    speed = 150_000
    start_ms = 4.0
    bytes_of = {"arr": 17, "vec": 24, "mat": 17, "jag": 30, "map": 44, "smap": 80, "set": 44, "deque": 44, "str": 2}
    bytes_of |= {"strs": 56, "list": 120, "tree": 136, "call": 140, "row": 64}
    line_comment = "--"
    operators = {**Emitter.operators, "/": "//", "^": "~"}
    comparisons = {**Emitter.comparisons, "!=": "~="}
    both = "and"
    either = "or"

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            with self.captured() as lines:
                self.define(function)
            functions += ["", *lines] if functions else lines
        whole = bool(self.pick("main", 0, 1))
        with self.captured() as main:
            self.enter(self.program.main)
            self.depth = int(whole)
            self.body(self.program.body)
            self.put(f"print({self.x(self.program.result)})")
            self.depth = 0
        main = ["local function main()", *main, "end", "", "main()"] if whole else main
        word = self.pick("constants", "local ", "local ", "")
        constants = [f"{word}{self.v(name)} = {value}" for name, value in self.program.constants]
        title = [self.comment(self.program.note)] if self.style.comments else []
        helpers = [text.split("\n") for text in self.snippets.values()]
        return "\n\n".join("\n".join(part) for part in [title, constants, *helpers, functions, main] if part) + "\n"

    def define(self, function: ir.Function) -> None:
        self.enter(function)
        if function.note and self.style.comments:
            self.put(self.comment(function.note))
        params = ", ".join(self.v(name) for name, _ in function.params)
        self.put(f"local function {self.f(function.name)}({params})")
        with self.indented():
            self.body(function.body)
            self.put(f"return {self.x(function.result)}")
        self.put("end")

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        self.put(f"local {self.v(name)} = {value}")

    def block(self, head: str, statements: tuple) -> None:
        self.put(head)
        with self.indented():
            self.body(statements)
        self.put("end")

    def count(self, node: ir.For) -> None:
        var = self.v(node.var)
        step = self.x(node.step)
        last = self.x(ir.minus_one(node.high))
        if node.down:
            head = f"for {var} = {last}, {self.x(node.low)}, -1 do"
        else:
            head = f"for {var} = {self.x(node.low)}, {last}{'' if step == '1' else f', {step}'} do"
        self.block(head, node.body)

    def repeat(self, node: ir.While) -> None:
        self.block(f"while {self.x(node.condition)} do", node.body)

    def branch(self, node: ir.If, word: str = "if") -> None:
        self.put(f"{word} {self.x(node.condition)} then")
        with self.indented():
            self.body(node.then)
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ir.If):
            self.branch(node.orelse[0], "elseif")
            return
        if node.orelse:
            self.put("else")
            with self.indented():
                self.body(node.orelse)
        self.put("end")

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} = nil"

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"math.{op}({left}, {right})"

    # Arrays; places count from 0 here as in the text, or from 1 by a shift

    def at(self, i: Value) -> str:
        return f"{i} + 1" if i.level >= TIMES else f"{i.atom} + 1"

    def store(self, a: Target, value: Value) -> str:
        return f"{value.atom} + 0.0" if a.elem == "f64" else value

    def load(self, a: Target, text: str) -> Value:
        return Value(f"{text} // 1 | 0", level=LOOSE) if a.elem == "f64" else Value(text)

    def table(self, size: Value, fill: str) -> str:
        self.need(
            "filled",
            "local function filled(n, x)\n    local t = {}\n    for i = 1, n do\n        t[i] = x\n    end\n    return t\nend",
        )
        return f"filled({size}, {fill})"

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if self.pick("filled", 0, 1):
            return f"local {a} = {self.table(size, fill)}"
        at = self.fresh("q")
        return [f"local {a} = {{}}", f"for {at} = 1, {size} do {a}[{at}] = {fill} end"]

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{self.at(i)}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{self.at(i)}] = {self.store(a, value)}"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        if self.pick("copy", 0, 1):
            return f"local {a} = table.move({source}, 1, {size}, 1, {{}})"
        return f"local {a} = {{}}\nfor k = 1, {size} do {a}[k] = {source}[k] end"

    def arr_sort(self, a: Target) -> Lines:
        return f"table.sort({a})"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        if a.elem == "f64":
            super().arr_each(node, a)
        else:
            self.block(f"for _, {self.v(node.var)} in ipairs({a}) do", node.body)

    def vec_each(self, node: ir.Each, a: Target) -> None:
        self.arr_each(node, a)

    def vec_new(self, a: Target) -> Lines:
        return f"local {a} = {{}}"

    strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return self.pick(
            "push", f"{a}[#{a} + 1] = {self.store(a, value)}", f"table.insert({a}, {self.store(a, value)})"
        )

    def vec_pop(self, a: Target) -> Lines:
        return self.load(a, f"table.remove({a})")

    def vec_len(self, a: Target) -> str:
        return f"#{a}"

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if a.form == "flat":
            return f"local {a} = {self.table(Value(f'{rows.atom} * {columns.atom}'), fill)}"
        at = self.fresh("q")
        made = self.table(columns, fill)
        return [f"local {a} = {{}}", f"for {at} = 1, {rows} do", f"    {a}[{at}] = {made}", "end"]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        if a.form == "flat":
            return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {self.at(j)}]"
        return f"{a}[{self.at(i)}][{self.at(j)}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)}"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        at = self.fresh("q")
        return [f"local {a} = {{}}", f"for {at} = 1, {rows} do {a}[{at}] = {{}} end"]

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        row = f"{a}[{self.at(i)}]"
        if self.pick("jag", 0, 1):
            return f"table.insert({row}, {self.store(a, value)})"
        line = self.fresh("row")
        return [f"local {line} = {row}", f"{line}[#{line} + 1] = {self.store(a, value)}"]

    def jag_len(self, a: Target, i: Value) -> str:
        return f"#{a}[{self.at(i)}]"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{self.at(i)}][{self.at(j)}]")

    # Maps, sets, queues, texts: a table does not know how many it holds

    def map_new(self, m: Target) -> Lines:
        return [f"local {m} = {{}}", f"local {m}_size = 0"]

    smap_new = set_new = map_new

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({m}[{key}] or {default})"

    def map_has(self, m: Target, key: Value) -> Value:
        return Value(f"{m}[{key}] ~= nil", level=LOOSE)

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return [f"if {m}[{key}] == nil then {m}_size = {m}_size + 1 end", f"{m}[{key}] = {value}"]

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return [f"if {m}[{key}] == nil then {m}_size = {m}_size + 1 end", f"{m}[{key}] = ({m}[{key}] or 0) + {delta}"]

    def map_len(self, m: Target) -> str:
        return f"{m}_size"

    smap_len = set_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.block(f"for _, {self.v(node.var)} in pairs({m}) do", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}" .. {value.atom}'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        word = self.fresh("word")
        return [f"local {word} = {self.key(prefix, value)}", *self.map_add(m, word, delta)]

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"({m}[{self.key(prefix, value)}] or {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return [f"if not {s}[{value}] then {s}_size = {s}_size + 1 end", f"{s}[{value}] = true"]

    def set_del(self, s: Target, value: Value) -> Lines:
        return [f"if {s}[{value}] then {s}_size = {s}_size - 1 end", f"{s}[{value}] = nil"]

    def deque_new(self, q: Target) -> Lines:
        return [f"local {q} = {{}}", f"local {q}_first, {q}_last = 1, 0"]

    def deque_push(self, q: Target, value: Value) -> Lines:
        return [f"{q}_last = {q}_last + 1", f"{q}[{q}_last] = {value}"]

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "deque.pop":
            q = self.target(node.value.target)
            self.put(
                f"local {self.v(node.name)} = {q}[{q}_first]", f"{q}[{q}_first] = nil", f"{q}_first = {q}_first + 1"
            )
        else:
            super().statement(node)

    def deque_len(self, q: Target) -> str:
        return f"({q}_last - {q}_first + 1)"

    def str_new(self, s: Target) -> Lines:
        return f"local {s} = {{}}"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s}[#{s} + 1] = string.char({code})"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s}[#{s} + 1] = tostring({value})"

    def str_each(self, node: ir.Each, s: Target) -> None:
        whole = self.fresh("whole")
        at = self.fresh("q")
        self.put(f"local {whole} = table.concat({s})", f"for {at} = 1, #{whole} do")
        with self.indented():
            self.put(f"local {self.v(node.var)} = {whole}:byte({at})")
            self.body(node.body)
        self.put("end")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}[#{s} + 1] = {self.key(prefix, value)}"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'local {target} = {{ table.concat({source}, "{separator}") }}'

    # Cells

    def nil(self, kind: str) -> str:
        return "nil"

    def made(self, kind: str, **fields: str) -> str:
        if self.formed(ir.Type(kind)).form == "pair":
            return f"{{ {', '.join(f'[{place}] = {value}' for place, value in enumerate(fields.values(), 1))} }}"
        return f"{{ {', '.join(f'{key} = {value}' for key, value in fields.items())} }}"

    def cons(self, head: Value, tail: Value) -> str:
        return self.made("list", value=head, rest=tail)

    def node(self, left: Value, value: Value, right: Value) -> str:
        return self.made("tree", left=left, value=value, right=right)

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} ~= nil", level=LOOSE)

    tree_some = list_some

    def part(self, kind: str, c: Value, place: int, name: str) -> str:
        return f"{c}[{place}]" if self.formed(ir.Type(kind)).form == "pair" else f"{c}.{name}"

    def list_head(self, c: Value) -> str:
        return self.part("list", c, 1, "value")

    def list_tail(self, c: Value) -> str:
        return self.part("list", c, 2, "rest")

    def tree_left(self, c: Value) -> str:
        return self.part("tree", c, 1, "left")

    def tree_value(self, c: Value) -> str:
        return self.part("tree", c, 2, "value")

    def tree_right(self, c: Value) -> str:
        return self.part("tree", c, 3, "right")

    # Folds

    def fold_lazy(self, node: ir.Fold) -> None:
        stream = self.fresh("stream")
        name = self.v(node.name)
        self.put(f"local {stream} = coroutine.wrap(function()")
        with self.indented():
            self.put(f"for {self.v(node.var)} = {self.x(node.low)}, {self.x(ir.minus_one(node.high))} do")
            with self.indented():
                line = f"coroutine.yield({self.x(node.value)})"
                self.put(line if node.keep is None else f"if {self.x(node.keep)} then {line} end")
            self.put("end")
        self.put("end)", f"local {name} = 0", f"for part in {stream} do {name} = {name} + part end")


EMITTER = Lua
