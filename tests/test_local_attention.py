"""Attention in a window: the library's numbers, at a cost that grows with the length."""

from __future__ import annotations

import pytest
import torch
from transformers import ModernBertConfig, ModernBertModel

from code_rlm.local_attention_rlm import ATTENTION, _blocks, _slices, banded_attention, is_long, use_local_attention
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


@pytest.mark.parametrize("attend", [_slices, _blocks])
def test_when_the_length_doubles_then_the_work_of_a_window_doubles(attend, monkeypatch):
    pairs: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def counting(query, key, value, *others, **options):
        pairs.append(query.shape[:-1].numel() * key.shape[-2])
        return plain(query, key, value, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    work = []
    for length in (4096, 8192):
        pairs.clear()
        x = torch.randn(1, 2, length, 8)
        attend(x, x, x, None, 65, {})
        work.append(sum(pairs))
        pairs.clear()
        banded_attention(torch.nn.Identity(), x, x, x, None, sliding_window=None)
        assert pairs == [2 * length * length]
    blocks = 8192 // 64
    assert work[1] - work[0] == 2 * 4096 * 192 and work[1] <= 2 * blocks * 64 * 192


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [3, 63, 64, 65, 200])
def test_when_blocks_are_attended_one_by_one_then_the_answers_are_those_of_all_at_once(length, padded):
    torch.manual_seed(0)
    parts = [torch.randn(2, 2, length, 8) for _ in range(3)]
    seen = torch.ones(2, length, dtype=torch.bool)
    seen[1, length // 2 :] = False
    given = seen if padded else None
    one, other = (attend(*parts, given, 13, {}) for attend in (_slices, _blocks))
    assert torch.allclose(one[seen], other[seen], atol=1e-5)
    assert one.isfinite().all() and other.isfinite().all()


def test_when_a_short_encoder_is_trained_then_it_attends_under_the_librarys_mask_and_reads_in_blocks(monkeypatch):
    model = encoder(["sliding_attention"] * 3, positions=512)
    use_local_attention(model)
    calls: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def counting(query, *others, **options):
        calls.append(query.shape[2])
        return plain(query, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    ids = torch.randint(5, 300, (1, 130), generator=torch.Generator().manual_seed(1))
    trained = model(input_ids=ids).last_hidden_state
    assert calls == [130] * 3
    calls.clear()
    with torch.no_grad():
        read = model(input_ids=ids).last_hidden_state
    assert calls == [64, 64, 2] * 3
    assert torch.allclose(read, trained, atol=1e-4, rtol=1e-4)


def test_when_gradients_flow_through_windows_then_they_are_those_of_full_attention_under_a_mask():
    torch.manual_seed(0)
    parts = [torch.randn(2, 2, 150, 8, requires_grad=True) for _ in range(3)]
    near = (torch.arange(150)[:, None] - torch.arange(150)).abs() < 13
    expected = torch.nn.functional.scaled_dot_product_attention(*parts, near).transpose(1, 2)
    found, _ = banded_attention(torch.nn.Identity(), *parts, None, sliding_window=13)
    assert torch.allclose(found, expected, atol=1e-5)
    one, other = (torch.autograd.grad(answer.square().sum(), parts) for answer in (found, expected))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(one, other, strict=True))


def test_when_a_model_reads_long_inputs_then_its_encoder_is_trained_with_blocks_and_a_short_one_is_not(make_config):
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
    assert is_long(model.encoder.config)
    assert not is_long(RLMForConditionalGeneration(make_config()).encoder.config)
