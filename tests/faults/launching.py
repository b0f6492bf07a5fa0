"""Faults before birdsd begins: whatever brings the job back, it stops by itself, and says what the launcher
said; mended and resumed, the run is the run that was not disturbed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from birdsd.cluster.cancel import cancel
from birdsd.cluster.submit import active_jobs
from birdsd.runs.allocations import allocations
from birdsd.runs.run import RunStore
from birdsd.runs.starts import starts
from birdsd.runs.status.logs import show
from birdsd.runs.status.overview import status
from tests.faults.drill import TOTAL, Drill, slurm
from tests.faults.scenarios import FAULTS, LOCAL, ONE_NODE, begin_and_reach, fault

__all__ = ["FAULTS"]

WORDS = "the launcher is broken on purpose"
# A launch that fails takes a few seconds, and as many again until the job is back.
_TIME_S = 180.0


def break_launcher(drill: Drill) -> None:
    """Python starts and birdsd can be imported, but not what submitit needs, so that no rank says a word."""
    broken = drill.folder / "broken"
    broken.mkdir()
    (broken / "cloudpickle.py").write_text(f"raise ImportError({WORDS!r})\n")


def breakable(drill: Drill) -> None:
    """From here on the job looks for its modules in the folder `broken` first, where there is one."""
    drill.setup.append(f"export PYTHONPATH={drill.folder / 'broken'}:$PYTHONPATH")
    drill.environment["PYTHONPATH"] = f"{drill.folder / 'broken'}:{drill.environment['PYTHONPATH']}"


def given_up(drill: Drill, words: str, most: int = 3) -> None:
    """It has stopped by itself, after so many starts at most, and whoever looks finds the reason."""
    told = drill.here
    drill.wait("the end", lambda: any(e["event"] == "chain stopped" for e in told.events()), _TIME_S)
    drill.wait("an empty queue", lambda: not active_jobs(told), 60)
    made = starts(told.folder, drill.submission().id)
    silent = [start for start in made if not start.recorded]
    assert len(silent) <= most, f"{len(silent)} starts"
    judged = status(told)
    assert judged.state in ("chain stopped", "failed"), judged
    assert words in judged.note, judged.note
    out = io.StringIO()
    show(told, out=out, say=lambda line: None)
    assert words in out.getvalue(), out.getvalue()[-2000:]
    drill.notes.append(f"given up after {len(silent)}")


def mend_and_finish(drill: Drill) -> None:
    """What was broken is mended, and the run resumed by hand."""
    shutil.rmtree(drill.folder / "broken", ignore_errors=True)
    drill.resume()
    drill.finish()


def broken_from_the_start(drill: Drill) -> None:
    breakable(drill)
    break_launcher(drill)
    drill.begin()
    given_up(drill, WORDS)
    mend_and_finish(drill)


fault("the launcher fails, requeue", where=ONE_NODE, quick=True)(broken_from_the_start)
fault("the local supervisor fails", where=LOCAL)(broken_from_the_start)


def broken_ranks(drill: Drill) -> None:
    """Only the ranks: what submits them, or starts them here, imports the same launcher, and works."""
    breakable(drill)
    broken = drill.folder / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        f"import sys\nif 'submitit.core._submit' in sys.orig_argv: raise SystemExit({WORDS!r})\n"
    )
    drill.begin()
    given_up(drill, WORDS)
    mend_and_finish(drill)


fault("the launcher fails, resubmit", where=(*ONE_NODE, "site.hand_over=resubmit"))(broken_ranks)
fault("the launcher fails, local processes", where=LOCAL)(broken_ranks)


@fault("the launcher fails, chain", where=(*ONE_NODE, "site.hand_over=chain", "site.chain_length=6"))
def broken_chain(drill: Drill) -> None:
    """The three jobs that are left of the chain are cancelled."""
    broken_from_the_start(drill)


@fault("the launcher fails in the middle of a run", where=ONE_NODE)
def broken_later(drill: Drill) -> None:
    """An older allocation has logs and checkpoints, and the launcher's words are shown all the same."""
    breakable(drill)
    begin_and_reach(drill)
    break_launcher(drill)
    drill.kill()
    given_up(drill, WORDS)
    mend_and_finish(drill)


def with_own_python(drill: Drill) -> Path:
    """A Python of the drill's own, which can be taken away."""
    python = drill.folder / "python"
    whole_again(python)
    drill.where.append(f"site.python={python}")
    return python


def whole_again(python: Path) -> None:
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)


def no_python(drill: Drill, damage: str, words: str, most: int) -> None:
    """Not even the end of the batch script can run birdsd: plain shell must do."""
    python = with_own_python(drill)
    drill.begin_held()
    python.unlink()
    if damage:
        python.write_bytes(damage.encode())
        python.chmod(0o755)
    drill.release()
    given_up(drill, words, most)
    whole_again(python)
    mend_and_finish(drill)


@fault("no Python on the node, requeue", where=ONE_NODE)
def python_missing(drill: Drill) -> None:
    no_python(drill, "", "No such file or directory", 1)


@fault("a Python of another machine, chain",
       where=(*ONE_NODE, "site.hand_over=chain", "site.chain_length=6"))  # fmt: skip
def python_of_elsewhere(drill: Drill) -> None:
    no_python(drill, "\x7fELF, but of no machine that there is", "format error", 3)


@fault("Slurm requeues for ever, without Python", where=ONE_NODE)
def requeued_by_slurm(drill: Drill) -> None:
    """What a node that dies at every start looks like: the batch script never comes to its end."""
    mark = drill.folder / "dies"
    mark.touch()
    drill.setup.append(f"test ! -e {mark} || {{ scontrol requeue $SLURM_JOB_ID; sleep 60; }}")
    drill.begin()
    given_up(drill, "birdsd did not start in 3 allocations in a row", 4)
    mark.unlink()
    mend_and_finish(drill)


@fault("the setup ends early, chain", where=(*ONE_NODE, "site.hand_over=chain", "site.chain_length=6"))
def setup_ends(drill: Drill) -> None:
    mark = drill.folder / "no-module"
    mark.touch()
    drill.setup.append(f"test ! -e {mark} || {{ echo 'module: cuda/12 cannot be loaded' >&2; exit 9; }}")
    drill.begin()
    given_up(drill, "cuda/12 cannot be loaded")
    mark.unlink()
    mend_and_finish(drill)


@fault("the folder it was submitted from is gone", where=ONE_NODE)
def folder_gone(drill: Drill) -> None:
    place = drill.folder / "place"
    place.mkdir()
    drill.begin_held(cwd=place)
    place.rmdir()
    drill.release()
    told = drill.here
    drill.wait("the end", lambda: any(e["event"] == "chain stopped" for e in told.events()), _TIME_S)
    drill.wait("an empty queue", lambda: not active_jobs(told), 60)
    judged = status(told)
    assert judged.state == "failed" and str(place) in judged.note, judged
    assert len(starts(told.folder, drill.submission().id)) == 1, "no other allocation would mend it"
    drill.resume()
    drill.finish()


@fault("a node that does not see the run's folder", where=ONE_NODE)
def folder_unseen(drill: Drill) -> None:
    """Slurm itself cannot open the output: nothing of birdsd's runs; the run goes on once it is seen."""
    run = drill.begin_held()
    job, away = drill.job, run.folder.with_name("away")
    os.rename(run.folder, away)
    slurm("scontrol", "release", job)
    said = ("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
    drill.wait("Slurm's word", lambda: "FAILED" in slurm(*said), 60)
    os.rename(away, run.folder)
    judged = status(run)
    assert judged.state == "failed" and str(run.folder.resolve()) in judged.note, judged
    drill.resume()
    drill.finish()


@fault("SBATCH_EXPORT=NONE, from inside another job", redone=0)
def no_environment(drill: Drill) -> None:
    """Whoever submits sits in a job, at a site whose profile says NONE: two nodes all the same."""
    drill.setup.insert(0, "export SLURM_EXPORT_ENV=NONE")
    drill.environment |= {
        "SBATCH_EXPORT": "NONE",
        "SBATCH_PARTITION": "urgent",
        "SBATCH_TIMELIMIT": "1",
        "SBATCH_ARRAY_INX": "0-3",
        "SBATCH_NO_REQUEUE": "1",
        "SBATCH_GPUS": "7",
        "SLURM_JOB_ID": "1",
        "SLURM_NTASKS": "3",
        "SLURM_CPUS_PER_TASK": "9",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_MEM_PER_NODE": "100",
        "SLURM_EXPORT_ENV": "NONE",
        "RANK": "1",
        "WORLD_SIZE": "2",
    }
    drill.begin()
    asked = slurm("scontrol", "-o", "show", "job", drill.job)
    for word in ("Partition=normal", "TimeLimit=01:00:00", "NumNodes=2", "Requeue=1", "CPUs/Task=1"):
        assert f" {word}" in asked, (word, asked)
    drill.finish()
    assert len(allocations(drill.here.folder)) == 1


@fault("cancelled, its project's folder renamed, resumed", where=ONE_NODE, drill={"step_s": 0.3})
def moved(drill: Drill) -> None:
    project, renamed = drill.folder / "project", drill.folder / "renamed"
    shutil.copytree(drill.shards, project / "shards")
    drill.settings[:] = [s for s in drill.settings if not s.startswith(("runs=", "data.shards="))]
    drill.settings += ["runs=runs", "data.shards=shards"]
    drill.begin(cwd=project)
    drill.wait_position(100)
    cancel(drill.here)
    drill.wait("the end of the job", lambda: not active_jobs(drill.here))
    project.rename(renamed)
    drill.run = RunStore(renamed / "runs").find(drill.here.folder.name)
    sent = drill.resume(cwd=renamed)
    assert any("moved" in note for note in sent.notes), sent
    drill.finish()
    assert not project.exists(), "something went back to the old place"


@fault("finished, and made longer", where=ONE_NODE, straight=("optim.decay=constant",),
       settings=("optim.total_samples=300", "optim.decay=constant"))  # fmt: skip
def longer(drill: Drill) -> None:
    """Compared with a run that was so long from the start."""
    drill.begin()
    drill.finish()
    drill.wait("the end of the job", lambda: not active_jobs(drill.here))
    drill.resume(f"optim.total_samples={TOTAL}")
    drill.finish()
    told = [event for event in drill.here.events() if event["event"] == "extended"]
    assert len(told) == 1 and told[0]["to"] == TOTAL, told


@fault("srun -n 2 birdsd run train", where=ONE_NODE)
def by_srun(drill: Drill) -> None:
    """By hand, without `submit`: the two tasks are two ranks of one run."""
    command = ["srun", "--nodes=1", "--ntasks=2", sys.executable, "-m", "birdsd.cli", "run", "train"]
    environment = {**os.environ, **drill.environment}
    subprocess.run([*command, *drill.settings], check=True, env=environment, timeout=300, capture_output=True)
    drill.run = RunStore(drill.folder / "runs").runs("train")[0]
    began = [a.began for a in allocations(drill.here.folder)]
    assert [b.world_size for b in began if b is not None] == [2]


@fault("machine=smoke on a site with GPUs", where=ONE_NODE)
def without_gpus(drill: Drill) -> None:
    """The way to try a cluster: the job asks for no GPU, and all else is as it will be."""
    drill.begin()
    asked = slurm("scontrol", "-o", "show", "job", drill.job)
    assert "gpu" not in asked.lower().split("command=")[0], asked
    assert " NumNodes=1" in asked and " NumTasks=2 " in asked, asked
    drill.wait_position(220)
    slurm("scancel", "--signal=USR2", drill.job)
    drill.finish()
    assert len(allocations(drill.here.folder)) == 2, "it was handed over like any other"
