"""Servers asked as fast as they answer, by clients that wait for their answer and ask again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from bench.errors import MeasurementError
from bench.service import Service
from bench.suites.agents.generator import read_at
from bench.suites.system import client
from brein.errors import first_line

_LEAD_IN = 0.25  # of `seconds`, before anything counts
_LIMITED = 0.95  # of a core: where the lab itself uses as much, the servers may not be what is measured
_REMEDY = "; lower suite.system.clients"


@dataclass(frozen=True)
class Turn:
    """What servers gave in `seconds`, and the seconds of CPU that they and the lab used meanwhile.

    `whole` of the `answers` are those to a search that lack nothing.
    """

    seconds: float
    answers: int
    whole: int
    cpu: float
    own: float

    @property
    def limit(self) -> str:
        """Why not the servers are what was measured; empty where they are."""
        limited = self.own > _LIMITED * self.seconds
        return f"client-limited: the lab used over {_LIMITED:.0%} of a core" if limited else ""

    @property
    def lack(self) -> str:
        """Why the answers are not those of searches; empty where they are."""
        lacking = self.answers - self.whole
        return f"{lacking:,} of {self.answers:,} answers were degraded" if lacking else ""


def together(reasons: Iterable[str]) -> str:
    """What reasons there are, each once, in a line; empty where there are none."""
    return "; ".join(dict.fromkeys(why for why in reasons if why))


async def saturate(
    servers: Sequence[Service], requests: Iterator[bytes], clients: int, seconds: float
) -> Turn:
    """Have so many clients of each server ask for `seconds`, after a lead-in.

    Raises:
        MeasurementError: a server broke off or answered with another status than 200, or none answered.
    """
    now = asyncio.get_running_loop().time
    begin = now() + _LEAD_IN * seconds
    answers: Counter[bool] = Counter()  # by whether they are whole

    async def ask(port: int) -> None:
        with closing(await client.Connection.open(port)) as connection:
            while now() < begin + seconds:
                answer = await connection.ask(next(requests))
                if answer.status != 200:
                    raise MeasurementError(f"a server answered {answer.status}{_REMEDY}")
                if begin <= now() < begin + seconds:
                    answers[answer.is_whole] += 1

    def used() -> tuple[float, float]:
        return sum(server.usage().cpu for server in servers), time.process_time()

    asking = asyncio.gather(*(ask(server.port) for server in servers for _ in range(clients)))
    try:
        before, after, _ = await asyncio.gather(read_at(begin, used), read_at(begin + seconds, used), asking)
    except OSError as error:
        raise MeasurementError(f"a server broke off, {first_line(error)}{_REMEDY}") from None
    if not answers:
        raise MeasurementError(f"no server answered within {seconds:g} s; raise suite.system.seconds")
    return Turn(seconds, answers.total(), answers[True], after[0] - before[0], after[1] - before[1])
