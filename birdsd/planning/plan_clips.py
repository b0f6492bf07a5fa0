"""`birdsd plan generate`: the memory that generation takes, for each way of placing the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from birdsd import config as configuration
from birdsd.format import size
from birdsd.planning.hardware import hardware
from birdsd.planning.plan_training import codec_for, precision_on, preset_in

if TYPE_CHECKING:
    from birdsd.diffusion.generation.request import Request
    from birdsd.planning.trace_clips import Generation
    from birdsd.schema import TrainConfig

# From fast to memory-saving.
_WAYS = ("none", "model", "sequential")
_LAYER_SHARE = 0.1  # about so much of the UNet is on the device at once, layer by layer


def plan_clips(
    settings: Sequence[str], gpu: str | None = None, site: str | None = None
) -> tuple[dict[str, Any], str]:
    """The facts and the text: bytes on the device during sampling and during decoding."""
    from birdsd.diffusion.adapters import chain
    from birdsd.diffusion.generation.request import Request
    from birdsd.diffusion.networks.placement import Placement
    from birdsd.planning.trace_clips import trace_generation, trace_personalisation
    from birdsd.runs.models.loading import open_adapter, recommended_sampling
    from birdsd.runs.models.places import model_place

    model = [text for text in settings if text.split("=", 1)[0].split(".")[0] == "model"]
    own = [text for text in settings if text not in model]
    request_config = configuration.compose("generate", own)
    run = model_place(request_config) if request_config.run else None
    on_top = [open_adapter(request_config, text) for text in request_config.add]
    if run is not None:  # of a LoRA or token the model underneath
        underneath, lower = chain(run)
        model, on_top = [*model, f"model.source={underneath}"], [*lower, *on_top]
    config = configuration.compose("train", [*(model or ["model=sd15"]), "method=full"])
    config.model.init = "pretrained"
    codec, notes = codec_for(config, run)
    preset = preset_in(own)
    known = configuration.compose("submit", [f"site={site}"]).site if site else None
    target = hardware(preset, gpu, known)
    if target.assumed:
        notes.append(target.assumed)
    if request_config.machine.vae_tiling:
        notes.append("the decoder is counted without machine.vae_tiling, which makes it smaller")
    precision = precision_on(target, request_config.machine)
    clips = min(int(request_config.batch_size), max(1, int(request_config.count)))
    sampled = Request.of(
        replace(request_config, prompt=request_config.prompt or ["a bird"]),
        recommended_sampling(request_config) if run is not None else advised(config),
    )
    generation = trace_generation(config, codec, clips, precision)
    if sampled.guide_weight is not None:
        notes.append("the weaker model (guide) is counted as large as the model itself")
        generation = replace(
            generation, unet_bytes=2 * generation.unet_bytes, text_bytes=2 * generation.text_bytes
        )
    tuning = trace_personalisation(config, codec)
    tunes = any(addition.kind == "aesthetic" for addition in on_top) and request_config.aesthetic_steps != 0
    takes = _device_bytes(generation, tuning if tunes else 0)
    room = target.gpu_bytes if target.card else target.host_bytes
    fitting = [way for way in _WAYS if takes[way] <= room]
    offload = Placement.of(request_config.machine).offload
    facts = {
        "job": "generate",
        "model": config.model.name,
        "hardware": {"described": target.described(), "gpu_bytes": target.gpu_bytes},
        "clips_at_once": clips,
        "precision": precision,
        "sampling": _sampling(sampled),
        "networks": {
            "unet": generation.unet_bytes,
            "vae": generation.vae_bytes,
            "text_encoder": generation.text_bytes,
        },
        "activations": {"unet": generation.unet_activations, "decoder": generation.decoder_activations},
        "personalisation": tuning,
        "personalises": tunes,
        "device_bytes": takes,
        "asked": offload,
        "fits": takes[offload] <= room,
        "fitting": fitting,
        "chosen": fitting[0] if fitting else None,
        "notes": notes,
    }
    return facts, "\n".join(_lines(facts, codec, generation))


def _lines(facts: dict[str, Any], codec: dict[str, Any], generation: Generation) -> list[str]:
    """The plan as text."""
    sampling = facts["sampling"]
    lines = [
        f"generate {facts['model']}: {facts['clips_at_once']} clip(s) at once, "
        f"{codec['bands']} x {codec['frames']} images, UNet in {facts['precision']}",
        f"with  {sampling['scheduler']}, {sampling['steps']} steps, guidance {sampling['guidance']:g}: "
        f"{sampling['network_passes']} UNet passes per clip",
        f"on    {facts['hardware']['described']}",
        *(f"note  {note}" for note in facts["notes"]),
        "",
        f"UNet {size(generation.unet_bytes)} and {size(generation.unet_activations)} while it samples; "
        f"text encoder {size(generation.text_bytes)}; "
        f"autoencoder {size(generation.vae_bytes)} and {size(generation.decoder_activations)} while decoding",
        f"aesthetic gradients: {size(facts['personalisation'])} beside the text encoder "
        "while a prompt is personalised" + ("" if facts["personalises"] else " (none is requested)"),
        "",
    ]
    for way, takes in facts["device_bytes"].items():
        sign = "fits" if way in facts["fitting"] else "does not fit"
        mark = "   <- as requested" if way == facts["asked"] else ""
        lines.append(f"machine.offload_generation={way:11} {size(takes):>10}  {sign}{mark}")
    if facts["fitting"]:
        lines += ["", f"the fastest that fits: machine.offload_generation={facts['chosen']}"]
    else:
        lines += [
            "",
            "NOTHING FITS: fewer clips at once (batch_size=1), machine.vae_tiling=true, a larger GPU",
        ]
    return lines


def advised(config: TrainConfig) -> dict[str, Any]:
    """The recommended sampling of a model that is not trained yet, from its preset."""
    from birdsd.diffusion.generation.recommended import checked_sampling

    advice = config.model.recommended.get("sampling")
    return checked_sampling(advice, "model.recommended.sampling") if advice else {}


def _sampling(request: Request) -> dict[str, Any]:
    """The sampling settings, and the number of UNet passes per clip: with guidance one more at each step
    of its interval, with autoguidance yet another."""
    from birdsd.diffusion.generation.sampling import make_scheduler
    from birdsd.diffusion.learning.denoiser import Denoising

    scheduler = make_scheduler(request.scheduler, Denoising().scheduler_config())
    scheduler.set_timesteps(request.steps)
    timesteps = scheduler.timesteps.tolist()[request.skipped_steps() * scheduler.order :]
    led = sum(request.led().active(timesteps))
    more = (request.guidance > 1) + (request.guide_weight not in (None, 1))
    names = ("scheduler", "steps", "guidance", "guidance_start", "guidance_end", "guidance_rescale")
    values = {name: getattr(request, name) for name in (*names, "guide_weight")}
    return {**values, "network_passes": len(timesteps) + more * led}


def _device_bytes(generation: Generation, tuning: int) -> dict[str, int]:
    """Peak bytes on the device for each way of placing the networks; `tuning`: bytes of aesthetic
    gradients."""
    text, decoding = generation.text_bytes + tuning, generation.vae_bytes + generation.decoder_activations
    others = generation.vae_bytes + generation.text_bytes
    busiest = max(tuning, generation.unet_activations, generation.decoder_activations)
    layers = int(_LAYER_SHARE * generation.unet_bytes) + generation.unet_activations
    return {
        "none": generation.unet_bytes + others + busiest,
        "model": max(text, generation.unet_bytes + generation.unet_activations, decoding),
        "sequential": max(text, layers, decoding),
    }
