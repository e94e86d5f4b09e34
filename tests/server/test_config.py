"""What a service is configured with: files, profiles, overrides, and the key."""

import json
from pathlib import Path

import pytest

from brein.errors import ConfigError
from brein.scaling import ScalingConfig
from brein.server.config import ServerConfig, read


def test_without_a_file_it_serves_this_machine_with_the_engines_defaults():
    config = read(None).config
    assert (config.server.host, config.server.key({})) == ("127.0.0.1", None)
    assert config.engine.index.kind == "IndexHNSW"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"engine": {"index": {"kind": "IndexFlat"}}, "server": {"port": 9}}'),
        ("tabs.json", '\ufeff{\n\t"engine": {"index": {"kind": "IndexFlat"}},\n\t"server": {"port": 9}}'),
        ("c.yaml", "engine:\n  index: {kind: IndexFlat}\nserver:\n  port: 9\n"),
    ],
)
def test_files_are_json_or_yaml_and_overrides_come_after(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    config = read(file, ["server.max_k=7", "engine.embedding.kind=hashing", "server.port=10"]).config
    assert (config.engine.index.kind, config.engine.embedding.kind) == ("IndexFlat", "hashing")
    assert (config.server.port, config.server.max_k) == (10, 7)


def test_numbers_and_texts_of_json_are_those_of_json(tmp_path):
    (tmp_path / "c.json").write_text(r'{"server": {"drain": 1e3}, "engine": {"path": "\ud83c\udfbb"}}')
    config = read(tmp_path / "c.json").config
    assert (config.server.drain, config.engine.path) == (1000.0, Path("🎻"))


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read(tmp_path / "empty.yaml").config == read(None).config


def test_a_way_to_scale_may_be_its_name_alone(tmp_path):
    (tmp_path / "c.yaml").write_text("scaling: ray\n")
    assert read(tmp_path / "c.yaml").config.scaling == ScalingConfig(kind="ray")
    assert read(None, ["scaling=none"]).config.scaling == ScalingConfig()
    with pytest.raises(ConfigError, match="kind = 'spark'"):
        read(None, ["scaling=spark"])


@pytest.mark.parametrize("profile", ["high_performance", "memory_constrained"])
def test_the_guides_profiles_are_read_and_their_inert_keys_named(profile):
    with open(f"tests/data/{profile}.json") as file:
        given = json.load(file)["performance"]
    reading = read(Path(f"tests/data/{profile}.json"))
    assert reading.config.engine.index.kind == given["memory"]["index_type"]
    assert reading.config.engine.agents.hippocampus.max_concurrent == given["agents"]["concurrency"]
    assert "performance.memory.nprobe" in reading.inert


def test_a_profile_takes_overrides_too():
    reading = read(Path("tests/data/high_performance.json"), ["engine.index.efSearch=99", "server.port=9"])
    assert (reading.config.engine.index.efSearch, reading.config.server.port) == (99, 9)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.yaml", "[1]", "engine and server"),
        ("c.json", "[1]", "engine and server"),
        ("c.json", "{'server': {}}", "column 2"),
        ("c.json", "", "column 1"),
        ("c.yaml", "a: [", "expected"),
        ("c.yaml", "a: 2024-13-45", "month"),
        ("c.yaml", "server: {port: 2024-01-01}", "JSON"),
        ("c.yaml", "server: {port: '1'}", "server.port"),
        ("c.yaml", "servers: {}", "servers"),
        ("c.yaml", "performance: {}\nserver: {}", "performance"),
        ("c.yaml", "server: {read_timeout: .nan}", "read_timeout"),
        ("c.yaml", "\x00", "special characters"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_one_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        read(tmp_path / name)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "override",
    ["", "port", "=1", ".port=1", "server..port=1", "server.port=[", "server.port=2024-13-45", "a.b.=1"],
)
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(ConfigError, match="override"):
        read(None, [override])


def test_an_override_of_a_part_of_what_has_none_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("server: 1")
    with pytest.raises(ConfigError, match="has no parts"):
        read(tmp_path / "c.yaml", ["server.port=1"])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("192.168.0.1", False),
        ("example.com", False),
        ("localhost.example.com", False),
    ],
)
def test_only_loopback_goes_without_a_key(host, loopback):
    server = ServerConfig(host=host)
    assert server.is_loopback is loopback
    if loopback:
        assert server.key({}) is None
    else:
        with pytest.raises(ConfigError, match="key_variable"):
            server.key({})
    assert ServerConfig(host=host, key_variable="KEY").key({"KEY": " abc\n"}) == b"abc"


@pytest.mark.parametrize("environment", [{}, {"KEY": ""}, {"KEY": "  "}])
def test_a_key_that_is_not_there_is_refused_even_on_loopback(environment):
    with pytest.raises(ConfigError, match="'KEY'"):
        ServerConfig(key_variable="KEY").key(environment)
