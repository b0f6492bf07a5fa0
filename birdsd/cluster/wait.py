"""`birdsd submit --wait`: show the log of rank 0 until the run is over."""

from __future__ import annotations

import sys
import time

from birdsd.cluster.submit import active_jobs, reap_supervisors
from birdsd.jobs_api import STOPPED_STATUS, Outcome
from birdsd.runs.allocations import Allocation, Submission, allocations, request_stop, stop_requested
from birdsd.runs.run import Run

_POLL_S = 0.5
# Seconds between two queries of Slurm: its controller serves a whole university.
_ASK_S = {True: 1.0, False: 15.0}


def wait_for(run: Run) -> Outcome:
    """Follow the log of rank 0 on stderr until no job of the run is left; Ctrl-C asks the run to stop."""
    last = Submission.read(run.folder)
    asked_at = 0.0
    shown: dict[str, int] = {}
    try:
        while True:
            for allocation in allocations(run.folder):
                if last is not None and (began := allocation.began) and began.submission == last.id:
                    _show(allocation, shown)
            if last is None or time.monotonic() - asked_at > _ASK_S[last.is_local]:
                if not active_jobs(run):
                    break
                asked_at = time.monotonic()
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        if not stop_requested(run.folder):
            request_stop(run.folder, "Ctrl-C at birdsd submit --wait")
            print("birdsd: asked the run to save and stop", file=sys.stderr, flush=True)
        return wait_for(run)
    for allocation in allocations(run.folder)[-1:]:
        _show(allocation, shown)
    if last is not None:
        reap_supervisors(last.job_ids)
    return _outcome(run)


def _show(allocation: Allocation, shown: dict[str, int]) -> None:
    log = allocation.log(0)
    try:
        with open(log, "rb") as stream:
            stream.seek(shown.get(allocation.name, 0))
            data = stream.read()
    except OSError:
        return
    if data:
        shown[allocation.name] = shown.get(allocation.name, 0) + len(data)
        sys.stderr.write(data.decode("utf-8", "replace"))
        sys.stderr.flush()


def _outcome(run: Run) -> Outcome:
    name = run.folder.name
    facts = {"run": str(run.folder), "signature": run.signature, "nothing_to_do": False}
    ended = next((a.ended for a in reversed(allocations(run.folder)) if a.ended), None)
    if run.job == "train" and run.result is not None:
        return Outcome(f"{name}: finished\n  export  {run.export_folder}", {**run.result, **facts})
    if run.job != "train" and ended is not None and ended.reason == "finished":
        return Outcome(f"{name}: finished", facts)
    why = next((e["reason"] for e in reversed(run.events()) if e.get("event") == "chain stopped"), "")
    status = ended.status if ended is not None and ended.reason == "error" else STOPPED_STATUS
    return Outcome(f"{name}: not finished; {why or 'it stopped'}", {**facts, "reason": why}, status or 1)
