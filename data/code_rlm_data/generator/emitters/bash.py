"""Bash 5: indexed and associative arrays, arithmetic evaluation, results of functions in REPLY."""

from __future__ import annotations

import re

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Emitter, Lines, Target, Value


class Bash(Emitter):
    language = "bash"
    # Neither cells nor rows of rows: an array holds texts only.
    supports = frozenset({"arr", "vec", "mat", "map", "smap", "set", "deque", "str", "strs", "recursion"})
    max_depth = 300
    speed = 600
    start_ms = 5.0
    bytes_of = {"arr": 70, "vec": 70, "mat": 70, "map": 110, "smap": 130, "set": 110, "deque": 70, "str": 4}
    bytes_of |= {"strs": 80, "call": 4000}
    constant_case = "upper"
    line_comment = "#"
    indent = 2

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            functions += ["", *self.routine(function)] if functions else self.routine(function)
        self.enter(self.program.main)
        with self.captured() as main:
            self.depth = 1
            self.body(self.program.body)
            self.put(f"echo $(({self.x(self.program.result)}))")
            self.depth = 0
        word = self.pick("constants", "readonly ", "declare -r ", "")
        constants = [f"{word}{self.v(name)}={value}" for name, value in self.program.constants]
        title = [self.comment(self.program.note)] if self.style.comments else []
        parts = [["#!/usr/bin/env bash", *title], constants, functions, ["main() {", *main, "}", "", "main"]]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def routine(self, function: ir.Function) -> list[str]:
        self.enter(function)
        with self.captured() as lines:
            self.put(f"{self.f(function.name)}() {{")
            with self.indented():
                if function.note and self.style.comments:
                    self.put(self.comment(function.note))
                for place, (name, type) in enumerate(function.params, 1):
                    self.put(f"local {'-n ' if type.kind in ir.CONTAINERS else ''}{self.v(name)}=${place}")
                self.body(function.body)
                self.put(f"REPLY=$(({self.x(function.result)}))")
            self.put("}")
        return lines

    # Expressions stand in arithmetic, where names need no dollar

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"({left.atom} {'<' if op == 'min' else '>'} {right.atom} ? {left.atom} : {right.atom})"

    def call(self, node: ir.Call) -> Value:
        given = []
        for argument, (_, type) in zip(node.args, self.functions[node.name].params):
            if type.kind in ir.CONTAINERS:
                is_parameter = any(argument.name == name for name, _ in self.function.params)
                given.append(f'"${{!{self.v(argument.name)}}}"' if is_parameter else self.v(argument.name))
            else:
                value = self.x(argument)
                given.append(value if value.isdigit() else f"$(({value}))")
        kept = self.fresh("got")
        self.put(" ".join([self.f(node.name), *given]), f"local {kept}=$REPLY")
        return Value(kept)

    def name_of(self, value: str) -> str:
        """Returns a word for a key: a plain number, or a variable that holds the value."""
        if value.isdigit():
            return value
        if re.fullmatch(r"[A-Za-z_]\w*", value):
            return f"${value}"
        key = self.fresh("key")
        self.put(f"local {key}=$(({value}))")
        return f"${key}"

    # Statements

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        form = self.pick("let", "local {}=$(({}))", "local {}; (({} = {}))")
        if value.isdigit():
            self.put(f"local {self.v(name)}={value}")
        elif form.count("{}") == 2:
            self.put(form.format(self.v(name), value))
        else:
            self.put(form.format(self.v(name), self.v(name), value))

    def assign(self, node: ir.Assign) -> None:
        value = self.x(node.value)
        self.put(self.pick("assign", f"(({self.v(node.name)} = {value}))", f"{self.v(node.name)}=$(({value}))"))

    def block(self, head: str, statements: tuple, tail: str) -> None:
        self.put(head)
        with self.indented():
            before = len(self.lines)
            self.body(statements)
            if all(line.strip().startswith("#") for line in self.lines[before:]):
                self.put(":")
        self.put(tail)

    def count(self, node: ir.For) -> None:
        var = self.v(node.var)
        low = self.x(node.low)
        high = self.x(node.high)
        step = self.x(node.step)
        self.put(f"local {var}")
        if node.down:
            head = f"for (({var} = {self.x(ir.minus_one(node.high))}; {var} >= {low}; {var}--)); do"
        else:
            more = f"{var}++" if step == "1" else f"{var} += {step}"
            head = f"for (({var} = {low}; {var} < {high}; {more})); do"
        self.block(head, node.body, "done")

    def repeat(self, node: ir.While) -> None:
        self.block(f"while (({self.x(node.condition)})); do", node.body, "done")

    def branch(self, node: ir.If) -> None:
        self.put(f"if (({self.x(node.condition)})); then")
        with self.indented():
            self.body(node.then)
        if node.orelse:
            self.put("else")
            with self.indented():
                self.body(node.orelse)
        self.put("fi")

    def free(self, a: Target) -> str | list[str] | None:
        return f"unset {a}" if a.type.kind != "str" else f"{a}="

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        at = self.fresh("q")
        return [
            f"local -a {a}=()",
            f"local {at}",
            f"for (({at} = 0; {at} < {size}; {at}++)); do {a}[{at}]={fill}; done",
        ]

    def arr_get(self, a: Target, i: Value) -> str:
        return f"{a}[{i}]"

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"(({a}[{i}] = {value}))"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f'local -a {a}=("${{{source}[@]}}")'

    def arr_each(self, node: ir.Each, a: Target) -> None:
        self.put(f"local {self.v(node.var)}")
        self.block(f'for {self.v(node.var)} in "${{{a}[@]}}"; do', node.body, "done")

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return f"local -a {a}=()"

    strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}+=($(({value})))" if not value.isdigit() else f"{a}+=({value})"

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op in ("vec.pop", "deque.pop"):
            source = self.target(node.value.target)
            if node.value.op == "vec.pop":
                self.put(f"local {self.v(node.name)}=${{{source}[-1]}}", f"unset '{source}[-1]'")
            else:
                head = f"{source}_head"
                self.put(
                    f"local {self.v(node.name)}=${{{source}[{head}]}}", f"unset '{source}[{head}]'", f"(({head}++))"
                )
        else:
            super().statement(node)

    def vec_len(self, a: Target) -> str:
        return f"${{#{a}[@]}}"

    map_len = smap_len = set_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        return self.arr_new(a, Value(f"{rows.atom} * {columns.atom}", level=LOOSE), fill)

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.cell(a, i, j)

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"(({self.cell(a, i, j)} = {value}))"

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return f"local -A {m}=()"

    smap_new = set_new = map_new

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"${{{m}[{self.name_of(key)}]:-{default}}}"

    def map_has(self, m: Target, key: Value) -> str:
        return f"${{{m}[{self.name_of(key)}]+1}}0"

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        key = self.name_of(key)
        return f"{m}[{key}]=$(({value}))"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        key = self.name_of(key)
        return f"{m}[{key}]=$((${{{m}[{key}]:-0}} + {delta}))"

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.put(f"local {self.v(node.var)}")
        self.block(f'for {self.v(node.var)} in "${{{m}[@]}}"; do', node.body, "done")

    smap_each = map_each

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        word = self.fresh("word")
        lines = [f"local {word}={prefix}{self.name_of(value)}"]
        return [*lines, f"{m}[${word}]=$((${{{m}[${word}]:-0}} + {delta}))"]

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"${{{m}[{prefix}{self.name_of(value)}]:-{default}}}"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}[{self.name_of(value)}]=1"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f'unset "{s}[{self.name_of(value)}]"'

    def deque_new(self, q: Target) -> Lines:
        # Appending to an array that has run empty would begin at 0 again, so that the end is counted too.
        return [f"local -a {q}=()", f"local {q}_head=0 {q}_tail=0"]

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}[{q}_tail++]=$(({value}))"

    def deque_len(self, q: Target) -> str:
        return f"({q}_tail - {q}_head)"

    def str_new(self, s: Target) -> Lines:
        return f"local {s}="

    def str_add_char(self, s: Target, code: Value) -> Lines:
        octal = self.fresh("octal")
        letter = self.fresh("letter")
        return [
            f"local {octal} {letter}",
            f"printf -v {octal} '\\\\%03o' $(({code}))",
            f"printf -v {letter} '%b' \"${octal}\"",
            f"{s}+=${letter}",
        ]

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s}+=$(({value}))"

    def str_each(self, node: ir.Each, s: Target) -> None:
        # A substring is looked for from the beginning; reading on is linear.
        letter = self.fresh("letter")
        self.put(f"local {letter} {self.v(node.var)}", f"while IFS= read -r -n1 {letter}; do")
        with self.indented():
            self.put(f"[[ -n ${letter} ]] || continue", f"printf -v {self.v(node.var)} '%d' \"'${letter}\"")
            self.body(node.body)
        self.put(f'done <<< "${s}"')

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}+=({prefix}{self.name_of(value)})"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return [
            f"local {target}",
            f"printf -v {target} '%s{separator}' \"${{{source}[@]}}\"",
            f"{target}=${{{target}%?}}",
        ]


EMITTER = Bash
