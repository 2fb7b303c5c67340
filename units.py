"""Quantities as people write them: `2GB`, `1.5 MiB`, `20ms`, `20%`."""

import re

from code_rlm.errors_rlm import InputError

_BYTES = {"b": 1.0, "byte": 1.0, "bytes": 1.0}
for _power, _letter in enumerate("kmgtp", start=1):
    _BYTES[f"{_letter}b"] = 1000.0**_power
    _BYTES[f"{_letter}ib"] = 1024.0**_power
_MS = {"ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6}
# Unit of a metric to the units that stand for it, in lower case, and their size in it.
SCALES: dict[str, dict[str, float]] = {
    "bytes": _BYTES,
    "ms": _MS,
    "us": {name: size * 1e3 for name, size in _MS.items()},
    "ns": {name: size * 1e6 for name, size in _MS.items()},
    "s": {name: size / 1e3 for name, size in _MS.items()},
    "%": {"%": 1.0, "percent": 1.0},
    "cycles": {"cycles": 1.0},
}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d[\d_,]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-zµ%/]*)\s*")


def parse_quantity(text: str, unit: str, name: str = "") -> float:
    """Returns a quantity in a metric's unit; a number alone is in that unit.

    Args:
        text: Such as "2GB" (10^9 bytes), "2GiB" (2^30), "1.5 s" or "300".
        unit: The metric's unit, as its registry has it.
        name: The metric's name, for messages.

    Raises:
        InputError: No number, or a unit of another kind.
    """
    match = _QUANTITY.fullmatch(str(text))
    scales = {unit.lower(): 1.0, **SCALES.get(unit, {})}
    given = match[2].lower() if match else ""
    if match is None or (given and given not in scales):
        known = ", ".join(each for each in scales if each)
        raise InputError(
            f"{name + ': ' if name else ''}{text!r} is no quantity in {unit or 'plain numbers'}; write a number"
            + (f" with one of {known}, or alone for {unit}." if known else ".")
        )
    return float(match[1].replace("_", "").replace(",", "")) * (scales[given] if given else 1.0)


def parse_share(text: str, name: str = "") -> float:
    """Returns a percentage as a share: "20%" as 0.2.

    Raises:
        InputError: Not a percentage of at least 0.
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[2] != "%" or float(match[1].replace(",", "")) < 0:
        raise InputError(f"{name + ': ' if name else ''}{text!r} is no percentage; write one such as 20%.")
    return float(match[1].replace(",", "")) / 100


__all__ = ["SCALES", "parse_quantity", "parse_share"]
