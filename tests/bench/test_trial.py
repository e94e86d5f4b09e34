import os
from itertools import pairwise

import pytest

from bench.config import TrialConfig
from bench.metrics import COLUMNS
from bench.trial import Plan, Samples, Work, run_all

CONFIG = TrialConfig(repeats=2, seed=7, threads=1, timeout=30.0)


@pytest.fixture(autouse=True)
def _children_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


def run(*plans, config=CONFIG, known=()):
    said = []
    return run_all([Work(plans, known)], config, said.append), said


def test_every_plan_is_repeated_in_rounds_with_seeds_of_its_own():
    plans = [Plan("memory", phase, "children:measure", {}) for phase in ("search", "ingest")]
    outcome, said = run(*plans)
    assert [(t.phase, t.repeat) for t in outcome.trials] == [
        ("search", 0), ("ingest", 0), ("search", 1), ("ingest", 1)
    ]  # fmt: skip
    assert len({t.seed for t in outcome.trials}) == 4
    assert [t.seed for t in run(*plans)[0].trials] == [t.seed for t in outcome.trials]
    assert all(t.status == "ok" and t.wall > 0 and t.facts["threads"] == 1 for t in outcome.trials)
    assert len(said) == 2


def test_a_round_prepares_together_and_measures_one_at_a_time():
    plans = [Plan("memory", phase, "children:measure", {}) for phase in ("a", "b", "c")]
    outcome, _ = run(*plans)
    for repeat in range(2):
        facts = [t.facts for t in outcome.trials if t.repeat == repeat]
        assert max(f["prepared"] for f in facts) <= min(f["measured"][0] for f in facts)
        ends = [f["measured"] for f in facts]
        assert all(before[1] <= after[0] for before, after in pairwise(ends))


def test_samples_are_typed_rows_of_their_trial():
    outcome, _ = run(Plan("memory", "search", "children:measure", {}))
    assert list(outcome.samples.columns) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in outcome.samples.dtypes.items()} == COLUMNS
    assert outcome.samples["repeat"].tolist() == [0, 0, 0, 1, 1, 1]
    assert outcome.samples["seq"].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_killed_trial_is_recorded_and_the_rest_goes_on():
    outcome, _ = run(
        Plan("memory", "search", "children:measure_or_die", {}),
        config=CONFIG.model_copy(update={"repeats": 3}),
    )
    assert [t.status for t in outcome.trials] == ["ok", "failed", "ok"]
    assert "SIGKILL" in outcome.trials[1].reason
    assert outcome.samples["repeat"].unique().tolist() == [0, 2]


def test_a_trial_over_its_time_is_ended_before_the_next_one_measures(tmp_path):
    hangs = Plan("memory", "a", "children:hang_when_asked", {"file": str(tmp_path / "pid")})
    after = Plan("memory", "b", "children:is_alive", {"file": str(tmp_path / "pid")})
    outcome, _ = run(hangs, after, config=CONFIG.model_copy(update={"repeats": 1, "timeout": 3.0}))
    assert [t.status for t in outcome.trials] == ["failed", "ok"]
    assert "stopped after 3 s" in outcome.trials[0].reason
    assert outcome.trials[1].facts == {"threads": 1, "alive": False}


def test_a_trial_that_is_never_prepared_is_ended_before_any_measures(tmp_path):
    hangs = Plan("memory", "a", "children:hang", {"file": str(tmp_path / "pid")})
    after = Plan("memory", "b", "children:is_alive", {"file": str(tmp_path / "pid")})
    outcome, _ = run(hangs, after, config=CONFIG.model_copy(update={"repeats": 1, "timeout": 3.0}))
    assert [t.status for t in outcome.trials] == ["failed", "ok"]
    assert outcome.trials[1].facts["alive"] is False


def test_samples_known_before_come_once_whatever_the_repeats():
    known = Samples.of(7.0, "memory.build")
    outcome, _ = run(Plan("memory", "search", "children:measure", {}), known=[known])
    build = outcome.samples[outcome.samples["series"] == "memory.build"]
    assert build["value"].tolist() == [7.0]
    assert build["suite"].tolist() == ["memory"]


def test_a_trial_that_refuses_its_input_is_recorded_with_its_line():
    outcome, _ = run(Plan("memory", "search", "children:refuse_when_asked", {}))
    assert [t.reason for t in outcome.trials] == ["k = 0: must be at least 1"] * 2
    assert outcome.samples.empty
