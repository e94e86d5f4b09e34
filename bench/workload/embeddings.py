"""Vectors to search: the embeddings of a text data set, or a vector data set's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import process
from bench.artifacts import Store
from bench.machine import usable_cores, versions
from bench.workload.dataset import IntArray, TextDataset, VectorDataset
from brein import embedding
from brein.config import EngineConfig
from brein.embedding import EmbeddingConfig

_LIBRARIES = ("torch", "sentence-transformers", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Vectors:
    """Base and query vectors as files: `vectors.npy` float32 (n, d), `queries.npy` float32 (m, d)."""

    name: str
    key: str
    folder: Path
    query_ids: tuple[str, ...]
    count: int
    dimension: int
    truth: IntArray | None = None
    truth_metric: str | None = None


def of_text(dataset: TextDataset, config: EmbeddingConfig, store: Store) -> Vectors:
    """Embed documents and queries, or find them embedded.

    Raises:
        UsageError: the model is missing or is not the expected one.
    """
    made_by = {name: v for name, v in versions().items() if name in _LIBRARIES}
    content = {"dataset": dataset.sha256, "embedding": embedding.identity(config), "versions": made_by}

    def build(folder: Path) -> None:
        texts = {
            "documents": [document.text for document in dataset.documents],
            "queries": [query.text for query in dataset.queries],
            "engine": EngineConfig(embedding=config).model_dump_json(),
            "folder": str(folder),
        }
        process.call("bench.workload.embeddings:embed", texts, threads=usable_cores())

    folder = store.get_or_build("embeddings", content, build)
    return _stored(dataset.name, folder, tuple(query.id for query in dataset.queries))


def of_vectors(dataset: VectorDataset, store: Store) -> Vectors:
    """Put a vector data set where trials can map it into memory."""

    def build(folder: Path) -> None:
        np.save(folder / "vectors.npy", dataset.vectors)
        np.save(folder / "queries.npy", dataset.queries)

    folder = store.get_or_build("vectors", {"dataset": dataset.sha256}, build)
    ids = tuple(str(row) for row in range(len(dataset.queries)))
    return _stored(dataset.name, folder, ids, dataset.truth, dataset.truth_metric)


def _stored(
    name: str,
    folder: Path,
    query_ids: tuple[str, ...],
    truth: IntArray | None = None,
    truth_metric: str | None = None,
) -> Vectors:
    count, dimension = np.load(folder / "vectors.npy", mmap_mode="r").shape
    return Vectors(name, folder.name, folder, query_ids, count, dimension, truth, truth_metric)


def embed(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: embed documents and queries into `folder`."""
    embedder = embedding.create(EngineConfig.read(argument["engine"]).embedding)
    folder = Path(argument["folder"])
    np.save(folder / "vectors.npy", embedder.embed(argument["documents"]))
    np.save(folder / "queries.npy", embedder.embed(argument["queries"]))
    return {}
