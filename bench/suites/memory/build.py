"""Built indexes: made once, timed when that happens, shared by every run that needs them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import process
from bench.artifacts import Artifact
from bench.machine import compute_threads, describe, faiss
from bench.suites.base import Experiment
from bench.trial import Samples
from brein import EngineConfig, index
from brein.index import IndexConfig

FORMAT = 2  # of `build.json` and of how an index is built; a change makes every older artifact unreachable


def wanted(experiment: Experiment, config: IndexConfig, rows: int) -> Artifact:
    """What `built` makes, known without making it."""
    content = {
        "vectors": experiment.vector_artifact().key,
        "rows": rows,
        "index": config.build_parameters,
        "formats": [FORMAT, index.FORMAT],
        "faiss": faiss(),
        "threads": compute_threads(experiment.config.trial.threads),
    }
    return Artifact("indexes", content)


def built(experiment: Experiment, config: IndexConfig, rows: int) -> Path:
    """The folder of an index of the first `rows` vectors, built now if it is not stored yet."""
    vectors = experiment.vectors()
    threads = compute_threads(experiment.config.trial.threads)

    def build(folder: Path) -> None:
        argument = {
            "engine": EngineConfig(index=config).model_dump_json(),
            "vectors": str(vectors.folder),
            "rows": rows,
            "folder": str(folder),
        }
        process.call("bench.suites.memory.build:build", argument, threads=threads)

    return experiment.store.get_or_build(*wanted(experiment, config, rows), build)


def build(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: build and save the index, and say what that took."""
    folder = Path(argument["folder"])
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy", mmap_mode="r")[: argument["rows"]]
    vectors = np.array(vectors)
    ids = [str(row) for row in range(len(vectors))]
    made = index.create(EngineConfig.read(argument["engine"]).index, vectors.shape[1])
    start = time.perf_counter()
    made.add(ids, vectors)
    seconds = time.perf_counter() - start
    index.save(made, folder / "index")
    facts = {
        "seconds": seconds,
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe().fingerprint,
    }
    (folder / "build.json").write_text(json.dumps(facts))
    return {}


def samples(folder: Path, series: str = "memory.build", **labels: str) -> tuple[list[Samples], str]:
    """How long a build took, and when that was. Another machine's time is left out."""
    facts = json.loads((folder / "build.json").read_text())
    when = f"built once, {facts['ended_at']}"
    if facts["machine"] != describe().fingerprint:
        return [], f"{when} on another machine: its time is not shown"
    return [Samples.of(facts["seconds"], series, **labels)], when
