"""Vector indexes: one file per FAISS family, one interface (`base.Index`), one table (`INDEXES`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from brein.index.base import FORMAT, Index, Metric, Neighbours, normalised
from brein.index.flat import FlatConfig, FlatIndex
from brein.index.hnsw import HNSWConfig, HNSWIndex
from brein.index.ivf_flat import IVFFlatConfig, IVFFlatIndex
from brein.index.pq import PQConfig, PQIndex

INDEXES: dict[str, type[Index[Any]]] = {
    "IndexFlat": FlatIndex,
    "IndexIVFFlat": IVFFlatIndex,
    "IndexHNSW": HNSWIndex,
    "IndexPQ": PQIndex,
}
IndexConfig = Annotated[FlatConfig | IVFFlatConfig | HNSWConfig | PQConfig, Field(discriminator="kind")]


def create(config: IndexConfig, dimension: int) -> Index[Any]:
    """Make an empty index of `config.kind` for vectors of `dimension` components.

    Raises:
        DataError: the parameters do not fit the dimension.
    """
    return INDEXES[config.kind](config, dimension)


def load(config: IndexConfig, dimension: int, folder: Path) -> Index[Any]:
    """Load the index saved in `folder`, with `config`'s query parameters.

    Raises:
        StorageError: it is missing, damaged, of another format or built with other parameters.
    """
    index = create(config, dimension)
    index.restore(folder)
    return index


__all__ = [
    "FORMAT",
    "INDEXES",
    "Index",
    "IndexConfig",
    "Metric",
    "Neighbours",
    "create",
    "load",
    "normalised",
]
