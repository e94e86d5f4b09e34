"""The interface of every document store, its settings, and the form documents are stored in."""

from __future__ import annotations

import heapq
import json
import os
import re
import shutil
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from brein.errors import DataError, StorageError
from brein.files import sync
from brein.records import Document, FloatArray
from brein.settings import Settings
from brein.storage import queries
from brein.storage.filters import Value, Where, condition, problem
from brein.storage.layout import file_errors, make_folder
from brein.texts import shown

_WORD = re.compile(r"[^\W_]+")  # as FTS5's unicode61 divides a text; without a sign that its queries know
_MOST_WORDS = 256


class StorageConfig(Settings):
    """Settings of the document store."""

    kind: Literal["sqlite"] = "sqlite"
    synchronous: Literal["normal", "full"] = Field(
        "full", description="full: a commit survives power loss; normal: it survives the process only"
    )
    shards: int = Field(1, ge=1, le=64, description="SQLite files; 1: a plain store")
    shard_key: str = Field(
        "id",
        min_length=1,
        description="what decides a document's shard: id, or the name of a metadata field such as user_id",
    )


class Row(NamedTuple):
    """A document as it is stored: metadata as JSON, the vector as little-endian float32 bytes."""

    id: str
    text: str
    metadata: str
    vector: bytes


class DocumentStore(ABC):
    """Documents with their vectors, on disk or in memory.

    All vectors lie in one space and have one dimension. Safe to use from several threads: one call at a
    time, and each call sees whole batches only. One store at a time may have a folder open: whoever opens one
    holds `layout.claim` of its folder.

    Raises:
        StorageError: from any call, where a file is missing, foreign, damaged or cannot be written.
        DataError: from any call, where a text is not valid Unicode.
    """

    _counted = ("", 0)  # documents under a version: counting reads every id

    @property
    @abstractmethod
    def identity(self) -> str:
        """A random name, given at creation and kept for ever, by backups too."""

    @abstractmethod
    def write(self, rows: Sequence[Row], space: str) -> None:
        """Store rows of distinct ids, as `add` does."""

    @abstractmethod
    def delete(self, ids: Sequence[str]) -> int:
        """Forget what is there of `ids`; return how many that was."""

    @abstractmethod
    def pages(self, columns: str, size: int) -> Iterator[list[Any]]:
        """Rows of these columns, the first being the id, in lists of at most `size`."""

    @abstractmethod
    def frequencies(self, text: str) -> dict[str, int]:
        """How many documents have each of `words_of(text)`, in any form that has the same stem."""

    @abstractmethod
    def stems(self, text: str) -> dict[str, str]:
        """The stem of each of `words_of(text)`."""

    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes of the database files, write-ahead logs included; in memory, of the pages."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    @abstractmethod
    def _ask(self, statement: str, parameters: Sequence[Value] = (), where: Where | None = None) -> list[Any]:
        """The rows of each shard. Shards in which nothing can fulfil `where` may be left out."""

    @abstractmethod
    def _select(self, columns: str, ids: Sequence[str]) -> list[Any]:
        """These columns of those of `ids` that are stored, in any order."""

    @abstractmethod
    def _copy(self, folder: Path) -> None:
        """Write the files of a backup into an empty folder, flushed, all from the same moment."""

    # --- what is the same for every store --------------------------------------------------------------

    @property
    def version(self) -> str:
        """A token that every change renews and that never comes back; equal tokens mean equal content.

        What is derived from the documents is up to date where it was made under the same token. A backup
        has its store's token until either is written to.
        """
        tokens = [rows[0][0] for rows in self._ask("SELECT value FROM facts WHERE name = 'version'")]
        if len(tokens) == 1:
            return str(tokens[0])
        return blake2b(" ".join(tokens).encode(), digest_size=16).hexdigest()

    @property
    def space(self) -> str:
        """What `add` was told of the space the stored vectors lie in; empty where none are stored."""
        space = self._first("value FROM facts WHERE name = 'space' AND EXISTS (SELECT 1 FROM documents)")
        return str(space or "")

    @property
    def dimension(self) -> int | None:
        """Components of the stored vectors; None where none are stored."""
        length = self._first("length(vector) FROM documents LIMIT 1")
        return None if length is None else length // 4

    def __len__(self) -> int:
        version = self.version  # read first: a count made after it is never taken for an older one
        if self._counted[0] != version:
            count = sum(rows[0][0] for rows in self._ask("SELECT count(*) FROM documents"))
            self._counted = (version, count)
        return self._counted[1]

    def add(self, documents: Sequence[Document], vectors: FloatArray, space: str) -> None:
        """Store documents with their vectors, float32 (n, d), replacing equal ids.

        Of equal ids among `documents` the last counts. `space` says what makes the vectors comparable with
        others.

        Raises:
            DataError: `check` fails, or the vectors have another dimension or space than the stored ones.
                Nothing is stored then.
        """
        check(documents, vectors)
        if rows := _rows(documents, vectors):
            self.write(rows, space)

    def existing(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that are stored, in the order given."""
        found = {id_ for (id_,) in self._select("id", ids)}
        return [id_ for id_ in dict.fromkeys(ids) if id_ in found]

    def texts(self, ids: Sequence[str]) -> dict[str, str]:
        """The texts of those of `ids` that are stored."""
        return dict(self._select("id, text", ids))

    def get(self, id_: str) -> Document | None:
        """One document, or None."""
        rows = self._select("text, metadata", [id_])
        return Document(id_, rows[0][0], json.loads(rows[0][1])) if rows else None

    def vectors(self, ids: Sequence[str] | None = None) -> tuple[list[str], FloatArray]:
        """Ids with vectors, float32 (n, d): of `ids` those stored, in the order given; or all, by id."""
        if ids is None:
            shards = self._ask("SELECT id, vector FROM documents ORDER BY id")
            return _unpacked(list(heapq.merge(*shards)))
        found = dict(self._select("id, vector", ids))
        return _unpacked([(id_, found[id_]) for id_ in ids if id_ in found])

    def vector_batches(self, size: int = 10_000) -> Iterator[tuple[list[str], FloatArray]]:
        """Every id with its vector, float32 (n, d), at most `size` at a time, ordered by id within a shard.

        Each batch is read when it is asked for: a document written in between may be there, or not.
        """
        return map(_unpacked, self.pages("id, vector", size))

    def find(self, where: Where) -> list[str]:
        """The ids, in order, of the documents whose metadata fulfil `where` (see `filters.Where`).

        Raises:
            DataError: the filter is malformed.
        """
        test, values = condition(where)
        statement = f"SELECT id FROM documents WHERE {test}"  # noqa: S608
        return sorted(row[0] for row in chain(*self._ask(statement, values, where)))

    def match(self, text: str, limit: int, where: Where | None = None) -> list[tuple[str, float]]:
        """Ids and scores of the `limit` documents that have a text's words, best first, equals by id.

        The score is BM25 over stemmed words (k1 = 1.2, b = 0.75; Robertson and Zaragoza 2009), with the word
        statistics of the shard the document lies in. Only the text's first 256 different words count; a
        document that has none of them is left out.

        Raises:
            DataError: the filter is malformed.
        """
        allowed, values = "", list[Value]()
        if where is not None:
            test, values = condition(where)
            allowed = f"AND words.rowid IN (SELECT number FROM documents WHERE {test})"  # noqa: S608
        words = words_of(text)
        if not words:
            return []
        wanted = " OR ".join(f'"{word}"' for word in words)
        # Only those within the limit are looked up in `documents`: most texts have some word of a query.
        statement = (
            "SELECT -score, id FROM (SELECT words.rowid AS match, bm25(words) AS score FROM words "  # noqa: S608
            f"WHERE words MATCH ? {allowed} ORDER BY score, match LIMIT ?) "
            "JOIN documents ON number = match ORDER BY score, id"
        )
        shards = self._ask(statement, (wanted, *values, limit), where)
        best = heapq.merge(*shards, key=lambda row: (-row[0], row[1]))
        return [(id_, score) for score, id_ in islice(best, limit)]

    def query(
        self,
        fields: Sequence[str],
        where: Where | None = None,
        order_by: Sequence[str] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[tuple[Any, ...]]:
        """One row of `fields` for every document that fulfils `where`.

        A field is "id", "text" or "metadata.<name>"; in `order_by` a leading "-" reverses it. Nulls sort
        before numbers, numbers before texts; equal rows, and all without `order_by`, are ordered by id.
        Booleans come back as 1 and 0, a missing field as None.

        Raises:
            DataError: a field is unknown, the filter is malformed, limit or offset is negative.
        """
        return self._answer(queries.select(fields, where, order_by, limit, offset), where)

    def aggregate(
        self,
        functions: Sequence[tuple[str, str]],
        where: Where | None = None,
        group_by: Sequence[str] = (),
    ) -> list[tuple[Any, ...]]:
        """One row for every group, in order: the values of `group_by`, then those of `functions`.

        A function is ("count", field), of what is not null, or ("sum" | "min" | "max" | "avg", field). sum
        and avg take numbers only and are floats; avg, min and max of nothing are None. Without `group_by` all
        is one group.

        Raises:
            DataError: a function or field is unknown, or the filter is malformed.
        """
        return self._answer(queries.aggregate(functions, where, group_by), where)

    def backup(self, folder: Path) -> None:
        """Copy the store, as it is at one moment, into a new or empty folder that `storage.create` opens.

        The folder is there whole and flushed, or not at all; only a process that is killed leaves a draft,
        `.<name>.<random>.draft`, beside it. Writers wait meanwhile.
        """
        folder = folder.absolute()
        with file_errors(folder):
            if folder.exists() and any(folder.iterdir()):
                raise StorageError(f"backup folder {folder} is not empty; choose a new one")
            draft = folder.with_name(f".{folder.name}.{token_hex(8)}.draft")
            try:
                make_folder(draft)
                self._copy(draft)
                sync(draft)
                os.replace(draft, folder)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            sync(folder.parent)

    def _answer(self, question: queries.Question, where: Where | None) -> list[tuple[Any, ...]]:
        return question.merged(self._ask(question.ask, question.parameters, where))

    def _first(self, selected: str) -> Any:
        """The first value that any shard has."""
        return next((row[0] for row in chain(*self._ask(f"SELECT {selected}"))), None)

    def _check_fits(self, rows: Sequence[Row], space: str) -> None:
        """Vectors of two spaces or dimensions would never be comparable, so they are never mixed."""
        stored, given = (self.dimension, self.space), (len(rows[0].vector) // 4, space)
        if stored[0] is not None and stored != given:
            raise DataError(
                f"vectors of dimension {given[0]} in the space {space!r}: the stored ones have dimension "
                f"{stored[0]} in the space {stored[1]!r}; delete those, or use another store"
            )


def words_of(text: str) -> list[str]:
    """The first 256 different words of a text, in their order, without a sign that FTS5's queries know."""
    # Composed: an accent that is a character of its own would divide a word, as it does not in FTS5.
    words = (word.lower() for word in _WORD.findall(unicodedata.normalize("NFC", text)))
    return list(islice(dict.fromkeys(words), _MOST_WORDS))


def check(documents: Sequence[Document], vectors: FloatArray | None = None) -> None:
    """See that documents, and vectors for them, float32 (n, d), can be stored.

    Raises:
        DataError: these are no documents, an id or text is not valid Unicode, metadata are not texts,
            numbers, booleans and nulls, or the vectors have another shape, or are not finite.
    """
    if not isinstance(documents, Sequence):
        raise DataError(f"the documents are a {type(documents).__name__}; give a list of documents")
    for document in documents:
        _check_document(document)
    if vectors is None:
        return
    if vectors.ndim != 2 or len(vectors) != len(documents):
        raise DataError(
            f"{len(documents)} documents take vectors of shape ({len(documents)}, d); got {vectors.shape}"
        )
    finite = np.isfinite(_stored_as(vectors)).all(axis=1)
    if not finite.all():
        id_ = documents[int(finite.argmin())].id
        raise DataError(f"document {id_!r}: its vector holds NaN or infinity in float32; give finite numbers")


def _check_document(document: Document) -> None:
    if not isinstance(document, Document):
        raise DataError(f"{shown(document)} is a {type(document).__name__}; give documents")
    which = f"document {shown(document.id)}"
    for part, text in (("id", document.id), ("text", document.text)):
        if not isinstance(text, str):
            raise DataError(f"{which}: its {part} is a {type(text).__name__}; give a text")
        if reason := problem(text):
            raise DataError(f"{which}: its {part}: {reason}")
    if not isinstance(document.metadata, Mapping):
        raise DataError(f"{which}: its metadata are a {type(document.metadata).__name__}; give a mapping")
    for name, value in document.metadata.items():
        if not isinstance(name, str) or problem(name):
            raise DataError(f"{which}: the name of metadata field {shown(name)} must be a valid text")
        if reason := problem(value):
            raise DataError(f"{which}: metadata {name!r} = {shown(value)}: {reason}")


def _stored_as(vectors: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # of float64; what becomes infinity is refused
        return np.asarray(vectors, dtype="<f4")


def _unpacked(rows: Sequence[tuple[str, bytes]]) -> tuple[list[str], FloatArray]:
    data = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f4")
    return [row[0] for row in rows], data.reshape(len(rows), -1) if rows else data.reshape(0, 0)


def _rows(documents: Sequence[Document], vectors: FloatArray) -> list[Row]:
    rows = {
        document.id: Row(document.id, document.text, json.dumps(dict(document.metadata)), vector.tobytes())
        for document, vector in zip(documents, _stored_as(vectors), strict=True)
    }
    return list(rows.values())
