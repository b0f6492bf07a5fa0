"""Upscalers that others trained: files of the ESRGAN family, read without running anything that they hold.

Compact and RRDB are built here, from the names and shapes of their tensors; every other architecture needs
the library spandrel, which is given the tensors and never the file. `.pt` is refused as what it mostly is: a
TorchScript program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from birdsd.diffusion.formats.tensors import Content, read_content
from birdsd.diffusion.learning.common import picture_of, read
from birdsd.diffusion.networks.finite import is_finite
from birdsd.diffusion.upscaling.measure import Measured, Tally
from birdsd.diffusion.upscaling.networks import SCALES, recognised, under_new_names
from birdsd.diffusion.upscaling.upscaler import Upscaler, of_three
from birdsd.errors import Damaged, Unsupported
from birdsd.files import sha256_file
from birdsd.sound.codec.grids import Grids, finer
from birdsd.sound.codec.protocol import Codec

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.shards.index import ShardIndex

_WRAPPED = ("params_ema", "params", "model", "generator")  # under one of these BasicSR and others keep them
_MOST_MEASURED = 16  # pictures; a large network takes half a minute for each
_SPANDREL_RADIUS = 32  # cells around a tile, for networks whose reach is not known


def read_foreign(path: Path, codec: Codec, device: Any = "cpu") -> Upscaler:
    """The upscaler of a file, for pictures of `codec`; its fine grid has the scale of the network."""
    tensors = _tensors(path)
    shape = recognised(tensors)
    if shape is not None:
        network: Any = shape.build()
        network.load_state_dict(tensors)
        network.eval().requires_grad_(False).to(device)
        scale, channels, radius = shape.scale, shape.channels, shape.radius
    else:
        network, scale, channels = _by_spandrel(path, tensors, device)
        radius = _SPANDREL_RADIUS
    if scale not in SCALES:
        raise Unsupported(
            f"upscale={path} is a network for {scale} times the size",
            "a picture becomes 2 or 4 times as high and wide",
            "take a file for one of these scales",
        )
    if channels not in (1, 3):
        raise Unsupported(
            f"upscale={path} takes pictures of {channels} channels",
            "it must take levels (1 channel) or colours (3)",
            "take another file",
        )
    grids = Grids.of(finer(codec, scale), codec)
    called: Callable[[Tensor], Tensor] = of_three(network) if channels == 3 else network
    return Upscaler(called, grids, radius, named=str(path), identity=sha256_file(path), device=device)


def measured_on(
    upscaler: Upscaler, index: ShardIndex, split: str | None = None, most: int = _MOST_MEASURED
) -> Measured:
    """How it does on up to `most` held-out spectrograms of shards (by default those of validation), beside
    bicubic interpolation.

    Their pictures are made coarser by its scale and upscaled again: that is the one upscaling of a model's
    own shards that has a truth.
    """
    scale, levels = upscaler.grids.scale, upscaler.levels
    split = split or ("validation" if index.count("validation") else "train")
    total = index.count(split)
    count = min(total, most)
    codec = index.known_codec("its pictures are to be compared")
    tally = Tally(levels, scale)
    for sample in read(index, split, [number * total // count for number in range(count)]):
        if sample.weight == 0:
            continue
        truth = torch.from_numpy(picture_of(sample, codec)).float()[:, None]
        rows, columns = (side // scale * scale for side in truth.shape[2:])
        truth = truth[:, :, :rows, :columns]
        coarse = levels.cells(truth, scale).clamp(0, 255).round()
        made = torch.from_numpy(upscaler.tiled(coarse)).float()[:, None]
        tally.add(made, truth, coarse)
    return tally.result()


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix.lower() == ".pt":
        raise Unsupported(
            f"upscale={path} is a .pt file",
            "among upscalers that is a TorchScript program, and birdsd runs no code out of files",
            "take the same weights as .safetensors or .pth",
        )
    content = read_content(path)
    tensors = under_new_names(_unwrapped(content))
    if not tensors:
        raise Damaged(f"{path} holds no tensors", "expected the weights of a network", "name another file")
    if broken := next((name for name, one in tensors.items() if not is_finite(one)), None):
        raise Damaged(
            f"{path} is damaged: {broken} holds numbers that are not finite", "", "fetch the file again"
        )
    return tensors


def _unwrapped(content: Content) -> dict[str, Tensor]:
    """The tensors by name, in float32; those in a dict of their own first."""
    found: Mapping[str, Any] = content.tensors
    for name in _WRAPPED:
        inner = content.values.get(name)
        if isinstance(inner, Mapping) and any(isinstance(one, torch.Tensor) for one in inner.values()):
            found = inner
            break
    plain = {str(name): one.detach() for name, one in found.items() if isinstance(one, torch.Tensor)}
    plain = {name: one.float() if one.is_floating_point() else one for name, one in plain.items()}
    whole = all(name.startswith("module.") for name in plain)
    return {name.removeprefix("module.") if whole else name: one for name, one in plain.items()}


def _by_spandrel(path: Path, tensors: Mapping[str, Tensor], device: Any) -> tuple[Any, int, int]:
    """A network of another architecture, its scale, and how many channels it takes."""
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except (ImportError, OSError, RuntimeError) as error:
        raise Unsupported(
            f"upscale={path} is no Compact and no RRDB network ({', '.join(sorted(tensors)[:3])}, ...)",
            f"other architectures need the library spandrel, which cannot be imported here ({error})",
            "pip install spandrel, or take a Compact or RRDB file",
        ) from error
    try:
        found: Any = ModelLoader(device).load_from_state_dict(dict(tensors))
    except Exception as error:  # spandrel's own errors, and whatever a wrong shape raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Unsupported(
            f"upscale={path} is no network that spandrel knows: {reason}",
            "expected an upscaler of the ESRGAN family",
            "take another file",
        ) from error
    if not isinstance(found, ImageModelDescriptor) or found.input_channels != found.output_channels:
        raise Unsupported(
            f"upscale={path} does not upscale pictures", "expected an upscaler", "take another file"
        )
    found.eval()

    def call(picture: Tensor) -> Tensor:
        """One picture at a time, as spandrel has it; its answer cut to size."""
        with torch.no_grad():
            made = torch.cat([found(one[None].clamp(0, 1)) for one in picture])
        high, wide = (side * found.scale for side in picture.shape[2:])
        return functional.pad(made, (0, wide - made.shape[3], 0, high - made.shape[2]), mode="replicate")

    return call, int(found.scale), int(found.input_channels)
