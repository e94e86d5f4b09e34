"""All cells of a sweep at once: planned, prepared, measured in turns, gone on with after an interruption.

Hydra's own launcher runs one cell after another: drift of the machine would pass for a difference between
cells, and whatever they share would be loaded for each. `SweepLauncher` composes every cell and hands all of
them to the task. A single run is a sweep of one cell.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bench import config, machine, record, suites, trial, workload
from bench.artifacts import Store
from bench.config import ExperimentConfig, TextConfig
from bench.errors import UsageError
from bench.machine import Machine
from bench.sweeper import GridSweeper
from bench.trial import Ended, Kept, Outcome, Place, Task, Work
from bench.workload import synthetic
from bench.workload.dataset import Dataset, VectorDataset
from brein import embedding

Say = Callable[[str], None]


# --- cells -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cell:
    """One experiment as composed: the overrides that reproduce it, its folder, and what it asks for.

    `hydra` are the texts of the files that Hydra keeps in a run's folder.
    """

    overrides: list[str]
    folder: Path
    config: ExperimentConfig
    hydra: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether its record has been written."""
        return (self.folder / "record.json").exists()

    def make_folder(self) -> None:
        """Make the cell's folder, with Hydra's files in it."""
        inside = self.folder / ".hydra"
        inside.mkdir(parents=True, exist_ok=True)
        for name, text in self.hydra.items():
            record.write_atomically(inside / name, text.encode())


@dataclass(frozen=True)
class Refused:
    """A cell that cannot be measured as asked, and why."""

    overrides: list[str]
    error: Exception


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder, Hydra's file for it (`multirun.yaml`), and its cells."""

    folder: Path
    multirun: str
    cells: list[Cell | Refused]

    def make_folder(self) -> None:
        """Make the sweep's folder, with Hydra's file in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record.write_atomically(self.folder / "multirun.yaml", self.multirun.encode())


class SweepTask(Protocol):
    """What a sweep is handed to."""

    def sweep(self, sweep: Sweep) -> None:
        """Measure its cells."""


class SweepLauncher(Launcher):
    """Composes every cell of a sweep and hands them to the task together."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composing needs; Hydra calls this."""
        self._loader, self._config = hydra_context.config_loader, config
        self._task: Any = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose all cells and measure them."""
        folder = Path(self._config.hydra.sweep.dir).absolute()
        cells = [self._compose(folder, number, list(one)) for number, one in enumerate(job_overrides)]
        self._task.sweep(Sweep(folder, OmegaConf.to_yaml(self._config), cells))
        return []

    def _compose(self, sweep: Path, number: int, overrides: list[str]) -> Cell | Refused:
        try:
            composed = self._loader.load_sweep_config(self._config, overrides)
            with open_dict(composed):
                composed.hydra.job.id = composed.hydra.job.num = number
            folder = sweep / str(OmegaConf.select(composed, "hydra.sweep.subdir"))
            with open_dict(composed):
                composed.hydra.runtime.output_dir = str(folder)
                hydra = OmegaConf.create({"hydra": composed.pop("hydra")})
            texts = {
                "config.yaml": OmegaConf.to_yaml(composed),
                "hydra.yaml": OmegaConf.to_yaml(hydra),
                "overrides.yaml": OmegaConf.to_yaml(overrides),
            }
            return Cell(overrides, folder, config.read(composed), texts)
        except Exception as error:  # one cell's mistake is no other's
            return Refused(overrides, config.refusal(error))


def register() -> None:
    """Make the lab's sweeper and launcher known to Hydra.

    Hydra takes plugins from a package named hydra_plugins only, and finds them there by name.
    """
    known = Plugins.instance()  # has imported other plugins' hydra_plugins, where there are any
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    own = sys.modules["hydra_plugins.bench"] = ModuleType("hydra_plugins.bench")
    package.__dict__["bench"] = own
    for plugin in (GridSweeper, SweepLauncher):
        plugin.__module__ = own.__name__
        own.__dict__[plugin.__name__] = plugin
        known.register(plugin)


# --- measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prepared:
    """A cell with its data loaded and everything made that its trials need."""

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
        store = Store(config.paths.artifacts.absolute(), self._say)
        vectors: VectorDataset | None = None
        if isinstance(config.dataset, TextConfig) and "memory" in config.suites:
            searched = config.dataset.memory_vectors
            if searched is not None:
                vectors = self._once(searched.model_dump_json(), partial(synthetic.load, searched))
        # The embedding model's tokeniser cuts the documents, so the data depend on both.
        key = config.dataset.model_dump_json() + config.embedding.model_dump_json()
        dataset = self._once(key, partial(self._load, config, store))
        return suites.Experiment(config, dataset, vectors, store)

    def _load(self, config: ExperimentConfig, store: Store) -> Dataset:
        self._say(f"load dataset {config.dataset.kind}")
        tokenizer = embedding.tokenizer(config.embedding)
        return workload.load(config.dataset, store, tokenizer, config.paths.datasets.absolute())

    def _once(self, key: str, load: Callable[[], Any]) -> Any:
        if key not in self._loaded:
            self._loaded[key] = load()
        return self._loaded[key]


def prepare(cells: Sequence[Cell], say: Say) -> Iterator[Prepared | Refused]:
    """Load the data of every cell and make what its trials need; nothing is made twice."""
    data = Data(say)
    for cell in cells:
        try:
            yield _prepare(cell, data)
        except Exception as error:  # one cell's mistake is no other's
            yield Refused(cell.overrides, error)


def _prepare(cell: Cell, data: Data) -> Prepared:
    started_at, start = datetime.now(UTC), time.perf_counter()
    experiment = data.experiment(cell.config)
    chosen = [suites.SUITES[suite] for suite in cell.config.suites]
    for suite in chosen:
        suite.check(experiment)
    works = [work for suite in chosen for work in suite.plan(experiment)]
    seconds = time.perf_counter() - start
    return Prepared(cell, experiment, works, started_at.isoformat(timespec="seconds"), seconds)


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
    """Refuse to go on with a sweep whose finished cells were measured elsewhere or with other packages.

    Raises:
        UsageError: naming what differs.
    """
    versions = machine.versions()
    for cell in cells:
        if cell.finished:
            made, _ = record.read(cell.folder)
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
