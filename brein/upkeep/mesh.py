"""The engine's mesh: derived from the documents and from their use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from brein.errors import BreinError
from brein.records import FloatArray
from brein.retrieval.mesh import Mesh, MeshConfig, Similar
from brein.storage import DocumentStore
from brein.vectors import unit

_FILE = "mesh.sqlite"
_BATCH = 1_000  # documents whose neighbours are looked for at once
_PAGE = 10_000  # ids read at once

_log = logging.getLogger(__name__)


class KeptMesh:
    """A mesh kept in step with a document store.

    `nearest` gives, for vectors, float32 (n, d), the ids of the k documents nearest to each. `make_room` has
    so many bytes free for a purpose, or raises MemoryLimitError. What cannot be read or written is logged and
    tried again with the next change: a mesh is advice, and no reason to refuse a document.
    """

    def __init__(
        self,
        config: MeshConfig,
        documents: DocumentStore,
        folder: Path | None,
        nearest: Callable[[FloatArray, int], Sequence[Sequence[str]]],
        make_room: Callable[[int, str], None],
    ) -> None:
        count = len(documents)
        make_room(config.bytes_to_add(count), f"the mesh of {count:,} documents")
        self.mesh = Mesh(config, folder and folder / _FILE)
        self._neighbours = config.neighbours
        self._documents = documents
        self._nearest = nearest
        self._behind = True  # it may have missed a change, and must not have the documents' version

    def catch_up(self) -> None:
        """Follow the documents, whatever became of them."""
        self._behind = True
        with _reported():
            self._reconcile()

    def add(self, ids: Sequence[str]) -> None:
        """Follow the documents, which hold `ids` now."""

        def link() -> None:
            similar: dict[str, Mapping[str, float]] = {}
            for start in range(0, len(ids), _BATCH):
                similar |= self._similar(ids[start : start + _BATCH])
            # At once: a mesh that has a part of them must not have the documents' version.
            self.mesh.add(similar, self._documents.version)

        self._follow(link)

    def remove(self, ids: Sequence[str]) -> None:
        """Follow the documents, which no longer hold `ids`."""
        self._follow(lambda: self.mesh.remove(ids, self._documents.version))

    def strengthen(self, ids: Sequence[str]) -> None:
        """Learn that documents were used together."""
        with _reported():
            self.mesh.strengthen(ids)

    def close(self) -> None:
        """Save and close the file."""
        with _reported():
            self.mesh.close()

    def _follow(self, change: Callable[[], None]) -> None:
        """Make a change, after those that were missed."""
        with _reported():
            if self._behind:
                self._reconcile()
            self._behind = True  # until it is done
            change()
            self._behind = False

    def _reconcile(self) -> None:
        # Read only where something changed: opening must not read a large store that is known already.
        ids = (id_ for page in self._documents.pages("id", _PAGE) for (id_,) in page)
        self.mesh.reconcile(ids, self._documents.version, self._similar)
        self._behind = False

    def _similar(self, ids: Sequence[str]) -> Similar:
        """Each document's nearest, with the cosines to them."""
        ids, vectors = self._documents.vectors(ids)
        near = self._nearest(vectors, self._neighbours + 1)  # it is the nearest to itself
        others, theirs = self._documents.vectors(list(dict.fromkeys(other for row in near for other in row)))
        place = {other: n for n, other in enumerate(others)}
        vectors, theirs = unit(vectors), unit(theirs)
        return {
            id_: {
                other: float(vector @ theirs[place[other]])
                for other in row
                if other != id_ and other in place
            }
            for id_, vector, row in zip(ids, vectors, near, strict=True)
        }


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except BreinError as error:  # a full disk, or no room for the index that finds the neighbours
        _log.warning("the mesh does not follow the documents: %s", error)
