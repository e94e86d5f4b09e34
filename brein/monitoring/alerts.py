"""Alerts by threshold: a rule fires once its metric has been beyond a bound for a while, until it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from brein.errors import ConfigError
from brein.monitoring.monitor import Alert

Direction = Literal["above", "below"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires when `metric` has been at its `bound` or `direction` of it for `lasting` seconds."""

    name: str
    metric: str
    direction: Direction
    bound: float
    lasting: float = 60.0

    def broken_by(self, value: float) -> bool:
        """Whether a value is one that the rule speaks of."""
        return value >= self.bound if self.direction == "above" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Change:
    """A rule began to fire, or it ended; `alert` has the value and the time of that."""

    rule: Rule
    state: Literal["firing", "resolved"]
    alert: Alert


class Alerts:
    """Evaluates rules, of which `firing` says which fire.

    `clock` gives seconds since 1970 and never goes back. For one thread at a time.

    Raises:
        ConfigError: two rules have one name.
    """

    def __init__(self, rules: Iterable[Rule], clock: Callable[[], float]) -> None:
        self.rules = tuple(rules)
        names = [rule.name for rule in self.rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"rules {sorted(twice)}: a name is given twice; names are unique")
        self.firing: dict[str, Alert] = {}
        self._clock = clock
        self._since: dict[str, float] = {}

    def evaluate(self, values: Mapping[str, float | None]) -> list[Change]:
        """Look at the values of metrics as they are now; what changed.

        A metric that has no value neither ends an alert nor counts towards one: the time begins anew.
        """
        now = self._clock()
        return [
            change
            for rule in self.rules
            if (change := self._look(rule, values.get(rule.metric), now)) is not None
        ]

    def _look(self, rule: Rule, value: float | None, now: float) -> Change | None:
        if value is None:
            self._since.pop(rule.name, None)
            return None
        alert = Alert(rule.metric, value, rule.bound, now, {"rule": rule.name})
        if not rule.broken_by(value):
            self._since.pop(rule.name, None)
            return None if self.firing.pop(rule.name, None) is None else Change(rule, "resolved", alert)
        since = self._since.setdefault(rule.name, now)
        if rule.name in self.firing or now - since < rule.lasting:
            return None
        self.firing[rule.name] = alert
        return Change(rule, "firing", alert)
