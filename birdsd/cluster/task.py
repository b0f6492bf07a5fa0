"""What each rank of a submitted job runs. submitit pickles it by module name, with strings alone."""

from __future__ import annotations

import faulthandler
import os
import random
import sys
import time
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from birdsd.cluster.rank.session import Session

# A process whose work is done exits within this time, whatever threads its libraries left behind.
_LEAVE_S = 30.0
# Below the ephemeral ports of common systems.
_PORTS = (20000, 32000)


@dataclass
class RankTask:
    """Runs `birdsd run JOB SETTINGS` as one rank of an allocation of `run_folder`.

    It holds nothing that could become outdated: a requeued job runs the same pickle, and finds the newest
    checkpoint itself. Its exit status is the job's, but 0 where it stopped on request, since Slurm would
    kill the other ranks otherwise.
    """

    job: str
    settings: list[str]
    run_folder: str
    cwd: str
    array: int = 0

    def __call__(self) -> int:
        from birdsd.cluster.rank.signals import listen_early

        listen_early()  # replaces submitit's handler, which asks rank 0 alone to save
        settings = list(self.settings)
        self._join()
        try:
            os.chdir(self.cwd)
        except OSError as error:
            return self._refuse(
                f"the folder that the job was submitted from, {self.cwd}, cannot be entered here "
                f"({error.strerror}); from the run's present location: birdsd resume {self.run_folder}"
            )
        if self.array:
            settings.append(f"part={_array_task()}/{self.array}")
        status = self._run(settings)
        sys.stdout.flush(), sys.stderr.flush()
        faulthandler.cancel_dump_traceback_later()
        if status:
            os._exit(status)
        faulthandler.dump_traceback_later(_LEAVE_S, exit=True)
        return status

    def _refuse(self, message: str) -> int:
        """Report an error that another allocation would not fix, and exit."""
        from birdsd.errors import UserError

        print(f"birdsd: {message}", file=sys.stderr, flush=True)
        self._note_error(message)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(UserError.exit_status)

    def _join(self) -> None:
        """Set up rank and rendezvous, and redirect this rank's output into the run's folder."""
        import submitit

        from birdsd.quiet import libraries_in
        from birdsd.runs.allocations import allocation_name, allocation_of_environment
        from birdsd.runs.run import RUN_FOLDER_VARIABLE

        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            # Another port after a requeue: the previous allocation may still hold the first.
            port = random.Random(allocation_name()).randint(*_PORTS)
            os.environ["MASTER_PORT"] = str(port)
            # Every rank sees every GPU of its node and takes its own by LOCAL_RANK.
            submitit.helpers.TorchDistributedEnvironment().export(
                set_cuda_visible_devices=False, overwrite=True
            )
        if self.job == "train":
            os.environ[RUN_FOLDER_VARIABLE] = self.run_folder
        allocation = allocation_of_environment(Path(self.run_folder))
        allocation.folder.mkdir(parents=True, exist_ok=True)
        log = os.open(allocation.log(environment.global_rank), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        sys.stdout.flush(), sys.stderr.flush()
        os.dup2(log, 1), os.dup2(log, 2)
        os.close(log)
        libraries_in(allocation.libraries_log(environment.global_rank))

    def _run(self, settings: list[str]) -> int:
        from birdsd import config
        from birdsd.errors import UserError
        from birdsd.jobs_api import STOPPED_STATUS, load_job

        try:
            settled = config.compose(self.job, settings)
            with self._session(settled) as session:
                outcome = load_job(self.job)(settled)
                if session is not None:
                    session.outcome(finished=not outcome.exit_status, status=outcome.exit_status)
            print(outcome.text, flush=True)
            return 0 if outcome.exit_status == STOPPED_STATUS else outcome.exit_status
        except UserError as error:
            print(f"birdsd: {error}", file=sys.stderr, flush=True)
            self._note_error(str(error))
            return error.exit_status
        except SystemExit as leaving:
            return leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            traceback.print_exc()
            return 1

    def _session(self, settled: Any) -> AbstractContextManager[Session | None]:
        """A training has its own session; every other job gets one here, for its record and heartbeat."""
        from birdsd.cluster.rank.session import Session
        from birdsd.runs.run import RunStore

        if self.job == "train":
            return nullcontext()
        run = RunStore(Path(self.run_folder).parent).find(self.run_folder)
        return Session(run, part=getattr(settled, "part", ""), lock=False)

    def _note_error(self, message: str) -> None:
        """Record the end of a job that failed before it had a session."""
        from birdsd.errors import UserError
        from birdsd.runs.allocations import END, Ended, allocation_of_environment, write_record

        allocation = allocation_of_environment(Path(self.run_folder))
        if allocation.ended is None:
            with suppress(UserError):
                write_record(allocation.folder, END, Ended(time.time(), "error", 2, message=message))


def _array_task() -> int:
    return int(os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get("BIRDSD_ARRAY_TASK") or 0)
