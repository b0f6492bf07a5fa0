"""Generated clips of a coarse model, heard as they are, interpolated, and upscaled: docs/upscaler.md.

python -m bench.upscaled_clips CLIPS UPSCALER SHARDS
python -m bench.upscaled_clips CLIPS UPSCALER SHARDS --split test --most 60

CLIPS is what `birdsd run generate` made without upscale=; SHARDS are fine ones, for the recordings that clips
are compared with. Every clip becomes sound in each way, and all figures are of sound: the judge's answers,
and, read with the fine codec, how far the mean level of each band and its spread lie from the recordings'
(root mean square over the bands, in dB), and the detail, as a share of the recordings'. The recordings
themselves are given through the coarse codec, too: what a generator without errors would sound like.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from birdsd.diffusion.upscaling.folder import Stored, read_upscaler
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import bicubic, detail_db
from birdsd.diffusion.upscaling.upscaler import Upscaler
from birdsd.evaluation.judges import find_judge
from birdsd.evaluation.judges.judge import Judge, Sound
from birdsd.evaluation.judges.judgement import judge_sounds
from birdsd.evaluation.real_clips import RealClip, read_real
from birdsd.files import read_json
from birdsd.shards.index import ShardIndex
from birdsd.sound.codec.codec import SpectrogramCodec

SHARPNESS = (0.0, 0.5, 1.0)
_ITERATIONS = 32  # of Griffin-Lim, in every way
Way = Callable[[np.ndarray], np.ndarray]  # a coarse image -> sound


def generated(folder: Path, codec: SpectrogramCodec, most: int) -> list[tuple[str, str, np.ndarray]]:
    """Name, species and coarse image of up to `most` clips with one species, spread evenly."""
    from PIL import Image

    found = []
    for path in sorted(folder.glob("*.json")):
        facts = read_json(path, "recipe")
        if len(facts.get("species", ())) == 1 and path.with_suffix(".png").is_file():
            found.append((path, facts["species"][0]))
    chosen = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    clips = []
    for path, species in (found[number] for number in chosen):
        with Image.open(path.with_suffix(".png")) as picture:
            clips.append((path.stem, species, codec.from_rgb(np.asarray(picture.convert("RGB")))))
    return clips


def _codecs(stored: Stored) -> tuple[SpectrogramCodec, SpectrogramCodec]:
    grids = stored.grids
    fine, coarse = (replace(one, griffin_lim_iterations=_ITERATIONS) for one in (grids.fine, grids.coarse))
    return fine, coarse


def ways(stored: Stored, sharpness: Sequence[float]) -> dict[str, Way]:
    """What makes sound of a coarse image, by name."""
    fine, coarse = _codecs(stored)

    def interpolated(image: np.ndarray) -> np.ndarray:
        values = Upscaler.of(stored, "clips", 0.0, "cpu").values(torch.from_numpy(image.copy())[:, None])
        return fine.decode(bicubic(values, stored.shape.scale)[:, 0].round().byte().numpy())

    def of(value: float) -> Way:
        upscaler = Upscaler.of(stored, "clips", value, "cpu")
        return lambda image: fine.decode(upscaler.image(image))

    return {
        "coarse": coarse.decode,
        "bicubic": interpolated,
        **{f"sharpness {value:g}": of(value) for value in sharpness if value == 0 or stored.sharpens},
    }


class Spectra:
    """Levels of sounds, read with one codec: mean and spread of each band in dB, and the detail."""

    def __init__(self, codec: SpectrogramCodec, sounds: Sequence[np.ndarray]) -> None:
        levels = Levels.of(codec)
        images = [torch.from_numpy(codec.encode(sound, codec.rate_hz)).float()[None] for sound in sounds]
        decibels = [levels.decibels(image)[0, 0] for image in images]
        self.mean_db = torch.stack([one.mean(1) for one in decibels]).mean(0)
        self.spread_db = torch.stack([one.std(1) for one in decibels]).mean(0)
        self.detail_db = float(torch.cat([detail_db(levels, image) for image in images]).mean())

    def beside(self, real: Spectra) -> str:
        """In words, against those of recordings."""
        apart = [
            float((ours - theirs).square().mean().sqrt())
            for ours, theirs in ((self.mean_db, real.mean_db), (self.spread_db, real.spread_db))
        ]
        return f"{apart[0]:8.2f} {apart[1]:10.2f} {self.detail_db / real.detail_db:8.2f}"


def verdict(judge: Judge, sounds: Sequence[Sound], names: Sequence[str]) -> str:
    """How many are right among all species, among those of the shards, and the median score."""
    told = judge_sounds(judge, sounds, names, progress=False)
    known = [one for one in told.verdicts if one.known]
    right, among = (sum(bool(getattr(one, name)) for one in known) for name in ("right", "right_among"))
    return f"{right:4} {among:6} of {len(known)} {float(told.median_score or 0):8.2f}"


def of_recordings(clips: Sequence[RealClip], stored: Stored) -> dict[str, list[np.ndarray]]:
    """The sounds of recordings: through the fine codec, and from there through the coarse one."""
    fine, coarse = _codecs(stored)
    sounds = [fine.decode(clip.image) for clip in clips]
    again = [coarse.decode(coarse.encode(sound, coarse.rate_hz)) for sound in sounds]
    return {"recordings, fine codec": sounds, "recordings, coarse codec": again}


def main(words: list[str] | None = None) -> int:
    """Print the table of a folder of clips."""
    parser = argparse.ArgumentParser(
        "bench.upscaled_clips", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("upscaler", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--sharpness", nargs="*", type=float, default=[*SHARPNESS])
    parser.add_argument("--most", type=int, default=1000, help="generated clips, and real ones")
    parser.add_argument("--no-judge", action="store_true")
    options = parser.parse_args(words)
    stored, index = read_upscaler(options.upscaler), ShardIndex.open(options.shards)
    judge = None if options.no_judge else find_judge(None)
    titles = f"{'level':>8} {'spread':>10} {'detail':>8}   judge: right, best of these, median score"
    print(f"{'':28} {titles}")
    real = read_real(index, options.split, limit=options.most)
    made = generated(options.clips, stored.grids.coarse, options.most)
    rows = [
        (name, sounds, [(clip.name, clip.species) for clip in real])
        for name, sounds in of_recordings(real, stored).items()
    ]
    known = Spectra(stored.grids.fine, rows[0][1])
    for name, way in ways(stored, options.sharpness).items():
        rows.append((f"generated, {name}", [way(image) for _, _, image in made], [one[:2] for one in made]))
    for name, sounds, whose in rows:
        said = ""
        if judge is not None:
            rate = stored.grids.fine.rate_hz
            pairs = zip(whose, sounds, strict=True)
            heard = [Sound(one, sound, rate, species) for (one, species), sound in pairs]
            said = verdict(judge, heard, index.species)
        print(f"{name:28} {Spectra(stored.grids.fine, sounds).beside(known)}   {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
