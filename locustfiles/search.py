"""Searches: `locust -f locustfiles/search.py --host http://127.0.0.1:8080`."""

from typing import ClassVar

from bench.load.driver import LoadUser


class Searching(LoadUser):
    """A user who searches."""

    tasks: ClassVar = [LoadUser.search]
