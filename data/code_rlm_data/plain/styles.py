"""Restyles a written program: indentation, wrapping in main, namespaces, comments; what it computes stays."""

from __future__ import annotations

import random
import re

_COMMENTS = (
    "quick test",
    "simple example",
    "just a small experiment",
    "benchmark",
    "exercise",
    "demo program",
    "see how long this takes",
    "memory test",
    "TODO: clean up",
    "homework",
    "toy problem",
)
_COMMENT_SIGN = {"python": "#", "ruby": "#", "perl": "#", "lua": "--"}


def restyle(text: str, language: str, rng: random.Random) -> str:
    """Returns a program in another layout."""
    if language == "cpp":
        text = _cpp(text, rng)
    if language == "python" and rng.random() < 0.4:
        text = _python_main(text)
    if language in ("javascript", "typescript") and rng.random() < 0.3:
        text = _javascript_main(text)
    if language == "javascript" and rng.random() < 0.15 and "use strict" not in text:
        text = '"use strict";\n' + text
    if language == "javascript" and rng.random() < 0.1:
        text = text.replace(";\n", "\n") if not re.search(r"^\s*[\[(`]", text, re.MULTILINE) else text
    if language != "php" and rng.random() < 0.15:
        text = f"{_COMMENT_SIGN.get(language, '//')} {rng.choice(_COMMENTS)}\n{text}"
    return _indented(text, language, rng)


def _indented(text: str, language: str, rng: random.Random) -> str:
    """Changes the width of an indent of four spaces."""
    if language == "go":
        unit = "\t"
    elif language in ("javascript", "typescript", "ruby", "lua", "cpp", "c"):
        unit = rng.choice(("  ", "  ", "    ", "    ", "\t"))
    else:
        unit = rng.choice(("    ",) * 6 + ("  ", "\t"))
    return re.sub(r"^(?:    )+", lambda match: unit * (len(match.group(0)) // 4), text, flags=re.MULTILINE)


def _cpp(text: str, rng: random.Random) -> str:
    """Chooses between `std::` and `using namespace std`, `endl` and a newline."""
    draw = rng.random()
    if rng.random() < 0.4:
        text = text.replace('<< "\\n";', "<< std::endl;")
    elif rng.random() < 0.5:
        text = text.replace('<< "\\n";', "<< '\\n';")
    if draw < 0.55:
        lines = [line for line in text.replace("std::", "").splitlines() if line != "using namespace std;"]
        last = max((number for number, line in enumerate(lines) if line.startswith("#include")), default=-1)
        if draw < 0.18:
            kept = [line for line in lines[last + 1 :]]
            before = [line for line in lines[: last + 1] if not line.startswith("#include")]
            lines = ["#include <bits/stdc++.h>", "using namespace std;", *before, *kept]
        else:
            lines.insert(last + 1, "using namespace std;")
        text = "\n".join(lines) + "\n"
    return text


def _body_start(lines: list[str], heads: str) -> int:
    """Returns the number of the first line after all imports, definitions and constants at the top."""
    start = 0
    for number, line in enumerate(lines):
        if re.match(heads, line):
            start = number + 1
            while start < len(lines) and (lines[start].startswith((" ", "}")) or not lines[start].strip()):
                start += 1
    return start


def _python_main(text: str) -> str:
    lines = text.splitlines()
    start = _body_start(lines, r"(import|from|def|class|@)\b|@|[A-Z_]+ = ")
    body = lines[start:]
    if not body:
        return text
    head = "\n".join(lines[:start]).rstrip("\n")
    inner = "\n".join(f"    {line}" if line.strip() else "" for line in body)
    return (f"{head}\n\n\n" if head else "") + f"def main():\n{inner}\n\n\nif __name__ == '__main__':\n    main()\n"


def _javascript_main(text: str) -> str:
    lines = text.splitlines()
    start = _body_start(
        lines, r"(import|function|class|type|interface|[\"']use)\b|.*require\(|const [A-Z_]+ = \S+;$|.*=> \{$"
    )
    body = lines[start:]
    if not body or any(line.startswith(("const f", "let f")) for line in body):
        return text
    head = "\n".join(lines[:start]).rstrip("\n")
    inner = "\n".join(f"    {line}" if line.strip() else "" for line in body)
    return (f"{head}\n\n" if head else "") + f"function main() {{\n{inner}\n}}\n\nmain();\n"


__all__ = ["restyle"]
