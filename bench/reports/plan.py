"""What a run or sweep is about to do, for people and for programs."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from bench.reports import answer
from bench.reports.progress import lasting
from bench.sitting import Plan


def in_short(plan: Plan) -> str:
    """One line: cells, what has to be made and what is there, the time to expect."""
    cells = answer.count(len(plan.cells), "cell")
    finished = f" ({plan.finished} finished before)" if plan.finished else ""
    return f"plan: {cells} to measure{finished}; to make: {_things(plan.missing)}; {_time(plan)}"


def table(plan: Plan) -> RenderableType:
    """The plan whole: each cell by its own overrides, artifacts, trials, the time to expect."""
    common = set.intersection(*(set(cell.overrides) for cell in plan.cells)) if len(plan.cells) > 1 else set()
    cells = [" ".join(part for part in cell.overrides if part not in common) for cell in plan.cells]
    repeats = sorted({cell.config.trial.repeats for cell in plan.cells})
    lines = [
        *(f"{number:>5}  {answer.printable(own or 'as configured')}" for number, own in enumerate(cells, 1)),
        f"cells      {len(plan.cells)} to measure, {plan.finished} finished before",
        f"repeats    {' or '.join(map(str, repeats)) or 'none'} of each, in turns",
        f"there      {_things(plan.there)}",
        f"to make    {_things(plan.missing)}",
        f"time       {_time(plan)}",
    ]
    return Group(*map(Text, lines))


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for a program."""
    return {
        "cells": [cell.overrides for cell in plan.cells],
        "finished": plan.finished,
        "artifacts": {"there": plan.there, "missing": plan.missing},
        "seconds": plan.seconds,
    }


def _things(kinds: dict[str, int]) -> str:
    """Artifacts by kind: `indexes 2, truth 1`."""
    return ", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())) or "nothing"


def _time(plan: Plan) -> str:
    if not plan.cells:
        return "nothing to measure"
    if plan.seconds is None:
        return "time not known: nothing of the kind was done here before"
    return f"{lasting(plan.seconds)}, as the like took before"
