"""`python -m bench run`: measure an engine and answer against a baseline."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from rich.console import Console, RenderableType

from bench import (
    artifacts,
    cluster,
    config,
    launcher,
    machine,
    metrics,
    record,
    reports,
    sitting,
    suites,
    sweeper,
    trial,
    validity,
)
from bench.decide import baseline
from bench.durations import Durations
from bench.errors import BenchError, MeasurementError, UsageError, explain
from bench.frontier import Failure
from bench.launcher import Cell, Refused, Sweep
from bench.record import RunRecord
from bench.reports import plan as plans
from bench.reports import terminal
from bench.reports.progress import Progress
from bench.sitting import Done
from bench.trial import Place

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")
SUMMARY = "measure an engine, or a sweep of configurations, and answer against the documented baseline"


@dataclass(frozen=True)
class Flags:
    """The lab's own flags, which Hydra does not know."""

    json: bool = False
    dry_run: bool = False
    resume: Path | None = None


def main(argv: list[str]) -> int:
    """Run one experiment, or a sweep of them, and return the exit code."""
    flags, arguments = _flags(argv)
    if flags.resume is not None:
        if arguments:
            raise UsageError(
                f"--resume FOLDER takes no more; {' '.join(arguments)} would change what was begun"
            )
        arguments = _begun(flags.resume)
    elif any(argument.startswith("+sweep=") or argument in ("-m", "--multirun") for argument in arguments):
        arguments = sweeper.left_to_cells(arguments)
    elif not any(argument.startswith("-") for argument in arguments):
        # Before Hydra makes the run's folder, or writes into the one it is given.
        config.from_overrides(arguments)
        for folder in sweeper.given(arguments, "hydra.run.dir"):
            _refuse_used(Path(folder))
    session = Session(flags)
    launcher.register()
    sys.argv = ["python -m bench run", *arguments]  # where hydra.main looks
    hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(session)()
    return max(session.codes, default=0)


def _flags(argv: list[str]) -> tuple[Flags, list[str]]:
    """Take the lab's own flags off.

    Raises:
        UsageError: --resume names no folder.
    """
    rest = [argument for argument in argv if argument not in ("--json", "--dry-run")]
    resume = None
    if "--resume" in rest:
        place = rest.index("--resume")
        if place + 1 == len(rest):
            raise UsageError("--resume needs the folder of the run or sweep to go on with")
        resume = Path(rest[place + 1])
        del rest[place : place + 2]
    return Flags("--json" in argv, "--dry-run" in argv, resume), rest


def _refuse_used(folder: Path) -> None:
    """Raises UsageError: the run is to go into a folder that holds one already."""
    if (folder / ".hydra").exists():
        raise UsageError(f"{folder} holds a run already; choose another hydra.run.dir, or --resume {folder}")


def _begun(folder: Path) -> list[str]:
    """The arguments of the run or sweep in a folder, to go on in it.

    Raises:
        UsageError: nothing was begun there, or it ended.
    """
    quoted = "'" + str(folder.absolute()).replace("\\", "\\\\").replace("'", "\\'") + "'"
    if (folder / "multirun.yaml").exists():
        return [*sweeper.arguments(folder / "multirun.yaml"), f"hydra.sweep.dir={quoted}"]
    if (folder.parent / "multirun.yaml").exists():
        raise UsageError(f"{folder} is one cell of a sweep; resume {folder.parent}")
    if (folder / "report.html").exists():  # the last file that a run writes
        raise UsageError(f"{folder} holds a finished run; there is nothing to resume")
    if not (folder / ".hydra" / "hydra.yaml").exists():
        raise UsageError(f"{folder} holds no run or sweep; give the folder that one was begun in")
    begun = sweeper.arguments(folder / ".hydra" / "hydra.yaml")
    if "hydra.mode=MULTIRUN" in begun:
        raise UsageError(f"{folder} is one cell of a sweep, taken out of it; resume the sweep")
    return [*begun, f"hydra.run.dir={quoted}"]


@dataclass
class Session:
    """What Hydra calls: itself with the configuration of a single run, `sweep` with all cells of a sweep."""

    flags: Flags
    codes: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __call__(self, composed: DictConfig) -> None:
        """Measure a single run, in the folder that Hydra made for it."""
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with _own_folder(folder), _alone(folder):
                cell = Cell(list(HydraConfig.get().overrides.task), folder, config.read(composed))
                runs = self._measure([cell], folder)
        except Exception as error:
            self._fail(error)  # Hydra would add lines of its own
            return
        for ended, made in runs:
            self._show(_answer(ended, made), terminal.table(made), ended / "report.html")

    def sweep(self, sweep: Sweep) -> None:
        """Measure every cell of a sweep that is not finished, then compare all."""
        if self.flags.resume is None and (sweep.folder / "multirun.yaml").exists():
            raise UsageError(f"{sweep.folder} holds a sweep already; --resume goes on with it")
        cells = self._without_refused(sweep.cells)
        if not cells:
            return
        if self.flags.dry_run:
            self._measure(cells, sweep.folder)
            return
        sweep.make_folder()
        with _alone(sweep.folder):
            runs = self._measure(cells, sweep.folder)
            if runs:
                objective = cells[0].config.objective
                page = reports.write_sweep(runs, sweep.folder, objective, self.failures)
                failed = [{"command": list(command), "reason": why} for command, why in self.failures]
                answer = {"runs": [_answer(*run) for run in runs], "failures": failed}
                self._show(answer, terminal.sweep(runs, objective, self.failures), page)

    def _measure(self, cells: Sequence[Cell], folder: Path) -> list[tuple[Path, RunRecord]]:
        """Bring every cell to its record, in the folder of each; none where only the plan is asked for."""
        try:
            with _place(cells) as place:
                return self._measure_at(place, cells)
        except KeyboardInterrupt:
            if (folder / "multirun.yaml").exists() or trial.kept(folder):
                raise KeyboardInterrupt(f"python -m bench run --resume {_relative(folder)} goes on") from None
            raise

    def _measure_at(self, place: Place, cells: Sequence[Cell]) -> list[tuple[Path, RunRecord]]:
        here = machine.describe()
        sitting.check_comparable(cells, here)
        progress, durations = Progress(Console(stderr=True)), _durations(cells)
        unfinished = [cell for cell in cells if not cell.finished]
        opened = self._without_refused(list(sitting.open_cells(unfinished, progress.say)))
        plan = sitting.plan(opened, len(cells) - len(unfinished), durations)
        if self.flags.dry_run:
            self._show(plans.as_json(plan), plans.table(plan))
            return []
        if not opened and len(unfinished) == len(cells):
            return []
        for cell in cells:
            if cell.finished:
                with self._apart(cell):
                    _complete(cell)
        progress.say(plans.in_short(plan))
        prepared = self._without_refused(list(sitting.prepare(opened)))
        for one in prepared:
            one.cell.make_folder()
        turns = sitting.Sitting(prepared, here)
        with progress.trials(turns.trials, durations) as tell:
            for done in turns.measure(place, tell):
                with self._apart(done.prepared.cell):
                    _conclude(done)
        runs = [(cell.folder, record.read(cell.folder)[0]) for cell in cells if cell.finished]
        self.codes += [0 if made.validity.valid else MeasurementError.exit_code for _, made in runs]
        return runs

    @contextmanager
    def _apart(self, cell: Cell) -> Iterator[None]:
        """A defect met with one cell is said, and is no other's; its trials stay for --resume."""
        try:
            yield
        except BenchError:
            raise  # what cannot be written, no other cell could write either
        except Exception as error:
            self._fail(error, " ".join(cell.overrides))
            if not cell.finished:
                self.failures.append(Failure(cell.overrides, explain(error)[0]))

    def _without_refused(self, cells: Sequence[T | Refused]) -> list[T]:
        """The cells that can be measured; the others' errors are said, each once."""
        refused = [cell for cell in cells if isinstance(cell, Refused)]
        alike: dict[str, list[Refused]] = {}
        for cell in refused:
            alike.setdefault(explain(cell.error)[0], []).append(cell)
        for same in alike.values():
            where = " ".join(same[0].overrides) if len(cells) > 1 else ""
            self._fail(same[0].error, where if len(same) == 1 else f"{len(same)} of {len(cells)} cells")
        self.failures += [Failure(cell.overrides, explain(cell.error)[0]) for cell in refused]
        return [cell for cell in cells if not isinstance(cell, Refused)]

    def _fail(self, error: Exception, where: str = "") -> None:
        message, code = explain(error)
        sys.stderr.write(f"bench: {where}{': ' if where else ''}{message}\n")
        self.codes.append(code)

    def _show(self, answer: object, table: RenderableType, page: Path | None = None) -> None:
        if self.flags.json:
            sys.stdout.write(json.dumps(answer) + "\n")
            return
        console = Console(width=None if sys.stdout.isatty() else 100)
        console.print(table)
        if page is not None:
            console.print(f"report: {_relative(page)}", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def _place(cells: Sequence[Cell]) -> Iterator[Place]:
    """Where the trials of these cells run.

    Raises:
        UsageError: they do not agree, or the cluster they ask for cannot be used.
    """
    asked = {cell.config.launcher for cell in cells}
    if len(asked) > 1:
        raise UsageError("launcher differs between the cells of the sweep; give it one value")
    if all(one.place == "local" for one in asked):
        yield trial.here
        return
    paths = [cell.config.paths for cell in cells]
    folders = {folder.absolute() for one in paths for folder in (one.artifacts, one.runs)}
    with cluster.connect(asked.pop().address, sorted(folders)) as nodes:
        yield nodes.run


def _conclude(done: Done) -> None:
    """Derive the metrics, judge, and write a cell's record and reports."""
    cell, experiment, works = done.prepared.cell, done.prepared.experiment, done.prepared.works
    trials, noise = done.outcome.trials, cell.config.trial.noise
    measured = validity.assess(metrics.derive(done.outcome.samples), trials, done.machine, noise)
    conditions = {series: text for work in works for series, text in work.conditions.items()}
    skipped = {names: reason for work in works for names, reason in work.skipped.items()}
    made = RunRecord(
        run_id=_run_id(cell),
        started_at=done.prepared.started_at,
        wall=done.wall,
        command=cell.overrides,
        experiment=cell.config.model_dump(mode="json"),
        not_used_yet=[*cell.config.engine.unused(), *cell.config.inert],
        machine=done.machine,
        versions=machine.versions(),
        git=machine.commit(),
        dataset=suites.facts(experiment.dataset),
        memory_vectors=experiment.memory_vectors and suites.facts(experiment.memory_vectors),
        trials=trials,
        metrics=measured,
        conditions=conditions,
        skipped=skipped,
        validity=validity.judge(cell.config.suites, trials, measured, done.machine, noise),
        baseline=cell.config.baseline.name,
        verdicts=baseline.judge(cell.config.baseline, measured, trials, conditions, skipped),
    )
    record.write(made, done.outcome.samples, cell.folder)
    trial.forget(cell.folder)
    reports.write(made, done.outcome.samples, cell.folder)


def _complete(cell: Cell) -> None:
    """Do for a cell with a record what a sitting that was killed then has not."""
    trial.forget(cell.folder)
    if not (cell.folder / "report.html").exists():
        reports.write(*record.read(cell.folder), cell.folder)


def _answer(folder: Path, made: RunRecord) -> dict[str, object]:
    return {"folder": str(folder), "record": made.model_dump(mode="json")}


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Raises UsageError: another process measures into this folder."""
    with artifacts.alone(folder / ".lock") as free:
        if not free:
            raise UsageError(f"{folder} is in the hands of another process; wait for its end, or end it")
        yield


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Leave no folder behind for a run that measured nothing."""
    try:
        yield
    finally:
        if {path.name for path in folder.iterdir()} <= {".hydra"}:
            shutil.rmtree(folder)


def _run_id(cell: Cell) -> str:
    """The folder's name, with its sweep's before it."""
    runs = cell.config.paths.runs.absolute()
    return str(cell.folder.relative_to(runs)) if cell.folder.is_relative_to(runs) else cell.folder.name


def _durations(cells: Sequence[Cell]) -> Durations:
    return Durations(cells[0].config.paths.artifacts.absolute() / "durations.json")


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
