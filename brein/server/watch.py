"""What can be seen of the service: metrics for Prometheus, the KPIs, and the live page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from brein.monitoring import Monitoring, live
from brein.server import problems
from brein.server.service import Service

Show = Callable[[Monitoring, Request], Response]


def add_to(app: Starlette, service: Service) -> None:
    """Add the routes; what they show is made in a thread, since it takes milliseconds."""

    def route(path: str, show: Show) -> None:
        async def endpoint(request: Request) -> Response:
            if service.monitoring is None:
                request_id = str(request.scope["state"]["request_id"])
                return problems.answer(503, f"{service.obstacle}; ask again later", request_id)
            return await asyncio.to_thread(show, service.monitoring, request)

        app.add_route(path, _named(endpoint, path), methods=["GET"], include_in_schema=False)

    route("/metrics", _metrics)
    route("/health/kpi", _kpis)
    route("/dashboard", _page)
    route("/dashboard/data", _snapshot)


def _named(
    endpoint: Callable[[Request], Awaitable[Response]], path: str
) -> Callable[[Request], Awaitable[Response]]:
    endpoint.__name__ = path.strip("/").replace("/", "_")
    return endpoint


def _metrics(monitoring: Monitoring, request: Request) -> Response:
    content, media_type = monitoring.metrics.render(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})


def _kpis(monitoring: Monitoring, request: Request) -> Response:
    kpis = monitoring.kpis()
    states = {kpi.state for kpi in kpis}
    state = "missed" if "missed" in states else "unknown" if "unknown" in states else "met"
    return _json({"state": state, "kpis": [live.kpi_json(kpi) for kpi in kpis]})


def _page(monitoring: Monitoring, request: Request) -> Response:
    return HTMLResponse(live.page(), headers={"Content-Security-Policy": live.policy()})


def _snapshot(monitoring: Monitoring, request: Request) -> Response:
    try:
        since = float(request.query_params.get("since", "0"))
    except ValueError:
        return problems.answer(
            400, "since must be a time in seconds", str(request.scope["state"]["request_id"])
        )
    return _json(live.snapshot(monitoring, since))


def _json(content: object) -> Response:
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")
