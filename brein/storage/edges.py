"""Where the associations of documents are kept: one SQLite file beside the documents."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from brein.errors import StorageError
from brein.storage.layout import file_errors, make_folder

_APPLICATION = 0x42524E45  # "BRNE" in the file's header
_FORMAT = 1
_SCHEMA = (
    """CREATE TABLE nodes (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL, similar BLOB NOT NULL, used BLOB NOT NULL,
        used_at REAL NOT NULL
    )""",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "INSERT INTO facts VALUES ('version', '')",
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_FORMAT}",
)


class Node(NamedTuple):
    """A document in the mesh: its number, its id, and its edges in the form the mesh gives them."""

    number: int
    id: str
    similar: bytes
    used: bytes
    used_at: float  # seconds since 1970


class EdgeStore:
    """The nodes of a mesh in the SQLite file `path`, made if it is not there; its folder is made, too.

    A write is one transaction. It survives the process; the newest may be lost when the power fails, and
    `version` is then that of what is left. Whoever opens one holds `layout.claim` of the folder. Not safe
    to use from several threads at once.

    Raises:
        StorageError: from any call, where the file is foreign, damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            make_folder(path.parent)
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            try:
                with self._transaction():
                    self._prepare()
                # Only now is the file known to be ours to change.
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            except BaseException:
                self._connection.close()
                raise

    @property
    def version(self) -> str:
        """The version of the documents that `write` was last told; empty at first."""
        with self._errors():
            row = self._connection.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()
            return str(row[0])

    def column(self, name: Literal["number", "id", "similar", "used", "used_at"]) -> Iterator[Any]:
        """One part of every node, by number; read as it is asked for."""
        with self._errors():
            statement = f"SELECT {name} FROM nodes ORDER BY number"  # noqa: S608  one of our own names
            for (value,) in self._connection.execute(statement):
                yield value

    def write(self, nodes: Sequence[Node], gone: Sequence[int], version: str) -> None:
        """Store nodes, replacing equal numbers, and forget the numbers in `gone`."""
        with self._errors(), self._transaction():
            self._connection.executemany("DELETE FROM nodes WHERE number = ?", [(n,) for n in gone])
            self._connection.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", nodes)
            self._connection.execute("UPDATE facts SET value = ? WHERE name = 'version'", (version,))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _prepare(self) -> None:
        application, format_, tables = (
            self._connection.execute(statement).fetchone()[0]
            for statement in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_master",
            )
        )
        if (application, format_, tables) == (0, 0, 0):
            for statement in _SCHEMA:
                self._connection.execute(statement)
        elif (application, format_) != (_APPLICATION, _FORMAT):
            raise StorageError(
                f"{self._path} has mesh format {format_} of application {application:#x}, expected "
                f"{_FORMAT} of {_APPLICATION:#x}; move the file away"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk may have ended it already
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with file_errors(self._path):
            try:
                yield
            except sqlite3.Error as error:
                raise StorageError(
                    f"associations in {self._path}: {error}; check the disk, or move the file away: the "
                    "mesh is made anew, without what use has taught it"
                ) from None
