"""`birdsd submit`: turns a job's settings and a site's facts into a Slurm job or local processes, by
submitit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd import config
from birdsd.cluster.script_lines import (
    check_words,
    environment,
    jobs_file,
    resolved,
    setup_lines,
    shell_value,
    teardown_lines,
)
from birdsd.cluster.snapshot import take_snapshot
from birdsd.cluster.task import RankTask
from birdsd.errors import Mismatch, UserError, clipped
from birdsd.files import append_bytes, safe_name
from birdsd.runs.allocations import Submission, withdraw_stop
from birdsd.runs.effects import without_effect
from birdsd.runs.extension import could_be_extended
from birdsd.runs.resources import resources, settings_of, site_for
from birdsd.runs.run import Run, RunStore, open_training
from birdsd.runs.starts import SUBMITIT_FOLDER, is_supervised
from birdsd.schema import SubmitConfig
from birdsd.site import slurm
from birdsd.site.caller import left_out, submitting, take_from_environment
from birdsd.site.choose import check_site, choose_site, tasks_per_node
from birdsd.site.sbatch_options import LEAD_FACTOR, recommended_lead_s, submitit_parameters

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Submitted:
    """The result of a submission: the run, its new job ids (none where there was nothing to do), and a
    line."""

    run: Run
    job_ids: list[str]
    line: str
    script: str = ""
    notes: tuple[str, ...] = ()  # remarks for the user

    def to_json(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"run": str(self.run.folder), "job_ids": self.job_ids, "text": self.line}
        if self.notes:
            facts["notes"] = list(self.notes)
        return {**facts, "script": self.script} if self.script else facts


def submit(job: str, settings: Sequence[str], dry_run: bool = False) -> Submitted:
    """Submit a job to its site. A run that is already finished, queued or running is left alone."""
    where, what = config.split_settings(job, settings)
    requested: SubmitConfig = config.compose(config.schema.SUBMIT, choose_site(where))
    notes = tuple(take_from_environment(requested.site)) if requested.site.executor == "slurm" else ()
    check_site(requested, job)
    settled = settings_of(job, tuple(what))
    request = resources(requested.site, requested.nodes, requested.tasks_per_node, job, settled)
    for line in (*without_effect(job, what, settled), *request.remarks):
        print(f"birdsd: {clipped(line, 300)}", file=sys.stderr)
    run = open_run(job, what, write=not dry_run)
    if run.result is not None and job == "train":
        return Submitted(run, [], f"{run.folder.name}: nothing to do, this run is finished")
    if not dry_run and (active := active_jobs(run)):
        return Submitted(
            run,
            [],
            f"{run.folder.name}: nothing to do, {', '.join(active)} is already running or queued",
        )
    if job == "train" and not dry_run and (note := could_be_extended(run)):
        notes = (*notes, note)
    submission = new_submission(run, job, what, asdict(requested), os.getcwd())
    if dry_run:
        submission.snapshot = str(run.folder.resolve() / "code" / "(made when it is submitted)")
        return Submitted(run, [], "", batch_script(run, submission), notes)
    return replace(send(run, submission), notes=notes)


def new_submission(
    run: Run, job: str, settings: Sequence[str], submit_config: dict[str, Any], cwd: str, python: str = ""
) -> Submission:
    """A submission of `run` that is yet to be sent."""
    named = submit_config["site"].get("python") or python or sys.executable
    return Submission(
        id=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
        job=job,
        settings=list(settings),
        submit=submit_config,
        time=time.time(),
        cwd=cwd,
        python=os.path.expanduser(str(named)),
        run_folder=str(run.folder.resolve()),
    )


def send(run: Run, submission: Submission) -> Submitted:
    """Copy the code, record the submission, and start its jobs."""
    if not submission.snapshot:
        snapshot = take_snapshot(run.folder)
        submission.snapshot, submission.code_version = str(snapshot.folder), snapshot.version
    withdraw_stop(run.folder)
    if submission.is_local:
        submission.write(run.folder)
        submission.job_ids = [_start_supervisor(run, submission)]
    else:
        _check_lead(run, submission.site)
        submission.job_ids = _sbatch(run, submission)
    submission.write(run.folder)
    for job_id in submission.job_ids:
        run.event(
            {
                "event": "submitted",
                "submission": submission.id,
                "job_id": job_id,
                "site": submission.site["name"],
                "code": submission.code_version,
            }
        )
    kind = "process" if submission.is_local else "job"
    line = (
        f"{run.folder.name}: submitted as {kind} {', '.join(submission.job_ids)} to {submission.site['name']}"
    )
    return Submitted(run, submission.job_ids, line)


def open_run(job: str, settings: Sequence[str], write: bool = True) -> Run:
    """The run of a job's settings, created or found. Needs neither a GPU nor torch."""
    settled = config.compose(job, settings)
    if job == "train":
        return open_training(settled, write)[0]
    return RunStore(Path(getattr(settled, "runs", "runs"))).open_job(job, settled, write)


def active_jobs(run: Run) -> list[str]:
    """The jobs of a run's newest submission that wait, run, or will be requeued."""
    last = Submission.read(run.folder)
    if last is None or not last.job_ids:
        return []
    if last.is_local:
        return [f"process {last.job_ids[-1]}"] if is_supervised(run.folder, last.job_ids) else []
    states = slurm.jobs(last.job_ids)
    return [f"job {number}" for number, state in states.items() if not state.is_over]


# -- Slurm ---------------------------------------------------------------------------------------------


def batch_script(run: Run, submission: Submission) -> str:
    """The sbatch script, as it would be submitted."""
    with _srun_or_not():
        executor = _executor(run, submission)._executor
        array = int(submission.submit["array"])
        if array > 1:
            executor.parameters["map_count"] = array
        return executor._make_submission_file_text(executor._submitit_command_str, "dry-run")


def _sbatch(run: Run, submission: Submission) -> list[str]:
    task = RankTask(
        submission.job,
        submission.settings,
        str(run.folder.resolve()),
        submission.cwd,
        int(submission.submit["array"]),
    )
    site = submission.site
    ids: list[str] = []
    array = max(1, int(submission.submit["array"]))
    # A chain is queued at once: each job starts when the previous one has ended, however it ended.
    links = int(site["chain_length"]) if site["hand_over"] == "chain" else 1
    for _ in range(links):
        executor = _executor(run, submission)
        if ids:
            executor.update_parameters(slurm_dependency=f"afterany:{ids[-1]}")
        try:
            with submitting():
                if array > 1:
                    with executor.batch():
                        jobs = [executor.submit(task) for _ in range(array)]
                    ids.append(jobs[0].job_id.split("_")[0])
                else:
                    ids.append(executor.submit(task).job_id)
        except Exception as error:
            if ids:
                break  # the chain is shorter than requested: the site limits the number of queued jobs
            raise _refused(error, site) from error
        append_bytes(jobs_file(run.folder, submission.id), f"{ids[-1]}\n".encode())
    return ids


def _executor(run: Run, submission: Submission) -> Any:
    """submitit's AutoExecutor, set up for the site and the submission."""
    import submitit

    site, requested = site_for(submission), submission.submit
    folder = run.folder.resolve() / SUBMITIT_FOLDER
    check_words(site, submission.cwd, str(folder))
    executor = submitit.AutoExecutor(
        folder=str(folder), cluster="slurm", slurm_python=shell_value(submission.python)
    )
    tasks = tasks_per_node(requested)
    executor.update_parameters(
        name=safe_name(run.folder.name, 60),
        slurm_setup=setup_lines(submission, run.folder),
        slurm_teardown=teardown_lines(),
        **submitit_parameters(site, int(requested["nodes"]), tasks, submission.cwd),
    )
    return executor


def _check_lead(run: Run, site: Mapping[str, Any]) -> None:
    """Refuse a warning that comes too late for the slowest save measured in this run."""
    seen = [float(e["seconds"]) for e in run.events() if e.get("event") == "saved" and "seconds" in e]
    lead_s = float(site["signal_lead_s"])
    if seen and LEAD_FACTOR * max(seen) > lead_s:
        raise Mismatch(
            f"a checkpoint of {run.folder.name} took {max(seen):.0f} s to write, "
            f"and the site's warning comes {lead_s:.0f} s before the time limit",
            f"the warning should come at least {LEAD_FACTOR:g} times as early",
            f"site.signal_lead_s={recommended_lead_s(max(seen))}",
        )


def _refused(error: Exception, site: Mapping[str, Any]) -> UserError:
    lines = str(error).strip().split("\n")
    reason = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
    return UserError(
        f"Slurm refused the job: {reason.replace('sbatch: error: ', '')}",
        f"requested: partition {site['partition']}, account {site['account']}, qos {site['qos']}, "
        f"{site['time_limit_min']} min",
        f"`birdsd doctor --site {site['name']}` compares the site's file with what Slurm says",
    )


@contextmanager
def _srun_or_not() -> Iterator[None]:
    """Let submitit print a script where there is no srun, which it otherwise refuses."""
    from submitit.slurm.slurm import SlurmExecutor

    kept = SlurmExecutor.__dict__["affinity"]
    SlurmExecutor.affinity = classmethod(lambda cls: 2)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        SlurmExecutor.affinity = kept  # type: ignore[method-assign]


# -- this machine ----------------------------------------------------------------------------------------


def _start_supervisor(run: Run, submission: Submission) -> str:
    """Start a separate process that outlives this one; it starts the ranks, and restarts them to continue."""
    folder = run.folder.resolve() / SUBMITIT_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {name: text for name, text in os.environ.items() if name not in left_out(os.environ)}
    site_says = {name: resolved(text, inherited) for name, text in environment(submission).items()}
    surroundings = {**inherited, **site_says, "PYTHONPATH": submission.snapshot}
    if rest := os.environ.get("PYTHONPATH"):
        surroundings["PYTHONPATH"] += os.pathsep + rest
    # Otherwise a library chooses this for each rank without regard to the others, and prints a warning.
    share = max(1, (os.cpu_count() or 1) // tasks_per_node(submission.submit))
    surroundings.setdefault("OMP_NUM_THREADS", str(share))
    python = resolved(submission.python, inherited)
    with open(folder / "supervisor.log", "ab") as log:
        process = subprocess.Popen(
            [python, "-m", "birdsd.cluster.local", str(run.folder.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=submission.snapshot,  # see setup_lines
            env=surroundings,
        )
    _supervisors[str(process.pid)] = process
    return str(process.pid)


# The supervisors that this process started, to be reaped.
_supervisors: dict[str, subprocess.Popen[bytes]] = {}


def reap_supervisors(process_ids: Sequence[str]) -> None:
    """Wait for supervisors that this process started and that are about to exit."""
    for number in process_ids:
        if (process := _supervisors.pop(number, None)) is not None:
            process.wait()
