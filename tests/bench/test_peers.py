"""One contract for every adapter: what is installed is tested, what is not says what it needs."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import psutil
import pytest

from bench.errors import MeasurementError, UsageError
from bench.suites.peers.adapters import PEERS, adapter, pgvector
from bench.suites.peers.base import TextPeer, VectorPeer
from bench.workload import truth
from brein.embedding.hashing import HashingConfig, HashingEmbedder

ROWS, DIMENSION, K = 400, 16, 10
GRAPH = {"kind": "IndexHNSW", "M": 16, "efConstruction": 100}
# What it is built with, and a setting with which its search is exact or nearly so.
CASES = {
    "brein_index": (GRAPH, {"efSearch": 400}),
    "faiss": ({"factory": "HNSW16,Flat", "efConstruction": 100}, {"efSearch": 400}),
    "hnswlib": ({"M": 16, "ef_construction": 100}, {"ef": 400}),
    "usearch": ({"connectivity": 16, "expansion_add": 100}, {"expansion_search": 400}),
    "scann": ({"num_leaves": 10, "reorder": 400}, {"leaves_to_search": 10}),
    "pgvector": ({"m": 16, "ef_construction": 100, "dsn": None}, {"ef_search": 400}),
    "http": ({"url": "to be told", "careful": True}, {"width": 3}),
    "brein_engine": ({"index": GRAPH}, {"efSearch": 400}),
    "txtai": ({}, {}),
    "chromadb": ({"max_neighbors": 16, "ef_construction": 100, "ef_search": 400}, {}),
    "llama_index": ({}, {}),
}
SLOW = {"pgvector", "txtai", "chromadb", "llama_index"}


def cases(kind):
    return [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name, made in PEERS.items()
        if issubclass(made, kind)
    ]


@pytest.fixture(scope="module")
def data():
    random = np.random.default_rng(0)
    lengths = random.uniform(0.5, 2.0, (ROWS + 30, 1)).astype(np.float32)
    drawn = random.standard_normal((ROWS + 30, DIMENSION), dtype=np.float32) * lengths
    return drawn[:ROWS], drawn[ROWS:]


@pytest.fixture
def http_url():
    """An engine behind HTTP, as somebody else might have written it."""
    held = {}

    class Exact(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = {}
            if self.path == "/mine/build":
                assert asked["parameters"] == {"careful": True}
                blocks = [] if asked["start"] == 0 else held["blocks"]
                held.update(blocks=[*blocks, *asked["vectors"]], metric=asked["metric"], total=asked["total"])
            elif self.path == "/mine/search" and held:
                assert len(held["blocks"]) == held["total"]
                assert asked["parameters"] == {"width": 3}
                vectors, queries = (np.float32(part) for part in (held["blocks"], asked["queries"]))
                answer["rows"] = truth.exact_search(vectors, queries, asked["k"], held["metric"]).tolist()
            else:
                held.clear()
            body = json.dumps(answer).encode()
            self.send_response(200 if self.path.startswith("/mine/") else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *ignored):
            pass

    Exact.protocol_version, Exact.wbufsize = "HTTP/1.1", -1
    with HTTPServer(("127.0.0.1", 0), Exact) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}/mine/"
        server.shutdown()
        serving.join()
    assert not held, "close was not said"


@pytest.fixture(scope="module")
def dsn():
    """A PostgreSQL that is there already."""
    made("pgvector")
    try:
        server = pgvector.Server(1, None)
    except UsageError as error:  # nobody may run it here
        pytest.skip(f"needs pgserver: {error}")
    yield server.dsn
    server.close()


FAILING = """
import os, sys
import numpy as np
from bench.suites.peers.adapters.pgvector import Pgvector

peer = Pgvector(1)
given = {} if sys.argv[1] == "own" else {"dsn": sys.argv[1]}
peer.build(np.eye(8, dtype=np.float32), "l2", given)
print(peer._server._process.pid if peer._server else peer._table, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), 9)
raise RuntimeError("it went wrong")
"""


def failing(dsn, how, folder):
    """What a process prints that fails with a table built; and what it says last."""
    asked = [sys.executable, "-c", FAILING, dsn, how]
    variables = {**os.environ, "TMPDIR": str(folder)}
    ended = subprocess.run(asked, env=variables, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode != 0
    return ended.stdout.strip(), ended.stderr.strip().splitlines()[-1:]


@pytest.fixture
def open_folder():
    """A folder that the user nobody can reach, too."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("how", ["failed", "killed"])
def test_a_server_of_its_own_ends_with_a_process_that_does_not_end_well(how, dsn, open_folder):
    pid, last = failing("own", how, open_folder)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(20)
    if how == "failed":
        assert last == ["RuntimeError: it went wrong"]
        assert not list(open_folder.iterdir())


@pytest.mark.slow
def test_a_process_that_fails_leaves_no_table_in_a_server_of_others(dsn, tmp_path):
    import psycopg

    table, last = failing(dsn, "failed", tmp_path)
    assert last == ["RuntimeError: it went wrong"]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT to_regclass(%s)", (table,)).fetchone() == (None,)


def test_a_server_that_is_there_already_takes_no_wheel():
    needs = PEERS["pgvector"].needs
    assert set(needs({})) - set(needs({"dsn": "host=h"})) == {"pgserver"}


def parameters(name, request):
    build, setting = CASES[name]
    if name == "http":
        build = {**build, "url": request.getfixturevalue("http_url")}
    if name == "pgvector":
        build = {**build, "dsn": request.getfixturevalue("dsn")}
    return build, setting


def made(name):
    """An adapter, where all that it needs is here."""
    found = PEERS[name]
    for package in found.NEEDS:
        try:
            version(package)
        except PackageNotFoundError:
            pytest.skip(f"needs {package}")
    return found(1)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
@pytest.mark.parametrize("name", cases(VectorPeer))
def test_vectors_in_the_nearest_rows_out(name, metric, data, request):
    vectors, queries = data
    build, setting = parameters(name, request)
    peer = made(name)
    peer.build(vectors, metric, build)
    try:
        peer.tune(setting)
        rows = np.asarray(peer.search(queries, K))
        nearest = truth.exact_search(vectors, queries, K, metric)
        found = [len(set(a) & set(b)) for a, b in zip(rows.tolist(), nearest.tolist(), strict=True)]
        assert np.mean(found) >= 0.9 * K
        assert np.issubdtype(rows.dtype, np.integer)
        assert rows.shape == (len(queries), K)
        assert all(len(set(row)) == K and set(row) <= set(range(ROWS)) for row in rows.tolist())
        one_by_one = [peer.search(query[None], K)[0].tolist() for query in queries]
        assert one_by_one == rows.tolist()
        # Nearest first, ties and rounding apart.
        away = [
            truth.distances(vectors[row], query, metric) for row, query in zip(rows, queries, strict=True)
        ]
        assert all((np.diff(distances) >= -1e-4).all() for distances in away)
    finally:
        peer.close()


@pytest.mark.parametrize("name", cases(VectorPeer))
def test_asked_for_more_than_there_are_it_gives_all_once(name, data, request):
    vectors, queries = data
    build, setting = parameters(name, request)
    few = vectors[:30]
    peer = made(name)
    peer.build(few, "l2", build)
    try:
        peer.tune(setting)
        for batch in (queries[:1], queries[:3]):
            for row in np.asarray(peer.search(batch, 50)).tolist():
                assert sorted(one for one in row if one >= 0) == list(range(len(few)))
    finally:
        peer.close()


@pytest.mark.parametrize("name", cases(VectorPeer))
def test_what_is_saved_is_found_again(name, data, tmp_path, request):
    vectors, queries = data
    build, setting = CASES[name]
    if not PEERS[name].saves(build):
        pytest.skip(f"{name} saves nothing")
    if name == "pgvector":
        request.getfixturevalue("dsn")  # it runs here
    first = made(name)
    first.build(vectors, "cosine", build)
    first.tune(setting)
    rows = first.search(queries, K).tolist()
    first.save(tmp_path)
    first.close()
    kept = sorted(path.name for path in tmp_path.rglob("*"))
    again = made(name)
    again.load(tmp_path, DIMENSION, "cosine", build)
    again.tune(setting)
    assert again.search(queries, K).tolist() == rows
    again.close()
    assert sorted(path.name for path in tmp_path.rglob("*")) == kept


@pytest.mark.parametrize("name", cases(VectorPeer))
def test_a_parameter_that_it_does_not_have_is_refused(name, data):
    if name == "http":
        pytest.skip("whoever answers decides")
    peer = made(name)
    with pytest.raises((UsageError, ValueError), match="nonsense"):
        peer.build(data[0][:50], "l2", {**CASES[name][0], "nonsense": 1})


@pytest.mark.parametrize("name", cases(TextPeer))
def test_text_in_the_nearest_rows_out(name):
    embedder = HashingEmbedder(HashingConfig(dimension=64))
    words = ["tree", "violin", "river", "engine", "cloud", "stone", "letter", "garden", "mirror", "window"]
    texts = [f"{words[n % 10]} {words[n // 10]} number {n}" for n in range(100)]
    peer = made(name)
    build, setting = CASES[name]
    peer.build(texts, embedder.embed, build)
    try:
        peer.tune(setting)
        asked = texts[7::9]
        for text, row in zip(asked, range(7, 100, 9), strict=True):
            found = list(peer.search(text, K))
            assert found[0] == row
            assert len(set(found)) == K
            assert all(isinstance(one, int) and 0 <= one < 100 for one in found)
        nearest = truth.exact_search(embedder.embed(texts), embedder.embed(["river of stone"]), 1, "cosine")
        assert peer.search("river of stone", 1)[0] == nearest[0][0]
        more = list(peer.search(texts[0], 150))  # txtai leaves out what is at right angles
        assert 50 < len(more) == len(set(more)) <= 100
    finally:
        peer.close()


def test_an_endpoint_that_does_not_answer_says_so(data):
    peer = PEERS["http"](1)
    with pytest.raises(MeasurementError, match=r"/build gave no answer: ConnectionRefusedError"):
        peer.build(data[0], "l2", {"url": "http://127.0.0.1:9"})
    for url in ("ftp://host", "http://me@host", "http://host/mine?key=1"):
        with pytest.raises(UsageError, match="without a user or"):
            peer.build(data[0], "l2", {"url": url})


class Answers(BaseHTTPRequestHandler):
    """An engine that takes everything and answers what it was made to."""

    answer = b"{}"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b"{}" if self.path.endswith("/build") else self.answer
        self.send_response(302 if body == b"elsewhere" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *ignored):
        pass


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"{}", r"/search must answer \{\"rows\": .*KeyError"),
        (b"[]", "/search must answer"),
        (b'{"rows": [[1]]}', "a list for each of 2 queries"),
        (b'{"rows": [["a"], ["b"]]}', "/search must answer"),
        (b"<html>", "/search gave no answer: JSONDecodeError"),
        (b"elsewhere", "/search answered 302"),
        (b" " * 200, "/search answered more than 100 bytes"),
    ],
)
def test_an_endpoint_that_answers_something_else_says_so(answer, said, data, monkeypatch):
    monkeypatch.setattr("bench.suites.peers.adapters.http._MOST", 100)
    monkeypatch.setattr(Answers, "answer", answer)
    peer = PEERS["http"](1)
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            peer.build(data[0], "l2", {"url": f"http://127.0.0.1:{server.server_port}"})
            with pytest.raises(MeasurementError, match=said):
                peer.search(data[1][:2], K)
        finally:
            server.shutdown()
            serving.join()


MINE = """
import numpy as np
from bench.suites.peers.base import VectorPeer

class Mine(VectorPeer):
    def build(self, vectors, metric, parameters):
        self.vectors = vectors
    def search(self, queries, k):
        return np.argsort(-queries @ self.vectors.T, axis=1)[:, :k]
    def close(self):
        del self.vectors
"""


def test_a_file_of_ones_own_is_an_adapter(tmp_path, data):
    (tmp_path / "mine.py").write_text(MINE)
    peer = adapter(str(tmp_path / "mine.py"))(1)
    vectors, queries = data
    peer.build(vectors, "inner_product", {})
    nearest = truth.exact_search(vectors, queries, K, "inner_product")
    assert peer.search(queries, K).tolist() == nearest.tolist()
    with pytest.raises(UsageError, match="has no parameters of its searches"):
        peer.tune({"ef": 3})


def test_a_file_of_ones_own_may_have_a_dataclass(tmp_path):
    state = "from __future__ import annotations\nimport dataclasses\n"
    state += "@dataclasses.dataclass\nclass State:\n    rows: int\n"
    (tmp_path / "mine.py").write_text(state + MINE)
    assert adapter(str(tmp_path / "mine.py")).__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nonsense", "cannot be run: ModuleNotFoundError: No module named 'nonsense'"),
        ("x = 1", "defines 0 adapters"),
        (MINE + MINE.replace("Mine", "Other"), "defines 2 adapters"),
    ],
)
def test_a_file_that_is_no_adapter_is_refused(tmp_path, text, said):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UsageError, match=said):
        adapter(str(tmp_path / "mine.py"))


def test_an_unknown_adapter_names_the_known():
    with pytest.raises(UsageError, match="'nmslib' is unknown; known adapters: brein_index, faiss, hnswlib"):
        adapter("nmslib")


def test_every_adapter_has_a_case():
    assert set(CASES) == set(PEERS)


def test_every_adapter_of_a_library_has_it_imported_before_it_is_timed():
    assert all(made.MODULES for made in PEERS.values() if made.NEEDS or made.IS_ENGINE)
