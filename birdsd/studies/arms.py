"""What is compared with what: the arms of `methods` and of `four_ways`, as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from birdsd.config import compose
from birdsd.errors import UserError, unknown_name
from birdsd.runs.run import RunStore
from birdsd.studies.study import AUTOENCODER, BASE, CLIP, KNOWN, NEW, Arm, Design, ShardSet, Training

if TYPE_CHECKING:
    from birdsd.schema import ComparisonConfig, FourWaysConfig, MethodsConfig

AESTHETIC = "aesthetic_gradients"
# A text encoder that never met a species' name tells the UNet little by it: fine-tuning tunes both, as
# starting from scratch does.
_WHOLE = ("method.train_text_encoder=true",)
CONTROL = Arm(
    BASE, "Base model", "Nothing is taught: the model that the others start from, asked in the same words.",
    BASE, loss="", control=True,
)  # fmt: skip
METHODS = (
    CONTROL,
    Arm("full", "Full fine-tuning", "Every weight of the UNet and of the text encoder learns.", "full"),
    Arm("lora", "LoRA", "Small low-rank updates of its layers learn; the model stays as it is.", "lora"),
    Arm(
        "textual_inversion", "Textual inversion", "Only the vector of one new word for each species learns.",
        "textual_inversion",
    ),
    Arm(
        "dreambooth", "DreamBooth on LoRA",
        "A rare word for each species, and pictures of the model's own that keep what it knew; on LoRA.",
        "dreambooth",
    ),
    Arm(
        "dreambooth_full", "DreamBooth on all weights",
        "The same with every weight of the UNet and of the text encoder.", "dreambooth_full",
    ),
    Arm(
        AESTHETIC, "Aesthetic gradients",
        "The base model; the text encoder is tuned for each prompt towards the mean picture of the species.",
        BASE, AESTHETIC, loss="",
    ),
    *(
        Arm(
            f"aesthetic_on_{name}", f"Aesthetic gradients on {title}",
            f"The same on top of {title}.", name, AESTHETIC, loss="",
        )
        for name, title in (
            ("textual_inversion", "textual inversion"), ("dreambooth", "DreamBooth"), ("lora", "LoRA"),
        )
    ),
    Arm(
        "scratch", "From scratch", "A new UNet and text encoder, which see nothing but the new species.",
        "scratch", knew_others=False,
    ),
)  # fmt: skip
FOUR_WAYS = (
    CONTROL,
    Arm(
        "finetune_song", "Fine-tuned on song", "The base model goes on with songs alone.",
        "finetune_song",
    ),
    Arm(
        "finetune_environment", "Fine-tuned on song + environment",
        "The base model goes on with songs, and with the same songs in environmental sound.",
        "finetune_environment",
    ),
    Arm(
        "scratch_song", "From scratch on song", "A new model that sees songs alone.",
        "scratch_song", knew_others=False,
    ),
    Arm(
        "scratch_environment", "From scratch on song + environment",
        "A new model that sees songs, and the same songs in environmental sound.",
        "scratch_environment", knew_others=False,
    ),
)  # fmt: skip


def methods(config: MethodsConfig) -> Design:
    """Every method on the new species' shards, from the same base."""
    count = config.samples
    given = _given(config)
    if config.clip:
        given[CLIP] = str(RunStore(Path(config.runs)).model_source(config.clip, "clip"))
    ways = {
        "full": Training("full", NEW, BASE, settings=_WHOLE, samples=count),
        "lora": Training("lora", NEW, BASE, samples=count),
        "textual_inversion": Training("textual_inversion", NEW, BASE, samples=count),
        "dreambooth": Training(
            "dreambooth", NEW, BASE, settings=("method.base_method=lora",), samples=count
        ),
        "dreambooth_full": Training(
            "dreambooth", NEW, BASE, settings=("method.base_method=full",), samples=count
        ),
        AESTHETIC: Training(AESTHETIC, NEW, BASE, clip=CLIP, samples=0),
        "scratch": Training("full", NEW, _latents(given), scratch=True, samples=count),
    }  # fmt: skip
    trainings = {**_foundations(config), CLIP: Training("clip", KNOWN, BASE, samples=config.clip_samples)}
    sets = {KNOWN: ShardSet(KNOWN), NEW: ShardSet(NEW), "all": ShardSet()}
    return Design("methods", sets, {**trainings, **ways}, _chosen(config.methods), given=given)


def four_ways(config: FourWaysConfig) -> Design:
    """Fine-tuned or from scratch, on song or on song and environment."""
    if not (config.environment or (config.data.environment and config.data.mixtures_per_clip)):
        raise UserError(
            "environment is not set",
            "four_ways needs environmental sound to mix in",
            "environment=FOLDER with a sub-folder for each environment (rain/, wind/, ...)",
        )
    count = config.samples
    given = _given(config)
    under = _latents(given)
    noisy = "new + environment"
    ways = {
        "finetune_song": Training("full", NEW, BASE, settings=_WHOLE, samples=count),
        "finetune_environment": Training("full", noisy, BASE, settings=_WHOLE, samples=count),
        "scratch_song": Training("full", NEW, under, scratch=True, samples=count),
        "scratch_environment": Training("full", noisy, under, scratch=True, samples=count),
    }
    sets = {
        KNOWN: ShardSet(KNOWN, environment=False),
        NEW: ShardSet(NEW, environment=False),
        noisy: ShardSet(NEW),
        "all": ShardSet(),
    }
    return Design(
        "four_ways", sets, {**_foundations(config), **ways}, FOUR_WAYS, in_environments=True, given=given
    )


def _given(config: ComparisonConfig) -> dict[str, str]:
    """The base model where none has to be trained: the one named, or that of a pretrained model preset."""
    model = compose("train", [f"model={config.model}"]).model
    source = config.base or (model.source if model.init == "pretrained" else None)
    return {BASE: str(RunStore(Path(config.runs)).model_source(source, "base"))} if source else {}


def _latents(given: dict[str, str]) -> str:
    """Whose autoencoder a model from scratch stands on: the same as the base's."""
    return BASE if BASE in given else AUTOENCODER


def _foundations(config: ComparisonConfig) -> dict[str, Training]:
    return {
        AUTOENCODER: Training("autoencoder", KNOWN, scratch=True, samples=config.autoencoder_samples),
        BASE: Training("full", KNOWN, AUTOENCODER, scratch=True, samples=config.base_samples),
    }


def _chosen(names: list[str]) -> list[Arm]:
    """The arms named, in our order, and the control that they are compared with."""
    known = [arm.name for arm in METHODS]
    for name in names:
        if name not in known:
            raise unknown_name("method to compare", name, known)
    return [arm for arm in METHODS if not names or arm.name in names or arm.control]
