"""Adapts a checkpoint to a device, or to accuracies, of which a few networks were measured: `code-rlm adapt`.

    code-rlm adapt measured.csv --metric latency_ms@my_device --candidates nets/ --suggest 5 --out runs/my_device
    code-rlm predict nets/other.onnx --model runs/my_device --metrics latency_ms@my_device
    code-rlm adapt measured.csv --metric accuracy_percent --proxies --candidates nets/ --ranking ranking.csv

A latency becomes a derived metric of the checkpoint (`distributions_rlm.DerivedMetric`): the mean of its predictions for the
devices that it knows, each in standard deviations and weighted by its correlation with the measurements, and ridge regression
for the rest; both are linear in the predictions' logarithms. Intervals are those of the measurements, each left out once.

An accuracy is ranked by a committee of a random forest, extremely randomised trees and Gaussian processes that read the size of
a network, how its operators follow one another, and with `--proxies` training-free proxies of each graph. That is no part of a
checkpoint; what comes out is the ranking.

`--suggest` names the candidates whose measurement would narrow the predictions of all candidates most: for a latency the
largest fall of the mean variance of ridge regression, one after the other; for an accuracy the largest disagreement of the
committee.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers.utils import logging

from code_rlm.configuration_rlm import Metric
from code_rlm.console import write_table
from code_rlm.data.external import read_cells
from code_rlm.data.schema import DataError, unit_of
from code_rlm.distributions_rlm import DerivedMetric, ScoreScale
from code_rlm.errors_rlm import MetricError
from code_rlm.evaluation.metrics import kendall, spearman
from code_rlm.loading import DEFAULT_CHECKPOINT, load, pipeline
from code_rlm.onnx_text_rlm import graph_cost, graph_ngrams, onnx_to_text, position_features
from code_rlm.predict import find_inputs
from code_rlm.training.checkpoints import save_whole

SHARPNESS = 20.0  # of weights by correlation; chosen on validation networks of two spaces, where 10 to 60 do as well
FEWEST = 6
TREES = 200
LATENCY = "latency_ms@"
Learner = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]


# ------------------------------------------------------------------------------------------------ latency


@dataclass(frozen=True)
class LinearFit:
    """A linear function of logarithms of predictions `(networks, metrics)`.

    Attributes:
        weights: One for each metric.
        intercept: Added to it.
    """

    weights: np.ndarray
    intercept: float

    def __call__(self, logarithms: np.ndarray) -> np.ndarray:
        """Returns the logarithm of what is predicted, `(networks,)`."""
        return self.intercept + logarithms @ self.weights


def fit_device(train: np.ndarray, target: np.ndarray) -> LinearFit:
    """Fits a device from few measurements of it and a checkpoint's predictions for other devices.

    First the mean of the predictions, each in standard deviations and weighted by its correlation with the measurements: few
    points do not suffice to weigh correlated columns by regression. Then ridge regression for the residuals.

    Args:
        train: Predictions for the networks that were measured `(networks, metrics)`, logarithms.
        target: Logarithms of what was measured `(networks,)`.
    """
    scale = StandardScaler().fit(train)
    columns = scale.transform(train)
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant prediction has no correlation
        agreement = np.nan_to_num([np.corrcoef(column, target)[0, 1] for column in columns.T])
    shares = np.exp(SHARPNESS * agreement)
    shares /= shares.sum()
    mean = (columns @ shares)[:, None]
    line = LinearRegression().fit(mean, target)
    residual = RidgeCV(np.logspace(0, 4, 17)).fit(columns, target - line.predict(mean))
    weights = (line.coef_[0] * shares + residual.coef_) / scale.scale_
    intercept = float(line.intercept_ + residual.intercept_ - weights @ scale.mean_)
    return LinearFit(weights, intercept)


def left_out(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the prediction of each measurement by a fit to all others, `(networks,)`, as logarithms."""
    found = np.empty_like(target)
    for i in range(len(target)):
        rest = np.arange(len(target)) != i
        found[i] = fit_device(columns[rest], target[rest])(columns[i : i + 1])[0]
    return found


def most_informative(known: np.ndarray, candidates: np.ndarray, count: int, noise: float = 1.0) -> list[int]:
    """Returns the candidates whose measurement lowers the mean variance of ridge regression over all candidates most.

    One is chosen after the other (Bayesian linear regression, I-optimality: Cohn, Ghahramani and Jordan 1996, JAIR 4).

    Args:
        known: Columns of the networks that were measured `(networks, metrics)`.
        candidates: Columns of the others `(candidates, metrics)`.
        count: How many to choose.
        noise: Variance of a measurement, where that of each weight is 1.
    """
    scale = StandardScaler().fit(np.vstack([known, candidates]))
    x = np.hstack([scale.transform(candidates), np.ones((len(candidates), 1))])
    seen = np.hstack([scale.transform(known), np.ones((len(known), 1))])
    inverse = np.linalg.inv(np.eye(x.shape[1]) + seen.T @ seen / noise)
    chosen: list[int] = []
    for _ in range(min(count, len(x))):
        covariance = x @ inverse @ x.T
        gain = (covariance**2).sum(0) / (noise + covariance.diagonal())
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        step = inverse @ x[best]
        inverse -= np.outer(step, step) / (noise + x[best] @ step)
    return chosen


# ------------------------------------------------------------------------------------------------ accuracy


def forest(train: np.ndarray, scores: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Predicts with a random forest."""
    return RandomForestRegressor(TREES, max_features=1 / 3, random_state=seed).fit(train, scores).predict(test)


def process(train: np.ndarray, scores: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Predicts with a Gaussian process."""
    kernel = ConstantKernel(1.0) * Matern(5.0, (1.0, 50.0), nu=1.5) + WhiteKernel(0.1, (1e-6, 1.0))
    regressor = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    return make_pipeline(StandardScaler(), regressor).fit(train, scores).predict(test)


def votes(
    train: np.ndarray, scores: np.ndarray, test: np.ndarray, seed: int, parts: Sequence[slice] = (slice(None),)
) -> np.ndarray:
    """Returns what each member of a committee predicts, in standard deviations, `(members, rows)`.

    A forest, extremely randomised trees, and a Gaussian process for each part of the columns.
    """
    trees = ExtraTreesRegressor(TREES, max_features=0.5, random_state=seed).fit(train, scores)
    members = [forest(train, scores, test, seed), trees.predict(test)]
    members += [process(train[:, part], scores, test[:, part], seed) for part in parts]
    return np.stack([(each - each.mean()) / (each.std() + 1e-12) for each in members])


def committee(parts: Sequence[slice]) -> Learner:
    """Returns a learner: the mean of `votes`."""

    def learn(train: np.ndarray, scores: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        return votes(train, scores, test, seed, parts).mean(0)

    return learn


def structure_columns(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns logarithms of counts of graphs: of the paths through each, and of one to three operators in a row.

    Returns:
        `(rows, columns)` each; counts that are the same in all networks are left out.
    """
    counted = [{**graph_ngrams(text)} for text in texts]
    names = sorted({name for found in counted for name in found})
    table = np.log1p(np.array([[found.get(name, 0) for name in names] for found in counted], dtype=float))
    differs = np.ptp(table, axis=0) > 0
    of_paths = np.array([name.split()[0] in ("most", "least", "ways") for name in names], dtype=bool)
    return table[:, differs & of_paths], table[:, differs & ~of_paths]


def accuracy_columns(files: Sequence[Path], proxies: bool) -> tuple[np.ndarray, int]:
    """Returns what the committee reads of graphs `(files, columns)`, and how many of its columns are ranks and paths.

    Raises:
        MetricError: Proxies are asked for and code-rlm-data is not installed.
    """
    import onnx

    costs = [graph_cost(str(file), None) for file in files]
    table = [
        np.log([float(max(1, cost.flops)) for cost in costs]),
        np.log([float(max(1, cost.parameters)) for cost in costs]),
    ]
    if proxies:
        try:
            from code_rlm_data.proxies import NAMES
            from code_rlm_data.proxies import proxies as proxies_of
        except ImportError:
            raise MetricError("--proxies needs the package code-rlm-data: pip install code-rlm-data.") from None
        found = [proxies_of(onnx.load(str(file)), seed=0) for file in files]
        for name in NAMES:
            column = np.array([each[name] for each in found], dtype=np.float64)
            finite = np.isfinite(column)
            column[~finite] = (column[finite].min() if finite.any() else 0.0) - 1
            table.append(column)
    ranks = rankdata(np.stack(table, 1), axis=0) / len(files)
    texts = [onnx_to_text(str(file)) for file in files]
    paths, operators = structure_columns(texts)
    positions = [position_features(text) for text in texts]
    names = sorted({name for each in positions for name in each})
    stands = np.log1p(np.array([[each.get(name, 0) for name in names] for each in positions], dtype=float))
    short = np.hstack([ranks, paths])
    stands = stands.reshape(len(files), -1)
    return np.hstack([short, operators, stands[:, np.ptp(stands, axis=0) > 0]]), short.shape[1]


# ------------------------------------------------------------------------------------------------ the command


@dataclass
class Measurements:
    """Files that were measured, and candidates that were not.

    Attributes:
        files: All of them, measured ones first.
        values: What was measured `(measured,)`.
    """

    files: list[Path]
    values: np.ndarray

    @property
    def known(self) -> slice:
        """The measured ones."""
        return slice(0, len(self.values))


def read_measurements(table: str, metric: str, candidates: Sequence[str]) -> Measurements:
    """Reads a table of files and numbers, and finds the candidates.

    Args:
        table: CSV or any other table of `data.external`, with a column `file` (paths, from the table's folder or absolute) and
            one of the numbers, named as the metric, its first part, `value` or `ms`.
        metric: The metric.
        candidates: Files and folders of further networks.

    Raises:
        DataError: A column or a file is missing, or numbers that are not above zero, or too few of them.
    """
    names = (metric, metric.split("@")[0], "value", "ms")
    files: list[Path] = []
    values: list[float] = []
    for place, cells in read_cells(table, ["file"], names):
        column = next((name for name in names if name in cells), None)
        if column is None:
            raise DataError(f"{table}: no column of numbers; name it {', '.join(names)}")
        file = Path(str(cells["file"]))
        file = file if file.is_absolute() else Path(table).parent / file
        if not file.is_file():
            raise DataError(f"{table}: {place}: there is no file {file}")
        try:
            value = float(cells[column])
        except (TypeError, ValueError):
            value = float("nan")
        if not np.isfinite(value) or value <= 0:
            raise DataError(f"{table}: {place}, column {column!r}: expected a number above zero, got {cells[column]!r}")
        files.append(file)
        values.append(value)
    resolved = [file.resolve() for file in files]
    if double := sorted({str(file) for file in resolved if resolved.count(file) > 1}):
        raise DataError(f"{table}: {double[0]} is there more than once")
    if len(files) < FEWEST:
        raise DataError(f"{table}: {len(files)} measurements; at least {FEWEST} are needed, and 20 are good")
    others = [Path(path) for path, _ in find_inputs(list(candidates))] if candidates else []
    seen = set(resolved)
    files += [path for path in others if path.suffix == ".onnx" and path.resolve() not in seen]
    return Measurements(files, np.array(values))


def adapt(args: argparse.Namespace, out: TextIO = sys.stdout) -> int:
    """Runs `code-rlm adapt`.

    Raises:
        MetricError: A checkpoint without latencies, or options that do not go together.
        DataError: See `read_measurements`.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    measured = read_measurements(args.measurements, args.metric, args.candidates)
    if "accuracy" in args.metric:
        return _adapt_accuracy(measured, args, out)
    if args.proxies:
        raise MetricError("--proxies is for accuracies; a latency is computed from predictions for other devices.")
    if not args.out:
        raise MetricError("A latency becomes a part of a checkpoint; name its folder with --out.")
    return _adapt_latency(measured, args, out)


def known_metrics(names: Sequence[str]) -> list[str]:
    """Returns the metrics that a new latency is computed from: latencies, and operations where they are predicted.

    Raises:
        MetricError: There are none.
    """
    found = [name for name in names if name.startswith(LATENCY) or name == "flops_count"]
    if not any(name.startswith(LATENCY) for name in found):
        raise MetricError(
            "This checkpoint predicts no latency of networks, from which another device could be computed."
        )
    return found


def _adapt_latency(measured: Measurements, args: argparse.Namespace, out: TextIO) -> int:
    source = args.model or str(DEFAULT_CHECKPOINT)
    pipe = pipeline(source)
    config = pipe.model.config
    derived = config.fitted.derived
    if args.metric in config.metric_names() and args.metric not in derived:
        raise MetricError(f"The checkpoint predicts {args.metric} already; choose another name after the @.")
    sources = known_metrics([name for name in config.metric_names("onnx") if name not in derived])
    predicted, sources = _logarithms(pipe, measured.files, sources, args.batch_size)
    target = np.log(measured.values)
    known = predicted[measured.known]
    apart = left_out(known, target)
    fit = fit_device(known, target)
    entry = DerivedMetric(
        tuple(sources), tuple(fit.weights.tolist()), fit.intercept, tuple(sorted((target - apart).tolist()))
    )
    _save(source, args, entry)
    macs = np.log([float(max(1, graph_cost(str(file), None).macs)) for file in measured.files])
    write_table(
        ["of the measured ones, each left out once", "Spearman", "Kendall", "median error"],
        [
            _scores("this checkpoint", target, apart),
            _scores("MACs alone", target, _left_out_line(macs[measured.known], target)),
        ],
        out,
    )
    answer = np.exp(fit(predicted))
    suggested = most_informative(known, predicted[len(target) :], args.suggest) if args.suggest else []
    return _finish(measured, answer, suggested, args, out)


def _logarithms(
    pipe: Any, files: Sequence[Path], metrics: Sequence[str], batch_size: int
) -> tuple[np.ndarray, list[str]]:
    """Returns logarithms of a checkpoint's medians `(files, metrics)`, and the metrics: those above zero for every file.

    Raises:
        MetricError: There are none.
    """
    columns = []
    for name in metrics:
        answers = [entry[0]["value"] for entry in pipe(list(files), metrics=[name], batch_size=batch_size)]
        columns.append([value if isinstance(value, float) else np.nan for value in answers])
    values = np.array(columns, dtype=np.float64).T
    usable = (values > 0).all(0)
    if not usable.any():
        raise MetricError(
            f"The checkpoint's answers for {', '.join(metrics)} are not all above zero; nothing can be fitted."
        )
    return np.log(values[:, usable]), [name for name, ok in zip(metrics, usable, strict=True) if ok]


def _left_out_line(column: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the prediction of each value by a line fitted to all others."""
    found = np.empty_like(target)
    for i in range(len(target)):
        rest = np.arange(len(target)) != i
        line = np.polyfit(column[rest], target[rest], 1) if np.ptp(column[rest]) else (0.0, target[rest].mean())
        found[i] = np.polyval(line, column[i])
    return found


def _scores(name: str, target: np.ndarray, predicted: np.ndarray) -> list[str]:
    error = np.median(np.abs(np.expm1(predicted - target)))
    return [name, f"{spearman(target, predicted):.3f}", f"{kendall(target, predicted):.3f}", f"{error:.1%}"]


def _save(source: str, args: argparse.Namespace, entry: DerivedMetric) -> None:
    """Writes the checkpoint with the derived metric in its registry."""
    model, processor = load(source)
    config = model.config
    about = Metric(
        args.metric,
        unit=unit_of(args.metric),
        description=f"computed from {', '.join(entry.sources)}, fitted to {len(entry.residuals)} measurements",
        languages=("onnx",),
    )
    config.metrics = [*(m for m in config.metrics if m["name"] != args.metric), about.to_dict()]
    config.set_fitted(replace(config.fitted, derived={**config.fitted.derived, args.metric: entry}))

    def write(folder: Path) -> None:
        model.save_pretrained(folder)
        processor.config = config
        processor.save_pretrained(folder)

    save_whole(Path(args.out), write)


def _adapt_accuracy(measured: Measurements, args: argparse.Namespace, out: TextIO) -> int:
    if args.out:
        raise MetricError(
            "An accuracy is ranked and not a part of a checkpoint; use --ranking FILE.csv in place of --out."
        )
    columns, short = accuracy_columns(measured.files, args.proxies)
    parts = (slice(0, short), slice(None))
    known = columns[measured.known]
    scores = ScoreScale.normal(measured.values).score(measured.values)
    apart = np.empty(len(scores))
    folds = np.arange(len(scores)) % min(10, len(scores))
    for fold in np.unique(folds):
        rest, held = folds != fold, folds == fold
        # Standardised over all measured ones, so that folds compare.
        apart[held] = votes(known[rest], scores[rest], known, 0, parts).mean(0)[held]
    flops = columns[measured.known, 0]
    write_table(
        ["of the measured ones, ten folds", "Spearman", "Kendall"],
        [
            ["committee", f"{spearman(scores, apart):.3f}", f"{kendall(scores, apart):.3f}"],
            ["FLOPs alone", f"{spearman(scores, flops):.3f}", f"{kendall(scores, flops):.3f}"],
        ],
        out,
    )
    members = votes(known, scores, columns, 0, parts)
    others = members[:, len(scores) :]
    suggested = np.argsort(-others.std(0))[: args.suggest].tolist() if args.suggest else []
    return _finish(measured, members.mean(0), suggested, args, out, smaller_is_better=False)


def _finish(
    measured: Measurements,
    answer: np.ndarray,
    suggested: Sequence[int],
    args: argparse.Namespace,
    out: TextIO,
    smaller_is_better: bool = True,
) -> int:
    """Writes the ranking of all networks, and which candidates to measure next."""
    order = np.argsort(answer if smaller_is_better else -answer)
    if args.ranking:
        with open(args.ranking, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            column = args.metric if smaller_is_better else "score"
            writer.writerow(["rank", "file", column, "measured"])
            for rank, i in enumerate(order.tolist(), start=1):
                own = f"{measured.values[i]:g}" if i < len(measured.values) else ""
                writer.writerow([rank, measured.files[i], f"{answer[i]:.6g}", own])
    if suggested:
        out.write("\nmeasure next:\n")
        first = len(measured.values)
        out.writelines(f"{measured.files[first + i]}\n" for i in suggested)
    elif args.suggest:
        raise DataError("There is no candidate to suggest; name files or folders of ONNX networks with --candidates.")
    return 0


__all__ = ["LinearFit", "Measurements", "adapt", "committee", "fit_device", "known_metrics", "left_out", "most_informative",
           "read_measurements", "votes"]  # fmt: skip
