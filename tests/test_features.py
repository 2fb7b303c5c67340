"""Cached encoder outputs: the same losses as with the encoder, and never those of another encoder or another text."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import log_of, options_of

from code_rlm.data.external import generic
from code_rlm.data.mixture import Mixture, Source
from code_rlm.train import train
from code_rlm.training.encoder_cache import FeatureCache, encoder_digest, possible_inputs
from code_rlm.training.options import TrainError, make_options


@pytest.fixture(scope="module")
def source(toy, tokenizer) -> Source:
    rows = generic(
        toy / "toy.parquet",
        text_column="code",
        target_columns=["peak_memory_bytes", "cpu_time_ms"],
        group_column="problem",
        language="python",
    )
    return Source.from_dataset("toy", rows.select(range(20)), tokenizer)


def mixture_of(source: Source, tokenizer, draws: int = 2, **changes) -> Mixture:
    return Mixture([source], [1.0], tokenizer, 128, 600, 2, pool=32, draws=draws, **changes)


def filled(folder: Path, model, mixture: Mixture) -> FeatureCache:
    cache = FeatureCache(folder, model)
    cache.refresh()
    cache.fill(model, cache.missing(possible_inputs(mixture)), 0, 500, torch.device("cpu"))
    cache.refresh()
    return cache


@pytest.mark.parametrize("layers", [None, [0, 1, -1]])
def test_when_features_are_cached_then_the_loss_is_that_of_the_encoder(make_model, source, tokenizer, tmp_path, layers):
    model = make_model(freeze_encoder=True, encoder_layers=layers, max_input_tokens=128)
    mixture = mixture_of(source, tokenizer)
    cache = filled(tmp_path, model, mixture)
    for batch in islice(mixture.batches(), 8):
        batch.pop("first_metric")
        cached = cache.attach(batch)
        assert "input_ids" not in cached and cached["encoder_states"].dtype == torch.bfloat16
        with_encoder, without = model(**batch).loss, model(**cached).loss
        assert without.item() == pytest.approx(with_encoder.item(), rel=0.02)
        states = model.encode_layers(batch["input_ids"], batch["attention_mask"])
        kept = batch["attention_mask"].bool()
        torch.testing.assert_close(cached["encoder_states"][kept].float(), states[kept], rtol=0.01, atol=0.02)
        assert not cached["encoder_states"][~kept].any()


def test_when_draws_are_fixed_then_every_batch_is_made_of_possible_inputs(source, tokenizer):
    mixture = mixture_of(source, tokenizer, draws=3)
    possible = {tuple(ids) for ids in possible_inputs(mixture)}
    drawn = {tuple(item.input_ids) for pool in range(20) for item in mixture.pool_of(pool)[0]}
    assert drawn <= possible and len(drawn) > 0.8 * len(possible)
    # Several orders of the same row, not one.
    assert len(possible) > 1.5 * len(source)


def test_when_the_cache_is_full_then_another_run_computes_nothing(make_model, source, tokenizer, tmp_path):
    model, mixture = make_model(freeze_encoder=True), mixture_of(source, tokenizer)
    cache = filled(tmp_path, model, mixture)
    again = FeatureCache(tmp_path, make_model(freeze_encoder=True))
    again.refresh()
    assert len(again) == len(cache) > 0 and not again.missing(possible_inputs(mixture))
    files = list(tmp_path.rglob("*.bf16"))
    assert len(files) == 1 and files[0].stat().st_size == cache.bytes_of(
        list({tuple(i): i for i in possible_inputs(mixture)})
    )


@pytest.mark.parametrize("change", ["weights", "layers", "config"])
def test_when_the_encoder_is_another_then_nothing_of_the_cache_is_read(make_model, source, tokenizer, tmp_path, change):
    mixture = mixture_of(source, tokenizer)
    filled(tmp_path, make_model(freeze_encoder=True), mixture)
    other = make_model(freeze_encoder=True, encoder_layers=[1] if change == "layers" else None)
    if change == "weights":
        with torch.no_grad():
            next(iter(other.encoder.parameters()))[0, 0] += 1e-3
    if change == "config":
        other.config.encoder.local_attention = 4
    cache = FeatureCache(tmp_path, other)
    cache.refresh()
    assert len(cache) == 0
    batch = next(mixture.batches())
    with pytest.raises(TrainError, match="lacks an input of this run"):
        cache.attach(batch)


def test_when_decoder_weights_change_then_the_digest_does_not(make_model, tmp_path):
    model = make_model()
    before = encoder_digest(model)
    with torch.no_grad():
        model.number_head.weight.add_(1.0)
    model.save_pretrained(tmp_path)
    assert encoder_digest(type(model).from_pretrained(tmp_path)) == before == encoder_digest(model)


def test_when_a_part_was_cut_short_then_it_is_refused_and_without_index_it_is_not_there(
    make_model, source, tokenizer, tmp_path
):
    model, mixture = make_model(freeze_encoder=True), mixture_of(source, tokenizer)
    cache = filled(tmp_path, model, mixture)
    data, index = next(cache.folder.glob("*.bf16")), next(cache.folder.glob("*.npz"))
    data.write_bytes(data.read_bytes()[:-2])
    with pytest.raises(TrainError, match=r"is not what its index says; remove"):
        FeatureCache(tmp_path, model).refresh()
    index.unlink()
    fresh = FeatureCache(tmp_path, model)
    fresh.refresh()
    assert len(fresh) == 0


def test_when_a_run_trains_from_the_cache_then_its_losses_are_those_of_a_run_without(toy, tmp_path):
    # One metric and a single draw of it: elsewhere the two runs draw other orders of metrics.
    options = options_of(toy, tmp_path)
    data = [{**options.data.sources[0], "target_columns": ["peak_memory_bytes"]}]
    flags = ["--freeze_encoder", "--steps", 6, "--eval_every", 3, "--save_every", 3, "--max_objectives", 1]
    flags += [
        "--data",
        repr(data),
        "--default_metrics",
        "{}",
        "--model",
        repr({**options.model.config, "decoder_dropout": 0.0}),
    ]
    train(options_of(toy, tmp_path / "plain", *flags))
    train(options_of(toy, tmp_path / "cached", *flags, "--feature_cache", tmp_path / "cache", "--feature_draws", 1))
    plain, cached = ([e.get("loss", e.get("score")) for e in log_of(tmp_path / name)] for name in ("plain", "cached"))
    assert len(plain) == 8 and cached == pytest.approx(plain, rel=0.02) and cached != plain


def test_when_the_cache_has_no_frozen_encoder_then_it_is_refused():
    with pytest.raises(TrainError, match="set freeze_encoder: true"):
        make_options(feature_cache="cache")


def test_when_the_disk_is_too_small_then_the_error_gives_the_sizes(
    make_model, source, tokenizer, tmp_path, monkeypatch
):
    model, mixture = make_model(freeze_encoder=True), mixture_of(source, tokenizer)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(TrainError, match=r"take 0.0 GB, .* has 0.0 GB left"):
        filled(tmp_path, model, mixture)


def test_when_inputs_are_many_then_they_are_written_in_parts(make_model, source, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("code_rlm.training.encoder_cache._PART_BYTES", 20_000)
    model, mixture = make_model(freeze_encoder=True), mixture_of(source, tokenizer)
    cache = filled(tmp_path, model, mixture)
    assert len(list(cache.folder.glob("*.npz"))) > 2
    assert not cache.missing(possible_inputs(mixture))
    key = cache.key(np.array(possible_inputs(mixture)[0]))
    assert key == cache.key(possible_inputs(mixture)[0])
