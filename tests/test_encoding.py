"""Held-out rows encoded once for all fits, and without their text where only scores count."""

import argparse
import importlib
import io
import sys

import numpy as np
import pandas as pd
import pytest
from test_ensemble import fitted, source_of

from code_rlm import console
from code_rlm.data.schema import Example, to_dataset
from code_rlm.distributions_rlm import PoolingComponent
from code_rlm.evaluation.calibration import held_out
from code_rlm.evaluation.encoding import RowEncoder
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.training.pooling import fit_pooling
from code_rlm.training.trees import fewest_trees


@pytest.fixture
def scored(make_model, tokenizer):
    """A model with an ensemble, rows held out from its fit, and the mixture that builds inputs."""
    rng = np.random.default_rng(0)
    rows = source_of(tokenizer, rng, 80)
    model, mixture, _ = fitted(make_model, tokenizer, source_of(tokenizer, rng), [rows])
    model.config.metrics = [
        {"name": "t_ms", "unit": "ms", "smaller_is_better": True, "description": "", "languages": []}
    ]
    return model, mixture, rows


@pytest.fixture
def tokens_read(monkeypatch):
    """How many tokens the encoder has read, one number for each batch."""
    from code_rlm.modeling_rlm import RLMForConditionalGeneration

    encode_layers, counts = RLMForConditionalGeneration.encode_layers, []

    def counted(self, input_ids, attention_mask=None):
        counts.append(input_ids.numel())
        return encode_layers(self, input_ids, attention_mask)

    monkeypatch.setattr(RLMForConditionalGeneration, "encode_layers", counted)
    return counts


def table_of(rows, tokenizer):
    """The rows as a data set in the schema."""
    texts = [tokenizer.decode(body) for body in rows.bodies]
    values = rows.values[:, 0].tolist()
    examples = zip(texts, values, rows.groups, strict=True)
    return to_dataset([Example(text, "python", ["t_ms"], [value], group=group) for text, value, group in examples])


@pytest.mark.parametrize(("room", "batches"), [(1 << 30, 1), (0, 2)])
def test_when_a_batch_is_asked_for_again_then_it_is_read_again_only_where_it_was_too_large(
    scored, tokenizer, tokens_read, room, batches
):
    model, mixture, rows = scored
    encode = RowEncoder(model, RLMProcessor(tokenizer, model.config), most_bytes=room)
    items = [mixture.build(rows, row, [0]) for row in range(4)]
    first, again = encode.whole(items), encode.whole(list(items))
    assert len(tokens_read) == batches
    for (keys, values), (own_keys, own_values) in zip(first.memory, again.memory, strict=True):
        assert keys.equal(own_keys) and values.equal(own_values)


def test_when_pooling_has_read_the_rows_then_calibration_does_not_read_them_again(scored, tokenizer, tokens_read):
    model, mixture, rows = scored
    encode = RowEncoder(model, RLMProcessor(tokenizer, model.config))
    fit_pooling(model, [rows], mixture, encode=encode)
    model.config.fitted.pooling["t_ms"] = PoolingComponent(0.5, 0.5, 0.5)  # the text counts
    read = len(tokens_read)
    assert read == 5
    found = held_out(model, encode.processor, table_of(rows, tokenizer), "t_ms", encode=encode)
    assert len(tokens_read) == read
    alone = held_out(model, encode.processor, table_of(rows, tokenizer), "t_ms")
    assert len(tokens_read) == 2 * read and np.allclose(found.cells, alone.cells)


def test_when_the_decoder_has_no_weight_then_probabilities_are_the_same_without_the_text(
    scored, tokenizer, tokens_read, monkeypatch
):
    model, _, rows = scored
    model.config.fitted.pooling = {"t_ms": PoolingComponent(0.5, 0.0, 1.0)}
    processor = RLMProcessor(tokenizer, model.config)
    quick = held_out(model, processor, table_of(rows, tokenizer), "t_ms")
    assert sum(tokens_read) == len(rows)
    monkeypatch.setattr(RowEncoder, "ignores_text", lambda self, metric: False)
    exact = held_out(model, processor, table_of(rows, tokenizer), "t_ms")
    assert sum(tokens_read) > 10 * len(rows)
    for name in ("below", "up_to", "cells"):
        assert np.abs(getattr(quick, name) - getattr(exact, name)).max() < 1e-4
    assert np.ptp(quick.cells) > 0.5


def test_when_a_sample_leaves_the_decoder_out_then_the_other_rows_are_fitted_without_their_text(
    scored, monkeypatch, tokens_read
):
    monkeypatch.setattr("code_rlm.training.pooling.SCREENED_ROWS", 32)
    model, mixture, rows = scored
    fit_pooling(model, [rows], mixture)
    exact, whole = model.config.fitted.pooling["t_ms"], sum(tokens_read)
    assert exact.decoder_weight == 0
    tokens_read.clear()
    lines = []
    fit_pooling(model, [rows], mixture, lines.append, screened=True)
    found = model.config.fitted.pooling["t_ms"]
    assert (found.scale, found.weight, found.rows) == pytest.approx((exact.scale, exact.weight, 80), rel=1e-6)
    assert sum(tokens_read) < 0.6 * whole and "gains" in lines[0]


def test_when_a_sample_gives_the_decoder_a_weight_then_all_rows_are_read(scored, monkeypatch, tokens_read):
    monkeypatch.setattr("code_rlm.training.pooling.SCREENED_ROWS", 32)
    monkeypatch.setattr("code_rlm.training.pooling.DECODER_WEIGHTS", (1.0,))
    model, mixture, rows = scored
    fit_pooling(model, [rows], mixture)
    exact, whole = model.config.fitted.pooling["t_ms"], sum(tokens_read)
    tokens_read.clear()
    fit_pooling(model, [rows], mixture, screened=True)
    assert model.config.fitted.pooling["t_ms"] == exact and sum(tokens_read) == whole


def test_when_fewer_trees_are_as_good_then_there_are_fewer():
    assert fewest_trees([3.0, 2.0, 1.001, 1.0005, 1.0, 1.2]) == 3
    assert fewest_trees([3.0, 2.0, 1.1, 1.0]) == 4
    assert fewest_trees([0.0]) == 1


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self):
        """Returns True."""
        return True


def test_when_bars_are_unwanted_or_one_is_shown_then_there_is_no_other(monkeypatch):
    assert isinstance(console.progress(3, "rows"), console.NoBar)  # no terminal
    monkeypatch.setattr(sys, "stderr", Terminal())
    with console.progress(100, "rows") as outer:
        assert isinstance(outer, console.ProgressBar)
        assert isinstance(console.progress(3, "batches"), console.NoBar)
    with console.without_bars():
        assert isinstance(console.progress(3, "rows"), console.NoBar)
    assert isinstance(console.progress(3, "rows"), console.ProgressBar)


def test_when_the_benchmark_reads_a_plain_table_or_one_in_the_schema_then_rows_and_split_are_the_same(tmp_path):
    benchmark = importlib.import_module("benchmarks.fine_tune")
    plain = pd.DataFrame({"text": ["a", "b", "c"], "kb": [1.0, None, 3.0], "group": ["x", "y", "z"]})
    schema = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "language": "python",
            "metrics": [["kb"], ["other"], ["other", "kb"]],
            "values": [[1.0], [5.0], [5.0, 3.0]],
            "group": ["x", "y", "z"],
            "outcome": "ok",
        }
    )
    found = []
    for name, table, language in (("plain", plain, "python"), ("schema", schema, None)):
        table.to_parquet(tmp_path / name)
        asked = argparse.Namespace(data=tmp_path / name, target="kb", group="group", language=language)
        found.append(benchmark.read_table(asked))
    assert found[0].equals(found[1]) and found[0]["value"].tolist() == [1.0, 3.0]
    shares = [benchmark.is_test(f"benchmark group {number}") for number in range(2000)]
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03)
