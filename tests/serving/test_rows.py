"""Bodies of readings: the good rows are read, and each of the others is named."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rul_core.schema import Columns, Fleet
from rul_serving.problems import Kind, Reason, Refusal
from rul_serving.rows import CSV, JSON, MOST_ROWS, NDJSON, Rows, parse

PUMPS = Fleet(
    name="pumps", columns=Columns(unit="u", cycle="c", settings=("load",), sensors=("p",))
)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def reading(cycle: object = 1.0, unit: object = "a", **more: object) -> dict[str, object]:
    return {"unit": unit, "cycle": cycle, "values": {"load": 1.5, "p": None}, **more}


def as_json(*rows: object) -> Rows:
    return parse(JSON, json.dumps(rows).encode(), PUMPS)


def facts(rows: Rows) -> list[object]:
    cells = [[None if np.isnan(value) else value for value in row] for row in rows.values.tolist()]
    return [rows.units, rows.lives, rows.cycles, rows.times, cells, rows.places]


def test_json_ndjson_and_csv_say_the_same():
    first = reading(1.0, life=2, time="2026-11-23T14:00:00+02:00")
    second = reading(2.5, unit='b "x", é')
    array = as_json(first, second)
    assert facts(array) == [
        ["a", 'b "x", é'], [2, None], [1.0, 2.5], [NOON, None], [[1.5, None], [1.5, None]], [0, 1],
    ]  # fmt: skip
    lines = f"{json.dumps(first)}\n\n{json.dumps(second)}\n".encode()
    assert facts(parse(NDJSON, lines, PUMPS)) == facts(array)
    table = (
        "p,unit,cycle,time,life,load\n"
        ",a,1,2026-11-23T14:00:00+02:00,2,1.5\n"
        ',"b ""x"", é",2.5,,,1.5\n'
    )
    assert facts(parse(CSV, table.encode(), PUMPS)) == facts(array)
    assert not array.flaws


def test_one_reading_needs_no_array():
    assert facts(parse(JSON, json.dumps(reading()).encode(), PUMPS)) == facts(as_json(reading()))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (reading("1"), "Expected `float`, got `str` - at `$.cycle`"),
        (reading(None), "Expected `float`, got `null` - at `$.cycle`"),
        (reading(unit=7), "Expected `str`, got `int` - at `$.unit`"),
        (reading(unit=""), "length >= 1 - at `$.unit`"),
        (reading(unit="a\nb"), "matching regex"),
        (reading(unit="a\n"), "matching regex"),
        (reading(life=0), "`int` >= 1 - at `$.life`"),
        (reading(time="2026-11-23T12:00:00"), "timezone component - at `$.time`"),
        (reading(time="9999-12-31T23:59:59-12:00"), "outside the years 1 to 9999"),
        (reading(more=1), "unknown field `more`"),
        (reading(values={"load": 1.0}), "'p' is missing; give its value, or null"),
        (reading(values={"load": 1.0, "p": 1.0, "q": 1.0}), "'q' is no channel of the fleet"),
        (reading(values={"load": "1.0", "p": 1.0}), "Expected `float | null`, got `str`"),
        ("reading", "Expected `object`, got `str`"),
    ],
)
def test_a_bad_row_is_named_with_its_place_and_the_others_are_read(row, said):
    rows = as_json(reading(1.0), row, reading(3.0))
    assert rows.cycles == [1.0, 3.0]
    assert rows.places == [0, 2]
    (flaw,) = rows.flaws
    assert said in flaw.message
    assert (flaw.index, flaw.at, flaw.reason) == (1, "[1]", Reason.NOT_A_READING)


def test_numbers_beyond_all_bounds_are_none():
    body = b'[{"unit": "a", "cycle": 1, "values": {"load": 1e999, "p": 1}}]'
    (flaw,) = parse(JSON, body, PUMPS).flaws
    assert "load" in flaw.message or "out of range" in flaw.message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (",1,,,1,1", "unit is None; give a name of 1 to 200 characters"),
        (f"{'x' * 201},1,,,1,1", "give a name of 1 to 200 characters"),
        ('"a\n",1,,,1,1', "give a name of 1 to 200 characters, without control characters"),
        ("a,one,,,1,1", "cycle is 'one'; give a finite number"),
        ("a,,,,1,1", "cycle is None; give a finite number"),
        ("a,inf,,,1,1", "cycle is 'inf'; give a finite number"),
        ("a,1,first,,1,1", "life is 'first'; give a whole number from 1"),
        ("a,1,0,,1,1", "life is '0'; give a whole number from 1"),
        ("a,1,,noon,1,1", "time is 'noon'; give a time like 2026-11-23T12:00:00Z"),
        ("a,1,,2026-11-23T12:00:00,1,1", "give a time like 2026-11-23T12:00:00Z, with its offset"),
        ("a,1,,,1,high", "p is 'high'; give a finite number, or nothing"),
        ("a,1,,,nan,1", "load is 'nan'; give a finite number, or nothing"),
    ],
)
def test_a_bad_line_of_csv_is_named_with_its_place_and_the_others_are_read(line, said):
    body = f"unit,cycle,life,time,load,p\na,1,,,1,1\n{line}\na,3,,,1,1\n"
    rows = parse(CSV, body.encode(), PUMPS)
    assert rows.cycles == [1.0, 3.0]
    assert rows.places == [0, 2]
    (flaw,) = rows.flaws
    assert said in flaw.message
    assert flaw.index == 1


@pytest.mark.parametrize(
    ("line", "units", "said"),
    [
        (b"b,2,1", "a c", "it has 3 fields and the header 4; send it whole"),
        (b"b,2,1,1,", "a c", "it has 5 fields and the header 4; send it whole"),
        (b'"b,2,1,1"', "a c", "it has 1 fields and the header 4; send it whole"),
        (b"b\xff,2,1,1", "a c", "it is not in UTF-8"),
        (b"b,2,1,", "a b c", ""),
        (b'"b",2,1,1', "a b c", ""),
        (b'"b,d",2,1,1', "a b,d c", ""),
        (b"", "a c", ""),
    ],
)
def test_a_line_that_is_no_row_takes_no_other_with_it(line: bytes, units: str, said: str):
    body = b"unit,cycle,load,p\r\na,1,1,1\r\n" + line + b"\r\nc,3,1,1\r\n"
    rows = parse(CSV, body, PUMPS)
    assert rows.units == units.split(" ")
    assert [flaw.message for flaw in rows.flaws] == ([said] if said else [])
    assert [flaw.index for flaw in rows.flaws] == ([1] if said else [])
    assert rows.places == ([0, 2] if said else list(range(len(rows))))


def test_a_body_that_was_cut_loses_its_last_line_alone():
    whole = b"unit,cycle,load,p\n" + b"".join(b"a,%d,1.5,2.5\n" % n for n in range(9))
    last = len(b"a,8,1.5,2.5\n")
    for left in range(len(b"a,8,1.5") + 1):
        rows = parse(CSV, whole[: len(whole) - last + left], PUMPS)
        assert rows.cycles == [float(n) for n in range(8)]
        assert [flaw.index for flaw in rows.flaws] == ([8] if left else [])


@pytest.mark.parametrize(
    ("content_type", "body", "kind", "said"),
    [
        ("text/plain", b"[]", Kind.UNSUPPORTED_MEDIA_TYPE, "the content type is text/plain; send"),
        ("", b"[]", Kind.UNSUPPORTED_MEDIA_TYPE, "the content type is missing"),
        (JSON, b"", Kind.INVALID_REQUEST, "no array of readings"),
        (JSON, b'[{"unit": "a"', Kind.INVALID_REQUEST, "no array of readings"),
        (JSON, b'[{"unit": NaN}]', Kind.INVALID_REQUEST, "no array of readings"),
        (JSON, b"7", Kind.INVALID_REQUEST, "no array of readings"),
        (JSON, b"[" * 100_000, Kind.INVALID_REQUEST, "no array of readings"),
        (JSON, b'"\xff"', Kind.INVALID_REQUEST, "no array of readings"),
        (CSV, b"\xff\xfe\x00", Kind.INVALID_REQUEST, "its first line is not in UTF-8"),
        (CSV, b"unit,unit\na,1\n", Kind.INVALID_REQUEST, "'unit_duplicated_0' is no column"),
        (CSV, b"unit,unit\na,1\n\n", Kind.INVALID_REQUEST, "the column 'unit' is there twice"),
        (CSV, b'unit,cycle\n"a,1\n', Kind.INVALID_REQUEST, "no CSV with a header: unexpected end"),
        (CSV, b"unit,cycle\na,1\n", Kind.INVALID_REQUEST, "the column 'load' is missing"),
        (CSV, b"", Kind.INVALID_REQUEST, "the column 'unit' is missing"),
        (CSV, b"unit,cycle,load,p,q\n", Kind.INVALID_REQUEST, "'q' is no column of readings"),
        (JSON, b"[" + b"1," * MOST_ROWS + b"1]", Kind.TOO_LARGE, "10001 readings in one body"),
        (NDJSON, b"1\n" * (MOST_ROWS + 1), Kind.TOO_LARGE, "10001 readings in one body"),
    ],
)
def test_a_body_that_cannot_be_read_as_a_whole_is_refused(content_type, body, kind, said):
    with pytest.raises(Refusal, match=said) as refused:
        parse(content_type, body, PUMPS)
    assert refused.value.kind is kind


def test_no_rows_are_read_as_none():
    for content_type, body in ((JSON, b"[]"), (NDJSON, b"\n"), (CSV, b"unit,cycle,load,p\n")):
        rows = parse(content_type, body, PUMPS)
        assert len(rows) == 0
        assert rows.values.shape == (0, 2)


NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9)
TIMES = st.none() | st.just("2026-11-23T12:00:00Z") | st.just("2026-11-23T14:00:00.5+02:00")


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "unit": st.text(st.characters(min_codepoint=32, codec="utf-8"), max_size=3),
                "cycle": st.floats(allow_nan=False, allow_infinity=False) | st.just("1"),
                "values": st.fixed_dictionaries({"p": NUMBERS, "load": NUMBERS}),
            },
            optional={"life": st.none() | st.integers(0, 3), "time": TIMES},
        ),
        max_size=4,
    )
)
def test_a_bad_row_beside_them_changes_nothing_of_the_others(rows: list[dict[str, object]]):
    alone, beside = as_json(*rows), as_json(*rows, "no reading")
    assert facts(alone) == facts(beside)
    assert alone.flaws == beside.flaws[:-1]
    lines = "\n".join(map(json.dumps, rows)).encode()
    assert facts(parse(NDJSON, lines, PUMPS)) == facts(alone)


@given(body=st.binary(max_size=60), content_type=st.sampled_from([JSON, NDJSON, CSV]))
def test_whatever_comes_is_read_or_refused(body: bytes, content_type: str):
    try:
        rows = parse(content_type, body, PUMPS)
    except Refusal:
        return
    assert len(rows) == len(rows.values) == len(rows.places)
