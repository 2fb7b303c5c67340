"""What surrounds a run: the plan before it, scores and warnings, early stopping, trackers, memory savers."""

from __future__ import annotations

import errno
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from toy import log_of, options_of

from code_rlm import train as train_module
from code_rlm.train import main, train
from code_rlm.training import checkpoints
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
        "% truncated",
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
    data = [{**options_of(toy, tmp_path).data.sources[0], "validation": 0, "test": 0}]
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
    flags.append(repr({**options_of(toy, tmp_path).model.config, "decoder_dropout": 0.0}))
    train(options_of(toy, tmp_path / "plain", *flags))
    train(options_of(toy, tmp_path / "other", *flags, flag))
    plain, other = ([e.get("loss", e.get("score")) for e in log_of(tmp_path / n)] for n in ("plain", "other"))
    assert other == pytest.approx(plain, rel=1e-4) and bool(compiled) == (flag == "--compile")


def test_when_a_tracker_is_unknown_or_missing_then_the_error_says_what_to_install(toy, tmp_path, monkeypatch):
    with pytest.raises(TrainError, match=r"logging.trackers names 'comet'. Known: tensorboard, trackio, wandb"):
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


# ---------------------------------------------------------------------------------------------------- the folder


SHORT = ("--steps", 4, "--save_every", 2, "--eval_every", 4)


def test_when_a_folder_has_files_of_its_user_then_a_run_leaves_them_alone(toy, tmp_path):
    out = tmp_path / "shared"
    names = (
        "mine/thesis.txt",
        "mine.old/thesis.txt",
        "best.old/thesis.txt",
        "download.partial/part1",
        "step-x/a",
        "step-1/a",
    )
    for name in names:
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("keep")
    (out / "notes.old").write_text("keep")
    train(options_of(toy, out, *SHORT, "--keep", 1))
    train(options_of(toy, out, *SHORT, "--keep", 1))
    assert all((out / name).read_text() == "keep" for name in (*names, "notes.old"))
    assert (out / "final" / "model.safetensors").exists() and not (out / "step-2").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("final/a.txt", "has final, which no run wrote"), ("log.jsonl", "has log.jsonl, which no run wrote"),
     ("options.yaml", r"options.yaml is not of a run \(There is no option hello")],
)  # fmt: skip
def test_when_a_folder_has_what_a_run_would_replace_then_it_is_refused(toy, tmp_path, name, message):
    out = tmp_path / "shared"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("hello: world")
    with pytest.raises(TrainError, match=message):
        train(options_of(toy, out, *SHORT))
    assert [p for p in out.rglob("*") if p.is_file()] == [out / name] and (out / name).read_text() == "hello: world"


def test_when_another_run_is_writing_into_the_folder_then_the_second_ends_with_an_error(toy, tmp_path, monkeypatch):
    out, refused = tmp_path / "run", []

    def second(options):
        monkeypatch.undo()
        with pytest.raises(
            TrainError, match=r"Another run is writing into .*run\. Wait for its end, or choose another"
        ):
            train(options_of(toy, out, *SHORT, "--seed", 1))
        refused.append(True)
        return train_module.load_tokenizer(options)

    monkeypatch.setattr(train_module, "load_tokenizer", second)
    final = train(options_of(toy, out, *SHORT))
    assert refused and yaml.safe_load((final / "training_options.yaml").read_text())["seed"] == 0
    train(options_of(toy, out, *SHORT))  # the lock goes with the run


def test_when_the_disk_is_full_then_the_options_stay_whole_and_the_run_can_be_resumed(toy, tmp_path, monkeypatch):
    out = tmp_path / "run"
    train(options_of(toy, out, *SHORT))
    before = (out / "options.yaml").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(
        TrainError, match=r"options.yaml cannot be written \(No space left on device\); what was there is"
    ):
        train(options_of(toy, out, *SHORT, "--log_every", 2))
    monkeypatch.undo()
    assert (out / "options.yaml").read_bytes() == before
    train(options_of(toy, out, *SHORT, "--log_every", 2))
    assert yaml.safe_load((out / "options.yaml").read_text())["logging"]["every"] == 2


def test_when_the_disk_is_full_while_a_checkpoint_is_written_then_one_line_says_so(toy, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    usage = SimpleNamespace(free=0)
    monkeypatch.setattr(train_module, "save_model", full)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
    argv = ["--config", str(toy / "toy.yaml"), "--out", str(tmp_path / "run"), "--steps", "2"]
    assert main(argv) == 2
    assert re.search(
        r"code-rlm train: The disk of .*run is full\. Checkpoints up to here are whole", capsys.readouterr().err
    )
    monkeypatch.undo()
    assert main(argv) == 0


def test_when_the_disk_is_full_while_the_log_is_written_then_one_line_says_so(toy, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(train_module.RunLog, "write", full)
    argv = ["--config", str(toy / "toy.yaml"), "--out", str(tmp_path / "run"), "--steps", "2"]
    assert main(argv) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "code-rlm train: the disk is full; free some space and give the same command again."


def test_when_a_kill_struck_between_two_names_then_the_folder_is_put_back(tmp_path):
    work = tmp_path / checkpoints.WORK
    for name in ("old/best", "old/final", "partial/step-8"):
        (work / name).mkdir(parents=True)
        (work / name / "which").write_text(name)
    (work / "partial" / "options.yaml").write_text("torn")
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "which").write_text("new")
    checkpoints.clean_up(tmp_path)
    assert (tmp_path / "best" / "which").read_text() == "old/best"
    assert (tmp_path / "final" / "which").read_text() == "new"
    assert not [p for p in work.rglob("*") if p.is_file()]


EARLIER = """
out: {out}
data: {data}
tokenizer: {tokenizer}
model: {model}
lora: null
lexical: null
restore_loss: 0.0
optimizer: adamw
steps: 4
save_every: 2
eval_every: 4
max_tokens: 128
max_objectives: 2
batch_tokens: 1500
"""


def test_when_a_killed_run_has_options_of_an_earlier_version_then_it_is_resumed(toy, tmp_path):
    out = tmp_path / "run"
    flags = ("--log_every", 50, "--keep", 2, "--learning_rate", 1e-3, "--default_metrics", "{}", *SHORT)
    options = options_of(toy, out, *flags)
    train(options)
    expected = (out / "final" / "model.safetensors").read_bytes()
    for gone in ("step-4", "final", "best"):
        shutil.rmtree(out / gone)
    text = EARLIER.format(
        out=out,
        data=json.dumps(options.data.sources),
        tokenizer=options.model.tokenizer,
        model=json.dumps(options.model.config),
    )
    (out / "options.yaml").write_text(text)
    train(options)
    assert (out / "final" / "model.safetensors").read_bytes() == expected
    assert yaml.safe_load((out / "options.yaml").read_text())["schedule"]["steps"] == 4
