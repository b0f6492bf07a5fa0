"""Plans: the estimated memory, and what is chosen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from birdsd.cli import main
from birdsd.cli.plan import facts_of, plan, text_of
from birdsd.config import compose
from birdsd.errors import BadValue, UnknownName, Unsupported, UserError
from birdsd.planning import plan_training as planning
from birdsd.planning.hardware import GIB, Hardware, card_called, hardware
from birdsd.planning.memory_budget import Layout, budget
from birdsd.planning.plan_training import make_plan, plan_training, with_chosen_machine
from birdsd.planning.trace import Step
from tests.support.errors import refuses

TINY = ["model=tiny", "method=full", "model.init=scratch", "optim.total_samples=1000"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces of something like Stable Diffusion 1.5's UNet, in no time."""

    def trace(micro_batch: int, precision: str, checkpointing: bool, low: bool) -> Step:
        each = (GIB // 4 if checkpointing else 2 * GIB) * micro_batch
        flops = micro_batch * 2_500_000_000_000 * (4 if checkpointing else 3) // 3
        return Step(micro_batch, 860_000_000, 0, each + GIB // 4, flops)

    monkeypatch.setattr(planning, "_tracer", lambda config, codec: trace)


def on(gpu: str, count: int = 1, nodes: int = 1, host_gib: int = 512) -> Hardware:
    return Hardware(card_called(gpu), count, nodes, host_gib * GIB)


def choose(there: Hardware, *settings: str) -> planning.Plan:
    config = compose("train", ["model=sd15", "method=full", "machine=notebook", *settings])
    return plan_training(config, {"bands": 512, "frames": 512}, there, [])


# -- sums -------------------------------------------------------------------------------------------------


def test_bytes_add_up_by_hand() -> None:
    step = Step(1, 1_000_000, 500, 7_000, 1)
    whole = budget(lambda *_: step, Layout(), average=True)
    assert whole.gpu_bytes == 20 * 1_000_000 + 7_500
    assert budget(lambda *_: step, Layout(), average=False).gpu_bytes == 16 * 1_000_000 + 7_500
    four = Layout("deepspeed", 2, precision="bf16", gpus=4, gpus_per_node=4)
    dealt = budget(lambda *_: step, four, average=True)
    # Weights whole, a quarter of gradients, masters, moments and average, and a bucket.
    assert dealt.gpu_bytes == (2 + (2 + 12 + 4) / 4 + 2) * 1_000_000 + 7_500
    everything = budget(lambda *_: step, Layout("deepspeed", 2, True, precision="bf16"), average=True)
    assert everything.gpu["optimizer"] == everything.gpu["average (EMA)"] == 0
    assert everything.host["offloaded states"] == pytest.approx((16 + 6.6) * 1_000_000)
    packed = budget(lambda *_: step, Layout(optimizer_bits=8), average=True)
    moments = int((2 + 2 * 4 / 256) * 1_000_000)
    assert packed.gpu["optimizer"] == moments
    assert packed.gpu["buffers"] == 8 * 1_000_000 - 7_000  # unpacked, when the activations are gone
    plain = Layout(offload_optimizer=True, optimizer_bits=8, precision="bf16", save_in_background=False)
    frugal = budget(lambda *_: replace(step, largest=1_000), plain, average=True)
    assert frugal.gpu_bytes == 2 * 1_000_000 + 2 * 1_000 + 7_500  # weights, and a layer's gradient
    assert frugal.host["offloaded states"] == (12 + 8) * 1_000_000 + moments
    assert frugal.host["copy for saves"] == 16 * 1_000_000 and not plain.sharded and plain.low_precision
    million = budget(lambda *_: Step(1, 860_000_000, 0, 0, 1), plain, average=True)
    assert million.host["copy for saves"] == 64 * 2**20
    on_cpu = budget(lambda *_: step, Layout(), average=True, on_cpu=True)
    assert not on_cpu.gpu and on_cpu.host_bytes > 20 * 1_000_000


def test_what_an_engine_would_not_do_is_not_planned(large: None) -> None:
    settings = ["machine.engine=deepspeed", "machine.zero_stage=0", "machine.offload_optimizer=true"]
    assert not Layout.of(compose("train", settings).machine, "bf16", 1, 1, 1).offload_optimizer
    several = choose(on("80GB", count=2), "machine.offload_optimizer=true")
    assert not several.asked.fits and "one process" in several.asked.lacks


def test_larger_pieces_grow_in_proportion() -> None:
    def trace(count: int, *_: object) -> Step:
        return Step(count, 10, 0, 100 + 7 * count, 5 * count)

    made = budget(trace, Layout(micro_batch=8), average=False)
    assert made.step.activations == 100 + 7 * 8 and made.step.flops == 40


# -- the choice -------------------------------------------------------------------------------------------


def test_what_fits_is_chosen_from_fast_to_frugal(large: None) -> None:
    roomy = choose(on("80GB"))
    assert roomy.chosen is not None and roomy.chosen.layout.engine == "torch"
    assert not roomy.chosen.layout.checkpointing and roomy.chosen.layout.micro_batch == 16
    tighter = choose(on("24GB"))
    assert tighter.chosen is not None and tighter.chosen.layout.engine == "torch"
    assert tighter.chosen.budget.gpu_bytes <= 23.5 * GIB
    shared = choose(on("16GB", count=4))
    assert shared.chosen is not None and shared.chosen.layout.sharded
    assert not shared.chosen.layout.offload_optimizer
    small = choose(on("8GB", host_gib=64))
    assert small.chosen is not None and small.chosen.layout.offload_optimizer
    assert small.chosen.layout.checkpointing
    assert not small.chosen.layout.sharded and small.chosen.layout.save_in_background
    frugal = choose(on("4GB", host_gib=16))
    assert frugal.chosen is not None and frugal.chosen.layout.optimizer_bits == 8
    assert not frugal.chosen.layout.save_in_background
    assert frugal.chosen.budget.gpu_bytes < 3.5 * GIB and frugal.chosen.budget.host_bytes < 13.5 * GIB
    nowhere = choose(on("4GB", host_gib=12))
    assert nowhere.chosen is None
    assert any("host's 12 GiB" in choice.lacks for choice in nowhere.tried)


def test_one_says_where_the_bytes_go(large: None) -> None:
    text = text_of(choose(on("4GB", host_gib=12)))
    assert "NOTHING FITS" in text and "offloaded states" in text and "method=lora" in text
    text = text_of(choose(on("8GB", host_gib=64)))
    assert "machine.offload_optimizer=true" in text and "of 7.5 GiB" in text


def test_a_global_batch_is_cut_for_the_ranks(large: None) -> None:
    made = choose(on("80GB", count=4, nodes=2), "optim.global_batch=32")
    assert made.chosen is not None
    layout = made.chosen.layout
    assert layout.gpus == 8 and layout.micro_batch <= 4
    facts = facts_of(made)
    assert facts["chosen"]["accumulation"] * layout.micro_batch * 8 == 32
    assert facts["chosen"]["estimate"]["gpu_hours"] == pytest.approx(8 * facts["chosen"]["estimate"]["hours"])


# -- hardware ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "gib", "bf16"),
    [("4GB", 4, True), ("80 GB", 80, True), ("NVIDIA H100 80GB HBM3", 80, True), ("tesla t4", 16, False)],
)
def test_cards_by_name_and_by_size(said: str, gib: float, bf16: bool) -> None:
    card = card_called(said)
    assert (card.gib, card.bf16) == (gib, bf16)


def test_a_card_that_nobody_knows(capsys: pytest.CaptureFixture[str]) -> None:
    with refuses("--gpu Voodoo2", kind=UnknownName):
        card_called("Voodoo2")
    with refuses("--gpu 0GB", "--gpu 8GB", kind=BadValue):
        card_called("0GB")
    assert main.main(["plan", "trian"]) == 2 and "'trian'" in capsys.readouterr().err


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("there", [on("T4"), on("V100", 4)], ids=["one", "four"])
def test_with_muon_nothing_is_chosen_that_it_cannot_do(there: Hardware) -> None:
    seen = choose(there, "optim.optimizer=muon").tried
    assert seen and all(not one.layout.sharded and one.layout.optimizer_bits == 32 for one in seen)
    usual = choose(there).tried
    assert any(one.layout.sharded or one.layout.optimizer_bits == 8 for one in usual), "or this shows nothing"


def test_what_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birdsd.planning.hardware.own_card", lambda: None)
    assert hardware("smoke").card is None
    meant = hardware("laptop-4gb")
    assert meant.card is not None and meant.card.gib == 4 and "no GPU here" in meant.assumed
    other = hardware("cluster", gpu="H100", nodes=4)
    assert (other.ranks, other.host_bytes) == (16, 512 * GIB) and "machine=cluster" in other.assumed
    assert hardware("notebook", gpu="8GB").assumed == ""
    site = SimpleNamespace(time_limit_min=90, gpus_per_node=2, memory_gb_per_node=100.0, gpu_type="A100")
    there = hardware("cluster", site=site, nodes=3)  # type: ignore[arg-type]
    assert (there.ranks, there.time_limit_min, there.host_bytes) == (6, 90, int(100e9))
    monkeypatch.setattr("birdsd.planning.hardware.own_card", lambda: (card_called("24GB"), 2))
    assert hardware("laptop-4gb").card == card_called("24GB")


# -- the commands -----------------------------------------------------------------------------------------


def test_tiny_is_planned_for_this_machine(capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    assert main.main(["plan", "train", *TINY, "machine=smoke", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["chosen"]["fits"] and facts["hardware"]["gpus"] == 0
    assert facts["parameters"] == pytest.approx(9.11e6, rel=0.02)
    assert any("no shards" in note for note in facts["notes"])
    kept = list(cache.rglob("*.json"))
    assert kept, "traces are kept"
    for path in kept:
        path.write_text("{broken")
    again, text = plan("train", [*TINY, "machine=smoke"])
    assert again == facts and "trainable parameters" in text


def test_clips_are_planned(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["model=tiny", "machine=laptop-4gb", "--gpu", "4GB"]
    assert main.main(["plan", "generate", *settings, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    takes = facts["device_bytes"]
    assert takes["none"] > takes["model"] >= takes["sequential"] and facts["chosen"] == "none"
    assert facts["asked"] == "model" and facts["fits"]


def test_a_run_that_is_not_there_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "generate", "run=/not/there"]) == 2
    assert "/not/there" in capsys.readouterr().err


def test_a_cpu_is_not_judged_by_the_peak_of_a_gpu(large: None) -> None:
    text = text_of(choose(Hardware(None, 1, 1, 512 * GIB)))
    assert "EPYC" in text and "% MFU" not in text


def test_auto_is_the_choice(monkeypatch: pytest.MonkeyPatch, large: None) -> None:
    config = compose("train", ["model=sd15", "method=full", "machine=auto"])
    monkeypatch.setattr(planning, "hardware", lambda *_, **__: on("8GB", host_gib=64))
    machine = with_chosen_machine(config).machine
    assert machine.name == "auto" and machine.engine == "torch" and machine.offload_optimizer
    monkeypatch.setattr(planning, "hardware", lambda *_, **__: on("4GB", host_gib=16))
    monkeypatch.setattr(planning, "find_spec", lambda name: object())
    machine = with_chosen_machine(config).machine
    assert machine.optimizer_bits == 8 and not machine.save_in_background
    monkeypatch.setattr(planning, "find_spec", lambda name: None)  # bitsandbytes is not installed
    with refuses(("machine=auto", "RTX 3050 Ti"), "lora", kind=Unsupported):
        with_chosen_machine(config)
    other = compose("train", ["model=sd15", "machine=smoke"])
    assert with_chosen_machine(other) is other


def test_nodes_are_settings_of_submit(large: None) -> None:
    made = make_plan(["model=sd15", "method=full", "machine=cluster", "nodes=4"])
    assert made.there.nodes == 4 and made.there.ranks == 16
    assert "4 x 4 x A100" in text_of(made)


@pytest.mark.parametrize(
    ("setting", "named", "kind"),
    [
        ("machine.precision=fp17", "machine.precision 'fp17'", UnknownName),
        ("machine.micro_batch=-1", "machine.micro_batch is -1", BadValue),
        ("machine.engine=horovod", "machine.engine 'horovod'", UnknownName),
        ("nodes=0", "nodes=0", BadValue),
        ("tasks_per_node=-1", "tasks_per_node=-1", BadValue),
    ],
)
def test_settings_that_cannot_run_are_no_plan(
    large: None, setting: str, named: str, kind: type[UserError]
) -> None:
    with refuses(named, kind=kind):
        make_plan(["model=sd15", setting], gpu="8GB")


def test_shards_that_are_not_there_yet_are_named(large: None) -> None:
    made = make_plan(["model=sd15", "data.shards=/not/there"], gpu="8GB")
    assert any("/not/there" in note for note in made.notes)
