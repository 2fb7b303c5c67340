"""Small tables of exactly the columns of the paper's two data sets, with the oddities that the real ones have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

LANGUAGES = ("C++", "Python", "C#", "F#", "Visual Basic", "Ruby", "JavaScript", "OCaml")
CODE = pa.schema(
    [
        ("identifier", pa.string()),
        ("space", pa.string()),
        ("input", pa.string()),
        ("target", pa.float64()),
        ("metric_type", pa.string()),
        ("metadata", pa.string()),
    ]
)
GRAPHS = pa.schema(
    [
        ("identifier", pa.string()),
        ("space", pa.string()),
        ("uid", pa.string()),
        ("arch_str", pa.string()),
        ("input", pa.string()),
        ("target_metric", pa.string()),
        ("val_accuracy", pa.float64()),
        ("flops", pa.float64()),
        ("params", pa.float64()),
        ("metadata", pa.string()),
        ("metainformation", pa.string()),
    ]
)


def code_rows(rows: int, padding: int = 0) -> Iterator[dict[str, Any]]:
    """Yields rows of each space, APPS first: allocations whose size the text states; `padding` characters lengthen texts."""
    tail = f"\n# {'x' * padding}" if padding else ""
    for i in range(rows):
        size = 10 * (i % 97 + 1)
        yield {
            "identifier": f"APPS_{i}",
            "space": "APPS",
            "input": f"Allocate {size} numbers.\nx = [0] * {size}\n{tail}",
            "target": None if i % 100 == 7 else 8.0 * size + 56,
            "metric_type": "memory_bytes",
            "metadata": f"{{'problem_id': {i // 3}, 'difficulty': 'easy', 'note': nan, 'limit': inf}}",
        }
    for i in range(rows):
        size = 1000 * (i % 89 + 1)
        problem = {} if i % 50 == 3 else {"p_id": f"p{i // 4:05}"}
        yield {
            "identifier": f"CDSS_{i}",
            "space": "CDSS",
            "input": f"a = new int[{size}];  // {i}\n{tail}",
            "target": 0.0 if i % 40 == 5 else 4.0 * size,
            "metric_type": "memory_bytes",
            "metadata": repr({**problem, "language": LANGUAGES[i % len(LANGUAGES)], "status": "Accepted"}),
        }
    for i in range(max(4, rows // 10)):
        yield {
            "identifier": f"KBSS_{i}",
            "space": "KBSS",
            "input": f"import triton\n@triton.jit\ndef k(x):\n    y = {i}\n{tail}",
            "target": 0.001 * (i + 1),
            "metric_type": "latency_ms",
            "metadata": f"{{'entry_point': 'Net{i}', 'uuid': {i}}}",
        }


GRAPH_SPACES = ("NASBench101", "NASBench201", "ENAS", "NASNet", "OfaMB", "SNAS")


def graph_rows(rows: int) -> Iterator[dict[str, Any]]:
    """Yields rows of each space: printed graphs; percent or fractions, latencies of one space, no metadata of another."""
    for space in GRAPH_SPACES:
        for i in range(rows):
            share = 0.5 + (i % 41) / 100
            metadata: str | None = f"{{'zcp_nwot': {i}.5, 'zcp_snip': inf}}"
            if space == "NASBench201":
                metadata = f"{{'lat_pixel3': {1 + i % 13}.25, 'lat_eyeriss': nan, 'zcp_nwot': {i}.5}}"
            if space == "SNAS":
                metadata = None
            yield {
                "identifier": f"{space}_{i}",
                "space": space,
                "uid": str(i),
                "arch_str": None if space == "ENAS" else f"|{space}~{i}|",
                "input": f"graph {space}_{i} {{\n  %1 = Conv[channels={i % 41}](%0)\n  %2 = Relu(%1)\n}}\n",
                "target_metric": "val_accuracy",
                "val_accuracy": None if i % 30 == 11 else share if space.startswith("Ofa") else 100 * share,
                "flops": float("nan") if i % 20 == 3 else 1e6 * (i + 1),
                "params": None if i % 20 == 4 else 1e4 * (i + 1),
                "metadata": metadata,
                "metainformation": "{'macro': 'x'}" if space == "SNAS" else None,
            }


def write(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema, group: int) -> Path:
    """Writes a table in row groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        block: list[dict[str, Any]] = []
        for row in rows:
            block.append(row)
            if len(block) == group:
                writer.write_table(pa.Table.from_pylist(block, schema=schema))
                block = []
        if block:
            writer.write_table(pa.Table.from_pylist(block, schema=schema))
    return path


def write_both(folder: Path, rows: int = 200, group: int = 60, padding: int = 0) -> Path:
    """Writes both tables below a data root and returns it."""
    write(folder / "Code-Regression" / "data" / "train-0.parquet", code_rows(rows, padding), CODE, group)
    write(folder / "GraphArch-Regression" / "data" / "train-0.parquet", graph_rows(rows // 2), GRAPHS, group)
    return folder
