"""The folder of an upscaler: weights under their published names, and the two grids that they lie between."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.diffusion import export
from birdsd.diffusion.networks.finite import is_finite
from birdsd.diffusion.upscaling.networks import Shape, recognised
from birdsd.errors import BadValue, Damaged, NotFound, Unsupported
from birdsd.files import read_json, write_json
from birdsd.sound.codec.grids import Grids
from birdsd.sound.codec.protocol import Codec

if TYPE_CHECKING:
    from torch import Tensor

KIND = "upscaler"
_WEIGHTS = ("upscaler.safetensors", "upscaler-sharp.safetensors")  # sharpness 0 and 1
_COARSE = "coarse.json"
_NOISE = "noise_db"


@dataclass(frozen=True)
class Stored:
    """What lies in an upscaler's folder; `sets` are the weights of sharpness 0 and, where it had an
    adversary, of 1. Where it had none, `noise_db` of noise make its pictures as rough as recordings."""

    shape: Shape
    sets: tuple[Mapping[str, Tensor], ...]
    grids: Grids
    identity: str
    noise_db: float = 0.0

    @property
    def sharpens(self) -> bool:
        """Whether it has anything for a sharpness beyond 0."""
        return len(self.sets) > 1 or self.noise_db > 0

    def weights(self, sharpness: float) -> dict[str, Tensor]:
        """The mixture of both sets (network interpolation, arXiv 1809.00219)."""
        if not 0 <= sharpness <= 1:
            raise BadValue(
                f"upscale_sharpness={sharpness:g}",
                "it goes from 0 (smooth) to 1 (sharp)",
                "upscale_sharpness=0.5",
            )
        if sharpness and not self.sharpens:
            raise Unsupported(
                f"upscale_sharpness={sharpness:g}",
                "this upscaler has one set of weights, and nobody measured how much noise it lacks",
                "leave it out, or train an upscaler anew",
            )
        plain, sharp = self.sets[0], self.sets[-1]
        return {name: (1 - sharpness) * plain[name] + sharpness * sharp[name] for name in plain}

    def noise(self, sharpness: float) -> float:
        """In dB: what is added to pictures where there is no second set of weights."""
        return 0.0 if len(self.sets) > 1 else sharpness * self.noise_db


def write_upscaler(
    folder: Path,
    shape: Shape,
    sets: Sequence[Mapping[str, Tensor]],
    grids: Grids,
    heard: export.TrainingSet,
    about: Mapping[str, Any],
    noise_db: float = 0.0,
) -> Path:
    """Write the folder; chaiNNer and others load its .safetensors files as they are."""
    from safetensors.torch import save_file

    def write(partial: Path) -> None:
        for name, weights in zip(_WEIGHTS, sets, strict=False):
            plain = {key: value.detach().float().cpu().contiguous() for key, value in weights.items()}
            save_file(plain, str(partial / name), {"format": "pt"})
        write_json(partial / "config.json", {"_class_name": KIND, **asdict(shape), _NOISE: noise_db})
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
        raise NotFound(
            f"{setting}={folder} holds no upscaler",
            "expected a finished run of method=upscaler",
            "train one: birdsd run train method=upscaler data.shards=FINE_SHARDS",
        )
    try:
        sets = tuple(load_file(str(place / name)) for name in _WEIGHTS if (place / name).is_file())
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Damaged(
            f"the weights in {place} cannot be read: {reason}", "", "export the run again"
        ) from error
    shape = recognised(sets[0])
    broken = next((name for one in sets for name, tensor in one.items() if not is_finite(tensor)), None)
    if shape is None or shape.channels != 1 or any(recognised(one) != shape for one in sets) or broken:
        raise Damaged(
            f"the weights in {place} are damaged" + (f": {broken} is not finite" if broken else ""),
            "expected those of one Compact or RRDB network of one channel",
            "export the run again",
        )
    coarse = Codec.from_json(read_json(place / _COARSE, "codec of the coarse grid"))
    grids = Grids.of(Codec.from_json(export.read_codec(place)), coarse)
    return Stored(shape, sets, grids, export.weights_fingerprint(place), _noise_db(place))


def _noise_db(place: Path) -> float:
    """0 for folders from before it was measured."""
    path = place / "config.json"
    value = read_json(path, "upscaler's settings").get(_NOISE, 0.0) if path.is_file() else 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise Damaged(
            f"{path} has {_NOISE}={value!r}", "it is a number of dB, 0 or more", "export the run again"
        )
    return float(value)
