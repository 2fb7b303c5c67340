"""The configuration of a run: groups, short names, names of earlier versions, help."""

from __future__ import annotations

import re
from dataclasses import asdict

import pytest
import yaml

from code_rlm.cli import main
from code_rlm.training.options import SHORT_NAMES, TrainError, full_names, make_options, nested, parse_options

# A value of each short name that is not its default.
VALUES = {
    "data_root": "tables", "temperature": 3.0, "max_tokens": 7, "max_objectives": 2, "batch_tokens": 9, "pack": "a.npz",
    "packed": "b.npz", "init": "base", "encoder": "bert", "keep_decoder": True, "tokenizer": "words",
    "freeze_encoder": True, "number_embeddings": True, "magnitudes": True, "head": "mse", "metrics": [{"name": "cycles"}],
    "default_metrics": {"c": ["cycles"]}, "learning_rate": 0.5, "weight_decay": 0.1, "clip": 2.0, "ema": 0.9, "steps": 3,
    "minutes": 1.5, "accumulate": 2, "warmup": 0.3, "final_learning_rate": 0.1, "digit_loss": 0.2, "ranking_loss": 0.4,
    "masked_token_loss": 0.6, "restore_loss": 0.7, "eval_every": 11, "eval_rows": 12, "score": "spearman", "patience": 4,
    "save_every": 13, "keep": 5, "mixed_precision": "bf16", "gradient_checkpointing": True, "compile": True, "workers": 6,
    "feature_cache": "cache", "feature_draws": 8, "log_every": 14, "log_with": ["wandb"], "ensemble.place_buckets": 16,
    "ensemble.perceptron_columns": 17, "ensemble.perceptron_count": 18, "calibrate": False,
    "number_format": {"layout": "p10"}, "z_loss": 0.01,
}  # fmt: skip
# What some of them ask for beside.
BESIDE = {
    "feature_cache": {"freeze_encoder": True},
    "masked_token_loss": {"data": [{"mask_tokens": 0.1}]},
    "restore_loss": {"data": [{"mask_tokens": 0.1}]},
}


@pytest.mark.parametrize("short", SHORT_NAMES)
def test_when_an_option_has_its_short_name_then_it_is_the_field_in_its_group(short, tmp_path):
    entries = {**BESIDE.get(short, {}), short: VALUES[short]}
    options = make_options(**entries)
    assert full_names(asdict(options))[SHORT_NAMES[short]] == VALUES[short]
    assert options != make_options(**BESIDE.get(short, {}))
    assert make_options(**nested({SHORT_NAMES.get(name, name): value for name, value in entries.items()})) == options
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(entries))
    assert parse_options(["--config", str(tmp_path / "options.yaml")]) == options


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        ({"data": [{"task": "a"}]}, {"data": {"sources": [{"task": "a"}]}}),
        ({"optimizer": "muon"}, {"optimizer": {"name": "muon"}}),
        ({"model": {"encoder": {"model_type": "bert"}}}, {"model": {"config": {"encoder": {"model_type": "bert"}}}}),
        ({"model": {}, "lora": None, "ensemble": None}, {}),
        ({"ensemble": True}, {"ensemble": {"use": True}}),
        ({"ensemble": {}}, {"ensemble": {"use": True}}),
        ({"lexical": False}, {"ensemble": {"use": False}}),
        ({"lexical": {"place_buckets": 4}}, {"ensemble": {"position_buckets": 4}}),
        ({"lora": {}, "init": "x"}, {"lora": {"rank": 16}, "model": {"init": "x"}}),
        ({"lora": {"alpha": 3}, "init": "x"}, {"lora": {"rank": 16, "alpha": 3.0}, "model": {"init": "x"}}),
    ],
)
def test_when_a_value_has_the_form_of_an_earlier_version_then_it_means_the_same(earlier, now):
    assert make_options(**earlier) == make_options(**now)


def test_when_options_are_saved_then_they_are_read_again_as_they_were(tmp_path):
    options = make_options(
        steps=3,
        learning_rate="1e-4",
        lora={"rank": 4, "target": ["q_proj"]},
        init="x",
        ensemble={"trees": 5},
        data=[{"task": "a"}],
    )
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(asdict(options)))
    assert parse_options(["--config", str(tmp_path / "options.yaml")]) == options
    assert options.optimizer.learning_rate == 1e-4 and options.lora.scale == 8


def test_when_flags_are_given_then_they_win_over_the_file_field_by_field(tmp_path):
    (tmp_path / "mine.yaml").write_text("schedule: {steps: 5, warmup: 0.5}\nlora: {rank: 4, dropout: 0.1}\ninit: x\n")
    argv = ["--config", str(tmp_path / "mine.yaml"), "--steps", "7", "--lora.rank=8", "--optimizer", "muon"]
    options = parse_options([*argv, "--optimizer.learning-rate", "1e-4", "--compile", "--number_embeddings"])
    assert (options.schedule.steps, options.schedule.warmup) == (7, 0.5)
    assert (options.lora.rank, options.lora.dropout) == (8, 0.1)
    assert (options.optimizer.name, options.optimizer.learning_rate) == ("muon", 1e-4)
    assert options.runtime.compile and options.model.number_embeddings
    assert parse_options(["--out", "2024", "--init", "null", "--ensemble", "false"]).out == "2024"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"lora": {"rank": 4}}, "give init, such as --init checkpoints/default"),
        ({"lora.alpha": 3.0, "init": "x"}, "lora needs a rank"),
        ({"lora": {"target": "q_proj"}, "init": "x"}, "lora.target must be attention, linear or a list of names"),
        ({"ensemble": {"use": False, "trees": 3}}, "ensemble.use: false removes"),
        ({"steps": 0, "patience": 2}, "steps: 0 trains nothing"),
        ({"pack": "a", "packed": "b"}, "take one of them"),
        ({"feature_cache": "a"}, "set freeze_encoder: true as well"),
        ({"masked_token_loss": 1.0, "freeze_encoder": True}, "take one of them"),
        ({"masked_token_loss": 1.0}, "set mask_tokens: 0.15 in a data source"),
    ],
)
def test_when_options_do_not_go_together_then_the_error_says_why(entries, message):
    with pytest.raises(TrainError, match=message):
        make_options(**entries)


def test_when_help_is_shown_then_every_field_and_every_key_of_a_source_has_a_line_of_its_own(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in full_names(asdict(make_options())):
        assert re.search(rf"^  --{re.escape(name.replace('_', '-'))}\b", shown, re.M), name
    assert all(re.search(rf"^  {key} +\S", shown, re.M) for key in ("target_columns", "mask_tokens", "on_error"))
    assert max(map(len, shown.splitlines())) <= 130
