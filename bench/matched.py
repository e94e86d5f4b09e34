"""The peers suite's comparison at equal recall: who answers how fast once recall is good enough.

Nothing between two settings is guessed: each takes part with a setting that was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import stats

if TYPE_CHECKING:
    import pandas as pd

SERIES = "peers.matched"
SOURCE = "peers.search"
RECALLS = (0.9, 0.95, 0.99)  # what recall@10 has to reach


@dataclass(frozen=True)
class _Setting:
    """The searches of one, with one setting."""

    labels: dict[str, str]
    rows: pd.DataFrame

    @cached_property
    def p50(self) -> dict[int, float | None]:
        """Each process's median latency, in seconds."""
        groups = self.rows.groupby("repeat")["value"]
        return {int(str(repeat)): stats.percentile(values.to_numpy(), 0.5) for repeat, values in groups}

    @cached_property
    def recall(self) -> float:
        """What its recall@10 is at least: the lower end of the interval over queries."""
        recalls = self.rows.groupby("query")["recall_at_10"].mean().dropna().to_numpy(dtype=np.float64)
        interval = stats.bootstrap_interval(recalls)
        return interval.low if interval else 0.0

    @property
    def speed(self) -> float:
        """Geometric mean of the processes' medians."""
        return stats.geometric_mean([value for value in self.p50.values() if value is not None])


def compare(samples: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of `SERIES`, one for each process of everyone who reaches a recall, like a trial's samples.

    Each takes part with the setting of least p50 among those whose recall@10 reaches it with the lower end of
    its interval. `value` is that p50 in a process; `reference` the engine's in the same repeat, null where it
    does not reach that recall. The engine is the fastest of its indexes.
    """
    searches = samples[samples["series"] == SOURCE]
    settings = [
        _Setting(json.loads(str(labels)), rows) for labels, rows in searches.groupby("labels", sort=False)
    ]
    settings = [setting for setting in settings if None not in setting.p50.values()]
    tasks = dict.fromkeys(setting.labels["task"] for setting in settings)
    return [
        row
        for task in tasks
        for recall in RECALLS
        for row in _compared([s for s in settings if s.labels["task"] == task], recall)
    ]


def source(labels: Mapping[str, str]) -> dict[str, str]:
    """The labels of the searches that a row of `SERIES` with these labels was made from."""
    return {name: value for name, value in labels.items() if name != "recall"}


def _compared(settings: list[_Setting], recall: float) -> Iterator[dict[str, Any]]:
    fastest: dict[str, _Setting] = {}
    for setting in sorted(settings, key=lambda setting: setting.speed):
        name = setting.labels.get("engine") or setting.labels["peer"]
        if name not in fastest and setting.recall >= recall:
            fastest[name] = setting
    engine = next((setting for setting in fastest.values() if "engine" in setting.labels), None)
    for setting in fastest.values():
        labels = json.dumps({**setting.labels, "recall": f"{recall:g}"}, sort_keys=True)
        for repeat, p50 in setting.p50.items():
            reference = engine.p50.get(repeat) if engine else None
            yield {
                "suite": "peers", "series": SERIES, "labels": labels, "repeat": repeat, "seq": 0,
                "start": 0.0, "value": p50, "items": 1, "reference": reference,
            }  # fmt: skip
