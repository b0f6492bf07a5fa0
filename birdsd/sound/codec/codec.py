"""The spectrogram codec: sound to an image that a diffusion model can learn, and back to sound.

Two layouts, kept apart on purpose: *magnitudes* are float32 [channels, frames, bands], lowest band
first, which is what the FFT gives; *images* are uint8 [channels, bands, frames], highest band first,
which is what looks right and what is stored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from birdsd.errors import BadValue, Mismatch, UserError, unknown_name
from birdsd.schema import SPECTROGRAM, CodecConfig
from birdsd.sound.codec.kept_phase import directions, from_centre, phase_images, spectrum_of
from birdsd.sound.codec.phase import PGHI, STARTS, griffin_lim, inverse
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.codec.scales import MEL_FORMULAS, MEL_NORMS, SCALES, FilterBank, filter_bank
from birdsd.sound.codec.transform import Stft

INTENSITIES = ("decibel", "log1p", "power")
KEPT = "kept"  # the phase is in the image, and not estimated
_LONG_WINDOW_MS = 25.0  # with a longer one, the window is what smears fast notes, and not the hop


@dataclass(unsafe_hash=True)  # frozen by __setattr__: what OmegaConf fills, CodecConfig, must not be
class SpectrogramCodec(CodecConfig, Codec):
    """Magnitudes in frequency bands; the phase is estimated, or kept. The fields are those of `CodecConfig`.

    intensity "decibel": levels from floor_db to ceiling_db become 0..255, where 0 dB is a full-scale
    sine, so loud and quiet survive; value 0 means silence. "log1p": 255 log(1 + S / F) / log(1 + C / F)
    with the magnitudes F and C of floor_db and ceiling_db. Above the floor it is as good as decibels; below,
    it turns linear and takes the noise between notes down to silence gently, where decibels show every dip of
    it as a black speck. "power": riffusion's 255 - 255 (S / max)^exponent with the maximum of each image, so
    loudness is lost.
    phase "pghi", "random": estimated, from there on. "kept": an image has three channels, level and the
    cosine and sine of the phase, so that even the waveform comes back; the bands have to be the FFT's bins,
    and the sound mono.
    Settings that cannot be inverted are refused with the value that would work.
    """

    kind: ClassVar[str] = SPECTROGRAM
    DECODING_ONLY: ClassVar[tuple[str, ...]] = ("name", "phase", "griffin_lim_iterations", "momentum")

    name: str = "birdsong"

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_times()
        self._check_frequencies()
        _ = self.filters  # empty filters are refused here, and not in the middle of a job
        self._check_kept_phase()
        self.__dict__["_fixed"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if "_fixed" in self.__dict__:
            raise dataclasses.FrozenInstanceError(f"{name} of a codec is fixed: see dataclasses.replace")
        super().__setattr__(name, value)

    # -- what the settings mean in samples -------------------------------------------------------

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return max(1, round(self.hop_ms * self.rate_hz / 1000))

    @property
    def window(self) -> int:
        """Samples under the window; even, so that its centre is a sample."""
        return max(2, 2 * round(self.window_ms * self.rate_hz / 2000))

    @cached_property
    def stft(self) -> Stft:
        return Stft(self.window, self.hop, self.n_fft or self._suitable_fft())

    @cached_property
    def filters(self) -> FilterBank:
        """From FFT bins to bands, as the published mel libraries weight them (not calibrated)."""
        return self._bank(self.stft.n_fft)

    @cached_property
    def band_gain(self) -> np.ndarray:
        """Factor per band, float32 [bands], that makes a full-scale sine at the band's centre 1.0.

        With intensity "power" it is 1: that image has no absolute scale.
        """
        if self.intensity == "power":
            return np.ones(self.bands, np.float32)
        finer = 8
        window_spectrum = np.abs(np.fft.rfft(self.stft.hann.astype(np.float64), self.stft.n_fft * finer))
        weights = self.filters.weights
        distance = weights.bin - self.filters.centre_hz[weights.band] * self.stft.n_fft / self.rate_hz
        leak = window_spectrum[
            np.rint(np.abs(distance) * finer).astype(int).clip(max=len(window_spectrum) - 1)
        ]
        response = np.bincount(weights.band, weights.weight * leak / 2, minlength=self.bands)
        return (1 / response).astype(np.float32)

    @property
    def image_channels(self) -> int:
        return 3 if self.phase == KEPT else self.channels

    @property
    def least_samples(self) -> int:
        return self.window // 2 + self.hop

    @property
    def keeps_level(self) -> bool:
        return self.intensity != "power"

    @property
    def description(self) -> str:
        return (
            f"{self.rate_hz} Hz, window {self.window_ms:g} ms, hop {self.hop_ms:g} ms, "
            f"{self.bands} {self.scale} bands {self.fmin_hz:g}-{self.fmax_hz:g} Hz, {self.frames} frames"
        )

    @property
    def phase_note(self) -> str:
        return KEPT if self.phase == KEPT else f"{self.phase}, {self.griffin_lim_iterations}"

    def remedies(self) -> Mapping[str, str]:
        both = "codec.window_ms=16 codec.hop_ms=4"
        shorter = f"set {both}" if self.window_ms > _LONG_WINDOW_MS else "set a smaller codec.hop_ms"
        return {
            "band": "raise codec.fmax_hz (and codec.rate_hz to at least twice that)",
            "trills": f"its window is {self.window_ms:g} ms long; {shorter}",
            **({} if self.keeps_level else {"level": "set codec.intensity=decibel"}),
        }

    @property
    def quietest_db(self) -> float:
        """The lowest level that an image tells from silence, in dB re a full-scale sine."""
        if self.intensity != "log1p":
            return self.floor_db
        return self.floor_db + 20 * math.log10(math.expm1(self._soft_range / 255))

    def row_hz(self) -> np.ndarray:
        """Centre frequency of every image row, float64 [bands], highest first."""
        return self.filters.centre_hz[::-1].copy()

    @property
    def _soft_floor(self) -> float:
        """Magnitude at which intensity "log1p" turns from linear to logarithmic."""
        return float(10 ** (self.floor_db / 20))

    @property
    def _soft_range(self) -> float:
        """log(1 + S / floor) of the loudest magnitude that an image of intensity "log1p" holds."""
        return math.log1p(10 ** (self.ceiling_db / 20) / self._soft_floor)

    # -- sound to image --------------------------------------------------------------------------

    def image_of(self, sound: np.ndarray) -> np.ndarray:
        level = self.quantise(self.magnitude(sound))
        if self.phase != KEPT:
            return level
        spectrum = spectrum_of(sound[0], self.stft, self.filters.used_bins)
        loudness = level[0] if self.intensity != "power" else 255 - level[0]
        return np.concatenate([level, phase_images(spectrum, loudness)])

    def magnitude(self, waveform: np.ndarray) -> np.ndarray:
        """Band magnitudes float32 [channels, samples // hop, bands] of a waveform of any length.

        waveform: float32 [channels, samples], longer than half a window.
        """
        bank = self.filters
        bands = [bank.apply_to_used(self.stft.magnitude(samples, bank.used_bins)) for samples in waveform]
        return np.stack(bands) * self.band_gain

    def quantise(self, magnitude: np.ndarray) -> np.ndarray:
        """The image, uint8 [channels, bands, frames], of magnitudes [channels, frames, bands]."""
        if self.intensity == "power":
            loudest = float(magnitude.max(initial=0.0))
            curve = _power(magnitude / np.float32(loudest or 1.0), self.exponent)
            image = (255 - 255 * curve).astype(np.uint8)  # truncated, as riffusion does
        elif self.intensity == "log1p":
            level = np.log1p(magnitude * np.float32(1 / self._soft_floor))
            level *= np.float32(255 / self._soft_range)
            image = np.clip(np.rint(level, out=level), 0, 255, out=level).astype(np.uint8)
        else:
            per_db = 255 / (self.ceiling_db - self.floor_db)
            # 1e-30 keeps the logarithm finite; it lies far below any floor.
            level = np.log(np.maximum(magnitude, np.float32(1e-30)))
            level *= np.float32(20 / math.log(10) * per_db)
            level -= np.float32(self.floor_db * per_db)
            np.rint(level, out=level)
            image = np.clip(level, 0, 255, out=level).astype(np.uint8)
        return np.ascontiguousarray(image.transpose(0, 2, 1)[:, ::-1])

    # -- image to sound --------------------------------------------------------------------------

    def dequantise(self, image: np.ndarray) -> np.ndarray:
        """Magnitudes float32 [channels, frames, bands] of an image [image_channels, bands, frames].

        The image may be float (what a decoder network gives), on the same 0..255. With intensity
        "power" the loudest possible magnitude is 1.
        """
        levels = image[:1] if self.phase == KEPT else image
        values = np.clip(np.asarray(levels, np.float32), 0, 255)[:, ::-1].transpose(0, 2, 1)
        if self.intensity == "power":
            magnitude = ((255 - values) / 255) ** np.float32(1 / self.exponent)
        elif self.intensity == "log1p":
            magnitude = np.expm1(values * np.float32(self._soft_range / 255)) * np.float32(self._soft_floor)
        else:
            db = self.floor_db + values * np.float32((self.ceiling_db - self.floor_db) / 255)
            magnitude = np.where(values < 0.5, np.float32(0), np.exp(db * np.float32(math.log(10) / 20)))
        return np.ascontiguousarray(magnitude, dtype=np.float32)

    def decode(
        self, image: np.ndarray, iterations: int | None = None, seed: int = 0, *, circular: bool = False
    ) -> np.ndarray:
        """Sound, float32 [channels, frames * hop] at rate_hz, of an image [image_channels, bands, frames].

        The image may have any number of frames. The same seed gives the same sound; where the phase is kept,
        there is nothing to draw and nothing to iterate. With intensity
        "power" the level is unknown, and the loudest sample is put at full scale. With `circular` the sound
        is a loop, whose end goes on with its beginning.
        """
        image = np.asarray(image)
        if image.ndim != 3 or image.shape[1] != self.bands:
            raise Mismatch(
                f"an image of shape {image.shape} is not one of codec '{self.name}'",
                f"its images are [channels, {self.bands}, frames]",
                "decode it with the codec.json beside it",
            )
        if self.phase == KEPT:
            sound = self._with_its_phase(image, circular)
        else:
            sound = self.synthesise(self.dequantise(image), iterations, seed, circular=circular)
        peak = float(np.abs(sound).max(initial=0.0))
        return sound if self.keeps_level or peak == 0 else sound / peak

    def _with_its_phase(self, image: np.ndarray, circular: bool) -> np.ndarray:
        """Level times direction."""
        if len(image) != self.image_channels:
            raise Mismatch(
                f"an image with {len(image)} channels is not one of codec '{self.name}'",
                "with phase=kept it has three: level, cosine and sine",
                "decode it with the codec.json beside it",
            )
        stft = dataclasses.replace(self.stft, circular=circular)
        bins = self.filters.invert(self.dequantise(image)[0] / self.band_gain).astype(np.complex64)
        bins[:, self.filters.used_bins] *= directions(image[1:])
        return inverse(from_centre(bins, stft), stft)[None]

    def decode_loop(self, image: np.ndarray) -> np.ndarray:
        """As `decode`, with phases that are found on a circle."""
        return self.decode(image, circular=True)

    def synthesise(
        self,
        magnitude: np.ndarray,
        iterations: int | None = None,
        seed: int = 0,
        *,
        circular: bool = False,
    ) -> np.ndarray:
        """Sound, float32 [channels, frames * hop], of magnitudes [channels, frames, bands]."""
        stft = dataclasses.replace(self.stft, circular=circular)
        count = self.griffin_lim_iterations if iterations is None else iterations
        start = PGHI if self.phase == KEPT else self.phase  # of magnitudes alone no phase was kept
        merged = not self.filters.identity and self.stft.phase_divisor == 1
        channels = []
        for calibrated in magnitude:
            bands = calibrated / self.band_gain
            bins = self.filters.invert(bands)
            # One seed for all channels: what is equal in left and right stays equal.
            bank = self.filters if merged else None
            channels.append(griffin_lim(bins, stft, count, self.momentum, seed, bank, bands, start))
        return np.stack(channels)

    # -- refusals --------------------------------------------------------------------------------

    def _bank(self, n_fft: int) -> FilterBank:
        return filter_bank(
            self.scale,
            self.rate_hz,
            n_fft,
            self.bands,
            self.fmin_hz,
            self.fmax_hz,
            self.mel_formula,
            self.mel_norm,
        )

    def _suitable_fft(self) -> int:
        """The smallest fast, even FFT size that holds the window and leaves no filter empty."""
        from scipy.fft import next_fast_len

        size = 2 * next_fast_len(self.window // 2, real=True)
        while size < 32 * self.window:
            try:
                self._bank(size)
                return size
            except UserError:
                size = 2 * next_fast_len(int(size * 0.525) + 1, real=True)
        return size

    def _refuse(self, what: str, rule: str, way_out: str) -> UserError:
        return BadValue(f"codec '{self.name}': {what}", rule, way_out)

    def _check_choices(self) -> None:
        for kind, value, valid in (
            ("frequency scale", self.scale, SCALES),
            ("intensity", self.intensity, INTENSITIES),
            ("mel formula", self.mel_formula, MEL_FORMULAS),
            ("mel norm", self.mel_norm or "none", MEL_NORMS),
            ("phase", self.phase, (*STARTS, KEPT)),
        ):
            if value not in valid:
                raise unknown_name(kind, value, valid)
        if self.channels not in (1, 2):
            raise self._refuse(
                f"channels={self.channels}", "an image holds mono or stereo", "set channels=1 or 2"
            )

    def _check_kept_phase(self) -> None:
        if self.phase != KEPT:
            return
        if self.channels != 1:
            raise self._refuse(
                f"phase=kept with channels={self.channels}",
                "an image has three channels: level, cosine and sine of one",
                "set channels=1, or phase=pghi",
            )
        if not self.filters.identity:
            last, step_hz = self.stft.n_fft // 2, self.rate_hz / self.stft.n_fft
            between = f"{self.fmin_hz:g} to {self.fmax_hz:g} Hz"
            bins = f"bands={last} fmin_hz={step_hz:g} fmax_hz={last * step_hz:g}"
            raise self._refuse(
                f"phase=kept with {self.bands} {self.scale} bands from {between}",
                "a band has a phase where it is one bin of the FFT",
                f"set scale=linear {bins}, or phase=pghi",
            )

    def _check_numbers(self) -> None:
        for field in dataclasses.fields(self):
            value, usual = getattr(self, field.name), f"set e.g. {field.name}={field.default}"
            if isinstance(value, float) and not math.isfinite(value):
                raise self._refuse(f"{field.name}={value}", "must be a finite number", usual)
            if field.name in ("rate_hz", "window_ms", "hop_ms", "bands", "frames") and value <= 0:
                raise self._refuse(f"{field.name}={value}", "must be above zero", usual)
        if not 0 < self.exponent <= 1:
            raise self._refuse(f"exponent={self.exponent}", "must be in (0, 1]", "set exponent=0.25")
        if self.floor_db >= self.ceiling_db:
            raise self._refuse(
                f"floor_db={self.floor_db} with ceiling_db={self.ceiling_db}",
                "the floor must lie below the ceiling",
                f"set floor_db={self.ceiling_db - 100}",
            )
        if not 0 <= self.momentum <= 1 or self.griffin_lim_iterations < 0:
            raise self._refuse(
                f"momentum={self.momentum}, griffin_lim_iterations={self.griffin_lim_iterations}",
                "momentum must be in [0, 1] (above 1 it diverges), and iterations not negative",
                "set momentum=0.99 griffin_lim_iterations=32",
            )

    def _check_times(self) -> None:
        to_ms = 1000 / self.rate_hz
        if self.hop > self.window // 2:
            raise self._refuse(
                f"hop_ms={self.hop_ms} with window_ms={self.window_ms}",
                "the hop must be at most half the window, or the phase cannot be recovered",
                f"set hop_ms={self.window // 2 * to_ms:g} or less (a quarter of the window is usual), "
                f"or window_ms={2 * self.hop * to_ms:g} or more",
            )
        if self.n_fft and (self.n_fft < self.window or self.n_fft % 2):
            raise self._refuse(
                f"n_fft={self.n_fft} with window_ms={self.window_ms}, which is {self.window} samples",
                "the FFT must be even and hold the whole window",
                f"set n_fft={self._suitable_fft()}, or 0 to have it chosen",
            )
        if self.samples_per_clip <= self.window // 2:
            raise self._refuse(
                f"frames={self.frames} at hop_ms={self.hop_ms}",
                "a clip must be longer than half a window",
                f"set frames={self.window // (2 * self.hop) + 1} or more",
            )

    def _check_frequencies(self) -> None:
        nyquist = self.rate_hz / 2
        if self.fmax_hz > nyquist:
            raise self._refuse(
                f"fmax_hz={self.fmax_hz:g} at rate_hz={self.rate_hz}",
                f"nothing above half the rate ({nyquist:g} Hz) can be represented",
                f"set fmax_hz={nyquist:g} or rate_hz={math.ceil(2 * self.fmax_hz)}",
            )
        lowest = 20.0 if self.scale == "log" else 0.0
        if self.fmin_hz < 0 or (self.scale == "log" and self.fmin_hz <= 0):
            raise self._refuse(
                f"fmin_hz={self.fmin_hz:g} on a {self.scale} scale",
                "must be above zero on a log scale, and not negative on any",
                f"set fmin_hz={lowest:g}",
            )
        if self.fmin_hz >= self.fmax_hz:
            raise self._refuse(
                f"fmin_hz={self.fmin_hz:g} with fmax_hz={self.fmax_hz:g}",
                "fmin must lie below fmax",
                f"set fmin_hz={lowest:g} or fmax_hz={nyquist:g}",
            )


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    """values ** exponent; the fourth root, which is what riffusion uses, by two fast square roots."""
    if exponent == 0.25:
        return np.sqrt(np.sqrt(values))
    return values ** np.float32(exponent)
