"""Routes that FastAPI describes and that take JSON: read, checked and called with nothing in between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from brein.errors import BreinError
from brein.server import log, problems
from brein.server.body import read_body
from brein.server.problems import InvalidBodyError, RefusedError

_log = log.logger()


class JsonRoute(APIRoute):
    """A route whose endpoint takes the values of its path, then its body's model, and returns a response.

    What FastAPI does for a request beyond that (dependencies, forms, responses checked again) takes longer
    than a cached search.
    """

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[Response]], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        model: Any = None if self.body_field is None else self.body_field.field_info.annotation

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            arguments = [*scope["path_params"].values()]
            try:
                if model is not None:
                    arguments.append(await _read(model, scope, receive))
                response = await endpoint(*arguments)
            except (RefusedError, BreinError) as error:
                response = problems.of_error(error, scope["state"]["request_id"])
                if not problems.is_told(error):
                    _log.exception("request failed")
            await response(scope, receive, send)

        self.app = serve


async def _read(model: type[BaseModel], scope: Scope, receive: Receive) -> BaseModel:
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":  # what a page of another site may not send without being allowed to
        raise RefusedError(415, "send the body as Content-Type: application/json")
    body = await read_body(headers, receive, scope["app"].state.max_body)
    try:
        # What is wrong is noted of each type that a value might have been: all notes then share the value.
        return model.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        raise InvalidBodyError(error) from None
    except ValueError as error:
        raise RefusedError(400, f"Invalid JSON: {error}") from None
