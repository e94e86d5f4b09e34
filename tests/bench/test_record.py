import json

import jsonschema
import pandas as pd
import pytest

from bench import record
from bench.errors import MeasurementError, UsageError
from bench.machine import commit, describe, faiss, versions
from bench.metrics import derive
from bench.record import DatasetFacts, RunRecord, Validity
from bench.trial import frame


@pytest.fixture
def made():
    return RunRecord(
        run_id="r", started_at="2026-01-01T00:00:00+00:00", wall=1.0, command=["+profile=smoke"],
        experiment={}, not_used_yet=[], machine=describe(), versions=versions(), git=commit(),
        dataset=DatasetFacts(name="d", sha256="0" * 64, counts={"documents": 3}, facts={}),
        memory_vectors=None, trials=[], metrics=[], conditions={}, skipped={}, verdicts=[],
        baseline="documented",
        validity=Validity(valid=True, reasons=[], notes=[]),
    )  # fmt: skip


def test_the_published_schema_is_the_models(made):
    assert record.SCHEMA_FILE.read_text() == record.schema(), "run `python -m bench.record`"
    schema = json.loads(record.schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(made.model_dump_json()), schema)


def test_what_is_written_can_be_read(made, tmp_path):
    row = {"suite": "memory", "series": "memory.peak", "labels": "{}", "repeat": 0, "seq": 0, "start": 0.0}
    samples = frame([{**row, "value": 7.0, "items": 1}])
    record.write(made, samples, tmp_path)
    again, rows = record.read(tmp_path)
    assert again == made
    pd.testing.assert_frame_equal(rows, samples)
    assert {path.name for path in tmp_path.iterdir()} == {"record.json", "samples.parquet"}


def test_samples_written_before_a_column_existed_can_be_derived_from_and_written_again(made, tmp_path):
    row = {"suite": "query", "series": "query.search", "labels": "{}", "repeat": 0, "seq": 0, "start": 0.0}
    samples = frame([{**row, "value": 0.5, "items": 1, "query": "q", "ndcg_at_10": 0.7}])
    record.write(made, samples, tmp_path)
    newer = ["outcome", "reference", "mrr_at_10", "ndcg_difference"]
    samples.drop(columns=newer).to_parquet(tmp_path / "samples.parquet", index=False)
    _, rows = record.read(tmp_path)
    pd.testing.assert_frame_equal(rows, samples)
    assert {m.name: m.value for m in derive(rows)}["query.ndcg_at_10"] == 0.7
    record.write(made, rows, tmp_path)
    pd.testing.assert_frame_equal(record.read(tmp_path)[1], samples)


def test_a_number_that_is_none_is_refused(made):
    with pytest.raises(ValueError, match="finite"):
        RunRecord.model_validate({**made.model_dump(), "wall": float("nan")})


def test_reading_what_is_no_run_says_so(made, tmp_path):
    with pytest.raises(UsageError, match="holds no readable run"):
        record.read(tmp_path)
    record.write(made, frame([]), tmp_path)
    whole = json.loads((tmp_path / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps({**whole, "schema_version": 99}))
    with pytest.raises(UsageError, match=r"schema_version = 99.*expected schema 1"):
        record.read(tmp_path)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    record.write_atomically(tmp_path / "a", b"old")
    (tmp_path / ".a.tmp").mkdir()  # in the way of the draft
    with pytest.raises(MeasurementError, match="cannot be written"):
        record.write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_faiss_for_gpus_is_found_under_its_own_name(tmp_path, monkeypatch):
    made = tmp_path / "faiss_gpu_cu12-1.14.1.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: faiss-gpu-cu12\nVersion: 1.14.1\n")
    (made / "top_level.txt").write_text("faiss\n")
    assert faiss().items() <= versions().items()
    monkeypatch.syspath_prepend(tmp_path)
    assert faiss.__wrapped__() == {**faiss(), "faiss-gpu-cu12": "1.14.1"}
