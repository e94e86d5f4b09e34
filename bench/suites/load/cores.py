"""Whose cores are whose: those of the service, and those of the generator that loads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 4  # cores at which each side has its own; with fewer, one of them would be all that is left to a side


@dataclass(frozen=True)
class Cores:
    """The cores of each side; None: both share all `count` there are."""

    count: int
    service: tuple[int, ...] | None = None
    generator: tuple[int, ...] | None = None

    @property
    def described(self) -> str:
        """Who has which, in words."""
        if self.service is None or self.generator is None:
            return f"generator and service share {self.count} cores"
        return (
            f"of {self.count} cores the generator has {len(self.generator)} of its own, the service the rest"
        )


def assigned(usable: Sequence[int], workers: int) -> Cores:
    """Give each of the generator's processes a core, the last ones, and the service at least half of all."""
    ordered = tuple(sorted(usable))
    if len(ordered) < LEAST:
        return Cores(len(ordered))
    own = min(workers, len(ordered) // 2)
    return Cores(len(ordered), ordered[:-own], ordered[-own:])
