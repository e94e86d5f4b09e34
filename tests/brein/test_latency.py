"""The latency model against costs that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brein.retrieval.latency import LatencyModel

BASE, EACH = 0.002, 0.0003  # seconds


def taught(runs, noise=0.0, seed=1):
    model, generator = LatencyModel(), np.random.default_rng(seed)
    for _ in range(runs):
        x = generator.uniform(1, 100)
        model.learn("lexical", (x,), (BASE + EACH * x) * (1 + generator.uniform(-noise, noise)))
    return model


@pytest.mark.parametrize("x", [0.0, 10.0, 100.0, 1000.0])
def test_a_linear_cost_is_recovered(x):
    assert taught(64).predict({"lexical": (x,)}) == pytest.approx(BASE + EACH * x, rel=1e-6)


def test_a_noisy_cost_is_recovered_within_its_noise():
    model = taught(512, noise=0.2)
    for x in (5.0, 50.0, 100.0):
        assert model.predict({"lexical": (x,)}) == pytest.approx(BASE + EACH * x, rel=0.1)


def test_runs_that_were_held_up_hardly_bend_the_fit():
    model = taught(500)
    for n in range(12):
        model.learn("lexical", (float(n * 8),), 10.0)  # a thousand times what it takes
    assert model.predict({"lexical": (50.0,)}) == pytest.approx(BASE + EACH * 50, rel=0.1)


def test_a_cost_without_drivers_is_predicted_by_itself():
    model = LatencyModel()
    for _ in range(32):
        model.learn("mesh", (), 0.004)
    assert model.predict({"mesh": ()}) == pytest.approx(0.004)


def test_too_few_runs_predict_nothing():
    assert LatencyModel().predict({"lexical": (1.0,)}) is None
    assert taught(31).predict({"lexical": (1.0,)}) is None
    assert taught(32).predict({"lexical": (1.0,)}) is not None


def test_stages_add_up_and_one_that_is_unknown_leaves_the_whole_unknown():
    model = taught(32)
    for _ in range(32):
        model.learn("mesh", (), 0.004)
    expected = BASE + EACH * 10 + 0.004
    assert model.predict({"lexical": (10.0,), "mesh": ()}) == pytest.approx(expected)
    assert model.predict({"lexical": (10.0,), "rerank": ()}) is None


def test_a_cost_that_falls_with_its_driver_is_not_predicted_below_zero():
    model = LatencyModel()
    for n in range(64):
        model.learn("lexical", (float(n),), 0.1 - 0.001 * n)
    assert model.predict({"lexical": (1000.0,)}) >= 0


def test_it_follows_a_machine_that_became_slower():
    model = taught(512)
    for n in range(512):
        model.learn("lexical", (float(n % 100),), 3 * (BASE + EACH * (n % 100)))
    assert model.predict({"lexical": (50.0,)}) == pytest.approx(3 * (BASE + EACH * 50), rel=1e-6)


def test_runs_too_short_for_the_clock_are_left_out():
    model = taught(32)
    for _ in range(64):
        model.learn("lexical", (50.0,), 0.0)
    assert model.predict({"lexical": (50.0,)}) == pytest.approx(BASE + EACH * 50, rel=1e-6)


@given(
    runs=st.lists(st.tuples(st.floats(0, 1e9), st.floats(1e-9, 1e3)), min_size=32, max_size=64),
    x=st.floats(0, 1e9),
)
def test_no_prediction_is_negative(runs, x):
    model = LatencyModel()
    for driver, seconds in runs:
        model.learn("lexical", (driver,), seconds)
    assert model.predict({"lexical": (x,)}) >= 0
