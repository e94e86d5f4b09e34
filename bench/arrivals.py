"""When the requests of a load are to start: schedules of an open load, steps of a closed one.

Times are seconds since the load's begin. A load is made of steps, stretches of one rate each; those that only
lead to the next, warm-ups and ramps, are not counted.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.errors import UsageError, one_line
from brein.settings import Settings

MOST = 10_000_000  # requests of a load: the row of each is held in memory
_ENCODING = "utf-8-sig"  # UTF-8, also with the mark that spreadsheets put before it
_CLOCK = 1e-6  # seconds: more than times lose that were added to a clock's, and taken from it again

Times = npt.NDArray[np.float64]
StepNumbers = npt.NDArray[np.int16]


class Step(NamedTuple):
    """A stretch of a load from `begin` up to, but not including, `end`.

    `rate` is what arrives in a second, on average over the step; None in a closed load, where that follows
    from the answers.
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
    def end(self) -> float:
        """When the load ends: nothing starts from then on."""
        return self.steps[-1].end

    def step_of(self, times: Times) -> StepNumbers:
        """The number of the step at each time, int16, of the shape of `times`; of the last, after its end."""
        return _step_of(self.steps, times)


def _step_of(steps: Sequence[Step], times: Times) -> StepNumbers:
    begins = np.array([step.begin for step in steps])
    return np.maximum(np.searchsorted(begins, times + _CLOCK, side="right") - 1, 0).astype(np.int16)


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
        return self.seconds * self.rate

    @property
    def rate(self) -> float:
        """Requests a second, on average."""
        return (self.first + self.last) / 2


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
                    f"no request comes in the {stretch.seconds:g} s of step {stretch.name!r}; raise its "
                    "rate or its seconds"
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
        digits = len(str(self.parts))
        first, *rest = (f"part {number:0{digits}}" for number in range(1, self.parts + 1))
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
        description="seconds from one intended start to the user's next, or until the answer where that "
        "takes longer; null: they think",
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

    @property
    def end(self) -> float:
        """When the load ends: no user asks from then on."""
        return self.steps[-1].end

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

    Poisson arrivals have their mean number in every stretch: see `poisson`.

    Raises:
        UsageError: a trace cannot be read, or is shorter than what is to be replayed of it.
    """
    if isinstance(arrivals, Replay):
        return _replayed(arrivals)
    stretches = arrivals.stretches
    steps = _in_a_row((each.name, each.seconds, each.rate, each.counted) for each in stretches)
    if isinstance(arrivals, Constant):
        even = np.arange(math.ceil(steps[-1].end * arrivals.rate)) / arrivals.rate
        return Schedule(even[even < steps[-1].end], steps)
    random = np.random.default_rng(seed)
    each = [_scattered(stretch, step, random) for stretch, step in zip(stretches, steps, strict=True)]
    return Schedule(np.concatenate(each), steps)


def poisson(rate: float, begin: float, end: float, random: np.random.Generator) -> Times:
    """A Poisson process of `rate` a second, given that it has its mean number of arrivals.

    Ascending times from `begin` to `end`, (round(rate × (end − begin)),). Given their number, arrivals are
    independent and uniform (Ross, Stochastic Processes, 1996, theorem 2.3.1). So the load offered is the one
    stated; the number of 200 free arrivals strays from it by more than 7% every third time.
    """
    return np.sort(random.uniform(begin, end, round(rate * (end - begin))))


def _scattered(stretch: Stretch, step: Step, random: np.random.Generator) -> Times:
    """Times of a stretch: a Poisson process of rate 1 on the clock that the stretch's rate drives."""
    passed = poisson(1.0, 0.0, stretch.requests, random)
    slope = (stretch.last - stretch.first) / stretch.seconds
    root = np.sqrt(np.maximum(stretch.first**2 + 2 * slope * passed, 0))
    # The root of first·t + slope·t²/2 = passed in the form that needs no slope and loses no digits.
    return np.minimum(step.begin + 2 * passed / (stretch.first + root), step.end)


def _replayed(replay: Replay) -> Schedule:
    """The arrivals of a trace, which lasts until a mean distance after the last of them."""
    times = _times(replay.path, replay.column) / replay.speed
    length = float(times[-1]) * len(times) / (len(times) - 1)
    end = length if replay.seconds is None else replay.warm_up + replay.seconds
    if not replay.warm_up < end <= length:
        raise UsageError(
            f"{replay.path} lasts {length:g} s at speed {replay.speed:g}: warm_up = {replay.warm_up:g} and "
            f"seconds = {replay.seconds} do not fit into it; lower them, or the speed"
        )
    starts = times[times < end]
    if len(starts) > MOST:
        raise UsageError(
            f"{replay.path}: {len(starts):,} requests, at most {MOST:,} can be held; lower seconds"
        )
    cut = int(np.searchsorted(starts, replay.warm_up))
    parts = (
        ("warm-up", replay.warm_up, cut, False),
        ("trace", end - replay.warm_up, len(starts) - cut, True),
    )
    steps = _in_a_row((name, seconds, n / seconds, counted) for name, seconds, n, counted in parts if seconds)
    return Schedule(starts, steps)


def _times(path: Path, column: str) -> Times:
    """A trace's times, ascending from 0, in seconds."""
    import pandas as pd

    try:
        table = pd.read_csv(path, encoding=_ENCODING)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no trace: {one_line(error)}") from None
    if column not in table:
        raise UsageError(f"column = {column!r}: {path} has no such column; it has {', '.join(table.columns)}")
    read = table[column]
    if not pd.api.types.is_numeric_dtype(read):
        try:
            dates = pd.to_datetime(read, format="ISO8601", utc=True)
        except ValueError as error:
            raise UsageError(f"{path}: {column} is neither seconds nor dates: {one_line(error)}") from None
        read = (dates - dates.min()).dt.total_seconds()
    times: Times = np.sort(read.to_numpy(np.float64))
    if not np.isfinite(times).all():
        raise UsageError(f"{path}: {column} has rows without a time; remove them")
    if len(times) < 2 or times[0] == times[-1]:
        raise UsageError(f"{path}: {len(times)} requests at one time are no trace; give at least two times")
    times -= times[0]
    return times


def _in_a_row(parts: Iterable[tuple[str, float, float | None, bool]]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for name, seconds, rate, counted in parts:
        begin = steps[-1].end if steps else 0.0
        steps.append(Step(name, begin, begin + seconds, rate, counted))
    return tuple(steps)
