"""What an instance is asked at intervals: whether it is ready, and what its load is."""

from __future__ import annotations

import asyncio
import math

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from brein import metrics
from brein.errors import InstanceError, first_line
from brein.scaling.instance import Instance

_READY, _METRICS = "/health/ready", "/metrics"
_MEMORY, _CPU = metrics.MEMORY.name, metrics.CPU.name


async def check(instance: Instance, client: httpx2.AsyncClient, timeout: float) -> None:
    """Have `instance` note whether it is ready; no answer in `timeout` seconds is none."""
    try:
        async with asyncio.timeout(timeout):
            status = (await client.get(instance.url + _READY)).status_code
    except (TimeoutError, httpx2.HTTPError, InstanceError) as error:
        instance.failed(f"{_READY}: {type(error).__name__}: {first_line(error)}")
        return
    if status == httpx2.codes.OK:
        instance.passed()
    else:
        instance.failed(f"{_READY} answers {status}")


async def read_load(instance: Instance, client: httpx2.AsyncClient, key: str | None, timeout: float) -> None:
    """Have `instance` note its load; where that is not to be had in `timeout` seconds, what it has grows old.

    `key` is what it wants for its metrics.
    """
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        async with asyncio.timeout(timeout):
            page = await client.get(instance.url + _METRICS, headers=headers)
        figures = _figures(page.text, (_MEMORY, _CPU))
    except (TimeoutError, ValueError, httpx2.HTTPError, InstanceError):
        return
    instance.read(figures.get(_MEMORY), figures.get(_CPU), asyncio.get_running_loop().time())


def _figures(page: str, names: tuple[str, ...]) -> dict[str, float]:
    """The finite values of these metrics in a page of Prometheus text, summed over their labels.

    Raises:
        ValueError: a line of theirs is damaged.
    """
    lines = [line for line in page.splitlines(keepends=True) if line.startswith(names)]  # few of very many
    figures: dict[str, float] = {}
    for family in text_string_to_metric_families("".join(lines)):
        for sample in family.samples:
            if sample.name in names and math.isfinite(sample.value):
                figures[sample.name] = figures.get(sample.name, 0.0) + sample.value
    return figures
