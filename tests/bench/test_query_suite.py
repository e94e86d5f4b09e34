"""The query suite's trial, run whole in this process on an engine that embeds without a model."""

import numpy as np
import pytest
from children import result_of

from bench.config import UniformPopularity
from bench.metrics import derive
from bench.suites import ingested
from bench.suites.query import batching, passes
from bench.trial import frame
from bench.workload import prose
from bench.workload.popularity import Stream
from brein import Engine, EngineConfig, embedding
from brein.embedding.hashing import HashingConfig
from brein.index.flat import FlatConfig
from brein.index.ivf import IVFFlatConfig
from brein.retrieval.pipeline import LexicalConfig, RetrievalConfig

VECTORS_ALONE = RetrievalConfig(lexical=LexicalConfig(enabled=False), reranker=None)
DOCUMENTS, QUERIES, REQUESTS = 300, 30, 80
SHARES = [0.02, 0.5]


def searched(tmp_path, index):
    config = EngineConfig(embedding=HashingConfig(), index=index, retrieval=VECTORS_ALONE)
    texts = prose.texts(DOCUMENTS + QUERIES - 1, 30, seed=1)
    asked = [*texts[DOCUMENTS:], texts[-1]]  # two queries have one text
    folders = {name: tmp_path / name for name in ("engine", "vectors")}
    for folder in folders.values():
        folder.mkdir()
    embedder = embedding.create(config.embedding)
    np.save(folders["vectors"] / "vectors.npy", embedder.embed(texts[:DOCUMENTS]))
    np.save(folders["vectors"] / "queries.npy", embedder.embed(asked))
    ids = [f"d{n}" for n in range(DOCUMENTS)]
    ingested.ingest(
        {
            "engine": config.model_dump_json(),
            "documents": list(zip(ids, texts, strict=False)),
            "vectors": str(folders["vectors"]),
            "folder": str(folders["engine"]),
        }
    )
    popular = UniformPopularity(repetition=0.5, window=3)
    stream = Stream(popularity=popular, queries=QUERIES, requests=REQUESTS)
    trial = passes.run(
        {
            "engine": config.model_dump_json(),
            "folder": str(folders["engine"]),
            "vectors": str(folders["vectors"]),
            "documents": ids,
            "queries": [[f"q{n}", text] for n, text in enumerate(asked)],
            "judgements": {f"q{n}": {"d0": 1} if n < 5 else {} for n in range(QUERIES)},
            "stream": stream.model_dump_json(),
            "settings": {
                "parts": ["cold", "popular", "filtered"],
                "k": 10,
                "filter_shares": SHARES,
                "filtered_queries": 20,
            },
            "scratch": str(tmp_path),
            "seed": 4,
        }
    )
    return result_of(trial), stream


def measured(tmp_path, index):
    made, stream = searched(tmp_path, index)
    samples = frame([{"suite": "query", "repeat": 0, **row} for row in made["rows"]])
    return {(m.name, *m.labels.values()): m.value for m in derive(samples)}, samples, stream


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("exact"), FlatConfig())


def test_the_stream_has_the_name_and_the_requests_of_its_popularity(exact):
    found, samples, stream = exact
    popular = samples[samples["labels"] == '{"phase": "uniform"}']
    assert popular["query"].tolist() == [f"q{row}" for row in stream.drawn(4)]
    # The last two queries have one text: the cache knows the one once it was asked the other.
    texts = np.minimum(stream.drawn(4), QUERIES - 2)
    assert found["query.cache_hit_rate", "uniform"] == 1 - len(set(texts.tolist())) / REQUESTS
    assert ("query.cache_hit_rate", "cold") not in found


def test_caches_that_are_empty_when_they_should_be_cast_no_doubt(tmp_path):
    made, _ = searched(tmp_path, FlatConfig())
    assert made["facts"]["doubts"] == {}


def test_what_a_cache_should_not_have_known_is_doubted(tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "clear_caches", lambda engine: None)
    made, stream = searched(tmp_path, FlatConfig())
    asked = {min(row, QUERIES - 2) for row in stream.drawn(4).tolist()}
    assert made["facts"]["doubts"] == {
        "query.search cold": "a cache answered 1 queries it should not have known",
        "query.search uniform": f"a cache answered {len(asked)} queries it should not have known",
    }


def test_the_cold_pass_asks_every_query_once_and_judges_those_with_judgements(exact):
    found, samples, _ = exact
    cold = samples[samples["labels"] == '{"phase": "cold"}']
    assert sorted(cold["query"]) == sorted(f"q{n}" for n in range(QUERIES))
    assert cold["ndcg_at_10"].count() == 5
    assert ("query.ndcg_at_10", "uniform") not in found


def test_exact_search_among_the_allowed_documents_finds_them_all(exact):
    found, samples, _ = exact
    assert {name[1]: found[name] for name in found if name[0] == "query.filtered.recall_at_10"} == {
        "0.02": 1, "0.5": 1
    }  # fmt: skip
    assert (samples["series"] == "query.filtered").sum() == 20 * len(SHARES)


def test_filtered_recall_is_of_what_was_found(tmp_path):
    found, _, _ = measured(tmp_path, IVFFlatConfig(nlist=60, nprobe=1))
    assert 0 < found["query.filtered.recall_at_10", "0.5"] < 1


def test_so_many_documents_as_the_share_says_are_allowed():
    numbers = ingested.numbers(1000)
    assert sorted(numbers) == list(range(1000))
    assert not np.array_equal(numbers, np.arange(1000))


def test_every_query_is_embedded_by_every_number_of_clients_both_ways():
    trial = batching.run(
        {
            "engine": EngineConfig(embedding=HashingConfig()).model_dump_json(),
            "texts": prose.texts(20, 10, seed=1),
            "clients": [1, 3],
            "queries": 60,
            "seed": 4,
        }
    )
    samples = frame([{"suite": "query", "repeat": 0, **row} for row in result_of(trial)["rows"]])
    found = {(m.name, *m.labels.values()): m for m in derive(samples)}
    for clients in ("1", "3"):
        rows = samples[samples["labels"].str.contains(f'"clients": "{clients}"')]
        walls = rows[rows["series"] == "query.batching"]
        assert walls["items"].tolist() == [60] * 8
        assert (rows["series"] == "query.batching.wait").sum() == 2 * 4 * 60
        alone, shared = (
            walls[walls["labels"].str.contains(side)]["value"].sum() for side in ("alone", "shared")
        )
        assert found["query.batching.gain", clients].value == pytest.approx(alone / shared)
