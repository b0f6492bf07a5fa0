"""Shares of a list: nothing twice, nothing left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from birdsd.errors import BadValue
from birdsd.runs.share import ArrayShare
from tests.support.errors import refuses


@given(st.integers(1, 40), st.integers(0, 200))
def test_shares_are_disjoint_complete_and_balanced(count: int, length: int) -> None:
    items = list(range(length))
    shares = [ArrayShare(index, count).share(items) for index in range(count)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == sorted(share) for share in shares)


def test_parts_are_read_and_written() -> None:
    assert ArrayShare.parse("2/8") == ArrayShare(2, 8) and str(ArrayShare(2, 8)) == "2/8"
    assert ArrayShare.parse(" 0 / 1 ").is_whole and not ArrayShare(0, 2).is_whole
    assert ArrayShare().share("abc") == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text", ["", "1", "8/8", "-1/8", "0/0", "1/x", "0/8/2", "1.0/2", "٣/٨", "0/9999999999"]
)
def test_what_is_no_part_is_refused(text: str) -> None:
    with refuses("part=", "i/n", kind=BadValue):
        ArrayShare.parse(text)
