"""What was heard, as tables: Raven and Audacity for each recording, CSV and parquet for all of them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from birdsd.evaluation.classify.classify import Classified
from birdsd.evaluation.judges.listening import TABLES
from birdsd.evaluation.judges.table import left_out_lines
from birdsd.files import atomic_write, safe_name, write_json, write_text
from birdsd.format import span, table
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.labels.audacity import write_audacity
from birdsd.sound.labels.load import Label, write_raven

COLUMNS = ("recording", "start_s", "end_s", "species", "score")
_SPECIES_SHOWN = 30


def write_tables(done: Classified, codec: Codec, formats: Sequence[str]) -> list[Path]:
    """Write the tables that `formats` name below `done.out`, and detections.json; returns their paths."""
    written = [done.out / "detections.json"]
    write_json(written[0], done.to_json())
    low_hz, high_hz = codec.band_hz
    for name, duration_s, found in zip(done.names, done.durations_s, done.detections, strict=True):
        parts = [safe_name(part, 150) for part in Path(name).parts]
        place = done.out.joinpath(TABLES, *parts[:-1])
        labels = [Label(one.species, one.start_s, one.end_s, low_hz, high_hz) for one in found]
        if "raven" in formats:
            path = place / f"{parts[-1]}.selections.txt"
            scores = {"Confidence": [f"{one.score:.4f}" for one in found]}  # the column also where nothing is
            write_raven(path, labels, duration_s=duration_s, begin_file=Path(name).name, further=scores)
            written.append(path)
        if "audacity" in formats:
            path = place / f"{parts[-1]}.labels.txt"
            write_audacity(path, labels, duration_s=duration_s)
            written.append(path)
    rows = _rows(done)
    if "csv" in formats:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        written.append(done.out / "detections.csv")
        write_text(written[-1], text.getvalue())
    if "parquet" in formats:
        written.append(done.out / "detections.parquet")
        _write_parquet(written[-1], rows)
    return written


def _rows(done: Classified) -> list[dict[str, Any]]:
    return [
        {
            "recording": name,
            "start_s": round(one.start_s, 4),
            "end_s": round(one.end_s, 4),
            "species": one.species,
            "score": round(one.score, 4),
        }
        for name, found in zip(done.names, done.detections, strict=True)
        for one in found
    ]


def _write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    import pyarrow  # only parquet needs it
    import pyarrow.parquet

    kinds = (pyarrow.string(), pyarrow.float64(), pyarrow.float64(), pyarrow.string(), pyarrow.float32())
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with atomic_write(path) as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), stream)


def text_of(done: Classified) -> str:
    """For a terminal: how often each species was heard, in how many recordings; then what was left out."""
    counts: Counter[str] = Counter()
    recordings: Counter[str] = Counter()
    for found in done.detections:
        counts.update(one.species for one in found)
        recordings.update({one.species for one in found})
    rows = [["species", "detections", "recordings"]]
    rows += [[name, str(n), str(recordings[name])] for name, n in counts.most_common(_SPECIES_SHOWN)]
    lines = table(rows, {0}) if counts else ["no species reaches its threshold anywhere"]
    if (more := len(counts) - _SPECIES_SHOWN) > 0:
        lines.append(f"... and {more} more species")
    old = done.windows - done.heard_now
    kept = f" ({old} of them heard before)" if old else ""
    total = span(sum(done.durations_s))
    heard, windows = _counted(len(done.names), "recording"), _counted(done.windows, "window")
    lines += ["", f"{heard}, {total}, {windows}{kept}", *done.remarks]
    return "\n".join([*lines, *left_out_lines(done.left_out)])


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
