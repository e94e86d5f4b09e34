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
    """

    name: str
    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    judgements: Mapping[str, Mapping[str, int]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Hash of the documents, queries and judgements, in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            _add(digest, document.id, document.text)
        for query in self.queries:
            _add(digest, query.id, query.text)
            for id_, relevance in sorted(self.judgements.get(query.id, {}).items()):
                _add(digest, id_, str(relevance))
        return digest.hexdigest()


@dataclass(frozen=True)
class VectorDataset:
    """Vectors to index, query vectors, and perhaps a published ground truth.

    `vectors` is float32 (n, d), `queries` float32 (m, d), `truth` int64 (m, t): row numbers of the
    nearest vectors, nearest first, under `truth_metric`.
    """

    name: str
    vectors: FloatArray
    queries: FloatArray
    truth: IntArray | None = None
    truth_metric: Literal["cosine", "inner_product", "l2"] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Hash of shapes and values, the published ground truth's among them."""
        digest = hashlib.sha256(repr(self.truth_metric).encode())
        for array in (self.vectors, self.queries, *(() if self.truth is None else (self.truth,))):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


Dataset = TextDataset | VectorDataset


def _add(digest: Any, *texts: str) -> None:
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
