"""Numbers as people and programs write them into tables: decimal commas, thousands separators, times of day.

A comma is a decimal one only where the column shows it; a number that has two readings is given to nobody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SPACES = str.maketrans("", "", "\u00a0\u2007\u2009\u202f ")
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
_THOUSANDS_AND_POINT = re.compile(r"[+-]?\d{1,3}(,\d{3})+\.\d*")
_POINTS_AND_COMMA = re.compile(r"[+-]?\d{1,3}(\.\d{3})+,\d*")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,3}):(\d{1,2}(?:[.,]\d*)?)")


def comma_rule(cells: Iterable[str]) -> str:
    """What a comma means in these cells: 'decimal', 'thousands', 'mixed', or '' where nothing shows it."""
    decimal = thousands = False
    for cell in cells:
        cell = cell.strip().translate(_SPACES)
        if _POINTS_AND_COMMA.fullmatch(cell) or (_COMMA.fullmatch(cell) and not _THOUSANDS.fullmatch(cell)):
            decimal = True
        elif _THOUSANDS_AND_POINT.fullmatch(cell) or (cell.count(",") > 1 and _THOUSANDS.fullmatch(cell)):
            thousands = True
    if decimal == thousands:
        return "mixed" if decimal else ""
    return "decimal" if decimal else "thousands"


def column_rule(cells: list[str], table_rule: str) -> str:
    """The rule for one column: what it shows itself, else what the other columns of its table show.

    A column that mixes '1,234' with '987' or '2.5' can only mean thousands.
    """
    own = comma_rule(cells)
    if own in ("decimal", "thousands"):
        return own
    numbers = [cell.strip().translate(_SPACES) for cell in cells if cell.strip()]
    plain = [cell for cell in numbers if "," not in cell]
    if len(plain) < len(numbers) and any("." in cell for cell in plain):
        return "thousands"
    if own == "mixed" or table_rule == "mixed":
        return ""
    short = all(cell.lstrip("+-").isdigit() and len(cell.lstrip("+-")) <= 3 for cell in plain)
    return table_rule or ("thousands" if plain and short else "")


def parse_number(text: str, rule: str = "") -> float | None:
    """A finite number; None for an empty cell, for anything else, and for a comma that has two readings.

    rule: 'decimal' or 'thousands' as `column_rule` found it. 'm:ss' and 'h:mm:ss' are seconds.
    """
    text = text.strip().translate(_SPACES)
    if match := _CLOCK.fullmatch(text):
        hours, minutes, seconds = match.groups()
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    if _POINTS_AND_COMMA.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    elif _THOUSANDS_AND_POINT.fullmatch(text) or (text.count(",") > 1 and _THOUSANDS.fullmatch(text)):
        text = text.replace(",", "")
    elif _THOUSANDS.fullmatch(text):
        if rule not in ("decimal", "thousands"):
            return None
        text = text.replace(",", "." if rule == "decimal" else "")
    elif _COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if not _PLAIN.fullmatch(text):
        return None
    value = float(text)
    return value if abs(value) < float("inf") else None
