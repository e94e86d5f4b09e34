"""The load suite: its trials run whole in this process, on real services that embed without a model."""

import json
import threading
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil
import pytest
from children import is_gone, result_of
from load_rows import queued, rows_of
from stand_in import standing_in

from bench import arrivals, config, suites
from bench.arrivals import Closed, Poisson, Staircase, Step
from bench.artifacts import Store
from bench.errors import MeasurementError, UsageError
from bench.load import requests
from bench.load.locust import Ran
from bench.metrics import METRICS, derive
from bench.suite_config import LoadConfig
from bench.suites.base import Experiment
from bench.suites.load import exact, measure, samples, saturation
from bench.suites.load.cores import Cores, assigned
from bench.suites.load.sending import Judged, Sender, Sent
from bench.suites.load.watched import Reading, Used, Watched
from bench.trial import frame
from bench.workload import popularity, prose
from bench.workload.dataset import TextDataset
from brein import Document, Engine, EngineConfig
from brein.records import Query

DOCUMENTS, QUERIES = 200, 40
CLOSED = {"kind": "closed", "users": 4, "think_time": 0.02, "pacing": None, "ramp_up": 0.1, "warm_up": 0.5}
OBJECTIVE = config.from_overrides([]).load.objective


def settings(*overrides, **changed):
    made = config.from_overrides(["load=smoke", *overrides]).load
    return LoadConfig.model_validate_json(json.dumps({**made.model_dump(mode="json"), **changed}))


def dataset(documents=DOCUMENTS):
    texts = prose.texts(documents + QUERIES, 30, seed=1)
    return TextDataset(
        "prose",
        tuple(Document(f"d{n}", text) for n, text in enumerate(texts[:documents])),
        tuple(Query(f"q{n}", text) for n, text in enumerate(texts[documents:])),
        {},
    )


def experiment(folder, *overrides):
    made = config.from_overrides(["+profile=smoke", "index=flat", *overrides])
    return Experiment(made, dataset(), None, Store(folder))


@pytest.fixture(scope="module")
def argument(tmp_path_factory):
    """What a trial is given; the exact answers are those of the index, which is exact."""
    folder = tmp_path_factory.mktemp("load")
    engine = EngineConfig.model_validate({"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}})
    data = dataset()
    with Engine.open(engine.model_copy(update={"path": folder / "engine"})) as filled:
        filled.ingest(data.documents)
        found = [[hit.id for hit in filled.retrieve(query.text, exact.K).hits] for query in data.queries]
    (folder / "found.json").write_text(json.dumps(found))
    made = config.from_overrides([])
    ids = [query.id for query in data.queries]
    return {
        "engine": engine.model_dump_json(),
        "folder": str(folder / "engine"),
        "texts": [query.text for query in data.queries],
        "ids": ids,
        "stream": popularity.for_queries(made.popularity, ids, 1000).model_dump_json(),
        "exact": str(folder / "found.json"),
        "scratch": str(folder),
        "seed": 4,
    }


def measured(rows):
    found = frame([{"suite": "load", "repeat": 0, **row} for row in rows])
    return {(m.name, *m.labels.values()): m for m in derive(found)}


# --- what is planned ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts")


@pytest.mark.slow
def test_a_plan_names_a_trial_that_there_is_and_what_each_documented_figure_was_measured_on(store):
    works = suites.SUITES["load"].plan(experiment(store, "load=documented", "load.sample=0"))
    (plan,) = [plan for work in works for plan in work.plans]
    module, _, function = plan.target.partition(":")
    assert getattr(import_module(module), function) is measure.measure
    assert (plan.suite, plan.phase) == ("load", "documented")
    said = {series for work in works for series in work.conditions}
    documented = [figure for figure in config.from_overrides([]).baseline.figures if figure.suite == "load"]
    assert len(documented) == 8
    for figure in documented:
        assert " ".join((METRICS[figure.metric].series, *figure.labels.values())) in said


def test_the_documented_load_is_the_one_that_the_guides_figures_imply():
    made = config.from_overrides([]).load
    assert made.name == "documented"
    guide = {figure.documented: figure.value for figure in config.from_overrides([]).baseline.figures}
    users, rate, latency = guide["50"], guide["120 queries/second"], guide["150ms"]
    assert made.model.users == users
    assert made.model.think_time == pytest.approx(users / rate - latency, abs=0.001)
    assert (made.objective.p95, made.objective.errors) == (guide["<200ms p95"], guide["<0.1%"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "skipped", "why"),
    [
        ([], "load.capacity", "load.search = none"),
        (["load.sample=0"], "load.recall_at_10", "load.sample = 0"),
        (["load.requests=mixed"], "load.recall_at_10", "load.requests = mixed adds documents"),
        (["load.host='http://127.0.0.1:1'"], "load.recall_at_10", "what load.host holds is not known"),
        (["load.host='http://127.0.0.1:1'"], "load.cpu", "load.host is no process of the lab's"),
    ],
)
def test_what_a_load_does_not_give_says_why(store, overrides, skipped, why):
    (work,) = suites.SUITES["load"].plan(experiment(store, "load.sample=0", *overrides))
    assert work.skipped[skipped] == why


def test_a_given_service_needs_nothing_made(tmp_path):
    given = experiment(tmp_path, "load.host='http://127.0.0.1:1'")
    assert suites.SUITES["load"].artifacts(given) == []
    suites.SUITES["load"].plan(given)
    assert not given.store.stored()


def test_what_cannot_be_replayed_is_refused_before_anything_is_made(tmp_path):
    lost = experiment(tmp_path, "load=trace", "load.model.path=nowhere.csv", "load.model.column=t")
    with pytest.raises(UsageError, match=r"nowhere\.csv"):
        suites.SUITES["load"].check(lost)


# --- whose cores are whose ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "workers", "service", "generator"),
    [
        (2, 1, None, None),
        (3, 1, None, None),
        (4, 1, (0, 1, 2), (3,)),
        (4, 8, (0, 1), (2, 3)),
        (16, 3, tuple(range(13)), (13, 14, 15)),
    ],
)
def test_where_there_are_enough_cores_each_side_has_its_own(cores, workers, service, generator):
    assert assigned(range(cores), workers) == Cores(cores, service, generator)


def test_cores_that_are_shared_are_said_to_be():
    assert assigned(range(2), 1).described == "generator and service share 2 cores"
    assert "of 16 cores the generator has 3 of its own" in assigned(range(16), 3).described


# --- what was seen of the service -----------------------------------------------------------------------


def reading(time, cpu, found=0.0, asked=0.0, busy=0.0):
    return Reading(time, cpu, cpu / 2, 1000 + int(time), asked, found, {"a": busy}, {"a": 2.0}, {"a": 0.0})


def test_what_a_step_used_is_read_between_the_readings():
    watched = Watched([reading(100, 0.0), reading(110, 5.0, 30, 40, 8.0), reading(130, 25.0, 30, 140, 48.0)])
    used = watched.used(Step("s", 5.0, 15.0, 10.0, True), begin=100.0)
    # The second half of the first ten seconds, and the first quarter of the next twenty.
    assert used.cpu == pytest.approx((2.5 + 5.0) / 10)
    assert used.loop == pytest.approx(used.cpu / 2)
    assert used.cache_hit_rate == pytest.approx(15 / (20 + 25))
    assert used.busy["a"] == pytest.approx((4 + 10) / (2 * 10))
    assert used.memory == pytest.approx(1115)


def test_a_cache_that_nobody_asked_has_no_hit_rate():
    watched = Watched([reading(0, 0.0), reading(10, 5.0)])
    assert watched.used(Step("s", 0.0, 10.0, None, True), 0.0).cache_hit_rate is None


# --- samples of a load ----------------------------------------------------------------------------------


def sent(load, rows, used=None, judged=(), torn=0):
    steps = len(load.steps)
    ran = Ran(rows, [], 0.0, (), torn, None)
    return Sent(
        load=load,
        ran=ran,
        results=requests.summary(rows, load),
        used=(used,) * steps,
        generator=(0.3,) * steps,
        judged=tuple(tuple(judged) if step.counted else () for step in load.steps),
        watched=None,
    )


def poisson(rate=50.0, seconds=20.0, warm_up=2.0):
    return arrivals.drawn(Poisson(rate=rate, seconds=seconds, warm_up=warm_up), 0)


BUSY = Used(cpu=1.2, loop=0.5, memory=5e8, cache_hit_rate=0.75, busy={"hippocampus": 0.4}, rejected=0.0)


def test_every_request_that_counts_is_a_sample_and_the_warm_up_is_kept_apart():
    load = poisson()
    rows = rows_of(load, 0.01, late=0.002)
    rows["status"][-1], rows["query"] = 503, 1
    judged = [Judged(0, 1.0), Judged(1, 0.5)]
    made = [
        row for one in samples.of_load(sent(load, rows, BUSY, judged), "p", ["a", "b"], 2) for row in one.rows
    ]
    found = measured(made)
    assert found["load.latency.mean", "p"].value is None, "one had no answer"
    assert found["load.latency.p50", "p"].value == pytest.approx(0.012)
    assert found["load.service_time.p50", "p"].value == pytest.approx(0.01)
    assert found["load.error_rate", "p"].value == found["load.rejection_rate", "p"].value == 1 / 1000
    assert found["load.latency.p50", "p"].n == 1000
    assert sum(row["series"] == "load.lead_in" for row in made) == 100
    assert found["load.offered", "p"].value == pytest.approx(50)
    assert found["load.lateness.p99", "p"].value == pytest.approx(0.002)
    assert found["load.recall_at_10", "p"].value == 0.75
    assert found["load.cache_hit_rate", "p"].value == 0.75
    assert found["load.cpu", "p"].value == pytest.approx(0.6)
    assert found["load.generator_cpu", "p"].value == pytest.approx(0.15)
    assert found["load.memory", "p"].value == pytest.approx(5e8)
    assert {row["status"] for row in made if row["series"] == "load.request"} == {200, 503}
    assert {row["query"] for row in made if row["series"] == "load.request"} == {"b"}


def test_steps_are_told_apart_where_several_count():
    load = arrivals.drawn(Staircase(rates=(20.0, 40.0), seconds=20.0, warm_up=1.0), 0)
    made = [row for one in samples.of_load(sent(load, rows_of(load, 0.01)), "s", [], 2) for row in one.rows]
    found = measured(made)
    assert found["load.offered", "s", "1: 20/s"].value == pytest.approx(20)
    assert found["load.offered", "s", "2: 40/s"].value == pytest.approx(40)
    assert found["load.latency.p50", "s", "2: 40/s"].n == 800


def test_users_are_counted_by_the_share_of_their_requests_that_was_answered():
    load = Closed(users=50, think_time=0.267, pacing=None, ramp_up=0.0, warm_up=0.0, seconds=10.0)
    rows = np.zeros(100, requests.ROW)
    rows["intended"] = rows["ready"] = rows["start"] = np.linspace(0, 9.9, 100)
    rows["end"], rows["status"] = rows["start"] + 0.01, 200
    rows["status"][:2] = 0
    found = measured([row for one in samples.of_load(sent(load, rows), "c", ["a"], 2) for row in one.rows])
    assert found["load.users", "c"].value == pytest.approx(49)
    assert (found["load.users", "c"].ci_low, found["load.users", "c"].unit) == (49, "users")


def test_figures_of_a_generator_that_was_late_are_doubted():
    load = poisson()
    assert samples.doubts(sent(load, rows_of(load, 0.01)), "p", 0.2, 2) == {}
    one = sent(load, rows_of(load, 0.01, late=0.05))
    late = samples.doubts(one, "p", 0.2, 2)
    assert late["load.request p"] == "generator-limited: requests left late, or too few did"
    assert "p99 of lateness is 50 ms" in samples.details(one, 0.2, 2)[0]
    assert late.keys() == {"load.request p", "load.answers p", "load.users p", "load.in_flight p"}


def test_figures_of_a_service_that_falls_behind_are_doubted():
    load = poisson()
    slow = np.full(len(load.starts), 0.025)  # at 50 a second, 1.25 seconds of work come in each
    one = sent(load, queued(load, slow))
    assert "no steady state" in samples.doubts(one, "p", 0.2, 2)["load.request p"]
    assert samples.details(one, 0.2, 2)[0].endswith("more requests each second")


# --- what saturates first -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"cpu": 1.75}, "CPU"),
        ({"loop": 0.97}, "the service's event loop, one core"),
        ({"busy": {"amygdala": 0.2, "hippocampus": 0.95}}, "the slots of hippocampus"),
        ({}, "nothing that was watched is at its limit"),
    ],
)
def test_what_is_at_its_limit_is_named_with_what_was_seen(changed, named):
    load = poisson()
    one = sent(load, rows_of(load, 0.01), replace(BUSY, **changed))
    said = saturation.saturated(one, 1, OBJECTIVE, 2)
    assert said.startswith(f"step poisson: {named}")
    assert "generator 0.30 cores" in said
    assert "search cache 75% hits" in said


def test_a_generator_that_gives_out_is_named_before_the_service():
    load = poisson()
    one = sent(load, rows_of(load, 0.01, late=0.05), replace(BUSY, cpu=2.0))
    assert saturation.saturated(one, 1, OBJECTIVE, 2).startswith("step poisson: the generator")


def test_the_step_that_is_looked_at_is_the_first_that_misses_the_objective():
    load = arrivals.drawn(Staircase(rates=(20.0, 40.0, 60.0), seconds=20.0, warm_up=1.0), 0)
    times = np.where(load.starts < 21, 0.01, 0.3)
    assert saturation.first_missed(sent(load, rows_of(load, times)), OBJECTIVE) == 3
    assert saturation.first_missed(sent(load, rows_of(load, 0.01)), OBJECTIVE) == 5


def test_a_recall_that_drops_is_told_with_the_step_it_came_at():
    load = arrivals.drawn(Staircase(rates=(20.0, 40.0, 60.0), seconds=20.0, warm_up=1.0), 0)
    fine = sent(load, rows_of(load, 0.01), judged=[Judged(n, n % 2) for n in range(50)])
    assert saturation.recall_drop(fine) == ""
    worse = tuple([Judged(n, n % 10 == 0) for n in range(50)])
    dropped = replace(fine, judged=(*fine.judged[:3], worse, *fine.judged[4:]))
    assert saturation.recall_drop(dropped) == "at step 2: 40/s: 0.100 after 0.500"
    assert saturation.recall_drop(sent(load, rows_of(load, 0.01))) == ""


# --- real services --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_service_under_a_closed_load_answers_everything_and_finds_what_is_to_be_found(argument):
    before = psutil.Process().children()
    load = settings(model={**CLOSED, "seconds": 3.0}, sample=1)
    made = result_of(measure.measure({**argument, "load": load.model_dump_json()}))
    found = measured(made["rows"])
    assert found["load.users", "smoke"].value == 4
    assert found["load.error_rate", "smoke"].value == 0
    assert found["load.recall_at_10", "smoke"].value == 1, "the index is exact"
    # Little's law: users = throughput x (latency + think time).
    latency, throughput = (found[name, "smoke"].value for name in ("load.latency.mean", "load.throughput"))
    assert throughput * (latency + CLOSED["think_time"]) == pytest.approx(4, rel=0.1)
    assert 0 < found["load.service_time.mean", "smoke"].value <= latency
    assert 0 < found["load.cpu", "smoke"].value < 1
    assert 0 < found["load.generator_cpu", "smoke"].value < 1
    assert found["load.cache_hit_rate", "smoke"].value > 0.5, "40 queries, hundreds of requests"
    assert found["load.memory", "smoke"].value > 1e7
    assert made["facts"]["saturates_first"].startswith("step closed: ")
    assert psutil.Process().children() == before, "a process is still there"


@pytest.mark.slow
def test_steps_of_an_open_load_are_measured_apart_by_two_workers(argument):
    model = {"kind": "steps", "rates": [20.0, 60.0], "seconds": 3.0, "warm_up": 0.5}
    load = settings(model=model, workers=2)
    made = result_of(measure.measure({**argument, "load": load.model_dump_json()}))
    found = measured(made["rows"])
    for step, rate in (("1: 20/s", 20), ("2: 60/s", 60)):
        assert found["load.offered", "smoke", step].value == pytest.approx(rate)
        assert found["load.latency.mean", "smoke", step].n == 3 * rate
    workers = {row["worker"] for row in made["rows"] if row["series"] == "load.request"}
    assert workers == {0, 1}


@pytest.mark.slow
def test_documents_are_ingested_and_questions_asked(argument):
    for kind in ("ingest", "mixed", "ask"):
        load = settings(requests=kind, model={**CLOSED, "users": 2, "seconds": 1.5}, sample=0)
        given = {**argument, "load": load.model_dump_json()}
        if kind == "ingest":
            given["stream"] = None
        found = measured(result_of(measure.measure(given))["rows"])
        assert found["load.error_rate", "smoke"].value == 0, kind


@pytest.mark.slow
def test_a_service_that_is_killed_fails_the_trial_and_leaves_nothing_behind(argument):
    load = settings(model={**CLOSED, "seconds": 60.0})
    trial = measure.measure({**argument, "load": load.model_dump_json()})
    next(trial)
    (service,) = psutil.Process().children()
    threading.Timer(4.0, service.kill).start()
    with pytest.raises(MeasurementError, match="the load ended early: the service took no connection"):
        next(trial)
    assert is_gone(service.pid)
    assert psutil.Process().children() == []


def sender(service, tmp_path, load):
    return Sender(
        settings=load, host=service.host, service=None, key=None, texts=["a", "b"], picks=np.array([0, 1]),
        exact=None, cores=Cores(2), scratch=tmp_path,
    )  # fmt: skip


@pytest.mark.slow
def test_a_search_for_the_capacity_keeps_what_was_measured_at_each_rate(tmp_path, monkeypatch):
    # An objective so wide that a busy machine meets it, too.
    monkeypatch.setattr(measure, "_MOST", 80.0)
    monkeypatch.setattr(measure, "_FILLING", measure._FILLING.model_copy(update={"seconds": 1.0}))
    model = {"kind": "poisson", "rate": 40.0, "seconds": 6.0, "warm_up": 0.5}
    objective = {"p95": 5.0, "errors": 0.1, "recall": None}
    load = settings("load=capacity", model=model, objective=objective)
    with standing_in(mean=0.01, servers=4) as service:
        outcome = measure._seek(sender(service, tmp_path, load), 1)
    assert [probe.rate for probe, _ in outcome.probes] == [40, 80, 80]
    assert outcome.sent is outcome.probes[-1][1]
    made = measure._reported(outcome, load, ["q0", "q1"], Cores(2))
    found = measured(made["rows"])
    assert found["load.capacity", "capacity"].value == pytest.approx(80)
    at_least = "at least 80 requests/s: the highest rate that may be tried"
    assert made["facts"]["doubts"]["load.capacity"] == made["facts"]["capacity"] == at_least
    assert found["load.latency.p50", "capacity"].n == 480, "those at the capacity, as measured last"
    probes = [row for row in made["rows"] if row["series"] == "load.probe"]
    assert {json.loads(row["labels"])["rate"] for row in probes} == {"40", "80"}


@pytest.mark.slow
def test_a_key_that_is_not_set_is_said(argument, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    load = settings(host="http://127.0.0.1:1", key_variable="NO_SUCH_KEY")
    with pytest.raises(MeasurementError, match="NO_SUCH_KEY"):
        next(measure.measure({**argument, "load": load.model_dump_json()}))


@pytest.mark.slow
def test_exact_answers_are_those_of_an_exact_index_whatever_the_configured_one(tmp_path):
    approximate = experiment(tmp_path, "index=ivf_flat", "index.nlist=4", "index.nprobe=1")
    flat = experiment(tmp_path)
    data = approximate.text("load")
    found = exact.found(approximate, data)
    assert found == exact.found(flat, data), "one file serves all indexes"
    answers = json.loads(Path(found).read_text())
    assert len(answers) == QUERIES
    assert all(len(ids) == exact.K for ids in answers)
