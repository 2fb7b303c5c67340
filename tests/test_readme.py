"""What README.md promises is run: its Python blocks, its commands, its table."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from code_rlm.cli import main
from code_rlm.evaluation.readme import render, results_table, shipped_report
from code_rlm.training.options import parse_options

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# These need the hub: publishing is tested against a loopback hub, encoders against folders.
NEEDS_HUB = ("push_to_hub", "google/t5gemma", 'pipeline("published")')
BLOCKS = [b for b in re.findall(r"```python\n(.*?)```", README, re.S) if not any(word in b for word in NEEDS_HUB)]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_when_a_python_block_is_run_then_it_ends_well(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_when_the_first_command_is_run_then_it_prints_the_files_and_metrics_of_the_readme(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["predict", "examples/", "--format", "table"]) == 0
    shown = README.split("<!-- output: code-rlm predict examples/ -->")[1].split("<!-- end -->")[0]
    expected = [line.split()[:2] for line in shown.strip().splitlines()[2:-1]]
    assert [line.split()[:2] for line in capsys.readouterr().out.strip().splitlines()[1:]] == expected
    assert len(expected) >= 4


def test_when_predict_commands_are_run_on_examples_then_they_answer(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^code-rlm predict (?:kernel|cell).*$", README, re.M)
    assert len(commands) == 3
    for command in commands:
        argv = shlex.split(command)[1:]
        argv[1] = {"kernel.py": "examples/softmax_triton.py", "cell.onnx": "examples/nasbench201_cell.onnx"}[argv[1]]
        assert main([*argv, *([] if "--format" in argv else ["--format", "json"])]) == 0
        for entry in json.loads(capsys.readouterr().out):
            assert entry["low"] <= entry["value"] <= entry["high"]


def test_when_the_training_example_is_read_then_its_options_are_known(tmp_path):
    block = re.search(r"```yaml\n# mine.yaml\n(.*?)```", README, re.S).group(1)
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    options = parse_options(["--config", str(path), "--out", str(tmp_path / "out")])
    assert options.init == "checkpoints/default" and options.data[0]["target_columns"] == ["latency_ms"]


def test_when_the_table_of_results_is_made_anew_then_the_readme_already_has_it():
    assert results_table(shipped_report()) in README
    assert render(README, only="results") == README
