"""Ways to declare a size by name: constants at the top, variables in main, command line arguments with defaults."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from code_rlm.data.schema import DataError
from code_rlm_data.plain.numerals import LARGEST_INT, is_plain, spell
from code_rlm_data.plain.templates import Template

Sized = Sequence[tuple[str, int]]
_LITERAL = 0.3  # share of programs with literals in place; a third of it where a size stands there three times
_ARGUMENT_INSIDE = 0.3
_ARGUMENT_OUTSIDE = 0.1
_PRODUCT = 0.08
_PARTS = (("rows", "per_line"), ("blocks", "block_size"), ("groups", "each"), ("num", "scale"))
_FACTORS = (10, 16, 20, 50, 64, 100, 128, 250, 500, 1000, 1024)
_CAST = re.compile(r"^\([a-z ]+\) ?(?P<c>[\d.e]+)$|^[a-z_<>]+\((?P<call>[\d.e]+)\)$")


@dataclass(frozen=True)
class Custom:
    """How a language declares sizes.

    Attributes:
        header: Lines after which a declaration at the top stands: the last of these.
        top: Declarations at the top; `{name}`, `{value}` and `{type}` are filled in.
        main: Line that opens the main function; "" where there is none.
        inside: Declarations in the main function.
        argument: Declaration by a command line argument with a default, `{index}` counts from 1.
        argument_main: What replaces the line of `main` where arguments are read.
        argument_header: Line that arguments need at the very top.
        types: Of 32 bits and of more.
        cased: Share of declarations at the top whose names are in capitals.
    """

    header: str
    top: tuple[str, ...]
    main: str = ""
    inside: tuple[str, ...] = ()
    argument: str = ""
    argument_main: str = ""
    argument_header: str = ""
    types: tuple[tuple[str, ...], tuple[str, ...]] = (("int",), ("long",))
    cased: float = 1.0


CUSTOMS: dict[str, Custom] = {
    "python": Custom(
        header=r"^(import|from) .*$",
        top=("{name} = {value}",),
        cased=0.6,
        argument_header="import sys",
        argument="{name} = int(sys.argv[{index}]) if len(sys.argv) > {index} else {value}",
    ),
    "c": Custom(
        header=r"^#include .*$",
        top=("#define {name} {macro}", "#define {name} {macro}", "enum {{ {name} = {value} }};"),
        main=r"^int main\(.*\) *\{$",
        inside=("{type} {name} = {value};", "const {type} {name} = {value};"),
        argument="{type} {name} = argc > {index} ? ato{l}(argv[{index}]) : {value};",
        argument_main="int main(int argc, char **argv) {",
        types=(("int", "int", "int", "size_t", "long"), ("long", "long long")),
        argument_header="#include <stdlib.h>",
    ),
    "cpp": Custom(
        header=r"^(#include .*|using .*;)$",
        top=(
            "const {type} {name} = {value};",
            "const {type} {name} = {value};",
            "constexpr {type} {name} = {value};",
            "#define {name} {macro}",
            "static const {type} {name} = {value};",
            "static constexpr {type} {name} = {value};",
        ),
        main=r"^int main\(.*\) *\{$",
        inside=(
            "{type} {name} = {value};",
            "const {type} {name} = {value};",
            "constexpr {type} {name} = {value};",
            "const auto {name} = {value};",
        ),
        argument="{type} {name} = argc > {index} ? ato{l}(argv[{index}]) : {value};",
        argument_main="int main(int argc, char** argv) {",
        types=(("int", "int", "int", "std::size_t", "long"), ("long long", "std::int64_t")),
        argument_header="#include <cstdlib>",
        cased=0.6,
    ),
    "java": Custom(
        header=r"^public class Main \{$",
        top=(
            "    static final {type} {name} = {value};",
            "    private static final {type} {name} = {value};",
            "    static {type} {name} = {value};",
        ),
        main=r"^    public static void main\(String\[\] args\) *\{$",
        inside=("{type} {name} = {value};", "final {type} {name} = {value};"),
        argument="{type} {name} = args.length >= {index} ? {parse}(args[{zero}]) : {value};",
        cased=0.6,
    ),
    "javascript": Custom(
        header=r"^(import .*|.* = require\(.*|[\"']use strict[\"'];)$",
        top=("const {name} = {value};", "const {name} = {value};", "let {name} = {value};"),
        cased=0.6,
        argument="const {name} = Number(process.argv[{second}] || {value});",
    ),
    "go": Custom(
        header=r"^(import \".*\"|\)|package main)$",
        top=("const {name} = {value}", "var {name} = {value}"),
        cased=0.0,
        main=r"^func main\(\) \{$",
        inside=("{name} := {value}", "const {name} = {value}", "{name} := int({value})"),
    ),
    "rust": Custom(
        header=r"^use .*;$",
        top=("const {name}: {type} = {value};", "static {name}: {type} = {value};"),
        main=r"^fn main\(\) \{$",
        inside=("let {name}: {type} = {value};", "let {name} = {value}{as_type};"),
        argument="let {name}: {type} = std::env::args().nth({index}).and_then(|s| s.parse().ok()).unwrap_or({value});",
        types=(("usize",), ("u64",)),
    ),
    "ruby": Custom(header=r"^require .*$", top=("{name} = {value}",)),
    "perl": Custom(header=r"^use .*;$", top=("my ${name} = {value};",), cased=0.0),
    "php": Custom(header=r"^<\?php$", top=("const {name} = {value};",)),
    "lua": Custom(header=r"^local .* = require.*$", top=("local {name} = {value}",), cased=0.0),
    "csharp": Custom(
        header=r"^class Program$",
        top=("    const {type} {name} = {value};", "    static readonly {type} {name} = {value};"),
        cased=0.0,
        main=r"^    static void Main\(.*\)$",
        inside=("{type} {name} = {value};", "const {type} {name} = {value};", "var {name} = {value};"),
    ),
}
# The types of Node are not there, so TypeScript has no process.argv.
CUSTOMS["typescript"] = replace(CUSTOMS["javascript"], argument="")


@dataclass(frozen=True)
class Place:
    """Where and how the sizes of one program are declared.

    Attributes:
        template: The program.
        kind: "top", "inside" or "argument".
        capitals: Whether the names are in capitals.
    """

    template: Template
    kind: str
    capitals: bool

    @property
    def custom(self) -> Custom:
        return CUSTOMS[self.template.language]

    def declare(self, text: str, sized: Sized, rng: random.Random) -> str:
        """Adds the declarations of sizes, (name, value) each, to a text."""
        custom = self.custom
        form = rng.choice({"top": custom.top, "inside": custom.inside, "argument": (custom.argument,)}[self.kind])
        wide = self.template.type_name == "long" or any(value > LARGEST_INT for _, value in sized)
        own = self.template.language == "rust" and self.template.type_name
        types = (self.template.type_name,) if own else custom.types[wide]
        type_name = rng.choice(types)
        if wide and form.startswith("enum"):
            form = custom.top[0]
        lines: list[str] = []
        for index, (name, value) in enumerate(sized, 1):
            lines += _Line(self.template.language, form, type_name, wide, index).of(name, value, rng)
        if self.kind == "top" or not custom.main:
            text = _after_header(custom.header, text, lines)
        else:
            text = self._in_main(text, lines)
        header = custom.argument_header
        return f"{header}\n{text}" if self.kind == "argument" and header and header not in text else text

    def _in_main(self, text: str, lines: Sequence[str]) -> str:
        """Puts lines at the start of the main function."""
        opening = re.search(self.custom.main, text, re.MULTILINE)
        if opening is None:
            raise DataError(f"{self.template.language}, {self.template.task}: no main function to declare a size in")
        head = opening.group(0)
        if self.kind == "argument" and self.custom.argument_main:
            head = self.custom.argument_main
        rest = text[opening.end() :]
        if not opening.group(0).endswith("{"):  # the brace stands on a line of its own
            before, _, rest = rest.partition("{")
            head += before + "{"
        indent = " " * (opening.group(0).find(opening.group(0).strip()) + 4)
        return text[: opening.start()] + head + "".join(f"\n{indent}{line}" for line in lines) + rest


def choose_place(template: Template, text: str, rng: random.Random) -> Place | None:
    """Draws where the sizes of a program are declared; None where they stand as literals in their places."""
    custom = CUSTOMS[template.language]
    if rng.random() < (_LITERAL if len(re.findall("⟦[^⟧]*[nm]", text)) < 3 else _LITERAL / 3):
        return None
    kinds = ["top"]
    if _holes_in_main(custom, text):
        kinds += ["inside", "inside"] if custom.inside else []
        kinds += ["argument"] if custom.argument and rng.random() < _ARGUMENT_INSIDE else []
    elif not custom.main and rng.random() < _ARGUMENT_OUTSIDE and custom.argument:
        kinds = ["argument"]
    kind = rng.choice(kinds)
    capitals = kind == "top" and (custom.cased == 1 or (custom.cased > 0 and rng.random() < custom.cased))
    return Place(template, kind, capitals)


def _holes_in_main(custom: Custom, text: str) -> bool:
    """Returns whether all sizes stand in the main function."""
    opened = re.search(custom.main, text, re.MULTILINE) if custom.main else None
    if opened is None:
        return False
    indent = " " * (len(opened.group(0)) - len(opened.group(0).lstrip(" ")))
    closed = text.find(f"\n{indent}}}", opened.end())
    return all(opened.end() < match.start() < closed for match in re.finditer("⟦", text))


@dataclass(frozen=True)
class _Line:
    """The declaration of one size in a form of `Custom`."""

    language: str
    form: str
    type_name: str
    wide: bool
    index: int

    def of(self, name: str, value: int, rng: random.Random) -> list[str]:
        """Returns the lines; three where the size is a product of two others."""
        spelled = spell(value, self.language, rng, self.type_name)
        choices = [each for each in _FACTORS if value % each == 0 and value >= each * 10]
        factor = rng.choice(choices) if choices else 0
        fixed = "argv" in self.form or "args" in self.form or self.form.startswith("enum")
        before: list[str] = []
        if factor and rng.random() < _PRODUCT and not fixed:
            parts = rng.choice(_PARTS)
            if name.isupper():
                parts = (parts[0].upper(), parts[1].upper())
            for part, number in zip(parts, (value // factor, factor)):
                before.append(self._filled(part, spell(number, self.language, rng, self.type_name)))
            sigil = "$" if self.language == "perl" else ""
            spelled = f"{sigil}{parts[0]} * {sigil}{parts[1]}"
        return [*before, self._filled(name, self._converted(spelled))]

    def _converted(self, spelled: str) -> str:
        """Returns a value that a variable of Go may have: an exponent makes a constant of floating type."""
        variable = (
            self.language == "go" and re.match(r"(var|\w+ :=|\{name\} :=)", self.form) and "int(" not in self.form
        )
        exponent = re.fullmatch(r"[\d.]+e\d+", spelled)
        return f"int({spelled})" if variable and exponent else spelled

    def _filled(self, name: str, spelled: str) -> str:
        form = self.form
        macro = spelled if is_plain(spelled) else f"({spelled})"
        cast = _CAST.match(spelled) if self.language in ("c", "cpp") and "{value}" in form else None
        if cast and "auto" not in form and "enum" not in form:  # the declared type converts
            spelled = cast.group("c") or cast.group("call")
        if self.language == "php" and "(int)" in spelled:  # no constant expression
            form = "define('{name}', {value});"
        as_type = "" if " as " in spelled else f" as {self.type_name}"
        if "{as_type}" in form and as_type and not is_plain(spelled):
            form = "let {name}: {type} = {value};"
        return form.format(
            name=name,
            value=spelled,
            macro=macro,
            type=self.type_name,
            index=self.index,
            zero=self.index - 1,
            second=self.index + 1,
            l="ll" if self.wide else "i",
            parse="Long.parseLong" if self.type_name == "long" else "Integer.parseInt",
            as_type=as_type,
        )


def _after_header(header: str, text: str, lines: Sequence[str]) -> str:
    """Puts lines after the last line of a header, with a blank line, or within the class that the header opens."""
    found = [match for match in re.finditer(header, text, re.MULTILINE) if _is_head(text[: match.start()], header)]
    declared = "\n".join(lines)
    if not found:
        return f"{declared}\n{text}"
    before = text[: found[-1].end()]
    after = text[found[-1].end() :]
    if before.endswith("Main {"):
        return f"{before}\n{declared}\n{after}"
    if before.endswith("class Program"):
        between, _, after = after.partition("{")
        return f"{before}{between}{{\n{declared}{after}"
    return f"{before}\n\n{declared}{after}"


def _is_head(before: str, header: str) -> bool:
    """Returns whether a line of the header stands at the top: in Python and JavaScript it may also stand further down."""
    if "import|from" not in header and "require" not in header:
        return True
    return all(re.match(header, line) for line in before.splitlines() if line.strip())


__all__ = ["CUSTOMS", "Custom", "Place", "choose_place"]
