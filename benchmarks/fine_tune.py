"""Time and quality of a fit without training steps: `CodeRegressor.fit` on one table, and its answers for groups left out.

    python benchmarks/fine_tune.py --data DATA/codenet/python_sample.parquet --target mem_kb --language python
    python benchmarks/fine_tune.py --data DATA/polyglot_memory/train.parquet --target peak_rss_bytes --out runs/fine_tune

The target gets a name that the weights do not know, so nothing of what they learned of it under its own name is asked for.
A fifth of the groups is the test, the same in every run. Times are CPU seconds of one thread, imports left out.

To compare two versions, name the interpreter of an environment with the other one. Both then run in processes of their own, in
turn, `--rounds` times, and times are medians:

    python benchmarks/fine_tune.py --data ... --target ... --against OTHER_ENVIRONMENT/bin/python

Brackets are 95% bootstrap intervals over groups.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from code_rlm import CodeRegressor
from code_rlm.evaluation.metrics import bootstrap_interval, spearman

METRIC = "my_value"
COLUMNS = [
    "version",
    "rows",
    "test rows (groups)",
    "fit, s",
    "answer, ms a row",
    "Spearman",
    "in the 90% interval",
    "width",
]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def read_table(args: argparse.Namespace) -> pd.DataFrame:
    """Returns text, language, group and value of every row that has the target, the group named for the split."""
    table = pd.read_parquet(args.data)
    if "outcome" in table:
        table = table[table["outcome"] == "ok"]
    if args.target in table:
        values = table[args.target]
    else:  # a table in the schema
        pairs = (dict(zip(*row, strict=True)) for row in zip(table["metrics"], table["values"], strict=True))
        values = pd.Series([found.get(args.target) for found in pairs], index=table.index, dtype=float)
    language = [args.language] * len(table) if args.language else table["language"]
    # Prefixed, because a table of the package is one side of the package's own split by these names.
    groups = "benchmark " + table[args.group].astype(str)
    columns = {"text": table["text"], "language": language, "group": groups, "value": values}
    return pd.DataFrame(columns).dropna(subset=["value"]).reset_index(drop=True)


def is_test(group: str) -> bool:
    """Returns whether a group is left out of the fit."""
    return hashlib.sha256(f"test {group}".encode()).digest()[0] < 51


def drawn(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Returns at most so many rows, drawn by a fixed seed."""
    return table.iloc[np.sort(np.random.default_rng(0).permutation(len(table))[:rows])]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Fits and asks once; returns times and scores."""
    torch.set_num_threads(1)
    table = read_table(args)
    left_out = table["group"].map(is_test)
    train, test = drawn(table[~left_out], args.rows), drawn(table[left_out], args.test_rows)
    regressor = CodeRegressor(metric=METRIC)
    began = time.process_time()
    regressor.fit(train[["text", "language"]], train["value"].to_numpy(), groups=train["group"].to_numpy())
    fitted = time.process_time()
    quantiles = regressor.predict_quantiles(test[["text", "language"]], (0.05, 0.5, 0.95))
    answered = time.process_time()
    truth, groups = test["value"].to_numpy(), test["group"].to_numpy()
    low, median, high = quantiles.T
    rho = bootstrap_interval(spearman, truth, median, groups=groups)
    covered = bootstrap_interval(
        lambda y, low, high: np.mean((low <= y) & (y <= high)), truth, low, high, groups=groups
    )
    return {
        "rows": len(train),
        "test_rows": len(test),
        "groups": len(set(groups)),
        "fit_s": fitted - began,
        "answer_ms": 1000 * (answered - fitted) / len(test),
        "spearman": [rho.value, rho.low, rho.high],
        "covered": [covered.value, covered.low, covered.high],
        "width": float(np.median(high / low)),
    }


def run_apart(python: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measures once in a process of its own, with the package that an interpreter imports."""
    options = [
        f"--{name.replace('_', '-')}={getattr(args, name)}" for name in ("data", "target", "group", "rows", "test_rows")
    ]
    options += [f"--language={args.language}"] if args.language else []
    command = [python, str(Path(__file__).absolute()), *options, "--json"]
    found = subprocess.run(command, env={**os.environ, **ONE_THREAD}, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(found.stdout.splitlines()[-1])


def line(name: str, found: list[dict[str, Any]]) -> str:
    """Returns a line of the table: medians of the times, scores of the last run."""
    last = found[-1]
    seconds, milliseconds = (float(np.median([each[key] for each in found])) for key in ("fit_s", "answer_ms"))
    rho, low, high = last["spearman"]
    covered, least, most = last["covered"]
    cells = [
        name,
        f"{last['rows']:,}",
        f"{last['test_rows']:,} ({last['groups']})",
        f"{seconds:.0f}",
        f"{milliseconds:.0f}",
        f"{rho:.3f} ({low:.3f} to {high:.3f})",
        f"{covered:.1%} ({least:.1%} to {most:.1%})",
        f"{last['width']:.3g}x",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="parquet file with a column text")
    parser.add_argument("--target", required=True, help="column, or metric of a table in the schema; values above 0")
    parser.add_argument("--group", default="group", help="column of what is left out together [group]")
    parser.add_argument("--language", help="of all texts; by default the column language")
    parser.add_argument("--rows", type=int, default=2000, help="most rows to fit [2000]")
    parser.add_argument("--test-rows", type=int, default=300, help="most rows to ask for [300]")
    parser.add_argument("--against", help="interpreter of an environment with another version")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each version [1]")
    parser.add_argument("--out", type=Path, help="folder for fine_tune.md; by default the table is printed alone")
    parser.add_argument("--json", action="store_true", help="print one run as JSON")
    args = parser.parse_args()
    args.data = args.data.absolute()
    if args.json:
        print(json.dumps(measure(args)))
        return
    versions = {"other": args.against} if args.against else {}
    versions["this"] = sys.executable
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in versions}
    for _ in range(args.rounds):
        for name, python in versions.items():
            found[name].append(run_apart(python, args))
    head = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    text = "\n".join([*head, *(line(name, runs) for name, runs in found.items())])
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "fine_tune.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
