"""An index of one structure, under its callers' ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brein.index.base import (
    Footprint,
    Index,
    LabelArray,
    Neighbours,
    Structure,
    check_known,
    nothing_found,
)
from brein.records import FloatArray


class PlainIndex(Index):
    """One `Structure`, and the table of ids that gives each vector its label.

    A label that is given back is used again, so the table grows no further than the most vectors there were.
    """

    def __init__(self, structure: Structure[Any]) -> None:
        super().__init__(structure.config, structure.dimension)
        self.structure = structure
        self._ids: list[Any] = []  # by label: an id, or None where the label is free
        self._labels: dict[str, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._labels

    def ids(self) -> Iterator[str]:
        """Every id."""
        return iter(self._labels)

    @property
    def is_trained(self) -> bool:
        """Whether vectors can be added without training first."""
        return self.structure.is_trained

    def _train(self, vectors: FloatArray) -> None:
        self.structure.train(vectors)

    def _add(self, ids: Sequence[str], vectors: FloatArray) -> None:
        reused = self._free[len(self._free) - min(len(ids), len(self._free)) :]
        labels = reused + list(range(len(self._ids), len(self._ids) + len(ids) - len(reused)))
        self.structure.add(np.array(labels, dtype=np.int64), vectors)
        del self._free[len(self._free) - len(reused) :]
        self._ids.extend([None] * (len(ids) - len(reused)))
        for id_, label in zip(ids, labels, strict=True):
            self._ids[label] = id_
            self._labels[id_] = label

    def _remove(self, ids: Sequence[str]) -> None:
        labels = [self._labels[id_] for id_ in ids]
        self.structure.remove(np.array(labels, dtype=np.int64))
        for id_, label in zip(ids, labels, strict=True):
            del self._labels[id_]
            self._ids[label] = None
        self._free.extend(labels)

    def _search(self, queries: FloatArray, k: int, among: Collection[str] | None) -> Neighbours:
        allowed = None if among is None else self._labels_of(among)
        if not self._labels or (allowed is not None and not len(allowed)):
            return Neighbours(nothing_found(len(queries), k, self.config.metric)[0], [[]] * len(queries))
        scores, labels = self.structure.search(queries, k, allowed)
        known = self._ids
        return Neighbours(scores, [[known[label] for label in row if label >= 0] for row in labels.tolist()])

    def _labels_of(self, ids: Collection[str]) -> LabelArray:
        table = self._labels
        found = np.array([table[id_] for id_ in ids if id_ in table], dtype=np.int64)
        return np.unique(found)

    def labels(self, ids: Sequence[str]) -> LabelArray:
        """The labels of `ids`, int64 (n,): 0, 1, … as they were added, where none was ever removed.

        Raises:
            DataError: an id is not there.
        """
        check_known(ids, self._labels)
        return np.array([self._labels[id_] for id_ in ids], dtype=np.int64)

    def vectors(self, ids: Sequence[str]) -> FloatArray:
        """The vectors under `ids` as they are held, float32 (n, d).

        Raises:
            DataError: an id is not there.
        """
        return self.structure.vectors(self.labels(ids))

    def _tune(self, config: Any) -> None:
        self.structure.tune(config)

    def footprint(self) -> Footprint:
        """Bytes held now, by part; `ids` counts the table of ids and the structure's own labels."""
        resident, on_disk = self.structure.footprint()
        table = sum(map(sys.getsizeof, self._labels)) + sum(map(sys.getsizeof, self._labels.values()))
        table += sum(map(sys.getsizeof, (self._ids, self._labels, self._free)))
        return Footprint({**resident, "ids": resident.get("ids", 0) + table}, on_disk)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write everything into an empty folder; return the facts that `read` needs."""
        self.structure.write(folder)
        (folder / "ids.json").write_text(json.dumps(self._ids))
        return {"trained_on": self.trained_on}

    def read(self, folder: Path, facts: dict[str, Any]) -> None:
        """Take over what `write` wrote."""
        self.structure.read(folder)
        self.trained_on = facts["trained_on"]
        self._ids = json.loads((folder / "ids.json").read_bytes())
        self._labels = {id_: label for label, id_ in enumerate(self._ids) if id_ is not None}
        self._free = [label for label, id_ in enumerate(self._ids) if id_ is None]
