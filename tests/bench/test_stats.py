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


@given(
    st.lists(st.floats(0, 1e6), max_size=60),
    st.integers(0, 60),
    st.sampled_from([0.5, 0.6, 0.8]),
)
def test_what_was_not_answered_counts_as_slower_than_any(values, unanswered, quantile):
    found = stats.percentile(values, quantile, unanswered)
    slow = [*values, *[1e9] * unanswered]
    if len(slow) < stats.samples_needed(quantile):
        assert found is None
    elif (expected := np.quantile(slow, quantile)) <= max(values, default=0):
        assert found == pytest.approx(expected)
    else:
        assert found is None


@given(st.lists(st.floats(1e-6, 1e6), min_size=5, max_size=30))
def test_the_log_interval_holds_the_geometric_mean_and_scales_with_the_unit(values):
    low, high = stats.log_t_interval(values)
    mean = stats.geometric_mean(values)
    assert low <= mean * (1 + 1e-9)
    assert mean <= high * (1 + 1e-9)
    scaled = stats.log_t_interval([value * 1000 for value in values])
    assert scaled == pytest.approx((low * 1000, high * 1000), rel=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=40, unique=True))
def test_the_interval_of_a_median_lies_between_order_statistics_of_the_stated_coverage(values):
    low, high = stats.median_interval(values)
    ordered, n = sorted(values), len(values)
    below = ordered.index(low) + 1
    assert ordered.index(high) == n - below
    assert scipy_stats.binom.cdf(below - 1, n, 0.5) <= 0.025 < scipy_stats.binom.cdf(below, n, 0.5)


def test_five_values_carry_no_interval_of_a_median():
    assert stats.median_interval([1, 2, 3, 4, 5]) is None


def test_the_interval_of_a_median_minds_no_outlier():
    values = [0.99, 0.98, 1.01, 1.02, 1.0, 0.97, 1.03, 1.01, 0.99, 1.0]
    assert stats.median_interval([*values, 40.0, 1e9]) == (0.99, 1.03)


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


# --- the start of the steady state ----------------------------------------------------------------


def noise(count, seed=3, spread=0.1):
    return np.random.default_rng(seed).lognormal(0, spread, count)


@pytest.mark.parametrize("count", [100, 500, 2000])
def test_of_constant_noise_nearly_nothing_is_cut(count):
    cuts = [stats.steady_from(noise(count, seed, 0.3)) for seed in range(100)]
    settled = [cut for cut in cuts if cut is not None]
    assert len(settled) >= 95
    assert np.mean(settled) <= 10


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_a_warm_up_that_decays_is_cut_where_it_has_become_noise(share):
    count = 2000
    level = 1 + 2 * np.exp(-np.arange(count) / (share * count))
    for seed in range(20):
        cut = stats.steady_from(level * noise(count, seed))
        assert cut is not None
        assert level[cut:].mean() == pytest.approx(1, rel=0.02)
        assert cut <= 6 * share * count


def test_a_warm_up_that_ends_in_a_step_is_cut_at_the_step():
    for seed in range(20):
        values = noise(1000, seed)
        values[:230] *= 1.5
        assert stats.steady_from(values) == pytest.approx(230, abs=40)


@pytest.mark.parametrize(
    "level",
    [
        np.linspace(1, 1.5, 2000),
        1 + np.exp(-np.arange(2000) / 1000),
        np.where(np.arange(2000) < 1200, 1, 1.5),
    ],
    ids=["drift", "slow decay", "late step"],
)
def test_what_never_settles_is_said_to(level):
    cuts = [stats.steady_from(level * noise(2000, seed)) for seed in range(20)]
    assert cuts.count(None) >= 18


def test_a_level_that_drifts_by_less_than_can_be_told_apart_has_settled():
    assert stats.steady_from(np.linspace(1, 1.03, 2000)) is not None


def test_lone_outliers_are_not_cut_unless_they_come_first():
    values = noise(1000)
    quiet = stats.steady_from(values)
    values[[60, 333, 700]] = 100
    assert stats.steady_from(values) == quiet == 0
    values[:2] = 100
    assert stats.steady_from(values) == 2


@pytest.mark.parametrize("start", [200, 400, 600, 850])
def test_a_burst_amid_a_steady_series_is_noise_wherever_it_comes(start):
    for seed in range(20):
        values = noise(1000, seed)
        values[start : start + 60] *= 1.5
        assert stats.steady_from(values) is not None
        assert stats.steady_from(values) <= 10


SHAPES = {
    "log-normal": lambda random, count: random.lognormal(0, 1, count),
    "Pareto": lambda random, count: 1 + random.pareto(1.5, count),
    "two equal modes": lambda random, count: np.where(random.random(count) < 0.5, 1, 4) * 1.0,
    "a rare mode": lambda random, count: np.where(random.random(count) < 0.1, 10, 1) * 1.0,
    "a pause now and then": lambda random, count: (
        random.lognormal(0, 0.05, count) * np.where(np.arange(count) % 50 == 25, 10, 1)
    ),
}


@pytest.mark.parametrize("count", [200, 2000])
@pytest.mark.parametrize("shape", SHAPES)
def test_no_distribution_passes_for_a_warm_up_or_for_unrest(shape, count):
    made = [SHAPES[shape](np.random.default_rng(seed), count) for seed in range(100)]
    cuts = [stats.steady_from(values) for values in made]
    assert cuts.count(None) <= 2
    assert np.mean([cut for cut in cuts if cut is not None]) <= 0.02 * count
    for quantile in (0.5, 0.95):
        shifts = [
            np.quantile(values[cut:], quantile) / np.quantile(values, quantile)
            for values, cut in zip(made, cuts, strict=True)
            if cut is not None
        ]
        assert np.mean(shifts) == pytest.approx(1, abs=0.02)


def test_too_short_a_series_shows_no_trend():
    assert stats.steady_from(np.linspace(1, 9, 99)) == 0
    assert stats.steady_from([]) == 0


@given(st.lists(st.floats(0, 1e6), min_size=100, max_size=200), st.floats(1e-3, 1e3))
def test_the_cut_keeps_at_least_some_values_and_does_not_depend_on_the_unit(values, unit):
    cut = stats.steady_from(values)
    assert cut is None or 0 <= cut < len(values)
    # Powers of two scale without rounding.
    assert stats.steady_from([value * 2.0 ** round(np.log2(unit)) for value in values]) == cut
