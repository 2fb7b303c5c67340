"""How operators follow one another: exact counts, the same however a text is folded, nothing for what is no graph."""

import math
import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from test_onnx_text import random_graph, repeated

from code_rlm import onnx_text_rlm
from code_rlm.features_rlm import RLMFeatureExtractor, token_texts
from code_rlm.onnx_text_rlm import graph_ngrams, onnx_to_text, position_features
from code_rlm.processing_rlm import format_header
from code_rlm.training.ensemble import settings_for

RESIDUAL = """total x4 total m9
conv3x3 x2 conv3x3 m9
in 1 3 8 8
v0 = conv3x3 16
conv3x3 v0
v0 + conv1x1
gap"""


def test_when_a_sum_is_read_then_every_term_is_followed():
    assert graph_ngrams(RESIDUAL) == {
        "in": 1, "conv3x3": 2, "conv1x1": 1, "gap": 1,
        "in conv3x3": 1, "conv3x3 conv3x3": 1, "conv3x3 conv1x1": 1, "conv3x3 gap": 1, "conv1x1 gap": 1,
        "in conv3x3 conv3x3": 1, "conv3x3 conv3x3 conv1x1": 1, "in conv3x3 gap": 1, "conv3x3 conv1x1 gap": 1,
        "most": 5, "most in": 1, "most conv3x3": 2, "most conv1x1": 1, "most gap": 1,
        "least": 3, "least in": 1, "least conv3x3": 1, "least gap": 1,
        "ways": 2,
    }  # fmt: skip


def test_when_a_block_is_called_then_it_counts_where_it_is_called():
    called = "def f a v0 v1\nconv3x3 a v0 + relu v1\nin 1 8\nv0 = fc 8\nv1 = fc 8 v0\nf 16 v1 v0\nmaxpool2x2 s2 x3"
    plain = (
        "in 1 8\nv0 = fc 8\nv1 = fc 8 v0\nconv3x3 16 v1 + relu v0\nmaxpool2x2 s2\nmaxpool2x2 s2\nmaxpool2x2 s2\nout v9"
    )
    assert graph_ngrams(called) == graph_ngrams(plain) and graph_ngrams(called)["maxpool2x2 maxpool2x2"] == 2
    assert graph_ngrams(called)["fc relu maxpool2x2"] == 1 and "relu conv3x3" not in graph_ngrams(called)


def test_when_an_operator_stands_in_a_block_then_its_steps_are_those_of_the_block():
    block = "def f a\nv1 = conv3x3 a v0\nconv1x1 a v1\nv0 + v1 + relu\n"
    found = position_features(block + "in 1 3 8 8\nconv3x3 16\nf 16 x3\ngap")
    of_calls = {
        "in most 0 6", "in least 0 6", "conv3x3 most 1 5", "conv3x3 least 1 5", "call most 2 4", "call least 2 4",
        "call most 3 3", "call least 3 3", "call most 4 2", "call least 4 2", "gap most 5 1", "gap least 5 1",
        "out most 6 0", "out least 6 0",
    }  # fmt: skip
    of_the_block = {
        "in most 0 4", "in least 0 1", "conv3x3 most 1 3", "conv3x3 least 1 1", "conv1x1 most 2 2", "conv1x1 least 2 2",
        "relu most 3 1", "relu least 3 1", "out most 4 0", "out least 1 0",
    }  # fmt: skip
    neighbours = {
        "in reads 0": 4, "in read by 1": 1, "in read by 2": 3, "conv3x3 reads 1": 4, "conv3x3 read by 1": 1,
        "conv3x3 read by 2": 3, "conv1x1 reads 1": 3, "conv1x1 read by 1": 3, "relu reads 1": 3, "relu read by 1": 3,
        "call reads 1": 3, "call read by 1": 3, "gap reads 1": 1, "gap read by 1": 1, "out reads 1": 1, "out reads 3": 3,
        "out read by 0": 4,
    }  # fmt: skip
    assert found == {**dict.fromkeys(of_calls, 1), **dict.fromkeys(of_the_block, 3), **neighbours}


def test_when_a_block_calls_another_then_its_operators_stand_where_they_are_called():
    head, tail = "def g a\nconv3x3 a v0\n", "in 1 3 8 8\nf 16 x2\nout v0"
    assert position_features(head + "def f a\ng a v0\nrelu\n" + tail) == position_features(
        "def f a\nconv3x3 a v0\nrelu\n" + tail
    )
    two = position_features("def f v0 v1\nfc 8 v0 + relu v1\nin 1 8\nv0 = fc 8\nv1 = fc 8 v0\nf v1 v0")
    assert two["in read by 1"] == 3 and two["relu least 1 1"] == two["out reads 2"] == 1  # two inputs of f, one of all


def test_when_a_chain_is_long_then_what_is_far_counts_as_far():
    found = position_features("in 1 8\n" + "relu\n" * 30)
    assert found["relu most 8 8"] == found["relu least 8 8"] == 16 and found["relu most 3 8"] == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(repeated)
def test_when_a_text_is_folded_then_its_ngrams_stay(plan):
    model = random_graph(plan)
    assert graph_ngrams(onnx_to_text(model)) == graph_ngrams(onnx_to_text(model, fold=False, costs=False))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "def f(x):\n    return x\nfor y\\\nin z:\n    pass\n",
        "let x = 1\nin\nprint_int x",
        "let n = 3\nin n + 1",
        "def f\nconv3x3\n",
        "v1 = in",
    ],
)
def test_when_a_text_is_no_graph_then_it_has_no_features(text):
    assert graph_ngrams(text) == position_features(text) == {}


def test_when_a_text_is_truncated_anywhere_then_it_is_read_as_far_as_it_goes():
    text = "def f a v0 v1\nconv3x3 a v0 + relu v1\n" + RESIDUAL.split("\n", 2)[2] + "\nf 16 v0 v7 x2\nout v0 v3 = + x9"
    for end in range(len(text)):
        for counts in (graph_ngrams(text[:end]), position_features(text[:end])):
            assert all(math.isfinite(count) and count > 0 for count in counts.values())


@pytest.mark.parametrize(
    "text",
    [
        "in 1\n" + "v0 = relu\nv0 + v0\n" * 2000,
        "in 1\nv0 = relu\n" + "v0 = v0 + v0\n" * 4000 + "gap v0",
        "def f\n" + " + ".join(f"o{k}o v0" for k in range(400)) + "\nin 1\nf x3",
        "def f\n" + " + ".join(f"o{k}o v0" for k in range(150)) + "\nv0 = v0 + v0" * 130 + "\nin 1\nf x4000",
        # A sum of ten thousand operators, read again and again.
        "def w0\n" + " + ".join(["relu v0"] * 10) + "\n"
        + "".join(f"def w{k}\n" + " + ".join([f"w{k - 1} v0"] * 10) + "\n" for k in (1, 2, 3))
        + "def c0\n" + "relu v0\n" * 9 + "".join(f"def c{k}\n" + f"c{k - 1} v0 x9\n" for k in (1, 2, 3))
        + "def f\nv1 = w3 v0\nc3 v1\nin 1\nf",
        *("".join(f"def f{k}\n{inner} x9999\n" for k, inner in enumerate(calls)) + "in 1\nf0 x9999"
          for calls in (["f1", "f2", "v0"], ["f0"], [f"f{k + 1}" for k in range(40)])),
    ],
)  # fmt: skip
def test_when_a_text_asks_for_too_much_then_it_is_read_in_part(text, monkeypatch):
    charged = []
    for algebra in (onnx_text_rlm._NGrams, onnx_text_rlm._Positions):
        inner = algebra.joined
        monkeypatch.setattr(
            algebra,
            "joined",
            lambda self, values, inner=inner: charged.append(sum(map(self.size, values))) or inner(self, values),
        )
    graph_ngrams(text)
    position_features(text)
    assert sum(charged) < 4 * onnx_text_rlm._MAX_WORK
    monkeypatch.undo()
    assert all(0 < count <= 1e36 for count in (*graph_ngrams(text).values(), *position_features(text).values()))


def test_when_a_path_reads_a_graph_then_its_features_are_the_logarithms_of_the_counts(tokenizer):
    plain = settings_for(tokenizer, buckets=64)
    wired = plain.changed(structure_buckets=512, position_buckets=256)
    known = token_texts(tokenizer)
    extractor, other = RLMFeatureExtractor(wired.features, known), RLMFeatureExtractor(plain.features, known)
    texts = [format_header(["a"], "onnx", []) + RESIDUAL, format_header(["a"], "python", []) + "print(1)\n" * 30]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    inputs = (batch["input_ids"], batch["attention_mask"], ["onnx", "python"])
    found = extractor(*inputs)
    expected = torch.zeros(512), torch.zeros(256)
    for counts, into in zip((graph_ngrams(RESIDUAL), position_features(RESIDUAL)), expected, strict=True):
        for name, count in counts.items():
            into[zlib.crc32(name.encode()) % len(into)] += math.log1p(count)
    assert torch.allclose(found[0, -768:], torch.cat(expected)) and not found[1, -768:].any()
    assert torch.equal(found[:, :-768], other(*inputs))
