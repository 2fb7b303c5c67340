"""What a program's text says about its work and memory: amounts with which a regressor extrapolates.

    costs = program_costs("a = [i * i for i in range(20_000_000)]", "python")
    costs["iterations"]                                  # 20000000.0
    costs["grown_bytes"]                                 # about 820 MB

`PROGRAM_COSTS` names the amounts. They are estimates that hold for usual programs. Bounds of loops are resolved from
literals, named constants, arguments of calls and sizes of containers. Functions count as often as they are called, recursion
by the number of calls that its arguments allow, and what grows in a loop by the loop's iterations. What the text does not say
counts as unknown, such as a number that is read from the input. Nothing is run, and no text raises an error.

The scan takes four steps, each linear in the length of the text.

1. `Outline` (`program_text_rlm.py`) finds tokens, functions, loops and conditions.
2. `_Program` collects what happens where: bindings, calls, allocations, growth (`_EVENTS`).
3. Functions are estimated from callers to callees, so that arguments and sizes are known before they are used
   (`program_values_rlm.py`, `program_loops_rlm.py`, `program_growth_rlm.py`, `program_allocations_rlm.py`).
4. Work is the sum over all tokens of how often each is run.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache, partial

from .program_allocations_rlm import Allocations
from .program_facts_rlm import (
    BULK,
    CALLED_BY_OTHERS,
    DEFAULTS,
    EQUAL_COMPARES,
    GROWS,
    INPUTS,
    ITERATES,
    LISTS,
    MAPS,
    MOST,
    OWN_GROWTH,
    PRINTS_INTO,
    SCHEME_VECTORS,
    SHAPES,
    SORTS,
    SPLITS,
    STRINGS,
    TYPED_ARRAYS,
    UNKNOWN_COUNT,
    UPDATES,
)
from .program_text_rlm import STRING, Outline
from .program_values_rlm import Routine

PROGRAM_COSTS = (
    "work",  # tokens that are run, each as often as it is
    "step_ns",  # by what a token takes in the language, with sorting, copying and first touches of memory, nanoseconds
    "iterations",  # of all loops
    "largest_nest",  # iterations of the loops around the token that is run most often
    "outer_iterations",  # of loops that stand in no other
    "inner_iterations",  # of loops that stand in others
    "loops",
    "loop_depth",
    "unknown_loops",  # whose number of iterations the text does not say
    "unknown_depth",
    "recursive_functions",
    "recursion_calls",  # estimated
    "recursion_branching",  # the most calls of itself in one function
    "recursion_depth",  # of calls within calls
    "recursion_argument",  # the largest constant that a recursive function is called with
    "remembers",  # recursive functions that keep results
    "sorted_steps",  # n log n of sorted containers
    "array_bytes",  # arrays of constant size that are written
    "untouched_bytes",  # arrays of constant size that are reserved only
    "grown_bytes",  # lists that grow
    "map_bytes",  # maps and sets that grow
    "string_bytes",
    "copied_bytes",  # by growing a text that cannot change
    "bulk_bytes",  # that library calls such as memset and sum go over
    "object_bytes",  # objects and nodes made in loops
    "held_bytes",  # the sum of what is written
    "largest_bytes",  # the largest part of that sum
    "conditional_bytes",  # arrays under a condition
    "elements",  # of all containers
    "objects",
    "unknown_growth",  # places where something grows by an unknown number
    "lines",
    "functions",
    "calls",
    "heavy_imports",
    "reads_input",
)


def program_costs(text: str, language: str) -> dict[str, float]:
    """Amounts of work and memory that a program's text speaks of.

    Args:
        text: The program. Header lines that are comments are ignored.
        language: A key of `LANGUAGES`; the text of others is read as C.

    Returns:
        A number of at least 0 for each of `PROGRAM_COSTS`; bytes, nanoseconds and counts, not their logarithms.
    """
    return dict(zip(PROGRAM_COSTS, _amounts(text, language), strict=True))


@lru_cache(maxsize=4096)  # a fit asks for the features of the same texts several times
def _amounts(text: str, language: str) -> tuple[float, ...]:
    program = _Program(Outline(text, language))
    program.estimate()
    return tuple(min(max(float(program.amounts[name]), 0.0), MOST) for name in PROGRAM_COSTS)


class _Program(Allocations):
    """One program while its amounts are estimated."""

    def __init__(self, outline: Outline):
        super().__init__(outline)
        self._collect_blocks()
        self._nest()
        self._collect_events()

    def _collect_events(self) -> None:
        """Notes for every function at which tokens something happens."""
        self._block_events()
        defined = {function.at for function in self.outline.functions}
        for at, text in enumerate(self.texts):
            if text in ("=", ":=", "<-", "set!") or text in UPDATES:
                self._note_binding(at, text)
            event = _EVENTS.get(text)
            if event is not None:
                self._routine_at(at).events.append((at, partial(event, self)))
            if text in self.by_class and self._makes_object(at):
                self._routine_at(at).events.append((at, partial(self._make_object, name=text)))
            called = self.by_name.get(text)
            if called is not None and at not in defined and self._is_call(at):
                self._note_call(at, text, called)
        for routine in self.routines:
            routine.events.sort(key=lambda event: event[0])

    def _routine_at(self, at: int) -> Routine:
        return self.routines[self.blocks[self.block_of[at]].function]

    def _block_events(self) -> None:
        """Blocks are estimated where they begin, named lets are called where they stand."""
        for number, block in enumerate(self.blocks):
            if block.kind != "function":
                key = min(block.first, block.head) if block.first < len(self.texts) else block.head
                self.routines[block.function].events.append((key, partial(self._enter, number)))
        for number, function in enumerate(self.outline.functions if self.facts.layout == "parens" else (), 1):
            if self.text(function.at - 1) == "let":
                owner = self.routines[self.routines[number].parent]
                owner.callees.setdefault(number, function.at)
                owner.events.append((function.at, partial(self._call_let, number)))

    def _note_binding(self, at: int, text: str) -> None:
        name_at = at + 1 if text == "set!" else at - 1 if text in ("++", "--") else self._assigned(at)
        self.bound_at.setdefault(self.text(name_at), []).append(at)
        if text in ("++", "--"):
            self.bound_at.setdefault(self.text(at + 1), []).append(at)

    def _note_call(self, at: int, name: str, number: int) -> None:
        self.called_at.setdefault(name, []).append(at)
        owner = self.blocks[self.block_of[at]].function
        if number == owner:
            self.routines[owner].own_calls.append(at)
        else:
            self.routines[owner].callees.setdefault(number, at)
            self.routines[owner].events.append((at, partial(self._call, number)))
        self.amounts["calls"] += 1

    def _makes_object(self, at: int) -> bool:
        """Whether an object is made at the name of a class: `Cell(x)` of Python and Kotlin, `&cell{x}` of Go, `Cell { x }`."""
        if self.text(at - 1) in ("class", "struct", "type", "new", "record", ":", "->", "extends", "impl"):
            return False
        if self.language in ("python", "kotlin", "swift", "scala", "d"):
            return self.text(at + 1) == "("
        return (
            self.language in ("go", "rust")
            and self.text(at + 1) == "{"
            and self.text(at - 1) not in ("for", "]", ")", "*")
        )

    def _is_call(self, at: int) -> bool:
        """Whether a function's name is applied at a token."""
        if self.text(at + 1) == "(":
            return self.text(at - 1) != "new"
        if self.language == "cpp" and self.text(at + 2) == "(" and self.text(at + 1)[:1].isalpha():
            return True  # DSU dsu(n);
        if self.language in ("haskell", "ocaml"):
            return True
        if self.facts.layout == "parens":
            return self.text(at - 1) == "("
        return self.language in ("ruby", "perl", "bash", "pascal") and self.text(at + 1) not in ("=", ":=", ".")

    def _order(self) -> list[int]:
        """Functions, callers before callees."""
        seen: set[int] = set()
        order: list[int] = []
        called = {callee for routine in self.routines for callee in routine.callees}
        roots = [0, *(number for number in range(1, len(self.routines)) if number not in called)]
        for root in [*roots, *range(len(self.routines))]:
            if root in seen:
                continue
            seen.add(root)
            waiting = [(root, self._callees(root))]
            while waiting:
                number, callees = waiting[-1]
                following = next((callee for callee in callees if callee not in seen), None)
                if following is None:
                    order.append(number)
                    waiting.pop()
                else:
                    seen.add(following)
                    waiting.append((following, self._callees(following)))
        order.reverse()
        if order and order[0] != 0:  # global names come first
            order.remove(0)
            order.insert(0, 0)
        return order

    def _callees(self, number: int) -> Iterator[int]:
        """Functions that a function calls, the last first: in the reversed order the first comes first."""
        callees = self.routines[number].callees
        return iter(sorted(callees, key=lambda callee: -callees[callee]))

    def estimate(self) -> None:
        """Fills `amounts`."""
        amounts = self.amounts
        amounts["lines"] = len(self.outline.starts)
        amounts["functions"] = len(self.outline.functions)
        self.routines[0].calls = 1.0
        for number in self._order():
            routine = self.routines[number]
            self.now = number
            if not routine.calls and not self._is_dead(routine):
                routine.calls = 1.0
            if routine.own_calls:
                self._recursion(routine)
                self._remembered(routine)
            before = amounts["elements"]
            for at, event in routine.events:
                event(at)
            if routine.calls > 4 and amounts["elements"] == before and routine.source is not None:
                self._grown_by_calls(routine)
        self._sum_work()
        parts = ("array_bytes", "grown_bytes", "map_bytes", "string_bytes", "object_bytes")
        amounts["held_bytes"] = sum(amounts[part] for part in parts)
        amounts["step_ns"] += 0.3 * (amounts["held_bytes"] + amounts["bulk_bytes"])

    def _remembered(self, routine: Routine) -> None:
        """Results that a decorator keeps."""
        at = routine.source.at if routine.source is not None else 0
        if any(text in ("lru_cache", "cache", "memoize") for text in self.texts[max(at - 12, 0) : at]):
            kept = min(routine.calls * routine.recursion, 1e12)
            self._add("map_bytes", kept * self.facts.entry, at, kept)

    def _is_dead(self, routine: Routine) -> bool:
        """Whether nothing in a program that has a beginning speaks of a function."""
        if routine.source is None:
            return False
        name = routine.source.name
        begins = "main" in self.by_name or "Main" in self.by_name or bool(self.routines[0].callees)
        outside = name.lower() in CALLED_BY_OTHERS or name.startswith(("__", "test", "Test", "operator"))
        return begins and not outside and self.occurrences[name] == 1

    def _grown_by_calls(self, routine: Routine) -> None:
        """Growth by a function of the program's own, such as `push(list, x)`, whose body does not say by how much."""
        assert routine.source is not None
        if OWN_GROWTH.search(routine.source.name) is None:
            return
        count = min(routine.calls * routine.recursion, 1e12)
        text = any(word in routine.source.name.lower() for word in ("text", "buf", "str", "char", "sb_"))
        size = 1.5 if text else self.facts.slot + self.facts.boxed
        self._add("string_bytes" if text else "grown_bytes", count * size, routine.source.at, count)

    def _sum_work(self) -> None:
        """Amounts of work, from the blocks' weights."""
        amounts = self.amounts
        own = [float(block.last - block.first) for block in self.blocks]
        for block in self.blocks:
            if block.parent >= 0:
                own[block.parent] -= block.last - block.first
        for number, block in enumerate(self.blocks):
            routine = self.routines[block.function]
            times = min(block.weight * routine.calls * routine.recursion, MOST)
            amounts["work"] += max(own[number], 0.0) * times
            amounts["largest_nest"] = max(amounts["largest_nest"], times)
            if block.kind != "loop":
                continue
            amounts["loops"] += 1
            amounts["iterations"] += times
            amounts["outer_iterations" if block.depth == 1 else "inner_iterations"] += times
            amounts["loop_depth"] = max(amounts["loop_depth"], block.depth)
            if not block.known:
                amounts["unknown_loops"] += 1
                amounts["unknown_depth"] = max(amounts["unknown_depth"], self._unknown_depth(number))
        speed = self.facts.token_ns
        amounts["step_ns"] = (
            amounts["work"] * speed + 2 * (speed + 1) * amounts["sorted_steps"] + 0.05 * amounts["copied_bytes"]
        )

    def _enter(self, number: int, _at: int) -> None:
        """Estimates a block when its function's events come to it."""
        block = self.blocks[number]
        around = self.blocks[block.parent] if block.parent >= 0 else None
        if around is not None and around.kind != "function":
            block.weight, block.kept, block.depth = around.weight, around.kept, around.depth
        if block.kind != "loop":
            block.weight *= self._chance(block)
            return
        if block.header is not None:
            count = self._count(block)
            block.known = count is not None
            if count is None:
                count = 1.0 if block.word == "each" else UNKNOWN_COUNT
                block.known = block.word == "each"
            block.count = min(max(count, 0.0), MOST)
        block.weight = min(block.weight * block.count, MOST)
        block.depth += 1
        if block.word == "comprehension":
            self._comprehension(number)
        elif block.word == "cells":
            block.kept = min(block.kept * block.count, MOST)

    def _bind(self, at: int) -> None:
        """A name that is bound to a value."""
        name_at = at - 1
        if self.text(at) == "=" and self.language in EQUAL_COMPARES and not self._is_binding(at):
            return
        if self.text(at - 1) == "." and self.language in ("php", "perl"):  # $s .= "x"
            self.kinds[self.text(at - 2)] = "string"
            self._grow_string(self.text(at - 2), at)
            return
        if self.text(at - 1) in ("]", "}") or self.in_header[at]:
            if self.text(at - 1) == "]" and self.language in ("c", "cpp", "d", "fortran"):
                self._declared_array(at - 1)
            self._store(at)
            return
        name_at = self._assigned(at)
        name = self.text(name_at)
        if not (name[:1].isalpha() or name[:1] == "_") or self.text(name_at - 1) in (".", "->"):
            self._store(at)
            return
        if self.text(name_at - 1) == "," and self.language in ("python", "ruby", "lua", "go"):
            self._bind_several(name_at, at)
            return
        alias = self.text(at + 1) if self.text(at + 2) == "[" else ""
        self.made_at.setdefault(name, self.made_at.get(alias, at))
        self._kind_of(name, at)
        self._set(name, at + 1)

    def _is_binding(self, at: int) -> bool:
        """Whether `=` binds a name in a language where it compares, too."""
        if self.language == "pascal":
            return self.outline.starts_line(at - 1) or self.text(at - 2) in (";", "const", "=", ":")
        line = self.outline.starts[self.outline.lines[at]]
        return line == at - 1 or any(
            text in ("let", "and", "rec", "where") for text in self.texts[max(line, at - 12) : at]
        )

    def _bind_several(self, last: int, at: int) -> None:
        names = [self.text(last)]
        while self.text(last - 1) == "," and len(names) < 8:
            last -= 2
            names.append(self.text(last))
        parts = self.outline.split(at + 1, self.outline.line_end(at))
        for name, part in zip(reversed(names), parts):
            self.made_at.setdefault(name, at)
            self._set(name, part[0])

    def _set(self, name: str, at: int) -> None:
        """Binds a name to the expression that begins at a token."""
        value = self.expression(at)
        if value is None:
            value = self._default(at)
        self._limit(name, at)
        names, first = self.routines[self.now].names, self.routines[self.now].first
        if value is not None:
            first[name] = value
        if name not in names:
            names[name] = value
        elif name in self.texts[at : at + 8] and not self.outline.starts_line(at):
            return  # n = n - 1
        elif value is not None and names[name] is not None:
            names[name] = max(value, names[name] or 0.0)
        block = self.blocks[self.block_of[min(at, len(self.block_of) - 1)]]
        if value is None and name in names and block.depth:
            names[name] = names[name]
        size = self._size_at(at)
        if size is not None:
            self.sizes[name] = size
        elif self.text(at) in self.sizes and self.outline.starts_line(at + 1):
            self.sizes.setdefault(name, self.sizes[self.text(at)])

    def _default(self, at: int) -> float | None:
        """The value that stands for one that is missing: `args().nth(1)...unwrap_or(100)`."""
        for place in range(at, min(self.outline.statement_end(at), at + 60)):
            if self.text(place) in DEFAULTS and self.text(place + 1) == "(":
                return self.expression(place + 2)
        return None

    def _limit(self, name: str, at: int) -> None:
        """Notes how many values a name can have: `key = x % m`."""
        end = at
        for _ in range(30):
            if (
                end >= len(self.texts)
                or self.text(end) in (";", ",", "in")
                or (end > at and self.outline.starts_line(end))
            ):
                break
            if self.text(end) in ("%", "mod", "rem"):
                modulus = self._operand(end + 1, 0)[0]
                if modulus is not None and modulus > 0:
                    self.limits[name] = modulus
            end = end + 1 if self.text(end) in ("(", ")") else self.outline.closing[end] + 1

    def _define(self, at: int) -> None:
        """`#define N 100`, `(define n 100)`, `define("N", 100)`, `parameter (n = 100)`."""
        if self.text(at - 1) in ("#", "(") and self.text(at + 1)[:1].isalpha():
            self._set(self.text(at + 1), at + 2)
        elif self.text(at + 1) == "(" and self.text(at + 3) == ",":
            self._set(self.outline.strings.get(at + 2, ""), at + 4)

    def _let(self, at: int) -> None:
        """`(let* ((n 100) (m 5)) ...)`."""
        if self.facts.layout != "parens" or self.text(at + 1) != "(":
            return
        inner = at + 2
        for _ in range(24):
            if self.text(inner) != "(":
                break
            name = self.text(inner + 1)
            self.made_at.setdefault(name, inner)
            self.bound_at.setdefault(name, []).append(inner)
            value = self._operand(inner + 2, 0)[0]
            if value is not None:
                names = self.routines[self.now].names
                names[name] = max(value, names.get(name) or 0.0)
            inner = self.outline.closing[inner] + 1

    def _kind_of(self, name: str, at: int) -> None:
        """Notes whether a name is bound to a map or a string."""
        end = min(at + 12, len(self.texts))
        begin = max(at - 14, 0)
        stop = self.outline.starts[self.outline.lines[at]]
        for place in (*range(max(begin, stop), at), *range(at + 1, end)):
            text = self.texts[place]
            if place > at and self.outline.starts_line(place):
                break
            if text in ITERATES and (self.text(place - 1) == "." or self.language == "perl"):
                continue
            if text in MAPS:
                self.kinds[name] = "map"
                return
            if text in STRINGS and self.kinds.get(name) != "list":
                self.kinds[name] = "string"
            elif text in LISTS:
                self.kinds[name] = "list"
            if text == ";":
                break
        if self.text(at + 1) == STRING:
            self.kinds[name] = "string"
        elif (
            self.text(at + 1) == "{"
            and self.text(at + 2) == "}"
            and self.language in ("python", "ruby", "javascript", "typescript")
        ):
            self.kinds[name] = "map"

    def _update(self, at: int) -> None:
        """`n += 1`: the name stands for no constant any more."""
        name = (
            self.text(at - 1) if self.text(at - 1)[:1].isalpha() or self.text(at - 1)[:1] == "_" else self.text(at + 1)
        )
        if self.in_header[at]:
            return
        if self.text(at - 1) in ("]", "}"):
            self._store(at)
            return
        names = self.routines[self.now].names
        if self.language == "bash" and self.text(at + 1) == "(":  # a+=("$x")
            self._hold(name, self._growth(name, at), at)
        elif self.text(at) == "+=" and self.kinds.get(name) == "string":
            self._grow_string(name, at)
        elif self.text(at) in ("+=", "++") and name in names and names[name] == 0.0:
            # A counter: it ends at the iterations of the loops around.
            names[name] = None
        elif name in names and self.text(at) not in ("++", "--"):
            names[name] = None


_EVENTS: dict[str, Callable[[_Program, int], None]] = {
    **dict.fromkeys(("=", ":="), _Program._bind),
    **dict.fromkeys(UPDATES, _Program._update),
    "define": _Program._define,
    **dict.fromkeys(("let", "let*", "letrec"), _Program._let),
    **dict.fromkeys(GROWS, _Program._grow),
    **dict.fromkeys(("<<", "~="), _Program._shift),
    "vector": _Program._vector,
    **dict.fromkeys(("resize", "assign", "reserve", "setlength"), _Program._resize),
    **dict.fromkeys(("malloc", "calloc", "realloc"), _Program._malloc),
    "]": _Program._bracket,
    **dict.fromkeys(
        (
            "list",
            "tuple",
            "deque",
            "toList",
            "map",
            "filter",
            "select",
            "flat_map",
            "flatMap",
            "to_a",
            "collect",
            "ToList",
            "ToArray",
            "toArray",
        ),
        _Program._list_call,
    ),
    **dict.fromkeys((*SHAPES, "arange"), _Program._numpy),
    **dict.fromkeys(("make", "make_matrix", "init"), _Program._make),
    "vec": _Program._vec,
    "range": _Program._php_range,
    **dict.fromkeys(BULK, _Program._bulk),
    **dict.fromkeys(MAPS | (STRINGS - {"str", "strings"}), _Program._declared),
    **dict.fromkeys(("make_shared", "make_unique", "Box", "Rc", "Arc"), _Program._shared),
    "array": _Program._python_array,
    "x": _Program._repeated_list,
    **dict.fromkeys(
        ("copyOf", "clone", "slice", "dup", "to_vec", "copy", "deepcopy", "sorted", "toArray"), _Program._copy
    ),
    **dict.fromkeys(
        (
            "Array",
            "array_fill",
            *SCHEME_VECTORS,
            "replicate",
            "newArray",
            "listArray",
            "bytearray",
            "nCopies",
            "MutableList",
            *TYPED_ARRAYS,
        ),
        _Program._array_call,
    ),
    "allocate": _Program._allocate,
    "seq": _Program._sequence,
    **dict.fromkeys(("cons", "::"), _Program._cons),
    **dict.fromkeys(("hash-set!", "hashq-set!", "hashv-set!", "hash-table-set!"), _Program._scheme_store),
    **dict.fromkeys(SORTS - {"sorted"}, _Program._sort),
    STRING: _Program._text_repeat,
    **dict.fromkeys(SPLITS, _Program._split_text),
    **dict.fromkeys(PRINTS_INTO, _Program._print_into),
    **dict.fromkeys(("import", "from"), _Program._import),
    **dict.fromkeys(INPUTS, _Program._input),
    **dict.fromkeys(("{", "[", "("), _Program._literal_object),
}


def _new_or_make(program: _Program, at: int) -> None:
    if program.language in ("ruby", "rust", "perl"):
        program._make(at)
    else:
        program._new(at)


_EVENTS["new"] = _new_or_make


__all__ = ["PROGRAM_COSTS", "program_costs"]
