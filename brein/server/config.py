"""Settings of the service, and the reading of its file and overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from brein.config import EngineConfig, read_guide_profile
from brein.errors import ConfigError, first_line
from brein.monitoring import MonitoringConfig
from brein.scaling.config import ScalingConfig
from brein.settings import Settings
from brein.texts import shown


class ServerConfig(Settings):
    """Settings of the HTTP server; without a file it serves this machine alone."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="name or address to bind to; any but loopback needs a key"
    )
    port: int = Field(8080, ge=0, le=65_535, description="TCP port; 0: any that is free")
    key_variable: str | None = Field(
        None, min_length=1, description="environment variable that holds the API key; null: none is asked for"
    )
    max_body: int = Field(8 * 1024**2, ge=1024, le=1024**3, description="bytes of a request's body")
    max_batch: int = Field(1000, ge=1, le=100_000, description="documents of one request")
    max_text: int = Field(100_000, ge=1, le=10_000_000, description="characters of a document")
    max_k: int = Field(100, ge=1, le=10_000, description="documents a question may ask for")
    max_connections: int = Field(
        500, ge=1, le=100_000, description="open at once; beyond, the one that waited longest is closed"
    )
    read_timeout: float = Field(
        30.0, gt=0, le=3600, description="seconds in which a connection sends its next request, all of it"
    )
    notice: float = Field(
        0.0, ge=0, le=600, description="seconds it serves on after being told to stop, saying it is not ready"
    )
    drain: float = Field(30.0, gt=0, le=3600, description="seconds that requests under way then have to end")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `host`."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def key(self, environment: Mapping[str, str]) -> bytes | None:
        """The API key; None where none is asked for.

        Raises:
            ConfigError: the variable is unset or empty, or there is none and `host` is not loopback.
        """
        if self.key_variable is None:
            if self.is_loopback:
                return None
            raise ConfigError(
                f"server.host = {self.host!r} is not loopback, so it needs an API key: set "
                "server.key_variable to the environment variable that holds it, or server.host=127.0.0.1"
            )
        key = environment.get(self.key_variable, "").strip()
        if not key:
            raise ConfigError(
                f"server.key_variable = {self.key_variable!r}: the environment variable is not set; set it"
            )
        return key.encode()


class ServiceConfig(Settings):
    """What `python -m brein serve` is configured with."""

    engine: EngineConfig = Field(default_factory=EngineConfig)
    server: ServerConfig = Field(default_factory=ServerConfig)
    monitoring: MonitoringConfig = Field(default_factory=MonitoringConfig)
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)


@dataclass(frozen=True)
class Reading:
    """A configuration, and the keys of the performance guide's profile it came from that change nothing."""

    config: ServiceConfig
    inert: Mapping[str, Any]


def read(file: Path | None, overrides: Sequence[str] = ()) -> Reading:
    """Read the configuration: a JSON or YAML file, then overrides such as `server.port=8081`, values in YAML.

    The file is an object with `engine`, `server`, `monitoring` and `scaling`, or one of the performance
    guide's JSON profiles.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not one there can be.
    """
    tree: dict[str, Any] = {} if file is None else _read_file(file)
    inert: Mapping[str, Any] = {}
    if "performance" in tree:
        profile = read_guide_profile(tree)
        inert = profile.inert
        tree = {"engine": profile.engine.model_dump(mode="json", exclude_unset=True)}
    for override in overrides:
        _put(tree, override)
    try:
        text = json.dumps(tree)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the configuration holds what JSON cannot: {first_line(error)}") from None
    return Reading(ServiceConfig.read(text), inert)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
        tree = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)  # not all JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ConfigError(f"--config {file}: {reason}; give a JSON or YAML file") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {file}: holds {shown(tree)}; give an object with engine and server, say")
    return tree


def _put(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    *parents, last = path.split(".")
    if not separator or not last or not all(parents):
        raise ConfigError(f"override {override!r}: give a dotted name and a value, server.port=8081 say")
    try:
        value = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"override {override!r}: {' '.join(str(error).split())}") from None
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {parent} = {shown(tree)} has no parts")
    tree[last] = value
