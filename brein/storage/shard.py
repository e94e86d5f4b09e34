"""A plain store: one SQLite file, or memory; what was acknowledged survives a crash."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from secrets import token_hex
from threading import RLock
from typing import Any

from brein.errors import StorageError
from brein.storage.base import DocumentStore, Row, StorageConfig, words_of
from brein.storage.filters import Value, Where, problem, text_errors
from brein.storage.layout import FORMAT, PLAIN, Layout, file_errors
from brein.storage.vocabulary import Vocabulary

_APPLICATION = 0x42524E44  # "BRND": tells our files from other people's
_FIELDS = (
    # Metadata that are not null, once more, as SQLite's own values: found by an index, compared exactly, and
    # under names that no JSON path could quote.
    """CREATE TABLE fields (
        id TEXT NOT NULL, name TEXT NOT NULL, value NOT NULL, PRIMARY KEY (id, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX fields_by_value ON fields (name, value)",
    # Ids that moved into this shard and may still lie in another one as well.
    "CREATE TABLE moved (id TEXT PRIMARY KEY) WITHOUT ROWID",
)
# With numbers of its own: a row this long would fill a page of its own in a table without rowids, and rowids
# that have no column may change in a VACUUM.
_DOCUMENTS = """CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL,
    text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB NOT NULL
)"""
_WORDS = (
    # Which documents have which words, stemmed. The texts stay in `documents`.
    """CREATE VIRTUAL TABLE words USING fts5 (
        text, content = 'documents', content_rowid = 'number', tokenize = 'porter unicode61'
    )""",
    """CREATE TRIGGER words_of_new AFTER INSERT ON documents BEGIN
        INSERT INTO words (rowid, text) VALUES (new.number, new.text);
    END""",
    """CREATE TRIGGER words_of_old AFTER DELETE ON documents BEGIN
        INSERT INTO words (words, rowid, text) VALUES ('delete', old.number, old.text);
    END""",
)
_SCHEMA = (
    _DOCUMENTS,
    *_WORDS,
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "INSERT INTO facts VALUES ('version', '0'), ('space', '')",
    *_FIELDS,
)
_RENEW = """
UPDATE facts SET value = (CAST(value AS INTEGER) + 1) || '-' || lower(hex(randomblob(8)))
WHERE name = 'version'
"""
_SHORTEST = 512  # bytes of a database: its smallest page
_CHUNK = 500  # ids in one statement; SQLite's limit on variables is at least 999


class SQLiteStore(DocumentStore):
    """One SQLite file in WAL mode, or memory where `path` is None; made if it is not there.

    A batch is one transaction: all of it is stored, or nothing. A new file gets `identity`, or a random one.
    `begin` to `rollback` are for `ShardedStorage`, whose transactions span several of these.

    Raises:
        StorageError: the file cannot be opened, is not ours, is of another format, or is damaged.
    """

    def __init__(self, config: StorageConfig, path: Path | None, identity: str | None = None) -> None:
        self._path = path
        self._place = str(path or "memory")
        self._lock = RLock()
        self._closed = False
        new = path is None or not path.exists()
        # SQLite would take a file this short for a new one.
        if path is not None and not new and path.stat().st_size < _SHORTEST:
            raise StorageError(f"documents in {path}: truncated; restore a backup or remove it")
        with self._errors():
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path, check_same_thread=False, isolation_level=None
            )
            try:
                with self.transaction():
                    self._create(identity or token_hex(16)) if new else self._check_format()
                # Only now is the file known to be ours to change. The mode is one of two configured words.
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(f"PRAGMA synchronous = {config.synchronous}")
                self._identity = str(self._first("value FROM facts WHERE name = 'identity'"))
                self._connection.execute("PRAGMA temp_store = MEMORY")
                self._vocabulary = Vocabulary(self._connection)
            except BaseException:
                self._connection.close()
                raise

    @property
    def identity(self) -> str:
        """A random name, given at creation and kept for ever, by backups too."""
        return self._identity

    def write(self, rows: Sequence[Row], space: str) -> None:
        """Store rows of distinct ids in one transaction, as `add` does."""
        with self.transaction():
            self._check_fits(rows, space)
            self.put(rows, space)

    def delete(self, ids: Sequence[str]) -> int:
        """Forget what is there of `ids`, in one transaction; return how many that was."""
        with self.transaction():
            return self.remove(ids)

    def pages(self, columns: str, size: int) -> Iterator[list[Any]]:
        """Rows of these columns, the first being the id, in lists of at most `size`, ordered by id."""
        comparison, last = ">=", ""
        while True:
            # Only our own column names and a sign are put into the statement.
            statement = f"SELECT {columns} FROM documents WHERE id {comparison} ? ORDER BY id LIMIT ?"  # noqa: S608
            (rows,) = self._ask(statement, (last, size))
            if not rows:
                return
            yield rows
            comparison, last = ">", rows[-1][0]

    def frequencies(self, text: str) -> dict[str, int]:
        """How many documents have each of `words_of(text)`, in any form that has the same stem."""
        with self._errors():
            return self._vocabulary.counts(words_of(text), self.version)

    def stems(self, text: str) -> dict[str, str]:
        """The stem of each of `words_of(text)`."""
        with self._errors():
            return self._vocabulary.stems(words_of(text))

    def stored_bytes(self) -> int:
        """Bytes of the file and its write-ahead log; in memory, of the pages."""
        if self._path is None:
            return int(self._first("page_count * page_size FROM pragma_page_count, pragma_page_size"))
        with file_errors(self._path):
            log = self._path.with_name(f"{self._path.name}-wal")
            return sum(file.stat().st_size for file in (self._path, log) if file.exists())

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._closed = True
            self._connection.close()

    def copy_to(self, path: Path) -> None:
        """Copy the database, as it is at one moment, into a new file."""
        with self._errors(), closing(sqlite3.connect(path)) as target:
            self._connection.backup(target)

    # --- transactions ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begin a transaction."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")

    def put(self, rows: Sequence[Row], space: str, moved: Sequence[str] = ()) -> None:
        """Store rows and note which of their ids lay in another shard; within a transaction."""
        with self._errors():
            ids = [(row.id,) for row in rows]
            # Not INSERT OR REPLACE: the trigger would not see what it replaces.
            self._connection.executemany("DELETE FROM documents WHERE id = ?", ids)
            self._connection.executemany(
                "INSERT INTO documents (id, text, metadata, vector) VALUES (?, ?, ?, ?)", rows
            )
            self._connection.executemany("DELETE FROM fields WHERE id = ?", ids)
            self._put_fields((row.id, row.metadata) for row in rows)
            self._connection.executemany("INSERT OR REPLACE INTO moved VALUES (?)", [(id_,) for id_ in moved])
            self._connection.execute("UPDATE facts SET value = ? WHERE name = 'space'", (space,))
            self._connection.execute(_RENEW)

    def remove(self, ids: Sequence[str]) -> int:
        """Forget what is there of `ids` and return how many that was; within a transaction."""
        given = [(id_,) for id_ in ids]
        with self._errors():
            self._connection.executemany("DELETE FROM fields WHERE id = ?", given)
            removed = self._connection.executemany("DELETE FROM documents WHERE id = ?", given).rowcount
            if removed:
                self._connection.execute(_RENEW)
            return removed

    def moved(self) -> list[str]:
        """The ids that `put` noted."""
        with self._errors():
            return [row[0] for row in self._connection.execute("SELECT id FROM moved")]

    def forget_moved(self) -> None:
        """Drop the notes of moved ids; within a transaction."""
        with self._errors():
            self._connection.execute("DELETE FROM moved")

    def commit(self) -> None:
        """Commit the transaction; where that fails nothing of it stays."""
        with self._errors():
            try:
                self._connection.execute("COMMIT")
            except BaseException:
                self.rollback()
                raise

    def rollback(self) -> None:
        """Undo the transaction, where there still is one: SQLite ends some by itself when they fail."""
        with self._errors():
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Begin; then commit, or roll back if anything is raised."""
        with self._lock:
            self.begin()
            try:
                yield
            except BaseException:
                self.rollback()
                raise
            self.commit()

    # --- parts -----------------------------------------------------------------------------------------

    def _ask(self, statement: str, parameters: Sequence[Value] = (), where: Where | None = None) -> list[Any]:
        with self._errors():
            return [self._connection.execute(statement, parameters).fetchall()]

    def _select(self, columns: str, ids: Sequence[str]) -> list[Any]:
        rows: list[Any] = []
        with self._errors():
            for start in range(0, len(ids), _CHUNK):
                chunk = ids[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                # Only our own column names and question marks are put into the statement.
                statement = f"SELECT {columns} FROM documents WHERE id IN ({marks})"  # noqa: S608
                rows += self._connection.execute(statement, chunk)
        return rows

    def _copy(self, folder: Path) -> None:
        self.copy_to(folder / PLAIN)
        Layout().finish(folder)

    def _create(self, identity: str) -> None:
        for statement in _SCHEMA:
            self._connection.execute(statement)
        self._mark(identity)

    def _check_format(self) -> None:
        application, format_ = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("application_id", "user_version")
        )
        if (application, format_) == (_APPLICATION, FORMAT):
            return
        tables = {
            row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if (application, format_) == (_APPLICATION, 2):
            self._migrate_to_3()
        elif (application, format_) == (0, 1) and tables == {"documents", "facts"}:
            self._migrate_to_2()
            self._migrate_to_3()
        else:
            raise StorageError(
                f"{self._place} has document format {format_} of application {application:#x}, expected "
                f"{FORMAT} of {_APPLICATION:#x}; use another path"
            )

    def _migrate_to_3(self) -> None:
        """From format 2, which had no numbers and no words. What is derived from them stays valid."""
        for statement in (
            "ALTER TABLE documents RENAME TO old",
            _DOCUMENTS,
            "INSERT INTO documents (id, text, metadata, vector) SELECT id, text, metadata, vector FROM old",
            "DROP TABLE old",
            *_WORDS,
            "INSERT INTO words (words) VALUES ('rebuild')",
            f"PRAGMA user_version = {FORMAT}",
        ):
            self._connection.execute(statement)

    def _migrate_to_2(self) -> None:
        """From format 1, which had no fields and no identity, and a counter for a version."""
        for statement in _FIELDS:
            self._connection.execute(statement)
        self._put_fields(self._connection.execute("SELECT id, metadata FROM documents"))
        self._connection.execute("UPDATE facts SET name = 'version' WHERE name = 'generation'")
        self._mark(token_hex(16))

    def _mark(self, identity: str) -> None:
        self._connection.execute("INSERT INTO facts VALUES ('identity', ?)", (identity,))
        self._connection.execute(_RENEW)
        self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    def _put_fields(self, rows: Iterator[tuple[str, str]]) -> None:
        self._connection.executemany(
            "INSERT INTO fields VALUES (?, ?, ?)",
            (
                (id_, name, value)
                for id_, metadata in rows
                for name, value in json.loads(metadata).items()
                # Files of format 1 may hold lists and the like; they cannot be searched for.
                if value is not None and problem(value) is None
            ),
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._lock, text_errors():
            if self._closed:
                raise StorageError("the document store is closed; open it again")
            try:
                yield
            except sqlite3.Error as error:
                raise StorageError(
                    f"documents in {self._place}: {error}; check the path, its permissions and the disk"
                ) from None
