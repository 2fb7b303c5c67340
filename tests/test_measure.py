"""The measurement harness: what it counts, and that a program changes nothing but its own row."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from code_rlm.data.measure import Limits, Program, measure_programs
from code_rlm.data.measure.worker import Worker
from code_rlm.data.schema import validate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads Linux's accounting")

SMALL = Limits(wall_s=1.5, cpu_s=1, memory_bytes=96 << 20, processes=16, output_bytes=1 << 20, file_bytes=4 << 20)
GOOD = Program("print(int(input()) + 1)", "python", stdin="41\n", expected_stdout="42\n", name="good")
MARK = "code-rlm-test-left-behind"


def python(text: str, name: str = "", **others) -> Program:
    return Program(textwrap.dedent(text).strip() + "\n", "python", name=name, **others)


def rows(path: Path) -> list[dict]:
    table = pq.read_table(path)
    assert validate(table).ok
    return table.to_pylist()


def journal(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def values(row: dict) -> dict[str, float]:
    return dict(zip(row["metrics"], row["values"]))


def marked() -> list[int]:
    """Living processes that a test program has marked."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if MARK in Path("/proc", name, "cmdline").read_text() and name != str(os.getpid()):
                found.append(int(name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker with all the isolation that there is here."""
    with Worker(tmp_path_factory.mktemp("worker") / "w", min(os.sched_getaffinity(0)), 0) as worker:
        yield worker


@pytest.fixture
def shielded(worker):
    """The same, where programs cannot reach the machine's processes."""
    if not worker.isolation["namespaces"]:
        pytest.skip(f"no namespaces here: {worker.isolation['notes']}")
    return worker


# ---------------------------------------------------------------------------------------------------- attacks

# Name to (program, outcome, what its detail says). Each must leave the programs around it, and the machine, as they were.
ATTACKS = {
    "fork bomb": ("import os\nwhile True:\n    os.fork()", "runtime_error", "processes|BlockingIOError"),
    "thread bomb": (
        """
        import threading, time
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """,
        "runtime_error",
        "processes|can't start new thread",
    ),
    "busy loop": ("while True:\n    pass", "timeout", "stopped by (cpu|wall)"),
    "sleep": ("import time\ntime.sleep(60)", "timeout", "stopped by wall"),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", "timeout", "stopped by wall"),
    "ignores signals": (
        """
        import signal, time
        for number in range(1, 32):
            if number not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(number, signal.SIG_IGN)
        while True:
            pass
        """,
        "timeout",
        "stopped by (cpu|wall)",
    ),
    "prints a gigabyte": (
        "import sys\nfor _ in range(1024):\n    sys.stdout.write('x' * (1 << 20))",
        "runtime_error",
        "stopped by (output|files)",
    ),
    "complains a gigabyte": (
        "import sys\nfor _ in range(1024):\n    sys.stderr.write('x' * (1 << 20))",
        "runtime_error",
        "stopped by (output|files)",
    ),
    "one large file": (
        "with open('large', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))",
        "runtime_error",
        "stopped by files|No space left|File too large",
    ),
    "many files": (
        """
        number = 0
        while True:
            number += 1
            try:
                open(str(number), "wb").write(bytes(1 << 18))
            except OSError:
                pass
        """,
        "runtime_error",
        "stopped by files",
    ),
    "allocates without end": (
        "kept = []\nwhile True:\n    kept.append(bytearray(b'x') * (8 << 20))",
        "runtime_error",
        "stopped by memory",
    ),
    "many that allocate": (
        """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                kept = bytearray(b"x") * (32 << 20)
                time.sleep(60)
        time.sleep(60)
        """,
        "runtime_error",
        "stopped by memory",
    ),
    "kills its parent": (
        "import os, signal, time\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(0.2)\nprint('still here')",
        None,
        "",
    ),
    "leaves a daemon": (
        f"""
        import os, sys
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "{MARK}"])
            os._exit(0)
        os.wait()
        print("gone")
        """,
        "ok",
        "",
    ),
    "leaves children": (
        f"""
        import os, sys
        for _ in range(5):
            if os.fork() == 0:
                os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)", "{MARK}"])
        """,
        "ok",
        "",
    ),
    "dies of a signal": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "runtime_error", "signal 11"),
    "fails": ("raise SystemExit(3)", "runtime_error", "exit status 3"),
    "closes everything": ("import os\nos.closerange(0, 256)", "ok", ""),
}
ONLY_SHIELDED = {
    "kills everything": ("import os, signal\nos.kill(-1, signal.SIGKILL)", None, ""),
    "writes outside": (
        """
        import os, sys
        here = os.getcwd()
        for folder in ("/", "/etc", "/usr", "/var/lib", os.path.dirname(here), os.path.dirname(os.path.dirname(here)),
                       os.path.dirname(os.path.abspath(__file__)), os.path.join(os.path.dirname(here), "io")):
            try:
                open(os.path.join(folder, "code-rlm-was-here"), "w").close()
            except OSError:
                continue
            print("wrote to", folder)
        """,
        "ok",
        "",
    ),
    "leaves files for the next": (
        """
        import os
        for folder in (".", "/tmp", "/var/tmp", "/dev/shm"):
            if os.path.isdir(folder):
                path = os.path.join(folder, "code-rlm-left")
                print(os.path.exists(path))
                open(path, "w").close()
        """,
        "ok",
        "",
    ),
    "rewrites itself": ("open(__file__, 'w').write('raise SystemExit(1)')", "runtime_error", "Error"),
}


@pytest.fixture(scope="module")
def attacked(worker, tmp_path_factory):
    """All attacks, one after the other, a good program between any two: (name to its line of the journal, the good's)."""
    out = tmp_path_factory.mktemp("attacked")
    programs, attacks = [], {**ATTACKS, **(ONLY_SHIELDED if worker.isolation["namespaces"] else {})}
    for name, (text, _, _) in attacks.items():
        programs += [python(text, name), GOOD]
    before = set(marked())
    table = rows(measure_programs(programs, out, limits=SMALL, repeats=2, metrics=["peak_rss_bytes"]))
    assert set(marked()) <= before
    assert [row["text"] for row in table] == [each.text for each in programs]
    lines = {line["name"]: line for line in journal(out) if "name" in line}
    return lines, [row for row in table if row["text"] == GOOD.text]


@pytest.mark.parametrize("name", [*ATTACKS, *ONLY_SHIELDED])
def test_when_a_program_misbehaves_then_its_row_says_so(attacked, name):
    lines, _ = attacked
    if name not in lines:
        pytest.skip("no namespaces here")
    _, outcome, detail = {**ATTACKS, **ONLY_SHIELDED}[name]
    line = lines[name]
    if outcome is not None:  # where the attack may or may not reach its aim
        assert line["outcome"] == outcome, line

    assert re.search(detail, line["detail"]), line


def test_when_programs_misbehave_then_those_between_them_are_measured_as_ever(attacked):
    _, good = attacked
    assert len(good) >= len(ATTACKS) and {row["outcome"] for row in good} == {"ok"}
    sizes = [row["values"][0] for row in good]
    assert max(sizes) < 1.05 * min(sizes)
