"""Runs on the testbed cluster: disturbed, handed over in every way, taken up by another world, in arrays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from birdsd.cluster.cancel import cancel
from birdsd.cluster.resume import resubmit
from birdsd.cluster.submit import active_jobs
from birdsd.runs.allocations import allocations
from birdsd.runs.run import RunStore
from birdsd.shards.index import ShardIndex
from tests.faults.__main__ import Suite, verdict
from tests.faults.drill import Drill, losses, slurm
from tests.faults.launching import FAULTS
from tests.faults.scenarios import LOCAL, ONE_NODE, begin_and_reach
from tests.support.untrained import make_model

QUICK = [fault for fault in FAULTS if fault.quick]


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> Suite:
    return Suite(tmp_path_factory.mktemp("faults"))


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_a_disturbed_run_is_the_run_that_was_not(testbed, suite: Suite, fault) -> None:
    outcome = suite.run(fault)
    assert verdict(fault, outcome), outcome


@pytest.mark.slow
def test_local_processes_come_back_after_a_kill(suite: Suite, tmp_path: Path) -> None:
    """site=local needs no Slurm, and so no testbed."""
    shards, straight = suite.straight(broken=False)
    drill = Drill(tmp_path, shards, where=LOCAL)
    begin_and_reach(drill)
    drill.kill({0})
    drill.finish()
    assert drill.outcome(straight).survived
    assert len(allocations(drill.here.folder)) == 2


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.parametrize("how", ["chain", "resubmit"])
def test_the_next_allocation_comes_the_way_the_site_allows(
    testbed, suite: Suite, tmp_path: Path, how
) -> None:
    shards, straight = suite.straight(broken=False)
    drill = Drill(tmp_path, shards, where=(*ONE_NODE, f"site.hand_over={how}", "site.chain_length=3"))
    begin_and_reach(drill)
    first = drill.submission().job_ids[0]
    slurm("scancel", "--signal=USR2", first)
    drill.finish()
    assert drill.outcome(straight).survived
    began = [a.began for a in allocations(drill.here.folder)]
    ids = [b.job_id for b in began if b is not None]
    assert ids[0] == first and len(set(ids)) == len(ids) == 2, "another job, not the same one again"
    # What was queued for later is not needed any more.
    drill.wait("the rest of the chain to be gone", lambda: not active_jobs(drill.here), 60)


@pytest.mark.slurm
@pytest.mark.slow
def test_manual_says_how_to_go_on_and_another_world_takes_it_up(
    testbed, suite: Suite, tmp_path: Path
) -> None:
    """Two ranks of plain torch, then four ranks of ZeRO-3 on two nodes."""
    shards, straight = suite.straight(broken=False)
    drill = Drill(tmp_path, shards, where=(*ONE_NODE, "site.hand_over=manual"))
    run = drill.begin()
    drill.wait_position(220)
    slurm("scancel", "--signal=USR2", drill.job)
    drill.wait("the word", lambda: any(e["event"] == "chain stopped" for e in run.events()))
    drill.wait("the end of the job", lambda: not active_jobs(run))
    stopped = next(e for e in run.events() if e["event"] == "stopped")["position"]
    resubmit(run, ["nodes=2", "tasks_per_node=2", "machine.engine=deepspeed", "machine.zero_stage=3"])
    drill.finish(300)
    outcome = drill.outcome(straight)
    assert (outcome.lost, outcome.doubled, outcome.most_redone) == (0, 0, 0)
    ours, theirs = losses(run.folder), losses(straight)
    assert {p: v for p, v in ours.items() if p <= stopped} == {
        p: v for p, v in theirs.items() if p <= stopped
    }
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    began = [a.began for a in allocations(run.folder)]
    assert [b.world_size for b in began if b is not None] == [2, 4]


@pytest.mark.slurm
@pytest.mark.slow
def test_cancel_saves_and_nothing_brings_the_run_back(testbed, suite: Suite, tmp_path: Path) -> None:
    shards, straight = suite.straight(broken=False)
    drill = Drill(tmp_path, shards, where=ONE_NODE, drill={"step_s": 0.3})
    begin_and_reach(drill, 100)
    cancel(drill.here)
    drill.wait("the end of the job", lambda: not active_jobs(drill.here))
    state = slurm("squeue", "-h", "-j", drill.job, "-o", "%T").strip()
    assert state in ("", "COMPLETED"), state
    saved = max(int(p.parent.name) for p in drill.here.folder.glob("checkpoints/*/COMMIT.json"))
    assert saved == drill.position(), "it saved where it stood"
    resubmit(drill.here)
    drill.finish()
    assert drill.outcome(straight).survived


@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_array_shares_out_the_shards(testbed, tmp_path: Path) -> None:
    from birdsd.sound.synthetic import make_aviary

    recordings = make_aviary(tmp_path / "aviary", recordings_per_species=2)
    words = ["prepare", f"data.recordings={recordings}", "codec=birdsong-small", "data.samples_per_shard=8"]

    def birdsd(*more: str) -> str:
        command = [sys.executable, "-m", "birdsd.cli", *more]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout

    birdsd("run", *words, f"data.shards={tmp_path / 'whole'}")
    told = json.loads(
        birdsd(
            "submit", *words, f"data.shards={tmp_path / 'parts'}", "site=testbed", "site.gpus_per_node=0",
            "array=3", "--wait", "--json",
        )
    )  # fmt: skip
    whole, parts = ShardIndex.open(tmp_path / "whole"), ShardIndex.open(tmp_path / "parts")
    assert parts.fingerprint == whole.fingerprint
    run = RunStore(tmp_path / "runs").find(Path(told["run"]).name)
    held = {a.began.part: a.ended for a in allocations(run.folder) if a.began}
    assert set(held) == {"0/3", "1/3", "2/3"}
    assert all(ended is not None and ended.reason == "finished" for ended in held.values())


@pytest.mark.slurm
@pytest.mark.slow
def test_a_job_array_shares_out_latents_and_texts(testbed, tmp_path: Path) -> None:
    from tests.support.tiny import make_shards

    shards, model = make_shards(tmp_path / "shards"), make_model(tmp_path / "model")
    words = ["cache", f"data.shards={shards}", "method=lora", "method.targets=[attention]", "method.rank=2"]
    words += ["model.init=pretrained", f"model.source={model}", "machine.threads=1", "--json"]

    def birdsd(*more: str) -> dict:
        command = [sys.executable, "-m", "birdsd.cli", *more]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
        return json.loads(done.stdout)

    told = birdsd("submit", *words, "site=testbed", "site.gpus_per_node=0", "array=3", "--wait")
    run = RunStore(tmp_path / "runs").find(Path(told["run"]).name)
    held = {a.began.part: a.ended for a in allocations(run.folder) if a.began}
    assert set(held) == {"0/3", "1/3", "2/3"}
    assert all(ended is not None and ended.reason == "finished" for ended in held.values())
    facts = birdsd("run", *words)
    assert facts["nothing_to_do"] and facts["finished"] and facts["latents"] == 16 and facts["texts"] == 5
