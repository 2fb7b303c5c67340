"""Few-shot on NAS-Bench-201: accuracy from 39, 78, 256 and 1,000 trained architectures, latency on unseen devices from 20.

    python -m code_rlm_data.proxies --task nasbench201 --data-root DATA --rows 600 --starts 3 --out proxies.parquet
    python benchmarks/few_shot.py proxies.parquet --model checkpoints/default --devices fbnet --many nasbench201 \\
        --data-root DATA  # writes benchmarks/results/few_shot.md

Accuracy: Kendall's tau of a random forest or a committee; recipes differ in what they read of a network, and no checkpoint
is used. From 1,000 architectures (`--many`), of a task's training split and tested on its test split, only
graph n-grams and position features are read, no proxies.

Latency, with `--model`: the Spearman correlation of regression on the logarithms of a checkpoint's predictions for the devices
that it knows, for every device of the table that it was not trained on. The checkpoint may have been trained on the same
networks' latencies elsewhere, as where a new device joins a known space; of the tasks of `--devices` the test split is taken.

Training architectures are drawn five times, up to 256 each of a group of its own (the table has some networks hundreds of
times), and all rows of all other groups are the test.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from code_rlm.data.nas_graphs import parse_nasbench201
from code_rlm.distributions_rlm import ScoreScale
from code_rlm.evaluation.metrics import bootstrap_interval, kendall, spearman
from code_rlm.onnx_text_rlm import graph_ngrams, position_features
from code_rlm.training import adapt
from code_rlm.training.adapt import Learner
from code_rlm_data.proxies import NAMES

TARGET = "cifar10_valid_accuracy_percent"
SIZES, MANY, DRAWS = (39, 78, 256), 1000, 5
SEEN_OF_A_DEVICE = 20
LATENCY = "latency_ms@"
FEWEST_TESTED = 30
# Ranked together (Lee and Ham 2024, arXiv 2403.19232).
AZ_NAS = ("expressivity", "progressivity", "trainability", "FLOPs")
OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
ONE_HOT = 6 * len(OPERATORS)
# Kendall's tau published for FLAN, with proxies (arXiv 2509.26476): other draws, 7,813 test cells, not split by group.
FLAN = {39: 0.702, 78: 0.775, 256: 0.852}


def one_hot(arch: str) -> list[float]:
    """Returns the six edges of a cell, five numbers each."""
    return [float(op == known) for edges in parse_nasbench201(arch) for op in edges for known in OPERATORS]


def filled(columns: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Returns columns side by side, `(rows, columns)`; rows without a score are set below all others."""
    table = np.array(columns, dtype=np.float64).T
    for column in table.T:
        missing = np.isnan(column)
        column[missing] = 0 if missing.all() else column[~missing].min() - 1
    return table


def draws(groups: Sequence[str], size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows to train on, one of each of `size` groups, and rows to test on: all of all other groups."""
    names = np.asarray(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    _, first = np.unique(names[order], return_index=True)
    train = order[np.sort(first)[:size]]
    return train, np.flatnonzero(~np.isin(names, names[train]))


def _mean_of_standardised(predictions: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean of predictions, each in standard deviations from its mean `(rows,)`."""
    return np.mean([(each - each.mean()) / (each.std() + 1e-12) for each in predictions], axis=0)


def networks(train: np.ndarray, scores: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Returns the mean of extremely randomised trees and of four MLPs, either in standard deviations."""
    trees = ExtraTreesRegressor(adapt.TREES, max_features=0.5, random_state=seed).fit(train, scores).predict(test)
    answers = []
    for start in range(4):
        mlp = MLPRegressor(
            hidden_layer_sizes=(128, 128, 128),
            alpha=0.1,
            batch_size=64,
            max_iter=60,
            learning_rate_init=2e-3,
            random_state=4 * seed + start,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # sixty epochs are what is meant
            answers.append(make_pipeline(StandardScaler(), mlp).fit(train, scores).predict(test))
    return _mean_of_standardised([trees, np.mean(answers, axis=0)])


def taus(
    features: np.ndarray, target: np.ndarray, groups: Sequence[str], size: int, learner: Learner = adapt.forest
) -> list[float]:
    """Returns Kendall's tau on the test rows, one a draw; fitted on normal scores, as only ranks count."""
    found = []
    for seed in range(DRAWS):
        train, test = draws(groups, size, seed)
        scores = ScoreScale.normal(target[train]).score(target[train])
        found.append(kendall(target[test], learner(features[train], scores, features[test], seed)))
    return found


def trained_on_many(task: str, data_root: str | None) -> list[str]:
    """Returns lines on accuracy from `MANY` architectures of a task's training split, tested on its test split.

    Raises:
        DataError: The table cannot be read.
    """
    train, test = (task_rows(task, data_root, split, (TARGET,)) for split in ("train", "test"))
    texts = [*train["text"], *test["text"]]
    counted = [{**graph_ngrams(text), **position_features(text)} for text in texts]
    names = sorted({name for found in counted for name in found})
    table = np.log1p(np.array([[found.get(name, 0) for name in names] for found in counted], dtype=np.float32))
    known = np.isfinite([*train[TARGET], *test[TARGET]])
    own = np.arange(len(texts)) < len(train["text"])
    target = np.array([*train[TARGET], *test[TARGET]])
    groups = np.array([*train["group"], *test["group"]])
    tested = np.flatnonzero(known & ~own)
    found = []
    for seed in range(DRAWS):
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(known & own))[:MANY]
        columns = np.ptp(table[drawn], axis=0) > 0
        scores = ScoreScale.normal(target[drawn]).score(target[drawn])
        predicted = networks(table[drawn][:, columns], scores, table[tested][:, columns], seed)
        found.append([kendall(target[tested], predicted), spearman(target[tested], predicted)])
    tau, rho = np.mean(found, axis=0)
    deviation = np.std(found, axis=0)[0]
    return [
        "",
        f"From {len(drawn)} architectures of the training split of {task} extremely randomised trees and four MLPs that "
        f"read how operators follow one another and where they stand in the cell: on the {len(tested)} architectures "
        f"({len(set(groups[tested]))} groups) of its test split Kendall's tau {tau:.3f} ± {deviation:.3f}, Spearman {rho:.3f}, "
        f"mean and standard deviation of {DRAWS} draws.",
    ]


def known_metrics(model: str) -> list[str]:
    """Returns the latencies and sizes of networks that a checkpoint predicts."""
    from code_rlm.configuration_rlm import RLMConfig

    names = RLMConfig.from_pretrained(model).metric_names("onnx")
    return [name for name in names if name.startswith(LATENCY) or name == "flops_count"]


def predictions(model: str, texts: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    """Returns logarithms of a checkpoint's medians, `(rows, metrics)`."""
    import code_rlm

    pipe = code_rlm.pipeline(model)
    inputs = [{"text": text, "language": "onnx"} for text in texts]
    answers = [pipe(inputs, metrics=[metric], batch_size=16) for metric in metrics]
    return np.log(np.array([[entry[0]["value"] for entry in found] for found in answers])).T


def task_rows(task: str, data_root: str | None, split: str, metrics: Sequence[str] | None = None) -> dict[str, list]:
    """Returns a split of a task: its texts, groups, and a column for each metric, all by default, NaN where it is unknown."""
    from code_rlm.data.readers import read_task

    read = read_task(task, data_root, split, metrics=metrics)
    columns = {name: [] for name in dict.fromkeys(name for names in read["metrics"] for name in names)}
    for names, values in zip(read["metrics"], read["values"], strict=True):
        found = dict(zip(names, values, strict=True))
        for name, column in columns.items():
            column.append(np.nan if found.get(name) is None else found[name])
    return {"text": read["text"][:], "group": read["group"][:], **columns}


def unseen_devices(rows: Mapping[str, list], predicted: np.ndarray, metrics: Sequence[str]) -> list[str]:
    """Returns lines on every latency of the table that is not among the metrics, from `SEEN_OF_A_DEVICE` measurements of it.

    Args:
        rows: The table.
        predicted: Logarithms of the checkpoint's predictions of its own metrics `(rows, metrics)`.
        metrics: Their names.
    """
    lines, means = [], []
    for device in [name for name in rows if name.startswith(LATENCY) and name not in metrics]:
        target = np.log(np.array(rows[device], dtype=np.float64))
        known = np.flatnonzero(np.isfinite(target))
        groups, found = [rows["group"][i] for i in known], []
        if len(set(groups)) < SEEN_OF_A_DEVICE + FEWEST_TESTED:
            continue
        for seed in range(DRAWS):
            train, test = (known[part] for part in draws(groups, SEEN_OF_A_DEVICE, seed))
            found.append(spearman(target[test], adapt.fit_device(predicted[train], target[train])(predicted[test])))
        alone = max(
            (abs(spearman(target[known], column[known])), name)
            for column, name in zip(predicted.T, metrics, strict=True)
        )
        means.append(float(np.mean(found)))
        lines.append(
            f"| {device.removeprefix(LATENCY)} | {np.mean(found):.3f} ± {np.std(found):.3f} | {alone[0]:.3f} ({alone[1]}) |"
        )
    if not lines:
        return []
    return [
        "",
        f"Latency on devices that the checkpoint never saw, from {SEEN_OF_A_DEVICE} measurements: a mean of its predictions of "
        f"{', '.join(metrics)}, weighted by the measurements, and ridge regression for the rest; Spearman, mean and standard "
        f"deviation of {DRAWS} draws. Beside it, with "
        "nothing measured: the best of those predictions alone, chosen with hindsight. The checkpoint may have been trained on "
        "these networks' latencies elsewhere.",
        "",
        f"| device | {SEEN_OF_A_DEVICE} measured | best prediction alone |",
        "|---|---|---|",
        *lines,
        f"| mean of {len(lines)}; worst | {np.mean(means):.3f}; {min(means):.3f} | |",
    ]


def _alone(rows: Mapping[str, list], target: np.ndarray, columns: dict[str, np.ndarray]) -> list[str]:
    """Returns lines on what each proxy and size ranks alone, `(rows,)` each, nothing trained."""
    together = np.stack([columns[name] for name in AZ_NAS], axis=1)
    sum_of_ranks = np.log(rankdata(together, axis=0)).sum(1)
    lines = [
        f"{len(target)} cells of NAS-Bench-201 in {len(set(rows['group']))} groups; {TARGET}. In brackets: 95% bootstrap "
        "intervals over groups.",
        "",
        "| alone, nothing trained | Spearman | Kendall |",
        "|---|---|---|",
    ]
    for name, column in {**columns, f"{', '.join(AZ_NAS)}: logarithms of ranks": sum_of_ranks}.items():
        scores = [bootstrap_interval(score, target, column, groups=rows["group"]) for score in (spearman, kendall)]
        cells = [f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})" for score in scores]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def results(rows: Mapping[str, list], predicted: np.ndarray | None = None, metrics: Sequence[str] = ()) -> str:
    """Returns the page: each proxy alone, then every recipe at every size, then devices that were not seen.

    Args:
        rows: The table of proxies and measurements.
        predicted: Logarithms of a checkpoint's predictions of the metrics, `(rows, metrics)`.
        metrics: Their names.
    """
    target = np.array(rows[TARGET], dtype=np.float64)
    proxies = filled([rows[name] for name in NAMES])
    cells = np.array([one_hot(json.loads(arch)) for arch in rows["arch"]])
    sizes = np.log(filled([rows["flops_count"], rows["params_count"]]))
    # Of the networks that are to be ranked the proxies are known, too: so are their ranks among all.
    ranks = rankdata(np.hstack([sizes, proxies]), axis=0) / len(target)
    of_paths, of_operators = adapt.structure_columns(rows["text"])
    short = np.hstack([cells, ranks, of_paths])
    everything = np.hstack([short, of_operators])
    # From few networks a process learns more of few columns.
    width = short.shape[1]
    committee = adapt.committee([slice(0, width), slice(ONE_HOT, width), slice(ONE_HOT, None)])
    recipes = {
        "forest: FLOPs, params": (sizes, adapt.forest),
        "forest: one-hot cell, FLOPs, params": (np.hstack([cells, sizes]), adapt.forest),
        "forest: proxies, FLOPs, params": (np.hstack([proxies, sizes]), adapt.forest),
        "forest: one-hot cell, FLOPs, params, proxies": (np.hstack([cells, sizes, proxies]), adapt.forest),
        "forest: the same as ranks, and graph n-grams": (everything, adapt.forest),
        "committee: the same": (everything, committee),
    }
    alone = dict(zip([*NAMES, "FLOPs", "params"], np.hstack([proxies, sizes]).T, strict=True))
    lines = _alone(rows, target, alone)
    networks = len(set(rows["group"]))
    sizes_here = [size for size in SIZES if networks - size >= FEWEST_TESTED]
    if left_out := sorted(set(SIZES) - set(sizes_here)):
        lines += [
            "",
            f"Left out, as fewer than {FEWEST_TESTED} networks would be tested: {left_out} trained architectures.",
        ]
    if not sizes_here:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        f"Kendall's tau on the groups that were not drawn, mean and standard deviation of {DRAWS} draws. A forest has "
        f"{adapt.TREES} trees; a committee is the mean of a forest, extremely randomised trees and three Gaussian "
        "processes, one of them without n-grams of operators, one without the one-hot cell, one without either. All are "
        "fitted on normal scores.",
        "",
        f"| regressor: what it reads | {' | '.join(f'{size} trained' for size in sizes_here)} |",
        "|---" * (1 + len(sizes_here)) + "|",
    ]
    for name, (features, learner) in recipes.items():
        found = [taus(features, target, rows["group"], size, learner) for size in sizes_here]
        lines.append(f"| {name} | {' | '.join(f'{np.mean(tau):.3f} ± {np.std(tau):.3f}' for tau in found)} |")
    published = " | ".join(str(FLAN.get(size, "–")) for size in sizes_here)
    lines.append(f"| FLAN with proxies, as published (other draws and test cells) | {published} |")
    if predicted is not None:
        lines += unseen_devices(rows, predicted, metrics)
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="parquet file of python -m code_rlm_data.proxies --task nasbench201")
    parser.add_argument("--model", help="checkpoint to predict the latency of other devices with")
    parser.add_argument(
        "--devices", nargs="+", default=[], metavar="TASK", help="tasks to test --model's devices on, too"
    )
    parser.add_argument("--many", metavar="TASK", help=f"task to learn accuracy from {MANY} architectures of, too")
    parser.add_argument("--data-root", help="folder of the tables of --many and --devices")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "few_shot.md")
    args = parser.parse_args(argv)
    rows = pq.read_table(args.table).to_pydict()
    metrics = known_metrics(args.model) if args.model else []
    if args.devices and not metrics:
        parser.error("--devices needs --model, a checkpoint that predicts latencies")
    text = results(rows, predictions(args.model, rows["text"], metrics) if metrics else None, metrics)
    if args.many:
        text += "\n".join(trained_on_many(args.many, args.data_root)) + "\n"
    for task in args.devices:
        others = task_rows(task, args.data_root, "test")
        text += f"\n{len(others['text'])} networks of the test split of {task}.\n"
        text += "\n".join(unseen_devices(others, predictions(args.model, others["text"], metrics), metrics)) + "\n"
    args.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
