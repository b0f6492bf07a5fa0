"""method=full: everything learns. From scratch: the UNet and the text encoder, on the latents of an
autoencoder of one's own, with a tokenizer made from the captions. From a pretrained model: the UNet, and
the text encoder if asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion import export, models, sampling
from birdsd.diffusion.denoiser import STEPS, Denoising, DenoisingLearner
from birdsd.diffusion.methods.common import (
    codec_of,
    evaluating,
    load_codec,
    picture_of,
    required_source,
    to_range,
    write_preview,
)
from birdsd.diffusion.parts import Parts
from birdsd.diffusion.tokenizer import token_ids, train_tokenizer
from birdsd.errors import UserError, unknown_name
from birdsd.randomness import generator

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

INITS = ("scratch", "pretrained")
_CAPTION_SAMPLES = 20_000  # the tokenizer's merges have settled long before
_ENCODED_TOGETHER = 8  # pictures a batch: the encoder works at full resolution
_PREVIEW_STEPS, _PREVIEW_GUIDANCE = 20, 3.0


class FullMethod:
    """See `birdsd.diffusion.parts.Method`. Other denoising methods differ in what they put into the
    learner.
    """

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.codec = codec_of(index)
        if config.model.init not in INITS:
            raise unknown_name("model.init", config.model.init, INITS)
        if not 0 <= config.method.caption_dropout <= 1:
            raise UserError(
                f"method.caption_dropout={config.method.caption_dropout}", "it is a probability, 0..1"
            )
        method = config.method
        self.denoising = Denoising(
            method.prediction, method.noise_schedule, method.zero_terminal_snr, method.min_snr_gamma
        )

    def build(self, device: torch.device, dtype: torch.dtype) -> Parts:
        """Make or load the networks; the autoencoder stays as it is, in float32."""
        unet, text, tokenizer, vae = self._networks()
        self.latent_shape = (
            vae.config.latent_channels,
            *models.latent_size(vae, self.codec["bands"], self.codec["frames"]),
        )
        text_learns = self.config.method.train_text_encoder or self.config.model.init == "scratch"
        learner = DenoisingLearner(unet.train(), text.train() if text_learns else None, self.denoising)
        if self.config.machine.gradient_checkpointing:
            learner.enable_gradient_checkpointing()
        frozen = {"vae": vae.eval().requires_grad_(False).to(device)}
        if not text_learns:
            frozen["text_encoder"] = text.eval().requires_grad_(False).to(device, dtype)
        codec = load_codec(self.codec)
        return Parts(learner.to(device), frozen, tokenizer, codec, device, dtype)

    def _networks(self) -> tuple[Any, Any, Any, Any]:
        model, seed = self.config.model, self.config.seed
        if model.init == "pretrained":
            source = required_source(self.config)
            text, tokenizer = models.load_text(source)
            return models.load_unet(source), text, tokenizer, models.load_vae(model.autoencoder or source)
        if not model.autoencoder:
            raise UserError(
                "model.autoencoder is not set",
                "with model.init=scratch the diffusion model learns on the latents of a finished autoencoder",
                "train one with method=autoencoder and give its run folder, or name a diffusers folder",
            )
        vae: Any = models.load_vae(model.autoencoder)
        tokenizer = train_tokenizer(self._captions(), model.vocabulary_size, model.max_tokens)
        text = models.build_text_encoder(
            model.text, vocabulary=len(tokenizer), max_tokens=model.max_tokens, seed=seed
        )
        unet = models.build_unet(
            model.unet,
            latent_channels=vae.config.latent_channels,
            sample_size=models.latent_size(vae, self.codec["bands"], self.codec["frames"]),
            context_width=text.config.hidden_size,
            seed=seed,
        )
        return unet, text, tokenizer, vae

    def _captions(self) -> list[str]:
        from birdsd.shards.reader import ShardReader

        total = self.index.count("train")
        count = min(total, _CAPTION_SAMPLES)
        reader = ShardReader(self.index, "train", want=("metadata",))
        chosen = (number * total // count for number in range(count))
        return [text for number in chosen for text in reader.read(number).metadata["captions"]]

    def example(
        self, parts: Parts, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """Moments of the latents (or pixels), tokens, timestep and noises, all from (seed, purpose,
        position).
        """
        draw = generator(self.config.seed, purpose, position, "denoising")
        caption = self.caption(sample, draw, purpose)
        step = int(draw.integers(STEPS))
        posterior, noise = draw.standard_normal((2, *self.latent_shape), dtype=np.float32)
        tensors = {
            "input_ids": token_ids(parts.tokenizer, [caption])[0],
            "timesteps": torch.tensor(step, dtype=torch.int64),
            "posterior_noise": torch.from_numpy(posterior),
            "noise": torch.from_numpy(noise),
        }
        if sample.latent is not None:
            tensors["moments"] = self._moments(sample)
        else:
            tensors["pixels"] = torch.from_numpy(picture_of(sample, self.codec))
        return tensors

    def _moments(self, sample: Sample) -> Tensor:
        latent = np.asarray(sample.latent)
        expected = (2 * self.latent_shape[0], *self.latent_shape[1:])
        if latent.shape != expected:
            raise UserError(
                f"the stored latent of sample {sample.key} has the shape {list(latent.shape)}",
                f"this autoencoder makes {list(expected)} (means, then log-variances)",
                "set machine.cache_latents=true: the latents are then computed with the right autoencoder",
            )
        return torch.from_numpy(np.array(latent, np.float16))

    def caption(self, sample: Sample, draw: np.random.Generator, purpose: str) -> str:
        """One of the sample's captions, or the empty one that guidance needs; no dropout in validation."""
        captions = sample.metadata["captions"]
        choice, dropped = int(draw.integers(1 << 30)), draw.random() < self.config.method.caption_dropout
        if not captions or (dropped and purpose == "train"):
            return ""
        return str(captions[choice % len(captions)])

    def prepare(self, parts: Parts, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw latents from their distribution (encoding the pictures first if need be), and encode the
        text.
        """
        vae: Any = parts.frozen["vae"]
        moments = batch["moments"] if "moments" in batch else self.encode_moments(parts, batch["pixels"])
        mean, deviation = moments.float().chunk(2, dim=1)
        drawn = mean + (deviation.clamp(-30, 20) / 2).exp() * batch["posterior_noise"]
        latents = drawn * vae.config.scaling_factor
        ready = {"latents": latents, "noise": batch["noise"], "timesteps": batch["timesteps"]}
        if "text_encoder" in parts.frozen:
            ready["context"] = parts.frozen["text_encoder"](batch["input_ids"])[0]
        else:
            ready["input_ids"] = batch["input_ids"]
        return ready

    def encode_moments(self, parts: Parts, pixels: Tensor) -> Tensor:
        """uint8 [B, C, H, W] -> float16 [B, 2 C', h, w]: means and log-variances, as the latent cache
        stores them.

        Rounded to float16 whether they are cached or not, so that caching does not change what is learnt.
        """
        vae: Any = parts.frozen["vae"]
        with torch.no_grad(), torch.autocast(parts.device.type, enabled=False):
            moments: Tensor = vae.encode(to_range(pixels)).latent_dist.parameters
        return moments.half()

    def latents(self, parts: Parts, split: str) -> np.ndarray:
        """Moments of every sample of a split, float16 [n, 2 C, h, w], memory-mapped; computed if they are
        not there.

        A sample that cannot be decoded gets zeros: reading it again says so, and gives it no weight.
        """
        from birdsd.shards.latents import LatentCache
        from birdsd.shards.reader import ShardReader

        vae: Any = parts.frozen["vae"]
        cache = LatentCache(self.index, split, models.weights_key(vae))
        stored = cache.open()
        if stored is not None:
            return stored
        reader = ShardReader(self.index, split, want=("image",))
        made = (
            moments
            for start in range(0, len(reader), _ENCODED_TOGETHER)
            for moments in self._encode(
                parts, reader.read_many(range(start, min(start + _ENCODED_TOGETHER, len(reader))))
            )
        )
        return cache.write(made)

    def _encode(self, parts: Parts, samples: Sequence[Sample]) -> np.ndarray:
        pixels = torch.stack([torch.from_numpy(picture_of(sample, self.codec)) for sample in samples])
        moments = self.encode_moments(parts, pixels.to(parts.device)).cpu().numpy()
        moments[[sample.weight == 0 for sample in samples]] = 0
        return moments

    def preview(self, parts: Parts, prompts: Sequence[str], folder: Path) -> list[Path]:
        """One clip a prompt, always from the same noise, so that the pictures show how it learns."""
        learner: Any = parts.learner
        text = learner.text_encoder if learner.text_encoder is not None else parts.frozen["text_encoder"]
        scheduler = sampling.make_scheduler("ddim", self.denoising.scheduler_config())
        indices = list(range(len(prompts)))
        with evaluating(learner), torch.no_grad():
            latents = sampling.sample_latents(
                learner.unet,
                scheduler,
                sampling.encode_texts(text, parts.tokenizer, prompts).float(),
                sampling.encode_texts(text, parts.tokenizer, [""] * len(prompts)).float(),
                sampling.initial_noise(self.config.seed, indices, self.latent_shape).to(parts.device),
                steps=_PREVIEW_STEPS,
                guidance=_PREVIEW_GUIDANCE,
                generators=[sampling.torch_generator(self.config.seed, "preview", k) for k in indices],
            )
            pictures = list(sampling.decode_images(parts.frozen["vae"], latents))
        names = [f"{number:02d}-{prompt}" for number, prompt in enumerate(prompts)]
        return write_preview(folder, pictures, pictures, names, parts.codec)

    def export(self, parts: Parts, folder: Path) -> Path:
        """Write the pipeline folder."""
        learner: Any = parts.learner
        text = learner.text_encoder if learner.text_encoder is not None else parts.frozen["text_encoder"]
        method = self.config.method
        about = {
            "base": self.config.model.source or "from scratch",
            "method": method.name,
            "prediction": method.prediction,
            "noise_schedule": method.noise_schedule,
            "zero_terminal_snr": method.zero_terminal_snr,
            "resolution": [self.codec["bands"], self.codec["frames"]],
        }
        return export.write_pipeline(
            folder,
            unet=learner.unet,
            vae=parts.frozen["vae"],
            text_encoder=text,
            tokenizer=parts.tokenizer,
            scheduler=self.denoising.scheduler_config(),
            codec=self.codec,
            heard=export.training_set(self.index),
            about=about,
        )
