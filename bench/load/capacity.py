"""The highest rate at which a service meets an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.load.requests import Cpu, StepResult

Verdict = Literal["met", "missed", "generator-limited", "unsound"]


class Objective(NamedTuple):
    """What is asked of a service: seconds of p95 of latency, share of failures, recall@10; None: not asked."""

    p95: float
    errors: float
    recall: float | None


class Probe(NamedTuple):
    """One measurement at a rate, requests a second: its verdict, and why where it is not `met`."""

    rate: float
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Capacity:
    """What a search found, requests a second.

    `low` is the highest rate that met the objective, None where none did; `high` the lowest above it that did
    not, None where none was tried. `limit` says what `high` ran into: only "missed" makes `low` a capacity.
    """

    low: float | None
    high: float | None
    limit: Verdict | Literal["most"]
    reason: str
    probes: tuple[Probe, ...]


def judged(result: StepResult, objective: Objective, recall: float | None, cpu: Cpu) -> Probe:
    """The verdict on a counted step of an open load."""
    raise NotImplementedError


def search(
    measure: Callable[[float], Probe], start: float, most: float, precision: float = 0.02
) -> Capacity:
    """Search for the highest rate at which `measure` says met, up to `most`, beginning at `start`."""
    raise NotImplementedError
