"""Rust 2021: vectors, HashMap or BTreeMap, VecDeque, String, cells behind Rc, iterators."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import TIMES, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled
from code_rlm_data.generator.ir import INT, LONG

_ELEM = {"u8": "u8", "i32": "i32", "i64": "i64", "f64": "f64"}


class Rust(Braces):
    language = "rust"
    # Dropping a long chain of cells recurses, so there are no lists.
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"} - {"list"})
    forms = {"mat": ("nested", "flat"), "map": ("HashMap", "BTreeMap"), "set": ("HashSet", "BTreeSet")}
    max_depth = 40_000
    speed = 1_300_000
    start_ms = 2.0
    bytes_of = {"vec": 16, "jag": 16, "map": 40, "smap": 90, "set": 20, "deque": 16, "str": 2, "strs": 60}
    bytes_of |= {"tree": 64, "call": 128, "row": 40}
    case = "snake"
    increment = False

    def text(self) -> str:
        functions, main = self.written()
        constants = [f"const {self.v(name)}: i64 = {value};" for name, value in self.program.constants]
        imports = [f"use {each};" for each in sorted(self.imports)]
        helpers = [text.split("\n") for text in self.snippets.values()]
        return assembled([*self.title()], imports, constants, *helpers, functions, ["fn main() {", *main, "}"])

    # Every number is an i64; elements are cast where they are stored and read.
    def wide(self, value: Value) -> Value:
        return Value(value, LONG, value.level)

    def narrow(self, value: Value) -> Value:
        return Value(value, INT, value.level)

    def collection(self, name: str) -> str:
        self.imports.add(f"std::collections::{name}")
        return name

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return "i64"
        elem = _ELEM.get(type.elem, "i64")
        if type.kind in ("arr", "vec") or (type.kind == "mat" and type.form == "flat"):
            return f"Vec<{elem}>"
        if type.kind in ("mat", "jag"):
            return f"Vec<Vec<{elem}>>"
        if type.kind == "map":
            return f"{self.collection(type.form)}<i64, i64>"
        if type.kind == "smap":
            return f"{self.collection('HashMap')}<String, i64>"
        if type.kind == "set":
            return f"{self.collection(type.form)}<i64>"
        if type.kind == "deque":
            return f"{self.collection('VecDeque')}<i64>"
        if type.kind in ("str", "strs"):
            return "String" if type.kind == "str" else "Vec<String>"
        self.imports.add("std::rc::Rc")
        self.need(
            "Tree",
            "struct Tree {\n    left: Link,\n    value: i64,\n    right: Link,\n}\n\ntype Link = Option<Rc<Tree>>;",
        )
        return "Link"

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        return f"let mut {name}: {self.type_text(type)} = {value};"

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        word = "let mut" if name in self.varying else "let"
        noted = (
            f": {self.type_text(type)}" if type.kind == "tree" or word == "let mut" or value.upper() == value else ""
        )
        value = self.owned(value) if type.kind == "tree" else value
        self.put(f"{word} {self.v(name)}{noted} = {value};")

    def owned(self, value: Value) -> str:
        """Returns a tree as a value of its own: names and parts are counted once more."""
        return value if value.startswith(("Some(", "None")) or value.endswith(")") else f"{value}.clone()"

    def assign(self, node: ir.Assign) -> None:
        if self.types[node.name].kind == "tree":
            self.put(f"{self.v(node.name)} = {self.owned(self.x(node.value))};")
        else:
            super().assign(node)

    def argument(self, value: Value) -> str:
        return self.owned(value) if value.type.kind == "tree" else value

    def reference(self, target: Target, changes: bool) -> str:
        is_parameter = any(target.name == name for name, _ in self.function.params)
        return str(target) if is_parameter else f"&{'mut ' if changes else ''}{target}"

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        if type.kind in ("int", "long", "tree"):
            word = "mut " if name in self.varying else ""
            return f"{word}{self.v(name)}: {self.type_text(type)}"
        return f"{self.v(name)}: &{'mut ' if changes else ''}{self.type_text(type)}"

    def head(self, function: ir.Function, parameters: str) -> str:
        return f"fn {self.f(function.name)}({parameters}) -> {self.type_text(function.result_type)}"

    def finish(self, value: str) -> None:
        self.put(self.pick("return", f"{value}", f"return {value};"))

    def show(self, value: Value) -> None:
        self.put(f'println!("{{}}", {value});')

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"({left} as i64).{op}({right})" if left.isdigit() else f"{left.atom}.{op}({right})"

    def count(self, node: ir.For) -> None:
        low = self.x(node.low)
        high = self.x(node.high)
        step = self.x(node.step)
        span = self.span(low, high)
        if node.down:
            span = f"({span}).rev()"
        elif step != "1":
            span = f"({span}).step_by({self.index(step)})"
        self.braced(f"for {self.v(node.var)} in {span}", node.body)

    @staticmethod
    def span(low: Value, high: Value) -> str:
        """Returns a range; one of literals alone would count in i32."""
        typed = not any(letter.isalpha() for letter in low + high)
        return f"{low.atom}{'i64' if typed and low.isdigit() else ''}..{high.atom}"

    def repeat(self, node: ir.While) -> None:
        self.braced(f"while {self.x(node.condition)}", node.body)

    def condition(self, node: ir.If) -> str:
        return f"if {self.x(node.condition)}"

    def free(self, a: Target) -> str | list[str] | None:
        return f"drop({a});" if a.type.kind in ("arr", "strs", "mat") else None

    def index(self, i: Value) -> str:
        return i if i.isdigit() else f"{i.atom} as usize"

    def store(self, a: Target, value: Value) -> str:
        if a.elem == "f64":
            return f"{value}.0" if value.isdigit() else f"{value.atom} as f64"
        return value if a.elem == "i64" or value.isdigit() else f"{value.atom} as {_ELEM[a.elem]}"

    def load(self, a: Target, text: str) -> Value:
        return Value(text) if a.elem == "i64" else Value(f"({text} as i64)")

    def new(self, a: Target, made: str) -> str:
        changed = a.name in self.mutated[self.function.name] or a.type.kind not in ("arr", "mat")
        return f"let {'mut ' if changed else ''}{a} = {made};"

    # Arrays

    def filled(self, a: Target, fill: str) -> str:
        return f"{fill}.0" if a.elem == "f64" else f"{fill}{_ELEM[a.elem]}"

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        return self.new(a, f"vec![{self.filled(a, fill)}; {self.index(size)}]")

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{self.index(i)}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{self.index(i)}] = {self.store(a, value)};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return self.new(a, self.pick("copy", f"{source}.clone()", f"{source}.to_vec()"))

    def arr_sort(self, a: Target) -> Lines:
        if a.elem == "f64":
            return f"{a}.sort_by(|a, b| a.partial_cmp(b).unwrap());"
        return self.pick("sort", f"{a}.sort();", f"{a}.sort_unstable();")

    def arr_each(self, node: ir.Each, a: Target) -> None:
        item = self.fresh("it")
        self.put(f"for {item} in {a}.iter() {{" if self.pick("iter", 0, 1) else f"for {item} in &{a} {{")
        with self.indented():
            self.put(f"let {self.v(node.var)} = *{item} as i64;")
            self.body(node.body)
        self.put("}")

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return f"let mut {a}: {self.type_text(a.type)} = {self.type_text(a.type).split('<')[0]}::new();"

    map_new = smap_new = set_new = deque_new = str_new = strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}.push({self.store(a, value)});"

    def vec_pop(self, a: Target) -> Lines:
        return self.load(a, f"{a}.pop().unwrap()")

    def vec_len(self, a: Target) -> str:
        return f"({a}.len() as i64)"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        if a.form == "flat":
            return self.new(a, f"vec![{self.filled(a, fill)}; ({rows.atom} * {columns.atom}) as usize]")
        return self.new(a, f"vec![vec![{self.filled(a, fill)}; {self.index(columns)}]; {self.index(rows)}]")

    def cell(self, a: Target, i: Value, j: Value) -> str:
        if a.form == "flat":
            return f"{a}[({i.atom} * {self.sizes[a.name].atom} + {j}) as usize]"
        return f"{a}[{self.index(i)}][{self.index(j)}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"let mut {a}: {self.type_text(a.type)} = vec![Vec::new(); {self.index(rows)}];"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        at = self.fresh("x")
        return [f"let {at} = {self.store(a, value)};", f"{a}[{self.index(i)}].push({at});"]

    def jag_len(self, a: Target, i: Value) -> str:
        return f"({a}[{self.index(i)}].len() as i64)"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{self.index(i)}][{self.index(j)}]")

    # Maps, sets, queues, texts

    def borrowed(self, value: Value) -> str:
        return f"&{value.atom}"

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return self.pick(
            "get",
            f"*{m}.get({self.borrowed(key)}).unwrap_or(&{default})",
            f"{m}.get({self.borrowed(key)}).copied().unwrap_or({default})",
        )

    def ask(self, node: ir.Ask) -> Value:
        made = super().ask(node)
        return Value(made, made.type, TIMES) if made.startswith("*") else made

    def map_has(self, m: Target, key: Value) -> str:
        return f"{m}.contains_key({self.borrowed(key)})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}.insert({key}, {value});"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"*{m}.entry({key}).or_insert(0) += {delta};"

    def map_each(self, node: ir.Each, m: Target) -> None:
        item = self.fresh("it")
        self.put(f"for {item} in {m}.values() {{")
        with self.indented():
            self.put(f"let {self.v(node.var)} = *{item};")
            self.body(node.body)
        self.put("}")

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'format!("{prefix}{{}}", {value})'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"*{m}.entry({self.key(prefix, value)}).or_insert(0) += {delta};"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{m}.get(&{self.key(prefix, value)}).copied().unwrap_or({default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.insert({value});"

    def set_has(self, s: Target, value: Value) -> str:
        return f"{s}.contains({self.borrowed(value)})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.remove({self.borrowed(value)});"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.push_back({value});"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}.pop_front().unwrap()"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s}.push({code.atom} as u8 as char);"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s}.push_str(&{value.atom}.to_string());"

    def str_each(self, node: ir.Each, s: Target) -> None:
        item = self.fresh("c")
        self.put(f"for {item} in {s}.{self.pick('chars', 'bytes()', 'chars()')} {{")
        with self.indented():
            cast = "as i64" if self.pick("chars", "bytes()", "chars()") == "bytes()" else "as u32 as i64"
            self.put(f"let {self.v(node.var)} = {item} {cast};")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}.push({self.key(prefix, value)});"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'let {target}: String = {source}.join("{separator}");'

    # Cells

    def nil(self, kind: str) -> str:
        return "None"

    def node(self, left: Value, value: Value, right: Value) -> str:
        self.type_text(ir.TREE)
        return f"Some(Rc::new(Tree {{ left: {self.owned(left)}, value: {value}, right: {self.owned(right)} }}))"

    def tree_some(self, c: Value) -> str:
        return f"{c}.is_some()"

    def part(self, c: object, name: str) -> str:
        return f"{c}.as_ref().unwrap().{name}"

    def tree_left(self, c: Value) -> str:
        return self.part(c, "left")

    def tree_value(self, c: Value) -> str:
        return self.part(c, "value")

    def tree_right(self, c: Value) -> str:
        return self.part(c, "right")

    # Folds

    def chain(self, node: ir.Fold) -> str:
        var = self.v(node.var)
        keep = "" if node.keep is None else f".filter(|&{var}| {self.x(node.keep)})"
        return f"({self.span(self.x(node.low), self.x(node.high))}){keep}.map(|{var}| {self.x(node.value)})"

    def fold_lazy(self, node: ir.Fold) -> None:
        self.put(f"let {self.v(node.name)}: i64 = {self.chain(node)}.sum();")

    def fold_list(self, node: ir.Fold) -> None:
        if self.pick("fold", 0, 1):
            super().fold_list(node)
            return
        kept = self.fresh("kept")
        self.put(f"let {kept}: Vec<i64> = {self.chain(node)}.collect();")
        self.put(f"let {self.v(node.name)}: i64 = {kept}.iter().sum();")


EMITTER = Rust
