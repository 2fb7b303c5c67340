"""A table of toy programs, and options that train a tiny model on it in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from code_rlm import RLMTokenizer
from code_rlm.training.options import TrainOptions, parse_options

STEPS, SAVE_EVERY = 24, 8
MODEL = {
    "encoder": {
        "model_type": "modernbert",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
    },
    "decoder_hidden_size": 32,
    "decoder_intermediate_size": 32,
    "decoder_num_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_num_key_value_heads": 1,
    "decoder_dropout": 0.1,  # so that a run that goes on needs the state of the random numbers, too
    "max_input_tokens": 128,
}


def make(folder: Path, tokenizer: RLMTokenizer) -> Path:
    """A folder with a table of toy programs, a tokenizer, and a YAML file that trains on them."""
    rows = [
        {
            "code": f"x = [{i}] * {10**power}\n",
            "problem": f"p{i}-{power}",
            "machine": "small",
            "peak_memory_bytes": 8.0 * 10**power + i,
            "cpu_time_ms": None if (i + power) % 4 == 0 else 10.0 ** (power - 3),
        }
        for i in range(30)
        for power in range(1, 6)
    ]
    pd.DataFrame(rows).to_parquet(folder / "toy.parquet")
    tokenizer.save_pretrained(folder / "tokenizer")
    source = {
        "file": str(folder / "toy.parquet"),
        "text_column": "code",
        "target_columns": ["peak_memory_bytes", "cpu_time_ms"],
        "group_column": "problem",
        "context_columns": ["machine"],
        "language": "python",
    }
    options = {
        "data": [source],
        "tokenizer": str(folder / "tokenizer"),
        "model": MODEL,
        "default_metrics": {"python": ["peak_memory_bytes", "cpu_time_ms"]},
        "steps": STEPS,
        "save_every": SAVE_EVERY,
        "eval_every": SAVE_EVERY,
        "log_every": 1,
        "max_tokens": 128,
        "max_objectives": 2,
        "batch_tokens": 1500,
        "learning_rate": 3e-3,
        "keep": 2,
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(options))
    return folder


def options_of(toy: Path, out: Path, *flags: Any) -> TrainOptions:
    return parse_options(["--config", str(toy / "toy.yaml"), "--out", str(out), *map(str, flags)])


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()
