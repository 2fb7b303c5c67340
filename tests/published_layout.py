"""Random checkpoints in the layout of the paper's published ones, made from the library's own T5Gemma."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import T5GemmaConfig, T5GemmaForConditionalGeneration

# T5Gemma S-S, the published size: 181,458,944 parameters with 13 number tokens.
SMALL = {
    "vocab_size": 256000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 8, "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 4096,
}  # fmt: skip
# Windows narrower than the inputs, grouped heads, and weights wide enough for a random model to have opinions.
TINY = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6, "initializer_range": 0.3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
IEEE = {"decoder_tokenizer": "IEEE", "ieee_base": 10, "ieee_exponent_digits": 2, "ieee_mantissa_digits": 5,
        "decoder_vocab_size": 13, "num_tokens_per_obj": 9}  # fmt: skip
P10 = {"decoder_tokenizer": "P10", "num_digits": 6, "exponent_range": 10, "decoder_vocab_size": 34,
       "num_tokens_per_obj": 8}  # fmt: skip


def text_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """A tokenizer of the published one's kind: byte-fallback BPE, spaces as a letter, line breaks as tokens, `<bos>` first."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    breaks = ["\n" * n for n in range(1, 6)]
    lines = [line for text in texts for line in text.split("\n")]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(breaks), special_tokens=[*special, *alphabet], show_progress=False
    )
    backend.train_from_iterator(lines, trainer)
    content = json.loads(backend.to_str())  # bytes are letters of the vocabulary, not special tokens
    content["added_tokens"] = content["added_tokens"][: len(special)]
    backend = Tokenizer.from_str(json.dumps(content))
    backend.add_tokens([AddedToken(b, normalized=False, special=False) for b in breaks])
    bos = backend.token_to_id("<bos>")
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    return backend


def stock_model(sizes: dict[str, Any], numbers: dict[str, Any], seed: int = 0, **config: Any) -> Any:
    """The library's model with the numeric vocabulary put in, as the published code does."""
    half = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, **sizes}
    stock_config = T5GemmaConfig(
        encoder=dict(half), decoder=dict(half), vocab_size=sizes["vocab_size"], tie_word_embeddings=False, **config
    )
    size, vocabulary = sizes["hidden_size"], numbers["decoder_vocab_size"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = T5GemmaForConditionalGeneration(stock_config).eval()
        model.model.decoder.embed_tokens = nn.Embedding(vocabulary, size, padding_idx=0)
        model.lm_head.out_proj = nn.Linear(size, vocabulary, bias=False)
        for name, weight in model.named_parameters():
            if "norm" in name or vocabulary in weight.shape:
                nn.init.normal_(weight, std=0.3)
    model.register_buffer("final_logits_bias", torch.zeros((1, vocabulary)))
    return model


def backbone_config(config: T5GemmaConfig) -> dict[str, Any]:
    """The config as transformers 4.53 wrote it: rotary base in a field of its own, everything spelled out."""
    content = json.loads(config.to_json_string(use_diff=False))
    for part in (content, content["encoder"], content["decoder"]):
        part.pop("rope_parameters", None)
        part.update(
            torch_dtype=None, num_beams=1, top_k=50, torchscript=False, pruned_heads={}, transformers_version="4.53.2"
        )
    for part in (content["encoder"], content["decoder"]):
        part["rope_theta"] = 10000.0
    return content


def write(
    folder: Path,
    model: Any,
    tokenizer: Tokenizer,
    numbers: dict[str, Any],
    *,
    shards: int = 1,
    head: Any = None,
    **changes,
) -> Path:
    """Writes a checkpoint as published; `changes` go to config.json, `head` is a regression head's Linear."""
    (folder / "encoder_tokenizer").mkdir(parents=True)
    config = {
        "model_type": "regresslm", "architectures": ["RegressLMForConditionalGeneration"],
        "auto_map": {"AutoModelForSeq2SeqLM": "modeling_regresslm.RegressLMForConditionalGeneration"},
        "backbone_model_name": "google/t5gemma-s-s-prefixlm", "backbone_config": backbone_config(model.config),
        "encoder_vocab_size": model.config.encoder.vocab_size, "max_num_objs": 1, "use_regression_head": head is not None,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0, "is_encoder_decoder": True,
        **numbers, **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_regresslm.py").write_text("raise SystemExit('ran code from a checkpoint')\n")
    weights = {f"model.{name}": weight.contiguous() for name, weight in model.state_dict().items()}
    if head is not None:
        weights |= {f"regression_head.{name}": weight for name, weight in head.state_dict().items()}
    names = sorted(weights)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        files = {name: f"model-{index % shards + 1:05}-of-{shards:05}.safetensors" for index, name in enumerate(names)}
        for file in set(files.values()):
            save_file({n: weights[n] for n in names if files[n] == file}, folder / file, metadata={"format": "pt"})
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    tokenizer.save(str(folder / "encoder_tokenizer" / "tokenizer.json"))
    said = {"add_bos_token": True, "add_eos_token": False, "pad_token": "<pad>", "bos_token": {"content": "<bos>"},
            "eos_token": "<eos>", "unk_token": "<unk>", "tokenizer_class": "GemmaTokenizer"}  # fmt: skip
    (folder / "encoder_tokenizer" / "tokenizer_config.json").write_text(json.dumps(said))
    return folder
