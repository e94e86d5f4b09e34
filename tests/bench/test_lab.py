"""The lab's own suite: what is known beforehand comes out, the rest runs whole on small data."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from children import result_of

from bench import config, process, quality, record, stats
from bench.artifacts import Store
from bench.metrics import derive
from bench.suites import Experiment
from bench.suites.lab import aa, cost, known_answers
from bench.suites.lab.known_answers import BOUND, DISTRIBUTIONS, PERCENTILES, draw, samples_for
from bench.trial import frame
from bench.workload import synthetic, truth

SMOKE = "suite=[memory_smoke,query_smoke,agents_smoke,system_smoke,lab_smoke,peers_smoke]"


def experiment(folder, *overrides):
    made = config.from_overrides(["+profile=lab", SMOKE, *overrides])
    return Experiment(made, synthetic.load(made.suite.lab.data), None, Store(folder))


def finished(plan):
    """Run a plan's function whole in this process: its metrics by name and labels, and its facts."""
    module, _, name = plan.target.partition(":")
    function = getattr({part.__name__: part for part in (known_answers, aa, cost)}[module], name)
    made = result_of(function({**plan.argument, "seed": 3}))
    return named(made["rows"]), made["facts"]


def named(rows):
    rows = [{"suite": "lab", "repeat": 0, **row} for row in rows]
    return {(m.name, *m.labels.values()): m for m in derive(frame(rows))}


@pytest.mark.slow
def test_every_percentile_throughput_memory_and_recall_is_what_it_is_known_to_be(tmp_path):
    (plan,) = known_answers.plan(experiment(tmp_path)).plans
    # In a process of its own: the peak of this one is that of all tests before.
    made = process.call(plan.target, {**plan.argument, "seed": 3}, threads=1)
    found = named(made["rows"])
    errors = {what: [m.value for key, m in found.items() if key[0] == f"lab.error.{what}"] for what in ERRORS}
    assert {what: len(values) for what, values in errors.items()} == ERRORS
    assert max(errors["percentile"]) <= 0.01
    assert max(errors["throughput"]) <= 0.01
    assert max(errors["memory"]) <= 0.05
    assert errors["recall"] == [0.0] * ERRORS["recall"]
    assert not list(Path(plan.argument["scratch"]).iterdir())


ERRORS = {"percentile": 20, "throughput": 4, "memory": 3, "recall": 12}


def test_a_percentile_of_a_wrong_rank_is_found_out(tmp_path, monkeypatch):
    def lower(values, quantile, lost=0):
        return np.quantile(values, quantile - 0.0005)

    monkeypatch.setattr(stats, "percentile", lower)
    random = np.random.default_rng(1)
    (error,) = [
        samples.rows[0]["value"]
        for samples in known_answers.service_times("exponential", DISTRIBUTIONS["exponential"], random)
        if "p999" in samples.rows[0]["labels"]
    ]
    assert error > BOUND


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_number_of_service_times_keeps_percentiles_within_the_bound_whatever_the_seed(name):
    distribution = DISTRIBUTIONS[name]
    count = samples_for(distribution)
    for seed in range(5):
        times = draw(distribution, count, np.random.default_rng(seed))
        for quantile in PERCENTILES.values():
            known = float(distribution.within(np.array(quantile)))
            assert np.quantile(times, quantile) == pytest.approx(known, rel=BOUND)
        assert times.mean() == pytest.approx(distribution.mean, rel=BOUND)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_service_times_are_in_no_order(name):
    times = draw(DISTRIBUTIONS[name], 10_000, np.random.default_rng(1))
    assert abs(np.corrcoef(np.argsort(np.argsort(times)), np.arange(len(times)))[0, 1]) < 0.05


def test_steady_drift_is_no_difference_between_equal_sides():
    sides = {"a": [], "b": []}
    for turn, side in enumerate(aa.order(6)):
        sides[side].append(1.02**turn)
    low, high = aa.difference(sides["a"], sides["b"])
    assert low < 0 < high
    assert low + high == pytest.approx(0)


def test_equal_sides_come_out_equal_and_unequal_ones_do_not():
    random = np.random.default_rng(1)
    held = {0.0: 0, 0.1: 0}
    for factor in held:
        for _ in range(500):
            a, b = np.exp(random.normal(0, 0.02, (2, 12)))
            low, high = aa.difference(a, b * (1 + factor))
            held[factor] += low <= 0 <= high
    assert held[0.0] == pytest.approx(480, abs=20)
    assert held[0.1] == 0


@pytest.mark.slow
def test_the_whole_suite_runs_and_answers_to_its_bounds(tmp_path):
    runs, overrides = tmp_path / "runs", [SMOKE]
    overrides += ["trial=smoke", "trial.repeats=1", "index=flat", f"paths.runs={runs}"]
    command = ["-m", "bench", "run", "+profile=lab", *overrides, f"paths.artifacts={tmp_path / 'artifacts'}"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = runs.iterdir()
    made, samples = record.read(folder)
    assert {t.phase for t in made.trials} == {"known answers", "aa", "cost of a trial", "cost of a sweep"}
    known = [v.verdict for v in made.verdicts if v.section == "Known answers"]
    assert set(known) == {"pass"}
    assert len(known) == sum(ERRORS.values())
    assert not [v.metric for v in made.verdicts if v.verdict == "missing"]
    sides = samples[samples["series"] == "lab.aa.process"].sort_values("start")["labels"]
    assert "".join(json.loads(labels)["side"] for labels in sides) == aa.order(6)
    trial = {json.dumps(m.labels): m.value for m in made.metrics if m.name == "lab.cost.trial"}
    assert trial.pop("{}") == pytest.approx(sum(trial.values()), rel=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "l2"])
def test_exact_neighbours_have_every_recall_where_products_cancel(metric):
    random = np.random.default_rng(0)
    vectors, queries = random.standard_normal((2000, 768)) + 3, random.standard_normal((100, 768))
    vectors, queries = vectors.astype(np.float32), queries.astype(np.float32)
    for near, query in zip(truth.exact_search(vectors, queries, 100, metric), queries, strict=True):
        exact = np.sort(truth.distances(vectors[near], query, metric)).astype(np.float32)
        for k in (1, 10, 100):
            found = random.permutation(near[:k])
            away = truth.distances(vectors[found], query, metric)
            assert quality.neighbour_recall(found.tolist(), away.tolist(), exact.tolist(), k) == 1
