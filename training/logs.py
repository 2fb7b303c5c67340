"""The log of a run: lines for people, the same as JSON, and trackers."""

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from code_rlm import console
from code_rlm.console import ProgressBar
from code_rlm.training.checkpoints import write_file
from code_rlm.training.options import TrainError

TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


def check_trackers(names: list[str]) -> None:
    """Refuses trackers that accelerate does not know or that are not installed."""
    for name in names:
        if name not in TRACKERS:
            raise TrainError(f"logging.trackers names {name!r}. Known: {', '.join(TRACKERS)}.")
        if importlib.util.find_spec(TRACKERS[name]) is None:
            raise TrainError(f"logging.trackers: {name} is not installed. Install it: pip install {TRACKERS[name]}")


@dataclass
class Window:
    """What happened since the last log line."""

    losses: list[float] = field(default_factory=list)
    restored: list[float] = field(default_factory=list)
    examples: int = 0
    tokens: int = 0
    padded: int = 0
    began: float = field(default_factory=time.perf_counter)

    def add(self, batch: dict[str, torch.Tensor], processes: int = 1) -> None:
        """Counts a batch: that of all processes, or of one of `processes` whose batches are about as large."""
        mask = batch["attention_mask"]
        self.examples += processes * len(mask)
        self.tokens += processes * int(mask.sum())
        self.padded += processes * mask.numel()

    def summary(self) -> dict[str, float]:
        """Mean loss, speed of all processes together, and share of padding."""
        seconds = time.perf_counter() - self.began
        return {
            "loss": sum(self.losses) / len(self.losses),
            **({"restored": round(sum(self.restored) / len(self.restored), 4)} if self.restored else {}),
            "examples_per_s": round(self.examples / seconds, 1),
            "tokens_per_s": round(self.tokens / seconds),
            "padding": round(1 - self.tokens / max(1, self.padded), 4),
        }


class RunLog:
    """Lines for people on standard error, the same as JSON in the run's folder, and trackers of accelerate.

    Args:
        accelerator: Only its main process writes.
        path: The JSON lines.
        steps: Length of the progress bar.
        write_line: Where a line for people goes while no bar is shown.
    """

    def __init__(
        self, accelerator: Accelerator, path: Path, steps: int, write_line: Callable[[str], None] | None = None
    ):
        self.accelerator, self.path, self.steps, self.write_line = accelerator, path, steps, write_line or console.log
        self.active = accelerator.is_main_process
        self._bar: ProgressBar | None = None

    def resume_after(self, step: int) -> None:
        """Drops what was logged after a checkpoint: the run resumes there and logs it again."""
        if not self.active or not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _is_up_to(line, step)]
        if kept != lines:
            write_file(self.path, "".join(kept))

    def log(self, text: str) -> None:
        """Writes one line for people."""
        if self.active and self._bar is not None:
            self._bar.log(text)
        elif self.active:
            self.write_line(text)

    def write(self, entry: dict[str, Any]) -> None:
        """Writes one log entry; it has a `step`."""
        if not self.active:
            return
        self.log("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()))
        with open(self.path, "a") as handle:
            handle.write(json.dumps(entry) + "\n")
        if self.accelerator.trackers:
            self.accelerator.log(dict(_flat(entry)), step=entry["step"])

    def progress(self, step: int) -> None:
        """Moves the progress bar, where there is a terminal to show one on."""
        if not self.active or (self._bar is None and not console.shows_bars()):
            return
        if self._bar is None:
            self._bar = ProgressBar(self.steps, "steps", start=step).__enter__()
        self._bar.advance(step - self._bar.count)

    def close(self) -> None:
        """Takes the progress bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _is_up_to(line: str, step: int) -> bool:
    """Whether a log line is whole and of this step or an earlier one."""
    try:
        return json.loads(line)["step"] <= step
    except ValueError:  # the line in which a kill struck
        return False


def _flat(entry: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields the numbers of an entry by name, those of nested entries with a path."""
    for key, value in entry.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}/")
        elif key != "step" and isinstance(value, (int, float)):
            yield prefix + key, value


__all__ = ["RunLog", "Window", "check_trackers"]
