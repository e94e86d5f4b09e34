"""What suites say they need, known before anything is made, is what they make."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from bench import config
from bench.artifacts import Store
from bench.suites import SUITES, Experiment
from bench.workload.dataset import TextDataset, VectorDataset
from brein import Document
from brein.embedding.transformer import TransformerConfig
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


def unjudged():
    return replace(texts(), judgements={})


def vectors(count=320):
    rows = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    return VectorDataset("v", rows, rows[:12])


@cache
def composed(*overrides):
    return config.from_overrides([*SMALL, *overrides])


def experiment(dataset, store, *overrides):
    return Experiment(composed(*overrides), dataset, None, store)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "dataset", "overrides"),
    [
        ("query", texts, ["index=flat"]),
        ("query", texts, ["index=flat", "suite.query.parts=[ablation]"]),
        ("query", texts, ["index=flat", "suite.query.parts=[batching]"]),
        ("query", unjudged, ["index=flat", "suite.query.parts=[ablation,batching]"]),
        ("query", unjudged, ["index=flat", "suite.query.parts=[filtered]"]),
        ("agents", texts, ["index=flat"]),
        ("load", texts, ["index=ivf_flat", "index.nlist=8"]),
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


def test_parts_of_the_query_suite_that_are_left_out_say_so(tmp_path):
    only = experiment(texts(), Store(tmp_path), "index=flat", "suite.query.parts=[batching]")
    skipped = {name: why for work in SUITES["query"].plan(only) for name, why in work.skipped.items()}
    assert set(skipped.values()) == {
        f"suite.query.parts leaves {part} out" for part in ("cold", "popular", "filtered", "ablation")
    }
    assert {"query.search cold", "query.filtered", "query.ablation"} < set(skipped)


def test_without_judgements_there_is_no_ablation(tmp_path):
    prepared = experiment(unjudged(), Store(tmp_path), "index=flat", "suite.query.parts=[ablation]")
    skipped = {name: why for work in SUITES["query"].plan(prepared) for name, why in work.skipped.items()}
    assert skipped["query.ablation"] == "t has no judgements to tell a better answer by"


def needed(dataset, suites=("memory",), **parts):
    """The kinds and keys of what suites say they need with HNSW, or with other parts."""
    asked = Experiment(composed("index=hnsw").model_copy(update=parts), dataset, None, Store("/nowhere"))
    return {(one.kind, one.key) for suite in suites for one in SUITES[suite].artifacts(asked)}


def hnsw(**changes):
    return composed("index=hnsw").index.model_copy(update=changes)


def test_what_acts_only_at_query_time_needs_no_index_of_its_own():
    widths = [needed(vectors(), index=hnsw(efSearch=width)) for width in range(10, 210, 10)]
    assert "indexes" in {kind for kind, _ in widths[0]}
    assert all(one == widths[0] for one in widths)


@pytest.mark.parametrize("change", [{"M": 16}, {"metric": "l2"}, {"efConstruction": 41}], ids=str)
def test_what_changes_an_index_asks_for_another(change):
    shared = needed(vectors()) & needed(vectors(), index=hnsw(**change))
    assert "indexes" not in {kind for kind, _ in shared}


def test_an_index_built_by_other_threads_is_another():
    trial = composed("index=hnsw").trial.model_copy(update={"threads": 7})
    shared = needed(vectors()) & needed(vectors(), trial=trial)
    assert {kind for kind, _ in shared} == {"vectors", "truth", "codings"}


def test_other_data_share_nothing():
    assert not needed(vectors()) & needed(vectors(321))


def test_another_faiss_or_numpy_shares_no_more_than_the_vectors(monkeypatch):
    plain = needed(vectors())
    for module in ("memory.build", "memory.coding"):
        monkeypatch.setattr(f"bench.suites.{module}.faiss", lambda: {"faiss-cpu": "0.0"})
    monkeypatch.setattr(np, "__version__", "0.0")
    assert {kind for kind, _ in plain & needed(vectors())} == {"vectors"}


def test_another_model_shares_nothing(monkeypatch):
    def wanted(**changes):
        return needed(texts(), ("memory", "query"), embedding=TransformerConfig(**changes))

    plain = wanted()
    assert wanted(batch_size=7) == plain, "a batch's size leaves no mark"
    assert not plain & wanted(max_tokens=99)
    assert not plain & needed(texts(), ("memory", "query"))
    monkeypatch.setattr("brein.embedding.model_sha256", lambda folder: "another's")
    assert not plain & wanted()
