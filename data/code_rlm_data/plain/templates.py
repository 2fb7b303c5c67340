"""Reads the templates: texts of programs with holes, a file for each language below `templates/`.

A template is a line `=== family/task key=value ...` and the program below it. Keys:

* `b`: bytes that it needs beyond an idle process, and `t`: nanoseconds of CPU time; expressions in the sizes n and m,
  rough (a factor of three): they only aim at a range.
* `by`: `mem`, `time` or `both`: what the size is drawn for, or `size`, where it costs nothing. Without it there is no size.
* `m`: the values that the second size is drawn from, divided by commas.
* `most`: the largest n.
* `type`: of n: `long` where it may be over 32 bits; in Rust the type's name.

Holes, all in characters that no program here has otherwise:

* `⟦n⟧`, `⟦2*n+m⟧`: a size, as a literal or by its name; `⟦3..99⟧`: a number drawn from a range.
* `«one¦two¦three»`: one of several texts, which may hold further holes.
* `§a`: a name of the role `a` (`names.POOLS`).
* `‹: number[]›`: what only the second language of the file has (TypeScript in the file of JavaScript).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import CodeType

from code_rlm.data.schema import DataError

FOLDER = Path(__file__).with_name("templates")
# Languages that share a file.
SHARED = {"typescript": "javascript"}
_HEAD = re.compile(r"^=== (\S+)(.*)$")
_FAULTS_NS = 0.25  # of page faults, for a byte
_KEYS = {"b", "t", "by", "m", "most", "type"}


@dataclass(frozen=True)
class Template:
    """One task in one language.

    Attributes:
        task: "family/task", the group of its programs.
        language: Name in the schema.
        text: The program with its holes.
        by: "mem", "time", "both" or "size": what its size is drawn for; empty where it has none.
        cost_bytes: Expression in n and m.
        cost_ns: Expression in n and m.
        second: Values of m.
        most: Largest n.
        type_name: Type of n, "" for the language's usual one.
    """

    task: str
    language: str
    text: str
    by: str = ""
    cost_bytes: str = "0"
    cost_ns: str = "0"
    second: tuple[int, ...] = ()
    most: int = 10**11
    type_name: str = ""

    def bytes_of(self, n: int, m: int) -> float:
        """Returns about how many bytes a program of these sizes needs beyond an idle process."""
        return _cost(self.cost_bytes, n, m)

    def ns_of(self, n: int, m: int) -> float:
        """Returns about how many nanoseconds of CPU time a program of these sizes needs, page faults included."""
        return _cost(self.cost_ns, n, m) + _FAULTS_NS * self.bytes_of(n, m)


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, expression, "eval")


def _cost(expression: str, n: int, m: int) -> float:
    """Returns the value of an expression in n and m, infinity where it is too large for a float."""
    try:
        return float(eval(_compiled(expression), {"__builtins__": {}}, {"n": n, "m": m}))
    except OverflowError:
        return float("inf")


@lru_cache
def templates_of(language: str) -> tuple[Template, ...]:
    """Returns the templates of a language in the order of its file.

    Raises:
        DataError: There is no file for it, or a head that cannot be read.
    """
    path = FOLDER / f"{SHARED.get(language, language)}.txt"
    if not path.is_file():
        known = ", ".join(languages())
        raise DataError(f"no templates for {language!r}; there are some for {known}")
    found: list[Template] = []
    head = ""
    body: list[str] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), "=== end/end"]:
        if not line.startswith("=== "):
            body.append(line)
            continue
        if head:
            found.append(_template(head, "\n".join(body).strip("\n") + "\n", language))
        head = line
        body = []
    return tuple(found)


def languages() -> list[str]:
    """Returns the languages that have templates."""
    own = {path.stem for path in FOLDER.glob("*.txt")}
    return sorted(own | {language for language, other in SHARED.items() if other in own})


def _template(head: str, text: str, language: str) -> Template:
    match = _HEAD.match(head)
    pairs = dict(word.split("=", 1) for word in match.group(2).split()) if match else {}
    if match is None or not pairs.keys() <= _KEYS or pairs.get("by", "") not in ("", "mem", "time", "both", "size"):
        raise DataError(f"{language}: cannot read the head {head!r}; keys are {', '.join(sorted(_KEYS))}")
    typed = language != SHARED.get(language, language)
    return Template(
        task=match.group(1),
        language=language,
        text=re.sub(r"‹([^‹›]*)›", r"\1" if typed else "", text),
        by=pairs.get("by", ""),
        cost_bytes=pairs.get("b", "0"),
        cost_ns=pairs.get("t", "0"),
        second=tuple(int(value) for value in pairs["m"].split(",")) if "m" in pairs else (),
        most=int(float(pairs.get("most", 1e11))),
        type_name=pairs.get("type", ""),
    )


def choose(text: str, rng: random.Random) -> str:
    """Returns a text with one alternative of each `«one¦two»`, innermost first."""
    inner = re.compile(r"«([^«»]*)»")
    while inner.search(text):
        text = inner.sub(lambda match: rng.choice(match.group(1).split("¦")), text)
    return text


__all__ = ["FOLDER", "SHARED", "Template", "choose", "languages", "templates_of"]
