"""pgvector: its graph index, in a PostgreSQL of this process's own or in one that is there already."""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import MeasurementError, UsageError
from bench.orphans import ending_with_the_parent
from bench.suites.peers.base import IntArray, Parameters, VectorPeer, pick
from brein.records import FloatArray

# pgvector's operators of distance, and the classes of operators that index them.
_OPERATORS = {
    "cosine": ("<=>", "vector_cosine_ops"),
    "inner_product": ("<#>", "vector_ip_ops"),
    "l2": ("<->", "vector_l2_ops"),
}
_START = 60.0  # seconds a server may take to answer


class Pgvector(VectorPeer):
    """Build: `m`, `ef_construction`, `dsn`. Search: `ef_search`, also the most rows that a search gives.

    `dsn` says which server; None starts one, in a folder of its own, that dies with this process. In a server
    that is there already the table is a new one and is dropped by `close`; its settings are its owner's.
    """

    NEEDS = ("psycopg", "pgvector", "pgserver")
    MODULES = ("psycopg", "pgvector.psycopg")
    SAVES = True
    IN_PROCESS = False
    _server: Server | None = None

    @classmethod
    def needs(cls, parameters: Parameters) -> tuple[str, ...]:
        """The server's wheel only where there is no other server."""
        own = parameters.get("dsn") is None
        return tuple(package for package in cls.NEEDS if own or package != "pgserver")

    @classmethod
    def saves(cls, parameters: Parameters) -> bool:
        """Only what a server of our own holds."""
        return parameters.get("dsn") is None

    def build(self, vectors: FloatArray, metric: str, parameters: Parameters) -> None:
        """Copy the rows into a table and index them."""
        from psycopg import sql

        settings = pick(parameters, m=16, ef_construction=64, dsn=None)
        self._table = f"bench_{secrets.token_hex(8)}"
        self._open(settings["dsn"], metric, None)
        atexit.register(self.close)  # a server of others keeps no table where this process fails
        table, name = sql.Identifier(self._table), sql.SQL
        self._run(name("CREATE TABLE {} (row bigint, vector vector({}))").format(table, vectors.shape[1]))
        copy = name("COPY {} (row, vector) FROM STDIN WITH (FORMAT BINARY)").format(table)
        with self._connection.cursor().copy(copy) as rows:
            rows.set_types(["int8", "vector"])
            for row, vector in enumerate(np.asarray(vectors)):
                rows.write_row((row, vector))
        # Not at a lack of workers, but of memory, does a build become slow.
        self._set("max_parallel_maintenance_workers", str(self.threads - 1))
        self._set("maintenance_work_mem", f"{2 * vectors.nbytes // 1024 + 65_536}kB")
        index = "CREATE INDEX ON {} USING hnsw (vector {}) WITH (m = {}, ef_construction = {})"
        options = name(self._operators[1]), int(settings["m"]), int(settings["ef_construction"])
        self._run(name(index).format(table, *options))
        self._run(name("ANALYZE {}").format(table))
        self._prepare()

    def _open(self, dsn: str | None, metric: str, data: Path | None) -> None:
        """Connect; to a server of our own, over a copy of `data` or over nothing, where there is no `dsn`."""
        import psycopg
        from pgvector.psycopg import register_vector

        self._operators = _OPERATORS[metric]
        if dsn is None:
            self._server = Server(self.threads, data)
            dsn = self._server.dsn
        try:
            self._connection: Any = psycopg.connect(dsn, autocommit=True, connect_timeout=10)
            self._run(psycopg.sql.SQL("CREATE EXTENSION IF NOT EXISTS vector"))
            register_vector(self._connection)
        except psycopg.Error as error:
            raise UsageError(f"suite.peers.dsn: {error}".splitlines()[0]) from None

    def _prepare(self) -> None:
        """What every search does, once: how it is asked, and that the index answers it."""
        from psycopg import sql

        ask = "SELECT row FROM {} ORDER BY vector {} %b LIMIT %s"
        self._query = sql.SQL(ask).format(sql.Identifier(self._table), sql.SQL(self._operators[0]))
        self._set("enable_seqscan", "off")  # small tables too are to be answered by the index
        self._cursor = self._connection.cursor(binary=True)

    def _run(self, statement: Any) -> None:
        self._connection.execute(statement)

    def _set(self, name: str, value: str) -> None:
        self._connection.execute("SELECT set_config(%s, %s, false)", (name, value))

    def tune(self, setting: Parameters) -> None:
        """Keep so many candidates."""
        self._set("hnsw.ef_search", str(pick(setting, ef_search=40)["ef_search"]))

    def search(self, queries: FloatArray, k: int) -> IntArray:
        """The nearest rows, one statement a query."""
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in zip(rows, queries, strict=True):
            found = self._cursor.execute(self._query, (query, k), prepare=True).fetchall()
            row[: len(found)] = [one for (one,) in found]
        return rows

    def memory(self) -> int:
        """Bytes of the table and its index, which the server keeps in memory as it sees fit."""
        size = "SELECT pg_total_relation_size(%s::regclass)"
        return int(self._connection.execute(size, (self._table,)).fetchone()[0])

    def save(self, folder: Path) -> None:
        """End the server and copy its files."""
        if self._server is None:
            raise UsageError("a table in a server of others is not saved")
        self._connection.close()
        self._server.stop()
        shutil.copytree(self._server.data, folder / "data")
        (folder / "table").write_text(self._table)

    def load(self, folder: Path, dimension: int, metric: str, parameters: Parameters) -> None:
        """Start a server over a copy of the files."""
        self._table = (folder / "table").read_text()
        self._open(None, metric, folder / "data")
        self._prepare()

    def close(self) -> None:
        """Drop the table, and end the server where it is ours."""
        from psycopg import sql

        atexit.unregister(self.close)
        if self._server is not None:
            self._connection.close()
            self._server.close()
        else:
            self._run(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(self._table)))
            self._connection.close()


class Server:
    """The PostgreSQL that the pgserver wheel brings, over a folder of its own: no network, nobody else.

    It ends with this process, however that ends; its folder stays only where this process is killed. Nothing
    here outlives a crash, so nothing waits for the disk.
    """

    _process: subprocess.Popen[bytes] | None = None

    def __init__(self, threads: int, source: Path | None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="bench-pg-"))
        atexit.register(self.close)
        self.data, self._log = self._folder / "data", self._folder / "server.log"
        try:
            if source is None:
                self._execute(
                    "initdb", "-D", self.data, "-U", "bench", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"
                )
            else:
                shutil.copytree(source, self.data)
            self._start(threads)
        except BaseException:
            self.close()
            raise
        self.dsn = f"host={self._folder} user=bench dbname=postgres"

    def _start(self, threads: int) -> None:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self._folder,
            "dynamic_shared_memory_type": "mmap",  # the system's own may be a few MiB, as in a container
            "shared_buffers": "1GB",
            "max_parallel_workers": threads,
            "max_worker_processes": threads + 8,
            "fsync": "off",
            "wal_level": "minimal",
            "max_wal_senders": "0",
            "autovacuum": "off",
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program("postgres"), "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,  # what this process says last is why it failed
                preexec_fn=ending_with_the_parent(signal.SIGQUIT),  # noqa: PLW1509  it only calls the kernel
                **self._as_user(),
            )
        self._wait_until_it_answers(self._process)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        """Raises MeasurementError: it ended, or did not answer in time."""
        waiting: list[Path | str] = [self._program("pg_isready"), "-q", "-h", self._folder, "-t", "1"]
        until = time.monotonic() + _START
        while subprocess.run(waiting, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() > until:
                said = self._log.read_text(errors="replace").splitlines()[-1:]
                raise MeasurementError(": ".join(["the PostgreSQL of pgserver does not start", *said]))
            time.sleep(0.05)

    def _execute(self, program: str, *arguments: Path | str) -> None:
        try:
            subprocess.run(
                [self._program(program), *arguments], check=True, stdout=subprocess.DEVNULL, **self._as_user()
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise UsageError(
                f"the PostgreSQL of pgserver does not run: {error}; give suite.peers.dsn"
            ) from None

    def _program(self, name: str) -> Path:
        # Importing pgserver would make folders and locks for servers of its own.
        spec = importlib.util.find_spec("pgserver")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError("pgserver is missing: pip install pgserver, or give suite.peers.dsn")
        return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / name

    def _as_user(self) -> dict[str, Any]:
        """PostgreSQL refuses to run as root: there it runs as nobody, who is given the folder."""
        if os.geteuid() != 0:
            return {}
        for path in (self._folder, *self._folder.rglob("*")):
            shutil.chown(path, "nobody")
        return {"user": "nobody", "cwd": "/"}

    def stop(self) -> None:
        """End the server, its files whole."""
        assert self._process is not None  # noqa: S101  it was started
        self._process.send_signal(signal.SIGINT)  # at once, without its clients' leave
        self._process.wait(_START)

    def close(self) -> None:
        """End the server and remove its folder."""
        atexit.unregister(self.close)
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
