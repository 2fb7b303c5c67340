"""Runs sources of Inductor on the GPU, each in a process that outlives none that failed."""

from __future__ import annotations

import importlib.util
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

TIMEOUT_S = 120


def latency_ms(text: str) -> float:
    """Runs a source on the GPU and returns the median milliseconds of a call; its tuning comes before."""
    from triton.testing import do_bench

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "inductor_module.py")
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("inductor_module", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        arguments = module.get_args()
        return float(do_bench(lambda: module.call(list(arguments)), return_mode="median"))


class Bench:
    """A process that runs sources one by one. One that failed is not used again: its GPU context may be broken."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __call__(self, text: str) -> tuple[str, float | None, str]:
        """Returns (outcome, milliseconds, message)."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            return "ok", self._pool.submit(latency_ms, text).result(TIMEOUT_S), ""
        except TimeoutError:
            outcome = "timeout"
            message = f"no answer in {TIMEOUT_S} s"
        except BrokenProcessPool as error:
            outcome = "runtime_error"
            message = str(error)
        except Exception as error:  # whatever the source raised over there
            outcome = "runtime_error"
            message = f"{type(error).__name__}: {error}"
        self.close()
        return outcome, None, message

    def close(self) -> None:
        """Ends the process."""
        if self._pool is not None:
            for process in list(self._pool._processes.values()):
                process.kill()
            self._pool.shutdown()
            self._pool = None


__all__ = ["TIMEOUT_S", "Bench", "latency_ms"]
