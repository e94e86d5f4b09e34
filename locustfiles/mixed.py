"""Searches, some questions, some documents: `locust -f locustfiles/mixed.py --host …`, `--tags search ask` for fewer.

It writes to the service unless `--exclude-tags ingest` is given.
"""

from typing import ClassVar

from bench.load.driver import LoadUser


class Mixed(LoadUser):
    """A user who does all there is to do: of ten requests eight are searches on average."""

    tasks: ClassVar = {LoadUser.search: 8, LoadUser.ask: 1, LoadUser.ingest: 1}
