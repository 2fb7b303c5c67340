"""Generated networks: valid graphs whose costs their texts state, the same from the same seed, measured and read back."""

import json
import math
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from code_rlm.data.readers import read_task
from code_rlm.data.splits import split_of
from code_rlm.onnx_costs_rlm import NETWORK_COSTS, network_costs
from code_rlm.onnx_text_rlm import graph_cost, onnx_to_text
from code_rlm_data.networks import FAMILIES, draw_network, generate
from code_rlm_data.networks.__main__ import main
from code_rlm_data.networks.builder import Dice, GraphBuilder, Style

BLOCKS = """total x9 total m16000 total o300 total w5
def f a
conv3x3-bn-relu a v0
v0 + dwconv3x3-bn a
in 1 16 32 32
f 16 x3
maxpool2x2 s2
v0 = conv1x1-bn-silu 64 int8 quint8
gap
flatten
fc 10 bias"""


def read_macs(costs):
    return sum(
        count for name, count in costs.items() if name.endswith((" m", " m8")) and name[:5] not in ("total", "unrea")
    )


def test_when_a_block_is_called_then_its_costs_are_counted_for_each_call():
    costs = network_costs(BLOCKS)
    pixels = 32 * 32
    assert costs["conv m"] == 3 * pixels * 16 * 16 * 9 and costs["conv x"] == 3
    assert costs["dw m"] == 3 * pixels * 16 * 9 and costs["dw o"] == 3 * pixels * 16
    assert costs["pool o"] == 16 * 16 * 16 * 4  # elements that its windows read
    assert costs["conv1x1 m8"] == 16 * 16 * 16 * 64 and costs["conv1x1 m"] == 0
    assert costs["quantise o"] == costs["sigmoid o"] == 16 * 16 * 64
    assert costs["matvec m"] == 640 and costs["matmul m"] == 0
    assert costs["add o"] == 3 * pixels * 16
    assert costs["w"] == 3 * (16 * 16 * 9 + 16 * 9) + 640 and costs["w8"] == 1024
    assert costs["total o"] == 300_000 and costs["input"] == 16 * pixels
    assert costs["unread m"] == 16_000_000 - read_macs(costs) - 1000
    assert list(costs) == list(NETWORK_COSTS)


def test_when_a_text_is_truncated_then_what_is_missing_is_unread():
    whole = network_costs(BLOCKS)
    part = network_costs(BLOCKS[: BLOCKS.index("maxpool")])
    assert part["conv m"] == whole["conv m"] and part["matvec m"] == 0
    assert math.isclose(part["unread m"] + read_macs(part), whole["unread m"] + read_macs(whole))


@pytest.mark.parametrize("text", ["", "def f(x):\n    return x", "total x3 total m99", "in", "v0 = conv3x3 16"])
def test_when_a_text_is_no_graph_then_it_costs_nothing(text):
    assert network_costs(text) == dict.fromkeys(NETWORK_COSTS, 0.0)


@pytest.mark.parametrize(
    "line",
    [
        "conv3x3",
        "reshape 0 0 0",
        "slice a b",
        "concat axis 9 v0 v7",
        "matmul v0 v9",
        "grp f",
        "lstm w",
        "x3",
        "v1 + x801",
    ],
)
def test_when_a_statement_makes_no_sense_then_the_rest_is_read(line):
    costs = network_costs(f"in 4\n{line}\nv3 = in 1 8\nfc 16 v3")
    assert costs["matvec m"] == 128


def test_when_a_resize_has_factors_then_the_sizes_behind_it_are_known():
    graph = GraphBuilder(Dice(0), Style())
    x = graph.unit(graph.input((1, 3, 16, 24)), 8, 3, 2)
    graph.output(graph.conv(graph.resize(x, 4, "linear"), 8, 3))
    costs = network_costs(onnx_to_text(graph.model(weights=False)))
    assert costs["resize linear o"] == 8 * 32 * 48 and costs["conv m"] == 8 * 32 * 48 * 8 * 9


def live(model):
    """Whether every node leads to an output."""
    wanted = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if not wanted & set(node.output):
            return False
        wanted |= set(node.input)
    return True


@pytest.mark.parametrize("family", FAMILIES)
def test_when_a_network_is_drawn_then_its_text_states_what_its_builder_counted(family, monkeypatch):
    monkeypatch.setattr(generate, "_CANDIDATES", 2)
    for seed in (0, 1):
        network = draw_network(seed, family)
        model = network.model(weights=False)
        assert network.group.split()[0] == network.family == family
        cost = graph_cost(model)
        assert cost.unknown == 0 and cost.macs == network.graph.macs
        if not live(model):
            continue  # nodes without a use are no part of the text
        costs = network_costs(onnx_to_text(model))
        assert read_macs(costs) == network.graph.macs
        assert costs["unread m"] == 0 and costs["unread o"] <= 0.002 * costs["total o"]


@pytest.mark.parametrize("family", ["mobilenet_v3", "swin", "unet", "recurrent", "translator", "points"])
def test_when_a_network_has_its_weights_then_onnx_accepts_it(family, monkeypatch):
    monkeypatch.setattr(generate, "_MOST_PARAMETERS", 2_000_000)
    for seed in range(2):
        onnx.checker.check_model(draw_network(seed, family).model(), full_check=True)


def test_when_a_seed_is_drawn_twice_then_the_networks_are_equal_and_differ_from_other_seeds():
    first = draw_network(3).model(weights=False).SerializeToString()
    assert first == draw_network(3).model(weights=False).SerializeToString()
    assert first != draw_network(4).model(weights=False).SerializeToString()


def test_when_a_network_is_quantised_then_its_data_and_weights_are():
    texts = {}
    for kind in ("", "uint8", "int8"):
        graph = GraphBuilder(Dice(1), Style(quantised=kind))
        x = graph.unit(graph.input((1, 8, 16, 16)), 16, 3, activation="relu6")
        graph.output(graph.linear(graph.flatten(graph.global_pool(x)), 10))
        model = graph.model()
        onnx.checker.check_model(model, full_check=True)
        texts[kind] = onnx_to_text(model)
        scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:  # onnxruntime fuses a convolution whose bias has the scale of its product only
            if node.op_type == "Conv" and kind:
                data, weight, bias = (
                    scales[next(each for each in model.graph.node if name in each.output).input[1]]
                    for name in node.input
                )
                assert np.allclose(data * weight, bias)
    costs = {kind: network_costs(text) for kind, text in texts.items()}
    assert "quint8" in texts["uint8"] and "qint8" in texts["int8"] and "int8" not in texts[""]
    assert costs["uint8"]["conv m8"] == costs[""]["conv m"] == 16 * 16 * 16 * 8 * 9
    assert costs["uint8"]["w8"] == costs[""]["w"] and costs[""]["quantise o"] == 0


def test_when_batch_norms_are_folded_then_texts_are_equal():
    texts = set()
    for style in (Style(folded=True), Style(folded=False), Style(global_pool="mean"), Style(flatten="reshape")):
        graph = GraphBuilder(Dice(0), style)
        graph.output(graph.classifier(graph.unit(graph.input((1, 3, 32, 32)), 16, 3), 10))
        texts.add(onnx_to_text(graph.model(weights=False)))
    assert len(texts) == 1


def test_when_latencies_are_wanted_then_networks_of_all_sizes_are_drawn():
    expected = [draw_network(seed, "layers_of_numbers").expected_ms for seed in range(12)]
    assert min(expected) < 1 < 20 < max(expected)


def test_when_a_run_is_interrupted_then_it_goes_on_and_its_rows_become_a_data_set(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    run = str(tmp_path / "run")
    assert main(["measure", "--out", run, "--seeds", "300", "303", "--minutes", "5"]) == 0
    with open(tmp_path / "run" / "measured.jsonl", "a") as file:
        file.write('{"seed": 999, "fam')  # as a run that was killed leaves it
    assert main(["measure", "--out", run, "--seeds", "300", "304"]) == 0
    assert "1 networks measured" in capsys.readouterr().out
    rows = [
        json.loads(line)
        for line in (tmp_path / "run" / "measured.jsonl").read_text().splitlines()
        if line.endswith("}")
    ]
    assert Counter(row["seed"] for row in rows) == Counter(range(300, 304))
    assert all(row["outcome"] == "ok" and 0 < row["least_ms"] <= row["latency_ms"] for row in rows)
    assert main(["export", "--run", run, "--out", str(tmp_path / "data" / "networks_cpu")]) == 0
    read = read_task("networks_cpu", data_root=tmp_path / "data")
    assert sorted(row["values"][0] for row in read) == pytest.approx(sorted(row["latency_ms"] for row in rows))
    assert {row["group"] for row in read} == {row["group"] for row in rows}
    assert set(read[0]["metrics"]) == {"latency_ms@cpu", "peak_memory_bytes@cpu"}
    train = read_task("networks_cpu", data_root=tmp_path / "data", split="train")
    assert all(split_of(row["group"]) == "train" for row in train)


def test_when_a_model_does_not_run_then_its_outcome_says_so(tmp_path):
    pytest.importorskip("onnxruntime")
    from code_rlm_data.networks.bench import Bench

    bench = Bench()
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert bench(tmp_path / "bad.onnx").outcome == "runtime_error"
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "good.onnx"
    )
    measured = bench(tmp_path / "good.onnx")
    assert measured.outcome == "ok" and measured.repeats >= 3 and measured.peak_memory_bytes > 0


def test_when_padding_is_computed_of_shapes_with_clip_then_sizes_are_known():
    # As timm's "same" padding is exported: amount = max((ceil(size / 2) - 1) * 2 + 3 - size, 0).
    numbers = {"two": 2.0, "three": 3.0, "one": 1.0, "zero": 0.0}
    stored = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in numbers.items()]
    stored += [
        helper.make_tensor("axis", TensorProto.INT64, [], [3]),
        helper.make_tensor("first", TensorProto.INT64, [1], [0]),
        helper.make_tensor("none", TensorProto.INT64, [7], [0] * 7),
        helper.make_tensor("w", TensorProto.FLOAT, [8, 3, 3, 3], [0.0] * 216),
    ]
    steps = [
        ("Shape", ["x"]), ("Gather", ["axis"]), ("Cast", []), ("Div", ["two"]), ("Ceil", []), ("Sub", ["one"]),
        ("Mul", ["two"]), ("Add", ["three"]),
    ]  # fmt: skip
    nodes = []
    last = []
    for op, others in steps:
        attributes = {"to": TensorProto.FLOAT} if op == "Cast" else {}
        nodes.append(helper.make_node(op, [*last, *others], [op.lower()], **attributes))
        last = [op.lower()]
    nodes += [
        helper.make_node("Sub", ["add", "cast"], ["short"]),
        helper.make_node("Clip", ["short", "zero"], ["amount"]),
        helper.make_node("Cast", ["amount"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["whole", "first"], ["last"]),
        helper.make_node("Concat", ["none", "last"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["y"], strides=[1, 2], kernel_shape=[3, 3]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 9, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    cost = graph_cost(model)
    assert cost.unknown == 0 and cost.macs == 8 * 7 * 8 * 27
