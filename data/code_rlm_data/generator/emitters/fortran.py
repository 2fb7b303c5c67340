"""Modern Fortran: allocatable arrays, derived types that grow, pointers for cells."""

from __future__ import annotations

from code_rlm_data.generator import ir
from code_rlm_data.generator.emitters.base import Emitter, Lines, Style, Target, Value
from code_rlm_data.generator.ir import INT, LONG, Type

_ELEM = {"u8": "integer(1)", "i32": "integer(4)", "i64": "integer(8)", "f64": "real(8)"}


class Fortran(Emitter):
    language = "fortran"
    # Its library has neither hash tables nor texts that grow well.
    supports = frozenset({"arr", "vec", "mat", "jag", "list", "tree", "recursion"})
    max_depth = 40_000
    speed = 1_200_000
    start_ms = 2.5
    bytes_of = {"vec": 16, "jag": 18, "list": 32, "tree": 40, "call": 96, "row": 80}
    constant_case = "snake"
    indent = 2
    line_comment = "!"
    comparisons = {**Emitter.comparisons, "!=": "/="}
    both = ".and."
    either = ".or."

    def __init__(self, program: ir.Program, style: Style) -> None:
        super().__init__(program, style)
        self.derived: dict[str, str] = {}
        self.hoisted: dict[str, Type] = {}
        self.flags: list[str] = []

    def text(self) -> str:
        functions: list[str] = []
        for function in self.program.functions:
            functions += ["", *self.routine(function)] if functions else self.routine(function)
        main = self.program.main
        self.enter(main)
        with self.captured() as body:
            self.depth = 1
            self.body(main.body)
            self.put(f"print '(i0)', {self.kind8(self.x(main.result))}")
            self.depth = 0
        variables = self.variables(main)
        constants = [f"  integer(8), parameter :: {self.v(name)} = {value}" for name, value in self.program.constants]
        types = ["  " + line for text in self.derived.values() for line in text.split("\n")]
        helpers = [line for text in self.snippets.values() for line in ["", *text.split("\n")]]
        inside = [*functions, *(helpers if functions else helpers[1:])]
        contains = ["contains", "", *("  " + line if line else "" for line in inside)] if inside else []
        title = [self.comment(self.program.note)] if self.style.comments else []
        head = [*title, "program main", "  implicit none", *types, *constants, *variables]
        lines = [*head, "", *body, *(["", *contains] if contains else []), "end program main"]
        return "\n".join(piece for line in lines for piece in _folded(line)) + "\n"

    def enter(self, function: ir.Function) -> None:
        super().enter(function)
        self.hoisted = {}
        self.flags = []

    def hoist(self, name: str, type: ir.Type) -> None:
        self.hoisted[name] = self.types[name] = type

    def declaration(self, type: Type, names: list[str]) -> str:
        text = self.type_text(type)
        kind = type.kind
        shape = {"arr": ", allocatable", "mat": ", allocatable", "jag": ", allocatable"}.get(kind, "")
        shape = ", pointer" if kind in ("list", "tree") else shape
        after = {"arr": "(:)", "jag": "(:)", "mat": "(:, :)"}.get(kind, "")
        return f"  {text}{shape} :: {', '.join(name + after for name in names)}"

    def variables(self, function: ir.Function) -> list[str]:
        parameters = {name for name, _ in function.params}
        groups: dict[str, tuple[Type, list[str]]] = {}
        for name, type in {**self.types, **self.hoisted}.items():
            if name in parameters:
                continue
            key = f"{self.type_text(type)}{type.kind if type.kind not in ('int', 'long') else ''}"
            group = groups.setdefault(key, (type, []))[1]
            if self.v(name) not in group:
                group.append(self.v(name))
        lines = [
            self.declaration(type, names[k : k + 6]) for type, names in groups.values() for k in range(0, len(names), 6)
        ]
        return [*lines, *([f"  logical :: {', '.join(self.flags)}"] if self.flags else [])]

    def routine(self, function: ir.Function) -> list[str]:
        self.enter(function)
        answer = self.fresh("answer")
        changed = self.mutated[function.name]
        with self.captured() as body:
            self.depth = 1
            self.body(function.body)
            sign = "=>" if function.result_type.kind in ("list", "tree") else "="
            self.put(f"{answer} {sign} {self.x(function.result)}")
            self.depth = 0
        given = ", ".join(self.v(name) for name, _ in function.params)
        self_call = any(isinstance(n, ir.Call) and n.name == function.name for n in ir.walk(function.body))
        lines = [f"{'recursive ' if self_call else ''}function {self.f(function.name)}({given}) result({answer})"]
        if function.note and self.style.comments:
            lines.insert(0, self.comment(function.note))
        for name, _ in function.params:
            type = self.types[name]
            intent = "inout" if name in changed else "in"
            if type.kind == "arr":
                lines.append(f"  {self.type_text(type)}, intent({intent}) :: {self.v(name)}(0:)")
            elif type.kind in ("list", "tree"):
                lines.append(f"  {self.type_text(type)}, pointer, intent(in) :: {self.v(name)}")
            else:
                lines.append(f"  {self.type_text(type)}, intent({intent}) :: {self.v(name)}")
        lines.append(self.declaration(function.result_type, [answer]))
        return [*lines, *self.variables(function), *body, f"end function {self.f(function.name)}"]

    def type_text(self, type: Type) -> str:
        kind = type.kind
        if kind in ("int", "long"):
            return "integer(8)"
        if kind in ("arr", "mat"):
            return _ELEM[type.elem]
        if kind in ("vec", "jag"):
            return f"type({self.grow(type.elem)})"
        name, links = ("cell", ("next",)) if kind == "list" else ("tree", ("left", "right"))
        fields = ["  integer(8) :: value", *(f"  type({name}), pointer :: {each} => null()" for each in links)]
        self.derived.setdefault(name, "\n".join([f"type :: {name}", *fields, f"end type {name}"]))
        return f"type({name})"

    def grow(self, elem: str) -> str:
        name = f"grow_{elem}"
        text = _ELEM[elem]
        self.derived.setdefault(
            name, f"type :: {name}\n  {text}, allocatable :: data(:)\n  integer(8) :: size = 0\nend type {name}"
        )
        self.need(
            name,
            f"""
subroutine push_{elem}(list, x)
  type({name}), intent(inout) :: list
  {text}, intent(in) :: x
  {text}, allocatable :: wider(:)
  if (.not. allocated(list%data)) allocate(list%data(0:7))
  if (list%size == size(list%data)) then
    allocate(wider(0:2 * list%size - 1))
    wider(0:list%size - 1) = list%data
    call move_alloc(wider, list%data)
  end if
  list%data(list%size) = x
  list%size = list%size + 1
end subroutine push_{elem}""",
        )
        return name

    # Expressions: whole numbers are of kind 8, and intrinsics want their arguments alike

    @staticmethod
    def kind8(value: str) -> str:
        return f"{value}_8" if value.isdigit() else value

    def wide(self, value: Value) -> Value:
        return Value(value, LONG, value.level)

    def narrow(self, value: Value) -> Value:
        return Value(value, INT, value.level)

    def binary(self, op: str, left: Value, right: Value, type: ir.Type) -> Value:
        intrinsic = {"%": "mod", "&": "iand", "|": "ior", "^": "ieor", "min": "min", "max": "max"}.get(op)
        if intrinsic:
            return Value(f"{intrinsic}({self.kind8(left)}, {self.kind8(right)})", type)
        return super().binary(op, left, right, type)

    def argument(self, value: Value) -> str:
        return self.kind8(value)

    def needs_order(self, node: ir.Both | ir.Either) -> bool:
        return any(isinstance(each, ir.Ask) for each in ir.walk(node.right))

    def condition(self, node: object) -> str:
        """Returns a condition; both sides of `.and.` may be evaluated, so that what must wait gets a line of its own."""
        if isinstance(node, (ir.Both, ir.Either)) and self.needs_order(node):
            flag = self.fresh("go")
            self.flags.append(flag)
            self.put(f"{flag} = {self.condition(node.left)}")
            self.put(f"if ({flag if isinstance(node, ir.Both) else f'.not. {flag}'}) then")
            with self.indented():
                self.put(f"{flag} = {self.condition(node.right)}")
            self.put("end if")
            return flag
        return self.x(node)

    # Statements

    def sign(self, type: Type) -> str:
        return "=>" if type.kind in ("list", "tree") else "="

    def let(self, name: str, type: ir.Type, value: Value) -> None:
        self.put(f"{self.v(name)} {self.sign(type)} {value}")

    def assign(self, node: ir.Assign) -> None:
        self.put(f"{self.v(node.name)} {self.sign(self.types[node.name])} {self.x(node.value)}")

    def block(self, head: str, statements: tuple, tail: str) -> None:
        self.put(head)
        with self.indented():
            self.body(statements)
        self.put(tail)

    def count(self, node: ir.For) -> None:
        var = self.v(node.var)
        last = self.x(ir.minus_one(node.high))
        step = self.x(node.step)
        if node.down:
            head = f"do {var} = {last}, {self.x(node.low)}, -1"
        else:
            head = f"do {var} = {self.x(node.low)}, {last}{'' if step == '1' else f', {step}'}"
        self.block(head, node.body, "end do")

    def repeat(self, node: ir.While) -> None:
        if isinstance(node.condition, (ir.Both, ir.Either)) and self.needs_order(node.condition):
            self.put("do")
            with self.indented():
                flag = self.condition(node.condition)
                self.put(f"if (.not. {flag}) exit")
                self.body(node.body)
            self.put("end do")
        else:
            self.block(f"do while ({self.x(node.condition)})", node.body, "end do")

    def branch(self, node: ir.If) -> None:
        self.put(f"if ({self.condition(node.condition)}) then")
        with self.indented():
            self.body(node.then)
        if node.orelse:
            self.put("else")
            with self.indented():
                self.body(node.orelse)
        self.put("end if")

    def free(self, a: Target) -> str | list[str] | None:
        return (
            f"deallocate({a})"
            if a.type.kind in ("arr", "mat", "jag")
            else f"if (allocated({a}%data)) deallocate({a}%data)"
        )

    # Arrays

    def load(self, a: Target, text: str) -> str:
        return text if a.elem == "i64" else f"int({text}, 8)"

    def store(self, a: Target, value: str) -> str:
        return {"u8": f"int({value}, 1)", "i32": f"int({value}, 4)", "f64": f"real({value}, 8)"}.get(
            a.elem, self.kind8(value)
        )

    def arr_new(self, a: Target, size: Value, fill: Value) -> Lines:
        return [f"allocate({a}(0:{size} - 1))", f"{a} = {fill}"]

    def arr_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}({i})")

    def arr_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}({i}) = {self.store(a, value)}"

    def arr_copy(self, a: Target, source: Target, size: Value) -> Lines:
        return [f"allocate({a}(0:{size} - 1))", f"{a} = {source}"]

    def vec_new(self, a: Target) -> Lines:
        return f"{a}%size = 0"

    def vec_push(self, a: Target, value: Value) -> Lines:
        self.grow(a.elem)
        return f"call push_{a.elem}({a}, {self.store(a, value)})"

    def statement(self, node: object) -> None:
        if isinstance(node, ir.Let) and isinstance(node.value, ir.Ask) and node.value.op == "vec.pop":
            stack = self.target(node.value.target)
            self.put(f"{stack}%size = {stack}%size - 1")
            self.put(f"{self.v(node.name)} = {self.load(stack, f'{stack}%data({stack}%size)')}")
        else:
            super().statement(node)

    def vec_get(self, a: Target, i: Value) -> str:
        return self.load(a, f"{a}%data({i})")

    def vec_set(self, a: Target, i: Value, value: Value) -> Lines:
        return f"{a}%data({i}) = {self.store(a, value)}"

    def vec_len(self, a: Target) -> str:
        return f"{a}%size"

    def mat_new(self, a: Target, rows: Value, columns: Value, fill: Value) -> Lines:
        return [f"allocate({a}(0:{rows} - 1, 0:{columns} - 1))", f"{a} = {fill}"]

    def mat_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}({i}, {j})")

    def mat_set(self, a: Target, i: Value, j: Value, value: Value) -> Lines:
        return f"{a}({i}, {j}) = {self.store(a, value)}"

    def jag_new(self, a: Target, rows: Value) -> Lines:
        return f"allocate({a}(0:{rows} - 1))"

    def jag_push(self, a: Target, i: Value, value: Value) -> Lines:
        self.grow(a.elem)
        return f"call push_{a.elem}({a}({i}), {self.store(a, value)})"

    def jag_len(self, a: Target, i: Value) -> str:
        return f"{a}({i})%size"

    def jag_get(self, a: Target, i: Value, j: Value) -> str:
        return self.load(a, f"{a}({i})%data({j})")

    # Cells

    def nil(self, kind: str) -> str:
        return "null()"

    def cons(self, head: Value, tail: Value) -> str:
        self.need(
            "cons",
            """
function cons(value, next) result(made)
  integer(8), intent(in) :: value
  type(cell), pointer, intent(in) :: next
  type(cell), pointer :: made
  allocate(made)
  made%value = value
  made%next => next
end function cons""",
        )
        return f"cons({self.kind8(head)}, {tail})"

    def node(self, left: Value, value: Value, right: Value) -> str:
        self.need(
            "branch",
            """
function branch(left, value, right) result(made)
  type(tree), pointer, intent(in) :: left, right
  integer(8), intent(in) :: value
  type(tree), pointer :: made
  allocate(made)
  made%left => left
  made%value = value
  made%right => right
end function branch""",
        )
        return f"branch({left}, {self.kind8(value)}, {right})"

    def list_some(self, c: Value) -> str:
        return f"associated({c})"

    tree_some = list_some

    def list_head(self, c: Value) -> str:
        return f"{c}%value"

    tree_value = list_head

    def list_tail(self, c: Value) -> str:
        return f"{c}%next"

    def tree_left(self, c: Value) -> str:
        return f"{c}%left"

    def tree_right(self, c: Value) -> str:
        return f"{c}%right"


def _folded(line: str) -> list[str]:
    """Cuts a line at the 120th column or before; compilers take no more than 132."""
    pieces = []
    while len(line) > 120:
        place = line.rfind(" ", 40, 118)
        pieces.append(line[:place] + " &")
        line = " " * 8 + line[place + 1 :]
    return [*pieces, line]


EMITTER = Fortran
