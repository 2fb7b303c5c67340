"""How the operators of an ONNX text follow one another: numbers for the trees of the lexical path.

Whether a network is accurate depends less on what it is made of than on how that is wired. A text (`onnx_text_rlm.py`) says
so, but in calls and names that no count of words sees through. So the text is run as the small program it is, with numbers
in place of tensors: every value carries how many chains of one and two operators end in it, and for every operator how
many of it lie on the way from the input that has most of them, and least. Sums are seen through: an operator that reads
`v0 + conv3x3 v1` follows both.

What is counted, by name:

    ==================================  ====================================================================================
    ``conv3x3``                         operators of one kind, without their numbers
    ``conv3x3 conv1x1``                 pairs, the second reading what the first made, once for each way of sums between them
    ``conv1x1 conv3x3 maxpool3x3``      chains of three
    ``most conv3x3``, ``least ...``     on the ways from an input to the output; of all operators: ``most``, ``least``
    ``ways``                            ways from an input to the output
    ==================================  ====================================================================================

The cost grows with the operators of the network and the kinds of them, not with the ways through it, and has a limit. A text
that is cut or wrong tells what can be read of it: a statement that makes no sense is passed over.
"""

import re
from collections import Counter

_MOST_WORK = 200_000  # statements and the chains that end in their values: what follows is not read
_MOST_DEPTH = 16  # of blocks that call blocks
_MOST = 1e30  # ways double with every sum of a value with itself
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


def _joined(values):
    """The sum of some values, or what an operator of several arguments reads."""
    if len(values) == 1:
        return values[0]
    return _Value(
        _added(v.ones for v in values),
        _added(v.twos for v in values),
        {kind: max(v.most.get(kind, 0) for v in values) for v in values for kind in v.most},
        {kind: min(v.least.get(kind, 0) for v in values) for v in values for kind in v.least},
        min(sum(v.ways for v in values), _MOST),
    )


def _added(counts):
    result = {}
    for each in counts:
        for name, count in each.items():
            result[name] = min(result.get(name, 0) + count, _MOST)
    return result


class _Run:
    """One reading of a text.

    Attributes:
        blocks: Lines of each block, by its name; a line is a list of words.
        found: What was counted so far.
        work: How many statements were read, and chains that end in their values.
    """

    def __init__(self, blocks):
        self.blocks, self.found, self.work = blocks, Counter(), 0

    def statements(self, lines, values, depth=0):
        """Reads lines over named values; returns the value of the last line, or what the line `out` names."""
        last = next(iter(values.values()), _Value())
        for words in lines:
            if self.work >= _MOST_WORK:
                break
            if words[0] == "out":
                return _joined([values[word] for word in words[1:] if word in values] or [last])
            names = words[: words.index("=")] if "=" in words else []
            terms = " ".join(words[len(names) + bool(names) :]).split(" + ")
            last = _joined([self._term(term.split(), values, last, depth) for term in terms if term] or [last])
            values.update(dict.fromkeys(names, last))
            self.work += 1 + len(last.ones) + len(last.twos)
        return last

    def _term(self, words, values, last, depth):
        """The value of one term of a sum."""
        if _VALUE.fullmatch(words[0]):
            return values.get(words[0], last)
        kind, block = words[0], self.blocks.get(words[0])
        read = [values.get(word, last) for word in words[1:] if _VALUE.fullmatch(word)] or [last]
        for _ in range(int(words[-1][1:]) if _TIMES.fullmatch(words[-1]) else 1):
            if self.work >= _MOST_WORK:
                break
            if block is None:
                read = [self._operator(kind, _Value() if kind == "in" else _joined(read))]
            else:
                self.work += 1
                if depth == _MOST_DEPTH:
                    break
                read = [self.statements(block, {f"v{k}": value for k, value in enumerate(read)}, depth + 1)]
        return read[0]

    def _operator(self, kind, read):
        """Counts an operator and returns the value that it makes."""
        self.work += 1 + len(read.ones) + len(read.twos)
        twos = {f"{one} {kind}": count for one, count in read.ones.items()}
        self.found.update({kind: 1})
        self.found.update(twos)
        self.found.update({f"{two} {kind}": count for two, count in read.twos.items()})
        most, least = dict(read.most), dict(read.least)
        for name in ("", kind):
            most[name], least[name] = most.get(name, 0) + 1, least.get(name, 0) + 1
        return _Value({kind: 1}, twos, most, least, read.ways)


def wiring(text):
    """Counts how the operators of an ONNX text follow one another.

    Args:
        text (str): as `onnx_to_text` writes it, whole or cut, with or without a header; any other text has no wiring.

    Returns:
        dict[str, float]: counts by name, see the module; those that are 0 are left out.
    """
    if not _INPUT.search(text):
        return {}
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
    run = _Run(blocks)
    result = run.statements(lines, {})
    ends = {f"{name} {kind}".strip(): n for name in ("most", "least") for kind, n in getattr(result, name).items() if n}
    return {**run.found, **ends, "ways": result.ways}


__all__ = ["wiring"]
