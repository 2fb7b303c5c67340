"""A tiny random checkpoint with metrics of four kinds of input, and processes that cannot see the package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from code_rlm import RLMForConditionalGeneration, RLMTokenizer

METRICS = [
    {"name": "peak_memory_bytes", "unit": "bytes", "languages": ["python"]},
    {"name": "cpu_time_ms", "unit": "ms", "languages": ["python"]},
    {"name": "cycles", "unit": "cycles", "languages": ["x86asm"]},
    {"name": "latency_ms", "unit": "ms", "languages": ["triton"]},
    {"name": "accuracy_percent", "unit": "%", "smaller_is_better": False, "languages": ["onnx"]},
    {"name": "latency_ms@pixel3", "unit": "ms", "languages": ["onnx"]},
]
DEFAULT_METRICS = {
    "python": ["peak_memory_bytes", "cpu_time_ms"],
    "onnx": ["accuracy_percent", "latency_ms@pixel3"],
}
CONFIG = {"metrics": METRICS, "default_metrics": DEFAULT_METRICS, "max_input_tokens": 160}

PYTHON = "def f(n):\n    return [0] * n\n"
ASSEMBLY = "mov eax, dword ptr [rsp + 8]\nvaddps ymm0, ymm1, ymm2\n"
TRITON = "import triton.language as tl\n\n\n@triton.jit\ndef k(x):\n    tl.store(x, 0)\n"

# Put before code that must run where the package is not installed: whatever imports it fails.
HIDE_PACKAGE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "code_rlm":
            raise ModuleNotFoundError("hidden: " + name, name=name)
sys.meta_path.insert(0, Hidden())
try:
    import code_rlm
except ModuleNotFoundError as error:
    assert str(error) == "hidden: code_rlm"
else:
    raise AssertionError("the package is not hidden")
"""


def save(
    make_model: Callable[..., RLMForConditionalGeneration], tokenizer: RLMTokenizer, folder: Path, **changes
) -> Path:
    """Saves a tiny model and its tokenizer, both from the shared fixtures; `changes` go to the config."""
    make_model(**{**CONFIG, **changes}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_python(
    code: str, *argv: Any, cwd: Path, env: dict[str, str] | None = None, hidden: bool = False, stdin: str | None = None
) -> Any:
    """Runs code in a fresh process, away from the repository, and returns the JSON on its last line."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", (HIDE_PACKAGE if hidden else "") + code, *map(str, argv)],
        env={**os.environ, "HF_MODULES_CACHE": str(cwd / "modules"), "HF_HUB_OFFLINE": "1", **(env or {})},
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
