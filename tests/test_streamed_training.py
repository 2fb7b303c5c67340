"""Training on the paper's data sets as streams: shares of readers, resuming in the middle, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import published_tables as tables
import pytest
import torch
import toy
import yaml

from code_rlm.data.mixture import Mixture
from code_rlm.data.published import RowStream, select
from code_rlm.data.streamed import StreamSource, probed_metrics
from code_rlm.processing_rlm import InputLayout
from code_rlm.train import train
from code_rlm.training.options import TrainError, parse_options

SOURCES = [
    {"task": "code_regression", "spaces": ["APPS", "codenet"], "languages": ["python", "C++"], "weight": 0.5},
    {"task": "graph_arch_regression", "spaces": ["NB201", "ENAS"], "weight": 0.5, "max_tokens": 140},
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with both tables. Not to be changed by tests."""
    return tables.write_both(tmp_path_factory.mktemp("published"), 120)


def mixture(root: Path, tokenizer, **others) -> Mixture:
    sources = []
    for name, folder, spaces in (
        ("code_regression", "Code-Regression", ["CDSS"]),
        ("graph_arch_regression", "GraphArch-Regression", ["NB201", "ofa"]),
    ):
        table, options = select(name, root / folder, "train", spaces=spaces)
        options = type(options)(**{**vars(options), "metrics": tuple(probed_metrics(table, options))})
        sources.append(StreamSource(name, table, options, tokenizer, 160))
    return Mixture(sources, [0.5, 0.5], tokenizer, 160, 1500, pool=48, **others)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("workers", "taken"), [(0, 0), (0, 5), (0, 23), (2, 11)])
def test_when_batches_go_on_from_a_position_then_they_are_those_that_would_have_come(workers, taken, root, tokenizer):
    whole = mixture(root, tokenizer, workers=workers).batches(workers=workers)
    for _ in range(taken):
        next(whole)
    kept = json.loads(json.dumps({str(lane): states for lane, states in whole.stream_states.items()}))
    again = mixture(root, tokenizer, workers=workers)
    again.set_stream_states({int(lane): states for lane, states in kept.items()})
    resumed = again.batches(whole.position, workers)
    assert all(same(next(whole), next(resumed)) for _ in range(25))


def test_when_several_processes_read_then_each_row_of_an_epoch_is_one_process_own(root, tokenizer):
    for name in range(2):
        shares = []
        for process in range(3):
            one = mixture(root, tokenizer, process=process, processes=3)
            assert list(one.own_lanes) == [process] and one.lanes == 3 and one.lane_of(7) == process
            source = one.streams[name]
            share = RowStream(source.table, source.options, one.lane_of(0), one.lanes, repeat=False)
            shares.append([(row.group, row.text) for row in share])
        whole = [(row.group, row.text) for row in RowStream(source.table, source.options, repeat=False)]
        assert all(shares) and sorted(row for share in shares for row in share) == sorted(whole)


def test_when_metrics_are_probed_then_each_space_gives_its_own(root):
    table, options = select("graph_arch_regression", root / "GraphArch-Regression", spaces=["NB201", "NB101"])
    assert probed_metrics(table, options) == [
        "validation_accuracy@nasbench201",
        "latency_ms@pixel3",
        "latency_ms@eyeriss",
        "validation_accuracy@nasbench101",
    ]


# Runs


@pytest.fixture(scope="module")
def recipe(root, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    tokenizer.save_pretrained(folder / "tokenizer")
    options = {
        "data": SOURCES,
        "data_root": str(root),
        "tokenizer": str(folder / "tokenizer"),
        "model": {**toy.MODEL, "max_input_tokens": 160},
        "steps": 8,
        "save_every": 4,
        "eval_every": 8,
        "eval_rows": 16,
        "log_every": 4,
        "max_tokens": 160,
        "max_objectives": 2,
        "batch_tokens": 1500,
        "keep": 2,
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(options))
    return folder / "mine.yaml"


def run(recipe: Path, out: Path, *flags: str) -> Path:
    return train(parse_options(["--config", str(recipe), "--out", str(out), *flags]))


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """A run of eight steps. Not to be changed by tests."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(recipe, out)
    return out


def test_when_a_run_is_killed_in_the_middle_of_a_stream_then_it_ends_as_if_it_had_not_been(finished, recipe, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    for name in ("step-8", "final", "best"):
        shutil.rmtree(tmp_path / "run" / name)
    progress = json.loads((tmp_path / "run" / "step-4" / "progress.json").read_text())
    assert (
        progress["readers"] == 1
        and list(progress["streams"]) == ["0"]
        and progress["positions"] == [progress["position"]]
    )
    run(recipe, tmp_path / "run")
    assert toy.weights(tmp_path / "run" / "final") == toy.weights(finished / "final")
    with pytest.raises(
        TrainError, match=r"made with 1 readers .* now there are 2. Resume with the same runtime.workers"
    ):
        shutil.rmtree(tmp_path / "run" / "step-8")
        run(recipe, tmp_path / "run", "--runtime.workers", "2")


def test_when_a_run_is_done_then_its_registry_names_spaces_devices_and_limits(finished):
    config = json.loads((finished / "final" / "config.json").read_text())
    metrics = {entry["name"]: entry for entry in config["metrics"]}
    assert list(metrics) == [
        "peak_memory_bytes",
        "judge_memory_bytes",
        "validation_accuracy@nasbench201",
        "latency_ms@pixel3",
        "latency_ms@eyeriss",
        "validation_accuracy@enas",
    ]
    assert metrics["judge_memory_bytes"]["languages"] == ["cpp", "python"]
    assert metrics["validation_accuracy@enas"]["max_input_tokens"] == 140
    assert not metrics["validation_accuracy@enas"]["smaller_is_better"]


def test_when_a_source_is_streamed_then_what_reads_all_rows_is_refused(recipe, tmp_path):
    for flags, message in [
        (["--ensemble", "true"], r"a feature ensemble \(ensemble\) reads all rows beforehand"),
        (["--pack", str(tmp_path / "b.npz")], "write_bundle reads all rows"),
        (["--data", "[{task: code_regression, limit: 4}]"], "is streamed and takes no limit"),
        (["--data", "[{task: code_regression, failures: drop}]"], "has no failed runs"),
    ]:
        with pytest.raises(TrainError, match=message):
            run(recipe, tmp_path / "run", *flags)


# The tokenizer's own first token


def test_when_a_tokenizer_puts_a_token_first_then_inputs_begin_with_it(tokenizer):
    import published_layout

    from code_rlm.tokenization_rlm import RLMTokenizer

    text = Path(__file__).read_text()
    gemma = RLMTokenizer(
        tokenizer_object=published_layout.text_tokenizer([text], 400),
        bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>",
    )  # fmt: skip
    assert InputLayout.of(gemma, 64).start == (gemma.bos_token_id,)
    assert InputLayout.of(tokenizer, 64).start == ()
    ids, _ = InputLayout.of(gemma, 64).join([9], [10, 11], source="x")
    assert ids == [gemma.bos_token_id, 9, 10, 11, gemma.eos_token_id]


def test_when_a_new_model_is_given_a_number_format_then_tokenizer_and_model_have_it(recipe, tmp_path):
    p10 = "{layout: p10, mantissa_digits: 3, min_exponent: -9, max_exponent: 9, specials: []}"
    final = run(recipe, tmp_path / "run", "--number-format", p10, "--steps", "1")
    import code_rlm

    model, processor = code_rlm.load(final)
    assert model.config.format == processor.tokenizer.codec.format
    assert model.config.format.layout == "p10" and model.config.format.mantissa_digits == 3
    assert np.isfinite(processor.tokenizer.decode_numbers(processor.tokenizer.encode_numbers([1234.0]))).all()
    with pytest.raises(TrainError, match="number_format: Unknown number layout 'roman'"):
        run(recipe, tmp_path / "other", "--number-format", "{layout: roman}")
