"""Attention in a window at a cost that grows with the length, not with its square: for encoders of long inputs.

The library computes a sliding window as full attention under a mask. On layers with a window `banded_attention` cuts the text
into blocks as wide as the window's half; each block of queries sees its own block of keys and its two neighbours, which hold
all that its window does (Beltagy et al. 2020, arXiv 2004.05150). Layers without a window attend to everything, as before.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask

ATTENTION = "rlm_banded"
# Blocks narrower than this keep the processor waiting.
_LEAST_BLOCK = 64
# Up to so many positions the library's attention is kept, bit by bit as checkpoints were trained.
_SHORT = 8192


def _padded(x: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Zeros before and after the positions of `(batch, heads, length, head_dim)`."""
    return F.pad(x, (0, 0, before, after))


def banded_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention to everything, or with a window to the positions that are nearer than it.

    Args:
        module: For the library's interface.
        query, key, value: `(batch, heads, length, head_dim)`.
        attention_mask: `(batch, length)`, 0 or False at padding; None where there is none.
        dropout: Of the attention weights.
        scaling: Of the logits; None for the square root of `head_dim`.
        sliding_window: Positions at this distance and farther are not seen; None for all.

    Returns:
        `(batch, length, heads, head_dim)`, and None for the weights, which are not kept.
    """
    batch, heads, length, head_dim = query.shape
    seen = torch.ones(batch, length, dtype=torch.bool, device=query.device)
    if attention_mask is not None:
        seen = attention_mask.bool()
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling}
    if sliding_window is None:
        mask = None if attention_mask is None else seen[:, None, None]
        return F.scaled_dot_product_attention(query, key, value, mask, **options).transpose(1, 2), None
    block = max(sliding_window - 1, _LEAST_BLOCK)
    count = -(-length // block)
    after = count * block - length
    queries = _padded(query, 0, after).view(batch, heads, count, block, head_dim)

    def neighbours(x: torch.Tensor) -> torch.Tensor:
        """Three blocks around each, `(batch, heads, blocks, 3 * block, head_dim)`."""
        return _padded(x, block, after + block).unfold(2, 3 * block, block).transpose(3, 4)

    positions = torch.arange(3 * block, device=query.device)
    near = (positions[:block, None] + block - positions).abs() < sliding_window
    valid = F.pad(seen, (block, after + block)).unfold(1, 3 * block, block)
    mask = near & valid[:, :, None]
    # A query that sees nothing is padding; its answer is not used and must be a number.
    mask = mask | ~mask.any(-1, keepdim=True)
    answer = F.scaled_dot_product_attention(
        queries.transpose(1, 2).flatten(0, 1),
        neighbours(key).transpose(1, 2).flatten(0, 1),
        neighbours(value).transpose(1, 2).flatten(0, 1),
        mask.flatten(0, 1)[:, None],
        **options,
    )
    answer = answer.view(batch, count, heads, block, head_dim).transpose(2, 3).flatten(1, 2)
    return answer[:, :length], None


AttentionInterface.register(ATTENTION, banded_attention)
AttentionMaskInterface.register(ATTENTION, flash_attention_mask)


def use_local_attention(model: PreTrainedModel) -> None:
    """Puts `banded_attention` in place of the library's, in ModernBERT encoders for more than 8,192 positions."""
    config = model.config
    if config.model_type != "modernbert" or config.max_position_embeddings <= _SHORT:
        return
    if config._attn_implementation in (None, "eager", "sdpa"):
        config._attn_implementation = ATTENTION


__all__ = ["ATTENTION", "banded_attention", "use_local_attention"]
