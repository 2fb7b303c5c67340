"""ONNX graph to text: short, canonical, repeated blocks written once.

What it does
    * reads the structure of a graph and the *shapes* of its weights, never the weights;
    * glues batch norm and activation to their convolution: ``conv3x3-bn-relu 16 s2``;
    * flattens additions to one sum: ``v0 + conv1x1-bn 64``;
    * numbers values in an order that depends on the graph alone, so renamed tensors and shuffled nodes give
      the same text;
    * writes a block that occurs again once, as ``def f a``, and calls it with its channel counts: ``f 64 x3``.

How to read the text (one statement a line)
    ==============================  =========================================================================
    ``total x61 total m12346``      what the graph costs, in the first lines: see `onnx_profile_rlm.py`
    ``in 1 3 32 32``                a graph input and its shape; ``n`` is a free dimension, ``?`` an unknown shape
    ``v1 = conv3x3 16 s2 v0``       operator, its numbers, its arguments; the result is called v1
    ``conv1x1-bn 64``               no name: only the next line uses it; no argument: applied to the line before
    ``v0 + avgpool3x3 v1``          a sum of values and operators applied to values
    ``def f a b``                   a block; its inputs are v0, v1, ...; its result is its last line; a, b are numbers
    ``f 64 256 x3``                 the block applied three times in a row with a = 64, b = 256
    ``out v3 v5``                   the graph outputs, unless the last line is the only one
    ==============================  =========================================================================

    The number after a convolution, ``fc`` (Gemm) or ``matmul`` is its output width; it is left out where it equals
    the input width. ``s2`` stride, ``d2`` dilation, ``p0`` padding (left out where it is dilation * (kernel - 1) // 2),
    ``same`` and ``samelow`` the automatic paddings, ``grp4`` groups, ``dwconv`` depthwise, ``bias`` a bias input,
    ``w 768`` a weight and its shape. Other operators keep their ONNX name in lower case, with the attributes that
    differ from the operator's defaults.

What is read of the data
    int64 and boolean tensors of at most 64 elements that lie inside the model file (Reshape targets, axes, pads),
    single numbers in Constant nodes, and the two bounds of Clip. Nothing else: external data files are not opened.
    More than eight equally spaced integers are written ``range first count step``, the ends of int64 ``inf``, ``-inf``.

What the text does not tell apart
    The order in which a chain of additions is made, but for what the sums cost; Identity nodes; ``x * sigmoid(x)`` and one
    silu operator. Nodes that no output needs are not written, only counted (`onnx_profile_rlm.py`): what they compute is
    lost, what they cost is not. Between nodes that look alike from everywhere the order in the file decides only where
    telling them apart would take more than 400,000 visits of nodes.

Example:
    >>> from code_rlm.onnx_text_rlm import onnx_to_text
    >>> print(onnx_to_text("resnet18.onnx"))  # doctest: +SKIP
"""

import math
import os
import re
from hashlib import blake2b

from .errors_rlm import RLMError
from .onnx_profile_rlm import profile_lines

try:
    import onnx
    from onnx import numpy_helper
except ImportError:  # the text needs onnx only when a graph is read
    onnx = None

# Markers inside the parts of a statement. Strings are printed as they are.
_NUM = 0  # the next number of the statement
_REF = 1  # the next argument, always by name
_PREV = 2  # the next argument, left out where it is the unnamed value of the line before
# a negative number -k is a call of block k - 1

_ACTIVATIONS = {
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
_DEFAULT_DOMAINS = ("", "ai.onnx")
_EXTERNAL = 1  # TensorProto.EXTERNAL
_FLOAT = 1  # TensorProto.FLOAT
_LITERALS = (7, 9)  # TensorProto: int64 and bool
_MAX_LITERAL = 64
_MIN_GAIN = 6  # tokens a block must save
_MAX_BLOCKS = 24
_MAX_TRIES = 256  # candidate blocks looked at before folding ends
_RADIUS = 8
_BLOCK_SIZE = 6  # nodes
_MAX_EFFORT = 400_000  # node visits spent on telling symmetric nodes apart
_TOKEN = re.compile(r"[A-Za-z]+|\d|[^\sA-Za-z\d]")
_BLOCK_NAMES = "fghjkmqrtuyz"
_NUMBER_NAMES = "abceilo"


class OnnxTextError(RLMError):
    """The model cannot be written as text; the message says why and what to do."""


def estimate_tokens(text):
    """Count words, digits and punctuation marks of a text, one each.

    Args:
        text (str): any text.

    Returns:
        int: an estimate of its length in tokens, line ends not counted.
    """
    return len(_TOKEN.findall(text))


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _load(model):
    """Return a ModelProto from a ModelProto, a path or bytes, without any external data."""
    if onnx is None:
        raise OnnxTextError("reading ONNX graphs needs the onnx package: pip install onnx")
    if isinstance(model, onnx.ModelProto):
        loaded = model
    elif isinstance(model, (bytes, bytearray, memoryview)):
        try:
            loaded = onnx.load_model_from_string(bytes(model))
        except Exception as error:
            raise OnnxTextError(f"these {len(model)} bytes are no ONNX model: {error}") from error
    elif isinstance(model, (str, os.PathLike)):
        path = os.fspath(model)
        if not os.path.isfile(path):
            raise OnnxTextError(f"no such file: {path!r}; give the path of a .onnx file, its bytes or a ModelProto")
        try:
            loaded = onnx.load(path, load_external_data=False)
        except Exception as error:
            raise OnnxTextError(f"{path!r} is no ONNX model: {error}") from error
    else:
        raise OnnxTextError(f"model must be an onnx.ModelProto, a path or bytes, not {type(model).__name__}")
    if not loaded.graph.output:
        raise OnnxTextError("the model has no graph outputs; is it an ONNX model, and did all of it arrive?")
    if loaded.functions:
        try:
            from onnx import inliner

            loaded = inliner.inline_local_functions(loaded)
        except Exception as error:
            raise OnnxTextError(f"the model's local functions cannot be inlined: {error}") from error
    return loaded


def _check_external(tensor, seen):
    """Refuse an external-data location outside the model's folder. Locations in ``seen`` have passed."""
    for entry in tensor.external_data:
        if entry.key == "location":
            location = entry.value if isinstance(entry.value, str) else repr(entry.value)
            if location in seen:
                return
            parts = location.replace("\\", "/").split("/")
            if location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in location:
                raise OnnxTextError(
                    f"tensor {tensor.name!r} points to {location!r}, outside the model's folder; "
                    "external data must have a relative path without '..'"
                )
            seen.add(location)
            return
    raise OnnxTextError(f"tensor {tensor.name!r} is stored externally but names no location")


def _number(value):
    """A float as a short word: 0.1, 6, 1e-5."""
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.6g}").replace("e+", "e")


def _literal(tensor, scalar=False):
    """Values of a small int64 or boolean tensor, or of a single number where ``scalar``; None for anything else.

    Returns:
        tuple | None: ints, or one string for a single float.
    """
    if tensor.data_location == _EXTERNAL:
        return None
    small = tensor.data_type in _LITERALS and math.prod(tensor.dims) <= _MAX_LITERAL
    single = scalar and math.prod(tensor.dims) == 1 and tensor.data_type != onnx.TensorProto.STRING
    if not small and not single:
        return None
    try:
        values = numpy_helper.to_array(tensor).ravel()
    except Exception as error:
        raise OnnxTextError(f"constant {tensor.name!r} of shape {tuple(tensor.dims)} is broken: {error}") from error
    return tuple(int(v) for v in values) if small else (_number(float(values[0])),)


def _pieces(values):
    """A literal as printed: long ranges as ``range first count step``, the ends of int64 as ``inf`` and ``-inf``."""
    if len(values) > 8 and isinstance(values[0], int):
        step = values[1] - values[0]
        if values == tuple(range(values[0], values[0] + step * len(values), step or 1)):
            return ("range", values[0], len(values), step)
    return tuple(v if isinstance(v, str) or abs(v) < 1 << 62 else "inf" if v > 0 else "-inf" for v in values)


def _type_name(number):
    """An element type as a word: 7 becomes int64."""
    if number not in onnx.TensorProto.DataType.values():
        raise OnnxTextError(f"element type {number} is unknown to onnx {onnx.__version__}")
    return onnx.TensorProto.DataType.Name(number).lower()


class _Node:
    """An operator after fusion: ``parts`` to print, ``nums`` (value, equals input width), argument and result ids."""

    __slots__ = ("args", "kind", "nums", "outs", "parts")

    def __init__(self, parts, nums, args, outs, kind=""):
        self.parts = parts
        self.nums = nums
        self.args = args
        self.outs = outs
        self.kind = kind  # "sum", "commutative", "input" or ""


def _sizes(values, letter, default):
    """``s2`` for equal values, ``s1x2`` for others, nothing for the default."""
    if not values or all(v == default for v in values):
        return ""
    if all(v == values[0] for v in values):
        return f"{letter}{values[0]}"
    return letter + "x".join(map(str, values))


_WINDOW_CACHE = {}


def _window(kernel, strides, dilations, pads, auto_pad):
    """Words for stride, dilation and padding of a convolution or pooling window.

    Args:
        kernel, strides, dilations (tuple[int]): one number a spatial axis; the last two may be empty.
        pads (tuple[int]): all beginnings, then all ends; may be empty.
        auto_pad (str): the ONNX attribute.

    Returns:
        tuple[str]: the words that differ from stride 1, dilation 1 and centred padding.
    """
    key = (kernel, strides, dilations, pads, auto_pad)
    words = _WINDOW_CACHE.get(key)
    if words is None:
        words = [_sizes(strides, "s", 1), _sizes(dilations, "d", 1)]
        if auto_pad == "SAME_UPPER":
            words.append("same")
        elif auto_pad == "SAME_LOWER":
            words.append("samelow")
        else:
            pads = pads if pads and auto_pad != "VALID" else (0,) * (2 * len(kernel))
            steps = dilations or (1,) * len(kernel)
            centred = tuple(d * (k - 1) // 2 for k, d in zip(kernel, steps)) * 2
            if pads != centred:
                words.append(_sizes(pads, "p", -1))
        words = tuple(w for w in words if w)
        if len(_WINDOW_CACHE) < 4096:
            _WINDOW_CACHE[key] = words
    return words


_DEFAULTS_CACHE = {}


def _defaults(op, domain, version):
    """Default attribute values of an operator as {name: text}; empty for an unknown one."""
    key = (op, domain, version)
    found = _DEFAULTS_CACHE.get(key)
    if found is None:
        found = {}
        try:
            for name, attribute in onnx.defs.get_schema(op, version, domain).attributes.items():
                if attribute.default_value.name:
                    found[name] = _attribute_words(attribute.default_value)
        except Exception:  # unknown operator or domain: every attribute is printed
            found = {}
        if len(_DEFAULTS_CACHE) < 4096:
            _DEFAULTS_CACHE[key] = found
    return found


def _attribute_words(attribute):
    """The value of an attribute as words."""
    kind = attribute.type
    if kind == 2:
        return (str(attribute.i),)
    if kind == 7:
        return tuple(map(str, attribute.ints))
    if kind == 1:
        return (_number(attribute.f),)
    if kind == 6:
        return tuple(_number(f) for f in attribute.floats)
    if kind == 3:
        return ("_".join(attribute.s.decode("utf-8", "replace").split()),)
    if kind == 8:
        return tuple("_".join(s.decode("utf-8", "replace").split()) for s in attribute.strings)
    if kind == 4:
        values = _literal(attribute.t, scalar=True)
        return tuple(map(str, _pieces(values))) if values is not None else ("w", *map(str, attribute.t.dims))
    if kind in (5, 10):
        raise OnnxTextError(
            f"attribute {attribute.name!r} holds a subgraph: If, Loop and Scan have no text form; "
            "export the model without control flow"
        )
    return (blake2b(attribute.SerializeToString(deterministic=True), digest_size=4).hexdigest(),)


def _needed(raw, outputs):
    """The entries of ``raw`` that an output depends on, in their order."""
    maker = {}
    for index, entry in enumerate(raw):
        for name in entry[2]:
            maker.setdefault(name, []).append(index)  # a name made twice is an error that is found later
    keep = set()
    waiting = list(outputs)
    while waiting:
        for index in maker.get(waiting.pop(), ()):
            if index not in keep:
                keep.add(index)
                waiting.extend(name for name in raw[index][1] if name)
    return [entry for index, entry in enumerate(raw) if index in keep]


class _Reader:
    """Turns a GraphProto to fused nodes over integer value ids."""

    def __init__(self, model):
        self.graph = model.graph
        self.versions = {o.domain: o.version for o in model.opset_import}
        self.weights = {}  # name -> TensorProto
        self.constants = {}  # name -> tuple of ints, or of one string
        self.shapes = {}
        self.dims_cache = {}
        self.norms = {}

    def read(self):
        """Return (nodes, output value ids); inputs are nodes of kind ``input``."""
        graph = self.graph
        external = set()
        for tensor in graph.initializer:
            if tensor.data_location == _EXTERNAL:
                _check_external(tensor, external)
            self.weights[tensor.name] = tensor
        for sparse in graph.sparse_initializer:
            dense = onnx.TensorProto(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
            dense.data_location = _EXTERNAL  # only its shape is of use
            self.weights[dense.name] = dense
        alias = {}
        raw = []  # [op, inputs, outputs, proto, domain]
        for node in graph.node:
            op = node.op_type
            inputs, results = list(node.input), list(node.output)
            try:  # protobuf hands out text that is no UTF-8 as bytes
                "".join([op, node.domain, *inputs, *results, *[a.name for a in node.attribute]])
            except TypeError:
                message = f"a name in node {node.name!r} ({op!r}) is no valid UTF-8; the file is damaged"
                raise OnnxTextError(message) from None
            if not op or not results or not results[0]:
                raise OnnxTextError(f"node {node.name!r} ({op or 'no operator'}) has no {'output' if op else 'type'}")
            if op == "Identity" and node.domain in _DEFAULT_DOMAINS and len(inputs) == 1:
                alias[results[0]] = inputs[0]
            elif op == "Constant" and node.domain in _DEFAULT_DOMAINS:
                self._constant(node)
            else:
                raw.append([op, inputs, results, node, node.domain])
        outputs = [value.name for value in graph.output]
        if alias:

            def resolve(name):
                seen = 0
                while name in alias:
                    name = alias[name]
                    seen += 1
                    if seen > len(alias):
                        raise OnnxTextError(f"the graph has a cycle through {name!r}")
                return name

            for entry in raw:
                entry[1] = [resolve(n) if n in alias else n for n in entry[1]]
            outputs = [resolve(n) for n in outputs]
        inputs = [value for value in graph.input if value.name not in self.weights]
        self._wire(raw, inputs, outputs)  # nodes that no output needs are checked as well
        needed = _needed(raw, outputs)
        if len(needed) < len(raw):
            raw = needed
            self._wire(raw, inputs, outputs)
        self._gates(raw)
        return self._fuse(raw, inputs, outputs)

    def _constant(self, node):
        """Take the value of a Constant node: a literal if it is small, else a weight of that shape."""
        if not node.attribute or not node.output:
            raise OnnxTextError(f"Constant node {node.name!r} has no value")
        attribute = node.attribute[0]
        name = node.output[0]
        if attribute.name == "value":
            if attribute.t.data_location == _EXTERNAL:
                _check_external(attribute.t, set())
            values = _literal(attribute.t, scalar=True)
            if values is None:
                self.weights[name] = attribute.t
            else:
                self.constants[name] = values
        elif attribute.name in ("value_int", "value_ints"):
            self.constants[name] = (attribute.i,) if attribute.name == "value_int" else tuple(attribute.ints)
        else:
            self.constants[name] = _attribute_words(attribute)

    def _wire(self, raw, inputs, outputs):
        """Fill ``maker`` (name -> node index, -1 for inputs) and ``uses`` (name -> node indices, -1 for outputs)."""
        maker = {value.name: -1 for value in inputs}
        uses = {}
        for index, entry in enumerate(raw):
            for name in entry[2]:
                if name:
                    if name in maker:
                        raise OnnxTextError(f"tensor {name!r} is made twice; names in a graph must be unique")
                    maker[name] = index
            for name in entry[1]:
                if name in uses:
                    uses[name].append(index)
                else:
                    uses[name] = [index]
        for name in outputs:
            uses.setdefault(name, []).append(-1)
        weights, constants = self.weights, self.constants
        for name, users in uses.items():
            if name and name not in maker and name not in weights and name not in constants:
                user = raw[users[0]][0] if users[0] >= 0 else "a graph output"
                raise OnnxTextError(f"tensor {name!r}, read by {user}, is made by no node, input or initializer")
        self.maker = maker
        self.uses = uses

    def _only_use(self, name):
        """Index of the single node that reads a tensor, or -1."""
        users = self.uses.get(name, ())
        return users[0] if len(users) == 1 else -1

    def _gates(self, raw):
        """Rewrite x * sigmoid(x) and x * hardsigmoid(x), and Clip(0, 6), as one activation."""
        for index, entry in enumerate(raw):
            op = entry[0]
            if op == "Mul" and len(entry[1]) == 2 and entry[4] in _DEFAULT_DOMAINS:
                for x, gate in (entry[1], entry[1][::-1]):
                    made = self.maker.get(gate, -1)
                    if made < 0 or raw[made] is None or raw[made][0] not in ("Sigmoid", "HardSigmoid"):
                        continue
                    if raw[made][1][0] == x and self._only_use(gate) == index:
                        users = self.uses[x]
                        users.remove(made)
                        proto = raw[made][3]
                        name = "Silu" if raw[made][0] == "Sigmoid" else "HardSilu"
                        raw[index] = [name, [x], entry[2], proto, ""]
                        raw[made] = ["", [], [], None, ""]
                        break
            elif op == "Clip" and entry[4] in _DEFAULT_DOMAINS:
                names = {a.name: _number(a.f) for a in entry[3].attribute}
                bounds = [self._bound(n) for n in entry[1][1:3]] or [names.get("min"), names.get("max")]
                if bounds == ["0", "6"]:
                    for name in entry[1][1:]:
                        self.uses[name].remove(index)
                    raw[index] = ["Relu6", entry[1][:1], entry[2], None, ""]

    def _bound(self, name):
        """A Clip bound as text, None where it is not a constant."""
        if name in self.constants:
            return str(self.constants[name][0])
        tensor = self.weights.get(name)
        values = _literal(tensor, scalar=True) if tensor is not None else None
        return None if values is None else str(values[0])

    def _fuse(self, raw, inputs, outputs):
        """Group raw nodes to operators and translate names to value ids."""
        owner_after, owner_before = self._owners(raw)
        nodes = []
        ids = {}

        def value_id(name):
            found = ids.get(name)
            if found is None:
                found = ids[name] = len(ids)
            return found

        for position, value in enumerate(inputs):
            nodes.append(self._input(value, position, value_id))
        taken = set(owner_after.values()) | set(owner_before.values())
        for index, entry in enumerate(raw):
            if index in taken or not entry[0]:
                continue
            before = []
            first = index
            while first in owner_before:
                first = owner_before[first]
                before.append(first)
            after = []
            last = index
            while last in owner_after:
                last = owner_after[last]
                after.append(last)
            name, words, nums_first, args = self._operator(entry)
            outs = raw[last][2]
            for i in before:
                pre_name, pre_words, _, _ = self._operator(raw[i])
                name = f"{pre_name}-{name}"
                words = words + (("pre", *pre_words) if pre_words else ())
            for i in after:
                if raw[i][0] == "Add":
                    words = words + ("bias",)
                    continue
                post_name, post_words, _, _ = self._operator(raw[i])
                name = f"{name}-{post_name}"
                words = words + post_words
            if before:
                args = [raw[first][1][0] if a == entry[1][0] and k == 0 else a for k, a in enumerate(args)]
            if "" in args:
                raise OnnxTextError(f"{entry[0]} that makes {outs[0]!r} lacks an input")
            args = [self._argument(a) if isinstance(a, str) else a for a in args]
            tensors = [value_id(a) for a in args if isinstance(a, str)]
            parts = [name]
            nums = list(nums_first)
            parts.extend([_NUM] * len(nums))
            parts.extend(words)
            kind = ""
            plain = not before and not after
            if plain and entry[0] in ("Add", "Sum") and len(tensors) == len(args) > 1:
                kind = "sum"
            elif plain and entry[0] in _COMMUTATIVE and len(tensors) == len(args) and not words:
                kind = "commutative"
            single = len(tensors) == 1 and isinstance(args[0], str)
            for a in args:
                if isinstance(a, str):
                    parts.append(_PREV if single else _REF)
                elif a is None:
                    parts.append("none")
                else:
                    for piece in a:
                        if isinstance(piece, int):
                            parts.append(_NUM)
                            nums.append((piece, False))
                        else:
                            parts.append(piece)
            while len(outs) > 1 and outs[-1] not in self.uses:
                outs = outs[:-1]
            nodes.append(_Node(tuple(parts), tuple(nums), tensors, [value_id(o) if o else -1 for o in outs], kind))
        for name in dict.fromkeys(outputs):
            if name not in self.maker:  # an output that is a constant
                known = self.constants.get(name)
                words = ("w", *self._dims(name)) if known is None else ("const", *_pieces(known))
                nodes.append(_Node(tuple(map(str, words)), (), [], [value_id(name)]))
        return nodes, [value_id(n) for n in outputs]

    def _input(self, value, position, value_id):
        """A graph input as a statement: its element type unless float, and its shape."""
        kind = value.type.tensor_type
        parts = ["in"]
        if value.type.WhichOneof("value") != "tensor_type":
            parts.append(str(value.type.WhichOneof("value") or "?").replace("_type", ""))
        elif kind.elem_type not in (_FLOAT, 0):
            parts.append(_type_name(kind.elem_type))
        if kind.HasField("shape"):
            parts.extend(str(d.dim_value) if d.WhichOneof("value") == "dim_value" else "n" for d in kind.shape.dim)
        else:
            parts.append("?")
        return _Node(tuple(parts), (), [], [value_id(value.name)], "input")

    def _owners(self, raw):
        """Decide which batch norms and activations are printed with which operator.

        A network whose activations come before its convolutions (one that no convolution could take as its
        successor) is written ``relu-conv-bn`` throughout; any other ``conv-bn-relu``.

        Returns:
            tuple[dict, dict]: node index -> the node glued after it; node index -> the node glued before it.
        """
        heavy = [i for i, e in enumerate(raw) if e[0] in ("Conv", "ConvTranspose", "Gemm") and e[4] in _DEFAULT_DOMAINS]
        heavy_set = set(heavy)
        after = {}
        norm_owner = {}
        maker, weights = self.maker, self.weights
        for i in heavy:
            user = self._only_use(raw[i][2][0])
            if user >= 0 and self._is_norm(raw[user]) and raw[user][1][0] == raw[i][2][0]:
                after[i] = user
                norm_owner[user] = i
        post, pre = {}, {}
        for index, entry in enumerate(raw):
            if entry[0] not in _ACTIVATIONS or len(entry[1]) != 1 or entry[4] not in _DEFAULT_DOMAINS:
                continue
            source = entry[1][0]
            made = maker.get(source, -1)
            if made >= 0 and self._only_use(source) == index:
                if made in norm_owner or (made in heavy_set and made not in after):
                    post[index] = made
            user = self._only_use(entry[2][0])
            if user in heavy_set and raw[user][0] != "Gemm" and raw[user][1][0] == entry[2][0]:
                if len(raw[user][1]) > 1 and raw[user][1][1] in weights:
                    pre[index] = user
        before_style = any(index not in post for index in pre)
        before = {}
        for index, entry in enumerate(raw):
            if entry[0] not in _ACTIVATIONS:
                continue
            if index in pre and (before_style or index not in post):
                before[pre[index]] = index
                source = entry[1][0]
                made = maker.get(source, -1)
                if made >= 0 and self._is_norm(raw[made]) and made not in norm_owner:
                    if self._only_use(source) == index:
                        before[index] = made
            elif index in post:
                after[post[index]] = index
            else:
                source = entry[1][0] if entry[1] else ""
                made = maker.get(source, -1)
                if made >= 0 and self._is_norm(raw[made]) and self._only_use(source) == index:
                    after[made] = index
        # MatMul by a weight, then a bias vector: one operator
        for index, entry in enumerate(raw):
            if entry[0] == "MatMul" and len(entry[1]) == 2 and entry[1][1] in weights:
                user = self._only_use(entry[2][0])
                if user >= 0 and raw[user][0] == "Add" and index not in after:
                    other = [n for n in raw[user][1] if n != entry[2][0]]
                    if len(other) == 1 and other[0] in weights and len(weights[other[0]].dims) == 1:
                        after[index] = user
        return after, before

    def _is_norm(self, entry):
        """Whether a raw node is a batch norm with stored statistics and one result of use."""
        found = self.norms.get(id(entry[3]))
        if found is None:
            found = self.norms[id(entry[3])] = self._check_norm(entry)
        return found

    def _check_norm(self, entry):
        return (
            entry[0] == "BatchNormalization"
            and entry[4] in _DEFAULT_DOMAINS
            and len(entry[1]) == 5
            and all(n in self.weights for n in entry[1][1:])
            and not any(n in self.uses for n in entry[2][1:])
            and not any(a.name == "training_mode" and a.i for a in entry[3].attribute)
        )

    def _dims(self, name):
        dims = self.dims_cache.get(name)
        if dims is None:
            tensor = self.weights.get(name)
            dims = () if tensor is None else tuple(tensor.dims)
            self.dims_cache[name] = dims
        return dims

    def _operator(self, entry):
        """Return (name, words, numbers, arguments) of a raw node.

        Arguments are tensor names, None for a missing one, or a tuple of pieces for constants and weights.
        """
        op, ins, _, proto, domain = entry
        if domain in _DEFAULT_DOMAINS:
            if op in ("Conv", "ConvTranspose"):
                return self._conv(op, ins, proto)
            if op in ("Relu", "Relu6", "Silu"):
                return _ACTIVATIONS[op], (), (), ins
            if op == "HardSilu":
                return "hsilu", self._words(proto, "HardSigmoid", domain), (), ins
            if self._is_norm(entry):
                return "bn", self._words(proto, op, domain), (), ins[:1]
            if op in ("MaxPool", "AveragePool"):
                return self._pool(op, ins, proto)
            if op == "Gemm" and len(ins) > 1 and len(self._dims(ins[1])) == 2:
                return self._gemm(ins, proto)
            if op == "MatMul" and len(ins) == 2 and ins[1] in self.weights and len(self._dims(ins[1])) == 2:
                wide, out = self._dims(ins[1])
                return "matmul", (), ((out, wide == out),), ins[:1]
            if op in _NORMS and all(n in self.weights for n in ins[1:]):
                words = self._words(proto, op, domain)
                return _SHORT[op], words + (("bias",) if len(ins) > 2 and ins[2] else ()), (), ins[:1]
        name = _ACTIVATIONS.get(op) or _SHORT.get(op) or op.lower()
        if domain not in _DEFAULT_DOMAINS:
            name = f"{domain}.{op}".lower()
        args = [self._argument(n) or None for n in ins]
        while args and args[-1] is None:
            args.pop()
        if op in _COMMUTATIVE or op == "Add":
            args.sort(key=lambda a: not isinstance(a, str))
        return name, self._words(proto, op, domain), (), args

    def _argument(self, name):
        """A tensor's name, or what to print for a constant or a weight as a tuple of pieces."""
        if name in self.maker or not name:
            return name
        if name in self.constants:
            return _pieces(self.constants[name])
        values = _literal(self.weights[name])
        return _pieces(values) if values is not None else ("w", *self._dims(name))

    def _words(self, proto, op, domain, skip=()):
        """Attributes that differ from their defaults, as words in the order of their names."""
        if proto is None or not proto.attribute:
            return ()
        defaults = _defaults(op, "" if domain == "ai.onnx" else domain, self._version(domain))
        found = []
        for attribute in proto.attribute:
            if attribute.name in skip:
                continue
            words = _attribute_words(attribute)
            if op == "Cast" and attribute.name == "to":
                words = (_type_name(attribute.i),)
            if defaults.get(attribute.name) != words:
                found.append((attribute.name.replace("_", ""), words))
        found.sort()
        return tuple(w for name, words in found for w in (name, *words))

    def _version(self, domain):
        if domain in _DEFAULT_DOMAINS:
            return self.versions.get("", self.versions.get("ai.onnx", 1))
        return self.versions.get(domain, 1)

    def _conv(self, op, ins, proto):
        kernel = strides = dilations = pads = ()
        auto_pad, group, extra = "NOTSET", 1, ()
        for a in proto.attribute:
            name = a.name
            if name == "kernel_shape":
                kernel = tuple(a.ints)
            elif name == "strides":
                strides = tuple(a.ints)
            elif name == "dilations":
                dilations = tuple(a.ints)
            elif name == "pads":
                pads = tuple(a.ints)
            elif name == "group":
                group = a.i
            elif name == "auto_pad":
                auto_pad = a.s.decode("ascii", "replace")
            else:
                extra += (name.replace("_", ""), *_attribute_words(a))
        if len(ins) < 2:
            raise OnnxTextError(f"{op} {proto.name!r} has {len(ins)} inputs; it needs a tensor and a weight")
        dims = self._dims(ins[1])
        kernel = kernel or dims[2:]
        words = _window(kernel, strides, dilations, pads, auto_pad) + extra
        name = "conv" if op == "Conv" else "deconv"
        if not dims:  # the weight is computed: both tensors are arguments
            words += (f"grp{group}",) if group != 1 else ()
            return name + "x".join(map(str, kernel)), words, (), [n or None for n in ins]
        if len(dims) < 3:
            raise OnnxTextError(f"weight {ins[1]!r} of {op} {proto.name!r} has shape {dims}; it needs at least 3 axes")
        wide, out = (dims[1] * group, dims[0]) if op == "Conv" else (dims[0], dims[1] * group)
        if group > 1:
            if group == wide:
                name = "dw" + name
            else:
                words += (f"grp{group}",)
        if len(ins) > 2 and ins[2]:
            words += ("bias",)
        return name + "x".join(map(str, kernel)), words, ((out, wide == out),), ins[:1]

    def _pool(self, op, ins, proto):
        kernel = strides = dilations = pads = ()
        auto_pad, extra = "NOTSET", ()
        for a in proto.attribute:
            name = a.name
            if name == "kernel_shape":
                kernel = tuple(a.ints)
            elif name == "strides":
                strides = tuple(a.ints)
            elif name == "dilations":
                dilations = tuple(a.ints)
            elif name == "pads":
                pads = tuple(a.ints)
            elif name == "auto_pad":
                auto_pad = a.s.decode("ascii", "replace")
            elif name == "ceil_mode":
                extra += ("ceil",) if a.i else ()
            elif name == "count_include_pad":
                extra += ("padcount",) if a.i else ()
            elif name != "storage_order" or a.i:
                extra += (name.replace("_", ""), *_attribute_words(a))
        name = "maxpool" if op == "MaxPool" else "avgpool"
        words = _window(kernel, strides, dilations, pads, auto_pad)
        return name + "x".join(map(str, kernel)), words + tuple(sorted(extra)), (), ins

    def _gemm(self, ins, proto):
        rows, columns = self._dims(ins[1])
        transposed = any(a.name == "transB" and a.i for a in proto.attribute)
        wide, out = (columns, rows) if transposed else (rows, columns)
        words = self._words(proto, "Gemm", "", skip=("transB",))
        if not transposed:
            words += ("transb", "0")
        args = ins[:1]
        if len(ins) > 2 and ins[2]:
            if ins[2] in self.weights:
                words += ("bias",)
            else:
                args = [ins[0], ins[2]]
        return "fc", words, ((out, wide == out),), args


# ---------------------------------------------------------------------------------------------------------------------
# Canonical order


def _digest(*pieces):
    return blake2b(b"|".join(pieces), digest_size=10).digest()


def _flatten_sums(nodes, outputs):
    """Merge a sum that only feeds another sum into it."""
    maker = {}
    uses = {}
    for node in nodes:
        for out in node.outs:
            maker[out] = node
        for arg in node.args:
            uses[arg] = uses.get(arg, 0) + 1
    for out in outputs:
        uses[out] = uses.get(out, 0) + 1
    gone = set()
    for node in nodes:
        if node.kind != "sum" or not any(maker[a].kind == "sum" for a in node.args):
            continue
        stack = list(reversed(node.args))
        flat = []
        steps = 0
        while stack:
            arg = stack.pop()
            made = maker[arg]
            steps += 1
            if steps > 4 * len(nodes) + 16:
                raise OnnxTextError("the graph has a cycle through an addition")
            if made.kind == "sum" and uses[arg] == 1 and made is not node:
                stack.extend(reversed(made.args))
                gone.add(id(made))
            else:
                flat.append(arg)
        node.args = flat
    return [n for n in nodes if id(n) not in gone]


def _topological(nodes, maker):
    """Node indices in some topological order.

    Raises:
        OnnxTextError: the graph has a cycle.
    """
    readers = [[] for _ in nodes]
    waiting = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for arg in node.args:
            readers[maker[arg][0]].append(index)
        waiting[index] = len(node.args)
    ready = [i for i, w in enumerate(waiting) if not w]
    for index in ready:
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                ready.append(reader)
    if len(ready) < len(nodes):
        stuck = next(i for i, w in enumerate(waiting) if w)
        raise OnnxTextError(
            f"the graph has a cycle: {len(nodes) - len(ready)} nodes wait for each other, "
            f"one of them {nodes[stuck].parts[0]!r}"
        )
    return ready, readers


def _labels(nodes, outputs, maker, order, start):
    """Labels that depend on what lies before and after each node, not on names or on the order in the file.

    Args:
        start (list[bytes]): a first label per node.

    Returns:
        list[bytes]: equal for nodes that look the same from the graph's inputs and from its outputs.
    """
    forward = [b""] * len(nodes)
    for index in order:
        node = nodes[index]
        args = []
        for arg in node.args:
            made, slot = maker[arg]
            args.append(forward[made] if not slot else forward[made] + b"%d" % slot)
        if node.kind in ("sum", "commutative"):
            args.sort()
        forward[index] = _digest(start[index], *args)
    around = [[] for _ in nodes]
    for position, out in enumerate(outputs):
        made, slot = maker[out]
        around[made].append(b"out%d.%d" % (position, slot))
    labels = forward
    for index in reversed(order):
        node = nodes[index]
        seen = around[index]
        if len(seen) > 1:
            seen.sort()
        label = labels[index] = _digest(forward[index], *seen)
        ordered = node.kind not in ("sum", "commutative")
        for position, arg in enumerate(node.args):
            made, slot = maker[arg]
            around[made].append(label + b"%d.%d" % (position if ordered else 0, slot))
    return labels


def _order(nodes, outputs):
    """Canonical order: depth first from the outputs, operands of sums and products by label.

    Returns:
        list[int]: node indices, every node once, arguments before their readers.
    """
    maker = {out: (index, slot) for index, node in enumerate(nodes) for slot, out in enumerate(node.outs)}
    order, readers = _topological(nodes, maker)
    height = [0] * len(nodes)
    behind = [0] * len(nodes)  # how many nodes lie before each
    above = [0] * len(nodes)  # which, one bit a node
    for place, index in enumerate(order):
        args = [maker[a][0] for a in nodes[index].args]
        if args:
            height[index] = 1 + max([height[a] for a in args])
            bits = 0
            for a in args:
                bits |= above[a]
            behind[index] = bits.bit_count()
            above[index] = bits
        above[index] |= 1 << place
    texts = {}
    start = []
    for index, node in enumerate(nodes):
        key = (node.parts, node.nums, index if node.kind == "input" else -1, len(node.outs))
        label = texts.get(key)
        if label is None:
            label = texts[key] = repr(key).encode()
        start.append(label)
    labels = _labels(nodes, outputs, maker, order, start)
    names = [str(node.parts[0]) for node in nodes]
    near = {}

    def surroundings(index, radius):
        """What is around a node within some steps, blind to channel counts and to anything farther away."""
        found = near.get((index, radius))
        if found is None:
            node = nodes[index]
            if not radius:
                found = repr((node.parts, [same for _, same in node.nums])).encode()
            else:
                before = [surroundings(maker[a][0], radius - 1) for a in node.args]
                if node.kind in ("sum", "commutative"):
                    before.sort()
                behind = sorted(surroundings(r, radius - 1) for r in readers[index])
                found = _digest(surroundings(index, radius - 1), *before, b"", *behind)
            near[index, radius] = found
        return found

    def first(candidates):
        """The candidate to place first: the lowest, then by name, then by ever wider surroundings.

        Near surroundings come before labels of the whole graph so that equal blocks get equal orders.
        """
        best = min((height[i], names[i]) for i in candidates)
        candidates = [i for i in set(candidates) if (height[i], names[i]) == best]
        for radius in range(_RADIUS):
            if len(candidates) == 1:
                return candidates[0]
            views = [surroundings(i, radius) for i in candidates]
            best = min(views)
            candidates = [i for i, view in zip(candidates, views) if view == best]
        best = min(labels[i] for i in candidates)
        candidates = [i for i in candidates if labels[i] == best]
        return candidates[0] if len(candidates) == 1 else settle(candidates)

    final = {maker[out][0] for out in outputs}

    def branch(index, depth=0):
        """A node with all that only it reads; what others read too stands for itself."""
        node = nodes[index]
        if depth and (len(readers[index]) != 1 or node.kind == "input" or index in final or depth > 200):
            return f"#{index}"
        args = [f"{branch(maker[a][0], depth + 1)}.{maker[a][1]}" for a in node.args]
        if node.kind in ("sum", "commutative"):
            args.sort()
        return f"{start[index]}({','.join(args)})"

    def settle(candidates):
        """Choose among nodes with equal labels: any if they are copies, else by what the choice does to the labels."""
        index = candidates[0]
        swappable = index not in final and all(nodes[r].kind in ("sum", "commutative") for r in readers[index])
        if swappable and all(i not in final and readers[i] == readers[index] for i in candidates):
            if len({branch(i) for i in candidates}) == 1:
                return index
        effort[0] += len(nodes) * (len(candidates) + 1)
        if effort[0] > _MAX_EFFORT:
            return index
        marks = list(start)
        for position, done in enumerate(result):
            marks[done] += b"@%d" % position

        def refine(marks):
            found = _labels(nodes, outputs, maker, order, marks)
            return _labels(nodes, outputs, maker, order, found)

        found = refine(marks)
        best = min(found[i] for i in candidates)
        candidates = [i for i in candidates if found[i] == best]
        if len(candidates) == 1:
            return candidates[0]
        views = []
        for i in candidates:
            chosen = list(marks)
            chosen[i] += b"!"
            views.append(sorted(refine(chosen)))
        return candidates[views.index(min(views))]

    effort = [0]
    emitted = [False] * len(nodes)
    result = []

    def walk(root):
        """Emit a node after its arguments, depth first."""
        path = [root]
        while path:
            index = path[-1]
            if emitted[index]:
                path.pop()
                continue
            node = nodes[index]
            children = [maker[a][0] for a in node.args if not emitted[maker[a][0]]]
            if not children:
                path.pop()
                emitted[index] = True
                result.append(index)
                continue
            if len(children) > 1:  # what needs a whole block more comes first, so that blocks stay in one piece
                most = max([behind[c] for c in children])
                children = [c for c in children if behind[c] > most - _BLOCK_SIZE]
            if len(children) > 1 and node.kind in ("sum", "commutative"):
                path.append(first(children))
            else:
                path.append(children[0])

    for index, node in enumerate(nodes):
        if node.kind == "input":
            walk(index)
    for out in outputs:
        walk(maker[out][0])
    return result


# ---------------------------------------------------------------------------------------------------------------------
# Statements and blocks


class _Line:
    """A statement: parts with markers, numbers (value, equals input width), arguments, results, times in a row."""

    __slots__ = ("count", "nums", "outs", "parts", "refs")

    def __init__(self, parts, nums, refs, outs, count=1):
        self.parts = parts
        self.nums = nums
        self.refs = refs
        self.outs = outs
        self.count = count


def _statements(nodes, order, outputs):
    """Write ordered nodes as statements; operators that only feed a sum stand inside it."""
    uses = {}
    for node in nodes:
        for arg in node.args:
            uses[arg] = uses.get(arg, 0) + 1
    for out in outputs:
        uses[out] = uses.get(out, 0) + 2
    maker = {out: node for node in nodes for out in node.outs}
    place = {out: position for position, index in enumerate(order) for out in nodes[index].outs}
    inside = set()
    for node in nodes:
        if node.kind == "sum":
            for arg in node.args:
                made = maker[arg]
                if uses[arg] == 1 and len(made.outs) == 1 and made.kind != "input":
                    inside.add(arg)
    lines = []
    for index in order:
        node = nodes[index]
        if node.outs and node.outs[0] in inside:
            continue
        if node.kind == "sum":
            terms = []
            for arg in node.args:
                if arg in inside:
                    made = maker[arg]
                    refs = made.args
                    if made.kind == "commutative":
                        refs = sorted(refs, key=place.__getitem__)
                    terms.append(([place[r] for r in refs], repr(made.parts), made.parts, made.nums, refs))
                else:
                    terms.append(([place[arg]], "", (_REF,), (), [arg]))
            terms.sort(key=lambda t: (t[0], t[1], t[3]))
            parts, nums, refs = (), (), []
            for term in terms:
                parts += (("+",) if parts else ()) + term[2]
                nums += term[3]
                refs.extend(term[4])
            lines.append(_Line(parts, nums, refs, node.outs))
        else:
            refs = node.args
            if node.kind == "commutative":
                refs = sorted(refs, key=place.__getitem__)
            lines.append(_Line(node.parts, node.nums, refs, node.outs))
    return lines


def _last_uses(lines, outputs):
    last = {}
    for index, line in enumerate(lines):
        for ref in line.refs:
            last[ref] = index
    for out in outputs:
        last[out] = len(lines)
    return last


def _is_call(line):
    return isinstance(line.parts[0], int) and line.parts[0] < 0


def _runs(lines, outputs, calls_only=False):
    """Join equal statements applied one after another: ``f 64 x3``."""
    uses = {}
    for line in lines:
        for ref in line.refs:
            uses[ref] = uses.get(ref, 0) + 1
    for out in outputs:
        uses[out] = uses.get(out, 0) + 1
    result = []
    for line in lines:
        if result and len(line.refs) == 1 and len(line.outs) == 1 and (not calls_only or _is_call(line)):
            before = result[-1]
            if (
                before.parts == line.parts
                and before.nums == line.nums
                and len(before.refs) == 1
                and before.outs == line.refs
                and uses[line.refs[0]] == 1
            ):
                result[-1] = _Line(line.parts, line.nums, before.refs, line.outs, before.count + line.count)
                continue
        result.append(line)
    return result


_COST_CACHE = {}


def _cost(line):
    """Estimated tokens of a statement."""
    cost = _COST_CACHE.get(line.parts)
    if cost is None:
        cost = 0
        for part in line.parts:
            cost += len(_TOKEN.findall(part)) if isinstance(part, str) else 1 if part < 0 else 2 if part else 0
        cost += 2
        if len(_COST_CACHE) < 4096:
            _COST_CACHE[line.parts] = cost
    for value, same in line.nums:
        if not same:
            cost += len(str(value))
    return cost


def _keys(lines, outputs, last):
    """One character per statement, equal where operator and wiring are.

    Arguments count from the youngest value still needed, so the same block has the same characters wherever it stands.
    """
    alive = []
    table = {}
    text = []
    for index, line in enumerate(lines):
        if line.parts[0] == "in" or (line.count > 1 and _is_call(line)):
            key = index  # inputs stay outside blocks, and so do runs of calls: one level is easier to read
        else:
            ranks = tuple(len(alive) - alive.index(ref) for ref in line.refs)
            key = (line.parts, line.count, ranks, tuple(last[ref] == index for ref in line.refs))
        for ref in set(line.refs):
            if last[ref] == index:
                alive.remove(ref)
        for out in line.outs:
            if last.get(out, -1) > index:
                alive.append(out)
        code = table.get(key)
        if code is None:
            code = table[key] = chr(0x10000 + len(table))
        text.append(code)
    return "".join(text)


def _candidates(text, costs):
    """Substrings that occur at least twice, the most profitable first: (estimated gain, start, length)."""
    size = len(text)
    total = [0]
    for cost in costs:
        total.append(total[-1] + cost)
    longest = size if size <= 400 else max(64, 400 * 400 // size)
    seen = set()
    found = []
    for start in range(size - 1):
        length = 1
        limit = min(longest, size - start)
        while length <= limit:
            piece = text[start : start + length]
            if piece not in seen:
                count = text.count(piece)
                if count < 2:
                    break
                seen.add(piece)
                gain = (count - 1) * (total[start + length] - total[start]) - 3 * count - 2
                if gain >= _MIN_GAIN:
                    found.append((gain, start, length))
            length += 1
    found.sort(key=lambda c: (-c[0], c[2], c[1]))
    return found


def _shape_of(lines, last, start, stop):
    """Wiring of a segment with its outer values numbered by first use, or None if it is no block.

    A block reads at least one value and at most one of its results is used outside.

    Returns:
        tuple | None: wiring (comparable between segments), outer values, result.
    """
    inner = {}
    outer = {}
    wiring = []
    result = None
    for index in range(start, stop):
        line = lines[index]
        for ref in line.refs:
            if ref in inner:
                wiring.append(inner[ref])
            else:
                wiring.append(-1 - outer.setdefault(ref, len(outer)))
        for out in line.outs:
            if last.get(out, -1) >= stop:
                if result is not None:
                    return None
                result = out
            inner[out] = len(inner)
    if not outer:
        return None
    if result is None:
        result = lines[stop - 1].outs[0]
    wiring.append(inner[result])
    return wiring, list(outer), result


def _unify(lines, places, length):
    """One body for several segments: numbers that differ become parameters.

    Returns:
        tuple[list[_Line], list[tuple[int, ...]]]: body and, per parameter, its value in each segment.
    """
    body = []
    parameters = {}
    for offset in range(length):
        versions = [lines[p + offset] for p in places]
        nums = []
        for column in zip(*(v.nums for v in versions)):
            values = tuple(value for value, _ in column)
            if all(same for _, same in column):
                nums.append((values[0], True))
            elif all(v == values[0] for v in values):
                nums.append((values[0], False))
            else:
                name = parameters.setdefault(values, _number_name(len(parameters)))
                nums.append((name, False))
        first = versions[0]
        body.append(_Line(first.parts, tuple(nums), first.refs, first.outs, first.count))
    return body, list(parameters)


def _number_name(index):
    size = len(_NUMBER_NAMES)
    return _NUMBER_NAMES[index] if index < size else _NUMBER_NAMES[index % size] + str(index // size)


def _fold(lines, outputs):
    """Replace repeated segments by calls.

    Returns:
        tuple: the remaining statements and, per block, its body, its argument values, its result and its number of
        parameters.
    """
    blocks = []
    while len(blocks) < _MAX_BLOCKS:
        last = _last_uses(lines, outputs)
        text = _keys(lines, outputs, last)
        costs = [_cost(line) for line in lines]
        for _, start, length in _candidates(text, costs)[:_MAX_TRIES]:
            piece = text[start : start + length]
            places, wiring, arguments, results = [], None, [], []
            place = text.find(piece)
            while place >= 0:
                found = _shape_of(lines, last, place, place + length)
                if found is not None and (wiring is None or found[0] == wiring):
                    wiring = found[0]
                    places.append(place)
                    arguments.append(found[1])
                    results.append(found[2])
                    place = text.find(piece, place + length)
                else:
                    place = text.find(piece, place + 1)
            if len(places) < 2:
                continue
            body, parameters = _unify(lines, places, length)
            calls = []
            for k, args in enumerate(arguments):
                parts = (-1 - len(blocks),) + (_NUM,) * len(parameters)
                parts += (_PREV,) if len(args) == 1 else (_REF,) * len(args)
                nums = tuple((values[k], False) for values in parameters)
                calls.append(_Line(parts, nums, args, [results[k]]))
            before = sum(costs[p + o] for p in places for o in range(length))
            after = sum(map(_cost, body)) + sum(map(_cost, calls)) + 2 + len(parameters)
            if before - after < _MIN_GAIN:
                continue
            blocks.append((body, arguments[0], results[0], len(parameters)))
            starts = dict(zip(places, calls))
            folded = []
            index = 0
            while index < len(lines):
                if index in starts:
                    folded.append(starts[index])
                    index += length
                else:
                    folded.append(lines[index])
                    index += 1
            lines = _runs(folded, outputs, calls_only=True)
            break
        else:
            break
    return lines, blocks


def _write(lines, arguments, outputs, names):
    """Statements as text lines.

    Args:
        lines (list[_Line]): a body or the whole network.
        arguments (list[int]): values that come from outside, printed v0, v1, ...
        outputs (list[int]): values that are results.
        names (dict[int, str]): block number -> its name.

    Returns:
        list[str]: one line a statement; the last is ``out`` unless the statement before is the only result.
    """
    lines = _runs(lines, outputs)
    uses = {}
    for index, line in enumerate(lines):
        position = 0
        for part in line.parts:
            if part == _REF or part == _PREV:
                uses.setdefault(line.refs[position], []).append((index, part))
                position += 1
    final = lines[-1].outs if lines else []
    plain_end = len(outputs) == 1 and final == outputs and outputs[0] not in uses
    if not plain_end:
        for out in outputs:
            uses.setdefault(out, []).append((len(lines), _REF))
    called = {}
    result = []
    for k, value in enumerate(arguments):
        if len(arguments) > 1 or uses.get(value, []) != [(0, _PREV)]:
            called[value] = f"v{k}"
    next_name = len(arguments)
    for index, line in enumerate(lines):
        words = []
        refs = iter(line.refs)
        nums = iter(line.nums)
        for part in line.parts:
            if part == _NUM:
                value, same = next(nums)
                if not same:
                    words.append(str(value))
            elif part == _REF or part == _PREV:
                name = called.get(next(refs))
                if name:
                    words.append(name)
            elif isinstance(part, int):
                words.append(names[-1 - part])
            else:
                words.append(part)
        if line.count > 1:
            words.append(f"x{line.count}")
        single = len(line.outs) == 1
        if single and (line.outs[0] not in uses or uses[line.outs[0]] == [(index + 1, _PREV)]):
            pass
        elif any(out in uses for out in line.outs):
            results = []
            for out in line.outs:
                if out in uses:
                    called[out] = f"v{next_name}"
                    next_name += 1
                results.append(called.get(out, "_"))
            words = [*results, "=", *words]
        result.append(" ".join(words))
    if not plain_end:
        result.append(" ".join(["out", *(called[out] for out in outputs)]))
    return result


def onnx_to_text(model, *, fold=True, profile=True):
    """Write an ONNX graph as short canonical text.

    The text depends on operators, attributes, shapes of weights and wiring; not on names, nor on the order of nodes
    in the file, nor on the values of weights, which are never read.

    Args:
        model (onnx.ModelProto | str | os.PathLike | bytes): the graph; a path is read without its external data.
        fold (bool): write repeated blocks once and call them.
        profile (bool): begin with what the graph costs, as models are trained to read it.

    Returns:
        str: one statement a line, no line end after the last.

    Raises:
        OnnxTextError: no ONNX model, a tensor that nothing makes, external data outside the model's folder, or, in what an
            output needs, a cycle or control flow. Operators of unknown domains are written ``domain.operator`` with all
            their attributes; an input without a shape is written ``in ?``.

    Example:
        >>> onnx_to_text(model)  # doctest: +SKIP
        'in 1 3 32 32\\nconv3x3-bn-relu 16\\ngap\\nflatten\\nfc 10 bias'
    """
    loaded = _load(model)
    nodes, outputs = _Reader(loaded).read()
    nodes = _flatten_sums(nodes, outputs)
    lines = _statements(nodes, _order(nodes, outputs), outputs)
    blocks = []
    if fold:
        lines, blocks = _fold(lines, outputs)
    names = {}
    ordered = []

    def visit(body):
        for line in body:
            if _is_call(line):
                number = -1 - line.parts[0]
                if number not in names:
                    names[number] = ""
                    visit(blocks[number][0])
                    size = len(_BLOCK_NAMES)
                    k = len(ordered)
                    names[number] = _BLOCK_NAMES[k] if k < size else _BLOCK_NAMES[k % size] + str(k // size)
                    ordered.append(number)

    visit(lines)
    text = profile_lines(loaded) if profile else []
    for number in ordered:
        body, arguments, result, parameters = blocks[number]
        header = ["def", names[number], *(_number_name(k) for k in range(parameters))]
        if len(arguments) > 1:
            header.extend(f"v{k}" for k in range(len(arguments)))
        text.append(" ".join(header))
        text.extend(_write(body, arguments, [result], names))
    text.extend(_write(lines, [], outputs, names))
    return "\n".join(text)


__all__ = ["OnnxTextError", "estimate_tokens", "onnx_to_text"]
