"""Boosted trees of the feature ensemble: LightGBM beside scikit-learn on the same features, targets and folds.

    python benchmarks/trees.py --data-root DATA

The features are those of the shipped checkpoint, the targets the normal scores that `training/ensemble.py` fits, the folds its
folds by group. Both ways fit as `training/trees.py` does: trees of 16 leaves, their number chosen on the first fold, one fit
without each fold, one on all rows. Scikit-learn is used through its public estimator. Scores are those of the out-of-fold
predictions; time is the CPU time of one thread.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import torch
from lightgbm import __version__ as lightgbm_version
from scipy.stats import spearmanr
from sklearn import __version__ as sklearn_version
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

import code_rlm
from code_rlm.data.mixture import Mixture, Source
from code_rlm.data.readers import TASKS, read_task
from code_rlm.distributions_rlm import ScoreScale
from code_rlm.ensemble_rlm import EnsembleConfig
from code_rlm.features_rlm import RLMFeatureExtractor, token_texts
from code_rlm.tokenization_rlm import RLMTokenizer
from code_rlm.training import trees
from code_rlm.training.ensemble import _folds, raw_features, usable_rows

# Task to its metrics, and to how many training rows are read.
CASES = {
    "bhive_zen4": (["cycles"], 4000),
    "nasbench201": (["cifar10_valid_accuracy_percent", "latency_ms@pixel3"], 1500),
    "polyglot_memory": (["peak_rss_bytes", "cpu_time_ms"], 3000),
    "tritonbench": (["latency_ms"], 4000),
}
LEAVES = 16


@dataclass
class Result:
    """What one way gives on one metric: the out-of-fold predictions `(rows,)`, the number of trees, and CPU seconds."""

    predicted: np.ndarray
    trees: int
    seconds: float

    def cells(self, y: np.ndarray) -> list[str]:
        """Returns Spearman, RMSE, trees and seconds as text."""
        rmse = np.sqrt(np.mean((self.predicted - y) ** 2))
        return [
            f"{spearmanr(self.predicted, y).statistic:.4f}",
            f"{rmse:.4f}",
            str(self.trees),
            f"{self.seconds:.1f}",
        ]


def read_source(task: str, metrics: list[str], rows: int, data_root: str, tokenizer: RLMTokenizer) -> Source:
    """Returns training rows of a task, drawn by hash, read as far as the shipped checkpoint reads."""
    root = data_root if (Path(data_root) / TASKS[task].file).is_file() else None  # None: the table that ships
    table = read_task(task, root, "train", metrics=metrics, limit=rows)
    return Source.from_dataset(task, table, tokenizer)


def with_lightgbm(x: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, settings: EnsembleConfig) -> Result:
    """Fits as training does."""
    began = time.process_time()
    forest = trees.Forest(x, y, fold, settings)
    return Result(forest.out_of_fold, forest.trees, time.process_time() - began)


def with_sklearn(x: sparse.csr_matrix, y: np.ndarray, fold: np.ndarray, most_trees: int) -> Result:
    """Fits scikit-learn's histogram trees of the same size on the same folds.

    Args:
        x: The columns that trees may read `(rows, columns)`.
        y: Scores `(rows,)`.
        fold: The fold of each row `(rows,)`.
        most_trees: Of which the best number is chosen on the first fold.
    """
    began = time.process_time()
    dense = x.toarray()

    def fitted(rows: np.ndarray, count: int) -> HistGradientBoostingRegressor:
        regressor = HistGradientBoostingRegressor(
            max_iter=count,
            learning_rate=0.08,
            max_leaf_nodes=LEAVES,
            min_samples_leaf=min(20, max(2, int(rows.sum()) // 20)),
            l2_regularization=1.0,
            early_stopping=False,
            random_state=0,
        )
        return regressor.fit(dense[rows], y[rows])

    pilot = fitted(fold != 0, most_trees)
    left_out = fold == 0
    errors = [np.sum((predicted - y[left_out]) ** 2) for predicted in pilot.staged_predict(dense[left_out])]
    count = 1 + int(np.argmin(errors))
    predicted = np.zeros(len(y))
    for number in range(trees.FOLDS):
        left_out = fold == number
        predicted[left_out] = fitted(~left_out, count).predict(dense[left_out])
    fitted(np.ones(len(y), dtype=bool), count)
    return Result(predicted, count, time.process_time() - began)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder of the tasks' tables")
    parser.add_argument("--rows", type=int, help="rows of each task at most [1500 to 4000]")
    parser.add_argument("--tasks", nargs="+", choices=list(CASES), default=list(CASES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    trees.PARAMETERS["num_threads"] = 1
    model, tokenizer = code_rlm.load()
    settings = model.ensemble.settings
    extractor = RLMFeatureExtractor(settings.features, token_texts(tokenizer))
    head = ["Spearman", "RMSE", "trees", "s"]
    header = [
        "task",
        "metric",
        "rows",
        "columns",
        *(f"{way}: {name}" for way in ("scikit-learn", "LightGBM") for name in head),
    ]
    print(
        f"LightGBM {lightgbm_version}, scikit-learn {sklearn_version}, 1 thread; RMSE of normal scores, out of fold\n"
    )
    print("| " + " | ".join(header) + " |\n" + "|---" * len(header) + "|", flush=True)
    for task in args.tasks:
        metrics, rows_read = CASES[task]
        source = read_source(task, metrics, args.rows or rows_read, args.data_root, tokenizer)
        mixture = Mixture([source], [1.0], tokenizer, model.config.max_input_tokens, 8192, 1, 0)
        features, _ = raw_features(extractor, source, mixture)
        folds = _folds(source)
        for metric in metrics:
            rows = usable_rows(source, metric)
            values = source.values[rows, source.metrics.index(metric)]
            x, y, fold = features[rows], ScoreScale.normal(values).score(values), folds[rows]
            with threadpool_limits(limits=1):
                new = with_lightgbm(x, y, fold, settings)
                columns = trees.choose_columns(x, settings)
                old = with_sklearn(x[:, columns], y, fold, settings.trees)
            cells = [task, metric, str(len(y)), str(len(columns)), *old.cells(y), *new.cells(y)]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
