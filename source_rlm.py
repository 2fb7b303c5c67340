"""Numbers in source text: one reader of literals, constant expressions and named constants for all languages.

    canonical_source("const int N = 4'000'000;", "cpp")      # "const int N = 4000000;"
    canonical_source("constexpr int N = 1 << 22;", "cpp")    # "constexpr int N = 4194304;"
    constants("N = 5_000\nM = N * N", "python")              # {"N": 5000, "M": 25000000}

The reader works in three steps.

1. *Tokens.* A table gives each language its comments and strings (`SYNTAX`). A scan in linear time cuts the text into tokens.
   Numbers inside comments and strings are not read.
2. *Values.* A literal has a value whatever its spelling: `4000000`, `4_000_000`, `4'000'000`, `4e6`, `0x3d0900`, `1024L`. An
   operator-precedence parser folds expressions of literals: `1 << 22`, `4 * 1000 * 1000`, `10**7`, `2^20` where `^` is a power.
3. *Names.* A name that is bound exactly once to a constant expression stands for its value: `N = 5000`,
   `const int n = 1 << 20`, `#define N 100005`, `let n: usize = 4_000_000`.

`canonical_source` rewrites integers and constant expressions as plain decimals and leaves every other character as it is, so
that texts that differ in spelling alone become one text. `allocated_bytes` reads a lower bound of memory off allocations of
constant size.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

Number = int | float

_MAX_BITS = 200  # of a folded integer; larger ones stay as they are written
_MAX_DEPTH = 64  # of parentheses


@dataclass(frozen=True)
class Syntax:
    """What separates code from text in a language.

    Attributes:
        line_comments: Openings of comments that end with the line.
        block_comments: Pairs of opening and closing.
        strings: Delimiters of strings with backslash escapes; a longer one comes before a shorter one that it begins with.
        raw_strings: Delimiters of strings without escapes.
        power: Operator of powers, None where there is none.
        shifts: Whether `<<` shifts integers.
        hash_is_code: Whether a line that begins with `#` is code (the preprocessor of C).
    """

    line_comments: tuple[str, ...] = ("//",)
    block_comments: tuple[tuple[str, str], ...] = (("/*", "*/"),)
    strings: tuple[str, ...] = ('"', "'")
    raw_strings: tuple[str, ...] = ()
    power: str | None = None
    shifts: bool = True


_C = Syntax()
_HASH = Syntax(line_comments=("#",), block_comments=(), power="**")
SYNTAX: dict[str, Syntax] = {
    "c": _C,
    "cpp": _C,
    "cuda": _C,
    "java": _C,
    "csharp": _C,
    "d": Syntax(raw_strings=("`",), power="^^"),
    "go": Syntax(raw_strings=("`",)),
    "rust": Syntax(strings=('"',)),  # 'a is a lifetime
    "javascript": Syntax(raw_strings=("`",), power="**"),
    "typescript": Syntax(raw_strings=("`",), power="**"),
    "kotlin": Syntax(strings=('"""', '"', "'"), shifts=False),
    "scala": Syntax(strings=('"""', '"', "'")),
    "swift": Syntax(strings=('"""', '"')),
    "php": Syntax(line_comments=("//", "#"), power="**"),
    "python": Syntax(line_comments=("#",), block_comments=(), strings=('"""', "'''", '"', "'"), power="**"),
    "triton": Syntax(line_comments=("#",), block_comments=(), strings=('"""', "'''", '"', "'"), power="**"),
    "ruby": Syntax(line_comments=("#",), block_comments=(("\n=begin", "\n=end"),), power="**"),
    "perl": _HASH,
    "bash": Syntax(line_comments=("#",), block_comments=(), power="**"),
    "r": Syntax(line_comments=("#",), block_comments=(), power="^", shifts=False),
    "julia": Syntax(line_comments=("#",), block_comments=(("#=", "=#"),), strings=('"""', '"'), power="^"),
    "lua": Syntax(line_comments=("--",), block_comments=(("--[[", "]]"),), power="^"),
    "haskell": Syntax(line_comments=("--",), block_comments=(("{-", "-}"),), strings=('"',), power="^", shifts=False),
    "ocaml": Syntax(line_comments=(), block_comments=(("(*", "*)"),), strings=('"',), power=None, shifts=False),
    "fsharp": Syntax(line_comments=("//",), block_comments=(("(*", "*)"),), strings=('"""', '"'), power=None),
    "pascal": Syntax(block_comments=(("{", "}"), ("(*", "*)")), strings=(), raw_strings=("'",), shifts=False),
    "fortran": Syntax(line_comments=("!",), block_comments=(), strings=(), raw_strings=('"', "'"), power="**", shifts=False),
    "scheme": Syntax(line_comments=(";",), block_comments=(("#|", "|#"),), strings=('"',), shifts=False),
    "lisp": Syntax(line_comments=(";",), block_comments=(("#|", "|#"),), strings=('"',), shifts=False),
}  # fmt: skip
# Languages whose operators stand before their operands: nothing is folded there.
_PREFIX_NOTATION = frozenset({"scheme", "lisp"})
# Words of a shell script stand for text, not for arithmetic.
_NO_ARITHMETIC = frozenset({"bash"})

NUMBER = re.compile(
    r"""0[xX][0-9a-fA-F](?:['_]?[0-9a-fA-F])*(?![.pP])  # hexadecimal
    | 0[bB][01](?:['_]?[01])*
    | 0[oO][0-7](?:['_]?[0-7])*
    | \d(?:['_]?\d)*(?:\.(?!\.)(?:\d(?:['_]?\d)*)?)?(?:[eEdD][+-]?\d+)?""",
    re.VERBOSE,
)
OCTAL = re.compile(r"0\d+")
SUFFIX = re.compile(r"(?:[uUlLfFnzZ]{1,3}|_?[iu](?:8|16|32|64|128|size)|_?f(?:32|64))(?![A-Za-z0-9_])")
_WORD = re.compile(r"[^\W\d]\w*")
_OPERATOR = re.compile(r"\*\*=?|\^\^|<<=?|>>=?|//(?!/)|[+\-*/%&|^]=|[=!<>]=|:=|\+\+|--|=>|->|&&|\|\||.", re.DOTALL)
# Operators that are known but not folded, such as `|` in patterns of Rust, still decide what their neighbours may do.
_PRECEDENCE = {
    "|": 1, "^": 2, "&": 3, "<<": 4, ">>": 4, "+": 5, "-": 5, "*": 6, "/": 6, "//": 6, "%": 6, "**": 8,
    "mod": 6, "div": 6, "rem": 6, "x": 6, "shl": 6, "shr": 6, "lsl": 7, "lsr": 7, "land": 6, "lor": 5, "lxor": 5,
}  # fmt: skip
_ASSIGN = frozenset({"=", ":="})
_UPDATES = frozenset({"+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "<<=", ">>=", "**=", "++", "--"})


@dataclass(frozen=True)
class Token:
    """A piece of code.

    Attributes:
        start, end: Where it stands in the text.
        text: Its characters.
        value: Of a number, else None.
        line_start: Whether only blanks stand before it on its line.
    """

    start: int
    end: int
    text: str
    value: Number | None = None
    line_start: bool = False


def tokens(text: str, language: str) -> list[Token]:
    """Cuts code into words, numbers and operators; comments, strings and blanks are left out.

    Args:
        text: The code.
        language: A key of `SYNTAX`; of others the syntax of C with `#` comments is assumed.
    """
    syntax = SYNTAX.get(language, Syntax(line_comments=("//",), strings=('"', "'")))
    found: list[Token] = []
    line_start = True
    for start, end, is_code in _segments(text, syntax):
        if not is_code:
            line_start = line_start or "\n" in text[start:end]
            continue
        at = start
        while at < end:
            character = text[at]
            if character.isspace():
                line_start = line_start or character == "\n"
                at += 1
                continue
            token = _token_at(text, at, end, syntax, line_start)
            found.append(token)
            at, line_start = token.end, False
    return found


def _token_at(text: str, at: int, end: int, syntax: Syntax, line_start: bool) -> Token:
    """The token that begins at a place where no blank stands."""
    if text[at].isdigit() and text[at].isascii():
        number = NUMBER.match(text, at, end)
        if number is not None:
            value = None if OCTAL.fullmatch(number[0]) else literal_value(number[0])
            stop = number.end()
            suffix = SUFFIX.match(text, stop, end)
            if suffix is not None:
                stop = suffix.end()
            follows = text[stop : stop + 1]
            if follows.isalnum() or follows == "_":
                value = None  # 3rd, 1px, 0b2: no number of the language
                word = re.compile(r"\w+").match(text, at, end)
                stop = word.end() if word is not None else stop
            return Token(at, stop, text[at:stop], value, line_start)
    word = _WORD.match(text, at, end)
    if word is not None:
        return Token(at, word.end(), word[0], None, line_start)
    operator = _OPERATOR.match(text, at, end)
    stop = operator.end() if operator is not None else at + 1
    return Token(at, stop, text[at:stop], None, line_start)


def _segments(text: str, syntax: Syntax) -> Iterator[tuple[int, int, bool]]:
    """Runs of the text as (start, end, whether it is code), comments and strings between them."""
    openings: dict[str, tuple[str | None, str]] = {opening: (None, "comment") for opening in syntax.line_comments}
    openings |= {opening: (closing, "comment") for opening, closing in syntax.block_comments}
    openings |= {quote: (quote, "string") for quote in syntax.strings}
    openings |= {quote: (quote, "raw") for quote in syntax.raw_strings}
    if not openings:
        yield 0, len(text), True
        return
    longest_first = sorted(openings, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    at = begin = 0
    while (opened := pattern.search(text, at)) is not None:
        start = opened.start()
        if opened[0] == "'" and _is_separator(text, start):
            at = start + 1  # 4'000'000
            continue
        closing, what = openings[opened[0]]
        stop = _end_of(text, opened.end(), closing, what)
        if begin < start:
            yield begin, start, True
        yield start, stop, False
        at = begin = stop
    if begin < len(text):
        yield begin, len(text), True


def _is_separator(text: str, at: int) -> bool:
    """Whether the apostrophe at a place separates digits of one number."""
    return 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum() and _in_number(text, at)


def _in_number(text: str, at: int) -> bool:
    """Whether the word that ends before a place begins with a digit."""
    start = at
    while start > 0 and (text[start - 1].isalnum() or text[start - 1] in "'_"):
        start -= 1
    return text[start].isdigit()


def _end_of(text: str, at: int, closing: str | None, what: str) -> int:
    """Where a comment or string ends whose opening ends at a place; an unclosed string ends with its line."""
    if closing is None:
        stop = text.find("\n", at)
        return len(text) if stop < 0 else stop
    if what != "string":
        stop = text.find(closing, at)
        return len(text) if stop < 0 else stop + len(closing)
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text.startswith(closing, at):
            return at + len(closing)
        elif text[at] == "\n" and len(closing) == 1:
            return at
        else:
            at += 1
    return len(text)


def literal_value(literal: str) -> Number:
    """The value of a literal without its suffix; an integer wherever the value is one."""
    plain = literal.replace("_", "").replace("'", "").lower()
    if plain.startswith(("0x", "0b", "0o")):
        return int(plain, 0)
    if plain.isdigit():
        return int(plain)  # octal numbers of C have no value, see `_token_at`
    mantissa, _, exponent = plain.replace("d", "e").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits, power = int((whole + fraction) or "0"), int(exponent or "0") - len(fraction)
    if abs(power) > 400:
        return 0.0
    if power >= 0 and exponent:
        return digits * 10**power
    if exponent and digits % 10**-power == 0:
        return digits // 10**-power
    return digits * 10.0**power


# ---------------------------------------------------------------------------------------------------- expressions


@dataclass(frozen=True)
class Folded:
    """A constant expression.

    Attributes:
        value: Its value.
        first, last: Its first token, and the one behind its last.
        operators: How many operators it has.
        lowest: Precedence of its operator that binds least; a large number where there is none.
    """

    value: Number
    first: int
    last: int
    operators: int
    lowest: int = 99


class ConstantParser:
    """Folds constant expressions of a token list by operator precedence.

    Args:
        code: The tokens.
        language: Decides which operators there are.
        names: Values of named constants.
    """

    def __init__(self, code: list[Token], language: str, names: dict[str, Number] | None = None):
        self.code = code
        self.names = names or {}
        syntax = SYNTAX.get(language, _C)
        self.precedence = dict(_PRECEDENCE)
        del self.precedence["**"]
        if syntax.power:
            self.precedence[syntax.power] = 8
        if not syntax.shifts:
            del self.precedence["<<"], self.precedence[">>"]
        if language in _PREFIX_NOTATION or language in _NO_ARITHMETIC:
            self.precedence = {}
        self.power = syntax.power

    def at(self, first: int) -> Folded | None:
        """The longest constant expression that begins at a token, None where none does.

        An operator that stands before the token limits it to operators that bind more tightly. One behind it must not bind
        more tightly than those inside: `a - 2 + 3` and `1 + 2 * n` hold no foldable sum.
        """
        before = self.code[first - 1].text if first else ""
        least = self.precedence.get(before, 0) + 1 if self._is_binary(first - 1) else 1
        if before in ("!", "~") or (before in ("+", "-") and not self._is_binary(first - 1)):
            least = 9
        return self._expression(first, least, 0)

    def _is_binary(self, at: int) -> bool:
        """Whether an operator at a token has a left operand."""
        if at < 1 or self.code[at].text not in self.precedence:
            return False
        left = self.code[at - 1]
        return left.value is not None or left.text in (")", "]") or left.text[-1:].isalnum() or left.text[-1:] == "_"

    def _operand(self, first: int, depth: int) -> Folded | None:
        if first >= len(self.code) or depth > _MAX_DEPTH:
            return None
        token = self.code[first]
        if token.value is not None:
            return Folded(token.value, first, first + 1, 0)
        if token.text in self.names and not self._is_qualified(first):
            return Folded(self.names[token.text], first, first + 1, 0)
        if token.text == "(":
            inside = self._expression(first + 1, 1, depth + 1)
            if inside is not None and inside.last < len(self.code) and self.code[inside.last].text == ")":
                return Folded(inside.value, first, inside.last + 1, inside.operators)
        return None

    def _is_qualified(self, at: int) -> bool:
        """Whether a name is an attribute of something, or called or indexed."""
        before = self.code[at - 1].text if at else ""
        after = self.code[at + 1].text if at + 1 < len(self.code) else ""
        return before in (".", "->", "::") or after in ("(", "[", ".", "{")

    def _expression(self, first: int, least: int, depth: int) -> Folded | None:
        left = self._operand(first, depth)
        if left is None:
            return None
        while left.last < len(self.code):
            operator = self.code[left.last].text
            precedence = self.precedence.get(operator, 0)
            if precedence < least:
                break
            right_associative = operator == self.power
            right = self._expression(left.last + 1, precedence + (not right_associative), depth)
            value = None if right is None else _apply(operator, left.value, right.value, self.power)
            if right is None or value is None or self._binds_tighter(right.last, precedence):
                break
            count = left.operators + right.operators + 1
            left = Folded(value, left.first, right.last, count, min(left.lowest, precedence))
        if self._binds_tighter(left.last, left.lowest) and left.operators:
            return None
        return left

    def _binds_tighter(self, at: int, precedence: int) -> bool:
        """Whether the operator at a token would take the operand before it away."""
        return at < len(self.code) and self.precedence.get(self.code[at].text, 0) > precedence


def _apply(operator: str, left: Number, right: Number, power: str | None) -> Number | None:
    """The value of `left operator right`; None where it is no exact number of moderate size."""
    if operator == power:
        if not isinstance(right, int) or right < 0 or right * max(abs(left), 2).__int__().bit_length() > _MAX_BITS:
            return None
        return left**right
    if operator in ("<<", ">>", "%", "//"):
        if not (isinstance(left, int) and isinstance(right, int)):
            return None
        return _integer_operation(operator, left, right)
    if operator == "/":
        if right == 0 or not isinstance(left, int) or not isinstance(right, int) or left % right:
            return None
        return left // right
    if operator not in ("+", "-", "*"):
        return None
    value = left + right if operator == "+" else left - right if operator == "-" else left * right
    return value if abs(value) < 2**_MAX_BITS else None


def _integer_operation(operator: str, left: int, right: int) -> int | None:
    if operator in ("<<", ">>"):
        if not 0 <= right < _MAX_BITS or (operator == "<<" and left.bit_length() + right > _MAX_BITS):
            return None
        return left << right if operator == "<<" else left >> right
    if right <= 0 or left < 0:
        return None  # languages disagree on negative operands
    return left % right if operator == "%" else left // right


# ---------------------------------------------------------------------------------------------------- names


def constants(text: str, language: str) -> dict[str, Number]:
    """Names that are bound exactly once in a text, to a constant expression, with their values."""
    return _constants(tokens(text, language), language)


def _constants(code: list[Token], language: str) -> dict[str, Number]:
    bindings = _bindings(code)
    known: dict[str, Number] = {}
    for _ in range(4):  # constants of constants
        parser = ConstantParser(code, language, known)
        new = {}
        for name, places in bindings.items():
            if len(places) == 1 and places[0] >= 0 and name not in known:
                folded = parser.at(places[0])
                if folded is not None and _ends_statement(code, folded.last):
                    new[name] = folded.value
        if not new:
            break
        known |= new
    return known


def _bindings(code: list[Token]) -> dict[str, list[int]]:
    """Name to the tokens where its values begin; -1 for a change whose value is not read."""
    found: dict[str, list[int]] = {}
    for at, token in enumerate(code):
        if token.text in _ASSIGN and at:
            name = _bound_name(code, at)
            if name:
                found.setdefault(name, []).append(at + 1)
        elif token.text in _UPDATES:
            for neighbour in (at - 1, at + 1):
                if 0 <= neighbour < len(code) and _WORD.fullmatch(code[neighbour].text):
                    found.setdefault(code[neighbour].text, []).append(-1)
        elif token.text == "define" and at and code[at - 1].text in ("#", "(") and at + 2 < len(code):
            if code[at + 1].end < code[at + 2].start:  # not a macro with arguments
                found.setdefault(code[at + 1].text, []).append(at + 2)
        elif token.text in ("for", "in", "<-") and at + 1 < len(code) and token.text == "for":
            name = code[at + 1].text
            if _WORD.fullmatch(name):
                found.setdefault(name, []).append(-1)
        elif token.text in (">>", "&") and at + 1 < len(code) and _WORD.fullmatch(code[at + 1].text):
            if token.text == ">>" or (at and code[at - 1].text in (",", "(")):  # cin >> n, scanf("%d", &n)
                found.setdefault(code[at + 1].text, []).append(-1)
    return found


def _bound_name(code: list[Token], at: int) -> str:
    """The name that an assignment binds, "" where it binds none or several."""
    name_at = at - 1
    for back in (2, 3, 4):  # n: usize = 1, n: Long = 1, n: list[int] is none
        if at >= back and code[at - back + 1].text == ":" and at - back >= 0 and back > 1:
            name_at = at - back
            break
    name = code[name_at].text
    if not _WORD.fullmatch(name):
        return ""
    before = code[name_at - 1].text if name_at else ""
    return "" if before in (".", "->") else name


def _ends_statement(code: list[Token], at: int) -> bool:
    """Whether no operand goes on at a token: a constant ends there."""
    if at >= len(code):
        return True
    token = code[at]
    return token.line_start or token.text in (";", ",", ")", "}", "]", "in", "and", "then", "do", ":")


# ---------------------------------------------------------------------------------------------------- text


@lru_cache(maxsize=4096)  # a fit reads each of its texts several times
def canonical_source(text: str, language: str) -> str:
    """The text with integers and constant expressions as plain decimals; all else stays as it is.

    Args:
        text: The code.
        language: A key of `SYNTAX`; texts of other languages come back unchanged.
    """
    if language not in SYNTAX:
        return text
    code = tokens(text, language)
    parser = ConstantParser(code, language)
    parts: list[str] = []
    copied = at = 0
    while at < len(code):
        folded = parser.at(at) if code[at].value is not None or code[at].text == "(" else None
        if folded is None or not isinstance(folded.value, int) or folded.value < 0:
            at += 1
            continue
        start, end = code[folded.first].start, code[folded.last - 1].end
        if folded.operators == 0:  # a single literal: parentheses stay
            if code[at].value is None:
                at += 1
                continue
            plain = _plain_literal(code[at])
        elif code[at].text == "(" and _is_call(code, at):
            at += 1  # the parentheses of f(1 << 20) stay
            continue
        else:
            plain = str(folded.value)
        parts += [text[copied:start], plain]
        copied, at = end, folded.last
    return "".join([*parts, text[copied:]])


def _is_call(code: list[Token], at: int) -> bool:
    """Whether parentheses that open at a token belong to the word before them."""
    return at > 0 and (code[at - 1].text[-1:].isalnum() or code[at - 1].text[-1:] in "_)]>")


def _plain_literal(token: Token) -> str:
    """A literal as a plain decimal; octal numbers of C and floats without an exponent stay as they are."""
    number = NUMBER.match(token.text)
    if number is None or not isinstance(token.value, int) or ("." in token.text and "e" not in token.text.lower()):
        return token.text
    return str(token.value) + token.text[number.end() :]  # the suffix names the type


# ---------------------------------------------------------------------------------------------------- allocations

# Bytes of an element by the name of its type. Names that several languages share have one size in all of them.
_SIZES = {
    "bool": 1, "boolean": 1, "byte": 1, "char": 1, "i8": 1, "u8": 1, "int8_t": 1, "uint8_t": 1,
    "short": 2, "i16": 2, "u16": 2, "int16_t": 2, "uint16_t": 2,
    "int": 4, "unsigned": 4, "float": 4, "i32": 4, "u32": 4, "f32": 4, "int32_t": 4, "uint32_t": 4,
    "long": 8, "double": 8, "i64": 8, "u64": 8, "f64": 8, "usize": 8, "isize": 8, "int64_t": 8, "uint64_t": 8, "size_t": 8,
    "ll": 8, "ull": 8, "string": 32,
}  # fmt: skip
_ARRAY_CODES = {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "f": 4, "l": 8, "L": 8, "q": 8, "Q": 8, "d": 8}
_POINTER = 8
_PYTHON_INT = 32  # an object of CPython above 256, with the allocator's rounding
_VECTOR_HEADER = 24


def allocated_bytes(text: str, language: str) -> int:
    """A lower bound of the memory that a program holds at once, from allocations of constant size that it writes to.

    The largest allocation counts, not their sum, as the text does not say which live together. Not counted are allocations
    under a condition and memory that is only reserved (`malloc`, `calloc`, global arrays, `numpy.zeros`, `make` of Go).

    Args:
        text: The code.
        language: python, cpp, java, rust, javascript, typescript, ruby or php; 0 for others.
    """
    readers = {
        "python": _python_allocation,
        "cpp": _cpp_allocation,
        "java": _java_allocation,
        "rust": _rust_allocation,
        "javascript": _javascript_allocation,
        "typescript": _javascript_allocation,
        "ruby": _ruby_allocation,
        "php": _php_allocation,
    }
    if language not in readers:
        return 0
    code = tokens(text, language)
    reader = _Allocations(code, ConstantParser(code, language, _constants(code, language)))
    sizes = {at: readers[language](reader, at) for at in range(len(code))}
    conditional = _conditional_lines(text)
    largest = 0
    for at, size in sizes.items():
        if size > largest and not conditional[text.count("\n", 0, code[at].start)]:
            largest = size
    return largest


_CONDITION = re.compile(
    r"\s*(?:\}\s*)?(?:if|else|elif|elsif|unless|case|when|switch|match|catch|except|rescue|default)\b"
)


def _conditional_lines(text: str) -> list[bool]:
    """Whether each line stands under a condition, by its own first word and those of the lines that it is indented under."""
    found: list[bool] = []
    open_lines: list[tuple[int, bool]] = []  # indentation and condition of the lines around the present one
    for line in text.split("\n"):
        bare = line.strip()
        if not bare:
            found.append(False)
            continue
        indent = len(line.expandtabs(8)) - len(line.expandtabs(8).lstrip())
        while open_lines and open_lines[-1][0] >= indent:
            open_lines.pop()
        around = bool(open_lines) and open_lines[-1][1]
        own = around or _CONDITION.match(line) is not None or " if " in line
        found.append(own)
        open_lines.append((indent, own))
    return found


class _Allocations:
    """Tokens with what allocation readers ask of them."""

    def __init__(self, code: list[Token], parser: ConstantParser):
        self.code = code
        self.parser = parser
        self.closing = _matching(code)

    def text(self, at: int) -> str:
        """The text of a token, "" outside the code."""
        return self.code[at].text if 0 <= at < len(self.code) else ""

    def texts(self, at: int, *expected: str) -> bool:
        """Whether tokens with these texts begin at a place."""
        return all(self.text(at + offset) == text for offset, text in enumerate(expected))

    def count(self, at: int, closes: tuple[str, ...]) -> tuple[int, int]:
        """A constant count that ends before one of some tokens, and the place of that token; 0 where there is none."""
        folded = self.parser.at(at)
        if (
            folded is None
            or not isinstance(folded.value, int)
            or folded.value <= 0
            or self.text(folded.last) not in closes
        ):
            return 0, at
        return folded.value, folded.last


def _matching(code: list[Token]) -> dict[int, int]:
    """Places of opening brackets to those of their closing ones."""
    found: dict[int, int] = {}
    waiting: list[int] = []
    for at, token in enumerate(code):
        if token.text in ("(", "[", "{"):
            waiting.append(at)
        elif token.text in (")", "]", "}") and waiting:
            found[waiting.pop()] = at
    return found


def _python_allocation(reader: _Allocations, at: int) -> int:
    """`[x] * n`, comprehensions over `range(n)`, `list(range(n))`, `array(code, ...) * n`, `numpy.ones(shape)`."""
    if reader.text(at) == "[":
        return _python_list(reader, at)
    if reader.texts(at, "list", "(", "range", "("):
        count = _python_range(reader, at + 2)
        return count * (_POINTER + _PYTHON_INT)
    if reader.text(at) in ("ones", "full", "arange", "rand", "randn") and reader.text(at - 1) == ".":
        return 8 * _python_shape(reader, at + 1)
    return 0


def _python_list(reader: _Allocations, at: int, depth: int = 0) -> int:
    """Bytes of the list whose bracket opens at a place."""
    close = reader.closing.get(at)
    if close is None or depth > 4:
        return 0
    inner = _python_list(reader, at + 1, depth + 1) if reader.text(at + 1) == "[" else 0
    if reader.text(close + 1) == "*":
        folded = reader.parser._operand(close + 2, 0)
        count = folded.value if folded is not None and isinstance(folded.value, int) else 0
        # [[0] * m] * n holds one row n times.
        return max(inner, count * _POINTER)
    loop = next((k for k in range(at + 1, close) if reader.text(k) == "for" and _depth_is_zero(reader, at, k)), None)
    if loop is None or not reader.texts(loop + 2, "in", "range", "("):
        return inner
    count = _python_range(reader, loop + 3)
    element = inner
    variable = reader.text(loop + 1)
    computed = any(reader.text(k) == variable and reader.text(k + 1) in ("*", "+", "**") for k in range(at + 1, loop))
    if computed and count > 10_000 and loop - at <= 8 and not any(reader.text(k) == "%" for k in range(at, loop)):
        element = max(element, _PYTHON_INT)
    return count * (_POINTER + element)


def _depth_is_zero(reader: _Allocations, opening: int, at: int) -> bool:
    """Whether no bracket that opens behind a place is open at another."""
    k = opening + 1
    while k < at:
        k = reader.closing.get(k, k) + 1
    return k == at


def _python_range(reader: _Allocations, at: int) -> int:
    """Length of `range(n)` or `range(a, n)` at a place; 0 where it is not constant."""
    first, stop = reader.count(at + 2, (")", ","))
    if not first or reader.text(stop) == ")":
        return first
    second, stop = reader.count(stop + 1, (")",))
    return max(second - first, 0)


def _python_shape(reader: _Allocations, at: int) -> int:
    """Elements of a shape `(n)` or `((n, m))` whose outer parenthesis opens at a place."""
    at += 2 if reader.texts(at, "(", "(") else 1
    elements = 1
    while True:
        count, stop = reader.count(at, (")", ","))
        if not count:
            return 0 if elements == 1 else elements
        elements *= count
        if reader.text(stop) == ")" or reader.code[stop + 1].value is None:
            return elements
        at = stop + 1


def _cpp_allocation(reader: _Allocations, at: int) -> int:
    """`vector<T> a(n)`, `vector<vector<T>> a(n, vector<T>(m))`, `string(n, c)`."""
    if reader.text(at) == "vector" and reader.text(at + 1) == "<":
        return _cpp_vector(reader, at, 0)
    return 0


def _cpp_vector(reader: _Allocations, at: int, depth: int) -> int:
    close = _closing_angle(reader, at + 1)
    if close is None or depth > 4:
        return 0
    opening = close + 1
    if _WORD.fullmatch(reader.text(opening) or "-"):
        opening += 1
    if reader.text(opening) != "(":
        return 0
    count, stop = reader.count(opening + 1, (")", ","))
    if reader.text(at + 2) == "vector" or reader.texts(at + 2, "std", ":", ":", "vector"):
        if not count or reader.text(stop) != ",":
            return count * _VECTOR_HEADER
        inner = stop + 1 + (3 if reader.texts(stop + 1, "std", ":", ":") else 0)
        return count * (
            _VECTOR_HEADER + (_cpp_vector(reader, inner, depth + 1) if reader.text(inner) == "vector" else 0)
        )
    if reader.text(at + 2) == "bool":
        return count // 8
    return count * _SIZES.get(reader.text(close - 1), 0)


def _closing_angle(reader: _Allocations, at: int) -> int | None:
    """The token that closes the angle bracket that opens at a place; `>>` closes two."""
    depth = 0
    for k in range(at, min(at + 24, len(reader.code))):
        text = reader.text(k)
        depth += (text == "<") - (text == ">") - 2 * (text == ">>")
        if depth <= 0:
            return k
    return None


def _java_allocation(reader: _Allocations, at: int) -> int:
    """`new long[n][m]`; references take 4 bytes."""
    if reader.text(at) != "new" or reader.text(at + 2) != "[":
        return 0
    elements, at_bracket = 1, at + 2
    while reader.text(at_bracket) == "[":
        count, stop = reader.count(at_bracket + 1, ("]",))
        if not count:
            break
        elements *= count
        at_bracket = stop + 1
    return elements * _SIZES.get(reader.text(at + 1), 4) if elements > 1 else 0


def _rust_allocation(reader: _Allocations, at: int) -> int:
    """`vec![x; n]` of numbers that are not zero, `vec![vec![x; m]; n]`; zeros are only reserved."""
    return _rust_vector(reader, at, 0) if reader.texts(at, "vec", "!", "[") else 0


def _rust_vector(reader: _Allocations, at: int, depth: int) -> int:
    close = reader.closing.get(at + 2)
    if close is None or depth > 4:
        return 0
    inside = at + 3
    nested = reader.texts(inside, "vec", "!", "[")
    separator = reader.closing.get(inside + 2, inside) + 1 if nested else inside + 1
    if reader.text(separator) != ";":
        return 0
    count, _ = reader.count(separator + 1, ("]", "as"))
    if nested:
        return count * (_VECTOR_HEADER + max(_rust_vector(reader, inside, depth + 1), _rust_zeros(reader, inside)))
    element = reader.code[inside]
    written = bool(element.value) or depth > 0
    return count * _rust_size(element) if written else 0


def _rust_zeros(reader: _Allocations, at: int) -> int:
    """Bytes of `vec![0; m]` that is cloned, and so written."""
    return _rust_vector(reader, at, 1)


def _rust_size(element: Token) -> int:
    """Bytes of a literal's type, 1 where the literal does not say."""
    suffix = re.search(r"[iuf](?:8|16|32|64|128|size)$", element.text)
    return _SIZES.get(suffix[0], 1) if suffix is not None else 1


def _javascript_allocation(reader: _Allocations, at: int) -> int:
    """`new Array(n).fill(x)`, `Array.from({length: n}, ...)`."""
    if reader.texts(at, "Array", "("):
        count, stop = reader.count(at + 2, (")",))
        return count * _POINTER if reader.texts(stop, ")", ".", "fill") else 0
    if reader.texts(at, "Array", ".", "from", "(", "{", "length", ":"):
        count, _ = reader.count(at + 7, ("}", ","))
        return count * _POINTER
    return 0


def _ruby_allocation(reader: _Allocations, at: int) -> int:
    """`Array.new(n, x)`."""
    if not reader.texts(at, "Array", ".", "new", "("):
        return 0
    return reader.count(at + 4, (")", ","))[0] * _POINTER


def _php_allocation(reader: _Allocations, at: int) -> int:
    """`array_fill(0, n, x)`, 16 bytes an element."""
    if not reader.texts(at, "array_fill", "("):
        return 0
    comma = next((k for k in range(at + 2, min(at + 6, len(reader.code))) if reader.text(k) == ","), None)
    return 0 if comma is None else reader.count(comma + 1, (",",))[0] * 16


# ---------------------------------------------------------------------------------------------------- sizes of kernels

_SIZE_KEYS = re.compile(r"(?:input|tensor|problem)?[ _-]?(?:sizes?|shapes?)", re.IGNORECASE)
_BY_ARGUMENTS = frozenset(
    {"rand", "randn", "zeros", "ones", "empty"}
)  # torch.randn(n, m) as well as torch.randn((n, m))
_BY_TUPLE = {"full": 0, "randint": -1}  # which argument without a name is the shape


def with_kernel_sizes(context: tuple[str, ...], text: str) -> tuple[str, ...]:
    """Context lines of a GPU kernel with `input_size` in one spelling, or with the sizes that its file states.

    Where no line gives sizes, those of the tensors count that the file makes for a call of the kernel, such as
    `x = torch.randn(4096, N, device="cuda")` in its test. Without these the context stays as it is.

    Args:
        context: Lines `key: value`; `input_size`, `input_shapes`, `sizes` and the like are one key.
        text: The file.
    """
    lines = []
    for line in context:
        key, _, value = line.partition(":")
        lines.append(f"input_size: {_one_spelling(value)}" if _SIZE_KEYS.fullmatch(key.strip()) else line)
    if any(line.startswith("input_size:") for line in lines):
        return tuple(lines)
    sizes = _tensor_sizes(text)
    return (f"input_size: {', '.join(sizes)}", *lines) if sizes else context


def _one_spelling(value: str) -> str:
    """`(4096, 4096), (4096,)`, `[[4096, 4096], [4096]]` and `4096 x 4096, 4096` as `4096x4096, 4096`."""
    plain = value.strip()
    if plain[:1] in ("(", "[") and "x" not in plain:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read = ast.literal_eval(plain)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return plain
        shapes = read if any(isinstance(item, (list, tuple)) for item in read) else [read]
        if all(isinstance(shape, (list, tuple)) and all(type(n) is int for n in shape) for shape in shapes):
            return ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
    return re.sub(r"(?<=\d)\s*[x\u00d7*]\s*(?=\d)", "x", plain, flags=re.IGNORECASE)


def _tensor_sizes(text: str) -> list[str]:
    """Shapes of the tensors that a file makes for one call, of the first function or of the file itself that makes some."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    known = constants(text, "python")
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for scope in (*functions, tree):
        own = {**known, **_own_constants(scope)}
        sizes: list[str] = []
        made: set[str] = set()
        for node in ast.walk(scope):
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                continue
            size = _tensor_size(node.value, own)
            if size is None:
                continue
            if node.targets[0].id in made:
                break  # the next case of a test
            made.add(node.targets[0].id)
            sizes.append(size)
        if sizes:
            return sizes
    return []


def _tensor_size(node: ast.expr, known: dict[str, Number]) -> str | None:
    """The shape that `torch.randn(4096, N, device="cuda")` makes, `4096x128`; None for other expressions."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    name = node.func.attr
    if not isinstance(node.func.value, ast.Name) or node.func.value.id != "torch" or not node.args:
        return None
    if name in _BY_TUPLE:
        shape: list[ast.expr] = [node.args[_BY_TUPLE[name]]]
    elif name in _BY_ARGUMENTS:
        shape = list(node.args)
    else:
        return None
    if len(shape) == 1 and isinstance(shape[0], (ast.Tuple, ast.List)):
        shape = list(shape[0].elts)
    elif name in _BY_TUPLE:
        return None
    values = [_size(each, known) for each in shape]
    if not values or any(value is None or value < 1 for value in values):
        return None
    return "x".join(str(value) for value in values)


def _size(node: ast.expr, known: dict[str, Number]) -> int | None:
    """The whole number that an expression of literals and constants stands for."""
    code = tokens(ast.unparse(node), "python")
    folded = ConstantParser(code, "python", known).at(0)
    whole = folded is not None and folded.last == len(code)
    return folded.value if folded is not None and whole and isinstance(folded.value, int) else None


def _own_constants(scope: ast.AST) -> dict[str, Number]:
    """Numbers that a scope binds its names to, one by one or several at once: `M, N = 512, 256`."""
    found: dict[str, Number] = {}
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign):
            continue
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        else:
            pairs = [(target, value)]
        for name, expression in pairs:
            size = _size(expression, found) if isinstance(name, ast.Name) else None
            if size is not None and isinstance(name, ast.Name):
                found.setdefault(name.id, size)
    return found


__all__ = [
    "SYNTAX",
    "ConstantParser",
    "Folded",
    "Syntax",
    "Token",
    "allocated_bytes",
    "canonical_source",
    "constants",
    "tokens",
    "with_kernel_sizes",
]
