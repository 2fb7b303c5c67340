"""`code-rlm adapt`: a device from a few measurements becomes a metric of the pipeline, with a ranking and suggestions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch

import code_rlm
from code_rlm import MetricError
from code_rlm.cli import main
from code_rlm.configuration_rlm import FittedState
from code_rlm.data.nas_graphs import build_graph
from code_rlm.data.schema import DataError
from code_rlm.distributions_rlm import DerivedMetric
from code_rlm.errors_rlm import CheckpointError
from code_rlm.training.adapt import fit_device, left_out, most_informative, read_measurements, votes

METRICS = [{"name": f"latency_ms@{name}", "unit": "ms", "languages": ["onnx"]} for name in ("a", "b", "c")]
METRICS += [{"name": "accuracy_percent", "unit": "%", "smaller_is_better": False, "languages": ["onnx"]}]
OPERATORS = ("nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")


def cell(number: int) -> str:
    ops = [OPERATORS[number // 4**k % 4] for k in range(3)]
    return f"|{ops[0]}~0|+|{ops[1]}~0|{ops[2]}~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    for i in range(26):
        onnx.save(build_graph("nasbench201", cell(5 * i + 1)), folder / f"{i:02}.onnx")
    return folder


@torch.no_grad()
def answer_above_zero(model) -> None:
    """Turns the first token of every number of a random model into a plus."""
    seen: list[torch.Tensor] = []
    hook = model.number_head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    ids = torch.randint(4, 300, (8, 40), generator=torch.Generator().manual_seed(1))
    codes = torch.from_numpy(model.codec.encode(np.full(8, 7.0)))
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=codes)
    hook.remove()
    first = seen[0].reshape(8, -1, seen[0].shape[-1])[:, 0].mean(0)
    states = model.codec.states(codes.numpy())
    for token in np.flatnonzero(model.codec.allowed[states[0, 0]]).tolist():
        sign = 1 if token == model.codec.ids["<+>"] else -1
        model.number_head.weight[token] = sign * 20 * first / first.norm() ** 2


@pytest.fixture(scope="module")
def model(make_model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "base"
    made = make_model(**{**tiny.CONFIG, "metrics": METRICS, "default_metrics": {}, "max_input_tokens": 256})
    answer_above_zero(made)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def truth(model, nets) -> list[float]:
    """The latency of a device that is half like one that the model knows and half like another."""
    pipe = code_rlm.pipeline(model)
    files = sorted(nets.iterdir())
    a, b = ([answer[0]["value"] for answer in pipe(files, metrics=[f"latency_ms@{name}"])] for name in "ab")
    return [3.0 * abs(x) ** 0.5 * abs(y) ** 0.5 for x, y in zip(a, b, strict=True)]


def write_csv(path: Path, nets: Path, values, header: str = "file,ms") -> Path:
    lines = [f"{nets}/{i:02}.onnx,{value}" for i, value in enumerate(values)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def adapted(model, nets, truth, tmp_path_factory) -> Path:
    """A folder with the adapted checkpoint and the ranking. Not to be changed by tests."""
    out = tmp_path_factory.mktemp("adapted")
    table = write_csv(out / "measured.csv", nets, truth[:20])
    argv = ["adapt", table, "--metric", "latency_ms@mine", "--model", model, "--candidates", nets, "--suggest", "2"]
    assert main([*map(str, argv), "--out", str(out / "mine"), "--ranking", str(out / "ranking.csv")]) == 0
    return out


def test_when_a_device_follows_two_others_then_its_metric_is_answered_for_every_network(adapted, nets, truth):
    pipe = code_rlm.pipeline(adapted / "mine")
    files = sorted(nets.iterdir())
    answers = [answer[0] for answer in pipe(files, metrics=["latency_ms@mine"], interval=0.8)]
    found = np.array([answer["value"] for answer in answers])
    assert np.corrcoef(np.log(found[20:]), np.log(truth[20:]))[0, 1] > 0.9
    assert answers[0]["derived_from"] == ["latency_ms@a", "latency_ms@b", "latency_ms@c"]
    assert all(answer["low"] < answer["value"] < answer["high"] and answer["unit"] == "ms" for answer in answers)
    with open(adapted / "ranking.csv") as stream:
        ranking = list(csv.DictReader(stream))
    assert [row["rank"] for row in ranking] == [str(i + 1) for i in range(26)]
    assert sum(bool(row["measured"]) for row in ranking) == 20
    by_file = {row["file"]: float(row["latency_ms@mine"]) for row in ranking}
    assert [by_file[str(file)] for file in files] == pytest.approx(found.tolist(), rel=1e-4)


def test_when_the_metric_is_asked_with_others_then_these_are_answered_as_before(adapted, nets):
    pipe, file = code_rlm.pipeline(adapted / "mine"), nets / "03.onnx"
    both = pipe(file, metrics=["latency_ms@a", "latency_ms@mine", "accuracy_percent", "params_count"])
    assert [entry["metric"] for entry in both] == [
        "latency_ms@a",
        "latency_ms@mine",
        "accuracy_percent",
        "params_count",
    ]
    assert both[1] == pipe(file, metrics=["latency_ms@mine"])[0]
    assert [both[0], both[2]] == pipe(file, metrics=["latency_ms@a", "accuracy_percent"])


def test_when_the_metric_is_asked_otherwise_then_the_message_says_what_it_is(adapted, nets):
    pipe, file = code_rlm.pipeline(adapted / "mine"), nets / "03.onnx"
    for call in (
        lambda: pipe(file, metrics=["latency_ms@mine"], num_samples=3),
        lambda: pipe(file, metrics=["latency_ms@mine"], given={"latency_ms@a": 1.0}),
        lambda: pipe.rank([file], "latency_ms@mine"),
        lambda: pipe.processor([{"text": "x", "language": "onnx"}], ["latency_ms@mine"]),
    ):
        with pytest.raises(MetricError, match="latency_ms@mine is computed from"):
            call()


@pytest.mark.slow
def test_when_the_package_is_not_there_then_the_adapted_checkpoint_answers_the_same(adapted, nets, tmp_path):
    code = """
import json, sys
from transformers import pipeline
pipe = pipeline("code-regression", model=sys.argv[1], trust_remote_code=True)
print(json.dumps(pipe(sys.argv[2], metrics=["latency_ms@mine"])))
"""
    found = tiny.run_python(code, adapted / "mine", nets / "05.onnx", cwd=tmp_path, hidden=True)
    (expected,) = code_rlm.pipeline(adapted / "mine")(nets / "05.onnx", metrics=["latency_ms@mine"])
    assert found[0]["value"] == pytest.approx(expected["value"], rel=1e-4)


def test_when_an_accuracy_is_adapted_then_networks_are_ranked_and_the_least_sure_suggested(
    model, nets, tmp_path, capsys
):
    # The more convolutions, the better: a rule that counts of operators show.
    values = [50 + 5 * cell(5 * i + 1).count("conv_3x3") + 0.1 * (i % 3) for i in range(26)]
    table = write_csv(tmp_path / "m.csv", nets, values[:18], "file,accuracy_percent")
    argv = ["adapt", table, "--metric", "accuracy_percent", "--candidates", nets, "--suggest", "3"]
    assert main([*map(str, argv), "--ranking", str(tmp_path / "r.csv")]) == 0
    out = capsys.readouterr().out
    assert "FLOPs alone" in out and out.count(".onnx") == 3
    with open(tmp_path / "r.csv") as stream:
        ranking = [int(Path(row["file"]).stem) for row in csv.DictReader(stream) if not row["measured"]]
    assert len(ranking) == 8
    predicted = [-ranking.index(i) for i in range(18, 26)]
    assert np.corrcoef(predicted, values[18:])[0, 1] > 0.6


# Parts


def test_when_measurements_follow_the_predictions_then_the_fit_is_one_linear_function():
    random = np.random.default_rng(0)
    columns = random.normal(size=(60, 4)) + [5, -3, 0, 2]
    target = columns @ [0.8, 0.2, 0.0, 0.0] + 1.0
    fit = fit_device(columns[:20], target[:20])
    assert np.corrcoef(fit(columns[20:]), target[20:])[0, 1] > 0.97
    assert fit(columns)[3] == pytest.approx(fit.intercept + columns[3] @ fit.weights)
    apart = left_out(columns[:20], target[:20])
    assert not np.allclose(apart, fit(columns[:20])) and np.corrcoef(apart, target[:20])[0, 1] > 0.9


def test_when_candidates_are_suggested_then_one_unlike_the_measured_comes_first_and_none_twice():
    known = np.random.default_rng(0).normal(size=(12, 2)) * [1.0, 0.01]
    candidates = np.vstack([known[:5], [[0.0, 3.0]], [[0.1, 2.9]], known[5:8]])
    chosen = most_informative(known, candidates, 4)
    assert chosen[0] in (5, 6) and len(set(chosen)) == 4
    assert len(most_informative(known, candidates, 99)) == len(candidates)


def test_when_a_committee_votes_then_each_member_is_in_standard_deviations():
    random = np.random.default_rng(0)
    members = votes(random.normal(size=(12, 3)), random.normal(size=12), random.normal(size=(30, 3)), 0)
    assert members.shape == (3, 30) and np.allclose(members.std(1), 1) and np.allclose(members.mean(1), 0)


def test_when_intervals_come_from_residuals_then_they_widen_with_the_level_and_end_with_the_measurements():
    derived = DerivedMetric(("a",), (1.0,), 0.0, tuple(np.linspace(-0.5, 0.5, 19)))
    assert derived.factors(0.9) == pytest.approx((np.exp(-0.5), np.exp(0.5)))
    assert derived.factors(0.5)[1] < derived.factors(0.8)[1] and derived.factors(0.95) is None
    assert derived.value([[np.e], [-1.0]])[0] == pytest.approx(np.e) and np.isnan(derived.value([-1.0]))
    state = FittedState(derived={"d": derived})
    assert FittedState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    assert state.without({"a"}).derived == {} and "derived" not in FittedState().to_dict()
    with pytest.raises(CheckpointError, match="one weight for each source"):
        DerivedMetric(("a", "b"), (1.0,), 0.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,ms\n01.onnx,1\n", "1 measurements; at least 6"),
        ("file,ms\nnone.onnx,1\n", "row 0 .*there is no file"),
        ("file,ms\n01.onnx,-3\n", "expected a number above zero, got '-3'"),
        ("file,watts\n01.onnx,1\n", "no column of numbers"),
        ("net,ms\n01.onnx,1\n", "no column file"),
        ("file,ms\n" + "01.onnx,1\n" * 7, "more than once"),
    ],
)
def test_when_the_table_is_bad_then_the_message_says_where(rows, message, nets, tmp_path):
    shutil.copy(nets / "01.onnx", tmp_path / "01.onnx")
    (tmp_path / "m.csv").write_text(rows)
    with pytest.raises(DataError, match=message):
        read_measurements(str(tmp_path / "m.csv"), "latency_ms@x", [])


def test_when_options_do_not_go_together_then_the_message_says_so(model, nets, truth, tmp_path, capsys):
    table = write_csv(tmp_path / "m.csv", nets, truth[:8])
    base = ["adapt", str(table), "--model", str(model)]
    for argv, message in (
        (["--metric", "latency_ms@a", "--out", str(tmp_path / "o")], "predicts latency_ms@a already"),
        (["--metric", "latency_ms@x"], "name its folder with --out"),
        (["--metric", "latency_ms@x", "--proxies", "--out", "o"], "--proxies is for accuracies"),
        (["--metric", "accuracy", "--out", "o"], "use --ranking FILE.csv in place of --out"),
    ):
        assert main([*base, *argv]) == 2
        assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv"]
