"""The few-shot benchmark on a made-up table: draws keep groups apart, and the columns that determine the accuracy rank it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from code_rlm.data import readers
from code_rlm.data.nas_graphs import build_graph
from code_rlm.data.schema import Example, to_dataset
from code_rlm.onnx_text_rlm import onnx_to_text
from code_rlm_data.proxies import NAMES

SOURCE = Path(__file__).parents[1] / "benchmarks" / "few_shot.py"


@pytest.fixture(scope="module")
def few_shot():
    spec = importlib.util.spec_from_file_location("few_shot", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.DRAWS, module.SIZES = 2, (20, 40, 256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.adapt, "TREES", 20)
        yield module


def test_when_rows_are_drawn_then_no_group_is_in_both_parts(few_shot):
    groups = [f"g{i // 3}" for i in range(90)]
    for size in (1, 20, 29):
        train, test = few_shot.draws(groups, size, seed=1)
        assert len(train) == size == len({groups[i] for i in train}) and len(test) == 90 - 3 * size
        assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert few_shot.draws(groups, 20, 1)[0].tolist() != few_shot.draws(groups, 20, 2)[0].tolist()


def test_when_a_device_follows_the_predictions_then_twenty_measurements_tell_it(few_shot):
    random = np.random.default_rng(0)
    said = random.normal(size=(100, 2))
    rows = {"group": [f"g{i}" for i in range(100)], "latency_ms@seen": random.uniform(1, 2, 100).tolist()}
    rows["latency_ms@new"] = np.exp(said @ [1.0, -0.5] + 0.02 * random.normal(size=100)).tolist()
    rows["latency_ms@noise"] = [None, *random.uniform(1, 2, 99)]
    lines = few_shot.unseen_devices(rows, said, ["latency_ms@seen", "flops_count"])
    correlations = {
        line.split(" | ")[0].strip("| "): float(line.split(" | ")[1].split(" ")[0]) for line in lines if "±" in line
    }
    assert set(correlations) == {"new", "noise"}
    assert correlations["new"] > 0.98 and abs(correlations["noise"]) < 0.4


def test_when_devices_of_a_task_are_asked_for_then_its_test_split_becomes_columns(few_shot, monkeypatch):
    rows = [Example("v0", "onnx", ["latency_ms@a", "latency_ms@b"], [1.5, None], group="g1")]
    rows += [Example("v1", "onnx", ["latency_ms@b"], [2.5], group="g2")]
    asked = []
    monkeypatch.setattr(
        readers, "read_task", lambda *given, metrics: asked.append((*given, metrics)) or to_dataset(rows)
    )
    found = few_shot.task_rows("fbnet", "somewhere", "test")
    assert (
        asked == [("fbnet", "somewhere", "test", None)]
        and found["text"] == ["v0", "v1"]
        and found["group"] == ["g1", "g2"]
    )
    assert found["latency_ms@a"][0] == 1.5 and np.isnan(found["latency_ms@a"][1]) and np.isnan(found["latency_ms@b"][0])


def test_when_networks_are_wired_differently_then_ways_and_chains_tell_them_apart(few_shot):
    cells = [
        f"|nor_conv_3x3~0|+|{first}~0|avg_pool_3x3~1|+|none~0|{second}~1|skip_connect~2|"
        for first, second in (("nor_conv_1x1", "nor_conv_3x3"), ("nor_conv_3x3", "nor_conv_1x1"), ("none", "none"))
    ]
    graphs = [build_graph("nasbench201", cell) for cell in cells]
    found = few_shot.adapt.structure_columns([onnx_to_text(graph) for graph in graphs])
    again = few_shot.adapt.structure_columns([onnx_to_text(graph, costs=False) for graph in graphs])
    for table, same in zip(found, again, strict=True):
        assert np.array_equal(table, same) and table.shape[1] > 2 and len(np.unique(table, axis=0)) == 3
    assert few_shot.adapt.structure_columns(["", ""])[0].shape == (2, 0)


def test_when_the_place_of_an_operator_tells_the_accuracy_then_many_networks_teach_it(few_shot, monkeypatch):
    random = np.random.default_rng(0)

    def some(count):
        """One convolution among nine is another: which of them, determines the accuracy."""
        place = random.integers(1, 8, count)
        texts = ["in 1 3 8 8\n" + "".join(f"conv{3 - 2 * (k == p)}x1 16\n" for k in range(9)) + "gap" for p in place]
        score = place + random.normal(size=count) / 10
        return {"text": texts, "group": [str(p) for p in place], few_shot.TARGET: [np.nan, *score[1:]]}

    asked = []
    splits = {"train": some(120), "test": some(40)}
    monkeypatch.setattr(few_shot, "task_rows", lambda *given: asked.append(given) or splits[given[2]])
    monkeypatch.setattr(few_shot, "MANY", 100)
    _, line = few_shot.trained_on_many("a_space", "somewhere")
    assert [given[2] for given in asked] == ["train", "test"]
    assert (
        line.startswith("From 100 architectures of the training split of a_space") and "on the 39 architectures" in line
    )
    tau = float(line.split("Kendall's tau ")[1].split(" ")[0])
    monkeypatch.setattr(few_shot, "position_features", lambda text: {})
    without = float(few_shot.trained_on_many("a_space", "somewhere")[1].split("Kendall's tau ")[1].split(" ")[0])
    assert tau > 0.85 and without < 0.7


def test_when_scores_are_missing_then_they_stand_below_all_others(few_shot):
    assert few_shot.filled([[3.0, None, 5.0], [None, None, None]]).tolist() == [[3.0, 0.0], [2.0, 0.0], [5.0, 0.0]]


@pytest.mark.slow
def test_when_proxies_tell_the_accuracy_then_recipes_with_it_win(few_shot):
    random = np.random.default_rng(0)
    arch = lambda: "+".join(  # noqa: E731
        "|" + "".join(f"{random.choice(few_shot.OPERATORS)}~{k}|" for k in range(n)) for n in (1, 2, 3)
    )
    accuracy = random.uniform(60, 95, 80)
    noise = lambda: random.uniform(1, 2, 80).tolist()  # noqa: E731
    rows = {"arch": [json.dumps(arch()) for _ in range(80)], "group": [f"g{i}" for i in range(80)], "text": [""] * 80}
    rows |= {few_shot.TARGET: accuracy.tolist(), "flops_count": noise(), "params_count": noise()}
    rows |= {name: noise() for name in NAMES}
    rows |= {"synflow_log": accuracy.tolist(), "naswot": [None, *accuracy[1:].tolist()]}
    rows |= {"jacov": (-accuracy).tolist(), "grad_norm": (accuracy**2).tolist()}
    page = few_shot.results(rows)
    assert "| synflow_log | 1.000 (1.000 to 1.000) | 1.000 (1.000 to 1.000) |" in page
    assert "fewer than 30 networks would be tested: [256] trained" in page
    assert all(
        f"| {name} | " in page
        for name in (*NAMES, "expressivity, progressivity, trainability, FLOPs: logarithms of ranks")
    )
    scores = {
        line.split(" | ")[0].strip("| "): float(line.split(" | ")[2].split(" ")[0])
        for line in page.splitlines()
        if "±" in line
    }
    assert scores["forest: proxies, FLOPs, params"] > 0.7 > 0.4 > scores["forest: FLOPs, params"]
    cell = "forest: one-hot cell, FLOPs, params"
    assert scores[f"{cell}, proxies"] > scores[cell] and scores["committee: the same"] > 0.7
