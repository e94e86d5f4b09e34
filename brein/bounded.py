"""A bound on what an HTTP server may send, errors and all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias, cast

import httpx2

Take: TypeAlias = Callable[
    [int], None
]  # is told of so many bytes before they are held; raises to refuse them


def bounded(most: int, refuse: Callable[[], Exception]) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A hook for the responses of a client, which lets no body be read beyond `most` bytes as they are sent.

    Reading on raises what `refuse` makes.
    """

    async def bound(response: httpx2.Response) -> None:
        room = most

        def take(size: int) -> None:
            nonlocal room
            room -= size
            if room < 0:
                raise refuse()

        count(response, take)

    return bound


def count(response: httpx2.Response, take: Take) -> None:
    """Have `take` told of each part of a response's body, as it is sent."""
    stream = cast(httpx2.AsyncByteStream, response.stream)  # as of every asynchronous client
    response.stream = _Counted(stream, take)


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, take: Take) -> None:
        self._stream = stream
        self._take = take

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for some in self._stream:
            self._take(len(some))
            yield some

    async def aclose(self) -> None:
        await self._stream.aclose()
