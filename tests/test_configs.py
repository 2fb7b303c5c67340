"""Every recipe of configs/ is dry-run on small tables with the columns that it names."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pandas as pd
import published_tables
import pytest
import tiny
import yaml
from datasets import Dataset
from transformers import AutoModel
from transformers.models.modernbert import ModernBertConfig

from code_rlm.data.published import PUBLISHED
from code_rlm.data.readers import TASKS, read_task
from code_rlm.data.schema import Example, to_dataset
from code_rlm.train import train
from code_rlm.training import sources
from code_rlm.training.options import parse_options

ROOT = Path(__file__).parents[1]
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*(ROOT / "configs" / "accelerate").iterdir()})
ROWS = 24


def language_of(task: str) -> str:
    return {"bhive_zen4": "x86asm", "tritonbench": "triton"}.get(task, "python")


@functools.wraps(read_task)
def read_small_task(name, data_root=None, split=None, *, metrics=None, **others) -> Dataset:
    names = list(metrics or TASKS[name].metrics)
    first = 0 if split == "train" else ROWS
    examples = [
        Example(f"x = {i}\n", language_of(name), names, [1.0 + i] * len(names), group=f"{name}{i}", source=name)
        for i in range(first, first + ROWS)
    ]
    return to_dataset(examples)


@pytest.fixture(scope="module")
def folder(make_model, tokenizer, tmp_path_factory) -> Path:
    """A folder with a tiny checkpoint where the recipes expect one, and a tiny encoder."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "checkpoints").mkdir()
    tiny.save(make_model, tokenizer, folder / "checkpoints" / "default")
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "cls_token_id": None, "sep_token_id": None}
    AutoModel.from_config(ModernBertConfig(vocab_size=300, **sizes, **special)).save_pretrained(folder / "encoder")
    shutil.copy(ROOT / "README.md", folder)
    return folder


def write_table(entry: dict) -> None:
    """Writes the table of a file source, with every column that the source names."""
    table = {name: [float(1 + i) for i in range(ROWS)] for name in entry["target_columns"]}
    table[entry.get("text_column", "text")] = [f"x = {i}\n" for i in range(ROWS)]
    table[entry["group_column"]] = [f"g{i}" for i in range(ROWS)]
    if "language_column" in entry:
        table[entry["language_column"]] = ["python"] * ROWS
    pd.DataFrame(table).to_parquet(entry["file"])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_when_a_recipe_is_dry_run_then_it_describes_the_run_and_writes_nothing(path, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sources, "read_task", read_small_task)
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    # One process has one precision, and other tests in it train without mixed precision.
    flags = ["--config", str(path), "--out", "run", "--dry-run", "--mixed-precision", "no"]
    if "data" not in recipe:
        flags += ["--data", "[{task: polyglot_memory}]"]
    if "init" not in recipe and "encoder" not in recipe.get("model", {}):
        flags += ["--encoder", "encoder", "--tokenizer", "checkpoints/default"]
    for entry in recipe.get("data", ()):
        if "file" in entry:
            write_table(entry)
        elif entry["task"] in PUBLISHED and "--data-root" not in flags:
            flags += ["--data-root", str(published_tables.write_both(folder / "published", 400))]
    train(parse_options(flags))
    described = capsys.readouterr()
    assert f"run: {recipe['steps']} steps" in described.out + described.err
    assert not Path("run").exists()
