"""Part `known_answers`: figures known beforehand, through the code that every other figure comes from.

Service times of a made-up engine pass the timed loop under a virtual clock, become samples, a table, metrics.
Planted memory is read as a trial's own is; planted neighbours are judged as found ones are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench import metrics, trial
from bench.artifacts import Artifact
from bench.stats import samples_needed
from bench.suites.base import Experiment
from bench.suites.lab.planted import CASES, QUERIES, Planted, recall_argument
from bench.suites.memory import search
from bench.timing import time_each
from bench.trial import Measurement, Plan, Samples, Work

METRICS: tuple[str, ...] = ("lab.error",)
BOUND = 0.01  # relative error of a percentile that the number of samples may leave
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
_WARM_UP, _SLOWER = 500, 5.0  # operations before the rest, and how many times as long they take
_K = 10

Shares = npt.NDArray[np.float64]
Seconds = npt.NDArray[np.float64]


class Distribution(NamedTuple):
    """Service times: the seconds within which a share of the operations end, and their mean."""

    within: Callable[[Shares], Seconds]
    mean: float


def _lognormal(share: Shares) -> Seconds:
    from scipy import special

    return 0.002 * np.exp(0.5 * special.ndtri(share))


def _bimodal(share: Shares) -> Seconds:
    fast, slow = 0.001 + 0.001 * share / 0.7, 0.01 + 0.01 * (share - 0.7) / 0.3
    return np.where(share < 0.7, fast, slow)


DISTRIBUTIONS = {
    "exponential": Distribution(lambda share: -0.002 * np.log1p(-share), 0.002),
    "lognormal": Distribution(_lognormal, 0.002 * float(np.exp(0.5**2 / 2))),
    # Seven of ten answers take 1 to 2 ms, as a cache's, the others 10 to 20 ms.
    "bimodal": Distribution(_bimodal, 0.7 * 0.0015 + 0.3 * 0.015),
    "pareto": Distribution(lambda share: 0.001 * (1 - share) ** (-1 / 3), 0.0015),
}


def artifacts(experiment: Experiment) -> list[Artifact]:
    """None: it makes up what it measures."""
    return []


def plan(experiment: Experiment) -> Work:
    """Plan one process for all of them."""
    settings = experiment.config.suite.lab
    argument = {"planted_bytes": settings.planted_bytes, "scratch": str(experiment.store.scratch())}
    planted = f"{settings.planted_bytes:,} bytes planted in a fresh process"
    conditions = {f"lab.error.memory {kind}": planted for kind in ("anonymous", "file_backed", "peak")}
    for name, distribution in DISTRIBUTIONS.items():
        drawn = (
            f"{samples_for(distribution):,} service times, one from each equal share of the distribution, "
            f"after {_WARM_UP} that take {_SLOWER:g} times as long"
        )
        conditions |= {f"lab.error.percentile {name} {percentile}": drawn for percentile in PERCENTILES}
        conditions[f"lab.error.throughput {name}"] = drawn
    return Work(
        [Plan("lab", "known answers", "bench.suites.lab.known_answers:answer", argument)],
        conditions=conditions,
    )


def answer(argument: dict[str, Any]) -> Measurement:
    """In a child: how far off the lab is, one sample for each answer."""
    random = np.random.default_rng(argument["seed"])
    yield
    # Memory first: what is freed later could hold some of what is planted.
    errors = [*_memory(argument["planted_bytes"], Path(argument["scratch"])), *_recalls()]
    for name, distribution in DISTRIBUTIONS.items():
        errors += service_times(name, distribution, random)
    return trial.report(*errors)


def _error(measured: float, known: float, of: str, **labels: str) -> Samples:
    return Samples.of(abs(measured / known - 1), f"lab.error.{of}", **labels)


# --- timings -------------------------------------------------------------------------------------


class VirtualClock:
    """Seconds that pass only when they are spent."""

    def __init__(self) -> None:
        self._now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self._now

    def spend(self, seconds: float) -> None:
        """What the made-up engine does."""
        self._now += seconds


def draw(distribution: Distribution, count: int, random: np.random.Generator) -> Seconds:
    """`count` service times in random order, one from each of `count` equal shares of the distribution.

    Each has the distribution, and together they leave less to chance than independent ones (stratified
    sampling): a percentile is off by no more than two of the shares.
    """
    return distribution.within(random.permutation((np.arange(count) + random.random(count)) / count))


def samples_for(distribution: Distribution) -> int:
    """How many drawn service times keep every percentile within `BOUND` of the distribution's own.

    At least twice what the highest needs: half of a series, at most, is taken for warm-up and cut.
    """
    quantiles = np.array(list(PERCENTILES.values()))
    known = distribution.within(quantiles)
    count = 2 * samples_needed(float(quantiles.max()))
    while True:
        ends = [distribution.within(quantiles + 2 * side / count) for side in (-1, 1)]
        if max(np.abs(end / known - 1).max() for end in ends) <= BOUND:
            return count
        count *= 2


def service_times(name: str, distribution: Distribution, random: np.random.Generator) -> Iterator[Samples]:
    """How far the figures of a made-up engine are from what its distribution says they are."""
    clock = VirtualClock()
    warm_up = _SLOWER * draw(distribution, _WARM_UP, random)
    times = np.concatenate([warm_up, draw(distribution, samples_for(distribution), random)])
    samples = Samples("lab.service_time")
    for timed in time_each(clock.spend, times.tolist(), clock):
        samples.add(timed.seconds, timed.start)
    derived = _derived([samples])
    for percentile, quantile in PERCENTILES.items():
        known = float(distribution.within(np.array(quantile)))
        measured = derived[f"lab.service_time.{percentile}"]
        yield _error(measured, known, "percentile", distribution=name, percentile=percentile)
    yield _error(derived["lab.throughput"], 1 / distribution.mean, "throughput", distribution=name)


def _derived(series: Sequence[Samples]) -> Mapping[str, float]:
    """The metrics of one process by name, those without a value left out."""
    rows = [{"suite": "lab", "repeat": 0, **row} for samples in series for row in samples.rows]
    measured = metrics.derive(trial.frame(rows))
    return {metric.name: metric.value for metric in measured if metric.value is not None}


# --- memory --------------------------------------------------------------------------------------


def _memory(planted: int, scratch: Path) -> Iterator[Samples]:
    """Plant so many bytes of the process's own, then as many of a file's; nothing where no system says.

    The first is held until the end, so that the two make the peak.
    """
    before = trial.memory_by_kind()
    if not before:
        return
    block = np.ones(planted, np.uint8)
    yield _error(
        trial.memory_by_kind()["anonymous"] - before["anonymous"], planted, "memory", kind="anonymous"
    )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        file = Path(folder) / "planted"
        file.write_bytes(block.data)
        mapped = np.memmap(file, np.uint8, "r")
        mapped.sum()
        grown = trial.memory_by_kind()["file_backed"] - before["file_backed"]
        yield _error(grown, planted, "memory", kind="file_backed")
    yield _error(trial.peak_memory() - sum(before.values()), 2 * planted, "memory", kind="peak")


# --- recall --------------------------------------------------------------------------------------


def _recalls() -> Iterator[Samples]:
    """Search a stub that returns known neighbours, and judge it as an index is judged."""
    with tempfile.TemporaryDirectory() as folder:
        argument, queries = recall_argument(Path(folder))
        judge = search.Judge(argument, queries)
        for case, (found, known) in CASES.items():
            stub = Planted(found)
            settings = {"k": _K, "searches": QUERIES, "warmup": 0}
            singles = search.singles(stub, queries, np.arange(QUERIES), settings)
            derived = _derived([judge.singles(stub, singles)])
            for depth in ("10", "100"):
                off = abs(derived[f"memory.recall_at_{depth}"] - known)
                yield Samples.of(off, "lab.error.recall", case=case, k=depth)
