"""Ground truth: exact where float32 would not be, checked, and kept with how it was made."""

import json

import numpy as np
import pytest

from bench.artifacts import Store
from bench.errors import MeasurementError
from bench.workload import embeddings, truth
from bench.workload.dataset import VectorDataset


def far_from_the_origin():
    """Vectors a unit apart and 10,000 from the origin: |x|² in float32 has steps of 64."""
    random = np.random.default_rng(1)
    centre = np.full(64, 1250, dtype=np.float32)
    return (centre + random.normal(size=(400, 64)) / 8).astype(np.float32)


def test_exact_search_is_exact_far_from_the_origin():
    vectors = far_from_the_origin()
    queries = vectors[:20] + np.float32(0.01)
    found = truth.exact_search(vectors, queries, 10, "l2")
    for row, query in zip(found, queries.astype(np.float64), strict=True):
        everything = np.square(vectors - query).sum(axis=1)
        np.testing.assert_array_equal(row, np.argsort(everything)[:10])


GPU = pytest.param("cuda", marks=pytest.mark.skipif(not truth.has_gpu(), reason="needs a GPU"))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_pytorch_finds_the_same_neighbours_as_numpy(metric, device):
    vectors = far_from_the_origin()
    queries = vectors[:20] + np.float32(0.01)
    rows = [truth.exact_search(vectors, queries, 10, metric, which) for which in (None, device)]
    assert truth.mismatch(vectors, queries, rows[1], np.arange(20), metric) is None
    np.testing.assert_array_equal(*rows)


METRICS = ("cosine", "inner_product", "l2")


@pytest.mark.parametrize("device", [None, pytest.param("cpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("metric", METRICS)
def test_each_query_finds_only_what_it_may_and_the_nearest_of_it(metric, device):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(9_000, 4)).astype(np.float32)  # more than one block
    queries = random.normal(size=(1_100, 4)).astype(np.float32)  # and more queries than go together
    among = random.random((len(queries), len(vectors))) < 0.01
    among[7] = False
    among[7, [5, 8_999]] = True
    found = truth.exact_search(vectors, queries, 10, metric, device, among=among)
    for row in (0, 7, 1_099):
        there = np.flatnonzero(among[row])
        nearest = there[np.argsort(truth.distances(vectors[there], queries[row], metric))][:10]
        assert found[row].tolist()[: len(nearest)] == nearest.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_brute_force_agrees_with_exact_search_and_with_no_other(metric):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 8)).astype(np.float32)
    vectors[100:] = vectors[:100]  # every neighbour has an equal
    queries = random.normal(size=(5, 8)).astype(np.float32)
    nearest, sample = truth.exact_search(vectors, queries, 10, metric), np.arange(5)
    assert truth.mismatch(vectors, queries, nearest, sample, metric) is None
    assert truth.mismatch(vectors, queries, (nearest + 100) % 200, sample, metric) is None
    for other in {*METRICS} - {metric}:
        assert "brute force finds one" in str(truth.mismatch(vectors, queries, nearest, sample, other))
    farther, twice = nearest.copy(), nearest.copy()
    farther[3, 9] = truth.exact_search(vectors, queries[3:4], 200, metric)[0, 20]
    twice[3, 9] = twice[3, 8]
    for wrong, why in ((farther, "its neighbour"), (twice, "one vector is named twice")):
        assert str(truth.mismatch(vectors, queries, wrong, sample, metric)).startswith(f"query 3: {why}")


def a_vector_data_set(published, metric):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 8)).astype(np.float32)
    rows = truth.exact_search(vectors, vectors[:20], 10, published)
    return VectorDataset("d", vectors, vectors[:20], rows, metric)


def test_a_published_truth_that_is_wrong_is_refused_and_not_kept(tmp_path):
    store = Store(tmp_path)
    made = embeddings.of_vectors(a_vector_data_set(published="l2", metric="inner_product"), store)
    with pytest.raises(
        MeasurementError, match=r"ground truth for inner_product, query \d+: .*; correct dataset"
    ):
        truth.exact_distances(made, "inner_product", store)
    assert store.find(*truth.wanted(made.key, "inner_product", published=True)) is None


def test_how_the_truth_was_made_is_kept_beside_it(tmp_path):
    store = Store(tmp_path)
    made = embeddings.of_vectors(a_vector_data_set(published="l2", metric="l2"), store)
    kept = {
        metric: json.loads(truth.exact_distances(made, metric, store).with_name("truth.json").read_text())
        for metric in ("l2", "cosine")
    }
    assert kept["l2"]["method"] == "published"
    assert kept["cosine"]["method"].startswith("exhaustive search in float64 on the ")
    assert kept["cosine"]["compared_with_brute_force"] == truth.CHECKED
