"""Queries among shares of the documents: those whose number is below a bound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.suites.ingested import FIELD, numbers
from bench.suites.judge import recalls_among
from bench.timing import Timed, time_each
from bench.trial import Samples
from bench.workload.dataset import IntArray
from brein import Engine, Hit
from brein.storage import Where


class Filtered:
    """Queries, these `rows` of the data set's, that a condition on the documents' metadata goes with."""

    K: ClassVar = 10

    def __init__(self, argument: Mapping[str, Any], rows: IntArray) -> None:
        self.ids, self.texts = zip(*(argument["queries"][row] for row in rows.tolist()), strict=True)
        self._documents = argument["documents"]
        self._vectors = Path(argument["vectors"])
        self._queries = np.load(self._vectors / "queries.npy")[rows]
        self._numbers = numbers(len(self._documents))

    def _bound(self, share: float) -> int:
        return max(1, round(share * len(self._documents)))

    def where(self, share: float) -> Where:
        """The condition that leaves this share."""
        return {FIELD: {"lt": self._bound(share)}}

    def asked(self, engine: Engine, share: float) -> list[Timed[list[Hit]]]:
        """Ask the index for the vectors' neighbours among this share, after one query to warm up."""
        where = self.where(share)
        engine.search(self._queries[0], self.K, where)
        return time_each(lambda vector: engine.search(vector, self.K, where), self._queries)

    def judged(self, timed: list[Timed[list[Hit]]], share: float, metric: str) -> Samples:
        """These queries as samples, with their recall against exact search among the same documents.

        Not against the judgements: of a small share of the documents, hardly any is judged.
        """
        row_of = {id_: row for row, id_ in enumerate(self._documents)}
        recalls = recalls_among(
            np.load(self._vectors / "vectors.npy", mmap_mode="r"),
            np.flatnonzero(self._numbers < self._bound(share)),
            self._queries,
            [[row_of[hit.id] for hit in one.given] for one in timed],
            k=self.K,
            metric=metric,
        )
        samples = Samples("query.filtered", share=f"{share:g}")
        for id_, one, recall in zip(self.ids, timed, recalls, strict=True):
            samples.add(one.seconds, one.start, query=id_, recall_at_10=recall)
        return samples
