"""The memory suite's sizes: what an index holds, and what the bits of a code buy."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.metrics import Measured
from bench.record import RunRecord
from bench.reports import answer, svg, units
from bench.reports.figures.drawing import GUTTER, LEAST, MOST, Drawing, Omitted, as_csv, axes_in, without_y

_PLACES = {
    "memory.index.bytes_per_vector": "in memory",
    "memory.index.disk_bytes_per_vector": "on disk",
}
_SHADES = (0.9, 0.6, 0.4, 0.25, 0.15)  # of one bar's parts, the largest first
_LINE = 17  # pixels of a line of the legend


def parts(record: RunRecord) -> Drawing | Omitted:
    """Draw the bytes of a vector as one bar for each place, its parts beside each other."""
    title = "Index size per vector, by part"
    bars = {place: _parts(record, name) for name, place in _PLACES.items()}
    bars = {place: sizes for place, sizes in bars.items() if sizes}
    if not bars:
        return Omitted(title, "the run weighed no index")
    height = sum(58 + _LINE * len(sizes) for sizes in bars.values())
    with svg.canvas(height + 46) as figure:
        axes = axes_in(figure, GUTTER, 24, 6, 46)
        axes.set_xlim(0, max(sum(sizes.values()) for sizes in bars.values()))
        axes.set_ylim(height, 0)
        top = 0
        for place, sizes in bars.items():
            _bar(axes, top, place, sizes)
            top += 58 + _LINE * len(sizes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value, "B")))
        axes.locator_params(axis="x", nbins=4)
        axes.set_xlabel("bytes per vector")
        without_y(axes)
        rows = [(place, part, size) for place, sizes in bars.items() for part, size in sizes.items()]
        words = "; ".join(f"{part} {place} {units.show(size, 'B')}" for place, part, size in rows)
        drawn = svg.write(figure, "parts", title, f"{words}.")
    return Drawing(
        key="parts",
        title=title,
        caption="What the index holds, divided by the number of its vectors. Of what is on disk, the system "
        "keeps in memory what it sees fit.",
        svg=drawn,
        csv=as_csv(("place", "part", "bytes"), rows),
    )


def _parts(record: RunRecord, name: str) -> dict[str, float]:
    """Bytes of a vector by part, the largest first."""
    sizes = {
        answer.printable(metric.labels["part"]): metric.value
        for metric in record.metrics
        if metric.name == name and "part" in metric.labels and metric.value and LEAST < metric.value < MOST
    }
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def _bar(axes: Axes, top: int, place: str, sizes: dict[str, float]) -> None:
    across = axes.get_yaxis_transform()
    total = sum(sizes.values())
    axes.text(0, top + 16, place, transform=across, weight="bold")
    axes.text(1, top + 16, units.show(total, "B"), transform=across, ha="right", weight="bold")
    starts = [0.0, *accumulate(sizes.values())]
    for number, (part, size) in enumerate(sizes.items()):
        shade = _SHADES[min(number, len(_SHADES) - 1)]
        style: dict[str, Any] = {"color": svg.SERIES, "alpha": shade, "linewidth": 0}
        axes.barh(top + 32, size, left=starts[number], height=20, **style)
        line = top + 54 + _LINE * number
        axes.plot([0.012], [line], "s", markersize=8, transform=across, clip_on=False, **style)
        said = f"{part} {units.show(size, 'B')}, {units.show(size / total, '')}"
        axes.text(0.045, line, answer.printable(said), transform=across, va="center")


def codes(record: RunRecord) -> Drawing | Omitted:
    """Draw recall against bytes of the scalar codes: of vectors, and of what their centroids leave over."""
    title = "What residual coding buys"
    lines = {of: _coded(record, of) for of in ("vectors", "residuals")}
    if not all(lines.values()):
        return Omitted(title, "the run coded no vectors")
    with svg.canvas(230) as figure:
        axes = axes_in(figure, 50, 60, 14, 46)
        _code_line(axes, lines["vectors"], name="of vectors", colour=svg.DOCUMENTED, mark="s")
        _code_line(axes, lines["residuals"], name="of residuals", colour=svg.SERIES, mark="o")
        low = min(recall for line in lines.values() for _, recall, _ in line)
        axes.set_ylim(max(0.0, low - 0.15 * (1 - low) - 0.005), 1 + 0.12 * (1 - low) + 0.002)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: units.tick(share, "")))
        axes.locator_params(nbins=5)
        axes.set_xlabel("bytes per vector")
        axes.grid(color=svg.MUTED, alpha=0.25, linewidth=0.6)
        rows = [(qtype, of, size, recall) for of, line in lines.items() for size, recall, qtype in line]
        words = "; ".join(
            f"{qtype} of {of} {units.show(recall, '')} in {units.show(size, 'B')}"
            for qtype, of, size, recall in rows
        )
        drawn = svg.write(figure, "codes", title, f"Recall@10 of exact search over codes: {words}.")
    return Drawing(
        key="codes",
        title=title,
        caption="Recall@10 of exact search over what codes of 4, 6 and 8 bits a component decode to. A "
        "residual is what a vector's nearest centroid leaves over; its code takes one byte more.",
        svg=drawn,
        csv=as_csv(("qtype", "of", "bytes_per_vector", "recall_at_10"), rows),
    )


def _coded(record: RunRecord, of: str) -> list[tuple[float, float, str]]:
    """Bytes, recall and type of each code, the smallest first."""
    by_type: dict[str, dict[str, Measured]] = {}
    for metric in record.metrics:
        if metric.name.startswith("memory.coding.") and metric.labels.get("of") == of:
            by_type.setdefault(metric.labels.get("qtype", ""), {})[metric.name] = metric
    found = []
    for qtype, metrics in by_type.items():
        size, recall = (
            metrics[name].value if name in metrics else None
            for name in ("memory.coding.bytes_per_vector", "memory.coding.recall_at_10")
        )
        if size is not None and recall is not None and LEAST < size < MOST and 0 <= recall <= 1:
            found.append((size, recall, answer.printable(qtype)))
    return sorted(found)


def _code_line(
    axes: Axes, line: list[tuple[float, float, str]], *, name: str, colour: str, mark: str
) -> None:
    sizes, recalls, _ = zip(*line, strict=True)
    axes.plot(sizes, recalls, marker=mark, markersize=6, color=colour, linewidth=1.5)
    axes.annotate(
        name, line[0][:2], (6, -12), textcoords="offset points", va="center", color=colour, weight="bold"
    )
