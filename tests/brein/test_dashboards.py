"""What is written for Prometheus and Grafana names only what exists; a real Prometheus has data for all."""

import json
import re
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
import yaml

from brein import Document, Engine, EngineConfig
from brein.__main__ import main
from brein.errors import AgentTimeoutError, ConfigError
from brein.metrics import DEFINITIONS
from brein.monitoring import TARGETS, Monitoring, MonitoringConfig, dashboards, http_probe

ENGINE = EngineConfig.model_validate({"embedding": {"kind": "hashing"}, "index": {"kind": "IndexFlat"}})


@pytest.fixture
def folder(tmp_path):
    dashboards.write(tmp_path / "watch", ["127.0.0.1:8080", "brein-2.internal:80", "[::1]:8080"])
    return tmp_path / "watch"


def rules(folder):
    files = sorted((folder / "rules").iterdir())
    return [
        rule
        for file in files
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def panels(folder):
    dashboard = json.loads((folder / "grafana/dashboards/brein.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions(folder):
    return [rule["expr"] for rule in rules(folder)] + [
        target["expr"] for panel in panels(folder) for target in panel["targets"]
    ]


def test_every_metric_that_is_asked_for_exists(folder):
    recorded = {rule["record"] for rule in rules(folder) if "record" in rule}
    asked = 0
    for expression in expressions(folder):
        bare = re.sub(r'"[^"]*"', '""', expression)
        for name in re.findall(r"[a-z_:]*brein_[a-z0-9_:]*", bare):
            definition = DEFINITIONS.get(re.sub(r"_(bucket|count|sum)$", "", name)) or DEFINITIONS.get(name)
            assert name in recorded or definition is not None, expression
            asked += 1
    assert asked > 60


def test_every_label_that_is_asked_for_is_the_metrics_own(folder):
    given = {"job", "instance", "le"}
    for expression in expressions(folder):
        for name, chosen in re.findall(r"(?<![:a-z_])(brein_[a-z_]+)\{([^}]*)\}", expression):
            definition = DEFINITIONS.get(re.sub(r"_(bucket|count|sum)$", "", name)) or DEFINITIONS[name]
            labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", chosen))
            assert labels <= given | set(definition.labels), expression


def test_the_dashboard_shows_what_it_is_asked_to(folder):
    shown = {panel["title"]: panel for panel in panels(folder)}
    assert {
        "Latency", "Latency, all answered queries", "Throughput", "Errors", "Memory", "Hit rate by level",
        "Queues", "Utilisation",
    } <= set(shown)  # fmt: skip
    assert shown["Latency, all answered queries"]["type"] == "heatmap"
    for target in TARGETS:
        steps = shown[target.title]["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[1]["value"] == target.bound
        assert steps[0]["color"] == ("green" if target.within == "below" else "red")


def test_panels_have_a_place_of_their_own(folder):
    dashboard = json.loads((folder / "grafana/dashboards/brein.json").read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_kpi_has_an_alert(folder):
    alerts = {rule["alert"] for rule in rules(folder) if "alert" in rule}
    assert {
        f"Brein{name}Missed"
        for name in ("Cpu", "Memory", "Disk", "Network", "Latency", "Throughput", "Errors", "HitRate")
    } <= alerts


def test_grafana_finds_the_dashboard_and_the_data(folder):
    provider = yaml.safe_load((folder / "grafana/provisioning/dashboards/brein.yml").read_text())
    assert provider["providers"][0]["options"]["path"] == str(folder / "grafana/dashboards")
    source = yaml.safe_load((folder / "grafana/provisioning/datasources/brein.yml").read_text())[
        "datasources"
    ][0]
    assert all(panel["datasource"]["uid"] == source["uid"] for panel in panels(folder))


def test_a_key_is_sent_from_its_file(tmp_path):
    dashboards.write(tmp_path / "watch", ["127.0.0.1:8080"], key_file=tmp_path / "key")
    scraped = yaml.safe_load((tmp_path / "watch/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["authorization"] == {"type": "Bearer", "credentials_file": str(tmp_path / "key")}


def test_what_is_there_is_not_overwritten(folder):
    before = (folder / "prometheus.yml").read_text()
    with pytest.raises(
        ConfigError, match="is not empty, and nothing is overwritten; name a new folder, or empty it"
    ):
        dashboards.write(folder, ["127.0.0.1:1"])
    assert (folder / "prometheus.yml").read_text() == before


def test_a_file_in_the_way_is_an_error_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"file cannot be written: .*; name another folder"):
        dashboards.write(tmp_path / "file")


@pytest.mark.parametrize(
    "target", ["8080", "host", "host:0", "host:65536", "http://host:1", "a b:1", "host:1\nx: y"]
)
def test_a_target_that_is_no_address_is_refused_and_nothing_written(tmp_path, target):
    with pytest.raises(ConfigError, match="is no address; give host:port"):
        dashboards.write(tmp_path / "watch", [target])
    assert not (tmp_path / "watch").exists()


def test_the_command_writes_and_says_how_to_go_on(tmp_path, capsys):
    targets = ["--target", "127.0.0.1:1", "--target", "127.0.0.1:2"]
    assert main(["dashboard", str(tmp_path / "watch"), *targets]) == 0
    scraped = yaml.safe_load((tmp_path / "watch/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"] == [{"targets": ["127.0.0.1:1", "127.0.0.1:2"]}]
    assert f"--config.file={tmp_path}/watch/prometheus.yml" in capsys.readouterr().err


# --- promtool and Prometheus themselves ---------------------------------------------------------------


@pytest.mark.slow
def test_promtool_finds_nothing_to_say(folder, promtool):
    commands = (
        ["check", "config", "--lint-fatal", str(folder / "prometheus.yml")],
        ["check", "rules", "--lint-fatal", *map(str, (folder / "rules").iterdir())],
    )
    for command in commands:
        said = subprocess.run([promtool, *command], capture_output=True, text=True, timeout=60, check=False)
        assert said.returncode == 0, said.stdout + said.stderr
        assert "FAILED" not in said.stdout
        assert said.stderr == ""


class Served:
    """An engine under load whose metrics are served over HTTP, as a process of the service has them."""

    def __init__(self):
        self.engine = Engine.open(ENGINE)
        self.engine.ingest([Document(f"d{n}", f"The train number {n} leaves.") for n in range(200)])
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = self.server.server_address[1]
        self.monitoring = Monitoring(
            self.engine,
            self._agents,
            lambda: 3,
            http_probe("127.0.0.1", self.port),
            config=MonitoringConfig(interval=0.05),
        )
        self.stopping = threading.Event()
        self.threads = [
            threading.Thread(target=self.server.serve_forever),
            threading.Thread(target=self._load),
        ]
        for thread in self.threads:
            thread.start()

    def _agents(self):
        return {} if self.coordinator is None else self.coordinator.stats()

    coordinator = None

    def _handler(served):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                text, kind = served.monitoring.metrics.render(self.headers.get("Accept", ""))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *arguments):
                pass

        return Handler

    def _load(self):
        """Questions and searches, half of these the same, one in a hundred failing."""
        import asyncio

        async def ask():
            async with self.engine.coordinator() as self.coordinator:
                turn = 0
                while not self.stopping.is_set():
                    turn += 1
                    begun = time.perf_counter()
                    if turn % 10:
                        await asyncio.to_thread(self.engine.search, f"train {turn % 20 or turn}")
                    else:
                        await self.coordinator.ask(f"When does train {turn} leave?")
                    outcome = "answered" if turn % 100 else "timed_out"
                    self.monitoring.query(
                        "search" if turn % 10 else "ask", outcome, time.perf_counter() - begun
                    )
                    self.monitoring.metrics.request("/v1/search", 200 if turn % 100 else 504)
                    if turn % 100 == 0:
                        self.monitoring.metrics.error(AgentTimeoutError("late"))
                    self.monitoring.metrics.ingested(1)

        with self.monitoring:
            asyncio.run(ask())

    def close(self):
        self.stopping.set()
        self.threads[1].join()
        self.server.shutdown()
        self.threads[0].join()
        self.server.server_close()
        self.engine.close()


@pytest.fixture
def served():
    opened = Served()
    yield opened
    opened.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@pytest.fixture
def scraping(served, prometheus, tmp_path):
    """A client of a Prometheus that scrapes `served` every second, and the folder it was configured from."""
    folder = tmp_path / "watch"
    dashboards.write(folder, [f"127.0.0.1:{served.port}"])
    config = folder / "prometheus.yml"
    config.write_text(
        config.read_text()
        .replace("scrape_interval: 5s", "scrape_interval: 1s")
        .replace("_interval: 15s", "_interval: 1s")
    )
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            prometheus,
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=warn",
        ],
        stderr=subprocess.PIPE,
    )
    try:
        with httpx2.Client(base_url=f"http://{address}", timeout=10, trust_env=False) as client:
            yield client, folder
    finally:
        process.terminate()
        process.communicate(timeout=30)


def answered(client, expression):
    """The values that an expression has now; none while Prometheus is not up."""
    try:
        reply = client.get("/api/v1/query", params={"query": expression})
    except httpx2.TransportError:
        return []
    if reply.status_code == 503:
        return []
    assert reply.status_code == 200, (expression, reply.text)
    return [float(result["value"][1]) for result in reply.json()["data"]["result"]]


def healths(client):
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    return {rule["health"] for group in groups for rule in group["rules"]}


@pytest.mark.slow
def test_a_real_prometheus_has_data_for_every_panel_and_every_rule(scraping):
    client, folder = scraping
    wanted = {
        re.sub(r" (==|>=|<=|>) [0-9.e+]+$", "", expression)  # an alert is silent where all is well
        .replace("$__rate_interval", "30s")
        .replace("$job", ".*")
        .replace("$instance", ".*")
        for expression in expressions(folder)
    } | {rule["record"] for rule in rules(folder) if "record" in rule}
    missing, deadline = wanted, time.monotonic() + 90
    while missing and time.monotonic() < deadline:
        time.sleep(0.5)
        missing = {expression for expression in missing if not answered(client, expression)}
    assert missing == set()
    while "unknown" in (health := healths(client)) and time.monotonic() < deadline:  # not evaluated yet
        time.sleep(0.1)
    assert health == {"ok"}
    assert 0 < answered(client, "job:brein_query_failures:ratio_rate5m")[0] < 0.1
    assert answered(client, 'up{job="brein"}') == [1]
