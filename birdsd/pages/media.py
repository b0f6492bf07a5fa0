"""Sound and spectrograms inside a page: small encodings, a perceptual colour map, axes in kHz and seconds."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from birdsd.evaluation.features import mean_power
from birdsd.pages.charts import nice_ticks
from birdsd.pages.environment import data_uri, macro
from birdsd.sound.audio.levels import fit, fitted_words

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Verdict
    from birdsd.sound.codec.protocol import Codec

# matplotlib's magma (CC0, van der Walt and Smith) at 17 equal steps: perceptually even, safe for the
# colour-blind, and no need to import a plotting library for 768 bytes.
_MAGMA = (
    "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 "
    "cf4070 e55064 f4695c fb8761 fea571 fec287 fde0a1 fcfdbf"
)
SHOWN_DB = 65.0  # below a picture's loudest point: what the eye is shown, and about what the ear hears
_MP3_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000})
_KHZ_BY_PREFERENCE = (8, 4, 2, 12, 16, 1, 6, 10, 0.5, 20, 3, 5, 14, 24, 32, 48, 0.25, 64, 96)


@dataclass(frozen=True)
class AudioClip:
    """A sound to see and hear: a codec's image [C, H, W], its waveform [channels, samples], a caption, and
    what the judge heard where there is one that knows the species."""

    codec: Codec
    image: np.ndarray
    waveform: np.ndarray
    rate_hz: int
    caption: str = ""  # e.g. "seed 3", or the recording, its recordist and licence
    verdict: Verdict | None = None

    @classmethod
    def read(cls, codec: Codec, picture: Path, sound: Path, caption: str = "") -> AudioClip:
        """A clip from its files, as `generate` writes them."""
        import soundfile
        from PIL import Image

        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        waveform, rate_hz = soundfile.read(sound, dtype="float32", always_2d=True)
        return cls(codec, codec.from_rgb(pixels), waveform.T, rate_hz, caption)

    @property
    def _channels_first(self) -> np.ndarray:
        return self.image if self.image.ndim == 3 else self.image[None]

    @property
    def loudest_db(self) -> float:
        """The level of the image's loudest point."""
        return float(level_db(self.codec, self._channels_first).max())

    def levels(self, loudest_db: float | None = None) -> np.ndarray:
        """What to show, as `picture_levels`."""
        return picture_levels(self.codec, self._channels_first, loudest_db)


def magma() -> np.ndarray:
    """The colour map, uint8 [256, 3], dark to bright."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (0, 2, 4)] for c in _MAGMA.split()], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, np.arange(len(anchors)), anchors[:, i]) for i in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def level_db(codec: Codec, image: np.ndarray) -> np.ndarray:
    """dB of every cell of a codec's image [C, H, W], float64 [H, W], row 0 the highest frequency."""
    return np.asarray(10 * np.log10(np.maximum(mean_power(codec, image)[::-1], 1e-20)))


def picture_levels(codec: Codec, image: np.ndarray, loudest_db: float | None = None) -> np.ndarray:
    """What to show of a codec's image [C, H, W]: uint8 [H, W], 255 its loudest point, 0 `SHOWN_DB` below.

    `loudest_db` is the level of 255 instead, so that pictures compare. Goes through the codec, so that every
    kind of image (loud = dark too) looks the same on a page.
    """
    level = level_db(codec, image)
    shown = 1 + (level - (level.max() if loudest_db is None else loudest_db)) / SHOWN_DB
    return np.asarray((255 * shown.clip(0, 1)).round().astype(np.uint8))


def png(levels: np.ndarray) -> bytes:
    """Levels, uint8 [H, W], as a PNG in the colour map; its palette takes one byte a pixel."""
    from PIL import Image

    picture = Image.fromarray(levels).convert("P")
    picture.putpalette(magma().tobytes())
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def sound_uri(waveform: np.ndarray, rate_hz: int) -> Markup:
    """A waveform, float [C, N] or [N], as a data URI that every browser plays.

    MP3 at its best variable rate where the format knows the rate: an eighth of the size of a WAV.
    MP3 takes one or two channels; anything else becomes 16-bit WAV. What goes beyond -1 to 1 is turned down
    as a whole (see `fit`): `audio` says so.
    """
    import soundfile

    samples = fit(_finite(waveform)).waveform.T
    stream = io.BytesIO()
    if rate_hz in _MP3_RATES and samples.shape[1] <= 2 and "MP3" in soundfile.available_formats():
        soundfile.write(stream, samples, rate_hz, format="MP3", compression_level=0.0)
        return data_uri(stream.getvalue(), "audio/mpeg")
    soundfile.write(stream, samples, rate_hz, format="WAV", subtype="PCM_16")
    return data_uri(stream.getvalue(), "audio/wav")


def audio(waveform: np.ndarray, rate_hz: int, label: str) -> Markup:
    """A player for the waveform; its tip says if the sound is played softer than it is."""
    return _audio(sound_uri(waveform, rate_hz), label, fitted_words(fit(_finite(waveform)).gain_db))


def thumbnail(
    clip: AudioClip, label: str, caption: Markup | str = "", loudest_db: float | None = None
) -> Markup:
    """A small spectrogram without axes, with its player."""
    player = audio(clip.waveform, clip.rate_hz, label)
    return _thumbnail(
        data_uri(png(clip.levels(loudest_db)), "image/png"), f"Spectrogram: {label}", player, caption
    )


_audio = macro("charts.html", "audio")
_thumbnail = macro("charts.html", "thumbnail")
_spectrogram = macro("charts.html", "spectrogram")


def _finite(waveform: np.ndarray) -> np.ndarray:
    samples = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    return np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0)


def khz_ticks(row_hz: np.ndarray) -> list[tuple[float, str]]:
    """Places (share of the height from below) and labels of round frequencies, no two too close."""
    rising = np.asarray(row_hz, dtype=np.float64)[::-1]
    placed: list[tuple[float, str]] = []
    for khz in _KHZ_BY_PREFERENCE:
        if rising[0] <= 1000 * khz <= rising[-1]:
            share = (float(np.interp(1000 * khz, rising, np.arange(len(rising)))) + 0.5) / len(rising)
            if all(abs(share - other) >= 0.13 for other, _ in placed) and 0.03 < share < 0.97:
                placed.append((share, f"{khz:g}"))
    return placed


def spectrogram(
    levels: np.ndarray,
    codec: Codec,
    *,
    alt: str,
    title: str = "",
    waveform: np.ndarray | None = None,
    rate_hz: int = 0,
    caption: Markup | str = "",
) -> Markup:
    """A spectrogram with its axes and a title, and its player where there is a waveform.

    `levels` is uint8 [H, W] with row 0 the highest frequency, as the codec's images have it.
    """
    duration_s = codec.clip_s * levels.shape[-1] / codec.frames
    times = [(t / duration_s, f"{t:g}") for t in nice_ticks(0, duration_s, 5)]
    player = audio(waveform, rate_hz, alt) if waveform is not None else ""
    khz = khz_ticks(np.asarray(codec.row_hz()))
    return _spectrogram(data_uri(png(levels), "image/png"), alt, khz, times, title, player, caption)
