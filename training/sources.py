"""From the entries of the option `data` to tokenised sources, and the metrics registry that follows from them."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from code_rlm.configuration_rlm import Metric
from code_rlm.data.external import generic
from code_rlm.data.mixture import Source, mixture_weights
from code_rlm.data.published import PUBLISHED, RowStream, select, table_path
from code_rlm.data.readers import COMPUTED, TASKS, read_task
from code_rlm.data.schema import DataError, unit_of
from code_rlm.data.splits import split_dataset
from code_rlm.data.streamed import StreamSource, probed_metrics
from code_rlm.data.tables import read_table
from code_rlm.numbers_rlm import NumberCodec
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.options import TrainError, TrainOptions

_OWN_KEYS = ("weight", "mask_tokens", "mask_span", "swap_text", "max_tokens", "failures", "fallback_only")


@dataclass
class Loaded:
    """One entry of the option `data`.

    Attributes:
        train, validation: Tokenised rows; no validation where the split left none.
        rows: The training rows as read; None of a bundle, which comes with its registry, and of a stream.
        weight: Its share of the examples; None where the entry gives none.
        remarks: What was left out, in words.
        validation_rows: The validation rows as read; None of a pack.
        fallback_only: Whether its rows are for the fallback regressors alone (`EnsembleConfig.fallbacks`): the transformer and
            the other regressors do not learn from them.
    """

    train: Source | StreamSource
    validation: Source | None
    rows: Dataset | None
    weight: float | None
    remarks: list[str]
    validation_rows: Dataset | None = None
    fallback_only: bool = False

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.train.name

    def __str__(self) -> str:
        held_out = len(self.validation) if self.validation else 0
        about = "" if isinstance(self.train, Source) else "about "
        parts = [f"{about}{len(self.train)} training rows, {held_out} to validate"]
        if self.fallback_only:
            parts.append("for the fallback regressors alone")
        if self.train.failed:
            parts.append(f"{self.train.failed} failed runs as outcomes")
        if self.train.dropped:
            parts.append(f"{self.train.dropped} rows without any value dropped")
        return f"{self.name}: {', '.join([*parts, *self.remarks])}"


def load_sources(options: TrainOptions, tokenizer: RLMTokenizer) -> tuple[list[Loaded], list[float]]:
    """Every source, and the shares of the examples of those that are not for the fallback regressors alone.

    Raises:
        TrainError: No data, or an entry with unknown keys.
        DataError: Data that cannot be learned from.
    """
    if not options.data.sources:
        raise TrainError("There is no data: give `data:` in the YAML file, for example [{task: bhive_zen4}].")
    loaded = [_load(entry, options, tokenizer) for entry in options.data.sources]
    mixed = [each for each in loaded if not each.fallback_only]
    if not mixed and options.schedule.steps:
        raise TrainError(
            "Every data source has fallback_only: true; the transformer needs one without it, or set steps: 0."
        )
    sizes = [len(each.train) for each in mixed]
    return loaded, mixture_weights(sizes, [each.weight for each in mixed], options.data.temperature)


def _load(entry: dict[str, Any], options: TrainOptions, tokenizer: RLMTokenizer) -> Loaded:
    own = {key: entry[key] for key in _OWN_KEYS if key in entry}
    rest = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
    if rest.get("task") in PUBLISHED:
        if "failures" in own:
            raise TrainError(f"{rest['task']} has no failed runs; leave failures out.")
        if own.get("fallback_only"):
            raise TrainError(
                f"{rest['task']} is streamed, and fallback regressors read whole tables; leave fallback_only out."
            )
        return _streamed(rest, own, options, tokenizer)
    remarks: list[str] = []
    if "task" in rest:
        name, metrics = rest.pop("task"), rest.pop("metrics", None)
        _check_keys(rest, read_task, name)
        train, validation = (
            read_task(name, options.data.root, split, metrics=metrics, seed=options.seed, **rest)
            for split in ("train", "validation")
        )
    elif "file" in rest:
        path = rest.pop("file")
        name = Path(path).name  # it goes into the registry, and from there to the hub
        train, validation = _read_file(path, name, rest, options, tokenizer.codec, remarks)
    else:
        raise TrainError(f"A data source needs 'task' or 'file', got keys {sorted(entry)}.")
    failures = own.get("failures", "outcome")
    settings = {"max_tokens": options.data.max_tokens, "failures": failures}
    source = Source.from_dataset(name, train, tokenizer, **settings)
    _set_text_changes(source, own, tokenizer)
    held_out = None
    if len(validation):
        held_out = Source.from_dataset(name, validation, tokenizer, source.metrics, **settings)
        held_out.max_tokens = source.max_tokens
    fallback_only = bool(own.get("fallback_only"))
    if fallback_only and not set(source.metrics) & set(options.ensemble.fallbacks):
        raise TrainError(
            f"{name}: fallback_only rows have {', '.join(source.metrics)}, and ensemble.fallbacks names "
            f"{', '.join(options.ensemble.fallbacks) or 'no metric'}; name one of theirs there."
        )
    return Loaded(source, held_out, train, own.get("weight"), remarks, validation, fallback_only)


def _set_text_changes(source: Source | StreamSource, own: dict[str, Any], tokenizer: RLMTokenizer) -> None:
    """Sets which tokens of a source's rows are hidden, how often their code is another's, and how long they may be.

    Raises:
        TrainError: Values that cannot be used.
    """
    name = source.name
    for key in ("mask_tokens", "swap_text"):
        share = own.get(key, 0.0)
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise TrainError(f"{name}: {key} must be a share from 0 to below 1, got {share!r}.")
        setattr(source, key, float(share))
    span = own.get("mask_span", 1.0)
    if isinstance(span, bool) or not isinstance(span, (int, float)) or span < 1:
        raise TrainError(f"{name}: mask_span must be a number of tokens, at least 1, got {span!r}.")
    if "mask_span" in own and not source.mask_tokens:
        raise TrainError(f"{name}: mask_span is the length of what mask_tokens hides; set mask_tokens as well.")
    if source.mask_tokens and tokenizer.mask_token_id is None:
        raise TrainError(
            f"{name}: mask_tokens needs a tokenizer with a mask token, and this one has none; leave it out."
        )
    source.mask_span = float(span)
    source.max_tokens = own.get("max_tokens")


_STREAM_KEYS = ("spaces", "languages", "metrics", "on_error", "validation", "test")


def _streamed(entry: dict[str, Any], own: dict[str, Any], options: TrainOptions, tokenizer: RLMTokenizer) -> Loaded:
    """Returns a published table as a stream, and some rows of its validation split.

    Raises:
        TrainError: A key that streams do not take.
        DataError: An unknown space, or a table that cannot be read.
    """
    name = entry["task"]
    asked = {key: value for key, value in entry.items() if key != "task"}
    if unknown := sorted(set(asked) - set(_STREAM_KEYS)):
        raise TrainError(
            f"The data source {name} is streamed and takes no {', '.join(unknown)}. Known: "
            f"{', '.join([*_STREAM_KEYS, *_OWN_KEYS])}."
        )
    path = table_path(PUBLISHED[name], options.data.root)
    table, chosen = select(name, path, "train", seed=options.seed, **asked)
    chosen = replace(chosen, metrics=tuple(probed_metrics(table, chosen)))
    if asked.get("spaces"):  # several sources of one table have different names in the log and in scores
        name = f"{name}/{'+'.join(chosen.spaces)}"
    train = StreamSource(name, table, chosen, tokenizer, options.data.max_tokens)
    _set_text_changes(train, own, tokenizer)
    held_out = RowStream(table, replace(chosen, split="validation"), repeat=False)
    rows = held_out.take(options.evaluation.rows) if chosen.validation else []
    spaces = ", ".join(f"{space} {table.rows([space])}" for space in chosen.spaces)
    remarks = [f"streamed from {path} ({spaces})"]
    return Loaded(train, train.tokenised(rows) if rows else None, None, own.get("weight"), remarks)


def _check_keys(entry: dict[str, Any], reader: Callable, name: str) -> None:
    hidden = ("name", "path", "data_root", "split", "seed", "magnitudes")
    known = [k for k in inspect.signature(reader).parameters if k not in hidden]
    if unknown := sorted(set(map(str, entry)) - set(known)):
        raise TrainError(
            f"The data source {name} has unknown keys {unknown}. Known: {', '.join([*known, *_OWN_KEYS])}."
        )


def _read_file(
    path: str, name: str, entry: dict[str, Any], options: TrainOptions, codec: NumberCodec, remarks: list[str]
) -> tuple[Dataset, Dataset]:
    """Training and validation rows of a table; refuses what no model can learn from."""
    _check_keys(entry, generic, name)
    shares = {key: entry.pop(key) for key in ("validation", "test") if key in entry}
    rows = read_table(path, magnitudes=(codec.smallest_magnitude, codec.largest_magnitude), **entry)
    if not len(rows):
        raise DataError(f"{name} has no rows to train on.")
    parts = split_dataset(rows, seed=options.seed, **shares)
    train, validation = parts["train"], parts["validation"]
    groups = len(set(rows["group"]))
    if not len(train) or (groups == 1 and len(train) == len(rows) and shares != {"validation": 0, "test": 0}):
        lacking = "nothing to validate on" if len(train) else "none to train on"
        raise DataError(
            f"{name}: {len(rows)} rows in {groups} groups ({entry.get('group_column') or 'equal texts'}); a split by group "
            f"leaves {lacking}. Choose a finer group_column, or set validation: 0 and test: 0 to train on all rows."
        )
    constant = constant_metrics(train)
    if constant and entry.get("on_error") == "skip":
        train, validation = (part.map(_without, fn_kwargs={"metrics": list(constant)}) for part in (train, validation))
        remarks += [f"{metric} left out ({value:g} in every row)" for metric, value in constant.items()]
    elif constant:
        metric, value = next(iter(constant.items()))
        raise DataError(
            f"{name}, column of {metric}: every one of the {len(train)} training rows holds {value:g}, so there is nothing to "
            "learn. Leave it out of target_columns, or set on_error: skip."
        )
    return train, validation


def constant_metrics(rows: Dataset) -> dict[str, float]:
    """Metrics whose value is the same in every row, with no failed run beside it, and that value."""
    found: dict[str, set] = {}
    for names, values, outcome in zip(rows["metrics"], rows["values"], rows["outcome"], strict=True):
        for metric, value in zip(names, values, strict=True):
            if value is not None or outcome != "ok":
                found.setdefault(metric, set()).add(value)
    return {metric: next(iter(seen)) for metric, seen in found.items() if len(seen) == 1 and None not in seen}


def _without(row: dict[str, Any], metrics: Sequence[str]) -> dict[str, Any]:
    keep = [i for i, metric in enumerate(row["metrics"]) if metric not in metrics]
    return {key: [row[key][i] for i in keep] for key in ("metrics", "values", "units")}


def registry(options: TrainOptions, loaded: Sequence[Loaded]) -> list[dict[str, Any]]:
    """The metrics registry: entries given in the options, the others from what the data says of unit and kind."""
    entries = {Metric.from_dict({"name": None, **entry}).name: dict(entry) for entry in options.model.metrics}
    origins: dict[str, list[str]] = {}
    for each in loaded:
        kinds = sorted(set(each.train.languages))
        for metric in each.train.metrics:
            origins.setdefault(metric, []).append(_origin(each, metric))
            entry = entries.setdefault(metric, {"name": metric})
            entry.setdefault("unit", {"percent": "%"}.get(unit_of(metric), unit_of(metric)))
            entry.setdefault("smaller_is_better", not any(w in metric for w in ("accuracy", "per_s", "throughput")))
            entry["languages"] = sorted({*entry.get("languages", ()), *kinds})
            if each.train.max_tokens is not None:
                entry.setdefault("max_input_tokens", each.train.max_tokens)
    for metric, texts in origins.items():
        entries[metric].setdefault("description", "; ".join(dict.fromkeys(texts)))
    return list(entries.values())


def _origin(source: Loaded, metric: str) -> str:
    """Where a metric's values come from, in words: the source, and what they were measured on where it is known."""
    by_metric = {m: TASKS[source.name].hardware_of(m) for m in source.train.metrics} if source.name in TASKS else {}
    if any(by_metric.values()):
        hardware = by_metric[metric]
    elif isinstance(source.train, StreamSource):
        hardware = source.train.hardware_of(metric)
    else:
        rows = source.rows
        known = set(rows["hardware"]) - {""} if rows is not None and "hardware" in rows.column_names else set()
        hardware = known.pop() if len(known) == 1 else ""
    if not hardware:
        return source.name
    return f"{source.name}, {hardware}" if hardware == COMPUTED else f"{source.name}, measured on {hardware}"


def validation_rows(source: Source, count: int, seed: int) -> list[int]:
    """The rows that an evaluation reads, the same every time."""
    return np.random.default_rng(seed).permutation(len(source))[:count].tolist()


__all__ = ["Loaded", "constant_metrics", "load_sources", "registry", "validation_rows"]
