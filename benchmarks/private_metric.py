"""Measures a fine-tune on a metric of one's own: before, after, and simple regressors fitted on the same rows.

    code-rlm measure leetcode --data-root DATA --out measured
    python benchmarks/private_metric.py --data measured/python/leetcode_memory.parquet --out runs/private

The metric stands in for a private one: the peak memory of one call of a LeetCode solution, measured by `code-rlm measure`. The
checkpoint that ships was trained on it; for figures of a metric never seen start from one that was not (`--model`), or take
`--steps 0`, where the new regressor answers, which has seen none of it. The program writes a plain table (code, problem,
arguments, bytes), then does what a user would, one command each, and prints them: train, calibrate, evaluate before and after.
Of `--out` the reports and the summary hold no text of any row.

With `--cross-fit` it measures the fit of the feature ensemble alone, without a step, on all rows of any table: every row is
predicted by base learners that have not seen its group, beside TF-IDF and ridge on the same folds; and with `--language-model`
once more with the hidden states of that model (docs/how-to/language-model.md):

    python benchmarks/private_metric.py --cross-fit --data DATA/codenet/python_sample.parquet --target mem_kb
        --language python --language-model smollm2 --out runs/codenet

Problems, not rows, are split: no problem of the test rows was trained on. The intervals are from resampled problems; `ahead` is
how far the fine-tuned model's Spearman lies above a regressor's on the same resamples. "Before" is the checkpoint that ships,
asked for the metric that it knows best for such input; where it knows none there is no such row.
"""

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from transformers.utils import logging

from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.schema import Example, to_dataset
from code_rlm.evaluation.baselines import fit_predict
from code_rlm.evaluation.calibration import main as calibrate
from code_rlm.evaluation.metrics import bootstrap_interval, spearman
from code_rlm.evaluation.predictions import seen_text
from code_rlm.evaluation.run import main as evaluate
from code_rlm.language_model_rlm import LanguageModelConfig
from code_rlm.loading import load
from code_rlm.train import main as train
from code_rlm.training.ensemble import fit_ensemble, fold_of, settings_for
from code_rlm.training.trees import FOLDS

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


# ---------------------------------------------------------------------------------------------------- cross-fitted


def read_examples(args: argparse.Namespace) -> list[Example]:
    """The rows of a table that have the target, at most `--rows`, drawn by a fixed seed.

    Texts that the table names by the first 16 hexadecimal digits of their SHA-256 (`text_sha256_16`) are taken from `--texts`.
    """
    table = pd.read_csv(args.data) if args.data.suffix == ".csv" else pd.read_parquet(args.data)
    if args.texts:
        texts = pd.read_parquet(args.texts)[["text"]].drop_duplicates()
        texts["text_sha256_16"] = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts["text"]]
        table = table.merge(texts, on="text_sha256_16")
    if "outcome" in table:
        table = table[table["outcome"] == "ok"]
    table = table[table[args.target].notna()].reset_index(drop=True)
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[: args.rows])
    return [
        Example(
            row["text"],
            args.language or row["language"].lower(),
            [METRIC],
            [float(row[args.target])],
            context=list(row.get("context", ())),
            group=str(row[args.group]),
        )
        for row in table.iloc[chosen].to_dict("records")
    ]


def ensemble_predictions(model_name: str, examples: list[Example], language_model: str | None) -> np.ndarray:
    """Cross-fitted scores of a new feature ensemble with the settings of `configs/finetune.yaml`, `(rows,)`."""
    model, processor = load(model_name)
    sizes = yaml.safe_load((ROOT / "configs" / "finetune.yaml").read_text())["ensemble"]
    if language_model:
        sizes["language_model"] = LanguageModelConfig.resolve(language_model)
    model.add_ensemble(settings_for(processor.tokenizer, **sizes))
    source = Source.from_dataset("mine", to_dataset(examples), processor.tokenizer)
    mixture = Mixture([source], [1.0], processor.tokenizer, model.config.max_input_tokens)
    fit_ensemble(model, [source], [], mixture, print)
    return source.ensemble_scores[:, 0].astype(np.float64)


def tfidf_predictions(examples: list[Example]) -> np.ndarray:
    """TF-IDF and ridge on the same folds, `(rows,)`."""
    texts = [seen_text({"context": each.context, "text": each.text}) for each in examples]
    groups = np.array([each.group for each in examples])
    values = np.array([each.values[0] for each in examples])
    folds = np.array([fold_of(group) for group in groups])
    found = np.zeros(len(texts))
    for number in range(FOLDS):
        own = folds == number
        if own.any():
            train_texts, test_texts = ([t for t, is_own in zip(texts, own) if is_own == side] for side in (False, True))
            found[own] = fit_predict("tfidf_ridge", train_texts, values[~own], test_texts, groups=groups[~own])
    return found


def cross_fit(args: argparse.Namespace) -> str:
    """Markdown: rank correlations of cross-fitted predictions, and by how much the last is ahead of the others."""
    examples = read_examples(args)
    groups = np.array([each.group for each in examples])
    values = np.array([each.values[0] for each in examples])
    found = {"TF-IDF + ridge": tfidf_predictions(examples)}
    for name in dict.fromkeys([None, args.language_model]):
        began = time.process_time()
        label = "feature ensemble" if name is None else f"feature ensemble, hidden states of {Path(name).name}"
        found[label] = ensemble_predictions(args.model, examples, name)
        print(f"{label}: {time.process_time() - began:.0f} s of one core")
    last = list(found.values())[-1]

    def ahead(target: np.ndarray, mine: np.ndarray, other: np.ndarray) -> float:
        return spearman(target, mine) - spearman(target, other)

    rows = []
    for label, predicted in found.items():
        rho = bootstrap_interval(spearman, values, predicted, groups=groups)
        own = "–" if predicted is last else written(bootstrap_interval(ahead, values, last, predicted, groups=groups))
        rows.append(f"| {label} | {written(rho)} | {own} |")
    return "\n".join(
        [
            f"{args.target}: {len(values)} rows, {len(set(groups))} groups, every row predicted without its group.",
            "",
            "| predictor | Spearman | the last ahead by |",
            "| --- | --- | --- |",
            *rows,
            "",
        ]
    )


def written(interval: Any) -> str:
    """A score with its interval."""
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


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
    parser.add_argument(
        "--language-model", help="hidden states of this model are features, too: name, folder or GGUF file"
    )
    parser.add_argument(
        "--cross-fit", action="store_true", help="the feature ensemble alone, all rows left out in turn"
    )
    parser.add_argument("--target", default="peak_memory_bytes", help="with --cross-fit: column [peak_memory_bytes]")
    parser.add_argument(
        "--group", default="group", help="with --cross-fit: column of what is left out together [group]"
    )
    parser.add_argument("--language", help="with --cross-fit: of all texts; by default the column language")
    parser.add_argument(
        "--texts", type=Path, help="with --cross-fit: table of texts that --data names by text_sha256_16"
    )
    args = parser.parse_args()
    logging.disable_progress_bar()
    out, data = args.out.absolute(), args.data.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if args.cross_fit:
        text = cross_fit(args)
        (out / "summary.md").write_text(text, encoding="utf-8")
        print(f"\n{text}")
        return
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
    start += ["--ensemble.language-model", args.language_model] if args.language_model else []
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
