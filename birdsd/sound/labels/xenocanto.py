"""xeno-canto's metadata, as its API (v2 and v3) and download tools save it: JSON with `recordings`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.errors import NotFound
from birdsd.files import read_json
from birdsd.sound.species.names import NOTHING, Names, clean_name, read_names, read_types

_NUMBER = re.compile(r"(?<![A-Za-z0-9])XC ?(\d{2,})", re.IGNORECASE)


@dataclass(frozen=True)
class XenoCantoRecord:
    """What is used of one recording's metadata."""

    recording_id: str
    label: str
    sound_type: str
    licence: str
    recordist: str
    names: Names = NOTHING
    scientific: str = ""


def xenocanto_id(stem: str) -> str | None:
    """The catalogue number in a file's name ('XC123456 - American Robin' -> 'XC123456'), if there is one."""
    match = _NUMBER.search(stem)
    return f"XC{match[1]}" if match else None


def record_of(stem: str, records: dict[str, XenoCantoRecord]) -> XenoCantoRecord | None:
    """The record of a file: by its catalogue number, or by the one number in its name that is listed."""
    if number := xenocanto_id(stem):
        return records.get(number)
    listed = [
        f"XC{digits}" for digits in re.findall(r"(?<!\d)\d{2,}(?!\d)", stem) if f"XC{digits}" in records
    ]
    return records[listed[0]] if len(set(listed)) == 1 else None


def read_xenocanto(path: Path) -> dict[str, XenoCantoRecord]:
    """Metadata by catalogue number: a page, a list of pages, or a list of recordings."""
    found = {}
    for record in _records(read_json(Path(path), "xeno-canto metadata")):
        number = str(record.get("id", record.get("nr", ""))).strip().upper().removeprefix("XC")
        if not number.isdigit():
            continue
        scientific = f"{record.get('gen') or ''} {record.get('sp') or ''}".strip()
        names = read_names(str(record.get("en") or scientific))
        found[f"XC{number}"] = XenoCantoRecord(
            recording_id=f"XC{number}",
            label=", ".join(names.species),
            names=names,
            scientific=scientific,
            sound_type=read_types(str(record.get("type") or "")),
            licence=licence_name(str(record.get("lic") or "")),
            recordist=clean_name(str(record.get("rec") or "")),
        )
    if not found:
        raise NotFound(
            f"{path} has no xeno-canto recordings", "it needs a list `recordings` with `id` and `en`"
        )
    return found


def _records(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return _records(value["recordings"]) if "recordings" in value else [value]
    if isinstance(value, list):
        return [record for item in value if isinstance(item, dict) for record in _records(item)]
    return []


def licence_name(address: str) -> str:
    """'//creativecommons.org/licenses/by-nc-sa/4.0/' -> 'CC BY-NC-SA 4.0'; anything else stays as it is."""
    if match := re.search(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)", address):
        return f"CC {match[1].upper()} {match[2]}"
    if "creativecommons.org/publicdomain/zero" in address:
        return "CC0 1.0"
    return clean_name(address)
