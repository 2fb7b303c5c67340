"""CodeRegressionPipeline: code in, numbers with intervals out.

pipe = pipeline("code-regression")
pipe("def f(n): return [0] * n", metrics=["peak_memory_bytes"], interval=0.9)
# [{'metric': 'peak_memory_bytes', 'value': ..., 'unit': 'bytes', 'low': ..., 'high': ..., 'level': 0.9, ...}]
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import Pipeline

from .errors_rlm import CheckpointError, InputError, MetricError
from .generation_rlm import Prediction
from .inputs_rlm import CodeInput, encode_inputs, metric_groups, read_input
from .numbers_rlm import is_failed
from .ranking_rlm import probability_best


@dataclass
class CallOptions:
    """What a call can ask for.

    Attributes:
        metrics: Names in decoding order; None: those that the checkpoint predicts for the kind of input.
        interval: Probability that the interval holds, inside (0, 1).
        given: Known values by metric; the others are conditioned on them.
        num_samples: Also return so many draws per metric.
        seed: Of the draws, these and those that estimate quantiles in the p10 layout.
        conditioning: `median` or `marginal`: what later metrics are conditioned on, see `predict`.
        language: Kind of input, where the input itself does not say.
        context: Header lines for every input, a mapping or `key: value` strings.
        batch_size: Inputs run together; they are sorted by length first.
        calibrated: Answer with calibrated quantiles where the checkpoint has a calibration of the metric.
    """

    metrics: Any = None
    interval: float = 0.9
    given: Any = None
    num_samples: int | None = None
    seed: int = 0
    conditioning: str = "median"
    language: str | None = None
    context: Any = None
    batch_size: int | None = None
    calibrated: bool = True

    def __post_init__(self):
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
        if self.given is not None and not isinstance(self.given, Mapping):
            raise MetricError(f"given must map metric names to values, got {type(self.given).__name__}.")
        self.given = dict(self.given or {})
        if self.num_samples is not None and not _is_count(self.num_samples):
            raise MetricError(f"num_samples must be a positive int or None, got {self.num_samples!r}.")
        if self.batch_size is not None and not _is_count(self.batch_size):
            raise InputError(f"batch_size must be at least 1, got {self.batch_size!r}.")
        if not isinstance(self.calibrated, bool):
            raise MetricError(f"calibrated must be True or False, got {self.calibrated!r}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1


@dataclass
class _Prepared:
    """One text ready to run: whose it is (a position in the chunk), token ids, its metrics in decoding order."""

    owner: int
    input_ids: list[int]
    metrics: tuple[str, ...]
    truncated_tokens: int


class CodeRegressionPipeline(Pipeline):
    """Predicts numbers from code, with exact intervals.

    Inputs: code as str; a dict with `text`, and optionally `language` and `context`; a path to a file; an
    `onnx.ModelProto`; a list, a column of a data set, or a generator of these. A single input gives a list with one dict
    per metric; several give a list of such lists, in input order; a generator gives a generator. Metrics that the checkpoint
    reads in a text of their own (`Metric.template`) are predicted one by one; the answers come in the order asked for.

    Each dict is JSON-ready: `metric`, `value` (the median), `unit`, `low`, `high`, `level`, `calibrated` (whether the
    checkpoint's calibration was applied), `truncated_tokens`, `outcomes` (probability of each special outcome, where the
    checkpoint knows them) and `samples` if asked for. `value`, `low` and `high` are None where the model expects no finite
    number at all. Checkpoints in the p10 layout have no exact quantiles: theirs come from draws, and `draws` says how many.
    Those with a regression head give a value without an interval.
    """

    _load_tokenizer = True
    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False
    default_batch_size = 16
    quantile_draws = 1024  # in the p10 layout

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "codec") or self.tokenizer is None:
            raise CheckpointError(
                f"code-regression needs a Code-RLM model and its tokenizer, got {type(self.model).__name__} and "
                f"{type(self.tokenizer).__name__}."
            )

    def _sanitize_parameters(self, **options):
        known = {f.name for f in fields(CallOptions)}
        if unknown := sorted(set(options) - known):
            raise TypeError(f"Unknown options {unknown}. A code-regression pipeline takes {sorted(known)}.")
        return options, {}, {}

    def __call__(self, inputs: Any, **options) -> list[dict[str, Any]] | list[list[dict[str, Any]]] | Iterator:
        """Predicts; see the class for inputs and answers and `CallOptions` for the options."""
        given, _, _ = self._sanitize_parameters(**options)
        call = CallOptions(**{**self._preprocess_params, **given})
        if isinstance(inputs, (str, bytes, Mapping, CodeInput)) or not isinstance(inputs, Iterable):
            return next(self._stream([inputs], call, numbered=False))
        if isinstance(inputs, Sized):
            if not len(inputs):
                raise InputError("There are no inputs: the list is empty.")
            return list(self._stream(inputs, call))
        return self._stream(inputs, call)

    def _stream(self, items: Iterable[Any], call: CallOptions, numbered: bool = True) -> Iterator[list[dict[str, Any]]]:
        """Answers in input order; inputs are taken in chunks, and within a chunk batched by length."""
        size = call.batch_size or self._batch_size or self.default_batch_size
        items, start = iter(items), 0
        while chunk := list(islice(items, 32 * size)):
            read = []
            for position, item in enumerate(chunk, start):
                try:
                    read.append(read_input(item, language=call.language, context=call.context))
                except InputError as error:
                    raise InputError(f"Input {position}: {error}" if numbered else str(error)) from None
            prepared = self.preprocess(read, call)
            found: list[dict[str, dict[str, Any]]] = [{} for _ in read]
            for group in self._groups(prepared, size):
                outputs = self.forward({**self._collate(group), "metrics": group[0].metrics, "call": call})
                for item, answer in zip(group, self.postprocess(outputs), strict=True):
                    for entry in answer:
                        entry["truncated_tokens"] = item.truncated_tokens
                        found[item.owner][entry["metric"]] = entry
            answers = [[entries[name] for name in asked] for entries, asked in zip(found, self._asked(read, call))]
            yield from answers
            start += len(chunk)

    @staticmethod
    def _groups(prepared: list[_Prepared], size: int) -> Iterator[list[_Prepared]]:
        """What runs together: the same metrics, like lengths."""
        order = sorted(prepared, key=lambda p: (p.metrics, len(p.input_ids)))
        while order:
            group = [p for p in order[:size] if p.metrics == order[0].metrics]
            order = order[len(group) :]
            yield group

    def rank(self, candidates: Iterable[Any], metric: str, **options) -> list[dict[str, Any]]:
        """Ranks inputs by one metric, the best first; the registry tells whether smaller is better.

        `probability_best` is exact up to about 0.001 under the assumption that the candidates' distributions are independent
        of each other (`ranking_rlm.probability_best`), so that of the first entry is the probability that the first is best.
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
        if strange := sorted({"metrics", "num_samples", "conditioning"} & set(options)):
            raise TypeError(f"rank() takes no {', '.join(strange)}: it asks for one metric.")
        given, _, _ = self._sanitize_parameters(**options)
        call = CallOptions(**{**self._preprocess_params, **given, "metrics": [metric], "num_samples": None})
        smaller = self.model.config.metric(metric).smaller_is_better
        if self.model.regression_head is not None or not self.model.codec.ordered_digits:
            raise MetricError(
                "rank() needs exact distributions, which this checkpoint does not have; sort by the values."
            )
        if metric in call.given:
            raise MetricError(f"{metric} is given; there is nothing to rank by.")
        if isinstance(candidates, (str, bytes, Mapping)):
            raise InputError("rank() takes a list of inputs, got one.")
        read = []
        for position, item in enumerate(candidates):
            try:
                read.append(read_input(item, language=call.language, context=call.context))
            except InputError as error:
                raise InputError(f"Input {position}: {error}") from None
        if not read:
            raise InputError("There are no inputs: the list is empty.")
        prepared = self.preprocess(read, call)
        entries: list[Any] = [None] * len(read)
        distributions: list[Any] = [None] * len(read)
        for group in self._groups(prepared, call.batch_size or self._batch_size or self.default_batch_size):
            batch = {**self._collate(group), "metrics": group[0].metrics, "call": call}
            found = self.forward({**batch, "whole": True})
            for item, [entry], whole in zip(group, self.postprocess(found), found["distributions"], strict=True):
                entry["truncated_tokens"] = item.truncated_tokens
                entries[item.owner], distributions[item.owner] = entry, whole
        chances = probability_best(distributions, smaller)

        def key(i: int) -> tuple[bool, float, float]:
            value = entries[i]["value"]
            return value is None, (1 if smaller else -1) * float(value or 0.0), -chances[i]

        return [
            {"rank": rank, "index": i, "source": read[i].source, "probability_best": float(chances[i]), **entries[i]}
            for rank, i in enumerate(sorted(range(len(read)), key=key), start=1)
        ]

    # The four steps of a pipeline, each over several inputs at once.

    def _asked(self, inputs: list[CodeInput], call: CallOptions) -> list[list[str]]:
        """The metrics to answer for each input, in order."""
        config, asked = self.model.config, []
        for item in inputs:
            if call.metrics is None and item.language is None:
                raise InputError(
                    f"{item.source}: cannot tell what kind of code this is. Pass language=..., one of "
                    f"{sorted({k for m in config.metrics for k in m['kinds']})}, or metrics=[...]."
                )
            names = [m for m in (call.metrics or config.metrics_for(item.language)) if m not in call.given]
            if not names:
                raise MetricError("Every metric asked for is given; name at least one other in metrics.")
            asked.append(names)
        return asked

    def preprocess(self, inputs: list[CodeInput], call: CallOptions) -> list[_Prepared]:
        """Chooses each input's metrics and turns header and code into token ids; one text for each group of metrics."""
        config, templates = self.model.config, self.model.config.templates
        for name in [*call.given, *(call.metrics or ())]:
            config.metric(name)
        owners, metrics = [], []
        for owner, (item, asked) in enumerate(zip(inputs, self._asked(inputs, call), strict=True)):
            if strange := [m for m in asked if item.language and item.language not in config.metric(m).kinds]:
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
                owners.append(owner)
                metrics.append((*call.given, *group))
        limits = [min(config.max_input_tokens_of(m) for m in names) for names in metrics]
        encoded = encode_inputs(self.tokenizer, [inputs[i] for i in owners], metrics, limits, templates)
        return [
            _Prepared(owner, ids, names, lost)
            for owner, ids, names, lost in zip(
                owners, encoded.input_ids, metrics, encoded.truncated_tokens, strict=True
            )
        ]

    def _collate(self, prepared: list[_Prepared]) -> dict[str, torch.Tensor]:
        width = max(len(p.input_ids) for p in prepared)
        ids = torch.full((len(prepared), width), self.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, p in enumerate(prepared):
            ids[row, : len(p.input_ids)] = torch.tensor(p.input_ids)
            mask[row, : len(p.input_ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def _forward(self, batch: dict[str, Any]) -> dict[str, Any]:
        call: CallOptions = batch["call"]
        if self.model.regression_head is not None:
            if call.num_samples is not None or call.given or len(batch["metrics"]) > 1:
                raise MetricError(
                    "This checkpoint answers with a regression head: one metric at a time, no samples, nothing given."
                )
            values = self.model.regress(batch)
            unknown = np.full_like(values, np.nan)
            quantiles = np.stack([unknown, values, unknown], -1)[:, None]
            prediction = Prediction(batch["metrics"], (), quantiles, {}, "none", (False,) * len(batch["metrics"]))
            return {"prediction": prediction, "samples": None, "level": None}
        tail = (1 - call.interval) / 2
        encoded = self.model.encode(batch)
        options = {"metrics": batch["metrics"], "given": call.given}
        prediction = self.model.predict(
            encoded,
            (tail, 0.5, 1 - tail),
            conditioning=call.conditioning,
            calibrated=call.calibrated,
            draws=None if self.model.codec.ordered_digits else self.quantile_draws,
            seed=call.seed,
            **options,
        )
        samples = None
        if call.num_samples is not None:
            samples = self.model.sample(encoded, call.num_samples, seed=call.seed, **options)
        answer = {"prediction": prediction, "samples": samples, "level": call.interval}
        if batch.get("whole"):
            answer["distributions"] = self.model.distributions(encoded, calibrated=call.calibrated, **options)
        return answer

    def postprocess(self, found: dict[str, Any]) -> list[list[dict[str, Any]]]:
        """JSON-ready answers, one list per input."""
        prediction, samples = found["prediction"], found["samples"]
        answers = []
        for row in range(len(prediction.quantiles)):
            answer = []
            for column, name in enumerate(prediction.metrics):
                low, value, high = (_plain(v) for v in prediction.quantiles[row, column])
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
                if prediction.draws:
                    entry["draws"] = prediction.draws
                if prediction.outcomes:
                    entry["outcomes"] = {k: float(p[row, column]) for k, p in prediction.outcomes.items()}
                if samples is not None:
                    draws = samples[row, :, column]
                    entry["samples"] = [
                        "failed" if failed else _plain(v) for v, failed in zip(draws, is_failed(draws), strict=True)
                    ]
                answer.append(entry)
            answers.append(answer)
        return answers


def _plain(value: float) -> float | str | None:
    """A float that JSON can hold: None for NaN, words for infinities."""
    if np.isnan(value):
        return None
    return float(value) if np.isfinite(value) else ("+inf" if value > 0 else "-inf")


__all__ = ["CallOptions", "CodeRegressionPipeline"]
