"""What surrounds a run: the plan before it, scores and warnings, early stopping, trackers, memory savers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy import log_of, options_of

from code_rlm.train import main, train
from code_rlm.training.options import TrainError


def test_when_a_run_is_dry_then_it_says_what_it_would_do_and_writes_nothing(toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--config", str(toy / "toy.yaml"), "--out", str(tmp_path / "run"), "--dry_run", "--steps", "30"]
    assert main([*argv, "--freeze_encoder", "--feature_cache", str(tmp_path / "cache")]) == 0
    told = capsys.readouterr().out
    for words in (
        "toy.parquet: 125 training rows, 13 to validate",
        "100% of the examples",
        "peak_memory_bytes: 125 values",
        "% cut",
        "% padding",
        "30 steps of 1 batches",
        "trained by adamw",
        "features: ",
        "memory: about",
    ):
        assert words in told
    assert not list(tmp_path.iterdir())
    # The examples that it counts on are those that a run of so many steps sees.
    assert main([*argv[:4], "--steps", "30"]) == 0
    seen = np.mean([e["tokens_per_s"] / e["examples_per_s"] for e in log_of(tmp_path / "run") if "loss" in e])
    tokens, examples = (
        float(told.split(word)[0].split(",")[-1].split(":")[-1]) for word in (" tokens, ", " examples, 1")
    )
    assert tokens / examples == pytest.approx(seen, rel=0.1)


def test_when_training_stops_helping_then_the_run_ends_early_and_final_is_the_best(toy, tmp_path, capfd):
    flags = [
        "--steps",
        200,
        "--eval_every",
        4,
        "--save_every",
        100,
        "--patience",
        2,
        "--learning_rate",
        0.1,
        "--warmup",
        0.5,
    ]
    flags += ["--ema", 0.0]
    out = tmp_path / "run"
    train(options_of(toy, out, *flags))
    scores = [(e["score"], e["step"]) for e in log_of(out) if "score" in e]
    best = min(scores)
    assert scores[-1][1] < 200 and scores[-1][1] == best[1] + 8
    assert (out / "final" / "model.safetensors").read_bytes() == (out / "best" / "model.safetensors").read_bytes()
    assert f"at step {best[1]} of {scores[-1][1]}" in capfd.readouterr().err
    train(options_of(toy, out, *flags))  # once ended it stays so
    assert [(e["score"], e["step"]) for e in log_of(out) if "score" in e] == scores


def test_when_fine_tuning_makes_it_worse_then_a_warning_says_so_beside_the_score_before(toy, tmp_path, capfd):
    first = train(options_of(toy, tmp_path / "first", "--steps", 20))
    flags = ["--init", first, "--model", "{}", "--steps", 2, "--learning_rate", 0.5, "--warmup", 0.0, "--eval_every", 1]
    train(options_of(toy, tmp_path / "worse", *flags))
    entries = [e for e in log_of(tmp_path / "worse") if "score" in e]
    assert [e["step"] for e in entries] == [0, 1, 2]
    assert entries[-1]["zero_shot"] == entries[0]["score"] < entries[-1]["score"]
    told = capfd.readouterr().err
    assert "before training: " in told and "WARNING: on the validation rows the model is no better" in told
    gentle = ["--init", first, "--model", "{}", "--steps", 8, "--learning_rate", 1e-3, "--eval_every", 8]
    train(options_of(toy, tmp_path / "better", *gentle))
    assert "WARNING" not in capfd.readouterr().err


def test_when_spearman_is_the_score_then_exact_medians_are_ranked_in_every_source(toy, tmp_path):
    out = tmp_path / "run"
    train(options_of(toy, out, "--score", "spearman", "--steps", 24, "--eval_every", 24))
    entry = next(e for e in log_of(out) if "spearman" in e)
    found = entry["spearman"]["toy.parquet"]
    assert set(found) == {"peak_memory_bytes", "cpu_time_ms"} and all(-1 <= v <= 1 for v in found.values())
    assert entry["score"] == pytest.approx(-np.mean(list(found.values())), abs=1e-3)


def test_when_patience_has_nothing_to_validate_on_then_it_is_refused(toy, tmp_path):
    data = [{**options_of(toy, tmp_path).data[0], "validation": 0, "test": 0}]
    with pytest.raises(TrainError, match=r"patience needs validation rows"):
        train(options_of(toy, tmp_path / "run", "--patience", 1, "--data", repr(data)))


@pytest.mark.parametrize("flag", ["--gradient_checkpointing", pytest.param("--compile", marks=pytest.mark.slow)])
def test_when_a_run_is_checkpointed_or_compiled_then_its_losses_are_the_same(toy, tmp_path, monkeypatch, flag):
    compiled = []

    def compile_quickly(self, **options):  # the graphs are captured, a C++ compiler is not waited for
        compiled.append(self)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    flags = ["--steps", 2, "--eval_every", 2, "--save_every", 2, "--model"]
    flags.append(repr({**options_of(toy, tmp_path).model, "decoder_dropout": 0.0}))
    train(options_of(toy, tmp_path / "plain", *flags))
    train(options_of(toy, tmp_path / "other", *flags, flag))
    plain, other = ([e.get("loss", e.get("score")) for e in log_of(tmp_path / n)] for n in ("plain", "other"))
    assert other == pytest.approx(plain, rel=1e-4) and bool(compiled) == (flag == "--compile")


def test_when_a_tracker_is_unknown_or_missing_then_the_error_says_what_to_install(toy, tmp_path, monkeypatch):
    with pytest.raises(TrainError, match=r"log_with names 'comet'. Known: tensorboard, trackio, wandb"):
        train(options_of(toy, tmp_path / "run", "--log_with", "[comet]"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainError, match=r"wandb is not installed. Install it: pip install wandb"):
        train(options_of(toy, tmp_path / "run", "--log_with", "[wandb]"))
    assert not (tmp_path / "run").exists()


def test_when_tensorboard_is_asked_for_then_losses_and_scores_arrive_there(toy, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(options_of(toy, tmp_path / "run", "--steps", 3, "--eval_every", 3, "--log_with", "[tensorboard]"))
    events = EventAccumulator(str(next(p.parent for p in (tmp_path / "run").rglob("events.out.tfevents.*"))))
    events.Reload()
    logged = [e["loss"] for e in log_of(tmp_path / "run") if "loss" in e]
    assert [s.value for s in events.Scalars("loss")] == pytest.approx(logged)
    assert "validation/toy.parquet" in events.Tags()["scalars"]
