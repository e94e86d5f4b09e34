"""The results of a sweep as one tidy table, for anybody's own analysis: a row for each cell and metric."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bench.metrics import label_text
from bench.reports import sweep as sweeps
from bench.reports.sweep import Sweep

if TYPE_CHECKING:
    import pandas as pd

# The columns after the cell's own overrides, which stand between `run` and `suite`.
_COLUMNS = {
    "metric": "string",
    "unit": "string",
    "better": "string",
    "labels": "string",
    "value": "Float64",
    "ci_low": "Float64",
    "ci_high": "Float64",
    "n": "Int64",
    "repeats": "Int64",
    "reason": "string",
    "unfit_because": "string",
    "valid": "boolean",
    "invalid_because": "string",
    "frontiers": "string",
}


def table(sweep: Sweep) -> pd.DataFrame:
    """One row for each cell and metric, in the order of both.

    Columns: `cell` (from 1), `run`, one for each override that differs between cells (its key, without the
    signs before it), then those of `_COLUMNS`. `labels` is a JSON object, `frontiers` the frontiers the cell
    is on. A cell without metrics, or without a record, has one row all the same, where it says why.
    """
    import pandas as pd

    keys = dict.fromkeys(key for own in _own(sweep) for key in own)
    columns = {"cell": "Int64", "run": "string"} | dict.fromkeys(keys, "string") | _COLUMNS
    return pd.DataFrame([*_rows(sweep)], columns=list(columns)).astype(columns)


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV in UTF-8: text that a spreadsheet would take for a formula has a ' before it."""
    from bench.reports.figures import drawing

    rows = table.astype(object).where(table.notna(), None).itertuples(index=False, name=None)
    return drawing.as_csv(list(table.columns), rows)


def _own(sweep: Sweep) -> list[dict[str, str]]:
    """The own overrides of each cell, those that failed last, by key."""
    cells = [*(point.own for point in sweep.points), *(own for own, _ in sweeps.failed(sweep))]
    return [dict(_split(override) for override in own) for own in cells]


def _split(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value


def _rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    own = _own(sweep)
    for point, overrides in zip(sweep.points, own, strict=False):
        record = sweep.record(point)
        cell = overrides | {
            "cell": point.cell,
            "run": record.run_id,
            "valid": point.valid,
            "invalid_because": "; ".join(record.validity.reasons),
            "frontiers": "; ".join(sweeps.marks(sweep, point)),
        }
        for metric in record.metrics:
            yield {
                **cell,
                **metric.model_dump(exclude={"name", "labels", "reasons"}),
                "metric": metric.name,
                "labels": label_text(metric.labels),
                "unfit_because": "; ".join(metric.reasons),
            }
        if not record.metrics:
            yield cell
    failed = enumerate(sweep.failures, start=len(sweep.points) + 1)
    for (cell_number, failure), overrides in zip(failed, own[len(sweep.points) :], strict=True):
        yield overrides | {"cell": cell_number, "valid": False, "invalid_because": failure.reason}
