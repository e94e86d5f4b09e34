"""Sweeps as users run them: real processes, killed and gone on with."""

import gzip
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench import artifacts, record
from bench.config import CONF

SWEEP = [
    "run", "-m", "+profile=smoke", "suites=[memory]", "suite.memory.parts=[search]", "dataset=synthetic",
    "dataset.vectors=1000", "dataset.clusters=50", "dataset.queries=100", "trial.repeats=2",
    "index=flat,hnsw", "index.shards=1,2",
]  # fmt: skip


def bench(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def on_disk(sweep):
    """The trials of a sweep that have ended, kept one by one or in their cell's record."""
    found = {path: set(names) for path, _, names in os.walk(sweep)}  # which folders that go do not disturb
    records = [Path(path, "record.json") for path, names in found.items() if "record.json" in names]
    loose = [Path(path, name) for path, names in found.items() for name in names if name.endswith(".gz")]
    trials = [trial for made in records for trial in json.loads(made.read_bytes())["trials"]]
    for path in loose:
        with suppress(FileNotFoundError):  # its cell has got its record
            trials += [json.loads(gzip.decompress(path.read_bytes()))["trial"]]
    return list({json.dumps(trial): trial for trial in trials}.values())


def killed_after(folder, trials, *arguments):
    """Run until so many trials have ended, and kill it; give each trial on disk by then."""
    sweep = folder / "killed"
    command = [sys.executable, "-m", "bench", *arguments, "hydra.sweep.dir=killed"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as started:
        while len(on_disk(sweep)) < trials:
            assert started.poll() is None
        started.send_signal(signal.SIGKILL)
    return on_disk(sweep)


def untimed(made):
    """What of a record no clock has a part in."""
    exact = [m for m in made.metrics if m.unit in ("", "B") and m.name != "memory.peak"]
    trials = [(t.suite, t.phase, t.repeat, t.seed, t.status) for t in made.trials]
    return made.command, made.experiment, made.dataset, made.skipped, exact, trials


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("sweeps")
    finished = bench(folder, *SWEEP, "hydra.sweep.dir=whole")
    assert finished.returncode == 0, finished.stderr
    return folder, finished


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was_and_its_records_are_as_if_undisturbed(workplace):
    folder, _ = workplace
    kept = killed_after(folder, 1 + secrets.randbelow(6), *SWEEP)
    resumed = bench(folder, "run", "--resume", "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert f"of {8 - len(kept)}, " in resumed.stderr or len(kept) == 8
    made = [record.read(folder / "killed" / str(cell))[0] for cell in range(4)]
    whole = [record.read(folder / "whole" / str(cell))[0] for cell in range(4)]
    assert list(map(untimed, made)) == list(map(untimed, whole))
    ended = [trial.model_dump(mode="json") for one in made for trial in one.trials]
    assert all(trial in ended for trial in kept)
    assert not list((folder / "killed").rglob("trials"))


@pytest.mark.slow
def test_a_finished_sweep_runs_nothing_again(workplace):
    folder, first = workplace
    before = {path: path.read_bytes() for path in (folder / "whole").glob("*/record.json")}
    again = bench(folder, "run", "--resume", "whole")
    assert again.returncode == 0
    assert "trial" not in again.stderr
    assert again.stdout == first.stdout
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_a_single_run_is_gone_on_with_too(workplace):
    folder, _ = workplace
    alone = [argument for argument in SWEEP if argument not in ("-m", "index=flat,hnsw", "index.shards=1,2")]
    command = [sys.executable, "-m", "bench", *alone, "trial.repeats=3", "hydra.run.dir=alone"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as started:
        while not list((folder / "alone").rglob("*.json.gz")):
            assert started.poll() is None
        started.send_signal(signal.SIGKILL)
    resumed = bench(folder, "run", "--resume", "alone", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert len(json.loads(resumed.stdout)["record"]["trials"]) == 3


@pytest.mark.slow
def test_what_cannot_be_resumed_is_refused_in_a_line(workplace):
    folder, _ = workplace
    shutil.copytree(folder / "whole" / "0" / ".hydra", folder / "taken" / ".hydra")
    for arguments, named in (
        (["--resume"], "needs the folder"),
        (["--resume", "nowhere"], "holds no run or sweep"),
        (["--resume", "whole/0"], "is one cell of a sweep; resume whole"),
        (["--resume", "taken"], "is one cell of a sweep, taken out of it"),
        (["--resume", "whole", "index=pq"], "index=pq would change what was begun"),
        ([*SWEEP[1:], "hydra.sweep.dir=whole"], "holds a sweep already"),
    ):
        refused = bench(folder, "run", *arguments)
        assert refused.returncode == 2
        assert named in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_sweep_killed_between_a_record_and_its_reports_gets_them(workplace):
    folder, _ = workplace
    killed = shutil.copytree(folder / "whole", folder / "late")
    (killed / "2" / "report.html").unlink()
    (killed / "2" / "trials").mkdir()
    before = (killed / "2" / "record.json").read_bytes()
    resumed = bench(folder, "run", "--resume", "late")
    assert resumed.returncode == 0, resumed.stderr
    assert (killed / "2" / "report.html").read_bytes() == (
        folder / "whole" / "2" / "report.html"
    ).read_bytes()
    assert (killed / "2" / "record.json").read_bytes() == before
    assert not list(killed.rglob("trials"))


@pytest.mark.slow
def test_a_defect_met_with_one_cell_is_said_and_the_others_go_on(workplace):
    folder, _ = workplace
    killed = shutil.copytree(folder / "whole", folder / "defect")
    for cell in "12":
        (killed / cell / "report.html").unlink()
    samples = killed / "1" / "samples.parquet"
    pd.read_parquet(samples).drop(columns="value").to_parquet(samples)
    resumed = bench(folder, "run", "--resume", "defect")
    assert resumed.returncode == 3
    assert "index.shards=2: KeyError" in resumed.stderr
    assert not (killed / "1" / "report.html").exists()
    assert (killed / "2" / "report.html").exists()
    assert "Side by side" in resumed.stdout


@pytest.mark.slow
def test_ctrl_c_says_how_a_sweep_goes_on_though_no_trial_is_kept_outside_a_record(tmp_path):
    once = [argument for argument in SWEEP if not argument.startswith("trial.")]
    command = [sys.executable, "-m", "bench", *once, "trial.repeats=1", "hydra.sweep.dir=stopped"]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        # A shell starts background work, and so perhaps these tests, with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
    ) as started:  # fmt: skip
        while not list((tmp_path / "stopped").glob("*/record.json")):
            assert started.poll() is None
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    last = errors.splitlines()[-1]
    assert last == "bench: interrupted; python -m bench run --resume stopped goes on"


@pytest.mark.slow
def test_a_folder_is_one_process_s_at_a_time(workplace):
    folder, _ = workplace
    with artifacts.alone(folder / "whole" / ".lock"):
        refused = bench(folder, "run", "--resume", "whole")
    assert refused.returncode == 2
    assert refused.stderr.endswith("is in the hands of another process; wait for its end, or end it\n")


@pytest.mark.slow
def test_cells_that_are_others_than_when_the_sweep_was_begun_are_refused(workplace):
    folder, _ = workplace
    begun = shutil.copytree(folder / "whole", folder / "changed") / "multirun.yaml"
    begun.write_text(begun.read_text().replace("index=flat,hnsw", "index=hnsw,flat"))
    refused = bench(folder, "run", "--resume", "changed")
    assert refused.returncode == 2
    assert "was measured with another index" in refused.stderr.replace("suite, ", "")
    assert "start a new sweep" in refused.stderr


@pytest.mark.slow
def test_a_run_into_a_used_folder_is_refused_however_it_is_written(workplace):
    folder, _ = workplace
    alone = [argument for argument in SWEEP if argument not in ("-m", "index=flat,hnsw", "index.shards=1,2")]
    refused = bench(folder, *alone, "hydra.run.dir='whole/0'")
    assert refused.returncode == 2
    assert "holds a run already" in refused.stderr


@pytest.mark.slow
def test_two_presets_at_once_are_refused(tmp_path):
    refused = bench(tmp_path, "run", "-m", "+sweep=index,nprobe", "+profile=smoke")
    assert refused.returncode == 2
    assert "+sweep=index,nprobe: give one preset" in refused.stderr


@pytest.mark.slow
def test_a_sweep_is_not_gone_on_with_under_other_versions(workplace):
    folder, _ = workplace
    path = folder / "whole" / "3" / "record.json"
    content = path.read_text()
    path.write_text(content.replace('"numpy": "', '"numpy": "0.'))
    refused = bench(folder, "run", "--resume", "whole")
    path.write_text(content)
    assert refused.returncode == 2
    assert "another version of numpy" in refused.stderr


@pytest.mark.slow
def test_a_cell_can_be_run_again_alone_from_its_own_command(workplace):
    folder, _ = workplace
    made, _ = record.read(folder / "whole" / "3")
    alone = bench(folder, "run", *made.command, "--json")
    assert alone.returncode == 0, alone.stderr
    again = record.RunRecord.model_validate(json.loads(alone.stdout)["record"])
    assert untimed(again) == untimed(made)
    assert Path(json.loads(alone.stdout)["folder"]).parent.name == "runs"


CELLS = {
    "cache": 27,
    "concurrency": 13,
    "ef_search": 20,
    "index": 35,
    "load": 9,  # of 27: the small profile takes the place of three
    "nprobe": 24,
    "shards": 12,
    "strategy": 5,
}
VECTORS = ["dataset=synthetic", "dataset.vectors=3000", "dataset.clusters=50"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A data set of as many texts as the index needs."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "qrels").mkdir()
    documents = [{"_id": f"d{n}", "text": f"document {n}"} for n in range(100)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "which document?"}')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    return ["dataset=beir", f"dataset.path={folder}"]


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(path.stem for path in (CONF / "sweep").glob("*.yaml")))
def test_every_preset_plans_cells_that_can_be_measured_and_makes_nothing(tmp_path, texts, preset):
    suites = yaml.safe_load((CONF / "sweep" / f"{preset}.yaml").read_text())["sweeper"]["each"]["suites"]
    data = VECTORS if suites == "[memory]" else texts
    planned = bench(tmp_path, "run", f"+sweep={preset}", "+profile=smoke", *data, "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    plan = json.loads(planned.stdout)
    assert len(plan["cells"]) == CELLS[preset]
    assert not any("+sweep" in override for cell in plan["cells"] for override in cell)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_plan_counts_what_cells_share_once_and_knows_what_is_there(workplace):
    folder, _ = workplace
    values = ",".join(str(4 * n) for n in range(3, 23))
    again = [argument for argument in SWEEP if argument not in ("index=flat,hnsw", "index.shards=1,2")]
    arguments = [*again, "index=hnsw", f"index.efSearch={values}", "--dry-run", "--json"]
    planned = [json.loads(bench(folder, *arguments, more).stdout) for more in ("index.M=32", "index.M=8")]
    assert [len(plan["cells"]) for plan in planned] == [20, 20]
    assert planned[0]["artifacts"] == {"there": {"vectors": 1, "indexes": 1, "truth": 1}, "missing": {}}
    assert planned[1]["artifacts"] == {"there": {"vectors": 1, "truth": 1}, "missing": {"indexes": 1}}
    assert planned[0]["seconds"] > 0
    shown = bench(folder, *arguments[:-1])
    assert "to make    nothing" in shown.stdout
