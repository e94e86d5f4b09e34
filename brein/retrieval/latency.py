"""How long a retrieval will take: a model of its stages, fitted on how long they took here."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from threading import Lock

import numpy as np

_ENOUGH = 32  # runs of a stage before it is predicted
_RECENT = 512  # runs it is fitted on, the last ones
_REFIT = 32  # runs after which it is fitted again


class LatencyModel:
    """Seconds of each stage, linear in what is known of a query before the stage runs.

    seconds ≈ b₀ + b₁·x₁ + …, no coefficient negative, with the least sum of squared relative errors over the
    last 512 runs of the stage on this machine: an error of a tenth counts alike for a fast and a slow query,
    and one run that was held up cannot bend the fit. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._stages: dict[str, _Stage] = {}

    def warm_up(self) -> None:
        """Load what a fit needs, which takes longer than many a query: the first fit comes after one."""
        _fit(np.ones((_ENOUGH, 2)))

    def learn(self, stage: str, drivers: Sequence[float], seconds: float) -> None:
        """Take in how long a stage took; `drivers`, as many each time, are its x."""
        with self._lock:
            self._stages.setdefault(stage, _Stage()).learn(drivers, seconds)

    def predict(self, stages: Mapping[str, Sequence[float]]) -> float | None:
        """Seconds that these stages with these drivers take in all; None where one has run too seldom."""
        with self._lock:
            each = [
                self._stages[name].predict(drivers) if name in self._stages else None
                for name, drivers in stages.items()
            ]
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) if len(known) == len(each) else None


class _Stage:
    def __init__(self) -> None:
        self._runs: deque[tuple[float, ...]] = deque(maxlen=_RECENT)
        self._learnt = 0
        self._coefficients: np.ndarray | None = None

    def learn(self, drivers: Sequence[float], seconds: float) -> None:
        if seconds <= 0:
            return  # a clock too coarse to say
        self._runs.append((seconds, 1.0, *drivers))
        self._learnt += 1
        if len(self._runs) >= _ENOUGH and self._learnt % _REFIT == 0:
            self._coefficients = _fit(np.array(self._runs))

    def predict(self, drivers: Sequence[float]) -> float | None:
        if self._coefficients is None:
            return None
        return float(self._coefficients @ (1.0, *drivers))


def _fit(runs: np.ndarray) -> np.ndarray:
    """Coefficients, float64 (drivers + 1,), for runs, float64 (n, drivers + 2): seconds, 1, and drivers."""
    from scipy.optimize import nnls

    relative = runs[:, 1:] / runs[:, :1]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)  # columns of one size, for the solver
    found, _ = nnls(relative / scale, np.ones(len(runs)))
    return np.asarray(found / scale, dtype=np.float64)
