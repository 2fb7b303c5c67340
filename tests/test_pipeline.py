"""The pipeline: every kind of input and option, alone and in batches, by remote code and by the package."""

from __future__ import annotations

import copy
import json
import types
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from datasets import Dataset
from transformers.pipelines import PIPELINE_REGISTRY

import code_rlm
from code_rlm.data.nas_graphs import build_graph
from code_rlm.errors_rlm import MetricError
from code_rlm.generation_rlm import EncodedInputs
from code_rlm.processing_rlm import format_header, read_input

CELL = "|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|nor_conv_1x1~1|nor_conv_3x3~2|"
MIXED = [
    tiny.PYTHON,
    tiny.ASSEMBLY,
    "x = 1",
    tiny.PYTHON * 30,
    {"text": tiny.PYTHON, "context": {"input_size": 1024}},
    "add rax, 1",
    tiny.TRITON,
    "print('longer than the third')",
]


@pytest.fixture(scope="module")
def graph():
    return build_graph("nasbench201", CELL)


@pytest.fixture
def widths(pipe, monkeypatch):
    """The shapes of the batches that reach the encoder from here on."""
    seen, encode = [], pipe.model.encode

    def spy(batch, *others):
        if not isinstance(batch, EncodedInputs):
            seen.append((tuple(batch["input_ids"].shape), batch["attention_mask"].sum(1).tolist()))
        return encode(batch, *others)

    monkeypatch.setattr(pipe.model, "encode", spy)
    return seen


def same(left, right) -> None:
    """Answers with equal words and with numbers that differ by rounding at most."""
    assert type(left) is type(right)
    if isinstance(left, list):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            same(a, b)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, float):
        # The last of four digits may fall to either side.
        assert left == pytest.approx(right, rel=2e-3, abs=1e-5)
    else:
        assert left == right


# ---------------------------------------------------------------------------------------------------- ways to get one


def test_when_the_package_is_imported_then_the_task_is_known_to_transformers(checkpoint, pipe, monkeypatch):
    task = PIPELINE_REGISTRY.supported_tasks["code-regression"]
    assert task["default"]["model"] == (str(code_rlm.DEFAULT_CHECKPOINT), None)
    monkeypatch.setitem(task, "default", {"model": (str(checkpoint), None)})
    for made in (
        transformers.pipeline("code-regression"),
        transformers.pipeline("code-regression", model=pipe.model, tokenizer=pipe.tokenizer),
        code_rlm.pipeline(pipe.model, pipe.tokenizer),
        code_rlm.pipeline(str(checkpoint), dtype=torch.float32, device="cpu"),
    ):
        assert type(made) is code_rlm.CodeRegressionPipeline
        assert made(tiny.PYTHON) == pipe(tiny.PYTHON)


def test_when_the_package_is_imported_then_the_auto_classes_need_no_remote_code(checkpoint):
    assert type(transformers.AutoConfig.from_pretrained(checkpoint)) is code_rlm.RLMConfig
    assert type(transformers.AutoTokenizer.from_pretrained(checkpoint)) is code_rlm.RLMTokenizer
    for auto in (transformers.AutoModel, transformers.AutoModelForSeq2SeqLM):
        assert type(auto.from_pretrained(checkpoint)) is code_rlm.RLMForConditionalGeneration


REMOTE = """
import json
import transformers
folder, inputs = sys.argv[1], json.loads(sys.argv[2])
pipe = transformers.pipeline("code-regression", model=folder, trust_remote_code=True)
names = [type(x).__module__ for x in (pipe, pipe.model, pipe.tokenizer, pipe.model.config)]
print(json.dumps({"names": names, "answers": pipe(inputs, num_samples=3, interval=0.8)}))
"""


@pytest.mark.slow
def test_when_the_package_is_hidden_then_remote_code_gives_the_same_answers(checkpoint, pipe, tmp_path):
    found = tiny.run_python(REMOTE, checkpoint, json.dumps(MIXED), cwd=tmp_path, hidden=True)
    assert {name.split(".")[0] for name in found["names"]} == {"transformers_modules"}
    same(found["answers"], pipe(MIXED, num_samples=3, interval=0.8))


def test_when_a_pipeline_is_saved_then_the_config_keeps_to_what_the_hub_can_read(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["custom_pipelines"] == {
        "code-regression": {"impl": "pipeline_rlm.CodeRegressionPipeline", "pt": ["AutoModelForSeq2SeqLM"]}
    }
    assert (tmp_path / "pipeline_rlm.py").exists()
    assert code_rlm.pipeline(tmp_path)(tiny.PYTHON) == pipe(tiny.PYTHON)


def test_when_model_and_tokenizer_do_not_belong_here_then_the_error_says_so(pipe):
    with pytest.raises(code_rlm.CheckpointError, match=r"needs its processor: pipeline\(model, processor\)"):
        code_rlm.pipeline(pipe.model)
    stranger = transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1, intermediate_size=8)
    )
    with pytest.raises(code_rlm.CheckpointError, match="needs a Code-RLM model and its tokenizer, got BertModel"):
        code_rlm.pipeline(stranger, pipe.tokenizer)


# ---------------------------------------------------------------------------------------------------- kinds of input


def test_when_one_input_is_given_then_one_entry_a_metric_comes_back_ready_for_json(pipe):
    answer = pipe(tiny.PYTHON)
    assert [entry["metric"] for entry in answer] == ["peak_memory_bytes", "cpu_time_ms"]
    assert [entry["unit"] for entry in answer] == ["bytes", "ms"]
    keys = ["metric", "value", "unit", "low", "high", "level", "calibrated", "truncated_tokens"]
    assert all(list(entry) == keys for entry in answer)
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert pipe([tiny.PYTHON]) == [answer]


def test_when_the_same_thing_is_passed_in_different_wrappings_then_the_answer_is_the_same(pipe, tmp_path):
    path = tmp_path / "code.py"
    path.write_text(tiny.PYTHON)
    expected = pipe(tiny.PYTHON)
    for item in (
        {"text": tiny.PYTHON},
        {"text": tiny.PYTHON, "language": "python", "context": None},
        types.MappingProxyType({"text": tiny.PYTHON}),
        np.str_(tiny.PYTHON),
        path,
        str(path),
        read_input(path),
    ):
        assert pipe(item) == expected
        assert pipe([item]) == [expected]
        assert pipe((item,)) == [expected]


def test_when_a_file_is_named_then_its_suffix_tells_the_kind(pipe, graph, tmp_path):
    (tmp_path / "loop.s").write_text(tiny.ASSEMBLY)
    (tmp_path / "kernel.py").write_text(tiny.TRITON)
    (tmp_path / "net.onnx").write_bytes(graph.SerializeToString())
    assert [e["metric"] for e in pipe(str(tmp_path / "loop.s"))] == ["cycles"]
    assert [e["metric"] for e in pipe(tmp_path / "kernel.py")] == ["latency_ms"]
    answer = pipe(graph)
    assert [e["metric"] for e in answer] == ["accuracy_percent", "latency_ms@pixel3"]
    assert answer == pipe(tmp_path / "net.onnx") == pipe(str(tmp_path / "net.onnx"))
    assert answer != pipe(build_graph("nasbench201", CELL.replace("avg_pool_3x3", "nor_conv_3x3")))


def test_when_a_generator_is_passed_then_a_generator_comes_back_and_reads_no_further_than_it_must(pipe):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield tiny.PYTHON

    answers = pipe(endless(), batch_size=1)
    assert isinstance(answers, types.GeneratorType) and not taken
    assert next(answers) == pipe(tiny.PYTHON)
    assert len(taken) <= 32
    assert list(pipe(iter([]))) == []


def test_when_a_column_of_a_data_set_is_passed_then_it_is_a_list(pipe):
    texts = [tiny.PYTHON, "x = 1", "y = 2"]
    rows = Dataset.from_dict({"code": texts})
    assert pipe(rows["code"]) == pipe(texts)


# ---------------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_when_inputs_share_batches_then_each_gets_what_it_gets_alone_in_order(pipe, batch_size):
    options = {"num_samples": 2, "seed": 5}
    same(pipe(MIXED, batch_size=batch_size, **options), [pipe(item, **options) for item in MIXED])


def test_when_there_are_more_inputs_than_a_chunk_then_their_order_is_kept(pipe):
    texts = [f"x = {i}" + " + 1" * (i * 7 % 11) for i in range(70)]
    answers = pipe(texts, batch_size=2, metrics="cpu_time_ms")
    assert len({str(a) for a in answers}) > 60
    for i in (0, 33, 63, 64, 69):
        same(answers[i], pipe(texts[i], metrics="cpu_time_ms"))


def test_when_a_batch_is_run_then_it_is_padded_to_its_own_longest_only(pipe, widths):
    pipe(MIXED, batch_size=2)
    assert sum(shape[0] for shape, _ in widths) == len(MIXED)
    assert all(shape[0] <= 2 for shape, _ in widths)
    assert all(shape[1] == max(lengths) for shape, lengths in widths)
    longest = sorted(length for _, lengths in widths for length in lengths)
    assert longest[-1] == pipe.model.config.max_input_tokens > 1.2 * longest[-2]
    # The one long input costs nobody else: it has its own kind's longest neighbour beside it at most.
    assert sum(shape[1] > longest[-2] for shape, _ in widths) == 1


def test_when_short_and_long_inputs_alternate_then_like_is_batched_with_like(pipe, widths):
    pipe(["x = 1", "x = 1" + " + 1" * 20] * 4, batch_size=4)
    assert [set(lengths) for _, lengths in widths] == [{width} for (_, width), _ in widths]
    assert [rows for (rows, _), _ in widths] == [4, 4]


def test_when_inputs_differ_then_the_answers_differ(pipe):
    answers = pipe([f"x = {i}" for i in range(8)], metrics=["cpu_time_ms"])
    assert len({(a["value"], a["low"], a["high"]) for [a] in answers}) == 8


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_when_an_interval_is_asked_for_then_it_is_ordered_and_its_level_is_said(pipe, level):
    for answer in pipe(MIXED, interval=level):
        for entry in answer:
            assert entry["level"] == level
            assert entry["low"] <= entry["value"] <= entry["high"]


def test_when_the_level_grows_then_the_interval_widens_around_the_same_median(pipe):
    narrow, wide = pipe(tiny.PYTHON, interval=0.2), pipe(tiny.PYTHON, interval=0.95)
    for a, b in zip(narrow, wide, strict=True):
        assert b["low"] < a["low"] <= a["value"] <= a["high"] < b["high"]
        assert a["value"] == b["value"]


def test_when_metrics_are_named_then_they_come_in_that_order_and_a_name_alone_will_do(pipe):
    turned = pipe(tiny.PYTHON, metrics=["cpu_time_ms", "peak_memory_bytes"])
    assert [e["metric"] for e in turned] == ["cpu_time_ms", "peak_memory_bytes"]
    assert pipe(tiny.PYTHON, metrics="cpu_time_ms") == pipe(tiny.PYTHON, metrics=("cpu_time_ms",))
    with pytest.warns(UserWarning, match="cycles: this checkpoint has not seen 'python' input with it"):
        assert [e["metric"] for e in pipe(tiny.PYTHON, metrics=["cycles"])] == ["cycles"]


def test_when_a_metric_is_given_then_the_other_is_conditioned_on_it(pipe):
    few, many = (pipe(tiny.PYTHON, given={"peak_memory_bytes": value}) for value in (1e3, 9e9))
    assert [e["metric"] for e in few] == [e["metric"] for e in many] == ["cpu_time_ms"]
    assert few != many
    draws = [
        pipe(tiny.PYTHON, given={"peak_memory_bytes": value}, num_samples=20)[0]["samples"] for value in (1e3, 9e9)
    ]
    assert draws[0] != draws[1]
    asked = ["cpu_time_ms", "peak_memory_bytes"]
    assert pipe(tiny.PYTHON, given={"peak_memory_bytes": 1e3}, metrics=asked) == few
    failed = pipe(tiny.PYTHON, given={"peak_memory_bytes": "failed"})
    assert failed != few
    [first, second] = pipe(tiny.PYTHON)
    [again] = pipe(tiny.PYTHON, given={"peak_memory_bytes": first["value"]})
    same(again["value"], second["value"])


def test_when_samples_are_asked_for_then_the_seed_decides_them(pipe):
    first, again, other = (pipe(tiny.PYTHON, num_samples=40, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    words = {"failed", "+inf", "-inf", None}
    assert all(len(e["samples"]) == 40 for e in first)
    assert all(isinstance(s, float) or s in words for e in first for s in e["samples"])
    json.dumps(first, allow_nan=False)
    assert {k: v for k, v in first[0].items() if k != "samples"} == pipe(tiny.PYTHON)[0]


def test_when_context_is_passed_then_it_stands_in_the_header(pipe):
    plain = pipe(tiny.PYTHON)
    assert pipe(tiny.PYTHON, context={"input_size": 64}) == pipe(tiny.PYTHON, context=["input_size: 64"])
    assert pipe(tiny.PYTHON, context={"input_size": 64}) == pipe({"text": tiny.PYTHON, "context": ["input_size: 64"]})
    assert pipe(tiny.PYTHON, context={"input_size": 64}) != plain
    assert pipe(tiny.PYTHON, context={"input_size": 65}) != pipe(tiny.PYTHON, context={"input_size": 64})


def test_when_the_kind_cannot_be_told_then_language_helps(pipe):
    text = "Hier steht nichts als Prosa."
    with pytest.raises(
        code_rlm.InputError, match=r"Pass language=..., one of \['onnx', 'python', 'triton', 'x86asm'\]"
    ):
        pipe(text)
    assert [e["metric"] for e in pipe(text, language="triton")] == ["latency_ms"]
    with pytest.raises(code_rlm.InputError, match=r"1 of 1 lines are no instruction.*looks like prose"):
        pipe(text, language="x86asm")
    # What the input itself says wins over the option.
    assert pipe({"text": text, "language": "triton"}, language="x86asm")[0]["metric"] == "latency_ms"
    assert [e["metric"] for e in pipe(text, metrics=["cycles"])] == ["cycles"]


def test_when_options_are_set_at_the_start_then_calls_may_override_them(checkpoint):
    pipe = code_rlm.pipeline(checkpoint, interval=0.5, metrics=["cpu_time_ms"], batch_size=3)
    assert [(e["metric"], e["level"]) for e in pipe(tiny.PYTHON)] == [("cpu_time_ms", 0.5)]
    assert pipe(tiny.PYTHON, interval=0.7)[0]["level"] == 0.7
    assert pipe(tiny.PYTHON)[0]["level"] == 0.5


def test_when_later_metrics_are_marginal_then_only_they_change(pipe):
    median, marginal = (pipe(tiny.PYTHON, conditioning=how) for how in ("median", "marginal"))
    assert median[0] == marginal[0] and median[1] != marginal[1]


# ---------------------------------------------------------------------------------------------------- length


def test_when_code_is_too_long_then_the_answer_counts_what_was_left_out(pipe, widths):
    text = "x = 1\n" * 100
    [entry] = pipe(text, metrics=["cpu_time_ms"])
    tokens = len(pipe.tokenizer(text, add_special_tokens=False)["input_ids"])
    header = len(pipe.tokenizer(format_header(["cpu_time_ms"], "python"), add_special_tokens=False)["input_ids"])
    limit = pipe.model.config.max_input_tokens
    # The header, the code that is kept, a mark where the cut is, the end.
    assert entry["truncated_tokens"] == tokens - (limit - header - 2) > 0
    assert widths == [((1, limit), [limit])]
    assert pipe("x = 1\n", metrics=["cpu_time_ms"])[0]["truncated_tokens"] == 0


def test_when_the_code_fits_exactly_then_nothing_is_left_out(pipe):
    header = len(pipe.tokenizer(format_header(["cpu_time_ms"], "python"), add_special_tokens=False)["input_ids"])
    room = pipe.model.config.max_input_tokens - header - 1
    options = {"metrics": ["cpu_time_ms"], "language": "python"}
    texts = ["1" * room, "1" * (room + 1)]  # digits are read one by one
    assert [a["truncated_tokens"] for [a] in pipe(texts, **options)] == [0, 2]


def test_when_a_megabyte_stands_on_one_line_then_it_is_read_and_the_cut_is_told(pipe, widths):
    [entry] = pipe("a" * 20 + "12345678" * 131072, metrics=["cpu_time_ms"])
    assert widths[0][0] == (1, pipe.model.config.max_input_tokens)
    assert 2**20 - 200 < entry["truncated_tokens"] <= 2**20 + 20
    assert entry["low"] <= entry["value"] <= entry["high"]


def test_when_only_the_middle_of_long_code_differs_then_head_and_tail_decide(pipe):
    def answer(middle="", end=0):
        return pipe("start = 0\n" + "1" * 300 + middle + "1" * 300 + f"\nend = {end}\n", metrics=["cpu_time_ms"])

    assert answer("2" * 100) == answer("3" * 100)
    assert answer("2" * 100, end=1) != answer("2" * 100)


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "<text>: the text is empty or only whitespace"),
        (" \n\t ", "only whitespace"),
        ("a\0b", "NUL bytes at position 1"),
        ("x = '\ud800'", "lone surrogate at position 5"),
        (7, "Cannot read int as an input. Pass code as str, a dict"),
        (None, "Cannot read NoneType"),
        (b"x = 1", "Cannot read bytes as an input"),
        ([3.5], "Input 0: Cannot read float"),
        (["x = 1", ""], "Input 1: <text>: the text is empty"),
        (["x = 1", ["y = 2"]], "Input 1: Cannot read list"),
        ([], "the list is empty"),
        ((), "the list is empty"),
        ({}, "needs a 'text' key"),
        ({"text": 5}, "Cannot read int"),
        ({"text": "x = 1", "context": "no key"}, "must read 'key: value' on one line"),
        ({"text": "x = 1", "context": ["a: b\nc: d"]}, "must read 'key: value' on one line"),
        ({"text": "x = 1", "context": 5}, "must read 'key: value' on one line"),
        ({"text": "x = 1", "context": ["a: \ud800"]}, "surrogate"),
        (Path("no/such/file.py"), "no/such/file.py does not exist"),
        (Path("/"), "is a directory"),
    ],
)
def test_when_an_input_is_unusable_then_the_error_says_which_and_why(pipe, given, message):
    with pytest.raises(code_rlm.InputError, match=message):
        pipe(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["speed"]}, "does not predict 'speed'. It knows: peak_memory_bytes, cpu_time_ms, cycles"),
        ({"metrics": []}, "metrics is empty"),
        ({"metrics": ["cpu_time_ms", "cpu_time_ms"]}, "more than once"),
        ({"metrics": [m["name"] for m in tiny.METRICS[:4]]}, "4 metrics asked for; this model answers at most 3"),
        ({"given": {"speed": 1.0}}, "does not predict 'speed'"),
        ({"given": {"cpu_time_ms": "fast"}}, "fast"),
        ({"given": {"cpu_time_ms": 1e99}}, "1e\\+99"),
        ({"given": ["cpu_time_ms"]}, "given must map metric names to values, got list"),
        ({"given": {"cpu_time_ms": 1, "peak_memory_bytes": 2}}, "Every metric asked for is given"),
        ({"interval": 0}, "strictly between 0 and 1, such as 0.9; got 0"),
        ({"interval": 1}, "got 1"),
        ({"interval": 90}, "got 90"),
        ({"interval": float("nan")}, "got nan"),
        ({"interval": "0.9"}, "got '0.9'"),
        ({"interval": True}, "got True"),
        ({"num_samples": 0}, "num_samples must be a positive int"),
        ({"num_samples": 1.5}, "num_samples must be a positive int"),
        ({"num_samples": True}, "num_samples must be a positive int"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": "4"}, "batch_size must be .* got '4'"),
        ({"conditioning": "mean"}, "must be 'median' or 'marginal', got 'mean'"),
        ({"language": "cobol"}, "no metric for 'cobol' input"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has not seen.*")
def test_when_an_option_is_unusable_then_the_error_says_what_is_allowed(pipe, options, message):
    text = "???" if "language" in options else tiny.PYTHON
    with pytest.raises(code_rlm.RLMError, match=message):
        pipe(text, **options)


def test_when_an_option_is_unknown_then_the_error_lists_the_known(pipe, checkpoint):
    message = r"Unknown options \['metric'\]. A code-regression pipeline takes \['above', 'batch_size', 'calibrated'"
    with pytest.raises(TypeError, match=message):
        pipe(tiny.PYTHON, metric="cpu_time_ms")
    with pytest.raises(TypeError, match=message):
        code_rlm.pipeline(checkpoint, metric="cpu_time_ms")


def test_when_a_call_returns_then_what_was_passed_is_as_before(pipe):
    inputs = copy.deepcopy(MIXED)
    metrics, given, context = ["peak_memory_bytes", "cpu_time_ms"], {"peak_memory_bytes": 5.0}, {"size": 3}
    pipe(inputs, context=context)
    pipe({"text": tiny.PYTHON}, metrics=metrics, given=given, context=context, num_samples=1)
    assert inputs == MIXED
    assert (metrics, given, context) == (["peak_memory_bytes", "cpu_time_ms"], {"peak_memory_bytes": 5.0}, {"size": 3})


# ---------------------------------------------------------------------------------------------------- what ships


@pytest.fixture(scope="module")
def shipped():
    return code_rlm.pipeline()


def test_when_nothing_is_named_then_the_weights_that_ship_answer(shipped):
    codes = ["x = [0] * 10", "x = list(range(10**7))\nprint(sum(x))", tiny.ASSEMBLY, "add rax, 1\nadd rax, rbx"]
    answers = shipped(codes)
    assert answers == transformers.pipeline("code-regression")(codes)
    assert len({json.dumps(a) for a in answers}) == len(codes)
    assert all(e["low"] <= e["value"] <= e["high"] for a in answers for e in a)
    assert [[e["metric"] for e in a] for a in answers[2:]] == [["cycles"]] * 2


# Quantiles and limits


def test_when_quantiles_are_asked_for_then_they_agree_with_intervals(pipe):
    entry = pipe(tiny.PYTHON, metrics=["cpu_time_ms"], interval=0.8, quantiles=[0.1, 0.5, 0.75])[0]
    assert list(entry["quantiles"]) == ["0.1", "0.5", "0.75"]
    assert entry["quantiles"]["0.1"] == entry["low"] and entry["quantiles"]["0.5"] == entry["value"]
    assert entry["value"] <= entry["quantiles"]["0.75"] <= entry["high"]


def test_when_a_limit_is_given_then_its_probability_is_that_of_the_distribution(pipe):
    limits = {"cpu_time_ms": pipe(tiny.PYTHON, metrics=["cpu_time_ms"])[0]["value"]}
    texts = [tiny.PYTHON, "x = 1\n"]
    for text, [entry] in zip(texts, pipe(texts, metrics=["cpu_time_ms"], above=limits), strict=True):
        [(_, whole)] = pipe.distributions([text], "cpu_time_ms")
        expected = 1 - float(whole.cdf(np.array([entry["limit"]]), "right")[0])
        assert entry["probability_above"] == pytest.approx(expected, abs=3e-3)
    assert "limit" not in pipe(tiny.PYTHON, metrics=["peak_memory_bytes"], above=limits)[0]
    later = pipe(tiny.PYTHON, metrics=["peak_memory_bytes", "cpu_time_ms"], above=limits)[1]
    given = {"peak_memory_bytes": pipe(tiny.PYTHON, metrics=["peak_memory_bytes"])[0]["value"]}
    alone = pipe(tiny.PYTHON, metrics=["cpu_time_ms"], above=limits, given=given)[0]
    assert later["probability_above"] == pytest.approx(alone["probability_above"], abs=1e-3)


@pytest.mark.slow
def test_when_an_input_is_unfamiliar_then_limits_and_quantiles_are_those_of_the_widened_answer():
    shipped = code_rlm.pipeline()
    path = Path(__file__).parents[1] / "examples" / "softmax_triton.py"
    entry = shipped(path, metrics=["latency_ms"], quantiles=[0.3, 0.7], above={"latency_ms": 0.1})[0]
    [(_, whole)] = shipped.distributions([path], "latency_ms")
    assert entry["familiarity"] < 0.05 and whole.adjustment.novelty_weight > 0
    assert entry["probability_above"] == pytest.approx(1 - float(whole.cdf(np.array([0.1]), "right")[0]), abs=3e-3)
    assert list(entry["quantiles"].values()) == pytest.approx(whole.quantiles((0.3, 0.7)), rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": [0.0]}, "levels strictly between 0 and 1"),
        ({"quantiles": ["low"]}, "levels strictly between 0 and 1"),
        ({"above": [3]}, "above must map metric names to limits"),
        ({"above": {"cpu_time_ms": float("inf")}}, "must be a finite number"),
        ({"above": {"speed": 1.0}}, "does not predict 'speed'"),
        ({"above": {"cpu_time_ms": 1.0}, "conditioning": "marginal"}, "needs conditioning='median'"),
    ],
)
def test_when_levels_or_limits_are_unusable_then_the_error_says_what_is(pipe, options, message):
    with pytest.raises(MetricError, match=message):
        pipe(tiny.PYTHON, metrics=["cpu_time_ms"], **options)
