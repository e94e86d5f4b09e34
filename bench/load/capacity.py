"""The highest rate at which a service meets an objective, and how sure that is.

Rates are requests a second. It is taken for granted that a service which meets the objective at one does so
at every lower one; a single measurement may err, on either side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.load.requests import Cpu, StepResult, doubt
from bench.stats import samples_needed

Verdict = Literal["met", "missed", "generator-limited", "unsound"]

_LEAST = 1 / 64  # of the first rate: where not even this meets the objective, none is found
_ENOUGH = 2  # verdicts of one kind that settle a rate, of three at most


class Objective(NamedTuple):
    """What is asked of a service: seconds of p95, at most; share of failures, at most; recall@10, at least.

    `recall` is None where none is asked.
    """

    p95: float
    errors: float
    recall: float | None


class Probe(NamedTuple):
    """One measurement at a rate: its verdict, and why, where it is not `met`."""

    rate: float
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Capacity:
    """What a search found.

    `low` is the highest rate that met the objective, None where none did; `high` the next above it that did
    not, None where all did up to the highest allowed. `limit` is what `high` ran into: only where it is
    `missed` is `low` a capacity. `probes` are in the order they were made.
    """

    low: float | None
    high: float | None
    limit: Verdict | Literal["highest rate"]
    reason: str
    probes: tuple[Probe, ...]

    @property
    def value(self) -> float | None:
        """The capacity; None where something other than the objective ended the search."""
        return self.low if self.limit == "missed" else None

    @property
    def described(self) -> str:
        """The answer in words."""
        if self.low is None:
            return f"none found: at {self.high:.4g} requests/s, {self.reason}"
        if self.value is None:
            return f"at least {self.low:.4g} requests/s: {self.reason}"
        return f"{self.low:.4g} requests/s, below {self.high:.4g}: {self.reason}"


def judged(result: StepResult, objective: Objective, recall: float | None, cpu: Cpu) -> Probe:
    """The verdict on a counted step of an open load; `recall` is that of its answers, None where not seen.

    A generator that could not keep up comes first: what it did not send says nothing of the service.
    """
    rate = result.step.rate
    if rate is None:
        raise ValueError(f"step {result.step.name!r} is of a closed load, which has no rate to judge")
    if limited := doubt(result, objective.p95, cpu):
        return Probe(rate, "generator-limited", limited)
    if unsound := _unsound(result, objective, recall):
        return Probe(rate, "unsound", unsound)
    missed = "; ".join(_missed(result, objective, recall))
    return Probe(rate, "missed" if missed else "met", missed)


def _unsound(result: StepResult, objective: Objective, recall: float | None) -> str:
    if result.sent < (needed := samples_needed(0.95)):
        return f"{result.sent:,} requests do not carry a p95: at least {needed:,} do; raise seconds"
    if objective.recall is not None and recall is None:
        return "a recall is asked for, but no answers were kept to see it; sample some"
    return ""


def _missed(result: StepResult, objective: Objective, recall: float | None) -> list[str]:
    """What of the objective a step does not meet."""
    found, p95, in_flight = [], result.latency.p95, result.in_flight
    if p95 is None:
        found.append("p95 falls on a request that failed")
    elif p95 > objective.p95:
        found.append(f"p95 is {1000 * p95:.4g} ms, at most {1000 * objective.p95:.4g} ms is the objective")
    if result.error_rate > objective.errors:
        found.append(f"{result.error_rate:.3%} of the requests failed, at most {objective.errors:.3%} may")
    if objective.recall is not None and recall is not None and recall < objective.recall:
        found.append(f"recall@10 is {recall:.4f}, at least {objective.recall:g} is the objective")
    if in_flight.grows:
        found.append(f"ever more requests are under way, {in_flight.slope:.3g} more each second")
    return found


def search(measure: Callable[[float], Probe], start: float, most: float, precision: float = 0.02) -> Capacity:
    """Find the highest rate that meets the objective: double from `start`, bisect, make sure of both ends.

    Each end of the answer was measured at least twice, and counts as two of three measurements say; where it
    does not hold, the search goes on from there. It is wrong with probability p²(3 − 2p), where a measurement
    at its rate is with probability p: 0.03 for 0.1. A rate is measured three times at most, and none between
    two that differ by `precision` or less, so the search ends, usually after some 16.

    Args:
        measure: measures at a rate.
        start: the first rate; halved where it does not meet the objective, down to a 64th, or until too few
            requests are left to judge.
        most: the highest rate to try.
        precision: how far apart the ends may be, as a share of the lower one.
    """
    probes: list[Probe] = []
    while rate := _next_rate(probes, start, most, precision):
        probes.append(measure(rate)._replace(rate=rate))  # whose schedule may round it
    return _found(probes)


def _next_rate(probes: Sequence[Probe], start: float, most: float, precision: float) -> float | None:
    """Where to measure next; None where the answer stands."""
    if not probes:
        return min(start, most)
    if tied := [rate for rate in _rates(probes) if _balance(probes, rate) == 0]:
        return tied[0]
    low, high = _ends(probes)
    unsound = any(probe.verdict == "unsound" for probe in probes)  # fewer requests are no sounder
    if low is None and high is not None and high / 2 >= start * _LEAST and not unsound:
        return high / 2
    if low is not None and high is None and low < most:
        return min(2 * low, most)
    if low is not None and high is not None and high > low * (1 + precision):
        return math.sqrt(low * high)
    unsure = [end for end in (low, high) if end is not None and len(_at(probes, end)) < _ENOUGH]
    return unsure[0] if unsure else None


def _ends(probes: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The highest rate that meets the objective, and the lowest that does not."""
    met = [rate for rate in _rates(probes) if _balance(probes, rate) > 0]
    others = [rate for rate in _rates(probes) if _balance(probes, rate) < 0]
    return max(met, default=None), min(others, default=None)


def _rates(probes: Sequence[Probe]) -> set[float]:
    return {probe.rate for probe in probes}


def _at(probes: Sequence[Probe], rate: float) -> list[Probe]:
    return [probe for probe in probes if probe.rate == rate]


def _balance(probes: Sequence[Probe], rate: float) -> int:
    """Measurements at a rate that met the objective, less those that did not."""
    return sum(1 if probe.verdict == "met" else -1 for probe in _at(probes, rate))


def _found(probes: Sequence[Probe]) -> Capacity:
    low, high = _ends(probes)
    if high is None:
        reason = "the highest rate that may be tried"
        return Capacity(low, None, "highest rate", reason, tuple(probes))
    against = [probe for probe in _at(probes, high) if probe.verdict != "met"]
    # One measurement that was not fit to judge the service is enough not to blame the service.
    limit = next((probe for probe in against if probe.verdict != "missed"), against[-1])
    return Capacity(low, high, limit.verdict, limit.reason, tuple(probes))
