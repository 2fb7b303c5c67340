"""The expected answer of a program: what its Python text prints, or its C text where Python would take long.

Both come from the same IR by different emitters; the tests hold every other language against them.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

from code_rlm.data.schema import DataError
from code_rlm_data.generator.emitters.base import Style
from code_rlm_data.generator.emitters.c import C
from code_rlm_data.generator.emitters.python import Python
from code_rlm_data.generator.ir import Program

# Above this many operations Python takes longer than a C compiler and its program.
MOST_IN_PYTHON = 1_500_000
_STACK_BYTES = 512 << 20


def answer(program: Program, operations: float) -> str:
    """Returns the line that a program prints, in whatever language.

    Args:
        program: The IR.
        operations: Its estimated cost, which decides how the answer is found; without a C compiler always Python.

    Raises:
        DataError: The program failed.
    """
    if operations > MOST_IN_PYTHON and shutil.which("gcc"):
        return answer_in_c(program)
    return answer_in_python(program)


@lru_cache(maxsize=1024)
def answer_in_python(program: Program) -> str:
    """Runs the Python text of a program in this process."""
    out: list[str] = []
    code = compile(Python(program, Style()).text(), "<reference>", "exec")

    def run() -> None:
        try:
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(code, {"__name__": "__main__"})
            out.append(stream.getvalue().strip())
        except Exception as error:
            out.append(f"{type(error).__name__}: {error}")

    # Deep recursion needs a deep stack in old versions of Python, and only a new thread can have one.
    limit = sys.getrecursionlimit()
    size = threading.stack_size(_STACK_BYTES)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(size)
    if not out or not out[0].isdigit():
        raise DataError(f"the reference program in Python failed: {out}")
    return out[0]


@lru_cache(maxsize=1024)
def answer_in_c(program: Program) -> str:
    """Compiles and runs the C text of a program."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "main.c")
        binary = Path(folder, "main")
        source.write_text(C(program, Style()).text())
        subprocess.run(["gcc", "-O1", "-o", binary, source], check=True, capture_output=True)
        done = subprocess.run([os.fspath(binary)], capture_output=True, text=True, timeout=60)
    if done.returncode or not done.stdout.strip().isdigit():
        raise DataError(f"the reference program in C failed with {done.returncode}: {done.stdout!r} {done.stderr!r}")
    return done.stdout.strip()


__all__ = ["MOST_IN_PYTHON", "answer", "answer_in_c", "answer_in_python"]
