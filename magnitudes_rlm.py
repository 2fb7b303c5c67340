"""Numbers in the input: runs of digit tokens read as one number, and how large it is, told to the encoder.

A tokenizer that reads digits one by one leaves it to the encoder to count them before it knows a size, and to look up what
`n` was where it meets `[0] * n`. `MagnitudeEmbedding` adds the size of a number to the embeddings of its digits, as xVal does
for numbers that are one token (arXiv 2310.02989), and to those of every name that is bound to a number anywhere in the text.
"""

import re
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

LONGEST_NUMBER = 15  # digits; beyond, a float64 holds no more
# Where the hat functions stand, in decades of 1 + number: between two of them a size is interpolated.
KNOTS_PER_DECADE = 4
DECADES = 10
MOST_NAMES = 64  # bound names that are followed in one text, those with the largest numbers

# What a token is, as bits.
_PART, _SPACED, _ASSIGN, _COLON, _BLANK = 1, 2, 4, 8, 16
_PART_PATTERN = re.compile(r"[A-Za-z0-9_]+")
_ASSIGNMENTS = ("=", ":=")
# Names are compared by a polynomial in their characters, so it does not matter how they are cut into tokens.
_MODULUS, _BASE, _LONGEST_NAME = 2**31 - 1, 911_382_323, 128
_POWERS = [pow(_BASE, place, _MODULUS) for place in range(_LONGEST_NAME)]


def read_numbers(digits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reads runs of digits as numbers.

    Args:
        digits: The digit that each token is, -1 for none, int64 `(batch, length)`.

    Returns:
        Where a run of digits begins, bool `(batch, length)`; the number there, of its first `LONGEST_NUMBER` digits, and 0
        elsewhere, float64 `(batch, length)`.
    """
    begins = (digits >= 0) & F.pad(digits[:, :-1] < 0, (1, 0), value=True)
    number, running = torch.zeros_like(digits, dtype=torch.float64), begins
    for k in range(min(LONGEST_NUMBER, digits.shape[1])):
        ahead = F.pad(digits[:, k:], (0, k), value=-1)
        running = running & (ahead >= 0)
        number = torch.where(running, number * 10 + ahead, number)
    return begins, number


def _name_hash(name: str) -> int:
    """The polynomial of a name's characters; that of two names together follows from theirs."""
    value = 0
    for place, character in enumerate(name):
        value = (value + ord(character) * pow(_BASE, place, _MODULUS)) % _MODULUS
    return value


class NumberReader(nn.Module):
    """Finds the numbers of a text and the names that are bound to one, whatever the language.

    A name is bound where an assignment of one number to it stands in the text (`n = 40`, `n: i64 = 40`, `n := 40`) or a
    definition (`#define n 40`, `(define n 40)`); of several the largest counts. What the program does to the name later is not
    followed. A number is a run of digits: of `1_000`, `1e6` or `0x10` it is the first one.

    Args:
        vocab_size: Tokens that are known.

    Attributes:
        digits, kinds, lengths, hashes: What is read of each token, `(vocabulary,)`; see `read_vocabulary`.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.register_buffer("digits", torch.full((vocab_size,), -1, dtype=torch.int8))
        self.register_buffer("kinds", torch.zeros(vocab_size, dtype=torch.uint8))
        self.register_buffer("lengths", torch.zeros(vocab_size, dtype=torch.int32))
        self.register_buffer("hashes", torch.zeros(vocab_size, dtype=torch.int32))

    def read_vocabulary(self, texts: Sequence[str]) -> None:
        """Notes what every token is; a token beyond `vocab_size` is an error.

        Args:
            texts: The text of every token, by id; empty for those that are no text.
        """
        if len(texts) > len(self.digits):
            raise ValueError(f"{len(texts)} tokens are more than the {len(self.digits)} there is room for.")
        for token, text in enumerate(texts):
            bare = text.strip()
            part = _PART_PATTERN.fullmatch(bare) is not None and text in (bare, " " + bare)
            kind = _PART * part + _SPACED * text[:1].isspace() + _ASSIGN * (bare in _ASSIGNMENTS)
            one_line = "\n" not in text
            self.kinds[token] = kind + _COLON * (one_line and bare == ":") + _BLANK * (one_line and not bare)
            self.digits[token] = int(text) if len(text) == 1 and text in "0123456789" else -1
            self.lengths[token] = len(bare) if part else 0
            self.hashes[token] = _name_hash(bare) if part else 0

    def bound_names(
        self, ids: torch.Tensor, begins: torch.Tensor, number: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where names stand that are bound to a number.

        Args:
            ids: Token ids, int64 `(batch, length)`.
            begins, number: What `read_numbers` reads of their digits.

        Returns:
            Which tokens belong to a bound name and which of them begin one, bool `(batch, length)`, and the number that the
            name is bound to, float64 `(batch, length)`.
        """
        kinds = self.kinds[ids]

        def has(bit: int) -> torch.Tensor:
            return (kinds & bit) > 0

        part = has(_PART)
        starts = part & (has(_SPACED) | F.pad(~part[:, :-1], (1, 0), value=True))
        # Words count from 1; what follows a word and is no part of one has its number, too: the gap behind it.
        word = starts.cumsum(1)
        words = int(word.max()) + 1
        if words < 3:
            return torch.zeros_like(part), torch.zeros_like(part), torch.zeros_like(number)

        def of_words(values: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(ids), words, dtype=values.dtype, device=ids.device).scatter_add(1, word, values)

        lengths = self.lengths[ids].long()
        before = lengths.cumsum(1) - lengths
        offset = before - torch.where(starts, before, 0).cummax(1).values
        powers = torch.tensor(_POWERS, device=ids.device)
        hashed = self.hashes[ids].long() * powers[offset.clamp_max(_LONGEST_NAME - 1)] % _MODULUS
        name = of_words(torch.where(part, hashed, 0)) % _MODULUS
        is_number = of_words((starts & begins).long()) > 0
        value = of_words(torch.where(starts, number, 0.0))
        signs, colons, others = (
            of_words(where.long()) for where in (has(_ASSIGN), has(_COLON), ~part & ~has(_ASSIGN | _COLON | _BLANK))
        )
        # What the gap behind a word is; tokenizers may cut `:=` and `==` in two.
        assignment, annotation = (signs == 1) & (others == 0), (colons == 1) & (signs + others == 0)
        blank = colons + signs + others == 0

        # The word before a number, the gap between them, and one step further back.
        def back(of: torch.Tensor, steps: int) -> torch.Tensor:
            return F.pad(of[:, :-steps], (steps, 0))

        direct = is_number & back(assignment, 1)
        annotated = direct & back(annotation, 2)
        defined = is_number & back(blank, 1) & (back(name, 2) == _DEFINE)
        named = torch.where(annotated, back(name, 2), back(name, 1))
        found = (direct | defined) & ~torch.where(annotated, back(is_number, 2), back(is_number, 1)) & (named > 0)
        # Of each name the largest number counts, and of names with the same number the first: whatever the batch's width.
        size = torch.where(found, value, -1.0)
        falling = size.sort(dim=1, descending=True, stable=True).indices
        by_name = named.gather(1, falling).sort(dim=1, stable=True)
        again = F.pad(by_name.values[:, 1:] == by_name.values[:, :-1], (1, 0))
        repeated = torch.zeros_like(found).scatter(1, falling.gather(1, by_name.indices), again)
        size = torch.where(repeated, -1.0, size)
        at = size.sort(dim=1, descending=True, stable=True).indices[:, :MOST_NAMES]
        chosen, known = named.gather(1, at), size.gather(1, at) >= 0
        same = (name[:, :, None] == chosen[:, None]) & known[:, None]
        bound = same.any(2) & ~is_number
        size = torch.where(same, value.gather(1, at)[:, None], 0.0).amax(2)
        belongs = bound.gather(1, word) & part
        return belongs, belongs & starts, size.gather(1, word)


class MagnitudeEmbedding(NumberReader):
    """Adds to the embeddings what depends on the size of numbers. Begins as zero: the encoder stays what it was.

    Args:
        vocab_size: Tokens that the encoder knows.
        hidden_size: Width of the embeddings.

    Attributes:
        literals, names: What is added at each knot, `(knots, hidden size)`, to digits and to names.
    """

    def __init__(self, vocab_size: int, hidden_size: int):
        super().__init__(vocab_size)
        knots = DECADES * KNOTS_PER_DECADE + 1
        self.literals = nn.Parameter(torch.zeros(knots, hidden_size))
        self.names = nn.Parameter(torch.zeros(knots, hidden_size))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What is added, `(batch, length, hidden size)`; nothing for tokens that are neither a digit nor of a bound name."""
        digits = self.digits[input_ids].long()
        begins, number = read_numbers(digits)
        places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        literal = number.gather(1, torch.where(begins, places, 0).cummax(1).values)
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


_DEFINE = _name_hash("define")

__all__ = ["MagnitudeEmbedding", "NumberReader", "read_numbers"]
