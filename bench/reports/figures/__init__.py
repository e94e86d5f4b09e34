"""The figures of the reports. Each says what it shows in words, and gives its data as CSV.

A figure whose data is missing is left out with the reason; nothing is drawn from nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.record import RunRecord
from bench.reports.figures import ablation, stages, system
from bench.reports.figures.agents import under_load
from bench.reports.figures.baseline import beside_documented
from bench.reports.figures.batching import shared_calls
from bench.reports.figures.calibration import calibration
from bench.reports.figures.drawing import Drawing, Omitted
from bench.reports.figures.frontier import frontiers
from bench.reports.figures.ingestion import ingestion
from bench.reports.figures.latency import distributions, percentiles
from bench.reports.figures.load import against_load, over_time
from bench.reports.figures.memory import codes, parts
from bench.reports.figures.peers import peers
from bench.reports.figures.quality import qualities
from bench.reports.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd


def draw(record: RunRecord, samples: pd.DataFrame) -> list[Drawing | Omitted]:
    """Draw every figure the record and its samples have the data for."""
    return [
        beside_documented(record),
        *distributions(record, samples),
        percentiles(record),
        qualities(record, samples),
        parts(record),
        codes(record),
        ingestion(record, samples),
        *stages.of_run(record),
        *ablation.of_run(record),
        *calibration(record, samples),
        *shared_calls(record),
        *under_load(record),
        *system.side_by_side(record),
        *system.over_http(record),
        *over_time(record, samples),
        *against_load(record, samples),
        *peers(record),
    ]


def draw_sweep(made: Sweep) -> list[Drawing | Omitted]:
    """Draw every figure the cells of a sweep have the data for."""
    return [*frontiers(made), *stages.of_sweep(made), *ablation.of_sweep(made)]


__all__ = ["Drawing", "Omitted", "draw", "draw_sweep"]
