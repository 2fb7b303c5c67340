"""The config: what it keeps, what it refuses, and models built around encoders of the library."""

import copy
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from code_rlm.configuration_rlm import CUSTOM_PIPELINES, Metric, RLMConfig
from code_rlm.decoders_rlm import ATTENTION
from code_rlm.errors_rlm import CheckpointError, MetricError, NumberCodeError
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.numbers_rlm import NumberFormat

METRICS = [
    {"name": "latency_ms@pixel3", "unit": "ms", "languages": ["onnx"]},
    {"name": "peak_memory_bytes", "unit": "bytes", "languages": ["python", "triton"], "description": "tracemalloc"},
    {"name": "accuracy_percent", "unit": "%", "smaller_is_better": False, "languages": ["onnx"]},
]
SMALL_TRANSFORMER = {
    "vocab_size": 120,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 8,
    "max_position_embeddings": 128,
    "query_pre_attn_scalar": 16,
}
DECODER = {
    "decoder_hidden_size": 32,
    "decoder_intermediate_size": 32,
    "decoder_num_layers": 1,
    "decoder_num_attention_heads": 2,
    "initializer_range": 0.25,
}


# Fields


def test_when_a_config_goes_through_json_then_it_is_the_same(make_config, tmp_path):
    config = make_config(
        metrics=METRICS,
        default_metrics={"onnx": ["accuracy_percent", "latency_ms@pixel3"]},
        number_format=NumberFormat.p10(4, 8).to_dict(),
        encoder_layers=[0, -1],
        freeze_encoder=True,
    )
    config.save_pretrained(tmp_path)
    again = RLMConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert type(again.encoder) is type(config.encoder) and again.encoder.to_dict() == config.encoder.to_dict()
    assert again.format == NumberFormat.p10(4, 8) == config.format
    assert again.metric("accuracy_percent") == Metric("accuracy_percent", "%", False, "", ("onnx",))
    assert copy.deepcopy(config).to_dict() == config.to_dict()


def test_when_a_config_is_written_then_it_names_the_code_that_loads_it(make_config):
    written = json.loads(make_config().to_json_string(use_diff=False))
    assert written["auto_map"]["AutoModelForSeq2SeqLM"] == "modeling_rlm.RLMForConditionalGeneration"
    assert written["custom_pipelines"] == CUSTOM_PIPELINES
    assert written["model_type"] == "code-rlm"
    assert "default" not in written["custom_pipelines"]["code-regression"]


def test_when_a_config_carries_foreign_code_references_then_they_are_replaced(make_config):
    config = make_config(auto_map={"AutoModel": "evil.Model"}, custom_pipelines={"x": {"impl": "evil.Pipeline"}})
    assert "evil" not in config.to_json_string(use_diff=False)


def test_when_lists_are_null_as_in_old_checkpoints_then_they_are_the_defaults(make_config):
    null = make_config(metrics=None, default_metrics=None, number_format=None, regression_scale=None)
    assert (null.metrics, null.default_metrics, null.regression_scale) == ([], {}, [0.0, 1.0])
    assert null.to_dict() == make_config().to_dict()


def test_when_fields_are_given_then_the_callers_are_not_changed(make_config):
    fields = {
        "encoder": {
            "model_type": "bert",
            "hidden_size": 32,
            "num_attention_heads": 2,
            "auto_map": {"AutoModel": "x.Y"},
        },
        "metrics": copy.deepcopy(METRICS),
        "default_metrics": {"onnx": ["accuracy_percent"]},
        "number_format": {"mantissa_digits": 3},
    }
    before = copy.deepcopy(fields)
    config = make_config(**fields)
    config.to_dict()["encoder"]["hidden_size"] = 1
    config.metrics_for("onnx").append("x")
    assert fields == before and config.encoder.hidden_size == 32 and config.metrics_for("onnx") == ["accuracy_percent"]


def test_when_no_encoder_is_given_then_a_small_one_is_embedded():
    config = RLMConfig()
    assert config.encoder.model_type == "modernbert" and config.encoder_hidden_size == 256
    assert config.format == NumberFormat()
    assert (config.pad_token_id, config.eos_token_id, config.decoder_start_token_id) == (0, 1, 0)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"decoder_hidden_size": 30}, CheckpointError, "decoder_hidden_size 30 is not a multiple of .*heads 4"),
        ({"decoder_num_key_value_heads": 3}, CheckpointError, "heads 4 is not a multiple of .*key_value_heads 3"),
        (
            {"decoder_hidden_size": 0},
            CheckpointError,
            "decoder_hidden_size must be a whole number of at least 1, got 0",
        ),
        ({"decoder_num_layers": 0}, CheckpointError, "decoder_num_layers must be a whole number of at least 1, got 0"),
        (
            {"decoder_num_attention_heads": 0},
            CheckpointError,
            "decoder_num_attention_heads must be a whole number of at least 1, got 0",
        ),
        ({"decoder_num_key_value_heads": 0}, CheckpointError, "decoder_num_key_value_heads must be a whole number"),
        (
            {"decoder_intermediate_size": -1},
            CheckpointError,
            "decoder_intermediate_size must be a whole number of at least 1, got -1",
        ),
        ({"max_objectives": 0}, CheckpointError, "max_objectives must be at least 1"),
        ({"max_input_tokens": 15}, CheckpointError, "max_input_tokens at least 16"),
        ({"decoder_hidden_size": "32"}, CheckpointError, "decoder_hidden_size must be a whole number .*got '32'"),
        ({"encoder": "bert"}, CheckpointError, "encoder must be a config or its dict, got str"),
        ({"encoder": {"hidden_size": 3}}, CheckpointError, "model_type None is not one that this transformers knows"),
        (
            {"encoder": {"model_type": "my-own"}},
            CheckpointError,
            "'my-own' is not one .*never from code in a repository",
        ),
        ({"number_format": {"mantissa_digits": 0}}, NumberCodeError, "mantissa_digits must be 1 to 15"),
        ({"metrics": [{"name": "a b"}]}, MetricError, "'a b' is not a metric name. Use one word"),
        ({"metrics": [{"name": "a,b"}]}, MetricError, "'a,b' is not a metric name"),
        ({"metrics": [{"name": "a@b@c"}]}, MetricError, "is not a metric name"),
        ({"metrics": [{"name": ""}]}, MetricError, "'' is not a metric name"),
        ({"metrics": [{"name": "a", "unti": "ms"}]}, MetricError, r"Metric 'a' has unknown keys \['unti'\]"),
        ({"metrics": [{"name": "a", "languages": "python"}]}, MetricError, r"languages must be a list .*\['python'\]"),
        ({"metrics": [{"name": "a"}, {"name": "a"}]}, MetricError, r"names \['a'\] more than once"),
        (
            {"default_metrics": {"c": ["a"]}},
            MetricError,
            r"default_metrics\['c'\] names \['a'\], which .* not have: \[\]",
        ),
    ],
)
def test_when_a_field_is_impossible_then_the_message_names_it(make_config, fields, error, message):
    with pytest.raises(error, match=message):
        make_config(**fields)


# The registry of metrics


def test_when_a_metric_is_unknown_then_the_known_ones_are_listed(make_config):
    with pytest.raises(MetricError) as caught:
        make_config(metrics=METRICS).metric("latency_ms")
    assert str(caught.value) == (
        "This checkpoint does not predict 'latency_ms'. "
        "It knows: latency_ms@pixel3, peak_memory_bytes, accuracy_percent."
    )
    with pytest.raises(MetricError, match="It knows: none"):
        make_config().metric("latency_ms")


def test_when_a_kind_of_input_comes_then_its_metrics_are_found(make_config):
    config = make_config(metrics=METRICS, default_metrics={"python": ["peak_memory_bytes", "accuracy_percent"]})
    assert config.metric_names() == ["latency_ms@pixel3", "peak_memory_bytes", "accuracy_percent"]
    assert config.metric_names("onnx") == ["latency_ms@pixel3", "accuracy_percent"]
    assert config.metrics_for("python") == ["peak_memory_bytes", "accuracy_percent"]
    assert config.metrics_for("onnx") == ["latency_ms@pixel3"]
    with pytest.raises(MetricError, match=r"no metric for 'c' input \(it has for: onnx, python, triton\)"):
        config.metrics_for("c")


# What an encoder's config may not bring along

SMUGGLED = {
    "auto_map": {"AutoModel": "evil--modeling.Evil"},
    "trust_remote_code": True,
    "custom_pipelines": {"x": {"impl": "evil.Pipeline"}},
    "_attn_implementation": "evil/kernels",
    "_attn_implementation_internal": "evil/kernels",
    "attn_implementation": "evil/kernels",
    "experts_implementation": "evil/kernels",
    "name_or_path": "evil/model",
    "_name_or_path": "evil/model",
    "quantization_config": {"quant_method": "evil"},
}


def carriers():
    flat = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **SMUGGLED}
    one_down = {
        "model_type": "t5gemma",
        "encoder": {**SMALL_TRANSFORMER, **SMUGGLED},
        "decoder": {**SMALL_TRANSFORMER, **SMUGGLED},
        "is_encoder_decoder": False,
    }
    deeper = {**flat, "extra": {"inner": {"innermost": dict(SMUGGLED)}}}
    return {"flat": flat, "one level down": one_down, "deep": deeper}


@pytest.mark.parametrize("where", carriers())
def test_when_an_encoder_config_smuggles_code_references_then_none_gets_in(make_config, where, tmp_path):
    config = make_config(encoder=carriers()[where])
    parts = [config.encoder, getattr(config.encoder, "encoder", None) or config.encoder]
    for part in parts:
        assert part._attn_implementation != "evil/kernels"
        assert not getattr(part, "trust_remote_code", False) and not hasattr(part, "auto_map")
    model = RLMForConditionalGeneration(config)
    known = ("sdpa", "eager", ATTENTION)
    assert all(m.config._attn_implementation in known for m in model.modules() if hasattr(m, "config"))
    assert "evil" not in config.to_json_string(use_diff=False) + config.to_json_string() + repr(config)
    config.encoder.auto_map = SMUGGLED["auto_map"]  # set behind the config's back
    config.save_pretrained(tmp_path)
    assert "evil" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("where", carriers())
def test_when_a_saved_config_was_tampered_with_then_loading_drops_it(make_config, where, tmp_path):
    make_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "encoder": carriers()[where]}))
    config = RLMConfig.from_pretrained(tmp_path)
    assert "evil" not in config.to_json_string(use_diff=False) and config.encoder._attn_implementation is None


# Around pretrained encoders


def stock_t5gemma():
    small = dict(SMALL_TRANSFORMER)
    return transformers.T5GemmaForConditionalGeneration(
        transformers.T5GemmaConfig(encoder=small, decoder=dict(small), vocab_size=120)
    )


def stock_t5gemma2():
    small = dict(SMALL_TRANSFORMER)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4}
    encoder = {"text_config": small, "vision_config": vision, "mm_tokens_per_image": 4}
    config = transformers.T5Gemma2Config(encoder=encoder, decoder=dict(small), image_token_index=119)
    return transformers.T5Gemma2ForConditionalGeneration(config)


def stock_t5():
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=120, d_model=32, d_kv=16, d_ff=32, num_layers=2, num_heads=2)
    )


def stock_bert():
    sizes = {k: SMALL_TRANSFORMER[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    return transformers.BertForMaskedLM(transformers.BertConfig(num_hidden_layers=2, **sizes))


def stock_modernbert():
    sizes = {k: SMALL_TRANSFORMER[k] for k in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1}
    config = transformers.ModernBertConfig(num_hidden_layers=2, local_attention=8, **sizes, **tokens)
    return transformers.ModernBertForMaskedLM(config)


STOCK = {"t5gemma": stock_t5gemma, "t5": stock_t5, "bert": stock_bert, "modernbert": stock_modernbert}
if hasattr(transformers, "T5Gemma2Config"):
    STOCK["t5gemma2"] = stock_t5gemma2


@pytest.fixture(scope="module", params=STOCK)
def stock(request, tmp_path_factory):
    """A random model of the library, no weight of it at its initial value, and the folder that it is saved in."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = STOCK[request.param]().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, str(folder)


def text_batch():
    ids = torch.randint(4, 110, (2, 10), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def stock_memory(model, inputs):
    encoder = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    with torch.no_grad():
        return encoder(**inputs).last_hidden_state


def test_when_a_pretrained_encoder_is_taken_then_weights_and_outputs_are_its_own(stock):
    original, folder = stock
    model = RLMForConditionalGeneration.from_encoder_pretrained(folder, **DECODER).eval()
    on_disk = load_file(f"{folder}/model.safetensors")
    for name, weight in model.encoder.named_parameters():
        candidates = [disk for key, disk in on_disk.items() if key.endswith(name) and "decoder.layers" not in key]
        assert any(torch.equal(weight, disk) for disk in candidates), name
    inputs = text_batch()
    keep = inputs["attention_mask"].bool()
    memory = model.encode_memory(**inputs).detach()
    assert torch.allclose(memory[keep], stock_memory(original, inputs)[keep], atol=1e-5)
    assert model.config.encoder_hidden_size == memory.shape[-1] == 32
    kinds = {type(m).__name__ for m in model.encoder.modules()}
    assert not [kind for kind in kinds if "Decoder" in kind or "Vision" in kind or "Pooler" in kind]


def test_when_a_model_around_a_pretrained_encoder_is_saved_then_it_loads_alone(stock, tmp_path):
    _, folder = stock
    model = RLMForConditionalGeneration.from_encoder_pretrained(folder, **DECODER).eval()
    model.save_pretrained(tmp_path)
    again, info = RLMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    inputs = text_batch()
    assert (again.predict(inputs).quantiles == model.predict(inputs).quantiles).all()
    assert folder not in (tmp_path / "config.json").read_text()


def test_when_only_the_config_is_taken_then_the_weights_are_random(stock):
    original, folder = stock
    for source in (folder, original.config):
        config = RLMConfig.from_encoder(source, **DECODER)
        model = RLMForConditionalGeneration(config).eval()
        memory = model.encode_memory(**text_batch())
        assert not torch.allclose(memory, stock_memory(original, text_batch()), atol=1e-2)
        assert config.encoder_hidden_size == 32
    assert original.config.is_encoder_decoder == (config.encoder.model_type.startswith("t5"))


def test_when_the_encoder_was_saved_in_bfloat16_then_the_model_has_one_dtype(stock, tmp_path):
    original, _ = stock
    copy.deepcopy(original).to(torch.bfloat16).save_pretrained(tmp_path)
    for model in (
        RLMForConditionalGeneration(RLMConfig.from_encoder(str(tmp_path), **DECODER)),
        RLMForConditionalGeneration.from_encoder_pretrained(str(tmp_path), **DECODER),
    ):
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        model.predict(text_batch())


def test_when_the_encoder_alone_is_in_bfloat16_then_the_model_answers_and_learns(stock):
    _, folder = stock
    model = RLMForConditionalGeneration.from_encoder_pretrained(folder, dtype=torch.bfloat16, **DECODER)
    assert {p.dtype for p in model.encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.decoder.parameters()} == {torch.float32}
    labels = torch.from_numpy(model.codec.encode([1.5, -30.0]))
    model(**text_batch(), labels=labels).loss.backward()
    assert all(p.grad is not None for p in model.decoder.parameters())
    assert (model.predict(text_batch()).quantiles[..., 0] <= model.predict(text_batch()).quantiles[..., -1]).all()


def test_when_the_encoder_is_frozen_then_it_gets_no_gradient_and_the_decoder_does(stock):
    _, folder = stock
    model = RLMForConditionalGeneration.from_encoder_pretrained(folder, freeze_encoder=True, **DECODER).train()
    assert not model.encoder.training and model.decoder.training
    labels = torch.from_numpy(model.codec.encode([1.5, -30.0]))
    model(**text_batch(), labels=labels).loss.backward()
    assert not [n for n, p in model.encoder.named_parameters() if p.requires_grad or p.grad is not None]
    own = [p for n, p in model.named_parameters() if not n.startswith("encoder.")]
    assert own and all(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
    assert not model.eval().encoder.training and not model.decoder.training


def test_when_weights_of_the_encoder_are_missing_then_the_checkpoint_is_refused(stock, tmp_path):
    original, folder = stock
    original.save_pretrained(tmp_path)
    weights = load_file(f"{folder}/model.safetensors")
    encoder_only = [k for k in weights if "decoder" not in k and "vision" not in k and ("layer" in k or "block" in k)]
    del weights[sorted(encoder_only)[0]]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"does not hold the weights of a .*missing: \["):
        RLMForConditionalGeneration.from_encoder_pretrained(str(tmp_path), **DECODER)
