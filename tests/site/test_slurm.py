"""What Slurm's programs print becomes facts, and nothing of it depends on a user's own defaults."""

from __future__ import annotations

import pickle
import time
from datetime import datetime
from pathlib import Path

import pytest

from birdsd.errors import BadValue
from birdsd.site import slurm
from birdsd.site.slurm import SlurmError
from tests.support.errors import refuses

# Captured from Slurm 22.05.8; a | stands for the separator.
SQUEUE = """\
5988219|N/A|COMPLETING|None|n1|1795571814|1795572114|1-02:00:05|1|1795571808|1795571808|0|
5988220|2|PENDING|JobArrayTaskLimit||N/A|N/A|0:00|0|1795571808|N/A|0|
5988220|1|FAILED|NonZeroExitCode|n[1-2]|1795571842|1795571843|0:01|0|1795571841|1795571841|256|
5988224|3|FAILED|JobLaunchFailure|n3|1795571842|1795571842|0:00|0|1795571841|1795571841|9|
""".replace("|", slurm.SEPARATOR)
SACCT = """\
5988225|REQUEUED|None|n3|1795571842|1795571844|2|1795571841|1795571841|0:0
5988224_1|FAILED|None|n3|1795571842|1795571842|0|1795571841|1795571841|1:0
5988225|COMPLETED|BeginTime|n1|1795571851|1795571863|12|1795571844|1795571850|0:0
5988226|CANCELLED by 1000|None|None assigned|Unknown|1795571863|0|1795571844|Unknown|0:0
5988220_[2-3%1]|PENDING|JobArrayTaskLimit|None assigned|Unknown|Unknown|0|1795571808|Unknown|0:0
sacct: a warning on a line of its own
""".replace("|", slurm.SEPARATOR)


def test_what_squeue_prints() -> None:
    completing, waiting, failed, killed = slurm.read_squeue(SQUEUE)
    assert (completing.id, completing.state, completing.restarts) == ("5988219", "COMPLETING", 1)
    assert (completing.start, completing.end) == (1795571814.0, 1795572114.0)
    assert completing.elapsed_s == 86400 + 7205 and not completing.is_over
    assert (waiting.id, waiting.reason, waiting.start) == ("5988220_2", "JobArrayTaskLimit", None)
    assert waiting.is_waiting and waiting.eligible is None and waiting.nodes == ""
    assert (failed.id, failed.exit_code, failed.nodes) == ("5988220_1", "1:0", "n[1-2]")
    assert (killed.id, killed.exit_code) == ("5988224_3", "0:9") and killed.is_over


def test_what_sacct_prints() -> None:
    """The newest life of a requeued job counts, and the earlier ones tell how often it came back."""
    found = {job.id: job for job in slurm.read_sacct(SACCT)}
    assert sorted(found) == ["5988224_1", "5988225", "5988226"]
    back = found["5988225"]
    assert (back.state, back.restarts, back.elapsed_s, back.reason) == ("COMPLETED", 1, 12.0, "")
    assert (found["5988226"].state, found["5988226"].nodes, found["5988226"].start) == ("CANCELLED", "", None)
    assert found["5988224_1"].exit_code == "1:0" and found["5988224_1"].source == "sacct"


def test_a_whole_array_stands_for_its_liveliest_task() -> None:
    known = slurm._by_id(["5988220", "5988224"], slurm.read_squeue(SQUEUE))
    assert (known["5988220"].id, known["5988220"].state) == ("5988220", "PENDING")
    assert known["5988224"].state == "FAILED"
    assert known["5988220_1"].state == "FAILED"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1-00:00:00", 86400),
        ("2-12", 216000),
        ("7-00:00", 604800),
        ("01:30:00", 5400),
        ("0:05", 5),
        ("90", 5400),
        ("5 sec", 5),
        ("30 min", 1800),
        ("UNLIMITED", None),
        ("infinite", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_durations(text: str, expected: float | None) -> None:
    assert slurm.seconds(text) == expected


def test_times_in_either_form() -> None:
    assert slurm.when("1795571808") == 1795571808.0
    assert slurm.when("2026-11-25T01:56:48") == datetime(2026, 11, 25, 1, 56, 48).timestamp()
    assert [slurm.when(text) for text in ("N/A", "Unknown", "None", "0", "")] == [None] * 5


def test_values_with_spaces_are_read_whole() -> None:
    line = "NodeName=n1 OS=Linux 6.1 #1 SMP PREEMPT @0  RealMemory=4000 State=IDLE Reason=bad disk [root@x]"
    (node,) = slurm.records(line + "\n\n")
    assert node["OS"] == "Linux 6.1 #1 SMP PREEMPT @0" and node["Reason"] == "bad disk [root@x]"
    assert slurm.records("No jobs in the system") == []


@pytest.mark.parametrize("name", ["--user=root", "1;2", "", "12_", "12 13", "12_[1-3]", "../1", "1\n2"])
def test_only_an_id_reaches_slurm(name: str) -> None:
    assert slurm.jobs([name]) == {}
    for call in (slurm.cancel, slurm.requeue, slurm.show_job):
        with refuses(f"'{name}'", kind=BadValue):
            call(name)
    with refuses("'USR2 --full'", "USR2 or TERM", kind=BadValue):
        slurm.signal("12", "USR2 --full")


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not slurm.available() and slurm.jobs(["12"]) == {}
    with refuses("scontrol", kind=SlurmError) as caught:
        slurm.ping()
    assert pickle.loads(pickle.dumps(caught.value)).problem == caught.value.problem


def test_a_failure_says_what_was_run_and_what_it_said() -> None:
    with refuses(("`sh -c ", "status 3"), "so it goes", kind=SlurmError):
        slurm.command(["sh", "-c", "echo so it goes >&2; exit 3"])
    with refuses(("`sleep 60`", "124"), "0.2 s", kind=SlurmError):
        slurm.command(["sleep", "60"], timeout_s=0.2)


def test_a_users_defaults_are_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    monkeypatch.setenv("SACCT_FORMAT", "jobid")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("SLURM_CLUSTERS", "alma")
    seen = dict(line.partition("=")[::2] for line in slurm.command(["env"]).splitlines())
    assert "SQUEUE_STATES" not in seen and "SACCT_FORMAT" not in seen
    assert seen["SLURM_TIME_FORMAT"] == "%s" and seen["SLURM_CLUSTERS"] == "alma"


# -- the real thing -----------------------------------------------------------------------------------


def submitted(*options: str, run: str) -> str:
    """The id of a job that runs this shell line, and leaves no output."""
    return slurm.command(["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={run}"]).strip()


def wait_for(name: str, *states: str, timeout_s: float = 90) -> slurm.JobState:
    end = time.monotonic() + timeout_s
    seen = None
    while time.monotonic() < end:
        seen = slurm.jobs([name]).get(name)
        if seen is not None and seen.state in states:
            return seen
        time.sleep(0.3)
    raise AssertionError(f"{name} is {seen}, not {states}")


def accounted(name: str, asked: str, timeout_s: float = 60) -> slurm.JobState:
    """What accounting says of a job that is over; it hears of it a little later than the controller."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = slurm._sacct([asked], 20).get(name)
        if found is not None and found.is_over:
            assert found.source == "sacct"
            return found
        time.sleep(0.5)
    raise AssertionError(f"sacct does not tell of {name}")


@pytest.mark.slurm
def test_jobs_of_a_real_cluster(testbed: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call tells all: running, waiting for another, an array's tasks; unknown ids are left out."""
    monkeypatch.setenv("SQUEUE_STATES", "SUSPENDED")
    running = submitted("--job-name=a|b c", "--time=5", run="sleep 300")
    try:
        after = submitted(f"--dependency=afterok:{running}", run="true")
        array = submitted("--array=1-3", run="exit $((SLURM_ARRAY_TASK_ID - 1))")
        wait_for(running, "RUNNING")
        for number in (1, 2, 3):
            wait_for(f"{array}_{number}", "COMPLETED", "FAILED")
        told = slurm.jobs([running, after, array, f"{array}_3", "4000000000"])
        assert sorted(told) == sorted([running, after, array, *(f"{array}_{n}" for n in (1, 2, 3))])
        assert told[running].start and told[running].nodes and told[running].source == "squeue"
        assert (told[after].state, told[after].reason) == ("PENDING", "Dependency")
        assert [told[f"{array}_{n}"].exit_code for n in (1, 2, 3)] == ["0:0", "1:0", "2:0"]
        assert told[array].state == "FAILED"
        assert slurm.jobs(["4000000000"]) == {}
        assert slurm.show_job(running)["JobName"] == "a|b c"
        # Accounting tells the same of what is over.
        assert accounted(f"{array}_3", array).exit_code == "2:0"
        slurm.cancel(after)
        assert wait_for(after, "CANCELLED").is_over
    finally:
        slurm.command(["scancel", running])
    assert wait_for(running, "CANCELLED").is_over


@pytest.mark.slurm
def test_a_job_that_comes_back(testbed: object, tmp_path: Path) -> None:
    """Requeued, it waits and runs again under its id; a signal reaches its script."""
    mark = tmp_path / "mark"
    script = f"trap 'touch {mark}; exit 7' USR2; while true; do sleep 0.2; done"
    job = submitted("--time=5", "--requeue", run=script)
    try:
        wait_for(job, "RUNNING")
        slurm.requeue(job)
        wait_for(job, "PENDING", "REQUEUED", "CONFIGURING")
        again = wait_for(job, "RUNNING")
        assert again.restarts == 1 and slurm.show_job(job)["Restarts"] == "1"
        end = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < end:
            slurm.signal(job, "USR2", batch=True)  # the trap may not be set yet
            time.sleep(0.5)
        done = wait_for(job, "FAILED")
        assert done.exit_code == "7:0" and mark.exists()
        assert accounted(job, job).restarts == 1
    finally:
        slurm.command(["scancel", job])


@pytest.mark.slurm
def test_the_cluster_is_described(testbed: object) -> None:
    assert slurm.available() and slurm.ping() and slurm.version()[0].isdigit()
    assert slurm.config()["ClusterName"] == "birdsd-testbed"
    assert {p["PartitionName"] for p in slurm.partitions()} >= {"normal", "besteffort", "urgent"}
    assert {n["NodeName"] for n in slurm.nodes()} == {"n1", "n2", "n3", "n4"}
    assert "normal" in slurm.qos()
    held = slurm.associations("root")
    assert slurm.default_account("root") in {one["Account"] for one in held}
    assert "using" in slurm.would_start(["--nodes=2", "--gres=gpu:2"])
    with pytest.raises(slurm.SlurmError, match="node configuration"):
        slurm.would_start(["--gres=gpu:3"])
