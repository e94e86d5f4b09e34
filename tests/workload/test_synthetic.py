"""Synthetic vectors: the same every time, and as hard as the embeddings they stand for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.config import CONF
from bench.data_config import SyntheticConfig
from bench.errors import UsageError
from bench.workload import synthetic

SMALL: dict[str, Any] = {
    "vectors": 5_000,
    "queries": 50,
    "dimension": 32,
    "clusters": 20,
    "cluster_spread": 0.5,
    "intrinsic_dimension": 8,
    "seed": 7,
}


def config(**changes: Any) -> SyntheticConfig:
    return SyntheticConfig(**(SMALL | changes))


def test_vectors_are_float32_of_length_one() -> None:
    data = synthetic.load(config())
    assert data.vectors.shape == (5_000, 32)
    assert data.queries.shape == (50, 32)
    assert data.vectors.dtype == data.queries.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(data.vectors, axis=1), 1, rtol=1e-5)


def test_a_seed_decides_everything() -> None:
    first = synthetic.load(config())
    assert synthetic.load(config()).sha256 == first.sha256
    assert synthetic.load(config(seed=8)).sha256 != first.sha256


def test_the_first_vectors_do_not_depend_on_how_many_there_are() -> None:
    few, many = synthetic.load(config(vectors=100, queries=10)), synthetic.load(config(vectors=9_000))
    np.testing.assert_array_equal(few.vectors, many.vectors[:100])
    np.testing.assert_array_equal(few.queries, many.queries[:10])


def test_queries_are_not_among_the_vectors() -> None:
    data = synthetic.load(config())
    assert (data.queries @ data.vectors.T).max() < 0.9999


def test_the_intrinsic_dimension_carries_the_variance() -> None:
    data = synthetic.load(config())
    spectrum = np.linalg.svd(data.vectors - data.vectors.mean(axis=0), compute_uv=False) ** 2
    assert spectrum[:8].sum() / spectrum.sum() > 0.9


def test_a_smaller_spread_makes_tighter_clusters() -> None:
    def nearest(spread: float) -> float:
        data = synthetic.load(config(cluster_spread=spread))
        return float(np.median((data.queries @ data.vectors.T).max(axis=1)))

    assert nearest(0.2) > nearest(1.0)


@pytest.mark.parametrize("change", [{"intrinsic_dimension": 33}, {"clusters": 5_001}])
def test_what_does_not_fit_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"dataset.{next(iter(change))}.*lower it"):
        synthetic.load(config(**change))


@pytest.mark.slow
def test_the_default_is_as_hard_for_indexes_as_sentence_embeddings() -> None:
    import faiss

    settings = yaml.safe_load(Path(CONF, "dataset", "synthetic.yaml").read_text())
    data = synthetic.load(SyntheticConfig(**settings))
    vectors, queries = data.vectors[:30_000], data.queries
    truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]

    def recall(kind: str) -> float:
        index = faiss.index_factory(384, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        if kind.startswith("IVF"):
            index.nprobe = 5
        _, found = index.search(queries, 10)
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)]))

    assert recall("IVF100,Flat") == pytest.approx(0.87, abs=0.03)
    assert recall("PQ16x8") == pytest.approx(0.32, abs=0.03)
