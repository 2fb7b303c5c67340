"""How the operators of an ONNX text follow one another: numbers for the trees of the lexical path.

Whether a network is accurate depends less on what it is made of than on how that is wired. A text (`onnx_text_rlm.py`) says
so, but in calls and names that no count of words sees through. So the text is run as the small program it is, with something
else in place of tensors. Sums are seen through: an operator that reads `v0 + conv3x3 v1` follows both.

`wiring` runs the whole network. Every value carries how many chains of one and two operators end in it, and for every operator
how many of it lie on the way from the input that has most of them, and least. What is counted, by name:

    ==================================  ====================================================================================
    ``conv3x3``                         operators of one kind, without their numbers
    ``conv3x3 conv1x1``                 pairs, the second reading what the first made, once for each way of sums between them
    ``conv1x1 conv3x3 maxpool3x3``      chains of three
    ``most conv3x3``, ``least ...``     on the ways from an input to the output; of all operators: ``most``, ``least``
    ``ways``                            ways from an input to the output
    ==================================  ====================================================================================

`places` runs each block that the network calls by itself, and once more the lines that call them, in which a call is an
operator like any other. A value is the set of operators that it is the sum of. Counted, a block's as often as it is called:

    ==================================  ====================================================================================
    ``conv3x3 most 2 1``                operators of one kind, so many steps from an input of the block and to its end, along
                                        the ways that have most; ``in`` and ``out`` are operators, too, a call is ``call``
    ``conv3x3 least 1 1``               the same along the ways that have least
    ``conv3x3 reads 2``                 operators that read so many others
    ``conv3x3 read by 3``               operators that so many others read
    ==================================  ====================================================================================

The cost grows with the operators of the network and the kinds of them, not with the ways through it, and has a limit. A text
that is cut or wrong tells what can be read of it: a statement that makes no sense is passed over.
"""

import re
from collections import Counter

_MOST_WORK = 200_000  # statements and what their values carry: what follows is not read
_MOST_DEPTH = 16  # of blocks that call blocks
_MOST = 1e30  # ways double with every sum of a value with itself
_FARTHEST = 8  # steps from a block's input or to its end: what is farther counts as this far
_CALL = "call"
_INPUT = re.compile(r"^(?:v\d+ = )?in(?: [a-z]\w*)?(?: (?:\d+|n|\?))+$", re.MULTILINE)
_VALUE = re.compile(r"v\d+")
_TIMES = re.compile(r"x\d{1,4}")


class _Value:
    """What is known of a tensor.

    Attributes:
        ones, twos: How many operators, and chains of two, end in it, by name.
        most, least: How many operators lie on the way to it that has most or least of them, by kind; of all kinds under "".
        ways: Ways to it from an input.
    """

    __slots__ = ("least", "most", "ones", "twos", "ways")

    def __init__(self, ones=None, twos=None, most=None, least=None, ways=1.0):
        self.ones, self.twos = ones or {}, twos or {}
        self.most, self.least, self.ways = most or {}, least or {}, ways

    def __len__(self):
        return len(self.ones) + len(self.twos)


class _Chains:
    """Counts operators, pairs and chains of three of the whole network; a value is a `_Value`.

    Attributes:
        start: What an input reads.
        found: What was counted so far.
    """

    def __init__(self):
        self.start, self.found = _Value(), Counter()

    def joined(self, values):
        """The sum of some values, or what an operator of several arguments reads."""
        if len(values) == 1:
            return values[0]
        return _Value(
            _added(v.ones for v in values),
            _added(v.twos for v in values),
            {
                kind: max(v.most.get(kind, 0) for v in values)
                for kind in dict.fromkeys(k for v in values for k in v.most)
            },
            {
                kind: min(v.least.get(kind, 0) for v in values)
                for kind in dict.fromkeys(k for v in values for k in v.least)
            },
            min(sum(v.ways for v in values), _MOST),
        )

    def applied(self, kind, read):
        """Counts an operator and returns the value that it makes."""
        twos = {f"{one} {kind}": count for one, count in read.ones.items()}
        self.found.update({kind: 1})
        self.found.update(twos)
        self.found.update({f"{two} {kind}": count for two, count in read.twos.items()})
        most, least = dict(read.most), dict(read.least)
        for name in ("", kind):
            most[name], least[name] = most.get(name, 0) + 1, least.get(name, 0) + 1
        return _Value({kind: 1}, twos, most, least, read.ways)

    def counts(self, end):
        """What was counted, and what lies on the ways to the end."""
        ends = {
            f"{name} {kind}".strip(): n for name in ("most", "least") for kind, n in getattr(end, name).items() if n
        }
        return {**self.found, **ends, "ways": end.ways}


def _added(counts):
    result = {}
    for each in counts:
        for name, count in each.items():
            result[name] = min(result.get(name, 0) + count, _MOST)
    return result


class _Places:
    """Where the operators of one block stand; a value is the set of those that it is the sum of.

    Attributes:
        start: What an input reads.
        kinds: Of every operator, in an order in which each comes behind those that it reads.
        reads: The operators that each reads, sets of their numbers.
    """

    start = frozenset()

    def __init__(self):
        self.kinds, self.reads = [], []

    def joined(self, values):
        """The operators of some values."""
        return frozenset().union(*values)

    def applied(self, kind, read):
        """Keeps an operator and returns its value."""
        self.kinds.append(kind)
        self.reads.append(read)
        return frozenset([len(self.kinds) - 1])

    def counts(self, end):
        """Operators by kind and place: steps from an input and to the end, the most and the least, and neighbours.

        An operator that does not lead to the end is no step to it, and itself as good as there.
        """
        self.applied("out", end)
        count = len(self.kinds)
        to_end = [None] * (count - 1) + [(0, 0)]
        read_by = [[] for _ in range(count)]
        for number, reads in enumerate(self.reads):
            for each in reads:
                read_by[each].append(number)
        for number in reversed(range(count - 1)):
            to_end[number] = _steps([to_end[each] for each in read_by[number] if to_end[each]])
        from_start, found = [], Counter()
        for kind, reads, after, readers in zip(self.kinds, self.reads, to_end, read_by, strict=True):
            before = _steps([from_start[each] for each in reads]) or (0, 0)
            from_start.append(before)
            for name, a, b in zip(("most", "least"), before, after or (0, 0), strict=True):
                found[f"{kind} {name} {min(a, _FARTHEST)} {min(b, _FARTHEST)}"] += 1
            found[f"{kind} reads {len(reads)}"] += 1
            found[f"{kind} read by {len(readers)}"] += 1
        return found


def _steps(neighbours):
    """The most and the least steps to where neighbours' steps are counted from, None without neighbours."""
    if not neighbours:
        return None
    return 1 + max(most for most, _ in neighbours), 1 + min(least for _, least in neighbours)


class _Run:
    """One reading of some statements.

    Args:
        blocks: Lines of each block, which is run where it is called, by its name; a line is a list of words.
        algebra: What values are: `_Chains` or `_Places`.
        work: How many statements were read so far, and what their values carry.
    """

    def __init__(self, blocks, algebra, work=0):
        self.blocks, self.algebra, self.work = blocks, algebra, work

    def statements(self, lines, values, depth=0):
        """Reads lines over named values; returns the value of the last line, or what the line `out` names."""
        last = next(iter(values.values()), self.algebra.start)
        for words in lines:
            if self.work >= _MOST_WORK:
                break
            if words[0] == "out":
                return self._joined([values[word] for word in words[1:] if word in values] or [last])
            names, terms = _parts(words)
            last = self._joined([self._term(term, values, last, depth) for term in terms] or [last])
            values.update(dict.fromkeys(names, last))
        return last

    def _joined(self, values):
        self.work += 1 + sum(map(len, values))
        return self.algebra.joined(values)

    def _term(self, words, values, last, depth):
        """The value of one term of a sum."""
        if _VALUE.fullmatch(words[0]):
            return values.get(words[0], last)
        kind, block = words[0], self.blocks.get(words[0])
        read = [values.get(word, last) for word in words[1:] if _VALUE.fullmatch(word)] or [last]
        for _ in range(_times(words)):
            if self.work >= _MOST_WORK:
                break
            if block is None:
                read = [self.algebra.applied(kind, self._joined([self.algebra.start] if kind == "in" else read))]
            else:
                self.work += 1
                if depth == _MOST_DEPTH:
                    break
                read = [self.statements(block, {f"v{k}": value for k, value in enumerate(read)}, depth + 1)]
        return read[0]


def _parts(words):
    """The names that a line gives to its value, and the terms of its sum, each a list of words."""
    names = words[: words.index("=")] if "=" in words else []
    terms = " ".join(words[len(names) + bool(names) :]).split(" + ")
    return names, [term.split() for term in terms if term]


def _times(words):
    return int(words[-1][1:]) if _TIMES.fullmatch(words[-1]) else 1


def wiring(text):
    """Counts how the operators of an ONNX text follow one another, in the whole network and however it is folded.

    Args:
        text (str): as `onnx_to_text` writes it, whole or cut, with or without a header; any other text has no wiring.

    Returns:
        dict[str, float]: counts by name, see the module; those that are 0 are left out.
    """
    blocks, lines = _read(text)
    if not lines:
        return {}
    run = _Run(blocks, _Chains())
    return run.algebra.counts(run.statements(lines, {}))


def places(text):
    """Counts where the operators of an ONNX text stand in the blocks that it is folded to.

    Args:
        text (str): see `wiring`.

    Returns:
        dict[str, float]: counts by name, see the module.
    """
    blocks, lines = _read(text)
    if not lines:
        return {}
    calls, inputs, caller = Counter(), Counter(), []
    for words in lines:
        for term in _parts(words)[1]:
            if term[0] in blocks and _times(term):
                calls[term[0]] += _times(term)
                inputs[term[0]] = max(inputs[term[0]], len([word for word in term if _VALUE.fullmatch(word)]), 1)
        caller.append([_CALL if word in blocks else word for word in words])
    found, work = Counter(), 0
    for block, times, count in [(caller, 1, 0), *((blocks[name], calls[name], inputs[name]) for name in calls)]:
        if work >= _MOST_WORK:
            break
        run = _Run(blocks, _Places(), work)
        values = {f"v{k}": run.algebra.applied("in", run.algebra.start) for k in range(count)}
        end = run.statements(block, values)
        for name, number in run.algebra.counts(end).items():
            found[name] += number * times
        work = run.work
    return dict(found)


def _read(text):
    """The lines of each block of a text, by its name, and those behind them, from the first input on; a line is a list of
    words. No lines: the text is no graph."""
    if not _INPUT.search(text):
        return {}, []
    blocks, lines, body = {}, [], None  # what the graph costs comes first
    for line in text.split("\n"):
        words = line.split()
        if words[:1] == ["def"] and len(words) > 1:
            body = blocks.setdefault(words[1], [])
            continue
        if _INPUT.match(line):
            body = lines
        if words and body is not None:
            body.append(words)
    return blocks, lines


__all__ = ["places", "wiring"]
