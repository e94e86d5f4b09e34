"""An alert fires once its rule was broken for as long as it says, and ends when it no longer is."""

import pytest

from brein.errors import ConfigError
from brein.monitoring import Alerts, Rule

SLOW = Rule("slow", "latency", "above", 0.2, lasting=60)
COLD = Rule("cold", "hit_rate", "below", 0.7, lasting=0)


class Run:
    """Rules and the time they are evaluated at."""

    def __init__(self, *rules, **bounds):
        self.now = 0.0
        self.alerts = Alerts(rules, lambda: self.now, **bounds)

    def at(self, now, **values):
        self.now = now
        return [(change.rule.name, change.state) for change in self.alerts.evaluate(values)]


def test_it_fires_after_its_time_and_is_resolved_at_once():
    run = Run(SLOW)
    assert run.at(0, latency=0.3) == []
    assert run.at(59, latency=0.4) == []
    assert run.at(60, latency=0.5) == [("slow", "firing")]
    alert = run.alerts.firing["slow"]
    assert (alert.metric, alert.value, alert.threshold, alert.time, alert.tags) == (
        "latency", 0.5, 0.2, 60, {"rule": "slow"}
    )  # fmt: skip
    assert run.at(61, latency=0.6) == []
    assert run.at(62, latency=0.1) == [("slow", "resolved")]
    assert run.alerts.firing == {}
    assert [(change.state, change.alert.time) for change in run.alerts.history] == [
        ("firing", 60),
        ("resolved", 62),
    ]


def test_one_good_value_begins_the_time_anew():
    run = Run(SLOW)
    run.at(0, latency=0.3)
    run.at(30, latency=0.1)
    assert run.at(60, latency=0.3) == []
    assert run.at(120, latency=0.3) == [("slow", "firing")]


def test_a_value_at_the_bound_breaks_the_rule():
    assert Run(Rule("slow", "latency", "above", 0.2, lasting=0)).at(0, latency=0.2) == [("slow", "firing")]
    assert Run(COLD).at(0, hit_rate=0.7) == [("cold", "firing")]
    assert Run(COLD).at(0, hit_rate=0.71) == []


def test_what_is_unknown_neither_ends_an_alert_nor_counts_towards_one():
    run = Run(SLOW)
    run.at(0, latency=0.3)
    run.at(30, latency=None)
    assert run.at(60, latency=0.3) == []
    assert run.at(120, latency=0.3) == [("slow", "firing")]
    assert run.at(121) == []
    assert "slow" in run.alerts.firing
    assert run.at(122, latency=0.1) == [("slow", "resolved")]


def test_rules_are_independent_and_history_is_bounded():
    run = Run(SLOW, COLD, most_changes=4)
    assert run.at(0, latency=0.3, hit_rate=0.1) == [("cold", "firing")]
    assert run.at(60, latency=0.3, hit_rate=0.9) == [("slow", "firing"), ("cold", "resolved")]
    for turn in range(10):
        run.at(100 + turn, hit_rate=turn % 2)
    assert len(run.alerts.history) == 4
    assert run.alerts.history[-1].alert.time == 109


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"\['slow'\]: a name is given twice"):
        Run(SLOW, SLOW)
