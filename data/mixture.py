"""Batches for training: tokenised sources, drawn by weight, bucketed by length under a token budget.

Everything that is drawn depends on the seed and the batch's number alone, so a run that was killed goes on with exactly the
batches that it would have had.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from code_rlm.data.schema import DataError
from code_rlm.inputs_rlm import InputLayout, frame, metric_groups, tokenize
from code_rlm.numbers_rlm import FAILED
from code_rlm.tokenization_rlm import RLMTokenizer

IGNORE = -100


@dataclass
class Source:
    """One data set as token ids.

    Attributes:
        name: Name, for the log.
        bodies: Token ids of each row's code.
        languages, contexts: Each row's header lines.
        metrics: Names of the metrics in any row.
        codes: Number tokens int16 `(rows, metrics, code length)`.
        present: Which of them were measured, bool `(rows, metrics)`.
        dropped: Rows left out because none of their metrics was measured.
        mask_tokens: Share of code tokens that training hides behind `<mask>`, drawn anew each time: a small source read many
            times over is not learned by heart.
    """

    name: str
    bodies: list[np.ndarray]
    languages: list[str]
    contexts: list[tuple[str, ...]]
    metrics: list[str]
    codes: np.ndarray
    present: np.ndarray
    dropped: int = 0
    mask_tokens: float = 0.0

    def __len__(self) -> int:
        return len(self.bodies)

    @classmethod
    def from_dataset(
        cls, name: str, dataset: Dataset, tokenizer: RLMTokenizer, metrics: Sequence[str] | None = None
    ) -> "Source":
        """Tokenises a data set of the schema; a row whose program did not finish has the outcome `failed` everywhere."""
        rows = dataset.to_dict()
        metrics = list(metrics or dict.fromkeys(m for names in rows["metrics"] for m in names))
        index = {m: i for i, m in enumerate(metrics)}
        values = np.full((len(dataset), len(metrics)), np.nan)
        present = np.zeros(values.shape, dtype=bool)
        for i, (names, numbers, outcome) in enumerate(
            zip(rows["metrics"], rows["values"], rows["outcome"], strict=True)
        ):
            for metric, value in zip(names, numbers, strict=True):
                if metric in index and (value is not None or outcome != "ok"):
                    values[i, index[metric]] = FAILED if value is None else value
                    present[i, index[metric]] = True
        keep = np.flatnonzero(present.any(1))
        if not len(keep):
            raise DataError(f"{name}: none of the {len(dataset)} rows has a value for {metrics}.")
        unique, inverse = np.unique(np.array(rows["text"], dtype=object)[keep], return_inverse=True)
        ids = [np.asarray(t, dtype=np.int32) for t in tokenize(tokenizer, list(unique))]
        codes = np.zeros((*present.shape, tokenizer.codec.length), dtype=np.int16)
        codes[present] = tokenizer.encode_numbers(values[present])
        return cls(
            name,
            [ids[i] for i in inverse],
            [rows["language"][i] for i in keep],
            [tuple(rows["context"][i]) for i in keep],
            metrics,
            codes[keep],
            present[keep],
            dropped=len(dataset) - len(keep),
        )


@dataclass
class Mixture:
    """Draws batches from several sources.

    Attributes:
        sources, weights: Each source and its share of the examples.
        tokenizer: For headers.
        max_tokens: Longest input; the code's middle is left out beyond.
        batch_tokens: Input tokens in a batch, padding included.
        max_objectives: The most metrics asked for at once; which and in what order is drawn for every example, so that the
            model answers any subset in any order.
        templates: Metric to template, of those that have one (`RLMConfig.templates`); such a metric is asked for alone.
        seed: Of everything drawn.
        pool: Examples drawn at once and bucketed by length.
    """

    sources: Sequence[Source]
    weights: Sequence[float]
    tokenizer: RLMTokenizer
    max_tokens: int = 1024
    batch_tokens: int = 16384
    max_objectives: int = 4
    seed: int = 0
    pool: int = 4096
    templates: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.layout = InputLayout.of(self.tokenizer, self.max_tokens)
        self._header = lru_cache(maxsize=200_000)(self._tokenize_header)
        self._tail = lru_cache(maxsize=200_000)(self._tokenize_tail)
        self.truncated = 0
        self.drawn = 0

    def _tokenize_header(self, metrics: tuple[str, ...], language: str, context: tuple[str, ...]) -> list[int]:
        return tokenize(self.tokenizer, [frame(metrics, language, context, self.templates)[0]])[0]

    def _tokenize_tail(self, metrics: tuple[str, ...], language: str, context: tuple[str, ...]) -> list[int]:
        return tokenize(self.tokenizer, [frame(metrics, language, context, self.templates)[1]])[0]

    def batches(self, first: int = 0, every: int = 1) -> Iterator[dict[str, torch.Tensor]]:
        """Endless batches number `first`, `first + every`, ...; each as tensors `input_ids`, `attention_mask`, `labels`."""
        number, pool = 0, 0
        while True:
            examples, groups = self._pool(pool)
            for group in groups:
                if number >= first and (number - first) % every == 0:
                    yield self.collate([examples[i] for i in group])
                number += 1
            pool += 1

    def _pool(self, number: int) -> tuple[list[tuple[list[int], np.ndarray]], list[np.ndarray]]:
        rng = np.random.default_rng([self.seed, number])
        shares = np.asarray(self.weights, dtype=np.float64)
        chosen = rng.choice(len(self.sources), self.pool, p=shares / shares.sum())
        examples = [self.example(self.sources[s], int(rng.integers(len(self.sources[s]))), rng) for s in chosen]
        lengths = np.array([len(ids) for ids, _ in examples])
        order = np.argsort(lengths + rng.random(len(lengths)), kind="stable")
        groups, start = [], 0
        while start < len(order):
            end = start + 1
            while end < len(order) and lengths[order[end]] * (end + 1 - start) <= self.batch_tokens:
                end += 1
            groups.append(order[start:end])
            start = end
        return examples, [groups[i] for i in rng.permutation(len(groups))]

    def example(self, source: Source, row: int, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
        """Input ids and labels of one row, metrics and their order drawn at random."""
        present = np.flatnonzero(source.present[row])
        count = int(rng.integers(1, min(self.max_objectives, len(present)) + 1))
        order = rng.permutation(present)
        together = metric_groups([source.metrics[i] for i in order], self.templates)[0]
        chosen = [i for i in order if source.metrics[i] in together][:count]
        body = source.bodies[row]
        if source.mask_tokens:
            body = np.where(rng.random(len(body)) < source.mask_tokens, self.tokenizer.mask_token_id, body)
        return self.build(source, row, chosen, body)

    def build(
        self, source: Source, row: int, chosen: Sequence[int], body: np.ndarray | None = None
    ) -> tuple[list[int], np.ndarray]:
        """Input ids and labels of one row for the given metrics, in that order; `body` stands in for the row's code."""
        lines = tuple(source.metrics[i] for i in chosen), source.languages[row], source.contexts[row]
        body = source.bodies[row] if body is None else body
        ids, lost = self.layout.join(
            self._header(*lines), body.tolist(), self._tail(*lines), source=f"{source.name} row {row}"
        )
        self.drawn += 1
        self.truncated += lost > 0
        labels = np.append(source.codes[row, chosen].reshape(-1), self.tokenizer.codec.eos_token_id)
        return ids, labels.astype(np.int64)

    def collate(self, examples: Sequence[tuple[list[int], np.ndarray]]) -> dict[str, torch.Tensor]:
        """Pads examples to the longest of the batch."""
        rows, width = len(examples), max(len(ids) for ids, _ in examples)
        places = max(len(labels) for _, labels in examples)
        batch: dict[str, Any] = {
            "input_ids": torch.full((rows, width), self.tokenizer.pad_token_id, dtype=torch.long),
            "attention_mask": torch.zeros((rows, width), dtype=torch.long),
            "labels": torch.full((rows, places), IGNORE, dtype=torch.long),
        }
        for i, (ids, labels) in enumerate(examples):
            batch["input_ids"][i, : len(ids)] = torch.as_tensor(ids)
            batch["attention_mask"][i, : len(ids)] = 1
            batch["labels"][i, : len(labels)] = torch.from_numpy(labels)
        return batch


__all__ = ["Mixture", "Source"]
