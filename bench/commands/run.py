"""`python -m bench run`: measure an engine and answer against a baseline."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from bench import config, machine, metrics, record, reports, suites, trial, validity, workload
from bench.artifacts import Store
from bench.config import ExperimentConfig, TextConfig
from bench.decide import baseline
from bench.errors import MeasurementError, UsageError, explain
from bench.record import RunRecord
from bench.reports import terminal
from bench.workload import synthetic
from brein import embedding

if TYPE_CHECKING:
    import pandas as pd
    from omegaconf import DictConfig

SUMMARY = "measure an engine and answer against the documented baseline"


def main(argv: list[str]) -> int:
    """Run one experiment, or a sweep of them, and return the exit code."""
    as_json = "--json" in argv
    overrides = [argument for argument in argv if argument != "--json"]
    flags = [argument for argument in overrides if argument.startswith("-")]
    if not flags:
        # Before Hydra makes the run's folder, or writes into the one it is given.
        config.from_overrides(overrides)
        for override in overrides:
            if override.startswith("hydra.run.dir="):
                _refuse_used(Path(override.partition("=")[2]))
    codes: list[int] = []
    runs: list[tuple[Path, RunRecord]] = []

    def task(composed: DictConfig) -> None:
        # Hydra would add lines of its own to an error, and end a sweep at its first.
        try:
            folder, made = _run(config.read(composed), as_json)
            runs.append((folder, made))
            code = 0 if made.validity.valid else MeasurementError.exit_code
        except Exception as error:
            message, code = explain(error)
            sys.stderr.write(f"bench: {message}\n")
        codes.append(code)

    sys.argv = ["python -m bench run", *overrides]  # where hydra.main looks
    hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")(task)()
    if as_json and runs:
        answers = [{"folder": str(folder), "record": made.model_dump(mode="json")} for folder, made in runs]
        sys.stdout.write(json.dumps({"runs": answers} if flags else answers[0]) + "\n")
    elif len(runs) > 1:
        _console().print(terminal.comparison([made for _, made in runs]))
    return max(codes, default=0)


def _run(experiment: ExperimentConfig, as_json: bool) -> tuple[Path, RunRecord]:
    """One run, into the folder Hydra made for it: that folder, and the record in it."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    with _own_folder(folder):
        made, samples = measure(
            experiment, _run_id(folder, experiment), overrides, _progress(Console(stderr=True))
        )
        record.write(made, samples, folder)
    page = reports.write(made, samples, folder)
    if not as_json:
        console = _console()
        console.print(terminal.table(made))
        console.print(f"report: {_relative(page)}", soft_wrap=True, highlight=False, markup=False)
    return folder, made


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 100)


def _refuse_used(folder: Path) -> None:
    """Raises UsageError: the folder holds a run."""
    if (folder / "record.json").exists():
        raise UsageError(f"{folder} holds a run already; choose another hydra.run.dir")


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """Refuse a folder that holds a run already; leave none behind for a run that measured nothing.

    Raises:
        UsageError: the folder holds a run.
    """
    _refuse_used(folder)
    try:
        yield
    except BaseException:
        if {path.name for path in folder.iterdir()} <= {".hydra"}:
            shutil.rmtree(folder)
        raise


def measure(
    experiment: ExperimentConfig, run_id: str, overrides: list[str], say: Callable[[str], None]
) -> tuple[RunRecord, pd.DataFrame]:
    """Load the data, make what the trials need, run them, derive the metrics, judge.

    Raises:
        UsageError: the data or the configuration cannot be used; nothing was measured.
    """
    baseline.check(experiment.baseline)
    started_at, start = datetime.now(UTC), time.perf_counter()
    described = machine.describe()
    prepared = _prepare(experiment, say)
    chosen = [suites.SUITES[suite] for suite in experiment.suites]
    for suite in chosen:
        suite.check(prepared)
    works = [work for suite in chosen for work in suite.plan(prepared)]
    outcome = trial.run_all(works, experiment.trial, say)
    measured = metrics.derive(outcome.samples)
    conditions = {series: text for work in works for series, text in work.conditions.items()}
    skipped = {names: reason for work in works for names, reason in work.skipped.items()}
    made = RunRecord(
        run_id=run_id,
        started_at=started_at.isoformat(timespec="seconds"),
        wall=time.perf_counter() - start,
        command=overrides,
        experiment=experiment.model_dump(mode="json"),
        not_used_yet=[*experiment.engine.unused(), *experiment.inert],
        machine=described,
        versions=machine.versions(),
        git=machine.commit(),
        dataset=suites.facts(prepared.dataset),
        memory_vectors=prepared.memory_vectors and suites.facts(prepared.memory_vectors),
        trials=outcome.trials,
        metrics=measured,
        conditions=conditions,
        skipped=skipped,
        validity=validity.judge(experiment.suites, outcome.trials, measured, described),
        baseline=experiment.baseline.name,
        verdicts=baseline.judge(experiment.baseline, measured, outcome.trials, conditions, skipped),
    )
    return made, outcome.samples


def _prepare(experiment: ExperimentConfig, say: Callable[[str], None]) -> suites.Experiment:
    say(f"load dataset {experiment.dataset.kind}")
    store = Store(experiment.paths.artifacts.absolute(), say)
    tokenizer = embedding.tokenizer(experiment.embedding)
    fetched = experiment.paths.datasets.absolute()
    dataset = workload.load(experiment.dataset, store, tokenizer, fetched)
    vectors = None
    if isinstance(experiment.dataset, TextConfig) and "memory" in experiment.suites:
        searched = experiment.dataset.memory_vectors
        vectors = synthetic.load(searched) if searched else None
    return suites.Experiment(experiment, dataset, vectors, store)


def _run_id(folder: Path, experiment: ExperimentConfig) -> str:
    """The folder's name, with its sweep's before it."""
    runs = experiment.paths.runs.absolute()
    return str(folder.relative_to(runs)) if folder.is_relative_to(runs) else folder.name


def _progress(console: Console) -> Callable[[str], None]:
    """Show what is going on: dimmed lines with the time since the start."""
    start = time.perf_counter()

    def say(text: str) -> None:
        console.print(f"[dim]{time.perf_counter() - start:6.1f} s[/dim]  {text}", highlight=False)

    return say


def _relative(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
