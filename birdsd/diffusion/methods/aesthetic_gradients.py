"""method=aesthetic_gradients: the aesthetic embeddings of some spectrograms (see `generation/aesthetics.py`).

An embedding is the mean of the features that CLIP's image tower makes of the pictures, not normalised, as in
the paper's code. Nothing is optimised here, so there is no loop: the work is one pass over the pictures. What
is tuned, and towards what, is decided at generation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from birdsd.diffusion import export
from birdsd.diffusion.adapters import chain, write_adapter
from birdsd.diffusion.generation.aesthetics import ALL, EMBEDDINGS_FILE, PROJECTION, PROJECTION_FILE
from birdsd.diffusion.learning.base import GoesOn, Method, Result, Work
from birdsd.diffusion.learning.common import codec_of, picture_of, read, required_source
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.clip import Clip, load_clip
from birdsd.errors import Mismatch, NothingLeft, listed_names
from birdsd.files import read_json
from birdsd.shards.reader import ShardReader

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex

_TOGETHER = 16  # pictures a batch


class AestheticGradientsMethod(Method):
    """One embedding for each species of the training split, and one of all its pictures (`ALL`)."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        self.config, self.index = config, index
        self.codec = codec_of(index)
        self.base = required_source(config)

    def run(self, work: Work[Result]) -> Result:
        """One pass over the pictures."""
        return work.once(self.embed)

    def embed(self, folder: Path, device: torch.device, goes_on: GoesOn) -> int | None:
        """Compute the embeddings and write them to `folder`; returns how many pictures there were.

        `goes_on(pictures seen, pictures in all)` is asked after each batch; at its first no this returns
        None, and nothing is written.
        """
        clip = self._clip(device)
        total = self.index.count("train")
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        seen, broken = 0, []
        for start in range(0, total, _TOGETHER):
            samples = read(self.index, "train", range(start, min(start + _TOGETHER, total)))
            broken += [start + at for at, sample in enumerate(samples) if not sample.weight]
            whole = [sample for sample in samples if sample.weight]
            if whole:
                pixels = torch.stack([torch.from_numpy(picture_of(s, self.codec)) for s in whole])
                features = clip.image_features(pixels.to(device)).double().cpu()
                for sample, row in zip(whole, features, strict=True):
                    for name in [*dict.fromkeys(sample.metadata.get("species", ())), ALL]:
                        sums[name] = sums.get(name, torch.zeros_like(row)) + row
                        counts[name] = counts.get(name, 0) + 1
            seen += len(whole)
            if not goes_on(min(start + _TOGETHER, total), total):
                return None
        self._refuse_lost(broken, counts)
        self._write(folder, clip, {name: (sums[name] / counts[name]).float()[None] for name in sums}, counts)
        return seen

    def _refuse_lost(self, broken: list[int], counts: dict[str, int]) -> None:
        """A species whose every picture is broken would go without a word otherwise."""
        reader = ShardReader(self.index, "train", want=("metadata",))
        species = {str(name) for number in broken for name in reader.read(number).metadata["species"]}
        lost = sorted(species - counts.keys()) or ([] if counts else ["any species"])
        if lost:
            raise NothingLeft(
                f"not one picture of {listed_names(lost)} in {self.index.folder} can be decoded",
                "an aesthetic embedding is the mean of some pictures",
                "look at the shards with `birdsd inspect SHARDS`, and prepare them again",
            )

    def _clip(self, device: torch.device) -> Clip:
        """The CLIP, refused where its text tower is not that of the base; the image tower alone on the
        device."""
        clip = load_clip(self.config.model.clip)
        width, own = clip.text_projection.shape[1], text_width(self.base)
        if own is not None and own != width:
            raise Mismatch(
                f"the text tower of model.clip={self.config.model.clip} is {width} wide",
                f"the text encoder of model.source={self.base} is {own} wide",
                "train an image tower for that text encoder with method=clip, or name the CLIP it comes from",
            )
        clip.model.vision_model.to(device)
        clip.model.visual_projection.to(device)
        return clip

    def _write(self, folder: Path, clip: Clip, embeddings: dict[str, Tensor], counts: dict[str, int]) -> None:
        def write(partial: Path) -> None:
            rows = {name: value.contiguous() for name, value in embeddings.items()}
            save_file(rows, partial / EMBEDDINGS_FILE, metadata={"format": "pt"})
            matrix = clip.text_projection.detach().contiguous()
            save_file({PROJECTION: matrix}, partial / PROJECTION_FILE, metadata={"format": "pt"})

        about = {
            "method": self.config.method.name,
            "clip": self.config.model.clip,
            "pictures": dict(sorted(counts.items())),
        }
        heard = export.training_set(self.index)
        write_adapter(folder, "aesthetic", write, codec=self.codec, heard=heard, about=about, base=self.base)


def text_width(source: str) -> int | None:
    """How wide the text encoder of a local pipeline or run is, or that under a local LoRA or token; None for
    a hub id, which is not asked here."""
    underneath, _ = chain(source)
    if not Path(underneath).expanduser().exists():
        return None
    folder, part = models.locate(underneath, "text_encoder")
    return int(read_json(Path(folder) / (part or "") / "config.json")["hidden_size"])
