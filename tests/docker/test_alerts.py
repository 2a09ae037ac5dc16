"""Every alert says how bad it is and what it means, and the runbook says what to do."""

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
RULES = yaml.safe_load((PROJECT / "monitoring/prometheus/rules/alerts.yml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"]]


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
