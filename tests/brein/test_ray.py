"""An index in shards on a real Ray cluster, two nodes of this machine: whole answers, or what is missing."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx2
import numpy as np
import psutil
import pytest

from brein import Document, Engine, EngineConfig
from brein.embedding.hashing import HashingConfig
from brein.errors import ClosedError, ClusterError, ConfigError, DataError, ShardsMissingError
from brein.index.flat import FlatConfig
from brein.retrieval.pipeline import LexicalConfig, RetrievalConfig
from brein.retrieval.stages import LegConfig
from brein.scaling import ScalingConfig, join
from brein.scaling.cluster import ClusterEngine
from brein.sharding import shard_of

COUNT, SHARDS = 400, 4
TEXTS = ["alpha beta", "gamma", "text of document 7", "delta epsilon alpha"]
FRENCH = {"lang": "fr", "row": {"lt": 300}}
SETTINGS = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback alone, as on those systems
    "RAY_USAGE_STATS_ENABLED": "0",
}
ALIKE = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}


@pytest.fixture(scope="module")
def nodes():
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}  # to notice a node's death
    terminated = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)  # some are read when Ray is imported
        from ray.cluster_utils import Cluster

        started = Cluster()
        try:
            started.add_node(**ALIKE, include_dashboard=False, _system_config=quick)
            started.add_node(**ALIKE)
            yield started
        finally:
            started.shutdown()
            signal.signal(signal.SIGTERM, terminated)  # Ray has put a handler of its own there


def config(folder, metric="cosine"):
    unhurried = {"vectors": LegConfig(budget=60.0), "lexical": LexicalConfig(budget=60.0)}
    return EngineConfig(
        path=folder,
        index=FlatConfig(metric=metric),
        embedding=HashingConfig(dimension=16),
        retrieval=RetrievalConfig(**unhurried),
    )


def ranking(hits):
    return [(hit.id, hit.score, hit.text) for hit in hits]


def without(expected, lost):
    return [one for one in expected if shard_of(one[0], SHARDS) not in lost]


@pytest.fixture(scope="module")
def engine_folder(tmp_path_factory, vectors):
    """An engine's folder, filled; every tenth vector is there twice."""
    folder = tmp_path_factory.mktemp("served") / "engine"
    rows = vectors.copy()
    rows[1::10] = rows[::10]
    words = ["alpha", "beta", "gamma", "delta", "epsilon"]
    documents = [
        Document(
            f"document {row}",
            f"text of document {row}: {words[row % 5]} {words[row // 5 % 5]}",
            {"lang": "fr" if row % 3 else "en", "row": row},
        )
        for row in np.random.default_rng(3).permutation(COUNT).tolist()
    ]
    with Engine.open(config(folder)) as engine:
        engine.ingest(documents, rows)
    return folder


@pytest.fixture(scope="module")
def expected(engine_folder, queries):
    """What the engine answers by itself: to vectors all it has, to texts and with a filter the best."""
    with Engine.open(config(engine_folder)) as engine:
        return {
            "vectors": [ranking(engine.search(query, COUNT)) for query in queries],
            "filtered": [ranking(engine.search(query, 50, FRENCH)) for query in queries],
            "texts": [ranking(engine.retrieve(text, 20).hits) for text in TEXTS],
        }


def scaling(nodes, **settings):
    return ScalingConfig(kind="ray", address=nodes.address, **{"shards": SHARDS, "timeout": 2.0, **settings})


class Load:
    """Asks for the nearest to one vector after the other, from two threads, and keeps what came of it."""

    def __init__(self, engine, queries):
        self.outcomes = []  # which query, the hits, the shards that are missing
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self._clients = [self._pool.submit(self._ask, engine, queries, first) for first in range(2)]

    def _ask(self, engine, queries, first):
        for turn in count(first, 2):
            if self._ended.is_set():
                return
            number = turn % len(queries)
            try:
                self.outcomes.append((number, ranking(engine.search(queries[number], 10)), set()))
            except ShardsMissingError as partial:
                self.outcomes.append((number, ranking(partial.found), set(partial.missing)))

    def until(self, condition, seconds=90.0):
        """Wait until an outcome from now on meets a condition."""
        seen, deadline = len(self.outcomes), time.monotonic() + seconds
        while not any(condition(missing) for _, _, missing in self.outcomes[seen:]):
            assert time.monotonic() < deadline, f"{len(self.outcomes) - seen} searches, none of them so"
            for client in self._clients:
                if client.done():
                    client.result()  # it has failed
            self._ended.wait(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._ended.set()
        for client in self._clients:
            client.result(30)
        self._pool.shutdown()


@pytest.mark.slow
def test_a_cluster_answers_as_one_process_and_a_lost_node_is_named_until_another_takes_its_place(
    nodes, engine_folder, expected, queries
):
    terminated = signal.getsignal(signal.SIGTERM)
    with ClusterEngine.open(config(engine_folder), scaling(nodes)) as engine:
        assert signal.getsignal(signal.SIGTERM) is terminated  # Ray has put a handler of its own there

        # Whole, and the same as in one process.
        for query, everything, french in zip(queries, expected["vectors"], expected["filtered"], strict=True):
            assert ranking(engine.search(query, COUNT)) == everything
            assert ranking(engine.search(query, 1)) == everything[:1]
            assert ranking(engine.search(query, 50, FRENCH)) == french
        assert [ranking(engine.retrieve(text, 20).hits) for text in TEXTS] == expected["texts"]
        assert ranking(engine.search(TEXTS[0], 20)) == expected["texts"][0]
        assert engine.search(queries[0], 5, {"lang": "none has it"}) == []
        with pytest.raises(DataError, match=r"shape"):
            engine.search(queries[0][:3], 5)
        healthy = engine.health()
        assert [(one.shard, one.running, one.wanted, one.problem) for one in healthy] == [
            (shard, 1, 1, None) for shard in range(SHARDS)
        ]
        on = {one.shard: one.node for one in healthy}
        assert len(set(on.values())) == 2

        # It does not change while it is served.
        for change in (
            lambda: engine.ingest([Document("new", "new")]),
            lambda: engine.delete(["document 1"]),
        ):
            with pytest.raises(ClusterError, match=r"open the engine without scaling"):
                change()
        with pytest.raises(ConfigError, match=r"serve them anew"):
            engine.retune(FlatConfig())
        with pytest.raises(ConfigError, match=r"scaling.timeout = 2 s: must be below"):
            engine.retune(RetrievalConfig(vectors=LegConfig(budget=2.0)))
        assert len(engine) == COUNT

        # A node is lost: Ray has no cores left for its shards.
        worker = nodes.list_all_nodes()[1]
        lost = {shard for shard, node in on.items() if node == worker.node_id}
        assert len(lost) == 2
        with Load(engine, queries) as load:
            load.until(lambda missing: not missing)
            nodes.remove_node(worker, allow_graceful=False)
            load.until(lambda missing: missing == lost)
            found = engine.retrieve("zeta text of nothing", 20)
            assert set(found.missing) == lost
            assert all(f"shard {shard}: no answer in 2 s" in found.degraded for shard in lost)
            with pytest.raises(ShardsMissingError, match=r"the answer is partial"):
                engine.search("zeta text of nothing", 20)
            assert {one.shard for one in engine.health() if one.problem} == lost
            # A shard that holds nothing of what is allowed is not missed.
            row = next(row for row in range(COUNT) if shard_of(f"document {row}", SHARDS) not in lost)
            assert [hit.id for hit in engine.search(queries[0], 5, {"row": row})] == [f"document {row}"]

            # Another takes its place.
            nodes.add_node(**ALIKE)
            load.until(lambda missing: not missing)
        assert not engine.retrieve("zeta text of nothing", 20).missing  # a partial answer was not kept
        assert {one.node for one in engine.health()} & {on[shard] for shard in lost} == set()

        for number, hits, missing in load.outcomes:
            assert missing <= lost
            assert hits == without(expected["vectors"][number], missing)[:10]
    with pytest.raises(ClosedError):
        engine.search(queries[0], 5)


@contextmanager
def serving(engine, shards, folder):
    """The URL of `python -m brein serve` over shards, once it is ready."""
    file, log = folder / "service.json", folder / "log"
    parts = {"engine": engine, "scaling": shards}
    file.write_text(json.dumps({name: part.model_dump(mode="json") for name, part in parts.items()}))
    command = [sys.executable, "-m", "brein", "serve", "--config", str(file), "server.port=0"]
    command.append("server.notice=4")  # longer than Ray would leave it
    with log.open("wb") as told, subprocess.Popen(command, stderr=told) as process:
        try:
            deadline = time.monotonic() + 120
            events = {}
            while "ready" not in events:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
                lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
                events = {line["event"]: line for line in map(json.loads, lines)}
            yield f"http://127.0.0.1:{events['listening']['port']}"
            process.terminate()
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()


@pytest.mark.slow
def test_a_service_names_the_shards_of_a_lost_node_and_is_whole_again(
    nodes, engine_folder, expected, tmp_path
):
    def found(text):
        answer = client.post("/v1/search", json={"query": text, "k": 20})
        assert answer.status_code == 200
        told = answer.json()
        assert told["partial"] == bool(told["missing_shards"])
        return [(hit["id"], hit["score"], hit["text"]) for hit in told["hits"]], set(told["missing_shards"])

    def await_missing(number):
        for turn in count():
            hits, missing = found(f"zeta{number}x{turn}")  # in no text: words are searched for in all shards
            assert not {shard_of(id_, SHARDS) for id_, _, _ in hits} & missing
            if len(missing) == number:
                break
            assert time.monotonic() < deadline

    def available():
        pairs = re.findall(r'brein_shard_available\{shard="(\d)"\} (\S+)', client.get("/metrics").text)
        return {int(shard): float(value) for shard, value in pairs}

    with (
        serving(config(engine_folder), scaling(nodes), tmp_path) as url,
        httpx2.Client(base_url=url, timeout=60, trust_env=False) as client,
    ):
        for text, hits in zip(TEXTS, expected["texts"], strict=True):
            assert found(text) == (hits, set())
        deadline = time.monotonic() + 120
        nodes.remove_node(nodes.list_all_nodes()[1], allow_graceful=False)
        await_missing(SHARDS // 2)
        while sum(available().values()) != SHARDS // 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        nodes.add_node(**ALIKE)
        await_missing(0)


def replicas_of(shard):
    """Processes that serve a shard; Ray names them."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(
            part.startswith("ray::ServeReplica:brein-") and part.split(":")[3].endswith(f"-{shard}")
            for part in process.info["cmdline"] or ()
        )
    ]


@pytest.mark.slow
def test_a_lost_replica_costs_no_answer_where_there_is_another_and_closing_leaves_what_others_run(
    nodes, engine_folder, expected, queries
):
    import ray
    from ray import serve

    class Other:
        async def answer(self):
            return 42

    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(proxy_location="Disabled")
        other = serve.run(
            serve.deployment(Other, ray_actor_options={"num_cpus": 0}).bind(), name="other", route_prefix=None
        )
        settings = {"shards": 2, "replicas": 2, "timeout": 10.0}
        with ClusterEngine.open(config(engine_folder), scaling(nodes, **settings)) as engine:
            with Load(engine, queries) as load:
                load.until(lambda missing: all(one.running == 2 for one in engine.health()))
                first, second = replicas_of(0)
                os.kill(first.pid, signal.SIGKILL)
                first.wait(10)
                load.until(lambda missing: len(replicas_of(0)) == 2)
                assert second in replicas_of(0)
            for number, hits, missing in load.outcomes:
                assert not missing
                assert hits == expected["vectors"][number][:10]
        assert set(serve.status().applications) == {"other"}
        assert other.answer.remote().result(timeout_s=30) == 42
        serve.shutdown()
    finally:
        ray.shutdown()


LEFT = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_ray import config
from brein.scaling import ScalingConfig
from brein.scaling.cluster import ClusterEngine

shards = ScalingConfig(kind="ray", address={address!r}, shards=3)
engine = ClusterEngine.open(config(Path({folder!r})), shards)
print("serves", flush=True)
os._exit(1)
"""


@pytest.mark.slow
def test_what_a_crashed_process_left_serving_is_ended_by_the_next(nodes, engine_folder, expected, queries):
    import ray
    from ray import serve

    program = LEFT.format(tests=str(Path(__file__).parent), folder=str(engine_folder), address=nodes.address)
    crashed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert crashed.returncode == 1, crashed.stderr
    assert "serves" in crashed.stdout.splitlines()  # Ray may say something there, too
    assert len(replicas_of(0)) == 1
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        with ClusterEngine.open(config(engine_folder), scaling(nodes)) as engine:
            assert len(serve.status().applications) == SHARDS  # there are cores for no more
            assert ranking(engine.search(queries[0], COUNT)) == expected["vectors"][0]
        assert serve.status().applications == {}
        serve.shutdown()
    finally:
        ray.shutdown()


ALONE = """
import json, signal, sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np, psutil
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_ray import COUNT, config, ranking
from brein.scaling import ScalingConfig
from brein.scaling.cluster import ClusterEngine

signal.signal(signal.SIGTERM, lambda *_: None)
mine = signal.getsignal(signal.SIGTERM)
queries = np.load({queries!r})
shards = ScalingConfig(kind="ray", shards=2, timeout=10.0)
with ThreadPoolExecutor(1) as aside:  # as a service opens it
    opening = aside.submit(ClusterEngine.open, config(Path({folder!r})), shards)
with opening.result() as engine:
    found = [ranking(engine.search(query, COUNT)) for query in queries]
    me = psutil.Process()
    started = me.children(recursive=True)
    listening = {{
        connection.laddr.ip.removeprefix("::ffff:")  # as IPv6 writes the same
        for process in (me, *started)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }}
    kept = signal.getsignal(signal.SIGTERM) is mine
_, left = psutil.wait_procs(started, timeout=30)
print(json.dumps({{
    "found": found, "started": len(started), "left": [str(one) for one in left],
    "listening": sorted(listening), "kept": kept,
}}))
"""


@pytest.mark.slow
def test_without_an_address_ray_is_started_on_loopback_and_ends_with_the_engine(
    tmp_path, engine_folder, expected, queries
):
    np.save(tmp_path / "queries.npy", queries)
    program = ALONE.format(
        tests=str(Path(__file__).parent), queries=str(tmp_path / "queries.npy"), folder=str(engine_folder)
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **SETTINGS},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout.splitlines()[-1])
    assert [[tuple(hit) for hit in hits] for hits in said["found"]] == expected["vectors"]
    assert said["started"] > 2
    assert (said["left"], said["listening"], said["kept"]) == ([], ["127.0.0.1"], True)


@pytest.mark.slow
def test_where_no_cluster_answers_that_is_said_in_time(engine_folder):
    nowhere = ScalingConfig(kind="ray", address="127.0.0.1:1", start_timeout=3.0)
    with pytest.raises(ClusterError, match=r"'127\.0\.0\.1:1': .* cannot be joined: no answer in 3 s"):
        ClusterEngine.open(config(engine_folder), nowhere)
    with Engine.open(config(engine_folder)) as engine:  # the folder was given up
        assert len(engine) == COUNT


def test_ray_that_ends_without_a_word_is_no_cluster(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert join.silence("127.0.0.1:1", 30.0) == "Ray ended with 1, without a word"


def test_a_search_must_not_wait_for_shards_longer_than_it_has_for_vectors(tmp_path):
    engine = EngineConfig(path=tmp_path, retrieval=RetrievalConfig(vectors=LegConfig(budget=0.3)))
    with pytest.raises(ConfigError, match=r"timeout = 0.4 s: must be below retrieval.vectors.budget = 0.3 s"):
        ClusterEngine.open(engine, ScalingConfig(kind="ray"))


def test_without_ray_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ConfigError, match=r"pip install 'brein-lab\[ray\]'"):
        ClusterEngine.open(config(tmp_path), ScalingConfig(kind="ray"))


@pytest.mark.parametrize(
    ("folder", "said"), [(None, "path = null"), ("empty", "there are no documents to serve")]
)
def test_what_cannot_be_served_is_refused_in_one_line(tmp_path, folder, said):
    with pytest.raises(ConfigError, match=said) as refused:
        ClusterEngine.open(config(folder and tmp_path / folder), ScalingConfig(kind="ray"))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "spark"}, "kind = 'spark'"),
        ({"address": "nowhere"}, "address = 'nowhere'"),
        ({"replicas": 0}, "replicas = 0"),
        ({"timeout": 0}, "timeout = 0"),
    ],
)
def test_settings_out_of_bounds_are_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        ScalingConfig.read(json.dumps(settings))
