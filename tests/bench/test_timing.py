import time

import pytest

from bench import timing
from bench.timing import time_each


class Clock:
    """A clock that stands still except for what is spent on it."""

    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now

    def spend(self, seconds):
        self.now += seconds
        return f"took {seconds}"


def test_only_the_operation_is_timed():
    clock = Clock(100.0)

    def arguments():
        for seconds in (1.0, 2.0, 4.0):
            clock.spend(1000.0)
            yield seconds

    timed = time_each(clock.spend, arguments(), clock)
    assert [one.seconds for one in timed] == [1.0, 2.0, 4.0]
    assert [one.start for one in timed] == [1000.0, 2001.0, 3003.0]
    assert [one.given for one in timed] == ["took 1.0", "took 2.0", "took 4.0"]


def test_nothing_to_do_takes_no_time():
    assert time_each(str, [], Clock(0.0)) == []


@pytest.mark.parametrize("repeatable", [True, False])
def test_after_a_turn_of_others_what_can_be_done_again_is_done_untimed(monkeypatch, repeatable):
    monkeypatch.setattr(timing, "end_turn", lambda: time.sleep(0.005))
    asked, clock = [], Clock(0.0)

    def operation(argument):
        asked.append(argument)
        return clock.spend(timing.LONG_TURN if argument == 2 else 0.001)

    timed = time_each(operation, range(4), clock, repeatable=repeatable)
    assert [one.seconds for one in timed] == pytest.approx([0.001, 0.001, timing.LONG_TURN, 0.001])
    again = asked[3:-1]
    assert asked[:3] == [0, 1, 2]
    assert asked[-1] == 3
    assert again[:6] == ([0, 1, 2, 0, 1, 2] if repeatable else [])


def test_nothing_is_done_again_where_nobody_else_had_a_turn(monkeypatch):
    turns, asked, clock = [], [], Clock(0.0)
    monkeypatch.setattr(timing, "end_turn", lambda: turns.append(len(asked)))
    monkeypatch.setattr(timing, "_ALONE", 60.0)  # however busy the machine

    def operation(argument):
        asked.append(argument)
        return clock.spend(0.03)

    time_each(operation, range(6), clock, repeatable=True)
    assert asked == list(range(6))
    assert turns == [2, 4, 6]
