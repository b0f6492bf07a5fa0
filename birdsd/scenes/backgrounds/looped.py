"""Backgrounds of loops: what lies over the whole scene ends where it begins, and other stretches reach over
the loop point with their fades."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from birdsd.diffusion.generation.long import long_latents, looped_picture
from birdsd.scenes.backgrounds.joined import rising
from birdsd.scenes.placed import PlacedBackground

if TYPE_CHECKING:
    from birdsd.diffusion.generation.generator import Generator
    from birdsd.diffusion.generation.request import Request

WHOLE_S = 60.0  # phases of a longer loop at once would take too much memory
FADE_S = 2.0
_CLOSE_S = 1e-6


def goes_round(told: PlacedBackground, loop_s: float) -> bool:
    """Whether a background lies over all of a loop of `loop_s`."""
    return told.from_s <= _CLOSE_S and told.to_s >= loop_s - _CLOSE_S


def reaching_over(told: PlacedBackground, loop_s: float) -> PlacedBackground:
    """A stretch that begins or ends at the loop point, reaching over it by half of its fade."""
    if goes_round(told, loop_s):
        return told
    fade = min(FADE_S, told.duration_s / 2)
    if told.from_s <= _CLOSE_S:
        told = replace(told, from_s=told.from_s - fade / 2, fade_in_s=fade)
    if told.to_s >= loop_s - _CLOSE_S:
        told = replace(told, to_s=told.to_s + fade / 2, fade_out_s=fade)
    return told


def rounded(parts: Iterator[np.ndarray], samples: int, fade: int) -> Iterator[np.ndarray]:
    """A loop of exactly `samples`, of parts that are `fade` samples longer: what they begin with fades in
    where they end. The loop begins after that, so that nothing but the fade is kept in memory; parts that end
    too early are followed by silence."""
    fade = min(fade, samples // 2)
    head, sent, tail = np.zeros(0, np.float32), 0, np.zeros(0, np.float32)
    for part in parts:
        held = np.asarray(part, np.float32)
        if len(head) < fade:
            missing = fade - len(head)
            head, held = np.append(head, held[:missing]), held[missing:]
        body = held[: samples - fade - sent]
        sent += len(body)
        tail = np.append(tail, held[len(body) :])[:fade]
        yield body
    if sent < samples - fade:
        yield np.zeros(samples - fade - sent, np.float32)
    rise = rising(fade)
    ends = [np.pad(one, (0, fade - len(one))) for one in (head, tail)]
    yield ends[0] * rise + ends[1] * rise[::-1]


def made_loop(
    model: Generator, request: Request, prompt: str, duration_s: float, seed: int, samples: int,
    tick: Callable[[], object] | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Mono float32 parts, `samples` in all, of a generated loop of `duration_s`: windows, decoder and phases
    go around. A loop lasts whole columns of the latents, so its tempo is changed by up to half of one."""
    codec = model.codec
    factor = codec.frames // model.latent_shape()[2]
    columns = max(1, round(duration_s * codec.rate_hz / (factor * codec.hop)))
    latents = long_latents(model, request, prompt, columns, seed, tick, loop=True)
    sound = model.sound_of(looped_picture(model, latents), loop=True).mean(axis=0)
    yield loop_at(sound, samples)


def loop_at(sound: np.ndarray, samples: int) -> np.ndarray:
    """A loop, float32 [n], in `samples` samples: a Fourier series knows no ends."""
    from scipy.signal import resample

    if len(sound) == samples:
        return sound
    return np.asarray(resample(sound.astype(np.float64), samples), np.float32)
