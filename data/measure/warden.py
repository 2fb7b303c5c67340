"""Runs other people's programs one after the other and says what they used. A program of its own: standard library only.

    python -I -S -B warden.py        # one JSON object a line on standard input, one answer a line on standard output

The first line opens the warden, every other line is a run. Four processes stand between the caller and a program, each the
guard of the next:

    caller ── warden ── monitor ── keeper ── program and all that it starts
              lives on   one run   one run

* The *warden* holds the namespaces that all runs share: no network, a read-only file system, private /tmp.
* The *monitor* watches clock, memory, processes, output and disk from outside, and kills.
* The *keeper* is process 1 of the run's own process namespace. Whatever the program leaves behind becomes its child, so it
  sees the end and the resources of every process, and takes them all with it when it ends. It does nothing but wait, so
  as not to take time from what is measured.

The kernel hands a process's largest resident size on from fork() through exec(), so that a child of a large parent seems
large. So the keeper starts /bin/sh, which starts the program and ends; the program is then the child of a process of less
than 1 MiB, and as an orphan it comes back to the keeper, whose wait4() is told what it used.

Where the kernel gives no namespaces the same processes do what they can without, and the answer to the first line says so.
"""

import json
import math
import os
import resource
import select
import signal
import stat
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import kernel

# 3 is the results of a driver, 4 standard input, 5 takes the program's number, 6 is the gate. A shell gives background jobs no
# standard input. The program waits at the gate until the shell has ended: a shell that still lives would collect it.
_SHELL = '{ read _ <&6; exec "$@" <&4 4<&- 5>&- 6<&-; } & echo $! >&5'
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
_POLL_S = 0.01
_DISK_POLL_S = 0.2
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle: it closes our standard input
    os.umask(0o077)
    kernel.die_with_parent()
    kernel.adopt_orphans()
    warden = None
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if warden is None:
            warden = Warden(request)
            answer = warden.isolation
        else:
            answer = warden.run(request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    if warden is not None:
        kill_descendants(os.getpid())


class Warden:
    """Holds what the runs share.

    Args (of the first line):
        folder: Folder of this worker with `build`, `run`, `cache` and `io` in it.
        core: Core that everything is pinned to.
        user: User id to run programs as where the caller is root, or null.
        keep: Paths that programs must be able to read wherever they are.
        namespaces: False to do without, as on kernels that give none.
    """

    def __init__(self, request):
        self.folder = os.path.realpath(request["folder"])
        self.keep = [self.folder, *(os.path.realpath(path) for path in request["keep"] if os.path.exists(path))]
        self.user = None
        self.apart = False
        self.isolation = {"namespaces": False, "network": False, "user": False, "notes": []}
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

    def _isolate(self):
        """Enter namespaces without network and with a file system that only the worker's folder can be written in."""
        me, group = os.getuid(), os.getgid()
        kernel.unshare(
            kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | (kernel.CLONE_NEWUSER if me else 0)
        )
        self.isolation["network"] = True
        if me:
            for name, text in (("setgroups", "deny"), ("uid_map", f"{me} {me} 1"), ("gid_map", f"{group} {group} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
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

    def run(self, request):
        """One run: fork a monitor, and read its answer. A monitor that was killed gives none."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                kernel.die_with_parent()
                kernel.adopt_orphans()
                answer = Monitor(self, request).run()
                with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                    json.dump(answer, pipe)
                status = 0
            except Exception as error:
                with os.fdopen(writing, "w", encoding="utf-8") as pipe:
                    json.dump({"failed": f"monitor: {type(error).__name__}: {error}"}, pipe)
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        kill_descendants(os.getpid())
        return json.loads(text) if text else {"stopped_by": "monitor killed"}


class Monitor:
    """Watches one run.

    Args (of a line):
        argv: Command; the first word is a path.
        env: The whole environment.
        cwd: "run" or "build". In a build the folder `build` can be written, otherwise only `run` can.
        limits: The fields of `Limits`.
        result: Whether the program may write to `io/result` through file descriptor 3.
    """

    def __init__(self, warden, request):
        self.warden, self.request, self.limits = warden, request, request["limits"]
        self.building = request["cwd"] == "build"
        self.cwd = os.path.join(warden.folder, request["cwd"])
        self.disk_seen = 0.0
        self.room = []  # file systems in memory that the run can write

    def run(self):
        inside = {
            name: os.path.join(self.warden.folder, "io", name) for name in ("stdin", "stdout", "stderr", "result")
        }
        self.files = [os.open(inside["stdin"], os.O_RDONLY | os.O_CLOEXEC)]
        for name in ("stdout", "stderr", "result"):
            self.files.append(
                os.open(inside[name], os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            )
        if self.warden.apart:
            self._enter_namespaces()
        reading, writing = os.pipe()
        self.keeper = os.fork()
        if self.keeper == 0:
            os.close(reading)
            try:
                answer = Keeper(self).run()
            except Exception as error:
                answer = {"failed": f"keeper: {type(error).__name__}: {error}"}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        stopped_by, text = self._watch(reading)
        if stopped_by:
            self._kill()
        os.waitpid(self.keeper, 0)
        kill_descendants(os.getpid())
        answer = json.loads(text) if text else {}
        if not stopped_by:
            of_signal = {signal.SIGXCPU: "cpu", signal.SIGXFSZ: "files"}
            stopped_by = self._written_too_much(last=True) or of_signal.get(answer.get("signal"), "")
        if not answer and not stopped_by:
            stopped_by = "keeper killed"
        return {**answer, "stopped_by": stopped_by, "tree_peak_rss_bytes": self.tree_peak, "most_processes": self.most}

    def _enter_namespaces(self):
        """Processes of its own; fresh folders for temporary files; and, but for builds, a fresh working folder."""
        kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS)
        # Room for a little more than the limit, so that a breach is seen.
        size = int(self.limits["file_bytes"] * 1.05) + (1 << 20)
        for folder in filter(os.path.isdir, TEMPORARY):
            cover(folder, self.warden.keep, f"size={size},nr_inodes=65536,mode=1777")
            self.room.append(folder)
        if not self.building:
            kernel.remount(self.warden.folder, kernel.MS_RDONLY)
            owner = f",uid={self.warden.user},gid={self.warden.user}" if self.warden.user is not None else ""
            flags = kernel.MS_NOSUID | kernel.MS_NODEV
            kernel.mount("tmpfs", self.cwd, "tmpfs", flags, f"size={size},nr_inodes=65536,mode=700{owner}")
            self.room.append(self.cwd)

    def _watch(self, reading):
        """Wait for the keeper's answer: (the limit that was broken or "", the answer)."""
        started = time.monotonic()
        self.tree_peak = self.most = 0
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        while True:
            if poll.poll(_POLL_S * 1000):
                return "", os.read(reading, 1 << 16)
            now = time.monotonic()
            resident, processes, cpu_s = tree_usage(self.keeper)
            self.tree_peak, self.most = max(self.tree_peak, resident), max(self.most, processes)
            if now - started > self.limits["wall_s"]:
                return "wall", b""
            if cpu_s > self.limits["cpu_s"]:
                return "cpu", b""
            if resident > self.limits["memory_bytes"]:
                return "memory", b""
            if processes > self.limits["processes"]:
                return "processes", b""
            if broken := self._written_too_much():
                return broken, b""

    def _written_too_much(self, last=False):
        """Which limit on what is written is broken, or ""."""
        if max(os.fstat(file).st_size for file in self.files[1:]) > self.limits["output_bytes"]:
            return "output"
        total = 0
        for folder in self.room:
            found = os.statvfs(folder)
            total += (found.f_blocks - found.f_bfree) * found.f_frsize
        if self.cwd not in self.room and (last or time.monotonic() - self.disk_seen > _DISK_POLL_S):
            self.disk_seen = time.monotonic()
            total += folder_bytes(self.cwd, self.disk_seen + _DISK_POLL_S)
        return "files" if total > self.limits["file_bytes"] else ""

    def _kill(self):
        if not self.warden.apart:
            kill_descendants(self.keeper)
        try:
            os.kill(self.keeper, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Keeper:
    """Starts the program of one run and collects all that comes of it."""

    def __init__(self, monitor):
        self.monitor = monitor

    def run(self):
        kernel.die_with_parent()
        kernel.adopt_orphans()
        if self.monitor.warden.apart:
            kernel.unshare(kernel.CLONE_NEWNS)  # the monitor needs the outer /proc
            try:
                kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
            except OSError:
                pass  # containers forbid it; then the outer /proc shows, where numbers of processes are not ours
        program = self._start()
        started = time.perf_counter()
        os.write(self.gate, b"\n")
        ended, answer = {}, {}
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

    def _start(self):
        """Start the shell that starts the program, and return the program's number. It waits at `gate`."""
        number, number_end = os.pipe()
        gate_end, self.gate = os.pipe()
        shell = os.fork()
        if shell == 0:
            try:
                self._become_program([*self.monitor.files, number_end, gate_end])
            except OSError as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(127)
        os.close(number_end)
        status = os.waitpid(shell, 0)[1]
        answer = os.read(number, 32)
        if status or not answer:
            raise OSError(f"/bin/sh ended with status {status}")
        return int(answer)

    def _end_the_rest(self):
        """Kill what the program left behind; it comes to us as orphans, whose end the loop waits for."""
        if self.monitor.warden.apart:
            try:
                os.kill(-1, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            signal_descendants(os.getpid())

    def _become_program(self, files):
        monitor, limits = self.monitor, self.monitor.limits
        os.setsid()
        os.chdir(monitor.cwd)
        # All other descriptors close themselves on exec. First out of the way of the numbers that they are to have.
        aside = [os.dup2(each, 100 + place, inheritable=False) for place, each in enumerate(files)]
        stdin, stdout, stderr, result, number, gate = aside
        null = os.open(os.devnull, os.O_RDWR)
        wanted = (null, stdout, stderr, result if monitor.request["result"] else null, stdin, number, gate)
        for place, each in enumerate(wanted):
            os.dup2(each, place)
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")  # if memory runs out all the same, the kernel takes this process first
        seconds = math.ceil(limits["cpu_s"])
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        size = max(limits["file_bytes"], limits["output_bytes"]) + 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # Python ignores them, and a child inherits that
        os.umask(0o022)
        user = monitor.warden.user
        if user is not None:
            # The limit counts all processes of a user: it is of use only for a user of our own, and root has none.
            resource.setrlimit(resource.RLIMIT_NPROC, (limits["processes"] + 1,) * 2)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        kernel.no_new_privileges()
        os.execve("/bin/sh", ["sh", "-c", _SHELL, "sh", *monitor.request["argv"]], monitor.request["env"])


def shield_files(keep, home):
    """Make every mount read-only but for `keep[0]`, and cover the caller's home and folders closed to other users.

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


def cover(folder, keep, options):
    """Mount an empty file system in memory over a folder, and put back what is to be kept below it."""
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


def closed_ancestor(path):
    """The topmost folder above a path that other users may not pass, or None."""
    parts = os.path.realpath(path).split("/")[1:-1]
    for length in range(1, len(parts) + 1):
        folder = "/" + "/".join(parts[:length])
        if not os.stat(folder).st_mode & stat.S_IXOTH:
            return folder
    return None


def is_below(path, folder):
    """Whether a path lies in a folder or is it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def children_of(pid):
    """Numbers of a process's children, as this process's /proc has them."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/task") and not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
            found = [number for number, parent in _parents() if parent == pid]
    return found


def _parents():
    """Yield (process, its parent) by reading all of /proc: kernels without CONFIG_PROC_CHILDREN."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    yield int(name), int(file.read().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue


def descendants_of(pid):
    """Numbers of all processes below one."""
    found, queue = [], [pid]
    while queue:
        for child in children_of(queue.pop()):
            found.append(child)
            queue.append(child)
    return found


def tree_usage(pid):
    """(Resident bytes, processes and threads, processor seconds) of all living processes below one.

    Pages that processes share count in each of them.
    """
    resident = tasks = 0
    ticks = 0
    for each in descendants_of(pid):
        try:
            with open(f"/proc/{each}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
        tasks += int(fields[17])
        resident += int(fields[21])
    return resident * _PAGE, tasks, ticks / _TICK


def signal_descendants(pid):
    """Kill all processes below one, stopped first so that they start no more; how many there were."""
    found = descendants_of(pid)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for each in found:
            try:
                os.kill(each, number)
            except (ProcessLookupError, PermissionError):
                continue
    return len(found)


def kill_descendants(pid):
    """Kill all processes below one until none is left, and reap those that are this process's."""
    for _ in range(1000):
        found = signal_descendants(pid)
        if pid == os.getpid():
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
        if not found:
            return
        time.sleep(0.001)


def folder_bytes(folder, until):
    """Bytes of the files in a folder, walked until a time on the monotonic clock."""
    total, queue = 0, [folder]
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
