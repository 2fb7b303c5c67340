"""C++17: vectors, ordered and unordered containers, strings, shared or raw nodes."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled

_ELEM = {"u8": "unsigned char", "i32": "int", "i64": "long long", "f64": "double"}


class Cpp(Braces):
    language = "cpp"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion"})
    forms = {"mat": ("nested", "flat"), "map": ("unordered", "ordered"), "smap": ("unordered", "ordered")}
    forms |= {"set": ("unordered", "ordered"), "list": ("shared", "raw"), "tree": ("shared", "raw")}
    max_depth = 40_000
    speed = 800_000
    start_ms = 2.0
    bytes_of = {"map": 64, "smap": 90, "set": 56, "deque": 9, "str": 2, "strs": 64, "vec": 16, "jag": 16, "row": 32}
    bytes_of |= {"list": 48, "tree": 64, "call": 128}
    case = "snake"
    cast_int = "(int)"
    cast_long = "(long long)"

    def text(self) -> str:
        functions, main = self.written()
        self.imports.add("<iostream>")
        std = ["using namespace std;"] if self.std == "" else []
        word = self.pick("const", "const int", "constexpr int")
        constants = [f"{word} {self.v(name)} = {value};" for name, value in self.program.constants]
        helpers = [text.split("\n") for text in self.snippets.values()]
        includes = [f"#include {each}" for each in sorted(self.imports)]
        head = [*self.title(), *includes]
        return assembled(head, std, constants, *helpers, functions, ["int main() {", *main, "    return 0;", "}"])

    @property
    def std(self) -> str:
        return self.pick("std", "std::", "")

    def kind(self, header: str, name: str) -> str:
        self.imports.add(f"<{header}>")
        return f"{self.std}{name}"

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return "int" if type.kind == "int" else "long long"
        elem = _ELEM.get(type.elem, "long long")
        vector = self.kind("vector", "vector") if type.kind in ("arr", "vec", "mat", "jag", "strs") else ""
        if type.kind in ("arr", "vec") or (type.kind == "mat" and type.form == "flat"):
            return f"{vector}<{elem}>"
        if type.kind in ("mat", "jag"):
            return f"{vector}<{vector}<{elem}>>"
        prefix = "unordered_" if type.form == "unordered" else ""
        if type.kind == "map":
            return f"{self.kind(prefix + 'map', prefix + 'map')}<long long, long long>"
        if type.kind == "smap":
            return f"{self.kind(prefix + 'map', prefix + 'map')}<{self.kind('string', 'string')}, long long>"
        if type.kind == "set":
            return f"{self.kind(prefix + 'set', prefix + 'set')}<long long>"
        if type.kind == "deque":
            return f"{self.kind('queue', 'queue')}<long long>"
        if type.kind == "str":
            return self.kind("string", "string")
        if type.kind == "strs":
            return f"{vector}<{self.kind('string', 'string')}>"
        return self.cell_type(type)

    def cell_type(self, type: ir.Type) -> str:
        name = "Cell" if type.kind == "list" else "Tree"
        # Destroying a long chain of shared cells recurses; lists are therefore raw.
        shared = type.kind == "tree" and type.form == "shared"
        link = f"{self.kind('memory', 'shared_ptr')}<{name}>" if shared else f"{name} *"
        gap = "" if link.endswith("*") else " "
        links = ("next",) if type.kind == "list" else ("left", "right")
        fields = "\n".join(f"    {link}{gap}{each};" for each in links)
        self.need(name, f"struct {name} {{\n    long long value;\n{fields}\n}};")
        return link

    def made(self, type: ir.Type, *values: str) -> str:
        name = "Cell" if type.kind == "list" else "Tree"
        self.cell_type(type)
        inside = f"{name}{{{', '.join(values)}}}"
        if type.kind == "tree" and type.form == "shared":
            return f"{self.std}make_shared<{name}>({inside})"
        return f"new {inside}"

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        text = self.type_text(type)
        return f"{text}{'' if text.endswith('*') else ' '}{name} = {value};"

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        text = self.type_text(type)
        if type.kind in ("int", "long") or text.endswith("*"):
            return f"{text}{'' if text.endswith('*') else ' '}{self.v(name)}"
        return f"{'' if changes else 'const '}{text} &{self.v(name)}"

    def head(self, function: ir.Function, parameters: str) -> str:
        text = self.type_text(self.formed(function.result_type))
        return f"{text}{'' if text.endswith('*') else ' '}{self.f(function.name)}({parameters})"

    def narrow(self, value: Value) -> Value:
        return Value(value, ir.INT, value.level) if self.pick("narrow", 1, 0) else super().narrow(value)

    def show(self, value: Value) -> None:
        end = self.pick("end", f" << {self.std}endl", ' << "\\n"')
        self.put(f"{self.std}cout << {value.atom}{end};")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        self.imports.add("<algorithm>")
        return f"{self.std}{op}<long long>({left}, {right})"

    def binary(self, op: str, left: Value, right: Value, type: ir.Type) -> Value:
        made = super().binary(op, left, right, type)
        return Value(made, ir.LONG, made.level) if op in ("min", "max") else made

    def free(self, a: Target) -> str | list[str] | None:
        if a.type.kind in ("arr", "vec", "strs"):
            return (
                f"{a}.clear();\n{a}.shrink_to_fit();"
                if self.pick("free", 1, 0)
                else f"{self.type_text(a.type)}().swap({a});"
            )
        return None

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        return f"{self.type_text(a.type)} {a}({size}{'' if fill == '0' and self.pick('zero', 1, 0) else f', {fill}'});"

    def load(self, a: Target, text: str) -> str:
        return f"(long long){text}" if a.elem == "f64" else text

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{i}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {value};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"{self.pick('auto', 'auto', self.type_text(a.type))} {a} = {source};"

    vec_copy = arr_copy

    def arr_sort(self, a: Target) -> Lines:
        self.imports.add("<algorithm>")
        return f"{self.std}sort({a}.begin(), {a}.end());"

    vec_sort = arr_sort

    def arr_each(self, node: ir.Each, a: Target) -> None:
        self.braced(f"for ({self.pick('each', 'long long', 'long long')} {self.v(node.var)} : {a})", node.body)

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return f"{self.type_text(a.type)} {a};"

    map_new = smap_new = set_new = deque_new = str_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}.push_back({value});"

    def vec_pop(self, a: Target) -> None:
        raise NotImplementedError("a pop stands alone on the right of a declaration")

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op in ("vec.pop", "deque.pop"):
            source = self.target(node.value.target)
            top, drop = ("back()", "pop_back()") if node.value.op == "vec.pop" else ("front()", "pop()")
            top = self.load(source, f"{source}.{top}")
            self.put(f"{self.type_text(node.type)} {self.v(node.name)} = {top};", f"{source}.{drop};")
        else:
            super().statement(node)

    def vec_len(self, a: Target) -> str:
        return f"(int){a}.size()"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        if a.form == "flat":
            return f"{self.type_text(a.type)} {a}((size_t){rows.atom} * {columns.atom}, {fill});"
        row = f"{self.kind('vector', 'vector')}<{_ELEM[a.elem]}>"
        return f"{self.type_text(a.type)} {a}({rows}, {row}({columns}, {fill}));"

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {value};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"{self.type_text(a.type)} {a}({rows});"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}].push_back({value});"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"(int){a}[{i}].size()"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{i}][{j}]")

    # Maps, sets, queues, texts

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({m}.count({key}) ? {m}.at({key}) : {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return self.pick("has", f"{m}.count({key})", f"({m}.find({key}) != {m}.end())")

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value};"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"{m}[{key}]++;" if delta == "1" and self.pick("++", 0, 1) else f"{m}[{key}] += {delta};"

    def map_each(self, node: ir.Each, m: Target) -> None:
        pair = self.fresh("pair")
        if self.pick("binding", 0, 1):
            self.braced(f"for (const auto &[{pair}, {self.v(node.var)}] : {m})", node.body)
        else:
            self.put(f"for (const auto &{pair} : {m}) {{")
            with self.indented():
                self.put(f"long long {self.v(node.var)} = {pair}.second;")
                self.body(node.body)
            self.put("}")

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}" + {self.std}to_string({value})'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"{m}[{self.key(prefix, value)}] += {delta};"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        key = self.key(prefix, value)
        return f"({m}.count({key}) ? {m}.at({key}) : {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.insert({value});"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.erase({value});"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.push({value});"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return self.pick("char", f"{s} += (char){code.atom};", f"{s}.push_back((char){code.atom});")

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s} += {self.std}to_string({value});"

    def str_each(self, node: ir.Each, s: Target) -> None:
        self.braced(f"for (long long {self.v(node.var)} : {s})", node.body)

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}.push_back({self.key(prefix, value)});"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        at = self.fresh("w")
        return [
            f"{self.type_text(target.type)} {target};",
            f"for (const auto &{at} : {source}) {{",
            f"    if (!{target}.empty()) {target} += '{separator}';",
            f"    {target} += {at};",
            "}",
        ]

    # Cells

    def nil(self, kind: str) -> str:
        return "nullptr"

    def cons(self, head: Value, tail: Value) -> str:
        return self.made(self.formed(ir.LIST), head, tail)

    def node(self, left: Value, value: Value, right: Value) -> str:
        return self.made(self.formed(ir.TREE), value, left, right)

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} != nullptr", level=LOOSE)

    tree_some = list_some

    def list_head(self, c: Value) -> str:
        return f"{c}->value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}->next"

    def tree_left(self, c: Value) -> str:
        return f"{c}->left"

    def tree_right(self, c: Value) -> str:
        return f"{c}->right"


EMITTER = Cpp
