"""The decoders that write numbers, and the embeddings of numbers in the input.

`RLMDecoder` is small: pre-norm, RMSNorm, learned positions, gated feed-forward, cross-attention with grouped key/value heads.
`T5GemmaNumberDecoder` is T5Gemma's behind the same interface (`project_memory` once per input, then `forward`), as in the
paper's full encoder-decoder and its published weights. The modules, and so the names and shapes of the weights, are the
library's; only the passes over them are written here:

- cross-attention keys and values are projected once per input (`project_memory`) and never copied, neither per head nor per
  sample: rows that share an input stand side by side on its query axis (`layout`)
- rotary self-attention over the number tokens so far, in a sliding window on the layers that have one
- soft-capped attention logits, four norms around each attention and feed-forward, embeddings scaled by sqrt(size)
- number tokens in place of the text vocabulary; the start token is a token like any other. (The library's decoder, when run
  without a cache, takes it for padding and hides it, because both have id 0; `generate` there and here does not.)

The library's plain attention, the only one with soft-capping on a CPU, holds the logits of all queries several times over.
`softcapped_attention` takes the queries a few at a time: the same numbers, 1.8 times as fast at 2,048 tokens on one core.

`NumberEmbedding` adds the size of numbers to the embeddings that the encoder starts from. A tokenizer that reads digits one by
one leaves it to the encoder to count them before it knows a size, and to look up what `n` was where it meets `[0] * n`. As in
xVal (arXiv 2310.02989), where a number is one token.
"""

import copy
from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, T5GemmaPreTrainedModel
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.t5gemma.modeling_t5gemma import (
    T5GemmaCrossAttention,
    T5GemmaDecoderLayer,
    T5GemmaRMSNorm,
    T5GemmaRotaryEmbedding,
    T5GemmaSelfAttention,
    apply_rotary_pos_emb,
)

from .configuration_rlm import RLMConfig
from .features_rlm import NumberReader, read_numbers
from .numbers_rlm import NumberCodec

# Where the hat functions stand, in decades of 1 + number: between two of them a size is interpolated.
KNOTS_PER_DECADE = 4
DECADES = 10


# ---------------------------------------------------------------------------------------------------- the small decoder


class RLMAttention(nn.Module):
    """Attention with grouped key/value heads. Keys and values come from `project`, so that callers decide when."""

    def __init__(self, query_size: int, memory_size: int, num_heads: int, num_key_value_heads: int):
        super().__init__()
        self.head_dim = query_size // num_heads
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads
        self.q_proj = nn.Linear(query_size, query_size, bias=False)
        self.k_proj = nn.Linear(memory_size, num_key_value_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(memory_size, num_key_value_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(query_size, query_size, bias=False)

    def project(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, each `(batch, kv_heads, length, head_dim)`, of a memory `(batch, length, memory_size)`."""
        shape = (*memory.shape[:2], self.num_key_value_heads, self.head_dim)
        return self.k_proj(memory).view(shape).transpose(1, 2), self.v_proj(memory).view(shape).transpose(1, 2)

    def forward(
        self, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, dropout: float
    ) -> torch.Tensor:
        """Attends from `(batch, queries, size)` to keys and values; the heads of a group share the query axis."""
        batch, queries, size = hidden.shape
        groups = self.num_heads // self.num_key_value_heads
        q = self.q_proj(hidden).view(batch, queries, self.num_key_value_heads, groups, self.head_dim)
        q = q.permute(0, 2, 3, 1, 4).reshape(batch, self.num_key_value_heads, groups * queries, self.head_dim)
        if mask is not None and groups > 1 and mask.shape[-2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
        out = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, dropout_p=dropout if self.training else 0.0
        )
        out = out.view(batch, self.num_key_value_heads, groups, queries, self.head_dim).permute(0, 3, 1, 2, 4)
        return self.o_proj(out.reshape(batch, queries, size))


class RLMDecoderLayer(GradientCheckpointingLayer):
    """Self-attention over the digits so far, cross-attention to the memory, gated feed-forward; norms come first."""

    def __init__(self, config: RLMConfig):
        super().__init__()
        size, heads = config.decoder_hidden_size, config.decoder_num_attention_heads
        self.self_attn = RLMAttention(size, size, heads, heads)
        self.cross_attn = RLMAttention(size, config.encoder_hidden_size, heads, config.decoder_num_key_value_heads)
        self.gate_proj = nn.Linear(size, config.decoder_intermediate_size, bias=False)
        self.up_proj = nn.Linear(size, config.decoder_intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.decoder_intermediate_size, size, bias=False)
        self.self_attn_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.cross_attn_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.mlp_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        self.dropout = config.decoder_dropout

    def forward(
        self,
        hidden: torch.Tensor,
        memory_keys: torch.Tensor,
        memory_values: torch.Tensor,
        memory_mask: torch.Tensor | None,
        self_mask: torch.Tensor | None,
        past: Any = None,
        index: int = 0,
        layout: Any = None,
    ) -> torch.Tensor:
        """One layer over `(batch, length, size)`.

        `past` gives and keeps the keys and values of earlier positions (`update(keys, values, index)`). `layout`
        (`digit_tree_rlm.QueryLayout`), if any, puts rows that share an input on that input's query axis and takes them back, so
        that memory is never copied.
        """
        x = self.self_attn_norm(hidden)
        keys, values = self.self_attn.project(x)
        if past is not None:
            keys, values = past.update(keys, values, index)
        hidden = hidden + self._drop(self.self_attn(x, keys, values, self_mask, self.dropout))
        x = self.cross_attn_norm(hidden)
        if layout is None:
            x = self.cross_attn(x, memory_keys, memory_values, memory_mask, self.dropout)
        else:
            queries = layout.to_queries(x)
            x = layout.to_nodes(self.cross_attn(queries, memory_keys, memory_values, memory_mask, self.dropout))
        hidden = hidden + self._drop(x)
        x = self.mlp_norm(hidden)
        return hidden + self._drop(self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))

    def _drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class RLMDecoder(nn.Module):
    """Number tokens in, hidden states out; positions are learned, one per place in the answer."""

    def __init__(self, config: RLMConfig, codec: NumberCodec):
        super().__init__()
        self.embed_tokens = nn.Embedding(codec.vocab_size, config.decoder_hidden_size)
        self.embed_positions = nn.Embedding(config.max_objectives * codec.length + 1, config.decoder_hidden_size)
        self.layers = nn.ModuleList([RLMDecoderLayer(config) for _ in range(config.decoder_num_layers)])
        self.norm = nn.RMSNorm(config.decoder_hidden_size, eps=config.rms_norm_eps)

    def project_memory(self, memory: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Cross-attention keys and values of every layer, computed once per input."""
        layers = cast("Iterable[RLMDecoderLayer]", self.layers)
        return [layer.cross_attn.project(memory) for layer in layers]

    def forward(
        self,
        tokens: torch.Tensor,
        memory: list[tuple[torch.Tensor, torch.Tensor]],
        memory_mask: torch.Tensor | None,
        *,
        start: int = 0,
        past: Any = None,
        layout: Any = None,
    ) -> torch.Tensor:
        """Hidden states `(batch, length, size)` of tokens `(batch, length)` at positions `start, start + 1, ...`.

        Args:
            memory: Keys and values by layer, see `project_memory`.
            memory_mask: bool `(batch, memory length)`, None when nothing is padded.
            start: Place of the first token.
            past: Keys and values of the positions before `start`, kept by `update`.
            layout: Puts several rows of tokens on one row of memory.
        """
        length = tokens.shape[1]
        positions = torch.arange(start, start + length, device=tokens.device)
        hidden = self.embed_tokens(tokens) + self.embed_positions(positions)
        self_mask = None
        if length > 1:
            self_mask = torch.arange(start + length, device=tokens.device) <= positions[:, None]
            self_mask = self_mask[None, None]
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None, :].bool()
        for index, (layer, (keys, values)) in enumerate(zip(self.layers, memory, strict=True)):
            hidden = layer(hidden, keys, values, memory_mask, self_mask, past=past, index=index, layout=layout)
        return self.norm(hidden)


class RLMNumberHead(nn.Linear):
    """Logits over the numeric vocabulary `(..., vocabulary)`, soft-capped where the decoder's family does that."""

    def __init__(self, size: int, vocab_size: int, softcap: float | None = None):
        super().__init__(size, vocab_size, bias=False)
        self.softcap = softcap

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states `(..., size)`."""
        logits = super().forward(hidden)
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


# ---------------------------------------------------------------------------------------------------- T5Gemma's


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


# Rows below which oneDNN's set-up costs more than its kernels save.
_LEAST_ROWS = 4
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class LeanLinear(nn.Linear):
    """A linear layer that multiplies by oneDNN where PyTorch would call MKL: without gradients, in float32, on a CPU.

    MKL keeps processors of other makers than its own to AVX2. With AVX-512 oneDNN is 2.1 times as fast there, to the same
    rounding errors.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Returns `(..., out_features)` of `(..., in_features)`."""
        if not self._takes_onednn(hidden):
            return super().forward(hidden)
        return torch.ops.mkldnn._linear_pointwise(hidden, self.weight, self.bias, "none", [], "")

    def _takes_onednn(self, hidden: torch.Tensor) -> bool:
        """Whether oneDNN gives the same product, and sooner."""
        plain = (
            hidden.dtype == self.weight.dtype == torch.float32
            and hidden.device.type == self.weight.device.type == "cpu"
            and type(hidden) is torch.Tensor
        )
        if not plain or hidden.numel() < _LEAST_ROWS * self.in_features:
            return False
        return (
            _HAS_ONEDNN
            and bool(torch.backends.mkldnn.enabled)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
        )


def use_lean_linear(model: nn.Module) -> None:
    """Makes the plain linear layers of a model `LeanLinear`; their weights stay what they are."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = LeanLinear


def use_lean_attention(model: T5GemmaPreTrainedModel) -> None:
    """Puts `softcapped_attention` in place of the library's plain attention."""
    if model.config._attn_implementation in (None, "eager"):
        model.config._attn_implementation = ATTENTION


def _attend(
    attention: T5GemmaSelfAttention | T5GemmaCrossAttention,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """What one of the library's attentions makes of its inputs, projected back to `(batch, queries, size)`."""
    out, _ = softcapped_attention(
        attention,
        queries,
        keys,
        values,
        mask,
        (attention.attention_dropout or 0.0) if attention.training else 0.0,
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
        layout: Any = None,
    ) -> torch.Tensor:
        """One layer over `(batch, length, size)` at positions `start, start + 1, ...`; see `T5GemmaNumberDecoder.forward`."""
        attention: T5GemmaSelfAttention | T5GemmaCrossAttention = self.self_attn
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
        x = x if layout is None else layout.to_queries(x)
        x = _attend(attention, _heads(attention.q_proj(x), attention.head_dim), memory_keys, memory_values, memory_mask)
        x = x if layout is None else layout.to_nodes(x)
        hidden = hidden + self.dropout(self.post_cross_attn_layernorm(x))

        x = self.mlp(self.pre_feedforward_layernorm(hidden))
        return hidden + self.dropout(self.post_feedforward_layernorm(x))

    def _self_mask(self, start: int, length: int, kept: int, device: torch.device) -> torch.Tensor | None:
        """What each new place sees of the last `kept` positions, bool `(1, 1, length, kept)`; None for everything."""
        window = self.self_attn.sliding_window
        if length == 1 and (window is None or kept <= window):
            return None
        end = start + length
        distance = torch.arange(start, end, device=device)[:, None] - torch.arange(end - kept, end, device=device)
        seen = distance >= 0
        return (seen if window is None else seen & (distance < window))[None, None]


class T5GemmaNumberDecoder(T5GemmaPreTrainedModel):
    """Number tokens in, hidden states out, by T5Gemma's decoder; used in place of `modeling_rlm.RLMDecoder`."""

    _no_split_modules = ["T5GemmaNumberLayer"]  # noqa: RUF012 - an instance variable in the library

    def __init__(self, config: RLMConfig, codec: NumberCodec):
        own = copy.deepcopy(config.decoder.decoder)
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
        layers = cast("Iterable[T5GemmaNumberLayer]", self.layers)
        attentions = [layer.cross_attn for layer in layers]
        return [(_heads(a.k_proj(memory), a.head_dim), _heads(a.v_proj(memory), a.head_dim)) for a in attentions]

    def forward(
        self,
        tokens: torch.Tensor,
        memory: list[tuple[torch.Tensor, torch.Tensor]],
        memory_mask: torch.Tensor | None,
        *,
        start: int = 0,
        past: Any = None,
        layout: Any = None,
    ) -> torch.Tensor:
        """Hidden states `(batch, length, size)` of tokens `(batch, length)`; arguments as in `RLMDecoder.forward`."""
        hidden = self.embed_tokens(tokens)
        hidden = self.dropout(hidden * torch.tensor(self.config.hidden_size**0.5, dtype=hidden.dtype))
        positions = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        rotary = self.rotary_emb(hidden, positions[None])
        if memory_mask is not None:
            memory_mask = memory_mask[:, None, None, :].bool()
        for layer, (keys, values) in zip(self.layers, memory, strict=True):
            hidden = layer(hidden, keys, values, memory_mask, rotary, start, past=past, layout=layout)
        return self.dropout(self.norm(hidden))


# ---------------------------------------------------------------------------------------------------- numbers in the input


class NumberEmbedding(NumberReader):
    """Adds to the embeddings what depends on the size of numbers. Begins as zero: the encoder stays what it was.

    Args:
        vocab_size: Tokens that the encoder knows.
        hidden_size: Width of the embeddings.

    Attributes:
        digits: The digit that each token is, `(vocabulary,)`, -1 for none.
        literals, names: What is added at each knot, `(knots, hidden size)`, to digits and to names.
    """

    digits: torch.Tensor

    def __init__(self, vocab_size: int, hidden_size: int):
        super().__init__(vocab_size)
        knots = DECADES * KNOTS_PER_DECADE + 1
        self.literals = nn.Parameter(torch.zeros(knots, hidden_size))
        self.names = nn.Parameter(torch.zeros(knots, hidden_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What is added, `(batch, length, hidden size)`; nothing for tokens that are neither a digit nor of a bound name."""
        digits = self.digits[input_ids].long()
        begins, number = read_numbers(digits)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        literal = number.gather(1, torch.where(begins, positions, 0).cummax(1).values)
        bound, _, named = self.bound_names(input_ids, begins, number)
        added = self._at(self.literals, literal) * (digits >= 0)[..., None]
        return added + self._at(self.names, named) * bound[..., None]

    @staticmethod
    def _at(table: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """The table interpolated at the sizes of numbers, `(batch, length, hidden size)`."""
        at = ((number + 1).log10() * KNOTS_PER_DECADE).clamp_max(len(table) - 1).float()
        below = at.floor().long().clamp_max(len(table) - 2)
        share = (at - below)[..., None].to(table.dtype)
        return torch.lerp(F.embedding(below, table), F.embedding(below + 1, table), share)


__all__ = [
    "ATTENTION",
    "KNOTS_PER_DECADE",
    "LeanLinear",
    "NumberEmbedding",
    "RLMAttention",
    "RLMDecoder",
    "RLMDecoderLayer",
    "RLMNumberHead",
    "T5GemmaNumberDecoder",
    "softcapped_attention",
    "use_lean_attention",
    "use_lean_linear",
]
