"""Loads of the agents suite: when questions are asked and what became of them, in virtual time."""

import asyncio
from itertools import count

import numpy as np
import pytest

from bench.errors import MeasurementError
from bench.suites.agents import generator
from bench.suites.agents.generator import Asked
from bench.suites.agents.load import LEAD_IN, Loads, Offered, doubt, doubts, samples, sustained
from brein.agents import Agent, AgentConfig, AgentsConfig, Coordinator, OnLoop, Trace
from brein.errors import DataError
from brein.records import Analysis, Complexity, Retrieval

FOUND = Retrieval(
    (), Analysis("question", "question", Complexity(0.5, 0.5, 0.5, 0.5), "single_stage"), "single_stage", ()
)
QUESTIONS = [f"question {n}" for n in range(7)]


def agents(slots=1, queue=10, seconds=1.0, timeout=1000.0, problem=None, *, mood="calm"):
    """Agents of which only reasoning takes time; it does one question after another in each slot."""
    clock = asyncio.get_running_loop().time

    def agent(name, seconds, config, answer):
        async def work(batch):
            await asyncio.sleep(seconds)
            return [problem or answer for _ in batch.requests]

        return Agent(name, config, OnLoop(work), clock)

    wide = AgentConfig(max_concurrent=100, queue_size=1000, timeout=1000)
    reasoning = AgentConfig(max_concurrent=slots, queue_size=queue, timeout=timeout)
    return Coordinator(
        agent("hippocampus", 0, wide, FOUND),
        agent("amygdala", 0, wide, mood),
        agent("prefrontal_cortex", seconds, reasoning, "because"),
        clock,
    )


def loads(coordinator, seconds=100.0):
    return Loads(coordinator, QUESTIONS, 10, seconds, np.random.default_rng(3))


def asked(*latencies, outcome="answered", late=0.0):
    """Questions asked a second apart, answered after so many seconds, or None: not at all."""
    return [
        Asked(n, n + late, n + latency, outcome, "trace", None if outcome == "answered" else "a problem")
        if latency is not None
        else Asked(n, n + late, n + 0.1, "failed" if outcome == "answered" else outcome, problem="a problem")
        for n, latency in enumerate(latencies)
    ]


def offered(load, *latencies, **busy):
    return Offered(load, 10.0, asked(*latencies), 5, busy)


# --- when questions are asked --------------------------------------------------------------------------


def test_every_question_comes_before_any_comes_again():
    orders = set()
    for seed in range(20):
        drawn = generator.endless(QUESTIONS, np.random.default_rng(seed))
        rounds = [[next(drawn) for _ in QUESTIONS] for _ in range(3)]
        assert sorted(rounds[0]) == QUESTIONS
        assert rounds[0] == rounds[1] == rounds[2]
        orders.add(tuple(rounds[0]))
    assert len(orders) > 10


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 18),
        ({"amygdala": {"max_concurrent": 8}}, 26),
        ({"hippocampus": {"batch_size": 5}}, 42),
        ({"prefrontal_cortex": {"max_concurrent": 3, "queue_size": 2}}, 5),
    ],
)
def test_clients_keep_slots_at_work_and_fill_no_queue(changes, expected):
    assert generator.clients(AgentsConfig.model_validate(changes)) == expected


# --- what becomes of them ------------------------------------------------------------------------------


def test_questions_are_asked_at_their_times_whatever_became_of_those_before(in_virtual_time):
    async def scenario():
        async with agents(queue=1) as coordinator:
            times = [0.0, 0.6, 1.2, 1.8, 2.4]
            done, before, after = await asyncio.gather(
                generator.open_loop(coordinator.ask, iter(QUESTIONS), times, begin=5.0),
                generator.read_at(5.0, coordinator.stats),
                generator.read_at(13.0, coordinator.stats),
            )
        assert [one.intended for one in done] == times
        assert [one.sent for one in done] == pytest.approx(times)
        # One second of work each, one may wait: the fourth finds the third waiting.
        assert [one.outcome for one in done] == ["answered"] * 3 + ["rejected", "answered"]
        assert [one.ended for one in done] == pytest.approx([1.0, 2.0, 3.0, 1.8, 4.0])
        assert done[3].problem.startswith("QueueFullError: 2 questions are under way")
        name = "prefrontal_cortex"
        assert generator.utilisation(before[name], after[name]) == pytest.approx(4 / 8)

    in_virtual_time(scenario)


def test_a_question_asked_late_counts_from_when_it_was_to_be_asked(in_virtual_time):
    async def scenario():
        loop = asyncio.get_running_loop()

        async def ask(question):
            loop.now += 3.0  # the event loop does nothing else for so long
            return await coordinator.ask(question)

        async with agents(slots=9) as coordinator:
            done = await generator.open_loop(ask, iter(QUESTIONS), [0.0, 1.0, 4.5], begin=0.0)
        assert [one.intended for one in done] == [0.0, 1.0, 4.5]
        assert [one.sent for one in done] == pytest.approx([0.0, 3.0, 6.0])
        busy = dict.fromkeys(coordinator.stats(), 0.5)
        requests = samples(Offered(1.0, 10.0, done, 3, busy), 5.0)[0]
        assert [row["value"] for row in requests.rows] == [one.ended - one.intended for one in done]
        assert requests.rows[1]["value"] >= 2.0 + 3.0 + 1.0, "late, asked, answered"

    in_virtual_time(scenario)


def test_a_question_without_an_answer_says_what_became_of_it(in_virtual_time):
    async def scenario():
        async def become(times, **changes):
            async with agents(**changes) as coordinator:
                begin = asyncio.get_running_loop().time()
                done = await generator.open_loop(coordinator.ask, iter(QUESTIONS), times, begin)
            return [(one.outcome, one.trace is None) for one in done]

        assert await become([0.0], seconds=50.0, timeout=2.0) == [("timed out", True)]
        assert await become([0.0], problem=DataError("unreadable")) == [("failed", True)]
        assert await become([0.0, 0.0, 0.1], queue=1) == [
            ("answered", False), ("answered", False), ("rejected", True)
        ]  # fmt: skip

    in_virtual_time(scenario)


def test_clients_ask_again_when_they_are_answered(in_virtual_time):
    async def scenario():
        async with agents(slots=2) as coordinator:
            done = await generator.closed_loop(
                coordinator.ask, generator.endless(QUESTIONS, np.random.default_rng(0)), 5, 0.0, 20.0
            )
        assert {one.outcome for one in done} == {"answered"}
        assert sum(one.ended < 20.0 - 1e-9 for one in done) == 2 * 19
        assert max(one.intended for one in done) < 20.0

    in_virtual_time(scenario)


def test_clients_who_get_no_answer_do_not_ask_without_a_pause(in_virtual_time):
    numbers = count()

    async def refuse(question):
        next(numbers)
        raise DataError("no")

    async def scenario():
        await generator.closed_loop(refuse, iter(lambda: "question", None), 3, 0.0, 1.0)

    in_virtual_time(scenario)
    assert next(numbers) <= 3 * 101


def test_work_that_never_ends_is_not_waited_for_for_ever(in_virtual_time):
    async def scenario():
        async with agents(seconds=1e4, timeout=1e4) as coordinator:
            asking = asyncio.create_task(coordinator.ask("why?"))
            await asyncio.sleep(1)
            with pytest.raises(
                MeasurementError, match=r"agents still work 120 s .*lower agents\.\*\.timeout"
            ):
                await generator.drained(coordinator.stats)
            asking.cancel()

    in_virtual_time(scenario)


# --- a load --------------------------------------------------------------------------------------------


def test_a_single_server_has_the_capacity_and_the_utilisation_of_its_service_time(in_virtual_time):
    async def scenario():
        async with agents(queue=50) as coordinator:
            offering = loads(coordinator)
            answers = await offering.saturate(clients=10)
            assert answers == pytest.approx(100, abs=1)
            half = await offering.offer(0.5, capacity=1.0)
            assert (len(half.asked), half.seconds) == (100, 200)
            assert half.utilisation["prefrontal_cortex"] == pytest.approx(0.5, abs=0.02)
            assert half.utilisation["amygdala"] == 0
            assert half.answers == pytest.approx(100, abs=3)
            assert all(one.intended >= 0 and one.ended - one.intended >= 1 - 1e-9 for one in half.asked)
            # M/D/1 (Pollaczek and Khinchine): a mean wait of ρ / (2 (1 − ρ)) services.
            waits = [one.trace.prefrontal_cortex.queue_wait for one in half.asked]
            assert np.mean(waits) == pytest.approx(0.5, abs=0.25)
            assert all(each.running == each.waiting == 0 for each in coordinator.stats().values())

    in_virtual_time(scenario)


def test_beyond_the_capacity_what_the_queue_has_no_room_for_is_rejected(in_virtual_time):
    async def scenario():
        async with agents(queue=10) as coordinator:
            double = await loads(coordinator).offer(2.0, capacity=1.0)
        assert (len(double.asked), double.seconds) == (200, 100)
        assert double.utilisation["prefrontal_cortex"] == pytest.approx(1.0)
        assert double.answers == pytest.approx(100, abs=1)
        rejected = [one for one in double.asked if one.outcome == "rejected"]
        assert len(rejected) == pytest.approx(100, abs=12)
        assert all(one.ended == pytest.approx(one.intended) for one in rejected)
        answered = [one.ended - one.intended for one in double.asked if one.trace]
        assert len(answered) + len(rejected) == 200
        assert max(answered) <= 11 + 1e-6

    in_virtual_time(scenario)


def test_the_lead_in_is_offered_and_not_counted(in_virtual_time):
    async def scenario():
        begun = asyncio.get_running_loop().time()
        async with agents(slots=100, seconds=0.001) as coordinator:
            one = await loads(coordinator).offer(1.0, capacity=2.0)
            served = coordinator.stats()["prefrontal_cortex"].served
        assert len(one.asked) == 200
        assert served == 200 + 200 * LEAD_IN
        assert asyncio.get_running_loop().time() - begun == pytest.approx(100 * (1 + LEAD_IN), abs=2)

    in_virtual_time(scenario)


def test_without_any_answer_there_is_no_capacity(in_virtual_time):
    async def scenario():
        async with agents(problem=DataError("unreadable")) as coordinator:
            with pytest.raises(MeasurementError, match="the first: DataError: unreadable; raise suite"):
                await loads(coordinator, seconds=1.0).saturate(clients=2)

    in_virtual_time(scenario)


# --- what a load says ----------------------------------------------------------------------------------


def test_the_highest_load_that_keeps_the_objective_counts_whatever_became_of_lower_ones():
    good, bad = [0.4] * 19 + [9.0], [0.4] * 18 + [9.0, 9.0]
    curve = [
        offered(0.5, *good, hippocampus=0.2, amygdala=0.3),
        offered(0.8, *bad, hippocampus=0.5, amygdala=0.5),
        offered(0.9, *good, hippocampus=0.7, amygdala=0.6),
        offered(1.0, *bad, hippocampus=0.8, amygdala=0.8),
        offered(1.5, *bad, hippocampus=0.9, amygdala=0.9),
    ]
    assert values(sustained(curve, 20.0, 0.45)) == pytest.approx([0.7, 18.0])
    assert values(sustained(curve[3:], 20.0, 0.45)) == [0.0, 0.0]
    assert values(sustained(curve, 20.0, 10.0)) == pytest.approx([0.9, 30.0])


def values(series):
    assert [row["series"] for one in series for row in one.rows] == [
        "agents.utilisation",
        "agents.sustained_rate",
    ]
    return [row["value"] for one in series for row in one.rows]


def test_a_question_without_an_answer_keeps_no_objective():
    assert offered(0.5, 0.4, 0.45, 0.46, None).within(0.45) == 0.5
    one, two = offered(0.5, *[0.4] * 19, None, cortex=0.6), offered(0.5, *[0.4] * 18, None, None, cortex=0.6)
    assert values(sustained([one], 20.0, 0.45)) == pytest.approx([0.6, 10.0]), "one in twenty is beyond p95"
    assert values(sustained([two], 20.0, 0.45)) == [0.0, 0.0]


def test_hops_and_overhead_of_a_load_are_those_of_its_answers(in_virtual_time):
    async def scenario():
        async with agents(queue=1) as coordinator:
            asked = await generator.open_loop(coordinator.ask, iter(QUESTIONS), [0.0, 0.1, 0.2], begin=0.0)
        made = samples(Offered(1.5, 10.0, asked, 2, dict.fromkeys(coordinator.stats(), 0.5)), 5.0)
        assert [one.outcome for one in asked] == ["answered", "answered", "rejected"]
        for series, each in (("agents.load.hop", 3), ("agents.load.overhead", 1)):
            rows = [row for one in made for row in one.rows if row["series"] == series]
            assert len(rows) == 2 * each
            assert {row["labels"] for row in rows} == {'{"load": "150%"}'}
            assert all(row["value"] == pytest.approx(0, abs=1e-6) for row in rows), (
                "virtual agents cost nothing"
            )

    in_virtual_time(scenario)


def test_the_time_to_reject_is_that_of_the_rejected_alone():
    made = samples(
        Offered(
            1.5,
            10.0,
            [*asked(None), Asked(1.0, 1.0, 1.003, "rejected", problem="full")],
            1,
            {"hippocampus": 0.5},
        ),
        5.0,
    )
    rows = [row["value"] for one in made for row in one.rows if row["series"] == "agents.load.refusal"]
    assert rows == [pytest.approx(0.003)]


def test_a_degraded_answer_keeps_no_objective_and_is_none_that_counts():
    lacking = [*asked(0.4), *asked(0.4, outcome="degraded")]
    assert Offered(0.5, 10.0, lacking, 1, {}).within(0.45) == 0.5
    assert (
        doubt(Offered(0.5, 10.0, lacking, 1, {})) == "50% of the answers were degraded, the first: a problem"
    )


def test_a_doubt_of_a_load_is_one_of_all_that_is_made_of_its_questions():
    good, bad = Offered(0.5, 10.0, asked(0.4, 0.4), 2, {}), Offered(0.9, 10.0, asked(0.4, late=0.1), 2, {})
    why = doubt(bad)
    cast = doubts([good, bad], 0.45)
    assert why
    for series in ("", ".answers", ".within_objective", ".refusal", ".hop", ".overhead"):
        assert cast.pop(f"agents.load{series} 90%") == why
    assert cast == dict.fromkeys(["agents.utilisation", "agents.sustained_rate"], f"at 90%: {why}")


def test_a_doubted_load_beyond_the_one_that_keeps_the_objective_says_nothing_of_it():
    good, bad = Offered(0.5, 10.0, asked(0.4, 0.4), 2, {}), Offered(0.9, 10.0, asked(9.0, late=1.0), 2, {})
    assert doubt(bad)
    assert {name.split()[-1] for name in doubts([good, bad], 0.45)} == {"90%"}
    assert doubts([good], 0.45) == {}


def test_answers_that_lack_a_part_make_no_capacity(in_virtual_time):
    async def scenario():
        async with agents(mood=DataError("no mood")) as coordinator:
            offering = loads(coordinator, seconds=10.0)
            one = await offering.offer(0.5, capacity=1.0)
            with pytest.raises(MeasurementError, match="the first: amygdala gave nothing"):
                await offering.saturate(clients=2)
        assert {each.outcome for each in one.asked} == {"degraded"}
        assert one.answers == 0
        assert doubt(one).startswith("100% of the answers were degraded, the first: amygdala gave nothing")

    in_virtual_time(scenario)


def test_of_an_answer_only_what_it_says_of_times_is_kept(in_virtual_time):
    async def scenario():
        async with agents() as coordinator:
            (one,) = await generator.open_loop(coordinator.ask, iter(QUESTIONS), [0.0], begin=0.0)
        assert one[3:] == ("answered", one.trace, None)
        assert isinstance(one.trace, Trace)

    in_virtual_time(scenario)


def test_a_late_generator_and_failed_questions_are_doubted():
    assert doubt(offered(0.5, 0.4, 0.4, 0.4)) == ""
    late = Offered(0.5, 10.0, asked(0.4, 0.4, 0.4, late=0.03), 5, {})
    said = "generator-limited: questions were asked late by over 5% of their latency, by the "
    assert doubt(late) == f"{said}medians and the 95th percentiles"
    assert doubt(Offered(0.5, 10.0, asked(0.4, late=0.01), 5, {})) == ""
    assert doubt(Offered(0.5, 10.0, asked(4e-4, late=9e-5), 5, {})) == "", "starting a task takes as long"
    assert doubt(Offered(0.5, 10.0, asked(4e-4, late=2e-4), 5, {})).startswith(said)
    stalled = [*asked(*[0.4] * 18), *asked(0.4, 0.4, late=0.3)]
    assert doubt(Offered(0.5, 10.0, stalled, 5, {})) == f"{said}95th percentiles"
    assert doubt(offered(0.5, 0.4, None)) == "1 questions failed, the first: a problem"
    assert doubt(Offered(0.5, 10.0, asked(0.4, None, outcome="rejected"), 5, {})) == ""
