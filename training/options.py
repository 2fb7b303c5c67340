"""The configuration of a training run: nested groups of typed fields, which fill the help text, the YAML file and the checks.

    schedule: {steps: 500}                # in the YAML file
    steps: 500                            # the same by its short name
    code-rlm train --schedule.steps 500   # the same as a flag
    code-rlm train --steps 500

`SHORT_NAMES` maps short names to fields. They are also the names of earlier versions, so that their files are read.
"""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    restricted_number_type,
)

from code_rlm.command_parser import CommandParser, UsageError, suggestion
from code_rlm.errors_rlm import RLMError


class TrainError(RLMError):
    """Options that cannot be used, or a run folder that belongs to another run."""


def option(
    default: Any,
    text: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    expects: str | None = None,
) -> Any:
    """Returns a dataclass field with its help and its limits.

    Args:
        default: The default, or a function that makes it.
        text: The help text.
        above: Values must be greater.
        least: Values must be at least this.
        below: Values must be smaller.
        expects: What a value must be, in words, where the type does not name it well.
    """
    limits = [(sign, limit) for sign, limit in ((">", above), (">=", least), ("<", below)) if limit is not None]
    metadata = {"help": text, "limits": limits, "expects": expects}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class SourceOptions:
    """One entry of data.sources: a task of the readers (`task`) or a table of your own (`file`)."""

    task: str | None = option(None, "name of a task in data/readers.py; its tables lie under data.root")
    file: str | None = option(None, "CSV, JSONL or parquet file, or the hub id of a data set")
    text_column: str | None = option(None, "of files: column of the code [text]")
    target_columns: list[str] | dict[str, str] | None = option(
        None,
        "of files: columns of the numbers, named as the metrics are, or column to metric; not of what measure wrote",
    )
    group_column: str | None = option(None, "of files: rows that share its value never fall in two splits")
    language: str | None = option(None, "of files: language of every row")
    language_column: str | None = option(None, "of files: column of the language")
    context_columns: list[str] | None = option(None, "of files: columns that become header lines of the input")
    outcome_column: str | None = option(None, "of files: column of what happened (ok, timeout, ...)")
    source: str | None = option(None, "of files: name for the rows' source")
    hub_split: str | None = option(None, "of data sets on the hub: split to read [train]")
    metrics: list[str] | None = option(None, "of tasks: metrics to learn; by default all that were measured")
    spaces: list[str] | None = option(
        None, "of the published tasks (code_regression, graph_arch_regression): spaces to read, in any spelling [all]"
    )
    languages: list[str] | None = option(None, "of code_regression: languages to read, such as cpp or C++ [all]")
    limit: int | None = option(None, "of tasks: at most so many rows of a split", above=0)
    workers: int | None = option(None, "of tasks: processes that read the table [1]", above=0)
    on_error: Literal["raise", "skip"] | None = option(
        None, "raise: a bad row ends the run; skip: such rows are counted and left out [raise]"
    )
    validation: float | None = option(None, "share of the groups that is validation rows [0.1]", least=0)
    test: float | None = option(None, "share of the groups that is test rows [0.1]", least=0)
    weight: float | None = option(None, "share of the examples; by default by size, see data.temperature", above=0)
    max_tokens: int | None = option(
        None, "its own limit on the input's length; its metrics keep it [data.max_tokens]", least=16
    )
    failures: Literal["outcome", "drop"] | None = option(
        None, "outcome: a failed run is an answer of its own; drop: such rows are left out [outcome]"
    )
    mask_tokens: float | None = option(None, "share of the code's tokens that is hidden [0]", least=0, below=1)
    mask_span: float | None = option(None, "mean length in tokens of the spans hidden [1]", least=1)
    swap_text: float | None = option(
        None,
        "share of draws with the code of another row, so that a small source is not memorised [0]",
        least=0,
        below=1,
    )
    fallback_only: bool | None = option(
        None, "the rows are for the regressors of ensemble.fallbacks alone; the transformer never reads them [false]"
    )


@dataclass
class DataOptions:
    """Rows and batches."""

    sources: list[dict[str, Any]] = option(
        list, "list of sources; their keys are listed below", expects="a list of mappings"
    )
    root: str | None = option(None, "folder of the tasks' tables")
    temperature: float = option(
        2.0,
        "a source without a weight is drawn by rows ** (1 / temperature): 1 by size, large for equal shares",
        above=0,
    )
    max_tokens: int = option(1024, "longest input in tokens; the middle of longer code is left out", above=0)
    max_objectives: int = option(
        4, "most metrics asked for at once; which and in what order is drawn for each example", above=0
    )
    batch_tokens: int = option(16_384, "input tokens in a batch, padding included, of all processes together", above=0)
    write_bundle: str | None = option(
        None,
        "write the tokenised rows and the fitted feature ensemble into this file and stop; to train on a machine that has "
        "neither the tables nor the time to fit",
    )
    bundle: str | None = option(
        None, "read such a file instead of the tables; made with the same sources, model.init and ensemble"
    )


@dataclass
class ModelOptions:
    """The model to train: a checkpoint (init), a pretrained encoder, or new weights (config)."""

    init: str | None = option(None, "checkpoint folder or hub id to start from; without it a new model is made")
    pretrained_encoder: str | None = option(None, "pretrained encoder (folder or hub id) for a new model")
    keep_decoder: bool = option(False, "take the decoder of that checkpoint too, for numbers (T5Gemma)")
    tokenizer: str | None = option(None, "folder or hub id of the tokenizer; by default that of init")
    config: dict[str, Any] = option(dict, "fields of RLMConfig for a new model", expects="a mapping")
    number_format: dict[str, Any] | None = option(
        None,
        "how a new model writes numbers: fields of NumberFormat, such as {layout: p10, mantissa_digits: 6, min_exponent: -10, "
        "max_exponent: 10, specials: []}; by default the tokenizer's, or 4 digits",
        expects="a mapping",
    )
    freeze_encoder: bool | None = option(
        None, "leave the encoder out of training; by default as in init, and never with lora"
    )
    number_embeddings: bool = option(
        False, "embed how large each number in the text is and what names are bound to; kept where init has it"
    )
    head: Literal["auto", "decoder", "mse", "normalised_mse"] = option(
        "auto",
        "decoder: numbers token by token; mse, normalised_mse: a linear head on the encoder's mean, for comparison, trained by "
        "squared error in the metric's unit or in standard deviations (one metric, no intervals); auto: as in init",
    )
    metrics: list[dict[str, Any]] = option(
        list,
        "registry entries (name, unit, smaller_is_better, description, languages)",
        expects="a list of mappings",
    )
    default_metrics: dict[str, list[str]] = option(
        dict,
        "language to the metrics predicted where none is asked for",
        expects="a mapping of languages to lists of metrics",
    )


@dataclass
class EnsembleOptions:
    """The feature ensemble: regressors whose scores the decoder reads. Unset fields are those of init, or EnsembleConfig's."""

    use: bool | None = option(
        None, "true: add one; false: remove that of init; by default that of init is kept and fitted to the data"
    )
    buckets: int | None = option(
        None, "hash buckets of n-grams [32768]; another number begins the ensemble anew", above=0
    )
    longest_gram: int | None = option(None, "tokens in the longest n-gram [2]; another number begins it anew", above=0)
    number_buckets: int | None = option(None, "hash buckets of numbers in the header [32]", least=0)
    largest_numbers: int | None = option(None, "how many of the code's largest numbers are features [0]", least=0)
    code_numbers: int | None = option(None, "hash buckets of the code's numbers; 4096 is good [0]", least=0)
    name_numbers: int | None = option(
        None, "hash buckets of numbers that names are bound to; 4096 is good [0]", least=0
    )
    number_context: int | None = option(
        None, "tokens before a number that count; 2 is good with the above [1]", above=0
    )
    structure_buckets: int | None = option(
        None, "hash buckets of graph n-grams (ONNX) and dependencies (x86); 4096 is good [0]", least=0
    )
    position_buckets: int | None = option(
        None, "hash buckets of where operators stand in the blocks of a graph; 2048 is good [0]", least=0
    )
    cost_features: bool | None = option(
        None, "what a program's text says about its work and memory, such as the iterations of its loops [false]"
    )
    trees: int | None = option(None, "most boosted trees of a metric, beside the ridge; 500 is good [0]", least=0)
    tree_grams: int | None = option(None, "n-gram buckets that a metric's trees read [384]", least=0)
    tree_numbers: int | None = option(None, "number buckets that a metric's trees read [1536]", least=0)
    mlp_features: int | None = option(
        None, "features of the MLPs, those that trees split on most; 256 is good [0]", least=0
    )
    mlp_count: int | None = option(None, "MLPs that answer together; 3 is good [1]", above=0)
    language_model: str | dict[str, Any] | None = option(
        None,
        "hidden states of a language model are features, too: smollm2, a Hub id, a folder, a GGUF file, or a mapping of model, "
        "revision, gguf_file, depth or layers, pooling, dtype, max_tokens; none: not those of init's [none]",
        expects="a name, or a mapping with model",
    )
    fallbacks: list[str] = option(
        list,
        "metrics with a regressor for inputs unlike the training rows, fitted to all sources, fallback_only ones as well",
        expects="a list of metrics",
    )

    def changes(self) -> dict[str, Any]:
        """Returns the settings of the ensemble's features and base learners that were given."""
        others = ("use", "fallbacks")
        return {name: value for name, value in asdict(self).items() if name not in others and value is not None}

    @property
    def wanted(self) -> bool:
        """Whether a model without a feature ensemble gets one."""
        return bool(self.use or self.fallbacks or self.changes())


@dataclass
class LoraOptions:
    """Low-rank adapters (arXiv 2106.09685) in place of the weights themselves."""

    rank: int | None = option(None, "rank of the adapters, such as 16; without it all weights are trained", above=0)
    alpha: float | None = option(None, "scale of the adapters; by default twice the rank")
    dropout: float = option(0.0, "dropout before the adapters", least=0, below=1)
    target: list[str] | Literal["attention", "linear"] = option(
        "attention",
        "attention (of encoder and decoder), linear (all linear layers), or a list of names of layers",
        expects="attention, linear or a list of names of layers (a single layer is a list, too)",
    )
    train: list[str] = option(
        lambda: ["number_head"], "modules trained whole beside the adapters, each by a name that fits only one"
    )

    @property
    def enabled(self) -> bool:
        """Whether adapters are trained."""
        return self.rank is not None

    @property
    def scale(self) -> float:
        """`alpha`, or twice the rank."""
        return 2.0 * (self.rank or 0) if self.alpha is None else self.alpha


@dataclass
class OptimizerOptions:
    """The optimiser and the average of the weights."""

    name: Literal["adamw", "adafactor", "muon"] = option(
        "adamw", "adamw, adafactor (as in the paper), or muon (matrices of the layers; the rest by AdamW)"
    )
    learning_rate: float = option(1e-3, "peak learning rate", above=0)
    weight_decay: float = option(0.05, "decoupled weight decay of matrices", least=0)
    clip: float = option(1.0, "largest gradient norm", above=0)
    ema: float = option(
        0.0,
        "decay of the running average of weights that is evaluated and saved, such as 0.999; 0: none",
        least=0,
        below=1,
    )


@dataclass
class ScheduleOptions:
    """Steps, and the learning rate over them."""

    steps: int = option(10_000, "optimiser steps; 0 fits the feature ensemble and its pooling alone", least=0)
    minutes: float = option(
        0.0,
        "end after so many minutes from the first step on, 0: no limit; the learning rate falls with the clock where that is "
        "ahead of the steps",
        least=0,
    )
    accumulate: int = option(1, "batches per optimiser step", above=0)
    warmup: float = option(0.05, "share of the steps over which the learning rate rises; a cosine follows", least=0)
    final_learning_rate: float = option(0.02, "learning rate at the end, as a share of the peak", least=0)


@dataclass
class LossOptions:
    """Losses beside cross-entropy; see training/losses.py."""

    digits: float = option(0.0, "weight of the ordinal loss of digits and exponents", least=0)
    ranking: float = option(0.0, "weight of the pairwise ranking loss", least=0)
    z: float = option(
        0.0, "weight of the squared log-normaliser, which keeps logits small under bf16, such as 1e-4", least=0
    )
    masked_tokens: float = option(
        0.0,
        "weight of restoring the tokens that mask_tokens of a source hides: masked-span pretraining of the encoder",
        least=0,
    )


@dataclass
class EvaluationOptions:
    """Scores on the validation rows."""

    every: int = option(500, "steps between evaluations", above=0)
    rows: int = option(256, "validation rows of each source", above=0)
    score: Literal["nll", "spearman"] = option(
        "nll", "what makes a checkpoint the best: nll, or spearman of exact medians"
    )
    patience: int = option(
        0, "stop after so many evaluations without a better score, and make final/ of best/; 0: never", least=0
    )


@dataclass
class CalibrationOptions:
    """Calibration of the final checkpoint, as code-rlm calibrate fits it."""

    use: bool = option(
        True, "fit intervals on the validation rows, and describe the training rows, so that answers carry familiarity"
    )
    rows: int = option(2000, "most validation rows of each metric", above=0)


@dataclass
class CheckpointOptions:
    """Checkpoints to resume from."""

    every: int = option(500, "steps between checkpoints", above=0)
    keep: int = option(2, "checkpoints kept", above=0)
    staging: str | None = option(
        None,
        "folder in memory, such as /dev/shm: checkpoints to resume from are written there and copied to the run's folder "
        "while training goes on",
    )


@dataclass
class RuntimeOptions:
    """How the run uses the machine."""

    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "precision of the forward pass")
    gradient_checkpointing: bool = option(False, "compute activations again in the backward pass: less memory, slower")
    compile: bool = option(False, "torch.compile the encoder: a minute or two at the start, faster steps after")
    workers: int = option(
        0, "processes that make batches ahead of use, per training process; 0: made when they are due", least=0
    )
    feature_cache: str | None = option(
        None, "folder of encoder outputs, computed once and read from disk after; needs model.freeze_encoder"
    )
    feature_draws: int = option(
        4, "with feature_cache: fixed draws of metrics and their order per row, as the encoder reads both", above=0
    )


@dataclass
class LoggingOptions:
    """Log lines and trackers."""

    every: int = option(50, "steps between log lines", above=0)
    trackers: list[str] = option(list, "trackers to log to: tensorboard, trackio, wandb")


@dataclass
class TrainOptions:
    """The whole configuration. `make_options` and `parse_options` check types and limits, this class what goes together."""

    out: str = option("runs/rlm", "folder of the run: checkpoints, log.jsonl, options.yaml, best/ and final/")
    seed: int = option(0, "seed of the initial weights, the batches and the split")
    dry_run: bool = option(False, "print what would run and stop: nothing is trained, nothing written")
    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    ensemble: EnsembleOptions = field(default_factory=EnsembleOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    losses: LossOptions = field(default_factory=LossOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    checkpointing: CheckpointOptions = field(default_factory=CheckpointOptions)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    logging: LoggingOptions = field(default_factory=LoggingOptions)

    def __post_init__(self) -> None:
        self._check_lora()
        self._check_masked_tokens()
        if self.ensemble.use is False and self.ensemble.changes():
            raise TrainError("ensemble.use: false removes the feature ensemble; leave its other settings out.")
        if not self.schedule.steps and (self.evaluation.patience or self.lora.enabled):
            raise TrainError("steps: 0 trains nothing, so there is nothing for patience or lora; leave them out.")
        if self.data.write_bundle and self.data.bundle:
            raise TrainError("data.write_bundle writes the data of a run and data.bundle reads it; take one of them.")
        if self.runtime.feature_cache and not self.model.freeze_encoder:
            raise TrainError(
                "feature_cache keeps the outputs of an encoder that does not change: set freeze_encoder: true as well."
            )

    def _check_lora(self) -> None:
        if self.lora.enabled and not self.model.init:
            raise TrainError("lora adapts the weights of a checkpoint: give init, such as --init checkpoints/default.")
        if not self.lora.enabled and self.lora != LoraOptions():
            raise TrainError("lora needs a rank, such as --lora.rank 16.")

    def _check_masked_tokens(self) -> None:
        if not self.losses.masked_tokens:
            return
        if self.model.freeze_encoder:
            raise TrainError(
                "losses.masked_tokens trains the encoder, and freeze_encoder leaves it out; take one of them."
            )
        if not any(entry.get("mask_tokens") for entry in self.data.sources):
            raise TrainError(
                "losses.masked_tokens restores what mask_tokens hides; set mask_tokens: 0.15 in a data source."
            )


# ---------------------------------------------------------------------------------------------------- names

# Short names, which files and flags of earlier versions have, and the fields behind them.
SHORT_NAMES = {
    "data_root": "data.root",
    "temperature": "data.temperature",
    "max_tokens": "data.max_tokens",
    "max_objectives": "data.max_objectives",
    "batch_tokens": "data.batch_tokens",
    "pack": "data.write_bundle",
    "packed": "data.bundle",
    "init": "model.init",
    "encoder": "model.pretrained_encoder",
    "keep_decoder": "model.keep_decoder",
    "tokenizer": "model.tokenizer",
    "number_format": "model.number_format",
    "freeze_encoder": "model.freeze_encoder",
    "number_embeddings": "model.number_embeddings",
    "magnitudes": "model.number_embeddings",
    "head": "model.head",
    "metrics": "model.metrics",
    "default_metrics": "model.default_metrics",
    "learning_rate": "optimizer.learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "clip": "optimizer.clip",
    "ema": "optimizer.ema",
    "steps": "schedule.steps",
    "minutes": "schedule.minutes",
    "accumulate": "schedule.accumulate",
    "warmup": "schedule.warmup",
    "final_learning_rate": "schedule.final_learning_rate",
    "digit_loss": "losses.digits",
    "ranking_loss": "losses.ranking",
    "z_loss": "losses.z",
    "masked_token_loss": "losses.masked_tokens",
    "restore_loss": "losses.masked_tokens",
    "eval_every": "evaluation.every",
    "eval_rows": "evaluation.rows",
    "score": "evaluation.score",
    "patience": "evaluation.patience",
    "calibrate": "calibration.use",
    "save_every": "checkpointing.every",
    "keep": "checkpointing.keep",
    "mixed_precision": "runtime.mixed_precision",
    "gradient_checkpointing": "runtime.gradient_checkpointing",
    "compile": "runtime.compile",
    "workers": "runtime.workers",
    "feature_cache": "runtime.feature_cache",
    "feature_draws": "runtime.feature_draws",
    "log_every": "logging.every",
    "log_with": "logging.trackers",
    "ensemble.place_buckets": "ensemble.position_buckets",
    "ensemble.perceptron_columns": "ensemble.mlp_features",
    "ensemble.perceptron_count": "ensemble.mlp_count",
}
# Not offered: names of earlier versions only.
_EARLIER_NAMES = {"magnitudes", "restore_loss"}
# What the name of a group stands for where its value is no mapping of the group's fields.
_GROUP_VALUES = {
    "data": "data.sources",
    "optimizer": "optimizer.name",
    "ensemble": "ensemble.use",
    "calibration": "calibration.use",
}


def _leaf_fields(cls: type) -> dict[str, tuple[Field, Any]]:
    """Returns each field of a dataclass that is no group, by name, with its type."""
    hints = typing.get_type_hints(cls)
    return {f.name: (f, hints[f.name]) for f in fields(cls) if not is_dataclass(hints[f.name])}


@cache
def _groups() -> dict[str, type]:
    """Returns the class of each group by name."""
    hints = typing.get_type_hints(TrainOptions)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}


@cache
def _all_fields() -> dict[str, tuple[Field, Any]]:
    """Returns every field by its full name, such as `schedule.steps`, with its type."""
    found = _leaf_fields(TrainOptions)
    for group, cls in _groups().items():
        found |= {f"{group}.{name}": each for name, each in _leaf_fields(cls).items()}
    return found


def full_names(entries: Mapping[Any, Any], strict: bool = True) -> dict[str, Any]:
    """Returns options by their full names, such as `schedule.steps`, whether they were given so, in groups or by short names.

    Args:
        entries: Options as in a YAML file.
        strict: Refuse unknown names; otherwise they are left out.

    Raises:
        TrainError: An unknown name.
    """
    found: dict[str, Any] = {}
    for key, value in entries.items():
        name = {"lexical": "ensemble"}.get(str(key), str(key))
        if name in _groups():
            found |= _group_entries(name, value)
        else:
            found[name] = value
    found = {SHORT_NAMES.get(name, name): value for name, value in found.items()}
    unknown = [name for name in found if name not in _all_fields()]
    if unknown and strict:
        raise TrainError(f"There is no option {unknown[0]}.{_near(unknown[0])} See code-rlm train --help.")
    return {name: value for name, value in found.items() if name not in unknown}


def _near(name: str) -> str:
    """Returns a suggestion for an unknown name, in the form in which it was given."""
    offered = [short for short in SHORT_NAMES if short not in _EARLIER_NAMES]
    return suggestion(name, [*offered, *_all_fields()])


def _group_entries(group: str, value: Any) -> dict[str, Any]:
    """Returns the options that one group's value holds, by full names; earlier forms of the value are read as well."""
    names = set(_leaf_fields(_groups()[group]))
    if group == "lora" and isinstance(value, Mapping):
        value = {"rank": 16, **value}
    if group == "ensemble" and value == {}:
        value = True
    if group == "model" and isinstance(value, Mapping) and not names & set(value):
        return {"model.config": dict(value)}  # fields of RLMConfig, in earlier files
    if isinstance(value, Mapping):
        return {f"{group}.{key}": each for key, each in value.items()}
    if value is None:
        return {}
    if group in _GROUP_VALUES:
        return {_GROUP_VALUES[group]: value}
    raise TrainError(f"{group} must be a mapping of {', '.join(sorted(names))}; got {value!r}.")


# ---------------------------------------------------------------------------------------------------- types and limits


def _plain_types(hint: Any) -> tuple[Any, ...]:
    """Returns a type, or the types of a union."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


# The library has these and refuses to make them anew.
_LIMITED = {
    (int, (">", 0)): PositiveInt,
    (int, (">=", 0)): NonNegativeInt,
    (float, (">", 0)): PositiveFloat,
    (float, (">=", 0)): NonNegativeFloat,
}


def _parsed_type(field_: Field, hint: Any) -> Any:
    """Returns the type that the parser checks: that of the annotation, within the field's limits."""
    limits = field_.metadata["limits"]
    if not limits:
        return hint
    base = next(each for each in (int, float) if each in _plain_types(hint))
    limited = _LIMITED.get((base, *limits)) or restricted_number_type(None, base, limits)
    return limited | None if types.NoneType in _plain_types(hint) else limited


def _expected(field_: Field, hint: Any) -> str:
    """Returns what a field takes, in words."""
    if field_.metadata["expects"]:
        return field_.metadata["expects"]
    words = {"<": "below", ">": "above", ">=": "of at least"}
    limits = " and ".join(f"{words[sign]} {limit:g}" for sign, limit in field_.metadata["limits"])
    kinds = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "nothing"}
    named = []
    for part in _plain_types(hint):
        origin = typing.get_origin(part)
        if origin is Literal:
            named.append("one of " + ", ".join(typing.get_args(part)))
        elif origin in (list, dict):
            named.append("a list" if origin is list else "a mapping")
        else:
            named.append(f"{kinds[part]} {limits}".strip() if part in (int, float) else kinds[part])
    return " or ".join(named)


def _add_options(parser: CommandParser, cls: type, group: str = "") -> None:
    """Adds the fields of a dataclass to a parser, as a section of its help."""
    defaults = cls()
    section = parser.add_argument_group(group or "run", (cls.__doc__ or "").splitlines()[0] if group else None)
    short_of = {full: short for short, full in SHORT_NAMES.items() if short not in _EARLIER_NAMES and "." not in short}
    for name, (each, hint) in _leaf_fields(cls).items():
        full = f"{group}.{name}" if group else name
        flags = ["--" + spelling.replace("_", "-") for spelling in (full, short_of.get(full)) if spelling]
        action = section.add_argument(
            *flags, type=_parsed_type(each, hint), default=getattr(defaults, name), help=each.metadata["help"]
        )
        # The library adds NAME+ to append to lists; here a value replaces that of the file, for every type alike.
        for flag in [flag for flag in action.option_strings if flag.endswith("+")]:
            action.option_strings.remove(flag)
            del parser._option_string_actions[flag]


_EPILOG = "  {:16} {}"


@cache
def build_parser(description: str = "") -> CommandParser:
    """Returns the parser of `code-rlm train`."""
    lines = ["keys of each entry of data.sources:"]
    lines += [_EPILOG.format(name, each.metadata["help"]) for name, (each, _) in _leaf_fields(SourceOptions).items()]
    parser = CommandParser(
        "train", description, "code-rlm train [--config FILE] [--OPTION VALUE ...]", epilog="\n".join(lines)
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the options below; flags win over it")
    for group in _GROUP_FLAGS:
        text = f"options of {group} as YAML; each has a flag of its own below"
        parser.add_argument(f"--{group}", metavar="YAML", default=None, dest=f"{group}_values", help=text)
    _add_options(parser, TrainOptions)
    for group, cls in _groups().items():
        _add_options(parser, cls, group)
    return parser


_GROUP_FLAGS = ("data", "model", "ensemble", "lora", "optimizer")


@cache
def _checker(cls: type) -> CommandParser:
    """Returns a parser of a dataclass's fields, to check values by."""
    parser = CommandParser("train")
    _add_options(parser, cls)
    if cls is TrainOptions:
        for group, group_class in _groups().items():
            _add_options(parser, group_class, group)
    return parser


def _takes_no(hint: Any) -> bool:
    """Returns whether the word `no` is a choice: YAML 1.1 reads it as false where it is not quoted."""
    return any(typing.get_origin(part) is Literal and "no" in typing.get_args(part) for part in _plain_types(hint))


def _checked(
    values: Mapping[str, Any], cls: type, known: Mapping[str, tuple[Field, Any]], place: str = ""
) -> Namespace:
    """Returns values with the types that a class's fields state.

    Args:
        values: By full name.
        cls: The dataclass.
        known: Its fields by full name.
        place: What the names stand in, for the message.

    Raises:
        TrainError: A value of another type or outside of its limits.
    """
    checker = _checker(cls)
    values = {name: "no" if value is False and _takes_no(known[name][1]) else value for name, value in values.items()}
    for name, value in values.items():
        _, hint = known[name]
        if isinstance(value, bool) and bool not in _plain_types(hint):  # the library takes true for 1
            raise TrainError(f"{place}{name} must be {_expected(*known[name])}; got {value!r}.")
    try:
        return _without_limits(checker.parse_object(nested(values)))
    except UsageError as error:
        for name, value in values.items():
            try:
                checker.parse_object(nested({name: value}))
            except UsageError:
                raise TrainError(f"{place}{name} must be {_expected(*known[name])}; got {value!r}.") from None
        raise TrainError(str(error)) from None


def _without_limits(checked: Namespace) -> Namespace:
    """Returns values with plain numbers in place of the library's limited ones, which YAML cannot write."""
    for name, value in checked.items():
        plain = next(
            (base for base in (int, float) if isinstance(value, base) and type(value) not in (base, bool)), None
        )
        if plain is not None:
            checked[name] = plain(value)
    return checked


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by full name as mappings of mappings."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        *groups, last = name.split(".")
        inner = result
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return result


def _check_sources(sources: Sequence[Mapping[str, Any]]) -> None:
    """Checks the keys and values of every entry of data.sources.

    Raises:
        TrainError: An unknown key, or a value that it does not take.
    """
    known = _leaf_fields(SourceOptions)
    for number, entry in enumerate(sources):
        place = f"data.sources[{number}] ({entry.get('task') or entry.get('file') or 'neither task nor file'})"
        for key in entry:
            if key not in known:
                raise TrainError(f"{place} has no key {key}.{suggestion(str(key), known)} Known: {', '.join(known)}.")
        given = {name: value for name, value in entry.items() if value is not None}
        _checked(given, SourceOptions, known, f"{place}: ")


def _build(values: Mapping[str, Any]) -> TrainOptions:
    """Returns the configuration of checked values by full name.

    Raises:
        TrainError: Values of the wrong type, or that do not go together.
    """
    checked = _checked(values, TrainOptions, _all_fields())
    _check_sources(checked["data.sources"])
    groups = {
        group: cls(**{name: checked[f"{group}.{name}"] for name in _leaf_fields(cls)})
        for group, cls in _groups().items()
    }
    return TrainOptions(**{name: checked[name] for name in _leaf_fields(TrainOptions)}, **groups)


def make_options(**entries: Any) -> TrainOptions:
    """Returns the configuration of options given in groups, by full names or by short names, as in a YAML file.

    Raises:
        TrainError: An unknown name, a value of the wrong type, or values that do not go together.
    """
    return _build(full_names(entries))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Returns the options in a YAML file, as they stand there.

    Raises:
        TrainError: No such file, or no mapping in it.
    """
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TrainError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, dict):
        raise TrainError(f"{path} must hold options by name, such as `steps: 100`; got a {type(entries).__name__}.")
    return entries


def parse_options(argv: Sequence[str] | None = None, description: str = "") -> TrainOptions:
    """Returns the configuration of a YAML file (`--config`) and flags; flags win.

    Raises:
        TrainError: An unknown name in the file, a value of the wrong type, or values that do not go together.
        UsageError: An unknown flag.
    """
    parser = build_parser(description)
    flags = _flag_values(parser, parser.canonical(list(argv or ())))
    values: dict[str, Any] = {}
    if path := flags.pop("config", None):
        try:
            values = full_names(read_yaml(path))
        except TrainError as error:
            message = str(error)
            raise TrainError(message if message.startswith(str(path)) else f"{path}: {message}") from None
    return _build({**values, **full_names(flags)})


def _flag_value(flag: str, full: str, text: str) -> Any:
    """Returns a flag's value: as YAML reads it, but text where the option takes text.

    Raises:
        TrainError: Not YAML.
    """
    takes_text = full == "config" or (full in _all_fields() and str in _plain_types(_all_fields()[full][1]))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        if takes_text:
            return text
        raise TrainError(f"{flag} cannot be read as YAML: {text!r}.") from None
    if takes_text and not isinstance(value, str) and text != "null":
        return text  # a folder may be named 2024
    return value


def _flag_values(parser: CommandParser, argv: Sequence[str]) -> dict[str, Any]:
    """Returns the flags' values, read as YAML, by option."""
    found: dict[str, Any] = {}
    position = 0
    while position < len(argv):
        name, equals, text = argv[position].partition("=")
        position += 1
        if name in ("-h", "--help"):
            parser.print_help()
            raise SystemExit(0)
        if not name.startswith("--"):
            raise UsageError(f"train takes no argument {name!r}; options begin with --. See code-rlm train --help.")
        if not equals:
            if position == len(argv):
                raise UsageError(f"{name} needs a value; see code-rlm train --help.")
            text = argv[position]
            position += 1
        key = name.removeprefix("--").replace("-", "_")
        found[key] = _flag_value(name, SHORT_NAMES.get(key, key), text)
    return found


__all__ = [
    "SHORT_NAMES",
    "LoraOptions",
    "TrainError",
    "TrainOptions",
    "build_parser",
    "full_names",
    "make_options",
    "nested",
    "parse_options",
    "read_yaml",
]
