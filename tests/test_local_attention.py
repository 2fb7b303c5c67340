"""Attention in a window: the library's numbers, at a cost that grows with the length."""

from __future__ import annotations

import pytest
import torch
from transformers import ModernBertConfig, ModernBertModel

from code_rlm.local_attention_rlm import ATTENTION, banded_attention, use_local_attention
from code_rlm.modeling_rlm import RLMForConditionalGeneration

SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "local_attention": 24, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1, "cls_token_id": None,
    "sep_token_id": None, "initializer_range": 0.3,
}  # fmt: skip


def encoder(layers: list[str], positions: int = 32768) -> ModernBertModel:
    torch.manual_seed(0)
    config = ModernBertConfig(**SIZES, layer_types=layers, max_position_embeddings=positions)
    return ModernBertModel._from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("length", [5, 64, 130, 333])
@pytest.mark.parametrize("full", [False, True], ids=["windows", "mixed"])
def test_when_attention_is_local_then_states_are_those_of_the_library(length, full):
    model = encoder(["sliding_attention", "full_attention" if full else "sliding_attention", "sliding_attention"])
    ids = torch.randint(5, 300, (3, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    mask[2, 1:] = 0
    for given in (mask, torch.ones_like(ids), None):
        with torch.no_grad():
            expected = model(input_ids=ids, attention_mask=given).last_hidden_state
            use_local_attention(model)
            assert model.config._attn_implementation == ATTENTION
            found = model(input_ids=ids, attention_mask=given).last_hidden_state
            model.config._attn_implementation = "sdpa"
        kept = torch.ones_like(ids, dtype=torch.bool) if given is None else given.bool()
        assert torch.allclose(found[kept], expected[kept], atol=1e-4, rtol=1e-4)
        assert found.isfinite().all()


def test_when_the_length_doubles_then_the_work_of_a_window_doubles(monkeypatch):
    pairs: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def counting(query, key, value, *others, **options):
        pairs.append(query.shape[:-1].numel() * key.shape[-2])
        return plain(query, key, value, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    for length in (4096, 8192):
        x = torch.randn(1, 2, length, 8)
        banded_attention(torch.nn.Identity(), x, x, x, None, sliding_window=65)
        banded_attention(torch.nn.Identity(), x, x, x, None, sliding_window=None)
    windows, everything = pairs[::2], pairs[1::2]
    assert windows[1] == 2 * windows[0] == 2 * 2 * 4096 * 192 and everything[1] == 4 * everything[0]


def test_when_gradients_flow_through_windows_then_they_are_those_of_full_attention_under_a_mask():
    torch.manual_seed(0)
    parts = [torch.randn(2, 2, 150, 8, requires_grad=True) for _ in range(3)]
    near = (torch.arange(150)[:, None] - torch.arange(150)).abs() < 13
    expected = torch.nn.functional.scaled_dot_product_attention(*parts, near).transpose(1, 2)
    found, _ = banded_attention(torch.nn.Identity(), *parts, None, sliding_window=13)
    assert torch.allclose(found, expected, atol=1e-5)
    one, other = (torch.autograd.grad(answer.square().sum(), parts) for answer in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True))


def test_when_a_model_reads_long_inputs_then_its_encoder_attends_locally_and_short_ones_as_before(make_config):
    long = make_config(
        encoder={
            **SIZES,
            "model_type": "modernbert",
            "max_position_embeddings": 32768,
            "layer_types": ["sliding_attention"] * 3,
        },
        max_input_tokens=32768,
    )
    model = RLMForConditionalGeneration(long).eval()
    assert model.encoder.config._attn_implementation == ATTENTION
    ids = torch.randint(5, 300, (1, 32768), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert model.encode_memory(ids, torch.ones_like(ids)).shape[1] == 32768
    assert RLMForConditionalGeneration(make_config()).encoder.config._attn_implementation != ATTENTION
