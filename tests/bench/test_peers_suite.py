"""The peers suite: who takes part, what is compared with what, and the whole way on small data."""

import json
import re
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest

from bench import config, matched, metrics, process
from bench.artifacts import Store
from bench.data_config import SyntheticConfig
from bench.errors import MeasurementError, UsageError
from bench.metrics import label_text
from bench.suites import Experiment, peers
from bench.suites.peers import environment
from bench.trial import frame
from bench.workload import synthetic

SMALL = [
    "suites=[peers]",
    "suite=[memory,query,agents,system,lab,peers_smoke]",
    "dataset=synthetic",
    "index=flat",
]
MINE = """
import importlib.util
import sys
import numpy as np
from bench.suites.peers.base import VectorPeer

class Mine(VectorPeer):
    METRICS = ("cosine",)
    MODULES = ("colorsys",)
    def build(self, vectors, metric, parameters):
        assert "colorsys" in sys.modules  # before building is timed
        for heavy in ("torch", "faiss", "pandas"):
            assert importlib.util.find_spec(heavy) is None
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    def tune(self, setting):
        self.part = setting.get("part", 1.0)
    def search(self, queries, k):
        queries /= 2  # ill-mannered
        some = self.vectors[: int(self.part * len(self.vectors))]
        return np.argsort(-queries @ some.T, axis=1)[:, :k]
    def close(self):
        del self.vectors
"""


@pytest.fixture(scope="module")
def data():
    return synthetic.load(
        SyntheticConfig(
            vectors=500,
            queries=30,
            dimension=16,
            clusters=10,
            cluster_spread=1.0,
            intrinsic_dimension=8,
            seed=1,
        )
    )


def experiment(data, folder, *overrides):
    return Experiment(config.from_overrides([*SMALL, *overrides]), data, None, Store(folder / "artifacts"))


def rows(name, setting, recall, p50s, side="peer", *, task="vectors", queries=40):
    labels = label_text({side: name, "task": task, "setting": setting})
    return [
        {
            "suite": "peers", "series": "peers.search", "labels": labels, "repeat": repeat, "seq": seq,
            "start": 0.0, "value": p50, "items": 1, "query": str(seq), "recall_at_10": recall,
        }
        for repeat, p50 in enumerate(p50s)
        for seq in range(queries)
    ]  # fmt: skip


def cost(samples, recall):
    return {
        m.labels.get("peer") or m.labels["engine"]: (m.labels["setting"], m.value)
        for m in metrics.derive(frame(samples))
        if m.name == "peers.matched.cost" and m.labels["recall"] == f"{recall:g}"
    }


def test_each_takes_part_with_its_fastest_setting_that_reaches_the_recall():
    samples = [
        *rows("brein", "ef=1", 0.91, [1.0, 2.0], "engine"),
        *rows("brein", "ef=2", 0.96, [2.0, 4.0], "engine"),
        *rows("brein_other", "ef=9", 1.0, [8.0, 8.0], "engine"),
        *rows("fast", "ef=1", 0.92, [0.5, 1.0]),
        *rows("fast", "ef=3", 0.97, [3.0, 6.0]),
        *rows("fast", "ef=2", 0.97, [1.5, 3.0]),
        *rows("bad", "ef=1", 0.5, [0.1, 0.1]),
    ]
    found = cost(samples, 0.9)
    assert found.pop("brein_other") == ("ef=9", pytest.approx(32**0.5))
    assert found == {"brein": ("ef=1", 1.0), "fast": ("ef=1", 0.5)}
    assert cost(samples, 0.95)["fast"] == ("ef=2", 0.75)
    assert set(cost(samples, 0.99)) == {"brein_other"}


def test_ratios_are_paired_by_process():
    engine, peer = [1.0, 2.0, 4.0, 8.0, 16.0], [3.0, 6.0, 12.0, 24.0, 48.0]
    samples = rows("brein", "as built", 1.0, engine, "engine") + rows("peer", "as built", 1.0, peer)
    found = next(
        m
        for m in metrics.derive(frame(samples))
        if m.name == "peers.matched.cost" and m.labels.get("peer") == "peer"
    )
    # The machine slowed down sixteenfold meanwhile; the ratio did not change.
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((3.0, 3.0, 3.0))


def test_where_the_engine_does_not_reach_a_recall_there_is_a_latency_and_no_ratio():
    samples = rows("brein", "as built", 0.5, [1.0], "engine") + rows("peer", "as built", 1.0, [2.0])
    derived = {(m.name, m.labels["recall"]) for m in metrics.derive(frame(samples)) if "matched" in m.name}
    assert derived == {("peers.matched.latency.p50", f"{recall:g}") for recall in matched.RECALLS}


def test_a_recall_is_reached_by_the_whole_of_its_interval():
    some = rows("peer", "as built", 1.0, [1.0])
    for row in some[:2]:
        row["recall_at_10"] = 0.5  # 0.975 on average, give or take 0.03
    assert not [m for m in matched.compare(frame(some)) if '"0.95"' in m["labels"]]
    assert [m for m in matched.compare(frame(some)) if '"0.9"' in m["labels"]]


def test_tasks_are_compared_apart():
    samples = [
        *rows("brein", "as built", 1.0, [1.0], "engine"),
        *rows("brein_engine", "as built", 1.0, [10.0], "engine", task="text"),
        *rows("txtai", "as built", 1.0, [20.0], task="text"),
    ]
    assert cost(samples, 0.9)["txtai"] == ("as built", 2.0)


def test_too_few_searches_for_a_median_are_not_compared():
    assert matched.compare(frame(rows("peer", "as built", 1.0, [1.0], queries=19))) == []


def test_what_cannot_take_part_says_what_it_needs(data, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.suites.peers.adapters.Hnswlib.NEEDS", ("no-such-package",))
    asked = experiment(
        data, tmp_path, "index.metric=l2", f"+suite.peers.adapters.mine={_file(tmp_path)}",
        "+suite.peers.adapters.hnswlib=hnswlib", "+suite.peers.adapters.txtai=txtai",
        f"+suite.peers.adapters.other={_other(tmp_path)}",
    )  # fmt: skip
    # In this process, where the packages are what the test says they are.
    monkeypatch.setattr(peers, "_examined", lambda text: peers.measure.examine(json.loads(text)))
    reasons = {one.name: one.why_not(asked) for one in peers.participants(asked)}
    assert reasons == {
        "brein": None,
        "faiss_flat": None,
        "hnswlib": "needs no-such-package (pip install 'brein-lab[peers]')",
        "txtai": reasons["txtai"],
        "mine": "needs index.metric to be one of cosine",
        "other": "needs some-engine (pip install some-engine)",
    }
    assert "needs" in reasons["txtai"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+suite.peers.adapters.x=nmslib"], "'nmslib' is unknown; known adapters: brein_index"),
        (["+suite.peers.adapters.x={adapter: faiss, python: /no/python}"], "/no/python: no such interpreter"),
        (
            ["+suite.peers.adapters.x={adapter: faiss, python: /bin/true}"],
            "of x, run by /bin/true cannot be loaded",
        ),
        (["suite.peers.dsn='host=h password=secret'"], "holds a password"),
        (["suite.peers.dsn='postgresql://me:secret@h/d'"], "holds a password"),
        (
            ["+suite.peers.adapters.x={adapter: http, build: {url: 'http://me:secret@h/d'}}"],
            "holds a password",
        ),
        (["+suite.peers.adapters.x={adapter: http, build: {password: secret}}"], "holds a password"),
        (
            ["+suite.peers.adapters.x={adapter: pgvector, build: {dsn: 'password=secret'}}"],
            "holds a password",
        ),
        (["+suite.peers.adapters.x={adapter: faiss, search: {nprobe: []}}"], "nprobe"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(data, tmp_path, overrides, said):
    def ready():
        asked = experiment(data, tmp_path, *overrides)
        peers.check(asked)
        peers.participants(asked)

    with pytest.raises(UsageError, match=said) as caught:
        ready()
    assert "secret" not in str(caught.value)


def _other(folder):
    (folder / "other.py").write_text(MINE.replace("METRICS", "NEEDS = ('some-engine',)\n    METRICS"))
    return folder / "other.py"


def _file(folder):
    (folder / "mine.py").write_text(MINE)
    return folder / "mine.py"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """Every trial of the suite once, each in a process of its own; one in a lean environment."""
    folder = tmp_path_factory.mktemp("run")
    venv.create(folder / "venv", symlinks=True)
    lean = next((folder / "venv" / "lib").glob("python*/site-packages"))
    for path in _light():
        (lean / path.name).symlink_to(path)
    python = folder / "venv" / "bin" / "python"
    mine = f"{{adapter: {_file(folder)}, python: {python}, search: {{part: [0.5, 1.0]}}}}"
    asked = experiment(
        data,
        folder,
        f"+suite.peers.adapters.mine={mine}",
        "+suite.peers.adapters.broken={adapter: faiss, build: {factory: Nonsense}}",
    )
    planned = peers.artifacts(asked)
    works = peers.plan(asked)
    rows = [row for work in works for samples in work.known for row in samples.rows]
    for plan in (plan for work in works for plan in work.plans):
        rows += process.call(plan.target, {**plan.argument, "seed": 3}, threads=1)["rows"]
    samples = frame([{"suite": "peers", "repeat": 0, **row} for row in rows])
    return asked, planned, works, samples


@pytest.mark.slow
def test_all_are_measured_on_the_same_queries_and_judged_by_the_same_truth(run):
    samples = run[-1]
    searches = samples[samples["series"] == "peers.search"]
    asked_for = searches.groupby("labels")["query"].apply(list).tolist()
    assert len(asked_for) == 4
    assert all(queries == asked_for[0] for queries in asked_for)
    recalls = searches.groupby("labels")["recall_at_10"].mean()
    half = label_text({"peer": "mine", "task": "vectors", "setting": "part=0.5"})
    assert 0.2 < recalls.pop(half) < 0.8
    assert recalls.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.slow
def test_a_peer_runs_in_an_environment_that_has_nothing_else(run):
    samples = run[-1]
    own = samples[
        samples["labels"].str.contains('"mine"')
    ]  # it asserts that neither torch nor faiss is there
    assert set(own["series"]) == {"peers.build", "peers.search", "peers.batch", "peers.memory"}


@pytest.mark.slow
def test_what_is_made_is_what_was_said_and_a_build_that_fails_is_skipped(run):
    asked, planned, works, samples = run
    skipped = {key: why for work in works for key, why in work.skipped.items()}
    assert list(skipped) == ["peers.broken"]
    assert "it could not be built" in skipped["peers.broken"]
    made = {stored.key for stored in asked.store.stored()}
    assert len({artifact.key for artifact in planned} - made) == 1
    assert len(made) == 4  # vectors, truth, the engine's index and FAISS's
    assert len(samples[samples["series"] == "peers.build"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("found", [[500], [0.5], [float("nan")]])
def test_an_answer_that_is_no_row_number_is_said_to_be_none(run, found):
    _, _, works, _ = run
    argument = works[0].plans[0].argument
    judge = peers.measure._Judge(argument, np.load(Path(argument["vectors"]) / "queries.npy"))
    with pytest.raises(MeasurementError, match="row numbers, integers up to 499, got"):
        judge._recall(0, np.array(found))


def _light():
    """What the distributions of `environment.LIGHT`, and those they need, have installed."""
    wanted, seen, paths = list(environment.LIGHT), set(), set()
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            found = distribution(name)
            needed = [one for one in found.requires or () if "extra ==" not in one]
            wanted += [re.match(r"[\w.-]+", one)[0] for one in needed]
            home = Path(found.locate_file(""))
            paths |= {
                home / file.parts[0] for file in found.files if file.parts[0] not in ("..", "__pycache__")
            }
    return paths
