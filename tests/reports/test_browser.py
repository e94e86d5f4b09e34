"""The page in a real browser: every width and theme, no error, no request, nothing cut off."""

from pathlib import Path
from typing import Literal

import pandas as pd
import pytest
from playwright.sync_api import Browser

from bench import reports
from bench.config import ObjectiveConfig
from bench.record import RunRecord

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["record", "hostile", "broken", "failed", "bare", "sweep"])
def page_path(
    samples: pd.DataFrame, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sweep":
        names = ["record", "hostile", "broken", "failed", "bare"]
        runs = [(folder / name, request.getfixturevalue(name)) for name in names]
        return reports.write_sweep(runs, folder, ObjectiveConfig(recall=0.9, p95=1e-4, memory=None))
    record: RunRecord = request.getfixturevalue(request.param)
    return reports.write(record, samples, folder)


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_clean(
    browser: Browser, page_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth") <= width
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert asked == [page_path.as_uri()]
    context.close()


def test_the_data_of_a_figure_downloads(
    browser: Browser, record: RunRecord, samples: pd.DataFrame, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto(reports.write(record, samples, tmp_path).as_uri())
    with page.expect_download() as download:
        page.locator("figure.ingestion a[download]").click()
    assert download.value.suggested_filename == "ingestion.csv"
    assert Path(download.value.path()).read_text().startswith("process,documents/s\n1,")
    page.close()


def test_the_keyboard_reaches_the_figures_table_first(
    browser: Browser, record: RunRecord, samples: pd.DataFrame, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.goto(reports.write(record, samples, tmp_path).as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the documented figures"
    page.keyboard.press("Enter")
    assert page.url.endswith("#documented")
    page.close()
