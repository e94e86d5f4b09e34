"""The highest rate at which a service meets an objective, and how sure that is.

Rates are requests a second. It is taken for granted that a service which meets the objective at one does so
at every lower one; a single measurement may err, on either side.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bench.load.requests import Cpu, StepResult, doubt
from bench.stats import samples_needed

Verdict = Literal["met", "missed", "generator-limited", "unsound"]

_LEAST = 1 / 64  # of the first rate: where not even this meets the objective, none is found
_ENOUGH = 2  # verdicts of one kind that settle a rate, of three at most
_FIT = ("met", "missed")  # verdicts on the service: only of these does a single one stand, for the time being


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
    at its rate is with probability p: 0.03 for 0.1. One that was not fit to judge the service is repeated at
    once. A rate is measured three times at most, and none between two that differ by `precision` or less, so
    the search ends, usually after some 16.

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
    return _answer(probes)


def _next_rate(probes: Sequence[Probe], start: float, most: float, precision: float) -> float | None:
    """Where to measure next; None where the answer stands."""
    if not probes:
        return min(start, most)
    found = _standing(probes)
    if undecided := [rate for rate, probe in found.items() if probe is None]:
        return undecided[0]
    low, high = _ends(found)
    # Where a rate has too few requests to judge, a lower one has fewer.
    unsound = any(probe and probe.verdict == "unsound" for probe in found.values())
    if low is None and high is not None and high / 2 >= start * _LEAST and not unsound:
        return high / 2
    if low is not None and high is None and low < most:
        return min(2 * low, most)
    if low is not None and high is not None and high > low * (1 + precision):
        return math.sqrt(low * high)
    rates = [probe.rate for probe in probes]
    unsure = [end for end in (low, high) if end is not None and rates.count(end) < _ENOUGH]
    return unsure[0] if unsure else None


def _standing(probes: Sequence[Probe]) -> dict[float, Probe | None]:
    """What stands of each rate, as the first measurement that says so; None where one more is needed."""
    at: dict[float, list[Probe]] = {}
    for probe in probes:
        at.setdefault(probe.rate, []).append(probe)
    return {rate: _decided(measured) for rate, measured in at.items()}


def _decided(measured: Sequence[Probe]) -> Probe | None:
    verdict, votes = Counter(probe.verdict for probe in measured).most_common(1)[0]
    if votes >= _ENOUGH or (len(measured) == 1 and verdict in _FIT):
        return next(probe for probe in measured if probe.verdict == verdict)
    if len(measured) <= _ENOUGH:
        return None
    return next(probe for probe in measured if probe.verdict not in _FIT)  # no two agree


def _ends(found: Mapping[float, Probe | None]) -> tuple[float | None, float | None]:
    """The highest rate that meets the objective, and the lowest that does not."""
    met = [rate for rate, probe in found.items() if probe and probe.verdict == "met"]
    others = [rate for rate, probe in found.items() if probe and probe.verdict != "met"]
    return max(met, default=None), min(others, default=None)


def _answer(probes: Sequence[Probe]) -> Capacity:
    found = _standing(probes)
    low, high = _ends(found)
    limit = None if high is None else found[high]
    if limit is None:
        return Capacity(low, None, "highest rate", "the highest rate that may be tried", tuple(probes))
    return Capacity(low, high, limit.verdict, limit.reason, tuple(probes))
