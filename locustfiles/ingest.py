"""Documents to remember: `locust -f locustfiles/ingest.py --host http://127.0.0.1:8080`.

It writes to the service.
"""

from typing import ClassVar

from bench.load.driver import LoadUser


class Ingesting(LoadUser):
    """A user who has texts remembered."""

    tasks: ClassVar = [LoadUser.ingest]
