"""The doctor's checks of folders: file systems, scratch, shards, models, checkpoints, leftovers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from birdsd.checks import folders
from birdsd.checks.context import DoctorContext, Finding
from birdsd.config import compose
from birdsd.files import exclusive, write_json
from birdsd.runs import allocations
from birdsd.schema import SiteConfig
from birdsd.site import filesystem
from tests.support.captured import facts_of_testbed, facts_of_university
from tests.support.doctor import ALMA, TESTBED, case, levels, only
from tests.support.histories import History
from tests.support.hub import into_cache, pipeline
from tests.support.remarks import remarked
from tests.support.shard_makers import foreign_set, npy, sample_members, tar_of

# -- files ----------------------------------------------------------------------------------------------

STOPPED_BY = "robin on login1"
MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /home rw - nfs4 files.alma:/export/home rw
31 22 0:26 / /lustre rw - lustre 10.0.0.1@tcp:/big rw
32 30 0:27 / /home/robin/with\\040space rw - tmpfs tmpfs rw
33 22 0:28 / /tmp rw - ext4 /dev/vdb rw
34 33 0:29 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("place", "kind", "source"),
    [
        ("/", "ext4", "/dev/vda"),
        ("/home", "nfs4", "files.alma:/export/home"),
        ("/home/robin/x", "nfs4", "files.alma:/export/home"),
        ("/homework", "ext4", "/dev/vda"),
        ("/home/robin/with space/x", "tmpfs", "tmpfs"),
        ("/lustre/x", "lustre", "10.0.0.1@tcp:/big"),
        ("/tmp/x", "tmpfs", "tmpfs"),
    ],
)
def test_which_file_system(place: str, kind: str, source: str) -> None:
    found = filesystem.find_mount(MOUNTS, place)
    assert found is not None and (found.kind, found.source) == (kind, source)


def test_quotas() -> None:
    home = filesystem.Mount("/home", "nfs4", "files.alma:/export/home")
    told = "Disk quotas for user robin (uid 1000):\n     Filesystem  blocks   quota   limit   grace   files\n"
    line = "files.alma:/export/home  5000* 4000  6000  1700000000  10  100  200  0\n"
    assert filesystem.read_quota(told + line, home) == filesystem.Quota(5000 * 1024, 4000 * 1024, 10, 100)
    lustre = filesystem.Mount("/lustre", "lustre", "10.0.0.1@tcp:/big")
    told = "        /lustre  7000       0  9000       -      12       0       0       -\n"
    assert filesystem.read_quota(told, lustre) == filesystem.Quota(7000 * 1024, 9000 * 1024, 12, 0)
    assert filesystem.read_quota("none\n", home) is None


def test_what_a_folder_can_do(tmp_path: Path) -> None:
    with filesystem.trial_folder(tmp_path / "not" / "there") as folder:
        assert folder.parent == tmp_path
        assert filesystem.trouble_with_renames(folder) == ""
        assert filesystem.trouble_with_locks(folder) == ""
        assert filesystem.clock_ahead_s(folder) == 0.0
        assert filesystem.write_speed(folder, 1 << 20) > 0
    assert list(tmp_path.iterdir()) == []
    assert filesystem.trouble_with_renames(tmp_path / "gone") != ""


@pytest.mark.parametrize(("ahead", "level"), [(0.0, "ok"), (1.0, "ok"), (5.0, "warning"), (-45.0, "error")])
def test_clocks(ahead: float, level: str) -> None:
    (found,) = folders._clock(ahead)
    assert found.level == level


def test_a_folder_of_runs_on_the_wrong_file_system() -> None:
    memory = Path("/dev/shm")
    if filesystem.mount_of(memory).kind != "tmpfs":
        pytest.skip("no /dev/shm in memory here")
    here = list(
        folders.check_runs_folder(DoctorContext(SiteConfig(name="l", executor="local"), None, None, memory))
    )
    only(here, "warning", "lost at the next reboot")
    there = list(folders.check_runs_folder(case(ALMA, facts_of_university(), runs_root=memory)))
    only(there, "warning", "this machine's memory", "compute nodes can see")
    assert not list(memory.glob(".birdsd-doctor-*"))


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    found = folders.check_runs_folder(DoctorContext(None, None, None, tmp_path / "file" / "runs"))
    only(found, "error", "cannot write")


def test_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PLACE", str(tmp_path))

    def look(scratch: str) -> Finding:
        (found,) = folders.check_scratch(case(replace(TESTBED, scratch=scratch), facts_of_testbed()))
        return found

    assert look("$PLACE").level == "ok" and "written" in look("$PLACE").what
    assert look("$PLACE/none").level == "warning"
    assert look("$NOWHERE_SET").level == "ok"
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert look("$NOWHERE_SET").level == "error" and look("$PLACE/none").level == "error"


# -- what a run reads and leaves ------------------------------------------------------------------------


def test_shards(tmp_path: Path) -> None:
    folder = foreign_set(tmp_path / "shards")

    def look(deep: bool = False) -> list[Finding]:
        settings = compose("train", [f"data.shards={folder}"])
        return list(folders.check_shards(DoctorContext(None, settings, deep=deep)))

    (found,) = look()
    assert found.level == "ok" and "3 in " in found.what and "15 train" in found.what
    (found,) = look(deep=True)
    assert found.level == "ok" and "checksums" in found.what
    (found,) = folders.check_shards(DoctorContext(None, compose("train")))
    assert found.level == "error" and "data.shards" in found.what
    # The run began with these; then one of them changed.
    from birdsd.shards.index import ShardIndex

    history = History(tmp_path / "runs")
    inventory = ShardIndex.open(folder).inventory()
    write_json(history.folder / "shards.json", {"folder": str(folder), "inventory": inventory})
    (found,) = folders.check_shards(DoctorContext(run=history.run))
    assert found.level == "ok"
    (folder / "train-000001.tar").unlink()
    (found,) = folders.check_shards(DoctorContext(run=history.run))
    assert found.level == "error" and "train-000001.tar" in found.what
    shutil.rmtree(folder)
    (found,) = look()
    assert found.level == "error" and str(folder) in found.what


@pytest.mark.parametrize("deep", [False, True])
def test_shards_of_others_that_lack_something_or_cannot_be_read(tmp_path: Path, deep: bool) -> None:
    def look(*members: tuple[str, bytes]) -> list[Finding]:
        tar_of(tmp_path / "shards" / "train-0.tar", list(members))
        settings = compose("train", [f"data.shards={tmp_path / 'shards'}"])
        return list(folders.check_shards(DoctorContext(None, settings, deep=deep)))

    whole = [*sample_members("a", 1), *sample_members("b", 2)]
    found = look(*whole, ("c.npy", npy(np.ones((1, 4, 4), np.uint8))), ("d.json", b"{}"))
    assert [(one.topic, one.level) for one in found[:2]] == [("samples", "warning")] * 2
    for one, part, key in zip(found, ("image", "caption"), "dc", strict=False):
        assert "1 of 4 train samples" in one.what and part in one.what and f"'{key}'" in one.what
    assert found[2].level == ("error" if deep else "ok")
    (found,) = look(("a.npy", npy(np.ones((1, 4, 4), np.float32))), ("a.json", b"{}"))
    assert found.level == "error" and "pixels.json" in found.what
    (found,) = look(("XC1. Track 2.0.npy", npy(np.ones((1, 4, 4), np.uint8))))
    assert found.level == "error" and "first dot" in found.what and "XC1_ track 2_0.npy" in found.what


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = compose("train", ["model=sd15", "model.source=someone/bird"])
    one = case(TESTBED, facts_of_testbed(), settings=settings, runs_root=tmp_path)
    only(folders.check_models(one), "error", "not in", "birdsd cache-models someone/bird")
    online = case(replace(TESTBED, offline=False), facts_of_testbed(), settings=settings, runs_root=tmp_path)
    only(folders.check_models(online), "warning", "birdsd cache-models")
    made = pipeline(tmp_path / "made")
    snapshot = into_cache(tmp_path / "hub", made)
    assert levels(folders.check_models(one)) == {"models": "ok", "offline": "ok"}
    (snapshot / "unet" / "config.json").unlink()
    only(folders.check_models(one), "error", "unet: no config.json")
    settings.model.source = str(made)
    assert levels(folders.check_models(one))["models"] == "ok"
    (made / "tokenizer" / "merges.txt").unlink()
    only(folders.check_models(one), "error", "tokenizer")
    settings.model.source = "./nowhere"
    only(folders.check_models(one), "error", "./nowhere does not exist")


def test_leftovers(tmp_path: Path) -> None:
    history = History(tmp_path)
    folder = history.folder
    assert list(folders.check_leftovers(DoctorContext(run=history.run))) == []
    (folder / "submitit").mkdir()
    (folder / "submitit" / "12_submitted.pkl.save_tmp").touch()
    (folder / "checkpoints" / "000000000016.partial").mkdir(parents=True)
    (folder / "checkpoints" / "000000000008.bad").mkdir()
    allocations.request_stop(folder, STOPPED_BY)
    said = "\n".join(
        f"{one.level} {one.what}" for one in folders.check_leftovers(DoctorContext(run=history.run))
    )
    assert "warning submitit/12_submitted.pkl.save_tmp" in said
    assert "ok checkpoints/000000000016.partial" in said
    assert f"warning {STOPPED_BY}" in said
    only(folders.check_checkpoints(DoctorContext(run=history.run)), "warning", "000000000008.bad")


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    history = History(tmp_path)
    hold = (
        "import sys\nfrom birdsd.files import exclusive\n"
        "with exclusive(sys.argv[1]):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(history.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        only(
            folders.check_leftovers(DoctorContext(run=history.run)),
            "warning",
            f"process {holder.pid} holds .lock",
        )
    finally:
        holder.communicate()
    assert list(folders.check_leftovers(DoctorContext(run=history.run))) == []
    with exclusive(history.folder):
        pass  # looking at the lock has not taken it


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    """Sizes are compared at once; --deep has the bytes judged by what restores them."""
    from birdsd.training.checkpoints.tensorfile import TensorFile

    history = History(tmp_path)
    (found,) = folders.check_checkpoints(DoctorContext(run=history.run))
    assert found.level == "ok" and "none yet" in found.what
    folder = history.folder / "checkpoints" / "000000000008"
    folder.mkdir(parents=True)
    weights = folder / "tensors-00000-of-00001.safetensors"
    weights.write_bytes(os.urandom(1000))
    write_json(folder / "COMMIT.json", {"files": {weights.name: TensorFile(weights).sum().to_json()}})

    def look(deep: bool) -> Finding:
        (found,) = folders.check_checkpoints(DoctorContext(run=history.run, deep=deep))
        return found

    assert look(deep=False).level == look(deep=True).level == "ok"
    data = bytearray(weights.read_bytes())
    data[500] ^= 1
    weights.write_bytes(data)
    assert look(deep=False).level == "ok"
    found = look(deep=True)
    assert found.level == "error" and found.to_json()["code"] == "other-bytes"
    weights.write_bytes(data[:-1])
    smaller = look(deep=False)
    assert remarked([smaller.what], "another-size") and "999 " in smaller.what and "1000" in smaller.what
    weights.unlink()
    assert remarked([look(deep=False).what], "unreadable").facts == {"file": weights.name}
    (folder / "COMMIT.json").write_text("{", encoding="utf-8")
    assert "COMMIT.json" in look(deep=False).what
