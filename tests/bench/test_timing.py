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
