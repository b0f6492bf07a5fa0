"""Noise -> latents -> images, one seed an image.

Image k of a request is a function of (seed, k) alone: its first noise and everything that a stochastic
scheduler draws come from generators of its own, so neither the batch size nor its neighbours matter. The
loop does what StableDiffusionPipeline does, step for step; a test compares the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from birdsd.diffusion.generation.guidance import Guidance, Predictor, Weaker
from birdsd.diffusion.networks.finite import NotFinite, is_finite
from birdsd.errors import BadValue, Mismatch, Unsupported, unknown_name
from birdsd.randomness import generator

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Name -> (diffusers class, settings on top of the trained noise schedule).
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm++karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpm++sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def make_scheduler(name: str, trained: Mapping[str, Any]) -> Any:
    """The diffusers scheduler `name` for the noise schedule in `trained` (a scheduler's configuration)."""
    if name not in SCHEDULERS:
        raise unknown_name("scheduler", name, SCHEDULERS)
    kind, settings = SCHEDULERS[name]
    own = {key: value for key, value in trained.items() if not key.startswith("_")}
    check_noise(trained, "the model")
    if own.get("rescale_betas_zero_snr"):
        own["timestep_spacing"] = "trailing"  # another would leave out the one step that sets the mean
        if name == "heun":
            own["trained_betas"] = _rescaled_betas(own)
    return getattr(importlib.import_module("diffusers"), kind).from_config({**own, **settings})


def check_noise(trained: Mapping[str, Any], where: str) -> None:
    """Refuse a scheduler's configuration whose noise is of a kind that is not known here, or contradicts
    itself; {} is Stable Diffusion's own. `where`: whose it is, for the error."""
    if not trained:
        return
    kind, steps = str(trained.get("_class_name", "")), trained.get("num_train_timesteps", 1000)
    odd = ""
    if "FlowMatch" in kind or "EDM" in kind or (kind and "beta_schedule" not in trained):
        odd = f"that of a {kind}"
    elif trained.get("trained_betas") is not None:
        odd = "a schedule of its own (trained_betas)"
    elif steps != 1000:
        odd = f"num_train_timesteps={steps}"
    if odd:
        raise Unsupported(
            f"the noise schedule of {where} is {odd}",
            "known are 1000 timesteps of Stable Diffusion's schedules, under which epsilon or v is predicted",
            "name another model, or correct its scheduler/scheduler_config.json",
        )
    if trained.get("rescale_betas_zero_snr") and trained.get("prediction_type", "epsilon") == "epsilon":
        raise Mismatch(
            f"the scheduler of {where} has rescale_betas_zero_snr with prediction_type=epsilon",
            "at a signal-to-noise ratio of zero the noise says nothing of the picture",
            "correct its scheduler/scheduler_config.json: such models predict v (v_prediction)",
        )


def _rescaled_betas(trained: Mapping[str, Any]) -> list[float]:
    """The betas of zero terminal SNR for Heun's scheduler, which cannot rescale them by itself (and would
    quietly take the others). The last signal is 2^-12, as in the schedulers that can."""
    from diffusers import DDIMScheduler

    known: Any = DDIMScheduler.from_config({**trained, "trained_betas": None})
    abar = known.alphas_cumprod.double()
    betas = known.betas.double().tolist()
    return [*betas[:-1], 1 - 2.0**-24 / float(abar[-2])]


def torch_generator(*key: int | str) -> torch.Generator:
    """A torch generator on the CPU that depends on `key` alone: the same numbers on every device."""
    import torch

    return torch.Generator("cpu").manual_seed(int(generator(*key).integers(2**62)))


def initial_noise(seed: int, indices: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """float32 [len(indices), *shape]: the noise that image k of a request with `seed` starts from."""
    import torch

    draws = [
        generator(seed, "initial noise", int(k)).standard_normal(shape, dtype=np.float32) for k in indices
    ]
    return torch.from_numpy(np.stack(draws))


def check_request(steps: int, guidance: float, count: int, batch_size: int) -> None:
    """Refuse numbers that cannot be sampled with, by name."""
    for name, value, low in (("steps", steps, 1), ("count", count, 1), ("batch_size", batch_size, 1)):
        if value < low:
            raise BadValue(f"{name}={value}", f"it must be at least {low}", f"set {name}={low}")
    if steps > 1000:
        raise BadValue(f"steps={steps}", "the noise schedule has 1000 steps", "set steps to 20-50")
    Guidance(guidance)


class Guide(Protocol):
    """What a sampling starts from besides noise, and what it must keep to on its way."""

    @property
    def skipped(self) -> int:
        """So many of the first steps are left out."""

    def begin(self, scheduler: Any, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The latents before the first of `timesteps` (all that are left; perhaps none)."""

    def after(self, scheduler: Any, latents: Tensor, noise: Tensor, following: Tensor | None) -> Tensor:
        """`latents` as they go into the timestep `following`; None after the last."""


def network_steps(scheduler: str, trained: Mapping[str, Any], steps: int, skipped: int = 0) -> int:
    """How often the network is asked: more often than `steps` where a scheduler looks twice at a step."""
    made = make_scheduler(scheduler, trained)
    made.set_timesteps(steps)
    return len(made.timesteps[skipped * made.order :])


def sample_latents(
    unet: Any,
    scheduler: Any,
    context: Tensor,
    negative: Tensor | None,
    noise: Tensor,
    *,
    steps: int,
    guidance: float | Guidance,
    generators: Sequence[torch.Generator],
    progress: Callable[[], object] | None = None,
    guide: Guide | None = None,
    weaker: Weaker | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Denoise `noise` [B, C, h, w] under `context` [B, n, width]; returns latents as the UNet knows them
    (scaled).

    `guidance` is a scale, or more than that. `negative` [B, n, width] is what guidance > 1 leads away from,
    and `weaker` a model to lead away from. `generators`: one an image, for the schedulers that add noise.
    `progress` is called once a step of the network. `guide` starts from something that is known, or keeps to
    it. `watch` notes where numbers stop being finite.
    """
    import inspect

    import torch

    scheduler.set_timesteps(steps, device=noise.device)
    timesteps = scheduler.timesteps
    first = 0 if guide is None else guide.skipped * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        # Told, not looked up by the timestep: Karras's spacing rounds several steps to the same one.
        scheduler.set_begin_index(first)
    timesteps = timesteps[first:]
    latents = (
        noise * scheduler.init_noise_sigma if guide is None else guide.begin(scheduler, noise, timesteps)
    )
    led = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
    predict = Predictor(unet, context, negative, led, timesteps.tolist(), weaker)
    takes = inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if "generator" in takes else {}
    with torch.no_grad():
        for number, step in enumerate(timesteps):
            predicted = predict(scheduler, latents, number, step)
            latents = scheduler.step(predicted, step, latents, **extra, return_dict=False)[0]
            if guide is not None:
                following = timesteps[number + 1] if number + 1 < len(timesteps) else None
                latents = guide.after(scheduler, latents, noise, following)
            if watch is not None:
                watch.look(latents)
            if progress is not None:
                progress()
    return latents


class Watch:
    """Notes for each image of a batch after which step its numbers were first not finite, without making the
    device wait."""

    def __init__(self) -> None:
        self._first: Tensor | None = None
        self.steps = 0

    def look(self, latents: Tensor) -> None:
        """After a step: latents [B, ...]."""
        import torch

        self.steps += 1
        spoilt = ~latents.flatten(1).isfinite().all(1)
        if self._first is None:
            self._first = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
        self._first = torch.where(spoilt & (self._first == 0), self.steps, self._first)

    def spoilt(self) -> dict[int, int]:
        """Position in the batch -> the step, counted from 1, for those that are not finite."""
        found = [] if self._first is None else self._first.tolist()
        return {position: step for position, step in enumerate(found) if step}


def encode_texts(text_encoder: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """[len(texts), n, width]: the text encoder's last hidden states, on its device."""
    import torch

    from birdsd.diffusion.networks.tokenizer import token_ids

    device = next(text_encoder.parameters()).device
    with torch.no_grad():
        states: Tensor = text_encoder(token_ids(tokenizer, texts).to(device))[0]
    return states


def decode_images(vae: Any, latents: Tensor) -> np.ndarray:
    """uint8 [B, H, W, 3]: scaled latents through the autoencoder, rounded as diffusers rounds. `NotFinite`
    where one of them is no picture."""
    decoded = decode_latents(vae, latents)
    spoilt = [k for k, image in enumerate(decoded) if not is_finite(image)]
    if spoilt:
        raise NotFinite(
            f"{len(spoilt)} of {len(decoded)} pictures hold numbers that are not finite",
            "they would be black, and their sound silent",
            "machine.precision=fp32, or the weights of an earlier checkpoint",
        )
    return as_levels(decoded)


def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """float32 [B, 3, H, W] on the CPU, about -1..1: scaled latents through the autoencoder."""
    import torch

    with torch.no_grad():
        # One image at a time: the decoder works at full resolution, and its memory would set the batch size.
        scale = vae.config.scaling_factor
        images = [vae.decode(latent[None].to(vae.dtype) / scale, return_dict=False)[0] for latent in latents]
    return torch.cat(images).float().cpu()


def as_levels(images: Tensor) -> np.ndarray:
    """float [B, 3, H, W] of -1..1 -> uint8 [B, H, W, 3]."""
    import torch

    levels = ((images / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous().numpy()
