"""x86-64 assembly as text: read into instructions of one spelling, functions, basic blocks and loops.

`parse_assembly` reads what compilers, disassemblers and people write: Intel and AT&T syntax, labels, directives, comments,
listings of objdump. Instructions come out in the spelling of the blocks that the weights are trained on. Control flow gives
basic blocks and natural loops with their line ranges and, where the text shows that they are constant, trip counts.
"""

import math
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from .errors_rlm import InputError
from .x86_rlm import REGISTERS, registers_written

# ---- names of the architecture

_MOST_LINE = 512  # characters of one instruction; a longer one is none
_MOST_INSTRUCTIONS_READ = 400_000

_CONDITIONS = {
    "z": "e", "nz": "ne", "c": "b", "nae": "b", "nc": "ae", "nb": "ae", "na": "be", "nbe": "a", "nge": "l", "nl": "ge",
    "ng": "le", "nle": "g", "pe": "p", "po": "np",
}  # fmt: skip
_CONDITIONS.update({name: name for name in "o no b ae e ne be a s ns p np l ge le g".split()})
_STRING = {f"{name}{size}" for name in ("movs", "cmps", "stos", "lods", "scas", "ins", "outs") for size in "bwdq"}
_GENERAL = frozenset(
    """adc adcx add adox and andn bextr blsi blsmsk blsr bsf bsr bswap bt btc btr bts bzhi call cbw cdq cdqe clac clc cld
    cldemote clflush clflushopt cli clts clwb clzero cmc cmp cmpxchg cmpxchg16b cmpxchg8b cpuid cqo crc32 cwd cwde dec div
    emms endbr32 endbr64 enter femms fwait hlt idiv imul in inc incsspd incsspq int int1 int3 invd invlpg invpcid iret iretd
    iretq jecxz jmp jrcxz lahf lar ldmxcsr lea leave lfence lgdt lidt lldt lmsw loop loope loopne lsl ltr lzcnt mfence monitor
    monitorx mov movabs movbe movdir64b movdiri movnti movsx movsxd movzx mul mulx mwait mwaitx neg nop not or out pause pdep
    pext pop popcnt popf popfq prefetch prefetchnta prefetcht0 prefetcht1 prefetcht2 prefetchw prefetchwt1 push pushf pushfq
    rcl rcr rdfsbase rdgsbase rdmsr rdpid rdpkru rdpmc rdpru rdrand rdseed rdsspd rdsspq rdtsc rdtscp ret retf rol ror rorx
    rsm sahf sar sarx sbb serialize sfence sgdt shl shld shlx shr shrd shrx sidt sldt smsw stac stc std sti stmxcsr str sub
    swapgs syscall sysenter sysexit sysret test tpause tzcnt ud0 ud1 ud2 umonitor umwait verr verw wait wbinvd wrfsbase
    wrgsbase wrmsr wrpkru xabort xadd xbegin xchg xend xgetbv xlatb xor xrstor xrstor64 xsave xsave64 xsavec xsavec64 xsaveopt
    xsaveopt64 xsetbv xtest""".split()
) | {f"{stem}{condition}" for stem in ("j", "set", "cmov") for condition in _CONDITIONS.values()} | _STRING  # fmt: skip
_X87 = frozenset(
    """f2xm1 fabs fadd faddp fbld fbstp fchs fclex fcmovb fcmovbe fcmove fcmovnb fcmovnbe fcmovne fcmovnu fcmovu fcom fcomi
    fcomp fcompi fcompp fcos fdecstp fdiv fdivp fdivr fdivrp ffree fiadd ficom ficomp fidiv fidivr fild fimul fincstp finit
    fist fistp fisttp fisub fisubr fld fld1 fldcw fldenv fldl2e fldl2t fldlg2 fldln2 fldpi fldz fmul fmulp fnclex fninit fnop
    fnsave fnstcw fnstenv fnstsw fpatan fprem fprem1 fptan frndint frstor fsave fscale fsin fsincos fsqrt fst fstcw fstenv
    fstp fstsw fsub fsubp fsubr fsubrp ftst fucom fucomi fucomp fucompi fucompp fxam fxch fxrstor fxrstor64 fxsave fxsave64
    fxtract fyl2x fyl2xp1""".split()
)  # fmt: skip
_FLOAT_COMPARISONS = (
    "eq lt le unord neq nlt nle ord eq_uq nge ngt false neq_oq ge gt true eq_os lt_oq le_oq unord_s neq_us nlt_uq nle_uq "
    "ord_s eq_us nge_uq ngt_uq false_os neq_os ge_oq gt_oq true_us"
).split()
_TYPES = ("ps", "pd", "ss", "sd")
_VECTOR = frozenset(
    """addsubpd addsubps aesdec aesdeclast aesenc aesenclast aesimc aeskeygenassist andnpd andnps andpd andps blendpd blendps
    blendvpd blendvps comisd comiss cvtdq2pd cvtdq2ps cvtpd2dq cvtpd2pi cvtpd2ps cvtpi2pd cvtpi2ps cvtps2dq cvtps2pd cvtps2pi
    cvtsd2si cvtsd2ss cvtsi2sd cvtsi2ss cvtss2sd cvtss2si cvttpd2dq cvttpd2pi cvttps2dq cvttps2pi cvttsd2si cvttss2si dppd
    dpps extractps extrq gf2p8affineinvqb gf2p8affineqb gf2p8mulb haddpd haddps hsubpd hsubps insertps insertq lddqu
    maskmovdqu maskmovq movapd movaps movd movddup movdq2q movdqa movdqu movhlps movhpd movhps movlhps movlpd movlps movmskpd
    movmskps movntdq movntdqa movntpd movntps movntq movntsd movntss movq movq2dq movsd movshdup movsldup movss movupd movups
    mpsadbw orpd orps pabsb pabsd pabsw packssdw packsswb packusdw packuswb paddb paddd paddq paddsb paddsw paddusb paddusw
    paddw palignr pand pandn pavgb pavgw pblendvb pblendw pclmulhqhqdq pclmulhqlqdq pclmullqhqdq pclmullqlqdq pclmulqdq
    pcmpeqb pcmpeqd pcmpeqq pcmpeqw pcmpestri pcmpestrm pcmpgtb pcmpgtd pcmpgtq pcmpgtw pcmpistri pcmpistrm pextrb pextrd
    pextrq pextrw phaddd phaddsw phaddw phminposuw phsubd phsubsw phsubw pinsrb pinsrd pinsrq pinsrw pmaddubsw pmaddwd pmaxsb
    pmaxsd pmaxsw pmaxub pmaxud pmaxuw pminsb pminsd pminsw pminub pminud pminuw pmovmskb pmovsxbd pmovsxbq pmovsxbw pmovsxdq
    pmovsxwd pmovsxwq pmovzxbd pmovzxbq pmovzxbw pmovzxdq pmovzxwd pmovzxwq pmuldq pmulhrsw pmulhuw pmulhw pmulld pmullw
    pmuludq por psadbw pshufb pshufd pshufhw pshuflw pshufw psignb psignd psignw pslld pslldq psllq psllw psrad psraw psrld
    psrldq psrlq psrlw psubb psubd psubq psubsb psubsw psubusb psubusw psubw ptest punpckhbw punpckhdq punpckhqdq punpckhwd
    punpcklbw punpckldq punpcklqdq punpcklwd pxor rcpps rcpss roundpd roundps roundsd roundss rsqrtps rsqrtss sha1msg1 sha1msg2
    sha1nexte sha1rnds4 sha256msg1 sha256msg2 sha256rnds2 shufpd shufps sqrtpd sqrtps sqrtsd sqrtss ucomisd ucomiss unpckhpd
    unpckhps unpcklpd unpcklps xorpd xorps""".split()
) | {f"{name}{kind}" for name in ("add", "sub", "mul", "div", "min", "max") for kind in _TYPES} | {
    f"cmp{predicate}{kind}" for predicate in ("", *_FLOAT_COMPARISONS[:8]) for kind in _TYPES
}  # fmt: skip
_VEX = re.compile(r"v[a-z][a-z0-9_]{2,23}|k(?:add|andn?|mov|not|or|ortest|shift[lr]|test|unpck|xnor|xor)[bwdq]{1,2}")
_ALIASES = {
    "sal": "shl", "salx": "shlx", "repz": "rep", "retn": "ret", "retq": "ret", "fwait": "wait", "movsxb": "movsx",
    "fstcw": "fnstcw", "fstsw": "fnstsw",
    "fcomip": "fcompi", "fucomip": "fucompi", "loopz": "loope", "loopnz": "loopne", "xlat": "xlatb", "pushfd": "pushfq",
    "popfd": "popfq", "pushf": "pushfq", "popf": "popfq", "setpe": "setp", "int03": "int3", "icebp": "int1", "ud2a": "ud2",
}  # fmt: skip
for _stem in ("j", "set", "cmov"):
    _ALIASES.update({f"{_stem}{alias}": f"{_stem}{name}" for alias, name in _CONDITIONS.items() if alias != name})
_PREFIXES = frozenset(
    """lock rep repe repz repne repnz notrack bnd data16 data32 addr32 addr64 xacquire xrelease cs ds es fs gs ss rex rex.w
    rex64 {vex} {vex2} {vex3} {evex} {load} {store} {disp8} {disp32} {nooptimize}""".split()
)
_SIZES = {
    "byte": 8, "word": 16, "dword": 32, "qword": 64, "xword": 80, "tbyte": 80, "tword": 80, "xmmword": 128, "oword": 128,
    "ymmword": 256, "yword": 256, "zmmword": 512, "zword": 512, "mmword": 64, "real4": 32, "real8": 64, "real10": 80,
    "fword": 48, "sbyte": 8, "sword": 16, "sdword": 32, "sqword": 64,
}  # fmt: skip
_SIZE_NAMES = {
    8: "byte",
    16: "word",
    32: "dword",
    64: "qword",
    80: "xword",
    128: "xmmword",
    256: "ymmword",
    512: "zmmword",
}
_DISTANCES = frozenset(("short", "near", "far", "offset", "rel", "abs", "nosplit", "strict", "to"))
_SEGMENTS = frozenset(("cs", "ds", "es", "fs", "gs", "ss"))


def _register_widths() -> dict[str, int]:
    """Bits of every register that an operand can name."""
    widths = {"rip": 64, "eip": 32, "st": 80, "rflags": 64}
    for letter in "abcd":
        widths.update({f"r{letter}x": 64, f"e{letter}x": 32, f"{letter}x": 16, f"{letter}l": 8, f"{letter}h": 8})
    for name in ("si", "di", "bp", "sp"):
        widths.update({f"r{name}": 64, f"e{name}": 32, name: 16, f"{name}l": 8})
    for number in range(8, 16):
        widths.update({f"r{number}": 64, f"r{number}d": 32, f"r{number}w": 16, f"r{number}b": 8})
    for number in range(32):
        widths.update({f"xmm{number}": 128, f"ymm{number}": 256, f"zmm{number}": 512})
    for number in range(8):
        widths.update({f"mm{number}": 64, f"k{number}": 64, f"st({number})": 80, f"bnd{number}": 128})
    for number in range(16):
        widths.update({f"cr{number}": 64, f"dr{number}": 64})
    return widths | dict.fromkeys(_SEGMENTS, 16)


_WIDTHS = _register_widths()
_REGISTER_ALIASES = {f"r{number}l": f"r{number}b" for number in range(8, 16)} | {"st": "st(0)"}
_GENERAL_REGISTER = re.compile(r"r\d+[dwb]?|[re]?[a-d]x|[a-d][lh]|[re]?(?:si|di|bp|sp)|(?:si|di|bp|sp)l")
_VECTOR_REGISTER = re.compile(r"[xyz]?mm\d+|k\d")


# ---------------------------------------------------------------------------------------------------------- one instruction


class NotAssembly(ValueError):
    """A line is no x86 instruction; the message says why. `parse_assembly` turns it into an `InputError`."""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        line: Its line in the source, from 1.
        text: Intel syntax as the weights are trained on it: lower case, `qword ptr [rax + rcx*8 - 0x10]`, numbers from 10
            on in hexadecimal.
        name: The mnemonic without prefixes.
        operands: The operands, as in `text`.
        target: Of a jump or call: the label, address (`0x401136`) or operand that it goes to; else empty.
    """

    line: int
    text: str
    name: str
    operands: tuple[str, ...] = ()
    target: str = ""

    @property
    def is_jump(self) -> bool:
        """Whether it is a jump, conditional or not."""
        return self.name[0] == "j" or self.name in ("loop", "loope", "loopne")

    @property
    def is_branch(self) -> bool:
        """Whether it is a jump that may not be taken."""
        return self.is_jump and self.name != "jmp"

    @property
    def is_exit(self) -> bool:
        """Whether control does not come back behind it."""
        return self.name in ("jmp", "ret", "retf", "iretq", "iretd", "iret", "hlt", "ud2", "sysret", "sysexit")

    @property
    def is_control(self) -> bool:
        """Whether it ends or leaves a basic block; the training blocks hold none of these."""
        return self.is_jump or self.is_exit or self.name == "call"


@dataclass(frozen=True)
class _Operand:
    """One operand.

    Attributes:
        kind: "register", "memory", "number", "symbol" (a label, or the address of one).
        text: Register or symbol; of memory its address as it is printed.
        number: Of a number.
        bits: Width of a register, of memory where it is known, else 0.
        segment: Of memory, "" without.
        mask: `{k1}{z}`, `{1to8}`, `{rn-sae}`.
    """

    kind: str
    text: str
    number: int = 0
    bits: int = 0
    segment: str = ""
    mask: str = ""


class _Symbols:
    """Addresses that stand for names: a training block holds numbers alone. The same name is the same number."""

    def __init__(self) -> None:
        self._addresses: dict[str, int] = {}

    def address(self, name: str) -> int:
        """Returns the number of a name, from 0x2000 on, 0x100 apart."""
        return self._addresses.setdefault(name, 0x2000 + 0x100 * len(self._addresses))


def _number_text(number: int) -> str:
    """A number as the training blocks print it: decimal below 10, else hexadecimal."""
    return str(number) if -10 < number < 10 else hex(number)


_NUMBER = re.compile(
    r"0x(?P<c>[0-9a-f_]+)h?|0b(?P<b>[01_]+)|0o(?P<o>[0-7_]+)|(?P<masm>[0-9][0-9a-f]*)h|(?P<bits>[01]+)b|(?P<d>[0-9][0-9_]*)[du]?l*"
)


def _number(word: str) -> int | None:
    """Reads a number as assemblers write it: 16, 0x10, 10h, 0b1, 1b, 'a'; None for anything else."""
    found = _NUMBER.fullmatch(word) if len(word) < 80 else None
    if found is None:
        return ord(word[1]) if len(word) == 3 and word[0] == word[2] == "'" else None
    bases = {"c": 16, "masm": 16, "b": 2, "bits": 2, "o": 8, "d": 10}
    kind = found.lastgroup or "d"
    digits = found[kind].replace("_", "")
    if kind == "d" and len(digits) > 1 and digits[0] == "0" and set(digits) <= set("01234567"):
        return int(digits, 8)
    return int(digits, bases[kind]) if digits else None


_TERM = re.compile(r"\s*([+\-*])?\s*('.'|[\w.$@?%!\"~]+(?:\([0-7]\))?|\([^()]*\))\s*")


def _terms(expression: str) -> Iterator[tuple[int, list[str]]]:
    """The terms of a sum as (sign, factors), such as `rax`, `4*rcx` and `-8` of `rax+4*rcx-8`.

    Raises:
        NotAssembly: No sum.
    """
    sign, position = 1, 0
    factors: list[str] = []
    while position < len(expression):
        found = _TERM.match(expression, position)
        if found is None or (found[1] is None and factors) or (found[1] == "*" and not factors):
            raise NotAssembly(f"{expression.strip()!r} is no operand")
        operator, word = found[1] or "+", found[2]
        if operator == "*":
            factors.append(word)
        else:
            if factors:
                yield sign, factors
            sign, factors = (-1 if operator == "-" else 1), [word]
        position = found.end()
    if factors:
        yield sign, factors


@dataclass
class _Address:
    """A sum of registers, names and numbers."""

    base: str = ""
    index: str = ""
    scale: int = 1
    offset: int = 0
    symbol: str = ""

    def add(self, expression: str, *, strict: bool = True) -> None:
        """Adds a sum.

        Raises:
            NotAssembly: More registers or names than an address has, or a word that is none.
        """
        for sign, factors in _terms(expression):
            words = [_REGISTER_ALIASES.get(f, f) for f in (factor.lstrip("%") for factor in factors)]
            registers = [word for word in words if word in _WIDTHS]
            numbers = [_number(word.strip("()")) for word in words if word not in _WIDTHS]
            if registers and sign > 0 and len(registers) == 1 and None not in numbers:
                self._add_register(registers[0], math.prod(n for n in numbers if n is not None))
            elif not registers and None not in numbers:
                self.offset += sign * math.prod(n for n in numbers if n is not None)
            elif not registers and len(words) == 1 and _SYMBOL.fullmatch(factors[0]):
                self._add_symbol(factors[0], sign)
            else:
                raise NotAssembly(f"{expression.strip()!r} is no {'address' if strict else 'operand'}")

    def _add_register(self, name: str, scale: int) -> None:
        may_stand = _GENERAL_REGISTER.fullmatch(name) or name in ("rip", "eip") or name[1:3] == "mm"
        if scale not in (1, 2, 4, 8) or not may_stand:
            raise NotAssembly(f"{name}*{scale} is no part of an address")
        if scale == 1 and not self.base and name[1:3] != "mm":
            self.base = name
        elif not self.index:
            self.index, self.scale = name, scale
        elif scale == 1 and self.scale == 1 and not self.base:
            self.base = name
        else:
            raise NotAssembly("an address has at most two registers")

    def _add_symbol(self, name: str, sign: int) -> None:
        if sign < 0 or name in ("$", "."):  # the distance of two names: known to the assembler alone
            self.symbol = f"{self.symbol}-{name}"
        elif self.symbol:
            raise NotAssembly("an address has at most one name")
        else:
            self.symbol = name

    def text(self, symbols: _Symbols) -> str:
        """The address as the training blocks print it."""
        offset = self.offset + (symbols.address(self.symbol) if self.symbol else 0)
        if offset >= 1 << 63:
            offset -= 1 << 64
        if abs(offset) >= 1 << 64:
            raise NotAssembly(f"{offset:#x} is no offset of an address")
        if self.index in ("rsp", "esp") and self.scale == 1:
            self.base, self.index = self.index, self.base
        parts = [self.base] if self.base else []
        if self.index:
            parts.append(self.index + (f"*{self.scale}" if self.scale > 1 or not self.base else ""))
        if not parts:
            return _number_text(offset)
        if offset:
            return f"{' + '.join(parts)} {'-' if offset < 0 else '+'} {_number_text(abs(offset))}"
        return " + ".join(parts)


_SYMBOL = re.compile(r"[a-z_.$@?\"~!][\w.$@?\"~!]*|\d+[bf]|\d[\w.$@]*[a-z_$]")
_MASK = re.compile(r"\{[^{}]{1,12}\}")


def _split_operands(text: str) -> list[str]:
    """The operands of an instruction; commas inside brackets separate nothing."""
    if "," not in text:
        return [text] if text else []
    if not any(c in text for c in "([{'"):
        return [part.strip() for part in text.split(",")]
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth <= 0 and text[position - 1 : position + 2] != "','":
            parts.append(text[start:position].strip())
            start = position + 1
    return [*parts, text[start:].strip()]


def _intel_operand(text: str, symbols: _Symbols) -> _Operand:
    """Reads an operand in the syntax of Intel: that of MASM, NASM, gas and objdump."""
    mask = "".join(_MASK.findall(text)) if "{" in text else ""
    rest = _MASK.sub("", text).strip() if mask else text
    bits, is_pointer, is_offset = 0, False, False
    while True:  # the words before an operand, such as `dword ptr`, `offset flat:`
        word, _, after = rest.partition(" ")
        if word in _SIZES and after:
            bits, rest = _SIZES[word], after.lstrip()
        elif word == "ptr" and after and bits:
            is_pointer, rest = True, after.lstrip()
        elif rest.startswith(("ptr[", "ptr [")) and bits:
            is_pointer, rest = True, rest[3:].lstrip()
        elif word.partition("[")[0] in _SIZES and "[" in word:
            name = word.partition("[")[0]
            bits, rest = _SIZES[name], rest[len(name) :]
        elif word in _DISTANCES and after:
            is_offset, rest = is_offset or word == "offset", after.lstrip()
        elif word.startswith("flat:"):
            rest = rest[5:].lstrip()
        else:
            break
    name = _REGISTER_ALIASES.get(rest.lstrip("%"), rest.lstrip("%"))
    if name in _WIDTHS:
        return _Operand("register", name, bits=_WIDTHS[name], mask=mask)
    if (number := _number(rest)) is not None and not is_pointer:
        return _Operand("number", "", number, bits, mask=mask)
    if rest[:1] in "+-~" and (number := _number(rest[1:].strip())) is not None and not is_pointer:
        return _Operand("number", "", {"-": -number, "~": ~number}.get(rest[0], number), bits)
    segment = ""
    if rest[2:3] == ":" and rest[:2] in _SEGMENTS:
        segment, rest, is_pointer = rest[:2], rest[3:].lstrip(), True
    if "[" not in rest:
        address = _Address()
        address.add(rest, strict=False)
        if address.base or address.index:
            raise NotAssembly(f"{text!r} is no operand")
        if is_pointer or (bits and address.symbol and not is_offset):
            return _Operand("memory", address.text(symbols), bits=bits, segment=segment, mask=mask)
        if address.symbol:
            return _Operand("symbol", rest, symbols.address(rest) if is_offset else 0, mask=mask)
        return _Operand("number", "", address.offset, bits)
    return _bracketed(text, rest, bits, segment, mask, symbols)


def _bracketed(text: str, rest: str, bits: int, segment: str, mask: str, symbols: _Symbols) -> _Operand:
    """Reads memory with brackets: `[rax + 8]`, gcc's `-8[rdi]` and `table[rax*4]`, MASM's `[rax][rcx]`."""
    address = _Address()
    outside = rest
    while "[" in outside:
        before, _, after = outside.partition("[")
        inside, closed, outside = after.partition("]")
        if not closed:
            raise NotAssembly(f"{text!r} has no closing bracket")
        for name in ("rel ", "abs ", "nosplit ", "byte ", "word ", "dword ", "qword "):
            if inside.startswith(name):
                if name == "rel ":
                    address.base = "rip"
                inside = inside[len(name) :].lstrip()
        if inside[2:3] == ":" and inside[:2] in _SEGMENTS:
            segment, inside = inside[:2], inside[3:]
        if before.strip():
            address.add(before)
        if not inside.strip():
            raise NotAssembly(f"{text!r} has nothing between its brackets")
        if address.base == "rip" and any(word.strip() in _WIDTHS for word in inside.replace("-", "+").split("+")):
            address.base = ""  # NASM: `rel` holds for addresses without registers alone
        address.add(inside)
    if outside.strip():
        address.add(outside)
    return _Operand("memory", address.text(symbols), bits=bits, segment=segment, mask=mask)


def _att_operand(text: str, symbols: _Symbols, is_target: bool) -> _Operand:
    """Reads an operand in the syntax of AT&T: `%rax`, `$8`, `-8(%rdi,%rcx,4)`, `*%rax`."""
    mask = "".join(_MASK.findall(text)).replace("%", "") if "{" in text else ""
    rest = _MASK.sub("", text).strip() if mask else text
    indirect = rest.startswith("*")
    rest = rest[1:].lstrip() if indirect else rest
    if rest.startswith("%"):
        name = _REGISTER_ALIASES.get(rest[1:], rest[1:])
        if name in _WIDTHS:
            return _Operand("register", name, bits=_WIDTHS[name], mask=mask)
    if mask and not rest:
        return _Operand("number", "", mask=mask)
    if rest.startswith("$"):
        address = _Address()
        address.add(rest[1:], strict=False)
        if address.base or address.index:
            raise NotAssembly(f"{text!r} is no operand")
        if address.symbol:
            return _Operand("symbol", rest[1:], symbols.address(rest[1:]))
        return _Operand("number", "", address.offset)
    segment = ""
    if rest[:1] == "%" and rest[3:4] == ":" and rest[1:3] in _SEGMENTS:
        segment, rest = rest[1:3], rest[4:].lstrip()
    displacement, bracket, inside = rest.partition("(") if rest.endswith(")") else (rest, "", "")
    if is_target and not indirect and not bracket:
        number = _number(rest)
        return _Operand("symbol", rest) if number is None else _Operand("number", "", number)
    address = _Address()
    if displacement.strip():
        address.add(displacement)
        if address.base or address.index:
            raise NotAssembly(f"{text!r} is no operand")
    if bracket:
        base, index, scale, *more = [part.strip() for part in inside[:-1].split(",")] + ["", "", ""]
        if any(more) or any(part and part[0] != "%" for part in (base, index)):
            raise NotAssembly(f"{text!r} is no address")
        if base:
            address.add(base)
        if index and index not in ("%eiz", "%riz"):
            address.add(f"{index}*{scale or 1}")
            if not base and (scale or "1") == "1":  # an index alone stays one, with its scale
                address.base, address.index, address.scale = "", address.base, 1
    return _Operand("memory", address.text(symbols), segment=segment, mask=mask)


_ATT_NAMES = {
    "cltq": "cdqe", "cltd": "cdq", "cqto": "cqo", "cwtl": "cwde", "cbtw": "cbw", "cwtd": "cwd", "movsb": "movsb",
    "movslq": "movsxd", "ljmp": "jmp", "lcall": "call", "lret": "retf", "movsl": "movsd", "stosl": "stosd", "lodsl": "lodsd",
    "cmpsl": "cmpsd", "scasl": "scasd", "insl": "insd", "outsl": "outsd",
}  # fmt: skip
_ATT_BITS = {"b": 8, "w": 16, "l": 32, "q": 64}
_SCALAR_CONVERSION = re.compile(r"v?cvt(?:u?si2s[sd]|t?s[sd]2u?si)[lq]")
_EXTENSION = re.compile(r"mov([sz])([bwl])([wlq])")
_X87_SUFFIX = {
    "s": 32, "l": 64, "t": 80, "ll": 64, "q": 64,
}  # fmt: skip
_X87_INTEGER_SUFFIX = {"s": 16, "l": 32, "ll": 64, "q": 64}
_REVERSED = {
    "fsub": "fsubr", "fsubr": "fsub", "fdiv": "fdivr", "fdivr": "fdiv", "fsubp": "fsubrp", "fsubrp": "fsubp",
    "fdivp": "fdivrp", "fdivrp": "fdivp",
}  # fmt: skip


def _is_name(name: str) -> bool:
    return name in _GENERAL or name in _VECTOR or name in _X87 or _VEX.fullmatch(name) is not None


def _att_name(name: str, operands: Sequence[_Operand]) -> tuple[str, int]:
    """An AT&T mnemonic as Intel's, and the bits that its suffix says of an operand in memory (0: it says none)."""
    registers = [operand.text for operand in operands if operand.kind == "register"]
    has_vector = any(_VECTOR_REGISTER.fullmatch(register) for register in registers)
    if (found := _EXTENSION.fullmatch(name)) and operands:
        bits = _ATT_BITS[found[2]]
        return ("movsxd" if bits == 32 else f"mov{found[1]}x"), bits
    if name in _ATT_NAMES and not (name == "movsl" and operands):
        return _ATT_NAMES[name], 0
    if name == "movq" and not has_vector:
        return "mov", 64
    if name[0] == "f" and (found_name := _att_x87_name(name, operands)):
        return found_name
    name = _ALIASES.get(name, name)
    if name in ("movsd", "cmpsd") and (has_vector or operands):
        return name, 0
    if _SCALAR_CONVERSION.fullmatch(name):
        return name[:-1], _ATT_BITS[name[-1]]
    if _is_name(name) and not (name in _STRING and has_vector):
        return name, 0
    if name[:-1] in ("vcvtpd2ps", "vcvtpd2dq", "vcvttpd2dq", "vcvtqq2ps", "vcvtuqq2ps", "vcvtpd2udq", "vcvttpd2udq"):
        return name[:-1], {"x": 128, "y": 256, "z": 512}.get(name[-1], 0)
    stem = _ALIASES.get(name[:-1], name[:-1])
    if name[-1:] in _ATT_BITS and (stem in _GENERAL or ("cvt" in stem and stem in _VECTOR)):
        return stem, _ATT_BITS[name[-1]]
    return name, 0


def _att_x87_name(name: str, operands: Sequence[_Operand]) -> tuple[str, int] | None:
    """An AT&T mnemonic of the x87 unit, None if it is none."""
    if operands and operands[0].kind == "memory" and name not in _X87:
        for length in (2, 1):
            stem, suffix = name[:-length], name[-length:]
            sizes = _X87_INTEGER_SUFFIX if stem.startswith("fi") else _X87_SUFFIX
            if stem in _X87 and suffix in sizes:
                return stem, sizes[suffix]
    name = _ALIASES.get(name, name)
    if name not in _X87:
        return None
    if operands and operands[0].kind == "memory" and name[:3] in ("fld", "fst", "fad", "fsu", "fmu", "fdi", "fco"):
        return name, 0 if name in ("fldcw", "fstcw", "fldenv", "fstenv", "fstsw") else 32  # gas: without a suffix `s`
    # gas and objdump exchange these where st(0) is subtracted from or divided by another register.
    to_other = name.endswith("p") or (len(operands) == 2 and operands[1].text != "st(0)")
    return (_REVERSED[name] if name in _REVERSED and to_other else name), 0


_NUMBERED_LABEL = re.compile(r"\d+[bf]")


def _read_operands(rest: str, name: str, att: bool, symbols: _Symbols) -> list[_Operand]:
    """The operands of an instruction in Intel's order."""
    parts = _split_operands(rest)
    if len(parts) > 6 or not all(parts):
        raise NotAssembly(f"{rest!r} are no operands")
    is_target = name[:1] == "j" or name.startswith(("call", "loop", "xbegin"))
    if is_target and len(parts) == 1 and _NUMBERED_LABEL.fullmatch(parts[0]):
        return [_Operand("symbol", parts[0])]
    if not att:
        return [_intel_operand(part, symbols) for part in parts]
    operands = [_att_operand(part, symbols, is_target) for part in parts]
    return operands if name in ("enter", "bound") else operands[::-1]


_WHOLE_VECTOR = frozenset(("xmmword", "ymmword", "zmmword"))
_ELEMENT_BITS = {"b": 8, "w": 16, "d": 32, "q": 64, "s": 32}
_MEMORY_BITS = (  # of instructions whose operand in memory is not as wide as their registers
    (re.compile(r"v?(pinsr|pextr|pbroadcast)([bwdq])"), 2),
    (re.compile(r"v?broadcasts([sd])"), 1),
)
_HALF = re.compile(
    r"v?cvt(?:ps2pd|dq2pd|udq2pd|ps2qq|ps2uqq|tps2qq|tps2uqq|ph2ps)|v?pmov[sz]x(?:bw|wd|dq)|vpmov(?:s|us)?(?:wb|dw|qd)|vcvtps2ph"
)
_QUARTER = re.compile(r"v?pmov[sz]x(?:bd|wq)|vpmov(?:s|us)?(?:db|qw)")
_SCALAR = re.compile(r"v?\w+(s[sd])|v?cvtt?(s[sd])2u?si")
_FIXED_BITS = {
    "movd": 32, "movq": 64, "movlps": 64, "movlpd": 64, "movhps": 64, "movhpd": 64, "insertps": 32, "extractps": 32,
    "movntss": 32, "movntsd": 64, "cvtsi2sd": 32, "cvtsi2ss": 32, "cvtusi2sd": 32, "cvtusi2ss": 32, "cvtss2sd": 32,
    "cvtsd2ss": 64, "cvtss2si": 32, "cvttss2si": 32, "cvtsd2si": 64, "cvttsd2si": 64, "ldmxcsr": 32, "stmxcsr": 32,
    "fldcw": 16, "fnstcw": 16, "fstcw": 16, "fnstsw": 16, "fstsw": 16, "cmpxchg8b": 64, "cmpxchg16b": 128, "call": 64,
    "jmp": 64, "push": 64, "pop": 64, "movsxd": 32, "insertf128": 128, "inserti128": 128, "extractf128": 128,
    "extracti128": 128, "broadcastf128": 128, "broadcasti128": 128, "pclmulqdq": 128, "movntq": 64, "aeskeygenassist": 128,
    "clflush": 8, "clflushopt": 8, "clwb": 8, "clzero": 8, "fld": 0, "cvtpi2ps": 64, "cvtpi2pd": 64, "movbe": 0,
}  # fmt: skip


def _memory_bits(name: str, operands: Sequence[_Operand]) -> int:
    """The width of an operand in memory that is written without one, 0 where the instruction leaves it open."""
    stem = name[1:] if name[:1] == "v" and name[1:] in _FIXED_BITS else name
    registers = [operand for operand in operands if operand.kind == "register"]
    if name[:3] == "set" or name.startswith("prefetch"):
        return 8
    if stem in _FIXED_BITS:
        return _FIXED_BITS[stem]
    for pattern, group in _MEMORY_BITS:
        if found := pattern.fullmatch(name):
            return 64 if pattern is _MEMORY_BITS[1][0] and found[group] == "d" else _ELEMENT_BITS[found[group]]
    vectors = [r.bits for r in registers if _VECTOR_REGISTER.fullmatch(r.text) and r.text[0] != "k"]
    if vectors:
        width = max(vectors)
        if name.endswith("movddup"):
            return 64 if width == 128 else width
        if _HALF.fullmatch(name):
            return width // 2
        if _QUARTER.fullmatch(name):
            return width // 4
        if (found := _SCALAR.fullmatch(name)) and not name.startswith(("vp", "p")):
            return 32 if (found[1] or found[2]) == "ss" else 64
        return width
    general = [r.bits for r in registers if _GENERAL_REGISTER.fullmatch(r.text)]
    if not general or (name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr") and registers[0].text == "cl"):
        return 0
    return 0 if name in ("movsx", "movzx", "in", "out", "lea", "crc32") else general[0]


_UNSIGNED = frozenset(("and", "or", "xor", "mov", "movabs"))


def _immediate_text(name: str, number: int, bits: int) -> str:
    """An immediate as the training blocks print it: which sign depends on the instruction and how it is encoded."""
    if not -(1 << 64) < number < 1 << 64:
        raise NotAssembly(f"{number:#x} does not fit into 64 bits")
    if bits not in (8, 16, 32, 64):
        return _number_text(number)
    unsigned = number % (1 << bits)
    signed = unsigned - (1 << bits) if unsigned >> (bits - 1) else unsigned
    if name in _UNSIGNED or bits == 8:
        return _number_text(unsigned)
    if bits < 64 and (signed < -128 or name == "test"):
        return _number_text(unsigned)
    return _number_text(signed)


def _with_size(operand: _Operand, name: str, bits: int) -> str:
    """An operand in memory with its size in front."""
    size = "" if name == "lea" or name.startswith("nop ") else _SIZE_NAMES.get(bits, "")
    keep = operand.segment in ("fs", "gs") or (operand.segment == "cs" and name == "nop")
    segment = f"{operand.segment}:" if keep else ""
    return f"{size + ' ptr ' if size else ''}{segment}[{operand.text}]{operand.mask}"


def _canonical(name: str, operands: list[_Operand], bits: int) -> tuple[str, list[str]]:
    """Mnemonic and operands as the training blocks print them.

    Args:
        name: Intel's mnemonic.
        operands: In Intel's order.
        bits: Of the operand in memory where a suffix said so, else 0.
    """
    hint = next((o.bits for o in operands if o.kind == "number" and o.bits), 0)  # NASM: `mov [rax], dword 1`
    inferred = bits or hint or _memory_bits(name, operands)
    widths = [o.bits or (inferred if o.kind == "memory" else 0) for o in operands]
    if name in ("test", "xchg") and len(operands) == 2 and operands[1].kind == "memory":
        operands, widths = operands[::-1], widths[::-1]
    texts = []
    for operand, width in zip(operands, widths, strict=True):
        if operand.kind == "memory":
            texts.append(_with_size(operand, name, width))
        elif operand.kind == "number" and operand.mask and operand.text == "":
            texts.append(operand.mask)
        elif operand.kind == "number":
            wide = next((w for o, w in zip(operands, widths, strict=True) if o.kind != "number" and w), 0)
            texts.append(_immediate_text(name, operand.number, wide if name in _SIGNED_BY_WIDTH else 0))
        elif operand.kind == "symbol" and operand.number:
            texts.append(_number_text(operand.number))
        else:
            texts.append(operand.text + operand.mask)
    return _short_forms(name, operands, texts)


_SIGNED_BY_WIDTH = frozenset("adc add and cmp imul mov movabs or sbb sub test xor".split())
_X87_ARITHMETIC = frozenset(
    "fadd fsub fsubr fmul fdiv fdivr fcom fcomp fucom fucomp fcomi fucomi fcompi fucompi fxch".split()
)
_X87_POPPING = frozenset("faddp fmulp fsubp fsubrp fdivp fdivrp".split())
_COMPARE = re.compile(r"(v?)cmp([ps][sd])")


def _short_forms(name: str, operands: list[_Operand], texts: list[str]) -> tuple[str, list[str]]:
    """The one spelling of instructions that have several."""
    if name in ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr") and len(texts) == 1:
        return name, [*texts, "1"]
    if name == "movsx" and len(texts) == 2 and (operands[1].bits == 32 or texts[1].startswith("dword ")):
        return "movsxd", texts
    if name == "imul" and len(texts) == 2 and operands[1].kind == "number":
        return name, [texts[0], *texts]
    if name == "mov" and len(texts) == 2 and operands[1].kind == "number" and operands[0].bits == 64:
        number = operands[1].number
        is_long = operands[0].kind == "register" and not -(1 << 31) <= number < 1 << 32
        is_long = is_long and not (1 << 64) - (1 << 31) <= number
        return ("movabs" if is_long else name), texts
    if name == "xchg" and texts in (["ax", "ax"], ["rax", "rax"]):
        return "nop", []
    if name in _STRING and operands and not any(operand.bits >= 128 for operand in operands):
        return name, []
    if name[0] == "f" and name in _X87:
        return name, _x87_operands(name, texts)
    found = _COMPARE.fullmatch(name) if texts else None
    if found and operands[-1].kind == "number" and 0 <= operands[-1].number < (32 if found[1] else 8):
        return f"{found[1]}cmp{_FLOAT_COMPARISONS[operands[-1].number]}{found[2]}", texts[:-1]
    return name, texts


def _x87_operands(name: str, texts: list[str]) -> list[str]:
    """Operands of an instruction of the x87 unit: st(0) as the first one, or as what a popping one reads, is not printed."""
    if name in _X87_ARITHMETIC and len(texts) == 2 and texts[0] == "st(0)":
        return texts[1:]
    if name in _X87_POPPING:
        return texts[:1] if len(texts) == 2 else texts or ["st(1)"]
    if name in ("fxch", "fucomi", "fucompi", "fcomi", "fcompi", "fucom", "fucomp", "fcom", "fcomp") and not texts:
        return ["st(1)"]
    return texts


_MNEMONIC = re.compile(r"\s*([a-z{][a-z0-9_.{}]*)\s*")


def _instruction(text: str, line: int, att: bool, symbols: _Symbols) -> Instruction | None:
    """Reads one instruction, in lower case, without label and comment; None for a prefix alone (`rep;`).

    Raises:
        NotAssembly: It is none.
    """
    if len(text) > _MOST_LINE:
        raise NotAssembly(f"{len(text):,} characters are no instruction")
    prefixes, rest = [], text
    while True:
        name, _, after = rest.partition(" ")
        name, comma, more = name.partition(",")
        after = f"{more} {after}".strip() if comma else after
        if name not in _PREFIXES:
            break
        if not after:
            return None
        prefixes.append(_ALIASES.get(name, name))
        rest = after.strip()
    name, _, operand_text = rest.partition(" ")
    for suffix in (",pt", ",pn", ".s", ".d8", ".d32"):
        name = name.removesuffix(suffix)
    if not name or name in ("{", "}") or not _MNEMONIC.fullmatch(name):
        raise NotAssembly(f"{text[:60]!r} is no x86 instruction")
    if "[" in name or "(" in name:
        raise NotAssembly(f"{text[:60]!r} is no x86 instruction")
    operand_text = operand_text.strip()
    if not _may_be_name(name, att):
        raise NotAssembly(f"{name[:30]!r} is no x86 instruction")
    operands = _read_operands(operand_text, name, att, symbols)
    bits = 0
    if att or not _is_name(_ALIASES.get(name, name)):
        name, bits = _att_name(name, operands)
    name = _string_name(_ALIASES.get(name, name), operands)
    if not _is_name(name):
        raise NotAssembly(f"{name[:30]!r} is no x86 instruction")
    _check_operands(name, operands)
    if not _is_target(name):
        named = [(o.number or symbols.address(o.text)) if o.kind == "symbol" else o.number for o in operands]
        operands = [replace(o, number=n) if o.kind == "symbol" else o for o, n in zip(operands, named, strict=True)]
    return _assembled(name, operands, bits, prefixes, line)


_OPERANDS = re.compile(r"(?:j\w+|set\w+|call|push|pop|inc|dec|neg|not|bswap|loop\w*)")


def _may_be_name(name: str, att: bool) -> bool:
    """Whether a word can be a mnemonic in either syntax; cheap, before operands are read."""
    name = _ALIASES.get(name, name)
    if _is_name(name) or name in _ATT_NAMES or _EXTENSION.fullmatch(name):
        return True
    stems = (name, name[:-1], name[:-2])
    return any(_ALIASES.get(s, s) in _GENERAL or s in _X87 or s in _VECTOR or f"{s}b" in _STRING for s in stems)


def _string_name(name: str, operands: Sequence[_Operand]) -> str:
    """`movs byte ptr [rdi], byte ptr [rsi]` as movsb."""
    if f"{name}b" in _STRING:
        bits = next((o.bits for o in operands if o.bits), 0)
        return name + {8: "b", 16: "w", 32: "d", 64: "q"}.get(bits, "")
    return name


def _is_target(name: str) -> bool:
    """Whether an instruction's operand is where it goes."""
    return name[0] == "j" or name in ("call", "loop", "loope", "loopne", "xbegin")


def _check_operands(name: str, operands: Sequence[_Operand]) -> None:
    """Refuses words that happen to be mnemonics and operands that no instruction has.

    Raises:
        NotAssembly: Too many or too few operands, or a name where no address can stand.
    """
    count = len(operands)
    few = _OPERANDS.fullmatch(name) is not None
    if (few and count != 1) or (name in _TWO_OPERANDS and count not in _TWO_OPERANDS[name]):
        raise NotAssembly(f"{name} does not take {count} operands")
    if name in _NO_OPERANDS and count:
        raise NotAssembly(f"{name} takes no operands")
    is_target = _is_target(name)
    may_name = is_target or name in ("mov", "movabs", "push", "lea")
    for operand in operands:
        if operand.kind == "symbol" and not may_name and not operand.number:
            raise NotAssembly(f"{operand.text[:30]!r} is no register, number or address")
    if operands and operands[0].kind == "number" and not is_target and count > 1 and name not in ("out", "enter"):
        if not operands[0].mask:
            raise NotAssembly(f"{name} cannot write to a number")
    if (name[0] == "v" or name in _VECTOR) and name not in _GENERAL and not _has_vector(name, operands):
        raise NotAssembly(f"{name} takes vector registers")


_TWO_OPERANDS = {
    **{name: (2,) for name in "add sub and or xor cmp test mov movabs lea adc sbb movzx movsx movsxd xchg xadd".split()},
    **{name: (2,) for name in "cmpxchg bt btc btr bts bsf bsr tzcnt lzcnt popcnt movbe movnti".split()},
    **{name: (1, 2) for name in "shl shr sar rol ror rcl rcr".split()},
    **{name: (3,) for name in "shld shrd andn bextr bzhi mulx pdep pext rorx sarx shlx shrx".split()},
    **{name: (1,) for name in ("mul", "div", "idiv")}, "imul": (1, 2, 3), "ret": (0, 1), "int": (1,), "nop": (0, 1, 2),
    "jmp": (1,), "in": (2,), "out": (2,),
}  # fmt: skip
_NO_OPERANDS = frozenset(
    """cbw cdq cdqe clc cld cli cmc cpuid cqo cwd cwde emms endbr32 endbr64 hlt int1 int3 lahf leave lfence mfence pause popfq
    pushfq rdtsc rdtscp sahf sfence stc std sti syscall ud2 wait xgetbv f2xm1 fabs fchs fcos fld1 fldl2e fldl2t fldlg2 fldln2
    fldpi fldz frndint fscale fsin fsqrt fxam fyl2x""".split()
)


def _has_vector(name: str, operands: Sequence[_Operand]) -> bool:
    """Whether an operand is a vector or mask register, where an instruction of that unit needs one."""
    if name.startswith(("vzero", "vldmxcsr", "vstmxcsr")) or name in _STRING or name in ("verr", "verw"):
        return True
    if "cvt" in name and any(o.kind == "memory" for o in operands):
        return True
    return any(o.kind == "register" and _VECTOR_REGISTER.fullmatch(o.text) for o in operands)


def _assembled(name: str, operands: list[_Operand], bits: int, prefixes: list[str], line: int) -> Instruction:
    """The instruction in its one spelling."""
    is_target = _is_target(name)
    target = ""
    if is_target and len(operands) == 1:
        operand = operands[0]
        target = hex(operand.number) if operand.kind == "number" else operand.text if operand.kind == "symbol" else "*"
    segment = next((p for p in prefixes if p in _SEGMENTS), "")
    if segment:
        operands = [replace(o, segment=segment) if o.kind == "memory" else o for o in operands]
    name, texts = _canonical(name, operands, bits)
    kept = [p for p in prefixes if p == "lock" or (p in ("rep", "repe", "repne") and (name in _STRING))]
    spelled = " ".join([*kept, name])
    text = f"{spelled} {', '.join(texts)}" if texts else spelled
    return Instruction(line, text, name, tuple(texts), target)


# ------------------------------------------------------------------------------------------------------------ lines of a file


@dataclass
class _Line:
    """A line without comments: its labels, its address in a listing of object code, and what stands behind them."""

    number: int
    text: str
    labels: list[str] = field(default_factory=list)
    address: int | None = None


_ADDRESS = re.compile(r"\s*(?:=>)?\s*(?:[.\w]+:)?(?:0x)?([0-9a-fA-F]{1,16})(?:\s*<[^<>]*>)?:(?:\s+|$)")
_BYTES = re.compile(r"\s*(?:[0-9a-fA-F]{2}(?:\s|$))+")
_SYMBOL_LINE = re.compile(r"\s*(?:[0-9a-fA-F]{4,16}\s+)<([^<>]+)>:?\s*")
_PERF = re.compile(r"\s*(?:\d+\.\d+)?\s*[│|]\s?")
_REFERENCE = re.compile(r"\b(\d+)[bf]\b")
_LABEL = re.compile(r"\s*(\"[^\"]*\"|[\w.$@?!~]+)\s*:(?![:=])\s*")
_MARKERS = re.compile(r"(?i)(?:#|//|;|/\*)\s*(?:(llvm-mca-|osaca-)(begin|end)|(iaca|pmevo|mca)[ _-](start|begin|end))")
_HAS_OPERAND = re.compile(r"(?i)\[|%[a-z]|\b[re]?[a-d]x\b|\b[re][sdb][ip]\b|\br\d+\b|\b[xyz]mm\d+\b")
_LISTED_TARGET = re.compile(r"((?:\w+\s+)?(?:j\w+|call\w?|loop\w*|xbegin)\s+)([0-9a-fA-F]{1,16})")
_ATT_NUMBER = re.compile(r"\s\$-?\d")
_IACA_BYTES = re.compile(r"\.byte\s+(?:100|0x64)\s*,\s*(?:103|0x67)\s*,\s*(?:144|0x90)")
_RELOCATION = re.compile(r"\s*(?:[0-9a-f]+:?\s+)?R_X86_64_\w+")
_DIRECTIVE_WORDS = frozenset(
    """section segment global extern extrn public bits use64 default align alignb org cpu db dw dd dq dt do ddq resb resw resd
    resq times struc endstruc istruc iend proc endp end ends assume option include includelib title name comm common static
    %define %macro %endmacro %include %if %endif %else %ifdef %ifndef %assign %use %pragma incbin""".split()
)
_SECOND_WORDS = frozenset(
    "proc endp equ db dw dd dq dt resb resw resd resq segment ends label macro textequ byte word dword qword".split()
)
_HEADERS = re.compile(
    r"\s*(?:disassembly of section .*|.*:?\s+file format .*|dump of assembler code.*|end of assembler dump.*|\.{3}|"
    r"in archive .*|page \d+|address range .*)\s*",
    re.IGNORECASE,
)


def _without_block_comments(lines: Iterable[str], source: str) -> Iterator[str]:
    """The lines with what stands between `/*` and `*/` taken out.

    Raises:
        InputError: A comment that does not end.
    """
    opened = 0
    for number, line in enumerate(lines, 1):
        if not opened and ("/*" not in line or line.lstrip().startswith(".")):
            yield line
            continue
        kept, rest = [], line
        if opened:
            rest = "*/" + rest if "*/" not in rest else rest
            _, closed, rest = line.partition("*/")
            if not closed:
                yield ""
                continue
            opened = 0
        pieces = rest.split("/*")
        kept.append(pieces[0])
        for piece in pieces[1:]:
            _, closed, after = piece.partition("*/")
            if closed:
                opened = 0
                kept.append(" " + after)
            else:
                opened = opened or number
        yield "".join(kept)
    if opened:
        raise InputError(f"{source}: the comment that is opened in line {opened} is never closed.")


def _is_listing(lines: Sequence[str]) -> bool:
    """Whether the lines are a disassembler's: an address before every instruction."""
    found = [line for line in lines if line.strip()]
    addresses = [match for line in found if (match := _ADDRESS.match(line))]
    if not addresses:
        return False
    if any(_SYMBOL_LINE.fullmatch(line) or "file format" in line for line in found[:2000]):
        return True
    if any(_BYTES.match(match.string, match.end()) or "<" in match[0] or "=>" in match[0] for match in addresses[:50]):
        return True
    numbers = [int(match[1], 16) for match in addresses[:1000]]
    rising = all(a < b for a, b in pairwise(numbers))
    referred = {name for line in found[:1000] for name in _REFERENCE.findall(line)}
    return rising and len(numbers) * 2 > len(found[:1000]) and not referred & {match[1] for match in addresses[:1000]}


def _listing_line(number: int, line: str) -> _Line | None:
    """A line of a disassembler's listing; None for one that holds no instruction (headers, source between them)."""
    if found := _SYMBOL_LINE.fullmatch(line):
        return _Line(number, "", [found[1].lower()])
    found = _ADDRESS.match(line)
    if found is None:
        return None
    rest = line[found.end() :]
    if bytes_found := _BYTES.match(rest):
        rest = rest[bytes_found.end() :]
    return _Line(number, rest.strip(), [], int(found[1], 16))


def _statements(text: str, is_only: bool, separates: bool) -> list[str]:
    """What stands between the semicolons of a line, the comments left out.

    A semicolon separates instructions in gas, and begins a comment in NASM, MASM and Intel's manuals. It is taken as a
    separator where no space is in front of it (`add rax, 1; dec rcx`), in a text of one line, and in the syntax of gas.
    """
    if ";" not in text:
        return [text]
    statements, rest = [], text
    while rest:
        statement, semicolon, after = rest.partition(";")
        statements.append(statement)
        comment = statement[-1:].isspace() or not statement.strip()
        if not semicolon or (comment and not is_only and not separates):
            break
        rest = after
    return statements


class _Reader:
    """Reads the lines of a file one after the other.

    Attributes:
        instructions: What was read.
        labels: Position of the instruction behind each label or address; numbered labels (`1:`) have a list.
        functions: Labels that are said to be functions.
        regions: First and last position between markers of llvm-mca, OSACA or IACA.
        wrong: Lines that are no instructions, with the reason.
    """

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.instructions: list[Instruction] = []
        self.labels: dict[str, list[int]] = {}
        self.functions: set[str] = set()
        self.marks: list[tuple[str, int]] = []
        self.wrong: list[tuple[int, str]] = []
        self._symbols = _Symbols()
        lowered = text[:200_000].lower()
        self._att = re.search(r"%[re]?[a-ds][xip]l?\b|%r\d|%[xyz]mm\d|%[a-d]l\b", lowered) is not None
        self._pending = ""
        self._prefixed = False  # `.intel_syntax prefix`
        if ".intel_syntax" in lowered:
            self._att = False
        self._separates = self._att or ".intel_syntax" in lowered

    def read(self, text: str) -> None:
        """Reads a whole file."""
        raw = text.split("\n")
        for number, line in enumerate(raw, 1):
            found = _MARKERS.search(line) if "#" in line or "/" in line or ";" in line else None
            if found is not None:
                self.marks.append(((found[2] or found[4]).lower(), number))
        lines = list(_without_block_comments(raw, self.source))
        is_listing = _is_listing(lines)
        self._only = sum(1 for line in lines if line.strip()) == 1
        for number, line in enumerate(lines, 1):
            if not line.strip() or _HEADERS.fullmatch(line[:200]):
                continue
            if "│" in line[:40] and (margin := _PERF.match(line)):
                line = line[margin.end() :]
            if is_listing:
                read = _listing_line(number, line)
                if read is None or _RELOCATION.match(line):
                    continue
            else:
                read = _Line(number, line)
            self._read_line(read)
            if len(self.instructions) > _MOST_INSTRUCTIONS_READ:
                raise InputError(
                    f"{self.source}: more than {_MOST_INSTRUCTIONS_READ:,} instructions; pass the functions to predict for."
                )

    def _read_line(self, line: _Line) -> None:
        code = line.text
        if '"' not in code and "'" not in code:
            code = code.partition("#")[0]
            code = code.partition("//")[0]
        else:
            code = re.split(r"\s#|\s//|^#", code, maxsplit=1)[0]
        if line.address is not None:
            self.labels.setdefault(hex(line.address), []).append(len(self.instructions))
            code = code.partition("<")[0].partition(";")[0].rstrip()
            if found := _LISTED_TARGET.fullmatch(code):
                code = f"{found[1]}0x{found[2]}"
        for label in line.labels:
            self._add_label(label)
            self.functions.add(label)
        first, *others = _statements(code, self._only, self._separates)
        self._read_statement(line.number, first)
        for part in others:
            if not self._read_statement(line.number, part, may_be_comment=True):
                break

    def _add_label(self, name: str) -> None:
        self.labels.setdefault(name.strip('"').lower(), []).append(len(self.instructions))

    def _read_statement(self, number: int, text: str, *, may_be_comment: bool = False) -> bool:
        """Reads labels and an instruction or directive; whether what follows can be one, too."""
        while (found := _LABEL.match(text)) and found[1].lower() not in _SEGMENTS:
            self._add_label(found[1])
            text = text[found.end() :]
        text = text.strip()
        if not text or self._is_directive(number, text):
            return True
        try:
            self._add(number, " ".join(text.lower().split()))
        except NotAssembly as error:
            if may_be_comment and not _HAS_OPERAND.search(text):
                return False
            self.wrong.append((number, str(error)))
        return True

    def _add(self, number: int, text: str) -> None:
        text = f"{self._pending} {text}" if self._pending else text
        att = self._att
        if "[" in text or " ptr " in text:
            att = False
        elif not self._prefixed and ("%" in text or _ATT_NUMBER.search(text)):
            att = True
        try:
            read = _instruction(text, number, att, self._symbols)
        except NotAssembly:
            if not att or "%" in text or "$" in text:
                raise
            read = _instruction(text, number, False, self._symbols)  # a line of Intel's syntax among lines of AT&T's
        self._pending = text if read is None else ""  # a prefix alone belongs to what follows
        if read is not None:
            self.instructions.append(read)

    def _is_directive(self, number: int, text: str) -> bool:
        """Reads a directive of an assembler; whether it was one."""
        words = text[:200].lower().split(None, 2)
        first = words[0]
        if first[0] == ".":
            self._directive(number, first, words[1] if len(words) > 1 else "", text)
            return True
        if first[0] in "%[" and not _is_register_word(first):
            return first in _DIRECTIVE_WORDS or first.startswith(("[bits", "[section", "[default", "%"))
        if first in _DIRECTIVE_WORDS and not (first in ("end", "name", "do") and len(words) > 2):
            return True
        if len(words) > 1 and (words[1] in _SECOND_WORDS or words[1] in ("=", ":=")) and not _is_name(first):
            if words[1] == "proc":
                self._add_label(first)
                self.functions.add(first)
            return True
        return False

    def _directive(self, number: int, name: str, rest: str, text: str) -> None:
        if name == ".intel_syntax":
            self._att, self._prefixed = False, "noprefix" not in text.lower()
        elif name == ".att_syntax":
            self._att = True
        elif name == ".type" and "function" in text.lower():
            self.functions.add(rest.strip(",").strip('"'))
        elif name == ".byte" and _IACA_BYTES.fullmatch(text.lower()):
            self._iaca_mark(number)

    def _iaca_mark(self, number: int) -> None:
        """IACA's marks are `mov ebx, 111` (222 at the end) and three bytes."""
        last = self.instructions[-1].text if self.instructions else ""
        kind = {"mov ebx, 0x6f": "begin", "mov ebx, 0xde": "end"}.get(last)
        if kind:
            self.instructions.pop()
            self.marks.append((kind, number))


def _is_register_word(word: str) -> bool:
    """Whether a word that begins with % is a register and not a directive of NASM."""
    return word.lstrip("%").partition(",")[0] in _WIDTHS


# Words by which assembly of other machines, and what compilers print instead of assembly, is recognised: mnemonics and what
# stands behind them.
_OTHER_LANGUAGES = tuple(
    (name, re.compile(rf"(?:{'|'.join(mnemonics.split())})\s+(?:{operand}).*|{others}"))
    for name, mnemonics, operand, others in (
        (
            "AArch64 assembly",
            r"ldr\w* str\w* ldp stp ldur\w* stur\w* adds? subs? mov[zk]? cmp f?madd fmla\w* fadd fmul adrp? cbn?z bl lsl and "
            r"orr csel tbn?z ld1\w* st1\w* eor sxtw",
            r"[{]?[xwvdsqz]\d+\b|sp\b|[xw]zr\b",
            r"b(\.\w+)?\s+\.?\w+",
        ),
        (
            "ARM assembly",
            r"ldr\w* str\w* push pop add\w* sub\w* mov\w* cmp blx? bx vld1\S* vst1\S* vmla\S* vadd\S* vmul\S* ldm\w* stm\w* "
            r"mul mla",
            r"[{]|[rqd]\d+\b|[lsf][rp]\b",
            r"bx\s+lr",
        ),
        (
            "RISC-V assembly",
            r"addi?w? subw? mulw? [sf]?[lsf][bhwd]u? li mv lui auipc bn?ez? blt bge bnez beqz jalr? s[lr][la]i?w? sext\.w "
            r"vset\w+ f\w+\.[sd]",
            r"(?:f?[ats]\d+|v\d+|x\d+|zero|ra|sp|gp)\b",
            r"j\s+\.?\w+",
        ),
        ("MIPS assembly", r"\w+", r"\$(?:[atsvkf]?\d+|zero|sp|ra|fp|gp)\b", r"syscall"),
        (
            "PowerPC assembly",
            r"l[wdf][zd]?x? st[wdf][du]?x? m[ft]lr m[ft]ctr addis? li mr cmp[wd]i? fmadds?",
            r"[rf]?\d+\b",
            r"blr|bdnz\s.*",
        ),
        ("LLVM IR", r"define declare store", r"\w", r"%[\w.]+ = \w+.*|ret \w+ .*|br (?:i1|label) .*"),
        ("PTX", r"(?:ld|st|mov|add|mul|mad|fma|setp|cvt|bra)\.[\w.]+", r"[%@{\[]", r"\.(?:reg|visible|param) .*"),
    )
)
_SOURCE_CODE = re.compile(r"[{}]$|\)\s*:?$|\w+\(.*\)|^(?:def|class|import|return|for|while|if|int|void)\b")


def _other_language(text: str) -> str:
    """Names what a text that is no x86 assembly looks like; empty if it looks like nothing known."""
    lines = [re.split(r"//|#|;|@ ", line[:200], maxsplit=1)[0].strip().lower() for line in text[:100_000].split("\n")]
    lines = [re.sub(r"^[\w.$]+:\s*", "", line) for line in lines]
    lines = [line for line in lines if line and not line.startswith(".") and not line.endswith(":")][:400]
    best, most = "", 0
    for name, pattern in _OTHER_LANGUAGES:
        matching = sum(1 for line in lines if pattern.fullmatch(line))
        if matching > most:
            best, most = name, matching
    if lines and most * 3 >= len(lines):
        return best
    words = sum(1 for line in lines if re.fullmatch(r"[a-z][a-z' -]*(?:[,.;:!?]? [a-z][a-z'-]*){3,}[.,;:!?)]*", line))
    if lines and words * 2 >= len(lines):
        return "prose"
    code = sum(1 for line in lines if _SOURCE_CODE.search(line))
    return "source code of another language" if lines and code * 2 >= len(lines) else ""


# --------------------------------------------------------------------------------------------------- functions, blocks, loops


@dataclass(frozen=True)
class Block:
    """Straight code: it is entered at its first instruction and left behind its last.

    Attributes:
        index: Its place in `Assembly.blocks`.
        function: Name of its function, empty where the text gives none.
        instructions: Its instructions; jumps, calls and returns among them.
        successors: Blocks that may run next, by index.
        loop: Innermost loop that holds it, by its place in `Assembly.loops`, or None.
        always: Whether it runs exactly once in every iteration of its loop, or every call of its function.
    """

    index: int
    function: str
    instructions: tuple[Instruction, ...]
    successors: tuple[int, ...] = ()
    loop: int | None = None
    always: bool = True

    @property
    def first_line(self) -> int:
        """Line of the first instruction."""
        return self.instructions[0].line

    @property
    def last_line(self) -> int:
        """Line of the last instruction."""
        return self.instructions[-1].line


@dataclass(frozen=True)
class Loop:
    """A natural loop.

    Attributes:
        header: Its first block, by index.
        blocks: All its blocks, by index, rising.
        parent: The loop around it, by its place in `Assembly.loops`, or None.
        innermost: Whether it holds no other loop.
        trip_count: Iterations each time it is entered, where they are constant.
        always: Whether it is entered every time that the code around it runs.
        first_line: Smallest line of its instructions.
        last_line: Largest line of its instructions.
    """

    header: int
    blocks: tuple[int, ...]
    parent: int | None
    innermost: bool
    trip_count: int | None
    always: bool
    first_line: int
    last_line: int


@dataclass(frozen=True)
class Region:
    """What one number is predicted for: a loop without loops inside, or a block outside of such.

    Attributes:
        text: Its instructions, one a line, as the model reads them: without jumps, calls and returns.
        first_line: Of its source.
        last_line: Of its source.
        function: Name of the function, empty where the text gives none.
        is_loop: Whether it is a loop; its number is then of one iteration.
        executions: How often it runs when its function is called once, where that is constant.
        bound_text: Instructions that run every time, jumps among them: the lower bound is theirs.
    """

    text: str
    first_line: int
    last_line: int
    function: str
    is_loop: bool
    executions: int | None
    bound_text: str

    @property
    def lines(self) -> str:
        """Line range, `12-19` or `12`."""
        return str(self.first_line) if self.first_line == self.last_line else f"{self.first_line}-{self.last_line}"


@dataclass(frozen=True)
class Assembly:
    """What a text of x86 assembly holds, in the order of the source."""

    source: str
    instructions: tuple[Instruction, ...]
    blocks: tuple[Block, ...]
    loops: tuple[Loop, ...]

    @property
    def text(self) -> str:
        """All instructions, one a line, as the model reads them."""
        return model_text(self.instructions)

    def regions(self) -> list[Region]:
        """The innermost loops and the blocks outside of them, in the order of the source."""
        regions = []
        for block in self.blocks:
            loop = self.loops[block.loop] if block.loop is not None else None
            if loop is None or not loop.innermost:
                regions.append(self._region([block], False))
            elif block.index == loop.blocks[0]:
                regions.append(self._region([self.blocks[i] for i in loop.blocks], True))
        return [region for region in regions if region.text]

    def _region(self, members: list[Block], is_loop: bool) -> Region:
        instructions = [i for block in members for i in block.instructions]
        certain = [i for block in members if block.always or not is_loop for i in block.instructions]
        lines = [i.line for i in instructions]
        straight = [i for i in instructions if not i.is_control]
        text = "\n".join(i.text for i in straight) if straight or len(self.blocks) > 1 else model_text(instructions)
        return Region(
            text, min(lines), max(lines), members[0].function, is_loop, self._executions(members, is_loop),
            "\n".join(i.text for i in certain),
        )  # fmt: skip

    def _executions(self, members: list[Block], is_loop: bool) -> int | None:
        """How often a region runs in one call of its function, None where that is not constant."""
        count, place = 1, members[0].loop
        if not is_loop and not members[0].always:
            return None
        while place is not None:
            loop = self.loops[place]
            if loop.trip_count is None or not loop.always:
                return None
            count *= loop.trip_count
            place = loop.parent
        return count


def model_text(instructions: Sequence[Instruction]) -> str:
    """The instructions as the model reads them: one a line, without jumps, calls and returns unless there is nothing else."""
    straight = [i.text for i in instructions if not i.is_control]
    return "\n".join(straight or [i.text for i in instructions])


def parse_assembly(text: str, source: str = "<text>") -> Assembly:
    """Reads x86-64 assembly as compilers, disassemblers and people write it.

    Intel syntax (gcc, clang, objdump, NASM, MASM, gdb) and AT&T syntax; labels, directives, comments (`#`, `//`, `/* */`,
    `;`), headers and bytes of objdump are no instructions. Where marks of llvm-mca (`# LLVM-MCA-BEGIN`), OSACA or IACA
    stand, what is between them is read alone.

    Args:
        text: The source.
        source: Its name, for messages.

    Raises:
        InputError: A line that is no x86 instruction, with its number; another language, with its name; no instruction.
    """
    reader = _Reader(source, text)
    reader.read(text)
    if reader.wrong:
        raise InputError(_wrong_lines(reader, text))
    if not reader.instructions:
        raise InputError(f"{source}: there are no instructions in it, only comments, labels, headers or directives.")
    _keep_marked(reader)
    blocks, loops = _control_flow(reader)
    return Assembly(source, tuple(reader.instructions), tuple(blocks), tuple(loops))


def _wrong_lines(reader: _Reader, text: str) -> str:
    """The message about lines that are no instructions."""
    number, reason = reader.wrong[0]
    lines = len({line for line, _ in reader.wrong})
    total = len({i.line for i in reader.instructions} | {line for line, _ in reader.wrong})
    message = (
        f"{reader.source}: not x86 assembly: {lines} of {total} lines are no instruction, the first is line {number} "
        f"({reason})."
    )
    if language := _other_language(text):
        message += f" It looks like {language}."
    return f"{message} Pass x86-64 instructions in Intel or AT&T syntax, or name the language."


def _keep_marked(reader: _Reader) -> None:
    """Leaves what stands between marks of llvm-mca, OSACA or IACA.

    Raises:
        InputError: Nothing between the marks, or one mark without the other.
    """
    if not reader.marks:
        return
    ranges, start = [], None
    for kind, line in sorted(reader.marks, key=lambda mark: mark[1]):
        if kind in ("begin", "start"):
            start = line
        elif start is not None:
            ranges.append((start, line))
            start = None
    if start is not None:
        ranges.append((start, sys.maxsize))
    kept: list[Instruction] = []
    moved: dict[int, int] = {}
    place = 0
    for position, instruction in enumerate(reader.instructions):
        while place < len(ranges) and instruction.line > ranges[place][1]:
            place += 1
        moved[position] = len(kept)
        if place < len(ranges) and ranges[place][0] <= instruction.line:
            kept.append(instruction)
    moved[len(reader.instructions)] = len(kept)
    if not kept:
        raise InputError(f"{reader.source}: there is no instruction between its marks (line {reader.marks[0][1]}).")
    reader.instructions = kept
    reader.labels = {name: [moved[p] for p in positions] for name, positions in reader.labels.items()}


def _target(reader: _Reader, position: int) -> int | None:
    """The position that a jump goes to, None if it lies outside of the text or is not known."""
    name = reader.instructions[position].target
    if name[:1] == "*" or not name:
        return None
    if len(name) < 12 and name[:-1].isdigit() and name[-1] in "bf":
        places = reader.labels.get(name[:-1], [])
        if name[-1] == "b":
            place = bisect_right(places, position) - 1
            return places[place] if place >= 0 else None
        place = bisect_right(places, position)
        return places[place] if place < len(places) else None
    named = reader.labels.get(name) or reader.labels.get(name.partition("@")[0])
    return named[0] if named else None


def _control_flow(reader: _Reader) -> tuple[list[Block], list[Loop]]:
    """Splits into functions, blocks and loops."""
    instructions = reader.instructions
    count = len(instructions)
    targets = {p: _target(reader, p) for p, i in enumerate(instructions) if i.is_jump}
    starts = _function_starts(reader, {t for t in targets.values() if t is not None})
    leaders = {0, *starts}
    for position, target in targets.items():
        leaders.add(position + 1)
        if target is not None:
            leaders.add(target)
    leaders.update(p + 1 for p, i in enumerate(instructions) if i.is_exit)
    bounds = [p for p in sorted(leaders) if p < count]
    block_of = {start: index for index, start in enumerate(bounds)}
    ends = [*bounds[1:], count]
    function, blocks = "", []
    for index, (start, end) in enumerate(zip(bounds, ends, strict=True)):
        function = starts.get(start, function)
        last, following = instructions[end - 1], []
        target = targets.get(end - 1)
        if target is not None and target < count and last.is_jump:
            following.append(block_of[target])
        if not last.is_exit and end < count and end not in starts:
            following.append(index + 1)
        blocks.append(Block(index, function, tuple(instructions[start:end]), tuple(dict.fromkeys(following))))
    return _with_loops(blocks, {block_of[p] for p in starts if p < count} | {0})


def _function_starts(reader: _Reader, jumped_to: set[int]) -> dict[int, str]:
    """Positions at which functions begin, with their names: those named as such, else labels behind an end of control."""
    starts = {}
    for name, places in reader.labels.items():
        if name in reader.functions:
            starts.update({place: name for place in places})
    if starts:
        return starts
    for name, places in reader.labels.items():
        local = name[0] in ".$" or name.isdigit() or name.startswith(("0x", "lbb", "ltmp"))
        for place in places:
            behind = place == 0 or reader.instructions[place - 1].is_exit
            if not local and behind and place not in jumped_to:
                starts.setdefault(place, name)
    return starts


class _Nest:
    """Loops of a control-flow graph, by depth-first search (Havlak's nesting; loops with two entries are left out).

    Attributes:
        predecessors: Blocks that lead to each block.
        members: Header of a loop -> its blocks, loops inside it by their headers alone.
        parent: Block, or header of a loop inside -> header of the loop around it.
        whole: Header -> all its blocks.
    """

    def __init__(self, blocks: list[Block], entries: set[int]) -> None:
        self.blocks = blocks
        self.predecessors: list[list[int]] = [[] for _ in blocks]
        for block in blocks:
            for following in block.successors:
                self.predecessors[following].append(block.index)
        self.members: dict[int, list[int]] = {}
        self.parent: dict[int, int] = {}
        self._folded = list(range(len(blocks)))  # union-find: a block, or the header of the loop that holds it
        order, last = _depth_first(blocks, entries)
        for header in sorted(order, key=lambda index: -order[index]):
            self._find_loop(header, order, last)
        self.whole = self._whole_loops()

    def _find(self, index: int) -> int:
        while self._folded[index] != index:
            self._folded[index] = self._folded[self._folded[index]]
            index = self._folded[index]
        return index

    def _find_loop(self, header: int, order: dict[int, int], last: dict[int, int]) -> None:
        def below(index: int) -> bool:
            return order[header] <= order[index] <= last[header]

        latches = [p for p in self.predecessors[header] if below(p)]
        if not latches:
            return
        body = {self._find(p) for p in latches} - {header}
        pending = list(body)
        while pending:
            for before in map(self._find, self.predecessors[pending.pop()]):
                if before != header and before not in body and below(before):
                    body.add(before)
                    pending.append(before)
        self.members[header] = sorted({*body, header})
        for index in body:
            self._folded[index] = header
            self.parent[index] = header

    def _whole_loops(self) -> dict[int, list[int]]:
        """All blocks of every loop. Beyond some millions in all, those of outer loops are not listed."""
        whole: dict[int, list[int]] = {}
        budget = 4_000_000
        for header in self._inside_out():
            blocks = [header]
            for index in self.members[header]:
                if index != header:
                    blocks += whole[index] if index in self.members and budget > 0 else [index]
            whole[header] = sorted(blocks)
            budget -= len(blocks)
        return whole

    def _inside_out(self) -> list[int]:
        """Headers, those of inner loops first: loops were found in this order."""
        return list(self.members)

    def certain(self, header: int | None, group: list[int]) -> set[int]:
        """Members of a loop, or of a function's code outside of loops (header None), that every path through it runs.

        With the jumps back to the header left out and inner loops folded, a loop is a graph without circles. A member is
        on all paths if as many paths lead through it as there are; they are counted modulo a prime.
        """
        inside, entry = set(group), group[0] if header is None else header
        edges: dict[int, set[int]] = {}
        ends = set()
        for index in group:
            folded = index in self.members and index != header
            sources = self.whole[index] if folded else [index]
            following = {s for source in sources for s in self.blocks[source].successors}
            if header in following or (header is None and not following - set(sources)):
                ends.add(index)
            reached = {self._member(s, inside) for s in following}
            edges[index] = {s for s in reached if s is not None and s not in (entry, index)}
        order = _topological(edges, entry)
        if order is None:
            return {entry}
        forward, backward = dict.fromkeys(order, 0), dict.fromkeys(order, 0)
        forward[entry] = 1
        for index in order:
            for successor in edges[index]:
                forward[successor] = (forward[successor] + forward[index]) % _PRIME
        for index in reversed(order):
            backward[index] = (int(index in ends) + sum(backward[s] for s in edges[index])) % _PRIME
        return {index for index in order if forward[index] * backward[index] % _PRIME == backward[entry]}

    def _member(self, index: int, inside: set[int]) -> int | None:
        """The member of a group that a block is, or that holds it."""
        while index not in inside and index in self.parent:
            index = self.parent[index]
        return index if index in inside else None

    def outside(self) -> list[list[int]]:
        """Blocks outside of loops and headers of outermost loops, a list for each function."""
        groups: dict[str, list[int]] = {}
        for block in self.blocks:
            if block.index not in self.parent:
                groups.setdefault(block.function, []).append(block.index)
        return list(groups.values())


def _with_loops(blocks: list[Block], entries: set[int]) -> tuple[list[Block], list[Loop]]:
    """Blocks that know their loops, and the loops, in the order of the source."""
    nest = _Nest(blocks, entries)
    headers = sorted(nest.members, key=lambda header: (blocks[header].first_line, header))
    place = {header: index for index, header in enumerate(headers)}
    always: set[int] = set()
    entered: set[int] = set()
    groups: list[tuple[int | None, list[int]]] = [(None, group) for group in nest.outside()]
    groups += [(header, nest.members[header]) for header in headers]
    for header, group in groups:
        for index in nest.certain(header, group):
            (entered if index in nest.members and index != header else always).add(index)
    marked = []
    for block in blocks:
        own = block.index if block.index in nest.members else nest.parent.get(block.index)
        marked.append(replace(block, loop=None if own is None else place[own], always=block.index in always))
    holding = set(nest.parent[header] for header in headers if header in nest.parent)
    loops = []
    for header in headers:
        members, around = nest.whole[header], nest.parent.get(header)
        lines = [i.line for index in members for i in blocks[index].instructions]
        trips = _trip_count(marked, frozenset(members), header, nest.predecessors)
        loops.append(
            Loop(
                header, tuple(members), None if around is None else place[around], header not in holding, trips,
                header in entered, min(lines), max(lines),
            )
        )  # fmt: skip
    return marked, loops


_PRIME = (1 << 61) - 1


def _depth_first(blocks: list[Block], entries: set[int]) -> tuple[dict[int, int], dict[int, int]]:
    """Preorder numbers of the blocks, and the largest of each one's descendants."""
    order: dict[int, int] = {}
    last: dict[int, int] = {}
    for entry in [*sorted(entries), *range(len(blocks))]:
        if entry in order:
            continue
        order[entry] = len(order)
        stack = [(entry, iter(blocks[entry].successors))]
        while stack:
            index, following = stack[-1]
            for successor in following:
                if successor not in order:
                    order[successor] = len(order)
                    stack.append((successor, iter(blocks[successor].successors)))
                    break
            else:
                last[index] = len(order) - 1
                stack.pop()
    return order, last


def _topological(edges: dict[int, set[int]], entry: int) -> list[int] | None:
    """Order of what is reached from an entry, each behind those that lead to it; None if there is a circle."""
    waiting: dict[int, int] = {entry: 0}
    pending = [entry]
    while pending:
        for successor in edges[pending.pop()]:
            if successor not in waiting:
                waiting[successor] = 0
                pending.append(successor)
    for index in waiting:
        for successor in edges[index]:
            waiting[successor] += 1
    if waiting[entry]:
        return None
    order, ready = [], [entry]
    while ready:
        index = ready.pop()
        order.append(index)
        for successor in edges[index]:
            waiting[successor] -= 1
            if not waiting[successor]:
                ready.append(successor)
    return order if len(order) == len(waiting) else None


# -------------------------------------------------------------------------------------------------------------- trip counts

_Value = tuple[str, int]  # a number is ("", number); anything else a name and what is added to it
_HOLDS = {  # whether a loop goes on while the difference of what is compared is ...
    "ne": lambda d: d != 0, "l": lambda d: d < 0, "b": lambda d: d < 0, "le": lambda d: d <= 0, "be": lambda d: d <= 0,
    "g": lambda d: d > 0, "a": lambda d: d > 0, "ge": lambda d: d >= 0, "ae": lambda d: d >= 0, "s": lambda d: d < 0,
    "ns": lambda d: d >= 0, "e": lambda d: d == 0,
}  # fmt: skip
_INVERSE = {"ne": "e", "e": "ne", "l": "ge", "ge": "l", "b": "ae", "ae": "b", "le": "g", "g": "le", "be": "a", "a": "be",
            "s": "ns", "ns": "s"}  # fmt: skip
_LEA = re.compile(r"\[(\w+)(?: ([+-]) (\w+))?\]")


def _literal(text: str) -> int | None:
    """A number as `Instruction.text` prints it."""
    try:
        return int(text, 0)
    except ValueError:
        return None


def _step(instruction: Instruction) -> tuple[str, int] | None:
    """The register that an instruction adds a constant to, and the constant."""
    name, operands = instruction.name, instruction.operands
    register = REGISTERS.get(operands[0]) if operands else None
    if register is None:
        return None
    if name in ("inc", "dec"):
        return register, 1 if name == "inc" else -1
    if name in ("add", "sub") and (number := _literal(operands[1])) is not None:
        return register, number if name == "add" else -number
    if name == "lea" and (found := _LEA.fullmatch(operands[1])) and REGISTERS.get(found[1]) == register and found[3]:
        number = _literal(found[3])
        return None if number is None else (register, -number if found[2] == "-" else number)
    return None


def _evaluate(instructions: Iterable[Instruction]) -> dict[str, _Value]:
    """What registers hold behind straight code, as far as constants and sums show it."""
    values: dict[str, _Value] = {}

    def value(name: str) -> _Value:
        register = REGISTERS[name]
        return values.get(register, (register, 0))

    for number, instruction in enumerate(instructions):
        name, operands = instruction.name, instruction.operands
        to = REGISTERS.get(operands[0]) if operands else None
        result: _Value | None = None
        if to and name in ("mov", "movabs") and operands[1] in REGISTERS:
            result = value(operands[1])
        elif to and name in ("mov", "movabs") and (literal := _literal(operands[1])) is not None:
            result = ("", literal)
        elif to and name in ("xor", "sub") and operands[0] == operands[1]:
            result = ("", 0)
        elif to and (step := _step(instruction)):
            root, offset = value(operands[0])
            result = (root, offset + step[1])
        elif to and name == "lea" and (found := _LEA.fullmatch(operands[1])) and found[1] in REGISTERS:
            result = _sum(value(found[1]), found[2], found[3], values)
        for register in registers_written(instruction.text):
            values[register] = (f"{register} of {number}", 0)
        if instruction.name == "call":
            values.update({register: (f"{register} of {number}", 0) for register in set(REGISTERS.values())})
        if to and result is not None:
            values[to] = result
    return values


def _sum(first: _Value, sign: str | None, second: str | None, values: dict[str, _Value]) -> _Value | None:
    """The sum or difference of a value and a register or number, None where that is no name and a constant."""
    if second is None:
        return first
    register, number = REGISTERS.get(second), _literal(second)
    if register is None and number is None:
        return None
    other = ("", number or 0) if register is None else values.get(register, (register, 0))
    if not other[0]:
        return first[0], first[1] + (-other[1] if sign == "-" else other[1])
    return (other[0], other[1] + first[1]) if not first[0] and sign == "+" else None


def _before(
    blocks: list[Block], inside: frozenset[int], header: int, predecessors: list[list[int]]
) -> list[Instruction] | None:
    """The straight code that leads to a loop, None where several ways do."""
    outside = [p for p in predecessors[header] if p not in inside]
    if len(outside) > 1:
        return None
    path: list[int] = []
    seen: set[int] = set()
    while len(outside) == 1 and outside[0] not in seen and len(path) < 50:
        path.append(outside[0])
        seen.add(outside[0])
        outside = predecessors[outside[0]]
    return [i for index in reversed(path) for i in blocks[index].instructions]


def _trip_count(blocks: list[Block], inside: frozenset[int], header: int, predecessors: list[list[int]]) -> int | None:
    """How often a loop runs each time it is entered, None where that is not a constant of the text."""
    leaving = [index for index in inside if _may_leave(blocks[index], inside)]
    if len(leaving) != 1 or not blocks[leaving[0]].always or header != min(inside):
        return None
    block = blocks[leaving[0]]
    jump = block.instructions[-1]
    if not jump.is_branch:
        return None
    taken = block.successors[0] in inside and block.successors[0] != block.index + 1
    condition = "ne" if jump.name == "loop" else jump.name[1:]
    if not taken:
        condition = _INVERSE.get(condition, "")
    if condition not in _HOLDS:
        return None
    compared = _compared(block)
    before = _before(blocks, inside, header, predecessors)
    if compared is None or before is None:
        return None
    return _count(blocks, inside, block, compared, condition, _evaluate(before))


def _may_leave(block: Block, inside: frozenset[int]) -> bool:
    """Whether control may go from a block to the outside of a loop."""
    last = block.instructions[-1]
    expected = 2 if last.is_branch else 1  # a jump to an unknown place, or behind the end of the text, leads outside
    return len(block.successors) < expected or any(successor not in inside for successor in block.successors)


def _compared(block: Block) -> tuple[int, str, str] | None:
    """What the jump at the end of a block compares: position of the comparison in the block, and its two operands."""
    jump = block.instructions[-1]
    if jump.name == "loop":
        return len(block.instructions) - 1, "rcx", "0"
    for position in range(len(block.instructions) - 2, -1, -1):
        instruction = block.instructions[position]
        if instruction.name == "cmp":
            return position, instruction.operands[0], instruction.operands[1]
        if instruction.name == "test" and instruction.operands[0] == instruction.operands[1]:
            return position, instruction.operands[0], "0"
        if instruction.name in ("add", "sub", "inc", "dec"):
            return position, instruction.operands[0], "0"
        if "flags" in registers_written(instruction.text):
            return None
    return None


def _count(
    blocks: list[Block],
    inside: frozenset[int],
    block: Block,
    compared: tuple[int, str, str],
    condition: str,
    values: dict[str, _Value],
) -> int | None:
    """Iterations until the comparison fails."""
    position, *operands = compared
    steps: dict[str, list[tuple[int, int, int | None]]] = {}
    for index in inside:
        for place, instruction in enumerate(blocks[index].instructions):
            step = _step(instruction)
            written = set(registers_written(instruction.text))
            if instruction.name == "loop":
                written, step = {"rcx"}, ("rcx", -1)
            if instruction.name == "call":
                written = set(REGISTERS.values())
            for register in written - {"flags"}:
                known = step[1] if step and step[0] == register else None
                steps.setdefault(register, []).append((index, place, known))
    difference: _Value = ("", 0)
    change = 0
    for sign, operand in zip((1, -1), operands, strict=True):
        name = REGISTERS.get(operand)
        number = _literal(operand)
        if name is None and number is None:
            return None
        value: _Value = ("", number or 0) if name is None else values.get(name, (name, 0))
        offset = value[1]
        changes = steps.get(name, []) if name else []
        if len(changes) > 1 or (changes and changes[0][2] is None):
            return None
        if changes:
            index, place, known = changes[0]
            if not blocks[index].always or blocks[index].loop != block.loop:
                return None
            # The first comparison sees the change where the change is made before it.
            seen = index < block.index or (index == block.index and place <= position)
            offset += (known or 0) if seen else 0
            change += sign * (known or 0)
        if sign > 0:
            difference = (value[0], offset)
        elif value[0] != difference[0]:
            return None
        else:
            difference = ("", difference[1] - offset)
    if difference[0]:
        return None
    return _iterations(difference[1], change, condition)


def _iterations(first: int, change: int, condition: str) -> int | None:
    """Iterations of a loop that goes on while `first + k * change` fulfils a condition, k = 0, 1, ...; None for endless."""
    holds = _HOLDS[condition]
    if not holds(first):
        return 1
    if not change:
        return None
    if condition == "ne":
        return 1 - first // change if first % change == 0 and first * change < 0 else None
    if condition == "e":
        return 2
    if first * change > 0:
        return None
    failing = -(-abs(first) // abs(change)) if abs(first) else 0
    while holds(first + failing * change):
        failing += 1
    while failing and not holds(first + (failing - 1) * change):
        failing -= 1
    return failing + 1


# ------------------------------------------------------------------------------------------------------------ what is predicted


def chosen_regions(assembly: Assembly) -> list[Region]:
    """What a user of a whole file expects numbers for: its innermost loops or, where there is none, its blocks."""
    regions = assembly.regions()
    loops = [region for region in regions if region.is_loop]
    return loops or regions


def one_region(assembly: Assembly) -> Region:
    """The one loop of a text, or its one block.

    Raises:
        InputError: There are several, so that one number does not answer for them.
    """
    chosen = chosen_regions(assembly)
    if len(chosen) == 1:
        return chosen[0]
    kind = "loops" if chosen[0].is_loop else "basic blocks"
    lines = ", ".join(region.lines for region in chosen[:8]) + (", ..." if len(chosen) > 8 else "")
    raise InputError(
        f"{assembly.source}: holds {len(chosen)} {kind} (lines {lines}), and a prediction is for one. Pass one of them, mark "
        "it with # LLVM-MCA-BEGIN and # LLVM-MCA-END, or read them all with expand_input or `code-rlm predict FILE`."
    )


def looks_like_assembly(text: str) -> bool:
    """Whether most lines of a text are x86 instructions, at least one of them with operands."""
    text = text[:20_000] if len(text) <= 20_000 else text[:20_000].rpartition("\n")[0]
    reader = _Reader("<text>", text)
    try:
        reader.read(text)
    except InputError:
        return False
    with_operands = sum(1 for instruction in reader.instructions if instruction.operands or instruction.target)
    return 0 < with_operands and 2 * len(reader.wrong) <= with_operands


__all__ = [
    "Assembly",
    "Block",
    "Instruction",
    "Loop",
    "NotAssembly",
    "Region",
    "chosen_regions",
    "looks_like_assembly",
    "model_text",
    "one_region",
    "parse_assembly",
]
