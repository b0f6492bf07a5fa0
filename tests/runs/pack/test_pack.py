"""Runs are carried elsewhere whole, go on there exactly, and nothing hostile or damaged is unpacked."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from birdsd.cli import main
from birdsd.config import as_dict, compose
from birdsd.errors import (
    AlreadyThere,
    Damaged,
    InUse,
    Mismatch,
    NotFound,
    NothingLeft,
    Unsupported,
)
from birdsd.files import exclusive, read_json, sha256_file, write_json
from birdsd.runs.allocations import request_stop
from birdsd.runs.pack.archive import MANIFEST, open_pack
from birdsd.runs.pack.pack import pack, settings_of
from birdsd.runs.pack.unpack import unpack
from birdsd.runs.run import Run, RunStore, adopt_class_pictures, open_training
from birdsd.training.records import read_metrics
from tests.support.errors import refused_as, refuses
from tests.support.tiny import make_shards
from tests.support.untrained import make_model

SETTINGS = [
    "model=tiny", "method=full", "model.init=pretrained", "optim.total_samples=48", "optim.global_batch=6",
    "optim.warmup_samples=12", "save.every_samples=12", "save.validate_every_samples=24",
    "save.validation_samples=4", "machine.threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def carried(tmp_path_factory) -> dict[str, Any]:
    """A run that trained undisturbed to its end, packed in its middle while it was under way."""
    from birdsd.diffusion.methods import make_method
    from birdsd.training.loop import train

    root = tmp_path_factory.mktemp("here")
    shards, model = make_shards(root / "shards"), make_model(root / "base")
    config = compose(
        "train", [*SETTINGS, f"model.source={model}", f"data.shards={shards}", f"runs={root / 'runs'}"]
    )
    run, index = open_training(config)
    facts: dict[str, Any] = {}
    steps = 0

    def look() -> bool:
        nonlocal steps
        steps += 1
        if steps == 6:
            facts.update(pack(run, root / "live.zip", with_shards=True)[0])
        return False

    train(config, make_method(config, index), index, run.folder, look, run.event)
    return {"run": run, "facts": facts, "root": root, "shards": shards, "model": model}


def trajectory(folder: Path) -> list[tuple[Any, ...]]:
    keys = ("kind", "position", "loss", "learning_rate", "gradient_norm")
    return [tuple(line.get(k) for k in keys) for line in read_metrics(folder) if line["kind"] != "resume"]


def weights(folder: Path) -> dict[str, str]:
    newest = max((folder / "checkpoints").iterdir())
    found = [*newest.glob("*.safetensors"), *(folder / "export").rglob("*.safetensors")]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in found}


def test_a_run_goes_on_elsewhere_exactly(carried, tmp_path: Path) -> None:
    assert 0 < carried["facts"]["position"] < 36
    into, moved = tmp_path / "there" / "runs", tmp_path / "other place"
    facts, text = unpack(carried["root"] / "live.zip", into)
    assert facts["position"] == carried["facts"]["position"]
    assert facts["command"] in text
    # Not where they were unpacked: a run finds its shards by what they hold.
    shutil.move(facts["shards"], moved)
    model = into / "models" / Path(facts["models"][0]).name
    settings = [*SETTINGS, f"model.source={model}", f"data.shards={moved}", f"runs={into}"]
    command = [sys.executable, "-m", "birdsd.cli", "run", "train", *settings, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    told = json.loads(done.stdout)
    there, here = into / carried["run"].folder.name, carried["run"].folder
    assert (told["resumed_from"], told["run"]) == (facts["position"], str(there))
    assert trajectory(there) == trajectory(here)
    assert (there / "ledger.bin").read_bytes() == (here / "ledger.bin").read_bytes()
    assert weights(there) == weights(here)
    assert len(weights(here)) >= 4


def test_the_command_it_names_makes_the_same_run(carried, tmp_path: Path) -> None:
    facts, _ = unpack(carried["root"] / "live.zip", tmp_path / "runs")
    import shlex

    config = compose("train", shlex.split(facts["command"])[3:])
    run, _ = open_training(config)
    assert run.folder == Path(facts["run"])
    assert "unpacked" not in read_json(run.folder / "shards.json")


def test_a_live_snapshot_ends_where_its_checkpoint_does(carried, tmp_path: Path) -> None:
    facts, _ = unpack(carried["root"] / "live.zip", tmp_path / "runs")
    folder, at = Path(facts["run"]), facts["position"]
    assert max(line["position"] for line in read_metrics(folder)) == at
    assert (folder / "ledger.bin").stat().st_size == 4 * at
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"{at:012d}"]
    assert not (folder / ".lock").exists()
    assert main.main(["report", str(folder)]) == 0


def test_a_finished_run_carries_its_export_and_no_checkpoint(carried, tmp_path: Path) -> None:
    facts, _ = pack(carried["run"], tmp_path / "done.zip")
    assert facts["finished"]
    assert not any("checkpoints" in name for name in open_pack(tmp_path / "done.zip").manifest["files"])
    told, first = unpack(tmp_path / "done.zip", tmp_path / "runs")
    assert not told["nothing_to_do"] and (Path(told["run"]) / "export" / "model_index.json").is_file()
    assert read_json(Path(told["run"]) / "finished.json")["export"] == str(Path(told["run"]) / "export")
    again, text = unpack(tmp_path / "done.zip", tmp_path / "runs")
    assert again["nothing_to_do"] and text != first


def test_what_is_further_on_stays_and_what_is_behind_is_kept(carried, tmp_path: Path) -> None:
    pack(carried["run"], tmp_path / "done.zip")
    behind, _ = unpack(carried["root"] / "live.zip", tmp_path / "runs")
    with exclusive(Path(behind["run"])), refuses(f"process {os.getpid()} ", kind=InUse):
        unpack(tmp_path / "done.zip", tmp_path / "runs")
    done, text = unpack(tmp_path / "done.zip", tmp_path / "runs")
    assert (Path(done["replaced"]) / "checkpoints").is_dir()
    assert done["replaced"] in text
    with refuses("finished", "--into", kind=AlreadyThere):
        unpack(carried["root"] / "live.zip", tmp_path / "runs")
    assert len(RunStore(tmp_path / "runs").runs()) == 1


def test_other_shards_are_not_taken_for_those_of_an_unpacked_run(carried, tmp_path: Path) -> None:
    facts, _ = unpack(carried["root"] / "live.zip", tmp_path / "runs")
    other = make_shards(tmp_path / "others", species_of=lambda number: number % 3 // 2)
    settings = [*SETTINGS, f"model.source={facts['models'][0]}", f"runs={tmp_path / 'runs'}"]
    with refuses("others", "name=ANOTHER_NAME", kind=Mismatch):
        open_training(compose("train", [*settings, f"data.shards={other}"]))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_packed(carried, tmp_path: Path) -> None:
    run = Run(tmp_path / carried["run"].folder.name, carried["run"].signature)
    shutil.copytree(carried["run"].folder, run.folder)
    (run.folder / "finished.json").unlink()
    old, new = sorted((run.folder / "checkpoints").iterdir())
    file = next(new.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    facts, text = pack(run, tmp_path / "p.zip")
    assert facts["position"] == int(old.name)
    assert "left out" in text and f" {new.name}/" in text
    (old / "state.json").unlink()
    with refuses("000000000048/tensors-00000-of-00001.safetensors", kind=Damaged):
        pack(run, tmp_path / "none.zip")
    assert not (tmp_path / "none.zip").exists()
    shutil.rmtree(run.folder / "checkpoints")
    with refuses("tiny-full", "save.every_samples", kind=NothingLeft):
        pack(run, tmp_path / "none.zip")


def test_a_checkpoint_that_is_pruned_meanwhile_stays_whole(carried, tmp_path: Path, monkeypatch) -> None:
    from birdsd.runs.pack import contents as packing_contents

    run = Run(tmp_path / carried["run"].folder.name, carried["run"].signature)
    shutil.copytree(carried["run"].folder, run.folder)
    (run.folder / "finished.json").unlink()

    def pruned(writer, contents, checkpoint):
        shutil.rmtree(checkpoint.folder)
        whole(writer, contents, checkpoint)

    whole = packing_contents.write_contents
    monkeypatch.setattr(packing_contents, "write_contents", pruned)
    facts, _ = pack(run, tmp_path / "p.zip")
    told, _ = unpack(tmp_path / "p.zip", tmp_path / "runs")
    assert told["position"] == facts["position"] == 48


def test_shards_come_with_their_caches_and_without_what_else_lies_there(carried, tmp_path: Path) -> None:
    run = Run(tmp_path / "shards" / carried["run"].folder.name, carried["run"].signature)
    shutil.copytree(carried["shards"], tmp_path / "shards", dirs_exist_ok=True)
    shutil.copytree(carried["run"].folder, run.folder)
    for name in ("old.birdsd.zip", ".hidden", "x.partial", "latents-0/train.npy"):
        (tmp_path / "shards" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "shards" / name).write_text("x")
    known = read_json(run.folder / "shards.json")
    write_json(run.folder / "shards.json", {**known, "folder": str(tmp_path / "shards")})
    pack(run, tmp_path / "p.zip", with_shards=True)
    names = {name for name in open_pack(tmp_path / "p.zip").manifest["files"] if name.startswith("shards/")}
    assert {"shards/shards/train-000000.tar", "shards/shards/latents-0/train.npy"} <= names
    assert not any("config.json" in name or name.endswith((".zip", ".partial", ".hidden")) for name in names)
    old = rewritten(tmp_path / "p.zip", tmp_path / "old.zip", of_manifest(birdsd="0.0.1"))
    assert "'0.0.1'" in unpack(old, tmp_path / "runs")[1]


def test_changed_or_missing_shards_are_not_packed(carried, tmp_path: Path) -> None:
    run = Run(tmp_path / carried["run"].folder.name, carried["run"].signature)
    shutil.copytree(carried["run"].folder, run.folder)
    write_json(run.folder / "shards.json", {"folder": str(tmp_path / "gone"), "inventory": {}})
    pack(run, tmp_path / "without.zip")
    with refuses("gone", "--with-shards", kind=NotFound):
        pack(run, tmp_path / "with.zip", with_shards=True)
    write_json(run.folder / "shards.json", {"folder": str(carried["shards"]), "inventory": {}})
    with refuses("train-000000.tar", "--with-shards", kind=Mismatch):
        pack(run, tmp_path / "with.zip", with_shards=True)


def test_models_may_stay_behind(carried, tmp_path: Path) -> None:
    facts, text = pack(carried["run"], tmp_path / "p.zip", with_models=False)
    assert facts["models"] == []
    assert "not packed" in text and f": {carried['model']}" in text


def test_class_pictures_come_to_the_shards(tmp_path: Path) -> None:
    kept = tmp_path / "run" / "shards" / "class-0123"
    kept.mkdir(parents=True)
    for name in ("00000.png", "facts.json", "evil.sh"):
        (kept / name).write_text(name)
    there = tmp_path / "shards" / "class-0123"
    there.mkdir(parents=True)
    (there / "facts.json").write_text("here before")
    assert adopt_class_pictures(tmp_path / "run", tmp_path / "shards") == 1
    assert sorted(path.name for path in there.iterdir()) == ["00000.png", "facts.json"]
    assert (there / "facts.json").read_text() == "here before"


def test_settings_are_told_back() -> None:
    asked = ["model=small", "method=lora", "method.rank=3", "seed=5", 'save.preview_prompts=["a, b"]']
    config = as_dict(compose("train", asked))
    words = settings_of(config)
    assert words[:2] == ["model=small", "method=lora"]
    assert {"method.rank=3", "seed=5"} <= set(words)
    assert as_dict(compose("train", words)) == config
    config["method"]["rank"] = "no number"
    assert settings_of(config) == []


# -- what must not be unpacked ----------------------------------------------------------------------------

Change = Callable[[dict[str, Any], list[tuple[zipfile.ZipInfo, bytes]]], None]


def rewritten(source: Path, target: Path, change: Change) -> Path:
    """A copy of a pack whose manifest and members `change` has altered, in place."""
    with zipfile.ZipFile(source) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist() if info.filename != MANIFEST]
        manifest = json.loads(archive.read(MANIFEST))
    change(manifest, members)
    with zipfile.ZipFile(target, "w") as archive:
        for info, data in members:
            archive.writestr(info, data, compress_type=info.compress_type)
        archive.writestr(MANIFEST, json.dumps(manifest))
    return target


def with_member(name: str, data: bytes = b"x", mode: int = stat.S_IFREG | 0o644, **more: Any) -> Change:
    def change(manifest: dict[str, Any], members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = more.get("compress", zipfile.ZIP_STORED)
        members.append((info, data))
        told = {
            "bytes": more.get("size", len(data)),
            "sha256": hashlib.sha256(data).hexdigest(),
            "mtime_ns": 0,
        }
        manifest["files"][name] = told

    return change


def of_manifest(**values: Any) -> Change:
    return lambda manifest, members: manifest.update(values)


def without(end: str) -> Change:
    def change(manifest: dict[str, Any], members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        members[:] = [held for held in members if not held[0].filename.endswith(end)]

    return change


def without_both(end: str) -> Change:
    def change(manifest: dict[str, Any], members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        without(end)(manifest, members)
        manifest["files"] = {n: told for n, told in manifest["files"].items() if not n.endswith(end)}

    return change


def replaced(end: str, data: bytes) -> Change:
    """As by somebody who can write manifests."""

    def change(manifest: dict[str, Any], members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        at = next(n for n, held in enumerate(members) if held[0].filename.endswith(end))
        members[at] = members[at][0], data
        told = manifest["files"][members[at][0].filename]
        told.update({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})

    return change


def flipped(manifest: dict[str, Any], members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    at = next(n for n, held in enumerate(members) if held[0].filename.endswith(".safetensors"))
    info, data = members[at]
    members[at] = info, data[:-1] + bytes([data[-1] ^ 1])


HOSTILE: dict[str, tuple[Change, str]] = {
    "traversal": (with_member("run/../../../evil"), "'run/../../../evil'"),
    "absolute": (with_member("/etc/evil"), "'/etc/evil'"),
    "of another system": (with_member("run\\..\\evil"), r"\\evil'"),
    "with a drive": (with_member("run/C:/evil"), "'run/C:/evil'"),
    "in no room": (with_member("home/user/.bashrc"), "'home/user/.bashrc'"),
    "of another run": (with_member("run/another/config.json"), "run/another/config.json"),
    "of another model": (with_member("models/another/config.json"), "models/another/config.json"),
    "a link": (with_member("run/x/link", b"/etc/passwd", stat.S_IFLNK | 0o777), "'run/x/link'"),
    "a device": (with_member("run/x/device", b"", stat.S_IFCHR | 0o777), "'run/x/device'"),
    "a bomb": (with_member("run/x/bomb", b"\0" * 3_000_000, compress=zipfile.ZIP_DEFLATED), "'run/x/bomb'"),
    "a wrong size": (
        with_member("run/x/short", b"four", size=4_000_000_000),
        "run/x/short has 4 bytes instead of 4,000,000,000",
    ),
    "one that is not named": (
        lambda manifest, members: members.append((zipfile.ZipInfo("run/x/more"), b"x")),
        "'run/x/more'",
    ),
    "two of one name": (
        lambda manifest, members: members.append(members[0]),
        "two members",
    ),
    "two of nearly one name": (with_member("run/{run}/CONFIG.json"), "one file"),
    "a file as a folder": (with_member("run/{run}/config.json/x"), "one file"),
    "a missing member": (without("ledger.bin"), "1 of its members"),
    "a missing record": (without_both("config.json"), "/config.json'"),
    "a missing commit": (without_both("COMMIT.json"), "/COMMIT.json'"),
    "missing weights": (without_both(".safetensors"), "['tensors-00000-of-00001.safetensors']"),
    "a damaged byte": (flipped, "/tensors-00000-of-00001.safetensors are not"),
    "no manifest's files": (of_manifest(files={"run": 7}), "birdsd-pack.json"),
    "another form": (of_manifest(format="birdsd-pack-9"), "'birdsd-pack-9'"),
    "another signature": (of_manifest(signature="0123456789ab"), "signature"),
    "a run's name that leaves": (of_manifest(run="../evil"), "invalid name"),
    "settings that would paint the screen": (of_manifest(settings=["\x1b[2J"]), "settings"),
    "shards of nothing": (replaced("/shards.json", b'{"inventory": {"train-000000.tar": 7}}'), "shards"),
    "a run's settings": (replaced("/config.json", b"[]"), "record of its run"),
    "no position": (of_manifest(position="many"), "'many'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_or_damaged_pack_is_a_sentence_and_leaves_nothing(kind, carried, tmp_path: Path) -> None:
    change, expected = HOSTILE[kind]
    name = carried["run"].folder.name

    def named(manifest: dict[str, Any], members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        change(manifest, members)
        manifest["files"] = {key.replace("{run}", name): told for key, told in manifest["files"].items()}
        for info, _ in members:
            info.filename = info.filename.replace("{run}", name)

    with pytest.warns(UserWarning, match="Duplicate") if kind == "two of one name" else nothing():
        bad = rewritten(carried["root"] / "live.zip", tmp_path / "bad.zip", named)
    (tmp_path / "runs").mkdir()
    broken = Unsupported if kind == "another form" else Damaged
    with refuses(("bad.zip", expected), kind=broken) as caught:
        unpack(bad, tmp_path / "runs")
    assert caught.value.hint
    assert list((tmp_path / "runs").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "runs"]


def nothing():
    from contextlib import nullcontext

    return nullcontext()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_pack_is_refused(share: float, carried, tmp_path: Path) -> None:
    data = (carried["root"] / "live.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: int(share * len(data))])
    with refuses("cut.zip", kind=Damaged):
        unpack(tmp_path / "cut.zip", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_the_verbs_say_what_they_did(carried, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = str(carried["root"] / "runs")
    assert main.main(["pack", carried["run"].signature[:8], "--runs", runs, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert Path(facts["file"]).is_file()
    assert facts["bytes"] == os.path.getsize(facts["file"])
    assert main.main(["unpack", facts["file"]]) == 0
    assert f"runs/{carried['run'].folder.name}" in capsys.readouterr().out
    assert main.main(["unpack", "nowhere.zip"]) == 2
    assert "nowhere.zip" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.main(["pack", "--help"])
    assert "examples:" in capsys.readouterr().out
    request_stop(Path("runs") / carried["run"].folder.name, "somebody")
    job = tmp_path / "runs" / "prepare-0123"
    write_json(job / "config.json", {})
    write_json(job / "signature.json", {"signature": "0123", "job": "prepare"})
    assert main.main(["pack", "prepare-0123", "--json"]) == 2
    assert refused_as(capsys.readouterr().out, "unsupported", "prepare")
