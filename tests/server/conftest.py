"""A server in this process, and one of its own, both on a free port of this machine."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import httpx2
import pytest

from brein import Document, EngineConfig, embedding
from brein.embedding.hashing import HashingEmbedder, WordTokenizer
from brein.server.config import ServerConfig
from brein.server.serve import make_server
from brein.server.service import Service

HASHING = {"embedding": {"kind": "hashing", "dimension": 64}, "index": {"kind": "IndexFlat"}}
DOCUMENTS = [
    {"id": "violin", "text": "A violin has four strings. It is played with a bow.", "metadata": {"shelf": 1}},
    {
        "id": "cello",
        "text": "A cello is larger than a violin. It stands on the floor.",
        "metadata": {"shelf": 2},
    },
    {"id": "bread", "text": "Bread is made of flour and water.", "metadata": {"shelf": 3, "lang": "en"}},
]
LIMIT = 20  # seconds that anything here may take


class Running:
    """A server in a thread of this process."""

    def __init__(self, service, http, port):
        self.service, self.http, self.port = service, http, port
        self.url = f"http://127.0.0.1:{port}"

    @property
    def connections(self):
        return self.http.config.loaded_app._app.state.connections

    @contextmanager
    def client(self, **options):
        with httpx2.Client(base_url=self.url, timeout=LIMIT, trust_env=False, **options) as client:
            yield client

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT)

    def exchange(self, sent):
        """What comes back for these bytes until the server closes, which it may do while they are sent."""
        with self.connect() as raw:
            with suppress(ConnectionError):
                raw.sendall(sent)
            return self.rest_of(raw)

    @staticmethod
    def rest_of(raw):
        received = b""
        with suppress(ConnectionError):
            while data := raw.recv(65536):
                received += data
        return received

    def stats(self):
        return self.service.coordinator.stats()["hippocampus"]


@contextmanager
def running(key=None, engine=None, documents=DOCUMENTS, **settings):
    """A server that has these settings and holds these documents."""
    service = Service(EngineConfig.model_validate({**HASHING, **(engine or {})}))
    http = make_server(service, ServerConfig(**settings), key)
    listening = socket.create_server(("127.0.0.1", 0))
    ready = threading.Event()

    async def serve():
        await service.open()
        service.engine.ingest([Document(**document) for document in documents])
        ready.set()
        try:
            await http.serve(sockets=[listening])
        finally:
            await service.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(LIMIT)
        yield Running(service, http, listening.getsockname()[1])
    finally:
        http.should_exit = True
        thread.join(LIMIT)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server():
    with running() as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        yield client


@pytest.fixture(name="running")
def _running():
    return running


@pytest.fixture
def until():
    def until(condition):
        end = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.005)

    return until


class Gate:
    """Texts with `zz` are embedded once it is open."""

    def __init__(self):
        self.opened = threading.Event()
        self.reached = threading.Semaphore(0)

    def open(self):
        self.opened.set()


@pytest.fixture
def gate(monkeypatch):
    gate = Gate()

    class Waiting(HashingEmbedder):
        def embed(self, texts):
            if any("zz" in text for text in texts):
                gate.reached.release()
                assert gate.opened.wait(LIMIT)
            return super().embed(texts)

    monkeypatch.setitem(embedding.EMBEDDERS, "hashing", (Waiting, WordTokenizer))
    yield gate
    gate.open()


class Process:
    """`python -m brein serve` and the lines of its log."""

    def __init__(self, *arguments, **environment):
        settings = [f"engine.{name}={json.dumps(value)}" for name, value in HASHING.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "brein", "serve", "server.port=0", *settings, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.lines = []

    def until(self, event):
        """The log's next line of this event."""
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no {event} in {self.lines}")

    def start(self):
        """Its URL, once it is ready."""
        port = self.until("listening")["port"]
        self.until("ready")
        return f"http://127.0.0.1:{port}"

    def end(self):
        """Its exit code, and what it had to say still."""
        late = threading.Timer(LIMIT, self.process.kill)
        late.start()
        self.lines += [json.loads(line) for line in self.process.stderr]
        late.cancel()
        return self.process.wait(LIMIT)


@pytest.fixture
def start():
    """Start a process; it is ended here, where it did not end."""
    started = []

    def start(*arguments, **environment):
        started.append(Process(*arguments, **environment))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.process.kill()
        process.process.wait(LIMIT)
        process.process.stderr.close()
