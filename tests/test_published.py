"""The paper's published checkpoints: converted, they compute what the library's T5Gemma computes, and answer exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import published_layout as layout
import pytest
import tiny
import torch
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, T5GemmaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

import code_rlm
from code_rlm import CheckpointError, InputError, MetricError, NumberFormat, RLMForConditionalGeneration
from code_rlm.cli import main
from code_rlm.decoders_rlm import ATTENTION, softcapped_attention
from code_rlm.hub.convert import convert
from code_rlm.processing_rlm import encode_inputs, read_input

TEXTS = [Path(__file__).read_text(), Path(layout.__file__).read_text()]
CODE = "int main() {\n    return 0;\n}\n"


@pytest.fixture(scope="module")
def text_tokenizer():
    return layout.text_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def stock():
    """The library's model with number tokens put in. Not to be changed by tests."""
    return layout.stock_model(layout.TINY, layout.IEEE)


@pytest.fixture(scope="module")
def source(stock, text_tokenizer, tmp_path_factory) -> Path:
    """A checkpoint as published. Not to be changed by tests."""
    return layout.write(tmp_path_factory.mktemp("published") / "source", stock, text_tokenizer, layout.IEEE)


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory) -> Path:
    return convert(source, tmp_path_factory.mktemp("ours") / "converted").folder


@pytest.fixture(scope="module")
def ours(converted) -> SimpleNamespace:
    """Model, tokenizer and pipeline of the converted checkpoint. Not to be changed by tests."""
    model, processor = code_rlm.load(converted)
    return SimpleNamespace(model=model, tokenizer=processor.tokenizer, pipe=code_rlm.pipeline(converted))


@pytest.fixture(scope="module")
def texts() -> dict[str, torch.Tensor]:
    """Token ids of three texts longer than the sliding windows, two of them padded."""
    ids = torch.randint(5, 400, (3, 24), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    for row, length in enumerate((24, 17, 11)):
        ids[row, length:], mask[row, length:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def row_of(texts: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """One text, alone and unpadded."""
    length = int(texts["attention_mask"][row].sum())
    return {name: rows[row : row + 1, :length] for name, rows in texts.items()}


def number_tokens(model: RLMForConditionalGeneration) -> torch.Tensor:
    """The start token and one number for each text."""
    codes = torch.from_numpy(model.codec.encode([123.45, 5e-4, -9.1e12]))
    return torch.cat([torch.zeros(3, 1, dtype=torch.long), codes], 1)


def logits_of(model, inputs, tokens) -> torch.Tensor:
    """Teacher-forced logits, with a cache as published decoding has it: without, the library hides the start token."""
    with torch.no_grad():
        return model(**inputs, decoder_input_ids=tokens, use_cache=True).logits


# The same network


@pytest.mark.parametrize("changes", [{}, {"final_logit_softcapping": None}, {"attn_logit_softcapping": None}])
@pytest.mark.parametrize("numbers", [layout.IEEE, layout.P10], ids=["ieee", "p10"])
def test_when_converted_then_logits_are_those_of_the_library(numbers, changes, text_tokenizer, texts, tmp_path):
    stock = layout.stock_model({**layout.TINY, **changes}, numbers)
    folder = layout.write(tmp_path / "source", stock, text_tokenizer, numbers)
    model, _ = code_rlm.load(convert(folder, tmp_path / "ours").folder)
    tokens = number_tokens(model)
    expected = logits_of(stock, texts, tokens)
    assert torch.allclose(logits_of(model, texts, tokens), expected, atol=1e-5, rtol=1e-5)
    assert expected.std() > 1 and (expected[0] - expected[1]).abs().max() > 0.5
    if not changes:
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in stock.parameters())


def test_when_tokens_come_one_by_one_then_logits_are_those_of_the_library_in_one_pass(ours, stock, texts):
    tokens = number_tokens(ours.model)
    expected = logits_of(stock, texts, tokens)
    with torch.no_grad():
        memory = ours.model.encode_memory(**texts)
        cache, steps = None, []
        for place in range(tokens.shape[1]):
            step = ours.model(
                attention_mask=texts["attention_mask"],
                encoder_outputs=BaseModelOutput(last_hidden_state=memory),
                decoder_input_ids=tokens[:, place : place + 1],
                cache=cache,
                use_cache=True,
            )
            cache = step.get("cache", step.get("past_key_values"))
            steps.append(step.logits)
    assert torch.allclose(torch.cat(steps, 1), expected, atol=1e-5, rtol=1e-5)


def test_when_number_tokens_outrun_the_sliding_window_then_masks_and_kept_keys_agree_with_the_library(stock, texts):
    # Eighteen places in windows of six: several numbers in one answer.
    model = RLMForConditionalGeneration(
        code_rlm.RLMConfig.from_encoder(
            stock.config, keep_decoder=True, number_format=NumberFormat.ieee(2, 5).to_dict(), max_objectives=2
        )
    ).eval()
    ours_of = {"model.encoder.": "encoder.encoder.", "model.decoder.": "decoder.", "lm_head.out_proj.": "number_head."}
    weights = {}
    for name, weight in stock.state_dict().items():
        for theirs, here in ours_of.items():
            if name.startswith(theirs):
                weights[here + name[len(theirs) :]] = weight
    model.load_state_dict(weights)
    tokens = torch.cat([number_tokens(model), torch.from_numpy(model.codec.encode([4.2, 88.0, -1e-9]))[:, :-1]], 1)
    expected = logits_of(stock, texts, tokens)
    assert torch.allclose(logits_of(model, texts, tokens), expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # a cache that drops what its window has passed, as the library's does
        inputs = {"attention_mask": texts["attention_mask"]}
        inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=model.encode_memory(**texts))
        from transformers.cache_utils import DynamicCache, EncoderDecoderCache

        cache = EncoderDecoderCache(DynamicCache(config=stock.config.decoder), DynamicCache())
        steps = [
            model(**inputs, decoder_input_ids=tokens[:, i : i + 1], cache=cache).logits for i in range(tokens.shape[1])
        ]
    assert cache.self_attention_cache.layers[0].keys.shape[2] < tokens.shape[1]
    assert torch.allclose(torch.cat(steps, 1), expected, atol=1e-5, rtol=1e-5)


def test_when_generating_greedily_then_the_tokens_are_those_of_the_library(ours, stock, texts):
    forced = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = stock.generate(**texts, decoder_start_token_id=0, **forced)
    ours.model.config.constrain_numbers = False
    try:
        assert torch.equal(ours.model.generate(**texts, **forced), expected)
    finally:
        ours.model.config.constrain_numbers = True
    assert len({tuple(row) for row in expected.tolist()}) == 3  # other inputs, other numbers


def test_when_generating_with_and_without_a_cache_then_the_numbers_are_the_same(ours, texts):
    cached, plain = (ours.model.generate(**texts, num_objectives=1, use_cache=flag) for flag in (True, False))
    assert torch.equal(cached, plain)
    assert len({tuple(row) for row in cached.tolist()}) == 3


def test_when_rows_are_padded_into_a_batch_then_answers_are_those_of_the_row_alone(ours, texts):
    tokens = number_tokens(ours.model)
    together, answers = logits_of(ours.model, texts, tokens), ours.model.predict(texts).quantiles
    drawn = ours.model.sample(texts, 8)
    for row in range(3):
        alone = row_of(texts, row)
        assert torch.allclose(
            logits_of(ours.model, alone, tokens[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-5
        )
        assert np.allclose(ours.model.predict(alone).quantiles[0], answers[row], rtol=1e-3)
        assert np.array_equal(ours.model.sample(alone, 8)[0], drawn[row])
    assert len({tuple(a) for a in answers[:, 0].tolist()}) == 3


@pytest.mark.parametrize("softcap", [5.0, None])
def test_when_attention_takes_a_few_queries_at_a_time_then_it_is_the_librarys(softcap):
    from transformers.models.t5gemma.modeling_t5gemma import eager_attention_forward

    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 300, 8, requires_grad=True) for heads in (4, 2, 2))
    mask = torch.rand(2, 1, 300, 300) > 0.3
    options = {"scaling": 0.7, "softcap": softcap}
    added = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    module = SimpleNamespace(num_key_value_groups=2, training=False)
    expected, _ = eager_attention_forward(module, query, key, value, added, **options)
    grads = torch.autograd.grad(expected.square().sum(), (query, key, value))
    for given in (mask, added):
        found, _ = softcapped_attention(None, query, key, value, given, **options)
        assert torch.allclose(found, expected, atol=1e-5)
        for one, other in zip(torch.autograd.grad(found.square().sum(), (query, key, value)), grads, strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_when_a_model_is_built_or_loaded_then_its_encoder_attends_leanly(ours, pretrained):
    assert ours.model.encoder.config.encoder._attn_implementation == ATTENTION
    model = RLMForConditionalGeneration.from_encoder_pretrained(str(pretrained))
    assert model.encoder.config.encoder._attn_implementation == ATTENTION


# Exact answers on the library's decoder


@pytest.fixture(scope="module")
def enumerable(text_tokenizer, tmp_path_factory):
    """A model whose numbers can be counted out: one exponent digit, two mantissa digits."""
    numbers = {**layout.IEEE, "ieee_exponent_digits": 1, "ieee_mantissa_digits": 2, "num_tokens_per_obj": 5}
    folder = tmp_path_factory.mktemp("enumerable")
    layout.write(folder / "source", layout.stock_model(layout.TINY, numbers, seed=4), text_tokenizer, numbers)
    return code_rlm.load(convert(folder / "source", folder / "ours").folder)[0]


def test_when_all_numbers_are_counted_out_then_quantiles_and_cdf_are_exact(enumerable, texts):
    codec, inputs = enumerable.codec, row_of(texts, 1)
    values = np.array([0.0] + [s * d / 10 * 10.0**e for s in (1, -1) for d in range(10, 100) for e in range(-9, 10)])
    codes = torch.from_numpy(codec.encode(values))
    tokens = torch.cat([torch.zeros(len(codes), 1, dtype=torch.long), codes[:, :-1]], 1)
    with torch.no_grad():
        memory = enumerable.encode_memory(**inputs).expand(len(codes), -1, -1)
        logits = enumerable(encoder_outputs=BaseModelOutput(last_hidden_state=memory), decoder_input_ids=tokens).logits
    states = codec.states(codes.numpy())[:, :-1]
    scores = logits.double().masked_fill(~torch.from_numpy(codec.allowed[states]), float("-inf")).log_softmax(-1)
    log_probs = scores.gather(2, codes[..., None])[..., 0].sum(1).numpy()
    assert np.exp(log_probs).sum() == pytest.approx(1, abs=1e-6)
    order = np.argsort(values)
    running = np.cumsum(np.exp(log_probs)[order])
    levels = (0.05, 0.3, 0.5, 0.77, 0.95)
    expected = [values[order][np.searchsorted(running, level * running[-1])] for level in levels]
    assert enumerable.predict(inputs, levels).quantiles[0, 0].tolist() == pytest.approx(expected)
    for threshold in (-3.0, 1e-4, 50.0):
        below = np.exp(log_probs)[values < threshold].sum()
        assert enumerable.cdf(inputs, [threshold])[0, 0] == pytest.approx(below, abs=1e-5)
    assert enumerable.log_prob(inputs, [values[77]])[0, 0] == pytest.approx(log_probs[77], abs=1e-4)


def test_when_many_samples_are_drawn_then_they_follow_the_exact_quantiles(enumerable, texts):
    inputs = row_of(texts, 0)
    quantiles = enumerable.predict(inputs, (0.2, 0.5, 0.8)).quantiles[0, 0]
    drawn = enumerable.sample(inputs, 4000, seed=1)[0, :, 0]
    for value in quantiles:
        assert (drawn < value).mean() == pytest.approx(enumerable.cdf(inputs, [value])[0, 0], abs=0.04)


def test_when_several_numbers_are_asked_for_then_each_depends_on_those_before(text_tokenizer, texts, tmp_path):
    folder = layout.write(
        tmp_path / "source", layout.stock_model(layout.TINY, layout.IEEE), text_tokenizer, layout.IEEE, max_num_objs=2
    )
    done = convert(folder, tmp_path / "ours")
    assert "up to 2 numbers" in done.notes[0]
    model, _ = code_rlm.load(done.folder)
    inputs = row_of(texts, 0)
    second = [
        model.predict(inputs, metrics=["a", "b"], given={"a": value}).quantiles[0, 0].tolist() for value in (1.0, 2e30)
    ]
    assert second[0] != second[1]
    written = model.generate(**inputs, num_objectives=2)[0, 1:19]
    expected = model.log_prob(inputs, model.codec.decode(written.reshape(1, 2, 9)), metrics=["a", "b"])
    assert np.isfinite(expected).all() and expected.shape == (1, 2)


def test_when_the_layout_is_p10_then_the_pipeline_answers_from_draws_and_says_so(text_tokenizer, tmp_path):
    stock = layout.stock_model(layout.TINY, layout.P10)
    folder = layout.write(tmp_path / "source", stock, text_tokenizer, layout.P10)
    pipe = code_rlm.pipeline(convert(folder, tmp_path / "ours").folder)
    (answer,) = pipe("def f(): pass", metrics=["peak_memory_bytes"])
    assert answer["draws"] == 1024 and answer["low"] <= answer["value"] <= answer["high"]
    assert pipe("def f(): pass", metrics=["peak_memory_bytes"])[0] == answer
    with pytest.raises(MetricError, match=r"predict\(draws=1024\)"):
        pipe.model.predict({"input_ids": torch.tensor([[2, 7, 8]])})


@pytest.mark.parametrize(
    ("layout_of", "tokens", "value"),
    [
        (NumberFormat.ieee(2, 5), "<+> <+> <0> <2> <0> <5> <0> <0> <1>", 50.01),
        (NumberFormat.ieee(2, 5), "<-> <-> <1> <0> <0> <0> <0> <0> <7>", -7e-14),
        (NumberFormat.ieee(2, 5), "<+> <-> <0> <0> <0> <0> <0> <0> <0>", 0.0),
        (NumberFormat.p10(6, 10), "<-> <0> <0> <1> <2> <3> <4> <E-1>", -123.4),
    ],
)
def test_when_a_published_code_has_leading_zeros_then_it_is_read_but_never_written(layout_of, tokens, value):
    codec = code_rlm.NumberCodec(layout_of)
    ids = np.array([codec.ids[token] for token in tokens.split()])
    assert codec.decode(ids) == pytest.approx(value, rel=1e-12)
    assert codec.states(ids)[-1] == -1  # the grammar lists one code for each number
    assert codec.decode(codec.encode(value)) == pytest.approx(value, rel=1e-4)


# Converting


def test_when_a_checkpoint_is_converted_then_registry_numbers_and_bytes_are_as_published(ours, source, converted):
    config = ours.model.config
    names = config.metric_names()
    assert names[:3] == ["peak_memory_bytes", "latency_ms@rtx_a6000", "judge_memory_bytes"]
    assert {"validation_accuracy@nasbench101", "validation_accuracy@enas"} <= set(names)
    assert config.format == ours.tokenizer.codec.format == NumberFormat.ieee(2, 5)
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id, config.max_objectives) == (
        0,
        0,
        0,
        1,
    )
    theirs, here = load_file(source / "model.safetensors"), load_file(converted / "model.safetensors")
    assert len(here) == len(theirs) - 1
    assert torch.equal(here["number_head.weight"], theirs["model.lm_head.out_proj.weight"])
    assert torch.equal(here["decoder.embed_tokens.weight"], theirs["model.model.decoder.embed_tokens.weight"])
    card = (converted / "README.md").read_text()
    assert "license: mit" in card and "`APPS\\n{text}`" in card
    assert not (converted / "modeling_regresslm.py").exists()


def test_when_the_weights_are_in_shards_and_half_precision_then_they_are_the_same(
    stock, text_tokenizer, tmp_path, texts
):
    half = layout.stock_model(layout.TINY, layout.IEEE).to(torch.bfloat16)
    folder = layout.write(tmp_path / "source", half, text_tokenizer, layout.IEEE, shards=3)
    model, _ = code_rlm.load(convert(folder, tmp_path / "ours").folder, dtype=torch.float32)
    assert torch.allclose(model.number_head.weight, stock.lm_head.out_proj.weight, atol=0.01)
    assert code_rlm.load(tmp_path / "ours")[0].dtype == torch.bfloat16
    assert np.isfinite(model.predict(texts).quantiles).all()


def test_when_there_is_a_regression_head_then_it_answers_and_nothing_is_lost(stock, text_tokenizer, texts, tmp_path):
    torch.manual_seed(1)
    head = nn.Linear(32, 1)
    done = convert(layout.write(tmp_path / "s", stock, text_tokenizer, layout.IEEE, head=head), tmp_path / "ours")
    assert "without an interval" in done.notes[0] and done.notes[0] in (tmp_path / "ours" / "README.md").read_text()
    pipe = code_rlm.pipeline(done.folder)
    with torch.no_grad():
        memory = stock.model.encoder(**texts).last_hidden_state
        mask = texts["attention_mask"][..., None].float()
        expected = head((memory * mask).sum(1) / mask.sum(1))[:, 0]
    found = pipe.model.regress(texts)
    assert found == pytest.approx(expected.numpy(), abs=1e-5) and len(set(found.tolist())) == 3
    (answer,) = pipe("def f(): pass", metrics=["peak_memory_bytes"])
    inputs = pipe.processor("def f(): pass", ["peak_memory_bytes"])
    assert answer["value"] == pytest.approx(pipe.model.regress(inputs)[0])
    assert answer["low"] is answer["high"] is answer["level"] is None
    with pytest.raises(MetricError, match="regression head: one metric at a time, no samples"):
        pipe("def f(): pass", metrics=["peak_memory_bytes"], num_samples=4)


def test_when_there_is_no_regression_head_then_regress_says_so(ours, texts):
    with pytest.raises(CheckpointError, match="no regression head"):
        ours.model.regress(texts)


def broken(source: Path, folder: Path, weights=None, config=None) -> Path:
    """A copy of a checkpoint with its weights and config passed through functions."""
    shutil.copytree(source, folder)
    if weights:
        save_file(weights(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    if config:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **config}))
    return folder


def test_when_keys_and_shapes_do_not_fit_then_all_are_listed_and_no_folder_is_left(source, tmp_path, capsys):
    def spoil(weights):
        del weights["model.model.encoder.norm.weight"]
        weights["model.lm_head.out_proj.weight"] = torch.zeros(14, 32)
        weights["model.extra"] = torch.zeros(3)
        weights["model.model.decoder.norm.weight"] = torch.zeros(32, dtype=torch.int32)
        weights["model.final_logits_bias"] = torch.ones(1, 13)
        return weights

    folder = broken(source, tmp_path / "source", spoil)
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "5 things do not fit" in told
    for line in (
        "model.model.encoder.norm.weight is missing, expected [32]",
        "model.lm_head.out_proj.weight has shape [14, 32], expected [13, 32]",
        "model.extra [3] is not a weight of this model",
        "model.model.decoder.norm.weight is of type I32",
        "model.final_logits_bias is not zero",
    ):
        assert line in told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5gemma"}, "holds a 't5gemma' model; convert reads 'regresslm' ones"),
        ({"backbone_config": None}, "backbone_config is missing"),
        ({"ieee_base": 2}, "ieee_base is 2, only 10"),
        ({"decoder_vocab_size": 34}, "decoder_vocab_size is 34, but IEEE numbers have 13"),
        ({"ieee_mantissa_digits": None}, "ieee_mantissa_digits must be a whole number, got None"),
        ({"decoder_tokenizer": "roman"}, "'ROMAN' is neither IEEE nor P10"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id is 2, not 0"),
        ({"encoder_vocab_size": 100}, "400 tokens for 100 embeddings"),
        ({"use_regression_head": True}, "regression_head.weight is missing, expected [1, 32]"),
    ],
)
def test_when_the_config_does_not_fit_then_the_message_says_where(source, tmp_path, config, message):
    folder = broken(source, tmp_path / "source", config=config)
    with pytest.raises(CheckpointError) as caught:
        convert(folder, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_when_the_source_is_a_pickle_or_no_checkpoint_then_nothing_is_read(source, tmp_path):
    pickle = tmp_path / "regress_lm.pt"
    pickle.write_bytes(b"not even a pickle")
    with pytest.raises(CheckpointError, match=r"\.pt\) are not supported: they are pickles of another architecture"):
        convert(pickle, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"holds regress_lm\.pt, a pickle, which is never read"):
        convert(tmp_path, tmp_path / "out")
    folder = broken(source, tmp_path / "source")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors; pickled weights .* never read"):
        convert(folder, tmp_path / "out")
    (folder / "model.safetensors").write_bytes((folder / "pytorch_model.bin").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        convert(folder, tmp_path / "out")
    with pytest.raises(CheckpointError, match="There is no folder"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(source, folder)


def test_when_writing_fails_half_way_then_no_folder_is_left(source, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("code_rlm.hub.convert.custom_object_save", full)
    with pytest.raises(OSError, match="No space left"):
        convert(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_when_an_index_names_a_file_elsewhere_then_it_is_refused(source, tmp_path):
    folder = broken(source, tmp_path / "source")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"'\.\./outside\.safetensors', which is not a file beside it"):
        convert(folder, tmp_path / "out")


@pytest.mark.slow
def test_when_the_package_is_not_there_then_the_converted_checkpoint_answers_the_same(converted, ours, texts, tmp_path):
    code = """
import json, sys
import torch
from transformers import AutoModelForSeq2SeqLM, pipeline
folder, again, code = sys.argv[1:4]
ids, mask = (torch.tensor(rows) for rows in json.loads(sys.argv[4]))
trust = {"trust_remote_code": True}
model = AutoModelForSeq2SeqLM.from_pretrained(folder, **trust)
model.save_pretrained(again)  # what was loaded from the Hub can be saved again
pipe = pipeline("code-regression", model=folder, **trust)
pipe.tokenizer.save_pretrained(again)
asked = {"metrics": ["judge_memory_bytes", "peak_memory_bytes"]}
answers = [pipe({"text": code, "language": "python"}, **asked)]
answers.append(pipeline("code-regression", model=again, **trust)({"text": code, "language": "python"}, **asked))
print(json.dumps({
    "class": type(model.decoder).__module__.split(".")[0],
    "generated": model.generate(input_ids=ids, attention_mask=mask, num_objectives=1).tolist(),
    "answers": answers,
}))
"""
    batch = json.dumps([texts["input_ids"].tolist(), texts["attention_mask"].tolist()])
    found = tiny.run_python(code, converted, tmp_path / "again", "x = [0] * 9", batch, cwd=tmp_path, hidden=True)
    assert found["class"] == "transformers_modules"
    assert found["generated"] == ours.model.generate(**texts, num_objectives=1).tolist()
    expected = ours.pipe(
        {"text": "x = [0] * 9", "language": "python"}, metrics=["judge_memory_bytes", "peak_memory_bytes"]
    )
    for answer in found["answers"]:
        assert [e["metric"] for e in answer] == ["judge_memory_bytes", "peak_memory_bytes"]
        for one, other in zip(answer, expected, strict=True):
            assert one["value"] == pytest.approx(other["value"], rel=1e-4)


@pytest.mark.slow
def test_when_the_source_is_on_the_hub_then_its_revision_is_read_and_its_python_never_fetched(
    source, tmp_path, monkeypatch
):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    code = """
import json, sys
from code_rlm.cli import main
status = [main(["convert", *argv]) for argv in json.loads(sys.argv[1])]
print(json.dumps(status))
"""
    with LoopbackHub(tmp_path / "hub") as hub:
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo("author/published")
        first = api.upload_folder(repo_id="author/published", folder_path=source).oid
        api.upload_file(repo_id="author/published", path_in_repo="config.json", path_or_fileobj=b"{}")
        env, out = hub.env(tmp_path / "home"), str(tmp_path / "out")
        runs = [
            ["author/published", out, "--revision", first],
            ["author/published", out + "2"],
            ["author/none", out + "3"],
        ]
        status = tiny.run_python(code, json.dumps(runs), cwd=tmp_path, env={**env, "HF_HUB_OFFLINE": "0"})
    assert status == [0, 2, 2]
    assert [p.name for p in tmp_path.glob("out*")] == ["out"]
    assert not list((tmp_path / "home" / "hub").rglob("*.py"))
    assert "base_model: author/published" in (tmp_path / "out" / "README.md").read_text()
    assert code_rlm.load(out)[0].config.format == NumberFormat.ieee(2, 5)


# The text that it reads


@pytest.mark.parametrize(
    ("item", "metric", "expected"),
    [
        ("\n\ndef f(x):\n\treturn  x", "peak_memory_bytes", "APPS\n\n\ndef f(x):\n\treturn  x"),
        ("import triton.language as tl\n", "latency_ms@rtx_a6000", "KBSS\nimport triton.language as tl\n"),
        ({"text": CODE, "language": "cpp"}, "judge_memory_bytes", f"# CDSS\n# Language: C++\n{CODE}"),
        ({"text": CODE, "language": "C++"}, "judge_memory_bytes", f"# CDSS\n# Language: C++\n{CODE}"),
        ({"text": "x = 1", "language": "python"}, "judge_memory_bytes", "# CDSS\n# Language: Python\nx = 1"),
        ({"text": "let x = 1", "language": "fsharp"}, "judge_memory_bytes", "# CDSS\n# Language: F#\nlet x = 1"),
        (
            {"text": "main_graph (float[1,3] x)", "language": "onnx", "context": {"space": "NASBench101"}},
            "validation_accuracy@nasbench201",
            "NASBench101\n\nmain_graph (float[1,3] x)",
        ),
    ],
)
def test_when_a_metric_is_asked_for_then_the_model_reads_exactly_the_published_text(
    ours, text_tokenizer, item, metric, expected
):
    (encoded,) = encode_inputs(ours.tokenizer, [read_input(item)], [[metric]], 2048, ours.model.config.templates)
    assert encoded.input_ids == text_tokenizer.encode(expected).ids  # as their tokenizer reads it, `<bos>` first
    assert text_tokenizer.decode(encoded.input_ids) == expected
    assert encoded.truncated_tokens == 0 and encoded.language is None


def test_when_a_text_is_too_long_then_its_end_is_cut_as_in_the_published_training(ours, text_tokenizer):
    text = "".join(f"x{i} = {i}\n" for i in range(6000))
    for limit in (64, 2048):  # the whole text is tokenised for one of them, its first part alone for the other
        (encoded,) = encode_inputs(
            ours.tokenizer, [read_input(text)], [["peak_memory_bytes"]], limit, ours.model.config.templates
        )
        whole = text_tokenizer.encode("APPS\n" + text[: 64 * limit]).ids
        assert encoded.input_ids == whole[:limit] and len(whole) > limit
        assert encoded.truncated_tokens == pytest.approx(len(text_tokenizer.encode(text).ids) - limit, rel=0.01)


def test_when_metrics_have_limits_of_their_own_then_graphs_may_be_longer(ours):
    graph = {"text": "node " * 5000, "language": "onnx", "context": {"space": "ENAS"}}
    code = {"text": "x = 1\n" * 5000, "language": "python"}
    call = code_rlm.pipeline_rlm.CallOptions
    (one,) = ours.pipe.preprocess([read_input(graph)], call(metrics=["validation_accuracy@nasbench201"]))
    (other,) = ours.pipe.preprocess([read_input(code)], call(metrics=["peak_memory_bytes"]))
    assert (len(one.encoded.input_ids), len(other.encoded.input_ids)) == (4096, 2048)


def test_when_several_metrics_are_asked_for_then_each_reads_its_own_text_and_answers_keep_their_order(ours):
    item = {"text": "x = [0] * 10", "language": "python"}
    names = ["judge_memory_bytes", "peak_memory_bytes"]
    together = ours.pipe([item, item], metrics=names)
    alone = [ours.pipe(item, metrics=[name])[0] for name in names]
    for answer in together:
        assert [entry["metric"] for entry in answer] == names
        for entry, expected in zip(answer, alone, strict=True):
            assert entry["value"] == pytest.approx(expected["value"], rel=1e-4)
    assert alone[0]["value"] != alone[1]["value"]


@pytest.mark.parametrize(
    ("item", "options", "error", "message"),
    [
        (CODE, {"metrics": ["judge_memory_bytes"]}, InputError, "needs the language.*such as 'cpp' or 'C\\+\\+'"),
        (
            {"text": "graph", "language": "onnx"},
            {"metrics": ["validation_accuracy@nasbench201"]},
            InputError,
            r"needs 'space': pass context=\{'space': \.\.\.\}",
        ),
        (
            {"text": "x = 1", "context": {"input_size": "3"}},
            {"metrics": ["peak_memory_bytes"]},
            InputError,
            r"no place for the context \['input_size'\]",
        ),
        ("x = 1", {"metrics": ["peak_memory_bytes"] * 2}, MetricError, "'peak_memory_bytes' more than once"),
        (
            "x = 1",
            {"metrics": ["peak_memory_bytes"], "given": {"judge_memory_bytes": 3}},
            MetricError,
            "predicted from a text of its own, apart from other metrics",
        ),
    ],
)
def test_when_the_published_text_cannot_be_written_then_the_message_says_what_is_missing(
    ours, item, options, error, message
):
    with pytest.raises(error, match=message):
        ours.pipe(item, **options)


def test_when_a_graph_is_given_as_a_file_then_this_packages_print_of_it_is_refused(ours):
    graph = Path(__file__).parents[1] / "examples" / "nasbench201_cell.onnx"
    with pytest.raises(InputError, match="printed by its authors"):
        ours.pipe(graph, metrics=["validation_accuracy@nasbench201"], context={"space": "NASBench201"})


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("APPS\n", r"holds the code once, as \{text\} or \{onnx\}"),
        ("{text}{text}", "holds the code once"),
        ("{text!r}", "neither a format nor a conversion"),
        ("{text}{0}", "is not a placeholder"),
        ("{text", "cannot be read"),
        (3, "must be a text, got int"),
    ],
)
def test_when_a_template_is_not_one_then_the_message_shows_what_is(make_config, template, message):
    with pytest.raises(MetricError, match=message):
        make_config(metrics=[{"name": "a", "template": template}])


def test_when_our_own_checkpoints_have_templates_then_training_and_prediction_read_the_same(tokenizer):
    from code_rlm.data.mixture import Mixture, Source

    templates = {"b": "<<{language}>>\n{text}\n-- {{end}} of {size}\n"}
    body = tokenizer("def f(x):\n    return x\n")["input_ids"]
    codes = tokenizer.encode_numbers([[1.0, 2.0, 3.0]]).astype(np.int16)
    values, there, whole = np.array([[1.0, 2.0, 3.0]]), np.ones((1, 3), bool), np.zeros(1, bool)
    metrics = ["a", "b", "c"]
    source = Source("s", [np.array(body)], ["python"], [("size: 4",)], metrics, values, codes, there, whole)
    mixture = Mixture([source], [1.0], tokenizer, max_tokens=64, max_objectives=3, templates=templates)
    item = mixture.build(source, 0, [1])
    ids, labels = item.input_ids, item.labels
    item = read_input({"text": "def f(x):\n    return x\n", "language": "python", "context": {"size": 4}})
    (encoded,) = encode_inputs(tokenizer, [item], [["b"]], 64, templates)
    assert encoded.input_ids == ids and labels[0] == codes[0, 1, 0]
    assert tokenizer.decode(ids) == "<<Python>>\ndef f(x):\n    return x\n\n-- {end} of 4\n<eos>"
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):  # a metric with a template is never drawn beside others
        drawn = mixture.example(0, 0, rng)
        ids, labels = drawn.input_ids, drawn.labels
        numbers = tuple(tokenizer.decode_numbers(labels[:-1].reshape(-1, tokenizer.codec.length)).tolist())
        assert ("<<Python>>" in tokenizer.decode(ids)) == (2.0 in numbers) == (numbers == (2.0,))
        seen.add(numbers)
    assert seen == {(2.0,), (1.0,), (3.0,), (1.0, 3.0), (3.0, 1.0)}


def test_when_the_tokenizer_is_reloaded_then_it_reads_as_before(converted, ours, text_tokenizer, odd_texts, tmp_path):
    ours.tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in odd_texts:
        expected = text_tokenizer.encode(text).ids
        assert ours.tokenizer(text)["input_ids"] == again(text)["input_ids"] == expected
    assert again.decode_numbers(again.encode_numbers([0.0, -27.3, 9e99])).tolist() == [0.0, -27.3, 9e99]
    assert again.init_kwargs["input_layout"] == {"start": [2], "end": [], "keep": "head"}


# Training


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    """A folder with a whole T5Gemma of the library, text vocabulary and all."""
    from transformers import T5GemmaConfig

    half = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, **layout.TINY}
    torch.manual_seed(5)
    config = T5GemmaConfig(encoder=dict(half), decoder=dict(half), vocab_size=400)
    folder = tmp_path_factory.mktemp("t5gemma")
    T5GemmaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_when_the_decoder_is_kept_then_both_halves_come_pretrained_and_train(pretrained, texts, tmp_path):
    model = RLMForConditionalGeneration.from_encoder_pretrained(str(pretrained), keep_decoder=True, max_objectives=2)
    whole = T5GemmaForConditionalGeneration.from_pretrained(pretrained).state_dict()
    mine = model.state_dict()
    for name, weight in whole.items():
        if name.startswith("model.encoder."):
            assert torch.equal(mine["encoder." + name[len("model.") :]], weight)
        elif name.startswith("model.decoder.") and "embed_tokens" not in name:
            assert torch.equal(mine[name[len("model.") :]], weight)
    assert mine["decoder.embed_tokens.weight"].shape == mine["number_head.weight"].shape == (model.codec.vocab_size, 32)
    labels = torch.from_numpy(model.codec.encode([[1.0, 2.0], [3.0, 4.0], [5.0, "failed"]])).reshape(3, -1)
    model.train()
    model.gradient_checkpointing_enable()
    before = model(**texts, labels=labels).loss
    before.backward()
    for name in (
        "decoder.layers.1.cross_attn.k_proj",
        "decoder.embed_tokens",
        "number_head",
        "encoder.encoder.embed_tokens",
    ):
        assert model.get_submodule(name).weight.grad.abs().max() > 0, name
    assert model.decoder.embed_tokens.weight.grad[0].abs().max() > 0  # the start token trains too
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    optimizer.step()
    assert model(**texts, labels=labels).loss < before
    model.eval().save_pretrained(tmp_path)
    again = RLMForConditionalGeneration.from_pretrained(tmp_path)
    assert np.array_equal(again.predict(texts).quantiles, model.predict(texts).quantiles)
    assert again.config.decoder_hidden_size == 32 and again.config.decoder_num_layers == 3


def test_when_lora_is_put_on_the_librarys_decoder_then_only_it_changes_the_answers(converted, texts):
    from peft import LoraConfig, get_peft_model

    model, _ = code_rlm.load(converted)
    before = model.predict(texts).quantiles
    lora = get_peft_model(model, LoraConfig(target_modules=r"decoder\.layers\..*(q|v)_proj", init_lora_weights=False))
    assert not np.array_equal(model.predict(texts).quantiles, before)
    with lora.disable_adapter():
        assert np.array_equal(model.predict(texts).quantiles, before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder": {"model_type": "t5"}}, r"decoder cannot be of type 't5'; supported are \['t5gemma'\]"),
        ({"decoder": {"model_type": "my-own"}}, "'my-own' is not one .*never from code in a repository"),
        ({"decoder": "google/t5gemma"}, "decoder must be a config or its dict, got str"),
        ({"decoder_hidden_size": 64}, "decoder_hidden_size=64 belongs to the small decoder; .* has 32"),
    ],
)
def test_when_a_decoder_cannot_be_built_then_the_message_says_why(stock, make_config, fields, message):
    with pytest.raises(CheckpointError, match=message):
        code_rlm.RLMConfig(encoder=stock.config.to_dict(), **{"decoder": stock.config.to_dict(), **fields})


def test_when_the_memory_is_of_another_width_then_the_message_names_both(stock, make_config):
    with pytest.raises(CheckpointError, match="memory of width 32, the encoder writes 256"):
        code_rlm.RLMConfig(decoder=stock.config.to_dict())


def test_when_the_decoder_config_brings_code_then_it_is_left_behind(stock, tmp_path):
    evil = {"auto_map": {"AutoModel": "evil.Model"}, "trust_remote_code": True, "_name_or_path": "evil/model"}
    content = stock.config.to_dict()
    content["decoder"] = {**content["decoder"], **evil}
    config = code_rlm.RLMConfig(encoder=stock.config.to_dict(), decoder={**content, **evil})
    config.save_pretrained(tmp_path)
    assert "evil" not in (tmp_path / "config.json").read_text()
    assert not hasattr(config.library_decoder, "auto_map")
