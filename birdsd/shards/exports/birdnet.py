"""Folders of clips as BirdNET-Analyzer's `train` takes them: train/ and test/, a folder for each class.

A folder's name is `Scientific name_Common name`; several species in one clip are joined by commas without
spaces; clips without a bird are in `noise`, which is no class there.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

from birdsd.errors import NothingLeft
from birdsd.files import write_text
from birdsd.shards.exports import BIRDNET
from birdsd.shards.exports.cut import TEST, TRAIN, Asked, Clip, Cutting, write_clip
from birdsd.shards.exports.folder import Exported, whole_folder

NOISE = "noise"
_NO_CLASSES = {"noise", "other", "background", "silence"}  # names that mean no event there
_MANIFEST = "manifest.csv"


def export_birdnet(asked: Asked, out: Path) -> Exported:
    """Write the folders; `UserError` where no clip shows a species: there would be nothing to learn."""
    cutting = Cutting(asked)
    names = {species: folder_name(asked.class_label(species)) for species in cutting.species}
    result = Exported(BIRDNET, out)
    rows = []
    with whole_folder(out) as folder:
        held_back: list[Clip] = []
        for clip in cutting:
            if clip.split == TEST:
                held_back.append(clip)
            else:
                rows.append(_written(folder, clip, names, result))
        learnt = {name for name, split in result.clips if split == TRAIN}
        for clip in held_back:
            name = _class_of(clip, names)
            # A class that is only tested cannot be learnt there, and a combination is a class of its own.
            if name in learnt:
                rows.append(_written(folder, clip, names, result))
            else:
                cutting.left_out.append((clip.name, f"a test clip of '{name}', which has no training clip"))
        result.left_out = cutting.left_out
        if not learnt - {NOISE}:
            why = f": {result.left_out[0][0]}: {result.left_out[0][1]}" if result.left_out else ""
            raise NothingLeft(f"no clip of {asked.sounds} shows a labelled species{why}")
        write_text(folder / _MANIFEST, _csv(rows))
    _remark(result, names, learnt, asked)
    return result


def folder_name(label: str) -> str:
    """A label as the name of a folder: without what means something there (a comma joins labels, a minus in
    front makes a negative example) or to a file system.

    >>> folder_name("Setophaga townsendi_Townsend's Warbler"), folder_name("-a, b/c")
    ("Setophaga townsendi_Townsend's Warbler", 'a b c')
    """
    name = " ".join(re.sub(r'[\\/:*?"<>|,\x00-\x1f]+', " ", label).split()).strip(" .-")
    return f"{name}_{name}" if name.casefold() in _NO_CLASSES or not name else name


def _class_of(clip: Clip, names: dict[str, str]) -> str:
    return ",".join(sorted(names[species] for species in clip.species)) or NOISE


def _written(folder: Path, clip: Clip, names: dict[str, str], result: Exported) -> dict[str, object]:
    name = _class_of(clip, names)
    path = Path(clip.split, name, f"{clip.name}.wav")
    write_clip(folder / path, clip)
    result.clips[name, clip.split] += 1
    result.recordings.add(clip.recording_id)
    return {"file": path.as_posix(), "class": name, "split": clip.split, **clip.facts()}


def _csv(rows: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: str(row["file"])))
    return text.getvalue()


def _remark(result: Exported, names: dict[str, str], learnt: set[str], asked: Asked) -> None:
    plain = sorted(species for species, name in names.items() if "_" not in name)
    if plain:
        result.remarks.append(
            f"without a scientific name in the folder's name: {', '.join(plain[:5])}"
            + (f" and {len(plain) - 5} more" if len(plain) > 5 else "")
            + "; with BirdNET installed (pip install 'birdsd[birdnet]') its labels give them"
        )
    if NOISE not in learnt and len(learnt) == 1:
        result.remarks.append(
            "BirdNET-Analyzer wants a noise folder beside a single class: --environment FOLDER with sounds "
            "without birds"
        )
    if asked.seconds != 3.0:
        result.remarks.append("BirdNET-Analyzer takes the middle 3 s of each clip unless told otherwise")
    result.remarks.append(
        "test/ is split off by recording. BirdNET-Analyzer chooses its weights by what it is given as test "
        "data: report `birdsd run evaluate` on other recordings"
    )
