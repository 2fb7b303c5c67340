"""T5Gemma for numbers: its decoder, as in the paper's full encoder-decoder and its published weights, and a lean attention.

The modules, and so the names and shapes of the weights, are the library's; only the passes over them are written here:

- cross-attention keys and values are projected once per input (`project_memory`) and never copied, neither per head nor per
  sample: rows that share an input stand side by side on its query axis (`pack`)
- rotary self-attention over the number tokens so far, in a sliding window on the layers that have one
- soft-capped attention logits, four norms around each attention and feed-forward, embeddings scaled by sqrt(size)
- number tokens in place of the text vocabulary; the start token is a token like any other. (The library's decoder, when run
  without a cache, takes it for padding and hides it, because both have id 0; `generate` there and here does not.)

The library's plain attention, the only one with soft-capping on a CPU, holds the logits of all queries several times over.
`softcapped_attention` takes the queries a few at a time: the same numbers, 1.8 times as fast at 2,048 tokens on one core.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, T5GemmaPreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.models.t5gemma.modeling_t5gemma import (
    T5GemmaDecoderLayer,
    T5GemmaRMSNorm,
    T5GemmaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from .configuration_rlm import RLMConfig
from .numbers_rlm import NumberCodec


def _heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """`(batch, length, heads * head_dim)` as `(batch, heads, length, head_dim)`."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def softcapped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float = 1.0,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """T5Gemma's attention, a few queries at a time; the heads of a group share the query axis of their key/value head.

    Args:
        module: For the library's interface.
        query: `(batch, heads, queries, head_dim)`.
        key, value: `(batch, kv_heads, length, head_dim)`.
        attention_mask: Broadcastable to `(batch, 1, queries, length)`: bool, True where there is something to see, or added.
        dropout: Of the attention weights.
        scaling, softcap: Logits are `softcap * tanh(scaling * q k / softcap)`; without a cap `scaling * q k`.

    Returns:
        `(batch, queries, heads, head_dim)`, and None for the weights, which are not kept.
    """
    batch, heads, length, head_dim = query.shape
    groups = heads // key.shape[1]
    keys = key.transpose(2, 3)
    step = _QUERIES_AT_ONCE[query.device.type == "cpu"]
    parts = []
    for start in range(0, length, step):
        q = query[:, :, start : start + step]
        count = q.shape[2]
        q = q.reshape(batch, heads // groups, groups * count, head_dim)
        scores = q * scaling @ keys  # exactly the library's where scaling is a power of two, as in the published sizes
        if softcap is not None:
            scores = scores.div_(softcap).tanh_() * softcap
        if attention_mask is not None:
            mask = attention_mask if attention_mask.shape[-2] == 1 else attention_mask[:, :, start : start + step]
            if groups > 1 and mask.shape[-2] > 1:
                mask = mask.repeat(1, 1, groups, 1)
            if mask.dtype == torch.bool:
                scores = scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
            else:
                scores = scores + mask
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        parts.append((F.dropout(weights, dropout) @ value).view(batch, heads, count, head_dim))
    return torch.cat(parts, 2).transpose(1, 2).contiguous(), None


# By whether it is a CPU: few enough for the logits to stay in its cache, many enough to fill an accelerator.
_QUERIES_AT_ONCE = {True: 128, False: 1024}
ATTENTION = "rlm_softcapped"
AttentionInterface.register(ATTENTION, softcapped_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def use_lean_attention(model: T5GemmaPreTrainedModel) -> None:
    """Puts `softcapped_attention` in place of the library's plain attention."""
    if model.config._attn_implementation in (None, "eager"):
        model.config._attn_implementation = ATTENTION


def _attend(
    attention: nn.Module, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """What one of the library's attentions makes of its inputs, projected back to `(batch, queries, size)`."""
    out, _ = softcapped_attention(
        attention,
        queries,
        keys,
        values,
        mask,
        attention.attention_dropout if attention.training else 0.0,
        attention.scaling,
        attention.attn_logit_softcapping,
    )
    return attention.o_proj(out.flatten(2))


class T5GemmaNumberLayer(T5GemmaDecoderLayer):
    """The library's layer, with keys and values given and kept from outside."""

    def forward(
        self,
        hidden: torch.Tensor,
        memory_keys: torch.Tensor,
        memory_values: torch.Tensor,
        memory_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor],
        start: int,
        past: Any = None,
        pack: Any = None,
    ) -> torch.Tensor:
        """One layer over `(batch, length, size)` at places `start, start + 1, ...`; see `T5GemmaNumberDecoder.forward`."""
        attention = self.self_attn
        x = self.pre_self_attn_layernorm(hidden)
        queries, keys, values = (
            _heads(projection(x), attention.head_dim)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        queries, keys = apply_rotary_pos_emb(queries, keys, *rotary)
        if past is not None:
            keys, values = past.update(keys, values, self.layer_idx)
        x = _attend(attention, queries, keys, values, self._self_mask(start, x.shape[1], keys.shape[2], x.device))
        hidden = hidden + self.dropout(self.post_self_attn_layernorm(x))

        attention = self.cross_attn
        x = self.pre_cross_attn_layernorm(hidden)
        x = x if pack is None else pack.pack(x)
        x = _attend(attention, _heads(attention.q_proj(x), attention.head_dim), memory_keys, memory_values, memory_mask)
        x = x if pack is None else pack.unpack(x)
        hidden = hidden + self.dropout(self.post_cross_attn_layernorm(x))

        x = self.mlp(self.pre_feedforward_layernorm(hidden))
        return hidden + self.dropout(self.post_feedforward_layernorm(x))

    def _self_mask(self, start: int, length: int, kept: int, device: torch.device) -> torch.Tensor | None:
        """What each new place sees of the last `kept` places, bool `(1, 1, length, kept)`; None for everything."""
        window = self.self_attn.sliding_window
        if length == 1 and (window is None or kept <= window):
            return None
        end = start + length
        distance = torch.arange(start, end, device=device)[:, None] - torch.arange(end - kept, end, device=device)
        seen = distance >= 0
        return (seen if window is None else seen & (distance < window))[None, None]


class T5GemmaNumberDecoder(T5GemmaPreTrainedModel):
    """Number tokens in, hidden states out, by T5Gemma's decoder; used in place of `modeling_rlm.RLMDecoder`."""

    _no_split_modules = ("T5GemmaNumberLayer",)

    def __init__(self, config: RLMConfig, codec: NumberCodec):
        own = copy.deepcopy(config.library_decoder)
        # The start token has the padding's id; without an index of padding its embedding is trained.
        own.vocab_size, own.pad_token_id, own.tie_word_embeddings = codec.vocab_size, None, False
        super().__init__(own)
        self.embed_tokens = nn.Embedding(own.vocab_size, own.hidden_size)
        self.layers = nn.ModuleList([T5GemmaNumberLayer(own, index) for index in range(own.num_hidden_layers)])
        self.norm = T5GemmaRMSNorm(own.hidden_size, eps=own.rms_norm_eps)
        self.rotary_emb = T5GemmaRotaryEmbedding(own)
        self.dropout = nn.Dropout(own.dropout_rate)
        self.post_init()

    def project_memory(self, memory: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cross-attention keys and values of every layer, each `(batch, kv_heads, length, head_dim)`."""
        return [
            tuple(_heads(projection(memory), a.head_dim) for projection in (a.k_proj, a.v_proj))
            for a in (layer.cross_attn for layer in self.layers)
        ]

    def forward(
        self,
        tokens: torch.Tensor,
        memory: list[tuple[torch.Tensor, torch.Tensor]],
        memory_mask: torch.Tensor | None,
        *,
        start: int = 0,
        past: Any = None,
        pack: Any = None,
    ) -> torch.Tensor:
        """Hidden states `(batch, length, size)` of tokens `(batch, length)`; arguments as in `RLMDecoder.forward`."""
        hidden = self.embed_tokens(tokens)
        hidden = self.dropout(hidden * torch.tensor(self.config.hidden_size**0.5, dtype=hidden.dtype))
        places = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        rotary = self.rotary_emb(hidden, places[None])
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None, :].bool()
        for layer, (keys, values) in zip(self.layers, memory, strict=True):
            hidden = layer(hidden, keys, values, memory_mask, rotary, start, past=past, pack=pack)
        return self.dropout(self.norm(hidden))


__all__ = ["ATTENTION", "T5GemmaNumberDecoder", "softcapped_attention", "use_lean_attention"]
