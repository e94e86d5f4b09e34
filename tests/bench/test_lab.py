"""The lab's own suite: what is known beforehand comes out, the rest runs whole on small data."""

from pathlib import Path

import numpy as np
import pytest

from bench import config, stats
from bench.artifacts import Store
from bench.metrics import derive
from bench.suites import Experiment
from bench.suites.lab import aa, cost, known_answers
from bench.suites.lab.known_answers import BOUND, DISTRIBUTIONS, PERCENTILES, draw, samples_for
from bench.trial import frame
from bench.workload import synthetic


def experiment(folder, *overrides):
    made = config.from_overrides(["+profile=lab", "suite=[memory_smoke,query_smoke,lab_smoke]", *overrides])
    return Experiment(made, synthetic.load(made.suite.lab.data), None, Store(folder))


def finished(plan):
    """Run a plan's function whole in this process: its metrics by name and labels, and its facts."""
    module, _, name = plan.target.partition(":")
    function = getattr({part.__name__: part for part in (known_answers, aa, cost)}[module], name)
    running = function({**plan.argument, "seed": 3})
    next(running)
    with pytest.raises(StopIteration) as end:
        next(running)
    rows = [{"suite": "lab", "repeat": 0, **row} for row in end.value.value["rows"]]
    return {(m.name, *m.labels.values()): m for m in derive(frame(rows))}, end.value.value["facts"]


def test_every_percentile_throughput_memory_and_recall_is_what_it_is_known_to_be(tmp_path):
    (plan,) = known_answers.plan(experiment(tmp_path)).plans
    found, _ = finished(plan)
    errors = {what: [m.value for key, m in found.items() if key[0] == f"lab.error.{what}"] for what in ERRORS}
    assert {what: len(values) for what, values in errors.items()} == ERRORS
    assert max(errors["percentile"]) <= 0.01
    assert max(errors["throughput"]) <= 0.01
    assert max(errors["memory"]) <= 0.05
    assert errors["recall"] == [0.0] * ERRORS["recall"]
    assert not list(Path(plan.argument["scratch"]).iterdir())


ERRORS = {"percentile": 20, "throughput": 4, "memory": 3, "recall": 12}


def test_a_percentile_of_a_wrong_rank_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(stats, "percentile", lambda values, quantile: np.quantile(values, quantile - 0.0005))
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
