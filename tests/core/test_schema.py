import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rul_core import errors
from rul_core.errors import FleetError, ReadingsError, RulError
from rul_core.schema import (
    RESERVED,
    Advisories,
    Columns,
    FileRule,
    Fleet,
    Learning,
    Maintenance,
    Outcome,
    read_fleet,
    write_fleet,
)

PUMPS = """
name = "pumps"
[columns]
unit = "pump"
cycle = "hours"
sensors = ["heat", "flow"]
"""

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
channels = words.filter(lambda word: word not in RESERVED)
positive = st.floats(min_value=1e-6, max_value=1e12)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    unit, cycle, life, time, outcome, *names = draw(
        st.lists(channels, min_size=6, max_size=11, unique=True)
    )
    settings_count = draw(st.integers(0, len(names) - 1))
    limits = st.tuples(st.floats(-1e9, 0), st.floats(1e-3, 1e9))
    return Fleet(
        name=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)),
        description=draw(words),
        unit_of_life=draw(words),
        columns=Columns(
            unit=unit,
            cycle=cycle,
            life=draw(st.none() | st.just(life)),
            time=draw(st.none() | st.just(time)),
            outcome=draw(st.none() | st.just(outcome)),
            settings=tuple(names[:settings_count]),
            sensors=tuple(names[settings_count:]),
        ),
        files=tuple(
            draw(
                st.lists(
                    st.builds(
                        FileRule, glob=words, outcome=st.sampled_from(Outcome), unit_prefix=words
                    ),
                    max_size=3,
                )
            )
        ),
        learning=Learning(
            label_cap_cycles=draw(positive),
            cycles_per_reading=draw(positive),
            minimum_readings=draw(st.integers(1, 1000)),
            uses_age=draw(st.booleans()),
        ),
        maintenance=Maintenance(lead_time_cycles=draw(positive), cost_failure=draw(positive)),
        advisories=Advisories(
            below=draw(st.integers(1, 3)),
            of_last=draw(st.integers(3, 20)),
            margin_share=draw(st.floats(0, 100)),
            cause=draw(words.filter(bool)),
        ),
        freshness_limit_seconds=draw(st.none() | positive),
        ranges=draw(st.dictionaries(st.sampled_from(names), limits, max_size=3)),
    )


@settings(max_examples=100, deadline=None)
@given(fleets())
def test_a_fleet_that_is_written_is_read_back_equal(fleet):
    assert read_fleet(write_fleet(fleet)) == fleet


def test_a_short_description_is_enough():
    fleet = read_fleet(PUMPS)
    assert fleet.columns.sensors == ("heat", "flow")
    assert fleet.learning.label_cap_cycles == 125
    assert fleet.freshness_limit_seconds is None


def test_the_readings_schema_has_the_key_the_clock_and_the_channels_in_order():
    fleet = read_fleet(PUMPS.replace("sensors", 'settings = ["load"]\nsensors'))
    assert fleet.channels == ("load", "heat", "flow")
    assert fleet.readings_schema == {
        "unit": pl.String,
        "life": pl.Int64,
        "cycle": pl.Float64,
        "time": pl.Datetime("us", "UTC"),
        "load": pl.Float64,
        "heat": pl.Float64,
        "flow": pl.Float64,
    }


def test_the_first_rule_that_matches_a_file_counts():
    fleet = Fleet(
        name="x",
        columns=Columns(unit="u", cycle="c", sensors=("s",)),
        files=(
            FileRule(glob="train_*", outcome=Outcome.FAILED),
            FileRule(glob="*_2.csv", outcome=Outcome.REPLACED),
        ),
    )
    assert fleet.rule_for("train_2.csv").outcome == Outcome.FAILED
    assert fleet.rule_for("test_2.csv").outcome == Outcome.REPLACED
    assert fleet.rule_for("TRAIN_1.csv") == FileRule(glob="*")
    assert fleet.rule_for("test_1.csv").outcome == Outcome.RUNNING


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('["heat", "flow"]', "[]", r"columns.sensors is empty; name at least one sensor column"),
        ('"flow"]', '"heat"]', r"\['heat'\] named more than once in settings and sensors"),
        ('"flow"]', '"hours"]', r"\['hours'\] named for more than one purpose; keep one of them"),
        ('"hours"', '"pump"', r"\['pump'\] named for more than one purpose; keep one of them"),
        ('name = "pumps"', 'name = "pumps\\n"', r"matching regex .* - at `\$.name`"),
        ('"flow"]', '"cycle", "rul_cycles"]', r"\['cycle', 'rul_cycles'\] cannot be .* rename"),
        ('"flow"]', '"flow"]\n[ranges]\nspin = [0, 1]', r"ranges names 'spin', which is no sett"),
        ('"flow"]', '"flow"]\n[ranges]\nheat = [5, 5]', r"ranges.heat is \[5.0, 5.0\]; the low"),
        ('"flow"]', '"flow"]\n[ranges]\nheat = [nan, 5]', r"ranges.heat is \[nan, 5.0\]; the low"),
        ('"flow"]', '"flow"]\nsensor = "x"', r"unknown field `sensor` - at `\$.columns`; correct"),
        ('unit = "pump"', "", r"missing required field `unit` - at `\$.columns`"),
        ('name = "pumps"', 'name = "a/b"', r"matching regex .* - at `\$.name`; correct that key"),
        ('name = "pumps"', "name = pumps", r" is not valid TOML: .*line 2"),
        (
            '"flow"]',
            '"flow"]\n[advisories]\nbelow = 4',
            r"advisories.below is 4 of the last 3; it cannot be more than advisories.of_last",
        ),
        (
            '"flow"]',
            '"flow"]\n[advisories]\nurgent_share = 0.6',
            r"advisories.urgent_share is 0.6, more than high_share 0.5; the urgent ones",
        ),
        ('"flow"]', '"flow"]\n[advisories]\nof_last = 21', r"<= 20 - at `\$.advisories.of_last`"),
        ('"flow"]', '"flow"]\n[advisories]\ncause = ""', r"length >= 1 - at `\$.advisories.cause`"),
        (
            '"flow"]',
            '"flow"]\n[learning]\nlabel_cap_cycles = 0',
            r"`float` > 0.0 - at `\$.learning.label_cap_cycles`",
        ),
        (
            '"flow"]',
            '"flow"]\n[[files]]\nglob = "*"\noutcome = "dead"',
            r"Invalid enum value 'dead' - at `\$.files\[0\].outcome`",
        ),
    ],
)
def test_a_description_that_cannot_be_used_says_what_to_change(before, after, message):
    text = PUMPS.replace(before, after)
    assert text != PUMPS
    with pytest.raises(FleetError, match=rf"x\.toml.*{message}"):
        read_fleet(text, "x.toml")


def test_every_error_is_a_rul_error():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert len(kinds) > 8
    assert all(issubclass(kind, RulError) for kind in kinds)


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({}, "too hot"),
        ({"source": "a.csv"}, "a.csv: too hot"),
        ({"source": "a.csv", "row": 7}, "a.csv, row 7: too hot"),
        ({"source": "a.csv", "line": 7}, "a.csv, line 7: too hot"),
        ({"row": 0, "column": "heat"}, "row 0, column 'heat': too hot"),
        ({"source": "a.csv", "row": 7, "column": "x"}, "a.csv, row 7, column 'x': too hot"),
    ],
)
def test_a_readings_error_says_where(where, text):
    error = ReadingsError("too hot", **where)
    assert str(error) == text
    assert (error.source, error.row, error.column) == (
        where.get("source", ""),
        where.get("row"),
        where.get("column"),
    )
