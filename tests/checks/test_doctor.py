"""The doctor finds what would go wrong, says what to do, and says nothing of what it was not given."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from birdsd.checks import doctor, folders, saving
from birdsd.checks import slurm as doctor_slurm
from birdsd.checks.context import DoctorContext, Finding
from birdsd.config import compose
from birdsd.diffusion.parameters import implied_shapes
from birdsd.errors import UserError
from birdsd.files import write_json
from tests.support.captured import facts_of_testbed, facts_of_university
from tests.support.doctor import ALMA, TESTBED, case, levels, only
from tests.support.histories import HOUR, History
from tests.support.hub import pipeline
from tests.support.remarks import codes, remarked
from tests.support.shard_makers import foreign_set
from tests.support.tiny import SPECIES, make_shards


def at_alma(**changes: Any) -> DoctorContext:
    nodes = changes.pop("nodes", 1)
    return case(replace(ALMA, **changes), facts_of_university(), nodes=nodes)


SLURM_CHECKS = (
    doctor_slurm.check_partition,
    doctor_slurm.check_account,
    doctor_slurm.check_time_limit,
    doctor_slurm.check_nodes,
    doctor_slurm.check_hand_over,
)


# -- the site against Slurm -----------------------------------------------------------------------------


def test_sites_that_fit_are_well() -> None:
    for one in (at_alma(), case(TESTBED, facts_of_testbed(), nodes=4)):
        found = [finding for check in SLURM_CHECKS for finding in check(one)]
        assert set(levels(found)) >= {"partition", "account", "time limit", "nodes", "hand over"}
        assert {finding.level for finding in found} == {"ok"}


@pytest.mark.parametrize(
    ("check", "changes", "level", "words"),
    [
        ("partition", {"partition": "gpus"}, "error", ["no partition gpus", "cpu, debug, gpu, retired"]),
        ("partition", {"partition": "retired"}, "error", ["INACTIVE"]),
        ("account", {"account": "physics"}, "error", ["physics is not yours", "ornis"]),
        ("account", {"account": None}, "error", ["teaching is not yours here"]),
        ("account", {"qos": "nope"}, "error", ["no qos nope", "long, normal, scavenge"]),
        ("account", {"qos": "urgent"}, "error", ["it is not yours"]),
        ("time_limit", {"time_limit_min": 2161}, "error", ["qos normal", "site.time_limit_min=2160"]),
        ("nodes", {"gpu_type": "h100"}, "error", ["4 h100 GPUs", "4 a100 GPUs", "2 v100 GPUs"]),
        ("nodes", {"gpus_per_node": 8}, "error", ["8 a100 GPUs"]),
        ("nodes", {"cpus_per_task": 33}, "error", ["132 CPUs"]),
        ("nodes", {"memory_gb_per_node": 1020}, "error", ["1020 GB of memory"]),
        ("nodes", {"qos": "long", "nodes": 8}, "error", ["8 are requested", "nodes=7 at most"]),
        ("nodes", {"qos": "long", "nodes": 7}, "warning", ["7 are requested", "6 of them up"]),
        ("hand_over", {"hand_over": "manual"}, "warning", ["birdsd resume"]),
        ("hand_over", {"hand_over": "magic"}, "error", ["unknown", "chain"]),
        ("hand_over", {"qos": "scavenge"}, "warning", ["cancelled", "site.hand_over=chain"]),
    ],
)
def test_what_does_not_fit_is_named(
    check: str, changes: dict[str, Any], level: str, words: list[str]
) -> None:
    only(getattr(doctor_slurm, f"check_{check}")(at_alma(**changes)), level, *words)


def test_a_qos_that_the_partition_denies_is_named() -> None:
    facts = facts_of_university()
    denying = [{**p, "DenyQos": "normal"} if p["PartitionName"] == "gpu" else p for p in facts.partitions]
    found = list(doctor_slurm.check_account(case(ALMA, replace(facts, partitions=denying))))
    (qos,) = [finding for finding in found if finding.topic == "qos"]
    assert qos.level != "ok" and "long, scavenge" in qos.what_to_do


def test_gpus_syntax_needs_cons_tres() -> None:
    facts = facts_of_testbed()
    old = replace(facts, config={**facts.config, "SelectType": "select/cons_res"})
    site = replace(TESTBED, gpu_syntax="gpus")
    only(doctor_slurm.check_nodes(case(site, old)), "error", "select/cons_res", "site.gpu_syntax=gres")
    assert levels(doctor_slurm.check_nodes(case(site, facts)))["nodes"] == "ok"


def test_without_accounts_nothing_is_held_against_the_site() -> None:
    facts = facts_of_university(associations=[], qos={}, no_accounting="the database does not answer")
    one = case(replace(ALMA, account="any", qos="any"), facts)
    only(doctor_slurm.check_accounting(one), "warning", "does not answer", "heartbeat")
    assert list(doctor_slurm.check_account(one)) == []
    assert levels(doctor_slurm.check_time_limit(one)) == {"time limit": "ok"}


def test_preemption_against_the_time_of_a_save(tmp_path: Path) -> None:
    """GraceTime counts where others may take the nodes; the user signal is named where the site sends it."""
    facts, history = facts_of_testbed(), History(tmp_path)
    for seconds, level in ((3.0, "ok"), (25.0, "warning")):
        history.event(1, event="saved", position=8, seconds=seconds)
        one = case(TESTBED, facts, run=history.run)
        (found,) = doctor_slurm.check_preemption(one)
        assert found.level == level and "SIGTERM, then 20 s" in found.what
    besteffort = case(replace(TESTBED, partition="besteffort"), facts)
    only(doctor_slurm.check_preemption(besteffort), "warning", "0 s", "save.every_samples")
    urgent = case(replace(TESTBED, partition="urgent"), facts)
    assert "nothing preempts" in next(doctor_slurm.check_preemption(urgent)).what
    scavenger = at_alma(qos="scavenge")
    assert "90 s" in next(doctor_slurm.check_preemption(scavenger)).what


def test_a_dead_controller_is_one_error_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor.diagnose(TESTBED, None, None, tmp_path)
    assert levels(found)["slurm"] == "error" and levels(found)["renames"] == "ok"
    assert doctor.exit_status(found) == 1


# -- saving ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "lead", "level"), [(10.0, 120, "ok"), (70.0, 120, "warning"), (90.0, 120, "error")]
)
def test_the_warning_against_measured_saves(tmp_path: Path, saved: float, lead: int, level: str) -> None:
    history = History(tmp_path)
    history.event(1, event="saved", position=8, seconds=1.0)
    history.event(2, event="saved", position=16, seconds=saved)
    one = case(replace(TESTBED, signal_lead_s=lead), facts_of_testbed(), run=history.run)
    (found,) = saving.check_lead(one)
    assert found.level == level and f"{saved:.1f} s (measured" in found.what
    assert "5 s of KillWait" in found.what
    if level != "ok":
        assert found.what_to_do == f"site.signal_lead_s={int(2 * saved) + 30}"


def test_leaving_is_measured_from_the_first_signal(tmp_path: Path) -> None:
    history = History(tmp_path)
    for hour, event in (
        (1.0, "began"), (2.0, "signal"), (2.005, "signal"), (2.01, "stopped"),
        (3.0, "signal"), (3.5, "began"), (4.0, "stopped"), (5.0, "stopped"),
    ):  # fmt: skip
        history.event(hour, event=event)
    assert saving.measured_leaving(history.run.events()) == [pytest.approx(0.01 * HOUR)]


def test_a_warning_that_comes_too_early(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.event(1, event="saved", position=8, seconds=1.0)
    site = replace(TESTBED, signal_lead_s=120, time_limit_min=3)
    found = list(saving.check_lead(case(site, facts_of_testbed(), run=history.run)))
    only(found, "warning", "before half of the 3 min")


def test_a_save_in_every_allocation(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.ran("12.0", 1, took={"train": 1.0}, to=100)
    every = history.run.config["save"]["every_samples"]
    minutes = every / 100.0 / 60  # the story's allocations see 100 samples a second
    long = case(replace(TESTBED, time_limit_min=int(4 * minutes) + 1), facts_of_testbed(), run=history.run)
    assert levels(saving.check_interval(long)) == {"interval": "ok"}
    short = replace(TESTBED, time_limit_min=max(1, int(minutes)))
    slow = case(short, facts_of_testbed(), run=history.run)
    slow.training.save.every_samples = 100 * 60 * 60 * 24  # type: ignore[union-attr]
    only(saving.check_interval(slow), "warning", "save.every_samples=")


@pytest.mark.parametrize(("model", "millions"), [("sd15", 859.5), ("tiny", 8.715), ("small", 65.07)])
def test_the_size_of_a_model_is_estimated(model: str, millions: float) -> None:
    shapes = implied_shapes(compose("train", [f"model={model}"]).model)
    assert sum(map(prod, shapes["unet"].values())) == pytest.approx(millions * 1e6, rel=0.02)


def test_the_size_of_a_checkpoint_and_how_it_is_known(tmp_path: Path) -> None:
    """Estimated, then counted in an export, then of a run of the same kind, then the run's own."""
    settings = compose("train", ["model=tiny", f"runs={tmp_path}"])
    one = DoctorContext(None, settings, None, tmp_path)
    size, how = saving.checkpoint_size(one)
    assert codes([how]) == ["estimated"] and size == pytest.approx(16 * (8_714_548 + 396_288), rel=0.02)
    history = History(tmp_path)
    write_json(history.folder / "config.json", asdict(settings))
    pipeline(history.folder / "export")
    size, how = saving.checkpoint_size(one)
    assert size == 16 * 20 and remarked([how], "counted").facts == {"folder": str(history.folder / "export")}
    checkpoint = history.folder / "checkpoints" / "000000000008"
    write_json(checkpoint / "COMMIT.json", {})
    (checkpoint / "tensors").write_bytes(bytes(5000))
    size, how = saving.checkpoint_size(one)
    name = {"run": history.folder.name}
    assert size > 5000 and remarked([how], "measured-elsewhere").facts == name
    same, how = saving.checkpoint_size(DoctorContext(None, None, history.run))
    assert same == size and remarked([how], "measured").facts == name
    # Another model's checkpoints say nothing.
    other = DoctorContext(None, compose("train", ["model=small"]), None, tmp_path)
    assert saving.checkpoint_size(other)[1].startswith("estimated")


@pytest.mark.parametrize(
    ("method", "low_mb", "high_mb"),
    [
        ("full", 13_000, 14_500),
        ("dreambooth method.base_method=full", 15_000, 16_500),
        ("lora", 200, 900),
        ("lora method.rank=4 method.targets=[attention]", 5, 20),
        ("dreambooth", 50, 400),
        ("textual_inversion", 1, 20),
        ("clip", 1_000, 1_500),
        ("autoencoder", 1_200, 1_500),
    ],
)
def test_what_learns_is_what_is_saved(tmp_path: Path, method: str, low_mb: int, high_mb: int) -> None:
    settings = compose("train", ["model=sd15", f"runs={tmp_path}", *f"method={method}".split(" ")])
    size, how = saving.checkpoint_size(DoctorContext(None, settings, None, tmp_path))
    assert low_mb < size / 1e6 < high_mb and how.startswith("estimated")


def test_a_method_of_one_pass_saves_nothing_on_its_way(tmp_path: Path) -> None:
    settings = compose("train", ["model=sd15", "method=aesthetic_gradients", f"runs={tmp_path}"])
    one = DoctorContext(None, settings, None, tmp_path)
    assert saving.checkpoint_size(one)[0] == 0
    (said,) = [found for found in saving.check_space(one) if found.topic == "space"]
    assert said.level == "ok" and "checkpoints" in said.what


def test_a_run_with_another_rank_says_nothing_of_this_ones_checkpoints(tmp_path: Path) -> None:
    history = History(tmp_path)
    words = ["model=sd15", "method=lora", f"runs={tmp_path}"]
    write_json(history.folder / "config.json", asdict(compose("train", [*words, "method.rank=64"])))
    checkpoint = history.folder / "checkpoints" / "000000000008"
    write_json(checkpoint / "COMMIT.json", {})
    for rank, how in ((64, f"a checkpoint of {history.folder.name}"), (4, "estimated from")):
        settings = compose("train", [*words, f"method.rank={rank}"])
        assert saving.checkpoint_size(DoctorContext(None, settings, None, tmp_path))[1].startswith(how)


def test_words_are_counted_by_the_species_of_the_shards(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards")
    words = ["model=sd15", "method=textual_inversion", "method.vectors=4", f"data.shards={shards}"]
    settings = compose("train", [*words, f"runs={tmp_path / 'runs'}"])
    size, _ = saving.checkpoint_size(DoctorContext(None, settings, None, tmp_path / "runs"))
    assert size == 16 * 4 * 768 * len(SPECIES)


def test_room_on_the_disk(tmp_path: Path) -> None:
    settings = compose("train", ["model=tiny"])
    assert levels(saving.check_space(DoctorContext(None, settings, None, tmp_path)))["space"] == "ok"
    settings.save.keep = 10**9
    found = saving.check_space(DoctorContext(None, settings, None, tmp_path))
    only([one for one in found if one.topic == "space"], "error", "x (1000000000 + 1)", "save.keep")


# -- all of it ------------------------------------------------------------------------------------------


def test_a_submitted_run_brings_its_site_and_settings(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.submitted(1, ["12"], nodes=3)
    one = DoctorContext(run=history.run)
    assert one.site is not None and (one.site.name, one.nodes) == ("uni", 3)
    assert one.training is not None and one.training.optim.total_samples == 12000
    assert one.root == tmp_path and one.place == history.folder
    by_hand = DoctorContext(run=History(tmp_path, "other-0123456789ab", job="prepare").run)
    assert by_hand.site is None and by_hand.training is None


def test_nothing_given_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor.diagnose(runs_root=tmp_path)
    assert doctor.exit_status(found) == 0
    assert {"python", "torch", "slurm", "runs folder", "space"} <= set(levels(found))


def test_the_text_has_columns_and_one_line_each() -> None:
    found = [
        Finding("slurm", "ok", "it\nanswers"),
        Finding("time limit", "warning", "close", "less"),
        Finding("gpus", "error", "none", "find some"),
    ]
    assert doctor.text(found).splitlines() == [
        "ok       slurm       it answers",
        "WARNING  time limit  close -> less",
        "ERROR    gpus        none -> find some",
        "1 ok, 1 warning, 1 error",
    ]
    assert json.loads(json.dumps([one.to_json() for one in found]))[2]["level"] == "error"
    assert doctor.exit_status(found) == 1 and doctor.exit_status(found[:2]) == 0


def test_a_check_that_fails_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(one: DoctorContext) -> Any:
        raise UserError("this broke", "it should not", "mend it")
        yield

    def unreadable(one: DoctorContext) -> Any:
        yield Finding("early", "ok", "seen")
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setattr(doctor, "CHECKS", (broken, unreadable, folders.check_runs_folder))
    found = doctor.diagnose(runs_root=tmp_path)
    assert (
        "this broke" in found[0].what
        and "it should not" in found[0].what
        and found[0].what_to_do == "mend it"
    )
    assert any("/secret" in one.what and one.level == "warning" for one in found)
    assert found[-1].topic == "clock"


def test_python_of_the_site(tmp_path: Path) -> None:
    from birdsd.checks.software import check_python

    mine = DoctorContext(replace(TESTBED, python=sys.executable))
    assert [one.level for one in check_python(mine)] == ["ok", "ok"]
    only(check_python(DoctorContext(replace(TESTBED, python="/nowhere/python"))), "error", "/nowhere/python")


def test_gpus_that_pytorch_cannot_use() -> None:
    """A PyTorch without CUDA is an error where a GPU was asked for, a warning where there might be one."""
    from importlib.metadata import version

    from birdsd.checks.software import check_torch

    if "+cpu" not in version("torch"):
        pytest.skip("PyTorch has CUDA here")
    assert levels(check_torch(DoctorContext(TESTBED)))["torch"] == "warning"
    asked = compose("train", ["machine.device=cuda"])
    only(
        [one for one in check_torch(DoctorContext(None, asked)) if one.topic == "torch"],
        "error",
        "machine.device=cuda",
    )
    assert levels(check_torch(DoctorContext(TESTBED, compose("train", ["machine=smoke"]))))["torch"] == "ok"


def test_it_imports_nothing_heavy() -> None:
    heavy = ["torch", "hydra", "scipy", "pandas", "diffusers", "transformers", "deepspeed", "huggingface_hub"]
    script = (
        "import sys\nfrom birdsd.checks import doctor\nfrom birdsd.schema import SiteConfig\n"
        "doctor.text(doctor.diagnose(SiteConfig(name='here', executor='local')))\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slurm
def test_the_real_cluster(testbed: object, tmp_path: Path) -> None:
    """The preset of the testbed is well there; what it cannot give is an error, of sbatch too."""
    site = compose("submit", ["site=testbed"]).site
    folder = foreign_set(tmp_path / "shards")
    settings = compose("train", ["model=tiny", f"data.shards={folder}"])
    found = doctor.diagnose(site, settings, None, tmp_path / "runs", nodes=2)
    worst = levels(found)
    assert {topic for topic, level in worst.items() if level == "error"} == set()
    assert {"slurm", "accounting", "partition", "account", "time limit", "nodes", "sbatch", "hand over",
            "preemption", "lead time", "runs folder", "space", "shards"} <= set(worst)  # fmt: skip
    assert worst["runs folder"] == "ok", "every node is this machine"
    bad = replace(site, time_limit_min=100_000, gpus_per_node=3, account="nobody")
    worst = levels(doctor.diagnose(bad, None, None, tmp_path))
    assert [worst[name] for name in ("time limit", "nodes", "account", "sbatch")] == ["error"] * 4
    unknown = levels(doctor.diagnose(replace(site, partition="nope"), None, None, tmp_path))
    assert unknown["partition"] == "error"


@pytest.mark.slurm
def test_a_database_or_a_controller_that_does_not_answer(
    testbed: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real programs with another port in their configuration: they find nobody there."""
    from birdsd.site import slurm

    place = Path(slurm.config()["SLURM_CONF"])
    shutil.copy(place.with_name("gres.conf"), tmp_path)
    text, conf = place.read_text(encoding="utf-8"), tmp_path / "slurm.conf"
    job = slurm.command(["sbatch", "--parsable", "--output=/dev/null", "--wrap=true"]).strip()
    monkeypatch.setenv("SLURM_CONF", str(conf))
    conf.write_text(re.sub("(AccountingStoragePort)=.*", r"\1=17999", text), encoding="utf-8")
    found = doctor.diagnose(TESTBED, None, None, tmp_path)
    only([one for one in found if one.topic == "accounting"], "warning", "Connection refused", "heartbeat")
    worst = levels(found)
    assert (worst["slurm"], worst["time limit"], worst["nodes"]) == ("ok", "ok", "ok")
    assert set(slurm.jobs([job, "60000000"])) == {job}
    conf.write_text(re.sub("(SlurmctldPort)=.*", r"\1=17998", text), encoding="utf-8")
    found = doctor.diagnose(TESTBED, None, None, tmp_path)
    only([one for one in found if one.topic == "slurm"], "error", "scontrol ping", "is DOWN")
    assert slurm.jobs(["60000000"]) == {}


def test_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old driver is named before PyTorch stumbles over it; nvidia-smi's answer is a stand-in's."""
    from birdsd.checks.software import _check_driver

    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nfor n in 1 2; do echo 'NVIDIA A100, 530.30.02, 81920 MiB'; done\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = _check_driver("12.4.127", "")
    assert found.level == "ok" and found.what == "2 x NVIDIA A100, 81920 MiB, driver 530.30.02"
    only(_check_driver("13.0.48", ""), "error", "needs driver 580")
    program.write_text("#!/bin/sh\necho 'No devices were found'; exit 6\n")
    assert list(_check_driver("12.4", "")) == []
    only(_check_driver("12.4", "machine.device=cuda"), "warning", "job on a GPU node")


@pytest.mark.parametrize("there", [True, False])
def test_the_judge_is_named_with_its_licence_or_with_how_to_install_it(there: bool, monkeypatch) -> None:
    from birdsd.checks import software
    from birdsd.evaluation.judges import birdnet

    monkeypatch.setattr(birdnet, "find_spec", lambda name: object() if there else None)
    words = ["CC BY-NC-SA 4.0"] if there else ["birdsd[birdnet]", "weak check"]
    only(software.check_judge(DoctorContext()), "ok", *words)
