"""How many bytes may be held at once, so that many large bodies do not use up the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from brein.bounded import Take
from brein.errors import OverloadedError


class Room:
    """So many bytes, which requests take of and give back. Used from one thread."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    @contextmanager
    def held(self) -> Iterator[Take]:
        """What takes bytes, which are all given back at the end of the `with` block.

        It raises OverloadedError where fewer are left.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if size > self._left:
                raise OverloadedError(
                    f"{self._most - self._left} bytes of requests and answers are held, max_held = "
                    f"{self._most}; ask again later"
                )
            self._left -= size
            taken += size

        try:
            yield take
        finally:
            self._left += taken
