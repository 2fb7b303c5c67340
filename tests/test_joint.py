"""Two objectives drawn together, the z-loss, and checkpoints that are copied while training goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import toy

import code_rlm
from code_rlm.cli import main
from code_rlm.evaluation.pareto import compare
from code_rlm.generation_rlm import NumberGrammar
from code_rlm.train import train
from code_rlm.training.checkpoints import checkpoints
from code_rlm.training.losses import z_loss


@pytest.fixture(scope="module")
def checkpoint(make_model, tokenizer, tmp_path_factory) -> Path:
    return tiny.save(make_model, tokenizer, tmp_path_factory.mktemp("model") / "final")


def test_when_two_metrics_are_compared_jointly_then_draws_follow_the_second_given_the_first(
    checkpoint, tmp_path, capsys
):
    pipe = code_rlm.pipeline(checkpoint)
    metrics = ["peak_memory_bytes", "cpu_time_ms"]
    rows = compare(pipe, [tiny.PYTHON, "x = 1\n"], metrics, joint=True)
    for row in rows:
        assert len(row["draws"]) == 512 and len(row["draws"][0]) == 2
        assert row["correlation"] is None or -1 <= row["correlation"] <= 1
    expected = pipe(tiny.PYTHON, metrics=metrics, num_samples=512)
    assert [list(column) for column in zip(*rows[0]["draws"], strict=True)] == [entry["samples"] for entry in expected]
    for name in "ab":
        (tmp_path / f"{name}.py").write_text(f"{name} = [0] * 9\n")
    argv = ["pareto", str(tmp_path), "--model", str(checkpoint), "--metrics", *metrics, "--joint", "--format", "json"]
    assert main(argv) == 0
    printed = json.loads(capsys.readouterr().out)
    assert all("correlation" in row and "draws" not in row for row in printed)


def test_when_logits_are_shifted_then_the_z_loss_grows_by_the_shift_and_ignores_what_is_ignored(model):
    grammar = NumberGrammar(model.codec)
    labels = torch.from_numpy(model.codec.encode([[12.0], [3.5]])).reshape(2, -1)
    logits = torch.randn(2, labels.shape[1], model.codec.vocab_size, generator=torch.Generator().manual_seed(0))
    normal = logits - grammar.scores(logits, labels).logsumexp(-1, keepdim=True)
    assert z_loss(normal, labels, grammar) == pytest.approx(0, abs=1e-4)
    assert z_loss(normal + 2.0, labels, grammar) == pytest.approx(4.0 * labels.numel(), rel=1e-3)
    labels[1] = -100
    assert z_loss(normal + 2.0, labels, grammar) == pytest.approx(4.0 * labels[0].numel(), rel=1e-3)


@pytest.fixture(scope="module")
def table(tokenizer, tmp_path_factory) -> Path:
    return toy.make(tmp_path_factory.mktemp("toy"), tokenizer)


def test_when_checkpoints_are_staged_in_memory_then_they_are_those_of_a_run_without_and_resume(table, tmp_path):
    options = ["--steps", "8", "--save-every", "4", "--eval-every", "8", "--keep", "2"]
    train(toy.options_of(table, tmp_path / "plain", *options))
    memory = tmp_path / "memory"
    train(toy.options_of(table, tmp_path / "staged", *options, "--checkpointing.staging", memory))
    found, expected = (checkpoints(tmp_path / name) for name in ("staged", "plain"))
    assert [path.name for path in found] == [path.name for path in expected] == ["step-4", "step-8"]
    assert [toy.weights(path) for path in found] == [toy.weights(path) for path in expected]
    assert not list(memory.glob("code-rlm-*")) and not list((tmp_path / "staged" / ".code-rlm" / "partial").glob("*"))
    for name in ("step-8", "final", "best"):
        shutil.rmtree(tmp_path / "staged" / name)
    train(toy.options_of(table, tmp_path / "staged", *options))  # where checkpoints are staged may change
    assert toy.weights(tmp_path / "staged" / "final") == toy.weights(tmp_path / "plain" / "final")
    one, other = ([entry["loss"] for entry in toy.log_of(tmp_path / n) if "loss" in entry] for n in ("staged", "plain"))
    assert np.allclose(one, other)


def test_when_a_z_loss_is_weighed_then_training_differs(table, tmp_path):
    options = ["--steps", "2", "--save-every", "2", "--eval-every", "2"]
    train(toy.options_of(table, tmp_path / "plain", *options))
    train(toy.options_of(table, tmp_path / "z", *options, "--z-loss", "0.01"))
    assert toy.weights(tmp_path / "z" / "final") != toy.weights(tmp_path / "plain" / "final")
