"""Fits the lower bounds of resident memory of a checkpoint again, and nothing else: idle memory by language, ratios to bounds.

    python -m code_rlm.training.bounds runs/default --data-root DATA --public public_programs.parquet           # prints them
    python -m code_rlm.training.bounds runs/default --data-root DATA --public public_programs.parquet --write   # and keeps them

The tables are those that the fallback regressors of the weights that ship were fitted to: see training_4.yaml beside these.
`code-rlm train` does the same at the end of a run that fits familiarity.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from datasets import Dataset

from code_rlm.configuration_rlm import FittedState
from code_rlm.data.readers import read_task
from code_rlm.evaluation.familiarity import bound_ratios, idle_memory

METRIC = "peak_rss_bytes"


def public_programs(path: Path) -> Dataset:
    """The table that `python -m code_rlm_data.join` makes, in the schema of tasks; programs that did not run are left out."""
    rows = [row for row in pq.read_table(path).to_pylist() if row[METRIC] is not None]
    return Dataset.from_dict(
        {
            "text": [row["text"] for row in rows],
            "language": [row["language"] for row in rows],
            "metrics": [[METRIC]] * len(rows),
            "values": [[float(row[METRIC])] for row in rows],
        }
    )


def refitted(state: FittedState, known: Dataset, unfamiliar: list[Dataset]) -> FittedState:
    """A fitted state with other bounds.

    Args:
        state: Of the checkpoint.
        known: Training rows of the transformer.
        unfamiliar: Tables for the fallback regressors alone.
    """
    idle = {METRIC: idle_memory([known, *unfamiliar], METRIC)}
    familiarity = replace(state.familiarity, idle={**state.familiarity.idle, **idle})
    ratios = bound_ratios(familiarity, unfamiliar, METRIC)
    if ratios is not None:
        familiarity = replace(familiarity, bound_ratios={**familiarity.bound_ratios, METRIC: ratios})
    return replace(state, familiarity=familiarity)


def main() -> None:
    """Fits, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="its folder")
    parser.add_argument("--data-root", required=True, help="folder of the tables polyglot_memory and polyglot_range")
    parser.add_argument("--public", type=Path, required=True, help="public programs with their measurements")
    parser.add_argument("--write", action="store_true", help="write them into the checkpoint")
    args = parser.parse_args()
    tables = [
        read_task(task, args.data_root, "train", metrics=[METRIC]) for task in ("polyglot_memory", "polyglot_range")
    ]
    state = refitted(
        FittedState.read(args.checkpoint / "fitted_state.json"), tables[0], [tables[1], public_programs(args.public)]
    )
    for language, value in sorted(state.familiarity.idle[METRIC].items()):
        print(f"{language:12} {value / 2**20:8.2f} MiB")
    print("ratios to bounds:", *state.familiarity.bound_ratios[METRIC])
    if args.write:
        state.write(args.checkpoint)


if __name__ == "__main__":
    main()
