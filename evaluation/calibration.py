"""Fits a checkpoint's calibration on rows held out from training, and writes it into the checkpoint's config.

    code-rlm calibrate --model runs/mine/final --task bhive_zen4 tritonbench --data-root DATA --out runs/mine/calibrated
    code-rlm calibrate --model runs/mine/final --data mine.parquet --text-column code --target-columns latency_ms \\
        --group-column kernel --language python --in-place

Each metric is fitted on its own, from the exact P(y < t) of the rows, those of all tables that have it together; the coverage
printed beside is that of maps fitted without the row's group (5 folds). Calibrations of other metrics stay as they are.
A table may have metrics that the model learned on other inputs, a device in another space: name those that it learned there
(`--metrics`).

How (`Calibration` says what comes out):

- Rows of one group are not independent of each other, and a new input comes from a new group. So every group weighs the
  same, and its weight is shared among its rows (hierarchical conformal prediction, Lee, Barber and Willett 2023,
  arXiv 2306.06342).
- The pool's values are weighted quantiles of the rows' targets. Its weight minimises the ranked probability score of the
  pooled distributions over 16 cells that split these values evenly: the CRPS, with a metric's quantiles for a ruler. It is
  at most 0.3, so that medians still tell one input from another; the levels do the rest.
- The map of levels is the inverse of the distribution of the truths' levels under the pooled distributions; a truth that the
  number format shares with its neighbours is spread evenly between P(y < t) and P(y <= t) (Czado, Gneiting and Held 2009,
  Biometrics 65). Where the next group's truths will lie is read off the groups seen: each is left out, and the level is taken
  at which the groups left out, on the average, have the wanted share of their truths below. With groups of one row this is
  nearly what conformal prediction counts, the next group among K + 1 as one that falls outside; with a few groups of many
  rows that would make 90% intervals hold 95%. Levels in the tails that no share of the truths reaches are left to the line
  that ends the map. Fewer than 100 groups cannot tell the two tails apart; then the map is symmetric, which leaves the median
  where it is.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers.utils import logging

from code_rlm.calibration_rlm import Calibration
from code_rlm.errors_rlm import RLMError
from code_rlm.evaluation.metrics import EvaluationError
from code_rlm.evaluation.predictions import EncodedRows
from code_rlm.evaluation.rows import add_row_options, read_rows, table_names, table_title, wanted_metrics
from code_rlm.evaluation.shards import is_main_process, own_device
from code_rlm.generation_rlm import EncodedInputs
from code_rlm.loading import load
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.tokenization_rlm import RLMTokenizer

_TAIL = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4)
LEVELS = np.array([*_TAIL, 0.5, *(round(1 - p, 6) for p in reversed(_TAIL))])
POOL_VALUES, POOL_CELLS, MOST_POOL = 64, 16, 0.3
GROUPS_FOR_TWO_TAILS = 100
LEAST_GROUPS = 5
FOLDS = 5
SHOWN = (0.5, 0.8, 0.9, 0.95)


@dataclass
class HeldOut:
    """What calibration needs to know of held-out rows.

    Attributes:
        values: Targets as the number format writes them, `(rows,)`.
        below, up_to: The model's P(y < value) and P(y <= value), `(rows,)`.
        cells: Its P(y < edge) at the edges between cells, `(rows, edges)`.
        edges: Those edges, ascending, `(edges,)`.
        pool: The pool's values, ascending.
        groups: Name of each row's group, `(rows,)`.
    """

    values: np.ndarray
    below: np.ndarray
    up_to: np.ndarray
    cells: np.ndarray
    edges: np.ndarray
    pool: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: np.ndarray) -> "HeldOut":
        columns = ("values", "below", "up_to", "cells", "groups")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    @property
    def weights(self) -> np.ndarray:
        """Weight of each row."""
        return equal_weights(self.groups)

    def pooled(self, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """P(y < value) and P(y <= value) of the pooled distributions, `(rows,)` each."""
        return (
            (1 - weight) * self.below + weight * np.searchsorted(self.pool, self.values, side="left") / len(self.pool),
            (1 - weight) * self.up_to + weight * np.searchsorted(self.pool, self.values, side="right") / len(self.pool),
        )


def held_out(
    model: RLMForConditionalGeneration, tokenizer: RLMTokenizer, rows: Dataset, metric: str, batch_size: int = 32
) -> HeldOut:
    """Asks the model for its own probabilities of the rows' values.

    Raises:
        EvaluationError: Fewer than five groups, or a checkpoint without exact distributions.
    """
    if model.regression_head is not None or not model.codec.ordered_digits:
        raise EvaluationError(
            f"{metric}: only exact quantiles can be calibrated, and this checkpoint has none, as it "
            + (
                "answers with a regression head."
                if model.regression_head is not None
                else f"writes numbers in the {model.codec.format.layout} layout, whose digits are not ordered."
            )
        )
    encoded = EncodedRows.of(rows, metric, tokenizer, model.config)
    groups = np.array(encoded.rows["group"])
    if len(np.unique(groups)) < LEAST_GROUPS:
        raise EvaluationError(
            f"{metric}: {len(encoded.target)} rows in {len(np.unique(groups))} groups; a calibration needs at least "
            f"{LEAST_GROUPS} groups. Give more rows, or a --group-column in which they differ."
        )
    values = encoded.written
    pool = weighted_quantiles(values, equal_weights(groups), (np.arange(POOL_VALUES) + 0.5) / POOL_VALUES)
    edges = cell_edges(pool)

    def ask(memory: EncodedInputs, batch: np.ndarray) -> list[np.ndarray]:
        own = values[batch, None]
        thresholds = np.concatenate(
            [own, np.nextafter(own, np.inf), np.broadcast_to(edges, (len(batch), len(edges)))], 1
        )
        return [model.cdf(memory, thresholds, metrics=[metric])]

    (found,) = encoded.run(model, tokenizer, ask, batch_size)
    return HeldOut(values, found[:, 0], found[:, 1], found[:, 2:], edges, pool, groups)


def equal_weights(groups: np.ndarray) -> np.ndarray:
    """Weight of each row, equal between groups and within each, sum 1."""
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / counts[index] / len(counts)


def cell_edges(pool: np.ndarray) -> np.ndarray:
    """Values between cells that hold the same share of the pool; fewer where values repeat."""
    step = len(pool) // POOL_CELLS
    return np.unique(pool[step::step])


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The smallest values whose cumulative weight reaches each level."""
    order = np.argsort(values, kind="stable")
    running = np.cumsum(weights[order])
    return values[order][np.minimum(np.searchsorted(running, levels * running[-1]), len(values) - 1)]


def best_weight(rows: HeldOut) -> float:
    """The pool's weight, at most 0.3, of the least mean ranked probability score; its square form has one minimum."""
    pool = np.searchsorted(rows.pool, rows.edges, side="left") / len(rows.pool)
    truth = rows.values[:, None] < rows.edges
    error, change = rows.cells - truth, rows.cells - pool
    bend = float(rows.weights @ (change**2).sum(1))
    return float(np.clip(rows.weights @ (error * change).sum(1) / bend, 0.0, MOST_POOL)) if bend > 0 else 0.0


def fit_calibration(rows: HeldOut, source: str = "") -> Calibration:
    """Fits pool and map of levels; see the module."""
    names, index = np.unique(rows.groups, return_inverse=True)
    share = best_weight(rows)
    low, high = rows.pooled(share)
    symmetric = len(names) < GROUPS_FOR_TWO_TAILS
    if symmetric:
        low, high, index = np.concatenate([low, 1 - high]), np.concatenate([high, 1 - low]), np.tile(index, 2)
    wanted, known = _levels_of_the_next_group(low, high, index)
    levels = _Spread(low, high, equal_weights(index)).quantile(wanted)
    if symmetric:  # where no truth fell, any level would do: take the one that is symmetric, too
        levels = (levels + 1 - levels[::-1]) / 2
    return Calibration(
        levels=tuple(LEVELS[known].tolist()),
        model_levels=tuple(np.maximum.accumulate(levels).clip(0, 1).round(9).tolist()),
        pool_weight=round(share, 6),
        pool_values=tuple(rows.pool.tolist()) if share else (),
        rows=len(rows),
        groups=len(names),
        source=source,
    )


class _Spread:
    """The mixture of the uniform distributions on `[low, high]` in [0, 1], `(rows,)` each, of weights that sum to 1."""

    def __init__(self, low: np.ndarray, high: np.ndarray, weights: np.ndarray):
        width = np.maximum(high - low, 1e-9)
        ends = np.concatenate([low, low + width])
        order = np.argsort(ends, kind="stable")
        slopes = np.cumsum(np.concatenate([weights / width, -weights / width])[order])
        self.points = ends[order]
        self.reached = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(self.points))])
        self.reached = np.maximum.accumulate(self.reached) / self.reached[-1]

    def cdf(self, points: np.ndarray) -> np.ndarray:
        """The share at or below each point."""
        return np.interp(points, self.points, self.reached)

    def quantile(self, levels: np.ndarray) -> np.ndarray:
        """The points at which shares are reached."""
        return np.interp(levels, self.reached, self.points)


def _levels_of_the_next_group(low: np.ndarray, high: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At which levels of the groups seen the truths of a further one reach `LEVELS`, on the average.

    Args:
        low, high: Between which levels each truth lies, `(rows,)`.
        index: Number of each row's group, `(rows,)`.

    Returns:
        These levels, and which of `LEVELS` they are for, bool: those that any level reaches in both tails.
    """
    fine = np.geomspace(1e-5, 0.01, 100)
    seen = np.unique(np.concatenate([[0, 1], fine, np.linspace(0.01, 0.99, 981), 1 - fine]))
    reached = np.zeros(len(seen))
    for number in range(groups := int(index.max()) + 1):
        own = index == number
        others = _Spread(low[~own], high[~own], equal_weights(index[~own]))
        reached += _Spread(low[own], high[own], equal_weights(index[own])).cdf(others.quantile(seen)) / groups
    # Where truths are few the share goes up in stairs: of the levels between two of them the middle one reaches it.
    distinct, stair = np.unique(np.maximum.accumulate(reached).round(9), return_inverse=True)
    known = (LEVELS > distinct[0] + 1e-9) & (LEVELS < distinct[-1] - 1e-9)
    known &= known[::-1]
    return np.interp(LEVELS[known], distinct, np.bincount(stair, seen) / np.bincount(stair)), known


def covered(rows: HeldOut, calibration: Calibration | None, interval: float) -> np.ndarray:
    """Which rows' values lie in their central interval, bool `(rows,)`."""
    levels = np.array([(1 - interval) / 2, (1 + interval) / 2])
    low, high = (rows.below, rows.up_to) if calibration is None else rows.pooled(calibration.pool_weight)
    least, most = levels if calibration is None else calibration.model_level(levels)
    return (high >= least) & (low < most)


def cross_fitted_coverage(rows: HeldOut, seed: int = 0) -> dict[float, tuple[float, float]]:
    """For each shown interval the share of rows, each group weighing the same, that it covers: before, and after a
    calibration that was fitted without the row's group."""
    names, index = np.unique(rows.groups, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names))[index] % FOLDS
    hits = {interval: np.zeros(len(rows), dtype=bool) for interval in SHOWN}
    for k in range(FOLDS):
        fitted = fit_calibration(rows[fold != k])
        for interval, found in hits.items():
            found[fold == k] = covered(rows[fold == k], fitted, interval)
    weights = rows.weights
    return {
        interval: (float((weights * covered(rows, None, interval)).sum()), float((weights * found).sum()))
        for interval, found in hits.items()
    }


def write_calibration(checkpoint: Path, out: Path, found: dict[str, Calibration]) -> None:
    """Writes calibrations into a checkpoint's config.json, or into that of a copy; nothing is ever half written.

    Args:
        checkpoint: A folder.
        out: The same folder, or one that does not exist yet or is empty.
        found: Metric to calibration.

    Raises:
        EvaluationError: The copy would overwrite something.
    """
    path = checkpoint / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["calibration"] = {**(fields.get("calibration") or {}), **{m: c.to_dict() for m, c in found.items()}}
    text = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    if out.resolve() == checkpoint.resolve():
        with tempfile.NamedTemporaryFile("w", dir=out, prefix=".config", delete=False, encoding="utf-8") as file:
            file.write(text)
        shutil.copymode(path, file.name)
        os.replace(file.name, path)
        return
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        shutil.copytree(checkpoint, half, dirs_exist_ok=True)
        (half / "config.json").write_text(text, encoding="utf-8")
        shutil.copymode(checkpoint, half)
        os.replace(half, out)  # takes the place of an empty folder, of nothing else
    finally:
        shutil.rmtree(half, ignore_errors=True)


def check_out(out: Path) -> None:
    """Refuses a folder for the copy that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EvaluationError(f"--out {out} is there already and not empty; choose another folder, or --in-place.")


def build_parser() -> argparse.ArgumentParser:
    """The argument parser of `code-rlm calibrate`."""
    parser = argparse.ArgumentParser(
        "code-rlm calibrate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder")
    add_row_options(parser, split="validation")
    parser.add_argument("--batch-size", type=int, default=32)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="DIR", help="folder for a copy of the checkpoint with the calibration")
    where.add_argument("--in-place", action="store_true", help="write into the checkpoint itself")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 and one line on unusable arguments or data."""
    args = build_parser().parse_args(argv)
    logging.disable_progress_bar()
    try:
        calibrate(args)
    except (RLMError, ImportError) as error:
        print(f"code-rlm calibrate: {error}", file=sys.stderr)
        return 2
    return 0


def joined(parts: Sequence[tuple[str, Dataset]]) -> Dataset:
    """The rows of several tables as one, a group of one table apart from those of the others."""
    if len(parts) == 1:
        return parts[0][1]
    apart = [
        rows.map(lambda group, name: {"group": f"{name}/{group}"}, input_columns="group", fn_kwargs={"name": name})
        for name, rows in parts
    ]
    return concatenate_datasets(apart)


def calibrate(args: argparse.Namespace) -> dict[str, Calibration]:
    """Runs the command; returns metric to calibration."""
    names, checkpoint = table_names(args), Path(args.model)
    if not checkpoint.is_dir():
        raise EvaluationError(f"--model {checkpoint} is not a folder; a calibration is written into one.")
    out = checkpoint if args.in_place else Path(args.out)
    if out.resolve() != checkpoint.resolve():
        check_out(out)
    model, tokenizer = load(checkpoint)
    model.to(own_device())
    tables: dict[str, list[tuple[str, Dataset]]] = {}
    for name in names:
        rows = read_rows(name, args, args.split, args.max_rows)
        for metric in wanted_metrics(model.config, rows, name, args):
            tables.setdefault(metric, []).append((table_title(name), rows))
    found: dict[str, Calibration] = {}
    lines = []
    for metric, parts in tables.items():
        title = " + ".join(name for name, _ in parts)
        asked = held_out(model, tokenizer, joined(parts), metric, args.batch_size)
        found[metric] = entry = fit_calibration(asked, f"{title}, {args.split} split, seed {args.seed}")
        coverage = cross_fitted_coverage(asked, args.seed)
        cells = [f"{before:.1%} -> {after:.1%}" for before, after in coverage.values()]
        lines.append((title, metric, f"{entry.rows} ({entry.groups})", f"{entry.pool_weight:.3f}", *cells))
    if is_main_process():
        write_calibration(checkpoint, out, found)
        header = ("table", "metric", "rows (groups)", "pool", *(f"in {interval:.0%}" for interval in SHOWN))
        widths = [max(len(line[i]) for line in (header, *lines)) for i in range(len(header))]
        for line in (header, *lines):
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        print(f"Calibrations of {len(found)} metrics are in {out / 'config.json'}.")
    return found


if __name__ == "__main__":
    sys.exit(main())
