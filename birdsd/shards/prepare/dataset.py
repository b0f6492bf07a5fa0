"""What stands beside the shards of a finished set: dataset.json, problems.json, recordings.csv, the
dataset card and the contact sheet. Everything here is made from the shards' indices."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import birdsd
from birdsd.errors import NothingLeft
from birdsd.files import read_json, write_json, write_text
from birdsd.remarks import coded
from birdsd.schema import DataConfig
from birdsd.shards.index import DATASET_FILE, ShardIndex, listed
from birdsd.shards.prepare.account import accounted
from birdsd.shards.prepare.plan import Plan, relative
from birdsd.shards.storage.table import ShardTable, index_path, load_table
from birdsd.shards.summary import add_up
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.labels.annotation import LabelledSet, Recording

FORMAT = "birdsd-dataset-1"
PROBLEMS_FILE = "problems.json"
RECORDINGS_FILE = "recordings.csv"


def write_dataset(folder: Path, plan: Plan, data: DataConfig, codec: Codec, found: LabelledSet) -> None:
    """Describe the finished shards of `folder`; dataset.json makes the set valid, and the card comes last.

    The same shards are described in the same bytes, so that two that do so at once do no harm.
    """
    from birdsd.shards.prepare.card import write_card

    problems, skipped = collect_problems(folder, plan, data, found)
    facts = add_up((task.split, table.summary) for task, table in _tables(folder, plan))
    if not facts["splits"]:
        raise NothingLeft(
            f"nothing in {data.recordings} could be used: {_reasons(problems + skipped)}",
            "at least one recording must be readable and not silent",
            f"{folder / PROBLEMS_FILE} lists every file with its reason",
        )
    dataset = {
        "format": FORMAT,
        "name": data.name,
        "written_by": f"birdsd {birdsd.__version__}",
        "codec": codec.fingerprint(),
        "image_shape": list(codec.image_shape),
        "clip_s": codec.clip_s,
        **facts,
        "problems": len(problems),
        "skipped": len(skipped),
        "account": accounted(found, (table.summary for _, table in _tables(folder, plan)), facts),
        "shards": [
            {
                "name": task.name,
                "split": task.split,
                "count": len(table),
                "size": table.size,
                "contents": table.contents,
            }
            for task, table in _tables(folder, plan)
            if len(table)
        ],
    }
    write_text(folder / RECORDINGS_FILE, _recordings_table(found.recordings, plan, data))
    write_json(folder / DATASET_FILE, dataset)
    write_card(ShardIndex.open(folder))


def collect_problems(
    folder: Path, plan: Plan, data: DataConfig, found: LabelledSet
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Everything that was left out, from the labels and from the sound; also written to problems.json."""
    root = Path(data.recordings or ".")
    problems = [{"path": str(p.path), "reason": p.reason, **coded(p.reason)} for p in found.problems]
    skipped: list[dict[str, str]] = []
    for _, table in _tables(folder, plan):
        problems += table.summary["problems"]
        skipped += table.summary["skipped"]
    for entry in (*problems, *skipped):
        entry["path"] = relative(Path(entry["path"]), root)
    write_json(folder / PROBLEMS_FILE, {"problems": problems, "skipped_clips": skipped})
    return problems, skipped


def describe_set(folder: Path) -> dict[str, Any]:
    """The facts of a prepared set, with its first problems, for the report."""
    index = ShardIndex.open(folder)
    left_out = read_json(folder / PROBLEMS_FILE) if (folder / PROBLEMS_FILE).is_file() else {}
    facts = {k: v for k, v in index.dataset.items() if k != "shards"}
    return {
        **facts,
        "fingerprint": index.fingerprint,
        "shards": sum(len(index.shards(split)) for split in index.splits),
        "bytes": sum(shard.size for split in index.splits for shard in index.shards(split)),
        "problem_list": left_out.get("problems", [])[:20],
    }


def _tables(folder: Path, plan: Plan) -> Iterator[tuple[Any, ShardTable]]:
    for task in plan.tasks:
        yield task, load_table(index_path(folder / task.name))


def _reasons(entries: list[dict[str, str]]) -> str:
    return (
        listed([f"{entry['path']} ({entry['reason']})" for entry in entries], 3) or "there are no recordings"
    )


def _recordings_table(recordings: list[Recording], plan: Plan, data: DataConfig) -> str:
    """One row a file, for attribution and for whoever wants to know what was in which split."""
    root = Path(data.recordings or ".")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "recording_id", "split", "species", "duration_s", "licence", "recordist"])
    places = {id(recording): relative(recording.path, root) for recording in recordings}
    for recording in sorted(recordings, key=lambda r: places[id(r)]):
        writer.writerow(
            [
                places[id(recording)],
                recording.recording_id,
                plan.splits[recording.recording_id],
                "; ".join(recording.species),
                f"{recording.duration_s:.3f}",
                recording.licence,
                recording.recordist,
            ]
        )
    return stream.getvalue()
