"""The service does what its OpenAPI document says, tried with requests that keep to it and with others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = int(os.environ.get("BREIN_CASES", "280"))  # that schemathesis tries, at least
OPERATIONS = {
    ("/v1/search", "post"), ("/v1/ask", "post"), ("/v1/documents", "post"),
    ("/v1/documents/{id}", "get"), ("/v1/documents/{id}", "delete"),
    ("/health/live", "get"), ("/health/ready", "get"),
}  # fmt: skip


def test_every_operation_says_all_it_may_answer(client):
    document = client.get("/openapi.json").json()
    operations = {
        (path, method): operation
        for path, each in document["paths"].items()
        for method, operation in each.items()
    }
    assert set(operations) == OPERATIONS
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
    report = tmp_path / "report.json"
    options = [
        "--checks=all",
        f"--max-examples={-(-CASES // len(OPERATIONS))}",
        "--seed=1",
        "--generation-database=none",
        f"--report-json-path={report}",
    ]
    ended = subprocess.run(
        [tool, "--no-color", "run", f"{server.url}/openapi.json", *options],
        capture_output=True,
        text=True,
        timeout=600 + CASES,
        check=False,
        cwd=tmp_path,  # it leaves files
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "SCHEMATHESIS_HOOKS": "deadline_hook"},
    )
    assert ended.returncode == 0, ended.stdout[-10_000:]
    found = json.loads(report.read_text())
    assert found["complete"]
    assert found["operations"]["tested"] == len(OPERATIONS)
    assert found["test_cases"]["generated"] >= CASES
    print(found["test_cases"])
