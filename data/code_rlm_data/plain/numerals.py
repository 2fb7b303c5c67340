"""Spells whole numbers as people write them in a language: digits, separators, products, shifts, powers, exponents."""

from __future__ import annotations

import random
from collections.abc import Callable

# Not C#: its compiler mcs reads 12_345 as 123345.
SEPARATOR = {
    **dict.fromkeys("python java javascript typescript go rust ruby perl php".split(), "_"),
    "cpp": "'",
}
_POWER = {"python": "**", "ruby": "**", "javascript": " ** ", "typescript": " ** ", "php": " ** ", "perl": "**"}
_EXPONENT: dict[str, tuple[str, ...]] = {
    "python": ("int({})",),
    "c": ("(int){}", "(int) {}"),
    "cpp": ("(int){}", "int({})", "static_cast<int>({})"),
    "java": ("(int) {}", "(int){}"),
    "csharp": ("(int){}", "(int) {}"),
    "javascript": ("{}",),
    "typescript": ("{}",),
    "go": ("int({})",),
    "rust": ("{} as {type}",),
    "ruby": ("{}.to_i",),
    "php": ("(int) {}", "(int){}"),
    "perl": ("{}",),
}
_WIDE_EXPONENT = {
    "c": ("(long){}", "(long long){}"),
    "cpp": ("(long long){}", "(long){}"),
    "java": ("(long) {}", "(long){}"),
    "csharp": ("(long){}", "(long) {}"),
}
# Of languages whose literals are 32 bits wide unless they say otherwise.
_WIDE_SUFFIX = {"c": ("L", "LL", "l"), "cpp": ("LL", "L", "ll"), "java": ("L",), "csharp": ("L",)}
LARGEST_INT = 2**31 - 1
_MANY = 10_000  # from here on people do more than write the digits
_Form = tuple[float, Callable[[], str]]


def spell(value: int, language: str, rng: random.Random, type_name: str = "usize") -> str:
    """Returns an expression of a language whose value is `value`.

    It may hold operators and stands between brackets where its neighbours could bind tighter. The expression has the
    language's default integer type, or a wider one where the value needs it.

    Args:
        value: Number, 0 or more.
        language: One of the languages of the templates.
        rng: Chooses the form.
        type_name: Integer type of the place, for Rust.
    """
    suffix = rng.choice(_WIDE_SUFFIX[language]) if value > LARGEST_INT and language in _WIDE_SUFFIX else ""
    forms: list[_Form] = [(20.0, lambda: f"{value}{suffix}")]
    if value >= _MANY:
        forms = [(3.0, lambda: f"{value}{suffix}"), *_decimal_forms(value, language, suffix, type_name, rng)]
    forms += _binary_forms(value, language, suffix)
    return rng.choices([form for _, form in forms], [weight for weight, _ in forms])[0]()


def _decimal_forms(value: int, language: str, suffix: str, type_name: str, rng: random.Random) -> list[_Form]:
    """Returns weights and forms that show the decimal digits: separators, products, powers, exponents."""
    forms: list[_Form] = []
    if language in SEPARATOR:
        forms.append((3.0, lambda: f"{value:,}".replace(",", SEPARATOR[language]) + suffix))
    if value % 1000 == 0:
        forms.append((1.5, lambda: _product(value, suffix, rng)))
    if language in _POWER and _zeros(value) >= 3:
        forms.append((2.0, lambda: _power_of_ten(value, _POWER[language])))
    if language in _EXPONENT and _zeros(value) >= 3 and len(str(value)) - _zeros(value) <= 2:
        wide = _WIDE_EXPONENT.get(language) if suffix else None
        form = rng.choice(wide or _EXPONENT[language])
        forms.append((2.0, lambda: form.format(_exponent(value), type=type_name)))
    return forms


def _binary_forms(value: int, language: str, suffix: str) -> list[_Form]:
    """Returns weights and forms of a small multiple of a large power of two: shifts, powers, hexadecimal digits."""
    twos = (value & -value).bit_length() - 1
    wraps = language in ("javascript", "typescript") and value > LARGEST_INT  # shifts there have 32 bits
    if value < 1024 or twos < 8 or value >> twos >= 100 or wraps:
        return []
    forms: list[_Form] = [(9.0, lambda: f"{value >> twos}{suffix} << {twos}")]
    if value >> twos == 1 and language in _POWER:
        forms.append((5.0, lambda: f"2{_POWER[language]}{twos}"))
    return [*forms, (2.0, lambda: f"0x{value:x}{suffix}")]


def is_plain(spelled: str) -> bool:
    """Returns whether a spelled number binds as one token: it needs no brackets wherever it stands."""
    return " " not in spelled and "*" not in spelled and "<" not in spelled and not spelled.startswith("(")


def _zeros(value: int) -> int:
    return len(str(value)) - len(str(value).rstrip("0"))


def _exponent(value: int) -> str:
    digits = str(value).rstrip("0")
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{len(str(value)) - 1}"


def _product(value: int, suffix: str, rng: random.Random) -> str:
    """Writes a multiple of 1000 as a product; the first factor carries the suffix, so that no product overflows."""
    root = round(value**0.5)
    if root * root == value and rng.random() < 0.6:
        return f"{root}{suffix} * {root}"
    if value % 1_000_000 == 0 and rng.random() < 0.6:
        return f"{value // 1_000_000}{suffix} * 1000 * 1000"
    if value % 1_000_000 == 0 and rng.random() < 0.5:
        return f"{value // 1_000_000}{suffix} * 1000000"
    return f"{value // 1000}{suffix} * 1000"


def _power_of_ten(value: int, operator: str) -> str:
    zeros = _zeros(value)
    head = value // 10**zeros
    power = f"10{operator}{zeros}"
    return power if head == 1 else f"{head} * {power}"


__all__ = ["LARGEST_INT", "SEPARATOR", "is_plain", "spell"]
