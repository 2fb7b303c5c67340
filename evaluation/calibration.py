"""Fits a checkpoint's calibration on rows held out from training, and writes it into the checkpoint's config.

    code-rlm calibrate --model runs/mine/final --task bhive_zen4 tritonbench --data-root DATA --out runs/mine/calibrated
    code-rlm calibrate --model runs/mine/final --data mine.parquet --text-column code --target-columns latency_ms \\
        --group-column kernel --language python --in-place

Each metric is fitted on its own, from the exact P(y < t) of the rows, those of all tables that have it together; the coverage
printed beside is that of maps fitted without the row's group (5 folds). Calibrations of other metrics stay as they are.
A table may have metrics that the model learned on other inputs, a device in another space: name those that it learned there
(`--metrics`).

How (`Calibration` describes the result):

- Rows of one group are not independent of each other, and a new input comes from a new group. So every group weighs the
  same, and its weight is shared among its rows (hierarchical conformal prediction, Lee, Barber and Willett 2023,
  arXiv 2306.06342).
- The pool's values are weighted quantiles of the rows' targets. Its weight minimises the ranked probability score of the
  pooled distributions over 16 cells that divide these values evenly: the CRPS, measured in quantiles of the metric. It is
  at most 0.3, so that medians still distinguish inputs; the levels do the rest.
- The map of levels is the inverse of the distribution of the truths' levels under the pooled distributions. A truth that the
  number format shares with its neighbours counts as uniform between P(y < t) and P(y <= t) (Czado, Gneiting and Held 2009,
  Biometrics 65).
- The distribution of a new group's levels is estimated by leaving out each group in turn: the map takes the level at which the
  groups left out have, on average, the wanted share of their truths below. With groups of one row this is close to
  conformal prediction, which counts the next group among K + 1 as one that falls outside; with a few groups of many rows
  conformal prediction would make 90% intervals hold 95%. Levels in the tails that no share of the truths reaches are left to
  the line that ends the map. Fewer than 100 groups cannot distinguish the two tails; then the map is symmetric, which leaves
  the median where it is.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers.utils import CONFIG_NAME, logging

from code_rlm import cli
from code_rlm.configuration_rlm import FITTED_STATE_NAME, RLMConfig
from code_rlm.console import write_table
from code_rlm.data.schema import FEATURES
from code_rlm.distributions_rlm import Calibration
from code_rlm.evaluation.encoding import BATCH, RowEncoder
from code_rlm.evaluation.familiarity import fit_familiarity
from code_rlm.evaluation.metrics import EvaluationError
from code_rlm.evaluation.predictions import EncodedRows
from code_rlm.evaluation.rows import read_rows, table_names, table_title, wanted_metrics
from code_rlm.evaluation.shards import is_main_process, to_own_device
from code_rlm.familiarity_rlm import Familiarity
from code_rlm.generation_rlm import EncodedInputs
from code_rlm.loading import ADAPTER_BASE, load, write_adapter_config
from code_rlm.modeling_rlm import RLMForConditionalGeneration
from code_rlm.processing_rlm import RLMProcessor
from code_rlm.stats import equal_weights, weighted_quantiles

_TAIL = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4)
LEVELS = np.array([*_TAIL, 0.5, *(round(1 - p, 6) for p in reversed(_TAIL))])
POOL_VALUES, POOL_CELLS, MOST_POOL = 64, 16, 0.3
GROUPS_FOR_TWO_TAILS = 100
LEAST_GROUPS = 5
FOLDS = 5
FAMILIARITY_ROWS = 600  # of each language of a table, that familiarity is fitted to
SHOWN = (0.5, 0.8, 0.9, 0.95)
_LEAST_WIDTH = 1e-9  # of a range of levels; digits of a level that are kept


@dataclass
class HeldOut:
    """Held-out rows of one metric with the model's probabilities.

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
        """Weight of each row `(rows,)`."""
        return equal_weights(self.groups)

    def pooled(self, weight: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns P(y < value) and P(y <= value) of the pooled distributions, `(rows,)` each."""
        pool_below = np.searchsorted(self.pool, self.values, side="left") / len(self.pool)
        pool_up_to = np.searchsorted(self.pool, self.values, side="right") / len(self.pool)
        below = (1 - weight) * self.below + weight * pool_below
        up_to = (1 - weight) * self.up_to + weight * pool_up_to
        return below, up_to


def held_out(
    model: RLMForConditionalGeneration,
    processor: RLMProcessor,
    rows: Dataset,
    metric: str,
    batch_size: int = BATCH,
    encode: RowEncoder | None = None,
) -> HeldOut:
    """Returns the model's own probabilities of the rows' values.

    Args:
        model, processor: The checkpoint.
        rows: A table in the schema.
        metric: Its name.
        batch_size: Rows run together.
        encode: Has read the rows of earlier fits; None: none was made.

    Raises:
        EvaluationError: Fewer than five groups, or a checkpoint without exact distributions.
    """
    _check_exact(model, metric)
    encoded = EncodedRows.of(rows, metric, processor)
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
        # P(y <= value) is P(y < t) at the next float64.
        own_edges = np.broadcast_to(edges, (len(batch), len(edges)))
        thresholds = np.concatenate([own, np.nextafter(own, np.inf), own_edges], 1)
        return [model.cdf(memory, thresholds, metrics=[metric], calibrated=False)]

    (probabilities,) = encoded.run(model, processor, ask, batch_size, encode or RowEncoder(model, processor))
    below, up_to, cells = probabilities[:, 0], probabilities[:, 1], probabilities[:, 2:]
    return HeldOut(values, below, up_to, cells, edges, pool, groups)


def _check_exact(model: RLMForConditionalGeneration, metric: str) -> None:
    """Refuses a checkpoint without exact distributions."""
    why = None
    if model.regression_head is not None:
        why = "answers with a regression head"
    elif not model.codec.ordered_digits:
        why = f"writes numbers in the {model.codec.format.layout} layout, whose digits are not ordered"
    if why is not None:
        raise EvaluationError(
            f"{metric}: only exact quantiles can be calibrated, and this checkpoint has none, as it {why}."
        )


def cell_edges(pool: np.ndarray) -> np.ndarray:
    """Returns values between cells that hold the same share of the pool; fewer where values repeat."""
    step = len(pool) // POOL_CELLS
    return np.unique(pool[step::step])


def best_weight(rows: HeldOut) -> float:
    """Returns the pool's weight, at most 0.3, of the least mean ranked probability score.

    The score is a quadratic function of the weight, so its minimum has a closed form.
    """
    pool = np.searchsorted(rows.pool, rows.edges, side="left") / len(rows.pool)
    truth = rows.values[:, None] < rows.edges
    error, change = rows.cells - truth, rows.cells - pool
    curvature = float(rows.weights @ (change**2).sum(1))
    if curvature <= 0:  # every distribution is the pool already
        return 0.0
    slope = rows.weights @ (error * change).sum(1)
    return float(np.clip(slope / curvature, 0.0, MOST_POOL))


def fit_calibration(rows: HeldOut, source: str = "") -> Calibration:
    """Returns the calibration of a metric: pool and map of levels, as the module describes.

    Args:
        rows: Held-out rows.
        source: Description of the rows.
    """
    names, index = np.unique(rows.groups, return_inverse=True)
    weight = best_weight(rows)
    low, high = rows.pooled(weight)
    is_symmetric = len(names) < GROUPS_FOR_TWO_TAILS
    if is_symmetric:  # every truth counts at its mirrored level, too
        low, high = np.concatenate([low, 1 - high]), np.concatenate([high, 1 - low])
        index = np.tile(index, 2)
    wanted, is_known = _levels_of_the_next_group(low, high, index)
    model_levels = _UniformMixture(low, high, equal_weights(index)).quantile(wanted)
    if is_symmetric:  # where no truth fell any level would do: take the symmetric one
        model_levels = (model_levels + 1 - model_levels[::-1]) / 2
    model_levels = np.maximum.accumulate(model_levels).clip(0, 1).round(9)
    return Calibration(
        levels=tuple(LEVELS[is_known].tolist()),
        model_levels=tuple(model_levels.tolist()),
        pool_weight=round(weight, 6),
        pool_values=tuple(rows.pool.tolist()) if weight else (),
        rows=len(rows),
        groups=len(names),
        source=source,
    )


def fit_metric(
    model: RLMForConditionalGeneration,
    processor: RLMProcessor,
    rows: Dataset,
    metric: str,
    source: str = "",
    batch_size: int = BATCH,
    seed: int = 0,
    encode: RowEncoder | None = None,
) -> tuple[Calibration, dict[float, tuple[float, float]]]:
    """Returns the calibration of a metric, and its cross-fitted coverage (`cross_fitted_coverage`).

    Args:
        model, processor: The checkpoint.
        rows: Held-out rows in the schema.
        metric: Its name.
        source: Description of the rows.
        batch_size: Rows run together.
        seed: Of the folds.
        encode: Has read the rows of earlier fits; None: none was made.

    Raises:
        EvaluationError: See `held_out`.
    """
    asked = held_out(model, processor, rows, metric, batch_size, encode)
    return fit_calibration(asked, source), cross_fitted_coverage(asked, seed)


class _UniformMixture:
    """A mixture of uniform distributions on ranges inside [0, 1].

    Args:
        low, high: Ends of the ranges `(rows,)`.
        weights: Their weights `(rows,)`, sum 1.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, weights: np.ndarray):
        width = np.maximum(high - low, _LEAST_WIDTH)
        density = weights / width
        # The density rises at the start of each range and falls at its end.
        ends = np.concatenate([low, low + width])
        order = np.argsort(ends, kind="stable")
        densities = np.cumsum(np.concatenate([density, -density])[order])
        self.points = ends[order]
        cumulative = np.concatenate([[0.0], np.cumsum(densities[:-1] * np.diff(self.points))])
        self.cumulative = np.maximum.accumulate(cumulative) / cumulative[-1]

    def cdf(self, points: np.ndarray) -> np.ndarray:
        """Returns the share at or below each point."""
        return np.interp(points, self.points, self.cumulative)

    def quantile(self, levels: np.ndarray) -> np.ndarray:
        """Returns the points at which shares are reached."""
        return np.interp(levels, self.cumulative, self.points)


def _levels_of_the_next_group(low: np.ndarray, high: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the levels of the observed groups at which the truths of a new group reach `LEVELS`, on average.

    Args:
        low, high: Range of levels of each truth, `(rows,)`.
        index: Number of each row's group, `(rows,)`.

    Returns:
        The levels, and which of `LEVELS` they are for, bool: those that any level reaches in both tails.
    """
    fine = np.geomspace(1e-5, 0.01, 100)
    grid = np.unique(np.concatenate([[0, 1], fine, np.linspace(0.01, 0.99, 981), 1 - fine]))
    groups = int(index.max()) + 1
    mean_share = np.zeros(len(grid))  # of a group left out, below each level of the others
    for number in range(groups):
        own = index == number
        others = _UniformMixture(low[~own], high[~own], equal_weights(index[~own]))
        left_out = _UniformMixture(low[own], high[own], equal_weights(index[own]))
        mean_share += left_out.cdf(others.quantile(grid)) / groups
    # Where truths are few the share rises in steps: the middle of a step's levels reaches it.
    shares, step = np.unique(np.maximum.accumulate(mean_share).round(9), return_inverse=True)
    middles = np.bincount(step, grid) / np.bincount(step)
    is_known = (LEVELS > shares[0] + _LEAST_WIDTH) & (LEVELS < shares[-1] - _LEAST_WIDTH)
    is_known &= is_known[::-1]
    return np.interp(LEVELS[is_known], shares, middles), is_known


def covered(rows: HeldOut, calibration: Calibration | None, interval: float) -> np.ndarray:
    """Returns which rows' values lie in their central interval, bool `(rows,)`; without a calibration the model's own."""
    levels = np.array([(1 - interval) / 2, (1 + interval) / 2])
    if calibration is None:
        below, up_to = rows.below, rows.up_to
    else:
        below, up_to = rows.pooled(calibration.pool_weight)
        levels = calibration.model_level(levels)
    return (up_to >= levels[0]) & (below < levels[1])


def cross_fitted_coverage(rows: HeldOut, seed: int = 0) -> dict[float, tuple[float, float]]:
    """Returns the coverage of each shown interval before and after calibration, each group weighing the same.

    The coverage after calibration is that of calibrations fitted without the row's group, in `FOLDS` folds.
    """
    names, index = np.unique(rows.groups, return_inverse=True)
    fold = np.random.default_rng(seed).permutation(len(names))[index] % FOLDS
    is_covered = {interval: np.zeros(len(rows), dtype=bool) for interval in SHOWN}
    for k in range(FOLDS):
        calibration = fit_calibration(rows[fold != k])
        left_out = rows[fold == k]
        for interval in SHOWN:
            is_covered[interval][fold == k] = covered(left_out, calibration, interval)
    weights = rows.weights
    coverage = {}
    for interval in SHOWN:
        before = float((weights * covered(rows, None, interval)).sum())
        coverage[interval] = (before, float((weights * is_covered[interval]).sum()))
    return coverage


def write_calibration(
    checkpoint: Path, out: Path, calibrations: dict[str, Calibration], familiarity: Familiarity | None = None
) -> None:
    """Writes calibrations into a checkpoint's fitted state, or into that of a copy; nothing is ever half written.

    Args:
        checkpoint: A folder.
        out: The same folder, or one that does not exist yet or is empty.
        calibrations: By metric; those of other metrics stay.
        familiarity: What was learned of the training rows; of other metrics it stays.

    Raises:
        EvaluationError: The copy would overwrite something.
    """
    config = RLMConfig.from_pretrained(checkpoint)
    known = config.fitted.familiarity
    config.set_fitted(
        replace(
            config.fitted,
            calibration={**config.fitted.calibration, **calibrations},
            familiarity=known if familiarity is None else known.merged(familiarity),
        )
    )
    if out.resolve() == checkpoint.resolve():
        _replace_config(config, checkpoint)
        return
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        shutil.copytree(checkpoint, partial, dirs_exist_ok=True)
        _replace_config(config, partial)
        shutil.copymode(checkpoint, partial)
        os.replace(partial, out)  # takes the place of an empty folder, of nothing else
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace_config(config: RLMConfig, folder: Path) -> None:
    """Writes `config.json` and the fitted state of a folder, each whole or not at all.

    The state comes first: a config of an earlier release, which does not name a state, is complete without it.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".config-") as partial:
        config.to_json_file(Path(partial) / CONFIG_NAME)
        for name in (FITTED_STATE_NAME, CONFIG_NAME):
            if (folder / name).exists():
                shutil.copymode(folder / name, Path(partial) / name)
            os.replace(Path(partial) / name, folder / name)
    if (folder / ADAPTER_BASE).is_file():
        write_adapter_config(folder, config)


def check_out(out: Path) -> None:
    """Refuses a folder for the copy that holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise EvaluationError(f"--out {out} is there already and not empty; choose another folder, or --in-place.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `code-rlm calibrate` and returns its exit status."""
    return cli.main(["calibrate", *(sys.argv[1:] if argv is None else argv)])


def joined(parts: Sequence[tuple[str, Dataset]]) -> Dataset:
    """The rows of several tables as one, a group of one table apart from those of the others."""
    if len(parts) == 1:
        return parts[0][1]
    apart = [
        rows.map(lambda group, name: {"group": f"{name}/{group}"}, input_columns="group", fn_kwargs={"name": name})
        for name, rows in parts
    ]
    return concatenate_datasets(apart)


def _training_and_held_out(names: Sequence[str], args: argparse.Namespace) -> dict[str, tuple[Dataset, Dataset]]:
    """Training rows and rows of the asked split of every table, by its title."""
    tables = {}
    for name in names:
        training = read_rows(name, args, "train", FAMILIARITY_ROWS)
        languages = len(set(training["language"]))
        if languages > 1:
            training = read_rows(name, args, "train", FAMILIARITY_ROWS * languages)
        tables[table_title(name)] = (training, read_rows(name, args, args.split, FAMILIARITY_ROWS * languages))
    return tables


def _unfamiliar(args: argparse.Namespace) -> list[tuple[str, Dataset]]:
    """Rows of `--unfamiliar` by their source.

    Raises:
        EvaluationError: The table is not one in the schema.
    """
    if not args.unfamiliar:
        return []
    rows = load_dataset("parquet", data_files=args.unfamiliar, split="train")
    if lacking := sorted(set(FEATURES) - set(rows.column_names)):
        raise EvaluationError(f"--unfamiliar {args.unfamiliar} lacks the columns {', '.join(lacking)} of the schema.")
    sources = np.array(rows["source"])
    return [(source, rows.select(np.flatnonzero(sources == source))) for source in sorted(set(sources.tolist()))]


def calibrate(args: argparse.Namespace) -> dict[str, Calibration]:
    """Runs the command; returns metric to calibration."""
    logging.disable_progress_bar()
    names, checkpoint = table_names(args), Path(args.model)
    if not checkpoint.is_dir():
        raise EvaluationError(f"--model {checkpoint} is not a folder; a calibration is written into one.")
    out = checkpoint if args.in_place else Path(args.out)
    if out.resolve() != checkpoint.resolve():
        check_out(out)
    model, processor = load(checkpoint)
    to_own_device(model)
    tables: dict[str, list[tuple[str, Dataset]]] = {}
    for name in names if "levels" in args.parts else ():
        rows = read_rows(name, args, args.split, args.max_rows)
        for metric in wanted_metrics(model.config, rows, name, args):
            tables.setdefault(metric, []).append((table_title(name), rows))
    found: dict[str, Calibration] = {}
    lines = []
    for metric, parts in tables.items():
        title = " + ".join(name for name, _ in parts)
        described = f"{title}, {args.split} split, seed {args.seed}"
        entry, coverage = fit_metric(model, processor, joined(parts), metric, described, args.batch_size, args.seed)
        found[metric] = entry
        cells = [f"{before:.1%} -> {after:.1%}" for before, after in coverage.values()]
        lines.append((title, metric, f"{entry.rows} ({entry.groups})", f"{entry.pool_weight:.3f}", *cells))
    familiarity = None
    if "familiarity" in args.parts:
        familiarity = fit_familiarity(model, processor, _training_and_held_out(names, args), _unfamiliar(args))
    if is_main_process():
        write_calibration(checkpoint, out, found, familiarity)
        header = ("table", "metric", "rows (groups)", "pool", *(f"in {interval:.0%}" for interval in SHOWN))
        if found:
            write_table(header, lines, sys.stdout)
            print(f"Calibrations of {len(found)} metrics are in {out / FITTED_STATE_NAME}.")
        if familiarity is not None:
            for metric, pool in familiarity.pools.items():
                print(f"Beyond the training rows of {metric}: pool weight {pool.weight:g}, {pool.source}.")
            print(f"Descriptions of {len(familiarity.references)} domains are in {out / FITTED_STATE_NAME}.")
    return found


if __name__ == "__main__":
    sys.exit(main())
