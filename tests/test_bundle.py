"""Training on another machine than the one that has the tables: packs, processes that make batches, and the clock."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from toy import log_of, options_of

from code_rlm.data.mixture import Mixture, Source
from code_rlm.loading import load
from code_rlm.numbers_rlm import FAILED, is_failed
from code_rlm.train import train
from code_rlm.training.bundle import FittedEnsemble, read_bundle, write_bundle
from code_rlm.training.options import TrainError, make_options
from code_rlm.training.sources import Loaded

LEXICAL = "{buckets: 64, code_numbers: 16, name_numbers: 16, trees: 3}"


def test_when_a_run_reads_a_pack_then_it_learns_what_it_learns_from_the_tables(toy, tmp_path, capfd):
    flags = ["--steps", 6, "--ensemble", LEXICAL, "--number_embeddings"]
    pack = train(options_of(toy, tmp_path / "none", *flags, "--pack", tmp_path / "packs" / "toy.npz"))
    assert (
        pack.is_file() and [p.name for p in pack.parent.iterdir()] == ["toy.npz"] and not (tmp_path / "none").exists()
    )
    plain = train(options_of(toy, tmp_path / "plain", *flags))
    (toy / "toy.parquet").rename(toy / "away")  # not needed any more
    try:
        packed = train(options_of(toy, tmp_path / "packed", *flags, "--packed", pack))
    finally:
        (toy / "away").rename(toy / "toy.parquet")
    assert "125 training rows, 13 to validate" in capfd.readouterr().err.split("cross-fitted")[-1]
    one, other = (load_file(path / "model.safetensors") for path in (plain, packed))
    assert one.keys() == other.keys()
    for name in one:
        if name.startswith("ensemble.") and "score_proj" not in name and "score_embedding" not in name:
            assert torch.equal(one[name], other[name]), name
    # Rows lie in another order, so the draws differ; the validation rows are the same ones.
    first, second = ([e for e in log_of(path.parent) if "validation" in e][-1]["score"] for path in (plain, packed))
    assert first == pytest.approx(second, rel=0.2)
    assert "packed" not in (packed / "training_options.yaml").read_text()


def test_when_a_source_was_packed_then_its_rows_come_back(tokenizer, tmp_path):
    rng = np.random.default_rng(0)
    values = np.array([[1.5, np.nan], [FAILED, 123456.0], [2.25e-3, -7.0]])
    present = np.array([[True, False], [True, True], [True, True]])
    codes = np.zeros((3, 2, tokenizer.codec.length), dtype=np.int16)
    codes[present] = tokenizer.encode_numbers(values[present])
    source = Source(
        "s", [rng.integers(0, 200, n).astype(np.int32) for n in (5, 0, 9)], ["java", "c", "java"],
        [("a: 1",), (), ("a: 1", "b: 2")], ["m", "n"], values, codes, present, np.array([True, False, False]),
        failed=1, dropped=2, mask_tokens=0.1, mask_span=2.0, swap_text=0.3, groups=["x", "y", "x"],
        ensemble_scores=rng.normal(size=(3, 4)).astype(np.float32),
    )  # fmt: skip
    options, model = make_options(data=[{"file": "/somewhere/s.parquet"}]), torch.nn.Module()
    model.ensemble = None
    path = write_bundle(
        tmp_path / "p.npz",
        options,
        tokenizer,
        [Loaded(source, None, None, 0.5, ["left out"])],
        [{"name": "m"}],
        model,
    )
    moved = make_options(data=[{"file": "elsewhere/s.parquet", "weight": 0.7}])
    (loaded,), weights, metrics, fitted = read_bundle(path, moved, tokenizer)
    assert (weights, metrics, fitted, loaded.weight, loaded.remarks) == (
        [1.0],
        [{"name": "m"}],
        None,
        0.7,
        ["left out"],
    )
    back, order = loaded.train, [1, 0, 2]  # by language
    assert [b.tolist() for b in back.bodies] == [source.bodies[i].tolist() for i in order]
    for name in ("languages", "contexts", "groups"):
        assert getattr(back, name) == [getattr(source, name)[i] for i in order]
    for name in ("codes", "present", "truncated"):
        assert np.array_equal(getattr(back, name), getattr(source, name)[order])
    assert np.allclose(back.ensemble_scores, source.ensemble_scores[order], atol=2e-3)
    for name in ("name", "metrics", "failed", "dropped", "mask_tokens", "mask_span", "swap_text"):
        assert getattr(back, name) == getattr(source, name)
    kept = back.values[back.present]
    assert is_failed(kept).tolist() == is_failed(values[order][present[order]]).tolist()
    assert np.allclose(kept[~is_failed(kept)], [123500.0, 1.5, 2.25e-3, -7.0], rtol=1e-3)
    assert np.isnan(back.values[~back.present]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--max_tokens", 64], "other options \\(max_tokens\\)"),
        (["--seed", 4], "other options \\(seed\\)"),
        (["--ensemble", "{buckets: 64}"], "other options \\(ensemble\\)"),
        (["--data", "[{task: bhive_zen4}]"], "other options \\(data\\)"),
    ],
)
def test_when_a_pack_is_of_other_options_then_the_run_is_refused(toy, tmp_path, changes, words):
    pack = train(options_of(toy, tmp_path / "none", "--pack", tmp_path / "toy.npz"))
    with pytest.raises(TrainError, match=words):
        train(options_of(toy, tmp_path / "run", *changes, "--packed", pack))


def test_when_a_file_is_no_pack_then_the_run_is_refused(toy, tmp_path):
    torn = tmp_path / "torn.npz"
    torn.write_bytes(train(options_of(toy, tmp_path / "none", "--pack", tmp_path / "toy.npz")).read_bytes()[:-900])
    np.savez(tmp_path / "other.npz", a=np.ones(2))
    for path in (tmp_path / "none.npz", torn, tmp_path / "other.npz", toy / "toy.yaml"):
        with pytest.raises(TrainError, match="no bundle of training data"):
            train(options_of(toy, tmp_path / "run", "--packed", path))
    with pytest.raises(TrainError, match="take one of them"):
        options_of(toy, tmp_path / "run", "--packed", torn, "--pack", torn)


def test_when_a_pack_has_another_tokenizer_then_the_run_is_refused(toy, tmp_path, tokenizer):
    from code_rlm.loading import DEFAULT_CHECKPOINT

    pack = train(options_of(toy, tmp_path / "none", "--pack", tmp_path / "toy.npz"))
    with pytest.raises(TrainError, match="another tokenizer"):
        train(options_of(toy, tmp_path / "run", "--packed", pack, "--tokenizer", DEFAULT_CHECKPOINT))


def test_when_other_processes_make_the_batches_then_they_are_the_same(toy, tmp_path, tokenizer):
    pack = train(options_of(toy, tmp_path / "none", "--pack", tmp_path / "toy.npz"))
    (loaded,), weights, _, _ = read_bundle(pack, options_of(toy, tmp_path / "run"), tokenizer)
    streams = []
    for workers in (0, 2):
        mixture = Mixture([loaded.train], weights, tokenizer, 80, 2000, pool=50)
        stream = mixture.batches((1, 1), workers)
        batches = [next(stream) for _ in range(12)]
        streams.append((batches, stream.position, mixture.drawn, mixture.truncated))
    assert next(pickle.loads(pickle.dumps(mixture)).batches((1, 1)))["labels"].equal(streams[0][0][0]["labels"])
    (own, *counts), (others, *other_counts) = streams
    assert counts == other_counts and counts[2] > 0
    for one, other in zip(own, others, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_when_the_minutes_are_over_then_the_run_has_ended_with_the_lowest_rate(toy, tmp_path):
    out = tmp_path / "run"
    flags = ["--steps", 100_000, "--minutes", 0.05, "--log_every", 1, "--eval_every", 100_000, "--save_every", 100_000]
    flags += ["--final_learning_rate", 0.01, "--warmup", 0.01]
    final = train(options_of(toy, out, *flags))
    entries = [e for e in log_of(out) if "loss" in e]
    assert final.is_dir() and 2 < len(entries) < 5000 and entries[-1]["step"] == len(entries)
    rates = [e["lr"] for e in entries]
    assert max(rates) > 0.5 * options_of(toy, out).optimizer.learning_rate and rates[-1] < 0.15 * max(rates)
    assert [e["step"] for e in log_of(out) if "validation" in e] == [entries[-1]["step"]]
    train(options_of(toy, out, *flags))  # once ended it stays so
    assert [e for e in log_of(out) if "loss" in e] == entries


def test_when_a_run_goes_on_from_a_checkpoint_then_the_pack_keeps_what_it_learned(toy, tmp_path, capsys):
    first = train(options_of(toy, tmp_path / "first", "--steps", 6, "--ensemble", LEXICAL))
    flags = ["--init", first, "--model", "{}", "--steps", 1, "--learning_rate", 1e-9, "--ema", 0.0]
    pack = train(options_of(toy, tmp_path / "none", *flags, "--pack", tmp_path / "toy.npz"))
    assert train(options_of(toy, tmp_path / "dry", *flags, "--packed", pack, "--dry_run")) == tmp_path / "dry" / "final"
    assert "125 training rows" in capsys.readouterr().out
    second = train(options_of(toy, tmp_path / "second", *flags, "--packed", pack))
    before, after = (load_file(path / "model.safetensors") for path in (first, second))
    for name in ("ensemble.score_proj.weight", "ensemble.score_embedding"):
        assert torch.allclose(before[name], after[name], atol=1e-5) and before[name].abs().sum() > 0
    bare = train(options_of(toy, tmp_path / "none", "--pack", tmp_path / "bare.npz"))
    with pytest.raises(TrainError, match="no feature ensemble, and this run has a"):
        train(options_of(toy, tmp_path / "third", *flags, "--packed", bare))
    with pytest.raises(TrainError, match="has a feature ensemble, and this run has none"):
        train(options_of(toy, tmp_path / "third", "--packed", pack))


def test_when_a_path_has_learned_other_channels_then_they_are_not_lost(toy, tmp_path, tokenizer):
    first = train(options_of(toy, tmp_path / "first", "--steps", 2, "--ensemble", LEXICAL))
    one, model = load(first)[0], load(first)[0]
    fitted = FittedEnsemble(
        replace(
            one.ensemble.settings,
            metrics=one.ensemble.settings.metrics[::-1],
            scales=one.ensemble.settings.scales[::-1],
        ),
        {k: v for k, v in one.ensemble.state_dict().items() if "score_proj" not in k and "score_embedding" not in k},
    )
    fitted.give(model)
    assert torch.equal(model.ensemble.score_embedding, one.ensemble.score_embedding.flip(0))
    settings = fitted.settings
    fewer = replace(settings, metrics=settings.metrics[:1], scales=settings.scales[:1], residual_scales=())
    with pytest.raises(TrainError, match="which the bundle lacks"):
        FittedEnsemble(fewer, {}).give(one)


def test_when_a_pack_cannot_be_written_then_that_is_said_before_anything_is_done(toy, tmp_path):
    (tmp_path / "file").write_text("")
    for target, words in ((tmp_path, "is a folder"), (tmp_path / "file" / "toy.npz", "cannot be written")):
        with pytest.raises(TrainError, match=words):
            train(options_of(toy, tmp_path / "none", "--data", "[{task: nothing}]", "--pack", target))
    train(options_of(toy, tmp_path / "none", "--pack", tmp_path / "new" / "toy.npz", "--dry_run"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
