"""Amounts and predictions grow with the sizes that a program states, in every language, however they are written."""

import numpy as np
import pytest

import code_rlm
from benchmarks.size_growth import METRICS, TOLERANCE, predictions, steps
from benchmarks.size_templates import KINDS, TEMPLATES, program, spellings
from code_rlm.program_costs_rlm import program_costs
from code_rlm.source_rlm import canonical_source

EXPONENTS = range(3, 9)


def amounts(text: str, language: str) -> tuple[float, float, float]:
    """Steps of loops and recursion, bytes of containers, nanoseconds, of a program as the checkpoint reads it."""
    costs = program_costs(canonical_source(text, language), language)
    counted = costs["iterations"] + costs["recursion_calls"]
    return counted, costs["held_bytes"] + costs["untouched_bytes"], costs["step_ns"]


def test_when_templates_are_counted_then_every_language_of_the_weights_has_them():
    config = code_rlm.RLMConfig.from_pretrained(code_rlm.DEFAULT_CHECKPOINT)
    languages = {language for metric in METRICS for language in config.metric(metric).languages}
    assert languages == set(TEMPLATES) and all(set(kinds) == set(KINDS) for kinds in TEMPLATES.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", TEMPLATES)
def test_when_n_grows_then_the_amounts_grow_as_the_program_does(language, kind):
    by_n = np.array([amounts(program(language, kind, str(10**exponent)), language) for exponent in EXPONENTS])
    assert (by_n[1:] >= by_n[:-1]).all()
    growth = by_n[3] / np.maximum(by_n[0], 1.0)  # from 10^3 to 10^6
    if kind in ("array", "growth"):
        assert growth[1] == pytest.approx(1e3, rel=0.05)
    if kind != "array":  # some make their array in one call
        expected = 1e6 if kind == "nested" else 1e3
        assert growth[0] == pytest.approx(expected, rel=0.05) and growth[2] == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("language", TEMPLATES)
def test_when_n_is_spelled_in_another_way_then_the_amounts_are_the_same(language):
    for kind in KINDS:
        for exponent in (4, 6):
            spelled = spellings(language, exponent)
            plain = np.array(amounts(program(language, kind, spelled["plain"]), language))
            for text in spelled.values():
                other = amounts(program(language, kind, text), language)
                assert other == pytest.approx(plain, rel=0.01, abs=100), text


@pytest.mark.slow
def test_when_n_grows_then_the_predictions_of_the_weights_do_not_fall():
    lines = predictions(code_rlm.pipeline(), (3, 5, 7), ("array", "nested"))
    for metric in METRICS:
        ratios = steps(lines, metric)
        assert np.mean(ratios >= TOLERANCE) >= 0.95
        assert ratios.min() > 1 / 1.5
