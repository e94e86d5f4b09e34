"""The command line as users meet it: real processes, exit codes, one line for an error, nothing left."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import psutil
import pytest

from bench import metrics, record, validity
from bench.cli import COMMANDS

ONLY_WHERE_ASKED_FOR = re.compile(r"disk|query\.(ablation|batching)")
LONG = "suite.query.requests=3000000"  # for minutes
SIFT = Path(os.environ.get("BREIN_DATASETS", Path(__file__).parents[3] / "shared" / "datasets")) / "siftsmall"


def bench(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def runs(folder):
    return sorted((folder / "reports" / "runs").glob("*")) if (folder / "reports" / "runs").exists() else []


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder where one smoke run has ended well."""
    folder = tmp_path_factory.mktemp("workplace")
    finished = bench(folder, "run", "+profile=smoke")
    assert finished.returncode == 0, finished.stderr
    return folder, finished


def test_alone_it_lists_the_commands(tmp_path):
    shown = bench(tmp_path)
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in COMMANDS)
    assert shown.stdout == bench(tmp_path, "--help").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(tmp_path, command):
    shown = bench(tmp_path, command, "--help")
    assert shown.returncode == 0
    assert f"python -m bench {command}" in shown.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_use_of_data_is_one_line(tmp_path):
    for arguments in ([], ["fetch"], ["fetch", "nothing-known"], ["list", "--nope"]):
        refused = bench(tmp_path, "data", *arguments)
        assert refused.returncode == 2
        assert refused.stderr.startswith("bench: ")
        assert refused.stderr.count("\n") == 1


def test_a_machine_too_small_for_a_tier_skips_the_run_and_leaves_nothing(tmp_path):
    skipped = bench(tmp_path, "run", "+profile=smoke", "tier.cores=4096", "trial.cores=1")
    assert skipped.returncode == 3
    assert "skipped: needs 4096 cores (tier.cores)" in skipped.stderr
    assert runs(tmp_path) == []


def test_an_unknown_command_lists_the_known(tmp_path):
    refused = bench(tmp_path, "rnu")
    assert refused.returncode == 2
    assert refused.stderr == f"bench: command 'rnu' is unknown; known commands: {', '.join(COMMANDS)}\n"


def test_the_parent_of_a_run_loads_neither_torch_nor_faiss():
    program = "import sys, bench.commands.run; print({'torch', 'faiss', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"


@pytest.mark.slow
def test_a_run_leaves_a_valid_record_and_its_reports(workplace):
    folder, finished = workplace
    (run,) = runs(folder)
    assert {path.name for path in run.iterdir()} == {
        ".hydra", "record.json", "samples.parquet", "report.html", "report.md"
    }  # fmt: skip
    made = json.loads((run / "record.json").read_text())
    jsonschema.validate(made, json.loads(record.SCHEMA_FILE.read_text()))
    assert made["validity"]["valid"]
    assert made["dataset"]["counts"] == {"documents": 300, "queries": 60, "judgements": 60}
    assert "cache.embedding.hit_rate_target" in made["not_used_yet"]
    assert {trial["status"] for trial in made["trials"]} == {"ok"}
    assert {trial["phase"] for trial in made["trials"]} == {
        "search", "ingest", "cache", "shards", "storage", "mixed", "streaming",
        "cold and popular and filtered",
    }  # fmt: skip
    assert {metric["name"] for metric in made["metrics"]} >= {
        name
        for name, metric in metrics.METRICS.items()
        if metric.suite in ("memory", "query") and not ONLY_WHERE_ASKED_FOR.search(name)
    }
    assert made["skipped"] == {
        f"query.{part}": f"suite.query.parts leaves {part} out" for part in ("ablation", "batching")
    }
    assert finished.stdout.rstrip().endswith(f"report: {run.relative_to(folder)}/report.html")
    assert (run / ".hydra" / "config.yaml").exists()


@pytest.mark.slow
def test_every_metric_can_be_derived_again_from_the_samples(workplace):
    (run,) = runs(workplace[0])
    made, samples = record.read(run)
    again = validity.assess(metrics.derive(samples), made.trials, made.machine, noise=None)
    assert again == made.metrics
    cold = samples[(samples["series"] == "query.search") & (samples["labels"] == '{"phase": "cold"}')]
    shown = next(m for m in made.metrics if m.name == "query.ndcg_at_10")
    assert shown.value == pytest.approx(cold["ndcg_at_10"].mean())
    zipf = samples[(samples["series"] == "query.search") & (samples["labels"] == '{"phase": "zipf"}')]
    shown = next(m for m in made.metrics if m.name == "query.latency.mean" and m.labels == {"phase": "zipf"})
    assert shown.value == pytest.approx(np.exp(np.log(zipf.groupby("repeat")["value"].mean()).mean()))
    assert pd.read_parquet(run / "samples.parquet").equals(samples)


@pytest.mark.slow
def test_a_second_run_builds_nothing_and_measures_the_same_quality(workplace):
    folder, first = workplace
    assert "build" in first.stderr
    second = bench(folder, "run", "+profile=smoke", "--json")
    assert second.returncode == 0
    assert "build" not in second.stderr
    answer = json.loads(second.stdout)
    before, _ = record.read(runs(folder)[0])
    after = record.RunRecord.model_validate(answer["record"])
    assert shares(before) == shares(after)
    assert [t.seed for t in before.trials] == [t.seed for t in after.trials]


def shares(made):
    """Every quality and hit rate of a run, which no clock has a part in."""
    return {
        (m.name, *m.labels.values()): m.value
        for m in made.metrics
        if m.unit == "" and not metrics.METRICS[m.name].is_timing
    }


@pytest.mark.slow
def test_a_query_parameter_reuses_the_index_and_a_build_parameter_does_not(workplace):
    folder, _ = workplace
    wider = bench(folder, "run", "+profile=smoke", "index.nprobe=100")
    assert wider.returncode == 0
    assert "build" not in wider.stderr
    made, _ = record.read(runs(folder)[-1])
    recall = next(m.value for m in made.metrics if m.name == "memory.recall_at_10")
    assert recall == 1.0
    fewer = bench(folder, "run", "+profile=smoke", "index.nlist=50", "suites=[memory]")
    assert "build indexes" in fewer.stderr


@pytest.mark.slow
def test_what_is_not_measured_says_why(workplace):
    folder, _ = workplace
    finished = bench(
        folder, "run", "+profile=smoke", "suites=[memory]", "suite.memory.parts=[ingest,cache,shards,coding]",
        "cache=off", "suite.memory.shard_vectors=99", "dataset=synthetic", "dataset.vectors=1000", "--json",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    made = json.loads(finished.stdout)["record"]
    assert made["trials"] == []
    assert {metric["name"] for metric in made["metrics"]} == {
        "memory.coding.recall_at_10", "memory.coding.bytes_per_vector"
    }  # fmt: skip
    skipped = made["skipped"]
    assert skipped["memory.ingest"] == "needs a data set of texts"
    assert skipped["memory.cache"] == "every level is switched off"
    assert "nlist = 100 vectors to train, 99 were taken" in skipped["memory.shards"]
    assert skipped["memory.storage"] == "suite.memory.parts leaves storage out"
    size = next(v for v in made["verdicts"] if v["title"] == "Index size")
    assert (size["verdict"], size["reason"]) == ("missing", "suite.memory.parts leaves search out")


@pytest.mark.slow
@pytest.mark.skipif(not SIFT.is_dir(), reason=f"needs {SIFT}")
def test_exact_search_finds_every_published_neighbour_of_sift(tmp_path):
    finished = bench(
        tmp_path, "run", "+profile=smoke", "suites=[memory]", "index=flat", "index.metric=l2",
        "dataset=fvecs", f"dataset.path={SIFT}", "--json",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    made = json.loads(finished.stdout)["record"]
    recall = next(m for m in made["metrics"] if m["name"] == "memory.recall_at_10")
    assert recall["value"] == recall["ci_low"] == 1.0
    assert made["dataset"]["counts"] == {"vectors": 10_000, "queries": 100, "dimension": 128}
    ingestion = next(v for v in made["verdicts"] if v["title"] == "Ingestion rate")
    assert (ingestion["verdict"], ingestion["reason"]) == ("missing", "needs a data set of texts")


@pytest.mark.slow
def test_bad_input_ends_in_one_line_and_leaves_everything_as_it_was(workplace, tmp_path):
    folder, _ = workplace
    (tmp_path / "cut_base.fvecs").write_bytes(np.int32(4).tobytes() + b"\0" * 15)
    (tmp_path / "few_base.fvecs").write_bytes((np.int32(4).tobytes() + b"\0" * 16) * 5)
    before = {path: path.read_bytes() for run in runs(folder) for path in run.rglob("*") if path.is_file()}
    vectors = ["+profile=smoke", "suites=[memory]", "dataset=fvecs"]
    for arguments, named in (
        (["+profile=nope"], "known: high_performance"),
        (["index.nprobe=-1"], "index.nprobe = -1"),
        (["index.kind=IndexHNSV"], "known kinds"),
        ([*vectors, "dataset.path=/no/such"], "/no/such"),
        ([*vectors, f"dataset.path={tmp_path / 'cut_base.fvecs'}", "dataset.queries=1"], "cut_base.fvecs"),
        ([*vectors, f"dataset.path={tmp_path / 'few_base.fvecs'}", "dataset.queries=1"], "nlist = 100"),
        (["+profile=smoke", "dataset.documents=99", "dataset.queries=9"], "nlist = 100"),
        (["+profile=smoke", "index=flat", "suite.query.k=301"], "k = 301"),
        (["profile=smoke"], "write +profile=NAME"),
        (["+profile=smoke", "embedding=minilm", "embedding.max_tokens=4096"], "max_tokens = 4096"),
        (["+profile=smoke", "index=pq", "suite.memory.ingest_documents=255"], r"2^nbits = 256"),
        (["+profile=smoke", "dataset=synthetic", "dataset.vectors=1000"], "needs a data set of texts"),
        (["+profile=smoke", "dataset.documents=10000000"], "dataset.documents = 10000000"),
        (["+profile=smoke", "embedding=minilm", "embedding.model=no-such-model"], "no-such-model"),
        (["+profile=smoke", "index=pq", "index.M=7"], "index.M = 7 does not divide the dimension 384"),
        (["+profile=smoke", "paths.runs=/dev/null/runs"], "/dev/null"),
        (["+profile=smoke", "paths.artifacts=/dev/null/artifacts"], "/dev/null"),
        (["+profile=smoke", f"hydra.run.dir={runs(folder)[0]}"], "holds a run already"),
    ):
        refused = bench(folder, "run", *arguments)
        said = [line for line in refused.stderr.splitlines() if line.startswith("bench: ")]
        assert refused.returncode == 2, (arguments, refused.stderr)
        assert len(said) == 1, (arguments, refused.stderr)
        assert named in said[0]
        assert "Traceback" not in refused.stderr
    after = {path: path.read_bytes() for run in runs(folder) for path in run.rglob("*") if path.is_file()}
    assert after == before


@pytest.mark.slow
def test_ctrl_c_ends_everything_and_leaves_earlier_runs(workplace):
    folder, _ = workplace
    before = runs(folder)
    with subprocess.Popen(
        [sys.executable, "-m", "bench", "run", "+profile=smoke", "suites=[query]", LONG],
        cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # A shell starts background work, and so perhaps these tests, with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads here
    ) as started:  # fmt: skip
        while "plan: " not in (line := started.stderr.readline()):
            assert line
        children = []
        while not children:
            children = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(signal.SIGINT)
        _, errors = started.communicate(timeout=30)
    assert started.returncode == 130
    assert errors.splitlines()[-1] == "bench: interrupted; earlier runs are untouched"
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert runs(folder) == before


@pytest.mark.slow
def test_a_trial_over_its_time_makes_the_run_invalid(workplace):
    folder, _ = workplace
    late = bench(
        folder, "run", "+profile=smoke", "suite.memory.parts=[search]", "suite.query.requests=10000000",
        "trial.timeout=3", "trial.repeats=1",
    )  # fmt: skip
    assert late.returncode == 3
    made, _ = record.read(runs(folder)[-1])
    assert not made.validity.valid
    assert any("stopped after 3 s" in reason for reason in made.validity.reasons)
    assert any(m.name == "memory.search.latency.mean" for m in made.metrics)


@pytest.mark.slow
def test_a_sweep_runs_every_cell_and_one_bad_cell_does_not_end_it(workplace):
    folder, _ = workplace
    swept = bench(
        folder,
        "run",
        "-m",
        "+profile=smoke",
        "suites=[memory]",
        "index=flat,pq,hnsw",
        "suite.memory.parts=[search,ingest]",
        "suite.memory.ingest_documents=255",
    )
    assert swept.returncode == 2
    assert "2^nbits = 256" in swept.stderr
    cells = sorted(path for path in runs(folder)[-1].iterdir() if (path / "record.json").exists())
    made = [record.read(cell)[0] for cell in cells]
    assert [cell.experiment["index"]["kind"] for cell in made] == ["IndexFlat", "IndexHNSW"]
    assert "index=flat" in made[0].command
    assert made[0].run_id == f"{runs(folder)[-1].name}/0"
    table = swept.stdout[swept.stdout.index("Side by side") :].splitlines()
    shown = [line.removeprefix(" ●").split()[:2] for line in table if "index=" in line]
    assert sorted(shown[:2]) == [["index=flat", "100%"], ["index=hnsw", "100%"]]
