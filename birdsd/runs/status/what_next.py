"""The next steps after a finished run: commands that run as printed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsd.config import job_name
from birdsd.errors import UserError
from birdsd.method_facts import stored
from birdsd.runs.allocations import Submission
from birdsd.runs.run import Run


def after(run: Run, job: str) -> list[tuple[str, str]]:
    """The next steps after this finished run: (what it does, command). Empty where its records are
    missing."""
    try:
        config = run.config
        if job == "train":
            return _after_training(run, config)
        return _after_job(run, job, config)
    except (UserError, KeyError, TypeError, AttributeError):
        return []


def _after_training(run: Run, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, facts = config["model"], stored(config)
    if facts is not None and (following := facts.next) is not None:
        words = [f"method={following.method}", *_preset("model", model)]
        if following.pretrained:
            words.append("model.init=pretrained")
            words += [f"model.source={model['source']}"] if model.get("source") else []
        words.append(f"model.{following.model_key}={_named(run)}")
        return [(following.line, _train(run, config, words))]
    if facts is not None and not facts.exports.formats:
        return []  # it makes no sound by itself, and which model it goes with nobody has said
    if facts is not None and not facts.exports.makes_sound:
        words = ["classify", "recordings/", f"run={_named(run)}", *_runs(run)]
        return [("names the species in recordings", _birdsd(*words))]
    source = str(model.get("source") or "")
    if facts is not None and facts.exports.adapter and source and Path(source).is_dir():
        words = [f"run={_place(source)}", f"add={_named(run)}"]
    else:
        words = [f"run={_named(run)}"]
    words += [f"prompt={_prompt(run)}", "count=4"]
    return [("generates sounds with it", _birdsd("run", "generate", *words, *_runs(run)))]


def _after_job(run: Run, job: str, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    if job == "prepare":
        shards = _place(config["data"]["shards"])
        learn = _birdsd(
            "run", "train", "method=autoencoder", "model=tiny", f"data.shards={shards}", *_runs(run)
        )
        return [
            ("shows what they contain", _birdsd("inspect", shards)),
            ("trains an autoencoder on them", learn),
        ]
    if job == "cache":
        submission = Submission.read(run.folder)
        typed = submission.settings if submission is not None else []
        return (
            [("starts the training that it was cached for", _birdsd("run", "train", *typed))] if typed else []
        )
    if job_name(job) in ("compare_methods", "finetune_vs_scratch", "sim2real"):
        return [("the report", shlex.join(["ls", f"{_place(config['out'])}/report.html"]))]
    names = {"generate": "the clips", "bank": "the songs", "scene": "the scenes"}
    if job in names:
        return [(names[job], shlex.join(["ls", _place(config["out"])]))]
    return []


def _train(run: Run, config: Mapping[str, Any], words: list[str]) -> str:
    folder = json.loads((run.folder / "shards.json").read_text(encoding="utf-8"))["folder"]
    shards = config["data"].get("shards") if Path(config["data"].get("shards") or "").is_dir() else folder
    machine = _preset("machine", config["machine"])
    return _birdsd("run", "train", *words, f"data.shards={_place(str(shards))}", *machine, *_runs(run))


def _preset(group: str, section: Mapping[str, Any]) -> list[str]:
    """The setting of a group, where it names a preset."""
    from birdsd.config import presets

    name = str(section.get("name"))
    return [f"{group}={name}"] if name in {preset.name for preset in presets().get(group, [])} else []


def _named(run: Run) -> str:
    """How a command names the run: by its name where runs lie in runs/, else by its folder."""
    return run.folder.name if run.folder.parent == Path("runs") else _place(str(run.folder))


def _runs(run: Run) -> list[str]:
    return [] if run.folder.parent == Path("runs") else [f"runs={_place(str(run.folder.parent))}"]


def _place(path: str) -> str:
    """The shortest form of a path from the working directory."""
    here = os.getcwd()
    return os.path.relpath(path, here) if os.path.abspath(path).startswith(here + os.sep) else path


def _prompt(run: Run) -> str:
    from birdsd.sound.captions import prompt_for

    try:
        facts = json.loads((run.export_folder / "training.json").read_text(encoding="utf-8"))
        species = [str(name) for name in facts.get("species") or []]
    except (OSError, ValueError, AttributeError):
        species = []
    return prompt_for(species[0]) if species else "a bird singing"


def _birdsd(*words: str) -> str:
    return shlex.join(["birdsd", *words])
