"""Stage 3: Stable Diffusion 1.5 at 512 x 512 by every method, predicted by the plan and measured; what fits
under the limit of a 4 GB card runs under it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench.gpu_check.course import Item
from bench.gpu_check.place import Place, Ruler
from bench.gpu_check.settings import Settings
from bench.methods import WAYS
from birdsd.planning.memory_budget import Layout, budget, tensor_bytes
from birdsd.planning.trace import trace_step
from birdsd.training.devices.precision import choose_precision, occupy

MIB, GIB = 2**20, 2**30
_PACKED = find_spec("bitsandbytes") is not None
OFFLOADED = "full, offloaded"
METHODS = {
    **WAYS,
    "clip": ["method=clip"],
    "upscaler": ["method=upscaler"],
    "classifier": ["method=classifier"],
    OFFLOADED: [
        "method=full",
        "machine.offload_optimizer=true",
        f"machine.optimizer_bits={8 if _PACKED else 32}",
    ],
}
FROM_SCRATCH = ("method=autoencoder", "method=upscaler", "method=classifier")
# In order of worth: the promise is lora and full on 4 GB.
ORDER = (
    "lora", OFFLOADED, "textual_inversion", "dreambooth on lora", "full", "autoencoder", "clip",
    "dreambooth on full", "upscaler", "classifier",
)  # fmt: skip
ITEMS = (Item("model"), *(Item(way) for way in ORDER), Item("generation"))
REHEARSED = ("model", "lora", OFFLOADED, "autoencoder", "generation")
LAPTOP = ("machine=laptop-4gb", "machine.save_in_background=false")
STEPS = 4
NEAR = 0.10  # what the plan promises


def run(item: str, settings: Settings, limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for a method, or for each way of placing the networks of a generation."""
    if item == "model":
        yield _model(settings)
    elif item == "generation":
        yield from _generation(settings)
    else:
        yield training(item, settings)


def _model(settings: Settings) -> dict[str, Any]:
    start = time.perf_counter()
    place = Place(settings, LAPTOP)
    size = sum(path.stat().st_size for path in place.base.rglob("*.safetensors"))
    return {
        "table": "model",
        "what": settings.model,
        "GiB": size / GIB,
        "seconds": time.perf_counter() - start,
    }


def training(way: str, settings: Settings) -> dict[str, Any]:
    """Bytes on the device at the most in a step, predicted and measured."""
    place, own = Place(settings, (*LAPTOP, "machine.micro_batch=1")), _settings(METHODS[way])
    if own[0] not in FROM_SCRATCH:
        own += ["model.init=pretrained", f"model.source={place.base}"]
    config = place.config([*own, "optim.global_batch=1"])
    precision = choose_precision("auto", place.device).name
    layout = Layout.of(config.machine, precision, 1, 1, 1)
    step = trace_step(
        config, place.index.codec, 1, precision, low_precision_weights=layout.low_precision, flops=False
    )
    made = budget(lambda *_: step, layout, average=bool(config.optim.ema_decay))
    predicted = tensor_bytes(made) if settings.cpu else made.gpu_bytes
    capped = not settings.cpu and predicted < settings.cap_gib * GIB
    if capped:
        occupy(place.device, settings.cap_gib)
    with Ruler(settings) as ruler, closing(place.steps([*own, "optim.global_batch=1"])) as steps:
        next(steps)  # with it the caches are made
        held = ruler.restart()
        seconds = min(islice(steps, STEPS))
        peak = ruler.peak()
    row = {
        "table": f"{settings.model}, one sample at a time, activations recomputed, {precision}",
        "predicted, MiB": predicted / MIB,
        "measured, MiB": peak / MIB,
        "predicted / measured": predicted / peak,
        "within a tenth": _near(predicted, peak),
        "between steps, MiB": held / MIB,
        "limit, GiB": settings.cap_gib if capped else None,
        "s a step": seconds,
        "largest": made.largest(),
        **{f"plan: {name}": size / MIB for name, size in made.gpu.items() if size},
    }
    if not settings.cpu:
        row["reserved / allocated"] = torch.cuda.max_memory_reserved() / peak
    return row


def _settings(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("optim.global_batch")]


def _near(predicted: float, measured: float) -> str:
    return "yes" if abs(predicted / measured - 1) <= NEAR else "NO"


def _generation(settings: Settings) -> Iterator[dict[str, Any]]:
    """Of a clip, by where its networks are."""
    from birdsd.config import compose
    from birdsd.jobs_api import load_job
    from birdsd.planning.plan_clips import plan_clips

    place = Place(settings, LAPTOP)
    for way in ("none",) if settings.cpu else ("model", "none", "sequential"):
        out = place.folder / f"clips-{way}"
        words = [
            "machine=laptop-4gb", f"machine.device={settings.device}", f"run={place.base}", "prompt=a bird",
            f"machine.offload_generation={way}", "steps=2", f"out={out}",
            f"machine.precision={'fp32' if settings.cpu else 'auto'}",
        ]  # fmt: skip
        facts, _ = plan_clips([word for word in words if not word.startswith("out=")])
        predicted = facts["device_bytes"][way]
        capped = not settings.cpu and predicted < settings.cap_gib * GIB
        if not settings.cpu:
            occupy(place.device, settings.cap_gib if capped else 1e9)
        with Ruler(settings) as ruler:
            ruler.restart()
            began = time.perf_counter()
            status = load_job("generate")(compose("generate", words)).exit_status
            peak = ruler.peak()
        yield {
            "table": f"{settings.model}, generating a clip, {facts['precision']}",
            "way": f"offload_generation={way}",
            "predicted, MiB": predicted / MIB,
            "measured, MiB": peak / MIB,
            "predicted / measured": predicted / peak,
            "within a tenth": _near(predicted, peak),
            "limit, GiB": settings.cap_gib if capped else None,
            "seconds": time.perf_counter() - began,
            "clips": len(list(Path(out).rglob("*.wav"))) if status == 0 else 0,
        }
