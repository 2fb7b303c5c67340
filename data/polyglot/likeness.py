"""What programs with given estimates were measured to need: measurements for programs that nobody runs.

An estimate knows nothing of allocators, runtimes and garbage collectors, but all programs of a language share those: boosted
trees on language and estimates, fitted to the measured programs that the default split trains on, turn one into the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingRegressor

from code_rlm.data.polyglot.emitters import EMITTERS
from code_rlm.data.polyglot.estimates import BUDGET, MEASURED_PROBLEMS, MEASURED_SEED
from code_rlm.data.polyglot.generate import group_of, sample
from code_rlm.data.readers import read_task
from code_rlm.data.schema import DataError
from code_rlm.data.splits import split_of
from code_rlm.evaluation.metrics import spearman

METRICS = ("peak_rss_bytes", "cpu_time_ms")
MEASURED_VARIANTS = 7
_LEAST_ROWS = 20  # of a language


def _estimates_of(problem: int, languages: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Text to estimated bytes and milliseconds, of a measured problem's programs."""
    found = {}
    for variant in range(MEASURED_VARIANTS):
        for language in languages:
            if (made := sample(MEASURED_SEED, problem, variant, language, BUDGET)) is not None:
                found[made.text] = (made.estimated_bytes, made.estimated_ms)
    return found


class Likeness:
    """Measured numbers from language and estimates.

    Args:
        languages: Of the measured programs.
        estimates: Estimated bytes and milliseconds, `(rows, 2)`.
        values: What was measured, by METRICS `(rows, 2)`; above zero.
    """

    def __init__(self, languages: Sequence[str], estimates: np.ndarray, values: np.ndarray):
        counts = {name: list(languages).count(name) for name in set(languages)}
        self.codes = {name: code for code, name in enumerate(sorted(counts)) if counts[name] >= _LEAST_ROWS}
        known = np.array([name in self.codes for name in languages])
        features = self._features([name for name in languages if name in self.codes], estimates[known])
        trees = partial(
            HistGradientBoostingRegressor, categorical_features=[0], max_iter=200, learning_rate=0.06,
            min_samples_leaf=30, random_state=0,
        )  # fmt: skip
        self.trees = [trees().fit(features, np.log10(column)) for column in values[known].T]

    def _features(self, languages: Sequence[str], estimates: np.ndarray) -> np.ndarray:
        codes = [self.codes[name] for name in languages]
        return np.column_stack([codes, np.log10(estimates + [1.0, 0.01])])

    def __call__(self, languages: Sequence[str], estimates: np.ndarray) -> np.ndarray:
        """What such programs need, `(rows, 2)`; NaN in languages of which too few programs were measured."""
        known = np.array([name in self.codes for name in languages], dtype=bool)
        needs = np.full((len(languages), len(METRICS)), np.nan)
        if known.any():
            features = self._features([name for name in languages if name in self.codes], estimates[known])
            needs[known] = 10 ** np.column_stack([each.predict(features) for each in self.trees])
        return needs


def measured(data_root: str | None, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Languages, estimates and measurements, as `Likeness` takes them, of a split's measured programs that ended well."""
    rows = read_task("polyglot_memory", data_root, split)
    languages = sorted(set(rows["language"]) & set(EMITTERS))
    problems = [p for p in range(MEASURED_PROBLEMS) if split_of(group_of(MEASURED_SEED, p)) == split]
    estimates: dict[str, tuple[float, float]] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(partial(_estimates_of, languages=languages), problems):
            estimates.update(found)
    kept = []
    for text, language, outcome, names, values in zip(
        *(rows[name] for name in ("text", "language", "outcome", "metrics", "values")), strict=True
    ):
        numbers = dict(zip(names, values, strict=True))
        if outcome == "ok" and text in estimates:
            kept.append((language, estimates[text], [numbers[name] for name in METRICS]))
    if not kept:
        raise DataError(
            f"none of the {len(rows)} measured programs ({split}) is one that this version generates with seed "
            f"{MEASURED_SEED}; measure them anew"
        )
    named, told, values = zip(*kept, strict=True)
    return list(named), np.array(told), np.array(values, dtype=np.float64)


def liken(tables: Sequence[str], data_root: str | None = None) -> str:
    """Write METRICS into tables that `estimates.write` wrote; returns how well it does on validation rows, in words.

    Args:
        tables: Parquet files; each is replaced by itself with two more columns, empty where a language was not measured.
        data_root: Folder of the measured table; None for the one that ships.

    Raises:
        DataError: A table without estimates.
    """
    read = []
    for path in tables:
        if not Path(path).is_file():
            raise DataError(f"{path} is no file; give a table that `estimate` wrote")
        table = pq.read_table(path)
        if lacking := {"language", "estimated_bytes", "estimated_ms"} - set(table.column_names):
            raise DataError(f"{path} has no column {', '.join(sorted(lacking))}; give a table that `estimate` wrote")
        read.append(table.drop_columns([name for name in METRICS if name in table.column_names]))
    told = Likeness(*measured(data_root, "train"))
    done = []
    for path, table in zip(tables, read, strict=True):
        estimates = np.column_stack([table["estimated_bytes"].to_numpy(), table["estimated_ms"].to_numpy()])
        for name, column in zip(METRICS, told(table["language"].to_pylist(), estimates).T, strict=True):
            table = table.append_column(name, pa.array(column, from_pandas=True))
        partial_file = Path(f"{path}.partial")
        pq.write_table(table, partial_file, compression="zstd")
        partial_file.replace(path)
        strange = [name for name in table["language"].to_pylist() if name not in told.codes]
        left = (
            f", {len(strange)} of them ({', '.join(sorted(set(strange)))}) left empty: not measured" if strange else ""
        )
        done.append(f"{path}: {len(table)} rows{left}")
    languages, estimates, values = measured(data_root, "validation")
    found = told(languages, estimates)
    words = []
    for name, column, truth in zip(METRICS, found.T, values.T, strict=True):
        inside = [
            spearman(truth[own], column[own])
            for own in (np.array(languages) == language for language in sorted(set(languages)))
            if own.sum() > 2
        ]
        words.append(
            f"{name}: rank correlation {spearman(truth, column):.3f}, {np.mean(inside):.3f} in the mean inside a language"
        )
    return "\n".join([*done, f"on {len(values)} validation programs, {'; '.join(words)}"])


__all__ = ["METRICS", "Likeness", "liken", "measured"]
