"""Vector indexes: one file per FAISS family, one interface (`base.Index`), one table (`INDEXES`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from brein.errors import StorageError
from brein.index import snapshot
from brein.index.base import Footprint, Index, Metric, Neighbours, Structure, normalised
from brein.index.flat import FlatConfig, FlatStructure
from brein.index.hnsw import HNSWConfig, HNSWSQConfig, HNSWSQStructure, HNSWStructure
from brein.index.ivf import (
    IVFFlatConfig,
    IVFFlatStructure,
    IVFPQConfig,
    IVFPQStructure,
    IVFScalarQuantizerConfig,
    IVFScalarQuantizerStructure,
)
from brein.index.plain import PlainIndex
from brein.index.pq import PQConfig, PQFastScanConfig, PQFastScanStructure, PQStructure
from brein.index.quantizer import VectorQuantizer
from brein.index.refined import RefineConfig, RefinedStructure
from brein.index.sharded import ShardedIndex
from brein.index.snapshot import FORMAT

INDEXES: dict[str, type[Structure[Any]]] = {
    "IndexFlat": FlatStructure,
    "IndexIVFFlat": IVFFlatStructure,
    "IndexIVFScalarQuantizer": IVFScalarQuantizerStructure,
    "IndexIVFPQ": IVFPQStructure,
    "IndexHNSW": HNSWStructure,
    "IndexHNSWSQ": HNSWSQStructure,
    "IndexPQ": PQStructure,
    "IndexPQFastScan": PQFastScanStructure,
    "IndexRefine": RefinedStructure,
}
IndexConfig = Annotated[
    FlatConfig
    | IVFFlatConfig
    | IVFScalarQuantizerConfig
    | IVFPQConfig
    | HNSWConfig
    | HNSWSQConfig
    | PQConfig
    | PQFastScanConfig
    | RefineConfig,
    Field(discriminator="kind"),
]


def create(config: IndexConfig, dimension: int) -> Index:
    """Make an empty index of `config.kind`, in `config.shards` parts, for vectors of `dimension` components.

    Raises:
        DataError: the parameters do not fit the dimension.
    """

    def plain(config: Any) -> PlainIndex:
        return PlainIndex(INDEXES[config.kind](config, dimension))

    return plain(config) if config.shards == 1 else ShardedIndex(config, dimension, plain)


def save(index: Index, folder: Path, tag: str = "") -> None:
    """Write an index into `folder`, atomically: a crash leaves what was there before, or the new one.

    `tag` says what the index belongs to; `load` compares it.

    Raises:
        StorageError: the folder cannot be written.
    """
    facts: dict[str, Any] = {
        "tag": tag,
        "dimension": index.dimension,
        "build": index.config.build_parameters,
        "size": len(index),
    }

    def fill(draft: Path) -> None:
        facts["content"] = index.write(draft)

    snapshot.write(folder, facts, fill)


def load(config: IndexConfig, folder: Path, tag: str = "") -> Index:
    """Load the index saved in `folder` under this tag, with `config`'s query parameters.

    Raises:
        StorageError: it is missing, damaged, of another format, built with other parameters, or belongs to
            something else.
    """
    facts, source = snapshot.read(folder)
    try:
        if facts["build"] != config.build_parameters:
            raise StorageError(f"built with {facts['build']}, asked for {config.build_parameters}")
        if facts["tag"] != tag:
            raise StorageError(f"it belongs to {facts['tag']!r}, asked for {tag!r}")
        index = create(config, facts["dimension"])
        index.read(source, facts["content"])
        if len(index) != facts["size"]:
            raise StorageError(f"{len(index)} vectors, expected {facts['size']}")
    except (StorageError, OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = snapshot.first_line(error)
        raise StorageError(f"no usable index in {folder}: {reason}; rebuild it") from None
    return index


def saved_order(folder: Path, tag: str) -> list[str]:
    """The ids of the index saved in `folder` under this tag, in the order in which equal scores are ranked.

    Where an index in one part lost vectors and took others in their place, the others have their rank.

    Raises:
        StorageError: it is missing, damaged, of another format, or belongs to something else.
    """
    facts, source = snapshot.read(folder)
    if facts["tag"] != tag:
        raise StorageError(
            f"the index in {folder} belongs to {facts['tag']!r}, asked for {tag!r}; rebuild it"
        )
    parts = source / "order.json"
    ids = json.loads((parts if parts.exists() else source / "ids.json").read_bytes())
    return [id_ for id_ in ids if id_ is not None]


__all__ = [
    "FORMAT",
    "INDEXES",
    "Footprint",
    "Index",
    "IndexConfig",
    "Metric",
    "Neighbours",
    "VectorQuantizer",
    "create",
    "load",
    "normalised",
    "save",
    "saved_order",
]
