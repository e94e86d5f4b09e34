import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats

from bench.arrivals import (
    Arrivals,
    Closed,
    Constant,
    Load,
    Poisson,
    Ramp,
    Replay,
    Schedule,
    Soak,
    Spike,
    Staircase,
    drawn,
    poisson,
)
from bench.errors import UsageError

SHARED = Path(os.environ.get("BREIN_DATASETS", Path(__file__).parents[3] / "shared" / "datasets"))
AZURE = SHARED / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv"
RATES, SECONDS = st.floats(1, 300), st.floats(1, 20)
WARM_UPS = st.sampled_from([0.0, 0.5, 3.0])
RATED = st.one_of(
    st.builds(Constant, rate=RATES, seconds=SECONDS, warm_up=WARM_UPS),
    st.builds(Poisson, rate=RATES, seconds=SECONDS, warm_up=WARM_UPS),
    st.builds(Ramp, first=st.floats(0, 300), rate=RATES, ramp=SECONDS, seconds=SECONDS, warm_up=WARM_UPS),
    st.builds(
        Staircase,
        rates=st.lists(RATES, min_size=1, max_size=4).map(tuple),
        seconds=SECONDS,
        warm_up=WARM_UPS,
    ),
    st.builds(Spike, rate=RATES, peak=RATES, spike=SECONDS, seconds=SECONDS, warm_up=WARM_UPS),
    st.builds(Soak, rate=RATES, seconds=st.floats(5, 20), parts=st.integers(2, 5), warm_up=WARM_UPS),
)


@given(RATED, st.integers(0, 9))
def test_a_schedule_ascends_through_steps_that_follow_one_another(arrivals, seed):
    schedule = drawn(arrivals, seed)
    assert np.all(np.diff(schedule.starts) >= 0)
    assert schedule.starts[0] >= 0
    assert schedule.starts[-1] <= schedule.end
    assert schedule.steps[0].begin == 0
    for before, after in zip(schedule.steps, schedule.steps[1:], strict=False):
        assert before.end == after.begin
    assert any(step.counted for step in schedule.steps)
    assert not any(step.counted for step in schedule.steps if step.name in ("warm-up", "ramp"))


@given(RATED, st.integers(0, 9))
def test_every_step_is_offered_at_its_rate(arrivals, seed):
    schedule = drawn(arrivals, seed)
    offered = np.bincount(schedule.step_of(schedule.starts), minlength=len(schedule.steps))
    expected = np.array([step.rate * step.seconds for step in schedule.steps])
    assert np.abs(offered - expected).max() <= 1


@given(RATED)
def test_a_seed_draws_the_same_schedule_again_and_another_another(arrivals):
    first, again, other = (drawn(arrivals, seed).starts for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == isinstance(arrivals, Constant)


def test_constant_arrivals_are_evenly_apart_through_the_warm_up():
    schedule = drawn(Constant(rate=200, seconds=20, warm_up=5), 0)
    assert np.array_equal(schedule.starts, np.arange(5000) / 200)
    assert [(step.name, step.begin, step.end, step.rate, step.counted) for step in schedule.steps] == [
        ("warm-up", 0, 5, 200, False),
        ("constant", 5, 25, 200, True),
    ]


@given(RATES, st.floats(-100, 100), SECONDS, st.integers(0, 9).map(np.random.default_rng))
def test_as_many_poisson_arrivals_come_as_the_rate_says_in_order_and_in_time(rate, begin, seconds, random):
    times = poisson(rate, begin, begin + seconds, random)
    assert len(times) == round(rate * (begin + seconds - begin))
    assert np.all(np.diff(times) >= 0)
    assert np.all((begin <= times) & (times <= begin + seconds))


def test_poisson_arrivals_are_exponentially_apart_and_as_many_in_a_second_as_poisson_says():
    schedule = drawn(Poisson(rate=50, seconds=1000, warm_up=0), 3)
    assert stats.kstest(np.diff(schedule.starts), "expon", args=(0, 1 / 50)).pvalue > 0.01
    each_second = np.bincount(schedule.starts.astype(int))
    assert each_second.var() / each_second.mean() == pytest.approx(1, abs=0.1)
    assert abs(np.corrcoef(each_second[:-1], each_second[1:])[0, 1]) < 0.1


@pytest.mark.parametrize(("first", "rate"), [(0, 400), (400, 1), (100, 300), (50, 50)])
def test_a_ramp_follows_its_rate(first, rate):
    schedule = drawn(Ramp(first=first, rate=rate, ramp=100, seconds=10, warm_up=0), 0)
    ramp = schedule.starts[schedule.step_of(schedule.starts) == 0]

    def passed(time):
        """Share of the ramp's requests that have come, on average."""
        return (first * time + (rate - first) * time**2 / 200) / (100 * (first + rate) / 2)

    assert stats.kstest(passed(ramp), "uniform").pvalue > 0.01


def test_each_rate_of_a_staircase_has_its_own_warm_up():
    schedule = drawn(Staircase(rates=(10, 40), seconds=10, warm_up=2), 0)
    assert [(step.name, step.rate, step.seconds, step.counted) for step in schedule.steps] == [
        ("warm-up", 10, 2, False),
        ("1: 10/s", 10, 10, True),
        ("warm-up", 40, 2, False),
        ("2: 40/s", 40, 10, True),
    ]


def test_a_spike_comes_without_warning_and_what_follows_counts():
    schedule = drawn(Spike(rate=10, peak=100, spike=3, seconds=20, warm_up=5), 0)
    assert [(step.name, step.rate, step.counted) for step in schedule.steps] == [
        ("warm-up", 10, False),
        ("before", 10, True),
        ("spike", 100, True),
        ("after", 10, True),
    ]


def test_a_soak_is_equal_parts():
    schedule = drawn(Soak(rate=10, seconds=60, parts=3, warm_up=5), 0)
    assert [(step.name, step.seconds, step.counted) for step in schedule.steps] == [
        ("warm-up", 5, False),
        ("part 1", 20, True),
        ("part 2", 20, True),
        ("part 3", 20, True),
    ]


def test_times_belong_to_the_step_they_fall_into_and_late_ones_to_the_last():
    schedule = drawn(Constant(rate=10, seconds=10, warm_up=5), 0)
    assert schedule.step_of(np.array([0, 4.999, 5, 15, 99])).tolist() == [0, 0, 1, 1, 1]


def test_a_time_keeps_its_step_when_it_went_through_a_clock():
    schedule = drawn(Constant(rate=10, seconds=10, warm_up=5), 0)
    clock = 12_345_678.9
    assert schedule.step_of((clock + schedule.starts) - clock).tolist() == 50 * [0] + 100 * [1]


# --- traces --------------------------------------------------------------------------------------


def written(folder, text):
    path = folder / "trace.csv"
    path.write_text(text)
    return path


def replayed(path, column="at", speed=1.0, warm_up=0.0, seconds=None) -> Schedule:
    replay = Replay(path=path, column=column, speed=speed, warm_up=warm_up, seconds=seconds)
    return drawn(replay, 0)


def test_a_trace_keeps_its_distances_at_the_speed_asked_for(tmp_path):
    path = written(tmp_path, "id,at\na,100\nb,104\nc,102\nd,106\n")
    schedule = replayed(path, speed=2)
    assert schedule.starts.tolist() == [0, 1, 2, 3]
    assert [(step.begin, step.end, step.rate, step.counted) for step in schedule.steps] == [(0, 4, 1, True)]


def test_a_part_of_a_trace_is_its_first(tmp_path):
    path = written(tmp_path, "at\n" + "\n".join(str(number / 4) for number in range(101)))
    schedule = replayed(path, warm_up=5, seconds=10)
    assert len(schedule.starts) == 60
    assert [(step.begin, step.end, step.rate, step.counted) for step in schedule.steps] == [
        (0, 5, 4, False),
        (5, 15, 4, True),
    ]


def test_a_trace_has_dates_as_well(tmp_path):
    path = written(tmp_path, "at\n2023-11-16 18:15:46.6805900\n2023-11-16T18:15:47.6805900\n")
    assert replayed(path).starts == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("text", "options", "error"),
    [
        ("time\n1\n2\n", {}, "column = 'at': .* has no such column; it has time"),
        ("at\nnoon\nlate\n", {}, "at is neither seconds nor dates"),
        ("at\n1\n\n3\n,\n", {}, "is no trace|rows without a time"),
        ("at,b\n1,1\n,2\n", {}, "at has rows without a time; remove them"),
        ("at\n5\n", {}, "1 requests at one time are no trace; give at least two times"),
        ("at\n5\n5\n", {}, "2 requests at one time are no trace"),
        ("", {}, "is no trace: No columns to parse from file"),
        ("at\n0\n9\n", {"seconds": 30.0}, "lasts 18 s at speed 1: .* do not fit into it; lower them"),
        ("at\n0\n9\n", {"warm_up": 18.0}, "do not fit into it"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_refused_in_one_line(tmp_path, text, options, error):
    with pytest.raises(UsageError, match=error) as refused:
        replayed(written(tmp_path, text), **options)
    assert "\n" not in str(refused.value)


def test_a_trace_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.csv is no trace: .*No such file"):
        replayed(tmp_path / "nowhere.csv")


@pytest.mark.skipif(not AZURE.exists(), reason="the Azure trace is not in BREIN_DATASETS")
def test_an_hour_of_real_arrivals_passes_in_a_minute():
    schedule = replayed(AZURE, column="TIMESTAMP", speed=60)
    assert len(schedule.starts) == 19_366
    assert 55 < schedule.end < 60
    assert np.all(np.diff(schedule.starts) >= 0)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"kind": "poisson", "rate": 1e6, "seconds": 600, "warm_up": 0}', "600,000,000 requests, at most"),
        ('{"kind": "poisson", "rate": 0.5, "seconds": 1, "warm_up": 0}', "no request comes in the 1 s"),
        ('{"kind": "closed", "users": 5, "think_time": null, "pacing": null, "ramp_up": 0, "warm_up": 0, '
         '"seconds": 5}', "give one of them"),
        ('{"kind": "closed", "users": 5, "think_time": 1, "pacing": 1, "ramp_up": 0, "warm_up": 0, '
         '"seconds": 5}', "give one of them"),
    ],
)  # fmt: skip
def test_a_load_that_cannot_be_is_refused(text, error):
    with pytest.raises(ValueError, match=error):
        TypeAdapter(Load).validate_json(text)


@given(RATED)
def test_a_load_is_read_from_json_as_it_was_written(arrivals):
    assert TypeAdapter(Arrivals).validate_json(arrivals.model_dump_json(), strict=True) == arrivals
    assert TypeAdapter(Load).validate_json(arrivals.model_dump_json(), strict=True) == arrivals


def test_users_begin_and_warm_up_before_they_count():
    closed = Closed(users=50, think_time=0.267, pacing=None, ramp_up=5, warm_up=3, seconds=30)
    assert [tuple(step) for step in closed.steps] == [
        ("ramp-up", 0, 5, None, False),
        ("warm-up", 5, 8, None, False),
        ("closed", 8, 38, None, True),
    ]
    assert closed.end == 38
    assert closed.step_of(np.array([4.0, 8.0, 40.0])).tolist() == [0, 2, 2]


def test_users_who_all_begin_at_once_count_from_the_first():
    closed = Closed(users=5, think_time=None, pacing=1.0, ramp_up=0, warm_up=0, seconds=30)
    assert [tuple(step) for step in closed.steps] == [("closed", 0, 30, None, True)]
