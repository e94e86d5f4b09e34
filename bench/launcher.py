"""All cells of a sweep at once: a Hydra Launcher.

Hydra's own launcher runs one cell after another: drift of the machine would pass for a difference between
cells, and whatever they share would be loaded for each. `SweepLauncher` composes every cell and hands all of
them to the task, which can plan, skip the finished and let the others take turns (`bench.sitting`).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Protocol

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from bench import config, record
from bench.config import ExperimentConfig
from bench.sweeper import GridSweeper


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
        self._task: SweepTask = task_function  # type: ignore[assignment]  # the lab's own

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
