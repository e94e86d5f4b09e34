"""The page: complete, escaped, self-contained, the same every time."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from bench import reports
from bench.errors import MeasurementError
from bench.record import RunRecord
from bench.reports import answer, html, units

VOID = {"meta", "br", "hr", "img", "link", "input"}
CSS = (Path(html.__file__).parent / "templates" / "style.css").read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page holds, and whether every element that opens also closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(record: RunRecord, samples: pd.DataFrame) -> Page:
    return Page(html.render(record, samples))


def test_the_answer_comes_first(page: Page, record: RunRecord) -> None:
    order = [answer.headline(record), "Valid, with notes.", "12.4 ms", "What was asked", "Average latency"]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)


def test_every_figure_is_shown_with_its_verdict_and_reason(page: Page, record: RunRecord) -> None:
    for verdict in record.verdicts:
        shown = [verdict.title, verdict.documented, verdict.metric, verdict.scenario, verdict.reason]
        assert all(words in page.text for words in shown)
    assert page.text.count("missing needs the suite agents") == 2
    assert "not proven the interval holds the documented figure" in page.text


def test_every_metric_is_shown_as_derived(page: Page, record: RunRecord) -> None:
    for metric in record.metrics:
        interval = units.interval(metric.value, metric.unit, metric.ci_low, metric.ci_high) or "none"
        row = f"{metric.name} {units.show(metric.value, metric.unit)} {interval} {metric.n:,}"
        assert row in page.text


def test_the_rest_of_the_record_is_there(page: Page, record: RunRecord) -> None:
    assert record.git is not None
    wanted = [
        *("load average 1.3", record.machine.cpu, record.dataset.sha256, record.git.commit),
        *(
            "uncommitted changes",
            "cache.embedding.hit_rate_target",
            "faiss-cpu 1.15.2",
            "libraries numpy 2.4.6, scipy 1.17.0",
        ),
        *("nprobe: 5", "10 of 10 processes ended well", answer.reproduce(record)),
    ]
    assert [words for words in wanted if words not in page.text] == []


def test_the_page_needs_nothing_but_itself(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(page.tags)
    assert all(reference.startswith(("#", "data:text/csv")) for reference in page.references)
    assert not re.search(r"url\(|@import", CSS)
    assert len(page.ids) == len(set(page.ids))
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)


def test_the_page_is_small(record: RunRecord, samples: pd.DataFrame) -> None:
    assert len(html.render(record, samples).encode()) < 1_000_000


def test_hostile_values_are_text(hostile: RunRecord, samples: pd.DataFrame) -> None:
    text = html.render(hostile, samples)
    page = Page(text)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name in page.attributes)
    assert "<script>alert('x')</script>" in page.text
    assert "\u202e" not in text
    assert "\x1b" not in text
    text.encode("utf-8")


@pytest.mark.parametrize("name", ["broken", "failed", "bare"])
def test_runs_with_less_in_them(name: str, samples: pd.DataFrame, request: pytest.FixtureRequest) -> None:
    page = Page(html.render(request.getfixturevalue(name), samples))
    assert not re.search(r"\b(nan|None|inf)\b", page.text)


def test_a_run_that_failed_says_why(failed: RunRecord, no_samples: pd.DataFrame) -> None:
    page = Page(html.render(failed, no_samples))
    assert "Not valid: do not judge the engine by this run." in page.text
    assert "killed: out of memory" in page.text
    assert "0 of 10 processes ended well" in page.text
    assert "Not drawn: Latency distributions, because the run holds no timed searches." in page.text


def test_numbers_that_are_none_are_named(broken: RunRecord, samples: pd.DataFrame) -> None:
    page = Page(html.render(broken, samples))
    assert "not a number" in page.text
    assert "infinity" in page.text
    assert "not measured" in page.text
    assert "not known: it did not run from a checkout" in page.text


def test_the_same_record_gives_the_same_bytes(
    record: RunRecord, samples: pd.DataFrame, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        assert reports.write(record, samples, folder) == folder / "report.html"
    for name in ("report.html", "report.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_folder_that_cannot_be_written_is_an_error(
    record: RunRecord, samples: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(MeasurementError, match="cannot be written"):
        reports.write(record, samples, tmp_path / "absent")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: str) -> None:
    blocks = re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[scheme == "dark"]))
    on_page = ["text", "muted", "link", "documented", "series", "pass", "miss", "not-proven"]
    on_page += [f"kind-{number}" for number in range(1, 7)]
    pairs = [(name, back) for name in on_page for back in ("page", "raised")]
    pairs += [(name, f"{name}-back") for name in ("pass", "miss", "not-proven", "missing")]
    poor = [pair for pair in pairs if _contrast(colours[pair[0]], colours[pair[1]]) < 4.5]
    assert poor == []


def _contrast(first: str, second: str) -> float:
    """The contrast ratio of WCAG 2.2."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_summary_loads_neither_models_nor_drawing() -> None:
    program = (
        "import sys, bench.reports, bench.reports.terminal\n"
        "print(sorted({'torch', 'faiss', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
