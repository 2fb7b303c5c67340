"""Runs an ONNX model through onnxruntime on one CPU core. A program of its own.

    python -B onnx_run.py model.onnx '{"warmups": 3, "repeats": 11}'

Inputs are drawn at random with a fixed seed; dimensions without a number are 1. The results go to file descriptor 3 as JSON:
milliseconds of each run, and the growth of the process's resident memory from before the model is loaded to its peak.
"""

import json
import os
import re
import resource
import sys
import time

import numpy as np
import onnxruntime

_MOST_REPEATS = 300
_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}


def main() -> None:
    options = json.loads(sys.argv[2])
    measured = measure(sys.argv[1], options["warmups"], options["repeats"])
    with os.fdopen(3, "w", encoding="utf-8") as file:
        json.dump(measured, file)


def measure(path: str, warmups: int, repeats: int, seconds: float = 0.0) -> dict[str, list[float]]:
    """Loads a model and runs it.

    Args:
        path: The model's file.
        warmups: Runs before those that count; they end early once they have taken `seconds`, unless that is 0.
        repeats: Least runs that count.
        seconds: Runs go on until they have taken this long together, or are 300.

    Returns:
        `latency_ms`: milliseconds of each run; `cpu_ms`: the same in the process's CPU time; `peak_memory_bytes`: growth of the
        process's resident memory.
    """
    before = resident("VmRSS")
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
    except OSError:
        pass  # then the peak of importing onnxruntime, which is over already, may be the larger one
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs = {each.name: draw(each, random) for each in session.get_inputs()}
    began = time.perf_counter()
    for _ in range(warmups):
        session.run(None, inputs)
        if 0 < seconds < time.perf_counter() - began:
            break
    times: list[float] = []
    cpu_times: list[float] = []
    while len(times) < repeats or (sum(times) < seconds * 1e3 and len(times) < _MOST_REPEATS):
        cpu_started = time.process_time()
        started = time.perf_counter()
        session.run(None, inputs)
        times.append((time.perf_counter() - started) * 1e3)
        cpu_times.append((time.process_time() - cpu_started) * 1e3)
    return {"latency_ms": times, "cpu_ms": cpu_times, "peak_memory_bytes": [resident("VmHWM") - before]}


def draw(wanted: onnxruntime.NodeArg, random: np.random.Generator) -> np.ndarray:
    """Returns an array for an input: normal numbers, or zeros and ones where it takes whole ones."""
    name = re.fullmatch(r"tensor\((\w+)\)", wanted.type)
    if name is None or name[1] not in _TYPES:
        raise SystemExit(
            f"input {wanted.name}: no numbers can be drawn for {wanted.type}; known are {', '.join(_TYPES)}"
        )
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in wanted.shape]
    dtype = _TYPES[name[1]]
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def resident(field: str) -> int:
    """Returns a line of the process's status, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
