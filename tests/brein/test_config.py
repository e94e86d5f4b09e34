import json
import subprocess
import sys
from pathlib import Path

import pytest

from brein.agents import AgentsConfig
from brein.config import EngineConfig, read_guide_profile
from brein.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"
HIGH_PERFORMANCE, MEMORY_CONSTRAINED = (
    json.loads((DATA / f"{name}.json").read_text()) for name in ("high_performance", "memory_constrained")
)


def of_each_agent(limits):
    agents = ("hippocampus", "prefrontal_cortex", "amygdala")
    return AgentsConfig.model_validate(dict.fromkeys(agents, limits))


def test_the_high_performance_profile_is_read_whole():
    profile = read_guide_profile(HIGH_PERFORMANCE)
    engine = profile.engine
    assert (engine.index.kind, engine.index.M, engine.index.efSearch) == ("IndexHNSW", 32, 128)
    assert engine.cache.max_bytes == 100_000_000
    assert engine.cache.embedding.maxsize == engine.cache.search.maxsize == 100_000
    assert engine.cache.search.compression
    limits = {"max_concurrent": 8, "queue_size": 1000, "timeout": 120}
    assert engine.agents == of_each_agent(limits)
    assert profile.inert == {"performance.memory.nprobe": 32}
    assert engine.cache.l2.enabled


def test_the_memory_constrained_profile_is_read_whole():
    profile = read_guide_profile(MEMORY_CONSTRAINED)
    engine = profile.engine
    assert (engine.index.kind, engine.index.M, engine.index.nbits) == ("IndexPQ", 16, 8)
    assert engine.cache.embedding.ttl == engine.cache.search.ttl == 1800
    assert engine.agents == of_each_agent({"max_concurrent": 2, "queue_size": 100, "batch_size": 5})
    assert engine.agents.amygdala.timeout == AgentsConfig().amygdala.timeout
    assert not engine.cache.l2.enabled
    assert profile.inert == {"performance.memory.nprobe": 8, "performance.memory.compression": True}


def test_without_a_file_the_agents_have_the_guides_limits():
    limits = {
        name: (made["max_concurrent"], made["queue_size"], made["timeout"], made["batch_size"])
        for name, made in EngineConfig().agents.model_dump().items()
    }
    assert limits == {
        "hippocampus": (3, 100, 30, 1), "prefrontal_cortex": (2, 50, 60, 1), "amygdala": (4, 200, 15, 1)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "named"),
    [
        ({}, "performance"),
        ({"performance": {"memory": {"index_type": "IndexHNSV"}}}, "IndexHNSV.*IndexHNSW"),
        ({"performance": {"memory": {"efSerch": 3}}}, "memory.efSerch = 3"),
        ({"performance": {"memory": {"index_type": "IndexHNSW", "efSearch": 0}}}, "index.efSearch = 0"),
        ({"performance": {"agents": {"speed": 3}}}, "agents.speed = 3"),
        ({"performance": {"agents": {"concurrency": "8"}}}, "agents.amygdala.max_concurrent = '8'"),
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
        ('{"agents": {"amygdala": {"timeout": 0}}}', "agents.amygdala.timeout = 0: .*greater than 0"),
        ('{"agents": {"amygdala": {"queue_size": 0}}}', "agents.amygdala.queue_size = 0: .*equal to 1"),
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
