"""Ranks people's solutions of a LeetCode problem by peak memory on one input; the problems were left out of every fit.

    code-rlm measure leetcode --data-root DATA --out measured
    code-rlm measure leetcode --data-root DATA --solutions solutions.parquet --sizes 500 5000 --out measured
    python benchmarks/in_problem.py --data-root measured

A problem counts where three or more solutions ran on the same arguments and their peaks spread by 5% of the median;
of its inputs the largest counts. Prints the mean over problems of Spearman's rho inside each, how often the solution
that is predicted to need the least does so (ties in the prediction are drawn by lot), and bootstrap intervals over
problems. `shipped` are the weights as they are, which know the data set's own solutions of the training problems;
`fitted` is `CodeRegressor` on all solutions of these problems. Baselines: length, and TF-IDF with ridge on the rows
of `fitted`.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import numpy as np

import code_rlm
from code_rlm.data.readers import read_task
from code_rlm.evaluation.baselines import fit_predict
from code_rlm.evaluation.metrics import per_group_spearman, top_1

METRIC = "peak_memory_bytes"
TASKS = ("leetcode_memory", "leetcode_solutions")
LEAST_SOLUTIONS = 3
MINIMUM_SPREAD = 0.05


def read_rows(data_root: Path, split: str) -> list[dict]:
    """Rows of both tables that have a value."""
    rows = [row for task in TASKS for row in read_task(task, data_root, split, metrics=[METRIC])]
    return [row for row in rows if row["values"][0] is not None]


def input_items(context: tuple[str, ...]) -> int:
    """The largest number in the words that stand for the arguments: their sizes, where they are long."""
    return max((int(number) for line in context for number in re.findall(r"of (\d+)", line)), default=0)


def ranked_rows(rows: list[dict]) -> list[dict]:
    """One row for each solution of each problem that counts, on the largest input that enough of them ran on."""
    inputs: dict[str, dict[tuple[str, ...], dict[str, dict]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        inputs[row["group"]][tuple(row["context"])][row["text"]] = row
    chosen = []
    for by_context in inputs.values():
        wide = [context for context, solutions in by_context.items() if _counts(list(solutions.values()))]
        if wide:
            chosen += by_context[max(wide, key=input_items)].values()
    return chosen


def _counts(solutions: list[dict]) -> bool:
    peaks = np.array([row["values"][0] for row in solutions])
    return len(solutions) >= LEAST_SOLUTIONS and np.ptp(peaks) >= MINIMUM_SPREAD * np.median(peaks) > 0


def scores(target: np.ndarray, prediction: np.ndarray, problems: np.ndarray, resamples: int = 1000) -> str:
    """Cells of a line: mean rho and share of best solutions picked, with 95% intervals over problems."""
    names = sorted(set(problems))
    rho, best = [], []
    for name in names:
        own = problems == name
        inside = per_group_spearman(target[own], prediction[own], problems[own], more_than=LEAST_SOLUTIONS - 1)
        rho.append(inside.values[0])
        best.append(top_1(target[own], prediction[own], lower_is_better=True))
    drawn = np.random.default_rng(0).integers(len(names), size=(resamples, len(names)))
    cells = []
    for values in (np.array(rho), np.array(best)):
        low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975])
        cells.append(f"{values.mean():.3f} ({low:.3f} to {high:.3f})")
    return " | ".join(cells)


def as_input(row: dict) -> dict:
    """The row as the pipeline takes it."""
    return {"text": row["text"], "language": "python", "context": list(row["context"])}


def main() -> None:
    """Fits, predicts and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder with both measured tables")
    parser.add_argument("--model", help="checkpoint of the line `shipped`; by default the weights that ship")
    parser.add_argument("--train-rows", type=int, default=4000, help="training rows, drawn at random [4000]")
    args = parser.parse_args()
    test = ranked_rows(read_rows(args.data_root, "test"))
    train = read_rows(args.data_root, "train") + read_rows(args.data_root, "validation")
    drawn = np.random.default_rng(0).permutation(len(train))[: args.train_rows]
    train = [train[place] for place in drawn]
    target = np.array([row["values"][0] for row in test])
    problems = np.array([row["group"] for row in test])

    shipped = code_rlm.pipeline(args.model) if args.model else code_rlm.pipeline()
    answers = shipped([as_input(row) for row in test], metrics=[METRIC])
    predictions = {"shipped": np.array([entries[0]["value"] for entries in answers])}
    regressor = code_rlm.CodeRegressor(metric=METRIC, language="python", init=args.model)
    values = np.array([row["values"][0] for row in train])
    groups = np.array([row["group"] for row in train])
    regressor.fit([as_input(row) for row in train], values, groups=groups)
    predictions["fitted"] = regressor.predict([as_input(row) for row in test])
    texts = ["\n".join([*row["context"], row["text"]]) for row in train]
    test_texts = ["\n".join([*row["context"], row["text"]]) for row in test]
    for name in ("length_only", "tfidf_ridge"):
        predictions[name] = fit_predict(name, texts, values, test_texts, groups=groups)

    count = len(set(problems))
    print(f"{len(test)} solutions of {count} problems; {len(train)} training rows of {len(set(groups))} problems\n")
    print("| | mean rho inside a problem | best picked |\n|---|---|---|")
    print(f"| by lot | 0 | {np.mean([1 / np.sum(problems == name) for name in set(problems)]):.3f} |")
    for name, prediction in predictions.items():
        print(f"| {name} | {scores(target, prediction, problems)} |", flush=True)


if __name__ == "__main__":
    main()
