"""Where the tests of this folder find real data sets."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """Return the folder of a real data set, or skip the test where it is absent."""
    default = Path(__file__).resolve().parents[3] / "shared" / "datasets"
    root = Path(os.environ.get("BREIN_DATASETS", default))

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"needs {root / name}")
        return root / name

    return find
