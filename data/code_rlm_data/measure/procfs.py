"""What /proc reports of a tree of processes: who is in it, what it uses, and how to end it. Standard library only."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")
_BLOCK = 512  # unit of st_blocks
# Mappings are read more rarely than descriptors: a large process has thousands.
_MAPPINGS_POLL_S = 0.1
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class TreeUsage(NamedTuple):
    """What the living processes below one use.

    Attributes:
        pids: Their numbers.
        resident_bytes: Sum of their resident sizes; pages that processes share count in each of them.
        largest_bytes: Largest resident size of one of them.
        tasks: Processes and threads.
        cpu_s: Processor seconds so far.
    """

    pids: Sequence[int]
    resident_bytes: int
    largest_bytes: int
    tasks: int
    cpu_s: float


def children_of(pid: int) -> list[int]:
    """Returns the numbers of a process's children, as this process's /proc has them."""
    children: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                children += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/task") and not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            children = [number for number, parent in _parents() if parent == pid]
    return children


def _parents() -> Iterator[tuple[int, int]]:
    """Yields (process, its parent) by reading all of /proc, for kernels without CONFIG_PROC_CHILDREN."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                yield int(name), int(_stat_fields(int(name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue


def _stat_fields(pid: int) -> list[str]:
    """Returns the fields of /proc/PID/stat behind the name, which may hold spaces: the first is the state."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


def descendants_of(pid: int) -> list[int]:
    """Returns the numbers of all processes below one."""
    below: list[int] = []
    queue = [pid]
    while queue:
        children = children_of(queue.pop())
        below += children
        queue += children
    return below


def tree_usage(pid: int) -> TreeUsage:
    """Returns what the living processes below one use."""
    pids = descendants_of(pid)
    resident: list[int] = []
    tasks = ticks = 0
    for each in pids:
        try:
            fields = _stat_fields(each)
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))  # user and system time, of ended children as well
        tasks += int(fields[17])
        resident.append(int(fields[21]) * _PAGE)
    return TreeUsage(pids, sum(resident), max(resident, default=0), tasks, ticks / _TICK)


def signal_descendants(pid: int) -> int:
    """Kills all processes below one, stopped first so that they start no more; returns how many there were."""
    below = descendants_of(pid)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for each in below:
            try:
                os.kill(each, number)
            except (ProcessLookupError, PermissionError):
                continue
    return len(below)


def kill_descendants(pid: int) -> None:
    """Kills all processes below one until none is left, and reaps those that are this process's."""
    for _ in range(1000):
        count = signal_descendants(pid)
        if pid == os.getpid():
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
        if not count:
            return
        time.sleep(0.001)


def sysv_objects(facility: str) -> list[dict[str, int]]:
    """Returns the System V objects of this process's IPC namespace, a dict from column to number each.

    Args:
        facility: "shm", "sem" or "msg". The identifier is in the column shmid, semid or msqid, and in "id".
    """
    try:
        with open(f"/proc/sysvipc/{facility}") as file:
            names, *lines = (line.split() for line in file)
    except (FileNotFoundError, ValueError):
        return []
    objects = [dict(zip(names, map(int, line))) for line in lines]
    return [{**each, "id": each["msqid" if facility == "msg" else f"{facility}id"]} for each in objects]


class SharedMemory:
    """Finds memory that a run holds and that no resident size shows.

    A process's resident size counts shared pages only while they are mapped and touched. Pages that were written through a
    descriptor of memfd_create(2), System V segments that nobody has attached, files of /dev/shm, and pages that were
    given back with madvise(2) are held all the same. The kernel keeps them in one internal file system, whose device
    number a memfd of our own has. Not seen: descriptors in flight between two sockets, and huge pages.

    Args:
        folder: /dev/shm where it is the run's own, otherwise None.
        user: User whose System V segments are the run's; None for all, where the run has an IPC namespace of its own.
        known: Identifiers of segments that were there before the run.
    """

    def __init__(self, folder: str | None, user: int | None, known: Iterable[int] = ()) -> None:
        self.folder = folder
        self.user = user
        self.known = frozenset(known)
        self.device = _memfd_device()
        self._mapped: dict[int, int] = {}
        self._mappings_read = 0.0

    def unmapped_bytes(self, pids: Sequence[int]) -> int:
        """Returns the bytes of the run's shared memory beyond what the resident sizes of its processes count."""
        objects: dict[int, int] = {}
        if self.device is not None:
            if time.monotonic() - self._mappings_read > _MAPPINGS_POLL_S:
                self._mapped = self._read_mappings(pids)
                self._mappings_read = time.monotonic()
            objects = {**self._mapped, **self._read_descriptors(pids)}
        held = sum(objects.values()) + self._segment_bytes() + self._folder_bytes()
        if not held:
            return 0
        return max(0, held - sum(map(_resident_shared_bytes, pids)))

    def _read_descriptors(self, pids: Sequence[int]) -> dict[int, int]:
        """Returns inode to bytes of the objects behind open descriptors."""
        objects = {}
        for pid in pids:
            try:
                names = os.listdir(f"/proc/{pid}/fd")
            except _GONE:
                continue
            for name in names:
                try:
                    status = os.stat(f"/proc/{pid}/fd/{name}")
                except OSError:
                    continue
                if status.st_dev == self.device:
                    objects[status.st_ino] = status.st_blocks * _BLOCK
        return objects

    def _read_mappings(self, pids: Sequence[int]) -> dict[int, int]:
        """Returns inode to bytes of the objects that are mapped, whether or not a descriptor is open."""
        device = f"{os.major(self.device):02x}:{os.minor(self.device):02x}"
        objects = {}
        for pid in pids:
            try:
                with open(f"/proc/{pid}/maps", errors="replace") as file:
                    lines = [line.split(None, 5) for line in file if f" {device} " in line]
            except _GONE:
                continue
            for place, _, _, _, _, *path in lines:
                if path and path[0].startswith("/SYSV"):  # counted by _segment_bytes
                    continue
                try:
                    # Needs CAP_CHECKPOINT_RESTORE; without it only what is resident counts.
                    status = os.stat(f"/proc/{pid}/map_files/{_without_zeros(place)}")
                except OSError:
                    continue
                objects[status.st_ino] = status.st_blocks * _BLOCK
        return objects

    def _segment_bytes(self) -> int:
        own = [each for each in sysv_objects("shm") if each["id"] not in self.known]
        if self.user is not None:
            own = [each for each in own if each["cuid"] == self.user]
        return sum(each["rss"] + each["swap"] for each in own)

    def _folder_bytes(self) -> int:
        if self.folder is None:
            return 0
        status = os.statvfs(self.folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


def _without_zeros(place: str) -> str:
    """Returns the range of a mapping as /proc/PID/map_files names it: hexadecimal numbers without leading zeros."""
    start, end = (int(number, 16) for number in place.split("-"))
    return f"{start:x}-{end:x}"


def _memfd_device() -> int | None:
    """Returns the device number of the kernel's file system for shared memory, None where memfds are unknown."""
    try:
        file = os.memfd_create("code-rlm-device")
    except (AttributeError, OSError):
        return None
    device = os.fstat(file).st_dev
    os.close(file)
    return device


def _resident_shared_bytes(pid: int) -> int:
    """Returns the resident bytes of a process that belong to shared memory (RssShmem)."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("RssShmem:"):
                    return int(line.split()[1]) * 1024
    except _GONE:
        pass
    return 0
