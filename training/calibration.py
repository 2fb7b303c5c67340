"""Calibrates the final checkpoint of a run on its validation rows, as `code-rlm calibrate` does on rows that are named."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from code_rlm.distributions_rlm import Calibration
from code_rlm.evaluation.calibration import FAMILIARITY_ROWS, fit_metric, joined, write_calibration
from code_rlm.evaluation.encoding import RowEncoder
from code_rlm.evaluation.familiarity import fit_familiarity
from code_rlm.evaluation.metrics import EvaluationError
from code_rlm.evaluation.rows import measured
from code_rlm.evaluation.shards import is_main_process, to_own_device
from code_rlm.loading import load
from code_rlm.training.options import TrainOptions
from code_rlm.training.sources import Loaded


def calibrate_final(
    final: Path,
    loaded: Sequence[Loaded],
    options: TrainOptions,
    log: Callable[[str], None] = lambda text: None,
    encode: RowEncoder | None = None,
) -> None:
    """Fits calibrations and familiarity, and writes them into a checkpoint; every process of a run calls it.

    A metric whose validation rows are of fewer than five groups keeps the model's own intervals, which is logged.

    Args:
        final: The checkpoint's folder.
        loaded: The sources of the run; those of a bundle, which come without rows, count for nothing.
        options: Of the run.
        log: Gets a line of each metric.
        encode: Of the same model, in this process, with the rows that pooling has read; None: the checkpoint is loaded.
    """
    sources = [each for each in loaded if each.rows is not None and not each.fallback_only]
    beyond = [each for each in loaded if each.fallback_only and each.rows is not None]
    if not options.calibration.use or not (sources or beyond):
        return
    if encode is None:
        model, processor = load(final)
        to_own_device(model)
        encode = RowEncoder(model, processor)
    model, processor = encode.model, encode.processor
    if model.regression_head is not None or not model.codec.ordered_digits:
        return  # no exact quantiles to calibrate
    calibrations: dict[str, Calibration] = {}
    for metric in dict.fromkeys(name for each in sources for name in each.train.metrics):
        parts = [
            (each.name, rows) for each in sources if len(rows := _rows_with(each.validation_rows, metric, options))
        ]
        if not parts:
            log(f"{metric} is not calibrated: no validation row has it")
            continue
        described = f"{' + '.join(name for name, _ in parts)}, validation split, seed {options.seed}"
        try:
            entry, coverage = fit_metric(
                model, processor, joined(parts), metric, described, seed=options.seed, encode=encode
            )
        except EvaluationError as error:
            log(f"not calibrated: {error}")
            continue
        calibrations[metric] = entry
        before, after = coverage[0.9]
        log(
            f"calibrated {metric} on {entry.rows} validation rows ({entry.groups} groups): 90% intervals hold {before:.1%} -> "
            f"{after:.1%} of them"
        )
    tables = {each.name: (_drawn(each.rows, options), _drawn(each.validation_rows, options)) for each in sources}
    unfamiliar = [(each.name, _drawn(each.rows, options)) for each in beyond]
    familiarity = fit_familiarity(model, processor, tables, unfamiliar)
    if is_main_process():
        for folder in (final, final.parent / "adapter"):
            if folder.is_dir():
                write_calibration(folder, folder, calibrations, familiarity)


def _rows_with(rows: Dataset | None, metric: str, options: TrainOptions) -> Dataset:
    """Returns the rows that have a metric, at most so many as the options say."""
    if rows is None:
        return Dataset.from_dict({})
    index, _ = measured(rows, metric)
    return rows.select(_some(index, options.calibration.rows, options.seed))


def _drawn(rows: Dataset | None, options: TrainOptions) -> Dataset:
    """Returns at most `FAMILIARITY_ROWS` rows for each language."""
    if rows is None or not len(rows):
        return Dataset.from_dict({"text": [], "language": [], "context": [], "metrics": [], "values": [], "group": []})
    limit = FAMILIARITY_ROWS * len(set(rows["language"]))
    return rows.select(_some(np.arange(len(rows)), limit, options.seed))


def _some(index: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Returns at most so many indices, drawn at random, ascending."""
    return index if len(index) <= limit else np.sort(np.random.default_rng(seed).permutation(index)[:limit])


__all__ = ["calibrate_final"]
