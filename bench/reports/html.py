"""The answer of a run or of a sweep as one self-contained page: no script, no network, all values escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from bench import stats
from bench.record import RunRecord
from bench.reports import answer, figures, side_by_side, sweep, tables, units
from bench.reports.figures import Drawing
from bench.reports.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd

_TEMPLATES = Path(__file__).parent / "templates"


def render(record: RunRecord, samples: pd.DataFrame) -> str:
    """Render a record and its samples; the same record gives the same page."""
    drawn = figures.draw(record, samples)
    return _template("report").render(
        record=record,
        tables=tables.tables(record),
        drawings=[drawing for drawing in drawn if isinstance(drawing, Drawing)],
        omitted=[drawing for drawing in drawn if not isinstance(drawing, Drawing)],
        failed=[trial for trial in record.trials if trial.status == "failed"],
        configuration=_yaml(record),
    )


def render_sweep(made: Sweep, links: Sequence[str]) -> str:
    """Render the cells of a sweep; `links` are the addresses of their own reports, in the records' order."""
    drawn = figures.draw_sweep(made)
    return _template("sweep").render(
        made=made,
        sweep=sweep,
        links=links,
        answering=side_by_side.answering(made),
        others=side_by_side.others(made),
        drawings=[drawing for drawing in drawn if isinstance(drawing, Drawing)],
        omitted=[drawing for drawing in drawn if not isinstance(drawing, Drawing)],
    )


def _template(name: str) -> Template:
    return _environment().get_template(f"{name}.html.j2")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {"plain": answer.plain, "data_uri": _data_uri}
    environment.globals |= {
        "answer": answer,
        "show": units.show,
        "interval": units.interval,
        "ratio_unit": units.RATIO,
        "samples_needed": stats.samples_needed,
        "least_processes": stats.LEAST_PROCESSES,
        # Both are this package's own files, and are put into the page as they are.
        "style": Markup((_TEMPLATES / "style.css").read_text("utf-8")),  # noqa: S704
        "svg": lambda drawing: Markup(drawing.svg),  # noqa: S704  matplotlib escaped what it was given
    }
    return environment


def _finalize(value: Any) -> Any:
    """Whatever the template prints: text loses what cannot be shown, markup stays."""
    if isinstance(value, Markup):
        return value
    return "none" if value is None else _printable_lines(str(value))


def _printable_lines(text: str) -> str:
    return "\n".join(answer.printable(line) for line in text.split("\n"))


def _yaml(record: RunRecord) -> str:
    plain = record.model_dump(mode="json", include={"experiment"})["experiment"]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _data_uri(csv: str) -> str:
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv.encode("utf-8")).decode("ascii")
