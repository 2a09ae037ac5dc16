"""Every alert says how bad it is and what it means, and the runbook says what to do."""

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
RULES = yaml.safe_load((PROJECT / "monitoring/prometheus/rules/alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]


WATCHED = yaml.safe_load((PROJECT / "monitoring/prometheus/prometheus.yml").read_text())
SERVICES = yaml.safe_load((PROJECT / "compose.yaml").read_text())["services"]
DOWN = {
    rule["alert"]: rule["expr"]
    for rule in ALERTS
    if rule["alert"] in {"ServiceDown", "ApiDown", "DatabaseUnreachable"}
}


def test_whatever_service_goes_down_a_critical_alert_names_it():
    asked = {
        target.partition(":")[0]
        for job in WATCHED["scrape_configs"]
        for config in job.get("static_configs", ())
        for target in config["targets"]
    }
    assert 'up{job!="api"} == 0' in DOWN["ServiceDown"]
    assert 'up{job="api"} == 1' in DOWN["ApiDown"]
    assert "rul_dagster_service_up == 0" in DOWN["ServiceDown"]
    knocked_at = {
        word.removeprefix("--probe=").partition("=")[0]
        for word in SERVICES["dagster-exporter"]["command"]
        if word.startswith("--probe=")
    }
    told_of = set(re.findall(r'"job", "([a-z-]+)", "", ""', DOWN["ServiceDown"]))
    asked_by_others = set(re.findall(r"\b(redis|nginx)_up == 0", DOWN["ServiceDown"]))
    asked_by_others |= {"postgres"} if DOWN["DatabaseUnreachable"] == "pg_up == 0" else set()
    alive = {name for name, said in SERVICES.items() if said["restart"] == "unless-stopped"}
    # Of Prometheus the watchdog tells, by its silence.
    named = (asked - {"localhost"}) | knocked_at | told_of | asked_by_others | {"api", "prometheus"}
    assert alive - {"rul"} == named


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_leads_to_its_page_of_the_runbook(alert):
    said = alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning", "info", "none"}
    assert alert["labels"]["service"]
    assert said["summary"]
    assert said["description"].endswith(".")
    page, _, anchor = said["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (PROJECT / page).read_text(), re.MULTILINE)
    assert anchor in {heading.lower() for heading in headings}


def test_the_runbook_has_no_page_of_an_alert_that_is_gone():
    headings = set(
        re.findall(r"^## (.+)$", (PROJECT / "docs/runbook.md").read_text(), re.MULTILINE)
    )
    assert headings == {alert["alert"] for alert in ALERTS}
