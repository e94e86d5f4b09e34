"""A load that was sent, as samples: one for each request, and a few for each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from bench.arrivals import Closed
from bench.load import requests
from bench.load.capacity import Probe
from bench.load.requests import Rows
from bench.suites.load.sending import Sent
from bench.suites.load.watched import Reading
from bench.trial import Samples

_OF_REQUESTS = (
    "load.request",
    "load.answers",
    "load.users",
    "load.in_flight",
)  # series that doubts are cast on


def labels(sent: Sent, number: int, name: str) -> dict[str, str]:
    """What tells a step's figures apart: the load, and the step where several count."""
    alone = {"load": name}
    return alone if len(sent.counted) == 1 else alone | {"step": sent.results[number].step.name}


def of_load(sent: Sent, name: str, ids: Sequence[str], cores: int) -> Iterator[Samples]:
    """All of a load; `ids` name what was asked."""
    for number, result in enumerate(sent.results):
        rows = sent.ran.rows[sent.ran.rows["step"] == number]
        if result.step.counted:
            yield _requests(rows, ids, "load.request", labels(sent, number, name))
            yield from _of_step(sent, number, labels(sent, number, name), ids, cores)
        else:
            yield _requests(rows, ids, "load.lead_in", {"load": name, "step": result.step.name})
    if sent.watched is not None:
        yield from _seen(sent.watched.readings, sent.ran.begin, name)


def _requests(rows: Rows, ids: Sequence[str], series: str, about: Mapping[str, str]) -> Samples:
    samples = Samples(series, **about)
    ended = np.array(requests.OUTCOMES)[requests.outcomes(rows)].tolist()
    columns = (rows[name].tolist() for name in ("intended", "start", "end", "status", "worker", "query"))
    for outcome, intended, start, end, status, worker, query in zip(ended, *columns, strict=True):
        samples.add(
            end - intended,
            intended,
            service_time=end - start,
            outcome=outcome,
            status=status,
            worker=worker,
            query=ids[query] if query >= 0 else None,
        )
    return samples


def _of_step(
    sent: Sent, number: int, about: Mapping[str, str], ids: Sequence[str], cores: int
) -> Iterator[Samples]:
    result, used = sent.results[number], sent.used[number]
    seconds = result.step.seconds
    answers, judged = Samples("load.answers", **about), Samples("load.sampled", **about)
    answers.add(seconds, items=round(result.throughput * seconds))
    for one in sent.judged[number]:
        judged.add(one.recall, query=ids[one.query], recall_at_10=one.recall)
    offered = result.sent if result.offered is None else result.offered
    single: dict[str, float | None] = {
        "load.offered": offered / seconds,
        "load.lateness": result.lateness,
        "load.in_flight": float(result.in_flight.requests.mean()),
        "load.generator_cpu": sent.generator[number] / cores,
    }
    if isinstance(sent.load, Closed):
        single["load.users"] = sent.load.users * (1 - result.error_rate)
    if used is not None:
        single |= {
            "load.cpu": used.cpu / cores,
            "load.memory": used.memory,
            "load.cache_hit_rate": used.cache_hit_rate,
        }
    yield answers
    yield judged
    for series, value in single.items():
        if value is not None:
            yield Samples.of(value, series, **about)


def _seen(readings: Sequence[Reading], begin: float, name: str) -> Iterator[Samples]:
    """What the service used from second to second: cores that were busy, and bytes of memory."""
    cpu, memory = (Samples("load.seen", load=name, of=of) for of in ("cpu", "memory"))
    for before, after in pairwise(readings):
        cpu.add((after.cpu - before.cpu) / (after.time - before.time), after.time - begin)
        memory.add(after.memory, after.time - begin)
    yield cpu
    yield memory


def of_probe(sent: Sent, probe: Probe, number: int, name: str, cores: int) -> Iterator[Samples]:
    """One measurement at a rate in a search for the capacity; `start` is its number."""
    (step,) = sent.counted
    result, used = sent.results[step], sent.used[step]
    about = {"load": name, "rate": f"{probe.rate:.6g}", "verdict": probe.verdict}
    found: dict[str, float | None] = {
        "p95": result.latency.p95,
        "p50": result.latency.p50,
        "service p95": result.service_time.p95,
        "errors": result.error_rate,
        "in flight": float(result.in_flight.requests.mean()),
        "generator": sent.generator[step] / cores,
        "cpu": None if used is None else used.cpu / cores,
        "memory": None if used is None else used.memory,
        "recall": sent.recall(step),
    }
    for of, value in found.items():
        if value is not None:
            samples = Samples("load.probe", **about, of=of)
            samples.add(value, number, items=result.sent)
            yield samples


def doubts(sent: Sent, name: str, objective: float, cores: int) -> dict[str, str]:
    """Why not to believe what the requests of a step say, in the same words for all processes."""
    cast: dict[str, str] = {}
    for number in sent.counted:
        result = sent.results[number]
        found = {
            "generator-limited: requests left late, or too few did": requests.doubt(
                result, objective, sent.cpu(number, cores)
            ),
            "no steady state: ever more requests were under way": result.in_flight.grows,
            "a process of the generator lost what it had last seen": sent.ran.torn,
        }
        if why := "; ".join(text for text, is_so in found.items() if is_so):
            of = " ".join(labels(sent, number, name).values())
            cast |= {f"{series} {of}": why for series in _OF_REQUESTS}
    return cast


def details(sent: Sent, objective: float, cores: int) -> list[str]:
    """By how much the generator of this process was late, or its service fell behind, step by step."""
    said = []
    for number in sent.counted:
        result = sent.results[number]
        if limited := requests.doubt(result, objective, sent.cpu(number, cores)):
            said.append(f"step {result.step.name}: {limited}")
        if result.in_flight.grows:
            said.append(f"step {result.step.name}: {result.in_flight.slope:.3g} more requests each second")
    return said
