"""What tests share: 400 random vectors of 16 components, FAISS on one thread."""

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
