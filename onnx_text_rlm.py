"""ONNX graph out: writes a graph as short canonical text, and reads such a text as the program that it is.

    text = onnx_to_text("resnet18.onnx")
    graph_ngrams(text)          # how operators follow one another
    position_features(text)     # where operators stand in the blocks of the text

What the text is
    * It has the structure of a graph and the *shapes* of its weights, never their values.
    * Batch norm and activation are glued to their convolution: ``conv3x3-bn-relu 16 s2``.
    * Additions are flattened to one sum: ``v0 + conv1x1-bn 64``.
    * Values are numbered in an order that depends on the graph alone, so renamed tensors and shuffled nodes give the same text.
    * A block that occurs again is written once, as ``def f a``, and called with its channel counts: ``f 64 x3``.

Grammar, one statement a line
    ==============================  =========================================================================
    ``total x61 total m12346``      what the graph costs, in the first lines: see `onnx_graph_rlm.py`
    ``in 1 3 32 32``                a graph input and its shape; ``n`` is a free dimension, ``?`` an unknown shape
    ``v1 = conv3x3 16 s2 v0``       operator, its numbers, its arguments; the result is called v1
    ``conv1x1-bn 64``               no name: only the next line uses it; no argument: applied to the line before
    ``v0 + avgpool3x3 v1``          a sum of values and operators applied to values
    ``def f a b``                   a block; its inputs are v0, v1, ...; its result is its last line; a, b are numbers
    ``f 64 256 x3``                 the block applied three times in a row with a = 64, b = 256
    ``f 0+1 v0 v1 x400``            a recurrence written out: a = 0, 1, 2, ...; the block's results take the place of its
                                    last arguments each time
    ``if v0 v1``, ``loop 10 v0``    control flow: the lines of the bodies follow, indented by two blanks, those of If with
                                    ``else`` between them; in them v0, v1, ... are the statement's arguments, in a loop also,
                                    behind these, the number of the run and the condition; ``loop 10`` runs ten times,
                                    ``loop n`` an unknown number of times
    ``_ v1 = gru ...``              a result that nothing reads
    ``out v3 v5``                   the graph outputs, unless the last line is the only one
    ==============================  =========================================================================

    The number after a convolution, ``fc`` (Gemm) or ``matmul`` is its output width; it is left out where it equals
    the input width. ``s2`` stride, ``d2`` dilation, ``p0`` padding (left out where it is dilation * (kernel - 1) // 2),
    ``same`` and ``samelow`` the automatic paddings, ``grp4`` groups, ``dwconv`` depthwise, ``bias`` a bias input,
    ``w 768`` a weight and its shape. ``float16`` or ``int8`` behind an operator is the type of its weight where that is
    not float32 or its data's, ``quint8`` the type that its data is quantised to. Other operators keep their ONNX name in
    lower case, with the attributes that differ from the operator's defaults. More than eight equally spaced integers are
    written ``range first count step``, the ends of int64 ``inf``, ``-inf``.

What the text does not tell apart
    The order in which a chain of additions is made, but for what the sums cost, and all that `onnx_canonical_rlm` brings to
    one form. ``bn`` is any scale and shift of each channel behind a convolution, folded into its weights or not. Nodes that no
    output needs are not written, only counted: what they compute is lost, what they cost is not.

Features of a text
    Whether a network is accurate depends less on what it is made of than on how its operators are connected. A text states
    that in calls and names that no count of words resolves. So the text is run as a program on something else than tensors.
    Sums are transparent: an operator that reads ``v0 + conv3x3 v1`` follows both.

    `graph_ngrams` runs the whole network. Every value carries how many n-grams of one and two operators end in it, and for
    every operator how many of it lie on the way from the input that has most of them, and least. Counted by name:

    ==================================  ====================================================================================
    ``conv3x3``                         operators of one name, without their numbers
    ``conv3x3 conv1x1``                 pairs, the second reading what the first made, once for each way of sums between them
    ``conv1x1 conv3x3 maxpool3x3``      three in a row
    ``most conv3x3``, ``least ...``     on the ways from an input to the output; of all operators: ``most``, ``least``
    ``ways``                            ways from an input to the output
    ==================================  ====================================================================================

    `position_features` runs each block that the network calls by itself, and once more the lines that call them, in which a
    call is an operator like any other. A value is the set of operators that it is the sum of. Counted, a block's as often as it
    is called:

    ==================================  ====================================================================================
    ``conv3x3 most 2 1``                operators of one name, so many steps from an input of the block and to its end, along
                                        the ways that have most; ``in`` and ``out`` are operators, too, a call is ``call``
    ``conv3x3 least 1 1``               the same along the ways that have least
    ``conv3x3 reads 2``                 operators that read so many others
    ``conv3x3 read by 3``               operators that so many others read
    ==================================  ====================================================================================

    The cost grows with the operators of the network and their names, not with the ways through it, and has a limit. Of a text
    that is truncated or wrong as much is read as makes sense; a statement that makes none is passed over.

Example:
    >>> from code_rlm.onnx_text_rlm import onnx_to_text
    >>> print(onnx_to_text("resnet18.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from .onnx_canonical_rlm import (
    NUMBER,
    PREVIOUS,
    REFERENCE,
    Operator,
    Piece,
    canonical_graph,
    canonical_graph_cost,
    canonical_order,
    fuse,
    graph_cost,
)
from .onnx_graph_rlm import Graph, GraphCost, Model, OnnxTextError, Sizes, Value, cost_lines, naming_errors

_MIN_GAIN = 6  # tokens a block must save
_MAX_BLOCKS = 24
_MIN_STEPS = 16  # of a recurrence that is written out
_MAX_PERIOD = 256  # statements of one step
_MAX_TRIES = 256  # candidate blocks looked at before folding ends
_LONG = 400  # statements: of longer texts only short blocks are candidates
_MAX_CACHE = 4096  # entries
_TOKEN = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
_BLOCK_NAMES = "fghjkmqrtuyz"
_NUMBER_NAMES = "abceilo"


# ---------------------------------------------------------------------------------------------------------------------
# Statements


class _Line:
    """A statement: an operator or a call, applied `count` times in a row.

    Attributes:
        parts, nums: See `Operator`; a negative part -k is a call of block k - 1.
        refs: Ids of the values that it reads, in the order of the markers in `parts`.
        outs: Ids of the values that it makes.
        count: How often it is applied.
    """

    __slots__ = ("count", "nums", "outs", "parts", "refs")

    def __init__(
        self,
        parts: tuple[Piece, ...],
        nums: tuple[tuple[Piece, bool], ...],
        refs: Sequence[int],
        outs: Sequence[int],
        count: int = 1,
    ) -> None:
        self.parts = parts
        self.nums = nums
        self.refs = list(refs)
        self.outs = list(outs)
        self.count = count

    @property
    def block(self) -> int:
        """Number of the block that is called, -1 for an operator."""
        first = self.parts[0]
        return -1 - first if isinstance(first, int) and first < 0 else -1


class _Block(NamedTuple):
    """Statements that occur more than once: a body over outer values, its results, its count of parameters."""

    body: list[_Line]
    arguments: list[int]
    results: list[int]
    parameters: int


def _statements(operators: Sequence[Operator], order: Sequence[int], outputs: Sequence[int]) -> list[_Line]:
    """Returns operators as statements; what only a sum reads becomes a term of it."""
    uses = _use_counts(operators, outputs)
    maker = {out: operator for operator in operators for out in operator.outs}
    place = {out: position for position, index in enumerate(order) for out in operators[index].outs}
    inside = set()
    for operator in operators:
        for arg in operator.args if operator.kind == "sum" else ():
            made = maker[arg]
            has_body = str(made.parts[-1]).startswith("\n")
            if uses[arg] == 1 and len(made.outs) == 1 and made.kind != "input" and not has_body:
                inside.add(arg)
    lines = []
    for index in order:
        operator = operators[index]
        if operator.outs and operator.outs[0] in inside:
            continue
        if operator.kind == "sum":
            lines.append(_sum_line(operator, maker, place, inside))
        else:
            lines.append(_Line(operator.parts, operator.nums, _sorted_args(operator, place), operator.outs))
    return lines


def _use_counts(readers: Iterable[Operator], outputs: Sequence[int]) -> Counter[int]:
    """Returns how often each value is read; an output of the graph counts twice, so that it is never a term of a sum."""
    uses = Counter([*outputs, *outputs])
    for reader in readers:
        uses.update(reader.args)
    return uses


def _sorted_args(operator: Operator, place: Mapping[int, int]) -> list[int]:
    """Returns the arguments of an operator, in the order of their statements where their order means nothing."""
    return sorted(operator.args, key=place.__getitem__) if operator.kind == "commutative" else operator.args


def _sum_line(operator: Operator, maker: Mapping[int, Operator], place: Mapping[int, int], inside: set[int]) -> _Line:
    """Returns the statement of a sum, its terms in the order of what they read."""
    terms: list[tuple[list[int], str, tuple[tuple[Piece, bool], ...], tuple[Piece, ...], list[int]]] = []
    for arg in operator.args:
        if arg in inside:
            made = maker[arg]
            refs = _sorted_args(made, place)
            terms.append(([place[ref] for ref in refs], repr(made.parts), made.nums, made.parts, refs))
        else:
            terms.append(([place[arg]], "", (), (REFERENCE,), [arg]))
    terms.sort(key=lambda term: term[:3])
    parts: tuple[Piece, ...] = ()
    nums: tuple[tuple[Piece, bool], ...] = ()
    all_refs: list[int] = []
    for _, _, term_nums, term_parts, refs in terms:
        parts += (("+",) if parts else ()) + term_parts
        nums += term_nums
        all_refs.extend(refs)
    return _Line(parts, nums, all_refs, operator.outs)


def _last_uses(lines: Sequence[_Line], outputs: Sequence[int]) -> dict[int, int]:
    """Returns the index of the last statement that reads each value, one past the end for outputs."""
    last: dict[int, int] = {}
    for index, line in enumerate(lines):
        for ref in line.refs:
            last[ref] = index
    for out in outputs:
        last[out] = len(lines)
    return last


def _runs(lines: Sequence[_Line], outputs: Sequence[int], calls_only: bool = False) -> list[_Line]:
    """Joins equal statements applied one after another: `f 64 x3`."""
    uses = Counter(outputs)
    for line in lines:
        uses.update(line.refs)
    result: list[_Line] = []
    for line in lines:
        if result and len(line.refs) == 1 and len(line.outs) == 1 and (not calls_only or line.block >= 0):
            before = result[-1]
            if (
                before.parts == line.parts
                and before.nums == line.nums
                and len(before.refs) == 1
                and before.outs == line.refs
                and uses[line.refs[0]] == 1
            ):
                result[-1] = _Line(line.parts, line.nums, before.refs, line.outs, before.count + line.count)
                continue
        result.append(line)
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Folding


def _fold(lines: list[_Line], outputs: Sequence[int]) -> tuple[list[_Line], list[_Block]]:
    """Replaces repeated statements by calls of blocks, the most profitable first.

    Returns:
        The remaining statements, and the blocks.
    """
    blocks: list[_Block] = []
    while len(blocks) < _MAX_BLOCKS:
        folded = _folded_recurrence(lines, outputs, len(blocks)) or _folded_once(lines, outputs, len(blocks))
        if folded is None:
            break
        lines, block = folded
        blocks.append(block)
    return lines, blocks


def _folded_once(lines: list[_Line], outputs: Sequence[int], number: int) -> tuple[list[_Line], _Block] | None:
    """Replaces the most profitable repetition by calls of a new block; None where nothing is gained."""
    last = _last_uses(lines, outputs)
    text = _keys(lines, last)
    costs = [_cost(line) for line in lines]
    for _, start, length in _candidates(text, costs)[:_MAX_TRIES]:
        segments = _segments(lines, last, text, start, length)
        if len(segments) < 2:
            continue
        places = [segment.start for segment in segments]
        body, parameters = _unify(lines, places, length)
        calls = {}
        for position, segment in enumerate(segments):
            parts: tuple[Piece, ...] = (-1 - number,) + (NUMBER,) * len(parameters)
            parts += (PREVIOUS,) if len(segment.outer) == 1 else (REFERENCE,) * len(segment.outer)
            nums = tuple((values[position], False) for values in parameters)
            calls[segment.start] = _Line(parts, nums, segment.outer, [segment.result])
        before = sum(costs[place + offset] for place in places for offset in range(length))
        after = sum(map(_cost, body)) + sum(map(_cost, calls.values())) + 2 + len(parameters)
        if before - after < _MIN_GAIN:
            continue
        block = _Block(body, segments[0].outer, [segments[0].result], len(parameters))
        return _runs(_replaced(lines, calls, length), outputs, calls_only=True), block
    return None


def _replaced(lines: Sequence[_Line], calls: Mapping[int, _Line], length: int) -> list[_Line]:
    """Returns statements with a call in place of the `length` statements at each of its positions."""
    result = []
    index = 0
    while index < len(lines):
        if index in calls:
            result.append(calls[index])
            index += length
        else:
            result.append(lines[index])
            index += 1
    return result


def _folded_recurrence(lines: list[_Line], outputs: Sequence[int], number: int) -> tuple[list[_Line], _Block] | None:
    """Replaces a recurrence that is written out by one run of a new block; None where there is none.

    Such are at least `_MIN_STEPS` repetitions in a row, each of which reads what the one before made, the same other values,
    and numbers that grow by the same amount: `f 0+1 v0 v1 x400`.
    """
    if len(lines) < _MIN_STEPS:
        return None
    last = _last_uses(lines, outputs)
    codes = np.array([ord(letter) for letter in _keys(lines, last)])
    for period in range(1, min(len(codes) // _MIN_STEPS, _MAX_PERIOD) + 1):
        start, length = _longest_run(codes[:-period] == codes[period:])
        best: tuple[int, int, _Recurrence] | None = None
        for begin in range(start, start + min(period, length)):
            steps = (start + length - begin) // period + 1
            if steps < _MIN_STEPS:
                break
            recurrence = _recurrence(lines, last, begin, period, steps)
            # A step can begin anywhere: best is where it hands on the fewest values.
            if recurrence and (best is None or len(recurrence.results) < len(best[2].results)):
                best = (begin, steps, recurrence)
        if best is not None:
            begin, steps, (block, nums, arguments, results) = best
            markers = (PREVIOUS,) if len(arguments) == 1 else (REFERENCE,) * len(arguments)
            call = _Line((-1 - number, *(NUMBER,) * len(nums), *markers), nums, arguments, results, steps)
            return [*lines[:begin], call, *lines[begin + period * steps :]], block
    return None


class _Recurrence(NamedTuple):
    """A recurrence as a block, with the numbers, arguments and results of its run."""

    block: _Block
    nums: tuple[tuple[Piece, bool], ...]
    arguments: list[int]
    results: list[int]


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """Returns start and length of the longest stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[2 * longest]), int(lengths[longest])


def _recurrence(
    lines: Sequence[_Line], last: Mapping[int, int], begin: int, period: int, steps: int
) -> _Recurrence | None:
    """Returns repetitions as a recurrence, None if they are none."""
    places = [begin + period * step for step in range(steps)]
    segments = [_chain_link(lines, last, place, place + period) for place in places]
    first = segments[0]
    made = first.results  # positions of what each step hands on
    if not made or not first.outer:
        return None
    if any(segment.connections != first.connections for segment in segments):
        return None
    if any(segment.results != made for segment in segments[:-1]) or not set(segments[-1].results) <= set(made):
        return None
    chained: dict[int, int] = {}  # position of an argument to the result of the step before that it is
    for position, value in enumerate(first.outer):
        later = [segment.outer[position] for segment in segments[1:]]
        if all(each == value for each in later):
            continue
        before = [result for result in made if all(s.values[result] == each for s, each in zip(segments, later))]
        if not before:
            return None
        chained[position] = before[0]
    ends = [place + period for place in places[1:]]
    handed_on = all(last[segment.values[result]] < end for segment, end in zip(segments, ends) for result in made)
    if set(chained.values()) != set(made) or not handed_on:
        return None
    body, parameters = _unify(lines, places, period)
    nums = []
    for values in parameters:
        step = _common_step(values)
        if step is None:
            return None
        nums.append((f"{values[0]}{step:+}", False))
    order = [position for position in range(len(first.outer)) if position not in chained]
    order += sorted(chained, key=lambda position: made.index(chained[position]))
    arguments = [first.outer[position] for position in order]
    block = _Block(body, arguments, [first.values[result] for result in made], len(parameters))
    return _Recurrence(block, tuple(nums), arguments, [segments[-1].values[result] for result in made])


def _common_step(values: Sequence[Piece]) -> int | None:
    """Returns the difference of integers that are equally spaced, else None."""
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) < len(values):
        return None
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    return steps.pop() if len(steps) == 1 else None


class _Link(NamedTuple):
    """One step of a recurrence: how its values are connected, outer values, values made, positions of those used outside."""

    connections: list[int]
    outer: list[int]
    values: list[int]
    results: list[int]


def _chain_link(lines: Sequence[_Line], last: Mapping[int, int], start: int, stop: int) -> _Link:
    """Returns statements `start` to `stop` as one step of a recurrence."""
    inner: dict[int, int] = {}
    outer: dict[int, int] = {}
    connections = []
    for line in lines[start:stop]:
        for ref in line.refs:
            connections.append(inner[ref] if ref in inner else -1 - outer.setdefault(ref, len(outer)))
        for out in line.outs:
            inner[out] = len(inner)
    results = [position for value, position in inner.items() if last.get(value, -1) >= stop]
    return _Link(connections, list(outer), list(inner), results)


_COST_CACHE: dict[tuple[Piece, ...], int] = {}


def _cost(line: _Line) -> int:
    """Returns the estimated tokens of a statement."""
    cost = _COST_CACHE.get(line.parts)
    if cost is None:
        cost = 2
        for part in line.parts:
            if isinstance(part, str):
                cost += len(_TOKEN.findall(part))
            elif part:
                cost += 1 if part < 0 else 2
        if len(_COST_CACHE) < _MAX_CACHE:
            _COST_CACHE[line.parts] = cost
    for value, same in line.nums:
        if not same:
            cost += len(str(value))
    return cost


def _keys(lines: Sequence[_Line], last: Mapping[int, int]) -> str:
    """Returns one character a statement, equal where operators and the arguments' positions are.

    Arguments count from the youngest value still needed, so the same block has the same characters wherever it stands.
    """
    alive: list[int] = []
    table: dict[Any, str] = {}
    text = []
    for index, line in enumerate(lines):
        key: Any
        if line.parts[0] == "in" or (line.count > 1 and line.block >= 0):
            key = index  # inputs stay outside blocks, and so do runs of calls: one level is easier to read
        else:
            ranks = tuple(len(alive) - alive.index(ref) for ref in line.refs)
            key = (line.parts, line.count, ranks, tuple(last[ref] == index for ref in line.refs))
        for ref in set(line.refs):
            if last[ref] == index:
                alive.remove(ref)
        alive.extend(out for out in line.outs if last.get(out, -1) > index)
        text.append(table.setdefault(key, chr(0x10000 + len(table))))
    return "".join(text)


def _candidates(text: str, costs: Sequence[int]) -> list[tuple[int, int, int]]:
    """Returns substrings that occur at least twice, the most profitable first: (estimated gain, start, length)."""
    size = len(text)
    total = [0]
    for cost in costs:
        total.append(total[-1] + cost)
    longest = size if size <= _LONG else max(64, _LONG * _LONG // size)
    seen = set()
    candidates = []
    for start in range(size - 1):
        for length in range(1, min(longest, size - start) + 1):
            piece = text[start : start + length]
            if piece in seen:
                continue
            count = text.count(piece)
            if count < 2:
                break
            seen.add(piece)
            gain = (count - 1) * (total[start + length] - total[start]) - 3 * count - 2
            if gain >= _MIN_GAIN:
                candidates.append((gain, start, length))
    candidates.sort(key=lambda candidate: (-candidate[0], candidate[2], candidate[1]))
    return candidates


class _Segment(NamedTuple):
    """Consecutive statements that could be a block: where, how their values are connected, outer values, result."""

    start: int
    connections: list[int]
    outer: list[int]
    result: int


def _segments(lines: Sequence[_Line], last: Mapping[int, int], text: str, start: int, length: int) -> list[_Segment]:
    """Returns the places of a substring that have the same connections and do not overlap."""
    piece = text[start : start + length]
    segments: list[_Segment] = []
    place = text.find(piece)
    while place >= 0:
        segment = _segment(lines, last, place, place + length)
        fits = segment is not None and (not segments or segment.connections == segments[0].connections)
        if segment is not None and fits:
            segments.append(segment)
        place = text.find(piece, place + (length if fits else 1))
    return segments


def _segment(lines: Sequence[_Line], last: Mapping[int, int], start: int, stop: int) -> _Segment | None:
    """Returns statements `start` to `stop` as a segment, its outer values numbered by first use, or None if they are no block.

    A block reads at least one value, and at most one of its results is used outside.
    """
    inner: dict[int, int] = {}
    outer: dict[int, int] = {}
    connections = []
    result = None
    for line in lines[start:stop]:
        for ref in line.refs:
            if ref in inner:
                connections.append(inner[ref])
            else:
                connections.append(-1 - outer.setdefault(ref, len(outer)))
        for out in line.outs:
            if last.get(out, -1) >= stop:
                if result is not None:
                    return None
                result = out
            inner[out] = len(inner)
    if not outer:
        return None
    if result is None:
        result = lines[stop - 1].outs[0]
    connections.append(inner[result])
    return _Segment(start, connections, list(outer), result)


def _unify(lines: Sequence[_Line], places: Sequence[int], length: int) -> tuple[list[_Line], list[tuple[Piece, ...]]]:
    """Makes one body of several segments: numbers that differ become parameters.

    Returns:
        The body and, for each parameter, its value in each segment.
    """
    body = []
    parameters: dict[tuple[Piece, ...], str] = {}
    for offset in range(length):
        versions = [lines[place + offset] for place in places]
        nums: list[tuple[Piece, bool]] = []
        for column in zip(*(version.nums for version in versions)):
            values = tuple(value for value, _ in column)
            if all(same for _, same in column):
                nums.append((values[0], True))
            elif all(value == values[0] for value in values):
                nums.append((values[0], False))
            else:
                nums.append((parameters.setdefault(values, _number_name(len(parameters))), False))
        first = versions[0]
        body.append(_Line(first.parts, tuple(nums), first.refs, first.outs, first.count))
    return body, list(parameters)


def _short_name(letters: str, index: int) -> str:
    """Returns the name of a number: a letter, with a digit from the second round of the letters on."""
    size = len(letters)
    return letters[index] if index < size else letters[index % size] + str(index // size)


def _number_name(index: int) -> str:
    return _short_name(_NUMBER_NAMES, index)


# ---------------------------------------------------------------------------------------------------------------------
# Printing


class _Printer:
    """Prints the statements of one body: decides which values have a name, and which are the line before.

    Args:
        lines: A body or the whole network.
        arguments: Values that come from outside, printed v0, v1, ...
        outputs: Values that are results.
        names: Names of the blocks by number.
    """

    def __init__(
        self, lines: Sequence[_Line], arguments: Sequence[int], outputs: Sequence[int], names: Mapping[int, str]
    ) -> None:
        self.lines = _runs(lines, outputs)
        self.outputs = list(outputs)
        self.names = names
        self.uses: dict[int, list[tuple[int, Piece]]] = {}
        for index, line in enumerate(self.lines):
            markers = [part for part in line.parts if part in (REFERENCE, PREVIOUS)]
            for ref, marker in zip(line.refs, markers):
                self.uses.setdefault(ref, []).append((index, marker))
        final = self.lines[-1].outs if self.lines else []
        self.plain_end = len(outputs) == 1 and final == self.outputs and outputs[0] not in self.uses
        if not self.plain_end:
            for out in outputs:
                self.uses.setdefault(out, []).append((len(self.lines), REFERENCE))
        self.called: dict[int, str] = {}
        self.next_name = len(arguments)
        for number, value in enumerate(arguments):
            if len(arguments) > 1 or self.uses.get(value, []) != [(0, PREVIOUS)]:
                self.called[value] = f"v{number}"

    def text(self) -> list[str]:
        """Returns one line a statement; the last is `out` unless the statement before is the only result."""
        result = []
        for index, line in enumerate(self.lines):
            words = self._words(line)
            if line.count > 1:
                words.insert(len(words) - words[-1].startswith("\n"), f"x{line.count}")
            unnamed = len(line.outs) == 1 and self.uses.get(line.outs[0], []) in ([], [(index + 1, PREVIOUS)])
            if not unnamed and any(out in self.uses for out in line.outs):
                words = [*self._results(line), "=", *words]
            result.append(" ".join(words).replace(" \n", "\n"))
        if not self.plain_end:
            result.append(" ".join(["out", *(self.called[out] for out in self.outputs)]))
        return result

    def _words(self, line: _Line) -> list[str]:
        refs = iter(line.refs)
        nums = iter(line.nums)
        words = []
        for part in line.parts:
            if part == NUMBER:
                value, same = next(nums)
                words.extend([] if same else [str(value)])
            elif part in (REFERENCE, PREVIOUS):
                name = self.called.get(next(refs))
                words.extend([name] if name else [])
            elif isinstance(part, int):
                words.append(self.names[-1 - part])
            else:
                words.append(part)
        return words

    def _results(self, line: _Line) -> list[str]:
        """Names the results of a statement that something reads; `_` is one that nothing reads."""
        results = []
        for out in line.outs:
            if out in self.uses:
                self.called[out] = f"v{self.next_name}"
                self.next_name += 1
            results.append(self.called.get(out, "_"))
        return results


def _name_blocks(lines: Sequence[_Line], blocks: Sequence[_Block]) -> dict[int, str]:
    """Names blocks so that each stands behind those that it calls, in the order of the calls."""
    names: dict[int, str] = {}
    visited: set[int] = set()

    def visit(body: Sequence[_Line]) -> None:
        for line in body:
            if line.block >= 0 and line.block not in visited:
                visited.add(line.block)
                visit(blocks[line.block].body)
                names[line.block] = _short_name(_BLOCK_NAMES, len(names))

    visit(lines)
    return names


def _body_lines(graph: Graph, sizes: Sizes, arguments: Sequence[str]) -> list[str]:
    """Prints the body of a control-flow operator, in which v0, v1, ... are the arguments."""
    formal = {value.name: value for value in graph.inputs}
    graph.inputs = [formal.get(name) or Value(name, 0, None) for name in arguments]
    operators, outputs, ids = fuse(graph, sizes, _body_lines)
    lines = _statements(operators, canonical_order(operators, outputs), outputs)
    lines = [line for line in lines if line.parts[0] != "in"]
    return _Printer(lines, [ids[name] for name in arguments], outputs, {}).text()


def onnx_to_text(
    model: Model,
    *,
    fold: bool = True,
    costs: bool = True,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Writes an ONNX graph as short canonical text.

    The text depends on operators, attributes, shapes of weights and their connections; not on names, nor on the order of nodes
    in the file, nor on the values of weights, which are never read.

    Args:
        model: The graph: a model, the path of a file (its external data is not opened), or a file's bytes.
        fold: Whether repeated blocks are written once and called.
        costs: Whether the text begins with what the graph costs, as models are trained to read it.
        input_shapes: Shapes of inputs by name where the file leaves sizes free; the name "" stands for the only input.

    Returns:
        One statement a line, no line end after the last.

    Raises:
        OnnxTextError: No ONNX model, a tensor that nothing makes, external data outside the model's folder, or, in what an
            output needs, a cycle or control flow. Operators of unknown domains are written `domain.operator` with all
            their attributes; an input without a shape is written `in ?`.

    Example:
        >>> onnx_to_text(model)  # doctest: +SKIP
        'in 1 3 32 32\\nconv3x3-bn-relu 16\\ngap\\nflatten\\nfc 10 bias'
    """
    with naming_errors(model):
        return "\n".join(_text_lines(*canonical_graph(model, input_shapes), fold, costs))


def onnx_to_text_and_cost(
    model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[str, GraphCost]:
    """Returns what `onnx_to_text` and `graph_cost` do, from one reading of the graph.

    Raises:
        OnnxTextError: See `onnx_to_text`.
    """
    graph, sizes, cost = canonical_graph_cost(model, input_shapes)
    with naming_errors(model):
        return "\n".join(_text_lines(graph, sizes, True, True)), cost


def _text_lines(graph: Graph, sizes: Sizes, fold: bool, costs: bool) -> list[str]:
    """Returns the lines of a canonical graph's text."""
    text = cost_lines(graph, sizes) if costs else []
    operators, outputs, _ = fuse(graph, sizes, _body_lines)
    lines = _statements(operators, canonical_order(operators, outputs), outputs)
    blocks: list[_Block] = []
    if fold:
        lines, blocks = _fold(lines, outputs)
    names = _name_blocks(lines, blocks)
    for number, name in names.items():
        block = blocks[number]
        header = ["def", name, *(_number_name(k) for k in range(block.parameters))]
        if len(block.arguments) > 1:
            header.extend(f"v{k}" for k in range(len(block.arguments)))
        text.append(" ".join(header))
        text.extend(_Printer(block.body, block.arguments, block.results, names).text())
    text.extend(_Printer(lines, [], outputs, names).text())
    return text


# ---------------------------------------------------------------------------------------------------------------------
# Features: the text run as a program

_MAX_WORK = 200_000  # statements and what their values carry: what follows is not read
_MAX_DEPTH = 16  # of blocks that call blocks
_MAX_COUNT = 1e30  # ways double with every sum of a value with itself
_FARTHEST = 8  # steps from a block's input or to its end: what is farther counts as this far
_CALL = "call"
_INPUT = re.compile(r"^(?:v\d+ = )?in(?: [a-z]\w*)?(?: (?:\d+|n|\?))+$", re.MULTILINE)
_VALUE = re.compile(r"v\d+")
_TIMES = re.compile(r"x\d{1,4}")

Counts = dict[str, float]
T = TypeVar("T")


class _Algebra(Protocol[T]):
    """What values are while a text is run, and what an operator makes of them."""

    start: T

    def size(self, value: T) -> int:
        """Returns how much a value carries."""

    def joined(self, values: Sequence[T]) -> T:
        """Returns the sum of some values, or what an operator of several arguments reads."""

    def applied(self, operator: str, read: T) -> T:
        """Counts an operator and returns the value that it makes."""

    def counts(self, end: T) -> Counts:
        """Returns what was counted by name, with the value that the text ends with."""


class _Paths:
    """What is known of a tensor.

    Attributes:
        ones, twos: How many operators, and pairs of them, end in it, by name.
        most, least: How many operators lie on the way to it that has most or least of them, by name; of all names under "".
        ways: Ways to it from an input.
    """

    __slots__ = ("least", "most", "ones", "twos", "ways")

    def __init__(
        self,
        ones: Counts | None = None,
        twos: Counts | None = None,
        most: Counts | None = None,
        least: Counts | None = None,
        ways: float = 1.0,
    ) -> None:
        self.ones: Counts = ones or {}
        self.twos: Counts = twos or {}
        self.most: Counts = most or {}
        self.least: Counts = least or {}
        self.ways = ways


class _NGrams:
    """Counts operators, pairs and triples of the whole network; a value is a `_Paths`."""

    def __init__(self) -> None:
        self.start = _Paths()
        self.counted: Counter[str] = Counter()

    def size(self, value: _Paths) -> int:
        """Returns how many n-grams end in a value."""
        return len(value.ones) + len(value.twos)

    def joined(self, values: Sequence[_Paths]) -> _Paths:
        """Returns the sum of some values."""
        if len(values) == 1:
            return values[0]
        most = {name: 0.0 for value in values for name in value.most}
        for name in most:
            most[name] = max([value.most.get(name, 0) for value in values])
        least = {name: 0.0 for value in values for name in value.least}
        for name in least:
            least[name] = min([value.least.get(name, 0) for value in values])
        ones = _added(value.ones for value in values)
        twos = _added(value.twos for value in values)
        return _Paths(ones, twos, most, least, min(sum(value.ways for value in values), _MAX_COUNT))

    def applied(self, operator: str, read: _Paths) -> _Paths:
        """Counts an operator and the n-grams that end in it."""
        twos = {f"{one} {operator}": count for one, count in read.ones.items()}
        self.counted.update({operator: 1})
        self.counted.update(twos)  # type: ignore[arg-type]  # counts of ways are floats
        self.counted.update({f"{two} {operator}": count for two, count in read.twos.items()})  # type: ignore[misc]
        most = dict(read.most)
        least = dict(read.least)
        for name in ("", operator):
            most[name] = most.get(name, 0) + 1
            least[name] = least.get(name, 0) + 1
        return _Paths({operator: 1}, twos, most, least, read.ways)

    def counts(self, end: _Paths) -> Counts:
        """Returns what was counted, and what lies on the ways to the end."""
        result: Counts = dict(self.counted)
        for word, counts in (("most", end.most), ("least", end.least)):
            for operator, count in counts.items():
                if count:
                    result[f"{word} {operator}".strip()] = count
        result["ways"] = end.ways
        return result


def _added(counts: Iterable[Counts]) -> Counts:
    result: Counts = {}
    for each in counts:
        for name, count in each.items():
            result[name] = min(result.get(name, 0) + count, _MAX_COUNT)
    return result


class _Positions:
    """Positions of the operators of one block; a value is the set of those that it is the sum of.

    Attributes:
        operators: Names, in an order in which each comes behind those that it reads.
        reads: The operators that each reads, sets of their numbers.
    """

    def __init__(self) -> None:
        self.start: frozenset[int] = frozenset()
        self.operators: list[str] = []
        self.reads: list[frozenset[int]] = []

    def size(self, value: frozenset[int]) -> int:
        """Returns how many operators a value is the sum of."""
        return len(value)

    def joined(self, values: Sequence[frozenset[int]]) -> frozenset[int]:
        """Returns the operators of some values."""
        return frozenset().union(*values)

    def applied(self, operator: str, read: frozenset[int]) -> frozenset[int]:
        """Keeps an operator."""
        self.operators.append(operator)
        self.reads.append(read)
        return frozenset([len(self.operators) - 1])

    def counts(self, end: frozenset[int]) -> Counts:
        """Counts operators by name and position: steps from an input and to the end, the most and the least, and neighbours.

        An operator that does not lead to the end is no step to it, and itself as good as there.
        """
        self.applied("out", end)
        count = len(self.operators)
        read_by: list[list[int]] = [[] for _ in range(count)]
        for number, reads in enumerate(self.reads):
            for each in reads:
                read_by[each].append(number)
        to_end: list[tuple[int, int] | None] = [None] * (count - 1) + [(0, 0)]
        for number in reversed(range(count - 1)):
            to_end[number] = _steps([to_end[each] for each in read_by[number]])
        from_start: list[tuple[int, int]] = []
        result: Counter[str] = Counter()
        for number, operator in enumerate(self.operators):
            most, least = _steps([from_start[each] for each in self.reads[number]]) or (0, 0)
            from_start.append((most, least))
            most_after, least_after = to_end[number] or (0, 0)
            result[f"{operator} most {min(most, _FARTHEST)} {min(most_after, _FARTHEST)}"] += 1
            result[f"{operator} least {min(least, _FARTHEST)} {min(least_after, _FARTHEST)}"] += 1
            result[f"{operator} reads {len(self.reads[number])}"] += 1
            result[f"{operator} read by {len(read_by[number])}"] += 1
        return dict(result)


def _steps(neighbours: Iterable[tuple[int, int] | None]) -> tuple[int, int] | None:
    """Returns the most and the least steps to where neighbours' steps are counted from, None without neighbours."""
    known = [neighbour for neighbour in neighbours if neighbour is not None]
    if not known:
        return None
    return 1 + max(most for most, _ in known), 1 + min(least for _, least in known)


class _Run(Generic[T]):
    """One reading of some statements.

    Args:
        blocks: Lines of each block, which is run where it is called, by its name; a line is a list of words.
        algebra: What values are.
        work: How many statements were read so far, and what their values carry.
    """

    def __init__(self, blocks: Mapping[str, list[list[str]]], algebra: _Algebra[T], work: int = 0) -> None:
        self.blocks = blocks
        self.algebra = algebra
        self.work = work

    def statements(self, lines: Sequence[list[str]], values: dict[str, T], depth: int = 0) -> T:
        """Reads lines over named values; returns the value of the last line, or what the line `out` names."""
        last = next(iter(values.values()), self.algebra.start)
        for words in lines:
            if self.work >= _MAX_WORK:
                break
            if words[0] == "out":
                return self._joined([values[word] for word in words[1:] if word in values] or [last])
            names, terms = _parts(words)
            last = self._joined([self._term(term, values, last, depth) for term in terms] or [last])
            values.update(dict.fromkeys(names, last))
        return last

    def _joined(self, values: Sequence[T]) -> T:
        self.work += 1 + sum(map(self.algebra.size, values))
        return self.algebra.joined(values)

    def _term(self, words: Sequence[str], values: Mapping[str, T], last: T, depth: int) -> T:
        """Returns the value of one term of a sum."""
        if _VALUE.fullmatch(words[0]):
            return values.get(words[0], last)
        operator = words[0]
        block = self.blocks.get(operator)
        read = [values.get(word, last) for word in words[1:] if _VALUE.fullmatch(word)] or [last]
        for _ in range(_times(words)):
            if self.work >= _MAX_WORK:
                break
            if block is None:
                source = self._joined([self.algebra.start] if operator == "in" else read)
                read = [self.algebra.applied(operator, source)]
            else:
                self.work += 1
                if depth == _MAX_DEPTH:
                    break
                values_inside = {f"v{k}": value for k, value in enumerate(read)}
                read = [*read[:-1], self.statements(block, values_inside, depth + 1)]
        return read[-1]


def _parts(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns the names that a line gives to its value, and the terms of its sum, each a list of words."""
    names: list[str] = []
    rest = list(words)
    if "=" in rest:
        position = rest.index("=")
        names = rest[:position]
        rest = rest[position + 1 :]
    terms = " ".join(rest).split(" + ")
    return names, [term.split() for term in terms if term]


def _times(words: Sequence[str]) -> int:
    return int(words[-1][1:]) if _TIMES.fullmatch(words[-1]) else 1


def graph_ngrams(text: str) -> Counts:
    """Counts how the operators of an ONNX text follow one another, in the whole network and however it is folded.

    Args:
        text: As `onnx_to_text` writes it, whole or truncated, with or without a header; any other text has no n-grams.

    Returns:
        Counts by name, see the module; those that are 0 are left out.
    """
    blocks, lines = _read_text(text)
    if not lines:
        return {}
    run = _Run(blocks, _NGrams())
    return run.algebra.counts(run.statements(lines, {}))


def position_features(text: str) -> Counts:
    """Counts where the operators of an ONNX text stand in the blocks that it is folded to.

    Args:
        text: See `graph_ngrams`.

    Returns:
        Counts by name, see the module.
    """
    blocks, lines = _read_text(text)
    if not lines:
        return {}
    calls: Counter[str] = Counter()
    inputs: Counter[str] = Counter()
    caller = []
    for words in lines:
        for term in _parts(words)[1]:
            if term[0] in blocks and _times(term):
                calls[term[0]] += _times(term)
                arguments = [word for word in term if _VALUE.fullmatch(word)]
                inputs[term[0]] = max(inputs[term[0]], len(arguments), 1)
        caller.append([_CALL if word in blocks else word for word in words])
    bodies = [(caller, 1, 0)] + [(blocks[name], calls[name], inputs[name]) for name in calls]
    result: Counter[str] = Counter()
    work = 0
    for body, times, count in bodies:
        if work >= _MAX_WORK:
            break
        run = _Run(blocks, _Positions(), work)
        values = {f"v{k}": run.algebra.applied("in", run.algebra.start) for k in range(count)}
        end = run.statements(body, values)
        for name, number in run.algebra.counts(end).items():
            result[name] += int(number) * times
        work = run.work
    return dict(result)


def _read_text(text: str) -> tuple[dict[str, list[list[str]]], list[list[str]]]:
    """Returns the lines of each block of a text by its name, and those behind them, from the first input on.

    A line is a list of words. Without lines the text is no graph.
    """
    if not _INPUT.search(text):
        return {}, []
    blocks: dict[str, list[list[str]]] = {}
    lines: list[list[str]] = []
    body: list[list[str]] | None = None  # what the graph costs comes first
    for line in text.split("\n"):
        words = line.split()
        if line.startswith("  ") or line == "else":
            continue  # the body of a control-flow operator, which is one operator
        if words[:1] == ["def"] and len(words) > 1:
            body = blocks.setdefault(words[1], [])
            continue
        if _INPUT.match(line):
            body = lines
        if words and body is not None:
            body.append(words)
    return blocks, lines


__all__ = [
    "GraphCost",
    "OnnxTextError",
    "graph_cost",
    "graph_ngrams",
    "onnx_to_text",
    "onnx_to_text_and_cost",
    "position_features",
]
