"""`birdsd cancel`: a run saves and stops, and its jobs in the queue are cancelled."""

from __future__ import annotations

import getpass
import platform
from typing import Any

from birdsd.cluster.submit import active_jobs
from birdsd.errors import NothingLeft
from birdsd.runs.allocations import Submission, request_stop
from birdsd.runs.run import Run
from birdsd.site import slurm


def cancel(run: Run, now: bool = False) -> tuple[dict[str, Any], str]:
    """Request a stop: queued jobs are cancelled, running ones save first (unless `now`).

    Returns the facts and a text. The request is recorded even where nothing runs.
    """
    if run.result is not None:
        raise NothingLeft(f"{run.folder.name} is finished", "there is nothing to cancel")
    active = active_jobs(run)
    request_stop(run.folder, f"{_user()} on {platform.node()}")
    run.event({"event": "cancelled", "by": _user(), "now": now})
    last = Submission.read(run.folder)
    ended: list[str] = []
    if last is not None and not last.is_local:
        for number, state in slurm.jobs(last.job_ids).items():
            if state.state == "PENDING" or (now and state.state in ("RUNNING", "COMPLETING", "SUSPENDED")):
                slurm.cancel(number)
                ended.append(number)
    lines = [f"{run.folder.name}: asked to stop"]
    if ended:
        lines.append(f"  cancelled: {', '.join(ended)}")
    if rest := [job for job in active if job.split()[-1] not in ended]:
        lines.append(f"  {', '.join(rest)} will save at the next step and exit, and will not be restarted")
    if not active:
        lines.append("  it was neither running nor queued")
    lines.append(f"  birdsd resume {run.folder.name} resumes it")
    return {"run": str(run.folder), "active": active, "cancelled": ended}, "\n".join(lines)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
