"""Questions: `locust -f locustfiles/ask.py --host http://127.0.0.1:8080`."""

from typing import ClassVar

from bench.load.driver import LoadUser


class Asking(LoadUser):
    """A user who asks questions."""

    tasks: ClassVar = [LoadUser.ask]
