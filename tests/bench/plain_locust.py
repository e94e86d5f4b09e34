"""A locustfile as anyone would write it: users who search at a constant pace."""

import os

from locust import FastHttpUser, constant_pacing, task


class Plain(FastHttpUser):
    """A user who searches every so many seconds."""

    wait_time = constant_pacing(float(os.environ["PACING"]))

    @task
    def search(self):
        self.client.post("/v1/search", json={"query": "What is a violin?", "k": 10})
