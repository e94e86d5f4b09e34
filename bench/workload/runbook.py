"""Runbooks: steps that insert, delete and search rows of a data set, checked before anything is made."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from bench.data_config import RunbookConfig, SearchStep
from bench.errors import UsageError


class Step(NamedTuple):
    """What is done, to the rows `start` up to, but not including, `end`; a search is of what is there."""

    operation: Literal["insert", "delete", "search"]
    start: int = 0
    end: int = 0


def steps(config: RunbookConfig, rows: int) -> list[Step]:
    """The runbook's steps, over a data set of so many rows; a share is rounded to the nearest row.

    Raises:
        UsageError: a step inserts what is there, deletes what is not, names rows that do not exist or none,
            or searches nothing; or none searches. The line names the step, counted from 1.
    """
    made = []
    there = np.zeros(rows, dtype=bool)
    for number, step in enumerate(config.steps, 1):
        where = f"runbook {config.name}, step {number}"
        if isinstance(step, SearchStep):
            if not there.any():
                raise UsageError(f"{where}: there is nothing to search; insert before it")
            made.append(Step("search"))
            continue
        start, end = (_row(bound, config.unit, rows, where) for bound in (step.start, step.end))
        if end <= start:
            raise UsageError(
                f"{where}: {step.operation} from {step.start:g} to {step.end:g} is no row of {rows:,}; give "
                "a larger end, or more data"
            )
        inserts = step.operation == "insert"
        wrong = start + np.flatnonzero(there[start:end] == inserts)
        if len(wrong):
            what = "inserts what is there already" if inserts else "deletes what is not there"
            raise UsageError(f"{where}: {what}, {len(wrong):,} rows from row {wrong[0]:,} on; mend its range")
        there[start:end] = inserts
        made.append(Step(step.operation, start, end))
    if not any(step.operation == "search" for step in made):
        raise UsageError(f"runbook {config.name}: no step searches; add one")
    return made


def _row(bound: float, unit: str, rows: int, where: str) -> int:
    if unit == "share":
        if bound > 1:
            raise UsageError(f"{where}: {bound:g} is not a share; give one of at most 1, or unit: row")
        return round(bound * rows)
    if not bound.is_integer() or bound > rows:
        raise UsageError(
            f"{where}: {bound:g} is not a row of {rows:,}; give a whole number of at most {rows}"
        )
    return int(bound)
