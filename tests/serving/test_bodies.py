"""JSON bodies: what counts as a whole number, and as something said."""

import msgspec
import pytest

from rul_serving import bodies
from rul_serving.deeds import Because, Ending, LifeChange
from rul_serving.problems import Kind, Refusal
from rul_serving.rows import Reading


@pytest.mark.parametrize("number", ["5", "5.0", "0.5e1"])
def test_a_whole_number_may_be_written_with_a_point(number):
    body = f'{{"end": {{"outcome": "failed", "life": {number}, "end_cycle": 7}}}}'.encode()
    assert bodies.decode(body, LifeChange).end == Ending(outcome="failed", life=5, end_cycle=7.0)


@pytest.mark.parametrize("number", ["5.5", "0.0", '"5"', "true", "1e999"])
def test_what_is_no_whole_number_is_refused_at_its_place(number):
    with pytest.raises(Refusal) as refused:
        bodies.decode(f'{{"end": {{"outcome": "failed", "life": {number}}}}}'.encode(), LifeChange)
    assert refused.value.kind is Kind.INVALID_REQUEST
    assert number == "1e999" or refused.value.flaws[0].at == "end.life"


def test_a_reading_whose_life_is_written_with_a_point_is_a_reading():
    row = msgspec.Raw(b'{"unit": "a", "life": 2.0, "cycle": 1, "values": {"x": 1.0}}')
    read = bodies.parsed(row, Reading)
    assert (read.life, read.values) == (2, {"x": 1.0})


@pytest.mark.parametrize("space", ["", " ", "\t\n", "\u00a0", "\u2003\u3000", "\u0085", "\x1c"])
def test_white_space_alone_is_no_reason(space):
    with pytest.raises(Refusal):
        bodies.decode(msgspec.json.encode({"reason": space}), Because)
    kept = bodies.decode(msgspec.json.encode({"reason": f"{space}é\n"}), Because)
    assert kept.reason == f"{space}é\n"
