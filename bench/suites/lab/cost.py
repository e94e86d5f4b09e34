"""Part `cost`: the lab's own cost.

A trial's is what its process takes beside its timed work. A sweep's is the wall time of `bench run` over a
grid of build and query parameters, everything included, beside that of a plain loop over the same grid: a
fresh process and a build for each group of query parameters and each repeat.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bench import process, trial
from bench.artifacts import Artifact
from bench.config import TrialConfig
from bench.data_config import SyntheticConfig
from bench.errors import MeasurementError
from bench.machine import compute_threads
from bench.suite_config import LabConfig
from bench.suites.base import Experiment
from bench.suites.lab.aa import single_searches
from bench.suites.memory import search
from bench.trial import Cell, Kept, Measurement, Plan, Samples, Task, Work
from bench.workload import synthetic
from brein import EngineConfig, index
from brein.index.hnsw import HNSWConfig

METRICS: tuple[str, ...] = ("lab.cost",)
_TIMED = ("memory.search", "memory.search.batch", "memory.filtered")


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    return search.artifacts(experiment) + search.artifacts(grid(experiment))


def plan(experiment: Experiment) -> Work:
    """Make what the trials need, and plan a usual trial of the memory suite and the two ways."""
    if experiment.lacks_gpu():
        return Work(skipped=dict.fromkeys(METRICS, "needs a GPU"))
    settings, config = experiment.config.suite.lab, experiment.config
    (usual,) = search.plan(experiment).plans
    (single,) = search.plan(grid(experiment)).plans
    common = {"trial": config.trial.model_dump(mode="json"), "scratch": str(experiment.store.scratch())}
    weighed = {"argument": dict(usual.argument), **common}
    compared = {"argument": dict(single.argument), "lab": settings.model_dump(mode="json"), **common}
    groups = len(settings.grid_M) * len(settings.grid_efSearch)
    measured_on = (
        f"{groups} groups of HNSW's M and efSearch, {settings.grid_repeats} times, "
        f"{config.suite.memory.searches:,} searches each, over {settings.grid_vectors:,} vectors of "
        f"{settings.data.dimension} components"
    )
    return Work(
        [
            Plan("lab", "cost of a trial", "bench.suites.lab.cost:weigh", weighed),
            Plan("lab", "cost of a sweep", "bench.suites.lab.cost:compare", compared),
        ],
        conditions={
            "lab.cost.trial": f"part search of the memory suite over {settings.data.vectors:,} vectors",
            "lab.cost.ratio": measured_on,
            **{f"lab.cost.wall {way}": measured_on for way in ("lab", "loop")},
        },
    )


def grid(experiment: Experiment) -> Experiment:
    """What the groups of the grid are searched on, with hardly anything beside single searches."""
    settings = experiment.config.suite.lab
    first = experiment.config.model_copy(update={"index": HNSWConfig(M=settings.grid_M[0])})
    found = replace(experiment, config=first, dataset=synthetic.load(_grid_data(settings)))
    return single_searches(found, first.suite.memory.searches)


def _grid_data(settings: LabConfig) -> SyntheticConfig:
    return settings.data.model_copy(update={"vectors": settings.grid_vectors})


# --- a trial -------------------------------------------------------------------------------------


def weigh(argument: dict[str, Any]) -> Measurement:
    """In a child, as the parent of a usual vector trial: what it takes beside its timed work, by phase."""
    config = TrialConfig.model_validate(argument["trial"])
    yield
    empty = _seconds_of_an_empty_process()
    measured = Plan("memory", "search", "bench.suites.lab.cost:search_without_torch", argument["argument"])
    cell = Cell("usual", [Work([measured])], config, Kept(Path(), {}))
    start = time.perf_counter()
    (((_, ended),),) = trial.here([Task(cell, measured, 0)])
    wall = time.perf_counter() - start
    if ended.trial.reason:
        raise MeasurementError(ended.trial.reason)
    timed = sum(row["value"] for row in ended.rows if row["series"] in _TIMED)
    phases = {
        "an empty process": empty,
        "load": wall - ended.trial.wall - empty,
        "judge and report": ended.trial.wall - timed,
    }
    return trial.report(
        Samples.of(wall - timed, "lab.cost.trial"),
        *(Samples.of(seconds, "lab.cost.trial", phase=phase) for phase, seconds in phases.items()),
        timed=timed,
    )


def _seconds_of_an_empty_process() -> float:
    start = time.perf_counter()
    process.call("builtins:dict", {}, threads=1)
    return time.perf_counter() - start


def search_without_torch(argument: dict[str, Any]) -> Measurement:
    """In a child: a vector trial.

    Raises:
        MeasurementError: it imported torch, which takes seconds and shares its threads with faiss.
    """
    made = yield from search.search(argument)
    if "torch" in sys.modules:
        raise MeasurementError("a vector trial imported torch; find the import and defer it")
    return made


# --- a sweep -------------------------------------------------------------------------------------


def compare(argument: dict[str, Any]) -> Measurement:
    """In a child, as a user with a grid to measure: wall seconds the lab's way, then in a plain loop."""
    settings = LabConfig.model_validate(argument["lab"], strict=False)
    yield
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as folder:
        seconds = {"lab": _sweep(settings, argument, Path(folder)), "loop": _loop(settings, argument)}
    return trial.report(
        *(Samples.of(wall, "lab.cost.wall", way=way) for way, wall in seconds.items()),
        Samples.of(seconds["lab"] / seconds["loop"], "lab.cost.ratio"),
    )


def _sweep(settings: LabConfig, argument: Mapping[str, Any], folder: Path) -> float:
    """Seconds of `bench run` over the grid with nothing stored: data, truth, builds, trials and reports.

    Raises:
        MeasurementError: it did not measure every group.
    """
    command = [sys.executable, "-m", "bench", "run", "-m", *_overrides(settings, argument, folder)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    groups, records = (
        len(settings.grid_M) * len(settings.grid_efSearch),
        [*folder.glob("runs/*/*/record.json")],
    )
    if len(records) != groups:
        last = done.stderr.strip().splitlines()[-1:]
        raise MeasurementError(f"the sweep gave {len(records)} of {groups} records: {''.join(last)}")
    return seconds


def _overrides(settings: LabConfig, argument: Mapping[str, Any], folder: Path) -> Iterator[str]:
    yield from ("suites=[memory]", "suite.memory.parts=[search]", "dataset=synthetic", "index=hnsw")
    yield from (f"dataset.{name}={value}" for name, value in _grid_data(settings) if name != "kind")
    searches = argument["argument"]["settings"]
    for name in ("k", "searches", "batch_seconds", "filter_shares"):
        yield f"suite.memory.{name}={searches[name]}"
    yield f"index.M={','.join(map(str, settings.grid_M))}"
    yield f"index.efSearch={','.join(map(str, settings.grid_efSearch))}"
    yield f"trial.repeats={settings.grid_repeats}"
    yield f"trial.threads={argument['trial']['threads'] or 'null'}"
    yield from (f"paths.runs={folder / 'runs'}", f"paths.artifacts={folder / 'artifacts'}")


def _loop(settings: LabConfig, argument: Mapping[str, Any]) -> float:
    """Seconds of a fresh process and a build for each group and repeat; data and truth are there already."""
    threads = compute_threads(argument["trial"]["threads"])
    start = time.perf_counter()
    for M, efSearch, repeat in product(  # noqa: N806  FAISS's names
        settings.grid_M, settings.grid_efSearch, range(settings.grid_repeats)
    ):
        engine = EngineConfig(index=HNSWConfig(M=M, efSearch=efSearch))
        one = {**argument["argument"], "engine": engine.model_dump_json(), "seed": repeat}
        process.call("bench.suites.lab.cost:build_and_search", one, threads=threads)
    return time.perf_counter() - start


def build_and_search(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: build an index, search it one by one, judge what was found."""
    folder = Path(argument["vectors"])
    vectors, queries = np.load(folder / "vectors.npy"), np.load(folder / "queries.npy")
    made = index.create(EngineConfig.read(argument["engine"]).index, vectors.shape[1])
    made.add([str(row) for row in range(len(vectors))], vectors)
    order = np.random.default_rng(argument["seed"]).permutation(len(queries))
    singles = search.singles(made, queries, order, argument["settings"])
    return trial.report(search.Judge(argument, queries).singles(made, singles))
