"""The agents suite's trials, run whole in this process on an engine that embeds without a model."""

import asyncio
import time
from importlib import import_module

import numpy as np
import pytest
from children import result_of
from omegaconf import OmegaConf

from bench import config
from bench.artifacts import Store
from bench.metrics import METRICS, derive
from bench.suites import agents
from bench.suites.agents import generator, idle, load
from bench.suites.agents.handover import BareThread, handovers
from bench.suites.base import Experiment
from bench.sweeper import combine
from bench.trial import frame
from bench.workload import prose
from bench.workload.dataset import TextDataset
from brein import Document, Engine, EngineConfig
from brein.agents.amygdala import Amygdala
from brein.cache import CacheConfig
from brein.embedding.hashing import HashingEmbedder
from brein.errors import DataError
from brein.records import Query

DOCUMENTS, QUESTIONS = 200, 40
SETTINGS = {"k": 5, "questions": 30, "loads": [0.5, 4.0], "seconds": 0.5, "objective_p95": 10.0}
AGENTS = ("hippocampus", "amygdala", "prefrontal_cortex")


@pytest.fixture(scope="module")
def argument(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agents")
    engine = EngineConfig.model_validate(
        {
            "embedding": {"kind": "hashing"},
            "index": {"kind": "IndexFlat"},
            "agents": {"prefrontal_cortex": {"queue_size": 10}},
        }
    )
    texts = prose.texts(DOCUMENTS + QUESTIONS, 30, seed=1)
    with Engine.open(engine.model_copy(update={"path": folder / "engine"})) as filled:
        filled.ingest([Document(f"d{n}", text) for n, text in enumerate(texts[:DOCUMENTS])])
    return {
        "engine": agents._as_if_first_asked(engine, QUESTIONS).model_dump_json(),
        "folder": str(folder / "engine"),
        "questions": texts[DOCUMENTS:],
        "settings": SETTINGS,
        "scratch": str(folder),
        "seed": 4,
    }


def measured(made):
    samples = frame([{"suite": "agents", "repeat": 0, **row} for row in made["rows"]])
    return {(m.name, *m.labels.values()): m for m in derive(samples)}, samples


def planned():
    """What each part plans for one question."""
    made = config.from_overrides(["+profile=smoke"])
    dataset = TextDataset("t", (Document("d", "a text"),), (Query("q", "why?"),), {})
    experiment = Experiment(made, dataset, None, Store("/nowhere"))
    return {name: part.plan(experiment, {"questions": ["why?"]}) for name, part in agents.PARTS.items()}


def test_every_part_plans_the_trial_it_is_and_says_what_its_figures_were_measured_on():
    works = planned()
    trials = {"idle": idle.ask_one_by_one, "load": load.ask_under_load}
    for name, work in works.items():
        module, _, function = work.plans[0].target.partition(":")
        assert getattr(import_module(module), function) is trials[name]
        assert work.plans[0].suite == "agents"
    said = {series for work in works.values() for series in work.conditions}
    documented = [figure for figure in config.from_overrides([]).baseline.figures if figure.suite == "agents"]
    assert len(documented) == 3
    assert {METRICS[figure.metric].series for figure in documented} <= said


def test_every_metric_is_some_parts_which_says_so_where_it_is_left_out():
    given = {metric.name for metric in METRICS.values() if metric.suite == "agents"}
    for name in given:
        assert any(name.startswith(start) for part in agents.PARTS.values() for start in part.METRICS)


@pytest.fixture(scope="module")
def alone(argument):
    made = result_of(idle.ask_one_by_one(argument))
    return *measured(made), made


def test_every_question_gives_its_latency_its_overhead_and_a_hop_to_each_agent(alone):
    found, _, made = alone
    counts = {name: one.n for name, one in found.items() if name[0].endswith(".mean")}
    each = SETTINGS["questions"]
    assert counts["agents.latency.mean",] == each
    assert counts["agents.hop_latency.mean",] == 3 * each
    for agent in AGENTS:
        for name in ("agents.hop_latency.mean", "agents.service_time.mean", "agents.queue_wait.mean"):
            assert counts[name, agent] == each
    for name in ("agents.coordination_time.mean", "agents.handover_time.mean"):
        assert counts[name,] == each  # of more questions there are fewer hand-overs
    assert found["agents.coordination_overhead",].n == each
    assert made["facts"]["doubts"] == {}


def test_the_parts_of_a_question_fit_into_the_whole(alone):
    found, samples, _ = alone
    hops = [found["agents.hop_latency.mean", agent].value for agent in AGENTS]
    assert found["agents.hop_latency.mean",].value == pytest.approx(np.mean(hops))
    assert 0 < found["agents.coordination_overhead",].value < 1
    coordination = samples[samples["series"] == "agents.coordination"]["value"].to_numpy()
    share = samples[samples["series"] == "agents.overhead"]["value"].to_numpy()
    wall = samples[samples["series"] == "agents.ask"]["value"].to_numpy()
    np.testing.assert_allclose(coordination, share * wall)
    # Reasoning begins when memory has ended.
    whole, parts = (samples[samples["series"] == name] for name in ("agents.ask", "agents.service"))
    for agent in AGENTS:
        own = parts[parts["labels"] == f'{{"agent": "{agent}"}}']["value"].to_numpy()
        assert (own > 0).all()
        assert (own < whole["value"].to_numpy()).all()


def test_bare_handovers_are_what_is_left_beside_the_work_of_two_threads():
    with BareThread() as first, BareThread() as second:
        start = time.perf_counter()
        bare = asyncio.run(handovers((first, second), (0.02, 0.03)))
        wall = time.perf_counter() - start
    assert 0 < bare < wall - 0.05


def test_answers_that_lack_a_part_are_doubted(argument, monkeypatch):
    def refuse(self, batch):
        raise DataError("no mood")

    monkeypatch.setattr(Amygdala, "analyse_batch", refuse)
    made = result_of(idle.ask_one_by_one(argument))
    assert made["facts"]["doubts"] == {
        "agents": "30 of 30 answers were degraded, the first: amygdala gave nothing: DataError: no mood"
    }


@pytest.fixture(scope="module")
def loaded(argument):
    return measured(result_of(load.ask_under_load(argument)))


def test_a_load_is_the_stated_share_of_the_capacity_measured(loaded):
    found, samples = loaded
    capacity = found["agents.capacity",].value
    requests = samples[samples["series"] == "agents.load"]["labels"].value_counts()
    assert requests['{"load": "50%"}'] == round(0.5 * capacity * 2 * SETTINGS["seconds"])
    assert requests['{"load": "400%"}'] == round(4 * capacity * SETTINGS["seconds"])


def test_every_question_has_one_outcome_and_those_not_answered_improve_no_percentile(loaded):
    found, samples = loaded
    rows = samples[(samples["series"] == "agents.load") & (samples["labels"] == '{"load": "400%"}')]
    assert set(rows["outcome"]) <= {"answered", "degraded", "rejected"}
    rejected = found["agents.load.rejection_rate", "400%"].value
    assert rejected == pytest.approx((rows["outcome"] == "rejected").mean())
    assert rejected > 0.3, "a queue of ten has no room for four times the capacity"
    assert found["agents.load.latency.mean", "400%"].value is None
    assert found["agents.load.latency.p95", "400%"].value is None


def test_agents_are_busier_at_a_higher_load_and_the_busiest_is_one_of_them(loaded):
    found, _ = loaded
    for label in ("50%", "400%"):
        each = [found["agents.load.utilisation", agent, label].value for agent in AGENTS]
        assert all(0 < share <= 1 for share in each)
        assert found["agents.load.busiest", label].value == max(each)
    assert found["agents.load.busiest", "50%"].value < found["agents.load.busiest", "400%"].value


def test_the_utilisation_that_is_judged_is_that_of_the_load_that_keeps_the_objective(loaded):
    found, _ = loaded
    assert found["agents.utilisation",].value == found["agents.load.busiest", "50%"].value
    assert found["agents.sustained_rate",].value == pytest.approx(found["agents.capacity",].value / 2)


@pytest.mark.parametrize(("questions", "least", "most"), [(100, 240, 240), (20, 200, 480)])
def test_each_time_a_question_is_asked_it_is_embedded_anew(tmp_path, monkeypatch, questions, least, most):
    """Once, however many are under way between two agents' looks at it; about so where there are few."""
    embedded, embed = [], HashingEmbedder.embed

    def counted(self, texts):
        embedded.extend(texts)
        return embed(self, texts)

    monkeypatch.setattr(HashingEmbedder, "embed", counted)
    limits = {"hippocampus": {"max_concurrent": 1}, "prefrontal_cortex": {"queue_size": 10}}
    engine = EngineConfig.model_validate(
        {"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}, "agents": limits}
    )
    levels = CacheConfig.model_validate({"l2": {"enabled": True}, "l3": {"enabled": True}})
    configured = engine.model_copy(update={"cache": levels, "path": tmp_path})
    asked = generator.endless(prose.texts(questions, 10, seed=2), np.random.default_rng(0))

    async def ask(opened):
        async def client():
            for _ in range(20):
                await coordinator.ask(next(asked))

        async with opened.coordinator() as coordinator:
            await asyncio.gather(*(client() for _ in range(12)))

    with Engine.open(agents._as_if_first_asked(configured, questions)) as opened:
        opened.ingest([Document("d", "a document")])
        opened.warm_up()
        embedded.clear()
        asyncio.run(ask(opened))
        stats = opened.cache_stats()
    assert {name: list(levels) for name, levels in stats.items()} == {"embedding": ["l1"], "search": ["l1"]}
    assert stats["search"]["l1"].hits == 0
    assert least <= len(embedded) <= most


def test_every_cell_of_the_sweep_changes_one_limit_of_one_agent():
    preset = OmegaConf.to_container(OmegaConf.load(config.CONF / "sweep" / "concurrency.yaml"))["sweeper"]
    guide = config.from_overrides([]).agents.model_dump()
    cells = combine(preset["grids"], {key: [f"{key}={value}"] for key, value in preset["each"].items()})
    for cell in cells:
        made = config.from_overrides(cell)
        assert made.suites == ("agents",)
        changed = [
            (agent, limit)
            for agent, limits in made.agents.model_dump().items()
            for limit, value in limits.items()
            if value != guide[agent][limit]
        ]
        assert len(changed) <= 1
        assert {limit for _, limit in changed} <= {"max_concurrent", "queue_size"}
    assert len(cells) == 13
