"""Vector data sets from files: which file is what, limits, and whether the parts fit each other.

In a folder a file's role is a word of its name (words are separated by dots, dashes or underscores):

    base vectors    base, with a vector suffix of the kind
    queries         query or queries, with a vector suffix of the kind
    ground truth    groundtruth, truth, gt or neighbors, with a truth suffix of the kind

so siftsmall_base.fvecs, query.public.10K.fbin, groundtruth.neighbors.ibin and truth.npy are all found; files
without such a word are left alone. An HDF5 file holds all three: train, test and neighbors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.data_config import VectorFileConfig
from bench.errors import UsageError
from bench.workload.dataset import VectorDataset
from bench.workload.formats import Rows, hdf5_distance, open_hdf5, open_rows
from brein.index import Metric

_VECTOR_SUFFIXES = {
    "fvecs": (".fvecs", ".bvecs"),
    "fbin": (".fbin", ".u8bin"),
    "hdf5": (".hdf5", ".h5"),
    "npy": (".npy",),
}
_TRUTH_SUFFIXES = {"fvecs": (".ivecs",), "fbin": (".ibin",), "npy": (".npy",)}
_BASE, _QUERIES = frozenset({"base"}), frozenset({"query", "queries"})
_TRUTH = frozenset({"groundtruth", "truth", "gt", "neighbors"})
_DISTANCES: dict[str, Metric] = {"angular": "cosine", "euclidean": "l2"}


@dataclass(frozen=True)
class _Parts:
    base: Rows
    queries: Rows | None
    truth: Rows | None
    metric: Metric | None


def load(config: VectorFileConfig) -> VectorDataset:
    """Read the files that `config.path` names as float32 vectors and an int64 ground truth.

    The base file alone has its last `queries` rows held out as queries. A published ground truth names the
    nearest of all base vectors, so it is dropped when `vectors` keeps fewer; `facts` says so.

    Raises:
        UsageError: nothing or more than one file fits a role; a file is damaged or holds NaN; the parts
            contradict each other; or more is asked for than there is.
    """
    parts = _hdf5_parts(config) if config.kind == "hdf5" else _file_parts(config)
    _check_parts(parts)
    return _held_out(parts, config) if parts.queries is None else _as_published(parts, parts.queries, config)


def _file_parts(config: VectorFileConfig) -> _Parts:
    suffixes = _VECTOR_SUFFIXES[config.kind]
    if not config.path.is_dir():
        return _Parts(open_rows(_the_file(config.path, suffixes)), None, None, config.metric)
    files = _files(config.path)
    base = _only(files, _BASE, suffixes, config.path)
    if base is None:
        raise _nothing(
            config.path, files, f"base vectors (a name with the word 'base', ending in {_or(suffixes)})"
        )
    queries = _only(files, _QUERIES, suffixes, config.path)
    if queries is None:
        raise _nothing(
            config.path, files, f"queries (a name with the word 'query', ending in {_or(suffixes)})"
        )
    truth = _only(files, _TRUTH, _TRUTH_SUFFIXES[config.kind], config.path)
    return _Parts(open_rows(base), open_rows(queries), open_rows(truth) if truth else None, config.metric)


def _hdf5_parts(config: VectorFileConfig) -> _Parts:
    suffixes = _VECTOR_SUFFIXES["hdf5"]
    path = config.path
    if path.is_dir():
        files = _files(path)
        there = [file for file in files if file.suffix in suffixes]
        if len(there) != 1:
            raise _nothing(path, files, f"exactly one file ending in {_or(suffixes)}")
        path = there[0]
    _the_file(path, suffixes)
    base, queries = open_hdf5(path, "train"), open_hdf5(path, "test")
    if base is None or queries is None:
        missing = "train" if base is None else "test"
        raise UsageError(
            f"{path}: no data set {missing!r}; expected the ann-benchmarks form: train, test, neighbors"
        )
    return _Parts(base, queries, open_hdf5(path, "neighbors"), _hdf5_metric(path, config.metric))


def _hdf5_metric(path: Path, configured: Metric | None) -> Metric | None:
    distance = hdf5_distance(path)
    if distance is None:
        return configured
    published = _DISTANCES.get(distance)
    if published is None and configured is None:
        raise UsageError(f"{path}: distance {distance!r}; known: {', '.join(_DISTANCES)}; set dataset.metric")
    if published is not None and configured not in (None, published):
        raise UsageError(
            f"dataset.metric = {configured}: {path} says {distance!r}, which is {published}; set it to null"
        )
    return published or configured


def _check_parts(parts: _Parts) -> None:
    base, queries, truth = parts.base, parts.queries, parts.truth
    if queries is not None and queries.dimension != base.dimension:
        raise UsageError(
            f"{queries.path}: queries of dimension {queries.dimension}, base vectors of {base.dimension} in "
            f"{base.path}; take the queries that belong to this base"
        )
    if truth is not None and queries is not None and truth.count != queries.count:
        raise UsageError(
            f"{truth.path}: {truth.count} rows of ground truth for {queries.count} queries in "
            f"{queries.path}; take the truth that belongs to these queries"
        )


def _as_published(parts: _Parts, queries: Rows, config: VectorFileConfig) -> VectorDataset:
    base, truth = parts.base, parts.truth
    vectors = _limit("vectors", config.vectors, base.count, base.path)
    asked = _limit("queries", config.queries, queries.count, queries.path)
    kept = truth if vectors == base.count else None
    return VectorDataset(
        name=_name(config.path),
        vectors=base.floats(0, vectors),
        queries=queries.floats(0, asked),
        truth=kept.ids(0, asked, base.count) if kept else None,
        truth_metric=parts.metric if kept else None,
        facts=_facts(parts, truth_fate=_truth_fate(truth, kept, vectors)),
    )


def _held_out(parts: _Parts, config: VectorFileConfig) -> VectorDataset:
    base = parts.base
    if config.queries is None:
        raise UsageError(
            f"dataset.queries = null: {base.path} has no query file beside it; say how many of its "
            f"{base.count} rows to hold out as queries"
        )
    left = base.count - config.queries
    if left < 1:
        raise UsageError(
            f"dataset.queries = {config.queries} leaves nothing of the {base.count} rows of "
            f"{base.path}; lower it"
        )
    vectors = _limit("vectors", config.vectors, left, base.path)
    return VectorDataset(
        name=_name(config.path),
        vectors=base.floats(0, vectors),
        queries=base.floats(left, base.count),
        facts={**_facts(parts, truth_fate="none"), "queries_held_out": True},
    )


def _limit(field: str, asked: int | None, there: int, path: Path) -> int:
    if asked is not None and asked > there:
        raise UsageError(
            f"dataset.{field} = {asked} is more than the {there} in {path}; lower it, or null for all"
        )
    return there if asked is None else asked


def _truth_fate(published: Rows | None, kept: Rows | None, vectors: int) -> str:
    if published is None:
        return "none"
    return "published" if kept else f"dropped: it does not hold for the first {vectors} vectors alone"


def _facts(parts: _Parts, truth_fate: str) -> dict[str, Any]:
    there = [rows for rows in (parts.base, parts.queries, parts.truth) if rows is not None]
    return {
        "files": sorted({rows.path.name for rows in there}),
        "rows": parts.base.count,
        "truth": truth_fate,
    }


def _name(path: Path) -> str:
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _the_file(path: Path, suffixes: Iterable[str]) -> Path:
    if not path.is_file():
        raise UsageError(f"dataset.path = {path}: no such file or folder; correct it")
    if path.suffix not in suffixes:
        raise UsageError(
            f"dataset.path = {path} does not end in {_or(suffixes)}; choose the kind that reads it"
        )
    return path


def _only(files: Iterable[Path], words: frozenset[str], suffixes: Iterable[str], folder: Path) -> Path | None:
    found = [
        file
        for file in files
        if file.suffix in suffixes and words.intersection(re.split(r"[._-]", file.stem.lower()))
    ]
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UsageError(f"{folder}: {names} could all be the {min(words)} file; keep one, or give its path")
    return found[0] if found else None


def _nothing(folder: Path, files: Iterable[Path], wanted: str) -> UsageError:
    there = ", ".join(file.name for file in files) or "nothing"
    return UsageError(f"{folder}: needs {wanted}; found {there}")


def _or(suffixes: Iterable[str]) -> str:
    return " or ".join(suffixes)
