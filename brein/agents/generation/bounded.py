"""A bound on what an endpoint may send, errors and all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import cast

import httpx2

from brein.errors import GenerationError

LONGEST = 2**20  # bytes as they are sent; an answer of 4096 tokens has some 30,000


def bounded(sender: str) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A hook for the responses of a client, which lets none be read beyond `LONGEST`; `sender` is named then.

    Reading on raises GenerationError.
    """

    async def bound(response: httpx2.Response) -> None:
        stream = cast(httpx2.AsyncByteStream, response.stream)  # as of every asynchronous client
        response.stream = _Bounded(stream, sender)

    return bound


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, sender: str) -> None:
        self._stream = stream
        self._sender = sender

    async def __aiter__(self) -> AsyncIterator[bytes]:
        room = LONGEST
        async for some in self._stream:
            room -= len(some)
            if room < 0:
                raise GenerationError(f"{self._sender} sends more than 1 MiB; see what answers at base_url")
            yield some

    async def aclose(self) -> None:
        await self._stream.aclose()
