"""The measurement harness: what it counts, and that a program changes nothing but its own row."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from code_rlm.data.nas_graphs import build_graph
from code_rlm.data.readers import read_task
from code_rlm.data.schema import validate
from code_rlm_data.measure import TOOLCHAINS, Limits, MeasureError, Program, measure_programs, read_programs
from code_rlm_data.measure.leetcode import SOURCE_FILE, Wrapped, count_items, describe, enlarge, measure_leetcode
from code_rlm_data.measure.observers import PAPER_PROTOCOL, Protocol
from code_rlm_data.measure.run import main
from code_rlm_data.measure.session import same_output
from code_rlm_data.measure.toolchains import base_python, java_entry
from code_rlm_data.measure.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads Linux's accounting")

SMALL = Limits(wall_s=1.5, cpu_s=1, memory_bytes=96 << 20, processes=16, output_bytes=1 << 20, file_bytes=4 << 20)
ROOMY = replace(SMALL, wall_s=60, cpu_s=10)
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
    with Worker(tmp_path_factory.mktemp("worker") / "w", min(os.sched_getaffinity(0))) as worker:
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


def test_when_a_program_can_reach_nothing_then_no_file_of_it_is_anywhere(attacked, worker):
    lines, _ = attacked
    if not worker.isolation["namespaces"]:
        pytest.skip("no namespaces here")
    assert lines["writes outside"]["outcome"] == "ok"
    for folder in ("/", "/etc", "/usr", "/var/lib", "/tmp", "/var/tmp", "/dev/shm", str(worker.folder)):
        assert not Path(folder, "code-rlm-was-here").exists() and not Path(folder, "code-rlm-left").exists()


def test_when_a_run_leaves_files_then_the_next_does_not_find_them(shielded):
    shielded.build(python(ONLY_SHIELDED["leaves files for the next"][0]))
    for _ in range(2):
        usage = shielded.run(TOOLCHAINS["python"].run, SMALL)
        assert usage.ok and set(usage.stdout.split()) == {b"False"}


def test_when_a_program_calls_a_server_then_nobody_answers(shielded):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)"
        assert subprocess.run([base_python(), "-c", text]).returncode == 0
        shielded.build(python(text))
        usage = shielded.run(TOOLCHAINS["python"].run, SMALL)
    assert usage.exit_code == 1 and b"unreachable" in usage.stderr


def test_when_there_are_no_namespaces_then_limits_hold_all_the_same(tmp_path):
    # Only attacks that need nothing to hold them back but our own processes.
    names = [
        "sleep",
        "ignores signals",
        "prints a gigabyte",
        "many that allocate",
        "kills its parent",
        "leaves a daemon",
    ]
    before = set(marked())
    programs = [python(ATTACKS[name][0], name) for name in names]
    path = measure_programs(
        [*programs, GOOD], tmp_path, limits=SMALL, repeats=1, namespaces=False, metrics=["cpu_time_ms"]
    )
    outcomes = [row["outcome"] for row in rows(path)]
    assert outcomes == ["timeout", "timeout", "runtime_error", "runtime_error", "runtime_error", "ok", "ok"]
    assert "killed" in next(line for line in journal(tmp_path) if line.get("name") == "kills its parent")["detail"]
    assert set(marked()) <= before


# ---------------------------------------------------------------------------------------------------- accounting


def test_when_the_caller_is_large_then_a_small_program_is_small_all_the_same(worker):
    ballast = bytearray(b"x") * (100 << 20)
    child = os.fork()
    if child == 0:
        os.execv("/bin/true", ["true"])
    leaked = os.wait4(child, 0)[2].ru_maxrss * 1024
    usage = worker.run(["/bin/true"], SMALL)
    assert len(ballast) < leaked  # what a plain fork would have told
    assert usage.ok and 100_000 < usage.peak_rss_bytes < 6 << 20


def test_when_a_program_takes_memory_and_time_then_that_is_what_is_counted(worker):
    text = """
        import sys, time
        kept = bytearray(b"x") * (40 << 20)
        started = time.process_time()
        while time.process_time() - started < 0.3:
            pass
        time.sleep(0.3)
    """
    sizes = {}
    for name, program in (("idle", "pass"), ("busy", text)):
        worker.build(python(program))
        sizes[name] = worker.run(TOOLCHAINS["python"].run, ROOMY)
    grown = sizes["busy"].peak_rss_bytes - sizes["idle"].peak_rss_bytes
    assert 39 << 20 < grown < 43 << 20
    assert 0.28 < sizes["busy"].cpu_s - sizes["idle"].cpu_s < 0.6
    assert sizes["busy"].wall_s > 0.6


def test_when_children_do_the_work_then_it_is_the_programs(worker):
    text = """
        import os, time
        for _ in range(2):
            if os.fork() == 0:
                kept = bytearray(b"x") * (20 << 20)
                while time.process_time() < 0.2:
                    pass
                time.sleep(0.3)
                os._exit(0)
        {}
    """
    for ending in ("os.wait(); os.wait()", "time.sleep(3)"):
        worker.build(python(text.format(ending)))
        usage = worker.run(TOOLCHAINS["python"].run, ROOMY)
        assert usage.ok and 0.3 < usage.cpu_s < 1, usage
        assert 22 << 20 < usage.peak_rss_bytes < 40 << 20 < usage.tree_peak_rss_bytes


def test_when_the_hash_seed_is_fixed_then_it_is_fixed(worker):
    worker.build(python("print(hash('a'))"))
    printed = {
        worker.run(TOOLCHAINS["python"].run, ROOMY, environment=TOOLCHAINS["python"].environment).stdout for _ in "ab"
    }
    assert len(printed) == 1


@pytest.mark.parametrize("language", TOOLCHAINS)
def test_when_a_toolchain_is_here_then_its_idle_program_builds_and_runs(language, tmp_path):
    tools = TOOLCHAINS[language]
    if tools.missing():
        with pytest.raises(MeasureError, match=re.escape(tools.remedy())):
            measure_programs([Program(tools.idle or "in 1", language)], tmp_path)
        return
    if language == "onnx":
        pytest.skip("has a test of its own")
    if (tools.build and language not in ("c", "cpp")) or tools.modules:
        pytest.skip("slow compilers are tried by hand")
    table = rows(measure_programs([Program(tools.idle, language)], tmp_path, repeats=1))
    found = values(table[0])
    assert table[0]["outcome"] == "ok" and found["peak_rss_bytes"] > 500_000
    assert 0.8 < found["peak_rss_bytes"] / found["idle_peak_rss_bytes"] < 1.25


# ---------------------------------------------------------------------------------------------------- calls


def test_when_a_call_is_traced_then_its_peak_is_counted_and_nothing_else(tmp_path):
    text = "ballast = [0] * 1_000_000\ndef solve(n):\n    return len(bytes(n))\n"
    programs = [
        Program(text, "python", setup="n = 1000; made = bytes(10**6)", call="solve(n)"),
        Program(text, "python", setup="n = 100_000", call="answer = solve(n)", check="assert answer == 100_000"),
        Program(text, "python", setup="n = 5", call="answer = solve(n)", check="assert answer == 6"),
        Program("import time\ndef solve():\n    time.sleep(60)\n", "python", call="solve()"),
        Program("import os\ndef solve():\n    os._exit(0)\n", "python", call="solve()"),
        python("import sys\nprint(len(sys.stdin.read() * 1000))", stdin="x" * 1000, expected_stdout="1000000"),
        python("pass"),
    ]
    metrics = ["peak_memory_bytes", "call_wall_time_ms", "call_cpu_time_ms"]
    path = measure_programs(programs, tmp_path, limits=Limits(wall_s=1), metrics=metrics)
    table = rows(path)
    assert [row["outcome"] for row in table] == ["ok", "ok", "wrong_answer", "timeout", "runtime_error", "ok", "ok"]
    peaks = [row["values"][0] for row in table]
    assert 1000 <= peaks[0] < 1200 and 100_000 <= peaks[1] < 100_200
    assert 1_000_000 <= peaks[5] < 1_100_000 and peaks[6] == 0
    numbers = [line["numbers"] for line in journal(tmp_path) if line.get("outcome") == "ok"]
    assert all(len(each[metric]) == PAPER_PROTOCOL.call_repeats for each in numbers for metric in metrics)
    assert len({number for number in numbers[1]["peak_memory_bytes"]}) == 1


def test_when_a_model_is_measured_then_its_time_is_that_of_onnxruntime(tmp_path):
    model = build_graph("nasbench201", "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
    (tmp_path / "cell.onnx").write_bytes(model.SerializeToString())
    programs = list(read_programs(tmp_path))
    if TOOLCHAINS["onnx"].missing():
        with pytest.raises(MeasureError, match=r"onnxruntime \(pip install 'code-rlm-data\[onnx\]'\)"):
            measure_programs(programs, tmp_path / "out")
        return
    broken = replace(programs[0], file=str(tmp_path / "broken.onnx"))
    other = build_graph("nasbench201", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")
    other.graph.node[0].input[0] = "nothing"
    (tmp_path / "broken.onnx").write_bytes(other.SerializeToString())
    astray = replace(programs[0], file=str(tmp_path / "astray.onnx"))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")
    (tmp_path / "astray.onnx").write_bytes(model.SerializeToString())
    table = rows(measure_programs([*programs, broken, astray], tmp_path / "out"))
    assert [row["outcome"] for row in table] == ["ok", "runtime_error", "compile_error"]
    found = values(table[0])
    assert 0.1 < found["latency_ms"] < 5000 and 1 << 20 < found["peak_memory_bytes"] < 1 << 30
    assert "in 1 3 32 32" in table[0]["text"] and "onnxruntime" in table[0]["versions"]


KERNEL = """
import torch, triton
import triton.language as tl

@triton.jit
def double(out_ptr, in_ptr, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + at, 2 * tl.load(in_ptr + at, mask=at < size), mask=at < size)

x = torch.ones(300, device=DEVICE)
y = torch.empty_like(x)

def run():
    double[(3,)](y, x, 300, BLOCK=128)

if DEVICE == "cpu":
    run()
    assert y.tolist() == [2.0] * 300
"""


@pytest.mark.slow
def test_when_there_is_no_gpu_then_kernels_are_checked_and_not_measured(tmp_path):
    texts = [KERNEL, KERNEL.replace("2 * tl.load", "3 * tl.load"), KERNEL.replace("tl.arange", "tl.oops")]
    programs = [Program(text, "triton") for text in [*texts, "x = 1"]]
    if TOOLCHAINS["triton"].missing():
        with pytest.raises(MeasureError, match=r"triton \(pip install 'code-rlm-data\[triton\]'\)"):
            measure_programs(programs, tmp_path)
        return
    table = rows(measure_programs(programs, tmp_path, limits=Limits(wall_s=120, cpu_s=60, memory_bytes=4 << 30)))
    if torch.cuda.is_available():
        assert [row["outcome"] for row in table] == ["ok", "ok", "runtime_error", "runtime_error"]
        assert table[0]["values"][0] > 0
    else:
        assert [row["outcome"] for row in table] == ["ok", "runtime_error", "compile_error", "runtime_error"]
        assert table[0]["values"] == [None]


# ---------------------------------------------------------------------------------------------------- sessions


def test_when_a_table_is_measured_then_its_rows_follow_the_programs(tmp_path):
    programs = [
        Program("int main(void) { return 0; }", "c", group="g", context=("size: 3",)),
        Program("int main(void { return 0; }", "c"),
        GOOD,
        Program(GOOD.text, "python", stdin="1\n", expected_stdout="3"),
        GOOD,
    ]
    if TOOLCHAINS["c"].missing():
        pytest.skip("no gcc here")
    table = rows(measure_programs(programs, tmp_path, repeats=2, source="mine"))
    assert [row["outcome"] for row in table] == ["ok", "compile_error", "ok", "wrong_answer", "ok"]
    assert [row["text"] for row in table] == [each.text for each in programs]
    assert (table[0]["group"], table[0]["context"], table[0]["source"]) == ("g", ["size: 3"], "mine")
    assert table[2]["group"] == table[3]["group"] != table[1]["group"]
    assert table[1]["values"] == [None] * 4 and None not in table[0]["values"]
    assert "gcc" in table[0]["versions"] and "Linux" in table[0]["hardware"]
    assert "error:" in next(line for line in journal(tmp_path) if line.get("outcome") == "compile_error")["detail"]


def test_when_measuring_is_killed_then_it_goes_on_and_no_row_is_lost_or_doubled(tmp_path):
    folder = tmp_path / "programs"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02}.py").write_text(f"import time\ntime.sleep(0.1)\nprint({number}, '{MARK}')\n")
    command = [
        sys.executable,
        "-m",
        "code_rlm.cli",
        "measure",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--repeats",
        "1",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    path = tmp_path / "out" / "journal.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not path.exists() or path.read_bytes().count(b"outcome") < 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    done = path.read_bytes().count(b'"outcome"')
    assert 3 <= done < 12
    table = rows(measure_programs(read_programs(folder), tmp_path / "out", repeats=1))
    lines = [line for line in journal(tmp_path / "out") if "key" in line]
    assert len(table) == len(lines) == len({line["key"] for line in lines}) == 12
    assert [int(re.search(r"print\((\d+)", row["text"])[1]) for row in table] == list(range(12))
    assert not (tmp_path / "out" / ".workers").exists()


def test_when_settings_change_then_the_journal_is_not_mixed(tmp_path):
    measure_programs([GOOD], tmp_path, repeats=1)
    with pytest.raises(MeasureError, match=r"other protocol.*resume=False"):
        measure_programs([GOOD], tmp_path, repeats=2)
    assert len(rows(measure_programs([GOOD], tmp_path, repeats=2, resume=False))) == 1


def test_when_two_measure_into_a_folder_then_the_second_is_refused(tmp_path):
    slow = python("import time\ntime.sleep(2)")
    thread = threading.Thread(target=measure_programs, args=([slow], tmp_path), kwargs={"repeats": 1})
    thread.start()
    try:
        while not (tmp_path / "journal.jsonl").exists():
            time.sleep(0.01)
        with pytest.raises(MeasureError, match="another process"):
            measure_programs([GOOD], tmp_path)
    finally:
        thread.join()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_when_there_are_two_workers_then_each_has_a_core_of_its_own(tmp_path):
    programs = [
        python(f"import os, time\ntime.sleep(0.2)\nassert len(os.sched_getaffinity(0)) == 1 # {n}") for n in range(4)
    ]
    table = rows(measure_programs(programs, tmp_path, repeats=1, workers=2))
    assert [row["text"] for row in table] == [each.text for each in programs]
    assert {row["outcome"] for row in table} == {"ok"}


def test_when_many_are_built_at_once_then_each_is_its_own(worker):
    if TOOLCHAINS["java"].missing():
        pytest.skip("no javac here")
    text = "public class Main {{ public static void main(String[] a) {{ System.out.println({}); }} }}"
    programs = [Program(text.format(value), "java") for value in ("1", "oops", "3")]
    found = []
    for program, usage in zip(programs, worker.build_each(programs), strict=True):
        command = TOOLCHAINS["java"].of(program.text).run
        found.append(worker.run(command, Limits()).stdout.strip() if usage.ok else usage.describe())
    assert found[0] == b"1" and "cannot find symbol" in found[1] and found[2] == b"3"


JAVA_MAIN = "public static void main(String[] a) { System.out.println(7); }"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f"public class Hello {{ {JAVA_MAIN} }}", ("Hello", "Hello")),
        (f"package a.b;\n// public class Not\npublic final class Hello {{ {JAVA_MAIN} }}", ("Hello", "a.b.Hello")),
        (f"class Node {{ }}\nclass Solution {{\n  {JAVA_MAIN}\n}}\nclass Last {{ }}", ("Main", "Solution")),
        (f"record Point(int x) {{ }}\npublic class Main {{ {JAVA_MAIN} }}", ("Main", "Main")),
        ("int x;", ("Main", "Main")),
    ],
)
def test_when_a_java_program_has_a_class_of_its_own_then_file_and_start_follow_it(text, names, worker):
    assert java_entry(text) == names
    if TOOLCHAINS["java"].missing() or "main" not in text:
        return
    for usage in worker.build_each([Program(text, "java"), Program(text + "\n", "java")]):
        assert usage.ok, usage.describe()
        assert worker.run(TOOLCHAINS["java"].of(text).run, Limits()).stdout.strip() == b"7"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda out: measure_programs([], out), "no program"),
        (lambda out: measure_programs([GOOD], out, workers=0), "workers must be from 1"),
        (
            lambda out: measure_programs([GOOD], out, metrics=["speed"]),
            "no metric speed of python programs; there is peak_rss",
        ),
        (lambda out: measure_programs([Program("x", "cobol")], out), "no toolchain for cobol; there are c, cpp"),
        (lambda out: Program(" ", "c"), "empty text"),
        (lambda out: Limits(wall_s=0), "limit wall_s must be a number over 0"),
        (lambda out: Protocol(call_warmups=0, call_repeats=0), "both 0"),
        (lambda out: list(read_programs(out / "none")), "no file or folder"),
        (lambda out: list(read_programs(out)), "holds no program"),
        (lambda out: measure_leetcode(out, out), "LeetCodeDataset"),
    ],
)
def test_when_arguments_are_wrong_then_the_message_says_how(call, message, tmp_path):
    with pytest.raises(MeasureError, match=message):
        call(tmp_path)


def test_when_programs_lie_in_a_folder_then_their_inputs_beside_them_are_read(tmp_path):
    (tmp_path / "sum" / "fast").mkdir(parents=True)
    for name, text in {"sum/fast.py": "a", "sum/fast/1.in": "1", "sum/fast/1.out": "2", "sum/fast/2.in": "3"}.items():
        (tmp_path / name).write_text(text)
    for name, text in {"one.c": "b", "one.in": "7", "one.out": "8", "notes.txt": "x", "two.rb": "c"}.items():
        (tmp_path / name).write_text(text)
    found = [(p.name, p.language, p.stdin, p.expected_stdout) for p in read_programs(tmp_path)]
    assert found == [
        ("one.c", "c", "7", "8"),
        ("two.rb", "ruby", "", None),
        ("sum/fast.py 1", "python", "1", "2"),
        ("sum/fast.py 2", "python", "3", None),
    ]
    assert len({p.group for p in read_programs(tmp_path)}) == 3


def test_when_programs_stand_in_a_table_then_columns_are_read(tmp_path):
    lines = [
        {"text": "a", "language": "c", "stdin": "5", "context": ["k: v"], "more": 1},
        {"text": "b", "language": "c"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "t.csv").write_text('text,arguments,context\na,"[""x""]",\n')
    first, second = read_programs(tmp_path / "t.jsonl")
    assert (first.stdin, first.context, second.stdin) == ("5", ("k: v",), "")
    (only,) = read_programs(tmp_path / "t.csv", language="ruby")
    assert (only.language, only.arguments, only.context) == ("ruby", ("x",), ())
    (tmp_path / "bad.csv").write_text("text,context\na,oops\n")
    with pytest.raises(MeasureError, match=r"line 2.*column 'context'.*written as JSON"):
        list(read_programs(tmp_path / "bad.csv", language="c"))


def test_when_the_command_is_given_a_file_then_it_writes_the_table(tmp_path, capsys):
    (tmp_path / "a.py").write_text("print(1)\n")
    out = tmp_path / "out"
    assert (
        main([str(tmp_path / "a.py"), "--out", str(out), "--repeats", "1", "--wall-s", "5", "--metrics", "cpu_time_ms"])
        == 0
    )
    assert capsys.readouterr().out.strip() == str(out / "data.parquet") and len(rows(out / "data.parquet")) == 1
    assert main([str(tmp_path / "a.py"), "--out", str(out), "--wall-s", "-1"]) == 2
    assert "wall_s must be a number over 0" in capsys.readouterr().err
    assert main([]) == 2 and "--languages" in capsys.readouterr().err


def test_when_outputs_differ_in_spaces_at_ends_alone_then_they_are_the_same():
    assert same_output(b"1 2 \n3\n\n", "1 2\n3") and same_output(b"", "\n")
    assert not same_output(b"1  2", "1 2") and not same_output(b"1\n\n2", "1\n2")


# ---------------------------------------------------------------------------------------------------- LeetCode


def grow(size: int = 300, seed: int = 1, **call):
    return enlarge(call, size, random.Random(seed))


def test_when_inputs_grow_then_they_stay_what_they_were():
    assert len(grow(nums=[3, 1, 2])["nums"]) == 300 and grow(nums=[3, 1, 2]) == grow(nums=[3, 1, 2])
    assert grow(nums=[3, 1, 2], seed=2) != grow(nums=[3, 1, 2])
    nums = grow(nums=[1, 4, 9, 16])["nums"]
    assert nums == sorted(nums) and len(set(nums)) == 300
    assert sorted(grow(order=[2, 0, 1])["order"]) == list(range(300))
    assert set(grow(s="abab")["s"]) == {"a", "b"} and grow(s="(())", size=8)["s"] == "(())(())"
    grown = grow(n=4, edges=[[0, 1], [1, 2], [2, 3]])
    assert grown["n"] == max(map(max, grown["edges"])) + 1 > 50 and {len(row) for row in grown["edges"]} == {2}
    grid = grow(grid=[[1, 0], [0, 1]])["grid"]
    assert len({len(row) for row in grid}) == 1 and {item for row in grid for item in row} == {0, 1}
    pair = grow(prices=[1, 2, 2], fees=[3, 1, 1], k=3)
    assert len(pair["prices"]) == len(pair["fees"]) == pair["k"] == 150
    assert grow(n=3, k=6) == {"n": 150, "k": 300}
    tree = grow(root=Wrapped("tree_node", [5, 3, None, 1]))["root"]
    assert tree.value[:4] == [5, 3, None, 1] and count_items(tree) == 300
    assert grow(size=2, nums=[1, 2, 3]) == {"nums": [1, 2, 3]}


def test_when_an_argument_is_long_then_its_description_is_short():
    assert describe([1, 2]) == "[1, 2]" and describe("a\nb") == "'a\\nb'"
    assert describe(list(range(100))) == "list of 100 int from 0 to 99"
    assert describe([[1, 2]] * 50) == "list of 50 list of 2 int from 1 to 2"
    assert describe(["ab", "c"] * 50) == "list of 100 str of 1 to 2 characters"
    assert describe(Wrapped("list_node", [7] * 100)) == "list_node of list of 100 int from 7"


def write_problems(root: Path) -> None:
    """Three problems in the form of LeetCodeDataset: one that runs, one that refuses large inputs, one that is wrong."""
    solution = "class Solution:\n    def double(self, nums):\n        {}\n        return [2 * n for n in nums]\n"
    entries = [
        {
            "task_id": name,
            "prompt": "import math\n",
            "completion": solution.format(line),
            "entry_point": "Solution().double",
            "test": "def check(candidate):\n    assert candidate(nums = [3,8]) == [6,16]\n",
        }
        for name, line in (("good", "math.sqrt(1)"), ("picky", "assert len(nums) < 5"), ("bad", "nums = nums[1:]"))
    ]
    (root / "python").mkdir()
    with gzip.open(root / SOURCE_FILE, "wt") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def test_when_problems_are_measured_then_the_task_reads_them(tmp_path):
    write_problems(tmp_path)
    out = tmp_path / "out"
    arguments = ["leetcode", "--data-root", str(tmp_path), "--out", str(out), "--sizes", "50", "500"]
    assert main(arguments) == 0
    table = read_task("leetcode_memory", out)
    found = {}
    for row in table:
        found.setdefault(row["group"], []).append((row["outcome"], row["context"][0], row["values"][0]))
    assert [each[:2] for each in found["good"]] == [
        ("ok", "argument nums: [3, 8]"),
        ("ok", "argument nums: list of 50 int from 3 to 8"),
        ("ok", "argument nums: list of 500 int from 3 to 8"),
    ]
    small, _, large = (value for _, _, value in found["good"])
    assert small < 600 < 8 * 500 < large < 8 * 700
    assert [each[0] for each in found["picky"]] == ["ok"]  # what it refuses is left out
    assert [each[0] for each in found["bad"]] == ["wrong_answer", "ok", "ok"]


def test_when_solutions_of_others_are_measured_then_all_get_the_same_arguments(tmp_path):
    write_problems(tmp_path)
    lazy = "class Solution(object):\n    def double(self, xs):\n        return [2 * xs[i] for i in xrange(len(xs))]\n"
    twice = "class Solution:\n    def double(self, a):\n        b = [2 * n for n in a]\n        return list(b)\n"
    wrong = "class Solution:\n    def double(self, a):\n        return collections.deque(a)\n"
    other = "class Solution { int[] twice(int[] a) { return a; } }"
    rows = [(lazy, "python"), (twice, "python"), (twice, "python"), (wrong, "python"), (other, "java")]
    table = tmp_path / "solutions.parquet"
    columns = {"text": [text for text, _ in rows], "language": [each for _, each in rows], "task_id": ["good"] * 5}
    pq.write_table(pa.table(columns), table)
    out = tmp_path / "out"
    arguments = ["leetcode", "--data-root", str(tmp_path), "--out", str(out), "--sizes", "500"]
    assert main([*arguments, "--solutions", str(table)]) == 0
    found = {(row["text"], row["context"][0]): row for row in read_task("leetcode_solutions", out)}
    assert len(found) == 6 and {text for text, _ in found} == {lazy, twice, wrong}
    grown = "argument nums: list of 500 int from 3 to 8"
    assert found[twice, grown]["values"][0] > 1.5 * found[lazy, grown]["values"][0] > 8 * 500
    assert found[wrong, "argument nums: [3, 8]"]["outcome"] == "wrong_answer"
    assert {row["group"] for row in found.values()} == {"good"}
    pq.write_table(pa.table({"text": ["x"]}), table)
    assert main([*arguments, "--fresh", "--solutions", str(table)]) == 2
