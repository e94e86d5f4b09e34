"""Vector data sets: which file is what, limits, and parts that contradict each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from bench.data_config import VectorFileConfig
from bench.errors import UsageError
from bench.workload import vectors

BASE = np.arange(40, dtype=np.float32).reshape(10, 4)
QUERIES = BASE[:3] + 0.25
TRUTH = np.array([[0, 1], [1, 2], [2, 3]], dtype=np.int32)


def config(kind: Any, path: Path, **changes: Any) -> VectorFileConfig:
    return VectorFileConfig(
        kind=kind, path=path, **({"metric": None, "vectors": None, "queries": None} | changes)
    )


def vecs(path: Path, array: Any) -> None:
    dimension = np.full((len(array), 1), array.shape[1], dtype="<i4")
    path.write_bytes(np.hstack([dimension.view("u1"), np.ascontiguousarray(array).view("u1")]).tobytes())


def flat(path: Path, array: Any) -> None:
    path.write_bytes(np.array(array.shape, dtype="<u4").tobytes() + np.ascontiguousarray(array).tobytes())


def as_fvecs(folder: Path) -> None:
    vecs(folder / "tiny_base.fvecs", BASE)
    vecs(folder / "tiny_query.fvecs", QUERIES)
    vecs(folder / "tiny_groundtruth.ivecs", TRUTH)
    vecs(folder / "tiny_learn.fvecs", BASE)


def as_fbin(folder: Path) -> None:
    flat(folder / "base.10.fbin", BASE)
    flat(folder / "query.public.3.fbin", QUERIES)
    flat(folder / "groundtruth.neighbors.ibin", TRUTH.astype("<u4"))
    flat(folder / "groundtruth.distances.fbin", QUERIES)


def as_npy(folder: Path) -> None:
    np.save(folder / "base.npy", BASE)
    np.save(folder / "queries.npy", QUERIES)
    np.save(folder / "truth.npy", TRUTH)


def as_hdf5(folder: Path) -> None:
    with h5py.File(folder / "tiny.hdf5", "w") as file:
        file["train"], file["test"], file["neighbors"] = BASE, QUERIES, TRUTH
        file.attrs["distance"] = "euclidean"


WRITERS: dict[str, Callable[[Path], None]] = {
    "fvecs": as_fvecs,
    "fbin": as_fbin,
    "npy": as_npy,
    "hdf5": as_hdf5,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_of_each_kind_is_read_the_same(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    data = vectors.load(config(kind, tmp_path, metric="l2"))
    np.testing.assert_array_equal(data.vectors, BASE)
    np.testing.assert_array_equal(data.queries, QUERIES)
    assert data.truth is not None
    np.testing.assert_array_equal(data.truth, TRUTH)
    assert (data.vectors.dtype, data.truth.dtype) == (np.float32, np.int64)
    assert (data.truth_metric, data.facts["truth"], data.facts["rows"]) == ("l2", "published", 10)
    assert data.name == tmp_path.name


@pytest.mark.parametrize("kind", WRITERS)
def test_fewer_vectors_drop_the_published_truth(tmp_path: Path, kind: str) -> None:
    WRITERS[kind](tmp_path)
    data = vectors.load(config(kind, tmp_path, vectors=9, queries=2))
    np.testing.assert_array_equal(data.vectors, BASE[:9])
    np.testing.assert_array_equal(data.queries, QUERIES[:2])
    assert data.truth is None
    assert data.truth_metric is None
    assert data.facts["truth"].startswith("dropped")


def test_fewer_queries_keep_their_truth(tmp_path: Path) -> None:
    as_npy(tmp_path)
    data = vectors.load(config("npy", tmp_path, queries=2))
    assert data.truth is not None
    np.testing.assert_array_equal(data.truth, TRUTH[:2])


def test_the_base_file_alone_gives_its_last_rows_as_queries(tmp_path: Path) -> None:
    as_fbin(tmp_path)
    data = vectors.load(config("fbin", tmp_path / "base.10.fbin", queries=3, vectors=5))
    np.testing.assert_array_equal(data.vectors, BASE[:5])
    np.testing.assert_array_equal(data.queries, BASE[7:])
    assert data.truth is None
    assert data.facts["queries_held_out"] is True


def test_bytes_become_float32(tmp_path: Path) -> None:
    vecs(tmp_path / "base.bvecs", BASE.astype("u1"))
    data = vectors.load(config("fvecs", tmp_path / "base.bvecs", queries=1))
    np.testing.assert_array_equal(data.vectors, BASE[:9])
    assert data.vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": 11}, "vectors = 11 is more than the 10"),
        ({"queries": 4}, "queries = 4 is more than the 3"),
    ],
)
def test_asking_for_more_than_there_is(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    as_npy(tmp_path)
    with pytest.raises(UsageError, match=message):
        vectors.load(config("npy", tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "queries = null.*10 rows"),
        ({"queries": 10}, "queries = 10 leaves nothing"),
        ({"queries": 2, "vectors": 9}, "vectors = 9 is more than the 8"),
    ],
)
def test_holding_out_needs_rows(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    as_npy(tmp_path)
    with pytest.raises(UsageError, match=message):
        vectors.load(config("npy", tmp_path / "base.npy", **changes))


def two_bases(folder: Path) -> None:
    np.save(folder / "base_2.npy", BASE)


def other_dimension(folder: Path) -> None:
    np.save(folder / "queries.npy", QUERIES[:, :3])


def short_truth(folder: Path) -> None:
    np.save(folder / "truth.npy", TRUTH[:2])


def foreign_truth(folder: Path) -> None:
    np.save(folder / "truth.npy", TRUTH + 8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (two_bases, "base.npy, base_2.npy could all be the base file"),
        (other_dimension, r"queries.npy: queries of dimension 3, base vectors of 4 in .*base.npy"),
        (short_truth, r"truth.npy: 2 rows of ground truth for 3 queries"),
        (foreign_truth, r"truth.npy: row 1 names vector 10; the base has rows 0 to 9"),
        (lambda folder: (folder / "queries.npy").unlink(), "needs queries .*; found base.npy, truth.npy"),
        (
            lambda folder: (folder / "base.npy").unlink(),
            "needs base vectors .*; found queries.npy, truth.npy",
        ),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    as_npy(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UsageError, match=message):
        vectors.load(config("npy", tmp_path))


@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_there(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path.name}: needs .*found nothing"):
        vectors.load(config(kind, tmp_path))
    with pytest.raises(UsageError, match="no such file or folder"):
        vectors.load(config(kind, tmp_path / "absent"))
    (tmp_path / "base.csv").touch()
    with pytest.raises(UsageError, match="does not end in"):
        vectors.load(config(kind, tmp_path / "base.csv"))


@pytest.mark.parametrize(
    ("attribute", "configured", "metric"),
    [
        ("angular", None, "cosine"),
        ("euclidean", "l2", "l2"),
        (None, None, None),
        (None, "l2", "l2"),
        ("dot", "l2", "l2"),
    ],
)
def test_hdf5_says_its_metric(
    tmp_path: Path, attribute: str | None, configured: Any, metric: str | None
) -> None:
    as_hdf5(tmp_path)
    set_distance(tmp_path, attribute)
    assert vectors.load(config("hdf5", tmp_path / "tiny.hdf5", metric=configured)).truth_metric == metric


@pytest.mark.parametrize(
    ("attribute", "configured", "message"),
    [
        ("angular", "l2", "metric = l2.*angular.*cosine"),
        ("dot", None, "distance 'dot'; known: angular, euclidean"),
    ],
)
def test_a_metric_that_contradicts(tmp_path: Path, attribute: str, configured: Any, message: str) -> None:
    as_hdf5(tmp_path)
    set_distance(tmp_path, attribute)
    with pytest.raises(UsageError, match=message):
        vectors.load(config("hdf5", tmp_path, metric=configured))


def set_distance(folder: Path, value: str | None) -> None:
    with h5py.File(folder / "tiny.hdf5", "a") as file:
        del file.attrs["distance"]
        if value is not None:
            file.attrs["distance"] = np.bytes_(value)


def test_hdf5_without_queries(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "tiny.hdf5", "w") as file:
        file["train"] = BASE
    with pytest.raises(UsageError, match="no data set 'test'"):
        vectors.load(config("hdf5", tmp_path))


def test_brute_force_reproduces_the_truth_of_siftsmall(real_data: Callable[[str], Path]) -> None:
    data = vectors.load(config("fvecs", real_data("siftsmall"), metric="l2"))
    assert data.vectors.shape == (10_000, 128)
    assert data.truth is not None
    base, queries = data.vectors.astype(np.float64), data.queries.astype(np.float64)
    distances = (base**2).sum(axis=1) - 2 * queries @ base.T
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : data.truth.shape[1]]
    found = np.take_along_axis(distances, nearest, axis=1)
    np.testing.assert_array_equal(found, np.take_along_axis(distances, data.truth, axis=1))
