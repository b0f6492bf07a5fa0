"""The doctor's checks of saving: checkpoint size, space for it, and time to write it before the end."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from birdsd.checks.context import DoctorContext, Finding, Findings, error, ok, warning
from birdsd.config import as_dict
from birdsd.diffusion.parameters import implied_shapes, learning_count
from birdsd.errors import UserError
from birdsd.method_facts import MethodFacts, find
from birdsd.remarks import Remark
from birdsd.runs.allocations import allocations, committed_checkpoints
from birdsd.runs.models.hub import needed, snapshot, weights_shapes
from birdsd.runs.run import Run, RunStore
from birdsd.shards.index import ShardIndex
from birdsd.site import slurm
from birdsd.site.filesystem import amount, free_space, quota_of, trial_folder, write_speed
from birdsd.site.sbatch_options import LEAD_FACTOR, recommended_lead_s

# fp32 weight, two moments and the EMA: the bytes of a trainable parameter in a checkpoint.
_BYTES_PER_PARAMETER, _BYTES_OF_WEIGHT = 16, 4
_FEW_FILES = 10_000
_MANY_SPECIES = 100


# -- the size of a checkpoint -------------------------------------------------------------------------


def checkpoint_size(context: DoctorContext) -> tuple[int, str]:
    """(bytes of a checkpoint, how that is known); 0 where it is unknown.

    Measured from the run's newest checkpoint, else from another run of the same model and method, else
    counted in the base model or in such a run's export, else estimated from the settings.
    """
    if context.run is not None and (size := _newest_checkpoint(context.run.folder)):
        return size, Remark("the run's newest checkpoint", "measured", run=context.run.folder.name)
    settings = context.training
    if settings is None:
        return 0, ""
    facts = find(settings.method.name, settings.method.form)
    if facts is None:
        return 0, ""  # another check reports that
    alike = _runs_alike(context, settings, facts)
    for run in alike:
        if size := _newest_checkpoint(run.folder):
            text = f"a checkpoint of {run.folder.name}"
            return size, Remark(text, "measured-elsewhere", run=run.folder.name)
    if not facts.trains:
        return 0, f"method={settings.method.name} saves no checkpoints"
    each = _BYTES_PER_PARAMETER if settings.optim.ema_decay else _BYTES_PER_PARAMETER - _BYTES_OF_WEIGHT
    species, clip = _species(settings, facts), _clip(context)
    exports = [(run.export_folder, f"the export of {run.folder.name}") for run in alike]
    for folder, how_known in [*_pretrained(context), *exports]:
        if count := learning_count(settings, {**weights_shapes(folder), **clip}, species):
            return count * each, Remark(f"counted in {how_known}", "counted", folder=str(folder))
    count = learning_count(settings, {**implied_shapes(settings.model), **clip}, species)
    return count * each, Remark("estimated from the model's settings", "estimated")


def _species(settings: Any, facts: MethodFacts) -> int:
    """The number of species in the shards, for a method with tokens for each; a generous guess where they
    are not here yet."""
    with suppress(UserError, OSError):
        needs_words = facts.word_per_species and settings.data.shards
        if needs_words and (count := len(ShardIndex.open(Path(settings.data.shards)).species)):
            return count
    return _MANY_SPECIES


def _clip(context: DoctorContext) -> dict[str, Any]:
    """The tensors of model.clip, where it is on this machine."""
    shapes = [weights_shapes(folder) for folder, _ in _pretrained(context, "model.clip")]
    return {"clip": shapes[0]["clip"]} if shapes and "clip" in shapes[0] else {}


def _newest_checkpoint(folder: Path) -> int:
    """Bytes of the newest committed checkpoint of a run's folder; 0 without one."""
    return next((folder_size(path) for path in committed_checkpoints(folder)), 0)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; files that vanish meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _runs_alike(context: DoctorContext, settings: Any, facts: MethodFacts) -> list[Run]:
    """Other runs of the same model and method, whose checkpoints have the same size."""
    model, alike = as_dict(settings.model), []
    method = as_dict(settings.method)
    for run in RunStore(context.root).runs("train"):
        with suppress(UserError, AttributeError):
            config = run.config
            other_method = config.get("method", {})
            same = all(other_method.get(key, method[key]) == method[key] for key in ("name", *facts.sizes))
            average = bool(config.get("optim", {}).get("ema_decay")) == bool(settings.optim.ema_decay)
            if config.get("model") == model and same and average:
                alike.append(run)
    return alike


def _pretrained(context: DoctorContext, setting: str = "model.source") -> list[tuple[Path, str]]:
    """The folder of the model that `setting` names, and its name; empty where it is not on this machine."""
    try:
        wanted = needed(context.training, context.root)
    except UserError:
        return []  # another check reports that
    models = []
    for model in wanted:
        if model.setting == setting:
            place = Path(model.name).expanduser()
            folder = place if place.is_dir() else snapshot(model.name)
            if folder is not None:
                models.append((folder, model.name))
    return models


# -- space --------------------------------------------------------------------------------------------


def check_space(context: DoctorContext) -> Findings:
    """There is space for the checkpoints that are kept, the one being written, and the export."""
    if context.run is None and context.settings is None:
        free = free_space(context.place)
        yield ok("space", f"{amount(free.bytes)} free for {context.place}")
        return
    size, how = checkpoint_size(context)
    keep = max(2, context.training.save.keep if context.training else 2)
    existing_bytes = folder_size(context.run.folder / "checkpoints") if context.run else 0
    wanted = max(0, size * (keep + 1) + size // 4 - existing_bytes)
    free = free_space(context.place)
    about = how or "the size of a checkpoint is unknown"
    if size:
        about = f"{amount(size)} per checkpoint ({how}) x ({keep} + 1)"
    what = f"{amount(free.bytes)} free for {context.place}; {about}"
    yield _enough(free.bytes, wanted, "space", what)
    if free.files is not None:
        files = 1000 + 4 * (keep + 1) * max(1, context.nodes * (context.tasks_per_node or 8))
        yield _enough(free.files, files, "inodes", f"{free.files} more files can be created")
    if (quota := quota_of(context.place)) is not None and quota.limit_bytes:
        left = max(0, quota.limit_bytes - quota.used_bytes)
        yield _enough(left, wanted, "quota", f"{amount(left)} of your {amount(quota.limit_bytes)} are left")
        if quota.limit_files and quota.limit_files - quota.used_files < _FEW_FILES:
            left = max(0, quota.limit_files - quota.used_files)
            yield warning("quota", f"only {left} more files fit your quota", "remove what you no longer need")


def _enough(free: int, wanted: int, topic: str, what: str) -> Finding:
    if free < wanted:
        return error(topic, what, "free some space, choose another folder with runs=, or lower save.keep")
    if free < 2 * wanted:
        return warning(topic, what, "enough for this run, but little else: free some space")
    return ok(topic, what)


# -- time ---------------------------------------------------------------------------------------------


def leave_time(context: DoctorContext) -> tuple[float | None, str]:
    """(seconds from the warning until a run has saved and left, how that is known); None where unknown."""
    if context.leaving is None:
        context.leaving = _leave_time(context)
    return context.leaving


def _leave_time(context: DoctorContext) -> tuple[float | None, str]:
    leaving, saving = measured_leaving(context.events), measured_saves(context.events)
    if leaving or saving:
        seconds, source = max((max(leaving, default=0.0), "measured: from the signal to the end"),
                            (max(saving, default=0.0), "measured: the longest save"))  # fmt: skip
        return seconds, source
    size, how = checkpoint_size(context)
    if not size:
        return None, ""
    try:
        with trial_folder(context.place) as folder:
            speed = write_speed(folder)
    except OSError:
        return None, ""
    return size / speed, f"{amount(size)}, {how}, at the {amount(speed)}/s of one writer"


def measured_saves(events: list[dict[str, Any]], newest: int = 20) -> list[float]:
    """Seconds of the newest saves, from the start of writing to the commit."""
    seen = [float(e["seconds"]) for e in events if e.get("event") == "saved" and _is_number(e.get("seconds"))]
    return seen[-newest:]


def measured_leaving(events: list[dict[str, Any]]) -> list[float]:
    """Seconds from each signal until the run had stopped, where both were recorded."""
    durations, since = [], None
    for event in events:
        if event.get("event") == "signal":
            since = since or float(event["time"])  # each rank records it
        elif event.get("event") in ("began", "error", "killed"):
            since = None
        elif event.get("event") == "stopped" and since is not None:
            durations.append(max(0.0, float(event["time"]) - since))
            since = None
    return durations


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_lead(context: DoctorContext) -> Findings:
    """The warning before the time limit comes early enough for a save."""
    if context.site is None or (context.run is None and context.training is None):
        return
    lead = context.site.signal_lead_s
    what = f"the warning comes {lead} s before the time limit"
    if context.facts is not None and (kill_wait := slurm.seconds(context.facts.config.get("KillWait", ""))):
        what += f" (and {kill_wait:.0f} s of KillWait follow it)"
    needed_s, how = leave_time(context)
    if needed_s is None:
        yield ok("lead time", f"{what}; no save has been measured yet")
        return
    what += f"; leaving takes {needed_s:.1f} s ({how})"
    advice = f"site.signal_lead_s={recommended_lead_s(needed_s)}"
    if lead < LEAD_FACTOR * needed_s:
        yield error("lead time", what, advice)
    elif lead < 2 * needed_s:
        yield warning("lead time", what, advice)
    else:
        yield ok("lead time", what)
    if lead > 30 * context.site.time_limit_min:
        yield warning(
            "lead time",
            f"the warning comes before half of the {context.site.time_limit_min} min are over",
            "a longer site.time_limit_min, or a shorter site.signal_lead_s",
        )


def check_interval(context: DoctorContext) -> Findings:
    """Each allocation includes a save, so that a kill does not lose all of it."""
    if context.site is None or context.run is None:
        return
    speeds = [
        beat.samples_per_s for a in allocations(context.run.folder) if (beat := a.heartbeat) is not None
    ]
    speed = next((speed for speed in reversed(speeds) if speed > 0), 0.0)
    every = context.training.save.every_samples if context.training else 0
    if not speed or not every:
        return
    between_s, limit_s = every / speed, 60 * context.site.time_limit_min
    what = f"a save every {between_s / 60:.1f} min ({every} samples at {speed:.1f} per second)"
    if between_s > limit_s / 2:
        yield warning(
            "interval", f"{what}, and an allocation ends after {context.site.time_limit_min} min",
            f"save.every_samples={max(1, int(speed * limit_s / 6))} loses less if a job is killed",
        )  # fmt: skip
    else:
        yield ok("interval", what)
