"""Ground truth, and what it is built from."""

import numpy as np
import pytest

from bench.workload import truth
from bench.workload.dataset import VectorDataset


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
