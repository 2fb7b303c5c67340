"""Folders of a run: checkpoints that appear whole or not at all, whose run they belong to, where to go on."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from torch import nn

from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.adapters import is_adapted, save_adapter
from code_rlm.training.options import TrainError, TrainOptions

# Say nothing of what was trained.
_OF_THIS_MACHINE = ("out", "data_root", "feature_cache", "dry_run", "pack", "packed", "workers")
# May differ between two commands of one run.
_FREE = ("out", "log_every", "log_with", "keep", "dry_run", "pack", "workers")


@dataclass
class Progress:
    """Where a run stands, beside weights, optimisers and random numbers.

    Attributes:
        step: Optimiser steps done.
        position: Of the next batch, see `data.mixture.BatchStream`.
        losses: Of the steps since the last log line.
        zero_shot: Score before the first step, None for a new model.
        best: Best score so far and its step.
        latest: Score of the last evaluation.
        waited: Evaluations since.
        stopped: Whether the run has ended, early or not.
        seconds: Spent so far.
    """

    step: int = 0
    position: tuple[int, int] = (0, 0)
    losses: list[float] = field(default_factory=list)
    zero_shot: float | None = None
    best: tuple[float, int] | None = None
    latest: float | None = None
    waited: int = 0
    stopped: bool = False
    seconds: float = 0.0

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        """The progress of a checkpoint.

        Raises:
            TrainError: It was written by another version.
        """
        entry = json.loads((checkpoint / "progress.json").read_text())
        if set(entry) != {f.name for f in fields(cls)}:
            raise TrainError(f"{checkpoint} was written by another version of this program; choose another --out.")
        return cls(
            **{key: tuple(value) if key in ("position", "best") and value else value for key, value in entry.items()}
        )

    def write(self, folder: Path) -> None:
        """Writes `progress.json`."""
        (folder / "progress.json").write_text(json.dumps(asdict(self)))


def save_whole(folder: Path, write: Callable[[Path], None], accelerator: Accelerator | None = None) -> None:
    """Writes a folder under another name, flushes it to disk and only then gives it its name.

    With an accelerator every process calls this and `write`; the folder's making and naming is the main one's.
    """
    main = accelerator is None or accelerator.is_main_process
    wait = accelerator.wait_for_everyone if accelerator else lambda: None
    partial = folder.with_name(folder.name + ".partial")
    if main:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    wait()
    write(partial)
    wait()
    if main:
        for path in partial.rglob("*"):
            if path.is_file():
                with open(path, "rb") as handle:
                    os.fsync(handle.fileno())
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        _flush_names(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    wait()


def _flush_names(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def clean_up(out: Path) -> None:
    """Takes back what a kill left between two names, and drops what it left unfinished."""
    for old in out.glob("*.old"):
        folder = old.with_name(old.name.removesuffix(".old"))
        if folder.exists():
            shutil.rmtree(old)
        else:
            old.rename(folder)
    for partial in out.glob("*.partial"):
        shutil.rmtree(partial)


def checkpoints(out: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [p for p in out.glob("step-*") if p.name[5:].isdigit()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def claim_folder(out: Path, options: TrainOptions) -> None:
    """Saves the resolved options, or checks that the folder's run is this one.

    Raises:
        TrainError: The folder holds checkpoints of a run with other options.
    """
    path, resolved = out / "options.yaml", asdict(options)
    if checkpoints(out) and path.exists():
        earlier = {**asdict(TrainOptions()), **yaml.safe_load(path.read_text())}
        differing = sorted(k for k in resolved if resolved[k] != earlier[k] and k not in _FREE)
        if differing:
            raise TrainError(f"{out} holds a run with other options ({', '.join(differing)}). Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    clean_up(out)
    path.write_text(yaml.safe_dump(resolved, sort_keys=False))


def save_model(
    model: nn.Module, tokenizer: RLMTokenizer, folder: Path, options: TrainOptions, state: dict[str, Any] | None = None
) -> None:
    """Writes a checkpoint that `load` and the pipeline read, with the options that made it; of LoRA the adapter.

    Args:
        model: Without what processes and compilers wrap around it.
        tokenizer: Saved beside it.
        folder: Where to.
        options: Of the run.
        state: The weights by name, where they are not those that the model holds.
    """
    if is_adapted(model):
        save_adapter(model, tokenizer, folder, state)
    else:
        model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
    resolved = {k: v for k, v in asdict(options).items() if k not in _OF_THIS_MACHINE}
    # A checkpoint is published: it names folders and files, not where they lay on the machine that trained it.
    for key in ("tokenizer", "init", "encoder"):
        if resolved[key] and os.path.isdir(resolved[key]):
            resolved[key] = Path(resolved[key]).name
    resolved["data"] = [{k: Path(v).name if k == "file" else v for k, v in e.items()} for e in resolved["data"]]
    (folder / "training_options.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))


def drop_old(out: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints."""
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old)


__all__ = ["Progress", "checkpoints", "claim_folder", "clean_up", "drop_old", "save_model", "save_whole"]
