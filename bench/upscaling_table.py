"""How far an upscaler is from the truth at each sharpness, and what is possible at all: docs/upscaler.md.

python -m bench.upscaling_table UPSCALER SHARDS                        sharpness, noise, and the bound
python -m bench.upscaling_table UPSCALER SHARDS --split test --judge 32

SHARDS are the fine ones. No picture can be both the closest and as rough as the truth. With m the conditional
mean (which sharpness 0 stands for), any picture x has a squared distance of m's own plus that between x and
m, and it is rougher than m by at most twice its mean distance from m. So a detail d needs, with t the truth's
in dB,

    distance(d) >= sqrt(distance(m)^2 + ((d - detail(m)) * t / 2)^2),

which only a picture would reach that goes up and down by the same amount from frame to frame, always in the
direction in which m rises and falls. Independent noise of s dB pays sqrt(distance(m)^2 + s^2).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion.learning.common import picture_of, read
from birdsd.diffusion.upscaling.folder import Stored, read_upscaler
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import Measured, Tally, bicubic, detail_db
from birdsd.diffusion.upscaling.roughness import roughened
from birdsd.diffusion.upscaling.upscaler import Upscaler
from birdsd.shards.index import ShardIndex

SHARPNESS = (0.0, 0.25, 0.5, 0.75, 1.0)
NOISE_DB = (1.5, 2.0, 2.5, 3.0)
WANTED_DETAIL, WANTED_GAIN = 0.85, 0.08
_ITERATIONS = 32  # of Griffin-Lim, for the judge
Make = Callable[[Tensor], Tensor]  # coarse values [1, 1, bands, frames] -> fine ones


def ways(stored: Stored, sharpness: list[float], noise_db: list[float]) -> dict[str, Make]:
    """By name: bicubic, the upscaler at each sharpness, and at sharpness 0 with independent noise."""
    levels, scale = Levels.of(stored.grids.fine), stored.shape.scale

    def of(value: float) -> Make:
        upscaler = Upscaler.of(stored, "table", value, "cpu")
        return lambda coarse: torch.from_numpy(upscaler.tiled(coarse)).float()[:, None]

    def noisy(by_db: float, smooth: Make) -> Make:
        def make(coarse: Tensor) -> Tensor:
            return levels.finished(roughened(levels, smooth(coarse), coarse, by_db), coarse, scale)

        return make

    found: dict[str, Make] = {"bicubic": lambda coarse: bicubic(coarse, scale)}
    found |= {f"sharpness {value:g}": of(value) for value in sharpness if value == 0 or stored.sharpens}
    return found | {f"sharpness 0, noise of {by:g} dB": noisy(by, of(0.0)) for by in noise_db}


def pictures(index: ShardIndex, split: str, most: int) -> Iterator[Tensor]:
    """Up to `most` pictures of a split, spread evenly, float32 [channels, 1, bands, frames]."""
    total, codec = index.count(split), index.known_codec("its pictures are to be compared")
    count = min(total, most)
    for sample in read(index, split, [number * total // count for number in range(count)]):
        if sample.weight:
            yield torch.from_numpy(picture_of(sample, codec)).float()[:, None]


def measured(
    stored: Stored, made_by: dict[str, Make], truths: Iterator[Tensor]
) -> tuple[dict[str, Measured], float]:
    """The figures of each way, and the truth's detail in dB."""
    levels, scale = Levels.of(stored.grids.fine), stored.shape.scale
    tallies = {name: Tally(levels, scale) for name in made_by}
    details = []
    for truth in truths:
        coarse = levels.cells(truth, scale).clamp(0, 255).round()
        details += detail_db(levels, truth).tolist()
        for name, make in made_by.items():
            tallies[name].add(make(coarse), truth, coarse)
    return {name: tally.result() for name, tally in tallies.items()}, float(np.mean(details))


def least_distance_db(mean: Measured, detail: float, truth_db: float) -> float:
    """Below which no picture of a detail can come, where `mean` is the conditional mean."""
    more = max(0.0, detail - mean.detail) * truth_db / 2
    return float(np.hypot(mean.distance_db, more))


def judged(
    stored: Stored, index: ShardIndex, split: str, made_by: dict[str, Make], most: int
) -> Iterator[tuple[str, int, int, float]]:
    """Of real clips, as they are and made coarse and fine again: how many the judge names rightly, of how
    many, and the median of its scores."""
    from birdsd.evaluation.judges import find_judge
    from birdsd.evaluation.judges.judge import Sound
    from birdsd.evaluation.judges.judgement import judge_sounds
    from birdsd.evaluation.real_clips import read_real

    judge, clips = find_judge(None), read_real(index, split, limit=most)
    levels, scale = Levels.of(stored.grids.fine), stored.shape.scale
    codec = replace(stored.grids.fine, griffin_lim_iterations=_ITERATIONS)
    for name, make in {"fine recordings": None, **made_by}.items():
        sounds = []
        for clip in clips:
            picture = torch.from_numpy(clip.image).float()[:, None]
            if make is not None:
                picture = make(levels.cells(picture, scale).clamp(0, 255).round())
            image = picture[:, 0].round().byte().numpy()
            sounds.append(Sound(clip.name, codec.decode(image), codec.rate_hz, clip.species))
        result = judge_sounds(judge, sounds, index.species, progress=False)
        right = sum(bool(one.right) for one in result.verdicts if one.known)
        yield name, right, result.clips, float(result.median_score or 0)


def main(words: list[str] | None = None) -> int:
    """Print the table of an upscaler."""
    parser = argparse.ArgumentParser(
        "bench.upscaling_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("upscaler", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--sharpness", nargs="*", type=float, default=[*SHARPNESS])
    parser.add_argument("--noise", nargs="*", type=float, default=[*NOISE_DB], help="in dB")
    parser.add_argument("--most", type=int, default=1000, help="pictures")
    parser.add_argument("--judge", type=int, default=0, help="clips that the judge hears")
    options = parser.parse_args(words)
    stored, index = read_upscaler(options.upscaler), ShardIndex.open(options.shards)
    made_by = ways(stored, options.sharpness, options.noise)
    rows, truth_db = measured(stored, made_by, pictures(index, options.split, options.most))
    print(f"{'':32} {'distance, dB':>12} {'below bicubic':>13} {'above -70 dB':>12} {'detail':>6}")
    for name, row in rows.items():
        print(f"{name:32} {row.distance_db:12.2f} {row.gain:13.1%} {row.loud_db:12.2f} {row.detail:6.2f}")
    if mean := rows.get("sharpness 0"):
        print(bound_line(mean, truth_db))
    if options.judge:
        for name, right, heard, score in judged(stored, index, options.split, made_by, options.judge):
            print(f"{name:32} judge: {right} of {heard} right, median score {score:.2f}", flush=True)
    return 0


def bound_line(mean: Measured, truth_db: float) -> str:
    """What the detail that is wanted costs at the least."""
    least = least_distance_db(mean, WANTED_DETAIL, truth_db)
    return (
        f"the truth's detail is {truth_db:.2f} dB; at {WANTED_DETAIL:g} of it no picture comes nearer than "
        f"{least:.2f} dB, {1 - least / mean.bicubic_db:.1%} below bicubic ({WANTED_GAIN:.0%} are wanted)"
    )


if __name__ == "__main__":
    sys.exit(main())
