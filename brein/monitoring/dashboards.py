"""A folder with what Prometheus and Grafana need to watch the service, made from the metrics' definitions."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from brein import metrics
from brein.errors import ConfigError
from brein.files import write_whole
from brein.metrics import FAILURES
from brein.monitoring.health import TARGETS, Target

DEFAULT_TARGETS = ("127.0.0.1:8080",)
JOB = "brein"
SCRAPE_INTERVAL = "5s"
_SCHEMA_VERSION = 41  # of Grafana 12; older ones from 9 on read it, too
_DATASOURCE = "brein-prometheus"
_ADDRESS = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*)|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def write(
    folder: Path,
    targets: Sequence[str] = DEFAULT_TARGETS,
    prometheus: str = "http://127.0.0.1:9090",
    key_file: Path | None = None,
) -> None:
    """Write `prometheus.yml`, `rules/` and `grafana/` into a new folder.

    `targets` are the instances, host:port each; `prometheus` is where Grafana finds it; `key_file` holds the
    API key, where they ask for one.

    Raises:
        ConfigError: the folder holds something already or cannot be written, or a target is no host:port.
    """
    for target in targets:
        found = _ADDRESS.fullmatch(target)
        if found is None or not 1 <= int(found[1]) <= 65_535:
            raise ConfigError(f"target {target!r} is no address; give host:port, 127.0.0.1:8080 say")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(
                f"{folder} is not empty, and nothing is overwritten; name a new folder, or empty it"
            )
        for name, content in _files(folder.resolve(), targets, prometheus, key_file):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content.encode())
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}; name another folder") from None


def main(argv: Sequence[str]) -> int:
    """Run `python -m brein dashboard` with these arguments; the exit code.

    Raises:
        ConfigError: see `write`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m brein dashboard",
        description="Write a Prometheus configuration with its rules, and a Grafana dashboard.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--target", action="append", metavar="HOST:PORT",
        help=f"an instance of the service; give it several times for several ({DEFAULT_TARGETS[0]})",
    )  # fmt: skip
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="where Grafana finds Prometheus"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key of the instances")
    given = parser.parse_args(argv)
    write(given.folder, given.target or DEFAULT_TARGETS, given.prometheus, given.key_file)
    sys.stderr.write(
        f"prometheus --config.file={given.folder}/prometheus.yml --web.listen-address=127.0.0.1:9090\n"
        f"GF_PATHS_PROVISIONING={given.folder.resolve()}/grafana/provisioning grafana server\n"
    )
    return 0


def _files(
    folder: Path, targets: Sequence[str], prometheus: str, key_file: Path | None
) -> Iterator[tuple[str, str]]:
    job: dict[str, Any] = {"job_name": JOB, "static_configs": [{"targets": list(targets)}]}
    if key_file is not None:
        job["authorization"] = {"type": "Bearer", "credentials_file": str(key_file.resolve())}
    yield (
        "prometheus.yml",
        _yaml(
            {
                "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": "15s"},
                "rule_files": ["rules/*.yml"],
                "scrape_configs": [job],
            }
        ),
    )
    yield "rules/recording.yml", _yaml({"groups": [{"name": "brein-recording", "rules": recording_rules()}]})
    yield "rules/alerts.yml", _yaml({"groups": [{"name": "brein-alerts", "rules": alert_rules()}]})
    yield (
        "grafana/provisioning/datasources/brein.yml",
        _yaml(
            {
                "apiVersion": 1,
                "datasources": [
                    {
                        "name": "Brein",
                        "uid": _DATASOURCE,
                        "type": "prometheus",
                        "access": "proxy",
                        "url": prometheus,
                        "jsonData": {"timeInterval": SCRAPE_INTERVAL},
                    }
                ],
            }
        ),
    )
    yield (
        "grafana/provisioning/dashboards/brein.yml",
        _yaml(
            {
                "apiVersion": 1,
                "providers": [
                    {
                        "name": "Brein",
                        "type": "file",
                        "options": {"path": str(folder / "grafana" / "dashboards")},
                    }
                ],
            }
        ),
    )
    yield "grafana/dashboards/brein.json", json.dumps(dashboard(), indent=2) + "\n"


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=1000)


# --- expressions --------------------------------------------------------------------------------------

_BUCKET = f"{metrics.QUERY_DURATION.name}_bucket"
_COUNT = f"{metrics.QUERY_DURATION.name}_count"
_ANSWERED = 'outcome="answered"'
_FAILED = f'outcome=~"{"|".join(FAILURES)}"'
_JUDGED = f'outcome=~"{"|".join(("answered", *FAILURES))}"'  # the others are the caller's doing


def _sum(by: str, name: str, *matchers: str) -> str:
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) ({name}{{{chosen}}})"


def _rate(by: str, span: str, name: str, *matchers: str) -> str:
    chosen = ", ".join(filter(None, matchers))
    return f"sum by ({by}) (rate({name}{{{chosen}}}[{span}]))"


def _buckets(by: str, span: str, chosen: str = "") -> str:
    """Rates of the latency buckets; a query that failed counts as slower than any."""
    within = _rate(by, span, _BUCKET, _ANSWERED, 'le!="+Inf"', chosen)
    beyond = _rate(by, span, _BUCKET, _JUDGED, 'le="+Inf"', chosen)
    return f"{within} or {beyond}"


def _failure_ratio(by: str, span: str, chosen: str = "") -> str:
    return f"{_rate(by, span, _COUNT, _FAILED, chosen)} / {_rate(by, span, _COUNT, _JUDGED, chosen)}"


def _hit_ratio(by: str, span: str, chosen: str = "") -> str:
    hits, misses = (_rate(by, span, each.name, chosen) for each in (metrics.CACHE_HITS, metrics.CACHE_MISSES))
    return f"{hits} / ({hits} + {misses})"


def _search_hit_ratio(by: str, span: str) -> str:
    """Of the look-ups of search results, which begin at l1, those that any level answered."""
    search, first = 'cache="search"', 'level="l1"'
    hits, misses = metrics.CACHE_HITS.name, metrics.CACHE_MISSES.name
    looked_up = f"{_rate(by, span, hits, search, first)} + {_rate(by, span, misses, search, first)}"
    return f"{_rate(by, span, hits, search)} / ({looked_up})"


def _utilisation(by: str, span: str, chosen: str = "") -> str:
    return (
        f"{_rate(by, span, metrics.AGENT_BUSY.name, chosen)} / {_sum(by, metrics.AGENT_SLOTS.name, chosen)}"
    )


# --- rules --------------------------------------------------------------------------------------------

_RECORDED_BUCKETS = f"job_le:{_BUCKET}:rate5m"
_RECORDED_P95 = f"job:{metrics.QUERY_DURATION.name}:p95_rate5m"
_RECORDED_FAILURES = "job:brein_query_failures:ratio_rate5m"
_RECORDED_HITS = "job:brein_search_cache_hits:ratio_rate5m"


def recording_rules() -> list[dict[str, Any]]:
    """What is asked for again and again, for the service as a whole."""
    recorded = {
        _RECORDED_BUCKETS: _buckets("job, le", "5m"),
        f"job:{metrics.QUERY_DURATION.name}:p50_rate5m": f"histogram_quantile(0.5, {_RECORDED_BUCKETS})",
        _RECORDED_P95: f"histogram_quantile(0.95, {_RECORDED_BUCKETS})",
        f"job:{metrics.QUERY_DURATION.name}:p99_rate5m": f"histogram_quantile(0.99, {_RECORDED_BUCKETS})",
        "job:brein_queries_answered:rate5m": _rate("job", "5m", _COUNT, _ANSWERED),
        _RECORDED_FAILURES: _failure_ratio("job", "5m"),
        _RECORDED_HITS: _search_hit_ratio("job", "5m"),
        "job_cache_level:brein_cache_hits:ratio_rate5m": _hit_ratio("job, cache, level", "5m"),
        "job_agent:brein_agent_utilisation:ratio_rate5m": _utilisation("job, agent", "5m"),
        "job_instance:brein_cpu_seconds:rate5m": _rate("job, instance", "5m", metrics.CPU.name),
        "job_instance:brein_disk_bytes:rate5m": (
            f"{_rate('job, instance', '5m', metrics.DISK_READ.name)} + "
            f"{_rate('job, instance', '5m', metrics.DISK_WRITTEN.name)}"
        ),
    }
    return [{"record": name, "expr": expression} for name, expression in recorded.items()]


def alert_rules() -> list[dict[str, Any]]:
    """One rule for each KPI, and those that say why one is about to be missed."""
    return [
        _alert(
            "BreinDown", f'up{{job="{JOB}"}} == 0', "1m", "{{ $labels.instance }} does not answer", "critical"
        ),
        *(_kpi_alert(target) for target in TARGETS),
        _alert(
            "BreinAgentRefuses",
            f"{_rate('job, agent', '5m', metrics.AGENT_REJECTED.name)} > 0",
            "5m",
            "{{ $labels.agent }} has no place for {{ $value | humanize }} requests a second",
        ),
        _alert(
            "BreinCacheLevelDown",
            f"min by (job, instance, cache, level) ({metrics.CACHE_AVAILABLE.name}) == 0",
            "5m",
            "the {{ $labels.cache }} cache goes without {{ $labels.level }}",
        ),
    ]


def _kpi_alert(target: Target) -> dict[str, Any]:
    beyond = f"{'>=' if target.within == 'below' else '<='} {target.bound:g}"
    instances = "max by (job, instance)"
    expression = {
        "latency": f"{_RECORDED_P95} {beyond}",
        "errors": f"{_RECORDED_FAILURES} {beyond}",
        "hit_rate": f"{_RECORDED_HITS} {beyond}",
        # An instance knows whether more was asked for; its rate alone does not say.
        "throughput": f'{instances} ({metrics.KPI_STATE.name}{{kpi="throughput", state="missed"}}) == 1',
    }.get(target.name, f'{instances} ({metrics.KPI_VALUE.name}{{kpi="{target.name}"}}) {beyond}')
    name = "Brein" + "".join(word.capitalize() for word in target.name.split("_")) + "Missed"
    summary = f"{target.title} must be {target.within} {target.bound:g} {target.unit}"
    return _alert(name, expression, "5m", summary)


def _alert(
    name: str, expression: str, lasting: str, summary: str, severity: str = "warning"
) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }


# --- the dashboard ------------------------------------------------------------------------------------

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
        "refresh": SCRAPE_INTERVAL,
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


_DATASOURCE_REFERENCE = {"type": "prometheus", "uid": _DATASOURCE}


def _choice(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE_REFERENCE,
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
        "datasource": _DATASOURCE_REFERENCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _DATASOURCE_REFERENCE,
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
    return f"histogram_quantile({share:g}, {_buckets('le', _SPAN, _CHOSEN)})"


def _now(definition: metrics.Definition, by: str) -> tuple[str, str]:
    return _sum(by, definition.name, _CHOSEN), _legend(by)


def _speed(definition: metrics.Definition, by: str, name: str = "") -> tuple[str, str]:
    return _rate(by, _SPAN, definition.name, _CHOSEN), f"{_legend(by)} {name}".strip()


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
                ((_sum("kpi", metrics.KPI_STATE.name, 'state="missed"', _CHOSEN), "{{kpi}}"),),
                width=24,
                height=5,
                description="Instances that miss a target.",
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
                ((f'sum by (le) (increase({_BUCKET}{{outcome="answered", {_CHOSEN}}}[{_SPAN}]))', "{{le}}"),),
                kind="heatmap",
            ),
            _Panel(
                "Throughput",
                "reqps",
                ((_rate("kind", _SPAN, _COUNT, _ANSWERED, _CHOSEN), "{{kind}}"),),
                target=_TARGETS["throughput"],
                description="Answered queries.",
            ),
            _Panel(
                "Errors",
                "percentunit",
                ((_failure_ratio("job", _SPAN, _CHOSEN), "{{job}}"),),
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
                    (_sum("part", metrics.INDEX.name, _CHOSEN), "index: {{part}}"),
                ),
            ),
            _Panel("CPU, cores in use", "short", (_speed(metrics.CPU, "instance"),)),
            _Panel(
                "Disk",
                "Bps",
                (
                    _speed(metrics.DISK_READ, "instance", "read"),
                    _speed(metrics.DISK_WRITTEN, "instance", "written"),
                ),
                target=_TARGETS["disk"],
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
                ((_hit_ratio("cache, level", _SPAN, _CHOSEN), "{{cache}} {{level}}"),),
                target=_TARGETS["hit_rate"],
            ),
            _Panel(
                "Hit rate since the start",
                "percentunit",
                (
                    (
                        f"avg by (cache, level) ({metrics.CACHE_HIT_RATE.name}{{{_CHOSEN}}})",
                        "{{cache}} {{level}}",
                    ),
                ),
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
                ((_utilisation("agent", _SPAN, _CHOSEN), "{{agent}}"),),
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
