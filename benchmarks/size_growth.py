"""Do predictions grow with n? Templates in every language, n from 10^3 to 10^8, memory and time by a checkpoint.

    python benchmarks/size_growth.py                                  # the weights that ship
    python benchmarks/size_growth.py --model runs/mine/final --out growth.csv

A step is from one n to ten times as much. It falls where the prediction is less than `TOLERANCE` times the one before. Prints
the share of steps that do not fall, the deepest fall, and the templates that fall; then how far other spellings of n are from
the plain one. Every prediction goes to benchmarks/results/size_growth.csv.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np

import code_rlm
from benchmarks.size_templates import KINDS, TEMPLATES, program, spellings

METRICS = ("peak_rss_bytes", "cpu_time_ms")
EXPONENTS = tuple(range(3, 9))
TOLERANCE = 0.95
COLUMNS = ("language", "kind", "metric", *(f"n=1e{exponent}" for exponent in EXPONENTS))
OUT = Path(__file__).parent / "results" / "size_growth.csv"


def predictions(
    pipe: code_rlm.CodeRegressionPipeline, exponents: tuple[int, ...], kinds: tuple[str, ...] = KINDS
) -> list[dict]:
    """A line for each template and metric: language, kind, metric, and the predictions `values` by ascending n."""
    keys = [(language, kind) for language in TEMPLATES for kind in kinds]
    texts = [
        {"text": program(language, kind, spellings(language, exponent)["plain"]), "language": language}
        for language, kind in keys
        for exponent in exponents
    ]
    answers = pipe(texts, metrics=list(METRICS), batch_size=8)
    lines = []
    for number, (language, kind) in enumerate(keys):
        own = answers[number * len(exponents) : (number + 1) * len(exponents)]
        for metric in METRICS:
            values = [entry["value"] for answer in own for entry in answer if entry["metric"] == metric]
            lines.append({"language": language, "kind": kind, "metric": metric, "values": values})
    return lines


def steps(lines: list[dict], metric: str) -> np.ndarray:
    """Ratios of predictions of a metric from one n to the next, `(templates, steps)`."""
    values = np.array([line["values"] for line in lines if line["metric"] == metric])
    return values[:, 1:] / values[:, :-1]


def spelling_gaps(pipe: code_rlm.CodeRegressionPipeline, exponent: int) -> np.ndarray:
    """Factors, at least 1, between the predictions for a plain n and for its other spellings."""
    texts, counts = [], []
    for language in TEMPLATES:
        own = spellings(language, exponent)
        for kind in KINDS:
            texts += [{"text": program(language, kind, spelled), "language": language} for spelled in own.values()]
            counts.append(len(own))
    answers = pipe(texts, metrics=list(METRICS), batch_size=8)
    values = np.array([[entry["value"] for entry in answer] for answer in answers])
    gaps, first = [], 0
    for count in counts:
        gaps.append(np.abs(np.log(values[first + 1 : first + count] / values[first])).ravel())
        first += count
    return np.exp(np.concatenate(gaps))


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint folder [the one that ships]")
    parser.add_argument("--out", type=Path, default=OUT, help="CSV file for every prediction")
    args = parser.parse_args()
    pipe = code_rlm.pipeline(args.model)
    lines = predictions(pipe, EXPONENTS)
    for metric in METRICS:
        own = [line for line in lines if line["metric"] == metric]
        ratios = steps(lines, metric)
        falls = [f"{own[row]['language']} {own[row]['kind']}" for row in np.flatnonzero((ratios < TOLERANCE).any(1))]
        print(
            f"{metric}: {ratios.size} steps of {len(own)} templates, {np.mean(ratios >= TOLERANCE):.1%} do not fall, "
            f"the deepest fall is by a factor of {max(1 / ratios.min(), 1.0):.2f}; falling: {', '.join(falls) or 'none'}"
        )
    gaps = spelling_gaps(pipe, 6)
    print(
        f"other spellings of 10^6: {len(gaps)} predictions, {np.mean(gaps < 1.02):.1%} within 2%, at most {gaps.max():.2f}x off"
    )
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for line in lines:
            writer.writerow(
                [line["language"], line["kind"], line["metric"], *(f"{value:.6g}" for value in line["values"])]
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
