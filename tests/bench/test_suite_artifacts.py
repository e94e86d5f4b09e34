"""What suites say they need, known before anything is made, is what they make."""

import numpy as np
import pytest

from bench import config
from bench.artifacts import Store
from bench.suites import SUITES, Experiment
from bench.workload.dataset import TextDataset, VectorDataset
from brein import Document
from brein.records import Query

SMALL = ["embedding=hashing", "suite.memory.coding_vectors=300", "suite.memory.coding_queries=10"]


class Noting(Store):
    """Notes what is asked for."""

    def get_or_build(self, kind, content, build):
        folder = super().get_or_build(kind, content, build)
        self.asked.add(folder)
        return folder

    @property
    def asked(self):
        return self.__dict__.setdefault("noted", set())


def texts(count=320):
    documents = tuple(Document(f"d{n}", f"document number {n} about thing {n % 7}") for n in range(count))
    return TextDataset("t", documents, (Query("q", "thing 3"),), {"q": {"d3": 1}})


def vectors(count=320):
    rows = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    return VectorDataset("v", rows, rows[:12])


def experiment(dataset, store, *overrides):
    return Experiment(config.from_overrides([*SMALL, *overrides]), dataset, None, store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "dataset", "overrides"),
    [
        ("query", texts, ["index=flat"]),
        ("memory", vectors, ["index=ivf_flat", "index.nlist=8"]),
    ],
)
def test_a_suite_says_before_what_it_makes(suite, dataset, overrides, tmp_path):
    store = Noting(tmp_path)
    prepared = experiment(dataset(), store, *overrides)
    said = SUITES[suite].artifacts(prepared)
    assert not store.stored()
    SUITES[suite].plan(prepared)
    assert {store.find(*artifact) for artifact in said} == store.asked


def wanted(dataset, *overrides):
    prepared = experiment(dataset, Store("/nowhere"), "suites=[memory]", *overrides)
    return {(artifact.kind, artifact.key) for artifact in SUITES["memory"].artifacts(prepared)}


def test_what_acts_only_at_query_time_needs_no_index_of_its_own():
    needed = set().union(
        *(wanted(vectors(), f"index.efSearch={ef}", "index=hnsw") for ef in (10, 50, 200))
    )
    parts = config.from_overrides([]).suite.memory.shard_counts
    assert sum(kind == "indexes" for kind, _ in needed) <= 1 + len(parts)
    assert sum(kind == "truth" for kind, _ in needed) == 1


@pytest.mark.parametrize(
    "changed",
    [["index.M=16"], ["index.metric=l2"], ["trial.threads=7"], ["index.efConstruction=41"]],
    ids=lambda overrides: overrides[0],
)
def test_what_changes_an_index_asks_for_another(changed):
    plain, other = wanted(vectors(), "index=hnsw"), wanted(vectors(), "index=hnsw", *changed)
    assert not {found for found in plain & other if found[0] == "indexes"}


def test_other_data_share_nothing():
    assert not wanted(vectors(), "index=hnsw") & wanted(vectors(321), "index=hnsw")


def test_another_faiss_or_numpy_shares_no_more_than_the_vectors(monkeypatch):
    plain = wanted(vectors(), "index=hnsw")
    for module in ("memory.build", "memory.coding"):
        monkeypatch.setattr(f"bench.suites.{module}.faiss", lambda: {"faiss-cpu": "0.0"})
    monkeypatch.setattr(np, "__version__", "0.0")
    assert {kind for kind, _ in plain & wanted(vectors(), "index=hnsw")} == {"vectors"}
