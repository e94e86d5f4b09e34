"""What is seen of a process under load: a Prometheus that scrapes it, and its live page in a browser, agree
with its metrics."""

import itertools
import re
import socket
import subprocess
import time
from collections import deque
from contextlib import contextmanager
from threading import Event, Thread

import httpx2
import pytest
from playwright.sync_api import expect
from prometheus_client.parser import text_string_to_metric_families as parse

from brein.monitoring import TARGETS, dashboards, grafana, rules

pytestmark = pytest.mark.slow

KEY = "s3cret"
CLIENTS = 2
PATIENCE = 90.0  # seconds
COUNT = "brein_query_duration_seconds_count"
SETTINGS = (
    "server.key_variable=BREIN_KEY",
    "monitoring.interval=0.1",  # or means of 30 samples would take 30 s
    "engine.agents.prefrontal_cortex.timeout=1.0e-9",  # every question fails
)
DOCUMENTS = [{"id": f"d{n}", "text": f"The train number {n} leaves from here."} for n in range(200)]


def client_of(url):
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx2.Client(base_url=url, headers=headers, timeout=PATIENCE, trust_env=False)


@pytest.fixture
def url(start):
    """A process that serves documents to those who have the key."""
    process = start(*SETTINGS, BREIN_KEY=KEY)
    url = process.start()
    reading = Thread(target=deque, args=(process.process.stderr, 0))  # or its log would fill the pipe
    reading.start()
    with client_of(url) as client:
        assert client.post("/v1/documents", json={"documents": DOCUMENTS}).status_code == 200
    yield url
    process.process.terminate()
    reading.join(PATIENCE)
    assert process.process.wait(PATIENCE) == 0


@contextmanager
def load(url):
    """Clients that search, mostly for what was searched before; some documents come, some questions fail."""
    ended = Event()

    def ask(number):
        with client_of(url) as client:
            for turn in itertools.count(1):
                if ended.is_set():
                    return
                if turn % 100 == 0:
                    new = {"id": f"{number} {turn}", "text": f"Train {turn} of line {number}."}
                    response = client.post("/v1/documents", json={"documents": [new]})
                elif turn % 50 == 0:
                    response = client.post("/v1/ask", json={"query": "When does train 3 leave?"})
                    assert response.status_code == 504
                    continue
                else:
                    text = f"train {turn % 5}" if turn % 5 else f"line {number}, train {turn}"
                    response = client.post("/v1/search", json={"query": text})
                assert response.status_code == 200

    clients = [Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for each in clients:
        each.start()
    try:
        yield
    finally:
        ended.set()
        for each in clients:
            each.join(PATIENCE)


def until(condition):
    """What `condition` gives, once that is true or the patience is over."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


class Metrics:
    """One reading of /metrics."""

    def __init__(self, url):
        with client_of(url) as client:
            families = parse(client.get("/metrics").text)
        self._samples = [sample for family in families for sample in family.samples]

    def sum(self, name, **labels):
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def count(self, name):
        return sum(sample.name == name for sample in self._samples)

    @property
    def answered(self):
        return self.sum(COUNT, outcome="answered")

    @property
    def failed(self):
        return sum(self.sum(COUNT, outcome=outcome) for outcome in ("refused", "timed_out", "failed"))


# --- Prometheus ---------------------------------------------------------------------------------------


class Prometheus:
    """The answers of a Prometheus."""

    def __init__(self, client):
        self._client = client

    def values(self, expression):
        """What an expression gives now; nothing while Prometheus is not up."""
        try:
            reply = self._client.get("/api/v1/query", params={"query": expression})
        except httpx2.TransportError:
            return []
        if reply.status_code == 503:
            return []
        assert reply.status_code == 200, (expression, reply.text)
        return [float(result["value"][1]) for result in reply.json()["data"]["result"]]

    def healths(self):
        """How its rules are."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}


@pytest.fixture
def scraping(url, prometheus, tmp_path):
    """A Prometheus that has what `dashboards` writes, and scrapes the process every second."""
    (tmp_path / "key").write_text(KEY)
    dashboards.write(tmp_path / "watch", [url.removeprefix("http://")], key_file=tmp_path / "key")
    config = tmp_path / "watch/prometheus.yml"
    config.write_text(re.sub(r"_interval: \d+s", "_interval: 1s", config.read_text()))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        prometheus,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        with httpx2.Client(base_url=f"http://{address}", timeout=PATIENCE, trust_env=False) as client:
            yield Prometheus(client)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def expressions():
    """What every rule and panel asks for; alerts without their bounds, since they are silent where all is
    well."""
    asked = [rule["expr"] for rule in (*rules.recording(), *rules.alerts())] + [
        target["expr"] for panel in grafana.dashboard()["panels"] for target in panel.get("targets", ())
    ]
    for expression in asked:
        yield (
            re.sub(r" (==|>=|<=|>) [0-9.e+]+", "", expression)
            .replace("$__rate_interval", "30s")
            .replace("$job", ".*")
            .replace("$instance", ".*")
        )


def test_a_prometheus_has_data_for_every_panel_and_rule_and_counts_the_same(url, scraping):
    missing = {*expressions(), *(rule["record"] for rule in rules.recording())}
    assert len(missing) > 60
    with load(url):

        def all_there():
            missing.difference_update([each for each in missing if scraping.values(each)])
            return not missing

        until(all_there)
        assert missing == set()
        assert until(lambda: scraping.healths() == {"ok"})
        assert 0 < scraping.values("job:brein_query_failures:ratio_rate5m")[0] < 0.1
        assert scraping.values('up{job="brein"}') == [1]
    seen = Metrics(url)
    assert seen.answered > 100
    assert until(lambda: scraping.values(f'sum({COUNT}{{outcome="answered"}})') == [seen.answered])
    assert scraping.values(f'sum({COUNT}{{outcome="timed_out"}})') == [seen.failed]
    hits = 'sum(brein_cache_hits_total{cache="search"})'
    assert scraping.values(hits) == [seen.sum("brein_cache_hits_total", cache="search")]


# --- the live page ------------------------------------------------------------------------------------

READ = """({
    facts: Object.fromEntries([...document.querySelectorAll("#facts div")].map(
        (each) => [each.children[0].textContent, each.children[1].textContent])),
    kpis: [...document.querySelectorAll("#kpis .card")].map((card) => ({
        title: card.querySelector("h3").textContent,
        value: card.querySelector(".value").textContent,
        state: card.querySelector(".state").textContent.split(" ")[1],
    })),
    rows: [...document.querySelectorAll("tbody tr")].map(
        (row) => [...row.cells].map((cell) => cell.textContent)),
})"""
UNITS = {
    "": 1, "%": 0.01, "s": 1, "ms": 1e-3, "/s": 1, "B/s": 1, "kB/s": 1e3, "MB/s": 1e6,
    "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
TITLES = {target.title: target for target in TARGETS}


def number(text):
    """What the page shows as `text`; None where there is nothing."""
    if text == "\N{EN DASH}":
        return None
    value, unit = re.fullmatch(r"([\d.,]+) ?(\S*)", text).groups()
    return float(value.replace(",", "")) * UNITS[unit]


class Page:
    """The live page in a browser, before the key is given."""

    def __init__(self, page, url):
        self.page, self.url = page, url
        self.errors, self.asked = [], []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(f"{url}/dashboard")

    def give(self, key):
        """Fill the form in; the status of the answer."""

        def is_its(response):
            return response.request.headers.get("authorization") == f"Bearer {key}"

        self.page.get_by_label("API key").fill(key)
        with self.page.expect_response(is_its) as answer:
            self.page.get_by_role("button", name="Show").click()
        return answer.value.status

    def newer(self, before):
        """What it shows of a time after `before`, and the metrics of a time after that."""

        def read():
            seen = self.page.evaluate(READ)
            return seen if number(seen["facts"]["queries answered"]) > before.answered else None

        seen = until(read)
        assert seen, "the page shows nothing new"
        return seen, Metrics(self.url)


def check_totals(before, seen, after):
    """What only grows is between what it was before and after."""
    facts = {name: number(value) for name, value in seen["facts"].items() if name not in ("version", "up")}
    assert before.answered < facts["queries answered"] <= after.answered
    assert before.failed <= facts["failed"] <= after.failed
    assert before.sum("brein_documents") <= facts["documents"] <= after.sum("brein_documents")
    assert facts["memory"] == pytest.approx(after.sum("brein_memory_usage_bytes"), rel=0.1)
    for name, *columns in seen["rows"]:
        if name.partition(" ")[2]:  # cache and level, hit rate, hits, misses, …
            cache, level = name.split(" ")
            labels = {"cache": cache, "level": level}
            names, texts = ("brein_cache_hits_total", "brein_cache_misses_total"), columns[1:3]
        else:  # agent, waiting, slots, refused, out of time
            labels = {"agent": name}
            names, texts = ("brein_agent_rejected_total", "brein_agent_timed_out_total"), columns[2:]
        for metric, text in zip(names, texts, strict=True):
            low, high = (each.sum(metric, **labels) for each in (before, after))
            assert low <= number(text) <= high, (name, metric)


def check_kpis(before, seen, after):
    """They move slowly, being of minutes."""
    assert {kpi["title"] for kpi in seen["kpis"]} == set(TITLES)
    for kpi in seen["kpis"]:
        target = TITLES[kpi["title"]]
        name = target.name
        low, high = sorted(each.sum("brein_kpi_value", kpi=name) for each in (before, after))
        assert 0.9 * low <= number(kpi["value"]) <= 1.1 * high, (name, low, high)
        states = [each.sum("brein_kpi_state", kpi=name, state=kpi["state"]) for each in (before, after)]
        crosses = target.holds(0.9 * low) != target.holds(1.1 * high)  # its bound, between two readings
        assert 1 in states or crosses, (name, kpi["state"])


def test_the_page_asks_for_the_key_and_agrees_with_the_metrics_under_load(url, browser):
    with load(url):
        assert until(lambda: Metrics(url).count("brein_kpi_value") == len(TARGETS))
        page = Page(browser.new_page(), url)
        form, figures = page.page.locator("#key"), page.page.locator("#main")
        expect(form).to_be_visible()
        assert page.give("wrong") == 401
        expect(form).to_be_visible()
        expect(figures).to_be_hidden()
        assert page.give(KEY) == 200
        expect(figures).to_be_visible(timeout=1000 * PATIENCE)
        expect(form).to_be_hidden()
        for _ in range(3):
            before = Metrics(url)
            seen, after = page.newer(before)
            check_totals(before, seen, after)
            check_kpis(before, seen, after)
    rest = Metrics(url)
    assert until(lambda: number(page.page.evaluate(READ)["facts"]["queries answered"]) == rest.answered)
    seen = page.page.evaluate(READ)
    assert number(seen["facts"]["failed"]) == rest.failed > 0
    shown = {TITLES[kpi["title"]].name: number(kpi["value"]) for kpi in seen["kpis"]}
    for name in ("latency", "errors", "hit_rate"):  # which nothing changes any more
        assert shown[name] == pytest.approx(rest.sum("brein_kpi_value", kpi=name), rel=0.01)
    assert page.errors == []
    assert {asked.partition("?")[0] for asked in page.asked} == {f"{url}/dashboard", f"{url}/dashboard/data"}
    assert not any(KEY in asked for asked in page.asked)
    page.page.close()
