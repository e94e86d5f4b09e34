"""Queries embedded by several clients at once: rates in shared calls and alone, and what sharing gains."""

from __future__ import annotations

from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures import counts
from bench.reports.figures.counts import Panel
from bench.reports.figures.drawing import MARKS, Curve, Drawing

_TITLE = "Queries embedded by several clients at once"
_THINGS = "clients"
_STYLES = {"shared": (svg.SERIES, MARKS[0]), "alone": (svg.MUTED, MARKS[1])}


def shared_calls(record: RunRecord) -> list[Drawing]:
    """Draw the rates and the gain over the number of clients, where a run embedded queries by several."""
    rates = [
        Curve(calls, points, *style)
        for calls, style in _STYLES.items()
        if (points := counts.points(record, "query.batching.rate", _THINGS, calls=calls))
    ]
    gain = Curve("gain", counts.points(record, "query.batching.gain", _THINGS), svg.SERIES)
    if not (rates and gain.points):
        return []
    drawing = counts.draw(
        "batching",
        _TITLE,
        _caption(record),
        _THINGS,
        rates=Panel("queries embedded a second", rates),
        gains=Panel("rate in shared calls over alone", [gain]),
    )
    return [drawing]


def _caption(record: RunRecord) -> str:
    done = record.conditions.get("query.batching")
    parts = [f"{answer.printable(done)}."] if done else []
    parts.append(
        "The gain is the rate in shared calls over that alone, of the same queries in one process: above "
        f"1{units.RATIO} sharing is faster. Bars are 95% intervals, where the processes are enough for one."
    )
    return " ".join(parts)
