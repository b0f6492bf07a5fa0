"""A site preset made of what Slurm says: right for a small cluster, a university's, and the real one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from birdsd.config import compose, presets
from birdsd.errors import AlreadyThere, UnknownName
from birdsd.site import detect, slurm
from birdsd.site.facts import may_requeue, preemption, time_limits
from birdsd.site.gpus import gpus_of_node
from birdsd.site.limits import tres
from birdsd.site.slurm import SlurmError
from tests.support.captured import facts_of_testbed, facts_of_university
from tests.support.errors import refuses


@pytest.fixture
def own_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path / "own"))
    return tmp_path / "own"


def university(
    partition: str | None = "gpu", environment: dict[str, str] | None = None, **changes: Any
) -> Any:
    return detect.describe(facts_of_university(**changes), partition, None, environment or {})


def test_the_testbed(own_presets: Path) -> None:
    found = detect.describe(facts_of_testbed(), None, None, {})
    path = detect.write(found)
    assert path == own_presets / "site" / "birdsd-testbed.yaml"
    site = compose("submit", ["site=birdsd-testbed"]).site
    assert (site.name, site.executor, site.partition) == ("birdsd-testbed", "slurm", "normal")
    assert (site.account, site.qos) == ("root", "normal")
    assert (site.gpus_per_node, site.gpu_syntax, site.gpu_type, site.cpus_per_task) == (2, "gres", None, 2)
    assert (site.time_limit_min, site.max_nodes, site.memory_gb_per_node) == (1440, 4, 0)
    assert site.hand_over == "requeue"
    assert site.signal_lead_s > detect.LEAD_S, "KillWait is short there"


def test_a_university(own_presets: Path) -> None:
    """Typed GPUs of two kinds, infinite limits, an account and a qos that the partition accepts."""
    detect.write(university(None))
    site = compose("submit", ["site=alma"]).site
    assert site.partition == "gpu", "the default partition has no GPUs"
    assert (site.account, site.qos) == ("ornis", "normal"), "the default account may not use it"
    assert (site.gpus_per_node, site.gpu_type, site.cpus_per_task) == (4, "a100", 32)
    assert site.memory_gb_per_node == 488, "the partition's MaxMemPerNode"
    assert site.time_limit_min == 36 * 60, "the qos allows less than the partition's own"
    assert site.max_nodes == 2, "ten GPUs a user are two nodes of four"
    assert (site.signal_lead_s, site.hand_over) == (detect.LEAD_S, "requeue")


def test_every_line_says_where_it_comes_from() -> None:
    lines = detect.to_yaml(university()).splitlines()
    assert lines[0].startswith("# alma, ") and " gpu: " in lines[0] and "4 a100 " in lines[0]
    assert re.findall(r"\b\d+", lines[0]) == ["2", "4", "36"], "nodes, GPUs of each, hours"
    values = [line for line in lines if not line.startswith("#")]
    assert len(values) == 25 and all(" # " in line for line in values)
    others = "\n".join(line for line in lines[1:] if line.startswith("#"))
    assert "cpu: 1 nodes (no GPUs)" in others and "retired" in others and "INACTIVE" in others


def test_without_any_limit_two_days() -> None:
    found = university("cpu", qos={}, associations=[], default_account="", no_accounting="no database")
    values, sources = found["values"], found["sources"]
    assert values["time_limit_min"] == detect.INFINITE_MIN and "no limit" in sources["time_limit_min"]
    assert (values["account"], values["qos"]) == (None, None) and sources["account"] == "no database"
    assert (values["gpus_per_node"], values["gpu_type"], values["cpus_per_task"]) == (0, None, 64)


def test_jobs_that_may_not_come_back() -> None:
    never = facts_of_university()
    never = facts_of_university(config={**never.config, "JobRequeue": "0"})
    found = detect.describe(never, "gpu", None, {})
    assert found["values"]["hand_over"] == "chain" and "JobRequeue=0" in found["sources"]["hand_over"]
    facts = facts_of_university()
    gpu = facts.partition("gpu")
    assert may_requeue(facts, gpu, "normal")[0]
    assert preemption(facts, gpu, "scavenge") == (True, "CANCEL", 90.0)
    allowed, reason = may_requeue(facts, gpu, "scavenge")
    assert not allowed and "CANCEL" in reason


def test_preemption_by_partition() -> None:
    facts = facts_of_testbed()
    assert preemption(facts, facts.partition("normal"), None) == (True, "REQUEUE", 20.0)
    assert preemption(facts, facts.partition("urgent"), None)[0] is False


def test_limits_are_sorted_and_name_their_origin() -> None:
    facts = facts_of_university()
    assert time_limits(facts, facts.partition("gpu"), "ornis", "long") == [
        (2880, "qos gpu_part MaxWall=2-00:00:00"),
        (10080, "qos long MaxWall=7-00:00:00"),
    ]


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:2", {"": 2}),
        ("gpu:a100:4(S:0-1),shard:8", {"a100": 4}),
        ("gpu:a100_3g.20gb:2,gpu:a100:1(S:0)", {"a100_3g.20gb": 2, "a100": 1}),
        ("nic:1,craynetwork:4", {}),
        ("(null)", {}),
        ("", {}),
    ],
)
def test_gres(gres: str, expected: dict[str, int]) -> None:
    assert gpus_of_node({"Gres": gres}) == expected


def test_tres() -> None:
    assert tres("cpu=16,mem=4G,node=4,gres/gpu=8") == {"cpu": 16, "mem": 4096, "node": 4, "gres/gpu": 8}
    assert tres("") == {}


def test_a_password_never_gets_into_a_preset() -> None:
    found = university(environment={"https_proxy": "http://robin:geheim@proxy.alma:3128/"})
    assert found["values"]["proxy"] == "http://proxy.alma:3128"
    assert "left out" in found["sources"]["proxy"] and "geheim" not in detect.to_yaml(found)
    assert university(environment={"http_proxy": "proxy:80"})["values"]["proxy"] == "http://proxy:80"


def test_scratch_is_left_to_the_node_to_resolve(own_presets: Path) -> None:
    detect.write(university(environment={"TMPDIR": "/tmp/robin"}))
    assert compose("submit", ["site=alma-gpu"]).site.scratch == "$TMPDIR"


def test_names_and_files(own_presets: Path, tmp_path: Path) -> None:
    """A preset is not overwritten unasked, can go anywhere, and strange names stay inside its folder."""
    found = detect.describe(facts_of_testbed(), "urgent", None, {})
    path = detect.write(found)
    assert path.name == "birdsd-testbed-urgent.yaml"
    path.write_text("# mine\nname: mine\n", encoding="utf-8")
    with refuses("birdsd-testbed-urgent.yaml", "--force", kind=AlreadyThere):
        detect.write(found)
    assert path.read_text(encoding="utf-8").startswith("# mine")
    assert detect.write(found, force=True) == path
    listed = {preset.name: preset.line for preset in presets()["site"]}
    assert listed["birdsd-testbed-urgent"].startswith("birdsd-testbed, partition urgent")
    elsewhere = tmp_path / "deep" / "site.yaml"
    assert detect.write(found, elsewhere) == elsewhere
    assert compose("submit", [f"site={elsewhere}"]).site.partition == "urgent"
    strange = detect.describe(facts_of_testbed(), None, "../../no: #1\n", {})
    assert detect.write(strange).parent == own_presets / "site"
    assert compose("submit", [f"site={strange['values']['name']}"]).site.partition == "normal"


@pytest.mark.parametrize("word", ["yes", "null", "1e3", "on", "a: b", "# c", 'q"q', "007"])
def test_words_that_yaml_would_misread(own_presets: Path, word: str) -> None:
    found = detect.describe(facts_of_testbed(), None, "odd", {})
    found["values"]["account"] = word
    detect.write(found)
    assert compose("submit", ["site=odd"]).site.account == word


def test_an_unknown_partition_names_the_valid_ones() -> None:
    with refuses("'normale'", "besteffort, normal, urgent", "'normal'", kind=UnknownName):
        detect.describe(facts_of_testbed(), "normale", None, {})


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refuses("scontrol", kind=SlurmError):
        detect.detect()


@pytest.mark.slurm
def test_the_real_cluster(testbed: object, own_presets: Path) -> None:
    """The preset of the running cluster composes, and sbatch would take a job as it says."""
    found = detect.detect(name="here")
    detect.write(found)
    site = compose("submit", ["site=here"]).site
    assert (site.partition, site.gpus_per_node, site.max_nodes) == ("normal", 2, 4)
    assert (site.time_limit_min, site.hand_over) == (1440, "requeue")
    options = [
        f"--partition={site.partition}",
        f"--account={site.account}",
        f"--qos={site.qos}",
        f"--time={site.time_limit_min}",
        f"--nodes={site.max_nodes}",
        f"--gres=gpu:{site.gpus_per_node}",
        f"--ntasks-per-node={site.gpus_per_node}",
        f"--cpus-per-task={site.cpus_per_task}",
    ]
    assert "using 16 processors" in slurm.would_start(options)
    with refuses("", "besteffort, normal, urgent", kind=UnknownName):
        detect.detect("nope")


@pytest.mark.slurm
def test_it_needs_nothing_heavy(testbed: object) -> None:
    heavy = ["torch", "hydra", "omegaconf", "scipy", "pandas", "numpy"]
    script = (
        "import sys\nfrom birdsd.site import detect\ndetect.to_yaml(detect.detect())\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
