"""Answers of the weights that ship, row by row: written once, compared after every change that must not move them.

    python benchmarks/golden.py --data-root DATA --write    # benchmarks/results/golden.csv
    python benchmarks/golden.py --data-root DATA            # exit status 1 where an answer differs

Each task of `data/readers.py` whose table is there gives 200 test rows, chosen by hash of their group. Row i is asked for
metric i modulo the number of the task's metrics. The file holds numbers by hash of the input, no text. It is
written anew with new weights.
"""

import argparse
import csv
import hashlib
import sys
from pathlib import Path

import code_rlm
from code_rlm.data.readers import TASKS, read_task
from code_rlm.distributions_rlm import Adjustment
from code_rlm.pipeline_rlm import _Assessment

GOLDEN = Path(__file__).parent / "results" / "golden.csv"
COLUMNS = ("task", "input", "metric", "low", "value", "high")
ROWS = 200


def input_hash(row: dict) -> str:
    """Sixteen hexadecimal digits that name an input: language, context and text."""
    parts = "\n".join([row["language"], *row["context"], row["text"]])
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def answers(task: str, data_root: str, pipe: code_rlm.CodeRegressionPipeline) -> list[tuple[str, ...]]:
    """One line of `COLUMNS` for each row of a task; none where the checkpoint knows no metric of it."""
    known = [name for name in TASKS[task].metrics if name in pipe.model.config.metric_names()]
    if not known:
        return []
    root = data_root if (Path(data_root) / TASKS[task].file).exists() else None  # None: the table that ships
    rows = read_task(task, root, "test", metrics=known, limit=ROWS)
    lines = []
    for number, name in enumerate(known):
        chosen = rows.select(range(number, len(rows), len(known)))
        inputs = [{"text": r["text"], "language": r["language"], "context": r["context"]} for r in chosen]
        for row, [entry] in zip(chosen, pipe(inputs, metrics=[name], calibrated=True), strict=True):
            numbers = (f"{entry[field]:.6g}" for field in ("low", "value", "high"))
            lines.append((task, input_hash(row), name, *numbers))
    return sorted(lines)


def main() -> int:
    """Writes or compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder of the tasks' tables")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="tasks [all whose table is there]")
    parser.add_argument("--model", help="checkpoint folder [the one that ships]")
    parser.add_argument("--write", action="store_true", help="write the file instead of comparing with it")
    args = parser.parse_args()
    pipe = code_rlm.pipeline(args.model) if args.model else code_rlm.pipeline()
    # The answers of release 0.1: without bounds and without the pool beyond the training rows.
    pipe._assess = lambda item, metric, fallback_score: _Assessment(None, Adjustment())
    lines: list[tuple[str, ...]] = []
    for task in args.tasks:
        if (Path(args.data_root) / TASKS[task].file).exists() or TASKS[task].ships:
            lines += answers(task, args.data_root, pipe)
            print(f"{task}: {len(lines)} answers so far", flush=True)
    if args.write:
        with GOLDEN.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([COLUMNS, *lines])
        return 0
    with GOLDEN.open(newline="", encoding="utf-8") as file:
        expected = {tuple(line[:3]): tuple(line[3:]) for line in list(csv.reader(file))[1:]}
    found = {line[:3]: line[3:] for line in lines}
    wrong = [key for key, numbers in found.items() if expected.get(key) != numbers]
    for key in wrong[:20]:
        print(*key, "expected", expected.get(key), "found", found[key])
    print(f"{len(found)} answers, {len(wrong)} differ")
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
