"""An export as a folder: written beside its place, and put there when it is whole."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdsd.errors import AlreadyThere
from birdsd.files import explained_write
from birdsd.format import table

_SHOWN = 5


@dataclass
class Exported:
    """What was written: clips of each class and split, and what was not."""

    format: str
    folder: Path
    clips: Counter[tuple[str, str]] = field(default_factory=Counter)  # (class, split)
    recordings: set[str] = field(default_factory=set)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        classes = sorted({name for name, _ in self.clips})
        splits = sorted({split for _, split in self.clips}, reverse=True)
        return {
            "format": self.format, "folder": str(self.folder), "clips": sum(self.clips.values()),
            "recordings": len(self.recordings),
            "classes": {name: {s: self.clips[name, s] for s in splits} for name in classes},
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "remarks": self.remarks,
        }  # fmt: skip

    def text(self) -> str:
        """For a terminal."""
        facts = self.to_json()
        splits = sorted({split for _, split in self.clips}, reverse=True)
        rows = [[name, *(str(of[split]) for split in splits)] for name, of in facts["classes"].items()]
        lines = table([["class", *splits], *rows])
        lines.append(f"{self.folder}: {facts['clips']} clips of {facts['recordings']} recordings")
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out[:_SHOWN]]
        if len(self.left_out) > _SHOWN:
            lines.append(f"left out: and {len(self.left_out) - _SHOWN} more")
        return "\n".join([*lines, *self.remarks])


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `out` when everything is in it; nothing is left where that fails.

    `UserError` where `out` holds something already: clips of two exports in one folder would be one set.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AlreadyThere(
            f"{out} exists already", "an export is a folder of its own", "name another: --out FOLDER"
        )
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with explained_write(out):
            partial.mkdir(parents=True)
            yield partial
            if out.is_dir():
                out.rmdir()
            os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
