"""prepare in parts: several processes share the shards out, and a killed or doubled one does no harm."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from birdsd.errors import BadValue, Damaged
from birdsd.shards.index import ShardIndex
from birdsd.shards.prepare.prepare import prepare
from tests.shards.prepare.test_prepare import leftovers, run
from tests.support.errors import refuses
from tests.support.shard_makers import CODEC, data_config

PART = """
import sys
from birdsd.runs.share import ArrayShare
from birdsd.shards.prepare.prepare import prepare
from tests.support.shard_makers import CODEC, data_config
if __name__ == "__main__":
    data = data_config(sys.argv[1], sys.argv[2], samples_per_shard=4)
    report = prepare(data, CODEC, 1, False, ArrayShare.parse(sys.argv[3]))
    print(report.written, report.present, report.total)
"""


def start_part(tones: Path, folder: Path, part: str, script: Path) -> subprocess.Popen[str]:
    script.write_text(PART)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    command = [sys.executable, str(script), str(tones), str(folder), part]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def same_set(folder: Path, other: Path) -> bool:
    """Byte by byte but for the time that an index notes of its tar."""
    held = []
    for place in (folder, other):
        files = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file() and p.name[0] != "."}
        for name in files:
            if name.endswith(".index.json"):
                table = json.loads(files[name])
                assert table.pop("mtime_ns") == (place / table["tar"]).stat().st_mtime_ns
                files[name] = json.dumps(table).encode()
        held.append(files)
    return held[0] == held[1]


def test_parts_in_processes_of_their_own_make_the_unsplit_set(
    tones: Path, prepared: Path, tmp_path: Path
) -> None:
    """Three parts at once; one of them is started twice, one is killed while it writes, and repeated."""
    folder = tmp_path / "shards"
    children = [
        start_part(tones, folder, part, tmp_path / "part.py") for part in ("0/3", "0/3", "1/3", "2/3")
    ]
    victim = children[2]
    deadline = time.monotonic() + 60
    while victim.poll() is None and time.monotonic() < deadline:
        if list(folder.glob(f".writing-*-{victim.pid}")):
            break
        time.sleep(0.001)
    victim.kill()
    victim.communicate()
    written = 0
    for child in (*children[:2], children[3]):
        out, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        written += int(out.split()[0])
    total = len(list(prepared.glob("*.tar")))
    assert len(list(folder.glob("*.index.json"))) < total, "the killed part was not done"
    with refuses(str(folder), kind=Damaged):
        ShardIndex.open(folder)
    again = start_part(tones, folder, "1/3", tmp_path / "part.py")
    out, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert out.split()[1:] == [str(total), str(total)]
    assert written + int(out.split()[0]) <= total, "the duplicate did nothing twice"
    assert same_set(folder, prepared)
    assert all(name.startswith(".lock") for name in leftovers(folder))
    assert run(tones, folder, samples_per_shard=4).nothing_to_do


def test_a_part_says_what_is_there_and_the_last_one_describes_the_set(
    tones: Path, prepared: Path, tmp_path: Path
) -> None:
    from birdsd.runs.share import ArrayShare

    data = data_config(tones, tmp_path / "s", samples_per_shard=4)
    first = prepare(data, CODEC, 1, False, ArrayShare(0, 2))
    assert not first.finished and first.present == first.written < first.total and first.facts == {}
    last = prepare(data, CODEC, 1, False, ArrayShare(1, 2))
    assert last.finished and first.written + last.written == last.total
    assert same_set(tmp_path / "s", prepared)
    os.unlink(tmp_path / "s" / "dataset.json")  # killed before it was written: any part mends it
    assert prepare(data, CODEC, 1, False, ArrayShare(0, 2)).nothing_to_do
    assert same_set(tmp_path / "s", prepared)


def test_the_folder_of_a_writer_that_may_live_is_left_alone(tones: Path, tmp_path: Path) -> None:
    from birdsd.runs.share import ArrayShare

    folder = tmp_path / "s"
    here = next(p for p in Path("/proc").glob("[0-9]*") if p.name != str(os.getpid())).name
    host = platform.node()
    elsewhere, alive, dead, old = (
        folder / f".writing-{name}" for name in ("otherhost-7", f"{host}-{here}", f"{host}-99999999", "old-7")
    )
    for place in (elsewhere, alive, dead, old):
        place.mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    prepare(data_config(tones, folder, samples_per_shard=4), CODEC, 1, False, ArrayShare(0, 2))
    assert [p.is_dir() for p in (elsewhere, alive, dead, old)] == [True, True, False, False]


def test_the_job_takes_a_part(tones: Path, tmp_path: Path) -> None:
    from birdsd.jobs import prepare as job

    from birdsd.config import compose

    settings = [f"data.recordings={tones}", f"data.shards={tmp_path / 's'}", "codec=birdsong-small"]
    settings += ["machine.processes=1", "data.samples_per_shard=4"]
    first = job.run(compose("prepare", [*settings, "part=0/2"]))
    assert first.facts["finished"] is False and len(first.text.splitlines()) == 1
    assert f"{first.facts['shards_present']} of " in first.text, "how much of all parts there is"
    last = job.run(compose("prepare", [*settings, "part=1/2"]))
    assert last.facts["finished"] and "shards written" in last.text
    with refuses("part='1'", "part=0/8", kind=BadValue):
        job.run(compose("prepare", [*settings, "part=1"]))
