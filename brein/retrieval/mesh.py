"""The neural mesh: which documents are associated, learnt from their vectors and from their use."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from brein.errors import DataError, StorageError
from brein.retrieval.links import DoubleArray, Edges, IntArray, Links, concatenated
from brein.settings import Settings
from brein.storage.edges import EdgeStore, Node

_BATCH = 1_000  # documents whose neighbours are asked for at once
_SAVE_AFTER = 60.0  # seconds of use that a crash may take
_FAINT = 1e-30  # a weight below which a link has faded; its powers would be nothing

Similar = Mapping[str, Mapping[str, float]]
"""Ids, each with the similarities of its neighbours by their ids, on the scale of the cosine."""


class MeshConfig(Settings):
    """Settings of the neural mesh."""

    enabled: bool = Field(False, description="associate documents, and follow the associations in a search")
    neighbours: int = Field(8, ge=1, le=64, description="most similar documents a new one is linked to")
    max_degree: int = Field(16, ge=1, le=256, description="edges of one kind a document may have")
    co_retrieved: int = Field(
        3, ge=0, le=10, description="best hits of a text that count as used together; 0: none"
    )
    half_life: float = Field(2_592_000.0, gt=0, description="seconds in which what use taught fades to half")
    seeds: int = Field(20, ge=1, le=1_000, description="best documents from which a traversal begins")
    budget: float = Field(0.5, gt=0, le=60, description="seconds; where it takes longer, it is left out")
    spread: float = Field(0.5, gt=0, lt=1, description="share of its activation that a full link passes on")
    hops: int = Field(2, ge=1, le=4, description="links from a seed to the furthest document")
    max_nodes: int = Field(1_000, ge=1, le=100_000, description="documents a step of it may activate")

    @model_validator(mode="after")
    def _neighbours_fit(self) -> Self:
        if self.neighbours > self.max_degree:
            raise ValueError(
                f"neighbours = {self.neighbours}: must be at most max_degree = {self.max_degree}"
            )
        return self

    def bytes_to_add(self, documents: int) -> int:
        """Bytes of memory that so many documents may take: for their edges, three quarters of that again
        while these grow or are read from the file, and for their ids; 0.7 KB each by default."""
        edges = 2 * (8 * self.max_degree + 8)  # of both kinds, and when each was written
        return documents * (7 * edges // 4 + 200)


class Mesh:
    """Associations between documents: an undirected graph with two kinds of edges.

    - Similar: a new document is linked to its nearest neighbours, with their similarity as the weight.
    - Used together: each time adds 1 to the weight, which halves every `half_life`.

    Of each kind a document keeps its `max_degree` strongest edges.

    Every document is known to the mesh, and only what is known is linked or found. So nothing deleted comes
    back, provided the mesh is told of each change, and `reconcile`d where it may have missed one. Edges are
    advice: a crash takes at most the last minute of use that was not saved, and where it interrupts the
    replacement of documents they keep the neighbours that their older texts had.

    `path` is the file it is kept in; None: in memory only. `now` gives seconds since 1970. Safe to use from
    several threads: one call at a time.

    Raises:
        StorageError: from any call but `traverse`, where the file is foreign, damaged or cannot be written.
            What could not be written is kept, and written with the next change.
    """

    def __init__(
        self, config: MeshConfig, path: Path | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._config = config
        self._now = now
        self._lock = RLock()
        self._numbers: dict[str, int] = {}
        self._ids: list[str | None] = []  # by number
        self._free: list[int] = []  # numbers of nobody
        self._similar = Links(config.max_degree)
        self._used = Links(config.max_degree, config.half_life)
        self._version = ""
        self._unsaved: set[int] = set()
        self._saved_at = now()
        self._store = None if path is None else EdgeStore(path)
        if self._store is not None:
            self._load(self._store, str(path))

    def __len__(self) -> int:
        with self._lock:
            return len(self._numbers)

    # --- what happens to documents -------------------------------------------------------------------

    def add(self, similar: Similar, version: str) -> None:
        """Follow the documents, which have `version` since these were added to them or replaced.

        Each is linked to its most similar neighbours, of those that are known or added here; similarities of
        0 and below are none, those above 1 count as 1. A replaced document keeps what its use has taught: its
        id says that it is the same document.
        """
        with self._lock:
            self._unsaved.update(self._similar.remove(self._register(similar)).tolist())
            self._link(similar)
            self._follow(version)

    def remove(self, ids: Iterable[str], version: str) -> None:
        """Follow the documents, which have `version` since `ids` were deleted."""
        with self._lock:
            self._forget(ids)
            self._follow(version)

    def reconcile(
        self, ids: Iterable[str], version: str, similar_to: Callable[[Sequence[str]], Similar]
    ) -> None:
        """Follow the documents where they have another version than the mesh was told of.

        Forgets all but `ids`, which the documents have now, and links those that no neighbours are known of;
        `similar_to` gives the neighbours of at most 1,000 ids at once. To be called whenever a change may
        have gone by: when the documents are opened, and when a write failed.
        """
        with self._lock:
            if self._version == version:
                return
            there = dict.fromkeys(ids)
            self._forget([id_ for id_ in self._numbers if id_ not in there])
            alone = list(self._ids_of(self._similar.isolated(self._register(there))))
            for start in range(0, len(alone), _BATCH):
                self._link(similar_to(alone[start : start + _BATCH]))
            self._follow(version)

    def strengthen(self, ids: Sequence[str]) -> None:
        """Learn that documents were used together: each pair of them.

        Unknown ids are left out; where there are more than a document can have links to, the first count.
        """
        with self._lock:
            known = [self._numbers[id_] for id_ in dict.fromkeys(ids) if id_ in self._numbers]
            nodes = np.array(known[: self._config.max_degree + 1], dtype=np.int64)
            one, other = np.triu_indices(len(nodes), 1)
            pairs = Edges(nodes[one], nodes[other], np.ones(len(one)))
            now = self._now()
            self._unsaved.update(self._used.merge(pairs, np.add, now).tolist())
            if not 0 <= now - self._saved_at < _SAVE_AFTER:
                self._save()

    def close(self) -> None:
        """Save what is not saved yet, and close the file. Closing twice does nothing."""
        with self._lock:
            if self._store is not None:
                try:
                    self._save()
                finally:
                    self._store.close()
                    self._store = None

    # --- traversal -----------------------------------------------------------------------------------

    def traverse(self, seeds: Mapping[str, float]) -> list[tuple[str, float]]:
        """Ids and activations of what `seeds`, ids with scores, activate; best first, equals by id.

        A seed is active with its score. Of what is active at one end of a link, the other end is given
        w × `spread`, where w is the weight of the link: the similarity, or uses ÷ (uses + 1). A document
        takes the mean of what its links give it, weighted with w², and passes it on, over at most `hops`
        links in all. The sum of what it took, and of its score, is its activation; 1 is the largest there is.

        The mean makes hubs and neighbours of many weak seeds no more active than neighbours of one strong
        seed, and bounds what the mesh can do: none but a seed reaches more than `spread` + `spread`² + …, a
        term for each of the `hops`, times the best score. Scores must say how much better one is than
        another, which ranks do not.

        Each step goes on with the `max_nodes` documents that are given most, of equal ones always the same.

        This is spreading activation, bounded in distance and number (Crestani, "Application of Spreading
        Activation Techniques in Information Retrieval", 1997), in the form of Diaz, "Regularizing Ad Hoc
        Retrieval Scores", 2005: what is like good hits is good. The weights w² were chosen among powers of w
        on the training judgements of SciFact.

        Raises:
            DataError: a score is negative or not finite.
        """
        for id_, score in seeds.items():
            if not (math.isfinite(score) and score >= 0):
                raise DataError(f"seed {id_!r}: its score {score} must be a finite number of at least 0")
        with self._lock:
            scores = {self._numbers[id_]: s for id_, s in seeds.items() if s > 0 and id_ in self._numbers}
            if not scores:
                return []
            numbers = sorted(scores)
            nodes, activation = self._spread(np.array(numbers), np.array([scores[n] for n in numbers]))
            ranked = sorted(zip((-activation).tolist(), self._ids_of(nodes), strict=True))
            return [(id_, negative / ranked[0][0]) for negative, id_ in ranked]

    def _spread(self, nodes: IntArray, activation: DoubleArray) -> tuple[IntArray, DoubleArray]:
        """All that these, ascending, activate, each with its activation."""
        now = self._now()
        waves = [self._most_active(nodes, activation)]
        for _ in range(self._config.hops):
            waves.append(self._passed_on(*waves[-1], now))
        reached, place = np.unique(np.concatenate([nodes for nodes, _ in waves]), return_inverse=True)
        total = np.bincount(place, np.concatenate([activation for _, activation in waves]))
        return self._most_active(reached, total.astype(np.float64))

    def _passed_on(
        self, nodes: IntArray, activation: DoubleArray, now: float
    ) -> tuple[IntArray, DoubleArray]:
        """What the links of these nodes, ascending, lead to, and what it takes from them."""
        from scipy.sparse import csr_array

        links = self._links_of(nodes, now)
        targets, rows = np.unique(links.targets, return_inverse=True)
        columns = np.searchsorted(nodes, links.sources)
        shape = (len(targets), len(nodes))
        given = np.asarray(csr_array((links.weights**3, (rows, columns)), shape=shape) @ activation)
        reached, given = self._most_active(targets, given)
        own = self._links_of(reached, now)
        weights = np.bincount(np.searchsorted(reached, own.sources), own.weights**2, len(reached))
        # By a rounding, a link may have faded at one end and not at the other.
        return reached, self._config.spread * given / np.maximum(weights, _FAINT**2)

    def _links_of(self, nodes: IntArray, now: float) -> Edges:
        """The links of both kinds."""
        similar, used = self._similar.of(nodes, now), self._used.of(nodes, now)
        used = used._replace(weights=used.weights / (used.weights + 1))
        links = concatenated(similar, used)
        alive = links.weights > _FAINT
        return Edges(links.sources[alive], links.targets[alive], links.weights[alive])

    def _most_active(self, nodes: IntArray, activation: DoubleArray) -> tuple[IntArray, DoubleArray]:
        """The `max_nodes` of `nodes` with the largest activation, in their order."""
        if len(nodes) <= self._config.max_nodes:
            return nodes, activation
        chosen = np.sort(np.argsort(-activation, kind="stable")[: self._config.max_nodes])
        return nodes[chosen], activation[chosen]

    # --- parts ---------------------------------------------------------------------------------------

    def _link(self, similar: Similar) -> None:
        """Give known documents edges to their neighbours."""
        pairs = [
            (self._numbers[id_], self._numbers[other], min(similarity, 1.0))
            for id_, neighbours in similar.items()
            for other, similarity in self._nearest(id_, neighbours)
        ]
        one, other, weights = np.array(pairs, dtype=np.float64).reshape(-1, 3).T
        edges = Edges(one.astype(np.int64), other.astype(np.int64), weights)
        self._unsaved.update(self._similar.merge(edges, np.maximum, self._now()).tolist())

    def _nearest(self, id_: str, neighbours: Mapping[str, float]) -> list[tuple[str, float]]:
        others = ((s, other) for other, s in neighbours.items() if other != id_ and other in self._numbers)
        nearest = heapq.nlargest(self._config.neighbours, (one for one in others if one[0] > 0))
        return [(other, similarity) for similarity, other in nearest]

    def _register(self, ids: Iterable[str]) -> IntArray:
        """The numbers of documents; new ones get one."""
        numbers = []
        for id_ in ids:
            if id_ not in self._numbers:
                if not self._free:
                    self._free.append(len(self._ids))
                    self._ids.append(None)
                number = self._free.pop()
                self._numbers[id_], self._ids[number] = number, id_
                self._unsaved.add(number)
            numbers.append(self._numbers[id_])
        self._similar.grow(len(self._ids))
        self._used.grow(len(self._ids))
        return np.array(numbers, dtype=np.int64)

    def _forget(self, ids: Iterable[str]) -> None:
        numbers = [self._numbers.pop(id_) for id_ in dict.fromkeys(ids) if id_ in self._numbers]
        nodes = np.array(numbers, dtype=np.int64)
        for links in (self._similar, self._used):
            self._unsaved.update(links.remove(nodes).tolist())
        for number in numbers:
            self._ids[number] = None
        self._free += numbers
        self._unsaved.update(numbers)

    def _ids_of(self, nodes: IntArray) -> Iterator[str]:
        return (id_ for n in nodes.tolist() if (id_ := self._ids[n]) is not None)

    # --- the file ------------------------------------------------------------------------------------

    def _follow(self, version: str) -> None:
        self._version = version
        self._save()

    def _save(self) -> None:
        if self._store is not None:
            nodes = [
                Node(n, id_, self._similar.dump(n)[0], *self._used.dump(n))
                for n in sorted(self._unsaved)
                if (id_ := self._ids[n]) is not None
            ]
            gone = [n for n in self._unsaved if self._ids[n] is None]
            self._store.write(nodes, gone, self._version)
        self._unsaved.clear()
        self._saved_at = self._now()

    def _load(self, store: EdgeStore, place: str) -> None:
        numbers = list(store.column("number"))
        self._numbers = dict(zip(store.column("id"), numbers, strict=True))
        self._ids = [None] * (max(numbers, default=-1) + 1)
        for id_, number in self._numbers.items():
            self._ids[number] = id_
        self._free = [n for n, id_ in enumerate(self._ids) if id_ is None]
        self._version = store.version
        try:
            self._similar.load(numbers, store.column("similar"), [0.0] * len(numbers))
            self._used.load(numbers, store.column("used"), list(store.column("used_at")))
        except ValueError as error:
            store.close()
            raise StorageError(
                f"associations in {place}: {error}; move the file away: the mesh is made anew, without what "
                "use has taught it"
            ) from None
