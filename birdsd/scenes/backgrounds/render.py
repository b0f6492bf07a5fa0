"""A background of a scene, whatever it comes from, into the spool at its level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from birdsd.errors import NothingLeft, NotSet
from birdsd.scenes.backgrounds.joined import faded_in_out
from birdsd.scenes.backgrounds.looped import (
    FADE_S,
    WHOLE_S,
    goes_round,
    made_loop,
    reaching_over,
    rounded,
)
from birdsd.scenes.backgrounds.made import made_background
from birdsd.scenes.backgrounds.pool import Pool, UsedFile, one_file
from birdsd.scenes.backgrounds.spool import Piece, SeenPiece, Spool, WidePiece
from birdsd.scenes.placed import PlacedBackground

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request


@dataclass(frozen=True)
class Layer:
    """A background in the scene: samples `start`.. of it, `gain` and fades applied on reading."""

    told: PlacedBackground
    piece: Piece | WidePiece | SeenPiece
    start: int
    gain: float
    fade_in: int
    fade_out: int
    files: list[UsedFile] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return self.piece.samples

    @property
    def peak(self) -> float:
        return self.piece.peak * self.gain

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 [count] ([count, channels] of a wide piece): of the scene's samples from `first` on; zeros
        where it is silent."""
        at = first - self.start
        sound = self.piece.read(at, count)
        if at + count <= 0 or at >= self.samples:
            return sound
        return faded_in_out(sound, at, self.samples, self.fade_in, self.fade_out) * np.float32(self.gain)


@dataclass(frozen=True)
class Backgrounds:
    """Where backgrounds come from: a model with the settings of its sampling, a pool of recordings, files.
    `tick` is called once for every window of a step of the network."""

    model: Generator | None = None
    request: Request | None = None
    pool: Pool | None = None
    tick: Callable[[], object] | None = None

    def layer(self, told: PlacedBackground, rate_hz: int, spool: Spool, loop_s: float = 0.0) -> Layer | None:
        """Render one at `rate_hz`; None for silence. In a loop of `loop_s`, one over all of it goes round,
        and another may begin before the scene or end behind it."""
        if told.source == "none":
            return None
        told = reaching_over(told, loop_s) if loop_s else told
        samples = max(1, round(told.duration_s * rate_hz))
        if loop_s and goes_round(told, loop_s):
            files, sound = self._around(told, samples, rate_hz)
        else:
            files, sound = self._sound(told, samples, rate_hz)
        piece = spool.add(sound)
        level_db = piece.active_db()
        if not math.isfinite(level_db):
            raise NothingLeft(
                f"the background '{told.environment}' is silent", "against silence nothing has an SNR",
                "another seed, or another environment",
            )  # fmt: skip
        return Layer(
            told, piece, round(told.from_s * rate_hz), 10 ** ((told.level_db - level_db) / 20),
            round(told.fade_in_s * rate_hz), round(told.fade_out_s * rate_hz), files,
        )  # fmt: skip

    def _around(
        self, told: PlacedBackground, samples: int, rate_hz: int
    ) -> tuple[list[UsedFile], Iterator[np.ndarray]]:
        fade = round(min(FADE_S, told.duration_s / 4) * rate_hz)
        whole = told.source == "generate" and told.duration_s <= WHOLE_S
        if whole and self.model is not None and self.request is not None:
            made = made_loop(
                self.model, self.request, told.prompt, told.duration_s, told.seed, samples, self.tick
            )
            return [], made
        longer = told.duration_s if told.source == "generate" else 0.0
        files, sound = self._sound(told, samples + fade, rate_hz, longer)
        return files, rounded(sound, samples, fade)

    def _sound(
        self, told: PlacedBackground, samples: int, rate_hz: int, loop_s: float = 0.0
    ) -> tuple[list[UsedFile], Iterator[np.ndarray]]:
        if told.source == "pool":
            if self.pool is None:
                raise NotSet(
                    f"the background '{told.environment}' is to come from a pool, and there is none", "",
                    "pool=FOLDER with a sub-folder of recordings for each environment",
                )  # fmt: skip
            return self.pool.sound(told.environment, samples, rate_hz, told.seed)
        if told.source == "file":
            return one_file(Path(told.path), samples, rate_hz)
        if self.model is None or self.request is None:
            raise NotSet(
                f"the background '{told.environment}' is to be generated, and there is no model",
                "a bank holds songs alone",
                "run=RUN of a model that knows this environment, or pool=FOLDER",
            )
        made = made_background(
            self.model, self.request, told.prompt, samples / rate_hz if loop_s else told.duration_s,
            told.seed, self.tick, loop_s=loop_s,
        )  # fmt: skip
        return [], at_rate(made, self.model.codec.rate_hz, rate_hz, samples)


def at_rate(parts: Iterator[np.ndarray], from_hz: int, to_hz: int, samples: int) -> Iterator[np.ndarray]:
    """The parts resampled as one stream, exactly `samples` in the end."""
    import soxr

    stream = (
        soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ") if from_hz != to_hz else None
    )
    sent = 0
    for part in parts:
        done = part if stream is None else stream.resample_chunk(np.ascontiguousarray(part, np.float32))
        done = done[: samples - sent]
        sent += len(done)
        yield done
    if stream is not None and sent < samples:
        rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)[: samples - sent]
        sent += len(rest)
        yield rest
    if sent < samples:
        yield np.zeros(samples - sent, np.float32)
