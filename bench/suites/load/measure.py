"""In a trial's process: a service is started, or found, and the load is put to it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import arrivals, trial
from bench.arrivals import Closed, Poisson
from bench.errors import MeasurementError
from bench.load import capacity
from bench.load.capacity import Capacity, Objective, Probe
from bench.machine import usable_cores
from bench.service import Service, serving
from bench.suite_config import LoadConfig
from bench.suites.load import samples, saturation
from bench.suites.load.cores import Cores, assigned
from bench.suites.load.sending import Sender, Sent
from bench.timing import time_each
from bench.trial import Measurement, Samples
from bench.workload.popularity import Stream

_MOST = 100_000.0  # requests a second that a search for the capacity may come to
# Asks every text in turn before such a search: else its first rates would meet caches that its last do not.
_FILLING = Closed(users=4, think_time=0.0, pacing=None, ramp_up=0.0, warm_up=0.0, seconds=20.0)


@dataclass(frozen=True)
class Outcome:
    """What was sent: a load alone, or a `capacity` with the measurements that led to it.

    `sent` is then the last of them at the capacity, or None where no rate met the objective.
    """

    sent: Sent | None
    capacity: Capacity | None = None
    probes: tuple[tuple[Probe, Sent], ...] = ()


def measure(argument: dict[str, Any]) -> Measurement:
    """In a child: start the service, then put the load to it, or one load after another."""
    settings = LoadConfig.read(argument["load"])
    cores = assigned(_usable(), settings.workers)
    with _target(argument, settings, cores) as (host, service):
        sender = _sender(argument, settings, host, service, cores)
        put = _seek if settings.search == "capacity" else _put
        yield
        outcome = time_each(lambda seed: put(sender, seed), [argument["seed"]])[0].given
    yield
    return _reported(outcome, settings, argument["ids"], cores)


def _usable() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(usable_cores()))


@contextmanager
def _target(
    argument: Mapping[str, Any], settings: LoadConfig, cores: Cores
) -> Iterator[tuple[str, Service | None]]:
    """The URL that requests go to, and the service behind it where it is the lab's own."""
    if settings.host is not None:
        yield settings.host, None
        return
    with serving(argument, cores=cores.service) as service:
        yield service.host, service


def _sender(
    argument: Mapping[str, Any], settings: LoadConfig, host: str, service: Service | None, cores: Cores
) -> Sender:
    texts, stream, seed = argument["texts"], argument["stream"], argument["seed"]
    key = None
    if settings.key_variable is not None and not (key := os.environ.get(settings.key_variable)):
        raise MeasurementError(
            f"load.key_variable = {settings.key_variable!r}: the variable is not set; set it"
        )
    return Sender(
        settings=settings,
        host=host,
        service=service,
        key=key,
        texts=texts,
        picks=Stream.read(stream).drawn(seed)
        if stream
        else np.random.default_rng(seed).permutation(len(texts)),
        exact=json.loads(Path(argument["exact"]).read_text()) if "exact" in argument else None,
        cores=cores,
        scratch=Path(argument["scratch"]),
    )


def _put(sender: Sender, seed: int) -> Outcome:
    """Put the load that is configured.

    Raises:
        MeasurementError: it came to no end, as the service did.
    """
    model = sender.settings.model
    sent = sender.send(model if isinstance(model, Closed) else arrivals.drawn(model, seed))
    if sent.ran.reason is not None:
        raise MeasurementError(f"the load ended early: {sent.ran.reason}")
    return Outcome(sent)


def _seek(sender: Sender, seed: int) -> Outcome:
    """Put one load after another, until the highest rate that meets the objective is found.

    Raises:
        MeasurementError: the service ended.
    """
    settings, model = sender.settings, sender.settings.model
    assert isinstance(model, Poisson)  # noqa: S101  as its validator says
    objective = Objective(settings.objective.p95, settings.objective.errors, settings.objective.recall)
    if sender.exact is None:
        objective = objective._replace(recall=None)
    probes: list[tuple[Probe, Sent]] = []
    replace(sender, picks=np.arange(len(sender.texts))).send(_FILLING)

    def probe(rate: float) -> Probe:
        load = arrivals.drawn(model.model_copy(update={"rate": rate}), seed + len(probes))
        sent = sender.send(load)
        probes.append((_judged(sent, rate, objective, sender), sent))
        return probes[-1][0]

    found = capacity.search(probe, model.rate, _MOST)
    there = [sent for one, sent in probes if one.rate == found.low and one.verdict == "met"]
    return Outcome(there[-1] if there else None, found, tuple(probes))


def _judged(sent: Sent, rate: float, objective: Objective, sender: Sender) -> Probe:
    """Whether a rate met the objective; where the service refused to take it, it did not."""
    if sent.ran.reason is not None:
        if sender.service is None or not sender.service.alive:
            raise MeasurementError(f"the load ended early, at {rate:.4g} requests/s: {sent.ran.reason}")
        return Probe(rate, "missed", sent.ran.reason)
    (number,) = sent.counted
    cpu = sent.cpu(number, sender.cores.count)
    return capacity.judged(sent.results[number], objective, sent.recall(number), cpu)._replace(rate=rate)


def _reported(outcome: Outcome, settings: LoadConfig, ids: list[str], cores: Cores) -> dict[str, Any]:
    """All of it as a trial's report: samples, doubts, and what saturates first."""
    name, count, sent = settings.name, cores.count, outcome.sent
    made: list[Samples] = []
    doubts: dict[str, str] = {}
    facts: dict[str, Any] = {"cores": cores.described}
    if sent is not None:
        made += samples.of_load(sent, name, ids, count)
        doubts |= samples.doubts(sent, name, settings.objective.p95, count)
        if detailed := samples.details(sent, settings.objective.p95, count):
            facts["doubted"] = detailed
    for number, (probe, probed) in enumerate(outcome.probes):
        made += samples.of_probe(probed, probe, number, name, count)
    if (found := outcome.capacity) is not None:
        made.append(Samples.of(found.low or 0.0, "load.capacity", load=name))
        facts["capacity"] = found.described
        if found.value is None:
            doubts["load.capacity"] = found.described
    too_much, step = _too_much(outcome, settings)
    if sent is not None and (drop := saturation.recall_drop(sent)):
        facts["recall_drops"] = drop
    facts["saturates_first"] = saturation.saturated(too_much, step, settings.objective, count)
    return trial.report(*made, doubts=doubts, **facts)


def _too_much(outcome: Outcome, settings: LoadConfig) -> tuple[Sent, int]:
    """Where the service was asked for more than it can: the lowest such rate, else the highest there was."""
    if outcome.sent is not None and outcome.capacity is None:
        return outcome.sent, saturation.first_missed(outcome.sent, settings.objective)
    missed = [one for one in outcome.probes if one[0].verdict != "met"]
    by_rate = sorted(missed or outcome.probes, key=lambda one: one[0].rate)
    _, sent = by_rate[0] if missed else by_rate[-1]
    return sent, sent.counted[0]
