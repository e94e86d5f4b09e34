"""Several cache levels as one: the fastest that has a value answers, and the faster ones learn it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from hashlib import blake2b
from threading import Lock

from brein.cache import codec
from brein.cache.base import Cache, CacheStats

MISS = "miss"


def digest(key: str) -> bytes:
    """The 16 bytes under which the levels keep what is under `key` here."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class TieredCache:
    """Cache levels by name, the fastest first. Keys are texts and values plain bytes here.

    The levels keep digests of the keys, and values sealed once, with `compression` where that makes them
    smaller; a first level in this process's memory keeps them as they are. Each level counts the life of a
    value from when it got it. What was read or computed before `set`, `invalidate` or `clear` is never stored
    after it. Safe to use from several threads; `patience` is how many seconds `get_or_compute` waits for
    another thread's computation before it does its own.
    """

    def __init__(
        self, levels: Mapping[str, Cache], compression: bool = False, patience: float = 30.0
    ) -> None:
        self.levels = dict(levels)
        (self._first, self._fastest), *slower = self.levels.items()
        self._slower = dict(slower)
        self._plain = self._fastest.in_process
        self._compression = compression
        self._patience = patience
        # One for each first byte of a digest, over writing any level; taken before the next.
        self._writing = [Lock() for _ in range(256)]
        self._lock = Lock()  # over what follows, and over writing the first level; never during I/O
        self._epoch = 0  # grows when something was set or invalidated, once that is so in every level
        self._landed = 0  # computations completed
        self._flights: dict[bytes, Future[tuple[bytes, str]]] = {}

    def get(self, key: str) -> tuple[bytes | None, str]:
        """The value and the name of the level that had it, or (None, "miss"); faster levels get a copy."""
        return self._get(digest(key))

    def peek(self, key: str) -> bytes | None:
        """The value where the first level has it in memory, else None; a miss does not count.

        It takes no I/O and waits for none: fit for an event loop.
        """
        return self._opened(self._fastest.peek(digest(key)))

    def set(self, key: str, value: bytes, promote: bool = True) -> None:
        """Keep a value in every level; without `promote` in the first only, and then in no other."""
        entry, sealed = digest(key), self._sealed(value)
        with self._writing[entry[0]]:
            for level in self._slower.values():
                if promote:
                    level.set(entry, sealed)
                else:
                    level.delete(entry)
            with self._lock:
                self._supersede(entry)
                self._fastest.set(entry, value if self._plain else sealed)

    def get_or_compute(self, key: str, compute: Callable[[], bytes]) -> tuple[bytes, str]:
        """The value and the level that had it, or what `compute` returns and "miss", kept in every level.

        Threads that miss the same key meanwhile wait for the one that looks further and computes. What that
        raises, they all raise; nothing is kept then, and the next call computes anew.
        """
        entry, landed = digest(key), self._landed
        if (value := self._opened(self._fastest.get(entry))) is not None:
            return value, self._first
        with self._lock:
            flight = self._flights.get(entry)
            if leads := flight is None:
                flight = self._flights[entry] = Future()
            overtaken = landed != self._landed  # by a flight that may have been this key's
        if leads:
            return self._lead(flight, entry, compute, overtaken)
        try:
            return flight.result(self._patience)
        except TimeoutError:
            return flight.result() if flight.done() else (compute(), MISS)

    def invalidate(self, key: str) -> None:
        """Forget what is under `key` in every level."""
        entry = digest(key)
        with self._writing[entry[0]]:
            for level in self._slower.values():
                level.delete(entry)
            with self._lock:
                self._supersede(entry)
                self._fastest.delete(entry)

    def clear(self) -> None:
        """Forget everything in every level; the counts stay."""
        with ExitStack() as writing:
            for lock in self._writing:
                writing.enter_context(lock)
            for level in self._slower.values():
                level.clear()
            with self._lock:
                self._epoch += 1
                self._flights.clear()
                self._fastest.clear()

    def stats(self) -> dict[str, CacheStats]:
        """Counts of each level, by name. A look-up that stops at a level is not counted by slower ones."""
        return {name: level.stats() for name, level in self.levels.items()}

    def close(self) -> None:
        """Close every level."""
        for level in self.levels.values():
            level.close()

    def _get(self, entry: bytes) -> tuple[bytes | None, str]:
        if (value := self._opened(self._fastest.get(entry))) is not None:
            return value, self._first
        return self._get_slower(entry)

    def _get_slower(self, entry: bytes) -> tuple[bytes | None, str]:
        epoch = self._epoch
        missed: list[Cache] = []
        for name, level in self._slower.items():
            if (sealed := level.get(entry)) is not None:
                value = codec.unseal(sealed)
                self._store(entry, value, sealed, missed, epoch)
                return value, name
            missed.append(level)
        return None, MISS

    def _lead(
        self, flight: Future[tuple[bytes, str]], entry: bytes, compute: Callable[[], bytes], overtaken: bool
    ) -> tuple[bytes, str]:
        try:
            value, level = self._get(entry) if overtaken else self._get_slower(entry)
            if value is None:
                epoch = self._epoch
                value = compute()
                self._store(entry, value, self._sealed(value), self._slower.values(), epoch)
        except BaseException as error:
            self._land(flight, entry)
            flight.set_exception(error)
            raise
        self._land(flight, entry)
        flight.set_result((value, level))
        return value, level

    def _land(self, flight: Future[tuple[bytes, str]], entry: bytes) -> None:
        with self._lock:
            self._landed += 1
            if self._flights.get(entry) is flight:  # not when it was superseded
                del self._flights[entry]

    def _store(self, entry: bytes, value: bytes, sealed: bytes, slower: Iterable[Cache], epoch: int) -> None:
        """Keep what was found or begun at `epoch` in the first level and in `slower`, unless it is stale."""
        with self._writing[entry[0]]:
            with self._lock:
                if epoch != self._epoch:
                    return
                self._fastest.set(entry, value if self._plain else sealed)
            for level in slower:
                level.set(entry, sealed)

    def _sealed(self, value: bytes) -> bytes:
        """The value as levels that keep it sealed take it; as it is where there are none."""
        return value if self._plain and not self._slower else codec.seal(value, self._compression)

    def _opened(self, kept: bytes | None) -> bytes | None:
        """What the first level kept, as a value."""
        return kept if self._plain or kept is None else codec.unseal(kept)

    def _supersede(self, entry: bytes) -> None:
        self._epoch += 1
        self._flights.pop(entry, None)
