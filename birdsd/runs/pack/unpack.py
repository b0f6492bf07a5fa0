"""Unpacking a run: into a private folder, verified to the last byte, and only then moved into place."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import birdsd
from birdsd.errors import AlreadyThere, UserError
from birdsd.files import exclusive, explained_write, read_json, safe_name, write_json
from birdsd.runs.allocations import newest_position
from birdsd.runs.pack.archive import Pack, bar, check_space, damaged, move_in, open_pack
from birdsd.runs.run import SIGNATURE_FILE, Run, content_identity
from birdsd.schema import MODEL_KEYS
from birdsd.shards.index import ShardIndex
from birdsd.sharing import private_folder, remove_leftovers

REPLACED = ".replaced"
# In RUN/shards.json until the run has found its shards here: it must not accept others.
UNPACKED = "unpacked"


@dataclass
class _Arrival:
    """The manifest of a pack, with its names validated."""

    pack: Pack
    name: str
    signature: str
    position: int
    total: int
    finished: bool
    shards: str
    models: list[dict[str, Any]]
    settings: list[str]
    into: Path

    @property
    def target(self) -> Path:
        return self.into / self.name

    @property
    def shards_target(self) -> Path:
        return self.into / "shards" / self.shards

    def model_target(self, model: Mapping[str, Any]) -> Path:
        return self.into / model["name"] if model["is_run"] else self.into / "models" / model["name"]


def unpack(path: Path, into: Path) -> tuple[dict[str, Any], str]:
    """Unpack a run into `into`, the folder of runs; returns the facts and a text with the next command.

    Raises `UserError` for a pack that is damaged or hostile, a run here that is further along or in use,
    and models or shards here that have the same name but differ. Nothing has changed then.
    """
    into = Path(into)
    pack = open_pack(path)
    arrival = _arrival(pack, into)
    check_space(into, pack.size)
    with explained_write(into):
        into.mkdir(parents=True, exist_ok=True)
    remove_leftovers(into, alone=False)
    with private_folder(into) as place:
        with bar(pack.size, "unpack") as progress:
            pack.extract(place, progress)
        _check_run(arrival, place / "run" / arrival.name)
        existing = _known_here(arrival)
        try:
            moves = _other_moves(arrival, place)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise damaged(path, f"a record of its shards or models is damaged ({error})") from error
        _relocate(arrival, place)
        for source, target in moves:
            move_in(source, target)
        replaced = None if existing == "same" else _bring_in(arrival, place / "run" / arrival.name)
    facts = {
        "run": str(arrival.target),
        "signature": arrival.signature,
        "position": arrival.position,
        "total": arrival.total,
        "finished": arrival.finished,
        "nothing_to_do": existing == "same" and not moves,
        "replaced": str(replaced) if replaced else None,
        "shards": str(arrival.shards_target) if arrival.shards else None,
        "models": [str(arrival.model_target(model)) for model in arrival.models],
        "command": _command(arrival),
    }
    return facts, _text(arrival, facts)


# -- the manifest ------------------------------------------------------------------------------------------


def _arrival(pack: Pack, into: Path) -> _Arrival:
    manifest = pack.manifest
    try:
        arrival = _Arrival(
            pack,
            str(manifest["run"]),
            str(manifest["signature"]),
            int(manifest["position"]),
            int(manifest["total"]),
            bool(manifest["finished"]),
            str(manifest["shards"] or ""),
            [
                {
                    **{k: str(model[k]) for k in ("key", "name", "source", "identity")},
                    "is_run": bool(model["is_run"]),
                }
                for model in manifest["models"]
            ],
            [str(word) for word in manifest["settings"]],
            Path(into),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(pack.path, f"its manifest lacks {error}") from error
    names = [arrival.name, *(model["name"] for model in arrival.models)]
    shards = [arrival.shards] if arrival.shards else []
    odd = any(not name or name != safe_name(name, 200) for name in [*names, *shards])
    if odd or len({name.casefold() for name in names}) < len(names):
        raise damaged(pack.path, "its manifest contains an invalid name")
    if not all(word.isprintable() for word in arrival.settings):
        raise damaged(pack.path, "its settings cannot be printed")
    rooms = {"run": {arrival.name}, "shards": {arrival.shards} - {""}}
    rooms["runs"] = {model["name"] for model in arrival.models if model["is_run"]}
    rooms["models"] = {model["name"] for model in arrival.models if not model["is_run"]}
    for member in manifest["files"]:
        room, name = member.split("/")[:2]
        if name not in rooms[room]:
            raise damaged(pack.path, f"{member} does not belong to anything in it")
    return arrival


def _check_run(arrival: _Arrival, folder: Path) -> None:
    """Verify that the unpacked run is the one of the manifest and can be resumed."""
    path = arrival.pack.path
    try:
        mark = json.loads((folder / SIGNATURE_FILE).read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["model"].items(), config["data"].items()
        json.loads((folder / "shards.json").read_text(encoding="utf-8"))["inventory"].items()
        if mark["signature"] != arrival.signature:
            raise damaged(path, "its run has another signature than its manifest says")
        if arrival.finished:
            json.loads((folder / "finished.json").read_text(encoding="utf-8"))["position"]
            if not any((folder / "export").iterdir()):
                raise damaged(path, "the export of its finished run is missing")
            return
        commit = f"checkpoints/{arrival.position:012d}/COMMIT.json"
        committed = json.loads((folder / commit).read_text(encoding="utf-8"))
        missing = [name for name in committed["files"] if not (folder / commit).with_name(name).is_file()]
        if committed["signature"] != arrival.signature or missing:
            raise damaged(path, f"its checkpoint lacks {missing or 'its signature'}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"a record of its run is missing or damaged ({error})") from error


# -- existing runs, models and shards ----------------------------------------------------------------------


def _known_here(arrival: _Arrival) -> str:
    """ "new", "same" or "behind": how an existing run compares; one that is further along is an error."""
    target = arrival.target
    if not target.exists() and not target.is_symlink():
        return "new"
    try:
        here = Run(target, str(read_json(target / SIGNATURE_FILE)["signature"]))
    except (UserError, KeyError, TypeError):
        raise AlreadyThere(
            f"{target} exists and is not a run", "the unpacked run would take its place", "move it away"
        ) from None
    finished = here.result is not None and here.export_folder.is_dir()
    reached = int((here.result or {}).get("position") or 0) if finished else newest_position(target)
    mine, theirs = (finished, reached), (arrival.finished, arrival.position)
    if mine == theirs:
        return "same"
    if mine > theirs:
        where = "finished" if finished else f"at sample {reached:,}"
        raise AlreadyThere(
            f"{target} is further along: {where}, and the pack is at sample {arrival.position:,}",
            "the training done here would be lost",
            "resume here with the same command, or unpack into another folder with --into",
        )
    return "behind"


def _other_moves(arrival: _Arrival, place: Path) -> list[tuple[Path, Path]]:
    """The models and shards that are missing here, as (from, to); different ones of the same name are an
    error."""
    moves = []
    for model in arrival.models:
        source = place / ("runs" if model["is_run"] else "models") / model["name"]
        target = arrival.model_target(model)
        if not source.is_dir() or content_identity(str(source)) != model["identity"]:
            raise damaged(arrival.pack.path, f"the model {model['name']} is not the one that was packed")
        if not target.exists():
            moves.append((source, target))
        elif content_identity(str(target)) != model["identity"]:
            raise _another(target, "a model", "the run is based on the packed one")
    if arrival.shards:
        inventory = read_json(place / "run" / arrival.name / "shards.json")["inventory"]
        source, target = place / "shards" / arrival.shards, arrival.shards_target
        if not source.is_dir() or ShardIndex.open(source).changes_since(inventory):
            raise damaged(arrival.pack.path, "its shards are not those of its run")
        if not target.exists():
            moves.append((source, target))
        elif ShardIndex.open(target).changes_since(inventory):
            raise _another(target, "a folder of shards", "the run continues with the packed ones only")
    return moves


def _another(target: Path, what: str, rule: str) -> UserError:
    return AlreadyThere(
        f"{target} is {what} of the same name, and another", rule, "move it away, or use --into"
    )


# -- moving into place -------------------------------------------------------------------------------------


def _relocate(arrival: _Arrival, place: Path) -> None:
    """Rewrite the paths in the records to this machine's folders; what decides the signature stays."""
    folder = place / "run" / arrival.name
    config = read_json(folder / "config.json")
    new = {model["source"]: str(arrival.model_target(model).resolve()) for model in arrival.models}
    config["runs"] = str(arrival.into)
    for key in MODEL_KEYS:
        source = str(config["model"].get(key) or "")
        config["model"][key] = new.get(source, config["model"].get(key))
    shards = read_json(folder / "shards.json")
    if arrival.shards:
        shards["folder"] = config["data"]["shards"] = str(arrival.shards_target.resolve())
    shards[UNPACKED] = True
    write_json(folder / "shards.json", shards)
    write_json(folder / "config.json", config)
    if arrival.finished:
        result = read_json(folder / "finished.json")
        if result.get("export"):
            result["export"] = str(arrival.target.resolve() / "export")
        write_json(folder / "finished.json", result)
    for path in place.rglob("training.json"):
        with suppress(ValueError, OSError, AttributeError):
            facts = json.loads(path.read_text(encoding="utf-8"))
            base = facts.get("base") or {}
            if base.get("source") in new:
                base["source"] = new[base["source"]]
                write_json(path, facts)


def _bring_in(arrival: _Arrival, source: Path) -> Path | None:
    """Move the run into place; a previous copy is kept in .replaced/, and its path is returned."""
    target = arrival.target
    if not target.exists():
        move_in(source, target)
        return None
    with exclusive(target):  # no process may be using it
        aside = arrival.into / REPLACED / f"{arrival.name}-{newest_position(target)}-{time.time():.0f}"
        move_in(target, aside)
        try:
            move_in(source, target)
        except BaseException:
            os.rename(aside, target)
            raise
    return aside


# -- the text ----------------------------------------------------------------------------------------------


def _command(arrival: _Arrival) -> str:
    """The command that resumes it here; "" where the settings are unknown."""
    if not arrival.settings:
        return ""
    command = ["birdsd", "run", "train", *arrival.settings]
    for model in arrival.models:
        if model["key"] in MODEL_KEYS:
            named = model["name"] if model["is_run"] else str(arrival.model_target(model))
            command.append(f"model.{model['key']}={named}")
    command.append(f"data.shards={arrival.shards_target if arrival.shards else 'SHARDS'}")
    return shlex.join([*command, f"runs={arrival.into}"])


def _text(arrival: _Arrival, facts: Mapping[str, Any]) -> str:
    where = "finished" if arrival.finished else f"at sample {arrival.position:,} of {arrival.total:,}"
    outcome = "nothing to do: it is already here" if facts["nothing_to_do"] else "unpacked"
    lines = [f"{arrival.name}: {outcome}, {where}", f"  folder  {arrival.target}"]
    if arrival.shards:
        lines.append(f"  shards  {arrival.shards_target}")
    elif not arrival.finished:
        lines.append("  shards  not included: point to the identical shards with data.shards=")
    lines += [f"  model   {place}" for place in facts["models"]]
    if (made_by := str(arrival.pack.manifest.get("birdsd"))[:20]) != birdsd.__version__:
        lines.append(f"  note    it was packed by birdsd {made_by!r}, and this is {birdsd.__version__}")
    if facts["replaced"]:
        lines.append(f"  before  the previous copy is kept in {facts['replaced']}")
    if arrival.finished:
        return "\n".join([*lines, f'  try     birdsd run generate run={arrival.target} prompt="..." count=4'])
    command = facts["command"] or f"the same command as before, with runs={arrival.into}"
    return "\n".join([*lines, f"  resume  {command}"])
