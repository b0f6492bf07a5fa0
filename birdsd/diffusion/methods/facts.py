"""What each of our methods says of itself (see `birdsd.method_facts`). No torch is imported here: planning,
checks and what a login node runs ask these facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from birdsd.diffusion import parameters
from birdsd.diffusion.method_configs import (
    AutoencoderConfig,
    ClassifierConfig,
    DreamBoothConfig,
    DreamBoothOnFullConfig,
    DreamBoothOnLoraConfig,
    FullConfig,
    LoraConfig,
    TextualInversionConfig,
    UpscalerConfig,
)
from birdsd.method_facts import (
    AESTHETIC,
    AUTOENCODER,
    CLASSIFIER,
    CLIP,
    EMBEDDING,
    LORA,
    PIPELINE,
    UPSCALER,
    MethodFacts,
    Next,
    settings_of,
)
from birdsd.schema import NOISE_DEFAULTS, TrainConfig

_WEIGHTS = ("train_text_encoder", "learns")
_ADVERSARY = ("adversary_start_samples", "adversary_learning_rate", "adversary_channels")
_CLASS_IMAGES = ("class_prompts", "class_samples", "class_steps", "class_guidance")
_LORA_DEFAULTS = {"rank": 8, "targets": ["attention"]}


def _autoencoder_unused(settings: TrainConfig) -> Iterator[tuple[str, str]]:
    method = settings_of(settings.method, AutoencoderConfig)
    if not method.adversary_weight:
        for name in _ADVERSARY:
            yield f"method.{name}", "method.adversary_weight=0 trains no discriminator"
    if not method.feature_weight:
        yield "model.clip", "method.feature_weight=0 compares no features"


def _autoencoder_heaviest(settings: TrainConfig) -> None:
    settings.model.init, settings.model.source = "scratch", None
    settings_of(settings.method, AutoencoderConfig).adversary_start_samples = 0


def _upscaler_unused(settings: TrainConfig) -> Iterator[tuple[str, str]]:
    method = settings_of(settings.method, UpscalerConfig)
    if not method.adversary_weight:
        for name in _ADVERSARY:
            yield f"method.{name}", "method.adversary_weight=0 trains no discriminator"
    elif method.adversary_start_samples >= int(settings.optim.total_samples or 0):
        yield "method.adversary_weight", "method.adversary_start_samples lies behind the last sample"
    if not settings.model.autoencoder:
        yield "method.autoencoder_share", "there is no model.autoencoder for coarse pictures to go through"
    if method.architecture != "rrdb":
        yield "method.growth", f"method.architecture={method.architecture} has no dense blocks"


def _upscaler_heaviest(settings: TrainConfig) -> None:
    settings.model.init, settings.model.source = "scratch", None
    settings_of(settings.method, UpscalerConfig).adversary_start_samples = 0


def _tokens_unused(settings: TrainConfig) -> Iterator[tuple[str, str]]:
    if settings_of(settings.method, TextualInversionConfig).tokens != "style":
        yield "method.style_token", "method.tokens=per_species has a token for each species"


def _dreambooth_unused(settings: TrainConfig) -> Iterator[tuple[str, str]]:
    if not settings_of(settings.method, DreamBoothConfig).prior_weight:
        for name in _CLASS_IMAGES:
            yield f"method.{name}", "method.prior_weight=0 makes no pictures of the class"


def _dreambooth_images(settings: Mapping[str, Any]) -> dict[str, Any]:
    method = settings["method"]
    return {"seed": settings["seed"], "steps": method["class_steps"], "guidance": method["class_guidance"]}


# From scratch on few clips: a short, hot schedule with an average over its last tenth.
_CLASSIFIER_OPTIM = {
    "learning_rate": 2e-3, "beta2": 0.99, "weight_decay": 0.05, "global_batch": 32, "total_samples": 16_000,
    "warmup_samples": 1_000, "ema_decay": 0.98,
}  # fmt: skip
_OF_MODELS = ("init", "source", "autoencoder", "unet", "vae", "text", "vocabulary_size", "max_tokens")
_BACKGROUND = ("background_snr_low_db", "background_snr_high_db")


def _classifier_unused(settings: TrainConfig) -> Iterator[tuple[str, str]]:
    method = settings_of(settings.method, ClassifierConfig)
    for name in _OF_MODELS:
        yield f"model.{name}", "a classifier has a network of its own (method.network)"
    if method.network != "timm":
        yield "method.backbone", f"method.network={method.network} has its own layers"
    else:
        yield "method.width", "the backbone has its own"
    if method.network != "crnn":
        yield "method.frame_weight", f"method.network={method.network} does not say when"
    if method.loss != "focal":
        yield from (
            (f"method.{name}", f"method.loss={method.loss}") for name in ("focal_gamma", "focal_alpha")
        )
    if not method.mixup:
        yield "method.mixup_snr_db", "method.mixup=0 mixes nothing in"
    if not method.background:
        yield from ((f"method.{name}", "method.background=0 has none") for name in _BACKGROUND)
    if not (method.band_masks or method.time_masks):
        yield "method.mask_share", "method.band_masks=0 and method.time_masks=0 leave nothing out"


FACTS = (
    MethodFacts(
        "autoencoder",
        "birdsd.diffusion.methods.autoencoder:AutoencoderMethod",
        AUTOENCODER,
        parameters.of_autoencoder,
        config=AutoencoderConfig,
        models=("clip",),
        source_parts=("vae",),
        without_effect=_autoencoder_unused,
        heaviest=_autoencoder_heaviest,
        next=Next("full", "autoencoder", "trains a diffusion model on it"),
    ),
    MethodFacts(
        "full",
        "birdsd.diffusion.methods.full:FullMethod",
        PIPELINE,
        parameters.of_weights,
        config=FullConfig,
        defaults=dict.fromkeys(NOISE_DEFAULTS),
        sizes=_WEIGHTS,
        caches=True,
    ),
    MethodFacts(
        "lora",
        "birdsd.diffusion.methods.lora:LoraMethod",
        LORA,
        parameters.of_updates,
        config=LoraConfig,
        defaults=_LORA_DEFAULTS,
        sizes=("rank", "targets"),
        caches=True,
    ),
    MethodFacts(
        "textual_inversion",
        "birdsd.diffusion.methods.textual_inversion:TextualInversionMethod",
        EMBEDDING,
        parameters.of_tokens,
        config=TextualInversionConfig,
        defaults={"vectors": 1},
        sizes=("tokens", "vectors"),
        word_per_species=True,
        caches=True,
        without_effect=_tokens_unused,
    ),
    MethodFacts(
        "dreambooth",
        "birdsd.diffusion.methods.dreambooth:DreamBoothOnLora",
        LORA,
        parameters.of_updates,
        form="lora",
        config=DreamBoothOnLoraConfig,
        defaults=_LORA_DEFAULTS,
        sizes=("base_method", "rank", "targets"),
        caches=True,
        class_images=_dreambooth_images,
        without_effect=_dreambooth_unused,
    ),
    MethodFacts(
        "dreambooth",
        "birdsd.diffusion.methods.dreambooth:DreamBoothOnFull",
        PIPELINE,
        parameters.of_weights,
        form="full",
        config=DreamBoothOnFullConfig,
        sizes=("base_method", *_WEIGHTS),
        caches=True,
        class_images=_dreambooth_images,
        without_effect=_dreambooth_unused,
    ),
    MethodFacts(
        "clip",
        "birdsd.diffusion.methods.clip:ClipMethod",
        CLIP,
        parameters.of_image_tower,
        models=("clip",),
        next=Next(
            "aesthetic_gradients", "clip", "computes the aesthetic embedding of each species", pretrained=True
        ),
    ),
    MethodFacts(
        "upscaler",
        "birdsd.diffusion.methods.upscaler:UpscalerMethod",
        UPSCALER,
        parameters.of_upscaler,
        config=UpscalerConfig,
        defaults={"adversary_start_samples": 12_000},
        sizes=("scale", "architecture", "features", "depth", "growth"),
        optional=("autoencoder",),
        source_parts=(),
        without_effect=_upscaler_unused,
        heaviest=_upscaler_heaviest,
    ),
    MethodFacts(
        "classifier",
        "birdsd.diffusion.methods.classifier:ClassifierMethod",
        CLASSIFIER,
        parameters.of_classifier,
        config=ClassifierConfig,
        optim=_CLASSIFIER_OPTIM,
        sizes=("network", "width", "classes"),
        models=(),
        source_parts=(),
        without_effect=_classifier_unused,
    ),
    MethodFacts(
        "aesthetic_gradients",
        "birdsd.diffusion.methods.aesthetic_gradients:AestheticGradientsMethod",
        AESTHETIC,
        parameters.of_nothing,
        trains=False,
        models=("clip",),
    ),
)  # fmt: skip
