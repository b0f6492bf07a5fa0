"""Sites with limits, slices of GPUs, partitions of several kinds: what is detected, asked for, doubted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from birdsd.checks.context import DoctorContext
from birdsd.checks.resources import check_cpu_jobs, check_environment, check_gpu_type, check_limits
from birdsd.cli import main
from birdsd.cluster.rank.session import Session
from birdsd.config import compose
from birdsd.errors import Mismatch, UnknownName, Unsupported
from birdsd.planning.hardware import hardware
from birdsd.runs.resources import needs_gpu, resources
from birdsd.runs.run import RunStore
from birdsd.schema import SiteConfig
from birdsd.site import detect, slurm
from birdsd.site.gpus import cards_of_node, gpus_of_node, is_slice
from birdsd.site.limits import tres
from tests.support.errors import refuses
from tests.support.fake_slurm import Site, node
from tests.support.tiny import make_shards

EIGHT = [node(f"a{n}", "gpu:a100:8(S:0-1)", cpus=128, memory_mib=1_031_000) for n in range(4)]
USUAL = "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL QoS=N/A GraceTime=0 MaxNodes=UNLIMITED State=UP"
STUDENT = Site(EIGHT, [("student", "12:00:00", "cpu=16,gres/gpu=1,mem=64G", "", "", "", "")])


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Go to a site: its programs come first on the PATH, and presets of one's own lie in a fresh folder."""
    usual = os.environ["PATH"]

    def go(site: Site) -> None:
        folder = site.write(tmp_path / f"bin-{len(list(tmp_path.iterdir()))}")
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{usual}")
        monkeypatch.setenv("BIRDSD_CONFIGS", str(tmp_path / "own"))

    return go


def found(gpu_type: str | None = None, partition: str | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    told = detect.detect(partition, None, gpu_type)
    return told["values"], told["sources"]


# -- limits -----------------------------------------------------------------------------------------------


def qos(**limits: str) -> list[tuple[str, ...]]:
    names = ("wall", "user", "job", "node", "account", "group")
    return [("normal", *(limits.get(name, "") for name in names))]


@pytest.mark.parametrize(
    ("site", "expected", "who"),
    [
        (STUDENT, (1, 16, 64), "qos student MaxTRESPerUser: mem=64G"),
        (Site(EIGHT, qos(job="cpu=24,gres/gpu:a100=2,mem=100000M")), (2, 12, 97), "qos normal MaxTRES:"),
        (Site(EIGHT, qos(node="cpu=32,mem=0.25T")), (8, 4, 256), "qos normal MaxTRESPerNode: mem=0.25T"),
        (Site(EIGHT, qos(account="gres/gpu=4,mem=200G")), (4, 16, 200), "qos normal MaxTRESPerAccount"),
        (Site(EIGHT, qos(group="cpu=40")), (8, 5, 1006), "RealMemory"),
        (Site(EIGHT, mine=("", "cpu=8,mem=32G", "", "")), (8, 1, 32), "association lab MaxTRES"),
        (Site(EIGHT, mine=("", "", "mem=48G", "gres/gpu=2")), (2, 16, 48), "association lab GrpTRES"),
        (
            Site(EIGHT, accounts=[("lab", "dept", "", "gres/gpu=2,mem=96G")]),
            (2, 16, 96),
            "account lab GrpTRES",
        ),
        (
            Site(EIGHT, accounts=[("lab", "dept", "", ""), ("dept", "root", "", "cpu=32,mem=128G")]),
            (8, 4, 128),
            "account dept GrpTRES: mem=128G",
        ),
        (
            Site(EIGHT, accounts=[("lab", "root", "", ""), ("root", "", "", "mem=300G")]),
            (8, 16, 300),
            "account root GrpTRES",
        ),
        (
            Site(EIGHT, gpu_partition="MaxCPUsPerNode=64 MaxMemPerNode=500000"),
            (8, 8, 488),
            "partition MaxMemPerNode",
        ),
        (Site(EIGHT, gpu_partition="MaxCPUsPerSocket=16"), (8, 4, 1006), "RealMemory"),
        (
            Site(EIGHT, gpu_partition="MaxMemPerCPU=4000 DefMemPerCPU=2000"),
            (8, 16, 500),
            "partition MaxMemPerCPU=4000",
        ),
        (Site(EIGHT, config=["MaxMemPerNode = 256000"]), (8, 16, 250), "slurm.conf MaxMemPerNode"),
        (Site(EIGHT, qos(user="cpu=-1,mem=-1,gres/gpu=-1")), (8, 16, 1006), "RealMemory"),
        (Site(EIGHT, qos(user="gres/gpu:h100=1")), (8, 16, 1006), "RealMemory"),
        (Site(EIGHT, qos(user="cpu=4")), (4, 1, 503), " 4 a100"),
    ],
)
def test_no_number_is_above_a_limit(at: Any, site: Site, expected: tuple[int, int, int], who: str) -> None:
    """GPUs, CPUs a task, memory a node; and the line says which limit made it."""
    at(site)
    values, sources = found()
    assert (values["gpus_per_node"], values["cpus_per_task"], values["memory_gb_per_node"]) == expected
    assert who in sources["memory_gb_per_node"]


def test_the_time_of_an_account_above(at: Any) -> None:
    site = Site(EIGHT, mine=("10:00:00", "", "", ""))
    at(site)
    assert found()[0]["time_limit_min"] == 600


def test_a_user_who_may_have_no_gpu_gets_none(at: Any) -> None:
    at(Site(EIGHT, qos(user="gres/gpu=0")))
    values, sources = found()
    assert values["gpus_per_node"] == 0 and values["gpu_type"] is None
    assert "REMARK" in sources["gpus_per_node"]


def test_an_accounting_with_fewer_columns_is_read_too() -> None:
    """Not every sacctmgr knows all that is asked for: the columns at the end may be missing."""
    (one,) = slurm.read_qos("student|0|12:00:00|cpu=16||||cluster|00:00:00|").values()
    assert (one["MaxTRESPerUser"], one["GrpTRES"], one["MaxTRESPerNode"]) == ("cpu=16", "", "")
    (mine,) = slurm.read_associations("uni|lab|robin||student|student||||")
    assert (mine["Account"], mine["ParentName"]) == ("lab", "")


def test_units() -> None:
    assert tres("mem=64G,cpu=16") == {"mem": 65536, "cpu": 16}
    assert tres("mem=1T") == {"mem": 2**20} and tres("mem=512") == {"mem": 512}
    assert tres("mem=2097152K") == {"mem": 2048} and tres("mem=1.5G") == {"mem": 1536}
    assert tres("cpu=-1,mem=-1,node=2,billing=x") == {"node": 2}


def test_nodes_share_out_what_a_job_may_have(at: Any, tmp_path: Path, capsys: Any) -> None:
    """Two nodes ask for no more than one may: fewer CPUs and less memory on each."""
    at(Site(EIGHT, qos(user="cpu=64,mem=256G,gres/gpu=16,node=2")))
    assert main.main(["site", "detect", "--out", str(tmp_path / "made.yaml")]) == 0
    site = compose("submit", [f"site={tmp_path / 'made.yaml'}"]).site
    assert (site.max_nodes, site.max_cpus, site.max_memory_gb) == (2, 64, 256)
    settled = compose("train")
    for nodes, tasks, expected in ((1, 0, (8, 8, 256)), (2, 0, (8, 4, 128)), (1, 2, (2, 8, 64))):
        asked = resources(site, nodes, tasks, "train", settled).site
        assert (asked.gpus_per_node, asked.cpus_per_task, asked.memory_gb_per_node) == expected
    with refuses("8 CPUs", "site.max_cpus", kind=Mismatch):
        resources(replace(site, max_cpus=4), 1, 8, "train", settled)


def submitted(capsys: Any, *words: str) -> tuple[list[str], str]:
    capsys.readouterr()
    assert main.main(["submit", *words, "--dry-run"]) == 0
    said = capsys.readouterr()
    return [line.removeprefix("#SBATCH ") for line in said.out.splitlines() if "#SBATCH" in line], said.err


def test_the_script_of_a_student_asks_for_what_the_qos_gives(at: Any, tmp_path: Path, capsys: Any) -> None:
    at(STUDENT)
    site = f"site={tmp_path / 'made.yaml'}"
    main.main(["site", "detect", "--out", str(tmp_path / "made.yaml")])
    shards = make_shards(tmp_path / "shards")
    words = ["train", site, f"data.shards={shards}", f"runs={tmp_path / 'runs'}"]
    lines, said = submitted(capsys, *words)
    assert {"--gres=gpu:a100:1", "--cpus-per-task=16", "--mem=64GB", "--ntasks-per-node=1"} <= set(lines)
    assert "machine=auto: " in said and "1 a100 GPU" in said
    lines, said = submitted(capsys, *words, "site.cpus_per_task=128", "site.memory_gb_per_node=1006")
    assert {"--cpus-per-task=16", "--mem=64GB"} <= set(lines)
    assert all(
        one in said for one in ("16 CPUs ", " 128: site.max_cpus=", "64 GB ", " 1006: site.max_memory_gb=")
    )


# -- the doctor ---------------------------------------------------------------------------------------------


def case(site: SiteConfig, **given: Any) -> DoctorContext:
    return DoctorContext(site, **given)


PRESET = SiteConfig(
    name="made", partition="gpu", account="lab", qos="student", gpus_per_node=1, gpu_type="a100",
    gpu_syntax="gres", cpus_per_task=16, memory_gb_per_node=64, time_limit_min=720,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpus_per_task": 128}, ["128 cpu", "qos student MaxTRESPerUser is 16", "site.cpus_per_task=16"]),
        (
            {"memory_gb_per_node": 1006},
            ["1006 GiB of memory", "MaxTRESPerUser is 64", "memory_gb_per_node=64"],
        ),
        (
            {"gpus_per_node": 8, "cpus_per_task": 2, "memory_gb_per_node": 8},
            ["8 gres/gpu", "is 1 (gres/gpu=1)"],
        ),
    ],
)
def test_the_doctor_names_the_limit(at: Any, changes: dict[str, Any], words: list[str]) -> None:
    at(STUDENT)
    (one,) = check_limits(case(replace(PRESET, **changes)))
    assert one.level == "error"
    for word in words:
        assert word in f"{one.what} -> {one.what_to_do}"
    (well,) = check_limits(case(PRESET))
    assert well.level == "ok" and "cpu=16" in well.what


def test_the_doctor_counts_all_nodes(at: Any) -> None:
    at(Site(EIGHT, qos(user="gres/gpu=10", node="cpu=128")))
    site = replace(PRESET, qos="normal", gpus_per_node=4, cpus_per_task=32)
    (one,) = check_limits(case(site, nodes=3))
    assert one.level == "error" and "12 gres/gpu" in one.what
    assert "qos normal MaxTRESPerUser is 10" in one.what and "fewer nodes" in one.what_to_do
    (two,) = check_limits(case(replace(site, cpus_per_task=33), nodes=2))
    assert "132 cpu" in two.what and "MaxTRESPerNode is 128" in two.what


# -- slices of GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("a100_1g.10gb", True),
        ("1g.10gb", True),
        ("nvidia_a100_3g.20gb", True),
        ("a100_80gb_2g.20gb", True),
        ("1c.3g.20gb", True),
        ("1g.10gb+me", True),
        ("h100-1g.12gb", True),
        ("nvidia_h100_80gb_hbm3_1g.10gb", True),
        ("1g5gb", True),
        ("mig", True),
        ("a100-mig-small", True),
        ("a100", False),
        ("a100_80gb", False),
        ("nvidia_a100_80gb_pcie", False),
        ("h100", False),
        ("", False),
        ("rtx_2080_ti", False),
        ("gtx_1080", False),
        ("l40s", False),
        ("nvidia_geforce_rtx_3090", False),
        ("gh200", False),
        ("amigo", False),
        ("mi250", False),
    ],
)
def test_what_a_slice_is_called(kind: str, expected: bool) -> None:
    assert is_slice(kind) is expected
    assert is_slice(kind, 28)


def test_shares_of_a_gpu_are_no_gpus() -> None:
    assert gpus_of_node({"Gres": "shard:a100:32,mps:400,gpu:a100:4(S:0,1),gpu:a100:no_consume:2"}) == {
        "a100": 6
    }
    assert gpus_of_node({"Gres": "mps:200"}) == {} and gpus_of_node({"Gres": "gpu"}) == {"": 1}
    assert gpus_of_node({"Gres": "gpu:v100"}) == {"v100": 1} and gpus_of_node({"Gres": "gpu:a100:0"}) == {}
    assert cards_of_node({"Gres": "gpu:a100:2,gpu:a100_1g.10gb:14"}) == 4
    assert cards_of_node({"Gres": "gpu:a100_3g.20gb:4"}) == 2


WHOLE = [node(f"w{n}", "gpu:a100:4(S:0-1)") for n in range(3)]
SLICES = [node(f"m{n}", "gpu:a100_1g.10gb:28(S:0-7)") for n in range(5)]


@pytest.mark.parametrize(
    ("nodes", "expected", "words"),
    [
        (WHOLE + SLICES, (4, "a100", 16, 500, 3), ["28 a100_1g.10gb on 5 nodes (slices)"]),
        (SLICES, (1, "a100_1g.10gb", 2, 17, 1), ["REMARK", "slices"]),
        (
            [node("x", "gpu:1g.10gb:7,gpu:3g.40gb:2,gpu:2g.20gb:3")],
            (1, "3g.40gb", 9, 71, 1),
            ["REMARK", "7 1g.10gb on 1 nodes"],
        ),
        (
            [node(f"y{n}", "gpu:a100:2,gpu:a100_1g.10gb:14") for n in range(2)],
            (2, "a100", 16, 250, 2),
            ["14 a100_1g.10gb on 2 nodes (slices)"],
        ),
        (
            [*WHOLE, node("z", "gpu:h100:8", cpus=96)],
            (4, "a100", 16, 500, 3),
            ["8 h100 on 1 nodes", "--gpu-type"],
        ),
        ([*SLICES, node("u", "gpu:4,shard:16")], (4, None, 16, 500, 1), ["REMARK", "have no type"]),
        ([node("o", "gpu:small:20")], (1, "small", 3, 23, 1), ["REMARK", "slices"]),
        ([node("s", "shard:8,mps:100")], (0, None, 64, 500, 1), ["no node of the partition has any"]),
    ],
)
def test_whole_gpus_go_before_slices(
    at: Any, nodes: list[str], expected: tuple[Any, ...], words: list[str]
) -> None:
    at(Site(nodes))
    values, sources = found()
    names = ("gpus_per_node", "gpu_type", "cpus_per_task", "memory_gb_per_node", "max_nodes")
    assert tuple(values[name] for name in names) == expected
    for word in words:
        assert word in sources["gpus_per_node"]


def test_several_slices_are_refused_before_they_wait_in_a_queue() -> None:
    site, auto = replace(PRESET, gpus_per_node=4, gpu_type="a100_1g.10gb"), compose("train")
    with refuses("4 GPUs of type a100_1g.10gb", "nodes=1 tasks_per_node=1", kind=Unsupported):
        resources(site, 1, 0, "train", auto)
    assert resources(site, 1, 1, "train", auto).site.gpus_per_node == 1
    assert resources(site, 1, 0, "train", compose("train", ["machine=smoke"])).site.gpu_type is None


def test_a_plan_knows_a_slice_from_the_whole_card() -> None:
    site = replace(PRESET, gpu_type="a100_1g.10gb")
    card = hardware("auto", site=site).card
    assert card is not None and card.gib == 10 and card.tflops == pytest.approx(312 / 7)
    whole = hardware("auto", site=PRESET).card
    assert whole is not None and whole.gib == 80
    unnamed = hardware("auto", site=replace(PRESET, gpu_type=None))
    assert unnamed.card is not None and "--gpu" in unnamed.assumed and unnamed.card.name in unnamed.assumed
    other = hardware("auto", site=replace(PRESET, gpu_type="3g.20gb")).card
    assert other is not None and other.gib == 20


def test_the_users_type_wins(at: Any) -> None:
    at(Site([*WHOLE, *SLICES, node("z", "gpu:h100:8", cpus=96)]))
    values, _ = found("H100")
    assert (values["gpus_per_node"], values["gpu_type"], values["max_nodes"]) == (8, "h100", 1)
    assert found("a100_1g.10gb")[0]["gpus_per_node"] == 1
    with refuses("'h10'", "'h100'", kind=UnknownName):
        found("h10")


def test_a_type_that_one_may_not_have_is_passed_over(at: Any) -> None:
    nodes = [node(f"a{n}", "gpu:a100:8", cpus=128) for n in range(4)] + [node("v", "gpu:v100:4", cpus=64)]
    at(Site(nodes, qos(user="gres/gpu:a100=0")))
    values, _ = found()
    assert (values["gpu_type"], values["gpus_per_node"]) == ("v100", 4)
    at(Site(nodes, qos(user="gres/gpu=0")))
    assert found()[0]["gpus_per_node"] == 0


def test_a_qos_that_the_partition_denies_is_not_taken(at: Any) -> None:
    two = [("student", "", "", "", "", "", ""), ("other", "", "", "", "", "", "")]
    at(Site(EIGHT, two, gpu_partition="DenyQos=student"))
    assert found()[0]["qos"] == "other"


def test_an_association_for_the_partition_replaces_the_general_one(at: Any) -> None:
    site = Site(EIGHT, mine=("01:00:00", "cpu=4,mem=10G", "", ""))
    at(site)
    assert found()[0]["memory_gb_per_node"] == 10
    folder = Path(os.environ["PATH"].split(os.pathsep)[0])
    general = (folder / "mine").read_text()
    special = general.replace("robin||", "robin|gpu|").replace("cpu=4,mem=10G", "cpu=64,mem=400G")
    (folder / "mine").write_text(general + special.replace("01:00:00", "20:00:00"))
    values, _ = found()
    assert (values["memory_gb_per_node"], values["cpus_per_task"]) == (400, 8)
    assert values["time_limit_min"] == 1200


def test_another_partition_with_whole_gpus_goes_before_the_default_with_slices(at: Any) -> None:
    whole = [line.replace("Partitions=gpu", "Partitions=big") for line in WHOLE]
    at(Site([*SLICES, *whole], partitions=[f"big {USUAL} MaxTime=1-00:00:00"]))
    values, _ = found()
    assert (values["partition"], values["gpu_type"]) == ("big", "a100")
    assert found(partition="gpu")[0]["gpu_type"] == "a100_1g.10gb"


def test_the_doctor_of_slices(at: Any) -> None:
    at(Site(WHOLE + SLICES))
    site = replace(PRESET, qos="normal", gpu_type="a100_1g.10gb")
    (one,) = check_gpu_type(case(site))
    assert one.level == "warning" and "has whole GPUs: a100" in one.what
    (several,) = check_limits(case(replace(site, gpus_per_node=28)))
    assert several.level == "error" and "28 GPUs of type a100_1g.10gb" in several.what
    (either,) = check_gpu_type(case(replace(site, gpu_type=None)))
    assert either.level == "warning" and "site.gpu_type=" in either.what_to_do and "MIG" in either.what
    assert not list(check_gpu_type(case(replace(site, gpu_type="a100"))))
    at(Site(SLICES))
    (alone,) = check_gpu_type(case(site))
    assert alone.level == "ok" and "nothing else" in alone.what


# -- jobs without a GPU -------------------------------------------------------------------------------------

CPU_NODES = [node(f"c{n}", "", cpus=48, memory_mib=190_000, partition="cpu") for n in range(6)]


def test_jobs_that_need_no_gpu() -> None:
    cpu, auto = compose("train", ["machine=smoke"]), compose("train")
    assert not needs_gpu("prepare", compose("prepare"))
    assert needs_gpu("train", auto) and not needs_gpu("train", cpu)
    for job in ("cache", "generate", "methods", "four_ways"):
        assert needs_gpu(job, compose(job)), job
    assert not needs_gpu("prepare", compose("prepare", ["machine=node"]))


def test_no_gpu_hours_where_no_gpu_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may have GPUs that a job on it did not ask for."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    booked = {}
    for job, settings in (
        ("prepare", ["machine=smoke"]), ("prepare", []), ("cache", []), ("generate", ["machine=smoke"]),
    ):  # fmt: skip
        run = RunStore(tmp_path / f"{job}-{len(booked)}").open_job(job, compose(job, settings))
        with Session(run, lock=False) as session:
            began = session.allocation.began
        assert began is not None
        booked[f"{job} {' '.join(settings)}".strip()] = began.gpus
    assert booked == {"prepare machine=smoke": 0, "prepare": 0, "cache": 1, "generate machine=smoke": 0}


@pytest.mark.parametrize("partitions", [[f"cpu {USUAL} MaxTime=06:00:00"], []])
def test_prepare_asks_for_no_gpu(at: Any, tmp_path: Path, capsys: Any, partitions: list[str]) -> None:
    """It goes where there are none, for as long as jobs may run there; else it stays, without one."""
    at(Site([*WHOLE, *(CPU_NODES if partitions else [])], partitions=partitions))
    main.main(["site", "detect", "--out", str(tmp_path / "made.yaml")])
    (tmp_path / "recordings").mkdir()
    site = f"site={tmp_path / 'made.yaml'}"
    common = [site, "array=2", f"data.shards={tmp_path / 'shards'}"]
    lines, said = submitted(capsys, "prepare", *common, f"data.recordings={tmp_path / 'recordings'}")
    where = ["--partition=cpu", "--time=360"] if partitions else ["--partition=gpu", "--time=2880"]
    assert {*where, "--cpus-per-task=16", "--mem=125GB"} <= set(lines)
    assert not [line for line in lines if "gres" in line or "gpus" in line]
    assert "no GPU" in said and "prepare" in said
    make_shards(tmp_path / "shards")
    lines, _ = submitted(capsys, "cache", *common)
    assert {"--gres=gpu:a100:1", "--partition=gpu", "--cpus-per-task=16", "--mem=125GB"} <= set(lines)


def test_a_cpu_training_asks_for_no_gpu_and_keeps_its_ranks(at: Any, tmp_path: Path, capsys: Any) -> None:
    at(Site([*WHOLE, *CPU_NODES], partitions=[f"cpu {USUAL} MaxTime=06:00:00"]))
    main.main(["site", "detect", "--out", str(tmp_path / "made.yaml")])
    words = ["train", f"site={tmp_path / 'made.yaml'}", f"data.shards={make_shards(tmp_path / 'shards')}"]
    lines, said = submitted(capsys, *words, "machine=smoke", "site.sbatch.gres=gpu:4", "site.constraint=a100")
    assert {"--ntasks-per-node=4", "--cpus-per-task=12", "--mem=185GB", "--partition=cpu"} <= set(lines)
    assert not [line for line in lines if "gres" in line or "constraint" in line]
    assert "machine.device=cpu" in said
    lines, _ = submitted(capsys, *words, "site.cpu_partition=null", "machine=smoke")
    assert {"--partition=gpu", "--ntasks-per-node=4"} <= set(lines)
    assert not [line for line in lines if "gres" in line]


def test_which_partition_is_for_jobs_without_a_gpu(at: Any) -> None:
    """One that is open to the same account and qos, and of those the one of the longest time limit."""
    named = [node(f"d{n}", "", partition=name) for n, name in enumerate(("short", "long", "other", "shut"))]
    partitions = [
        f"short {USUAL} MaxTime=00:30:00", f"long {USUAL} MaxTime=1-00:00:00",
        f"other {USUAL} MaxTime=9-00:00:00".replace("AllowAccounts=ALL", "AllowAccounts=physics"),
        f"shut {USUAL} MaxTime=9-00:00:00".replace("State=UP", "State=DOWN"),
    ]  # fmt: skip
    at(Site([*WHOLE, *named], partitions=partitions))
    values, _ = found()
    assert (values["cpu_partition"], values["cpu_time_limit_min"]) == ("long", 1440)
    assert found(partition="short")[0]["cpu_partition"] is None
    at(Site(WHOLE))
    values, sources = found()
    assert values["cpu_partition"] is None and "account" in sources["cpu_partition"]


def test_the_doctor_of_jobs_without_a_gpu(at: Any) -> None:
    at(Site([*WHOLE, *CPU_NODES], partitions=[f"cpu {USUAL} MaxTime=06:00:00"]))
    site = replace(PRESET, qos="normal", cpu_partition="cpu", cpu_time_limit_min=360)
    assert [one.level for one in check_cpu_jobs(case(site))] == ["ok"]
    (gone,) = check_cpu_jobs(case(replace(site, cpu_partition="cpus")))
    assert gone.level == "error" and "partition cpus" in gone.what
    (long,) = check_cpu_jobs(case(replace(site, cpu_time_limit_min=0)))
    assert long.level == "error" and long.what_to_do == "site.cpu_time_limit_min=360"
    (here,) = check_cpu_jobs(case(replace(site, cpu_partition=None)))
    assert here.level == "ok" and "in gpu" in here.what


def test_a_site_without_gpus_and_auto(at: Any, tmp_path: Path, capsys: Any) -> None:
    """What this machine has says nothing: the site has none."""
    at(Site([line.replace("Partitions=cpu", "Partitions=gpu") for line in CPU_NODES]))
    main.main(["site", "detect", "--out", str(tmp_path / "made.yaml")])
    words = ["train", f"site={tmp_path / 'made.yaml'}", f"data.shards={make_shards(tmp_path / 'shards')}"]
    lines, said = submitted(capsys, *words)
    assert "machine=auto: CPUs" in said
    assert "--ntasks-per-node=1" in lines and not [line for line in lines if "gres" in line]


def test_the_doctor_of_the_environment(at: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python in this machine's memory is not seen on compute nodes."""
    at(STUDENT)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SBATCH_EXPORT", raising=False)
    (usual,) = check_environment(case(PRESET))
    assert usual.topic == "environment"
    (lost,) = check_environment(case(replace(PRESET, python="/dev/shm/venv/bin/python")))
    assert lost.level == "warning" and "/dev/shm" in lost.what
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    assert "SBATCH_EXPORT=NONE" in next(check_environment(case(PRESET))).what
