"""What is counted is exposed under the names that are defined, and scraping waits for nothing."""

import asyncio
import subprocess
import threading

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from brein import Document, Engine, EngineConfig, metrics
from brein.agents import Agent, AgentConfig, OnLoop
from brein.errors import (
    AgentTimeoutError,
    ClosedError,
    DataError,
    GenerationTimeoutError,
    QueueFullError,
    StorageError,
)
from brein.metrics import DEFINITIONS, Latest, Metrics, agent_readings, engine_readings, outcome_of
from brein.monitoring import Monitoring
from brein.scaling.cluster import ShardHealth, shard_readings

CONFIG = EngineConfig.model_validate({"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}})


@pytest.fixture
def engine():
    with Engine.open(CONFIG) as engine:
        engine.ingest([Document(f"d{n}", f"The train number {n} leaves.") for n in range(30)])
        yield engine


@pytest.fixture
def watched(engine):
    """The metrics of a process in which everything has happened."""
    engine.search("a train")
    agents = agents_of_one()
    monitoring = Monitoring(engine, lambda: agents, lambda: 3)
    monitoring.query("search", "answered", 0.01)
    monitoring.sample()
    monitoring.metrics.request("/v1/search", 200)
    monitoring.metrics.error(StorageError("gone"))
    monitoring.metrics.watch(shard_readings(lambda: [ShardHealth(0, "node", None, 1, 1)]))
    monitoring.metrics.ingested(30)
    monitoring.metrics.watch(lambda: [(metrics.CONNECTIONS_CLOSED, ("displaced",), 1)])
    return monitoring.metrics


def agents_of_one():
    """The counts of an agent that has answered one request."""

    async def answered():
        async def work(batch):
            return batch.requests

        async with Agent(
            "hippocampus", AgentConfig(max_concurrent=2, queue_size=5, timeout=60.0), OnLoop(work)
        ) as agent:
            await agent.submit("asked")
            return {"hippocampus": agent.stats()}

    return asyncio.run(answered())


def samples(counted):
    text, _ = counted.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text.decode())
        for sample in family.samples
    }


def value(counted, definition, *labels):
    """What a scrape reads of a series; None where there is none."""
    named = tuple(sorted(zip(definition.labels, labels, strict=True)))
    return samples(counted).get((definition.name, named))


def test_the_guides_names_are_there_and_every_name_follows_the_conventions():
    for name in (
        "brein_query_duration_seconds",
        "brein_memory_usage_bytes",
        "brein_cache_hit_rate",
        "brein_active_connections",
    ):
        assert name in DEFINITIONS
    for name, definition in DEFINITIONS.items():
        assert name.startswith("brein_")
        assert name.endswith("_total") == (definition.kind == "counter")
        assert definition.help.endswith(".")


def test_all_that_is_rendered_is_defined_with_that_type_and_those_labels(watched):
    text, content_type = watched.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    seen = set()
    for family in parse(text.decode()):
        if family.name.endswith("_created"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        definition = DEFINITIONS[name]
        assert (family.type, family.documentation) == (definition.kind, definition.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(definition.labels)
        seen.add(name)
    assert seen == set(DEFINITIONS)


def test_openmetrics_is_given_where_it_is_asked_for():
    counted = Metrics()
    counted.query("ask", "failed", 1.5)
    text, content_type = counted.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert any(family.name == "brein_query_duration_seconds" for family in parse_openmetrics(text.decode()))


def test_a_latency_at_the_bound_of_the_kpi_is_within_it():
    counted = Metrics()
    for seconds in (0.2, 0.2000001):
        counted.query("search", "answered", seconds)
    labels = (("kind", "search"), ("le", "0.2"), ("outcome", "answered"))
    assert samples(counted)["brein_query_duration_seconds_bucket", labels] == 1


def test_every_outcome_has_a_series_before_it_happens():
    """rate() cannot see the step from nothing to one."""
    read = samples(Metrics())
    for outcome in ("answered", "refused", "timed_out", "failed", "invalid", "cancelled"):
        assert read["brein_query_duration_seconds_count", (("kind", "ask"), ("outcome", outcome))] == 0


def test_two_do_not_share_what_they_count():
    one, other = Metrics(), Metrics()
    one.ingested(5)
    assert (value(one, metrics.INGESTED), value(other, metrics.INGESTED)) == (5, 0)


def test_the_engines_own_counts_are_what_a_scrape_reads(engine):
    counted = Metrics()
    counted.watch(engine_readings(engine))
    assert value(counted, metrics.DOCUMENTS) == 30
    assert value(counted, metrics.CACHE_HIT_RATE, "search", "l1") is None
    for _ in range(4):
        engine.search("the train number 3")
    stats = engine.cache_stats()["search"]["l1"]
    assert stats.hits == 3
    assert value(counted, metrics.CACHE_HITS, "search", "l1") == stats.hits
    assert value(counted, metrics.CACHE_MISSES, "search", "l1") == stats.misses
    assert value(counted, metrics.CACHE_HIT_RATE, "search", "l1") == stats.hit_rate
    assert value(counted, metrics.INDEX, "codes") == engine.index_bytes()["codes"] >= 30 * 384 * 4


def test_what_agents_count_is_what_a_scrape_reads():
    stats = agents_of_one()
    counted = Metrics()
    counted.watch(lambda: agent_readings(stats))
    assert value(counted, metrics.AGENT_ADMITTED, "hippocampus") == 1
    assert value(counted, metrics.AGENT_SERVED, "hippocampus") == 1
    assert value(counted, metrics.AGENT_SLOTS, "hippocampus") == stats["hippocampus"].slots
    assert value(counted, metrics.AGENT_BUSY, "hippocampus") == stats["hippocampus"].busy > 0


def test_the_process_is_the_one_that_is_asked():
    counted = Metrics()
    first = value(counted, metrics.CPU)
    assert 10e6 < value(counted, metrics.MEMORY) < 100e9
    sum(range(3_000_000))
    assert value(counted, metrics.CPU) >= first > 0


def test_a_source_that_cannot_be_read_is_left_out_and_counted():
    def closed():
        raise ClosedError("the engine is closed")
        yield

    counted = Metrics()
    counted.watch(closed)
    counted.watch(lambda: [(metrics.CONNECTIONS, (), 3)])
    assert value(counted, metrics.CONNECTIONS) == 3
    assert value(counted, metrics.UNREADABLE) == 1


def test_a_closed_engine_has_no_documents_to_show():
    engine = Engine.open(CONFIG)
    counted = Metrics()
    counted.watch(engine_readings(engine))
    engine.close()
    assert value(counted, metrics.DOCUMENTS) is None


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "answered"),
        (QueueFullError("full"), "refused"),
        (ClosedError("closed"), "refused"),
        (AgentTimeoutError("late"), "timed_out"),
        (GenerationTimeoutError("late"), "timed_out"),
        (TimeoutError(), "timed_out"),
        (DataError("k = 0"), "invalid"),
        (asyncio.CancelledError(), "cancelled"),
        (StorageError("gone"), "failed"),
        (RuntimeError("a bug"), "failed"),
    ],
)
def test_an_error_says_what_became_of_a_query(error, outcome):
    assert outcome_of(error) == outcome


def test_a_scrape_does_not_wait_for_an_engine_that_is_ingesting(engine):
    counted, holds, scraped = Metrics(), threading.Event(), threading.Event()
    counted.watch(engine_readings(engine))
    assert value(counted, metrics.DOCUMENTS) == 30

    def ingest():
        with engine._reading():  # as it has it to itself then
            holds.set()
            scraped.wait(20)

    thread = threading.Thread(target=ingest)
    thread.start()
    holds.wait(20)
    assert value(counted, metrics.DOCUMENTS) == 30  # the last known
    assert thread.is_alive()
    scraped.set()
    thread.join()


def test_the_latest_value_of_what_is_locked_is_there_at_once():
    gate, values = threading.Event(), iter([7, 8])

    def read():
        gate.wait(20)
        return next(values)

    latest = Latest(read, every=0.0, patience=0.01)
    assert latest.get() is None
    assert latest.get() is None  # and no second thread waits
    gate.set()
    latest._ended.wait(20)
    assert latest.get() in (7, 8)


def test_the_latest_value_is_not_read_again_before_its_time():
    now, reads = [0.0], []
    latest = Latest(lambda: reads.append(1) or len(reads), every=60.0, patience=20.0, clock=lambda: now[0])
    assert latest.get() == latest.get() == 1
    now[0] = 60.0
    assert latest.get() == 2


@pytest.mark.slow
def test_promtool_finds_nothing_to_say(watched, promtool):
    text, _ = watched.render()
    said = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_a_shard_that_does_not_answer_and_replicas_that_do_not_run_are_seen():
    counted = Metrics()
    counted.watch(
        shard_readings(lambda: [ShardHealth(0, "n", None, 2, 2), ShardHealth(1, None, "no answer", 1, 2)])
    )
    for shard, read in (("0", (1, 2)), ("1", (0, 1))):
        seen = (metrics.SHARD_AVAILABLE, metrics.SHARD_REPLICAS)
        assert tuple(value(counted, definition, shard) for definition in seen) == read
