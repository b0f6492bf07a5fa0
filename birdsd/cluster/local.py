"""site=local: this process does for ranks on this machine what a batch script does for a Slurm job.

It starts them through submitit's local executor, waits, and starts them again if the run should continue.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from birdsd.cluster.next_allocation import Decision, decide
from birdsd.cluster.task import RankTask
from birdsd.errors import UserError
from birdsd.files import exclusive
from birdsd.remarks import coded
from birdsd.runs.allocations import (
    Submission,
    allocation_of_environment,
    newest_position,
    request_stop,
    stop_requested,
)
from birdsd.runs.run import Run, RunStore
from birdsd.runs.starts import LOCK_FOLDER, SUBMITIT_FOLDER, note
from birdsd.site.choose import tasks_per_node
from birdsd.site.machine import gpu_devices

_POLL_S = 0.25
# Ranks leave together; one that stays this much longer than the first to leave waits for it in vain.
_LINGER_S = 15.0


def supervise(run: Run, submission: Submission) -> Decision:
    """Run the ranks until the run is finished, stopped, or makes no progress."""
    _forward_signals(run)
    number = 0
    while True:
        os.environ["BIRDSD_ALLOCATION"] = f"local-{submission.id}-{number:03d}"
        allocation = allocation_of_environment(run.folder)
        status = _run_once(run, submission, allocation.name)
        note(run.folder, submission.id, "end", allocation.name, status)
        decision = decide(run, submission, allocation, status)
        facts = {"reason": decision.reason, "allocation": allocation.name, "status": status}
        if decision.what == "again":
            run.event({"event": "handed over", "how": "local", **facts})
            number += 1
            continue
        if decision.what == "stop":
            run.event({"event": "chain stopped", **facts, **coded(decision.reason)})
        print(f"birdsd: {decision.what}: {decision.reason}", flush=True)
        return decision


def _run_once(run: Run, submission: Submission, name: str) -> int:
    """Run all ranks of the allocation `name` to their end; returns the status of the first that failed."""
    import submitit

    requested, site = submission.submit, submission.site
    tasks = tasks_per_node(requested)
    executor = submitit.AutoExecutor(folder=str(run.folder.resolve() / SUBMITIT_FOLDER), cluster="local")
    executor.update_parameters(
        tasks_per_node=tasks,
        timeout_min=int(site["time_limit_min"]),
        gpus_per_node=min(tasks, _gpus_here()),
        slurm_signal_delay_s=int(site["signal_lead_s"]),
    )
    task = RankTask(submission.job, submission.settings, str(run.folder.resolve()), submission.cwd)
    job: Any = executor.submit(task)
    process = job._process
    note(run.folder, submission.id, "begin", name, newest_position(run.folder), job.job_id)
    alone_since = None
    while process.poll() is None:
        time.sleep(_POLL_S)
        ranks = _children(process.pid)
        if not 0 < len(ranks) < tasks:
            alone_since = None  # still starting, all at work, or all gone
        elif alone_since is None:
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > _LINGER_S:
            # submitit's controller waits for all of them, and these wait for one that is dead.
            for rank in ranks:
                with suppress(psutil.Error):
                    rank.kill()
    return int(process.returncode)


def _children(process_id: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        living = psutil.Process(process_id).children()
        return [child for child in living if child.status() != psutil.STATUS_ZOMBIE]
    return []


def _gpus_here() -> int:
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([part for part in shown.split(",") if part.strip().isdigit()])
    return gpu_devices()


def _forward_signals(run: Run) -> None:
    """On SIGTERM or SIGINT, request a stop of the run: rank 0 sees it, saves, and all ranks leave
    together."""

    def ask(number: int, frame: object) -> None:
        if stop_requested(run.folder):
            raise KeyboardInterrupt
        request_stop(run.folder, f"{signal.Signals(number).name} to process {os.getpid()}")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)


def main(run_folder: str) -> int:
    """The process that `birdsd submit site=local` starts."""
    run = RunStore(Path(run_folder).parent).find(run_folder)
    submission = Submission.read(run.folder)
    if submission is None:
        return 2
    print(f"birdsd: supervisor on {platform.node()}, process {os.getpid()}", flush=True)
    with exclusive(run.folder / LOCK_FOLDER):
        try:
            return 0 if supervise(run, submission).what == "done" else 1
        except Exception as error:
            reason = f"the processes could not be started: {type(error).__name__}: {error}"
            run.event({"event": "chain stopped", "reason": reason})
            raise


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except UserError as problem:
        print(f"birdsd: {problem}", file=sys.stderr)
        sys.exit(problem.exit_status)
