"""The routes, and the document that describes them."""

# No postponed annotations here: FastAPI reads those of the endpoints, whose models are made at run time.

from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Path
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.telemetry import TelemetryConfig
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import brein
from brein.records import Document
from brein.server import problems, schema, watch
from brein.server.config import ServerConfig
from brein.server.guard import LEAST_TIMEOUT, MOST_TIMEOUT
from brein.server.problems import Problem, RefusedError
from brein.server.route import JsonRoute
from brein.server.service import Service

_SILENT: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
_ALWAYS = (400, 500, 503, 504)  # what any request may be answered with
_BODY = (413, 415, 422)  # and one with a body
_RETRY_AFTER = {"Retry-After": {"schema": {"type": "string"}, "description": "seconds"}}
_REQUEST_ID = {"X-Request-ID": {"schema": {"type": "string"}, "description": "as it stands in the log"}}
_PARAMETERS = [
    {
        "name": "Request-Timeout",
        "in": "header",
        "description": "seconds after which the client does not wait for an answer any more",
        "schema": {"type": "number", "minimum": LEAST_TIMEOUT, "maximum": MOST_TIMEOUT},
    },
]


class App(FastAPI):
    """The application, with the routes of what watches it."""

    def __init__(self, service: Service, config: ServerConfig, *, secured: bool) -> None:
        super().__init__(
            title="Brein",
            version=brein.__version__,
            description="A semantic memory: documents are found, and answer questions, by what they mean.",
            docs_url=None,  # it would have the browser fetch programs from elsewhere
            redoc_url=None,
            redirect_slashes=False,
            telemetry=_SILENT,
            generate_unique_id_function=lambda route: route.name,
            exception_handlers={
                HTTPException: _not_routed,
                Exception: _crashed,
            },
        )
        self.state.service = service
        self.state.max_body = config.max_body
        self._secured = secured
        self.router.route_class = JsonRoute
        _add_memory(self, service, config)
        _add_health(self, service)
        _add_docs(self)
        watch.add_to(self, service)

        self._exact = {
            (method, route.path): route
            for route in self.routes
            if isinstance(route, JsonRoute) and not route.param_convertors
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Go straight to a route without parameters: to look for it takes longer than a cached search."""
        route = self._exact.get((scope["method"], scope["path"]))
        if route is None:
            await super().__call__(scope, receive, send)
            return
        scope.update(app=self, route=route, path_params={})
        await route.app(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document."""
        return self._document

    @cached_property
    def _document(self) -> dict[str, Any]:
        document = get_openapi(
            title=self.title, version=self.version, description=self.description, routes=self.routes
        )
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(operation, secured=self._secured and not path.startswith("/health/"))
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        if self._secured:
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return document


def _add_memory(app: FastAPI, service: Service, config: ServerConfig) -> None:
    if TYPE_CHECKING:
        from brein.server.schema import NewDocuments, Question
    else:  # with the bounds of this configuration
        Question, NewDocuments = schema.requests(config)  # noqa: N806
    found: dict[int | str, dict[str, Any]] = {404: _problem("there is no such document")}
    id_of = Annotated[str, Path(alias="id", min_length=1, description="the document's id")]

    @app.post("/v1/search", response_model=schema.Found, responses=_problems(*_BODY))
    async def search(asked: Question) -> Response:
        """Find the documents that answer a text best."""
        return _json(await service.search(asked.query, asked.k, asked.conditions))

    @app.post("/v1/ask", response_model=schema.Answered, responses=_problems(*_BODY, 502))
    async def ask(asked: Question) -> Response:
        """Answer a question from the documents that answer it best."""
        response = await service.ask(asked.query, asked.k, asked.conditions)
        return _reply(
            schema.Answered.model_construct(
                text=response.answer.text,
                citations=response.answer.citations,
                model=response.answer.model,
                notes=response.answer.notes,
                hits=response.retrieval.hits,
                emotion=response.emotion,
                degraded=response.degraded,
                partial=bool(response.retrieval.missing),
                missing_shards=tuple(response.retrieval.missing),
            )
        )

    @app.post("/v1/documents", response_model=schema.Ingested, responses=_problems(*_BODY, 409, 507))
    async def ingest(asked: NewDocuments) -> Response:
        """Remember a batch of documents; when this is answered they are on disk."""
        batch = [Document(each.id, each.text, each.metadata) for each in asked.documents]
        if len({document.id for document in batch}) < len(batch):
            raise RefusedError(409, "an id is given twice in the batch; ids are unique")
        await service.ingest(batch)
        return _reply(schema.Ingested(ingested=len(batch)))

    @app.get("/v1/documents/{id:path}", response_model=schema.Stored, responses=found)
    async def read(id_: id_of) -> Response:
        """Read one document."""
        document = await service.get(id_)
        if document is None:
            raise RefusedError(404, "there is no such document")
        return _reply(
            schema.Stored.model_construct(id=document.id, text=document.text, metadata=document.metadata)
        )

    @app.delete("/v1/documents/{id:path}", status_code=204, responses={**found, **_problems(409)})
    async def forget(id_: id_of) -> Response:
        """Forget one document."""
        if not await service.delete([id_]):
            raise RefusedError(404, "there is no such document")
        return Response(status_code=204)


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", response_model=schema.Health)
    async def live() -> Response:
        """Whether the process answers."""
        return _reply(schema.Health(status="live"))

    @app.get("/health/ready", response_model=schema.Health)
    async def ready() -> Response:
        """Whether it takes requests: not while it starts, nor once it was told to stop."""
        if service.obstacle is not None:
            raise RefusedError(503, service.obstacle)
        return _reply(schema.Health(status="ready"))


def _add_docs(app: FastAPI) -> None:
    app.mount("/docs/parts", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The OpenAPI document, to read and to try."""
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="Brein",
            swagger_js_url="/docs/parts/swagger-ui-bundle.js",
            swagger_css_url="/docs/parts/swagger-ui.css",
            swagger_favicon_url="/docs/parts/favicon.png",
        )


def _reply(answer: BaseModel) -> Response:
    return _json(answer.model_dump_json())


def _json(text: str | bytes) -> Response:
    return Response(text, media_type="application/json")


# --- errors ------------------------------------------------------------------------------------------


def _id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


async def _not_routed(request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        there = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
        methods = {method for route in there for method in getattr(route, "methods", None) or ()}
        allowed = ", ".join(sorted(methods.union((error.headers or {})["Allow"].split(", "))))
        return problems.answer(405, f"this takes {allowed}", _id(request), {"Allow": allowed})
    return problems.answer(error.status_code, error.detail, _id(request), error.headers)


async def _crashed(request: Request, error: Exception) -> Response:
    """Answer; the error goes on to the guard, which logs it."""
    return problems.answer(500, "an error of the service; its log says more", _id(request))


# --- the OpenAPI document ----------------------------------------------------------------------------


def _problem(description: str) -> dict[str, Any]:
    return {"model": Problem, "description": description}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _problem(HTTPStatus(status).phrase) for status in statuses}


def _complete(operation: dict[str, Any], *, secured: bool) -> None:
    """Add what holds for every operation, and say which media type problems have."""
    statuses = (*_ALWAYS, 401) if secured else (*_ALWAYS, 421)
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses = operation["responses"]
    if "requestBody" not in operation:
        responses.pop("422", None)  # of FastAPI, for the values of paths; here any text is an id
    for status in {*statuses, *(int(each) for each in responses if int(each) >= 400)}:
        before = responses.get(str(status), {"description": HTTPStatus(status).phrase})
        responses[str(status)] = {**before, "content": content}
    for status, response in responses.items():
        response["headers"] = {**_REQUEST_ID, **(_RETRY_AFTER if status == "503" else {})}
    operation["parameters"] = [*operation.get("parameters", ()), *_PARAMETERS]
    if secured:
        operation["security"] = [{"key": []}]
