"""The checks of an instance: whether it is ready, and what its load is."""

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


async def check(instance: Instance, client: httpx2.AsyncClient, key: str | None, timeout: float) -> None:
    """Have `instance` note whether it is ready, and if it is, its load; each in `timeout` seconds.

    `key` is what it wants for its metrics.
    """
    try:
        status = (await _get(instance, _READY, client, key, timeout)).status_code
    except (TimeoutError, httpx2.HTTPError, InstanceError) as error:
        instance.failed(f"{_READY}: {type(error).__name__}: {first_line(error)}")
        return
    if status != httpx2.codes.OK:
        instance.failed(f"{_READY} answers {status}")
        return
    instance.passed()
    try:
        page = await _get(instance, _METRICS, client, key, timeout)
        figures = _figures(page.text, (_MEMORY, _CPU))
    except (TimeoutError, ValueError, httpx2.HTTPError, InstanceError):
        return  # the figures it had grow old
    instance.read(figures.get(_MEMORY), figures.get(_CPU), asyncio.get_running_loop().time())


async def _get(
    instance: Instance, path: str, client: httpx2.AsyncClient, key: str | None, timeout: float
) -> httpx2.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with asyncio.timeout(timeout):
        return await client.get(instance.url + path, headers=headers)


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
