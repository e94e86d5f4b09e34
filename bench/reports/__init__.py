"""What a run, or a sweep, says to people: a page, a comment for a pull request, a table in the terminal.

Each is a pure function of a `RunRecord` (and, for the figures, its samples), or of the records of a sweep:
the same records give the same bytes. `answer` and `sweep` hold what is said and `units` how values are
written, so that all three agree.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench.config import ObjectiveConfig
from bench.frontier import Failure
from bench.record import RunRecord, write_atomically
from bench.reports import sweep

if TYPE_CHECKING:
    import pandas as pd


def write(record: RunRecord, samples: pd.DataFrame, folder: Path) -> Path:
    """Write `report.md` and `report.html` into `folder`, each atomically; returns the page's path.

    Raises:
        MeasurementError: a file cannot be written.
    """
    from bench.reports import html, markdown  # they load matplotlib and jinja2, which a summary does without

    page = folder / "report.html"
    write_atomically(folder / "report.md", markdown.render(record).encode())
    write_atomically(page, html.render(record, samples).encode())
    return page


def write_sweep(
    runs: Sequence[tuple[Path, RunRecord]],
    folder: Path,
    objective: ObjectiveConfig,
    failures: Sequence[Failure] = (),
) -> Path:
    """Write `report.md`, `report.html`, `results.parquet` and `results.csv` of a sweep's runs into `folder`.

    `runs` are at least one run's folder and record, in the cells' order; `failures` are the cells without a
    record. Each file is written atomically; returns the page's path.

    Raises:
        MeasurementError: a file cannot be written.
    """
    from bench.reports import html, markdown, results

    made = sweep.over([record for _, record in runs], objective, failures)
    links = [quote(os.path.join(".", os.path.relpath(run, folder), "report.html")) for run, _ in runs]
    table, page = results.table(made), folder / "report.html"
    write_atomically(folder / "results.parquet", table.to_parquet(index=False))
    write_atomically(folder / "results.csv", results.as_csv(table).encode())
    write_atomically(folder / "report.md", markdown.render_sweep(made).encode())
    write_atomically(page, html.render_sweep(made, links).encode())
    return page
