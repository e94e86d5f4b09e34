"""The two forms a data set takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from brein.records import Document, FloatArray, Query

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TextDataset:
    """Documents, queries and which documents answer which query.

    `judgements` maps a query id to {document id: relevance > 0}. `facts` is what the record says of the
    data set beyond name, sha256 and counts: library versions, the token limit, the licence, ….
    `held_out` are documents that are never searched.
    """

    name: str
    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    judgements: Mapping[str, Mapping[str, int]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    held_out: tuple[Document, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hash of the documents, queries, judgements and what is held out, in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            _add(digest, document.id, document.text)
        for query in self.queries:
            _add(digest, query.id, query.text)
            for id_, relevance in sorted(self.judgements.get(query.id, {}).items()):
                _add(digest, id_, str(relevance))
        for document in self.held_out:
            _add(digest, "held out", document.id, document.text)
        return digest.hexdigest()


@dataclass(frozen=True)
class VectorDataset:
    """Vectors to index, query vectors, and perhaps a published ground truth.

    `vectors` is float32 (n, d), `queries` float32 (m, d), `truth` int64 (m, t): row numbers of the
    nearest vectors, nearest first, under `truth_metric`. `held_out`, float32 (h, d), are never searched.
    """

    name: str
    vectors: FloatArray
    queries: FloatArray
    truth: IntArray | None = None
    truth_metric: Literal["cosine", "inner_product", "l2"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    held_out: FloatArray | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of shapes and values, of the published ground truth and what is held out too."""
        digest = hashlib.sha256(repr(self.truth_metric).encode())
        there = {"truth": self.truth, "held out": self.held_out}
        more = [(name, array) for name, array in there.items() if array is not None]
        for name, array in (("", self.vectors), ("", self.queries), *more):
            digest.update(name.encode())
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


Dataset = TextDataset | VectorDataset


def _add(digest: Any, *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
