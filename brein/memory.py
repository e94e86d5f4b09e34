"""The engine's memory limit: caches make room first, then new documents are refused."""

from __future__ import annotations

import ctypes
from pathlib import Path

import psutil

from brein.cache import Caches
from brein.errors import MemoryLimitError

_STATUS = Path("/proc/self/status")
_WATCHED = 64  # cache misses between two looks at what the process holds


class MemoryBudget:
    """Keeps the memory of this process under `limit` bytes; None: as much as there is.

    What counts is the process's anonymous memory as the operating system says: all but mapped files.
    """

    def __init__(self, limit: int | None, caches: Caches) -> None:
        self.limit = limit
        self._caches = caches
        self._misses = 0

    def make_room(self, needed: int, purpose: str) -> None:
        """Have `needed` bytes free under the limit, shrinking the caches where they are in the way.

        Raises:
            MemoryLimitError: that was not enough.
        """
        if self._fits(needed) or self._shrink(needed):
            return
        raise MemoryLimitError(
            f"memory_limit = {self.limit:,} B: the process holds {held():,} B, and {purpose} takes up to "
            f"{needed:,} B more; ingest fewer at once, delete documents, use a compressed index or raise "
            "the limit"
        )

    def watch(self) -> None:
        """Shrink the caches where they have filled the limit; to be called at every miss."""
        self._misses += 1
        if self._misses % _WATCHED == 0 and not self._fits(0):
            self._shrink(0)

    def _fits(self, needed: int) -> bool:
        return self.limit is None or held() + needed <= self.limit

    def _shrink(self, needed: int) -> bool:
        cached = self._caches.l1_bytes()
        for share in (0.5, 0.25, 0.0):
            self._caches.shrink(int(share * cached))
            give_back()
            if self._fits(needed):
                return True
        return False


def held() -> int:
    """Bytes of anonymous memory this process has in main memory."""
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) * 1024
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Hand freed memory back to the operating system, where the C library keeps it for itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
