"""A sharded store: several SQLite files, each document in the one that its shard key names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

from brein.errors import StorageError
from brein.sharding import shard_of
from brein.storage.base import DocumentStore, Row
from brein.storage.filters import Value, Where, text_errors
from brein.storage.layout import Layout
from brein.storage.shard import SQLiteStore

T = TypeVar("T")


class ShardedStorage(DocumentStore):
    """Several plain stores, asked in parallel and in this order, each document in one of them.

    The shard key is "id" or the name of a metadata field; a document in which that field is missing or null
    goes by its id. A call that names ids asks their shards where the key is "id", and all shards otherwise;
    a filter that says which text the key's field equals asks one shard.

    What is atomic: in a crash, a batch within one shard. Of a batch over several shards, one that was
    acknowledged is there whole; one that was not may be there in part, each document old or new. Where a
    shard refuses a batch, no shard keeps anything of it; only a COMMIT that fails in one shard (SQLite
    writes to the disk there) can leave a batch in part, and the error says so. A document whose key changes
    is written to its new shard before it goes from its old one, and a note kept with it makes the next call,
    after a crash too, finish what was not finished.
    """

    def __init__(self, shards: Sequence[SQLiteStore], layout: Layout) -> None:
        self._shards = shards
        self._layout = layout
        self._key = layout.shard_key
        self._lock = RLock()
        self._closed = False
        self._settled = False  # no id is in two shards; a crash may have left one
        self._pool = ThreadPoolExecutor(len(shards) - 1, thread_name_prefix="brein-storage")

    @property
    def identity(self) -> str:
        """A random name, given at creation and kept for ever, by backups too."""
        return self._layout.identity

    def write(self, rows: Sequence[Row], space: str) -> None:
        """Store rows of distinct ids, as `add` does; each shard's in one transaction, in parallel."""
        with self._at_rest():
            self._check_fits(rows, space)
            parts: dict[int, list[Row]] = {}
            for row in rows:
                parts.setdefault(self._shard_of(row), []).append(row)
            moved = self._moving(parts)
            self._settled = not any(moved.values())
            works = {n: partial(self._shards[n].put, part, space, moved[n]) for n, part in parts.items()}
            self._transact(works)
            self._settle()

    def delete(self, ids: Sequence[str]) -> int:
        """Forget what is there of `ids`; return how many that was. Each shard's are one transaction."""
        with self._at_rest():
            parts = self._by_shard(ids)
            works = {n: partial(self._shards[n].remove, part) for n, part in parts.items()}
            return sum(self._transact(works))

    def pages(self, columns: str, size: int) -> Iterator[list[Any]]:
        """Rows of these columns, the first being the id, in lists of at most `size`, shard after shard."""
        for shard in self._shards:
            pages = shard.pages(columns, size)
            while True:
                with self._at_rest():
                    page = next(pages, None)
                if page is None:
                    break
                yield page

    def frequencies(self, text: str) -> dict[str, int]:
        """How many documents have each of `words_of(text)`, in any form that has the same stem."""
        with self._at_rest():
            counts: Counter[str] = Counter()
            for found in self._each([partial(shard.frequencies, text) for shard in self._shards]):
                counts.update(found)
            return dict(counts)

    def stems(self, text: str) -> dict[str, str]:
        """The stem of each of `words_of(text)`."""
        with self._at_rest():
            return self._shards[0].stems(text)

    def stored_bytes(self) -> int:
        """Bytes of all shards' files, write-ahead logs included; in memory, of the pages."""
        return sum(shard.stored_bytes() for shard in self._shards)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._closed = True
            self._pool.shutdown()
            for shard in self._shards:
                shard.close()

    def _ask(self, statement: str, parameters: Sequence[Value] = (), where: Where | None = None) -> list[Any]:
        with self._at_rest():
            shards = self._holding(where)
            return list(chain(*self._each([partial(shard._ask, statement, parameters) for shard in shards])))

    def _select(self, columns: str, ids: Sequence[str]) -> list[Any]:
        with self._at_rest():
            parts = self._by_shard(ids)
            # A few rows by id are read sooner than another thread is woken.
            return list(chain(*(self._shards[n]._select(columns, part) for n, part in parts.items())))

    def _copy(self, folder: Path) -> None:
        paths = self._layout.paths(folder)
        paths[0].parent.mkdir(parents=True)
        with self._at_rest():
            self._each([partial(shard.copy_to, paths[n]) for n, shard in enumerate(self._shards)])
        self._layout.finish(folder)

    # --- which shard -----------------------------------------------------------------------------------

    def _shard_of(self, row: Row) -> int:
        key = row.id if self._key == "id" else json.loads(row.metadata).get(self._key)
        return shard_of(row.id if key is None else _text(key), len(self._shards))

    def _by_shard(self, ids: Sequence[str]) -> dict[int, list[str]]:
        """Which of `ids` to ask each shard for."""
        if self._key != "id":
            return {n: list(ids) for n in range(len(self._shards))} if ids else {}
        parts: dict[int, list[str]] = {}
        for id_ in ids:
            parts.setdefault(shard_of(id_, len(self._shards)), []).append(id_)
        return parts

    def _holding(self, where: Where | None) -> Sequence[SQLiteStore]:
        """The shards that can hold what `where` describes."""
        wanted = (where or {}).get(self._key) if self._key != "id" else None
        if isinstance(wanted, Mapping):
            wanted = wanted.get("eq")
        if isinstance(wanted, str):
            return [self._shards[shard_of(wanted, len(self._shards))]]
        return self._shards

    # --- several shards at once ------------------------------------------------------------------------

    def _each(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Make the calls, one a shard, in parallel; when this returns or raises none is still at work."""
        if not calls:
            return []
        futures = [self._pool.submit(call) for call in calls[1:]]
        try:
            return [calls[0](), *(future.result() for future in futures)]
        finally:
            wait(futures)

    def _transact(self, works: Mapping[int, Callable[[], T]]) -> list[T]:
        """Do each shard's work in a transaction of its own; commit when all is done, or undo it all."""
        shards = [self._shards[n] for n in works]

        def execute(shard: SQLiteStore, work: Callable[[], T]) -> T:
            shard.begin()
            return work()

        try:
            done = self._each([partial(execute, *pair) for pair in zip(shards, works.values(), strict=True)])
        except BaseException:
            self._each([shard.rollback for shard in shards])
            raise
        try:
            self._each([shard.commit for shard in shards])
        except StorageError as error:
            if len(shards) == 1:
                raise
            raise StorageError(f"{error}; the batch may be stored in part, so write it again") from None
        return done

    # --- documents that change shards ------------------------------------------------------------------

    def _moving(self, parts: Mapping[int, Sequence[Row]]) -> dict[int, list[str]]:
        """For each shard, which of its new rows lie in another shard now."""
        moving: dict[int, list[str]] = {n: [] for n in parts}
        if self._key == "id":
            return moving
        target = {row.id: n for n, rows in parts.items() for row in rows}
        calls = [partial(shard._select, "id", list(target)) for shard in self._shards]
        for n, found in enumerate(self._each(calls)):
            for (id_,) in found:
                if target[id_] != n:
                    moving[target[id_]].append(id_)
        return moving

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        with self._lock, text_errors():
            if self._closed:
                raise StorageError("the document store is closed; open it again")
            self._settle()
            yield

    def _settle(self) -> None:
        """Remove moved documents from where they were before, if that is still to be done."""
        if self._settled:
            return
        moved = self._each([shard.moved for shard in self._shards])
        if any(moved):
            gone = {
                n: partial(shard.remove, [id_ for m, ids in enumerate(moved) if m != n for id_ in ids])
                for n, shard in enumerate(self._shards)
            }
            self._transact(gone)
            self._transact({n: shard.forget_moved for n, shard in enumerate(self._shards)})
        self._settled = True


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
