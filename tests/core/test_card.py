"""A card says what its parts say, and leaves out what it was not given."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest

from rul_core import scoring
from rul_core.card import Card, Picture, to_markdown
from rul_core.leakage import GateOutcome, GateReport, GateTest
from rul_core.schema import Columns, Fleet, Learning

FLEET = Fleet(
    name="pumps",
    description="Pumps of the north plant.",
    unit_of_life="hours",
    columns=Columns(unit="pump", cycle="hour", sensors=("flow",)),
    learning=Learning(label_cap_cycles=100, minimum_readings=7),
)
TRUE = np.linspace(5, 150, 50)
SAID = np.clip(TRUE + 3 * np.cos(TRUE), 0, 100)


def metrics(width: float = 8.0, **options) -> scoring.Regimes:
    bands = {0.9: (SAID - width, SAID + width), 0.5: (SAID - 1, SAID + 1)}
    return scoring.both_regimes(TRUE, SAID, 100.0, bands=bands, repeats=20, **options)


def gate(outcome: GateOutcome = GateOutcome.PASSED) -> GateReport:
    label = GateTest(name="label", outcome=outcome, detail="of pump 7 | twice")
    refit = GateTest(name="label_permutation", outcome=GateOutcome.NOT_RUN, detail="needs a refit")
    return GateReport(findings=(label, refit))


BARE = Card(
    fleet=FLEET,
    made_at=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
    metrics=metrics(),
    gate=gate(),
)


def card(**changes) -> Card:
    return msgspec.structs.replace(BARE, **changes)


FULL = card(
    version="20260301T123000Z-abc",
    data={"failed lives": "50", "source": "pumps_a.csv | pumps_b.csv"},
    protocol=("Five folds of whole pumps.", "One random cut a pump."),
    importance={"flow": 3.0, "age": 1.0},
    limits=("Pumps with the new seal are not in the data.",),
    provenance={"seed": "4"},
    pictures=(Picture(file_name="coverage.png", caption="Coverage"),),
)


def headings(text: str) -> list[str]:
    return [line[3:] for line in text.splitlines() if line.startswith("## ")]


def test_a_full_card_has_every_section_in_order():
    text = to_markdown(FULL)
    assert text.startswith(
        "# Remaining useful life of pumps, version `20260301T123000Z-abc`\n\n"
        "Pumps of the north plant. Made on 2026-03-01 12:30 UTC. On 50 units"
    )
    assert headings(text) == [
        "Data",
        "How it was trained and judged",
        "Accuracy",
        "Bands",
        "Leakage gate",
        "What moves the prediction",
        "Limits of use",
        "Provenance",
        "Pictures",
    ]
    assert text.endswith("![Coverage](coverage.png)\n")


def test_sections_without_content_are_left_out():
    text = to_markdown(card(metrics=scoring.both_regimes(TRUE, SAID, 100.0, repeats=5)))
    assert headings(text) == ["Accuracy", "Leakage gate", "Limits of use"]
    assert "version" not in text


def test_both_regimes_stand_in_one_row_with_their_intervals():
    text = to_markdown(FULL)
    (row,) = (line for line in text.splitlines() if line.startswith("| RMSE (hours)"))
    clipped, unclipped = FULL.metrics.clipped.rmse_cycles, FULL.metrics.unclipped.rmse_cycles
    assert f"| {clipped.value:.2f} ({clipped.low:.2f} to {clipped.high:.2f}) |" in row
    assert f"| {unclipped.value:.2f} ({unclipped.low:.2f} to {unclipped.high:.2f}) |" in row
    assert "| truth clipped at 100 | truth as it was |" in text


def test_a_tiny_negative_figure_is_not_minus_nothing():
    even = scoring.both_regimes([50.0, 60.0], [50.001, 59.998], 100.0, repeats=5)
    assert "-0.00" not in to_markdown(card(metrics=even))


def test_a_figure_that_the_data_cannot_give_is_a_dash():
    far = scoring.both_regimes(TRUE + 50, SAID, 100.0, repeats=5)
    (row,) = (
        line
        for line in to_markdown(card(metrics=far)).splitlines()
        if line.startswith("| RMSE where the true RUL is at most 30")
    )
    assert row.endswith("| – | – |")


def test_crps_is_told_where_it_is_known():
    assert "CRPS" not in to_markdown(FULL)
    known = metrics(quantiles=SAID[:, None], levels=[0.5])
    assert "| CRPS (hours) |" in to_markdown(card(metrics=known))


def test_a_kept_and_a_broken_promise_are_both_said():
    assert "keeps its promise" in to_markdown(FULL)
    broken = to_markdown(card(metrics=metrics(width=0.5)))
    assert "**breaks** its promise" in broken
    assert "| **no** |" in broken


def test_the_gate_is_told_with_its_details():
    text = to_markdown(FULL)
    assert "The leakage gate is clean." in text
    assert "1 passed, 0 failed, 1 not run." in text
    assert "| label permutation | not run | needs a refit |" in text
    failed = to_markdown(card(gate=gate(GateOutcome.FAILED)))
    assert "The leakage gate is **not clean**." in failed
    assert "| label | **failed** |" in failed


def test_a_gate_without_findings_says_so():
    assert "No test was run." in to_markdown(card(gate=GateReport(findings=())))


def test_shares_add_up_and_small_groups_are_gathered():
    assert "| flow | 75.0% |\n| age | 25.0% |" in to_markdown(FULL)
    many = to_markdown(card(importance={f"sensor_{n}": 1.0 for n in range(20)}))
    assert "| 5 others | 25.0% |" in many


def test_limits_speak_of_this_fleet():
    text = to_markdown(FULL)
    assert "Remaining lives above 100 hours are not told apart" in text
    assert "fewer than 7 readings" in text
    assert "- Pumps with the new seal" in text
    assert "It uses the hours since new." in text
    ageless = msgspec.structs.replace(FLEET, learning=Learning(uses_age=False))
    assert "It does not use the hours since new." in to_markdown(card(fleet=ageless))


def test_cells_cannot_break_a_table():
    assert "| source | pumps_a.csv \\| pumps_b.csv |" in to_markdown(FULL)
    broken = to_markdown(card(data={"two\nlines": "a\n\nb"}))
    assert "| two lines | a b |" in broken


@pytest.mark.parametrize("text", [to_markdown(FULL), to_markdown(card())])
def test_every_table_row_has_as_many_cells_as_its_head(text: str):
    for block in text.split("\n\n"):
        rows = [line.replace("\\|", "") for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1


def test_a_card_survives_json():
    assert msgspec.json.decode(msgspec.json.encode(FULL), type=Card) == FULL
