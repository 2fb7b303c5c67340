"""Scheme as Guile has it: vectors, hash tables, string ports, native lists."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Lines, Target, Value
from code_rlm_data.generator.emitters.nested import Binding, Nested


class Scheme(Nested):
    language = "scheme"
    supports = frozenset({*ir.CONTAINERS, "sort", "recursion"})
    forms = {"tree": ("vector", "list"), "map": ("hash", "hashv"), "mat": ("nested", "flat")}
    max_depth = 20_000
    speed = 130_000
    start_ms = 14.0
    bytes_of = {"arr": 8, "vec": 20, "mat": 8, "jag": 24, "map": 60, "smap": 110, "set": 60, "deque": 24, "str": 6}
    bytes_of |= {"strs": 64, "list": 24, "tree": 56, "call": 120, "row": 40}
    case = "kebab"
    constant_case = "kebab"
    line_comment = ";;"
    operators = {"+": "+", "-": "-", "*": "*", "/": "quotient", "%": "modulo", "&": "logand", "|": "logior"}
    operators |= {"^": "logxor", "min": "min", "max": "max"}

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            self.enter(function)
            names = " ".join([self.f(function.name), *(self.v(name) for name, _ in function.params)])
            if function.note and self.style.comments:
                functions.append(self.comment(function.note))
            body = self.lines_of(function.body, self.x(function.result))
            functions += [f"(define ({names})", *self.closed(self.shifted(body), ")"), ""]
        self.enter(self.program.main)
        show = f"(display {self.x(self.program.result)})"
        main = self.lines_of((*self.program.body,), f"(begin {show} (newline))")
        if self.pick("main", 0, 1):
            main = ["(define (main)", *self.closed(self.shifted(main), ")"), "", "(main)"]
        constants = [f"(define {self.v(name)} {value})" for name, value in self.program.constants]
        modules = [f"(use-modules {' '.join(sorted(self.imports))})"] if self.imports else []
        title = [self.comment(self.program.note)] if self.style.comments else []
        helpers = [text.split("\n") for text in self.snippets.values()]
        parts = [title, modules, constants, *helpers, functions[:-1], main]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    @staticmethod
    def closed(lines: list[str], brackets: str) -> list[str]:
        """Adds brackets to the last line that is no comment."""
        place = max(k for k, line in enumerate(lines) if not line.lstrip().startswith(";"))
        return [*lines[:place], lines[place] + brackets, *lines[place + 1 :]]

    def chain(self, parts: list[Binding | list[str]], last: str | None) -> list[str]:
        if not parts:
            return [last or "#t"]
        if isinstance(parts[0], tuple):
            count = 0
            while count < len(parts) and isinstance(parts[count], tuple):
                count += 1
            bound = [f"({name} {value})" for name, value in parts[:count]]
            lines = [f"(let* ({bound[0]}", *(" " * 7 + each for each in bound[1:])]
            lines[-1] += ")"
            return [*lines, *self.closed(self.shifted(self.chain(parts[count:], last)), ")")]
        rest = parts[1:]
        if not rest and last is None and not all(line.lstrip().startswith(";") for line in parts[0]):
            return parts[0]
        return [*parts[0], *self.chain(rest, last)]

    # Expressions

    def x(self, node: object) -> Value:
        if isinstance(node, ir.Bin):
            op = self.operators[node.op]
            return Value(f"({op} {self.x(node.left)} {self.x(node.right)})", self.type_of(node))
        if isinstance(node, ir.Cmp):
            sides = f"{self.x(node.left)} {self.x(node.right)}"
            return Value(
                f"(not (= {sides}))" if node.op == "!=" else f"({'=' if node.op == '==' else node.op} {sides})"
            )
        if isinstance(node, (ir.Both, ir.Either)):
            word = "and" if isinstance(node, ir.Both) else "or"
            return Value(f"({word} {self.x(node.left)} {self.x(node.right)})")
        return super().x(node)

    def apply(self, name: str, arguments: list[str]) -> str:
        return f"({' '.join([self.f(name), *arguments])})"

    # Statements

    def assignment(self, name: str, value: Value) -> str:
        return f"(set! {self.v(name)} {value})"

    def counted(self, node: ir.For) -> list[str]:
        var = self.v(node.var)
        low = self.x(node.low)
        high = self.x(node.high)
        step = self.x(node.step)
        body = self.lines_of(node.body)
        if node.down:
            head = f"(do (({var} {self.x(ir.minus_one(node.high))} (- {var} 1))) ((< {var} {low}))"
        elif self.pick("loop", 0, 1):
            head = f"(do (({var} {low} (+ {var} {step}))) ((>= {var} {high}))"
        else:
            loop = self.fresh("loop")
            lines = [f"(let {loop} (({var} {low}))", f"  (when (< {var} {high})", *self.shifted(body, 4)]
            return [*lines, f"    ({loop} (+ {var} {step}))))"]
        return [head, *self.closed(self.shifted(body), ")")]

    def repeated(self, node: ir.While) -> list[str]:
        body = self.lines_of(node.body)
        test = self.x(node.condition)
        if self.pick("while", 0, 1):
            return [f"(while {test}", *self.closed(self.shifted(body), ")")]
        loop = self.fresh("loop")
        return [f"(let {loop} ()", f"  (when {test}", *self.shifted(body, 4), f"    ({loop})))"]

    def branched(self, node: ir.If) -> list[str]:
        test = self.x(node.condition)
        then = self.lines_of(node.then)
        if not node.orelse:
            return [f"(when {test}", *self.closed(self.shifted(then), ")")]
        other = self.lines_of(node.orelse)
        lines = ["(begin", *self.closed(self.shifted(then), ")")] if len(then) > 1 else then
        more = ["(begin", *self.closed(self.shifted(other), ")")] if len(other) > 1 else other
        return [f"(if {test}", *self.shifted(lines, 4), *self.closed(self.shifted(more, 4), ")")]

    def free(self, a: Target) -> str | list[str] | None:
        return f"(set! {a} #f)"

    # Arrays

    def store(self, a: Target, value: Value) -> str:
        return f"(exact->inexact {value})" if a.elem == "f64" else value

    def load(self, a: Target, text: str) -> str:
        return f"(inexact->exact {text})" if a.elem == "f64" else text

    def word(self, a: Target) -> str:
        if a.elem == "u8" and a.type.kind == "arr":
            self.imports.add("(srfi srfi-4)")
            return "u8vector"
        return "vector"

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        fill = f"{fill}.0" if a.elem == "f64" else fill
        return f"(make-{self.word(a)} {size} {fill})"

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"({self.word(a)}-ref {a} {i})")

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"({self.word(a)}-set! {a} {i} {self.store(a, value)})"

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        if self.word(a) == "u8vector":
            self.imports.add("(rnrs bytevectors)")
            return f"(bytevector-copy {source})"
        return f"(vector-copy {source})"

    def arr_sort(self, a: Target) -> Lines:
        return f"(sort! {a} <)"

    def arr_each(self, node: ir.Each, a: Target) -> None:
        if a.elem in ("u8", "f64"):
            at = self.fresh("at-")
            self.types[at] = ir.INT
            value = ir.Ask("arr.get", node.target, (ir.Var(at),))
            body = (ir.Let(node.var, ir.LONG, value), *node.body)
            return self.counted(ir.For(at, ir.Int(0), self.size_node(node.target), body))
        body = self.lines_of(node.body)
        self.imports.add("((rnrs base) #:select (vector-for-each))")
        return [f"(vector-for-each (lambda ({self.v(node.var)})", *self.closed(self.shifted(body, 4), f") {a})")]

    def grow(self) -> None:
        self.imports.add("(srfi srfi-9)")
        self.need(
            "grow",
            """
(define-record-type <grow>
  (make-grow data size)
  grow?
  (data grow-data set-grow-data!)
  (size grow-size set-grow-size!))

(define (grow-push! g x)
  (let ((n (grow-size g)))
    (when (= n (vector-length (grow-data g)))
      (let ((wider (make-vector (* 2 n) 0)))
        (vector-move-left! (grow-data g) 0 n wider 0)
        (set-grow-data! g wider)))
    (vector-set! (grow-data g) n x)
    (set-grow-size! g (+ n 1))))

(define (grow-pop! g)
  (let ((n (- (grow-size g) 1)))
    (set-grow-size! g n)
    (vector-ref (grow-data g) n)))""",
        )

    def vec_new(self, a: Target) -> Lines:
        self.grow()
        return "(make-grow (make-vector 8 0) 0)"

    def vec_push(self, a: Target, value: Value) -> Lines:
        return f"(grow-push! {a} {self.store(a, value)})"

    def vec_pop(self, a: Target) -> Lines:
        return self.load(a, f"(grow-pop! {a})")

    def vec_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"(vector-ref (grow-data {a}) {i})")

    def vec_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"(vector-set! (grow-data {a}) {i} {self.store(a, value)})"

    def vec_len(self, a: Target) -> str:
        return f"(grow-size {a})"

    def vec_each(self, node: ir.Each, a: Target) -> Lines:
        at = self.fresh("at-")
        self.types[at] = ir.INT
        value = ir.Ask("vec.get", node.target, (ir.Var(at),))
        high = ir.Ask("vec.len", node.target)
        return self.counted(ir.For(at, ir.Int(0), high, (ir.Let(node.var, ir.LONG, value), *node.body)))

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        self.sizes[a.name] = columns
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if a.form == "flat":
            return f"(make-vector (* {rows} {columns}) {fill})"
        at = self.fresh("q")
        make = f"(let ((m (make-vector {rows} #f))) (do (({at} 0 (+ {at} 1))) ((= {at} {rows}) m)"
        return f"{make} (vector-set! m {at} (make-vector {columns} {fill}))))"

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        if a.form == "flat":
            return self.load(a, f"(vector-ref {a} (+ (* {i} {self.sizes[a.name]}) {j}))")
        return self.load(a, f"(vector-ref (vector-ref {a} {i}) {j})")

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        if a.form == "flat":
            return f"(vector-set! {a} (+ (* {i} {self.sizes[a.name]}) {j}) {self.store(a, value)})"
        return f"(vector-set! (vector-ref {a} {i}) {j} {self.store(a, value)})"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        self.grow()
        at = self.fresh("q")
        make = f"(let ((m (make-vector {rows} #f))) (do (({at} 0 (+ {at} 1))) ((= {at} {rows}) m)"
        return f"{make} (vector-set! m {at} (make-grow (make-vector 2 0) 0))))"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        return f"(grow-push! (vector-ref {a} {i}) {self.store(a, value)})"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"(grow-size (vector-ref {a} {i}))"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"(vector-ref (grow-data (vector-ref {a} {i})) {j})")

    # Maps, sets, queues, texts

    def map_new(self, m: Target) -> Lines:
        return "(make-hash-table)"

    smap_new = set_new = map_new

    def word_of(self, m: Target) -> str:
        return "hashv" if m.form == "hashv" else "hash"

    def map_get(self, m: Target, key: Value, default: Value) -> str:
        return f"({self.word_of(m)}-ref {m} {key} {default})"

    def map_has(self, m: Target, key: Value) -> str:
        return f"({self.word_of(m)}-ref {m} {key} #f)"

    set_has = map_has

    def map_set(self, m: Target, key: Value, value: Value) -> Lines:
        return f"({self.word_of(m)}-set! {m} {key} {value})"

    def map_add(self, m: Target, key: Value, delta: Value) -> Lines:
        word = self.word_of(m)
        return f"({word}-set! {m} {key} (+ ({word}-ref {m} {key} 0) {delta}))"

    def map_len(self, m: Target) -> str:
        return f"(hash-count (const #t) {m})"

    smap_len = set_len = map_len

    def map_each(self, node: ir.Each, m: Target) -> Lines:
        body = self.lines_of(node.body)
        key = self.fresh("key")
        return [f"(hash-for-each (lambda ({key} {self.v(node.var)})", *self.closed(self.shifted(body, 4), f") {m})")]

    smap_each = map_each

    def key(self, prefix: str, value: Value) -> str:
        return f'(string-append "{prefix}" (number->string {value}))'

    def smap_add(self, m: Target, prefix: str, value: Value, delta: Value) -> Lines:
        word = self.fresh("word")
        add = f"(hash-set! {m} {word} (+ (hash-ref {m} {word} 0) {delta}))"
        return [f"(let (({word} {self.key(prefix, value)}))", f"  {add})"]

    def smap_get(self, m: Target, prefix: str, value: Value, default: Value) -> str:
        return f"(hash-ref {m} {self.key(prefix, value)} {default})"

    def set_add(self, s: Target, value: Value) -> Lines:
        return f"(hash-set! {s} {value} #t)"

    def set_del(self, s: Target, value: Value) -> Lines:
        return f"(hash-remove! {s} {value})"

    def deque_new(self, q: Target) -> Lines:
        self.need(
            "queue",
            """
(define (make-queue) (vector '() '() 0))

(define (queue-push! q x)
  (let ((cell (list x)))
    (if (null? (vector-ref q 0))
        (vector-set! q 0 cell)
        (set-cdr! (vector-ref q 1) cell))
    (vector-set! q 1 cell)
    (vector-set! q 2 (+ (vector-ref q 2) 1))))

(define (queue-pop! q)
  (let ((x (car (vector-ref q 0))))
    (vector-set! q 0 (cdr (vector-ref q 0)))
    (vector-set! q 2 (- (vector-ref q 2) 1))
    x))

(define (queue-size q) (vector-ref q 2))""",
        )
        return "(make-queue)"

    def deque_push(self, q: Target, value: Value) -> Lines:
        return f"(queue-push! {q} {value})"

    def deque_pop(self, q: Target) -> Lines:
        return f"(queue-pop! {q})"

    def deque_len(self, q: Target) -> str:
        return f"(queue-size {q})"

    def str_new(self, s: Target) -> Lines:
        return "(open-output-string)"

    def str_add_char(self, s: Target, code: Value) -> Lines:
        return f"(write-char (integer->char {code}) {s})"

    def str_add_int(self, s: Target, value: Value) -> Lines:
        return f"(display {value} {s})"

    def str_each(self, node: ir.Each, s: Target) -> Lines:
        c = self.fresh("c")
        body = self.lines_of(node.body)
        text = f"(get-output-string {s})" if not isinstance(self.made_by(node.target), ir.Join) else s
        lines = [f"(string-for-each (lambda ({c})", f"    (let (({self.v(node.var)} (char->integer {c})))"]
        return [*lines, *self.closed(self.shifted(body, 6), f")) {text})")]

    def made_by(self, name: str) -> str:
        """Returns the statement that declares a name."""
        return next(each for each in ir.walk(self.function.body) if getattr(each, "name", None) == name)

    def strs_new(self, s: Target) -> Lines:
        return "'()"

    def strs_push(self, s: Target, prefix: str, value: Value) -> Lines:
        return f"(set! {s} (cons {self.key(prefix, value)} {s}))"

    def strs_join(self, node: ir.Join, source: Target, separator: str) -> Lines:
        return f'(string-join (reverse {source}) "{separator}")'

    # Cells

    def nil(self, kind: str) -> str:
        return "'()" if kind == "list" else "#f"

    def cons(self, head: Value, tail: Value) -> str:
        return f"(cons {head} {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        return f"({self.formed(ir.TREE).form} {left} {value} {right})"

    def list_some(self, c: Value) -> str:
        return f"(pair? {c})"

    def tree_some(self, c: Value) -> str:
        return c

    def list_head(self, c: Value) -> str:
        return f"(car {c})"

    def list_tail(self, c: Value) -> str:
        return f"(cdr {c})"

    def place(self, c: Value, place: int) -> str:
        if self.formed(ir.TREE).form == "vector":
            return f"(vector-ref {c} {place})"
        return f"({('car', 'cadr', 'caddr')[place]} {c})"

    def tree_left(self, c: Value) -> str:
        return self.place(c, 0)

    def tree_value(self, c: Value) -> str:
        return self.place(c, 1)

    def tree_right(self, c: Value) -> str:
        return self.place(c, 2)

    def folded_list(self, node: ir.Fold) -> list[Binding | list[str]]:
        self.imports.add("(srfi srfi-1)")
        var = self.v(node.var)
        low = self.x(node.low)
        high = self.x(node.high)
        span = f"(iota {high})" if low == "0" else f"(iota (- {high} {low}) {low})"
        kept = span if node.keep is None else f"(filter (lambda ({var}) {self.x(node.keep)}) {span})"
        return [(self.v(node.name), f"(fold + 0 (map (lambda ({var}) {self.x(node.value)}) {kept}))")]


EMITTER = Scheme
