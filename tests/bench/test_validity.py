"""What makes a run invalid, and a metric unfit to be judged: each reason by a planted fact."""

import pytest

from bench import validity
from bench.machine import describe
from bench.metrics import METRICS, Measured, label_text
from bench.noise import Disturbance
from bench.record import Trial

QUIET = Disturbance(loop_before=0.02, loop_after=0.02, steal=0.0, other_load=0.0, clock_jump=0.0)
LATENCY, RECALL, PEAK = "memory.search.latency.mean", "memory.recall_at_10", "memory.peak"


@pytest.fixture(scope="module")
def machine():
    described = describe()
    floor = described.noise_floor.model_copy(update={"loop": 0.02, "timer_p50": 6e-8, "clock": "tsc"})
    return described.model_copy(update={"cores": 2, "noise_floor": floor})


def trial(repeat=0, status="ok", facts=None, **seen):
    return Trial(
        suite="memory", phase="search", repeat=repeat, seed=1, status=status, started_at="", wall=1.0,
        facts={"threads": 2, "pools": {"libgomp": 2}} | (facts or {}),
        reason=None if status == "ok" else "killed by SIGSEGV",
        series=["memory.peak", "memory.search"] if status == "ok" else [],
        noise=QUIET.model_copy(update=seen),
    )  # fmt: skip


def measured(name=LATENCY, value=1e-3, **more):
    metric = METRICS[name]
    given = {"ci_low": value, "ci_high": value, "n": 100, "repeats": 5, "labels": {}, "reason": None, **more}
    return Measured(name=name, unit=metric.unit, better=metric.better, value=value, **given)


def reasons(machine, trials, one=None, noise=0.5):
    return validity.assess([one or measured()], trials, machine, noise)[0].reasons


def judge(machine, trials, suites=("memory",), noise=0.5):
    return validity.judge(suites, trials, [measured(PEAK)], machine, noise)


def five(**changes):
    """Five trials, the first three of them not as usual."""
    return [trial(n, **(changes if n < 3 else {})) for n in range(5)]


# --- a run ------------------------------------------------------------------------------------------


def test_a_failed_trial_makes_a_run_invalid_and_says_why(machine):
    judged = judge(machine, [trial(), trial(1, "failed")])
    assert not judged.valid
    assert judged.reasons == ["memory search, repeat 2, failed: killed by SIGSEGV"]


def test_a_suite_without_figures_makes_a_run_invalid(machine):
    assert judge(machine, [trial()], ["memory", "query"]).reasons == ["suite query gave no figures"]


def test_a_run_is_invalid_where_most_trials_met_a_noisy_machine(machine):
    judged = judge(machine, five(loop_before=0.05, loop_after=0.04))
    assert not judged.valid
    assert judged.reasons == [
        "machine too noisy in 3 of 5 trials: beside one, a calibration took 125% longer than when the run "
        "began (trial.noise)"
    ]
    assert judge(machine, five(loop_before=0.05)[1:]).valid, "half of the trials were quiet"
    assert judge(machine, five(loop_before=0.05), noise=None).valid


def test_few_repeats_and_a_busy_machine_are_notes(machine):
    few = judge(machine, [trial(other_load=1.0)])
    assert few.valid
    assert few.notes == [
        "1 of the 5 repeats an interval needs: timings have no interval and prove nothing",
        "other processes kept 1.0 of 2 cores busy beside the trials",
    ]
    assert judge(machine, five()).notes == []


# --- a metric ---------------------------------------------------------------------------------------


def test_a_quiet_steady_complete_measurement_has_no_reasons(machine):
    assert reasons(machine, five()) == []


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"loop_before": 0.03, "loop_after": 0.0301}, "a calibration took 50% longer"),
        ({"steal": 0.06}, "the hypervisor withheld 6% of the CPU time"),
        ({"other_load": 1.6}, "other processes kept 1.6 of 2 cores busy"),
    ],
)
def test_noise_in_most_trials_counts_against_timings_alone(machine, seen, said):
    noisy = five(**seen)
    [reason] = reasons(machine, noisy)
    assert reason.startswith("machine too noisy in 3 of 5 trials: beside one, ")
    assert said in reason
    assert reasons(machine, noisy[1:]) == [], "half of the trials were quiet"
    assert reasons(machine, noisy, noise=None) == []
    assert (
        reasons(machine, noisy, measured(RECALL, 0.9)) == reasons(machine, noisy, measured(PEAK, 1e9)) == []
    )


def test_what_never_settles_in_most_processes_is_not_steady(machine):
    assert reasons(machine, five(), measured(unsettled=2)) == []
    [reason] = reasons(machine, five(), measured(unsettled=3))
    assert reason == "not steady: 3 of 5 processes never settled"


def test_too_few_samples_or_processes_are_a_reason(machine):
    few = measured(value=None, ci_low=None, reason="999 of the 1,000 samples a process this percentile needs")
    assert reasons(machine, five(), few) == [few.reason]


def test_a_failed_trial_of_the_same_kind_is_a_reason_even_for_quality(machine):
    trials = [*five()[:4], trial(4, "failed")]
    assert reasons(machine, trials, measured(RECALL, 0.9)) == ["1 of 5 trials failed"]
    elsewhere = trials[4].model_copy(update={"phase": "ingest"})
    assert reasons(machine, [*trials[:4], elsewhere], measured(RECALL, 0.9)) == []


def test_one_peers_failure_and_noise_are_not_anothers(machine):
    labels = {"peer": "hnswlib", "setting": "ef=16", "task": "vectors"}
    gave = f"peers.search {label_text(labels)}"
    mine = [t.model_copy(update={"suite": "peers", "phase": "hnswlib", "series": [gave]}) for t in five()]
    others = [
        t.model_copy(
            update={"suite": "peers", "phase": "pgvector", "series": [gave.replace("hnswlib", "pg")]}
        )
        for t in five(steal=0.5)
    ]
    others[4] = others[4].model_copy(update={"status": "failed", "series": []})
    theirs = labels | {"peer": "pg"}
    for name, more in (("peers.latency.p50", {}), ("peers.matched.latency.p50", {"recall": "0.9"})):
        assert reasons(machine, mine + others, measured(name, labels=labels | more)) == []
        assert len(reasons(machine, mine + others, measured(name, labels=theirs | more))) == 2


def test_a_trials_own_doubts_reach_the_series_they_name(machine):
    cold = {"doubts": {"query.search cold": "a cache answered 3 searches of the cold pass"}}
    gave = ['query.search {"phase": "cold"}', 'query.search {"phase": "zipf"}']
    trials = [t.model_copy(update={"suite": "query", "series": gave}) for t in five(facts=cold)]
    asked = measured("query.latency.mean", labels={"phase": "cold"})
    assert reasons(machine, trials, asked) == [
        "a cache answered 3 searches of the cold pass (in 3 of 5 trials)"
    ]
    assert reasons(machine, trials, measured("query.latency.mean", labels={"phase": "zipf"})) == []
    every = [
        t.model_copy(update={"facts": {"doubts": {"query.search": "generator-limited"}}}) for t in trials
    ]
    assert reasons(machine, every, asked) == ["generator-limited (in 5 of 5 trials)"]


def test_a_doubt_of_one_label_is_none_of_another_that_begins_alike(machine):
    gave = [f"system.processes {label_text({'processes': count})}" for count in ("1", "16")]
    limited = {"doubts": {"system.processes 1": "client-limited"}}
    trials = [t.model_copy(update={"suite": "system", "series": gave}) for t in five(facts=limited)]
    one, many = (measured("system.processes.throughput", labels={"processes": n}) for n in ("1", "16"))
    assert reasons(machine, trials, one) == ["client-limited (in 3 of 5 trials)"]
    assert reasons(machine, trials, many) == []


def test_pools_of_more_threads_than_pinned_are_a_reason(machine):
    wide = five(facts={"pools": {"libgomp": 2, "torch": 16}})
    assert reasons(machine, wide) == ["more threads than the 2 of trial.threads: torch 16"]


def test_a_clock_that_was_set_is_a_reason_and_one_that_was_slewed_is_none(machine):
    assert reasons(machine, [trial(clock_jump=0.005)]) == []
    [reason] = reasons(machine, [trial(), trial(clock_jump=-2.0)])
    assert reason == "during a trial the clock was set by -2 s, or the machine slept"


def test_a_clock_too_coarse_for_a_duration_is_a_reason(machine):
    assert reasons(machine, five(), measured(value=1e-6)) == ["reading the clock (tsc) takes 6% of it"]


def test_what_an_artifact_brought_is_judged_without_trials(machine):
    assert reasons(machine, five(), measured("memory.index.build_time", 3.0)) == []
