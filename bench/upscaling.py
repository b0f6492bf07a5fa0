"""Upscaling on one core: how long a picture takes, and whether memory grows with its length.

The network is the one that method=upscaler makes, without training: its speed does not depend on its weights.
"""

from __future__ import annotations

import gc
import statistics
import time

import numpy as np
import torch

from bench.common import Row, Size
from birdsd.config import compose
from birdsd.diffusion.method_configs import UpscalerConfig
from birdsd.diffusion.upscaling.networks import Shape, built
from birdsd.diffusion.upscaling.upscaler import Upscaler
from birdsd.method_facts import settings_of
from birdsd.planning.live_tensors import LiveTensors
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.codec.grids import Grids

BANDS, FRAMES, LONGER = 128, 256, 8
_LIMIT_S, _GROWTH = 0.5, 1.1


def run(size: Size) -> list[Row]:
    """Seconds for a picture of 128 x 256, and the tensors of one eight times as long beside its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        upscaler = _upscaler()
        picture = np.random.default_rng(0).integers(1, 256, (1, BANDS, FRAMES), dtype=np.uint8)
        times = []
        for _ in range(size.of(9, 4, 1)):
            start = time.process_time()  # which other programs lengthen less than they do the clock's
            upscaler.image(picture)
            times.append(time.process_time() - start)
        first, longer = (_peak(upscaler, np.tile(picture, (1, 1, count))) for count in (1, LONGER))
    finally:
        torch.set_num_threads(before)
    note = f"{first / 2**20:.1f} and {longer / 2**20:.1f} MiB of tensors beside the picture itself"
    return [
        Row(
            "upscaling",
            "a picture of 128 x 256, one core: seconds",
            statistics.median(times),
            _LIMIT_S,
            False,
        ),
        Row("upscaling", "memory, 8 times as long / as it is", longer / first, _GROWTH, False, note),
    ]


def _upscaler() -> Upscaler:
    method = settings_of(compose("train", ["method=upscaler"]).method, UpscalerConfig)
    shape = Shape(method.architecture, method.features, method.depth, method.scale)
    fine, coarse = (
        SpectrogramCodec.from_config(compose("prepare", [f"codec={name}"]).codec)
        for name in ("birdsong", "birdsong-half")
    )
    network = built(shape, 0).eval().requires_grad_(False)
    return Upscaler(network, Grids.of(fine, coarse), shape.radius, named="bench", identity="bench")


def _peak(upscaler: Upscaler, picture: np.ndarray) -> int:
    """Bytes of tensors at the most, beside the picture itself."""
    gc.collect()
    live = LiveTensors()
    live.hold_all()
    before = live.bytes
    live.restart_peak()
    with live:
        upscaler.image(picture)
    return live.peak_bytes - before - picture.size
