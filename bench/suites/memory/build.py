"""Built indexes: made once, timed and weighed when that happens, shared by every run that needs them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import process
from bench.machine import compute_threads, describe, versions
from bench.suites.base import Experiment
from bench.trial import Samples
from brein import EngineConfig, index
from brein.index import IndexConfig


def built(experiment: Experiment, config: IndexConfig, rows: int) -> Path:
    """The folder of an index of the first `rows` vectors, built now if it is not stored yet."""
    vectors = experiment.vectors()
    threads = compute_threads(experiment.config.trial.threads)
    content = {
        "vectors": vectors.key,
        "rows": rows,
        "index": config.build_parameters,
        "format": index.FORMAT,
        "faiss": versions()["faiss-cpu"],
        "threads": threads,
    }

    def build(folder: Path) -> None:
        argument = {
            "engine": EngineConfig(index=config).model_dump_json(),
            "vectors": str(vectors.folder),
            "rows": rows,
            "folder": str(folder),
        }
        process.call("bench.suites.memory.build:build", argument, threads=threads)

    return experiment.store.get_or_build("indexes", content, build)


def build(argument: dict[str, Any]) -> dict[str, Any]:
    """In a child: build and save the index, and say what that took and what it holds."""
    folder = Path(argument["folder"])
    vectors = np.load(Path(argument["vectors"]) / "vectors.npy", mmap_mode="r")[: argument["rows"]]
    vectors = np.array(vectors)
    ids = [str(row) for row in range(len(vectors))]
    made = index.create(EngineConfig.read(argument["engine"]).index, vectors.shape[1])
    start = time.perf_counter()
    made.add(ids, vectors)
    seconds = time.perf_counter() - start
    index.save(made, folder / "index")
    resident, on_disk = made.footprint()
    facts = {
        "seconds": seconds,
        "resident": resident,
        "on_disk": on_disk,
        "vectors": len(vectors),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe().fingerprint,
    }
    (folder / "build.json").write_text(json.dumps(facts))
    return {}


def samples(folder: Path) -> tuple[list[Samples], str]:
    """What a build took and made, and when that was. Another machine's build time is left out."""
    facts = json.loads((folder / "build.json").read_text())
    known = _sizes(facts["resident"], facts["on_disk"], facts["vectors"])
    when = f"built once, {facts['ended_at']}"
    if facts["machine"] == describe().fingerprint:
        known.append(Samples.of(facts["seconds"], "memory.build"))
    else:
        when += " on another machine: its time is not shown"
    return known, when


def _sizes(resident: dict[str, int], on_disk: dict[str, int], vectors: int) -> list[Samples]:
    """Bytes per vector, and for a million of them: centroids and codebooks do not grow with their number."""
    total, fixed = sum(resident.values()), resident.get("centroids", 0)
    return [
        *(Samples.of(size / vectors, "memory.index.bytes", part=part) for part, size in resident.items()),
        Samples.of(total / vectors, "memory.index.bytes"),
        *(Samples.of(size / vectors, "memory.index.disk_bytes", part=part) for part, size in on_disk.items()),
        Samples.of(fixed + 1e6 * (total - fixed) / vectors, "memory.index.projected_bytes"),
    ]
