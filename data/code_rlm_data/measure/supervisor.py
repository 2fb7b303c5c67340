"""Runs other people's programs one after the other and reports what they used. A script: standard library only.

    python -I -S -B supervisor.py        # one JSON object a line on standard input, one answer a line on standard output

The first line opens the supervisor, every other line is a run. Three processes stand between the caller and a program:

    caller ── supervisor ── watcher ── reaper ── program and all that it starts
              all runs      one run    one run

* The *supervisor* holds the namespaces that all runs share: no network, a read-only file system, private /tmp.
* The *watcher* reads clock, memory, processes, output and disk from outside, and kills.
* The *reaper* is process 1 of the run's own process namespace. Whatever the program leaves behind becomes its child, so it
  gets the end and the resources of every process, and all processes end with it. It only waits, so that it takes no time
  from what is measured.

The kernel hands a process's largest resident size on from fork() through exec(), so that a child of a large parent seems
large. Therefore the reaper starts /bin/sh, which starts the program and ends. The program is then the child of a process
of less than 1 MiB, and as an orphan it comes back to the reaper, whose wait4() gets its resources.

Where the kernel gives no namespaces, the same processes enforce limits and remove leftovers without them as far as they
can, and the answer to the first line lists what is missing.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import signal
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import kernel
import procfs
from leftovers import TEMPORARY, Leftovers

# 3 is the results of a driver, 4 standard input, 5 takes the program's number, 6 is the gate. A shell gives background jobs no
# standard input. The program waits at the gate until the shell has ended: a shell that still lives would collect it.
_SHELL = '{ read _ <&6; exec "$@" <&4 4<&- 5>&- 6<&-; } & echo $! >&5'
_POLL_S = 0.01
_DISK_POLL_S = 0.2
# Since this version keyrings of users belong to a user namespace; before, those of the caller would be cleared.
_KEYS_IN_NAMESPACES = (5, 3)


def main() -> None:
    """Answers lines until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle: it closes our standard input
    os.umask(0o077)
    kernel.die_with_parent()
    kernel.adopt_orphans()
    supervisor = None
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if supervisor is None:
            supervisor = Supervisor(request)
            answer = supervisor.isolation
        else:
            answer = supervisor.run(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if supervisor is not None:
        procfs.kill_descendants(os.getpid())


class Supervisor:
    """Holds what the runs share.

    Args:
        request: The first line, with the keys below.

    Keys:
        folder: Folder of this worker with `build`, `run`, `cache` and `io` in it.
        core: Core that everything is pinned to.
        user: User id to run programs as where the caller is root, or null.
        keep: Paths that programs must be able to read wherever they are.
        namespaces: False to do without, as on kernels that give none.
    """

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.folder = os.path.realpath(request["folder"])
        self.keep = [self.folder, *(os.path.realpath(path) for path in request["keep"] if os.path.exists(path))]
        self.user: int | None = None
        self.apart = False
        self.own_keys = False
        self.isolation: dict[str, Any] = {"namespaces": False, "network": False, "user": False, "notes": []}
        os.sched_setaffinity(0, {request["core"]})
        if request["namespaces"]:
            try:
                self._isolate()
            except OSError as error:
                self.isolation["notes"].append(f"namespaces: {error}")
        if os.geteuid() == 0 and request["user"] is not None:
            closed = next(filter(None, map(closed_ancestor, self.keep)), None)
            if closed and not self.apart:
                self.isolation["notes"].append(f"user: {closed} is closed to other users, so programs run as root")
            else:
                self.user = request["user"]
                self.isolation["user"] = True
                for name in ("build", "cache", "run"):
                    os.chown(os.path.join(self.folder, name), self.user, self.user)
        if self.user is not None:
            self.own_keys = True
        elif not self.apart:
            self.isolation["notes"].append("files in /tmp and /dev/shm and keys pass from run to run")

    def _isolate(self) -> None:
        """Enters namespaces without network and with a file system that only the worker's folder can be written in."""
        me = os.getuid()
        group = os.getgid()
        kernel.unshare(
            kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | (kernel.CLONE_NEWUSER if me else 0)
        )
        self.isolation["network"] = True
        if me:
            for name, text in (("setgroups", "deny"), ("uid_map", f"{me} {me} 1"), ("gid_map", f"{group} {group} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
            self.own_keys = _kernel_version() >= _KEYS_IN_NAMESPACES
        shield_files(self.keep, os.path.expanduser("~"))
        child = os.fork()
        if child == 0:
            try:
                kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if number:
            raise OSError(number, f"unshare of processes: {os.strerror(number)}")
        self.apart = self.isolation["namespaces"] = True

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Forks a watcher for one run and returns its answer. A watcher that was killed gives none.

        Whatever became of the watcher, nothing that the run left is there when this returns.
        """
        leftovers = Leftovers(self.user, own_files=self.apart, own_keys=self.own_keys)
        self._close_cache(request["cwd"] != "build")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                kernel.die_with_parent()
                kernel.adopt_orphans()
                answer = Watcher(self, request).run()
                with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                    json.dump(answer, pipe)
                status = 0
            except Exception as error:
                with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                    json.dump({"failed": f"watcher: {type(error).__name__}: {error}"}, pipe)
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        procfs.kill_descendants(os.getpid())
        leftovers.remove()
        return json.loads(text) if text else {"stopped_by": "watcher killed"}

    def _close_cache(self, closed: bool) -> None:
        """Keeps programs out of the compilers' cache, where it is not read-only for them anyway."""
        if self.user is not None and not self.apart:
            owner = 0 if closed else self.user
            os.chown(os.path.join(self.folder, "cache"), owner, owner)
            os.chmod(os.path.join(self.folder, "cache"), 0o700 if closed else 0o755)


class Watcher:
    """Watches one run.

    Args:
        supervisor: Holds what the runs share.
        request: A line, with the keys below.

    Keys:
        argv: Command; the first word is a path.
        env: The whole environment.
        cwd: "run" or "build". In a build the folder `build` can be written, otherwise only `run` can.
        limits: The fields of `Limits`.
        result: Whether the program may write to `io/result` through file descriptor 3.
    """

    def __init__(self, supervisor: Supervisor, request: Mapping[str, Any]) -> None:
        self.supervisor = supervisor
        self.request = request
        self.limits = request["limits"]
        self.building = request["cwd"] == "build"
        self.cwd = os.path.join(supervisor.folder, request["cwd"])
        self.disk_seen = 0.0
        self.room: list[str] = []  # file systems in memory that the run can write
        self.own_ipc = False
        self.held_peak = self.tree_peak = self.most = 0

    def run(self) -> dict[str, Any]:
        """Starts the reaper, waits for it, and returns the answer to the line."""
        inside = {
            name: os.path.join(self.supervisor.folder, "io", name) for name in ("stdin", "stdout", "stderr", "result")
        }
        self.files = [os.open(inside["stdin"], os.O_RDONLY | os.O_CLOEXEC)]
        for name in ("stdout", "stderr", "result"):
            self.files.append(
                os.open(inside[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            )
        if self.supervisor.apart:
            self._enter_namespaces()
        self.shared = self._shared_memory()
        reading, writing = os.pipe()
        self.reaper = os.fork()
        if self.reaper == 0:
            os.close(reading)
            try:
                answer = Reaper(self).run()
            except Exception as error:
                answer = {"failed": f"reaper: {type(error).__name__}: {error}"}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        stopped_by, text = self._watch(reading)
        if stopped_by:
            self._kill()
        os.waitpid(self.reaper, 0)
        procfs.kill_descendants(os.getpid())
        answer = json.loads(text) if text else {}
        if not stopped_by and self._left_too_much():
            stopped_by = "memory"
        if not stopped_by:
            of_signal = {signal.SIGXCPU: "cpu", signal.SIGXFSZ: "files"}
            stopped_by = self._written_too_much(last=True) or of_signal.get(answer.get("signal"), "")
        if not answer and not stopped_by:
            stopped_by = "reaper killed"
        return {
            **answer,
            "stopped_by": stopped_by,
            "peak_rss_bytes": max(answer.get("peak_rss_bytes", 0), self.held_peak),
            "tree_peak_rss_bytes": self.tree_peak,
            "most_processes": self.most,
        }

    def _enter_namespaces(self) -> None:
        """Enters namespaces of the run's own: processes, IPC objects, temporary files and, but for builds, the folder."""
        kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
        try:
            kernel.unshare(kernel.CLONE_NEWIPC)
            self.own_ipc = True
            if os.path.isdir("/dev/mqueue"):  # what is mounted there belongs to an outer namespace
                kernel.mount("mqueue", "/dev/mqueue", "mqueue", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        except OSError:
            pass  # what is there stays read-only, and the supervisor removes what the run leaves in its namespace
        # Room for a little more than the limit, so that a breach is seen.
        size = int(self.limits["file_bytes"] * 1.05) + (1 << 20)
        for folder in filter(os.path.isdir, TEMPORARY):
            cover(folder, self.supervisor.keep, f"size={size},nr_inodes=65536,mode=1777")
            self.room.append(folder)
        if not self.building:
            kernel.remount(self.supervisor.folder, kernel.MS_RDONLY)
            owner = (
                f",uid={self.supervisor.user},gid={self.supervisor.user}" if self.supervisor.user is not None else ""
            )
            flags = kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("tmpfs", self.cwd, "tmpfs", flags, f"size={size},nr_inodes=65536,mode=700{owner}")
            self.room.append(self.cwd)

    def _shared_memory(self) -> procfs.SharedMemory:
        """Returns what finds the run's memory that no resident size shows."""
        folder = "/dev/shm" if "/dev/shm" in self.room else None
        if self.own_ipc:
            return procfs.SharedMemory(folder, None)
        known = [each["id"] for each in procfs.sysv_objects("shm")]
        user = self.supervisor.user
        return procfs.SharedMemory(folder, os.getuid() if user is None else user, known)

    def _left_too_much(self) -> bool:
        """Returns whether shared memory that outlived the program's processes is more than the limit on memory."""
        left = self.shared.unmapped_bytes([])
        self.held_peak = max(self.held_peak, left)
        self.tree_peak = max(self.tree_peak, left)
        return left > self.limits["memory_bytes"]

    def _watch(self, reading: int) -> tuple[str, bytes]:
        """Waits for the reaper's answer; returns the limit that was broken, or "", and the answer."""
        started = time.monotonic()
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        while True:
            if poll.poll(_POLL_S * 1000):
                return "", os.read(reading, 1 << 16)
            now = time.monotonic()
            usage = procfs.tree_usage(self.reaper)
            unmapped = self.shared.unmapped_bytes(usage.pids)
            if unmapped:
                self.held_peak = max(self.held_peak, usage.largest_bytes + unmapped)
            self.tree_peak = max(self.tree_peak, usage.resident_bytes + unmapped)
            self.most = max(self.most, usage.tasks)
            if now - started > self.limits["wall_s"]:
                return "wall", b""
            if usage.cpu_s > self.limits["cpu_s"]:
                return "cpu", b""
            if usage.resident_bytes + unmapped > self.limits["memory_bytes"]:
                return "memory", b""
            if usage.tasks > self.limits["processes"]:
                return "processes", b""
            if broken := self._written_too_much():
                return broken, b""

    def _written_too_much(self, last: bool = False) -> str:
        """Returns the limit on what is written that is broken, or ""."""
        if max(os.fstat(file).st_size for file in self.files[1:]) > self.limits["output_bytes"]:
            return "output"
        total = 0
        for folder in self.room:
            status = os.statvfs(folder)
            total += (status.f_blocks - status.f_bfree) * status.f_frsize
        if self.cwd not in self.room and (last or time.monotonic() - self.disk_seen > _DISK_POLL_S):
            self.disk_seen = time.monotonic()
            total += folder_bytes(self.cwd, self.disk_seen + _DISK_POLL_S)
        return "files" if total > self.limits["file_bytes"] else ""

    def _kill(self) -> None:
        if not self.supervisor.apart:
            procfs.kill_descendants(self.reaper)
        try:
            os.kill(self.reaper, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Reaper:
    """Starts the program of one run and collects all that comes of it."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    def run(self) -> dict[str, Any]:
        """Runs the program to its end and returns what its processes used."""
        kernel.die_with_parent()
        kernel.adopt_orphans()
        if self.watcher.supervisor.apart:
            kernel.unshare(kernel.CLONE_NEWNS)  # the watcher needs the outer /proc
            try:
                kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
            except OSError:
                pass  # containers forbid it; then the outer /proc shows, where numbers of processes are not ours
        program = self._start()
        started = time.perf_counter()
        os.write(self.gate, b"\n")
        ended: dict[int, resource.struct_rusage] = {}
        answer: dict[str, Any] = {}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG if answer else 0)
            except ChildProcessError:
                break
            if pid == 0:
                self._end_the_rest()
                time.sleep(0.001)
                continue
            ended[pid] = usage
            if pid == program:
                answer = {
                    "wall_s": time.perf_counter() - started,
                    "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
                    "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
                }
        return {
            **answer,
            "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in ended.values()),
            "peak_rss_bytes": max(usage.ru_maxrss for usage in ended.values()) * 1024,
            "left_behind": len(ended) - 1,
        }

    def _start(self) -> int:
        """Starts the shell that starts the program; returns the program's number. It waits at `gate`."""
        number, number_end = os.pipe()
        gate_end, self.gate = os.pipe()
        shell = os.fork()
        if shell == 0:
            try:
                self._become_program([*self.watcher.files, number_end, gate_end])
            except OSError as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(127)
        os.close(number_end)
        status = os.waitpid(shell, 0)[1]
        answer = os.read(number, 32)
        if status or not answer:
            raise OSError(f"/bin/sh ended with status {status}")
        return int(answer)

    def _end_the_rest(self) -> None:
        """Kills what the program left behind; it becomes this process's child, whose end the loop waits for."""
        if self.watcher.supervisor.apart:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            procfs.signal_descendants(os.getpid())

    def _become_program(self, files: Sequence[int]) -> None:
        watcher = self.watcher
        limits = watcher.limits
        os.setsid()
        os.chdir(watcher.cwd)
        # All other descriptors close themselves on exec. First out of the way of the numbers that they are to have.
        aside = [os.dup2(each, 100 + place, inheritable=False) for place, each in enumerate(files)]
        stdin, stdout, stderr, result, number, gate = aside
        null = os.open(os.devnull, os.O_RDWR)
        wanted = (null, stdout, stderr, result if watcher.request["result"] else null, stdin, number, gate)
        for place, each in enumerate(wanted):
            os.dup2(each, place)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if memory runs out all the same, the kernel takes this process first
        seconds = math.ceil(limits["cpu_s"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        size = max(limits["file_bytes"], limits["output_bytes"]) + 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not watcher.own_ipc:  # POSIX message queues outlive processes, and nothing lists them
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them, and a child inherits that
        os.umask(0o022)
        user = watcher.supervisor.user
        if user is not None:
            # The limit counts all processes of a user: it is of use only for a user of our own, and root has none.
            resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"] + 1,) * 2)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        kernel.new_session_keyring()
        kernel.no_new_privileges()
        os.execve("/bin/sh", ["sh", "-c", _SHELL, "sh", *watcher.request["argv"]], watcher.request["env"])


def shield_files(keep: Sequence[str], home: str) -> None:
    """Makes every mount read-only but for `keep[0]`, and covers the caller's home and folders closed to other users.

    Args:
        keep: Paths that stay where they are, also below a covered folder.
        home: Folder of the caller.
    """
    kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    kernel.mount(keep[0], keep[0], None, kernel.MS_BIND)
    for point, flags in list(kernel.mount_flags()):
        try:
            if point != keep[0]:
                kernel.remount(point, flags | kernel.MS_RDONLY)
        except OSError:
            if point == "/":
                raise
    covers = {os.path.realpath(home), *filter(None, map(closed_ancestor, keep))} - {"/"}
    for each in sorted(covers):
        # Temporary folders are covered anew for each run; what lies below a folder that is covered already is not there.
        if os.path.isdir(each) and not any(is_below(each, other) for other in (*TEMPORARY, *(covers - {each}))):
            cover(each, keep, "size=1m,mode=755")
            kernel.remount(each, kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_RDONLY)


def cover(folder: str, keep: Sequence[str], options: str) -> None:
    """Mounts an empty file system in memory over a folder, and puts back what is to be kept below it."""
    held = [
        (path, os.path.isdir(path), os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in keep if is_below(path, folder)
    ]
    kernel.mount("tmpfs", folder, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for path, is_folder, file in held:
        if not os.path.exists(path):
            umask = os.umask(0o022)
            os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
            if not is_folder:
                open(path, "x").close()
            os.umask(umask)
        kernel.mount(f"/proc/self/fd/{file}", path, None, kernel.MS_BIND | kernel.MS_REC)
        os.close(file)


def closed_ancestor(path: str) -> str | None:
    """Returns the topmost folder above a path that other users may not pass, or None."""
    parts = os.path.realpath(path).split("/")[1:-1]
    for length in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:length])
        if not os.stat(folder).st_mode & stat.S_IXOTH:
            return folder
    return None


def is_below(path: str, folder: str) -> bool:
    """Returns whether a path lies in a folder or is it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _kernel_version() -> tuple[int, ...]:
    """Returns the first two numbers of the kernel's version."""
    numbers = [part for part in os.uname().release.replace("-", ".").split(".")[:2] if part.isdigit()]
    return tuple(map(int, numbers))


def folder_bytes(folder: str, until: float) -> int:
    """Returns the bytes of the files in a folder, walked until a time on the monotonic clock."""
    total = 0
    queue = [folder]
    while queue and time.monotonic() < until:
        try:
            with os.scandir(queue.pop()) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            queue.append(entry.path)
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                    except OSError:
                        continue
        except OSError:
            continue
    return total


if __name__ == "__main__":
    main()
