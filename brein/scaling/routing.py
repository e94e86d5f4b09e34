"""Which of several instances gets a request."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Literal, TypeAlias

from brein.scaling.instance import Instance, Load

RequestType: TypeAlias = Literal["memory_heavy", "cpu_heavy", "general"]

_SHARE = 1.25  # times the mean of the requests in flight that a load figure may bring an instance
_FIGURES: dict[RequestType, Callable[[Load], float | None]] = {
    "memory_heavy": lambda load: load.memory,
    "cpu_heavy": lambda load: load.cpu,
}


def choose(instances: Sequence[Instance], request_type: RequestType, now: float, random: Random) -> Instance:
    """The instance, of at least one, that gets a request of this type.

    Those that want to rest come last. A heavy request goes to the least memory or CPU in use, where fresh
    figures say so. Figures are as old as the last reading, so one instance could draw all requests until the
    next; it has to have less than 1.25 times the mean number in flight (bounded loads: Mirrokni, Thorup,
    Zadimoghaddam 2018). Any other request goes to the one of two, chosen at random, that has fewer in flight
    (Mitzenmacher 2001).
    """
    awake = [instance for instance in instances if not instance.rests(now)] or list(instances)
    figure = _FIGURES.get(request_type)
    known = [] if figure is None else _with_room(_known(awake, figure, now))
    if known:
        return min(known, key=lambda pair: (pair[0], pair[1].in_flight))[1]
    return min(random.sample(awake, min(2, len(awake))), key=lambda instance: instance.in_flight)


def _known(
    instances: Sequence[Instance], figure: Callable[[Load], float | None], now: float
) -> list[tuple[float, Instance]]:
    loads = [(instance.load(now), instance) for instance in instances]
    figures = [(figure(load), instance) for load, instance in loads if load is not None]
    return [(value, instance) for value, instance in figures if value is not None]


def _with_room(known: list[tuple[float, Instance]]) -> list[tuple[float, Instance]]:
    """Those with fewer in flight than their share; whoever has the fewest is among them."""
    in_flight = [instance.in_flight for _, instance in known]
    share = math.ceil(_SHARE * (sum(in_flight) + 1) / max(1, len(known)))
    return [pair for pair in known if pair[1].in_flight < share]
