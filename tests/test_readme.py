"""What README.md and the pages under docs/ promise is run: Python, YAML and shell blocks, in the order of the page.

A block that cannot run here (it needs the Hub, a data folder or several devices) has `<!-- not run: REASON -->` on the line
above it. Its Python must compile, and the options of its `code-rlm` commands must be known.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import tiny

from code_rlm import loading
from code_rlm.cli import main
from code_rlm.evaluation.readme import render
from code_rlm.loading import DEFAULT_CHECKPOINT
from code_rlm.training.ensemble import settings_for

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```", re.S | re.M
)
OUTPUT = re.compile(r"```python\n(?P<code>(?:(?!```).)*)```\n+<!-- output: python -->\n```\n(?P<shown>.*?)```", re.S)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# Options that make a documented run short; everything else is run as it is written.
SHORT = {
    "train": ["--steps", "4", "--eval_every", "2"],
    "evaluate": ["--resamples", "20", "--baselines", "constant"],
}
SHELL_WORDS = ("|", ">", "&&", ";")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    text: str
    reason: str | None

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start("text")) + 1, match["language"], match["text"], match["reason"])
        for match in BLOCK.finditer(text)
    ]


def commands_of(block: Block) -> list[list[str]]:
    """The `code-rlm` commands of a shell block, as arguments without the name of the program."""
    lines = block.text.replace("\\\n", " ").splitlines()
    commands = (shlex.split(part, comments=True) for line in lines for part in line.split("&&"))
    return [words[1:] for words in commands if words[:1] == ["code-rlm"]]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN = [page for page in PAGES if any(block.page == page and block.reason is None for block in BLOCKS)]


@pytest.fixture
def workspace(make_model, tokenizer, tmp_path) -> Path:
    """A folder with what the pages assume: the examples, a table `mine.parquet`, a tiny checkpoint to fine-tune."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    shutil.copytree(ROOT / "examples", folder / "examples")
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "checkpoints").mkdir()
    tiny.save(make_model, tokenizer, folder / "checkpoints" / "default", max_objectives=5)
    rows = [
        {"code": f"x = [{i}] * {10**power}\n", "kernel": f"k{i}", "latency_ms": 10.0**power + i}
        for i in range(120)
        for power in (1, 2)
    ]
    pd.DataFrame(rows).to_parquet(folder / "mine.parquet")
    (folder / "new.py").write_text("x = [3] * 100\n")
    return folder


# Pages that fit the weights that ship, which takes minutes: a tiny checkpoint stands in their place.
FITTING = ("scikit-learn",)


def run_block(block: Block, namespace: dict, capsys: pytest.CaptureFixture) -> None:
    if block.language == "python":
        exec(compile(block.text, block.name, "exec"), namespace)
    elif block.language == "yaml":
        name = re.match(r"# (\S+\.yaml)\n", block.text)
        assert name, f"{block.name}: the first line must name the file, as in '# mine.yaml'."
        Path(name[1]).write_text(block.text, encoding="utf-8")
    elif block.language == "bash":
        for command in commands_of(block):
            assert main([*command, *SHORT.get(command[0], ())]) == 0, (
                f"{block.name}: {command}: {capsys.readouterr().err}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if page != README], ids=lambda page: page.stem)
def test_when_the_blocks_of_a_page_are_run_in_their_order_then_each_ends_well(
    page, workspace, make_model, tokenizer, monkeypatch, capsys
):
    monkeypatch.chdir(workspace)
    if page.stem in FITTING:
        ensemble = settings_for(tokenizer, buckets=256, number_buckets=16).to_dict()
        small = tiny.save(make_model, tokenizer, workspace / "small", max_objectives=5, ensemble=ensemble)
        monkeypatch.setattr(loading, "DEFAULT_CHECKPOINT", small)
    namespace = {"__name__": "__main__"}
    for block in blocks_of(page):
        if block.reason is None:
            run_block(block, namespace, capsys)


@pytest.mark.slow
def test_when_the_python_of_the_readme_is_run_in_a_new_process_then_it_prints_what_is_shown(tmp_path):
    code = [block.text for block in blocks_of(README) if block.language == "python" and block.reason is None]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, json\nfor text in json.load(sys.stdin):\n    exec(text, {})\n    print('END')",
        ],
        input=json.dumps(code),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = dict(zip(code, done.stdout.split("END\n"), strict=False))
    shown = {match["code"]: match["shown"] for match in OUTPUT.finditer(README.read_text(encoding="utf-8"))}
    assert shown
    for text, expected in shown.items():
        assert NUMBER.sub("#", printed[text]) == NUMBER.sub("#", expected)
        numbers = [[float(number) for number in NUMBER.findall(each)] for each in (printed[text], expected)]
        assert numbers[0] == pytest.approx(numbers[1], rel=0.02)


@pytest.mark.slow
def test_when_the_commands_of_the_readme_are_run_then_each_ends_well(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    for block in blocks_of(README):
        if block.language != "python" and block.reason is None:
            run_block(block, {}, capsys)


def test_when_the_first_command_is_run_then_it_prints_the_files_and_metrics_of_the_readme(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["predict", "examples/", "--format", "table"]) == 0
    text = README.read_text(encoding="utf-8")
    shown = text.split("<!-- output: code-rlm predict examples/ -->")[1].split("<!-- end -->")[0]
    expected = [line.split()[:2] for line in shown.strip().splitlines()[2:-1]]
    assert [line.split()[:2] for line in capsys.readouterr().out.strip().splitlines()[1:]] == expected
    assert len(expected) >= 4


# Blocks that are not run


def not_run(language: str) -> list:
    return [pytest.param(b, id=b.name) for b in BLOCKS if b.reason is not None and b.language == language]


@pytest.mark.parametrize("block", not_run("python"))
def test_when_python_is_not_run_then_it_compiles(block):
    compile(block.text, block.name, "exec")


@pytest.mark.parametrize("block", not_run("bash"))
def test_when_a_command_is_not_run_then_its_options_are_known(block, capsys):
    for name, *words in commands_of(block):
        assert main([name, "--help"]) == 0
        known = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert {option.replace("_", "-") for option in given} <= {option.replace("_", "-") for option in known}


# The README's generated parts


def test_when_the_table_of_results_is_made_anew_then_the_readme_already_has_it():
    text = README.read_text(encoding="utf-8")
    assert "<!-- results -->" in text and render(text, only="results") == text


def test_when_the_words_of_the_readme_are_counted_then_they_are_at_most_1300():
    text = re.sub(r"<!--.*?-->", "", README.read_text(encoding="utf-8"), flags=re.S)
    assert len(text.split()) <= 1300


def test_when_pages_link_to_files_then_these_are_there():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there."


def test_when_architecture_names_files_then_these_are_there_and_every_hub_file_is_among_them():
    named = set(re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert {path.name for path in ROOT.glob("*_rlm.py")} <= named


def test_when_the_shipped_weights_are_named_then_they_are_there():
    assert (DEFAULT_CHECKPOINT / "model.safetensors").exists()
