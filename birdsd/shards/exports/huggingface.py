"""A folder that Hugging Face's `datasets` loads: train/, test/, metadata.parquet, FLAC, a card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birdsd.errors import NothingLeft
from birdsd.files import write_text
from birdsd.shards.exports import HUGGINGFACE
from birdsd.shards.exports.cut import TEST, TRAIN, Asked, Cutting, write_clip
from birdsd.shards.exports.folder import Exported, whole_folder

NO_BIRD = "(no bird)"
_TABLE = "metadata.parquet"
_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LICENCE = re.compile(r"CC[ -]?(BY(?:-NC)?(?:-SA|-ND)?)[ -]?(\d\.\d)?", re.IGNORECASE)


def export_huggingface(asked: Asked, out: Path) -> Exported:
    """Write the folder; `UserError` where no clip is left."""
    cutting = Cutting(asked)
    result = Exported(HUGGINGFACE, out)
    rows: dict[str, list[dict[str, Any]]] = {TRAIN: [], TEST: []}
    with whole_folder(out) as folder:
        for clip in cutting:
            file = f"{len(rows[clip.split]):06d}-{clip.name}.flac"
            write_clip(folder / clip.split / file, clip)
            boxes = [label for label in clip.labels if label.start_s is not None and label.end_s is not None]
            rows[clip.split].append(
                {
                    "file_name": file, "species": [asked.class_label(name) for name in clip.species],
                    "events": [
                        {"species": asked.class_label(box.label), "start_s": box.start_s, "end_s": box.end_s,
                         "low_hz": box.low_hz, "high_hz": box.high_hz}
                        for box in boxes
                    ],
                    **clip.facts(),
                }
            )  # fmt: skip
            result.clips["; ".join(clip.species) or NO_BIRD, clip.split] += 1
            result.recordings.add(clip.recording_id)
        result.left_out = cutting.left_out
        kept = {split: members for split, members in rows.items() if members}
        if not kept:
            why = f": {result.left_out[0][0]}: {result.left_out[0][1]}" if result.left_out else ""
            raise NothingLeft(f"no clip could be cut from {asked.sounds}{why}")
        for split, members in kept.items():
            _write_table(folder / split / _TABLE, members)
        write_text(folder / "README.md", _card(asked, kept, result))
    result.remarks.append(f'datasets.load_dataset("{out}") reads it')
    return result


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    number, text = pyarrow.float64(), pyarrow.string()
    events = pyarrow.struct(
        [("species", text), ("start_s", number), ("end_s", number), ("low_hz", number), ("high_hz", number)]
    )
    types = {
        "species": pyarrow.list_(text),
        "events": pyarrow.list_(events),
        "start_s": number,
        "end_s": number,
    }
    schema = pyarrow.schema([(name, types.get(name, text)) for name in rows[0]])
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), path)


def licence_ids(licences: Sequence[str]) -> list[str]:
    """The hub's names of licences, sorted; 'other' for those that it has none for.

    >>> licence_ids(["CC BY-NC-SA 4.0", "CC0", "ask the author"])
    ['cc-by-nc-sa-4.0', 'cc0-1.0', 'other']
    """
    found = set()
    for licence in licences:
        match = _LICENCE.search(licence)
        if "cc0" in licence.lower().replace(" ", "") or "creativecommons.org/publicdomain/zero" in licence:
            found.add("cc0-1.0")
        elif match:
            found.add(f"cc-{match[1].lower()}-{match[2] or '4.0'}")
        else:
            found.add("other")
    return sorted(found)


def _card(asked: Asked, rows: dict[str, list[dict[str, Any]]], result: Exported) -> str:
    """README.md with its YAML head, as the hub shows it."""
    import yaml

    everything = [row for members in rows.values() for row in members]
    species = sorted({name for row in everything for name in row["species"]})
    ids = licence_ids(sorted({row["licence"] for row in everything}))
    head = {
        "license": ids if len(ids) > 1 else ids[0],
        "task_categories": ["audio-classification"],
        "tags": ["bioacoustics", "birds"],
        "size_categories": [next((name for most, name in _SIZES if len(everything) < most), "n>1M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/**"} for split in rows],
            }
        ],
    }
    recordists = sorted({row["recordist"] for row in everything if row["recordist"]})
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip(), "---", "",
        "# Bird sounds, cut by birdsd", "",
        f"{len(everything)} clips of {asked.seconds:g} s at {asked.rate_hz} Hz, of {len(result.recordings)} "
        f"recordings: {', '.join(f'{len(members)} {split}' for split, members in rows.items())}. "
        "Splits are by recording; near-identical recordings are in one split.", "",
        "| column | what it is |", "|---|---|",
        "| `audio` | the clip |",
        "| `species` | every species in it; none: no bird |",
        "| `events` | boxes in seconds of the clip and hertz, where somebody drew them |",
        "| `recording_id`, `start_s`, `end_s`, `source` | the recording, the stretch of it, its file |",
        "| `origin` | `real` or `synthetic` |",
        "| `licence`, `recordist` | of the recording; every clip has its own |", "",
        f"Species: {', '.join(species) or 'none'}.", "",
        f"Recordists: {', '.join(recordists) or 'not known'}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
