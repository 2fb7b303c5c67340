"""The processor: one reading of each input, batches by length, checkpoints of earlier releases."""

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors import safe_open
from transformers import AutoProcessor

import code_rlm
from code_rlm import InputError, MetricError, RLMProcessor
from code_rlm.loading import DEFAULT_CHECKPOINT
from code_rlm.processing_rlm import length_batches, pad_inputs, pad_rows
from code_rlm.training.ensemble import settings_for

ROOT = Path(__file__).parents[1]
SIZES = {"buckets": 64, "number_buckets": 8, "name_numbers": 16, "structure_buckets": 16}


@pytest.fixture(scope="module")
def checkpoint_with_ensemble(make_model, tokenizer, tmp_path_factory) -> Path:
    """Folder of a tiny checkpoint whose random ensemble has a domain."""
    settings = settings_for(tokenizer, **SIZES, metrics=("cycles",), domains={"cycles": ("x86asm",)})
    folder = tmp_path_factory.mktemp("processing") / "checkpoint"
    model = make_model(**tiny.CONFIG, ensemble=settings.to_dict())
    with torch.no_grad():
        model.ensemble.weight.normal_(generator=torch.Generator().manual_seed(3))
    model.save_pretrained(folder)
    RLMProcessor(tokenizer, model.config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("lengths", "options", "expected"),
    [
        ([5, 1, 3, 2], {"batch_size": 2}, [[1, 3], [2, 0]]),
        ([5, 1, 3, 2], {"batch_tokens": 6}, [[1, 3], [2], [0]]),
        ([9, 1], {"batch_tokens": 6}, [[1], [0]]),
        ([1, 1, 1], {"batch_tokens": 10, "batch_size": 2}, [[0, 1], [2]]),
        ([2, 2, 2], {"batch_tokens": 4, "order": np.array([2, 0, 1])}, [[2, 0], [1]]),
        ([], {"batch_size": 2}, []),
    ],
)
def test_when_inputs_are_batched_then_lengths_are_alike_and_limits_hold(lengths, options, expected):
    assert [batch.tolist() for batch in length_batches(lengths, **options)] == expected


def test_when_rows_are_padded_then_the_mask_marks_their_tokens():
    found = pad_inputs([[7, 8, 9], [5]], 3)
    assert found["input_ids"].tolist() == [[7, 8, 9], [5, 3, 3]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert pad_rows([np.array([1]), np.zeros(0, dtype=np.int64)], -100).tolist() == [[1], [-100]]


def test_when_inputs_are_processed_then_model_and_pipeline_answer_alike(checkpoint_with_ensemble):
    model, processor = code_rlm.load(checkpoint_with_ensemble)
    pipe = code_rlm.pipeline(checkpoint_with_ensemble)
    inputs = processor([tiny.ASSEMBLY, "add rax, 1\n"], metrics=["cycles"])
    assert set(inputs) == set(processor.model_input_names) == {"input_ids", "attention_mask", "features"}
    assert inputs["features"].dtype == torch.float32 and inputs["features"][:, -1].tolist() == [1, 1]
    found = model.predict(inputs, metrics=["cycles"])
    assert found.features_used
    answers = pipe([tiny.ASSEMBLY, "add rax, 1\n"], metrics=["cycles"], calibrated=False)
    assert found.quantiles[:, 0, 1].tolist() == [entry["value"] for [entry] in answers]
    arrays = processor([tiny.ASSEMBLY, "add rax, 1\n"], metrics=["cycles"], return_tensors="np")
    assert all(np.array_equal(arrays[name], inputs[name].numpy()) for name in inputs)


def test_when_no_metrics_are_named_then_the_languages_default_ones_are_asked_for(checkpoint_with_ensemble):
    processor = RLMProcessor.from_pretrained(checkpoint_with_ensemble)
    ids = processor(tiny.PYTHON)["input_ids"]
    assert torch.equal(ids, processor(tiny.PYTHON, ["peak_memory_bytes", "cpu_time_ms"])["input_ids"])
    with pytest.raises(InputError, match="its language is not known"):
        processor("@@@ neither @@@")
    with pytest.raises(MetricError, match="must be a list of names"):
        processor(tiny.PYTHON, "cycles")
    with pytest.raises(InputError, match="list is empty"):
        processor([])
    with pytest.raises(InputError, match="return_tensors must be 'pt' or 'np'"):
        processor(tiny.PYTHON, return_tensors="tf")


def test_when_the_config_gets_another_ensemble_then_the_features_follow(make_model, tokenizer):
    model = make_model(**tiny.CONFIG)
    processor = RLMProcessor(tokenizer, model.config)
    assert "features" not in processor(tiny.PYTHON)
    for buckets in (8, 16):
        settings = settings_for(tokenizer, buckets=buckets, number_buckets=4)
        model.add_ensemble(settings)
        assert processor(tiny.PYTHON)["features"].shape[1] == settings.input_size


REMOTE = """
import json, sys
from transformers import AutoModelForSeq2SeqLM, AutoProcessor
folder, text = sys.argv[1:3]
trust = {"trust_remote_code": True}
model = AutoModelForSeq2SeqLM.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
found = model.predict(processor(text, metrics=["cycles"]), metrics=["cycles"])
print(json.dumps([type(processor).__module__.split(".")[0], found.features_used, found.quantiles.tolist()]))
"""


@pytest.mark.slow
def test_when_the_package_is_not_installed_then_auto_processor_makes_the_same_inputs(
    checkpoint_with_ensemble, tmp_path
):
    model, processor = code_rlm.load(checkpoint_with_ensemble)
    assert type(AutoProcessor.from_pretrained(checkpoint_with_ensemble)) is RLMProcessor
    expected = model.predict(processor(tiny.ASSEMBLY, metrics=["cycles"]), metrics=["cycles"]).quantiles.tolist()
    where, used, found = tiny.run_python(REMOTE, checkpoint_with_ensemble, tiny.ASSEMBLY, cwd=tmp_path, hidden=True)
    assert (where, used, found) == ("transformers_modules", True, expected)


AGAIN = """
import json, sys
import code_rlm
print(json.dumps(code_rlm.pipeline(sys.argv[1])(sys.argv[2:])))
"""


@pytest.mark.slow
def test_when_the_shipped_checkpoint_is_saved_again_then_a_fresh_process_answers_the_same(tmp_path):
    files = sorted(map(str, (ROOT / "examples").glob("*.*")))
    pipe = code_rlm.pipeline()
    answers = pipe(files)
    readme = (ROOT / "README.md").read_text()
    for file, entries in zip(files, answers, strict=True):
        for entry in entries:
            if entry["unit"] == "%":
                row = next(line for line in readme.splitlines() if Path(file).name in line and entry["metric"] in line)
                shown = [f"{entry[name]:.4g} {entry['unit']}" for name in ("value", "low", "high")]
                assert all(number in row for number in shown)
    pipe.model.save_pretrained(tmp_path / "again")
    pipe.processor.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["ensemble"]["features"]["buckets"] == 32768 and "vocabulary" not in config["ensemble"]
    with safe_open(tmp_path / "again" / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    with safe_open(DEFAULT_CHECKPOINT / "model.safetensors", "pt") as weights:
        before = set(weights.keys())
    vocabulary = {name for name in before if ".reader." in name or ".texts." in name}
    assert len(names) == len(before) - len(vocabulary)
    assert not [name for name in names if ".reader." in name or ".texts." in name]
    again = tiny.run_python(AGAIN, tmp_path / "again", *files, cwd=tmp_path)
    for before, after in zip(chain.from_iterable(answers), chain.from_iterable(again), strict=True):
        assert after == before
