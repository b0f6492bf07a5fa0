"""What is submitted: the script, the settings told apart, the site's rules, and the code that goes along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.cluster.snapshot import take_snapshot
from birdsd.cluster.submit import submit
from birdsd.config import compose, split_settings
from birdsd.errors import BadValue, Mismatch, UnknownName, Unsupported
from birdsd.site.choose import check_site, choose_site
from tests.support.errors import refuses
from tests.support.toy import make_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"))


def script(tmp_path: Path, shards: Path, *settings: str) -> str:
    submitted = submit(
        "train",
        ["site=testbed", f"data.shards={shards}", f"runs={tmp_path / 'runs'}", *settings],
        dry_run=True,
    )
    assert not submitted.job_ids
    return submitted.script


def test_a_dry_run_prints_the_script_and_leaves_nothing_behind(tmp_path: Path, shards: Path) -> None:
    text = script(tmp_path, shards, "nodes=2", "site.account=birds", "site.sbatch.mail-type=END")
    for line in (
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --gres=gpu:2",
        "#SBATCH --partition=normal",
        "#SBATCH --account=birds",
        "#SBATCH --mail-type=END",
        "#SBATCH --time=60",
        "#SBATCH --signal=USR2@60",
        "#SBATCH --requeue",
        "export HF_HUB_OFFLINE=1",
        "export WANDB_MODE=offline",
    ):
        assert line in text.splitlines(), line
    srun = next(line for line in text.splitlines() if line.startswith("srun"))
    assert "--kill-on-bad-exit=1" in srun
    assert "--cpus-per-task=1" in srun
    assert not (tmp_path / "runs").exists()


def test_a_script_is_valid_bash_whatever_the_settings_hold(tmp_path: Path, shards: Path) -> None:
    hostile = """name=a'b"c $(touch pwned) ; rm -rf `pwd`"""
    text = script(
        tmp_path,
        shards,
        hostile,
        "site.modules=[cuda/12 '; touch pwned']",
        "site.environment.A=$(touch pwned)",
    )
    for line in text.splitlines():
        if line.startswith(("srun", "module", "export", "cd ", "status")):
            done = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stderr)
    lines = "\n".join(line for line in text.splitlines() if line.startswith(("module", "export")))
    subprocess.run(["bash", "-c", f"module() {{ :; }}\n{lines}"], cwd=tmp_path, check=True)
    assert not (tmp_path / "pwned").exists()


def test_gpus_are_asked_for_in_the_words_of_the_site(tmp_path: Path, shards: Path) -> None:
    text = script(
        tmp_path, shards, "site.gpu_syntax=gpus", "site.gpu_type=a100", "site.gpus_per_node=4",
        "site.memory_gb_per_node=100", "site.constraint=nvlink",
    )  # fmt: skip
    assert "#SBATCH --gpus-per-node=a100:4" in text
    assert "#SBATCH --ntasks-per-node=4" in text
    assert "#SBATCH --mem=100GB" in text
    assert "#SBATCH --constraint=nvlink" in text
    assert "--gres" not in text
    assert "--gpus-per-node" not in script(tmp_path, shards, "site.gpus_per_node=0", "tasks_per_node=3")


def test_where_a_job_runs_is_told_apart_from_what_it_is() -> None:
    where, what = split_settings(
        "train", ["nodes=2", "seed=3", "site=x", "site.qos=q", "machine.micro_batch=2"]
    )
    assert where == ["nodes=2", "site=x", "site.qos=q"]
    assert what == ["seed=3", "machine.micro_batch=2"]


@pytest.mark.parametrize(
    ("settings", "job", "kind", "named"),
    [
        (["site=testbed", "nodes=5"], "train", BadValue, "nodes is 5"),
        (["site=testbed", "nodes=0"], "train", BadValue, "nodes is 0"),
        (["site=local", "nodes=2"], "train", Mismatch, "nodes is 2"),
        (["site=testbed", "array=3"], "train", Mismatch, "array"),
        (["site=testbed", "nodes=2"], "prepare", Unsupported, "2 nodes"),
        (["site=testbed"], "demo", Unsupported, "demo"),
        (["site=testbed", "site.hand_over=pray"], "train", UnknownName, "'pray'"),
        (["site=testbed", "site.signal_lead_s=3600"], "train", BadValue, "site.signal_lead_s is 3600"),
        (["site=testbed", "site.environment.WANDB_API_KEY=x"], "train", BadValue, "WANDB_API_KEY"),
        (["site=testbed", "site.environment={A;B: 1}"], "train", BadValue, "'A;B'"),
        (["site=testbed", "site.proxy=http://me:word@proxy:80"], "train", BadValue, "site.proxy"),
    ],
)
def test_what_cannot_work_is_refused_before_it_waits_in_a_queue(settings, job, kind, named) -> None:
    with refuses(named, kind=kind):
        check_site(compose("submit", settings), job)


def test_ones_own_site_is_found_and_taken_when_it_is_the_only_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "uni.yaml").write_text("# Our university.\npartition: gpu\nscratch: $TMPDIR\n")
    assert choose_site(["nodes=2"]) == ["site=uni", "nodes=2"]
    site = compose("submit", ["site=uni"]).site
    assert (site.name, site.partition, site.scratch) == ("uni", "gpu", "$TMPDIR")
    assert compose("submit", [f"site={tmp_path / 'site' / 'uni.yaml'}"]).site == site
    (tmp_path / "site" / "uni.yaml").write_text("partitoin: gpu\n")
    with refuses("'partitoin'", "'partition'", kind=UnknownName):
        compose("submit", ["site=uni"])


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name, text in {
        "pyproject.toml": "",
        "birdsd/a.py": "A = 1\n",
        "jobs/b.py": "B = 1\n",
        "configs/site/c.yaml": "# c\n",
        ".gitignore": "*.secret\n",
        "tests/t.py": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q"), git(root, "add", "."), git(root, "commit", "-qm", "x")
    return root


def test_the_snapshot_holds_tracked_files_with_their_changes_and_new_ones(
    checkout: Path, tmp_path: Path
) -> None:
    clean = take_snapshot(tmp_path / "run", checkout)
    assert "+changes" not in clean.version
    assert not clean.folder.with_suffix(".diff").exists()
    (checkout / "birdsd/a.py").write_text("A = 2\n")
    (checkout / "jobs/new.py").write_text("N = 1\n")
    (checkout / "birdsd/token.secret").write_text("hunter2")
    taken = take_snapshot(tmp_path / "run", checkout)
    assert taken.version == clean.version + "+changes"
    held = {str(p.relative_to(taken.folder)) for p in taken.folder.rglob("*") if p.is_file()}
    assert held == {"pyproject.toml", "birdsd/a.py", "jobs/b.py", "jobs/new.py", "configs/site/c.yaml"}
    assert (taken.folder / "birdsd/a.py").read_text() == "A = 2\n"
    assert "+A = 2" in taken.folder.with_suffix(".diff").read_text()
    # Edits after the submission do not reach it, and the same code again makes no second copy.
    (checkout / "birdsd/a.py").write_text("A = 3\n")
    assert (taken.folder / "birdsd/a.py").read_text() == "A = 2\n"
    (checkout / "birdsd/a.py").write_text("A = 2\n")
    assert take_snapshot(tmp_path / "run", checkout).folder == taken.folder


def test_a_snapshot_of_an_installed_package_runs(tmp_path: Path) -> None:
    """Without git: the package itself, and Python finds it there and not in the working folder."""
    import shutil

    import birdsd

    installed = tmp_path / "site-packages"
    source = Path(birdsd.__file__).parent
    shutil.copytree(source, installed / "birdsd", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(source.parent / "jobs", installed / "birdsd" / "jobs")
    shutil.copytree(source.parent / "configs", installed / "birdsd" / "configs")
    taken = take_snapshot(tmp_path / "run", installed)
    code = "import birdsd.jobs.train as t, birdsd.config as c; print(t.__file__); print(c.config_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=taken.folder,
        env={"PYTHONPATH": str(taken.folder), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert all(line.startswith(str(taken.folder)) for line in done.stdout.splitlines()), done.stdout
