"""Draws programs: every template of a language in rounds, each time with another size and another spelling."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from code_rlm_data.plain.templates import Template, templates_of
from code_rlm_data.plain.writing import Sizes, draw_sizes, write

# Programs of a trivial template for one of another: together about a quarter of all are small.
_TRIVIAL_TIMES = 2
_ATTEMPTS = 20


@dataclass(frozen=True)
class Sample:
    """One program.

    Attributes:
        name: Language, task and number.
        language: Name in the schema.
        group: "family/task", the same in all languages.
        text: Source code.
        sizes: What it was written with, and what it is expected to need.
    """

    name: str
    language: str
    group: str
    text: str
    sizes: Sizes


def samples(seed: int, each: int, languages: Sequence[str]) -> Iterator[Sample]:
    """Yields `each` programs of every language, no text twice.

    Args:
        seed: Decides everything.
        each: Programs of a language.
        languages: Of those that have templates.

    Raises:
        DataError: A language has no templates.
    """
    for language in languages:
        seen: set[str] = set()
        for number, template in enumerate(_rounds(seed, each, language)):
            for attempt in range(_ATTEMPTS):
                rng = random.Random(f"{seed}/{language}/{template.task}/{number}/{attempt}")
                sizes = draw_sizes(template, rng)
                text = write(template, sizes, rng)
                if text not in seen:
                    break
            seen.add(text)
            yield Sample(f"{language}-{template.task}-{number}", language, template.task, text, sizes)


def _rounds(seed: int, each: int, language: str) -> Iterator[Template]:
    """Yields `each` templates: all of a language in random order, then again."""
    rng = random.Random(f"{seed}/{language}")
    found = templates_of(language)
    weighted = [template for template in found for _ in range(1 if template.by else _TRIVIAL_TIMES)]
    left: list[Template] = []
    for _ in range(each):
        if not left:
            left = rng.sample(weighted, len(weighted))
        yield left.pop()


__all__ = ["Sample", "samples"]
