"""ONNX graph in: loads a model, checks it, infers sizes and counts what it costs.

    graph = read_graph("resnet18.onnx")     # nodes, tensors by shape, names checked; local functions are inlined
    cost = graph_cost("resnet18.onnx")      # multiply-adds and parameters, exactly

Values of weights are never read, only their shapes and types. Read are tensors of at most 64 elements inside the file (Reshape
targets, axes, pads, bounds, exponents). External data files are not opened.

Nothing here calls ONNX's checker, inliner or shape inference, which can end the process or take gigabytes for a file of a
hundred bytes: `Sizes` infers shapes and small values with Python integers, and what it does not know is unknown.

The first lines of a text state what a graph costs, by class of operator (`cost_lines`):

    total x61 total m12346 total o1235 total w433
    conv x1 conv m442 conv o16 conv w1
    conv1x1 x33 conv1x1 m9001 conv1x1 o802 conv1x1 w401

``x`` operators, ``m`` thousand multiply-adds, ``o`` thousand elements written, ``w`` thousand elements of weights and other
constants, single numbers left out; rounded, at least 1, and not there where there are none. A linear function of these
numbers ranks the latencies of FBNet's networks nearly as well as one of which operator stands where. The statements of a
graph do not state how often and on what sizes they run: a block is written once, and its name means something else in every
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

Not counted: batch norm, activations and casts, which runtimes fuse, and changes of shape, which cost nothing. A free first
dimension of an input is 1; an operator whose sizes cannot be inferred adds to ``x`` alone. Operators of other domains are
``other``, without multiply-adds. Every pair of word and letter stands directly before its number, so that a model that looks at
the two tokens before a number (`ensemble_rlm.py`) knows what it is.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any, Union

import numpy as np

from .errors_rlm import RLMError

if TYPE_CHECKING:
    import onnx
    from onnx import numpy_helper
else:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:  # onnx is needed only when a graph is read
        onnx = None

# Element types, as in TensorProto.
FLOAT, UINT8, INT8, INT64, STRING, BOOL = 1, 2, 3, 7, 8, 9
FLOATING = (1, 10, 11, 16)  # float32, float16, double, bfloat16
MAX_LITERAL = 64  # elements of a tensor whose values are read
_MAX_NODES = 500_000  # with those of local functions, which can call each other
_MAX_DEPTH = 64  # of local functions and subgraphs
_EXTERNAL = 1  # TensorProto.EXTERNAL
_DEFAULT_DOMAINS = ("", "ai.onnx")

# Sizes of a tensor, None for an unknown one; a tensor of unknown rank has no shape.
Shape = tuple[int | None, ...]
Model = Union["onnx.ModelProto", str, "os.PathLike[str]", bytes, bytearray, memoryview]


class OnnxTextError(RLMError):
    """The model cannot be read or written as text; the message names the cause and the remedy."""


# ---------------------------------------------------------------------------------------------------------------------
# What a graph is


@dataclass(slots=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        dtype: Element type, as in `TensorProto`.
        shape: Sizes.
        values: Its elements as an object array if they are few and inside the file, else None.
    """

    dtype: int
    shape: tuple[int, ...]
    values: np.ndarray | None = None

    @property
    def number(self) -> Any:
        """The value of a tensor of one known element, else None."""
        if self.values is None or self.values.size != 1:
            return None
        return self.values.ravel().tolist()[0]


@dataclass(slots=True)
class Value:
    """An input of a graph: its name, element type (0: unknown), shape (None: unknown) and, unless a tensor, what it is."""

    name: str
    dtype: int
    shape: Shape | None
    container: str = ""


@dataclass(slots=True)
class Node:
    """A node of a graph.

    Attributes:
        op: Type of the operator.
        domain: Domain of the operator, "" for ONNX's own.
        inputs: Names of the tensors that it reads, "" for one that is left out.
        outputs: Names of the tensors that it makes, "" for one that is left out.
        attributes: Values by name: int, float, str, a tuple of these, `Tensor`, `Graph`, or bytes for anything else.
        name: The node's own name, for messages.
        captured: Names that its subgraphs read of the graph around them.
    """

    op: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    captured: list[str] = field(default_factory=list)

    @property
    def standard(self) -> bool:
        """Whether the operator is one of ONNX's own."""
        return self.domain in _DEFAULT_DOMAINS

    @property
    def reads(self) -> list[str]:
        """Names of all that it reads."""
        return [name for name in (*self.inputs, *self.captured) if name]

    @property
    def graphs(self) -> list[tuple[str, Graph]]:
        """Its subgraphs with the names of their attributes, in the order of the names from the last to the first."""
        found = [(name, value) for name, value in self.attributes.items() if isinstance(value, Graph)]
        return sorted(found, key=lambda pair: pair[0], reverse=True)  # then_branch before else_branch

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute."""
        return self.attributes.get(name, default)


@dataclass
class Graph:
    """A checked graph: every tensor that is read is made once, by a node, an input, a tensor of the file or, in a subgraph,
    around it.

    Attributes:
        nodes: Nodes, each behind what it reads.
        inputs: Inputs of the graph, without those that are weights.
        outputs: Names of the outputs.
        tensors: Tensors of the file by name.
        declared: Shapes that the file states of what operators of unknown domains make.
        versions: Version of each operator set by domain.
        captured: Of a subgraph, names that it reads of the graph around it.
        dead: In canonical form, nodes that no output depends on: they are run and cost something, but are not written.
    """

    nodes: list[Node]
    inputs: list[Value]
    outputs: list[str]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    declared: dict[str, Shape] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    captured: list[str] = field(default_factory=list)
    dead: list[Node] = field(default_factory=list)

    def version(self, domain: str) -> int:
        """Returns the version of a domain's operator set, 1 where the model does not state it."""
        if domain in _DEFAULT_DOMAINS:
            return self.versions.get("", self.versions.get("ai.onnx", 1))
        return self.versions.get(domain, 1)

    def uses(self) -> dict[str, list[int]]:
        """Returns the indices of the nodes that read a tensor, by its name; -1 for an output of the graph."""
        uses: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.reads:
                uses.setdefault(name, []).append(index)
        for name in self.outputs:
            uses.setdefault(name, []).append(-1)
        return uses

    def makers(self) -> dict[str, int]:
        """Returns the index of the node that makes a tensor, by its name; -1 for inputs."""
        makers = {value.name: -1 for value in self.inputs}
        for index, node in enumerate(self.nodes):
            for name in filter(None, node.outputs):
                makers[name] = index
        return makers

    def needed(self) -> list[Node]:
        """Returns the nodes that an output depends on."""
        wanted = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.outputs):
                wanted.update(node.reads)
                kept.append(node)
        return kept[::-1]


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def read_graph(model: Model) -> Graph:
    """Reads the graph of a model: names checked, local functions inlined, nodes sorted, constants among the tensors.

    Args:
        model: A model, the path of a file (its external data is not opened), or a file's bytes.

    Raises:
        OnnxTextError: No ONNX model, a tensor that nothing makes or that is made twice, a cycle, a damaged name, external data
            outside the model's folder, or the onnx package is not installed.
    """
    with naming_errors(model):
        if onnx is None:
            raise OnnxTextError("reading ONNX graphs needs the onnx package: pip install onnx")
        loaded = _parsed(model)
        if not loaded.graph.output:
            raise OnnxTextError("the model has no graph outputs; is it an ONNX model, and did all of it arrive?")
        return _Reader(loaded).read(loaded.graph, frozenset(), "", 0)


@contextlib.contextmanager
def naming_errors(model: Model) -> Iterator[None]:
    """Turns errors on the way from a model to its text into `OnnxTextError`s that name the file.

    Attributes and sizes of a damaged file can be anything, so operations on them can fail in any way.
    """
    path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else ""
    try:
        yield
    except OnnxTextError as error:
        if path and path not in str(error):
            raise OnnxTextError(f"{path}: {error}") from error
        raise
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError) as error:
        where = f"{path}: " if path else ""
        message = f"{where}the graph contradicts itself ({type(error).__name__}: {error}); export it again"
        raise OnnxTextError(message) from error


def _parsed(model: Model) -> onnx.ModelProto:
    """Returns a model from a model, a path or bytes."""
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, (bytes, bytearray, memoryview)):
        try:
            return onnx.load_model_from_string(bytes(model))
        except Exception as error:
            raise OnnxTextError(f"these {len(model)} bytes are no ONNX model: {error}") from error
    if isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        if not os.path.isfile(path):
            raise OnnxTextError(f"no such file: {path!r}; give the path of a .onnx file, its bytes or a ModelProto")
        try:
            return onnx.load(path, load_external_data=False)
        except Exception as error:
            raise OnnxTextError(f"{path!r} is no ONNX model: {error}") from error
    raise OnnxTextError(f"model must be an onnx.ModelProto, a path or bytes, not {type(model).__name__}")


class _Reader:
    """Reads the graphs of one model.

    Attributes:
        versions: Version of each operator set by domain.
        functions: Local functions by domain and name.
        locations: External-data locations that were checked.
        count: How many nodes were read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        self.functions = {(function.domain, function.name): function for function in model.functions}
        self.locations: set[str] = set()
        self.count = 0

    def read(self, proto: onnx.GraphProto, outer: frozenset[str], prefix: str, depth: int) -> Graph:
        """Reads a graph.

        Args:
            proto: The graph or subgraph.
            outer: Names that a subgraph may read of the graphs around it.
            prefix: What the names of the graph begin with: that of the call, inside a local function.
            depth: How many graphs and functions this one stands in.
        """
        if depth > _MAX_DEPTH:
            raise OnnxTextError(f"subgraphs and local functions stand in each other more than {_MAX_DEPTH} deep")
        graph = Graph([], [], [prefix + _text(value.name) for value in proto.output], versions=self.versions)
        for tensor in proto.initializer:
            graph.tensors[prefix + _text(tensor.name)] = self._tensor(tensor)
        for sparse in proto.sparse_initializer:
            shape = tuple(sparse.dims)
            graph.tensors[prefix + _text(sparse.values.name)] = Tensor(sparse.values.data_type, shape)
        for value in proto.input:
            if prefix + _text(value.name) not in graph.tensors:
                graph.inputs.append(_read_value(value, prefix))
        custom = {name for node in proto.node if node.domain not in _DEFAULT_DOMAINS for name in node.output}
        for value in (*proto.value_info, *proto.output):
            if value.name in custom:
                shape_known = _read_value(value, prefix).shape
                if shape_known is not None:
                    first_free = bool(shape_known) and shape_known[0] is None
                    graph.declared[prefix + _text(value.name)] = (1, *shape_known[1:]) if first_free else shape_known
        known = outer | {value.name for value in graph.inputs} | set(graph.tensors)
        known |= {prefix + _text(name) for node in proto.node for name in node.output}
        nodes: list[Node] = []
        for entry in proto.node:
            self._read_node(graph, entry, nodes, frozenset(known), prefix, depth, {})
        _check_names(graph, nodes, outer)
        graph.nodes = _sorted(nodes)
        return graph

    def _read_node(
        self,
        graph: Graph,
        entry: onnx.NodeProto,
        nodes: list[Node],
        known: frozenset[str],
        prefix: str,
        depth: int,
        given: Mapping[str, onnx.AttributeProto],
    ) -> None:
        """Appends a node, or the nodes of the local function that it calls; `given` are attributes of the call around it."""
        self.count += 1
        if self.count > _MAX_NODES:
            raise OnnxTextError(f"the graph has more than {_MAX_NODES:,} nodes, those of local functions included")
        op = _text(entry.op_type)
        inputs = [prefix + _text(name) if name else "" for name in entry.input]
        outputs = [prefix + _text(name) if name else "" for name in entry.output]
        if not op or not any(outputs):
            raise OnnxTextError(f"node {entry.name!r} ({op or 'no operator'}) has no {'output' if op else 'type'}")
        protos = {}
        for attribute in entry.attribute:
            source = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if source is not None:
                protos[_text(attribute.name)] = source
        function = self.functions.get((_text(entry.domain), op))
        if function is not None:
            self._call(graph, function, inputs, outputs, nodes, known, depth, protos)
            return
        attributes = {name: self._attribute(proto, known, prefix, depth) for name, proto in protos.items()}
        node = Node(op, _text(entry.domain), inputs, outputs, attributes, repr(entry.name)[1:-1])
        if op == "Constant" and node.standard:
            graph.tensors[outputs[0]] = _constant(node)
            return
        for _, inner in node.graphs:
            node.captured.extend(name for name in inner.captured if name not in node.captured)
        nodes.append(node)

    def _call(
        self,
        graph: Graph,
        function: onnx.FunctionProto,
        inputs: Sequence[str],
        outputs: Sequence[str],
        nodes: list[Node],
        known: frozenset[str],
        depth: int,
        given: dict[str, onnx.AttributeProto],
    ) -> None:
        """Appends the nodes of a local function in place of a call."""
        if depth > _MAX_DEPTH:
            raise OnnxTextError(f"local functions call each other more than {_MAX_DEPTH} deep")
        inside = f"{self.count}/"
        attributes = {attribute.name: attribute for attribute in function.attribute_proto} | given
        for position, name in enumerate(function.input):
            source = inputs[position] if position < len(inputs) else ""
            if source:
                nodes.append(Node("Identity", "", [source], [inside + _text(name)]))
        names = {inside + _text(name) for name in function.input}
        names |= {inside + _text(name) for node in function.node for name in node.output}
        for entry in function.node:
            self._read_node(graph, entry, nodes, known | names, inside, depth + 1, attributes)
        for name, result in zip(function.output, outputs):
            if result:
                nodes.append(Node("Identity", "", [inside + _text(name)], [result]))

    def _attribute(self, proto: onnx.AttributeProto, known: frozenset[str], prefix: str, depth: int) -> Any:
        """Returns the value of an attribute."""
        kind = proto.type
        if kind == onnx.AttributeProto.INT:
            return proto.i
        if kind == onnx.AttributeProto.INTS:
            return tuple(proto.ints)
        if kind == onnx.AttributeProto.FLOAT:
            return proto.f
        if kind == onnx.AttributeProto.FLOATS:
            return tuple(proto.floats)
        if kind == onnx.AttributeProto.STRING:
            return proto.s.decode("utf-8", "replace")
        if kind == onnx.AttributeProto.STRINGS:
            return tuple(each.decode("utf-8", "replace") for each in proto.strings)
        if kind == onnx.AttributeProto.TENSOR:
            return self._tensor(proto.t)
        if kind == onnx.AttributeProto.GRAPH:
            return self.read(proto.g, known, prefix, depth + 1)
        return proto.SerializeToString(deterministic=True)

    def _tensor(self, tensor: onnx.TensorProto) -> Tensor:
        """Returns a tensor: its type, shape and, if they are few, values."""
        shape = tuple(tensor.dims)
        if any(size < 0 for size in shape):
            raise OnnxTextError(f"tensor {tensor.name!r} has the shape {shape}; sizes must not be negative")
        if tensor.data_location == _EXTERNAL:
            self._check_external(tensor)
            return Tensor(tensor.data_type, shape)
        if math.prod(shape) > MAX_LITERAL or tensor.data_type in (0, STRING):
            return Tensor(tensor.data_type, shape)
        try:
            values = numpy_helper.to_array(tensor).astype(object)
        except Exception as error:
            if tensor.data_type in (INT64, BOOL):
                raise OnnxTextError(f"constant {tensor.name!r} of shape {shape} is broken: {error}") from error
            return Tensor(tensor.data_type, shape)  # a weight whose data is not there
        if tensor.data_type not in (*FLOATING, INT64):
            plain = np.frompyfunc(float if tensor.data_type in (17, 18, 19, 20) else int, 1, 1)
            try:
                values = np.asarray(plain(values), dtype=object)
            except (TypeError, ValueError):
                return Tensor(tensor.data_type, shape)  # complex numbers
        elif tensor.data_type != INT64:
            values = np.asarray(np.frompyfunc(float, 1, 1)(values), dtype=object)
        return Tensor(tensor.data_type, shape, values)

    def _check_external(self, tensor: onnx.TensorProto) -> None:
        """Refuses an external-data location outside the model's folder."""
        for entry in tensor.external_data:
            if entry.key == "location":
                location = entry.value if isinstance(entry.value, str) else repr(entry.value)
                if location in self.locations:
                    return
                parts = location.replace("\\", "/").split("/")
                if location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in location:
                    raise OnnxTextError(
                        f"tensor {tensor.name!r} points to {location!r}, outside the model's folder; "
                        "external data must have a relative path without '..'"
                    )
                self.locations.add(location)
                return
        raise OnnxTextError(f"tensor {tensor.name!r} is stored externally but names no location")


def _text(name: str | bytes) -> str:
    """Returns a name. Protobuf hands out text that is no UTF-8 as bytes."""
    if not isinstance(name, str):
        raise OnnxTextError(f"the name {name!r} is no valid UTF-8; the file is damaged")
    return name


def _read_value(value: onnx.ValueInfoProto, prefix: str) -> Value:
    """Reads an input; sizes that are names or negative, as some writers mark them, are free."""
    container = str(value.type.WhichOneof("value") or "?")
    tensor = value.type.tensor_type
    shape: Shape | None = None
    if container == "tensor_type" and tensor.HasField("shape"):
        sizes = [dim.dim_value if dim.WhichOneof("value") == "dim_value" else -1 for dim in tensor.shape.dim]
        shape = tuple(size if size >= 0 else None for size in sizes)
    word = "" if container == "tensor_type" else container.replace("_type", "")
    return Value(prefix + _text(value.name), tensor.elem_type if not word else 0, shape, word)


def _constant(node: Node) -> Tensor:
    """Returns the tensor of a Constant node."""
    if not node.attributes:
        raise OnnxTextError(f"Constant node {node.name!r} has no value")
    value = next(iter(node.attributes.values()))
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int):
        return Tensor(INT64, (), np.array(value, dtype=object))
    if isinstance(value, float):
        return Tensor(FLOAT, (), np.array(value, dtype=object))
    if isinstance(value, tuple):
        few = len(value) <= MAX_LITERAL and not any(isinstance(each, str) for each in value)
        dtype = INT64 if "value_ints" in node.attributes else FLOAT
        return Tensor(dtype, (len(value),), np.array(value, dtype=object) if few else None)
    return Tensor(STRING, ())


def _check_names(graph: Graph, nodes: Sequence[Node], outer: frozenset[str]) -> None:
    """Checks that every tensor that is read is made once, and notes what a subgraph reads of the graphs around it.

    Raises:
        OnnxTextError: It is not.
    """
    made = {value.name for value in graph.inputs}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in made or name in graph.tensors:
                raise OnnxTextError(f"tensor {name!r} is made twice; names in a graph must be unique")
            made.add(name)
    readers = [(name, node.op) for node in nodes for name in node.reads]
    readers.extend((name, "a graph output") for name in graph.outputs)
    captured: dict[str, None] = {}
    for name, reader in readers:
        if name in made or name in graph.tensors:
            continue
        if name not in outer:
            raise OnnxTextError(f"tensor {name!r}, read by {reader}, is made by no node, input or initializer")
        captured[name] = None
    graph.captured = list(captured)


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    """Returns nodes in an order in which each stands behind what it reads, as files should have them.

    Raises:
        OnnxTextError: There is a cycle.
    """
    makers = {name: index for index, node in enumerate(nodes) for name in node.outputs if name}
    sources = [{makers[name] for name in node.reads if name in makers} for node in nodes]
    if all(not found or max(found) < index for index, found in enumerate(sources)):
        return list(nodes)
    readers: list[list[int]] = [[] for _ in nodes]
    for index, found in enumerate(sources):
        for source in found:
            readers[source].append(index)
    waiting = [len(found) for found in sources]
    ready = [index for index, count in enumerate(waiting) if not count]
    for index in ready:
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(ready) < len(nodes):
        stuck = next(index for index, count in enumerate(waiting) if count)
        raise OnnxTextError(
            f"the graph has a cycle: {len(nodes) - len(ready)} nodes wait for each other, one of them {nodes[stuck].op!r}"
        )
    return [nodes[index] for index in ready]


def number_word(value: float) -> str:
    """Returns a float as a short word: 0.1, 6, 1e-5."""
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.6g}").replace("e+", "e")


def type_name(number: int) -> str:
    """Returns an element type as a word: 7 becomes int64."""
    if number not in onnx.TensorProto.DataType.values():
        raise OnnxTextError(f"element type {number} is unknown to onnx {onnx.__version__}")
    return onnx.TensorProto.DataType.Name(number).lower()


# ---------------------------------------------------------------------------------------------------------------------
# Sizes and small values


class Sizes:
    """Shapes, element types and small values of the tensors of a graph, filled node by node.

    ONNX's own inference is not used: it can end the process or take gigabytes for a file of a hundred bytes. What is not known
    to this one is unknown, never an error.

    Attributes:
        shapes: Shapes by name; a tensor of unknown rank is missing.
        values: Values of small tensors by name, object arrays whose unknown elements are None.
        types: Element types by name, as in `TensorProto`.
    """

    def __init__(
        self, graph: Graph, outer: Sizes | None = None, input_shapes: Mapping[str, Sequence[int]] | None = None
    ):
        self.graph = graph
        self.shapes: dict[str, Shape] = {}
        self.values: dict[str, np.ndarray] = {}
        self.types: dict[str, int] = {}
        self.inner: dict[int, list[Sizes]] = {}  # of the subgraphs of a node, by its id
        if outer is not None:
            self.shapes.update(outer.shapes)
            self.values.update(outer.values)
            self.types.update(outer.types)
        for name, tensor in graph.tensors.items():
            self.add_tensor(name, tensor)
        for value in graph.inputs:
            given = (input_shapes or {}).get(value.name)
            shape = tuple(given) if given is not None else value.shape
            if shape is not None:
                self.shapes[value.name] = (1, *shape[1:]) if shape and shape[0] is None else shape
            self.types[value.name] = value.dtype

    def add_tensor(self, name: str, tensor: Tensor) -> None:
        """Takes a tensor of the file."""
        self.shapes[name] = tensor.shape
        self.types[name] = tensor.dtype
        if tensor.values is not None:
            self.values[name] = tensor.values

    def visit(self, node: Node) -> None:
        """Fills what a node makes."""
        try:
            if node.standard:
                self._visit(node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, MemoryError):
            pass  # contradictory sizes, or an attribute of another type than the operator's: nothing is known
        declared = self.graph.declared
        for name in filter(None, node.outputs):
            shape = self.shapes.get(name)
            known = declared.get(name)
            if known is not None and (shape is None or (len(shape) == len(known) and None in shape)):
                self.shapes[name] = (
                    known if shape is None else tuple(a if a is not None else b for a, b in zip(shape, known))
                )
            self.types.setdefault(name, 0)

    def element_count(self, name: str) -> int | None:
        """Returns how many elements a tensor has, None if that is not known."""
        return elements(self.shapes.get(name))

    def vector(self, name: str) -> list[int | None] | None:
        """Returns the values of a tensor as a list of integers, None if they are not known."""
        values = self.values.get(name)
        if values is None:
            return None
        return [None if value is None else int(value) for value in values.ravel().tolist()]

    def _visit(self, node: Node) -> None:
        shapes = [self.shapes.get(name) if name else None for name in node.inputs]
        infer = _INFERENCE.get(node.op)
        if infer is None and node.op.startswith("Reduce"):
            infer = _reduce
        results: Sequence[Shape | None] = infer(self, node, shapes) if infer is not None else ()
        first = self.types.get(node.inputs[0], 0) if node.inputs else 0
        for name, shape in zip(node.outputs, results):
            if name and shape is not None:
                self.shapes[name] = tuple(size if size is None or size >= 0 else None for size in shape)
        for name in filter(None, node.outputs):
            self.types[name] = _result_type(node, self, first)
        self._evaluate(node, shapes)

    def _evaluate(self, node: Node, shapes: Sequence[Shape | None]) -> None:
        """Computes the values of small integer results."""
        result: Any = None
        if node.op == "Shape" and shapes[0] is not None:
            stop = node.get("end", len(shapes[0]))
            result = np.array(shapes[0][node.get("start", 0) : stop], dtype=object)
        elif node.op == "Size":
            result = np.array(elements(shapes[0]), dtype=object)
        elif node.op in _EVALUATION:
            args = [self.values.get(name) if name else None for name in node.inputs]
            if not args or any(arg is None and name for arg, name in zip(args, node.inputs)):
                return
            result = _EVALUATION[node.op](node, args)
        if result is None:
            return
        results = result if isinstance(result, list) else [result]
        for name, value in zip(node.outputs, results):
            array = np.asarray(value, dtype=object)
            if name and array.size <= MAX_LITERAL:
                self.values[name] = array
                self.shapes[name] = array.shape


def elements(shape: Sequence[int | None] | None) -> int | None:
    """Returns the elements of a shape, None for one that is not known."""
    if shape is None:
        return None
    count = 1
    for size in shape:
        if size is None or size < 0:
            return None
        count *= size
    return count


def _result_type(node: Node, sizes: Sizes, first: int) -> int:
    """Returns the element type of what a node makes, 0 where it is not known."""
    if node.op in ("Cast", "ConstantOfShape", "EyeLike"):
        value = node.get("value")
        return int(node.get("to", node.get("dtype", value.dtype if isinstance(value, Tensor) else FLOAT)))
    if node.op in ("Shape", "Size", "NonZero", "ArgMax", "ArgMin"):
        return INT64
    if node.op in _COMPARISONS:
        return BOOL
    if node.op == "DequantizeLinear":
        return sizes.types.get(node.inputs[1], FLOAT)
    if node.op == "QuantizeLinear":
        return int(node.get("output_dtype", 0)) or (
            sizes.types.get(node.inputs[2], UINT8) if len(node.inputs) > 2 else UINT8
        )
    if node.op in ("Where", "CastLike"):
        return sizes.types.get(node.inputs[1], 0)
    return first


# Functions from what is known and a node to the shapes of its results.
_Inference = Callable[[Sizes, Node, Sequence[Shape | None]], Sequence[Shape | None]]


def _same(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [shapes[0]] if shapes else []


def _broadcast(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [broadcast(shapes)]


def broadcast(shapes: Sequence[Shape | None]) -> Shape | None:
    """Returns the shape of an elementwise result of tensors of some shapes, None if a rank is not known."""
    known = [shape for shape in shapes if shape is not None]
    if not shapes or len(known) < len(shapes):
        return None
    rank = max(map(len, known))
    result: list[int | None] = []
    for axis in range(-rank, 0):
        sizes = {shape[axis] for shape in known if len(shape) >= -axis} - {1}
        if not sizes:
            result.append(1)
        elif len(sizes) == 1:
            result.append(sizes.pop())
        else:
            result.append(next((size for size in sizes if size is not None), None))
    return tuple(result)


def spatial_sizes(node: Node, shape: Shape, kernel: Sequence[Any]) -> list[int | None]:
    """Returns the sizes of what a convolution or pooling makes of a tensor `(batch, channels, ...)`."""
    rank = len(kernel)
    strides = node.get("strides") or (1,) * rank
    dilations = node.get("dilations") or (1,) * rank
    pads = node.get("pads") or (0,) * (2 * rank)
    padding = node.get("auto_pad", "NOTSET")
    result: list[int | None] = []
    for axis in range(rank):
        size = shape[2 + axis]
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        if size is None:
            result.append(None)
        elif padding in ("SAME_UPPER", "SAME_LOWER"):
            result.append(-(-size // strides[axis]))
        else:
            around = 0 if padding == "VALID" else pads[axis] + pads[axis + rank]
            moved = size + around - reach
            steps = -(-moved // strides[axis]) if node.get("ceil_mode", 0) else moved // strides[axis]
            if node.get("ceil_mode", 0) and steps * strides[axis] >= size + (0 if padding == "VALID" else pads[axis]):
                steps -= 1  # a window must not begin behind the data
            result.append(steps + 1 if moved >= 0 else None)
    return result


def _conv(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    position = 3 if node.op == "QLinearConv" else 1
    data, weight = shapes[0], shapes[position]
    if data is None or weight is None or len(data) != len(weight):
        return [None]
    kernel = node.get("kernel_shape") or weight[2:]
    if None in kernel:
        return [None]
    return [(data[0], weight[0], *spatial_sizes(node, data, kernel))]


def _conv_transpose(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    data, weight = shapes[0], shapes[1]
    if data is None or weight is None or weight[1] is None:
        return [None]
    rank = len(data) - 2
    kernel: Sequence[Any] = node.get("kernel_shape") or weight[2:]
    strides = node.get("strides") or (1,) * rank
    dilations = node.get("dilations") or (1,) * rank
    pads = node.get("pads") or (0,) * (2 * rank)
    extra = node.get("output_padding") or (0,) * rank
    given = node.get("output_shape")
    same = node.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    spatial: list[int | None] = []
    for axis in range(rank):
        size = data[2 + axis]
        if given:
            spatial.append(given[axis - rank])
        elif size is None:
            spatial.append(None)
        elif same:
            spatial.append(size * strides[axis])
        else:
            reach = dilations[axis] * (kernel[axis] - 1) + 1
            spatial.append(strides[axis] * (size - 1) + extra[axis] + reach - pads[axis] - pads[axis + rank])
    return [(data[0], weight[1] * node.get("group", 1), *spatial)]


def _pool(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None:
        return [None]
    result = (*shapes[0][:2], *spatial_sizes(node, shapes[0], node.get("kernel_shape")))
    return [result, result]


def _global_pool(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [None if shapes[0] is None else (*shapes[0][:2], *(1,) * (len(shapes[0]) - 2))]


def _gemm(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    left, right = shapes[0], shapes[1]
    if left is None or right is None:
        return [None]
    return [(left[1 if node.get("transA", 0) else 0], right[0 if node.get("transB", 0) else 1])]


def _matmul(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    left, right = shapes[0], shapes[3 if node.op == "QLinearMatMul" else 1]
    if not left or not right:
        return [None]
    batch = broadcast([left[:-2], right[:-2]]) or ()
    rows = left[-2:-1]
    columns = right[-1:] if len(right) > 1 else ()
    return [(*batch, *rows, *columns)]


def _concat(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    known = [shape for shape in shapes if shape is not None]
    if not known or len(known) < len(shapes):
        return [None]
    axis = node.get("axis", 1) % len(known[0])
    result = list(known[0])
    for position in range(len(result)):
        column = [shape[position] for shape in known]
        if position != axis:
            result[position] = next((size for size in column if size is not None), None)
        else:
            result[position] = None if None in column else sum(size for size in column if size is not None)
    return [tuple(result)]


def _split(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    shape = shapes[0]
    if shape is None:
        return [None]
    axis = node.get("axis", 0) % len(shape)
    count = len(node.outputs)
    lengths = sizes.vector(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    size = shape[axis]
    if lengths is None and size is not None and len(node.inputs) < 2:
        part = -(-size // count)
        lengths = [min(part, size - part * position) for position in range(count)]
    lengths = lengths or [None] * count
    return [(*shape[:axis], length, *shape[axis + 1 :]) for length in lengths]


def _slice(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    shape = shapes[0]
    if shape is None:
        return [None]
    starts, ends, axes, steps = slice_bounds(sizes, node, len(shape))
    result = list(shape)
    for position, axis in enumerate(axes):
        size, start, end, step = shape[axis], starts[position], ends[position], steps[position]
        if size is None or start is None or end is None or not step:
            result[axis] = None
        else:
            result[axis] = len(range(*slice(start, None if step < 0 and end < -size else end, step).indices(size)))
    return [tuple(result)]


def slice_bounds(sizes: Sizes, node: Node, rank: int) -> tuple[list[Any], list[Any], list[int], list[Any]]:
    """Returns starts, ends, axes and steps of a Slice; unknown starts, ends and steps are None.

    Raises:
        ValueError: Axes that are not known.
    """
    given = [sizes.vector(name) if name else None for name in node.inputs[1:]] + [None] * 4
    count = sizes.shapes[node.inputs[1]][0] or 0
    starts = given[0] or [None] * count
    ends = given[1] or [None] * count
    if len(node.inputs) > 3 and node.inputs[3] and given[2] is None:
        raise ValueError("unknown axes")
    axes = [axis % rank for axis in given[2] or range(count) if axis is not None]
    has_steps = len(node.inputs) > 4 and node.inputs[4]
    steps = given[3] or ([None] * count if has_steps else [1] * count)
    return starts, ends, axes, steps


def _gather(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    data, indices = shapes[0], shapes[1]
    if data is None or indices is None:
        return [None]
    axis = node.get("axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _reshape(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    target = sizes.vector(node.inputs[1])
    if target is None:
        rank = shapes[1][0] if shapes[1] else None
        return [None if rank is None or rank > MAX_LITERAL else (None,) * rank]
    shape = shapes[0]
    result: list[int | None] = list(target)
    for axis, size in enumerate(result):
        if size == 0 and not node.get("allowzero", 0):
            result[axis] = shape[axis] if shape is not None and axis < len(shape) else None
    if -1 in result:
        free = result.index(-1)
        result[free] = None
        total, rest = elements(shape), elements([size for axis, size in enumerate(result) if axis != free])
        if total is not None and rest:
            result[free] = total // rest
    return [tuple(result)]


def _flatten(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None:
        return [(None, None)]
    axis = node.get("axis", 1)
    axis = axis + len(shapes[0]) if axis < 0 else axis
    return [(elements(shapes[0][:axis]), elements(shapes[0][axis:]))]


def given_axes(sizes: Sizes, node: Node, rank: int) -> list[int] | None:
    """Returns the axes that an operator names as an attribute or as its second input, None where it names none.

    Raises:
        ValueError: Axes that are not known.
    """
    axes = node.get("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        axes = sizes.vector(node.inputs[1])
        if axes is None or None in axes:
            raise ValueError("unknown axes")
    return None if axes is None else [axis % rank for axis in axes]


def _squeeze(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    shape = shapes[0]
    if shape is None:
        return [None]
    axes = given_axes(sizes, node, max(len(shape), 1))
    if axes is None and None in shape:
        return [None]
    return [tuple(size for axis, size in enumerate(shape) if (axis not in axes if axes is not None else size != 1))]


def _unsqueeze(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None:
        return [None]
    count = len(node.get("axes") or sizes.vector(node.inputs[1]) or ())
    axes = given_axes(sizes, node, len(shapes[0]) + count) or []
    result = list(shapes[0])
    for axis in sorted(axes):
        result.insert(axis, 1)
    return [tuple(result)]


def _transpose(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None:
        return [None]
    order = node.get("perm") or range(len(shapes[0]))[::-1]
    return [tuple(shapes[0][axis] for axis in order)]


def _expand(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    target = sizes.vector(node.inputs[1])
    return [None if target is None else broadcast([shapes[0], tuple(target)])]


def _tile(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    repeats = sizes.vector(node.inputs[1])
    if shapes[0] is None or repeats is None:
        return [None]
    return [tuple(None if a is None or b is None else a * b for a, b in zip(shapes[0], repeats))]


def _pad(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    shape = shapes[0]
    if shape is None:
        return [None]
    pads = sizes.vector(node.inputs[1])
    axes = list(range(len(shape)))
    if len(node.inputs) > 3 and node.inputs[3]:
        axes = [axis % len(shape) for axis in sizes.vector(node.inputs[3]) or [] if axis is not None]
    result = list(shape)
    for position, axis in enumerate(axes):
        size = shape[axis]
        around = None if pads is None else (pads[position], pads[position + len(axes)])
        unknown = size is None or around is None or around[0] is None or around[1] is None
        result[axis] = None if unknown else size + around[0] + around[1]  # type: ignore[operator, index]
    return [tuple(result)]


def _resize(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    shape = shapes[0]
    if shape is None:
        return [None]
    axes = [axis % len(shape) for axis in node.get("axes") or range(len(shape))]
    scales_at = 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2
    result: list[int | None] = list(shape)
    target = sizes.vector(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
    scales = (
        sizes.values.get(node.inputs[scales_at]) if len(node.inputs) > scales_at and node.inputs[scales_at] else None
    )
    for position, axis in enumerate(axes):
        size = shape[axis]
        if target:
            result[axis] = target[position]
        elif scales is not None and scales.size == len(axes) and size is not None:
            result[axis] = math.floor(size * float(scales.ravel()[position]))
        else:
            result[axis] = None
    return [tuple(result)]


def _reduce(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    shape = shapes[0]
    if shape is None:
        return [None]
    axes = given_axes(sizes, node, len(shape))
    if not axes:
        axes = [] if axes is not None and node.get("noop_with_empty_axes", 0) else list(range(len(shape)))
    return [_reduced(shape, axes, bool(node.get("keepdims", 1)))]


def _reduced(shape: Shape, axes: Sequence[int], keep: bool) -> Shape:
    kept = [1 if axis in axes else size for axis, size in enumerate(shape) if keep or axis not in axes]
    return tuple(kept)


def _arg_reduce(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None:
        return [None]
    axis = node.get("axis", 0) % len(shapes[0])
    return [_reduced(shapes[0], [axis], bool(node.get("keepdims", 1)))]


def _top_k(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None:
        return [None, None]
    axis = node.get("axis", -1) % len(shapes[0])
    count = (sizes.vector(node.inputs[1]) or [None])[0] if len(node.inputs) > 1 else node.get("k")
    result = (*shapes[0][:axis], count, *shapes[0][axis + 1 :])
    return [result, result]


def _of_values(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    values = sizes.vector(node.inputs[0])
    return [None if values is None else tuple(values)]


def _range(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    bounds = [sizes.values.get(name) for name in node.inputs]
    if len(bounds) != 3 or any(bound is None or None in bound.ravel().tolist() for bound in bounds):
        return [(None,)]
    start, limit, delta = (bound.ravel().tolist()[0] for bound in bounds if bound is not None)
    return [(max(math.ceil((limit - start) / delta), 0),)]


def _depth_to_space(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    if shapes[0] is None or None in shapes[0][1:]:
        return [None]
    batch, channels, height, width = shapes[0]
    size = node.get("blocksize")
    assert channels is not None and height is not None and width is not None  # seen above
    if node.op == "DepthToSpace":
        return [(batch, channels // size**2, height * size, width * size)]
    return [(batch, channels * size**2, height // size, width // size)]


def _recurrent(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    data = shapes[0]
    if data is None:
        return [None]
    hidden = node.get("hidden_size") or (shapes[2][-1] if shapes[2] is not None else None)
    directions = 2 if node.get("direction", "forward") == "bidirectional" else 1
    steps, batch = data[:2]
    if node.get("layout", 0):
        state: Shape = (steps, directions, hidden)
        return [(steps, batch, directions, hidden), state, state]
    state = (directions, batch, hidden)
    return [(steps, directions, batch, hidden), state, state]


def einsum_terms(node: Node, shapes: Sequence[Shape | None]) -> tuple[list[str], str, dict[str, int | None]]:
    """Returns the terms of an Einsum, its result, and the size of each letter; without ellipses.

    Raises:
        ValueError: An equation that does not fit the shapes.
    """
    equation = str(node.get("equation", "")).replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if "." in equation or len(terms) != len(shapes):
        raise ValueError("ellipses are not read")
    letters: dict[str, int | None] = {}
    for term, shape in zip(terms, shapes):
        if shape is None or len(shape) != len(term):
            raise ValueError("unknown shapes")
        letters.update({letter: size for letter, size in zip(term, shape) if size != 1 or letter not in letters})
    if not arrow:
        result = "".join(sorted(letter for letter in letters if left.count(letter) == 1))
    return terms, result, letters


def _einsum(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    _, result, letters = einsum_terms(node, shapes)
    return [tuple(letters[letter] for letter in result)]


def _one_hot(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    depth = (sizes.vector(node.inputs[1]) or [None])[0]
    if shapes[0] is None:
        return [None]
    axis = node.get("axis", -1)
    axis = axis + len(shapes[0]) + 1 if axis < 0 else axis
    return [(*shapes[0][:axis], depth, *shapes[0][axis:])]


def _gather_nd(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    data, indices = shapes[0], shapes[1]
    if data is None or indices is None or indices[-1] is None:
        return [None]
    return [(*indices[:-1], *data[node.get("batch_dims", 0) + indices[-1] :])]


def _grid_sample(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    data, grid = shapes[0], shapes[1]
    return [None if data is None or grid is None else (*data[:2], *grid[1:-1])]


def _roi_align(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    data, regions = shapes[0], shapes[1]
    if data is None or regions is None:
        return [None]
    return [(regions[0], data[1], node.get("output_height", 1), node.get("output_width", 1))]


def _attention(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    query, value = shapes[0], shapes[2]
    if query is None or value is None:
        return [None]
    if len(query) == 4:
        return [(*query[:3], value[3])]
    heads, groups = node.get("q_num_heads"), node.get("kv_num_heads")
    return [(*query[:2], None if value[2] is None else value[2] // groups * heads)]


def _non_zero(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [None if shapes[0] is None else (len(shapes[0]), None)]


def _dynamic_quantize(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [shapes[0], (), ()]


def _second(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [shapes[1]]


def _random(sizes: Sizes, node: Node, shapes: Sequence[Shape | None]) -> Sequence[Shape | None]:
    return [node.get("shape")]


_UNARY = """
    Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh CumSum
    DequantizeLinear Dropout Elu Erf Exp EyeLike Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MeanVarianceNormalization
    Mish Neg Not QuantizeLinear RMSNormalization RandomNormalLike RandomUniformLike Reciprocal Relu ReverseSequence
    RotaryEmbedding Round ScatterElements ScatterND Scatter Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt
    Swish Tan Tanh TensorScatter ThresholdedRelu Trilu
""".split()
_COMPARISONS = frozenset("Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf".split())
_BINARY = """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or
    PRelu Pow Sub Sum Where Xor
""".split()
_INFERENCE: dict[str, _Inference] = {
    **dict.fromkeys(_UNARY, _same),
    **dict.fromkeys(_BINARY, _broadcast),
    **dict.fromkeys(("Conv", "QLinearConv", "ConvInteger", "DeformConv"), _conv),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    "Gemm": _gemm,
    **dict.fromkeys(("MatMul", "QLinearMatMul", "MatMulInteger"), _matmul),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _second,
    "GatherND": _gather_nd,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "ArgMax": _arg_reduce,
    "ArgMin": _arg_reduce,
    "TopK": _top_k,
    "ConstantOfShape": _of_values,
    "Range": _range,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
    "OneHot": _one_hot,
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
    "Attention": _attention,
    "NonZero": _non_zero,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "RandomNormal": _random,
    "RandomUniform": _random,
}


# Values

_Evaluation = Callable[[Node, list[Any]], Any]


def _elementwise(function: Callable[..., Any]) -> _Evaluation:
    """Returns an evaluation that applies a function to elements; of an unknown element the result is unknown."""

    def one(*operands: Any) -> Any:
        if any(operand is None for operand in operands):
            return None
        try:
            return function(*operands)
        except (ArithmeticError, ValueError):
            return None

    def apply(node: Node, args: list[Any]) -> Any:
        return np.frompyfunc(one, len(args), 1)(*args)

    return apply


def _divided(a: Any, b: Any) -> Any:
    """Returns a quotient; that of integers is rounded towards zero, as ONNX does."""
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _power(a: Any, b: Any) -> Any:
    if abs(b) > 64 or abs(a) > 1 << 31:
        raise ValueError("too large")
    return a**b


def _cast(node: Node, args: list[Any]) -> Any:
    to = node.get("to")
    if to == BOOL:
        return _elementwise(bool)(node, args)
    return _elementwise(float if to in FLOATING else int)(node, args)


def _evaluate_where(node: Node, args: list[Any]) -> Any:
    def one(condition: Any, a: Any, b: Any) -> Any:
        return None if condition is None else a if condition else b

    return np.frompyfunc(one, 3, 1)(*args)


def _evaluate_gather(node: Node, args: list[Any]) -> Any:
    return np.take(args[0], args[1].astype(np.int64), axis=node.get("axis", 0))


def _evaluate_slice(node: Node, args: list[Any]) -> Any:
    data = args[0]
    starts, ends = (args[k].ravel().tolist() for k in (1, 2))
    axes = args[3].ravel().tolist() if len(args) > 3 and args[3] is not None else range(len(starts))
    steps = args[4].ravel().tolist() if len(args) > 4 and args[4] is not None else [1] * len(starts)
    index = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        end = None if step < 0 and end < -data.shape[axis] else end
        index[axis] = slice(start, end, step)
    return data[tuple(index)]


def _evaluate_concat(node: Node, args: list[Any]) -> Any:
    return np.concatenate(args, axis=node.get("axis", 0))


def _evaluate_reshape(node: Node, args: list[Any]) -> Any:
    target = [args[0].shape[axis] if size == 0 else size for axis, size in enumerate(args[1].ravel().tolist())]
    return args[0].reshape(target)


def _evaluate_squeeze(node: Node, args: list[Any]) -> Any:
    axes = node.get("axes") if len(args) < 2 or args[1] is None else args[1].ravel().tolist()
    return np.squeeze(args[0], axis=None if axes is None else tuple(axes))


def _evaluate_unsqueeze(node: Node, args: list[Any]) -> Any:
    axes = node.get("axes") if len(args) < 2 else args[1].ravel().tolist()
    return np.expand_dims(args[0], tuple(axes))


def _evaluate_split(node: Node, args: list[Any]) -> Any:
    axis = node.get("axis", 0)
    lengths = args[1].ravel().tolist() if len(args) > 1 and args[1] is not None else None
    if lengths is None:
        return list(np.array_split(args[0], len(node.outputs), axis=axis))
    return list(np.split(args[0], np.cumsum(lengths)[:-1].astype(int), axis=axis))


def _evaluate_range(node: Node, args: list[Any]) -> Any:
    start, limit, delta = (arg.ravel().tolist()[0] for arg in args)
    if None in (start, limit, delta) or abs(limit - start) > MAX_LITERAL * abs(delta):
        return None
    count = max(math.ceil((limit - start) / delta), 0)
    return np.array([start + delta * position for position in range(count)], dtype=object)


def _evaluate_constant_of_shape(node: Node, args: list[Any]) -> Any:
    shape = args[0].ravel().tolist()
    value = node.get("value")
    fill = 0.0 if value is None else None if value.values is None else value.values.ravel().tolist()[0]
    if None in shape or math.prod(shape) > MAX_LITERAL:
        return None
    return np.full(shape, fill, dtype=object)


def _evaluate_expand(node: Node, args: list[Any]) -> Any:
    target = args[1].ravel().tolist()
    shape = None if None in target else broadcast([args[0].shape, tuple(target)])
    count = elements(shape)
    if shape is None or count is None or count > MAX_LITERAL:
        return None
    return np.broadcast_to(args[0], [size or 0 for size in shape])


def _evaluate_reduce(function: Callable[[Any, Any], Any]) -> _Evaluation:
    def apply(node: Node, args: list[Any]) -> Any:
        if args[0].ndim > 1 or not args[0].size:
            return None
        total = None
        for value in args[0].ravel().tolist():
            if value is None:
                total = None
                break
            total = value if total is None else function(total, value)
        return np.array([total] if node.get("keepdims", 1) else total, dtype=object)

    return apply


def _evaluate_transpose(node: Node, args: list[Any]) -> Any:
    return np.transpose(args[0], node.get("perm"))


def _evaluate_clip(node: Node, args: list[Any]) -> Any:
    result = args[0]
    for bound, function in zip(args[1:3], (max, min)):
        if bound is not None:
            result = _elementwise(function)(node, [result, bound])
    return result


_EVALUATION: dict[str, _Evaluation] = {
    "Add": _elementwise(lambda a, b: a + b),
    "Sub": _elementwise(lambda a, b: a - b),
    "Mul": _elementwise(lambda a, b: a * b),
    "Div": _elementwise(_divided),
    "Mod": _elementwise(lambda a, b: a % b),
    "Pow": _elementwise(_power),
    "Neg": _elementwise(lambda a: -a),
    "Abs": _elementwise(abs),
    "Sqrt": _elementwise(math.sqrt),
    "Floor": _elementwise(lambda a: float(math.floor(a))),
    "Ceil": _elementwise(lambda a: float(math.ceil(a))),
    "Relu": _elementwise(lambda a: max(a, 0)),
    "Clip": _evaluate_clip,
    "Max": _elementwise(max),
    "Min": _elementwise(min),
    "Equal": _elementwise(lambda a, b: a == b),
    "Greater": _elementwise(lambda a, b: a > b),
    "GreaterOrEqual": _elementwise(lambda a, b: a >= b),
    "Less": _elementwise(lambda a, b: a < b),
    "LessOrEqual": _elementwise(lambda a, b: a <= b),
    "And": _elementwise(lambda a, b: a and b),
    "Or": _elementwise(lambda a, b: a or b),
    "Not": _elementwise(lambda a: not a),
    "Identity": _elementwise(lambda a: a),
    "Cast": _cast,
    "Where": _evaluate_where,
    "Gather": _evaluate_gather,
    "Slice": _evaluate_slice,
    "Concat": _evaluate_concat,
    "Reshape": _evaluate_reshape,
    "Squeeze": _evaluate_squeeze,
    "Unsqueeze": _evaluate_unsqueeze,
    "Split": _evaluate_split,
    "Range": _evaluate_range,
    "ConstantOfShape": _evaluate_constant_of_shape,
    "Expand": _evaluate_expand,
    "Transpose": _evaluate_transpose,
    "ReduceProd": _evaluate_reduce(lambda a, b: a * b),
    "ReduceSum": _evaluate_reduce(lambda a, b: a + b),
    "ReduceMax": _evaluate_reduce(max),
    "ReduceMin": _evaluate_reduce(min),
}


# ---------------------------------------------------------------------------------------------------------------------
# Costs

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_PRODUCTS = {"Gemm", "MatMul"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sum", "Max", "Min", "Mean", "Pow", "Mod", "Where"}
_MOVES = {
    "Concat", "DepthToSpace", "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Resize", "ScatterElements",
    "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Upsample",
}  # fmt: skip
_FREE = {
    "BatchNormalization", "Cast", "Celu", "Clip", "Constant", "ConstantOfShape", "Dropout", "Elu", "Flatten", "Gelu",
    "HardSigmoid", "HardSilu", "HardSwish", "Identity", "LeakyRelu", "Mish", "PRelu", "Relu", "Relu6", "Reshape", "Selu",
    "Shape", "Sigmoid", "Silu", "Size", "Softplus", "Squeeze", "Swish", "Tanh", "Unsqueeze",
}  # fmt: skip
_WITH_MACS = {
    "Attention", "Conv", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "Gemm", "LSTM", "MatMul",
    "MatMulInteger", "QLinearConv", "QLinearMatMul", "RNN",
}  # fmt: skip
CLASSES = ("conv", "conv1x1", "dw", "group", "matmul", "add", "pool", "move", "other")


@dataclass
class Cost:
    """Operators, multiply-adds, elements written and elements of weights, all exact."""

    operators: int = 0
    macs: int = 0
    written: int = 0
    weights: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other))))


@dataclass
class GraphCost:
    """What one inference of a whole graph costs, exactly but for the nodes that are `unknown`.

    Attributes:
        macs: Multiply-adds of convolutions, matrix products, recurrent operators, Einsum and attention; biases count nothing.
            Of the branches of an If the larger one counts; a body of a Loop or Scan as often as it runs.
        norm_elements: Elements that batch norms behind convolutions write, folded into their weights or not.
        parameters: Elements of the floating-point and quantised weights of the file, without running means and variances.
        unknown: Nodes that cost something and whose size or number of runs is not known; they add nothing to the rest.
    """

    macs: int = 0
    norm_elements: int = 0
    parameters: int = 0
    unknown: int = 0

    @property
    def flops(self) -> int:
        """Operations as the tables of NAS-Bench-201 count them: one a multiply-add, two an element of a batch norm."""
        return self.macs + 2 * self.norm_elements


def class_costs(graph: Graph, sizes: Sizes) -> dict[str, Cost]:
    """Counts what a graph costs by class of operator.

    Args:
        graph: A graph.
        sizes: Of its tensors.

    Returns:
        Costs of the classes that occur, in the order of `CLASSES`.
    """
    costs: dict[str, Cost] = {}
    for node in (*graph.nodes, *graph.dead):
        name = _class(node, sizes)
        if name is None:
            continue
        cost = costs.setdefault(name, Cost())
        cost.operators += 1
        cost.macs += node_macs(node, sizes) or 0
        cost.written += sum(sizes.element_count(result) or 0 for result in node.outputs if result)
        stored = [source for source in node.inputs if source in graph.tensors]
        cost.weights += sum(sizes.element_count(source) or 0 for source in stored if sizes.shapes[source])
    return {name: costs[name] for name in CLASSES if name in costs}


def cost_lines(graph: Graph, sizes: Sizes) -> list[str]:
    """Returns the lines of a graph's text that state what it costs: the total, then one for each class; none if all is free."""
    costs = class_costs(graph, sizes)
    if costs:
        costs = {"total": sum(costs.values(), Cost()), **costs}
    return [_cost_line(name, cost) for name, cost in costs.items()]


def _cost_line(name: str, cost: Cost) -> str:
    words = [f"{name} x{cost.operators}"]
    for letter, count in (("m", cost.macs), ("o", cost.written), ("w", cost.weights)):
        if count:
            words.append(f"{name} {letter}{max(round(count / 1000), 1)}")
    return " ".join(words)


def total_cost(graph: Graph, sizes: Sizes) -> GraphCost:
    """Counts what a whole graph costs, without parameters."""
    cost = GraphCost()
    nodes = [*graph.nodes, *graph.dead]
    convolved = {node.outputs[0] for node in nodes if node.op in _CONVOLUTIONS and node.standard}
    for node in nodes:
        if node.graphs:
            inner = _inner_cost(node, sizes)
            cost.macs += inner.macs
            cost.norm_elements += inner.norm_elements
            cost.unknown += inner.unknown
        elif not node.standard:
            cost.unknown += 1
        elif node.op in _WITH_MACS:
            macs = node_macs(node, sizes)
            cost.macs += macs or 0
            cost.unknown += macs is None
        elif node.op == "BatchNormalization" and node.inputs[0] in convolved:
            count = sizes.element_count(node.outputs[0])
            cost.norm_elements += count or 0
            cost.unknown += count is None
    return cost


def _inner_cost(node: Node, sizes: Sizes) -> GraphCost:
    """Returns what the subgraphs of a node cost."""
    costs = [total_cost(graph, inner) for (_, graph), inner in zip(node.graphs, sizes.inner.get(id(node), []))]
    if not costs:
        return GraphCost(unknown=1)
    if node.op == "If":
        return max(costs, key=lambda cost: (cost.macs, cost.norm_elements))
    runs = trip_count(node, sizes)
    (cost,) = costs[:1]
    if runs is None:
        return GraphCost(unknown=1 + cost.unknown)
    return GraphCost(cost.macs * runs, cost.norm_elements * runs, 0, cost.unknown)


def trip_count(node: Node, sizes: Sizes) -> int | None:
    """Returns how often the body of a Loop or Scan runs, None where that is not constant."""
    if node.op == "Loop":
        count = sizes.vector(node.inputs[0]) if node.inputs and node.inputs[0] else None
        condition = sizes.vector(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else [1]
        always = condition == [1] and _goes_on(node)
        return max(count[0] or 0, 0) if count and count[0] is not None and always else None
    if node.op == "Scan":
        scanned = node.inputs[len(node.inputs) - int(node.get("num_scan_inputs", 1)) :]
        axes = node.get("scan_input_axes") or (0,) * len(scanned)
        for name, axis in zip(scanned, axes):
            shape = sizes.shapes.get(name)
            if shape is not None and -len(shape) <= axis < len(shape):
                return shape[axis]
    return None


def _goes_on(node: Node) -> bool:
    """Whether the body of a Loop always asks for the next run: its first result is a constant, or the condition as it came."""
    for _, body in node.graphs:
        result = body.outputs[0] if body.outputs else ""
        tensor = body.tensors.get(result)
        passed = len(body.inputs) > 1 and result == body.inputs[1].name
        if not passed and not (tensor is not None and tensor.number):
            return False
    return True


def _class(node: Node, sizes: Sizes) -> str | None:
    """Returns the class of a node, None for those that are not counted."""
    op = node.op
    if not node.standard:
        return "other"
    if op in _CONVOLUTIONS:
        groups = node.get("group", 1)
        weight = sizes.shapes.get(node.inputs[1]) if len(node.inputs) > 1 else None
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


def node_macs(node: Node, sizes: Sizes) -> int | None:
    """Returns the multiply-adds of a node, 0 for operators that have none, None where its sizes are not known."""
    if not node.standard or node.op not in _WITH_MACS:
        return 0
    try:
        return _macs(node, [sizes.shapes.get(name) if name else None for name in node.inputs], sizes)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None


def _macs(node: Node, shapes: Sequence[Shape | None], sizes: Sizes) -> int | None:
    op = node.op
    result = sizes.shapes.get(node.outputs[0])
    if op in ("LSTM", "GRU", "RNN"):
        return _recurrent_macs(node, shapes)
    if op == "Einsum":
        return _einsum_macs(node, shapes)
    if op == "Attention":
        query, key, value = shapes[0], shapes[1], shapes[2]
        if query is None or key is None or value is None or len(query) != 4:
            return None
        return elements((*query[:3], key[2], (query[3] or 0) + (value[3] or 0)))
    weight = shapes[3 if op in ("QLinearConv", "QLinearMatMul") else 1]
    if not weight:
        return None
    if op in ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"):
        left = shapes[0]
        inner = [left[0 if node.get("transA", 0) else -1]] if left else []
        inner.append(weight[-1 if node.get("transB", 0) or len(weight) == 1 else -2])
        depth = next((size for size in inner if size is not None), None)
        outside = elements(result)
    else:
        depth = elements(weight[1:])
        outside = elements(shapes[0] if op == "ConvTranspose" else result)
    return None if depth is None or outside is None else depth * outside


def _recurrent_macs(node: Node, shapes: Sequence[Shape | None]) -> int | None:
    """Returns the multiply-adds of a recurrent operator: those of both weights, for every step and row."""
    data = shapes[0]
    inside, between = elements(shapes[1]), elements(shapes[2])
    if data is None or data[0] is None or data[1] is None or inside is None or between is None:
        return None
    return data[0] * data[1] * (inside + between)


def _einsum_macs(node: Node, shapes: Sequence[Shape | None]) -> int | None:
    """Returns the multiply-adds of an Einsum of one or two tensors: the product of all sizes if something is multiplied."""
    terms, _, letters = einsum_terms(node, shapes)
    if len(terms) == 1:
        return 0
    return elements(tuple(letters.values())) if len(terms) == 2 else None


def count_parameters(graph: Graph) -> int:
    """Counts the parameters of a graph as it is in the file, its subgraphs included.

    Elements of floating-point tensors, and of integer tensors of more than one element that are dequantised; without running
    means and variances, the bounds of Clip and the scales and zero points of quantised tensors.
    """
    buffers: set[str] = set()
    quantised: set[str] = set()
    total = 0
    for node in graph.nodes:
        if node.op == "BatchNormalization":
            buffers.update(node.inputs[3:5])
        elif node.op in ("Clip", "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear"):
            buffers.update(node.inputs[1:])
            quantised.update(node.inputs[:1] if node.op == "DequantizeLinear" else [])
        elif node.op in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"):
            quantised.update(node.inputs[3:4] if node.op.startswith("QLinear") else node.inputs[1:2])
        total += sum(count_parameters(inner) for _, inner in node.graphs)
    for name, tensor in graph.tensors.items():
        stored = tensor.dtype in FLOATING if name not in quantised else True
        if stored and name not in buffers and tensor.shape:  # single numbers are constants
            total += math.prod(tensor.shape)
    return total


__all__ = [
    "BOOL",
    "CLASSES",
    "FLOAT",
    "FLOATING",
    "INT64",
    "MAX_LITERAL",
    "Cost",
    "Graph",
    "GraphCost",
    "Model",
    "Node",
    "OnnxTextError",
    "Shape",
    "Sizes",
    "Tensor",
    "Value",
    "class_costs",
    "cost_lines",
    "count_parameters",
    "elements",
    "naming_errors",
    "number_word",
    "read_graph",
    "total_cost",
    "trip_count",
    "type_name",
]
