"""bearings: the bearings of birds in ambisonics: Raven tables, azigrams, a sound for each direction."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from birdsd.errors import NothingLeft, UserError
from birdsd.files import explained_write, safe_name, write_text
from birdsd.jobs_api import Outcome
from birdsd.schema import BearingsConfig
from birdsd.sound.audio.recordings import find_recordings
from birdsd.sound.bearings import Located, cells_of, locate, write_directions
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.load import load_recordings
from birdsd.sound.labels.raven import raven_text
from birdsd.sound.space.azigram import draw_azigram
from birdsd.sound.space.layouts import FOA, Layout


def run(config: BearingsConfig) -> Outcome:
    """Locate what is heard in every recording; one that cannot be is named, and the others go on."""
    source, out = Path(config.recordings), Path(config.out)
    Layout(FOA, heading_deg=config.heading_deg)  # refuses a heading that is none
    paths = find_recordings(source)
    if not paths:
        raise NothingLeft(f"there is no recording in {source}", "", "name a folder of sound files")
    labels = _labels(source, Path(config.labels) if config.labels else None)
    lines, rows, refused = [], [], []
    for path, name in zip(paths, _names(paths, source), strict=True):
        try:
            found = locate(
                path, labels.get(path, ()), order=config.order, band_hz=(config.low_hz, config.high_hz),
                picture=config.picture,
            )  # fmt: skip
        except UserError as error:
            if len(paths) == 1:
                raise
            refused.append((path, str(error)))
            continue
        lines.append(_write(found, out, name, config))
        rows += [{"path": str(path), **row} for row in _rows(found, config.heading_deg)]
    if refused and not lines:
        raise NothingLeft(f"none of {len(paths)} recordings can be used; {refused[0][1]}")
    lines += [f"  left out: {why}" for _, why in refused[:10]]
    with_one = sum(bool(row["azimuth_deg"]) for row in rows)
    lines.append(f"{with_one} of {len(rows)} sounds have a bearing; tables and pictures are in {out}")
    _write_table(out / "bearings.csv", rows)
    facts = {
        "out": str(out), "sounds": rows, "with_bearing": with_one,
        "refused": [{"path": str(path), "why": why} for path, why in refused],
    }  # fmt: skip
    return Outcome("\n".join(lines), facts)


def _names(paths: Sequence[Path], source: Path) -> list[str]:
    """What the files of each recording are called: as it is, where no other is called so, else with its
    folders."""
    stems = Counter(safe_name(path.stem) for path in paths)
    found: list[str] = []
    for number, path in enumerate(paths):
        name = safe_name(path.stem)
        if stems[name] > 1:
            name = safe_name(f"{number:05d}_" + "_".join(path.relative_to(source).with_suffix("").parts))
        found.append(name)
    return found


def _labels(source: Path, table: Path | None) -> dict[Path, tuple[Label, ...]]:
    """Whatever labels there are; without any, what stands out is located."""
    try:
        found = load_recordings(source, table, require_labels=False)
    except UserError:
        if table is not None:
            raise
        return {}
    return {one.path: one.labels for one in found.recordings}


def _write(found: Located, out: Path, name: str, config: BearingsConfig) -> str:
    """The files of one recording, and a line about it."""
    with explained_write(out):
        out.mkdir(parents=True, exist_ok=True)
    table = raven_text(
        [one.label for one in found.placed], duration_s=found.info.duration_s, top_hz=found.info.rate_hz / 2,
        begin_file=found.path.name, further=cells_of(found.placed, config.heading_deg),
    )  # fmt: skip
    write_text(out / f"{name}.Table.1.selections.txt", table)
    length_s = max(found.info.duration_s, 1e-3)
    if found.azigram is not None:
        marks = [
            ((p.label.start_s or 0) / length_s, p.bearing.azimuth_deg) for p in found.placed if p.bearing
        ]
        draw_azigram(found.azigram, out / f"{name}.azigram.png", marks)
    sounds = write_directions(found, out, name) if config.separate else []
    said = ", ".join(f"{one:.0f}" for one in found.directions)
    heard = f"heard from {said} degrees" if said else "nobody is heard from anywhere"
    more = f"; {len(sounds)} sounds apart" if sounds else ""
    return f"{found.path} ({found.order}): {heard}{more}"


def _rows(found: Located, heading_deg: float) -> list[dict[str, str]]:
    cells = cells_of(found.placed, heading_deg)
    azimuth, elevation, bearing, diffuseness = cells.values()
    return [
        {
            "start_s": f"{one.label.start_s or 0:.3f}", "end_s": f"{one.label.end_s or 0:.3f}",
            "species": one.label.label, "azimuth_deg": azimuth[at], "elevation_deg": elevation[at],
            "bearing_deg": bearing[at], "diffuseness": diffuseness[at],
        }
        for at, one in enumerate(found.placed)
    ]  # fmt: skip


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    names = (
        "path",
        "start_s",
        "end_s",
        "species",
        "azimuth_deg",
        "elevation_deg",
        "bearing_deg",
        "diffuseness",
    )
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())
