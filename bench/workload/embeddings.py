"""Vectors to search: the embeddings of a text data set, or a vector data set's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import process
from bench.artifacts import Artifact, Store
from bench.machine import usable_cores, versions
from bench.workload.dataset import IntArray, TextDataset, VectorDataset
from brein import embedding
from brein.config import EngineConfig
from brein.embedding import EmbeddingConfig

FORMAT = 1  # of the stored vectors; a change makes every older artifact unreachable
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


def text_artifact(dataset: TextDataset, config: EmbeddingConfig) -> Artifact:
    """What `of_text` makes, known without making it."""
    made_by = {name: version for name, version in versions().items() if name in _LIBRARIES}
    identity = embedding.identity(config)
    content = {"dataset": dataset.sha256, "embedding": identity, "versions": made_by, "format": FORMAT}
    return Artifact("embeddings", content)


def vector_artifact(dataset: VectorDataset) -> Artifact:
    """What `of_vectors` makes, known without making it."""
    return Artifact("vectors", {"dataset": dataset.sha256, "format": FORMAT})


def of_text(dataset: TextDataset, config: EmbeddingConfig, store: Store) -> Vectors:
    """Embed documents and queries, or find them embedded.

    Raises:
        UsageError: the model is missing or is not the expected one.
    """

    def build(folder: Path) -> None:
        texts = {
            "documents": [document.text for document in dataset.documents],
            "queries": [query.text for query in dataset.queries],
            "engine": EngineConfig(embedding=config).model_dump_json(),
            "folder": str(folder),
        }
        process.call("bench.workload.embeddings:embed", texts, threads=usable_cores())

    folder = store.get_or_build(*text_artifact(dataset, config), build)
    return _stored(dataset.name, folder, tuple(query.id for query in dataset.queries))


def of_vectors(dataset: VectorDataset, store: Store) -> Vectors:
    """Put a vector data set where trials can map it into memory."""

    def build(folder: Path) -> None:
        np.save(folder / "vectors.npy", dataset.vectors)
        np.save(folder / "queries.npy", dataset.queries)

    folder = store.get_or_build(*vector_artifact(dataset), build)
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
