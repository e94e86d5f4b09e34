"""The query suite's trial, run whole in this process on an engine that embeds without a model."""

import json
import math

import numpy as np
import pytest
from children import result_of

from bench.data_config import UniformPopularity
from bench.metrics import derive, label_text
from bench.suites import ingested
from bench.suites.query import ablation, batching, passes
from bench.trial import frame
from bench.workload import prose
from bench.workload.popularity import Stream
from brein import Engine, EngineConfig, embedding
from brein.embedding.hashing import HashingConfig
from brein.index.flat import FlatConfig
from brein.index.ivf import IVFFlatConfig
from brein.retrieval.pipeline import LexicalConfig, RetrievalConfig

VECTORS_ALONE = RetrievalConfig(lexical=LexicalConfig(enabled=False), reranker=None)
DOCUMENTS, QUERIES, REQUESTS = 300, 70, 160
SHARES = [0.02, 0.5]


ALL_PARTS = ["cold", "popular", "filtered"]


def searched(tmp_path, index, retrieval=VECTORS_ALONE, parts=ALL_PARTS):
    config = EngineConfig(embedding=HashingConfig(), index=index, retrieval=retrieval)
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
                "parts": parts,
                "k": 10,
                "filter_shares": SHARES,
                "filtered_queries": 20,
            },
            "scratch": str(tmp_path),
            "seed": 4,
        }
    )
    return result_of(trial), stream


def measured(tmp_path, index, **settings):
    made, stream = searched(tmp_path, index, **settings)
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
    cold = ("query.search cold", "query.stage", "query.degraded", "query.strategy", "query.prediction")
    assert made["facts"]["doubts"] == {
        **dict.fromkeys(cold, "a cache answered 1 queries it should not have known"),
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
    assert (samples["series"] == "query.filtered").sum() == 2 * 20 * len(SHARES)


def test_filtered_queries_are_asked_as_texts_too_which_exact_search_says_nothing_of(exact):
    found, samples, _ = exact
    filtered = samples[samples["series"] == "query.filtered"].groupby("labels")
    for share in map(str, SHARES):
        vectors, texts = (
            filtered.get_group(label_text({**of, "share": share})) for of in ({}, {"of": "text"})
        )
        assert vectors["query"].tolist() == texts["query"].tolist()
        assert texts["recall_at_10"].isna().all()
        assert ("query.filtered.latency.mean", "text", share) in found


def test_texts_are_asked_among_the_share_alone(tmp_path, monkeypatch):
    conditions = []
    retrieve = Engine.retrieve

    def kept(engine, text, k, where):
        conditions.append(where)
        return retrieve(engine, text, k, where)

    monkeypatch.setattr(Engine, "retrieve", kept)
    searched(tmp_path, FlatConfig(), parts=["filtered"])
    assert conditions == [{ingested.FIELD: {"lt": bound}} for bound in (6, 150) for _ in range(21)]


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


# --- stages ------------------------------------------------------------------------------------------------


def staged(**settings):
    return RetrievalConfig.model_validate({"strategy": "two_stage"} | settings)


@pytest.fixture(scope="module")
def stage_by_stage(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("staged"), FlatConfig(), retrieval=staged(), parts=["cold"])


STAGES = {"analysis", "lexical", "embedding", "vectors", "fusion", "rerank", "documents"}


def test_the_cold_pass_tells_each_stage_of_every_query(stage_by_stage):
    found, samples, _ = stage_by_stage
    stages = samples[samples["series"] == "query.stage"]
    assert {json.loads(labels)["stage"] for labels in stages["labels"]} == STAGES
    assert (stages.groupby("labels")["query"].nunique() == QUERIES).all()
    of_stages, whole = stages.groupby("query")["value"].sum(), samples[samples["series"] == "query.search"]
    assert of_stages.lt(whole.set_index("query")["value"]).all()
    assert {name[1] for name in found if name[0] == "query.stage.latency.mean"} == STAGES


def test_the_cold_pass_tells_the_share_of_each_strategy(stage_by_stage):
    found, _, _ = stage_by_stage
    strategies = {name[1]: found[name] for name in found if name[0] == "query.strategy"}
    assert strategies == {"single_stage": 0, "two_stage": 1, "multi_stage": 0}


def test_a_query_is_predicted_once_its_stages_have_run_often_enough(stage_by_stage):
    found, samples, _ = stage_by_stage
    predicted = samples[samples["series"] == "query.prediction"]
    assert 0 < len(predicted) <= QUERIES - 32
    assert set(predicted["query"]) <= set(samples["query"].dropna())
    error = ((predicted["reference"] - predicted["value"]).abs() / predicted["value"]).mean()
    assert found["query.prediction.error",] == pytest.approx(error)


def test_degraded_answers_are_counted(stage_by_stage, tmp_path):
    assert stage_by_stage[0]["query.degraded",] == 0
    late = staged(reranker={"kind": "interpolation", "budget": 1e-9})
    found, _, _ = measured(tmp_path, FlatConfig(), retrieval=late, parts=["cold"])
    assert found["query.degraded",] == 1


# --- ablation ----------------------------------------------------------------------------------------------

SECOND = 1 / math.log2(3)  # nDCG@10 of the one relevant document in the second place
CHANGES = {  # for the two queries: what a change takes from the relevant document, or gives
    "single_stage": (SECOND - 1, 0),
    "two_stage": (0, 0),
    "multi_stage": (0, 0),
    "without lexical": (0, 0),
    "without vectors": (-1, 0),
    "without rerank": (SECOND - 1, 0),
    "multi_stage with mesh": (0, SECOND),
    "with expansion": (0, 0),
}


def planted(dimension):
    """Texts by id, and their vectors.

    "zebra" is answered by a document that is near and lacks the word, beside one that has it and is not;
    "giraffe" by one that is like the only document that is near and has the word, and less near than thirty.
    """
    zebra, giraffe = embedding.create(HashingConfig(dimension=dimension)).embed(["zebra", "giraffe"])
    assert zebra @ giraffe == 0
    free = np.eye(dimension, dtype=np.float32)[(zebra == 0) & (giraffe == 0)]
    texts = {"has the word": "zebra", "near": "unlike", "bridge": "giraffe", "beyond": "elsewhere"}
    vectors = [free[0], zebra, 0.8 * giraffe + 0.6 * free[1], free[1]]
    for n in range(30):
        texts[f"other{n}"] = f"filler{n}"
        vectors.append(0.05 * giraffe + math.sqrt(1 - 0.05**2) * free[n + 2])
    return texts, np.array(vectors, dtype=np.float32)


def test_an_ablation_finds_the_planted_differences(tmp_path):
    dimension = 128
    texts, vectors = planted(dimension)
    whole = staged(mesh={"co_retrieved": 0})
    made = whole.model_copy(update={"mesh": whole.mesh.model_copy(update={"enabled": True})})
    config = EngineConfig(embedding=HashingConfig(dimension=dimension), index=FlatConfig(), retrieval=made)
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "engine").mkdir()
    argument = {
        "engine": config.model_dump_json(),
        "documents": list(texts.items()),
        "vectors": str(tmp_path),
        "folder": str(tmp_path / "engine"),
        "variants": {name: one.model_dump_json() for name, one in ablation.variants(whole).items()},
        "queries": [("a", "zebra", {"near": 1}), ("b", "giraffe", {"beyond": 1})],
        "k": 10,
        "scratch": str(tmp_path),
        "seed": 4,
    }
    ingested.ingest(argument)
    rows = result_of(ablation.run(argument))["rows"]
    found = {(json.loads(row["labels"])["change"], row["query"]): row["ndcg_difference"] for row in rows}
    assert found == {
        (change, query): pytest.approx(difference)
        for change, differences in CHANGES.items()
        for query, difference in zip("ab", differences, strict=True)
    }
    samples = frame([{"suite": "query", "repeat": 0, **row} for row in rows])
    metrics = {(m.name, m.labels["change"]): m.value for m in derive(samples)}
    for change, differences in CHANGES.items():
        assert metrics["query.ablation.ndcg_difference", change] == pytest.approx(sum(differences) / 2)
        assert metrics["query.ablation.cost", change] > 0


def test_an_ablation_switches_what_is_on_off_and_what_is_off_on():
    words = staged(vectors={"enabled": False}, reranker=None)
    everything = staged(
        lexical={"expansion": {"words": 5}}, mesh={"enabled": True}, reranker={"kind": "late_interaction"}
    )
    names = {"whole", "single_stage", "two_stage", "multi_stage"}
    assert set(ablation.variants(words)) == names | {"multi_stage with mesh", "with expansion"}
    changed = ablation.variants(everything)
    switched = {f"without {part}" for part in ("lexical", "vectors", "rerank", "expansion")}
    assert set(changed) == names | switched | {"multi_stage without mesh"}
    assert changed["whole"] == everything
    assert not changed["without lexical"].lexical.enabled
    assert not changed["without vectors"].vectors.enabled
    assert changed["without rerank"].reranker is None
    assert not changed["multi_stage without mesh"].mesh.enabled
    assert changed["multi_stage without mesh"].strategy == "multi_stage"
    assert changed["without expansion"].lexical.expansion.words == 0
