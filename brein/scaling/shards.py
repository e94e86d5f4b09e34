"""The shards of an index as files: built from a document store, loaded by whoever serves them.

    folder/<identity>/<generation>/   of one version of these documents and one configuration of the index
      trained/                the index that every shard starts from: empty, and trained
      shard-0/, shard-1/, …   a saved index, and `order`: int64, little-endian, by label when each was added

A document is in the shard that `shard_of` names. A generation never changes once it is whole.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from brein import index
from brein.errors import StorageError
from brein.files import write_whole
from brein.index import IndexConfig, Neighbours
from brein.index.base import LabelArray
from brein.index.plain import PlainIndex
from brein.index.sharded import NOT_THERE
from brein.records import FloatArray
from brein.sharding import shard_of
from brein.storage import DocumentStore
from brein.upkeep import BATCH, fitting, sample

_GENERATION = re.compile("[0-9a-f]{32}")


class Batch(NamedTuple):
    """Vectors on their way into a shard: ids, float32 (n, d), and int64 (n,), when each is added of all."""

    ids: list[str]
    vectors: FloatArray
    order: LabelArray


class Part(NamedTuple):
    """What one shard found: neighbours, and their order, int64 of the shape of the scores, for `merged`."""

    neighbours: Neighbours
    order: LabelArray


class Plan(NamedTuple):
    """Which shards are to be built, and where: the index that each is, how many there are, their folder."""

    config: IndexConfig
    shards: int
    folder: Path

    @property
    def is_built(self) -> bool:
        """Whether all shards are there."""
        return all((_home(self.folder, number) / "CURRENT").exists() for number in range(self.shards))

    def sweep(self) -> None:
        """Remove the other generations of these documents."""
        for other in self.folder.parent.iterdir():
            if other != self.folder and _GENERATION.fullmatch(other.name):
                shutil.rmtree(other, ignore_errors=True)


def plan(documents: DocumentStore, config: IndexConfig, folder: Path) -> Plan:
    """How the index of these documents, of which there are some, lies under `folder` in `config.shards`."""
    facts = [documents.identity, documents.version, config.build_parameters]
    generation = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
    one = config.model_copy(update={"shards": 1})
    return Plan(fitting(one, len(documents)), config.shards, folder / documents.identity / generation)


def train(documents: DocumentStore, planned: Plan) -> None:
    """Save the index that every shard starts from, as an engine would train it on these documents.

    Raises:
        StorageError: it cannot be written.
    """
    made = index.create(planned.config, documents.dimension or 0)
    if not made.is_trained:
        made.train(sample(documents, planned.config.training_maximum))
    index.save(made, planned.folder / "trained")


def batches(documents: DocumentStore, saved: Path, shards: int) -> Iterator[list[Batch]]:
    """Every document's vector, at most 10,000 at a time, for each shard its own.

    They come in the order of the index an engine saved in the folder `saved`, where it is up to date, else in
    the order in which an engine would build one; which is how equal scores are ranked.
    """
    start = 0
    for ids, vectors in _in_order(documents, saved):
        rows: list[list[int]] = [[] for _ in range(shards)]
        for row, id_ in enumerate(ids):
            rows[shard_of(id_, shards)].append(row)
        yield [
            Batch([ids[row] for row in own], vectors[own], start + np.array(own, dtype=np.int64))
            for own in rows
        ]
        start += len(ids)


class Builder:
    """Builds a shard, on one thread, so that it is the same whoever builds it.

    Raises:
        StorageError: what it starts from is not there, on this machine, or is damaged.
    """

    def __init__(self, planned: Plan, number: int) -> None:
        import faiss

        faiss.omp_set_num_threads(1)
        self._home = _home(planned.folder, number)
        self._index = index.load(planned.config, planned.folder / "trained")
        self._order: list[LabelArray] = []

    def add(self, batch: Batch) -> None:
        """Add what comes next."""
        self._index.add(batch.ids, batch.vectors)
        self._order.append(batch.order)

    def save(self) -> None:
        """Write the shard.

        Raises:
            StorageError: it cannot be written.
        """
        order = np.concatenate([np.empty(0, dtype=np.int64), *self._order]).astype("<i8").tobytes()
        try:
            self._home.mkdir(exist_ok=True)
            write_whole(self._home / "order", order)
        except OSError as error:
            raise StorageError(f"{self._home}: {error.strerror}; choose a folder you can write") from None
        index.save(self._index, self._home, _digest(order))


class Shard:
    """A shard in memory, to be searched, each search on the calling thread.

    Raises:
        StorageError: its files are not there, on this machine, or are damaged.
    """

    def __init__(self, planned: Plan, number: int) -> None:
        home = _home(planned.folder, number)
        try:
            order = (home / "order").read_bytes()
        except OSError as error:
            raise StorageError(
                f"{home}: {error.strerror}; put scaling.folder where every node reaches it under this path"
            ) from None
        self.index = cast(PlainIndex, index.load(planned.config, home, _digest(order)))
        self._order = np.frombuffer(order, dtype="<i8")

    def search(self, queries: FloatArray, k: int, among: Collection[str] | None = None) -> Part:
        """The `k` nearest of each query, float32 (m, d), as `Index.search` finds them."""
        found = self.index.search(queries, k, among)
        order = np.full(found.scores.shape, NOT_THERE)
        for row, ids in enumerate(found.ids):
            order[row, : len(ids)] = self._order[self.index.labels(ids)]
        return Part(found, order)


def _in_order(documents: DocumentStore, saved: Path) -> Iterator[tuple[Sequence[str], FloatArray]]:
    try:
        order = index.saved_order(saved, documents.version)
    except StorageError:
        yield from documents.vector_batches(BATCH)
        return
    for start in range(0, len(order), BATCH):
        yield documents.vectors(order[start : start + BATCH])


def _home(folder: Path, number: int) -> Path:
    return folder / f"shard-{number}"


def _digest(order: bytes) -> str:
    return hashlib.sha256(order).hexdigest()
