"""A folder with what Prometheus and Grafana need to watch the service, made from the metrics' definitions."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from brein.errors import ConfigError
from brein.files import write_whole
from brein.monitoring import grafana, rules

SUMMARY = "write a Prometheus configuration with its rules, and a Grafana dashboard"
DEFAULT_TARGETS = ("127.0.0.1:8080",)
SCRAPE_INTERVAL = "5s"
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument(
        "--target", action="append", metavar="HOST:PORT",
        help=f"an instance of the service; give it several times for several ({DEFAULT_TARGETS[0]})",
    )  # fmt: skip
    parser.add_argument(
        "--prometheus", default="http://127.0.0.1:9090", metavar="URL", help="where Grafana finds Prometheus"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key of the instances")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder, and say how to use it.

    Raises:
        ConfigError: see `write`.
    """
    folder: Path = arguments.folder
    write(folder, arguments.target or DEFAULT_TARGETS, arguments.prometheus, arguments.key_file)
    sys.stderr.write(
        f"prometheus --config.file={folder}/prometheus.yml --web.listen-address=127.0.0.1:9090\n"
        f"GF_PATHS_PROVISIONING={folder.resolve()}/grafana/provisioning grafana server\n"
    )
    return 0


def _files(
    folder: Path, targets: Sequence[str], prometheus: str, key_file: Path | None
) -> Iterator[tuple[str, str]]:
    job: dict[str, Any] = {"job_name": rules.JOB, "static_configs": [{"targets": list(targets)}]}
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
    yield "rules/recording.yml", _yaml({"groups": [{"name": "brein-recording", "rules": rules.recording()}]})
    yield "rules/alerts.yml", _yaml({"groups": [{"name": "brein-alerts", "rules": rules.alerts()}]})
    yield (
        "grafana/provisioning/datasources/brein.yml",
        _yaml(
            {
                "apiVersion": 1,
                "datasources": [
                    {
                        "name": "Brein",
                        "uid": grafana.DATASOURCE,
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
    yield "grafana/dashboards/brein.json", json.dumps(grafana.dashboard(), indent=2) + "\n"


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=1000)
