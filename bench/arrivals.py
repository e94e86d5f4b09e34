"""When the requests of a load are to start: schedules of an open load, steps of a closed one.

Times are seconds since the load's begin. A load is made of steps, stretches with one rate each; those that only
lead to the next, warm-ups and ramps, are not counted.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.errors import UsageError
from brein.settings import Settings

MOST = 10_000_000  # requests of a load: the row of each is held in memory

Times = npt.NDArray[np.float64]
StepNumbers = npt.NDArray[np.int16]


class Step(NamedTuple):
    """A stretch of a load from `begin` up to, but not including, `end`.

    `rate` is what arrives in a second, on average over the step; None in a closed load, where that follows from
    the answers.
    """

    name: str
    begin: float
    end: float
    rate: float | None
    counted: bool

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end - self.begin


@dataclass(frozen=True, eq=False)
class Schedule:
    """An open load: every request starts at its time, whatever became of those before.

    `starts` ascends, float64 (n,). `steps` follow one another from 0 on.
    """

    starts: Times
    steps: tuple[Step, ...]

    @property
    def seconds(self) -> float:
        """How long the load lasts."""
        return self.steps[-1].end

    def step_of(self, times: Times) -> StepNumbers:
        """The number of the step at each time, int16, of the shape of `times`; of the last, after its end."""
        return _step_of(self.steps, times)


def _step_of(steps: Sequence[Step], times: Times) -> StepNumbers:
    begins = np.array([step.begin for step in steps])
    return np.maximum(np.searchsorted(begins, times, side="right") - 1, 0).astype(np.int16)


# --- what a load is configured as ----------------------------------------------------------------


Rate = Annotated[float, Field(gt=0, le=1_000_000)]
Duration = Annotated[float, Field(gt=0, le=604_800)]
WarmUp = Annotated[float, Field(ge=0, le=86_400)]


class Stretch(NamedTuple):
    """Seconds in which the rate goes from `first` to `last`, requests a second, in a straight line."""

    name: str
    seconds: float
    first: float
    last: float
    counted: bool = True

    @property
    def requests(self) -> float:
        """How many arrive, on average."""
        return self.seconds * (self.first + self.last) / 2


class Rated(Settings):
    """Requests whose rate is stated for all times."""

    warm_up: WarmUp = Field(description="seconds at the rate of each step before they count")

    @property
    @abstractmethod
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""

    def _level(self, name: str, seconds: float, rate: float) -> Iterator[Stretch]:
        if self.warm_up:
            yield Stretch("warm-up", self.warm_up, rate, rate, counted=False)
        yield Stretch(name, seconds, rate, rate)

    @model_validator(mode="after")
    def _can_be_held(self) -> Rated:
        requests = sum(stretch.requests for stretch in self.stretches)
        if requests > MOST:
            raise ValueError(f"{requests:,.0f} requests, at most {MOST:,} can be held; lower rate or seconds")
        for stretch in self.stretches:
            if stretch.counted and stretch.requests < 1:
                raise ValueError(
                    f"no request comes in the {stretch.seconds:g} s of step {stretch.name!r}; raise its rate or "
                    "its seconds"
                )
        return self


class Constant(Rated):
    """Requests at even distances."""

    kind: Literal["constant"] = "constant"
    rate: Rate = Field(description="requests a second")
    seconds: Duration = Field(description="seconds that count")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""
        return tuple(self._level("constant", self.seconds, self.rate))


class Poisson(Rated):
    """Requests that know nothing of one another, as those of many people."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate = Field(description="requests a second, on average")
    seconds: Duration = Field(description="seconds that count")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""
        return tuple(self._level("poisson", self.seconds, self.rate))


class Ramp(Rated):
    """Poisson arrivals whose rate rises, or falls, in a straight line to one that is then held and counts."""

    kind: Literal["ramp"] = "ramp"
    first: float = Field(ge=0, le=1_000_000, description="requests a second when the ramp begins")
    rate: Rate = Field(description="requests a second when it ends, and after it")
    ramp: Duration = Field(description="seconds of the ramp, which do not count")
    seconds: Duration = Field(description="seconds that count, after the ramp")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""
        ramp = Stretch("ramp", self.ramp, self.first, self.rate, counted=False)
        return (ramp, *self._level("held", self.seconds, self.rate))


class Staircase(Rated):
    """Poisson arrivals at one rate after another, each a step of its own, after a warm-up at its own rate."""

    kind: Literal["steps"] = "steps"
    rates: tuple[Rate, ...] = Field(min_length=1, max_length=1000, description="requests a second, in order")
    seconds: Duration = Field(description="seconds of each rate that count")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""
        return tuple(
            stretch
            for number, rate in enumerate(self.rates, 1)
            for stretch in self._level(f"{number}: {rate:g}/s", self.seconds, rate)
        )


class Spike(Rated):
    """Poisson arrivals at a usual rate, all at once at a much higher one, then at the usual one again."""

    kind: Literal["spike"] = "spike"
    rate: Rate = Field(description="requests a second before and after the spike")
    peak: Rate = Field(description="requests a second in the spike")
    spike: Duration = Field(description="seconds of the spike")
    seconds: Duration = Field(description="seconds before it, and as many after it")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""
        return (
            *self._level("before", self.seconds, self.rate),
            Stretch("spike", self.spike, self.peak, self.peak),
            Stretch("after", self.seconds, self.rate, self.rate),
        )


class Soak(Rated):
    """Poisson arrivals at one rate for long, in equal parts, which show what changes with time."""

    kind: Literal["soak"] = "soak"
    rate: Rate = Field(description="requests a second")
    seconds: Duration = Field(description="seconds that count, over all parts")
    parts: int = Field(ge=2, le=1000, description="equal stretches of them, each a step")

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """The rate over time."""
        first, *rest = (f"part {number}" for number in range(1, self.parts + 1))
        seconds = self.seconds / self.parts
        parts = (Stretch(name, seconds, self.rate, self.rate) for name in rest)
        return (*self._level(first, seconds, self.rate), *parts)


class Replay(Settings):
    """Requests that come as those of a trace came."""

    kind: Literal["trace"] = "trace"
    path: Path = Field(description="a CSV file, a row for each request")
    column: str = Field(min_length=1, description="its column of times: seconds, or dates as in ISO 8601")
    speed: float = Field(
        gt=0, le=1_000_000, description="seconds of the trace that pass in a second of the load"
    )
    warm_up: WarmUp = Field(description="seconds of the load, from its begin, that do not count")
    seconds: Duration | None = Field(description="seconds that count; null: until the trace ends")


class Closed(Settings):
    """Users each of whom asks, waits for the answer, and asks again: after a pause, or keeping a pace."""

    kind: Literal["closed"] = "closed"
    users: int = Field(ge=1, le=100_000, description="users at once")
    think_time: float | None = Field(
        ge=0, le=86_400, description="seconds from an answer to the user's next request; null: they pace"
    )
    pacing: float | None = Field(
        gt=0,
        le=86_400,
        description="seconds from one intended start to the user's next, or until the answer where that takes "
        "longer; null: they think",
    )
    ramp_up: float = Field(
        ge=0, le=86_400, description="seconds in which the users begin, one after another; they do not count"
    )
    warm_up: WarmUp = Field(description="seconds that do not count, after all users have begun")
    seconds: Duration = Field(description="seconds that count")

    @model_validator(mode="after")
    def _think_or_pace(self) -> Closed:
        if (self.think_time is None) == (self.pacing is None):
            raise ValueError(
                f"think_time = {self.think_time}, pacing = {self.pacing}: give one of them, and null for the "
                "other"
            )
        return self

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its ramp-up and its warm-up, where it has them, and the step that counts."""
        parts = [("ramp-up", self.ramp_up), ("warm-up", self.warm_up), ("closed", self.seconds)]
        return _in_a_row((name, seconds, None, name == "closed") for name, seconds in parts if seconds)

    def step_of(self, times: Times) -> StepNumbers:
        """The number of the step at each time, int16, of the shape of `times`; of the last, after its end."""
        return _step_of(self.steps, times)


Arrivals = Annotated[
    Constant | Poisson | Ramp | Staircase | Spike | Soak | Replay, Field(discriminator="kind")
]
Load = Annotated[
    Constant | Poisson | Ramp | Staircase | Spike | Soak | Replay | Closed, Field(discriminator="kind")
]


# --- schedules -----------------------------------------------------------------------------------


def drawn(arrivals: Arrivals, seed: int) -> Schedule:
    """The schedule of an open load; the same for the same seed.

    Raises:
        UsageError: a trace cannot be read, or holds no such stretch.
    """
    raise NotImplementedError


def _in_a_row(parts: Iterator[tuple[str, float, float | None, bool]]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for name, seconds, rate, counted in parts:
        begin = steps[-1].end if steps else 0.0
        steps.append(Step(name, begin, begin + seconds, rate, counted))
    return tuple(steps)
