"""Allocations of known size in all languages: arrays, vectors, buffers, comprehensions, copies."""

import math
import re

from .program_facts_rlm import (
    ARRAY_CODES,
    EAGER,
    GROWS,
    HEAVY,
    ITERATES,
    LITERAL_OBJECTS,
    MAPS,
    MOST,
    NO_OBJECTS,
    REPEATS,
    SIZES,
    STRINGS,
    TYPED_ARRAYS,
    UNTOUCHED,
)
from .program_growth_rlm import Growth
from .program_text_rlm import STRING
from .program_values_rlm import Block, apply, first_of

_FORTRAN_SIZES = {"integer": 4.0, "real": 4.0, "logical": 4.0, "complex": 8.0, "double": 8.0, "character": 1.0}
_FROM_LIST = frozenset({"fromList", "fromAscList", "fromDistinctAscList"})


class Allocations(Growth):
    """A program, and what it allocates at once. Each reader is called at the token that names the allocation."""

    def _new(self, at: int) -> None:
        """`new T[n]`, `new T(...)`."""
        name_at = at + 1
        while self.text(name_at + 1) in (".", "::"):
            name_at += 2
        name, opened = self.text(name_at), name_at + 1
        if self.text(opened) == "<":
            opened = self._closing_angle(opened)
        if self.text(opened) == "[":
            self._new_array(at, name, opened)
            return
        if name in ("Array", "SplFixedArray", *TYPED_ARRAYS) and self.text(opened) == "(":
            count = self.expression(opened + 1)
            if count is not None:
                size = SIZES.get(name, 8)
                filled = name == "Array" or "fill" in self.texts[opened : opened + 8]
                self._sized(at, count, float(size), filled or self._is_written(self._bound_to(at)))
            return
        if (
            name in MAPS
            or name in STRINGS
            or name
            in ("ArrayList", "List", "Vector", "ArrayDeque", "LinkedList", "Stack", "Queue", "Random", "Scanner")
        ):
            return
        self._make_object(at, name)

    def _new_array(self, at: int, name: str, opened: int) -> None:
        counts: list[float] = []
        for _ in range(4):
            if self.text(opened) != "[":
                break
            parts = self.outline.split(opened + 1, self.outline.closing[opened])
            values = [self.expression(begin) for begin, _ in parts]
            if not values or any(value is None for value in values):
                break
            counts += [value or 0.0 for value in values]
            opened = self.outline.closing[opened] + 1
        if counts:
            size = SIZES.get(name, 4 if self.language == "java" else 8)
            self._sized(at, math.prod(counts), float(size), written=True, length=counts[0])

    def _sized(self, at: int, count: float | None, size: float, written: bool, length: float | None = None) -> None:
        """An array of known size."""
        if count is None or count <= 0:
            return
        bound = self._bound_to(at)
        if bound and (self.blocks[self.block_of[at]].kept > 1 or self._is_stored(at)):
            self.rows[bound] = length if length is not None else count
        elif bound:
            self.sizes[bound] = length if length is not None else count
            self.element.setdefault(bound, int(size))
            self.fixed.add(bound)
        kept = self._kept(at)
        self._add("array_bytes" if written else "untouched_bytes", count * size * kept, at, count * kept)

    def _vector(self, at: int) -> None:
        """`vector<T> a(n)`, `vector<vector<T>> a(n, vector<T>(m))`, `vector<T> a;`."""
        if self.text(at + 1) != "<":
            return
        opened = self._closing_angle(at + 1)
        inside = self.texts[at + 2 : opened - 1]
        name = ""
        if self.text(opened)[:1].isalpha():
            name, opened = self.text(opened), opened + 1
            self.made_at.setdefault(name, at)
        nested = "vector" in inside
        size = 24.0 if nested else (1 / 8 if inside[:1] == ["bool"] else float(self._type_size(inside)))
        if name:
            self.element[name] = int(size * 1.5) or 1
        if self.text(opened) not in ("(", "{") or self.text(opened + 1) in (")", "}"):
            return
        parts = self.outline.split(opened + 1, self.outline.closing[opened])
        count = self.expression(parts[0][0]) if parts else None
        if self.text(opened) == "{" or count is None:
            if name and self.text(opened) == "{":
                self.sizes[name] = float(len(parts))
            return
        if name:
            self.sizes[name] = count
            if nested and len(parts) == 2:
                inner = self._first_argument(*parts[1])
                if inner is not None:
                    self.rows[name] = inner
        kept = self._kept(at) * self._enclosing_vectors(at)
        self._add("array_bytes", count * size * kept, at, count * kept)

    def _first_argument(self, first: int, last: int) -> float | None:
        """The first argument of a call between two tokens."""
        opened = next((at for at in range(first, min(last, first + 16)) if self.text(at) == "("), None)
        return None if opened is None else self.expression(opened + 1)

    def _enclosing_vectors(self, at: int) -> float:
        """Elements of the vectors whose constructors an inner one stands in."""
        product = 1.0
        around = self.outline.outer[at]
        for _ in range(4):
            if around < 0:
                break
            parts = self.outline.split(around + 1, self.outline.closing[around])
            if len(parts) == 2 and parts[1][0] <= at and self.text(around) == "(" and self.text(around - 1) != "for":
                product *= self.expression(parts[0][0]) or 1.0
            around = self.outline.outer[around]
        return min(product, 1e12)

    def _declared(self, at: int) -> None:
        """`unordered_map<K, V> seen;`, `string text;`: what a name that is declared holds."""
        if self.language == "go" and self.text(at - 1) == "." and self.text(at - 3)[:1].isalpha():
            self.kinds[self.text(at - 3)] = "string"  # var sb strings.Builder
            return
        if self.text(at - 1) in (".", "->", "?.") or self.language == "perl":
            if self.text(at) in GROWS:
                self._grow(at)
            else:
                self._list_call(at)
            return
        if self.language == "python":
            self._list_call(at)
        if not self.facts.types_first:
            return
        name_at = self._closing_angle(at + 1) if self.text(at + 1) == "<" else at + 1
        name = self.text(name_at)
        if (name[:1].isalpha() or name[:1] == "_") and self.text(name_at + 1) in (";", ",", "=", "(", "{"):
            is_map = self.text(at) in MAPS
            self.kinds.setdefault(name, "map" if is_map else "string")
            self.made_at.setdefault(name, at)
            while self.text(name_at + 1) == "," and self.text(name_at + 3) in (",", ";"):  # string a, b;
                name_at += 2
                self.kinds.setdefault(self.text(name_at), "map" if is_map else "string")
                self.made_at.setdefault(self.text(name_at), at)
            if self.text(name_at + 1) == "(" and not is_map and self.text(name_at + 2) != ")":
                count = self.expression(name_at + 2)
                if count is not None and self.text(name_at + 2) != STRING:
                    self.sizes[name] = count
                    self._add("string_bytes", count * self._kept(at), at)

    def _shared(self, at: int) -> None:
        """`make_shared<T>(...)`, `Box::new(...)`."""
        if self.text(at + 1) == "<":
            self._make_object(at, self.text(at + 2))
        elif self.text(at + 2) == "new" and self.text(at + 1) == "::":
            self._make_object(at, self.text(at + 4))

    def _resize(self, at: int) -> None:
        """`a.resize(n)`, `a.assign(n, x)`, `a.reserve(n)`, `SetLength(a, n)`."""
        if self.text(at + 1) != "(":
            return
        parts = self.outline.split(at + 2, self.outline.closing[at + 1])
        if not parts:
            return
        if self.text(at) == "setlength":
            counts = [self.expression(begin) for begin, _ in parts[1:]]
            if counts and all(count is not None for count in counts):
                name = self.text(parts[0][0])
                total = math.prod(count or 0.0 for count in counts)
                self.sizes[name] = counts[0] or 0.0
                self._add("array_bytes", total * self._declared_size(name), at, total)
            return
        if self.text(at - 1) not in (".", "->"):
            return
        count = self.expression(parts[0][0])
        name = self.text(at - 2)
        if count is None:
            return
        written = self.text(at) in ("resize", "assign")
        if written:
            self.sizes[name] = count
        kept = self.blocks[self.block_of[at]].weight if name == "]" else 1.0
        inner = self._enclosing_vectors(at)
        self._add(
            "array_bytes" if written else "untouched_bytes",
            count * self.element.get(name, 8) * kept * inner,
            at,
            count * kept,
        )

    def _declared_size(self, name: str) -> float:
        """Bytes of the elements of an array of Pascal: by the types that the text names."""
        found = [
            SIZES[text]
            for text in self.texts
            if text in ("int64", "longint", "integer", "boolean", "byte", "double", "qword")
        ]
        return float(max(found)) if found else 4.0

    def _malloc(self, at: int) -> None:
        """`malloc(n * sizeof(T))`, `calloc(n, sizeof(T))`, `realloc(p, ...)`."""
        if self.text(at + 1) != "(":
            return
        close = self.outline.closing[at + 1]
        inside = self.texts[at + 2 : close]
        element = next((float(SIZES[text]) for text in inside if text in SIZES), 8.0 if "sizeof" in inside else 1.0)
        if self.text(at) == "realloc":  # as many elements as calls, one by one
            self._add("grown_bytes", self._times(at) * element * 1.5, at, self._times(at))
            return
        values = [self.expression(begin) for begin, _ in self.outline.split(at + 2, close)]
        known = [value for value in values if value is not None]
        total = math.prod(known) if known else 0.0
        if None in values and total <= 0:
            return
        times = self._times(at)
        if times > 1 and total <= 256:  # nodes
            self.amounts["objects"] += times
            self._add("object_bytes", times * (16 * math.ceil((total + 8) / 16)), at, times)
            return
        if None in values:
            return
        name = self._bound_to(at)
        if name:
            self.sizes[name] = total / element
            self.element[name] = int(element)
        written = self._is_written(name) or (self.text(at) == "malloc" and self.occurrences[name] >= 3)
        self._add("array_bytes" if written else "untouched_bytes", total * self._kept(at), at, total / element)

    def _declared_array(self, close: int) -> None:
        """`long a[n][m];` and `static int a[N];`."""
        outline = self.outline
        counts: list[float] = []
        begin = close
        for _ in range(4):
            if self.text(begin) != "]" or outline.opening[begin] == begin:
                break
            opened = outline.opening[begin]
            value = self.expression(opened + 1) if opened + 1 < begin else None
            if value is None:
                return
            counts.append(value)
            begin = opened - 1
        name, kind = self.text(begin), self.text(begin - 1)
        if not counts or kind not in SIZES or not name[:1].isalpha():
            return
        total = math.prod(counts)
        self.sizes[name] = counts[-1]
        size = 8 if "long" in self.texts[max(begin - 3, 0) : begin] else SIZES[kind]
        self._add("array_bytes" if self._is_written(name) else "untouched_bytes", total * size, begin, total)

    def _bracket(self, at: int) -> None:
        """`]` behind a declared array, `[x] * n` of Python."""
        after = self.text(at + 1)
        if (
            self.language == "d"
            and self.text(at + 2) == ";"
            and self.text(at - 1) in SIZES
            and self.text(at - 2) == "["
        ):
            self.kinds[after] = "map"  # long[long] seen;
            self.made_at.setdefault(after, at)
        elif self.language in ("c", "cpp", "d") and after in (";", ",") and self.outline.opening[at] != at:
            self._declared_array(at)
        elif self.language == "haskell":
            self._haskell_list(at)
        elif self.language in ("python", "ruby") and after == "*":
            opened = self.outline.opening[at]
            before = self.text(opened - 1)
            if (before[:1].isalpha() and before not in ("return", "in", "lambda", "yield")) or before in ("]", ")"):
                return  # a[i] * n
            count, _ = self._operand(at + 2, 0)
            if count is not None:
                self._sized(opened, count * max(len(self.outline.split(opened + 1, at)), 1), 8.0, True)
        elif self.language == "python" and after == ")" and self.text(at + 2) == "*":
            named = self.outline.opening[at + 1] - 1
            if self.text(named) == "array":
                self._sized(named, self._operand(at + 3, 0)[0], float(self._code_size(named)), True)
        elif self.language == "python":
            opened = self.outline.opening[at]
            if self.text(opened - 1) == "*" and self.values[opened - 2] is not None:
                self._sized(opened, self.expression(opened - 2), 8.0, True)

    def _code_size(self, at: int) -> int:
        """Bytes of an element of `array("q", ...)`."""
        return ARRAY_CODES.get(self.outline.strings.get(at + 2, ""), 8)

    def _pascal_array(self, at: int) -> None:
        """`a: array[1..n, 1..m] of Integer`."""
        opened = at + 1
        if self.text(opened) != "[":
            return
        total = 1.0
        for begin, end in self.outline.split(opened + 1, self.outline.closing[opened]):
            dots = first_of(self.texts, begin, end, ("..",))
            low, high = self.expression(begin), self.expression(dots + 1) if dots is not None else None
            if low is None or high is None:
                return
            total *= max(high - low + 1, 0.0)
        name = self.text(at - 2)
        size = SIZES.get(self.text(self.outline.closing[opened] + 2), 8)
        self.sizes[name] = total
        self._add("array_bytes" if self._is_written(name) else "untouched_bytes", total * size, at, total)

    def _python_array(self, at: int) -> None:
        """`a = array("q")`: what grows in it has no objects."""
        if self.language == "pascal":
            self._pascal_array(at)
        if self.language == "d":
            self._list_call(at)
        name = self._bound_to(at)
        if self.language == "python" and name and self.text(at + 1) == "(":
            self.element[name] = self._code_size(at)

    def _repeated_list(self, at: int) -> None:
        """`(0) x $n` of Perl."""
        if self.language == "perl" and self.text(at - 1) == ")":
            count = self._operand(at + 1, 0)[0]
            self._sized(self.outline.opening[at - 1], count, 32.0, True)

    def _comprehension(self, number: int) -> None:
        """A comprehension of Python in brackets or braces, or inside `list(...)`."""
        block = self.blocks[number]
        around = block.first - 1
        opening, before = self.text(around), self.text(around - 1)
        parent = self.blocks[block.parent]
        # The last `for` of a comprehension stands for all of them.
        inner = any(
            other.word == "comprehension" and other.first == block.first and other.head > block.head
            for other in self.blocks[number + 1 : number + 4]
        )
        kept = opening in ("[", "{") or (
            opening == "(" and before in ("list", "set", "tuple", "dict", "sorted", "array", "deque", "join")
        )
        if not kept:
            return
        block.kept = min(parent.kept * block.count, MOST)
        if inner:
            return
        count = block.kept
        if self._is_stored(around):
            count = max(count, block.weight)
        is_map = opening == "{" or before in ("set", "dict")
        name = self._bound_to(around)
        if name and parent.word != "comprehension":
            self.sizes[name] = count
        size = self.facts.entry if is_map else self.facts.slot + self._boxed_in(block)
        self._add("map_bytes" if is_map else "grown_bytes", count * size, around, count)

    def _boxed_in(self, block: Block) -> float:
        """Bytes of the object that a comprehension's element is."""
        texts = self.texts[block.first : min(block.head, block.first + 40)]
        if len(texts) == 1:
            return 32.0 if block.high > 256 else 0.0
        if texts[:1] == ["["]:
            return 56.0
        if texts[:1] == ["("] and "," in texts:
            return 56.0 + 8 * texts.count(",")
        if STRING in texts or "str" in texts:
            return 54.0
        return 32.0 if block.high > 256 or any(text in ("random", "*", "**") for text in texts) else 8.0

    def _list_call(self, at: int) -> None:
        """`list(range(n))`, `(0..n).to_a`, `.collect()`, `.toList()`: a range that is kept."""
        block = self.blocks[self.block_of[at]]
        if (
            self.text(at) in ("list", "set", "tuple", "sorted", "deque", "dict", "frozenset")
            and self.language == "python"
        ):
            if (
                self.text(at + 1) == "("
                and self.text(at + 2) in ("range", "map", "filter", "zip")
                and self.text(at - 1) != "."
            ):
                holder = Block("loop", at, at, at)
                count = self._iterable(
                    holder, at + 2 if self.text(at + 2) == "range" else at + 4, self.outline.closing[at + 1]
                )
                if count is not None and "set" in self.text(at):
                    self._add("map_bytes", count * 60, at, count)
                elif count is not None:
                    self._kept_range(at, count)
            return
        if self.text(at) in ITERATES and self.text(at) != "collect":
            kept = self.language in EAGER and (self.text(at - 1) == "." or self.language == "perl")
            if (
                kept
                and block.kind == "loop"
                and block.word in ("range", "each")
                and self.text(at) not in ("each", "sum", "all", "any")
            ):
                self._kept_range(at, block.weight)
        elif self.text(at - 1) in (".", "?.") and block.kind == "loop" and block.word == "range":
            self._kept_range(at, block.weight)

    def _php_range(self, at: int) -> None:
        """`range(a, b)` of PHP is an array."""
        if self.language == "php" and not self.in_header[at]:
            block = self.blocks[self.block_of[at]]
            if block.word == "range":
                self._sized(at, block.count, 16.0, True)

    def _kept_range(self, at: int, count: float) -> None:
        block = self.blocks[self.block_of[at]]
        name = self._bound_to(block.first if block.word == "range" else at)
        if name:
            self.sizes[name] = count
        kept = max(self.blocks[self.block_of[at]].kept, 1.0)
        self._add("grown_bytes", count * kept * (self.facts.slot + self.facts.boxed), at, count * kept)

    def _numpy(self, at: int) -> None:
        """`np.zeros((n, m), dtype=np.float32)`, `np.arange(n)`, `rng.random(n)`."""
        if self.text(at - 1) != "." or self.text(at + 1) != "(" or self.language not in ("python", "triton"):
            return
        close = self.outline.closing[at + 1]
        first = at + 2
        if self.text(first) == "(":
            parts = self.outline.split(first + 1, self.outline.closing[first])
        else:
            parts = self.outline.split(first, close)
            if self.text(at) in ("zeros", "ones", "empty", "full", "random"):
                parts = parts[:1]
        counts = [self.expression(begin) for begin, _ in parts if self.text(begin + 1) != "="]
        if self.text(at) == "linspace":
            counts = counts[2:3]
        elif self.text(at) == "arange":
            counts = counts[:1] if len(counts) == 1 else [apply("-", counts[1], counts[0])] if len(counts) > 1 else []
        elif self.text(at) in ("randint", "normal", "uniform"):
            sized = [k for k in range(first, min(close, first + 40)) if self.text(k) == "size"]
            counts = [self.expression(sized[0] + 2)] if sized else counts[2:3]
        elif self.text(at) in ("eye", "identity"):
            counts = counts[:1] * 2
        known = [count for count in counts if count is not None]
        if not known or len(known) < len(counts):
            return
        size = next(
            (SIZES[text] for text in self.texts[first:close] if text in SIZES and text not in ("int", "float")), 8
        )
        total = math.prod(known)
        name = self._bound_to(at)
        if name:
            self.sizes[name] = known[0]
        written = self.text(at) not in UNTOUCHED or self._is_written(name)
        self._add("array_bytes" if written else "untouched_bytes", total * size * self._kept(at), at, total)

    def _make(self, at: int) -> None:
        """`make([]T, n)` of Go, `Array.make n x` of OCaml, `Array.new(n, x)` of Ruby."""
        if self.language == "go" and self.text(at) == "make" and self.text(at + 1) == "(":
            parts = self.outline.split(at + 2, self.outline.closing[at + 1])
            inside = self.texts[parts[0][0] : parts[0][1]] if parts else []
            if inside[:1] != ["["] or len(parts) < 2:
                return
            count = self.expression(parts[1][0])
            size = (
                24
                if inside.count("[") > 1
                else self._type_size(["int64" if text == "int" else text for text in inside])
            )
            name = self._bound_to(at)
            self._sized(at, count, float(size), self._is_written(name) or self._is_stored(at))
        elif self.language in ("ocaml",) and self.text(at - 1) == ".":
            first, end = self._operand(at + 1, 0)
            second = self._operand(end, 0)[0] if self.text(at) == "make_matrix" else 1.0
            element = 1.0 if self.text(at - 2) in ("Bytes", "String") else 8.0
            self._sized(at - 2, apply("*", first, second), element, True, length=first)
        elif (
            self.language == "ruby"
            and self.text(at - 2) == "Array"
            and self.text(at) == "new"
            and self.text(at + 1) == "("
        ):
            self._sized(at - 2, self.expression(at + 2), 8.0, True)
        elif self.language in ("ruby", "rust") and self.text(at) == "new" and self.text(at - 1) in (".", "::"):
            if self.text(at - 2) not in (*MAPS, *STRINGS, *NO_OBJECTS):
                self._make_object(at, self.text(at - 2))

    def _vec(self, at: int) -> None:
        """`vec![x; n]` of Rust."""
        if self.text(at + 1) != "!" or self.text(at + 2) != "[":
            return
        close = self.outline.closing[at + 2]
        parts = self.outline.split(at + 3, close, (";",))
        if len(parts) != 2:
            return
        (begin, _), (count_at, _) = parts
        inside = self.text(begin)
        if inside == "vec":
            size, written = 24.0, True
        else:
            literal = next(
                (
                    code
                    for code in ("64", "size", "32", "16", "8")
                    if inside.endswith((f"i{code}", f"u{code}", f"f{code}"))
                ),
                "",
            )
            size = {"64": 8.0, "size": 8.0, "32": 4.0, "16": 2.0, "8": 1.0}.get(literal, 0.0)
            size = size or (1.0 if inside in ("true", "false") else float(self._rust_type(at)))
            written = bool(self.values[begin]) or inside == "true" or self._is_written(self._bound_to(at))
        outer = 1.0
        around = self.outline.outer[at]
        for _ in range(3):
            if around < 0 or self.text(around - 1) != "!":
                break
            further = self.outline.split(around + 1, self.outline.closing[around], (";",))
            if len(further) == 2:
                outer *= self.expression(further[1][0]) or 1.0
                written = True
            around = self.outline.outer[around]
        count = self.expression(count_at)
        if count is not None:
            name = self._bound_to(at)
            if name and outer == 1.0:
                self.sizes[name] = count
            total = count * outer * self._kept(at)
            self._add("array_bytes" if written else "untouched_bytes", total * size, at, total)

    def _rust_type(self, at: int) -> int:
        line = self.outline.starts[self.outline.lines[at]]
        return next((SIZES[text] for text in self.texts[max(line, at - 14) : at] if text in SIZES), 4)

    def _array_call(self, at: int) -> None:
        """`Array(n)`, `IntArray(n)`, `Array.from({length: n})`, `array_fill(0, n, x)`, `(make-vector n x)`, `replicate n x`."""
        text = self.text(at)
        if self.facts.layout == "parens":
            width = re.search(r"[usf](8|16|32|64)", text)
            size = float(width[1]) / 8 if width is not None else 1.0 if "string" in text or "bytes" in text else 8.0
            self._sized(at, self._operand(at + 1, 0)[0], size, True)
        elif text in ("replicate", "newArray", "listArray"):
            opened = at + 1
            named = self.language == "haskell" and self.text(opened)[:1].isalpha()
            # A name and parentheses behind it are two arguments: `replicate n (0 :: Int)`.
            value = self.lookup(self.text(opened), opened) if named else self._operand(opened, 0)[0]
            if self.text(opened) == "(":
                parts = self.outline.split(opened + 1, self.outline.closing[opened])
                value = self.expression(parts[-1][0]) if parts else None
            is_list = text == "replicate" and self.text(at - 1) != "."  # V.replicate makes a vector
            self._sized(at, value, 24.0 if is_list else 8.0, True)
        elif text == "nCopies" and self.text(at + 1) == "(":
            self._sized(at, self.expression(at + 2), float(self.facts.slot + self.facts.boxed), True)
        elif text == "array_fill" and self.text(at + 1) == "(":
            parts = self.outline.split(at + 2, self.outline.closing[at + 1])
            if len(parts) == 3:
                self._sized(at, self.expression(parts[1][0]), 16.0, True)
        elif (
            text == "Array"
            and self.text(at + 1) == "."
            and self.text(at + 2) == "from"
            and self.text(at + 5) == "length"
        ):
            self._sized(at, self.expression(at + 7), 8.0, True)
        elif self.text(at + 1) == "(" and self.text(at - 1) not in ("new", "."):
            if self.language == "kotlin" and text in ("List", "MutableList"):
                self._sized(at, self.expression(at + 2), float(self.facts.slot + self.facts.boxed), True)
            elif self.language in ("kotlin", "javascript", "typescript") and text != "array":
                self._sized(at, self.expression(at + 2), float(SIZES.get(text, 8)), True)
            elif self.language == "python" and text == "bytearray":
                self._sized(at, self.expression(at + 2), 1.0, True)

    def _allocate(self, at: int) -> None:
        """`allocate(a(n, m))` of Fortran."""
        if self.language != "fortran" or self.text(at + 1) != "(":
            return
        for begin, _ in self.outline.split(at + 2, self.outline.closing[at + 1]):
            if self.text(begin + 1) == "(":
                parts = self.outline.split(begin + 2, self.outline.closing[begin + 1])
                counts = [self.expression(part[0]) for part in parts]
                if counts and all(count is not None for count in counts):
                    total = math.prod(count or 0.0 for count in counts)
                    self.sizes[self.text(begin)] = counts[0] or 0.0
                    self._add("array_bytes", total * 8, at, total)

    def _fortran_declared(self, at: int) -> None:
        """`real(8) :: a(n), b(0:m, n)` and `integer, dimension(n) :: a` of Fortran."""
        first, end = self.outline.starts[self.outline.lines[at]], self.outline.line_end(at)
        head, routine = self.texts[first:at], self.routines[self.now].source
        size = _FORTRAN_SIZES.get(self.text(first))
        if size is None or {"parameter", "allocatable", "pointer", "intent"} & set(head):
            return
        if self.text(first + 1) == "(" and self.text(first) != "character":
            size = self.expression(self.outline.closing[first + 1] - 1) or size
        shape = next((at for at in range(first, at) if self.text(at) == "dimension"), None)
        shared = None if shape is None else self._extents(shape + 1)
        given = () if routine is None else routine.parameters
        for begin, _ in self.outline.split(at + 1, end):
            name = self.text(begin)
            counts = self._extents(begin + 1) if self.text(begin + 1) == "(" else shared
            if counts and name not in given:
                total = math.prod(counts)
                self.sizes[name] = counts[0]
                self._add("array_bytes", total * size, begin, total)

    def _extents(self, opened: int) -> list[float]:
        """Sizes of the dimensions `(n, 0:m)` of an array of Fortran; none where one is not known."""
        counts: list[float] = []
        for begin, end in self.outline.split(opened + 1, self.outline.closing[opened]):
            colon = first_of(self.texts, begin, end, (":",))
            low = 1.0 if colon is None else self.expression(begin)
            high = self.expression(begin if colon is None else colon + 1)
            if low is None or high is None or high < low:
                return []
            counts.append(high - low + 1)
        return counts

    def _sequence(self, at: int) -> None:
        """`a=($(seq 1 $n))` of Bash: an array of words."""
        if self.language == "bash" and self.texts[max(at - 3, 0) : at] == ["=", "(", "("]:
            last = self.outline.closing[at - 1] - 1
            self._sized(at, self._operand(last, 0)[0], float(self.facts.slot), True)

    def _haskell_list(self, at: int) -> None:
        """`M.fromList [(x, y) | x <- [1 .. n]]` of Haskell, read where the list ends."""
        opened = self.outline.opening[at]
        if self.text(opened - 1) not in _FROM_LIST or self.text(opened - 2) != ".":
            return
        counts = [block.count for block in self.blocks if block.kind == "loop" and opened < block.head < at]
        count = min(math.prod(counts), 1e12)
        if not counts or count <= 1:
            return
        vector = self.text(opened - 3)[:1] in ("V", "U")
        part, size = ("array_bytes", 8.0) if vector else ("map_bytes", float(self.facts.entry))
        self._add(part, count * size, at, count)

    def _scheme_store(self, at: int) -> None:
        """`(hash-set! h k v)`."""
        count = min(self._times(at), self._distinct(at + 2, self.outline.closing[at + 2] + 1))
        self._add("map_bytes", count * self.facts.entry, at, count)

    def _cons(self, at: int) -> None:
        """Pairs made in loops: `(cons a b)`, `x :: rest`."""
        block = self.blocks[self.block_of[at]]
        if self.language == "fortran":
            self._fortran_declared(at)
        elif self.language == "ocaml" and self.text(at) == "::":
            if block.weight > 1:
                self._add("grown_bytes", block.weight * 24, at, block.weight)
        elif self.facts.layout == "parens" and self.text(at - 1) == "(":
            routine = self.routines[self.now]
            count = block.weight * min(routine.calls * routine.recursion, 1e12)
            if count > 4:
                self._add("grown_bytes", count * 16, at, count)

    def _copy(self, at: int) -> None:
        """A copy of a container of known size."""
        names = (self.text(at - 2) if self.text(at - 1) == "." else "", *self.texts[at + 2 : at + 3])
        name = next((name for name in names if name in self.sizes), "")
        if not name:
            return
        size = self.sizes[name]
        copy = self._bound_to(at)
        if copy and copy != name:
            self.sizes[copy] = size
            self._add("array_bytes", size * float(self.element.get(name, self.facts.slot)), at, size)

    def _bulk(self, at: int) -> None:
        """`memset(p, x, n)`, `sum(a)`, `fill(a.begin(), a.end(), x)`: library calls that go over a container."""
        if self.text(at + 1) != "(":
            return
        parts = self.outline.split(at + 2, self.outline.closing[at + 1])
        if self.text(at) in ("memset", "memcpy", "memmove"):
            size = self.expression(parts[2][0]) if len(parts) == 3 else None
            if parts and self.text(at) == "memset":
                self._indexed_names().add(self.text(parts[0][0]))
        else:
            whole = not parts or parts[0][1] - parts[0][0] == 1 or self.text(parts[0][0] + 1) == "."
            size = self.sizes.get(self.text(parts[0][0]) if parts else self.text(at - 2)) if whole else None
            size = None if size is None else size * 8
        if size is not None:
            self.amounts["bulk_bytes"] += min(size * self._times(at), MOST)

    def _sort(self, at: int) -> None:
        """A sort of a container of known size."""
        names = (self.text(at - 2), *self.texts[at + 1 : at + 10])
        size = max((self.sizes.get(name, 0.0) for name in names), default=0.0)
        block, routine = self.blocks[self.block_of[at]], self.routines[self.now]
        times = min(block.weight * routine.calls * routine.recursion, 1e12)
        self.amounts["sorted_steps"] += min(size * math.log2(size + 2) * times, MOST)

    def _text_repeat(self, at: int) -> None:
        """`"x" * n`, `"x".repeat(n)`: a text that is made."""
        characters = self._repeated_text(at)
        if characters is not None:
            self._add("string_bytes", characters * self._kept(at), at)

    def _repeated_text(self, at: int) -> float | None:
        """Characters of a string literal that is repeated by an operator, a method or a function; None where it is not."""
        if self.text(at) != STRING:
            return None
        length = float(self.values[at] or 0)
        if self.text(at + 1) in ("*", "x"):
            count = self._operand(at + 2, 0)[0]
        elif self.text(at + 1) == "." and self.text(at + 2) == "repeat" and self.text(at + 3) == "(":
            count = self.expression(at + 4)
        elif self._repeats(at - 1) and self.text(at + 1) == ",":
            count = self.expression(at + 2)
        else:
            return None
        return None if count is None else count * length

    def _split_text(self, at: int) -> None:
        """`text.split()`, `strings.Fields(text)`: a container of the words of a text whose length is known."""
        count = self._word_count(at)
        if count is None:
            return
        if name := self._bound_to(at):
            self.sizes[name] = count
            self.words.add(name)
        scripted = self.facts.boxed > 0 or self.facts.token_ns >= 1
        self._add("grown_bytes", count * (self.facts.slot + (48.0 if scripted else 16.0)), at, count)

    def _repeats(self, opened: int) -> bool:
        """Whether a parenthesis opens the arguments of a function that repeats a text: `str_repeat(`, `new string(`."""
        name = self.text(opened - 1)
        return self.text(opened) == "(" and (name in REPEATS or (name == "string" and self.text(opened - 2) == "new"))

    def _size_at(self, at: int) -> float | None:
        """Elements of a literal list or characters of a text that begins at a token; None where the text does not say it."""
        if self.text(at) in ("[", "{") and self.outline.closing[at] > at + 1 and self.facts.layout != "parens":
            parts = len(self.outline.split(at + 1, self.outline.closing[at]))
            return float(parts) if 1 < parts < 24 else None
        called = next((step for step in (1, 2, 3) if self.text(at + step) == "("), 0)
        if called and self._repeats(at + called):
            return self._repeated_text(at + called + 1)
        if self.text(at) != STRING:
            return None
        ends = self.text(at + 1) in (";", "", ",") or self.outline.starts_line(at + 1)
        return float(self.values[at] or 0) if ends else self._repeated_text(at)

    def _import(self, at: int) -> None:
        if self.text(at + 1) in HEAVY and self.outline.starts_line(at):
            self.amounts["heavy_imports"] += 1

    def _input(self, at: int) -> None:
        self.amounts["reads_input"] += 1

    def _literal_object(self, at: int) -> None:
        """`{ value: x, next: y }`, `{ [1] = x, [2] = y }`, a pair `[x, y]` or `(x, y)` that is made in a loop."""
        if self.language not in LITERAL_OBJECTS or self.outline.closing[at] <= at + 2:
            return
        before = self.text(at - 1)
        if before not in ("=", "(", ",", "return", "[", "<<", ":", "=>", "?") or self.in_header[at]:
            return
        opened = self.text(at)
        if opened == "(" and (self.language != "python" or before not in ("=", "return", "(")):
            return
        block = self.blocks[self.block_of[at]]
        if opened == "[" and self.language == "lua":
            return
        parts = self.outline.split(at + 1, self.outline.closing[at])
        if not 2 <= len(parts) <= 6 or "for" in self.texts[at + 1 : min(self.outline.closing[at], at + 30)]:
            return
        if block.kind == "loop" and block.word == "comprehension" and block.first == at + 1:
            return
        self._make_object(at, "", len(parts))


__all__ = ["Allocations"]
