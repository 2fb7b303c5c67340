"""Scheme as Guile has it: vectors, hash tables, string ports, native lists."""

from __future__ import annotations

from code_rlm.data.polyglot import ir
from code_rlm.data.polyglot.emitters.base import Value
from code_rlm.data.polyglot.emitters.nested import Nested


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
        """Add brackets to the last line that is no comment."""
        place = max(k for k, line in enumerate(lines) if not line.lstrip().startswith(";"))
        return [*lines[:place], lines[place] + brackets, *lines[place + 1 :]]

    def chain(self, parts, last):
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

    def x(self, node):
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

    def apply(self, name, arguments):
        return f"({' '.join([self.f(name), *arguments])})"

    # Statements

    def assignment(self, name, value):
        return f"(set! {self.v(name)} {value})"

    def counted(self, node):
        var, low, high, step = self.v(node.var), self.x(node.low), self.x(node.high), self.x(node.step)
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

    def repeated(self, node):
        body, test = self.lines_of(node.body), self.x(node.condition)
        if self.pick("while", 0, 1):
            return [f"(while {test}", *self.closed(self.shifted(body), ")")]
        loop = self.fresh("loop")
        return [f"(let {loop} ()", f"  (when {test}", *self.shifted(body, 4), f"    ({loop})))"]

    def branched(self, node):
        test, then = self.x(node.condition), self.lines_of(node.then)
        if not node.orelse:
            return [f"(when {test}", *self.closed(self.shifted(then), ")")]
        other = self.lines_of(node.orelse)
        lines = ["(begin", *self.closed(self.shifted(then), ")")] if len(then) > 1 else then
        more = ["(begin", *self.closed(self.shifted(other), ")")] if len(other) > 1 else other
        return [f"(if {test}", *self.shifted(lines, 4), *self.closed(self.shifted(more, 4), ")")]

    def free(self, a):
        return f"(set! {a} #f)"

    # Arrays

    def store(self, a, value):
        return f"(exact->inexact {value})" if a.elem == "f64" else value

    def load(self, a, text):
        return f"(inexact->exact {text})" if a.elem == "f64" else text

    def word(self, a) -> str:
        if a.elem == "u8" and a.type.kind == "arr":
            self.imports.add("(srfi srfi-4)")
            return "u8vector"
        return "vector"

    def arr_new(self, a, size, fill):
        fill = f"{fill}.0" if a.elem == "f64" else fill
        return f"(make-{self.word(a)} {size} {fill})"

    def arr_get(self, a, i):
        return self.load(a, f"({self.word(a)}-ref {a} {i})")

    def arr_set(self, a, i, value):
        return f"({self.word(a)}-set! {a} {i} {self.store(a, value)})"

    def arr_copy(self, a, source, size):
        if self.word(a) == "u8vector":
            self.imports.add("(rnrs bytevectors)")
            return f"(bytevector-copy {source})"
        return f"(vector-copy {source})"

    def arr_sort(self, a):
        return f"(sort! {a} <)"

    def arr_each(self, node, a):
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

    def vec_new(self, a):
        self.grow()
        return "(make-grow (make-vector 8 0) 0)"

    def vec_push(self, a, value):
        return f"(grow-push! {a} {self.store(a, value)})"

    def vec_pop(self, a):
        return self.load(a, f"(grow-pop! {a})")

    def vec_get(self, a, i):
        return self.load(a, f"(vector-ref (grow-data {a}) {i})")

    def vec_set(self, a, i, value):
        return f"(vector-set! (grow-data {a}) {i} {self.store(a, value)})"

    def vec_len(self, a):
        return f"(grow-size {a})"

    def vec_each(self, node, a):
        at = self.fresh("at-")
        self.types[at] = ir.INT
        value = ir.Ask("vec.get", node.target, (ir.Var(at),))
        high = ir.Ask("vec.len", node.target)
        return self.counted(ir.For(at, ir.Int(0), high, (ir.Let(node.var, ir.LONG, value), *node.body)))

    def mat_new(self, a, rows, columns, fill):
        self.sizes[a.name] = columns
        fill = f"{fill}.0" if a.elem == "f64" else fill
        if a.form == "flat":
            return f"(make-vector (* {rows} {columns}) {fill})"
        at = self.fresh("q")
        make = f"(let ((m (make-vector {rows} #f))) (do (({at} 0 (+ {at} 1))) ((= {at} {rows}) m)"
        return f"{make} (vector-set! m {at} (make-vector {columns} {fill}))))"

    def mat_get(self, a, i, j):
        if a.form == "flat":
            return self.load(a, f"(vector-ref {a} (+ (* {i} {self.sizes[a.name]}) {j}))")
        return self.load(a, f"(vector-ref (vector-ref {a} {i}) {j})")

    def mat_set(self, a, i, j, value):
        if a.form == "flat":
            return f"(vector-set! {a} (+ (* {i} {self.sizes[a.name]}) {j}) {self.store(a, value)})"
        return f"(vector-set! (vector-ref {a} {i}) {j} {self.store(a, value)})"

    def jag_new(self, a, rows):
        self.grow()
        at = self.fresh("q")
        make = f"(let ((m (make-vector {rows} #f))) (do (({at} 0 (+ {at} 1))) ((= {at} {rows}) m)"
        return f"{make} (vector-set! m {at} (make-grow (make-vector 2 0) 0))))"

    def jag_push(self, a, i, value):
        return f"(grow-push! (vector-ref {a} {i}) {self.store(a, value)})"

    def jag_len(self, a, i):
        return f"(grow-size (vector-ref {a} {i}))"

    def jag_get(self, a, i, j):
        return self.load(a, f"(vector-ref (grow-data (vector-ref {a} {i})) {j})")

    # Maps, sets, queues, texts

    def map_new(self, m):
        return "(make-hash-table)"

    smap_new = set_new = map_new

    def word_of(self, m) -> str:
        return "hashv" if m.form == "hashv" else "hash"

    def map_get(self, m, key, default):
        return f"({self.word_of(m)}-ref {m} {key} {default})"

    def map_has(self, m, key):
        return f"({self.word_of(m)}-ref {m} {key} #f)"

    set_has = map_has

    def map_set(self, m, key, value):
        return f"({self.word_of(m)}-set! {m} {key} {value})"

    def map_add(self, m, key, delta):
        word = self.word_of(m)
        return f"({word}-set! {m} {key} (+ ({word}-ref {m} {key} 0) {delta}))"

    def map_len(self, m):
        return f"(hash-count (const #t) {m})"

    smap_len = set_len = map_len

    def map_each(self, node, m):
        body = self.lines_of(node.body)
        key = self.fresh("key")
        return [f"(hash-for-each (lambda ({key} {self.v(node.var)})", *self.closed(self.shifted(body, 4), f") {m})")]

    smap_each = map_each

    def key(self, prefix, value) -> str:
        return f'(string-append "{prefix}" (number->string {value}))'

    def smap_add(self, m, prefix, value, delta):
        word = self.fresh("word")
        add = f"(hash-set! {m} {word} (+ (hash-ref {m} {word} 0) {delta}))"
        return [f"(let (({word} {self.key(prefix, value)}))", f"  {add})"]

    def smap_get(self, m, prefix, value, default):
        return f"(hash-ref {m} {self.key(prefix, value)} {default})"

    def set_add(self, s, value):
        return f"(hash-set! {s} {value} #t)"

    def set_del(self, s, value):
        return f"(hash-remove! {s} {value})"

    def deque_new(self, q):
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

    def deque_push(self, q, value):
        return f"(queue-push! {q} {value})"

    def deque_pop(self, q):
        return f"(queue-pop! {q})"

    def deque_len(self, q):
        return f"(queue-size {q})"

    def str_new(self, s):
        return "(open-output-string)"

    def str_add_char(self, s, code):
        return f"(write-char (integer->char {code}) {s})"

    def str_add_int(self, s, value):
        return f"(display {value} {s})"

    def str_each(self, node, s):
        c, body = self.fresh("c"), self.lines_of(node.body)
        text = f"(get-output-string {s})" if not isinstance(self.made_by(node.target), ir.Join) else s
        lines = [f"(string-for-each (lambda ({c})", f"    (let (({self.v(node.var)} (char->integer {c})))"]
        return [*lines, *self.closed(self.shifted(body, 6), f")) {text})")]

    def made_by(self, name: str):
        """Return the statement that declares a name."""
        return next(each for each in ir.walk(self.function.body) if getattr(each, "name", None) == name)

    def strs_new(self, s):
        return "'()"

    def strs_push(self, s, prefix, value):
        return f"(set! {s} (cons {self.key(prefix, value)} {s}))"

    def strs_join(self, node, source, separator):
        return f'(string-join (reverse {source}) "{separator}")'

    # Cells

    def nil(self, kind):
        return "'()" if kind == "list" else "#f"

    def cons(self, head, tail):
        return f"(cons {head} {tail})"

    def node(self, left, value, right):
        return f"({self.formed(ir.TREE).form} {left} {value} {right})"

    def list_some(self, c):
        return f"(pair? {c})"

    def tree_some(self, c):
        return c

    def list_head(self, c):
        return f"(car {c})"

    def list_tail(self, c):
        return f"(cdr {c})"

    def place(self, c, place: int) -> str:
        if self.formed(ir.TREE).form == "vector":
            return f"(vector-ref {c} {place})"
        return f"({('car', 'cadr', 'caddr')[place]} {c})"

    def tree_left(self, c):
        return self.place(c, 0)

    def tree_value(self, c):
        return self.place(c, 1)

    def tree_right(self, c):
        return self.place(c, 2)

    def folded_list(self, node):
        self.imports.add("(srfi srfi-1)")
        var, low, high = self.v(node.var), self.x(node.low), self.x(node.high)
        span = f"(iota {high})" if low == "0" else f"(iota (- {high} {low}) {low})"
        kept = span if node.keep is None else f"(filter (lambda ({var}) {self.x(node.keep)}) {span})"
        return [(self.v(node.name), f"(fold + 0 (map (lambda ({var}) {self.x(node.value)}) {kept}))")]


EMITTER = Scheme
