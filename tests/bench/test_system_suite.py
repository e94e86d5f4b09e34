"""The system suite's trials, run whole in this process on real services that embed without a model."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from importlib import import_module
from itertools import chain, repeat

import numpy as np
import psutil
import pytest
from children import is_gone, result_of

from bench import config, service
from bench.artifacts import Store
from bench.errors import MeasurementError
from bench.metrics import METRICS, derive
from bench.service import Service, Usage
from bench.suites import system
from bench.suites.agents.generator import Asked
from bench.suites.base import Experiment
from bench.suites.system import client, http, load, processes
from bench.suites.system.load import Seen
from bench.suites.system.saturation import Turn, saturate
from bench.trial import frame
from bench.workload import popularity, prose
from bench.workload.dataset import TextDataset
from brein import Document, Engine, EngineConfig
from brein.cache import codec
from brein.records import Analysis, Complexity, Query, Retrieval, Stage

DOCUMENTS, QUERIES = 200, 40
SETTINGS = {"k": 5, "rate": 50.0, "seconds": 1.2, "processes": [1, 2], "clients": 2}
PATIENCE = 30.0  # seconds until something is taken never to happen


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


def derived(samples):
    return measured([row for one in samples for row in one.rows])


# --- what is planned -----------------------------------------------------------------------------------


def planned(*overrides):
    """What each part plans for one query."""
    made = config.from_overrides(["+profile=smoke", *overrides])
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


def test_without_a_search_cache_no_search_is_said_to_be_found_in_it():
    work = planned("cache=off")["http"]
    assert not work.plans
    assert work.skipped == {"system.http": "needs a search cache in memory (cache.search.maxsize)"}


@pytest.mark.parametrize("part", system.PARTS.values(), ids=system.PARTS)
def test_while_others_prepare_no_service_runs(argument, part):
    before = psutil.Process().children()
    measuring = part.measure(argument)
    next(measuring)
    assert psutil.Process().children() == before
    measuring.close()


# --- services that are measured ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_service_under_load_says_what_it_uses_and_how_it_answers(argument):
    before = psutil.Process().children()
    found = measured(result_of(load.measure(argument))["rows"])
    wanted = SETTINGS["rate"] * SETTINGS["seconds"]
    assert found["system.latency.mean",].n == wanted
    assert found["system.latency.mean",].value > 0
    assert found["system.throughput",].value == pytest.approx(SETTINGS["rate"], rel=0.2)
    for name in ("rejection", "timeout", "failure", "degraded"):
        assert found[f"system.{name}_rate",].value == 0
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
    result = result_of(processes.measure(argument))
    found = measured(result["rows"])
    one, two = (found["system.processes.throughput", count] for count in "12")
    assert one.value > 0
    assert one.n == two.n == 2, "each has two turns"
    assert found["system.processes.gain", "1"].value == 1
    assert found["system.processes.gain", "2"].value == pytest.approx(two.value / one.value)
    assert not any("degraded" in why for why in result["facts"]["doubts"].values())


@pytest.mark.slow
def test_cached_searches_are_compared_with_a_bare_server_and_go_through_a_balancer(argument):
    result = result_of(http.measure({**argument, "settings": {**SETTINGS, "seconds": 3.0}}))
    found = measured(result["rows"])
    rates = {name: found["system.http.throughput", name].value for name in ("echo", "service", "balancer")}
    assert found["system.http.ratio",].value == pytest.approx(rates["service"] / rates["echo"])
    for name, rate in rates.items():
        assert 0 < found["system.http.cpu", name].value < psutil.cpu_count() / rate
    assert not any("degraded" in why for why in result["facts"]["doubts"].values())


def test_a_service_that_cannot_start_says_why(argument, tmp_path):
    broken = {**argument, "folder": str(tmp_path)}
    (tmp_path / "documents.sqlite").write_text("no database")
    with pytest.raises(MeasurementError, match="the service did not become ready: "), service.serving(broken):
        pass


@pytest.mark.slow
def test_a_server_on_this_machine_is_asked_without_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(service, "_PATIENCE", PATIENCE)
    with service.echoing() as echo:
        assert echo.usage().cpu > 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_service_ends_with_a_lab_that_is_killed():
    program = (
        "from bench import service\n"
        "with service.echoing() as echo: print(echo.process.pid, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as lab:
        pid = int(lab.stdout.readline())
        lab.kill()
    assert is_gone(pid)


# --- what the clients see of a server of our own -------------------------------------------------------


def body_of_hits(skipped=None, missing=()):
    """The body of an answer to a search that shards took no part in, and, for a reason, a stage."""
    analysis = Analysis("why?", "why?", Complexity(0.1, 0.2, 0.3, 0.4), "single_stage")
    stage = Stage("rerank", 0.01, 3, 0, skipped, dict.fromkeys(missing, "gone"))
    return codec.encode_retrieval(Retrieval((), analysis, "single_stage", (stage,)))


def in_http(status=200, body=b""):
    return b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


@asynccontextmanager
async def server(answer):
    """A server in this process that sends what `answer` gives it; where that is None, it closes."""

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, length = head.partition(b"Content-Length: ")
                await reader.readexactly(int(length or 0))
                if (said := await answer()) is None:
                    break
                writer.write(said)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield Service(listening.sockets[0].getsockname()[1], 0.0, psutil.Process())


def always(said, seconds=0.0):
    async def answer():
        await asyncio.sleep(seconds)
        return said

    return answer


def offered(answer, rate=50.0, seconds=0.6):
    """A load offered to a server of our own."""

    async def scenario():
        async with server(answer) as asked:
            requests = repeat(client.search("why?", 5))
            return await load.offer(asked, requests, rate, seconds, np.random.default_rng(2))

    return asyncio.run(scenario())


def saturated(answer, requests=None, seconds=0.2, clients=2):
    async def scenario():
        async with server(answer) as asked:
            return await saturate([asked], requests or repeat(client.search("why?", 5)), clients, seconds)

    return asyncio.run(scenario())


def test_only_an_answer_that_lacks_nothing_is_whole():
    assert client.Answer(200, body_of_hits()).is_whole
    assert not client.Answer(200, body_of_hits("it spent its budget")).is_whole
    assert not client.Answer(200, body_of_hits(missing=(3,))).is_whole
    assert not client.Answer(503, body_of_hits()).is_whole


@pytest.mark.parametrize(
    ("said", "outcome", "problem"),
    [
        (in_http(200, body_of_hits()), "answered", None),
        (in_http(200, body_of_hits("slow")), "degraded", "rerank: slow"),
        (in_http(503), "rejected", "status 503"),
        (in_http(504), "timed out", "status 504"),
        (in_http(500), "failed", "status 500"),
        (None, "failed", "ConnectionResetError: the server closed the connection"),
    ],
)
def test_what_becomes_of_a_search_is_what_the_server_says(said, outcome, problem):
    seen = offered(always(said))
    assert {(one.outcome, one.problem) for one in seen.searches} == {(outcome, problem)}


def test_requests_for_no_work_are_sent_whatever_became_of_those_before():
    seen = offered(always(in_http(200, body_of_hits()), seconds=0.35))
    assert [one.intended for one in seen.probes] == [one.sent for one in seen.probes]
    assert [one.sent for one in seen.probes] == pytest.approx([0.1 * n for n in range(6)], abs=0.05)
    assert all(one.ended - one.intended >= 0.35 for one in seen.probes)
    assert {one.outcome for one in seen.probes} == {"answered"}


def test_a_load_has_a_lead_in_whose_searches_are_kept_apart():
    seen = offered(always(in_http(200, body_of_hits())), rate=100.0)
    assert len(seen.counted) == 60
    assert len(seen.searches) == 60 + 20
    assert all(one.sent >= one.intended - 1e-6 for one in seen.searches)


def test_clients_count_the_answers_of_their_seconds():
    turn = saturated(always(in_http(200, body_of_hits()), seconds=0.05), seconds=1.0, clients=3)
    assert turn.answers == turn.whole <= 3 * 21
    assert turn.answers > 3 * 5
    assert (turn.limit, turn.lack) == ("", "")
    degraded = saturated(always(in_http(200, body_of_hits("slow")), seconds=0.05))
    assert degraded.lack == f"{degraded.answers} of {degraded.answers} answers were degraded"


def test_cpu_counts_in_the_seconds_in_which_answers_do():
    def burn():
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        yield client.LIVE

    turn = saturated(always(in_http(), 0.05), chain(burn(), repeat(client.LIVE)), seconds=2.0)
    assert turn.cpu == pytest.approx(turn.own, abs=0.03), "the server is in this process"
    assert turn.own < 0.2, "what the lead-in took"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (in_http(503), "a server answered 503; lower suite.system.clients"),
        (None, "a server broke off, the server closed the connection; lower suite.system.clients"),
    ],
)
def test_what_is_not_answered_gives_no_figure(said, message):
    with pytest.raises(MeasurementError, match=f"^{message}$"):
        saturated(always(said))


def test_no_answer_gives_no_figure():
    with pytest.raises(MeasurementError, match=r"within 0\.2 s; raise suite\.system\.seconds"):
        saturated(always(in_http(), seconds=0.5))


def test_a_client_tells_a_connection_that_is_closed_from_an_answer():
    async def scenario():
        async with server(always(None)) as asked:
            connection = await client.Connection.open(asked.port)
            with pytest.raises(ConnectionError):
                await connection.ask(client.LIVE)
            with pytest.raises(ConnectionError):
                await connection.ask(client.LIVE)

    asyncio.run(scenario())


def test_a_connection_that_the_server_closed_meanwhile_is_not_used_again():
    opened = Counter()

    async def scenario():
        closed = asyncio.Event()

        async def serve(reader, writer):
            opened["connections"] += 1
            await reader.readuntil(b"\r\n\r\n")
            writer.write(in_http(200, b"here"))
            writer.write_eof()  # as where it waited too long for the next request
            await reader.read()  # until the client has closed its side
            closed.set()
            writer.close()

        async with (
            await asyncio.start_server(serve, "127.0.0.1", 0) as listening,
            client.pool(listening.sockets[0].getsockname()[1]) as pool,
        ):
            for _ in range(3):
                closed.clear()
                assert await pool.ask(client.LIVE) == (200, b"here")
                await asyncio.wait_for(closed.wait(), PATIENCE)

    asyncio.run(scenario())
    assert opened["connections"] == 3


# --- what was seen, as samples -------------------------------------------------------------------------


def asked(*ends, outcome="answered", late=0.0):
    """Requests a second apart that ended so many seconds after they were to be sent."""
    return [Asked(n, n + late, n + end, outcome, problem="a problem") for n, end in enumerate(ends)]


def test_what_was_seen_becomes_samples_of_the_machine_that_counts():
    sent = [
        Asked(-2.0, -2.0, -1.5, "answered"),  # before the seconds that count
        Asked(-1.0, -1.0, 0.2, "answered"),  # the lead-in's, answered in these seconds
        Asked(0.0, 0.0, 0.5, "answered"),
        Asked(1.0, 1.0, 9.0, "answered"),  # too late to count as answered in these seconds
        Asked(2.0, 2.0, 2.1, "rejected"),
        Asked(3.0, 3.0, 3.5, "failed"),
    ]
    found = derived(load.samples(Seen(4.0, sent, asked(0.001, 0.003), Usage(2.0, 8_000_000), 1_000)))
    assert found["system.throughput",].value == 0.5
    assert found["system.rejection_rate",].value == found["system.failure_rate",].value == 0.25
    assert found["system.degraded_rate",].value == 0
    assert found["system.latency.mean",].n == 4
    assert found["system.latency.mean",].value is None, "not all were answered"
    assert found["system.cpu",].value == pytest.approx(2 / (4 * len(psutil.Process().cpu_affinity())))
    assert found["system.disk_rate",].value == pytest.approx(2e6)
    assert found["system.network_latency",].value == pytest.approx(0.002)


def test_a_request_for_no_work_that_has_no_answer_leaves_no_network_latency():
    probes = [*asked(0.001), *asked(0.001, outcome="failed")]
    found = derived(load.samples(Seen(4.0, asked(0.1), probes, Usage(1.0, 0), 1)))
    network = found["system.network_latency",]
    assert (network.value, network.reason) == (None, "1 of 2 requests had no answer")


def test_a_load_is_doubted_where_it_was_offered_late_or_answered_badly():
    def doubts(searches, probes):
        return load.doubts(Seen(4.0, searches, probes, Usage(1.0, 0), 1))

    good = asked(0.2, 0.2)
    by = "by the medians and the 95th percentiles"
    late = f"generator-limited: {{}} were asked late by over 5% of their latency, {by}"
    assert doubts(good, good) == {}
    assert doubts(asked(0.2, late=0.1), good) == dict.fromkeys(
        ("system.search", "system.answers"), late.format("searches")
    )
    failed = doubts(good, asked(0.2, outcome="failed"))
    assert failed == {"system.network": "1 requests for no work failed, the first: a problem"}
    degraded = doubts([*good, *asked(0.2, 0.2, outcome="degraded")], good)
    assert degraded["system.search"] == "50% of the answers were degraded, the first: a problem"
    assert doubts([*good, Asked(-1.0, 2.0, 2.1, "failed", problem="of the lead-in")], good) == {}


def turn(answers=10, lacking=0, cpu=1.0, own=0.5, seconds=1.0):
    return Turn(seconds, answers, answers - lacking, cpu, own)


def test_each_number_of_services_is_all_its_turns():
    turns = {1: [turn(100), turn(50)], 2: [turn(180), turn(90)]}
    found = derived(processes.samples(turns))
    assert found["system.processes.throughput", "1"].value == pytest.approx(75)
    assert found["system.processes.throughput", "2"].value == pytest.approx(135)
    assert found["system.processes.gain", "1"].value == 1
    assert found["system.processes.gain", "2"].value == pytest.approx(1.8)


def test_services_are_doubted_where_the_lab_was_the_limit_or_answers_lacked_a_part():
    calm, busy, lacking = [turn(), turn()], [turn(own=0.99), turn()], [turn(), turn(lacking=3)]
    limited, lacks = "client-limited: the lab used over 95% of a core", "3 of 10 answers were degraded"
    assert processes.doubts({1: calm, 2: calm}) == {}
    assert processes.doubts({2: calm, 16: busy}) == {
        "system.processes 16": limited, "system.processes.gain 16": f"at 16: {limited}",
    }  # fmt: skip
    assert processes.doubts({1: lacking, 2: calm}) == {
        "system.processes 1": lacks, "system.processes.gain 1": f"at 1: {lacks}",
        "system.processes.gain 2": f"at 1: {lacks}",
    }  # fmt: skip


def test_a_server_is_doubted_where_it_was_not_the_limit_and_so_is_the_ratio():
    def doubts(**changed):
        return http.doubts({name: [turn(), turn()] for name in ("echo", "service", "balancer")} | changed)

    limited = "client-limited: the lab used over 95% of a core"
    assert doubts() == {}
    assert doubts(echo=[turn(own=0.99), turn()]) == {
        "system.http echo": limited, "system.http.ratio": f"echo: {limited}",
    }  # fmt: skip
    assert doubts(balancer=[turn(own=0.99), turn()]) == {"system.http balancer": limited}
    idle = doubts(service=[turn(cpu=0.6), turn(cpu=0.7)])
    assert set(idle) == {"system.http service", "system.http.ratio"}
    assert idle["system.http service"] == (
        "not at its limit: neither it nor the lab used 90% of a core; raise suite.system.clients"
    )


def test_a_search_that_is_degraded_is_in_no_cache_and_what_is_echoed_is_no_search():
    echo = [turn(lacking=10)]
    assert http.doubts({"echo": echo, "service": [turn()], "balancer": [turn()]}) == {}
    lacking = http.doubts({"echo": echo, "service": [turn(lacking=10)], "balancer": [turn()]})
    said = "10 of 10 answers were degraded"
    assert lacking == {
        "system.http service": said, "system.http.cpu service": said, "system.http.ratio": f"service: {said}",
    }  # fmt: skip
