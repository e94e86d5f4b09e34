"""An index in parts: each id belongs to one shard, a search asks all of them at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brein.errors import StorageError
from brein.index.base import Footprint, Index, IndexConfig, LabelArray, Metric, Neighbours, check_known
from brein.index.plain import PlainIndex
from brein.records import FloatArray
from brein.sharding import shard_of

Result = TypeVar("Result")
NOT_THERE = np.int64(np.iinfo(np.int64).max)  # in an order: after everything that is there
_BATCH = 16_384  # vectors moved at once while resharding


class ShardedIndex(Index):
    """`config.shards` indexes of one kind.

    All shards share one training. Results are merged in the metric's own direction, equal scores in the order
    the ids were added, so that with flat shards they are those of one flat index. In batches of 20 queries
    and more FAISS multiplies matrices: scores may then differ in their last bits, and ids whose scores do.
    """

    def __init__(
        self, config: IndexConfig, dimension: int, make: Callable[[IndexConfig], PlainIndex]
    ) -> None:
        super().__init__(config, dimension)
        self._make = make
        self.shards = [self._empty() for _ in range(config.shards)]
        self._order: dict[str, int] = {}  # by id, when it was added
        self._next = 0
        self._pool = ThreadPoolExecutor(
            min(config.shards, _threads()), "shard", initializer=_search_on_one_thread
        )

    def _empty(self) -> PlainIndex:
        # Vectors are normalised here, once, so that a shard's cosine is the inner product.
        metric = "inner_product" if self.config.metric == "cosine" else self.config.metric
        return self._make(_with_metric(self.config.model_copy(update={"shards": 1}), metric))

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._order

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added without training first."""
        return self.shards[0].is_trained

    def _train(self, vectors: FloatArray) -> None:
        self.shards[0].train(vectors)
        for shard in self.shards[1:]:
            shard.structure.adopt_training(self.shards[0].structure)

    def _add(self, ids: Sequence[str], vectors: FloatArray) -> None:
        rows = self._by_shard(ids)
        try:
            self._in_all(
                lambda number: self.shards[number].add([ids[n] for n in rows[number]], vectors[rows[number]])
            )
        except (StorageError, MemoryError, RuntimeError):  # in one shard: the others have added theirs
            self._in_all(lambda number: self.shards[number].remove([ids[n] for n in rows[number]]))
            raise
        self._order.update(zip(ids, range(self._next, self._next + len(ids)), strict=True))
        self._next += len(ids)

    def _by_shard(self, ids: Sequence[str]) -> list[list[int]]:
        rows: list[list[int]] = [[] for _ in self.shards]
        for row, id_ in enumerate(ids):
            rows[shard_of(id_, len(self.shards))].append(row)
        return rows

    def _remove(self, ids: Sequence[str]) -> None:
        rows = self._by_shard(ids)
        self._in_all(lambda number: self.shards[number].remove([ids[n] for n in rows[number]]))
        for id_ in ids:
            del self._order[id_]

    def _search(self, queries: FloatArray, k: int, among: Collection[str] | None) -> Neighbours:
        # A shard passes over ids that are not its own; that is cheaper than to hash them here.
        found = self._in_all(lambda number: self.shards[number].search(queries, k, among))
        orders = [self._orders(part) for part in found]
        return merged(found, orders, k, self.config.metric)

    def _orders(self, part: Neighbours) -> LabelArray:
        orders = np.full(part.scores.shape, NOT_THERE)
        for row, ids in enumerate(part.ids):
            orders[row, : len(ids)] = [self._order[id_] for id_ in ids]
        return orders

    def vectors(self, ids: Sequence[str]) -> FloatArray:
        """The vectors under `ids` as they are held, float32 (n, d).

        Raises:
            DataError: an id is not there.
        """
        check_known(ids, self._order)
        found = np.empty((len(ids), self.dimension), dtype=np.float32)
        for shard, rows in zip(self.shards, self._by_shard(ids), strict=True):
            found[rows] = shard.vectors([ids[row] for row in rows])
        return found

    def reshard(self, shards: int) -> None:
        """Spread the vectors over another number of shards, as they are held, in the order they were added.

        What is compressed is decoded and coded again with the same centroids: product and scalar codes stay
        as they are, codes of residuals may change by a step. An engine builds anew from the stored vectors.

        Raises:
            ConfigError: an index cannot have so many.
        """
        config = self.config.model_copy(update={"shards": shards})
        made = ShardedIndex(type(config).read(config.model_dump_json()), self.dimension, self._make)
        made._adopt_training(self)
        ids = sorted(self._order, key=self._order.__getitem__)
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH]
            made._add(batch, self.vectors(batch))
        self.__dict__.update(made.__dict__)

    def _adopt_training(self, other: ShardedIndex) -> None:
        learnt = other.shards[0].structure
        for shard in self.shards:
            shard.structure.adopt_training(learnt)
            learnt = shard.structure  # empty, so cheaper to copy
        self.trained_on = other.trained_on

    def _tune(self, config: Any) -> None:
        for shard in self.shards:
            shard.retune(_with_metric(config.model_copy(update={"shards": 1}), shard.config.metric))

    def footprint(self) -> Footprint:
        """Bytes held now, by part, over all shards; `ids` counts the order in which they came, too."""
        total = Footprint({}, {})
        for shard in self.shards:
            for sums, parts in zip(total, shard.footprint(), strict=True):
                for part, size in parts.items():
                    sums[part] = sums.get(part, 0) + size
        order = sys.getsizeof(self._order) + sum(map(sys.getsizeof, self._order.values()))
        total.resident["ids"] = total.resident.get("ids", 0) + order
        return total

    def write(self, folder: Path) -> dict[str, Any]:
        """Write every shard into a folder of its own; return the facts that `read` needs.

        A single one is written as the plain index that `create` makes for `shards = 1`.
        """
        if len(self.shards) == 1:
            return self.shards[0].write(folder)
        facts = []
        for number, shard in enumerate(self.shards):
            (folder / f"shard-{number}").mkdir()
            facts.append(shard.write(folder / f"shard-{number}"))
        (folder / "order.json").write_text(json.dumps(sorted(self._order, key=self._order.__getitem__)))
        return {"trained_on": self.trained_on, "shards": facts}

    def read(self, folder: Path, facts: dict[str, Any]) -> None:
        """Take over what `write` wrote."""
        for number, shard in enumerate(self.shards):
            shard.read(folder / f"shard-{number}", facts["shards"][number])
        ids = json.loads((folder / "order.json").read_bytes())
        known = {id_: id_ for shard in self.shards for id_ in shard.ids()}  # each text once in memory
        self._order, self._next = {known[id_]: n for n, id_ in enumerate(ids)}, len(ids)
        self.trained_on = facts["trained_on"]

    def _in_all(self, work: Callable[[int], Result]) -> list[Result]:
        """Do `work` for every shard's number, in parallel; all of it is done when this returns or raises."""
        working = [self._pool.submit(work, number) for number in range(len(self.shards))]
        wait(working)
        return [one.result() for one in working]


def merged(parts: Sequence[Neighbours], orders: Sequence[LabelArray], k: int, metric: Metric) -> Neighbours:
    """The `k` best of all parts, in the metric's own direction, equal scores in the order they were added.

    `parts` are of the same queries and the same width, at least one. `orders`, int64 of the shape of their
    scores, says when each id was added; NOT_THERE where a row has no more ids.
    """
    scores, order = np.hstack([part.scores for part in parts]), np.hstack(orders)
    width = parts[0].scores.shape[1]
    best = np.lexsort((order, scores if metric == "l2" else -scores), axis=1)[:, :k]
    rows = [
        [parts[n // width].ids[row][n % width] for n in chosen if order[row, n] != NOT_THERE]
        for row, chosen in enumerate(best)
    ]
    return Neighbours(np.take_along_axis(scores, best, 1), rows)


def _with_metric(config: IndexConfig, metric: str) -> IndexConfig:
    """The configuration with another metric, in all its parts."""
    changes: dict[str, Any] = {"metric": metric}
    first = getattr(config, "first", None)
    if first is not None:
        changes["first"] = first.model_copy(update={"metric": metric})
    return config.model_copy(update=changes)


def _threads() -> int:
    """How many threads FAISS may use: cores, or what OMP_NUM_THREADS says."""
    import faiss

    return int(faiss.omp_get_max_threads())


def _search_on_one_thread() -> None:
    import faiss

    faiss.omp_set_num_threads(1)  # shards are the parallelism
