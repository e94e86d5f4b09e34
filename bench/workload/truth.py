"""Exact nearest neighbours: what approximate search is compared with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import process
from bench.artifacts import Artifact, Store
from bench.errors import MeasurementError
from bench.machine import usable_cores
from bench.workload.dataset import IntArray
from bench.workload.embeddings import Vectors
from brein.index import normalised
from brein.records import FloatArray

FORMAT = 2  # of the stored files and of how they come about; a change makes every older artifact unreachable
DEPTH = 100  # true neighbours kept for each query
CHECKED = 16  # queries whose neighbours are sought a second time, by other arithmetic
TOLERANCE = 1e-5  # between the two, relative to the farthest of the neighbours: published truths are float32
_BLOCK, _QUERIES = 8_192, 1_000  # compared at once: 200 MB of distances and their order

Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def wanted(vectors: str, metric: str, published: bool) -> Artifact:
    """What `exact_distances` makes of the vectors of this key, known without making it."""
    content = {
        "vectors": vectors,
        "metric": metric,
        "depth": DEPTH,
        "published": published,
        "format": FORMAT,
        "numpy": np.__version__,
    }
    return Artifact("truth", content)


def exact_distances(vectors: Vectors, metric: str, store: Store) -> Path:
    """The file of the exact distances of each query's nearest vectors, ascending: float32 (m, t).

    From the published ground truth where the data set has one for this metric, else by exact search. Either
    is compared with brute force for `CHECKED` queries; `truth.json` beside the file says how it was made.

    Raises:
        MeasurementError: it is not what brute force finds; nothing was stored.
    """
    published = vectors.truth if vectors.truth_metric == metric else None

    def build(folder: Path) -> None:
        if published is not None:
            np.save(folder / "rows.npy", published[:, :DEPTH])
        argument = {"vectors": str(vectors.folder), "metric": metric, "folder": str(folder)}
        made = process.call("bench.workload.truth:compute", argument, threads=usable_cores())
        if made["wrong"]:
            remedy = (
                "correct dataset.metric, or set it to null" if published is not None else "report this defect"
            )
            raise MeasurementError(f"ground truth for {metric}, {made['wrong']}; {remedy}")

    artifact = wanted(vectors.key, metric, published is not None)
    return store.get_or_build(*artifact, build) / "distances.npy"


def compute(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: write `distances.npy`, of `rows.npy` where that is there; return what is wrong with it."""
    folder, source, metric = Path(argument["folder"]), Path(argument["vectors"]), argument["metric"]
    vectors = np.load(source / "vectors.npy", mmap_mode="r")
    queries = np.load(source / "queries.npy")
    rows = folder / "rows.npy"
    device = "cuda" if not rows.exists() and has_gpu() else None
    nearest = np.load(rows) if rows.exists() else exact_search(vectors, queries, DEPTH, metric, device)
    found = [distances(vectors[row], query, metric) for row, query in zip(nearest, queries, strict=True)]
    np.save(folder / "distances.npy", np.sort(np.array(found, dtype=np.float32), axis=1))
    sample = np.random.default_rng(0).permutation(len(queries))[:CHECKED]
    method = (
        "published" if rows.exists() else f"exhaustive search in float64 on the {'GPU' if device else 'CPU'}"
    )
    facts = {"method": method, "queries": len(queries), "compared_with_brute_force": len(sample)}
    (folder / "truth.json").write_text(json.dumps(facts))
    return {"wrong": mismatch(vectors, queries, nearest, np.sort(sample), metric)}


def has_gpu() -> bool:
    """Whether PyTorch can use a GPU; it is only imported where there is a driver."""
    if not Path("/proc/driver/nvidia/version").exists():
        return False
    import torch

    return torch.cuda.is_available()


# --- exact search ------------------------------------------------------------------------------------


def exact_search(
    vectors: FloatArray,
    queries: FloatArray,
    k: int,
    metric: str,
    device: str | None = None,
    *,
    among: Mask | None = None,
) -> IntArray:
    """Rows of the `k` nearest vectors of each query, nearest first: int64 (m, min(k, n)).

    In blocks of matrix products in float64: |x|² − 2 q·x for l2, which in float32 would cancel to noise where
    vectors lie far from the origin beside their distances. By NumPy, or by PyTorch on a `device` of its own.
    `among`, bool (m, n), says which rows each query may find; where they are fewer than `k`, others follow.
    """
    parts = []
    for start in range(0, len(queries), _QUERIES):
        rows = slice(start, start + _QUERIES)
        mask = None if among is None else among[rows]
        parts.append(_exact_search(vectors, queries[rows], k, metric, device, among=mask))
    return np.concatenate(parts)


def _exact_search(
    vectors: FloatArray, queries: FloatArray, k: int, metric: str, device: str | None, *, among: Mask | None
) -> IntArray:
    asked = _doubles(queries, metric)
    best_rows = np.empty((len(queries), 0), dtype=np.int64)
    best = np.empty((len(queries), 0))
    nearest = partial(_nearest_on, device) if device else _nearest
    for start, block in _blocks(vectors, metric):
        mask = None if among is None else among[:, start : start + len(block)]
        found, near = nearest(block, asked, min(k, len(block)), metric, among=mask)
        best, best_rows = np.hstack([best, found]), np.hstack([best_rows, near + start])
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best, best_rows = np.take_along_axis(best, order, 1), np.take_along_axis(best_rows, order, 1)
    return best_rows


def _blocks(vectors: FloatArray, metric: str) -> Iterator[tuple[int, Doubles]]:
    for start in range(0, len(vectors), _BLOCK):
        yield start, _doubles(vectors[start : start + _BLOCK], metric)


def _doubles(vectors: FloatArray, metric: str) -> Doubles:
    """As float64, (n, d); for cosine scaled to length 1, but for vectors of zeros."""
    made: Any = np.asarray(vectors, dtype=np.float64)
    if metric == "cosine":
        made = normalised(made)
    doubles: Doubles = made
    return doubles


def _nearest(
    block: Doubles, queries: Doubles, k: int, metric: str, *, among: Mask | None
) -> tuple[Doubles, IntArray]:
    found = _matrix(block, queries, metric)
    if among is not None:
        found[~among] = np.inf
    near = np.argpartition(found, k - 1, axis=1)[:, :k]
    return np.take_along_axis(found, near, 1), near


def _nearest_on(
    device: str, block: Doubles, queries: Doubles, k: int, metric: str, *, among: Mask | None
) -> tuple[Doubles, IntArray]:
    import torch

    found = _matrix(torch.from_numpy(block).to(device), torch.from_numpy(queries).to(device), metric)
    if among is not None:
        found[torch.from_numpy(~among).to(device)] = torch.inf
    best, near = torch.topk(found, k, dim=1, largest=False)
    return best.cpu().numpy(), near.cpu().numpy()


def _matrix(vectors: Any, queries: Any, metric: str) -> Any:
    """How far, (m, n), of NumPy's arrays or PyTorch's; each query's own square would shift all alike."""
    products = queries @ vectors.T
    return (vectors * vectors).sum(1) - 2 * products if metric == "l2" else -products


# --- one by one --------------------------------------------------------------------------------------


def distances(vectors: FloatArray, query: FloatArray, metric: str) -> Doubles:
    """Exact distances, float64 (n,), of vectors, (n, d), to one query, (d,): smaller is nearer.

    Squared Euclidean for l2; minus the similarity for cosine and inner_product. In float32 the same vector's
    would differ with how many others are asked about, by more than a tie where products cancel.
    """
    there, asked = _doubles(vectors, metric), _doubles(query[None], metric)[0]
    if metric == "l2":
        squares: Doubles = np.square(there - asked).sum(axis=1)
        return squares
    similarities: Doubles = there @ asked
    return -similarities


def mismatch(
    vectors: FloatArray, queries: FloatArray, nearest: IntArray, sample: IntArray, metric: str
) -> str | None:
    """What is wrong with the `nearest` rows of the queries in `sample`; None where nothing is.

    Their distances are compared with the smallest of all, computed one by one in float64, so that it does not
    matter which of several equally near vectors was taken.
    """
    k = nearest.shape[1]
    asked = _doubles(queries[sample], metric)
    best = np.empty((len(sample), 0))
    for _, block in _blocks(vectors, metric):
        found = np.array([_one_by_one(block, query, metric) for query in asked])
        best = np.sort(np.hstack([best, found]), axis=1)[:, :k]
    for row, query, expected in zip(sample, asked, best, strict=True):
        away = np.sort(_one_by_one(_doubles(vectors[nearest[row]], metric), query, metric))
        far = np.abs(away - expected) > TOLERANCE * np.abs(expected).max() + 1e-12
        if len(set(nearest[row].tolist())) < k:
            return f"query {row}: one vector is named twice among its {k} neighbours"
        if far.any():
            rank = int(far.argmax())
            return (
                f"query {row}: its neighbour {rank + 1} of {k} lies at {away[rank]:g}, brute force finds one "
                f"at {expected[rank]:g}"
            )
    return None


def _one_by_one(vectors: Doubles, query: Doubles, metric: str) -> Doubles:
    found: Doubles = (
        np.square(vectors - query).sum(axis=1) if metric == "l2" else -(vectors * query).sum(axis=1)
    )
    return found
