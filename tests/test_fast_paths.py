"""What is left out of the work for an answer: the answer is the one that all the work gives."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import code_rlm
from code_rlm import decoders_rlm
from code_rlm.data.nas_graphs import build_graph
from code_rlm.decoders_rlm import LeanLinear, use_lean_linear
from code_rlm.digit_tree_rlm import TreeWalk
from code_rlm.distributions_rlm import Adjustment, Calibration, Distribution
from code_rlm.ensemble_rlm import TREE_NODES, EnsembleConfig, FeatureEnsemble
from code_rlm.features_rlm import FeatureLayout
from code_rlm.onnx_text_rlm import graph_cost, onnx_to_text, onnx_to_text_and_cost

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from stages import COUNTS, STAGES, StageClock, make_inputs, medians, table

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
LEVELS = (0.05, 0.5, 0.95, 0.2)
ADJUSTMENTS = (
    Adjustment(),
    Adjustment(0.4, (0.5, 20.0, 3e4)),
    Adjustment(1.0, (0.5, 20.0, 3e4)),
    Adjustment(lower_bound=2.0, bound_ratios=(1.0, 1.3)),
    Adjustment(0.2, (7.0, 8e5), lower_bound=900.0, bound_ratios=(1.0, 1.1, 4.0)),
)

# ------------------------------------------------------------------------------------------------ linear layers


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 48), (2, 7, 48), (48,)])
def test_when_a_layer_is_lean_then_its_product_is_the_librarys(bias, shape):
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=bias)
    lean = nn.Sequential(copy.deepcopy(plain))
    use_lean_linear(lean)
    assert type(lean[0]) is LeanLinear
    x = torch.randn(shape)
    with torch.no_grad():
        assert torch.allclose(lean(x), plain(x), atol=1e-5)
        assert torch.allclose(lean(x[..., :0].new_ones(9, 96)[:, ::2]), plain(torch.ones(9, 48)), atol=1e-5)
    x.requires_grad_()
    one, other = (torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (lean, plain))
    assert torch.equal(one, other)


def test_when_there_are_gradients_other_types_or_no_onednn_then_a_layer_multiplies_as_ever(monkeypatch):
    layer = LeanLinear(16, 16)
    x = torch.randn(32, 16)
    with torch.no_grad():
        assert layer._takes_onednn(x) == decoders_rlm._HAS_ONEDNN
        assert not layer._takes_onednn(x[:1])
        assert not layer._takes_onednn(x.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert not layer._takes_onednn(x)
        monkeypatch.setattr(decoders_rlm, "_HAS_ONEDNN", False)
        assert not layer._takes_onednn(x)
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    monkeypatch.undo()
    assert not layer._takes_onednn(x)


# ------------------------------------------------------------------------------------------ adjusted quantiles


def pieces(count: int, seed: int) -> Distribution:
    random = np.random.default_rng(seed)
    ends = np.sort(random.lognormal(1.0, 2.0, 2 * count))
    return Distribution(ends[::2].copy(), ends[1::2].copy(), random.dirichlet(np.ones(count)))


@pytest.mark.parametrize("adjustment", ADJUSTMENTS)
@pytest.mark.parametrize("calibration", [None, Calibration((0.2, 0.9), (0.1, 0.8), 0.1, (0.3, 4.0, 70.0))])
def test_when_masses_lie_anywhere_in_their_pieces_then_the_quantiles_are_within_the_bracket(adjustment, calibration):
    for seed in range(5):
        whole = pieces(12, seed)
        whole.calibration, whole.adjustment = calibration, adjustment
        low, high = whole.bracket(LEVELS)
        for share in (0.0, 0.3, 1.0):
            at = whole.low + share * (whole.high - whole.low)
            found = Distribution(at, at.copy(), whole.mass, 1.0, calibration, adjustment).quantiles(LEVELS)
            assert (low <= found * (1 + 1e-9)).all() and (found * (1 - 1e-9) <= high).all()


@pytest.mark.parametrize("adjustment", ADJUSTMENTS)
def test_when_only_quantiles_are_asked_for_then_they_are_those_of_the_whole_tree_and_less_of_it_is_read(
    adjustment, model, batch, monkeypatch
):
    read: list[int] = []
    extend = TreeWalk.extend

    def counting(self, nodes, parents, tokens):
        read.append(len(parents))
        return extend(self, nodes, parents, tokens)

    monkeypatch.setattr(TreeWalk, "extend", counting)
    options = {"metrics": ["value"], "adjustments": [adjustment] * 3}
    whole = model.distributions(batch, **options)
    all_nodes = sum(read)
    read.clear()
    lazy = model.distributions(batch, levels=LEVELS, **options)
    assert sum(read) < 0.7 * all_nodes
    for one, other in zip(lazy, whole, strict=True):
        assert one.quantiles(LEVELS) == pytest.approx(other.quantiles(LEVELS), rel=1e-5)


def test_when_some_encoded_inputs_are_chosen_then_their_answers_are_those_of_all(model, batch):
    encoded = model.encode(batch)
    every = model.predict(encoded, LEVELS).quantiles
    assert model.predict(encoded[[2, 0]], LEVELS).quantiles == pytest.approx(every[[2, 0]], rel=1e-5)
    drawn = model.sample(encoded, 3)
    assert np.array_equal(model.sample(encoded[[1]], 3), drawn[[1]], equal_nan=True)


# --------------------------------------------------------------------------------------------------- ensemble


@pytest.fixture(scope="module")
def ensemble() -> FeatureEnsemble:
    """Random regressors of three metrics, one unread, one with a domain and one with a fallback."""
    settings = EnsembleConfig(
        FeatureLayout(buckets=32, number_buckets=2, structure_buckets=4, cost_features=True),
        ("a", "b", "c"),
        trees=6,
        mlp_features=5,
        domains={"b": ("onnx conv",)},
        fallbacks=("a",),
        unread=("c",),
        mlps=((("a", None), ("b", None)), (("c", None),), (("b", "onnx conv"),)),
    )
    made = FeatureEnsemble(settings, 8)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in made.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        elif name.endswith("feature"):
            tensor.copy_(torch.randint(0, settings.features.size, tensor.shape, generator=generator))
    made.fallback_rates.abs_()
    # Complete trees of depth four; the leaves of some are cut off.
    nodes = torch.arange(TREE_NODES)
    inner = nodes < 15
    made.tree_left[:] = torch.where(inner, 2 * nodes + 1, nodes)
    made.tree_right[:] = torch.where(inner, 2 * nodes + 2, nodes)
    for side in (made.tree_left, made.tree_right):
        side[:, ::2, 4] = 4
        side[1, 3] = nodes if side is made.tree_right else torch.zeros_like(nodes)
    return made


def features(ensemble: FeatureEnsemble) -> torch.Tensor:
    raw = torch.rand(5, ensemble.settings.input_size, generator=torch.Generator().manual_seed(1)) - 0.4
    raw = raw.clamp_min(0)
    raw[:, -1] = torch.tensor([0.0, 1, 0, 1, 0])
    return raw


def test_when_trees_are_walked_together_then_each_gives_the_leaf_that_it_gives_alone(ensemble):
    raw = features(ensemble)[:, : ensemble.settings.features.size]
    numbers = [3, 0, 1]
    expected = torch.zeros(len(raw), len(numbers))
    for row in range(len(raw)):
        for column, number in enumerate(numbers):
            for tree in range(ensemble.settings.trees):
                node = 0
                left, right = ensemble.tree_left[number, tree], ensemble.tree_right[number, tree]
                while int(left[node]) != node and int(left[0]) > 0:
                    threshold = ensemble.tree_threshold[number, tree, node]
                    goes_left = raw[row, ensemble.tree_feature[number, tree, node]] <= threshold
                    node = int(left[node] if goes_left else right[node])
                expected[row, column] += ensemble.tree_value[number, tree, node]
    assert torch.allclose(ensemble._tree_sums(raw, numbers), expected, atol=1e-5)


def test_when_metrics_are_named_then_only_unread_ones_that_nobody_asked_for_are_left_out(ensemble, monkeypatch):
    given = features(ensemble)
    every = ensemble.scores(given)
    walked: list[list[int]] = []
    sums = FeatureEnsemble._tree_sums
    monkeypatch.setattr(
        FeatureEnsemble,
        "_tree_sums",
        lambda self, raw, numbers: walked.append(list(numbers)) or sums(self, raw, numbers),
    )
    some = ensemble.scores(given, ["a"])
    assert torch.equal(some[:, :2], every[:, :2]) and some[:, 2].isnan().all()
    assert torch.equal(ensemble.scores(given, ["c"]), every)
    assert walked == [[0, 1, 3], [0, 1, 2, 3]]  # the fallback is walked in neither
    without_domain = given.clone()
    without_domain[:, -1] = 0
    ensemble.scores(without_domain, ["a"])
    assert walked[-1] == [0, 1]
    with torch.no_grad():
        assert torch.equal(ensemble(some), ensemble(every))


def test_when_one_fallback_is_asked_for_then_its_scores_are_those_among_all(ensemble):
    given = features(ensemble)
    assert torch.equal(ensemble.fallback_scores(given, ["a"]), ensemble.fallback_scores(given))
    assert ensemble.fallback_scores(given, []).shape == (5, 0)


def test_when_some_perceptrons_are_evaluated_then_their_outputs_are_those_among_all(ensemble):
    raw = features(ensemble)[:, : ensemble.settings.features.size]
    every = ensemble.mlps(raw)
    assert torch.allclose(ensemble.mlps(raw, [0, 2]), every[:, [0, 1, 3]], atol=1e-6)
    whole, part = ensemble.further(raw), ensemble.further(raw, [1, 3])
    assert torch.allclose(part, whole[:, [1, 3]], atol=1e-5)


# --------------------------------------------------------------------------------------------------- pipeline


def test_when_batches_hold_so_many_tokens_then_answers_come_in_order_and_are_those_of_each_alone(pipe, monkeypatch):
    texts = [f"x = {number}" + " + 1" * (number * 7 % 23) for number in range(24)]
    alone = [pipe(text, metrics=["cpu_time_ms"]) for text in texts]
    shapes: list[tuple[int, int]] = []
    encode = pipe.model.encode

    def spy(inputs, *others):
        if "input_ids" in getattr(inputs, "keys", list)():
            shapes.append(tuple(inputs["input_ids"].shape))
        return encode(inputs, *others)

    monkeypatch.setattr(pipe.model, "encode", spy)
    monkeypatch.setattr(type(pipe), "batch_tokens", {"cpu": 200, "accelerator": 1})
    together = pipe(texts, metrics=["cpu_time_ms"])
    found, expected = (
        [[one[name] for name in ("low", "value", "high")] for [one] in each] for each in (together, alone)
    )
    assert np.allclose(found, expected, rtol=2e-3)  # a step of the number format
    assert len({tuple(one) for one in found}) == 24
    assert sum(rows for rows, _ in shapes) == 24 and len(shapes) > 2
    assert all(rows * width <= 200 for rows, width in shapes)
    widths = [width for _, width in shapes]
    assert widths == sorted(widths)


def test_when_the_shipped_weights_answer_a_familiar_block_then_no_fallback_is_evaluated(monkeypatch):
    shipped = code_rlm.pipeline()
    asked: list[tuple[str, ...]] = []
    scores = FeatureEnsemble.fallback_scores
    monkeypatch.setattr(
        FeatureEnsemble,
        "fallback_scores",
        lambda self, features, metrics=None: asked.append(tuple(metrics)) or scores(self, features, metrics),
    )
    shipped("add rcx, 8\ncmp rcx, rdx")
    assert asked == []
    shipped(tiny.PYTHON, metrics=["peak_rss_bytes"])
    assert asked == [("peak_rss_bytes",)]


def test_when_a_reference_was_read_then_it_is_written_as_it_was_read_and_copies_share_it():
    familiarity = code_rlm.load()[0].config.fitted.familiarity
    reference = next(iter(familiarity.references.values()))
    written = reference.to_dict()
    built = type(reference)(
        **{name: getattr(reference, name) for name in written}
    )  # as after a fit: there is no entry that it was read from
    assert built.to_dict() == written and built == reference
    assert copy.deepcopy(familiarity).references[reference.domain] is reference


def test_when_a_graph_is_read_once_then_text_and_cost_are_those_of_two_readings():
    graph = build_graph("nasbench201", CELL)
    assert onnx_to_text_and_cost(graph) == (onnx_to_text(graph), graph_cost(graph))


# -------------------------------------------------------------------------------------------------- benchmark


def test_when_stages_call_each_other_then_each_has_its_own_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("stages.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("stages.time.process_time", lambda: now[0] / 2)
    clock = StageClock()

    def work(seconds: float) -> None:
        now[0] += seconds

    def outer() -> None:
        work(1.0)
        clock.run("inner", work, 5.0)
        clock.run("outer", work, 2.0)

    clock.run("outer", outer)
    assert clock.seconds == {"inner": [5.0, 2.5], "outer": [3.0, 1.5]}


@pytest.mark.parametrize("workload", COUNTS)
def test_when_inputs_are_made_without_a_data_root_then_they_are_the_same_each_time_and_readable(workload):
    first, second = (make_inputs(workload, 4, None) for _ in range(2))
    assert first == second and len(first) == (1 if workload == "one input" else 4)
    assert all(code_rlm.processing_rlm.read_input(item).text for item in first)


def test_when_two_versions_were_measured_then_the_table_has_their_medians_and_ratio():
    runs = [{"encoder": (seconds, seconds), "load": (1.0, 1.0)} for seconds in (4.0, 8.0, 6.0)]
    found = {"before": medians(runs), "after": medians(runs[:1])}
    assert set(found["before"]) == set(STAGES)
    text = table("blocks", 3, found)
    assert "| encoder | 6.00 | 6.00 | 4.00 | 4.00 | 1.5 |" in text
    assert "| all | 7.00 | 7.00 | 5.00 | 5.00 | 1.4 |" in text
    assert "| all but import and load | 6.00 | 6.00 | 4.00 | 4.00 | 1.5 |" in text
