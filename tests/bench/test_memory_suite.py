"""The memory suite's parts, each run whole in this process on small data."""

import json
import zlib
from collections import Counter, OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from children import result_of
from hypothesis import given
from hypothesis import strategies as st

from bench import config
from bench.artifacts import Store
from bench.data_config import SyntheticConfig, ZipfPopularity
from bench.errors import UsageError
from bench.metrics import derive
from bench.suites import Experiment, query
from bench.suites.memory import PARTS, build, cache, coding, mixed, search, shards, storage, streaming
from bench.timing import Timed
from bench.trial import frame
from bench.workload import prose, synthetic, truth
from bench.workload.dataset import TextDataset
from bench.workload.popularity import Stream
from brein import Document, EngineConfig
from brein.cache import CacheConfig, DiskConfig, RedisConfig
from brein.cache import SearchCacheConfig as SearchConfig
from brein.index import gpu
from brein.index.flat import FlatConfig
from brein.index.ivf import IVFFlatConfig
from brein.index.plain import PlainIndex

VECTORS, QUERIES, DIMENSION = 600, 40, 32
SETTINGS = {
    "k": 10, "searches": 60, "batch_seconds": 0.01, "filter_shares": [0.01, 0.5],
    "filtered_searches": 15, "shard_searches": 30,
    "storage_shards": [1, 3], "storage_documents": 250, "storage_reads": 20,
}  # fmt: skip
STREAM = Stream(
    popularity=ZipfPopularity(exponent=1.0, repetition=0.0, window=1, drift=0.0), queries=50, requests=300
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Vectors and queries as the suite finds them, with their exact neighbours."""
    folder = tmp_path_factory.mktemp("source")
    drawn = synthetic.load(
        SyntheticConfig(
            vectors=VECTORS,
            queries=QUERIES,
            dimension=DIMENSION,
            clusters=20,
            cluster_spread=1.0,
            intrinsic_dimension=8,
            seed=3,
        )
    )
    np.save(folder / "vectors.npy", drawn.vectors)
    np.save(folder / "queries.npy", drawn.queries)
    truth.compute({"vectors": str(folder), "folder": str(folder), "metric": "cosine"})
    return folder


def engine(**parts):
    return EngineConfig(**parts).model_dump_json()


def built(source, folder, index, rows=VECTORS):
    folder.mkdir()
    argument = {
        "engine": engine(index=index), "vectors": str(source), "rows": rows, "folder": str(folder)
    }  # fmt: skip
    build.build(argument)
    return str(folder)


def measured(trial):
    """Run a trial's function to its end; what its samples give, by name and labels, and the samples."""
    rows = [{"suite": "memory", "repeat": 0, **row} for row in result_of(trial)["rows"]]
    samples = frame(rows)
    return {(m.name, *m.labels.values()): m.value for m in derive(samples)}, samples


def searched(source, tmp_path, index, **settings):
    return measured(
        search.search(
            {
                "engine": engine(index=index),
                "index": built(source, tmp_path / "index", index),
                "vectors": str(source),
                "truth": str(source / "distances.npy"),
                "seed": 5,
                "query_ids": [f"q{n}" for n in range(QUERIES)],
                "settings": {**SETTINGS, **settings},
            }
        )
    )


def test_exact_search_has_every_recall_whatever_is_allowed(source, tmp_path):
    found, samples = searched(source, tmp_path, FlatConfig())
    recalls = {name: value for name, value in found.items() if "recall" in name[0]}
    assert recalls == {
        ("memory.recall_at_1",): 1.0, ("memory.recall_at_10",): 1.0, ("memory.recall_at_100",): 1.0,
        ("memory.filtered.recall_at_10", "0.01"): 1.0, ("memory.filtered.recall_at_10", "0.5"): 1.0,
    }  # fmt: skip
    assert {"memory.search.latency.mean", "memory.search.batch_throughput", "memory.peak"} <= {
        name for name, *_ in found
    }
    assert samples[samples["series"] == "memory.search"]["recall_at_100"].count() == QUERIES
    assert samples[samples["series"] == "memory.search.batch"]["items"].unique().tolist() == [QUERIES]


def test_recall_is_of_what_was_found(source, tmp_path):
    found, _ = searched(source, tmp_path, IVFFlatConfig(nlist=50, nprobe=1))
    assert 0.1 < found["memory.recall_at_100",] < found["memory.recall_at_10",] < 1


def test_an_index_is_weighed_by_part_and_centroids_are_projected_once(source, tmp_path):
    sizes, _ = searched(source, tmp_path, IVFFlatConfig(nlist=50))
    total, centroids = sizes["memory.index.bytes_per_vector",], 50 * DIMENSION * 4
    parts = {part: sizes["memory.index.bytes_per_vector", part] for part in ("codes", "ids", "centroids")}
    assert parts["codes"] == 4 * DIMENSION
    assert parts["centroids"] * VECTORS >= centroids
    assert sum(parts.values()) == pytest.approx(total)
    once = parts["centroids"] * VECTORS
    assert sizes["memory.index.bytes_per_million",] == pytest.approx(once + 1e6 * (total - once / VECTORS))


def test_a_build_is_timed_once(source, tmp_path):
    known, when = build.samples(Path(built(source, tmp_path / "index", FlatConfig())))
    assert [(row["series"], row["value"] > 0) for samples in known for row in samples.rows] == [
        ("memory.build", True)
    ]
    assert when.startswith("built once, ")


def test_a_build_on_another_machine_has_no_time(source, tmp_path):
    folder = tmp_path / "index"
    built(source, folder, FlatConfig())
    facts = json.loads((folder / "build.json").read_text())
    (folder / "build.json").write_text(json.dumps({**facts, "machine": "another"}))
    known, when = build.samples(folder)
    assert known == []
    assert "on another machine: its time is not shown" in when


@pytest.mark.parametrize(
    ("index", "part"),
    [
        (
            {"kind": "IndexRefine", "place": "disk", "first": {"kind": "IndexPQFastScan", "M": 8}},
            "refinement",
        ),
        ({"kind": "IndexIVFFlat", "nlist": 50, "memory_map": True}, "codes"),
    ],
)
def test_bytes_are_on_disk_where_the_searched_index_leaves_them(source, tmp_path, index, part):
    found, _ = searched(source, tmp_path, EngineConfig.model_validate({"index": index}).index)
    on_disk = {name[1:]: size for name, size in found.items() if "disk_bytes" in name[0]}
    assert on_disk[part,] == 4 * DIMENSION
    assert on_disk[()] == sum(size for labels, size in on_disk.items() if labels)
    assert ("memory.index.bytes_per_vector", part) not in found


def test_one_level_answers_all_but_the_first_request_for_a_key(tmp_path):
    levels, samples = cached(CacheConfig(), ["l1"], tmp_path)
    answered = pytest.approx(1 - len(set(STREAM.drawn(5).tolist())) / STREAM.requests)
    assert levels == {("memory.cache.answered", "l1"): answered, ("memory.cache.hit_rate", "l1"): answered}
    assert (samples["series"] == "memory.cache").sum() == round(300 * levels["memory.cache.answered", "l1"])


def simulated(stream, maxsize, ttl, rate):
    """Requests that an LRU cache answers whose entries live `ttl` seconds from when they were computed."""
    entries, answered = OrderedDict(), 0
    for place, key in enumerate(stream, 1):
        now = place / rate
        entries = OrderedDict((k, expires) for k, expires in entries.items() if now < expires)
        if key in entries:
            answered += 1
            entries.move_to_end(key)
            continue
        if len(entries) == maxsize:
            entries.popitem(last=False)
        entries[key] = now + ttl
    return answered / len(stream)


@pytest.mark.parametrize(("maxsize", "rate"), [(5, 1.0), (20, 10.0), (50, 1.0)])
def test_a_hit_rate_is_that_of_the_size_the_time_to_live_and_the_stream(tmp_path, maxsize, rate):
    shares = []
    for ttl in (0.15, 7.5, 40.5, 1800.0):
        levels, _ = cached(CacheConfig(search=SearchConfig(maxsize=maxsize, ttl=ttl)), ["l1"], tmp_path, rate)
        shares.append(levels["memory.cache.answered", "l1"])
        assert shares[-1] == simulated(STREAM.drawn(5).tolist(), maxsize, ttl, rate)
    assert shares[0] < shares[1] < shares[-1]


def test_every_level_ages_by_the_virtual_clock(tmp_path):
    """An hour passes between two requests: what lives for less is never found again, what lives longer is."""
    found = {}
    for ttl in (1800.0, 1e7):
        three = CacheConfig(
            search=SearchConfig(ttl=ttl),
            l2=RedisConfig(enabled=True, timeout=5.0, ttl=ttl),
            l3=DiskConfig(enabled=True, ttl=ttl),
        )
        levels, _ = cached(three, ["l1", "l2", "l3"], tmp_path, 1 / 3600)
        found[ttl] = [levels["memory.cache.answered", level] for level in ("l1", "l2", "l3")]
    assert found[1800.0] == [0, 0, 0]
    assert all(share > 0 for share in found[1e7])


def test_each_of_three_levels_answers_what_the_faster_ones_lost(tmp_path):
    three = CacheConfig(l2=RedisConfig(enabled=True, timeout=5.0), l3=DiskConfig(enabled=True))
    levels, samples = cached(three, ["l1", "l2", "l3"], tmp_path)
    answered, hit_rates = (
        {level: levels[f"memory.cache.{name}", level] for level in ("l1", "l2", "l3")}
        for name in ("answered", "hit_rate")
    )
    assert all(share > 0 for share in answered.values())
    assert sum(answered.values()) < 1
    looked_up = 1.0
    for level, share in answered.items():  # each is asked for what the faster ones did not answer
        assert hit_rates[level] == pytest.approx(share / looked_up)
        looked_up -= share
    starts = samples[samples["labels"] == '{"level": "l1"}'].query("series == 'memory.cache'")["start"]
    assert starts.is_monotonic_increasing
    assert list(tmp_path.iterdir()) == []


def test_trials_open_caches_that_nobody_shares(tmp_path):
    shared = experiment(
        tmp_path, "cache=three_levels", "cache.l2.url=redis://example:1", f"cache.l3.path={tmp_path}"
    )
    l2, l3 = shared.engine.cache.l2, shared.engine.cache.l3
    assert (l2.enabled, l2.url, l3.enabled, l3.path) == (False, None, True, None)
    work = cache.plan(shared)
    assert work.plans[0].argument["levels"] == ["l1", "l3"]
    assert "without L2, whose server (cache.l2.url) others may use" in work.conditions["memory.cache"]
    private = experiment(tmp_path, "cache=three_levels")
    assert private.engine == private.config.engine
    assert "without L2" not in cache.plan(private).conditions["memory.cache"]


@pytest.mark.parametrize(
    "index", [{"kind": "IndexFlat"}, {"kind": "IndexRefine", "first": {"kind": "IndexIVFPQ", "M": 8}}]
)
def test_without_a_gpu_what_asks_for_one_is_skipped(tmp_path, index):
    if gpu.count():
        pytest.skip("there is a GPU")
    without = experiment(tmp_path)
    assert not without.lacks_gpu()
    (index.get("first") or index)["device"] = "gpu"
    wanted = EngineConfig.model_validate({"index": index}).index
    asking = replace(without, config=without.config.model_copy(update={"index": wanted}))
    for part in (search, shards):
        assert set(part.plan(asking).skipped.values()) == {"needs a GPU"}
    assert [work.skipped for work in query.plan(asking)] == [{"query": "needs a GPU"}]


def experiment(folder, *overrides):
    """A composed experiment over documents made up here."""
    texts = prose.texts(20, 30, seed=1)
    documents = tuple(Document(str(n), text) for n, text in enumerate(texts))
    dataset = TextDataset("made up", documents, (), {})
    return Experiment(config.from_overrides(list(overrides)), dataset, None, Store(folder))


def cached(configured, levels, scratch, rate=1.0):
    found, samples = measured(
        cache.request(
            {
                "engine": engine(cache=configured),
                "levels": levels,
                "seed": 5,
                "stream": STREAM.model_dump_json(),
                "settings": {"cache_keys": STREAM.queries, "cache_rate": rate},
                "scratch": str(scratch),
            }
        )
    )
    return {name: value for name, value in found.items() if "latency" not in name[0]}, samples


def test_levels_that_are_off_are_not_asked():
    off = CacheConfig(search=SearchConfig(maxsize=0), l2=RedisConfig(enabled=True, maxsize=0))
    assert cache._levels(off) == []
    assert cache._levels(CacheConfig(l3=DiskConfig(enabled=True))) == ["l1", "l3"]


def test_the_cost_of_shards_is_over_one_shard_in_the_same_turn(source, tmp_path):
    configs = {n: FlatConfig(shards=n) for n in (1, 3)}
    found, samples = measured(
        shards.search(
            {
                "indexes": [
                    [n, built(source, tmp_path / str(n), index, 500), engine(index=index)]
                    for n, index in configs.items()
                ],
                "vectors": str(source),
                "seed": 5,
                "settings": SETTINGS,
            }
        )
    )
    one, three = (samples[samples["labels"] == f'{{"shards": "{n}"}}'] for n in (1, 3))
    assert len(one) == len(three) == SETTINGS["shard_searches"]
    assert three["reference"].tolist() == one["value"].tolist()
    assert found["memory.shards.cost", "3"] == pytest.approx(three["value"].mean() / one["value"].mean())
    assert ("memory.shards.cost", "1") not in found


def test_every_number_of_shards_is_given_the_same_documents(tmp_path):
    found, samples = measured(
        storage.measure({"engine": engine(), "seed": 5, "settings": SETTINGS, "scratch": str(tmp_path)})
    )
    written = samples[samples["series"] == "memory.storage.write"]
    assert written.groupby("labels")["items"].apply(list).tolist() == [[100, 100, 50]] * 2
    assert set(found) == {
        (f"memory.storage.{verb}_rate", n) for verb in ("write", "read") for n in ("1", "3")
    }
    assert list(tmp_path.iterdir()) == []


def test_more_bits_keep_more_and_a_residual_costs_one_byte(source, tmp_path):
    argument = {
        "source": str(source), "folder": str(tmp_path), "rows": 500, "queries": 30, "metric": "cosine"
    }  # fmt: skip
    coding.compute(argument)
    first = (tmp_path / "codings.json").read_text()
    made = {(c["qtype"], c["of"]): c for c in json.loads(first)}
    assert {key: c["bytes"] for key, c in made.items()} == {
        ("QT_4bit", "vectors"): 16, ("QT_4bit", "residuals"): 17, ("QT_6bit", "vectors"): 24,
        ("QT_6bit", "residuals"): 25, ("QT_8bit", "vectors"): 32, ("QT_8bit", "residuals"): 33,
    }  # fmt: skip
    recall = {key: np.mean(c["recalls"]) for key, c in made.items()}
    for of in ("vectors", "residuals"):
        assert recall["QT_4bit", of] < recall["QT_8bit", of]
    assert recall["QT_4bit", "vectors"] < recall["QT_4bit", "residuals"]
    assert all(len(c["recalls"]) == 30 for c in made.values())
    coding.compute(argument)
    assert (tmp_path / "codings.json").read_text() == first


def mixed_in(source, folder, index, rows=400, **counts):
    counts = {"searches": 120, "inserts": 50, "deletes": 30} | counts
    return measured(
        mixed.mix(
            {
                "engine": engine(index=index),
                "index": built(source, folder, index, rows // 2),
                "vectors": str(source),
                "rows": rows,
                "query_ids": [f"q{n}" for n in range(QUERIES)],
                "seed": 5,
                "settings": {"k": 10, "mixed_stages": 4},
                **counts,
            }
        )
    )


@given(
    st.integers(0, 60), st.integers(0, 30), st.integers(0, 20), st.integers(60, 90), st.integers(0, 2**32 - 1)
)
def test_only_what_is_there_is_deleted_and_only_what_is_not_is_inserted(
    searches, inserts, deletes, rows, seed
):
    made = mixed.operations(searches, inserts, deletes, rows=rows, queries=7, seed=seed)
    assert Counter(kind for kind, _ in made) == Counter(search=searches, insert=inserts, delete=deletes)
    there = set(range(rows // 2))
    for kind, row in made:
        if kind == "search":
            assert 0 <= row < 7
        elif kind == "insert":
            assert 0 <= row < rows
            assert row not in there
            there.add(row)
        else:
            there.remove(row)
    assert made == mixed.operations(searches, inserts, deletes, rows=rows, queries=7, seed=seed)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_exact_searches_between_writes_find_everything_that_is_there_by_then(source, tmp_path, metric):
    found, samples = mixed_in(source, tmp_path / "index", FlatConfig(metric=metric))
    for stage in "1234":
        assert found["memory.mixed.recall_at_10", stage] == 1
        assert found["memory.mixed.latency.mean", stage] > 0
    assert {name[1] for name in found if name[0] == "memory.mixed.write_rate"} == {"insert", "delete"}
    assert samples["series"].value_counts().to_dict() == {
        "memory.mixed.search": 120,
        "memory.mixed.write": 80,
    }


def test_recall_between_writes_is_of_what_an_approximate_index_found(source, tmp_path):
    found, _ = mixed_in(source, tmp_path / "index", IVFFlatConfig(nlist=50, nprobe=1))
    assert 0.1 < found["memory.mixed.recall_at_10", "4"] < 1


def test_a_search_that_finds_what_was_deleted_is_not_credited(source):
    vectors, queries = np.load(source / "vectors.npy")[:100], np.load(source / "queries.npy")
    nearest = truth.exact_search(vectors[:50], queries[:1], 10, "l2")[0].tolist()
    gone = mixed.Operation("delete", nearest[0])
    asked = mixed.Operation("search", 0)
    again = 300  # more than are judged at once
    found = Timed(0.0, 1.0, [str(row) for row in nearest])
    todo, done = [asked, gone, *[asked] * again], [found, Timed(0.0, 1.0, []), *[found] * again]
    recalls = mixed._recalls(todo, done, vectors, queries, "l2")
    assert recalls == {0: 1.0} | dict.fromkeys(range(2, 2 + again), 0.9)


def test_mixed_is_left_out_where_half_of_the_vectors_are_too_few(tmp_path):
    for override, why in (
        ("index.nlist=50", "IndexIVFFlat needs at least nlist = 50 to train"),
        ("suite.memory.mixed_inserts=0.5", "1,000 are to be inserted"),
        ("suite.memory.mixed_deletes=0.5", "1,000 are to be deleted"),
    ):
        base = [
            "index.nlist=2",
            "index.nprobe=1",
            "suite.memory.mixed_inserts=0",
            "suite.memory.mixed_deletes=0",
        ]
        work = mixed.plan(experiment(tmp_path, *base, override))
        assert why in work.skipped["memory.mixed"]
        assert work.skipped["memory.mixed"].endswith("half of the vectors taken are 10")


BOOK = [["insert", 0, 200], ["search"], ["insert", 200, 400], ["delete", 0, 150], ["search"]]


def streamed(source, index, steps=BOOK):
    return measured(
        streaming.follow(
            {
                "engine": engine(index=index),
                "vectors": str(source),
                "query_ids": [f"q{n}" for n in range(QUERIES)],
                "rows": 400,
                "steps": steps,
                "seed": 5,
                "settings": {"k": 10, "streaming_searches": 60},
            }
        )
    )


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_exact_search_has_every_recall_in_every_step_of_a_runbook(source, metric):
    found, samples = streamed(source, FlatConfig(metric=metric))
    assert {name: value for name, value in found.items() if "recall" in name[0]} == {
        ("memory.streaming.recall_at_10", "2"): 1, ("memory.streaming.recall_at_10", "5"): 1
    }  # fmt: skip
    written = samples[samples["series"] == "memory.streaming.write"]
    assert written[["labels", "items"]].to_numpy().tolist() == [
        ['{"operation": "insert", "step": "1"}', 200],
        ['{"operation": "insert", "step": "3"}', 200],
        ['{"operation": "delete", "step": "4"}', 150],
    ]
    asked = samples[samples["series"] == "memory.streaming.search"].groupby("labels")["query"].apply(list)
    assert asked.iloc[0] == asked.iloc[1]
    assert found["memory.streaming.bytes_per_vector", "5"] >= 4 * DIMENSION


def test_recall_in_a_runbook_is_of_what_was_there_at_the_step(source, monkeypatch):
    """An index that never forgets finds what is gone, and loses recall for it."""
    monkeypatch.setattr(PlainIndex, "remove", lambda self, ids: len(ids))
    found, _ = streamed(source, FlatConfig())
    assert found["memory.streaming.recall_at_10", "2"] == 1
    assert found["memory.streaming.recall_at_10", "5"] < 0.9


def test_a_runbook_is_left_out_where_its_first_step_cannot_train_the_index(tmp_path):
    work = streaming.plan(experiment(tmp_path))
    assert work.skipped["memory.streaming"] == (
        "IndexIVFFlat needs at least nlist = 100 vectors to train; step 1 inserts 10"
    )
    with pytest.raises(UsageError, match="runbook sliding_window, step 1: there is nothing to search"):
        streaming.check(experiment(tmp_path, "runbook.steps=[{operation: search}]"))


def test_made_up_texts_are_repeatable_and_compress_like_prose():
    texts = prose.texts(50, 200, seed=1)
    assert texts == prose.texts(50, 200, seed=1)
    assert texts != prose.texts(50, 200, seed=2)
    data = " ".join(texts).encode()
    assert 0.3 < len(zlib.compress(data, 1)) / len(data) < 0.6


def test_the_table_of_parts_is_what_the_settings_allow():
    settings = config.from_overrides([]).suite.memory
    assert settings.parts == tuple(PARTS)
