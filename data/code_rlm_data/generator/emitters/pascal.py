"""Free Pascal: dynamic arrays, generic dictionaries and queues, strings, records behind pointers."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Emitter, Lines, Style, Target, Value
from code_rlm_data.generator.ir import INT, LONG, Type

_ELEM = {"u8": "Byte", "i32": "LongInt", "i64": "Int64", "f64": "Double"}
_NAME = {"u8": "Byte", "i32": "Int", "i64": "Big", "f64": "Real"}


class Pascal(Emitter):
    language = "pascal"
    supports = frozenset({*ir.CONTAINERS, "recursion"})
    forms = {"mat": ("nested", "flat")}
    max_depth = 40_000
    speed = 800_000
    start_ms = 2.0
    bytes_of = {"vec": 16, "jag": 18, "map": 70, "smap": 110, "set": 60, "deque": 20, "str": 2, "strs": 64}
    bytes_of |= {"list": 32, "tree": 40, "call": 96, "row": 32}
    case = "camel"
    function_case = "pascal"
    constant_case = "pascal"
    indent = 2
    operators = {**Emitter.operators, "/": "div", "%": "mod", "&": "and", "|": "or", "^": "xor"}
    comparisons = {**Emitter.comparisons, "==": "=", "!=": "<>"}
    both = "and"
    either = "or"
    semicolon = ";"

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            functions += ["", *self.routine(function)] if functions else self.routine(function)
        main = self.program.main
        self.enter(main)
        with self.captured() as body:
            self.depth = 1
            self.body(main.body)
            self.put(f"WriteLn({self.x(main.result)});")
            self.depth = 0
        variables = self.variables(main)
        constants = [f"  {self.v(name)} = {value};" for name, value in self.program.constants]
        uses = [f"uses {', '.join(sorted(self.imports))};"] if self.imports else []
        types = [line for text in self.declared_types.values() for line in text.split("\n")]
        helpers = [text.split("\n") for text in self.snippets.values()]
        title = [self.comment(self.program.note)] if self.style.comments else []
        parts = [
            [*title, "{$mode objfpc}{$H+}", "program Main;"],
            uses,
            ["const", *constants] if constants else [],
            ["type", *types] if types else [],
            *helpers,
            functions,
            ["var", *variables] if variables else [],
            ["begin", *body, "end."],
        ]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def __init__(self, program: ir.Program, style: Style) -> None:
        super().__init__(program, style)
        self.declared_types: dict[str, str] = {}
        self.hoisted: dict[str, Type] = {}

    def enter(self, function: ir.Function) -> None:
        super().enter(function)
        self.hoisted = {}

    def hoist(self, name: str, type: ir.Type) -> None:
        self.hoisted[name] = self.types[name] = type

    def counter(self) -> str:
        """Returns a loop variable of its own."""
        name = self.fresh("q")
        self.hoist(name, INT)
        return name

    def variables(self, function: ir.Function) -> list[str]:
        parameters = {name for name, _ in function.params}
        known = {**self.types, **self.hoisted}
        groups: dict[str, list[str]] = {}
        for name, type in known.items():
            if name not in parameters and self.v(name) not in groups.get(self.type_text(type), []):
                groups.setdefault(self.type_text(type), []).append(self.v(name))
        return [f"  {', '.join(names)}: {text};" for text, names in groups.items()]

    def routine(self, function: ir.Function) -> list[str]:
        self.enter(function)
        changed = self.mutated[function.name]
        with self.captured() as body:
            self.depth = 1
            self.body(function.body)
            self.put(f"Result := {self.x(function.result)};")
            self.depth = 0
        parameters = []
        for name, _ in function.params:
            word = "var " if name in changed or self.types[name].kind == "arr" else ""
            parameters.append(f"{word}{self.v(name)}: {self.type_text(self.types[name])}")
        given = f"({'; '.join(parameters)})" if parameters else ""
        lines = [f"function {self.f(function.name)}{given}: {self.type_text(function.result_type)};"]
        if function.note and self.style.comments:
            lines.insert(0, self.comment(function.note))
        variables = self.variables(function)
        return [*lines, *(["var", *variables] if variables else []), "begin", *body, "end;"]

    def apply(self, name: str, arguments: list[str]) -> str:
        return f"{self.f(name)}({', '.join(arguments)})" if arguments else self.f(name)

    def comment(self, text: str) -> str:
        return self.pick("comment", f"{{ {text} }}", f"// {text}")

    # Types

    def named(self, name: str, text: str) -> str:
        self.declared_types.setdefault(name, f"  {name} = {text};")
        return name

    def array_of(self, elem: str) -> str:
        return self.named(f"T{_NAME[elem]}Array", f"array of {_ELEM[elem]}")

    def special(self, name: str, generic: str) -> str:
        self.imports.add("Generics.Collections")
        return self.named(name, f"specialize {generic}")

    def type_text(self, type: Type) -> str:
        kind = type.kind
        if kind in ("int", "long"):
            return "LongInt" if kind == "int" else "Int64"
        if kind == "arr" or (kind == "mat" and type.form == "flat"):
            return self.array_of(type.elem)
        if kind == "mat":
            return self.named(f"T{_NAME[type.elem]}Matrix", f"array of {self.array_of(type.elem)}")
        if kind == "vec":
            return self.grow(type.elem)
        if kind == "jag":
            return self.named(f"T{_NAME[type.elem]}Rows", f"array of {self.grow(type.elem)}")
        if kind == "map":
            return self.special("TIntMap", "TDictionary<Int64, Int64>")
        if kind == "smap":
            return self.special("TWordMap", "TDictionary<string, Int64>")
        if kind == "set":
            return self.special("TIntSet", "TDictionary<Int64, Boolean>")
        if kind == "deque":
            return self.special("TIntQueue", "TQueue<Int64>")
        if kind == "str":
            return "AnsiString"
        if kind == "strs":
            return self.named("TWords", "record\n    data: array of AnsiString;\n    size: LongInt;\n  end")
        name, links = ("Cell", "next: PCell;") if kind == "list" else ("Tree", "left, right: PTree;")
        self.named(f"P{name}", f"^T{name}")
        self.named(f"T{name}", f"record\n    value: Int64;\n    {links}\n  end")
        return f"P{name}"

    def grow(self, elem: str) -> str:
        array = self.array_of(elem)
        name = f"T{_NAME[elem]}List"
        self.named(name, f"record\n    data: {array};\n    size: LongInt;\n  end")
        self.need(
            f"push {elem}",
            f"""
procedure Push(var list: {name}; x: {_ELEM[elem]}); overload;
begin
  if list.size = Length(list.data) then
    SetLength(list.data, list.size * 2 + 4);
  list.data[list.size] := x;
  Inc(list.size);
end;""",
        )
        return name

    # Statements

    def narrow(self, value: Value) -> Value:
        return Value(value, INT, value.level)

    def wide(self, value: Value) -> Value:
        return (
            Value(f"Int64({value})", LONG)
            if value.type == INT and not value.isdigit()
            else Value(value, LONG, value.level)
        )

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        self.put(f"{self.v(name)} := {value};")

    def assign(self, node: ir.Assign) -> None:
        value = self.x(node.value)
        name = self.v(node.name)
        if value == f"{name} + 1":
            self.put(f"Inc({name});")
        else:
            self.put(f"{name} := {value};")

    def joined(self, node: ir.Both | ir.Either) -> Value:
        word = self.both if isinstance(node, ir.Both) else self.either
        return Value(f"{self.x(node.left).atom} {word} {self.x(node.right).atom}", level=LOOSE)

    def block(self, head: str, statements: tuple, tail: str = "end;") -> None:
        self.put(f"{head} begin")
        with self.indented():
            self.body(statements)
        self.put(tail)

    def count(self, node: ir.For) -> None:
        var = self.v(node.var)
        low = self.x(node.low)
        last = self.x(ir.minus_one(node.high))
        if node.down:
            self.block(f"for {var} := {last} downto {low} do", node.body)
        elif node.step == ir.Int(1):
            self.block(f"for {var} := {low} to {last} do", node.body)
        else:
            self.put(f"{var} := {low};", f"while {var} < {self.x(node.high)} do begin")
            with self.indented():
                self.body(node.body)
                self.put(f"Inc({var}, {self.x(node.step)});")
            self.put("end;")

    def repeat(self, node: ir.While) -> None:
        self.block(f"while {self.x(node.condition)} do", node.body)

    def branch(self, node: ir.If, lead: str = "") -> None:
        self.put(f"{lead}if {self.x(node.condition)} then begin")
        with self.indented():
            self.body(node.then)
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ir.If):
            self.branch(node.orelse[0], "end else ")
        elif node.orelse:
            self.put("end else begin")
            with self.indented():
                self.body(node.orelse)
            self.put("end;")
        else:
            self.put("end;")

    def extreme(self, op: str, left: Value, right: Value) -> str:
        self.imports.add("Math")
        return f"{op.capitalize()}({left}, {right})"

    def free(self, a: Target) -> str | list[str] | None:
        if a.type.kind in ("map", "smap", "set", "deque"):
            return f"{a}.Free;"
        return (
            f"SetLength({a}{'.data' if a.type.kind in ('vec', 'strs') else ''}, 0);"
            if a.type.kind != "str"
            else f"{a} := '';"
        )

    # Arrays

    def load(self, a: Target, text: str) -> str:
        return f"Trunc({text})" if a.elem == "f64" else text

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        lines = [f"SetLength({a}, {size});"]
        if fill == "0":
            return lines
        at = self.counter()
        return [*lines, f"for {at} := 0 to {size} - 1 do {a}[{at}] := {fill};"]

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}[{i}]")

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}[{i}] := {value};"

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"{a} := Copy({source}, 0, {size});"

    def vec_new(self, a: Target) -> Lines:
        self.type_text(a.type)
        return f"{a}.size := 0;"

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"Push({a}, {value});"

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "vec.pop":
            stack = self.target(node.value.target)
            self.put(
                f"Dec({stack}.size);", f"{self.v(node.name)} := {self.load(stack, f'{stack}.data[{stack}.size]')};"
            )
        else:
            super().statement(node)

    def vec_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}.data[{i}]")

    def vec_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}.data[{i}] := {value};"

    def vec_len(self, a: Target) -> str:
        return f"{a}.size"

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        if a.form == "flat":
            size = f"{rows.atom} * {columns.atom}"
            return self.arr_new(a, Value(size), fill)
        lines = [f"SetLength({a}, {rows}, {columns});"]
        if fill == "0":
            return lines
        at = self.counter()
        k = self.counter()
        return [
            *lines,
            f"for {at} := 0 to {rows} - 1 do",
            f"  for {k} := 0 to {columns} - 1 do {a}[{at}][{k}] := {fill};",
        ]

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}[{i.atom} * {self.sizes[a.name].atom} + {j}]" if a.form == "flat" else f"{a}[{i}][{j}]"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} := {value};"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"SetLength({a}, {rows});"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"Push({a}[{i}], {value});"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}[{i}].size"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}[{i}].data[{j}]")

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return f"{m} := {self.type_text(m.type)}.Create;"

    smap_new = set_new = deque_new = map_new

    def found(self) -> str:
        self.need(
            "lookup",
            f"""
function Lookup(m: {self.type_text(Type("map"))}; key, fallback: Int64): Int64;
begin
  if not m.TryGetValue(key, Result) then
    Result := fallback;
end;""",
        )
        return "Lookup"

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"{self.found()}({m}, {key}, {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"{m}.ContainsKey({key})"

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"{m}.AddOrSetValue({key}, {value});"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"{m}.AddOrSetValue({key}, {self.found()}({m}, {key}, 0) + {delta});"

    def map_len(self, m: Target) -> str:
        return f"{m}.Count"

    smap_len = set_len = deque_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> None:
        self.block(f"for {self.v(node.var)} in {m}.Values do", node.body)

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        self.imports.add("SysUtils")
        return f"'{prefix}' + IntToStr({value})"

    def word_found(self) -> str:
        self.need(
            "word lookup",
            f"""
function LookupWord(m: {self.type_text(Type("smap"))}; const key: string; fallback: Int64): Int64;
begin
  if not m.TryGetValue(key, Result) then
    Result := fallback;
end;""",
        )
        return "LookupWord"

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        key = self.key(prefix, value)
        return f"{m}.AddOrSetValue({key}, {self.word_found()}({m}, {key}, 0) + {delta});"

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"{self.word_found()}({m}, {self.key(prefix, value)}, {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s}.AddOrSetValue({value}, True);"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s}.Remove({value});"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"{q}.Enqueue({value});"

    def deque_pop(self, q: Target) -> Lines:
        return f"{q}.Dequeue"

    def str_new(self, s: Target) -> Lines:
        return f"{s} := '';"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"{s} := {s} + Chr({code});"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        self.imports.add("SysUtils")
        return f"{s} := {s} + IntToStr({value});"

    def str_each(self, node: ir.Each, s: Target) -> None:
        at = self.counter()
        self.put(f"for {at} := 1 to Length({s}) do begin")
        with self.indented():
            self.put(f"{self.v(node.var)} := Ord({s}[{at}]);")
            self.body(node.body)
        self.put("end;")

    def strs_new(self, s: Target) -> Lines:
        self.type_text(s.type)
        return f"{s}.size := 0;"

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return [
            f"if {s}.size = Length({s}.data) then SetLength({s}.data, {s}.size * 2 + 4);",
            f"{s}.data[{s}.size] := {self.key(prefix, value)};",
            f"Inc({s}.size);",
        ]

    def strs_join(self, target: Target, source: Target, separator: str) -> Lines:
        at = self.counter()
        return [
            f"{target} := '';",
            f"for {at} := 0 to {source}.size - 1 do begin",
            f"  if {at} > 0 then {target} := {target} + '{separator}';",
            f"  {target} := {target} + {source}.data[{at}];",
            "end;",
        ]

    # Cells

    def nil(self, kind: str) -> str:
        return "nil"

    def cons(self, head: Value, tail: Value) -> str:
        self.type_text(ir.LIST)
        self.need(
            "cons",
            """
function Cons(value: Int64; next: PCell): PCell;
begin
  New(Result);
  Result^.value := value;
  Result^.next := next;
end;""",
        )
        return f"Cons({head}, {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        self.type_text(ir.TREE)
        self.need(
            "branch",
            """
function Branch(left: PTree; value: Int64; right: PTree): PTree;
begin
  New(Result);
  Result^.left := left;
  Result^.value := value;
  Result^.right := right;
end;""",
        )
        return f"Branch({left}, {value}, {right})"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} <> nil", level=LOOSE)

    tree_some = list_some

    def list_head(self, c: Value) -> str:
        return f"{c}^.value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}^.next"

    def tree_left(self, c: Value) -> str:
        return f"{c}^.left"

    def tree_right(self, c: Value) -> str:
        return f"{c}^.right"


EMITTER = Pascal
