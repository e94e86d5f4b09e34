"""An alert fires once its rule was broken for as long as it says, and ends when it no longer is."""

import pytest

from brein.errors import ConfigError
from brein.monitoring import Alerts, Rule

SLOW = Rule("slow", "latency", "above", 0.2, lasting=60)
COLD = Rule("cold", "hit_rate", "below", 0.7, lasting=0)


class Run:
    """Rules and the time they are evaluated at."""

    def __init__(self, *rules):
        self.now = 0.0
        self.alerts = Alerts(rules, lambda: self.now)

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


def test_rules_are_independent():
    run = Run(SLOW, COLD)
    assert run.at(0, latency=0.3, hit_rate=0.1) == [("cold", "firing")]
    assert run.at(60, latency=0.3, hit_rate=0.9) == [("slow", "firing"), ("cold", "resolved")]


def test_a_change_has_its_value_and_its_time():
    run = Run(COLD)
    for now, value in ((5.0, 0.1), (9.0, 0.8)):
        run.now = now
        (change,) = run.alerts.evaluate({"hit_rate": value})
        assert (change.alert.value, change.alert.threshold, change.alert.time) == (value, 0.7, now)


def test_two_rules_of_one_name_are_refused():
    with pytest.raises(ConfigError, match=r"\['slow'\]: a name is given twice"):
        Run(SLOW, SLOW)
