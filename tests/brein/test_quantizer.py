"""A vector is its nearest centroid and what is left over, and comes back exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brein.errors import DataError, StorageError
from brein.index import VectorQuantizer

DIMENSION = 8
COMPONENT = st.floats(-1, 1, width=32).filter(lambda value: value == 0 or abs(value) >= 2.0**-20)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(500, DIMENSION)).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(vectors):
    made = VectorQuantizer(16, DIMENSION)
    made.fit(vectors)
    return made


def test_the_defaults_are_the_guides():
    made = VectorQuantizer()
    assert (made.n_clusters, made.n_dims, made.fitted) == (256, 384, False)
    made.fit(np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32))
    assert made.fitted
    assert made.centroids.shape == (256, 384)


@given(rows=arrays(np.float32, st.tuples(st.integers(1, 20), st.just(DIMENSION)), elements=COMPONENT))
def test_vectors_come_back_exactly(fitted, rows):
    clusters, residuals = fitted.quantize_batch(rows)
    assert (clusters.dtype, residuals.dtype) == (np.int32, np.float64)
    back = fitted.reconstruct_batch(clusters, residuals)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, rows)


@given(rows=arrays(np.float32, (5, DIMENSION), elements=st.floats(-1, 1, width=32)))
def test_components_too_small_beside_their_centroids_come_back_within_the_stated_bound(fitted, rows):
    clusters, residuals = fitted.quantize_batch(rows)
    errors = np.abs(fitted.reconstruct_batch(clusters, residuals) - rows.astype(np.float64))
    beside = np.abs(fitted.centroids[clusters])
    small = np.abs(rows) < beside * 2.0**-29
    assert (errors[~small] == 0).all()
    assert (errors[small] <= beside[small] * 2.0**-53).all()


def test_one_vector_is_a_batch_of_one(fitted, vectors):
    clusters, residuals = fitted.quantize_batch(vectors[:10])
    for row in range(10):
        cluster, residual = fitted.quantize(vectors[row])
        assert cluster == clusters[row]
        assert isinstance(cluster, int)
        np.testing.assert_array_equal(residual, residuals[row])
        np.testing.assert_array_equal(fitted.reconstruct(cluster, residual), vectors[row])


def test_the_centroid_is_the_nearest(fitted, vectors):
    distances = np.square(vectors[:, None] - fitted.centroids[None]).sum(axis=2)
    np.testing.assert_array_equal(fitted.quantize_batch(vectors)[0], distances.argmin(axis=1))


def test_residuals_of_clustered_vectors_are_smaller_than_they(fitted):
    random = np.random.default_rng(0)
    centres = 10 * random.normal(size=(16, DIMENSION))
    rows = (centres[random.integers(0, 16, 500)] + random.normal(size=(500, DIMENSION))).astype(np.float32)
    made = VectorQuantizer(16, DIMENSION)
    made.fit(rows)
    assert np.square(made.quantize_batch(rows)[1]).sum() < np.square(rows).sum() / 4


def test_equal_vectors_and_seeds_give_equal_centroids(vectors):
    made = [VectorQuantizer(16, DIMENSION, seed) for seed in (42, 42, 7)]
    for one in made:
        one.fit(vectors)
    np.testing.assert_array_equal(made[0].centroids, made[1].centroids)
    assert not np.array_equal(made[0].centroids, made[2].centroids)


def test_saved_and_loaded_is_the_same(fitted, vectors, tmp_path):
    fitted.save(tmp_path / "quantizer.npy")
    loaded = VectorQuantizer.load(tmp_path / "quantizer.npy")
    assert (loaded.n_clusters, loaded.n_dims) == (16, DIMENSION)
    for one, other in zip(loaded.quantize_batch(vectors), fitted.quantize_batch(vectors), strict=True):
        np.testing.assert_array_equal(one, other)


def test_as_many_vectors_as_clusters_are_enough(vectors):
    made = VectorQuantizer(16, DIMENSION)
    with pytest.raises(DataError, match="n_clusters = 16: at most as many as vectors, of which there are 15"):
        made.fit(vectors[:15])
    assert not made.fitted
    made.fit(vectors[:16])
    np.testing.assert_allclose(made.quantize_batch(vectors[:16])[1], 0, atol=1e-6)


def test_wrong_input_is_refused(fitted, vectors, tmp_path):
    for clusters, dimensions in ((0, 8), (8, 0)):
        with pytest.raises(DataError, match="at least 1"):
            VectorQuantizer(clusters, dimensions)
    new = VectorQuantizer(16, DIMENSION)
    for early in (
        lambda: new.quantize(vectors[0]),
        lambda: new.reconstruct(0, np.zeros(DIMENSION)),
        lambda: new.save(tmp_path / "new.npy"),
    ):
        with pytest.raises(DataError, match="call fit first"):
            early()
    for made, rows in ((new.fit, vectors[:, :3]), (new.fit, vectors[0]), (fitted.quantize, vectors[0, :3])):
        with pytest.raises(DataError, match=r"takes \(n, 8\)"):
            made(rows)


def test_a_file_that_cannot_be_used_is_refused(fitted, tmp_path):
    path = tmp_path / "quantizer.npy"
    with pytest.raises(StorageError, match="fit it again"):
        VectorQuantizer.load(path)
    fitted.save(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:40], whole[: len(whole) // 2], b"something else", b"PK\x03\x04" + whole):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="fit it again"):
            VectorQuantizer.load(path)
    for other in (np.zeros((2, 3)), np.zeros(3, np.float32), np.zeros((0, 3), np.float32)):
        np.save(path, other)
        with pytest.raises(StorageError, match="no float32 centroids"):
            VectorQuantizer.load(path)
    np.save(path, np.array([{"never": "unpickled"}]), allow_pickle=True)
    with pytest.raises(StorageError, match="fit it again"):
        VectorQuantizer.load(path)
    with pytest.raises(StorageError, match="cannot be written"):
        fitted.save(tmp_path / "no" / "folder.npy")
