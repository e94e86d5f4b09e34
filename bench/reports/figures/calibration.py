"""The latency predicted of each query beside the measured one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter

from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import LEAST, MOST, Drawing, as_csv, axes_in, log_axis

if TYPE_CHECKING:
    import pandas as pd

_TITLE = "Predicted and measured latency"
_MOST_POINTS = 1_000


def calibration(record: RunRecord, samples: pd.DataFrame) -> list[Drawing]:
    """Draw every query whose latency was predicted, where there was any."""
    rows = samples[samples["series"] == "query.prediction"]
    times = rows[["value", "reference"]].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    rows = rows.iloc[np.flatnonzero(((times > LEAST) & (times < MOST)).all(axis=1))]
    if not len(rows):
        return []
    shown = _evenly(rows)
    with svg.canvas(372) as figure:
        axes = axes_in(figure, 52, 16, 24, 50)
        log_axis(axes, [*shown["reference"], *shown["value"]], "s", most=5)
        axes.set_yscale("log")
        axes.set_ylim(axes.get_xlim())
        axes.yaxis.set_major_locator(FixedLocator(list(axes.xaxis.get_majorticklocs())))
        axes.yaxis.set_minor_locator(FixedLocator([]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, "s")))
        axes.grid(color=svg.MUTED, alpha=0.2, linewidth=0.6)
        axes.plot(
            axes.get_xlim(), axes.get_xlim(), color=svg.DOCUMENTED, linewidth=1.2, linestyle=(0, (5, 3))
        )
        axes.plot(
            shown["reference"],
            shown["value"],
            "o",
            color=svg.SERIES,
            alpha=0.4,
            markersize=4,
            markeredgewidth=0,
        )
        axes.set_xlabel("predicted (log scale)")
        axes.set_title("measured (log scale)", loc="left", fontsize="medium", color=svg.MUTED)
        over = float((rows["reference"] > rows["value"]).mean())
        words = (
            f"{answer.count(len(rows), 'prediction')}, {units.show(over, '')} of them above what was measured"
        )
        drawn = svg.write(figure, "calibration", _TITLE, f"{words}. {_error(record)}")
    return [Drawing("calibration", _TITLE, _caption(record, len(rows), len(shown)), drawn, _csv(shown))]


def _evenly(rows: pd.DataFrame) -> pd.DataFrame:
    """At most so many rows, evenly by what was measured: the fastest and the slowest always."""
    ranked = rows.sort_values(["value", "repeat", "seq"])
    ranks = np.linspace(0, len(ranked) - 1, min(_MOST_POINTS, len(ranked))).round().astype(int)
    return ranked.iloc[np.unique(ranks)]


def _error(record: RunRecord) -> str:
    found = next(
        (m for m in record.metrics if m.name == "query.prediction.error" and m.value is not None), None
    )
    return f"The mean absolute percentage error is {answer.value(found)}." if found else ""


def _caption(record: RunRecord, predicted: int, drawn: int) -> str:
    parts = [
        f"{answer.count(predicted, 'prediction')}, each made before the query was asked, from earlier ones "
        "alone. On the dashed line the prediction is right; above it, the query took longer.",
        _error(record),
    ]
    if drawn < predicted:
        parts.append(f"{drawn:,} of them are drawn, the fastest and the slowest among them.")
    return " ".join(part for part in parts if part)


def _csv(shown: pd.DataFrame) -> str:
    rows = zip(shown["repeat"] + 1, shown["query"], shown["reference"], shown["value"], strict=True)
    return as_csv(
        ("process", "query", "predicted_seconds", "measured_seconds"),
        [(int(process), str(query), f"{a:.6g}", f"{b:.6g}") for process, query, a, b in rows],
    )
