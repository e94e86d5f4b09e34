"""`memory_limit`: caches shrink, then ingestion is refused, and the process lives, under real limits."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from brein import Document, Engine, EngineConfig
from brein.errors import MemoryLimitError
from brein.memory import give_back, held

MIB = 1024**2
HASHING = {"kind": "hashing", "dimension": 384}
CHILD = """
import json, resource, sys, threading
limit = json.loads(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit["system"], limit["system"]))
import numpy as np
from pathlib import Path
from brein import Document, Engine, EngineConfig
from brein.errors import MemoryLimitError
from brein.memory import held
config = EngineConfig.model_validate({"path": Path(sys.argv[1]), **limit["config"]})
random = np.random.default_rng(0)
peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, held())

threading.Thread(target=watch, daemon=True).start()
stored = refused = 0
with Engine.open(config) as engine:
    engine.warm_up()
    for start in range(0, limit["documents"], 1000):
        vectors = random.normal(size=(1000, 384)).astype(np.float32)
        batch = [Document(f"d{n}", f"note {n} " + "word " * 40) for n in range(start, start + 1000)]
        try:
            engine.ingest(batch, vectors)
            stored += 1000
        except MemoryLimitError as error:
            refused += 1
            reason = str(error)
            if refused == 3:
                break
    found = [engine.search(f"note {n}", 10) for n in range(300)]
    facts = {"stored": stored, "length": len(engine), "refused": refused, "found": min(map(len, found))}
    if refused:
        facts["reason"] = reason
        engine.delete([f"d{n}" for n in range(0, stored)])
        engine.ingest(batch, vectors)
        facts["after"] = len(engine)
status = Path("/proc/self/status").read_text()
facts["peak"] = 1024 * int(status.split("VmHWM:")[1].split()[0])
facts["anonymous_peak"] = peak
print(json.dumps(facts))
"""


def run(path, system, config, documents):
    argument = json.dumps({"system": system, "config": config, "documents": documents})
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), argument], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_caches_shrink_before_a_document_is_refused(tmp_path):
    config = EngineConfig.model_validate(
        {"path": tmp_path, "embedding": {**HASHING, "dimension": 4096}, "index": {"kind": "IndexFlat"}}
    )
    with Engine.open(config) as engine:
        engine.ingest([Document("a", "river stone")])
        for n in range(3000):  # 16 KiB of embedding each
            engine.search(f"query {n}", 1)
        cached = engine.cache_stats()["embedding"]["l1"].stored_bytes
        assert cached > 40 * MIB
        engine._budget.limit = held() + 3 * MIB
        wide = np.ones((100, 4096), dtype=np.float32)
        engine.ingest([Document(f"b{n}", "word") for n in range(100)], wide)
        assert engine.cache_stats()["embedding"]["l1"].stored_bytes < cached
        engine.clear_caches()
        give_back()
        engine._budget.limit = held() + MIB
        with pytest.raises(MemoryLimitError, match=r"memory_limit = .* delete documents"):
            engine.ingest([Document(f"c{n}", "word") for n in range(100)], wide)
        assert engine.get("c0") is None
        assert len(engine) == 101


def test_what_a_document_carries_counts(tmp_path):
    config = EngineConfig.model_validate({"path": tmp_path, "embedding": HASHING, "memory_limit": 4096 * MIB})
    with Engine.open(config) as engine:
        engine._budget.limit = held() + 20 * MIB
        for document in (Document("a", "word " * 2 * MIB), Document("a", "word", {"note": "x" * 9 * MIB})):
            with pytest.raises(MemoryLimitError, match="ingesting 1 documents"):
                engine.ingest([document])
        engine._budget.limit = held() + 20 * MIB
        engine.ingest([Document("a", "word", {"note": "x" * MIB})])


@pytest.mark.slow
def test_an_index_that_does_not_fit_is_neither_loaded_nor_built(tmp_path):
    config = EngineConfig.model_validate(
        {"path": tmp_path, "embedding": HASHING, "index": {"kind": "IndexFlat"}}
    )
    vectors = np.random.default_rng(0).normal(size=(10_000, 384)).astype(np.float32)
    with Engine.open(config) as engine:
        engine.ingest([Document(f"d{n}", "word") for n in range(10_000)], vectors)
    del vectors
    give_back()
    small = config.model_copy(update={"memory_limit": held() + 5 * MIB})
    with pytest.raises(MemoryLimitError, match="loading the index"):
        Engine.open(small)
    shutil.rmtree(tmp_path / "index")
    with pytest.raises(MemoryLimitError, match="building the index of 10,000 documents"):
        Engine.open(small)
    with Engine.open(config) as engine:
        assert len(engine) == 10_000


def test_a_mesh_that_does_not_fit_is_not_made(tmp_path):
    config = EngineConfig.model_validate(
        {"path": tmp_path, "embedding": {**HASHING, "dimension": 8}, "index": {"kind": "IndexFlat"}}
    )
    with Engine.open(config) as engine:
        engine.ingest([Document(f"d{n}", "word") for n in range(2000)])
    meshed = config.model_dump() | {"retrieval": {"mesh": {"enabled": True, "max_degree": 256}}}
    give_back()
    with pytest.raises(MemoryLimitError, match="the mesh of 2,000 documents takes up to 1"):
        Engine.open(EngineConfig.model_validate(meshed | {"memory_limit": held() + 8 * MIB}))
    assert not (tmp_path / "mesh.sqlite").exists()
    with Engine.open(EngineConfig.model_validate(meshed)) as engine:
        assert engine.search("word")


@pytest.mark.slow
@pytest.mark.parametrize(
    "index",
    [
        {"kind": "IndexPQ", "M": 48},
        {"kind": "IndexIVFFlat", "nlist": 64, "nprobe": 8},
        {"kind": "IndexHNSWSQ", "M": 8, "efConstruction": 20},
    ],
    ids=lambda index: index["kind"],
)
def test_training_and_growing_stay_under_the_limit(tmp_path, index):
    limit = 230 * MIB
    config = {"embedding": HASHING, "index": index, "memory_limit": limit}
    facts = run(tmp_path, 2048 * MIB, config, 40_000)
    assert facts["anonymous_peak"] <= limit
    assert facts["stored"] > 5000
    assert facts["length"] == facts["stored"]


@pytest.mark.slow
def test_a_small_limit_refuses_and_frees_and_the_system_never_kills(tmp_path):
    config = {"embedding": HASHING, "index": {"kind": "IndexFlat"}, "memory_limit": 300 * MIB}
    facts = run(tmp_path, 800 * MIB, config, 1_000_000)  # of which libraries reserve 470 and use 60
    assert facts["refused"] == 3
    assert facts["stored"] == facts["length"] > 20_000
    assert facts["found"] == 10
    assert facts["peak"] < 420 * MIB  # mapped libraries included
    assert facts["after"] == 1000, "what was deleted made room"
    assert "ingesting 1,000 documents" in facts["reason"]


@pytest.mark.slow
def test_the_smallest_machine_of_the_guide_runs_a_hundred_thousand_documents(tmp_path):
    # The real model is loaded too. The system's limit is that machine's whole memory.
    config = {"index": {"kind": "IndexPQ"}, "memory_limit": 4 * 1024 * MIB}
    facts = run(tmp_path, 4 * 1024 * MIB, config, 100_000)
    assert (facts["stored"], facts["refused"], facts["found"]) == (100_000, 0, 10)
    assert facts["peak"] < 4 * 1024 * MIB
