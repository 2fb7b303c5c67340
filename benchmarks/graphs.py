"""Networks as text: tokens, speed, and operations and parameters beside the tables' own columns.

    python benchmarks/graphs.py --data-root DATA
    python benchmarks/graphs.py --data-root DATA --model FOLDER --rows 300 --no-resnet

For each search space, a sample of its architectures: tokens with the checkpoint's tokenizer (header not counted) beside the
median of the printed graphs in "Regression Language Models for Code" (arXiv 2509.26476; its own tokenizer and its own graphs of
the same spaces); graphs/s on one core from ONNX to text, and from the architecture's string to text; and how many of the
operations and parameters that are counted from the graph are exactly the table's. ResNet-50 is timm's (`pip install timm
onnxscript`), exported by torch.

Times are CPU seconds of the process, so other work on the machine does not count.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedTokenizerBase

from code_rlm import load
from code_rlm.data.nas_graphs import build_graph, count_flops_params
from code_rlm.data.readers import TASKS
from code_rlm.data.schema import DataError
from code_rlm.onnx_text_rlm import onnx_to_text
from code_rlm.processing_rlm import tokenize

# Task to the paper's space and median tokens, where it has the space.
PAPER = {
    "nasbench201": ("NB201", 3400),
    "nasbench101": ("NB101", 4100),
    "nasbench_macro": None,
    "accel_nasbench": None,
    "fbnet": ("FBNet", 3500),
    "ofa": ("Ofa-MB", 6300),
    "darts": ("NDS", 14000),
}
# Operations of a batch norm's element, where a table counts otherwise than NAS-Bench-201's.
NORM_FLOPS = {"nasbench_macro": 0, "accel_nasbench": 4}
# Counted from the graph, and the table's name for it.
COUNTS = {"operations": ("flops_count", "macs_count"), "parameters": ("params_count",)}


def sample(name: str, data_root: str, rows: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (space, architecture, cells) of rows drawn at random, the same every time."""
    task = TASKS[name]
    columns = [column.name for metric, column in task.extra_metrics.items() if metric.endswith("_count")]
    path = Path(data_root, task.file)
    if not path.is_file():
        raise DataError(f"no file {path}")
    table = pq.read_table(path, columns=[*task.columns, *columns])
    chosen = np.random.default_rng(0).permutation(table.num_rows)[:rows]
    for cells in table.take(np.sort(chosen)).to_pylist():
        _, (space, arch) = task.read_row(cells).build
        yield space, arch, cells


def agreement(name: str, what: str, counted: list[int], cells: list[dict[str, Any]]) -> str:
    """Say how many counts are exactly the table's, and how far the worst is off."""
    task = TASKS[name]
    metric = next((each for each in COUNTS[what] if each in task.extra_metrics), None)
    if metric is None:
        return "not in the table"
    column = task.extra_metrics[metric]
    pairs = [
        (ours, round(each[column.name] * column.factor))
        for ours, each in zip(counted, cells)
        if each[column.name] is not None
    ]
    exact = sum(ours == theirs for ours, theirs in pairs)
    worst = max(abs(ours - theirs) / theirs for ours, theirs in pairs)
    return f"{100 * exact / len(pairs):.1f}% exact, at most {100 * worst:.2g}% off"


def space_row(name: str, data_root: str, rows: int, tokenizer: PreTrainedTokenizerBase) -> str:
    """The table's line of a task."""
    texts, cells, counted, built, printed = [], [], [], 0.0, 0.0
    for space, arch, each in sample(name, data_root, rows):
        began = time.process_time()
        graph = build_graph(space, arch)
        between = time.process_time()
        texts.append(onnx_to_text(graph))
        built, printed = built + between - began, printed + time.process_time() - between
        counted.append(count_flops_params(graph, norm_flops=NORM_FLOPS.get(name, 2)))
        cells.append(each)
    lengths = [len(ids) for ids in tokenize(tokenizer, texts)]
    flops, params = ([each[k] for each in counted] for k in (0, 1))
    paper = PAPER[name]
    beside = f"{paper[1]:,} ({paper[0]})" if paper else "–"
    times = f"{paper[1] / statistics.median(lengths):.0f}" if paper else "–"
    row = [
        name,
        f"{len(texts):,}",
        f"{statistics.median(lengths):.0f}",
        f"{np.percentile(lengths, 95):.0f}",
        beside,
        times,
    ]
    row += [f"{len(texts) / printed:.0f}", f"{len(texts) / (built + printed):.0f}"]
    row += [agreement(name, what, counts, cells) for what, counts in (("operations", flops), ("parameters", params))]
    return f"| {' | '.join(row)} |"


def resnet_row(tokenizer: PreTrainedTokenizerBase) -> str:
    """Tokens of timm's ResNet-50, exported by PyTorch, and graphs/s of printing it."""
    try:
        import onnxscript  # noqa: F401
        import timm
    except ImportError as error:
        return f"ResNet-50 left out: {error}; pip install timm onnxscript"
    model = timm.create_model("resnet50", pretrained=False).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder, "resnet50.onnx")
        torch.onnx.export(model, (torch.zeros(1, 3, 224, 224),), path, dynamo=True, verbose=False)
        began = time.process_time()
        text = onnx_to_text(path)
        seconds = time.process_time() - began
    trainable = sum(p.numel() for p in model.parameters())
    (ids,) = tokenize(tokenizer, [text])
    return (
        f"timm {timm.__version__} resnet50 ({trainable:,} parameters), exported by torch {torch.__version__}: {len(ids)} "
        f"tokens, printed in {1e3 * seconds:.0f} ms."
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder of the tables")
    parser.add_argument("--model", help="checkpoint whose tokenizer is used; by default the one that ships")
    parser.add_argument("--rows", type=int, default=1000, help="architectures of each space [1000]")
    parser.add_argument("--tasks", nargs="+", choices=PAPER, default=list(PAPER), help="by default all")
    parser.add_argument("--no-resnet", action="store_true", help="leave ResNet-50 out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = load(args.model)[1].tokenizer
    columns = ["task", "graphs", "tokens: median", "p95", "the paper's median", "times fewer"]
    columns += ["graphs/s", "with building", "operations", "parameters"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for name in args.tasks:
        try:
            print(space_row(name, args.data_root, args.rows, tokenizer), flush=True)
        except DataError as error:
            print(f"\n{name} left out: {error}\n", flush=True)
    if not args.no_resnet:
        print(f"\n{resnet_row(tokenizer)}")


if __name__ == "__main__":
    main()
