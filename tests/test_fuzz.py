"""A small share of `benchmarks/fuzz.py`: no reader fails on mutated inputs otherwise than by an error of the package."""

import pytest

from benchmarks.fuzz import Fuzzer, fuzz, mutated


@pytest.mark.parametrize("seed", [1, 2])
def test_when_inputs_are_mutated_then_they_are_read_or_refused(seed):
    outcomes, faults = fuzz(400, seed)
    assert not faults and outcomes.total() == 400
    kinds = {kind for kind, _ in outcomes}
    assert kinds == {"program", "assembly", "graph", "graph text", "kernel", "any"}
    assert all(outcomes[kind, "read"] for kind in kinds)


def test_when_a_reader_fails_then_the_fault_is_reported(monkeypatch):
    monkeypatch.setattr("benchmarks.fuzz.read_assembly", lambda text: 1 / 0)
    _, faults = fuzz(40, 0)
    assert faults and "ZeroDivisionError" in faults[0]


def test_when_the_seed_is_the_same_then_the_inputs_are():
    one, other = Fuzzer(3), Fuzzer(3)
    assert [one.draw()[2] for _ in range(20)] == [other.draw()[2] for _ in range(20)]
    assert mutated("x = 1\n" * 40, "y", one.rng) != "x = 1\n" * 40
