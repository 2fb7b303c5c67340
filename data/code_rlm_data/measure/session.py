"""From programs to a table: workers, a journal from which a killed run goes on, and the parquet file at the end."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import queue
import shutil
import statistics
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from code_rlm.data.schema import FEATURES, Example, to_dataset, validate
from code_rlm_data import __version__
from code_rlm_data.measure.observers import (
    DEFAULT_METRICS,
    IDLE_METRIC,
    METRICS_OF,
    PAPER_PROTOCOL,
    Observer,
    Plan,
    Protocol,
    observers_of,
)
from code_rlm_data.measure.programs import BUILD_LIMITS, RUN_LIMITS, Limits, MeasureError, Program
from code_rlm_data.measure.toolchains import TOOLCHAINS
from code_rlm_data.measure.worker import Usage, Worker, tool_prefixes, version_of

logger = logging.getLogger(__name__)

TABLE = "data.parquet"
_BATCH = 32
_LINE_EVERY_S = 30


@dataclass
class Result:
    """What came of one program.

    Attributes:
        outcome: One of the schema's.
        numbers: Metric to all its numbers.
        detail: What went wrong, in words.
    """

    outcome: str
    numbers: dict[str, list[float]] = field(default_factory=dict)
    detail: str = ""


@dataclass
class _Unit:
    """Programs of one text: built once, run with every input."""

    programs: list[tuple[str, Program]]

    @property
    def first(self) -> Program:
        return self.programs[0][1]


def measure_programs(
    programs: Iterable[Program],
    out: str | os.PathLike,
    *,
    limits: Limits = RUN_LIMITS,
    repeats: int | None = None,
    workers: int = 1,
    metrics: Sequence[str] | None = None,
    resume: bool = True,
    build_limits: Limits = BUILD_LIMITS,
    protocol: Protocol = PAPER_PROTOCOL,
    source: str = "measured",
    namespaces: bool = True,
) -> Path:
    """Measures programs into a table in the schema: a row for each, in their order, whatever came of it.

    `journal.jsonl` of the folder has a line for each measured program with all its numbers and, where it failed, the end of
    its output. Killed and called again with the same programs, it measures the rest.

    Args:
        programs: What to measure. Programs of one text are built once.
        out: Folder for the table and the journal.
        limits: Of each run.
        repeats: Runs of each program; overrides the protocol's.
        workers: Programs measured at once, each pinned to a core of those this process may use.
        metrics: What to measure; by default peak resident size, wall and CPU time, and the idle process's size.
        resume: Go on from the journal; False measures everything anew.
        build_limits: Of each build.
        protocol: How often programs and calls are repeated.
        source: Name for the column of that name.
        namespaces: False to do without the kernel's namespaces.

    Returns:
        Path of the parquet file.

    Raises:
        MeasureError: Nothing to measure, a tool or metric that is not there, other settings than those of the journal,
            or more workers than cores.
    """
    protocol = protocol if repeats is None else replace(protocol, repeats=repeats)
    keyed = _keyed(programs)
    languages = sorted({program.language for _, program in keyed})
    if metrics is None:
        metrics = METRICS_OF.get(languages[0], DEFAULT_METRICS)
        if any(METRICS_OF.get(each, DEFAULT_METRICS) != metrics for each in languages):
            raise MeasureError(
                f"programs in {', '.join(languages)} have no metrics in common by default; name the metrics"
            )
    metrics = tuple(metrics)
    _check(languages, metrics)
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= workers <= len(cores):
        raise MeasureError(
            f"workers must be from 1 to {len(cores)}, the cores that this process may use, got {workers}"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "metrics": list(metrics),
        "limits": asdict(limits),
        "build_limits": asdict(build_limits),
        "protocol": asdict(protocol),
    }
    with _locked(out), _Journal(out, settings, resume) as journal:
        pending = [(key, program) for key, program in keyed if key not in journal.rows]
        options = {"keep": tool_prefixes([TOOLCHAINS[each] for each in languages]), "namespaces": namespaces}
        work = _Work(journal, metrics, limits, build_limits, protocol)
        if pending:
            with Worker(out / ".workers" / "idle", cores[0], **options) as worker:
                _log_isolation(worker.isolation)
                if IDLE_METRIC in metrics:
                    work.measure_idle(worker, sorted({program.language for _, program in pending}))
            try:
                _run_workers(
                    work, _batches(pending), cores[:workers], out / ".workers", options, len(keyed), len(pending)
                )
            finally:
                shutil.rmtree(out / ".workers", ignore_errors=True)
        rows = [_row(program, journal, key, metrics, source) for key, program in keyed]
        return _write_table(rows, out)


def _keyed(programs: Iterable[Program]) -> list[tuple[str, Program]]:
    """Returns the programs with a name for each, the same in every run; equal programs are numbered."""
    seen: Counter[str] = Counter()
    keyed = []
    for program in programs:
        digest = program.digest()
        keyed.append((f"{digest}/{seen[digest]}", program))
        seen[digest] += 1
    if not keyed:
        raise MeasureError("there is no program to measure")
    return keyed


def _check(languages: Sequence[str], metrics: Sequence[str]) -> None:
    """Raises, before anything is run, where a language, tool or metric is not there."""
    if unknown := [each for each in languages if each not in TOOLCHAINS]:
        raise MeasureError(f"no toolchain for {', '.join(unknown)}; there are {', '.join(TOOLCHAINS)}")
    missing = []
    for language in languages:
        tools = TOOLCHAINS[language]
        if tools.missing():
            missing.append(f"{language} needs {', '.join(tools.missing())} ({tools.remedy()})")
    if missing:
        raise MeasureError(f"tools are missing: {'; '.join(missing)}; apt's packages are Debian's")
    if not metrics or len(set(metrics)) != len(metrics):
        raise MeasureError(f"metrics must be names, each once, got {', '.join(metrics) or 'none'}")
    for language in languages:
        observers_of(language, metrics)


def _log_isolation(isolation: Mapping[str, Any]) -> None:
    """Logs what programs cannot reach, and warns of what they can."""
    if isolation["namespaces"] and isolation["network"]:
        logger.info(
            "programs run with their own processes, files and no network%s; this is not a sandbox for hostile code",
            " as a user of their own" if isolation["user"] else "",
        )
    else:
        logger.warning(
            "programs can reach %s: %s. Measure only programs that you trust",
            "your files and processes" if isolation["network"] else "the network, your files and your processes",
            "; ".join(isolation["notes"]),
        )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Keeps a second process from measuring into the same folder."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MeasureError(f"{out}: another process is measuring into this folder") from None
        yield


class _Journal:
    """Lines of JSON, each written and synced at once: rows by key, and idle sizes by language."""

    def __init__(self, out: Path, settings: dict[str, Any], resume: bool) -> None:
        self.path = out / "journal.jsonl"
        self.rows: dict[str, dict[str, Any]] = {}
        self.idle: dict[str, float] = {}
        self._lock = threading.Lock()
        entries = []
        if resume and self.path.exists():
            data = self.path.read_bytes()
            # A process that is killed while it writes leaves half a line.
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                os.truncate(self.path, len(whole))
            entries = [json.loads(line) for line in whole.splitlines()]
        if entries and entries[0]["settings"] != settings:
            before = entries[0]["settings"]
            changed = [name for name, value in settings.items() if before.get(name) != value]
            raise MeasureError(
                f"{out} was measured with other {', '.join(changed)}: {before}. Give another folder, the same "
                "settings, or resume=False (--fresh) to measure everything anew"
            )
        self._file = self.path.open("ab" if entries else "wb")
        if not entries:
            self._write({"settings": settings})
        for entry in entries[1:]:
            self._remember(entry)

    def add(self, **entry: Any) -> None:
        with self._lock:
            self._remember(entry)
            self._write(entry)

    def _remember(self, entry: dict[str, Any]) -> None:
        if "key" in entry:
            self.rows[entry["key"]] = entry
        else:
            self.idle[entry["idle"]] = entry[IDLE_METRIC]

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> _Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()


class _Work:
    """Measures units with a worker and writes them down."""

    def __init__(
        self, journal: _Journal, metrics: Sequence[str], limits: Limits, build_limits: Limits, protocol: Protocol
    ) -> None:
        self.journal = journal
        self.metrics = metrics
        self.limits = limits
        self.build_limits = build_limits
        self.protocol = protocol
        self.hardware = hardware()

    def measure_idle(self, worker: Worker, languages: Sequence[str]) -> None:
        """Measures a program of each language that does nothing."""
        for language in languages:
            if language in self.journal.idle:
                continue
            program = Program(TOOLCHAINS[language].idle, language)
            built = worker.build(program, self.build_limits)
            result = self._measure_built(worker, program, built, ("peak_rss_bytes",))
            if result.outcome != "ok":
                raise MeasureError(f"{language}: not even a program that does nothing runs here: {result.detail}")
            self.journal.add(**{"idle": language, IDLE_METRIC: statistics.median(result.numbers["peak_rss_bytes"])})

    def measure(self, worker: Worker, units: Sequence[_Unit], stop: threading.Event) -> Iterator[str]:
        """Measures units of one language; yields the outcome of each program as it is written down."""
        language = units[0].first.language
        libc = " ".join(platform.libc_ver())
        parts = [version_of(language), libc, f"code-rlm-data {__version__}"]
        versions = "; ".join(part for part in parts if part)
        for unit, built in zip(units, worker.build_each([unit.first for unit in units], self.build_limits)):
            for key, program in unit.programs:
                if stop.is_set():
                    return
                result = self._measure_built(worker, program, built, self.metrics)
                if stop.is_set():  # the run may have been stopped before its end
                    return
                self.journal.add(
                    key=key, name=program.name, **asdict(result), hardware=self.hardware, versions=versions
                )
                yield result.outcome

    def _measure_built(self, worker: Worker, program: Program, built: Usage | None, metrics: Sequence[str]) -> Result:
        """Runs a program for all metrics, if its build, where it has one, ended well."""
        if built is not None and not built.ok:
            return Result("compile_error", detail=built.describe())
        numbers: dict[str, list[float]] = defaultdict(list)
        for plan, observers in self._plans(worker, program, metrics):
            for _ in range(plan.repeats):
                failure = self._run_once(worker, program, plan, observers, numbers)
                if failure is not None:
                    return failure
        return Result("ok", {metric: values for metric, values in numbers.items() if metric in metrics})

    def _plans(self, worker: Worker, program: Program, metrics: Sequence[str]) -> list[tuple[Plan, list[Observer]]]:
        """Returns what to run, each with the observers that read the same runs."""
        tools = TOOLCHAINS[program.language].of(program.text)
        ordinary = Plan((*tools.run, *program.arguments), self.limits, self.protocol.repeats, dict(tools.environment))
        plans: list[tuple[Plan, list[Observer]]] = []
        for observer in observers_of(program.language, metrics):
            plan = observer.before(worker, program, self.limits, self.protocol) or ordinary
            sharing = next((observers for each, observers in plans if each is plan), None)
            if sharing is None:
                plans.append((plan, [observer]))
            else:
                sharing.append(observer)
        return plans

    @staticmethod
    def _run_once(
        worker: Worker, program: Program, plan: Plan, observers: Sequence[Observer], numbers: dict[str, list[float]]
    ) -> Result | None:
        """Runs a program once and adds what its observers read to `numbers`; returns the failure if it did not end well."""
        usage = worker.run(
            plan.command, plan.limits, stdin=program.stdin, environment=plan.environment, result=plan.result
        )
        for observer in observers:
            outcome = observer.outcome(usage)
            if outcome != "ok":
                return Result(outcome, detail=usage.describe())
        if program.expected_stdout is not None and not same_output(usage.stdout, program.expected_stdout):
            return Result("wrong_answer", detail=f"printed {usage.stdout[:200]!r}")
        for observer in observers:
            try:
                values_of = observer.after(usage)
            except MeasureError as error:  # a program can keep its driver from writing
                return Result("runtime_error", detail=str(error))
            for metric, values in values_of.items():
                numbers[metric] += values
        return None


def _batches(pending: Sequence[tuple[str, Program]]) -> list[list[_Unit]]:
    """Returns the programs by text, and texts by what can be built at once, in order."""
    units: dict[tuple[str, str, str], _Unit] = {}
    for key, program in pending:
        units.setdefault((program.language, program.text, program.file), _Unit([])).programs.append((key, program))
    batches: list[list[_Unit]] = []
    open_batch: dict[str, list[_Unit]] = {}
    for (language, _, _), unit in units.items():
        if not TOOLCHAINS[language].batch:
            batches.append([unit])
            continue
        batch = open_batch.get(language)
        if batch is None or len(batch) == _BATCH:
            batch = open_batch[language] = []
            batches.append(batch)
        batch.append(unit)
    return batches


def _run_workers(
    work: _Work,
    batches: Sequence[list[_Unit]],
    cores: Sequence[int],
    folder: Path,
    options: Mapping[str, Any],
    total: int,
    pending: int,
) -> None:
    """Measures all batches with a thread and a worker for each core; the first error of any stops all."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    for batch in batches:
        waiting.put(batch)
    outcomes: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()
    open_workers: dict[int, Worker] = {}

    def serve(number: int, core: int) -> None:
        try:
            with Worker(folder / str(number), core, **options) as worker:
                open_workers[number] = worker
                while not stop.is_set():
                    try:
                        batch = waiting.get_nowait()
                    except queue.Empty:
                        break
                    for outcome in work.measure(worker, batch, stop):
                        outcomes.put(outcome)
        except BaseException as error:
            outcomes.put(error)
        else:
            outcomes.put(None)

    threads = [threading.Thread(target=serve, args=each, daemon=True) for each in enumerate(cores)]
    for thread in threads:
        thread.start()
    counts: Counter[str] = Counter()
    running = len(threads)
    logged = time.monotonic()
    try:
        with tqdm(total=total, initial=total - pending, unit="program", disable=None) as bar:
            while running:
                outcome = outcomes.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome is None:  # a worker has ended
                    running -= 1
                    continue
                counts[outcome] += 1
                bar.update()
                bar.set_postfix(counts, refresh=False)
                if bar.disable and time.monotonic() - logged > _LINE_EVERY_S:
                    logged = time.monotonic()
                    logger.info(
                        "%d of %d programs: %s", total - pending + sum(counts.values()), total, _counted(counts)
                    )
    finally:
        stop.set()
        if running:
            for worker in list(open_workers.values()):
                worker.kill()
        for thread in threads:
            thread.join()


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _row(program: Program, journal: _Journal, key: str, metrics: Sequence[str], source: str) -> Example:
    """Returns the row of a program; of one that failed every value is missing."""
    entry = journal.rows[key]
    values: list[float | None] = []
    for metric in metrics:
        if entry["outcome"] != "ok":
            values.append(None)
        elif metric == IDLE_METRIC:
            values.append(journal.idle[program.language])
        else:
            values.append(statistics.median(entry["numbers"][metric]) if entry["numbers"].get(metric) else None)
    return Example(
        text=program.text,
        language=program.language,
        metrics=list(metrics),
        values=values,
        context=list(program.context),
        group=program.group,
        source=source,
        outcome=entry["outcome"],
        hardware=entry["hardware"],
        versions=entry["versions"],
    )


def _write_table(rows: Sequence[Example], out: Path) -> Path:
    """Writes the table, whole or not at all."""
    dataset = to_dataset(rows)
    report = validate(dataset, source=str(out))
    path = out / TABLE
    new = path.with_suffix(".new")
    pq.write_table(dataset.data.table.cast(FEATURES.arrow_schema), new)
    os.replace(new, path)
    logger.info("%s: %d rows: %s", path, report.rows, _counted(report.outcomes))
    return path


def same_output(printed: bytes, expected: str) -> bool:
    """Returns whether two outputs are the same but for spaces at the ends of lines and of the text."""
    return _stripped_lines(printed.decode("utf-8", "replace")) == _stripped_lines(expected)


def _stripped_lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def hardware() -> str:
    """Returns processor, cores, memory and kernel of this machine."""
    model = platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}; pinned to one core"


__all__ = ["TABLE", "Result", "hardware", "measure_programs", "same_output"]
