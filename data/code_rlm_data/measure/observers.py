"""What is measured of a run: observers with a hook before and a hook after it.

An observer names its metrics, may choose in `before` what is run for them, and reads their numbers off a finished run in
`after`. Observers that leave the choice open share the ordinary runs of a program. A value of the table is the median of
all the numbers of its metric.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from code_rlm_data.measure.programs import Limits, MeasureError, Program
from code_rlm_data.measure.toolchains import TOOLCHAINS
from code_rlm_data.measure.worker import Usage, Worker

CHECK_FAILED = 98
"""Exit status of `python_call.py` when the check of a call fails."""

COMPILE_FAILED = 97
"""Exit status of `triton_run.py` when a kernel does not compile."""

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Protocol:
    """How often a program is run. The defaults of calls are those of the paper, arXiv 2509.26476."""

    repeats: int = field(default=5, metadata={"help": "runs of a program"})
    call_warmups: int = field(default=3, metadata={"help": "Python calls before those that are measured"})
    call_repeats: int = field(default=11, metadata={"help": "timed Python calls; 0 where no time is asked for"})
    call_traced: int = field(default=11, metadata={"help": "Python calls whose memory is traced"})

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("call_warmups", 0), ("call_repeats", 0), ("call_traced", 1)):
            if getattr(self, name) < least:
                raise MeasureError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.call_warmups + self.call_repeats:
            raise MeasureError(
                "call_warmups and call_repeats are both 0; the first untraced call is the one that is checked"
            )


PAPER_PROTOCOL = Protocol()


@dataclass(frozen=True)
class Plan:
    """What is run, and how often.

    Attributes:
        command: Words, as in `Toolchain`.
        limits: Of one run.
        repeats: Runs.
        environment: Variables.
        result: Whether it writes its numbers to file descriptor 3.
    """

    command: tuple[str, ...]
    limits: Limits
    repeats: int
    environment: dict[str, str] = field(default_factory=dict)
    result: bool = False


class Observer:
    """Base: watches the ordinary runs, and of no language in particular.

    Attributes:
        metrics: Names of what it measures.
        languages: Languages that it is for; None for all with a toolchain.
    """

    metrics: tuple[str, ...] = ()
    languages: tuple[str, ...] | None = None

    def before(self, worker: Worker, program: Program, limits: Limits, protocol: Protocol) -> Plan | None:
        """Called when the program is built; returns what to run for this observer, or None for the ordinary runs."""
        return None

    def outcome(self, usage: Usage) -> str:
        """Called after each run; what it came to, if its output is right."""
        return usage.outcome

    def after(self, usage: Usage) -> dict[str, list[float]]:
        """Called after each run that was ok; returns the numbers of each metric."""
        raise NotImplementedError


class PeakRss(Observer):
    """Largest resident size that any process of the program reached, by the kernel's accounting."""

    metrics = ("peak_rss_bytes",)

    def after(self, usage: Usage) -> dict[str, list[float]]:
        return {"peak_rss_bytes": [usage.peak_rss_bytes]}


class TreePeakRss(Observer):
    """Largest sum of the resident sizes of its processes, seen every 10 ms, but at least the largest process."""

    metrics = ("tree_peak_rss_bytes",)

    def after(self, usage: Usage) -> dict[str, list[float]]:
        return {"tree_peak_rss_bytes": [max(usage.tree_peak_rss_bytes, usage.peak_rss_bytes)]}


class WallTime(Observer):
    """Time from start to end of the program."""

    metrics = ("wall_time_ms",)

    def after(self, usage: Usage) -> dict[str, list[float]]:
        return {"wall_time_ms": [usage.wall_s * 1e3]}


class CpuTime(Observer):
    """User and system time of all processes of the program."""

    metrics = ("cpu_time_ms",)

    def after(self, usage: Usage) -> dict[str, list[float]]:
        return {"cpu_time_ms": [usage.cpu_s * 1e3]}


class _Driver(Observer):
    """An observer that runs the program inside a program of ours, which writes the numbers of all its metrics."""

    def after(self, usage: Usage) -> dict[str, list[float]]:
        try:
            numbers = json.loads(usage.result)
            return {
                metric: [float(number) for number in numbers[metric]] for metric in self.metrics if metric in numbers
            }
        except (ValueError, KeyError, TypeError) as error:
            raise MeasureError(f"the driver's result cannot be read: {usage.result[:200]!r} ({error})") from None


class PythonCall(_Driver):
    """A Python call in a fresh interpreter: tracemalloc's peak, wall and processor time. See `python_call.py`."""

    metrics = ("peak_memory_bytes", "call_wall_time_ms", "call_cpu_time_ms")
    languages = ("python",)

    def before(self, worker: Worker, program: Program, limits: Limits, protocol: Protocol) -> Plan:
        options = {
            "prelude": program.prelude,
            "setup": program.setup,
            "call": program.call,
            "check": program.check,
            "arguments": list(program.arguments),
            "warmups": protocol.call_warmups,
            "repeats": protocol.call_repeats,
            "traced": protocol.call_traced,
            "wall_s": limits.wall_s,
            "cpu_s": limits.cpu_s,
        }
        worker.write("options.json", json.dumps(options))
        python = TOOLCHAINS["python"]
        calls = protocol.call_warmups + protocol.call_repeats + protocol.call_traced
        return Plan(
            (*python.run[:-1], str(_HERE / "python_call.py"), "{build}/main.py", "{build}/options.json"),
            # The driver ends a call that takes too long; all of them together may take as often as long.
            replace(limits, wall_s=limits.wall_s * calls + 5, cpu_s=limits.cpu_s * calls + 5),
            1,
            dict(python.environment),
            result=True,
        )

    def outcome(self, usage: Usage) -> str:
        if usage.signal in (signal.SIGALRM, signal.SIGPROF):
            return "timeout"
        return "wrong_answer" if usage.exit_code == CHECK_FAILED else usage.outcome


class OnnxRun(_Driver):
    """A model in onnxruntime on one core: time of a run, growth of resident memory. See `onnx_run.py`."""

    metrics = ("latency_ms", "peak_memory_bytes")
    languages = ("onnx",)

    def before(self, worker: Worker, program: Program, limits: Limits, protocol: Protocol) -> Plan:
        tools = TOOLCHAINS[self.languages[0]]
        options = json.dumps({"warmups": protocol.call_warmups, "repeats": max(1, protocol.call_repeats)})
        return Plan((*tools.run[:-1], options), limits, 1, dict(tools.environment), result=True)


class TritonRun(OnnxRun):
    """Kernels on a GPU by `triton.testing.do_bench`; without one they are only checked. See `triton_run.py`."""

    metrics = ("latency_ms",)
    languages = ("triton",)

    def outcome(self, usage: Usage) -> str:
        return "compile_error" if usage.exit_code == COMPILE_FAILED else usage.outcome


OBSERVERS: tuple[Observer, ...] = (
    PeakRss(),
    TreePeakRss(),
    WallTime(),
    CpuTime(),
    PythonCall(),
    OnnxRun(),
    TritonRun(),
)

IDLE_METRIC = "idle_peak_rss_bytes"
"""Peak resident size of a program of the language that does nothing, measured once in every run of the harness."""

DEFAULT_METRICS = ("peak_rss_bytes", IDLE_METRIC, "wall_time_ms", "cpu_time_ms")

METRICS_OF = {"onnx": OnnxRun.metrics, "triton": TritonRun.metrics}
"""Default metrics of the languages that have others."""


def observers_of(language: str, metrics: Sequence[str]) -> list[Observer]:
    """Returns the observers that measure some metrics of programs of a language.

    Raises:
        MeasureError: A metric is unknown or not for this language.
    """
    known = [each for each in OBSERVERS if each.languages is None or language in each.languages]
    names = [metric for each in known for metric in each.metrics] + [IDLE_METRIC]
    if unknown := [metric for metric in metrics if metric not in names]:
        raise MeasureError(f"no metric {', '.join(unknown)} of {language} programs; there is {', '.join(names)}")
    return [each for each in known if set(each.metrics) & set(metrics)]


__all__ = [
    "DEFAULT_METRICS",
    "IDLE_METRIC",
    "METRICS_OF",
    "OBSERVERS",
    "PAPER_PROTOCOL",
    "Observer",
    "Plan",
    "Protocol",
    "PythonCall",
    "observers_of",
]
