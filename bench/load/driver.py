"""What runs inside Locust's processes: users each of whose requests has an intended start, and rows of them.

Closed, users think after an answer or keep a pace, as Locust's own do; but a pace is kept: what a slow answer
held up is asked right after it, and counts from when it was to be asked. Open, a schedule computed beforehand
is sent: each process takes its share, and waits for no answer before it sends the next. Without `--rows`
nothing is kept but Locust's statistics.

Nothing of the engine is imported here: gevent's patching must meet neither torch nor asyncio.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import numpy as np
from gevent.pool import Group
from locust import FastHttpUser, events
from locust.contrib.fasthttp import LocustBadStatusCode
from locust.exception import StopUser
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from bench.load.requests import KINDS, NO_ANSWER, ROW, TIMED_OUT
from bench.orphans import end_with_the_parent

QUERIES = ("What is a violin?", "How do plants make sugar?", "Who discovered penicillin?")
_LEAD = 1.0  # seconds from Locust's start to the load's begin: the workers read their share meanwhile
_FLUSH = 0.5  # seconds between two writes of what is kept
_GONE = 10.0  # seconds without anything but connections refused or broken, after which a service is gone
_MOST_UNDER_WAY = 10_000  # connections of a process: as many files as Locust lets it open
_JSON = {"Content-Type": "application/json"}


class Sent(NamedTuple):
    """A request on its way: seconds of CLOCK_MONOTONIC, its number in the load, its query and its kind."""

    load: Load
    intended: float
    ready: float
    start: float
    number: int
    query: int
    kind: str


class Load:
    """This process's share of a load: what is asked, when, and what became of it."""

    def __init__(self, options: Any, worker: int, workers: int) -> None:
        self.texts = _texts(options.queries) if options.queries else list(QUERIES)
        self.questions = [json.dumps({"query": text, "k": options.k}).encode() for text in self.texts]
        self.picks = _array(options.picks) if options.picks else range(len(self.texts))
        self.numbers = itertools.count(worker, workers)
        self.arrivals = _array(options.schedule)[worker::workers].tolist() if options.schedule else None
        self.worker = worker
        self.begin = options.begin if options.machine == _machine() else time.monotonic() + _LEAD
        self.end = self.begin + options.seconds if options.seconds else float("inf")
        self.stagger = (self.begin + number * options.stagger for number in itertools.count(worker, workers))
        self.think_time = options.think_time
        self.pacing = None if options.pacing is None else float(options.pacing)
        self.timeout = options.timeout
        self.headers = _headers(options.key_variable)
        self.users = 0
        self.gone = False
        self._silent_since: float | None = None
        self._sample = options.sample
        self._rows: list[tuple[float | int, ...]] = []
        self._answers: list[str] = []
        self._folder = Path(options.rows) if options.rows else None
        random.seed(worker)  # Locust draws from it which task is next
        if self._folder is not None:
            self._writer = gevent.spawn(self._flush_now_and_then)

    def query(self, number: int) -> int:
        """The query that a request asks."""
        return int(self.picks[number % len(self.picks)])

    def keep(self, sent: Sent, response: Any, error: BaseException | None) -> None:
        """Keep what became of a request."""
        end, status = time.monotonic(), _status(response, error)
        if status != NO_ANSWER:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = end
        else:
            self.gone = self.gone or end - self._silent_since > _GONE
        if self._folder is None:
            return
        times = [at - self.begin for at in (sent.intended, sent.ready, sent.start, end)]
        self._rows.append((*times, status, 0, self.worker, sent.query, KINDS.index(sent.kind)))
        sampled = self._sample and sent.number % self._sample == 0
        if sampled and status == 200 and sent.kind != "ingest":
            ids = [hit["id"] for hit in json.loads(response.content)["hits"]]
            self._answers.append(json.dumps({"query": sent.query, "intended": times[0], "ids": ids}) + "\n")

    def flush(self) -> None:
        """Append to the files what was kept since the last time, and the CPU seconds used by now."""
        if self._folder is None:
            return
        rows, self._rows = self._rows, []
        answers, self._answers = self._answers, []
        used = np.array([time.monotonic() - self.begin, time.process_time()])
        for name, data in (
            ("rows-{}.bin", np.array(rows, ROW).tobytes()),
            ("answers-{}.jsonl", "".join(answers).encode()),
            ("used-{}.bin", used.tobytes()),
        ):
            with (self._folder / name.format(self.worker)).open("ab") as file:
                file.write(data)

    def finish(self) -> None:
        """Write down that the load has ended, and why if before its time."""
        self.flush()
        if self._folder is not None:
            self._writer.kill()
            reason = f"the service took no connection for {_GONE:g} s" if self.gone else ""
            (self._folder / f"ended-{self.worker}").write_text(reason)

    def _flush_now_and_then(self) -> None:
        while True:
            self.flush()
            gevent.sleep(_FLUSH)


class LoadUser(FastHttpUser):  # type: ignore[misc]  # locust is hardly typed
    """A user who asks what `tasks` says: by turns, or in place of all those who come on a schedule."""

    abstract = True
    concurrency = _MOST_UNDER_WAY
    tasks: list[Any]
    intended: float
    ready: float
    number: int

    def __init__(self, environment: Any) -> None:
        self.load: Load = environment.load
        self.network_timeout = self.connection_timeout = self.load.timeout
        self.default_headers = self.load.headers
        super().__init__(environment)
        if self.load.arrivals is not None:
            self.asks, self.tasks = self.tasks, [LoadUser.send_schedule]

    # --- what tasks are made of ----------------------------------------------------------------------

    def search(self) -> None:
        """Search for a text."""
        self._post("search", "/v1/search")

    def ask(self) -> None:
        """Ask a question."""
        self._post("ask", "/v1/ask")

    def ingest(self) -> None:
        """Have a text remembered, under an id of its own."""
        self._post("ingest", "/v1/documents")

    def _post(self, kind: str, path: str) -> None:
        load, number = self.load, self.number
        query = load.query(number)
        body = load.questions[query]
        if kind == "ingest":
            document = {"id": f"load-{number}", "text": load.texts[query]}
            body = json.dumps({"documents": [document]}).encode()
        sent = Sent(load, self.intended, self.ready, time.monotonic(), number, query, kind)
        self.client.post(path, data=body, headers=_JSON, context={"sent": sent})

    # --- when ----------------------------------------------------------------------------------------

    def on_start(self) -> None:
        """Wait for one's turn to begin."""
        self.load.users += 1
        if self.load.arrivals is None:
            self._intend(next(self.load.stagger))
            _sleep_until(self.intended)

    def wait_time(self) -> float:
        """Seconds until the next request can be sent."""
        load, now = self.load, time.monotonic()
        self._intend(now + load.think_time if load.pacing is None else self.intended + load.pacing)
        self.ready = max(self.intended, now)
        if load.gone or self.intended >= load.end:
            raise StopUser
        return self.ready - now

    def on_stop(self) -> None:
        """Leave; the last one ends this process's share of the load."""
        self.load.users -= 1
        if not self.load.users:
            self.load.finish()
            if self.environment.runner.state in (STATE_SPAWNING, STATE_RUNNING):  # else it was told to end
                self.environment.runner.send_message("ended")

    def send_schedule(self) -> None:
        """Send each request of the schedule when it is due, whatever became of those before."""
        load, under_way = self.load, Group()
        arrivals, load.arrivals = load.arrivals, []  # another user of this process finds none left
        for intended in arrivals or []:
            _sleep_until(load.begin + intended)
            if load.gone:
                break
            user = copy.copy(self)  # whoever comes asks once, over the connections that all share
            user._intend(load.begin + intended)
            under_way.spawn(random.choice(self.asks), user)  # noqa: S311  as Locust does
        under_way.join()
        raise StopUser

    def _intend(self, at: float) -> None:
        self.intended = self.ready = at
        self.number = next(self.load.numbers)


def _sleep_until(at: float) -> None:
    gevent.sleep(max(0.0, at - time.monotonic()))  # 0 lets others go on, when this one is late


def _status(response: Any, error: BaseException | None) -> int:
    """Of HTTP, or why there is none."""
    if error is None or isinstance(error, LocustBadStatusCode):
        return int(response.status_code)
    return TIMED_OUT if isinstance(getattr(error, "original", error), TimeoutError) else NO_ANSWER


def _headers(key_variable: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {os.environ[key_variable]}"} if key_variable else {}


def _texts(path: str) -> list[str]:
    with Path(path).open() as lines:
        return [json.loads(line)["text"] for line in lines if line.strip()]


def _array(path: str) -> Any:
    return np.load(path, allow_pickle=False)


def _path(given: str) -> str:
    if not Path(given).exists():
        raise argparse.ArgumentTypeError(f"{given!r} does not exist")
    return given


def _machine() -> str:
    """What tells this machine, since it started, from others: all its processes share CLOCK_MONOTONIC."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else platform.node()


# --- what Locust calls -------------------------------------------------------------------------------


def add_options(parser: Any) -> None:
    """Say what this module understands on Locust's command line; --help shows it."""
    shown = {"include_in_web_ui": True}
    hidden = {"include_in_web_ui": False}
    for name, kind, default, where, meaning in (
        ("--k", int, 10, shown, "documents wanted of a search"),
        ("--think-time", float, 1.0, shown, "seconds from an answer to the user's next request"),
        ("--pacing", float, None, hidden, "seconds from one intended start to the next, instead of thinking"),
        ("--stagger", float, 0.0, hidden, "seconds between the first requests of two users"),
        ("--seconds", float, None, hidden, "seconds after which users ask no more"),
        (
            "--schedule",
            _path,
            None,
            hidden,
            "seconds at which requests are due, float64 in .npy: an open load",
        ),
        ("--queries", _path, None, hidden, 'texts to ask, or to ingest: lines of JSON, {"text": ...}'),
        (
            "--picks",
            _path,
            None,
            hidden,
            "rows of the queries in the order they are asked, int64 in .npy",
        ),
        ("--key-variable", str, None, hidden, "environment variable that holds the API key of the service"),
        (
            "--timeout",
            float,
            10.0,
            hidden,
            "seconds without a sign of the service: a request failed",
        ),
        ("--rows", _path, None, hidden, "folder to write a row for each request to"),
        (
            "--sample",
            int,
            0,
            hidden,
            "of so many searches one keeps the ids it found; 0: none does",
        ),
    ):
        parser.add_argument(name, type=kind, default=default, help=meaning, **where)
    parser.add_argument(
        "--end-with-parent",
        action="store_true",
        help="be killed when the process that started this one ends",
        include_in_web_ui=False,
    )


def prepare(environment: Any, runner: Any, **_: Any) -> None:
    """Get ready to be started, once or, from the web page, many times."""
    if environment.parsed_options.end_with_parent:
        end_with_the_parent()
    if not isinstance(runner, WorkerRunner):
        runner.register_message("ended", lambda environment, msg, **_: environment.ended.add(msg.node_id))


def start(environment: Any, **_: Any) -> None:
    """Agree on when the load begins, and read this process's share of it."""
    options, runner = environment.parsed_options, environment.runner
    try:
        if not isinstance(runner, WorkerRunner):
            # Locust sends options that it does not know itself to all workers.
            options.begin, options.machine = time.monotonic() + _LEAD, _machine()
            if options.rows:
                (Path(options.rows) / "begin").write_text(repr(options.begin))
            environment.ended = set()
            gevent.spawn(_stop_in_the_end, environment)
        if not isinstance(runner, MasterRunner):
            workers = options.expect_workers if isinstance(runner, WorkerRunner) else 1
            environment.load = Load(options, runner.worker_index, workers)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"the load cannot be read: {type(error).__name__}: {error}")


def _stop_in_the_end(environment: Any) -> None:
    runner, ended = environment.runner, environment.ended
    while environment.ended is ended and not _is_over(environment):
        gevent.sleep(0.1)
    if environment.ended is not ended:  # it was started anew, from the web page
        return
    if environment.parsed_options.headless:
        runner.quit()
    else:
        runner.stop()


def _is_over(environment: Any) -> bool:
    """Whether all workers have ended, or one is missing of those whose rows are to be whole."""
    runner, ended = environment.runner, environment.ended
    if not isinstance(runner, MasterRunner):
        return bool(ended)
    died = environment.parsed_options.rows and runner.clients.missing
    return bool(died) or ended.issuperset(runner.clients)


def keep(response: Any, exception: BaseException | None, context: dict[str, Any], **_: Any) -> None:
    """Keep what became of a request."""
    sent = context.get("sent")
    if sent is not None:
        sent.load.keep(sent, response, exception)


def leave(environment: Any, **_: Any) -> None:
    """Write what was kept and not written yet."""
    load = getattr(environment, "load", None)
    if load is not None:
        load.flush()


for event, listener in (
    (events.init_command_line_parser, add_options),
    (events.init, prepare),
    (events.test_start, start),
    (events.request, keep),
    (events.quitting, leave),
):
    event.add_listener(listener)
