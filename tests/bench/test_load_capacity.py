import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_rows import queued, rows_of
from scipy.optimize import brentq
from stand_in import standing_in

from bench.arrivals import Closed, Constant, Poisson, drawn
from bench.load.capacity import Capacity, Objective, Probe, judged, search
from bench.load.locust import Job, run
from bench.load.requests import Cpu, summary

CPU = Cpu(generator=0.5, service=1.0, cores=2)
OBJECTIVE = Objective(p95=0.2, errors=0.001, recall=None)
CAPACITIES = st.floats(1, 9_000)


# --- the search, of a service that is as good as its capacity ------------------------------------


def oracle(capacity):
    def measure(rate):
        return Probe(rate, "met") if rate <= capacity else Probe(rate, "missed", "p95 is too long")

    return measure


def is_bracketed(found: Capacity, capacity) -> bool:
    return found.low <= capacity < found.high <= found.low * 1.02


@given(CAPACITIES)
def test_the_capacity_lies_between_two_rates_measured_twice(capacity):
    found = search(oracle(capacity), start=50, most=10_000)
    assert is_bracketed(found, capacity)
    assert (found.value, found.limit) == (found.low, "missed")
    rates = [probe.rate for probe in found.probes]
    assert rates.count(found.low) == rates.count(found.high) == 2
    assert len(rates) < 20


@given(CAPACITIES, st.integers(0, 25))
def test_one_wrong_measurement_does_not_change_the_answer(capacity, wrong):
    calls = iter(range(100))
    measure = oracle(capacity)

    def once_wrong(rate):
        probe = measure(rate)
        if next(calls) != wrong:
            return probe
        return Probe(rate, "met") if probe.verdict == "missed" else Probe(rate, "missed", "a stall")

    assert is_bracketed(search(once_wrong, start=50, most=10_000), capacity)


@given(CAPACITIES, st.integers(0, 9))
def test_a_search_among_random_verdicts_ends(capacity, seed):
    random = np.random.default_rng(seed)

    def moody(rate):
        chance = 1 / (1 + (rate / capacity) ** 8)
        return Probe(rate, "met" if random.random() < chance else "missed")

    found = search(moody, start=50, most=10_000)
    rates = [probe.rate for probe in found.probes]
    assert max(map(rates.count, rates)) <= 3
    assert len(rates) < 100


def test_the_precision_is_the_one_asked_for():
    found = search(oracle(777), start=50, most=10_000, precision=0.2)
    assert found.low <= 777 < found.high <= found.low * 1.2


def test_a_service_that_meets_the_objective_at_every_rate_allowed_has_no_capacity_found():
    found = search(oracle(math.inf), start=50, most=1000)
    assert (found.low, found.high, found.value, found.limit) == (1000, None, None, "highest rate")
    assert found.described == "at least 1000 requests/s: the highest rate that may be tried"
    assert [probe.rate for probe in found.probes] == [50, 100, 200, 400, 800, 1000, 1000]


def test_no_rate_above_the_highest_allowed_is_tried():
    assert {probe.rate for probe in search(oracle(math.inf), start=500, most=80).probes} == {80}


def test_a_service_that_misses_the_objective_at_any_rate_has_none_found():
    found = search(oracle(0.5), start=64, most=1000)
    assert (found.low, found.high, found.value) == (None, 1, None)
    assert found.described == "none found: at 1 requests/s, p95 is too long"


def test_a_rate_with_too_few_requests_to_judge_is_not_halved():
    def measure(rate):
        few = rate < 20
        return Probe(rate, "unsound", "few requests") if few else Probe(rate, "generator-limited", "late")

    found = search(measure, start=64, most=1000)
    assert [probe.rate for probe in found.probes] == [64, 64, 32, 32, 16, 16]
    assert (found.value, found.described) == (None, "none found: at 16 requests/s, few requests")


# --- the search, with a generator that has its own limit -----------------------------------------


def limited(generator, capacity):
    measure = oracle(capacity)

    def by_generator(rate):
        if rate > generator:
            return Probe(rate, "generator-limited", "generator-limited: too late")
        return measure(rate)

    return by_generator


@given(CAPACITIES, st.floats(0.05, 0.98))
def test_a_generator_that_gives_out_first_never_gives_a_capacity(capacity, share):
    found = search(limited(share * capacity, capacity), start=50, most=10_000)
    assert found.value is None
    assert found.limit == "generator-limited"
    if found.low is not None:
        assert found.low <= share * capacity
        assert found.described == f"at least {found.low:.4g} requests/s: generator-limited: too late"


@given(CAPACITIES, st.floats(1.05, 3))
def test_a_generator_that_gives_out_later_hides_no_capacity(capacity, share):
    found = search(limited(share * capacity, capacity), start=50, most=10_000)
    assert is_bracketed(found, capacity)
    assert found.value == found.low


@given(CAPACITIES, st.integers(0, 25), st.sampled_from(["generator-limited", "unsound"]))
def test_one_measurement_that_was_not_fit_does_not_change_the_answer(capacity, unfit, verdict):
    calls = iter(range(100))
    measure = oracle(capacity)

    def once_unfit(rate):
        return Probe(rate, verdict, "a stall") if next(calls) == unfit else measure(rate)

    found = search(once_unfit, start=50, most=10_000)
    assert is_bracketed(found, capacity)
    assert found.value == found.low


def test_a_rate_of_which_no_two_measurements_agree_is_not_held_against_the_service():
    verdicts = iter(["missed", "generator-limited", "met"])

    def measure(rate):
        return Probe(rate, "met") if rate <= 100 else Probe(rate, next(verdicts, "missed"), "late")

    found = search(measure, start=100, most=101)
    assert (found.low, found.high, found.value, found.limit) == (100, 101, None, "generator-limited")


# --- the verdict on a step -----------------------------------------------------------------------


def probed(*, service_time=0.02, late=0.0, status=200, recall=None, objective=OBJECTIVE, seconds=20):
    schedule = drawn(Constant(rate=100, seconds=seconds, warm_up=0), 0)
    (result,) = summary(rows_of(schedule, service_time, late, status), schedule)
    return judged(result, objective, recall, CPU)


def test_a_step_that_keeps_everything_meets_the_objective():
    kept = np.where(np.arange(2000) % 1000 == 0, 503, 200)
    assert probed(status=kept) == Probe(100, "met")
    assert probed(recall=0.95, objective=OBJECTIVE._replace(recall=0.95)) == Probe(100, "met")


@pytest.mark.parametrize(
    ("step", "verdict", "reason"),
    [
        ({"service_time": 0.21}, "missed", "p95 is 210 ms, at most 200 ms is the objective"),
        (
            {"status": np.where(np.arange(2000) % 500 == 0, 503, 200)},
            "missed",
            "0.200% of the requests failed, at most 0.100% may",
        ),
        ({"status": 500}, "missed", "p95 falls on a request that failed; 100.000% of the requests failed"),
        (
            {"recall": 0.9, "objective": OBJECTIVE._replace(recall=0.95)},
            "missed",
            "recall@10 is 0.9000, at least 0.95 is the objective",
        ),
        (
            {"service_time": np.linspace(0.01, 1, 2000), "objective": OBJECTIVE._replace(p95=9)},
            "missed",
            "ever more requests are under way",
        ),
        ({"objective": OBJECTIVE._replace(recall=0.95)}, "unsound", "a recall is asked for"),
        ({"seconds": 1.99}, "unsound", "199 requests do not carry a p95: at least 200 do; raise seconds"),
        ({"late": 0.03, "service_time": 9.0}, "generator-limited", "generator-limited: p99 of lateness"),
    ],
)
def test_a_step_that_does_not_is_told_why(step, verdict, reason):
    probe = probed(**step)
    assert probe.verdict == verdict
    assert probe.reason.startswith(reason)


def test_a_closed_load_has_no_rate_to_judge():
    closed = Closed(users=1, think_time=1.0, pacing=None, ramp_up=0, warm_up=0, seconds=10)
    (result,) = summary(rows_of(drawn(Constant(rate=1, seconds=10, warm_up=0), 0), 0.1), closed)
    with pytest.raises(ValueError, match="'closed' is of a closed load"):
        judged(result, OBJECTIVE, None, CPU)


# --- a service whose capacity theory knows -------------------------------------------------------


def late_share(rate, servers, service_rate, limit):
    """The probability that an M/M/c system has an answer later than `limit`.

    A request waits with probability Erlang's C, at the rate servers · service_rate − rate, then is served.
    """
    offered, blocked = rate / service_rate, 1.0
    for busy in range(1, servers + 1):
        blocked = offered * blocked / (busy + offered * blocked)
    waits = blocked / (1 - offered / servers * (1 - blocked))
    gap = servers * service_rate - rate
    served = math.exp(-service_rate * limit)
    both = (service_rate * math.exp(-gap * limit) - gap * served) / (service_rate - gap)
    return (1 - waits) * served + waits * both


def capacity_of(servers, service_rate):
    """The rate at which 95% of the answers of an M/M/c system come within the objective."""

    def surplus(rate):
        return late_share(rate, servers, service_rate, OBJECTIVE.p95) - 0.05

    return brentq(surplus, 1e-6, servers * service_rate * (1 - 1e-9))


def probing(servers, service_rate, seed, *, sends=math.inf, requests=10_000):
    """Measure a simulated service on a virtual clock; the generator takes 1 / `sends` s for a request."""
    random = np.random.default_rng(seed)

    def measure(rate):
        seconds = requests / rate
        schedule = drawn(
            Poisson(rate=rate, seconds=seconds, warm_up=seconds / 10), int(random.integers(2**32))
        )
        busy = np.arange(len(schedule.starts)) / sends
        late = np.maximum.accumulate(schedule.starts - busy) + busy - schedule.starts
        times = random.exponential(1 / service_rate, len(schedule.starts))
        result = summary(queued(schedule, times, servers, late), schedule)[-1]
        return judged(result, OBJECTIVE, None, CPU)

    return measure


def test_the_simulated_service_answers_as_theory_says():
    capacity = capacity_of(4, 25)
    schedule = drawn(Poisson(rate=capacity, seconds=3000, warm_up=10), 0)
    times = np.random.default_rng(0).exponential(1 / 25, len(schedule.starts))
    result = summary(queued(schedule, times, 4), schedule)[-1]
    assert result.latency.p95 == pytest.approx(OBJECTIVE.p95, rel=0.05)


@pytest.mark.parametrize(
    ("servers", "service_rate"), [pytest.param(1, 40.0, marks=pytest.mark.slow), (4, 25.0)]
)
def test_the_capacity_of_a_known_service_is_found_within_five_percent(servers, service_rate):
    known = capacity_of(servers, service_rate)
    found = [search(probing(servers, service_rate, seed), start=10, most=1000).value for seed in range(30)]
    assert sum(value is not None and abs(value / known - 1) <= 0.05 for value in found) >= 29


def test_a_throttled_generator_is_no_capacity():
    for seed in range(5):
        found = search(probing(4, 25, seed, sends=100), start=10, most=1000)
        assert found.value is None
        assert found.limit == "generator-limited"
        assert found.low < capacity_of(4, 25)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "verdict"), [(0.6, "met"), (1.4, "missed")])
def test_what_locust_sends_is_judged_as_theory_says_or_the_generator_is_blamed(tmp_path, share, verdict):
    servers, service_rate = 16, 25.0
    rate = share * capacity_of(servers, service_rate)
    schedule = drawn(Poisson(rate=rate, seconds=5, warm_up=1), 0)
    with standing_in(mean=1 / service_rate, servers=servers) as service:
        job = Job(service.host, "search", ("a violin",), np.zeros(1, np.int64), 10, schedule)
        rows = run(job, tmp_path).rows
    assert judged(summary(rows, schedule)[-1], OBJECTIVE, None, CPU).verdict in (verdict, "generator-limited")
