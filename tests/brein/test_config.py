import json
import subprocess
import sys
from pathlib import Path

import pytest

from brein.config import EngineConfig, read_guide_profile
from brein.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
HIGH_PERFORMANCE, MEMORY_CONSTRAINED = (
    json.loads((DATA / f"{name}.json").read_text()) for name in ("high_performance", "memory_constrained")
)


def test_the_high_performance_profile_is_read_whole():
    profile = read_guide_profile(HIGH_PERFORMANCE)
    engine = profile.engine
    assert (engine.index.kind, engine.index.M, engine.index.efSearch) == ("IndexHNSW", 32, 128)
    assert engine.cache.max_bytes == 100_000_000
    assert engine.cache.embedding.maxsize == engine.cache.search.maxsize == 100_000
    assert engine.cache.search.compression
    assert (engine.agents.concurrency, engine.agents.queue_size, engine.agents.timeout) == (8, 1000, 120)
    assert profile.inert == {"performance.memory.nprobe": 32}
    assert engine.cache.l2.enabled
    assert "agents.concurrency" in engine.unused()


def test_the_memory_constrained_profile_is_read_whole():
    profile = read_guide_profile(MEMORY_CONSTRAINED)
    engine = profile.engine
    assert (engine.index.kind, engine.index.M, engine.index.nbits) == ("IndexPQ", 16, 8)
    assert engine.cache.embedding.ttl == engine.cache.search.ttl == 1800
    assert engine.agents.batch_size == 5
    assert not engine.cache.l2.enabled
    assert profile.inert == {"performance.memory.nprobe": 8, "performance.memory.compression": True}


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ({}, "performance"),
        ({"performance": {"memory": {"index_type": "IndexHNSV"}}}, "IndexHNSV.*IndexHNSW"),
        ({"performance": {"memory": {"efSerch": 3}}}, "memory.efSerch = 3"),
        ({"performance": {"memory": {"index_type": "IndexHNSW", "efSearch": 0}}}, "index.efSearch = 0"),
        ({"performance": {"agents": {"speed": 3}}}, "agents.speed = 3"),
        ({"performance": {"agents": {"concurrency": "8"}}}, "agents.concurrency = '8'"),
        ({"performance": {"network": {}}}, "performance.network"),
    ],
)
def test_what_a_profile_cannot_say_is_named(profile, named):
    with pytest.raises(ConfigError, match=named):
        read_guide_profile(profile)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"index": {"kind": "IndexHNSV"}}', "index.kind = 'IndexHNSV' is unknown; known kinds: .*IndexPQ"),
        ('{"index": {"kind": "IndexHNSW", "nprobe": 3}}', "index.nprobe = 3 is not a setting"),
        (
            '{"index": {"kind": "IndexIVFFlat", "nprobe": -1}}',
            "index.nprobe = -1: .*greater than or equal to 1",
        ),
        ('{"index": {"kind": "IndexIVFFlat", "nlist": 16.7}}', "index.nlist = 16.7: .*integer"),
        ('{"index": {"kind": "IndexIVFFlat", "nlist": "16"}}', "index.nlist = '16': .*integer"),
        ('{"index": {"kind": "IndexIVFFlat", "nlist": 4}}', "nprobe = 5: must be at most nlist = 4"),
        ('{"cache": {"search": {"ttl": 0}}}', "cache.search.ttl = 0: .*greater than 0"),
        ('{"cahce": {}}', "cahce = .* not a setting"),
    ],
)
def test_a_bad_setting_is_one_line_with_field_value_and_bound(text, named):
    with pytest.raises(ConfigError, match=named) as caught:
        EngineConfig.read(text)
    assert "\n" not in str(caught.value)


def test_reading_a_configuration_loads_neither_torch_nor_faiss():
    program = "import sys, brein; brein.EngineConfig(); print({'torch', 'faiss'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "set()"
