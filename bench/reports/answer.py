"""What a run's report says, whatever it is written in: the verdict in a sentence, the rows, the command."""

from __future__ import annotations

import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.metrics import METRICS, Measured
from bench.record import DatasetFacts, RunRecord, Verdict
from bench.reports import units

JUDGED: tuple[Literal["pass", "miss", "not proven"], ...] = ("pass", "miss", "not proven")
# Three numbers that matter: how fast, how right, how much. The first metric with a value is taken.
_KEY_FIGURES = (
    (
        "query.latency.p95",
        "query.latency.mean",
        "memory.search.latency.p95",
        "memory.search.latency.mean",
        "agents.latency.p95",
        "agents.latency.mean",
        "load.latency.p95",
        "load.latency.mean",
    ),
    (
        "memory.recall_at_10",
        "query.recall_at_10",
        "query.ndcg_at_10",
        "agents.utilisation",
        "load.recall_at_10",
    ),
    (
        "memory.ingest.rate",
        "query.throughput",
        "memory.search.throughput",
        "agents.capacity",
        "load.capacity",
        "load.throughput",
    ),
)
# Labels whose values say by themselves what they are.
_PLAIN_LABELS = frozenset(
    ("phase", "part", "of", "qtype", "operation", "distribution", "percentile", "kind", "case", "way")
) | {"agent", "strategy", "change", "calls", "server", "state"}
# What reads otherwise than as a share.
_RATIOS = ("query.ablation.cost", "query.batching.gain", "system.processes.gain", "system.http.ratio")
_UNITS = {"query.ablation.ndcg_difference": units.POINTS, **dict.fromkeys(_RATIOS, units.RATIO)}
# Bidirectional classes of the embeddings, overrides and isolates, which reorder the text around them.
_DIRECTIONS = frozenset(("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"))


@dataclass(frozen=True)
class KeyFigure:
    """One of the few numbers at the top of a report, and what the documentation says of it."""

    title: str
    value: str
    interval: str
    verdict: Verdict | None


def headline(record: RunRecord) -> str:
    """Say in one sentence how the run stands beside the documented figures."""
    sentence = _sentence(record)
    return sentence if record.validity.valid else f"Not valid. {sentence}"


def _sentence(record: RunRecord) -> str:
    counts = Counter(verdict.verdict for verdict in record.verdicts)
    judged = sum(counts[word] for word in JUDGED)
    if record.trials and all(trial.status == "failed" for trial in record.trials):
        return f"Nothing was measured: {_all_of(len(record.trials), 'trial')} failed."
    if not record.verdicts:
        shown = sum(metric.value is not None for metric in record.metrics)
        return f"No documented figure to stand beside; {count(shown, 'metric')} measured."
    if not judged:
        return f"No documented figure judged: {count(counts['missing'], 'figure')} not measured."
    parts = ", ".join(f"{counts[word]} {word}" for word in JUDGED if counts[word])
    missing = f"; {counts['missing']} not measured" if counts["missing"] else ""
    return f"{count(judged, 'documented figure')} judged: {parts}{missing}."


def standing(record: RunRecord) -> str:
    """Say whether the run may be believed."""
    if not record.validity.valid:
        return "Not valid: do not judge the engine by this run."
    return "Valid." if not record.validity.notes else "Valid, with notes."


def sections(record: RunRecord) -> dict[str, list[Verdict]]:
    """Group the verdicts by the section of their source, in the order they come."""
    grouped: dict[str, list[Verdict]] = {}
    for verdict in record.verdicts:
        grouped.setdefault(verdict.section, []).append(verdict)
    return grouped


def uncovered(record: RunRecord) -> list[Measured]:
    """The measured metrics that no documented figure covers."""
    covered = {(verdict.metric, *sorted(verdict.labels.items())) for verdict in record.verdicts}
    return [m for m in record.metrics if (m.name, *sorted(m.labels.items())) not in covered]


def value(metric: Measured) -> str:
    """A metric's value with its interval."""
    return units.show(metric.value, unit(metric), metric.ci_low, metric.ci_high)


def unit(metric: Measured) -> str:
    """The unit a metric is shown in: its own, unless it is a difference of shares or a ratio."""
    return _UNITS.get(metric.name, metric.unit)


def measured(verdict: Verdict) -> str:
    """The measured side of a verdict with its interval, or why there is none."""
    if verdict.measured is None:
        return missing(verdict)
    return f"{units.show(verdict.measured, verdict.unit)} {measured_interval(verdict)}".rstrip()


def measured_interval(verdict: Verdict) -> str:
    """The 95% interval of the measured side, in its own unit; empty where there is none."""
    if verdict.ci_low is None or verdict.ci_high is None:
        return ""
    low, high = verdict.ci_low * verdict.baseline, verdict.ci_high * verdict.baseline
    return units.interval(verdict.measured, verdict.unit, low, high)


def missing(verdict: Verdict) -> str:
    """Why a figure was not measured."""
    return printable(verdict.reason) or f"needs the suite {verdict.metric.partition('.')[0]}"


def title(name: str, labels: Mapping[str, str]) -> str:
    """A metric in words: its title, and the labels that tell it apart."""
    known = METRICS.get(name)
    text = known.title if known else name
    return printable(f"{text} ({described(labels)})" if labels else text)


def described(labels: Mapping[str, str]) -> str:
    """Labels in words, a number of clients first: `cold`, `4 shards`, `L2`, `1%`, `2 clients, alone`."""
    ordered = sorted(labels.items(), key=lambda label: label[0] != "clients")
    return ", ".join(_described(key, value) for key, value in ordered)


def _described(key: str, value: str) -> str:
    if key in _PLAIN_LABELS:
        return value
    match key:
        case "level":
            return value.upper()
        case "shards" | "clients":
            return f"{value} {key[:-1]}" if value == "1" else f"{value} {key}"
        case "stage" if not value.isdecimal():  # of a pipeline; those of a stream are numbered
            return value
        case "share":
            return _percent(value)
        case _:
            return f"{key} {value}"


def _percent(share: str) -> str:
    try:
        return units.tick(float(share), "")
    except ValueError:
        return share


def key_figures(record: RunRecord) -> list[KeyFigure]:
    """At most three numbers: a latency, a quality and a rate."""
    figures = []
    for names in _KEY_FIGURES:
        found = next(
            (m for name in names for m in record.metrics if m.name == name and m.value is not None), None
        )
        if found is not None:
            figures.append(_key_figure(found, record))
    return figures


def _key_figure(metric: Measured, record: RunRecord) -> KeyFigure:
    return KeyFigure(
        title=title(metric.name, metric.labels),
        value=units.show(metric.value, metric.unit),
        interval=units.interval(metric.value, metric.unit, metric.ci_low, metric.ci_high),
        verdict=next(
            (v for v in record.verdicts if v.metric == metric.name and v.labels == metric.labels), None
        ),
    )


def asked(record: RunRecord) -> list[tuple[str, str]]:
    """What the run was asked to do: the parts of the experiment that tell runs apart."""
    experiment = record.experiment
    trial = experiment.get("trial") or {}
    parts = {
        "Suites": experiment.get("suites"),
        "Data": _in_short(record.dataset),
        "Vectors searched": record.memory_vectors and _in_short(record.memory_vectors),
        "Load": "load" in (experiment.get("suites") or ()) and _load(experiment.get("load")),
        "Index": _kind(experiment.get("index")),
        "Embedding": _kind(experiment.get("embedding")),
        "Repeats": isinstance(trial, Mapping) and trial.get("repeats"),
    }
    return [(term, plain(value)) for term, value in parts.items() if value]


def source(record: RunRecord) -> str:
    """Where the documented figures come from."""
    baseline = record.experiment.get("baseline")
    said = baseline.get("source") if isinstance(baseline, Mapping) else None
    return printable(f"{record.baseline} ({said})" if said else record.baseline)


def findings(record: RunRecord) -> list[str]:
    """What to know of single metrics: warm-up left out, processes that never settled, why not judged."""
    titles: dict[str, list[str]] = {}
    for metric in record.metrics:
        for finding in _findings(metric):
            titles.setdefault(finding, []).append(title(metric.name, metric.labels))
    return [printable(f"{finding}: {_first(named)}") for finding, named in titles.items()]


def _findings(metric: Measured) -> Iterator[str]:
    if metric.cut:
        yield f"{metric.cut:,} samples left out as warm-up"
    if metric.unsettled:
        yield f"{metric.unsettled} of {metric.repeats} processes never settled; nothing of them is left out"
    for reason in metric.reasons:
        if reason != metric.reason:  # which stands beside the metric
            yield f"not judged, {reason}"


def _first(titles: list[str]) -> str:
    more = f", and {count(len(titles) - 1, 'more metric')}" if len(titles) > 1 else ""
    return titles[0] + more


def noise_floor(record: RunRecord) -> str:
    """What the machine made of work that is always the same, when the run began."""
    floor = record.machine.noise_floor
    return (
        f"calibration loop {units.show(floor.loop, 's')}, spread {units.show(floor.spread, '')}; "
        f"clock {floor.clock or 'not named'}, {units.show(floor.timer_p50, 's')} a reading"
    )


def conditions(record: RunRecord) -> list[tuple[str, str]]:
    """What each series was measured on, and what was not measured."""
    skipped = {names: f"not measured: {reason}" for names, reason in record.skipped.items()}
    return [(printable(name), printable(text)) for name, text in (record.conditions | skipped).items()]


def dataset(data: DatasetFacts) -> list[tuple[str, str]]:
    """All that is known of the data, as terms and values."""
    known = {"name": data.name, "SHA-256": data.sha256, **data.counts, **data.facts}
    return [(printable(term).replace("_", " "), plain(value)) for term, value in known.items()]


def _load(settings: Any) -> str | None:
    """A load's name and how its requests come."""
    return (
        f"{settings.get('name')}: {_kind(settings.get('model'))}" if isinstance(settings, Mapping) else None
    )


def _in_short(data: DatasetFacts) -> str:
    return f"{data.name}: {plain(data.counts)}"


def _kind(settings: Any) -> str | None:
    """A part's settings in a line, its kind first; None where the experiment has none."""
    if not isinstance(settings, Mapping) or "kind" not in settings:
        return None
    rest = {key: value for key, value in settings.items() if key != "kind" and value is not None}
    return f"{settings['kind']} ({plain(rest)})" if rest else str(settings["kind"])


def plain(value: Any) -> str:
    """Any JSON value in a line for people: `documents 200, queries 50`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{printable(str(key))} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(plain(inner) for inner in value) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if value is None:
        return "none"
    return printable(str(value))


def printable(text: str) -> str:
    """Text safe to draw, in one line: control, surrogate and direction-changing characters become �."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if _is_unsafe(character) else character
        for character in " ".join(text.expandtabs(1).splitlines())
    )


def _is_unsafe(character: str) -> bool:
    if unicodedata.category(character) in ("Cc", "Cs", "Cn"):  # Cn holds what XML forbids
        return True
    return unicodedata.bidirectional(character) in _DIRECTIONS


def reproduce(record: RunRecord) -> str:
    """The command line that runs the experiment again."""
    return printable(shlex.join(["python", "-m", "bench", "run", *record.command]))


def commit(record: RunRecord) -> str:
    """The commit the lab was at."""
    if record.git is None:
        return "not known: it did not run from a checkout"
    return record.git.commit + (", with uncommitted changes" if record.git.dirty else "")


def count(number: int, thing: str) -> str:
    """A number of things: `1 figure`, `2 figures`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _all_of(number: int, thing: str) -> str:
    return f"the only {thing}" if number == 1 else f"all {count(number, thing)}"
