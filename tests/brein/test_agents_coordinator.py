"""The coordinator: which agent is asked when, what a failure leaves, and the arithmetic of its times."""

import asyncio
import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein import Document, Engine, EngineConfig, Hit, Retrieval
from brein.agents import (
    Agent,
    AgentConfig,
    AgentsConfig,
    Call,
    Coordinator,
    Delete,
    Evidence,
    Get,
    Ingest,
    InThreads,
    OnLoop,
    PrefrontalCortex,
    Search,
    Times,
    Trace,
    one_by_one,
    open_hippocampus,
)
from brein.errors import AgentTimeoutError, ClosedError, DataError, QueueFullError
from brein.records import Analysis, Complexity, Stage

HIT = Hit("d1", 0.5, "a document")


def retrieval(*skipped):
    """A retrieval of one document, whose stages had these reasons to be skipped."""
    analysis = Analysis("why?", "why?", Complexity(0.2, 0.4, 0.6, 0.8), "two_stage")
    stages = [Stage(f"stage {n}", 1.0, 1, 1, reason) for n, reason in enumerate(skipped)]
    return Retrieval((HIT,), analysis, "two_stage", tuple(stages))


FOUND = retrieval(None)


# --- arithmetic on planted times, in milliseconds ------------------------------------------------------


PLANTED = {
    "nobody waits": (
        Trace(0, 21, Times(1, 1, 2, 10), Times(1, 1, 3, 6), Times(11, 11, 12, 20)),
        {"hippocampus": 2, "amygdala": 3, "prefrontal_cortex": 2},
        5,  # 0-2, 10-12, 20-21
    ),
    "the slower of the first two waited for a slot": (
        Trace(0, 100, Times(1, 41, 42, 60), Times(1, 1, 2, 5), Times(61, 61, 62, 99)),
        {"hippocampus": 2, "amygdala": 2, "prefrontal_cortex": 2},
        5,  # 0-1, 41-42, 60-62, 99-100
    ),
    "the faster of the first two waited, which excuses nothing": (
        Trace(0, 70, Times(0, 0, 5, 50), Times(0, 20, 20, 30), Times(50, 50, 50, 70)),
        {"hippocampus": 5, "amygdala": 0, "prefrontal_cortex": 0},
        5,  # 0-5
    ),
    "a wait while another worked is counted once": (
        Trace(0, 80, Times(0, 0, 1, 50), Times(0, 40, 40, 65), Times(65, 65, 66, 80)),
        {"hippocampus": 1, "amygdala": 0, "prefrontal_cortex": 1},
        1,  # 65-66
    ),
    "reasoning waited for a slot": (
        Trace(0, 50, Times(0, 0, 0, 10), Times(0, 0, 0, 10), Times(12, 32, 33, 50)),
        {"hippocampus": 0, "amygdala": 0, "prefrontal_cortex": 3},
        3,  # 10-12, 32-33
    ),
    "amygdala refused": (
        Trace(0, 30, Times(1, 1, 2, 10), None, Times(11, 11, 12, 30)),
        {"hippocampus": 2, "prefrontal_cortex": 2},
        4,  # 0-2, 10-12
    ),
    "amygdala was given up while it waited": (
        Trace(0, 30, Times(0, 0, 0, 10), Times(0, None, None, 15), Times(16, 16, 16, 30)),
        {"hippocampus": 0, "prefrontal_cortex": 1},
        1,  # 15-16
    ),
    "amygdala was given up before its work began": (
        Trace(0, 30, Times(0, 0, 0, 10), Times(0, 2, None, 15), Times(15, 15, 15, 30)),
        {"hippocampus": 0, "prefrontal_cortex": 0},
        5,  # 10-15
    ),
}


@pytest.mark.parametrize(("trace", "hops", "idle"), PLANTED.values(), ids=PLANTED.keys())
def test_hops_and_overhead_of_planted_times(trace, hops, idle):
    assert trace.hop_latency == hops
    assert trace.coordination_overhead == pytest.approx(idle / trace.wall)


def test_the_times_of_a_request_that_got_nowhere():
    waited = Times(1.0, None, None, 4.0)
    assert (waited.queue_wait, waited.service_time) == (3.0, 0.0)
    served = Times(1.0, 3.0, 4.0, 9.0)
    assert (served.queue_wait, served.service_time) == (2.0, 5.0)


steps = st.lists(st.integers(0, 9), min_size=4, max_size=4)


@given(hippocampus=steps, amygdala=steps, prefrontal_cortex=steps, returning=st.integers(0, 9))
def test_overhead_is_the_share_of_milliseconds_in_which_nothing_is_done_or_waited_for(
    hippocampus, amygdala, prefrontal_cortex, returning
):
    def planted(begin, gaps):
        admitted = begin + gaps[0]
        taken = admitted + gaps[1]
        started = taken + gaps[2]
        return Times(admitted, taken, started, started + gaps[3])

    first = planted(0, hippocampus), planted(0, amygdala)
    last = max(first, key=lambda each: each.ended)
    reasoning = planted(last.ended, prefrontal_cortex)
    trace = Trace(0, reasoning.ended + returning, *first, reasoning)
    excused = [
        *((each.started, each.ended) for each in (*first, reasoning)),
        *((each.admitted, each.taken) for each in (last, reasoning)),
    ]
    idle = sum(
        not any(begin <= millisecond < end for begin, end in excused) for millisecond in range(trace.returned)
    )
    assert trace.coordination_overhead == pytest.approx(idle / trace.returned if trace.returned else 0)


# --- the order of work, in virtual time ----------------------------------------------------------------


class Agents:
    """Three agents of one slot that take 10, 5 and 20 s, and what they were asked and answered."""

    def __init__(self, queue=2, timeout=100.0, **problems):
        self.clock = asyncio.get_running_loop().time
        self.config = AgentConfig(max_concurrent=1, queue_size=queue, timeout=timeout)
        self.problems = problems
        self.asked = []
        self.hippocampus = self.agent("hippocampus", 10, FOUND)
        self.amygdala = self.agent("amygdala", 5, "calm")
        self.prefrontal_cortex = self.agent("prefrontal_cortex", 20, "because")
        self.coordinator = Coordinator(self.hippocampus, self.amygdala, self.prefrontal_cortex, self.clock)

    def agent(self, name, seconds, answer):
        async def work(batch):
            self.asked.append((self.clock(), name, batch.requests[0]))
            problem = self.problems.get(name)
            await asyncio.sleep(1e6 if problem == "hangs" else seconds)
            return [answer if problem is None else problem]

        return Agent(name, self.config, OnLoop(work), self.clock)


def test_memory_and_emotion_work_side_by_side_and_reasoning_over_what_they_found(in_virtual_time):
    async def scenario():
        agents = Agents()
        response = await agents.coordinator.ask("why?", k=3, where={"lang": "en"})
        assert (response.answer, response.retrieval, response.emotion) == ("because", FOUND, "calm")
        assert response.degraded is None
        assert agents.asked == [
            (0, "amygdala", "why?"),
            (0, "hippocampus", Search("why?", 3, {"lang": "en"})),
            (10, "prefrontal_cortex", Evidence("why?", (HIT,), "calm", 0.5)),
        ]
        assert response.trace.wall == 30
        assert response.trace.hop_latency == {"hippocampus": 0, "amygdala": 0, "prefrontal_cortex": 0}
        assert response.trace.coordination_overhead == 0
        assert {name: each.service_time for name, each in response.trace.agents.items()} == {
            "hippocampus": 10, "amygdala": 5, "prefrontal_cortex": 20
        }  # fmt: skip

    in_virtual_time(scenario)


def test_the_counts_are_each_agents_own(in_virtual_time):
    async def scenario():
        agents = Agents(amygdala=DataError("no mood"))
        await agents.coordinator.ask("why?")
        stats = agents.coordinator.stats()
        assert {name: (each.served, each.failed, each.busy) for name, each in stats.items()} == {
            "hippocampus": (1, 0, 10), "amygdala": (0, 1, 5), "prefrontal_cortex": (1, 0, 20)
        }  # fmt: skip

    in_virtual_time(scenario)


def test_documents_are_ingested_by_memory_alone(in_virtual_time):
    async def scenario():
        agents = Agents()
        documents = [Document("sea", "the sea is salt")]
        await agents.coordinator.ingest(documents)
        assert agents.asked == [(0, "hippocampus", Ingest(documents))]
        assert agents.clock() == 10

    in_virtual_time(scenario)


def test_documents_are_refused_where_memory_is_full_or_the_coordinator_closed(in_virtual_time):
    async def scenario():
        agents = Agents(queue=1)
        others = [agents.hippocampus.submit("other") for _ in range(2)]
        with pytest.raises(QueueFullError, match="hippocampus: 1 requests wait"):
            await agents.coordinator.ingest([])
        closing = asyncio.create_task(agents.coordinator.close())
        await asyncio.sleep(0)
        with pytest.raises(ClosedError, match="the coordinator is closed"):
            await agents.coordinator.ingest([])
        await asyncio.gather(closing, *others)

    in_virtual_time(scenario)


def test_closing_lets_an_ingest_finish(in_virtual_time):
    async def scenario():
        agents = Agents()
        ingesting = asyncio.create_task(agents.coordinator.ingest([]))
        await asyncio.sleep(1)
        await agents.coordinator.close()
        assert await ingesting is None

    in_virtual_time(scenario)


def test_waiting_for_other_questions_is_no_overhead(in_virtual_time):
    async def scenario():
        coordinator = Agents().coordinator
        first, second = await asyncio.gather(coordinator.ask("first"), coordinator.ask("second"))
        assert (first.trace.wall, second.trace.wall) == (30, 50)
        waits = {name: each.queue_wait for name, each in second.trace.agents.items()}
        assert waits == {"hippocampus": 10, "amygdala": 5, "prefrontal_cortex": 10}
        assert second.trace.coordination_overhead == 0

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    ("problem", "degraded", "waited"),
    [
        (DataError("no mood"), "amygdala gave nothing: DataError: no mood", 30),
        (ZeroDivisionError("a defect"), "amygdala gave nothing: ZeroDivisionError: a defect", 30),
        (
            "hangs",
            "amygdala gave nothing: AgentTimeoutError: amygdala: it worked on the request when timeout = 60",
            80,
        ),
    ],
)
def test_what_amygdala_cannot_give_is_left_out_and_named(in_virtual_time, problem, degraded, waited):
    async def scenario():
        agents = Agents(timeout=60, amygdala=problem)
        response = await agents.coordinator.ask("why?")
        assert (response.answer, response.retrieval, response.emotion) == ("because", FOUND, None)
        assert response.degraded.startswith(degraded)
        assert agents.asked[-1][2] == Evidence("why?", (HIT,), None, 0.5)
        assert response.trace.wall == waited
        assert response.trace.coordination_overhead == 0

    in_virtual_time(scenario)


class FalsyError(Exception):
    """An error that is false, and cannot say what it is."""

    def __bool__(self):
        return False

    def __str__(self):
        raise ValueError("no words for it")


@pytest.mark.parametrize("name", ["hippocampus", "prefrontal_cortex"])
def test_an_error_that_is_false_is_an_error_still(in_virtual_time, name):
    async def scenario():
        with pytest.raises(FalsyError):
            await Agents(**{name: FalsyError()}).coordinator.ask("why?")

    in_virtual_time(scenario)


def test_an_error_of_amygdala_that_cannot_say_what_it_is_is_named(in_virtual_time):
    async def scenario():
        response = await Agents(amygdala=FalsyError()).coordinator.ask("why?")
        assert (response.answer, response.emotion) == ("because", None)
        assert response.degraded == "amygdala gave nothing: FalsyError"

    in_virtual_time(scenario)


def test_a_response_names_the_stages_that_the_retrieval_went_without_and_the_emotion(in_virtual_time):
    async def scenario():
        agents = Agents(hippocampus=retrieval("failed", None, "took too long"))
        response = await agents.coordinator.ask("why?")
        assert response.degraded == "stage 0: failed; stage 2: took too long"
        agents = Agents(hippocampus=retrieval("failed"), amygdala=DataError("no mood"))
        response = await agents.coordinator.ask("why?")
        assert response.degraded == "stage 0: failed; amygdala gave nothing: DataError: no mood"

    in_virtual_time(scenario)


@pytest.mark.parametrize("question", ["", " \n", "\x00\x1b", None, 7, b"why?", ["why?"], "a" * 2**20])
def test_what_is_no_question_is_refused_before_any_agent_sees_it(in_virtual_time, question):
    async def scenario():
        agents = Agents()
        with pytest.raises(DataError, match="the question"):
            await agents.coordinator.ask(question)
        assert all(stats.admitted == 0 for stats in agents.coordinator.stats().values())

    in_virtual_time(scenario)


def test_agents_get_a_question_without_what_cannot_be_sent_or_printed(in_virtual_time):
    async def scenario():
        agents = Agents()
        await agents.coordinator.ask("\x00why\ud83d?\x1b")
        asked = [getattr(request, "query", request) for _, _, request in agents.asked]
        assert asked == ["why\ufffd?"] * 3

    in_virtual_time(scenario)


def test_of_5000_questions_at_four_times_the_capacity_those_that_have_no_place_are_refused_at_once(
    in_virtual_time,
):
    outcomes, refusals = Counter(), set()

    async def ask(agents):
        begun = agents.clock()
        try:
            await agents.coordinator.ask("why?")
        except QueueFullError as error:
            assert agents.clock() == begun
            refusals.add(str(error))
            outcomes["refused"] += 1
        else:
            assert agents.clock() - begun <= 4 * 20  # three before it in reasoning, which takes the longest
            outcomes["answered"] += 1

    async def scenario():
        agents = Agents(queue=2)
        async with asyncio.TaskGroup() as asking:
            for _ in range(5000):
                asking.create_task(ask(agents))
                await asyncio.sleep(5)
        return agents.coordinator.stats()

    stats = in_virtual_time(scenario)
    assert outcomes.total() == 5000
    assert outcomes["answered"] == pytest.approx(5000 / 4, abs=3)
    (refusal,) = refusals
    assert (
        "3 questions are under way, prefrontal_cortex has max_concurrent = 1 and queue_size = 2;" in refusal
    )
    for each in stats.values():
        assert (each.served, each.rejected, each.running) == (outcomes["answered"], 0, 0)


def test_a_refusal_lets_nothing_else_go_first(in_virtual_time):
    async def scenario():
        coordinator = Agents(queue=2).coordinator
        admitted = [asyncio.create_task(coordinator.ask("why?")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            coordinator.ask("why?").send(None)  # until it awaits
        await asyncio.gather(*admitted)

    in_virtual_time(scenario)


def test_an_answer_comes_without_emotion_while_amygdala_is_full(in_virtual_time):
    async def scenario():
        agents = Agents(queue=1)
        others = [agents.amygdala.submit("other") for _ in range(2)]
        response = await agents.coordinator.ask("why?")
        assert (response.answer, response.emotion, response.trace.amygdala) == ("because", None, None)
        assert response.degraded.startswith(
            "amygdala gave nothing: QueueFullError: amygdala: 1 requests wait"
        )
        assert response.trace.hop_latency == {"hippocampus": 0, "prefrontal_cortex": 0}
        assert await asyncio.gather(*others) == ["calm", "calm"]

    in_virtual_time(scenario)


@pytest.mark.parametrize("name", ["hippocampus", "prefrontal_cortex"])
@pytest.mark.parametrize(
    ("problem", "error"), [(DataError("the query is empty"), DataError), ("hangs", AgentTimeoutError)]
)
def test_an_error_of_memory_or_reasoning_goes_up_and_nothing_goes_on(in_virtual_time, name, problem, error):
    async def scenario():
        agents = Agents(timeout=60, **{name: problem})
        with pytest.raises(error):
            await agents.coordinator.ask("why?")
        await asyncio.sleep(1)
        assert all(stats.running == stats.waiting == 0 for stats in agents.coordinator.stats().values())

    in_virtual_time(scenario)


@pytest.mark.parametrize("name", ["hippocampus", "prefrontal_cortex"])
def test_a_full_agent_refuses_the_question(in_virtual_time, name):
    async def scenario():
        agents = Agents(queue=1)
        agent = getattr(agents, name)
        others = [agent.submit("other") for _ in range(2)]
        with pytest.raises(QueueFullError, match=f"{name}: 1 requests wait"):
            await agents.coordinator.ask("why?")
        await asyncio.gather(*others)
        await asyncio.sleep(1)
        assert all(stats.running == stats.waiting == 0 for stats in agents.coordinator.stats().values())
        assert {request for _, _, request in agents.asked} == {"other"}, "no agent worked for nothing"

    in_virtual_time(scenario)


def test_nothing_is_searched_for_while_reasoning_has_lost_its_slots():
    gate, searched, reasoned = threading.Event(), [], []

    def search(_):
        searched.append(1)
        return FOUND

    def reason(_):
        reasoned.append(1)
        gate.wait(20)
        return "because"

    async def scenario():
        plenty = AgentConfig(max_concurrent=2, queue_size=9, timeout=60.0)
        one = AgentConfig(max_concurrent=1, queue_size=9, timeout=60.0)
        reasoning = Agent("prefrontal_cortex", one, InThreads(one_by_one(reason), "reasoning"))
        async with Coordinator(
            Agent("hippocampus", plenty, InThreads(one_by_one(search), "memory")),
            Agent("amygdala", plenty, InThreads(one_by_one(len), "amygdala")),
            reasoning,
        ) as coordinator:
            for lost in (1, 2):
                asking = asyncio.create_task(coordinator.ask("why?"))
                async with asyncio.timeout(20):
                    while len(reasoned) < lost:
                        await asyncio.sleep(0.001)
                asking.cancel()
                await asyncio.wait([asking])
                assert reasoning.stats().abandoned == lost
            with pytest.raises(QueueFullError, match="2 pieces of work were given up and do not end"):
                await coordinator.ask("why?")
            assert len(searched) == 2
            assert reasoning.stats().rejected == 1
            gate.set()

    asyncio.run(scenario())


def test_emotion_is_not_waited_for_once_memory_has_failed(in_virtual_time):
    async def scenario():
        agents = Agents(timeout=60, hippocampus=DataError("unreadable"), amygdala="hangs")
        with pytest.raises(DataError):
            await agents.coordinator.ask("why?")
        assert agents.clock() == 10
        await asyncio.sleep(1)
        assert (agents.amygdala.stats().cancelled, agents.amygdala.stats().running) == (1, 0)

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    ("after", "cancelled"),
    [
        (1, {"hippocampus": 1, "amygdala": 1, "prefrontal_cortex": 0}),
        (7, {"hippocampus": 1, "amygdala": 0, "prefrontal_cortex": 0}),
        (15, {"hippocampus": 0, "amygdala": 0, "prefrontal_cortex": 1}),
    ],
)
def test_cancelling_a_question_frees_what_works_on_it(in_virtual_time, after, cancelled):
    async def scenario():
        agents = Agents()
        asking = asyncio.create_task(agents.coordinator.ask("why?"))
        await asyncio.sleep(after)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert {name: stats.cancelled for name, stats in agents.coordinator.stats().items()} == cancelled
        await asyncio.sleep(1)
        assert all(stats.running == stats.abandoned == 0 for stats in agents.coordinator.stats().values())
        assert (await agents.coordinator.ask("again")).trace.wall == 30
        await agents.coordinator.close()

    in_virtual_time(scenario)


def test_closing_lets_questions_finish_and_refuses_new_ones(in_virtual_time):
    async def scenario():
        agents = Agents()
        async with agents.coordinator as coordinator:
            asking = [asyncio.create_task(coordinator.ask(text)) for text in ("first", "second")]
            await asyncio.sleep(1)
            closing = asyncio.create_task(coordinator.close())
            await asyncio.sleep(0)
            with pytest.raises(ClosedError, match="the coordinator is closed"):
                await coordinator.ask("too late")
            await closing
            assert [(await each).answer for each in asking] == ["because", "because"]
        with pytest.raises(ClosedError, match="hippocampus is closed"):
            agents.hippocampus.submit(Search("later"))

    in_virtual_time(scenario)


@pytest.mark.parametrize("while_", ["a question is under way", "an agent's work does not end"])
def test_a_cancelled_close_of_the_coordinator_leaves_no_thread_behind(while_):
    gate, begun = threading.Event(), threading.Event()

    def wait(_):
        begun.set()
        gate.wait(20)
        return FOUND

    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("closing-")]

    async def scenario():
        limits = AgentConfig(max_concurrent=1, queue_size=1, timeout=60.0)
        agents = [
            Agent(name, limits, InThreads(one_by_one(wait), "closing"))
            for name in ("hippocampus", "amygdala", "prefrontal_cortex")
        ]
        coordinator = Coordinator(*agents)
        if while_ == "a question is under way":
            asking = asyncio.create_task(coordinator.ask("why?"))
        else:
            asking = asyncio.ensure_future(agents[2].submit("another's"))
        await asyncio.to_thread(begun.wait, 20)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await coordinator.close()
        gate.set()
        await asyncio.wait([asking])
        for agent in agents:
            with pytest.raises(ClosedError):
                agent.submit("too late")
        async with asyncio.timeout(20):
            while threads():
                await asyncio.sleep(0.001)

    asyncio.run(scenario())


# --- a real engine, in real threads --------------------------------------------------------------------


@pytest.fixture
def engine():
    config = EngineConfig.model_validate(
        {"embedding": {"kind": "hashing", "dimension": 64}, "index": {"kind": "IndexFlat"}}
    )
    with Engine.open(config) as engine:
        yield engine


def test_the_hippocampus_ingests_and_searches_an_engine(engine):
    async def scenario():
        async with open_hippocampus(engine, AgentsConfig().hippocampus) as agent:
            documents = [Document("sea", "the sea is salt", {"n": 1}), Document("sky", "the sky is blue")]
            assert await agent.submit(Ingest(documents)) is None
            found = await agent.submit(Search("the sea is salt", k=1))
            assert [hit.id for hit in found.hits] == ["sea"]
            found = await agent.submit(Search("the sky is blue", 2, {"n": 1}))
            assert [hit.id for hit in found.hits] == ["sea"]
            outcomes = await asyncio.gather(
                agent.submit(Search(" ")),
                agent.submit(Ingest([Document("", "no id")])),
                agent.submit(Search("the sky is blue", k=1)),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in outcomes] == [DataError, DataError, Retrieval]

    asyncio.run(scenario())


def test_the_thread_that_searched_goes_on_to_reason(engine, monkeypatch):
    names = {"search": [], "reason": []}
    retrieve, answer_batch = Engine.retrieve, PrefrontalCortex.answer_batch

    def noted_retrieve(self, *arguments):
        found = retrieve(self, *arguments)
        while not emotions.done():
            time.sleep(0.001)
        names["search"].append(threading.current_thread().name)
        return found

    def noted_answer(self, batch):
        names["reason"].append(threading.current_thread().name)
        return answer_batch(self, batch)

    monkeypatch.setattr(Engine, "retrieve", noted_retrieve)
    monkeypatch.setattr(PrefrontalCortex, "answer_batch", noted_answer)
    engine.ingest([Document("sea", "The sea is salt.")])

    async def scenario():
        nonlocal emotions
        async with engine.coordinator() as coordinator:
            amygdala = coordinator._amygdala
            submit = amygdala.submit

            def noted_submit(query):
                nonlocal emotions
                emotions = submit(query)
                return emotions

            monkeypatch.setattr(amygdala, "submit", noted_submit)
            for _ in range(3):
                await coordinator.ask("Is the sea salt?")

    emotions = None
    asyncio.run(scenario())
    assert len(names["search"]) == 3
    assert names["search"] == names["reason"]


def test_what_a_coordinator_ingests_is_there_to_answer_from(engine):
    async def scenario():
        async with engine.coordinator() as coordinator:
            await coordinator.ingest([Document("sea", "The sea is salt.")])
            assert (await coordinator.ask("Is the sea salt?")).answer.citations == ("sea",)
            with pytest.raises(DataError, match="id and text must not be empty"):
                await coordinator.ingest([Document("", "no id")])

    asyncio.run(scenario())


def test_a_question_goes_its_way_while_the_event_loop_is_held_up(engine):
    engine.ingest([Document("sea", "The sea is salt.")])
    reasoned = threading.Event()

    def reason(evidence):
        reasoned.set()
        return evidence.hits[0].id

    async def scenario():
        limits = AgentsConfig()
        agents = (
            open_hippocampus(engine, limits.hippocampus),
            Agent("amygdala", limits.amygdala, InThreads(one_by_one(len), "amygdala")),
            Agent("prefrontal_cortex", limits.prefrontal_cortex, InThreads(one_by_one(reason), "reasoning")),
        )
        async with Coordinator(*agents) as coordinator:
            asking = asyncio.create_task(coordinator.ask("the sea is salt", k=1))
            await asyncio.sleep(0)
            assert reasoned.wait(20)
            assert (await asking).answer == "sea"

    asyncio.run(scenario())


def test_a_question_goes_through_three_agents_in_threads(engine):
    engine.ingest([Document("sea", "the sea is salt"), Document("sky", "the sky is blue")])
    names = []

    def feel(query):
        names.append(threading.current_thread().name)
        return len(query)

    def reason(evidence):
        names.append(threading.current_thread().name)
        return f"{evidence.hits[0].text}, said with {evidence.emotion}"

    async def scenario():
        limits = AgentsConfig()
        agents = (
            open_hippocampus(engine, limits.hippocampus),
            Agent("amygdala", limits.amygdala, InThreads(one_by_one(feel), "amygdala")),
            Agent("prefrontal_cortex", limits.prefrontal_cortex, InThreads(one_by_one(reason), "reasoning")),
        )
        async with Coordinator(*agents) as coordinator:
            responses = await asyncio.gather(*(coordinator.ask("the sky is blue", k=1) for _ in range(20)))
        for response in responses:
            assert response.answer == "the sky is blue, said with 15"
            assert 0 <= response.trace.coordination_overhead < 1
            assert min(response.trace.hop_latency.values()) >= 0

    asyncio.run(scenario())
    assert {name.rpartition("-")[0] for name in names} == {"amygdala", "reasoning"}


def test_memory_alone_searches_reads_and_forgets(in_virtual_time):
    async def scenario():
        agents = Agents()
        assert await agents.coordinator.search("why?", k=3, where={"lang": "en"}) == FOUND
        await agents.coordinator.get("sea")
        await agents.coordinator.delete(["sea", "sky"])
        wishes = [Search("why?", 3, {"lang": "en"}), Get("sea"), Delete(["sea", "sky"])]
        assert agents.asked == [(10 * n, "hippocampus", wish) for n, wish in enumerate(wishes)]
        await agents.coordinator.close()
        for refused in (
            agents.coordinator.search("why?"),
            agents.coordinator.get("sea"),
            agents.coordinator.delete([]),
        ):
            with pytest.raises(ClosedError):
                await refused

    in_virtual_time(scenario)


def test_a_search_is_refused_where_memory_is_full_and_leaves_its_place_when_cancelled(in_virtual_time):
    async def scenario():
        agents = Agents(queue=1)
        first, second = (asyncio.create_task(agents.coordinator.search("why?")) for _ in range(2))
        await asyncio.sleep(1)
        with pytest.raises(QueueFullError):
            await agents.coordinator.search("why?")
        second.cancel()
        await asyncio.sleep(1)
        assert agents.hippocampus.stats().cancelled == 1
        assert await agents.coordinator.search("why?") == await first == FOUND

    in_virtual_time(scenario)


def test_an_engine_is_searched_read_and_rid_of_documents_through_its_coordinator():
    async def scenario(engine):
        async with engine.coordinator() as coordinator:
            await coordinator.ingest([Document("sea", "the sea is salt", {"deep": True})])
            assert [hit.id for hit in (await coordinator.search("salt", k=1)).hits] == ["sea"]
            assert await coordinator.get("sea") == Document("sea", "the sea is salt", {"deep": True})
            assert await coordinator.delete(["sea", "sky"]) == 1
            assert await coordinator.get("sea") is None
            with pytest.raises(DataError):
                await coordinator.search("", k=1)

    config = {"embedding": {"kind": "hashing", "dimension": 64}, "index": {"kind": "IndexFlat"}}
    with Engine.open(EngineConfig.model_validate(config)) as engine:
        asyncio.run(scenario(engine))


def test_the_times_of_a_call_are_there_as_soon_as_it_is_done(monkeypatch):
    """Who adds a callback to a call that is done has it run at once, maybe before the agent's own."""
    reached, go_on = threading.Event(), threading.Event()
    invoke = Call._invoke_callbacks

    def late(call):
        reached.set()
        assert go_on.wait(20)
        invoke(call)

    async def scenario():
        config = AgentConfig(max_concurrent=1, queue_size=1, timeout=20)
        async with Agent("agent", config, InThreads(one_by_one(str), "agent")) as agent:
            monkeypatch.setattr(Call, "_invoke_callbacks", late)
            call = agent.submit(1)
            assert reached.wait(20)
            assert call.result(0) == "1"
            assert call.times.service_time >= 0
            go_on.set()
            assert await call == "1"

    asyncio.run(scenario())
