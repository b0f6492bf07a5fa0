"""A model to generate with: a pipeline folder, or a base with what stands on it, loaded once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.diffusion import adapters as small
from birdsd.diffusion.adapters import Adapter
from birdsd.diffusion.export import quiet_diffusers, read_codec, read_training, weights_fingerprint
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.aesthetics import Aesthetic, AestheticSettings, personalise
from birdsd.diffusion.generation.conditioning import Start, keep_outside, known_latents
from birdsd.diffusion.generation.guidance import Weaker
from birdsd.diffusion.generation.prompts import (
    emphasise_tokens,
    encode_weighted,
    keep_names,
    literal,
    plain_text,
)
from birdsd.diffusion.generation.recommended import recommended
from birdsd.diffusion.generation.words import apply_words, species_in
from birdsd.diffusion.networks.finite import NotFinite, check_networks, is_finite
from birdsd.diffusion.networks.libraries import import_diffusers
from birdsd.diffusion.networks.models import variant_of
from birdsd.diffusion.networks.placement import Placement
from birdsd.errors import Damaged, Mismatch, NotFound, Unsupported
from birdsd.files import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.generation.request import Request
    from birdsd.diffusion.upscaling.upscaler import Upscaler
    from birdsd.sound.codec.protocol import Codec


@dataclasses.dataclass(frozen=True)
class WeakerModel:
    """A model to lead away from, the `named` folder (and checkpoint) that it came from, and a fingerprint of
    its weights."""

    model: Generator
    named: str
    identity: str


class Generator:
    """An exported folder, loaded once and asked as often as one likes.

    `folder` is a pipeline, or an adapter (LoRA, tokens, aesthetic embedding), whose base is loaded under
    it; `base` says where that lies if it has moved. `adapters` come on top, in their order. The UNet
    computes in `dtype` (float32 by default); text encoder and autoencoder stay in float32. `placement` says
    which of them are on the device when.
    """

    def __init__(
        self,
        folder: Path,
        device: Any = "cpu",
        dtype: Any = None,
        adapters: Sequence[Adapter] = (),
        base: str | None = None,
        placement: Placement | None = None,
    ) -> None:
        import torch

        from birdsd.sound.codec.protocol import Codec

        import_diffusers()
        under, lower = small.chain(folder, base)
        self.adapters: tuple[Adapter, ...] = (*lower, *adapters)
        self.on_top, self.base = tuple(adapters), base
        self.folder = Path(folder)
        if not lower:
            self.folder = pipeline_folder(folder)
        place = str(pipeline_folder(Path(under))) if Path(under).exists() or not lower else under
        base_training = read_training(Path(place))
        self.training = _merged(base_training, self.adapters)
        self.sampling = recommended([base_training, *(one.training for one in lower)], str(self.folder))
        self.weaker: WeakerModel | None = None
        self.upscaler: Upscaler | None = None
        self.codec: Codec = Codec.from_json(_codec(place, lower))
        at_base = base_training.get("weights") or (
            weights_fingerprint(Path(place)) if Path(place).is_dir() else place
        )
        self.identity = small.combined_identity(str(at_base), self.adapters)
        self.pipeline = _load(place)
        networks = {part: getattr(self.pipeline, part) for part in ("unet", "vae", "text_encoder")}
        check_networks(networks, place)
        self.aesthetics = small.apply(self.pipeline, self.adapters)
        self.words = {
            name: word
            for words in (base_training.get("words") or {}, *(one.words for one in self.adapters))
            for name, word in words.items()
        }
        self.placement = placement or Placement()
        self.placement.settle(self.pipeline, device, dtype or torch.float32)
        self.device = device

    @property
    def species(self) -> tuple[str, ...]:
        return tuple(self.training.get("species", ()))

    @property
    def environments(self) -> tuple[str, ...]:
        """The environments whose names it knows, by itself or from what was added."""
        return tuple(self.training.get("environments", ()))

    def wording(self, prompt: str) -> str:
        """The prompt in the words that the model was taught: its tokens and rare words for species."""
        return small.expanded(apply_words(prompt, self.words), self.adapters)

    def named_in(self, request: Request, prompt: str) -> tuple[str, ...]:
        """The species that a prompt names, brackets of emphasis aside."""
        known = self.species
        return species_in(plain_text(keep_names(prompt, known)) if request.emphasis else prompt, known)

    def conditioning(self, request: Request, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What the UNet is told of each prompt and of the negative one: float32 [B, n, width] each."""
        settings = request.aesthetics()
        aesthetic = self._aesthetic(request)
        negative = [request.negative_prompt] * len(prompts)
        both = []
        for texts, tuned in ((prompts, True), (negative, settings.negative)):
            states = None
            if aesthetic and tuned and settings.active:
                names = [request.aesthetic_name or aesthetic.name_for(prompt) for prompt in prompts]
                states = self._tuning(aesthetic, names, settings)
            marked = [self._marked(request, text) for text in texts]
            both.append(encode_weighted(self.pipeline.text_encoder, self.pipeline.tokenizer, marked, states))
        return both[0], both[1]

    def _marked(self, request: Request, text: str) -> str:
        """What is encoded: the model's own words, where only brackets that mean emphasis are brackets."""
        text = apply_words(text, self.words)
        text = keep_names(text, self.species) if request.emphasis else literal(text)
        for adapter in self.adapters:
            if adapter.tokens:
                text = emphasise_tokens(text, adapter.tokens, adapter.weight)
        return text

    def _aesthetic(self, request: Request) -> Aesthetic | None:
        if len(self.aesthetics) > 1:
            raise Mismatch(
                f"{len(self.aesthetics)} aesthetic embeddings at once: "
                + ", ".join(str(one.folder) for one in self.aesthetics),
                "a prompt is personalised towards one",
                "leave the others out of add=",
            )
        if self.aesthetics:
            return Aesthetic.load(self.aesthetics[0].folder)
        if request.aesthetic_steps or request.aesthetic_name:
            raise NotFound(
                f"aesthetic_steps={request.aesthetic_steps} aesthetic_name={request.aesthetic_name}",
                "there is no aesthetic embedding to personalise towards",
                "add=RUN of method=aesthetic_gradients",
            )
        return None

    def _tuning(
        self, aesthetic: Aesthetic, names: Sequence[str], settings: AestheticSettings
    ) -> Callable[[list[str]], Tensor]:
        """Plain texts -> states of an encoder tuned to the embeddings `names`, by the adapter's weight."""
        import torch

        weight = settings.weight * self.aesthetics[0].weight
        settings = dataclasses.replace(settings, weight=weight)
        embeddings = torch.cat([aesthetic.embedding(name) for name in names])
        parts = self.pipeline

        def states(plain: list[str]) -> Tensor:
            projection = aesthetic.text_projection
            return personalise(parts.text_encoder, parts.tokenizer, projection, embeddings, plain, settings)

        return states

    def latent_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of the latents that make pictures of the codec's size."""
        config = self.pipeline.unet.config
        factor = 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        return config.in_channels, self.codec.bands // factor, self.codec.frames // factor

    def start(self, request: Request) -> Start | None:
        """The recording or picture that the request starts from."""
        return Start.read(request.init, self.codec) if request.init else None

    def latents(
        self,
        request: Request,
        prompts: Sequence[str],
        indices: Sequence[int],
        tick: Any = None,
        *,
        seeds: Sequence[int] | None = None,
        start: Start | None = None,
        watch: sampling.Watch | None = None,
    ) -> Tensor:
        """Scaled latents float32 [B, C, h, w] of clip indices[i] of prompts[i], one batch.

        `seeds`: one a clip, the request's own by default. `start`: what `start(request)` gave, if that was
        asked for already. `watch` notes where numbers stop being finite.
        """
        import torch

        parts = self.pipeline
        unet = parts.unet
        scheduler = sampling.make_scheduler(request.scheduler, parts.scheduler.config)
        drawn = list(zip(seeds or [request.seed] * len(indices), indices, strict=True))
        shape = self.latent_shape()
        noise = torch.cat([sampling.initial_noise(seed, [k], shape) for seed, k in drawn])
        with self.working("text_encoder"):
            context, negative = self.conditioning(request, prompts)
        start = start or self.start(request)
        guide = None
        if start is not None:
            span = request.span(self.codec.clip_s)
            with self.working("vae"):
                guide = known_latents(start, parts.vae, self.codec, request.skipped_steps(), span)
        weaker = self._weaker(request, prompts, unet.dtype)
        others = self.weaker.model.working("unet") if self.weaker and weaker else nullcontext()
        with self.working("unet"), others:
            return sampling.sample_latents(
                unet,
                scheduler,
                context.to(unet.dtype),
                negative.to(unet.dtype),
                noise.to(self.device, unet.dtype),
                steps=request.steps,
                guidance=request.led(),
                generators=[sampling.torch_generator(seed, "sampler", int(k)) for seed, k in drawn],
                progress=tick,
                guide=guide,
                weaker=weaker,
                watch=watch,
            )

    def lead_away_from(self, weaker: WeakerModel) -> None:
        """Let requests with a guide_weight be led away from a weaker model; `UserError` where it draws other
        latents, or predicts something else."""
        other = weaker.model
        ours, theirs = self.pipeline.vae.state_dict(), other.pipeline.vae.state_dict()
        same = ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
        if not same or self.latent_shape() != other.latent_shape():
            raise Mismatch(
                f"guide={weaker.named} does not draw the latents of {self.folder}",
                "both must stand on the same autoencoder and codec",
                "guide=@POSITION names an earlier checkpoint of the same run",
            )
        noise = [_noise_of(model.pipeline.scheduler.config) for model in (self, other)]
        if noise[0] != noise[1]:
            shown = [", ".join(f"{name}={value}" for name, value in one.items()) for one in noise]
            raise Mismatch(
                f"guide={weaker.named} predicts under {shown[1]}",
                f"the model predicts under {shown[0]}, and the two cannot be subtracted",
                "name a run with the same prediction and noise",
            )
        other.pipeline.vae = self.pipeline.vae  # one is enough in memory
        self.weaker = weaker

    def upscale_with(self, upscaler: Upscaler) -> None:
        """Let what becomes sound go through an upscaler, which counts for what this model is from then on."""
        self.upscaler = upscaler
        self.identity = fingerprint([self.identity, upscaler.identity])

    @property
    def heard_codec(self) -> Codec:
        """Of the pictures that become sound: the model's own, or that of the upscaler."""
        return self.codec if self.upscaler is None else self.upscaler.codec

    def finished(self, picture: np.ndarray, *, loop: bool = False) -> np.ndarray:
        """[H, W, 3]: a picture of the model's, of any length, as one of `heard_codec`."""
        return picture if self.upscaler is None else self.upscaler.picture(picture, loop=loop)

    def sound_of(self, picture: np.ndarray, *, loop: bool = False) -> np.ndarray:
        """float32 [channels, samples]: the sound of a picture of the model's, of any length."""
        codec, finished = self.heard_codec, self.finished(picture, loop=loop)
        return (codec.decode_loop if loop else codec.decode)(codec.from_rgb(finished))

    def _weaker(self, request: Request, prompts: Sequence[str], dtype: Any) -> Weaker | None:
        """What the weaker model is told of each prompt."""
        if request.guide_weight is None or request.guide_weight == 1:
            return None
        if self.weaker is None:
            raise NotFound(
                f"guide_weight={request.guide_weight:g}",
                "there is no weaker model to lead away from",
                "guide=RUN@POSITION",
            )
        model = self.weaker.model
        plain = dataclasses.replace(request, aesthetic_steps=None, aesthetic_name=None)
        with model.working("text_encoder"):
            context, _ = model.conditioning(plain, prompts)
        return Weaker(model.pipeline.unet, context.to(dtype), request.guide_weight)

    def working(self, *networks: str) -> AbstractContextManager[None]:
        """Inside, these networks of the pipeline are on the device."""
        return self.placement.working(self.pipeline, self.device, *networks)

    def images(
        self,
        request: Request,
        prompts: Sequence[str],
        indices: Sequence[int],
        tick: Any = None,
        *,
        seeds: Sequence[int] | None = None,
        start: Start | None = None,
        spoilt: dict[int, NotFinite] | None = None,
    ) -> np.ndarray:
        """uint8 [B, H, W, 3]: the pictures of one batch; outside a masked stretch they are the start's.

        One whose numbers are not finite raises `NotFinite`; with `spoilt` its position and the reason are put
        there instead, what stands at its place is no picture, and the others are as they would be.
        """
        start = start or self.start(request)
        watch = sampling.Watch()
        latents = self.latents(request, prompts, indices, tick, seeds=seeds, start=start, watch=watch)
        with self.working("vae"):
            decoded = sampling.decode_latents(self.pipeline.vae, latents)
        found: dict[int, NotFinite] = {}
        steps, drawn = watch.spoilt(), seeds or [request.seed] * len(indices)
        for position, picture in enumerate(decoded):
            if position in steps or not is_finite(picture):
                clip = (prompts[position], drawn[position], indices[position])
                found[position] = self.not_finite(request, clip, steps.get(position), watch.steps)
        if found and spoilt is None:
            raise next(iter(found.values()))
        (found if spoilt is None else spoilt).update(found)
        pictures = sampling.as_levels(decoded.nan_to_num() if found else decoded)
        span = request.span(self.codec.clip_s)
        return keep_outside(pictures, start, span, self.codec) if start and span else pictures

    def not_finite(
        self, request: Request, clip: tuple[str, int, int], step: int | None, steps: int
    ) -> NotFinite:
        """Which clip (prompt, seed, index), where it happened, and the likely reason."""
        prompt, seed, index = clip
        unet, vae = (getattr(self.pipeline, part).dtype for part in ("unet", "vae"))
        where = f"after step {step} of {steps}" if step else "in the picture that the autoencoder makes of it"
        low = str(unet if step else vae).removeprefix("torch.")
        reason = f"the {'UNet' if step else 'autoencoder'} computes in {low}"
        way_out = "machine.precision=fp32" if low == "float16" else "an earlier checkpoint of the training"
        if low != "float16":
            reason = "its weights are finite, so they have probably diverged"
        if request.guidance > 10:
            reason, way_out = f"guidance={request.guidance:g} is high", f"guidance=3, or {way_out}"
        return NotFinite(
            f"clip {index} of '{prompt}' (seed {seed}) has numbers that are not finite, {where}",
            f"it would be a black image and a silent sound; {reason}",
            way_out,
        )


def pipeline_folder(folder: Path) -> Path:
    """The diffusers folder that `folder` is, or that lies in its export/."""
    for candidate in (Path(folder), Path(folder) / "export"):
        if (candidate / "model_index.json").is_file():
            return candidate
    if (Path(folder) / "export" / "config.json").is_file():
        raise Unsupported(
            f"{folder} is finished, but cannot generate anything by itself",
            "it is a part of a model, such as an autoencoder",
            f"`birdsd status {Path(folder).name}` says what it is trained for",
        )
    raise NotFound(
        f"{folder} holds no model to generate with",
        "expected a diffusers pipeline folder (model_index.json), an adapter for one (LoRA, tokens), or a "
        "finished run with one of them in export/",
        "finish the run first (the same `birdsd run train ...` command resumes it)",
    )


def _load(place: str) -> Any:
    from diffusers import StableDiffusionPipeline

    # Neither looks at sound; a folder that names them and lacks them is as good as any.
    without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    stored = [variant for part in Path(place).glob("*/") if (variant := variant_of(part))]
    try:
        with quiet_diffusers():
            return StableDiffusionPipeline.from_pretrained(
                place, **without, use_safetensors=True, variant=stored[0] if stored else None
            )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Damaged(
            f"cannot load the model in {place}: {reason}",
            "expected a StableDiffusionPipeline folder with safetensors",
            "export the run again, or name another folder",
        ) from error


def _noise_of(config: Any) -> dict[str, Any]:
    """What decides what a prediction means."""
    usual = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    usual |= {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    return {name: config.get(name, value) for name, value in usual.items()}


def _codec(place: str, lower: Sequence[Adapter]) -> dict[str, Any]:
    """The codec that was learnt with: the topmost adapter's, else the model's own."""
    for adapter in reversed(lower):
        if (adapter.folder / "codec.json").is_file():
            return read_codec(adapter.folder)
    return read_codec(Path(place))


def _merged(base_training: dict[str, Any], adapters: Sequence[Adapter]) -> dict[str, Any]:
    """What base and adapters have heard, together."""
    everything = [base_training, *(one.training for one in adapters)]
    together: dict[str, Any] = {
        name: list(dict.fromkeys(one for facts in everything for one in facts.get(name, ())))
        for name in ("species", "environments")
    }
    return {**base_training, **together, "synthetic": any(facts.get("synthetic") for facts in everything)}
