import os
import re
import sys
import time
from contextlib import suppress
from itertools import chain, pairwise, product

import pytest

from bench import trial
from bench.config import TrialConfig
from bench.machine import usable_cores
from bench.metrics import COLUMNS
from bench.trial import Cell, Kept, Plan, Samples, Task, Work

CONFIG = TrialConfig(repeats=2, seed=7, threads=1, timeout=30.0, memory=None, cores=None, noise=None)


@pytest.fixture(autouse=True)
def _children_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))


@pytest.fixture
def run(tmp_path):
    """Runs plans as the one cell of a sitting; gives its outcome, and the tasks in the order they ended."""

    def run_plans(*plans, config=CONFIG, known=(), identity="one machine"):
        cell = Cell("a cell", [Work(plans, known)], config, Kept(tmp_path, {"identity": identity}))
        ended = []
        ((_, outcome),) = trial.run_all(
            [cell], trial.to_run([cell]), trial.here, lambda task, _: ended.append(task)
        )
        trial.forget(tmp_path)
        return outcome, ended

    return run_plans


def cells(folder, names, *phases, config=CONFIG):
    plans = [Plan("memory", phase, "children:measure", {}) for phase in phases]
    return [Cell(name, [Work(plans)], config, Kept(folder / name, {})) for name in names]


def place(task):
    return task.cell.name, task.plan.phase, task.repeat


def test_every_plan_is_repeated_with_seeds_of_its_own(run, tmp_path):
    plans = [Plan("memory", phase, "children:measure", {}) for phase in ("search", "ingest")]
    outcome, _ = run(*plans)
    assert sorted((t.phase, t.repeat) for t in outcome.trials) == [
        ("ingest", 0), ("ingest", 1), ("search", 0), ("search", 1)
    ]  # fmt: skip
    assert len({t.seed for t in outcome.trials}) == 4
    assert [t.seed for t in run(*plans)[0].trials] == [t.seed for t in outcome.trials]
    assert all(t.status == "ok" and t.wall > 0 for t in outcome.trials)


def test_the_cells_of_a_sweep_take_turns_in_an_order_that_the_seed_decides(tmp_path):
    names = [f"cell {number}" for number in range(20)]
    tasks = trial.schedule(cells(tmp_path, names, "search"))
    rounds = [[task.cell.name for task in tasks if task.repeat == repeat] for repeat in range(2)]
    assert [task.repeat for task in tasks] == [0] * 20 + [1] * 20
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(names)
    assert len({tuple(names), *map(tuple, rounds)}) == 3
    again = trial.schedule(cells(tmp_path, names, "search"))
    assert [place(task) for task in again] == [place(task) for task in tasks]
    other = cells(tmp_path, names, "search", config=CONFIG.model_copy(update={"seed": 8}))
    assert [place(task) for task in trial.schedule(other)] != [place(task) for task in tasks]


def test_a_cell_keeps_its_turns_and_seeds_whatever_other_cells_there_are(tmp_path):
    names = [f"cell {number}" for number in range(12)]
    whole = trial.schedule(cells(tmp_path, names, "search", "ingest"))
    part = trial.schedule(cells(tmp_path, names[::3], "search", "ingest"))
    kept = [task for task in whole if task.cell.name in names[::3]]
    assert [(*place(task), task.seed) for task in part] == [(*place(task), task.seed) for task in kept]


def test_cells_with_fewer_repeats_stop_earlier(tmp_path):
    few, many = cells(tmp_path, ["few"], "search"), cells(
        tmp_path, ["many"], "search", config=CONFIG.model_copy(update={"repeats": 4})
    )  # fmt: skip
    tasks = [place(task) for task in trial.schedule([*few, *many])]
    assert sorted(tasks) == [("few", "search", n) for n in range(2)] + [
        ("many", "search", n) for n in range(4)
    ]


def measure(cells, after=None):
    """Run the cells, until so many trials have ended; give what was run, and the outcomes by name."""
    measured, outcomes = [], {}

    def stop(tasks):
        for number, (task, ended) in enumerate(chain.from_iterable(trial.here(tasks))):
            if number == after:
                raise KeyboardInterrupt
            yield [(task, ended)]
            measured.append(place(task))

    with suppress(KeyboardInterrupt):
        for cell, outcome in trial.run_all(cells, trial.to_run(cells), stop, lambda task, ended: None):
            outcomes[cell.name] = outcome
    return measured, outcomes


def test_what_ended_before_an_interruption_is_not_run_again_and_the_outcome_is_the_same(tmp_path):
    names = ["x", "y", "z"]
    for folder, name in product("ab", names):
        (tmp_path / folder / name).mkdir(parents=True)
    undisturbed = cells(tmp_path / "a", names, "search")
    _, whole = measure(undisturbed)
    first, done = measure(cells(tmp_path / "b", names, "search"), after=4)
    rest, more = measure(cells(tmp_path / "b", [name for name in names if name not in done], "search"))
    assert len(first) == 4
    assert sorted([*first, *rest]) == sorted(place(task) for task in trial.schedule(undisturbed))
    for name, outcome in (done | more).items():
        assert outcome.samples.equals(whole[name].samples)
        assert [(t.repeat, t.seed) for t in outcome.trials] == [
            (t.repeat, t.seed) for t in whole[name].trials
        ]


def test_a_trial_kept_elsewhere_or_under_other_versions_is_run_again(tmp_path):
    def missing(identity, argument=None, config=CONFIG):
        plan = Plan("memory", "search", "children:measure", argument or {})
        return trial.to_run([Cell("a cell", [Work([plan])], config, Kept(tmp_path, identity))])

    (first, _) = tasks = missing({"machine": "a"})
    with pytest.raises(KeyboardInterrupt):
        list(trial.run_all([first.cell], tasks, trial.here, interrupt))
    assert len(missing({"machine": "a"})) == 1
    assert len(missing({"machine": "b"})) == 2
    assert len(missing({"machine": "a"}, {"index": "another"})) == 2
    assert len(missing({"machine": "a"}, config=CONFIG.model_copy(update={"threads": 2}))) == 2


def interrupt(*_):
    raise KeyboardInterrupt


def test_trials_are_kept_until_they_are_forgotten(tmp_path):
    (cell,) = of_one = cells(tmp_path, ["x"], "search")
    (tmp_path / "x").mkdir()
    measure(of_one)
    assert trial.to_run(of_one) == []
    assert trial.kept(tmp_path / "x")
    trial.forget(tmp_path / "x")
    assert [task.cell for task in trial.to_run(of_one)] == [cell, cell]
    assert not trial.kept(tmp_path / "x")


def side_by_side(tmp_path, *plans, timeout=30.0):
    """Run plans once, in this order."""
    config = CONFIG.model_copy(update={"timeout": timeout})
    cell = Cell("a cell", [Work(plans)], config, Kept(tmp_path, {}))
    tasks = [Task(cell, plan, 0) for plan in plans]
    return [ended.trial for together in trial.here(tasks) for _, ended in together]


def test_a_few_prepare_together_and_measure_one_at_a_time(tmp_path):
    plans = [Plan("memory", phase, "children:measure", {}) for phase in ("a", "b", "c", "d")]
    facts = [t.facts for t in side_by_side(tmp_path, *plans)]
    together = facts[: max(2, usable_cores())]
    assert max(f["prepared"] for f in together) <= min(f["measured"][0] for f in together)
    assert all(before["measured"][1] <= after["measured"][0] for before, after in pairwise(facts))


def test_a_trial_says_what_it_sampled_how_many_threads_it_had_and_what_disturbed_it(run):
    outcome, _ = run(Plan("memory", "search", "children:measure", {}))
    for made in outcome.trials:
        assert made.series == ["memory.search"]
        assert set(made.facts["pools"].values()) == {made.facts["threads"]} == {1}
        assert made.noise.loop_before > 0 < made.noise.loop_after


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_trial_over_its_memory_is_recorded_and_the_rest_goes_on(run):
    greedy = Plan("memory", "a", "children:exhaust_when_asked", {"by": "numpy", "bytes": 4 * 10**9})
    modest = Plan("memory", "b", "children:measure", {})
    outcome, _ = run(greedy, modest, config=CONFIG.model_copy(update={"repeats": 1, "memory": 10**9}))
    statuses = {made.phase: made.status for made in outcome.trials}
    assert statuses == {"a": "failed", "b": "ok"}
    [reason] = [made.reason for made in outcome.trials if made.reason]
    assert "limit of 1,000,000,000 bytes (trial.memory)" in reason


def test_timed_loops_take_turns_and_never_overlap(tmp_path):
    plans = [
        Plan("memory", phase, "children:take_turns", {"operations": n}) for phase, n in (("a", 20), ("b", 10))
    ]
    trials = side_by_side(tmp_path, *plans)
    operations = sorted((*op, t.phase) for t in trials for op in t.facts["ends"])
    assert all(before[1] <= after[0] for before, after in pairwise(operations))
    order = "".join(phase for _, _, phase in operations)
    assert re.fullmatch("(a+b+){2,}a+", order)
    assert all(order.count(t.phase) > n for t, n in zip(trials, (20, 10), strict=True)), "some are done again"
    assert all(0.008 * n <= t.wall < 2 for t, n in zip(trials, (20, 10), strict=True))


def test_nobody_judges_before_all_have_measured_and_then_all_judge_side_by_side(tmp_path):
    plans = [
        Plan("memory", phase, "children:judge", {"operations": n, "seconds": 0.5})
        for phase, n in (("a", 3), ("b", 12))
    ]
    trials = side_by_side(tmp_path, *plans)
    last_measured = max(end for t in trials for _, end in t.facts["ends"])
    judged = [t.facts["judged"] for t in trials]
    assert min(start for start, _ in judged) >= last_measured
    assert max(start for start, _ in judged) < min(end for _, end in judged)
    assert all(0.5 <= t.wall < 5 for t in trials), "judging is part of a trial's time"


def test_children_that_judge_too_long_are_ended_by_one_limit_and_say_so(tmp_path):
    slow = [Plan("memory", phase, "children:judge", {"operations": 1, "seconds": 60}) for phase in "ab"]
    start = time.monotonic()
    made = side_by_side(tmp_path, *slow, timeout=5.0)
    assert ["stopped after 5 s" in t.reason for t in made] == [True, True]
    assert all(5 <= t.wall < 7.5 for t in made), "not one limit after the other"
    assert time.monotonic() - start < 60


def test_the_next_few_prepare_while_what_the_last_gave_is_dealt_with(tmp_path):
    side_by_side = min(max(2, usable_cores()), 4)
    plans = [Plan("memory", str(n), "children:measure", {}) for n in range(side_by_side + 1)]
    cell = Cell("a cell", [Work(plans)], CONFIG, Kept(tmp_path, {}))
    running = trial.here([Task(cell, plan, 0) for plan in plans])
    assert len(next(running)) == side_by_side
    time.sleep(3)
    dealt_with = time.monotonic()
    ((_, last),) = next(running)
    assert last.trial.facts["prepared"] < dealt_with < last.trial.facts["measured"][0]


def test_a_child_that_dies_in_its_turn_leaves_the_others_theirs(tmp_path):
    dies = Plan("memory", "a", "children:die_when_asked", {"signal": "SIGKILL"})
    trials = side_by_side(tmp_path, dies, Plan("memory", "b", "children:take_turns", {"operations": 9}))
    assert [t.status for t in trials] == ["failed", "ok"]
    assert len(trials[1].facts["ends"]) >= 9


def test_samples_are_typed_rows_of_their_trial(run):
    outcome, _ = run(Plan("memory", "search", "children:measure", {}))
    assert list(outcome.samples.columns) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in outcome.samples.dtypes.items()} == COLUMNS
    assert outcome.samples["repeat"].tolist() == [0, 0, 0, 1, 1, 1]
    assert outcome.samples["seq"].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_killed_trial_is_recorded_and_the_rest_goes_on(run):
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
    trials = side_by_side(tmp_path, hangs, after, timeout=3.0)
    assert [t.status for t in trials] == ["failed", "ok"]
    assert "stopped after 3 s" in trials[0].reason
    assert trials[1].facts["alive"] is False


def test_a_trial_that_is_never_prepared_is_ended_before_any_measures(tmp_path):
    hangs = Plan("memory", "a", "children:hang", {"file": str(tmp_path / "pid")})
    after = Plan("memory", "b", "children:is_alive", {"file": str(tmp_path / "pid")})
    trials = side_by_side(tmp_path, hangs, after, timeout=3.0)
    assert [t.status for t in trials] == ["failed", "ok"]
    assert trials[1].facts["alive"] is False


def test_samples_known_before_come_once_whatever_the_repeats(run):
    known = Samples.of(7.0, "memory.build")
    outcome, _ = run(Plan("memory", "search", "children:measure", {}), known=[known])
    build = outcome.samples[outcome.samples["series"] == "memory.build"]
    assert build["value"].tolist() == [7.0]
    assert build["suite"].tolist() == ["memory"]


def test_a_trial_that_refuses_its_input_is_recorded_with_its_line(run):
    outcome, _ = run(Plan("memory", "search", "children:refuse_when_asked", {}))
    assert [t.reason for t in outcome.trials] == ["k = 0: must be at least 1"] * 2
    assert outcome.samples.empty


def test_what_ended_together_is_kept_before_a_cell_is_concluded(tmp_path):
    plan = Plan("memory", "search", "children:measure", {})
    cells = [
        Cell(name, [Work([plan])], CONFIG.model_copy(update={"repeats": 1}), Kept(tmp_path / name, {}))
        for name in "ab"
    ]
    for cell in cells:
        (tmp_path / cell.name).mkdir()
    tasks = trial.to_run(cells)
    concluded = trial.run_all(cells, tasks, trial.here, lambda task, ended: None)
    next(concluded)
    assert all(task.cell.kept.has(task) for task in tasks), "one that dies now loses neither"
