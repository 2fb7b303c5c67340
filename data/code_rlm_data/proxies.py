"""Training-free proxies of an architecture, from its ONNX graph at a random initialisation.

    from code_rlm.data.nas_graphs import build_graph
    from code_rlm_data.proxies import proxies

    proxies(build_graph("nasbench201", arch), seed=0)  # {"synflow_log": 71.3, "naswot": 262.1, ...}

    python -m code_rlm_data.proxies --task nasbench201 --data-root DATA --rows 600 --starts 3 --out proxies.parquet

    ================  =======================================================================================
    ``synflow_log``   log of the sum of |w dR/dw|, R the summed output for an input of ones under |w|, without batch
                      norm and with rectifiers that let all through (Tanaka et al. 2020, arXiv 2006.05467)
    ``naswot``        log|det K|, K_ij the number of rectifiers that treat images i and j alike (Mellor et al.
                      2021, 2006.04647)
    ``jacov``         -sum of log(v + k) + 1 / (v + k) over the eigenvalues v of the correlations of the images' input
                      gradients, k = 1e-5 (the first version of the same paper)
    ``grad_norm``     sum over layers of the Euclidean norm of the gradient of the cross-entropy with random classes
                      (Abdelfattah et al. 2021)
    ``swap``          sum over rectifiers of how many different sets of the first 16 images units let through (Peng et al. 2024,
                      2403.04161)
    ``expressivity``  mean over joints of the entropy of the shares of the channels' principal components in their variance
                      (Lee and Ham 2024, 2403.19232)
    ``progressivity`` least rise of that entropy from a joint to the next (the same paper)
    ``trainability``  mean over joints of 2 - s - 1 / s, s the largest singular value of the mean Jacobian from one to the next,
                      as random signs measure it (the same paper)
    ================  =======================================================================================

Joints are the maps that everything behind them is computed from, such as the outputs of a network's cells. All but synflow
see images of normal noise, batch norm with the batch's own statistics. Weights of convolutions and linear layers are uniform
within 1 / sqrt(fan-in), as PyTorch starts them; biases are zero. Of a network that connects nothing synflow, NASWOT, jacov and
trainability are not finite.

The papers differ in two things: SWAP counts sets over the whole network, which ends at 2^16 of them, and AZ-NAS adds its
expressivity up over blocks, so that it grows with depth.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from tqdm.auto import tqdm

from code_rlm.data.nas_graphs import build_graph
from code_rlm.data.readers import DATA_ROOT_VARIABLE, TASKS
from code_rlm.data.schema import DataError
from code_rlm.errors_rlm import RLMError
from code_rlm.onnx_text_rlm import onnx_to_text

T = TypeVar("T")

NAMES = (
    "synflow_log",
    "naswot",
    "jacov",
    "grad_norm",
    "swap",
    "expressivity",
    "progressivity",
    "trainability",
)
# Part of the key of stored scores: to be raised when the numbers change.
_VERSION = 4
_JACOV_K = 1e-5
_PATTERN_IMAGES = 16


class ProxyError(RLMError):
    """A graph that cannot be run."""


# ---------------------------------------------------------------------------------------------------- a graph in torch


def _even(pads: list[int]) -> list[int]:
    """Returns the padding of (height, width) from ONNX's (top, left, bottom, right).

    Raises:
        ProxyError: The two sides differ.
    """
    if pads[:2] != pads[2:]:
        raise ProxyError(f"padding that differs between two sides is not supported: pads={pads}")
    return pads[:2]


def _window(a: Mapping[str, Any]) -> dict[str, Any]:
    return {"stride": a.get("strides", [1, 1]), "padding": _even(a.get("pads", [0, 0, 0, 0]))}


def _conv(a: Mapping[str, Any], x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    return F.conv2d(x, w, b, dilation=a.get("dilations", [1, 1]), groups=a.get("group", 1), **_window(a))


def _gemm(a: Mapping[str, Any], x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, w if a.get("transB") else w.T, b)


def _average(a: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, a["kernel_shape"], count_include_pad=bool(a.get("count_include_pad", 0)), **_window(a))


def _reshape(a: Mapping[str, Any], x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())])


def _slice(
    a: Mapping[str, Any], x: torch.Tensor, starts: torch.Tensor, ends: torch.Tensor, axes: torch.Tensor
) -> torch.Tensor:
    for start, end, axis in zip(starts.tolist(), ends.tolist(), axes.tolist(), strict=True):
        if start < 0 or end < start:
            raise ProxyError(f"Slice from {start} to {end} cannot be run; give both from the front")
        x = x.narrow(axis, start, min(end, x.shape[axis]) - start)
    return x


# Operators that `nas_graphs` makes, each with the attributes that its function reads. Batch norm and weights are the caller's.
_OPERATORS: dict[str, tuple[Callable[..., torch.Tensor], tuple[str, ...]]] = {
    "Conv": (_conv, ("kernel_shape", "strides", "pads", "dilations", "group")),
    "Gemm": (_gemm, ("transB",)),
    "Relu": (lambda a, x: F.relu(x), ()),
    "Clip": (lambda a, x, low, high: x.clamp(low.item(), high.item()), ()),
    "HardSwish": (lambda a, x: F.hardswish(x), ()),
    "Sigmoid": (lambda a, x: torch.sigmoid(x), ()),
    "HardSigmoid": (lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1), ("alpha", "beta")),
    "MaxPool": (lambda a, x: F.max_pool2d(x, a["kernel_shape"], **_window(a)), ("kernel_shape", "strides", "pads")),
    "AveragePool": (_average, ("kernel_shape", "strides", "pads", "count_include_pad")),
    "GlobalAveragePool": (lambda a, x: x.mean((2, 3), keepdim=True), ()),
    "Add": (lambda a, x, y: x + y, ()),
    "Mul": (lambda a, x, y: x * y, ()),
    "Concat": (lambda a, *xs: torch.cat(xs, a["axis"]), ("axis",)),
    "Flatten": (lambda a, x: x.flatten(a.get("axis", 1)), ("axis",)),
    "Reshape": (_reshape, ()),
    "Transpose": (lambda a, x: x.permute(a["perm"]), ("perm",)),
    "Slice": (_slice, ()),
}
_NORM = "BatchNormalization"
# Where a network's pieces meet: the sign of what goes in determines which piece an image is on.
_RECTIFIERS = ("Relu", "Clip", "HardSwish")
_LAYOUTS = ("Reshape", "Transpose", "Flatten")
# Attributes that may be there as long as they change nothing.
_IDLE = {
    **{"auto_pad": b"NOTSET", "ceil_mode": 0, "storage_order": 0, "allowzero": 0, "transA": 0, "training_mode": 0},
    **{"alpha": 1.0, "beta": 1.0, "dilations": [1, 1], "epsilon": 1e-5},
}


class Network:
    """An ONNX graph that torch can run; its weights have shapes and no values.

    Args:
        model: A graph of `nas_graphs`, or any of the same operators with one input and one output.

    Raises:
        ProxyError: Another operator or attribute; the message lists what is supported.
    """

    def __init__(self, model: onnx.ModelProto):
        graph = model.graph
        self.constants: dict[str, torch.Tensor] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                shapes[tensor.name] = tuple(tensor.dims)
            else:
                self.constants[tensor.name] = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        inputs = [value for value in graph.input if value.name not in shapes and value.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ProxyError(f"the graph must have one input and one output, not {len(inputs)} and {len(graph.output)}")
        self.input = inputs[0].name
        self.output = graph.output[0].name
        self.image = tuple(d.dim_value for d in inputs[0].type.tensor_type.shape.dim)[1:]
        if len(self.image) != 3 or not all(self.image):
            raise ProxyError(
                f"the input must be images of a fixed size, (batch, channels, height, width); got {self.image}"
            )
        self.nodes: list[tuple[str, dict[str, Any], list[str], str]] = []
        # Name of each weight of a convolution or linear layer to its shape and fan-in; biases to their shape.
        self.weights: dict[str, tuple[tuple[int, ...], int]] = {}
        self.biases: dict[str, tuple[int, ...]] = {}
        made = {self.input, *self.constants}
        for node in graph.node:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            if node.op_type == "Constant" and set(attributes) == {"value"}:
                self.constants[node.output[0]] = torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())
                made.add(node.output[0])
                continue
            self._check(node, attributes)
            if node.op_type in ("Conv", "Gemm"):
                self._declare(node, attributes, shapes)
            data = node.input[:1] if node.op_type in ("Conv", "Gemm", _NORM) else node.input
            if lacking := [name for name in data if name not in made]:
                raise ProxyError(f"{node.op_type} reads {lacking[0]!r}, which no node before it makes")
            made.add(node.output[0])
            self.nodes.append((node.op_type, attributes, list(node.input), node.output[0]))
        self.joints = self._joints()

    def _joints(self) -> set[str]:
        """Returns the names of values that all later values are computed from.

        Values that only lie otherwise in memory than another one are left out.
        """
        last = {name: number for number, (_, _, names, _) in enumerate(self.nodes) for name in names}
        found = set()
        waiting = {self.input}
        for number, (op, _, _, out) in enumerate(self.nodes):
            waiting = {name for name in (*waiting, out) if last.get(name, -1) > number}
            if waiting == {out} and op not in _LAYOUTS:
                found.add(out)
        return found

    @staticmethod
    def _check(node: onnx.NodeProto, attributes: Mapping[str, Any]) -> None:
        if node.domain not in ("", "ai.onnx") or node.op_type not in (*_OPERATORS, _NORM) or len(node.output) != 1:
            supported = ", ".join(sorted([*_OPERATORS, "Constant", _NORM]))
            raise ProxyError(f"{node.op_type} cannot be run; supported are {supported}")
        read = ("epsilon", "momentum") if node.op_type == _NORM else _OPERATORS[node.op_type][1]
        for name, value in attributes.items():
            if name not in read and value != _IDLE.get(name):
                raise ProxyError(
                    f"{node.op_type} with {name}={value!r} cannot be run; it may have {', '.join(read) or 'none'}"
                )

    def _declare(
        self, node: onnx.NodeProto, attributes: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        for position, name in enumerate(node.input[1:]):
            if name not in shapes:
                raise ProxyError(f"{node.op_type} reads {name!r}, which is not a weight without values")
            shape = shapes[name]
            if position:
                self.biases[name] = shape
            else:
                columns = node.op_type == "Gemm" and not attributes.get("transB")
                self.weights[name] = shape, shape[0] if columns else math.prod(shape[1:])

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Returns random weights by name, float32, in the order of the graph."""
        return {
            name: (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)
            for name, (shape, fan_in) in self.weights.items()
        }

    def run(
        self,
        images: torch.Tensor,
        weights: Mapping[str, torch.Tensor],
        *,
        linear: bool = False,
        watch: Callable[[torch.Tensor], None] | None = None,
        joint: Callable[[torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Runs the graph on `(batch, channels, height, width)`, whatever batch it was built for; returns its output.

        Args:
            images: Input, of the weights' type.
            weights: By name, as `draw` gives them.
            linear: Let batch norm and rectifiers pass everything on; otherwise batch norm takes the batch's statistics.
            watch: Called with what goes into each rectifier.
            joint: Called with each of `joints`, in order.
        """
        values = {self.input: images, **self.constants, **weights}
        values |= {name: images.new_zeros(shape) for name, shape in self.biases.items()}
        for op, attributes, names, out in self.nodes:
            x = values[names[0]]
            if watch is not None and op in _RECTIFIERS:
                watch(x)
            if linear and op in (_NORM, *_RECTIFIERS):
                values[out] = x
            elif op == _NORM:
                values[out] = F.batch_norm(x, None, None, training=True, eps=attributes.get("epsilon", 1e-5))
            else:
                values[out] = _OPERATORS[op][0](attributes, x, *(values[name] for name in names[1:]))
            if joint is not None and out in self.joints:
                joint(values[out])
        return values[self.output]


# ---------------------------------------------------------------------------------------------------- scores


def proxies(model: onnx.ModelProto, *, seed: int = 0, batch: int = 32) -> dict[str, float]:
    """Returns all scores of `NAMES` at one random initialisation; some are NaN or infinite for networks that connect nothing.

    Args:
        model: The graph; see `Network`.
        seed: Of weights, images and classes.
        batch: Images.

    Raises:
        ProxyError: A graph that cannot be run.
    """
    network = Network(model)
    generator = torch.Generator().manual_seed(seed)
    weights = {name: w.requires_grad_() for name, w in network.draw(generator).items()}
    images = torch.randn(batch, *network.image, generator=generator).requires_grad_()
    kernel = torch.zeros(batch, batch, dtype=torch.float64)
    patterns = 0
    joints: list[torch.Tensor] = []

    def count(x: torch.Tensor) -> None:
        nonlocal patterns
        kernel.add_(alike(x.detach()))
        patterns += different(x.detach()[:_PATTERN_IMAGES])

    def keep(x: torch.Tensor) -> None:
        if x.ndim == 4 and x[0, 0].numel() > 1:
            joints.append(x)

    output = network.run(images, weights, watch=count, joint=keep)
    classes = torch.randint(output.shape[1], (batch,), generator=generator)
    (jacobian,) = torch.autograd.grad(output.sum(), images, retain_graph=True, materialize_grads=True)
    passed_on = [trainability(one, other, generator) for one, other in pairwise(joints)]
    gradients = torch.autograd.grad(
        F.cross_entropy(output, classes), list(weights.values()), allow_unused=True, materialize_grads=True
    )
    entropies = [expressivity(x.detach()) for x in joints]
    return {
        "synflow_log": _log(synflow(network, weights)),
        "naswot": float(torch.linalg.slogdet(kernel)[1]),
        "jacov": jacov(jacobian.flatten(1).double().numpy()),
        "grad_norm": sum(float(g.double().norm()) for g in gradients),
        "swap": float(patterns),
        "expressivity": float(np.mean(entropies)) if joints else math.nan,
        "progressivity": float(np.diff(entropies).min()) if len(joints) > 1 else math.nan,
        "trainability": float(np.mean(passed_on)) if passed_on else math.nan,
    }


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def alike(x: torch.Tensor) -> torch.Tensor:
    """Returns how many of the units give images i and j the same sign, `(images, images)`, from `(images, ...)`."""
    above = (x.flatten(1) > 0).float()
    ones = above.sum(1).double()
    return 2 * (above @ above.T).double() - ones[:, None] - ones[None, :] + above.shape[1]


def different(x: torch.Tensor) -> int:
    """Returns how many different sets of images a rectifier lets through, from `(images, ...)`, 16 images at most."""
    code = ((x.flatten(1) > 0) * 2 ** torch.arange(len(x))[:, None]).sum(0)
    return int((torch.bincount(code, minlength=1) > 0).sum())


def expressivity(x: torch.Tensor) -> float:
    """Returns the entropy in nats of the shares that principal components have in the variance of a map.

    Args:
        x: The map, `(images, channels, height, width)`.

    Returns:
        0 where nothing varies, NaN where not all is finite.
    """
    rows = x.transpose(0, 1).flatten(1).double()
    if not rows.isfinite().all():
        return math.nan
    rows = rows - rows.mean(1, keepdim=True)
    variances = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0)
    shares = variances / variances.sum() if variances.sum() > 0 else variances
    return float(-torch.xlogy(shares, shares).sum())


def trainability(before: torch.Tensor, after: torch.Tensor, generator: torch.Generator) -> float:
    """2 - s - 1 / s for the step between two maps of one run, `(images, channels, height, width)` each; s is the largest
    singular value of the mean Jacobian of the channels at a place with respect to those it is computed from at the places that
    it stands for. Minus infinity where nothing is passed on, NaN where the later map is the larger one or not all is finite."""
    signs = torch.randint(2, after.shape, generator=generator) * 2.0 - 1
    (gradient,) = torch.autograd.grad(after, before, signs, retain_graph=True, materialize_grads=True)
    (tall, broad) = before.shape[2:]
    (high, wide) = after.shape[2:]
    if high > tall or wide > broad:
        return math.nan
    stride = max(math.ceil(tall / high), math.ceil(broad / wide))  # of 9 places every second one is 5
    gradient = F.pixel_unshuffle(F.pad(gradient, (0, wide * stride - broad, 0, high * stride - tall)), stride)
    places = len(after) * high * wide
    mean = torch.einsum("bihw,bjhw->ij", gradient, signs) / places
    if not mean.isfinite().all():
        return math.nan
    largest = float(torch.linalg.matrix_norm(mean, 2))
    return 2 - largest - 1 / largest if largest > 0 else -math.inf


def jacov(jacobian: np.ndarray) -> float:
    """Returns the score of the images' input gradients, `(images, inputs)`; NaN where one of them is zero or constant."""
    centred = jacobian - jacobian.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    if not (norms > 0).all():
        return math.nan
    rows = centred / norms
    eigenvalues = np.clip(np.linalg.eigvalsh(rows @ rows.T), 0, None) + _JACOV_K  # below 0 by rounding alone
    return float(-(np.log(eigenvalues) + 1 / eigenvalues).sum())


def synflow(network: Network, weights: Mapping[str, torch.Tensor]) -> float:
    """Sums of |w dR/dw| over all weights, in float64."""
    plain = {name: w.detach().abs().double().requires_grad_() for name, w in weights.items()}
    total = network.run(torch.ones(1, *network.image, dtype=torch.float64), plain, linear=True).sum()
    if not total.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(total, list(plain.values()), allow_unused=True, materialize_grads=True)
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(plain.values(), gradients, strict=True))


# ---------------------------------------------------------------------------------------------------- stored scores


@dataclass
class Cache:
    """Scores in a file, a line of JSON each, by graph, seed and batch; a run that was killed goes on.

    By the graph itself and not by its text: nodes that no output needs have scores, too.
    """

    path: Path

    def __post_init__(self):
        self.path = Path(self.path)
        self.scores: dict[str, dict[str, float]] = {}
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                key, scores = json.loads(line) if line else (None, None)
            except ValueError:
                if number < len(lines):  # else the last one, incomplete when a run was killed
                    raise DataError(
                        f"{self.path}, line {number}: not a line of stored proxies; remove the file."
                    ) from None
                self.path.write_text("".join(each + "\n" for each in lines[:-1]), encoding="utf-8")
                continue
            if key is not None:
                self.scores[key] = scores

    def proxies(self, model: onnx.ModelProto, *, seed: int = 0, batch: int = 32) -> dict[str, float]:
        """As the function `proxies`, computed if need be."""
        graph = model.SerializeToString(deterministic=True)
        key = hashlib.sha256(f"{_VERSION}\x00{seed}\x00{batch}\x00".encode() + graph).hexdigest()
        if key not in self.scores:
            self.scores[key] = proxies(model, seed=seed, batch=batch)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([key, self.scores[key]]) + "\n")
        return dict(self.scores[key])


def architectures(
    name: str, data_root: str | os.PathLike | None = None, rows: int | None = None, seed: int = 0
) -> Iterator[tuple[str, Any, str, dict[str, float | None]]]:
    """Yields space, architecture, group and all numbers of rows of a task, drawn by the seed, in the order of the table.

    Raises:
        DataError: No such task or table, or one without architectures.
    """
    if name not in TASKS:
        raise DataError(f"unknown task {name!r}; known are {', '.join(TASKS)}")
    task = TASKS[name]
    root = data_root or os.environ.get(DATA_ROOT_VARIABLE, "")
    path = Path(root) / task.file
    if not path.is_file():
        raise DataError(f"no file {path}; give --data-root, or set the environment variable {DATA_ROOT_VARIABLE}")
    numbers = {**task.metrics, **task.extra_metrics}
    columns = list(dict.fromkeys([*task.columns, *(column.name for column in numbers.values())]))
    table = pq.read_table(path, columns=columns)
    if rows is not None and rows < table.num_rows:
        table = table.take(np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:rows]))
    for cells in table.to_pylist():
        given = task.read_row({column: cells[column] for column in task.columns})
        if given.build is None or len(given.build[1]) != 2:
            raise DataError(f"{name} holds no architectures; proxies are for tasks of networks, such as nasbench201")
        values = {metric: cells[column.name] for metric, column in numbers.items()}
        scaled = {m: None if v is None else float(v) * numbers[m].factor for m, v in values.items()}
        yield (*given.build[1], given.group, scaled)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line: writes a table of graph texts, the task's numbers and the proxies, to train on as a file."""
    parser = argparse.ArgumentParser(
        "python -m code_rlm_data.proxies", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", required=True, help="a task of networks in data/readers.py, such as nasbench201")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the tasks' tables")
    parser.add_argument("--rows", type=int, metavar="N", help="so many rows, drawn by the seed; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the rows, the weights and the images [0]")
    parser.add_argument(
        "--starts",
        type=int,
        default=1,
        metavar="N",
        help="the mean of so many initialisations, seeds from --seed on [1]",
    )
    parser.add_argument("--batch", type=int, default=32, help="images; swap takes the first 16 [32]")
    parser.add_argument("--cache", metavar="FILE", help="where scores are kept; by default OUT with .jsonl")
    parser.add_argument("--out", required=True, metavar="FILE", help="parquet file to write")
    args = parser.parse_args(argv)
    try:
        if args.batch < 2 or (args.rows is not None and args.rows < 1) or args.starts < 1:
            raise DataError("--batch must be at least 2, --rows and --starts at least 1.")
        cache = Cache(args.cache or Path(args.out).with_suffix(".jsonl"))
        known = len(cache.scores)
        started = time.process_time()
        drawn = list(architectures(args.task, args.data_root, args.rows, args.seed))
        rows = [
            _scored(each, cache, seeds=range(args.seed, args.seed + args.starts), batch=args.batch)
            for each in _with_progress(drawn)
        ]
        pq.write_table(pa.Table.from_pylist(rows), args.out)
    except (RLMError, OSError) as error:
        print(f"proxies: {error}", file=sys.stderr)
        return 2
    computed = len(cache.scores) - known
    seconds = time.process_time() - started
    each = f", {seconds / computed:.2f} s of processor time each" if computed else ""
    print(f"{args.out}: {len(rows)} rows, {computed} initialisations computed{each}")
    return 0


def _scored(
    drawn: tuple[str, Any, str, dict[str, Any]], cache: Cache, *, seeds: Sequence[int], batch: int
) -> dict[str, Any]:
    """Returns the row of an architecture: its text, the task's numbers and the mean scores, None where not finite."""
    space, arch, group, numbers = drawn
    graph = build_graph(space, arch)
    starts = [cache.proxies(graph, seed=seed, batch=batch) for seed in seeds]
    scores: dict[str, float | None] = {}
    for name in NAMES:
        mean = sum(start[name] for start in starts) / len(starts)
        scores[name] = mean if math.isfinite(mean) else None
    row = {"text": onnx_to_text(graph), "language": "onnx", "arch": json.dumps(arch), "group": group}
    return {**row, **numbers, **scores}


def _with_progress(drawn: Sequence[T]) -> Iterator[T]:
    """Yields what is drawn, with a bar on a terminal and a line every 30 seconds elsewhere."""
    logged = time.monotonic()
    for count, each in enumerate(tqdm(drawn, unit="network", disable=None), start=1):
        yield each
        if not sys.stderr.isatty() and time.monotonic() - logged > 30:
            logged = time.monotonic()
            print(f"{count} of {len(drawn)} networks", file=sys.stderr)


__all__ = ["NAMES", "Cache", "Network", "ProxyError", "architectures", "proxies"]


if __name__ == "__main__":
    sys.exit(main())
