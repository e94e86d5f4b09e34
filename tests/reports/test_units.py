"""Values as people see them."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.reports import units

SCALES = {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "GiB": 2.0**30, "MiB": 2.0**20, "B": 1.0, "%": 0.01}
SCALES |= {units.RATIO: 1.0, "": 1.0, "documents/s": 1.0, "bananas": 1.0}


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0241, "s", "24.1 ms"),
        (0.0009996, "s", "1.00 ms"),
        (0.0000884, "s", "88.4 µs"),
        (143.2, "s", "143 s"),
        (812.345, "documents/s", "812 documents/s"),
        (12345.6, "queries/s", "12,300 queries/s"),
        (1536, "B", "1,536 B"),
        (16.77, "B", "16.8 B"),
        (2e9, "B", "1.86 GiB"),
        (412 * 2**20, "B", "412 MiB"),
        (0.75, "", "75.0%"),
        (1, "", "100%"),
        (0.99996, "", "99.996%"),
        (0.0595, units.RATIO, f"0.0595{units.RATIO}"),
        (0, "s", "0 µs"),
        (-0.003, "s", "-3.00 ms"),
        (0.0084, units.POINTS, "+0.84 points"),
        (-0.169, units.POINTS, "-16.90 points"),
        (None, "s", "no value"),
        (math.nan, "s", "not a number"),
        (math.inf, "B", "infinity"),
        (-math.inf, "", "-infinity"),
        (1e300, "s", "1e+300 s"),
    ],
)
def test_values_are_shown_in_the_unit_people_use(value: float | None, unit: str, shown: str) -> None:
    assert units.show(value, unit) == shown


def test_an_interval_takes_the_scale_of_its_value() -> None:
    assert units.show(0.0009, "s", 0.0005, 0.0021) == "900 µs [500, 2,100]"
    assert units.show(0.001, units.POINTS, -0.002, 0.004) == "+0.10 points [-0.20, +0.40]"
    assert units.show(0.5, "", 0.4, math.inf) == "50.0% [40.0, infinity]"


def test_half_an_interval_is_none() -> None:
    assert units.show(1.5, "s", None, 3.0) == "1.50 s"
    assert not units.interval(None, "s", 1.0, 2.0)


def test_ticks_have_no_trailing_zeros() -> None:
    assert [units.tick(v, "s") for v in (1e-4, 0.01, 2.5)] == ["100 µs", "10 ms", "2.5 s"]


@given(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["s", "B", "", units.RATIO, "bananas"])
)
def test_any_finite_value_reads_back_within_half_a_percent(value: float, unit: str) -> None:
    shown = units.show(value, unit)
    match = re.fullmatch(r"(-?[\d,.]+(?:e[+-]\d+)?) ?(\D*)", shown)
    assert match, shown
    read = float(match[1].replace(",", "")) * SCALES[match[2]]
    assert read == pytest.approx(value, rel=0.00501, abs=0)


@given(st.floats(), st.floats(), st.floats(), st.text(max_size=5))
def test_nothing_makes_it_fail(value: float, low: float, high: float, unit: str) -> None:
    assert units.show(value, unit, low, high)
    assert units.tick(value, unit)
