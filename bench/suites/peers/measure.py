"""What the peers' children do: say what an adapter needs, build and save, load or build and measure.

Nothing here loads a peer's library, torch or FAISS before an adapter does, so that a peer can have an
environment of its own (see `environment`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench import quality, trial
from bench.errors import MeasurementError
from bench.machine import describe
from bench.suites.peers import environment
from bench.suites.peers.adapters import adapter
from bench.suites.peers.base import Parameters, Peer, TextPeer, VectorPeer
from bench.timing import Timed, time_each
from bench.trial import Measurement, Samples
from bench.workload import truth
from bench.workload.dataset import IntArray
from brein import embedding
from brein.config import EngineConfig
from brein.records import FloatArray

BATCH = 100  # queries in one call, where there are so many
WARM_UP = 50  # searches that are not timed, before those that are, with each setting
AS_BUILT = "as built"  # the setting of a peer whose searches have no parameters
_JUDGED = 10  # recall's k


def examine(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: what the adapters of one environment are, and what each lacks there."""
    environment.enter(argument["python"])
    return {name: _facts(*asked) for name, asked in argument["adapters"].items()}


def _facts(name: str, parameters: Parameters) -> dict[str, Any]:
    found = adapter(name)
    versions = {package: _version(package) for package in found.needs(parameters)}
    return {
        "kind": "text" if issubclass(found, TextPeer) else "vectors",
        "is_engine": found.IS_ENGINE,
        "saves": issubclass(found, VectorPeer) and found.saves(parameters),
        "metrics": getattr(found, "METRICS", ("cosine",)),
        "missing": [package for package, there in versions.items() if there is None],
        "versions": {package: there for package, there in versions.items() if there is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def build(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: build a peer over vectors, save it, and say how long building took."""
    environment.enter(argument["python"])
    folder = Path(argument["folder"])
    peer = _ready(argument)
    assert isinstance(peer, VectorPeer)  # noqa: S101  `_facts` has said that it saves
    seconds = _built(peer, argument)
    (folder / "peer").mkdir()
    peer.save(folder / "peer")
    peer.close()
    ended_at = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"seconds": seconds, "ended_at": ended_at, "machine": describe().fingerprint}
    (folder / "build.json").write_text(json.dumps(facts))
    return {}


def _ready(argument: dict[str, Any]) -> Peer:
    """The peer, its library loaded: importing one can take longer than building."""
    made = adapter(argument["adapter"])
    for module in made.MODULES:
        import_module(module)
    return made(argument["threads"])


def _built(peer: VectorPeer, argument: dict[str, Any]) -> float:
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy")
    start = time.perf_counter()
    peer.build(vectors, argument["metric"], argument["build"])
    return time.perf_counter() - start


def search(argument: dict[str, Any]) -> Measurement:
    """In a child: vectors in, rows out, one by one and in batches, with each setting in turn.

    What cannot be loaded is built here, in each trial.
    """
    environment.enter(argument["python"])
    queries = np.load(Path(argument["vectors"]) / "queries.npy")
    order = _order(argument, len(queries))
    peer = _ready(argument)
    assert isinstance(peer, VectorPeer)  # noqa: S101  `_facts` has said so
    before = _anonymous()
    if argument["saved"] is not None:
        folder = Path(argument["saved"]) / "peer"
        peer.load(folder, queries.shape[1], argument["metric"], argument["build"])
    yield
    samples, searched = [], []
    if argument["saved"] is None:
        samples.append(Samples.of(_built(peer, argument), "peers.build", **argument["labels"]))
    k, batch = argument["settings"]["k"], queries[:BATCH].copy()
    for setting in _settings(argument):
        labels = {**argument["labels"], "setting": _text(setting)}
        peer.tune(setting)
        for row in order[-WARM_UP:]:
            peer.search(queries[[row]], k)
        # Each is asked by a copy: a peer may change what it is given.
        copies = (queries[[row]] for row in order)
        timed = time_each(lambda query: peer.search(query, k)[0], copies, repeatable=True)
        batches = Samples("peers.batch", **labels)
        for one in _repeated(lambda: peer.search(batch, k), argument["settings"]["batch_seconds"]):
            batches.add(one.seconds, one.start, items=len(batch))
        searched.append((timed, labels))
        samples.append(batches)
    samples += _memory(peer, before, argument["labels"])
    peer.close()
    yield
    judge = _Judge(argument, queries)
    judged = (judge.samples(order, *one) for one in searched)
    return trial.report(*judged, *samples, **argument["versions"])


def ask(argument: dict[str, Any]) -> Measurement:
    """In a child: text in, rows out, one by one, over documents embedded before."""
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy", mmap_mode="r")
    queries = np.load(Path(argument["vectors"]) / "queries.npy")
    order = _order(argument, len(queries))
    texts, documents = argument["queries"], argument["documents"]
    embedder = embedding.create(EngineConfig.read(argument["engine"]).embedding)
    embedder.embed(["warm up"])
    known = dict(zip(documents, vectors, strict=True))

    def embed(asked: Sequence[str]) -> FloatArray:
        """The lab's embedder, but of the documents as embedded before, while they are built into the peer."""
        if known:
            return np.array([known[text] for text in asked])
        return embedder.embed(asked)

    peer = _ready(argument)
    assert isinstance(peer, TextPeer)  # noqa: S101  `_facts` has said so
    yield
    before = _anonymous()
    start = time.perf_counter()
    peer.build(documents, embed, argument["build"])
    built = Samples.of(time.perf_counter() - start, "peers.build", **argument["labels"])
    known.clear()
    k = argument["settings"]["k"]
    searched = []
    for setting in _settings(argument):
        labels = {**argument["labels"], "setting": _text(setting)}
        peer.tune(setting)
        for row in order[-WARM_UP:]:
            peer.search(texts[row], k)
        asked = (texts[row] for row in order)
        timed = time_each(lambda text: np.asarray(peer.search(text, k)), asked, repeatable=True)
        searched.append((timed, labels))
    memory = _memory(peer, before, argument["labels"])
    peer.close()
    yield
    judge = _Judge(argument, queries)
    judged = (judge.samples(order, *one) for one in searched)
    return trial.report(built, *judged, *memory, **argument["versions"])


def _order(argument: dict[str, Any], queries: int) -> list[int]:
    """Rows of the queries to ask, the same in every trial: each once, before any again."""
    shuffled = np.random.default_rng(argument["order"]).permutation(queries)
    return [int(shuffled[turn % queries]) for turn in range(argument["settings"]["searches"])]


def _settings(argument: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the parameters of searching, in an order of this trial's own."""
    names, values = argument["search"].keys(), argument["search"].values()
    combined = [dict(zip(names, chosen, strict=True)) for chosen in product(*values)]
    np.random.default_rng(argument["seed"]).shuffle(combined)
    return combined


def _text(setting: Parameters) -> str:
    return ", ".join(f"{name}={value}" for name, value in setting.items()) or AS_BUILT


def _repeated(operation: Callable[[], Any], least: float) -> list[Timed[Any]]:
    """Do it once untimed, then again and again for `least` seconds."""
    operation()
    until = time.perf_counter() + least
    until_then = iter(lambda: time.perf_counter() < until, False)
    return time_each(lambda _: operation() is None, until_then, repeatable=True)


def _anonymous() -> int:
    return trial.memory_by_kind().get("anonymous", 0)


def _memory(peer: Peer, before: int, labels: dict[str, str]) -> list[Samples]:
    """What the process holds more than before the peer, or what a peer elsewhere says that it holds."""
    held = _anonymous() - before if peer.IN_PROCESS else peer.memory()
    return [] if held is None or held <= 0 else [Samples.of(held, "peers.memory", **labels)]


class _Judge:
    """Compares what was found with the exact neighbours."""

    def __init__(self, argument: dict[str, Any], queries: FloatArray) -> None:
        self._vectors = np.load(Path(argument["vectors"]) / "vectors.npy", mmap_mode="r")
        self._nearest = np.load(argument["truth"], mmap_mode="r")
        self._metric = argument["metric"]
        self._ids = argument["query_ids"]
        self._queries = queries

    def samples(self, rows: list[int], timed: list[Timed[IntArray]], labels: dict[str, str]) -> Samples:
        """The timed searches as samples, each query's first one with its recall."""
        samples = Samples("peers.search", **labels)
        judged = set()
        for row, (start, seconds, found) in zip(rows, timed, strict=True):
            recall = None if row in judged else self._recall(row, found)
            judged.add(row)
            samples.add(seconds, start, query=self._ids[row], recall_at_10=recall)
        return samples

    def _recall(self, row: int, found: IntArray) -> float:
        last = len(self._vectors) - 1
        if not all(one <= last and one == int(one) for one in found):
            raise MeasurementError(
                f"a search must give row numbers, integers up to {last}, got {found!r:.200}"
            )
        there = [int(one) for one in found if one >= 0]
        away = truth.distances(self._vectors[there], self._queries[row], self._metric)
        return quality.neighbour_recall(there, away.tolist(), self._nearest[row].tolist(), _JUDGED)
