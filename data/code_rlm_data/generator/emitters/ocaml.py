"""OCaml: arrays, bytes, float arrays, Hashtbl, Queue, Buffer, native lists, variants, Seq."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import LOOSE, Lines, Target, Value
from code_rlm_data.generator.emitters.nested import Binding, Nested


class OCaml(Nested):
    language = "ocaml"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion", "lazy"})
    forms = {"mat": ("nested", "flat"), "set": ("hash", "tree"), "deque": ("queue",)}
    max_depth = 60_000
    speed = 500_000
    start_ms = 2.5
    bytes_of = {"arr": 8, "vec": 20, "mat": 8, "jag": 20, "map": 56, "smap": 90, "set": 56, "deque": 24, "str": 3}
    bytes_of |= {"strs": 60, "list": 36, "tree": 48, "call": 64, "row": 32}
    case = "snake"
    constant_case = "snake"
    operators = {"+": "+", "-": "-", "*": "*", "/": "/", "%": "mod", "&": "land", "|": "lor", "^": "lxor"}
    comparisons = {**Nested.comparisons, "==": "=", "!=": "<>"}

    def comment(self, text: str) -> str:
        return f"(* {text} *)"

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            self.enter(function)
            names = " ".join(self.v(name) for name, _ in function.params) or "()"
            body = self.lines_of(function.body, self.x(function.result))
            if function.note and self.style.comments:
                functions.append(self.comment(function.note))
            rec = (
                "rec "
                if any(isinstance(n, ir.Call) and n.name == function.name for n in ir.walk(function.body))
                else ""
            )
            functions += [f"let {rec}{self.f(function.name)} {names} =", *self.shifted(body), ""]
        self.enter(self.program.main)
        result = self.x(self.program.result)
        show = self.pick(
            "show", f'Printf.printf "%d\\n" {self.tight(result)}', f"print_endline (string_of_int {self.tight(result)})"
        )
        main = ["let () =", *self.shifted(self.lines_of(self.program.body, show))]
        constants = [f"let {self.v(name)} = {value}" for name, value in self.program.constants]
        title = [self.comment(self.program.note)] if self.style.comments else []
        helpers = [text.split("\n") for text in self.snippets.values()]
        return "\n\n".join("\n".join(p) for p in [title, constants, *helpers, functions[:-1], main] if p) + "\n"

    def chain(self, parts: list[Binding | list[str]], last: str | None) -> list[str]:
        lines: list[str] = []
        for place, part in enumerate(parts):
            if isinstance(part, tuple):
                lines.append(f"let {part[0]} = {part[1]} in")
                continue
            comment = part[0].startswith("(*")
            more = last is not None or any(
                not (isinstance(p, list) and p[0].startswith("(*")) for p in parts[place + 1 :]
            )
            lines += part if comment or not more else [*part[:-1], part[-1] + ";"]
        if last is not None:
            return [*lines, last]
        closing = not parts or isinstance(parts[-1], tuple) or parts[-1][0].startswith("(*")
        real = [p for p in parts if isinstance(p, tuple) or not p[0].startswith("(*")]
        if closing and (not real or isinstance(real[-1], tuple)):
            lines.append("()")
        return lines

    # Expressions: arguments of functions stand in brackets

    def tight(self, value: Value) -> str:
        return value.atom

    def variable(self, name: str) -> str:
        text = self.v(name)
        return f"!{text}" if name in self.varying and name not in self.constants else text

    def handle(self, node: ir.Ask | ir.Do) -> Target | Value:
        if node.op.split(".")[0] in ("list", "tree"):
            return Value(self.variable(node.target), self.types[node.target])
        return self.target(node.target)

    def argument(self, value: Value) -> str:
        return value.atom

    def apply(self, name: str, arguments: list[str]) -> str:
        return f"({' '.join([self.f(name), *(arguments or ['()'])])})"

    def extreme(self, op: str, left: Value, right: Value) -> str:
        return f"({op} {left.atom} {right.atom})"

    def bound(self, name: str, value: Value) -> str:
        return f"ref {value.atom}" if name in self.varying else value

    def assignment(self, name: str, value: Value) -> str:
        if value == f"!{self.v(name)} + 1":
            return f"incr {self.v(name)}"
        return f"{self.v(name)} := {value}"

    def block(self, head: str, body: list[str], tail: str) -> list[str]:
        return [head, *self.shifted(body), tail]

    def counted(self, node: ir.For) -> list[str]:
        var = self.v(node.var)
        body = self.lines_of(node.body)
        low = self.x(node.low)
        high = self.x(node.high)
        last = self.x(ir.minus_one(node.high))
        if node.down:
            return self.block(f"for {var} = {last} downto {low} do", body, "done")
        if node.step == ir.Int(1):
            return self.block(f"for {var} = {low} to {last} do", body, "done")
        at = self.fresh("at")
        lines = [f"let {at} = ref {low.atom} in", f"while !{at} < {high} do", f"  let {var} = !{at} in"]
        body = [*body[:-1], body[-1] + ";"]
        return [*lines, *self.shifted(body), f"  {at} := !{at} + {self.x(node.step)}", "done"]

    def repeated(self, node: ir.While) -> list[str]:
        return self.block(f"while {self.x(node.condition)} do", self.lines_of(node.body), "done")

    def branched(self, node: ir.If) -> list[str]:
        lines = [f"if {self.x(node.condition)} then begin", *self.shifted(self.lines_of(node.then))]
        if node.orelse:
            lines += ["end else begin", *self.shifted(self.lines_of(node.orelse))]
        return [*lines, "end"]

    # Arrays

    def store(self, a: Target, value: Value) -> str:
        if a.elem == "f64":
            return f"(float_of_int {value.atom})"
        return f"(Char.unsafe_chr {value.atom})" if self.is_bytes(a) else value.atom

    def is_bytes(self, a: Target) -> bool:
        return a.elem == "u8" and a.type.kind == "arr"

    def load(self, a: Target, text: str) -> Value:
        if a.elem == "f64":
            return Value(f"(int_of_float {text})")
        return Value(f"(Char.code {text})") if self.is_bytes(a) else Value(text)

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        if self.is_bytes(a):
            return f"Bytes.make {size.atom} (Char.chr {fill})"
        return f"Array.make {size.atom} {f'{fill}.0' if a.elem == 'f64' else fill}"

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"(Bytes.get {a} {i.atom})" if self.is_bytes(a) else f"{a}.({i})")

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        if self.is_bytes(a):
            return f"Bytes.set {a} {i.atom} {self.store(a, value)}"
        return f"{a}.({i}) <- {self.store(a, value)}"

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return f"Bytes.copy {source}" if self.is_bytes(a) else f"Array.copy {source}"

    def arr_sort(self, a: Target) -> Lines:
        return f"Array.{self.pick('sort', 'sort', 'stable_sort')} compare {a}"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        item = self.fresh("it")
        body = self.lines_of(node.body)
        kind = "Bytes" if self.is_bytes(a) else "Array"
        lines = [
            f"{kind}.iter (fun {item} ->",
            f"  let {self.v(node.var)} = {self.load(a, item)} in",
            *self.shifted(body),
        ]
        return [*lines[:-1], lines[-1] + f") {a}"]

    def grow(self) -> None:
        self.need(
            "grow",
            """
type 'a grow = { mutable data : 'a array; mutable size : int }

let push g x =
  if g.size = Array.length g.data then begin
    let wider = Array.make (max 8 (2 * g.size)) x in
    Array.blit g.data 0 wider 0 g.size;
    g.data <- wider
  end;
  g.data.(g.size) <- x;
  g.size <- g.size + 1

let pop g =
  g.size <- g.size - 1;
  g.data.(g.size)""",
        )

    def vec_new(self, a: Target) -> Lines:
        self.grow()
        return "{ data = [||]; size = 0 }"

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"push {a} {self.store(a, value)}"

    def vec_pop(self, a: Target) -> Lines:
        return self.load(a, f"(pop {a})")

    def vec_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}.data.({i})")

    def vec_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}.data.({i}) <- {self.store(a, value)}"

    def vec_len(self, a: Target) -> str:
        return f"{a}.size"

    def vec_each(self, node: ir.Each, a: Target) -> Lines:
        at = self.fresh("at")
        body = self.lines_of(node.body)
        lines = [
            f"for {at} = 0 to {a}.size - 1 do",
            f"  let {self.v(node.var)} = {self.load(a, f'{a}.data.({at})')} in",
        ]
        return [*lines, *self.shifted(body), "done"]

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if a.form == "flat":
            return f"Array.make ({rows.atom} * {columns.atom}) {fill}"
        return f"Array.make_matrix {rows.atom} {columns.atom} {fill}"

    def cell(self, a: Target, i: Value, j: Value) -> str:
        return f"{a}.({i.atom} * {self.sizes[a.name].atom} + {j})" if a.form == "flat" else f"{a}.({i}).({j})"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, self.cell(a, i, j))

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{self.cell(a, i, j)} <- {self.store(a, value)}"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        self.grow()
        return f"Array.init {rows.atom} (fun _ -> {{ data = [||]; size = 0 }})"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"push {a}.({i}) {self.store(a, value)}"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}.({i}).size"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}.({i}).data.({j})")

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return f"Hashtbl.create {self.pick('buckets', 16, 64, 1024)}"

    smap_new = map_new

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"(try Hashtbl.find {m} {key.atom} with Not_found -> {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"(Hashtbl.mem {m} {key.atom})"

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"Hashtbl.replace {m} {key.atom} {value.atom}"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        return f"Hashtbl.replace {m} {key.atom} ({self.map_get(m, key, '0')} + {delta})"

    def map_len(self, m: Target) -> str:
        return f"(Hashtbl.length {m})"

    smap_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> Lines:
        body = self.lines_of(node.body)
        lines = [f"Hashtbl.iter (fun _ {self.v(node.var)} ->", *self.shifted(body)]
        return [*lines[:-1], lines[-1] + f") {m}"]

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return self.pick(
            "key", f'("{prefix}" ^ string_of_int {value.atom})', f'(Printf.sprintf "{prefix}%d" {value.atom})'
        )

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        word = Value(self.fresh("word"))
        return [f"(let {word} = {self.key(prefix, value)} in", f"{self.map_add(m, word, delta)})"]

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return self.map_get(m, Value(self.key(prefix, value)), default)

    def set_new(self, s: Target) -> Lines:
        if s.form == "tree":
            self.need("ints", "module Ints = Set.Make (Int)")
            return "ref Ints.empty"
        return "Hashtbl.create 16"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"{s} := Ints.add {value.atom} !{s}" if s.form == "tree" else f"Hashtbl.replace {s} {value.atom} ()"

    def set_has(self, s: Target, value: Value) -> str:
        return f"(Ints.mem {value.atom} !{s})" if s.form == "tree" else f"(Hashtbl.mem {s} {value.atom})"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"{s} := Ints.remove {value.atom} !{s}" if s.form == "tree" else f"Hashtbl.remove {s} {value.atom}"

    def set_len(self, s: Target) -> str:
        return f"(Ints.cardinal !{s})" if s.form == "tree" else f"(Hashtbl.length {s})"

    def deque_new(self, q: Target) -> Lines:
        return "Queue.create ()"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"Queue.{self.pick('queue', 'push', 'add')} {value.atom} {q}"

    def deque_pop(self, q: Target) -> Lines:
        return f"(Queue.pop {q})"

    def deque_len(self, q: Target) -> str:
        return f"(Queue.length {q})"

    def str_new(self, s: Target) -> Lines:
        return "Buffer.create 16"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"Buffer.add_char {s} (Char.chr {code.atom})"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"Buffer.add_string {s} (string_of_int {value.atom})"

    def str_each(self, node: ir.Each, s: Target) -> Lines:
        joined = any(isinstance(each, ir.Join) and each.name == node.target for each in ir.walk(self.function.body))
        c = self.fresh("c")
        body = self.lines_of(node.body)
        lines = [f"String.iter (fun {c} ->", f"  let {self.v(node.var)} = Char.code {c} in", *self.shifted(body)]
        return [*lines[:-1], lines[-1] + f") {s if joined else f'(Buffer.contents {s})'}"]

    def strs_new(self, s: Target) -> Lines:
        return "ref []"

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"{s} := {self.key(prefix, value)} :: !{s}"

    def strs_join(self, node: ir.Join, source: Target, separator: str) -> Lines:
        return f'String.concat "{separator}" (List.rev !{source})'

    def free(self, a: Target) -> str | list[str] | None:
        return f"{a} := []" if a.type.kind == "strs" else None

    # Cells

    def nil(self, kind: str) -> str:
        return "[]" if kind == "list" else self.tree_type() or "Leaf"

    def tree_type(self) -> None:
        self.need(
            "tree",
            """
type tree = Leaf | Node of tree * int * tree

let left = function Node (t, _, _) -> t | Leaf -> failwith "leaf"
let value = function Node (_, v, _) -> v | Leaf -> failwith "leaf"
let right = function Node (_, _, t) -> t | Leaf -> failwith "leaf\"""",
        )

    def cons(self, head: Value, tail: Value) -> str:
        return f"({head} :: {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        self.tree_type()
        return f"(Node ({left}, {value}, {right}))"

    def list_some(self, c: Value) -> Value:
        return Value(f"{c} <> []", level=LOOSE)

    def tree_some(self, c: Value) -> str:
        self.tree_type()
        return f"(match {c} with Leaf -> false | _ -> true)"

    def list_head(self, c: Value) -> str:
        return f"(List.hd {c})"

    def list_tail(self, c: Value) -> str:
        return f"(List.tl {c})"

    def tree_left(self, c: Value) -> str:
        return f"(left {c})"

    def tree_value(self, c: Value) -> str:
        return f"(value {c})"

    def tree_right(self, c: Value) -> str:
        return f"(right {c})"

    # Folds

    def stream(self, node: ir.Fold, module: str) -> str:
        var = self.v(node.var)
        low = self.x(node.low)
        last = self.x(ir.minus_one(node.high))
        if module == "Seq":
            self.need("upto", "let rec upto a b () = if a > b then Seq.Nil else Seq.Cons (a, upto (a + 1) b)")
            span = f"upto {low.atom} {last.atom}"
        else:
            span = f"List.init {self.x(node.high).atom} (fun {var} -> {var})"
        keep = "" if node.keep is None else f" |> {module}.filter (fun {var} -> {self.x(node.keep)})"
        # List.map needs stack for every element.
        mapper = "Seq.map" if module == "Seq" else "List.rev_map"
        return f"{span}{keep} |> {mapper} (fun {var} -> {self.x(node.value)}) |> {module}.fold_left (+) 0"

    def folded_lazy(self, node: ir.Fold) -> list[Binding | list[str]]:
        return [(self.v(node.name), self.stream(node, "Seq"))]

    def folded_list(self, node: ir.Fold) -> list[Binding | list[str]]:
        return [(self.v(node.name), self.stream(node, "List"))]


EMITTER = OCaml
