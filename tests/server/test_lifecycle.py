"""A process from its start to its end: readiness, draining, signals, the log."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import httpx2
import pytest

from brein import EngineConfig
from brein.server.problems import RefusedError
from brein.server.service import Service

pytestmark = pytest.mark.slow
LIMIT = 20  # seconds


@pytest.fixture
def client():
    with httpx2.Client(trust_env=False, timeout=LIMIT) as client:
        yield client


def test_a_process_serves_and_ends_with_0_when_it_is_told_to(start, client):
    process = start()
    url = process.start()
    assert client.get(f"{url}/health/ready").status_code == 200
    assert client.post(f"{url}/v1/documents", json={"documents": [{"id": "a", "text": "Rain."}]}).is_success
    assert client.post(f"{url}/v1/search", json={"query": "rain"}).json()["hits"][0]["id"] == "a"
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == 0
    assert [line["event"] for line in process.lines[-2:]] == ["draining", "closed"]


def test_what_was_acknowledged_is_there_again(start, client, tmp_path):
    for _ in range(2):
        process = start(f"engine.path={tmp_path / 'memory'}")
        url = process.start()
        if client.get(f"{url}/v1/documents/a").status_code == 404:
            client.post(f"{url}/v1/documents", json={"documents": [{"id": "a", "text": "Rain."}]})
            process.process.kill()
            process.process.wait(LIMIT)
    assert client.get(f"{url}/v1/documents/a").json()["text"] == "Rain."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_end_before_the_process_does(start, client, until, number):
    process = start("server.notice=0")
    url = process.start()
    port = int(url.rpartition(":")[2])
    body = json.dumps({"query": "rain"}).encode()
    head = b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

    def is_refused():
        try:
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT).close()
        except ConnectionRefusedError:
            return True
        return False

    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as raw:
        raw.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
        client.get(f"{url}/health/live")  # the bytes have been there before
        process.process.send_signal(number)
        process.until("draining")
        until(is_refused)
        raw.sendall(body[5:])
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")
    assert process.end() == 0


def test_while_it_gives_notice_it_serves_and_says_it_is_not_ready(start, client):
    process = start("server.notice=2")
    url = process.start()
    process.process.send_signal(signal.SIGTERM)
    process.until("draining")
    response = client.get(f"{url}/health/ready")
    assert response.status_code == 503
    assert "draining" in response.json()["detail"]
    assert client.get(f"{url}/health/live").status_code == 200
    assert client.post(f"{url}/v1/search", json={"query": "rain"}).status_code == 200
    client.close()
    assert process.end() == 0


def test_what_does_not_end_in_time_is_given_up(start):
    process = start("server.drain=0.3")
    url = process.start()
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=LIMIT) as raw:
        raw.sendall(b"POST /v1/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        raw.sendall(b"Content-Length: 100\r\n\r\n{")
        httpx2.get(f"{url}/health/live", trust_env=False)
        process.process.send_signal(signal.SIGTERM)
        assert raw.recv(65536).startswith(b"HTTP/1.1 503")
    assert process.end() == 0


def test_a_second_signal_ends_it_at_once(start):
    process = start("server.notice=600")
    process.start()
    process.process.send_signal(signal.SIGTERM)
    process.until("draining")
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == 128 + signal.SIGTERM


def test_one_told_to_stop_while_it_opens_ends_and_is_never_ready(start):
    process = start()
    process.until("listening")
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == 0
    events = [line["event"] for line in process.lines]
    assert events[-1] == "closed"
    assert "ready" not in events[events.index("draining") :]


def test_one_told_to_stop_while_it_opens_does_not_warm_up():
    async def scenario():
        service = Service(EngineConfig.model_validate({"embedding": {"kind": "hashing"}}))
        service.draining = True
        await service.open()
        assert service.engine is not None
        assert service.monitoring is None
        with pytest.raises(RefusedError, match="told to stop"):
            await service.get("a")
        await service.close()

    asyncio.run(scenario())


def test_every_line_of_the_log_is_json_and_a_request_has_its_own(start, client):
    process = start()
    url = process.start()
    assert client.get(f"{url}/health/live").status_code == 200  # of which the log is silent
    client.get(f"{url}/v1/documents/none", headers={"X-Request-ID": "mine"})
    line = process.until("request")
    told = {"request_id": "mine", "method": "GET", "route": "/v1/documents/{id}", "status": 404}
    assert {name: line[name] for name in told} == told
    assert 0 < line["seconds"] < LIMIT
    client.get(f"{url}/nowhere")
    assert process.until("request")["route"] is None
    assert [line["event"] for line in process.lines].count("request") == 2
    process.process.send_signal(signal.SIGTERM)
    assert process.end() == 0


def test_inert_keys_of_a_guides_profile_are_named(start, client):
    process = start("--config", "tests/data/high_performance.json", "engine.cache.l2.enabled=false")
    line = process.until("inert setting")
    assert line["setting"] == "performance.memory.nprobe"
    process.until("ready")


def brein(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "brein", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "known commands: serve"),
        (["fly"], "fly"),
        (["serve", "--fast"], "--fast"),
        (["serve", "--config", "/nowhere.json"], "/nowhere.json"),
        (["serve", "server.port"], "server.port=8081"),
        (["serve", "server.port=x"], "server.port"),
        (["serve", "server.port=70000"], "65535"),
        (["serve", "server.speed=1"], "server.speed"),
        (["serve", "engine.index.kind=Best"], "IndexFlat"),
        (["serve", "server.host=0.0.0.0"], "server.key_variable"),
        (["serve", "server.host=0.0.0.0", "server.key_variable=BREIN_KEY_UNSET"], "BREIN_KEY_UNSET"),
        (["serve", "server.host=no.such.host.invalid", "server.key_variable=HOME"], "server.host"),
    ],
)
def test_what_cannot_be_meant_ends_with_2_and_one_line(arguments, said):
    ended = brein(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("brein: ")
    assert said in ended.stderr


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = brein("serve", f"server.port={port}")
    assert ended.returncode == 2
    assert f"server.port = {port}" in ended.stderr


def test_an_engine_that_cannot_be_opened_ends_it(tmp_path):
    (tmp_path / "file").write_text("no engine")
    ended = brein("serve", "server.port=0", f"engine.path={tmp_path / 'file'}")
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1].startswith("brein: ")
    assert "Traceback" not in ended.stderr


def test_another_address_is_served_with_a_key(start, client):
    process = start("server.host=0.0.0.0", "server.key_variable=BREIN_KEY", BREIN_KEY="s3cret")
    url = process.start()
    assert client.post(f"{url}/v1/search", json={"query": "a"}).status_code == 401
    headers = {"Authorization": "Bearer s3cret"}
    assert client.post(f"{url}/v1/search", json={"query": "a"}, headers=headers).status_code == 200


def test_help_names_the_commands():
    ended = brein("--help")
    assert ended.returncode == 0
    assert "serve" in ended.stdout
