"""Ground truth, popularity, and what both are built from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workload import truth
from bench.workload.dataset import VectorDataset
from bench.workload.popularity import zipf_stream


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_exact_search_equals_sorting_every_distance(metric, monkeypatch):
    monkeypatch.setattr(truth, "_BLOCK", 37)  # several blocks, the last one short
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 8)).astype(np.float32)
    queries = random.normal(size=(20, 8)).astype(np.float32)
    found = truth.exact_search(vectors, queries, 10, metric)
    for row, query in zip(found, queries, strict=True):
        everything = truth.distances(vectors, query, metric)
        np.testing.assert_allclose(everything[row], np.sort(everything)[:10], rtol=1e-4, atol=1e-5)


def test_exact_search_gives_all_where_there_are_fewer_than_k():
    vectors = np.eye(4, dtype=np.float32)
    assert sorted(truth.exact_search(vectors, vectors[:1], 10, "l2")[0]) == [0, 1, 2, 3]


def test_another_ground_truth_is_another_data_set():
    rows = np.eye(4, dtype=np.float32)
    truth = np.arange(4, dtype=np.int64).reshape(4, 1)
    hashes = {
        VectorDataset("d", rows, rows, given, metric).sha256
        for given, metric in ((None, None), (truth, "l2"), (truth, "cosine"), (truth[::-1], "l2"))
    }
    assert len(hashes) == 4


@given(st.integers(1, 50), st.floats(0, 3), st.integers(0, 2**31))
def test_a_stream_is_repeatable_and_within_range(queries, exponent, seed):
    stream = zipf_stream(queries, 100, exponent, seed)
    assert stream.shape == (100,)
    assert 0 <= stream.min() <= stream.max() < queries
    np.testing.assert_array_equal(stream, zipf_stream(queries, 100, exponent, seed))


def test_popularity_follows_the_exponent():
    counts = np.sort(np.bincount(zipf_stream(100, 200_000, 1.0, 3), minlength=100))[::-1]
    harmonic = (1 / np.arange(1, 101)).sum()
    assert counts[0] / 200_000 == pytest.approx(1 / harmonic, rel=0.03)
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)
    uniform = np.bincount(zipf_stream(100, 200_000, 0.0, 3), minlength=100)
    assert uniform.min() > 1700
