"""Scenes by number into a folder: each published by one rename, those that are there left alone."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from birdsd.errors import AlreadyThere, DiskFull, NothingLeft, UserError
from birdsd.files import (
    explained_write,
    fsync_folder,
    fsync_soon,
    json_text,
    put_text,
    read_json,
    write_text,
)
from birdsd.scenes.compose import picture, recipe, tables
from birdsd.scenes.compose.compose import Composer, Look
from birdsd.scenes.compose.record import Composed
from birdsd.scenes.scene import Scene
from birdsd.scenes.store import to_yaml
from birdsd.sharing import private_folder, remove_leftovers, waiting_for

LABELS = "labels.json"
SCENE = "scene.yaml"  # what was asked for, for `scene=`: the recipe is not for people to edit
MANIFEST = "manifest.csv"
_SAID_EVERY_S = 30.0  # how far it is
_COLUMNS = (
    "path",
    "recording_id",
    "duration_s",
    "licence",
    "recordist",
    "generated",
    "events",
    "left_out",
    "split",
    "gate",
    "seed",
    "number",
    "heard",
    "unheard",
)


@dataclass
class Made:
    """What a call did: names of the scenes made and those that were there; scenes that cannot be, and why."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    last: Composed | None = None


@dataclass(frozen=True)
class Batch:
    """Scenes that share songs, backgrounds and settings."""

    composer: Composer
    out: Path
    look: Look
    settings: Mapping[str, Any]
    identities: Mapping[str, Any]

    def make(
        self, numbers: Sequence[int], scene_of: Callable[[int], Scene], name_of: Callable[[int], str]
    ) -> Made:
        """Make the scenes of these numbers that are not there. One that cannot be is named and the others go
        on, unless it is the only one; a full disk ends it at once, and nothing half-made is left."""
        done = Made()
        remove_leftovers(self.out, alone=False)
        with private_folder(self.out) as place:
            self._make_all(numbers, scene_of, name_of, place, done)
        write_manifest(self.out)
        if done.refused and not done.made and not done.kept:
            name, why = done.refused[0]
            raise NothingLeft(f"none of {len(numbers)} scenes can be made; {name}: {why}")
        return done

    def _make_all(
        self,
        numbers: Sequence[int],
        scene_of: Callable[[int], Scene],
        name_of: Callable[[int], str],
        place: Path,
        done: Made,
    ) -> None:
        said_s = time.monotonic()
        for at, number in enumerate(numbers):
            if time.monotonic() - said_s > _SAID_EVERY_S:
                print(f"{at} of {len(numbers)} scenes", file=sys.stderr, flush=True)
                said_s = time.monotonic()
            name = name_of(number)
            try:
                scene = scene_of(number)
                told = recipe.recipe_of(scene, name, self.settings, self.identities) | {"number": number}
                if self._is_there(name, told):
                    done.kept.append(name)
                    continue
                done.last = self.make_one(scene, name, told, place)
                done.made.append(name)
            except UserError as error:
                full = isinstance(error, DiskFull) or isinstance(error.__cause__, OSError)
                if len(numbers) == 1 or full:
                    raise
                done.refused.append((name, str(error)))

    def make_one(
        self, scene: Scene, name: str, told: Mapping[str, Any], place: Path | None = None
    ) -> Composed:
        """Make one scene and publish its folder. `place`: a private folder of many scenes; they are there for
        good once `write_manifest` has been called, whatever happens to the machine."""
        if place is None:
            with private_folder(self.out) as place:
                done = self.make_one(scene, name, told, place)
            fsync_folder(self.out)
            return done
        folder = place / name
        try:
            with explained_write(self.out / name):
                return self._made(scene, name, told, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # of one that cannot be

    def _made(self, scene: Scene, name: str, told: Mapping[str, Any], folder: Path) -> Composed:
        folder.mkdir()
        done = self.composer.compose(scene, name, folder, self.look)
        large = _files(folder) + _files(folder / "stems")
        waits = [fsync_soon(large)]  # while the small ones are made
        sound = tables.sounds_of(done, folder, self.look.format)[0]
        tables.write_tables(done, folder, sound.name)
        if self.look.picture:
            picture.draw_scene(done, sound, folder / f"{name}.png")
        labels = json.dumps(done.to_json(), ensure_ascii=False, allow_nan=False)
        put_text(folder / LABELS, labels + "\n")
        put_text(folder / recipe.NAME, json_text(told))
        put_text(folder / SCENE, to_yaml(scene))
        # Tables can be made again from the labels; the rest is on the disk before it is published.
        small = {*_files(folder), *_files(folder / "stems")}.difference(large)
        stems = [folder / "stems"] if self.look.stems else []
        waits.append(fsync_soon([folder, folder / tables.FOLDER, *stems, *small]))
        for wait in waits:
            wait()
        os.replace(folder, self.out / name)
        return done

    def _is_there(self, name: str, told: Mapping[str, Any]) -> bool:
        folder = self.out / name
        if not folder.is_dir():
            return False
        there = read_json(folder / recipe.NAME, "recipe")
        if there == told:
            return True
        differing = sorted(key for key in {*there, *told} if there.get(key) != told.get(key))
        raise AlreadyThere(
            f"{folder} holds another scene: it differs in {', '.join(differing)}",
            "scenes that are there are never overwritten",
            "name another folder with out=, or delete this one",
        )


def _files(folder: Path) -> list[Path]:
    """Those right in a folder, if there is one."""
    try:
        with os.scandir(folder) as found:
            return [folder / one.name for one in found if one.is_file()]
    except FileNotFoundError:
        return []


def write_manifest(out: Path) -> None:
    """A row for every scene in the folder, whoever made it, so that `prepare` takes it for labelled
    recordings and says that they are generated."""
    with waiting_for(out / ".lock-manifest"):
        rows = [row for path in sorted(out.glob(f"*/{LABELS}")) for row in _rows(out, path.parent)]
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(out / MANIFEST, buffer.getvalue())


def _rows(out: Path, folder: Path) -> list[dict[str, Any]]:
    """Of a scene's sound, or of each recorder's, which are one recording wherever sets are split."""
    labels, told = read_json(folder / LABELS, "labels"), read_json(folder / recipe.NAME, "recipe")
    ends = [f".{one['name']}.wav" for one in labels.get("space", {}).get("recorders", ())]
    sounds = [folder / f"{folder.name}{end}" for end in ends or (".flac", ".wav")]
    found = [sound for sound in sounds if sound.is_file()]
    return [
        _row(sound.relative_to(out), folder.name, labels, told) for sound in (found if ends else found[:1])
    ]


def _row(sound: Path, name: str, labels: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    settings = told["settings"]
    return {
        "path": str(sound),
        "recording_id": f"generated-{name}",
        "duration_s": f"{labels['duration_s']:.3f}",
        "licence": _licence(labels),
        "recordist": _by(labels),
        "generated": "yes",
        "events": len(labels["came_out"]),
        "left_out": sum(one["fate"] != "placed" for one in labels["asked"]),
        "split": settings.get("split", ""),
        "gate": labels["gate"],
        "seed": told["scene"]["seed"],
        "number": told.get("number", 0),
        "heard": sum(one.get("mix_heard") is True for one in labels["came_out"]),
        "unheard": sum(one.get("mix_heard") is False for one in labels["came_out"]),
    }


def _licence(labels: Mapping[str, Any]) -> str:
    """Of the mix, marked as generated: recordings bind it, and what a model learnt from is listed."""
    learnt = sorted(
        {one["licence"] for one in labels["trail"] if one["kind"] == "generated" and one["licence"]}
    )
    parts = ["generated"] + ([f"with recordings under {labels['licence']}"] if labels["licence"] else [])
    parts += [f"by a model that learnt from {one}" for one in learnt]
    return " ".join(parts)


def _by(labels: Mapping[str, Any]) -> str:
    sources = sorted(
        {
            Path(one["source"]).parent.name
            if Path(one["source"]).name == "export"
            else Path(one["source"]).name
            for one in labels["trail"]
            if one["kind"] == "generated"
        }
    )
    return "generated by birdsd" + (f" with {', '.join(sources)}" if sources else " from recordings")


def numbered(name: str, count: int) -> Callable[[int], str]:
    """Names of scenes by number: scene-00012; of a single one just its name."""
    return (lambda number: f"{name}-{number:05d}") if count > 1 else (lambda number: name)


def refused_lines(done: Made, most: int = 5) -> Iterable[str]:
    """What to say of scenes that cannot be."""
    for name, why in done.refused[:most]:
        yield f"  {name} was not made: {why}"
    if len(done.refused) > most:
        yield f"  and {len(done.refused) - most} more"
