"""From cells to outcomes: their data loaded, their work planned and prepared, their trials run in turns.

A sweep that was interrupted goes on in another sitting: finished cells are left out, and so are the trials of
others that had ended. A single run is a sweep of one cell.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from bench import machine, record, suites, trial, workload
from bench.artifacts import Artifact, Store
from bench.config import ExperimentConfig
from bench.data_config import HoldoutConfig, SyntheticConfig, TextConfig
from bench.durations import Durations
from bench.errors import UsageError
from bench.launcher import Cell, Refused
from bench.machine import Machine
from bench.trial import Ended, Kept, Outcome, Place, Task, Work
from bench.workload import holdout, synthetic
from bench.workload.dataset import Dataset, VectorDataset
from brein import embedding

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Opened:
    """A cell with its data loaded, which its suites can measure. `seconds` is what that took."""

    cell: Cell
    experiment: suites.Experiment
    started_at: str
    seconds: float

    @property
    def artifacts(self) -> list[Artifact]:
        """What its trials need."""
        return [one for suite in self._suites for one in suite.artifacts(self.experiment)]

    def works(self) -> list[Work]:
        """What its trials are; makes what they need."""
        return [work for suite in self._suites for work in suite.plan(self.experiment)]

    @property
    def _suites(self) -> list[suites.Suite]:
        return [suites.SUITES[suite] for suite in self.cell.config.suites]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An opened cell with everything made that its trials need. `seconds` is what it took so far."""

    cell: Cell
    experiment: suites.Experiment
    works: list[Work]
    started_at: str
    seconds: float


@dataclass(frozen=True)
class Done:
    """A cell whose trials have all ended. `wall` is seconds: its preparation, and its trials as measured."""

    prepared: Prepared
    outcome: Outcome
    machine: Machine
    wall: float


@dataclass(frozen=True)
class Plan:
    """What a sitting will do, before it does anything.

    `there` and `missing` count artifacts by kind, each once however many cells share it. `seconds` is None
    where nothing of the kind was measured or made before.
    """

    cells: list[Cell]
    finished: int
    there: dict[str, int]
    missing: dict[str, int]
    seconds: float | None


class Data:
    """Loads the data of cells, each data set once however many cells ask for it."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._loaded: dict[str, Any] = {}

    def experiment(self, config: ExperimentConfig) -> suites.Experiment:
        """The experiment with its data loaded.

        Raises:
            UsageError: the data cannot be used.
        """
        store = Store(config.paths.artifacts.absolute(), self._say, config.artifacts.max_bytes)
        vectors: VectorDataset | None = None
        if isinstance(config.dataset, TextConfig) and "memory" in config.suites:
            searched = config.dataset.memory_vectors
            if searched is not None:
                key = searched.model_dump_json() + config.holdout.model_dump_json()
                vectors = self._once(key, partial(self._draw, searched, config.holdout))
        # The embedding model's tokeniser cuts the documents, so the data depend on both.
        parts = (config.dataset, config.embedding, config.holdout)
        key = "".join(part.model_dump_json() for part in parts)
        dataset = self._once(key, partial(self._load, config, store))
        return suites.Experiment(config, dataset, vectors, store)

    def _load(self, config: ExperimentConfig, store: Store) -> Dataset:
        self._say(f"load dataset {config.dataset.kind}")
        tokenizer = embedding.tokenizer(config.embedding)
        loaded = workload.load(config.dataset, store, tokenizer, config.paths.datasets.absolute())
        return holdout.apply(loaded, config.holdout)

    def _draw(self, vectors: SyntheticConfig, split: HoldoutConfig) -> Dataset:
        return holdout.apply(synthetic.load(vectors), split)

    def _once(self, key: str, load: Callable[[], Any]) -> Any:
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]


def open_cells(cells: Sequence[Cell], say: Say) -> Iterator[Opened | Refused]:
    """Load the data of every cell, and refuse what its suites cannot measure."""
    data = Data(say)
    for cell in cells:
        started_at, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        try:
            machine.check(cell.config.trial, cell.config.tier)
            experiment = data.experiment(cell.config)
            for suite in cell.config.suites:
                suites.SUITES[suite].check(experiment)
        except Exception as error:  # one cell's mistake is no other's
            yield Refused(cell.overrides, error)
        else:
            yield Opened(cell, experiment, started_at, time.perf_counter() - start)


def plan(opened: Sequence[Opened], finished: int, durations: Durations) -> Plan:
    """What is there, what has to be made, and how long that and the trials will take."""
    wanted = {artifact.key: (one, artifact) for one in opened for artifact in one.artifacts}
    there: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    expected = cache(Store.expected_seconds)  # which reads what is known of every artifact
    seconds: list[float | None] = [durations.of_cell(one.cell.config) for one in opened]
    for one, artifact in wanted.values():
        store = one.experiment.store
        if store.find(*artifact):
            there[artifact.kind] += 1
        else:
            missing[artifact.kind] += 1
            seconds.append(expected(store, artifact.kind))
    known = [one for one in seconds if one is not None]
    total = sum(known) if len(known) == len(seconds) else None
    return Plan([one.cell for one in opened], finished, dict(there), dict(missing), total)


def prepare(opened: Sequence[Opened]) -> Iterator[Prepared | Refused]:
    """Make what the trials of every cell need; nothing is made twice."""
    for one in opened:
        start = time.perf_counter()
        try:
            works = one.works()
        except Exception as error:  # one cell's mistake is no other's
            yield Refused(one.cell.overrides, error)
        else:
            seconds = one.seconds + time.perf_counter() - start
            yield Prepared(one.cell, one.experiment, works, one.started_at, seconds)


class Sitting:
    """The trials of prepared cells, in their order: those that ended in an earlier sitting are left out."""

    def __init__(self, prepared: Sequence[Prepared], here: Machine) -> None:
        commit = machine.commit()
        identity = {
            "machine": here.fingerprint,
            "versions": machine.versions(),
            "git": commit and commit.model_dump(),
        }
        self._here = here
        self._cells = {
            trial.Cell(
                name=" ".join(one.cell.overrides),
                works=one.works,
                config=one.cell.config.trial,
                kept=Kept(one.cell.folder, identity),
            ): one
            for one in prepared
        }

        self.trials = trial.to_run(list(self._cells))

    def measure(self, place: Place, tell: Callable[[Task, Ended], None]) -> Iterator[Done]:
        """Run the trials in turns and give each cell as its last one ends; `tell` is told of each."""
        for cell, outcome in trial.run_all(list(self._cells), self.trials, place, tell):
            one = self._cells[cell]
            wall = one.seconds + sum(trial.wall for trial in outcome.trials)
            yield Done(one, outcome, self._here, wall)


def check_comparable(cells: Sequence[Cell], here: Machine) -> None:
    """Refuse to go on with a sweep whose finished cells do not compare with what it would measure now.

    They were configured otherwise, or measured on another machine or with other packages.

    Raises:
        UsageError: naming what differs.
    """
    versions = machine.versions()
    for cell in cells:
        if cell.finished:
            made, _ = record.read(cell.folder)
            asked = cell.config.model_dump(mode="json")
            changed = [name for name in asked if made.experiment.get(name) != asked[name]]
            if changed:
                raise UsageError(
                    f"{cell.folder} was measured with another {', '.join(changed)} than that cell now has: "
                    "a preset or an option has changed; start a new sweep"
                )
            differ = [
                name for name in {*versions, *made.versions} if versions.get(name) != made.versions.get(name)
            ]
            if made.machine.fingerprint != here.fingerprint:
                differ.append("this machine")
            if differ:
                raise UsageError(
                    f"{cell.folder} was measured with another version of {', '.join(sorted(differ))}: its "
                    "figures do not compare; start a new sweep"
                )
