"""Folders of a run: checkpoints that appear whole or not at all, the lock, and the state to resume from.

A run writes `step-N/`, `best/`, `final/`, `adapter/`, `log.jsonl` and `options.yaml`, and everything unfinished under
`.code-rlm/`. It removes nothing else.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from filelock import FileLock, Timeout
from torch import nn

from code_rlm.processing_rlm import RLMProcessor
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training.adapters import base_of, is_adapted, save_adapter
from code_rlm.training.options import TrainError, TrainOptions, full_names, make_options, nested, read_yaml

# These describe the machine, not what was trained.
_OF_THIS_MACHINE = {
    "out", "dry_run", "data.root", "data.write_bundle", "data.bundle", "runtime.feature_cache", "runtime.workers",
    "checkpointing.staging",
}  # fmt: skip
# May differ between two commands of one run.
_FREE = {
    "out", "dry_run", "data.write_bundle", "runtime.workers", "logging.every", "logging.trackers", "checkpointing.keep",
    "checkpointing.staging",
}  # fmt: skip


@dataclass
class Progress:
    """State of a run beside weights, optimisers and random numbers.

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
        streams: Where each reader of streamed sources goes on, by reader, for each source.
        readers: How many readers there were: processes times workers; 0 without streamed sources.
        positions: With streamed sources, whose batches are each process's own: `position` of every process.
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
    streams: dict[int, list[dict[str, int]]] = field(default_factory=dict)
    readers: int = 0
    positions: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def read(cls, checkpoint: Path) -> "Progress":
        """Returns the progress of a checkpoint.

        Raises:
            TrainError: It was written by another version.
        """
        entry = json.loads((checkpoint / "progress.json").read_text())
        if set(entry) - {f.name for f in fields(cls)}:
            raise TrainError(f"{checkpoint} was written by another version of this program; choose another --out.")
        for name in ("position", "best"):
            entry[name] = tuple(entry[name]) if entry[name] else entry[name]
        entry["positions"] = [tuple(position) for position in entry.get("positions", ())]
        entry["streams"] = {int(lane): states for lane, states in entry.get("streams", {}).items()}
        return cls(**entry)

    def write(self, folder: Path) -> None:
        """Writes `progress.json`."""
        (folder / "progress.json").write_text(json.dumps(asdict(self)))


# Beside a run's checkpoints: its lock, what is being written, and what is being replaced. Nothing else is ever removed.
WORK = ".code-rlm"
_OWN_NAMES = ("best", "final", "adapter", "log.jsonl")


def save_whole(folder: Path, write: Callable[[Path], object], accelerator: Accelerator | None = None) -> None:
    """Writes a folder under `WORK`, flushes it to disk and only then moves it to its place.

    With an accelerator every process calls this and `write`; making and moving the folder is left to the main process.

    Args:
        folder: Where to.
        write: Writes into the folder that it is given.
        accelerator: Of the run.

    Raises:
        TrainError: The disk is full.
    """
    main = accelerator is None or accelerator.is_main_process
    wait = accelerator.wait_for_everyone if accelerator else lambda: None
    partial = folder.parent / WORK / "partial" / folder.name
    try:
        if main:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait()
        write(partial)
        wait()
        if main:
            _flush_files(partial)
            _replace(folder, partial)
    except Exception as error:  # writers of weights raise errors of their own where the disk is full
        if shutil.disk_usage(folder.parent).free < 2**16:
            raise TrainError(
                f"The disk of {folder.parent} is full. Checkpoints up to here are whole; free some space and give the same "
                "command again."
            ) from error
        raise
    wait()


class BackgroundCopies:
    """Checkpoints that are written into memory and copied to the disk by a thread, one after the other.

    Args:
        staging: Folder in memory.
    """

    def __init__(self, staging: str | os.PathLike[str]):
        self.staging = Path(staging)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def save(
        self, folder: Path, write: Callable[[Path], object], accelerator: Accelerator, after: Callable[[], None]
    ) -> None:
        """Writes a checkpoint into memory and starts its copy; waits for the one before.

        Every process calls this and `write`; the copy is the main process's.

        Args:
            folder: Where the checkpoint belongs.
            write: Writes into the folder that it is given.
            accelerator: Of the run.
            after: Called by the thread when the checkpoint is in its place.

        Raises:
            TrainError: The copy before this one could not be made, or there is no room in memory.
        """
        self.wait()
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        staged = self.staging / f"code-rlm-{name}" / folder.name
        save_whole(staged, write, accelerator)

        def copy() -> None:
            save_whole(folder, lambda partial: shutil.copytree(staged, partial, dirs_exist_ok=True))
            shutil.rmtree(staged.parent, ignore_errors=True)
            after()

        if accelerator.is_main_process:
            self._last = self._pool.submit(copy)

    def wait(self) -> None:
        """Waits for the last copy.

        Raises:
            TrainError: It could not be made.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()


def _flush_files(folder: Path) -> None:
    """Waits until the contents of all files of a folder are on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())


def _replace(folder: Path, fresh: Path) -> None:
    """Moves a folder to the place of another."""
    old = folder.parent / WORK / "old" / folder.name
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        old.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(old)
    fresh.rename(folder)
    _flush_names(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush_names(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_file(path: Path, text: str) -> None:
    """Writes a file of a run whole or not at all; on a full disk the old one stays.

    Raises:
        TrainError: It cannot be written.
    """
    partial = path.parent / WORK / "partial" / path.name
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
        _flush_names(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise TrainError(f"{path} cannot be written ({error.strerror}); what was there is unchanged.") from None


def clean_up(out: Path) -> None:
    """Restores what a kill left between two names, and drops what it left unfinished."""
    for old in (out / WORK / "old").glob("*"):
        place = out / old.name
        if place.exists():
            shutil.rmtree(old)
        else:
            old.rename(place)
    for partial in (out / WORK / "partial").glob("*"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def checkpoints(out: Path) -> list[Path]:
    """Returns the whole checkpoints of a run, oldest first."""
    numbered = [p for p in out.glob("step-*") if p.name[5:].isdigit() and (p / "progress.json").is_file()]
    return sorted(numbered, key=lambda p: int(p.name[5:]))


@contextmanager
def claimed_folder(out: Path, options: TrainOptions) -> Iterator[None]:
    """Holds a run's folder: locks it, checks that what is there is of this run, and saves the resolved options.

    Raises:
        TrainError: Another run is using the folder, or it holds something else than this run.
    """
    _check_contents(out)
    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"{out} cannot be made ({error.strerror}); choose another --out.") from None
    lock = FileLock(out / WORK / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainError(f"Another run is writing into {out}. Wait for its end, or choose another --out.") from None
    try:
        clean_up(out)
        _save_options(out, options)
        yield
    finally:
        lock.release()


def _check_contents(out: Path) -> None:
    """Refuses a folder with files of somebody else under the names that a run writes.

    Raises:
        TrainError: There are such files.
    """
    if (out / "options.yaml").exists():
        try:
            make_options(**read_yaml(out / "options.yaml"))
        except TrainError as error:
            raise TrainError(f"{out}/options.yaml is not of a run ({error}) Choose another --out.") from None
        return
    if (out / WORK).exists():
        return  # a run that was killed before it had saved its options
    names = [*_OWN_NAMES, *(path.name for path in checkpoints(out))]
    if found := [name for name in names if (out / name).exists()]:
        raise TrainError(f"{out} has {', '.join(found)}, which no run wrote there. Choose another --out.")


def _save_options(out: Path, options: TrainOptions) -> None:
    """Saves the resolved options, or checks that they are those of the checkpoints that are there.

    Raises:
        TrainError: The folder holds checkpoints of a run with other options.
    """
    path = out / "options.yaml"
    if checkpoints(out) and path.exists():
        resolved = full_names(asdict(options))
        earlier = full_names(asdict(make_options(**read_yaml(path))))
        differing = sorted(name for name in resolved if resolved[name] != earlier[name] and name not in _FREE)
        if differing:
            raise TrainError(f"{out} holds a run with other options ({', '.join(differing)}). Choose another --out.")
    text = yaml.safe_dump(asdict(options), sort_keys=False)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_file(path, text)


def save_model(
    model: nn.Module, tokenizer: RLMTokenizer, folder: Path, options: TrainOptions, state: dict[str, Any] | None = None
) -> None:
    """Writes a checkpoint that `load` and the pipeline read, with the options that made it; with LoRA the adapter.

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
        plain = base_of(model)
        plain.save_pretrained(folder, state_dict=state)
        RLMProcessor(tokenizer, plain.config).save_pretrained(folder)
    (folder / "training_options.yaml").write_text(yaml.safe_dump(published_options(options), sort_keys=False))


def published_options(options: TrainOptions) -> dict[str, Any]:
    """Returns the options as a checkpoint keeps them: with names of folders and files, without where they were."""
    named = {name: value for name, value in full_names(asdict(options)).items() if name not in _OF_THIS_MACHINE}
    for name in ("model.tokenizer", "model.init", "model.pretrained_encoder"):
        if named[name] and os.path.isdir(named[name]):
            named[name] = Path(named[name]).name
    sources = []
    for entry in named["data.sources"]:
        sources.append({key: Path(value).name if key == "file" else value for key, value in entry.items()})
    return nested({**named, "data.sources": sources})


def drop_old(out: Path, keep: int) -> None:
    """Removes all but the last `keep` checkpoints."""
    for old in checkpoints(out)[:-keep]:
        shutil.rmtree(old)


__all__ = [
    "BackgroundCopies", "Progress", "checkpoints", "claimed_folder", "clean_up", "drop_old", "published_options",
    "save_model", "save_whole", "write_file",
]  # fmt: skip
