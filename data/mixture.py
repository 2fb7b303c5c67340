"""Batches for training: tokenised sources, drawn by weight, bucketed by length under a token budget.

Everything that is drawn depends on the seed and the batch's number alone, so a run that was killed goes on with exactly the
batches that it would have had, and any number of processes can divide the same batches into their shares.

With a streamed source (`data.streamed`) every process makes batches of its own from its share of the stream, and where each
reader stands is a part of the position. Such a run goes on with the same number of processes and workers.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.utils import data as torch_data

from code_rlm.data.published import counted
from code_rlm.data.schema import DataError
from code_rlm.errors_rlm import NumberCodeError, NumberRangeError
from code_rlm.numbers_rlm import FAILED
from code_rlm.processing_rlm import (
    EncodedInput,
    InputLayout,
    ends_of,
    frame,
    header_language,
    length_batches,
    metric_groups,
    model_text,
    pad_inputs,
    pad_rows,
    tokenize,
)
from code_rlm.tokenization_rlm import RLMTokenizer

if TYPE_CHECKING:
    from code_rlm.data.streamed import StreamSource

IGNORE = -100
FAILURES = ("outcome", "drop")


@dataclass
class Source:
    """One data set as token ids.

    Attributes:
        name: Name, for the log.
        bodies: Token ids of each row's code.
        languages, contexts: Each row's header lines.
        metrics: Names of the metrics in any row.
        values: Their numbers, float64 `(rows, metrics)`; NaN where missing, `FAILED` where the run failed.
        codes: Number tokens int16 `(rows, metrics, code length)`.
        present: Which of them were measured, bool `(rows, metrics)`.
        truncated: Rows so long that their middle was left out before tokenisation, bool `(rows,)`.
        failed: Rows kept with the outcome `failed`.
        dropped: Rows left out because none of their metrics was measured.
        mask_tokens: Share of code tokens that training hides behind `<mask>`, drawn anew each time: a small source read many
            times over is not learned by heart, and the encoder can be trained to restore them (`Mixture.restore`).
        mask_span: Mean length of a run of hidden tokens; lengths are geometric.
        swap_text: Share of draws in which a row comes with the code of another: learning a small source by heart is then of
            little use, and what stays the row's own are its header and its ensemble scores.
        max_tokens: Its own limit on the input's length; None for the mixture's.
        groups: Each row's group, as it was split by.
        ensemble_scores: Scores of the feature ensemble for each row, float32 `(rows, metrics)`, where the model has one.
    """

    name: str
    bodies: list[np.ndarray]
    languages: list[str]
    contexts: list[tuple[str, ...]]
    metrics: list[str]
    values: np.ndarray
    codes: np.ndarray
    present: np.ndarray
    truncated: np.ndarray
    failed: int = 0
    dropped: int = 0
    mask_tokens: float = 0.0
    mask_span: float = 1.0
    swap_text: float = 0.0
    max_tokens: int | None = None
    groups: list[str] = field(default_factory=list)
    ensemble_scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.bodies)

    @classmethod
    def from_dataset(
        cls,
        name: str,
        dataset: Dataset,
        tokenizer: RLMTokenizer,
        metrics: Sequence[str] | None = None,
        *,
        max_tokens: int = 8192,
        failures: str = "outcome",
    ) -> "Source":
        """Tokenises a data set of the schema.

        Args:
            name: Name of the source.
            dataset: Rows in the schema.
            tokenizer: For code and numbers.
            metrics: Which metrics; None for all that any row has.
            max_tokens: Longest input that will be asked for; of longer texts only the ends are tokenised.
            failures: `outcome`: a row whose program did not finish has the outcome `failed` in place of each missing value;
                `drop`: those values are missing like any other.

        Raises:
            DataError: No row has a value, or a value that the number format cannot write, naming row and metric.
        """
        if failures not in FAILURES:
            raise DataError(f"{name}: failures must be {' or '.join(FAILURES)}, got {failures!r}")
        rows = dataset.to_dict()
        metrics = list(metrics or dict.fromkeys(m for names in rows["metrics"] for m in names))
        index = {m: i for i, m in enumerate(metrics)}
        values = np.full((len(dataset), len(metrics)), np.nan)
        present = np.zeros(values.shape, dtype=bool)
        failed = np.zeros(len(dataset), dtype=bool)
        for i, (names, numbers, outcome) in enumerate(
            zip(rows["metrics"], rows["values"], rows["outcome"], strict=True)
        ):
            for metric, value in zip(names, numbers, strict=True):
                fails = value is None and outcome != "ok" and failures == "outcome"
                if metric in index and (value is not None or fails):
                    values[i, index[metric]] = FAILED if value is None else value
                    present[i, index[metric]] = True
                    failed[i] |= fails
        keep = np.flatnonzero(present.any(1))
        if not len(keep):
            raise DataError(f"{name}: none of the {len(dataset)} rows has a value for {metrics}.")
        ends = [ends_of(text, max_tokens) for text in rows["text"]]
        texts = [model_text(text, language) for (text, _), language in zip(ends, rows["language"], strict=True)]
        unique, inverse = np.unique(np.array(texts, dtype=object)[keep], return_inverse=True)
        ids = [np.asarray(t, dtype=np.int32) for t in tokenize(tokenizer, list(unique))]
        codes = np.zeros((*present.shape, tokenizer.codec.length), dtype=np.int16)
        codes[present] = _encoded(name, tokenizer, values, present, metrics)
        return cls(
            name,
            [ids[i] for i in inverse],
            [rows["language"][i] for i in keep],
            [tuple(rows["context"][i]) for i in keep],
            metrics,
            values[keep],
            codes[keep],
            present[keep],
            np.array([bool(middle) for _, middle in ends])[keep],
            failed=int(failed.sum()),
            dropped=len(dataset) - len(keep),
            groups=[rows["group"][i] for i in keep],
        )


def _encoded(name: str, tokenizer: RLMTokenizer, values: np.ndarray, present: np.ndarray, metrics: list[str]) -> Any:
    """Number tokens of the values that are present; an error names the first row and metric that cannot be written."""
    try:
        return tokenizer.encode_numbers(values[present])
    except (NumberRangeError, NumberCodeError):
        for row, column in zip(*np.nonzero(present)):
            try:
                tokenizer.encode_numbers(values[row, column])
            except (NumberRangeError, NumberCodeError) as error:
                raise DataError(f"{name}: row {row} of the split, {metrics[column]}: {error}") from None
        raise


@dataclass
class Item(EncodedInput):
    """One example of a batch.

    Attributes:
        labels: Number tokens of every metric asked for, then the end token, int64.
        extras: What else the batch holds for the row: arrays whose shape is the same for all rows, by the batch's key.
        hidden: The tokens behind each `<mask>` of `input_ids`, -100 elsewhere, int64; None where it is not asked for.
    """

    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    extras: dict[str, np.ndarray] = field(default_factory=dict)
    hidden: np.ndarray | None = None


@dataclass
class Pool:
    """Examples drawn together, as batches.

    Attributes:
        batches: Arrays by name.
        drawn: Examples in them.
        truncated: How many of these lost a part of their text.
        lane: The reader of streamed sources that they came from.
        before, after: Where that reader stood before and after, for each streamed source.
        counts: What that reader has left out so far, by reason, for each streamed source.
    """

    batches: list[dict[str, np.ndarray]]
    drawn: int
    truncated: int
    lane: int
    before: list[dict[str, int]]
    after: list[dict[str, int]]
    counts: list[dict[str, int]]


@dataclass
class Pools(torch_data.Dataset):
    """The pools of a mixture by number."""

    mixture: "Mixture"

    def __getitem__(self, number: int) -> Pool:
        mixture = self.mixture
        lane = mixture.lane_of(number)
        before = mixture.stream_states(lane)
        items, groups = mixture.pool_of(number)
        # Arrays, not tensors: between processes each tensor would keep a file open.
        batches = [mixture.collate([items[i] for i in group]) for group in groups]
        arrays = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches]
        truncated = sum(item.truncated_tokens > 0 for item in items)
        counts = [stream.counts_of(lane) for stream in mixture.streams]
        return Pool(arrays, len(items), truncated, lane, before, mixture.stream_states(lane), counts)


class BatchStream:
    """Endless batches; `position` says where the next one stands, as (pool, number in the pool).

    Args:
        mixture: What they are drawn from.
        position: Of the first one.
        workers: Processes that make them, ahead of use; 0: this one, when they are asked for.
    """

    def __init__(self, mixture: "Mixture", position: tuple[int, int] = (0, 0), workers: int = 0):
        self.mixture, self.position, self.workers = mixture, tuple(position), workers
        self._pool: Pool | None = None
        self._pools: Iterator | None = None
        self._states: dict[int, list[dict[str, int]]] = {}
        self._counts: dict[int, list[dict[str, int]]] = {}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return self

    @property
    def stream_states(self) -> dict[int, list[dict[str, int]]]:
        """Where each reader of this process goes on if the run is resumed at `position`, for each streamed source."""
        states = {lane: self.mixture.stream_states(lane) for lane in self.mixture.own_lanes} | self._states
        return {lane: state for lane, state in states.items() if state}

    def left_out(self) -> list[str]:
        """Returns one line for each reason for which this process left out rows of a stream, since it began."""
        lines = []
        for number, stream in enumerate(self.mixture.streams):
            total: Counter[str] = Counter()
            for counts in self._counts.values():
                total.update(counts[number])
            lines += counted(total, stream.name)
        return lines

    def __next__(self) -> dict[str, torch.Tensor]:
        pool, number = self.position
        if self._pools is None:
            # A generator of its own: the loader draws a seed, and dropout is to go on as if it had not.
            loader = torch_data.DataLoader(
                Pools(self.mixture),
                batch_size=None,
                sampler=range(pool, 2**31),
                collate_fn=_as_it_is,
                num_workers=self.workers,
                generator=torch.Generator(),
            )
            self._pools = iter(loader)
        if self._pool is None:
            self._pool = next(self._pools)
            self._states[self._pool.lane] = self._pool.before
            self._counts[self._pool.lane] = self._pool.counts
            if self.workers:  # they have counted in their own copies of the mixture
                self.mixture.drawn += self._pool.drawn
                self.mixture.truncated += self._pool.truncated
        batch = {name: torch.from_numpy(array) for name, array in self._pool.batches[number].items()}
        last = number + 1 == len(self._pool.batches)
        self.position = (pool + 1, 0) if last else (pool, number + 1)
        if last:
            self._states[self._pool.lane] = self._pool.after
            self._pool = None
        return batch


def _as_it_is(pool: Any) -> Any:
    return pool


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
        seed: Of everything drawn.
        pool: Examples drawn at once and bucketed by length.
        draws: How many fixed draws of metrics, order and masks each row has, so that its inputs are finitely many and their
            encoder outputs can be kept; None: drawn anew each time.
        templates: Metric to template, of those that have one (`RLMConfig.templates`); such a metric is asked for alone.
        with_targets: Put the first number asked for into the batch as well, `targets`, for a regression head.
        restore: Put the tokens that are hidden into the batch as well, `hidden` as `Item` has it.
        process, processes: Of streamed sources: this process, and how many there are; each makes batches of its own.
        workers: Of streamed sources: processes beside this one that make its batches.
    """

    sources: "Sequence[Source | StreamSource]"
    weights: Sequence[float]
    tokenizer: RLMTokenizer
    max_tokens: int = 1024
    batch_tokens: int = 16384
    max_objectives: int = 4
    seed: int = 0
    pool: int = 4096
    draws: int | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    with_targets: bool = False
    restore: bool = False
    process: int = 0
    processes: int = 1
    workers: int = 0

    def __post_init__(self):
        self.layout = InputLayout.of(self.tokenizer, self.max_tokens)
        self._header = lru_cache(maxsize=200_000)(self._tokenize_header)
        names = dict.fromkeys(m for source in self.sources for m in source.metrics)
        self.metric_numbers = {name: number for number, name in enumerate(names)}
        self.truncated = 0
        self.drawn = 0

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: all but the cache of headers."""
        return {name: value for name, value in vars(self).items() if name != "_header"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._header = lru_cache(maxsize=200_000)(self._tokenize_header)

    def _tokenize_header(self, metrics: tuple[str, ...], language: str, context: tuple[str, ...]) -> list[list[int]]:
        """Token ids before and behind the code."""
        return tokenize(self.tokenizer, list(frame(metrics, language, context, self.templates)))

    def batches(self, position: tuple[int, int] = (0, 0), workers: int = 0) -> BatchStream:
        """Endless batches from a position on; each as tensors `input_ids`, `attention_mask`, `labels`, `first_metric`.

        They are the same whatever the number of `workers`, processes that make them ahead of use.
        """
        return BatchStream(self, position, workers)

    @property
    def streams(self) -> "list[StreamSource]":
        """The sources that are read as they are used."""
        return [source for source in self.sources if not isinstance(source, Source)]

    @property
    def own_lanes(self) -> range:
        """The readers of streamed sources that belong to this process: one for each of its workers."""
        count = max(1, self.workers)
        return range(self.process * count, (self.process + 1) * count)

    @property
    def lanes(self) -> int:
        """Readers of streamed sources in all processes."""
        return self.processes * max(1, self.workers)

    def lane_of(self, number: int) -> int:
        """Returns the reader that a pool's streamed rows come from. Workers take pools in turn, so each has its own reader."""
        return self.own_lanes[number % len(self.own_lanes)]

    def stream_states(self, lane: int) -> list[dict[str, int]]:
        """Returns where a reader stands in each streamed source."""
        return [stream.state_of(lane) for stream in self.streams]

    def set_stream_states(self, states: Mapping[int, Sequence[Mapping[str, int]]]) -> None:
        """Lets readers go on where they stood; by lane, for each streamed source."""
        for lane, of_streams in states.items():
            for stream, state in zip(self.streams, of_streams, strict=True):
                stream.states[lane] = state

    def pool_of(self, number: int) -> tuple[list[Item], list[np.ndarray]]:
        """The examples of a pool, and the batches that they make, as indices."""
        rng = np.random.default_rng([self.seed, number, self.process] if self.streams else [self.seed, number])
        shares = np.asarray(self.weights, dtype=np.float64)
        chosen = rng.choice(len(self.sources), self.pool, p=shares / shares.sum())
        items = self._streamed_items(chosen, number, rng) if self.streams else []
        if not items:
            items = [self.example(s, int(rng.integers(len(self.sources[s]))), rng) for s in chosen]
        self.drawn += len(items)
        self.truncated += sum(item.truncated_tokens > 0 for item in items)
        lengths = np.array([len(item.input_ids) for item in items])
        order = np.argsort(lengths + rng.random(len(lengths)), kind="stable")
        groups = length_batches(lengths, batch_tokens=self.batch_tokens, order=order)
        return items, [groups[i] for i in rng.permutation(len(groups))]

    def _streamed_items(self, chosen: np.ndarray, number: int, rng: np.random.Generator) -> list[Item]:
        """Returns the examples of a pool with streamed sources: the next rows of these, and random rows of the others."""
        lane = self.lane_of(number)
        items: list[Item] = []
        for index in np.unique(chosen).tolist():
            source, count = self.sources[index], int((chosen == index).sum())
            if isinstance(source, Source):
                items += [self.example(index, int(rng.integers(len(source))), rng) for _ in range(count)]
            else:
                rows = source.take(count, lane, self.lanes)
                items += [self._drawn_example(rows, row, rng) for row in range(len(rows))]
        return items

    def example(self, number: int, row: int, rng: np.random.Generator) -> Item:
        """One row of source `number`, metrics and their order drawn at random, or one of the row's fixed draws."""
        if self.draws is not None:
            return self.fixed_example(number, row, int(rng.integers(self.draws)))
        return self._drawn_example(self._whole_source(number), row, rng)

    def fixed_example(self, number: int, row: int, draw: int) -> Item:
        """Draw number `draw` of a row: the same metrics, order and masks every time."""
        rng = np.random.default_rng([self.seed, number, row, draw])
        return self._drawn_example(self._whole_source(number), row, rng)

    def _whole_source(self, number: int) -> Source:
        """Returns a source that has rows by number, which a stream has not."""
        source = self.sources[number]
        assert isinstance(source, Source)
        return source

    def _drawn_example(self, source: Source, row: int, rng: np.random.Generator) -> Item:
        present = np.flatnonzero(source.present[row])
        count = int(rng.integers(1, min(self.max_objectives, len(present)) + 1))
        order = rng.permutation(present)
        together = metric_groups([source.metrics[i] for i in order], self.templates)[0]
        chosen = [i for i in order if source.metrics[i] in together][:count]
        code = row
        if source.swap_text and rng.random() < source.swap_text:
            code = int(rng.integers(len(source)))
        body, truncated = source.bodies[code], bool(source.truncated[code])
        if not source.mask_tokens:
            return self.build(source, row, chosen, body, truncated)
        mask = self.tokenizer.mask_token_id
        hidden = hidden_places(len(body), source.mask_tokens, source.mask_span, rng)
        item = self.build(source, row, chosen, np.where(hidden, mask, body), truncated)
        if self.restore:
            whole = np.array(self.build(source, row, chosen, body, truncated).input_ids)
            item.hidden = np.where(np.array(item.input_ids) == mask, whole, IGNORE)
        return item

    def build(
        self,
        source: Source,
        row: int,
        chosen: Sequence[int],
        body: np.ndarray | None = None,
        truncated: bool | None = None,
    ) -> Item:
        """One row for the given metrics, in that order; `body` stands in for the row's code, `truncated` is that code's."""
        metrics, language = tuple(source.metrics[i] for i in chosen), source.languages[row]
        head, tail = self._header(metrics, language, source.contexts[row])
        body = source.bodies[row] if body is None else body
        truncated = bool(source.truncated[row]) if truncated is None else truncated
        limit = min(source.max_tokens or self.layout.max_tokens, self.layout.max_tokens)
        layout = self.layout if limit == self.layout.max_tokens else replace(self.layout, max_tokens=limit)
        code = body.tolist()
        ids, lost = layout.join(head, code, tail, source=f"{source.name} row {row}", truncated=truncated)
        labels = np.append(source.codes[row, chosen].reshape(-1), self.tokenizer.codec.eos_token_id)
        first = np.int64(self.metric_numbers.get(source.metrics[chosen[0]], -1))
        extras = {"first_metric": first}
        if self.with_targets:
            extras["targets"] = source.values[row, chosen[0]]
        if source.ensemble_scores is not None:
            extras["ensemble_scores"] = source.ensemble_scores[row]
        # Of a source's long texts it is only known that something was left out.
        lost = max(lost, int(truncated))
        return Item(
            input_ids=ids,
            truncated_tokens=lost,
            language=header_language(metrics, language, self.templates),
            code_ids=code,
            labels=labels.astype(np.int64),
            extras=extras,
        )

    def collate(self, items: Sequence[Item]) -> dict[str, torch.Tensor]:
        """Pads examples to the longest of the batch."""
        batch = pad_inputs([item.input_ids for item in items], self.tokenizer.pad_token_id)
        batch["labels"] = pad_rows([item.labels for item in items], IGNORE)
        if self.restore:
            nothing = np.zeros(0, dtype=np.int64)
            hidden = pad_rows([nothing if item.hidden is None else item.hidden for item in items], IGNORE)
            missing = batch["input_ids"].shape[1] - hidden.shape[1]
            batch["hidden"] = F.pad(hidden, (0, missing), value=IGNORE)
        for name in items[0].extras:
            batch[name] = torch.from_numpy(np.stack([item.extras[name] for item in items]))
        return batch


def hidden_places(length: int, share: float, span: float, rng: np.random.Generator) -> np.ndarray:
    """Which of `length` tokens are hidden, bool: in expectation at most `share` of them, in runs of `span` in the mean.

    Runs start anywhere with the same probability and may meet, so that a little less than the share is hidden.
    """
    starts = np.flatnonzero(rng.random(length) < share / span)
    hidden = np.zeros(length, dtype=bool)
    for start, run in zip(starts, rng.geometric(1 / span, len(starts)), strict=True):
        hidden[start : start + run] = True
    return hidden


def share(batch: Mapping[str, torch.Tensor], index: int, count: int) -> dict[str, torch.Tensor]:
    """The rows of a batch that process `index` of `count` takes: every `count`-th, so that the shares are of like length.

    A process that gets none takes a row that costs nothing, as all processes must step together.
    """
    if count == 1:
        return dict(batch)
    if index < len(batch["labels"]):
        return {name: tensor[index::count] for name, tensor in batch.items()}
    spare = {name: tensor[:1] for name, tensor in batch.items()}
    for name in ("labels", "hidden"):
        if name in spare:
            spare[name] = torch.full_like(spare[name], IGNORE)
    return spare


def mixture_weights(sizes: Sequence[int], given: Sequence[float | None], temperature: float) -> list[float]:
    """Shares of the sources, summing to 1.

    Sources without a share of their own divide what the others leave by `rows ** (1 / temperature)` (arXiv 1910.10683, section
    3.5.2). If every source has one, only their ratios count.

    Raises:
        DataError: A share that is not above zero, or shares that leave nothing for the other sources.
    """
    for weight in given:
        if weight is not None and (isinstance(weight, bool) or not isinstance(weight, (int, float)) or weight <= 0):
            raise DataError(f"the weight of a source must be above zero, got {weight!r}")
    own = [weight for weight in given if weight is not None]
    fixed = sum(own)
    if len(own) == len(given):
        return [weight / fixed for weight in own]
    if fixed >= 1:
        raise DataError(
            f"the weights given sum to {fixed:g}, which leaves nothing for the sources without one: shares of the whole such "
            "as 0.2 are meant, or give every source a weight"
        )
    powers = [size ** (1 / temperature) if weight is None else 0.0 for size, weight in zip(sizes, given, strict=True)]
    left = 1 - fixed
    return [left * power / sum(powers) if w is None else w for power, w in zip(powers, given, strict=True)]


__all__ = ["BatchStream", "Item", "Mixture", "Pool", "Source", "hidden_places", "mixture_weights", "share"]
