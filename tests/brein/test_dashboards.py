"""What is written for Prometheus and Grafana names only what exists; Prometheus' own checker agrees."""

import json
import re
import subprocess

import pytest
import yaml

from brein.__main__ import main
from brein.errors import ConfigError
from brein.metrics import DEFINITIONS
from brein.monitoring import TARGETS, dashboards


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


def test_a_line_at_a_target_stands_beside_the_whole_that_it_is_the_target_of(folder):
    shown = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in panels(folder)}
    whole, *kinds = shown["Throughput"]
    assert "by (job)" in whole
    assert all("by (kind)" in kind for kind in kinds)
    whole, *directions = shown["Disk"]
    assert whole == " + ".join(directions)
    whole, *levels = shown["Hit rate by level"]
    assert "by (job)" in whole
    assert all("by (cache, level)" in level for level in levels)


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


# --- promtool -----------------------------------------------------------------------------------------


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


QUERIES = "brein_query_duration_seconds"
LOOKED_UP = 'job="brein", cache="search", level="l1"'
SILENT, FIRES = False, True


def queries(answered, failed="0+0x20"):
    """Series of queries that took longer than the target where they were answered, by minutes."""
    kind = 'job="brein", kind="search", outcome'
    both = {"answered": answered, "failed": failed}
    counted = {f'{QUERIES}_count{{{kind}="{outcome}"}}': values for outcome, values in both.items()}
    longest = {
        f'{QUERIES}_bucket{{{kind}="{outcome}", le="+Inf"}}': values for outcome, values in both.items()
    }
    within = {f'{QUERIES}_bucket{{{kind}="answered", le="{le}"}}': "0+0x20" for le in ("0.1", "0.2")}
    slow = {f'{QUERIES}_bucket{{{kind}="answered", le="0.5"}}': answered}
    return counted | longest | within | slow


def look_ups(hits, misses):
    return {
        f"brein_cache_hits_total{{{LOOKED_UP}}}": hits,
        f"brein_cache_misses_total{{{LOOKED_UP}}}": misses,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("alert", "series", "expected"),
    [
        ("BreinLatencyMissed", queries("0+3x20"), SILENT),  # 15 queries in 5 minutes, the KPI needs 20
        ("BreinLatencyMissed", queries("0+5x20"), FIRES),
        ("BreinErrorsMissed", queries("0+100x20", "0+0x4 1+0x4 2+0x4 3+0x4"), SILENT),  # one failure of 500
        ("BreinErrorsMissed", queries("0+100x20", "0+1x20"), FIRES),
        ("BreinErrorsMissed", queries("0+0x20", "0+1x20"), FIRES),
        ("BreinErrorsMissed", queries("0+300x20"), SILENT),
        ("BreinHitRateMissed", look_ups("0+0x20", "0+4x20"), SILENT),  # a quiet night
        ("BreinHitRateMissed", look_ups("0+0x20", "0+40x20"), FIRES),
        ("BreinHitRateMissed", look_ups("0+40x20", "0+4x20"), SILENT),
    ],
)
def test_an_alert_fires_where_the_kpi_is_missed_and_not_where_it_is_unknown(
    folder, promtool, *, alert, series, expected
):
    summary = next(rule["annotations"]["summary"] for rule in rules(folder) if rule.get("alert") == alert)
    firing = {"exp_labels": {"job": "brein", "severity": "warning"}, "exp_annotations": {"summary": summary}}
    test = {
        "rule_files": [str(folder / "rules" / name) for name in ("recording.yml", "alerts.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": ["brein-recording", "brein-alerts"],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": "15m", "alertname": alert, "exp_alerts": [firing] if expected else []}
                ],
            }
        ],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump(test))
    said = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr
