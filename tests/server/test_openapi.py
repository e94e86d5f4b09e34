"""The service does what its OpenAPI document says, tried with requests that keep to it and with others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_every_operation_says_all_it_may_answer(client):
    document = client.get("/openapi.json").json()
    operations = {
        (path, method): operation
        for path, each in document["paths"].items()
        for method, operation in each.items()
    }
    assert set(operations) == {
        ("/v1/search", "post"), ("/v1/ask", "post"), ("/v1/documents", "post"),
        ("/v1/documents/{id}", "get"), ("/v1/documents/{id}", "delete"),
        ("/health/live", "get"), ("/health/ready", "get"),
    }  # fmt: skip
    for operation in operations.values():
        problems = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
        assert {"400", "500", "503", "504"} <= set(problems)
        for each in problems.values():
            assert list(each["content"]) == ["application/problem+json"]
        assert {"Request-Timeout"} <= {each["name"] for each in operation["parameters"]}


def test_the_bounds_of_the_configuration_are_in_the_document(running):
    with running(max_k=7, max_batch=3, max_text=123) as server, server.client() as client:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert schemas["Question"]["properties"]["k"]["maximum"] == 7
        assert schemas["Question"]["properties"]["k"]["default"] == 7
        assert schemas["Documents"]["properties"]["documents"]["maxItems"] == 3
        assert schemas["Document"]["properties"]["text"]["maxLength"] == 123


@pytest.mark.slow
def test_schemathesis_finds_no_violation(server, tmp_path):
    tool = Path(sys.executable).with_name("schemathesis")
    options = ["--checks=all", "--max-examples=40", "--seed=1", "--generation-database=none"]
    ended = subprocess.run(
        [tool, "--no-color", "run", f"{server.url}/openapi.json", *options],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=tmp_path,  # it leaves files
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "SCHEMATHESIS_HOOKS": "deadline_hook"},
    )
    assert ended.returncode == 0, ended.stdout[-10_000:]
