"""Grafana's dashboards are files that follow from what their panels ask."""

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest

PROJECT = Path(__file__).parents[2]
GRAFANA = PROJECT / "monitoring" / "grafana"
BOARDS = {file.stem: json.loads(file.read_text()) for file in (GRAFANA / "dashboards").iterdir()}


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_there_is_one_for_each_part_and_grafana_is_given_them_all():
    assert set(BOARDS) == {
        "platform", "fleets", "dagster", "backups", "postgresql", "redis", "nginx",
    }  # fmt: skip
    compose = (PROJECT / "compose.yaml").read_text()
    for name in BOARDS:
        assert f"file: monitoring/grafana/dashboards/{name}.json" in compose
        assert f"target: /etc/grafana/dashboards/{name}.json" in compose


def test_the_files_are_what_the_builder_makes_of_the_panels():
    import runpy

    made = runpy.run_path(str(GRAFANA / "dashboards.py"))["files"]()
    there = {file.name: file.read_text() for file in (GRAFANA / "dashboards").iterdir()}
    assert there == made, "run `make dashboards`"


def test_no_two_have_the_same_name_and_each_leads_to_the_others():
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)
    for board in BOARDS.values():
        assert board["tags"] == board["links"][0]["tags"]
        assert board["editable"] is False


@pytest.mark.parametrize("name", BOARDS)
def test_every_panel_says_what_it_shows_in_which_unit_and_asks_what_can_be_asked(name: str):
    found = panels(BOARDS[name])
    assert len({panel["id"] for panel in found}) == len(found)
    assert len({panel["title"] for panel in found}) == len(found)
    for panel in found:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
        for target in panel["targets"]:
            assert "vector(0)" not in target["expr"], "that would hide that there is nothing"
            promql_parser.parse(re.sub(r"\$__rate_interval", "1m", target["expr"]))


@pytest.mark.parametrize("name", BOARDS)
def test_no_panel_covers_another_or_leaves_the_page(name: str):
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at.get("x", 0) + at["w"] <= 24
        for x in range(at.get("x", 0), at.get("x", 0) + at["w"]):
            for y in range(at.get("y", 0), at.get("y", 0) + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
