"""The machine around a training: memory that runs out, pinned batches, machine=auto, generation."""

import numpy as np
import pytest
import torch
from PIL import Image

from birdsd.config import compose
from birdsd.runs.auto import chosen_device
from birdsd.shards.index import ShardIndex
from birdsd.training.devices.precision import choose_precision, occupy, release
from tests.gpu.card import saved, started, train_toy
from tests.support.toy import OddMethod, losses, toy_config

pytestmark = pytest.mark.gpu
SHORT = {"optim__total_samples": 60, "save__every_samples": 30, "save__validate_every_samples": 0}


class Hungry(OddMethod):
    """From the third step on more than two samples at once want more than there is: a real error of the
    allocator, in forward."""

    too_many_bytes = 0

    def build(self, device, dtype):
        parts = super().build(device, dtype)
        forward, calls = parts.learner.forward, []

        def hungry(batch):
            calls.append(None)
            if len(calls) > 6 and len(batch["clean"]) > 2 and torch.is_grad_enabled():
                torch.empty(self.too_many_bytes, dtype=torch.uint8, device=device)
            return forward(batch)

        parts.learner.forward = hungry
        return parts


class HungryBackward(OddMethod):
    """The same in backward, when half of the gradients are there."""

    too_many_bytes = 0

    def build(self, device, dtype):
        parts = super().build(device, dtype)
        size, calls = self.too_many_bytes, []

        class Spent(torch.autograd.Function):
            @staticmethod
            def forward(context, x):
                context.samples = len(x)
                return x.clone()

            @staticmethod
            def backward(context, gradient):
                calls.append(None)
                if len(calls) > 6 and context.samples > 2:
                    torch.empty(size, dtype=torch.uint8, device=gradient.device)
                return gradient

        inner = parts.learner.middle.forward
        parts.learner.middle.forward = lambda x: Spent.apply(inner(x))
        return parts


@pytest.mark.parametrize("machine", [{}, {"machine__offload_optimizer": True}], ids=["plain", "offloaded"])
@pytest.mark.parametrize("method", [Hungry, HungryBackward])
def test_a_step_that_does_not_fit_is_done_in_smaller_pieces(
    card, toy_shards, tmp_path, monkeypatch, method, machine
):
    monkeypatch.setattr(method, "too_many_bytes", card.too_many_bytes)
    changes = {"machine__device": card.device, "machine__micro_batch": 5, **SHORT, **machine}
    events = train_toy(toy_shards, tmp_path / "run", method=method, **changes)
    train_toy(toy_shards, tmp_path / "straight", **changes)
    (short,) = [event for event in events if event["event"] == "out of memory"]
    assert (short["before"], short["micro_batch"]) == (5, 2) and card.out_of_memory in short["reason"]
    found, expected = losses(tmp_path / "run"), losses(tmp_path / "straight")
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)
    ours, theirs = saved(tmp_path / "run", 60)[0], saved(tmp_path / "straight", 60)[0]
    for name, value in theirs.items():
        if name.startswith("weights/"):
            torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-4)


def test_a_limit_on_the_cards_memory_holds(card):
    """machine.max_gpu_memory_gib; a CPU has no such limit, and takes what it is asked for."""
    device, quarter = torch.device(card.device), 2**28
    release(device)
    taken_gib = torch.cuda.memory_reserved() / 2**30 if card.is_gpu else 0
    try:
        occupy(device, taken_gib + 0.5)
        held = torch.empty(quarter // 2, dtype=torch.uint8, device=device)
        if card.is_gpu:
            with pytest.raises(torch.OutOfMemoryError):
                torch.empty(2 * quarter, dtype=torch.uint8, device=device)
        assert held.device.type == card.device
    finally:
        if card.is_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)


def test_batches_are_pinned_for_a_card(card, toy_shards, tmp_path):
    from birdsd.training.batches.batches import global_batches
    from birdsd.training.devices.world import World
    from birdsd.training.loop import Trainer

    config, index = toy_config(machine__device=card.device), ShardIndex.open(toy_shards)
    method = OddMethod(config, index)
    trainer = Trainer(config, method, index, tmp_path, lambda: False, lambda event: None, World())
    parts = method.build(trainer.device, torch.float32)
    batches = global_batches(trainer._maker(parts), trainer.plan, 0, trainer.total, threads=1, ahead=2)
    examples = next(batches)
    batches.close()
    assert {tensor.is_pinned() for one in examples for tensor in one.tensors.values()} == {card.is_gpu}


def test_machine_auto_takes_the_card(card, capsys):
    config = compose("train", ["model=tiny", "machine=auto"])
    device = chosen_device(config.machine)
    assert device.type == card.device or (torch.cuda.is_available() and not card.is_gpu)
    precision = choose_precision("auto", torch.device(card.device))
    if card.is_gpu:
        major, _ = torch.cuda.get_device_capability()
        assert precision.name == ("bf16" if major >= 8 else "fp16")
    assert precision.name in ("fp32", "bf16", "fp16") and precision.reason


def test_a_plan_is_made_for_the_card(card, tmp_path, monkeypatch):
    """And is what machine=auto trains with; on a CPU nothing is planned."""
    from birdsd.planning.plan_training import with_chosen_machine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = ["model=tiny", "model.init=scratch", "method=full", f"machine.device={card.device}"]
    config = compose("train", ["machine=auto", *settings])
    chosen = with_chosen_machine(config)
    if card.is_gpu:
        assert chosen.machine.precision in ("bf16", "fp16") and chosen.machine.micro_batch >= 1
    else:
        assert chosen is config


def test_the_job_trains_on_the_card(card, shards, tmp_path, pipeline_folder):
    """`birdsd run train`, as a user types it, with machine=auto."""
    from birdsd.jobs_api import load_job
    from birdsd.training.records import read_metrics

    settings = [
        "model=tiny", "machine=auto", "method=lora", "model.init=pretrained",
        f"model.source={pipeline_folder}", f"data.shards={shards}",
        f"runs={tmp_path / 'runs'}", "optim.global_batch=4", "optim.total_samples=8",
        "optim.warmup_samples=4", f"machine.device={card.device}", "method.targets=[attention]",
    ]  # fmt: skip
    outcome = load_job("train")(compose("train", settings))
    assert outcome.exit_status == 0 and outcome.facts["finished"]
    (run,) = (tmp_path / "runs").iterdir()
    assert len([line for line in read_metrics(run) if line["kind"] == "train"]) == 2


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_clips_are_those_of_the_cpu(card, pipeline_folder, tmp_path, offload):
    from birdsd.jobs_api import load_job

    if offload != "none" and not card.is_gpu:
        pytest.skip("on a CPU there is nothing to move networks away from")
    pictures = []
    for device in ("cpu", card.device):
        out = tmp_path / f"clips-{len(pictures)}"
        settings = [
            f"run={pipeline_folder}", "prompt=an American Robin singing", "steps=3", f"out={out}", "seed=5",
            f"machine.device={device}", "machine.precision=fp32",
        ]  # fmt: skip
        more = [f"machine.offload_generation={offload}"] if device != "cpu" else []
        assert load_job("generate")(compose("generate", [*settings, *more])).exit_status == 0
        (picture,) = out.rglob("*.png")
        pictures.append(np.asarray(Image.open(picture)).astype(int))
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 2, "grey levels of 255"


def test_the_doctor_sees_the_card(card, capsys):
    from birdsd.cli.main import main

    main(["doctor", "--deep"])
    said = capsys.readouterr().out
    seen = torch.cuda.get_device_name(0) if card.is_gpu else "it can be imported"
    assert seen in said


def test_it_is_the_device_that_was_asked_for(card, toy_shards, tmp_path):
    told = started(train_toy(toy_shards, tmp_path, machine__device=card.device))
    assert told["device"].startswith(card.device) and told["precision"] == "fp32"
