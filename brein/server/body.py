"""The body of a request, whole and bounded."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import Receive

from brein.bounded import Take
from brein.server.problems import RefusedError


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, most: int, take: Take | None = None
) -> bytes:
    """The body, of at most so many bytes; `take` is told of each part before it is kept.

    Raises:
        RefusedError: it is longer, or not complete.
    """
    announced = int(headers.get(b"content-length", b"0"))  # the parser has seen that it is a number
    parts: list[bytes] = []
    size = 0
    more = True
    while more and max(announced, size) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(400, "the body is not complete")
        part = message.get("body", b"")
        if take is not None:
            take(len(part))
        parts.append(part)
        size += len(part)
        more = message.get("more_body", False)
    if max(announced, size) > most:  # what is still to come is read and dropped as it comes
        raise RefusedError(413, f"the body is longer than max_body = {most:,} bytes; send it in parts")
    return b"".join(parts)
