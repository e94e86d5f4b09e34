"""Every preset composes with every option, holds the guide's values; bad values are refused in a line."""

import json
from functools import cache
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from omegaconf import OmegaConf

from bench import config, suite_config
from bench.errors import UsageError
from bench.suites import SUITES
from bench.sweeper import combine
from brein.agents import AgentsConfig, GenerationConfig
from brein.agents.models import MODELS
from brein.cache import CacheConfig
from brein.config import read_guide_profile
from brein.index import INDEXES
from brein.index.hnsw import HNSWConfig
from brein.index.ivf import IVFFlatConfig
from brein.index.pq import PQConfig
from brein.retrieval.pipeline import RetrievalConfig
from brein.storage import StorageConfig

DATA = Path(__file__).parents[1] / "data"


def options(group):
    return sorted(path.stem for path in (config.CONF / group).glob("*.yaml"))


@pytest.mark.parametrize(("preset", "index"), list(product(options("profile"), options("index"))))
def test_every_preset_composes_with_every_index(preset, index):
    made = config.from_overrides([f"+profile={preset}", f"index={index}"])
    assert made.name == preset
    assert made.index == without_preset(index), "the preset left a value of another index behind"


@cache
def without_preset(index):
    return config.from_overrides([f"index={index}"]).index


GROUPS = (
    "embedding",
    "cache",
    "storage",
    "retrieval",
    "agents",
    "generation",
    "runbook",
    "trial",
    "profiler",
    "baseline",
)


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_every_option_composes(group, option):
    config.from_overrides([f"{group}={option}"])


@pytest.mark.parametrize("preset", options("profile"))
@pytest.mark.parametrize("sweep", ["strategy", "concurrency"])
def test_every_preset_composes_with_a_cell_of_each_grid(sweep, preset):
    made = OmegaConf.to_container(OmegaConf.load(config.CONF / "sweep" / f"{sweep}.yaml"))["sweeper"]
    each = {key: [f"{key}={value}"] for key, value in made["each"].items()}
    for grid in made["grids"]:
        cell, *_ = combine([grid], each)
        assert config.from_overrides([f"+profile={preset}", *cell]).name == preset


def test_every_cell_of_the_load_sweep_composes_and_is_not_taken_for_the_documented_load():
    made = OmegaConf.to_container(OmegaConf.load(config.CONF / "sweep" / "load.yaml"))["sweeper"]
    each = {key: [f"{key}={value}"] for key, value in made["each"].items()}
    for cell in combine(made["grids"], each):
        composed = config.from_overrides(cell)
        assert composed.suites == ("load",)
        assert composed.load.name == "users"
        assert f"load.model.users={composed.load.model.users}" in cell
        assert f"cache.search.maxsize={composed.cache.search.maxsize}" in cell
        assert f"+profile={composed.name}" in cell


@pytest.mark.parametrize("change", ["model.users=51", "model.think_time=1", "requests=ask"])
def test_another_load_is_not_given_for_the_documented_one(change):
    assert config.from_overrides(["load=documented", "load.model.seconds=1"]).load.name == "documented"
    with pytest.raises(UsageError, match=r"load\.name=NAME"):
        config.from_overrides(["load=documented", f"load.{change}"])
    assert config.from_overrides(["load=documented", f"load.{change}", "load.name=mine"]).load.name == "mine"


@pytest.mark.parametrize(
    ("retrieval", "reranker"), list(product(options("retrieval"), options("retrieval/reranker")))
)
def test_every_reranker_composes_with_every_retrieval_and_is_what_is_taken(retrieval, reranker):
    model = ["retrieval.reranker.model=m"] if reranker == "cross_encoder" else []
    taken = config.from_overrides([f"retrieval={retrieval}", f"retrieval/reranker={reranker}", *model])
    kind = None if taken.retrieval.reranker is None else taken.retrieval.reranker.kind
    assert kind == (None if reranker == "none" else reranker)


def test_words_alone_and_vectors_alone_put_nothing_in_another_order():
    for retrieval in ("lexical", "vectors"):
        assert config.from_overrides([f"retrieval={retrieval}"]).retrieval.reranker is None


@pytest.mark.parametrize("popularity", options("popularity"))
def test_every_popularity_composes_and_keeps_to_its_own_settings(popularity):
    path = ["popularity.path=x"] if popularity == "trace" else []
    made = config.from_overrides([f"popularity={popularity}", *path])
    assert made.popularity.kind == popularity
    if popularity != "zipf":
        with pytest.raises(UsageError, match=r"popularity\.drift is not a setting"):
            config.from_overrides([f"popularity={popularity}", *path, "popularity.drift=0.1"])


@pytest.mark.parametrize(
    ("tier", "preset"),
    [("minimum", "memory_constrained"), ("recommended", "smoke"), ("high", "large_dataset")],
)
def test_every_tier_composes_with_a_preset_and_bounds_its_trials(tier, preset):
    made = config.from_overrides([f"+tier={tier}", f"+profile={preset}"])
    alone = config.from_overrides([f"+profile={preset}"])
    limits = {"cores": made.tier.cores, "threads": made.tier.cores, "memory": made.tier.memory}
    assert made == alone.model_copy(
        update={"tier": made.tier, "trial": alone.trial.model_copy(update=limits)}
    ), "the tier set more than limits"


def test_the_tiers_are_the_guides_machines():
    # Every option of the group, so that the test above misses none.
    tiers = {tier: config.from_overrides([f"+tier={tier}"]).tier for tier in options("tier")}
    assert {tier: (made.cores, made.memory) for tier, made in tiers.items()} == {
        "minimum": (2, 4 * 10**9), "recommended": (4, 16 * 10**9), "high": (8, 64 * 10**9)
    }  # fmt: skip


@pytest.mark.parametrize("dataset", options("dataset"))
def test_every_dataset_composes_once_its_own_settings_are_given(dataset):
    needed = {
        "beir": ["dataset.path=x"], "fvecs": ["dataset.path=x"], "fbin": ["dataset.path=x"],
        "hdf5": ["dataset.path=x"], "npy": ["dataset.path=x"], "recipe": ["dataset.name=scifact"],
    }  # fmt: skip
    config.from_overrides([f"dataset={dataset}", *needed.get(dataset, [])])


def test_every_index_kind_has_an_option_and_every_suite_its_settings():
    kinds = {config.from_overrides([f"index={option}"]).index.kind for option in options("index")}
    assert kinds == set(INDEXES)
    own_group = {"load"}  # what it puts to a service is a group of its own
    assert set(SUITES) - own_group == set(suite_config.SuitesConfig.model_fields)
    assert set(SUITES) - own_group <= set(options("suite"))


@pytest.mark.parametrize("load", options("load"))
def test_every_load_composes_under_its_own_name_and_asks_for_the_guides_indicators(load):
    path = ["load.model.path=x", "load.model.column=t"] if load == "trace" else []
    made = config.from_overrides([f"load={load}", *path]).load
    assert made.name == load
    assert (made.objective.p95, made.objective.errors) == (0.2, 0.001)


def test_the_options_of_caches_store_retrieval_and_agents_write_out_the_engines_defaults():
    named = ["cache=guide", "storage=sqlite", "retrieval=staged", "agents=guide", "generation=extractive"]
    made = config.from_overrides(named)
    assert (made.cache, made.storage, made.retrieval, made.agents, made.generation) == (
        CacheConfig(),
        StorageConfig(),
        RetrievalConfig(),
        AgentsConfig(),
        GenerationConfig(),
    )


def test_the_engine_has_the_language_models_of_the_option_and_a_preset_keeps_them():
    made = config.from_overrides(["generation=openai", "+profile=large_dataset"])
    assert made.engine.generation == made.generation
    assert set(made.generation.models) == set(MODELS)
    assert {urlsplit(model.base_url).hostname for model in made.generation.models.values()} == {"127.0.0.1"}


def test_a_language_model_is_added_on_the_command_line():
    model = "{kind:openai,base_url:'http://127.0.0.1:8000/v1',model:m}"
    made = config.from_overrides([f"+generation.models={{phi-3.1-mini:{model}}}"])
    assert made.generation.models["phi-3.1-mini"].model == "m"


def test_the_guides_values_are_in_the_options():
    small, large, constrained = (
        config.from_overrides([f"+profile={p}"])
        for p in ("small_dataset", "large_dataset", "memory_constrained")
    )
    assert small.index == IVFFlatConfig(metric="cosine", nlist=100, nprobe=5)
    assert large.index == HNSWConfig(M=32, efConstruction=200, efSearch=64)
    assert constrained.index == PQConfig(metric="cosine", M=16, nbits=8)
    embedding, search = small.cache.embedding, small.cache.search
    assert (embedding.maxsize, embedding.ttl, embedding.hit_rate_target) == (50_000, 3600, 0.8)
    assert (search.maxsize, search.ttl, search.compression) == (10_000, 1800, True)
    assert small.cache == CacheConfig()
    assert (small.dataset.documents, small.dataset.queries) == (4000, 500)
    levels = config.from_overrides(["cache=three_levels"]).cache
    assert (levels.search.maxsize, levels.search.ttl, levels.l2.ttl, levels.l3.ttl) == (
        10_000,
        300,
        3600,
        86_400,
    )
    assert levels.l2.enabled
    assert levels.l3.enabled
    assert constrained.engine.memory_limit == 4 * 2**30
    assert (large.dataset.memory_vectors.vectors, large.dataset.memory_vectors.dimension) == (100_000, 384)
    assert large.dataset.documents is None


@pytest.mark.parametrize("name", ["high_performance", "memory_constrained"])
def test_a_preset_is_the_engine_of_the_guides_json_profile(name):
    profile = read_guide_profile(json.loads((DATA / f"{name}.json").read_text()))
    experiment = config.from_overrides([f"+profile={name}"])
    preset = experiment.engine
    assert experiment.inert == profile.inert
    assert (preset.index, preset.cache, preset.agents) == (
        profile.engine.index,
        profile.engine.cache,
        profile.engine.agents,
    )
    assert "cache.embedding.hit_rate_target" in preset.unused()


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["+profile=nope"], "profile/nope is unknown; known: high_performance, lab, large_dataset"),
        (["index=nope"], "index/nope is unknown; known: flat, hnsw"),
        (["index.nprobe=-1"], "index.nprobe = -1: .*greater than or equal to 1"),
        (["index.nprobe=101"], "nprobe = 101: must be at most nlist = 100"),
        (["index.kind=IndexHNSV"], "'IndexHNSV' is unknown; known kinds: .*IndexHNSW"),
        (["index=hnsw", "index.nprobe=3"], "index.nprobe is not a setting"),
        (["index.nprobes=3"], "index.nprobes is not a setting"),
        (["profile=smoke"], r"write \+profile=NAME"),
        (["suite.query.k=9"], "suite.query.k = 9: .*greater than or equal to 10"),
        (["suite.memory.parts=[search,nothing]"], "suite.memory.parts.1 = 'nothing'.*search"),
        (["suite.memory.filter_shares=[0]"], "suite.memory.filter_shares.0 = 0"),
        (["suite.memory.mixed_deletes=0.9"], "suite.memory: mixed_inserts .* = 1.1: must be below 1"),
        (["popularity.repetition=1"], "popularity.zipf.repetition = 1: .*less than 1"),
        (["runbook.steps=[{operation: sort}]"], "runbook.steps.0.operation = 'sort' is unknown"),
        (["suite.memory.storage_shards=[65]"], "suite.memory.storage_shards.0 = 65: .*64"),
        (["load.search=capacity"], "load: search = 'capacity' needs Poisson arrivals"),
        (["load.host=127.0.0.1"], "load.host = '127.0.0.1'"),
        (["load=poisson", "load.model.users=3"], "load.model.users is not a setting"),
        (["memory_limit=0"], "memory_limit = 0"),
        (["trial.timeout=1e18"], "trial.timeout = 1e.*86400"),
        (["dataset=synthetic", "dataset.cluster_spread=.inf"], "cluster_spread"),
        (["+index.M=3"], "index.M = 3 is not a setting"),
        (["suites=[memory,nothing]"], "suites = 'nothing' is unknown; known suites: memory, query"),
        (["suites=[memory,memory]"], "names a suite twice"),
        (["suites=[]"], "suites = "),
        (["dataset=fvecs"], "dataset.path"),
        (["trial.memory=0"], "trial.memory = 0"),
        (["tier=minimum"], r"write \+tier=NAME"),
        (["trial.repeats=0"], "trial.repeats = 0"),
        (["trial.repeats=2.5"], "trial.repeats = 2.5: .*integer"),
        (["trial.repeats=two"], "trial.repeats = 'two': .*integer"),
        (["name=a/b"], "name = 'a/b'"),
        (["index"], "index"),
        (["index.nprobe=[1"], "nprobe"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(overrides, named):
    with pytest.raises(UsageError, match=named) as caught:
        config.from_overrides(overrides)
    assert "\n" not in str(caught.value)
