"""Documents and their vectors in one SQLite file; what was acknowledged survives a crash."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import numpy as np
from pydantic import Field

from brein.errors import StorageError
from brein.records import Document, FloatArray
from brein.settings import Settings

FORMAT = 1  # of the file
_SCHEMA = """
CREATE TABLE IF NOT EXISTS documents (
    id TEXT PRIMARY KEY, text TEXT NOT NULL, metadata TEXT NOT NULL, vector BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO facts VALUES ('generation', 0), ('space', '');
"""
_CHUNK = 500  # ids in one statement; SQLite's limit on variables is at least 999


class StorageConfig(Settings):
    """Settings of the document store."""

    kind: Literal["sqlite"] = "sqlite"
    synchronous: Literal["normal", "full"] = Field(
        "full", description="full: a commit survives power loss; normal: it survives the process only"
    )


class DocumentStore:
    """One SQLite file, or memory where `path` is None.

    `generation` grows with every write, so that whatever is derived from the documents can tell whether
    it is up to date. Safe to use from several threads.

    Raises:
        StorageError: the file cannot be opened, is not ours, or cannot be written.
    """

    def __init__(self, config: StorageConfig, path: Path | None) -> None:
        self._where = str(path or "memory")
        self._lock = RLock()
        with self._errors():
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path, check_same_thread=False, isolation_level=None
            )
            # The synchronous mode is one of two words that the configuration allows.
            self._connection.executescript(
                f"PRAGMA journal_mode = WAL; PRAGMA synchronous = {config.synchronous};"
            )
            self._check_format()
            self._connection.executescript(_SCHEMA)

    def _check_format(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version != FORMAT and tables:
            raise StorageError(
                f"{self._where} has document format {version}, expected {FORMAT}; use another path"
            )
        self._connection.execute(f"PRAGMA user_version = {FORMAT}")

    @property
    def generation(self) -> int:
        """How many writes there have been."""
        with self._errors():
            row = self._connection.execute("SELECT value FROM facts WHERE name = 'generation'").fetchone()
        return int(row[0])

    @property
    def space(self) -> str:
        """What `add` was last told of the space its vectors lie in; empty before the first."""
        with self._errors():
            row = self._connection.execute("SELECT value FROM facts WHERE name = 'space'").fetchone()
        return str(row[0])

    def __len__(self) -> int:
        with self._errors():
            return int(self._connection.execute("SELECT count(*) FROM documents").fetchone()[0])

    def add(self, documents: Sequence[Document], vectors: FloatArray, space: str) -> None:
        """Store documents with their vectors, float32 (n, d), in one transaction, replacing equal ids.

        `space` says what makes the vectors comparable with others.
        """
        rows = [
            (d.id, d.text, json.dumps(dict(d.metadata)), vector.astype("<f4").tobytes())
            for d, vector in zip(documents, vectors, strict=True)
        ]
        with self._transaction():
            self._connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", rows)
            self._connection.execute("UPDATE facts SET value = ? WHERE name = 'space'", (space,))

    def delete(self, ids: Sequence[str]) -> int:
        """Forget what is there of `ids`, in one transaction; return how many that was."""
        with self._transaction():
            before = self._connection.total_changes
            self._connection.executemany("DELETE FROM documents WHERE id = ?", [(id_,) for id_ in ids])
            return self._connection.total_changes - before

    def existing(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that are stored."""
        return [row[0] for row in self._select("id", ids)]

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of `ids` that are stored."""
        return dict(self._select("id, text", ids))

    def get(self, id_: str) -> Document | None:
        """One document, or None."""
        rows = self._select("text, metadata", [id_])
        return Document(id_, rows[0][0], json.loads(rows[0][1])) if rows else None

    def vectors(self) -> tuple[list[str], FloatArray]:
        """Every id with its vector, float32 (n, d), ordered by id."""
        with self._errors():
            rows = self._connection.execute("SELECT id, vector FROM documents ORDER BY id").fetchall()
        data = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
        return [row[0] for row in rows], data.reshape(len(rows), -1) if rows else data.reshape(0, 0)

    def close(self) -> None:
        """Close the file."""
        with self._errors():
            self._connection.close()

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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("UPDATE facts SET value = value + 1 WHERE name = 'generation'")
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise StorageError(
                    f"documents in {self._where}: {error}; check the path, its permissions and the disk"
                ) from None
