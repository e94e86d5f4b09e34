"""Suite `load`: the service under the load that the group `load` describes, as those who wait for it see it.

Locust sends the requests from processes of its own, to a service that each trial starts, or to `load.host`.
Every request is a sample; latency counts from when it was to be sent. With `load.search=capacity` one load
after another looks for the highest rate that meets the objective.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from bench import arrivals
from bench.arrivals import Closed, Replay
from bench.artifacts import Artifact
from bench.machine import usable_cores
from bench.suite_config import LoadConfig
from bench.suites import ingested
from bench.suites.base import Experiment
from bench.suites.load import exact
from bench.suites.load.cores import Cores, assigned
from bench.trial import Plan, Work
from bench.workload import embeddings, popularity
from bench.workload.dataset import TextDataset
from bench.workload.popularity import Stream

_MOST_PICKS = 100_000  # queries drawn in advance; more requests begin again with the first
_JUDGED = (
    "load.request",
    "load.answers",
    "load.users",
    "load.cache_hit_rate",
)  # series of documented figures
_OF_SERVICE = ("load.cpu", "load.memory", "load.cache_hit_rate")  # of one that the trial starts


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the data set is no text, or has too few documents for the index or for k; a trace cannot
            be replayed.
    """
    dataset, load = experiment.text("load"), experiment.config.load
    experiment.check_size(len(dataset.documents), "documents", load.k)
    if isinstance(load.model, Replay):
        arrivals.drawn(load.model, 0)
    _stream(experiment)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    load, dataset = experiment.config.load, experiment.text("load")
    if _lacking(experiment) or load.host is not None:
        return []
    needed = [
        embeddings.text_artifact(dataset, experiment.config.embedding),
        ingested.artifact(experiment, dataset),
    ]
    return [*needed, *exact.artifacts(experiment, dataset)] if _judges(load) else needed


def plan(experiment: Experiment) -> list[Work]:
    """Make what the trials need, and say what they give."""
    if lacking := _lacking(experiment):
        return [Work(skipped={"load": lacking})]
    load, dataset = experiment.config.load, experiment.text("load")
    texts = _texts(dataset, load)
    stream = _stream(experiment)
    argument: dict[str, Any] = {
        "load": load.model_dump_json(),
        "texts": list(texts.values()),
        "ids": list(texts),
        "stream": stream and stream.model_dump_json(),
        "scratch": str(experiment.store.scratch()),
    }
    if load.host is None:
        argument |= {
            "engine": experiment.engine.model_dump_json(),
            "folder": str(ingested.folder(experiment, dataset, experiment.embedded(dataset))),
        }
        if _judges(load):
            argument["exact"] = str(exact.found(experiment, dataset))
    among = (
        f"{len(dataset.documents):,} documents{experiment.caches_left_out}; {_cores(experiment).described}"
    )
    conditions = dict.fromkeys([f"{series} {load.name}" for series in _JUDGED], among)
    conditions[f"load.request {load.name}"] = _described(load, stream, len(texts), among)
    conditions["load.sampled"] = (
        f"one of {load.sample} searches, beside what the same retrieval finds with an exact index and no load"
    )
    trials = [Plan("load", load.name, "bench.suites.load.measure:measure", argument)]
    return [Work(trials, conditions=conditions, skipped=_skipped(load))]


def _lacking(experiment: Experiment) -> str:
    """What the machine lacks; empty where it has all."""
    if experiment.lacks_gpu() and experiment.config.load.host is None:
        return "needs a GPU"
    return "" if find_spec("locust") else "needs Locust: pip install 'brein-lab[load]'"


def _judges(load: LoadConfig) -> bool:
    """Whether answers are judged: it is known what is to be found, and it stays the same."""
    return load.host is None and bool(load.sample) and load.requests in ("search", "ask")


def _skipped(load: LoadConfig) -> dict[str, str]:
    """What such a load does not give, and why."""
    skipped = {}
    if not _judges(load):
        adds = f"load.requests = {load.requests} adds documents"
        why = "load.sample = 0" if load.requests in ("search", "ask") else adds
        skipped["load.recall_at_10"] = why if load.host is None else "what load.host holds is not known"
    if load.host is not None:
        skipped |= dict.fromkeys(_OF_SERVICE, "load.host is no process of the lab's")
    if load.search == "none":
        skipped["load.capacity"] = "load.search = none"
    return skipped


def _texts(dataset: TextDataset, load: LoadConfig) -> dict[str, str]:
    """What is asked, or ingested, by id: documents held out where there are any."""
    if load.requests == "ingest":
        return {document.id: document.text for document in dataset.held_out or dataset.documents}
    return {query.id: query.text for query in dataset.queries}


def _stream(experiment: Experiment) -> Stream | None:
    """Which query each request is for, as `popularity` describes it; None where documents are ingested."""
    load, dataset = experiment.config.load, experiment.text("load")
    if load.requests == "ingest":
        return None
    ids = [query.id for query in dataset.queries]
    return popularity.for_queries(experiment.config.popularity, ids, _requests(load))


def _requests(load: LoadConfig) -> int:
    """How many picks are worth drawing: about as many as there can be requests."""
    model = load.model
    if load.search == "capacity":
        return _MOST_PICKS
    if isinstance(model, Closed):
        pause = model.pacing or model.think_time or 0.001
        return min(_MOST_PICKS, 1 + round(model.users * model.end / pause))
    return min(_MOST_PICKS, max(1, len(arrivals.drawn(model, 0).starts)))


def _described(load: LoadConfig, stream: Stream | None, texts: int, among: str) -> str:
    """The load in a sentence."""
    what = f"{texts:,} queries, {stream.described}" if stream else f"{texts:,} documents, each under a new id"
    where = f"among {among}" if load.host is None else f"at {load.host}"
    by = f"{load.workers} process{'es' if load.workers > 1 else ''} of Locust's, on the same machine"
    return f"{_model(load)}; {load.requests}, {what}, for {load.k} hits {where}; by {by}"


def _cores(experiment: Experiment) -> Cores:
    """Whose cores are whose, in a trial."""
    count = min(usable_cores(), experiment.config.trial.cores or usable_cores())
    return assigned(range(count), experiment.config.load.workers)


def _model(load: LoadConfig) -> str:
    """How requests come, in words."""
    settings = load.model.model_dump(mode="json", exclude={"kind"}, exclude_none=True)
    parts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())
    return f"{load.model.kind} ({parts})"
