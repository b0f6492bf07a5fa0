"""A run goes on from where it lies now: renamed, moved, copied, behind a link; what is not there is named."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from birdsd.cluster import resume
from birdsd.cluster.submit import Submitted, new_submission
from birdsd.config import compose
from birdsd.errors import Mismatch, NotFound
from birdsd.files import environment
from birdsd.runs.allocations import Submission
from birdsd.runs.run import RUN_FOLDER_VARIABLE, Run, RunStore, open_training
from birdsd.site.caller import left_out, submitting, take_from_environment
from tests.support.errors import refuses
from tests.support.toy import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "shards")


@pytest.fixture
def sent(monkeypatch) -> list[Submission]:
    """What would have been submitted."""
    kept: list[Submission] = []

    def send(run: Run, submission: Submission) -> Submitted:
        kept.append(submission)
        return Submitted(run, ["1"], "sent")

    monkeypatch.setattr(resume, "send", send)
    return kept


def project(folder: Path, shards: Path, *settings: str, cwd: Path | None = None) -> Run:
    """A run that was submitted from `folder` with paths as people type them, and is over."""
    shutil.copytree(shards, folder / "shards")
    told = ["data.shards=shards", *settings]
    before = Path.cwd()
    os.chdir(cwd or folder)
    try:
        run, _ = open_training(compose("train", told))
        run = Run(run.folder.absolute(), run.signature)
    finally:
        os.chdir(before)
    asked = asdict(compose("submit", ["site=testbed"]))
    submission = new_submission(run, "train", told, asked, str(cwd or folder))
    submission.snapshot = str(run.folder / "code" / "abc")
    submission.write(run.folder)
    return run


def leads_to(submission: Submission, run: Run) -> Run:
    """Which run the ranks of a submission would take up."""
    before = Path.cwd()
    os.chdir(submission.cwd)
    try:
        with environment({RUN_FOLDER_VARIABLE: str(run.folder)}):
            return open_training(compose("train", submission.settings), write=False)[0]
    finally:
        os.chdir(before)


def test_a_renamed_project_is_found_with_everything_in_it(tmp_path, shards, sent) -> None:
    old = tmp_path / "a" / "project"
    run = project(old, shards)
    new = tmp_path / "b" / "birds"
    new.parent.mkdir()
    old.rename(new)
    here = RunStore(new / "runs").find(run.folder.name)
    told = resume.resume(here)
    assert sent[0].cwd == str(new) and any("moved" in note for note in told.notes)
    assert leads_to(sent[0], here).folder == here.folder
    assert not old.exists()


def test_absolute_paths_inside_what_moved_are_those_of_now(tmp_path, shards, sent) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run = project(old, shards, f"runs={old / 'runs'}", f"data.shards={old / 'shards'}", cwd=tmp_path)
    old.rename(new)
    here = RunStore(new / "runs").find(run.folder.name)
    resume.resume(here)
    assert sent[0].cwd == str(tmp_path)
    assert f"data.shards={new / 'shards'}" in sent[0].settings
    assert leads_to(sent[0], here).folder == here.folder


def test_paths_relative_to_a_folder_that_stayed(tmp_path, shards, sent) -> None:
    """Submitted from above: runs=project/runs means the old place as long as nobody says otherwise."""
    old, new = tmp_path / "project", tmp_path / "renamed"
    run = project(old, shards, "runs=project/runs", "data.shards=project/shards", cwd=tmp_path)
    old.rename(new)
    here = RunStore(new / "runs").find(run.folder.name)
    resume.resume(here)
    assert leads_to(sent[0], here).folder == here.folder


def test_a_copy_goes_on_in_the_copy_and_a_renamed_run_under_its_new_name(tmp_path, shards, sent) -> None:
    run = project(tmp_path / "project", shards)
    copy = run.folder.with_name("the-one-to-keep")
    shutil.copytree(run.folder, copy)
    here = RunStore(copy.parent).find("the-one-to-keep")
    resume.resume(here)
    assert leads_to(sent[0], here).folder == copy
    assert sent[0].run_folder == str(copy)


def test_a_record_from_before_where_it_lay_was_written_down(tmp_path, shards, sent) -> None:
    old = tmp_path / "old"
    run = project(old, shards)
    last = Submission.read(run.folder)
    assert last is not None
    last.run_folder = ""
    last.write(run.folder)
    old.rename(tmp_path / "new")
    resume.resume(RunStore(tmp_path / "new" / "runs").find(run.folder.name))
    assert sent[0].cwd == str(tmp_path / "new")


def test_behind_a_link_and_not_moved_nothing_changes(tmp_path, shards, sent) -> None:
    run = project(tmp_path / "project", shards)
    (tmp_path / "link").symlink_to(tmp_path / "project")
    told = resume.resume(RunStore(tmp_path / "link" / "runs").find(run.folder.name))
    assert not told.notes
    assert sent[0].settings == ["data.shards=shards"] and sent[0].cwd == str(tmp_path / "project")


def test_shards_that_moved_elsewhere_are_asked_for_by_their_key_and_taken(tmp_path, shards, sent) -> None:
    run = project(tmp_path / "project", shards)
    (tmp_path / "project" / "shards").rename(tmp_path / "elsewhere")
    with refuses("data.shards", "data.shards=NEW_LOCATION", kind=NotFound):
        resume.resume(run)
    assert not sent
    resume.resume(run, [f"data.shards={tmp_path / 'elsewhere'}"])
    assert leads_to(sent[0], run).folder == run.folder


def test_other_shards_are_refused(tmp_path, shards, sent) -> None:
    run = project(tmp_path / "project", shards)
    other = tmp_path / "other"
    shutil.copytree(shards, other)
    for path in [*other.glob("*train-000001*"), *other.glob("dataset.json")]:
        path.unlink()
    with refuses(run.folder.name, "data.shards=", kind=Mismatch):
        resume.resume(run, [f"data.shards={other}"])
    assert not sent


def test_a_job_whose_settings_came_to_mean_another_run_makes_no_second_folder(tmp_path, shards) -> None:
    run = project(tmp_path / "project", shards)
    told = compose("train", [f"data.shards={shards}", f"runs={run.folder.parent}", "seed=9"])
    with (
        environment({RUN_FOLDER_VARIABLE: str(run.folder)}),
        refuses(run.folder.name, kind=Mismatch),
    ):
        open_training(told)
    assert [path.name for path in run.folder.parent.iterdir()] == [run.folder.name]


def test_a_job_whose_shards_have_changed_names_the_shard(tmp_path, shards) -> None:
    run = project(tmp_path / "project", shards)
    own = tmp_path / "project" / "shards"
    (own / "train-000001.tar").write_bytes((own / "validation-000000.tar").read_bytes())
    told = compose("train", [f"data.shards={own}", f"runs={run.folder.parent}"])
    with (
        environment({RUN_FOLDER_VARIABLE: str(run.folder)}),
        refuses((str(own), "train-000001.tar"), "restore the shards", kind=Mismatch),
    ):
        open_training(told)


# -- what the environment of whoever submits may change ------------------------------------------------------


def test_what_a_site_leaves_open_is_taken_from_the_environment_and_said(monkeypatch) -> None:
    site = compose("submit", ["site=testbed"]).site
    environ = {
        "SBATCH_ACCOUNT": "def-prof", "SBATCH_PARTITION": "urgent", "SBATCH_RESERVATION": "course",
        "SBATCH_EXPORT": "NONE", "SBATCH_REQUEUE": "1", "SLURM_NTASKS": "3",
    }  # fmt: skip
    notes = " ".join(take_from_environment(site, environ))
    assert (site.account, site.partition, site.sbatch["reservation"]) == ("def-prof", "normal", "course")
    assert "def-prof" in notes and "SBATCH_ACCOUNT" in notes
    for left in ("SBATCH_EXPORT=NONE", "SBATCH_PARTITION=urgent", "SBATCH_REQUEUE=1"):
        assert left in notes
    assert "SLURM_NTASKS" not in notes, "a shell in a job is full of these"
    assert (
        take_from_environment(compose("submit", ["site=testbed"]).site, {"SBATCH_PARTITION": "normal"}) == []
    )


def test_nothing_of_another_job_goes_along_with_a_submission(monkeypatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SBATCH_TIMELIMIT", "SRUN_CPUS_PER_TASK", "RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    before = dict(os.environ)
    with submitting():
        assert not left_out(os.environ)
        assert os.environ["SLURM_CONF"] == "/etc/slurm/other.conf", "which cluster is spoken to stays"
    assert dict(os.environ) == before


def test_launch_still_answers_to_resubmit(tmp_path, shards, sent) -> None:
    run = project(tmp_path / "project", shards)
    assert resume.resubmit(run).job_ids == ["1"]


def test_the_doctor_says_what_is_left_aside(monkeypatch) -> None:
    from birdsd.checks.caller import check_caller
    from birdsd.checks.context import DoctorContext

    case = DoctorContext(site=compose("submit", ["site=testbed"]).site)
    for name in [name for name in os.environ if name.startswith("SBATCH_")]:
        monkeypatch.delenv(name)
    assert list(check_caller(case)) == []
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    (told,) = check_caller(case)
    assert told.level == "ok" and "SBATCH_EXPORT" in told.what
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    _, told = check_caller(case)
    assert told.level == "warning" and "SBATCH_TIMELIMIT=1" in told.what
    assert list(check_caller(DoctorContext(site=compose("submit", ["site=local"]).site))) == []
