"""What comes to its limit first where a load is too much, by what evidence; where answers become worse."""

from __future__ import annotations

from collections.abc import Iterator

from bench.load import requests
from bench.load.requests import StepResult
from bench.stats import bootstrap_interval
from bench.suite_config import LoadObjective
from bench.suites.load.sending import Sent

_BUSY = 0.9  # share of what there is, from which on a part has hardly anything left


def first_missed(sent: Sent, objective: LoadObjective) -> int:
    """The number of the first step that counts and misses the objective, else of the last that counts."""
    missed = (number for number in sent.counted if _misses(sent.results[number], objective))
    return next(missed, sent.counted[-1])


def _misses(result: StepResult, objective: LoadObjective) -> bool:
    p95 = result.latency.p95
    late = p95 is not None and p95 > objective.p95  # None: too few requests, or too many that failed
    return late or result.in_flight.grows or result.error_rate > objective.errors


def saturated(sent: Sent, number: int, objective: LoadObjective, cores: int) -> str:
    """The first part that a step found at its limit, and what was seen of all; there are so many `cores`."""
    named = next(_at_their_limit(sent, number, objective, cores), "nothing that was watched is at its limit")
    name = sent.results[number].step.name
    return f"step {name}: {named} ({', '.join(_evidence(sent, number, cores))})"


def recall_drop(sent: Sent) -> str:
    """Where recall first falls below the first step's, by intervals apart from each other; empty: nowhere."""
    recalls = {number: [one.recall for one in sent.judged[number]] for number in sent.counted}
    intervals = [(number, found) for number in recalls if (found := bootstrap_interval(recalls[number]))]
    for number, found in intervals:
        first, best = intervals[0]
        if found.high < best.low:
            before, after = (sum(recalls[n]) / len(recalls[n]) for n in (first, number))
            return f"at step {sent.results[number].step.name}: {after:.3f} after {before:.3f}"
    return ""


def _at_their_limit(sent: Sent, number: int, objective: LoadObjective, cores: int) -> Iterator[str]:
    used, cpu = sent.used[number], sent.cpu(number, cores)
    if requests.doubt(sent.results[number], objective.p95, cpu):
        yield "the generator"
    if used is None:
        return
    if used.cpu + sent.generator[number] >= _BUSY * cores:
        yield "CPU"
    if used.loop >= _BUSY:
        yield "the service's event loop, one core"
    for agent, share in used.busy.items():
        if share >= _BUSY:
            yield f"the slots of {agent}, and the queue before them"


def _evidence(sent: Sent, number: int, cores: int) -> Iterator[str]:
    used = sent.used[number]
    if used is None:
        yield "the service is not the lab's to watch"
    else:
        yield f"service {used.cpu:.2f} of {cores} cores"
        yield f"its event loop {used.loop:.0%} of one"
        yield from (f"{agent} {share:.0%} busy" for agent, share in used.busy.items())
        yield f"{used.rejected:.0f} requests rejected by agents"
        if used.cache_hit_rate is not None:
            yield f"search cache {used.cache_hit_rate:.0%} hits"
    yield f"generator {sent.generator[number]:.2f} cores"
