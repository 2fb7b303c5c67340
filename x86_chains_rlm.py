"""What an x86-64 basic block waits for when it runs again and again: numbers for the trees of the lexical path.

Such a block takes as long as the longest chain of instructions that wait for one another from one run to the next, or as long
as its instructions keep the units of the processor busy. Which instruction waits for which stands in the names of registers,
far apart and in another order in every block. So the block is run a few times with, in place of values, for every register,
the flags and every place in memory how long a chain leads there: in cycles, and in instructions of each kind.

What is counted, by name:

    ======================  ================================================================================================
    ``count float add``     instructions of a kind (see `_KINDS`), also ``count load``, ``count store``, ``count clear``
                            (`xor eax, eax` waits for nothing), ``count update`` (memory read and written), ``count``: all
    ``instruction lea``     instructions by name
    ``places load``, ...    different places in memory that are read, and written
    ``chain float add``     by how much the longest chain of the kind grows from run to run; of any kind: ``chain any``; in
                            cycles: ``chain cycles``
    ``depth load``, ...     how long the longest chain of one run is by itself
    ======================  ================================================================================================

Two addresses are one place where the same registers hold the same values in them, as far as the block shows: what is loaded
from an unchanged place or computed by `lea` is the same in every run, what `add` makes is not. A load from a place that was
stored to waits for the store (``forward``). Latencies are round numbers of recent cores, the same for all; the trees find out
what they are worth. Unknown instructions read all their operands and write the first.

Where this is rough: SSE arithmetic counts as writing the flags, a single operand of `mul` or `div` as written, and what is
cleared (`xor eax, eax`) as another value in every run if it stands in an address. The trees that ship were grown on it, so
mending it means to fit them anew.
"""

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

_RUNS, _FIRST = 8, 4  # growth is measured over the runs behind the first few
_MOST_INSTRUCTIONS = 512  # of a block: what follows is not read
_LOAD, _FORWARD = 4, 4  # cycles

# Kind, cycles until its result is there, names.
_KINDS = tuple(
    (kind, cycles, re.compile(names))
    for kind, cycles, names in (
        ("stack", 1, r"push\w*|pop[aqfd]*|call|ret|leave|enter"),
        ("nothing", 0, r"nop|endbr\w+|prefetch\w+|\w*fence|emms|vzero\w+|pause"),
        ("lock", 18, r"lock .*|xchg"),
        ("string", 8, r"rep\w* .*"),
        ("divide", 14, r"\w*div\w*"),
        ("root", 16, r"\w*sqrt\w*"),
        ("convert", 5, r"\w*cvt\w*"),
        ("multiply", 3, r"i?mulx?"),
        ("fused multiply", 4, r"vfn?m\w+"),
        ("float multiply", 3, r"v?mul[sp][sd]"),
        ("float add", 3, r"v?(add|sub|min|max|addsub|hadd|hsub|cmp\w*|u?comi)[sp][sd]"),
        ("move", 0, r"mov(abs|zx|sx|sxd)?|cqo|cdq|cdqe|cwde"),
        ("vector move", 1, r"v?(mov|lddqu|broadcast|pbroadcast)\w*"),
        ("shift", 1, r"sh[lr]\w*|sa[lr]x?|r[oc][lr]x?|bt[crs]?|bs[fr]|bswap|[lt]zcnt|popcnt"),
        ("condition", 1, r"set\w+|cmov\w+|adc|sbb"),
        ("x87", 6, r"f\w+"),
        ("vector", 1, r"[vpk]\w+|(xor|andn?|or|unpck[lh]|shuf|blend\w*)p[sd]|ptest"),
        ("integer", 1, r".*"),
    )
)
_WRITES_NOTHING = re.compile(
    r"cmp|test|v?u?comis[sd]|push\w*|nop|prefetch\w+|bt|v?ptest|f?u?comi?p*|jmp|j\w+|call|v?pcmp.str."
)
_READS_FIRST_NOT = re.compile(
    r"mov(abs|zx|sx|sxd|be|[aud]\w*|q|nt\w*)?|lea|pop|set\w+|v?cvtt?[sp][sd]2\w*si|lddqu|pmovm\w+|pshuf[dlh]\w*|[lt]zcnt|popcnt|"
    r"rorx|s[ahr][lrx]+x|andn|v(?!fn?m)\w+|fst\w*|fnst\w*"
)
_WRITES_FLAGS = re.compile(
    r"add|sub|cmp|test|and|or|xor|inc|dec|neg|sh[lr]d?|sa[lr]|r[oc][lr]|i?mul|bt[crs]?|bs[fr]|[lt]zcnt|popcnt|adc|sbb|"
    r"v?u?comis[sd]|v?ptest|fu?comip?|(lock )?(cmpxchg|xadd|add|sub|inc|dec|and|or|xor)\w*"
)
_READS_FLAGS = re.compile(r"set\w+|cmov\w+|adc|sbb|rc[lr]|j(?!mp)\w+")
_CLEARS = re.compile(r"xor|sub|v?p?xor(p[sd]|d|q)?|v?psub[bwdq]|v?pcmpgt[bwdq]")
_IMPLICIT = {  # read and written beside the operands
    "mul": (("rax",), ("rax", "rdx")), "div": (("rax", "rdx"), ("rax", "rdx")), "idiv": (("rax", "rdx"), ("rax", "rdx")),
    "cqo": (("rax",), ("rdx",)), "cdq": (("rax",), ("rdx",)), "cdqe": (("rax",), ("rax",)), "cwde": (("rax",), ("rax",)),
    "cmpxchg": (("rax",), ("rax",)),
}  # fmt: skip
_STRING_REGISTERS = ("rcx", "rsi", "rdi")
_WORD = re.compile(r"[a-z][a-z0-9]*(?:\(\d\))?")
_PREFIX = re.compile(r"(lock|rep\w*)\s+(.*)")
_MEMORY = re.compile(r"\[([^\]]*)\]?")
_PART = re.compile(r"[a-d][lh]|[a-d]x|[sd]il?|[bs]pl?|r\d+[bw]")  # a register's part: the rest of it stays


def _registers():
    names = {}
    for letter in "abcd":
        names.update(
            dict.fromkeys((f"r{letter}x", f"e{letter}x", f"{letter}x", f"{letter}l", f"{letter}h"), f"r{letter}x")
        )
    for name in ("si", "di", "bp", "sp"):
        names.update(dict.fromkeys((f"r{name}", f"e{name}", name, f"{name}l"), f"r{name}"))
    for number in range(32):
        names.update(dict.fromkeys((f"r{number}", f"r{number}d", f"r{number}w", f"r{number}b"), f"r{number}"))
        names.update(dict.fromkeys((f"xmm{number}", f"ymm{number}", f"zmm{number}"), f"v{number}"))
    for number in range(8):
        names.update({f"mm{number}": f"m{number}", f"k{number}": f"k{number}", f"st({number})": f"st{number}"})
    return {**names, "st": "st0"}


_REGISTERS = _registers()


class _Instruction(NamedTuple):
    """One line: what it is, and what it reads and writes."""

    name: str
    kind: str
    cycles: int
    reads: frozenset  # registers and "flags"
    writes: frozenset
    load: str | None  # an address as it stands there
    store: str | None
    address: frozenset  # registers of the addresses
    clears: bool
    value: str | None  # what the first register holds then, where that is the same in every run


class _Facts(NamedTuple):
    """What is known of an instruction by its name."""

    kind: str
    cycles: int
    writes_flags: bool
    writes_nothing: bool  # of its operands
    reads_first_not: bool
    reads_flags: bool
    clears: bool  # if both operands are one register


@lru_cache(2048)
def _facts(name):
    plain = _PREFIX.sub(r"\2", name)
    kind, cycles = next((kind, cycles) for kind, cycles, names in _KINDS if names.fullmatch(name))
    tests = (_WRITES_NOTHING, _READS_FIRST_NOT, _READS_FLAGS, _CLEARS)
    return _Facts(kind, cycles, bool(_WRITES_FLAGS.fullmatch(name)), *(bool(test.fullmatch(plain)) for test in tests))


def _operands(text):
    """The operands of an instruction; commas inside brackets are no ends."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


@lru_cache(65536)
def _read(line):
    """An instruction from its line, None for an empty one."""
    line = line.split("#")[0].strip().lower()
    prefix, line = found.groups() if (found := _PREFIX.fullmatch(line)) else ("", line)
    if not line:
        return None
    plain, _, rest = line.partition(" ")
    name, operands = f"{prefix} {plain}".strip(), _operands(rest)
    facts = _facts(name)
    into = (plain in ("movss", "movsd") and "[" in rest) or (plain == "imul" and len(operands) == 3)
    reads_first = not facts.reads_first_not and not into
    reads, writes, address, load, store = set(), set(), set(), None, None
    for place, operand in enumerate(operands):
        memory, register = _MEMORY.search(operand), _REGISTERS.get(operand)
        first = place == 0 and not facts.writes_nothing
        if memory and facts.kind != "nothing":
            inside = {_REGISTERS[word] for word in _WORD.findall(memory[1]) if word in _REGISTERS}
            if plain == "lea":
                reads |= inside
                continue
            address |= inside
            alone = len(operands) == 1 and (facts.kind in ("multiply", "divide") or re.match(r"f(?!n?st)", plain))
            store = memory[1] if first and not alone else store
            load = memory[1] if not first or alone or reads_first else load
        elif register:
            if first or plain == "xchg":
                writes.add(register)
            if not first or reads_first or _PART.fullmatch(operand):
                reads.add(register)
    clears = facts.clears and len(operands) > 1 and operands[-1] == operands[-2]
    read_too, written_too = _implicit(plain, facts, len(operands))
    reads = {*(() if clears else reads), *read_too}
    value = "= 0" if clears else _steady(plain, operands)
    return _Instruction(
        name, facts.kind, facts.cycles, frozenset(reads), frozenset(writes | written_too), load, store, frozenset(address),
        clears, value,
    )  # fmt: skip


def _implicit(plain, facts, operands):
    """What an instruction reads and writes that is no operand."""
    reads, writes = map(set, _IMPLICIT.get(plain, ((), ())))
    if plain == "imul" and operands == 1:
        reads, writes = {"rax"}, {"rax", "rdx"}
    if facts.kind == "string":
        reads, writes = reads.union(_STRING_REGISTERS), writes.union(_STRING_REGISTERS)
    return reads | ({"flags"} if facts.reads_flags else set()), writes | ({"flags"} if facts.writes_flags else set())


def _steady(plain, operands):
    """What the register that is written holds then, None where it may be another number in every run.

    Returns:
        str | None: `= 8` a number, `@rbx` what a register holds, `* rsp + 8` what a place holds, `rsp + 8` an address.
    """
    if plain not in ("mov", "movabs", "lea") or len(operands) != 2:
        return None
    to, source = operands
    memory = _MEMORY.search(source)
    if plain == "lea":
        return memory and memory[1]
    if memory:
        return None if plain == "movabs" or "[" in to else f"* {memory[1]}"
    if source in _REGISTERS:
        return None if plain == "movabs" else f"@{_REGISTERS[source]}"
    return f"= {source}"


class _State:
    """Chains and values after some instructions.

    Values have short names that no text holds: what they are made of would grow with every instruction.

    Attributes:
        chains: The longest chains that lead to a register, the flags or a place: counts by kind, "cycles" among them.
        values: Name of what a register holds, the same where the value is.
        names: What a value is made of -> its name.
        parts: The other way round.
    """

    def __init__(self):
        self.chains, self.values, self.names, self.parts = {}, {}, {}, {}

    def _name(self, parts):
        name = self.names.setdefault(parts, f"\0{len(self.names)}\0")
        self.parts[name] = parts
        return name

    def _sum(self, address):
        """What an address adds up: names in the place of registers, of one alone what it is made of."""
        parts = _WORD.sub(lambda word: self.value(_REGISTERS.get(word[0], word[0])), address)
        return self.parts.get(parts, parts)

    def place(self, address):
        """A name of a place in memory."""
        return self._name(f"[{self._sum(address)}]")

    def value(self, register):
        """A name of what a register holds; any other word stands for itself."""
        return self.values.get(register, register)

    def run(self, instruction):
        """Makes an instruction's chains longer by it and notes what its results are."""
        i = instruction
        read = [self.chains[r] for r in i.reads if r in self.chains]
        place = self.place(i.load) if i.load is not None else None
        if place is not None:
            waits = [self.chains[r] for r in i.address if r in self.chains]
            read.append(_longer(_longest(waits), "load", _LOAD))
            if place in self.chains:
                read.append(_longer(self.chains[place], "forward", _FORWARD))
        chain = _longest(read)
        if not i.clears:
            chain = _longer(chain, i.kind, i.cycles)
        stored = self.place(i.store) if i.store is not None else None
        value = self._result(i, place)
        for register in i.writes:
            self.chains[register] = chain
            self.values[register] = value if value and len(i.writes) == 1 else self._name(f"%{len(self.names)}")
        if stored is not None:
            self.chains[stored] = chain

    def _result(self, i, place):
        """A name of what an instruction writes, None for a value that may be another one each time."""
        if i.value is None:
            return None
        if i.value[:1] == "=":
            return self._name(i.value)
        if i.value[:1] == "@":
            return self.value(i.value[1:])
        if i.value[:1] == "*":
            return None if place in self.chains else self._name(f"*{place}")
        return self._name(self._sum(i.value))


def _longest(chains):
    """The longest of each kind of some chains."""
    if len(chains) == 1:
        return chains[0]
    return {kind: max(chain.get(kind, 0) for chain in chains) for chain in chains for kind in chain}


def _longer(chain, kind, cycles):
    return {
        **chain,
        kind: chain.get(kind, 0) + 1,
        "cycles": chain.get("cycles", 0) + cycles,
        "any": chain.get("any", 0) + 1,
    }


def chains(text):
    """Counts what a basic block waits for.

    Args:
        text (str): Intel syntax, an instruction a line; lines that begin with `#` are not read.

    Returns:
        dict[str, float]: counts by name, see the module; those that are 0 are left out.
    """
    lines = (_read(line) for line in text.replace("\0", " ").split("\n"))
    block = [instruction for instruction in lines if instruction is not None][:_MOST_INSTRUCTIONS]
    found = Counter({"count": len(block)})
    for i in block:
        marks = {"load": i.load, "store": i.store, "update": i.load and i.store, "clear": i.clears}
        found.update(
            [f"count {i.kind}", f"instruction {i.name}", *(f"count {mark}" for mark, on in marks.items() if on)]
        )
    for kind in ("load", "store"):
        found[f"places {kind}"] = len({getattr(i, kind) for i in block if getattr(i, kind)})
    state, after = _State(), []
    for _ in range(_RUNS):
        for instruction in block:
            state.run(instruction)
        after.append(_longest(list(state.chains.values())) if state.chains else {})
    for kind, last in after[-1].items() if block else ():
        found[f"chain {kind}"] = max(0, last - after[_FIRST - 1].get(kind, 0)) / (_RUNS - _FIRST)
        found[f"depth {kind}"] = after[0].get(kind, 0)
    return {name: count for name, count in found.items() if count}


__all__ = ["chains"]
