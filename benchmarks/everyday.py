"""Thirty everyday programs in seven languages, written by hand and never trained on: predictions beside measurements.

    code-rlm measure benchmarks/everyday --out everyday --repeats 3 --wall-s 60 --cpu-s 30
    python benchmarks/everyday.py everyday                            # the weights that ship
    python benchmarks/everyday.py everyday --model runs/mine/final --out benchmarks/results/everyday.csv

Prints, for each metric, Spearman's rank correlation, the median factor between prediction and measurement, and the share of
measurements inside the 90% interval. The baseline is the median of the other programs of the language.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

import code_rlm
from code_rlm.stats import spearman

METRICS = ("peak_rss_bytes", "cpu_time_ms")
COLUMNS = ("language", "program", "metric", "measured", "value", "low", "high", "familiarity")
FOLDER = Path(__file__).parent / "everyday"


def program_names() -> dict[str, str]:
    """Text to the name of each program."""
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    return {path.read_text(encoding="utf-8"): str(path.relative_to(FOLDER)) for path in files}


def predictions(rows: list[dict], pipe: code_rlm.CodeRegressionPipeline) -> list[dict]:
    """A line of `COLUMNS` for each program and metric."""
    names = program_names()
    lines = []
    answers = pipe([{"text": row["text"], "language": row["language"]} for row in rows], metrics=list(METRICS))
    for row, entries in zip(rows, answers, strict=True):
        measured = dict(zip(row["metrics"], row["values"], strict=True))
        for entry in entries:
            line = {name: entry.get(name) for name in ("metric", "value", "low", "high", "familiarity")}
            known = {"language": row["language"], "program": names.get(row["text"], "?")}
            lines.append({**known, **line, "measured": measured[entry["metric"]]})
    return lines


def summary(lines: list[dict], metric: str) -> str:
    """Rank correlation, median factor and coverage of a metric, and those of the baseline."""
    own = [line for line in lines if line["metric"] == metric]
    truth = np.array([line["measured"] for line in own])
    value = np.array([line["value"] for line in own])
    inside = np.array([line["low"] <= line["measured"] <= line["high"] for line in own])
    width = np.median([line["high"] / line["low"] for line in own])
    baseline = np.array([_median_of_others(own, number) for number in range(len(own))])
    ranks = f"Spearman {spearman(value, truth):.2f} (language median {spearman(baseline, truth):.2f})"
    return (
        f"{metric}: {len(own)} programs, {ranks}, "
        f"median factor {_factor(value, truth):.2f} ({_factor(baseline, truth):.2f}), {inside.mean():.0%} in the 90% interval, "
        f"median width {width:.1f}x"
    )


def _median_of_others(lines: list[dict], number: int) -> float:
    language = lines[number]["language"]
    others = [line["measured"] for i, line in enumerate(lines) if i != number and line["language"] == language]
    return float(np.median(others))


def _factor(value: np.ndarray, truth: np.ndarray) -> float:
    return float(np.exp(np.median(np.abs(np.log(value / truth)))))


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, help="folder that `code-rlm measure` wrote")
    parser.add_argument("--model", help="checkpoint folder [the one that ships]")
    parser.add_argument("--out", type=Path, help="CSV file for every prediction")
    args = parser.parse_args()
    table = pq.read_table(args.measured / "data.parquet").to_pylist()
    rows = [row for row in table if row["outcome"] == "ok"]
    if not rows:
        print(f"no program of {args.measured} ran", file=sys.stderr)
        return 2
    pipe = code_rlm.pipeline(args.model) if args.model else code_rlm.pipeline()
    lines = sorted(predictions(rows, pipe), key=lambda line: (line["metric"], line["language"], line["program"]))
    for line in lines:
        print(*(f"{line[name]:.4g}" if isinstance(line[name], float) else line[name] for name in COLUMNS), sep="  ")
    for metric in METRICS:
        print(summary(lines, metric))
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
