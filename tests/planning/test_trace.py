"""The estimated memory of a step, against what a real step of the real trainer holds."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import pytest
import torch

from bench.methods import ADVERSARY, WAYS, Bench
from birdsd.diffusion.generation.aesthetics import AestheticSettings, personalise
from birdsd.diffusion.networks import models
from birdsd.errors import Unsupported
from birdsd.planning.live_tensors import LiveTensors
from birdsd.planning.memory_budget import Layout, budget, tensor_bytes
from birdsd.planning.trace import trace_encoding, trace_step
from birdsd.planning.trace_clips import trace_generation, trace_personalisation
from tests.support.errors import refuses

SETTINGS = {
    **WAYS,
    "scratch": [*WAYS["full"], "model.init=scratch"],
    "adversary": [*WAYS["autoencoder"], ADVERSARY],
    "clip": ["method=clip"],
    "recomputed": [*WAYS["full"], "machine.gradient_checkpointing=true"],
    "small pieces": [*WAYS["full"], "machine.micro_batch=4"],
    "uncached": [*WAYS["lora"], "machine.cache_latents=false"],
    "offloaded": [*WAYS["full"], "machine.offload_optimizer=true"],
    "8 bits": [*WAYS["full"], "machine.optimizer_bits=8"],
    "8 bits, offloaded": [*WAYS["full"], "machine.offload_optimizer=true", "machine.optimizer_bits=8"],
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), pairs=1, batch=8)


def source(bench: Bench, settings: list[str]) -> list[str]:
    """Where the model comes from, as `Bench.ours` has it."""
    if "model.init=scratch" in settings:
        return [f"model.autoencoder={bench.autoencoder}"]
    if "method=autoencoder" in settings:
        return []
    return ["model.init=pretrained", f"model.source={bench.base}"]


@pytest.mark.slow
@pytest.mark.parametrize("way", SETTINGS)
def test_the_peak_is_estimated_within_a_tenth(bench: Bench, way: str) -> None:
    if way.startswith("8 bits"):
        pytest.importorskip("bitsandbytes", reason="moments in 8 bits need bitsandbytes")
    settings = [*SETTINGS[way], *source(bench, SETTINGS[way])]
    live = LiveTensors()
    live.hold_all()
    before = live.bytes
    with live:
        steps = bench.steps(settings)
        next(steps)
        live.hold_all()
        gc.collect()
        live.restart_peak()
        next(steps)
        next(steps)
    measured = live.peak_bytes - before
    del steps
    gc.collect()
    config = bench.config(settings)
    micro_batch = min(config.machine.micro_batch, config.optim.global_batch)
    step = trace_step(config, bench.index.codec, micro_batch, flops=False)
    layout = Layout.of(config.machine, "fp32", micro_batch, 1, 1)
    estimated = tensor_bytes(budget(lambda *_: step, layout, average=bool(config.optim.ema_decay)))
    assert estimated == pytest.approx(measured, rel=0.1)


def test_nothing_is_allocated_or_looked_for(bench: Bench) -> None:
    """Stable Diffusion 1.5 as its preset says; its weights are not on this machine."""
    config = bench.config(["model=sd15", "method=lora", "machine.gradient_checkpointing=true"])
    codec = {**bench.index.codec, "bands": 64, "frames": 64}
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = trace_step(config, codec, 1, "bf16", flops=False)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 2**20, "a quarter of the UNet's weights"
    # 860 M parameters of the UNet in 16 bit; what the others make is on disk.
    assert step.frozen_bytes == pytest.approx(2 * 859.5e6, rel=0.01)
    config.machine.cache_latents = False  # 123 M of the text encoder and 84 M of the autoencoder in 32 bit
    uncached = trace_step(config, codec, 1, "bf16", flops=False)
    assert uncached.frozen_bytes == pytest.approx(2 * 859.5e6 + 4 * (123.1e6 + 83.65e6), rel=0.01)
    encoding = trace_encoding(config, codec, 1)
    assert encoding.vae_bytes == pytest.approx(4 * 83.65e6, rel=0.01)
    made = trace_generation(config, codec, 1, "bf16")
    assert made.unet_bytes == pytest.approx(2 * 859.5e6, rel=0.01) and made.flops_per_step > 0
    assert made.text_bytes == pytest.approx(4 * 123.1e6, rel=0.01)


def test_personalising_a_prompt_is_estimated_within_a_tenth(bench: Bench) -> None:
    config = bench.config(["method=full", *source(bench, [])])
    text, tokenizer = models.load_text(str(bench.base))
    width = text.config.hidden_size
    projection, embedding = torch.eye(width), torch.ones(1, width)
    live = LiveTensors()
    live.hold_all()
    before = live.bytes
    with live:
        personalise(text, tokenizer, projection, embedding, ["a bird"], AestheticSettings(steps=3))
    estimated = trace_personalisation(config, bench.index.codec)
    assert estimated == pytest.approx(live.peak_bytes - before, rel=0.1)


def test_flops_are_those_of_forward_and_backward(bench: Bench) -> None:
    config = bench.config(["method=full", *source(bench, [])])
    one, two = (trace_step(config, bench.index.codec, count) for count in (1, 2))
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    config.machine.gradient_checkpointing = True
    again = trace_step(config, bench.index.codec, 1)
    assert 1.1 < again.flops / one.flops < 4 / 3 + 0.01 and again.activations < one.activations


def test_a_method_that_trains_nothing_is_told_apart(bench: Bench) -> None:
    config = bench.config(["method=aesthetic_gradients", *source(bench, []), f"model.clip={bench.base}"])
    with refuses("method=aesthetic_gradients", "birdsd plan generate", kind=Unsupported):
        trace_step(config, bench.index.codec, 1)
    assert torch.get_default_dtype() == torch.float32


def test_modules_convert_as_ever_afterwards(bench: Bench, tmp_path: Path) -> None:
    trace_encoding(bench.config(["method=full", *source(bench, [])]), bench.index.codec, 1)
    layer = torch.nn.Linear(2, 2)
    weight = layer.weight
    assert layer.double().weight is weight and weight.dtype == torch.float64
