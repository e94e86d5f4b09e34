"""Settings of what is measured on: data sets, requests for them, what changes while they are searched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from brein.index import Metric
from brein.settings import Settings

# --- datasets ------------------------------------------------------------------------------------


class SyntheticConfig(Settings):
    """Vectors drawn from clusters with a stated intrinsic dimension."""

    kind: Literal["synthetic"] = "synthetic"
    vectors: int = Field(ge=1, le=100_000_000, description="vectors to index")
    queries: int = Field(ge=1, le=1_000_000, description="query vectors, drawn from the same distribution")
    dimension: int = Field(ge=2, le=65_536, description="components of a vector")
    clusters: int = Field(ge=1, le=1_000_000, description="clusters, of Zipf-distributed sizes")
    cluster_spread: float = Field(gt=0, description="spread of a cluster over the spread of the centres")
    intrinsic_dimension: int = Field(ge=1, description="directions that carry the variance")
    seed: int = Field(ge=0, description="seed of the generator")


class PydocsConfig(Settings):
    """The docstrings of the installed libraries, as a retrieval corpus."""

    kind: Literal["pydocs"] = "pydocs"
    documents: int | None = Field(ge=1, description="documents to keep; null keeps all")
    queries: int | None = Field(ge=1, description="queries to keep; null keeps all")
    max_tokens: int | None = Field(ge=1, description="each document is cut to so many tokens; null: uncut")
    memory_vectors: SyntheticConfig | None = Field(
        description="vectors the memory suite searches; null: the documents' own embeddings"
    )


class BeirConfig(Settings):
    """A BEIR folder: corpus.jsonl, queries.jsonl, qrels/<split>.tsv."""

    kind: Literal["beir"] = "beir"
    path: Path = Field(description="the folder")
    split: str = Field(min_length=1, description="which judgements: the name of a file in qrels/")
    documents: int | None = Field(ge=1, description="documents to keep; null keeps all")
    queries: int | None = Field(ge=1, description="queries to keep; null keeps all that have judgements")
    max_tokens: int | None = Field(ge=1, description="each document is cut to so many tokens; null: uncut")
    memory_vectors: SyntheticConfig | None = Field(
        description="vectors the memory suite searches; null: the documents' own embeddings"
    )


class VectorFileConfig(Settings):
    """Vectors from files.

    `path` is a folder with one base, one query and perhaps one truth file, or the base file alone
    (its last `queries` rows are then held out as queries).
    """

    kind: Literal["fvecs", "fbin", "hdf5", "npy"]
    path: Path = Field(description="a folder, or the file that holds the vectors")
    metric: Metric | None = Field(description="metric of the published ground truth; null: unknown")
    vectors: int | None = Field(ge=1, description="vectors to keep, first rows first; null keeps all")
    queries: int | None = Field(ge=1, description="query vectors to keep; null keeps all")


class RecipeConfig(Settings):
    """A public data set fetched by a recipe of `datasets/recipes/`."""

    kind: Literal["recipe"] = "recipe"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="a recipe: `python -m bench data list`")


DatasetConfig = Annotated[
    PydocsConfig | SyntheticConfig | BeirConfig | VectorFileConfig | RecipeConfig, Field(discriminator="kind")
]
TextConfig = PydocsConfig | BeirConfig


# --- workloads -----------------------------------------------------------------------------------


class Repetition(Settings):
    """Requests that come back soon."""

    repetition: float = Field(
        ge=0, lt=1, description="probability that a request repeats one of the last `window` requests"
    )
    window: int = Field(ge=1, le=1_000_000, description="requests back that may be repeated")


class UniformPopularity(Repetition):
    """Every query is as likely as any other."""

    kind: Literal["uniform"] = "uniform"


class ZipfPopularity(Repetition):
    """The query of rank r is asked with probability proportional to r^-exponent."""

    kind: Literal["zipf"] = "zipf"
    exponent: float = Field(ge=0, le=10, description="popularity skew; 0 is uniform")
    drift: float = Field(
        ge=0, le=10, description="share of the ranks that exchange queries in 1,000 requests, on average"
    )


class TracePopularity(Settings):
    """Requests of a file, in their order: cut to as many as are asked for, or begun again."""

    kind: Literal["trace"] = "trace"
    path: Path = Field(description="a text file, one entry a line, or a CSV file")
    column: str | None = Field(min_length=1, description="the CSV file's column; null: it is a text file")


Popularity = Annotated[UniformPopularity | ZipfPopularity | TracePopularity, Field(discriminator="kind")]


class ChangeStep(Settings):
    """Insert or delete vectors `start` up to, but not including, `end`."""

    operation: Literal["insert", "delete"]
    start: float = Field(ge=0, description="in the runbook's unit")
    end: float = Field(gt=0, description="in the runbook's unit")


class SearchStep(Settings):
    """Search what is there."""

    operation: Literal["search"] = "search"


class RunbookConfig(Settings):
    """Steps that change an index and search it, as those of big-ann-benchmarks' streaming track."""

    name: str = Field(min_length=1)
    unit: Literal["share", "row"] = Field(
        description="whether start and end are shares of the vectors, or row numbers"
    )
    steps: tuple[Annotated[ChangeStep | SearchStep, Field(discriminator="operation")], ...] = Field(
        min_length=1
    )


class HoldoutConfig(Settings):
    """Parts of the data set that are kept apart, the same ones every time: see `bench.workload.holdout`."""

    queries: float = Field(ge=0, lt=1, description="share of the queries on the side tune; the rest is test")
    side: Literal["tune", "test"] = Field(description="which of the queries are asked")
    documents: float = Field(ge=0, lt=1, description="share of the documents, or vectors, never searched")
