"""Agents under load, mostly in virtual time: the bounds hold whatever is asked."""

import asyncio
import gc
import time
import weakref
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.agents import Agent, AgentConfig, InThreads, OnLoop
from brein.errors import AgentError, AgentTimeoutError, QueueFullError


def limits(slots=1, queue=10, timeout=60.0, batch=1):
    return AgentConfig(max_concurrent=slots, queue_size=queue, timeout=timeout, batch_size=batch)


def sleeper(slots=1, queue=10, timeout=60.0, batch=1):
    """An agent whose requests say how many seconds the work on them takes."""

    async def work(batch):
        await asyncio.sleep(max(batch.requests))
        return batch.requests

    clock = asyncio.get_running_loop().time
    return Agent("amygdala", limits(slots, queue, timeout, batch), OnLoop(work), clock)


def test_times_and_utilisation_are_those_of_the_clock(in_virtual_time):
    async def scenario():
        async with sleeper(slots=2) as agent:
            calls = [agent.submit(seconds) for seconds in (3.0, 1.0, 4.0)]
            await asyncio.sleep(4)  # one slot worked for three seconds, the other for four
            assert agent.stats().utilisation == pytest.approx(7 / 8)
            await asyncio.gather(*calls)
            await asyncio.sleep(3)
            assert agent.stats().utilisation == pytest.approx(8 / 16)
            assert [call.times.queue_wait for call in calls] == pytest.approx([0, 0, 1])
            assert [call.times.service_time for call in calls] == pytest.approx([3, 1, 4])

    in_virtual_time(scenario)


def test_a_request_that_runs_out_of_time_in_the_queue_never_runs(in_virtual_time):
    async def scenario():
        async with sleeper(timeout=2) as agent:
            calls = [agent.submit(50.0), agent.submit(1.0)]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert "it worked on the request when timeout = 2 s was over" in str(outcomes[0])
            assert "the request waited when timeout = 2 s was over" in str(outcomes[1])
            assert (calls[1].times.taken, calls[1].times.queue_wait) == (None, 2)
            assert agent.stats().timed_out == 2
            assert await agent.submit(1.0) == 1.0

    in_virtual_time(scenario)


def test_a_slot_that_is_given_up_is_busy_no_longer(in_virtual_time):
    async def scenario():
        async with sleeper(timeout=2) as agent:
            with pytest.raises(AgentTimeoutError):
                await agent.submit(50.0)
            await asyncio.sleep(2)
            assert agent.stats().busy == pytest.approx(2)
            assert agent.stats().utilisation == pytest.approx(0.5)

    in_virtual_time(scenario)


def test_work_knows_how_long_its_answer_is_waited_for(in_virtual_time):
    remaining = []

    async def work(batch):
        remaining.append(batch.remaining())
        await asyncio.sleep(4)
        remaining.append(batch.remaining())
        return batch.requests

    async def scenario():
        clock = asyncio.get_running_loop().time
        async with Agent("amygdala", limits(timeout=10, batch=2), OnLoop(work), clock) as agent:
            first = agent.submit("first")
            await asyncio.sleep(1)
            await asyncio.gather(first, agent.submit("second"))

    in_virtual_time(scenario)
    assert remaining == pytest.approx([10, 6, 7, 3])


def test_work_that_is_cancelled_from_within_fails_its_request(in_virtual_time):
    async def work(batch):
        raise asyncio.CancelledError

    async def scenario():
        async with Agent("amygdala", limits(), OnLoop(work)) as agent:
            with pytest.raises(AgentError, match="amygdala: its work was cancelled"):
                await agent.submit("request")

    in_virtual_time(scenario)


def outcome(call):
    if call.cancelled():
        return "cancelled"
    error = call.exception()
    if error is None:
        return "served"
    return "timed_out" if isinstance(error, AgentTimeoutError) else "failed"


def test_of_5000_requests_at_four_times_the_capacity_each_has_one_outcome(in_virtual_time):
    outcomes, alive = Counter(), weakref.WeakSet()

    async def ask(agent, seconds):
        now = asyncio.get_running_loop().time
        begun = now()
        try:
            call = agent.submit(seconds)
        except QueueFullError:
            assert now() == begun
            outcomes["rejected"] += 1
            return
        alive.add(call)
        with suppress(AgentTimeoutError):
            await call
        assert call.times.ended - call.times.admitted <= 0.5 + 1e-9
        outcomes[outcome(call)] += 1

    async def scenario():
        agent = sleeper(slots=4, queue=50, timeout=0.5)  # serves 200 requests in a second
        async with agent, asyncio.TaskGroup() as asking:
            for n in range(5000):
                asking.create_task(ask(agent, 0.02 if n % 50 else 10.0))
                await asyncio.sleep(1 / 800)
                if n % 1000 == 999:
                    gc.collect()
                    assert len(alive) <= 4 + 50
        return agent.stats()

    stats = in_virtual_time(scenario)
    assert outcomes.total() == 5000
    assert outcomes == Counter({name: getattr(stats, name) for name in ("rejected", "served", "timed_out")})
    assert min(outcomes.values()) > 10
    assert (stats.most_waiting, stats.waiting, stats.running, stats.abandoned) == (50, 0, 0, 0)
    assert stats.utilisation > 0.95
    gc.collect()
    assert len(alive) == 0


def test_5000_requests_to_threads_have_one_outcome_each():
    def work(batch):
        time.sleep(0.001)
        return batch.requests

    outcomes = []

    async def scenario():
        async with Agent("amygdala", limits(slots=4, queue=20), InThreads(work, "worker")) as agent:
            for asked in range(5000):
                try:
                    agent.submit(asked).add_done_callback(lambda call: outcomes.append(call.result()))
                except QueueFullError:
                    outcomes.append("rejected")
                if asked % 16 == 15:  # 16 in a millisecond, in which the slots can serve four
                    await asyncio.sleep(0.001)
        return agent.stats()

    stats = asyncio.run(scenario())
    assert len(outcomes) == 5000 == stats.admitted + stats.rejected
    assert stats.admitted == stats.served == len(set(outcomes) - {"rejected"})
    assert outcomes.count("rejected") == stats.rejected > 0
    assert stats.most_waiting == 20


milliseconds = st.integers(0, 60)
asked = st.fixed_dictionaries(
    {
        "after": milliseconds,  # the one before
        "takes": milliseconds,
        "patience": st.none() | milliseconds,  # of the caller
        "stubborn": st.booleans(),  # whether its work does not heed cancellation, as a thread's
        "fails": st.booleans(),
    }
)
configs = st.builds(
    limits,
    slots=st.integers(1, 3),
    queue=st.integers(1, 4),
    batch=st.integers(1, 3),
    timeout=st.integers(10, 120).map(lambda ms: ms / 1000),
)


@given(requests=st.lists(asked, min_size=1, max_size=25), config=configs)
def test_whatever_is_asked_each_request_has_one_outcome_and_the_bounds_hold(
    in_virtual_time, requests, config
):
    ran, calls = [], {}

    async def work(batch):
        ran.extend(batch.requests)
        loop = asyncio.get_running_loop()
        wanted = [requests[n] for n in batch.requests]
        end = loop.time() + max(request["takes"] for request in wanted) / 1000
        while (left := end - loop.time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                if not any(request["stubborn"] for request in wanted):
                    raise
        return [ValueError(n) if requests[n]["fails"] else n for n in batch.requests]

    async def scenario():
        loop = asyncio.get_running_loop()
        agent = Agent("amygdala", config, OnLoop(work), loop.time)
        for n, request in enumerate(requests):
            await asyncio.sleep(request["after"] / 1000)
            for _ in range(5):
                await asyncio.sleep(0)  # what happens at this very moment has happened
            stats = agent.stats()
            check_bounds(stats, config)
            try:
                calls[n] = agent.submit(n)
            except QueueFullError:
                assert stats.waiting == config.queue_size or not stats.running
            else:
                if request["patience"] is not None:
                    loop.call_later(request["patience"] / 1000, calls[n].cancel)
        await agent.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return agent.stats()

    stats = in_virtual_time(scenario)
    for n, call in calls.items():
        check_outcome(n, call, requests[n], config)
    outcomes = Counter(map(outcome, calls.values()))
    assert outcomes == Counter({name: getattr(stats, name) for name in OUTCOMES})
    assert (stats.admitted, stats.rejected) == (len(calls), len(requests) - len(calls))
    assert (stats.waiting, stats.running, stats.abandoned) == (0, 0, 0)
    assert ran == sorted(set(ran)), "a request ran twice or out of turn"
    assert {n for n, call in calls.items() if call.times.taken is None}.isdisjoint(ran)


OUTCOMES = ("served", "failed", "timed_out", "cancelled")


def check_bounds(stats, config):
    slots = config.max_concurrent
    assert stats.waiting <= config.queue_size
    assert stats.running <= slots
    assert stats.running + stats.abandoned <= 2 * slots
    if stats.waiting:
        assert stats.running == slots or stats.running + stats.abandoned == 2 * slots, "a slot idles"


def check_outcome(n, call, request, config):
    waited = call.times.ended - call.times.admitted
    assert waited <= config.timeout + 1e-6
    match outcome(call):
        case "served":
            assert call.result() == n
        case "failed":
            assert request["fails"]
            assert call.exception().args == (n,)
        case "timed_out":
            assert waited == pytest.approx(config.timeout, abs=1e-6)
        case "cancelled":
            assert waited == pytest.approx(request["patience"] / 1000, abs=1e-6)
