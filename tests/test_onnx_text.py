"""ONNX text: canonical, folded, complete, and careful with what it reads."""

import os
import random
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from code_rlm import onnx_text_rlm
from code_rlm.data.nas_graphs import GraphBuilder, build_graph, count_flops_params
from code_rlm.onnx_canonical_rlm import canonical_graph
from code_rlm.onnx_graph_rlm import Cost
from code_rlm.onnx_graph_rlm import class_costs as costs_of_graph
from code_rlm.onnx_graph_rlm import cost_lines as lines_of_graph
from code_rlm.onnx_text_rlm import OnnxTextError, graph_cost

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
FBNET = "|".join(["k3_e1", "k5_e6", "k3_e1_g2", "skip", "k5_e1_g2", "k3_e3"] * 3 + ["k3_e3"] * 4)
CELL_TEXT = """\
def f
v1 = relu-conv3x3-bn v0
v0 + relu-conv3x3-bn v0 + avgpool3x3 v1 + relu-conv3x3-bn v1
def g a
v1 = avgpool2x2 s2 v0
relu-conv3x3-bn a s2 v0
conv1x1 a v1 + relu-conv3x3-bn
in 1 3 32 32
conv3x3-bn 16
f x5
g 32
f x5
g 64
f x5
bn-relu
gap
flatten
fc 10 bias"""

CELL_COSTS = """\
total x118 total m113951 total o1075 total w799
conv x50 conv m113689 conv o471 conv w795
conv1x1 x2 conv1x1 m262 conv1x1 o12 conv1x1 w3
matmul x1 matmul m1 matmul o1 matmul w1
add x47 add o442
pool x18 pool o150
"""


def onnx_to_text(model, **options):
    """A graph's statements, without the lines that say what it costs."""
    return onnx_text_rlm.onnx_to_text(model, costs=False, **options)


def cost_lines(model):
    """The lines of a graph's text that state what it costs."""
    return lines_of_graph(*canonical_graph(model))


def class_costs(model):
    """What a graph costs by class of operator."""
    return costs_of_graph(*canonical_graph(model))


relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# ---------------------------------------------------------------------------------------------------------------------
# Graphs to test with


def random_graph(plan):
    """A graph from a list of (operator, first argument, second argument, number); arguments count back."""
    g = GraphBuilder("random", (1, 8, 16, 16))
    values = [g.input]
    for op, first, second, number in plan:
        a, b = values[-1 - first % len(values)], values[-1 - second % len(values)]
        if op == "conv":
            values.append(g.conv(a, 8, (1, 3, 5)[number % 3]))
        elif op == "wide":
            values.append(g.conv(g.conv(a, 8 * (2 + number % 3), 1), 8, 3))
        elif op == "block":
            values.append(g.sum([a, g.norm(g.conv(g.relu(a), 8, 3))]))
        elif op == "norm":
            values.append(g.relu(g.norm(g.conv(a, 8, 3))))
        elif op == "relu":
            values.append(g.relu(a))
        elif op == "pool":
            values.append(g.pool(a, "MaxPool", 3))
        elif op == "mul":
            values.append(g.add("Mul", [a, b], g.shapes[a]))
        else:
            values.append(g.sum([a, b]))
    return g.build(values[-1])


steps = st.tuples(
    st.sampled_from(["conv", "wide", "block", "norm", "relu", "pool", "add", "add", "mul"]),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 5),
)
plans = st.lists(steps, min_size=1, max_size=14)
repeated = st.tuples(plans, st.integers(1, 4)).map(lambda p: p[0] * p[1])


def words_and_digits(text):
    """Words, digits and punctuation marks of a text: about as many as tokens."""
    return len(re.findall(r"[A-Za-z]+|\d|[^\sA-Za-z\d]", text))


def model_of(nodes, weights=(), shape=(1, 8), outputs=("y",), opsets=(("", 17),)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*o) for o in opsets])


def external_weight(dims, name="w"):
    """A float32 weight of a shape, whose data is nowhere."""
    weight = TensorProto(name=name, data_type=1, dims=dims, data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="weights.bin")
    return weight


def shuffled(model, seed):
    """The same graph with other names, another order of nodes and weights, and swapped operands of Add and Mul."""
    rng = random.Random(seed)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = {}

    def rename(name):
        return names.setdefault(name, f"x{rng.randrange(10**9)}_{len(names)}")

    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in copy.graph.node]
    rng.shuffle(nodes)
    for node in nodes:
        inputs = list(node.input)
        if node.op_type in ("Add", "Mul"):
            rng.shuffle(inputs)
        attributes = list(node.attribute)
        rng.shuffle(attributes)
        attributes = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in attributes]
        del node.attribute[:]
        node.attribute.extend(attributes)
        node.name = rename(node.output[0] + "/node")
        node.input[:] = [rename(n) for n in inputs]
        node.output[:] = [rename(n) for n in node.output]
    weights = [onnx.TensorProto.FromString(t.SerializeToString()) for t in copy.graph.initializer]
    rng.shuffle(weights)
    for weight in weights:
        weight.name = rename(weight.name)
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(weights)
    for value in (*copy.graph.input, *copy.graph.output):
        value.name = rename(value.name)
    return copy


# ---------------------------------------------------------------------------------------------------------------------
# Two independent readings of what a graph computes: from its text and from its protobuf


def apply_op(word, width, value, numbers, words):
    """Formula of one operator; a value is (formula, channels)."""
    if "conv" in word:
        width = numbers.pop(0) if numbers else width
        return (f"{word}[{width} {' '.join(words)}]({value[0]})", width)
    return (f"{word}({value[0]})", width)


def join_sum(terms):
    inner = []
    for formula, _ in terms:
        inner.extend(formula[4:-1].split(" & ") if formula.startswith("sum{") else [formula])
    return ("sum{" + " & ".join(sorted(inner)) + "}", terms[0][1])


def safe(formula):
    """Hide a sum's separators inside a larger formula."""
    return re.sub(r"[{}&]", "|", formula)


def formula_of_text(text):
    """Run the text with formulas for values and return the formula of its last line or of ``out``."""
    blocks, current = {}, None
    main = []
    for line in text.split("\n"):
        words = line.split()
        if words[0] == "def":
            current = blocks[words[1]] = ([w for w in words[2:] if w[0] != "v"], [])
        elif "in" in words[:3]:
            current = None
            main.append(line)
        else:
            (main if current is None else current[1]).append(line)

    def run(lines, env, numbers, before):
        for line in lines:
            words = line.split()
            if words[0] == "out":
                return env[words[1]]
            name = None
            if "=" in words:
                name, words = words[0], words[2:]
            if words[0] == "in":
                before = ("input", int(words[2]))
            else:
                terms = [term(t.split(), env, numbers, before) for t in " ".join(words).split(" + ")]
                before = join_sum(terms) if len(terms) > 1 else terms[0]
            if name:
                env[name] = before
        return before

    def term(words, env, numbers, before):
        if words[0] in env and len(words) == 1:
            return env[words[0]]
        count = 1
        if words[-1][0] == "x" and words[-1][1:].isdigit():
            count = int(words.pop()[1:])
        args = [env[w] for w in words if w in env] or [before]
        given = [numbers.get(w, w) for w in words[1:] if w not in env]
        values = [int(w) for w in given if str(w).isdigit()]
        rest = [w for w in given if not str(w).isdigit()]
        for _ in range(count):
            if words[0] in blocks:
                names, body = blocks[words[0]]
                inner = {f"v{k}": a for k, a in enumerate(args)}
                args = [run(body, inner, dict(zip(names, map(str, values))), args[0])]
            elif words[0] == "mul":
                args = [("mul(" + ", ".join(sorted(safe(a[0]) for a in args)) + ")", args[0][1])]
            else:
                value = (safe(args[0][0]), args[0][1])
                for op in words[0].split("-"):
                    value = apply_op(op, value[1], value, list(values), rest)
                args = [value]
        return args[0]

    return run(main, {}, {}, None)[0]


def formula_of_model(model):
    """The same formulas from nodes in file order."""
    dims = {t.name: list(t.dims) for t in model.graph.initializer}
    env = {model.graph.input[0].name: ("input", model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)}
    for node in model.graph.node:
        args = [env[n] for n in node.input if n in env]
        value = (safe(args[0][0]), args[0][1])
        if node.op_type == "Conv":
            out, _, kernel, _ = dims[node.input[1]]
            value = apply_op(f"conv{kernel}x{kernel}", out, value, [out], [])
        elif node.op_type == "Add":
            value = join_sum(args)
        elif node.op_type == "Mul":
            value = ("mul(" + ", ".join(sorted(safe(a[0]) for a in args)) + ")", args[0][1])
        else:
            word = {"Relu": "relu", "BatchNormalization": "bn", "MaxPool": "maxpool3x3"}[node.op_type]
            value = apply_op(word, value[1], value, [], [])
        env[node.output[0]] = value
    return env[model.graph.output[0].name][0]


# ---------------------------------------------------------------------------------------------------------------------
# Canonical and complete


@relaxed
@given(repeated, st.integers(0, 2**32))
def test_when_tensors_are_renamed_and_nodes_reordered_then_the_text_is_the_same(plan, seed):
    model = random_graph(plan)
    assert onnx_to_text(shuffled(model, seed)) == onnx_to_text(model)


@relaxed
@given(st.lists(steps, min_size=1, max_size=6), st.integers(1, 3))
def test_when_a_text_is_run_then_it_computes_what_the_graph_computes(plan, times):
    plan = [(op, a % 3, b % 3, n) for op, a, b, n in plan][:5] * times
    if sum(op in ("add", "mul", "block") for op, *_ in plan) > 9:
        plan = plan[:9]
    model = random_graph(plan)
    expected = formula_of_model(model)
    assert formula_of_text(onnx_to_text(model, fold=False)) == expected
    assert formula_of_text(onnx_to_text(model)) == expected


@relaxed
@given(plans, st.data())
def test_when_a_kernel_changes_then_the_text_changes(plan, data):
    model = random_graph(plan + [("conv", 0, 0, 0)])
    needed, nodes = {model.graph.output[0].name}, list(model.graph.node)
    for node in reversed(nodes):
        needed |= set(node.input) if needed & set(node.output) else set()
    node = data.draw(st.sampled_from([n for n in nodes if n.op_type == "Conv" and n.output[0] in needed]))
    before = onnx_to_text(model)
    kernel = next(a for a in node.attribute if a.name == "kernel_shape")
    kernel.ints[:] = [7, 7]
    assert onnx_to_text(model) != before


@relaxed
@given(plans, st.data())
def test_when_an_edge_moves_so_that_the_formula_changes_then_the_text_changes(plan, data):
    plan = [(op, a % 3, b % 3, n) for op, a, b, n in plan][:8]
    model = random_graph([("relu", 0, 0, 0), ("conv", 0, 0, 1), *plan])
    before, formula = onnx_to_text(model), formula_of_model(model)
    index = data.draw(st.integers(1, len(model.graph.node) - 1))
    node = model.graph.node[index]
    weights = {t.name: t.dims for t in model.graph.initializer}
    wide = {n.output[0] for n in model.graph.node if n.op_type == "Conv" and weights[n.input[1]][0] != 8}
    if node.input[0] in wide:
        return
    earlier = ["input"] + [n.output[0] for n in model.graph.node[:index] if n.output[0] not in wide]
    node.input[0] = data.draw(st.sampled_from(earlier))
    after = onnx_to_text(model)
    if formula_of_model(model) != formula:
        assert after != before


@pytest.mark.parametrize(
    "change",
    [
        dict(strides=[2, 2]),
        dict(pads=[0, 0, 0, 0]),
        dict(pads=[0, 1, 1, 1]),
        dict(dilations=[2, 2]),
        dict(group=2),
        dict(auto_pad="VALID"),
    ],
)
def test_when_a_convolution_attribute_changes_then_the_text_changes(change):
    def text(**attributes):
        weight = TensorProto(name="w", data_type=1, dims=[8, 8, 3, 3])
        node = helper.make_node("Conv", ["x", "w"], ["y"], **{"kernel_shape": [3, 3], "pads": [1] * 4, **attributes})
        return onnx_to_text(model_of([node], [weight], [1, 8, 16, 16]))

    assert text(**change) != text()


def test_when_branches_are_copies_then_their_order_in_the_file_does_not_matter():
    def ring(groups):
        g = GraphBuilder("rings", (1, 8, 4, 4))
        branches = [[g.conv(g.input, 8, 3) for _ in range(size)] for size in groups]
        sums = [g.sum([b[k], b[k - 1]]) for b in branches for k in range(len(b))]
        return g.build(g.sum([g.add("Relu", [s], g.shapes[s]) for s in sums]))

    six, three = ring([6]), ring([3, 3])
    assert onnx_to_text(six) != onnx_to_text(three)
    for model in (six, three):
        assert len({onnx_to_text(shuffled(model, seed)) for seed in range(6)}) == 1


@relaxed
@given(plans)
def test_when_a_node_is_needed_by_no_output_then_only_the_costs_know_of_it(plan):
    model = random_graph([*plan, ("relu", 0, 0, 0)])
    before, costs = onnx_to_text(model), class_costs(model)
    model.graph.initializer.append(external_weight([8, 8, 3, 3], "dead_w"))
    model.graph.node.append(helper.make_node("Conv", ["input", "dead_w"], ["dead"], kernel_shape=[3, 3], pads=[1] * 4))
    assert onnx_to_text(model) == before
    dead = Cost(operators=1, macs=8 * 16 * 16 * 72, written=8 * 16 * 16, weights=576)
    costs["conv"] = costs.get("conv", Cost()) + dead
    assert class_costs(model) == costs


# ---------------------------------------------------------------------------------------------------------------------
# Costs


def test_when_a_network_is_read_then_its_costs_stand_before_its_statements():
    text = onnx_text_rlm.onnx_to_text(build_graph("nasbench201", CELL))
    assert text == CELL_COSTS + CELL_TEXT


@relaxed
@given(plans, st.integers(0, 2**32))
def test_when_tensors_are_renamed_and_nodes_reordered_then_the_costs_are_the_same(plan, seed):
    model = random_graph(plan)
    assert cost_lines(shuffled(model, seed)) == cost_lines(model)


@pytest.mark.parametrize(("space", "arch"), [("nasbench201", CELL), ("fbnet", FBNET)])
def test_when_multiply_adds_are_added_up_then_they_are_those_of_the_exact_count(space, arch):
    model = build_graph(space, arch)
    total = sum(class_costs(model).values(), Cost())
    flops, params = count_flops_params(model, norm_flops=0)
    assert total.macs == flops
    assert 0.95 * params < total.weights < params  # the scales of batch norms are not counted


@pytest.mark.parametrize(
    ("op", "attributes", "weight", "shape", "line"),
    [
        ("Conv", dict(group=4), [8, 2, 1, 1], [1, 8, 40, 40], "group x1 group m26 group o13 group w1"),
        ("Conv", dict(group=8), [8, 1, 3, 3], [1, 8, 42, 42], "dw x1 dw m115 dw o13 dw w1"),
        ("Conv", {}, [16, 8, 1, 1], ["n", 8, 40, 40], "conv1x1 x1 conv1x1 m205 conv1x1 o26 conv1x1 w1"),
        ("ConvTranspose", dict(strides=[2, 2]), [8, 4, 2, 2], [1, 8, 50, 50], "conv x1 conv m320 conv o40 conv w1"),
        ("ConvTranspose", dict(group=8), [8, 1, 2, 2], [1, 8, 49, 49], "dw x1 dw m77 dw o20 dw w1"),
        ("Gemm", dict(transA=1), [64, 500], [64, 32], "matmul x1 matmul m1024 matmul o16 matmul w32"),
        ("MatMul", {}, [64, 500], [32, 64], "matmul x1 matmul m1024 matmul o16 matmul w32"),
        ("Transpose", {}, None, [200, 64], "move x1 move o13"),
        ("ReduceMean", {}, None, [200, 64], "pool x1 pool o1"),
        ("Softmax", {}, None, [200, 64], "other x1 other o13"),
        ("Rotor", dict(domain="my.lab"), None, [200, 64], "other x1"),
        ("Neg", {}, None, [200, "k"], "other x1"),
        ("Relu", {}, None, [200, 64], None),
    ],
)  # fmt: skip
def test_when_an_operator_is_counted_then_kind_and_sizes_are_its_own(op, attributes, weight, shape, line):
    node = helper.make_node(op, ["x", "w"] if weight else ["x"], ["y"], **attributes)
    model = model_of([node], [external_weight(weight)] if weight else [], shape)
    expected = [] if line is None else [re.sub(r"\b(conv1x1|[a-z]+) (?=[xmow])", "total ", line), line]
    assert cost_lines(model) == expected


@pytest.mark.parametrize("kept_in", ["initializer", "initializer and input", "Constant", "sparse_initializer"])
def test_when_a_weight_is_kept_in_another_place_then_the_costs_are_the_same(kept_in):
    weight = onnx.numpy_helper.from_array(np.ones((64, 500), np.float32), "w")
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    if kept_in == "Constant":
        model = model_of([helper.make_node("Constant", [], ["w"], value=weight), product], [], [32, 64])
    elif kept_in == "sparse_initializer":
        model = model_of([product], [], [32, 64])
        values = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
        places = onnx.numpy_helper.from_array(np.arange(3, dtype=np.int64), "places")
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [64, 500]))
    else:
        model = model_of([product], [weight], [32, 64])
        if kept_in.endswith("input"):
            model.ir_version = 3
            model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 500]))
    assert cost_lines(model)[1] == "matmul x1 matmul m1024 matmul o16 matmul w32"


def sliced(shape, *nodes, end=-1, axis=2):
    """A graph of Slices from 0 on and of Convs with a kernel of 5, each given as (operator, input, output)."""
    ends = {"start": 0, "end": end, "axis": axis}
    small = [onnx.numpy_helper.from_array(np.array([value], np.int64), name) for name, value in ends.items()]
    made = [helper.make_node(op, [x, *ends] if op == "Slice" else [x, "w"], [y]) for op, x, y in nodes]
    return model_of(made, [external_weight([8, 8, 5, 5]), *small], shape)


@pytest.mark.parametrize(
    ("model", "costs"),
    [
        # sizes of -1, as some writers mark free ones
        (sliced([1, 3, -1, -1], ("Slice", "x", "y")), ["move x1 move w1"]),
        (sliced([-1, 3, 40, 40], ("Slice", "x", "y"), end=1, axis=1), ["move x1 move o2 move w1"]),
        # a window larger than what it slides over, also behind a Slice
        (sliced([1, 8, 3, 3], ("Conv", "x", "c"), ("Slice", "c", "y")), ["conv x1 conv w2", "move x1 move w1"]),
        (
            sliced([1, 8, 3, 3], ("Slice", "x", "s"), ("Conv", "s", "c"), ("Slice", "c", "y")),
            ["conv x1 conv w2", "move x2 move o1 move w1"],
        ),
        # all is well
        (
            sliced([1, 8, 40, 40], ("Slice", "x", "s"), ("Conv", "s", "c"), ("Slice", "c", "y")),
            ["conv x1 conv m2016 conv o10 conv w2", "move x2 move o22 move w1"],
        ),
    ],
)
def test_when_a_slice_could_meet_a_negative_size_then_it_is_unknown_and_the_process_lives(model, costs):
    assert cost_lines(model)[1:] == costs


@pytest.mark.parametrize("kept_in", ["initializer", "Constant"])
def test_when_sizes_are_computed_from_numbers_of_the_file_then_they_are_known(kept_in):
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], pads=[2] * 4),
    ]
    if kept_in == "Constant":
        nodes.insert(0, helper.make_node("Constant", [], ["scales"], value=scales))
    weights = [external_weight([8, 8, 5, 5]), *([scales] if kept_in == "initializer" else [])]
    lines = cost_lines(model_of(nodes, weights, [1, 8, 16, 16]))
    assert lines[1:] == ["conv x1 conv m1638 conv o8 conv w2", "move x1 move o8 move w1"]


def test_when_an_operator_is_nobodys_then_the_sizes_around_it_are_known_all_the_same():
    nodes = [helper.make_node("Foo", ["x"], ["f"], domain="my.lab"), helper.make_node("MatMul", ["f", "w"], ["y"])]
    model = model_of(nodes, [external_weight([64, 500])], ["n", 64])
    assert cost_lines(model)[1:] == ["matmul x1 matmul w32", "other x1"]
    model.graph.value_info.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["n", 64]))
    assert cost_lines(model)[1:] == [
        "matmul x1 matmul m32 matmul o1 matmul w32",
        "other x1 other o1",
    ]


def test_when_a_weight_is_cast_first_then_it_counts():
    nodes = [helper.make_node("Cast", ["w"], ["c"], to=1), helper.make_node("MatMul", ["x", "c"], ["y"])]
    model = model_of(nodes, [external_weight([64, 500])], [2, 64])
    assert cost_lines(model)[1:] == ["matmul x1 matmul m64 matmul o1 matmul w32"]


def test_when_a_dead_node_reads_what_nothing_makes_then_it_is_refused():
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["nothing"], ["dead"])]
    with pytest.raises(OnnxTextError, match="'nothing'"):
        onnx_to_text(model_of(nodes, [], [1, 8]))


@pytest.mark.parametrize("version", [17, 99])
def test_when_onnx_cannot_infer_sizes_then_operators_are_counted_all_the_same(version):
    contradiction = [helper.make_node("Conv", ["x", "w"], ["y"])]
    model = model_of(contradiction, [external_weight([8, 3, 3, 3])], [1, 5], opsets=[("", version)])
    assert cost_lines(model)[1].startswith("conv x1")


def test_when_the_version_of_the_operators_is_not_said_then_onnx_refuses_and_weights_are_counted():
    model = model_of(
        [helper.make_node("Conv", ["x", "w"], ["y"])], [external_weight([8, 3, 30, 30])], opsets=[("my.lab", 1)]
    )
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(model)
    assert cost_lines(model)[1:] == ["conv x1 conv w22"]


# ---------------------------------------------------------------------------------------------------------------------
# Short


def test_when_a_nasbench201_network_is_read_then_its_cell_is_printed_once():
    text = onnx_to_text(build_graph("nasbench201", CELL))
    assert text == CELL_TEXT
    assert words_and_digits(text) < 150


def resnet50():
    g = GraphBuilder("resnet50", (1, 3, 224, 224))

    def conv(x, wide, kernel, stride=1, relu=True):
        x = g.norm(g.conv(x, wide, kernel, stride))
        return g.relu(x) if relu else x

    x = g.pool(conv(g.input, 64, 7, 2), "MaxPool", 3, 2)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            wide, stride = 64 * 2**stage, 2 if stage and not block else 1
            y = conv(conv(conv(x, wide, 1), wide, 3, stride), 4 * wide, 1, relu=False)
            short = x if block else conv(x, 4 * wide, 1, stride, relu=False)
            x = g.relu(g.sum([y, short]))
    return g.build(g.classify(x, 1000))


def test_when_a_resnet50_is_read_then_the_text_stays_under_400_tokens():
    text = onnx_to_text(resnet50())
    assert words_and_digits(text) < 400
    assert text.count("def ") >= 2 and "1000" in text


def test_when_a_block_occurs_with_other_channels_then_it_becomes_a_call_with_numbers():
    g = GraphBuilder("blocks", (1, 3, 32, 32))
    x = g.conv(g.input, 16, 3)
    for wide in (24, 40, 80):
        x = g.relu(g.norm(g.conv(x, 4 * wide, 1)))
        x = g.relu(g.norm(g.conv(x, 4 * wide, 3, groups=4 * wide)))
        x = g.norm(g.conv(x, wide, 1))
    lines = onnx_to_text(g.build(x)).split("\n")
    assert lines == [
        "def f a b",
        "conv1x1-bn-relu a",
        "dwconv3x3-bn-relu",
        "conv1x1-bn b",
        "in 1 3 32 32",
        "conv3x3 16",
        "f 96 24",
        "f 160 40",
        "f 320 80",
    ]


def test_when_folding_is_off_then_there_are_no_blocks():
    assert "def" not in onnx_to_text(build_graph("nasbench201", CELL), fold=False)


# ---------------------------------------------------------------------------------------------------------------------
# What is read, and what is refused


def test_when_weights_are_missing_then_path_bytes_and_proto_give_the_same_text(tmp_path):
    model = build_graph("nasbench201", CELL)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert onnx_to_text(path) == onnx_to_text(str(path)) == onnx_to_text(path.read_bytes()) == CELL_TEXT


def test_when_the_text_is_made_then_the_model_is_not_changed():
    model = build_graph("nasbench201", CELL)
    before = model.SerializeToString(deterministic=True)
    onnx_text_rlm.onnx_to_text(model)
    assert model.SerializeToString(deterministic=True) == before


def test_when_the_hash_seed_changes_then_the_text_does_not(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(build_graph("nasbench201", CELL).SerializeToString())
    code = "import sys; from code_rlm.onnx_text_rlm import onnx_to_text; print(onnx_to_text(sys.argv[1]))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == CELL_COSTS + CELL_TEXT


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../b", "C:/w.bin", "..\\w.bin"])
def test_when_external_data_lies_outside_the_folder_then_it_is_refused(location):
    weight = TensorProto(name="w", data_type=1, dims=[8, 8], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    with pytest.raises(OnnxTextError, match="outside the model's folder"):
        onnx_to_text(model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"not a model at all", "no ONNX model|no graph outputs"),
        (b"", "no graph outputs"),
        (3, "not int"),
        ("no/such/file.onnx", "no such file"),
        (
            model_of(
                [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], outputs=("b",)
            ),
            "cycle",
        ),
        (model_of([helper.make_node("Relu", ["y"], ["y"])]), "cycle"),
        (model_of([helper.make_node("Identity", ["y"], ["y"])]), "cycle"),
        (model_of([helper.make_node("Relu", ["nowhere"], ["y"])]), "'nowhere', read by Relu"),
        (model_of([helper.make_node("Relu", ["x"], ["z"])]), "'y', read by a graph output"),
        (model_of([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Tanh", ["x"], ["y"])]), "made twice"),
        (model_of([helper.make_node("Relu", ["x"], [])]), "no output"),
    ],
)
def test_when_a_model_is_broken_then_the_error_says_why(given, message):
    with pytest.raises(OnnxTextError, match=message):
        onnx_to_text(given)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_when_bytes_are_damaged_then_there_is_a_text_or_a_clear_error(data):
    raw = bytearray(SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert isinstance(onnx_to_text(bytes(raw)), str)
    except OnnxTextError:
        pass


SMALL = random_graph([("block", 0, 0, 0), ("add", 0, 1, 0)]).SerializeToString()


def test_when_an_operator_is_unknown_then_it_is_written_with_its_domain_and_attributes():
    node = helper.make_node("Rotor", ["x"], ["y"], domain="my.lab", speed=3)
    model = model_of([node], opsets=(("", 17), ("my.lab", 1)))
    assert onnx_to_text(model) == "in 1 8\nmy.lab.rotor speed 3"


def test_when_an_input_has_no_shape_or_free_axes_then_the_text_says_so():
    assert onnx_to_text(model_of([helper.make_node("Relu", ["x"], ["y"])], shape=None)).startswith("in ?\n")
    assert onnx_to_text(model_of([helper.make_node("Relu", ["x"], ["y"])], shape=["b", 8])).startswith("in n 8\n")


def test_when_small_integers_are_arguments_then_they_are_printed_and_floats_are_not():
    target = helper.make_tensor("t", TensorProto.INT64, [2], [0, -1])
    scale = helper.make_tensor("s", TensorProto.FLOAT, [1], [123.0])
    nodes = [helper.make_node("Reshape", ["x", "t"], ["a"]), helper.make_node("Mul", ["s", "a"], ["y"])]
    assert onnx_to_text(model_of(nodes, [target, scale])) == "in 1 8\nmul 123"  # the shape stays: no Reshape is left
    model = model_of(nodes, [helper.make_tensor("t", TensorProto.INT64, [2], [2, -1]), scale], [1, 8, "k"])
    assert onnx_to_text(model) == "in 1 8 n\nreshape 2 -1\nmul 123"


def test_when_an_operator_reads_only_weights_then_their_shapes_are_printed():
    weights = [TensorProto(name=n, data_type=1, dims=d) for n, d in (("a", [1, 3, 4, 4]), ("b", [8, 3, 1, 1]))]
    nodes = [helper.make_node("Conv", ["a", "b"], ["c"]), helper.make_node("Sub", ["x", "c"], ["y"])]
    assert onnx_to_text(model_of(nodes, weights)) == "in 1 8\nsub w 1 8 4 4"


def test_when_a_graph_has_several_outputs_then_they_are_listed_in_order():
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Tanh", ["a"], ["b"])]
    assert onnx_to_text(model_of(nodes, outputs=("a", "b"))) == "in 1 8\nv0 = relu\nv1 = tanh v0\nout v0 v1"
    assert onnx_to_text(model_of(nodes, outputs=("b", "a"))).endswith("out v1 v0")


def test_when_activations_are_spelled_out_then_they_become_one_operator():
    gate = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["s", "x"], ["y"])]
    assert onnx_to_text(model_of(gate)) == "in 1 8\nsilu"
    bounds = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("lo", 0.0), ("hi", 6.0))]
    assert onnx_to_text(model_of([helper.make_node("Clip", ["x", "lo", "hi"], ["y"])], bounds)) == "in 1 8\nrelu6"


# ---------------------------------------------------------------------------------------------------------------------
# One form


def small(values, name, dtype=np.int64):
    return onnx.numpy_helper.from_array(np.array(values, dtype), name)


def with_inputs(nodes, weights, shapes, outputs=("y",), opset=17):
    """A graph of several inputs by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_when_a_number_stands_in_a_node_or_in_an_initializer_then_the_text_is_the_same():
    number = small(0.125, "k", np.float32)
    product = helper.make_node("Mul", ["x", "k"], ["y"])
    in_node = onnx_to_text(model_of([helper.make_node("Constant", [], ["k"], value=number), product]))
    assert in_node == onnx_to_text(model_of([product], [number])) == "in 1 8\nmul 0.125"


@pytest.mark.parametrize("exponent", [2, 3])
def test_when_an_exponent_differs_then_the_text_states_it(exponent):
    model = model_of([helper.make_node("Pow", ["x", "e"], ["y"])], [small(exponent, "e", np.float32)])
    assert onnx_to_text(model) == f"in 1 8\npow {exponent}"


@pytest.mark.parametrize(("dtype", "word"), [(TensorProto.INT8, "int8"), (TensorProto.INT4, "int4")])
def test_when_weights_are_quantised_then_their_type_is_printed(dtype, word):
    weight = helper.make_tensor("w", dtype, [8, 16], [0] * 128)
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["d"]), helper.make_node("MatMul", ["x", "d"], ["y"])]
    assert onnx_to_text(model_of(nodes, [weight, small(0.1, "s", np.float32)])) == f"in 1 8\nfc 16 {word}"


def test_when_data_is_quantised_around_a_convolution_then_it_is_one_operator_with_both_types():
    weight = helper.make_tensor("w", TensorProto.INT8, [4, 8, 3, 3], [0] * 288)
    constants = [weight, small(0.1, "s", np.float32), small(3, "z", np.uint8), small(0, "zw", np.int8)]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["dw"]),
        helper.make_node("Conv", ["d", "dw"], ["y"], pads=[1] * 4),
    ]
    pairs = onnx_to_text(model_of(nodes, constants, [1, 8, 6, 6]))
    assert pairs == "in 1 8 6 6\nconv3x3 4 int8 quint8"
    fused = [
        nodes[0],
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "zw", "s", "z"], ["c"], pads=[1] * 4),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    assert onnx_to_text(model_of(fused, constants, [1, 8, 6, 6])) == pairs


def test_when_a_size_is_computed_then_it_is_the_number():
    """Reshape to (batch, channels, height * width) and back, the sizes read off the tensor as exporters write it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["c"]),
        helper.make_node("Unsqueeze", ["c", "zero"], ["c1"]),
        helper.make_node("Slice", ["s", "zero", "one1"], ["b1"]),
        helper.make_node("Concat", ["b1", "c1", "minus"], ["t"], axis=0),
        helper.make_node("Equal", ["t", "never"], ["e"]),
        helper.make_node("Where", ["e", "ones", "t"], ["t2"]),
        helper.make_node("Reshape", ["x", "t2"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    constants = [
        small(1, "one"),
        small([0], "zero"),
        small([1], "one1"),
        small([-1], "minus"),
        external_weight([24, 5]),
    ]
    constants += [small([7, 7, 7], "never"), small([1, 1, 1], "ones")]
    for batch in (1, "n"):
        text = onnx_text_rlm.onnx_to_text(model_of(nodes, constants, [batch, 8, 4, 6]))
        assert text.endswith(f"in {batch} 8 4 6\nreshape 0 0 -1\nmatmul 5") or "reshape 0 8 -1" in text
        assert "matmul m1" in text and "shape x" not in text


def test_when_attributes_have_become_inputs_then_the_text_is_the_same():
    old = [
        helper.make_node("Unsqueeze", ["x"], ["u"], axes=[-1]),
        helper.make_node("ReduceSum", ["u"], ["y"], axes=[-2], keepdims=0),
    ]
    new = [
        helper.make_node("Unsqueeze", ["x", "a"], ["u"]),
        helper.make_node("ReduceSum", ["u", "b"], ["y"], keepdims=0),
    ]
    constants = [small([2], "a"), small([1], "b")]
    before = onnx_to_text(model_of(old, [], ["n", 8], opsets=[("", 11)]))
    assert before == onnx_to_text(model_of(new, constants, ["n", 8], opsets=[("", 20)]))
    assert "reducesum keepdims 0 1" in before


def test_when_padding_is_automatic_or_a_node_then_it_is_that_of_the_convolution():
    def conv(nodes=(), source="x", **attributes):
        node = helper.make_node("Conv", [source, "w"], ["y"], kernel_shape=[3, 3], strides=[2, 2], **attributes)
        pads = small([0, 0, 0, 0, 0, 0, 1, 1], "p")
        return onnx_to_text(model_of([*nodes, node], [external_weight([8, 8, 3, 3]), pads], [1, 8, 16, 16]))

    padded = conv([helper.make_node("Pad", ["x", "p"], ["q"])], "q")
    assert conv(auto_pad="SAME_UPPER") == padded == conv(pads=[0, 0, 1, 1]) == "in 1 8 16 16\nconv3x3 s2 p0x0x1x1"
    assert conv(auto_pad="SAME_LOWER") == conv(pads=[1, 1, 0, 0]) != padded


def test_when_a_batch_norm_is_folded_then_the_text_is_that_of_the_unfolded_network():
    g = GraphBuilder("net", (1, 8, 16, 16))
    unfolded = g.build(g.relu(g.norm(g.conv(g.input, 16, 3))))
    g = GraphBuilder("net", (1, 8, 16, 16))
    folded = g.build(g.relu(g.conv(g.input, 16, 3, bias=True)))
    assert onnx_to_text(unfolded) == onnx_to_text(folded) == "in 1 8 16 16\nconv3x3-bn-relu 16"
    assert graph_cost(unfolded).flops == graph_cost(folded).flops == 16 * 16 * 16 * (72 + 2)


def test_when_a_gate_is_computed_from_one_pixel_then_its_bias_stays():
    g = GraphBuilder("gate", (1, 8, 16, 16))
    assert "conv1x1-relu 4 bias" in onnx_to_text(g.build(g.squeeze(g.input, 4)))


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        ([("Sigmoid", "x", "s"), ("Mul", "x s", "y")], "silu"),
        ([("Add", "x three", "a"), ("Clip", "a nil six", "c"), ("Mul", "x c", "m"), ("Div", "m six", "y")], "hswish"),
        ([("Add", "x three", "a"), ("Clip", "a nil six", "c"), ("Div", "c six", "h"), ("Mul", "h x", "y")], "hswish"),
        ([("Softplus", "x", "s"), ("Tanh", "s", "t"), ("Mul", "x t", "y")], "mish"),
        ([("Div", "x root", "d"), ("Erf", "d", "e"), ("Add", "e one", "a"), ("Mul", "x a", "m"), ("Mul", "m half", "y")],
         "gelu"),
        ([("Div", "x root", "d"), ("Erf", "d", "e"), ("Add", "e one", "a"), ("Mul", "x half", "m"), ("Mul", "m a", "y")],
         "gelu"),
        ([("Dropout", "x", "d"), ("Identity", "d", "i"), ("Mul", "i one", "j"), ("Relu", "j", "y")], "relu"),
    ],
)  # fmt: skip
def test_when_an_activation_is_written_out_then_it_is_one_operator(nodes, word):
    numbers = {"nil": 0, "half": 0.5, "one": 1, "three": 3, "six": 6, "root": 2**0.5}
    constants = [small(value, name, np.float32) for name, value in numbers.items()]
    made = [helper.make_node(op, names.split(), [result]) for op, names, result in nodes]
    assert onnx_to_text(model_of(made, constants)) == f"in 1 8\n{word}"
    # If something else reads a value on the way, nothing is lost.
    inner = made[0].output[0]
    both = onnx_to_text(model_of(made, constants, outputs=("y", inner)))
    assert len(both.split("\n")) > len(made) or word == "relu"


def test_when_a_layer_norm_is_written_out_then_it_is_one_operator():
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[-1]),
        helper.make_node("Sub", ["x", "m"], ["c"]),
        helper.make_node("Pow", ["c", "two"], ["q"]),
        helper.make_node("ReduceMean", ["q"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["e"]),
        helper.make_node("Sqrt", ["e"], ["r"]),
        helper.make_node("Div", ["c", "r"], ["n"]),
        helper.make_node("Mul", ["n", "g"], ["s"]),
        helper.make_node("Add", ["s", "b"], ["y"]),
    ]
    constants = [small(2, "two", np.float32), small(1e-5, "eps", np.float32)]
    constants += [external_weight([8], "g"), external_weight([8], "b")]
    assert onnx_to_text(model_of(nodes, constants, [1, 5, 8])) == "in 1 5 8\nlayernorm bias"


def test_when_an_activation_is_shared_by_convolutions_then_the_text_is_that_of_separate_ones():
    def network(shared):
        g = GraphBuilder("net", (1, 8, 16, 16))
        x = g.input
        for _ in range(3):
            first = g.relu(x)
            second = first if shared else g.relu(x)
            x = g.sum([g.norm(g.conv(first, 8, 3)), g.norm(g.conv(second, 8, 1)), x])
        return g.build(x)

    assert onnx_to_text(network(True)) == onnx_to_text(network(False))
    assert "relu-conv3x3-bn" in onnx_to_text(network(True))


def test_when_an_optimiser_merged_average_pools_then_each_sum_has_its_own():
    def network(pools, bias):
        g = GraphBuilder("net", (1, 8, 16, 16))
        first = g.pool(g.input, "AveragePool", 3)
        second = first if pools == 1 else g.pool(g.input, "AveragePool", 3)
        x = g.sum([first, g.conv(g.input, 8, 1, bias=bias)])
        return g.build(g.sum([g.add("Relu", [x], g.shapes[x]), second]))

    assert onnx_to_text(network(1, True)) == onnx_to_text(network(2, True))
    assert onnx_to_text(network(1, False)) != onnx_to_text(network(2, False))  # no optimiser was at work


def test_when_a_network_is_half_precision_then_its_input_states_it_and_weights_do_not_repeat_it():
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=[8, 16])
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = model_of([product], [weight])
    assert onnx_to_text(model) == "in 1 8\nfc 16 float16"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert onnx_to_text(model) == "in float16 1 8\nfc 16"


def test_when_a_residual_network_shares_its_activations_then_it_is_written_after_its_sums():
    text = onnx_to_text(resnet50())
    assert "conv1x1-bn-relu" in text and "relu-conv" not in text


# ---------------------------------------------------------------------------------------------------------------------
# Control flow, recurrences, functions


def body(nodes, inputs, outputs, weights=()):
    values = [helper.make_tensor_value_info(name, dtype, shape) for name, dtype, shape in inputs]
    ends = [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs]
    return helper.make_graph(nodes, "body", values, ends, weights)


def branches():
    made = []
    for letter in "ab":
        node = helper.make_node("Conv", ["x", "w" + letter], ["y" + letter], kernel_shape=[3], pads=[1, 1])
        wide = 8 if letter == "a" else 16
        made.append(
            body([node], [], [("y" + letter, TensorProto.FLOAT)], [external_weight([wide, 4, 3], "w" + letter)])
        )
    return {"then_branch": made[0], "else_branch": made[1]}


def test_when_a_condition_is_open_then_both_branches_are_printed_indented_and_the_larger_one_counts():
    nodes = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Cast", ["m"], ["c"], to=9)]
    model = model_of([*nodes, helper.make_node("If", ["c"], ["y"], **branches())], [], [1, 4, 64])
    text = "v0 = in 1 4 64\nreducemax keepdims 0 v0\nv1 = cast to bool\nif v1 v0\n  conv3 8 v1\nelse\n  conv3 16 v1"
    assert onnx_to_text(model) == text
    assert graph_cost(model).macs == 16 * 64 * 12
    assert onnx_text_rlm.graph_ngrams(text)["if"] == 1 and "conv3" not in onnx_text_rlm.graph_ngrams(text)


@pytest.mark.parametrize(("condition", "wide"), [(True, 8), (False, 16)])
def test_when_a_condition_is_constant_then_its_branch_is_the_graph(condition, wide):
    model = model_of([helper.make_node("If", ["c"], ["y"], **branches())], [small(condition, "c", bool)], [1, 4, 64])
    assert onnx_to_text(model) == f"in 1 4 64\nconv3 {wide}"


@pytest.mark.parametrize(("count", "printed", "macs"), [(10, "10", 640), (None, "n", 0)])
def test_when_a_loop_runs_then_its_body_is_printed_with_the_number_of_runs(count, printed, macs):
    step = [helper.make_node("MatMul", ["h", "w"], ["p"]), helper.make_node("Tanh", ["p"], ["q"])]
    inputs = [("i", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("h", TensorProto.FLOAT, [1, 8])]
    inner = body(step, inputs, [("go", TensorProto.BOOL), ("q", TensorProto.FLOAT)])
    nodes = [helper.make_node("Loop", ["n", "yes", "x"], ["y"], body=inner)]
    constants = [external_weight([8, 8]), small(True, "yes", bool)]
    if count is None:
        nodes.insert(0, helper.make_node("Cast", ["m"], ["n"], to=7))
        model = with_inputs(nodes, constants, {"x": [1, 8], "m": []})
    else:
        model = with_inputs(nodes, [*constants, small(count, "n")], {"x": [1, 8]})
    assert f"loop {printed}" in onnx_to_text(model) and onnx_to_text(model).endswith("\n  v3 = fc-tanh v0\n  out v2 v3")
    cost = graph_cost(model)
    assert cost.macs == macs and cost.unknown == (count is None)


def unrolled(steps):
    """A recurrent cell written out: h = sigmoid(c) * tanh(c) with c = x[t] W + h U."""
    nodes, constants, state = [], [small([1], "axis")], "x0"
    for t in range(steps):
        constants += [external_weight([8, 16], f"w{t}"), external_weight([16, 16], f"u{t}"), small([t], f"i{t}")]
        nodes += [
            helper.make_node("Gather", ["x", f"i{t}"], [f"g{t}"], axis=1),
            helper.make_node("Squeeze", [f"g{t}", "axis"], [f"s{t}"]),
            helper.make_node("MatMul", [f"s{t}", f"w{t}"], [f"p{t}"]),
            helper.make_node("MatMul", [state, f"u{t}"], [f"r{t}"]),
            helper.make_node("Add", [f"p{t}", f"r{t}"], [f"c{t}"]),
            helper.make_node("Sigmoid", [f"c{t}"], [f"z{t}"]),
            helper.make_node("Tanh", [f"c{t}"], [f"n{t}"]),
            helper.make_node("Mul", [f"z{t}", f"n{t}"], [f"h{t}"]),
        ]
        state = f"h{t}"
    return with_inputs(nodes, constants, {"x": [1, steps, 8], "x0": [1, 16]}, [state])


def test_when_a_recurrence_is_written_out_then_its_text_does_not_grow_with_its_steps():
    short, long = (onnx_to_text(unrolled(steps)) for steps in (40, 120))
    assert len(long.split()) == len(short.split()) < 130
    assert re.search(r" \d\+1 v\d v\d x11\d", long) and re.search(r" \d\+1 v\d v\d x3\d", short)
    counts = onnx_text_rlm.graph_ngrams(long)
    assert counts["tanh"] == 120 and counts == onnx_text_rlm.graph_ngrams(onnx_to_text(unrolled(120), fold=False))


def test_when_a_recurrent_operator_leaves_its_sequence_out_then_the_last_state_is_read():
    def network(first):
        nodes = [
            helper.make_node("GRU", ["x", "w", "r"], [first, "last"], hidden_size=16),
            helper.make_node("Relu", ["last"], ["y"]),
        ]
        return model_of(nodes, [external_weight([1, 48, 8]), external_weight([1, 48, 16], "r")], [20, 1, 8])

    assert onnx_to_text(network("")) == onnx_to_text(network("all"))
    assert onnx_to_text(network("")) == "in 20 1 8\n_ v0 = gru hiddensize 16 w 1 48 8 w 1 48 16\nrelu v0"
    assert graph_cost(network("")).macs == 20 * (48 * 8 + 48 * 16)


def test_when_a_model_has_functions_then_their_nodes_are_the_graph():
    relu = [helper.make_node("Relu", ["a"], ["b"])]
    inner = helper.make_function("my.lab", "Half", ["a"], ["b"], relu, [helper.make_opsetid("", 17)])
    outer = helper.make_function(
        "my.lab", "Twice", ["a"], ["c"],
        [helper.make_node("Half", ["a"], ["b"], domain="my.lab"), helper.make_node("Elu", ["b"], ["c"], alpha=2.0)],
        [helper.make_opsetid("", 17), helper.make_opsetid("my.lab", 1)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Twice", ["x"], ["m"], domain="my.lab"),
        helper.make_node("Twice", ["m"], ["y"], domain="my.lab"),
    ]
    model = model_of(nodes, opsets=(("", 17), ("my.lab", 1)))
    model.functions.extend([inner, outer])
    assert onnx_to_text(model, fold=False) == "in 1 8\nrelu\nelu alpha 2\nrelu\nelu alpha 2"


def test_when_functions_call_each_other_without_end_then_it_is_refused():
    model = model_of([helper.make_node("F", ["x"], ["y"], domain="my.lab")], opsets=(("", 17), ("my.lab", 1)))
    calls = [helper.make_node("F", ["a"], ["b"], domain="my.lab"), helper.make_node("F", ["b"], ["c"], domain="my.lab")]
    model.functions.append(helper.make_function("my.lab", "F", ["a"], ["c"], calls, [helper.make_opsetid("my.lab", 1)]))
    with pytest.raises(OnnxTextError, match="deep"):
        onnx_to_text(model)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes that are given, and files that are hostile


def test_when_free_sizes_are_given_then_the_costs_are_those_of_the_fixed_graph():
    def network(shape):
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)]
        return model_of(nodes, [external_weight([4, 3, 3, 3])], shape)

    free, fixed = network(["b", 3, "h", "w"]), network([1, 3, 20, 30])
    assert graph_cost(free).unknown == 1 and graph_cost(free).macs == 0
    for name in ("x", ""):
        assert graph_cost(free, {name: (1, 3, 20, 30)}) == graph_cost(fixed)
        assert onnx_to_text(free, input_shapes={name: (1, 3, 20, 30)}) == onnx_to_text(fixed)
    assert graph_cost(fixed).macs == 4 * 20 * 30 * 27 and graph_cost(fixed).parameters == 108
    with pytest.raises(OnnxTextError, match="no input 'z'"):
        graph_cost(free, {"z": (1, 3, 20, 30)})
    with pytest.raises(OnnxTextError, match="axes"):
        graph_cost(free, {"x": (1, 3)})
    with pytest.raises(OnnxTextError, match="fixed to 3"):
        graph_cost(free, {"x": (1, 4, 20, 30)})


def test_when_a_size_is_declared_huge_then_nothing_of_that_size_is_made():
    squeeze = model_of([helper.make_node("Squeeze", ["x"], ["y"])], [], [10**11])
    assert onnx_to_text(squeeze).startswith("in 100000000000")
    nodes = [helper.make_node("Shape", ["x"], ["s"]), helper.make_node("ConstantOfShape", ["s"], ["z"])]
    nodes += [helper.make_node("Range", ["zero", "n", "one"], ["r"]), helper.make_node("Tile", ["z", "r"], ["y"])]
    constants = [small(0, "zero"), small(10**12, "n"), small(1, "one")]
    assert "tile" in onnx_to_text(model_of(nodes, constants, [10**11]))


def test_when_onnx_itself_would_die_then_the_graph_is_read():
    nodes = [
        helper.make_node("MyOp", ["x"], ["a"], domain="my.domain"),
        helper.make_node("RegexFullMatch", ["a"], ["y"], pattern="a"),
    ]
    model = model_of(nodes, opsets=(("", 20), ("my.domain", 1)))
    assert onnx_to_text(model) == "in 1 8\nmy.domain.myop\nregexfullmatch pattern a"


def test_when_a_bound_is_empty_then_the_graph_is_read():
    nodes = [helper.make_node("Clip", ["x", "lo"], ["y"])]
    assert "clip" in onnx_to_text(model_of(nodes, [small([], "lo", np.float32)]))


def test_when_a_file_cannot_be_read_then_the_error_names_it(tmp_path):
    path = tmp_path / "odd.onnx"
    path.write_bytes(model_of([helper.make_node("Relu", ["nothing"], ["y"])]).SerializeToString())
    with pytest.raises(OnnxTextError, match=r"odd\.onnx.*'nothing'"):
        onnx_to_text(path)
