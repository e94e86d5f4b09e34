"""The service under load: from second to second, and over the rate of the requests."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from bench import stats
from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import (
    MARKS,
    Curve,
    Drawing,
    as_csv,
    bound_line,
    draw_curves,
    drawable,
    seconds_axis,
    stacked,
)

if TYPE_CHECKING:
    import pandas as pd

_REQUESTS, _LEAD_IN, _SEEN, _PROBE = "load.request", "load.lead_in", "load.seen", "load.probe"
_BINS = 40  # stretches of a load that are drawn
_LEAST_RATES = 3  # that make a curve
_PALE = 0.45  # of what is beside the line that counts

Array = npt.NDArray[np.float64]


class Line(NamedTuple):
    """Places, values and how they are drawn; a value that is NaN is left out."""

    name: str
    x: Array
    y: Array
    colour: str
    mark: str = MARKS[0]
    alpha: float = 1.0


class Panel(NamedTuple):
    """Lines under a title; `unit` is that of the values, "log" seconds on a log scale."""

    title: str
    unit: str
    lines: Sequence[Line]
    height: int = 90


# --- from second to second -----------------------------------------------------------------------------


def over_time(record: RunRecord, samples: pd.DataFrame) -> list[Drawing]:
    """Draw what the first process's requests went through from second to second, where a load was put."""
    rows = samples[samples["series"].isin((_REQUESTS, _LEAD_IN))]
    counted = rows[rows["series"] == _REQUESTS]
    if counted.empty or (samples["series"] == _PROBE).any():
        return []
    first = int(counted["repeat"].min())
    mine, steps = rows[rows["repeat"] == first], counted[counted["repeat"] == first]
    begins = sorted(float(group["start"].min()) for _, group in steps.groupby("labels"))
    seen = samples[(samples["series"] == _SEEN) & (samples["repeat"] == first)]
    seen = seen[seen["start"].between(mine["start"].min(), mine["start"].max())]
    panels = [*_of_requests(mine), *_of_service(seen)]
    caption = (
        "One process. Each mark is of the requests that were to start in one of "
        f"{_BINS} equal stretches; latency counts from then, service time from when it was sent. Lines "
        "down: where a step begins that counts; what is before the first does not. Requests without an "
        "answer have no latency and stand among the failed."
    )
    caption = " ".join([caption, *_findings(record)])
    title, objective = "The service under load, over time", _objective(record)
    return [_drawing("load-time", title, caption, panels, objective=objective, begins=begins)]


def _of_requests(rows: pd.DataFrame) -> Iterator[Panel]:
    start, latency = (rows[name].to_numpy(dtype=np.float64) for name in ("start", "value"))
    service = rows["service_time"].to_numpy(dtype=np.float64, na_value=np.nan)
    lost = ~rows["outcome"].isin(["answered", "degraded"]).to_numpy(dtype=np.bool_)
    edges = np.linspace(start.min(), max(start.max(), start.min() + 1e-9), _BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    place = np.clip(np.searchsorted(edges, start, side="right") - 1, 0, _BINS - 1)

    def each(values: Array, made: Any) -> Array:
        kept = [values[(place == number) & ~lost] for number in range(_BINS)]
        return np.array([made(one) if len(one) else np.nan for one in kept])

    yield Panel(
        "latency (log scale)",
        "log",
        [
            Line("slowest", middles, each(latency, np.max), svg.SERIES),
            Line("slowest service time", middles, each(service, np.max), svg.KINDS[1], MARKS[1]),
            Line("median", middles, each(latency, np.median), svg.SERIES, alpha=_PALE),
        ],
        130,
    )
    sent, ended = start + latency - service, start + latency
    under_way = [float(((sent <= at) & (ended > at)).sum()) for at in middles]
    yield Panel("requests under way", "", [Line("", middles, np.array(under_way), svg.SERIES)])
    width = edges[1] - edges[0]
    answered, failed = (np.bincount(place[chosen], minlength=_BINS) / width for chosen in (~lost, lost))
    yield Panel(
        "requests a second",
        "",
        [
            Line("answered", middles, answered, svg.SERIES),
            Line("failed", middles, failed, svg.MISS, MARKS[1]),
        ],
    )


def _of_service(seen: pd.DataFrame) -> Iterator[Panel]:
    for of, title, unit in (("cpu", "cores the service kept busy", ""), ("memory", "its memory", "B")):
        rows = seen[seen["labels"].map(lambda text, of=of: json.loads(text).get("of") == of)]
        if len(rows):
            x, y = (rows[name].to_numpy(dtype=np.float64) for name in ("start", "value"))
            yield Panel(title, unit, [Line("", x, y, svg.SERIES)])


# --- over the rate -------------------------------------------------------------------------------------


def against_load(record: RunRecord, samples: pd.DataFrame) -> list[Drawing]:
    """Draw latency and what goes with it over the rate, where at least three rates were offered."""
    found = _probes(samples) or _steps(samples)
    if len({rate for rate, _ in found}) < _LEAST_RATES:
        return []
    found = sorted(found, key=lambda one: one[0])
    rates = np.array([rate for rate, _ in found])

    def line(name: str, of: str, colour: str, mark: str = MARKS[0], alpha: float = 1.0) -> Line:
        values = np.array([values.get(of, np.nan) for _, values in found], dtype=np.float64)
        return Line(name, rates, values, colour, mark, alpha)

    panels = [
        Panel(
            "latency (log scale)",
            "log",
            [
                line("p95", "p95", svg.SERIES),
                line("p95 of service time", "service p95", svg.KINDS[1], MARKS[1]),
                line("p50", "p50", svg.SERIES, alpha=_PALE),
            ],
            140,
        ),
        Panel("requests under way, on average", "", [line("", "in flight", svg.SERIES)]),
        Panel(
            "of all cores, and of the requests",
            "share",
            [
                line("service", "cpu", svg.SERIES),
                line("generator", "generator", svg.KINDS[0], MARKS[1]),
                line("no answer", "errors", svg.MISS, MARKS[2]),
                line("recall@10", "recall", svg.KINDS[2], MARKS[3]),
            ],
            110,
        ),
        Panel("memory of the service", "B", [line("", "memory", svg.SERIES)]),
    ]
    parts = [
        "Each mark is one measurement at a rate; of all processes. Latency counts from when a request was to "
        "be sent. A percentile is left out where the requests do not carry it, or where it falls on one "
        "without an answer."
    ]
    parts += _findings(record)
    title, caption, objective = "Latency against load", " ".join(parts), _objective(record)
    return [_drawing("load-rate", title, caption, panels, objective=objective, over="rate")]


def _findings(record: RunRecord) -> list[str]:
    """What the processes say that they found: each by itself, or those that say the same together."""
    facts = [trial.facts for trial in record.trials]
    said = []
    for fact, title in (("capacity", "Capacity, by process"), ("recall_drops", "Recall drops")):
        if found := [str(each[fact]) for each in facts if fact in each]:
            said.append(f"{title}: {answer.printable('; '.join(found))}.")
    if limits := [str(each["saturates_first"]) for each in facts if "saturates_first" in each]:
        named = Counter(limit.partition(" (")[0] for limit in limits)
        each = "; ".join(f"{name} ({count} of {len(limits)} processes)" for name, count in named.items())
        evidence = limits[0].partition(" (")[2].removesuffix(")")
        said.append(answer.printable(f"At its limit first: {each}. The first process saw: {evidence}."))
    return said


def _probes(samples: pd.DataFrame) -> list[tuple[float, Mapping[str, float]]]:
    """The measurements of a search for the capacity: rate, and what was found."""
    found: dict[tuple[int, float], tuple[float, dict[str, float]]] = {}
    rows = samples[samples["series"] == _PROBE]
    for text, repeat, number, value in zip(
        rows["labels"], rows["repeat"], rows["start"], rows["value"], strict=True
    ):
        labels = json.loads(str(text))
        _, values = found.setdefault((int(repeat), float(number)), (float(labels["rate"]), {}))
        values[labels["of"]] = float(value)
    return list(found.values())


def _steps(samples: pd.DataFrame) -> list[tuple[float, Mapping[str, float]]]:
    """The steps of each process: the rate offered, and what was found."""
    single = {
        "load.in_flight": "in flight",
        "load.cpu": "cpu",
        "load.generator_cpu": "generator",
        "load.memory": "memory",
    }
    made: list[tuple[float, Mapping[str, float]]] = []
    if samples[samples["series"] == _REQUESTS]["labels"].nunique() < _LEAST_RATES:
        return made  # of each process's own rate alone
    for (_, repeat), rows in samples[samples["series"] == _REQUESTS].groupby(["labels", "repeat"]):
        labels = rows["labels"].iloc[0]
        beside = samples[(samples["labels"] == labels) & (samples["repeat"] == repeat)]
        offered = beside[beside["series"] == "load.offered"]["value"]
        if not len(offered):
            continue
        lost = ~rows["outcome"].isin(["answered", "degraded"]).to_numpy(dtype=np.bool_)
        values: dict[str, float] = {"errors": float(lost.mean())}
        for of, column, quantile in (
            ("p95", "value", 0.95),
            ("p50", "value", 0.5),
            ("service p95", "service_time", 0.95),
        ):
            times = rows[column].to_numpy(dtype=np.float64, na_value=np.nan)[~lost]
            if (percentile := stats.percentile(times, quantile, int(lost.sum()))) is not None:
                values[of] = percentile
        recalls = beside[beside["series"] == "load.sampled"]["recall_at_10"].dropna()
        if len(recalls):
            values["recall"] = float(recalls.mean())
        for series, of in single.items():
            if len(one := beside[beside["series"] == series]["value"]):
                values[of] = float(one.iloc[0])
        made.append((float(offered.iloc[0]), values))
    return made


# --- drawing -------------------------------------------------------------------------------------------


def _drawing(
    key: str,
    title: str,
    caption: str,
    panels: Sequence[Panel],
    *,
    objective: float | None,
    begins: Sequence[float] = (),
    over: str = "seconds",
) -> Drawing:
    panels = [panel for panel in panels if any(np.isfinite(line.y).any() for line in panel.lines)]
    with stacked(*(panel.height for panel in panels)) as (figure, axes):
        for panel, at in zip(panels, axes, strict=True):
            _draw(at, panel, objective if panel.unit == "log" else None)
            for begin in begins:
                at.axvline(begin, color=svg.MUTED, linewidth=0.8)
            at.tick_params(axis="x", labelbottom=at is axes[-1])
        _share_x(axes)
        axes[-1].set_xlabel("requests a second" if over == "rate" else "seconds since the load began")
        words = "; ".join(_in_words(panel) for panel in panels)
        drawn = svg.write(figure, key, title, f"{words}.")
    rows = [
        (float(f"{x:.6g}"), f"{panel.title} {line.name}".strip(), float(f"{y:.6g}"))
        for panel in panels
        for line in panel.lines
        for x, y in zip(line.x, line.y, strict=True)
        if math.isfinite(y)
    ]
    return Drawing(key, title, caption, drawn, as_csv((over, "line", "value"), rows))


def _draw(axes: Axes, panel: Panel, objective: float | None) -> None:
    draw_curves(axes, panel.title, [_key(line) for line in panel.lines if line.name])
    for line in panel.lines:
        there = np.isfinite(line.y)
        axes.plot(
            line.x[there], line.y[there], marker=line.mark, markersize=3, markeredgewidth=0, linewidth=1.2,
            color=line.colour, alpha=line.alpha,
        )  # fmt: skip
    if panel.unit == "log":
        if objective is not None:
            bound_line(axes, objective, f"objective {units.tick(objective, 's')}")
        values = (value for line in panel.lines for value in line.y[np.isfinite(line.y)].tolist())
        seconds_axis(axes, drawable(*values, objective))
    elif panel.unit == "share":
        axes.set_ylim(0, 1.08)
        axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, "")))
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: units.tick(value, "B") if panel.unit == "B" else f"{value:,.6g}")
        )


def _key(line: Line) -> Curve:
    """What names a line above its panel; the line is drawn by itself, as it has no intervals."""
    return Curve(line.name, (), line.colour, line.mark, line.alpha)


def _share_x(panels: Sequence[Axes]) -> None:
    low, high = (end([axes.get_xlim()[n] for axes in panels]) for n, end in enumerate((min, max)))
    for axes in panels:
        axes.set_xlim(low, high)


def _in_words(panel: Panel) -> str:
    """Where each line begins and ends."""
    said = []
    for line in panel.lines:
        there = np.flatnonzero(np.isfinite(line.y))
        if len(there):
            ends = (f"{_shown(line.y[at], panel.unit)} at {line.x[at]:.4g}" for at in (there[0], there[-1]))
            said.append(f"{line.name or panel.title} from {' to '.join(ends)}")
    return "; ".join(said)


def _shown(value: float, unit: str) -> str:
    if unit in ("log", "share", "B"):
        return units.show(value, {"log": "s", "share": ""}.get(unit, unit))
    return f"{value:.4g}"


def _objective(record: RunRecord) -> float | None:
    """What p95 is to keep to, in seconds."""
    found: Any = record.experiment
    for key in ("load", "objective", "p95"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, float) and drawable(found) else None
