"""JavaScript: arrays or typed arrays, Map or object, Set, queues with a moving head, generators."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.braces import Braces, assembled

_TYPED = {"u8": "Uint8Array", "i32": "Int32Array", "i64": "Float64Array", "f64": "Float64Array"}


class JavaScript(Braces):
    language = "javascript"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"arr": ("array", "typed"), "mat": ("nested", "typed"), "map": ("Map", "Map", "object")}
    forms |= {"list": ("object", "class"), "tree": ("object", "class")}
    max_depth = 6_000
    speed = 130_000
    start_ms = 36.0
    # The collector lets a young heap grow to several times what lives in it.
    bytes_of = {"arr.array": 18, "arr.typed": 0, "vec": 36, "mat.nested": 18, "mat.typed": 0, "jag": 40, "map": 120}
    bytes_of |= {
        "smap": 180,
        "set": 90,
        "deque": 30,
        "str": 30,
        "strs": 90,
        "list": 64,
        "tree": 80,
        "call": 200,
        "row": 60,
    }
    whole_division = False
    both = "&&"
    either = "||"
    comparisons = {**Braces.comparisons, "==": "===", "!=": "!=="}

    @property
    def loop_word(self) -> str:
        return "let "

    def text(self) -> str:
        functions, main = self.written()
        constants = [f"const {self.v(name)}{self.colon('number')} = {value};" for name, value in self.program.constants]
        helpers = [text.split("\n") for text in self.snippets.values()]
        if self.pick("main", 0, 1):
            body = [f"function main(){self.colon('void')} {{", *main, "}", "", "main();"]
        else:
            body = [line[(self.style.indent or self.indent) :] for line in main]
        return assembled([*self.title()], self.ambient(), constants, *helpers, functions, body)

    indent = 2

    def colon(self, type: str) -> str:
        """Returns a type annotation, where the language has them."""
        return ""

    def ambient(self) -> list[str]:
        return []

    def type_text(self, type: ir.Type) -> str:
        return ""

    def declare(self, type: ir.Type, name: str, value: str) -> str:
        return f"let {name}{self.colon(self.type_text(type))} = {value};"

    def new(self, a: Target, value: str) -> str:
        word = "let" if self.pick(f"free {a}", 0, 1) and a.type.kind in ("arr", "strs", "vec") else "const"
        return f"{word} {a}{self.colon(self.type_text(a.type))} = {value};"

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        word = "let" if name in self.varying else self.pick("const", "const", "const", "let")
        noted = self.colon(self.type_text(type)) if type.kind in ("list", "tree") or self.pick("note", 0, 1) else ""
        self.put(f"{word} {self.v(name)}{noted} = {value};")

    def wide(self, value: Value) -> Value:
        return Value(value, ir.LONG, value.level)

    def narrow(self, value: Value) -> Value:
        return Value(value, ir.INT, value.level)

    def parameter(self, name: str, type: ir.Type, changes: bool) -> str:
        return f"{self.v(name)}{self.colon(self.type_text(type))}"

    def head(self, function: ir.Function, parameters: str) -> str:
        result = self.colon(self.type_text(self.formed(function.result_type)))
        return f"function {self.f(function.name)}({parameters}){result}"

    def show(self, value: Value) -> None:
        self.put(f"console.log({self.pick('text', 'String({})', '{}').format(value)});")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"Math.{op}({left}, {right})"

    def divide(self, left: Value, right: Value, type: ir.Type) -> Value:
        return Value(f"Math.floor({left.atom} / {right.atom})", type)

    def free(self, a: Target) -> str | list[str] | None:
        if a.type.kind in ("arr", "strs", "vec") and self.pick(f"free {a}", 0, 1):
            return f"{a} = {self.empty(a)};"
        return f"{a}.length = 0;" if a.type.kind in ("vec", "strs") or a.form == "array" else None

    def empty(self, a: Target) -> str:
        return f"new {_TYPED[a.elem]}(0)" if a.form == "typed" else "[]"

    # Arrays

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        if a.form == "typed":
            made = f"new {_TYPED[a.elem]}({size})" + ("" if fill == "0" else f".fill({fill})")
        else:
            filled = f"new Array({size}).fill({fill})"
            made = self.pick("fill", filled, filled, f"Array.from({{ length: {size} }}, () => {fill})")
        return self.new(a, made)

    def arr_get(self, a: Target, i: Value) -> str:
        return f"{a}[{i}]"

    vec_get = arr_get

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] = {value};"

    vec_set = arr_set

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return self.new(a, f"{source}.slice()" if a.form == "typed" or self.pick("copy", 0, 1) else f"[...{source}]")

    def arr_sort(self, a: Target) -> Lines:
        return f"{a}.sort();" if a.form == "typed" else f"{a}.sort((a, b) => a - b);"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        self.braced(f"for (const {self.v(node.var)} of {a})", node.body)

    vec_each = arr_each

    def vec_new(self, a: Target) -> Lines:
        return self.new(a, "[]")

    strs_new = vec_new

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"{a}.push({value});"

    def vec_pop(self, a: Target) -> Lines:
        return f"{a}.pop()"

    def vec_len(self, a: Target) -> str:
        return f"{a}.length"

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        if a.form == "typed":
            made = f"new {_TYPED[a.elem]}({rows.atom} * {columns.atom})" + ("" if fill == "0" else f".fill({fill})")
            return self.new(a, made)
        row = f"new Array({columns}).fill({fill})"
        if a.elem == "u8" and self.pick("row", 0, 1):
            row = f"new Uint8Array({columns}).fill({fill})"
            self.types[a.name] = ir.Type("mat", "u8", "rows")
            a.type = self.types[a.name]
        return self.new(a, f"Array.from({{ length: {rows} }}, () => {row})")

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "typed" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.cell(a, i, j)

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} = {value};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return self.new(a, f"Array.from({{ length: {rows} }}, () => [])")

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}].push({value});"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}[{i}].length"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i}][{j}]"

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return self.new(m, "{}" if m.form == "object" else "new Map()")

    def smap_new(self, m: Target) -> Lines:
        return self.new(m, "new Map()")

    def set_new(self, s: Target) -> Lines:
        return self.new(s, "new Set()")

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({m}[{key}] ?? {default})" if m.form == "object" else f"({m}.get({key}) ?? {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return Value(f"{key.atom} in {m}", level=LOOSE) if m.form == "object" else f"{m}.has({key})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}[{key}] = {value};" if m.form == "object" else f"{m}.set({key}, {value});"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        if m.form == "object":
            return f"{m}[{key}] = ({m}[{key}] || 0) + {delta};"
        return f"{m}.set({key}, ({m}.get({key}) {self.pick('or', '||', '??')} 0) + {delta});"

    def map_len(self, m: Target) -> str:
        return f"Object.keys({m}).length" if m.form == "object" else f"{m}.size"

    smap_len = set_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> None:
        values = f"Object.values({m})" if m.form == "object" else f"{m}.values()"
        self.braced(f"for (const {self.v(node.var)} of {values})", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return self.pick("key", f'"{prefix}" + {value.atom}', f"`{prefix}${{{value}}}`")

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        return f"{m}.set({self.key(prefix, value)}, ({m}.get({self.key(prefix, value)}) || 0) + {delta});"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"({m}.get({self.key(prefix, value)}) ?? {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.add({value});"

    def set_has(self, s: Target, value: Value) -> str:
        return f"{s}.has({value})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.delete({value});"

    def queue(self) -> None:
        self.need(
            "queue",
            f"""
class Queue {{
  {self.field("items", "number[]")}
  {self.field("head", "number")}
  constructor() {{
    this.items = [];
    this.head = 0;
  }}
  push(x{self.colon("number")}){self.colon("void")} {{
    this.items.push(x);
  }}
  pop(){self.colon("number")} {{
    const x = this.items[this.head++];
    if (this.head > 1000 && this.head * 2 > this.items.length) {{
      this.items = this.items.slice(this.head);
      this.head = 0;
    }}
    return x;
  }}
  get size(){self.colon("number")} {{
    return this.items.length - this.head;
  }}
}}""".replace("  \n", ""),
        )

    def field(self, name: str, type: str) -> str:
        return ""

    def deque_new(self, q: Target) -> Lines:
        self.queue()
        return self.new(q, "new Queue()")

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.push({value});"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}.pop()"

    def deque_len(self, q: Target) -> str:
        return f"{q}.size"

    def str_new(self, s: Target) -> Lines:
        return f'let {s}{self.colon("string")} = "";'

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} += String.fromCharCode({code});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return self.pick("digits", f"{s} += {value.atom};", f"{s} += String({value});")

    def str_each(self, node: ir.Each, s: Target) -> None:
        at = self.fresh("q")
        each = self.v(node.var)
        self.put(f"for (let {at} = 0; {at} < {s}.length; {at}++) {{")
        with self.indented():
            self.put(f"const {each} = {s}.charCodeAt({at});")
            self.body(node.body)
        self.put("}")

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s}.push({self.key(prefix, value)});"

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        return f'const {target}{self.colon("string")} = {source}.join("{separator}");'

    # Cells

    def nil(self, kind: str) -> str:
        return "null"

    def cell_type(self, kind: str) -> str:
        name = "Cell" if kind == "list" else "Tree"
        fields = ("value", "next") if kind == "list" else ("left", "value", "right")
        if self.formed(ir.Type(kind)).form == "class":
            types = {each: "number" if each == "value" else f"{name} | null" for each in fields}
            lines = [f"class {name} {{", *(line for each in fields if (line := self.field_line(each, types[each])))]
            given = ", ".join(each + self.colon(types[each]) for each in fields)
            lines += [f"  constructor({given}) {{", *(f"    this.{each} = {each};" for each in fields), "  }", "}"]
            self.need(name, "\n".join(lines))
        return name

    def field_line(self, name: str, type: str) -> str:
        field = self.field(name, type)
        return f"  {field}" if field else ""

    def made(self, kind: str, **fields: str) -> str:
        name = self.cell_type(kind)
        if self.formed(ir.Type(kind)).form == "class":
            return f"new {name}({', '.join(fields.values())})"
        return f"{{ {', '.join(f'{key}: {value}' for key, value in fields.items())} }}"

    def cons(self, head: Value, tail: Value) -> str:
        return self.made("list", value=head, next=tail)

    def node(self, left: Value, value: Value, right: Value) -> str:
        return self.made("tree", left=left, value=value, right=right)

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} !== null", level=LOOSE)

    tree_some = list_some

    # The type checker of TypeScript does not see that a cell is there.
    sure = ""

    def list_head(self, c: Value) -> str:
        return f"{c}{self.sure}.value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}{self.sure}.next"

    def tree_left(self, c: Value) -> str:
        return f"{c}{self.sure}.left"

    def tree_right(self, c: Value) -> str:
        return f"{c}{self.sure}.right"

    # Folds

    def fold_lazy(self, node: ir.Fold) -> None:
        var = self.v(node.var)
        name = self.v(node.name)
        stream = self.fresh("stream")
        made = self.colon("Generator<number>")
        self.put(f"function* {stream}(){made} {{")
        with self.indented():
            self.put(f"for (let {var} = {self.x(node.low)}; {var} < {self.x(node.high)}; {var}++) {{")
            with self.indented():
                keep = "" if node.keep is None else f"if ({self.x(node.keep)}) "
                self.put(f"{keep}yield {self.x(node.value)};")
            self.put("}")
        self.put("}", f"let {name} = 0;", f"for (const part of {stream}()) {name} += part;")

    def fold_list(self, node: ir.Fold) -> None:
        if self.pick("fold", 0, 1):
            super().fold_list(node)
            return
        var = self.v(node.var)
        name = self.v(node.name)
        keep = "" if node.keep is None else f".filter(({var}) => {self.x(node.keep)})"
        span = f"Array.from({{ length: {self.x(node.high)} }}, (_, {var}) => {var})"
        value = f".map(({var}) => {self.x(node.value)})"
        self.put(f"const {name} = {span}{keep}{value}.reduce((a, b) => a + b, 0);")


EMITTER = JavaScript
