"""Training-free proxies: the graph's interpreter against onnx, scores against hand-computed values, stored scores."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from code_rlm.data.nas_graphs import GraphBuilder, build_graph
from code_rlm.onnx_text_rlm import onnx_to_text
from code_rlm_data import proxies as module
from code_rlm_data.proxies import (
    NAMES,
    Cache,
    Network,
    ProxyError,
    alike,
    different,
    expressivity,
    jacov,
    main,
    proxies,
    synflow,
    trainability,
)

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|"
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def chain(*widths: int) -> onnx.ModelProto:
    """Linear layers one after the other, with a rectifier between them."""
    g = GraphBuilder("chain", (1, widths[0], 1, 1))
    x = g.add("Flatten", [g.input], (1, widths[0]))
    for number, wide in enumerate(widths[1:]):
        x = g.linear(g.relu(x) if number else x, wide)
    return g.build(x)


def every_operator() -> onnx.ModelProto:
    """A small graph with each operator that the builders make, but batch norm."""
    g = GraphBuilder("all", (2, 4, 9, 9))
    x = g.activation(g.conv(g.input, 8, 3, 2, dilation=2, groups=2, bias=True), "relu6")
    x = g.sum([g.squeeze(x, 2, "HardSigmoid"), g.squeeze(g.activation(x, "hswish"), 2)])
    x = g.concat([g.shuffle(x, 2), g.zero(x)])
    x = g.sum([g.pool(x, "MaxPool", 3), g.pool(x, "AveragePool", 3)])
    x = g.add("Slice", [x, g.constant([1]), g.constant([7]), g.constant([1])], (2, 6, 5, 5))
    return g.build(g.classify(g.relu(x), 3))


def with_values(model: onnx.ModelProto, weights: dict[str, torch.Tensor]) -> onnx.ModelProto:
    """The same graph with its weights inside; biases are zero."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    for tensor in whole.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            values = (
                weights[tensor.name].numpy() if tensor.name in weights else np.zeros(tuple(tensor.dims), np.float32)
            )
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return whole


def test_when_a_graph_is_run_then_it_gives_what_onnx_gives():
    model = every_operator()
    network, generator = Network(model), torch.Generator().manual_seed(0)
    weights, images = network.draw(generator), torch.randn(2, 4, 9, 9, generator=generator)
    (expected,) = ReferenceEvaluator(with_values(model, weights)).run(None, {"input": images.numpy()})
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(network.run(images, weights).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_when_batch_norm_is_run_then_it_takes_the_statistics_of_the_batch():
    g = GraphBuilder("norm", (1, 3, 6, 6))
    network = Network(g.build(g.classify(g.norm(g.conv(g.input, 5, 3)), 2)))
    generator = torch.Generator().manual_seed(1)
    weights, images = network.draw(generator), torch.randn(8, 3, 6, 6, generator=generator)
    conv, linear = weights.values()
    x = torch.nn.BatchNorm2d(5)(torch.nn.functional.conv2d(images, conv, padding=1))
    torch.testing.assert_close(network.run(images, weights), x.mean((2, 3)) @ linear.T)
    # Such a network does not see the scale of what is normalised.
    larger = {name: 7 * w if w is conv else w for name, w in weights.items()}
    torch.testing.assert_close(network.run(images, larger), network.run(images, weights), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("widths", [(3, 2), (4, 5, 3), (2, 6, 4, 2)])
def test_when_synflow_is_taken_of_linear_layers_then_it_is_their_number_times_the_product(widths):
    network = Network(chain(*widths))
    weights = network.draw(torch.Generator().manual_seed(3))
    product = np.ones(widths[0])
    for w in weights.values():
        product = np.abs(w.numpy().astype(np.float64)) @ product
    assert synflow(network, weights) == pytest.approx(len(weights) * product.sum(), rel=1e-6)
    # Linear in each layer, blind to signs.
    first = next(iter(weights))
    assert synflow(network, {**weights, first: -3 * weights[first]}) == pytest.approx(
        3 * synflow(network, weights), rel=1e-6
    )


def test_when_rectifiers_are_compared_then_every_pair_of_images_is_counted():
    x = torch.tensor([[[1.0, -2.0], [0.0, 3.0]], [[2.0, 1.0], [-1.0, 4.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    above = [[v > 0 for v in image.flatten().tolist()] for image in x]
    expected = [[sum(a == b for a, b in zip(i, j, strict=True)) for j in above] for i in above]
    assert alike(x).tolist() == expected and expected[0][0] == 4


def test_when_input_gradients_are_unrelated_or_equal_then_jacov_is_as_by_hand():
    k = 1e-5
    apart = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 5.0, -5.0]])
    assert jacov(apart) == pytest.approx(-2 * (math.log(1 + k) + 1 / (1 + k)), rel=1e-9)
    assert jacov(apart + 3.0) == pytest.approx(jacov(apart))  # blind to the mean
    equal = np.array([[1.0, -1.0], [2.0, -2.0]])
    assert jacov(equal) == pytest.approx(-(math.log(2 + k) + 1 / (2 + k) + math.log(k) + 1 / k), rel=1e-3)
    assert jacov(apart) > jacov(equal)
    assert math.isnan(jacov(np.array([[1.0, -1.0], [0.0, 0.0]])))


def test_when_units_let_sets_of_images_through_then_the_different_ones_are_counted():
    x = torch.tensor([[[1.0, 2.0], [-1.0, 0.0]], [[-1.0, 3.0], [-2.0, -1.0]], [[5.0, 1.0], [-3.0, -7.0]]])
    sets = {tuple(bool(image.flatten()[unit] > 0) for image in x) for unit in range(4)}
    assert different(x) == len(sets) == 3
    many = torch.randn(16, 5000, generator=torch.Generator().manual_seed(0))
    assert different(many) == len(torch.unique(many > 0, dim=1).T)


def test_when_channels_vary_together_or_apart_then_expressivity_is_the_entropy_by_hand():
    generator = torch.Generator().manual_seed(0)
    apart = torch.randn(200, 3, 8, 8, generator=generator)
    scale = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    shares = np.array([1, 4, 9]) / 14
    assert expressivity(scale * apart + 5) == pytest.approx(-(shares * np.log(shares)).sum(), abs=0.01)
    together = apart[:, :1] * scale
    assert expressivity(together) == pytest.approx(0, abs=1e-6) and expressivity(torch.ones(2, 3, 2, 2)) == 0


def test_when_an_odd_map_is_halved_then_trainability_still_meets_the_places_that_are_read():
    generator = torch.Generator().manual_seed(2)
    before = torch.randn(128, 3, 15, 15, generator=generator).requires_grad_()
    weight = torch.randn(4, 3, 1, 1, generator=generator)
    after = torch.nn.functional.conv2d(before, weight, stride=2)
    largest = np.linalg.svd(weight.flatten(1).numpy(), compute_uv=False)[0]
    assert trainability(before, after, generator) == pytest.approx(2 - largest - 1 / largest, rel=0.1)


@pytest.mark.parametrize("stride", [1, 2])
def test_when_a_step_is_linear_then_trainability_is_that_of_its_largest_singular_value(stride):
    # A convolution that looks at each place, or at each square of places, once: its Jacobian is the same everywhere.
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(64, 3, 8, 8, generator=generator).requires_grad_()
    weight = torch.randn(4, 3, stride, stride, generator=generator)
    after = torch.nn.functional.conv2d(before, weight, stride=stride)
    largest = np.linalg.svd(weight.flatten(1).numpy(), compute_uv=False)[0]
    assert trainability(before, after, generator) == pytest.approx(2 - largest - 1 / largest, rel=0.1)
    assert trainability(before, 0 * after, generator) == -math.inf
    larger = torch.nn.functional.interpolate(before, scale_factor=2)
    assert math.isnan(trainability(before, larger, generator))


def test_when_maps_are_not_finite_then_their_scores_are_nan_and_the_rest_is_told(monkeypatch):
    before = torch.full((2, 3, 4, 4), 1e30).requires_grad_()
    assert math.isnan(expressivity((before * 1e30).detach()))
    assert math.isnan(trainability(before, (before * math.inf).sum(1, keepdim=True), torch.Generator()))
    monkeypatch.setattr(
        Network, "draw", lambda self, generator: {n: torch.full(s, 1e25) for n, (s, _) in self.weights.items()}
    )
    g = GraphBuilder("huge", (1, 3, 6, 6))
    found = proxies(g.build(g.classify(g.relu(g.conv(g.conv(g.input, 4, 3), 4, 3)), 2)), batch=16)
    assert math.isnan(found["expressivity"]) and math.isnan(found["progressivity"]) and found["swap"] > 0


def test_when_a_network_is_run_then_joints_are_what_all_behind_them_is_computed_from():
    g = GraphBuilder("joints", (1, 3, 6, 6))
    stem = g.conv(g.input, 4, 3)
    branch = g.relu(g.conv(stem, 4, 3))
    cell = g.sum([branch, stem])
    shuffled = g.shuffle(cell, 2)
    network = Network(g.build(g.classify(shuffled, 2)))
    found = []
    network.run(torch.randn(2, 3, 6, 6), network.draw(torch.Generator()), joint=lambda x: found.append(tuple(x.shape)))
    assert {stem, cell} <= network.joints and not {branch, shuffled} & network.joints
    assert found[:2] == [(2, 4, 6, 6)] * 2 and len(found) == len(network.joints) == 3


def test_when_one_linear_layer_is_scored_then_all_scores_are_as_by_hand():
    model = chain(4, 3)
    found = proxies(model, seed=5, batch=6)
    generator = torch.Generator().manual_seed(5)
    (w,) = Network(model).draw(generator).values()
    images = torch.randn(6, 4, 1, 1, generator=generator).flatten(1).numpy().astype(np.float64)
    classes = torch.randint(3, (6,), generator=generator).numpy()
    w = w.numpy().astype(np.float64)
    scores = np.exp(images @ w.T)
    wrong = scores / scores.sum(1, keepdims=True) - np.eye(3)[classes]
    assert found["grad_norm"] == pytest.approx(np.linalg.norm(wrong.T @ images / 6), rel=1e-4)
    assert found["synflow_log"] == pytest.approx(math.log(np.abs(w).sum()), rel=1e-6)
    assert found["jacov"] == pytest.approx(jacov(np.tile(w.sum(0), (6, 1))), rel=1e-3)
    assert found["naswot"] == -math.inf  # no rectifier tells the images apart
    assert found["swap"] == 0 and all(math.isnan(found[n]) for n in ("expressivity", "progressivity", "trainability"))


def test_when_seeds_and_networks_differ_then_so_do_scores_and_otherwise_not():
    graph = build_graph("nasbench201", CELL)
    first = proxies(graph, batch=16)
    assert set(first) == set(NAMES) and all(map(math.isfinite, first.values()))
    assert proxies(build_graph("nasbench201", CELL, batch=3), batch=16) == first  # whatever batch it was built for
    other = proxies(graph, seed=1, batch=16)
    assert all(other[name] != first[name] for name in NAMES)
    assert abs(other["synflow_log"] - first["synflow_log"]) < 2  # the network's, more than the draw's
    nothing = proxies(build_graph("nasbench201", NOTHING), batch=16)
    assert not math.isfinite(nothing["synflow_log"]) and not math.isfinite(nothing["jacov"])


def graph_of(op: str, inputs: int = 1, **attributes) -> onnx.ModelProto:
    """A graph of one node on an image of 2 channels and 4 x 4."""
    g = GraphBuilder("one", (1, 2, 4, 4))
    weights = [g.weight((2, 2, 1, 1)) for _ in range(inputs - 1)]
    return g.build(g.add(op, [g.input, *weights], (1, 2, 4, 4), **attributes))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph_of("Erf"), "Erf cannot be run; supported are Add, "),
        (graph_of("Conv", 2, auto_pad=b"SAME_UPPER"), "Conv with auto_pad=b'SAME_UPPER'"),
        (graph_of("MaxPool", kernel_shape=[2, 2], ceil_mode=1), "MaxPool with ceil_mode=1"),
        (graph_of("Gemm", 2, transA=1), "Gemm with transA=1"),
        (graph_of("Add", 2), "Add reads 'w0', which no node before it makes"),
    ],
)
def test_when_a_graph_cannot_be_run_then_the_message_says_what_is_in_the_way(model, message):
    with pytest.raises(ProxyError) as error:
        Network(model)
    assert message in str(error.value)


def test_when_padding_differs_between_sides_then_it_is_refused():
    network = Network(graph_of("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]))
    with pytest.raises(ProxyError, match="padding that differs"):
        network.run(torch.zeros(1, 2, 4, 4), {})


def test_when_the_input_has_no_fixed_size_then_it_is_refused():
    model = graph_of("Relu")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, None, None]))
    with pytest.raises(ProxyError, match="images of a fixed size"):
        Network(model)


def test_when_scores_are_stored_then_equal_graphs_share_them_and_a_killed_run_goes_on(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "scores.jsonl"
    graph = build_graph("nasbench201", CELL)
    first = Cache(path).proxies(graph, batch=4)
    with path.open("a") as file:
        file.write('["half a li')
    again = Cache(path)
    assert len(again.scores) == 1
    other = again.proxies(graph, seed=1, batch=4)
    monkeypatch.setattr(module, "proxies", lambda *_, **__: pytest.fail("computed again"))
    third = Cache(path)
    same = onnx.ModelProto.FromString(graph.SerializeToString())
    assert third.proxies(same, batch=4) == first and third.proxies(graph, seed=1, batch=4) == other
    # Their texts are equal: what differs is needed by no output. The scores watch it all the same.
    dead = (
        "|nor_conv_1x1~0|+|nor_conv_3x3~0|skip_connect~1|+|nor_conv_3x3~0|skip_connect~1|none~2|",
        "|nor_conv_1x1~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_3x3~0|skip_connect~1|none~2|",
    )
    monkeypatch.setattr(module, "proxies", lambda *_, **__: {"naswot": float(len(third.scores))})
    one, two = (build_graph("nasbench201", arch) for arch in dead)
    assert onnx_to_text(one) == onnx_to_text(two) and third.proxies(one) != third.proxies(two)
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(module.DataError, match=r"scores.jsonl, line 1: not a line"):
        Cache(path)


@pytest.mark.slow
def test_when_the_command_is_run_then_its_table_has_texts_numbers_and_proxies(tmp_path, capsys):
    (tmp_path / "nas").mkdir()
    archs = ["00000000", "10000000", "00000001", "20000000"]
    numbers = {"mean_acc": [90.0, 91.0, 92.0, 93.0], "params": [1.0, 2.0, 3.0, 4.0], "flops": [5.0, 6.0, 7.0, 8.0]}
    pq.write_table(pa.table({"arch": archs, **numbers}), tmp_path / "nas/nasbench_macro.parquet")
    out = tmp_path / "out.parquet"
    given = ["--task", "nasbench_macro", "--data-root", str(tmp_path), "--rows", "2", "--batch", "2", "--out", str(out)]
    assert main(given) == 0
    assert "2 rows, 2 initialisations computed" in capsys.readouterr().out
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 2 and {*NAMES, "text", "language", "group", "params_count"} <= set(rows[0])
    for row in rows:
        at = archs.index(json.loads(row["arch"]))
        assert row["cifar10_test_accuracy_percent"] == numbers["mean_acc"][at] and "\nin 1 3 32 32\n" in row["text"]
        assert math.isfinite(row["synflow_log"])
    assert main(given) == 0 and "0 initialisations computed" in capsys.readouterr().out
    assert pq.read_table(out).to_pylist() == rows
    # Of several initialisations the mean, those that are known not computed anew.
    assert main([*given, "--starts", "2"]) == 0 and "2 initialisations computed" in capsys.readouterr().out
    for row, one in zip(pq.read_table(out).to_pylist(), rows, strict=True):
        other = proxies(build_graph("nasbench_macro", json.loads(row["arch"])), seed=1, batch=2)
        assert row["jacov"] == pytest.approx((one["jacov"] + other["jacov"]) / 2, rel=1e-6)
    assert main([*given, "--starts", "0"]) == 2
    assert main(["--task", "bhive_zen4", "--data-root", str(tmp_path), "--out", str(out)]) == 2
    assert main(["--task", "nowhere", "--data-root", str(tmp_path), "--out", str(out)]) == 2
    assert "unknown task 'nowhere'" in capsys.readouterr().err
