"""The number codec: rounding, ranges, every kind of input, and the grammar of the codes."""

import itertools
import json
import math
import pickle
import random
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from code_rlm.errors_rlm import NumberCodeError, NumberRangeError, RLMError
from code_rlm.numbers_rlm import FAILED, SPECIALS, NumberCodec, NumberFormat, is_failed

DEFAULT = NumberCodec()
WIDE = NumberCodec(NumberFormat(mantissa_digits=15, min_exponent=-290, max_exponent=290))
SMALL = {
    "ordered": NumberFormat(mantissa_digits=2, min_exponent=-1, max_exponent=1),
    "ordered without specials": NumberFormat(mantissa_digits=1, min_exponent=3, max_exponent=5, specials=()),
    "ordered one exponent": NumberFormat(mantissa_digits=3, min_exponent=0, max_exponent=0, specials=("failed",)),
    "p10": NumberFormat.p10(2, 2),
    "p10 one digit": NumberFormat.p10(1, 1),
    "ieee": NumberFormat.ieee(1, 2),
    "ieee one digit": NumberFormat.ieee(1, 1),
    "ieee two exponent digits": NumberFormat.ieee(2, 1),
    "text": NumberFormat.text(2, -2, 2),
    "text one digit": NumberFormat.text(1, -1, 0),
    "text whole": NumberFormat.text(2, 0, 3),
}
LARGE = {
    "default": NumberFormat(),
    "wide": WIDE.format,
    "p10 published": NumberFormat.p10(6, 10),
    "ieee published": NumberFormat.ieee(1, 4),
    "ieee long": NumberFormat.ieee(2, 7),
    "text": NumberFormat.text(5, -9, 9),
}


def tokens(codec: NumberCodec, ids) -> list[str]:
    return [codec.vocabulary[i].strip("<>") for i in np.asarray(ids).tolist()]


def enumerate_codes(codec: NumberCodec) -> np.ndarray:
    """Every code of one number that the automaton allows, by walking it."""
    paths = [((), codec.START)]
    for _ in range(codec.length):
        paths = [
            ((*ids, token), int(codec.transitions[state, token]))
            for ids, state in paths
            for token in np.flatnonzero(codec.transitions[state] >= 0).tolist()
        ]
    assert {state for _, state in paths} == {codec.END}
    return np.array([ids for ids, _ in paths])


def correctly_rounded(value, digits: int) -> Decimal:
    """Half to even on the decimal value that the number prints as, by the decimal module alone."""
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    return Context(prec=digits, rounding=ROUND_HALF_EVEN, Emin=-(10**6), Emax=10**6).plus(number)


def same_bits(a, b) -> bool:
    return np.array_equal(np.asarray(a, np.float64).view(np.uint64), np.asarray(b, np.float64).view(np.uint64))


# The published layouts, code by code

P10_CODES = [
    (123.4, ["+", "1", "2", "3", "4", "E-1"]),
    (12345, ["+", "1", "2", "3", "4", "E1"]),
    (0.1234, ["+", "1", "2", "3", "4", "E-4"]),
    (-123.4, ["-", "1", "2", "3", "4", "E-1"]),
    (0.0, ["+", "0", "0", "0", "0", "E0"]),
    (-0.0, ["+", "0", "0", "0", "0", "E0"]),
]
P10_LIMITS = [
    (1e13, ["+", "9", "9", "9", "E10"]),
    (-2e13, ["-", "9", "9", "9", "E10"]),
    (9.9e12, ["+", "9", "9", "0", "E10"]),
    (5e5, ["+", "5", "0", "0", "E3"]),
    (1.1e-8, ["+", "1", "1", "0", "E-10"]),
    (9e-9, ["+", "1", "0", "0", "E-10"]),
    (5.1e-9, ["+", "1", "0", "0", "E-10"]),
    (4e-9, ["+", "0", "0", "0", "E0"]),
]
IEEE_CODES = [
    (123.4, ["+", "+", "2", "1", "2", "3", "4"]),
    (12345, ["+", "+", "4", "1", "2", "3", "4"]),
    (0.1234, ["+", "-", "1", "1", "2", "3", "4"]),
    (1.2e9, ["+", "+", "9", "1", "2", "0", "0"]),
    (1.234e-9, ["+", "-", "9", "1", "2", "3", "4"]),
    (1.234e-10, ["+", "-", "0", "0", "0", "0", "0"]),
    (1.234e10, ["+", "+", "9", "9", "9", "9", "9"]),
    (-1.234e10, ["-", "+", "9", "9", "9", "9", "9"]),
    (0.0, ["+", "+", "0", "0", "0", "0", "0"]),
    (1.0, ["+", "+", "0", "1", "0", "0", "0"]),
    (1000.0, ["+", "+", "3", "1", "0", "0", "0"]),
    (0.01, ["+", "-", "2", "1", "0", "0", "0"]),
]


@pytest.mark.parametrize(
    ("number_format", "value", "code"),
    [
        *((NumberFormat.p10(4, 10), *row) for row in P10_CODES),
        *((NumberFormat.p10(3, 10), *row) for row in P10_LIMITS),
        *((NumberFormat.ieee(1, 4), *row) for row in IEEE_CODES),
    ],
)
def test_when_a_published_layout_writes_then_codes_are_the_published_ones(number_format, value, code):
    codec = NumberCodec(number_format)
    assert tokens(codec, codec.encode(value, out_of_range="saturate")) == code


@pytest.mark.parametrize(
    ("value", "expected"), [(0.57, 0.57), (1.005, 1.005), (999.96, 1000.0), (0.29, 0.29), (9.9996, 10.0)]
)
@pytest.mark.parametrize(
    "number_format", [NumberFormat(), NumberFormat.p10(4, 10), NumberFormat.ieee(1, 4)], ids=lambda f: f.layout
)
def test_when_a_published_layout_truncates_then_this_one_rounds(number_format, value, expected):
    codec = NumberCodec(number_format)
    assert codec.decode(codec.encode(value)) == expected
    assert codec.decode(codec.encode(-value)) == -expected


def test_when_the_published_p10_vocabulary_is_built_then_exponents_come_in_the_order_of_strings():
    vocabulary = NumberCodec(NumberFormat.p10(6, 10)).vocabulary
    assert vocabulary[:4] == ["<pad>", "<+>", "<->", "<0>"]
    assert vocabulary[13:17] == ["<E-10>", "<E-1>", "<E-2>", "<E-3>"]
    assert len(vocabulary) == 13 + 21


# Rounding


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.12345, 0.1234),  # half to even on what it prints as, though the float64 lies above the tie
        (0.12355, 0.1236),
        (0.12335, 0.1234),
        (12345, 12340),
        (12355, 12360),
        (1234500000000000001, 1.235e18),  # a tie to float64, not to exact integers
        (Decimal("0.12345"), 0.1234),
        (Decimal("0.123450000000000000000000001"), 0.1235),
        (9.9996, 10.0),
        (9.9995, 10.0),
        (9.9994999, 9.999),
        (99.995, 100.0),
        (0.99995, 1.0),
        (999949999999999999, 9.999e17),
        (1e-20, 1e-20),
        (9.999e20, 9.999e20),
        (-0.12345, -0.1234),
        (1000.0, 1000.0),
        (1e15, 1e15),
    ],
)
def test_when_a_value_is_a_tie_or_a_carry_then_it_rounds_half_to_even_in_decimal(value, expected):
    assert DEFAULT.decode(DEFAULT.encode(value)).item() == expected
    assert DEFAULT.decode(DEFAULT.encode([value])).item() == expected


@given(st.floats(1e-19, 1e20), st.sampled_from([-1, 1]), st.integers(1, 15))
@settings(max_examples=200, deadline=None)
def test_when_a_float_is_written_then_it_comes_back_correctly_rounded(magnitude, sign, digits):
    codec, value = NumberCodec(NumberFormat(mantissa_digits=digits)), sign * magnitude
    back = codec.decode(codec.encode(value)).item()
    assert back == float(correctly_rounded(value, digits))
    unit = Decimal(1).scaleb(Decimal(repr(value)).adjusted() - digits + 1)
    assert abs(Decimal(repr(back)) - Decimal(repr(value))) <= unit / 2


@given(st.integers(10_000, 99_999), st.integers(-22, 13), st.sampled_from([-1, 1]))
@settings(max_examples=300, deadline=None)
def test_when_a_float_has_one_digit_too_many_then_ties_go_to_even(mantissa, exponent, sign):
    value = sign * float(f"{mantissa // 10 * 10 + 5}e{exponent}")
    assert DEFAULT.decode(DEFAULT.encode(value)).item() == float(correctly_rounded(value, 4))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**20), max_value=10**20, places=25))
@settings(max_examples=100, deadline=None)
def test_when_a_decimal_is_written_then_no_digit_of_it_is_lost_to_float64(value):
    expected = correctly_rounded(value, 15)
    if expected == 0 or abs(expected) >= Decimal("1e-290"):
        assert WIDE.decode(WIDE.encode(value)).item() == float(expected)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_when_an_array_is_written_then_it_equals_its_values_one_by_one(values):
    together = DEFAULT.encode(np.array(values), out_of_range="saturate")
    one_by_one = [DEFAULT.encode(v, out_of_range="saturate") for v in values]
    assert np.array_equal(together, np.array(one_by_one))


def test_when_many_floats_are_written_then_the_fast_way_equals_the_decimal_way():
    rng = np.random.default_rng(0)
    values = rng.normal(size=2000) * 10.0 ** rng.integers(-18, 18, size=2000)
    back = DEFAULT.decode(DEFAULT.encode(values))
    assert back.tolist() == [float(correctly_rounded(float(v), 4)) for v in values]


# The grammar


@pytest.mark.parametrize("number_format", SMALL.values(), ids=SMALL)
def test_when_every_code_is_enumerated_then_each_is_the_code_of_its_own_value(number_format):
    codec = NumberCodec(number_format)
    codes = enumerate_codes(codec)
    values = codec.decode(codes)
    assert np.array_equal(codec.encode(values), codes)
    assert len(np.unique(values.view(np.uint64))) == len(values)
    assert not np.any((values == 0) & np.signbit(values))


@pytest.mark.parametrize("number_format", SMALL.values(), ids=SMALL)
def test_when_every_code_is_enumerated_then_none_that_the_format_can_hold_is_missing(number_format):
    codec, m = NumberCodec(number_format), number_format.mantissa_digits
    shift = 0 if number_format.layout == "p10" else m - 1
    exponents = range(number_format.min_exponent - shift, number_format.max_exponent - shift + 1)
    expected = {float(f"{k}e{e}") for k in range(10 ** (m - 1), 10**m) for e in exponents}
    values = codec.decode(enumerate_codes(codec))
    finite = values[np.isfinite(values)]
    assert set(finite.tolist()) == expected | {-v for v in expected} | {0.0}
    assert len(values) == len(finite) + len(number_format.specials)
    assert (finite.max(), finite[finite > 0].min()) == (codec.largest_magnitude, codec.smallest_magnitude)


@pytest.mark.parametrize("number_format", LARGE.values(), ids=LARGE)
def test_when_codes_are_drawn_from_the_automaton_then_writing_undoes_reading(number_format):
    codec, rng = NumberCodec(number_format), random.Random(0)
    codes = []
    for _ in range(300):
        state, ids = codec.START, []
        for _ in range(codec.length):
            ids.append(rng.choice(np.flatnonzero(codec.transitions[state] >= 0).tolist()))
            state = codec.transitions[state, ids[-1]]
        assert state == codec.END
        codes.append(ids)
    assert np.array_equal(codec.encode(codec.decode(codes)), codes)


@pytest.mark.parametrize("number_format", [*SMALL.values(), *LARGE.values()], ids=[*SMALL, *LARGE])
def test_when_a_number_ends_then_another_or_the_end_may_follow_and_then_padding_only(number_format):
    codec = NumberCodec(number_format)
    first = set(np.flatnonzero(codec.allowed[codec.START]).tolist())
    assert set(np.flatnonzero(codec.allowed[codec.END]).tolist()) == first | {codec.eos_token_id}
    assert codec.eos_token_id not in first and codec.pad_token_id not in first
    done = codec.transitions[codec.END, codec.eos_token_id]
    assert np.flatnonzero(codec.allowed[done]).tolist() == [codec.pad_token_id]
    assert codec.transitions[done, codec.pad_token_id] == done


def test_when_ids_leave_the_grammar_then_states_stay_outside():
    ids = DEFAULT.encode([1.5, -2.0])
    ids[1, 2] = DEFAULT.digit_zero  # a leading zero
    states = DEFAULT.states(ids)
    assert states[0, -1] == DEFAULT.END and (states[0] >= 0).all()
    assert (states[1, :3] >= 0).all() and (states[1, 3:] == -1).all()


@pytest.mark.parametrize("number_format", [f for f in SMALL.values() if f.layout == "ordered"])
def test_when_the_layout_is_ordered_then_token_order_is_numeric_order(number_format):
    codec = NumberCodec(number_format)
    codes = enumerate_codes(codec)
    values = codec.decode(codes)
    firsts = [codec.ids[f"<{t}>"] for t in ("-inf", "-", "zero", "+", "+inf") if f"<{t}>" in codec.ids]
    assert firsts == sorted(firsts)
    for sign, step in (("<+>", 1), ("<->", -1)):
        rows = codes[:, 0] == codec.ids[sign]
        assert codes[rows].tolist() == sorted(codes[rows].tolist())
        assert (np.diff(values[rows]) * step > 0).all()


@given(st.floats(1e-20, 9.999e20), st.floats(1e-20, 9.999e20))
@settings(max_examples=100, deadline=None)
def test_when_one_positive_number_is_larger_then_its_code_is_not_smaller(a, b):
    low, high = sorted((a, b))
    assert DEFAULT.encode(low).tolist() <= DEFAULT.encode(high).tolist()


@pytest.mark.parametrize("number_format", SMALL.values(), ids=SMALL)
def test_when_a_prefix_is_bounded_then_the_bounds_are_those_of_all_codes_that_begin_so(number_format):
    codec = NumberCodec(number_format)
    codes = enumerate_codes(codec)
    values = codec.decode(codes)
    for t in range(1, codec.length + 1):
        prefixes, group = np.unique(codes[:, :t], axis=0, return_inverse=True)
        low, high = codec.bounds(prefixes, codec.states(prefixes)[:, -1])
        for i in range(len(prefixes)):
            members = values[group == i]
            assert np.array_equal([low[i], high[i]], [members.min(), members.max()], equal_nan=True)


def test_when_prefixes_of_a_large_format_are_bounded_then_random_continuations_lie_inside():
    rng = np.random.default_rng(0)
    for codec in (DEFAULT, NumberCodec(NumberFormat.p10(6, 10)), NumberCodec(NumberFormat.ieee(2, 7))):
        bits = rng.integers(0, 10**6, 500)
        values = np.where(bits % 2, 1, -1) * (1 + bits / 1e6) * 10.0 ** rng.integers(-4, 5, 500)
        codes = codec.encode(values)
        for t in range(1, codec.length):
            low, high = codec.bounds(codes[:, :t], codec.states(codes[:, :t])[:, -1])
            assert (low <= codec.decode(codes)).all() and (codec.decode(codes) <= high).all()


# Kinds of input


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (3, 3.0),
        (2.5, 2.5),
        (Decimal("2.5"), 2.5),
        (np.int8(-5), -5.0),
        (np.uint64(2**63), 9.223e18),
        (np.float32(2.5), 2.5),
        (np.array(2.5), 2.5),
        (torch.tensor(2.5), 2.5),
        (2**53 + 1, 9.007e15),
        ([1, 2.5], [1.0, 2.5]),
        ([[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
        (((1, 2), (3, 4)), [[1.0, 2.0], [3.0, 4.0]]),
        ([Decimal("1"), 2, 3.0, np.float32(4)], [1.0, 2.0, 3.0, 4.0]),
        (np.arange(6).reshape(1, 2, 3), [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]),
        (np.array([1, 2], dtype=np.uint8), [1.0, 2.0]),
        (np.array([1.5, 2.5], dtype=np.float16), [1.5, 2.5]),
        (np.array([1, "failed", 2.5], dtype=object), [1.0, FAILED, 2.5]),
        (torch.tensor([[1, 2]]), [[1.0, 2.0]]),
        (torch.tensor([1.5], dtype=torch.bfloat16), [1.5]),
        (torch.tensor([1.5], requires_grad=True), [1.5]),
        ([torch.tensor(1.5), torch.tensor(2)], [1.5, 2.0]),
        ([torch.tensor([1.5, 2.0]), torch.tensor([3.0, 4.0])], [[1.5, 2.0], [3.0, 4.0]]),
        ([np.array([1.5]), np.array([2.0])], [[1.5], [2.0]]),
        ([], np.zeros(0)),
    ],
    ids=repr,
)
def test_when_numbers_come_in_any_form_then_shape_and_values_are_kept(values, expected):
    ids = DEFAULT.encode(values)
    assert ids.dtype == np.int64 and ids.shape == (*np.shape(expected), DEFAULT.length)
    assert same_bits(DEFAULT.decode(ids), expected)
    if not isinstance(expected, float):
        assert same_bits(DEFAULT.decode(torch.from_numpy(ids)), expected)


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, 123456789012345678, -(10**19) + 1])
def test_when_an_int_is_beyond_2_to_the_53_then_it_rounds_exactly(value):
    expected = float(correctly_rounded(Decimal(value), 15))
    forms = [value, [value], Decimal(value), np.array([value], dtype=object)]
    if abs(value) < 2**63:
        forms += [np.int64(value), np.array([value]), torch.tensor([value])]
    for form in forms:
        assert WIDE.decode(WIDE.encode(form)).item() == expected


def test_when_a_tie_is_beyond_2_to_the_53_then_an_int64_array_rounds_it_exactly():
    value = 2_500_000_000_000_000_001  # as a float64 it is 2.5e18, a tie
    codec = NumberCodec(NumberFormat(mantissa_digits=1))
    assert codec.decode(codec.encode(np.array([value, 2_500_000_000_000_000_000]))).tolist() == [3e18, 2e18]


@pytest.mark.parametrize("value", [0.1, 0.12345, 1 / 3, 1e-5])
def test_when_a_float32_is_written_then_its_form_does_not_matter(value):
    value = np.float32(value)
    for codec in (DEFAULT, WIDE):
        codes = [codec.encode(form).reshape(-1).tolist() for form in (value, [value], np.array([value]))]
        codes.append(codec.encode(torch.tensor([value])).reshape(-1).tolist())
        assert all(code == codec.encode(float(value)).tolist() for code in codes)


@pytest.mark.parametrize(
    "values", [np.arange(5.0), torch.arange(5.0), [1.0, 2.0], np.array([1, "failed"], dtype=object)]
)
def test_when_values_are_written_then_the_callers_are_not_changed(values):
    before = pickle.dumps(values)
    DEFAULT.encode(values, out_of_range="saturate")
    assert pickle.dumps(values) == before


def test_when_codes_are_read_then_the_callers_are_not_changed():
    ids = DEFAULT.encode([1.0, -3.0, "failed"])
    before = ids.copy()
    DEFAULT.decode(ids)
    DEFAULT.states(ids)
    assert np.array_equal(ids, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (True, "bool is not a measurement"),
        (np.True_, "bool is not a measurement"),
        ([1.0, False], "bool is not a measurement"),
        ([[1, 2], [3, True]], "bool is not a measurement"),
        ([np.False_, 2.0], "bool is not a measurement"),
        (np.array([True, False]), "bool is not a measurement"),
        (torch.tensor([True]), "bool is not a measurement"),
        ([torch.tensor(True)], "bool is not a measurement"),
        (None, "None .NoneType. is not a number"),
        ("12", "'12' .str. is not a number"),
        ("FAILED", "'FAILED' .str. is not a number"),
        (1j, "complex. is not a number"),
        (np.array([1j]), "is not a number"),
        ([1.0, None], "None .NoneType. is not a number"),
        ([[1], [2, 3]], "list. is not a number"),
        ({1: 2}, "dict. is not a number"),
        (np.array(["1.5"]), "is not a number"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "is not a number"),
    ],
    ids=repr,
)
def test_when_a_value_is_not_a_number_then_it_is_refused(values, message):
    with pytest.raises(NumberCodeError, match=message):
        DEFAULT.encode(values)


# Special outcomes


def test_when_outcomes_are_special_then_they_come_back_as_they_were():
    values = DEFAULT.decode(DEFAULT.encode([math.nan, FAILED, math.inf, -math.inf, "failed", 0.0, -0.0]))
    assert np.isnan(values[[0, 1, 4]]).all()
    assert is_failed(values).tolist() == [False, True, False, False, True, False, False]
    assert values[2:4].tolist() == [math.inf, -math.inf]
    assert values[5:].tolist() == [0.0, 0.0] and not np.signbit(values[5:]).any()


def test_when_failed_travels_through_copies_then_it_is_still_failed(tmp_path):
    values = np.array([1.0, FAILED, math.nan])
    np.save(tmp_path / "values.npy", values)
    for copied in (
        values.copy(),
        np.load(tmp_path / "values.npy"),
        pickle.loads(pickle.dumps(values)),
        values.tolist(),
    ):
        assert is_failed(copied).tolist() == [False, True, False]
    assert is_failed(torch.from_numpy(values).numpy()).tolist() == [False, True, False]
    assert is_failed(FAILED) and not is_failed(math.nan) and not is_failed(0.0)
    assert is_failed(FAILED).shape == () and is_failed(values.reshape(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("kept", [(), *itertools.combinations(SPECIALS, 1), *itertools.combinations(SPECIALS, 3)])
def test_when_a_format_lacks_an_outcome_then_it_is_refused_and_the_others_are_written(kept):
    codec = NumberCodec(NumberFormat(specials=kept))
    for name in SPECIALS:
        value = "failed" if name == "failed" else float(name)
        if name in kept:
            assert same_bits(codec.decode(codec.encode(value)), FAILED if name == "failed" else value)
        else:
            with pytest.raises(NumberCodeError, match=f"does not write '{name}'".replace("+", r"\+")):
                codec.encode([1.0, value], out_of_range="saturate")


@pytest.mark.parametrize("number_format", [NumberFormat.p10(), NumberFormat.ieee()], ids=lambda f: f.layout)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, FAILED, "failed"])
def test_when_a_published_layout_meets_a_special_outcome_then_it_is_refused(number_format, value):
    with pytest.raises(NumberCodeError, match="writes finite numbers only; 1 values are not"):
        NumberCodec(number_format).encode([1.0, value])


def test_when_a_decimal_is_not_finite_then_it_is_the_outcome_that_it_names():
    values = DEFAULT.decode(
        DEFAULT.encode([Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("Infinity")])
    )
    assert np.isnan(values[:2]).all() and not is_failed(values[:2]).any()
    assert values[2:].tolist() == [-math.inf, math.inf]


# Range


@pytest.mark.parametrize(
    "value",
    [1e21, 9.9996e20, 10**400, Decimal("1e400"), Decimal("1e-400"), 5e-324, 2.2e-308, 1.7976931348623157e308, 9.99e-21],
    ids=repr,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_when_a_value_is_outside_the_range_then_the_error_says_which_and_what_to_do(value, sign):
    with pytest.raises(NumberRangeError) as caught:
        DEFAULT.encode([1.0, sign * value, 2.0])
    message = str(caught.value)
    assert f"1 of 3 values are outside the number format's range, 1e-20 to {DEFAULT.largest_magnitude:g}" in message
    assert "at position 1" in message and "out_of_range='saturate'" in message
    assert isinstance(caught.value, RLMError)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1e21, 9.999e20),
        (-1e300, -9.999e20),
        (10**400, 9.999e20),
        (-(10**400), -9.999e20),
        (Decimal("1e400"), 9.999e20),
        (Decimal("-1e400"), -9.999e20),
        (6e-21, 1e-20),
        (-6e-21, -1e-20),
        (4e-21, 0.0),
        (-4e-21, 0.0),
        (5e-324, 0.0),
        (Decimal("1e-400"), 0.0),
    ],
    ids=repr,
)
def test_when_saturation_is_asked_for_then_the_nearest_end_is_written_and_reported(value, expected):
    ids, saturated = DEFAULT.encode([[1.0, value]], out_of_range="saturate", return_saturated=True)
    assert same_bits(DEFAULT.decode(ids), [[1.0, expected]])
    assert saturated.tolist() == [[False, True]] and saturated.dtype == bool


def test_when_nothing_saturates_then_the_mask_says_so_for_outcomes_too():
    ids, saturated = DEFAULT.encode([0.0, 1e-20, 9.999e20, math.inf, FAILED], return_saturated=True)
    assert not saturated.any() and ids.shape == (5, DEFAULT.length)
    _, saturated = DEFAULT.encode(1e30, out_of_range="saturate", return_saturated=True)
    assert saturated.shape == () and saturated.item() is True


def test_when_a_value_rounds_up_into_the_range_then_it_is_inside():
    ids, saturated = DEFAULT.encode([9.99996e-21, 9.9994e20], return_saturated=True)
    assert DEFAULT.decode(ids).tolist() == [1e-20, 9.999e20] and not saturated.any()


@pytest.mark.parametrize("value", [5e-324, 1.5e-310, 2.2250738585072014e-308, 1.2345e-285, 9.87654e289, 1e-290])
def test_when_floats_are_tiny_or_huge_then_a_wide_format_holds_what_lies_in_its_range(value):
    if value < 1e-290:
        with pytest.raises(NumberRangeError):
            WIDE.encode(value)
        assert WIDE.decode(WIDE.encode(value, out_of_range="saturate")) == 0.0
    else:
        assert WIDE.decode(WIDE.encode([value, -value])).tolist() == [value, -value]


def test_when_out_of_range_is_misspelt_then_the_choices_are_named():
    with pytest.raises(NumberCodeError, match="must be 'error' or 'saturate', got 'clip'"):
        DEFAULT.encode(1.0, out_of_range="clip")


# Reading


@pytest.mark.parametrize(
    ("codec", "ids", "message"),
    [
        (DEFAULT, np.zeros((2, 6)), r"Codes must be integers of shape \(..., 6\), got float64 \(2, 6\)"),
        (DEFAULT, np.zeros((2, 5), int), r"got int64 \(2, 5\)"),
        (DEFAULT, 3, "got int64"),
        (DEFAULT, np.zeros((1, 6), bool), "got bool"),
        (DEFAULT, [[0] * 6], "1 of 1 codes are not numbers of the 'ordered' layout"),
        (DEFAULT, [DEFAULT.encode(1.0).tolist(), [0] * 6], "1 of 2 codes.*at row 1"),
        (DEFAULT, [[8, 30, 52, 53, 54, 9999]], "9999"),
        (DEFAULT, [[8, 30, 52, 53, 54, -1]], "-1"),
        (DEFAULT, [[8, 30, 51, 52, 52, 52]], "<0>"),  # a leading zero
        (DEFAULT, [[7, 30, 52, 51, 51, 51]], "<zero>"),  # zero with digits
        (DEFAULT, [[8, 2, 2, 2, 2, 2]], "<.>"),
        (NumberCodec(NumberFormat.p10(2, 2)), [[1, 4, 4, 4]], "'p10' layout"),
        (NumberCodec(NumberFormat.p10(2, 2)), [[3, 4, 4, 13]], "'p10' layout"),
        (NumberCodec(NumberFormat.ieee(1, 2)), [[1, 4, 4, 4, 4]], "'ieee' layout"),
        (NumberCodec(NumberFormat.ieee(1, 2)), [[1, 1, 4, 4, 99]], "'ieee' layout"),
    ],
)
def test_when_ids_are_not_a_number_then_reading_them_says_where(codec, ids, message):
    with pytest.raises(NumberCodeError, match=message):
        codec.decode(ids)


@pytest.mark.parametrize(
    ("number_format", "code", "value"),
    [
        (NumberFormat.p10(3, 10), ["-", "0", "0", "0", "E3"], 0.0),
        (NumberFormat.p10(3, 10), ["+", "0", "1", "2", "E3"], 12000.0),
        (NumberFormat.ieee(1, 3), ["+", "-", "0", "1", "2", "3"], 1.23),
        (NumberFormat.ieee(1, 3), ["-", "+", "2", "0", "1", "2"], -12.0),
        (NumberFormat.ieee(1, 3), ["-", "-", "0", "0", "0", "0"], 0.0),
    ],
)
def test_when_a_published_layout_holds_a_code_that_is_not_canonical_then_it_can_still_be_read(
    number_format, code, value
):
    codec = NumberCodec(number_format)
    ids = [codec.ids[f"<{token}>"] for token in code]
    back = codec.decode(ids).item()
    assert back == value and not (value == 0 and math.copysign(1, back) < 0)
    assert codec.states(np.array(ids))[-1] != codec.END
    assert codec.encode(back).tolist() != ids


@given(st.integers(10**14, 10**15 - 1), st.integers(-290, 276))
@settings(max_examples=100, deadline=None)
def test_when_a_code_is_read_then_it_is_the_nearest_float64(mantissa, exponent):
    exponent = max(exponent, -276)
    ids = [WIDE.ids["<+>"], WIDE.ids[f"<E{exponent + 14}>"], *(WIDE.ids[f"<{d}>"] for d in str(mantissa))]
    assert WIDE.decode(ids).item() == float(f"{mantissa}e{exponent}")


# Formats


@pytest.mark.parametrize("number_format", [*SMALL.values(), *LARGE.values()], ids=[*SMALL, *LARGE])
def test_when_a_format_goes_through_json_then_it_is_the_same(number_format):
    again = NumberFormat(**json.loads(json.dumps(number_format.to_dict())))
    assert again == number_format and hash(again) == hash(number_format)
    assert NumberCodec(again).vocabulary == NumberCodec(number_format).vocabulary


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layout": "roman"}, "Unknown number layout 'roman'"),
        ({"mantissa_digits": 0}, "mantissa_digits must be 1 to 15"),
        ({"mantissa_digits": 16}, "mantissa_digits must be 1 to 15.*got 16"),
        ({"min_exponent": 3, "max_exponent": 2}, "Exponent range 3 to 2 must ascend"),
        ({"max_exponent": 291}, "within -290 to 290"),
        ({"min_exponent": -291}, "within -290 to 290"),
        ({"specials": ("oom",)}, r"Unknown special outcomes \['oom'\]. Known: nan, failed"),
        ({"layout": "p10"}, "'p10' layout has no special outcomes; set specials="),
        ({"layout": "ieee", "specials": ()}, "'ieee' needs exponent_digits of 1 or 2, got 0"),
        ({"layout": "ieee", "specials": (), "exponent_digits": 3}, "exponent_digits of 1 or 2, got 3"),
    ],
)
def test_when_a_format_is_impossible_then_it_is_refused(fields, message):
    with pytest.raises(NumberCodeError, match=message):
        NumberFormat(**fields)


def test_when_an_ieee_format_is_made_without_exponents_then_they_follow_from_its_digits():
    number_format = NumberFormat("ieee", 4, exponent_digits=1, specials=())
    assert number_format == NumberFormat.ieee(1, 4)
    assert (number_format.min_exponent, number_format.max_exponent) == (-9, 9)
    with pytest.raises(NumberRangeError):
        NumberCodec(number_format).encode(1e15)
