"""What was found, written as it is found: a line of JSON for each row, and tables in Markdown.

A line is on disk before the next is measured, so that whoever is killed leaves everything it had. A row that
is measured again takes the place of the old one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from birdsd.files import write_text

LINES, TABLES = "results.jsonl", "results.md"
# How an item ended; `done` alone is not tried again by the next call.
DONE, FAILED, TIMED_OUT, STOPPED = "done", "failed", "timed out", "stopped"
_OWN = ("at", "stage", "item", "table", "outcome")
# Tables that have another line for each of these; all others one for each item.
_KEYS = ("what", "way", "test")

Row = dict[str, Any]


class Record:
    """The results in a folder, old and new."""

    def __init__(self, folder: Path, heading: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.heading = folder, heading
        self.lines: list[Row] = list(read_lines(folder / LINES))

    def add(self, stage: str, item: str, row: Mapping[str, Any]) -> None:
        """Write one row, through to the disk, and the tables anew."""
        line = {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "stage": stage, "item": item, **row}
        self.lines.append(line)
        path = self.folder / LINES
        torn = path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(("\n" if torn else "") + json.dumps(line, default=str) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        write_text(self.folder / TABLES, self.markdown())

    def outcome(self, stage: str, item: str) -> str:
        """How the item ended when it was last tried; "" where it never was."""
        ended = [x["outcome"] for x in self.of(stage, item) if "outcome" in x]
        return str(ended[-1]) if ended else ""

    def of(self, stage: str, item: str = "") -> list[Row]:
        """The lines of a stage, or of one of its items."""
        return [x for x in self.lines if x["stage"] == stage and (not item or x["item"] == item)]

    def markdown(self) -> str:
        """Everything as tables: by stage, in the order in which they began."""
        parts = ["# GPU check", "", *([self.heading, ""] if self.heading else [])]
        for stage in dict.fromkeys(x["stage"] for x in self.lines):
            parts += [f"## {stage}", ""]
            rows = [x for x in self.of(stage) if "outcome" not in x]
            for table in dict.fromkeys(str(x.get("table", "")) for x in rows):
                parts += [*([f"### {table}", ""] if table else [])]
                parts += [*_table([x for x in rows if str(x.get("table", "")) == table]), ""]
            for item in dict.fromkeys(x["item"] for x in self.of(stage) if "outcome" in x):
                last = next(x for x in reversed(self.of(stage, item)) if "outcome" in x)
                if last["outcome"] != DONE:
                    parts += [f"- {item}: **{last['outcome']}** {last.get('why', '')}".rstrip()]
            parts += [""]
        return "\n".join(parts).rstrip() + "\n"


def read_lines(path: Path) -> Iterator[Row]:
    """The lines that are whole; the last one of a killed run may not be."""
    if not path.is_file():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"stage", "item"} <= line.keys():
            yield line


def _table(rows: list[Row]) -> list[str]:
    latest: dict[tuple[str, ...], Row] = {}
    for row in rows:
        latest[(row["item"], *[str(row.get(key, "")) for key in _KEYS])] = row
    columns = list(dict.fromkeys(name for row in latest.values() for name in row if name not in _OWN))
    lines = [f"| item | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row in latest.values():
        cells = [row["item"], *(_cell(row.get(name)) for name in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
