"""One canonical form of an ONNX graph: the same network from different exporters becomes the same operators in the same order.

    graph, sizes = canonical_graph("resnet18.onnx")
    operators, outputs = fuse(graph, sizes)         # conv + batch norm + activation are one operator
    order = canonical_order(operators, outputs)

What is brought to one form
    * Attributes that newer operator sets have as inputs are inputs; axes count from the front where ranks are known.
    * Constants: what is computed of tensors of the file alone, or of shapes, is a tensor. A constant node and an initializer
      are the same.
    * Operators that do nothing are gone: Identity, Dropout, casts to the same type, changes of shape to the same shape,
      additions of 0, products with 1, an If whose condition is constant.
    * Reshape, Squeeze and Flatten to `(batch, rest)` are Flatten. A mean over all of an image is GlobalAveragePool. Padding is
      explicit where sizes are known, and part of the convolution that it feeds.
    * A matrix product with a stored matrix of rank 2 is Gemm, with its bias.
    * Batch norms are unfolded: a convolution with a bias is one with a batch norm, as both scale and shift each channel with
      constants. A convolution of a single pixel keeps its bias (gates of squeeze and excitation have one and no batch norm).
    * Activations that are written out are one operator: silu, hardswish, hardsigmoid, relu6, gelu; so are layer norms.
    * An activation before several convolutions belongs to each, in networks that have activations before convolutions.
    * Quantised operators are operators with the types of their weights and data: QuantizeLinear and DequantizeLinear are gone.

The order depends on the graph alone: renamed tensors and shuffled nodes give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from .onnx_graph_rlm import (
    BOOL,
    FLOAT,
    INT64,
    MAX_LITERAL,
    Graph,
    GraphCost,
    Model,
    Node,
    OnnxTextError,
    Shape,
    Sizes,
    Tensor,
    Value,
    count_parameters,
    elements,
    naming_errors,
    number_word,
    read_graph,
    slice_bounds,
    spatial_sizes,
    total_cost,
    trip_count,
    type_name,
)

if TYPE_CHECKING:
    import onnx
else:
    try:
        import onnx
    except ImportError:  # onnx is needed only when a graph is read
        onnx = None

# Markers inside the parts of an operator. Strings are printed as they are.
NUMBER = 0  # the next number
REFERENCE = 1  # the next argument, always by name
PREVIOUS = 2  # the next argument, left out where it is the unnamed value of the line before
# a negative number -k is a call of block k - 1

ACTIVATIONS = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hsigmoid",
    "HardSwish": "hswish",
    "LeakyRelu": "lrelu",
    "Elu": "elu",
    "Selu": "selu",
    "Celu": "celu",
    "Gelu": "gelu",
    "Tanh": "tanh",
    "Softplus": "softplus",
    "Mish": "mish",
    "Swish": "swish",
    "Relu6": "relu6",
    "Silu": "silu",
    "HardSilu": "hsilu",
}
_SHORT = {
    "GlobalAveragePool": "gap",
    "GlobalMaxPool": "gmp",
    "LayerNormalization": "layernorm",
    "InstanceNormalization": "instancenorm",
    "GroupNormalization": "groupnorm",
    "RMSNormalization": "rmsnorm",
}
_COMMUTATIVE = {"Mul", "Max", "Min", "Mean", "And", "Or", "Xor", "Equal", "BitwiseAnd", "BitwiseOr", "BitwiseXor"}
_NORMS = {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization"}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_SUMS = ("Add", "Sum")
_RADIUS = 8
_BLOCK_SIZE = 6  # nodes
_MAX_EFFORT = 400_000  # node visits spent on telling symmetric nodes apart
_MAX_CACHE = 4096  # entries
_MAX_BRANCH = 200  # nodes below each other

Piece = int | str


# ---------------------------------------------------------------------------------------------------------------------
# Canonical form

# Attributes that newer operator sets have as inputs, with the position of the input.
_AS_INPUTS: dict[str, tuple[tuple[str, int], ...]] = {
    "Squeeze": (("axes", 1),),
    "Unsqueeze": (("axes", 1),),
    "Clip": (("min", 1), ("max", 2)),
    "Slice": (("starts", 1), ("ends", 2), ("axes", 3)),
    "Split": (("split", 1),),
    "Pad": (("pads", 1), ("value", 2)),
    "TopK": (("k", 1),),
    "Upsample": (("scales", 1),),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
         "ReduceSum", "ReduceSumSquare"),
        (("axes", 1),),
    ),
}  # fmt: skip
# Attributes that mean nothing in inference.
_IDLE_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "BatchNormalization": ("epsilon", "momentum", "spatial", "is_test", "consumed_inputs"),
    "Dropout": ("ratio", "is_test", "seed"),
    "MaxPool": ("storage_order",),
    "Constant": (),
}
_SHAPE_OPERATORS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1}  # second operands that change nothing
# Operators that are printed with the type that their data is quantised to.
_MARKED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "DequantizeLinear")
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


def canonical_graph(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[Graph, Sizes]:
    """Reads a model in its canonical form.

    Args:
        model: A model, the path of a file (its external data is not opened), or a file's bytes.
        input_shapes: Shapes of inputs by name, where the file leaves them free or others are wanted.

    Returns:
        The graph and the sizes of its tensors.

    Raises:
        OnnxTextError: No ONNX model that can be read, or shapes that do not fit its inputs.
    """
    with naming_errors(model):
        graph = read_graph(model)
        _set_input_shapes(graph, input_shapes or {})
        return _Canonical(graph, None).run()


def graph_cost(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> GraphCost:
    """Counts what one inference of a model costs, exactly.

    Args:
        model: See `canonical_graph`.
        input_shapes: Likewise. A free first dimension of an input is 1 unless it is given.

    Raises:
        OnnxTextError: See `canonical_graph`.
    """
    return canonical_graph_cost(model, input_shapes)[2]


def canonical_graph_cost(
    model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Graph, Sizes, GraphCost]:
    """Reads a model once, for its canonical form and for what it costs; see `canonical_graph` and `graph_cost`."""
    with naming_errors(model):
        graph = read_graph(model)
        parameters = count_parameters(graph)
        _set_input_shapes(graph, input_shapes or {})
        canonical, sizes = _Canonical(graph, None).run()
        cost = total_cost(canonical, sizes)
        cost.parameters = parameters
        return canonical, sizes, cost


def _set_input_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives inputs of a graph the shapes that were asked for; the name "" stands for the only input.

    Raises:
        OnnxTextError: An input that is not there, or a shape that contradicts the file's.
    """
    inputs = {value.name: value for value in graph.inputs}
    for name, shape in shapes.items():
        value = graph.inputs[0] if not name and len(graph.inputs) == 1 else inputs.get(name)
        if value is None:
            raise OnnxTextError(f"the graph has no input {name!r}; it has {', '.join(map(repr, inputs)) or 'none'}")
        known = value.shape
        fits = known is None or len(known) == len(shape)
        if not fits or any(size < 0 for size in shape):
            raise OnnxTextError(
                f"input {value.name!r} has {len(known or ())} axes; the shape {tuple(shape)} does not fit"
            )
        for axis, size in enumerate(known or ()):
            if size is not None and size != shape[axis]:
                raise OnnxTextError(
                    f"axis {axis} of input {value.name!r} is fixed to {size} by the file, not {shape[axis]}; export it with a "
                    "free size"
                )
        value.shape = tuple(shape)


class _Canonical:
    """Rewrites one graph.

    Attributes:
        graph: The graph, changed on the way.
        sizes: Of its tensors.
        alias: Tensors that are the same as another one.
        marks: Types that tensors are quantised to, by name.
        folded: Whether some batch norm is folded into a convolution: an optimiser has been at work.
    """

    def __init__(self, graph: Graph, outer: Sizes | None) -> None:
        self.graph = graph
        self.sizes = Sizes(graph, outer)
        self.alias: dict[str, str] = {}
        self.marks: dict[str, int] = {}
        self.folded = False
        self._fresh = 0

    def run(self) -> tuple[Graph, Sizes]:
        """Returns the canonical graph and its sizes."""
        graph = self.graph
        waiting = list(reversed(graph.nodes))
        graph.nodes = []
        while waiting:
            node = waiting.pop()
            self._rename(node)
            waiting.extend(reversed(self._visit(node)))
        graph.outputs = [self._resolved(name) for name in graph.outputs]
        needed = graph.needed()
        if len(needed) < len(graph.nodes):
            kept = {id(node) for node in needed}
            graph.dead = [node for node in graph.nodes if id(node) not in kept]
            graph.nodes = needed
        for rewrite in (
            self._merge_patterns,
            self._merge_pads,
            self._merge_biases,
            self._unfold_norms,
            self._share_out_pools,
        ):
            rewrite()
        return graph, self.sizes

    # Node by node

    def _resolved(self, name: str) -> str:
        while name in self.alias:
            name = self.alias[name]
        return name

    def _rename(self, node: Node) -> None:
        """Makes a node read what its inputs are the same as."""
        mark = self.marks.get(node.inputs[0]) if node.inputs and node.op in _MARKED else None
        if mark is not None:
            node.attributes["quantised"] = mark
        node.inputs = [self._resolved(name) for name in node.inputs]
        while node.inputs and not node.inputs[-1]:
            node.inputs.pop()
        node.captured = [self._resolved(name) for name in node.captured]

    def _visit(self, node: Node) -> list[Node]:
        """Takes a node into the graph, or returns nodes to take in its place."""
        if not node.standard:
            self.sizes.visit(node)
            self.graph.nodes.append(node)
            return []
        for name, position in _AS_INPUTS.get(node.op, ()):
            self._attribute_to_input(node, name, position)
        for name in _IDLE_ATTRIBUTES.get(node.op, ()):
            node.attributes.pop(name, None)
        self._count_axes_from_the_front(node)
        if node.graphs:
            inlined = self._visit_subgraphs(node)
            if inlined is not None:
                return inlined
        self.sizes.visit(node)
        if self._fold_constant(node):
            return []
        source = self._same_as(node)
        if source is not None:
            self.alias[node.outputs[0]] = source
            return []
        replaced = self._replaced(node)
        if replaced is not None:
            return replaced
        self.graph.nodes.append(node)
        return []

    def _attribute_to_input(self, node: Node, name: str, position: int) -> None:
        value = node.attributes.pop(name, None)
        if value is None or (len(node.inputs) > position and node.inputs[position]):
            return
        node.inputs.extend([""] * (position + 1 - len(node.inputs)))
        node.inputs[position] = self._new_tensor(value)

    def _new_tensor(self, value: Any) -> str:
        """Adds a tensor of integers or of floating-point numbers and returns its name."""
        array = np.array(value, dtype=object)
        floats = any(isinstance(each, float) for each in array.ravel().tolist())
        name = self._name()
        small = array if array.size <= MAX_LITERAL else None
        self.graph.tensors[name] = Tensor(FLOAT if floats else INT64, array.shape, small)
        self.sizes.add_tensor(name, self.graph.tensors[name])
        return name

    def _name(self) -> str:
        self._fresh += 1
        return f" {self._fresh}"  # no name of the file: those of exporters have no blank in front

    def _count_axes_from_the_front(self, node: Node) -> None:
        shape = self.sizes.shapes.get(node.inputs[0]) if node.inputs else None
        axis = node.get("axis")
        if shape and isinstance(axis, int) and -len(shape) <= axis < 0 and node.op not in _NORMS:
            node.attributes["axis"] = axis + len(shape)
        if node.op in ("Squeeze", "Slice") or node.op.startswith("Reduce"):
            position = 3 if node.op == "Slice" else 1
            if shape and len(node.inputs) > position and node.inputs[position]:
                axes = self.sizes.vector(node.inputs[position])
                if axes is not None and any(axis is not None and axis < 0 for axis in axes) and None not in axes:
                    node.inputs[position] = self._new_tensor([axis % len(shape) for axis in axes if axis is not None])

    def _visit_subgraphs(self, node: Node) -> list[Node] | None:
        """Rewrites the subgraphs of a node. Returns the nodes of the branch of an If whose condition is constant."""
        if node.op == "If":
            condition = self.sizes.vector(node.inputs[0])
            branch = node.get("then_branch" if condition and condition[0] else "else_branch")
            if condition and condition[0] is not None and isinstance(branch, Graph):
                self.graph.tensors.update(branch.tensors)
                for name, tensor in branch.tensors.items():
                    self.sizes.add_tensor(name, tensor)
                ends = [
                    Node("Identity", "", [name], [result])
                    for name, result in zip(branch.outputs, node.outputs)
                    if result
                ]
                return [*branch.nodes, *ends]
        inner = [self._visit_subgraph(node, graph) for _, graph in node.graphs]
        node.captured = list(dict.fromkeys(each for _, graph in node.graphs for each in graph.captured))
        self.sizes.inner[id(node)] = inner
        if node.op == "If":
            for position, result in enumerate(node.outputs):
                shapes = [sizes.shapes.get(graph.outputs[position]) for (_, graph), sizes in zip(node.graphs, inner)]
                if result and shapes[0] is not None and all(shape == shapes[0] for shape in shapes):
                    self.sizes.shapes[result] = shapes[0]
        else:
            self._set_loop_results(node, node.graphs[0][1], inner[0])
        return None

    def _visit_subgraph(self, node: Node, graph: Graph) -> Sizes:
        """Rewrites a subgraph; tensors of the file that it reads of the graph around it become its own."""
        self._set_body_inputs(node, graph)
        captured = list(dict.fromkeys(self._resolved(name) for name in graph.captured))
        stored = {name: self.graph.tensors[name] for name in captured if name in self.graph.tensors}
        graph.tensors.update(stored)
        rewriter = _Canonical(graph, self.sizes)
        rewriter.alias.update(self.alias)
        rewriter.run()
        own = {name for each in graph.nodes for name in each.outputs} | {value.name for value in graph.inputs}
        read = [*(name for each in graph.nodes for name in each.reads), *graph.outputs]
        graph.captured = [name for name in dict.fromkeys(read) if name not in own and name not in graph.tensors]
        return rewriter.sizes

    def _set_body_inputs(self, node: Node, body: Graph) -> None:
        """Gives the inputs of a body of Loop or Scan the shapes of what it begins with."""
        if node.op == "Loop":
            pairs = list(zip(body.inputs[2:], node.inputs[2:]))
        elif node.op == "Scan":
            states = len(node.inputs) - int(node.get("num_scan_inputs", 0))
            pairs = list(zip(body.inputs[:states], node.inputs[:states]))
            for value, name in zip(body.inputs[states:], node.inputs[states:]):
                shape = self.sizes.shapes.get(name)
                if value.shape is None and shape is not None:
                    value.shape = shape[1:]
        else:
            return
        for value, name in pairs:
            value.shape = value.shape or self.sizes.shapes.get(name)
            value.dtype = value.dtype or self.sizes.types.get(name, 0)

    def _set_loop_results(self, node: Node, body: Graph, sizes: Sizes) -> None:
        """Gives the results of a Loop or Scan the shapes that the body makes."""
        skipped = 1 if node.op == "Loop" else 0
        states = len(node.inputs) - (2 if node.op == "Loop" else int(node.get("num_scan_inputs", 0)))
        runs = trip_count(node, self.sizes)
        for position, (name, result) in enumerate(zip(body.outputs[skipped:], node.outputs)):
            shape = sizes.shapes.get(name)
            if shape is not None and result:
                self.sizes.shapes[result] = shape if position < states else (runs, *shape)

    def _fold_constant(self, node: Node) -> bool:
        """Makes a tensor of what a node computes of tensors of the file, or of a known shape; True if nothing is left of it."""
        results = [name for name in node.outputs if name]
        values = [self.sizes.values.get(name) for name in results]
        known = all(value is not None and None not in value.ravel().tolist() for value in values)
        stored = bool(node.inputs) and all(name in self.graph.tensors for name in node.inputs if name)
        shapes = [self.sizes.shapes.get(name) for name in results]
        sized = stored and all(elements(shape) is not None for shape in shapes)
        if node.graphs or node.op in _RANDOM or not (known or sized):
            return False
        dtype = self.graph.tensors[node.inputs[0]].dtype if stored else INT64
        for name, value, shape in zip(results, values, shapes):
            found = self.sizes.types.get(name) or dtype
            if stored and node.op in ("Cast", "DequantizeLinear"):
                found = dtype if value is None else found  # how a weight is stored
            self.graph.tensors[name] = Tensor(found, tuple(size or 0 for size in shape or ()), value)
        return True

    # Operators that do nothing

    def _same_as(self, node: Node) -> str | None:
        """Returns the tensor that a node's first result is the same as, None if there is none."""
        if not node.inputs:
            return None
        op, source = node.op, node.inputs[0]
        if op == "Identity" or (op == "Dropout" and not node.get("training_mode", 0)):
            return source
        if op in ("QuantizeLinear", "DequantizeLinear"):
            if op == "QuantizeLinear":
                self.marks[node.outputs[0]] = self.sizes.types.get(node.outputs[0], 0)
            elif "quantised" in node.attributes:
                self.marks[node.outputs[0]] = node.attributes["quantised"]
            return source
        if op in ("Concat", "Sum", "Max", "Min", "Mean") and len(node.inputs) == 1:
            return source
        shape, result = self.sizes.shapes.get(source), self.sizes.shapes.get(node.outputs[0])
        if op == "Cast":
            kept = self.sizes.types.get(source, 0)
            return source if kept and kept == node.get("to") else None
        if op in _NEUTRAL and len(node.inputs) == 2 and shape is not None:
            return self._neutral(node, shape)
        if shape is None or shape != result or elements(shape) is None:
            return None
        return source if self._keeps_all(node, shape) else None

    def _neutral(self, node: Node, shape: Shape) -> str | None:
        """Returns the operand that a constant second one does not change."""
        pairs = [(node.inputs[0], node.inputs[1])]
        if node.op in ("Add", "Mul"):
            pairs.append((node.inputs[1], node.inputs[0]))
        for kept, other in pairs:
            tensor = self.graph.tensors.get(other)
            size = self.sizes.shapes.get(kept)
            if tensor is None or kept in self.graph.tensors or size is None:
                continue
            if tensor.number == _NEUTRAL[node.op] and len(tensor.shape) <= len(size):
                return kept
        return None

    def _keeps_all(self, node: Node, shape: Shape) -> bool:
        """Whether an operator whose result has the shape of its input hands it on as it is."""
        op = node.op
        if op in (*_SHAPE_OPERATORS, "Expand", "Tile"):
            return True
        if op == "Transpose":
            return list(node.get("perm", ())) == list(range(len(shape)))
        if op == "Slice":
            return all(step == 1 for step in slice_bounds(self.sizes, node, len(shape))[3])
        if op == "Pad":
            return not any(self.sizes.vector(node.inputs[1]) or [1])
        return op in ("Resize", "Upsample")

    # One form for operators of the same meaning

    def _replaced(self, node: Node) -> list[Node] | None:
        """Returns what a node is written as instead, None to keep it as it now is."""
        if node.op in (*_CONVOLUTIONS, "MaxPool", "AveragePool", "LpPool"):
            self._set_pads(node)
        if node.op == "AveragePool":
            return self._replaced_pool(node)
        if node.op == "ReduceMean":
            return self._replaced_mean(node)
        if node.op == "Slice" and len(node.inputs) > 4 and set(self.sizes.vector(node.inputs[4]) or ()) == {1}:
            node.inputs.pop()
        if node.op in _SHAPE_OPERATORS:
            return self._replaced_reshape(node)
        if node.op in ("QLinearConv", "QLinearMatMul"):
            return self._replaced_quantised(node)
        if node.op == "MatMul" and len(node.inputs) == 2:
            data, weight = (self.sizes.shapes.get(name) for name in node.inputs)
            if (
                data is not None
                and weight is not None
                and len(data) == len(weight) == 2
                and node.inputs[1] in self.graph.tensors
            ):
                node.op = "Gemm"
        elif node.op == "Clip":
            self._rename_clip(node)
        return None

    def _rename_clip(self, node: Node) -> None:
        """Names a Clip by what it is: relu6 or relu."""
        bounds = [self.graph.tensors[name].number if name in self.graph.tensors else None for name in node.inputs[1:]]
        if bounds == [0, 6]:
            node.op = "Relu6"
            node.inputs = node.inputs[:1]
        elif len(bounds) == 1 and bounds == [0]:
            node.op = "Relu"
            node.inputs = node.inputs[:1]

    def _set_pads(self, node: Node) -> None:
        """Makes padding explicit, and drops what has no effect at the sizes that are known."""
        shape = self.sizes.shapes.get(node.inputs[0])
        result = self.sizes.shapes.get(node.outputs[0])
        weight = self.sizes.shapes.get(node.inputs[1]) if node.op in _CONVOLUTIONS and len(node.inputs) > 1 else None
        kernel = node.get("kernel_shape") or (weight[2:] if weight else ())
        padding = node.get("auto_pad", "NOTSET")
        if padding in ("NOTSET", "VALID"):
            node.attributes.pop("auto_pad", None)
            if padding == "VALID":
                node.attributes.pop("pads", None)
        elif (
            node.op != "ConvTranspose"
            and shape is not None
            and result is not None
            and None not in (*shape[2:], *kernel)
        ):
            node.attributes["pads"] = _same_pads(node, shape, result, kernel, padding == "SAME_UPPER")
            del node.attributes["auto_pad"]
        if node.get("ceil_mode", 0) and shape is not None and result is not None and None not in shape[2:]:
            floor = replace(node, attributes={**node.attributes, "ceil_mode": 0})
            if tuple(spatial_sizes(floor, shape, kernel)) == tuple(result[2:]):
                node.attributes.pop("ceil_mode")
        if not any(node.get("pads") or (0,)) and "auto_pad" not in node.attributes:
            node.attributes.pop("count_include_pad", None)

    def _replaced_pool(self, node: Node) -> list[Node] | None:
        shape = self.sizes.shapes.get(node.inputs[0])
        whole = shape is not None and len(shape) > 2 and tuple(shape[2:]) == tuple(node.get("kernel_shape", ()))
        if whole and not any(node.get("pads") or (0,)) and "auto_pad" not in node.attributes:
            return [Node("GlobalAveragePool", "", node.inputs, node.outputs)]
        return None

    def _replaced_mean(self, node: Node) -> list[Node] | None:
        shape = self.sizes.shapes.get(node.inputs[0])
        axes = self.sizes.vector(node.inputs[1]) if len(node.inputs) > 1 else None
        if (
            shape is None
            or len(shape) < 4
            or axes is None
            or sorted(axis or 0 for axis in axes) != list(range(2, len(shape)))
        ):
            return None
        if node.get("keepdims", 1):
            return [Node("GlobalAveragePool", "", node.inputs[:1], node.outputs)]
        means = self._name()
        return [Node("GlobalAveragePool", "", node.inputs[:1], [means]), Node("Flatten", "", [means], node.outputs)]

    def _replaced_reshape(self, node: Node) -> list[Node] | None:
        """Writes a change of shape to `(batch, rest)` as Flatten, and targets of Reshape in one way."""
        shape = self.sizes.shapes.get(node.inputs[0])
        result = self.sizes.shapes.get(node.outputs[0])
        if shape is None or result is None or None in shape or None in result:
            return None
        if len(shape) > 2 and len(result) == 2 and result[0] == shape[0]:
            if node.op == "Flatten" and node.get("axis", 1) == 1:
                return None
            return [Node("Flatten", "", node.inputs[:1], node.outputs)]
        target = _reshape_target(shape, result)
        if node.op != "Reshape":
            node.op = "Reshape"
            node.attributes = {}
        node.attributes.pop("allowzero", None)
        node.inputs = [node.inputs[0], self._new_tensor(target)]
        return None

    def _replaced_quantised(self, node: Node) -> list[Node]:
        """Writes a quantised convolution or product as one with the types of its weights and data."""
        data, weight = node.inputs[0], node.inputs[3]
        mark = node.get("quantised", self.sizes.types.get(data, 0))
        inputs = [data, weight, *node.inputs[8:9]]
        self.marks[node.outputs[0]] = self.sizes.types.get(node.inputs[7], mark)
        return [Node(node.op.removeprefix("QLinear"), "", inputs, node.outputs, {**node.attributes, "quantised": mark})]

    # Patterns of several nodes

    def _merge_patterns(self) -> None:
        """Rewrites activations and norms that are written out as one operator each."""
        matcher = _Patterns(self.graph, self.sizes)
        for index in range(len(self.graph.nodes)):
            matcher.rewrite(index)
        self.graph.nodes = [node for index, node in enumerate(self.graph.nodes) if index not in matcher.gone]

    def _merge_pads(self) -> None:
        """Makes zero padding of images a part of the convolution that alone reads it."""
        uses, makers = self.graph.uses(), self.graph.makers()
        gone = set()
        for index, node in enumerate(self.graph.nodes):
            made = makers.get(node.inputs[0], -1) if node.op == "Conv" and node.standard else -1
            if made < 0 or self.graph.nodes[made].op != "Pad" or uses[node.inputs[0]] != [index]:
                continue
            pad = self.graph.nodes[made]
            around = self.sizes.vector(pad.inputs[1])
            fill = self.graph.tensors.get(pad.inputs[2]) if len(pad.inputs) > 2 else None
            plain = pad.get("mode", "constant") == "constant" and (
                len(pad.inputs) < 3 or (fill is not None and fill.number == 0)
            )
            if around is None or None in around or len(pad.inputs) > 3 or not plain or "auto_pad" in node.attributes:
                continue
            amounts = [amount for amount in around if amount is not None]
            rank = len(amounts) // 2
            if any(amounts[:2]) or any(amounts[rank : rank + 2]) or min(amounts) < 0:
                continue
            extra = (*amounts[2:rank], *amounts[rank + 2 :])
            pads = node.get("pads") or (0,) * len(extra)
            node.attributes["pads"] = tuple(a + b for a, b in zip(pads, extra))
            node.inputs[0] = pad.inputs[0]
            gone.add(made)
        self.graph.nodes = [node for index, node in enumerate(self.graph.nodes) if index not in gone]

    def _merge_biases(self) -> None:
        """Makes the addition of a stored vector a part of the Gemm before it."""
        uses, makers = self.graph.uses(), self.graph.makers()
        gone = set()
        for index, node in enumerate(self.graph.nodes):
            if node.op != "Add" or len(node.inputs) != 2 or not node.standard:
                continue
            for data, bias in (node.inputs, node.inputs[::-1]):
                made = makers.get(data, -1)
                product = self.graph.nodes[made] if made >= 0 else None
                tensor = self.graph.tensors.get(bias)
                if product is None or tensor is None or product.op != "Gemm" or len(product.inputs) != 2:
                    continue
                wide = self.sizes.shapes.get(data, (None,))[-1]
                if uses[data] == [index] and math.prod(tensor.shape) == wide and tensor.shape[-1:] == (wide,):
                    product.inputs.append(bias)
                    product.outputs = node.outputs
                    gone.add(index)
                    break
        self.graph.nodes = [node for index, node in enumerate(self.graph.nodes) if index not in gone]

    def _unfold_norms(self) -> None:
        """Writes the bias of a convolution as a batch norm, or as part of the one that follows."""
        self.graph.nodes = self._with_norms(self.graph.nodes)
        self.graph.dead = self._with_norms(self.graph.dead)

    def _with_norms(self, given: Sequence[Node]) -> list[Node]:
        uses: dict[str, list[Node]] = {}
        for node in given:
            for name in node.reads:
                uses.setdefault(name, []).append(node)
        nodes: list[Node] = []
        for node in given:
            nodes.append(node)
            biased = node.op in _CONVOLUTIONS and node.standard and len(node.inputs) > 2
            if not biased or node.inputs[2] not in self.graph.tensors:
                continue
            shape = self.sizes.shapes.get(node.inputs[0])
            if shape is not None and all(size == 1 for size in shape[2:]):
                continue
            result = node.outputs[0]
            bias = node.inputs.pop()
            users = uses.get(result, [])
            if len(users) == 1 and users[0].op == "BatchNormalization" and result not in self.graph.outputs:
                continue
            self.folded = True
            plain = self._name()
            if result in self.sizes.shapes:
                self.sizes.shapes[plain] = self.sizes.shapes[result]
            self.sizes.types[plain] = self.sizes.types.get(result, 0)
            node.outputs = [plain]
            nodes.append(Node("BatchNormalization", "", [plain, bias, bias, bias, bias], [result]))
        return nodes

    def _share_out_pools(self) -> None:
        """Gives each sum that reads an average pool one of its own, in graphs that an optimiser has been at.

        What folds batch norms also merges equal nodes, and architectures are defined with a pool on each edge.
        """
        if not self.folded:
            return
        uses = self.graph.uses()
        nodes: list[Node] = []
        for node in self.graph.nodes:
            nodes.append(node)
            users = uses.get(node.outputs[0], []) if node.op == "AveragePool" and node.standard else []
            sums = [user for user in dict.fromkeys(users) if user >= 0 and self.graph.nodes[user].op in _SUMS]
            if not sums or len(users) < 2:
                continue
            for user in sums if len(users) > len(sums) else sums[1:]:
                copy = replace(node, inputs=list(node.inputs), outputs=[self._name()])
                self.sizes.visit(copy)
                inputs = self.graph.nodes[user].inputs
                inputs[inputs.index(node.outputs[0])] = copy.outputs[0]  # one of them, should it read it twice
                nodes.append(copy)
        self.graph.nodes = nodes


def _same_pads(node: Node, shape: Shape, result: Shape, kernel: Sequence[Any], upper: bool) -> tuple[int, ...]:
    """Returns the padding that the automatic one comes to, all beginnings, then all ends."""
    strides = node.get("strides") or (1,) * len(kernel)
    dilations = node.get("dilations") or (1,) * len(kernel)
    begins, ends = [], []
    for axis, size in enumerate(kernel):
        reach = dilations[axis] * (size - 1) + 1
        total = max(((result[2 + axis] or 0) - 1) * strides[axis] + reach - (shape[2 + axis] or 0), 0)
        small, large = total // 2, total - total // 2
        begins.append(small if upper else large)
        ends.append(large if upper else small)
    return (*begins, *ends)


def _reshape_target(shape: Shape, result: Shape) -> list[int]:
    """Returns the target of a Reshape in one way: 0 for an unchanged first axis, -1 for the last axis of those that come of the
    first axes that change."""
    target = [size or 0 for size in result]
    start = 0
    while start < min(len(shape), len(result)) and shape[start] == result[start]:
        start += 1
    if start == len(result):
        return target
    stop, total, part = start, 1, 1
    source = start
    while stop < len(result):
        total *= target[stop]
        stop += 1
        while source < len(shape) and part < total:
            part *= shape[source] or 0
            source += 1
        if part == total:
            break
    free = stop - 1
    if all(target):
        if start and shape[0] == result[0]:
            target[0] = 0
        target[free] = -1
    return target


class _Patterns:
    """Finds activations and norms that are written out.

    Attributes:
        gone: Indices of nodes that are part of another one.
    """

    def __init__(self, graph: Graph, sizes: Sizes) -> None:
        self.graph = graph
        self.sizes = sizes
        self.uses = graph.uses()
        self.makers = graph.makers()
        self.gone: set[int] = set()

    def rewrite(self, index: int) -> None:
        """Rewrites the node at an index if a pattern ends there."""
        node = self.graph.nodes[index]
        if not node.standard:
            return
        if node.op in ("Mul", "Div") and len(node.inputs) == 2:
            patterns = (self._gate, self._hard_sigmoid, self._hard_swish, self._gelu, self._mish)
            any(pattern(index, node) for pattern in patterns)  # the first that fits
        elif node.op == "Add" and len(node.inputs) == 2:
            self._layer_norm(index, node)

    # Helpers

    def _made(self, name: str, *ops: str) -> tuple[int, Node] | None:
        """Returns the node that makes a tensor if it is one of some operators."""
        index = self.makers.get(name, -1)
        if index < 0 or index in self.gone or self.graph.nodes[index].op not in ops:
            return None
        return index, self.graph.nodes[index]

    def _constant(self, name: str) -> float | None:
        tensor = self.graph.tensors.get(name)
        number = None if tensor is None else tensor.number
        return None if number is None else float(number)

    def _operands(self, node: Node) -> list[tuple[str, str]]:
        """Returns the operands of a node in the orders that mean the same."""
        first, second = node.inputs[:2]
        return [(first, second), (second, first)] if node.op in ("Add", "Mul") else [(first, second)]

    def _scaled(self, name: str, op: str, amount: float) -> tuple[int, str] | None:
        """Returns the node that makes a tensor by adding or multiplying a number, and what it reads."""
        found = self._made(name, op) or (self._made(name, "Div") if op == "Mul" else None)
        if found is None:
            return None
        for data, constant in self._operands(found[1]):
            number = self._constant(constant)
            if number is not None and found[1].op == "Div":
                number = 1 / number if number else None
            if number is not None and math.isclose(number, amount, rel_tol=1e-4):
                return found[0], data
        return None

    def _inside(self, indices: Iterable[int], end: int) -> bool:
        """Whether what some nodes make is read by each other and the last one alone."""
        members = {*indices, end}
        return all(set(self.uses.get(self.graph.nodes[index].outputs[0], [])) <= members for index in members - {end})

    def _merge(
        self, index: int, parts: Iterable[int], op: str, source: str, attributes: dict[str, Any] | None = None
    ) -> bool:
        """Makes one operator of some nodes if nothing else reads what they make."""
        parts = set(parts)
        if not self._inside(parts, index):
            return False
        node = self.graph.nodes[index]
        members = {*parts, index}
        for member in members:
            for name in self.graph.nodes[member].reads:
                self.uses[name] = [user for user in self.uses[name] if user != member]
        self.uses.setdefault(source, []).append(index)
        node.op = op
        node.inputs = [source]
        node.attributes = attributes or {}
        self.gone.update(parts)
        return True

    # Patterns

    def _gate(self, index: int, node: Node) -> bool:
        """x * sigmoid(x) and x * hardsigmoid(x)."""
        if node.op != "Mul":
            return False
        for x, gate in self._operands(node):
            found = self._made(gate, "Sigmoid", "HardSigmoid")
            if found is None or found[1].inputs[0] != x:
                continue
            hard = found[1].op == "HardSigmoid"
            sixth = hard and math.isclose(found[1].get("alpha", 0.2), 1 / 6, rel_tol=1e-4)
            if sixth and math.isclose(found[1].get("beta", 0.5), 0.5):
                return self._merge(index, [found[0]], "HardSwish", x)
            name = "HardSilu" if hard else "Silu"
            return self._merge(index, [found[0]], name, x, dict(found[1].attributes))
        return False

    def _clipped(self, name: str) -> tuple[list[int], str] | None:
        """relu6(x + 3)."""
        clip = self._made(name, "Relu6")
        shifted = self._scaled(clip[1].inputs[0], "Add", 3) if clip is not None else None
        return None if clip is None or shifted is None else ([clip[0], shifted[0]], shifted[1])

    def _hard_sigmoid(self, index: int, node: Node) -> bool:
        """relu6(x + 3) / 6."""
        for data, constant in self._operands(node):
            number = self._constant(constant)
            amount = (1 / 6) if node.op == "Mul" else 6.0
            clipped = self._clipped(data)
            if number is not None and math.isclose(number, amount, rel_tol=1e-4) and clipped is not None:
                return self._merge(index, clipped[0], "HardSigmoid", clipped[1], {"alpha": 1 / 6})
        return False

    def _hard_swish(self, index: int, node: Node) -> bool:
        """x * relu6(x + 3) / 6, the division last."""
        for data, constant in self._operands(node):
            number = self._constant(constant)
            amount = (1 / 6) if node.op == "Mul" else 6.0
            product = self._made(data, "Mul")
            if number is None or product is None or not math.isclose(number, amount, rel_tol=1e-4):
                continue
            for x, gate in self._operands(product[1]):
                clipped = self._clipped(gate)
                if clipped is not None and clipped[1] == x:
                    return self._merge(index, [*clipped[0], product[0]], "HardSwish", x)
        return False

    def _gelu(self, index: int, node: Node) -> bool:
        """x * (1 + erf(x / sqrt 2)) / 2, the half anywhere."""
        half = [self._constant(name) for name in node.inputs]
        parts: list[int] = []
        product: Node | None = node
        if node.op == "Mul" and 0.5 in half:  # the half last
            found = self._made(node.inputs[1 - half.index(0.5)], "Mul")
            product = found[1] if found else None
            parts = [found[0]] if found else []
        if product is None or product.op != "Mul":
            return False
        for left, right in self._operands(product):
            source, inner = left, list(parts)
            halved = self._scaled(left, "Mul", 0.5)
            if not parts and halved is None:
                continue
            if not parts and halved is not None:
                inner.append(halved[0])
                source = halved[1]
            shifted = self._scaled(right, "Add", 1)
            erf = self._made(shifted[1], "Erf") if shifted else None
            scaled = self._scaled(erf[1].inputs[0], "Mul", math.sqrt(0.5)) if erf else None
            if shifted is not None and erf is not None and scaled is not None and scaled[1] == source:
                return self._merge(index, [*inner, shifted[0], erf[0], scaled[0]], "Gelu", source)
        return False

    def _mish(self, index: int, node: Node) -> bool:
        """x * tanh(softplus(x))."""
        for x, gate in self._operands(node) if node.op == "Mul" else ():
            tanh = self._made(gate, "Tanh")
            soft = self._made(tanh[1].inputs[0], "Softplus") if tanh else None
            if tanh is not None and soft is not None and soft[1].inputs[0] == x:
                return self._merge(index, [tanh[0], soft[0]], "Mish", x)
        return False

    def _layer_norm(self, index: int, node: Node) -> bool:
        """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis."""
        weights: list[str] = []
        parts: list[int] = []
        current: Node = node
        for op in ("Add", "Mul"):
            if current.op != op or len(current.inputs) != 2:
                return False
            stored = [name for name in current.inputs if name in self.graph.tensors]
            data = [name for name in current.inputs if name not in self.graph.tensors]
            if len(stored) != 1 or len(data) != 1 or len(self.graph.tensors[stored[0]].shape) != 1:
                return False
            weights.insert(0, stored[0])
            found = self._made(data[0], "Mul" if op == "Add" else "Div")
            if found is None:
                return False
            parts.append(found[0])
            current = found[1]
        centred, deviation = current.inputs
        source = self._centred(centred)
        root = self._made(deviation, "Sqrt")
        if source is None or root is None:
            return False
        shifted = self._made(root[1].inputs[0], "Add")
        data = [name for name in shifted[1].inputs if self._constant(name) is None] if shifted else []
        variance = self._made(data[0], "ReduceMean") if len(data) == 1 else None
        square = self._made(variance[1].inputs[0], "Pow", "Mul") if variance else None
        if shifted is None or variance is None or square is None:
            return False
        deviations = self._centred(square[1].inputs[0])
        if deviations is None or deviations[1] != source[1]:
            return False
        parts += [root[0], shifted[0], variance[0], square[0], *source[0], *deviations[0]]
        if not self._merge(index, parts, "LayerNormalization", source[1]):
            return False
        node.inputs.extend(weights)
        return True

    def _centred(self, name: str) -> tuple[list[int], str] | None:
        """x - mean(x): the nodes, and x."""
        found = self._made(name, "Sub")
        mean = self._made(found[1].inputs[1], "ReduceMean") if found else None
        if found is None or mean is None or mean[1].inputs[0] != found[1].inputs[0]:
            return None
        return [found[0], mean[0]], mean[1].inputs[0]


# ---------------------------------------------------------------------------------------------------------------------
# Operators


def _pieces(values: Sequence[Piece]) -> tuple[Piece, ...]:
    """Returns a literal as printed: long ranges as `range first count step`, the ends of int64 as `inf` and `-inf`."""
    first, second = (*values, 0, 0)[:2]
    if len(values) > 8 and isinstance(first, int) and isinstance(second, int):
        step = second - first
        if tuple(values) == tuple(range(first, first + step * len(values), step or 1)):
            return ("range", first, len(values), step)
    pieces: list[Piece] = []
    for value in values:
        if isinstance(value, str) or abs(value) < 1 << 62:
            pieces.append(value)
        else:
            pieces.append("inf" if value > 0 else "-inf")
    return tuple(pieces)


def _attribute_words(value: Any) -> tuple[str, ...]:
    """Returns the value of an attribute as words."""
    if isinstance(value, tuple):
        return tuple(word for each in value for word in _attribute_words(each))
    if isinstance(value, float):
        return (number_word(value),)
    if isinstance(value, str):
        return ("_".join(value.split()),)
    if isinstance(value, Tensor):
        if value.dtype in (INT64, BOOL) and value.values is not None:
            return tuple(map(str, _pieces([int(each) for each in value.values.ravel().tolist()])))
        return ("w", *map(str, value.shape)) if value.number is None else (number_word(float(value.number)),)
    if isinstance(value, bytes):
        return (blake2b(value, digest_size=4).hexdigest(),)
    return (str(value),)


_DEFAULTS_CACHE: dict[tuple[str, str, int], dict[str, tuple[str, ...]]] = {}


def _defaults(op: str, domain: str, version: int) -> dict[str, tuple[str, ...]]:
    """Returns the words of an operator's default attribute values by name; empty for an unknown one."""
    key = (op, domain, version)
    known = _DEFAULTS_CACHE.get(key)
    if known is None:
        known = {}
        try:
            for name, attribute in onnx.defs.get_schema(op, version, domain).attributes.items():
                if attribute.default_value.name:
                    value = onnx.helper.get_attribute_value(attribute.default_value)
                    plain = (
                        value.decode()
                        if isinstance(value, bytes)
                        else tuple(value)
                        if isinstance(value, list)
                        else value
                    )
                    known[name] = _attribute_words(plain)
        except Exception:  # unknown operator or domain: every attribute is printed
            known = {}
        if len(_DEFAULTS_CACHE) < _MAX_CACHE:
            _DEFAULTS_CACHE[key] = known
    return known


class Operator:
    """What is printed as one operator.

    Attributes:
        parts: Words to print, and the markers `NUMBER`, `REFERENCE`, `PREVIOUS` where numbers and arguments stand.
        nums: Of each number its value, and whether it equals the width of the input and is left out.
        args: Ids of the values that it reads.
        outs: Ids of the values that it makes, -1 for one that has no name.
        kind: "sum", "commutative", "input" or "".
    """

    __slots__ = ("args", "kind", "nums", "outs", "parts")

    def __init__(
        self,
        parts: tuple[Piece, ...],
        nums: tuple[tuple[Piece, bool], ...],
        args: list[int],
        outs: list[int],
        kind: str = "",
    ) -> None:
        self.parts = parts
        self.nums = nums
        self.args = args
        self.outs = outs
        self.kind = kind

    @property
    def reorders(self) -> bool:
        """Whether the order of its arguments means nothing."""
        return self.kind in ("sum", "commutative")


# An argument: the name of a tensor, None where one is left out, or what is printed for a constant or a weight.
_Argument = str | tuple[Piece, ...] | None


@dataclass(slots=True)
class _Printed:
    """A node as printed, before it is joined with others: its word, further words, numbers and arguments."""

    name: str
    words: tuple[str, ...] = ()
    nums: tuple[tuple[Piece, bool], ...] = ()
    args: Sequence[_Argument] = ()


# Prints the body of a control-flow operator over its arguments.
_BodyWriter = Callable[[Graph, Sizes, Sequence[str]], list[str]]


def fuse(graph: Graph, sizes: Sizes, write_body: _BodyWriter) -> tuple[list[Operator], list[int], dict[str, int]]:
    """Groups the nodes of a graph to operators over numbered values.

    Args:
        graph: In canonical form; it is changed on the way.
        sizes: Of its tensors.
        write_body: Prints the body of a control-flow operator over its arguments.

    Returns:
        Operators, those of kind "input" first, the ids of the graph's outputs, and the ids of all values by name. A sum that
        only feeds another sum is part of that one.

    Raises:
        OnnxTextError: An operator lacks an input.
    """
    fusion = _Fusion(graph, sizes, write_body)
    operators, outputs = fusion.operators()
    return _flatten_sums(operators, outputs), outputs, fusion.ids


class _Fusion:
    """Decides which nodes are printed as one operator, and prints each.

    Attributes:
        graph: The graph.
        sizes: Of its tensors.
        after: Index of the node that is glued behind a node: batch norm, activation, bias.
        before: Index of the node that is glued before a node: activation, batch norm.
        ids: Numbers of the values by name.
    """

    def __init__(self, graph: Graph, sizes: Sizes, write_body: _BodyWriter) -> None:
        self.graph = graph
        self.sizes = sizes
        self.write_body = write_body
        self.after: dict[int, int] = {}
        self.before: dict[int, int] = {}
        self.ids: dict[str, int] = {}
        self._norms: dict[int, bool] = {}
        self._connect()

    def _connect(self) -> None:
        self.uses = self.graph.uses()
        self.makers = self.graph.makers()

    def operators(self) -> tuple[list[Operator], list[int]]:
        """Returns the operators and the ids of the graph's outputs."""
        graph = self.graph
        self._assign_norms_and_activations()
        self._assign_biases()
        found = [self._input(value) for value in graph.inputs]
        glued = {*self.after.values(), *self.before.values()}
        found.extend(self._fused(index) for index in range(len(graph.nodes)) if index not in glued)
        for name in dict.fromkeys(graph.outputs):
            if name not in self.makers:  # an output that is a constant
                known = self._literal(name)
                words = ("w", *self._dims(name)) if known is None else ("const", *_pieces(known))
                found.append(Operator(tuple(map(str, words)), (), [], [self._id(name)]))
        return found, [self._id(name) for name in graph.outputs]

    def _id(self, name: str) -> int:
        return self.ids.setdefault(name, len(self.ids))

    def _dims(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a stored tensor, empty for anything else."""
        tensor = self.graph.tensors.get(name)
        return () if tensor is None else tensor.shape

    def _only_use(self, name: str) -> int:
        """Returns the index of the single node that reads a tensor, or -1."""
        users = self.uses.get(name, ())
        return users[0] if len(users) == 1 else -1

    # Which nodes belong together

    def _assign_norms_and_activations(self) -> None:
        """Fills `after` and `before` with batch norms and activations.

        A network whose activations come before its convolutions (one that no convolution could take as its successor) is
        written `relu-conv-bn` throughout, any other `conv-bn-relu`.
        """
        graph = self.graph
        self._share_out_activations()
        heavy = {i for i, n in enumerate(graph.nodes) if n.op in ("Conv", "ConvTranspose", "Gemm") and n.standard}
        norm_owner: dict[int, int] = {}
        for index in heavy:
            result = graph.nodes[index].outputs[0]
            user = self._only_use(result)
            if user >= 0 and self._is_norm(user) and graph.nodes[user].inputs[0] == result:
                self.after[index] = user
                norm_owner[user] = index
        activations = [i for i, n in enumerate(graph.nodes) if n.op in ACTIVATIONS and n.standard]
        post: dict[int, int] = {}
        pre: dict[int, int] = {}
        for index in activations:
            node = graph.nodes[index]
            if len(node.inputs) != 1:
                continue
            made = self._sole_source(index)
            if made in norm_owner or (made in heavy and made not in self.after):
                post[index] = made
            user = self._only_use(node.outputs[0])
            if user in heavy and self._can_follow(user, node.outputs[0]):
                pre[index] = user
        before_style = any(index not in post for index in pre)
        for index in activations:
            made = self._sole_source(index)
            free_norm = made >= 0 and self._is_norm(made) and made not in norm_owner
            if index in pre and (before_style or index not in post):
                self.before[pre[index]] = index
                if free_norm:
                    self.before[index] = made
            elif index in post:
                self.after[post[index]] = index
            elif made >= 0 and self._is_norm(made):
                self.after[made] = index

    def _share_out_activations(self) -> None:
        """Gives each convolution that reads an activation one of its own, in networks that have them before convolutions.

        Such a network has an activation that follows no convolution and that only convolutions read. If it has one that follows
        none and that a sum reads, it may as well be a residual network, whose blocks end in activations: then only activations
        with a single reader decide.
        """
        graph = self.graph
        shared: list[tuple[int, list[int]]] = []
        free = False
        alone = False
        summed = False
        for index, node in enumerate(graph.nodes):
            if node.op not in ACTIVATIONS or not node.standard or len(node.inputs) != 1:
                continue
            made = self._sole_source(index)
            source = graph.nodes[made].op if made >= 0 else ""
            users = self.uses.get(node.outputs[0], [])
            follows = source in ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")
            if users and min(users) >= 0 and all(self._can_follow(user, node.outputs[0]) for user in users):
                shared.append((index, users))
                free = free or not follows
                alone = alone or (not follows and len(users) == 1)
            summed = summed or (not follows and any(user >= 0 and graph.nodes[user].op in _SUMS for user in users))
        if not free or (summed and not alone):
            return
        copies: dict[int, list[Node]] = {}
        for index, users in shared:
            node = graph.nodes[index]
            for number, user in enumerate(users[1:], 1):
                copy = replace(node, inputs=list(node.inputs), outputs=[f"{node.outputs[0]} {number}"])
                copies.setdefault(index, []).append(copy)
                graph.nodes[user].inputs[0] = copy.outputs[0]
        nodes = []
        for index, node in enumerate(graph.nodes):
            nodes.extend([node, *copies.get(index, [])])
        graph.nodes = nodes
        self._connect()

    def _sole_source(self, index: int) -> int:
        """Returns the node that makes what an activation reads if nothing else reads it, else -1."""
        inputs = self.graph.nodes[index].inputs
        if not inputs or self._only_use(inputs[0]) != index:
            return -1
        return self.makers.get(inputs[0], -1)

    def _can_follow(self, index: int, name: str) -> bool:
        """Whether a convolution with a stored weight reads a tensor as its data."""
        node = self.graph.nodes[index]
        if node.op not in _CONVOLUTIONS or not node.standard or node.inputs[0] != name:
            return False
        return len(node.inputs) > 1 and node.inputs[1] in self.graph.tensors

    def _assign_biases(self) -> None:
        """Glues the addition of a bias vector to the MatMul by a weight before it."""
        graph = self.graph
        for index, node in enumerate(graph.nodes):
            if node.op != "MatMul" or len(node.inputs) != 2 or node.inputs[1] not in graph.tensors:
                continue
            result = node.outputs[0]
            user = self._only_use(result)
            if user < 0 or graph.nodes[user].op != "Add" or index in self.after:
                continue
            others = [name for name in graph.nodes[user].inputs if name != result]
            if len(others) == 1 and len(self._dims(others[0])) == 1:
                self.after[index] = user

    def _is_norm(self, index: int) -> bool:
        """Whether a node is a batch norm with stored statistics and one result of use."""
        known = self._norms.get(index)
        if known is None:
            known = self._norms[index] = self._check_norm(self.graph.nodes[index])
        return known

    def _check_norm(self, node: Node) -> bool:
        return (
            node.op == "BatchNormalization"
            and node.standard
            and len(node.inputs) == 5
            and all(name in self.graph.tensors for name in node.inputs[1:])
            and not any(name in self.uses for name in node.outputs[1:])
            and not node.get("training_mode", 0)
        )

    # How they are printed

    def _input(self, value: Value) -> Operator:
        """Returns an input of the graph as an operator: its element type unless float, and its shape."""
        parts = ["in"]
        if value.container:
            parts.append(value.container)
        elif value.dtype not in (FLOAT, 0):
            parts.append(type_name(value.dtype))
        if value.shape is not None:
            parts.extend("n" if size is None else str(size) for size in value.shape)
        else:
            parts.append("?")
        return Operator(tuple(parts), (), [], [self._id(value.name)], "input")

    def _glued(self, index: int, into: Mapping[int, int]) -> list[int]:
        """Returns the nodes that are glued to a node on one side, the nearest first."""
        found = []
        while index in into:
            index = into[index]
            found.append(index)
        return found

    def _fused(self, index: int) -> Operator:
        """Returns a node and all that is glued to it as one operator."""
        nodes = self.graph.nodes
        node = nodes[index]
        before = self._glued(index, self.before)
        after = self._glued(index, self.after)
        printed = self._printed(index)
        name, words = printed.name, printed.words
        for each in before:
            glued = self._printed(each)
            name = f"{glued.name}-{name}"
            words += ("pre", *glued.words) if glued.words else ()
        for each in after:
            if nodes[each].op == "Add":
                words += ("bias",)
                continue
            glued = self._printed(each)
            name = f"{name}-{glued.name}"
            words += glued.words
        outs = nodes[after[-1] if after else index].outputs
        args = list(printed.args)
        if before and args and args[0] == node.inputs[0]:
            args[0] = nodes[before[-1]].inputs[0]
        if "" in args:
            raise OnnxTextError(f"{node.op} {node.name!r} lacks an input")
        args = [self._argument(arg) if isinstance(arg, str) else arg for arg in args]
        kind = "" if before or after else self._kind(node, words, args)
        if len(outs) > 1:
            outs = [out if out in self.uses else "" for out in outs]
            while outs and not outs[-1]:
                outs.pop()
        return self._assembled(name, words, printed.nums, args, outs, kind)

    def _assembled(
        self,
        name: str,
        words: Iterable[str],
        nums: Iterable[tuple[Piece, bool]],
        args: Sequence[_Argument],
        outs: Iterable[str],
        kind: str,
    ) -> Operator:
        """Returns an operator from its word, numbers, further words and arguments, printed in this order."""
        numbers = list(nums)
        parts: list[Piece] = [name, *[NUMBER] * len(numbers), *words]
        tensors = [self._id(arg) for arg in args if isinstance(arg, str)]
        single = len(tensors) == 1 and isinstance(args[0], str)
        for arg in args:
            if isinstance(arg, str):
                parts.append(PREVIOUS if single else REFERENCE)
            elif arg is None:
                parts.append("none")
            else:
                for piece in arg:
                    if isinstance(piece, int):
                        numbers.append((piece, False))
                    parts.append(NUMBER if isinstance(piece, int) else piece)
        results = [self._id(out) if out else -1 for out in outs]
        return Operator(tuple(parts), tuple(numbers), tensors, results, kind)

    @staticmethod
    def _kind(node: Node, words: Sequence[str], args: Sequence[_Argument]) -> str:
        """Returns whether a node is a sum or another operator whose arguments may change places."""
        if any(not isinstance(arg, str) for arg in args):
            return ""
        if node.op in ("Add", "Sum") and len(args) > 1:
            return "sum"
        return "commutative" if node.op in _COMMUTATIVE and not words else ""

    def _printed(self, index: int) -> _Printed:
        """Returns a node by itself as printed."""
        node = self.graph.nodes[index]
        if node.graphs:
            return self._control_flow(node)
        if node.standard:
            special = self._printed_by_shape(index)
            if special is not None:
                return special
        name = ACTIVATIONS.get(node.op) or _SHORT.get(node.op) or node.op.lower()
        if not node.standard:
            name = f"{node.domain}.{node.op}".lower()
        args: list[_Argument] = [self._argument(name) or None for name in node.inputs]
        if node.standard and node.op in ("Resize", "Upsample"):
            args = [self._factors(name) or arg for name, arg in zip(node.inputs, args)]
        while args and args[-1] is None:
            args.pop()
        if node.op in _COMMUTATIVE or node.op == "Add":
            args.sort(key=lambda arg: not isinstance(arg, str))
        return _Printed(name, self._words(node, node.op), (), args)

    def _printed_by_shape(self, index: int) -> _Printed | None:
        """Returns the operators that are printed by the shapes of their weights, None for any other."""
        graph = self.graph
        node = graph.nodes[index]
        op, inputs = node.op, node.inputs
        if op in _CONVOLUTIONS:
            return self._conv(node)
        if op in ("Relu", "Relu6", "Silu"):
            return _Printed(ACTIVATIONS[op], args=inputs[:1])
        if op == "HardSilu":
            return _Printed("hsilu", self._words(node, "HardSigmoid"), (), inputs)
        if self._is_norm(index):
            return _Printed("bn", self._words(node, op), (), inputs[:1])
        if op in ("MaxPool", "AveragePool") and "kernel_shape" in node.attributes:
            return self._pool(node)
        if op == "Gemm" and len(inputs) > 1 and len(self._dims(inputs[1])) == 2:
            return self._gemm(node)
        if op == "MatMul" and len(inputs) == 2 and len(self._dims(inputs[1])) == 2:
            wide, out = self._dims(inputs[1])
            return _Printed("matmul", self._type_words(node), ((out, wide == out),), inputs[:1])
        if op in _NORMS and all(name in graph.tensors for name in inputs[1:]):
            bias = ("bias",) if len(inputs) > 2 and inputs[2] else ()
            return _Printed(_SHORT[op], self._words(node, op) + bias, (), inputs[:1])
        return None

    def _type_words(self, node: Node) -> tuple[str, ...]:
        """Returns the type of an operator's weight where it is not that of its data or float32, and that which its data is
        quantised to, behind a q."""
        dtype = self.graph.tensors[node.inputs[1]].dtype if node.inputs[1] in self.graph.tensors else FLOAT
        mark = node.get("quantised")
        plain = dtype in (FLOAT, self.sizes.types.get(node.inputs[0])) and not mark
        words = () if plain else (type_name(dtype),)
        return words + ((f"q{type_name(mark)}",) if mark else ())

    def _control_flow(self, node: Node) -> _Printed:
        """Prints If, Loop and Scan: the bodies follow the statement, indented; in them v0, v1, ... are its arguments."""
        states = node.inputs
        words: list[str] = []
        if node.op == "Loop":
            states = node.inputs[2:]
        if node.op in ("Loop", "Scan"):
            runs = trip_count(node, self.sizes)
            words.append("n" if runs is None else str(runs))
        args: list[_Argument] = [*states, *node.captured]
        if node.op == "Loop" and trip_count(node, self.sizes) is None:
            args.extend(name for name in node.inputs[:2] if name in self.makers)
        bodies = []
        for (_, graph), sizes in zip(node.graphs, self.sizes.inner.get(id(node), [])):
            formal = [value.name for value in graph.inputs]
            names = {"If": [node.inputs[0]], "Loop": formal[2:]}.get(node.op, formal) + node.captured
            lines = self.write_body(graph, sizes, [*names, *(formal[:2] if node.op == "Loop" else [])])
            bodies.append("".join(f"\n  {line}" for text in lines for line in text.split("\n")))
        return _Printed(node.op.lower(), tuple(words), (), [*args, ("\nelse".join(bodies),)])

    def _argument(self, name: str) -> str | tuple[Piece, ...]:
        """Returns a tensor's name, or what to print for a constant or a weight."""
        tensor = self.graph.tensors.get(name)
        if tensor is None or not name:
            return name
        values = self._literal(name)
        if values is not None:
            return _pieces(values)
        plain = tensor.dtype in (FLOAT, 0, INT64)
        return ("w", *(() if plain else (type_name(tensor.dtype),)), *tensor.shape)

    def _factors(self, name: str) -> tuple[Piece, ...] | None:
        """Returns the factors of a Resize as printed, None for anything but a few stored floating-point numbers."""
        tensor = self.graph.tensors.get(name)
        if tensor is None or tensor.dtype != FLOAT or tensor.values is None or not 1 < tensor.values.size <= 8:
            return None
        return ("by", *(number_word(float(value)) for value in tensor.values.ravel().tolist()))

    def _literal(self, name: str) -> tuple[Piece, ...] | None:
        """Returns the values of a small int64 or boolean tensor, or of a single number; None for anything else."""
        tensor = self.graph.tensors.get(name)
        if tensor is None or tensor.values is None:
            return None
        values = tensor.values.ravel().tolist()
        if tensor.dtype in (INT64, BOOL):
            return tuple(int(value) for value in values)
        return (number_word(float(values[0])),) if len(values) == 1 else None

    def _words(self, node: Node, op: str, skip: Sequence[str] = ()) -> tuple[str, ...]:
        """Returns the attributes that differ from their defaults, as words in the order of their names."""
        if not node.attributes:
            return ()
        domain = "" if node.domain == "ai.onnx" else node.domain
        defaults = _defaults(op, domain, self.graph.version(domain))
        found = []
        for name, value in node.attributes.items():
            if name in skip or name == "quantised":
                continue
            words = _attribute_words(value)
            if op == "Cast" and name == "to":
                words = (type_name(value),)
            if defaults.get(name) != words:
                found.append((name.replace("_", ""), words))
        return tuple(word for name, words in sorted(found) for word in (name, *words))

    def _conv(self, node: Node) -> _Printed:
        """Prints a convolution: kernel, output channels, window, groups, bias."""
        window, extra = _Window.of(node, skip=("group", "quantised"))
        group = node.get("group", 1)
        op, inputs = node.op, node.inputs
        if len(inputs) < 2:
            raise OnnxTextError(f"{op} {node.name!r} has {len(inputs)} inputs; it needs a tensor and a weight")
        dims = self._dims(inputs[1])
        kernel = window.kernel or dims[2:]
        words = window.words(kernel) + extra
        name = "conv" if op == "Conv" else "deconv"
        size = "x".join(map(str, kernel))
        if not dims:  # the weight is computed: both tensors are arguments
            words += (f"grp{group}",) if group != 1 else ()
            return _Printed(name + size, words, (), [each or None for each in inputs])
        if len(dims) < 3:
            raise OnnxTextError(
                f"weight {inputs[1]!r} of {op} {node.name!r} has shape {dims}; it needs at least 3 axes"
            )
        wide, out = (dims[1] * group, dims[0]) if op == "Conv" else (dims[0], dims[1] * group)
        if group > 1 and group == wide:
            name = "dw" + name
        elif group > 1:
            words += (f"grp{group}",)
        words += self._type_words(node)
        if len(inputs) > 2 and inputs[2]:
            words += ("bias",)
        return _Printed(name + size, words, ((out, wide == out),), inputs[:1])

    def _pool(self, node: Node) -> _Printed:
        """Prints a pooling operator: kernel, window, rounding."""
        window, _ = _Window.of(node)
        extra: list[str] = []
        for name, value in node.attributes.items():
            if name in _Window.NAMES:
                continue
            if name == "ceil_mode":
                extra.extend(["ceil"] if value else [])
            elif name == "count_include_pad":
                extra.extend(["padcount"] if value else [])
            else:
                extra.extend((name.replace("_", ""), *_attribute_words(value)))
        name = "maxpool" if node.op == "MaxPool" else "avgpool"
        words = window.words(window.kernel) + tuple(sorted(extra))
        return _Printed(name + "x".join(map(str, window.kernel)), words, (), node.inputs)

    def _gemm(self, node: Node) -> _Printed:
        """Prints a fully connected layer: output width and bias."""
        inputs = node.inputs
        rows, columns = self._dims(inputs[1])
        wide, out = (columns, rows) if node.get("transB", 0) else (rows, columns)
        words = self._words(node, "Gemm", skip=("transB",)) + self._type_words(node)
        args = inputs[:1]
        if len(inputs) > 2 and inputs[2]:
            if inputs[2] in self.graph.tensors:
                words += ("bias",)
            else:
                args = [inputs[0], inputs[2]]
        return _Printed("fc", words, ((out, wide == out),), args)


_WINDOW_CACHE: dict[tuple[_Window, tuple[int, ...]], tuple[str, ...]] = {}


@dataclass(frozen=True, slots=True)
class _Window:
    """The window of a convolution or pooling; one number a spatial axis, empty where the file has none.

    Attributes:
        kernel: Sizes of the window.
        strides: Steps.
        dilations: Distances between the elements of the window.
        pads: All beginnings, then all ends.
        auto_pad: As ONNX names it.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str

    NAMES = ("kernel_shape", "strides", "dilations", "pads", "auto_pad")

    @classmethod
    def of(cls, node: Node, skip: Sequence[str] = ()) -> tuple[_Window, tuple[str, ...]]:
        """Returns the window of a node, and its other attributes but for those in `skip` as words."""
        kernel, strides, dilations, pads = (tuple(node.get(name) or ()) for name in _Window.NAMES[:4])
        window = cls(kernel, strides, dilations, pads, str(node.get("auto_pad", "NOTSET")))
        extra: list[str] = []
        for name in sorted(set(node.attributes) - {*_Window.NAMES, *skip}):
            extra.extend((name.replace("_", ""), *_attribute_words(node.attributes[name])))
        return window, tuple(extra)

    def words(self, kernel: tuple[int, ...]) -> tuple[str, ...]:
        """Returns the words that differ from stride 1, dilation 1 and centred padding, for a kernel of a size."""
        words = _WINDOW_CACHE.get((self, kernel))
        if words is None:
            words = tuple(filter(None, self._written(kernel)))
            if len(_WINDOW_CACHE) < _MAX_CACHE:
                _WINDOW_CACHE[self, kernel] = words
        return words

    def _written(self, kernel: tuple[int, ...]) -> Iterator[str]:
        yield _sizes(self.strides, "s", 1)
        yield _sizes(self.dilations, "d", 1)
        if self.auto_pad == "SAME_UPPER":
            yield "same"
        elif self.auto_pad == "SAME_LOWER":
            yield "samelow"
        else:
            pads = self.pads if self.pads and self.auto_pad != "VALID" else (0,) * (2 * len(kernel))
            steps = self.dilations or (1,) * len(kernel)
            centred = tuple(step * (size - 1) // 2 for size, step in zip(kernel, steps)) * 2
            if pads != centred:
                yield _sizes(pads, "p", -1)


def _sizes(values: Sequence[int], letter: str, default: int) -> str:
    """Returns `s2` for equal values, `s1x2` for others, nothing for the default."""
    if all(value == default for value in values):
        return ""
    if all(value == values[0] for value in values):
        return f"{letter}{values[0]}"
    return letter + "x".join(map(str, values))


def _flatten_sums(operators: list[Operator], outputs: Sequence[int]) -> list[Operator]:
    """Merges a sum that only feeds another sum into it."""
    maker: dict[int, Operator] = {}
    uses: dict[int, int] = {}
    for operator in operators:
        for out in operator.outs:
            maker[out] = operator
        for arg in operator.args:
            uses[arg] = uses.get(arg, 0) + 1
    for out in outputs:
        uses[out] = uses.get(out, 0) + 1
    gone: set[int] = set()
    for operator in operators:
        if operator.kind != "sum" or not any(maker[arg].kind == "sum" for arg in operator.args):
            continue
        stack = list(reversed(operator.args))
        flat = []
        steps = 0
        while stack:
            arg = stack.pop()
            made = maker[arg]
            steps += 1
            if steps > 4 * len(operators) + 16:
                raise OnnxTextError("the graph has a cycle through an addition")
            if made.kind == "sum" and uses[arg] == 1 and made is not operator:
                stack.extend(reversed(made.args))
                gone.add(id(made))
            else:
                flat.append(arg)
        operator.args = flat
    return [operator for operator in operators if id(operator) not in gone]


# ---------------------------------------------------------------------------------------------------------------------
# Canonical order


def _digest(*pieces: bytes) -> bytes:
    return blake2b(b"|".join(pieces), digest_size=10).digest()


def canonical_order(operators: Sequence[Operator], outputs: Sequence[int]) -> list[int]:
    """Orders operators by the graph alone: depth first from the outputs, operands of sums and products by what they are.

    Args:
        operators: As `fuse` gives them.
        outputs: Ids of the graph's outputs.

    Returns:
        Indices of the operators that an input or output needs, each once, arguments before their readers. Between operators
        that look alike from everywhere the order in the file decides only where telling them apart would take more than
        400,000 visits.

    Raises:
        OnnxTextError: The graph has a cycle.
    """
    return _CanonicalOrder(operators, outputs).run()


class _CanonicalOrder:
    """One ordering of operators.

    Attributes:
        operators: The operators.
        maker: Index and slot of the operator that makes a value, by its id.
        readers: Of each operator those that read it, once for every argument.
        topological: Some order in which arguments stand before their readers.
        height: Longest way from each operator to an input.
        before: How many operators lie before each.
        final: Indices of the operators that make an output.
        start: First label of each operator: what it is, without its surroundings.
        labels: Label of each operator by all that lies before and after it.
        result: The order as far as it is known.
    """

    def __init__(self, operators: Sequence[Operator], outputs: Sequence[int]) -> None:
        self.operators = operators
        self.outputs = outputs
        self.maker = {
            out: (index, slot) for index, operator in enumerate(operators) for slot, out in enumerate(operator.outs)
        }
        self.sources = [[self.maker[arg][0] for arg in operator.args] for operator in operators]
        self.readers = self._find_readers()
        self.topological = self._sort_topologically()
        self.height, self.before = self._measure()
        self.final = {self.maker[out][0] for out in outputs}
        self.names = [str(operator.parts[0]) for operator in operators]
        self.start = self._start_labels()
        self.labels = self._spread(self.start)
        self.result: list[int] = []
        self._placed = [False] * len(operators)
        self._near: dict[tuple[int, int], bytes] = {}
        self._effort = 0

    def run(self) -> list[int]:
        """Places all operators."""
        for index, operator in enumerate(self.operators):
            if operator.kind == "input":
                self._place(index)
        for out in self.outputs:
            self._place(self.maker[out][0])
        return self.result

    def _place(self, root: int) -> None:
        """Places an operator behind its arguments, depth first."""
        path = [root]
        while path:
            index = path[-1]
            if self._placed[index]:
                path.pop()
                continue
            children = [source for source in self.sources[index] if not self._placed[source]]
            if not children:
                path.pop()
                self._placed[index] = True
                self.result.append(index)
                continue
            if len(children) > 1:  # what needs a whole block more comes first, so that blocks stay in one piece
                most = max([self.before[child] for child in children])
                children = [child for child in children if self.before[child] > most - _BLOCK_SIZE]
            chooses = len(children) > 1 and self.operators[index].reorders
            path.append(self._first(children) if chooses else children[0])

    def _first(self, candidates: Sequence[int]) -> int:
        """Returns the candidate to place first: the lowest, then by name, then by ever wider surroundings.

        Near surroundings come before labels of the whole graph so that equal blocks get equal orders.
        """
        lowest = min((self.height[each], self.names[each]) for each in candidates)
        left = [each for each in set(candidates) if (self.height[each], self.names[each]) == lowest]
        for radius in range(_RADIUS):
            if len(left) == 1:
                return left[0]
            views = [self._surroundings(each, radius) for each in left]
            nearest = min(views)
            left = [each for each, view in zip(left, views, strict=True) if view == nearest]
        smallest = min(self.labels[each] for each in left)
        left = [each for each in left if self.labels[each] == smallest]
        return left[0] if len(left) == 1 else self._settle(left)

    def _settle(self, candidates: list[int]) -> int:
        """Chooses among operators with equal labels: any if they are copies, else by what the choice does to the labels."""
        if self._are_copies(candidates):
            return candidates[0]
        self._effort += len(self.operators) * (len(candidates) + 1)
        if self._effort > _MAX_EFFORT:
            return candidates[0]
        marks = list(self.start)
        for position, placed in enumerate(self.result):
            marks[placed] += b"@%d" % position
        labels = self._spread(self._spread(marks))
        smallest = min(labels[each] for each in candidates)
        candidates = [each for each in candidates if labels[each] == smallest]
        if len(candidates) == 1:
            return candidates[0]
        views = []
        for each in candidates:
            chosen = list(marks)
            chosen[each] += b"!"
            views.append(sorted(self._spread(self._spread(chosen))))
        return candidates[views.index(min(views))]

    def _are_copies(self, candidates: Sequence[int]) -> bool:
        """Whether operators could change places: equal in all that only they need, read by the same sums and products."""
        readers = self.readers[candidates[0]]
        if not all(self.operators[reader].reorders for reader in readers):
            return False
        if any(each in self.final or self.readers[each] != readers for each in candidates):
            return False
        return len({self._branch(each) for each in candidates}) == 1

    def _branch(self, index: int, depth: int = 0) -> str:
        """Returns an operator with all that only it reads; what others read too stands for itself."""
        operator = self.operators[index]
        shared = len(self.readers[index]) != 1 or operator.kind == "input" or index in self.final
        if depth and (shared or depth > _MAX_BRANCH):
            return f"#{index}"
        args = []
        for arg in operator.args:
            made, slot = self.maker[arg]
            args.append(f"{self._branch(made, depth + 1)}.{slot}")
        if operator.reorders:
            args.sort()
        return f"{self.start[index]!r}({','.join(args)})"

    def _surroundings(self, index: int, radius: int) -> bytes:
        """Returns what is around an operator within some steps, blind to channel counts and to anything farther away."""
        known = self._near.get((index, radius))
        if known is None:
            operator = self.operators[index]
            if radius:
                before = [self._surroundings(source, radius - 1) for source in self.sources[index]]
                if operator.reorders:
                    before.sort()
                behind = sorted([self._surroundings(reader, radius - 1) for reader in self.readers[index]])
                known = _digest(self._surroundings(index, radius - 1), *before, b"", *behind)
            else:
                known = repr((operator.parts, [same for _, same in operator.nums])).encode()
            self._near[index, radius] = known
        return known

    def _find_readers(self) -> list[list[int]]:
        readers: list[list[int]] = [[] for _ in self.operators]
        for index, sources in enumerate(self.sources):
            for source in sources:
                readers[source].append(index)
        return readers

    def _sort_topologically(self) -> list[int]:
        waiting = [len(sources) for sources in self.sources]
        ready = [index for index, count in enumerate(waiting) if not count]
        for index in ready:
            for reader in self.readers[index]:
                waiting[reader] -= 1
                if not waiting[reader]:
                    ready.append(reader)
        if len(ready) < len(waiting):
            stuck = next(index for index, count in enumerate(waiting) if count)
            raise OnnxTextError(
                f"the graph has a cycle: {len(waiting) - len(ready)} nodes wait for each other, "
                f"one of them {self.operators[stuck].parts[0]!r}"
            )
        return ready

    def _measure(self) -> tuple[list[int], list[int]]:
        """Returns the height of each operator and how many lie before it."""
        count = len(self.operators)
        height = [0] * count
        before = [0] * count
        above = [0] * count  # which operators lie before each or are it, one bit an operator
        for position, index in enumerate(self.topological):
            sources = self.sources[index]
            bits = 0
            for source in sources:
                bits |= above[source]
            if sources:
                height[index] = 1 + max([height[source] for source in sources])
                before[index] = bits.bit_count()
            above[index] = bits | 1 << position
        return height, before

    def _start_labels(self) -> list[bytes]:
        texts: dict[tuple[Any, ...], bytes] = {}
        start = []
        for index, operator in enumerate(self.operators):
            number = index if operator.kind == "input" else -1
            key = (operator.parts, operator.nums, number, len(operator.outs))
            label = texts.get(key)
            if label is None:
                label = texts[key] = repr(key).encode()
            start.append(label)
        return start

    def _spread(self, start: Sequence[bytes]) -> list[bytes]:
        """Returns labels that depend on what lies before and after each operator, not on names or on the order in the file.

        Args:
            start: A first label for each operator.

        Returns:
            Labels, equal for operators that look the same from the graph's inputs and from its outputs.
        """
        operators = self.operators
        forward = [b""] * len(operators)
        for index in self.topological:
            operator = operators[index]
            args = []
            for arg in operator.args:
                made, slot = self.maker[arg]
                args.append(forward[made] if not slot else forward[made] + b"%d" % slot)
            if operator.reorders:
                args.sort()
            forward[index] = _digest(start[index], *args)
        around: list[list[bytes]] = [[] for _ in operators]
        for position, out in enumerate(self.outputs):
            made, slot = self.maker[out]
            around[made].append(b"out%d.%d" % (position, slot))
        labels = forward
        for index in reversed(self.topological):
            operator = operators[index]
            label = labels[index] = _digest(forward[index], *sorted(around[index]))
            for position, arg in enumerate(operator.args):
                made, slot = self.maker[arg]
                around[made].append(label + b"%d.%d" % (0 if operator.reorders else position, slot))
        return labels


__all__ = [
    "ACTIVATIONS",
    "NUMBER",
    "PREVIOUS",
    "REFERENCE",
    "Operator",
    "Piece",
    "canonical_graph",
    "canonical_graph_cost",
    "canonical_order",
    "fuse",
    "graph_cost",
]
