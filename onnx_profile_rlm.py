"""What an ONNX graph costs, by kind of operator: the first lines of its text.

    total x61 total m12346 total o1235 total w433
    conv x1 conv m442 conv o16 conv w1
    conv1x1 x33 conv1x1 m9001 conv1x1 o802 conv1x1 w401

``x`` operators, ``m`` thousand multiply-adds, ``o`` thousand elements written, ``w`` thousand elements of weights and other
constants, single numbers left out; rounded, at least 1, and not there where there are none. A linear function of these
numbers ranks the latencies of FBNet's networks nearly as well as one of which operator stands where. The statements of a
graph do not say how often and on what sizes they run: a block is written once, and its name means something else in every
graph.

    =============  ==========================================================================================
    ``conv``       convolutions with a kernel larger than 1
    ``conv1x1``    convolutions with a kernel of 1
    ``dw``         depthwise convolutions: one input channel a group
    ``group``      other convolutions in groups
    ``matmul``     Gemm and MatMul
    ``add``        arithmetic of two or more tensors
    ``pool``       pooling and reductions
    ``move``       operators that only copy: Transpose, Concat, Slice, Gather, Pad, ...
    ``other``      the rest
    ``total``      all of these
    =============  ==========================================================================================

Not counted: batch norm, activations, Identity and casts, which runtimes fuse, and changes of shape, which cost nothing. Nodes
that no output needs are counted. A free first dimension of an input is 1; an operator whose sizes cannot be inferred
adds to ``x`` alone. Quantised and fused operators, Einsum, recurrent ones and those of other domains are ``other``, without
multiply-adds.

Every pair of word and letter stands directly before its number, so that a model that looks at the two tokens before a number
(`lexical_rlm.py`) knows what it is.
"""

import math
import re
from dataclasses import astuple, dataclass

try:
    import onnx
except ImportError:  # the text needs onnx only when a graph is read
    onnx = None

_EXTERNAL = 1  # TensorProto.EXTERNAL
_LITERALS = (1, 6, 7)  # TensorProto: float32, int32 and int64, of which shapes are computed
_MAX_LITERAL = 64
_WINDOWS = re.compile("Conv|Pool|Pad|Col2Im|Resize|Upsample")
_DEFAULT_DOMAINS = ("", "ai.onnx")
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_PRODUCTS = {"Gemm", "MatMul"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Mean", "Pow", "Mod", "Where"}
_MOVES = {
    "Concat", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Resize", "ScatterElements",
    "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Upsample",
}  # fmt: skip
_FREE = {
    "BatchNormalization", "Cast", "Celu", "Clip", "Constant", "ConstantOfShape", "Dropout", "Elu", "Flatten", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Mish", "PRelu", "Relu", "Reshape", "Selu", "Shape", "Sigmoid",
    "Size", "Softplus", "Squeeze", "Swish", "Tanh", "Unsqueeze",
}  # fmt: skip
KINDS = ("conv", "conv1x1", "dw", "group", "matmul", "add", "pool", "move", "other")


@dataclass
class Cost:
    """Operators, multiply-adds, elements written and elements of weights, all exact."""

    operators: int = 0
    macs: int = 0
    written: int = 0
    weights: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other))))


def infer_shapes(model):
    """Shapes of all values of a graph.

    Args:
        model (onnx.ModelProto): any graph; weights are not read. A free first dimension of an input counts as 1.

    Returns:
        dict[str, tuple[int | None, ...]]: unknown sizes are None; values of unknown rank are missing. Of a graph that
        contradicts itself only the shapes of its weights.
    """
    graph = model.graph
    stored = [(t.name, t.data_type, t.dims) for t in graph.initializer]
    stored += [(s.values.name, s.values.data_type, s.dims) for s in graph.sparse_initializer]
    shapes = {name: tuple(dims) for name, _, dims in stored}
    try:
        shapes.update(_inferred(_light(model, stored), _sorted(graph.node)))
    except (onnx.shape_inference.InferenceError, RuntimeError, TypeError, ValueError):
        # What onnx raises where sizes contradict each other, a version is not known or a name is no text.
        pass
    return shapes


def _light(model, stored):
    """The graph's frame without its nodes: weights have no place in it, only their types and shapes."""
    graph = model.graph
    light = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    light.graph.name = "graph"
    known = {entry.domain for entry in model.opset_import}
    for domain in {node.domain for node in graph.node} - known - set(_DEFAULT_DOMAINS):
        light.opset_import.add(domain=domain, version=1)  # or nothing of the whole graph would be inferred
    literals = {t.name for t in graph.initializer if _is_literal(t)}
    light.graph.initializer.extend(t for t in graph.initializer if t.name in literals)
    for name, data_type, dims in stored:
        if name not in literals:
            light.graph.input.append(onnx.helper.make_tensor_value_info(name, data_type, dims))
    names = {name for name, *_ in stored}
    light.graph.input.extend(_fixed(value) for value in graph.input if value.name not in names)
    light.graph.output.extend(_fixed(value, batch=None) for value in graph.output)
    # What operators of unknown domains make is known from the file alone.
    custom = {name for node in graph.node if node.domain not in _DEFAULT_DOMAINS for name in node.output}
    light.graph.value_info.extend(_fixed(value) for value in graph.value_info if value.name in custom)
    return light


def _is_literal(tensor):
    """Whether shapes may be computed from a tensor's values: a few numbers inside the file."""
    inside = tensor.data_location != _EXTERNAL
    return inside and tensor.data_type in _LITERALS and math.prod(tensor.dims) <= _MAX_LITERAL


def _fixed(value, batch=1):
    """A copy in which negative sizes, which some writers mean as free, are free, and a free first one is `batch` if given."""
    copy = onnx.ValueInfoProto.FromString(value.SerializeToString())
    dims = copy.type.tensor_type.shape.dim
    for dim in dims:
        if dim.dim_value < 0:
            dim.ClearField("dim_value")
    if batch and dims and dims[0].WhichOneof("value") != "dim_value":
        dims[0].dim_value = batch
    return copy


def _inferred(light, nodes):
    """Shapes by the library's inference.

    It aborts the process at a Slice of a negative size, which it makes itself where a window is larger than what it slides
    over. So a Slice takes part only where no size that it could meet is negative.
    """
    large = {}  # weights that stand in nodes
    for node in nodes:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].t.dims:
            tensor = node.attribute[0].t
            if not _is_literal(tensor):
                large[node.output[0]] = onnx.helper.make_tensor_value_info(
                    node.output[0], tensor.data_type, tensor.dims
                )
    light.graph.input.extend(large.values())
    nodes = [node for node in nodes if node.output[0] not in large]
    waiting = {index for index, node in enumerate(nodes) if node.op_type == "Slice"}
    while True:
        tried = onnx.ModelProto()
        tried.CopyFrom(light)
        tried.graph.node.extend(node for index, node in enumerate(nodes) if index not in waiting)
        shapes = _shapes_of(onnx.shape_inference.infer_shapes(tried, data_prop=True))
        unknown = [node for node in nodes if not _is_plain(shapes.get(node.output[0]))]
        if not any(_WINDOWS.search(node.op_type) for node in unknown) and all(map(_is_plain, shapes.values())):
            ready = waiting  # nothing is left that could make a negative size
        else:
            ready = {index for index in waiting if _is_plain(shapes.get(next(iter(nodes[index].input), "")))}
        if not ready:
            return {name: tuple(None if n is not None and n < 0 else n for n in s) for name, s in shapes.items()}
        waiting = waiting - ready


def _shapes_of(model):
    """Shapes that a model says of its values, free sizes as None, negative ones as they stand."""
    shapes = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            shapes[value.name] = tuple(d.dim_value if d.WhichOneof("value") == "dim_value" else None for d in dims)
    return shapes


def _is_plain(shape):
    """Whether a shape is known and no size of it negative."""
    return shape is not None and all(size is None or size >= 0 for size in shape)


def _sorted(nodes):
    """Nodes in an order in which each stands behind what it reads, as files should have them; those of a cycle are left out."""
    made = {name for node in nodes for name in node.output}
    waiting = [{name for name in node.input if name and name in made} for node in nodes]
    readers = {}
    for index, names in enumerate(waiting):
        for name in names:
            readers.setdefault(name, []).append(index)
    ready = [index for index, names in enumerate(waiting) if not names]
    for index in ready:
        for name in nodes[index].output:
            for reader in readers.get(name, ()):
                waiting[reader].discard(name)
                if not waiting[reader]:
                    ready.append(reader)
    return [nodes[index] for index in ready]


def profile(model):
    """What a graph costs by kind of operator.

    Args:
        model (onnx.ModelProto): any graph without local functions; weights are not read.

    Returns:
        dict[str, Cost]: the kinds that occur, in the order of `KINDS`.
    """
    shapes = infer_shapes(model)
    constants = _constants(model.graph)
    found = {}
    for node in model.graph.node:
        shape = [shapes.get(name) for name in node.input]
        kind = _kind(node, shape)
        if kind:
            result = [shapes.get(name) for name in node.output if name]
            cost = found.setdefault(kind, Cost())
            cost.operators += 1
            cost.macs += _macs(node, shape, result)
            cost.written += sum(map(_elements, result))
            cost.weights += sum(_elements(s) for name, s in zip(node.input, shape) if s and name in constants)
    return {kind: found[kind] for kind in KINDS if kind in found}


def _constants(graph):
    """Names of the tensors that are part of the model, also where they are cast first."""
    names = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    for node in _sorted(graph.node):
        if node.op_type == "Constant" or (node.op_type in ("Identity", "Cast") and names.intersection(node.input)):
            names.update(node.output)
    return names


def profile_lines(model):
    """The lines of a graph's text that say what it costs; none for a graph of free operators.

    Args:
        model (onnx.ModelProto): any graph without local functions.

    Returns:
        list[str]: a line for the total and one for each kind.
    """
    costs = profile(model)
    lines = {"total": sum(costs.values(), Cost()), **costs} if costs else {}
    return [
        " ".join(f"{kind} {letter}{number}" for letter, number in zip("xmow", _printed(cost)) if number)
        for kind, cost in lines.items()
    ]


def _printed(cost):
    operators, *others = astuple(cost)
    return operators, *(max(round(n / 1000), 1) if n else 0 for n in others)


def _kind(node, shapes):
    """The kind of a node, None for those that are not counted."""
    op = node.op_type
    if node.domain not in _DEFAULT_DOMAINS:
        return "other"
    if op in _CONVOLUTIONS:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        weight = shapes[1] if len(shapes) > 1 else None
        if groups > 1:
            # The weight of a Conv has the input channels of a group second, that of a ConvTranspose all of them first.
            alone = weight and len(weight) > 1 and (weight[1] == 1 if op == "Conv" else weight[0] == groups)
            return "dw" if alone else "group"
        return "conv1x1" if weight and all(size == 1 for size in weight[2:]) else "conv"
    if op in _PRODUCTS:
        return "matmul"
    if op in _ARITHMETIC:
        return "add"
    if "Pool" in op or op.startswith("Reduce"):
        return "pool"
    if op in _MOVES:
        return "move"
    return None if op in _FREE else "other"


def _elements(shape):
    """Elements of a shape, 0 for one that is not known."""
    return 0 if shape is None or not all(size is not None and size >= 0 for size in shape) else math.prod(shape)


def _macs(node, shapes, results):
    """Multiply-adds of a node, 0 where its sizes are not known."""
    op = node.op_type
    if op not in _CONVOLUTIONS | _PRODUCTS or len(shapes) < 2 or not shapes[1] or not results:
        return 0
    if op == "Conv":
        return _elements(results[0]) * _elements(shapes[1][1:])
    if op == "ConvTranspose":
        return _elements(shapes[0]) * _elements(shapes[1][1:])
    transposed = {a.name for a in node.attribute if a.name in ("transA", "transB") and a.i}
    inner = [shapes[0][0 if "transA" in transposed else -1]] if shapes[0] else []
    inner.append(shapes[1][-1 if "transB" in transposed or len(shapes[1]) == 1 else -2])
    return _elements(results[0]) * next((size for size in inner if size is not None), 0)


__all__ = ["KINDS", "Cost", "infer_shapes", "profile", "profile_lines"]
