"""Errors as answers: problem details of RFC 9457, without a word of what is the operator's alone."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import Response

from brein.errors import (
    AgentTimeoutError,
    BreinError,
    ClosedError,
    ClusterError,
    DataError,
    GenerationError,
    GenerationTimeoutError,
    MemoryLimitError,
    QueueFullError,
)
from brein.texts import shown

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1  # seconds: a full queue of short work empties in less

# What an error of the engine means to a client, and whether its message is for the client; any other
# error is the service's own affair: 500, and the log says more.
_STATUS: Mapping[type[BreinError], tuple[int, bool]] = {
    DataError: (422, True),
    ClusterError: (409, True),  # documents stand still while a cluster serves their index
    QueueFullError: (503, True),
    ClosedError: (503, True),
    MemoryLimitError: (507, True),
    AgentTimeoutError: (504, True),
    GenerationTimeoutError: (504, False),
    GenerationError: (502, False),
}
_MOST_ERRORS = 20  # of one invalid body
_MOST_NAME = 200  # characters of a field, which a client may name as it likes


class Mistake(BaseModel):
    """One thing that is wrong with a request's body."""

    field: str
    message: str


class Problem(BaseModel):
    """Problem details of RFC 9457; `request_id` is the one in the service's log."""

    model_config = ConfigDict(frozen=True)

    type: str = Field("about:blank", description="about:blank: the title says all there is to say")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    request_id: str
    errors: tuple[Mistake, ...] = Field((), description="what is wrong with the body, field by field")


class RefusedError(Exception):
    """A request that the service does not take on."""

    mistakes: tuple[Mistake, ...] = ()

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class InvalidBodyError(RefusedError):
    """A body that is JSON, but not what was asked for."""

    def __init__(self, error: ValidationError) -> None:
        wrong = error.errors(include_url=False, include_context=False)
        self.mistakes = tuple(_mistake(detail) for detail in wrong[:_MOST_ERRORS])
        first = self.mistakes[0]
        super().__init__(422, f"{first.field or 'body'}: {first.message}")


def _mistake(detail: ErrorDetails) -> Mistake:
    given = "" if detail["type"] == "missing" else f"; got {shown(detail['input'])}"
    field = ".".join(map(str, detail["loc"]))[:_MOST_NAME]
    return Mistake(field=field, message=detail["msg"] + given)


def answer(
    status: int,
    detail: str,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    errors: tuple[Mistake, ...] = (),
) -> Response:
    """The response that tells a client of a problem."""
    problem = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, request_id=request_id, errors=errors
    )
    retry = {"Retry-After": str(RETRY_AFTER)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Response(problem.model_dump_json(), status, {**retry, **(headers or {})}, MEDIA_TYPE)


def of_error(error: BreinError | RefusedError, request_id: str) -> Response:
    """The answer to a request that failed with `error`."""
    if isinstance(error, RefusedError):
        return answer(error.status, str(error), request_id, error.headers, error.mistakes)
    status, is_for_client = _meaning(error)
    detail = str(error) if is_for_client else f"{HTTPStatus(status).description}; the service's log says more"
    return answer(status, detail, request_id)


def is_told(error: BreinError | RefusedError) -> bool:
    """Whether the answer says what went wrong; where it does not, the log is to."""
    return isinstance(error, RefusedError) or _meaning(error)[1]


def _meaning(error: BreinError) -> tuple[int, bool]:
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), (500, False))
