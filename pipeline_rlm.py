"""CodeRegressionPipeline: code in, numbers with intervals out.

pipe = pipeline("code-regression")
pipe("def f(n): return [0] * n", metrics=["peak_memory_bytes"], interval=0.9)
# [{'metric': 'peak_memory_bytes', 'value': ..., 'unit': 'bytes', 'low': ..., 'high': ..., 'level': 0.9, ...}]
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from torch.utils.data import DataLoader
from transformers import Pipeline

from .digit_tree_rlm import EncodedInputs
from .distributions_rlm import Adjustment, Distribution, probability_best
from .errors_rlm import CheckpointError, InputError, MetricError, UnfamiliarInputError
from .explanation_rlm import default_unit, effects, parts_of, without
from .familiarity_rlm import UNFAMILIAR, Comparison, Observation, observe
from .generation_rlm import Prediction
from .numbers_rlm import NumberFormat, is_failed
from .processing_rlm import CodeInput, EncodedInput, RLMProcessor, length_batches, metric_groups, read_input
from .source_rlm import with_kernel_sizes
from .x86_rlm import MEASURED_TO_LEAST


@dataclass
class CallOptions:
    """What a call can ask for.

    Attributes:
        metrics: Names in decoding order; None: those that the checkpoint predicts for the kind of input.
        interval: Probability that the interval holds, inside (0, 1).
        quantiles: Levels, each inside (0, 1), whose quantiles are returned as well.
        above: Limits by metric, in its unit: the probability of more than the limit is returned as well.
        given: Known values by metric; the others are conditioned on them.
        num_samples: Also return so many draws per metric.
        seed: Of the draws, these and those that estimate quantiles in the p10 layout.
        conditioning: `median` or `marginal`: what later metrics are conditioned on, see `predict`.
        language: Kind of input, where the input itself does not say.
        context: Header lines for every input, a mapping or `key: value` strings.
        batch_size: Inputs run together, sorted by length first; None: as many as `CodeRegressionPipeline.batch_tokens` holds.
        calibrated: Answer with calibrated quantiles where the checkpoint has a calibration of the metric.
        outcomes: Also return the probability of each special outcome.
        num_workers: Processes that fetch the items of a data set ahead of use.
        strict: Raise `UnfamiliarInputError` for an input that is unlike the rows that a metric was trained on.
    """

    metrics: Any = None
    interval: float = 0.9
    quantiles: Any = None
    above: Any = None
    given: Any = None
    num_samples: int | None = None
    seed: int = 0
    conditioning: str = "median"
    language: str | None = None
    context: Any = None
    batch_size: int | None = None
    calibrated: bool = True
    outcomes: bool = False
    num_workers: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.metrics, str):
            self.metrics = [self.metrics]
        if self.metrics is not None:
            self.metrics = list(self.metrics)
            if not self.metrics:
                raise MetricError("metrics is empty; name at least one, or leave it out.")
        if isinstance(self.interval, bool) or not isinstance(self.interval, (int, float)) or not 0 < self.interval < 1:
            raise MetricError(
                f"interval must be a probability strictly between 0 and 1, such as 0.9; got {self.interval!r}."
            )
        self.quantiles = _levels(self.quantiles)
        self.above = _limits(self.above)
        if self.above and self.conditioning == "marginal":
            raise MetricError(
                "above needs conditioning='median': a later metric's probability is given the medians before it."
            )
        if self.given is not None and not isinstance(self.given, Mapping):
            raise MetricError(f"given must map metric names to values, got {type(self.given).__name__}.")
        self.given = dict(self.given or {})
        if self.num_samples is not None and not _is_count(self.num_samples):
            raise MetricError(f"num_samples must be a positive int or None, got {self.num_samples!r}.")
        if self.batch_size is not None and not _is_count(self.batch_size):
            raise InputError(f"batch_size must be at least 1, got {self.batch_size!r}.")
        if not isinstance(self.calibrated, bool):
            raise MetricError(f"calibrated must be True or False, got {self.calibrated!r}.")
        if self.num_workers != 0 and not _is_count(self.num_workers):
            raise InputError(f"num_workers must be a whole number of at least 0, got {self.num_workers!r}.")
        if not isinstance(self.strict, bool):
            raise MetricError(f"strict must be True or False, got {self.strict!r}.")

    @property
    def levels(self) -> tuple[float, ...]:
        """Levels of the quantiles to compute: the interval's ends with the median between them, then those asked for."""
        tail = (1 - self.interval) / 2
        return (tail, 0.5, 1 - tail, *self.quantiles)


def _levels(quantiles: Any) -> tuple[float, ...]:
    """Quantile levels as a tuple of floats."""
    levels = () if quantiles is None else tuple(np.atleast_1d(np.asarray(quantiles)).tolist())
    if not all(isinstance(level, (int, float)) and 0 < level < 1 for level in levels):
        raise MetricError(f"quantiles must be levels strictly between 0 and 1, such as [0.1, 0.9]; got {quantiles!r}.")
    return levels


def _limits(above: Any) -> dict[str, float]:
    """Limits by metric as floats."""
    if above is not None and not isinstance(above, Mapping):
        raise MetricError(f"above must map metric names to limits, got {type(above).__name__}.")
    limits = {}
    for name, limit in (above or {}).items():
        if isinstance(limit, bool) or not isinstance(limit, (int, float, np.number)) or not np.isfinite(limit):
            raise MetricError(f"above[{name!r}] must be a finite number in the metric's unit, got {limit!r}.")
        limits[name] = float(limit)
    return limits


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1


def _is_frame(inputs: Any) -> bool:
    """Whether inputs are a pandas DataFrame."""
    return type(inputs).__name__ == "DataFrame" and hasattr(inputs, "columns") and hasattr(inputs, "to_dict")


def _is_one_input(inputs: Any) -> bool:
    """Whether inputs are a single one: text, a record, a path, a graph; not a list, a data set or a generator."""
    if isinstance(inputs, (str, bytes, Mapping, CodeInput)):
        return True
    is_data_set = hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")
    return not isinstance(inputs, Iterable) and not is_data_set


def _items(inputs: Any, num_workers: int) -> Iterable[Any]:
    """The items of a list, a generator, a data set of torch or of the library, or a DataLoader, whose batches are opened."""
    if isinstance(inputs, DataLoader):
        return _opened(inputs)
    if num_workers:
        return DataLoader(inputs, batch_size=None, num_workers=num_workers, collate_fn=_same)
    if isinstance(inputs, Iterable):
        return inputs
    return (inputs[position] for position in range(len(inputs)))


def _same(item: Any) -> Any:
    return item


def _opened(batches: Iterable[Any]) -> Iterator[Any]:
    """The items of batches: lists, or dicts of lists as a DataLoader makes them of records."""
    for batch in batches:
        if isinstance(batch, Mapping):
            columns = {name: list(values) for name, values in batch.items()}
            for row in zip(*columns.values(), strict=True):
                yield dict(zip(columns, row, strict=True))
        elif isinstance(batch, (list, tuple)):
            yield from batch
        else:
            yield batch


@dataclass
class _Prepared:
    """One text ready to run.

    Attributes:
        owner: Position of its input in the chunk.
        metrics: Its metrics in decoding order.
        encoded: Its token ids.
        read: The input itself.
        for_derived: Whether the answer is not asked for itself, but to compute a derived metric from it.
    """

    owner: int
    metrics: tuple[str, ...]
    encoded: EncodedInput
    read: CodeInput
    for_derived: bool = False

    @cached_property
    def observation(self) -> Observation:
        """What the novelty scores see of the input."""
        return observe(self.read.text, self.read.language or "", self.read.context, self.encoded.code_ids)


@dataclass(frozen=True)
class _Assessment:
    """Familiarity of an input with the training rows of a metric, None where nothing is known, and what follows from it."""

    comparison: Comparison | None
    adjustment: Adjustment

    def changes(self, low: float) -> bool:
        """Whether the adjustment changes a distribution whose lower quantile is given."""
        bound = self.adjustment.lower_bound
        return self.adjustment.novelty_weight > 0 or (bound is not None and not low >= bound)


def _refuse_unfamiliar(
    items: Sequence[_Prepared], metrics: Sequence[str], assessments: Sequence[Sequence[_Assessment]]
) -> None:
    """Raises an error that names the first input that is unlike the training rows of a metric, and why."""
    for item, own in zip(items, assessments, strict=True):
        for metric, assessment in zip(metrics, own, strict=True):
            comparison = assessment.comparison
            if comparison is not None and comparison.familiarity < UNFAMILIAR:
                raise UnfamiliarInputError(
                    f"{item.read.source}: unlike the rows that {metric} was trained on (familiarity "
                    f"{comparison.familiarity:.2g}): {'; '.join(comparison.reasons) or 'no single reason'}. Leave strict out "
                    "to get a wide interval, or fine-tune on rows like it."
                )


class CodeRegressionPipeline(Pipeline):
    """Predicts numbers from code, with exact intervals.

    Inputs: code as str; a dict with `text`, and optionally `language` and `context`; a path to a file; an
    `onnx.ModelProto`; a list, a column of a data set, or a generator of these. A single input gives a list with one dict
    per metric; several give a list of such lists, in input order; a generator gives a generator. Metrics that the checkpoint
    reads in a text of their own (`Metric.template`) are predicted one by one; the answers come in the order asked for.

    Each dict is JSON-ready: `metric`, `value` (the median), `unit`, `low`, `high`, `level`, `calibrated` (whether the
    checkpoint's calibration was applied and the input is familiar), `familiarity` with `reasons` where the training rows are
    known, `truncated_tokens`, and if asked for `outcomes` (probability of each special outcome, where the checkpoint knows
    them) and `samples`. What is computed from a graph has `exact`. `value`, `low` and `high` are None where the model expects
    no finite number at all. Checkpoints in the p10 layout have no exact quantiles: theirs come from draws, and `draws` says how
    many. Those with a regression head give a value without an interval.

    Attributes:
        processor: The `RLMProcessor` that reads the inputs; made from the tokenizer and the model's config if none is given.
        batch_tokens: The most tokens of a batch, padding included, on a CPU and on an accelerator; a longer input runs alone.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False
    batch_tokens: ClassVar[dict[str, int]] = {"cpu": 4096, "accelerator": 65536}
    most_inputs = 512  # that are read, sorted by length and answered together
    quantile_draws = 1024  # in the p10 layout

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "codec") or self.tokenizer is None:
            raise CheckpointError(
                f"code-regression needs a Code-RLM model and its tokenizer, got {type(self.model).__name__} and "
                f"{type(self.tokenizer).__name__}."
            )
        if not isinstance(self.processor, RLMProcessor):
            self.processor = RLMProcessor(self.tokenizer, self.model.config)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {f.name for f in fields(CallOptions)}
        if unknown := sorted(set(options) - known):
            raise TypeError(f"Unknown options {unknown}. A code-regression pipeline takes {sorted(known)}.")
        return options, {}, {}

    def __call__(self, inputs: Any, **options: Any) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator:
        """Predicts; see the class for inputs and answers and `CallOptions` for the options."""
        given, _, _ = self._sanitize_parameters(**options)
        call = CallOptions(**{**self._preprocess_params, **given})
        if _is_frame(inputs):
            return self._frame(inputs, call)
        if _is_one_input(inputs):
            return next(self._stream([inputs], call, numbered=False))
        items = _items(inputs, call.num_workers)
        if isinstance(inputs, Sized):
            if not len(inputs):
                raise InputError("There are no inputs: the list is empty.")
            return list(self._stream(items, call))
        return self._stream(items, call)

    def _frame(self, frame: Any, call: CallOptions) -> Any:
        """A copy of a pandas DataFrame with the answers as columns.

        The column of the code is named `text` or `code`; `language` and `context` are read where they are there. Columns
        added for a metric m: `m`, `m_low`, `m_high`, and `m_familiarity` where it is known.

        Raises:
            InputError: No column of code, an empty frame, or columns that are there already.
        """
        column = next((name for name in ("text", "code") if name in frame.columns), None)
        if column is None:
            raise InputError(f"A DataFrame needs a column named text or code, got {list(map(str, frame.columns))}.")
        if not len(frame):
            raise InputError("There are no inputs: the DataFrame is empty.")
        known = [name for name in ("language", "context") if name in frame.columns]
        records = [
            {"text": row[column], **{name: row[name] for name in known if row[name] is not None}}
            for row in frame[[column, *known]].to_dict("records")
        ]
        answered = frame.copy()
        columns: dict[str, list[Any]] = {}
        for position, answer in enumerate(self._stream(records, call)):
            for entry in answer:
                cells = {"": "value", "_low": "low", "_high": "high", "_familiarity": "familiarity"}
                for suffix, key in cells.items():
                    if key in entry:
                        name = entry["metric"] + suffix
                        columns.setdefault(name, [None] * len(frame))[position] = entry[key]
        if taken := sorted(set(columns) & set(map(str, frame.columns))):
            raise InputError(f"The DataFrame has columns {taken} already; rename or drop them.")
        for name, values in columns.items():
            answered[name] = values
        return answered

    def _stream(self, items: Iterable[Any], call: CallOptions, numbered: bool = True) -> Iterator[list[dict[str, Any]]]:
        """Answers in input order; inputs are taken in chunks, and within a chunk batched by length."""
        size = call.batch_size or self._batch_size
        most = self.most_inputs if size is None else 32 * size
        items, start = iter(items), 0
        while chunk := list(islice(items, most)):
            read = []
            for position, item in enumerate(chunk, start):
                try:
                    read.append(read_input(item, language=call.language, context=call.context))
                except InputError as error:
                    raise InputError(f"Input {position}: {error}" if numbered else str(error)) from None
            prepared = self.preprocess(read, call)
            found: list[dict[str, dict[str, Any]]] = [self._exact_entries(item, call) for item in read]
            sources: list[dict[str, dict[str, Any]]] = [dict(entries) for entries in found]
            for group in self._groups(prepared, size):
                outputs = self.forward(self._batch(group, call))
                for item, answer in zip(group, self.postprocess(outputs), strict=True):
                    for entry in answer:
                        entry["truncated_tokens"] = item.encoded.truncated_tokens
                        if item.read.record:
                            entry["record"] = dict(item.read.record)
                        (sources if item.for_derived else found)[item.owner][entry["metric"]] = entry
            asked = self._asked(read, call)
            self._add_derived(found, sources, asked, call)
            yield from ([entries[name] for name in names] for entries, names in zip(found, asked, strict=True))
            start += len(chunk)

    def _groups(self, prepared: list[_Prepared], size: int | None) -> Iterator[list[_Prepared]]:
        """What runs together: the same metrics, like lengths, at most `size` inputs or else `batch_tokens` tokens."""
        kind = "cpu" if self.device.type == "cpu" else "accelerator"
        tokens = self.batch_tokens[kind] if size is None else None
        by_metrics: dict[tuple[str, ...], list[_Prepared]] = {}
        for item in prepared:
            by_metrics.setdefault(item.metrics, []).append(item)
        for metrics in sorted(by_metrics):
            items = by_metrics[metrics]
            lengths = [len(item.encoded.input_ids) for item in items]
            for batch in length_batches(lengths, batch_tokens=tokens, batch_size=size):
                yield [items[i] for i in batch]

    def _batch(self, group: list[_Prepared], call: CallOptions) -> dict[str, Any]:
        """Tensors of texts that run together, with what is asked."""
        inputs = self.processor.collate([item.encoded for item in group])
        return {**inputs, "metrics": group[0].metrics, "call": call, "items": group}

    def rank(self, candidates: Iterable[Any], metric: str, **options: Any) -> list[dict[str, Any]]:
        """Ranks inputs by one metric, the best first; the registry names the direction.

        `probability_best` is exact up to about 0.001 under the assumption that the candidates' distributions are independent
        of each other (`distributions_rlm.probability_best`), so that of the first entry is the probability that it is best.
        Similar inputs err alike: then the order is surer than these probabilities say.

        Args:
            candidates: Inputs of any kind that the pipeline takes.
            metric: Name.
            **options: Those of a call, see `CallOptions`, but `metrics`, `num_samples` and `conditioning`.

        Returns:
            One dict for each candidate: `rank` (from 1), `index` (its place in `candidates`), `source`, `probability_best`, and
            what a call answers for the metric. In ties of the median the likelier one to be best stands first; candidates
            without any number last.

        Raises:
            MetricError, InputError: As in a call.
        """
        smaller = self.model.config.metric(metric).smaller_is_better
        return ranking(self.distributions(candidates, metric, **options), smaller)

    def distributions(
        self, inputs: Iterable[Any], metric: str, **options: Any
    ) -> list[tuple[dict[str, Any], Distribution]]:
        """Predicts the whole distribution of one metric for several inputs.

        Args:
            inputs: Of any kind that the pipeline takes.
            metric: Name.
            **options: Those of a call, see `CallOptions`, but `metrics`, `num_samples` and `conditioning`.

        Returns:
            For each input what a call answers, with its `source`, and the distribution.

        Raises:
            MetricError, InputError: As in a call, and for a checkpoint without exact distributions.
        """
        if strange := sorted({"metrics", "num_samples", "conditioning"} & set(options)):
            raise TypeError(
                f"{', '.join(strange)} cannot be given where whole distributions of one metric are asked for."
            )
        given, _, _ = self._sanitize_parameters(**options)
        call = CallOptions(**{**self._preprocess_params, **given, "metrics": [metric], "num_samples": None})
        if self.model.regression_head is not None or not self.model.codec.ordered_digits:
            raise MetricError(
                "Ranking needs exact distributions, which this checkpoint does not have; sort by the values."
            )
        if metric in call.given:
            raise MetricError(f"{metric} is given; there is nothing to rank by.")
        if metric in self.model.config.fitted.derived:
            raise MetricError(
                f"{metric} is computed from other answers and has no exact distribution; sort by the values."
            )
        if isinstance(inputs, (str, bytes, Mapping)):
            raise InputError("A list of inputs is needed, got one.")
        read = []
        for position, item in enumerate(inputs):
            try:
                read.append(read_input(item, language=call.language, context=call.context))
            except InputError as error:
                raise InputError(f"Input {position}: {error}") from None
        if not read:
            raise InputError("There are no inputs: the list is empty.")
        result: list[Any] = [None] * len(read)
        for group in self._groups(self.preprocess(read, call), call.batch_size or self._batch_size):
            answer = self.forward({**self._batch(group, call), "whole": True})
            for item, [entry], whole in zip(group, self.postprocess(answer), answer["distributions"], strict=True):
                entry["truncated_tokens"] = item.encoded.truncated_tokens
                result[item.owner] = {"source": item.read.source, **entry}, whole
        return result

    def explain(
        self, item: Any, metric: str, unit: str | None = None, most: int = 128, **options: Any
    ) -> dict[str, Any]:
        """Finds which parts of one input carry its number, by leaving out each in turn.

        The effect of a part is how the exact median changes; what follows from familiarity and lower bounds is left out of it.
        Parts are left out alone: of two of which either suffices, neither has an effect.

        Args:
            item: One input of any kind that the pipeline takes.
            metric: Name.
            unit: `line`, `block` or `operator`; None: operators of graphs, else lines (`explanation_rlm.parts_of`).
            most: More lines or blocks than this are joined with their neighbours.
            **options: `language`, `context`, `calibrated` and `batch_size`, see `CallOptions`.

        Returns:
            `source`, `text` as the model reads it, `metric`, `unit` (of the number), `value` (median of the whole), `answer`
            (what a call answers) and `parts`: for each `name`, `lines` (from 1), `value_without`, `effect` and `weight`
            (`explanation_rlm.effects`), in the order of the text.

        Raises:
            MetricError: A checkpoint without exact medians, or a metric that is computed.
            InputError: An input that cannot be read, or that has one part only.
        """
        if strange := sorted(set(options) - {"language", "context", "calibrated", "batch_size"}):
            raise TypeError(f"explain() takes no {', '.join(strange)}.")
        if self.model.regression_head is not None or not self.model.codec.ordered_digits:
            raise MetricError("explain() needs exact medians, which this checkpoint does not have.")
        given, _, _ = self._sanitize_parameters(**options)
        call = CallOptions(**{**self._preprocess_params, **given, "metrics": [metric]})
        read = read_input(item, language=call.language, context=call.context)
        if metric in {each.metric for each in read.exact}:
            raise MetricError(f"{metric} is computed from the graph, so there is no prediction to explain.")
        parts = parts_of(read.text, unit or default_unit(read.language), most)
        texts = [read.text, *(without(read.text, part.lines) for part in parts)]
        whole, *others = self._medians([replace(read, text=text) for text in texts], call)
        if not np.isfinite(whole):
            raise MetricError(f"{read.source}: the model expects no finite {metric} at all.")
        [answer] = self([read], **{**given, "metrics": [metric]})
        entries = [
            {"name": part.name, "lines": [number + 1 for number in part.lines], **effect}
            for part, effect in zip(parts, effects(whole, others), strict=True)
        ]
        return {
            "source": read.source,
            "text": read.text,
            "metric": metric,
            "unit": self.model.config.metric(metric).unit,
            "value": whole,
            "answer": answer[0],
            "parts": entries,
        }

    def _medians(self, inputs: list[CodeInput], call: CallOptions) -> list[float]:
        """Medians of one metric, calibrated where the checkpoint is, not adjusted to familiarity."""
        found = [float("nan")] * len(inputs)
        for group in self._groups(self.preprocess(inputs, call), call.batch_size or self._batch_size):
            batch = self.processor.collate([item.encoded for item in group])
            answer = self.model.predict(batch, (0.5,), metrics=call.metrics, calibrated=call.calibrated)
            for item, value in zip(group, answer.quantiles[:, 0, 0], strict=True):
                found[item.owner] = float(value)
        return found

    # The four steps of a pipeline, each over several inputs at once.

    def _asked(self, inputs: list[CodeInput], call: CallOptions) -> list[list[str]]:
        """The metrics to answer for each input, in order."""
        config, asked = self.model.config, []
        for item in inputs:
            if call.metrics is None and item.language is None:
                raise InputError(
                    f"{item.source}: cannot tell what kind of code this is. Pass language=..., one of "
                    f"{sorted({k for m in config.metrics for k in m['languages']})}, or metrics=[...]."
                )
            names = [m for m in (call.metrics or self._default_metrics(item)) if m not in call.given]
            if not names:
                raise MetricError("Every metric asked for is given; name at least one other in metrics.")
            asked.append(names)
        return asked

    def _default_metrics(self, item: CodeInput) -> list[str]:
        """The metrics to answer for an input where none is named."""
        language = item.language or ""
        defaults = self.model.config.metrics_for(language)
        familiarity = self.model.config.fitted.familiarity
        known = self.model.config.metric_names()
        row = observe(item.text, language, item.context, ())
        chosen = familiarity.default_metrics(defaults, known, language, row)
        # Nothing was learned of such a graph: what it computes is answered.
        return chosen or [value.metric for value in item.exact if value.metric != "flops_count"] or defaults

    def _exact_entries(self, item: CodeInput, call: CallOptions) -> dict[str, dict[str, Any]]:
        """Answers that are computed from the input, by metric."""
        entries = {}
        for each in item.exact:
            entries[each.metric] = {
                "metric": each.metric,
                "value": each.value,
                "unit": "count",
                "low": each.value,
                "high": each.value if not each.unknown else None,
                "level": call.interval,
                "calibrated": not each.unknown,
                "exact": not each.unknown,
                "unknown_operators": each.unknown,
                "truncated_tokens": 0,
            }
            if call.quantiles:
                entries[each.metric]["quantiles"] = {f"{level:g}": each.value for level in call.quantiles}
            if each.metric in call.above:
                limit = call.above[each.metric]
                entries[each.metric] |= {"limit": limit, "probability_above": float(each.value > limit)}
        return entries

    def _add_derived(
        self,
        found: list[dict[str, dict[str, Any]]],
        sources: list[dict[str, dict[str, Any]]],
        asked: list[list[str]],
        call: CallOptions,
    ) -> None:
        """Computes derived metrics from the answers for their sources, and adds them to what was found."""
        derived = self.model.config.fitted.derived
        for entries, own, names in zip(found, sources, asked, strict=True):
            for name in names:
                if name in derived:
                    entries[name] = self._derived_entry(name, [own[source] for source in derived[name].sources], call)

    def _derived_entry(self, name: str, sources: list[dict[str, Any]], call: CallOptions) -> dict[str, Any]:
        """The answer for a derived metric."""
        derived = self.model.config.fitted.derived[name]
        medians = [entry["value"] if isinstance(entry["value"], float) else np.nan for entry in sources]
        value = float(derived.value(medians))
        factors = derived.factors(call.interval)
        known = [entry for entry in sources if "familiarity" in entry]
        answer = {
            "metric": name,
            "value": self._rounded(value),
            "unit": self.model.config.metric(name).unit,
            "low": self._rounded(value * factors[0]) if factors else None,
            "high": self._rounded(value * factors[1]) if factors else None,
            "level": call.interval,
            "calibrated": factors is not None and all(entry["familiarity"] >= UNFAMILIAR for entry in known),
            "derived_from": list(derived.sources),
            "truncated_tokens": max(entry["truncated_tokens"] for entry in sources),
        }
        if known:
            least = min(known, key=lambda entry: entry["familiarity"])
            answer |= {"familiarity": least["familiarity"], "reasons": least["reasons"]}
        return answer

    def preprocess(self, inputs: list[CodeInput], call: CallOptions) -> list[_Prepared]:
        """Chooses each input's metrics and turns header and code into token ids; one text for each group of metrics."""
        config, templates = self.model.config, self.model.config.templates
        computed = {each.metric for item in inputs for each in item.exact}
        for name in [*call.given, *call.above, *(call.metrics or ())]:
            if name not in computed:
                config.metric(name)
        owners, metrics = [], []
        for_derived: list[bool] = []
        for owner, (item, asked) in enumerate(zip(inputs, self._asked(inputs, call), strict=True)):
            exact = {each.metric for each in item.exact}
            asked = [name for name in asked if name not in exact]
            for name in asked:
                config.metric(name)
            for source in self._sources_of(asked, exact, call):
                owners.append(owner)
                metrics.append((source,))
                for_derived.append(True)
            asked = [name for name in asked if name not in config.fitted.derived]
            if not asked:
                continue
            if strange := [m for m in asked if item.language and item.language not in config.metric(m).languages]:
                warnings.warn(
                    f"{', '.join(strange)}: this checkpoint has not seen {item.language!r} input with it; do not trust the "
                    "answer.",
                    stacklevel=4,
                )
            for group in metric_groups(asked, templates):
                if call.given and (own := [m for m in (*call.given, *group) if m in templates]):
                    raise MetricError(
                        f"{own[0]} is predicted from a text of its own, apart from other metrics, so it takes no part in "
                        "given. Leave given out, or ask for the others alone."
                    )
                for name in group if call.given else ():
                    component = config.fitted.pooling_of(name)
                    if component is not None and component.decoder_weight == 0:
                        raise MetricError(
                            f"given has no effect on {name}: this checkpoint answers it from the feature ensemble alone. "
                            "Leave given out."
                        )
                owners.append(owner)
                metrics.append((*call.given, *group))
                for_derived.append(False)
        read = [self._with_sizes(inputs[owner], names) for owner, names in zip(owners, metrics, strict=True)]
        encoded = self.processor.encode(read, metrics)
        return [_Prepared(*each) for each in zip(owners, metrics, encoded, read, for_derived, strict=True)]

    def _with_sizes(self, item: CodeInput, metrics: Sequence[str]) -> CodeInput:
        """A GPU kernel with its sizes as the training rows write them, where all of these have some; else as it is."""
        familiarity = self.model.config.fitted.familiarity
        if item.language is None or not familiarity.requires("input_size", metrics, item.language):
            return item
        return replace(item, context=with_kernel_sizes(item.context, item.text))

    def _sources_of(self, asked: Sequence[str], exact: Collection[str], call: CallOptions) -> list[str]:
        """The metrics that must be answered for the derived ones among those asked for.

        Raises:
            MetricError: Something is asked of a derived metric that it cannot answer.
        """
        derived = {
            name: self.model.config.fitted.derived[name] for name in asked if name in self.model.config.fitted.derived
        }
        if derived and (call.given or call.num_samples is not None):
            raise MetricError(
                f"{', '.join(derived)} is computed from other answers: it takes no given and has no samples."
            )
        sources = [source for each in derived.values() for source in each.sources if source not in exact]
        return list(dict.fromkeys(sources))

    def _forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        call: CallOptions = batch["call"]
        if self.model.regression_head is not None:
            if call.num_samples is not None or call.given or call.quantiles or call.above or len(batch["metrics"]) > 1:
                raise MetricError(
                    "This checkpoint answers with a regression head: one metric at a time, no samples, quantiles or "
                    "probabilities, nothing given."
                )
            values = self.model.regress(batch)
            unknown = np.full_like(values, np.nan)
            quantiles = np.stack([unknown, values, unknown], -1)[:, None]
            prediction = Prediction(batch["metrics"], (), quantiles, {}, "none", (False,) * len(batch["metrics"]))
            return {
                "prediction": prediction,
                "samples": None,
                "level": None,
                "comparisons": None,
                "call": call,
            }
        if call.above and not self.model.codec.ordered_digits:
            raise MetricError(
                "above needs exact distributions, which this checkpoint does not have; draw samples instead."
            )
        encoded = self.model.encode(batch, batch["metrics"])
        options = {"metrics": batch["metrics"], "given": call.given}
        prediction = self.model.predict(
            encoded,
            call.levels,
            conditioning=call.conditioning,
            calibrated=call.calibrated,
            draws=None if self.model.codec.ordered_digits else self.quantile_draws,
            seed=call.seed,
            **options,
        )
        samples = None
        if call.num_samples is not None:
            samples = self.model.sample(encoded, call.num_samples, seed=call.seed, **options)
        adjusted = self._adjust(batch["items"], encoded, prediction, samples, call)
        if call.strict:
            _refuse_unfamiliar(batch["items"], prediction.metrics, adjusted)
        answer: dict[str, Any] = {
            "prediction": prediction,
            "samples": samples,
            "level": call.interval,
            "comparisons": adjusted,
            "call": call,
            "above": self._above(encoded, prediction, adjusted, call),
        }
        if batch.get("whole"):
            answer["distributions"] = self.model.distributions(encoded, calibrated=call.calibrated, **options)
            for whole, [item] in zip(answer["distributions"], adjusted, strict=True):
                whole.adjustment = item.adjustment
        return answer

    def _adjust(
        self,
        items: list[_Prepared],
        encoded: EncodedInputs,
        prediction: Prediction,
        samples: np.ndarray | None,
        call: CallOptions,
    ) -> list[list["_Assessment"]]:
        """Compares inputs with the training rows and puts adjusted quantiles and samples in the place of those that need it.

        Returns:
            For each input an assessment of each metric.
        """
        if not (call.calibrated or call.strict):  # the model's own answer
            return [[_Assessment(None, Adjustment()) for _ in prediction.metrics] for _ in items]
        scores = cache(lambda metric: self.model.fallback_scores(encoded, metric))

        def score_of(metric: str, row: int) -> float | None:
            column = scores(metric)
            return None if column is None else float(column[row])

        assessments = [
            [self._assess(item, metric, partial(score_of, metric, row)) for metric in prediction.metrics]
            for row, item in enumerate(items)
        ]
        if not (self.model.codec.ordered_digits and call.calibrated):
            return assessments
        earlier: dict[str, np.ndarray] = {}
        for column, metric in enumerate(prediction.metrics):
            rows = [
                row for row, own in enumerate(assessments) if own[column].changes(prediction.quantiles[row, column, 0])
            ]
            if rows and np.isfinite(prediction.quantiles[:, column, 1]).all():
                given = {**call.given, **{name: values[rows] for name, values in earlier.items()}}
                wholes = self.model.distributions(
                    encoded[rows],
                    metrics=(*given, *prediction.metrics[column:]),
                    given=given,
                    calibrated=call.calibrated,
                    adjustments=[assessments[row][column].adjustment for row in rows],
                    levels=call.levels if samples is None else None,
                )
                for row, whole in zip(rows, wholes, strict=True):
                    adjusted = whole.quantiles(call.levels)
                    prediction.quantiles[row, column] = [float(f"{value:.6g}") for value in adjusted]
                    if samples is not None:
                        samples[row, :, column] = whole.sample(samples.shape[1], call.seed)
            earlier[metric] = prediction.quantiles[:, column, 1]
        return assessments

    def _above(
        self,
        encoded: EncodedInputs,
        prediction: Prediction,
        assessments: Sequence[Sequence["_Assessment"]],
        call: CallOptions,
    ) -> dict[int, np.ndarray]:
        """P(y > limit) of the metrics that have a limit, exact and adjusted: by their place, float64 `(batch,)` each."""
        found: dict[int, np.ndarray] = {}
        given: dict[str, Any] = dict(call.given)
        for column, metric in enumerate(prediction.metrics):
            if metric in call.above:
                limit = call.above[metric]
                bounds = [own[column].adjustment.lower_bound for own in assessments]
                # P(y <= limit) is P(y < t) at the next float64.
                asked = [[np.nextafter(limit, np.inf), limit if bound is None else bound] for bound in bounds]
                below = self.model.cdf(
                    encoded,
                    asked,
                    metrics=(*given, *prediction.metrics[column:]),
                    given=given,
                    calibrated=call.calibrated,
                )
                adjusted = [
                    own[column].adjustment.applied(below[row, :1], below[row, 1], np.array([limit]), "right")[0]
                    for row, own in enumerate(assessments)
                ]
                found[column] = np.clip(1.0 - np.array(adjusted), 0.0, 1.0)
            given[metric] = prediction.quantiles[:, column, 1]
        return found

    def _assess(self, item: _Prepared, metric: str, fallback_score: Callable[[], float | None]) -> "_Assessment":
        """Familiarity of an input with the training rows of a metric, and what follows for its distribution.

        Args:
            item: The input.
            metric: Name.
            fallback_score: Gives the score of the metric's fallback regressor, None without one; called where it is read.
        """
        familiarity = self.model.config.fitted.familiarity
        language = item.read.language
        observation = item.observation
        comparison = familiarity.compare(metric, language, observation)
        bound = dict(item.read.lower_bounds).get(metric)
        ratios: tuple[float, ...] = MEASURED_TO_LEAST
        if bound is None:
            bound = familiarity.lower_bound(metric, language, item.read.text)
            ratios = familiarity.bound_ratios.get(metric, (1.0,))
        weight, values = 0.0, ()
        pool = familiarity.pools.get(metric)
        if comparison is not None and pool is not None:
            weight = pool.weight_at(comparison.familiarity)
            is_read = pool.scale is not None and (weight > 0 or bound is not None)
            values = pool.values_for(language, fallback_score() if is_read else None)
            weight = weight if values else 0.0
            further = familiarity.compare_fallback(metric, language, observation) if weight else None
            # Where the fallback regressor answers, its own training rows count, too.
            if further is not None and further.familiarity > comparison.familiarity:
                comparison = further
        return _Assessment(comparison, Adjustment(weight, values, bound, ratios))

    def _rounded(self, value: float) -> float | str | None:
        """A number of an answer, JSON-ready: no more digits than the number format writes, and six at least."""
        plain = _plain(value)
        number_format: NumberFormat = self.model.config.format
        digits = max(6, number_format.mantissa_digits)
        return float(f"{plain:.{digits}g}") if isinstance(plain, float) else plain

    def postprocess(self, found: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """JSON-ready answers, one list per input."""
        prediction, samples, call = found["prediction"], found["samples"], found["call"]
        answers = []
        for row in range(len(prediction.quantiles)):
            answer = []
            for column, name in enumerate(prediction.metrics):
                low, value, high, *further = (self._rounded(v) for v in prediction.quantiles[row, column])
                entry = {
                    "metric": name,
                    "value": value,
                    "unit": self.model.config.metric(name).unit,
                    "low": low,
                    "high": high,
                    "level": found["level"],
                    "calibrated": prediction.calibrated[column],
                    "truncated_tokens": 0,
                }
                comparison = found["comparisons"][row][column].comparison if found["comparisons"] else None
                if comparison is not None:
                    entry["familiarity"] = float(f"{comparison.familiarity:.3g}")
                    entry["reasons"] = list(comparison.reasons)
                    entry["calibrated"] &= comparison.familiarity >= UNFAMILIAR
                if prediction.draws:
                    entry["draws"] = prediction.draws
                if further:
                    entry["quantiles"] = {f"{level:g}": v for level, v in zip(call.quantiles, further, strict=True)}
                if column in found.get("above", {}):
                    entry |= {"limit": call.above[name], "probability_above": float(found["above"][column][row])}
                if prediction.outcomes and call.outcomes:
                    entry["outcomes"] = {k: float(p[row, column]) for k, p in prediction.outcomes.items()}
                if samples is not None:
                    draws = samples[row, :, column]
                    entry["samples"] = [
                        "failed" if failed else _plain(v) for v, failed in zip(draws, is_failed(draws), strict=True)
                    ]
                answer.append(entry)
            answers.append(answer)
        return answers


def ranking(answers: Sequence[tuple[dict[str, Any], Distribution]], smaller_is_better: bool) -> list[dict[str, Any]]:
    """Ranks answers by their medians, the best first.

    Args:
        answers: One metric's answer for each input with its distribution, as `CodeRegressionPipeline.distributions` returns.
        smaller_is_better: Direction.

    Returns:
        See `CodeRegressionPipeline.rank`.
    """
    chances = probability_best([whole for _, whole in answers], smaller_is_better)

    def key(i: int) -> tuple[bool, float, float]:
        value = answers[i][0]["value"]
        return value is None, (1 if smaller_is_better else -1) * float(value or 0.0), -chances[i]

    return [
        {"rank": rank, "index": i, "probability_best": float(chances[i]), **answers[i][0]}
        for rank, i in enumerate(sorted(range(len(answers)), key=key), start=1)
    ]


def _plain(value: float) -> float | str | None:
    """A float that JSON can hold: None for NaN, words for infinities."""
    if np.isnan(value):
        return None
    return float(value) if np.isfinite(value) else ("+inf" if value > 0 else "-inf")


__all__ = ["CallOptions", "CodeRegressionPipeline", "ranking"]
