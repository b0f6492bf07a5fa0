"""Numbers, sizes, durations and tables as text."""

import pytest

from birdsd.format import shortened, size, span, table


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (812, "812 B"), (1000, "0.977 KiB"), (3482, "3.4 KiB"), (12 << 20, "12 MiB"),
     (1023 << 20, "0.999 GiB"), (3 << 29, "1.5 GiB"), (250 << 30, "250 GiB"), (5 << 50, "5120 TiB")],
)  # fmt: skip
def test_sizes_are_binary_and_have_three_digits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "coarse", "exact"),
    [(-3, "0 s", "0.0 s"), (0.42, "0 s", "0.4 s"), (12.2, "12 s", "12 s"), (59.7, "60 s", "1 min 00 s"),
     (200, "3 min", "3 min 20 s"), (3599.7, "60 min", "1 h 00 min"), (7500, "2 h 05 min", "2 h 05 min"),
     (187200, "2 d 4 h", "2 d 4 h")],
)  # fmt: skip
def test_durations(seconds: float, coarse: str, exact: str) -> None:
    assert (span(seconds), span(seconds, exact=True)) == (coarse, exact)


def test_a_table_aligns_its_columns_and_drops_those_that_are_empty() -> None:
    rows = [("NAME", "COUNT", "EMPTY", "HOW"), ("one", "1", "", "well"), ("  three", "12", "", "")]
    assert table(rows, left=(0, 3), indent=1) == [
        " NAME     COUNT  HOW",
        " one          1  well",
        "   three     12",
    ]


def test_the_first_column_gives_way_and_keeps_its_end() -> None:
    name = "a-rather-long-name-of-a-run-2f81d7"
    lines = table([("RUN", "STATE"), (name, "running")], left=(0, 1), width=35)
    assert max(map(len, lines)) == 35 and "2f81d7  running" in lines[1] and "\u2026" in lines[1]
    assert shortened(name, len(name)) == name


def test_cells_cannot_steer_the_terminal() -> None:
    (_, line) = table([("NAME", "X"), ("a\nb\x1b[31m", "1\u00a02")])
    assert line == "a b?[31m  1 2"
