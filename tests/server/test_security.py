"""The key, names of other machines, and what errors do not tell."""

import pytest
from structlog.testing import capture_logs

from brein.errors import GenerationError, StorageError


@pytest.fixture
def secured(running):
    with running(key=b"s3cret") as server:
        yield server


@pytest.mark.parametrize(
    "path", ["/v1/documents/violin", "/docs/parts", "/nowhere", "/health", "/metrics", "/docs/"]
)
def test_all_else_needs_the_key(secured, path):
    with secured.client() as client:
        response = client.get(path)
        assert response.status_code == response.json()["status"] == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/parts/swagger-ui.css", "/openapi.json"])
def test_what_describes_the_service_can_be_read_without_the_key(secured, path):
    with secured.client() as client:
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("prefix", [b"/docs/parts", b"/docs/parts/%2e%2e", b"/health"])
def test_no_way_leads_from_what_needs_no_key_to_what_does(secured, prefix):
    sent = b"GET %s/../v1/documents/violin HTTP/1.1\r\nConnection: close\r\n\r\n" % prefix
    assert secured.exchange(sent).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "s3cret"])
def test_a_wrong_key_is_refused(secured, given):
    with secured.client(headers={"Authorization": given}) as client:
        assert client.post("/v1/search", json={"query": "violin"}).status_code == 401


def test_the_key_opens(secured):
    with secured.client(headers={"Authorization": "Bearer s3cret"}) as client:
        assert client.post("/v1/search", json={"query": "violin"}).status_code == 200
        document = client.get("/openapi.json").json()
        assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
        assert document["paths"]["/v1/search"]["post"]["security"] == [{"key": []}]
        assert "security" not in document["paths"]["/health/live"]["get"]


def test_a_body_is_not_read_for_one_who_may_not_ask(secured):
    with secured.client() as client:
        assert client.post("/v1/documents", content=b"x" * 20_000_000).status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ],
)
def test_without_a_key_a_page_under_another_name_gets_nothing(client, host, status):
    assert client.get("/health/live", headers={"Host": host}).status_code == status


def test_with_a_key_the_name_does_not_matter(secured):
    with secured.client(headers={"Authorization": "Bearer s3cret", "Host": "brein.example"}) as client:
        assert client.get("/v1/documents/violin").status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("the secret is /etc/secret"), 500),
        (StorageError("the secret is /etc/secret"), 500),
        (GenerationError("http://the.secret/v1 refuses"), 502),
    ],
)
def test_an_error_of_the_service_tells_only_its_request(running, monkeypatch, error, status):
    def fail(*arguments):
        raise error

    with running() as server, server.client() as client:
        monkeypatch.setattr(server.service.engine._pipeline, "retrieve", fail)
        with capture_logs() as lines:
            response = client.post("/v1/search", json={"query": "violin"}, headers={"X-Request-ID": "abc"})
            client.get("/health/live")  # so that the line of the request before is there
        assert [line["log_level"] for line in lines[:2]] == ["error", "info"]
        assert lines[0]["exc_info"] is True
        assert response.status_code == response.json()["status"] == status
        assert "secret" not in response.text
        assert "Traceback" not in response.text
        assert response.json()["request_id"] == "abc"
        assert client.get("/health/ready").status_code == 200


@pytest.mark.parametrize(
    "given", ["abc-1", "A" * 128, "0af7651916cd43dd8448eb211c80319c", "a/b+c==", "x~y.z_"]
)
def test_a_well_formed_id_is_kept(client, given):
    response = client.get("/v1/documents/none", headers={"X-Request-ID": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", [b"", b"a b", b"a" * 129, b'"', b"\xe9", b"a\tb"])
def test_an_id_that_is_not_well_formed_is_replaced(client, given):
    ids = {
        client.get("/health/live", headers={b"X-Request-ID": given}).headers["x-request-id"] for _ in range(2)
    }
    assert len(ids) == 2
    assert all(len(each) == 16 for each in ids)
