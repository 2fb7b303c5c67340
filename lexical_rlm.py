"""The lexical path: what a linear model tells from the words and numbers of the text, as extra memory for the decoder.

A transformer of a few million parameters learns a table of a thousand programs by heart; ridge regression on their n-grams
does not. So a checkpoint may carry such a regressor for some of its metrics (its *channels*), fitted in closed form
(`training/lexical.py`), and the decoder reads each one's score as one more memory token. In training the scores are those of
regressors that have not seen the row's group, so the decoder learns how far to trust them.

Features of one text, all computed from its token ids behind the first line (which names the metrics asked for):

- hashed n-grams of tokens: (1 + log count) * inverse document frequency, scaled to length 1
- numbers of the header's further lines, such as `# input_size: 1024x4096`: a run of single-digit tokens is one number;
  log10(1 + number) is added up by the line's first word and the token before the number
- the largest numbers of the code (sizes stand in programs as constants), as log10(1 + number), zeros where there are fewer
- the code's numbers as log10(1 + number), the largest behind each token, and behind each two: `[1000`, `= 1000` and
  `calloc(1000` weigh differently
- those that the code's names are bound to (`magnitudes_rlm.NumberReader`), likewise: `calloc(n` with `n = 1000` above
- length: logarithms of the number of tokens and of line breaks
- structure, as log(1 + count): how the operators of an ONNX text follow one another (`onnx_wiring_rlm.py`), what an x86 block
  waits for (`x86_chains_rlm.py`)
- places, likewise: where the operators of an ONNX text stand in its blocks

A channel's score is a linear function of these features, on a scale of its own (`ScoreScale`). With `trees` it is that plus
boosted regression trees on the counts of some n-grams, on numbers, lengths and structure (`training/forest.py`), and with
`perceptron_columns` small networks on what the trees ask for most (`perceptron_rlm.py`), which several channels may share, each
weighted by what it is worth on rows left out.
"""

import math
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .errors_rlm import CheckpointError
from .magnitudes_rlm import NumberReader, read_numbers
from .onnx_wiring_rlm import places, wiring
from .perceptron_rlm import Perceptrons
from .x86_chains_rlm import chains

TREE_NODES = 31  # of a tree: 16 leaves
LONGEST_TOKEN = 32  # bytes of a token's text that are kept
_KNOTS = 24  # radial basis functions over a score, from -4 to 4 standard deviations
_MODULUS = 2**31 - 1
_HEADER_TOKENS = 64  # in which the line of the language stands
_WORD = re.compile(r"(?<!\S)[a-z][a-z_-][\w-]*(?!\S)")  # of a program: neither numbers nor names such as v1
_LANGUAGE = re.compile(r"^# language: (\S+)$", re.MULTILINE)
# What is counted in texts of a language, by kind of feature: functions of the text, header included, to counts by name.
STRUCTURES = {"onnx": {"structure": wiring, "places": places}, "x86asm": {"structure": chains}}


@dataclass(frozen=True)
class ScoreScale:
    """What a channel's scores stand for: a rising, piecewise linear map from a metric's values (or their logarithms) to scores.

    Attributes:
        logarithm: Whether the map is of the values' natural logarithm.
        values: Knots, rising: values or their logarithms.
        scores: The scores at the knots, rising. Beyond the ends the map goes on as steeply as it rises on the whole.
    """

    logarithm: bool
    values: tuple[float, ...]
    scores: tuple[float, ...]

    def __post_init__(self):
        for name in ("values", "scores"):
            knots = np.array(getattr(self, name), dtype=float)
            if knots.ndim != 1 or len(knots) < 2 or not (np.isfinite(knots).all() and (np.diff(knots) > 0).all()):
                raise CheckpointError(
                    f"A scale's {name} must be two or more rising numbers, got {getattr(self, name)!r}."
                )
            object.__setattr__(self, name, tuple(knots.tolist()))
        if len(self.values) != len(self.scores):
            raise CheckpointError(f"A scale has {len(self.values)} values and {len(self.scores)} scores.")
        object.__setattr__(self, "logarithm", bool(self.logarithm))

    @classmethod
    def from_dict(cls, entry: "ScoreScale | Mapping[str, Any]") -> "ScoreScale":
        """A scale from its JSON form, `{logarithm, values, scores}`."""
        if isinstance(entry, cls):
            return entry
        if not isinstance(entry, Mapping) or set(entry) != {f.name for f in fields(cls)}:
            raise CheckpointError(f"A scale has the keys {[f.name for f in fields(cls)]}, got {entry!r:.200}.")
        return cls(**entry)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields."""
        return {"logarithm": self.logarithm, "values": list(self.values), "scores": list(self.scores)}

    @classmethod
    def normal(cls, values: np.ndarray, knots: int = 33) -> "ScoreScale":
        """The scale on which values `(rows,)`, not all equal, have standard normal scores (van der Waerden 1952).

        Accuracies crowd below 100, memory above what an idle process takes: on such a scale the regressor minds their order
        everywhere, on the metric's own or its logarithm's it minds the outliers alone.
        """
        ordered = np.sort(np.asarray(values, dtype=float))
        logarithm = bool(ordered[0] > 0 and np.log(ordered[0]) < np.log(ordered[-1]))
        ordered = np.log(ordered) if logarithm else ordered
        reach = NormalDist().inv_cdf(1 - 0.5 / len(ordered))
        at = np.linspace(-reach, reach, knots)
        shares = np.array([NormalDist().cdf(z) for z in at])
        shares[[0, -1]] = 0, 1  # nothing that was seen lies beyond the knots
        found = np.quantile(ordered, shares)
        # Knots closer than a hair are one: values that occur many times have the mean of their scores.
        hair = 1e-9 * np.maximum(np.abs(found[1:]), np.abs(found[:-1]))
        apart = np.concatenate([[True], np.diff(found) > hair])
        number = np.cumsum(apart) - 1
        merged = np.bincount(number, at) / np.bincount(number)
        if len(merged) < 2:  # nearly all of them are one value
            return cls(logarithm, (ordered[0], ordered[-1]), (-1.0, 1.0))
        return cls(logarithm, tuple(found[apart]), tuple(merged))

    def score(self, values: np.ndarray) -> np.ndarray:
        """Scores of values, float64 of the same shape."""
        x = np.asarray(values, dtype=float)
        if self.logarithm:
            with np.errstate(divide="ignore"):
                x = np.log(np.maximum(x, 0.0))
        first, last = self.values[0], self.values[-1]
        slope = (self.scores[-1] - self.scores[0]) / (last - first)
        beyond = np.minimum(x - first, 0.0) + np.maximum(x - last, 0.0)
        return np.interp(x, self.values, self.scores) + slope * beyond


@dataclass(frozen=True)
class LexicalSettings:
    """How texts become features, and which metrics have a channel.

    Attributes:
        channels: Metrics with a regressor, in the order of the scores.
        digit_tokens: Token ids of the digits 0 to 9; empty where the tokenizer does not read digits one by one.
        line_tokens: Token ids that hold a line break; the first of them ends the header's first line.
        comment_tokens: Token ids that begin with `#`: header lines begin with one, and the first line without ends the header.
        buckets: Hash buckets of the n-grams.
        longest_gram: Tokens in the longest n-gram.
        number_buckets: Hash buckets of the places of numbers in the header.
        largest_numbers: How many of the code's largest numbers are features.
        code_numbers: Hash buckets of the code's numbers by the tokens before; 0: none.
        name_numbers: Hash buckets of the numbers that names are bound to, by the tokens before each name; 0: none.
        number_context: How many tokens before a number count: by one there are so many buckets, by two as many again, and on.
        structure_buckets: Hash buckets of what `STRUCTURES` counts in texts of some languages; 0: nothing.
        place_buckets: Those of where operators stand in the blocks of an ONNX text; 0: nothing.
        vocabulary: Tokens of the tokenizer, where the path reads them; 0 without `name_numbers` and buckets of `STRUCTURES`.
        trees: The most boosted trees of a channel, of at most `TREE_NODES` nodes each; 0: none.
        tree_grams: How many n-gram buckets a channel's trees can look at, those whose counts differ most among its texts.
        tree_numbers: How many places of the code's and its names' numbers they can look at, chosen likewise.
        scales: For each channel what its scores stand for; none for channels that nothing was fitted to yet.
        perceptron_columns: The most features that perceptrons read, those that their regressors' trees ask for most; 0: none.
        perceptron_count: How many perceptrons answer together, each begun at random.
        structured: Channels that have further regressors, each for texts of one kind: a language of `STRUCTURES`, or that and
            words that such a text has, with spaces between. The last that suits a text tells its score. They came later than
            the first regressor, whose scores of all other texts the decoder knows.
        perceptrons: Which of `regressors` each perceptron answers, in the order of its outputs.
        errors: Of each of `regressors`, how far its scores were from those of rows left out: the scale of the logistic
            distribution that has their median distance; 0 where nobody knows.
    """

    channels: tuple[str, ...] = ()
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
    place_buckets: int = 0
    vocabulary: int = 0
    trees: int = 0
    tree_grams: int = 384
    tree_numbers: int = 1536
    perceptron_columns: int = 0
    perceptron_count: int = 1
    scales: tuple[ScoreScale | None, ...] = ()
    structured: Mapping[str, Sequence[str]] = field(default_factory=dict)
    perceptrons: tuple[tuple[tuple[str, str | None], ...], ...] = ()
    errors: tuple[float, ...] = ()

    def __post_init__(self):
        for name, form, known in (("structured", "mapping", Mapping), ("errors", "list", (list, tuple))):
            if not isinstance(getattr(self, name), known):
                raise CheckpointError(f"lexical.{name} must be a {form}, got {getattr(self, name)!r:.200}.")
        # Configs are written in this order. A single kind may stand by itself.
        structured = {
            name: (kinds,) if isinstance(kinds, str) else tuple(kinds) if isinstance(kinds, (list, tuple)) else (kinds,)
            for name, kinds in sorted(self.structured.items())
        }
        object.__setattr__(self, "structured", structured)
        strange = [
            name
            for name, kinds in structured.items()
            if name not in self.channels
            or not kinds
            or not all(isinstance(kind, str) and kind.partition(" ")[0] in STRUCTURES for kind in kinds)
            or len(set(kinds)) < len(kinds)
        ]
        if strange or (structured and not self.reads_structure):
            raise CheckpointError(
                f"lexical.structured names channels and kinds of texts, each once, that begin with a language of "
                f"{sorted(STRUCTURES)}, and needs structure_buckets or place_buckets, got "
                f"{dict(self.structured)}."
            )
        known = [None if scale is None else ScoreScale.from_dict(scale) for scale in self.scales]
        object.__setattr__(self, "scales", tuple(known or [None] * len(self.channels)))
        if len(self.scales) != len(self.channels):
            raise CheckpointError(f"lexical.scales must have one entry for each of {len(self.channels)} channels.")
        for name in ("channels", "digit_tokens", "line_tokens", "comment_tokens"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.reads_vocabulary:
            object.__setattr__(self, "vocabulary", 0)
        if len(self.digit_tokens) not in (0, 10):
            raise CheckpointError(f"lexical.digit_tokens must name 10 token ids or none, got {len(self.digit_tokens)}.")
        least_of = {
            "buckets": 1,
            "longest_gram": 1,
            "number_buckets": 1,
            "largest_numbers": 0,
            "code_numbers": 0,
            "name_numbers": 0,
            "number_context": 1,
            "structure_buckets": 0,
            "place_buckets": 0,
            "vocabulary": 0,
            "trees": 0,
            "tree_grams": 1,
            "tree_numbers": 0,
            "perceptron_columns": 0,
            "perceptron_count": 1,
        }
        for name, least in least_of.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise CheckpointError(
                    f"lexical.{name} must be a whole number of at least {least}, got {getattr(self, name)!r}."
                )
        try:
            object.__setattr__(self, "perceptrons", tuple(map(_answered, self.perceptrons)))
        except (TypeError, ValueError):
            raise CheckpointError(
                f"lexical.perceptrons must be a list of lists of regressors, got {self.perceptrons!r:.200}."
            ) from None
        strange = [
            each
            for each in self.perceptrons
            if not set(each) <= set(self.regressors) or len(set(each)) < max(len(each), 1)
        ]
        if strange or (self.perceptrons and not (self.perceptron_columns and self.trees)):
            raise CheckpointError(
                f"Each of lexical.perceptrons names some of the regressors {self.regressors}, each once, and needs "
                f"perceptron_columns and trees, got {self.perceptrons!r:.200}."
            )
        errors = tuple(self.errors) or (0.0,) * len(self.regressors)
        object.__setattr__(self, "errors", errors)
        if len(errors) != len(self.regressors) or not all(
            isinstance(e, (int, float)) and 0 <= e < math.inf for e in errors
        ):
            raise CheckpointError(
                f"lexical.errors must be a number of at least 0 for each of {len(self.regressors)} regressors, got "
                f"{errors!r:.200}."
            )

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "LexicalSettings":
        """Builds the settings from their JSON form; unknown keys are an error."""
        if unknown := set(entry) - {f.name for f in fields(cls)}:
            raise CheckpointError(f"lexical has unknown keys {sorted(unknown)}.")
        return cls(**entry)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {
            **plain,
            "scales": [None if scale is None else scale.to_dict() for scale in self.scales],
            "structured": {name: list(kinds) for name, kinds in self.structured.items()},
            "perceptrons": [[list(regressor) for regressor in each] for each in self.perceptrons],
        }

    def scale_of(self, channel: str) -> ScoreScale | None:
        """What a channel's scores stand for."""
        return self.scales[self.channels.index(channel)]

    @property
    def regressors(self) -> list[tuple[str, str | None]]:
        """The channel of every regressor and the kind of text that it is for, None for those of all others, in their order."""
        further = [(name, kind) for name, kinds in self.structured.items() for kind in kinds]
        return [*((name, None) for name in self.channels), *further]

    @property
    def reads_structure(self) -> bool:
        """Whether the path reads texts as programs."""
        return bool(self.structure_buckets or self.place_buckets)

    @property
    def reads_vocabulary(self) -> bool:
        """Whether the path must know what its tokens say."""
        return bool(self.name_numbers or self.reads_structure)

    @property
    def parts(self) -> dict[str, int]:
        """How many features there are of each kind, in their order."""
        return {
            "grams": self.buckets,
            "header": 2 * self.number_buckets,
            "largest": self.largest_numbers,
            "placed": self.number_context * (self.code_numbers + self.name_numbers),
            "lengths": 2,
            "structure": self.structure_buckets,
            "places": self.place_buckets,
        }

    @property
    def size(self) -> int:
        """Number of features."""
        return sum(self.parts.values())


def _answered(perceptron: Sequence) -> tuple[tuple[str, str | None], ...]:
    """The regressors that a perceptron answers. One that answers a single one may stand as that."""
    single = isinstance(perceptron, (list, tuple)) and len(perceptron) > 0 and isinstance(perceptron[0], str)
    found = tuple((name, kind) for name, kind in ([perceptron] if single else perceptron))
    if not all(isinstance(name, str) and isinstance(kind, (str, type(None))) for name, kind in found):
        raise TypeError("names and kinds are strings")
    return found


class TokenTexts(nn.Module):
    """What every token says, so that ids can be read as text without their tokenizer.

    Args:
        vocab_size: Tokens that are known.

    Attributes:
        characters: UTF-8 of each token, zeros behind it, uint8 `(vocabulary, LONGEST_TOKEN)`; longer tokens are cut.
    """

    def __init__(self, vocab_size: int):
        super().__init__()
        self.register_buffer("characters", torch.zeros(vocab_size, LONGEST_TOKEN, dtype=torch.uint8))

    def read_vocabulary(self, texts: Sequence[str]) -> None:
        """Notes the text of every token, by id; empty for those that are no text."""
        for token, text in enumerate(texts):
            known = text.encode()[:LONGEST_TOKEN]
            self.characters[token] = torch.tensor([*known, *bytes(LONGEST_TOKEN - len(known))], dtype=torch.uint8)

    def text(self, ids: torch.Tensor) -> str:
        """The text of token ids `(tokens,)`."""
        known = self.characters[ids].flatten()
        return bytes(known[known > 0].tolist()).decode(errors="replace")


class LexicalPath(nn.Module):
    """Scores of the text by channel, and the memory tokens made of them.

    Attributes:
        weight: `(features, regressors)`, fitted in closed form, never by gradients.
        bias: `(regressors,)`.
        idf: Inverse document frequency by bucket `(buckets,)`.
        reader: Finds names that are bound to numbers; there only with `name_numbers`, and to be told the vocabulary.
        texts: What the tokens say; there only where texts are read as programs, and to be told the vocabulary.
        tree_feature, tree_left, tree_right: For each node the feature it asks for and the nodes that follow, itself for a
            leaf, int `(regressors, trees, TREE_NODES)`; these buffers are there only with `trees`.
        tree_threshold, tree_value: Up to what it goes left, and what a leaf adds, `(regressors, trees, TREE_NODES)`.
        perceptrons: Small networks of some regressors; there only with `perceptron_columns`.
    """

    def __init__(self, settings: LexicalSettings, memory_size: int):
        super().__init__()
        self.settings = settings
        channels, regressors = len(settings.channels), len(settings.regressors)
        self.register_buffer("weight", torch.zeros(settings.size, regressors))
        self.register_buffer("bias", torch.zeros(regressors))
        self.register_buffer("idf", torch.ones(settings.buckets))
        if settings.name_numbers:
            self.reader = NumberReader(settings.vocabulary)
        if settings.reads_structure:
            self.texts = TokenTexts(settings.vocabulary)
        if settings.trees:
            shape = (regressors, settings.trees, TREE_NODES)
            self.register_buffer("tree_feature", torch.zeros(shape, dtype=torch.int32))
            for name in ("tree_left", "tree_right"):
                self.register_buffer(name, torch.zeros(shape, dtype=torch.int16))
            for name in ("tree_threshold", "tree_value"):
                self.register_buffer(name, torch.zeros(shape))
        if settings.perceptron_columns:
            self.perceptrons = Perceptrons([len(each) for each in settings.perceptrons], settings.perceptron_columns)
        self.channel_embedding = nn.Parameter(torch.zeros(channels, memory_size))
        self.score_proj = nn.Linear(_KNOTS + 1, memory_size, bias=False)

    def read_vocabulary(self, texts: Sequence[str]) -> None:
        """Notes the text of every token, by id, empty for those that are no text; more of them than known so far make room."""
        if self.settings.vocabulary < len(texts):
            device = self.weight.device
            self.settings = replace(self.settings, vocabulary=len(texts))
            if self.settings.name_numbers:
                self.reader = NumberReader(len(texts)).to(device)
            if self.settings.reads_structure:
                self.texts = TokenTexts(len(texts)).to(device)
        for part in ("reader", "texts"):
            if hasattr(self, part):
                getattr(self, part).read_vocabulary(texts)

    def knows_vocabulary(self) -> bool:
        """Whether the path was told what its tokens say, or need not know."""
        told = [self.reader.kinds] if self.settings.name_numbers else []
        told += [self.texts.characters] if self.settings.reads_structure else []
        return all(bool(table.any()) for table in told)

    def take_over(self, old: "LexicalPath") -> None:
        """Copies all that a path was fitted to and has learned; this one may have room for more behind it."""
        own = self.state_dict()
        for name, tensor in old.state_dict().items():
            own[name][tuple(slice(size) for size in tensor.shape)] = tensor

    def features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """Features `(batch, size)` in float32 of token ids `(batch, length)`; see the module for what they are."""
        return self._scaled(self.raw_features(input_ids, attention_mask))

    def _scaled(self, raw: torch.Tensor) -> torch.Tensor:
        grams = raw[:, : self.settings.buckets] * self.idf.float()
        grams = grams / grams.norm(dim=1, keepdim=True).clamp_min(1e-6)
        return torch.cat([grams, raw[:, self.settings.buckets :]], 1)

    def raw_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The features before n-grams are weighted by `idf` and scaled, `(batch, size)` in float32."""
        s, device = self.settings, input_ids.device
        batch, length = input_ids.shape
        ids = input_ids.long()
        lines, body = self._body(ids, attention_mask)
        counts = torch.zeros(batch, s.buckets, device=device)
        gram = torch.zeros_like(ids)
        for n in range(1, min(s.longest_gram, length) + 1):
            reach = length - n + 1
            gram = _mix(gram[:, :reach] * 31 + ids[:, n - 1 :] + n)
            whole = gram.new_ones(batch, reach, dtype=torch.bool)
            for k in range(n):
                whole &= body[:, k : k + reach]
            counts.scatter_add_(1, gram % s.buckets, whole.float())
        grams = torch.where(counts > 0, 1 + counts.clamp_min(1).log(), 0.0)
        sizes = torch.stack([(body.sum(1) + 1).log(), ((body & lines).sum(1) + 1).log()], 1)
        return torch.cat([grams, self._numbers(ids, body, lines), sizes, self._structure(ids, body)], 1)

    def _body(self, ids: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Which tokens hold a line break, and which stand behind the first: that line asks for metrics and says nothing of the
        code. Two of bool `(batch, length)`."""
        lines = torch.isin(ids, torch.tensor(self.settings.line_tokens, device=ids.device, dtype=torch.long))
        body = (lines.cumsum(1) - lines.long()) > 0
        return lines, body if attention_mask is None else body & attention_mask.bool()

    def _language(self, tokens: torch.Tensor) -> str:
        """The language that the header of a text names, "" if none."""
        found = _LANGUAGE.search(self.texts.text(tokens[:_HEADER_TOKENS]))
        return found[1] if found else ""

    def _structure(self, ids: torch.Tensor, body: torch.Tensor) -> torch.Tensor:
        """Logarithms of 1 + what is counted in each text, by the hash of its name, `(batch, structure + place buckets)`."""
        buckets = {"structure": self.settings.structure_buckets, "places": self.settings.place_buckets}
        found = {kind: torch.zeros(len(ids), count) for kind, count in buckets.items()}
        for row in range(len(ids) if self.settings.reads_structure else 0):
            tokens = ids[row][body[row]]
            for kind, reader in STRUCTURES.get(self._language(tokens), {}).items():
                for name, count in reader(self.texts.text(tokens)).items() if buckets[kind] else ():
                    found[kind][row, zlib.crc32(name.encode()) % buckets[kind]] += math.log1p(count)
        return torch.cat(list(found.values()), 1).to(ids.device)

    def _numbers(self, ids: torch.Tensor, body: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
        """Sums of log10(1 + number) of the header and logarithms of their counts, by place; the largest of the code; those of
        the code by the tokens before, and those of its names.

        Returns:
            `(batch, 2 * number buckets + largest numbers + number context * (code numbers + name numbers))`.
        """
        s, device = self.settings, ids.device
        sums = torch.zeros(len(ids), s.number_buckets, device=device)
        counts = torch.zeros_like(sums)
        largest = torch.zeros(len(ids), s.largest_numbers, device=device)
        placed = torch.zeros(len(ids), s.number_context, s.code_numbers, device=device)
        named = torch.zeros(len(ids), s.number_context, s.name_numbers, device=device)
        if s.digit_tokens:
            begins_line = F.pad(lines[:, :-1], (1, 0), value=True)
            code = begins_line & ~torch.isin(ids, torch.tensor(s.comment_tokens, device=device, dtype=torch.long))
            header = body & (code.cumsum(1) == 0)
            if s.largest_numbers or s.code_numbers or s.name_numbers:
                begins, number = read_numbers(self._digits(ids, body & ~header))
                sizes = torch.where(begins, (number + 1).log10(), 0.0).float()
            if s.name_numbers:
                _, begins_name, bound = self.reader.bound_names(ids, begins, number)
                bound = torch.where(begins_name & body & ~header, (bound + 1).log10(), 0.0).float()
            before = torch.zeros_like(ids)
            for k in range(s.number_context):
                before = _mix(before * 31 + F.pad(ids, (k + 1, 0))[:, : ids.shape[1]])
                if s.code_numbers:
                    placed[:, k].scatter_reduce_(1, before % s.code_numbers, sizes, "amax")
                if s.name_numbers:
                    named[:, k].scatter_reduce_(1, before % s.name_numbers, bound, "amax")
            if s.largest_numbers:
                found = sizes.topk(min(s.largest_numbers, sizes.shape[1]), 1).values
                largest[:, : found.shape[1]] = found
            # Headers are short: the rest of the text is not looked at.
            reach = int(header.sum(1).max()) + int((~body).sum(1).min()) + 1
            ids, header, begins_line = ids[:, :reach], header[:, :reach], begins_line[:, :reach]
            begins, number = read_numbers(self._digits(ids, header))
            position = torch.arange(ids.shape[1], device=device).expand_as(ids)
            starts = torch.where(begins_line, position, 0).cummax(1).values
            word = ids.gather(1, (starts + 1).clamp_max(ids.shape[1] - 1))
            key = _mix(_mix(word) + F.pad(ids[:, :-1], (1, 0))) % s.number_buckets
            sums.scatter_add_(1, key, torch.where(begins, (number + 1).log10(), 0.0).float())
            counts.scatter_add_(1, key, begins.float())
        return torch.cat([sums, (counts + 1).log(), largest, placed.flatten(1), named.flatten(1)], 1)

    def _digits(self, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """The digit that each token is, -1 for none and outside of `where`, int64 `(batch, length)`."""
        digit_tokens, device = self.settings.digit_tokens, ids.device
        values = torch.full((max(int(ids.max()), *digit_tokens) + 1,), -1, device=device)
        values[torch.tensor(digit_tokens, device=device)] = torch.arange(10, device=device)
        return torch.where(where, values[ids], -1)

    def scores(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        words: Sequence[frozenset[str]] | None = None,
    ) -> torch.Tensor:
        """Score of each channel `(batch, channels)`, on the channel's scale.

        Args:
            words: What `words` says of these texts, if that is known.
        """
        with torch.autocast(input_ids.device.type, enabled=False):
            raw = self.raw_features(input_ids, attention_mask)
            words = self.words(input_ids, attention_mask) if words is None else words
            scores = self._scaled(raw) @ self.weight.float() + self.bias.float()
            if self.settings.trees:
                asked = [
                    kind is None or any(of_kind(kind, each) for each in words) for _, kind in self.settings.regressors
                ]
                scores = scores + self.further(raw, asked)
            return self.chosen(scores, words)

    def words(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> list[frozenset[str]]:
        """The language and the words of each text that is read as a program, nothing of others: see `of_kind`."""
        if not self.settings.reads_structure:
            return [frozenset()] * len(input_ids)
        ids, found = input_ids.long(), []
        for row, keep in zip(ids, self._body(ids, attention_mask)[1], strict=True):
            tokens = row[keep]
            language = self._language(tokens)
            known = language in STRUCTURES
            spoken = [language, *_WORD.findall(self.texts.text(tokens))] if known else []
            found.append(frozenset(map(sys.intern, spoken)))  # many texts, few words
        return found

    def chosen(self, scores: torch.Tensor, words: Sequence[frozenset[str]]) -> torch.Tensor:
        """The score of each channel `(batch, channels)` from those of all regressors `(batch, regressors)`."""
        return scores.gather(1, torch.from_numpy(self._tellers(words)).to(scores.device))

    def errors(self, words: Sequence[frozenset[str]]) -> np.ndarray:
        """How far each channel's score may be from the truth, on the channel's scale, float64 `(texts, channels)`.

        Where nobody knows how well the regressor does that tells it, as far as that of the channel's worst; 1 where nothing is
        known of any.
        """
        s = self.settings
        known = np.array(s.errors)
        widest = np.zeros(len(s.channels))
        for (name, _), error in zip(s.regressors, s.errors, strict=True):
            widest[s.channels.index(name)] = max(widest[s.channels.index(name)], error)
        found = known[self._tellers(words)]
        return np.where(found > 0, found, np.where(widest > 0, widest, 1.0))

    def _tellers(self, words: Sequence[frozenset[str]]) -> np.ndarray:
        """Which regressor tells the score of each channel, int64 `(texts, channels)`."""
        s = self.settings
        found = np.tile(np.arange(len(s.channels)), (len(words), 1))
        for number, (name, kind) in enumerate(s.regressors[len(s.channels) :], start=len(s.channels)):
            of_it = np.array([of_kind(kind, each) for each in words], dtype=bool)
            found[of_it, s.channels.index(name)] = number
        return found

    def further(self, raw: torch.Tensor, asked: Sequence[bool] | None = None) -> torch.Tensor:
        """What trees and perceptrons add to the score of each regressor `(batch, regressors)`; of those that are not asked it
        means nothing."""
        found = self._grown(raw, asked)
        if self.settings.perceptrons:
            numbers = {regressor: number for number, regressor in enumerate(self.settings.regressors)}
            place = torch.tensor([numbers[regressor] for each in self.settings.perceptrons for regressor in each])
            found.index_add_(1, place.to(found.device), self.perceptrons(raw))
        return found

    def _grown(self, raw: torch.Tensor, asked: Sequence[bool] | None = None) -> torch.Tensor:
        """What the trees add to the score of each regressor `(batch, regressors)`; 0 for those that are not asked."""
        # All regressors, trees and nodes in one row: a node is a number, and so is a root. Trees of one leaf go nowhere.
        feature, left, right, threshold, value = (
            getattr(self, f"tree_{name}") for name in ("feature", "left", "right", "threshold", "value")
        )
        reached = value[:, :, 0].float().repeat(len(raw), 1, 1)
        grown = left[:, :, 0] > 0
        if asked is not None:
            asked = torch.tensor(asked, dtype=torch.bool, device=raw.device)[:, None]
            grown &= asked
            reached *= asked
        roots = grown.flatten().nonzero()[:, 0] * TREE_NODES
        feature, left, right, threshold, value = (t.flatten() for t in (feature, left, right, threshold, value))
        at = roots.expand(len(raw), len(roots))
        while True:
            goes_left = raw.gather(1, feature[at].long()) <= threshold[at].float()
            after = roots + torch.where(goes_left, left[at], right[at]).long()
            if torch.equal(after, at):
                break
            at = after
        reached[:, grown] = value[at].float()
        return reached.sum(2)

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        """Memory tokens `(batch, channels, memory size)` of scores `(batch, channels)`."""
        knots = torch.linspace(-4, 4, _KNOTS, device=scores.device)
        width = 8 / (_KNOTS - 1)
        scores = scores.float().clamp(-8, 8)[..., None]
        basis = torch.cat([torch.exp(-0.5 * ((scores - knots) / width) ** 2), scores], -1)
        return self.score_proj(basis.to(self.score_proj.weight.dtype)) + self.channel_embedding


def of_kind(kind: str, words: frozenset[str]) -> bool:
    """Whether a text with these words, its language among them, is of a kind (`LexicalSettings.structured`)."""
    return words.issuperset(kind.split())


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Scrambles non-negative int64 so that neighbours fall far apart (two rounds of a multiplicative hash)."""
    x = (x % _MODULUS) * 48271 % _MODULUS
    return (x ^ (x >> 13)) * 69621 % _MODULUS


__all__ = ["STRUCTURES", "TREE_NODES", "LexicalPath", "LexicalSettings", "ScoreScale", "TokenTexts", "of_kind"]
