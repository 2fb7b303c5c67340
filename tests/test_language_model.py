"""Hidden states of a language model as features: read as the library gives them, kept on disk, named by the checkpoint."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import gguf
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from toy import options_of
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

import code_rlm
from code_rlm import language_model_rlm as language_model
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.schema import Example, to_dataset
from code_rlm.errors_rlm import CheckpointError
from code_rlm.features_rlm import FeatureLayout
from code_rlm.language_model_rlm import HiddenStates, LanguageModelConfig
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.train import train
from code_rlm.training.ensemble import fit_ensemble, settings_for
from code_rlm.training.hidden import HiddenRidge, fit_components
from code_rlm.training.models import build_model
from code_rlm.training.options import TrainError, make_options

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
SIZES = {
    "vocab_size": len(BYTES) + 1,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.4,  # so that texts differ
}
TEXTS = ["def f(n):\n    return [0] * n\n", "x", "print('größer')\n" * 3]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What is kept on disk is each test's own."""
    monkeypatch.setenv(language_model.CACHE_VARIABLE, str(tmp_path / "cache"))


def save_model(folder: Path, seed: int = 0, masked: bool = False) -> Path:
    """A tiny random causal or masked model, and a tokenizer of single bytes."""
    torch.manual_seed(seed)
    model = BertModel(BertConfig(**SIZES)) if masked else LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=1))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate([*BYTES, "<end>"])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "causal")


def expected(where: Path, layers: tuple[int, ...], text: str, **source: str) -> np.ndarray:
    """The library's own hidden states of the whole model, one text at a time, pooled by numpy."""
    model = AutoModel.from_pretrained(where, dtype=torch.float32, **source).eval()
    ids = AutoTokenizer.from_pretrained(where, **source)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
    rows = [states[layer][0].numpy() for layer in layers]
    return np.concatenate([part for row in rows for part in (row.mean(0), row.max(0))])


@pytest.mark.parametrize("masked", [False, True])
def test_when_texts_are_read_then_features_are_the_library_s_hidden_states(tmp_path, masked):
    where = save_model(tmp_path / "model", masked=masked)
    settings = LanguageModelConfig.resolve({"model": str(where), "layers": [1, 2, 3]})
    found = HiddenStates(settings)(TEXTS).numpy()
    assert found.shape == (3, settings.size) == (3, 3 * 2 * 16)
    for text, row in zip(TEXTS, found, strict=True):
        # Behind the last layer that is read the model is cut, and a causal one normalises there.
        count = 4 * 16 if not masked else 6 * 16
        assert np.allclose(row[:count], expected(where, (1, 2, 3), text)[:count], atol=1e-5)
    assert np.std(found, 0).min() > 0


def test_when_nothing_is_said_of_layers_then_four_up_to_half_of_the_depth_are_read(causal):
    assert LanguageModelConfig.resolve(str(causal)).layers == (1, 2)
    assert LanguageModelConfig.resolve({"model": str(causal), "depth": 4}).layers == (1, 2, 3, 4)


def test_when_a_text_is_too_long_then_both_its_ends_are_read(causal):
    read = HiddenStates(LanguageModelConfig.resolve({"model": str(causal), "max_tokens": 10}))
    middles = read(["abcde" + "x" * 50 + "fghij", "abcde" + "y" * 9 + "fghij", "abcdefghij", "abcdefghiz"])
    assert torch.equal(middles[0], middles[1]) and torch.equal(middles[1], middles[2])
    assert not torch.equal(middles[2], middles[3])


def test_when_texts_were_read_before_then_the_model_is_not_needed(tmp_path, monkeypatch):
    where = save_model(tmp_path / "model")
    settings = LanguageModelConfig.resolve(str(where))
    lines: list[str] = []
    first = HiddenStates(settings, lines.append)(TEXTS)
    shutil.rmtree(where)
    again = HiddenStates(settings, lines.append)([TEXTS[2], TEXTS[0], TEXTS[0]])
    assert torch.equal(again, first[[2, 0, 0]]) and len(lines) == 1 and "reads 3 texts" in lines[0]
    with pytest.raises(CheckpointError, match=r"model cannot be had: .* answers nothing without its language model"):
        HiddenStates(settings)([TEXTS[0], "new"])
    # What is read in another way is another entry.
    with pytest.raises(CheckpointError, match="cannot be had"):
        HiddenStates(language_model.replace(settings, pooling=("max", "mean")))(TEXTS)


def test_when_the_cache_cannot_be_written_then_texts_are_read_all_the_same(causal, tmp_path, monkeypatch):
    settings = LanguageModelConfig.resolve(str(causal))
    right = HiddenStates(settings)(TEXTS)
    monkeypatch.setenv(language_model.CACHE_VARIABLE, str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "hidden_states.sqlite").write_bytes(b"no database" * 100)
    with pytest.warns(UserWarning, match="CODE_RLM_CACHE"):
        found = HiddenStates(settings)(TEXTS)
    assert torch.equal(found, right)


def test_when_weights_are_others_then_the_error_says_so(causal, tmp_path):
    settings = LanguageModelConfig.resolve(str(causal))
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="holds other weights than those"):
        HiddenStates(language_model.replace(settings, model=str(other)))(["new"])
    # The same weights in another place do.
    shutil.copytree(causal, tmp_path / "moved")
    moved = language_model.replace(settings, model=str(tmp_path / "moved"))
    assert torch.equal(HiddenStates(moved)(TEXTS), HiddenStates(settings)(TEXTS))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"layers": [2, 1]}, r"language_model.layers is \(2, 1\)"),
        ({"layers": [9]}, "layers 1 to 4, and layer 9 was asked for"),
        ({"depth": 5}, "layers 1 to 4, and layer 5"),
        ({"depth": 2, "layers": [1]}, r"in place of layers, got 2 and layers \[1\]"),
        ({"depth": "half"}, "language_model.depth is a whole number"),
        ({"pooling": ["last"]}, "language_model.pooling"),
        ({"dtype": "int8"}, "language_model.dtype is 'int8'"),
        ({"max_tokens": 1}, "language_model.max_tokens"),
        ({"components": 0}, "language_model.components"),
        ({"width": 3}, "unknown keys"),
        ({"model": "nowhere/at-all-1"}, "nowhere/at-all-1 cannot be had"),
    ],
)
def test_when_settings_are_wrong_then_the_error_says_so(causal, entry, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import
    with pytest.raises(CheckpointError, match=message):
        LanguageModelConfig.resolve({"model": str(causal), **entry})


def test_when_a_model_has_an_encoder_and_a_decoder_then_it_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    with pytest.raises(CheckpointError, match="is a t5 model; a language model here is a causal or masked one"):
        LanguageModelConfig.resolve(str(tmp_path))


def test_when_a_folder_holds_pickles_then_they_are_not_read(causal, tmp_path):
    shutil.copytree(causal, tmp_path / "pickled")
    model = AutoModel.from_pretrained(causal)
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be had"):
        LanguageModelConfig.resolve(str(tmp_path / "pickled"))


def write_gguf(path: Path) -> None:
    """The file of a tiny llama, as llama.cpp's converter writes it."""
    writer, width = gguf.GGUFWriter(path, "llama"), SIZES["hidden_size"]
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(4)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(SIZES["vocab_size"] + 1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*BYTES, "<end>", "re"])
    writer.add_token_types([gguf.TokenType.NORMAL] * len(BYTES) + [gguf.TokenType.CONTROL, gguf.TokenType.NORMAL])
    writer.add_token_merges(["r e"])
    writer.add_bos_token_id(len(BYTES))
    writer.add_eos_token_id(len(BYTES))
    rng = np.random.default_rng(0)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.4, shape).astype(np.float32))

    tensor("token_embd.weight", SIZES["vocab_size"] + 1, width)
    tensor("output_norm.weight", width)
    for block in range(4):
        tensor(f"blk.{block}.attn_norm.weight", width)
        tensor(f"blk.{block}.ffn_norm.weight", width)
        for name, rows in (("attn_q", width), ("attn_k", 8), ("attn_v", 8), ("attn_output", width), ("ffn_gate", 24)):
            tensor(f"blk.{block}.{name}.weight", rows, width)
        tensor(f"blk.{block}.ffn_up.weight", 24, width)
        tensor(f"blk.{block}.ffn_down.weight", width, 24)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_when_a_gguf_file_is_named_then_its_model_and_tokenizer_are_read(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    settings = LanguageModelConfig.resolve({"model": str(tmp_path / "tiny.gguf"), "layers": [1, 3]})
    assert (settings.model, settings.gguf_file) == (str(tmp_path), "tiny.gguf")
    found = HiddenStates(settings)(TEXTS).numpy()
    for text, row in zip(TEXTS, found, strict=True):
        right = expected(tmp_path, (1, 3), text, gguf_file="tiny.gguf")
        assert np.allclose(row[:32], right[:32], atol=1e-5)


# ---------------------------------------------------------------------------------------------------- the ensemble


def source_of(tokenizer, rows: int = 160, name: str = "rows") -> Source:
    """Texts whose target is a product of what the language model sees: a letter's share, and the length."""
    rng, examples = np.random.default_rng(rows), []
    for row in range(rows):
        share = rng.uniform(0.1, 0.9)
        text = "".join(rng.choice(["a", "b"], 40, p=[share, 1 - share]).tolist())
        value = float(np.exp(3 * text.count("a") / 40))
        examples.append(Example(text, "python", ["t_ms"], [value], group=f"{name}{row}", source=name))
    return Source.from_dataset(name, to_dataset(examples), tokenizer)


SMALL = {"buckets": 64, "number_buckets": 8, "longest_gram": 1}


def fitted(
    make_model, tokenizer, model_folder, **changes
) -> tuple[RLMForConditionalGeneration, Source, Source, list[str]]:
    train_rows, held_out, lines = source_of(tokenizer), source_of(tokenizer, 60, "others"), []
    named = LanguageModelConfig.resolve({"model": str(model_folder), "components": 24})
    model = make_model(max_input_tokens=128, metrics=[{"name": "t_ms", "unit": "ms", "languages": ["python"]}])
    model.add_ensemble(settings_for(tokenizer, **SMALL, language_model=named, **changes))
    fit_ensemble(
        model, [train_rows], [held_out], Mixture([train_rows], [1.0], tokenizer, 128, 2048, 1, 0), lines.append
    )
    return model, train_rows, held_out, lines


def test_when_an_ensemble_reads_hidden_states_then_its_checkpoint_names_the_model_and_answers_the_same(
    make_model, tokenizer, causal, tmp_path
):
    model, _, held_out, lines = fitted(make_model, tokenizer, causal, trees=20, mlp_features=16)
    assert "ridge on hidden states" in lines[-1]
    spearman = pd.Series(held_out.ensemble_scores[:, 0]).corr(pd.Series(held_out.values[:, 0]), method="spearman")
    assert spearman > 0.9
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "saved")
    entry = json.loads((tmp_path / "saved" / "config.json").read_text())["ensemble"]["features"]["language_model"]
    assert entry["model"] == str(causal) and entry["layers"] == [1, 2] and entry["pooling"] == ["mean", "max"]
    assert entry["dtype"] == "float32" and entry["hidden_size"] == 16 and len(entry["digest"]) == 64
    # The regressors alone: not a tensor of the language model's.
    names = set(model.state_dict())
    assert not any("embed_tokens" in name and "encoder" not in name and "decoder" not in name for name in names)
    loaded, processor = code_rlm.load(tmp_path / "saved")
    texts = [tokenizer.decode(body) for body in held_out.bodies[:5]]
    inputs = processor([{"text": text, "language": "python"} for text in texts], ["t_ms"])
    assert inputs["features"].shape[1] == loaded.ensemble.settings.input_size
    scores = loaded.ensemble.scores(inputs["features"])
    assert np.allclose(scores.numpy(), held_out.ensemble_scores[:5], atol=1e-4)


def test_when_the_model_is_not_there_then_predictions_say_what_to_do_and_loading_still_works(
    make_model, tokenizer, tmp_path
):
    where = save_model(tmp_path / "model")
    model, *_ = fitted(make_model, tokenizer, where)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "saved")
    shutil.rmtree(where)
    pipe = code_rlm.pipeline(tmp_path / "saved", metrics=["t_ms"], language="python")
    with pytest.raises(CheckpointError, match=r"or name its place in the checkpoint's config\.json"):
        pipe("print('not read before')")
    save_model(where)  # the same random weights again
    assert pipe("print('not read before')")[0]["metric"] == "t_ms"


def test_when_nothing_is_asked_of_a_language_model_then_none_is_looked_for(make_model, tokenizer, monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("a language model is looked for")

    monkeypatch.setattr(language_model.HiddenStates, "__init__", refuse)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL))
    assert "language_model" not in model.config.ensemble["features"]
    rows = source_of(tokenizer)
    fit_ensemble(model, [rows], [], Mixture([rows], [1.0], tokenizer, 128, 2048, 1, 0))
    assert not any(name.startswith("hidden") for name in model.ensemble.state_dict())
    found = RLMProcessor(tokenizer, model.config)({"text": "x = 1", "language": "python"}, ["t_ms"])
    assert found["features"].shape == (1, model.ensemble.settings.features.token_size)


def test_when_a_checkpoint_is_given_a_language_model_then_its_metrics_stay_as_they_were(
    make_model, tokenizer, causal, tmp_path
):
    rows = source_of(tokenizer)
    mixture = Mixture([rows], [1.0], tokenizer, 128, 2048, 1, 0)
    model = make_model(max_input_tokens=128)
    model.add_ensemble(settings_for(tokenizer, **SMALL, trees=10))
    fit_ensemble(model, [rows], [], mixture)
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    named = {"language_model": {"model": str(causal), "components": 8}}
    options = make_options(data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble=named)
    wider = build_model(options, tokenizer, [])
    assert wider.ensemble.settings.metrics == ("t_ms",) and wider.ensemble.settings.features.language_model is not None
    inputs = [{"text": tokenizer.decode(body), "language": "python"} for body in rows.bodies[:4]]
    before, after = (
        each.ensemble.scores(RLMProcessor(tokenizer, each.config)(inputs, ["t_ms"])["features"])
        for each in (model, wider)
    )
    assert torch.allclose(before, after, atol=1e-6) and before.std() > 0
    # Taken away again, what was fitted to it goes.
    fit_ensemble(wider, [rows], [], mixture)
    for each in (wider, tokenizer):
        each.save_pretrained(tmp_path / "wider")
    without = make_options(
        data=[{}], max_objectives=3, init=str(tmp_path / "wider"), ensemble={"language_model": "none"}
    )
    assert build_model(without, tokenizer, []).ensemble.settings.features.language_model is None


def test_when_components_are_fitted_then_they_are_those_of_the_singular_values(tokenizer, causal):
    named = LanguageModelConfig.resolve({"model": str(causal), "components": 5})
    ensemble = code_rlm.ensemble_rlm.FeatureEnsemble(settings_for(tokenizer, **SMALL, language_model=named), 32)
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(300, 4)) @ rng.normal(size=(4, named.size)) * 100 + 1000
    hidden[:, 0] = 7.0  # never differs
    fit_components(ensemble, torch.from_numpy(hidden).float())
    found = ensemble.components(torch.from_numpy(hidden).float()).numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        standard = np.nan_to_num((hidden - hidden.mean(0)) / hidden.std(0)) / np.sqrt(named.size)
    values = np.linalg.svd(standard.clip(-8, 8), compute_uv=False)[:5]
    assert np.allclose(np.linalg.norm(found, axis=0), values, rtol=1e-2, atol=1e-2)
    assert np.abs(found[:, 4]).max() < 0.05 < np.abs(found[:, 3]).max()


def test_when_a_ridge_is_fitted_to_components_then_it_is_that_of_the_normal_equations():
    rng = np.random.default_rng(0)
    x, fold = rng.normal(size=(100, 6)), rng.integers(0, 5, 100)
    y = x @ rng.normal(size=6) + rng.normal(size=100) + 3
    table = sparse.csr_matrix(np.hstack([rng.normal(size=(100, 2)), x]))
    ridge = HiddenRidge(table, y, fold, 2)
    keep = fold != 1
    centered = x[keep] - x[keep].mean(0)
    weight = np.linalg.solve(centered.T @ centered + ridge.penalty * np.eye(6), centered.T @ (y[keep] - y[keep].mean()))
    assert np.allclose(ridge.left_out(1, table), (x - x[keep].mean(0)) @ weight + y[keep].mean())
    assert np.allclose(ridge.out_of_fold[~keep], ridge.left_out(1, table)[~keep])


def test_when_a_run_names_a_language_model_then_it_trains_without_a_step_and_predicts(toy, causal, tmp_path):
    named = json.dumps({"model": str(causal), "components": 8})
    options = options_of(toy, tmp_path / "run", "--steps", 0, "--ensemble.trees", 5, "--ensemble.language-model", named)
    final = train(options)
    pipe = code_rlm.pipeline(final, metrics=["peak_memory_bytes"], language="python")
    small, large = (pipe(f"x = [3] * {10**power}\n", context=["machine: small"])[0]["value"] for power in (1, 5))
    assert small < large
    written = (tmp_path / "run" / "log.jsonl").parent / "options.yaml"
    assert str(causal) in written.read_text()


def test_when_a_layout_names_a_language_model_then_its_json_form_comes_back(causal):
    layout = FeatureLayout(language_model=LanguageModelConfig.resolve(str(causal)))
    again = FeatureLayout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again == layout and layout.size == layout.token_size + layout.language_model.size


def test_when_two_processes_keep_rows_then_both_are_there(causal):
    settings = LanguageModelConfig.resolve(str(causal))
    one, other = HiddenStates(settings), HiddenStates(settings)
    one(["a"])
    other(["b"])
    cache = language_model.HiddenStateCache()
    with sqlite3.connect(cache.path) as connection:
        assert connection.execute("SELECT count(*) FROM states").fetchone() == (2,)


def test_when_a_tokenizer_keeps_the_head_then_hidden_states_are_refused(make_model, tokenizer, causal, tmp_path):
    own = {"start": [], "end": [tokenizer.eos_token_id], "keep": "head"}
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, **{**tokenizer.init_kwargs, "input_layout": own}
    )
    model = make_model()
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path / "base")
    options = make_options(
        data=[{}], max_objectives=3, init=str(tmp_path / "base"), ensemble={"language_model": str(causal)}
    )
    with pytest.raises(TrainError, match="language_model"):
        build_model(options, tokenizer, [])
