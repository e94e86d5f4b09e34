"""The system suite's trials, run whole in this process on real services that embed without a model."""

import asyncio
from importlib import import_module

import psutil
import pytest
from children import result_of

from bench import config, service
from bench.artifacts import Store
from bench.errors import MeasurementError
from bench.metrics import METRICS, derive
from bench.service import Usage
from bench.suites import system
from bench.suites.base import Experiment
from bench.suites.system import client, http, load, processes
from bench.suites.system.http import Turn
from bench.suites.system.load import Seen, Sent
from bench.trial import frame
from bench.workload import popularity, prose
from bench.workload.dataset import TextDataset
from brein import Document, Engine, EngineConfig
from brein.records import Query

DOCUMENTS, QUERIES = 200, 40
SETTINGS = {"k": 5, "rate": 50.0, "seconds": 1.2, "processes": [1, 2], "clients": 2}


@pytest.fixture(scope="module")
def argument(tmp_path_factory):
    folder = tmp_path_factory.mktemp("system")
    engine = EngineConfig.model_validate({"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}})
    texts = prose.texts(DOCUMENTS + QUERIES, 30, seed=1)
    with Engine.open(engine.model_copy(update={"path": folder / "engine"})) as filled:
        filled.ingest([Document(f"d{n}", text) for n, text in enumerate(texts[:DOCUMENTS])])
    made = config.from_overrides([])
    stream = popularity.for_queries(made.popularity, [str(n) for n in range(QUERIES)], 80)
    return {
        "engine": engine.model_dump_json(),
        "folder": str(folder / "engine"),
        "queries": texts[DOCUMENTS:],
        "settings": SETTINGS,
        "scratch": str(folder),
        "stream": stream.model_dump_json(),
        "seed": 4,
    }


def measured(rows):
    samples = frame([{"suite": "system", "repeat": 0, **row} for row in rows])
    return {(m.name, *m.labels.values()): m for m in derive(samples)}


def planned():
    """What each part plans for one query."""
    made = config.from_overrides(["+profile=smoke"])
    dataset = TextDataset("t", (Document("d", "a text"),), (Query("q", "why?"),), {})
    experiment = Experiment(made, dataset, None, Store("/nowhere"))
    return {name: part.plan(experiment, {"queries": ["why?"]}) for name, part in system.PARTS.items()}


def test_every_part_plans_the_trial_it_is_and_says_what_its_figures_were_measured_on():
    works = planned()
    for name, work in works.items():
        module, _, function = work.plans[0].target.partition(":")
        assert getattr(import_module(module), function) is system.PARTS[name].measure
        assert work.plans[0].suite == "system"
    said = {series for work in works.values() for series in work.conditions}
    documented = [figure for figure in config.from_overrides([]).baseline.figures if figure.suite == "system"]
    assert len(documented) == 4
    assert {METRICS[figure.metric].series for figure in documented} <= said


def test_every_metric_is_some_parts_which_says_so_where_it_is_left_out():
    given = {metric.name for metric in METRICS.values() if metric.suite == "system"}
    for name in given:
        assert any(name.startswith(start) for part in system.PARTS.values() for start in part.METRICS)


@pytest.mark.slow
def test_a_service_under_load_says_what_it_uses_and_how_it_answers(argument):
    before = psutil.Process().children()
    found = measured(result_of(load.measure(argument))["rows"])
    wanted = SETTINGS["rate"] * SETTINGS["seconds"]
    assert found["system.latency.mean",].n == wanted
    assert found["system.latency.mean",].value > 0
    assert found["system.throughput",].value == pytest.approx(SETTINGS["rate"], rel=0.2)
    for name in ("system.rejection_rate", "system.timeout_rate", "system.failure_rate"):
        assert found[name,].value == 0
    assert 0 < found["system.cpu",].value < 1
    assert 0 < found["system.memory",].value < 1
    total = psutil.virtual_memory().total
    assert found["system.memory",].value == pytest.approx(
        found["system.resident_memory", "loaded"].value / total
    )
    assert 0 < found["system.resident_memory", "at rest"].value < total
    assert found["system.disk_rate",].value >= 0
    assert 0 < found["system.network_latency",].value < found["system.startup_time",].value
    assert psutil.Process().children() == before, "a service is still there"


@pytest.mark.slow
def test_services_side_by_side_are_compared_with_one(argument):
    found = measured(result_of(processes.measure(argument))["rows"])
    one, two = (found["system.processes.throughput", count].value for count in "12")
    assert one > 0
    assert found["system.processes.gain", "1"].value == 1
    assert found["system.processes.gain", "2"].value == pytest.approx(two / one)


@pytest.mark.slow
def test_cached_searches_are_compared_with_a_bare_server(argument):
    found = measured(result_of(http.measure(argument))["rows"])
    rates = {name: found["system.http.throughput", name].value for name in ("echo", "service")}
    assert found["system.http.ratio",].value == pytest.approx(rates["service"] / rates["echo"])
    for name, rate in rates.items():
        assert 0 < found["system.http.cpu", name].value < psutil.cpu_count() / rate


def test_what_was_seen_becomes_samples_of_the_machine_that_counts():
    sent = [
        Sent(0.0, 0.5, "answered"),
        Sent(1.0, 9.0, "answered"),  # too late to count as answered in these seconds
        Sent(2.0, 2.1, "rejected"),
        Sent(3.0, 3.5, "failed"),
    ]
    seen = Seen(4.0, sent, [0.001, 0.003], Usage(2.0, 8_000_000), 1_000)
    found = measured([row for one in load.samples(seen) for row in one.rows])
    assert found["system.throughput",].value == 0.25
    assert found["system.rejection_rate",].value == found["system.failure_rate",].value == 0.25
    assert found["system.latency.mean",].value is None, "not all were answered"
    assert found["system.cpu",].value == pytest.approx(2 / (4 * len(psutil.Process().cpu_affinity())))
    assert found["system.disk_rate",].value == pytest.approx(2e6)
    assert found["system.network_latency",].value == pytest.approx(0.002)


def test_the_lab_doubts_a_server_that_it_could_not_ask_any_faster():
    slow, fast = Turn(10, 1.0, 0.5), Turn(10, 1.0, 0.99)
    assert http.doubts([slow, slow, slow, slow]) == {}
    assert http.doubts([fast, slow, slow, slow]) == {
        "system.http echo": "client-limited: the lab used 99% of a core"
    }


def test_a_service_that_cannot_start_says_why(argument, tmp_path):
    broken = {**argument, "folder": str(tmp_path)}
    (tmp_path / "documents.sqlite").write_text("no database")
    with pytest.raises(MeasurementError, match="the service did not become ready: "), service.serving(broken):
        pass


def test_a_client_tells_a_connection_that_is_closed_from_an_answer():
    async def close(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def scenario():
        async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
            connection = await client.Connection.open(server.sockets[0].getsockname()[1])
            with pytest.raises(ConnectionError):
                await connection.ask(client.LIVE)
            with pytest.raises(ConnectionError):
                await connection.ask(client.LIVE)

    asyncio.run(scenario())
