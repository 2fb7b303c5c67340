"""A cost model: memory and time of generated programs from their language and the generator's estimates.

An estimate counts elements and operations. It knows no allocator, runtime or garbage collector, but all programs of a
language share those. Boosted trees on language and estimates, fitted to the measured programs of the training split,
map an estimate to what such a program needs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import spearmanr
from sklearn.ensemble import HistGradientBoostingRegressor

from code_rlm.data.readers import read_task
from code_rlm.data.schema import DataError
from code_rlm.data.splits import split_of
from code_rlm_data.generator.emitters import EMITTERS
from code_rlm_data.generator.estimates import BUDGET, MEASURED_PROBLEMS, MEASURED_SEED
from code_rlm_data.generator.generate import group_of, sample

METRICS = ("peak_rss_bytes", "cpu_time_ms")
MEASURED_VARIANTS = 7
_MIN_ROWS = 20  # measured programs that a language needs
# Added to estimated bytes and milliseconds, so that an estimate of zero has a logarithm.
_OFFSETS = np.array([1.0, 0.01])


class CostModel:
    """Boosted trees from language and estimates to measured numbers.

    Args:
        languages: Languages of the measured programs, `(rows,)`.
        estimates: Estimated bytes and milliseconds, `(rows, 2)`.
        values: Measured numbers in the order of METRICS, `(rows, 2)`; above zero.

    Attributes:
        codes: Language to its category; languages with fewer than 20 rows have none.
    """

    def __init__(self, languages: Sequence[str], estimates: np.ndarray, values: np.ndarray) -> None:
        counts = Counter(languages)
        kept = sorted(name for name, count in counts.items() if count >= _MIN_ROWS)
        self.codes = {name: code for code, name in enumerate(kept)}
        known = self._known(languages)
        features = self._features(np.asarray(languages)[known], estimates[known])
        self.trees = [self._fit(features, np.log10(column)) for column in values[known].T]

    @staticmethod
    def _fit(features: np.ndarray, target: np.ndarray) -> HistGradientBoostingRegressor:
        trees = HistGradientBoostingRegressor(
            categorical_features=[0], max_iter=200, learning_rate=0.06, min_samples_leaf=30, random_state=0
        )
        return trees.fit(features, target)

    def _known(self, languages: Sequence[str]) -> np.ndarray:
        """Returns which rows are in a language that was measured, `(rows,)`."""
        return np.array([name in self.codes for name in languages], dtype=bool)

    def _features(self, languages: Sequence[str], estimates: np.ndarray) -> np.ndarray:
        codes = [self.codes[name] for name in languages]
        return np.column_stack([codes, np.log10(estimates + _OFFSETS)])

    def predict(self, languages: Sequence[str], estimates: np.ndarray) -> np.ndarray:
        """Returns predicted METRICS, `(rows, 2)`; NaN in languages of which too few programs were measured.

        Args:
            languages: Language of each program, `(rows,)`.
            estimates: Estimated bytes and milliseconds, `(rows, 2)`.
        """
        known = self._known(languages)
        predicted = np.full((len(languages), len(METRICS)), np.nan)
        if known.any():
            features = self._features(np.asarray(languages)[known], estimates[known])
            logarithms = [trees.predict(features) for trees in self.trees]
            predicted[known] = 10 ** np.column_stack(logarithms)
        return predicted


def read_measured(data_root: str | None, split: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Returns a split's measured programs that ended well, as `CostModel` takes them: languages, estimates, values.

    Args:
        data_root: Folder of the measured table; None for the one that ships.
        split: "train", "validation" or "test".

    Raises:
        DataError: The table holds no program that this version of the generator writes.
    """
    rows = read_task("polyglot_memory", data_root, split)
    languages = sorted(set(rows["language"]) & set(EMITTERS))
    estimates_of = _estimates(split, languages)
    named: list[str] = []
    estimates: list[tuple[float, float]] = []
    values: list[list[float]] = []
    for row in rows:
        if row["outcome"] != "ok" or row["text"] not in estimates_of:
            continue
        numbers = dict(zip(row["metrics"], row["values"], strict=True))
        named.append(row["language"])
        estimates.append(estimates_of[row["text"]])
        values.append([numbers[name] for name in METRICS])
    if not named:
        raise DataError(
            f"none of the {len(rows)} measured programs ({split}) is one that this version generates with seed "
            f"{MEASURED_SEED}; measure them anew"
        )
    return named, np.array(estimates), np.array(values, dtype=np.float64)


def _estimates(split: str, languages: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns text to estimated bytes and milliseconds of all programs of the measured problems of a split."""
    problems = [p for p in range(MEASURED_PROBLEMS) if split_of(group_of(MEASURED_SEED, p)) == split]
    estimates: dict[str, tuple[float, float]] = {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for of_problem in pool.map(partial(_estimates_of, languages=languages), problems):
            estimates.update(of_problem)
    return estimates


def _estimates_of(problem: int, languages: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Returns text to estimated bytes and milliseconds of a measured problem's programs."""
    estimates = {}
    for variant in range(MEASURED_VARIANTS):
        for language in languages:
            program = sample(MEASURED_SEED, problem, variant, language, BUDGET)
            if program is not None:
                estimates[program.text] = (program.estimated_bytes, program.estimated_ms)
    return estimates


def predict_costs(tables: Sequence[str], data_root: str | None = None) -> str:
    """Writes METRICS into tables that `estimates.write` wrote.

    Args:
        tables: Parquet files; each is replaced by itself with two more columns, empty where a language was not measured.
        data_root: Folder of the measured table; None for the one that ships.

    Returns:
        A line for each table, and the rank correlations on validation rows.

    Raises:
        DataError: A path is no file, or a table has no estimates.
    """
    read = [_read_estimates(path) for path in tables]  # all are checked before the first is written
    model = CostModel(*read_measured(data_root, "train"))
    lines = [_write_costs(model, path, table) for path, table in zip(tables, read, strict=True)]
    return "\n".join([*lines, _validate(model, data_root)])


def _read_estimates(path: str) -> pa.Table:
    """Returns a table of estimates without predictions of an earlier call."""
    if not Path(path).is_file():
        raise DataError(f"{path} is no file; give a table that `estimate` wrote")
    table = pq.read_table(path)
    lacking = {"language", "estimated_bytes", "estimated_ms"} - set(table.column_names)
    if lacking:
        raise DataError(f"{path} has no column {', '.join(sorted(lacking))}; give a table that `estimate` wrote")
    return table.drop_columns([name for name in METRICS if name in table.column_names])


def _write_costs(model: CostModel, path: str, table: pa.Table) -> str:
    """Replaces a table by itself with predicted METRICS; returns a line that reports its rows."""
    languages = table["language"].to_pylist()
    estimates = np.column_stack([table["estimated_bytes"].to_numpy(), table["estimated_ms"].to_numpy()])
    predicted = model.predict(languages, estimates)
    for name, column in zip(METRICS, predicted.T, strict=True):
        table = table.append_column(name, pa.array(column, from_pandas=True))
    partial_file = Path(f"{path}.partial")
    pq.write_table(table, partial_file, compression="zstd")
    partial_file.replace(path)
    unmeasured = [name for name in languages if name not in model.codes]
    if not unmeasured:
        return f"{path}: {len(table)} rows"
    names = ", ".join(sorted(set(unmeasured)))
    return f"{path}: {len(table)} rows, {len(unmeasured)} of them ({names}) left empty: not measured"


def _validate(model: CostModel, data_root: str | None) -> str:
    """Returns a line with the rank correlations of predicted and measured numbers on the validation split."""
    languages, estimates, values = read_measured(data_root, "validation")
    predicted = model.predict(languages, estimates)
    of_language = [np.array(languages) == name for name in sorted(set(languages))]
    parts = []
    for place, name in enumerate(METRICS):
        overall = spearmanr(values[:, place], predicted[:, place], nan_policy="omit").statistic
        inside = [
            spearmanr(values[rows, place], predicted[rows, place]).statistic for rows in of_language if rows.sum() > 2
        ]
        parts.append(f"{name}: rank correlation {overall:.3f}, {np.nanmean(inside):.3f} in the mean inside a language")
    return f"on {len(values)} validation programs, {'; '.join(parts)}"


__all__ = ["METRICS", "CostModel", "predict_costs", "read_measured"]
