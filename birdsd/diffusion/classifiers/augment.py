"""Augmentation of a training clip: on its power, and a function of its position alone.

Each kind draws from a generator of its own, keyed by (seed, position, kind): switching one on or off changes
no draw of the others, and a resumed run hears what it would have heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from birdsd.diffusion.method_configs import ClassifierConfig
from birdsd.errors import BadValue, Mismatch
from birdsd.randomness import generator

_CURVE_POINTS = 5  # of the equaliser's curve over the bands
_TINY = 1e-20


@dataclass(frozen=True)
class Clip:
    """A clip as it is augmented: power float32 [bands, frames]; target float32 [classes], 1 for each class
    in it; frames float32 [classes, steps] and whether they are known."""

    power: np.ndarray
    target: np.ndarray
    frames: np.ndarray
    frames_known: bool


Another = Callable[[np.random.Generator], Clip | None]


class Augmentation:
    """What is done to the clip at a position. `labelled` and `background` draw another clip of the training
    split; None where that one cannot be read."""

    def __init__(
        self,
        settings: ClassifierConfig,
        seed: int,
        grid_frame_s: float,
        labelled: Another,
        background: Another,
    ) -> None:
        self.settings, self.seed, self.frame_s = settings, seed, grid_frame_s
        self.labelled, self.background = labelled, background

    def __call__(self, clip: Clip, position: int) -> Clip:
        """The clip as it is heard at `position`."""
        told = self.settings
        if told.mixup:
            clip = self._mixed_up(clip, self._draw(position, "mixup"))
        if told.background:
            clip = self._over_background(clip, self._draw(position, "background"))
        if told.shift_s:
            clip = self._shifted(clip, self._draw(position, "shift"))
        if told.pitch_shift:
            factor = self._factor(position, "pitch", told.pitch_shift)
            clip = replace(clip, power=higher(clip.power, factor))
        if told.time_stretch:
            clip = faster(clip, self._factor(position, "tempo", told.time_stretch))
        power = clip.power
        if told.equaliser_db:
            power = _equalised(power, told.equaliser_db, self._draw(position, "equaliser"))
        if told.gain_db:
            gain_db = self._draw(position, "gain").uniform(-told.gain_db, told.gain_db)
            power = power * np.float32(10 ** (gain_db / 10))
        if told.band_masks or told.time_masks:
            power = self._masked(power, self._draw(position, "masks"))
        return Clip(np.asarray(power, np.float32), clip.target, clip.frames, clip.frames_known)

    def _draw(self, position: int, kind: str) -> np.random.Generator:
        return generator(self.seed, "train", position, "classifier", kind)

    def _factor(self, position: int, kind: str, share: float) -> float:
        """As often above 1 as below, and as far on a logarithmic scale."""
        return float(np.exp(self._draw(position, kind).uniform(-1, 1) * np.log1p(share)))

    def _mixed_up(self, clip: Clip, draw: np.random.Generator) -> Clip:
        """With another clip under or over it; both are heard, so the labels are the union."""
        if draw.random() >= self.settings.mixup:
            return clip
        ratio_db = draw.uniform(-self.settings.mixup_snr_db, self.settings.mixup_snr_db)
        other = self.labelled(draw)
        if other is None:
            return clip
        return Clip(
            mixed(clip.power, other.power, ratio_db),
            np.maximum(clip.target, other.target),
            np.maximum(clip.frames, other.frames),
            clip.frames_known and other.frames_known,
        )

    def _over_background(self, clip: Clip, draw: np.random.Generator) -> Clip:
        """A clip without a bird under it, at a drawn signal-to-noise ratio."""
        if draw.random() >= self.settings.background:
            return clip
        snr_db = draw.uniform(self.settings.background_snr_low_db, self.settings.background_snr_high_db)
        other = self.background(draw)
        if other is None:
            return clip
        power = mixed(clip.power, other.power, snr_db)
        return Clip(power, clip.target, clip.frames, clip.frames_known)

    def _shifted(self, clip: Clip, draw: np.random.Generator) -> Clip:
        """Turned round in time; what leaves at the end comes in at the beginning."""
        most = round(self.settings.shift_s / self.frame_s)
        shift = int(draw.integers(-most, most + 1))
        steps = clip.frames.shape[-1]
        of_steps = round(shift * steps / clip.power.shape[1]) if steps else 0
        return Clip(
            np.roll(clip.power, shift, axis=1),
            clip.target,
            np.roll(clip.frames, of_steps, axis=1) if steps else clip.frames,
            clip.frames_known,
        )

    def _masked(self, power: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Stripes of bands and of frames at the clip's median: SpecAugment (arXiv 1904.08779)."""
        power, middle = power.copy(), np.median(power)
        for axis, count in ((0, self.settings.band_masks), (1, self.settings.time_masks)):
            length = power.shape[axis]
            for _ in range(count):
                size = int(draw.integers(0, round(self.settings.mask_share * length) + 1))
                start = int(draw.integers(0, length - size + 1))
                power[(slice(None),) * axis + (slice(start, start + size),)] = middle
        return power


def mixed(power: np.ndarray, other: np.ndarray, ratio_db: float) -> np.ndarray:
    """`power` with `other` beside it, `ratio_db` quieter than it (by the sums over the picture). Silence
    takes what the other is, and adds nothing to it."""
    ours, theirs = float(power.sum(dtype=np.float64)), float(other.sum(dtype=np.float64))
    if theirs <= _TINY:
        return power
    factor = 1.0 if ours <= _TINY else ours / theirs * 10 ** (-ratio_db / 10)
    return np.asarray(power + other * np.float32(factor), np.float32)


def higher(power: np.ndarray, factor: float) -> np.ndarray:
    """Each pitch `factor` times as far above the lowest band, as another individual sings. What comes in from
    beyond the highest band is as that one is."""
    last = len(power) - 1
    return _between(power, (last - (last - np.arange(last + 1)) / factor).clip(0, last))


def faster(clip: Clip, factor: float) -> Clip:
    """`factor` times as fast. Where the clip ends early it begins again; labels of frames go along."""
    width, steps = clip.power.shape[1], clip.frames.shape[-1]
    places = np.arange(width) * factor % width
    power = _between(np.concatenate([clip.power, clip.power[:, :1]], axis=1).T, places).T
    frames = clip.frames
    if steps:
        frames = frames[:, ((np.arange(steps) + 0.5) * factor % steps).astype(int)]
    return replace(clip, power=np.ascontiguousarray(power), frames=frames)


def _between(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`rows` at `places` that may lie between two of them."""
    low = np.minimum(places.astype(int), len(rows) - 2)
    share = (places - low).astype(np.float32)[:, None]
    return np.asarray(rows[low] * (1 - share) + rows[low + 1] * share, np.float32)


def _equalised(power: np.ndarray, most_db: float, draw: np.random.Generator) -> np.ndarray:
    """Through a smooth curve over the bands, as another microphone, or leaves between, would be."""
    points = draw.uniform(-most_db, most_db, _CURVE_POINTS)
    bands = power.shape[0]
    curve_db = np.interp(np.linspace(0, _CURVE_POINTS - 1, bands), np.arange(_CURVE_POINTS), points)
    return power * (10 ** (curve_db / 10)).astype(np.float32)[:, None]


_RANGES: dict[str, tuple[float, float, str]] = {
    "mixup": (0, 1, "the share of clips that another one is mixed into"),
    "background": (0, 1, "the share of clips over a background"),
    "mask_share": (0, 1, "the widest mask, as a share of the picture"),
    "dropout": (0, 0.95, "the share of the embedding that is left out"),
    "smoothing": (0, 0.5, "how far targets lie from 0 and 1"),
    "class_weights": (0, 1, "0: every clip counts the same; 1: every class does"),
    "mixup_snr_db": (0, 60, "in dB"),
    "shift_s": (0, 600, "in seconds"),
    "gain_db": (0, 60, "in dB"),
    "equaliser_db": (0, 60, "in dB"),
    "pitch_shift": (0, 0.5, "a share of the pitch"),
    "time_stretch": (0, 0.5, "a share of the tempo"),
    "band_masks": (0, 100, "a count"),
    "time_masks": (0, 100, "a count"),
    "patience": (0, 1e6, "a number of validations; 0: to the end"),
    "focal_gamma": (0, 10, "0: no clip counts less for being easy"),
    "focal_alpha": (0, 1, "what a present class counts; an absent one the rest"),
    "floor_db": (-160, -10, "in dB"),
    "spectral_subtraction": (0, 10, "how many times each band's steady power is taken off"),
}


def check_settings(settings: ClassifierConfig) -> None:
    """Refuse numbers outside their ranges."""
    for name, (low, high, meaning) in _RANGES.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            raise BadValue(
                f"method.{name}={value:g}",
                f"it goes from {low:g} to {high:g}: {meaning}",
                f"set method.{name}={getattr(ClassifierConfig(), name):g}, which is usual",
            )
    if settings.background_snr_low_db > settings.background_snr_high_db:
        raise Mismatch(
            f"method.background_snr_low_db={settings.background_snr_low_db:g} lies above "
            f"background_snr_high_db={settings.background_snr_high_db:g}",
            "the ratio is drawn between the two",
            "exchange them",
        )
