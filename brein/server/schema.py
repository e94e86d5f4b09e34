"""What clients send and get: strict models, from which the OpenAPI document is made.

Bounds are exact: what fulfils a model the engine takes, but for an id that stands twice in a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    create_model,
    model_validator,
)
from pydantic_core import PydanticKnownError
from typing_extensions import TypedDict

from brein.records import Analysis, Emotion, Hit, Stage, Strategy
from brein.server.config import ServerConfig
from brein.storage import filters
from brein.texts import MAX_QUESTION

_NOT_BLANK = r"[^\s\x00-\x1f\x7f-\x9f]"  # a sign that is neither space nor control character
_MOST_FIELDS = 50  # in one filter, and
_MOST_CHOICES = 500  # values in one list of it: the engine takes 500 conditions and 30,000 values in all
_MOST_METADATA = 100
_MOST_KEYS = 20  # in any other object, known or not
_EXAMPLE = {"id": "v", "text": "A violin has four strings.", "metadata": {"lang": "en"}}


def _whole(number: Any) -> Any:
    """24.0 is an integer to JSON Schema."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _small(most: int, given: Any) -> Any:
    """Refuse a larger object: pydantic would note what is wrong with each member before it counts them."""
    if isinstance(given, dict) and len(given) > most:
        size = {"field_type": "Object", "max_length": most, "actual_length": len(given)}
        raise PydanticKnownError("too_long", size)
    return given


Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Ordered = str | bool | Integer | float
Value = Ordered | None
Choices = Annotated[list[Value], Field(max_length=_MOST_CHOICES, fail_fast=True)]


def _not_empty(operators: dict[str, Any]) -> dict[str, Any]:
    if not operators:
        raise ValueError("no operator is given; known: eq, ne, lt, lte, gt, gte, in")
    return operators


_Operators = TypedDict(
    "_Operators",
    {
        "eq": Value,
        "ne": Value,
        "lt": Ordered,
        "lte": Ordered,
        "gt": Ordered,
        "gte": Ordered,
        "in": Choices,
    },
    total=False,
)
_Operators.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
    extra="forbid", strict=True, allow_inf_nan=False, title="Operators"
)
Operators = Annotated[
    _Operators,
    BeforeValidator(partial(_small, _MOST_KEYS)),
    AfterValidator(_not_empty),
    Field(json_schema_extra={"minProperties": 1}),
]
Where = Annotated[
    dict[str, Value | Choices | Operators],
    Field(max_length=_MOST_FIELDS),
    BeforeValidator(partial(_small, _MOST_FIELDS)),
]
Metadata = Annotated[
    dict[str, Value], Field(max_length=_MOST_METADATA), BeforeValidator(partial(_small, _MOST_METADATA))
]
Id = Annotated[str, Field(min_length=1, max_length=512)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, given: Any) -> Any:
        return _small(_MOST_KEYS, given)


class Question(_Strict):
    """A text, how many documents are wanted for it, and what their metadata must fulfil."""

    query: str = Field(min_length=1, max_length=MAX_QUESTION, pattern=_NOT_BLANK)
    k: int
    where: Where | None = Field(
        None,
        description="by metadata field: a value, a list of values to choose from, or operators",
        examples=[{"lang": "en", "year": {"gte": 2020}}],
    )

    @property
    def conditions(self) -> filters.Where | None:
        """`where` as the engine takes it."""
        return cast(filters.Where | None, self.where)


class NewDocument(_Strict):
    """A text to remember, under the caller's own id."""

    id: Id
    text: str
    metadata: Metadata = Field(default_factory=dict)


class NewDocuments(_Strict):
    """A batch: all of it is remembered, or none."""

    documents: list[NewDocument]


def requests(config: ServerConfig) -> tuple[type[Question], type[NewDocuments]]:
    """`Question` and `NewDocuments` with the bounds of a configuration."""
    most = config.max_k
    k = Annotated[int, Field(ge=1, le=most, description="documents, at most"), BeforeValidator(_whole)]
    text = Field(min_length=1, max_length=config.max_text, pattern=_NOT_BLANK)
    document = create_model("Document", __base__=NewDocument, __doc__=NewDocument.__doc__, text=(str, text))
    batch = Field(min_length=1, max_length=config.max_batch, fail_fast=True, examples=[[_EXAMPLE]])
    return (
        create_model("Question", __base__=Question, __doc__=Question.__doc__, k=(k, min(10, most))),
        create_model(
            "Documents",
            __base__=NewDocuments,
            __doc__=NewDocuments.__doc__,
            documents=(list[document], batch),
        ),
    )


class Found(BaseModel):
    """Documents that answer a text, best first.

    `analysis` and `stages` tell how they were found, by the search that was made: where a cache has kept what
    it found, that was an earlier one. `degraded` says which stages were meant to take part and did not, and
    why. `partial`: shards of the index, which `missing_shards` numbers, did not answer, and what they hold is
    not among the hits. The bytes are those of `brein.cache.codec.encode_retrieval`.
    """

    hits: tuple[Hit, ...]
    strategy: Strategy
    analysis: Analysis
    stages: tuple[Stage, ...]
    degraded: str | None
    partial: bool
    missing_shards: tuple[int, ...]


class Answered(BaseModel):
    """An answer to a question, with what it was made from.

    [1], [2], … in `text` are places in `citations`, ids of documents among `hits`. `degraded` says what is
    missing and why. `partial`: shards of the index, which `missing_shards` numbers, did not answer.
    """

    text: str
    citations: tuple[str, ...]
    model: str
    notes: tuple[str, ...]
    hits: tuple[Hit, ...]
    emotion: Emotion | None
    degraded: str | None
    partial: bool
    missing_shards: tuple[int, ...]


class Ingested(BaseModel):
    """How many documents are remembered now that were not before, or were others under the same ids."""

    ingested: int


class Stored(BaseModel):
    """A document as it is remembered."""

    id: str
    text: str
    metadata: Mapping[str, str | int | float | bool | None]


class Health(BaseModel):
    """That the service does what it was asked about."""

    status: str
