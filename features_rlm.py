"""Features of one text for the feature ensemble (`ensemble_rlm.py`), read on the CPU beside its token ids.

All are computed from the token ids behind the first line, which names the metrics asked for:

- hashed n-grams of tokens, as 1 + log(count); the ensemble weights them by inverse document frequency
- numbers of the header's further lines, such as `# input_size: 1024x1024`: a run of single-digit tokens is one number;
  log10(1 + number) is summed by the line's first word and the token before the number
- the largest numbers of the code (sizes stand in programs as constants), as log10(1 + number), zeros where there are fewer
- the code's numbers as log10(1 + number), the largest behind each token, and behind each two: `[1000`, `= 1000` and
  `calloc(1000` are different features
- those that the code's names are bound to (`NumberReader`), likewise: `calloc(n` with `n = 1000` above
- length: logarithms of the number of tokens and of line breaks
- structure, as log(1 + count), of languages that are read as programs: how operators of an ONNX text follow one another
  (`onnx_text_rlm.py`), the dependencies of an x86 block (`x86_rlm.py`)
- positions, likewise: where the operators of an ONNX text stand in its blocks
- costs, as log(1 + amount), a column each: what a program's text says about its work and memory (`program_costs_rlm.py`)
- hidden states of a language model, read of the code itself (`language_model_rlm.py`)
- the domains that the text belongs to, 0 or 1, the last columns

`RLMFeatureExtractor` computes dense rows; `RLMProcessor` (`processing_rlm.py`) calls it on batches, the fit of the ensemble on
whole tables, which it keeps sparse.
"""

import itertools
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .errors_rlm import CheckpointError
from .language_model_rlm import LanguageModelConfig
from .onnx_costs_rlm import NETWORK_COSTS, network_costs
from .onnx_text_rlm import graph_ngrams, position_features
from .program_costs_rlm import PROGRAM_COSTS, program_costs
from .program_text_rlm import LANGUAGES
from .x86_rlm import dependency_features

# What is counted in texts of a language, by part of the layout: functions of the text, header included, to counts by name.
STRUCTURES = {
    "onnx": {"structure": graph_ngrams, "positions": position_features},
    "x86asm": {"structure": dependency_features},
}


@dataclass(frozen=True)
class CostReader:
    """What the texts of some languages say about costs.

    Attributes:
        languages: The languages that it reads.
        names: What it finds.
        read: A function of a text without its header and its language to amounts by name.
    """

    languages: frozenset[str]
    names: tuple[str, ...]
    read: Callable[[str, str], Mapping[str, float]]


# Readers by the prefix of their columns' names.
COSTS = {
    "program": CostReader(frozenset(LANGUAGES), PROGRAM_COSTS, program_costs),
    "network": CostReader(frozenset({"onnx"}), NETWORK_COSTS, lambda text, language: network_costs(text)),
    # What every program of a language costs, whatever it does.
    "language": CostReader(frozenset(LANGUAGES), tuple(sorted(LANGUAGES)), lambda text, language: {language: 1.0}),
}
COST_NAMES = tuple(f"{prefix}.{name}" for prefix, reader in COSTS.items() for name in reader.names)
_HEADER_LINES = re.compile(r"(?:# [a-z][a-z_ ]*: [^\n]*\n)*")
LONGEST_TOKEN = 32  # bytes of a token's text that are read
_MODULUS = 2**31 - 1
_WORD = re.compile(r"(?<!\S)[a-z][a-z_-][\w-]*(?!\S)")  # of a program: neither numbers nor names such as v1
# The least value of each size in a layout.
_LEAST = {
    "buckets": 1, "longest_gram": 1, "number_buckets": 1, "largest_numbers": 0, "code_numbers": 0, "name_numbers": 0,
    "number_context": 1, "structure_buckets": 0, "position_buckets": 0,
}  # fmt: skip


@dataclass(frozen=True)
class FeatureLayout:
    """How a text becomes a row of features.

    Attributes:
        digit_tokens: Token ids of the digits 0 to 9; empty where the tokenizer does not read digits one by one.
        line_tokens: Token ids that hold a line break; the first of them ends the header's first line.
        comment_tokens: Token ids that begin with `#`: header lines begin with one, and the first line without ends the header.
        buckets: Hash buckets of the n-grams.
        longest_gram: Tokens in the longest n-gram.
        number_buckets: Hash buckets of the numbers in the header, by where they stand.
        largest_numbers: How many of the code's largest numbers are features.
        code_numbers: Hash buckets of the code's numbers by the tokens before; 0: none.
        name_numbers: Hash buckets of the numbers that names are bound to, by the tokens before each name; 0: none.
        number_context: How many tokens before a number count: by one there are so many buckets, by two as many again, and on.
        structure_buckets: Hash buckets of the structure counted in texts of some languages (`STRUCTURES`); 0: none.
        position_buckets: Hash buckets of where operators stand in the blocks of an ONNX text; 0: none.
        cost_features: Names of the amounts of `COST_NAMES` that have a column each, in their order; True stands for all.
        language_model: Whose hidden states are features; None: none.
    """

    digit_tokens: tuple[int, ...] = ()
    line_tokens: tuple[int, ...] = ()
    comment_tokens: tuple[int, ...] = ()
    buckets: int = 2**15
    longest_gram: int = 2
    number_buckets: int = 32
    largest_numbers: int = 0
    code_numbers: int = 0
    name_numbers: int = 0
    number_context: int = 1
    structure_buckets: int = 0
    position_buckets: int = 0
    cost_features: tuple[str, ...] = ()
    language_model: LanguageModelConfig | None = None

    def __post_init__(self) -> None:
        if self.language_model is not None:
            object.__setattr__(self, "language_model", LanguageModelConfig.from_dict(self.language_model))
        for name in ("digit_tokens", "line_tokens", "comment_tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "cost_features", _checked_costs(self.cost_features))
        if len(self.digit_tokens) not in (0, 10):
            raise CheckpointError(
                f"ensemble.features.digit_tokens must name 10 token ids or none, got {len(self.digit_tokens)}."
            )
        for name, least in _LEAST.items():
            size = getattr(self, name)
            if not isinstance(size, int) or size < least:
                raise CheckpointError(
                    f"ensemble.features.{name} must be a whole number of at least {least}, got {size!r}."
                )

    @classmethod
    def from_dict(cls, entry: "FeatureLayout | Mapping[str, Any]") -> "FeatureLayout":
        """Builds a layout from its JSON form; unknown keys are an error."""
        if isinstance(entry, cls):
            return entry
        if not isinstance(entry, Mapping):
            raise CheckpointError(f"ensemble.features must be a mapping, got {entry!r:.200}.")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(entry) - known):
            raise CheckpointError(f"ensemble.features has unknown keys {unknown}.")
        return cls(**entry)

    @classmethod
    def for_tokenizer(cls, tokenizer: Any, **sizes: Any) -> "FeatureLayout":
        """The layout of a tokenizer: its digits, the tokens that hold a line break, those that begin a comment."""
        texts = token_texts(tokenizer)
        lines = [token for token, text in enumerate(texts) if "\n" in text]
        comments = [token for token, text in enumerate(texts) if text.startswith("#")]
        return cls(digit_tokens(tokenizer), tuple(lines), tuple(comments), **sizes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields; a language model where there is one, so that earlier releases read all others."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        del plain["language_model"]
        plain["cost_features"] = _by_reader(self.cost_features)
        return plain if self.language_model is None else {**plain, "language_model": self.language_model.to_dict()}

    @property
    def reads_structure(self) -> bool:
        """Whether texts of some languages are read as programs."""
        return bool(self.structure_buckets or self.position_buckets)

    @property
    def parts(self) -> dict[str, int]:
        """Number of features of each part, in their order."""
        return {
            "grams": self.buckets,
            "header": 2 * self.number_buckets,
            "largest": self.largest_numbers,
            "placed": self.number_context * (self.code_numbers + self.name_numbers),
            "lengths": 2,
            "structure": self.structure_buckets,
            "positions": self.position_buckets,
            "costs": len(self.cost_features),
            "hidden": self.language_model.size if self.language_model else 0,
        }

    @property
    def size(self) -> int:
        """Number of features, domains not counted."""
        return sum(self.parts.values())

    def first(self, part: str) -> int:
        """Number of the first feature of a part."""
        names = list(self.parts)
        return sum(self.parts[name] for name in names[: names.index(part)])

    @property
    def token_size(self) -> int:
        """Number of features that are computed from tokens: all but the hidden states, which stand behind them."""
        return self.size - self.parts["hidden"]

    @property
    def read_size(self) -> int:
        """Number of features that regressors read: principal components stand in place of the hidden states."""
        return self.token_size + (self.language_model.components if self.language_model else 0)


def _by_reader(names: Sequence[str]) -> list[dict[str, str]]:
    """JSON form of `FeatureLayout.cost_features`: runs of names of one reader, `[{"program": "work, step_ns, ..."}, ...]`."""
    runs: list[dict[str, str]] = []
    for prefix, run in itertools.groupby(names, key=lambda name: name.partition(".")[0]):
        runs.append({prefix: ", ".join(name.partition(".")[2] for name in run)})
    return runs


def _checked_costs(names: Any) -> tuple[str, ...]:
    """The names of `FeatureLayout.cost_features`, whole or in their JSON form."""
    if isinstance(names, bool):
        return COST_NAMES if names else ()
    if isinstance(names, (list, tuple)) and all(isinstance(run, Mapping) for run in names):
        # Checkpoints of before have a list of names in place of a text.
        runs = [
            (prefix, own.split(", ") if isinstance(own, str) else own) for run in names for prefix, own in run.items()
        ]
        names = [f"{prefix}.{name}" for prefix, own in runs for name in own]
    known = set(COST_NAMES)
    if not isinstance(names, (list, tuple)) or not known.issuperset(names) or len(set(names)) < len(names):
        raise CheckpointError(
            f"ensemble.features.cost_features must be true, false or names out of {sorted(known)}, each once, got "
            f"{names!r:.200}. A checkpoint of a later release needs that release."
        )
    return tuple(names)


def digit_tokens(tokenizer: Any) -> tuple[int, ...]:
    """Token ids of the digits 0 to 9; none where the tokenizer does not read digits one by one."""
    vocabulary = tokenizer.get_vocab()
    digits = tuple(vocabulary.get(str(digit), -1) for digit in range(10))
    return () if -1 in digits else digits


def token_texts(tokenizer: Any) -> list[str]:
    """The text of every token by id, empty for special tokens."""
    special = set(tokenizer.all_special_ids)
    ids = range(max(tokenizer.get_vocab().values()) + 1)
    return ["" if token in special else tokenizer.decode([token]) for token in ids]


# ---------------------------------------------------------------------------------------------------- numbers

LONGEST_NUMBER = 15  # digits; beyond, a float64 holds no more
MOST_NAMES = 64  # bound names that are followed in one text, those with the largest numbers

# What a token is, as bits.
_PART, _SPACED, _ASSIGN, _COLON, _BLANK = 1, 2, 4, 8, 16
_PART_PATTERN = re.compile(r"[A-Za-z0-9_]+")
_ASSIGNMENTS = ("=", ":=")
# Names are compared by a polynomial in their characters, so it does not matter how they are cut into tokens.
_BASE, _LONGEST_NAME = 911_382_323, 128
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
        power = _POWERS[place] if place < _LONGEST_NAME else pow(_BASE, place, _MODULUS)
        value = (value + ord(character) * power) % _MODULUS
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

    digits: torch.Tensor
    kinds: torch.Tensor
    lengths: torch.Tensor
    hashes: torch.Tensor

    def __init__(self, vocab_size: int):
        super().__init__()
        self.register_buffer("digits", torch.full((vocab_size,), -1, dtype=torch.int8))
        self.register_buffer("kinds", torch.zeros(vocab_size, dtype=torch.uint8))
        self.register_buffer("lengths", torch.zeros(vocab_size, dtype=torch.int32))
        self.register_buffer("hashes", torch.zeros(vocab_size, dtype=torch.int32))

    def resize(self, vocab_size: int) -> None:
        """Makes room for so many tokens; nothing is known of new ones until the vocabulary is read again."""
        for name, empty in (("digits", -1), ("kinds", 0), ("lengths", 0), ("hashes", 0)):
            table = getattr(self, name)
            resized = table.new_full((vocab_size,), empty)
            kept = min(len(table), vocab_size)
            resized[:kept] = table[:kept]
            setattr(self, name, resized)

    def read_vocabulary(self, texts: Sequence[str]) -> None:
        """Notes what every token is; a token beyond `vocab_size` is an error.

        Args:
            texts: The text of every token, by id; empty for those that are no text.
        """
        if len(texts) > len(self.digits):
            raise ValueError(f"{len(texts)} tokens are more than the {len(self.digits)} there is room for.")
        rows = torch.tensor([self._read_token(text) for text in texts], dtype=torch.long).view(len(texts), 4)
        for table, column in zip((self.digits, self.kinds, self.lengths, self.hashes), rows.unbind(1), strict=True):
            table[: len(texts)] = column

    @staticmethod
    def _read_token(text: str) -> tuple[int, int, int, int]:
        """The digit, the kinds, the length and the hash of a token's text."""
        bare = text.strip()
        part = _PART_PATTERN.fullmatch(bare) is not None and text in (bare, " " + bare)
        one_line = "\n" not in text
        kinds = _PART * part + _SPACED * text[:1].isspace() + _ASSIGN * (bare in _ASSIGNMENTS)
        kinds += _COLON * (one_line and bare == ":") + _BLANK * (one_line and not bare)
        digit = int(text) if len(text) == 1 and text in "0123456789" else -1
        return digit, kinds, len(bare) if part else 0, _name_hash(bare) if part else 0

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


# ---------------------------------------------------------------------------------------------------- the extractor


class RLMFeatureExtractor:
    """Computes the features of texts from their token ids.

    Args:
        layout: Which features there are.
        texts: The text of every token by id, see `token_texts`.
        domains: Names of the domains whose membership the last columns hold (`EnsembleConfig.domain_names`).
    """

    def __init__(self, layout: FeatureLayout, texts: Sequence[str], domains: Sequence[str] = ()):
        self.layout, self.domains = layout, tuple(domains)
        self._token_bytes = [text.encode()[:LONGEST_TOKEN].replace(b"\0", b"") for text in texts]
        self._reader: NumberReader | None = None
        if layout.name_numbers:
            self._reader = NumberReader(len(texts))
            self._reader.read_vocabulary(texts)

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        languages: Sequence[str | None],
        hidden: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Features and domain membership of padded texts.

        Args:
            input_ids: `(batch, length)`.
            attention_mask: 1 for text, 0 for padding `(batch, length)`; None where nothing is padded.
            languages: Language that each text's header names, None without one.
            hidden: What the layout's language model reads of the code (`HiddenStates`), `(batch, its size)`; None without.

        Returns:
            float32 `(batch, layout.size + domains)`.
        """
        parts = [self.raw(input_ids, attention_mask, languages), *([] if hidden is None else [hidden])]
        return torch.cat([*parts, self.membership(self.words(input_ids, attention_mask, languages))], 1)

    @torch.no_grad()
    def raw(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, languages: Sequence[str | None]
    ) -> torch.Tensor:
        """The features of the tokens, without hidden states and domains, float32 `(batch, layout.token_size)`; see a call."""
        ids = input_ids.long()
        lines, body = self._body(ids, attention_mask)
        lengths = torch.stack([(body.sum(1) + 1).log(), ((body & lines).sum(1) + 1).log()], 1)
        parts = [self._grams(ids, body), self._numbers(ids, body, lines), lengths]
        return torch.cat([*parts, self._structure(ids, body, languages), self._costs(ids, body, languages)], 1)

    def words(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, languages: Sequence[str | None]
    ) -> list[frozenset[str]]:
        """The language and the words of each text that is read as a program, nothing of others: they decide its domains."""
        if not self.layout.reads_structure:
            return [frozenset()] * len(input_ids)
        ids = input_ids.long()
        _, body = self._body(ids, attention_mask)
        found = []
        for row, kept, language in zip(ids, body, languages, strict=True):
            words: list[str] = []
            if language in STRUCTURES:
                words = [language, *_WORD.findall(self._text(row[kept]))]
            found.append(frozenset(map(sys.intern, words)))  # many texts, few words
        return found

    def membership(self, words: Sequence[frozenset[str]]) -> torch.Tensor:
        """Which domains texts with these words belong to, float32 `(texts, domains)`, 0 or 1."""
        members = torch.zeros(len(words), len(self.domains))
        for column, domain in enumerate(self.domains):
            belongs = [in_domain(domain, each) for each in words]
            members[:, column] = torch.tensor(belongs, dtype=torch.float32)
        return members

    def _body(self, ids: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens hold a line break, and which stand behind the first, which ends the line that names the metrics.

        Returns:
            Two of bool `(batch, length)`.
        """
        lines = torch.isin(ids, torch.tensor(self.layout.line_tokens, dtype=torch.long))
        body = (lines.cumsum(1) - lines.long()) > 0
        return lines, body if attention_mask is None else body & attention_mask.bool()

    def _text(self, ids: torch.Tensor) -> str:
        """The text of token ids `(tokens,)`."""
        return b"".join([self._token_bytes[token] for token in ids.tolist()]).decode(errors="replace")

    def _grams(self, ids: torch.Tensor, body: torch.Tensor) -> torch.Tensor:
        """1 + log(count) of the n-grams of each text by hash, `(batch, buckets)`."""
        batch, length = ids.shape
        counts = torch.zeros(batch, self.layout.buckets)
        gram = torch.zeros_like(ids)
        for n in range(1, min(self.layout.longest_gram, length) + 1):
            reach = length - n + 1
            gram = _mix(gram[:, :reach] * 31 + ids[:, n - 1 :] + n)
            whole = gram.new_ones(batch, reach, dtype=torch.bool)
            for k in range(n):
                whole &= body[:, k : k + reach]
            counts.scatter_add_(1, gram % self.layout.buckets, whole.float())
        return torch.where(counts > 0, 1 + counts.clamp_min(1).log(), 0.0)

    def _structure(self, ids: torch.Tensor, body: torch.Tensor, languages: Sequence[str | None]) -> torch.Tensor:
        """Logarithms of 1 + what is counted in each text, by the hash of its name, `(batch, structure + position buckets)`."""
        buckets = {"structure": self.layout.structure_buckets, "positions": self.layout.position_buckets}
        found = {part: torch.zeros(len(ids), count) for part, count in buckets.items()}
        for row, language in enumerate(languages):
            readers = STRUCTURES.get(language, {}) if self.layout.reads_structure and language else {}
            for part, reader in readers.items():
                if not buckets[part]:
                    continue
                for name, count in reader(self._text(ids[row][body[row]])).items():
                    found[part][row, zlib.crc32(name.encode()) % buckets[part]] += math.log1p(count)
        return torch.cat(list(found.values()), 1)

    def _costs(self, ids: torch.Tensor, body: torch.Tensor, languages: Sequence[str | None]) -> torch.Tensor:
        """Logarithms of 1 + the amounts of `COSTS` in each text, `(batch, cost features)`."""
        columns = {name: column for column, name in enumerate(self.layout.cost_features)}
        found = torch.zeros(len(ids), len(columns))
        for row, language in enumerate(languages if columns else ()):
            for prefix, reader in COSTS.items():
                if language not in reader.languages:
                    continue
                text = _HEADER_LINES.sub("", self._text(ids[row][body[row]]), count=1)
                for name, amount in reader.read(text, language).items():
                    column = columns.get(f"{prefix}.{name}")
                    if column is not None:
                        found[row, column] = math.log1p(amount)
        return found

    def _numbers(self, ids: torch.Tensor, body: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
        """Numbers of the header, the code's largest, those of the code by the tokens before, and those of its names.

        Returns:
            `(batch, 2 * number buckets + largest numbers + number context * (code numbers + name numbers))`.
        """
        layout = self.layout
        if not layout.digit_tokens:
            parts = layout.parts
            return torch.zeros(len(ids), parts["header"] + parts["largest"] + parts["placed"])
        begins_line = F.pad(lines[:, :-1], (1, 0), value=True)
        code = begins_line & ~torch.isin(ids, torch.tensor(layout.comment_tokens, dtype=torch.long))
        header = body & (code.cumsum(1) == 0)
        return torch.cat(
            [self._header_numbers(ids, body, header, begins_line), self._code_numbers(ids, body & ~header)], 1
        )

    def _header_numbers(
        self, ids: torch.Tensor, body: torch.Tensor, header: torch.Tensor, begins_line: torch.Tensor
    ) -> torch.Tensor:
        """Sums of log10(1 + number) of the header and logarithms of their counts, `(batch, 2 * number buckets)`."""
        sums = torch.zeros(len(ids), self.layout.number_buckets)
        counts = torch.zeros_like(sums)
        # Headers are short: the rest of the text is not looked at.
        reach = int(header.sum(1).max()) + int((~body).sum(1).min()) + 1
        ids, header, begins_line = ids[:, :reach], header[:, :reach], begins_line[:, :reach]
        begins, number = read_numbers(self._digits(ids, header))
        position = torch.arange(ids.shape[1]).expand_as(ids)
        starts = torch.where(begins_line, position, 0).cummax(1).values
        word = ids.gather(1, (starts + 1).clamp_max(ids.shape[1] - 1))
        key = _mix(_mix(word) + F.pad(ids[:, :-1], (1, 0))) % self.layout.number_buckets
        sums.scatter_add_(1, key, torch.where(begins, (number + 1).log10(), 0.0).float())
        counts.scatter_add_(1, key, begins.float())
        return torch.cat([sums, (counts + 1).log()], 1)

    def _code_numbers(self, ids: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """The code's largest numbers, then log10(1 + number) of all and of names by the tokens before.

        Returns:
            `(batch, largest numbers + number context * (code numbers + name numbers))`.
        """
        layout = self.layout
        largest = torch.zeros(len(ids), layout.largest_numbers)
        placed = torch.zeros(len(ids), layout.number_context, layout.code_numbers)
        named = torch.zeros(len(ids), layout.number_context, layout.name_numbers)
        if not (layout.largest_numbers or layout.code_numbers or layout.name_numbers):
            return torch.cat([largest, placed.flatten(1), named.flatten(1)], 1)
        begins, number = read_numbers(self._digits(ids, code))
        sizes = torch.where(begins, (number + 1).log10(), 0.0).float()
        if self._reader is not None:
            _, begins_name, bound = self._reader.bound_names(ids, begins, number)
            bound = torch.where(begins_name & code, (bound + 1).log10(), 0.0).float()
        before = torch.zeros_like(ids)
        for k in range(layout.number_context):
            before = _mix(before * 31 + F.pad(ids, (k + 1, 0))[:, : ids.shape[1]])
            if layout.code_numbers:
                placed[:, k].scatter_reduce_(1, before % layout.code_numbers, sizes, "amax")
            if layout.name_numbers:
                named[:, k].scatter_reduce_(1, before % layout.name_numbers, bound, "amax")
        if layout.largest_numbers:
            found = sizes.topk(min(layout.largest_numbers, sizes.shape[1]), 1).values
            largest[:, : found.shape[1]] = found
        return torch.cat([largest, placed.flatten(1), named.flatten(1)], 1)

    def _digits(self, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """The digit that each token is, -1 for none and outside of `where`, int64 `(batch, length)`."""
        digits = self.layout.digit_tokens
        values = torch.full((max(int(ids.max()), *digits) + 1,), -1)
        values[torch.tensor(digits)] = torch.arange(10)
        return torch.where(where, values[ids], -1)


def in_domain(domain: str, words: Iterable[str]) -> bool:
    """Whether a text with these words, its language among them, belongs to a domain (`EnsembleConfig.domains`)."""
    return frozenset(words).issuperset(domain.split())


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Scrambles non-negative int64 so that neighbours fall far apart (two rounds of a multiplicative hash)."""
    x = (x % _MODULUS) * 48271 % _MODULUS
    return (x ^ (x >> 13)) * 69621 % _MODULUS


_DEFINE = _name_hash("define")

__all__ = [
    "COSTS",
    "COST_NAMES",
    "STRUCTURES",
    "CostReader",
    "FeatureLayout",
    "NumberReader",
    "RLMFeatureExtractor",
    "digit_tokens",
    "in_domain",
    "read_numbers",
    "token_texts",
]
