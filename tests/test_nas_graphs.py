"""NAS graphs: parameters and FLOPs of the published tables, no weights, clear errors."""

import onnx
import pytest
from onnx import TensorProto, helper

from code_rlm.data.nas_graphs import (
    SPACES,
    GraphBuilder,
    GraphSpaceError,
    build_graph,
    count_flops_params,
    nasbench101_channels,
    parse_darts,
    weight_bytes,
)
from code_rlm.onnx_text_rlm import onnx_to_text

# (cell, parameters, FLOPs) from the NAS-Bench-201 tables
NB201 = [
    (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
        802426,
        114893440,
    ),
    ("|nor_conv_1x1~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|avg_pool_3x3~1|avg_pool_3x3~2|", 101306, 12083840),
    (
        "|skip_connect~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|nor_conv_3x3~0|skip_connect~1|skip_connect~2|",
        316346,
        43541120,
    ),
    (
        "|nor_conv_1x1~0|+|skip_connect~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|",
        372346,
        51978880,
    ),
    ("|none~0|+|avg_pool_3x3~0|skip_connect~1|+|none~0|none~1|none~2|", 73306, 7864960),
]

# (adjacency, operators, parameters) from the NAS-Bench-101 tables
NB101 = [
    (
        "010011|001100|000011|000010|000001|000000",
        "input|conv3x3-bn-relu|conv1x1-bn-relu|conv1x1-bn-relu|conv1x1-bn-relu|output",
        4863626,
    ),
    (
        "0110000|0011000|0000001|0000110|0000010|0000001|0000000",
        "input|maxpool3x3|conv3x3-bn-relu|conv1x1-bn-relu|maxpool3x3|conv1x1-bn-relu|output",
        3729162,
    ),
    (
        "0110000|0011001|0000010|0000100|0000010|0000001|0000000",
        "input|maxpool3x3|maxpool3x3|conv3x3-bn-relu|conv3x3-bn-relu|maxpool3x3|output",
        5532810,
    ),
]

FBNET = (
    "k3_e3|skip|k5_e1_g2|k5_e1|k3_e1|k3_e3|k3_e6|k3_e1|k5_e3|k5_e1|k3_e1_g2|k3_e1_g2|k5_e1|k5_e3|k5_e1_g2|k5_e1|k3_e6"
    "|k3_e1|k3_e3|k3_e1|k5_e1_g2|skip"
)
MNASNET = [(4, 3, 1, 0), (1, 5, 1, 0), (1, 5, 2, 0), (1, 5, 2, 1), (4, 5, 2, 0), (6, 3, 3, 1), (6, 5, 3, 0)]
ACCEL = {f"block{b}_{key}": v for b, block in enumerate(MNASNET) for key, v in zip(("e", "k", "l", "se"), block)}
OFA = {"ks": [3, 5, 5, 7] * 5, "e": str([6, 3, 3, 4] * 5), "d": [4, 4, 2, 2, 4], "r": 132}
DARTS = (
    "Genotype(normal=[('dil_conv_5x5', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0)], "
    "normal_concat=[2, 3], reduce=[('none', 0), ('avg_pool_3x3', 1), ('skip_connect', 0), ('sep_conv_5x5', 2)], "
    "reduce_concat=[2, 3])"
)
ONE_OF_EACH = [
    ("nasbench201", NB201[0][0]),
    ("nasbench101", NB101[0][:2]),
    ("nasbench_macro", "11221012"),
    ("fbnet", FBNET),
    ("accel_nasbench", ACCEL),
    ("ofa", OFA),
    ("darts", DARTS),
]


@pytest.mark.parametrize(("arch", "params", "flops"), NB201)
def test_when_a_nasbench201_cell_is_built_then_params_and_flops_are_the_tables(arch, params, flops):
    assert count_flops_params(build_graph("nasbench201", arch)) == (flops, params)


@pytest.mark.parametrize(("adjacency", "ops", "params"), NB101)
def test_when_a_nasbench101_cell_is_built_then_params_are_the_tables(adjacency, ops, params):
    model = build_graph("nasbench101", (adjacency, ops))
    assert count_flops_params(model)[1] == params
    assert len(onnx_to_text(model, costs=False).split()) < 150


def test_when_the_arch_is_a_mapping_then_the_graph_is_the_same():
    adjacency, ops, _ = NB101[0]
    given = {"adjacency": adjacency, "ops": ops, "params": 1}
    assert build_graph("nasbench101", given) == build_graph("nasbench101", (adjacency, ops))


@pytest.mark.parametrize(("arch", "params", "flops"), [("10010001", 903562, 25043456), ("11221012", 2058058, 68313600)])
def test_when_a_macro_network_is_built_then_params_and_flops_are_the_tables(arch, params, flops):
    assert count_flops_params(build_graph("nasbench_macro", arch), norm_flops=0) == (flops, params)


def test_when_fbnet_and_mnasnet_are_built_then_params_are_the_tables():
    assert count_flops_params(build_graph("fbnet", FBNET))[1] == 1411356
    assert count_flops_params(build_graph("accel_nasbench", ACCEL))[1] == 6493954


def test_when_the_channels_do_not_divide_then_the_first_vertices_get_one_more():
    matrix = [[0, 1, 1, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0] * 5]
    assert nasbench101_channels(matrix, 128, 128) == [128, 43, 43, 42, 128]


@pytest.mark.parametrize(("space", "arch"), ONE_OF_EACH)
def test_when_a_graph_is_built_then_onnx_agrees_with_its_shapes_and_it_holds_no_weights(space, arch):
    model = build_graph(space, arch, batch=2)
    assert len(model.SerializeToString()) < 400_000
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    (output,) = inferred.graph.output
    assert [d.dim_value for d in output.type.tensor_type.shape.dim] == [
        2,
        {"fbnet": 100, "accel_nasbench": 1000, "ofa": 1000}.get(space, 10),
    ]
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.dims:
            assert tensor.data_location == TensorProto.EXTERNAL
            assert not tensor.raw_data and not tensor.float_data
    flops, params = count_flops_params(model)
    assert weight_bytes(model) >= 4 * params
    assert flops > params
    assert onnx_to_text(model, costs=False).startswith(("def f", "in 2 "))


def test_when_every_space_is_listed_then_one_of_each_is_tested():
    assert set(SPACES) == {space for space, _ in ONE_OF_EACH}


def test_when_the_batch_grows_then_flops_grow_and_params_stay():
    one = count_flops_params(build_graph("nasbench201", NB201[0][0]))
    four = count_flops_params(build_graph("nasbench201", NB201[0][0], batch=4))
    assert four == (4 * one[0], one[1])


def test_when_classes_change_then_only_the_last_layer_does():
    ten, hundred = (count_flops_params(build_graph("nasbench201", NB201[0][0], classes=c)) for c in (10, 100))
    assert (hundred[0] - ten[0], hundred[1] - ten[1]) == (64 * 90, 65 * 90)


def test_when_cells_are_isomorphic_then_their_texts_are_equal():
    first = "|avg_pool_3x3~0|+|nor_conv_3x3~0|none~1|+|none~0|skip_connect~1|nor_conv_1x1~2|"
    second = "|nor_conv_3x3~0|+|avg_pool_3x3~0|none~1|+|none~0|nor_conv_1x1~1|skip_connect~2|"
    texts = {onnx_to_text(build_graph("nasbench201", arch)) for arch in (first, second)}
    assert len(texts) == 1


def test_when_any_graph_is_counted_then_products_count_and_running_statistics_do_not():
    g = GraphBuilder("own", (1, 4, 8, 8))
    model = g.build(g.classify(g.norm(g.conv(g.input, 6, 3, groups=2, bias=True)), 5))
    flops, params = count_flops_params(model)
    assert params == 6 * 2 * 9 + 6 + 2 * 6 + 6 * 5 + 5
    assert flops == 6 * 2 * 9 * 64 + 2 * 6 * 64 + 6 * 5


def test_when_the_first_axis_is_free_then_it_counts_as_one_and_any_other_is_an_error():
    def product(shape):
        weight = TensorProto(name="w", data_type=1, dims=[8, 4])
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [weight],
        )
        return helper.make_model(graph)

    assert count_flops_params(product(["batch", 8])) == (32, 32)
    with pytest.raises(GraphSpaceError, match="cannot be inferred"):
        count_flops_params(product([1, "length", 8]))


@pytest.mark.parametrize(
    ("space", "arch", "message"),
    [
        ("nasbench301", "x", "unknown space 'nasbench301'; one of nasbench201"),
        ("nasbench201", "|none~0|", "has 1 nodes"),
        ("nasbench201", "|none~0|+|none~0|+|none~0|none~1|none~2|", "node 2"),
        ("nasbench201", "|conv~0|+|none~0|none~1|+|none~0|none~1|none~2|", "unknown operator 'conv'"),
        ("nasbench101", ("01|00", "input|conv|output"), "3 rows of 3"),
        ("nasbench101", ("010|001|100", "input|maxpool3x3|output"), "does not lead to a later"),
        ("nasbench101", ("010|001|000", "input|maxpool5x5|output"), "cannot be 'maxpool5x5'"),
        ("nasbench101", ("001|001|000", "input|maxpool3x3|output"), "no path"),
        ("nasbench_macro", "0123", "8 digits"),
        ("fbnet", "skip|skip", "22 operators"),
        ("fbnet", "|".join(["k3"] * 22), "layer 0 cannot be 'k3'"),
        ("accel_nasbench", {}, "block0_e"),
        ("ofa", {"ks": [3]}, "needs 20 numbers"),
        ("ofa", {**OFA, "d": [9] * 5}, "between 1 and 4"),
        ("darts", "Genotype(normal=[])", "no DARTS genotype"),
        ("darts", "__import__('os').getcwd()", "no DARTS genotype"),
        ("darts", DARTS.replace("dil_conv_5x5", "conv_9x9"), "'conv_9x9'"),
    ],
)
def test_when_an_architecture_is_wrong_then_the_error_says_what(space, arch, message):
    with pytest.raises(GraphSpaceError, match=message):
        build_graph(space, arch)


def test_when_a_genotype_is_read_then_it_is_not_run():
    assert parse_darts(DARTS)["reduce"][0] == ("none", 0)


def test_when_both_operators_of_a_darts_node_are_none_then_its_value_is_zero_in_the_right_shape():
    nothing = DARTS.replace("('dil_conv_5x5', 0), ('max_pool_3x3', 1)", "('none', 1), ('none', 0)").replace(
        "('avg_pool_3x3', 1)", "('none', 1)"
    )
    assert nothing.count("'none'") == 4
    model = build_graph("darts", nothing)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    zeros = {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    products = [node for node in model.graph.node if node.op_type == "Mul" and node.input[1] in zeros]
    # One in each of the 20 cells; in the two reduction cells it reads every second pixel of what came before.
    assert len(products) == 20
    pools = {node.output[0] for node in model.graph.node if node.op_type == "MaxPool"}
    assert sum(node.input[0] in pools for node in products) == 2
    assert count_flops_params(model)[1] < count_flops_params(build_graph("darts", DARTS))[1]
