"""One retrieval's stages: each is run within its budget, and reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from pydantic import Field

from brein.errors import BreinError, ShardsMissingError
from brein.records import Stage
from brein.retrieval.fusion import Ranking, reciprocal_rank
from brein.settings import Settings

Found = TypeVar("Found")


class LegConfig(Settings):
    """Settings of one of the two searches that find candidates."""

    enabled: bool = True
    candidates: int = Field(100, ge=1, le=10_000, description="documents it hands on")
    budget: float = Field(0.5, gt=0, le=60, description="seconds; what takes longer is left out")


class _SpentError(Exception):
    """The time for a stage is over."""


class Stages:
    """The stages of one retrieval so far: runs each, and reports what it did."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.reports: list[Stage] = []
        self._clock = clock
        self._late: list[Ranking] = []

    def run(
        self,
        name: str,
        work: Callable[[], Found],
        given: int = 0,
        count: Callable[[Found], int] | None = None,
    ) -> Found:
        """A stage that is always needed, so has no budget."""
        start = self._clock()
        found = work()
        self.reports.append(Stage(name, self._clock() - start, given, count(found) if count else 0))
        return found

    def leg(self, name: str, config: LegConfig, work: Callable[[int], Ranking]) -> Ranking | None:
        """A search for so many candidates; None where it is switched off or took too long."""
        if not config.enabled:
            return None
        missing: Mapping[int, str] = {}
        start = self._clock()
        try:
            found = work(config.candidates)
        except ShardsMissingError as partial:
            found, missing = list(partial.found), partial.missing
        seconds = self._clock() - start
        skipped = _over(seconds, config.budget)
        self.reports.append(Stage(name, seconds, 0, len(found), skipped, missing))
        if skipped:
            self._late.append(found)
        return None if skipped else found

    def attempt(
        self,
        name: str,
        given: int,
        budget: float,
        work: Callable[[Callable[[], None]], Found],
        count: Callable[[Found], int] | None = None,
    ) -> Found | None:
        """A stage that may be left out: None where it took too long, or failed."""
        start = self._clock()

        def check() -> None:
            if self._clock() - start > budget:
                raise _SpentError

        found: Found | None = None
        skipped = None
        try:
            found = work(check)
        except BreinError as error:
            skipped = f"failed: {error}"
        except _SpentError:
            pass  # the time says it
        seconds = self._clock() - start
        skipped = skipped or _over(seconds, budget)
        there = count(found) if count and found is not None else 0
        self.reports.append(Stage(name, seconds, given, there, skipped))
        return None if skipped else found

    def fused(self, legs: Sequence[Ranking | None], constant: int) -> Ranking:
        """The legs as one ranking, of one leg its own; with those that were late where none that came in time
        found anything."""
        rankings = [leg for leg in legs if leg is not None]
        if not any(rankings):
            rankings = self._late or rankings
        if len(rankings) == 1:
            return rankings[0]
        start = self._clock()
        found = reciprocal_rank(rankings, constant)
        given = sum(map(len, rankings))
        self.reports.append(Stage("fusion", self._clock() - start, given, len(found)))
        return found


def _over(seconds: float, budget: float) -> str | None:
    return f"took {seconds:.3f} s of a budget of {budget:g} s" if seconds > budget else None
