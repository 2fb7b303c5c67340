"""Everything that a training run can be told: one dataclass fills the help text, the YAML file and the checks."""

import argparse
import contextlib
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from code_rlm.errors_rlm import RLMError


class TrainError(RLMError):
    """Options that cannot be used, or a run folder that belongs to another run."""


def option(default: Any, text: str, *, above: float | None = None, least: float | None = None, choices=None) -> Any:
    """A dataclass field with its help and its limits."""
    limits = {"help": text, "above": above, "least": least, "choices": choices}
    if callable(default):
        return field(default_factory=default, metadata=limits)
    return field(default=default, metadata=limits)


class Checked:
    """Base of the option classes: every field has the type, the range and the choices that it states."""

    prefix = ""

    def __post_init__(self):
        for f in fields(self):
            kind, value = typing.get_type_hints(type(self))[f.name], getattr(self, f.name)
            name, limits = self.prefix + f.name, f.metadata
            self._check_type(name, kind, value)
            if limits["choices"] and value not in limits["choices"]:
                raise TrainError(f"{name} must be one of {', '.join(limits['choices'])}; got {value!r}.")
            if limits["above"] == 0 and value <= 0:
                raise TrainError(f"{name} must be above zero, got {value}.")
            if limits["least"] is not None and value < limits["least"]:
                raise TrainError(f"{name} must be at least {limits['least']}, got {value}.")

    @staticmethod
    def _check_type(name: str, kind: Any, value: Any) -> None:
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        plain = tuple(typing.get_origin(k) or k for k in kinds)
        if isinstance(value, bool) and bool not in plain:
            raise TrainError(f"{name} must be {kind}, got {value!r}.")
        if not isinstance(value, (*plain, int) if float in plain else plain):
            raise TrainError(f"{name} must be {getattr(kind, '__name__', kind)}, got {value!r}.")


@dataclass
class LoraOptions(Checked):
    """The option `lora`: low-rank adapters (arXiv 2106.09685) in place of the weights themselves."""

    prefix = "lora."
    rank: int = option(16, "rank of the adapters", above=0)
    alpha: float | None = option(None, "scale of the adapters; by default twice the rank")
    dropout: float = option(0.0, "dropout before the adapters", least=0)
    target: str | list = option(
        "attention", "attention (of encoder and decoder), linear (all linear layers), or a list of names of layers"
    )
    train: list = option(
        lambda: ["number_head"], "modules trained whole beside the adapters, each by a name that fits only one"
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.target, str) and self.target not in ("attention", "linear"):
            raise TrainError(
                f"lora.target must be attention, linear or a list of names of layers, got {self.target!r}. A single "
                f"layer is a list, too: [{self.target}]."
            )
        self.alpha = 2.0 * self.rank if self.alpha is None else self.alpha


@dataclass
class TrainOptions(Checked):
    """Everything that a training run can be told; the help of each field is its documentation."""

    out: str = option("runs/rlm", "folder of the run: checkpoints, log.jsonl, options.yaml, best/ and final/")
    data: list[dict] = option(
        list,
        "sources, each {task: NAME} or {file: PATH, text_column:, target_columns: [...], group_column:}; further keys: "
        "weight (share of the examples), metrics, mask_tokens (share of code tokens hidden), mask_span (mean length of the "
        "runs hidden, 1), swap_text (share of draws with another row's code, so that a small source is not learned by "
        "heart), failures (outcome: a failed run is an answer "
        "of its own; drop: such rows are left out); of files: language_column or language, "
        "context_columns, outcome_column, on_error (raise; skip: bad rows are counted and left out), validation, test",
    )
    data_root: str | None = option(None, "folder of the tasks' tables")
    temperature: float = option(
        2.0,
        "a source without a weight is drawn by rows ** (1 / temperature): 1 by size, large for equal shares",
        above=0,
    )
    init: str | None = option(None, "checkpoint folder or hub id to start from; without it a new model is made")
    encoder: str | None = option(None, "pretrained encoder (folder or hub id) for a new model")
    keep_decoder: bool = option(False, "take that checkpoint's decoder too, for numbers (T5Gemma)")
    freeze_encoder: bool | None = option(
        None, "leave the encoder out of training; by default as in init, and with lora never"
    )
    lora: dict | None = option(
        None, "train low-rank adapters: {rank:, alpha:, dropout:, target:, train:}; {} takes the defaults"
    )
    magnitudes: bool = option(
        False,
        "tells the encoder how large each number in the text is, and what names are bound to; stays where init has it",
    )
    lexical: dict | bool | None = option(
        None,
        "adds a lexical path, regressors on n-grams that the decoder reads; true, false (one that init has goes: training "
        "starts sooner, and a later run can begin one anew) or buckets:, longest_gram:, number_buckets:, largest_numbers:, "
        "code_numbers:, name_numbers: (what names are bound to; 4096 is good for either, with number_context: 2), "
        "structure_buckets: (how an ONNX graph is wired, what an x86 block waits for; 4096 is good), place_buckets: (where the "
        "operators of a graph stand in its blocks; 2048 is good), trees: (boosted, beside the ridge, the most of a metric; 500 "
        "is good), tree_grams:, tree_numbers:, perceptron_columns: (small networks beside the trees, on so many features that "
        "those ask for most; 256 is good; metrics that rank the same texts alike share them), perceptron_count: (how many of "
        "them answer together; 3 is good); by default one that init has is kept and fitted to the data; trees, perceptrons "
        "and structure can be added, what trees look at can change, any other change begins it anew",
    )
    head: str = option(
        "auto",
        "what answers: decoder, token by token; mse or normalised_mse, for comparison: a linear head on the encoder's mean, "
        "trained by squared error in the metric's unit or in standard deviations of the training rows (one metric, no "
        "intervals, the decoder left out); auto: as in init, decoder in a new model",
        choices=("auto", "decoder", "mse", "normalised_mse"),
    )
    feature_cache: str | None = option(
        None, "folder of encoder outputs, computed once and read from disk after; needs freeze_encoder"
    )
    feature_draws: int = option(
        4,
        "with feature_cache: how many fixed draws of metrics and their order each row has, as the header that asks for "
        "them is part of what the encoder reads",
        above=0,
    )
    pack: str | None = option(
        None,
        "write the data as training reads it, tokenised and with the lexical path's scores, into this file and stop: to train "
        "on another machine, which needs neither the tables nor the time to fit",
    )
    packed: str | None = option(None, "such a file in place of the tables, made with the same data, init and lexical")
    tokenizer: str | None = option(None, "folder or hub id of the tokenizer; by default that of init")
    model: dict = option(dict, "fields of RLMConfig for a new model")
    metrics: list[dict] = option(list, "registry entries (name, unit, smaller_is_better, description, kinds)")
    default_metrics: dict = option(dict, "kind of input to the metrics predicted where none is asked for")
    steps: int = option(
        10_000,
        "optimiser steps; 0 fits the lexical path to the data and chooses its experts, and leaves all that is trained as it is",
        least=0,
    )
    minutes: float = option(
        0.0,
        "end after so many minutes, counted from the first step on: the learning rate falls with the clock where that is ahead "
        "of the steps, so the run ends as a whole one does; reading the data before, and the last evaluation, checkpoint and "
        "experts after, come on top; 0: no limit",
        least=0,
    )
    batch_tokens: int = option(
        16_384, "input tokens in a batch, padding included, shared out over all processes", above=0
    )
    accumulate: int = option(1, "batches per optimiser step", above=0)
    workers: int = option(
        0,
        "processes that make batches ahead of use, of each training process, for a GPU that waits for them; 0: none, and each "
        "batch is made when it is due",
        least=0,
    )
    max_tokens: int = option(1024, "longest input in tokens; the code's middle is left out beyond", above=0)
    max_objectives: int = option(
        4, "most metrics asked for at once; which and in what order is drawn for each example", above=0
    )
    optimizer: str = option(
        "adamw",
        "adamw, adafactor (as in the paper), or muon (matrices of the layers; the rest by AdamW)",
        choices=("adamw", "adafactor", "muon"),
    )
    learning_rate: float = option(1e-3, "peak learning rate", above=0)
    warmup: float = option(
        0.05, "share of the steps over which the learning rate rises; it falls by a cosine after", least=0
    )
    final_learning_rate: float = option(0.02, "learning rate at the end, as a share of the peak", least=0)
    weight_decay: float = option(0.05, "decoupled weight decay of matrices", least=0)
    clip: float = option(1.0, "largest gradient norm", above=0)
    ema: float = option(
        0.0, "decay of the running average of weights that is evaluated and saved, such as 0.999; 0: none", least=0
    )
    digit_loss: float = option(
        0.0, "weight of the ordinal loss of digits and exponents, see training/losses.py", least=0
    )
    ranking_loss: float = option(0.0, "weight of the pairwise ranking loss, see training/losses.py", least=0)
    restore_loss: float = option(
        0.0,
        "weight of the loss of restoring the tokens that mask_tokens hides: masked-span pretraining of the encoder, see "
        "training/losses.py",
        least=0,
    )
    mixed_precision: str = option("no", "no, bf16 or fp16", choices=("no", "bf16", "fp16"))
    gradient_checkpointing: bool = option(False, "compute activations again in the backward pass: less memory, slower")
    compile: bool = option(
        False, "torch.compile the encoder: a minute or two at the start, steps some 15% faster on a CPU after"
    )
    seed: int = option(0, "of the initial weights, the batches and the split")
    eval_every: int = option(500, "steps between evaluations on the validation split", above=0)
    eval_rows: int = option(256, "validation rows of each source in an evaluation", above=0)
    score: str = option(
        "nll",
        "what makes a checkpoint the best on the validation rows: nll, or spearman (of exact medians)",
        choices=("nll", "spearman"),
    )
    patience: int = option(
        0, "stop after so many evaluations without a better score, and make final/ of best/; 0: never", least=0
    )
    save_every: int = option(500, "steps between checkpoints", above=0)
    keep: int = option(2, "checkpoints kept", above=0)
    log_every: int = option(50, "steps between log lines", above=0)
    log_with: list = option(list, "trackers to log to: tensorboard, trackio, wandb")
    dry_run: bool = option(False, "print what would run and stop: nothing is trained, nothing written")

    def __post_init__(self):
        super().__post_init__()
        for name in ("data", "metrics"):
            if strange := [entry for entry in getattr(self, name) if not isinstance(entry, dict)]:
                raise TrainError(f"{name} must be a list of mappings, got {strange[0]!r} in it.")
        if self.ema >= 1:
            raise TrainError(f"ema must be below 1, such as 0.999; got {self.ema}.")
        if self.lora is not None:
            self.lora_options()
            if not self.init:
                raise TrainError(
                    "lora adapts the weights of a checkpoint: give init, such as --init checkpoints/default."
                )
        known = (
            "buckets", "longest_gram", "number_buckets", "largest_numbers", "code_numbers", "name_numbers", "number_context",
            "structure_buckets", "place_buckets", "trees", "tree_grams", "tree_numbers", "perceptron_columns",
            "perceptron_count",
        )  # fmt: skip
        if unknown := sorted(set(map(str, self.lexical if isinstance(self.lexical, dict) else ())) - set(known)):
            raise TrainError(f"lexical has unknown keys {unknown}. Known: {', '.join(known)}.")
        if self.restore_loss and self.freeze_encoder:
            raise TrainError("restore_loss trains the encoder, and freeze_encoder leaves it out; take one of them.")
        if self.restore_loss and not any(entry.get("mask_tokens") for entry in self.data):
            raise TrainError("restore_loss restores what mask_tokens hides; set mask_tokens: 0.15 in a data source.")
        if not self.steps and (self.patience or self.lora is not None):
            raise TrainError("steps: 0 trains nothing, so there is nothing for patience or lora; leave them out.")
        if self.pack and self.packed:
            raise TrainError("pack writes the data of a run and packed reads it; take one of them.")
        if self.feature_cache and not self.freeze_encoder:
            raise TrainError(
                "feature_cache keeps the outputs of an encoder that does not change: set freeze_encoder: true as well."
            )

    def lora_options(self) -> LoraOptions:
        """The option `lora`, checked."""
        known = [f.name for f in fields(LoraOptions)]
        if unknown := sorted(map(str, set(self.lora) - set(known))):
            raise TrainError(f"lora has unknown keys {unknown}. Known: {', '.join(known)}.")
        return LoraOptions(**self.lora)


def parse_options(argv: list[str] | None = None, description: str = "") -> TrainOptions:
    """Options from a YAML file (`--config`) and flags; flags win.

    Raises:
        TrainError: An unknown key in the file, or a value of the wrong type.
    """
    hints = typing.get_type_hints(TrainOptions)
    parser = argparse.ArgumentParser(
        "code-rlm train", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", help="YAML file with any of the options below")
    for f in fields(TrainOptions):
        default = f.default if f.default is not MISSING else f.default_factory()
        switch = {"nargs": "?", "const": "true"} if bool in (hints[f.name], *typing.get_args(hints[f.name])) else {}
        text = f"{f.metadata['help']} [{default}]".replace("%", "%%")
        parser.add_argument(f"--{f.name}", metavar="YAML", help=text, **switch)
    given = vars(parser.parse_args(argv))
    options: dict[str, Any] = {}
    if path := given.pop("config"):
        try:
            options = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise TrainError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(options, dict):
            raise TrainError(f"{path} must hold options by name, such as `steps: 100`; got a {type(options).__name__}.")
        if unknown := sorted(map(str, set(options) - set(hints))):
            raise TrainError(f"{path} has unknown options {unknown}. Known: {', '.join(sorted(hints))}.")
    for name, text in given.items():
        if text is not None:
            try:
                options[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise TrainError(f"--{name} cannot be read as YAML: {text!r}.") from None
    for name, value in options.items():
        if isinstance(value, str) and hints[name] is float:
            with contextlib.suppress(ValueError):
                options[name] = float(value)  # YAML 1.1 reads 1e-3 as a word
    return TrainOptions(**options)


__all__ = ["LoraOptions", "TrainError", "TrainOptions", "option", "parse_options"]
