"""Programs with what they are estimated to need, as many as wanted and without running one: to pretrain on.

The problems are drawn from another seed than those that are measured, and none has the families of a measured problem
that is held out. The table is one for the training option `file`.
"""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from code_rlm.data.schema import DataError
from code_rlm.data.splits import split_of
from code_rlm_data.generator.emitters import EMITTERS
from code_rlm_data.generator.generate import Budget, can_write, group_of, problem_families, sample

# What a program holds, and the kinds of the IR that count for each: a sum of numbers that its text spells out somewhere.
HELD = {
    "array_elements_count": ("arr", "mat", "jag", "vec", "deque"),
    "hash_entries_count": ("map", "set", "smap"),
    "string_characters_count": ("str", "strs"),
    "nodes_count": ("list", "tree", "call"),
}
METRICS = (*HELD, "estimated_bytes", "estimated_ms")
MEASURED_SEED = 0
MEASURED_PROBLEMS = 160
BUDGET = Budget()
_CHUNK = 16


def held_out_families(seed: int = MEASURED_SEED, problems: int = MEASURED_PROBLEMS) -> set[tuple[str, ...]]:
    """Returns the families, sorted, of the measured problems that the default split keeps from training."""
    return {
        tuple(sorted(problem_families(seed, problem)))
        for problem in range(problems)
        if split_of(group_of(seed, problem)) != "train"
    }


def rows_of(problem: int, *, seed: int, languages: tuple[str, ...], each: int, budget: Budget) -> list[dict[str, Any]]:
    """Returns the rows of a problem: one variant of it in each of up to `each` languages, drawn at random."""
    rng = random.Random(f"{seed}/{problem}/languages")
    able = [name for name in languages if can_write(EMITTERS[name], problem_families(seed, problem))]
    rows = []
    for variant, language in enumerate(rng.sample(able, min(each, len(able)))):
        made = sample(seed, problem, variant, language, budget)
        if made is not None:
            row = {"text": made.text, "language": language, "group": made.group}
            for metric, kinds in HELD.items():
                row[metric] = sum(float(count) for (kind, _), count in made.cost.elements.items() if kind in kinds)
            rows.append({**row, "estimated_bytes": made.estimated_bytes, "estimated_ms": made.estimated_ms})
    return rows


def write(
    out: str,
    *,
    seed: int,
    problems: int,
    each: int,
    languages: tuple[str, ...],
    stages: tuple[int, ...] = (1, 2, 3),
    budget: Budget = BUDGET,
) -> str:
    """Writes the table; returns what it holds, in words. All cores draw problems.

    Args:
        out: Parquet file, with the columns text, language, group and METRICS.
        seed: Not that of the measured problems.
        problems: How many to write.
        each: Languages that a problem is written in.
        languages: To draw from.
        stages: Numbers of families that a problem may have: one makes short programs.
        budget: What a program may need.

    Raises:
        DataError: The seed of the measured problems, an unknown language, or impossible stages.
    """
    if seed == MEASURED_SEED:
        raise DataError(f"seed {seed} is that of the measured problems; give another")
    if not stages or not set(stages) <= {1, 2, 3}:
        raise DataError(f"a problem has 1, 2 or 3 stages, not {', '.join(map(str, stages)) or 'none'}")
    if unknown := [name for name in languages if name not in EMITTERS]:
        raise DataError(f"no emitter for {', '.join(unknown)}; there are {', '.join(EMITTERS)}")
    apart = held_out_families()
    kept: list[int] = []
    for number in itertools.count():
        families = problem_families(seed, number)
        if len(families) in stages and tuple(sorted(families)) not in apart:
            kept.append(number)
        if len(kept) == problems:
            break
    draw = partial(rows_of, seed=seed, languages=languages, each=each, budget=budget)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in tqdm(pool.map(draw, kept, chunksize=_CHUNK), "problems", len(kept), mininterval=5):
            rows += [row for row in found if row["text"] not in seen]
            seen.update(row["text"] for row in found)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd")
    counts = Counter(row["language"] for row in rows)
    words = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{path}: {len(rows)} programs of {len(kept)} problems; {words}"


__all__ = ["METRICS", "held_out_families", "rows_of", "write"]
