"""An engine's folder with a whole data set in it; trials open copies."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.artifacts import Artifact
from bench.suites import query
from bench.suites.base import Experiment
from bench.workload.dataset import TextDataset
from bench.workload.embeddings import Vectors
from brein import Engine, EngineConfig


def artifact(experiment: Experiment, dataset: TextDataset) -> Artifact:
    """The folder, known without making it."""
    return query._engine_artifact(experiment, dataset)


def folder(experiment: Experiment, dataset: TextDataset, vectors: Vectors) -> Path:
    """The folder, made now if it is not stored yet."""
    return query._ingested(experiment, dataset, vectors)


@contextmanager
def opened(argument: Mapping[str, Any]) -> Iterator[Engine]:
    """In a child: the configured `engine` on a copy of the `folder`, its model loaded; gone afterwards."""
    with tempfile.TemporaryDirectory(dir=argument["scratch"]) as scratch:
        copy = Path(scratch) / "engine"
        shutil.copytree(argument["folder"], copy)
        config = EngineConfig.read(argument["engine"]).model_copy(update={"path": copy})
        with Engine.open(config) as engine:
            engine.warm_up()
            yield engine
