"""The doctor's checks of saving: size of a checkpoint, space for it, and time to write it before the end."""

from __future__ import annotations

from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from birdsd.checks.case import Case, Finding, Findings, error, ok, warning
from birdsd.config import as_dict
from birdsd.diffusion.parameters import implied_shapes, learning_count
from birdsd.errors import UserError
from birdsd.method_facts import MethodFacts, find
from birdsd.runs.models.hub import needed, snapshot, weights_shapes
from birdsd.runs.run import Run, RunStore
from birdsd.shards.index import ShardIndex
from birdsd.site import slurm
from birdsd.site.filesystem import amount, free_space, quota_of, trial_folder, write_speed

# fp32 weights, two moments and the moving average: what a checkpoint keeps of a parameter that learns.
_BYTES_PER_PARAMETER, _BYTES_OF_WEIGHT = 16, 4
_FEW_FILES = 10_000
_MANY_SPECIES = 100
# The warning must come this many times earlier than leaving takes; `birdsd submit` refuses less as well.
LEAD_FACTOR = 1.5


# -- the size of a checkpoint -------------------------------------------------------------------------


def checkpoint_size(case: Case) -> tuple[int, str]:
    """(bytes of a checkpoint, how that is known); 0 where nothing tells.

    Measured from the run's newest checkpoint, else from another run of the same model and method, else
    counted in the weights that the run starts from or that such a run exported, else estimated.
    """
    if case.run is not None and (size := _newest_checkpoint(case.run.folder)):
        return size, "the run's newest checkpoint"
    settings = case.training
    if settings is None:
        return 0, ""
    facts = find(settings.method.name, settings.method.form)
    if facts is None:
        return 0, ""  # another check says so
    alike = _runs_alike(case, settings, facts)
    for run in alike:
        if size := _newest_checkpoint(run.folder):
            return size, f"a checkpoint of {run.folder.name}"
    if not facts.trains:
        return 0, f"method={settings.method.name} saves no checkpoints"
    each = _BYTES_PER_PARAMETER if settings.optim.ema_decay else _BYTES_PER_PARAMETER - _BYTES_OF_WEIGHT
    species, clip = _species(settings, facts), _clip(case)
    exports = [(run.export_folder, f"the export of {run.folder.name}") for run in alike]
    for folder, said in [*_pretrained(case), *exports]:
        if count := learning_count(settings, {**weights_shapes(folder), **clip}, species):
            return count * each, f"counted in {said}"
    count = learning_count(settings, {**implied_shapes(settings.model), **clip}, species)
    return count * each, "estimated from the model's settings"


def _species(settings: Any, facts: MethodFacts) -> int:
    """How many species the shards name, for a method with words for each; a guess on the large side where
    they are not here yet."""
    with suppress(UserError, OSError):
        asked = facts.word_per_species and settings.data.shards
        if asked and (found := len(ShardIndex.open(Path(settings.data.shards)).species)):
            return found
    return _MANY_SPECIES


def _clip(case: Case) -> dict[str, Any]:
    """The tensors of model.clip, where it is at hand."""
    found = [weights_shapes(folder) for folder, _ in _pretrained(case, "model.clip")]
    return {"clip": found[0]["clip"]} if found and "clip" in found[0] else {}


def _newest_checkpoint(folder: Path) -> int:
    """Bytes of the newest committed checkpoint of a run's folder; 0 without one."""
    names = [
        path.parent for path in (folder / "checkpoints").glob("*/COMMIT.json") if path.parent.name.isdigit()
    ]
    newest = max(names, key=lambda path: int(path.name), default=None)
    return folder_size(newest) if newest else 0


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _runs_alike(case: Case, settings: Any, facts: MethodFacts) -> list[Run]:
    """Other runs of the same model and method: their checkpoints are as large."""
    model, found = as_dict(settings.model), []
    method = as_dict(settings.method)
    for run in RunStore(case.root).runs("train"):
        with suppress(UserError, AttributeError):
            held = run.config
            own = held.get("method", {})
            same = all(own.get(key, method[key]) == method[key] for key in ("name", *facts.sizes))
            average = bool(held.get("optim", {}).get("ema_decay")) == bool(settings.optim.ema_decay)
            if held.get("model") == model and same and average:
                found.append(run)
    return found


def _pretrained(case: Case, setting: str = "model.source") -> list[tuple[Path, str]]:
    """The folder of the model that `setting` names, and its name; empty where it is not on this machine."""
    try:
        wanted = needed(case.training, case.root)
    except UserError:
        return []  # another check says so
    found = []
    for one in wanted:
        if one.setting == setting:
            place = Path(one.name).expanduser()
            folder = place if place.is_dir() else snapshot(one.name)
            if folder is not None:
                found.append((folder, one.name))
    return found


def estimated_parameters(model: Any) -> dict[str, int]:
    """Parameters by part as the settings of a model imply them, to a few per cent."""
    return {part: sum(map(prod, shapes.values())) for part, shapes in implied_shapes(model).items()}


# -- space --------------------------------------------------------------------------------------------


def check_space(case: Case) -> Findings:
    """There is room for the checkpoints that are kept, the one being written, and the export."""
    if case.run is None and case.settings is None:
        free = free_space(case.place)
        yield ok("space", f"{amount(free.bytes)} free for {case.place}")
        return
    size, how = checkpoint_size(case)
    keep = max(2, case.training.save.keep if case.training else 2)
    held = folder_size(case.run.folder / "checkpoints") if case.run else 0
    wanted = max(0, size * (keep + 1) + size // 4 - held)
    free = free_space(case.place)
    about = how or "the size of a checkpoint is unknown"
    if size:
        about = f"{amount(size)} per checkpoint ({how}) x ({keep} + 1)"
    said = f"{amount(free.bytes)} free for {case.place}; {about}"
    yield _enough(free.bytes, wanted, "space", said)
    if free.files is not None:
        files = 1000 + 4 * (keep + 1) * max(1, case.nodes * (case.tasks_per_node or 8))
        yield _enough(free.files, files, "inodes", f"{free.files} more files can be created")
    if (quota := quota_of(case.place)) is not None and quota.limit_bytes:
        left = max(0, quota.limit_bytes - quota.used_bytes)
        yield _enough(left, wanted, "quota", f"{amount(left)} of your {amount(quota.limit_bytes)} are left")
        if quota.limit_files and quota.limit_files - quota.used_files < _FEW_FILES:
            left = max(0, quota.limit_files - quota.used_files)
            yield warning("quota", f"only {left} more files fit your quota", "remove what you no longer need")


def _enough(free: int, wanted: int, topic: str, said: str) -> Finding:
    if free < wanted:
        return error(topic, said, "free some space, choose another folder with runs=, or lower save.keep")
    if free < 2 * wanted:
        return warning(topic, said, "enough for this run, but little else: free some space")
    return ok(topic, said)


# -- time ---------------------------------------------------------------------------------------------


def leave_time(case: Case) -> tuple[float | None, str]:
    """(seconds from the warning until a run has saved and left, how that is known); None if nothing tells."""
    if case.leaving is None:
        case.leaving = _leave_time(case)
    return case.leaving


def _leave_time(case: Case) -> tuple[float | None, str]:
    leaving, saving = measured_leaving(case.events), measured_saves(case.events)
    if leaving or saving:
        seconds, said = max((max(leaving, default=0.0), "measured: from the signal to the end"),
                            (max(saving, default=0.0), "measured: the longest save"))  # fmt: skip
        return seconds, said
    size, how = checkpoint_size(case)
    if not size:
        return None, ""
    try:
        with trial_folder(case.place) as folder:
            speed = write_speed(folder)
    except OSError:
        return None, ""
    return size / speed, f"{amount(size)}, {how}, at the {amount(speed)}/s of one writer"


def measured_saves(events: list[dict[str, Any]], newest: int = 20) -> list[float]:
    """Seconds of the newest saves, from the beginning of writing until they were committed."""
    seen = [float(e["seconds"]) for e in events if e.get("event") == "saved" and _is_number(e.get("seconds"))]
    return seen[-newest:]


def measured_leaving(events: list[dict[str, Any]]) -> list[float]:
    """Seconds from each signal until the run had stopped, as far as both were written down."""
    found, since = [], None
    for event in events:
        if event.get("event") == "signal":
            since = since or float(event["time"])  # each rank tells of it
        elif event.get("event") in ("began", "error", "killed"):
            since = None
        elif event.get("event") == "stopped" and since is not None:
            found.append(max(0.0, float(event["time"]) - since))
            since = None
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_lead(case: Case) -> Findings:
    """The warning before the time limit comes early enough for a save."""
    if case.site is None or (case.run is None and case.training is None):
        return
    lead = case.site.signal_lead_s
    what = f"the warning comes {lead} s before the time limit"
    if case.facts is not None and (kill_wait := slurm.seconds(case.facts.config.get("KillWait", ""))):
        what += f" (and {kill_wait:.0f} s of KillWait follow it)"
    needed_s, how = leave_time(case)
    if needed_s is None:
        yield ok("lead time", f"{what}; no save has been measured yet")
        return
    what += f"; leaving takes {needed_s:.1f} s ({how})"
    advice = f"site.signal_lead_s={int(2 * needed_s) + 30}"
    if lead < LEAD_FACTOR * needed_s:
        yield error("lead time", what, advice)
    elif lead < 2 * needed_s:
        yield warning("lead time", what, advice)
    else:
        yield ok("lead time", what)
    if lead > 30 * case.site.time_limit_min:
        yield warning(
            "lead time",
            f"the warning comes before half of the {case.site.time_limit_min} min are over",
            "a longer site.time_limit_min, or a shorter site.signal_lead_s",
        )


def check_interval(case: Case) -> Findings:
    """A save falls into each allocation, so that a killed one does not lose all of it."""
    if case.site is None or case.run is None:
        return
    from birdsd.runs.allocations import allocations

    speeds = [beat.samples_per_s for a in allocations(case.run.folder) if (beat := a.heartbeat) is not None]
    speed = next((speed for speed in reversed(speeds) if speed > 0), 0.0)
    every = case.training.save.every_samples if case.training else 0
    if not speed or not every:
        return
    between_s, limit_s = every / speed, 60 * case.site.time_limit_min
    said = f"a save every {between_s / 60:.1f} min ({every} samples at {speed:.1f} a second)"
    if between_s > limit_s / 2:
        yield warning(
            "interval", f"{said}, and an allocation ends after {case.site.time_limit_min} min",
            f"save.every_samples={max(1, int(speed * limit_s / 6))} loses less if a job is killed",
        )  # fmt: skip
    else:
        yield ok("interval", said)
