"""Tables as text: parquet, or cells separated by tabs, semicolons, commas or bars, as programs write them."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

from birdsd.errors import Damaged
from birdsd.sound.labels.annotation import read_text
from birdsd.sound.species.wordlists import EMPTY


@dataclass(frozen=True)
class Sheet:
    """A table as text: its column names and, for each row, its line and cells."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    delimiter: str

    def column(self, at: int) -> list[str]:
        """The cells of a column that hold something."""
        cells = (row[at].strip() for _, row in self.rows if at < len(row))
        return [cell for cell in cells if cell.casefold() not in EMPTY]


def load_sheet(path: Path) -> Sheet:
    """A table as text: parquet, or separated by tabs, semicolons or commas.

    Excel's 'sep=' line is understood, and so are the quotes that R puts around everything.
    """
    path = Path(path)
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    return separated(read_text(path), path)


def separated(text: str, path: Path) -> Sheet:
    """The cells of a separated text."""
    lines = text.lstrip("\ufeff").splitlines()
    skipped, delimiter = 0, ""
    while skipped < len(lines):
        line = lines[skipped].strip(" \r")
        if match := re.fullmatch(r'"?sep=(.)"?', line, re.IGNORECASE):
            delimiter = match[1]
        elif line.strip(" ,;") and not (line.startswith("#") and not re.search("[\t,;]", line)):
            break
        skipped += 1
    first = lines[skipped] if skipped < len(lines) else ""
    if not delimiter or delimiter not in first:
        delimiter = max("\t,;|", key=first.count) if any(d in first for d in "\t,;|") else ","
    body = "\n".join(lines[skipped:])
    try:
        # In a table with tabs a quotation mark is a letter (6" pipe), but for a pair around a whole cell.
        source = io.StringIO(body, newline="")
        if delimiter == "\t":
            reader = csv.reader(source, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(source, delimiter=delimiter)
        table = [(reader.line_num + skipped, [_unquoted(cell) for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise Damaged(f"{path} is not a readable table: {error}") from error
    header = [name.strip() for name in table[0][1]] if table else []
    for number, cells in table:
        if any("\n" in cell and cell.count(delimiter) >= max(1, len(header) - 1) for cell in cells):
            raise Damaged(
                f"{path} has a quotation mark that is not closed, in the line {number} or above",
                "all lines up to the next quotation mark would be one cell",
            )
    rows = [(number, cells) for number, cells in table[1:] if any(cell.strip() for cell in cells)]
    # R's write.table names its rows, and leaves their column without a name.
    if rows and all(len(cells) == len(header) + 1 and cells[-1].strip() for _, cells in rows):
        header = ["", *header]
    return Sheet(header, rows, delimiter)


def _unquoted(cell: str) -> str:
    cell = cell.strip()
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"').replace('\\"', '"')
    return cell


def _parquet(path: Path) -> Sheet:
    import pyarrow  # only parquet needs it
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise Damaged(f"{path} is not a readable parquet table: {error}") from error
    rows = [["" if value is None else str(value) for value in row.values()] for row in table.to_pylist()]
    return Sheet(list(table.column_names), list(enumerate(rows, start=2)), "")
