"""Runbooks, resolved to rows and checked before anything is made."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench import config
from bench.data_config import ChangeStep, RunbookConfig, SearchStep
from bench.errors import UsageError
from bench.workload import runbook
from bench.workload.runbook import Step

SEARCH = SearchStep()
BOOKS = [
    config.RunbookConfig.model_validate(yaml.safe_load(path.read_text()), strict=False)
    for path in (config.CONF / "runbook").glob("*.yaml")
]


def change(operation, start, end):
    return ChangeStep(operation=operation, start=start, end=end)


def book(*steps, unit="share"):
    return RunbookConfig(name="made_up", unit=unit, steps=steps)


def test_shares_and_rows_name_the_same_steps():
    shares = book(change("insert", 0, 0.5), SEARCH, change("delete", 0.25, 0.5), SEARCH)
    rows = book(change("insert", 0, 50), SEARCH, change("delete", 25, 50), SEARCH, unit="row")
    expected = [Step("insert", 0, 50), Step("search"), Step("delete", 25, 50), Step("search")]
    assert runbook.steps(shares, 100) == runbook.steps(rows, 100) == expected


@given(st.sampled_from(BOOKS), st.integers(16, 10_000))
def test_every_runbook_of_ours_fits_data_of_any_size(ours, rows):
    steps = runbook.steps(ours, rows)
    there = set()
    for operation, start, end in steps:
        there = there | set(range(start, end)) if operation == "insert" else there - set(range(start, end))
    assert max(end for _, _, end in steps) == rows
    assert there


@pytest.mark.parametrize(
    ("steps", "unit", "named"),
    [
        ((SEARCH,), "share", "step 1: there is nothing to search"),
        (
            (change("delete", 0, 0.5), SEARCH),
            "share",
            "step 1: deletes what is not there, 50 rows from row 0 on",
        ),
        (
            (change("insert", 0, 0.5), change("insert", 0.4, 1), SEARCH),
            "share",
            "step 2: inserts what is there already, 10 rows from row 40 on",
        ),
        (
            (change("insert", 0, 0.5), change("delete", 0.1, 0.6), SEARCH),
            "share",
            "step 2: deletes what is not there, 10 rows from row 50 on",
        ),
        (
            (change("insert", 0, 9), change("delete", 0, 9), SEARCH),
            "row",
            "step 3: there is nothing to search; insert before it",
        ),
        ((change("insert", 0, 0.001), SEARCH), "share", "step 1: insert from 0 to 0.001 is no row of 100"),
        ((change("insert", 50, 50), SEARCH), "row", "step 1: insert from 50 to 50 is no row"),
        ((change("insert", 0, 101), SEARCH), "row", "step 1: 101 is not a row of 100"),
        ((change("insert", 0, 0.5), SEARCH), "row", "step 1: 0.5 is not a row of 100; give a whole number"),
        ((change("insert", 0, 50), SEARCH), "share", "step 1: 50 is not a share; .*unit: row"),
        ((change("insert", 0, 1),), "share", "runbook made_up: no step searches; add one"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_step(steps, unit, named):
    with pytest.raises(UsageError, match=named) as caught:
        runbook.steps(book(*steps, unit=unit), 100)
    assert "\n" not in str(caught.value)
