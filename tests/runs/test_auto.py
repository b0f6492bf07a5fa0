"""machine=auto, which every job starts from: the GPU where there is one, else what machine=smoke is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from birdsd import schema
from birdsd.cli import main
from birdsd.config import compose, keys
from birdsd.planning import plan_training as planning
from birdsd.planning.hardware import GIB, Hardware, card_called
from birdsd.planning.plan_training import make_plan, plan_training, with_chosen_machine
from birdsd.planning.trace import Step
from birdsd.runs import auto
from birdsd.studies.study import machine_settings
from tests.support.remarks import codes
from tests.support.tiny import make_shards

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens where there is no GPU")
SHORT = [
    "model=tiny", "method=autoencoder", "optim.total_samples=8", "optim.global_batch=4", "machine.threads=1",
    "save.every_samples=8", "save.validate_every_samples=8", "save.validation_samples=2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh() -> None:
    """A line is said once in a process; each test is a process of its own to it."""
    auto.say.cache_clear()


def test_every_job_starts_from_auto() -> None:
    for job, kind in schema.JOBS.items():
        if any(key.startswith("machine.") for key, _ in keys(kind)):
            assert compose(job).machine.name == "auto", job
    assert compose("demo").machine == "auto"


@pytest.mark.parametrize("job", ["prepare", "cache", "train", "generate", "grid", "methods", "four_ways"])
def test_on_a_cpu_it_is_what_smoke_is(job: str) -> None:
    """But for the device and the precision, which it leaves open, and which come to smoke's on a CPU."""
    by_auto, by_smoke = (asdict(compose(job, [f"machine={name}"]).machine) for name in ("auto", "smoke"))
    differing = {key for key in by_auto if by_auto[key] != by_smoke[key]}
    assert differing == {"name", "device", "precision"}
    assert (by_auto["device"], by_auto["precision"]) == ("auto", "auto")


@WITHOUT_GPU
def test_the_same_weights_to_the_bit_without_planning_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned(*_: object, **__: object) -> None:
        raise AssertionError("on a CPU nothing is planned")

    monkeypatch.setattr(planning, "plan_training", planned)
    shards = make_shards(tmp_path / "shards")
    runs = {}
    for name, settings in (("auto", []), ("smoke", ["machine=smoke"])):
        words = [*SHORT, f"data.shards={shards}", f"runs={tmp_path / name}", *settings]
        assert main.main(["run", "train", *words, "--json"]) == 0
        said = capsys.readouterr()
        runs[name] = json.loads(said.out)
        lines = [line for line in said.err.splitlines() if "machine=auto" in line]
        assert len(lines) == (1 if name == "auto" else 0)
        if lines:
            assert "the CPU (" in lines[0] and "fp32" in lines[0] and "no GPU" in lines[0]
    assert runs["auto"]["signature"] == runs["smoke"]["signature"]
    exported = [
        {
            path.name: load_file(path)
            for path in sorted((Path(runs[n]["run"]) / "export").rglob("*.safetensors"))
        }
        for n in ("auto", "smoke")
    ]
    assert exported[0] and exported[0].keys() == exported[1].keys()
    for name, tensors in exported[0].items():
        for key, value in tensors.items():
            assert torch.equal(value, exported[1][name][key]), (name, key)


@WITHOUT_GPU
def test_why_a_cpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPUs that are paid for and not seen are no reason to be silent."""
    machine, cpu = compose("train").machine, torch.device("cpu")
    monkeypatch.setattr(auto, "gpu_devices", lambda: 0)
    for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    assert codes([auto.described(machine, cpu)]) == ["no-gpu"]
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    assert codes([auto.described(machine, cpu)]) == ["gpus-of-slurm-unseen"]
    monkeypatch.setattr(torch.version, "cuda", None)
    assert codes([auto.described(machine, cpu)]) == ["no-cuda"]
    asked_for = auto.described(compose("train", ["machine.device=cpu"]).machine, cpu)
    assert codes([asked_for]) == ["cpu-asked-for"] and "machine.device=cpu" in asked_for


def test_one_rank_of_a_run_speaks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    auto.say("of rank 1")
    monkeypatch.setenv("RANK", "0")
    auto.say("of rank 0"), auto.say("of rank 0")
    assert capsys.readouterr().err == "birdsd: of rank 0\n"


# -- where there is a GPU -----------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 860 million parameters, as Stable Diffusion's UNet, without tracing one."""

    def trace(micro_batch: int, precision: str, checkpointing: bool, low: bool) -> Step:
        activations = (1 if checkpointing else 4) * micro_batch * GIB // 2
        return Step(micro_batch, 860_000_000, 0, activations, 10**12 * micro_batch)

    monkeypatch.setattr(planning, "_tracer", lambda config, codec: trace)
    monkeypatch.setattr(planning, "_encoding", lambda config, codec: None)


def chosen(monkeypatch: pytest.MonkeyPatch, there: Hardware, *settings: str) -> schema.MachineConfig:
    monkeypatch.setattr(planning, "hardware", lambda *_, **__: there)
    return with_chosen_machine(compose("train", ["model=sd15", "method=full", *settings])).machine


def on(gpu: str, count: int = 1) -> Hardware:
    return Hardware(card_called(gpu), count, 1, 512 * GIB)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("micro_batch", 2), ("gradient_checkpointing", False), ("offload_optimizer", True),
        ("precision", "fp16"), ("save_in_background", False),
    ],
)  # fmt: skip
def test_what_the_user_set_is_kept(
    monkeypatch: pytest.MonkeyPatch, large: None, setting: str, value: object
) -> None:
    """The plan chooses the rest, also where the value is what the preset says."""
    free = chosen(monkeypatch, on("80GB"))
    assert getattr(free, setting) != value, "else this test shows nothing"
    machine = chosen(monkeypatch, on("80GB"), f"machine.{setting}={str(value).lower()}")
    assert getattr(machine, setting) == value and machine.name == "auto"
    thirty_two = chosen(monkeypatch, on("80GB"), "machine.micro_batch=32", "optim.global_batch=64")
    assert thirty_two.micro_batch == 32


def test_an_engine_that_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch, large: None) -> None:
    monkeypatch.setattr(planning, "find_spec", lambda name: object())
    assert chosen(monkeypatch, on("24GB", 4)).engine == "torch"
    asked = chosen(monkeypatch, on("24GB", 4), "machine.engine=deepspeed", "machine.zero_stage=3")
    assert (asked.engine, asked.zero_stage) == ("deepspeed", 3)
    assert chosen(monkeypatch, on("16GB", 4)).engine == "deepspeed"


def test_deepspeed_is_not_chosen_where_it_is_not_installed(large: None) -> None:
    config = compose("train", ["model=sd15", "method=full"])
    made = plan_training(config, {"bands": 512}, on("16GB", 4), [], deepspeed=False)
    assert made.chosen is None and not any(one.layout.sharded for one in made.tried)


def test_methods_that_train_nothing_are_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "hardware", lambda *_, **__: on("8GB"))
    config = compose("train", ["method=aesthetic_gradients"])
    assert with_chosen_machine(config) is config


def test_a_plan_for_a_gpu_shows_what_auto_takes(large: None) -> None:
    made = make_plan(["model=sd15", "method=full"], gpu="24GB")
    assert made.config.machine.name == "auto" and made.chosen is not None
    assert made.asked == made.chosen


def test_an_experiment_leaves_the_choice_to_its_steps() -> None:
    asked = compose("methods", ["machine.threads=1", "machine.device=auto"])
    assert sorted(machine_settings(asked.machine)) == [
        "machine.device=auto", "machine.threads=1", "machine=auto",
    ]  # fmt: skip
    other = compose("methods", ["machine=smoke", "machine.micro_batch=4"]).machine
    assert machine_settings(other) == ["machine=smoke", "machine.micro_batch=4"]
    unnamed = machine_settings(schema.MachineConfig(name="of a file", micro_batch=4))
    assert "machine.micro_batch=4" in unnamed and "machine.device=auto" in unnamed


def test_a_training_on_a_gpu_says_what_it_took(
    monkeypatch: pytest.MonkeyPatch, large: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a GPU in name only, as this test must run without one: the plan's choice, in one line."""
    from birdsd.jobs import train

    facts = SimpleNamespace(name="NVIDIA H100", total_memory=80 * GIB)
    monkeypatch.setattr("birdsd.training.devices.precision.choose_device", lambda *_: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: facts.name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(planning, "hardware", lambda *_, **__: on("80GB"))
    config = compose("train", ["model=sd15", "method=full", "machine.micro_batch=4"])
    machine = train._on_this_machine(config).machine
    assert (machine.engine, machine.precision, machine.micro_batch) == ("torch", "bf16", 4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("birdsd: machine=auto: NVIDIA H100 (80 GiB), bf16; engine=torch micro_batch=4")
    own = compose("train", ["machine=notebook"])
    assert train._on_this_machine(own) is own and not capsys.readouterr().err
