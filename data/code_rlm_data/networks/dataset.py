"""Writes what was measured as a data set: texts, numbers, and a card."""

from __future__ import annotations

import gzip
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from code_rlm.data.readers import TASKS
from code_rlm.data.schema import DataError, Example
from code_rlm.onnx_text_rlm import onnx_to_text
from code_rlm_data.cards import FACTS, export_rows
from code_rlm_data.networks.generate import draw_network
from code_rlm_data.networks.stage import measured_rows

METRICS = ("latency_ms@cpu", "peak_memory_bytes@cpu")
_MOST_CHARACTERS = 12_000  # of a text; longer ones are left out


def examples(folder: str | os.PathLike, most_characters: int = _MOST_CHARACTERS) -> Iterator[Example]:
    """Yields a row for each network of a run that ran and has a text of at most so many characters."""
    for row in measured_rows(folder):
        text = _text(folder, row["seed"]) if row["outcome"] == "ok" else ""
        if not 0 < len(text) <= most_characters:
            continue
        yield Example(
            text=text,
            language="onnx",
            metrics=list(METRICS),
            values=[row["latency_ms"], float(row["peak_memory_bytes"])],
            group=row["group"],
            source="networks_cpu",
            outcome="ok",
            hardware=row["hardware"],
            versions=row["versions"],
        )


def _text(folder: str | os.PathLike, seed: int) -> str:
    """Returns the text of a network; one whose graph an interrupted run did not keep is drawn again."""
    path = Path(folder, "graphs", f"{seed}.onnx.gz")
    if path.exists():
        return onnx_to_text(gzip.decompress(path.read_bytes()))
    return onnx_to_text(draw_network(seed).model(weights=False))


def export(folder: str | os.PathLike, out: str, again: str | os.PathLike | None = None) -> str:
    """Writes the data set and its card; returns what it holds, in words.

    Args:
        folder: Of the run.
        out: Folder of the data set.
        again: Folder of a second run over some of the seeds; the card reports how far the two differ.

    Raises:
        DataError: The run holds no network.
    """
    rows = measured_rows(folder)
    if not rows:
        raise DataError(f"{folder} holds no measured.jsonl with rows; run the step 'measure' first")
    task = TASKS["networks_cpu"]
    card = export_rows(
        _shown(examples(folder), len(rows)),
        out,
        FACTS[task.name],
        name=task.name,
        description=task.description,
        offered=len(rows),
        left_because=f"they did not run, or their texts are longer than {_MOST_CHARACTERS:,} characters",
        sections=lambda: {"Families": _families(rows), "Noise": _noise(rows, measured_rows(again) if again else [])},
    )
    size = sum(file.stat().st_size for file in Path(out).glob("*.parquet"))
    return f"{out}: {card.data.to_dict()['code_rlm']['rows']} of {len(rows)} networks, {size / 1e6:.1f} MB"


def _shown(rows: Iterator[Example], total: int) -> Iterator[Example]:
    for done, row in enumerate(rows, 1):
        if done % 500 == 0:
            print(f"{done} of {total} networks", file=sys.stderr, flush=True)
        yield row


def _families(rows: list[dict[str, Any]]) -> str:
    latencies: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row["outcome"] == "ok":
            latencies[row["family"]].append(row["latency_ms"])
    lines = ["| family | networks | fastest, ms | median, ms | slowest, ms |", "|---|---|---|---|---|"]
    for family, values in sorted(latencies.items()):
        numbers = (min(values), statistics.median(values), max(values))
        lines.append(f"| {family} | {len(values)} | " + " | ".join(f"{number:.3g}" for number in numbers) + " |")
    return "\n".join(lines)


def _noise(rows: list[dict[str, Any]], again: list[dict[str, Any]]) -> str:
    """Reports how far two measurements of the same networks differ."""
    before = {row["seed"]: row for row in rows if row["outcome"] == "ok"}
    pairs = [(before[row["seed"]], row) for row in again if row["outcome"] == "ok" and row["seed"] in before]
    if not pairs:
        return "There was no second pass: the noise of these numbers is not known yet."
    parts = []
    for name, words in (("latency_ms", "latency"), ("peak_memory_bytes", "peak memory")):
        ratios = sorted(max(a[name], b[name]) / min(a[name], b[name]) for a, b in pairs)
        parts.append(
            f"{words}: factor {statistics.median(ratios):.3f} in the median, {ratios[len(ratios) * 9 // 10]:.3f} at 90%"
        )
    return f"{len(pairs)} networks were measured twice, in another hour. Between the two lie, {'; '.join(parts)}."


__all__ = ["METRICS", "examples", "export"]
