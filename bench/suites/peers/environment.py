"""An environment of its own for a peer that does not install beside the rest.

    python -m bench.suites.peers.environment .venv-scann scann

makes one with the packages named, and with what the lab's children need.
`suite.peers.adapters.NAME.python` says that a peer runs there.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path

import bench
import brein

# What importing a child's function takes, as pip names it; neither torch nor FAISS.
LIGHT = ("cachetools", "h5py", "numpy", "pooch", "psutil", "pydantic", "pyyaml", "threadpoolctl")
_INSIDE = "BENCH_PEER_ENVIRONMENT"


def enter(python: str | None) -> None:
    """Become the same process of another interpreter, with its limits, pipes and threads; None: stay.

    That interpreter sees the lab's two packages and else what is installed for it.
    """
    if python is None:
        return
    if inside := os.environ.pop(_INSIDE, None):  # it is done
        atexit.register(shutil.rmtree, inside)
        return
    seen = tempfile.mkdtemp(prefix="bench-")
    for package in (bench, brein):
        source = Path(str(package.__file__)).resolve().parent
        (Path(seen) / source.name).symlink_to(source)
    variables = {**os.environ, "PYTHONPATH": seen, _INSIDE: seen}
    os.execve(python, [python, *sys.orig_argv[1:]], variables)  # noqa: S606  the interpreter the user names


def make(folder: Path, packages: list[str]) -> Path:
    """Make an environment in `folder` with these packages; returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    light = [f"{package}=={version(package)}" for package in LIGHT]
    try:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages, *light], check=True)
    except subprocess.CalledProcessError:
        # The peer may need other versions of these.
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages, *LIGHT], check=True)
    return python


if __name__ == "__main__":
    made = make(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.write(f"suite.peers.adapters.NAME.python={made.absolute()}\n")
