"""C# as mono compiles it: arrays, List, Dictionary, SortedDictionary, HashSet, Queue, StringBuilder, LINQ."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled
from code_rlm_data.generator.ir import INT, LONG

_ELEM = {"u8": "byte", "i32": "int", "i64": "long", "f64": "double"}


class CSharp(Braces):
    language = "csharp"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"map": ("Dictionary", "SortedDictionary"), "mat": ("nested", "flat"), "arr": ("array", "array", "list")}
    max_depth = 15_000
    speed = 450_000
    start_ms = 17.0
    bytes_of = {"vec": 16, "jag": 18, "map": 90, "smap": 120, "set": 60, "deque": 18, "str": 5, "strs": 64}
    bytes_of |= {"list": 32, "tree": 40, "call": 120, "row": 64}

    def text(self) -> str:
        functions, main = self.written(1)
        word = self.pick("constants", "const int", "static readonly int")
        constants = [f"    {word} {self.v(name)} = {value};" for name, value in self.program.constants]
        imports = [f"using {each};" for each in sorted({"System", *self.imports})]
        helpers = ["    " + line if line else "" for text in self.snippets.values() for line in text.split("\n")]
        opening = "    static void Main()" if self.pick("args", 1, 0) else "    public static void Main(string[] args)"
        inside = assembled(constants, helpers, functions, [opening + " {", *main, "    }"])
        return assembled([*self.title()], imports, ["class Program {", inside.rstrip("\n"), "}"])

    case = "camel"
    function_case = "pascal"
    constant_case = "pascal"

    def wide(self, value: Value) -> Value:
        return Value(f"(long){value.atom}", LONG, 2) if value.type == INT else value

    def narrow(self, value: Value) -> Value:
        return Value(f"(int){value.atom}", INT)

    def generic(self, name: str, inner: str) -> str:
        self.imports.add("System.Collections.Generic")
        return f"{name}<{inner}>"

    def type_text(self, type: ir.Type) -> str:
        if type.kind in ("int", "long"):
            return type.kind
        elem = _ELEM.get(type.elem, "long")
        if type.kind == "arr" and type.form == "array":
            return f"{elem}[]"
        if type.kind == "mat":
            return f"{elem}[][]" if type.form == "nested" else f"{elem}[,]"
        if type.kind in ("vec", "arr"):
            return self.generic("List", elem)
        if type.kind == "jag":
            return f"{self.generic('List', elem)}[]"
        if type.kind == "map":
            return self.generic(type.form, "long, long")
        if type.kind == "smap":
            return self.generic("Dictionary", "string, long")
        if type.kind == "set":
            return self.generic("HashSet", "long")
        if type.kind == "deque":
            return self.generic("Queue", "long")
        if type.kind == "strs":
            return self.generic("List", "string")
        if type.kind == "str":
            self.imports.add("System.Text")
            return "StringBuilder"
        name, fields = (
            ("Cell", "long value, Cell next") if type.kind == "list" else ("Tree", "Tree left, long value, Tree right")
        )
        parts = [each.split() for each in fields.split(", ")]
        lines = [f"class {name} {{", *(f"    public readonly {kind} {each.capitalize()};" for kind, each in parts), ""]
        lines += [f"    public {name}({fields}) {{", *(f"        {each.capitalize()} = {each};" for _, each in parts)]
        self.need(name, "\n".join([*lines, "    }", "}"]))
        return name

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        text = self.type_text(type)
        short = type.kind not in ("int", "long", "list", "tree") and self.pick("var", 1, 0)
        return f"{'var' if short else text} {name} = {value};"

    def head(self, function: ir.Function, parameters: str) -> str:
        return f"static {self.type_text(function.result_type)} {self.f(function.name)}({parameters})"

    def show(self, value: Value) -> None:
        self.put(f"Console.WriteLine({value});")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"Math.{op.capitalize()}({left}, {right})"

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} = null;" if a.type.kind in ("arr", "vec", "strs") else None

    def store(self, a: Target, value: Value) -> str:
        if a.elem == "u8":
            return value if value.isdigit() else f"(byte){value.atom}"
        if a.elem == "i32" and value.type == LONG:
            return self.narrow(value)
        return value

    def load(self, a: Target, text: str) -> Value:
        return Value(f"(long){text}", LONG, 2) if a.elem == "f64" else Value(text, LONG)

    def index(self, i: Value) -> str:
        return i if i.type == INT else self.narrow(i)

    # Arrays

    def made(self, a: Target, inside: str = "") -> str:
        return self.declare(a.type, a, f"new {self.type_text(a.type)}({inside})")

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        at = self.fresh("q")
        if a.form == "list":
            self.imports.add("System.Linq")
            fill = f"({_ELEM[a.elem]}){fill}"
            return self.declare(a.type, a, f"Enumerable.Repeat({fill}, {size}).ToList()")
        lines = [self.declare(a.type, a, f"new {_ELEM[a.elem]}[{size}]")]
        return lines if fill == "0" else [*lines, f"for (int {at} = 0; {at} < {size}; {at}++) {a}[{at}] = {fill};"]

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{self.index(i)}]")

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{self.index(i)}] = {self.store(a, value)};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        if a.form == "list":
            return self.declare(a.type, a, f"new {self.type_text(a.type)}({source})")
        return self.declare(a.type, a, f"({self.type_text(a.type)}){source}.Clone()")

    def arr_sort(self, a: Target) -> Lines:
        return f"{a}.Sort();" if a.form == "list" else f"Array.Sort({a});"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        if a.elem == "f64":
            item = self.fresh("d")
            self.put(f"foreach (double {item} in {a}) {{")
            with self.indented():
                self.put(f"long {self.v(node.var)} = (long){item};")
                self.body(node.body)
            self.put("}")
        else:
            self.braced(f"foreach (long {self.v(node.var)} in {a})", node.body)

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return self.made(a)

    map_new = smap_new = set_new = deque_new = strs_new = str_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}.Add({self.store(a, value)});"

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "vec.pop":
            stack = self.target(node.value.target)
            top = self.load(stack, f"{stack}[{stack}.Count - 1]")
            self.put(f"long {self.v(node.name)} = {top};", f"{stack}.RemoveAt({stack}.Count - 1);")
        else:
            super().statement(node)

    def vec_len(self, a: Target) -> str:
        return f"{a}.Count"

    map_len = smap_len = set_len = deque_len = vec_len

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        at = self.fresh("q")
        k = self.fresh("q")
        elem = _ELEM[a.elem]
        if a.form == "nested":
            lines = [self.declare(a.type, a, f"new {elem}[{rows}][]"), f"for (int {at} = 0; {at} < {rows}; {at}++) {{"]
            lines.append(f"    {a}[{at}] = new {elem}[{columns}];")
            if fill != "0":
                lines.append(f"    for (int {k} = 0; {k} < {columns}; {k}++) {a}[{at}][{k}] = {fill};")
            return [*lines, "}"]
        lines = [self.declare(a.type, a, f"new {elem}[{rows}, {columns}]")]
        if fill == "0":
            return lines
        loops = f"for (int {at} = 0; {at} < {rows}; {at}++) for (int {k} = 0; {k} < {columns}; {k}++) "
        return [*lines, f"{loops}{a}[{at}, {k}] = {fill};"]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        i = self.index(i)
        j = self.index(j)
        return f"{a}[{i}][{j}]" if a.form == "nested" else f"{a}[{i}, {j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {self.store(a, value)};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        at = self.fresh("q")
        row = self.type_text(a.type)[:-2]
        return [
            self.declare(a.type, a, f"new {row}[{rows}]"),
            f"for (int {at} = 0; {at} < {rows}; {at}++) {a}[{at}] = new {row}();",
        ]

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{self.index(i)}].Add({self.store(a, value)});"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}[{self.index(i)}].Count"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{self.index(i)}][{self.index(j)}]")

    # Maps, sets, queues, texts

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({m}.ContainsKey({key}) ? {m}[{key}] : {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"{m}.ContainsKey({key})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value};"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        found = self.fresh("found")
        get = [f"long {found};", f"{m}.TryGetValue({key}, out {found});", f"{m}[{key}] = {found} + {delta};"]
        test = [f"if ({m}.ContainsKey({key})) {m}[{key}] += {delta};", f"else {m}[{key}] = {delta};"]
        return self.pick("add", get, test)

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.braced(f"foreach (long {self.v(node.var)} in {m}.Values)", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'"{prefix}" + {value.atom}'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        word = self.fresh("word")
        return [f"string {word} = {self.key(prefix, value)};", *self.map_add(m, word, delta)]

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return self.map_get(m, self.key(prefix, value), default)

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.Add({value});"

    def set_has(self, s: Target, value: Value) -> str:
        return f"{s}.Contains({value})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.Remove({value});"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.Enqueue({value});"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}.Dequeue()"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s}.Append((char){code.atom});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"{s}.Append({value});"

    def str_each(self, node: ir.Each, s: Target) -> None:
        self.braced(f"foreach (long {self.v(node.var)} in {s}.ToString())", node.body)

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}.Add({self.key(prefix, value)});"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return self.declare(target.type, target, f'new StringBuilder(string.Join("{separator}", {source}))')

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

    def list_head(self, c: Value) -> str:
        return f"{c}.Value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}.Next"

    def tree_left(self, c: Value) -> str:
        return f"{c}.Left"

    def tree_right(self, c: Value) -> str:
        return f"{c}.Right"

    # Folds

    def query(self, node: ir.Fold) -> str:
        self.imports.add("System.Linq")
        var = self.v(node.var)
        low = self.x(node.low)
        high = self.x(node.high)
        keep = "" if node.keep is None else f".Where({var} => {self.x(node.keep)})"
        return f"Enumerable.Range({low}, {high}){keep}.Select({var} => (long)({self.x(node.value)}))"

    def fold_lazy(self, node: ir.Fold) -> None:
        self.put(f"long {self.v(node.name)} = {self.query(node)}.Sum();")

    def fold_list(self, node: ir.Fold) -> None:
        kept = self.fresh("kept")
        kind = self.pick("fold", "ToList", "ToArray", "loop")
        if kind == "loop":
            super().fold_list(node)
        else:
            self.put(f"var {kept} = {self.query(node)}.{kind}();", f"long {self.v(node.name)} = {kept}.Sum();")


EMITTER = CSharp
