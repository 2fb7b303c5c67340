"""Identifiers that people give: a pool for each role, none of them in two pools, spelled by the language's custom."""

from __future__ import annotations

import random

POOLS: dict[str, tuple[str, ...]] = {
    "n": ("n", "n", "n", "size", "limit", "count", "num_items", "max_n", "length", "n_total", "upper"),
    "m": ("m", "m", "cols", "width", "inner", "per_row"),
    "a": ("a", "a", "arr", "arr", "data", "values", "nums", "v", "xs", "items", "numbers", "buf", "elements"),
    "b": ("b", "other", "ys", "second", "out", "dst", "extra", "copied", "filtered"),
    "c": ("c", "third", "prod", "merged", "target", "product"),
    "d": ("d", "dic", "counts", "freq", "lookup", "seen", "cache", "mp", "by_key"),
    "s": ("s", "total", "total", "acc", "checksum", "answer", "res", "ans", "result"),
    "x": ("x", "value", "cur", "state", "seed", "val", "rnd"),
    "y": ("y", "nxt", "tmp", "w", "z"),
    "f": ("solve", "compute", "run", "work", "calc", "f", "build", "simulate", "do_work"),
    "g": ("helper", "step", "g", "go_on", "visit"),
    "T": ("Node", "Item", "Entry", "Record", "Point", "Thing", "Cell"),
    "t": ("text", "msg", "word", "str1", "st"),
    "q": ("q", "queue", "todo", "pending", "heap", "pq"),
    "k": ("key", "kk", "bucket", "slot"),
}
_CAMEL = {"java", "javascript", "typescript", "go", "csharp"}
# Names that a language or its usual header has taken.
_TAKEN: dict[str, set[str]] = {
    "c": {"data", "index", "y1"},
    "cpp": {"data", "size", "count", "step", "merged", "copied"},
    "rust": {"str1"},
    # Globals of the browser, which a script of TypeScript cannot declare again.
    "typescript": {"length", "name"},
    "lua": {"table"},
    "python": {"product"},
    "ruby": {"p"},
    "perl": {"y", "s", "m", "q", "x", "qw", "length", "step"},
    "csharp": {"value", "out"},
}
# Languages whose variables are marked, so that no word of the language is taken.
SIGILS = {"perl", "php"}


class Names:
    """Gives each role of a program one name, and no name to two roles."""

    def __init__(self, language: str, rng: random.Random) -> None:
        self.language = language
        self.rng = rng
        self.given: dict[str, str] = {}

    def of(self, role: str) -> str:
        """Returns the name of a role, drawn at its first use; a digit at the end asks for another of the same pool."""
        if role not in self.given:
            pool = POOLS[role.rstrip("0123456789")]
            taken = set() if self.language in SIGILS else _TAKEN.get(self.language, set())
            free = [name for name in pool if name not in taken and self._spelled(name) not in self.given.values()]
            self.given[role] = self._spelled(self.rng.choice(free))
        return self.given[role]

    def _spelled(self, name: str) -> str:
        if self.language not in _CAMEL:
            return name
        first, *rest = name.split("_")
        return first + "".join(word.capitalize() for word in rest)


__all__ = ["POOLS", "SIGILS", "Names"]
