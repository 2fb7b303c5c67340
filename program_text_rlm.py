"""The outline of a program, for all languages: tokens, brackets, indented lines, functions, loops and conditions.

    outline = Outline("for i in range(10):\\n    f(i)\\n", "python")
    outline.heads                                        # [Head(kind="loop", word="for", header=(1, 7), body=(8, 12))]

One scanner reads every language. `LANGUAGES` says how a language marks the body of a loop: by braces, by indentation (languages
whose blocks end with a word are indented in practice, too) or by parentheses. Comments are left out and strings are one token
each. All passes are linear in the length of the text.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from .source_rlm import NUMBER, OCTAL, SUFFIX, SYNTAX, Number, Syntax, literal_value

STRING = '""'  # the text of a string's token
MOST_TOKENS = 50_000  # of a program that are read
PADDING = 64  # columns of tokens are longer by so much, so that a few tokens can be read behind the last
MOST_STEPS = 400  # tokens that a search for the end of a statement or header looks at


@dataclass(frozen=True)
class Language:
    """How a language writes blocks, and what its values cost.

    Attributes:
        layout: What encloses a body: "braces", "indent" or "parens".
        token_ns: Nanoseconds that a token takes on average each time it is run.
        slot: Bytes of an element of a growing list, spare room included.
        boxed: Further bytes of a number that is an element of such a list.
        entry: Bytes of an entry of a map, its number included.
        object: Bytes of an object without its fields.
        field: Bytes of an object's field.
        newline_ends: Whether a statement ends with its line.
        types_first: Whether parameters are written with the type before the name.
        inclusive: Whether `a..b` includes b.
    """

    layout: str = "braces"
    token_ns: float = 0.4
    slot: int = 8
    boxed: int = 0
    entry: int = 56
    object: int = 16
    field: int = 8
    newline_ends: bool = False
    types_first: bool = False
    inclusive: bool = False


_NATIVE = Language(types_first=True, slot=10, entry=48)
_SCRIPT = Language(token_ns=1.0, slot=10, boxed=4, entry=60, object=24, newline_ends=True)
LANGUAGES: dict[str, Language] = {
    "c": _NATIVE,
    "cpp": _NATIVE,
    "cuda": _NATIVE,
    "d": Language(types_first=True, slot=10, entry=64),
    "java": Language(types_first=True, token_ns=0.6, slot=6, boxed=16, entry=64),
    "csharp": Language(types_first=True, token_ns=0.6, slot=10, entry=40, object=16),
    "go": Language(newline_ends=True, slot=10, entry=40, object=8),
    "rust": Language(slot=10, entry=40, object=8),
    "swift": Language(newline_ends=True, token_ns=0.8, entry=48),
    "kotlin": Language(newline_ends=True, token_ns=0.6, slot=6, boxed=16, entry=64, inclusive=True),
    "scala": Language(newline_ends=True, token_ns=0.6, slot=6, boxed=16, entry=64),
    "javascript": _SCRIPT,
    "typescript": _SCRIPT,
    "php": Language(token_ns=6.0, slot=20, entry=40, object=56, field=16),
    "perl": Language(token_ns=12.0, slot=10, boxed=24, entry=100, object=150, field=60, inclusive=True),
    "python": Language("indent", token_ns=9.0, slot=9, boxed=32, entry=100, object=56, field=16, newline_ends=True),
    "triton": Language("indent", newline_ends=True),
    "ruby": Language("indent", token_ns=9.0, slot=9, entry=60, object=40, field=8, newline_ends=True, inclusive=True),
    "lua": Language("indent", token_ns=4.0, slot=20, entry=40, object=56, field=32, newline_ends=True),
    "julia": Language("indent", token_ns=1.0, newline_ends=True, inclusive=True),
    "pascal": Language("indent", entry=48, inclusive=True),
    "fortran": Language("indent", newline_ends=True, inclusive=True),
    "ocaml": Language("indent", token_ns=0.8, slot=24, entry=56, object=8),
    "haskell": Language("indent", token_ns=2.0, slot=40, entry=72, object=8, newline_ends=True, inclusive=True),
    "bash": Language("indent", token_ns=500.0, slot=60, entry=100, newline_ends=True, inclusive=True),
    "scheme": Language("parens", token_ns=3.0, slot=16, entry=60, object=16),
    "lisp": Language("parens", token_ns=3.0, slot=16, entry=60, object=16),
}  # fmt: skip
_ANY_CASE = frozenset({"pascal", "fortran"})
_SIGILS = {"php": "$", "perl": "$@", "bash": "$", "ruby": "@$"}  # characters before a name that are no part of it
_QUOTES_IN_WORDS = frozenset({"haskell", "ocaml"})

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_OPENING = {closing: opening for opening, closing in _CLOSING.items()}
LOOP_WORDS = frozenset(
    {"for", "foreach", "while", "until", "loop", "do", "repeat", "dotimes", "forM_", "forM", "foreach_reverse"}
)
_CONDITION_WORDS = frozenset(
    {"if", "elif", "else", "elsif", "elseif", "unless", "case", "when", "switch", "match", "catch", "except", "cond"}
)
FUNCTION_WORDS = frozenset(
    {"def", "function", "func", "fn", "fun", "sub", "procedure", "subroutine", "define", "let", "lambda"}
)
_NO_FUNCTIONS = frozenset(
    "if for while switch catch foreach return else synchronized using lock until match function func fn elseif with do sizeof "
    "foreach_reverse".split()
)
_TYPE_WORDS = frozenset({"const", "mut", "var", "let", "ref", "out", "final", "in", "inout", "val", "vararg"})


@dataclass(frozen=True)
class Head:
    """A loop or condition.

    Attributes:
        kind: "loop", "comprehension" or "condition".
        at: The token of its word.
        header, body: First token and the one behind the last of what it says and of what it governs.
    """

    kind: str
    at: int
    header: tuple[int, int]
    body: tuple[int, int]


@dataclass(frozen=True)
class Function:
    """A function that the text defines.

    Attributes:
        name: Its name.
        at: The token of its name.
        parameters: Names in their order.
        body: First token and the one behind the last.
    """

    name: str
    at: int
    parameters: tuple[str, ...]
    body: tuple[int, int]


class Outline:
    """Tokens of a program and what they enclose.

    Args:
        text: The program.
        language: A key of `LANGUAGES`; others are read as C.

    Attributes:
        texts: Text of every token, `STRING` for strings.
        values: Number that a literal stands for, else None; the length of a string.
        strings: Content of short strings by token.
        lines: Line of every token, counted from 0; only lines with tokens count.
        starts: First token of every line.
        closing: For an opening bracket the token that closes it, itself for other tokens and unclosed brackets.
        opening: The same from closing brackets.
            All three have room behind the last token.
        outer: The innermost bracket that is open at a token, -1 for none.
        functions: Definitions in the order of the text.
        heads: Loops and conditions in the order of the text.
    """

    def __init__(self, text: str, language: str):
        self.language = language
        self.facts = LANGUAGES.get(language, _NATIVE)
        self.texts, self.values, self.lines, self.starts, self.indents, self.strings = _scan(text, language)
        self._match_brackets()
        self._line_ends = _next_shallower(self.indents)
        self.functions: list[Function] = []
        self.heads: list[Head] = []
        self._find_heads()
        self.functions.sort(key=lambda function: (function.body[0], -function.body[1]))

    def text(self, at: int) -> str:
        """The text of a token, "" outside the program."""
        return self.texts[at] if 0 <= at < len(self.texts) else ""

    def starts_line(self, at: int) -> bool:
        """Whether a token is the first of its line."""
        return at < len(self.texts) and self.starts[self.lines[at]] == at

    def _match_brackets(self) -> None:
        count = len(self.texts) + PADDING
        self.closing, self.opening = list(range(count)), list(range(count))
        self.outer = [-1] * count
        self.values += [None] * PADDING
        waiting: list[int] = []
        for at, text in enumerate(self.texts):
            if text in _OPENING:
                if waiting and self.texts[waiting[-1]] == _OPENING[text]:
                    begin = waiting.pop()
                    self.closing[begin], self.opening[at] = at, begin
                elif len(waiting) > 1 and self.texts[waiting[-2]] == _OPENING[text]:  # one was left open
                    waiting.pop()
                    begin = waiting.pop()
                    self.closing[begin], self.opening[at] = at, begin
            self.outer[at] = waiting[-1] if waiting else -1
            if text in _CLOSING:
                waiting.append(at)

    # ------------------------------------------------------------------------------------------------ extents

    def statement_end(self, at: int) -> int:
        """The token behind a statement that goes on at a token; brackets inside it are skipped."""
        count = len(self.texts)
        for step in range(MOST_STEPS):
            if at >= count:
                return count
            text = self.texts[at]
            if text == ";" or (text in _OPENING and self.opening[at] != at) or text in ("end", "done", "fi"):
                return at
            if self.facts.newline_ends and step and self._begins_statement(at):
                return at
            at = self.closing[at] + 1
        return at

    def _begins_statement(self, at: int) -> bool:
        """Whether the token begins a line that does not continue the line before."""
        if not self.starts_line(at) or self.texts[at] in (".", "|>", "?.", "&&", "||", "+", "{", "?", ":"):
            return False
        return self.texts[at - 1] not in ("+", "-", "*", "/", ",", "=", "(", "&&", "||", ".", "\\")

    def line_end(self, at: int) -> int:
        """The token behind the last on a token's line; lines inside brackets that opened on it belong to it."""
        count, line = len(self.texts), self.lines[at]
        for _ in range(MOST_STEPS):
            if at >= count or self.lines[at] != line:
                return at
            if self.closing[at] != at:
                at = self.closing[at]
                line = self.lines[at]
            at += 1
        return at

    def indented_end(self, at: int) -> int:
        """The token behind the lines that are indented under a token's line."""
        line = self.lines[at]
        below = line + 1
        if (
            below < len(self.starts)
            and self.indents[below] == self.indents[line]
            and self.texts[self.starts[below]] in ("begin", "{", "do")
        ):
            line = below
        end = self._line_ends[line]
        return self.starts[end] if end < len(self.starts) else len(self.texts)

    def _body(self, header_end: int, head: int) -> tuple[int, int]:
        """The body whose header ends at a token."""
        facts, count = self.facts, len(self.texts)
        if facts.layout == "parens":
            around = self.outer[head]
            return header_end, self.closing[around] if around >= 0 and self.closing[around] != around else count
        if facts.layout == "indent":
            if self.text(header_end) == "{" and self.language in ("ruby", "bash"):
                return header_end + 1, self.closing[header_end]
            rest = header_end + (self.text(header_end) in (":", "do", "then", "=", "is"))
            last = self.line_end(header_end - 1) if header_end else 0
            end = self.indented_end(max(header_end - 1, 0))
            return min(rest, max(last, end)), max(last, end)
        return self._braced_body(header_end)

    def _braced_body(self, at: int) -> tuple[int, int]:
        """The block in braces or the single statement that begins at a token."""
        first = at
        count = len(self.texts)
        for _ in range(MOST_STEPS):
            if at >= count:
                return min(first, count), count
            text = self.texts[at]
            if text == "{":
                end = self.closing[at]
                return (at + 1, end) if at == first and end != at else (first, end + 1 if end != at else count)
            if text == ";" or (text in _OPENING and self.opening[at] != at):
                return first, at
            if self.facts.newline_ends and at > first and self._begins_statement(at):
                return first, at
            at = self.closing[at] + 1
        return first, at

    # ------------------------------------------------------------------------------------------------ heads

    def _find_heads(self) -> None:
        braces, parens = self.facts.layout == "braces", self.facts.layout == "parens"
        for at, text in enumerate(self.texts):
            if text in LOOP_WORDS:
                self._read_loop(at, text)
            elif text in _CONDITION_WORDS:
                self._read_condition(at)
            elif text in FUNCTION_WORDS:
                self._read_function(at, text)
            elif text == "{" and braces:
                self._read_typed_function(at)
            elif text == "=>" and self.language in ("javascript", "typescript", "csharp"):
                self._read_arrow(at)
            elif self.language == "haskell" and text in ("=", "|") and at and not parens:
                self._read_equation(at)

    def _header_in_parentheses(self, at: int) -> bool:
        return self.text(at) == "(" and self.closing[at] != at

    def _read_loop(self, at: int, word: str) -> None:
        """A loop that begins with a word."""
        language, layout = self.language, self.facts.layout
        before = self.text(at - 1)
        if before in (".", "->", "::", "end") or (self.text(at + 1) in ("=", ".") and word in ("loop", "do", "repeat")):
            return
        if layout == "parens":
            self._read_scheme_loop(at, word)
            return
        if word == "do" and language not in (
            "fortran",
            "c",
            "cpp",
            "java",
            "javascript",
            "typescript",
            "csharp",
            "d",
            "php",
        ):
            return
        if word in ("loop", "repeat") and language not in ("rust", "lua", "pascal", "swift", "ruby"):
            return
        if word == "until" and language not in ("ruby", "perl", "bash"):
            return
        around = self.outer[at]
        if word == "for" and language == "python" and around >= 0:
            self._read_comprehension(at, around)
            return
        if word == "while" and before == "}" and self._closes_do(at - 1):
            return
        if word == "do" and language != "fortran":
            if self.text(at + 1) == "{" and self.text(self.closing[at + 1] + 1) == "while":
                tail = self.closing[at + 1] + 2
                header = (tail + 1, self.closing[tail]) if self._header_in_parentheses(tail) else (tail, tail)
                self.heads.append(Head("loop", at, header, (at + 2, self.closing[at + 1])))
            return
        header, end = self._loop_header(at)
        self.heads.append(Head("loop", at, header, self._body(end, at)))

    def _closes_do(self, at: int) -> bool:
        """Whether a closing brace ends the body of `do`."""
        return self.text(self.opening[at] - 1) == "do"

    def _loop_header(self, at: int) -> tuple[tuple[int, int], int]:
        """The header of the loop whose word is at a token, and where it ends."""
        first = at + 1
        if self.text(first) == "each" and self.text(at) == "for":
            first += 1
        if self.language == "perl" and self.text(first) in ("my", "our"):
            first += 1
        if self.language == "bash" and self._header_in_parentheses(first):
            end = self.closing[first] + 1
            inner = first + 1 if self.text(first + 1) == "(" else first
            return (inner + 1, self.closing[inner]), end + (self.text(end) == ";")
        opened = first + 1 if self.language == "perl" and self.text(first + 1) == "(" else first
        if self._header_in_parentheses(opened) and self.facts.layout != "indent":
            last = self.closing[opened]
            if (
                self.facts.types_first
                or self.text(last + 1) in ("{", ";")
                or self.language in ("kotlin", "perl", "php")
            ):
                return (first + (opened == first), last), last + 1
            if self.language in ("javascript", "typescript", "swift", "scala"):
                return (first + 1, last), last + 1
        stops = {"braces": ("{",), "indent": (":", "do", "then", ";")}.get(self.facts.layout, ())
        end = first
        for _ in range(MOST_STEPS):
            if end >= len(self.texts) or (end > first and self.starts_line(end) and self.facts.layout == "indent"):
                break
            if self.texts[end] in stops and not (self.texts[end] == ";" and self.language != "bash"):
                break
            end = self.closing[end] + 1
        return (first, min(end, len(self.texts))), min(end, len(self.texts))

    def _read_comprehension(self, at: int, around: int) -> None:
        """`for` inside brackets of Python: the bracket's whole content is its body."""
        end = at + 1
        limit = self.closing[around] if self.closing[around] != around else len(self.texts)
        for _ in range(MOST_STEPS):
            if end >= limit or self.texts[end] in ("for", "if"):
                break
            end = self.closing[end] + 1
        self.heads.append(Head("comprehension", at, (at + 1, min(end, limit)), (around + 1, limit)))

    def _read_scheme_loop(self, at: int, word: str) -> None:
        """`(do ((i 0 (+ i 1))) ((= i n)) ...)` and `(dotimes (i n) ...)`; named lets are functions."""
        if self.text(at - 1) != "(" or word not in ("do", "dotimes", "while", "until") or self.text(at + 1) != "(":
            return
        first = self.closing[at + 1] + 1
        last = self.closing[first] + 1 if word == "do" and self.text(first) == "(" else first
        self.heads.append(Head("loop", at, (at + 1, last), self._body(last, at)))

    def _read_condition(self, at: int) -> None:
        if self.facts.layout == "parens":
            around = self.outer[at]
            if self.text(at - 1) == "(":
                self.heads.append(Head("condition", at, (at + 1, at + 1), (at + 1, self.closing[around])))
            return
        if self.facts.layout == "indent":
            if self.starts_line(at) and not (self.language == "python" and self.text(at + 1) == "__name__"):
                end = self.indented_end(at)
                first = min(at + 1, end)
                self.heads.append(Head("condition", at, (first, first), (first, end)))
            return
        after = at + 1
        while self.text(after) in ("if", "constexpr", "let"):
            after += 1
        if self._header_in_parentheses(after):
            after = self.closing[after] + 1
        elif self.text(at) != "else":
            for _ in range(MOST_STEPS):
                if after >= len(self.texts) or self.texts[after] in ("{", ";"):
                    break
                after = self.closing[after] + 1
        self.heads.append(Head("condition", at, (at + 1, after), self._braced_body(after)))

    # ------------------------------------------------------------------------------------------------ functions

    def _read_function(self, at: int, word: str) -> None:
        """A function that begins with a word: `def f(a, b)`, `func (r *R) f(a int)`, `(define (f a b)`, `let rec f a b =`."""
        if self.facts.layout == "parens":
            self._read_scheme_function(at, word)
            return
        if word == "let":
            if self.language == "ocaml":
                self._read_let(at)
            return
        if word in ("define", "lambda") or self.text(at - 1) == "end":
            return
        name = at + 1
        if self.language == "go" and self.text(name) == "(" and self.text(self.closing[name] + 1) not in ("{", ""):
            name = self.closing[name] + 1  # the receiver
        if self.language == "ruby" and self.text(name) == "self":
            name += 2
        while self.text(name + 1) in (".", ":") and self.language == "lua":
            name += 2
        if self.text(name)[:1].isalpha() or self.text(name)[:1] == "_":
            opened = name + 1
        elif self.text(name) == "(" and self.text(at - 1) in ("=", ":"):  # name = function(a)
            opened, name = name, at - 2
        else:
            return
        if self.text(opened) == "<" and self.facts.layout == "braces":
            for _ in range(40):
                if self.text(opened) in ("(", ""):
                    break
                opened += 1
        parameters: tuple[str, ...] = ()
        end = opened
        if self._header_in_parentheses(opened):
            end = self.closing[opened] + 1
            parameters = self._parameters(opened + 1, end - 1)
        elif self.language == "perl":
            parameters = self._perl_parameters(opened)
        elif self.language == "ruby":
            end = self.line_end(name)
            parameters = tuple(text for text in self.texts[opened:end] if text[:1].isalpha())
        self.functions.append(Function(self.text(name), name, parameters, self._function_body(end, name)))

    def _perl_parameters(self, opened: int) -> tuple[str, ...]:
        """Names in `my ($a, $b) = @_;` or `my $a = shift;` at the beginning of a function."""
        if self.text(opened) != "{" or self.text(opened + 1) != "my":
            return ()
        if self.text(opened + 2) == "(":
            return self._parameters(opened + 3, self.closing[opened + 2])
        return (self.text(opened + 2),) if self.texts[opened + 3 : opened + 5] == ["=", "shift"] else ()

    def _function_body(self, end: int, name: int) -> tuple[int, int]:
        if self.facts.layout == "indent":
            return end, max(end, self._routine_end(name))
        for _ in range(60):  # a return type
            if end >= len(self.texts) or self.texts[end] in ("{", ";", "="):
                break
            end += 1
        if self.text(end) == "=":
            return end + 1, max(end + 1, self.statement_end(end + 1))
        return self._braced_body(end)

    def _routine_end(self, name: int) -> int:
        """Where an indented routine ends; those of Pascal go on through `var` and `begin` of the same indentation."""
        line = self.lines[name]
        end = self._line_ends[line]
        if self.language == "pascal":
            for _ in range(MOST_STEPS):
                if end >= len(self.starts) or self.indents[end] < self.indents[line]:
                    break
                word = self.texts[self.starts[end]]
                if word == "begin":
                    end = self._line_ends[end]
                    break
                if word in ("function", "procedure", "end"):
                    break
                end = self._line_ends[end]
        return self.starts[end] if end < len(self.starts) else len(self.texts)

    def _read_scheme_function(self, at: int, word: str) -> None:
        """`(define (f a b) ...)`, and `(let loop ((i 0)) ...)`, a function that is called once with its first values."""
        around = self.outer[at]
        if self.text(at - 1) != "(" or around != at - 1 or self.closing[around] == around:
            return
        end = self.closing[around]
        if word == "define" and self.text(at + 1) == "(":
            close = self.closing[at + 1]
            names = self.texts[at + 2 : close]
            if names:
                self.functions.append(Function(names[0], at + 2, tuple(names[1:]), (close + 1, end)))
        elif word == "let" and self.text(at + 2) == "(" and self.text(at + 1) not in ("(", ""):
            close = self.closing[at + 2]
            names, inner = [], at + 3
            while inner < close and len(names) < 20:
                names.append(self.text(inner + 1))
                inner = self.closing[inner] + 1
            self.functions.append(Function(self.text(at + 1), at + 1, tuple(names), (close + 1, end)))

    def _read_let(self, at: int) -> None:
        """`let rec f a (b : int) =` of OCaml; without parameters it is no function."""
        name = at + 1 + (self.text(at + 1) == "rec")
        names: list[str] = []
        inner = name + 1
        for _ in range(20):
            text = self.text(inner)
            if text == "(":
                names.append(self.text(inner + 1))
            elif text[:1].isalpha() or text[:1] in ("_", "~"):
                names.append(text)
            else:
                break
            inner = self.closing[inner] + 1
        while self.text(inner) not in ("=", "") and inner < name + 40:
            inner = self.closing[inner] + 1
        if names and self.text(inner) == "=":
            end = self.indented_end(at)
            self.functions.append(Function(self.text(name), name, tuple(names), (inner + 1, max(inner + 1, end))))

    def _read_equation(self, at: int) -> None:
        """`f a b = ...` and `f a b | guard = ...` of Haskell at the beginning of a line."""
        line = self.lines[at]
        name = self.starts[line]
        if self.text(name) in ("let", "where"):
            name += 1
        if not 1 < at - name < 24 or not (self.texts[name][:1].islower() or self.texts[name][:1] == "_"):
            return
        if self.functions and self.functions[-1].at == name:
            return
        parameters, inner = [], name + 1
        while inner < at:
            parameters.append(self.texts[inner] if self.texts[inner] != "(" else self.text(inner + 1))
            inner = self.closing[inner] + 1
        end = self._line_ends[line]
        stop = self.starts[end] if end < len(self.starts) else len(self.texts)
        if self.functions and self.functions[-1].name == self.texts[name] and self.functions[-1].body[1] == name:
            last = self.functions.pop()  # a further equation of the same function
            self.functions.append(Function(last.name, last.at, tuple(parameters), (last.body[0], stop)))
            return
        self.functions.append(Function(self.texts[name], name, tuple(parameters), (at, stop)))

    def _read_typed_function(self, at: int) -> None:
        """`long f(int a, int b) {` and methods of classes."""
        close = at - 1
        for _ in range(8):
            if self.text(close) == ")":
                break
            if not (
                self.text(close)[:1].isalnum()
                or self.text(close) in (":", "<", ">", "[", "]", ",", ".", "->", "|", "?", "&")
            ):
                return
            close -= 1
        opened = self.opening[close] if close >= 0 else close
        if opened == close or close < 0:
            return
        name = opened - 1
        text = self.text(name)
        if text == "]" and self.language == "cpp" and self.text(self.opening[name] - 1) == "=":  # auto f = [&](int a) {
            name = self.opening[name] - 2
            text = self.text(name)
        if (
            not (text[:1].isalpha() or text[:1] == "_")
            or text in _NO_FUNCTIONS
            or self.text(name - 1) in (".", "new", "->")
        ):
            return
        if self.text(name - 1) in FUNCTION_WORDS or self.language in ("go", "rust", "kotlin", "swift", "perl"):
            return
        parameters = self._parameters(opened + 1, close)
        self.functions.append(Function(text, name, parameters, (at + 1, self.closing[at])))

    def _read_arrow(self, at: int) -> None:
        """`const f = (a, b) => ...` and `long F(int n) => ...`."""
        if self.text(at - 1) == ")":
            opened = self.opening[at - 1]
            parameters = self._parameters(opened + 1, at - 1)
        else:
            opened, parameters = at - 1, (self.text(at - 1),)
        if self.text(opened - 1) == "=":
            name = opened - 2
        elif self.language == "csharp" and self.text(opened - 1)[:1].isalpha() and self.text(opened - 2)[:1].isalpha():
            name = opened - 1
        else:
            return
        self.functions.append(Function(self.text(name), name, parameters, self._braced_body(at + 1)))

    def _parameters(self, first: int, last: int) -> tuple[str, ...]:
        """Names of the parameters between two tokens."""
        names: list[str] = []
        for begin, end in self.split(first, last, (",", ";")):
            part = self._before(begin, end, ("=",))
            if self.facts.types_first:
                words = [text for text in part if text[:1].isalpha() or text[:1] == "_"]
                names.append(words[-1] if words else "")
            else:
                words = [text for text in part if (text[:1].isalpha() or text[:1] == "_") and text not in _TYPE_WORDS]
                if self.language == "php":
                    names.append(words[-1] if words else "")
                else:
                    names.append(words[0] if words else "")
        return tuple(names)

    def _before(self, begin: int, end: int, stops: Iterable[str]) -> list[str]:
        """Texts of the tokens before the first of some, brackets left out."""
        found: list[str] = []
        while begin < end and self.texts[begin] not in stops and len(found) < 30:
            if self.closing[begin] == begin:
                found.append(self.texts[begin])
            begin = self.closing[begin] + 1
        return found

    def split(self, first: int, last: int, separators: tuple[str, ...] = (",",)) -> list[tuple[int, int]]:
        """Parts between separators outside of inner brackets, at most 24."""
        parts: list[tuple[int, int]] = []
        begin = at = first
        for _ in range(MOST_STEPS):
            if at >= last or len(parts) == 23:
                break
            if self.texts[at] in separators:
                parts.append((begin, at))
                begin = at + 1
            at = self.closing[at] + 1
        if begin < last:
            parts.append((begin, min(at, last)))
        return parts


# ---------------------------------------------------------------------------------------------------- tokens

_OPERATORS = (
    r"\.\.\.|\.\.[=<]?|<=>|===|!==|=>|->|<-|:=|::|&&|\|\||\?\?|\?\.|\|>|\+\+|--|<<=|>>=|>>>|<<|>>"
    r"|\*\*=|\*\*|//=|//|\^\^|[-+*/%&|^~!=<>]="
)


@cache
def _pattern(language: str) -> re.Pattern[str]:
    """One pattern for a language: line breaks, comments, strings, numbers, words, operators, in this order of groups."""
    syntax = SYNTAX.get(language, Syntax(line_comments=("//",), strings=('"', "'")))
    comments = [re.escape(a) + r"[\s\S]*?(?:" + re.escape(b) + r"|\Z)" for a, b in syntax.block_comments]
    for opening in sorted(syntax.line_comments, key=len, reverse=True):
        guard = r"(?<![$\\{&'])" if opening == "#" and language in ("perl", "bash", "php", "ruby") else ""
        comments.append(guard + re.escape(opening) + r"[^\n]*")
    strings = []
    for quote in sorted(syntax.strings, key=len, reverse=True):
        closed = re.escape(quote)
        if len(quote) > 1:
            strings.append(closed + r"(?:[^\\]|\\[\s\S])*?(?:" + closed + r"|\Z)")
        else:
            strings.append(closed + r"(?:[^" + closed + r"\\\n]|\\[\s\S])*(?:" + closed + r"|(?=\n)|\Z|\\\Z)")
    strings += [
        re.escape(quote) + "[^" + re.escape(quote) + "]*(?:" + re.escape(quote) + r"|\Z)"
        for quote in syntax.raw_strings
    ]
    if "'" not in (*syntax.strings, *syntax.raw_strings):
        strings.append(r"'(?:\\[^\n']{1,8}|[^\\\n'])'")  # a character; 'a alone is a lifetime or a quotation
    word = r"[^\W\d]\w*"
    if language in ("scheme", "lisp"):
        word = r"[^\s()\[\]{}\"';`,#\d][^\s()\[\]{}\"';`,]*"
    elif language in _QUOTES_IN_WORDS:
        word = r"[^\W\d][\w']*"
    elif language == "ruby":
        word = r"[^\W\d]\w*[?!]?"
    number = re.sub(r"\s*#[^\n]*", "", NUMBER.pattern)
    number = re.sub(r"\s+", "", number).replace(r"(?!\.)", r"(?!\.|[A-Za-z_](?!\d|\b))")  # 10.times
    groups = [
        r"\n[ \t]*",
        "|".join(comments) or r"(?!)",
        "|".join(strings) or r"(?!)",
        number + r"(?:\w*)",
        word,
        _OPERATORS + r"|\S",
    ]
    return re.compile("|".join(f"({group})" for group in groups))


def _scan(
    text: str, language: str
) -> tuple[list[str], list[Number | None], list[int], list[int], list[int], dict[int, str]]:
    """Tokens as columns, the first token of each line that has any, those lines' indentation, and short strings.

    At most `MOST_TOKENS` are read.
    """
    if language in _ANY_CASE:
        text = text.lower()
    sigils = _SIGILS.get(language, "")
    texts: list[str] = []
    values: list[Number | None] = []
    lines: list[int] = []
    strings: dict[int, str] = {}
    starts: list[int] = []
    indents: list[int] = []
    indent, fresh = 0, True
    for match in _pattern(language).finditer("\n" + text):
        kind, found = match.lastindex, match[0]
        if kind == 1:
            blank = found[1:]
            indent, fresh = (len(blank.expandtabs(8)) if "\t" in blank else len(blank)), True
            continue
        if kind == 2:
            fresh = fresh or "\n" in found
            continue
        value: Number | None = None
        if kind == 4:
            value = _number(found)
        elif kind == 3:
            if len(found) < 40:
                strings[len(texts)] = found[1:-1]
            value, found = max(len(found) - 2, 0), STRING
        elif found in sigils:
            continue
        if len(texts) == MOST_TOKENS:
            break
        if fresh:
            starts.append(len(texts))
            indents.append(indent)
            fresh = False
        texts.append(found)
        values.append(value)
        lines.append(len(starts) - 1)
    return texts, values, lines, starts, indents, strings


def _number(found: str) -> Number | None:
    """The value of a literal with its suffix, None where it is none."""
    number = NUMBER.match(found)
    if number is None or OCTAL.fullmatch(number[0]) or len(found) > 60:
        return None
    rest = found[number.end() :]
    if rest and SUFFIX.fullmatch(rest) is None:
        return None
    return literal_value(number[0])


def _next_shallower(indents: list[int]) -> list[int]:
    """For each line the next one that is not indented more, the number of lines where there is none."""
    found = [len(indents)] * len(indents)
    waiting: list[int] = []
    for line, indent in enumerate(indents):
        while waiting and indents[waiting[-1]] >= indent:
            found[waiting.pop()] = line
        waiting.append(line)
    return found


__all__ = ["LANGUAGES", "LOOP_WORDS", "MOST_STEPS", "STRING", "Function", "Head", "Language", "Outline"]
