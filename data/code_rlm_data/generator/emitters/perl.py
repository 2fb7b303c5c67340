"""Perl 5: array and hash references, packed strings through vec, join and sort."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled


class Perl(Braces):
    language = "perl"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion"})
    forms = {"mat": ("nested", "flat"), "list": ("array", "hash"), "tree": ("array", "hash")}
    elements = ("i32",)
    max_depth = 20_000
    speed = 48_000
    start_ms = 8.0
    bytes_of = {"arr": 32, "vec": 36, "mat": 32, "jag": 36, "map": 110, "smap": 130, "set": 100, "deque": 36, "str": 1}
    bytes_of |= {"strs": 64, "list": 160, "tree": 220, "call": 700, "row": 100}
    case = "snake"
    line_comment = "#"
    whole_division = False

    @property
    def loop_word(self) -> str:
        return "my "

    def text(self) -> str:
        functions, main = self.written()
        word, sign = ("use constant", "=>") if self.pick("constants", 0, 1) else ("my", "=")
        constants = [f"{word} {self.v(name)} {sign} {value};" for name, value in self.program.constants]
        head = ["#!/usr/bin/perl", "use strict;", "use warnings;"]
        if "recursion" in self.needs or "tree" in self.needs:
            head.append("no warnings 'recursion';")
        body = [line[(self.style.indent or self.indent) :] for line in main]
        return assembled([*head, *self.title()], constants, functions, body)

    def v(self, name: str) -> str:
        text = super().v(name)
        if name in self.constants and self.pick("constants", 0, 1):
            return text
        return f"${text}"

    def variable(self, name: str) -> str:
        # A bare constant before `%` or `/` would be read as a call.
        text = self.v(name)
        return text if text.startswith("$") else f"{text}()"

    def f(self, name: str) -> str:
        # Quoting operators look like functions of one letter.
        text = super().f(name)
        return f"{text}_" if text in ("m", "q", "s", "x", "y", "tr") else text

    def fresh(self, stem: str) -> str:
        return f"${super().fresh(stem)}"

    def words(self, name: str) -> tuple[str, ...]:
        return super().words(name.lstrip("$"))

    def wide(self, value: Value) -> Value:
        return Value(value, ir.LONG, value.level)

    def narrow(self, value: Value) -> Value:
        return Value(value, ir.INT, value.level)

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        return f"my {name} = {value};"

    def define(self, function: ir.Function) -> None:
        self.enter(function)
        if function.note and self.style.comments:
            self.put(self.comment(function.note))
        self.put(f"sub {self.f(function.name)} {{")
        with self.indented():
            if function.params:
                self.put(f"my ({', '.join(self.v(name) for name, _ in function.params)}) = @_;")
            self.body(function.body)
            self.put(f"return {self.x(function.result)};")
        self.put("}")

    def show(self, value: Value) -> None:
        self.put(self.pick("print", f'print {value.atom} . "\\n";', f'printf("%d\\n", {value});'))

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return self.ternary(f"{left.atom} {'<' if op == 'min' else '>'} {right.atom}", left.atom, right.atom)

    def divide(self, left: Value, right: Value, type: ir.Type) -> Value:
        return Value(f"int({left.atom} / {right.atom})", type)

    @property
    def elif_word(self) -> str:
        return "els"

    def free(self, a: Target) -> str | list[str] | None:
        return self.pick("free", f"undef {a};", f"{a} = undef;")

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        return f"my {a} = [({fill}) x {size.atom}];"

    def arr_get(self, a: Target, i: Value) -> str:
        return f"{a}->[{i}]"

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}->[{i}] = {value};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"my {a} = [@{source}];" if self.pick("deref", 0, 1) else f"my {a} = [@{{{source}}}];"

    def arr_sort(self, a: Target) -> Lines:
        return f"@{a} = sort {{ $a <=> $b }} @{a};"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        self.braced(f"{self.pick('foreach', 'for', 'foreach')} my {self.v(node.var)} (@{a})", node.body)

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return f"my {a} = [];"

    deque_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"push @{a}, {value};"

    def vec_pop(self, a: Target) -> Lines:
        return f"pop(@{a})"

    def vec_len(self, a: Target) -> str:
        return f"scalar(@{a})"

    deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        if a.form == "flat":
            return f"my {a} = [({fill}) x ({rows.atom} * {columns.atom})];"
        return f"my {a} = [map {{ [({fill}) x {columns.atom}] }} 1 .. {rows.atom}];"

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}->[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}->[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.cell(a, i, j)

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {value};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"my {a} = [map {{ [] }} 1 .. {rows.atom}];"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"push @{{{a}->[{i}]}}, {value};"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"scalar(@{{{a}->[{i}]}})"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}->[{i}][{j}]"

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return f"my {m} = {{}};"

    smap_new = set_new = map_new

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({m}->{{{key}}} // {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"exists {m}->{{{key}}}"

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}->{{{key}}} = {value};"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"{m}->{{{key}}}++;" if delta == "1" and self.pick("++", 0, 1) else f"{m}->{{{key}}} += {delta};"

    def map_len(self, m: Target) -> str:
        return f"scalar(keys %{m})"

    smap_len = set_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.braced(f"for my {self.v(node.var)} (values %{m})", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}" . {value.atom}'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"{m}->{{{self.key(prefix, value)}}} += {delta};"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"({m}->{{{self.key(prefix, value)}}} // {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}->{{{value}}} = 1;"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"delete {s}->{{{value}}};"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"push @{q}, {value};"

    def deque_pop(self, q: Target) -> Lines:
        return f"shift(@{q})"

    def str_new(self, s: Target) -> Lines:
        return f"my {s} = '';"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} .= chr({code});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s} .= {value.atom};"

    def str_each(self, node: ir.Each, s: Target) -> None:
        var = self.v(node.var)
        if self.pick("chars", 0, 1):
            at = self.fresh("q")
            self.put(f"for my {at} (0 .. length({s}) - 1) {{")
            with self.indented():
                self.put(f"my {var} = ord(substr({s}, {at}, 1));")
                self.body(node.body)
            self.put("}")
        else:
            self.braced(f"for my {var} (unpack('C*', {s}))", node.body)

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"push @{s}, {self.key(prefix, value)};"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f"my {target} = join('{separator}', @{source});"

    # Cells

    def nil(self, kind: str) -> str:
        return "undef"

    def made(self, kind: str, **fields: str) -> str:
        if self.formed(ir.Type(kind)).form == "array":
            return f"[{', '.join(fields.values())}]"
        return f"{{ {', '.join(f'{key} => {value}' for key, value in fields.items())} }}"

    def cons(self, head: Value, tail: Value) -> str:
        return self.made("list", value=head, rest=tail)

    def node(self, left: Value, value: Value, right: Value) -> str:
        return self.made("tree", left=left, value=value, right=right)

    def list_some(self, c: Value) -> str:
        return f"defined({c})"

    tree_some = list_some

    def part(self, kind: str, c: Value, place: int, name: str) -> str:
        return f"{c}->[{place}]" if self.formed(ir.Type(kind)).form == "array" else f"{c}->{{{name}}}"

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

    def fold_list(self, node: ir.Fold) -> None:
        if self.pick("fold", 0, 1):
            super().fold_list(node)
            return
        low = self.x(node.low)
        high = self.x(ir.minus_one(node.high))
        kept = self.fresh("kept")
        with_topic = {**self.style.names, node.var: ("_",)}
        plain = self.style
        self.style = type(self.style)(self.style.seed, self.style.comments, with_topic, self.style.indent)
        keep = "" if node.keep is None else f"grep {{ {self.x(node.keep)} }} "
        self.put(f"my {kept} = [map {{ {self.x(node.value).atom} }} {keep}{low} .. {high}];")
        self.style = plain
        self.put(f"my {self.v(node.name)} = 0;", f"{self.v(node.name)} += $_ for @{kept};")


EMITTER = Perl
