"""The words of README, CHANGELOG and documentation: terms of the field, no private vocabulary; and what proselint finds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
# Pattern of a word that is not used here, with what to write.
FORBIDDEN = {
    r"voices?": "base learner",
    r"worth": "stacking weight, or: useful",
    r"told|tells?|says?|said|hears?|heard|speaks?|listens?": "the verb of what happens: predicts, logs, reports, reads, states",
    r"opinions?": "prediction",
    r"lexical path": "feature ensemble",
    r"channels?": "target",
    r"(?<!orders of )magnitudes?": "number embeddings, or: size",
    r"wiring": "graph n-grams",
    r"experts?": "pooling component",
    r"own[ _]power": "weight",
    r"guards?": "fallback",
    r"likeness|liken(?:s|ed)?": "cost model",
    r"wardens?|keepers?": "supervisor, reaper",
    r"perceptrons?": "MLP",
}


def prose_of(page: Path) -> str:
    """The page without code, links' targets, comments; line numbers stay."""
    text = page.read_text(encoding="utf-8")
    for pattern in (r"```.*?```", r"<!--.*?-->", r"`[^`\n]*`", r"\]\([^)\n]*\)", r"https?://\S+"):
        text = re.sub(pattern, lambda match: "\n" * match.group().count("\n"), text, flags=re.S)
    return text


def forbidden_words(page: Path) -> list[str]:
    """Each forbidden word of a page with its line and what to write."""
    wrong = []
    for number, line in enumerate(prose_of(page).splitlines(), start=1):
        for pattern, instead in FORBIDDEN.items():
            for match in re.finditer(rf"\b(?:{pattern})\b", line, re.I):
                wrong.append(f"{page.name}:{number}: {match.group()!r}; write {instead}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_when_a_page_is_read_then_its_words_are_those_of_the_field(page):
    wrong = forbidden_words(page)
    assert not wrong, "\n".join(wrong)


def test_when_a_forbidden_word_is_written_then_it_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Each voice of the `voice` table.\n\n```python\nvoice = 1\n```\nOff by orders of magnitude.\n")
    assert forbidden_words(page) == ["page.md:1: 'voice'; write base learner"]


def test_when_proselint_reads_the_pages_then_it_finds_nothing():
    pytest.importorskip("proselint")
    done = subprocess.run(
        [sys.executable, "-m", "proselint", "--config", ROOT / ".proselintrc.json", "check", "-o", "compact", *PAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
