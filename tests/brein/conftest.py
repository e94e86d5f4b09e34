"""What tests share: 400 random vectors of 16 components, FAISS on one thread."""

import os
import shutil
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest


@pytest.fixture(scope="module")
def one_thread():
    """For work this small, threads cost more than they do."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(30, 16)).astype(np.float32)


def _program(name):
    beside = Path(sys.executable).parent  # where `make tools` puts it
    path = shutil.which(name, path=f"{beside}:{os.environ['PATH']}")
    if path is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"needs {name}: make tools")
        pytest.skip(f"needs {name}")
    return path


@pytest.fixture(scope="session")
def promtool():
    """Where Prometheus' checker is."""
    return _program("promtool")


@pytest.fixture(scope="session")
def prometheus():
    """Where Prometheus is."""
    return _program("prometheus")
