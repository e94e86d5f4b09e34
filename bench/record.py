"""RunRecord: everything a run was, measured and concluded; the contract other programs read.

`python -m bench.record` writes the JSON Schema of this model to `bench/record.schema.json`.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import MeasurementError, UsageError
from bench.machine import Git, Machine
from bench.metrics import COLUMNS, Direction, Measured
from bench.noise import Disturbance
from brein.settings import explain

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION: Literal[1] = 1
_NULLABLE = ("string", "boolean", "Float64", "Int64")  # kinds of columns
SCHEMA_FILE = Path(__file__).parent / "record.schema.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DatasetFacts(_Part):
    """The data a run measured on."""

    name: str
    sha256: str
    counts: dict[str, int] = Field(description="documents, queries, vectors, dimension, …")
    facts: dict[str, Any] = Field(description="library versions, token lengths, licence, …")


class Trial(_Part):
    """One process that measured."""

    suite: str
    phase: str
    repeat: int
    seed: int
    status: Literal["ok", "failed"]
    reason: str | None = Field(description="why it failed")
    started_at: str = Field(description="UTC, ISO 8601")
    wall: float = Field(
        description="seconds of its turns, and of judging, side by side with others; preparing left out"
    )
    series: list[str] = Field(
        default=[], description="the series of samples it gave, with their labels as JSON"
    )
    noise: Disturbance | None = Field(
        default=None,
        description="what went on beside it and those that took turns with it; null: not watched",
    )
    facts: dict[str, Any] = Field(description="what the process says of itself: threads, memory by kind, …")


class Validity(_Part):
    """Whether the measurement is fit to be judged."""

    valid: bool
    reasons: list[str] = Field(description="why it is not")
    notes: list[str] = Field(description="what a reader should know although it is valid")


class Verdict(_Part):
    """One documented figure beside the measured one. `ratio` is measured over baseline."""

    metric: str
    labels: dict[str, str]
    section: str
    title: str
    documented: str = Field(description="the figure in the source's own words")
    scenario: str
    unit: str
    better: Direction
    baseline: float
    measured: float | None
    ratio: float | None
    ci_low: float | None = Field(description="lower end of the ratio's 95% interval")
    ci_high: float | None
    verdict: Literal["pass", "miss", "not proven", "missing"]
    reason: str


class RunRecord(_Part):
    """One run, whole. Raw samples lie beside it in `samples.parquet`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: str
    started_at: str = Field(description="UTC, ISO 8601")
    wall: float = Field(description="seconds the run took")
    command: list[str] = Field(description="the overrides that reproduce it")
    experiment: dict[str, Any] = Field(description="the whole composed configuration")
    not_used_yet: list[str] = Field(
        description="settings kept though nothing acts on them: of parts to come, and inert keys of a profile"
    )
    machine: Machine
    versions: dict[str, str]
    git: Git | None
    dataset: DatasetFacts
    memory_vectors: DatasetFacts | None = Field(
        description="what the memory suite searched, where that was not the data set itself"
    )
    trials: list[Trial]
    metrics: list[Measured]
    conditions: dict[str, str] = Field(
        description="what a series of samples was measured on, by its name and labels: documents, tokens, …"
    )
    skipped: dict[str, str] = Field(
        description="why metrics of a suite that ran were not measured, by the beginning of their names"
    )
    validity: Validity
    baseline: str
    verdicts: list[Verdict]


def write(record: RunRecord, samples: pd.DataFrame, folder: Path) -> None:
    """Write `record.json` and `samples.parquet` into `folder`, each atomically, samples first."""
    table = samples.astype(COLUMNS)
    write_atomically(folder / "samples.parquet", table.to_parquet(index=False))
    write_atomically(folder / "record.json", (record.model_dump_json(indent=1) + "\n").encode())


def read(folder: Path) -> tuple[RunRecord, pd.DataFrame]:
    """Read a run's record and samples; a column that did not exist when they were written is null.

    Raises:
        UsageError: the folder holds no run, or one of another schema version.
    """
    import pandas as pd

    try:
        record = RunRecord.model_validate_json((folder / "record.json").read_bytes())
        samples = pd.read_parquet(folder / "samples.parquet")
    except ValidationError as error:
        raise UsageError(
            f"{folder / 'record.json'}: {explain(error)}; expected schema {SCHEMA_VERSION}"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} holds no readable run: {error}") from None
    kinds = {name: kind for name, kind in COLUMNS.items() if name in samples or kind in _NULLABLE}
    return record, samples.reindex(columns=list(kinds)).astype(kinds)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, never a part.

    Raises:
        MeasurementError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise MeasurementError(
            f"{path} cannot be written: {error.strerror}; free space and run again"
        ) from None


def schema() -> str:
    """The JSON Schema of a record."""
    return json.dumps(RunRecord.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema())
