"""After the ranks of an allocation have ended: decide whether another one follows, and start it.

`python -m birdsd.cluster.next_allocation RUN STATUS` is the last line of a batch script; the local
supervisor calls the same functions. Nothing here relies on the ranks: they may all have been killed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from birdsd.cluster.script_lines import jobs_file
from birdsd.errors import UserError
from birdsd.remarks import Remark, coded
from birdsd.runs.allocations import (
    FOLDER,
    Allocation,
    Submission,
    allocation_of_environment,
    allocations,
    newest_position,
    slurm_job_id,
    stop_requested,
)
from birdsd.runs.run import Run, RunStore
from birdsd.runs.starts import Start, last_words, silent_limit, silent_row, starts
from birdsd.site import slurm

# Slurm ends the script of a requeued job; should that fail, it exits by itself.
_ENDED_BY_SLURM_S = 60.0


@dataclass(frozen=True)
class Decision:
    """`what`: done, again or stop; `reason` in a few words, for the run's events."""

    what: Literal["done", "again", "stop"]
    reason: str


def decide(run: Run, submission: Submission, allocation: Allocation, status: int) -> Decision:
    """Decide what follows an allocation. `status`: of srun, or of the worst rank."""
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
    if not submission.is_local and (decision := _from_slurm()) is not None:
        return decision
    begun = starts(run.folder, submission.id, _array_task(allocation))
    if unheard := _silent(run, submission, begun):
        return Decision("stop", unheard)
    if idle := _no_progress(run, submission, began.part if began else "", begun):
        return Decision("stop", idle)
    if ended is not None and ended.reason == "stopped":
        return Decision("again", f"saved at {ended.position} and exited ({ended.message or 'as requested'})")
    if hung := [path.name for path in allocation.folder.glob("*.stacks") if path.stat().st_size]:
        return Decision("again", f"a rank hung: see {', '.join(sorted(hung))}")
    return Decision("again", f"the processes ended with status {status}")


def _from_slurm() -> Decision | None:
    """What Slurm has already decided: it requeues preempted jobs and ends cancelled ones by itself."""
    with suppress(UserError):
        job = slurm.show_job(slurm_job_id())
        state = job.get("JobState", "")
        # As long as its script runs, Slurm says COMPLETING of a job that was cancelled and of one that it
        # requeues. Only the cancelled one has an end in the past. At the time limit the job is COMPLETING
        # too, but with a Reason; that is for us to continue.
        if state.startswith("COMPLETING") and job.get("Reason", "None") == "None":
            ended = slurm.when(job.get("EndTime", ""))
            state = "CANCELLED" if ended is not None and ended <= time.time() else "REQUEUED"
        if state.startswith("CANCELLED"):
            return Decision("stop", "the job was cancelled")
        if state.startswith(("PENDING", "REQUEUED", "SPECIAL_EXIT")):
            return Decision("done", "Slurm requeues the job by itself")
    return None


def _array_task(allocation: Allocation) -> str:
    """The task of an array that an allocation is of, from its name, 12_3.0; "" elsewhere."""
    job = allocation.name.rpartition(".")[0]
    task = job.partition("_")[2]
    return task if task.isdigit() and job.replace("_", "").isdigit() else ""


def _silent(run: Run, submission: Submission, begun: Sequence[Start]) -> str:
    """Why to give up: in several starts in a row no rank got as far as birdsd; "" for no reason."""
    row = silent_row(begun)
    if len(row) < silent_limit(submission.site):
        return ""
    line = last_words(run.folder, dict.fromkeys(start.job_id for start in row))
    text = f"birdsd did not start in {len(row)} allocations in a row"
    text += f"; the launcher said: {line}" if line else ""
    return Remark(text, "did-not-start", allocations=len(row), launcher=line)


def _no_progress(run: Run, submission: Submission, part: str, begun: Sequence[Start]) -> str:
    """Why to give up: several allocations in a row without a newer checkpoint; "" for no reason."""
    limit = int(submission.site["max_idle_allocations"])
    of_this = [
        (a, began.position)
        for a in allocations(run.folder)
        if (began := a.began) is not None and began.submission == submission.id and began.part == part
    ]
    if len(begun) > len(of_this):  # count starts without any record too
        of_this = [(Allocation(run.folder / FOLDER / start.name), start.reached) for start in begun]
    of_this = of_this[-limit:]
    if len(of_this) < limit:
        return ""
    first = of_this[0][1]
    if submission.job == "train" and newest_position(run.folder) > first:
        return ""
    if submission.job != "train" and _reached(of_this[-1][0]) > _reached(of_this[0][0]):
        return ""
    last = next((a.ended.message for a, _ in reversed(of_this) if a.ended and a.ended.message), "")
    text = f"{limit} allocations in a row brought no new checkpoint beyond {first} samples"
    text += f"; the last said: {last}" if last else ""
    return Remark(text, "no-progress", allocations=limit, position=first)


def _reached(allocation: Allocation) -> int:
    """The progress of a job other than train when one of its allocations ended."""
    positions = [record.position for record in (allocation.ended, allocation.heartbeat) if record is not None]
    return max(positions, default=0)


def carry_out(run: Run, submission: Submission, decision: Decision) -> None:
    """Start the next Slurm allocation in the way that the site allows, or clean up after the last."""
    job = slurm_job_id()
    how = str(submission.site["hand_over"])
    if decision.what != "again":
        _clear_chain(run, submission, job)
        if decision.what == "stop":
            why = {"reason": decision.reason, **coded(decision.reason)}
            run.event({"event": "chain stopped", **why, "job_id": job})
            print(f"birdsd: {run.folder.name} will not continue: {decision.reason}", flush=True)
        return
    event = {"event": "handed over", "how": how, "job_id": job, "reason": decision.reason}
    if how == "requeue":
        run.event(event)  # first, since Slurm ends this very script
        sys.stdout.flush()
        try:
            slurm.requeue(job)
        except UserError as error:
            _say_how_to_go_on(run, f"the job could not be requeued ({error})")
            return
        time.sleep(_ENDED_BY_SLURM_S)
    elif how == "resubmit":
        if int(submission.submit.get("array") or 0) > 1:
            # Each unfinished task would submit the whole array again.
            _say_how_to_go_on(run, f"{decision.reason}; array jobs are not resubmitted automatically")
            return
        from birdsd.cluster.submit import send

        submission.job_ids = []
        sent = send(run, submission)
        run.event({**event, "next": sent.job_ids})
    elif how == "chain":
        waiting = _later_jobs(run, submission, job)
        if waiting:
            run.event({**event, "next": waiting[:1]})
        else:
            _say_how_to_go_on(run, "the chain of queued jobs has ended")
    else:
        _say_how_to_go_on(run, decision.reason)


def _say_how_to_go_on(run: Run, reason: str) -> None:
    run.event({"event": "chain stopped", "reason": reason, "job_id": slurm_job_id()})
    print(f"birdsd: {reason}; continue with: birdsd resume {run.folder}", flush=True)


def _later_jobs(run: Run, submission: Submission, job: str) -> list[str]:
    """The later jobs of a chain, also those submitted before the submission was recorded."""
    mine = int(job.split("_")[0] or 0)
    with suppress(OSError):
        noted = jobs_file(run.folder, submission.id).read_text(encoding="utf-8").split()
        return [number for number in noted if number.isdigit() and int(number) > mine]
    return [number for number in submission.job_ids if number.isdigit() and int(number) > mine]


def _clear_chain(run: Run, submission: Submission, job: str) -> None:
    """Cancel the later jobs of a chain, which have nothing to do any more. Behind an array they stay while
    other tasks are unfinished; tasks that are done exit at once."""
    if submission.site["hand_over"] == "chain" and int(submission.submit.get("array") or 0) < 2:
        for number in _later_jobs(run, submission, job):
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
    # The batch script has the environment of its job, but is not a rank.
    os.environ.pop("RANK", None)
    try:
        sys.exit(main(sys.argv[1], int(sys.argv[2])))
    except UserError as problem:
        print(f"birdsd: {problem}", file=sys.stderr)
        sys.exit(problem.exit_status)
