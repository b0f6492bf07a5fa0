"""`birdsd resume`: continue a run where it is now, on the same site or another one."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from birdsd import config
from birdsd.cluster.submit import Submitted, active_jobs, new_submission, send
from birdsd.errors import InUse, Mismatch, NotFound
from birdsd.runs.allocations import Submission, no_submission
from birdsd.runs.extension import KEY, extend
from birdsd.runs.run import Run, open_training
from birdsd.schema import MODEL_KEYS, SubmitConfig
from birdsd.site.caller import take_from_environment
from birdsd.site.choose import check_site

# Locations do not affect what is learnt: the run's signature tells whether the contents are the same.
PLACES = ("data.shards", *(f"model.{key}" for key in MODEL_KEYS))


def resume(run: Run, settings: Sequence[str] = ()) -> Submitted:
    """Submit a run's newest submission again, with other site settings where some are given.

    The code is copied anew: resuming by hand uses the present code. A run that was moved, with or without
    the folder that it was submitted from, is found where it is. A larger optim.total_samples extends the
    run (see `birdsd.runs.extension`). Raises `UserError` for any other change.
    """
    last = Submission.read(run.folder)
    job = last.job if last is not None else run.job
    where, what = config.split_settings(job, settings)
    _check_keys(run, job, what)
    longer = [setting for setting in what if setting.startswith(f"{KEY}=")]
    what = [setting for setting in what if setting not in longer]
    if last is None:
        if longer:
            line = extend(run, _length(longer[-1]))
            return Submitted(
                run, [], f"{line}\n  the same `birdsd run {job}` command as before continues the training"
            )
        raise no_submission(run.folder.name)
    if run.result is not None and job == "train" and not longer:
        return Submitted(run, [], f"{run.folder.name}: nothing to do, this run is finished")
    if active := active_jobs(run):
        raise InUse(
            f"{run.folder.name} is running or queued: {', '.join(active)}",
            "two jobs on the same run would only wait for each other",
            f"birdsd status {run.folder.name}, or birdsd cancel {run.folder.name} first",
        )
    submit_config, notes = _where_to(last, where)
    moved = Moved.of(run, last)
    settled = moved.settings([*last.settings, *what])
    cwd = moved.path(last.cwd)
    if not Path(cwd).is_dir():
        moved.notes.append(f"the folder it was submitted from, {cwd}, is gone: paths are resolved from here")
        cwd = os.getcwd()
    if job == "train":
        _check_same(run, settled, cwd)
    line = f"{extend(run, _length(longer[-1]))}\n" if longer else ""
    submission = new_submission(run, job, settled, submit_config, cwd, python=moved.interpreter(last.python))
    sent = send(run, submission)
    return Submitted(run, sent.job_ids, line + sent.line, notes=(*moved.notes, *notes))


def _check_keys(run: Run, job: str, what: Sequence[str]) -> None:
    """Refuse settings that do not exist or must not change within a run."""
    for setting in what:
        config.compose(job, [setting])  # refuses an unknown key
    wrong = [s for s in what if not s.startswith(("machine.", "machine=", *(f"{k}=" for k in PLACES)))]
    if job == "train":
        wrong = [setting for setting in wrong if not setting.startswith(f"{KEY}=")]
    if wrong:
        raise Mismatch(
            f"cannot change {', '.join(wrong)} of a run",
            f"these settings determine what is learnt; only machine.*, where it runs, paths "
            f"({', '.join(PLACES)}) and a larger {KEY} may change",
            f"birdsd submit {job} ... starts another run",
        )


def _length(setting: str) -> int:
    return int(config.compose("train", [setting]).optim.total_samples)


def _where_to(last: Submission, where: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The resolved SubmitConfig of the next submission; settings that are not named stay as stored."""
    if not where:
        return last.submit, []
    if any(setting.split("=", 1)[0] == "site" for setting in where):
        same = [f"{key}={int(last.submit[key])}" for key in ("nodes", "tasks_per_node", "array")]
        requested: SubmitConfig = config.compose(config.schema.SUBMIT, [*same, *where])
        notes = take_from_environment(requested.site) if requested.site.executor == "slurm" else []
    else:
        requested = config.changed(config.schema.SUBMIT, last.submit, where)
        notes = []
    check_site(requested, last.job)
    return asdict(requested), notes


class Moved:
    """How a run was moved since its newest submission, and what that means for paths.

    The part that the ends of the old and the new path have in common moved along with it:
    /a/project/runs/RUN is now /b/birds/runs/RUN, so /a/project/shards is looked for in /b/birds/shards.
    """

    def __init__(self, before: Path, after: Path, cwd: str) -> None:
        old, new = list(before.parts), list(after.parts)
        while len(old) > 1 and len(new) > 1 and old[-1] == new[-1]:
            old.pop(), new.pop()
        self.run_before, self.run_after = before, after
        self.before, self.after, self.cwd = Path(*old), Path(*new), cwd
        self.notes: list[str] = []
        if before != after:
            self.notes.append(f"it was moved from {before} and continues where it is now")

    @classmethod
    def of(cls, run: Run, last: Submission) -> Moved:
        """From where a run was at its last submission to where it is."""
        after = run.folder.resolve()
        # Older submissions do not record it, but the code snapshot, RUN/code/HASH, tells.
        before = last.run_folder or (str(Path(last.snapshot).parent.parent) if last.snapshot else "")
        return cls(Path(before) if before else after, after, last.cwd)

    def path(self, text: str) -> str:
        """The present form of an absolute path, if it was inside the moved folder and exists there."""
        for before, after in ((self.run_before, self.run_after), (self.before, self.after)):
            place = Path(text)
            if before != after and place.is_relative_to(before):
                now = after / place.relative_to(before)
                if now.exists():
                    return str(now)
        return text

    def settings(self, settings: Sequence[str]) -> list[str]:
        """Settings with present paths, also for those relative to the folder of the submission."""
        return [self._setting(setting) for setting in settings]

    def _setting(self, setting: str) -> str:
        key, equals, value = setting.partition("=")
        if not value or "\0" in value or self.run_before == self.run_after:
            return setting
        absolute = os.path.normpath(os.path.join(self.cwd, value))
        now = self.path(absolute)
        # A path relative to a folder that moved along stays as typed.
        relative_still = not os.path.isabs(value) and self.path(self.cwd) != self.cwd
        return setting if now == absolute or relative_still else f"{key}{equals}{now}"

    def interpreter(self, python: str) -> str:
        """The Python of the submission; this process's where that does not exist any more."""
        now = self.path(python)
        return now if os.sep not in now or "$" in now or os.access(now, os.X_OK) else sys.executable


def _check_same(run: Run, settings: Sequence[str], cwd: str) -> None:
    """Refuse settings that, from `cwd`, do not lead to this very run with its shards and models unchanged."""
    settled = config.compose("train", _absolute(settings, cwd))
    places = {key: getattr(getattr(settled, key.split(".")[0]), key.split(".")[1]) for key in PLACES}
    for key, value in places.items():
        # Anything else may be the name of a run, or of a model on a hub.
        if value and (os.path.isabs(value) or key == "data.shards") and not Path(value).exists():
            raise NotFound(
                f"{key} of {run.folder.name} is {Path(cwd, value)}, which does not exist",
                "a run continues with the shards and models that it started with",
                f"birdsd resume {run.folder.name} {key}=NEW_LOCATION",
            )
    same, _ = open_training(settled, write=False)
    if same.signature != run.signature:
        raise Mismatch(
            f"with these settings and files, {run.folder.name} would become {same.folder.name}",
            "a run continues only with the shards and models that it started with",
            f"point to identical ones, with {' or '.join(f'{key}=' for key in places if places[key])}",
        )


def _absolute(settings: Sequence[str], cwd: str) -> list[str]:
    """Settings with absolute paths; run names and hub ids stay as they are."""
    paths = [f"runs={Path(cwd, 'runs')}"]
    for setting in settings:
        key, _, value = setting.partition("=")
        place = Path(cwd, value)
        is_path = key == "runs" or (key in PLACES and bool(value) and place.exists())
        paths.append(f"{key}={place}" if is_path else setting)
    return paths


def resubmit(run: Run, settings: Sequence[str] = ()) -> Submitted:
    """Submit a run's newest submission again; see `resume`."""
    return resume(run, settings)
