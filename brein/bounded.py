"""A bound on what an HTTP server may send, errors and all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import httpx2


def bounded(most: int, refuse: Callable[[], Exception]) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A hook for the responses of a client, which lets no body be read beyond `most` bytes as they are sent.

    Reading on raises what `refuse` makes.
    """

    async def bound(response: httpx2.Response) -> None:
        stream = cast(httpx2.AsyncByteStream, response.stream)  # as of every asynchronous client
        response.stream = _Bounded(stream, most, refuse)

    return bound


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, most: int, refuse: Callable[[], Exception]) -> None:
        self._stream = stream
        self._most = most
        self._refuse = refuse

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room = self._most
        async for some in self._stream:
            room -= len(some)
            if room < 0:
                raise self._refuse()
            yield some

    async def aclose(self) -> None:
        await self._stream.aclose()
