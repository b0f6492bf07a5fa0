"""The folder of an upscaler: weights under their published names, and the two grids that they lie between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.diffusion import export
from birdsd.diffusion.networks.finite import is_finite
from birdsd.diffusion.upscaling.networks import Shape, recognised
from birdsd.errors import UserError
from birdsd.files import read_json, write_json
from birdsd.sound.codec.grids import Grids
from birdsd.sound.codec.protocol import Codec

if TYPE_CHECKING:
    from torch import Tensor

KIND = "upscaler"
_WEIGHTS = ("upscaler.safetensors", "upscaler-sharp.safetensors")  # sharpness 0 and 1
_COARSE = "coarse.json"


@dataclass(frozen=True)
class Stored:
    """What lies in an upscaler's folder; `sets` are the weights of sharpness 0 and, where it has a
    sharper set, of 1."""

    shape: Shape
    sets: tuple[Mapping[str, Tensor], ...]
    grids: Grids
    identity: str

    def weights(self, sharpness: float) -> dict[str, Tensor]:
        """The mixture of both sets (network interpolation, arXiv 1809.00219)."""
        if not 0 <= sharpness <= 1:
            raise UserError(
                f"upscale_sharpness={sharpness:g}",
                "it goes from 0 (smooth) to 1 (sharp)",
                "upscale_sharpness=0.5",
            )
        if sharpness and len(self.sets) < 2:
            raise UserError(
                f"upscale_sharpness={sharpness:g}",
                "this upscaler has one set of weights: no sharper one was trained",
                "leave it out, or train one with method.detail_weight=1",
            )
        plain, sharp = self.sets[0], self.sets[-1]
        return {name: (1 - sharpness) * plain[name] + sharpness * sharp[name] for name in plain}


def write_upscaler(
    folder: Path,
    shape: Shape,
    sets: Sequence[Mapping[str, Tensor]],
    grids: Grids,
    heard: export.TrainingSet,
    about: Mapping[str, Any],
) -> Path:
    """Write the folder; chaiNNer and others load its .safetensors files as they are."""
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        for name, weights in zip(_WEIGHTS, sets, strict=False):
            plain = {key: value.detach().float().cpu().contiguous() for key, value in weights.items()}
            save_file(plain, str(partial / name), {"format": "pt"})
        write_json(partial / "config.json", {"_class_name": KIND, **asdict(shape)})
        write_json(partial / _COARSE, grids.coarse.to_json())
        export.write_companions(partial, grids.fine.to_json(), heard, {"kind": KIND, **about})

    return export.write_folder(folder, write)


def holds_upscaler(folder: Path) -> bool:
    """Whether a folder, or the export/ in it, is that of an upscaler."""
    return _place(folder) is not None


def _place(folder: Path) -> Path | None:
    for place in (Path(folder), Path(folder) / "export"):
        if (place / _WEIGHTS[0]).is_file() and (place / _COARSE).is_file():
            return place
    return None


def read_upscaler(folder: Path, setting: str = "upscale") -> Stored:
    """Read a folder that `write_upscaler` made, and that `setting` names; `UserError` for what is not one, or
    is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = _place(folder)
    if place is None:
        raise UserError(
            f"{setting}={folder} holds no upscaler",
            "expected a finished run of method=upscaler",
            "train one: birdsd run train method=upscaler data.shards=FINE_SHARDS",
        )
    try:
        sets = tuple(load_file(str(place / name)) for name in _WEIGHTS if (place / name).is_file())
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the weights in {place} cannot be read: {reason}", "", "export the run again"
        ) from error
    shape = recognised(sets[0])
    broken = next((name for one in sets for name, tensor in one.items() if not is_finite(tensor)), None)
    if shape is None or shape.channels != 1 or any(recognised(one) != shape for one in sets) or broken:
        raise UserError(
            f"the weights in {place} are damaged" + (f": {broken} is not finite" if broken else ""),
            "expected those of one Compact or RRDB network of one channel",
            "export the run again",
        )
    coarse = Codec.from_json(read_json(place / _COARSE, "codec of the coarse grid"))
    grids = Grids.of(Codec.from_json(export.read_codec(place)), coarse)
    return Stored(shape, sets, grids, export.weights_fingerprint(place))
