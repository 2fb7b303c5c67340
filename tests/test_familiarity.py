"""Familiarity: conformal p-values of novelty scores, reasons, and the JSON form."""

import json

import numpy as np
import pytest
from datasets import Dataset

from code_rlm.errors_rlm import CheckpointError
from code_rlm.evaluation.familiarity import POOL_VALUES, bound_ratios, idle_memory
from code_rlm.familiarity_rlm import (
    NGRAM_BITS,
    SCORES,
    UNFAMILIAR,
    Familiarity,
    Observation,
    Reference,
    tail_p_value,
)


def observe(rng, words="abcdefgh", largest=100.0, context=("input_size",), tokens=100, shift=0.0, **signature):
    chosen = rng.choice(list(words), size=12)
    return Observation(
        words=list(chosen),
        ngrams=np.unique(rng.integers(0, 40, size=30)),
        largest_number=largest * rng.uniform(0.5, 1.0),
        context=frozenset(context),
        tokens=int(tokens * rng.uniform(0.8, 1.25)),
        signature=signature,
        embedding=rng.normal(size=8) + shift,
    )


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    rows = [observe(rng, shape="3x32x32") for _ in range(300)]
    return Reference.fit("toy", ["python"], rows[:240], [i // 4 for i in range(240)], rows[240:], list(range(60)))


def test_when_inputs_are_like_the_training_rows_then_familiarity_is_like_a_p_value(reference):
    rng = np.random.default_rng(1)
    found = np.array([reference.compare(observe(rng, shape="3x32x32")).familiarity for _ in range(400)])
    for level in (0.05, 0.1, 0.2, 0.5):
        assert (found <= level).mean() <= level + 0.05
    assert (found > 0.5).mean() > 0.3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"words": "uvwxyz"}, "never seen"),
        ({"largest": 1e9}, "largest constant"),
        ({"context": ()}, "no input_size, which every training row had"),
        ({"context": ("input_size", "gpu")}, "gpu was never given in training"),
        ({"tokens": 9000}, "tokens, trained on"),
        ({"shape": "3x224x224"}, "shape 3x224x224; trained on 3x32x32"),
        ({"shift": 9.0}, "unlike the training rows of toy"),
    ],
)
def test_when_an_input_is_strange_then_familiarity_is_low_and_the_reason_says_why(reference, change, reason):
    row = observe(np.random.default_rng(2), **{"shape": "3x32x32", **change})
    comparison = reference.compare(row)
    assert comparison.familiarity < UNFAMILIAR
    assert any(reason in text for text in comparison.reasons), comparison.reasons


def test_when_novelty_grows_beyond_all_held_out_rows_then_familiarity_goes_on_falling(reference):
    rng = np.random.default_rng(3)
    found = [reference.compare(observe(rng, largest=10.0**k, shape="3x32x32")).familiarity for k in (3, 4, 6)]
    assert found[0] > found[1] > found[2] > 0


def test_when_few_groups_are_held_out_then_a_group_weighs_the_same_whatever_its_rows():
    scores = np.array([0.0] * 100 + [1.0])
    weights = np.array([1 / 100] * 100 + [1.0])
    assert tail_p_value(1.0, scores, weights) == pytest.approx(2 / 3)


def test_when_a_reference_is_written_as_json_then_it_compares_the_same(reference):
    again = Reference.from_dict(json.loads(json.dumps(reference.to_dict())))
    assert again.words.sum() == reference.words.sum() and len(again.ngrams) == NGRAM_BITS
    row = observe(np.random.default_rng(4), shape="3x32x32", largest=500.0)
    assert again.compare(row).familiarity == pytest.approx(reference.compare(row).familiarity, rel=1e-3)
    assert list(again.scores(row)) == list(SCORES)


def test_when_there_is_one_group_then_the_error_says_what_is_needed():
    rows = [observe(np.random.default_rng(0)) for _ in range(5)]
    with pytest.raises(CheckpointError, match="two groups"):
        Reference.fit("toy", ["python"], rows, [0] * 5)


def memory_rows(bytes_by_count, language="python"):
    """Programs that make a list of so many elements, with their resident memory."""
    texts = [f"a = [0] * {count}\n" for count in bytes_by_count]
    values = [[float(value)] for value in bytes_by_count.values()]
    count = len(texts)
    return Dataset.from_dict(
        {"text": texts, "language": [language] * count, "metrics": [["peak_rss_bytes"]] * count, "values": values}
    )


def test_when_a_table_has_a_smaller_process_then_the_idle_memory_is_below_it():
    tables = [memory_rows({3: 2e6, 4: 3e6}), memory_rows({3: 1e6}), memory_rows({3: 5e6}, "go")]
    assert idle_memory(tables, "peak_rss_bytes") == pytest.approx({"python": 0.9e6, "go": 4.5e6})


def test_when_rows_have_bounds_then_their_ratios_are_at_least_one():
    metric, counts = "peak_rss_bytes", [10**6 + 1000 * number for number in range(POOL_VALUES)]
    familiarity = Familiarity(idle={metric: {"python": 1e6}})
    bound = familiarity.lower_bound(metric, "python", memory_rows({counts[0]: 1})["text"][0])
    assert bound == 1e6 + 8 * counts[0]
    ratios = bound_ratios(familiarity, [memory_rows({count: 1.5 * (1e6 + 8 * count) for count in counts})], metric)
    assert ratios == pytest.approx([1.5] * POOL_VALUES)
    ratios = bound_ratios(familiarity, [memory_rows({count: 8.0 * count for count in counts})], metric)
    assert min(ratios) == 1.0
    assert bound_ratios(familiarity, [memory_rows({count: 1e7 for count in counts[:5]})], metric) is None


def test_when_all_training_rows_have_a_context_key_then_it_is_required(reference):
    familiarity = Familiarity({"toy": reference}, {"latency_ms": ("toy",)})
    assert familiarity.requires("input_size", ["latency_ms"], "python")
    assert not familiarity.requires("gpu", ["latency_ms"], "python")
    assert not familiarity.requires("input_size", ["latency_ms"], "c")
    assert not familiarity.requires("input_size", ["cycles"], "python")
