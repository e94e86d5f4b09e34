"""An agent admits or refuses at once, gives every request one outcome, and frees what nobody waits for."""

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import CancelledError, wait
from functools import wraps

import numpy as np
import pytest

from brein.agents import Agent, AgentConfig, InThreads, OnLoop, Threads, one_by_one
from brein.errors import AgentError, AgentTimeoutError, ClosedError, DataError, QueueFullError


def asynchronous(test):
    @wraps(test)
    def run(**fixtures):
        asyncio.run(test(**fixtures))

    return run


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def limits(slots=1, queue=10, timeout=60.0, batch=1):
    return AgentConfig(max_concurrent=slots, queue_size=queue, timeout=timeout, batch_size=batch)


class Work:
    """Does what requests say: "wait…" waits for the gate, "fail…" fails, the others are answered at once."""

    def __init__(self, kind):
        self.kind = kind
        self.gate = threading.Event()
        self.begun = []  # the requests of each batch
        self.batches = []

    def agent(self, **bounds):
        worker = InThreads(self.in_thread, "worker") if self.kind == "threads" else OnLoop(self.on_loop)
        return Agent("amygdala", limits(**bounds), worker)

    def in_thread(self, batch):
        if self.begins(batch):
            self.gate.wait(20)
        return self.outcomes(batch)

    async def on_loop(self, batch):
        if self.begins(batch):
            await until(self.gate.is_set)
        return self.outcomes(batch)

    def begins(self, batch):
        self.batches.append(batch)
        self.begun.append(list(batch.requests))
        return any(request.startswith("wait") for request in batch.requests)

    def outcomes(self, batch):
        outcomes = {"wrong": None, "several": ["a", "b"], "stop": StopIteration()}
        if batch.requests[0] == "raise":
            raise DataError("nothing of this can be read")
        if batch.requests[0] in ("wrong", "several"):
            return outcomes[batch.requests[0]]
        return [
            DataError(f"{request} cannot be read")
            if request.startswith("fail")
            else outcomes.get(request, f"{request} answered")
            for request in batch.requests
        ]

    def threads(self):
        return [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


@pytest.fixture(params=["threads", "loop"])
def work(request):
    made = Work(request.param)
    yield made
    made.gate.set()


@pytest.fixture
def in_threads():
    made = Work("threads")
    yield made
    made.gate.set()


# --- every kind of worker -----------------------------------------------------------------------------


@asynchronous
async def test_requests_are_answered_and_say_when_what_happened(work):
    async with work.agent(slots=2) as agent:
        calls = [agent.submit(f"r{n}") for n in range(5)]
        assert await asyncio.gather(*calls) == [f"r{n} answered" for n in range(5)]
    for call in calls:
        times = call.times
        assert times.admitted <= times.taken <= times.started <= times.ended
        assert times.queue_wait == times.taken - times.admitted
        assert times.service_time == times.ended - times.started
    assert agent.stats().served == agent.stats().admitted == 5


@asynchronous
async def test_no_more_than_the_slots_work_at_once_and_the_others_wait_in_order(work):
    async with work.agent(slots=2) as agent:
        calls = [agent.submit(f"wait{n}") for n in range(5)]
        await until(lambda: len(work.begun) == 2)
        stats = agent.stats()
        assert (stats.running, stats.waiting, stats.most_waiting) == (2, 3, 3)
        work.gate.set()
        await asyncio.gather(*calls)
    assert sorted(work.begun[:2]) == [["wait0"], ["wait1"]]
    assert sorted(work.begun[2:]) == [["wait2"], ["wait3"], ["wait4"]]
    taken = [call.times.taken for call in calls]
    assert taken == sorted(taken)
    assert (agent.stats().running, agent.stats().waiting, agent.stats().most_waiting) == (0, 0, 3)


@asynchronous
async def test_a_free_slot_takes_as_many_of_those_that_wait_as_a_batch_holds(work):
    async with work.agent(batch=3) as agent:
        calls = [agent.submit(request) for request in ("wait", "b", "c", "d", "e", "f")]
        await until(lambda: work.begun)
        work.gate.set()
        assert await asyncio.gather(*calls) == [
            f"{request} answered" for request in ("wait", "b", "c", "d", "e", "f")
        ]
    assert work.begun == [["wait"], ["b", "c", "d"], ["e", "f"]]


@asynchronous
async def test_a_full_queue_refuses_at_once_and_keeps_what_it_admitted(work):
    async with work.agent(slots=1, queue=2) as agent:
        admitted = [agent.submit(f"wait{n}") for n in range(3)]
        with pytest.raises(QueueFullError, match="amygdala: 2 requests wait, queue_size = 2"):
            agent.submit("one more")
        assert (agent.stats().admitted, agent.stats().rejected, agent.stats().waiting) == (3, 1, 2)
        work.gate.set()
        assert await asyncio.gather(*admitted) == [f"wait{n} answered" for n in range(3)]
        assert await agent.submit("one more") == "one more answered"
    assert ["one more"] in work.begun


@asynchronous
async def test_one_failing_request_of_a_batch_fails_alone(work):
    async with work.agent(batch=3) as agent:
        first = agent.submit("wait")
        calls = [agent.submit(request) for request in ("b", "fail", "d")]
        work.gate.set()
        await first
        assert await calls[0] == "b answered"
        with pytest.raises(DataError, match="fail cannot be read"):
            await calls[1]
        assert await calls[2] == "d answered"
    assert (agent.stats().served, agent.stats().failed) == (3, 1)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ("raise", DataError, "nothing of this can be read"),
        ("wrong", AgentError, "amygdala: its work gave None for 1 requests"),
        ("several", AgentError, r"gave \['a', 'b'\] for 1 requests; .* an outcome for each"),
        ("stop", AgentError, "raised StopIteration"),
    ],
)
@asynchronous
async def test_work_that_goes_wrong_fails_its_requests_and_the_next_are_answered(
    work, request_, error, message
):
    async with work.agent() as agent:
        with pytest.raises(error, match=message):
            await agent.submit(request_)
        assert await agent.submit("sound") == "sound answered"
    assert (agent.stats().failed, agent.stats().served) == (1, 1)


@asynchronous
async def test_a_request_cancelled_while_it_waits_never_runs_and_its_place_is_free(work):
    async with work.agent(queue=1) as agent:
        first, second = agent.submit("wait"), agent.submit("cancelled")
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = agent.submit("third")
        work.gate.set()
        await asyncio.gather(first, third)
    assert work.begun == [["wait"], ["third"]]
    assert (second.times.taken, agent.stats().cancelled, agent.stats().served) == (None, 1, 2)


@asynchronous
async def test_cancelling_the_task_that_awaits_a_running_request_frees_its_slot(work):
    async with work.agent() as agent:

        async def ask():
            return await agent.submit("wait")

        asking = asyncio.create_task(ask())
        await until(lambda: work.begun)
        waiting = agent.submit("next")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await waiting == "next answered"  # the gate is closed still
        assert (agent.stats().cancelled, agent.stats().served) == (1, 1)
        assert work.batches[0].remaining() == 0
        work.gate.set()


@asynchronous
async def test_a_request_that_runs_out_of_time_gets_an_error_and_frees_its_slot(work):
    async with work.agent(timeout=1) as agent:
        hangs = agent.submit("wait")
        with pytest.raises(
            AgentTimeoutError, match="amygdala: it worked on the request when timeout = 1 s was over"
        ):
            await hangs
        assert await agent.submit("next") == "next answered"
        assert hangs.times.ended - hangs.times.admitted >= 1
        work.gate.set()
    assert (agent.stats().timed_out, agent.stats().served, agent.stats().abandoned) == (1, 1, 0)


@asynchronous
async def test_a_request_whose_time_is_over_when_it_is_admitted_gets_an_error_and_none_of_the_work(work):
    """The process was stopped for a while, say."""
    agent = work.agent(timeout=0.5)
    agent._clock = itertools.count().__next__
    with pytest.raises(AgentTimeoutError, match="the request waited"):
        await agent.submit("asked")
    stats = agent.stats()
    assert (stats.admitted, stats.timed_out, stats.waiting, stats.running) == (1, 1, 0, 0)
    assert work.begun == []
    assert not agent._in_hand
    await agent.close()


def test_a_request_is_given_up_while_its_event_loop_rests(work):
    with asyncio.Runner() as runner:

        async def asked():
            agent = work.agent()
            call = agent.submit("wait")
            await until(lambda: work.begun)
            return agent, call

        agent, call = runner.run(asked())
        call.cancel()
        stats = agent.stats()
        assert (stats.cancelled, stats.running, stats.abandoned) == (1, 0, 1)
        work.gate.set()
        runner.run(agent.close())
        assert agent.stats().abandoned == 0


class FalsyError(Exception):
    """An error that is false where it is asked for its truth."""

    def __bool__(self):
        return False


@asynchronous
async def test_an_error_that_is_false_is_an_error_still():
    async def fail(batch):
        raise FalsyError

    async with Agent("amygdala", limits(), OnLoop(fail)) as agent:
        with pytest.raises(FalsyError):
            await agent.submit("asked")


@asynchronous
async def test_a_batch_goes_on_for_those_who_still_wait(work):
    async with work.agent(batch=2) as agent:
        first = agent.submit("wait0")
        left, stays = agent.submit("wait1"), agent.submit("wait2")
        await until(lambda: work.begun)
        first.cancel()
        await until(lambda: len(work.begun) == 2)
        left.cancel()
        await asyncio.sleep(0.01)
        assert agent.stats().running == 1
        work.gate.set()
        assert await stays == "wait2 answered"
    assert (agent.stats().cancelled, agent.stats().served) == (2, 1)


@asynchronous
async def test_closing_lets_the_admitted_finish_refuses_others_and_leaves_nothing_behind(work):
    agent = work.agent(slots=2)
    calls = [agent.submit(f"wait{n}") for n in range(5)]
    closing = asyncio.create_task(agent.close())
    await asyncio.sleep(0)  # a task that is cancelled before it begins never does
    await until(lambda: len(work.begun) == 2)
    with pytest.raises(ClosedError, match="amygdala is closed"):
        agent.submit("too late")
    assert not closing.done()
    work.gate.set()
    assert await asyncio.gather(*calls) == [f"wait{n} answered" for n in range(5)]
    await closing
    await agent.close()
    assert (agent.stats().admitted, agent.stats().served, agent.stats().rejected) == (5, 5, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert work.threads() == []


@asynchronous
async def test_a_cancelled_close_refuses_others_lets_the_admitted_finish_and_leaves_nothing_behind(work):
    agent = work.agent(slots=2)
    calls = [agent.submit(f"wait{n}") for n in range(5)]
    closing = asyncio.create_task(agent.close())
    await asyncio.sleep(0)  # a task that is cancelled before it begins never does
    await until(lambda: len(work.begun) == 2)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(ClosedError, match="amygdala is closed"):
        agent.submit("too late")
    work.gate.set()
    assert await asyncio.gather(*calls) == [f"wait{n} answered" for n in range(5)]
    await until(lambda: not work.threads())
    assert asyncio.all_tasks() == {asyncio.current_task()}


# --- threads ------------------------------------------------------------------------------------------


@asynchronous
async def test_work_in_threads_leaves_the_event_loop_free(in_threads):
    async with in_threads.agent() as agent:
        call = agent.submit("wait")
        asyncio.get_running_loop().call_later(0.01, in_threads.gate.set)  # only a free loop opens the gate
        assert await call == "wait answered"


@asynchronous
async def test_threads_are_used_again(in_threads):
    async with in_threads.agent(slots=2) as agent:
        for n in range(20):
            assert await agent.submit(f"r{n}") == f"r{n} answered"
            assert len(in_threads.threads()) == 1


@pytest.fixture
def often_interrupted():
    """Threads are interrupted between any two instructions, so that what needs a lock shows it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@asynchronous
async def test_what_is_awaited_has_its_times_and_its_place_is_free_whoever_looks_meanwhile(
    in_threads, often_interrupted
):
    over = threading.Event()

    def look(agent):
        while not over.is_set():
            agent.stats()

    async with in_threads.agent() as agent:
        looking = [asyncio.create_task(asyncio.to_thread(look, agent)) for _ in range(2)]
        for n in range(100):
            call = agent.submit(f"r{n}")
            await call
            assert call.times.ended >= call.times.admitted
            assert agent.stats().running == agent.stats().waiting == 0
        over.set()
        await asyncio.gather(*looking)


@asynchronous
async def test_a_call_that_is_cancelled_while_it_waits_is_done_for_who_waits_in_a_thread(work):
    async with work.agent() as agent:
        first, second = agent.submit("wait"), agent.submit("cancelled")
        assert second.cancel()
        assert not second.cancel()
        assert wait([second], 5).done == {second}
        work.gate.set()
        await first


@asynchronous
async def test_work_that_is_cancelled_somewhere_else_does_not_cancel_who_asked(in_threads):
    def fail(batch):
        raise CancelledError

    async with Agent("amygdala", limits(), InThreads(fail, "worker")) as agent:
        with pytest.raises(AgentError, match="amygdala: its work was cancelled"):
            await agent.submit("asked")


@asynchronous
async def test_an_agent_that_is_closed_is_kept_alive_by_no_timer(work):
    agent = work.agent()
    assert await agent.submit("asked") == "asked answered"
    await agent.close()
    await asyncio.sleep(0)
    seen = weakref.ref(agent)
    del agent
    work.batches.clear()
    gc.collect()
    assert seen() is None


@asynchronous
async def test_a_callback_that_exits_ends_neither_the_thread_nor_what_comes_after(in_threads, caplog):
    async with in_threads.agent() as agent:
        agent.submit("first").add_done_callback(lambda _: sys.exit("of a callback"))
        assert await agent.submit("second") == "second answered"
        assert await agent.submit("third") == "third answered"
    assert "what was told of the end of work raised" in caplog.text


@asynchronous
async def test_requests_from_many_threads_have_one_outcome_each_and_the_bounds_hold(often_interrupted):
    def work(batch):
        time.sleep(0.04 if max(batch.requests) > 0.95 else 0.001)  # some twice as long as they may
        return batch.requests

    def ask(seed, agent, calls, refused):
        random = np.random.default_rng(seed)
        for _ in range(300):
            try:
                call = agent.submit(random.random())
            except QueueFullError:
                refused.append(1)
                time.sleep(0.001)
                continue
            calls.append(call)
            if random.random() < 0.3:
                call.cancel()
            elif random.random() < 0.3:
                wait([call])

    calls, refused = [], []
    config = limits(slots=3, queue=5, timeout=0.02, batch=2)
    async with Agent("amygdala", config, InThreads(work, "worker")) as agent:
        asking = [asyncio.to_thread(ask, seed, agent, calls, refused) for seed in range(6)]
        await asyncio.gather(*asking)
    stats = agent.stats()
    assert all(call.done() for call in calls)
    outcomes = Counter("cancelled" if call.cancelled() else type(call.exception()) for call in calls)
    assert outcomes == {
        "cancelled": stats.cancelled, type(None): stats.served, AgentTimeoutError: stats.timed_out
    }  # fmt: skip
    assert (stats.admitted, stats.rejected) == (len(calls), len(refused))
    assert (stats.waiting, stats.running, stats.abandoned) == (0, 0, 0)
    assert stats.most_waiting <= 5
    assert min(outcomes.values()) > 0


@asynchronous
async def test_work_begun_where_other_work_ends_goes_on_in_its_thread_without_the_event_loop():
    names, over = [], threading.Event()
    threads = Threads("shared")

    def work(batch):
        names.append(threading.current_thread().name)
        return batch.requests

    def agent():
        return Agent("amygdala", limits(), InThreads(work, "worker", threads))

    async with agent() as first, agent() as second:
        for _ in range(5):
            over.clear()
            first.submit("a").add_done_callback(
                lambda _: second.submit("b").add_done_callback(lambda _: over.set())
            )
            assert over.wait(20), "it waited for the event loop"
    assert set(names) == {"shared-0"}
    assert len(names) == 10


@asynchronous
async def test_an_agent_that_is_closed_leaves_those_that_share_its_threads_at_work():
    gate = threading.Event()
    threads = Threads("shared")

    def work(batch):
        gate.wait(20)
        return batch.requests

    other = Agent("amygdala", limits(), InThreads(work, "worker", threads))
    begun = other.submit("begun")
    async with Agent("amygdala", limits(), InThreads(work, "worker", threads)):
        pass
    gate.set()
    assert await begun == "begun"
    assert await other.submit("later") == "later"
    await until(lambda: not [thread for thread in threading.enumerate() if "shared-" in thread.name])
    await other.close()


@asynchronous
async def test_threads_that_hang_are_bounded_and_requests_are_served_again_when_they_end(in_threads):
    async with in_threads.agent(slots=2) as agent:
        for n in range(4):
            assert await agent.submit("meanwhile") == "meanwhile answered"
            hangs = agent.submit(f"wait{n}")
            await until(lambda: in_threads.begun[-1] != ["meanwhile"])
            hangs.cancel()
            await asyncio.sleep(0)
            assert agent.stats().abandoned == n + 1
        assert len(in_threads.threads()) == 4
        with pytest.raises(QueueFullError, match="amygdala: 4 pieces of work were given up and do not end"):
            agent.submit("there is no slot left")
        in_threads.gate.set()
        await until(lambda: agent.stats().abandoned == 0)
        assert await agent.submit("again") == "again answered"
        assert len(in_threads.threads()) == 4


@asynchronous
async def test_closing_does_not_wait_for_a_thread_that_hangs(in_threads):
    agent = in_threads.agent()
    hangs = agent.submit("wait")
    await until(lambda: in_threads.begun)
    hangs.cancel()
    await agent.close()
    assert agent.stats().abandoned == 1
    in_threads.gate.set()
    await until(lambda: not in_threads.threads())


def test_a_thread_whose_event_loop_is_gone_ends_with_its_work(in_threads):
    async def leave():
        in_threads.agent().submit("wait")
        await until(lambda: in_threads.begun)

    asyncio.run(leave())
    assert len(in_threads.threads()) == 1
    in_threads.gate.set()
    asyncio.run(until(lambda: not in_threads.threads()))


def test_a_thread_that_hangs_does_not_keep_the_process_from_ending():
    program = """
import asyncio, time
from brein.agents import Agent, AgentConfig, InThreads

async def main():
    config = AgentConfig(max_concurrent=1, queue_size=1, timeout=0.1)
    await Agent("amygdala", config, InThreads(lambda batch: time.sleep(600), "amygdala")).submit("hang")

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stderr.splitlines()[-1].startswith("brein.errors.AgentTimeoutError: amygdala: it worked")


@asynchronous
async def test_an_exit_inside_work_ends_neither_its_thread_nor_the_event_loop():
    def leave(batch):
        sys.exit(f"because of {batch.requests}")

    async with Agent("amygdala", limits(), InThreads(leave, "worker")) as agent:
        for _ in range(2):
            with pytest.raises(AgentError, match="worker: its work raised SystemExit"):
                await agent.submit("request")


@asynchronous
async def test_where_the_system_has_no_thread_left_the_request_fails_and_the_agent_goes_on(
    in_threads, monkeypatch
):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async with in_threads.agent() as agent:
        with monkeypatch.context() as system:
            system.setattr(threading.Thread, "start", refuse)
            with pytest.raises(AgentError, match="worker can have no thread: can't start new thread"):
                await agent.submit("a")
        assert await agent.submit("b") == "b answered"


@asynchronous
async def test_one_by_one_gives_each_its_outcome_while_it_works_on_the_next():
    gates = {request: threading.Event() for request in ("first", "c")}

    def serve(request):
        if request in gates:
            gates[request].wait(20)
        if request == "b":
            raise DataError("b")
        return request.upper()

    async with Agent("amygdala", limits(batch=4), InThreads(one_by_one(serve), "worker")) as agent:
        calls = [agent.submit(request) for request in ("first", "a", "b", "c", "d")]
        gates["first"].set()
        assert await asyncio.wait_for(calls[1], 5) == "A"
        with pytest.raises(DataError):
            await asyncio.wait_for(calls[2], 5)
        assert (agent.stats().running, agent.stats().abandoned, calls[3].done()) == (1, 0, False)
        gates["c"].set()
        assert await asyncio.gather(*calls[3:]) == ["C", "D"]
    assert (agent.stats().served, agent.stats().failed) == (4, 1)


@asynchronous
async def test_one_by_one_fails_one_alone_and_skips_what_nobody_waits_for():
    begun, gates = [], {request: threading.Event() for request in ("first", "second", "e")}

    def serve(request):
        begun.append(request)
        if request in gates:
            gates[request].wait(20)
        if request == "b":
            raise DataError("b")
        return request.upper()

    async with Agent("amygdala", limits(batch=3), InThreads(one_by_one(serve), "worker")) as agent:
        calls = [agent.submit(request) for request in ("first", "a", "b", "c")]
        gates["first"].set()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["FIRST", "A", "b", "C"]
        assert isinstance(outcomes[2], DataError)
        calls = [agent.submit(request) for request in ("second", "e", "f")]
        gates["second"].set()
        await until(lambda: begun[-1] == "e")
        for call in calls:
            call.cancel()
        await asyncio.sleep(0)
        gates["e"].set()
    assert begun == ["first", "a", "b", "c", "second", "e"]
