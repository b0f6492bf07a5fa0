"""A comma is a decimal one only where the column shows it."""

from __future__ import annotations

import pytest

from birdsd.sound.labels.numbers import column_rule, comma_rule, parse_number
from birdsd.sound.labels.tables import read_table


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1,0", "1,45", "12,3"], [1.0, 1.45, 12.3]),
        (["0,5", "1", "2,25"], [0.5, 1.0, 2.25]),
        (["1,234", "987"], [1234.0, 987.0]),  # a column in which not every number has one: thousands
        (["1,234.5", "2,000"], [1234.5, 2000.0]),
        (["1.234,5", "12,5"], [1234.5, 12.5]),
        (["1,234,567", "1,000"], [1234567.0, 1000.0]),
        (["1 234,5", "987,1"], [1234.5, 987.1]),
        (["2,500", "3,500"], [None, None]),  # 2.5 or 2500: nobody can tell
        (["2,500", "1500"], [None, 1500.0]),
        (["1e3", "-2.5E-1", ".5"], [1000.0, -0.25, 0.5]),
        (["0:12", "1:02:03.5", "0:01,5"], [12.0, 3723.5, 1.5]),
        (["soon", "", "1.2.3", "inf", "1,2,3", "0x10", "1_000"], [None] * 7),
    ],
)
def test_numbers_of_a_column(cells, values):
    rule = column_rule(cells, comma_rule(cells))
    assert [parse_number(cell, rule) for cell in cells] == values


def test_what_another_column_shows_decides():
    times, frequencies = ["1,5", "2,25"], ["2,500", "3,500"]
    table = comma_rule([*times, *frequencies])
    assert [parse_number(cell, column_rule(frequencies, table)) for cell in frequencies] == [2.5, 3.5]
    table = comma_rule(["1.5", "2.25", "12,345.5", *frequencies])
    assert [parse_number(cell, column_rule(frequencies, table)) for cell in frequencies] == [2500.0, 3500.0]


@pytest.mark.parametrize("empty", ["", "#N/A", "n.a.", "NaN", "-"])
def test_what_stands_for_nothing_is_no_malformed_number(tmp_path, empty):
    (tmp_path / "t.csv").write_text(f"file,start,end,low,label\na.flac,1,2,{empty},Owl\n")
    found = read_table(tmp_path / "t.csv")
    assert found.problems == [] and found.rows[0].low_hz is None
