"""What an x86-64 block waits for, and the cycles that it takes at least on a Zen 4.

**Dependency features.** `dependency_features` counts what a block waits for when it runs again and again, for the trees of the
feature ensemble. Such a block takes as long as the longest path of instructions that wait for one another from one run to the
next, or as long as its instructions keep the units of the processor busy. Which instruction waits for which stands in the
names of registers, far apart and in another order in every block. So the block is run a few times with, in place of values,
for every register, the flags and every place in memory how long a path leads there: in cycles, and in instructions of each
class.

Features by name; the names are hashed into the columns of checkpoints, so they stay:

    ======================  ================================================================================================
    ``count float add``     instructions of a class (see `_CLASSES`), also ``count load``, ``count store``, ``count clear``
                            (`xor eax, eax` waits for nothing), ``count update`` (memory read and written), ``count``: all
    ``instruction lea``     instructions by name
    ``places load``, ...    different places in memory that are read, and written
    ``chain float add``     by how much the longest path of the class grows from run to run; of any class: ``chain any``; in
                            cycles: ``chain cycles``
    ``depth load``, ...     how long the longest path of one run is by itself
    ======================  ================================================================================================

Two addresses are one place where the same registers hold the same values in them, as far as the block shows: what is loaded
from an unchanged place or computed by `lea` is the same in every run, what `add` makes is not. A load from a place that was
stored to waits for the store (``forward``). Latencies are round numbers of recent cores, the same for all; the trees learn
their weight. Unknown instructions read all their operands and write the first.

Where this is rough: SSE arithmetic counts as writing the flags, a single operand of `mul` or `div` as written, and what is
cleared (`xor eax, eax`) as another value in every run if it stands in an address. The trees that ship were grown on it, so
a change means to fit them anew.

**Bounds.** `lower_bound` is exact where the features are rough: it counts only dependencies that are certain, with the least
latency of each instruction, and the units that an instruction certainly needs.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

# ------------------------------------------------------------------------------------------------------ dependency features

_RUNS, _FIRST = 8, 4  # growth is measured over the runs behind the first few
_MOST_INSTRUCTIONS = 512  # of a block: what follows is not read
_LOAD, _FORWARD = 4, 4  # cycles

# Class, cycles until its result is there, names.
_CLASSES = tuple(
    (label, cycles, re.compile(names))
    for label, cycles, names in (
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


def _registers() -> dict[str, str]:
    """Returns every name of a register with the name of the whole register; vectors are `v0` to `v31`."""
    names: dict[str, str] = {}
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


REGISTERS = _registers()


class _Instruction(NamedTuple):
    """One line.

    Attributes:
        name: Mnemonic with its prefix.
        unit_class: Its class, see `_CLASSES`.
        cycles: Its latency.
        reads: Registers and "flags" that it reads.
        writes: Registers and "flags" that it writes.
        load: Address that it loads from, as written; None without.
        store: Address that it stores to, likewise.
        address: Registers of its addresses.
        clears: Whether its result does not depend on what it reads.
        value: What the first register holds afterwards, None where that may differ from run to run; see `_invariant`.
    """

    name: str
    unit_class: str
    cycles: int
    reads: frozenset[str]
    writes: frozenset[str]
    load: str | None
    store: str | None
    address: frozenset[str]
    clears: bool
    value: str | None


class _Facts(NamedTuple):
    """What is known of an instruction by its name.

    Attributes:
        unit_class: Its class, see `_CLASSES`.
        cycles: Its latency.
        writes_flags: Whether it writes the flags.
        writes_nothing: Whether it writes none of its operands.
        reads_first_not: Whether it writes its first operand without reading it.
        reads_flags: Whether it reads the flags.
        clears: Whether its result is a constant where both operands are one register.
    """

    unit_class: str
    cycles: int
    writes_flags: bool
    writes_nothing: bool
    reads_first_not: bool
    reads_flags: bool
    clears: bool


@lru_cache(2048)
def _facts(name: str) -> _Facts:
    """Returns what is known of an instruction by its name, prefix included."""
    plain = _PREFIX.sub(r"\2", name)
    unit_class, cycles = next((label, cycles) for label, cycles, names in _CLASSES if names.fullmatch(name))
    tests = (_WRITES_NOTHING, _READS_FIRST_NOT, _READS_FLAGS, _CLEARS)
    return _Facts(
        unit_class, cycles, bool(_WRITES_FLAGS.fullmatch(name)), *(bool(test.fullmatch(plain)) for test in tests)
    )


def _operands(text: str) -> list[str]:
    """Returns the operands of an instruction; commas inside brackets separate nothing."""
    return [part.strip() for part in re.split(r",(?![^\[]*\])", text) if part.strip()]


@lru_cache(65536)
def _read(line: str) -> _Instruction | None:
    """Returns an instruction from its line, None for an empty one."""
    line = line.split("#")[0].strip().lower()
    prefix, line = found.groups() if (found := _PREFIX.fullmatch(line)) else ("", line)
    if not line:
        return None
    plain, _, rest = line.partition(" ")
    name = f"{prefix} {plain}".strip()
    operands = _operands(rest)
    facts = _facts(name)
    into = (plain in ("movss", "movsd") and "[" in rest) or (plain == "imul" and len(operands) == 3)
    reads_first = not facts.reads_first_not and not into
    reads: set[str] = set()
    writes: set[str] = set()
    address: set[str] = set()
    load = store = None
    for place, operand in enumerate(operands):
        memory, register = _MEMORY.search(operand), REGISTERS.get(operand)
        first = place == 0 and not facts.writes_nothing
        if memory and facts.unit_class != "nothing":
            inside = {REGISTERS[word] for word in _WORD.findall(memory[1]) if word in REGISTERS}
            if plain == "lea":
                reads |= inside
                continue
            address |= inside
            alone = len(operands) == 1 and (facts.unit_class in ("multiply", "divide") or re.match(r"f(?!n?st)", plain))
            store = memory[1] if first and not alone else store
            load = memory[1] if not first or alone or reads_first else load
        elif register:
            if first or plain == "xchg":
                writes.add(register)
            if not first or reads_first or _PART.fullmatch(operand):
                reads.add(register)
    clears = facts.clears and len(operands) > 1 and operands[-1] == operands[-2]
    read_too, written_too = _implicit(plain, facts, len(operands))
    reads = read_too if clears else reads | read_too
    value = "= 0" if clears else _invariant(plain, operands)
    return _Instruction(
        name, facts.unit_class, facts.cycles, frozenset(reads), frozenset(writes | written_too), load, store,
        frozenset(address), clears, value,
    )  # fmt: skip


def _implicit(plain: str, facts: _Facts, operands: int) -> tuple[set[str], set[str]]:
    """Returns what an instruction with so many operands reads and writes that is no operand."""
    read_names, written_names = _IMPLICIT.get(plain, ((), ()))
    reads, writes = set(read_names), set(written_names)
    if plain == "imul" and operands == 1:
        reads, writes = {"rax"}, {"rax", "rdx"}
    if facts.unit_class == "string":
        reads, writes = reads.union(_STRING_REGISTERS), writes.union(_STRING_REGISTERS)
    return reads | ({"flags"} if facts.reads_flags else set()), writes | ({"flags"} if facts.writes_flags else set())


def _invariant(plain: str, operands: Sequence[str]) -> str | None:
    """Returns what the written register holds afterwards, None where that may differ from run to run.

    Returns:
        `= 8` for a number, `@rbx` for a register's value, `* rsp + 8` for a place's, `rsp + 8` for an address.
    """
    if plain not in ("mov", "movabs", "lea") or len(operands) != 2:
        return None
    to, source = operands
    memory = _MEMORY.search(source)
    if plain == "lea":
        return memory[1] if memory else None
    if memory:
        return None if plain == "movabs" or "[" in to else f"* {memory[1]}"
    if source in REGISTERS:
        return None if plain == "movabs" else f"@{REGISTERS[source]}"
    return f"= {source}"


_Path = dict[str, int]  # the longest path of each class that leads somewhere, in instructions; "any", and "cycles"


class _State:
    """Paths and values after some instructions.

    Values have short names that no text holds: what they are made of would grow with every instruction.

    Attributes:
        paths: The longest paths that lead to a register, the flags or a place in memory.
        values: Name of what a register holds, the same where the value is the same.
        names: What a value is made of -> its name.
        parts: Name of a value -> what it is made of.
    """

    def __init__(self) -> None:
        self.paths: dict[str, _Path] = {}
        self.values: dict[str, str] = {}
        self.names: dict[str, str] = {}
        self.parts: dict[str, str] = {}

    def _name(self, parts: str) -> str:
        name = self.names.setdefault(parts, f"\0{len(self.names)}\0")
        self.parts[name] = parts
        return name

    def _sum(self, address: str) -> str:
        """Returns an address with names of values in place of registers; of one value alone, what it is made of."""
        parts = _WORD.sub(lambda word: self.value(REGISTERS.get(word[0], word[0])), address)
        return self.parts.get(parts, parts)

    def place(self, address: str) -> str:
        """Returns the name of a place in memory."""
        return self._name(f"[{self._sum(address)}]")

    def value(self, register: str) -> str:
        """Returns the name of what a register holds; any other word is its own name."""
        return self.values.get(register, register)

    def run(self, instruction: _Instruction) -> None:
        """Runs an instruction: lengthens the paths that lead to what it writes, and names its results."""
        read = [self.paths[r] for r in instruction.reads if r in self.paths]
        place = self.place(instruction.load) if instruction.load is not None else None
        if place is not None:
            address_paths = [self.paths[r] for r in instruction.address if r in self.paths]
            read.append(_lengthened(_longest(address_paths), "load", _LOAD))
            if place in self.paths:
                read.append(_lengthened(self.paths[place], "forward", _FORWARD))
        path = _longest(read)
        if not instruction.clears:
            path = _lengthened(path, instruction.unit_class, instruction.cycles)
        stored = self.place(instruction.store) if instruction.store is not None else None
        value = self._result(instruction, place)
        for register in instruction.writes:
            self.paths[register] = path
            is_known = value and len(instruction.writes) == 1
            self.values[register] = value if value and is_known else self._name(f"%{len(self.names)}")
        if stored is not None:
            self.paths[stored] = path

    def _result(self, instruction: _Instruction, place: str | None) -> str | None:
        """Returns the name of what an instruction writes, None for a value that may differ from run to run."""
        value = instruction.value
        if value is None:
            return None
        if value[:1] == "=":
            return self._name(value)
        if value[:1] == "@":
            return self.value(value[1:])
        if value[:1] == "*":
            return None if place in self.paths else self._name(f"*{place}")
        return self._name(self._sum(value))


def _longest(paths: Sequence[_Path]) -> _Path:
    """Returns the longest path of each class among several."""
    if len(paths) == 1:
        return paths[0]
    classes = {label for path in paths for label in path}
    return {label: max(path.get(label, 0) for path in paths) for label in classes}


def _lengthened(path: _Path, unit_class: str, cycles: int) -> _Path:
    """Returns a path with one more instruction at its end."""
    return {
        **path,
        unit_class: path.get(unit_class, 0) + 1,
        "cycles": path.get("cycles", 0) + cycles,
        "any": path.get("any", 0) + 1,
    }


def dependency_features(text: str) -> dict[str, float]:
    """Counts what a basic block waits for.

    Args:
        text: Intel syntax, an instruction a line; lines that begin with `#` are not read.

    Returns:
        Counts by name, see the module; those that are 0 are left out.
    """
    lines = (_read(line) for line in text.replace("\0", " ").split("\n"))
    block = [instruction for instruction in lines if instruction is not None][:_MOST_INSTRUCTIONS]
    counts: Counter[str] = Counter({"count": len(block)})
    for instruction in block:
        counts.update([f"count {instruction.unit_class}", f"instruction {instruction.name}"])
        marks = {
            "load": instruction.load,
            "store": instruction.store,
            "update": instruction.load and instruction.store,
            "clear": instruction.clears,
        }
        counts.update(f"count {mark}" for mark, is_set in marks.items() if is_set)
    features: dict[str, float] = dict(counts)
    features["places load"] = len({i.load for i in block if i.load})
    features["places store"] = len({i.store for i in block if i.store})
    features.update(_path_features(block))
    return {name: count for name, count in features.items() if count}


def _path_features(block: Sequence[_Instruction]) -> dict[str, float]:
    """Returns by how much the longest path of each class grows from run to run, and how long it is after one run."""
    if not block:
        return {}
    state = _State()
    after: list[_Path] = []
    for _ in range(_RUNS):
        for instruction in block:
            state.run(instruction)
        after.append(_longest(list(state.paths.values())) if state.paths else {})
    features = {}
    for unit_class, last in after[-1].items():
        growth = max(0, last - after[_FIRST - 1].get(unit_class, 0))
        features[f"chain {unit_class}"] = growth / (_RUNS - _FIRST)
        features[f"depth {unit_class}"] = float(after[0].get(unit_class, 0))
    return features


def registers_written(line: str) -> frozenset[str]:
    """Registers, by their 64-bit names, and "flags" that an instruction writes."""
    read = _read(line)
    return frozenset() if read is None else read.writes


# ------------------------------------------------------------------------------------------------------------ lower bounds

# Zen 4, one thread. Facts from AMD's "Software Optimization Guide for the AMD Zen4 Microarchitecture" (publication 57647:
# units, widths, loads and stores per cycle), Agner Fog's instruction tables and uops.info (latencies), each at its smallest
# value, so that a bound stays one: what is eliminated by renaming, forwarded or fused is free.
_SLOTS = 6  # macro-operations that are dispatched per cycle
_UNITS = {
    "slot": _SLOTS,
    "alu": 4,
    "shift": 2,  # two of the four
    "multiply": 1,  # one of them
    "divide": 1,
    "branch": 2,
    "taken": 1,
    "address": 3,  # loads and stores
    "vector load": 2,
    "store": 2,
    "vector store": 1,
    "float": 4,  # vector units
    "float multiply": 2,
    "float add": 2,
    "shuffle": 2,
    "float divide": 1,
    "lock": 1,
}


class _Cost(NamedTuple):
    """What an instruction of a class takes at least.

    Attributes:
        latency: Cycles from an operand to the result.
        unit: The unit that it needs.
        busy: Cycles for which it keeps the unit.
    """

    latency: float
    unit: str
    busy: float = 1.0


_COSTS = tuple(
    (re.compile(names), _Cost(*cost))
    for names, cost in (
        (r"mov|movabs", (0, "")),
        (r"nop|endbr\w+|prefetch\w*", (0, "")),
        (r"imul", (3, "multiply")),
        (r"mulx?", (3, "multiply")),
        (r"i?div", (7, "divide", 4)),
        (r"sh[lr]x?|sarx?|ro[lr]|rorx", (1, "shift")),
        (r"popcnt|lzcnt|tzcnt|andn|bl\w+|bzhi|bswap|bt|lea|movzx|movsxd?|cdq|cqo|cdqe|cwde|cwd|cbw", (1, "alu")),
        (r"add|sub|and|or|xor|cmp|test|inc|dec|neg|not|adc|sbb|adcx|adox|set\w+|cmov\w+", (1, "alu")),
        (r"v?(add|sub|addsub)[ps][sd]", (3, "float add")),
        (r"v?mul[ps][sd]", (3, "float multiply")),
        (r"vfn?m(add|sub|addsub|subadd)(132|213|231)[ps][sd]", (4, "float multiply")),
        (r"v?divs[s]|v?divps", (10, "float divide", 3)),
        (r"v?divsd|v?divpd", (13, "float divide", 4.9)),
        (r"v?sqrtss|v?sqrtps", (14, "float divide", 4.5)),
        (r"v?sqrtsd|v?sqrtpd", (20, "float divide", 8)),
        (r"v?(min|max)[ps][sd]", (2, "float")),
        (r"v?cmp\w*[ps][sd]", (1, "float")),
        (r"v?(and|andn|or|xor)p[sd]|v?p(and|andn|or|xor)[dq]?", (1, "float")),
        (r"v?padd[bwdq]|v?psub[bwdq]|v?p(min|max)[us][bwdq]|v?pcmp(eq|gt)[bwdq]|v?pabs[bwd]|v?pavg[bw]", (1, "float")),
        (r"v?pmul(ld|lw|hw|huw|hrsw|udq|dq)|v?pmadd(wd|ubsw)", (3, "float")),
        (
            r"v?(unpck[lh]p[sd]|shufp[sd]|punpck\w+|pshuf[bdhl]\w*|palignr|pack\w+|mov(lh|hl)ps|permilp[sd]|pblendw)",
            (1, "float"),
        ),
        (r"v?ps[lr][la][wdq]|v?ps[lr]ldq|vps[lr]{2}v[dq]|v?mov(s[hl]dup|ddup)|v?blendp[sd]|v?insertps", (1, "float")),
        (r"v?broadcasts[sd]|vpbroadcast[bwdq]", (1, "float")),
        (r"v?aes(enc|dec)(last)?", (4, "float multiply")),
        (r"v?cvt(dq2ps|t?ps2dq|ss2sd|sd2ss)|v?rounds[sd]|v?roundp[sd]", (3, "float")),
        (r"v?cvtsi2s[sd]", (4, "float")),
        (r"v?u?comis[sd]|v?ptest", (1, "float")),
        (r"v?mov(aps|apd|ups|upd|dqa|dqu)(8|16|32|64)?|v?lddqu|v?movnt\w+", (0, "")),
        (r"v?movs[sd]", (1, "")),
        (r"v?mov[lh]p[sd]", (1, "")),
        (r"v?mov[dq]", (1, "")),
    )
)
_CHANGES_FIRST = re.compile(  # read their first operand as well as write it
    r"add|sub|and|or|xor|adc|sbb|adcx|adox|inc|dec|neg|not|sh[lr]|sar|ro[lr]|bswap|cmov\w+|vfn?m\w+|aes\w+|(?!v)\w+[ps][sd]|"
    r"p(?!shuf[dhl]|abs|broadcast)\w+|movlhps|movhlps"
)
_COPIES = re.compile(
    r"v?mov(aps|apd|ups|upd|dqa|dqu)\w*|lddqu|movs[hl]dup|movddup|cvt(dq2ps|t?ps2dq)|roundp[sd]|sqrtp[sd]|movnt\w+"
)
_MERGES = re.compile(r"set\w+|sqrts[sd]|cvt(ss2sd|sd2ss|si2s[sd])|rounds[sd]|movs[sd]|mov[lh]p[sd]")
_ONLY_FLAGS = re.compile(r"cmp|test|bt|v?u?comis[sd]|v?ptest")
_SETS_FLAGS = re.compile(
    r"add|sub|and|or|xor|adc|sbb|inc|dec|neg|i?mul|cmp|test|bt|v?u?comis[sd]|v?ptest|popcnt|[lt]zcnt|andn|bl\w+|bzhi|sh[lr]|sar|"
    r"ro[lr]"
)
_KEEPS_FLAGS = re.compile(r"inc|dec|ro[lr]|sh[lr]|sar")  # some or all of them
_USES_FLAGS = re.compile(r"adc|sbb|adcx|adox|cmov\w+|set\w+")
_ZERO = re.compile(r"xor|sub|sbb|v?p?xor(p[sd]|d|q)?|v?psub[bwdq]|v?pcmp(gt|eq)[bwdq]")
_MERGES_SECOND = re.compile(r"vcvt(u?si2s[sd]|ss2sd|sd2ss)|v(sqrt|round)s[sd]")
_EXTENDS_RAX = {"cdq": "rdx", "cqo": "rdx", "cwd": "rdx", "cdqe": "rax", "cwde": "rax", "cbw": "rax"}
_CHANGES_MUCH = re.compile(r"call|cpuid|syscall|rdtscp?|xgetbv|cmpxchg\w*|xadd|(movs|cmps|stos|lods|scas)[bwdq]")
_WIDE = re.compile(r"[xyz]mm\d+")
_GENERAL_NAMES = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", *(f"r{n}" for n in range(8, 16)))


class _Step(NamedTuple):
    """An instruction as the bound reads it.

    Attributes:
        inputs: (register, cycles until the result) of operands.
        address: Registers of the address that is loaded from.
        load: That address, None without.
        load_cycles: Cycles from its registers to what is loaded.
        latency: Cycles from what is loaded to the result.
        outputs: Registers that hold the result.
        store: Address that the result is stored to, None without.
        lost: Registers that hold something unknown afterwards.
    """

    inputs: tuple[tuple[str, float], ...]
    address: tuple[str, ...]
    load: str | None
    load_cycles: float
    latency: float
    outputs: tuple[str, ...]
    store: str | None
    lost: tuple[str, ...]


@lru_cache(4096)
def _cost(name: str) -> _Cost | None:
    """What an instruction takes by its name, None where the table has nothing."""
    return next((cost for names, cost in _COSTS if names.fullmatch(name)), None)


def _address_registers(address: str) -> tuple[str, ...]:
    return tuple(REGISTERS[word] for word in _WORD.findall(address) if word in REGISTERS)


@lru_cache(32768)
def _bound_step(line: str) -> _Step | None:
    """Reads an instruction, in the spelling of `Instruction.text`, for the dependency bound; None if it changes nothing."""
    prefix, name, operands = _parts(line)
    cost = None if prefix else _cost(name)
    memory = next((found for o in operands if (found := _MEMORY.search(o))), None)
    if name in ("push", "nop") or name.startswith(("j", "prefetch", "endbr")):
        return None
    if name == "pop" and operands and operands[0] in REGISTERS:
        return _Step((), (), None, 0, 0, (), None, (REGISTERS[operands[0]],))
    registers = [REGISTERS.get(o.partition("{")[0]) for o in operands]
    if cost is None or name in ("mul", "div", "idiv", "mulx") or (name == "imul" and len(operands) == 1):
        return _unknown_step(name, cost, operands, registers, memory)
    is_zero = len(operands) > 1 and operands[-1] == operands[-2] and _ZERO.fullmatch(name) is not None
    outputs = ["flags"] if _SETS_FLAGS.fullmatch(name) else []
    inputs = [("flags", cost.latency)] if _USES_FLAGS.fullmatch(name) else []
    if name in _EXTENDS_RAX:
        outputs, inputs = [_EXTENDS_RAX[name]], [("rax", cost.latency)]
    store = memory[1] if memory and "[" in operands[0] and not _ONLY_FLAGS.fullmatch(name) else None
    changes_first = _CHANGES_FIRST.fullmatch(name) is not None and not _COPIES.fullmatch(name)
    if name == "imul":
        changes_first = len(operands) == 2
    for place, register in enumerate(registers):
        if register is None:
            continue
        first = place == 0 and not _ONLY_FLAGS.fullmatch(name)
        if first:
            outputs.append(register)
        if place == 1 and _MERGES_SECOND.fullmatch(name):
            continue  # merged into, which is free while the upper half is known to be zero
        elif not first or (changes_first and not _MERGES.fullmatch(name)):
            inputs.append((register, cost.latency))
        elif _PART.fullmatch(operands[0]) or ("{k" in operands[0] and "{z}" not in operands[0]):
            inputs.append((register, 0.0))
    load = memory[1] if memory and name != "lea" and (store is None or changes_first) else None
    if name == "lea" and memory:
        inputs += [(register, 1.0) for register in _address_registers(memory[1])]
    if is_zero:
        inputs = [pair for pair in inputs if pair[0] == "flags"]
    is_wide = any(_WIDE.match(o) for o in operands)
    address = _address_registers(memory[1]) if load is not None and memory else ()
    return _Step(tuple(inputs), address, load, 6.0 if is_wide else 4.0, cost.latency, tuple(outputs), store, ())


def _unknown_step(
    name: str,
    cost: _Cost | None,
    operands: Sequence[str],
    registers: Sequence[str | None],
    memory: re.Match[str] | None,
) -> _Step:
    """Multiplications and divisions of rax, and what the table does not know: that breaks every dependency."""
    if cost is not None and len(operands) == 1:
        reads = [r for r in registers if r] + (["rax", "rdx"] if "div" in name else ["rax"])
        latency = cost.latency
        return _Step(tuple((r, latency) for r in reads), (), None, 0, latency, ("rax", "rdx"), None, ("flags",))
    lost = {"flags", *(r for r in registers if r)}
    if _CHANGES_MUCH.fullmatch(name):
        lost.update(_GENERAL_NAMES)
    return _Step((), (), None, 0, 0, (), None, tuple(sorted(lost)))


def _parts(line: str) -> tuple[str, str, list[str]]:
    """Prefix, mnemonic and operands of an instruction in the spelling of `Instruction.text`."""
    found = _PREFIX.fullmatch(line)
    prefix, rest = found.groups() if found else ("", line)
    name, _, operands = rest.partition(" ")
    return prefix, name, _operands(operands)


def dependency_bound(text: str) -> float:
    """Cycles of an iteration that the longest path of instructions takes which wait for one another from run to run.

    Only dependencies that are certain count, with the least latency; a store is forwarded to a load for nothing, as a Zen 4
    does for many.

    Args:
        text: Instructions, one a line, in the spelling of `Instruction.text`.
    """
    steps = [step for line in text.split("\n") if line and (step := _bound_step(line)) is not None]
    if not steps:
        return 0.0
    period = 24 if len(steps) <= 512 else 6  # divisible by the lengths of rotations of registers that are common
    warm = period // 2
    ready: dict[str, float] = {}
    places: dict[tuple[str, tuple[int, ...]], float] = {}
    versions: dict[str, int] = {}
    before = 0.0
    for run in range(warm + period):
        for step in steps:
            _advance(step, ready, places, versions)
        if run == warm - 1:
            before = max(0.0, *ready.values(), *places.values()) if ready or places else 0.0
    after = max(0.0, *ready.values(), *places.values()) if ready or places else 0.0
    return (after - before) / period


def _advance(
    step: _Step,
    ready: dict[str, float],
    places: dict[tuple[str, tuple[int, ...]], float],
    versions: dict[str, int],
) -> None:
    """Runs an instruction: moves on the time at which its results are there."""
    times = [ready.get(register, 0.0) + latency for register, latency in step.inputs]
    if step.load is not None:
        waiting = [ready.get(register, 0.0) + step.load_cycles for register in step.address]
        place = (step.load, tuple(versions.get(register, 0) for register in step.address))
        times.append(max([places.get(place, 0.0), *waiting]) + step.latency)
    time = max(times, default=0.0)
    if step.store is not None:
        registers = _address_registers(step.store)
        places[step.store, tuple(versions.get(register, 0) for register in registers)] = time
    for register in step.outputs:
        ready[register] = time
        versions[register] = versions.get(register, 0) + 1
    for register in step.lost:
        ready[register] = 0.0
        versions[register] = versions.get(register, 0) + 1


@lru_cache(32768)
def _uses(line: str) -> tuple[tuple[str, float], ...]:
    """Units that an instruction keeps busy, and for how many cycles."""
    prefix, name, operands = _parts(line)
    if name == "nop":
        return ()
    uses = [("slot", 1.0)]
    memory = next((place for place, o in enumerate(operands) if "[" in o), None)
    width = max((512 if "zmm" in o else 256 if "ymm" in o else 128 if "xmm" in o else 0 for o in operands), default=0)
    parts = 2.0 if width == 512 else 1.0  # vector units are 256 bits wide
    cost = _cost(name)
    if name[0] == "j" and not prefix:
        return (*uses, ("branch", 1.0))
    if prefix == "lock" or (name == "xchg" and memory is not None):
        return (*uses, ("lock", 6.0))
    if name in ("push", "call"):
        return (*uses, ("address", 1.0), ("store", 1.0))
    if name in ("pop", "ret"):
        return (*uses, ("address", 1.0))
    if prefix or cost is None:
        return tuple(uses)
    is_zero = _ZERO.fullmatch(name) is not None and len(operands) > 1 and operands[-1] == operands[-2]
    is_load = memory is not None and name in ("movzx", "movsx", "movsxd")
    if cost.unit and not is_zero and not is_load:
        uses.append((cost.unit, cost.busy * parts))
        if cost.unit in ("float multiply", "float add", "shuffle"):
            uses.append(("float", cost.busy * parts))
        elif cost.unit in ("shift", "multiply"):
            uses.append(("alu", 1.0))
    if memory is not None and name not in ("lea", "nop"):
        is_store = memory == 0 and not _ONLY_FLAGS.fullmatch(name)
        loads = not is_store or (_CHANGES_FIRST.fullmatch(name) is not None and width == 0)
        uses.append(("address", 1.0 if not width else parts))
        if is_store:
            uses.append(("vector store", parts) if width else ("store", 1.0))
        if loads and width:
            uses.append(("vector load", parts))
    return tuple(uses)


def unit_bound(text: str) -> float:
    """Cycles of an iteration that its instructions keep the busiest unit of a Zen 4 at work.

    Args:
        text: Instructions, one a line, in the spelling of `Instruction.text`. A jump at the end is taken once an iteration.
    """
    busy: dict[str, float] = {}
    lines = [line for line in text.split("\n") if line]
    for place, line in enumerate(lines):
        fused = line[0] == "j" and place > 0 and lines[place - 1].split(" ", 1)[0] in _FUSED
        for unit, cycles in _uses(line):
            if not (fused and unit == "slot"):
                busy[unit] = busy.get(unit, 0.0) + cycles
    if lines and lines[-1][0] == "j":
        busy["taken"] = 1.0
    return max((cycles / _UNITS[unit] for unit, cycles in busy.items()), default=0.0)


_FUSED = frozenset("cmp test add sub and or xor inc dec".split())  # with a jump behind it, one macro-operation


def lower_bound(text: str) -> float:
    """Cycles that a block takes at least for an iteration on a Zen 4 when it runs again and again.

    Args:
        text: Instructions, one a line, in the spelling of `Instruction.text`.
    """
    return max(dependency_bound(text), unit_bound(text))


# Equally likely ratios of measured cycles to `least_measured(lower_bound(text))`, of validation rows of bhive_zen4 of which the
# weights that ship put a fifth of their distribution or more below that.
MEASURED_TO_LEAST = (
    1.0, 1.01, 1.029, 1.046, 1.068, 1.075, 1.088, 1.102, 1.104, 1.114, 1.124, 1.149, 1.159, 1.221, 1.293
)  # fmt: skip


def least_measured(bound: float) -> float:
    """Returns the least that a measurement like that of the training rows shows of a block with a lower bound.

    A block that takes one cycle was measured as .88 to 1, one that takes ten as 9.2 to 10: the clock that the measurement was
    calibrated with ran some 3% fast and was noisy, and of short blocks more overhead was subtracted than there was. Of 10,000
    rows 1% lie below.
    """
    return 0.92 * bound - 0.048 * min(1.0, bound)


__all__ = [
    "MEASURED_TO_LEAST",
    "REGISTERS",
    "dependency_bound",
    "dependency_features",
    "least_measured",
    "lower_bound",
    "registers_written",
    "unit_bound",
]
