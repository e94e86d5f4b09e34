"""Which query comes next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def zipf_stream(queries: int, requests: int, exponent: float, seed: int) -> npt.NDArray[np.int64]:
    """Query numbers of `requests` independent requests, int64 (requests,).

    The query of rank r is drawn with probability proportional to r^-exponent; which query has which rank is
    itself drawn, so that popularity does not follow the data set's order. An exponent of 0 is uniform.
    """
    random = np.random.default_rng(seed)
    weights = np.arange(1, queries + 1, dtype=np.float64) ** -exponent
    ranks = random.permutation(queries)
    return ranks[random.choice(queries, size=requests, p=weights / weights.sum())]
