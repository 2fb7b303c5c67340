"""Measures many ONNX models on one core: one process is forked for each, so that memory is that of the model alone.

bench = Bench(core=1)
bench(path).latency_ms
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from code_rlm_data.measure.onnx_run import measure

_WARMUPS = 3
_REPEATS = 3
_SECONDS = 0.3  # of the runs that count
_LIMIT_S = 120


@dataclass
class Measured:
    """What a model took.

    Attributes:
        outcome: "ok", "runtime_error" or "timeout".
        latency_ms: Median of the runs in CPU time, which is that of an idle core, as there is one thread; None without any.
        least_ms: The fastest of the runs, likewise.
        wall_ms: Median of the runs by the clock: more, where other processes had a share of the core.
        peak_memory_bytes: Growth of resident memory from before the model is loaded to the peak.
        repeats: How many runs counted.
        message: Of an error.
    """

    outcome: str
    latency_ms: float | None = None
    least_ms: float | None = None
    wall_ms: float | None = None
    peak_memory_bytes: int | None = None
    repeats: int = 0
    message: str = ""


class Bench:
    """Measures models, one after the other, on one core.

    Args:
        core: Core that this process and its children keep to; None for any.
        niceness: Added to the process's own; below 0 needs the right to do so.
    """

    def __init__(self, core: int | None = None, niceness: int = 0) -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})
        if niceness:
            os.nice(niceness)
            with contextlib.suppress(
                OSError
            ):  # where sessions are weighed against each other, and processes only inside them
                Path("/proc/self/autogroup").write_text(str(niceness))

    def __call__(self, path: str | os.PathLike) -> Measured:
        """Measures a model's file."""
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(os.fspath(path), write)
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            late = os.WTERMSIG(status) == signal.SIGALRM
            return Measured("timeout" if late else "runtime_error", message=f"signal {os.WTERMSIG(status)}")
        found = json.loads(answer) if answer else {"error": f"exit status {status}"}
        if "error" in found:
            return Measured("runtime_error", message=found["error"])
        return Measured(
            "ok",
            statistics.median(found["cpu_ms"]),
            min(found["cpu_ms"]),
            statistics.median(found["latency_ms"]),
            found["peak_memory_bytes"][0],
            len(found["latency_ms"]),
        )


def _child(path: str, write: int) -> None:
    """Measures in a forked process, writes the answer and ends it."""
    signal.alarm(_LIMIT_S)
    try:
        answer = measure(path, _WARMUPS, _REPEATS, _SECONDS)
    except Exception as error:  # of the runtime, of any kind
        answer = {"error": f"{type(error).__name__}: {error}"[:500]}  # type: ignore[dict-item]
    with os.fdopen(write, "w", encoding="utf-8") as pipe:
        json.dump(answer, pipe)
    os._exit(0)


def hardware() -> str:
    """Returns the processor's name."""
    with open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, one core"


def versions() -> str:
    """Returns what measured."""
    import onnxruntime  # of the extra onnx, which only measuring needs

    return f"onnxruntime {onnxruntime.__version__}; numpy {np.__version__}; Python {platform.python_version()}"


__all__ = ["Bench", "Measured", "hardware", "versions"]

if __name__ == "__main__":
    print(Bench()(sys.argv[1]))
