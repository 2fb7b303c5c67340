"""Nothing passes from one measured program to the next, and memory counts wherever it is held."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from code_rlm_data.measure import Limits
from code_rlm_data.measure import worker as worker_module
from code_rlm_data.measure.toolchains import base_python
from code_rlm_data.measure.worker import Usage, Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the harness reads Linux's accounting")

MEBIBYTE = 1 << 20
_SYSTEM_PYTHON = "/usr/bin/python3"
PYTHON = _SYSTEM_PYTHON if os.path.exists(_SYSTEM_PYTHON) else base_python()
LIMITS = Limits(wall_s=60, cpu_s=20, memory_bytes=160 * MEBIBYTE, processes=16, file_bytes=300 * MEBIBYTE)

# What both programs begin with. Each way to leave something has a function that leaves it and one that looks for it.
COMMON = """
import ctypes, os, platform, socket, time

libc = ctypes.CDLL(None, use_errno=True)
libc.mq_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
KEY = 0x51EED
CREATE = 0o1000 | 0o666
ADD_KEY = {"x86_64": 248, "aarch64": 217}[platform.machine()]
KEYCTL = {"x86_64": 250, "aarch64": 219}[platform.machine()]
SEARCH = 10
USER_KEYRING = -4
FOLDERS = [folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.path.isdir(folder)]


def key_of(name):
    return libc.syscall(KEYCTL, SEARCH, USER_KEYRING, b"user", name, 0)
"""
LEAVE = (
    COMMON
    + """
left = []
if libc.shmget(KEY, ctypes.c_size_t(4096), CREATE) >= 0:
    left.append("shared memory")
if libc.semget(KEY, 1, CREATE) >= 0:
    left.append("semaphore")
if libc.msgget(KEY, CREATE) >= 0:
    left.append("message queue")
if libc.mq_open(b"/code-rlm-left", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0:
    left.append("POSIX queue")
libc.syscall(ADD_KEY, b"user", b"code-rlm-left", b"secret", ctypes.c_size_t(6), USER_KEYRING)
if key_of(b"code-rlm-left") >= 0:
    left.append("key")
for folder in FOLDERS:
    os.makedirs(folder + "/code-rlm-left/deep")
    left.append(folder)
if os.fork() == 0:
    os.setsid()
    waits = socket.socket(socket.AF_UNIX)
    waits.bind("\\0code-rlm-left")
    waits.listen()
    time.sleep(60)
for _ in range(200):
    try:
        socket.socket(socket.AF_UNIX).connect("\\0code-rlm-left")
    except OSError:
        time.sleep(0.01)
    else:
        left.append("abstract socket")
        break
print(*left, sep="\\n")
"""
)
LOOK = (
    COMMON
    + """
if libc.shmget(KEY, ctypes.c_size_t(0), 0) >= 0 or len(open("/proc/sysvipc/shm").readlines()) > int(os.environ["SEGMENTS"]):
    print("shared memory")
if libc.semget(KEY, 0, 0) >= 0:
    print("semaphore")
if libc.msgget(KEY, 0) >= 0:
    print("message queue")
if libc.mq_open(b"/code-rlm-left", os.O_RDWR, 0, None) >= 0:
    print("POSIX queue")
if key_of(b"code-rlm-left") >= 0:
    print("key")
for folder in FOLDERS:
    if os.path.exists(folder + "/code-rlm-left"):
        print(folder)
try:
    socket.socket(socket.AF_UNIX).connect("\\0code-rlm-left")
except OSError:
    pass
else:
    print("abstract socket")
"""
)


def segments() -> int:
    """Lines of the list of System V segments of this machine."""
    return len(Path("/proc/sysvipc/shm").read_text().splitlines())


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "no namespaces"])
def worker(request) -> Iterator[Worker]:
    """A worker in a folder that other users may pass, so that programs run as a user of their own where that can be."""
    folder = tempfile.mkdtemp(prefix="code-rlm-isolation-")
    os.chmod(folder, 0o755)
    worker = Worker(Path(folder, "w"), min(os.sched_getaffinity(0)), namespaces=request.param)
    if PYTHON != base_python():
        worker.keep = []  # ours may lie in a folder that other users may not pass; the system's does not
    with worker:
        if worker.isolation["namespaces"] != request.param:
            pytest.skip("no namespaces here")
        yield worker
    shutil.rmtree(folder)


def run(worker: Worker, text: str, limits: Limits = LIMITS, **environment: str) -> Usage:
    return worker.run([PYTHON, "-c", textwrap.dedent(text)], limits, environment=environment)


def test_when_a_program_leaves_something_in_the_kernel_then_the_next_does_not_find_it(worker):
    if not worker.isolation["namespaces"] and not worker.isolation["user"]:
        pytest.skip("neither namespaces nor a user of their own: files pass, which the notes report")
    before = segments()
    left = run(worker, LEAVE)
    assert left.ok and {"shared memory", "semaphore", "message queue", "abstract socket"} <= set(
        left.stdout.decode().splitlines()
    ), left
    assert segments() == before
    seen = run(worker, LOOK, SEGMENTS="1" if worker.isolation["namespaces"] else str(before))
    assert seen.ok and seen.stdout == b"", seen


def test_when_programs_run_as_the_caller_then_only_their_own_objects_are_removed(monkeypatch):
    """Without namespaces and without a user of their own; an object of a living process of the caller stays."""
    monkeypatch.setattr(worker_module, "_take_user", lambda: (None, None))
    folder = tempfile.mkdtemp(prefix="code-rlm-isolation-")
    text = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        print(libc.shmget(0, ctypes.c_size_t(4096), 0o1600), libc.msgget(0, 0o1600), libc.semget(0, 1, 0o1600))
    """
    before = segments()
    with Worker(Path(folder, "w"), min(os.sched_getaffinity(0)), namespaces=False) as worker:
        assert "pass from run to run" in " ".join(worker.isolation["notes"])
        usage = run(worker, text)
    shutil.rmtree(folder)
    assert usage.ok and b"-1" not in usage.stdout
    assert segments() == before


def test_when_a_build_leaves_a_cache_then_a_run_cannot_change_it(worker):
    if not worker.isolation["user"] and not worker.isolation["namespaces"]:
        pytest.skip("programs run as the caller")
    path = worker.folder / "cache" / "of-the-compiler"
    write = f"open({str(path)!r}, 'a').write('x')"
    built = worker.run([PYTHON, "-c", write], LIMITS, building=True)
    assert built.ok, built
    changed = run(worker, write)
    assert changed.exit_code == 1 and path.read_text() == "x"
    assert worker.run([PYTHON, "-c", write], LIMITS, building=True).ok and path.read_text() == "xx"


# ---------------------------------------------------------------------------------------------------- memory

# Ways to hold `size` bytes for a while that resident sizes do not show, or show only once.
HOLD = {
    "memfd": """
        files = [os.memfd_create("a") for _ in range(size // block)]
        for file in files:
            os.write(file, bytes(block))
    """,
    "memfd, mapped and closed": """
        kept = []
        for _ in range(size // block):
            file = os.memfd_create("a")
            os.write(file, bytes(block))
            kept.append(mmap.mmap(file, block))
            os.close(file)
    """,
    "memfd in a child": """
        reading, writing = os.pipe()
        if os.fork() == 0:
            files = [os.memfd_create("a") for _ in range(size // block)]
            for file in files:
                os.write(file, bytes(block))
            os.write(writing, b"x")
            time.sleep(0.5)
            os._exit(0)
        os.read(reading, 1)
    """,
    "shared pages given back": """
        kept = []
        for _ in range(size // block):
            pages = mmap.mmap(-1, block)
            pages.write(bytes(block))
            pages.madvise(mmap.MADV_DONTNEED)
            kept.append(pages)
    """,
    "System V segments": """
        libc = ctypes.CDLL(None)
        libc.shmat.restype = ctypes.c_void_p
        libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
        for number in range(size // block):
            segment = libc.shmget(0, ctypes.c_size_t(block), 0o1600)
            place = libc.shmat(segment, None, 0)
            ctypes.memset(place, 1, block)
            libc.shmdt(ctypes.c_void_p(place))
    """,
}
PRELUDE = "import ctypes, mmap, os, sys, time\nsize = int(os.environ['SIZE'])\nblock = 8 << 20\n"
REST = "\ntime.sleep(0.3)\nprint('held')\n"


def hold(worker: Worker, way: str, size: int, limits: Limits = LIMITS) -> Usage:
    return run(worker, PRELUDE + textwrap.dedent(HOLD[way]) + REST, limits, SIZE=str(size))


def can_see(worker: Worker, way: str) -> bool:
    """Whether the pages of mappings without a descriptor can be counted: that takes root."""
    return way not in ("memfd, mapped and closed", "shared pages given back") or os.geteuid() == 0


@pytest.mark.parametrize("way", HOLD)
def test_when_memory_is_held_out_of_sight_then_it_is_in_the_peak(worker, way):
    if not can_see(worker, way):
        pytest.skip("needs root")
    idle = run(worker, PRELUDE + REST, SIZE="0")
    usage = hold(worker, way, 96 * MEBIBYTE)
    assert usage.ok and usage.stdout == b"held\n", usage
    # A block of zeros and the mapping that is being written may be counted beside what is held.
    assert 95 * MEBIBYTE < usage.peak_rss_bytes - idle.peak_rss_bytes < 116 * MEBIBYTE
    assert usage.tree_peak_rss_bytes >= usage.peak_rss_bytes


@pytest.mark.parametrize("way", HOLD)
def test_when_memory_out_of_sight_goes_past_the_limit_then_the_program_is_stopped(worker, way):
    if not can_see(worker, way):
        pytest.skip("needs root")
    usage = hold(worker, way, 400 * MEBIBYTE, replace(LIMITS, wall_s=30))
    assert usage.stopped_by == "memory" and not usage.ok


def test_when_shared_memory_is_mapped_then_it_is_not_counted_twice(worker):
    text = """
        import mmap, os, time
        file = os.memfd_create("a")
        os.truncate(file, 64 << 20)
        pages = mmap.mmap(file, 64 << 20)
        for place in range(0, 64 << 20, 4096):
            pages[place] = 1
        time.sleep(0.3)
    """
    usage = run(worker, text)
    assert usage.ok and 64 * MEBIBYTE < usage.peak_rss_bytes < 84 * MEBIBYTE


def test_when_a_file_lies_in_dev_shm_then_it_is_memory(worker):
    if not worker.isolation["namespaces"]:
        pytest.skip("the folder is shared with all programs of this machine")
    text = """
        with open("/dev/shm/a", "wb") as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
    """
    usage = run(worker, text)
    assert usage.ok and 64 * MEBIBYTE <= usage.peak_rss_bytes < 84 * MEBIBYTE
    assert run(worker, text, replace(LIMITS, memory_bytes=48 * MEBIBYTE)).stopped_by == "memory"
