import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from rul_core.errors import ReadingsError
from rul_core.formats import CMAPSS_COLUMNS, parse_file


def cmapss_line(unit: int, cycle: int, cells: int = 24) -> str:
    return " ".join([str(unit), str(cycle), *(f"{number}.50" for number in range(cells))])


def test_cmapss_text_has_named_columns_and_keeps_its_cells_as_text():
    table = parse_file(
        f"{cmapss_line(1, 1)}  \n{cmapss_line(1, 2)}  \n".encode(), "train_FD001.txt"
    )
    assert table.columns == list(CMAPSS_COLUMNS)
    assert table.shape == (2, 26)
    assert table["sensor_21"].to_list() == ["23.50", "23.50"]
    assert set(table.dtypes) == {pl.String}


@pytest.mark.parametrize("end", ["", "\n", "  \n", "\r\n", " \r\n\r\n", "\n \n\n"])
def test_blanks_and_blank_lines_do_not_matter_in_cmapss_text(end):
    lines = [cmapss_line(1, cycle).replace(" ", "  \t ", 3) for cycle in (1, 2, 3)]
    text = "\n " + f"  {end or chr(10)}".join(lines) + end
    table = parse_file(text.encode(), "x.TXT")
    assert table["cycle"].to_list() == ["1", "2", "3"]


@pytest.mark.parametrize(("cells", "found"), [(23, 25), (25, 27)])
def test_a_cmapss_line_with_a_wrong_number_of_columns_is_named(cells, found):
    text = "\n".join([cmapss_line(1, 1), "", cmapss_line(1, 2, cells), cmapss_line(1, 3)])
    with pytest.raises(ReadingsError, match=f"x.txt, line 3: found {found} columns, expected 26"):
        parse_file(text.encode(), "x.txt")


def test_a_short_line_and_a_long_one_do_not_cancel_out():
    text = "\n".join([cmapss_line(1, 1), cmapss_line(1, 2, 23), cmapss_line(1, 3, 25)])
    with pytest.raises(ReadingsError, match="line 2: found 25"):
        parse_file(text.encode(), "x.txt")
    with pytest.raises(ReadingsError, match="line 3: found 2 columns, expected 3"):
        parse_file(b"a,b,c\n1,2,3\n4,5\n6,7,8,9\n", "x.csv")


def test_a_file_cut_while_it_was_written_is_named():
    text = "\n".join(cmapss_line(1, cycle) for cycle in range(1, 5))
    with pytest.raises(ReadingsError, match="line 4: found 17 columns, expected 26"):
        parse_file(text[:-58].encode(), "x.txt")


def test_another_kind_of_text_is_refused_with_a_remedy():
    with pytest.raises(ReadingsError, match=r"found 1 columns, expected 26.*\.csv with a header"):
        parse_file(b"unit,cycle,heat\n1,1,5\n", "x.txt")


def test_text_that_is_no_utf8_is_refused():
    with pytest.raises(ReadingsError, match=r"x.txt: not readable as text"):
        parse_file(cmapss_line(1, 1).encode().replace(b"23.50", b"2\xff.50"), "x.txt")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_may_be_separated_by_commas_semicolons_or_tabs(separator):
    text = "unit,cycle, heat \np 1,1,2.5\np 1,2,\n".replace(",", separator)
    table = parse_file(text.encode(), "pumps.csv")
    assert table.columns == ["unit", "cycle", "heat"]
    assert table.rows() == [("p 1", "1", "2.5"), ("p 1", "2", None)]


def test_csv_may_begin_with_a_byte_order_mark_and_hold_quotes_and_blank_lines():
    text = '\ufeff"unit, name",cycle\r\n"a ""b"", c",1\r\n\r\n"x\ny",2\r\n\r\n'
    table = parse_file(text.encode(), "x.csv")
    assert table.columns == ["unit, name", "cycle"]
    assert table.rows() == [('a "b", c', "1"), ("x\ny", "2")]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_without_separating_commas_may_have_decimal_commas(separator):
    text = "unit,cycle,heat,note\np 1,1, -2;5 ,a;b\np 1,2,;5e-3,1;2;3\np 1,3,7,\n"
    text = text.replace(",", "|").replace(";", ",").replace("|", separator)
    table = parse_file(text.encode(), "pumps.csv")
    assert table["heat"].to_list() == [" -2.5 ", ".5e-3", "7"]
    assert table["note"].to_list() == ["a,b", "1,2,3", None]


def test_where_numbers_have_points_a_comma_is_no_decimal_one():
    table = parse_file(b"unit;heat;mass\np1;1.5;1,234\n", "pumps.csv")
    assert table.row(0) == ("p1", "1.5", "1,234")


def test_csv_lines_may_end_in_carriage_returns_alone():
    assert parse_file(b"unit,cycle\rp1,1\rp1,2\r", "x.csv").rows() == [("p1", "1"), ("p1", "2")]


def test_a_column_name_may_have_a_line_break():
    assert parse_file(b'unit,"heat\n(K)"\np1,1\n', "x.csv").columns == ["unit", "heat\n(K)"]


def test_a_csv_without_a_header_is_refused_so_that_its_first_reading_is_not_lost():
    with pytest.raises(ReadingsError, match=r"x.csv, line 1: there is no header.*put the columns'"):
        parse_file(b"1,1,5.5\n1,2,5.6\n", "x.csv")


@pytest.mark.parametrize(
    ("line", "found"), [("p1,2", 2), ("p1,2,3,4", 4), ('"p1,2",3', 2), ("p1;2;3", 1)]
)
def test_a_csv_line_with_a_wrong_number_of_columns_is_named(line, found):
    text = f"unit,cycle,heat\np1,1,5\n{line}\np1,3,5\n"
    with pytest.raises(ReadingsError, match=f"x.csv, line 3: found {found} columns, expected 3"):
        parse_file(text.encode(), "x.csv")


def test_a_quote_that_is_never_closed_is_named():
    with pytest.raises(
        ReadingsError, match=r"x.csv, line \d+: unexpected end of data; close the q"
    ):
        parse_file(b'unit,cycle\n"p1,1\np1,2\n', "x.csv")


def test_a_column_named_twice_is_named():
    with pytest.raises(ReadingsError, match=r"line 1: the header names \['heat'\] twice"):
        parse_file(b"unit,heat,heat\np1,1,2\n", "x.csv")


def test_a_byte_that_is_no_utf8_is_named_with_its_line():
    with pytest.raises(ReadingsError, match=r"x.csv, line 3: the byte 0xfc is no UTF-8; save"):
        parse_file("unit,cycle\nk,1\nkü,2\n".encode("latin-1"), "x.csv")
    with pytest.raises(ReadingsError, match=r"x.csv, line 1: the byte 0xb0 is no UTF-8; save"):
        parse_file("unit,cycle,heat °C\nk,1,2\n".encode("latin-1"), "x.csv")


def test_parquet_keeps_its_types():
    table = pl.DataFrame({"unit": ["a"], "cycle": [1], "heat": [1.5]})
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    assert_frame_equal(parse_file(buffer.getvalue(), "x.parquet"), table)


def test_damaged_parquet_is_refused():
    with pytest.raises(ReadingsError, match=r"x.parquet: not readable as Parquet .*write it again"):
        parse_file(b"PAR1 not really PAR1", "x.parquet")


@pytest.mark.parametrize("name", ["x.txt", "x.csv", "x.parquet"])
@pytest.mark.parametrize("data", [b"", b"  \n\r\n "])
def test_an_empty_file_is_refused(name, data):
    with pytest.raises(ReadingsError, match=f"{name}: the file is empty"):
        parse_file(data, name)


def test_a_file_of_a_header_alone_is_refused():
    with pytest.raises(ReadingsError, match=r"x.csv: the file has columns but no row"):
        parse_file(b"unit,cycle\n", "x.csv")


@pytest.mark.parametrize("name", ["x.xlsx", "x.csv.tmp", "readme"])
def test_another_suffix_is_refused(name):
    with pytest.raises(ReadingsError, match=r"is unknown; give one of \.txt, \.csv, \.parquet"):
        parse_file(b"unit,cycle\n1,2\n", name)


cells = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), min_size=1, max_size=5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=5))
def test_what_polars_writes_as_csv_is_read_back(rows):
    table = pl.DataFrame(rows, schema={"unit": pl.String, "heat": pl.String}, orient="row")
    assert_frame_equal(parse_file(table.write_csv().encode(), "x.csv"), table)
