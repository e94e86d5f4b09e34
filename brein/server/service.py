"""The engine as the routes ask it, and why it cannot be asked while it cannot."""

from __future__ import annotations

import asyncio

from brein.agents import Coordinator
from brein.config import EngineConfig
from brein.engine import Engine
from brein.records import Answer, Emotion
from brein.server.problems import RefusedError


class Service:
    """Opens the engine beside the event loop, and closes it. `draining`: it was told to stop."""

    def __init__(self, config: EngineConfig) -> None:
        self.draining = False
        self.engine: Engine | None = None
        self._config = config
        self._coordinator: Coordinator[Emotion, Answer] | None = None
        self._opening: str | None = "the engine is being opened"

    @property
    def obstacle(self) -> str | None:
        """Why it is not ready; None where it is."""
        return "the service was told to stop and is draining" if self.draining else self._opening

    @property
    def coordinator(self) -> Coordinator[Emotion, Answer]:
        """The agents, which take requests while the service drains, too.

        Raises:
            RefusedError: they are not there yet.
        """
        if self._coordinator is None:
            raise RefusedError(503, f"{self._opening}; ask again later")
        return self._coordinator

    async def open(self) -> None:
        """Open the engine and warm it up; raises what `Engine.open` and `Engine.coordinator` raise."""
        self.engine = await asyncio.to_thread(Engine.open, self._config)
        self._opening = "the engine warms up"
        await asyncio.to_thread(self.engine.warm_up)
        self._coordinator = self.engine.coordinator()
        self._opening = None

    async def close(self) -> None:
        """Let the agents end what they have begun, then close the engine."""
        if self._coordinator is not None:
            await self._coordinator.close()
        if self.engine is not None:
            await asyncio.to_thread(self.engine.close)
