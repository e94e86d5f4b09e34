"""Suite `peers`: the engine beside what a user would otherwise pick.

All have the same vectors, truth, threads and machine. `suite.peers.adapters` says who takes part: those of
vectors search the data set's vectors; those of text, where it is text, take texts and the lab's own embedder.
What can be saved is built once and loaded in each trial. A trial takes one through all the settings of its
searches. What is not installed is skipped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench import process
from bench.artifacts import Artifact
from bench.errors import BenchError, MeasurementError, UsageError
from bench.machine import compute_threads, faiss
from bench.suite_config import PeerConfig
from bench.suites.base import Experiment
from bench.suites.memory import build as memory_build
from bench.suites.peers.measure import BATCH, WARM_UP
from bench.trial import Plan, Samples, Work
from bench.workload import embeddings, truth
from bench.workload.dataset import TextDataset
from bench.workload.embeddings import Vectors
from brein import index

FORMAT = 2  # of what is saved of a peer; a change makes every older artifact unreachable
_EXTRA = "'brein-lab[peers]'"
_PASSWORD = re.compile(r"password\"?\s*[=:]|://[^/@\"]*:[^/@\"]+@", re.IGNORECASE)


@dataclass(frozen=True)
class Participant:
    """One that takes part: its name, its settings, and what `measure.examine` says of its adapter."""

    name: str
    config: PeerConfig
    facts: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        """What tells its series apart."""
        return {"engine" if self.facts["is_engine"] else "peer": self.name, "task": self.facts["kind"]}

    @property
    def asked(self) -> dict[str, Any]:
        """What its children are told of it."""
        return {
            "python": _absolute(self.config.python),
            "adapter": _adapter(self.config),
            "build": self.config.build,
            "search": self.config.search,
            "labels": self.labels,
            "versions": self.facts["versions"],
        }

    def why_not(self, experiment: Experiment) -> str | None:
        """Why it cannot take part, or None."""
        metric = experiment.config.index.metric
        if missing := self.facts["missing"]:
            own = self.config.python is not None or self.config.adapter.endswith(".py")
            pip = "pip" if self.config.python is None else f"{self.config.python} -m pip"
            return f"needs {', '.join(missing)} ({pip} install {' '.join(missing) if own else _EXTRA})"
        if self.facts["kind"] == "text" and not isinstance(experiment.dataset, TextDataset):
            return "needs a data set of texts, such as dataset=pydocs_small"
        if self.facts["kind"] == "vectors" and metric not in self.facts["metrics"]:
            return f"needs index.metric to be one of {', '.join(self.facts['metrics'])}"
        if self.config.build.get("device") == "gpu" and experiment.lacks_gpu():
            return "needs a GPU"
        return None


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: there are too few vectors, an interpreter is missing, or the record would hold a password.
    """
    dataset, settings = experiment.dataset, experiment.config.suite.peers
    count = len(dataset.documents if isinstance(dataset, TextDataset) else dataset.vectors)
    experiment.check_size(count, "vectors", settings.k)
    if settings.dsn is not None and _PASSWORD.search(settings.dsn):
        raise UsageError("suite.peers.dsn holds a password, which the record would keep; put it in ~/.pgpass")
    for name, config in settings.peers.items():
        if _PASSWORD.search(json.dumps(config.build)):
            raise UsageError(
                f"suite.peers.adapters.{name}.build holds a password, which the record would keep; let the "
                "adapter read it from a file or an environment variable"
            )
        if config.python is not None and not config.python.exists():
            raise UsageError(
                f"suite.peers.adapters.{name}.python = {config.python}: no such interpreter; correct it"
            )


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    dataset, metric = experiment.dataset, experiment.config.index.metric
    if isinstance(dataset, TextDataset):
        source, published = embeddings.text_artifact(dataset, experiment.config.embedding), False
    else:
        source = embeddings.vector_artifact(dataset)
        published = dataset.truth is not None and dataset.truth_metric == metric
    builds = [
        _artifact(experiment, one, source.key)
        for one in participants(experiment)
        if one.facts["saves"] and one.why_not(experiment) is None
    ]
    return [source, truth.wanted(source.key, metric, published), *builds]


def plan(experiment: Experiment) -> list[Work]:
    """Build what can be saved, and plan the trials of those that can take part."""
    dataset, store = experiment.dataset, experiment.store
    if isinstance(dataset, TextDataset):
        vectors = experiment.embedded(dataset)
    else:
        vectors = embeddings.of_vectors(dataset, store)
    settings = experiment.config.suite.peers
    shared = {
        "threads": compute_threads(experiment.config.trial.threads),
        "metric": experiment.config.index.metric,
        "vectors": str(vectors.folder),
        "truth": str(truth.exact_distances(vectors, experiment.config.index.metric, store)),
        "query_ids": vectors.query_ids,
        "settings": settings.model_dump(mode="json", include={"k", "searches", "batch_seconds"}),
        "order": experiment.config.trial.seed,
    }
    works = []
    for one in participants(experiment):
        if reason := one.why_not(experiment):
            works.append(Work(skipped={f"peers.{one.name}": reason}))
        elif one.facts["kind"] == "text":
            works.append(_of_text(experiment, one, shared))
        else:
            works.append(_of_vectors(experiment, one, vectors, shared))
    return works


def participants(experiment: Experiment) -> list[Participant]:
    """Everybody in `suite.peers.adapters`, examined in the environment of each.

    Raises:
        UsageError: an adapter is unknown, or its file or its interpreter cannot be run.
    """
    configs = experiment.config.suite.peers.peers
    facts: dict[str, Any] = {}
    for python in dict.fromkeys(config.python for config in configs.values()):
        adapters = {n: [_adapter(c), c.build] for n, c in configs.items() if c.python == python}
        try:
            facts |= _examined(json.dumps({"python": _absolute(python), "adapters": adapters}))
        except MeasurementError as error:
            where = "" if python is None else f", run by {python}"
            remedy = "python -m bench.suites.peers.environment makes an interpreter that can" if where else ""
            told = f"the adapters of {', '.join(adapters)}{where} cannot be loaded: {error}"
            raise UsageError("; ".join(filter(None, [told, remedy]))) from None
    return [Participant(name, config, facts[name]) for name, config in configs.items()]


@cache
def _examined(argument: str) -> dict[str, Any]:
    return process.call("bench.suites.peers.measure:examine", json.loads(argument), threads=1)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())


def _adapter(config: PeerConfig) -> str:
    """The adapter's name, or the whole path of its file."""
    return str(Path(config.adapter).absolute()) if config.adapter.endswith(".py") else config.adapter


def _artifact(experiment: Experiment, one: Participant, vectors: str) -> Artifact:
    """A peer built over the vectors of this key."""
    adapter = _adapter(one.config)
    own = hashlib.sha256(Path(adapter).read_bytes()).hexdigest() if adapter.endswith(".py") else adapter
    content = {
        "vectors": vectors,
        "metric": experiment.config.index.metric,
        "adapter": own,
        "build": one.config.build,
        "versions": {**one.facts["versions"], **faiss()},
        "formats": [FORMAT, index.FORMAT],
        "threads": compute_threads(experiment.config.trial.threads),
    }
    return Artifact("peers", content)


def _of_vectors(
    experiment: Experiment, one: Participant, vectors: Vectors, shared: Mapping[str, Any]
) -> Work:
    argument = {**shared, **one.asked, "saved": None}
    known: list[Samples] = []
    when = "built in each process"
    if one.facts["saves"]:

        def build(folder: Path) -> None:
            threads = compute_threads(experiment.config.trial.threads)
            process.call(
                "bench.suites.peers.measure:build", {**argument, "folder": str(folder)}, threads=threads
            )

        try:
            saved = experiment.store.get_or_build(*_artifact(experiment, one, vectors.key), build)
        except BenchError as error:
            return Work(skipped={f"peers.{one.name}": f"it could not be built: {error}"})
        argument["saved"] = str(saved)
        known, when = memory_build.samples(saved, "peers.build", **one.labels)
    queries = len(vectors.query_ids)
    settings = experiment.config.suite.peers
    condition = (
        f"{settings.searches:,} searches for {settings.k} neighbours with each setting, over {queries:,} "
        f"queries, among {vectors.count:,} vectors, after {WARM_UP} to warm up; then {min(BATCH, queries):,} "
        f"queries in one call, for {settings.batch_seconds:g} s; {when}{_with_versions(one)}"
    )
    trials = [Plan("peers", one.name, "bench.suites.peers.measure:search", argument)]
    return Work(trials, known, {f"peers.search {one.name}": condition})


def _of_text(experiment: Experiment, one: Participant, shared: Mapping[str, Any]) -> Work:
    dataset = experiment.text("peers")
    argument = {
        **shared,
        **one.asked,
        "engine": experiment.engine.model_dump_json(),
        "documents": [document.text for document in dataset.documents],
        "queries": [query.text for query in dataset.queries],
    }
    settings = experiment.config.suite.peers
    condition = (
        f"{settings.searches:,} searches for {settings.k} hits, over {len(dataset.queries):,} queries, among "
        f"{len(dataset.documents):,} documents, after {WARM_UP} to warm up; built in each process of "
        f"documents embedded before{_with_versions(one)}"
    )
    trials = [Plan("peers", one.name, "bench.suites.peers.measure:ask", argument)]
    return Work(trials, conditions={f"peers.search {one.name}": condition})


def _with_versions(one: Participant) -> str:
    return "".join(f"; {package} {version}" for package, version in one.facts["versions"].items())
