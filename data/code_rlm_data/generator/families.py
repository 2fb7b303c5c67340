"""The families of stages: each builds the statements of one small algorithm from the choices of a `Stage`.

A family returns its statements and the checksum they leave. Choices by `stage.p` make the problem (what is computed),
choices by `stage.o` the variant (how: element type, in place or copied, table or rolling rows, stored or streamed).
`FAMILIES` names them, with what a language must support.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from code_rlm_data.generator.ir import (
    INT,
    LIST,
    LONG,
    TREE,
    Ask,
    Assign,
    Bin,
    Both,
    Call,
    Cons,
    Copy,
    Do,
    Each,
    Fold,
    For,
    Free,
    Function,
    If,
    Int,
    Join,
    Let,
    New,
    Nil,
    Node,
    Note,
    Type,
    Var,
    While,
    Wide,
    node,
)
from code_rlm_data.generator.stage import Stage

Built = tuple[list[Any], Any]


@dataclass(frozen=True)
class Family:
    """An algorithm that programs are made of.

    Attributes:
        name: Its name, part of the name of a problem's group.
        title: The note that stands above it in a program.
        build: Builds its statements and its result.
        needs: Container kinds and features that it cannot do without.
    """

    name: str
    title: str
    build: Callable[[Stage], Built]
    needs: frozenset[str]


FAMILIES: dict[str, Family] = {}


def family(title: str, *needs: str) -> Callable[[Callable[[Stage], Built]], Callable[[Stage], Built]]:
    """Registers a builder under its name."""

    def register(build: Callable[[Stage], Built]) -> Callable[[Stage], Built]:
        FAMILIES[build.__name__] = Family(build.__name__, title, build, frozenset(needs))
        return build

    return register


def get(name: str, *at: Any) -> Ask:
    """Reads an element of an array."""
    return Ask("arr.get", name, tuple(map(node, at)))


def put(name: str, at: Any, value: Any) -> Do:
    """Writes an element of an array."""
    return Do("arr.set", name, (node(at), node(value)))


def filled(s: Stage, role: str, elem: str, size: Any, limit: int) -> tuple[str, list[Any]]:
    """Declares an array and fills it from a source."""
    name, new = s.array(role, elem, size)
    source = s.source(limit)
    i = s.var("i")
    note = Note(
        s.for_variant("fill note", "fill the table", "generate the input", "pseudo-random values", "input data")
    )
    return name, [note, *source.setup, new, s.loop(size, [*source.step, put(name, i, source.value(i))], var=i)]


def scan(s: Stage, name: str, size: Any, check: Any, stride: int = 1) -> list[Any]:
    """Stirs every element, or every `stride`-th, into the checksum."""
    i, item = s.vars("i", "item")
    if stride == 1 and s.for_variant("scan", 0, 1):
        return [Each(item.name, name, (s.mix(check, item),), size)]
    return [s.loop(size, [s.mix(check, get(name, i))], var=i, step=Int(stride))]


# Arrays


@family("a chain of passes over an array", "arr")
def array_passes(s: Stage) -> Built:
    """A chain of passes over an array, in place or each into a new one."""
    n = s.constant("size", s.size)
    elem = s.elem()
    limit = s.for_problem("limit", 1000, 10007, 1000003, 65536)
    name, body = filled(s, "values", elem, n, limit)
    for step in range(s.for_problem("passes", 1, 2, 3)):
        kind = s.for_problem(f"pass {step}", "prefix", "reverse", "affine", "smooth", "peaks")
        target = name
        if kind != "smooth" and s.for_variant(f"in place {step}", True, False):
            target = name
        elif s.for_variant("copy how", True, False) and kind not in ("smooth", "reverse"):
            target = s.name("copy")
            body.append(Copy(target, name, n))
        else:
            target, new = s.array("result", elem, n)
            body.append(new)
        i = s.var("i")
        if kind == "prefix":
            body += [s.loop(n, [put(target, i, (Wide(get(target, i - 1)) + get(name, i)) % limit)], var=i, low=1)]
        elif kind == "affine":
            factor = s.for_problem(f"affine {step}", 3, 5, 7, 11)
            body += [s.loop(n, [put(target, i, (Wide(get(name, i)) * factor + i % 17) % limit)], var=i)]
        elif kind == "peaks":
            body += [s.loop(n, [put(target, i, Bin("max", get(name, i), get(target, i - 1)))], var=i, low=1)]
        elif kind == "reverse" and target == name:
            other = n - 1 - i
            kept = s.var("kept")
            swap = [Let(kept.name, LONG, get(name, i)), put(name, i, get(name, other)), put(name, other, kept)]
            body += [s.loop(Bin("/", n, Int(2)), swap, var=i)]
        elif kind == "reverse":
            body += [s.loop(n, [put(target, n - 1 - i, get(name, i))], var=i)]
        else:
            near = (Wide(get(name, i - 1)) + get(name, i) + get(name, i + 1)) // 3
            body += [s.loop(n - 1, [put(target, i, near)], var=i, low=1)]
        if target != name and s.for_variant("give back", True, False, False):
            body.append(Free(name))
        name = target
    check, start = s.fresh_check()
    return [*body, start, *scan(s, name, n, check, s.for_problem("stride", 1, 1, 3, 7))], check


@family("a long stream looked at through a small ring buffer", "arr")
def window_stream(s: Stage) -> Built:
    """A long stream looked at through a small ring buffer, or stored whole first."""
    n = s.constant("count", s.size)
    width = s.constant("window", s.for_problem("width", 16, 64, 100, 256))
    source = s.source(10007)
    i, check = s.vars("i", "check")
    total, old = s.vars("total", "old")
    stored = s.for_variant("stored", True, False)
    elem = s.elem()
    if stored:
        name, body = filled(s, "stream", elem, n, 10007)
        value = get(name, i)
        before = If(i >= width, (Assign(total.name, total - get(name, i - width)),))
        inside: list[Any] = [Assign(total.name, total + value), before, s.mix(check, total)]
    else:
        name, new = s.array("ring", elem, width)
        body = [*source.setup, new]
        slot = i % width
        inside = [
            *source.step,
            Let(old.name, LONG, get(name, slot)),
            put(name, slot, source.value(i)),
            Assign(total.name, total + get(name, slot) - old),
            s.mix(check, total),
        ]
    lets = [Let(total.name, LONG, Int(0)), Let(check.name, LONG, Int(1))]
    return [*body, *lets, s.loop(n, inside, var=i)], check


@family("sieve of eratosthenes", "arr")
def sieve(s: Stage) -> Built:
    """Sieve of Eratosthenes, smallest prime factors, or divisor sums."""
    n = s.constant("limit", s.size)
    kind = s.for_problem("kind", "primes", "factors", "divisors")
    elem = "u8" if kind == "primes" and s.for_variant("narrow", True, True, False) else s.elem("i32", "i64", "i32")
    i, k, check = s.vars("i", "k", "check")
    fill = 1 if kind == "primes" else 0
    name, new = s.array("flags" if kind == "primes" else "table", elem, n + 1, fill)
    body: list[Any] = [new, Let(check.name, LONG, Int(0))]
    p, multiple = s.vars("p", "multiple")
    if kind == "divisors":
        trips = max(s.size // 20, 2)
        add = put(name, k, Wide(get(name, k)) + i)
        inner = For(k.name, i, n + 1, (add,), i, False, Int(max(s.size * s.size.bit_length() // trips, 1)))
        body += [s.loop(Bin("min", n, Int(trips)) + 1, [inner], var=i, low=1)]
        value: Any = get(name, i)
        body += [s.loop(n + 1, [s.mix(check, value)], var=i, low=1)]
        return body, check
    mark = put(name, multiple, 0) if kind == "primes" else put(name, multiple, p)
    root = max(int(s.size**0.5), 2)
    free = get(name, p).equals(1 if kind == "primes" else 0)
    if kind == "factors":
        mark = If(get(name, multiple).equals(0), (mark,), (), 0.6)
    cross = While(multiple <= n, (mark, Assign(multiple.name, multiple + p)), Int(max(int(s.size * 2.2 / root) + 1, 2)))
    loop = While(
        Wide(p) * p <= n,
        (
            If(free, (Assign(multiple.name, p * p), cross), (), 0.6),
            Assign(p.name, p + 1),
        ),
        Int(root),
    )
    found = get(name, i).equals(fill)
    count = s.var("count")
    tail = [Assign(count.name, count + 1)]
    if s.for_problem("stir", True, False):
        tail.append(s.mix(check, i))
    ends = [Let(count.name, LONG, Int(0)), s.loop(n + 1, [If(found, tuple(tail), (), 0.1)], var=i, low=2)]
    lets = [Let(p.name, INT, Int(2)), Let(multiple.name, INT, Int(0))]
    return [*body, *lets, loop, *ends], (check + count * 7) % 1000000007


@family("count a long stream in a table of buckets", "arr")
def histogram(s: Stage) -> Built:
    """Counts a long stream in a table of buckets; the table is small, or as large as the stream."""
    n = s.constant("count", s.size)
    wide = s.for_variant("wide", True, False)
    buckets = s.size if wide else s.for_variant("buckets", 64, 256, 1000)
    size = s.constant("buckets", buckets)
    source = s.source(buckets)
    i, check = s.vars("i", "check")
    slot = s.var("slot")
    name, new = s.array("counts", s.elem("i32", "i64", "i32"), size)
    fill = [*source.step, Let(slot.name, INT, source.value(i)), put(name, slot, get(name, slot) + 1)]
    lets = [*source.setup, new, Let(check.name, LONG, Int(0))]
    return [*lets, s.loop(n, fill, var=i), *scan(s, name, size, check)], check


@family("change a few places of a large table", "arr")
def sparse_table(s: Stage) -> Built:
    """Changes a few places of a large table, or of a small one that the places are folded into."""
    large = s.for_variant("large", True, True, False)
    updates = max(s.size // s.for_problem("share", 8, 20, 60), 5)
    n = s.constant("size", s.size if large else max(int(s.size**0.5), 16))
    m = s.constant("updates", updates)
    elem = s.elem("i32", "i64", "f64", "u8")
    limit = s.for_problem("limit", 50, 100, 120)
    name, new = s.array("table", elem, n, s.for_variant("fill", 0, 0, 1))
    source = s.source(1000003)
    i, check, place = s.vars("i", "check", "place")
    spread = s.for_problem("spread", 101, 997, 10007)
    step = [
        *source.step,
        Let(place.name, INT, (source.value(i) * spread + i) % n),
        put(name, place, (Wide(get(name, place)) * 3 + i % 11 + 1) % limit),
        s.mix(check, get(name, place)),
    ]
    body = [*source.setup, new, Let(check.name, LONG, Int(0)), s.loop(m, step, var=i)]
    for turn in range(s.for_variant("snapshots", 0, 0, 1, 2)):
        snapshot = s.name("snapshot")
        body += [Copy(snapshot, name, n), put(name, Int(turn), Int(7)), s.mix(check, get(snapshot, Int(turn)))]
    return [*body, *scan(s, name, n, check, 64)], check


# Matrices and tables


@family("mark cells of a large matrix along diagonals or at random and follow them", "mat")
def sparse_matrix(s: Stage) -> Built:
    """Marks cells of a large matrix along diagonals or at random and follows them."""
    side = max(int(s.size**0.5), 8)
    rows = s.constant("rows", side)
    columns = s.constant("columns", side + s.for_problem("more", 0, 3, 64))
    elem = s.elem("i32", "i64", "f64", "u8")
    name = s.name("board")
    check = s.var("check")
    source = s.source(1009)
    i, r, c = s.vars("i", "row", "column")
    cell = Ask("mat.get", name, (r, c))
    factor = s.for_problem("factor", 3, 7, 11)
    step = [
        *source.step,
        Let(r.name, INT, i % rows),
        Let(c.name, INT, (source.value(i) + i * factor) % columns),
        Do("mat.set", name, (r, c, (Wide(cell) + 1) % 100)),
        s.mix(check, cell),
    ]
    marks = s.constant("marks", max(s.size // s.for_problem("share", 10, 30, 80), 5))
    new = New(name, Type("mat", elem), (rows, columns, Int(s.for_variant("fill", 0, 1, 0))))
    return [*source.setup, new, Let(check.name, LONG, Int(1)), s.loop(marks, step, var=i)], check


@family("fill a matrix", "mat")
def matrix_work(s: Stage) -> Built:
    """Fills a matrix, transforms it in place or into another, and adds up rows or diagonals."""
    side = max(int((s.size) ** 0.5), 2)
    rows = s.constant("rows", side)
    columns = s.constant("columns", side if s.for_problem("square", True, False) else side + 7)
    elem = s.elem()
    limit = s.for_problem("limit", 251, 1009, 32749)
    name = s.name("grid")
    check = s.var("check")
    source = s.source(limit)
    i, j = s.vars("i", "j")
    new = New(name, Type("mat", elem), (rows, columns, Int(0)))
    index = i * columns + j
    fill = s.loop(
        rows, [s.loop(columns, [*source.step, Do("mat.set", name, (i, j, source.value(index)))], var=j)], var=i
    )
    body: list[Any] = [*source.setup, new, fill]
    kind = s.for_problem("kind", "blur", "scale", "sum", "product")
    r, c = s.vars("row", "column")

    def cell(which: str, a: Any, b: Any) -> Ask:
        return Ask("mat.get", which, (a, b))

    if kind in ("blur", "scale"):
        target = name
        if s.for_variant("in place", True, False):
            target = s.name("result")
            body.append(New(target, Type("mat", elem), (rows, columns, Int(0))))
        if kind == "blur":
            near = (Wide(cell(name, r - 1, c)) + cell(name, r, c - 1) + cell(name, r, c)) // 3
            low = 1
        else:
            near = (Wide(cell(name, r, c)) * 5 + r) % limit
            low = 0
        work = s.loop(columns, [Do("mat.set", target, (r, c, near))], var=c, low=low)
        body.append(s.loop(rows, [work], var=r, low=low))
        name = target
    total = s.var("total")
    a, d = s.vars("i", "j")
    lets = [Let(check.name, LONG, Int(1))]
    inner = s.loop(columns, [Assign(total.name, total + cell(name, a, d))], var=d)
    tail = s.loop(rows, [Let(total.name, LONG, Int(0)), inner, s.mix(check, total)], var=a)
    return [*body, *lets, tail], check


@family("multiply square matrices of moderate size", "mat")
def matrix_product(s: Stage) -> Built:
    """Multiply square matrices of moderate size; memory is three of them."""
    side = min(max(int((s.size / 3) ** 0.5), 2), 160)
    n = s.constant("side", side)
    elem = s.elem("i64", "f64", "i32")
    limit = s.for_problem("limit", 10, 50, 100)
    i, j, k = s.vars("i", "j", "k")
    names = [s.name(role) for role in ("left", "right", "product")]
    body: list[Any] = [New(name, Type("mat", elem), (n, n, Int(0))) for name in names]
    for name in names[:2]:
        source = s.source(limit)
        r, c = s.vars("row", "column")
        cells = [*source.step, Do("mat.set", name, (r, c, source.value(r * n + c)))]
        body += [*source.setup, s.loop(n, [s.loop(n, cells, var=c)], var=r)]
    total = s.var("total")
    term = Wide(Ask("mat.get", names[0], (i, k))) * Ask("mat.get", names[1], (k, j))
    inner = s.loop(n, [Assign(total.name, total + term)], var=k)
    cell = [Let(total.name, LONG, Int(0)), inner, Do("mat.set", names[2], (i, j, total))]
    check, r, c = s.vars("check", "row", "column")
    tail = s.loop(n, [s.loop(n, [s.mix(check, Ask("mat.get", names[2], (r, c)))], var=c)], var=r)
    return [*body, s.loop(n, [s.loop(n, cell, var=j)], var=i), Let(check.name, LONG, Int(3)), tail], check


@family("longest common subsequence", "mat", "arr")
def sequence_table(s: Stage) -> Built:
    """Longest common subsequence, edit distance or the like: the whole table, or two rolling rows."""
    side = max(int(s.size**0.5), 3)
    n = s.constant("length", side)
    letters = s.for_problem("letters", 2, 4, 10, 26)
    first, body = filled(s, "first", s.for_variant("letters", "u8", "i32"), n, letters)
    second, more = filled(s, "second", s.for_variant("letters", "u8", "i32"), n, letters)
    body += more
    kind = s.for_problem("kind", "lcs", "edit", "paths")
    elem = s.elem("i32", "i64", "i32")
    i, j, check = s.vars("i", "j", "check")
    best = s.var("best")
    whole = s.for_variant("whole", True, False)
    if whole:
        table = s.name("table")
        body.append(New(table, Type("mat", elem), (n + 1, n + 1, Int(0))))

        def above(a: Any, b: Any) -> Ask:
            return Ask("mat.get", table, (a, b))

        up = above(i - 1, j)
        left = above(i, j - 1)
        corner = above(i - 1, j - 1)
        write: Any = Do("mat.set", table, (i, j, best))
        edge = [Do("mat.set", table, (i, Int(0), i)), Do("mat.set", table, (Int(0), i, i))]
        last = above(n, n)
    else:
        row, row_new = s.array("previous", elem, n + 1)
        current, current_new = s.array("current", elem, n + 1)
        body += [row_new, current_new]
        up = get(row, j)
        left = get(current, j - 1)
        corner = get(row, j - 1)
        write = put(current, j, best)
        edge = [put(row, i, i)]
        last = get(row, n)
    same = get(first, i - 1).equals(get(second, j - 1))
    if kind == "lcs":
        step = If(same, (Assign(best.name, corner + 1),), (Assign(best.name, Bin("max", up, left)),))
    elif kind == "edit":
        least = Bin("min", corner, Bin("min", up, left)) + 1
        step = If(same, (Assign(best.name, corner),), (Assign(best.name, least),))
    else:
        step = If(same, (Assign(best.name, (Wide(up) + left + 1) % 10007),), (Assign(best.name, Bin("max", up, left)),))
    if kind == "edit":
        body.append(s.loop(n + 1, edge, var=i, low=1))
    k = s.var("k")
    cells: list[Any] = [s.loop(n + 1, [step, write], var=j, low=1)]
    if not whole:
        if kind == "edit":
            cells.insert(0, put(current, Int(0), i))
        cells.append(s.loop(n + 1, [put(row, k, get(current, k))], var=k))
    outer = For(i.name, Int(1), n + 1, tuple(cells))
    lets = [Let(best.name, LONG, Int(0)), outer, Let(check.name, LONG, last)]
    return [*body, *lets], check * 31 + 5


@family("knapsack or coin counting over capacities", "arr", "mat")
def knapsack(s: Stage) -> Built:
    """Knapsack or coin counting over capacities: a row a round kept, or one row updated."""
    items = s.for_problem("items", 5, 8, 12, 20)
    count = s.constant("items", items)
    capacity_value = max(s.size // items, 30)
    capacity = s.constant("capacity", capacity_value)
    weights, body = filled(s, "weights", "i32", count, s.for_problem("weight", 15, 23, 29))
    elem = s.elem("i32", "i64")
    i, w = s.vars("i", "w")
    check, cost = s.vars("check", "cost")
    coins = s.for_problem("coins", True, False)
    whole = s.for_variant("whole", True, False)
    read = Let(cost.name, INT, get(weights, i) + 1)
    if whole:
        table = s.name("table")
        body.append(New(table, Type("mat", elem), (count + 1, capacity + 1, Int(0))))

        def at(a: Any, b: Any) -> Ask:
            return Ask("mat.get", table, (a, b))

        skip = at(i, w)
        take = at(i + 1 if coins else i, w - cost)
        value = (Wide(skip) + take) % 1000007 if coins else Bin("max", skip, take + cost * 3 % 11)
        keep = Do("mat.set", table, (i + 1, w, value))
        pass_on = Do("mat.set", table, (i + 1, w, skip))
        inner = s.loop(capacity + 1, [If(w >= cost, (keep,), (pass_on,), 0.99)], var=w)
        if coins:
            body.append(Do("mat.set", table, (Int(0), Int(0), Int(1))))
        result = at(count, capacity)
        work = [s.loop(count, [read, inner], var=i)]
    else:
        row, new = s.array("best", elem, capacity + 1)
        body.append(new)
        if coins:
            body.append(put(row, Int(0), Int(1)))
            value = (Wide(get(row, w)) + get(row, w - cost)) % 1000007
        else:
            value = Bin("max", get(row, w), get(row, w - cost) + cost * 3 % 11)
        down = not coins
        inner = For(w.name, cost, capacity + 1, (put(row, w, value),), Int(1), down, capacity)
        result = get(row, capacity)
        work = [s.loop(count, [read, inner], var=i)]
    return [*body, *work, Let(check.name, LONG, result)], check * 13 + 1


@family("a cellular automaton in one dimension", "mat")
def automaton(s: Stage) -> Built:
    """A cellular automaton in one dimension: every generation kept, or only the last."""
    side = max(int(s.size**0.5), 8)
    steps = s.constant("steps", side)
    width = s.constant("width", side + s.for_problem("more", 1, 50, 100))
    rule = s.for_problem("rule", 30, 90, 110, 150, 184)
    elem = s.for_variant("cell", "u8", "i32", "u8")
    keep = s.for_variant("keep", True, False)
    t, j = s.vars("step", "j")
    name = s.name("cells")
    rows: Any = steps + 1 if keep else Int(2)
    now, then = (t, t + 1) if keep else (t % 2, (t + 1) % 2)
    new = New(name, Type("mat", elem), (rows, width, Int(0)))
    seed = Do("mat.set", name, (Int(0), Bin("/", width, Int(2)), Int(1)))
    code = s.var("code")

    def at(where: Any) -> Ask:
        return Ask("mat.get", name, (now, where))

    table, table_new = s.array("rule", "u8", 8)
    bits = [put(table, Int(k), Int(rule >> k & 1)) for k in range(8)]
    neighbourhood = at((j + width - 1) % width) * 4 + at(j) * 2 + at((j + 1) % width)
    inner = [Let(code.name, INT, neighbourhood), Do("mat.set", name, (then, j, get(table, code)))]
    check, k = s.vars("check", "k")
    last = steps if keep else steps % 2
    tail = s.loop(width, [s.mix(check, Ask("mat.get", name, (last, k)) + k)], var=k)
    work = s.loop(steps, [s.loop(width, inner, var=j)], var=t)
    return [new, seed, table_new, *bits, work, Let(check.name, LONG, Int(0)), tail], check


@family("rows of different lengths", "jag")
def jagged_rows(s: Stage) -> Built:
    """Rows of different lengths: Pascal's triangle, or buckets filled by a key."""
    kind = s.for_problem("kind", "triangle", "buckets", "multiples")
    elem = s.elem("i32", "i64", "i32")
    check = s.var("check")
    name = s.name("rows")
    i, j = s.vars("i", "j")

    def cell(a: Any, b: Any) -> Ask:
        return Ask("jag.get", name, (a, b))

    if kind == "triangle":
        side = max(int((2 * s.size) ** 0.5), 3)
        n = s.constant("rows", side)
        modulus = s.for_problem("modulus", 1009, 65521, 999983)
        middle = (Wide(cell(i - 1, j - 1)) + cell(i - 1, j)) % modulus
        inner = If(Both(j > 0, j < i), (Do("jag.push", name, (i, middle)),), (Do("jag.push", name, (i, Int(1))),), 0.99)
        work: list[Any] = [s.loop(n, [s.loop(i + 1, [inner], var=j)], var=i)]
        entries: Any = Int(s.size)
    elif kind == "buckets":
        side = max(int(s.size**0.5), 3) if s.for_variant("fine", True, False) else max(s.size // 4, 3)
        n = s.constant("buckets", side)
        count = s.constant("count", s.size)
        source = s.source(side)
        k = s.var("k")
        slot = s.var("slot")
        step = [*source.step, Let(slot.name, INT, source.value(k)), Do("jag.push", name, (slot, k % 1000))]
        work = [*source.setup, s.loop(count, step, var=k)]
        entries = Int(s.size)
    else:
        side = max(s.size // 12, 3)
        n = s.constant("limit", side)
        k = s.var("k")
        inner = For(k.name, i, n, (Do("jag.push", name, (k, i)),), i, False, Int(side.bit_length()))
        work = [s.loop(n, [inner], var=i, low=1)]
        entries = Int(s.size)
    r, c = s.vars("row", "c")
    tail = s.loop(n, [s.loop(Ask("jag.len", name, (r,)), [s.mix(check, cell(r, c))], var=c)], var=r)
    return [New(name, Type("jag", elem), (n,), entries), *work, Let(check.name, LONG, Int(2)), tail], check


# Growing arrays, stacks, queues, heaps


@family("keep the numbers of a stream that pass a test", "vec")
def collect(s: Stage) -> Built:
    """Keeps the numbers of a stream that pass a test, then looks at them again; or only counts them."""
    n = s.constant("count", s.size)
    source = s.source(10007)
    i, check = s.vars("i", "check")
    value = s.var("value")
    divisor = s.for_problem("divisor", 2, 3, 5, 10)
    test = (value % divisor).differs(0) if s.for_problem("sense", True, False) else (value % divisor).equals(0)
    share = (1 - 1 / divisor) if s.for_problem("sense", True, False) else 1 / divisor
    body: list[Any] = [*source.setup, Let(check.name, LONG, Int(5))]
    if s.for_variant("stored", True, True, False):
        name, new = s.growing("kept", s.elem(), Int(max(int(s.size * share), 1)))
        kept = Do("vec.push", name, (value,))
        tail: list[Any] = [Each(item := s.name("item"), name, (s.mix(check, Var(item)),), Int(int(s.size * share)))]
        body.append(new)
        tail.append(s.mix(check, Ask("vec.len", name)))
    else:
        length = s.var("length")
        body.append(Let(length.name, LONG, Int(0)))
        kept = Assign(length.name, length + 1)
        tail = [s.mix(check, length)]
        inside = (kept, s.mix(check, value))
        step = [*source.step, Let(value.name, LONG, source.value(i)), If(test, inside, (), share)]
        return [*body, s.loop(n, step, var=i), *tail], check
    step = [*source.step, Let(value.name, LONG, source.value(i)), If(test, (kept,), (), share)]
    return [*body, s.loop(n, step, var=i), *tail], check


@family("push and pop by a stream", "vec")
def stack_machine(s: Stage) -> Built:
    """Push and pop by a stream: the stack grows with the stream, or stays short."""
    n = s.constant("steps", s.size)
    grow = s.for_variant("grow", True, False)
    source = s.source(100)
    i, check = s.vars("i", "check")
    value, top = s.vars("value", "top")
    stack, new = s.growing("stack", s.elem(), Int(int(s.size * 0.6)) if grow else Int(max(int(s.size**0.5), 10)))
    bound = 80 if grow else 50
    pop = [Let(top.name, LONG, Ask("vec.pop", stack)), s.mix(check, top)]
    test = Both(value >= bound, Ask("vec.len", stack) > 0)
    step = [
        *source.step,
        Let(value.name, LONG, source.value(i)),
        If(test, tuple(pop), (Do("vec.push", stack, (value * 3 + i % 10,)),), 1 - bound / 100),
    ]
    rest = While(
        Ask("vec.len", stack) > s.for_problem("rest", 0, 1, 5), tuple(pop2(s, stack, check)), Int(int(s.size * 0.6))
    )
    lets = [*source.setup, new, Let(check.name, LONG, Int(11))]
    return [*lets, s.loop(n, step, var=i), rest, s.mix(check, Ask("vec.len", stack))], check


def pop2(s: Stage, stack: str, check: Var) -> list[Any]:
    """Takes the top of a stack and stirs it in."""
    top = s.var("top")
    return [Let(top.name, LONG, Ask("vec.pop", stack)), s.mix(check, top)]


@family("a queue of people in a ring of whom every k-th leaves", "deque")
def queue_rounds(s: Stage) -> Built:
    """A queue of people in a ring of whom every k-th leaves, or of tasks that come back until they are done."""
    n = s.constant("people", max(s.size // 4, 3))
    k = s.for_problem("every", 2, 3, 5, 7)
    queue = s.name("queue")
    kind = s.for_problem("kind", "ring", "tasks")
    i, check, value, turn = s.vars("i", "check", "value", "turn")
    first = i + 1 if kind == "ring" else i * 7 % 23 + 1
    body: list[Any] = [New(queue, Type("deque"), (), n), s.loop(n, [Do("deque.push", queue, (first,))], var=i)]
    body += [Let(turn.name, LONG, Int(0)), Let(check.name, LONG, Int(0))]
    take = [Let(value.name, LONG, Ask("deque.pop", queue)), Assign(turn.name, turn + 1)]
    if kind == "ring":
        act = If((turn % k).equals(0), (s.mix(check, value),), (Do("deque.push", queue, (value,)),), 1 / k)
        trips = max(s.size // 4, 3) * k
    else:
        slice_ = s.for_problem("slice", 4, 6, 9)
        act = If(value > slice_, (Do("deque.push", queue, (value - slice_,)),), (s.mix(check, turn),))
        trips = max(s.size // 4, 3) * 3
    return [*body, While(Ask("deque.len", queue) > 0, (*take, act), Int(trips))], check


@family("a binary heap in a growing array", "vec")
def heap_by_hand(s: Stage) -> Built:
    """A binary heap in a growing array: push a stream, then pop some or all; or keep only the k largest."""
    n_value = max(s.size // 3, 4)
    n = s.constant("count", n_value)
    bounded = s.for_variant("bounded", True, False, False)
    most = s.constant("most", s.for_variant("most", 50, 100, 500)) if bounded else None
    held = 500 if bounded else n_value
    heap, new = s.growing("heap", s.elem("i32", "i64"), Int(held))
    source = s.source(s.for_problem("limit", 10007, 100003, 1000003))
    i, check = s.vars("i", "check")

    def at(where: Any) -> Ask:
        return Ask("vec.get", heap, (where,))

    def swap(a: Any, b: Any) -> tuple[Any, ...]:
        kept = s.var("kept")
        return (Let(kept.name, LONG, at(a)), Do("vec.set", heap, (a, at(b))), Do("vec.set", heap, (b, kept)))

    def sink(last: Any) -> list[Any]:
        """Sink the top of a heap of `last` elements."""
        place, child, run = s.vars("place", "child", "run")
        lower = If(Both(child + 1 < last, at(child + 1) < at(child)), (Assign(child.name, child + 1),))
        step = If(
            at(child) < at(place),
            (*swap(place, child), Assign(place.name, child), Assign(child.name, place * 2 + 1)),
            (Assign(run.name, Int(0)),),
            0.9,
        )
        return [
            Let(place.name, INT, Int(0)),
            Let(child.name, INT, Int(1)),
            Let(run.name, INT, Int(1)),
            While(Both(run.equals(1), child < last), (lower, step), Int(max(held.bit_length() - 1, 2))),
        ]

    place, up = s.vars("place", "up")
    lift = (
        Let(place.name, INT, Ask("vec.len", heap) - 1),
        Let(up.name, INT, Bin("/", Bin("max", place, Int(1)) - 1, Int(2))),
        While(
            Both(place > 0, at(place) < at(up)),
            (
                *swap(place, up),
                Assign(place.name, up),
                Assign(up.name, Bin("max", place, Int(1)) - 1),
                Assign(up.name, up // 2),
            ),
            Int(2),
        ),
    )

    def pop() -> list[Any]:
        """Takes the least element and stirs it in."""
        tail, size = s.vars("tail", "left")
        fill = (Do("vec.set", heap, (Int(0), tail)), Let(size.name, INT, Ask("vec.len", heap)), *sink(size))
        return [
            s.mix(check, at(Int(0))),
            Let(tail.name, LONG, Ask("vec.pop", heap)),
            If(Ask("vec.len", heap) > 0, fill, (), 1.0),
        ]

    step: list[Any] = [*source.step, Do("vec.push", heap, (source.value(i),)), *lift]
    if bounded:
        step.append(If(Ask("vec.len", heap) > most, tuple(pop()), (), 0.9))
    rest = While(Ask("vec.len", heap) > 0, tuple(pop()), Int(held))
    lets = [*source.setup, new, Let(check.name, LONG, Int(1))]
    return [*lets, s.loop(n, step, var=i), rest], check


# Maps, sets


@family("count the keys of a stream in a map", "map")
def count_keys(s: Stage) -> Built:
    """Counts the keys of a stream in a map: few distinct keys, or nearly all distinct."""
    n = s.constant("count", s.size)
    distinct = s.for_variant("distinct", 100, 1000, 0, 0)
    limit = distinct or min(s.size * 2, 1000003)
    source = s.source(limit)
    i, check = s.vars("i", "check")
    counts = s.name("counts")
    key = s.var("key")
    entries = Int(min(limit, s.size))
    step = [*source.step, Let(key.name, LONG, source.value(i)), Do("map.add", counts, (key, Int(1)))]
    item, total = s.vars("item", "total")
    tail = Each(
        item.name, counts, (Assign(total.name, total + item * item % s.for_problem("fold", 101, 1009)),), entries
    )
    lets = [*source.setup, New(counts, Type("map"), (), entries), Let(total.name, LONG, Int(0))]
    end = [Let(check.name, LONG, total * 31 + Ask("map.len", counts))]
    return [*lets, s.loop(n, step, var=i), tail, *end], check


@family("find pairs of a stream that add up to a target with a map of what was seen", "map")
def pair_sums(s: Stage) -> Built:
    """Finds pairs of a stream that add up to a target with a map of what was seen."""
    n = s.constant("count", s.size)
    limit = s.for_variant("limit", 1000, 1000003, 1000003)
    source = s.source(limit)
    i, check = s.vars("i", "check")
    seen = s.name("seen")
    key, other = s.vars("key", "other")
    goal = limit + s.for_problem("goal", 1, 10, 100)
    found = s.mix(check, Ask("map.get", seen, (other, Int(0))) + i)
    step = [
        *source.step,
        Let(key.name, LONG, source.value(i)),
        Let(other.name, LONG, Int(goal) - key),
        If(Ask("map.has", seen, (other,)), (found,), (), 0.3),
        Do("map.set", seen, (key, i)),
    ]
    entries = Int(min(limit, s.size))
    lets = [*source.setup, New(seen, Type("map"), (), entries), Let(check.name, LONG, Int(0))]
    return [*lets, s.loop(n, step, var=i), s.mix(check, Ask("map.len", seen))], check


@family("walk a recurrence until a value comes back", "set")
def distinct_values(s: Stage) -> Built:
    """Walks a recurrence until a value comes back, or counts distinct values, with a set of visited ones."""
    n = s.constant("count", s.size)
    limit = s.for_variant("limit", 500, min(s.size * 3, 1000003), 1000003)
    source = s.source(limit)
    i, check = s.vars("i", "check")
    seen = s.name("seen")
    value = s.var("value")
    fresh = (Do("set.add", seen, (value,)), s.mix(check, value))
    step = [*source.step, Let(value.name, LONG, source.value(i))]
    if s.for_problem("window", True, False, False):
        old = Int(s.for_problem("every", 3, 5))
        again: tuple = (If((i % old).equals(0), (Do("set.del", seen, (value,)),)),)
    else:
        again = ()
    step.append(If(Ask("set.has", seen, (value,)), again or (s.mix(check, i),), fresh, 0.4))
    entries = Int(min(limit, s.size))
    lets = [*source.setup, New(seen, Type("set"), (), entries), Let(check.name, LONG, Int(0))]
    return [*lets, s.loop(n, step, var=i), s.mix(check, Ask("set.len", seen))], check


@family("lengths of collatz chains", "arr")
def memo_chain(s: Stage) -> Built:
    """Lengths of Collatz chains, remembered in an array, in a map, or not at all."""
    n_value = max(s.size // 4, 5)
    n = s.constant("limit", n_value)
    options = ["array", "none"] + (["map"] if s.able("map") else [])
    memo = s.for_variant("memo", *options)
    name, i, x, steps, check = s.name("memo"), *(Var(s.name(r)) for r in ("i", "x", "steps", "check"))
    if memo == "none":
        n_value = max(n_value // 20, 5)
        n = s.constant("starts", n_value)
    best = s.var("best")
    modulus = s.for_problem("rule", 3, 5)
    halve = Assign(x.name, x // 2)
    climb = Assign(x.name, (x * modulus + 1) % 8388608)
    stop: Any = Both(x > 1, steps < s.for_problem("bound", 100, 150, 200))
    if memo != "none":
        stop = Both(x >= i, stop) if s.for_problem("known", True, False) else Both(stop, x >= i)
    walk = While(
        stop,
        (If((x % 2).equals(0), (halve,), (climb,)), Assign(steps.name, steps + 1)),
        Int(8 if memo != "none" else 60),
    )
    lets: list[Any] = []
    if memo == "array":
        new = New(name, Type("arr", s.elem("i32", "i64", "i32")), (n + 1, Int(0)))
        recall: list[Any] = [If(x < i, (Assign(steps.name, (steps + get(name, x)) % 997),)), put(name, i, steps)]
        lets.append(new)
    elif memo == "map":
        lets.append(New(name, Type("map"), (), n))
        recall = [
            If(x < i, (Assign(steps.name, (steps + Ask("map.get", name, (x, Int(0)))) % 997),)),
            Do("map.set", name, (i, steps)),
        ]
    else:
        recall = [Assign(steps.name, steps % 997)]
    step = [Let(x.name, LONG, i), Let(steps.name, LONG, Int(0)), walk, *recall]
    step += [Assign(best.name, Bin("max", best, steps)), s.mix(check, steps)]
    lets += [Let(best.name, LONG, Int(0)), Let(check.name, LONG, Int(0))]
    return [*lets, s.loop(n + 1, step, var=i, low=2)], (check + best) % 1000000007


# Texts


@family("build a text letter by letter or from numbers", "str")
def build_text(s: Stage) -> Built:
    """Builds a text letter by letter or from numbers, then hashes it."""
    n = s.constant("length", s.size)
    kind = s.for_problem("kind", "letters", "numbers", "mixed")
    alphabet = s.for_problem("alphabet", 2, 10, 26)
    source = s.source(alphabet)
    i, check = s.vars("i", "check")
    text = s.name("text")
    code = s.var("code")
    letter = Do("str.add_char", text, (source.value(i) + 97,))
    number = Do("str.add_int", text, (i % 1000,))
    step: list[Any] = [*source.step, letter if kind == "letters" else number]
    if kind == "mixed":
        step = [*source.step, If((i % 3).equals(0), (number,), (letter,), 0.33)]
    chars = s.size * {"letters": 1, "numbers": 3, "mixed": 1.7}[kind]
    lets = [*source.setup, New(text, Type("str"), (), Int(int(chars)))]
    tail = Each(code.name, text, (s.mix(check, code),), Int(int(chars)))
    return [*lets, s.loop(n, step, var=i), Let(check.name, LONG, Int(0)), tail], check


@family("make a list of words", "strs", "str")
def join_words(s: Stage) -> Built:
    """Makes a list of words, joins them, and hashes the text."""
    n = s.constant("words", s.size)
    prefix = s.for_problem("prefix", "w", "id", "key_", "item")
    separator = s.for_problem("separator", " ", ",", ";")
    source = s.source(100000)
    i, check = s.vars("i", "check")
    words = s.name("words")
    text = s.name("text")
    code = s.var("code")
    step = [*source.step, Do("strs.push", words, (prefix, source.value(i)))]
    chars = Int(s.size * (len(prefix) + 6))
    lets = [*source.setup, New(words, Type("strs"), (), n)]
    tail = Each(code.name, text, (s.mix(check, code),), chars)
    join = [Join(text, words, separator, chars), *([Free(words)] if s.for_variant("give back", True, False) else [])]
    return [*lets, s.loop(n, step, var=i), *join, Let(check.name, LONG, Int(9)), tail], check


@family("count words in a map from text", "smap")
def word_counts(s: Stage) -> Built:
    """Counts words in a map from text: a small vocabulary, or nearly all distinct."""
    n = s.constant("count", s.size)
    limit = s.for_variant("vocabulary", 50, 2000, 1000003, 1000003)
    prefix = s.for_problem("prefix", "w", "user", "k", "node_")
    source = s.source(limit)
    i, check = s.vars("i", "check")
    counts = s.name("counts")
    total, item = s.vars("total", "item")
    entries = Int(min(limit, s.size))
    step = [*source.step, Do("smap.add", counts, (prefix, source.value(i), Int(1)))]
    look = Ask("smap.get", counts, (prefix, Int(s.for_problem("look", 0, 7, 12)), Int(0)))
    tail = Each(item.name, counts, (Assign(total.name, total + item * item % 1009),), entries)
    lets = [*source.setup, New(counts, Type("smap"), (), entries), Let(total.name, LONG, Int(0))]
    end = Let(check.name, LONG, total * 17 + Ask("smap.len", counts) + look)
    return [*lets, s.loop(n, step, var=i), tail, end], check


# Lists and trees


@family("build a linked list", "list")
def linked_list(s: Stage) -> Built:
    """Builds a linked list, reverses or maps it into a new one or not, and walks it."""
    n = s.constant("count", s.size)
    source = s.source(10007)
    i, check = s.vars("i", "check")
    head, at = s.vars("head", "cursor")
    step = [*source.step, Assign(head.name, Cons(source.value(i), head))]
    body: list[Any] = [*source.setup, Let(head.name, LIST, Nil("list")), s.loop(n, step, var=i)]
    rounds = s.for_problem("rounds", 0, 1, 1)
    if s.for_variant("twice", True, False):
        rounds += 1
    for turn in range(rounds):
        other, walk = s.vars("other", "cursor")
        value = Ask("list.head", walk.name)
        made: Any = value if s.for_problem(f"round {turn}", True, False) else value * 3 % 10007
        move = (Assign(other.name, Cons(made, other)), Assign(walk.name, Ask("list.tail", walk.name)))
        body += [
            Let(other.name, LIST, Nil("list")),
            Let(walk.name, LIST, head),
            While(Ask("list.some", walk.name), move, Int(s.size)),
        ]
        head = other
    move = (s.mix(check, Ask("list.head", at.name)), Assign(at.name, Ask("list.tail", at.name)))
    tail = [Let(at.name, LIST, head), Let(check.name, LONG, Int(4))]
    return [*body, *tail, While(Ask("list.some", at.name), move, Int(s.size))], check


@family("build full binary trees by recursion and add them up", "tree", "recursion")
def full_trees(s: Stage) -> Built:
    """Builds full binary trees by recursion and adds them up: one large, or many small one after the other."""
    many = s.for_variant("many", True, False, False)
    depth_value = max(min(s.size.bit_length() - 1, 24), 2)
    rounds = 1
    if many and depth_value > 7:
        depth_value = depth_value - 4
        rounds = 16
    nodes = 2 ** (depth_value + 1)
    depth = s.constant("depth", depth_value)
    build = s.name("build")
    total = s.name("total")
    d, label, tree, t = s.var("depth"), s.var("label"), s.var("made"), s.var("tree")
    left = Call(build, (d - 1, label * 2 % 65521))
    right = Call(build, (d - 1, (label * 2 + 1) % 65521))
    value = label % s.for_problem("labels", 10, 100, 1009)
    make = Function(
        build,
        ((d.name, INT), (label.name, LONG)),
        (
            Let(tree.name, TREE, Nil("tree")),
            If(d > 0, (Assign(tree.name, Node(left, value, right)),), (), 0.5),
        ),
        tree,
        TREE,
        Int(nodes),
        Int(depth_value + 1),
        s.for_variant("build note", "build a tree of the given depth", "", "make both children first"),
    )
    result = s.var("sum")
    deep = (Call(total, (s.var("l"),)), Call(total, (s.var("r"),)))
    low = deep[0].args[0]
    high = deep[1].args[0]
    add = (
        Let(low.name, TREE, Ask("tree.left", t.name)),
        Let(high.name, TREE, Ask("tree.right", t.name)),
        Assign(result.name, (Ask("tree.value", t.name) + deep[0] * s.for_problem("left", 2, 3) + deep[1]) % 1000003),
    )
    count = Function(
        total,
        ((t.name, TREE),),
        (Let(result.name, LONG, Int(1)), If(Ask("tree.some", t.name), add, (), 0.5)),
        result,
        LONG,
        Int(nodes),
        Int(depth_value + 1),
    )
    s.functions += [make, count]
    check, root = s.vars("check", "root")
    if rounds == 1:
        return [Let(root.name, TREE, Call(build, (depth, Int(1)))), Let(check.name, LONG, Call(total, (root,)))], check
    i = s.var("i")
    many_ = s.constant("rounds", rounds)
    step = [Let(root.name, TREE, Call(build, (depth, i + 1))), s.mix(check, Call(total, (root,)))]
    return [Let(check.name, LONG, Int(0)), s.loop(many_, step, var=i)], check


@family("insert numbers into an immutable search tree and look some up", "tree", "recursion")
def search_tree(s: Stage) -> Built:
    """Insert numbers into an immutable search tree and look some up; few distinct keys, or many."""
    n_value = max(s.size // 12, 4)
    n = s.constant("count", n_value)
    limit = s.for_variant("limit", 200, 1000003, 1000003)
    insert = s.name("insert")
    t, key, made = s.vars("tree", "key", "made")
    low, high, v = s.vars("l", "r", "v")
    levels = max(int(1.4 * min(limit, n_value).bit_length()), 3)
    left = (Assign(made.name, Node(Call(insert, (low, key)), v, high)),)
    right = (Assign(made.name, Node(low, v, Call(insert, (high, key)))),)
    down = (
        Let(low.name, TREE, Ask("tree.left", t.name)),
        Let(v.name, LONG, Ask("tree.value", t.name)),
        Let(high.name, TREE, Ask("tree.right", t.name)),
        If(key < v, left, (If(key > v, right, (Assign(made.name, t),), 0.9),), 0.5),
    )
    body = (
        Let(made.name, TREE, Nil("tree")),
        If(Ask("tree.some", t.name), down, (Assign(made.name, Node(Nil("tree"), key, Nil("tree"))),), 0.9),
    )
    s.functions.append(Function(insert, ((t.name, TREE), (key.name, LONG)), body, made, TREE, Int(levels), Int(levels)))
    source = s.source(limit)
    i, root, check = s.vars("i", "root", "check")
    lets = [*source.setup, Let(root.name, TREE, Nil("tree"))]
    grow = s.loop(n, [*source.step, Assign(root.name, Call(insert, (root, source.value(i))))], var=i)
    at, steps = s.vars("at", "steps")
    side = s.for_problem("side", "left", "right")
    go = (
        s.mix(check, Ask("tree.value", at.name) + steps),
        Assign(steps.name, steps + 1),
        Assign(at.name, Ask(f"tree.{side}", at.name)),
    )
    walk = [
        Let(at.name, TREE, root),
        Let(steps.name, LONG, Int(0)),
        Let(check.name, LONG, Int(0)),
        While(Ask("tree.some", at.name), go, Int(levels)),
    ]
    return [*lets, grow, *walk], check


# Graphs


@family("breadth-first search over a grid with walls", "arr", "deque")
def grid_search(s: Stage) -> Built:
    """Breadth-first search over a grid with walls; distances in an array, or visited cells in a set."""
    side = max(int(s.size**0.5), 4)
    n = s.constant("side", side)
    check = s.var("check")
    cells = n * n
    walls, body = filled(s, "walls", s.for_variant("cell", "u8", "i32", "u8"), cells, s.for_problem("open", 4, 5, 7))
    dist, dist_new = s.array("dist", s.elem("i32", "i64", "i32"), cells)
    queue = s.name("queue")
    at, row, column = s.vars("at", "row", "column")
    step, reached = s.vars("far", "reached")
    body += [dist_new, New(queue, Type("deque"), (), Int(side * 3)), Do("deque.push", queue, (Int(0),))]
    body += [put(dist, Int(0), Int(1)), Let(reached.name, LONG, Int(0))]
    body += [Let(check.name, LONG, Int(0))]

    def try_(condition: Any, to: Any) -> list[Any]:
        next_ = s.var("near")
        free = Both(get(walls, next_).differs(0), get(dist, next_).equals(0))
        visit = (put(dist, next_, step + 1), Do("deque.push", queue, (next_,)))
        return [If(condition, (Let(next_.name, INT, to), If(free, visit, (), 0.25)), (), 0.99)]

    moves = [
        *try_(row > 0, at - n),
        *try_(row + 1 < n, at + n),
        *try_(column > 0, at - 1),
        *try_(column + 1 < n, at + 1),
    ]
    work = (
        Let(at.name, INT, Ask("deque.pop", queue)),
        Let(row.name, INT, at // n),
        Let(column.name, INT, at % n),
        Let(step.name, LONG, get(dist, at)),
        Assign(reached.name, reached + 1),
        *moves,
        s.mix(check, step),
    )
    loop = While(Ask("deque.len", queue) > 0, work, Int(int(side * side * 0.8)))
    return [*body, loop], check * 7 + reached


@family("join random pairs in a forest of parents and count the components", "arr")
def union_find(s: Stage) -> Built:
    """Joins random pairs in a forest of parents and counts the components."""
    n_value = max(s.size, 4)
    n = s.constant("nodes", n_value)
    pairs = s.constant("pairs", max(int(n_value * s.for_problem("ratio", 0.5, 0.8, 1.2)), 2))
    parent, new = s.array("parent", s.elem("i32", "i64", "i32"), n)
    i, k, check = s.vars("i", "k", "check")
    a, b, parts = s.vars("a", "b", "parts")
    limit = n_value
    first = s.source(limit)
    second = s.source(limit)
    find = [
        While(
            get(parent, v).differs(v),
            (put(parent, v, get(parent, get(parent, v))), Assign(v.name, get(parent, v))),
            Int(2),
        )
        for v in (a, b)
    ]
    step = [
        *first.step,
        *second.step,
        Let(a.name, INT, first.value(k)),
        Let(b.name, INT, (second.value(k) * 31 + 7) % limit),
        *find,
        If(a.differs(b), (put(parent, a, b), Assign(parts.name, parts - 1), s.mix(check, parts)), (), 0.6),
    ]
    lets = [*first.setup, *second.setup, new, s.loop(n, [put(parent, i, i)], var=i)]
    lets += [Let(parts.name, LONG, n), Let(check.name, LONG, Int(0))]
    return [*lets, s.loop(pairs, step, var=k)], (check + parts) % 1000000007


@family("build adjacency lists of a random graph and search it", "jag", "arr", "deque")
def adjacency_walk(s: Stage) -> Built:
    """Builds adjacency lists of a random graph and searches it, breadth first."""
    n_value = max(s.size // s.for_problem("degree", 2, 3, 4), 4)
    n = s.constant("nodes", n_value)
    degree = s.constant("degree", s.for_problem("degree", 2, 3, 4))
    graph = s.name("graph")
    i, k = s.vars("i", "k")
    source = s.source(n_value)
    to = s.var("to")
    build = [*source.step, Let(to.name, INT, (source.value(i) + k * 17 + i) % n), Do("jag.push", graph, (i, to))]
    body: list[Any] = [New(graph, Type("jag", s.elem("i32", "i64", "i32")), (n,), Int(s.size)), *source.setup]
    body.append(s.loop(n, [s.loop(degree, build, var=k)], var=i))
    seen, new = s.array("seen", s.for_variant("flag", "u8", "i32"), n)
    queue = s.name("queue")
    at, j, near = s.vars("at", "j", "near")
    check = s.var("check")
    body += [new, New(queue, Type("deque"), (), n // 2), Do("deque.push", queue, (Int(0),)), put(seen, Int(0), Int(1))]
    visit = (put(seen, near, Int(1)), Do("deque.push", queue, (near,)))
    inner = [Let(near.name, INT, Ask("jag.get", graph, (at, j))), If(get(seen, near).equals(0), visit, (), 0.3)]
    # The length of a row is the degree, but the text asks the row.
    around = s.loop(Ask("jag.len", graph, (at,)), inner, var=j)
    work = (Let(at.name, INT, Ask("deque.pop", queue)), s.mix(check, at), around)
    loop = While(Ask("deque.len", queue) > 0, work, Int(int(n_value * 0.8)))
    return [*body, Let(check.name, LONG, Int(0)), loop], check


# Sorting


@family("sort by the library", "arr", "sort")
def sort_library(s: Stage) -> Built:
    """Sorts by the library, in place or a copy, and looks at gaps or duplicates."""
    n = s.constant("count", s.size)
    elem = s.elem("i32", "i64", "f64")
    name, body = filled(s, "values", elem, n, s.for_problem("limit", 1000, 100003, 1000003))
    i, check = s.vars("i", "check")
    if s.for_variant("copy", True, False):
        other = s.name("ordered")
        body.append(Copy(other, name, n))
        name = other
    body += [Do("arr.sort", name), Let(check.name, LONG, Int(0))]
    if s.for_problem("look", True, False):
        gap = Wide(get(name, i)) - get(name, i - 1)
        body.append(s.loop(n, [s.mix(check, gap + i % 7)], var=i, low=1))
    else:
        same = get(name, i).equals(get(name, i - 1))
        body.append(
            s.loop(n, [If(same, (Assign(check.name, check + 1),), (s.mix(check, get(name, i)),))], var=i, low=1)
        )
    return body, check


@family("bottom-up merge sort with one spare array", "arr")
def merge_sort(s: Stage) -> Built:
    """Bottom-up merge sort with one spare array, or a fresh one for each round."""
    n_value = max(s.size // 4, 4)
    n = s.constant("count", n_value)
    elem = s.elem("i32", "i64", "f64")
    name, body = filled(s, "values", elem, n, s.for_problem("limit", 1009, 65536, 1000003))
    spare, spare_new = s.array("spare", elem, n)
    width, left, middle, right = (Var(s.name(r)) for r in ("width", "left", "middle", "right"))
    a, b, k, i, check = (Var(s.name(r)) for r in ("a", "b", "k", "i", "check"))
    first = Both(a < middle, Both(b < right, get(name, a) <= get(name, b)))
    take_a = (put(spare, k, get(name, a)), Assign(a.name, a + 1))
    take_b = (put(spare, k, get(name, b)), Assign(b.name, b + 1))
    # One turn of the loop over pairs stands for all of them: its merge counts every element of a round.
    choose = If(first, take_a, (If(b < right, take_b, take_a, 0.5),), 0.45)
    merge = For(k.name, left, right, (choose,), Int(1), False, n)
    levels = max(n_value.bit_length(), 1)
    pair = (
        Let(middle.name, INT, Bin("min", left + width, n)),
        Let(right.name, INT, Bin("min", left + width * 2, n)),
        Let(a.name, INT, left),
        Let(b.name, INT, middle),
        merge,
        Assign(left.name, right),
    )
    rounds = (
        Let(left.name, INT, Int(0)),
        While(left < n, pair, Int(1)),
        s.loop(n, [put(name, i, get(spare, i))], var=i),
        Assign(width.name, width * 2),
    )
    lets = [
        spare_new,
        Let(width.name, INT, Int(1)),
        While(width < n, rounds, Int(levels)),
        Let(check.name, LONG, Int(1)),
    ]
    return [*body, *lets, *scan(s, name, n, check, s.for_problem("stride", 1, 3))], check


@family("counting sort or a simple insertion sort of a small array", "arr")
def counting_sort(s: Stage) -> Built:
    """Counting sort or a simple insertion sort of a small array."""
    kind = s.for_problem("kind", "counting", "insertion")
    check, i = s.vars("check", "i")
    if kind == "insertion":
        n = s.constant("count", max(min(int(s.size**0.5) * 2, 2000), 4))
        name, body = filled(s, "values", s.elem("i32", "i64", "f64"), n, 10007)
        key, j = s.vars("key", "j")
        shift = While(
            Both(j > 0, get(name, j - 1) > key),
            (put(name, j, get(name, j - 1)), Assign(j.name, j - 1)),
            Int(max(int(s.size**0.5) // 2, 2)),
        )
        step = [Let(key.name, LONG, get(name, i)), Let(j.name, INT, i), shift, put(name, j, key)]
        body += [s.loop(n, step, var=i, low=1), Let(check.name, LONG, Int(0))]
        return [*body, *scan(s, name, n, check)], check
    n = s.constant("count", s.size)
    top_value = s.for_variant("range", 256, 1000, 65536)
    top = s.constant("range", top_value)
    name, body = filled(s, "values", s.elem("i32", "i64", "i32"), n, top_value)
    counts, new = s.array("counts", "i32", top)
    v, place, k = s.vars("v", "place", "k")
    slot = s.var("slot")
    target = name
    body += [new, s.loop(n, [Let(slot.name, INT, get(name, i)), put(counts, slot, get(counts, slot) + 1)], var=i)]
    if s.for_variant("copy", True, False):
        target, target_new = s.array("ordered", "i32", n)
        body.append(target_new)
    # On average a value has count / range copies.
    inner = While(
        k > 0,
        (put(target, place, v), Assign(place.name, place + 1), Assign(k.name, k - 1)),
        Int(max(s.size // top_value, 1)),
    )
    body += [Let(place.name, INT, Int(0)), s.loop(top, [Let(k.name, INT, get(counts, v)), inner], var=v)]
    return [*body, Let(check.name, LONG, Int(0)), *scan(s, target, n, check)], check


# Recursion and streams


@family("a recursion as deep as the language likes", "recursion")
def deep_recursion(s: Stage) -> Built:
    """A recursion as deep as the language likes, repeated; or the same by a loop."""
    most = max(min(s.size, s.max_depth), 10)
    depth = s.constant("depth", most)
    rounds = s.constant("rounds", max(min(s.size // most, 200), 1))
    walk = s.name("walk")
    left, state, result = s.vars("left", "state", "result")
    factor = s.for_problem("factor", 3, 7, 31)
    modulus = s.for_problem("modulus", 10007, 1000003)
    i, j, check = s.vars("i", "j", "check")
    advance = (state * factor + left) % modulus
    if s.for_variant("loop", True, False, False):
        back = Function(
            walk,
            ((left.name, INT), (state.name, LONG)),
            (
                Let(result.name, LONG, state),
                For(j.name, Int(0), left, (Assign(result.name, (result * factor + j) % modulus),)),
            ),
            result % modulus,
        )
    else:
        deeper = Assign(result.name, (Call(walk, (left - 1, advance)) + state + 1) % modulus)
        back = Function(
            walk,
            ((left.name, INT), (state.name, LONG)),
            (Let(result.name, LONG, state), If(left > 0, (deeper,), (), 1.0)),
            result,
            LONG,
            Int(most),
            Int(most),
        )
    s.functions.append(back)
    step = [s.mix(check, Call(walk, (depth, Wide(i))))]
    return [Let(check.name, LONG, Int(0)), s.loop(rounds, step, var=i)], check


@family("a recurrence by recursion that remembers its results in an array given to it", "arr", "recursion")
def memo_recursion(s: Stage) -> Built:
    """A recurrence by recursion that remembers its results in an array given to it."""
    n_value = max(min(s.size, s.max_depth - 10), 10)
    n = s.constant("size", n_value)
    memo = s.name("memo")
    solve = s.name("solve")
    k = s.var("k")
    table = s.name("table")
    value = s.var("value")
    elem = s.elem("i32", "i64", "i32")
    modulus = s.for_problem("modulus", 10007, 1000003, 65521)
    second = s.for_problem("second", 2, 3, 5)
    both = Call(solve, (Var(table), k - 1)) + Call(solve, (Var(table), k // second)) + k
    fresh = (Assign(value.name, both % modulus + 1), put(table, k, value))
    body = (
        Let(value.name, LONG, Int(1)),
        If(k > 1, (Assign(value.name, get(table, k)), If(value.equals(0), fresh, (), 0.5)), (), 1.0),
    )
    params = ((table, Type("arr", elem)), (k.name, INT))
    s.functions.append(Function(solve, params, body, value, LONG, Int(2 * n_value), Int(n_value)))
    new = New(memo, Type("arr", elem), (n + 1, Int(0)))
    check = s.var("check")
    return [new, Let(check.name, LONG, Call(solve, (Var(memo), n))), *scan(s, memo, n + 1, check)], check


@family("map")
def pipeline_sum(s: Stage) -> Built:
    """Map, filter and add a range: in a loop, through a stored list, or lazily."""
    n = s.constant("count", s.size)
    modes = ["loop"] + (["list"] * 2 if s.able("vec") else []) + (["lazy"] * 2 if s.able("lazy") else [])
    check, start = s.fresh_check()
    body: list[Any] = [start]
    for part in range(s.for_problem("parts", 1, 2)):
        mode = s.for_variant(f"mode {part}", *modes)
        total, var = s.vars("total", "x")
        power = Wide(var) * var % s.for_problem(f"modulus {part}", 97, 1009, 9973)
        value = s.for_problem(f"value {part}", power, var % 1000, (Wide(var) * 7 + 3) % 512)
        divisor = s.for_problem(f"divisor {part}", 2, 3, 4, 7)
        keep = s.for_problem(f"keep {part}", None, (var % divisor).equals(0), (var % divisor).differs(1))
        body += [Fold(total.name, var.name, Int(0), n, value, keep, mode), s.mix(check, total % 1000003)]
    return body, check


__all__ = ["FAMILIES", "Built", "Family", "family"]
