"""How people see values: the SI of records becomes ms, MiB and %, with three significant digits."""

from __future__ import annotations

import math
from typing import NamedTuple

RATIO = "\N{MULTIPLICATION SIGN}"  # the unit of a measured figure over a documented one
POINTS = "points"  # the unit of a difference of two shares, in hundredths and with its sign
_PLAIN = (1e-9, 1e15)  # sizes outside are written as 1.23e+20, in the record's own unit
_MEBIBYTE = 2**20
_MOST_DECIMALS = 4  # of a percentage just below 100


class _Scale(NamedTuple):
    factor: float
    suffix: str
    signed: bool = False


# The largest scale that leaves at least 1 is taken, the last one otherwise.
_SCALES = {
    "s": (_Scale(1, " s"), _Scale(1e-3, " ms"), _Scale(1e-6, " µs")),
    "B": (_Scale(2**30, " GiB"), _Scale(_MEBIBYTE, " MiB"), _Scale(1, " B")),
    "": (_Scale(0.01, "%"),),
    RATIO: (_Scale(1, RATIO),),
    POINTS: (_Scale(0.01, " points", signed=True),),
}


def show(value: float | None, unit: str, low: float | None = None, high: float | None = None) -> str:
    """Write a value in SI `unit`, with its interval where both ends are given.

    >>> show(0.02412, "s", 0.0238, 0.02451)
    '24.1 ms [23.8, 24.5]'
    """
    if value is None:
        return "no value"
    scale = _scale(value, unit)
    text = _number(value, scale) + (scale.suffix if math.isfinite(value) else "")
    ends = interval(value, unit, low, high)
    return f"{text} {ends}" if ends else text


def interval(value: float | None, unit: str, low: float | None, high: float | None) -> str:
    """Write an interval in the scale of the value it belongs to; empty where there is none.

    >>> interval(0.02412, "s", 0.0238, 0.02451)
    '[23.8, 24.5]'
    """
    if value is None or low is None or high is None:
        return ""
    scale = _scale(value, unit)
    return f"[{_number(low, scale)}, {_number(high, scale)}]"


def tick(value: float, unit: str) -> str:
    """Write a round value, as on an axis: `show` without trailing zeros.

    >>> tick(0.01, "s")
    '10 ms'
    """
    scale = _scale(value, unit)
    number = _number(value, scale)
    return (number.rstrip("0").rstrip(".") if "." in number else number) + scale.suffix


def _scale(value: float, unit: str) -> _Scale:
    size = abs(value)
    known = _SCALES.get(unit, (_Scale(1, f" {unit}"),))
    if size and not _PLAIN[0] <= size < _PLAIN[1]:  # NaN and infinities come here too
        return _Scale(1, f" {unit}" if unit else "")
    return next((scale for scale in known if abs(_rounded(value / scale.factor)) >= 1), known[-1])


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def _number(value: float, scale: _Scale) -> str:
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    if value == 0:
        return "0"
    if not _PLAIN[0] <= abs(value) < _PLAIN[1]:
        return f"{value / scale.factor:.6g}"
    scaled = value / scale.factor
    if scale.suffix == " B" and abs(scaled) >= 100:
        return f"{scaled:,.0f}"  # 1,536 B means 384 floats; 1,540 B means nothing
    decimals = _decimals(scaled, scale)
    sign = "+" if scale.signed else ""
    return f"{scaled if decimals else _rounded(scaled):{sign},.{decimals}f}"


def _decimals(scaled: float, scale: _Scale) -> int:
    """Decimals that make three significant digits, or that tell 99.97% from 100%; two of a difference."""
    if scale.signed:
        return 2
    exponent = int(f"{scaled:.2e}".partition("e")[2])
    decimals = max(0, 2 - exponent)
    if scale.suffix == "%" and scaled < 100:
        while decimals < _MOST_DECIMALS and float(f"{scaled:.{decimals}f}") == 100:
            decimals += 1
    return decimals
