"""What the rest of birdsd needs of a codec, whatever its kind, and how a kind is found by its name.

A codec is a frozen set of settings with both directions beside each other: sound to an image of bytes, and
an image back to sound. `codec.json` beside every set of shards and every exported model holds the settings;
`kind` in it names the class, and without it the class is `SpectrogramCodec`. Other packages add kinds by
entry points (docs/extending.md).
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any, ClassVar, TypeVar

import numpy as np

from birdsd import plugins
from birdsd.errors import BadValue, Mismatch, unknown_name
from birdsd.files import fingerprint
from birdsd.schema import SPECTROGRAM
from birdsd.sound.audio.levels import LOWEST_HZ, band_level_db, without_offset

C = TypeVar("C", bound="Codec")

_SPECTROGRAM_CLASS = "birdsd.sound.codec.codec:SpectrogramCodec"  # by name: it builds on this module
_KIND, _IMAGE_CHANNELS = "kind", "image_channels"


class Codec(ABC):
    """The settings of an image of sound, and both directions.

    A kind is a frozen dataclass that subclasses it. It declares the fields below among its own (each with a
    default), `kind`, and the abstract members; the rest follows.
    *Images* are uint8 [image_channels, bands, frames], highest band first. *Sound* is float32 [channels,
    samples] at rate_hz. Settings that cannot work are refused by `__post_init__` with a `UserError`.
    """

    kind: ClassVar[str] = ""  # its entry point's name
    # Fields that do not decide what an image looks like: they are left out of the fingerprint.
    DECODING_ONLY: ClassVar[tuple[str, ...]] = ("name",)

    name: str
    rate_hz: int
    channels: int  # of the sound
    bands: int  # the image's height
    frames: int  # the width of a clip's image
    fmin_hz: float  # the lowest and the highest frequency that an image shows
    fmax_hz: float

    # -- what a kind implements ------------------------------------------------------------------

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples from one frame to the next."""

    @abstractmethod
    def image_of(self, sound: np.ndarray) -> np.ndarray:
        """The image of sound [channels, frames * hop], for any number of frames."""

    @abstractmethod
    def decode(self, image: np.ndarray) -> np.ndarray:
        """Sound [channels, frames * hop] of an image with any number of frames; the same each time.

        The image may be float (what a decoder network gives), on the same 0..255.
        """

    @abstractmethod
    def dequantise(self, image: np.ndarray) -> np.ndarray:
        """Magnitudes float32 [channels, frames, bands] of an image, lowest band first: what pages draw and
        the measures of sound are taken from."""

    @abstractmethod
    def row_hz(self) -> np.ndarray:
        """Centre frequency of every image row, float64 [bands], highest first."""

    # -- what a kind may say of itself -----------------------------------------------------------

    @property
    def image_channels(self) -> int:
        """1, 2 or 3: channels of the image, which need not be those of the sound."""
        return self.channels

    @property
    def least_samples(self) -> int:
        """No image can be made of fewer samples."""
        return self.hop

    @property
    def keeps_level(self) -> bool:
        """Whether an image holds how loud the sound is, or only its shape."""
        return True

    @property
    def quietest_db(self) -> float:
        """The lowest level that an image tells from silence, in dB re a full-scale sine."""
        return -100.0

    @property
    def description(self) -> str:
        """The settings that matter to a reader, in one line, without the name."""
        band = f"{self.bands} bands {self.fmin_hz:g}-{self.fmax_hz:g} Hz"
        return f"{self.rate_hz} Hz, {band}, {self.frames} frames"

    @property
    def phase_note(self) -> str:
        """How `decode` comes by the phase, in a word or two for the table of an audit; empty: not said."""
        return ""

    def magnitude(self, waveform: np.ndarray) -> np.ndarray:
        """Magnitudes as those of `dequantise`, up to one factor, of sound [channels, samples]; before they
        are rounded to an image, where the kind can say so."""
        return self.dequantise(self.image_of(waveform))

    def remedies(self) -> Mapping[str, str]:
        """What would help where `birdsd audit` finds a loss, by the kind of loss: "band" (the energy lies
        above fmax_hz), "trills" (fast notes are smeared), "level" (the loudness is wrong)."""
        return {}

    def decode_loop(self, image: np.ndarray) -> np.ndarray:
        """As `decode`, of sound that is to go round: its end goes on with its beginning."""
        samples = image.shape[-1] * self.hop
        return self.decode(np.concatenate([image] * 3, axis=-1))[:, samples : 2 * samples]

    # -- what follows ----------------------------------------------------------------------------

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of a clip's image."""
        return self.image_channels, self.bands, self.frames

    @property
    def samples_per_clip(self) -> int:
        """Length of a clip in samples."""
        return self.frames * self.hop

    @property
    def clip_s(self) -> float:
        """The length of the sound in one image, in seconds."""
        return self.samples_per_clip / self.rate_hz

    @property
    def frame_s(self) -> float:
        """The time from one frame to the next, in seconds."""
        return self.clip_s / self.frames

    @property
    def band_hz(self) -> tuple[float, float]:
        """Between which frequencies an image shows anything; what is below 20 Hz is no sound."""
        return max(self.fmin_hz, LOWEST_HZ), self.fmax_hz

    def level_db(self, waveform: np.ndarray) -> float:
        """RMS in dBFS over the codec's band; -inf for silence.

        waveform: [channels, samples] (or [samples]) at the codec's rate.
        """
        return band_level_db(waveform, self.rate_hz, *self.band_hz)

    def encode(self, waveform: np.ndarray, rate_hz: int) -> np.ndarray:
        """The image, uint8 [image_channels, bands, frames], of one clip.

        waveform: [channels, samples] (or [samples]) at the codec's own rate; what is longer than a
        clip is cut, what is shorter is filled up with silence. A recorder's offset and its drift do not
        appear, since they would fill the lowest rows.
        """
        sound = self._checked(waveform, rate_hz)
        sound = without_offset(sound[:, : self.samples_per_clip], rate_hz, self.fmin_hz)
        clip = np.zeros((sound.shape[0], self.samples_per_clip), np.float32)
        length = min(sound.shape[1], clip.shape[1])
        clip[:, :length] = sound[:, :length]
        return self.image_of(clip)

    def _checked(self, waveform: np.ndarray, rate_hz: int) -> np.ndarray:
        sound = np.atleast_2d(np.asarray(waveform, np.float32))
        if rate_hz != self.rate_hz:
            raise Mismatch(
                f"sound at {rate_hz} Hz given to codec '{self.name}'",
                f"it works at {self.rate_hz} Hz",
                f"read the recording with rate_hz={self.rate_hz}",
            )
        if sound.ndim != 2 or sound.shape[0] != self.channels:
            raise Mismatch(
                f"sound of shape {sound.shape} given to codec '{self.name}'",
                f"it takes [{self.channels}, samples]",
                f"read the recording with channels={self.channels}",
            )
        if not np.isfinite(sound).all():
            raise BadValue(
                "the sound has samples that are not finite numbers", "", "leave this recording out"
            )
        return sound

    # -- pictures --------------------------------------------------------------------------------

    def to_rgb(self, image: np.ndarray) -> np.ndarray:
        """uint8 [bands, frames, 3]: one channel three times over; two channels and their mean."""
        if image.shape[0] == 1:
            return np.repeat(image[0][..., None], 3, axis=2)
        if image.shape[0] == 3:
            return np.ascontiguousarray(image.transpose(1, 2, 0))
        mean = np.rint(image[:2].mean(axis=0)).astype(np.uint8)
        return np.stack([image[0], image[1], mean], axis=2)

    def from_rgb(self, picture: np.ndarray) -> np.ndarray:
        """The inverse of `to_rgb`: [bands, frames, 3] to [image_channels, bands, frames], same dtype."""
        if self.image_channels > 1:
            return np.ascontiguousarray(picture.transpose(2, 0, 1)[: self.image_channels])
        mean = picture.mean(axis=2, dtype=np.float32)
        if np.issubdtype(picture.dtype, np.integer):
            mean = np.rint(mean)
        return mean.astype(picture.dtype)[None]

    # -- identity --------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The fields for codec.json, with `kind` (of any but `SpectrogramCodec`) and, where they are not
        those of the sound, `image_channels`, so that the shape can be read without the class."""
        values: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        if self.kind != SPECTROGRAM:
            values[_KIND] = self.kind
        if self.image_channels != self.channels:
            values[_IMAGE_CHANNELS] = self.image_channels
        return values

    @classmethod
    def from_json(cls: type[C], values: Mapping[str, Any]) -> C:
        """The codec that `to_json` described, of the kind that it names; an unknown field is refused. What a
        file written by hand leaves out has the default of its kind."""
        kind = cls._named(values.get(_KIND, SPECTROGRAM))
        fields = field_names(kind)
        for key in values:
            if key not in fields and key not in (_KIND, _IMAGE_CHANNELS):
                raise unknown_name("codec field", key, fields)
        codec = kind(**{key: value for key, value in values.items() if key in fields})
        if (stored := values.get(_IMAGE_CHANNELS, codec.image_channels)) != codec.image_channels:
            raise Mismatch(
                f"{_IMAGE_CHANNELS}={stored} of codec '{codec.name}'",
                f"with its settings an image has {codec.image_channels}",
                "restore the codec.json that was written with the images",
            )
        return codec

    @classmethod
    def from_config(cls: type[C], config: object) -> C:
        """The codec of a job's settings `codec.*`: a CodecConfig, or what has the fields of another kind."""
        kind = cls._named(getattr(config, _KIND, SPECTROGRAM))
        return kind(**{name: getattr(config, name) for name in field_names(kind)})

    @classmethod
    def _named(cls: type[C], name: str) -> type[C]:
        """The kind of this name; from a kind itself only that kind can be made."""
        kind = find_kind(name)
        if not issubclass(kind, cls):
            raise Mismatch(f"a codec of the kind '{name}'", f"here it has to be of the kind '{cls.kind}'")
        return kind

    def fingerprint(self) -> str:
        """A short hash of what decides the images; how they are decoded or called does not count."""
        return fingerprint({k: v for k, v in self.to_json().items() if k not in self.DECODING_ONLY})


def field_names(kind: type) -> list[str]:
    """The settings of a kind of codec, in their order."""
    return [field.name for field in dataclasses.fields(kind) if field.init]


def kind_names() -> list[str]:
    """The kinds of codec, ours first; nothing of other packages is imported."""
    return [SPECTROGRAM, *(name for name in plugins.names(plugins.CODECS) if name != SPECTROGRAM)]


def find_kind(name: str) -> type[Codec]:
    """The class of a kind: ours, or that of an installed package; `UserError` where none has it."""
    if name == SPECTROGRAM:
        module, _, attribute = _SPECTROGRAM_CLASS.partition(":")
        ours: type[Codec] = getattr(importlib.import_module(module), attribute)
        return ours
    if name not in kind_names():
        raise unknown_name(
            "kind of codec", str(name), kind_names(), "Another kind comes with a package: install that here."
        )
    found = plugins.load(plugins.CODECS, name)
    if missing := _missing(found, name):
        raise BadValue(
            f"the entry point {name} in {plugins.CODECS} names {found!r}, which {missing}",
            "it has to be a frozen dataclass that subclasses birdsd.sound.codec.protocol.Codec",
            "see docs/extending.md",
        )
    kind: type[Codec] = found
    return kind


def _missing(found: Any, name: str) -> str:
    """What keeps an object from being the kind of codec `name`; empty for nothing."""
    if not isinstance(found, type) or not issubclass(found, Codec):
        return "is no class of a codec"
    if not dataclasses.is_dataclass(found) or not found.__dataclass_params__.frozen:
        return "is no frozen dataclass"
    if found.kind != name:
        return f"calls its kind '{found.kind}'"
    lacking = {key for key in Codec.__annotations__ if key.islower()} - {_KIND} - {*field_names(found)}
    lacking |= found.__abstractmethods__
    lacking |= {
        f"a default of {field.name}" for field in dataclasses.fields(found) if field.default is MISSING
    }
    return f"lacks {', '.join(sorted(lacking))}" if lacking else ""


def image_shape(values: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shape (channels, bands, frames) of the images of a codec.json, of whatever kind it is."""
    channels = values.get(_IMAGE_CHANNELS, values.get("channels", 1))
    return int(channels), int(values["bands"]), int(values["frames"])
