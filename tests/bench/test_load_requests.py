import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_rows import queued, rows_of

from bench.arrivals import Closed, Constant, Poisson, Schedule, Step, drawn
from bench.load.requests import OUTCOMES, ROW, Cpu, doubt, outcomes, read, summary

HALF_A_CORE = Cpu(generator=0.5, service=1.25, cores=2)


def one_step(seconds, rate=100.0) -> Schedule:
    return drawn(Constant(rate=rate, seconds=seconds, warm_up=0), 0)


# --- files ---------------------------------------------------------------------------------------


def test_the_rows_of_all_workers_are_read_in_order_of_their_intended_start(tmp_path):
    rows = rows_of(one_step(10), 0.01)
    rows["worker"] = np.arange(len(rows)) % 2
    for worker in (0, 1):
        rows[rows["worker"] == worker].tofile(tmp_path / f"rows-{worker}.bin")
    kept = read(tmp_path)
    assert kept.torn == 0
    assert np.array_equal(kept.rows, rows)


@given(st.integers(0, 200))
def test_the_torn_row_of_a_killed_worker_is_left_out_and_counted(tmp_path_factory, lost):
    folder = tmp_path_factory.mktemp("rows")
    whole, cut = rows_of(one_step(0.1), 0.01).tobytes(), rows_of(one_step(0.05), 0.01).tobytes()
    (folder / "rows-0.bin").write_bytes(whole)
    (folder / "rows-1.bin").write_bytes(cut[: max(0, len(cut) - lost)])
    kept = read(folder)
    left, torn = divmod(max(0, len(cut) - lost), ROW.itemsize)
    assert (len(kept.rows), kept.torn) == (10 + left, int(torn > 0))


def test_a_load_that_sent_nothing_has_no_rows(tmp_path):
    assert read(tmp_path).rows.dtype == ROW
    (result,) = summary(read(tmp_path).rows, one_step(10))
    assert (result.offered, result.sent, result.achieved, result.lateness) == (1000, 0, 0, None)
    assert doubt(result, 0.2, HALF_A_CORE).startswith("generator-limited: 0.0% of 1,000 requests were sent")


def test_the_row_loads_nothing_of_engine_or_models():
    """Locust's processes import it."""
    code = "import sys, bench.load.requests; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert not loaded & {"brein", "torch", "faiss", "pydantic", "pandas", "scipy", "asyncio"}


# --- what became of requests ---------------------------------------------------------------------


def test_every_status_is_one_outcome():
    rows = np.zeros(8, ROW)
    rows["status"] = [200, 201, 404, 500, 503, 504, 0, -1]
    assert [OUTCOMES[ended] for ended in outcomes(rows)] == [
        "answered", "answered", "failed", "failed", "rejected", "timed out", "failed", "timed out"
    ]  # fmt: skip


def test_failures_are_counted_apart():
    schedule = one_step(10)
    status = np.resize([200] * 16 + [503, 0, -1, 500], len(schedule.starts))
    (result,) = summary(rows_of(schedule, 0.02, status=status), schedule)
    assert result.outcomes == {"answered": 800, "rejected": 50, "timed out": 50, "failed": 100}
    assert result.error_rate == pytest.approx(0.2)
    assert result.throughput == pytest.approx(80, abs=0.2)
    assert result.latency.mean is None
    assert result.latency.p50 == pytest.approx(0.02)
    assert result.latency.p95 is None


SERVICE_TIMES = st.lists(st.floats(1e-5, 60), min_size=200, max_size=400)


@given(SERVICE_TIMES, st.data())
def test_a_failure_never_lowers_a_percentile(times, data):
    schedule = one_step(len(times) / 100)
    status = np.full(len(times), 200)
    before = summary(rows_of(schedule, times, status=status), schedule)[0].latency
    status[data.draw(st.sets(st.integers(0, len(times) - 1), max_size=30).map(list))] = data.draw(
        st.sampled_from([503, 500, 0, -1])
    )
    after = summary(rows_of(schedule, times, status=status), schedule)[0].latency
    for quantile in ("p50", "p95"):
        lower, higher = getattr(before, quantile), getattr(after, quantile)
        assert higher is None or higher >= lower


@given(
    st.lists(st.floats(-5, np.log10(60)), min_size=1000, max_size=1200),  # 10 µs to 60 s, on a log scale
    st.floats(0, 86_400),
)
def test_percentiles_are_those_of_the_exact_samples_however_late_in_a_load(exponents, begin):
    times = 10.0 ** np.array(exponents)
    starts = begin + np.arange(len(times)) / 100
    schedule = Schedule(starts, (Step("late", begin, begin + len(times) / 100, 100.0, True),))
    (result,) = summary(rows_of(schedule, times), schedule)
    for quantile, found in (
        (0.5, result.latency.p50),
        (0.95, result.latency.p95),
        (0.99, result.latency.p99),
    ):
        assert found == pytest.approx(np.quantile(times, quantile), rel=1e-3)
        assert np.sort(times)[int(quantile * (len(times) - 1))] <= found * 1.001


def test_latency_counts_from_the_intended_start_and_service_time_from_the_real_one():
    schedule = one_step(10)
    (result,) = summary(rows_of(schedule, 0.02, late=0.3), schedule)
    assert result.latency == pytest.approx((0.32, 0.32, 0.32, 0.32))
    assert result.service_time == pytest.approx((0.02, 0.02, 0.02, 0.02))
    assert result.lateness == pytest.approx(0.3)


def test_a_percentile_is_shown_only_with_the_requests_that_carry_it():
    schedule = one_step(5)
    (result,) = summary(rows_of(schedule, 0.02), schedule)
    assert result.latency.p95 is not None
    assert result.latency.p99 is None


def test_warm_up_and_steps_are_kept_apart():
    schedule = drawn(Constant(rate=100, seconds=5, warm_up=3), 0)
    service_time = np.where(schedule.starts < 3, 1.0, 0.02)
    warm_up, counted = summary(rows_of(schedule, service_time), schedule)
    assert (warm_up.step.counted, warm_up.sent) == (False, 300)
    assert (counted.step.counted, counted.sent) == (True, 500)
    assert counted.latency.p95 == pytest.approx(0.02)


# --- requests in flight --------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(1e-3, 5)), min_size=1, max_size=60))
def test_requests_in_flight_are_as_many_as_counted_one_by_one(requests):
    requests.sort()
    schedule = Schedule(np.array([start for start, _ in requests]), (Step("all", 0.0, 20.0, 3.0, True),))
    rows = rows_of(schedule, np.array([seconds for _, seconds in requests]))
    (result,) = summary(rows, schedule)
    edges = np.arange(21)
    overlaps = np.minimum(rows["end"][:, None], edges[1:]) - np.maximum(rows["start"][:, None], edges[:-1])
    assert result.in_flight.requests == pytest.approx(np.maximum(overlaps, 0).sum(axis=0), abs=1e-6)


@pytest.mark.parametrize(("utilisation", "grows"), [(0.5, False), (0.8, False), (1.2, True), (2.0, True)])
def test_requests_pile_up_where_a_service_cannot_keep_up(utilisation, grows):
    schedule = drawn(Poisson(rate=200, seconds=60, warm_up=10), 0)
    random = np.random.default_rng(0)
    rows = queued(schedule, random.exponential(utilisation / 200, len(schedule.starts)))
    in_flight = summary(rows, schedule)[-1].in_flight
    assert in_flight.grows == grows
    assert in_flight.interval.low <= in_flight.slope <= in_flight.interval.high
    if grows:
        assert in_flight.slope == pytest.approx(200 * (1 - 1 / utilisation), rel=0.2)


# --- validity ------------------------------------------------------------------------------------


def test_a_generator_that_keeps_up_leaves_no_doubt():
    schedule = one_step(10)
    (result,) = summary(rows_of(schedule, 3.0, late=0.019), schedule)
    assert doubt(result, 0.2, HALF_A_CORE) == ""


def test_a_generator_that_is_late_limits_the_step_and_says_what_cpu_was_used():
    schedule = one_step(10)
    (result,) = summary(rows_of(schedule, 0.02, late=0.0211), schedule)
    assert doubt(result, 0.2, HALF_A_CORE) == (
        "generator-limited: p99 of lateness is 21.1 ms, at most 20 ms can be believed "
        "(CPU: generator 0.50, service 1.25 of 2 cores)"
    )
    assert doubt(result, 0.2, Cpu(None, None, 2)).endswith("(CPU: not seen of 2 cores)")


def test_a_generator_that_sends_too_few_limits_the_step():
    schedule = one_step(10)
    rows = rows_of(schedule, 0.02)
    assert doubt(summary(rows[:980], schedule)[0], 0.2, HALF_A_CORE) == ""
    limited = doubt(summary(rows[:979], schedule)[0], 0.2, HALF_A_CORE)
    assert limited.startswith("generator-limited: 97.9% of 1,000 requests were sent in their step")


def test_requests_sent_after_their_step_were_not_sent_in_it():
    schedule = one_step(10)
    late = np.where(np.arange(1000) < 970, 0.0, 5.0)
    (result,) = summary(rows_of(schedule, 0.02, late=late), schedule)
    assert result.achieved == pytest.approx(0.97)


def test_users_who_wait_for_a_slow_service_are_no_limit_of_the_generator():
    closed = Closed(users=1, think_time=None, pacing=0.1, ramp_up=0, warm_up=0, seconds=100)
    rows = np.zeros(100, ROW)
    rows["intended"] = 0.1 * np.arange(100)
    rows["start"] = rows["ready"] = np.arange(100)  # each answer takes a second, ten times the pace
    rows["end"], rows["status"] = rows["start"] + 1, 200
    (result,) = summary(rows, closed)
    assert (result.offered, result.achieved, result.lateness) == (None, None, 0)
    assert doubt(result, 0.2, HALF_A_CORE) == ""
    assert result.latency.mean == pytest.approx(1 + 0.9 * 99 / 2)
    assert not result.in_flight.grows
