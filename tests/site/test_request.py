"""The options of sbatch: the same for `birdsd submit` and for the doctor's `sbatch --test-only`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from birdsd.cluster.submit import submit
from birdsd.schema import SiteConfig
from birdsd.site.sbatch_options import extra_options, gpu_options, recommended_lead_s, sbatch_arguments
from tests.support.toy import make_shards

EXTRAS = {"mail-type": ["END", "FAIL"], "exclusive": True, "hold": False, "comment": None, "nice": 5}


def test_further_options_are_written_as_sbatch_reads_them() -> None:
    site = asdict(SiteConfig(name="s", sbatch=EXTRAS))
    assert extra_options(site) == {"mail-type": "END,FAIL", "exclusive": True, "nice": 5}
    arguments = sbatch_arguments(site, 2, 1)
    assert {"--nodes=2", "--ntasks-per-node=1", "--exclusive", "--mail-type=END,FAIL"} <= set(arguments)
    assert not any("hold" in word or "comment" in word for word in arguments)


@pytest.mark.parametrize(
    ("syntax", "kind", "tasks", "expected"),
    [
        ("gres", None, 4, {"gres": "gpu:2"}),
        ("gres", "a100", 1, {"gres": "gpu:a100:1"}),
        ("gpus", "a100", 2, {"gpus-per-node": "a100:2"}),
    ],
)
def test_gpus_are_requested_one_per_task(
    syntax: str, kind: str | None, tasks: int, expected: dict[str, str]
) -> None:
    site = SiteConfig(name="s", gpus_per_node=2, gpu_type=kind, gpu_syntax=syntax)
    assert gpu_options(asdict(site), tasks) == expected
    assert gpu_options(asdict(SiteConfig(name="s")), tasks) == {}


def test_submit_and_doctor_request_the_same(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    own = ["site.sbatch.mail-type=END", "site.sbatch.exclusive=true", "site.constraint=a100"]
    script = submit(
        "train",
        ["site=testbed", f"data.shards={shards}", f"runs={tmp_path / 'runs'}", "nodes=2", *own],
        dry_run=True,
    ).script
    lines = {line.removeprefix("#SBATCH ").split("=")[0] for line in script.splitlines() if "#SBATCH" in line}
    site = SiteConfig(
        name="testbed", partition="normal", constraint="a100", gpus_per_node=2, gpu_syntax="gres",
        cpus_per_task=1, sbatch={"mail-type": ["END"], "exclusive": True},
    )  # fmt: skip
    arguments = sbatch_arguments(asdict(site), 2, 2)
    assert {word.split("=")[0] for word in arguments} <= lines
    assert "#SBATCH --mail-type=END" in script and "--mail-type=END" in arguments


def test_the_recommended_lead_leaves_room_for_two_saves() -> None:
    assert recommended_lead_s(0.0) == 30 and recommended_lead_s(100.4) == 230
