import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from bench import stats


@pytest.mark.parametrize(
    ("quantile", "needed"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000), (0.999, 10_000)]
)
def test_a_percentile_is_shown_only_with_the_samples_to_carry_it(quantile, needed):
    assert stats.samples_needed(quantile) == needed
    assert stats.percentile(np.ones(needed - 1), quantile) is None
    assert stats.percentile(np.ones(needed), quantile) == 1


def test_percentiles_of_a_known_distribution():
    values = np.arange(1, 1002)
    assert stats.percentile(values, 0.5) == 501
    assert stats.percentile(values, 0.99) == 991


@given(st.lists(st.floats(1e-6, 1e6), min_size=5, max_size=30))
def test_the_log_interval_holds_the_geometric_mean_and_scales_with_the_unit(values):
    low, high = stats.log_t_interval(values)
    mean = stats.geometric_mean(values)
    assert low <= mean * (1 + 1e-9)
    assert mean <= high * (1 + 1e-9)
    scaled = stats.log_t_interval([value * 1000 for value in values])
    assert scaled == pytest.approx((low * 1000, high * 1000), rel=1e-6)


def test_the_t_interval_is_scipys():
    values = [3.1, 2.9, 3.3, 3.0, 3.2, 2.8]
    expected = scipy_stats.t.interval(0.95, 5, np.mean(values), scipy_stats.sem(values))
    assert stats.t_interval(values) == pytest.approx(expected)


@pytest.mark.parametrize("interval", [stats.t_interval, stats.log_t_interval])
def test_fewer_than_five_processes_have_no_interval(interval):
    assert interval([1.0, 2.0, 3.0, 4.0]) is None
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) is not None


def test_t_intervals_cover_the_truth_about_95_times_in_100():
    random = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        low, high = stats.log_t_interval(random.lognormal(0, 0.3, 5))
        covered += low <= 1 <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_the_bootstrap_covers_the_mean_and_is_repeatable():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(200):
        low, high = stats.bootstrap_interval(random.random(100))
        covered += low <= 0.5 <= high
    assert 0.9 <= covered / 200 <= 0.99
    values = random.random(50)
    assert stats.bootstrap_interval(values) == stats.bootstrap_interval(values)


def test_the_bootstrap_of_equal_values_is_a_point_and_of_one_is_nothing():
    assert stats.bootstrap_interval([1.0] * 30) == (1.0, 1.0)
    assert stats.bootstrap_interval([1.0]) is None
