"""Few-shot accuracy of NAS-Bench-201 cells: Kendall's tau of several recipes from 39, 78 and 256 trained architectures.

    python -m code_rlm.data.proxies --task nasbench201 --data-root DATA --rows 600 --out proxies.parquet
    python benchmarks/few_shot.py proxies.parquet                      # writes benchmarks/results/few_shot.md
    python benchmarks/few_shot.py proxies.parquet --model checkpoints/default --metrics latency_ms@pixel3 flops_count

Every recipe is a random forest; recipes differ in what it reads of a network. Training architectures are drawn five times, in
whole groups, and all other groups are the test. With `--model` the checkpoint's predictions of `--metrics`, none of them the
accuracy, are features, too.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.ensemble import RandomForestRegressor

from code_rlm.data.nas_graphs import parse_nasbench201
from code_rlm.data.proxies import NAMES
from code_rlm.evaluation.metrics import bootstrap_interval, kendall, spearman

TARGET = "cifar10_valid_accuracy_percent"
SIZES, DRAWS, TREES = (39, 78, 256), 5, 200
FEWEST_TESTED = 30
OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# Kendall's tau published for FLAN, with proxies (arXiv 2509.26476): other draws, 7,813 test cells, not split by group.
FLAN = {39: 0.702, 78: 0.775, 256: 0.852}


def one_hot(arch: str) -> list[float]:
    """The six edges of a cell, five numbers each."""
    return [float(op == known) for edges in parse_nasbench201(arch) for op in edges for known in OPERATORS]


def filled(columns: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Columns side by side, `(rows, columns)`; what has no finite score stands below all that has one."""
    table = np.array(columns, dtype=np.float64).T
    for column in table.T:
        missing = np.isnan(column)
        column[missing] = column[~missing].min() - 1 if not missing.all() else 0
    return table


def draws(groups: Sequence[str], size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, `size` of them, and to test on; no group is in both."""
    names = np.asarray(groups)
    order = np.random.default_rng(seed).permutation(np.unique(names))
    counts = np.cumsum([(names == name).sum() for name in order])
    taken = int(np.searchsorted(counts, size)) + 1
    chosen = np.concatenate([np.flatnonzero(names == name) for name in order[:taken]])
    return chosen[:size], np.flatnonzero(np.isin(names, order[taken:]))


def taus(features: np.ndarray, target: np.ndarray, groups: Sequence[str], size: int) -> list[float]:
    """Kendall's tau on the test rows, one a draw."""
    found = []
    for seed in range(DRAWS):
        train, test = draws(groups, size, seed)
        forest = RandomForestRegressor(TREES, max_features=1 / 3, random_state=seed)
        found.append(kendall(target[test], forest.fit(features[train], target[train]).predict(features[test])))
    return found


def predictions(model: str, texts: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    """Logarithms of a checkpoint's medians, `(rows, metrics)`."""
    import code_rlm

    if TARGET in metrics:
        raise SystemExit(f"--metrics must not name {TARGET}: it is what is to be learned from few")
    pipe = code_rlm.pipeline(model)
    inputs = [{"text": text, "language": "onnx"} for text in texts]
    answers = [pipe(inputs, metrics=[metric], batch_size=16) for metric in metrics]
    return np.log(np.array([[entry[0]["value"] for entry in found] for found in answers])).T


def results(rows: Mapping[str, list], model: str | None = None, metrics: Sequence[str] = ()) -> str:
    """The page: each proxy alone, then every recipe at every size."""
    target = np.array(rows[TARGET], dtype=np.float64)
    proxies = filled([rows[name] for name in NAMES])
    cells = np.array([one_hot(json.loads(arch)) for arch in rows["arch"]])
    sizes = np.log(filled([rows["flops_count"], rows["params_count"]]))
    recipes = {
        "FLOPs, params": sizes,
        "one-hot cell, FLOPs, params": np.hstack([cells, sizes]),
        "proxies, FLOPs, params": np.hstack([proxies, sizes]),
        "one-hot cell, FLOPs, params, proxies": np.hstack([cells, sizes, proxies]),
    }
    if model:
        said = predictions(model, rows["text"], metrics)
        recipes[f"the same and predicted {', '.join(metrics)}"] = np.hstack([cells, sizes, proxies, said])
    lines = [
        f"{len(target)} cells of NAS-Bench-201 in {len(set(rows['group']))} groups; {TARGET}. In brackets: 95% bootstrap "
        "intervals over groups.",
        "",
        "| alone, nothing trained | Spearman | Kendall |",
        "|---|---|---|",
    ]
    for name, column in zip([*NAMES, "FLOPs", "params"], np.hstack([proxies, sizes]).T, strict=True):
        found = [bootstrap_interval(score, target, column, groups=rows["group"]) for score in (spearman, kendall)]
        lines.append(f"| {name} | {' | '.join(f'{f.value:.3f} ({f.low:.3f} to {f.high:.3f})' for f in found)} |")
    sizes_here = [size for size in SIZES if len(target) - size >= FEWEST_TESTED]
    if left_out := sorted(set(SIZES) - set(sizes_here)):
        lines += [
            "",
            f"Left out, as fewer than {FEWEST_TESTED} rows would be tested: {left_out} trained architectures.",
        ]
    if not sizes_here:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        f"Random forest of {TREES} trees; Kendall's tau on the groups that were not drawn, mean and standard deviation of "
        f"{DRAWS} draws.",
        "",
        f"| the forest reads | {' | '.join(f'{size} trained' for size in sizes_here)} |",
        "|---" * (1 + len(sizes_here)) + "|",
    ]
    for name, features in recipes.items():
        found = [taus(features, target, rows["group"], size) for size in sizes_here]
        lines.append(f"| {name} | {' | '.join(f'{np.mean(tau):.3f} ± {np.std(tau):.3f}' for tau in found)} |")
    published = " | ".join(str(FLAN.get(size, "–")) for size in sizes_here)
    lines.append(f"| FLAN with proxies, as published (other draws and test cells) | {published} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="parquet file of python -m code_rlm.data.proxies --task nasbench201")
    parser.add_argument("--model", help="checkpoint whose predictions of other metrics are features, too")
    parser.add_argument("--metrics", nargs="+", default=["latency_ms@pixel3"], help="which [latency_ms@pixel3]")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "few_shot.md")
    args = parser.parse_args(argv)
    text = results(pq.read_table(args.table).to_pydict(), args.model, args.metrics)
    args.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
