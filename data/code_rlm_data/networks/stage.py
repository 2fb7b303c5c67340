"""Builds and measures drawn networks in two processes: one makes files ahead, the other runs them on its core.

The folder holds `measured.jsonl`, a line for each network, and `graphs/SEED.onnx.gz`, the networks without weights. A run that
was interrupted goes on where it ended.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from code_rlm_data.networks.generate import draw_network

_AHEAD = 6  # models that wait to be measured
_MOST_AHEAD_BYTES = 1_500_000_000
_TIMEOUT_S = 300


def measured_rows(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns the rows that a folder holds; a line that was cut off is left out."""
    rows = []
    path = Path(folder, "measured.jsonl")
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def run(
    folder: str | os.PathLike, seeds: Iterable[int], *, core: int | None = None, niceness: int = 0, minutes: float = 1e9
) -> int:
    """Measures networks by their seeds; returns how many were measured now."""
    folder = Path(folder)
    (folder / "graphs").mkdir(parents=True, exist_ok=True)
    done = {row["seed"] for row in measured_rows(folder)}
    waiting = [seed for seed in seeds if seed not in done]
    shared = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=shared, prefix="networks-") as queue:
        maker = multiprocessing.get_context("spawn").Process(
            target=_make, args=(waiting, queue, str(folder)), daemon=True
        )
        maker.start()
        try:
            return _measure(waiting, Path(queue), folder, maker, core, niceness, minutes)
        finally:
            maker.terminate()
            maker.join()


def _measure(
    seeds: list[int], queue: Path, folder: Path, maker: Any, core: int | None, niceness: int, minutes: float
) -> int:
    from code_rlm_data.networks.bench import Bench, hardware, versions  # needs onnxruntime

    bench = Bench(core, niceness)
    began = last = time.monotonic()
    waited = 0.0
    made_by = {"hardware": hardware(), "versions": versions()}
    count = 0
    _end_last_line(folder / "measured.jsonl")
    with (folder / "measured.jsonl").open("a") as results:
        for seed in seeds:
            asked = time.monotonic()
            if asked - began > minutes * 60:
                break
            while not (queue / f"{seed}.json").exists():
                if not maker.is_alive() or time.monotonic() - asked > _TIMEOUT_S:
                    raise RuntimeError(f"the network of seed {seed} was not made; see the messages above")
                time.sleep(0.005)
            waited += time.monotonic() - asked
            row = json.loads((queue / f"{seed}.json").read_text())
            if "error" not in row:
                row |= asdict(bench(queue / f"{seed}.onnx")) | made_by
            results.write(json.dumps(row) + "\n")
            results.flush()
            for suffix in (".onnx", ".json"):
                (queue / f"{seed}{suffix}").unlink(missing_ok=True)
            count += 1
            if time.monotonic() - last > 30:
                last = time.monotonic()
                rate = (last - began) / count
                print(
                    f"{count} measured, {rate:.2f} s each, {waited / (last - began):.0%} of it waited; last: {row['group']} "
                    f"{row.get('latency_ms') or 0:.2f} ms",
                    file=sys.stderr,
                    flush=True,
                )
    return count


def _end_last_line(path: Path) -> None:
    """Ends a line that an interrupted run has cut off, so that the next row has a line of its own."""
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")


def _make(seeds: list[int], queue: str, folder: str) -> None:
    """Writes models into the queue, at most `_AHEAD`; while it is full, keeps their graphs without weights."""
    pending: deque[tuple[int, Any]] = deque()
    for seed in seeds:
        while _full(queue):
            if pending:
                _keep(folder, *pending.popleft())
            else:
                time.sleep(0.01)
        row: dict[str, Any] = {"seed": seed}
        try:
            network = draw_network(seed)
            row |= {
                "family": network.family,
                "group": network.group,
                "expected_ms": network.expected_ms,
                "macs": network.graph.macs,
                "parameters": network.graph.parameters,
                "written": network.graph.written,
                "quantised": network.graph.style.quantised,
            }
            Path(queue, f"{seed}.onnx").write_bytes(network.model().SerializeToString())
            pending.append((seed, network))
        except Exception as error:  # one network must not end the run
            row |= {"group": "", "error": f"{type(error).__name__}: {error}", "outcome": "not made"}
            print(f"seed {seed}: {row['error']}", file=sys.stderr, flush=True)
        partial = Path(queue, f"{seed}.partial")
        partial.write_text(json.dumps(row))
        partial.rename(Path(queue, f"{seed}.json"))
        if len(pending) > 20:
            _keep(folder, *pending.popleft())
    while pending:
        _keep(folder, *pending.popleft())


def _full(queue: str) -> bool:
    sizes = [entry.stat().st_size for entry in _entries(queue)]
    return len(sizes) >= _AHEAD or sum(sizes) > _MOST_AHEAD_BYTES


def _entries(queue: str) -> list[Path]:
    found = []
    for path in Path(queue).glob("*.onnx"):
        if path.exists():
            found.append(path)
    return found


def _keep(folder: str, seed: int, network: Any) -> None:
    data = network.model(weights=False).SerializeToString()
    Path(folder, "graphs", f"{seed}.onnx.gz").write_bytes(gzip.compress(data, 3))


__all__ = ["measured_rows", "run"]
