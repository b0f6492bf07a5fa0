"""The four networks of Stable Diffusion, made from a configuration or loaded from a folder or hub id.

Sizes in images and latents are [height, width] = [frequency, time]. A codec's image of bands x frames
becomes latents of (bands / f) x (frames / f), where f = 2 ** (levels of the autoencoder - 1).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from birdsd.diffusion.networks.finite import check_networks
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, Unsupported, UserError
from birdsd.files import fingerprint, read_json, sha256_file
from birdsd.method_facts import adapter_kinds
from birdsd.randomness import generator

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

# Weights from elsewhere are read as safetensors only: nothing foreign is unpickled.
_LOADING = {"use_safetensors": True}


def seeded(*key: int | str) -> Any:
    """A context in which torch's own draws (initial weights) depend on `key` alone; restored on leaving."""
    import torch

    @contextlib.contextmanager
    def scope() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(generator(*key).integers(2**62)))
            yield

    return scope()


def build_vae(arguments: Mapping[str, Any], seed: int = 0) -> AutoencoderKL:
    """An untrained AutoencoderKL; `arguments` are its constructor's, block types follow from the channels.

    It takes and gives three channels, as every published one, so that exports are ordinary pipelines.
    """
    import torch
    from diffusers import AutoencoderKL

    given = {"latent_channels": 4, "block_out_channels": (64,), **arguments}
    levels = len(given["block_out_channels"])
    defaults = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": min(32, int(given["block_out_channels"][0])),
    }
    with seeded(seed, "weights", "vae"), _explained("vae", given):
        vae: Any = AutoencoderKL(**_plain({**defaults, **given}))
        keep_signal(vae)
        with torch.no_grad():  # narrow at first: latents that are mostly noise teach the decoder nothing
            if vae.quant_conv is not None:
                vae.quant_conv.bias[vae.config.latent_channels :] -= 5.0
        return vae


def keep_signal(network: Any) -> None:
    """Initial weights that carry the input through: no biases, variance 1 / fan-in, quiet residuals.

    PyTorch's own shrink the signal by 0.58 a convolution beside biases that stay, so that after the first
    norm a deep narrow network sees little but a constant; a third of a short training went into leaving that
    plateau.
    """
    from torch import nn

    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            quiet = 0.3 if name.endswith(("conv2", "to_out.0")) else 1.0
            nn.init.normal_(module.weight, std=quiet * module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def build_unet(
    arguments: Mapping[str, Any],
    *,
    latent_channels: int,
    sample_size: tuple[int, int],
    context_width: int,
    seed: int = 0,
) -> UNet2DConditionModel:
    """An untrained UNet2DConditionModel for latents [latent_channels, *sample_size] and text [n,
    context_width].
    """
    from diffusers import UNet2DConditionModel

    given = dict(arguments)
    channels = given.get("block_out_channels", (320, 640, 1280, 1280))
    types = given.get("down_block_types")
    if types is not None:
        _check_factor("unet", len(types), sample_size)
        given.setdefault("up_block_types", [_UP[name] for name in reversed(types) if name in _UP])
    defaults = {
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "sample_size": list(sample_size),
        "cross_attention_dim": context_width,
        "norm_num_groups": min(32, int(channels[0])),
    }
    with seeded(seed, "weights", "unet"), _explained("unet", given):
        return UNet2DConditionModel(**_plain({**defaults, **given}))


_UP = {"DownBlock2D": "UpBlock2D", "CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}


def build_text_encoder(
    arguments: Mapping[str, Any], *, vocabulary: int, max_tokens: int, seed: int = 0
) -> CLIPTextModel:
    """An untrained CLIP text model; the tokenizer's last two tokens are start and end of text."""
    from transformers import CLIPTextConfig, CLIPTextModel

    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    given = {"vocab_size": vocabulary, "max_position_embeddings": max_tokens, **ends, **arguments}
    with seeded(seed, "weights", "text"), _explained("text", arguments):
        return CLIPTextModel(CLIPTextConfig(**_plain(given)))


def downsampling(vae_config: Any) -> int:
    """By which factor latents are smaller than images, per side."""
    return 2 ** (len(vae_config.block_out_channels) - 1)


def latent_size(vae_config: Any, bands: int, frames: int) -> tuple[int, int]:
    """[height, width] of the latents of a bands x frames image; refuses sizes that do not divide."""
    factor = downsampling(vae_config)
    for name, value in (("bands", bands), ("frames", frames)):
        if value % factor:
            raise Mismatch(
                f"codec.{name}={value} does not fit this autoencoder",
                f"it reduces every side by {factor}, so bands and frames must be multiples of {factor}",
                f"prepare the shards with codec.{name}={max(1, round(value / factor)) * factor}",
            )
    return bands // factor, frames // factor


def weights_key(module: Any) -> str:
    """A hash of a module's weights and configuration: what it computes, wherever its files lie."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    settings = {key: value for key, value in dict(module.config).items() if not key.startswith("_")}
    return fingerprint([digest.hexdigest(), settings])


def vae_config(source: str) -> Any:
    """What an autoencoder's configuration says, as attributes, without loading its weights."""
    import inspect

    from diffusers import AutoencoderKL

    folder = part_folder(source, "vae", "model.autoencoder")
    parameters = inspect.signature(AutoencoderKL.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return SimpleNamespace(**{**defaults, **read_json(folder / "config.json", "configuration")})


def part_key(source: str, part: str) -> str:
    """A hash of a part's configuration and weights as they lie in its files, which are not loaded for it; of
    a hub id that and the revision."""
    folder = part_folder(source, part, "model.source")
    settings = {k: v for k, v in read_json(folder / "config.json").items() if not k.startswith("_")}
    if not Path(source).expanduser().exists():
        return fingerprint([source, folder.parent.name, part, settings])
    return fingerprint([settings, [sha256_file(path) for path in sorted(folder.glob("*.safetensors"))]])


def part_folder(source: str, part: str, setting: str) -> Path:
    """The folder on this machine that holds a part's config.json; of a hub id the cached one, fetched if need
    be."""
    folder, sub = locate(source, part)
    if not Path(source).expanduser().exists():
        from huggingface_hub import hf_hub_download

        with _loading(part, f"{setting}={source}"):
            return Path(hf_hub_download(folder, "config.json", subfolder=sub)).parent
    return Path(folder, sub or "")


def load_vae(source: str) -> AutoencoderKL:
    """The autoencoder of a finished run, an exported folder, a diffusers pipeline folder or a hub id."""
    from diffusers import AutoencoderKL

    return _load(AutoencoderKL, source, "vae", "model.autoencoder")


def load_unet(source: str) -> UNet2DConditionModel:
    """The UNet of a run, a diffusers pipeline folder or a hub id."""
    from diffusers import UNet2DConditionModel

    return _load(UNet2DConditionModel, source, "unet", "model.source")


def load_text(source: str) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """The text encoder and its tokenizer of a run, a diffusers pipeline folder or a hub id."""
    return load_text_encoder(source), load_tokenizer(source)


def load_text_encoder(source: str) -> CLIPTextModel:
    """The text encoder of a run, a diffusers pipeline folder or a hub id."""
    from transformers import CLIPTextModel

    return _load(CLIPTextModel, source, "text_encoder", "model.source")


def load_tokenizer(source: str) -> CLIPTokenizer:
    """The tokenizer of a run, a diffusers pipeline folder or a hub id; its texts are as long as the text
    encoder beside it takes."""
    from transformers import CLIPTextConfig, CLIPTokenizer

    tokenizer = _load(CLIPTokenizer, source, "tokenizer", "model.source", {})
    settings = read_json(part_folder(source, "text_encoder", "model.source") / "config.json", "configuration")
    limit = int(settings.get("max_position_embeddings", CLIPTextConfig().max_position_embeddings))
    if tokenizer.model_max_length > limit:
        tokenizer.model_max_length = limit
    return tokenizer


def scheduler_config(source: str) -> dict[str, Any]:
    """The noise schedule that a pretrained pipeline was trained with; {} where the folder has none."""
    from diffusers import DDIMScheduler

    try:
        folder, subfolder = locate(source, "scheduler")
        return dict(DDIMScheduler.load_config(folder, subfolder=subfolder))
    except (OSError, UserError):
        return {}


def locate(source: str, part: str) -> tuple[str, str | None]:
    """Where `part` ("vae", "unet", ...) lies: (folder or hub id, sub-folder or None).

    A local `source` may be a pipeline folder, the part's own folder, or a run whose `export/` holds one.
    """
    path = Path(source).expanduser()
    if not path.exists():
        return str(source), part  # a hub id; whether it exists is for the loader to say
    for folder in (path, path / "export"):
        kind = read_json(folder / "training.json").get("kind") if (folder / "training.json").is_file() else ""
        if kind in adapter_kinds():
            raise Unsupported(
                f"{path} is only an adapter ({kind}) for a model, and contains no {part}",
                "training starts from a whole model",
                f"merge it: birdsd export {path} --format diffusers, and name that folder",
            )
        if (folder / part).is_dir():
            return str(folder), part
        if part in ("vae", "unet") and _class_name(folder) == _CLASSES[part]:
            return str(folder), None
    raise NotFound(
        f"{path} holds no {part}",
        f"expected a diffusers folder with a sub-folder '{part}', or a finished run with export/",
        "finish that run first, or name another folder or hub id",
    )


def variant_of(folder: str | Path) -> str | None:
    """ "fp16" where a part's folder holds its weights as model.fp16.safetensors alone; None where it has the
    plain ones, and for a hub id."""
    names = [path.name for path in Path(folder).glob("*.safetensors")]
    marked = [match[1] for name in names if (match := _VARIANT.search(name))]
    return marked[0] if marked and len(marked) == len(names) else None


_VARIANT = re.compile(r"\.(fp16|bf16)(?:-\d+-of-\d+)?\.safetensors$")
_CLASSES = {"vae": "AutoencoderKL", "unet": "UNet2DConditionModel"}


def _class_name(folder: Path) -> str:
    config = folder / "config.json"
    return str(read_json(config).get("_class_name", "")) if config.is_file() else ""


def _load(kind: Any, source: str, part: str, setting: str, options: Mapping[str, Any] = _LOADING) -> Any:
    """`kind.from_pretrained` with every way in which it can fail turned into one sentence."""
    folder, subfolder = locate(source, part)
    variant = variant_of(Path(folder, subfolder or ""))
    options = {**options, **({"variant": variant} if variant else {})}
    with _loading(part, f"{setting}={source}"):
        loaded = kind.from_pretrained(folder, **({"subfolder": subfolder} if subfolder else {}), **options)
    if not hasattr(loaded, "float"):
        return loaded
    check_networks({part: loaded}, f"{setting}={source}")
    return loaded.float().eval()


@contextlib.contextmanager
def _loading(part: str, asked: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, SafetensorError, ...
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Damaged(
            f"cannot load the {part} of {asked}: {reason[0]}",
            "it must be a local diffusers folder or a hub id whose weights are safetensors",
            "check the path; on a machine without internet download the model elsewhere and give its folder",
        ) from error


def _check_factor(name: str, levels: int, sample_size: tuple[int, int]) -> None:
    factor = 2 ** (levels - 1)
    if any(side % factor for side in sample_size):
        raise Mismatch(
            f"model.{name} has {levels} levels, and latents of {sample_size[0]} x {sample_size[1]}",
            f"each level below the first halves them, so both sides must be multiples of {factor}",
            "take fewer levels in down_block_types, or a codec with more bands and frames",
        )


class _explained:
    """Constructor errors of the libraries, as a sentence that names the part of the configuration."""

    def __init__(self, part: str, given: Mapping[str, Any]) -> None:
        self.part, self.given = part, dict(given)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (TypeError, ValueError, KeyError, AssertionError)):
            raise BadValue(
                f"model.{self.part} cannot be built: {error}",
                f"it was given {self.given}",
                "the arguments are those of the diffusers or transformers class",
            ) from error


def _plain(value: Any) -> Any:
    """Lists and dicts of the configuration as plain containers (OmegaConf's are refused by the libraries)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return value
    return [_plain(item) for item in value]


def to_range(pixels: Tensor) -> Tensor:
    """uint8 [B, C, H, W] of a codec -> float32 [B, 3, H, W] in -1..1.

    Mono is repeated; stereo becomes left, right and their mean: three channels, as every published
    autoencoder has.
    """
    values = pixels.float() / 127.5 - 1
    if values.shape[1] == 1:
        return values.expand(-1, 3, -1, -1).contiguous()
    if values.shape[1] == 2:
        return torch.cat([values, values.mean(1, keepdim=True)], dim=1)
    return values


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """eval() for a while, then each sub-module back to the mode it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
