"""What can be seen of the service: metrics for Prometheus, the KPIs, and the live page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from brein.monitoring import Monitoring, health, live
from brein.server import problems
from brein.server.guard import LIVE_PAGE
from brein.server.service import Service

Show = Callable[[Monitoring, Request], Response]


def add_to(app: Starlette, service: Service) -> None:
    """Add the routes; what they show is made in a thread, since it takes milliseconds."""

    def add(path: str, show: Show) -> None:
        async def endpoint(request: Request) -> Response:
            request.scope["route"] = route  # for the log
            if service.monitoring is None:
                request_id = str(request.scope["state"]["request_id"])
                return problems.answer(503, f"{service.obstacle}; ask again later", request_id)
            return await asyncio.to_thread(show, service.monitoring, request)

        route = Route(path, endpoint, methods=["GET"], include_in_schema=False)
        app.router.routes.append(route)

    add("/metrics", _metrics)
    add("/health/kpi", _kpis)
    add(LIVE_PAGE, _page)
    add("/dashboard/data", _snapshot)


def _metrics(monitoring: Monitoring, request: Request) -> Response:
    content, media_type = monitoring.metrics.render(request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})


def _kpis(monitoring: Monitoring, request: Request) -> Response:
    return _json(health.report(monitoring.kpis()))


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
