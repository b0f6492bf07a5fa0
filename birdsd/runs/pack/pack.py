"""`birdsd pack` and `birdsd unpack`: move a run to another machine and resume it there."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import birdsd
from birdsd.errors import Damaged, NothingLeft, UserError
from birdsd.runs.pack.archive import PACK_SUFFIX, bar

if TYPE_CHECKING:
    from birdsd.runs.run import Run

# A run that is under way may prune a checkpoint just before it is opened.
_TRIES = 5


def pack(
    run: Run, out: Path | None = None, with_shards: bool = False, with_models: bool = True
) -> tuple[dict[str, Any], str]:
    """Write a run's pack to `out`, a file or a folder that is there; returns the facts and a text.

    A checkpoint whose checksums fail is named and left alone, and the one before it is packed. Raises
    `UserError` where nothing was saved yet, no checkpoint is whole, shards changed, or there is no room.
    """
    from birdsd.runs.allocations import committed_checkpoints
    from birdsd.runs.pack.contents import DamagedCheckpoint, contents_of

    contents = contents_of(run, with_shards, with_models)
    path = _place(run, out)
    if run.result is not None and run.export_folder.is_dir():
        return _written(path, contents, None)
    problems: list[str] = []
    for _ in range(_TRIES):
        for folder in committed_checkpoints(run.folder):
            try:
                facts, text = _written(path, contents, folder)
            except DamagedCheckpoint as problem:
                problems.append(str(problem))
                continue
            notes = [f"left out: {problem}" for problem in dict.fromkeys(problems)]
            facts["notes"] += notes
            return facts, "\n".join([text, *(f"  note    {note}" for note in notes)])
    if problems:
        raise Damaged(
            f"no checkpoint of {run.folder.name} is intact: {'; '.join(dict.fromkeys(problems))}",
            "a run resumes from a checkpoint",
            "run the same command again where it is, or restore one from a copy",
        )
    raise NothingLeft(
        f"{run.folder.name} has saved nothing yet",
        "a run resumes from a checkpoint",
        "let it reach its first checkpoint (save.every_samples), or start it there",
    )


def _place(run: Run, out: Path | None) -> Path:
    name = f"{run.folder.name}{PACK_SUFFIX}"
    if out is None:
        return Path(name)
    return out / name if out.is_dir() else out


def _written(path: Path, contents: Any, folder: Path | None) -> tuple[dict[str, Any], str]:
    from birdsd.files import read_json
    from birdsd.runs.pack.archive import check_space, writing
    from birdsd.runs.pack.contents import open_checkpoint, shards_name, sized, write_contents

    run: Run = contents.run
    with ExitStack() as stack:
        checkpoint = open_checkpoint(folder, stack) if folder is not None else None
        config = run.config
        result = run.result or {}
        position = checkpoint.position if checkpoint else int(result.get("position") or 0)
        shards = contents.shards
        packed_shards = shards_name(shards) if contents.with_shards and shards is not None else ""
        facts: dict[str, Any] = {
            "birdsd": birdsd.__version__,
            "run": run.folder.name,
            "signature": run.signature,
            "position": position,
            "total": int((config.get("optim") or {}).get("total_samples") or 0),
            "finished": checkpoint is None,
            "time": round(time.time(), 3),
            "data": read_json(run.folder / "signature.json").get("data", ""),
            "shards": packed_shards,
            "settings": settings_of(_as_it_began(run, config)),
            "models": [
                {"key": m.key, "name": m.name, "source": m.source, "identity": m.identity, "is_run": m.is_run}
                for m in contents.models
            ],
        }
        total = sized(contents, checkpoint)
        check_space(path.parent, total)
        with bar(total, "pack") as progress, writing(path, facts, progress) as writer:
            write_contents(writer, contents, checkpoint)
    manifest = {
        **facts,
        "file": str(path),
        "bytes": path.stat().st_size,
        "files": len(writer.files),
        "notes": list(contents.notes),
    }
    return manifest, _text(manifest)


def _as_it_began(run: Run, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that the signature was computed from: the run may have been extended since."""
    from birdsd.training.stretches import read_totals

    totals = read_totals(run.folder)
    return {**config, "optim": {**config["optim"], "total_samples": totals[0]}} if totals else config


def _text(facts: Mapping[str, Any]) -> str:
    where = "finished" if facts["finished"] else f"at sample {facts['position']:,} of {facts['total']:,}"
    lines = [
        f"{facts['run']}: packed, {where}",
        f"  file    {facts['file']}  ({facts['bytes'] / 1e6:,.1f} MB, {facts['files']} files)",
        f"  shards  {'included' if facts['shards'] else 'not included (copy them, or use --with-shards)'}",
    ]
    if facts["models"]:
        lines.append(f"  models  {', '.join(model['name'] for model in facts['models'])}")
    lines += [f"  note    {note}" for note in facts["notes"]]
    return "\n".join(
        [*lines, f"  on the other machine: birdsd unpack {shlex.quote(Path(facts['file']).name)}"]
    )


def settings_of(config: Mapping[str, Any]) -> list[str]:
    """The settings that make the same run of a resolved configuration: its presets, and where it differs
    from them. Paths are left out, and what belongs to the machine. Empty where no settings would do."""
    from birdsd.config import as_dict, changed, compose, presets, settings_as_typed
    from birdsd.schema import MODEL_KEYS, SCIENTIFIC

    known = {group: {preset.name for preset in choices} for group, choices in presets().items()}
    settings = []
    for group in ("model", "method", "data", "machine"):
        name = (config.get(group) or {}).get("name")
        if name in known.get(group, ()):
            settings.append(f"{group}={name}")
    paths = [f"model.{key}=" for key in MODEL_KEYS]
    skipped = ("runs=", "data.", "machine.", *paths)
    try:
        config = as_dict(changed("train", config, ()))  # earlier versions stored the keys of all methods
        usual = set(settings_as_typed(as_dict(compose("train", settings))))
        settings += [
            line for line in settings_as_typed(config) if line not in usual and not line.startswith(skipped)
        ]
        again = as_dict(compose("train", settings))
    except (UserError, ValueError):
        return []
    for section in SCIENTIFIC:
        mine, theirs = config.get(section), again[section]
        if section == "model":
            mine, theirs = (
                {k: v for k, v in m.items() if f"model.{k}=" not in paths} for m in (config[section], theirs)
            )
        if mine != theirs:
            return []
    return settings
