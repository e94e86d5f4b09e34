"""L3: a cache in one SQLite file, which outlives the process.

The file is our own table, not diskcache's, because that unpickles what it reads.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from typing import TypeVar

from brein.cache.fallible import BackOff, FallibleCache
from brein.errors import ConfigError

_APPLICATION = 0x62726E63  # "brnc" in the file's header
_FORMAT = 1
_LOCK_TIMEOUT = 0.05  # seconds to wait for another process
_SCHEMA = (
    """CREATE TABLE entries
        (key BLOB PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL, used INT NOT NULL)""",
    "CREATE INDEX by_expiry ON entries (expires)",
    "CREATE INDEX by_use ON entries (used)",
    "CREATE TABLE totals (entries INT NOT NULL, bytes INT NOT NULL)",
    "INSERT INTO totals VALUES (0, 0)",
    """CREATE TRIGGER added AFTER INSERT ON entries BEGIN
        UPDATE totals SET entries = entries + 1, bytes = bytes + length(NEW.value); END""",
    """CREATE TRIGGER removed AFTER DELETE ON entries BEGIN
        UPDATE totals SET entries = entries - 1, bytes = bytes - length(OLD.value); END""",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)
_READ = """UPDATE entries SET used = (SELECT max(used) + 1 FROM entries)
    WHERE key = ? AND expires > ? RETURNING value"""
_ADD = "INSERT INTO entries VALUES (?, ?, ?, (SELECT coalesce(max(used), 0) + 1 FROM entries))"
_DROP = "DELETE FROM entries WHERE key = ?"
_DROP_EXPIRED = "DELETE FROM entries WHERE expires <= ?"
_DROP_ONE_EXPIRED = """DELETE FROM entries WHERE key =
    (SELECT key FROM entries WHERE expires <= ? ORDER BY expires LIMIT 1)"""
_DROP_LEAST_USED = "DELETE FROM entries WHERE key = (SELECT key FROM entries ORDER BY used LIMIT 1)"
_TOTALS = "SELECT entries, bytes FROM totals"

T = TypeVar("T")


class DiskCache(FallibleCache):
    """A cache in the file `path`; its folder is made. Several processes may share the file.

    Arguments as for `MemoryCache`; `now` gives seconds since 1970, `clock` paces the retries. The space of
    removed entries is used again; the file does not shrink.

    A damaged cache, or one of another format, is replaced by an empty one and counts as an error. Only a file
    that bears our application id is ever replaced and, where `own_folder` says that nobody else keeps files
    there, one that SQLite cannot read.

    Raises:
        ConfigError: the file is not a cache.
    """

    _failures = (sqlite3.Error, OSError, UnicodeDecodeError)

    def __init__(
        self,
        path: Path,
        maxsize: int,
        ttl: float,
        max_bytes: int | None = None,
        *,
        own_folder: bool = False,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(maxsize, max_bytes, BackOff(clock))
        self._path = path
        self._own_folder = own_folder
        self._ttl = ttl
        self._now = now
        self._lock = Lock()  # one statement or transaction at a time
        self._connection: sqlite3.Connection | None = None
        self._refuse_foreign()

    def _refuse_foreign(self) -> None:
        try:
            ours = self._is_ours()
        except self._failures:
            return  # out of reach for now, and asked again before it would be replaced
        if not ours:
            raise ConfigError(
                f"cache.l3.path: {self._path} is not a cache of this program and is left alone; give another "
                "cache.l3.path, or move the file away"
            )

    def _read(self, key: bytes) -> bytes | None:
        def read(file: sqlite3.Connection) -> bytes | None:
            rows = file.execute(_READ, (key, self._now())).fetchall()
            if rows and not isinstance(rows[0][0], bytes):
                raise _DamageError("a value is not bytes")
            return rows[0][0] if rows else None

        return self._run(read)

    def _write(self, key: bytes, value: bytes) -> int:
        return self._run(lambda file: self._add(file, key, value))

    def _add(self, file: sqlite3.Connection, key: bytes, value: bytes) -> int:
        now, evicted = self._now(), 0
        with _transaction(file):
            file.execute(_DROP, (key,))
            while True:
                entries, stored_bytes = _count(file)
                if not entries or (entries < self._maxsize and stored_bytes + len(value) <= self._max_bytes):
                    break
                if file.execute(_DROP_ONE_EXPIRED, (now,)).rowcount:
                    continue
                if not file.execute(_DROP_LEAST_USED).rowcount:
                    raise _DamageError("the totals count entries that are not there")
                evicted += 1
            file.execute(_ADD, (key, value, now + self._ttl))
        return evicted

    def _remove(self, *keys: bytes) -> bool:
        def drop(file: sqlite3.Connection) -> None:
            with _transaction(file):
                file.executemany(_DROP, [(key,) for key in keys])

        self._run(drop)
        return True

    def _remove_all(self) -> bool:
        self._run(lambda file: file.execute("DELETE FROM entries"))
        return True

    def _totals(self) -> tuple[int, int]:
        def sweep(file: sqlite3.Connection) -> tuple[int, int]:
            file.execute(_DROP_EXPIRED, (self._now(),))
            return _count(file)

        return self._run(sweep)

    def close(self) -> None:
        """Close the file; what it holds is there when it is opened again."""
        with self._lock:
            super().close()
            self._disconnect()

    def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Do it on the open file; on a damaged one, replace that and do it on the new."""
        with self._lock:
            try:
                return operation(self._open())
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error) or not self._is_ours():
                    raise
                self._count_error()
                self._replace()
                return operation(self._open())

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise sqlite3.ProgrammingError("the cache was closed meanwhile")
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                self._path, timeout=_LOCK_TIMEOUT, check_same_thread=False, isolation_level=None
            )
            try:
                _prepare(self._connection)
            except BaseException:
                self._disconnect()
                raise
        return self._connection

    def _is_ours(self) -> bool:
        """Whether the file may be replaced: a cache, whatever its state, or nothing at all."""
        if not self._path.exists():
            return True
        # Asked of SQLite, because reading it otherwise would drop this process's locks on the file.
        address = f"{self._path.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=_LOCK_TIMEOUT)) as file:
            try:
                file.execute("PRAGMA writable_schema = ON")  # reads the header of a truncated file too
                return _application(file) == _APPLICATION or _is_empty(file)
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _is_damage(error):
                    raise
                return self._own_folder

    def _replace(self) -> None:
        self._disconnect()
        for suffix in ("-wal", "-shm", "-journal", ""):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _prepare(file: sqlite3.Connection) -> None:
    with _transaction(file):
        if _is_empty(file):
            for statement in _SCHEMA:
                file.execute(statement)
        (version,) = file.execute("PRAGMA user_version").fetchone()
        if (_application(file), version) != (_APPLICATION, _FORMAT):
            raise _DamageError("not a cache of this format")
    file.execute("PRAGMA journal_mode = WAL")
    # Survives the process, and a power loss leaves an older state: enough for a cache.
    file.execute("PRAGMA synchronous = NORMAL")


def _application(file: sqlite3.Connection) -> int:
    """The application id in the file's header; 0 where no program put one there."""
    return int(file.execute("PRAGMA application_id").fetchone()[0])


def _is_empty(file: sqlite3.Connection) -> bool:
    """Whether no program has put anything into the file."""
    return not (_application(file) or file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


class _DamageError(sqlite3.DatabaseError):
    """A file that SQLite can read, but that does not hold what it must."""


def _count(file: sqlite3.Connection) -> tuple[int, int]:
    row = file.execute(_TOTALS).fetchone()
    if row is None or not all(isinstance(total, int) for total in row):
        raise _DamageError("the totals are not there")
    return row[0], row[1]


def _is_damage(error: Exception) -> bool:
    """Whether the file holds what it must not, rather than being locked, full or out of reach."""
    if isinstance(error, _DamageError | UnicodeDecodeError):  # SQLite's message may quote what is damaged
        return True
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the kind, the rest a detail
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


@contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[None]:
    file.execute("BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        if file.in_transaction:  # a full disk may have ended it already
            file.execute("ROLLBACK")
        raise
