"""What a run says to people: a page, a comment for a pull request, a table in the terminal.

Each is a pure function of a `RunRecord` (and, for the figures, its samples): the same record gives the same
bytes. `answer` holds what is said and `units` how values are written, so that all three agree.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.record import RunRecord, write_atomically

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
