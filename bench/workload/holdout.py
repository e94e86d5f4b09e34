"""Parts of a data set that are kept apart, the same ones every time.

Queries fall on two sides: a configuration chosen by those of the one is reported by those of the other.
Documents, or vectors, that are held out are never searched; ingestion takes them first. What is where
depends on a hash of the text, or of the vector, alone: equal ones stay together, whatever else is in the data
set, and a larger share takes all that a smaller one takes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import compress

import numpy as np
import numpy.typing as npt

from bench.data_config import HoldoutConfig
from bench.errors import UsageError
from bench.workload.dataset import Dataset, TextDataset, VectorDataset
from brein.records import Document, Query


def apply(dataset: Dataset, config: HoldoutConfig) -> Dataset:
    """Leave in the data set the queries of the side `config` names and the documents that are not held out.

    A judgement goes with its document, and a query with its last judgement. A published ground truth names
    the nearest of all vectors, so it is dropped when some are held out.

    Raises:
        UsageError: no query, or no document, is left.
    """
    if (config.queries, config.side, config.documents) == (0, "test", 0):
        return dataset
    split: Dataset = (
        _texts(dataset, config) if isinstance(dataset, TextDataset) else _vectors(dataset, config)
    )
    before, after = _counts(dataset), _counts(split)
    for setting, left in after.items():
        if left == 0:
            raise UsageError(
                f"holdout.{setting} = {getattr(config, setting):g} (side {config.side}) leaves none of "
                f"{before[setting]:,} {setting}; change it or take more data"
            )
    left_out = {f"{setting}_left_out": before[setting] - left for setting, left in after.items()}
    return replace(split, facts={**split.facts, "holdout": {**config.model_dump(), **left_out}})


def _counts(dataset: Dataset) -> dict[str, int]:
    searched = dataset.documents if isinstance(dataset, TextDataset) else dataset.vectors
    return {"documents": len(searched), "queries": len(dataset.queries)}


def _texts(dataset: TextDataset, config: HoldoutConfig) -> TextDataset:
    apart = _chosen(map(_content, dataset.documents), config.documents)
    tune = _chosen(map(_content, dataset.queries), config.queries)
    gone = {document.id for document in compress(dataset.documents, apart)}
    asked, judgements = [], {}
    for query in compress(dataset.queries, tune == (config.side == "tune")):
        relevant = dataset.judgements.get(query.id, {})
        left = {id_: relevance for id_, relevance in relevant.items() if id_ not in gone}
        if left or not relevant:
            asked.append(query)
            judgements[query.id] = left
    return replace(
        dataset,
        documents=tuple(compress(dataset.documents, ~apart)),
        queries=tuple(asked),
        judgements=judgements,
        held_out=tuple(compress(dataset.documents, apart)),
    )


def _content(record: Document | Query) -> bytes:
    return record.text.encode("utf-8", "surrogatepass")


def _vectors(dataset: VectorDataset, config: HoldoutConfig) -> VectorDataset:
    apart = _chosen((row.tobytes() for row in dataset.vectors), config.documents)
    asked = _chosen((row.tobytes() for row in dataset.queries), config.queries) == (config.side == "tune")
    truth = None if apart.any() else dataset.truth
    return replace(
        dataset,
        vectors=dataset.vectors[~apart],
        queries=dataset.queries[asked],
        truth=None if truth is None else truth[asked],
        truth_metric=None if truth is None else dataset.truth_metric,
        held_out=dataset.vectors[apart] if apart.any() else None,
    )


def _chosen(contents: Iterable[bytes], share: float) -> npt.NDArray[np.bool_]:
    """Which of the contents are among this share of all there could be, bool (n,)."""
    # Not the hash by which limits choose (`subset.mixed`): a limit would then keep one side first.
    hashes = (hashlib.sha256(b"holdout:" + content).digest()[:8] for content in contents)
    return np.array([int.from_bytes(digest) < share * 2**64 for digest in hashes], dtype=np.bool_)
