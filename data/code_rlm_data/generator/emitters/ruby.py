"""Ruby: Array, Hash, Set, String, Struct or arrays as cells, lazy enumerators."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Emitter, Lines, Target, Value


class Ruby(Emitter):
    language = "ruby"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"mat": ("nested", "flat"), "list": ("array", "struct"), "tree": ("array", "struct")}
    forms |= {"str": ("string",)}
    max_depth = 6_000
    speed = 90_000
    start_ms = 60.0
    bytes_of = {"arr": 8, "vec": 12, "mat": 8, "jag": 14, "map": 60, "smap": 110, "set": 60, "deque": 14, "str": 1}
    bytes_of |= {"strs": 50, "list": 56, "tree": 64, "call": 250, "row": 60}
    indent = 2
    line_comment = "#"
    both = "&&"
    either = "||"

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            with self.captured() as lines:
                self.define(function)
            functions += ["", *lines] if functions else lines
        with self.captured() as main:
            self.enter(self.program.main)
            self.body(self.program.body)
            self.put(f"puts {self.x(self.program.result).atom}")
        constants = [f"{self.v(name)} = {value}" for name, value in self.program.constants]
        title = [self.comment(self.program.note)] if self.style.comments else []
        helpers = [text.split("\n") for text in self.snippets.values()]
        parts = [[*title, *sorted(self.imports)], constants, *helpers, functions, main]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def define(self, function: ir.Function) -> None:
        self.enter(function)
        if function.note and self.style.comments:
            self.put(self.comment(function.note))
        params = ", ".join(self.v(name) for name, _ in function.params)
        self.put(f"def {self.f(function.name)}{f'({params})' if params else ''}")
        with self.indented():
            self.body(function.body)
            self.put(f"{self.pick('return', 'return ', '')}{self.x(function.result)}")
        self.put("end")

    def apply(self, name: str, arguments: list[str]) -> str:
        return f"{self.f(name)}({', '.join(arguments)})" if arguments else self.f(name)

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        self.put(f"{self.v(name)} = {value}")

    def assign(self, node: ir.Assign) -> None:
        value = node.value
        name = self.v(node.name)
        if isinstance(value, ir.Bin) and value.op in "+-*%&|^/" and value.left == ir.Var(node.name):
            self.put(f"{name} {self.operators[value.op]}= {self.x(value.right)}")
        else:
            super().assign(node)

    def block(self, head: str, statements: tuple) -> None:
        self.put(head)
        with self.indented():
            self.body(statements)
        self.put("end")

    def count(self, node: ir.For) -> None:
        low = self.x(node.low)
        high = self.x(node.high)
        step = self.x(node.step)
        var = self.v(node.var)
        if node.down:
            head = f"{self.x(ir.minus_one(node.high)).atom}.downto({low}) do |{var}|"
        elif step != "1":
            head = f"({low.atom}...{high.atom}).step({step}) do |{var}|"
        elif low == "0" and self.pick("times", 0, 1):
            head = f"{high.atom}.times do |{var}|"
        elif self.pick("each", 0, 1):
            head = f"({low.atom}...{high.atom}).each do |{var}|"
        else:
            head = f"{low.atom}.upto({self.x(ir.minus_one(node.high))}) do |{var}|"
        self.block(head, node.body)

    def repeat(self, node: ir.While) -> None:
        self.block(f"while {self.x(node.condition)}", node.body)

    def branch(self, node: ir.If, word: str = "if") -> None:
        self.put(f"{word} {self.x(node.condition)}")
        with self.indented():
            self.body(node.then)
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ir.If):
            self.branch(node.orelse[0], "elsif")
            return
        if node.orelse:
            self.put("else")
            with self.indented():
                self.body(node.orelse)
        self.put("end")

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} = nil"

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"[{left}, {right}].{op}"

    # Arrays

    def store(self, a: Target, value: Value) -> str:
        return (
            f"{value}.0" if a.elem == "f64" and value.isdigit() else f"{value.atom}.to_f" if a.elem == "f64" else value
        )

    def load(self, a: Target, text: str) -> str:
        return f"{text}.to_i" if a.elem == "f64" else text

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        fill = f"{fill}.0" if a.elem == "f64" else fill
        return f"{a} = {self.pick('fill', f'Array.new({size}, {fill})', f'[{fill}] * {size.atom}')}"

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{i}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {self.store(a, value)}"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"{a} = {source}.{self.pick('copy', 'dup', 'clone')}"

    def arr_sort(self, a: Target) -> Lines:
        return f"{a}.sort!"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        if a.elem == "f64":
            super().arr_each(node, a)
        else:
            self.block(f"{a}.each do |{self.v(node.var)}|", node.body)

    def vec_each(self, node: ir.Each, a: Target) -> None:
        self.arr_each(node, a)

    def vec_new(self, a: Target) -> Lines:
        return f"{a} = []"

    strs_new = deque_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return self.pick(
            "push", f"{a} << {Value(self.store(a, value), level=value.level).atom}", f"{a}.push({self.store(a, value)})"
        )

    def vec_pop(self, a: Target) -> Lines:
        return self.load(a, f"{a}.pop")

    def vec_len(self, a: Target) -> str:
        return f"{a}.{self.pick('size', 'size', 'length')}"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if a.form == "flat":
            return f"{a} = Array.new({rows.atom} * {columns.atom}, {fill})"
        return f"{a} = Array.new({rows}) {{ Array.new({columns}, {fill}) }}"

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)}"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"{a} = Array.new({rows}) {{ [] }}"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}].push({self.store(a, value)})"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}[{i}].size"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{i}][{j}]")

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return f"{m} = {self.pick('hash', '{}', 'Hash.new(0)')}"

    smap_new = map_new

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"{m}.fetch({key}, {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"{m}.key?({key})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value}"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        if self.pick("hash", "{}", "Hash.new(0)") == "{}":
            return f"{m}[{key}] = {m}.fetch({key}, 0) + {delta}"
        return f"{m}[{key}] += {delta}"

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.block(f"{m}.each_value do |{self.v(node.var)}|", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}#{{{value}}}"'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return self.map_add(m, self.key(prefix, value), delta)

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{m}.fetch({self.key(prefix, value)}, {default})"

    def set_new(self, s: Target) -> Lines:
        self.imports.add("require 'set'")
        return f"{s} = Set.new"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.add({value})"

    def set_has(self, s: Target, value: Value) -> str:
        return f"{s}.include?({value})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.delete({value})"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.push({value})"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}.shift"

    def str_new(self, s: Target) -> Lines:
        return f"{s} = {self.pick('text', 'String.new', '+' + chr(34) * 2)}"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} << {code.atom}.chr"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s} << {value.atom}.to_s"

    def str_each(self, node: ir.Each, s: Target) -> None:
        self.block(f"{s}.{self.pick('bytes', 'each_byte', 'bytes.each')} do |{self.v(node.var)}|", node.body)

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s} << {self.key(prefix, value)}"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'{target} = {source}.join("{separator}")'

    # Cells

    def nil(self, kind: str) -> str:
        return "nil"

    def made(self, kind: str, **fields: str) -> str:
        if self.formed(ir.Type(kind)).form == "array":
            return f"[{', '.join(fields.values())}]"
        name = "Cell" if kind == "list" else "Tree"
        self.need(name, f"{name} = Struct.new({', '.join(':' + each for each in fields)})")
        return f"{name}.new({', '.join(fields.values())})"

    def cons(self, head: Value, tail: Value) -> str:
        return self.made("list", value=head, rest=tail)

    def node(self, left: Value, value: Value, right: Value) -> str:
        return self.made("tree", left=left, value=value, right=right)

    def list_some(self, c: Value) -> str:
        return f"!{c}.nil?"

    tree_some = list_some

    def part(self, kind: str, c: Value, place: int, name: str) -> str:
        return f"{c}[{place}]" if self.formed(ir.Type(kind)).form == "array" else f"{c}.{name}"

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

    def chain(self, node: ir.Fold, lazy: str) -> str:
        var = self.v(node.var)
        keep = "" if node.keep is None else f".select {{ |{var}| {self.x(node.keep)} }}"
        return f"({self.x(node.low)}...{self.x(node.high).atom}){lazy}{keep}.map {{ |{var}| {self.x(node.value)} }}"

    def fold_lazy(self, node: ir.Fold) -> None:
        self.put(f"{self.v(node.name)} = {self.chain(node, '.lazy')}.sum")

    def fold_list(self, node: ir.Fold) -> None:
        self.put(f"{self.v(node.name)} = {self.chain(node, '')}.sum")


EMITTER = Ruby
