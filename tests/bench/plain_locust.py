"""A locustfile as anyone would write it: searches at a constant pace. At its end it says what CPU it took."""

import os
import time
from pathlib import Path

from locust import FastHttpUser, constant_pacing, events, task


class Plain(FastHttpUser):
    """A user who searches every so many seconds."""

    wait_time = constant_pacing(float(os.environ["PACING"]))

    @task
    def search(self):
        self.client.post("/v1/search", json={"query": "What is a violin?", "k": 10})


@events.test_start.add_listener
def start(environment, **_):
    environment.used = time.process_time()


@events.test_stop.add_listener
def stop(environment, **_):
    Path(os.environ["USED"]).write_text(str(time.process_time() - environment.used))
