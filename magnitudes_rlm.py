"""Numbers in the input: runs of digit tokens read as one number, and how large it is, told to the encoder.

A tokenizer that reads digits one by one leaves it to the encoder to count them before it knows a size. `MagnitudeEmbedding`
adds the size to the embedding of every digit of a number, as xVal does for numbers that are one token (arXiv 2310.02989).
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

LONGEST_NUMBER = 15  # digits; beyond, a float64 holds no more
# Where the hat functions stand, in decades of 1 + number: between two of them a size is interpolated.
KNOTS_PER_DECADE = 4
DECADES = 10


def read_numbers(
    ids: torch.Tensor, where: torch.Tensor, digit_tokens: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reads runs of digits as numbers.

    Args:
        ids: Tokens `(batch, length)`.
        where: Which of them to read, bool `(batch, length)`.
        digit_tokens: The tokens of the digits 0 to 9.

    Returns:
        Which tokens are digits and where a run of them begins, bool `(batch, length)`; the number at its beginning, of the
        first `LONGEST_NUMBER` digits, and 0 elsewhere, float64 `(batch, length)`.
    """
    device = ids.device
    values = torch.full((max(int(ids.max()), *digit_tokens) + 1,), -1, device=device)
    values[torch.tensor(digit_tokens, device=device)] = torch.arange(10, device=device)
    digits = torch.where(where, values[ids], -1)
    begins = (digits >= 0) & F.pad(digits[:, :-1] < 0, (1, 0), value=True)
    number, running = torch.zeros_like(digits, dtype=torch.float64), begins
    for k in range(min(LONGEST_NUMBER, ids.shape[1])):
        ahead = F.pad(digits[:, k:], (0, k), value=-1)
        running = running & (ahead >= 0)
        number = torch.where(running, number * 10 + ahead, number)
    return digits >= 0, begins, number


class MagnitudeEmbedding(nn.Module):
    """Adds to the embeddings of a number's digits what depends on its size. Begins as zero: the encoder stays what it was.

    Args:
        digit_tokens: The tokens of the digits 0 to 9.
        hidden_size: Width of the embeddings.
    """

    def __init__(self, digit_tokens: Sequence[int], hidden_size: int):
        super().__init__()
        self.digit_tokens = tuple(digit_tokens)
        self.weight = nn.Parameter(torch.zeros(DECADES * KNOTS_PER_DECADE + 1, hidden_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What is added, `(batch, length, hidden size)`; nothing for tokens that are no digit."""
        digit, begins, number = read_numbers(input_ids, torch.ones_like(input_ids, dtype=torch.bool), self.digit_tokens)
        places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        size = (number + 1).log10().gather(1, torch.where(begins, places, 0).cummax(1).values)
        at = (size * KNOTS_PER_DECADE).clamp_max(len(self.weight) - 1).float()
        below = at.floor().long().clamp_max(len(self.weight) - 2)
        share = (at - below)[..., None].to(self.weight.dtype)
        added = torch.lerp(F.embedding(below, self.weight), F.embedding(below + 1, self.weight), share)
        return added * digit[..., None]


__all__ = ["MagnitudeEmbedding", "read_numbers"]
