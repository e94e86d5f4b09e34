"""Percentiles and intervals: the only definitions.

Statistics primitives come from numpy and scipy; what is ours is when a number may be shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
LEAST_PROCESSES = 5  # for an interval over processes
_RESAMPLES = 10_000

Values = npt.NDArray[np.float64] | Sequence[float]


class Interval(NamedTuple):
    """A 95% confidence interval."""

    low: float
    high: float


def samples_needed(quantile: float) -> int:
    """Samples that carry a quantile: 20 for p50, 100 for p90, 1,000 for p99, 10,000 for p99.9."""
    return round(10 / (1 - quantile))


def percentile(values: Values, quantile: float) -> float | None:
    """The `quantile` of `values` by linear interpolation; None where there are too few to carry it."""
    if len(values) < samples_needed(quantile):
        return None
    return float(np.quantile(np.asarray(values), quantile))


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
