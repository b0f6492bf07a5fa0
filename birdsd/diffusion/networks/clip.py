"""A CLIP with its image tower: loaded, built small, and asked for the features of spectrograms.

Stable Diffusion's text encoder is the text half of such a model; aesthetic gradients need the other half
too. CLIP's own preparation cuts a square out of the middle of a photograph. A spectrogram's axes are time
and frequency, in units of no common measure: it is squeezed into the square instead, so that nothing that
sings is cut off, and no patches are spent on empty bars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.networks.finite import check_networks
from birdsd.diffusion.networks.models import seeded
from birdsd.errors import BadValue, Damaged, NotFound, NotSet
from birdsd.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

# OpenAI's, used where a CLIP comes without a preprocessor_config.json.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_BICUBIC, _BILINEAR = 3, 2  # Pillow's numbers for them
_WAY_OUT = (
    "take a whole CLIP (a CLIPModel folder, or the hub id openai/clip-vit-large-patch14 for Stable Diffusion "
    "1.5), or train an image tower for a text encoder of your own with method=clip"
)
# As loud as the patches. CLIP's 0.02 counts on millions of pictures; where a patch lies is its pitch, and
# a small tower took half of a short training to notice.
_POSITION_STD = 1.0
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Clip:
    """A transformers CLIPModel in float32, and how its pictures are prepared."""

    model: Any
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD
    resample: int = _BICUBIC

    @property
    def text_projection(self) -> Tensor:
        """[d, width]: from the text encoder's last state to the space of the features."""
        weight: Tensor = self.model.text_projection.weight
        return weight

    def prepared(self, pixels: Tensor) -> Tensor:
        """A codec's uint8 [B, C, H, W] -> float32 [B, 3, size, size], as the image tower takes it."""
        from birdsd.diffusion.networks.models import to_range

        return self.squeezed(to_range(pixels))

    def squeezed(self, image: Tensor) -> Tensor:
        """The same of float32 [B, 3, H, W] in -1..1; gradients pass."""
        import torch
        from torch.nn import functional

        side = int(self.model.config.vision_config.image_size)
        mode = "bilinear" if self.resample == _BILINEAR else "bicubic"
        values = (image + 1) / 2
        squeezed = functional.interpolate(values, (side, side), mode=mode, antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(row, device=image.device)[:, None, None] for row in (self.mean, self.std))
        return (squeezed - mean) / std

    def image_features(self, pixels: Tensor) -> Tensor:
        """float32 [B, d], not normalised, of a codec's pictures uint8 [B, C, H, W]."""
        import torch

        with torch.no_grad():
            states = self.model.vision_model(pixel_values=self.prepared(pixels)).pooler_output
            features: Tensor = self.model.visual_projection(states)
        return features.float()

    def save(self, folder: Path) -> None:
        """Write what CLIPModel and CLIPImageProcessor read."""
        self.model.save_pretrained(str(folder), safe_serialization=True)
        side = int(self.model.config.vision_config.image_size)
        square = {"height": side, "width": side}
        facts = {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True, "size": square, "resample": self.resample,
            "do_center_crop": False, "crop_size": square, "do_convert_rgb": True,
            "do_rescale": True, "rescale_factor": 1 / 255,
            "do_normalize": True, "image_mean": list(self.mean), "image_std": list(self.std),
        }  # fmt: skip
        write_json(folder / PREPROCESSOR, facts)


def load_clip(source: str | None) -> Clip:
    """The CLIP of a run, an exported or other CLIPModel folder, or a hub id, in eval mode and float32.

    One without image tower, or with weights missing, is refused.
    """
    import transformers

    if not source:
        raise NotSet(
            "model.clip is not set", "aesthetic gradients need a CLIP with its image tower", _WAY_OUT
        )
    place = clip_place(source)
    _check_whole(source, place)
    try:
        kind: Any = transformers.CLIPModel  # its annotations know nothing of output_loading_info
        model, loading = kind.from_pretrained(place, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # the libraries raise OSError, ValueError, SafetensorError, ...
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(f"cannot load the CLIP of model.clip={source}: {reason[0]}", "", _WAY_OUT) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise NotFound(
            f"the weights of model.clip={source} lack {len(missing)} tensors, the first is {missing[0]}",
            "a CLIP has a text tower, an image tower and both projections",
            _WAY_OUT,
        )
    check_networks({"clip": model}, f"model.clip={source}")
    return Clip(model.float().eval().requires_grad_(False), **_preparation(place))


def clip_place(source: str) -> str:
    """The folder or hub id itself: of a run the export."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    folder = path / "export" if (path / "export").is_dir() else path
    if (folder / "model_index.json").is_file():
        raise NotFound(
            f"model.clip={source} is a diffusion pipeline",
            "of CLIP it holds the text encoder alone; what is missing is the image tower (vision_model and "
            "visual_projection)",
            _WAY_OUT,
        )
    return str(folder)


def _check_whole(source: str, place: str) -> None:
    from transformers import CLIPConfig

    if Path(place).is_dir() and not (Path(place) / "config.json").is_file():
        raise NotFound(f"model.clip={source} has no config.json", "a CLIPModel folder has one", _WAY_OUT)
    try:
        settings, _ = CLIPConfig.get_config_dict(place)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(
            f"cannot read the configuration of model.clip={source}: {reason[0]}",
            "expected a run of method=clip, a CLIPModel folder or a hub id",
            "check the path; on a machine without internet download the model elsewhere and give its folder",
        ) from error
    if "vision_config" not in settings or "text_config" not in settings:
        kind = settings.get("model_type", "unknown")
        raise NotFound(
            f"model.clip={source} is a model of type '{kind}' without the image tower of a CLIP",
            "what is missing is vision_model and visual_projection: the text tower alone sees no pictures",
            _WAY_OUT,
        )


def _preparation(place: str) -> dict[str, Any]:
    """How its processor configuration prepares pictures; OpenAI's way where there is none."""
    from transformers.utils import cached_file

    try:
        path = cached_file(place, PREPROCESSOR, _raise_exceptions_for_missing_entries=False)
    except OSError:
        path = None
    settings: Mapping[str, Any] = read_json(Path(path), "CLIP's processor configuration") if path else {}
    return {
        "mean": tuple(float(value) for value in settings.get("image_mean") or _MEAN),
        "std": tuple(float(value) for value in settings.get("image_std") or _STD),
        "resample": int(settings.get("resample", _BICUBIC)),
    }


def build_clip(
    text_encoder: Any, tokenizer: Any, vision: Mapping[str, Any], seed: int, projection_dim: int = 0
) -> Clip:
    """A CLIP around a copy of a text encoder, with an untrained image tower and untrained projections.

    `vision`: the arguments of transformers' CLIPVisionConfig. `projection_dim` 0: as wide as the text.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPConfig, CLIPModel

    text = text_encoder.config.to_dict()
    # The text model's own pooling must find the end of the text, whatever tokens were added to it.
    text.update(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
    width = projection_dim or int(text_encoder.config.hidden_size)
    text["projection_dim"] = width
    try:
        config = CLIPConfig(
            text_config=text, vision_config={**vision, "projection_dim": width}, projection_dim=width
        )
        with seeded(seed, "weights", "clip"), torch.no_grad():
            model: Any = CLIPModel(config)
            model.vision_model.embeddings.position_embedding.weight.normal_(std=_POSITION_STD)
    except (TypeError, ValueError, ZeroDivisionError, StrictDataclassError) as error:
        raise BadValue(
            f"the image tower cannot be built: {error}",
            f"it was given {dict(vision)}",
            "the arguments are those of transformers' CLIPVisionConfig",
        ) from error
    model.text_model.load_state_dict(text_encoder.state_dict())
    return Clip(model.float().eval(), (0.5,) * 3, (0.5,) * 3)
