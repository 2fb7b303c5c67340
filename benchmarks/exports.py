"""Networks as exporters write them: texts and answers beside those of the package's own graphs.

    python benchmarks/exports.py --data-root DATA --graphs FOLDER            # exports, reads, predicts, prints a table
    python benchmarks/exports.py --data-root DATA --graphs FOLDER --rows 5   # fewer networks

For each search space that the shipped weights know, test rows are drawn, each network is made as a torch module and exported
with every exporter that is installed; files that are in FOLDER already are read as they are. The table has, for each task and
exporter, the share of texts that are the builder's, and Spearman's rho and the share of truths inside the 90% interval for the
metrics below, mean over metrics, with the share of answers that are the builder's to the digit.

    builder    `data/nas_graphs.py`, on which the weights were trained
    torch      torch.onnx.export with the tracing exporter, which folds batch norms and constants
    dynamo     torch.onnx.export(dynamo=True); needs onnxscript
    onnxsim    onnxsim's simplification of the tracing exporter's file; needs onnxsim
    ort        onnxruntime's basic optimisation of the builder's graph; needs onnxruntime
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from scipy.stats import spearmanr
from torch import nn

import code_rlm
from code_rlm.data import readers
from code_rlm.data.nas_graphs import build_graph
from code_rlm.onnx_text_rlm import onnx_to_text

METRICS = {
    "nasbench201": ("cifar10_valid_accuracy_percent", "latency_ms@pixel3", "latency_ms@gold_6226"),
    "nasbench101": ("cifar10_valid_accuracy_percent",),
    "fbnet": ("latency_ms@fpga", "latency_ms@1080ti_32"),
}
OPSET = 17


class TorchNetwork(nn.Module):
    """A torch module of a graph that `nas_graphs` made, as a person would write it: layers are modules, weights random.

    Args:
        model: The graph.

    Raises:
        ValueError: An operator that `nas_graphs` does not make.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        self.constants: dict[str, list[Any]] = {}
        for tensor in model.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                self.constants[tensor.name] = numpy_helper.to_array(tensor).ravel().tolist()
        self.steps: list[tuple[Callable[..., Any], list[str], str]] = []
        self.layers = nn.ModuleList()
        self.input = model.graph.input[0].name
        self.output = model.graph.output[0].name
        for node in model.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t).ravel().tolist()
                continue
            attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
            step = getattr(self, f"_{node.op_type.lower()}", None)
            if step is None:
                raise ValueError(f"no torch module for {node.op_type}")
            names = [name for name in node.input if name not in self.shapes and name not in self.constants]
            self.steps.append((step(node, attributes), names, node.output[0]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Returns what the graph makes of images `(batch, 3, height, width)`."""
        values = {self.input: image}
        for step, names, result in self.steps:
            values[result] = step(*[values[name] for name in names])
        return values[self.output]

    def _layer(self, layer: nn.Module) -> nn.Module:
        self.layers.append(layer)
        return layer

    def _conv(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        out, wide, *kernel = self.shapes[node.input[1]]
        groups = attributes.get("group", 1)
        pads = attributes["pads"][:2]
        options = {"stride": attributes["strides"], "padding": pads, "dilation": attributes["dilations"]}
        return self._layer(nn.Conv2d(wide * groups, out, kernel, groups=groups, bias=len(node.input) > 2, **options))

    def _batchnormalization(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.BatchNorm2d(self.shapes[node.input[1]][0]))

    def _relu(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.ReLU())

    def _clip(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.ReLU6())

    def _hardswish(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.Hardswish())

    def _sigmoid(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.Sigmoid())

    def _hardsigmoid(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.Hardsigmoid())

    def _maxpool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.MaxPool2d(attributes["kernel_shape"], attributes["strides"], attributes["pads"][:2]))

    def _averagepool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        pads = attributes["pads"][:2]
        pool = nn.AvgPool2d(attributes["kernel_shape"], attributes["strides"], pads, count_include_pad=False)
        return self._layer(pool)

    def _globalaveragepool(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        return self._layer(nn.AdaptiveAvgPool2d(1))

    def _gemm(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> nn.Module:
        out, wide = self.shapes[node.input[1]]
        return self._layer(nn.Linear(wide, out))

    def _flatten(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        return lambda x: torch.flatten(x, 1)

    def _add(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        return lambda x, y: x + y

    def _mul(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        constant = next((self.constants[name][0] for name in node.input if name in self.constants), None)
        return (lambda x, y: x * y) if constant is None else (lambda x: x.mul(constant))

    def _concat(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        return lambda *values: torch.cat(values, 1)

    def _reshape(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        target = self.constants[node.input[1]]
        return lambda x: x.view([x.shape[axis] if size == 0 else size for axis, size in enumerate(target)])

    def _transpose(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        return lambda x: x.permute(attributes["perm"]).contiguous()

    def _slice(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Callable[..., Any]:
        starts, ends, axes = (self.constants[name] for name in node.input[1:4])

        def sliced(x: torch.Tensor) -> torch.Tensor:
            index = [slice(None)] * x.dim()
            for start, end, axis in zip(starts, ends, axes):
                index[axis] = slice(start, end)
            return x[tuple(index)]

        return sliced


def with_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Returns a copy whose weights are inside the file, random."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    draw = np.random.default_rng(seed)
    for tensor in copy.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            values = draw.uniform(0.1, 1.0, tuple(tensor.dims)).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def export_torch(model: onnx.ModelProto, *, dynamo: bool) -> onnx.ModelProto:
    """Exports the torch module of a graph."""
    torch.manual_seed(0)
    network = TorchNetwork(model).eval()
    for layer in network.layers:
        if isinstance(layer, nn.BatchNorm2d):  # statistics as after training: no two layers' are equal
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.9, 1.1)
    size = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    arguments: tuple[Any, ...] = (torch.randn(size),)
    if dynamo:
        program = torch.onnx.export(network, arguments, dynamo=True, opset_version=18, verbose=False)
        return program.model_proto
    file = io.BytesIO()
    torch.onnx.export(network, arguments, file, dynamo=False, opset_version=OPSET)
    return onnx.load_model_from_string(file.getvalue())


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns onnxsim's form of the tracing exporter's file."""
    import onnxsim

    return onnxsim.simplify(export_torch(model, dynamo=False))[0]


def optimise(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Returns onnxruntime's basic optimisation of a graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(with_weights(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model whose large tensors have no data; their shapes are all that a text has of them."""
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) > 64 and tensor.data_location != onnx.TensorProto.EXTERNAL:
            shape, dtype, name = list(tensor.dims), tensor.data_type, tensor.name
            tensor.Clear()
            tensor.name, tensor.data_type = name, dtype
            tensor.dims.extend(shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.bin")
    return model


EXPORTERS: dict[str, tuple[str, Callable[[onnx.ModelProto, Path], onnx.ModelProto]]] = {
    "builder": ("onnx", lambda model, path: model),
    "torch": ("torch", lambda model, path: export_torch(model, dynamo=False)),
    "dynamo": ("onnxscript", lambda model, path: export_torch(model, dynamo=True)),
    "onnxsim": ("onnxsim", lambda model, path: simplify(model)),
    "ort": ("onnxruntime", optimise),
}


def available() -> list[str]:
    """Returns the exporters that are installed."""
    return [name for name, (module, _) in EXPORTERS.items() if importlib.util.find_spec(module)]


def exported(space: str, arch: Any, exporter: str, folder: Path) -> Path:
    """Returns the file of a network as an exporter writes it, made if it is not in the folder."""
    digest = hashlib.sha256(json.dumps([space, arch]).encode()).hexdigest()[:16]
    path = folder / f"{space}_{digest}_{exporter}.onnx"
    if not path.exists():
        quiet = contextlib.redirect_stdout(io.StringIO())
        with warnings.catch_warnings(), quiet, contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            model = EXPORTERS[exporter][1](build_graph(space, arch), path.with_suffix(".partial"))
        partial = path.with_suffix(".partial")
        partial.write_bytes(without_weights(model).SerializeToString())
        os.replace(partial, path)
    return path


def test_rows(task: str, data_root: str, rows: int) -> list[Any]:
    """Returns test rows of a task; the text of each is its space and architecture as JSON."""
    text, readers.graph_text = readers.graph_text, lambda space, arch: json.dumps([space, arch])
    try:
        return list(readers.iter_task(task, data_root, "test", metrics=METRICS[task], limit=rows))
    finally:
        readers.graph_text = text


class Answers:
    """Answers of the shipped weights, each text asked once."""

    def __init__(self) -> None:
        self.pipe = code_rlm.pipeline()
        self.known: dict[tuple[str, str], dict[str, Any]] = {}

    def __call__(self, texts: list[str], metric: str) -> list[dict[str, Any]]:
        """Returns one answer a text."""
        new = [text for text in dict.fromkeys(texts) if (text, metric) not in self.known]
        inputs = [{"text": text, "language": "onnx"} for text in new]
        for text, [entry] in zip(new, self.pipe(inputs, metrics=[metric], calibrated=True) if new else []):
            self.known[text, metric] = entry
        return [self.known[text, metric] for text in texts]


def measure(task: str, exporters: list[str], data_root: str, rows: int, folder: Path, answers: Answers) -> list[str]:
    """Returns a line of the table for each exporter."""
    chosen = test_rows(task, data_root, rows)
    texts: dict[str, list[str]] = {}
    lines = []
    for exporter in exporters:
        files = [exported(*json.loads(row.text), exporter, folder) for row in chosen]
        texts[exporter] = [onnx_to_text(file) for file in files]
        same = np.mean([a == b for a, b in zip(texts[exporter], texts["builder"])])
        rhos, held, equal = [], [], []
        for metric in METRICS[task]:
            with_truth = [number for number, row in enumerate(chosen) if metric in row.metrics]
            truth = np.array([chosen[k].values[chosen[k].metrics.index(metric)] for k in with_truth])
            found = answers([texts[exporter][k] for k in with_truth], metric)
            builder = answers([texts["builder"][k] for k in with_truth], metric)
            low, value, high = (np.array([entry[key] for entry in found]) for key in ("low", "value", "high"))
            rhos.append(spearmanr(value, truth).statistic)
            held.append(np.mean((low <= truth) & (truth <= high)))
            equal.append(np.mean([a["value"] == b["value"] for a, b in zip(found, builder)]))
        lines.append(
            f"| {task} | {exporter} | {len(chosen)} | {same:.0%} | {np.mean(rhos):.3f} | {np.mean(held):.0%} | "
            f"{np.mean(equal):.0%} |"
        )
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True, help="folder of the tasks' tables")
    parser.add_argument(
        "--graphs", type=Path, required=True, help="folder of the exported files, made if it is not there"
    )
    parser.add_argument("--rows", type=int, default=50, help="networks a task [50]")
    parser.add_argument("--exporters", nargs="+", choices=list(EXPORTERS), help="which [all that are installed]")
    parser.add_argument("--export-only", action="store_true", help="write the files and predict nothing")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    exporters = list(dict.fromkeys(["builder", *(args.exporters or available())]))
    args.graphs.mkdir(parents=True, exist_ok=True)
    if args.export_only:
        for task in METRICS:
            for row in test_rows(task, args.data_root, args.rows):
                for exporter in exporters:
                    exported(*json.loads(row.text), exporter, args.graphs)
        return
    answers = Answers()
    print("| task | exporter | networks | same text | rho | in 90% interval | same answer |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for task in METRICS:
        measure(task, exporters, args.data_root, args.rows, args.graphs, answers)


if __name__ == "__main__":
    main()
