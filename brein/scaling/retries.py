"""How many requests may be repeated, so that a service in trouble does not get more to do for it."""

from __future__ import annotations


class RetryBudget:
    """A bucket of `floor` tokens at most, full at first: a request adds `share` of one, a repeat takes one.

    Between any two moments there are at most floor + share × requests repeats.
    """

    def __init__(self, share: float, floor: int) -> None:
        self._share = share
        self._floor = floor
        self._tokens = float(floor)

    def deposit(self) -> None:
        """Note a request, not a repeat."""
        self._tokens = min(self._floor, self._tokens + self._share)

    def withdraw(self) -> bool:
        """Take a token for a repeat; False where there is none."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
