"""A model to generate with: a pipeline folder, or a base with what stands on it, loaded once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.diffusion import additions as small
from birdsd.diffusion import sampling
from birdsd.diffusion.additions import Addition
from birdsd.diffusion.export import quiet_diffusers, read_codec, read_training, weights_fingerprint
from birdsd.diffusion.words import apply_words
from birdsd.errors import UserError

if TYPE_CHECKING:
    from birdsd.diffusion.generate import Request
    from birdsd.sound.codec import SpectrogramCodec


class Generator:
    """An exported folder, loaded once and asked as often as one likes.

    `folder` is a pipeline, or an addition (LoRA, tokens, aesthetic embedding), whose base is loaded under
    it; `base` says where that lies if it has moved. `additions` come on top, in their order. The UNet
    computes in `dtype` (float32 by default); text encoder and autoencoder stay in float32.
    """

    def __init__(
        self,
        folder: Path,
        device: Any = "cpu",
        dtype: Any = None,
        additions: Sequence[Addition] = (),
        base: str | None = None,
    ) -> None:
        import torch

        from birdsd.sound.codec import SpectrogramCodec

        under, lower = small.chain(folder, base)
        self.additions: tuple[Addition, ...] = (*lower, *additions)
        self.folder = Path(folder)
        if not lower:
            self.folder = pipeline_folder(folder)
        place = str(pipeline_folder(Path(under))) if Path(under).exists() or not lower else under
        told = read_training(Path(place))
        self.training = _merged(told, self.additions)
        self.codec: SpectrogramCodec = SpectrogramCodec.from_json(_codec(place, lower))
        at_base = told.get("weights") or (weights_fingerprint(Path(place)) if Path(place).is_dir() else place)
        self.identity = small.combined_identity(str(at_base), self.additions)
        self.pipeline = _load(place)
        self.aesthetics = small.apply(self.pipeline, self.additions)
        self.words = {
            name: word
            for words in (told.get("words") or {}, *(one.words for one in self.additions))
            for name, word in words.items()
        }
        self.pipeline.to(device)
        self.pipeline.unet.to(dtype or torch.float32)
        self.device = device

    @property
    def species(self) -> tuple[str, ...]:
        return tuple(self.training.get("species", ()))

    def wording(self, prompt: str) -> str:
        """The prompt in the words that the model was taught: its tokens and rare words for species."""
        return small.expanded(apply_words(prompt, self.words), self.additions)

    def conditioning(self, request: Request, prompts: Sequence[str]) -> tuple[Any, Any]:
        """What the UNet is told of each prompt and of the negative one: float32 [B, n, width] each."""
        parts = self.pipeline
        worded = [self.wording(prompt) for prompt in prompts]
        negative = [self.wording(request.negative_prompt)] * len(prompts)
        return (
            sampling.encode_texts(parts.text_encoder, parts.tokenizer, worded),
            sampling.encode_texts(parts.text_encoder, parts.tokenizer, negative),
        )

    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of the latents that make pictures of the codec's size."""
        config = self.pipeline.unet.config
        factor = 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        return config.in_channels, self.codec.bands // factor, self.codec.frames // factor

    def latents(
        self, request: Request, prompts: Sequence[str], indices: Sequence[int], tick: Any = None
    ) -> Any:
        """Scaled latents float32 [B, C, h, w] of clip indices[i] of prompts[i], one batch."""
        parts = self.pipeline
        unet = parts.unet
        scheduler = sampling.make_scheduler(request.scheduler, parts.scheduler.config)
        noise = sampling.initial_noise(request.seed, indices, self.latent_shape())
        context, negative = self.conditioning(request, prompts)
        return sampling.sample_latents(
            unet,
            scheduler,
            context.to(unet.dtype),
            negative.to(unet.dtype),
            noise.to(self.device, unet.dtype),
            steps=request.steps,
            guidance=request.guidance,
            generators=[sampling.torch_generator(request.seed, "sampler", int(k)) for k in indices],
            progress=tick,
        )

    def images(
        self, request: Request, prompts: Sequence[str], indices: Sequence[int], tick: Any = None
    ) -> np.ndarray:
        """uint8 [B, H, W, 3]: the pictures of one batch."""
        return sampling.decode_images(self.pipeline.vae, self.latents(request, prompts, indices, tick))


def pipeline_folder(folder: Path) -> Path:
    """The diffusers folder that `folder` is, or that lies in its export/."""
    for candidate in (Path(folder), Path(folder) / "export"):
        if (candidate / "model_index.json").is_file():
            return candidate
    raise UserError(
        f"{folder} holds no model to generate with",
        "expected a diffusers pipeline folder (model_index.json), an addition to one (LoRA, tokens), or a "
        "finished run with one of them in export/",
        "finish the run first (the same `birdsd run train ...` command goes on with it)",
    )


def _load(place: str) -> Any:
    from diffusers import StableDiffusionPipeline

    try:
        with quiet_diffusers():
            return StableDiffusionPipeline.from_pretrained(
                place, safety_checker=None, requires_safety_checker=False, use_safetensors=True
            )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"cannot load the model in {place}: {reason}",
            "expected a StableDiffusionPipeline folder with safetensors",
            "export the run again, or name another folder",
        ) from error


def _codec(place: str, lower: Sequence[Addition]) -> dict[str, Any]:
    """The codec that was learnt with: the topmost addition's, else the model's own."""
    for addition in reversed(lower):
        if (addition.folder / "codec.json").is_file():
            return read_codec(addition.folder)
    return read_codec(Path(place))


def _merged(told: dict[str, Any], additions: Sequence[Addition]) -> dict[str, Any]:
    """What base and additions have heard, together."""
    species = [*told.get("species", ())]
    for addition in additions:
        species += [name for name in addition.training.get("species", ()) if name not in species]
    synthetic = any(facts.get("synthetic") for facts in (told, *(one.training for one in additions)))
    return {**told, "species": species, "synthetic": synthetic}
