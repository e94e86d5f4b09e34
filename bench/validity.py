"""Is this measurement fit to be judged: valid, or the reasons why not.

A run is valid or not as a whole, each of its metrics by itself. A trial's function can cast doubt on what it
measured: the fact `doubts` of its report says why, by the beginning of a series and its labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bench import matched
from bench.machine import Machine
from bench.metrics import METRICS, Measured, Metric, label_text, series_text
from bench.record import Trial, Validity
from bench.stats import LEAST_PROCESSES

_NOISY_TRIALS = 0.5  # a share of a metric's trials, or a run's: up to it, the others outweigh them
_STEAL = 0.05  # share of the CPU time: as much as two levels may differ and be one (bench/stats.py)
_OTHER_LOAD = (
    0.75  # share of the cores: with so many busy, on a machine of two not even one is left to a trial
)
_NOTED_LOAD = 0.25  # share of the cores from which a reader should know of it
_CLOCK_JUMP = 0.01  # seconds, and so many more a second: twice what setting a clock gradually may do
_CLOCK_DRIFT = 0.001
_COARSE_CLOCK = 0.05  # share of a duration that two readings of the clock may cost


def judge(
    suites: Sequence[str],
    trials: Sequence[Trial],
    metrics: Sequence[Measured],
    machine: Machine,
    noise: float | None,
) -> Validity:
    """Judge a run: every trial ended well, every suite gave figures, the machine was mostly quiet.

    `noise` is `trial.noise`. Notes say what weakens a valid run.
    """
    failed = [trial for trial in trials if trial.status == "failed"]
    reasons = [f"{t.suite} {t.phase}, repeat {t.repeat + 1}, failed: {t.reason}" for t in failed]
    measured = {metric.name.partition(".")[0] for metric in metrics}
    reasons += [f"suite {suite} gave no figures" for suite in suites if suite not in measured]
    reasons += _noise(trials, machine, noise)
    return Validity(valid=not reasons, reasons=reasons, notes=_notes(trials, machine))


def assess(
    metrics: Sequence[Measured], trials: Sequence[Trial], machine: Machine, noise: float | None
) -> list[Measured]:
    """Each metric with the reasons why it is not fit to be judged; `noise` is `trial.noise`."""
    return [
        metric.model_copy(update={"reasons": list(_reasons(metric, trials, machine, noise))})
        for metric in metrics
    ]


def _reasons(
    measured: Measured, trials: Sequence[Trial], machine: Machine, noise: float | None
) -> Iterator[str]:
    metric = METRICS[measured.name]
    own = [trial for trial in trials if _source(metric, measured) in trial.series]
    phases = {(trial.suite, trial.phase) for trial in own}
    failed = [t for t in trials if t.status == "failed" and (t.suite, t.phase) in phases]
    if measured.reason:
        yield measured.reason
    if failed:
        yield f"{len(failed)} of {len(own) + len(failed)} trials failed"
    yield from _doubts(metric, measured, own)
    if metric.is_timing:
        if 2 * measured.unsettled > measured.repeats:
            yield f"not steady: {measured.unsettled} of {measured.repeats} processes never settled"
        yield from _oversubscribed(own)
        yield from _noise(own, machine, noise)
        yield from _clock(measured, own, machine)


def _source(metric: Metric, measured: Measured) -> str:
    """The series, with its labels, of the samples that a metric was derived from."""
    if metric.series == matched.SERIES:
        return series_text(matched.SOURCE, label_text(matched.source(measured.labels)))
    return series_text(metric.series, label_text(measured.labels))


def _doubts(metric: Metric, measured: Measured, trials: Sequence[Trial]) -> Iterator[str]:
    name = " ".join((metric.series, *measured.labels.values()))
    cast = Counter(
        text
        for trial in trials
        for beginning, text in trial.facts.get("doubts", {}).items()
        if f"{name} ".startswith((f"{beginning} ", f"{beginning}."))  # 1 is no beginning of 16
    )
    for text, times in cast.items():
        yield f"{text} (in {times} of {len(trials)} trials)"


def _oversubscribed(trials: Sequence[Trial]) -> Iterator[str]:
    for trial in trials:
        pools, threads = trial.facts.get("pools", {}), trial.facts.get("threads", 0)
        wide = {name: size for name, size in pools.items() if size > threads}
        if wide:
            had = ", ".join(f"{name} {size}" for name, size in wide.items())
            yield f"more threads than the {threads} of trial.threads: {had}"
            return


def _noise(trials: Sequence[Trial], machine: Machine, noise: float | None) -> Iterator[str]:
    """Why the machine was too noisy, where it was in most of the trials."""
    met = [why for trial in trials if noise and (why := _disturbed(trial, machine, noise))]
    if len(met) > _NOISY_TRIALS * len(trials):
        yield f"machine too noisy in {len(met)} of {len(trials)} trials: {met[0]}"


def _disturbed(trial: Trial, machine: Machine, noise: float) -> str | None:
    if trial.noise is None:
        return None
    loop = (trial.noise.loop_before + trial.noise.loop_after) / 2
    slower = loop / machine.noise_floor.loop - 1
    if slower > noise:
        return f"beside one, a calibration took {slower:.0%} longer than when the run began (trial.noise)"
    if trial.noise.steal > _STEAL:
        return f"beside one, the hypervisor withheld {trial.noise.steal:.0%} of the CPU time"
    if trial.noise.other_load > _OTHER_LOAD * machine.cores:
        return f"beside one, other processes kept {trial.noise.other_load:.1f} of {machine.cores} cores busy"
    return None


def _clock(measured: Measured, trials: Sequence[Trial], machine: Machine) -> Iterator[str]:
    for trial in trials:
        if trial.noise and abs(trial.noise.clock_jump) > _CLOCK_JUMP + _CLOCK_DRIFT * trial.wall:
            yield f"during a trial the clock was set by {trial.noise.clock_jump:+.3g} s, or the machine slept"
            break
    reading = machine.noise_floor.timer_p50
    if measured.unit == "s" and measured.value and reading > _COARSE_CLOCK * measured.value:
        yield f"reading the clock ({machine.noise_floor.clock}) takes {reading / measured.value:.0%} of it"


def _notes(trials: Sequence[Trial], machine: Machine) -> list[str]:
    notes = []
    repeats = len({trial.repeat for trial in trials})
    if repeats < LEAST_PROCESSES:
        notes.append(
            f"{repeats} of the {LEAST_PROCESSES} repeats an interval needs: timings have no interval and "
            "prove nothing"
        )
    loads = [trial.noise.other_load for trial in trials if trial.noise]
    load = sum(loads) / max(1, len(loads))
    if load > _NOTED_LOAD * machine.cores:
        notes.append(f"other processes kept {load:.1f} of {machine.cores} cores busy beside the trials")
    return notes
