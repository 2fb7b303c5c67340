"""Measures a fine-tune on a metric of one's own: before, after, and simple regressors fitted on the same rows.

    code-rlm measure leetcode --data-root DATA --out measured
    python benchmarks/private_metric.py --data measured/python/leetcode_memory.parquet --out runs/private

The metric stands in for a private one: the peak memory of one call of a LeetCode solution, measured by `code-rlm measure`. The
checkpoint that ships was trained on it; for figures of a metric never seen start from one that was not (`--model`), or take
`--steps 0`, where the new regressor answers, which has seen none of it. The program writes a plain table (code, problem,
arguments, bytes), then does what a user would, one command each, and prints them: train, calibrate, evaluate before and after.
Of `--out` the reports and the summary hold no text of any row.

Problems, not rows, are split: no problem of the test rows was trained on. The intervals are from resampled problems; `ahead` is
how far the fine-tuned model's Spearman lies above a regressor's on the same resamples. "Before" is the checkpoint that ships,
asked for the metric that it knows best for such input; where it knows none there is no such row.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from code_rlm.evaluation.calibration import main as calibrate
from code_rlm.evaluation.run import main as evaluate
from code_rlm.train import main as train

ROOT = Path(__file__).parents[1]
METRIC = "my_bytes"
SOURCE = {
    "text_column": "code",
    "target_columns": [METRIC],
    "group_column": "problem",
    "context_columns": ["arguments"],
}


def write_table(data: Path, out: Path, rows: int, problems: float, metric: str) -> int:
    """Writes a user's table: the runs that ended well of a share of the problems, at most `rows`, drawn by a fixed seed."""
    table = pq.read_table(data).to_pylist()
    names = sorted({row["group"] for row in table})
    rng = np.random.default_rng(0)
    kept = set(rng.permutation(names)[: round(problems * len(names))].tolist())
    good = [
        row for row in table if row["group"] in kept and row["outcome"] == "ok" and row["peak_memory_bytes"] is not None
    ]
    chosen = [good[i] for i in np.sort(rng.permutation(len(good))[:rows])]
    columns = {
        "code": [row["text"] for row in chosen],
        "problem": [row["group"] for row in chosen],
        "arguments": ["; ".join(line.removeprefix("argument ") for line in row["context"]) for row in chosen],
        metric: [row["peak_memory_bytes"] for row in chosen],
    }
    pq.write_table(pa.table(columns), out)
    return len(chosen)


def call(program: Callable[[list[str]], int | None], name: str, argv: list[str]) -> float:
    """Runs one of the package's commands, printing it as it would be typed, and returns its processor seconds."""
    shown = " ".join(f"'{a}'" if " " in a or "{" in a else a for a in argv)
    print(f"\n$ code-rlm {name} {shown}", flush=True)
    began = time.process_time()
    if status := program(argv):
        raise SystemExit(status)
    return time.process_time() - began


def entry_of(folder: Path, metric: str) -> dict[str, Any]:
    """The scores in a report."""
    (task,) = json.loads((folder / "report.json").read_text())["tasks"].values()
    return task[metric]


def ranged(score: dict[str, float | None]) -> str:
    """A score with its interval, as far as it has them."""
    if score["value"] is None:
        return "–"
    return f"{score['value']:.3f}" + ("" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})")


def summary(out: Path, known: str | None, seconds: float) -> str:
    """Markdown: before, after, and the regressors."""
    after = entry_of(out / "after", METRIC)
    log = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    steps = max((line["step"] for line in log), default=0)

    def scores(entry: dict[str, Any]) -> list[str]:
        covered = entry["coverage"].get("0.9")
        errors = [f"{entry[name]['value']:.0%}" for name in ("mape", "median_ape")]
        return [
            ranged(entry["spearman"]),
            f"{entry['kendall']['value']:.3f}",
            *errors,
            "–" if covered is None else f"{covered:.0%}",
        ]

    rows = []
    if known:
        rows.append([f"checkpoint that ships, asked for {known}", *scores(entry_of(out / "before", known)), "–"])
    rows.append(["**fine-tuned**", *scores(after), "–"])
    for name, found in after["baselines"].items():
        rho = dict(zip(("value", "low", "high"), (found["spearman"], *found["spearman_interval"]), strict=True))
        tau = "–" if found["kendall"] is None else f"{found['kendall']:.3f}"
        errors = [f"{found[score]:.0%}" for score in ("mape", "median_ape")]
        rows.append([name.replace("_", " "), ranged(rho), tau, *errors, "–", ranged(found["ahead"])])
    header = ["predictor", "Spearman", "Kendall", "MAPE", "median APE", "in the 90% interval", "fine-tuned ahead by"]
    fitted = json.loads((out / "after" / "report.json").read_text())
    (trained_on,) = fitted["rows_baselines_were_fitted_on"].values()
    lines = [
        f"{after['n']} test rows of {after['groups']} problems, {trained_on} training rows of others; {steps} steps, "
        f"{seconds:.0f} s of one core; {fitted['date']}, torch {fitted['versions']['torch']}.",
        "",
        *(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="table of `code-rlm measure leetcode`")
    parser.add_argument("--out", type=Path, required=True, help="folder of table, run and reports")
    parser.add_argument("--model", default="checkpoints/default", help="checkpoint to start from [the one that ships]")
    parser.add_argument(
        "--known", default="peak_memory_bytes", help="its metric to compare with; '' for none [peak_memory_bytes]"
    )
    parser.add_argument("--rows", type=int, default=2500, help="rows of the table [2500]")
    parser.add_argument("--problems", type=float, default=1.0, help="share of the problems to draw from [1]")
    parser.add_argument(
        "--steps", type=int, default=300, help="0 fits the feature ensemble and its pooling component alone [300]"
    )
    parser.add_argument("--max-rows", type=int, default=2000, help="test rows [2000]")
    args = parser.parse_args()
    logging.disable_progress_bar()
    out, data = args.out.absolute(), args.data.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    table, before = out / "mine.parquet", out / "before.parquet"
    count = write_table(data, table, args.rows, args.problems, METRIC)
    print(f"{count} rows in {table}")
    columns = [
        "--text-column",
        "code",
        "--group-column",
        "problem",
        "--context-columns",
        "arguments",
        "--language",
        "python",
    ]
    if args.known:
        write_table(data, before, args.rows, args.problems, args.known)
        asked = ["--data", str(before), *columns, "--target-columns", args.known, "--max-rows", str(args.max_rows)]
        call(evaluate, "evaluate", ["--model", args.model, *asked, "--baselines", "--out", str(out / "before")])
    source = json.dumps([{"file": str(table), **SOURCE, "language": "python", "swap_text": 0.5}])
    start = ["--config", "configs/finetune.yaml", "--init", args.model, "--steps", str(args.steps)]
    start += [] if args.steps else ["--patience", "0"]  # the feature ensemble and its pooling component alone
    seconds = call(train, "train", [*start, "--data", source, "--out", str(out / "run")])
    mine = ["--data", str(table), *columns, "--target-columns", METRIC]
    if not (out / "calibrated").exists():
        call(calibrate, "calibrate", ["--model", str(out / "run" / "final"), *mine, "--out", str(out / "calibrated")])
    test = [*mine, "--max-rows", str(args.max_rows), "--out", str(out / "after")]
    call(evaluate, "evaluate", ["--model", str(out / "calibrated"), *test])
    text = summary(out, args.known, seconds)
    (out / "summary.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
