"""Training on a toy table: it learns, goes on after a kill as if nothing had happened, and refuses what it cannot use."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from toy import MODEL, SAVE_EVERY, STEPS, log_of, options_of, weights
from transformers.utils import logging

import code_rlm
from code_rlm import train as train_module
from code_rlm.configuration_rlm import RLMConfig
from code_rlm.data.external import generic
from code_rlm.data.mixture import Mixture, Source, hidden_places, share
from code_rlm.data.published import PUBLISHED
from code_rlm.data.readers import TASKS
from code_rlm.data.schema import DataError, Example, to_dataset
from code_rlm.errors_rlm import RLMError
from code_rlm.evaluation.predictions import predict_rows
from code_rlm.evaluation.run import main as evaluate
from code_rlm.numbers_rlm import is_failed
from code_rlm.processing_rlm import CodeInput, encode_inputs
from code_rlm.train import main, train
from code_rlm.training import checkpoints
from code_rlm.training.options import TrainError, make_options, parse_options

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def progress_bars_as_before():
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory) -> Path:
    """The folder of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert train(options_of(toy, out)) == out / "final"
    return out


# ---------------------------------------------------------------------------------------------------- a run


def test_when_a_model_is_trained_then_its_loss_falls(finished):
    entries = log_of(finished)
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert len(losses) == STEPS
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    scores = [entry["validation"]["toy.parquet"] for entry in entries if "validation" in entry]
    assert len(scores) == STEPS // SAVE_EVERY and scores[-1] < scores[0]
    rates = [entry["lr"] for entry in entries if "lr" in entry]
    assert max(rates) <= 3e-3 and rates[-1] == pytest.approx(0.02 * 3e-3)


def test_when_a_run_ends_then_its_folder_holds_what_the_documentation_says(finished, toy):
    names = {"log.jsonl", "options.yaml", "best", "final", "step-16", "step-24", checkpoints.WORK}
    assert {p.name for p in finished.iterdir()} == names
    assert [p.name for p in (finished / checkpoints.WORK).rglob("*") if p.is_file()] == ["lock"]
    assert yaml.safe_load((finished / "options.yaml").read_text())["schedule"]["steps"] == STEPS
    resolved = yaml.safe_load((finished / "final" / "training_options.yaml").read_text())
    assert resolved["seed"] == 0 and resolved["optimizer"]["learning_rate"] == 3e-3 and "out" not in resolved
    assert weights(finished / "final") == weights(finished / "step-24")
    assert str(toy) not in (finished / "final" / "config.json").read_text()


def test_when_a_run_ends_then_the_pipeline_loads_it(finished):
    pipe = code_rlm.pipeline(finished / "final")
    registry = {m["name"]: m for m in pipe.model.config.metrics}
    assert list(registry) == ["peak_memory_bytes", "cpu_time_ms"]
    assert registry["cpu_time_ms"] == {
        "name": "cpu_time_ms",
        "unit": "ms",
        "smaller_is_better": True,
        "description": "toy.parquet",
        "languages": ["python"],
    }
    answer = pipe("x = [3] * 1000\n", context={"machine": "small"})
    assert [entry["metric"] for entry in answer] == ["peak_memory_bytes", "cpu_time_ms"]
    assert all(entry["low"] <= entry["value"] <= entry["high"] for entry in answer)


# ---------------------------------------------------------------------------------------------------- kills


class Killed(BaseException):
    """What no `except Exception` catches, as no kill can be caught."""


def test_when_a_run_dies_while_it_saves_then_it_goes_on_bit_by_bit(toy, finished, tmp_path, monkeypatch):
    save = train_module.save_model

    def dies(model, tokenizer, folder, options, state=None):
        save(model, tokenizer, folder, options, state)
        if folder == tmp_path / "run" / checkpoints.WORK / "partial" / "step-16":
            raise Killed

    monkeypatch.setattr(train_module, "save_model", dies)
    with pytest.raises(Killed):
        train(options_of(toy, tmp_path / "run"))
    monkeypatch.undo()
    assert {p.name for p in (tmp_path / "run").glob("step-*")} == {"step-8"}
    assert (tmp_path / "run" / checkpoints.WORK / "partial" / "step-16" / "model.safetensors").exists()
    code_rlm.load(tmp_path / "run" / "step-8")

    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    final = train(options_of(toy, moved, "--log_every", 2))
    assert weights(final) == weights(finished / "final")
    assert {p.name for p in moved.glob("step-*")} == {"step-16", "step-24"}
    expected = {e["step"]: e for e in log_of(finished) if "validation" in e}
    assert {e["step"]: e for e in log_of(moved) if "validation" in e} == expected


SUICIDE = """
import os, signal, sys
from code_rlm import train
save, folder = train.save_model, sys.argv.pop()
def dies(model, tokenizer, where, options, state=None):
    if where.name == folder and where.parent.name == "partial":
        (where / "config.json").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)
    save(model, tokenizer, where, options, state)
train.save_model = dies
train.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_when_a_process_is_killed_then_the_same_command_goes_on_bit_by_bit(toy, finished, tmp_path):
    argv = ["--config", str(toy / "toy.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", SUICIDE, *argv, "step-16"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert main(argv) == 0
    assert weights(tmp_path / "run" / "final") == weights(finished / "final")


def test_when_a_run_is_complete_then_the_same_command_changes_nothing(toy, finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "run")
    argv = ["--config", str(toy / "toy.yaml"), "--out", str(out)]
    assert main(argv) == 0
    assert capsys.readouterr().out == f"{out / 'final'}\n"
    assert weights(out / "final") == weights(finished / "final")


@pytest.mark.parametrize("moment", ["write", "flush"])
def test_when_saving_dies_then_the_folder_that_was_there_stays_whole(finished, tmp_path, monkeypatch, moment):
    folder = shutil.copytree(finished / "final", tmp_path / "final")

    def write(partial: Path) -> None:
        assert partial == folder.parent / checkpoints.WORK / "partial" / folder.name
        (partial / "config.json").write_text("{")
        if moment == "write":
            raise Killed

    def dies(*_):
        raise Killed

    if moment == "flush":
        monkeypatch.setattr(checkpoints.os, "fsync", dies)
    with pytest.raises(Killed):
        checkpoints.save_whole(folder, write)
    monkeypatch.undo()
    code_rlm.load(folder)
    assert weights(folder) == weights(finished / "final")

    checkpoints.save_whole(folder, lambda partial: (partial / "new").write_text("new"))
    assert [p.name for p in folder.iterdir()] == ["new"]
    assert {p.name for p in tmp_path.iterdir()} == {"final", checkpoints.WORK}
    assert not [p for p in (tmp_path / checkpoints.WORK).rglob("*") if p.is_file()]


def test_when_folders_are_partial_then_they_are_no_checkpoints(tmp_path):
    for name in ("step-10", "step-9", "step-100.partial", "step-x", "step-5.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "progress.json").write_text("{}")
    (tmp_path / "step-7").mkdir()  # of somebody else
    assert [p.name for p in checkpoints.checkpoints(tmp_path)] == ["step-9", "step-10"]


# ---------------------------------------------------------------------------------------------------- options


def test_when_flags_and_file_disagree_then_flags_win_and_types_are_kept(toy, tmp_path):
    options = options_of(toy, tmp_path, "--steps", 7, "--learning_rate", "1e-4", "--freeze_encoder", "true")
    assert (options.schedule.steps, options.optimizer.learning_rate, options.model.freeze_encoder) == (7, 1e-4, True)
    assert options.data.batch_tokens == 1500 and options.model.config == MODEL
    assert options_of(toy, tmp_path, "--data", "[{task: bhive_zen4}]").data.sources == [{"task": "bhive_zen4"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 10", r"options.yaml: There is no option step. Did you mean steps\?"),
        ("1: 10", "There is no option 1. See code-rlm train --help"),
        ("schedule: {stps: 10}", r"There is no option schedule.stps. Did you mean schedule.steps\?"),
        ("steps: many", "schedule.steps must be a whole number of at least 0; got 'many'"),
        ("steps: 1.5", "schedule.steps must be a whole number of at least 0; got 1.5"),
        ("steps: true", "schedule.steps must be a whole number .*; got True"),
        ("steps: -1", "schedule.steps must be a whole number of at least 0; got -1"),
        ("learning_rate: fast", "optimizer.learning_rate must be a number above 0; got 'fast'"),
        ("learning_rate: -1", "optimizer.learning_rate must be a number above 0; got -1"),
        ("ema: 1", "optimizer.ema must be a number of at least 0 and below 1; got 1"),
        ("data: bhive", "data.sources must be a list of mappings; got 'bhive'"),
        ("data: [bhive]", r"data.sources must be a list of mappings; got \['bhive'\]"),
        (
            "data: [{task: a, wieght: 1}]",
            r"data.sources\[0\] \(a\) has no key wieght. Did you mean weight\? Known: task, file",
        ),
        (
            "data: [{task: a, weight: heavy}]",
            r"data.sources\[0\] \(a\): weight must be a number above 0 or nothing; got 'heavy'",
        ),
        ("data: [{task: a, swap_text: 1}]", "swap_text must be a number of at least 0 and below 1 or nothing; got 1"),
        ("metrics: [cycles]", r"model.metrics must be a list of mappings; got \['cycles'\]"),
        ("model: [1]", r"model must be a mapping of config, .*; got \[1\]"),
        ("out: 3", "out must be text; got 3"),
        ("init: 3", "model.init must be text or nothing; got 3"),
        ("freeze_encoder: 1", "model.freeze_encoder must be true or false or nothing; got 1"),
        ("mixed_precision: fp8", "runtime.mixed_precision must be one of no, bf16, fp16; got 'fp8'"),
        ("lora: {alpha: 2, rnk: 3}", r"There is no option lora.rnk. Did you mean lora.rank\?"),
        ("ensemble: {tree: 3}", r"There is no option ensemble.tree. Did you mean ensemble.trees\?"),
        ("- 3", "must hold options by name, such as `steps: 100`; got a list"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_when_an_option_is_unusable_then_one_line_says_what_is_allowed(tmp_path, capsys, text, message):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    with pytest.raises(TrainError, match=message):
        parse_options(["--config", str(path)])
    assert main(["--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("code-rlm train: ") and err.count("\n") == 1


def test_when_a_flag_is_unusable_then_it_is_a_train_error():
    for argv, message in (
        (["--learning_rate", "fast"], "optimizer.learning_rate must be a number above 0; got 'fast'"),
        (["--data", "[{"], "--data cannot be read as YAML"),
        (["--config", "no/such.yaml"], "no/such.yaml cannot be read"),
        (["--stps", "3"], r"There is no option --stps. Did you mean --steps\?"),
        (["--steps"], "--steps needs a value"),
        (["data.yaml"], "takes no argument 'data.yaml'"),
    ):
        with pytest.raises(RLMError, match=message):
            parse_options(argv)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": []}, "There is no data"),
        ({"data": [{"language": "c"}]}, "needs 'task' or 'file', got keys"),
        ({"data": [{"task": "no_such_task"}]}, "unknown task 'no_such_task'; known are"),
        (
            {"data": [{"task": "bhive_zen4", "colour": 1}]},
            r"data.sources\[0\] \(bhive_zen4\) has no key colour",
        ),
        ({"data": [{"file": "x.csv"}]}, "no file x.csv"),
        ({"data": [{"file": "x.csv", "metrics": ["a"]}]}, r"x.csv has unknown keys \['metrics'\]. Known: text_column"),
        ({"data": [{"file": "x.csv", "target_columns": ["a"], "language": "python"}]}, "no file x.csv"),
        ({"tokenizer": None}, "A new model needs `tokenizer:`"),
        ({"tokenizer": "no/such/folder"}, "No tokenizer could be loaded from no/such/folder"),
        ({"init": "no/such/folder"}, "There is no checkpoint folder no/such/folder"),
        ({"model": {"decoder_layers": 2}}, r"model has unknown fields \['decoder_layers'\]. Known: encoder, "),
        ({"model": {"decoder_hidden_size": 33}}, "33"),
        ({"metrics": [{"name": "cpu_time_ms", "colour": 1}]}, r"unknown keys \['colour'\]"),
        ({"metrics": [{"unit": "ms"}]}, "None is not a metric name"),
    ],
)
def test_when_data_or_model_is_unusable_then_one_line_says_what_is_known(toy, tmp_path, capsys, changes, message):
    options = {**yaml.safe_load((toy / "toy.yaml").read_text()), **changes, "out": str(tmp_path / "run")}
    with pytest.raises(RLMError, match=message):
        train(make_options(**options))
    assert not checkpoints.checkpoints(tmp_path / "run")


def test_when_the_folder_holds_another_run_then_it_is_left_alone(toy, finished):
    before = (finished / "log.jsonl").read_bytes()
    for flag, value, name in (
        ("--learning_rate", 1e-3, "optimizer.learning_rate"),
        ("--schedule.steps", 100, "schedule.steps"),
        ("--seed", 1, "seed"),
    ):
        with pytest.raises(TrainError, match=rf"holds a run with other options \({name}\). Choose another --out"):
            train(options_of(toy, finished, flag, value))
    assert (finished / "log.jsonl").read_bytes() == before
    assert yaml.safe_load((finished / "options.yaml").read_text())["seed"] == 0


@pytest.mark.parametrize(
    "path",
    sorted({*(ROOT / "configs").rglob("*.yaml")} - {*(ROOT / "configs" / "accelerate").iterdir()}),
    ids=lambda p: p.name,
)
def test_when_a_config_ships_then_its_options_and_its_model_are_valid(path):
    options = parse_options(["--config", str(path)])
    assert all(entry["task"] in {*TASKS, *PUBLISHED} for entry in options.data.sources if "task" in entry)
    assert all({"task", "file"} & set(entry) for entry in options.data.sources)
    fields = {k: v for k, v in options.model.config.items() if k in RLMConfig.__annotations__}
    assert fields == options.model.config
    config = RLMConfig(**fields)
    tasks = [entry["task"] for entry in options.data.sources if entry.get("task") in TASKS]
    known = {m for task in tasks for m in TASKS[task].metrics}
    known |= {m["name"] for m in options.model.metrics}
    assert {m for names in options.model.default_metrics.values() for m in names} <= known or not known
    assert config.max_input_tokens >= 16


# ---------------------------------------------------------------------------------------------------- fine-tuning


@pytest.fixture(scope="module")
def assembly(toy) -> dict[str, Any]:
    """A source of another kind of input that shares one metric's name with the toy table."""
    path = toy / "assembly.csv"
    rows = [
        {"text": f"add rax, {i}\nmov rbx, rax", "cycles": 1.0 + i % 3, "cpu_time_ms": 2.0 + i % 2} for i in range(40)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return {"file": str(path), "target_columns": ["cycles", "cpu_time_ms"], "language": "x86asm"}


def test_when_a_checkpoint_is_tuned_then_its_registry_is_widened_and_keeps_what_it_knew(finished, assembly, tmp_path):
    start = shutil.copytree(finished / "final", tmp_path / "start")
    config = json.loads((start / "config.json").read_text())
    for entry in config["metrics"]:
        entry.update(description="as measured", smaller_is_better=False)
    (start / "config.json").write_text(json.dumps(config))
    options = make_options(
        out=str(tmp_path / "run"),
        init=str(start),
        data=[assembly],
        metrics=[{"name": "cycles", "unit": "cycles", "description": "by hand"}],
        default_metrics={"x86asm": ["cycles"]},
        steps=2,
        max_objectives=2,
        max_tokens=128,
        batch_tokens=600,
        freeze_encoder=True,
    )
    pipe = code_rlm.pipeline(train(options))
    registry = {m["name"]: m for m in pipe.model.config.metrics}
    assert list(registry) == ["peak_memory_bytes", "cpu_time_ms", "cycles"]
    assert registry["peak_memory_bytes"]["languages"] == ["python"]
    assert registry["cpu_time_ms"]["languages"] == ["python", "x86asm"]
    assert registry["cpu_time_ms"]["description"] == "as measured" and not registry["cpu_time_ms"]["smaller_is_better"]
    assert registry["cycles"]["description"] == "by hand" and registry["cycles"]["languages"] == ["x86asm"]
    assert [e["metric"] for e in pipe("add rax, 1\nmov rbx, rax")] == ["cycles"]
    assert [e["metric"] for e in pipe("x = 1")] == ["peak_memory_bytes", "cpu_time_ms"]
    before, after = code_rlm.load(start)[0].state_dict(), pipe.model.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder", "memory_norm", "number_head"}


def test_when_more_is_asked_than_the_checkpoint_answers_then_the_error_says_what_to_pass(finished, assembly, tmp_path):
    options = {"out": str(tmp_path / "run"), "init": str(finished / "final"), "data": [assembly]}
    with pytest.raises(TrainError, match="answers at most 2 metrics at once"):
        train(make_options(**options, max_objectives=3))


# ---------------------------------------------------------------------------------------------------- batches


def rows_of(count: int = 60) -> Any:
    """Rows with missing values, with failures, and with nothing at all."""
    examples = []
    for i in range(count):
        text, outcome, values = f"x = [{i}] * 2" + " + [1]" * (i % 13), "ok", [float(i + 1), 2.0 * i + 1]
        if i % 4 == 1:
            values[1] = None
        if i % 10 == 2:
            outcome, values = "timeout", [None, None]
        if i % 20 == 3:
            values = [None, None]
        examples.append(
            Example(text, "python", ["latency_ms", "cycles"], values, None, [f"size: {i}"], f"g{i}", "toy", outcome)
        )
    return to_dataset(examples)


@pytest.fixture(scope="module")
def source(tokenizer) -> Source:
    return Source.from_dataset("toy", rows_of(), tokenizer)


def mixture_of(sources: list[Source], tokenizer, **changes) -> Mixture:
    settings = {"max_tokens": 160, "batch_tokens": 900, "max_objectives": 2, "pool": 64}
    return Mixture(sources, changes.pop("weights", [1.0] * len(sources)), tokenizer, **{**settings, **changes})


def plain(batches: Any) -> list[dict[str, list]]:
    return [{name: tensor.tolist() for name, tensor in batch.items()} for batch in batches]


def test_when_the_seed_is_the_same_then_the_batches_are(source, tokenizer):
    first, again, other = (
        plain(islice(mixture_of([source], tokenizer, seed=seed).batches(), 40)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert len({str(batch) for batch in first}) == 40
    # A run that goes on takes up the stream where it stood, also inside a later pool.
    stream = mixture_of([source], tokenizer, seed=1).batches()
    list(islice(stream, 33))
    assert stream.position[0] > 0 and stream.position[1] > 0
    assert plain(islice(mixture_of([source], tokenizer, seed=1).batches(stream.position), 7)) == first[33:]


@pytest.mark.parametrize("processes", [2, 3])
def test_when_processes_share_a_batch_then_each_example_goes_to_exactly_one(source, tokenizer, processes):
    for batch in islice(mixture_of([source], tokenizer).batches(), 30):
        parts = [share(batch, rank, processes) for rank in range(processes)]
        assert all(set(part) == set(batch) and len(part["labels"]) for part in parts)
        rows = [
            str((ids.tolist(), labels.tolist()))
            for p in parts
            for ids, labels in zip(p["input_ids"], p["labels"])
            if (labels != -100).any()
        ]
        whole = [str((ids.tolist(), labels.tolist())) for ids, labels in zip(batch["input_ids"], batch["labels"])]
        assert sorted(rows) == sorted(whole)
    one = next(iter(mixture_of([source], tokenizer, batch_tokens=100).batches()))
    one = {name: tensor[:1] for name, tensor in one.items()}
    assert (share(one, processes - 1, processes)["labels"] == -100).all()


@pytest.mark.parametrize("batch_tokens", [160, 400, 3000])
def test_when_batches_are_made_then_they_fit_the_budget_and_pad_no_further_than_they_must(
    source, tokenizer, batch_tokens
):
    mixture = mixture_of([source], tokenizer, batch_tokens=batch_tokens)
    batches = list(islice(mixture.batches(), 60))
    for batch in batches:
        mask = batch["attention_mask"]
        assert mask.numel() <= batch_tokens
        assert mask.shape[1] == mask.sum(1).max() <= 160
        assert ((batch["input_ids"] == tokenizer.pad_token_id) == (mask == 0)).all()
    tokens, places = (sum(int(f(b["attention_mask"])) for b in batches) for f in (torch.sum, torch.numel))
    assert tokens > 0.8 * places


def test_when_batches_are_read_back_then_header_and_labels_are_those_of_a_row(source, tokenizer):
    rows = {row["text"]: row for row in rows_of()}
    seen, asked = set(), set()
    for batch in islice(mixture_of([source], tokenizer).batches(), 40):
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            text = tokenizer.decode(ids[mask.bool()][:-1].tolist())
            predict, language, context, body = text.split("\n", 3)
            row = rows[body]
            assert (language, context) == ("# language: python", f"# {row['context'][0]}")
            assert ids[mask.bool()][-1] == tokenizer.eos_token_id
            names = predict.removeprefix("# predict: ").split(", ")
            labels = labels[labels != -100]
            assert labels[-1] == tokenizer.codec.eos_token_id
            found = tokenizer.decode_numbers(labels[:-1].numpy().reshape(len(names), -1))
            for name, value in zip(names, found, strict=True):
                target = row["values"][row["metrics"].index(name)]
                if row["outcome"] == "ok":
                    assert value == target
                else:
                    assert target is None and is_failed(value)
            seen.add(body)
            asked.add(tuple(names))
    assert asked == {("latency_ms",), ("cycles",), ("latency_ms", "cycles"), ("cycles", "latency_ms")}
    # Rows that finished without any value are not there; all others are.
    assert seen == {text for i, text in enumerate(rows) if i % 20 != 3}
    assert source.dropped == 3


def test_when_a_row_is_trained_on_then_it_reads_as_in_prediction(source, tokenizer):
    mixture = mixture_of([source], tokenizer, max_tokens=90)
    chosen = [row for row in range(len(source)) if source.present[row].all()]
    by_text = {row["text"]: row for row in rows_of()}
    truncated = 0
    for row in chosen:
        item = mixture.build(source, row, [1, 0])
        ids = item.input_ids
        truncated += item.truncated_tokens > 0
        text = tokenizer.decode(source.bodies[row].tolist())
        code = CodeInput(text, "python", tuple(by_text[text]["context"]))
        (expected,) = encode_inputs(tokenizer, [code], [("cycles", "latency_ms")], 90)
        assert ids == expected.input_ids and len(ids) <= 90
    assert 0 < truncated < len(chosen)
    items, _ = mixture.pool_of(0)
    assert 0 < mixture.truncated == sum(item.truncated_tokens > 0 for item in items) < mixture.drawn == len(items)


def test_when_sources_have_weights_then_they_are_drawn_by_them_and_masks_spare_the_header(source, tokenizer):
    other = Source.from_dataset("other", to_dataset([Example("y" * 60, "c", ["cycles"], [7.0], group="g")]), tokenizer)
    other.mask_tokens = 0.5
    mixture = mixture_of([source, other], tokenizer, weights=[3, 1], pool=400)
    items, _ = mixture.pool_of(0)
    masked = [item.input_ids for item in items if tokenizer.mask_token_id in item.input_ids]
    assert 60 < len(masked) < 140
    header, _ = mixture._header(("cycles",), "c", ())
    assert all(ids[: len(header)] == header for ids in masked)
    share = np.mean([np.mean(np.array(ids[len(header) : -1]) == tokenizer.mask_token_id) for ids in masked])
    assert 0.4 < share < 0.6
    assert len({tuple(ids) for ids in masked}) == len(masked)


def test_when_spans_are_hidden_then_their_share_and_length_are_as_asked():
    rng = np.random.default_rng(0)
    for part, span in ((0.15, 3.0), (0.3, 1.0)):
        hidden = hidden_places(100_000, part, span, rng)
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], hidden, [0]]))))[::2]
        # Runs that start inside or right behind another make one with it.
        assert 0.85 * part < hidden.mean() <= 1.02 * part
        assert span <= runs.mean() < 1.5 * span
    assert not hidden_places(50, 0.0, 3.0, rng).any() and len(hidden_places(0, 0.5, 3.0, rng)) == 0


def test_when_hidden_tokens_are_kept_then_they_make_the_input_whole_again(source, tokenizer):
    source.mask_tokens, source.mask_span = 0.3, 3.0
    mixture = mixture_of([source], tokenizer, max_tokens=90, restore=True, pool=200)
    items, groups = mixture.pool_of(0)
    code = {row["text"] for row in rows_of()}
    whole = truncated = 0
    for item in items:
        ids, masked = np.array(item.input_ids), np.array(item.input_ids) == tokenizer.mask_token_id
        assert ((item.hidden != -100) == masked).all()
        text = tokenizer.decode(np.where(masked, item.hidden, ids)[:-1].tolist()).split("\n", 3)[3]
        whole += text in code
        truncated += item.truncated_tokens > 0
    assert whole == len(items) - truncated and 0 < truncated < len(items)
    batch = mixture.collate([items[i] for i in groups[0]])
    assert batch["hidden"].shape == batch["input_ids"].shape
    assert ((batch["hidden"] != -100) == (batch["input_ids"] == tokenizer.mask_token_id)).all()
    # A process for which a batch has no row restores nothing.
    alone = share({name: tensor[:1] for name, tensor in batch.items()}, 1, 2)
    assert (alone["hidden"] == -100).all() and (alone["labels"] == -100).all()


def test_when_code_is_swapped_then_the_rest_of_the_row_stays(tokenizer):
    rows = [Example(text * 9, "c", ["cycles"], [value], group=text) for text, value in (("x", 7.0), ("y", 8.0))]
    source = Source.from_dataset("two", to_dataset(rows), tokenizer)
    source.ensemble_scores = np.array([[0.5], [1.5]], dtype=np.float32)

    def wrong(share):
        source.swap_text = share
        items = mixture_of([source], tokenizer, pool=400).pool_of(0)[0]
        values = [float(tokenizer.decode_numbers(item.labels[:-1])) for item in items]
        assert all(item.extras["ensemble_scores"][0] == value - 6.5 for item, value in zip(items, values))
        return np.mean([("x" in tokenizer.decode(item.input_ids[-9:])) != (v == 7.0) for item, v in zip(items, values)])

    assert wrong(0.0) == 0
    assert 0.3 < wrong(0.8) < 0.5  # half of the swaps draw the row's own code


def test_when_no_row_has_a_value_then_the_source_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"empty: none of the 1 rows has a value for \['cycles'\]"):
        Source.from_dataset("empty", to_dataset([Example("x", "c", ["cycles"], [None], group="g")]), tokenizer)


# ---------------------------------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def table(toy) -> list[str]:
    columns = ["--text-column", "code", "--group-column", "problem", "--context-columns", "machine"]
    return [
        *("--data", str(toy / "toy.parquet"), "--target-columns", "peak_memory_bytes", "cpu_time_ms"),
        *(*columns, "--language", "python"),
    ]


def test_when_a_checkpoint_is_evaluated_then_the_report_has_the_documented_form(finished, table, toy, tmp_path, capsys):
    argv = [
        *table,
        "--model",
        str(finished / "final"),
        "--out",
        str(tmp_path),
        "--baselines",
        "constant",
        "context_only",
    ]
    assert evaluate(argv) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    keys = {"tasks", "model", "versions", "hardware", "date", "level", "resamples", "seed", "split"}
    assert set(report) == keys | {"rows_baselines_were_fitted_on", "notes"}
    assert list(report["tasks"]) == ["toy.parquet"]
    scores = report["tasks"]["toy.parquet"]
    assert list(scores) == ["peak_memory_bytes", "cpu_time_ms"]
    test = generic(
        toy / "toy.parquet",
        text_column="code",
        target_columns=["cpu_time_ms"],
        group_column="problem",
        language="python",
        split="test",
    )
    assert scores["peak_memory_bytes"]["n"] == len(test)
    assert scores["cpu_time_ms"]["n"] == sum(row["values"][0] is not None for row in test) < len(test)
    for entry in scores.values():
        assert {"spearman", "kendall", "mape", "median_ape", "log_rmse", "nll", "crps", "truncated_share"} <= set(entry)
        assert set(entry["spearman"]) == {"value", "low", "high"}
        assert set(entry["coverage"]) == set(entry["width"]) == {"0.5", "0.8", "0.9", "0.95"}
        assert entry["coverage"]["0.5"] <= entry["coverage"]["0.95"]
        assert set(entry["baselines"]) == {"constant", "context_only"}
    readable = (tmp_path / "report.md").read_text()
    assert readable.startswith("# Evaluation of ") and readable in capsys.readouterr().out


def test_when_rows_are_predicted_then_the_pipeline_says_the_same(finished, toy):
    model, processor = code_rlm.load(finished / "final")
    rows = generic(
        toy / "toy.parquet",
        text_column="code",
        target_columns=["cpu_time_ms"],
        group_column="problem",
        context_columns=["machine"],
        language="python",
        split="test",
    )
    found = predict_rows(model, processor, rows, "cpu_time_ms", batch_size=5)
    kept = [row for row in rows if row["values"][0] is not None]
    assert found.target.tolist() == [row["values"][0] for row in kept]
    asked = [{"text": row["text"], "language": row["language"], "context": row["context"]} for row in kept]
    answers = code_rlm.pipeline(model, processor)(asked, metrics=["cpu_time_ms"], interval=0.9)
    for level, key in ((0.05, "low"), (0.5, "value"), (0.95, "high")):
        expected = [entry[key] for [entry] in answers]
        np.testing.assert_allclose(found.quantiles[level], expected, rtol=2e-3, atol=1e-9)
    assert (found.log_probs < 0).all() and not found.truncated.any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "bhive_zen4"], "Give either --task NAMES with --data-root, or --data FILE"),
        (["--metrics", "speed"], "has no speed; it has cpu_time_ms, peak_memory_bytes"),
        (["--model", "no/such/folder"], "There is no checkpoint folder no/such/folder"),
        (["--target-columns", "weight_grams"], r"toy.parquet.*weight_grams"),
        (["--split", "tests"], "tests"),
    ],
)
def test_when_an_evaluation_is_unusable_then_one_line_says_why(finished, table, tmp_path, capsys, flags, message):
    status = evaluate([*table, "--model", str(finished / "final"), "--out", str(tmp_path), *flags])
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("code-rlm evaluate: ")
    assert re.search(message, err), err
    assert not list(tmp_path.iterdir())


def test_when_the_model_or_the_rows_lack_a_metric_then_the_evaluation_says_which(finished, tmp_path, capsys):
    rows = [{"text": f"x = {i}", "cycles": float(i), "cpu_time_ms": None, "g": f"g{i}"} for i in range(40)]
    pd.DataFrame(rows).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    argv = ["--data", str(tmp_path / "rows.jsonl"), "--group-column", "g", "--language", "python"]
    argv += ["--model", str(finished / "final"), "--out", str(tmp_path / "report")]
    assert evaluate([*argv, "--target-columns", "cycles"]) == 2
    assert "predicts none of the metrics" in capsys.readouterr().err
    assert evaluate([*argv, "--target-columns", "cycles", "--metrics", "cycles"]) == 2
    assert "does not predict 'cycles'. It knows: peak_memory_bytes, cpu_time_ms" in capsys.readouterr().err
    assert evaluate([*argv, "--target-columns", "cpu_time_ms"]) == 2
    assert "no row of the test split has a value of cpu_time_ms" in capsys.readouterr().err
