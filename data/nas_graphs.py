"""ONNX graphs of neural architecture search spaces, built from their architecture strings.

    model = build_graph("nasbench201", "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|")
    flops, params = count_flops_params(model)

No PyTorch and no weights: every weight is an initializer with a shape and a reference to an external file that does
not exist, so a graph is a few tens of kilobytes and takes milliseconds. ``onnx_to_text`` reads such graphs as they
are; to run one, write ``weight_bytes(model)`` bytes of float32 to ``weights.bin`` beside the saved model.

    ==================  =============================================================================
    ``nasbench201``     arch_str, ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``
    ``nasbench101``     (adjacency, ops) or a mapping with these keys, rows and operators joined by ``|``
    ``nasbench_macro``  8 digits
    ``fbnet``           22 operators joined by ``|``
    ``accel_nasbench``  a mapping with block0_e, block0_k, block0_l, block0_se, ..., block6_se
    ``ofa``             a mapping with ks, e, d, r
    ``darts``           the text of a Genotype
    ==================  =============================================================================
"""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from code_rlm.errors_rlm import RLMError
from code_rlm.onnx_canonical_rlm import graph_cost

WEIGHTS_FILE = "weights.bin"


class GraphSpaceError(RLMError):
    """An architecture string does not describe a network of its space."""


@lru_cache(maxsize=4096, typed=True)
def _attribute(name: str, value: Any) -> AttributeProto:
    """Returns an attribute; there are few different ones, and making one costs more than copying it."""
    return helper.make_attribute(name, value)


class GraphBuilder:
    """Adds operators to an ONNX graph and follows channels and sizes.

    A value is a name; its shape is in ``shapes``.

    Args:
        name: Name of the graph.
        shape: Shape of the input, `(batch, channels, height, width)`.
        opset: Version of the default operator set.
    """

    def __init__(self, name: str, shape: Sequence[int], opset: int = 17) -> None:
        self.name = name
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"input": tuple(shape)}
        self.offset = 0
        self.input = "input"

    def weight(self, shape: Sequence[int]) -> str:
        """Declares a float32 weight of a shape and returns its name. Its data is nowhere."""
        tensor = TensorProto(name=f"w{len(self.initializers)}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        length = 4 * math.prod(shape)
        for key, value in (("location", WEIGHTS_FILE), ("offset", str(self.offset)), ("length", str(length))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        self.offset += length
        self.initializers.append(tensor)
        return tensor.name

    def constant(self, values: Sequence[int]) -> str:
        """Declares a small int64 constant, stored in the graph, and returns its name."""
        name = f"c{len(self.initializers)}"
        self.initializers.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """Adds a node with one result of a known shape and returns the result's name."""
        name = f"t{len(self.nodes)}"
        node = NodeProto(op_type=op, input=inputs, output=[name])
        node.attribute.extend(
            _attribute(key, tuple(value) if isinstance(value, list) else value)
            for key, value in sorted(attributes.items())
        )
        self.nodes.append(node)
        self.shapes[name] = tuple(shape)
        return name

    def _window(self, size: Sequence[int], kernel: int, stride: int, pad: int, dilation: int = 1) -> tuple[int, ...]:
        return tuple((s + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1 for s in size)

    def conv(
        self,
        x: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        pad: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> str:
        """Adds a 2-D convolution; ``pad`` defaults to dilation * (kernel - 1) // 2 on every side."""
        batch, wide, *size = self.shapes[x]
        pad = dilation * (kernel - 1) // 2 if pad is None else pad
        inputs = [x, self.weight((channels, wide // groups, kernel, kernel))]
        if bias:
            inputs.append(self.weight((channels,)))
        return self.add(
            "Conv",
            inputs,
            (batch, channels, *self._window(size, kernel, stride, pad, dilation)),
            kernel_shape=(kernel,) * 2,
            strides=(stride,) * 2,
            pads=(pad,) * 4,
            dilations=(dilation,) * 2,
            group=groups,
        )

    def norm(self, x: str) -> str:
        """Adds batch normalisation in inference mode."""
        channels = self.shapes[x][1]
        weights = [self.weight((channels,)) for _ in range(4)]
        return self.add("BatchNormalization", [x, *weights], self.shapes[x])

    def relu(self, x: str) -> str:
        """Adds max(x, 0)."""
        return self.add("Relu", [x], self.shapes[x])

    def pool(self, x: str, kind: str, kernel: int, stride: int = 1, pad: int | None = None) -> str:
        """Adds pooling of kind ``MaxPool`` or ``AveragePool`` (padding not counted)."""
        batch, channels, *size = self.shapes[x]
        pad = (kernel - 1) // 2 if pad is None else pad
        return self.add(
            kind,
            [x],
            (batch, channels, *self._window(size, kernel, stride, pad)),
            kernel_shape=(kernel,) * 2,
            strides=(stride,) * 2,
            pads=(pad,) * 4,
        )

    def activation(self, x: str, kind: str) -> str:
        """Adds ``relu``, ``relu6``, ``hswish`` or nothing for an empty string."""
        if kind == "relu6":
            bounds = []
            for value in (0.0, 6.0):
                name = f"c{len(self.initializers)}"
                self.initializers.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
                bounds.append(name)
            return self.add("Clip", [x, *bounds], self.shapes[x])
        if kind == "hswish":
            return self.add("HardSwish", [x], self.shapes[x])
        return self.relu(x) if kind else x

    def conv_norm(
        self, x: str, channels: int, kernel: int, stride: int = 1, activation: str = "", **options: Any
    ) -> str:
        """Adds a convolution, batch norm and an activation."""
        return self.activation(self.norm(self.conv(x, channels, kernel, stride, **options)), activation)

    def squeeze(self, x: str, channels: int, gate: str = "Sigmoid") -> str:
        """Adds squeeze and excitation: x times a gate computed from its channel means."""
        batch, wide = self.shapes[x][:2]
        y = self.add("GlobalAveragePool", [x], (batch, wide, 1, 1))
        y = self.relu(self.conv(y, channels, 1, bias=True))
        y = self.conv(y, wide, 1, bias=True)
        attributes = {"alpha": 1 / 6} if gate == "HardSigmoid" else {}
        return self.add("Mul", [x, self.add(gate, [y], self.shapes[y], **attributes)], self.shapes[x])

    def inverted(
        self,
        x: str,
        hidden: int,
        channels: int,
        kernel: int,
        stride: int = 1,
        activation: str = "relu",
        expand: bool = True,
        groups: int = 1,
        squeeze: int = 0,
        gate: str = "Sigmoid",
    ) -> str:
        """Adds an inverted residual block: 1x1 convolution, depthwise convolution, 1x1 convolution, sum where shapes agree.

        Args:
            x: The input value.
            hidden, channels: Width inside and after the block.
            kernel, stride: Of the depthwise convolution.
            activation: After the first two convolutions.
            expand: Whether the first convolution is there.
            groups: Groups of both 1x1 convolutions, with a channel shuffle after the first.
            squeeze: Width of squeeze and excitation, 0 for none.
            gate: Its last operator.
        """
        y = self.conv_norm(x, hidden, 1, 1, activation, groups=groups) if expand else x
        if groups > 1:
            y = self.shuffle(y, groups)
        y = self.conv_norm(y, hidden, kernel, stride, activation, groups=hidden)
        if squeeze:
            y = self.squeeze(y, squeeze, gate)
        y = self.conv_norm(y, channels, 1, groups=groups)
        return self.sum([x, y]) if self.shapes[x] == self.shapes[y] else y

    def shuffle(self, x: str, groups: int) -> str:
        """Interleaves the channels of groups."""
        batch, wide, height, width = self.shapes[x]
        shape = (batch, groups, wide // groups, height * width)
        y = self.add("Reshape", [x, self.constant([0, groups, -1, height * width])], shape)
        y = self.add("Transpose", [y], (batch, shape[2], groups, shape[3]), perm=(0, 2, 1, 3))
        return self.add("Reshape", [y, self.constant([0, -1, height, width])], self.shapes[x])

    def sum(self, values: Sequence[str]) -> str:
        """Adds the sum of one or more values, added from the left."""
        total, *rest = values
        for value in rest:
            total = self.add("Add", [total, value], self.shapes[total])
        return total

    def concat(self, values: Sequence[str]) -> str:
        """Joins values along the channels."""
        shape = list(self.shapes[values[0]])
        shape[1] = sum(self.shapes[v][1] for v in values)
        return self.add("Concat", values, shape, axis=1)

    def zero(self, x: str) -> str:
        """Adds x * 0."""
        name = f"z{len(self.nodes)}"
        value = helper.make_tensor(name, TensorProto.FLOAT, [], [0.0])
        self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        return self.add("Mul", [x, name], self.shapes[x])

    def classify(self, x: str, classes: int) -> str:
        """Adds global average pooling, flattening and a linear layer."""
        batch, channels = self.shapes[x][:2]
        x = self.add("GlobalAveragePool", [x], (batch, channels, 1, 1))
        return self.linear(self.add("Flatten", [x], (batch, channels)), classes)

    def linear(self, x: str, channels: int) -> str:
        """Adds a linear layer with bias on (batch, width)."""
        batch, wide = self.shapes[x]
        weights = [self.weight((channels, wide)), self.weight((channels,))]
        return self.add("Gemm", [x, *weights], (batch, channels), transB=1)

    def build(self, output: str) -> ModelProto:
        """Returns the finished ModelProto with one output."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info(self.input, TensorProto.FLOAT, self.shapes[self.input])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, self.shapes[output])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)


# ---------------------------------------------------------------------------------------------------------------------
# NAS-Bench-201

_NB201_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")


def parse_nasbench201(arch: str) -> list[list[str]]:
    """Reads a NAS-Bench-201 string.

    Args:
        arch: ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``.

    Returns:
        For nodes 1, 2, 3 the operator on the edge from each earlier node.

    Raises:
        GraphSpaceError: Wrong number of nodes or edges, or an unknown operator.
    """
    cell = []
    for number, group in enumerate(arch.strip().split("+"), start=1):
        edges = [edge.rpartition("~") for edge in group.strip("|").split("|")]
        if [source for _, _, source in edges] != [str(k) for k in range(number)]:
            raise GraphSpaceError(
                f"node {number} of {arch!r} must list one edge from each of the nodes 0 to {number - 1}"
            )
        cell.append([op for op, _, _ in edges])
        for op in cell[-1]:
            if op not in _NB201_OPS:
                raise GraphSpaceError(f"unknown operator {op!r} in {arch!r}; one of {', '.join(_NB201_OPS)}")
    if len(cell) != 3:
        raise GraphSpaceError(f"{arch!r} has {len(cell)} nodes; a NAS-Bench-201 cell has 3, joined by '+'")
    return cell


def _nasbench201(arch: str, batch: int, classes: int, channels: int = 16, cells: int = 5) -> ModelProto:
    """Stem, three stages of cells at 16, 32 and 64 channels, a residual block of stride 2 between them."""
    cell = parse_nasbench201(arch)
    g = GraphBuilder("nasbench201", (batch, 3, 32, 32))

    def relu_conv_norm(x: str, wide: int, kernel: int, stride: int = 1) -> str:
        return g.norm(g.conv(g.relu(x), wide, kernel, stride))

    x = g.norm(g.conv(g.input, channels, 3))
    for stage in range(3):
        if stage:
            wide = channels * 2**stage
            inner = relu_conv_norm(relu_conv_norm(x, wide, 3, 2), wide, 3)
            short = g.conv(g.pool(x, "AveragePool", 2, 2, 0), wide, 1)
            x = g.sum([short, inner])
        for _ in range(cells):
            states = [x]
            for edges in cell:
                terms = []
                for source, op in zip(states, edges):
                    if op == "skip_connect":
                        terms.append(source)
                    elif op == "avg_pool_3x3":
                        terms.append(g.pool(source, "AveragePool", 3))
                    elif op != "none":
                        terms.append(relu_conv_norm(source, channels * 2**stage, int(op[-1])))
                states.append(g.sum(terms) if terms else g.zero(x))
            x = states[-1]
    return g.build(g.classify(g.relu(g.norm(x)), classes))


# ---------------------------------------------------------------------------------------------------------------------
# NAS-Bench-101

_NB101_OPS = ("input", "output", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")


def parse_nasbench101(arch: tuple[str, str] | Mapping[str, str]) -> tuple[list[list[int]], list[str]]:
    """Reads a NAS-Bench-101 cell.

    Args:
        arch: Adjacency rows of 0 and 1 joined by ``|`` and operators joined by ``|``, or a
            mapping with the keys ``adjacency`` and ``ops``.

    Returns:
        Upper triangular matrix and one operator a vertex.

    Raises:
        GraphSpaceError: Sizes that do not fit, an edge backwards, an unknown operator or a cell without a path.
    """
    adjacency, operators = (arch["adjacency"], arch["ops"]) if isinstance(arch, Mapping) else arch
    ops = operators.split("|")
    rows = adjacency.split("|")
    size = len(ops)
    if len(rows) != size or any(len(row) != size or set(row) - {"0", "1"} for row in rows):
        raise GraphSpaceError(f"{size} operators need {size} rows of {size} digits 0 or 1, not {adjacency!r}")
    matrix = [[int(c) for c in row] for row in rows]
    if any(matrix[i][j] for i in range(size) for j in range(i + 1)):
        raise GraphSpaceError(f"{adjacency!r} has an edge that does not lead to a later vertex")
    for k, op in enumerate(ops):
        if op not in _NB101_OPS or (op == "input") != (k == 0) or (op == "output") != (k == size - 1):
            raise GraphSpaceError(
                f"vertex {k} of {size} cannot be {op!r}; input first, output last, between them "
                f"one of {', '.join(_NB101_OPS[2:])}"
            )
    for k in range(1, size):
        if not any(row[k] for row in matrix) or (k < size - 1 and not any(matrix[k])):
            raise GraphSpaceError(f"vertex {k} of {adjacency!r} lies on no path from input to output")
    return matrix, ops


def nasbench101_channels(matrix: Sequence[Sequence[int]], wide: int, channels: int) -> list[int]:
    """Returns the channels of every vertex of a cell (Ying et al. 2019, reference implementation).

    Vertices that lead to the output share its channels; any other has the most of those it leads to.

    Args:
        matrix: Adjacency.
        wide: Channels of the cell's input.
        channels: Channels of the cell's output.
    """
    size = len(matrix)
    found = [0] * size
    found[0], found[-1] = wide, channels
    sources = [k for k in range(1, size - 1) if matrix[k][-1]]
    if sources:
        share, extra = divmod(channels, len(sources))
        for position, k in enumerate(sources):
            found[k] = share + (position < extra)
    for k in range(size - 3, 0, -1):
        if not matrix[k][-1]:
            found[k] = max(found[j] for j in range(k + 1, size - 1) if matrix[k][j])
    return found


def _nasbench101(
    arch: Any, batch: int, classes: int, channels: int = 128, stacks: int = 3, cells: int = 3
) -> ModelProto:
    """Stem, three stacks of three cells, channels doubled and size halved between stacks."""
    matrix, ops = parse_nasbench101(arch)
    size = len(ops)
    g = GraphBuilder("nasbench101", (batch, 3, 32, 32))

    def conv_norm_relu(x: str, wide: int, kernel: int) -> str:
        return g.relu(g.norm(g.conv(x, wide, kernel)))

    def narrow(x: str, wide: int) -> str:
        if g.shapes[x][1] == wide:
            return x
        shape = (g.shapes[x][0], wide, *g.shapes[x][2:])
        return g.add("Slice", [x, g.constant([0]), g.constant([wide]), g.constant([1])], shape)

    x = conv_norm_relu(g.input, channels, 3)
    for stack in range(stacks):
        if stack:
            x = g.pool(x, "MaxPool", 2, 2, 0)
            channels *= 2
        for _ in range(cells):
            wide = nasbench101_channels(matrix, g.shapes[x][1], channels)
            values = [x]
            for k in range(1, size - 1):
                terms = [narrow(values[j], wide[k]) for j in range(1, k) if matrix[j][k]]
                if matrix[0][k]:
                    terms.append(conv_norm_relu(x, wide[k], 1))
                value = g.sum(terms)
                if ops[k] == "maxpool3x3":
                    values.append(g.pool(value, "MaxPool", 3))
                else:
                    values.append(conv_norm_relu(value, wide[k], int(ops[k][4])))
            ends = [values[k] for k in range(1, size - 1) if matrix[k][-1]]
            terms = [g.concat(ends) if len(ends) > 1 else ends[0]] if ends else []
            if matrix[0][-1]:
                terms.append(conv_norm_relu(x, channels, 1))
            x = g.sum(terms)
    return g.build(g.classify(x, classes))


# ---------------------------------------------------------------------------------------------------------------------
# Chains of inverted residual blocks


def _nasbench_macro(arch: str, batch: int, classes: int) -> ModelProto:
    """NAS-Bench-Macro: 8 layers; 0 identity, 1 expansion 3 kernel 3, 2 expansion 6 kernel 5."""
    if len(arch) != 8 or set(arch) - set("012"):
        raise GraphSpaceError(f"{arch!r} is no NAS-Bench-Macro architecture; it has 8 digits 0, 1 or 2")
    g = GraphBuilder("nasbench_macro", (batch, 3, 32, 32))
    x = g.conv_norm(g.input, 32, 3, activation="relu6")
    for layer, op in enumerate(arch):
        wide = (64, 64, 128, 128, 128, 256, 256, 256)[layer]
        stride = 2 if layer in (0, 2, 5) else 1
        if op != "0":
            expansion, kernel = (3, 3) if op == "1" else (6, 5)
            x = g.inverted(x, expansion * g.shapes[x][1], wide, kernel, stride, "relu6")
        elif stride == 2:
            x = g.conv_norm(x, wide, 1, 2)
    return g.build(g.classify(g.conv_norm(x, 1280, 1, activation="relu6"), classes))


def _fbnet(arch: str, batch: int, classes: int) -> ModelProto:
    """FBNet on 32x32 images (HW-NAS-Bench): 22 layers ``k3_e6``, ``k5_e1_g2`` or ``skip`` joined by ``|``."""
    ops = arch.split("|")
    if len(ops) != 22:
        raise GraphSpaceError(f"an FBNet architecture has 22 operators joined by '|', not {len(ops)}")
    g = GraphBuilder("fbnet", (batch, 3, 32, 32))
    x = g.conv_norm(g.input, 16, 3, activation="relu")
    wides = [16] + [w for w in (24, 32, 64, 112, 184) for _ in range(4)] + [352]
    for layer, (op, wide) in enumerate(zip(ops, wides)):
        stride = 2 if layer in (5, 9, 17) else 1
        if op == "skip":
            if stride > 1 or wide != g.shapes[x][1]:
                x = g.conv_norm(x, wide, 1, stride, "relu")
            continue
        fields = dict((f[:1], f[1:]) for f in op.split("_"))
        numbers = [fields.get("k", ""), fields.get("e", ""), fields.get("g", "1")]
        if set(fields) - set("keg") or not all(number.isdigit() for number in numbers):
            raise GraphSpaceError(
                f"layer {layer} cannot be {op!r}; 'skip' or kernel, expansion and groups as in 'k5_e1_g2'"
            )
        kernel, expansion, groups = map(int, numbers)
        x = g.inverted(x, expansion * g.shapes[x][1], wide, kernel, stride, "relu", groups=groups)
    return g.build(g.classify(g.conv_norm(x, 1504, 1, activation="relu"), classes))


def _accel_nasbench(arch: Mapping[str, Any], batch: int, classes: int) -> ModelProto:
    """Accel-NASBench: MnasNet with 7 blocks of expansion e, kernel k, l layers, squeeze and excitation se.

    The tables fix the parameters but not the activation: ReLU as in MnasNet.
    """
    g = GraphBuilder("accel_nasbench", (batch, 3, 224, 224))
    x = g.conv_norm(g.input, 32, 3, 2, "relu")
    for block, (wide, stride) in enumerate(zip((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1))):
        try:
            expansion, kernel, layers, squeeze = (int(arch[f"block{block}_{key}"]) for key in ("e", "k", "l", "se"))
        except (KeyError, TypeError, ValueError) as error:
            raise GraphSpaceError(f"block {block} needs numbers block{block}_e, _k, _l and _se: {error}") from error
        for layer in range(layers):
            before = g.shapes[x][1]
            inner = max(1, before // 4) if squeeze else 0
            x = g.inverted(
                x, expansion * before, wide, kernel, 1 if layer else stride, "relu", expansion != 1, squeeze=inner
            )
    return g.build(g.classify(g.conv_norm(x, 1280, 1, activation="relu"), classes))


def _list_of(arch: Mapping[str, Any], key: str, length: int) -> list[int]:
    """Returns a list of integers from a mapping that holds it as a list or as its text."""
    value = arch[key]
    if isinstance(value, str):
        value = [int(v) for v in value.strip("[] ").split(",")]
    value = [int(v) for v in value]
    if len(value) != length:
        raise GraphSpaceError(f"{key!r} needs {length} numbers, not {len(value)}")
    return value


def _divisible(value: float, by: int = 8) -> int:
    """Returns the nearest multiple of ``by`` that is no more than a tenth below the value."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


def _ofa(arch: Mapping[str, Any], batch: int, classes: int) -> ModelProto:
    """Once-for-all MobileNetV3 at width 1: 20 kernels ``ks``, 20 expansions ``e``, 5 depths ``d``, resolution ``r``."""
    try:
        kernels, expansions, depths = _list_of(arch, "ks", 20), _list_of(arch, "e", 20), _list_of(arch, "d", 5)
        resolution = int(arch["r"])
    except (KeyError, TypeError) as error:
        raise GraphSpaceError(f"an OFA architecture is a mapping with ks, e, d and r: {error}") from error
    if not all(1 <= d <= 4 for d in depths):
        raise GraphSpaceError(f"depths must lie between 1 and 4, not {depths}")
    g = GraphBuilder("ofa", (batch, 3, resolution, resolution))
    x = g.conv_norm(g.input, 16, 3, 2, "hswish")
    x = g.inverted(x, 16, 16, 3, 1, "relu", expand=False)
    stages = zip(
        (24, 40, 80, 112, 160), (2, 2, 2, 1, 2), ("relu", "relu", "hswish", "hswish", "hswish"), (0, 1, 0, 1, 1)
    )
    for stage, (wide, stride, activation, squeeze) in enumerate(stages):
        for layer in range(depths[stage]):
            position = 4 * stage + layer
            hidden = _divisible(expansions[position] * g.shapes[x][1])
            inner = _divisible(hidden // 4) if squeeze else 0
            x = g.inverted(
                x,
                hidden,
                wide,
                kernels[position],
                1 if layer else stride,
                activation,
                squeeze=inner,
                gate="HardSigmoid",
            )
    x = g.conv_norm(x, 960, 1, activation="hswish")
    x = g.add("GlobalAveragePool", [x], (batch, 960, 1, 1))
    x = g.activation(g.conv(x, 1280, 1), "hswish")
    x = g.add("Flatten", [x], (batch, 1280))
    return g.build(g.linear(x, classes))


# ---------------------------------------------------------------------------------------------------------------------
# DARTS

_DARTS_OPS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)


def parse_darts(genotype: str) -> dict[str, Any]:
    """Reads ``Genotype(normal=[...], normal_concat=[...], reduce=[...], reduce_concat=[...])``.

    Args:
        genotype: The text; it is parsed, not run.

    Returns:
        ``normal`` and ``reduce`` as lists of (operator, input), the two ``_concat`` as lists of node numbers.

    Raises:
        GraphSpaceError: Another form, an unknown operator or an input that is not made yet.
    """
    try:
        call = ast.parse(genotype.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("it is no call")
        fields = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        found: dict[str, Any] = {}
        for name in ("normal", "reduce"):
            found[name] = [(str(op), int(source)) for op, source in fields[name]]
            found[f"{name}_concat"] = [int(number) for number in fields[f"{name}_concat"]]
    except (SyntaxError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphSpaceError(f"{genotype[:80]!r} is no DARTS genotype: {error}") from error
    for cell in ("normal", "reduce"):
        if len(found[cell]) % 2 or not found[cell]:
            raise GraphSpaceError(f"the {cell} cell has {len(found[cell])} operators; every node has two")
        for k, (op, source) in enumerate(found[cell]):
            if op not in _DARTS_OPS or not 0 <= source < 2 + k // 2:
                raise GraphSpaceError(f"({op!r}, {source}) cannot be operator {k} of the {cell} cell")
    return found


def _darts_op(g: GraphBuilder, op: str, x: str, stride: int) -> str | None:
    """Adds a DARTS operator to a value, at its own width; None for an operator that gives zero."""
    wide = g.shapes[x][1]
    kind, _, size = op.rpartition("_")
    if op == "none":
        return None
    if op == "skip_connect":
        return x if stride == 1 else _reduction(g, x, wide)
    if op == "conv_7x1_1x7":
        raise GraphSpaceError("conv_7x1_1x7 has no square kernel and is not supported")
    kernel = int(size[0])
    if kind == "max_pool":
        return g.pool(x, "MaxPool", kernel, stride)
    if kind == "avg_pool":
        return g.pool(x, "AveragePool", kernel, stride)
    dilation = 2 if kind == "dil_conv" else 1
    x = g.conv(g.relu(x), wide, kernel, stride, groups=wide, dilation=dilation)
    x = g.norm(g.conv(x, wide, 1))
    if kind == "sep_conv":
        x = g.norm(g.conv(g.conv(g.relu(x), wide, kernel, groups=wide), wide, 1))
    return x


def _reduction(g: GraphBuilder, x: str, wide: int) -> str:
    """Halves the size: two strided 1x1 convolutions, one on the image moved by a pixel, side by side."""
    batch, channels, height, width = g.shapes[x]
    x = g.relu(x)
    starts, ends, axes = g.constant([1, 1]), g.constant([height, width]), g.constant([2, 3])
    moved = g.add("Slice", [x, starts, ends, axes], (batch, channels, height - 1, width - 1))
    halves = [g.conv(x, wide // 2, 1, 2), g.conv(moved, wide // 2, 1, 2)]
    return g.norm(g.concat(halves))


def _darts(arch: str, batch: int, classes: int, channels: int = 36, layers: int = 20) -> ModelProto:
    """The evaluation network of DARTS on CIFAR-10: 20 cells from 36 channels, reduction at a third and two thirds."""
    genotype = parse_darts(arch)
    g = GraphBuilder("darts", (batch, 3, 32, 32))
    before = x = g.conv_norm(g.input, 3 * channels, 3)
    for layer in range(layers):
        name = "reduce" if layer in (layers // 3, 2 * layers // 3) else "normal"
        channels *= 2 if name == "reduce" else 1
        if g.shapes[before][2] != g.shapes[x][2]:
            first = _reduction(g, before, channels)
        else:
            first = g.norm(g.conv(g.relu(before), channels, 1))
        states = [first, g.norm(g.conv(g.relu(x), channels, 1))]
        pairs = zip(genotype[name][::2], genotype[name][1::2])
        for pair in pairs:
            terms = []
            for op, source in pair:
                stride = 2 if name == "reduce" and source < 2 else 1
                made = _darts_op(g, op, states[source], stride)
                if made is not None:
                    terms.append(made)
            if not terms:
                # DARTS multiplies what the last of the two operators would have read by zero, every stride-th pixel of it.
                source = states[source]
                terms = [g.zero(source if stride == 1 else g.pool(source, "MaxPool", 1, stride, 0))]
            states.append(g.sum(terms))
        before, x = x, g.concat([states[k] for k in genotype[f"{name}_concat"]])
    return g.build(g.classify(x, classes))


_SPACES: dict[str, tuple[Callable[[Any, int, int], ModelProto], int]] = {
    "nasbench201": (_nasbench201, 10),
    "nasbench101": (_nasbench101, 10),
    "nasbench_macro": (_nasbench_macro, 10),
    "fbnet": (_fbnet, 100),
    "accel_nasbench": (_accel_nasbench, 1000),
    "ofa": (_ofa, 1000),
    "darts": (_darts, 10),
}
SPACES = tuple(_SPACES)


def build_graph(space: str, arch: Any, *, batch: int = 1, classes: int | None = None) -> ModelProto:
    """Builds the ONNX graph of an architecture.

    Args:
        space: A name in ``SPACES``.
        arch: The architecture in the form of its space, see the module's table.
        batch: First dimension of the input.
        classes: Outputs of the last layer; None for the space's own.

    Returns:
        A model of shapes and connections; its weights are references to a file that does not exist.

    Raises:
        GraphSpaceError: Unknown space, or a string that does not describe one of its networks.
    """
    if space not in _SPACES:
        raise GraphSpaceError(f"unknown space {space!r}; one of {', '.join(_SPACES)}")
    make, default_classes = _SPACES[space]
    return make(arch, batch, classes or default_classes)


# ---------------------------------------------------------------------------------------------------------------------
# Counting


def weight_bytes(model: ModelProto) -> int:
    """Returns the size in bytes of the file that the graph's weights refer to."""
    sizes = [0]
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            fields = {entry.key: entry.value for entry in tensor.external_data}
            sizes.append(int(fields.get("offset", 0)) + int(fields.get("length", 0)))
    return max(sizes)


def count_flops_params(model: ModelProto, *, norm_flops: int = 2) -> tuple[int, int]:
    """Counts the multiply-adds of one inference and the trainable parameters of an ONNX graph.

    FLOPs follow the NAS-Bench-201 tables: a convolution or matrix product counts one per multiply-add, its bias
    nothing; a batch norm that reads a convolution counts two per element; all else counts nothing. Nodes that no output
    needs are counted. Parameters are the elements of the floating-point weights, without running means and variances.
    A free first dimension of an input counts as 1.

    Args:
        model: Any graph; weights are not read.
        norm_flops: FLOPs per element of a batch norm that reads a convolution; NAS-Bench-Macro counts 0.

    Returns:
        FLOPs and parameters, both exact.

    Raises:
        GraphSpaceError: A shape that is needed cannot be inferred.
    """
    cost = graph_cost(model)
    if cost.unknown:
        raise GraphSpaceError(
            f"the sizes of {cost.unknown} convolutions, products or batch norms cannot be inferred; "
            "give the graph's inputs fixed shapes"
        )
    return cost.macs + norm_flops * cost.norm_elements, cost.parameters


__all__ = [
    "SPACES",
    "WEIGHTS_FILE",
    "GraphBuilder",
    "GraphSpaceError",
    "build_graph",
    "count_flops_params",
    "nasbench101_channels",
    "parse_darts",
    "parse_nasbench101",
    "parse_nasbench201",
    "weight_bytes",
]
