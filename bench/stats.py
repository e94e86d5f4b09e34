"""Percentiles and intervals: the only definitions.

Statistics primitives come from numpy and scipy; what is ours is when a number may be shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
LEAST_PROCESSES = 5  # for an interval over processes
_LEAST_FOR_A_MEDIAN = 6  # of five values, all lie on one side of the median once in sixteen times
_RESAMPLES = 2_000  # from seed to seed, an interval's ends move by 1.5% of its width
_BATCH = 5  # values whose median stands for them where a trend is looked for
_LEAST_BATCHES = 20  # fewer let noise pass for a trend: one series in ten of ten batches
# Normal noise passes 2σ for a warm-up, which loses little, and 3σ for unrest, which costs the whole series.
_WARM_UP, _UNSETTLED = 0.0455, 0.0027
_SAME_LEVEL = 0.05  # levels so close are one: what the lab can tell apart over a usual number of processes

Values = npt.NDArray[np.float64] | Sequence[float]


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


def samples_needed(quantile: float) -> int:
    """Samples that carry a quantile: 20 for p50, 100 for p90, 1,000 for p99, 10,000 for p99.9."""
    return round(10 / (1 - quantile))


def percentile(values: Values, quantile: float, unanswered: int = 0) -> float | None:
    """The `quantile` of `values` by linear interpolation; None where there are too few to carry it.

    So many `unanswered` more, which have no value, count as greater than all; None where one of these is
    what the quantile falls on.
    """
    count = len(values) + unanswered
    if count < samples_needed(quantile) or math.ceil(quantile * (count - 1)) >= len(values):
        return None
    array = np.asarray(values, dtype=np.float64)
    return float(np.quantile(np.append(array, np.full(unanswered, array.max())), quantile))


def geometric_mean(values: Values) -> float:
    """exp of the mean logarithm of positive values."""
    return float(np.exp(np.mean(np.log(np.asarray(values)))))


def log_t_interval(values: Values) -> Interval | None:
    """Student's t-interval of the geometric mean; None below five values.

    `values` are positive, one for each process: processes are the unit that varies, not their requests.
    """
    interval = t_interval(np.log(np.asarray(values)))
    return interval and Interval(float(np.exp(interval.low)), float(np.exp(interval.high)))


def t_interval(values: Values) -> Interval | None:
    """Student's t-interval of the mean; None below five values."""
    from scipy import stats

    array = np.asarray(values, dtype=np.float64)
    if len(array) < LEAST_PROCESSES:
        return None
    centre, error = float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array)))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(array) - 1)) * error
    return Interval(centre - half, centre + half)


def median_interval(values: Values) -> Interval | None:
    """Interval of the median between two of the values, whatever their distribution; None below six.

    The coverage is at least 95%: David and Nagaraja, Order Statistics (2003), section 7.1.
    """
    from scipy import stats

    if len(values) < _LEAST_FOR_A_MEDIAN:
        return None
    found: Any = stats.quantile_test(np.asarray(values), p=0.5).confidence_interval(CONFIDENCE)  # mistyped
    return Interval(float(found.low), float(found.high))


def bootstrap_interval(values: Values, seed: int = 0) -> Interval | None:
    """Percentile-bootstrap interval of the mean of at least two values; deterministic for a seed."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 2:
        return None
    random = np.random.default_rng(seed)
    block = max(1, 2_000_000 // len(array))  # bounds the memory of one draw
    means = np.concatenate(
        [
            array[random.integers(0, len(array), (min(block, _RESAMPLES - start), len(array)))].mean(axis=1)
            for start in range(0, _RESAMPLES, block)
        ]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def steady_from(values: Values) -> int | None:
    """Where a series in the order it was taken becomes steady; None where it never settles.

    MSER-5 (White 1997, Simulation 69(6)), robust against outliers: of the medians of batches of five, drop
    the leading ones whose loss narrows the standard error of the rest's mean the most, half at most; but none
    where they are on the rest's own level, as they are when a burst amid them was all there was to lose.
    The rest has settled where its two halves are on one level. Two levels are one where the medians differ by
    at most 5%, or where ranks (Mann and Whitney's test, which asks for no distribution) find no difference.
    A lone outlier is noise, not warm-up, except at the start of what is left: there it is dropped, too.
    Fewer than 100 values show no trend: nothing is dropped.
    """
    array = np.asarray(values, dtype=np.float64)
    batches = len(array) // _BATCH
    if batches < _LEAST_BATCHES:
        return 0
    medians = np.median(array[: batches * _BATCH].reshape(batches, _BATCH), axis=1)
    dropped = _mser(medians)
    first, second = np.array_split(medians[dropped:], 2)
    if not _are_on_one_level(first, second, _UNSETTLED):
        return None
    if dropped and _are_on_one_level(medians[:dropped], medians[dropped:], _WARM_UP):
        dropped = 0
    rest = array[dropped * _BATCH :]
    q1, q3 = np.quantile(rest, [0.25, 0.75])
    usual = (rest >= q1 - 3 * (q3 - q1)) & (rest <= q3 + 3 * (q3 - q1))  # Tukey's outer fences
    return dropped * _BATCH + int(np.argmax(usual))


def _mser(values: npt.NDArray[np.float64]) -> int:
    """How many leading values to drop, half at most, to minimise the variance of the rest over its number."""
    centred = values - np.median(values)  # keeps the difference of squares below exact
    left = np.arange(len(values), 0, -1)
    mean, square = (np.cumsum(part[::-1])[::-1] / left for part in (centred, centred**2))
    return int(np.argmin(((square - mean**2) / left)[: len(values) // 2 + 1]))


def _are_on_one_level(
    first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], significance: float
) -> bool:
    """Whether the medians are as good as equal, or a rank test at this significance tells nothing apart."""
    from scipy import stats

    levels = float(np.median(first)), float(np.median(second))
    if abs(levels[0] - levels[1]) <= _SAME_LEVEL * abs(levels[1]):
        return True
    return bool(stats.mannwhitneyu(first, second, method="asymptotic").pvalue > significance)
