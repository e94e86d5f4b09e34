"""What every trial of the suite opens: an engine's agents, and the event loop they live on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from bench.suites import ingested
from brein import Engine
from brein.agents import Coordinator, Response
from brein.records import Answer, Emotion

Agents: TypeAlias = Coordinator[Emotion, Answer]
Reply: TypeAlias = Response[Emotion, Answer]


@contextmanager
def opened(argument: Mapping[str, Any]) -> Iterator[tuple[asyncio.Runner, Agents]]:
    """In a child: the agents of the configured engine, and what runs coroutines where they live."""
    with ingested.opened(argument) as engine, asyncio.Runner() as runner:
        agents = runner.run(_of(engine))
        try:
            yield runner, agents
        finally:
            runner.run(agents.close())


async def _of(engine: Engine) -> Agents:
    """An engine's agents, for the running event loop."""
    return engine.coordinator()
