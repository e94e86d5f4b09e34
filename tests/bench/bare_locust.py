"""Bare FastHttpUsers who ask when the lab's users do, and what CPU that took.

Of a constant pace they would soon ask at once, which is cheaper: one wake-up reads many answers.
"""

import itertools
import os
import time
from pathlib import Path

import gevent
from locust import FastHttpUser, events, task

PACING, USERS = float(os.environ["PACING"]), int(os.environ["USERS"])
NUMBERS = itertools.count()


class Bare(FastHttpUser):
    """A user who searches every so many seconds, each in a turn of its own."""

    def on_start(self):
        self.due = self.environment.began + 1.0 + next(NUMBERS) * PACING / USERS
        gevent.sleep(self.due - time.monotonic())

    def wait_time(self):
        self.due += PACING
        return max(0.0, self.due - time.monotonic())

    @task
    def search(self):
        self.client.post("/v1/search", json={"query": "What is a violin?", "k": 10})


@events.test_start.add_listener
def start(environment, **_):
    environment.began, environment.used = time.monotonic(), time.process_time()


@events.test_stop.add_listener
def stop(environment, **_):
    Path(os.environ["USED"]).write_text(str(time.process_time() - environment.used))
