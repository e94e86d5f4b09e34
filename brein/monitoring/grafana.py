"""Grafana's dashboard, panel by panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from brein import metrics
from brein.monitoring import promql
from brein.monitoring.health import TARGETS, Target

DATASOURCE = "brein-prometheus"  # the uid of its data source
_SCHEMA_VERSION = 41  # of Grafana 12; older ones from 9 on read it, too
_REFRESH = "5s"
_CHOSEN = 'job=~"$job", instance=~"$instance"'
_SPAN = "$__rate_interval"
_GRAFANA_UNITS = {"ratio": "percentunit", "seconds": "s", "bytes/s": "Bps", "queries/s": "reqps"}


@dataclass(frozen=True, slots=True)
class _Panel:
    """A panel: what it is called and asks for, an expression and its legend each, and how it is drawn."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    target: Target | None = None
    description: str = ""


def dashboard() -> dict[str, Any]:
    """The dashboard, in Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    x = y = row_height = 0
    for section, members in _SECTIONS:
        x, y, row_height = 0, y + row_height, 1
        panels.append(_row(section, y, len(panels) + 1))
        for member in members:
            if x == 0 or x + member.width > 24:
                x, y, row_height = 0, y + row_height, 0
            panels.append(_drawn(member, x, y, len(panels) + 1))
            x, row_height = x + member.width, max(row_height, member.height)
    return {
        "uid": "brein",
        "title": "Brein",
        "tags": ["brein"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": _REFRESH,
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                _choice("job", f"label_values({metrics.BUILD.name}, job)"),
                _choice("instance", f'label_values({metrics.BUILD.name}{{job=~"$job"}}, instance)'),
            ]
        },
        "panels": panels,
    }


_FROM = {"type": "prometheus", "uid": DATASOURCE}


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _FROM,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _row(title: str, y: int, number: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": 24, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _drawn(panel: _Panel, x: int, y: int, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _FROM,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _FROM,
                "editorMode": "code",
                "expr": expression,
                "legendFormat": legend,
                "range": True,
                "format": "heatmap" if panel.kind == "heatmap" else "time_series",
            }
            for place, (expression, legend) in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _field(panel: _Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        field["custom"] = {"lineWidth": 2, "fillOpacity": 8, "showPoints": "never", "spanNulls": False}
    if panel.target is not None:
        good, bad = ("green", "red") if panel.target.within == "below" else ("red", "green")
        field["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": good, "value": None}, {"color": bad, "value": panel.target.bound}],
        }
        field["color"] = {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"}
        if panel.kind == "timeseries":
            field["custom"]["thresholdsStyle"] = {"mode": "dashed"}
    return field


_REDUCED = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _REDUCED, "colorMode": "value", "graphMode": "area", "textMode": "auto"},
    "bargauge": {"reduceOptions": _REDUCED, "orientation": "horizontal", "displayMode": "basic"},
    "heatmap": {
        "calculate": False,
        "cellGap": 1,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 64, "scale": "exponential", "exponent": 0.5},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
    },
}
_TARGETS = {target.name: target for target in TARGETS}


def _of_kpi(target: Target) -> _Panel:
    expression = f'{metrics.KPI_VALUE.name}{{kpi="{target.name}", {_CHOSEN}}}'
    queries = ((expression, "{{instance}}"),)
    unit = _GRAFANA_UNITS[target.unit]
    return _Panel(
        target.title, unit, queries, "stat", 3, 4, target, f"{target.measured}. Empty while unknown."
    )


def _quantile(share: float) -> str:
    return f"histogram_quantile({share:g}, {promql.buckets('le', _SPAN, _CHOSEN)})"


def _now(definition: metrics.Definition, by: str) -> tuple[str, str]:
    return promql.total(by, definition.name, _CHOSEN), _legend(by)


def _speed(definition: metrics.Definition, by: str, name: str = "") -> tuple[str, str]:
    return promql.rate(by, _SPAN, definition.name, _CHOSEN), f"{_legend(by)} {name}".strip()


def _legend(by: str) -> str:
    return " ".join(f"{{{{{label}}}}}" for label in by.split(", "))


_SECTIONS: tuple[tuple[str, tuple[_Panel, ...]], ...] = (
    (
        "Targets",
        (
            *(_of_kpi(target) for target in TARGETS),
            _Panel(
                "Targets missed",
                "short",
                ((promql.total("kpi", metrics.KPI_STATE.name, 'state="missed"', _CHOSEN), "{{kpi}}"),),
                height=5,
                description="Instances that miss a target.",
            ),
            _Panel(
                "Anomalies",
                "short",
                ((promql.increase("metric", _SPAN, metrics.ANOMALIES.name, _CHOSEN), "{{metric}}"),),
                height=5,
                description="Seconds out of the ordinary; a few an hour are chance.",
            ),
        ),
    ),
    (
        "Queries",
        (
            _Panel(
                "Latency",
                "s",
                tuple((_quantile(share), f"p{100 * share:g}") for share in (0.5, 0.95, 0.99)),
                target=_TARGETS["latency"],
                description="Failed queries count as the slowest.",
            ),
            _Panel(
                "Latency, all answered queries",
                "s",
                (
                    (
                        f'sum by (le) (increase({promql.BUCKET}{{outcome="answered", {_CHOSEN}}}[{_SPAN}]))',
                        "{{le}}",
                    ),
                ),
                kind="heatmap",
            ),
            _Panel(
                "Throughput",
                "reqps",
                (
                    (promql.rate("job", _SPAN, promql.COUNT, promql.ANSWERED, _CHOSEN), "all kinds"),
                    (promql.rate("kind", _SPAN, promql.COUNT, promql.ANSWERED, _CHOSEN), "{{kind}}"),
                ),
                target=_TARGETS["throughput"],
                description="Answered queries; the line is the target of all kinds together.",
            ),
            _Panel(
                "Errors",
                "percentunit",
                ((promql.failure_ratio("job", _SPAN, _CHOSEN), "{{job}}"),),
                target=_TARGETS["errors"],
                description="Refused, timed out or failed, of these and the answered.",
            ),
            _Panel("Requests", "reqps", (_speed(metrics.REQUESTS, "route, status"),)),
            _Panel(
                "Documents",
                "short",
                (_now(metrics.DOCUMENTS, "instance"),),
                width=6,
            ),
            _Panel("Ingestion", "ops", (_speed(metrics.INGESTED, "instance"),), width=6),
        ),
    ),
    (
        "Process",
        (
            _Panel(
                "Memory",
                "bytes",
                (
                    _now(metrics.MEMORY, "instance"),
                    (promql.total("part", metrics.INDEX.name, _CHOSEN), "index: {{part}}"),
                ),
            ),
            _Panel("CPU, cores in use", "short", (_speed(metrics.CPU, "instance"),)),
            _Panel(
                "Disk",
                "Bps",
                (
                    (
                        " + ".join(
                            promql.rate("instance", _SPAN, each.name, _CHOSEN)
                            for each in (metrics.DISK_READ, metrics.DISK_WRITTEN)
                        ),
                        "{{instance}} both",
                    ),
                    _speed(metrics.DISK_READ, "instance", "read"),
                    _speed(metrics.DISK_WRITTEN, "instance", "written"),
                ),
                target=_TARGETS["disk"],
                description="The line is the target of both together.",
            ),
            _Panel("Connections", "short", (_now(metrics.CONNECTIONS, "instance"),)),
        ),
    ),
    (
        "Caches",
        (
            _Panel(
                "Hit rate by level",
                "percentunit",
                (
                    (promql.search_hit_ratio("job", _SPAN, _CHOSEN), "search, any level"),
                    (promql.hit_ratio("cache, level", _SPAN, _CHOSEN), "{{cache}} {{level}}"),
                ),
                target=_TARGETS["hit_rate"],
                description="The line is the target of searches, whichever level answers.",
            ),
            _Panel(
                "Hit rate since the start",
                "percentunit",
                ((promql.hit_ratio_so_far("cache, level", _CHOSEN), "{{cache}} {{level}}"),),
                kind="bargauge",
            ),
            _Panel("Size", "bytes", (_now(metrics.CACHE_SIZE, "cache, level"),)),
            _Panel("Evictions", "ops", (_speed(metrics.CACHE_EVICTIONS, "cache, level"),)),
        ),
    ),
    (
        "Agents",
        (
            _Panel(
                "Queues",
                "short",
                (_now(metrics.AGENT_QUEUE, "agent"),),
                description="Requests that wait for a slot.",
            ),
            _Panel(
                "Utilisation",
                "percentunit",
                ((promql.utilisation("agent", _SPAN, _CHOSEN), "{{agent}}"),),
                description="Busy slot-seconds over all there were.",
            ),
            _Panel(
                "Refused and out of time",
                "reqps",
                (
                    _speed(metrics.AGENT_REJECTED, "agent", "refused"),
                    _speed(metrics.AGENT_TIMED_OUT, "agent", "out of time"),
                ),
            ),
            _Panel("Admitted", "reqps", (_speed(metrics.AGENT_ADMITTED, "agent"),)),
        ),
    ),
)
