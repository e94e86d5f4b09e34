"""The memory suite's parts, each run whole in this process on small data."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench import config
from bench.artifacts import Store
from bench.config import SyntheticConfig
from bench.metrics import derive
from bench.suites import Experiment, query
from bench.suites.memory import PARTS, build, cache, coding, search, shards, storage
from bench.trial import frame
from bench.workload import prose, synthetic, truth
from bench.workload.dataset import TextDataset
from brein import Document, EngineConfig
from brein.cache import CacheConfig, DiskConfig, RedisConfig
from brein.cache import SearchCacheConfig as SearchConfig
from brein.index import gpu
from brein.index.flat import FlatConfig
from brein.index.ivf import IVFFlatConfig

VECTORS, QUERIES, DIMENSION = 600, 40, 32
SETTINGS = {
    "k": 10, "searches": 60, "batch_seconds": 0.01, "filter_shares": [0.01, 0.5],
    "filtered_searches": 15, "cache_keys": 50, "cache_requests": 300, "shard_searches": 30,
    "storage_shards": [1, 3], "storage_documents": 250, "storage_reads": 20,
}  # fmt: skip


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
    next(trial)
    with pytest.raises(StopIteration) as end:
        next(trial)
    rows = [{"suite": "memory", "repeat": 0, **row} for row in end.value.value["rows"]]
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
    stream = cache.zipf_stream(50, 300, 1.0, 5)
    answered = pytest.approx(1 - len(set(stream.tolist())) / 300)
    assert levels == {("memory.cache.answered", "l1"): answered, ("memory.cache.hit_rate", "l1"): answered}
    assert (samples["series"] == "memory.cache").sum() == round(300 * levels["memory.cache.answered", "l1"])


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


def cached(configured, levels, scratch):
    found, samples = measured(
        cache.request(
            {
                "engine": engine(cache=configured),
                "levels": levels,
                "seed": 5,
                "exponent": 1.0,
                "settings": SETTINGS,
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


def test_made_up_texts_are_repeatable_and_compress_like_prose():
    texts = prose.texts(50, 200, seed=1)
    assert texts == prose.texts(50, 200, seed=1)
    assert texts != prose.texts(50, 200, seed=2)
    data = " ".join(texts).encode()
    assert 0.3 < len(zlib.compress(data, 1)) / len(data) < 0.6


def test_the_table_of_parts_is_what_the_settings_allow():
    settings = config.from_overrides([]).suite.memory
    assert settings.parts == tuple(PARTS)
