"""Networks as exporters write them: the texts are those of the package's own graphs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from code_rlm.data.nas_graphs import build_graph
from code_rlm.onnx_text_rlm import graph_cost, onnx_to_text

SOURCE = Path(__file__).parents[1] / "benchmarks" / "exports.py"
NB201 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
NB101 = {"adjacency": "01101|00110|00011|00001|00000", "ops": "input|conv3x3-bn-relu|maxpool3x3|conv1x1-bn-relu|output"}
FBNET = "|".join(["k3_e1", "k5_e6", "k3_e1_g2", "skip"] * 5 + ["k5_e1_g2", "k3_e3"])
NETWORKS = {
    "nasbench201": NB201,
    "nasbench101": NB101,
    "fbnet": FBNET,
    "nasbench_macro": "10021102",
}


@pytest.fixture(scope="module")
def exports():
    spec = importlib.util.spec_from_file_location("exports", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("space", NETWORKS)
@pytest.mark.parametrize("exporter", ["torch", "ort", "onnxsim"])
def test_when_a_network_is_exported_then_its_text_is_the_builders(exports, exporter, space, tmp_path):
    package = exports.EXPORTERS[exporter][0]
    pytest.importorskip(package)
    path = exports.exported(space, NETWORKS[space], exporter, tmp_path)
    built = build_graph(space, NETWORKS[space])
    assert path.read_bytes() != built.SerializeToString()
    assert onnx_to_text(path) == onnx_to_text(built)
    assert graph_cost(path).flops == graph_cost(built).flops


def test_when_the_new_exporter_writes_a_network_then_its_text_is_the_builders(exports, tmp_path):
    pytest.importorskip("onnxscript")
    path = exports.exported("nasbench201", NB201, "dynamo", tmp_path)
    assert onnx_to_text(path) == onnx_to_text(build_graph("nasbench201", NB201))


@pytest.mark.parametrize("space", NETWORKS)
def test_when_multiply_adds_are_counted_then_torch_counts_the_same(exports, space):
    built = build_graph(space, NETWORKS[space])
    network = exports.TorchNetwork(built).eval()
    size = [dim.dim_value for dim in built.graph.input[0].type.tensor_type.shape.dim]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(size))
    assert 2 * graph_cost(built).macs == counter.get_total_flops()
    learned = sum(weight.numel() for weight in network.parameters())
    assert graph_cost(built).parameters == learned


def test_when_a_file_is_there_then_it_is_not_exported_again(exports, tmp_path, monkeypatch):
    path = exports.exported("nasbench201", NB201, "builder", tmp_path)
    monkeypatch.setattr(exports, "build_graph", None)
    assert exports.exported("nasbench201", NB201, "builder", tmp_path) == path
