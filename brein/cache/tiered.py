"""Several cache levels as one: the fastest that has a value answers, and the faster ones learn it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from threading import Lock

from brein.cache import codec
from brein.cache.base import Cache, CacheStats

MISS = "miss"


class TieredCache:
    """Cache levels by name, the fastest first. Values are plain bytes here and sealed in every level.

    A value is sealed once, with `compression` where that makes it smaller, and every level, the first
    included, keeps those bytes. Each level counts the life of a value from when it got it. What was read or
    computed before `set`, `invalidate` or `clear` is never stored after it. Safe to use from several threads;
    `patience` is how many seconds `get_or_compute` waits for another thread's computation before it does its
    own.
    """

    def __init__(
        self, levels: Mapping[str, Cache], compression: bool = False, patience: float = 30.0
    ) -> None:
        self.levels = dict(levels)
        self._first = next(iter(self.levels))
        self._fastest = self.levels[self._first]
        self._compression = compression
        self._patience = patience
        self._lock = Lock()  # over what follows, and over storing what may have become stale meanwhile
        self._epoch = 0  # grows when something is set or invalidated
        self._landed = 0  # computations completed
        self._flights: dict[str, Future[tuple[bytes, str]]] = {}

    def get(self, key: str) -> tuple[bytes | None, str]:
        """The value and the name of the level that had it, or (None, "miss"); faster levels get a copy."""
        if (sealed := self._fastest.get(key)) is not None:
            return codec.unseal(sealed), self._first
        return self._get_slower(key)

    def set(self, key: str, value: bytes, promote: bool = True) -> None:
        """Keep a value in every level; without `promote` in the first only, and then in no other."""
        sealed = codec.seal(value, self._compression)
        with self._lock:
            self._supersede(key)
            for name, level in self.levels.items():
                if promote or name == self._first:
                    level.set(key, sealed)
                else:
                    level.delete(key)

    def get_or_compute(self, key: str, compute: Callable[[], bytes]) -> tuple[bytes, str]:
        """The value and the level that had it, or what `compute` returns and "miss", kept in every level.

        Threads that miss the same key meanwhile wait for the one that looks further and computes. What that
        raises, they all raise; nothing is kept then, and the next call computes anew.
        """
        landed = self._landed
        if (sealed := self._fastest.get(key)) is not None:
            return codec.unseal(sealed), self._first
        with self._lock:
            flight = self._flights.get(key)
            if leads := flight is None:
                flight = self._flights[key] = Future()
            overtaken = landed != self._landed  # by a flight that may have been this key's
        if leads:
            return self._lead(flight, key, compute, overtaken)
        try:
            return flight.result(self._patience)
        except TimeoutError:
            return flight.result() if flight.done() else (compute(), MISS)

    def invalidate(self, key: str) -> None:
        """Forget what is under `key` in every level."""
        with self._lock:
            self._supersede(key)
            for level in self.levels.values():
                level.delete(key)

    def clear(self) -> None:
        """Forget everything in every level; the counts stay."""
        with self._lock:
            self._epoch += 1
            self._flights.clear()
            for level in self.levels.values():
                level.clear()

    def stats(self) -> dict[str, CacheStats]:
        """Counts of each level, by name. A look-up that stops at a level is not counted by slower ones."""
        return {name: level.stats() for name, level in self.levels.items()}

    def close(self) -> None:
        """Close every level."""
        for level in self.levels.values():
            level.close()

    def _get_slower(self, key: str) -> tuple[bytes | None, str]:
        epoch = self._epoch
        faster: list[Cache] = []
        for name, level in self.levels.items():
            if level is not self._fastest and (sealed := level.get(key)) is not None:
                self._store(key, sealed, faster, epoch)
                return codec.unseal(sealed), name
            faster.append(level)
        return None, MISS

    def _lead(
        self, flight: Future[tuple[bytes, str]], key: str, compute: Callable[[], bytes], overtaken: bool
    ) -> tuple[bytes, str]:
        try:
            value, level = self.get(key) if overtaken else self._get_slower(key)
            if value is None:
                epoch = self._epoch
                value = compute()
                self._store(key, codec.seal(value, self._compression), self.levels.values(), epoch)
        except BaseException as error:
            self._land(flight, key)
            flight.set_exception(error)
            raise
        self._land(flight, key)
        flight.set_result((value, level))
        return value, level

    def _land(self, flight: Future[tuple[bytes, str]], key: str) -> None:
        with self._lock:
            self._landed += 1
            if self._flights.get(key) is flight:  # not when it was superseded
                del self._flights[key]

    def _store(self, key: str, sealed: bytes, levels: Iterable[Cache], epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch:
                for level in levels:
                    level.set(key, sealed)

    def _supersede(self, key: str) -> None:
        self._epoch += 1
        self._flights.pop(key, None)
