"""After the ranks of an allocation have ended: is there more to do, and how does the next one come?

`python -m birdsd.cluster.aftermath RUN STATUS` is the last line of a batch script; the local supervisor
calls the same functions. Nothing here trusts the ranks: they may all have been killed.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from birdsd.cluster import slurm
from birdsd.cluster.allocations import (
    Allocation,
    Submission,
    allocation_of_environment,
    allocations,
    newest_position,
    slurm_job_id,
    stop_requested,
)
from birdsd.cluster.store import Run, RunStore
from birdsd.errors import UserError

# A requeued job's script is ended by Slurm; should that fail, it ends by itself.
_ENDED_BY_SLURM_S = 60.0


@dataclass(frozen=True)
class Decision:
    """`what`: done, again or stop; `reason` in a few words, for the run's events."""

    what: Literal["done", "again", "stop"]
    reason: str


def decide(run: Run, submission: Submission, allocation: Allocation, status: int) -> Decision:
    """What follows from how an allocation ended. `status`: of srun, or of the worst rank."""
    ended, began = allocation.ended, allocation.began
    if submission.job == "train" and run.result is not None:
        return Decision("done", "finished")
    if submission.job != "train" and ended is not None and ended.reason == "finished":
        return Decision("done", "finished")
    if stop_requested(run.folder):
        return Decision("stop", "somebody asked the run to stop")
    if ended is not None and ended.reason == "refused":
        return Decision("stop", ended.message)
    if ended is not None and ended.reason == "error" and ended.status == UserError.exit_status:
        return Decision("stop", ended.message)
    if not submission.is_local and (said := _from_slurm()) is not None:
        return said
    if idle := _no_progress(run, submission, began.part if began else ""):
        return Decision("stop", idle)
    if ended is not None and ended.reason == "stopped":
        return Decision("again", f"saved at {ended.position} and left ({ended.message or 'asked to'})")
    if hung := [path.name for path in allocation.folder.glob("*.stacks") if path.stat().st_size]:
        return Decision("again", f"a rank hung: see {', '.join(sorted(hung))}")
    return Decision("again", f"the processes ended with status {status}")


def _from_slurm() -> Decision | None:
    """What Slurm has decided already: it requeues a preempted job, and ends a cancelled one, by itself."""
    with suppress(UserError):
        state = slurm.show_job(slurm_job_id()).get("JobState", "")
        if state.startswith("CANCELLED"):
            return Decision("stop", "the job was cancelled")
        if state.startswith(("PENDING", "REQUEUED", "SPECIAL_EXIT")):
            return Decision("done", "Slurm brings the job back by itself")
    return None


def _no_progress(run: Run, submission: Submission, part: str) -> str:
    """Why going on makes no sense: several allocations in a row, and no newer checkpoint."""
    limit = int(submission.site["max_idle_allocations"])
    of_this = [
        (a, began)
        for a in allocations(run.folder)
        if (began := a.began) is not None and began.submission == submission.id and began.part == part
    ]
    of_this = of_this[-limit:]
    if len(of_this) < limit:
        return ""
    first = of_this[0][1]
    if submission.job == "train" and newest_position(run.folder) > first.position:
        return ""
    if submission.job != "train" and _reached(of_this[-1][0]) > _reached(of_this[0][0]):
        return ""
    last = next((a.ended.message for a, _ in reversed(of_this) if a.ended and a.ended.message), "")
    return f"{limit} allocations in a row brought no new checkpoint beyond {first.position} samples" + (
        f"; the last said: {last}" if last else ""
    )


def _reached(allocation: Allocation) -> int:
    """Where a job that is made of other jobs had got to when one of its allocations ended."""
    told = [one.position for one in (allocation.ended, allocation.heartbeat) if one is not None]
    return max(told, default=0)


def carry_out(run: Run, submission: Submission, decision: Decision) -> None:
    """Bring the next Slurm allocation in the way that the site allows, or clear up behind the last."""
    job = slurm_job_id()
    how = str(submission.site["hand_over"])
    if decision.what != "again":
        _clear_chain(submission, job)
        if decision.what == "stop":
            run.event({"event": "chain stopped", "reason": decision.reason, "job_id": job})
            print(f"birdsd: {run.folder.name} does not go on: {decision.reason}", flush=True)
        return
    told = {"event": "handed over", "how": how, "job_id": job, "reason": decision.reason}
    if how == "requeue":
        run.event(told)  # before: Slurm ends this very script
        sys.stdout.flush()
        try:
            slurm.requeue(job)
        except UserError as error:
            _say_how_to_go_on(run, f"the job could not be requeued ({error})")
            return
        time.sleep(_ENDED_BY_SLURM_S)
    elif how == "resubmit":
        from birdsd.cluster.launch import send

        submission.job_ids = []
        sent = send(run, submission)
        run.event({**told, "next": sent.job_ids})
    elif how == "chain":
        waiting = [number for number in submission.job_ids if number != job and int(number) > int(job)]
        if waiting:
            run.event({**told, "next": waiting[:1]})
        else:
            _say_how_to_go_on(run, "the chain of queued jobs is at its end")
    else:
        _say_how_to_go_on(run, decision.reason)


def _say_how_to_go_on(run: Run, reason: str) -> None:
    run.event({"event": "chain stopped", "reason": reason, "job_id": slurm_job_id()})
    print(f"birdsd: {reason}; go on with: birdsd resume {run.folder}", flush=True)


def _clear_chain(submission: Submission, job: str) -> None:
    """The jobs of a chain that wait behind this one have nothing to do any more."""
    if submission.site["hand_over"] == "chain":
        for number in submission.job_ids:
            if number != job and int(number) > int(job or 0):
                with suppress(UserError):
                    slurm.cancel(number)


def main(run_folder: str, status: int) -> int:
    """The end of a batch script."""
    run = RunStore(Path(run_folder).parent).find(run_folder)
    submission = Submission.read(run.folder)
    if submission is None:
        return 0
    decision = decide(run, submission, allocation_of_environment(run.folder), status)
    print(f"birdsd: {decision.what}: {decision.reason}", flush=True)
    carry_out(run, submission, decision)
    return 0


if __name__ == "__main__":
    # The environment of the batch script is that of its job; nothing of it is a rank's.
    os.environ.pop("RANK", None)
    try:
        sys.exit(main(sys.argv[1], int(sys.argv[2])))
    except UserError as problem:
        print(f"birdsd: {problem}", file=sys.stderr)
        sys.exit(problem.exit_status)
