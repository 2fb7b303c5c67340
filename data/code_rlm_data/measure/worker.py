"""One worker: a folder, a core, and a supervisor that builds and runs programs in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from code_rlm_data.measure.onnx_files import copy_model
from code_rlm_data.measure.programs import BUILD_LIMITS, Limits, MeasureError, Program
from code_rlm_data.measure.toolchains import TOOLCHAINS, Toolchain, base_python

# Above the users that distributions hand out, below those that systemd draws.
_USERS = range(61100, 61184)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HERE = Path(__file__).resolve().parent
_KEPT_OUTPUT = 2000


@dataclass(frozen=True)
class Usage:
    """What one run did and used.

    Attributes:
        exit_code: Exit status; None where a signal or a limit ended it.
        signal: Number of the signal that ended it, or None.
        stopped_by: The limit that was broken ("wall", "cpu", "memory", "processes", "output", "files"), or "reaper killed"
            and the like where a program killed a process that watches it, or "".
        wall_s: From the start of the shell that starts the program (about 1 ms) to the program's end.
        cpu_s: User and system time of all its processes.
        peak_rss_bytes: Largest resident size of any of its processes, by the kernel's accounting. Where the program holds
            shared memory that no process has mapped (memfd, System V, /dev/shm), the largest size with that, seen every 10 ms.
        tree_peak_rss_bytes: Largest sum over its processes with such memory, seen every 10 ms; 0 for runs that are shorter.
        left_behind: Processes that the program had not waited for.
        stdout, stderr: What it printed, at most a little more than the limit.
        result: What a driver wrote.
    """

    exit_code: int | None = None
    signal: int | None = None
    stopped_by: str = ""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_bytes: int = 0
    tree_peak_rss_bytes: int = 0
    most_processes: int = 0
    left_behind: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    result: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether it ended by itself with status 0."""
        return self.exit_code == 0 and not self.stopped_by

    @property
    def outcome(self) -> str:
        """Outcome of the schema, of a run whose output is right."""
        if self.stopped_by in ("wall", "cpu"):
            return "timeout"
        return "ok" if self.ok else "runtime_error"

    def describe(self) -> str:
        """Returns in words what went wrong, and the end of what was printed, to standard error if anything was."""
        if self.stopped_by:
            what = f"stopped by {self.stopped_by}"
        elif self.signal is not None:
            what = f"signal {self.signal}"
        else:
            what = f"exit status {self.exit_code}"
        printed = (self.stderr.strip() or self.stdout.strip())[-_KEPT_OUTPUT:].decode("utf-8", "replace")
        return f"{what}: {printed}" if printed else what


class Worker:
    """Builds and runs programs in a folder of its own, pinned to a core. A context manager.

    Args:
        folder: Folder to work in; it is emptied.
        core: Core that compilers and programs are pinned to.
        keep: Paths that programs need, wherever they lie.
        namespaces: False to do without.
    """

    def __init__(self, folder: Path, core: int, *, keep: Sequence[str] = (), namespaces: bool = True) -> None:
        self.folder = folder.resolve()
        self.core = core
        self.namespaces = namespaces
        self.keep = [str(_HERE), sys.base_prefix, sys.base_exec_prefix, base_python(), *keep]
        self._stopped = False
        self.user: int | None = None
        self._user_lock: socket.socket | None = None
        self.supervisor: subprocess.Popen | None = None
        self.isolation: dict[str, Any] = {}

    def __enter__(self) -> Worker:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, mode in (("", 0o711), ("build", 0o755), ("run", 0o755), ("cache", 0o755), ("io", 0o700)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(mode)
        if os.geteuid() == 0:
            self.user, self._user_lock = _take_user()
        self._open()
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()
        if self._user_lock is not None:
            self._user_lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _open(self) -> None:
        self.supervisor = subprocess.Popen(
            [base_python(), "-I", "-S", "-B", str(_HERE / "supervisor.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        request = {
            "folder": str(self.folder),
            "core": self.core,
            "user": self.user,
            "keep": self.keep,
            "namespaces": self.namespaces,
        }
        answer = self._ask(request)
        if answer is None:
            raise MeasureError(f"the process that runs programs in {self.folder} did not start; its errors are above")
        self.isolation = answer

    def _close(self) -> None:
        if self.supervisor is not None:
            for pipe in (self.supervisor.stdin, self.supervisor.stdout):
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
            self.supervisor.wait()
            self.supervisor = None

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Sends a line and reads the answer; None where the supervisor is gone."""
        try:
            self.supervisor.stdin.write(json.dumps(request) + "\n")
            self.supervisor.stdin.flush()
            line = self.supervisor.stdout.readline()
        except BrokenPipeError:
            return None
        return json.loads(line) if line else None

    def run(
        self,
        command: Sequence[str],
        limits: Limits,
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        building: bool = False,
        result: bool = False,
    ) -> Usage:
        """Runs a command, in `build` with that folder to be written, or in an empty folder that is gone afterwards.

        Args:
            command: Words, as in `Toolchain`.
            limits: What it may use.
            stdin: What it reads.
            environment: Variables besides PATH, HOME and LANG.
            building: Whether to run in `build`.
            result: Whether it may write a result to file descriptor 3.
        """
        argv = self.fill(command, limits)
        io = self.folder / "io"
        (io / "stdin").write_bytes(stdin.encode("utf-8"))
        home = str(self.folder / ("cache" if building else "run"))
        request = {
            "argv": argv,
            "env": {"PATH": _search_path(argv[0]), "HOME": home, "LANG": "C.UTF-8", **(environment or {})},
            "cwd": "build" if building else "run",
            "limits": asdict(limits),
            "result": result,
        }
        answer = self._ask(request)
        if answer is None:  # only a program that runs without namespaces gets so far
            self._close()
            if not self._stopped:
                self._open()
            answer = {"stopped_by": "supervisor killed"}
        if "failed" in answer:
            raise MeasureError(f"{argv[0]} could not be run in {self.folder}: {answer['failed']}")
        if not building and not self.isolation["namespaces"]:
            _empty(self.folder / "run")
        for name in ("stdout", "stderr", "result"):
            with (io / name).open("rb") as file:
                answer[name] = file.read(limits.output_bytes + 1)
        return Usage(**answer)

    def fill(self, command: Sequence[str], limits: Limits) -> list[str]:
        """Returns a command with its places filled in and its first word as a path."""
        places = {
            "{build}": str(self.folder / "build"),
            "{python}": base_python(),
            "{own_python}": sys.executable,
            "{memory_mb}": str(int(limits.memory_bytes) >> 20),
        }
        words = []
        for word in command:
            for place, text in places.items():
                word = word.replace(place, text)
            words.append(find_tool("tsc") if word == "{tsc}" else word)
        return [words[0] if os.path.isabs(words[0]) else find_tool(words[0]), *words[1:]]

    def build(self, program: Program, limits: Limits = BUILD_LIMITS) -> Usage | None:
        """Puts a program's source into `build`, emptied, and build it; None where there is nothing to build."""
        tools = TOOLCHAINS[program.language].of(program.text)
        _empty(self.folder / "build")
        if program.file:
            try:
                copy_model(program.file, self.folder / "build" / tools.source)
            except (MeasureError, OSError) as error:
                return Usage(exit_code=1, stderr=str(error).encode())
        else:
            self.write(tools.source, program.text)
        if not tools.build:
            return None
        usage = self.run(tools.build, limits, environment=tools.environment, building=True)
        if usage.ok and not (self.folder / "build" / tools.artifact).exists():
            # Of no class with that name, for one: this program cannot be measured, others can.
            reason = f"{' '.join(tools.build)} ended well and left no {tools.artifact}"
            return Usage(exit_code=1, stderr=reason.encode())
        return usage

    def build_each(self, programs: Sequence[Program], limits: Limits = BUILD_LIMITS) -> Iterator[Usage | None]:
        """Builds programs of one language; yields what came of each while it lies in `build`.

        With a batch command all are built at once first, and only those that it leaves unbuilt one by one.
        """
        tools = TOOLCHAINS[programs[0].language]
        built: dict[int, Path] = {}
        if tools.batch and len(programs) > 1:
            built = self._build_batch(tools, programs, limits)
        for number, program in enumerate(programs):
            if number not in built:
                yield self.build(program, limits)
                continue
            _empty(self.folder / "build")
            for entry in os.scandir(built[number]):
                os.rename(entry.path, self.folder / "build" / entry.name)
            yield Usage(exit_code=0)
        shutil.rmtree(self.folder / "batch", ignore_errors=True)

    def _build_batch(self, tools: Toolchain, programs: Sequence[Program], limits: Limits) -> dict[int, Path]:
        """Builds programs in subfolders of `build`, and moves those that worked to `batch`: number to folder."""
        build = self.folder / "build"
        batch = self.folder / "batch"
        _empty(build)
        shutil.rmtree(batch, ignore_errors=True)
        batch.mkdir()
        names = [str(number) for number in range(len(programs))]
        for name, program in zip(names, programs):
            (build / name).mkdir()
            (build / name).chmod(0o777)  # the compiler may run as a user of its own
            self.write(f"{name}/{tools.of(program.text).source}", program.text)
        many = replace(limits, wall_s=limits.wall_s * len(names), cpu_s=limits.cpu_s * len(names))
        self.run([*tools.batch, *names], many, environment=tools.environment, building=True)
        built = [
            name
            for name, program in zip(names, programs, strict=True)
            if (build / name / tools.of(program.text).artifact).is_file()
        ]
        for name in built:
            os.rename(build / name, batch / name)
        return {int(name): batch / name for name in built}

    def kill(self) -> None:
        """Ends the supervisor and all that it runs at once; for another thread."""
        self._stopped = True
        if self.supervisor is not None:
            self.supervisor.kill()

    def write(self, name: str, text: str) -> None:
        """Puts a file beside the program."""
        path = self.folder / "build" / name
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        path.chmod(0o644)


def _take_user() -> tuple[int, socket.socket]:
    """Returns a user id that no other worker of this machine has, and what holds it: the kernel counts processes by user."""
    for user in _USERS:
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(f"\0code-rlm-measure-user-{user}")  # gone with the process, however that ends
        except OSError:
            lock.close()
            continue
        return user, lock
    raise MeasureError(f"all {len(_USERS)} user ids of workers are taken on this machine")


def _empty(folder: Path) -> None:
    """Deletes all in a folder, whatever rights it has taken from itself."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, onerror=_open_and_retry)
        else:
            os.unlink(entry.path)


def _open_and_retry(function: Any, path: str, _: Any) -> None:
    os.chmod(os.path.dirname(path), 0o700)
    if os.path.isdir(path) and not os.path.islink(path):
        os.chmod(path, 0o700)
    function(path) if function is not os.open else shutil.rmtree(path, ignore_errors=True)


@lru_cache(maxsize=256)
def find_tool(name: str) -> str:
    """Returns the path of a tool. The one behind a proxy of rustup, which needs its home folder.

    Raises:
        MeasureError: It is not on the PATH.
    """
    found = shutil.which(name)
    if found is None:
        package = next((each.package for each in TOOLCHAINS.values() if name in each.tools()), name)
        raise MeasureError(f"{name} is not on the PATH; on Debian: apt-get install {package}")
    if os.path.basename(os.path.realpath(found)) == "rustup":
        found = subprocess.run(
            [os.path.realpath(found), "which", name], capture_output=True, text=True, check=True
        ).stdout.strip()
    return os.path.abspath(found)


def tool_prefixes(toolchains: Sequence[Toolchain]) -> list[str]:
    """Returns the folders that hold the tools of some languages and what comes with them, besides the system's own."""
    prefixes = []
    for tools in toolchains:
        for tool in tools.tools():
            for path in (find_tool(tool), os.path.realpath(find_tool(tool))):
                prefixes.append(os.path.dirname(os.path.dirname(path)))
        if tools.modules:
            prefixes += [sys.prefix, *(os.path.abspath(path) for path in sys.path if os.path.isdir(path))]
    return sorted({each for each in prefixes if each not in ("/", "/usr", "/usr/local")})


def _search_path(tool: str) -> str:
    folder = os.path.dirname(tool)
    return _PATH if folder in _PATH.split(":") or not os.path.isabs(tool) else f"{folder}:{_PATH}"


@lru_cache(maxsize=64)
def version_of(language: str) -> str:
    """Returns the first line that the version command of a language prints."""
    tools = TOOLCHAINS[language]
    places = {"{python}": base_python(), "{own_python}": sys.executable}
    command = [places.get(tools.version[0]) or find_tool(tools.version[0]), *tools.version[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    printed = (done.stdout.strip() or done.stderr.strip()).splitlines()
    if done.returncode or not printed:
        raise MeasureError(
            f"{' '.join(tools.version)} failed with status {done.returncode}: {done.stderr.strip()[:200]}"
        )
    return printed[0].strip()


__all__ = ["Usage", "Worker", "find_tool", "tool_prefixes", "version_of"]
