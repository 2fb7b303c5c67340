"""Writes ONNX graphs layer by layer: shapes are tracked, weights are drawn only when the model is asked for.

    graph = GraphBuilder(Dice(0), Style())
    image = graph.input((1, 3, 64, 64))
    features = graph.unit(image, 16, 3, 2, activation="relu")
    graph.output(graph.classifier(features, 10))
    model = graph.model()

A `Style` fixes how a layer is spelled, as exporters differ in that: batch norm as a node or folded into the convolution,
GELU as one operator or written out with Erf or Tanh, a linear layer as Gemm or as MatMul and Add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper

Number = TypeVar("Number", int, float)
Choice = TypeVar("Choice")

_POOL = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)  # all weights are drawn from these
_STORED_INSIDE = 64  # elements: larger weights are left out of a model without weights
_ACTIVATION_SCALE = 0.05
_WEIGHT_SCALE = 0.01
# Operators whose data is quantised in a quantised network, as onnxruntime's own quantiser does.
_QUANTISED = {
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool",
}  # fmt: skip


class Dice:
    """Draws the sizes of a network.

    Args:
        seed: Equal seeds draw equal networks.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def pick(self, *choices: Choice) -> Choice:
        """Returns one of some choices, each as likely."""
        return choices[int(self.random.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """Returns True with a probability."""
        return bool(self.random.random() < probability)

    def between(self, least: int, most: int) -> int:
        """Returns an integer from `least` to `most`, each as likely."""
        return int(self.random.integers(least, most + 1))

    def size(self, least: float, most: float, multiple: int = 1) -> int:
        """Returns a multiple of `multiple` from `least` to `most`, its logarithm uniform."""
        value = math.exp(self.random.uniform(math.log(least), math.log(most)))
        return max(round(value / multiple), 1) * multiple


@dataclass(frozen=True)
class Style:
    """How layers are spelled.

    Attributes:
        folded: Whether batch norms are folded into convolutions.
        gelu: "op" (opset 20), "erf" or "tanh".
        hard_swish: "op", "gate" (HardSigmoid and Mul) or "clip" (Add, Clip, Div and Mul).
        layer_norm: "op" or "written".
        linear: "gemm" or "matmul".
        global_pool: "op" or "mean".
        flatten: "op" or "reshape".
        quantised: Type of quantised data, "uint8" or "int8", or "" for float32.
        per_channel: Whether the weights of a quantised convolution have one scale for each channel.
    """

    folded: bool = True
    gelu: str = "erf"
    hard_swish: str = "op"
    layer_norm: str = "op"
    linear: str = "gemm"
    global_pool: str = "op"
    flatten: str = "op"
    quantised: str = ""
    per_channel: bool = False

    @classmethod
    def drawn(cls, dice: Dice, quantised: bool) -> Style:
        """Draws a style; a quantised one has its batch norms folded."""
        return cls(
            folded=quantised or dice.chance(0.5),
            gelu=dice.pick("op", "erf", "erf", "tanh"),
            hard_swish=dice.pick("op", "op", "gate", "clip"),
            layer_norm=dice.pick("op", "op", "written"),
            linear=dice.pick("gemm", "matmul"),
            global_pool=dice.pick("op", "op", "mean"),
            flatten=dice.pick("op", "reshape"),
            quantised=dice.pick("uint8", "uint8", "int8") if quantised else "",
            per_channel=dice.chance(0.5),
        )


class Tensor(NamedTuple):
    """A tensor of the graph: its name, its shape, and whether it is a weight."""

    name: str
    shape: tuple[int, ...]
    stored: bool = False

    @property
    def width(self) -> int:
        """Channels of an image or a signal."""
        return self.shape[1]


class _Weight(NamedTuple):
    """A weight that is drawn later: its shape, type, and its numbers' mean and standard deviation."""

    shape: tuple[int, ...]
    dtype: int
    mean: float
    deviation: float


class GraphBuilder:
    """A graph that grows by layers.

    Args:
        dice: Draws where weights begin in the list of random numbers.
        style: How layers are spelled.

    Attributes:
        macs: Multiply-adds so far.
        written: Elements written so far.
        parameters: Elements of weights so far.
    """

    def __init__(self, dice: Dice, style: Style) -> None:
        self.dice = dice
        self.style = style
        self.macs = 0
        self.written = 0
        self.parameters = 0
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[Tensor] = []
        self._weights: dict[str, _Weight] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._quantised: dict[str, Tensor] = {}
        self._rectified: dict[str, float] = {}  # results of ReLU, with scales for which runtimes need not compute it
        self._count = 0

    @property
    def node_count(self) -> int:
        """How many nodes the graph has."""
        return len(self._nodes)

    # Tensors

    def input(self, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> Tensor:
        """Adds an input of the graph."""
        name = self._name("input")
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return Tensor(name, tuple(shape))

    def output(self, *tensors: Tensor) -> None:
        """Makes tensors outputs of the graph."""
        self._outputs.extend(tensors)

    def weight(
        self, *shape: int, fan_in: int = 0, mean: float = 0.0, deviation: float = 0.0, dtype: int = TensorProto.FLOAT
    ) -> Tensor:
        """Adds a weight. Its deviation is that of He's initialisation for `fan_in`, unless it is given."""
        name = self._name("weight")
        self._weights[name] = _Weight(shape, dtype, mean, deviation or math.sqrt(2 / max(fan_in, 1)))
        self.parameters += math.prod(shape)
        return Tensor(name, shape, True)

    def constant(self, value: Any, dtype: Any = np.float32) -> Tensor:
        """Adds a constant."""
        name = self._name("constant")
        self._constants[name] = np.asarray(value, dtype)
        return Tensor(name, self._constants[name].shape, True)

    def node(
        self, op: str, inputs: Sequence[Tensor], shape: Sequence[int], *, outputs: int = 1, **attributes: Any
    ) -> Tensor:
        """Adds a node and returns its first result; `outputs` counts those that are left unused, too."""
        if self.style.quantised and op in _QUANTISED:
            inputs = self._quantised_inputs(op, inputs)
        return self._add(op, inputs, shape, outputs, attributes)

    def _add(
        self, op: str, inputs: Sequence[Tensor], shape: Sequence[int], outputs: int, attributes: dict[str, Any]
    ) -> Tensor:
        name = self._name(op.lower())
        names = [name, *(self._name(op.lower()) for _ in range(outputs - 1))]
        self._nodes.append(helper.make_node(op, [each.name for each in inputs], names, **attributes))
        self.written += math.prod(shape)
        return Tensor(name, tuple(int(size) for size in shape))

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    # Quantisation

    def _quantised_inputs(self, op: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Returns inputs of a node as they are read in a quantised network, each behind a DequantizeLinear."""
        found = []
        for position, tensor in enumerate(inputs):
            if not tensor.name or tensor.name in self._constants:
                found.append(tensor)
            elif tensor.stored:
                bias = position == 2 and op in ("Conv", "ConvTranspose", "Gemm")
                data_scale = self._rectified.get(inputs[0].name, _ACTIVATION_SCALE) if bias else 1.0
                found.append(self._dequantised_weight(tensor, op, bias, data_scale))
            else:
                found.append(self._quantised_data(tensor))
        return found

    def _dequantised_weight(self, tensor: Tensor, op: str, bias: bool, data_scale: float) -> Tensor:
        known = self._quantised.get(tensor.name)
        if known is not None:
            return known
        drawn = self._weights[tensor.name]
        dtype = TensorProto.INT32 if bias else TensorProto.INT8
        self._weights[tensor.name] = _Weight(drawn.shape, dtype, 0.0, 30.0)
        scale = _WEIGHT_SCALE * data_scale
        channels = self.style.per_channel and op == "Conv"
        scales = np.full(tensor.shape[0], scale) if channels else scale
        zeros = np.zeros(tensor.shape[:1] if channels else (), np.int32 if bias else np.int8)
        inputs = [tensor, self.constant(scales), self.constant(zeros, zeros.dtype)]
        axis = {"axis": 0} if channels else {}
        result = self._add("DequantizeLinear", inputs, tensor.shape, 1, axis)
        self.written -= math.prod(tensor.shape)
        self._quantised[tensor.name] = result
        return result

    def _quantised_data(self, tensor: Tensor) -> Tensor:
        known = self._quantised.get(tensor.name)
        if known is not None:
            return known
        signed = self.style.quantised == "int8"
        lowest = tensor.name in self._rectified
        zero = np.array((-128 if lowest else 0) if signed else (0 if lowest else 128), np.int8 if signed else np.uint8)
        scale = [self.constant(self._rectified.get(tensor.name, _ACTIVATION_SCALE)), self.constant(zero, zero.dtype)]
        small = self._add("QuantizeLinear", [tensor, *scale], tensor.shape, 1, {})
        result = self._add("DequantizeLinear", [small, *scale], tensor.shape, 1, {})
        self._quantised[tensor.name] = self._quantised[result.name] = result
        return result

    # Convolutions

    def conv(
        self,
        x: Tensor,
        width: int,
        kernel: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        padded: bool = True,
    ) -> Tensor:
        """Adds a convolution over the axes behind the second; `padded` keeps the size at stride 1."""
        axes = len(x.shape) - 2
        kernels = [kernel] * axes if isinstance(kernel, int) else list(kernel)
        strides = [stride] * axes if isinstance(stride, int) else list(stride)
        reach = [dilation * (size - 1) for size in kernels]
        pads = [size // 2 if padded else 0 for size in reach]
        sizes = [
            (size + 2 * pad - far - 1) // step + 1 for size, pad, far, step in zip(x.shape[2:], pads, reach, strides)
        ]
        fan_in = x.width // groups * math.prod(kernels)
        inputs = [x, self.weight(width, x.width // groups, *kernels, fan_in=fan_in)]
        if bias:
            inputs.append(self.weight(width, deviation=0.1))
        self.macs += x.shape[0] * width * math.prod(sizes) * fan_in
        return self.node(
            "Conv",
            inputs,
            (x.shape[0], width, *sizes),
            kernel_shape=kernels,
            strides=strides,
            pads=pads * 2,
            dilations=[dilation] * axes,
            group=groups,
        )

    def upconv(self, x: Tensor, width: int, kernel: int = 2, *, bias: bool = True) -> Tensor:
        """Adds a transposed convolution that doubles the sizes; kernels 2 and 4."""
        axes = len(x.shape) - 2
        sizes = [2 * size for size in x.shape[2:]]
        inputs = [x, self.weight(x.width, width, *[kernel] * axes, fan_in=x.width * (kernel // 2) ** axes)]
        if bias:
            inputs.append(self.weight(width, deviation=0.1))
        self.macs += math.prod(x.shape) * width * kernel**axes
        pads = [(kernel - 2) // 2] * (2 * axes)
        shape = (x.shape[0], width, *sizes)
        return self.node("ConvTranspose", inputs, shape, kernel_shape=[kernel] * axes, strides=[2] * axes, pads=pads)

    def norm(self, x: Tensor) -> Tensor:
        """Adds a batch norm."""
        scale = self.weight(x.width, mean=1.0, deviation=0.1)
        others = [self.weight(x.width, deviation=0.1), self.weight(x.width, deviation=0.1)]
        variance = self.constant(np.ones(x.width))
        self.parameters += x.width
        return self.node("BatchNormalization", [x, scale, *others, variance], x.shape, epsilon=1e-5)

    def unit(
        self,
        x: Tensor,
        width: int,
        kernel: int | Sequence[int] = 1,
        stride: int | Sequence[int] = 1,
        *,
        activation: str = "relu",
        groups: int = 1,
        dilation: int = 1,
    ) -> Tensor:
        """Adds a convolution with batch norm and activation; activation "" for none."""
        folded = self.style.folded
        y = self.conv(x, width, kernel, stride, groups=groups, dilation=dilation, bias=folded)
        return self.activate(y if folded else self.norm(y), activation)

    def depthwise(
        self, x: Tensor, kernel: int | Sequence[int], stride: int = 1, activation: str = "relu", dilation: int = 1
    ) -> Tensor:
        """Adds a depthwise convolution with batch norm and activation."""
        return self.unit(x, x.width, kernel, stride, activation=activation, groups=x.width, dilation=dilation)

    def squeeze_excite(self, x: Tensor, width: int, activation: str = "relu", gate: str = "sigmoid") -> Tensor:
        """Multiplies channels with gates that two layers compute of their means."""
        y = self.activate(self.conv(self.global_pool(x), max(width, 1)), activation)
        return self.mul(x, self.activate(self.conv(y, x.width), gate))

    def channel_shuffle(self, x: Tensor, groups: int) -> Tensor:
        """Mixes the channels of groups, as ShuffleNet does."""
        batch, width, height, breadth = x.shape
        y = self.reshape(x, (batch, groups, width // groups, height, breadth))
        return self.reshape(self.transpose(y, (0, 2, 1, 3, 4)), x.shape)

    # Activations

    def activate(self, x: Tensor, kind: str) -> Tensor:
        """Adds an activation by its name; "" for none.

        Raises:
            ValueError: No such activation.
        """
        simple = {
            "sigmoid": "Sigmoid", "tanh": "Tanh", "elu": "Elu", "selu": "Selu", "lrelu": "LeakyRelu",
            "softplus": "Softplus", "hsigmoid": "HardSigmoid", "softsign": "Softsign",
        }  # fmt: skip
        if not kind:
            return x
        if kind in ("relu", "relu6"):
            return self._rectify(x, kind)
        if self.style.quantised:
            x = self._quantised_data(x)
        if kind == "hsigmoid":
            return self.node("HardSigmoid", [x], x.shape, alpha=1 / 6)
        if kind in simple:
            return self.node(simple[kind], [x], x.shape)
        if kind == "prelu":
            slopes = self.weight(x.shape[1], *[1] * (len(x.shape) - 2), mean=0.25, deviation=0.01)
            return self.node("PRelu", [x, slopes], x.shape)
        if kind == "silu":
            return self.mul(x, self.node("Sigmoid", [x], x.shape))
        if kind == "mish":
            return self.mul(x, self.node("Tanh", [self.node("Softplus", [x], x.shape)], x.shape))
        if kind == "hswish":
            return self._hard_swish(x)
        if kind == "gelu":
            return self._gelu(x)
        raise ValueError(f"no activation {kind!r}")

    def _rectify(self, x: Tensor, kind: str) -> Tensor:
        if self.style.quantised and kind == "relu6" and x.name not in self._quantised:
            self._rectified[x.name] = 6 / 255  # numbers from 0 to 6 are all that the type can hold
            return x
        if kind == "relu":
            y = self.node("Relu", [x], x.shape)
        else:
            y = self.node("Clip", [x, self.constant(0.0), self.constant(6.0)], x.shape)
        self._rectified[y.name] = _ACTIVATION_SCALE if kind == "relu" else 6 / 255
        return y

    def _hard_swish(self, x: Tensor) -> Tensor:
        if self.style.hard_swish == "op":
            return self.node("HardSwish", [x], x.shape)
        if self.style.hard_swish == "gate":
            return self.mul(x, self.activate(x, "hsigmoid"))
        y = self.activate(self.add(x, self.constant(3.0)), "relu6")
        return self.node("Div", [self.mul(x, y), self.constant(6.0)], x.shape)

    def _gelu(self, x: Tensor) -> Tensor:
        if self.style.gelu == "op":
            return self.node("Gelu", [x], x.shape)
        if self.style.gelu == "erf":
            y = self.node("Erf", [self.node("Div", [x, self.constant(math.sqrt(2))], x.shape)], x.shape)
            return self.mul(self.mul(x, self.add(y, self.constant(1.0))), self.constant(0.5))
        cube = self.mul(self.node("Pow", [x, self.constant(3.0)], x.shape), self.constant(0.044715))
        y = self.mul(self.add(x, cube), self.constant(math.sqrt(2 / math.pi)))
        y = self.add(self.node("Tanh", [y], x.shape), self.constant(1.0))
        return self.mul(self.mul(x, self.constant(0.5)), y)

    # Arithmetic and moves

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds a sum."""
        return self.node("Add", [x, y], np.broadcast_shapes(x.shape, y.shape))

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds a product, element by element."""
        return self.node("Mul", [x, y], np.broadcast_shapes(x.shape, y.shape))

    def concat(self, tensors: Sequence[Tensor], axis: int = 1) -> Tensor:
        """Joins tensors along an axis."""
        if len(tensors) == 1:
            return tensors[0]
        shape = list(tensors[0].shape)
        shape[axis] = sum(tensor.shape[axis] for tensor in tensors)
        return self.node("Concat", tensors, shape, axis=axis)

    def split(self, x: Tensor, parts: int, axis: int = 1) -> list[Tensor]:
        """Splits a tensor into equal parts."""
        shape = list(x.shape)
        shape[axis] //= parts
        sizes = self.constant([shape[axis]] * parts, np.int64)
        self.node("Split", [x, sizes], shape, outputs=parts, axis=axis)
        self.written += math.prod(shape) * (parts - 1)
        return [Tensor(name, tuple(shape)) for name in self._nodes[-1].output]

    def slice(self, x: Tensor, axis: int, start: int, end: int, step: int = 1) -> Tensor:
        """Takes elements from `start` up to `end` of an axis."""
        shape = list(x.shape)
        shape[axis] = len(range(*slice(start, end, step).indices(shape[axis])))
        bounds = [self.constant([value], np.int64) for value in (start, end, axis, step)]
        return self.node("Slice", [x, *bounds], shape)

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Changes the shape."""
        y = self.node("Reshape", [x, self.constant(shape, np.int64)], shape)
        self.written -= math.prod(shape)
        return y

    def transpose(self, x: Tensor, order: Sequence[int]) -> Tensor:
        """Changes the order of the axes."""
        return self.node("Transpose", [x], [x.shape[axis] for axis in order], perm=order)

    def pad(self, x: Tensor, amount: int, mode: str = "constant") -> Tensor:
        """Pads the last two axes on both sides."""
        pads = [0] * (len(x.shape) - 2) + [amount] * 2
        shape = [*x.shape[:-2], x.shape[-2] + 2 * amount, x.shape[-1] + 2 * amount]
        return self.node("Pad", [x, self.constant(pads * 2, np.int64)], shape, mode=mode)

    def resize(self, x: Tensor, factor: int, mode: str = "nearest") -> Tensor:
        """Enlarges the axes behind the second; "linear" interpolates."""
        scales = self.constant([1, 1, *[factor] * (len(x.shape) - 2)])
        shape = [*x.shape[:2], *[size * factor for size in x.shape[2:]]]
        how = {"coordinate_transformation_mode": "asymmetric" if mode == "nearest" else "half_pixel"}
        if mode == "nearest":
            how["nearest_mode"] = "floor"
        return self.node("Resize", [x, Tensor("", ()), scales], shape, mode=mode, **how)

    def depth_to_space(self, x: Tensor, block: int) -> Tensor:
        """Turns channels to pixels."""
        batch, width, height, breadth = x.shape
        shape = (batch, width // block**2, height * block, breadth * block)
        return self.node("DepthToSpace", [x], shape, blocksize=block, mode="CRD")

    def gather(self, table: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
        """Takes rows of a table."""
        shape = (*table.shape[:axis], *indices.shape, *table.shape[axis + 1 :])
        return self.node("Gather", [table, indices], shape, axis=axis)

    # Pools

    def pool(self, x: Tensor, kernel: int, stride: int = 0, *, mean: bool = False, padded: bool = False) -> Tensor:
        """Adds a pool, by default without overlap; without edges a kernel larger than the image shrinks."""
        axes = len(x.shape) - 2
        kernel = kernel if padded else min(kernel, *x.shape[2:])
        stride = stride or kernel
        edge = (kernel - 1) // 2 if padded else 0
        sizes = [(size + 2 * edge - kernel) // stride + 1 for size in x.shape[2:]]
        how: dict[str, Any] = {"kernel_shape": [kernel] * axes, "strides": [stride] * axes, "pads": [edge] * (2 * axes)}
        if mean and padded:
            how["count_include_pad"] = self.dice.pick(0, 1)
        return self.node("AveragePool" if mean else "MaxPool", [x], (*x.shape[:2], *sizes), **how)

    def global_pool(self, x: Tensor) -> Tensor:
        """Adds the mean over all axes behind the second, which stay with size 1."""
        shape = (*x.shape[:2], *[1] * (len(x.shape) - 2))
        if self.style.global_pool == "op" or self.style.quantised:
            return self.node("GlobalAveragePool", [x], shape)
        return self.mean(x, range(2, len(x.shape)), keep=True)

    def mean(self, x: Tensor, axes: Sequence[int], *, keep: bool = False, op: str = "ReduceMean") -> Tensor:
        """Adds a reduction, by default a mean."""
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes]
        inputs = [x, self.constant(list(axes), np.int64)]
        return self.node(op, inputs, shape, keepdims=int(keep))

    def flatten(self, x: Tensor) -> Tensor:
        """Joins all axes behind the first."""
        shape = (x.shape[0], math.prod(x.shape[1:]))
        if self.style.flatten == "reshape":
            return self.reshape(x, shape)
        y = self.node("Flatten", [x], shape)
        self.written -= math.prod(shape)
        return y

    # Products

    def linear(self, x: Tensor, width: int, *, bias: bool = True) -> Tensor:
        """Adds a linear layer over the last axis."""
        fan_in = x.shape[-1]
        shape = (*x.shape[:-1], width)
        self.macs += math.prod(shape) * fan_in
        if len(shape) == 2 and self.style.linear == "gemm":
            inputs = [x, self.weight(width, fan_in, fan_in=fan_in)]
            if bias:
                inputs.append(self.weight(width, deviation=0.1))
            return self.node("Gemm", inputs, shape, transB=1)
        y = self.node("MatMul", [x, self.weight(fan_in, width, fan_in=fan_in)], shape)
        return self._biased(y, width) if bias else y

    def _biased(self, x: Tensor, width: int) -> Tensor:
        """Adds a vector to the last axis, which stays float32 in a quantised network."""
        return self._add("Add", [x, self.weight(width, deviation=0.1)], x.shape, 1, {})

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds a matrix product of two tensors of equal rank."""
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        shape = (*batch, x.shape[-2], y.shape[-1])
        self.macs += math.prod(shape) * x.shape[-1]
        return self.node("MatMul", [x, y], shape)

    def softmax(self, x: Tensor, axis: int = -1) -> Tensor:
        """Adds a softmax."""
        return self.node("Softmax", [x], x.shape, axis=axis)

    def layer_norm(self, x: Tensor) -> Tensor:
        """Adds a layer norm over the last axis."""
        width = x.shape[-1]
        scale = self.weight(width, mean=1.0, deviation=0.1)
        shift = self.weight(width, deviation=0.1)
        if self.style.layer_norm == "op":
            return self.node("LayerNormalization", [x, scale, shift], x.shape, axis=-1, epsilon=1e-5)
        last = len(x.shape) - 1
        centred = self.node("Sub", [x, self.mean(x, [last], keep=True)], x.shape)
        square = self.node("Pow", [centred, self.constant(2.0)], x.shape)
        variance = self.mean(square, [last], keep=True)
        root = self.node("Sqrt", [self._plain("Add", variance, self.constant(1e-5))], variance.shape)
        scaled = self._plain("Mul", self.node("Div", [centred, root], x.shape), scale)
        return self._plain("Add", scaled, shift)

    def rms_norm(self, x: Tensor) -> Tensor:
        """Adds a root-mean-square norm over the last axis, written out."""
        square = self.node("Pow", [x, self.constant(2.0)], x.shape)
        variance = self._plain("Add", self.mean(square, [len(x.shape) - 1], keep=True), self.constant(1e-5))
        root = self.node("Sqrt", [variance], variance.shape)
        scaled = self.node("Div", [x, root], x.shape)
        return self._plain("Mul", scaled, self.weight(x.shape[-1], mean=1.0, deviation=0.1))

    def _plain(self, op: str, x: Tensor, y: Tensor) -> Tensor:
        """Adds arithmetic that is never quantised."""
        return self._add(op, [x, y], np.broadcast_shapes(x.shape, y.shape), 1, {})

    def classifier(self, x: Tensor, classes: int) -> Tensor:
        """Adds the mean over an image and a linear layer."""
        return self.linear(self.flatten(self.global_pool(x)), classes)

    # Attention and recurrence

    def attention(
        self, x: Tensor, heads: int, *, causal: bool = False, fused: bool = False, memory: Tensor | None = None
    ) -> Tensor:
        """Adds multi-head attention.

        Args:
            x: `(batch, length, width)`.
            heads: Divides the width.
            causal: Whether a mask is added to the scores.
            fused: Whether one product makes queries, keys and values.
            memory: What is attended to, by default `x`.
        """
        batch, length, width = x.shape
        if fused and memory is None:
            whole = self.reshape(self.linear(x, 3 * width), (batch, length, 3, heads, width // heads))
            parts = self.split(self.transpose(whole, (2, 0, 3, 1, 4)), 3, axis=0)
            shape = (batch, heads, length, width // heads)
            query, key, value = (self.reshape(part, shape) for part in parts)
            key = self.transpose(key, (0, 1, 3, 2))
        else:
            source = x if memory is None else memory
            query = self._heads(self.linear(x, width), heads, (0, 2, 1, 3))
            key = self._heads(self.linear(source, width), heads, (0, 2, 3, 1))
            value = self._heads(self.linear(source, width), heads, (0, 2, 1, 3))
        scale = self.constant(math.sqrt(width // heads))
        product = self.matmul(query, key)
        scores = self.node("Div", [product, scale], product.shape)
        if causal:
            mask = np.triu(np.full((length, key.shape[-1]), -1e4), 1)
            scores = self._plain("Add", scores, self.constant(mask[None, None]))
        mixed = self.transpose(self.matmul(self.softmax(scores), value), (0, 2, 1, 3))
        return self.linear(self.reshape(mixed, (batch, length, width)), width)

    def _heads(self, x: Tensor, heads: int, order: Sequence[int]) -> Tensor:
        batch, length, width = x.shape
        return self.transpose(self.reshape(x, (batch, length, heads, width // heads)), order)

    def recurrent(self, x: Tensor, kind: str, hidden: int, *, both_ways: bool = False) -> Tensor:
        """Adds a layer of LSTM, GRU or RNN over `(length, batch, width)`; returns the same with the hidden width."""
        length, batch, width = x.shape
        ways = 2 if both_ways else 1
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * hidden
        inputs = [
            x,
            self.weight(ways, gates, width, deviation=1 / math.sqrt(hidden)),
            self.weight(ways, gates, hidden, deviation=1 / math.sqrt(hidden)),
            self.weight(ways, 2 * gates, deviation=0.1),
        ]
        self.macs += length * batch * ways * gates * (width + hidden)
        how: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if both_ways else "forward"}
        if kind == "GRU":
            how["linear_before_reset"] = 1
        y = self.node(kind, inputs, (length, ways, batch, hidden), **how)
        return self.reshape(self.transpose(y, (0, 2, 1, 3)), (length, batch, ways * hidden))

    # The model

    def model(self, *, weights: bool = True) -> onnx.ModelProto:
        """Returns the model.

        Args:
            weights: Whether weights are inside; without them, those of more than 64 elements are in a file that is not there.
        """
        outputs = [helper.make_tensor_value_info(each.name, TensorProto.FLOAT, each.shape) for each in self._outputs]
        stored = [_stored(name, weight, self.dice, weights) for name, weight in self._weights.items()]
        stored += [onnx.numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        graph = helper.make_graph(self._nodes, "network", self._inputs, outputs, stored)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9, producer_name="code-rlm-data"
        )


_NUMPY = {TensorProto.FLOAT: np.float32, TensorProto.INT8: np.int8, TensorProto.INT32: np.int32}


def _stored(name: str, weight: _Weight, dice: Dice, inside: bool) -> TensorProto:
    """Returns a weight as a tensor of the file; with `inside` False, a large one without its numbers."""
    count = math.prod(weight.shape)
    dtype = np.dtype(_NUMPY[weight.dtype])
    tensor = TensorProto(name=name, data_type=weight.dtype, dims=weight.shape)
    if not inside and count > _STORED_INSIDE:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(count * dtype.itemsize))):
            tensor.external_data.add(key=key, value=value)
        return tensor
    numbers = np.resize(np.roll(_POOL, dice.between(0, 1 << 20)) if count < 4096 else _POOL, count)
    numbers = numbers * np.float32(weight.deviation) + np.float32(weight.mean)
    tensor.raw_data = (numbers.clip(-127, 127) if dtype.kind == "i" else numbers).astype(dtype).tobytes()
    return tensor
