"""Trains a regression language model with accelerate: from scratch, around a pretrained encoder, or from a checkpoint.

    python train.py --config configs/small.yaml --data_root DATA
    accelerate launch train.py --config configs/small.yaml        # several processes, the same file
    code-rlm train --config configs/small.yaml --steps 100 --out runs/try

One dataclass, `TrainOptions`, fills the help text, the YAML file and the checks; flags win over the file; an unknown key is
an error; the resolved options are saved beside the checkpoint. A run that was killed goes on where its last checkpoint
stands when the same command is given again. Checkpoints appear whole or not at all.
"""

import argparse
import contextlib
import inspect
import json
import math
import os
import shutil
import sys
import time
import types
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from transformers.utils import logging

from code_rlm.configuration_rlm import Metric, RLMConfig
from code_rlm.data.external import generic as read_generic
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.readers import read_task
from code_rlm.data.schema import unit_of
from code_rlm.data.splits import split_dataset
from code_rlm.errors_rlm import RLMError
from code_rlm.loading import load
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer


class TrainError(RLMError):
    """Options that cannot be used, or a run folder that belongs to another run."""


def _option(default: Any, text: str) -> Any:
    if callable(default):
        return field(default_factory=default, metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class TrainOptions:
    """Everything that a training run can be told; the help of each field is its documentation."""

    out: str = _option("runs/rlm", "folder of the run: checkpoints, log.jsonl, options.yaml, and at the end `final/`")
    data: list[dict] = _option(
        list,
        "sources, each {task: NAME} or {file: PATH, text_column:, target_columns: [...], group_column:}; further keys: "
        "weight (share of the examples, by default the root of the rows), metrics, mask_tokens (share of code tokens hidden)",
    )
    data_root: str | None = _option(None, "folder of the tasks' tables")
    init: str | None = _option(None, "checkpoint folder or hub id to start from; without it a new model is made")
    encoder: str | None = _option(None, "pretrained encoder (folder or hub id) for a new model")
    keep_decoder: bool = _option(False, "take that checkpoint's decoder too, for numbers (T5Gemma)")
    freeze_encoder: bool = _option(False, "leave the encoder out of training")
    tokenizer: str | None = _option(None, "folder or hub id of the tokenizer; by default that of init")
    model: dict = _option(dict, "fields of RLMConfig for a new model")
    metrics: list[dict] = _option(list, "registry entries (name, unit, smaller_is_better, description, kinds)")
    default_metrics: dict = _option(dict, "kind of input to the metrics predicted where none is asked for")
    steps: int = _option(10_000, "optimiser steps")
    batch_tokens: int = _option(16_384, "input tokens in a batch of one process, padding included")
    max_tokens: int = _option(1024, "longest input in tokens; the code's middle is left out beyond")
    max_objectives: int = _option(
        4, "most metrics asked for at once; which and in what order is drawn for each example"
    )
    learning_rate: float = _option(1e-3, "peak learning rate of AdamW")
    warmup: float = _option(0.05, "share of the steps over which the learning rate rises; it falls by a cosine after")
    final_learning_rate: float = _option(0.02, "learning rate at the end, as a share of the peak")
    weight_decay: float = _option(0.05, "decoupled weight decay of matrices")
    clip: float = _option(1.0, "largest gradient norm")
    accumulate: int = _option(1, "batches per optimiser step")
    mixed_precision: str = _option("no", "no, bf16 or fp16")
    seed: int = _option(0, "of the initial weights, the batches and the split")
    eval_every: int = _option(500, "steps between evaluations on the validation split")
    eval_rows: int = _option(256, "validation rows of each source in an evaluation")
    save_every: int = _option(500, "steps between checkpoints")
    keep: int = _option(2, "checkpoints kept")
    log_every: int = _option(50, "steps between log lines")

    def __post_init__(self):
        for f in fields(self):
            self._check(f.name, typing.get_type_hints(TrainOptions)[f.name], getattr(self, f.name))
        for name in ("data", "metrics"):
            if strange := [entry for entry in getattr(self, name) if not isinstance(entry, dict)]:
                raise TrainError(f"{name} must be a list of mappings, got {strange[0]!r} in it.")
        positive = (
            "steps",
            "batch_tokens",
            "max_tokens",
            "max_objectives",
            "learning_rate",
            "clip",
            "accumulate",
            "keep",
        )
        for name in (*positive, "eval_every", "eval_rows", "save_every", "log_every"):
            if getattr(self, name) <= 0:
                raise TrainError(f"{name} must be above zero, got {getattr(self, name)}.")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise TrainError(f"mixed_precision must be no, bf16 or fp16, got {self.mixed_precision!r}.")

    @staticmethod
    def _check(name: str, kind: Any, value: Any) -> None:
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        plain = tuple(typing.get_origin(k) or k for k in kinds)
        if isinstance(value, bool) and bool not in plain:
            raise TrainError(f"{name} must be {kind}, got {value!r}.")
        if not isinstance(value, (*plain, int) if float in plain else plain):
            raise TrainError(f"{name} must be {getattr(kind, '__name__', kind)}, got {value!r}.")


def parse_options(argv: list[str] | None = None) -> TrainOptions:
    """Options from a YAML file (`--config`) and flags; flags win.

    Raises:
        TrainError: An unknown key in the file, or a value of the wrong type.
    """
    parser = argparse.ArgumentParser(
        "code-rlm train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--config", help="YAML file with any of the options below")
    for f in fields(TrainOptions):
        default = f.default if f.default is not MISSING else f.default_factory()
        parser.add_argument(f"--{f.name}", metavar="YAML", help=f"{f.metadata['help']} [{default}]".replace("%", "%%"))
    given = vars(parser.parse_args(argv))
    options: dict[str, Any] = {}
    if path := given.pop("config"):
        try:
            options = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise TrainError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
        if not isinstance(options, dict):
            raise TrainError(f"{path} must hold options by name, such as `steps: 100`; got a {type(options).__name__}.")
        known = {f.name for f in fields(TrainOptions)}
        if unknown := sorted(map(str, set(options) - known)):
            raise TrainError(f"{path} has unknown options {unknown}. Known: {', '.join(sorted(known))}.")
    for name, text in given.items():
        if text is not None:
            try:
                options[name] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise TrainError(f"--{name} cannot be read as YAML: {text!r}.") from None
    for name, value in options.items():
        if isinstance(value, str) and typing.get_type_hints(TrainOptions)[name] is float:
            with contextlib.suppress(ValueError):
                options[name] = float(value)  # YAML 1.1 reads 1e-3 as a word
    return TrainOptions(**options)


# ---------------------------------------------------------------------------------------------------- data and model


def load_source(entry: dict[str, Any], options: TrainOptions) -> tuple[str, Dataset, Dataset, float]:
    """One entry of `options.data` as (name, training rows, validation rows, weight); weight defaults to sqrt(rows)."""
    entry = {k: v for k, v in entry.items() if k != "mask_tokens"}
    weight = entry.pop("weight", None)
    if "task" in entry:
        name, metrics = entry.pop("task"), entry.pop("metrics", None)
        _check_keys(entry, read_task, name)
        parts = [
            read_task(name, options.data_root, split, metrics=metrics, seed=options.seed, **entry)
            for split in ("train", "validation")
        ]
    elif "file" in entry:
        path = entry.pop("file")
        name = Path(path).name  # it goes into the registry, and from there to the hub
        _check_keys(entry, read_generic, name)
        if "target_columns" not in entry:
            raise TrainError(
                f"The data source {name} needs target_columns, a list of columns named as the metrics are."
            )
        parts_by_name = split_dataset(read_generic(path, **entry), seed=options.seed)
        parts = [parts_by_name["train"], parts_by_name["validation"]]
    else:
        raise TrainError(f"A data source needs 'task' or 'file', got keys {sorted(entry)}.")
    return name, parts[0], parts[1], float(weight if weight is not None else math.sqrt(len(parts[0])))


def _check_keys(entry: dict[str, Any], reader: typing.Callable, name: str) -> None:
    known = [k for k in inspect.signature(reader).parameters if k not in ("name", "path", "data_root", "split", "seed")]
    if unknown := sorted(set(entry) - set(known)):
        raise TrainError(f"The data source {name} has unknown keys {unknown}. Known: {', '.join(known)}.")


def registry(options: TrainOptions, sources: list[tuple[Source, Dataset]]) -> list[dict[str, Any]]:
    """The metrics registry: entries given in the options, the others from what the data says of unit and kind."""
    entries = {Metric.from_dict({"name": None, **entry}).name: dict(entry) for entry in options.metrics}
    for source, rows in sources:
        kinds = sorted(set(source.languages))
        hardware = sorted({h for h in rows["hardware"] if h}) if "hardware" in rows.column_names else []
        for metric in source.metrics:
            entry = entries.setdefault(metric, {"name": metric})
            entry.setdefault("unit", {"percent": "%"}.get(unit_of(metric), unit_of(metric)))
            entry.setdefault("smaller_is_better", not any(w in metric for w in ("accuracy", "per_s", "throughput")))
            entry.setdefault(
                "description", f"{source.name}" + (f", measured on {hardware[0]}" if len(hardware) == 1 else "")
            )
            entry["kinds"] = sorted({*entry.get("kinds", ()), *kinds})
    return list(entries.values())


def build_model(options: TrainOptions, tokenizer: RLMTokenizer, metrics: list[dict]) -> RLMForConditionalGeneration:
    """A new model, or the checkpoint to go on from with its registry widened."""
    if options.init:
        model, own = load(options.init)
        if tokenizer.codec.format != own.codec.format:
            raise TrainError(f"{options.tokenizer} writes numbers in another format than {options.init}.")
        if options.max_objectives > model.config.max_objectives:
            raise TrainError(
                f"max_objectives is {options.max_objectives}, but {options.init} answers at most "
                f"{model.config.max_objectives} metrics at once. Pass --max_objectives {model.config.max_objectives}."
            )
        known = {m["name"]: m for m in model.config.metrics}
        given = {m["name"]: m for m in options.metrics}
        for entry in metrics:
            # What the data suggests gives way to what the checkpoint knows, and that to what the options say.
            earlier = known.get(entry["name"], {})
            merged = {**entry, **earlier, **given.get(entry["name"], {})}
            merged["kinds"] = sorted({*earlier.get("kinds", ()), *entry["kinds"]})
            known[entry["name"]] = merged
        model.config.metrics = [Metric.from_dict(entry).to_dict() for entry in known.values()]
        model.config.default_metrics = {**model.config.default_metrics, **options.default_metrics}
        if options.freeze_encoder:
            model.config.freeze_encoder = True
            model.encoder.requires_grad_(False)
        return model
    fields_ = [k for k, kind in RLMConfig.__annotations__.items() if typing.get_origin(kind) is not typing.ClassVar]
    if unknown := sorted(set(options.model) - set(fields_)):
        raise TrainError(f"model has unknown fields {unknown}. Known: {', '.join(fields_)}.")
    settings = {
        "metrics": metrics,
        "default_metrics": options.default_metrics,
        "number_format": tokenizer.codec.format.to_dict(),
        "max_objectives": max(options.max_objectives, options.model.get("max_objectives", 0)),
        **{k: v for k, v in options.model.items() if k != "max_objectives"},
    }
    if options.encoder:
        return RLMForConditionalGeneration.from_encoder_pretrained(
            options.encoder, keep_decoder=options.keep_decoder, freeze_encoder=options.freeze_encoder, **settings
        )
    if isinstance(settings.get("encoder"), dict):
        settings["encoder"] = {
            "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None, "cls_token_id": None, "sep_token_id": None, **settings["encoder"],
        }  # fmt: skip
    return RLMForConditionalGeneration(RLMConfig(freeze_encoder=options.freeze_encoder, **settings))


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices, none for norms and other vectors."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def schedule(options: TrainOptions, step: int) -> float:
    """Share of the peak learning rate at a step: linear warm-up, cosine to `final_learning_rate`."""
    warm = max(1, int(options.warmup * options.steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, options.steps - warm)
    low = options.final_learning_rate
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


# ---------------------------------------------------------------------------------------------------- checkpoints


def save_whole(folder: Path, write: typing.Callable[[Path], None]) -> None:
    """Writes a folder under another name, flushes it to disk and only then gives it its name."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    for path in partial.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def checkpoints(out: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [p for p in out.glob("step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


# ---------------------------------------------------------------------------------------------------- the run


def train(options: TrainOptions) -> Path:
    """Runs training to its end and returns the folder of the final checkpoint.

    Raises:
        TrainError: No data, or a run folder that holds a run with other options.
    """
    if not options.data:
        raise TrainError("There is no data: give `data:` in the YAML file, for example [{task: bhive_zen4}].")
    precision = options.mixed_precision
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=options.accumulate)
    set_seed(options.seed)
    out = Path(options.out)
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        claim_folder(out, options)
    log = RunLog(out / "log.jsonl", accelerator.is_main_process)

    tokenizer_from = options.tokenizer or options.init
    if not tokenizer_from:
        raise TrainError("A new model needs `tokenizer:`, a folder or hub id (see data/train_tokenizer.py).")
    try:
        tokenizer = RLMTokenizer.from_pretrained(tokenizer_from)
    except OSError as error:
        raise TrainError(f"No tokenizer could be loaded from {tokenizer_from}: {str(error).splitlines()[0]}") from error
    sources, validation, weights, with_rows = [], [], [], []
    for entry in options.data:
        name, rows, held_out, weight = load_source(entry, options)
        source = Source.from_dataset(name, rows, tokenizer)
        source.mask_tokens = float(entry.get("mask_tokens", 0.0))
        sources.append(source)
        with_rows.append((source, rows))
        weights.append(weight)
        if len(held_out):
            validation.append(Source.from_dataset(name, held_out, tokenizer, source.metrics))
        log.say(
            f"{name}: {len(source)} training rows ({source.dropped} without any value dropped), {len(held_out)} to validate"
        )
    model = build_model(options, tokenizer, registry(options, with_rows))
    parameters = sum(p.numel() for p in model.parameters())
    log.say(f"{parameters / 1e6:.2f}M parameters on {accelerator.num_processes} x {accelerator.device}, {precision=}")

    optimizer = torch.optim.AdamW(
        parameter_groups(model, options.weight_decay), options.learning_rate, betas=(0.9, 0.98)
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    start = 0
    if found := checkpoints(out):
        accelerator.load_state(str(found[-1] / "state"))
        start = json.loads((found[-1] / "progress.json").read_text())["step"]
        log.say(f"going on from step {start}")
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = options.learning_rate
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(options, start + step))

    mixture = Mixture(
        sources,
        weights,
        tokenizer,
        options.max_tokens,
        options.batch_tokens,
        options.max_objectives,
        options.seed,
        templates=accelerator.unwrap_model(model).config.templates,
    )
    accelerate_index, processes = accelerator.process_index, accelerator.num_processes
    batches = mixture.batches(start * options.accumulate * processes + accelerate_index, processes)
    window = Window()
    for step in range(start, options.steps):
        model.train()
        total = 0.0
        for _ in range(options.accumulate):
            batch = {k: v.to(accelerator.device) for k, v in next(batches).items()}
            window.add(batch)
            choose_attention(accelerator.unwrap_model(model), batch["input_ids"])
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), options.clip)
                optimizer.step()
                optimizer.zero_grad()
            total += accelerator.reduce(loss.detach(), "mean").item() / options.accumulate
        scheduler.step()
        if not math.isfinite(total):
            raise TrainError(
                f"The loss is {total} at step {step + 1}; lower learning_rate. Checkpoints up to here are whole."
            )
        window.losses.append(total)
        done = step + 1
        if done % options.log_every == 0 or done == options.steps:
            log.write({"step": done, "lr": scheduler.get_last_lr()[0], **window.summary(), "cut": mixture.truncated})
            window = Window()
        if done % options.eval_every == 0 or done == options.steps:
            scores = evaluate_loss(accelerator, model, validation, mixture, options)
            log.write({"step": done, "validation": scores})
        if done % options.save_every == 0 or done == options.steps:
            save_checkpoint(accelerator, model, tokenizer, out, done, options)
    final = out / "final"
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        plain = accelerator.unwrap_model(model)
        save_whole(final, lambda folder: save_model(plain, tokenizer, folder, options))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return final


def choose_attention(model: RLMForConditionalGeneration, input_ids: torch.Tensor) -> None:
    """On a CPU, plain attention for short inputs: its backward pass is up to twice as fast there as the fused one."""
    if input_ids.device.type != "cpu" or not model.encoder._supports_sdpa:  # T5Gemma has the plain one only
        return
    wanted = "eager" if input_ids.shape[1] <= 256 else "sdpa"
    if model.encoder.config._attn_implementation != wanted:
        model.encoder.set_attn_implementation(wanted)


def claim_folder(out: Path, options: TrainOptions) -> None:
    """Saves the resolved options, or checks that the folder's run is this one.

    Raises:
        TrainError: The folder holds checkpoints of a run with other options.
    """
    path, resolved = out / "options.yaml", asdict(options)
    if checkpoints(out) and path.exists():
        earlier = yaml.safe_load(path.read_text())
        differing = sorted(
            k for k in resolved if resolved[k] != earlier.get(k) and k not in ("out", "log_every", "keep")
        )
        if differing:
            raise TrainError(f"{out} holds a run with other options ({', '.join(differing)}). Choose another --out.")
    path.write_text(yaml.safe_dump(resolved, sort_keys=False))


def save_model(model: torch.nn.Module, tokenizer: RLMTokenizer, folder: Path, options: TrainOptions) -> None:
    """Writes a checkpoint that `from_pretrained` and the pipeline load, with the options that made it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    resolved = {k: v for k, v in asdict(options).items() if k not in ("out", "data_root")}
    # A checkpoint is published: it names folders and files, not where they lay on the machine that trained it.
    for key in ("tokenizer", "init", "encoder"):
        if resolved[key] and os.path.isdir(resolved[key]):
            resolved[key] = Path(resolved[key]).name
    resolved["data"] = [{k: Path(v).name if k == "file" else v for k, v in e.items()} for e in resolved["data"]]
    (folder / "training_options.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))


def save_checkpoint(accelerator, model, tokenizer, out: Path, step: int, options: TrainOptions) -> None:
    """Writes `step-N` atomically and drops all but the last `keep`."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:

        def write(folder: Path) -> None:
            save_model(accelerator.unwrap_model(model), tokenizer, folder, options)
            accelerator.save_state(str(folder / "state"), safe_serialization=True)
            (folder / "progress.json").write_text(json.dumps({"step": step}))

        save_whole(out / f"step-{step}", write)
        for old in checkpoints(out)[: -options.keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


@torch.no_grad()
def evaluate_loss(
    accelerator, model, sources: list[Source], mixture: Mixture, options: TrainOptions
) -> dict[str, float]:
    """Mean negative log-likelihood per number, in nats, of each source's validation rows, by the same rows every time."""
    model.eval()
    scores = {}
    for source in sources:
        rng = torch.Generator().manual_seed(options.seed)
        rows = torch.randperm(len(source), generator=rng)[: options.eval_rows].tolist()
        total, numbers = 0.0, 0
        for begin in range(0, len(rows), 32):
            examples = []
            for row in rows[begin : begin + 32]:
                present = source.present[row].nonzero()[0][: options.max_objectives]
                examples.append(mixture.build(source, row, present))
                numbers += len(present)
            batch = {k: v.to(accelerator.device) for k, v in mixture.collate(examples).items()}
            with accelerator.autocast():
                total += accelerator.unwrap_model(model)(**batch, num_items_in_batch=1).loss.item()
        scores[source.name] = round(total / max(1, numbers), 4)
    return scores


@dataclass
class Window:
    """What happened since the last log line."""

    losses: list[float] = field(default_factory=list)
    examples: int = 0
    tokens: int = 0
    padded: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        """Counts a batch."""
        mask = batch["attention_mask"]
        self.examples += len(mask)
        self.tokens += int(mask.sum())
        self.padded += mask.numel()

    def summary(self) -> dict[str, float]:
        """Mean loss, speed of this process and share of padding."""
        seconds = time.perf_counter() - self.began
        return {
            "loss": round(sum(self.losses) / len(self.losses), 4),
            "examples_per_s": round(self.examples / seconds, 1),
            "tokens_per_s": round(self.tokens / seconds),
            "padding": round(1 - self.tokens / max(1, self.padded), 4),
        }


class RunLog:
    """Lines for people on standard error, the same as JSON in the run's folder."""

    def __init__(self, path: Path, active: bool):
        self.path, self.active = path, active

    def say(self, text: str) -> None:
        """One line for people."""
        if self.active:
            print(text, file=sys.stderr, flush=True)

    def write(self, entry: dict[str, Any]) -> None:
        """One log entry."""
        if self.active:
            self.say("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()))
            with open(self.path, "a") as handle:
                handle.write(json.dumps(entry) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Command line; 2 and one line on unusable options or data."""
    logging.disable_progress_bar()
    try:
        final = train(parse_options(argv))
    except RLMError as error:
        print(f"code-rlm train: {error}", file=sys.stderr)
        return 2
    print(final)
    return 0


if __name__ == "__main__":
    sys.exit(main())
