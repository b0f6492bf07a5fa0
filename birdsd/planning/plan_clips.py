"""`birdsd plan generate`: what making clips takes, for each way of placing the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from birdsd import config as configuration
from birdsd.planning.hardware import GIB, hardware
from birdsd.planning.plan_training import codec_for, precision_on, preset_in

if TYPE_CHECKING:
    from birdsd.diffusion.generation.request import Request
    from birdsd.planning.trace_clips import Generation
    from birdsd.schema import TrainConfig

# From fast to frugal.
_WAYS = ("none", "model", "sequential")
_LAYER_SHARE = 0.1  # about so much of the UNet is on the device at once, layer by layer


def plan_clips(
    settings: Sequence[str], gpu: str | None = None, site: str | None = None
) -> tuple[dict[str, Any], str]:
    """The facts and the text: bytes on the device while the UNet samples and while the decoder works."""
    from birdsd.diffusion.adapters import chain
    from birdsd.diffusion.generation.request import Request
    from birdsd.diffusion.networks.placement import Placement
    from birdsd.planning.trace_clips import trace_generation, trace_personalisation
    from birdsd.runs.models.loading import open_adapter, recommended_sampling
    from birdsd.runs.models.places import model_place

    model = [text for text in settings if text.split("=", 1)[0].split(".")[0] == "model"]
    own = [text for text in settings if text not in model]
    asked = configuration.compose("generate", own)
    run = model_place(asked) if asked.run else None
    on_top = [open_adapter(asked, text) for text in asked.add]
    if run is not None:  # of a LoRA or token the model underneath
        underneath, held = chain(run)
        model, on_top = [*model, f"model.source={underneath}"], [*held, *on_top]
    config = configuration.compose("train", [*(model or ["model=sd15"]), "method=full"])
    config.model.init = "pretrained"
    codec, notes = codec_for(config, run)
    preset = preset_in(own)
    known = configuration.compose("submit", [f"site={site}"]).site if site else None
    there = hardware(preset, gpu, known)
    if there.assumed:
        notes.append(there.assumed)
    if asked.machine.vae_tiling:
        notes.append("the decoder is counted without machine.vae_tiling, which makes it smaller")
    precision = precision_on(there, asked.machine)
    clips = min(int(asked.batch_size), max(1, int(asked.count)))
    sampled = Request.of(
        replace(asked, prompt=asked.prompt or ["a bird"]),
        recommended_sampling(asked) if run is not None else advised(config),
    )
    made = trace_generation(config, codec, clips, precision)
    if sampled.guide_weight is not None:
        notes.append("the weaker model (guide) is counted as large as the model itself")
        made = replace(made, unet_bytes=2 * made.unet_bytes, text_bytes=2 * made.text_bytes)
    tuning = trace_personalisation(config, codec)
    tunes = any(one.kind == "aesthetic" for one in on_top) and asked.aesthetic_steps != 0
    takes = _device_bytes(made, tuning if tunes else 0)
    room = there.gpu_bytes if there.card else there.host_bytes
    fitting = [way for way in _WAYS if takes[way] <= room]
    told = Placement.of(asked.machine).offload
    facts = {
        "job": "generate",
        "model": config.model.name,
        "hardware": {"described": there.described(), "gpu_bytes": there.gpu_bytes},
        "clips_at_once": clips,
        "precision": precision,
        "sampling": _sampling(sampled),
        "networks": {"unet": made.unet_bytes, "vae": made.vae_bytes, "text_encoder": made.text_bytes},
        "activations": {"unet": made.unet_activations, "decoder": made.decoder_activations},
        "personalisation": tuning,
        "personalises": tunes,
        "device_bytes": takes,
        "asked": told,
        "fits": takes[told] <= room,
        "fitting": fitting,
        "chosen": fitting[0] if fitting else None,
        "notes": notes,
    }
    return facts, "\n".join(_lines(facts, codec, made))


def _lines(facts: dict[str, Any], codec: dict[str, Any], made: Generation) -> list[str]:
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
        f"UNet {_gib(made.unet_bytes)} and {_gib(made.unet_activations)} while it samples; "
        f"text encoder {_gib(made.text_bytes)}; "
        f"autoencoder {_gib(made.vae_bytes)} and {_gib(made.decoder_activations)} while it decodes",
        f"aesthetic gradients: {_gib(facts['personalisation'])} beside the text encoder "
        "while a prompt is personalised" + ("" if facts["personalises"] else " (none is requested)"),
        "",
    ]
    for way, takes in facts["device_bytes"].items():
        sign = "fits" if way in facts["fitting"] else "does not fit"
        mark = "   <- as asked" if way == facts["asked"] else ""
        lines.append(f"machine.offload_generation={way:11} {_gib(takes):>10}  {sign}{mark}")
    if facts["fitting"]:
        lines += ["", f"the fastest that fits: machine.offload_generation={facts['chosen']}"]
    else:
        lines += [
            "",
            "NOTHING FITS: fewer clips at once (batch_size=1), machine.vae_tiling=true, a larger GPU",
        ]
    return lines


def advised(config: TrainConfig) -> dict[str, Any]:
    """What the preset of a model that is not trained yet recommends for its sampling."""
    from birdsd.diffusion.generation.recommended import checked_sampling

    advice = config.model.recommended.get("sampling")
    return checked_sampling(advice, "model.recommended.sampling") if advice else {}


def _sampling(request: Request) -> dict[str, Any]:
    """How the clips are sampled, and how often a clip passes through a UNet: with guidance once more at each
    step of its interval, with a weaker model once more again."""
    from birdsd.diffusion.generation.sampling import make_scheduler
    from birdsd.diffusion.learning.denoiser import Denoising

    scheduler = make_scheduler(request.scheduler, Denoising().scheduler_config())
    scheduler.set_timesteps(request.steps)
    timesteps = scheduler.timesteps.tolist()[request.skipped_steps() * scheduler.order :]
    led = sum(request.led().active(timesteps))
    more = (request.guidance > 1) + (request.guide_weight not in (None, 1))
    names = ("scheduler", "steps", "guidance", "guidance_start", "guidance_end", "guidance_rescale")
    told = {name: getattr(request, name) for name in (*names, "guide_weight")}
    return {**told, "network_passes": len(timesteps) + more * led}


def _device_bytes(made: Generation, tuning: int) -> dict[str, int]:
    """The most on the device by each way of placing the networks; `tuning`: bytes of aesthetic gradients."""
    text, decoding = made.text_bytes + tuning, made.vae_bytes + made.decoder_activations
    others = made.vae_bytes + made.text_bytes
    busiest = max(tuning, made.unet_activations, made.decoder_activations)
    layers = int(_LAYER_SHARE * made.unet_bytes) + made.unet_activations
    return {
        "none": made.unet_bytes + others + busiest,
        "model": max(text, made.unet_bytes + made.unet_activations, decoding),
        "sequential": max(text, layers, decoding),
    }


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"
