"""Numbers as token codes: formats, the exact codec and the grammar automaton.

A number is a fixed-length code of tokens. Four layouts share one mechanism, a finite automaton whose states know which
tokens may come next:

- `ordered` (the default): sign, one exponent token, mantissa digits, most significant first. Token order is numeric
  order, so a probability distribution over codes can be read like a sorted list. Zero and the special outcomes
  (`nan`, `failed`, `-inf`, `+inf`) are first tokens of their own, followed by fill tokens up to the common length.
- `p10` and `ieee`: the two layouts of published checkpoints (arXiv 2509.26476 and google-deepmind/regress-lm).
- `text`: the decimal number as people write it, character by character, `0.00725` or `72500`: what digit tokens are compared
  with. How large the number is shows only where it ends.

Everything here is numpy, float64 and exact integers; the network's dtype never touches a number. The automaton lists only
canonical codes (no leading zero, no minus zero, one zero), hence `encode(decode(ids)) == ids` for whatever it allows.
"""

import decimal
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache, cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from .errors_rlm import NumberCodeError, NumberRangeError

PAD, FILL, POINT = "<pad>", "<.>", "<point>"
DIGITS = tuple(f"<{d}>" for d in range(10))
SPECIALS = ("nan", "failed", "-inf", "+inf")

# A program that did not finish is an outcome, not a missing value. In float64 arrays it travels as a quiet NaN whose
# payload marks it; numpy and Python keep the payload through copies, saves and loads.
_FAILED_BITS = 0x7FF8_0000_0000_FA11
FAILED: float = float(np.array(_FAILED_BITS, dtype=np.uint64).view(np.float64))


# Special outcomes as float64.
_OUTCOME_VALUES = {"nan": math.nan, "failed": FAILED, "-inf": -math.inf, "+inf": math.inf}


def is_failed(values: Any) -> np.ndarray:
    """Returns which values are the `failed` outcome (a NaN with its own payload), bool of the same shape."""
    array = np.atleast_1d(np.asarray(values, dtype=np.float64))
    failed: np.ndarray = array.view(np.uint64) == _FAILED_BITS
    return failed.reshape(np.shape(values))


@dataclass(frozen=True)
class NumberFormat:
    """How a number is written in tokens; plain fields, kept in the checkpoint's config.

    Attributes:
        layout: `ordered`, `p10`, `ieee` or `text`.
        mantissa_digits: Significant decimal digits, 1 to 15. The relative rounding error is at most half a unit in the
            last of them, `0.5 * 10 ** (1 - mantissa_digits)`.
        min_exponent, max_exponent: Range of the exponent: of `d.ddd * 10 ** e` for `ordered`, `text` and `ieee` (for `ieee` it
            follows from `exponent_digits`), of `dddd * 10 ** e` for `p10`.
        exponent_digits: Digits of the exponent in `ieee`; unused (0) elsewhere.
        specials: Special outcomes that may stand in place of a number, a subset of `nan`, `failed`, `-inf`, `+inf`;
            only in `ordered`.
    """

    layout: Literal["ordered", "p10", "ieee", "text"] = "ordered"
    mantissa_digits: int = 4
    min_exponent: int = -20
    max_exponent: int = 20
    exponent_digits: int = 0
    specials: tuple[str, ...] = SPECIALS

    def __post_init__(self) -> None:
        object.__setattr__(self, "specials", tuple(self.specials))
        if self.layout not in ("ordered", "p10", "ieee", "text"):
            raise NumberCodeError(f"Unknown number layout {self.layout!r}. Use 'ordered', 'p10', 'ieee' or 'text'.")
        if not 1 <= self.mantissa_digits <= 15:
            raise NumberCodeError(
                f"mantissa_digits must be 1 to 15 (a float64 holds no more), got {self.mantissa_digits}."
            )
        if self.min_exponent > self.max_exponent or self.min_exponent < -290 or self.max_exponent > 290:
            raise NumberCodeError(
                f"Exponent range {self.min_exponent} to {self.max_exponent} must ascend and lie within -290 to 290."
            )
        if self.layout == "text" and not self.min_exponent <= 0 <= self.max_exponent:
            raise NumberCodeError(
                f"'text' needs exponents from 0 or below to 0 or above, got {self.min_exponent} to {self.max_exponent}."
            )
        if unknown := set(self.specials) - set(SPECIALS):
            raise NumberCodeError(f"Unknown special outcomes {sorted(unknown)}. Known: {', '.join(SPECIALS)}.")
        if self.layout != "ordered" and self.specials:
            raise NumberCodeError(f"The {self.layout!r} layout has no special outcomes; set specials=().")
        if self.layout == "ieee":
            if not 1 <= self.exponent_digits <= 2:
                raise NumberCodeError(f"'ieee' needs exponent_digits of 1 or 2, got {self.exponent_digits}.")
            top = 10**self.exponent_digits - 1
            object.__setattr__(self, "min_exponent", -top)
            object.__setattr__(self, "max_exponent", top)

    @classmethod
    def p10(cls, num_digits: int = 6, exponent_range: int = 10) -> "NumberFormat":
        """The P10 layout: sign, `num_digits` digits, exponent token; value = sign * integer * 10 ** exponent."""
        return cls("p10", num_digits, -exponent_range, exponent_range, specials=())

    @classmethod
    def ieee(cls, exponent_digits: int = 1, mantissa_digits: int = 4) -> "NumberFormat":
        """The IEEE-like layout: sign, exponent sign, exponent digits, digits; value = sign * d.ddd * 10 ** exponent."""
        return cls("ieee", mantissa_digits, exponent_digits=exponent_digits, specials=())

    @classmethod
    def text(cls, num_digits: int = 4, min_exponent: int = -6, max_exponent: int = 9) -> "NumberFormat":
        """Decimal numbers as text, of at most `num_digits` significant digits."""
        return cls("text", num_digits, min_exponent, max_exponent, specials=())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready fields; `NumberFormat(**d)` gives the format back."""
        return {**asdict(self), "specials": list(self.specials)}


class _Grammar:
    """Collects the automaton's states while a layout describes itself."""

    def __init__(self, vocabulary: list[str]):
        self.ids = {token: i for i, token in enumerate(vocabulary)}
        self.rows: list[dict[int, int]] = []
        self.smallest: list[int] = []
        self.largest: list[int] = []

    def state(self, steps: Iterable[tuple[str, int]], smallest: str | None = None, largest: str | None = None) -> int:
        """Adds a state from (token, next state) steps; `smallest` and `largest` lead to the extreme magnitudes."""
        row = {self.ids[token]: target for token, target in steps}
        order = list(row)
        self.rows.append(row)
        self.smallest.append(self.ids[smallest] if smallest else order[0])
        self.largest.append(self.ids[largest] if largest else order[-1])
        return len(self.rows) - 1

    def chain(self, token: str, length: int, end: int) -> int:
        """A run of `length` forced tokens that leads to `end`; returns its first state (`end` itself for length 0)."""
        for _ in range(length):
            end = self.state([(token, end)])
        return end

    def digits(self, length: int, end: int) -> int:
        """A run of `length` free digits that leads to `end`."""
        for _ in range(length):
            end = self.state([(d, end) for d in DIGITS])
        return end


class NumberCodec:
    """Writes numbers as token ids, reads them back, and knows the grammar of the codes.

    Attributes:
        format: The `NumberFormat`.
        vocabulary: Tokens by id. `<pad>` is 0; in `ordered` the end token is 1, in the published layouts it is also 0.
        length: Tokens in one number.
        transitions: int32 `(states, vocabulary)`: the state that follows a token, -1 where the token is not allowed.
        START, END: The automaton's states before the first token of the first number, and after a whole number, where
            another number or the end may follow. After the end only padding follows.

    The methods are vectorised over any leading shape.
    """

    def __init__(self, format: NumberFormat | None = None):
        self.format = f = format or NumberFormat()
        m = f.mantissa_digits
        if f.layout == "ordered":
            self.exponents = [f"<E{e}>" for e in range(f.min_exponent, f.max_exponent + 1)]
            firsts = [
                t for t in ("nan", "failed", "-inf", "-", "zero", "+", "+inf") if t in (*f.specials, "-", "zero", "+")
            ]
            self.vocabulary = [PAD, "<eos>", FILL, *(f"<{t}>" for t in firsts), *self.exponents, *DIGITS]
            self.length = m + 2
        elif f.layout == "p10":
            # The published order: the strings sorted, "<E-10>" before "<E-1>".
            self.exponents = sorted(f"<E{e}>" for e in range(f.min_exponent, f.max_exponent + 1))
            self.vocabulary = [PAD, "<+>", "<->", *DIGITS, *self.exponents]
            self.length = m + 2
        elif f.layout == "ieee":
            self.exponents = []
            self.vocabulary = [PAD, "<+>", "<->", *DIGITS]
            self.length = 2 + f.exponent_digits + m
        else:
            self.exponents = []
            self.vocabulary = [PAD, "<eos>", FILL, "<->", POINT, *DIGITS]
            ends = (_as_text(10**m - 1, e, m) for e in (f.min_exponent, 0, f.max_exponent))
            self.length = 1 + max(map(len, ends))
        self.ids = {token: i for i, token in enumerate(self.vocabulary)}
        self.vocab_size = len(self.vocabulary)
        self.pad_token_id = 0
        self.eos_token_id = self.ids.get("<eos>", 0)
        self.digit_zero = self.ids[DIGITS[0]]
        # Range of the exponent of d.ddd * 10 ** e, whatever the layout writes.
        shift = m - 1 if f.layout == "p10" else 0
        self.min_exponent, self.max_exponent = f.min_exponent + shift, f.max_exponent + shift
        self._build_automaton()

    # ------------------------------------------------------------------------------------------------ grammar

    def _build_automaton(self) -> None:
        grammar = _Grammar(self.vocabulary)
        eos = self.vocabulary[self.eos_token_id]
        self.DONE = grammar.state([(PAD, 0)])
        self.END = grammar.state([(eos, self.DONE)])
        layouts = {"ordered": self._ordered, "p10": self._p10, "ieee": self._ieee, "text": self._text}
        firsts = layouts[self.format.layout](grammar)
        self.START = grammar.state(firsts)
        grammar.rows[self.END].update(grammar.rows[self.START])
        self.transitions = np.full((len(grammar.rows), self.vocab_size), -1, dtype=np.int32)
        for state, row in enumerate(grammar.rows):
            self.transitions[state, list(row)] = list(row.values())
        self._smallest, self._largest = np.array(grammar.smallest), np.array(grammar.largest)

    def _ordered(self, grammar: _Grammar) -> list[tuple[str, int]]:
        m = self.format.mantissa_digits
        first_digit = grammar.state([(d, grammar.digits(m - 1, self.END)) for d in DIGITS[1:]])
        exponent = grammar.state([(e, first_digit) for e in self.exponents])
        filled = grammar.chain(FILL, self.length - 1, self.END)
        numbers = {"<->", "<+>"}
        return [(t, exponent if t in numbers else filled) for t in self.vocabulary[3 : self.ids[self.exponents[0]]]]

    def _p10(self, grammar: _Grammar) -> list[tuple[str, int]]:
        m = self.format.mantissa_digits
        by_value = sorted(self.exponents, key=lambda t: int(t[2:-1]))
        exponent = grammar.state([(e, self.END) for e in by_value])
        rest = grammar.digits(m - 1, exponent)
        zero = grammar.chain(DIGITS[0], m - 1, grammar.state([("<E0>", self.END)]))
        positive = grammar.state([(DIGITS[0], zero), *((d, rest) for d in DIGITS[1:])])
        negative = grammar.state([(d, rest) for d in DIGITS[1:]])
        return [("<+>", positive), ("<->", negative)]

    def _ieee(self, grammar: _Grammar) -> list[tuple[str, int]]:
        m, n = self.format.mantissa_digits, self.format.exponent_digits
        rest = grammar.digits(m - 1, self.END)
        nonzero = grammar.state([(d, rest) for d in DIGITS[1:]])
        maybe_zero = grammar.state(
            [(DIGITS[0], grammar.chain(DIGITS[0], m - 1, self.END)), *((d, rest) for d in DIGITS[1:])]
        )

        def exponent(if_zero: int | None, falling: bool) -> int:
            """Exponent digits; `if_zero` follows an exponent of zero (None: not allowed); falling: 9s are small."""

            def ends(low: str) -> tuple[str, str]:
                return (DIGITS[9], low) if falling else (low, DIGITS[9])

            free, zeros = nonzero, if_zero
            for _ in range(n):
                low = DIGITS[0] if zeros is not None else DIGITS[1]
                steps = [(d, free) for d in DIGITS[1:]]
                new_zeros = grammar.state([(DIGITS[0], zeros), *steps] if zeros is not None else steps, *ends(low))
                free = grammar.state([(d, free) for d in DIGITS], *ends(DIGITS[0]))
                zeros = new_zeros
            assert zeros is not None  # n is at least 1
            return zeros

        below_one = exponent(None, falling=True)
        positive = grammar.state([("<+>", exponent(maybe_zero, False)), ("<->", below_one)], "<+>", "<+>")
        negative = grammar.state([("<->", below_one), ("<+>", exponent(nonzero, False))], "<->", "<+>")
        return [("<+>", positive), ("<->", negative)]

    def _text(self, grammar: _Grammar) -> list[tuple[str, int]]:
        f, m, ends = self.format, self.format.mantissa_digits, {self.length: self.END}
        for position in range(self.length - 1, 0, -1):
            ends[position] = grammar.chain(FILL, 1, ends[position + 1])

        def state(position: int, steps: list[tuple[str, int | None]], may_end: bool) -> int | None:
            """The state at a position, of the steps that lead to a whole number; None where none does."""
            if position == self.length:
                return self.END if may_end else None
            possible = [(token, target) for token, target in steps if target is not None]
            if may_end:
                possible.append((FILL, ends[position + 1]))
            if not possible:
                return None
            tokens = {token for token, _ in possible}
            smallest, largest = (FILL, DIGITS[0], POINT, DIGITS[1]), (DIGITS[9], DIGITS[0], POINT, FILL)
            return grammar.state(
                possible, next(t for t in smallest if t in tokens), next(t for t in largest if t in tokens)
            )

        @cache
        def fraction(position: int, written: int, known: int, may_end: bool) -> int | None:
            """Behind the point: `written` places, `known` significant digits so far; the last of them is never a zero."""
            steps: list[tuple[str, int | None]] = []
            if position < self.length and known == 0:
                if written + 1 < -f.min_exponent:
                    steps.append((DIGITS[0], fraction(position + 1, written + 1, 0, False)))
                if written < -f.min_exponent:
                    steps += [(d, fraction(position + 1, written + 1, 1, True)) for d in DIGITS[1:]]
            elif position < self.length and known < m:
                steps.append((DIGITS[0], fraction(position + 1, written + 1, known + 1, False)))
                steps += [(d, fraction(position + 1, written + 1, known + 1, True)) for d in DIGITS[1:]]
            return state(position, steps, may_end)

        @cache
        def whole(position: int, written: int) -> int | None:
            """Before the point, behind `written` digits of which the first is no zero."""
            steps: list[tuple[str, int | None]] = []
            if position < self.length and written <= f.max_exponent:
                steps += [(d, whole(position + 1, written + 1)) for d in (DIGITS if written < m else DIGITS[:1])]
            if position < self.length and written < m:
                steps.append((POINT, fraction(position + 1, 0, written, False)))
            return state(position, steps, True)

        def start(position: int, zero: bool) -> list[tuple[str, int]]:
            """The first digit's steps; `zero`: the number may be zero."""
            below_one = state(position + 1, [(POINT, fraction(position + 2, 0, 0, False))], zero)
            steps = [(DIGITS[0], below_one), *((d, whole(position + 1, 1)) for d in DIGITS[1:])]
            return [(token, target) for token, target in steps if target is not None]

        return [("<->", grammar.state(start(1, zero=False))), *start(0, zero=True)]

    @cached_property
    def allowed(self) -> np.ndarray:
        """Which tokens may come next, bool `(states, vocabulary)`."""
        return self.transitions >= 0

    @cached_property
    def outcome_tokens(self) -> dict[str, int]:
        """First-token ids of the special outcomes that this format has, by name."""
        return {name: self.ids[f"<{name}>"] for name in self.format.specials}

    @property
    def ordered(self) -> bool:
        """Whether digits come in order of significance, so that quantiles follow one path of the digit tree."""
        return self.format.layout == "ordered"

    @property
    def ordered_digits(self) -> bool:
        """Whether a prefix bounds the value ever more closely, so that quantiles can be read off the digit tree."""
        return self.format.layout in ("ordered", "ieee")

    def states(self, ids: np.ndarray, start: int | None = None) -> np.ndarray:
        """The state before each token and after the last one.

        Args:
            ids: int `(..., tokens)`.

        Returns:
            int `(..., tokens + 1)`; -1 from the first token on that the grammar does not allow.
        """
        ids = np.asarray(ids)
        states = np.empty((*ids.shape[:-1], ids.shape[-1] + 1), dtype=np.int64)
        states[..., 0] = self.START if start is None else start
        for t in range(ids.shape[-1]):
            states[..., t + 1] = np.where(states[..., t] >= 0, self.transitions[states[..., t], ids[..., t]], -1)
        return states

    def bounds(self, prefixes: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value that finite prefixes can grow into.

        Args:
            prefixes: int `(n, t)`, at least the sign and no special outcome (infinities are their own bounds; NaNs give
                NaN).
            states: int `(n,)`, the automaton's state after each.

        Returns:
            Two float64 arrays `(n,)`, low and high.
        """
        ends = []
        for extreme in (self._smallest, self._largest):
            codes, state = np.empty((len(prefixes), self.length), dtype=np.int64), states
            codes[:, : prefixes.shape[1]] = prefixes
            for t in range(prefixes.shape[1], self.length):
                codes[:, t] = extreme[state]
                state = self.transitions[state, codes[:, t]]
            ends.append(self._decode(codes))
            if prefixes.shape[1] == self.length:
                return ends[0], ends[0]
        return np.minimum(*ends), np.maximum(*ends)

    # ------------------------------------------------------------------------------------------------ numbers to codes

    def encode(
        self, values: Any, *, out_of_range: Literal["error", "saturate"] = "error", return_saturated: bool = False
    ) -> Any:
        """Writes numbers as token ids, correctly rounded (half to even on the decimal value that the number prints as).

        Args:
            values: A number or any nesting of numbers: int, float, Decimal, numpy scalars and arrays, torch tensors;
                `"failed"` or `FAILED` for a program that did not finish. Not bool.
            out_of_range: `"error"`, or `"saturate"`: the largest magnitude above the range; below it zero or the smallest
                magnitude, whichever is nearer (`ieee` keeps the published habit of writing zero).
            return_saturated: Also return which values were saturated.

        Returns:
            int64 `(..., length)`, and bool `(...)` when `return_saturated` is set.

        Raises:
            NumberCodeError: Not a number, or a special outcome that the format does not have.
            NumberRangeError: Outside the range, unless `out_of_range="saturate"`.
        """
        if out_of_range not in ("error", "saturate"):
            raise NumberCodeError(f"out_of_range must be 'error' or 'saturate', got {out_of_range!r}.")
        array = _as_numbers(values)
        flat = array.reshape(-1)
        floats, mantissas, exponents = self._scientific(flat)
        special = ~np.isfinite(floats)
        zero = (mantissas == 0) & ~special
        over = ~special & ~zero & (exponents > self.max_exponent)
        under = ~special & ~zero & (exponents < self.min_exponent)
        saturated = over | under
        if saturated.any() and out_of_range == "error":
            first = int(np.argmax(saturated))
            raise NumberRangeError(
                f"{int(saturated.sum())} of {len(flat)} values are outside the number format's range, "
                f"{self.smallest_magnitude:g} to {self.largest_magnitude:g} in magnitude or zero; the first is "
                f"{flat[first]} at position {first}. Change the metric's unit, widen the exponent range, or pass "
                "out_of_range='saturate'."
            )
        top = 10**self.format.mantissa_digits - 1
        mantissas = np.where(over, top, mantissas)
        exponents = np.where(over, self.max_exponent, exponents)
        if under.any():
            up = under & (np.abs(floats) > self.smallest_magnitude / 2) & (self.format.layout != "ieee")
            mantissas = np.where(up, 10 ** (self.format.mantissa_digits - 1), np.where(under, 0, mantissas))
            exponents = np.where(up, self.min_exponent, exponents)
            zero |= under & ~up
        ids = self._write(floats, mantissas, exponents, zero, special, under).reshape(*array.shape, self.length)
        return (ids, saturated.reshape(array.shape)) if return_saturated else ids

    def _scientific(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns float64 values, int64 mantissas of `mantissa_digits` digits (0 for zero), exponents of d.ddd * 10 ** e."""
        if flat.dtype == object:
            floats = np.array([_to_float(v) for v in flat], dtype=np.float64)
            is_exact = np.ones(len(flat), dtype=bool)
        else:
            floats = flat.astype(np.float64)
            # Whole numbers that a float64 rounds.
            is_exact = np.zeros(len(flat), dtype=bool)
            if flat.dtype.kind in "iu":
                is_exact |= flat > 2**53
            if flat.dtype.kind == "i":
                is_exact |= flat < -(2**53)
        magnitude = np.abs(np.where(np.isfinite(floats), floats, 0.0))
        mantissas, exponents = np.zeros(len(flat), dtype=np.int64), np.zeros(len(flat), dtype=np.int64)
        fast = (magnitude > 1e-280) & (magnitude < 1e280) & ~is_exact
        fast &= self.format.mantissa_digits <= 9
        if fast.any():
            mantissas[fast], exponents[fast], certain = self._scaled(magnitude[fast])
            fast[fast] = certain
        slow = ~fast & ((magnitude > 0) | is_exact) & np.isfinite(floats)
        for i in np.flatnonzero(slow):
            scientific = self._decimal(flat[i])
            if scientific is not None:
                mantissas[i], exponents[i] = scientific
        return floats, mantissas, exponents

    def _scaled(self, magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns mantissas and exponents by scaling with a power of ten, and which of them are certain.

        The error of scaling is a few units of 2**-53: only a scaled mantissa near a tie or near a power of ten is uncertain.
        """
        digits = self.format.mantissa_digits
        low, high = 10.0 ** (digits - 1), 10.0**digits
        exponents = np.floor(np.log10(magnitude)).astype(np.int64)
        scaled = magnitude * _POWERS[digits - 1 - exponents + _POWER_ZERO]
        # The logarithm may be one off at powers of ten.
        exponents += (scaled >= high).astype(np.int64) - (scaled < low)
        scaled = magnitude * _POWERS[digits - 1 - exponents + _POWER_ZERO]
        fraction = scaled - np.floor(scaled)
        certain = (np.abs(fraction - 0.5) > 1e-5) & (scaled > low * (1 + 1e-12)) & (scaled < high - 1)
        return np.rint(scaled).astype(np.int64), exponents, certain

    def _decimal(self, value: Any) -> tuple[int, int] | None:
        """Returns mantissa and exponent of a number by decimal arithmetic, half to even; None for zero."""
        rounding, shifting = self._decimal_contexts
        number = rounding.plus(value if isinstance(value, Decimal) else Decimal(str(value)))
        if not number:
            return None
        whole = number.scaleb(self._last_digit - number.adjusted(), shifting)
        return abs(int(whole)), number.adjusted()

    @cached_property
    def _decimal_contexts(self) -> tuple[decimal.Context, decimal.Context]:
        """Contexts that round to the mantissa's digits, and that shift the point without rounding."""
        digits = self.format.mantissa_digits
        rounding = decimal.Context(prec=digits, rounding=decimal.ROUND_HALF_EVEN, Emin=-(10**6), Emax=10**6)
        return rounding, decimal.Context(prec=digits + 2)

    def _write(
        self,
        floats: np.ndarray,
        mantissas: np.ndarray,
        exponents: np.ndarray,
        zero: np.ndarray,
        special: np.ndarray,
        under: np.ndarray,
    ) -> np.ndarray:
        """Returns the codes of numbers in scientific form, int64 `(values, length)`.

        Args:
            floats: The values, for their signs and special outcomes.
            mantissas, exponents: See `_scientific`.
            zero: Which are written as zero.
            special: Which are no finite numbers.
            under: Which were below the range.

        Raises:
            NumberCodeError: A special outcome that the format does not have.
        """
        layout = self.format.layout
        if layout == "ordered":
            return self._write_ordered(floats, mantissas, exponents, zero, special)
        if special.any():
            raise NumberCodeError(
                f"The {layout!r} layout writes finite numbers only; {int(special.sum())} values are not."
            )
        exponents = np.where(zero, 0, exponents)
        is_negative = (floats < 0) & ~zero
        if layout == "text":
            return self._write_text(is_negative, np.where(zero, 0, mantissas), exponents)
        if layout == "p10":
            return self._write_p10(is_negative, mantissas, np.where(zero, 0, exponents - self._last_digit))
        # The published code of an underflow keeps both minus signs: a zero that the grammar does not allow, written all the
        # same so that the layout matches.
        underflow = zero & under
        return self._write_ieee((floats < 0) & (~zero | under), (exponents < 0) | underflow, mantissas, exponents)

    @property
    def _last_digit(self) -> int:
        """Position of the last mantissa digit behind the first."""
        return self.format.mantissa_digits - 1

    def _digit_tokens(self, numbers: np.ndarray, count: int) -> np.ndarray:
        """Returns the tokens of the last `count` digits of whole numbers, `(values, count)`."""
        powers = 10 ** np.arange(count - 1, -1, -1, dtype=np.int64)
        return numbers[:, None] // powers % 10 + self.digit_zero

    def _sign_tokens(self, is_negative: np.ndarray) -> np.ndarray:
        return np.where(is_negative, self.ids["<->"], self.ids["<+>"])

    def _write_ordered(
        self,
        floats: np.ndarray,
        mantissas: np.ndarray,
        exponents: np.ndarray,
        zero: np.ndarray,
        special: np.ndarray,
    ) -> np.ndarray:
        """Returns codes of sign, exponent and mantissa; of zero and special outcomes, their token and fill tokens."""
        codes = np.zeros((len(floats), self.length), dtype=np.int64)
        codes[:, 0] = self._sign_tokens(floats < 0)
        codes[:, 1] = self.ids[self.exponents[0]] + exponents - self.min_exponent
        codes[:, 2:] = self._digit_tokens(mantissas, self.format.mantissa_digits)
        codes[zero, 0] = self.ids["<zero>"]
        if not special.any():
            codes[zero, 1:] = self.ids[FILL]
            return codes
        names = np.select([is_failed(floats), np.isnan(floats), floats > 0], ["failed", "nan", "+inf"], "-inf")
        for name in np.unique(names[special]).tolist():
            if name not in self.format.specials:
                raise NumberCodeError(
                    f"This number format does not write {name!r} (special outcomes: {list(self.format.specials) or 'none'}). "
                    "Drop those rows or add it to the format's specials."
                )
            codes[special & (names == name), 0] = self.ids[f"<{name}>"]
        codes[zero | special, 1:] = self.ids[FILL]
        return codes

    def _write_p10(self, is_negative: np.ndarray, mantissas: np.ndarray, powers: np.ndarray) -> np.ndarray:
        """Returns codes of sign, digits and the power of ten that the whole mantissa is multiplied by."""
        by_power = [self.ids[f"<E{e}>"] for e in range(self.format.min_exponent, self.format.max_exponent + 1)]
        codes = np.zeros((len(mantissas), self.length), dtype=np.int64)
        codes[:, 0] = self._sign_tokens(is_negative)
        codes[:, 1:-1] = self._digit_tokens(mantissas, self.format.mantissa_digits)
        codes[:, -1] = np.array(by_power)[powers - self.format.min_exponent]
        return codes

    def _write_ieee(
        self, is_negative: np.ndarray, is_below_one: np.ndarray, mantissas: np.ndarray, exponents: np.ndarray
    ) -> np.ndarray:
        """Returns codes of sign, exponent sign, exponent digits and mantissa digits."""
        mantissa_start = 2 + self.format.exponent_digits
        codes = np.zeros((len(mantissas), self.length), dtype=np.int64)
        codes[:, 0] = self._sign_tokens(is_negative)
        codes[:, 1] = self._sign_tokens(is_below_one)
        codes[:, 2:mantissa_start] = self._digit_tokens(np.abs(exponents), self.format.exponent_digits)
        codes[:, mantissa_start:] = self._digit_tokens(mantissas, self.format.mantissa_digits)
        return codes

    def _write_text(self, is_negative: np.ndarray, mantissas: np.ndarray, exponents: np.ndarray) -> np.ndarray:
        """Returns codes of the characters that people write."""
        codes = np.zeros((len(mantissas), self.length), dtype=np.int64)
        for row in range(len(codes)):
            codes[row] = self._spelled(bool(is_negative[row]), int(mantissas[row]), int(exponents[row]))
        return codes

    def _spelled(self, negative: bool, mantissa: int, exponent: int) -> list[int]:
        """The code of a number in the `text` layout."""
        spelled = "-" * negative + _as_text(mantissa, exponent, self.format.mantissa_digits)
        tokens = [POINT if c == "." else f"<{c}>" for c in spelled]
        return [self.ids[t] for t in [*tokens, *[FILL] * (self.length - len(tokens))]]

    # ------------------------------------------------------------------------------------------------ codes to numbers

    def decode(self, ids: Any) -> np.ndarray:
        """Reads token ids back as float64, each the nearest float64 to its decimal value.

        Args:
            ids: int `(..., length)`.

        Returns:
            float64 `(...)`; `failed` comes back as `FAILED`, see `is_failed`.

        Raises:
            NumberCodeError: A code that this layout cannot be read from.
        """
        ids = np.asarray(ids.detach().cpu() if hasattr(ids, "detach") else ids)
        if ids.dtype.kind not in "iu" or ids.ndim == 0 or ids.shape[-1] != self.length:
            raise NumberCodeError(f"Codes must be integers of shape (..., {self.length}), got {ids.dtype} {ids.shape}.")
        flat = ids.reshape(-1, self.length).astype(np.int64)
        wrong = ~self._is_readable(flat)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise NumberCodeError(
                f"{int(wrong.sum())} of {len(flat)} codes are not numbers of the {self.format.layout!r} layout; the first is "
                f"{[self.vocabulary[i] if 0 <= i < self.vocab_size else i for i in flat[row].tolist()]} at row {row}."
            )
        return self._decode(flat).reshape(ids.shape[:-1])

    def _is_readable(self, flat: np.ndarray) -> np.ndarray:
        """Returns whether each position holds a token of its kind; wider than the grammar, which has canonical codes only."""
        layout = self.format.layout
        inside: np.ndarray = np.logical_and.reduce((flat >= 0) & (flat < self.vocab_size), axis=1)
        if layout in ("ordered", "text"):
            reaches_end: np.ndarray = self.states(np.where(inside[:, None], flat, 0))[:, -1] == self.END
            return inside & reaches_end
        is_digit = (flat >= self.digit_zero) & (flat < self.digit_zero + 10)
        is_sign = np.isin(flat, [self.ids["<+>"], self.ids["<->"]])
        if layout == "p10":
            is_exponent = np.isin(flat[:, -1], [self.ids[e] for e in self.exponents])
            return is_sign[:, 0] & np.logical_and.reduce(is_digit[:, 1:-1], axis=1) & is_exponent
        return np.logical_and.reduce(np.concatenate([is_sign[:, :2], is_digit[:, 2:]], 1), axis=1)

    def _decode(self, flat: np.ndarray) -> np.ndarray:
        """Returns the float64 values of codes `(values, length)`."""
        layout = self.format.layout
        if layout == "text":
            return self._decode_text(flat)
        decoders = {"ordered": self._decode_ordered, "p10": self._decode_p10, "ieee": self._decode_ieee}
        mantissas, powers = decoders[layout](flat)
        values = _times_power_of_ten(mantissas, powers)
        is_negative = (flat[:, 0] == self.ids["<->"]) & (mantissas != 0)
        values = np.where(is_negative, -values, values)
        for name, token in self.outcome_tokens.items():
            values[flat[:, 0] == token] = _OUTCOME_VALUES[name]
        return values

    def _number(self, digit_tokens: np.ndarray) -> np.ndarray:
        """Returns the whole numbers of digit tokens `(values, digits)`."""
        powers = 10 ** np.arange(digit_tokens.shape[1] - 1, -1, -1, dtype=np.int64)
        numbers: np.ndarray = (digit_tokens - self.digit_zero) @ powers
        return numbers

    def _decode_ordered(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns whole mantissas and powers of ten; 0 for zero and special outcomes."""
        is_number = np.isin(flat[:, 0], [self.ids["<+>"], self.ids["<->"]])
        exponents = flat[:, 1] - self.ids[self.exponents[0]] + self.min_exponent
        mantissas = np.where(is_number, self._number(flat[:, 2:]), 0)
        return mantissas, np.where(is_number, exponents - self._last_digit, 0)

    def _decode_p10(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns whole mantissas and powers of ten."""
        power_of_token = np.zeros(self.vocab_size, dtype=np.int64)
        power_of_token[[self.ids[e] for e in self.exponents]] = [int(e[2:-1]) for e in self.exponents]
        return self._number(flat[:, 1:-1]), power_of_token[flat[:, -1]]

    def _decode_ieee(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns whole mantissas and powers of ten."""
        mantissa_start = 2 + self.format.exponent_digits
        exponents = self._number(flat[:, 2:mantissa_start])
        exponents = np.where(flat[:, 1] == self.ids["<->"], -exponents, exponents)
        return self._number(flat[:, mantissa_start:]), exponents - self._last_digit

    def _decode_text(self, flat: np.ndarray) -> np.ndarray:
        """Returns the values of codes of characters."""
        characters = {FILL: "", POINT: ".", "<->": "-", **{digit: digit[1:-1] for digit in DIGITS}}
        distinct, inverse = np.unique(flat, axis=0, return_inverse=True)
        values = np.empty(len(distinct))
        for row, code in enumerate(distinct.tolist()):
            # Bounds are also asked of codes that no grammar allows: other tokens stand as they are spelled.
            tokens = [self.vocabulary[i] for i in code]
            values[row] = float("".join(characters.get(token, token[1:-1]) for token in tokens))
        return values[inverse.reshape(-1)]

    @property
    def largest_magnitude(self) -> float:
        """The largest magnitude that the format writes."""
        m = self.format.mantissa_digits
        return float(f"{10**m - 1}e{self.max_exponent - m + 1}")

    @property
    def smallest_magnitude(self) -> float:
        """The smallest magnitude above zero that the format writes."""
        return float(f"1e{self.min_exponent}")


def _as_text(mantissa: int, exponent: int, digits: int) -> str:
    """A number d.ddd * 10 ** e of so many digits as people write it: no point without a digit behind it, no zero at the end."""
    spelled = str(mantissa).rjust(digits, "0")
    if exponent < 0:
        spelled, exponent = "0" * -exponent + spelled, 0
    whole = spelled[: exponent + 1].ljust(exponent + 1, "0")
    fraction = spelled[exponent + 1 :].rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


# Powers of ten as the nearest float64 each; index _POWER_ZERO is 10 ** 0.
_POWER_ZERO = 300
_POWERS = np.array([float(f"1e{e}") for e in range(-_POWER_ZERO, _POWER_ZERO + 1)])


def _times_power_of_ten(mantissa: np.ndarray, power: np.ndarray) -> np.ndarray:
    """mantissa * 10 ** power, correctly rounded: one exact operation up to 10 ** 22, the decimal parser beyond."""
    values = mantissa.astype(np.float64)
    small = np.abs(power) <= 22
    scale = _POWERS[np.clip(np.abs(power), 0, 22) + _POWER_ZERO]
    values = np.where(power < 0, values / scale, values * scale)
    for i in np.flatnonzero(~small & (mantissa != 0)):
        values[i] = _parse(int(mantissa[i]), int(power[i]))
    return values


@lru_cache(maxsize=65536)
def _parse(mantissa: int, power: int) -> float:
    return float(f"{mantissa}e{power}")


def _as_numbers(values: Any) -> np.ndarray:
    """Any nesting of numbers as a numeric or object array; refuses bools, which Python would count as ints."""
    if hasattr(values, "detach"):  # a torch tensor, without importing torch for it
        values = values.detach().cpu()
        values = (values if not values.is_floating_point() else values.double()).numpy()
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return values
    if isinstance(values, np.ndarray) and values.dtype in (np.float64, np.float32, np.float16):
        return values.astype(np.float64)
    array = np.array(values, dtype=object)
    for i, v in enumerate(array.flat):
        if hasattr(v, "detach") and v.ndim == 0:  # tensors of one number in a list
            array.flat[i] = v.item()
    kinds = {type(v) for v in array.reshape(-1)}
    if any(issubclass(k, (bool, np.bool_)) for k in kinds):
        raise NumberCodeError("A bool is not a measurement. Pass 0 or 1 if a number is meant.")
    if kinds <= {float, np.float64, np.float32, np.float16}:
        return array.astype(np.float64)
    for v in array.reshape(-1):
        _to_float(v)
    return array


def _to_float(value: Any) -> float:
    if isinstance(value, str) and value == "failed":
        return FAILED
    if isinstance(value, (int, float, Decimal, np.integer, np.floating)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        except ValueError:  # a signaling NaN
            return math.nan
        if math.isinf(number) and value not in (math.inf, -math.inf):  # beyond float64 is out of range, not infinite
            return math.copysign(1.7976931348623157e308, -1 if value < 0 else 1)
        return number
    raise NumberCodeError(
        f"{value!r} ({type(value).__name__}) is not a number. Pass ints, floats, Decimals or arrays of them."
    )


__all__ = ["FAILED", "SPECIALS", "NumberCodec", "NumberFormat", "is_failed"]
