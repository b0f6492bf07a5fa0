"""What every method that learns by denoising shares: latents, captions, noise, previews.

A method says which networks there are, which of their weights learn, how its captions are worded, and
what it exports.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from birdsd.diffusion import export
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.recommended import checked_sampling
from birdsd.diffusion.learning.base import Frozen, Hollow, Learner, LearningMethod, Modules
from birdsd.diffusion.learning.common import codec_of, load_codec, picture_of, required_source, write_preview
from birdsd.diffusion.learning.denoiser import STEPS, Denoising, DenoisingLearner
from birdsd.diffusion.learning.embedding_cache import Caches, Filled
from birdsd.diffusion.learning.measuring import autoencoder_loss, loss_line
from birdsd.diffusion.method_configs import DenoisingConfig
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.models import evaluating
from birdsd.diffusion.networks.tokenizer import token_ids
from birdsd.errors import BadValue, Mismatch, unknown_name
from birdsd.method_facts import settings_of
from birdsd.randomness import generator
from birdsd.schema import NOISE_DEFAULTS

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.cache import StoredLatents
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import Sample

INITS = ("scratch", "pretrained")
_PREVIEW_STEPS, _PREVIEW_GUIDANCE = 20, 3.0


class Networks:
    """The four parts of a Stable Diffusion model, in float32: made or loaded when first asked for."""

    def __init__(
        self,
        unet: Callable[[], Any],
        text_encoder: Callable[[], Any],
        tokenizer: Any,
        vae: Callable[[], Any],
        vae_config: Any,
    ) -> None:
        self._unet, self._text_encoder, self.vae = unet, text_encoder, vae
        self.tokenizer, self.vae_config = tokenizer, vae_config

    @cached_property
    def unet(self) -> Any:
        return self._unet()

    @cached_property
    def text_encoder(self) -> Any:
        """The one that learns, or through which gradients flow."""
        return self._text_encoder()

    def frozen(self, device: torch.device, text_too: bool) -> Frozen:
        """The autoencoder, and the text encoder where it stays as it is, for use on `device`."""

        def ready(make: Callable[[], Any]) -> Callable[[], nn.Module]:
            return lambda: make().eval().requires_grad_(False).to(device)

        makers = {"vae": ready(self.vae)}
        return Frozen({**makers, "text_encoder": ready(self._text_encoder)} if text_too else makers)


class DenoisingMethod(LearningMethod):
    """See `birdsd.diffusion.learning.base.LearningMethod`; the hooks come first."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.codec = codec_of(index)
        if config.model.init not in INITS:
            raise unknown_name("model.init", config.model.init, INITS)
        if not 0 <= self.caption_dropout <= 1:
            raise BadValue(f"method.caption_dropout={self.caption_dropout}", "it is a probability, 0..1")
        self.denoising = self.schedule()
        advice = config.model.recommended.get("sampling")
        self.sampling = checked_sampling(advice, "model.recommended.sampling") if advice else {}
        self.caches = Caches(self)

    @property
    def caption_dropout(self) -> float:
        """Probability of an empty caption in training."""
        return settings_of(self.config.method, DenoisingConfig).caption_dropout

    # -- what a method says -------------------------------------------------------------------------

    def schedule(self) -> Denoising:
        """What the network predicts under which noise: that of the model it starts from. A setting that says
        otherwise is refused: the weights would be read as something that they are not."""
        method, source = settings_of(self.config.method, DenoisingConfig), required_source(self.config)
        base = base_denoising(source, method.min_snr_gamma)
        for name in NOISE_DEFAULTS:
            typed, present = getattr(method, name, method.noise.get(name)), getattr(base, name)
            if typed is not None and typed != present:
                raise Mismatch(
                    f"method.{name}={str(typed).lower()}, and the base {source} has {str(present).lower()}",
                    "a model keeps its prediction type and noise schedule",
                    f"leave method.{name} out, or train from scratch (method=full model.init=scratch)",
                )
        return base

    def networks(self) -> Networks:
        """The networks to start from, in float32: those of model.source."""
        check_pretrained(self.config)
        source = required_source(self.config)
        return Networks(
            partial(models.load_unet, source),
            partial(models.load_text_encoder, source),
            models.load_tokenizer(source),
            partial(models.load_vae, self.vae_source),
            models.vae_config(self.vae_source),
        )

    @property
    def vae_source(self) -> str:
        """Where the autoencoder comes from."""
        return str(self.config.model.autoencoder or self.config.model.source)

    def text_learns(self, networks: Networks) -> bool:
        """Whether gradients flow through the text encoder; if not, what it makes of a caption is kept."""
        raise NotImplementedError

    def further_texts(self) -> Sequence[str]:
        """What is encoded besides the captions of the shards."""
        return ()

    def learner(self, networks: Networks, dtype: torch.dtype) -> DenoisingLearner:
        """The module that learns, with `requires_grad` set as it should be: float32 where it learns,
        `dtype` where it does not. The text encoder is inside only where gradients flow through it.
        """
        raise NotImplementedError

    def wording(self, modules: Modules, text: str) -> str:
        """What becomes of a caption or prompt before it is cut into tokens."""
        return text

    def about(self, modules: Modules) -> dict[str, Any]:
        """What the exported folder says of itself, besides what every one says."""
        return {}

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Before training begins, on every rank: make or measure what it needs. `share` chooses this
        rank's part of a list, `alive` is to be called often. Returns lines for the user to read: first what
        the autoencoder, which stays as it is, loses of these spectrograms.
        """
        return self.make_missing(modules, share, alive)

    def make_missing(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """What `setup` makes or measures once for all runs, and keeps beside the shards."""
        if not share([0]):  # one rank says it for all
            return []

        def measure() -> dict[str, Any]:
            return autoencoder_loss(modules.frozen["vae"], self.index, self.codec, alive)

        return [loss_line(self.vae_source, self.caches.remembered("loss", measure), self.codec)]

    pictures_made = 0  # class pictures that `make_missing` made

    def pictures_missing(self) -> int:
        """Class pictures that are not there yet."""
        return 0

    # -- the modules ----------------------------------------------------------------------------------

    def build(self, device: torch.device, dtype: torch.dtype) -> Modules:
        """Make or load what learns; what stays as it is, in float32, is loaded when it is needed."""
        networks = self.networks()
        modules = self._beside(networks, device, dtype)
        self._check_channels(networks.unet)
        learner = self.learner(networks, dtype)
        if self.config.machine.gradient_checkpointing:
            learner.enable_gradient_checkpointing()
        # Where the GPU has no room for it in float32, the engine brings it there.
        modules.learner = learner if self.config.machine.offload_optimizer else learner.to(device)
        return modules

    def _beside(self, networks: Networks, device: torch.device, dtype: torch.dtype) -> Modules:
        """The modules without what learns."""
        vae = networks.vae_config
        size = models.latent_size(vae, self.codec["bands"], self.codec["frames"])
        self.latent_shape = (vae.latent_channels, *size)
        self._scaling_factor = float(vae.scaling_factor)
        self.name_words(networks.tokenizer)
        self.caches.forget()
        frozen = networks.frozen(device, text_too=not self.text_learns(networks))
        return Modules(Learner(), frozen, networks.tokenizer, load_codec(self.codec), device, dtype)

    def name_words(self, tokenizer: Any) -> None:
        """Choose the words that `wording` puts in, where the tokenizer decides about them."""

    def _check_channels(self, unet: Any) -> None:
        if unet.config.in_channels != self.latent_shape[0]:
            raise Mismatch(
                f"the UNet of model.source={self.config.model.source} takes {unet.config.in_channels} "
                f"channels, the autoencoder makes {self.latent_shape[0]}",
                "a UNet works on the latents of the autoencoder that it was trained with",
                "leave model.autoencoder unset, or name the autoencoder of that model",
            )

    def make_example(
        self, modules: Modules, sample: Sample, position: int, purpose: str = "train"
    ) -> dict[str, Tensor]:
        """Moments of the latents (or pixels), tokens, timestep and noises, all from (seed, purpose,
        position).
        """
        draw = generator(self.config.seed, purpose, position, "denoising")
        caption = self.wording(modules, self.caption(sample, draw, purpose))
        step = int(draw.integers(STEPS))
        posterior, noise = draw.standard_normal((2, *self.latent_shape), dtype=np.float32)
        tensors = {
            "input_ids": token_ids(modules.tokenizer, [caption])[0],
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
            raise Mismatch(
                f"the stored latent of sample {sample.key} has the shape {list(latent.shape)}",
                f"this autoencoder makes {list(expected)} (means, then log-variances)",
                "set machine.cache_latents=true: the latents are then computed with the right autoencoder",
            )
        return torch.from_numpy(np.array(latent, np.float16))

    def caption(self, sample: Sample, draw: np.random.Generator, purpose: str) -> str:
        """One of the sample's captions, or the empty one that guidance needs; no dropout in validation."""
        captions = sample.metadata["captions"]
        choice, dropped = int(draw.integers(1 << 30)), draw.random() < self.caption_dropout
        if not captions or (dropped and purpose == "train"):
            return ""
        return str(captions[choice % len(captions)])

    def encode_batch(self, modules: Modules, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw latents from their distribution (encoding the pictures first if need be), and encode the
        text.
        """
        moments = batch.get("moments")
        if moments is None:
            moments = self.caches.encode_moments(modules, batch["pixels"])
        latents = self.drawn(moments, batch["posterior_noise"])
        ready = {"latents": latents, "noise": batch["noise"], "timesteps": batch["timesteps"]}
        return {**ready, **self.prepared_text(modules, batch["input_ids"])}

    def drawn(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Latents [B, C, h, w] as the UNet knows them, from their means and log-variances."""
        mean, deviation = moments.float().chunk(2, dim=1)
        latents: Tensor = mean + (deviation.clamp(-30, 20) / 2).exp() * noise
        return latents * self._scaling_factor

    def prepared_text(self, modules: Modules, input_ids: Tensor) -> dict[str, Tensor]:
        """The tokens where the text encoder takes part in the learning, else what it makes of them."""
        if "text_encoder" not in modules.frozen:
            return {"input_ids": input_ids}
        return {"context": self.caches.texts(modules, input_ids).to(modules.dtype)}

    def fill_cache(
        self,
        device: torch.device,
        dtype: torch.dtype,
        splits: Sequence[str],
        share: Callable[[Sequence[int]], list[int]],
        alive: Callable[[], None],
        agree: Callable[[list[int]], list[int]] | None = None,
    ) -> Filled:
        """Keep on disk what the frozen networks make of these splits: latents, the states of captions where
        the text encoder stays as it is, and what `make_missing` makes; this rank's share of it."""
        networks = self.networks()
        modules = self._beside(networks, device, dtype)
        notes = self.make_missing(modules, share, alive)
        filled = self.caches.fill(modules, splits, share, alive, agree)
        return replace(filled, notes=notes, text_learns=self.text_learns(networks))

    def cached_latents(self, split: str) -> StoredLatents | None:
        """Moments of every sample of a split, float16 [2 C, h, w], once they are all on disk."""
        return self.caches.latents(split)

    # -- for planning -------------------------------------------------------------------------------

    def stand_on(self, hollow: Hollow) -> None:
        """Networks without weights, and no caption is encoded: that is kept by the numbers of its tokens, and
        fake ones have none."""
        networks = hollow.networks()

        def prepared_text(modules: Modules, input_ids: Tensor) -> dict[str, Tensor]:
            if "text_encoder" not in modules.frozen:
                return {"input_ids": input_ids}
            width, tokens = networks.text_encoder.config.hidden_size, modules.tokenizer.model_max_length
            return {"context": torch.zeros(len(input_ids), int(tokens), int(width), dtype=modules.dtype)}

        self.networks = lambda: networks  # type: ignore[method-assign]
        self.prepared_text = prepared_text  # type: ignore[method-assign]

    def stored_shape(self) -> tuple[int, int, int]:
        """Means and log-variances of the latents."""
        channels, height, width = self.latent_shape
        return 2 * channels, height, width

    # -- what it shows and gives away ---------------------------------------------------------------

    def text_encoder(self, modules: Modules) -> Any:
        """The text encoder as it is now, wherever it lies."""
        learner: Any = modules.learner
        return learner.text_encoder if learner.text_encoder is not None else modules.frozen["text_encoder"]

    def preview(self, modules: Modules, prompts: Sequence[str], folder: Path) -> list[Path]:
        """One clip a prompt, always from the same noise, so that the pictures show how it learns."""
        learner: Any = modules.learner
        text = self.text_encoder(modules)
        scheduler = sampling.make_scheduler("ddim", self.denoising.scheduler_config())
        indices = list(range(len(prompts)))
        worded = [self.wording(modules, prompt) for prompt in prompts]
        dtype = learner.unet.dtype
        with evaluating(learner), torch.no_grad():
            latents = sampling.sample_latents(
                learner.unet,
                scheduler,
                sampling.encode_texts(text, modules.tokenizer, worded).to(dtype),
                sampling.encode_texts(text, modules.tokenizer, [""] * len(prompts)).to(dtype),
                sampling.initial_noise(self.config.seed, indices, self.latent_shape).to(
                    modules.device, dtype
                ),
                steps=_PREVIEW_STEPS,
                guidance=_PREVIEW_GUIDANCE,
                generators=[sampling.torch_generator(self.config.seed, "preview", k) for k in indices],
            )
            pictures = list(sampling.decode_images(modules.frozen["vae"], latents))
        names = [f"{number:02d}-{prompt}" for number, prompt in enumerate(prompts)]
        return write_preview(folder, pictures, pictures, names, modules.codec)

    def facts(self, modules: Modules) -> dict[str, Any]:
        """What training.json and the model card say of how it was made."""
        return {
            "base": self.config.model.source or "from scratch",
            "method": self.config.method.name,
            "prediction": self.denoising.prediction,
            "noise_schedule": self.denoising.noise_schedule,
            "zero_terminal_snr": self.denoising.zero_terminal_snr,
            **({"sampling": self.sampling} if self.sampling else {}),
            "resolution": [self.codec["bands"], self.codec["frames"]],
            **self.about(modules),
        }

    def export(self, modules: Modules, folder: Path) -> Path:
        """Write the pipeline folder; methods that make something smaller write that."""
        learner: Any = modules.learner
        return export.write_pipeline(
            folder,
            unet=learner.unet,
            vae=modules.frozen["vae"],
            text_encoder=self.text_encoder(modules),
            tokenizer=modules.tokenizer,
            scheduler=self.denoising.scheduler_config(),
            codec=self.codec,
            heard=export.training_set(self.index),
            about=self.facts(modules),
        )


def base_denoising(source: str, min_snr_gamma: float) -> Denoising:
    """The prediction and noise schedule of a pretrained model, with our weighting of the timesteps;
    `UserError` for noise of another kind."""
    scheduler = models.scheduler_config(source)
    plain = Denoising()
    sampling.check_noise(scheduler, source)
    return Denoising(
        str(scheduler.get("prediction_type", plain.prediction)),
        str(scheduler.get("beta_schedule", plain.noise_schedule)),
        bool(scheduler.get("rescale_betas_zero_snr", False)),
        min_snr_gamma,
        float(scheduler.get("beta_start", plain.beta_start)),
        float(scheduler.get("beta_end", plain.beta_end)),
    )


def check_pretrained(config: TrainConfig) -> None:
    """Refuse to begin from scratch, for a method that adds to what a model knows."""
    if config.model.init != "pretrained":
        raise Mismatch(
            f"method={config.method.name} with model.init={config.model.init}",
            "this method fine-tunes a model that already knows sounds",
            "set model.init=pretrained and model.source to a finished run, a folder or a hub id",
        )
    required_source(config)
