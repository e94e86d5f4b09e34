"""Searches, some questions, some documents: `locust -f locustfiles/mixed.py --host http://127.0.0.1:8080`.

It writes to the service unless `--exclude-tags ingest` is given.
"""

from typing import ClassVar

from locust import tag

from bench.load.driver import LoadUser


class Mixed(LoadUser):
    """A user who does all there is to do: of ten requests eight are searches on average."""

    tasks: ClassVar = {
        tag("search")(LoadUser.search): 8,
        tag("ask")(LoadUser.ask): 1,
        tag("ingest")(LoadUser.ingest): 1,
    }
