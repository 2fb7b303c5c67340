"""From the entries of the option `data` to tokenised sources, and the metrics registry that follows from them."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from code_rlm.configuration_rlm import Metric
from code_rlm.data.external import generic
from code_rlm.data.mixture import Source, mixture_weights
from code_rlm.data.readers import COMPUTED, TASKS, read_task
from code_rlm.data.schema import DataError, unit_of
from code_rlm.data.splits import split_dataset
from code_rlm.numbers_rlm import NumberCodec
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.options import TrainError, TrainOptions

_OWN_KEYS = ("weight", "mask_tokens", "mask_span", "swap_text", "failures")


@dataclass
class Loaded:
    """One entry of the option `data`.

    Attributes:
        train, validation: Tokenised rows; no validation where the split left none.
        rows: The training rows as read; None of a pack, which comes with its registry.
        weight: Its share of the examples; None where the entry gives none.
        remarks: What was left out, in words.
    """

    train: Source
    validation: Source | None
    rows: Dataset | None
    weight: float | None
    remarks: list[str]

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.train.name

    def __str__(self) -> str:
        held_out = len(self.validation) if self.validation else 0
        parts = [f"{len(self.train)} training rows, {held_out} to validate"]
        if self.train.failed:
            parts.append(f"{self.train.failed} failed runs as outcomes")
        if self.train.dropped:
            parts.append(f"{self.train.dropped} rows without any value dropped")
        return f"{self.name}: {', '.join([*parts, *self.remarks])}"


def load_sources(options: TrainOptions, tokenizer: RLMTokenizer) -> tuple[list[Loaded], list[float]]:
    """Every source, and their shares of the examples.

    Raises:
        TrainError: No data, or an entry with unknown keys.
        DataError: Data that cannot be learned from.
    """
    if not options.data.sources:
        raise TrainError("There is no data: give `data:` in the YAML file, for example [{task: bhive_zen4}].")
    loaded = [_load(entry, options, tokenizer) for entry in options.data.sources]
    sizes = [len(each.train) for each in loaded]
    return loaded, mixture_weights(sizes, [each.weight for each in loaded], options.data.temperature)


def _load(entry: dict[str, Any], options: TrainOptions, tokenizer: RLMTokenizer) -> Loaded:
    own = {key: entry[key] for key in _OWN_KEYS if key in entry}
    rest = {key: value for key, value in entry.items() if key not in _OWN_KEYS}
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
    held_out = None
    if len(validation):
        held_out = Source.from_dataset(name, validation, tokenizer, source.metrics, **settings)
    return Loaded(source, held_out, train, own.get("weight"), remarks)


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
    if "target_columns" not in entry:
        raise TrainError(f"The data source {name} needs target_columns, a list of columns named as the metrics are.")
    shares = {key: entry.pop(key) for key in ("validation", "test") if key in entry}
    rows = generic(path, magnitudes=(codec.smallest_magnitude, codec.largest_magnitude), **entry)
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
    for metric, texts in origins.items():
        entries[metric].setdefault("description", "; ".join(dict.fromkeys(texts)))
    return list(entries.values())


def _origin(source: Loaded, metric: str) -> str:
    """Where a metric's values come from, in words: the source, and what they were measured on where it is known."""
    by_metric = {m: TASKS[source.name].hardware_of(m) for m in source.train.metrics} if source.name in TASKS else {}
    if any(by_metric.values()):
        hardware = by_metric[metric]
    else:
        known = set(source.rows["hardware"]) - {""} if "hardware" in source.rows.column_names else set()
        hardware = known.pop() if len(known) == 1 else ""
    if not hardware:
        return source.name
    return f"{source.name}, {hardware}" if hardware == COMPUTED else f"{source.name}, measured on {hardware}"


def validation_rows(source: Source, count: int, seed: int) -> list[int]:
    """The rows that an evaluation reads, the same every time."""
    return np.random.default_rng(seed).permutation(len(source))[:count].tolist()


__all__ = ["Loaded", "constant_metrics", "load_sources", "registry", "validation_rows"]
