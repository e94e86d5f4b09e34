"""What a request costs the generator: CPU seconds of our users beside those of a bare FastHttpUser.

A script, no test: `PYTHONPATH=. python tests/bench/generator_cost.py`. Both ask the same stand-in the same
text at the same rate, in turns A B B A, so that what drifts meets both alike.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from stand_in import standing_in

from bench.arrivals import Closed, Constant, drawn
from bench.load.locust import Job, run

USERS, PACING, SECONDS, ROUNDS = 20, 0.05, 10.0, 2
OURS = {
    "closed": Closed(users=USERS, think_time=None, pacing=PACING, ramp_up=PACING, seconds=SECONDS, warm_up=0),
    "open": drawn(Constant(rate=USERS / PACING, seconds=SECONDS, warm_up=0), seed=0),
}


def ours(host, load):
    """CPU seconds of a request of our users."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job(host, "search", ("What is a violin?",), np.array([0]), 10, load)
        ran = run(job, Path(folder))
        return ran.cpu(0, SECONDS) / len(ran.rows)


def bare(host):
    """CPU seconds of a request of a bare FastHttpUser."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "locust",
            "-f",
            Path(__file__).parent / "bare_locust.py",
            "--headless",
        ]
        command += ["--host", host, "-u", USERS, "-r", USERS, "-t", f"{SECONDS + 1:g}s", "--only-summary"]
        command += ["--json-file", Path(folder) / "statistics"]
        used = Path(folder) / "used"
        environment = os.environ | {"PACING": str(PACING), "USERS": str(USERS), "USED": str(used)}
        subprocess.run([str(word) for word in command], env=environment, capture_output=True, check=True)
        counted = json.loads((Path(folder) / "statistics.json").read_text())
        return float(used.read_text()) / sum(one["num_requests"] for one in counted)


def main():
    """Measure, and print each figure and the ratios of the means."""
    with standing_in() as service:
        for model, load in OURS.items():
            taken = {"bare": [], "ours": []}
            for turn in ("bare", "ours", "ours", "bare") * ROUNDS:
                taken[turn].append(bare(service.host) if turn == "bare" else ours(service.host, load))
            for name, each in taken.items():
                print(model, name, *(f"{one * 1e6:.0f}" for one in each), "us of CPU a request")
            print(model, f"ratio {np.mean(taken['ours']) / np.mean(taken['bare']):.3f}")


if __name__ == "__main__":
    main()
