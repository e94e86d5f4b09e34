"""Is this measurement fit to be judged: valid, or the reasons why not."""

from __future__ import annotations

from collections.abc import Sequence

from bench.machine import Machine
from bench.metrics import Measured
from bench.record import Trial, Validity
from bench.stats import LEAST_PROCESSES


def judge(
    suites: Sequence[str], trials: Sequence[Trial], metrics: Sequence[Measured], machine: Machine
) -> Validity:
    """Judge a run: every trial ended well and every suite gave figures. Notes say what weakens it."""
    failed = [trial for trial in trials if trial.status == "failed"]
    reasons = [f"{t.suite} {t.phase}, repeat {t.repeat + 1}, failed: {t.reason}" for t in failed]
    measured = {metric.name.partition(".")[0] for metric in metrics}
    reasons += [f"suite {suite} gave no figures" for suite in suites if suite not in measured]
    return Validity(valid=not reasons, reasons=reasons, notes=_notes(trials, machine))


def _notes(trials: Sequence[Trial], machine: Machine) -> list[str]:
    notes = []
    repeats = len({trial.repeat for trial in trials})
    if repeats < LEAST_PROCESSES:
        notes.append(
            f"{repeats} of the {LEAST_PROCESSES} repeats an interval needs: timings have no interval and "
            "prove nothing"
        )
    if machine.load_average > machine.cores / 2:
        notes.append(
            f"the machine was busy when the run began: load average {machine.load_average:.1f} on "
            f"{machine.cores} cores"
        )
    return notes
