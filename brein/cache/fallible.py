"""What the levels outside this process's memory have in common: they can fail, be slow, and hold damage."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from threading import Lock
from typing import TypeVar

from brein.cache import codec
from brein.cache.base import Cache, CacheStats

_FIRST_DELAY = 0.1  # seconds a level is left alone after its first failure; doubled by every further one
_LONGEST_DELAY = 30.0
_MOST_OWED = 1000  # keys; beyond that the level is cleared instead
_EVERYTHING = b""  # owed where a clear is; no key is empty

T = TypeVar("T")


class BackOff:
    """Says whether to try something that may be down: after a failure once per delay, which doubles.

    `clock` gives seconds and never goes back. Safe to use from several threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._delay = 0.0  # 0: it works
        self._retry_at = 0.0

    @property
    def working(self) -> bool:
        """Whether the last try succeeded, or there was none."""
        return self._delay == 0

    def ready(self) -> bool:
        """Whether to try now. Of several threads that ask when a delay is over, one gets yes."""
        if self._delay == 0:
            return True
        with self._lock:
            now = self._clock()
            if now < self._retry_at:
                return False
            self._delay = min(2 * self._delay, _LONGEST_DELAY)
            self._retry_at = now + self._delay
            return True

    def failed(self) -> None:
        """Start backing off; failures of tries that began before the first one was known change nothing."""
        with self._lock:
            if self._delay == 0:
                self._delay = _FIRST_DELAY
                self._retry_at = self._clock() + _FIRST_DELAY

    def succeeded(self) -> None:
        """Stop backing off."""
        if self._delay:
            with self._lock:
                self._delay = 0.0


class FallibleCache(Cache):
    """A level outside this process's memory: checks seals, counts, and backs off.

    A write that did not get through may have left an older value in place; such keys are removed before
    anything else is done once the level works again.
    """

    _failures: tuple[type[Exception], ...]  # what the five operations below raise when the level fails

    def __init__(self, maxsize: int, max_bytes: int | None, backoff: BackOff) -> None:
        self._maxsize = maxsize
        self._max_bytes = codec.LONGEST if max_bytes is None else max_bytes
        self._backoff = backoff
        self._closed = False
        self._count_lock = Lock()
        self._hits = self._misses = self._evictions = self._errors = self._skipped = 0
        self._lost = 0  # changes that did not get through
        self._owed: dict[bytes, int] = {}  # keys to be removed, each with the number of its last lost change

    @abstractmethod
    def _read(self, key: bytes) -> bytes | None:
        """The live value under `key`, which is used now."""

    @abstractmethod
    def _write(self, key: bytes, value: bytes) -> int:
        """Keep a value that is within the bounds; return how many live entries made room."""

    @abstractmethod
    def _remove(self, *keys: bytes) -> bool:
        """Forget what is under the keys; return True."""

    @abstractmethod
    def _remove_all(self) -> bool:
        """Forget every entry; return True."""

    @abstractmethod
    def _totals(self) -> tuple[int, int]:
        """Live entries and the bytes of their values."""

    def get(self, key: bytes) -> bytes | None:
        """The sealed value under `key`; None also where the level fails or the value is damaged."""
        value = self._attempt(lambda: self._read(key)) if self._maxsize else None
        if value is not None and not codec.is_sealed(value):
            value = None
            self._count_error()
            self._change(key, lambda: self._remove(key))
        with self._count_lock:
            if value is None:
                self._misses += 1
            else:
                self._hits += 1
        return value

    def set(self, key: bytes, value: bytes) -> None:
        """Keep a sealed value under `key`, or owe its removal where the level fails."""
        if self._maxsize == 0:
            return
        if len(value) > self._max_bytes:
            self._change(key, lambda: self._remove(key))
            return
        evicted = self._change(key, lambda: self._write(key, value))
        with self._count_lock:
            self._evictions += evicted or 0

    def delete(self, key: bytes) -> None:
        """Forget what is under `key`, or owe that."""
        self._change(key, lambda: self._remove(key))

    def clear(self) -> None:
        """Forget every entry, or owe that."""
        self._change(_EVERYTHING, self._remove_all)

    def stats(self) -> CacheStats:
        """Counts so far; asks the level what it holds, unless it is being left alone."""
        totals = self._attempt(self._totals) if self._backoff.working else None
        entries, stored_bytes = totals or (0, 0)
        with self._count_lock:
            return CacheStats(
                self._hits,
                self._misses,
                self._evictions,
                entries,
                stored_bytes,
                self._errors,
                self._skipped,
                self._backoff.working and not self._closed,
            )

    def close(self) -> None:
        """Stop using the level."""
        self._closed = True

    def _change(self, key: bytes, operation: Callable[[], T]) -> T | None:
        """Like `_attempt`, and owe the key's removal where the operation did not get through."""
        done = self._attempt(operation)
        if done is None:
            with self._count_lock:
                self._lost += 1
                if len(self._owed) >= _MOST_OWED:
                    self._owed = {_EVERYTHING: self._lost}
                else:
                    self._owed[key] = self._lost
        return done

    def _attempt(self, operation: Callable[[], T]) -> T | None:
        """The operation's result, or None where the level is closed, is being left alone, or fails."""
        if self._closed:
            return None
        if not self._backoff.ready():
            with self._count_lock:
                self._skipped += 1
            return None
        try:
            if self._owed:
                self._settle()
            result = operation()
        except self._failures:
            self._backoff.failed()
            self._count_error()
            return None
        self._backoff.succeeded()
        return result

    def _settle(self) -> None:
        """Remove what is owed; it stays owed until that is done, and where it came to be owed again."""
        with self._count_lock:
            owed = dict(self._owed)
        if _EVERYTHING in owed:
            self._remove_all()
        elif owed:
            self._remove(*owed)
        with self._count_lock:
            for key, number in owed.items():
                if self._owed.get(key) == number:
                    del self._owed[key]

    def _count_error(self) -> None:
        with self._count_lock:
            self._errors += 1
