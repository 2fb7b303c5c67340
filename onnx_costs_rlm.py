"""What the operators of an ONNX text cost, by kind: the text run on shapes.

    network_costs(onnx_to_text("resnet18.onnx"))["conv m"]      # multiply-adds of dense convolutions

The first lines of a text state totals by class (`onnx_graph_rlm.py`). A runtime's speed differs within these classes: by
kernel, channels, groups, precision, by whether a matrix is stored, by how dear an activation is. The statements of the text
state all of that, and the shapes follow from the graph's inputs. `network_costs` runs the text as a program on shapes, blocks
as often as they are called, and adds up:

    ======  ====================================================================================================================
    ``m``   multiply-adds in float, ``m8`` of operators with int8 weights
    ``o``   elements written; for pools elements read by their windows
    ``x``   operators
    ``w``   elements of weights, ``w8`` of int8 ones
    ======  ====================================================================================================================

by the kinds in `PRODUCTS` and `ELEMENTWISE`. What the first lines state and the statements do not show, as where a text is
truncated or a shape cannot be known, is ``unread m`` and ``unread o``. Costs are added up in the order of the text, so the same
text gives the same sums. The cost of reading grows with the lines of a text, not with the runs of its blocks: a block is
read once for each combination of shapes and numbers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from .onnx_graph_rlm import CLASSES

# Kinds of operators with multiply-adds. "odd": channels of a group are no multiple of 8, the vectors of most kernels.
PRODUCTS = (
    "conv", "conv odd", "conv1x1", "conv1x1 odd", "group", "dw", "dw strided", "conv nd", "dw nd", "deconv",
    "matmul", "matvec", "product", "recurrent",
)  # fmt: skip
# Kinds of operators without.
ELEMENTWISE = (
    "add", "relu", "sigmoid", "gelu", "softmax", "norm", "pool", "reduce", "transpose", "copy", "gather", "resize",
    "resize linear", "quantise", "other",
)  # fmt: skip
NETWORK_COSTS = (
    *(f"{kind} {letter}" for kind in PRODUCTS for letter in ("m", "m8", "o", "x")),
    *(f"{kind} o" for kind in ELEMENTWISE),
    "elementwise x", "moves x", "other x", "steps", "w", "w8", "largest", "input", "total m", "total o", "total w", "total x",
    "unread m", "unread o",
)  # fmt: skip

_MAX_STATEMENTS = 20_000  # what follows is not read
_MAX_DEPTH = 16  # of blocks that call blocks
_HEADER = re.compile(rf"\b(total|{'|'.join(CLASSES)}) ([xmow])(\d+)")
_INPUT = re.compile(r"(?:(v\d+) = )?in(?: [a-z]\w*)?((?: (?:\d+|n|\?))+)")
_VALUE = re.compile(r"v\d+")
_TIMES = re.compile(r"x(\d{1,4})")
_RECURRENCE = re.compile(r"(-?\d+)[+-]\d+")
_CONVOLUTION = re.compile(r"(dw)?(de)?conv(\d+(?:x\d+)*)")
_POOL = re.compile(r"(?:max|avg)pool(\d+(?:x\d+)*)")
_WINDOW = re.compile(r"([sdp])(-?\d+(?:x-?\d+)*)")
_MACHINE = 8  # channels in a vector

_SIGMOIDS = {
    "sigmoid",
    "silu",
    "hswish",
    "hsigmoid",
    "hsilu",
    "tanh",
    "elu",
    "selu",
    "celu",
    "swish",
    "softsign",
    "exp",
    "log",
}
_DEAR = {"gelu", "erf", "mish", "softplus", "pow", "sin", "cos"}
_CHEAP = {"relu", "relu6", "lrelu", "prelu", "clip", "neg", "abs"}
_ARITHMETIC = {
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "mean",
    "mod",
    "where",
    "sum",
    "sqrt",
    "equal",
    "greater",
    "less",
    "not",
}
_NORMS = {
    "layernorm",
    "instancenorm",
    "groupnorm",
    "rmsnorm",
    "bn",
    "lrn",
    "lpnormalization",
    "meanvariancenormalization",
}
_COPIES = {"concat", "split", "slice", "pad", "depthtospace", "spacetodepth", "expand", "tile", "gathernd", "scatternd"}
_VIEWS = {
    "reshape",
    "flatten",
    "squeeze",
    "unsqueeze",
    "identity",
    "cast",
    "shape",
    "dropout",
    "constantofshape",
    "range",
}
_RECURRENT = {"lstm": 4, "gru": 3, "rnn": 1}

# Those that the first lines do not count.
_FREE = {
    "relu", "relu6", "lrelu", "prelu", "clip", "sigmoid", "silu", "hswish", "hsigmoid", "hsilu", "tanh", "elu", "selu", "celu",
    "swish", "gelu", "mish", "softplus", "bn",
}  # fmt: skip

Shape = tuple[int, ...]
Costs = Counter[str]


class _Block(NamedTuple):
    """A block: names of its numbers, and its lines."""

    numbers: list[str]
    lines: list[tuple[list[str], list[list[str]]]]


class _Term(NamedTuple):
    """One operator of a line.

    Attributes:
        name: Its name without what is glued to it.
        words: What follows, without values; numbers of the block are replaced.
        args: Shapes that it reads.
    """

    name: str
    words: list[str]
    args: list[Shape | None]

    @property
    def numbers(self) -> list[int]:
        """Integers that are no part of an attribute's name."""
        return [int(word) for word in self.words if word.lstrip("-").isdigit()]

    def after(self, name: str) -> list[int]:
        """Returns the integers behind a word."""
        if name not in self.words:
            return []
        found = []
        for word in self.words[self.words.index(name) + 1 :]:
            if not word.lstrip("-").isdigit():
                break
            found.append(int(word))
        return found

    def weights(self) -> list[Shape]:
        """Returns the shapes of stored tensors among the arguments, written `w 64 32`."""
        found = []
        for position, word in enumerate(self.words):
            if word == "w":
                dims = []
                for each in self.words[position + 1 :]:
                    if not each.isdigit():
                        break
                    dims.append(int(each))
                found.append(tuple(dims))
        return found

    @property
    def first(self) -> Shape:
        """The first shape that it reads.

        Raises:
            LookupError: There is none, or it is not known.
        """
        if not self.args or self.args[0] is None:
            raise LookupError
        return self.args[0]


def network_costs(text: str) -> dict[str, float]:
    """Adds up what the operators of an ONNX text cost.

    Args:
        text: As `onnx_to_text` writes it, whole or truncated, with or without a header.

    Returns:
        An amount for each name in `NETWORK_COSTS`, 0 where there is none; of another text all are 0.
    """
    result = dict.fromkeys(NETWORK_COSTS, 0.0)
    reader = _Reader(text)
    if not reader.lines:
        return result
    totals = {f"{name} {letter}": int(number) for name, letter, number in _HEADER.findall(reader.header)}
    costs = reader.run()
    for name in result:
        result[name] = float(costs.get(name, 0))
    for letter in "mowx":
        result[f"total {letter}"] = float(totals.get(f"total {letter}", 0) * (1 if letter == "x" else 1000))
    read = sum(count for name, count in costs.items() if name.endswith((" m", " m8")))
    result["unread m"] = max(result["total m"] - read - 1000, 0.0)
    result["unread o"] = max(result["total o"] - costs["counted o"] - 1000, 0.0)
    return result


class _Reader:
    """Runs a text on shapes.

    Attributes:
        header: The lines before the first statement.
        lines: Statements behind the blocks.
    """

    def __init__(self, text: str) -> None:
        self.lines: list[tuple[list[str], list[list[str]]]] = []
        self._blocks: dict[str, _Block] = {}
        self._inputs: dict[str, Shape] = {}
        self._known: dict[tuple, tuple[list[Shape | None], Costs]] = {}
        self._statements = 0
        header = []
        body: list[tuple[list[str], list[list[str]]]] | None = None
        for line in text.split("\n"):
            words = line.split()
            if line.startswith("  ") or line == "else" or not words:
                continue
            if words[0] == "def" and len(words) > 1:
                block = _Block([word for word in words[2:] if not _VALUE.fullmatch(word)], [])
                self._blocks[words[1]] = block
                body = block.lines
                continue
            if _INPUT.fullmatch(line):
                body = self.lines
            if body is None:
                header.append(line)
            else:
                body.append(_parts(words))
        self.header = "\n".join(header)

    def run(self) -> Costs:
        """Returns the costs of the whole text."""
        _, costs = self._body(self.lines, {}, {}, [], 0)
        return costs

    def _body(
        self,
        lines: Sequence[tuple[list[str], list[list[str]]]],
        values: dict[str, Shape | None],
        numbers: Mapping[str, str],
        last: list[Shape | None],
        depth: int,
    ) -> tuple[list[Shape | None], Costs]:
        """Runs lines; returns the shapes of the last one's results, or of those that `out` names, and the costs."""
        costs: Costs = Counter()
        for names, terms in lines:
            self._statements += 1
            if self._statements > _MAX_STATEMENTS:
                break
            if terms and terms[0][0] == "out":
                return [values.get(word) for word in terms[0][1:]], costs
            results = [self._term(term, values, numbers, last, costs, depth) for term in terms]
            if len(results) > 1:
                shape = broadcast([result[0] if result else None for result in results])
                count = math.prod(shape or ()) * (len(results) - 1)
                costs["add o"] += count
                costs["counted o"] += count
                costs["elementwise x"] += len(results) - 1
                last = [shape]
            elif results:
                last = results[0]
            values.update(zip(names, [*last, *[None] * len(names)]))
        return last, costs

    def _term(
        self,
        words: Sequence[str],
        values: Mapping[str, Shape | None],
        numbers: Mapping[str, str],
        last: list[Shape | None],
        costs: Costs,
        depth: int,
    ) -> list[Shape | None]:
        """Runs one operator, block or value as often as it says; adds to the costs and returns the shapes of its results."""
        if _VALUE.fullmatch(words[0]):
            return [values.get(words[0])]
        match = _TIMES.fullmatch(words[-1]) if len(words) > 1 else None
        times = int(match[1]) if match else 1
        words = [numbers.get(word, word) for word in (words[:-1] if match else words)]
        args = [values.get(word) for word in words[1:] if _VALUE.fullmatch(word)] or last[:1]
        plain = [word for word in words[1:] if not _VALUE.fullmatch(word)]
        results: list[Shape | None] = args
        for done in range(times):
            results, once = self._once(words[0], plain, args, depth)
            after = [*args[: max(len(args) - len(results), 0)], *results]
            if after == args:
                _add(costs, once, times - done)
                break
            _add(costs, once, 1)
            args = after
        return results

    def _once(
        self, name: str, words: list[str], args: list[Shape | None], depth: int
    ) -> tuple[list[Shape | None], Costs]:
        """Runs an operator or a block once; the same shapes and numbers give what they gave before."""
        key = (name, *words, *args)
        known = self._known.get(key)
        if known is None:
            block = self._blocks.get(name)
            if block is None:
                known = _operator(name, words, args)
            elif depth == _MAX_DEPTH:
                known = (args, Counter())
            else:
                given = [match[1] if (match := _RECURRENCE.fullmatch(word)) else word for word in words]
                inside = {f"v{number}": arg for number, arg in enumerate(args)}
                known = self._body(block.lines, inside, dict(zip(block.numbers, given)), args, depth + 1)
            self._known[key] = known
        return known


def _add(costs: Costs, more: Costs, times: int) -> None:
    for name, count in more.items():
        costs[name] = max(costs[name], count) if name == "largest" else costs[name] + count * times


def _parts(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Returns the names that a line gives to its results, and the terms of its sum."""
    names: list[str] = []
    if "=" in words:
        position = words.index("=")
        names = list(words[:position])
        words = words[position + 1 :]
    terms: list[list[str]] = [[]]
    for word in words:
        if word == "+":
            terms.append([])
        else:
            terms[-1].append(word)
    return names, [term for term in terms if term]


def broadcast(shapes: Iterable[Shape | None]) -> Shape | None:
    """Returns the shape of an operator applied element by element; unknown shapes and contradictions are passed over."""
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return None
    rank = max(map(len, known))
    padded = [(1,) * (rank - len(shape)) + shape for shape in known]
    return tuple(max(sizes) for sizes in zip(*padded))


# ---------------------------------------------------------------------------------------------------------------------
# Operators


def _operator(name: str, words: list[str], args: list[Shape | None]) -> tuple[list[Shape | None], Costs]:
    """Returns the shapes that an operator makes, and what it costs; what cannot be known is None and costs nothing."""
    parts = name.split("-")
    head = next((part for part in parts if part in _RULES or _rule_of(part) is not _same), parts[0])
    glued = list(parts)
    glued.remove(head)
    term = _Term(head, words, args)
    costs: Costs = Counter()
    try:
        if head == "in":
            results = _input(term, costs)
        else:
            results = _RULES.get(head, _rule_of(head))(term, costs)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return [None], costs
    for each in glued:
        _count_elementwise(each, results[0], costs, glued=True)
    if "int8" in words or any(word.startswith("q") and word[1:] in ("int8", "uint8") for word in words):
        costs["quantise o"] += math.prod(results[0] or ())
    sizes = [math.prod(shape) for shape in (*args, *results) if shape]
    costs["largest"] = sum(sizes)
    return results, costs


def _rule_of(name: str) -> Callable[[_Term, Costs], list[Shape | None]]:
    if _CONVOLUTION.fullmatch(name):
        return _convolution
    if _POOL.fullmatch(name):
        return _pool
    if name.startswith("reduce"):
        return _reduce
    return _same


def _input(term: _Term, costs: Costs) -> list[Shape | None]:
    shape = tuple(1 if word == "n" else int(word) for word in term.words if word == "n" or word.isdigit())
    costs["input"] += math.prod(shape)
    return [None if "?" in term.words else shape]


def _sizes(text: str, count: int) -> list[int]:
    sizes = [int(size) for size in text.split("x")]
    return sizes * count if len(sizes) == 1 else sizes


def _windows(term: _Term, kernel: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Returns strides, dilations and paddings, these on both sides of an axis together."""
    axes = len(kernel)
    found = {"s": [1] * axes, "d": [1] * axes}
    pads: list[int] | None = None
    for word in term.words:
        match = _WINDOW.fullmatch(word)
        if match and match[1] == "p":
            both = _sizes(match[2], 2 * axes)
            pads = [both[axis] + both[axis + axes] for axis in range(axes)]
        elif match:
            found[match[1]] = _sizes(match[2], axes)
    if pads is None:
        pads = [2 * (step * (size - 1) // 2) for size, step in zip(kernel, found["d"])]
    return found["s"], found["d"], pads


def _slid(term: _Term, shape: Sequence[int], kernel: list[int]) -> list[int]:
    """Returns the sizes behind a window that slides over an image."""
    strides, dilations, pads = _windows(term, kernel)
    if "same" in term.words or "samelow" in term.words:
        return [-(-size // stride) for size, stride in zip(shape, strides)]
    free = [size + pad - step * (k - 1) - 1 for size, pad, step, k in zip(shape, pads, dilations, kernel)]
    if "ceil" in term.words:
        return [-(-space // stride) + 1 for space, stride in zip(free, strides)]
    return [space // stride + 1 for space, stride in zip(free, strides)]


def _convolution(term: _Term, costs: Costs) -> list[Shape | None]:
    match = _CONVOLUTION.fullmatch(term.name)
    if match is None:
        raise ValueError
    x = term.first
    kernel = [int(size) for size in match[3].split("x")]
    groups = x[1] if match[1] else next((int(word[3:]) for word in term.words if re.fullmatch(r"grp\d+", word)), 1)
    width = int(term.words[0]) if term.words and term.words[0].isdigit() else x[1]
    if match[2]:
        sizes = _grown(term, x[2:], kernel)
        macs = math.prod(x) * width // groups * math.prod(kernel)
    else:
        sizes = _slid(term, x[2:], kernel)
        macs = x[0] * width * math.prod(sizes) * (x[1] // groups) * math.prod(kernel)
    result = (x[0], width, *sizes)
    strides, dilations, _ = _windows(term, kernel)
    kind = _convolution_kind(x[1], width, groups, kernel, bool(match[2]), max((*strides, *dilations)))
    _count_product(term, costs, kind, macs, math.prod(result))
    _count_weights(term, costs, width * x[1] // groups * math.prod(kernel))
    return [result]


def _convolution_kind(wide: int, width: int, groups: int, kernel: list[int], transposed: bool, step: int) -> str:
    if transposed:
        return "deconv"
    if len(kernel) != 2:
        return "dw nd" if groups == wide > 1 else "conv nd"
    if groups == wide > 1:
        return "dw strided" if step > 1 else "dw"
    if groups > 1:
        return "group"
    kind = "conv1x1" if max(kernel) == 1 else "conv"
    return f"{kind} odd" if wide % _MACHINE or width % _MACHINE else kind


def _grown(term: _Term, shape: Sequence[int], kernel: list[int]) -> list[int]:
    strides, dilations, pads = _windows(term, kernel)
    more = term.after("outputpadding") or [0] * len(kernel)
    if "same" in term.words or "samelow" in term.words:
        return [size * stride for size, stride in zip(shape, strides)]
    return [
        (size - 1) * stride - pad + step * (k - 1) + 1 + extra
        for size, stride, pad, step, k, extra in zip(shape, strides, pads, dilations, kernel, more)
    ]


def _count_product(term: _Term, costs: Costs, kind: str, macs: int, written: int) -> None:
    costs[f"{kind} {'m8' if 'int8' in term.words or 'uint8' in term.words else 'm'}"] += macs
    costs[f"{kind} o"] += written
    costs[f"{kind} x"] += 1
    costs["counted o"] += written


def _count_weights(term: _Term, costs: Costs, count: int) -> None:
    costs["w8" if "int8" in term.words or "uint8" in term.words else "w"] += count


def _pool(term: _Term, costs: Costs) -> list[Shape | None]:
    match = _POOL.fullmatch(term.name)
    if match is None:
        raise ValueError
    x = term.first
    kernel = [int(size) for size in match[1].split("x")]
    result = (*x[:2], *_slid(term, x[2:], kernel))
    costs["pool o"] += math.prod(result) * math.prod(kernel)
    costs["counted o"] += math.prod(result)
    costs["other x"] += 1
    return [result]


def _global_pool(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    costs["reduce o"] += math.prod(x)
    costs["counted o"] += math.prod(x[:2])
    costs["other x"] += 1
    return [(*x[:2], *[1] * (len(x) - 2))]


def _reduce(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    numbers = term.numbers
    keep = True
    if "keepdims" in term.words:
        keep = term.after("keepdims")[:1] != [0]
        numbers = numbers[1:]
    axes = {axis % len(x) for axis in numbers} or set(range(len(x)))
    result = tuple(1 if axis in axes else size for axis, size in enumerate(x) if keep or axis not in axes)
    costs["reduce o"] += math.prod(x)
    costs["counted o"] += math.prod(result)
    costs["other x"] += 1
    return [result]


def _dense(term: _Term, costs: Costs) -> list[Shape | None]:
    """A product with a stored matrix (`fc`, `matmul 64`), or of two values (`matmul v0 v1`)."""
    x = term.first
    if len(term.args) > 1 and term.name == "matmul":
        y = term.args[1]
        if y is None:
            raise LookupError
        return [_product(term, costs, x, y)]
    stored = term.weights()
    if stored and term.name == "matmul":
        first = term.words[0] == "w" and len(term.words) <= 1 + len(stored[0])
        if x[-1] != stored[0][-2] and first:
            return [_product(term, costs, stored[0], x)]
        return [_product(term, costs, x, stored[0])]
    width = int(term.words[0]) if term.words and term.words[0].isdigit() else x[-1]
    rows = math.prod(x[:-1])
    if term.name == "matmul" and "bias" in term.words:
        costs["counted o"] += rows * width  # of the sum, which runtimes make a part of the product
    _count_product(term, costs, "matmul" if rows > 2 else "matvec", rows * x[-1] * width, rows * width)
    _count_weights(term, costs, x[-1] * width)
    return [(*x[:-1], width)]


def _product(term: _Term, costs: Costs, x: Shape, y: Shape) -> Shape:
    outside = broadcast([x[:-2], y[:-2]]) or ()
    result = (*outside, x[-2], y[-1])
    _count_product(term, costs, "product", math.prod(result) * x[-1], math.prod(result))
    return result


def _recurrent(term: _Term, costs: Costs) -> list[Shape | None]:
    length, batch, _ = term.first
    inside, between = term.weights()[:2]
    hidden = between[-1]
    written = length * batch * between[0] * hidden
    _count_product(term, costs, "recurrent", length * batch * (math.prod(inside) + math.prod(between)), written)
    _count_weights(term, costs, math.prod(inside) + math.prod(between))
    costs["steps"] += length * between[0]
    state = (between[0], batch, hidden)
    return [(length, between[0], batch, hidden), state, state]


def _moved(term: _Term, costs: Costs, kind: str, result: Shape, times: int = 1) -> list[Shape | None]:
    count = math.prod(result) * times
    costs[f"{kind} o"] += count
    costs["counted o"] += count
    costs["moves x"] += 1
    return [result] * times


def _transpose(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    order = term.after("perm") or list(reversed(range(len(x))))
    return _moved(term, costs, "transpose", tuple(x[axis] for axis in order))


def _concat(term: _Term, costs: Costs) -> list[Shape | None]:
    axis = (term.after("axis") or [0])[0]
    shapes = [*[arg for arg in term.args if arg is not None], *term.weights()]
    if len(shapes) < len(term.args):
        return [None]
    rank = len(shapes[0])
    result = [max(shape[each] for shape in shapes) for each in range(rank)]
    result[axis] = sum(shape[axis] for shape in shapes)
    return _moved(term, costs, "copy", tuple(result))


def _split(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    axis = (term.after("axis") or [0])[0]
    numbers = term.numbers[1:] if "axis" in term.words else term.numbers
    sizes = numbers or [x[axis] // 2] * 2
    results: list[Shape | None] = [(*x[:axis], size, *x[axis + 1 :]) for size in sizes]
    _moved(term, costs, "copy", x)
    return results


def _slice(term: _Term, costs: Costs) -> list[Shape | None]:
    x = list(term.first)
    numbers = [_bound(word) for word in term.words if word.lstrip("-").isdigit() or word in ("inf", "-inf")]
    parts = 4 if len(numbers) % 4 == 0 and len(numbers) % 3 else 3 if len(numbers) % 3 == 0 else 2
    count = len(numbers) // parts
    starts, ends = numbers[:count], numbers[count : 2 * count]
    axes = numbers[2 * count : 3 * count] or list(range(count))
    steps = numbers[3 * count :] or [1] * count
    for start, end, axis, step in zip(starts, ends, axes, steps):
        x[axis] = len(range(*slice(start, end, step).indices(x[axis])))
    return _moved(term, costs, "copy", tuple(x))


def _bound(word: str) -> int:
    return {"inf": 1 << 62, "-inf": -(1 << 62)}.get(word) or int(word.replace("inf", "0"))


def _pad(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    amounts = term.numbers[: 2 * len(x)]
    result = tuple(size + amounts[axis] + amounts[axis + len(x)] for axis, size in enumerate(x))
    return _moved(term, costs, "copy", result)


def _resize(term: _Term, costs: Costs) -> list[Shape | None]:
    """Adds a resize to sizes, by factors (behind the word `by`), or, where neither is written, by 2."""
    x = term.first
    if "by" in term.words:
        factors = [float(word) for word in term.words[term.words.index("by") + 1 :][: len(x)]]
        result = tuple(int(size * factor) for size, factor in zip(x, factors))
    else:
        given = [] if "w" in term.words else term.numbers[-len(x) :]
        result = tuple(given) if len(given) == len(x) else (*x[:2], *[2 * size for size in x[2:]])
    linear = "linear" in term.words or "cubic" in term.words
    return _moved(term, costs, "resize linear" if linear else "resize", result)


def _blocks_to_space(term: _Term, costs: Costs) -> list[Shape | None]:
    batch, width, height, breadth = term.first
    block = (term.after("blocksize") or [2])[0]
    if term.name == "spacetodepth":
        return _moved(term, costs, "copy", (batch, width * block**2, height // block, breadth // block))
    return _moved(term, costs, "copy", (batch, width // block**2, height * block, breadth * block))


def _expand(term: _Term, costs: Costs) -> list[Shape | None]:
    target: tuple[int, ...] = tuple(abs(number) for number in term.numbers)
    source = term.args[0] if term.args and "w" not in term.words else None
    return _moved(term, costs, "copy", broadcast([source, target]) or ())


def _tile(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    return _moved(term, costs, "copy", tuple(size * times for size, times in zip(x, term.numbers)))


def _gather(term: _Term, costs: Costs) -> list[Shape | None]:
    axis = (term.after("axis") or [0])[0]
    tables = term.weights()
    if tables:
        table, indices = tables[0], term.args[0] if term.args else None
        if indices is None:
            raise LookupError
    elif len(term.args) > 1 and term.args[1] is not None:
        table, indices = term.first, term.args[1]
    else:
        numbers = term.numbers[1:] if "axis" in term.words else term.numbers
        table, indices = term.first, (len(numbers),) if len(numbers) > 1 else ()
    return _moved(term, costs, "gather", (*table[:axis], *indices, *table[axis + 1 :]))


def _reshape(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    target = [x[axis] if size == 0 else size for axis, size in enumerate(term.numbers)]
    known = math.prod(size for size in target if size > 0)
    return [tuple(math.prod(x) // known if size < 0 else size for size in target)]


def _flatten(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    axis = (term.after("axis") or [1])[0]
    return [(math.prod(x[:axis]), math.prod(x[axis:]))]


def _squeeze(term: _Term, costs: Costs) -> list[Shape | None]:
    x = term.first
    axes = {axis % len(x) for axis in term.numbers}
    return [tuple(size for axis, size in enumerate(x) if (axis not in axes if axes else size != 1))]


def _unsqueeze(term: _Term, costs: Costs) -> list[Shape | None]:
    result = list(term.first)
    for axis in sorted(term.numbers):
        result.insert(axis, 1)
    return [tuple(result)]


def _einsum(term: _Term, costs: Costs) -> list[Shape | None]:
    equation = next(word for word in term.words if "->" in word)
    left, right = equation.split("->")
    sizes: dict[str, int] = {}
    for letters, shape in zip(left.split(","), [*term.args, *term.weights()]):
        sizes.update(zip(letters, shape or ()))
    result = tuple(sizes[letter] for letter in right)
    _count_product(term, costs, "product", math.prod(sizes.values()), math.prod(result))
    return [result]


def _same(term: _Term, costs: Costs) -> list[Shape | None]:
    """Operators that make what they read, element by element."""
    shape = broadcast([*term.args, *(term.weights() if term.name not in _NORMS else ())])
    _count_elementwise(term.name, shape, costs, glued=False)
    return [shape]


def _count_elementwise(name: str, shape: Shape | None, costs: Costs, glued: bool) -> None:
    """Counts an operator by its name; batch norms and ReLU that are glued to another operator cost nothing of their own."""
    count = math.prod(shape or ())
    if name in _VIEWS or (glued and (name == "bn" or name in _CHEAP)):
        return
    kinds = (
        (_CHEAP, "relu"),
        (_SIGMOIDS, "sigmoid"),
        (_DEAR, "gelu"),
        (_ARITHMETIC, "add"),
        (_NORMS, "norm"),
        ({"softmax", "logsoftmax"}, "softmax"),
        (_COPIES, "copy"),
    )
    kind = next((kind for names, kind in kinds if name in names), "other")
    costs[f"{kind} o"] += count
    costs["other x" if kind == "other" else "elementwise x"] += 1
    costs["counted o"] += 0 if name in _FREE else count


def _free(term: _Term, costs: Costs) -> list[Shape | None]:
    return [term.args[0] if term.args else None]


_RULES: dict[str, Callable[[_Term, Costs], list[Shape | None]]] = {
    "gap": _global_pool,
    "gmp": _global_pool,
    "fc": _dense,
    "matmul": _dense,
    "transpose": _transpose,
    "concat": _concat,
    "split": _split,
    "slice": _slice,
    "pad": _pad,
    "resize": _resize,
    "upsample": _resize,
    "depthtospace": _blocks_to_space,
    "spacetodepth": _blocks_to_space,
    "expand": _expand,
    "tile": _tile,
    "gather": _gather,
    "reshape": _reshape,
    "flatten": _flatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "einsum": _einsum,
    "identity": _free,
    "cast": _free,
    "dropout": _free,
    **dict.fromkeys(_RECURRENT, _recurrent),
}

__all__ = ["ELEMENTWISE", "NETWORK_COSTS", "PRODUCTS", "network_costs"]
