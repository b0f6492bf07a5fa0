"""Starting from a recording instead of noise, and making only a stretch of it anew.

img2img is SDEdit (Meng et al. 2022) as diffusers does it: the recording's latents with the noise of a
later timestep, denoised from there. Inpainting keeps what is known: after every step the known latents, at
the noise level of the next, are put back outside the stretch (Lugmayr et al. 2022, without resampling).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from birdsd.errors import BadValue, Damaged, NotFound, NothingLeft
from birdsd.files import fingerprint, sha256_file

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.sound.codec.protocol import Codec

PICTURE_SUFFIX = ".png"
_LEAST_SHARE = 0.25  # of a clip that a recording must fill; the rest becomes silence
_FADE_S = 0.02  # over which the old goes into the new, inside the stretch; at most a quarter of it


def first_step(steps: int, strength: float) -> int:
    """How many of `steps` are left out at `strength`: diffusers' rule, so all of them at 0 and none at 1.

    Raises `UserError` for a strength outside 0..1, and for one so small that nothing would be changed.
    """
    if not 0 <= strength <= 1:  # NaN too
        raise BadValue(
            f"strength={strength}",
            "it is the share of the recording that may change, from 0 to 1",
            "try strength=0.6",
        )
    taken = min(steps, int(steps * strength + 1e-6))
    if strength > 0 and not taken:
        raise BadValue(
            f"strength={strength} with steps={steps}",
            f"one step is {1 / steps:.3g} of the way: less changes nothing",
            f"set strength={1 / steps:.3g} or more, or raise steps",
        )
    return steps - taken


@dataclass(frozen=True)
class Span:
    """The stretch that is made anew, in seconds from the start of the clip."""

    start_s: float
    end_s: float

    @classmethod
    def of(cls, start_s: float | None, end_s: float | None, clip_s: float) -> Span | None:
        """The stretch that the two bounds mean; a missing one is the clip's end, two of them are no stretch.

        Raises `UserError` for a stretch that is empty or does not lie inside the clip.
        """
        if start_s is None and end_s is None:
            return None
        span = cls(0.0 if start_s is None else float(start_s), clip_s if end_s is None else float(end_s))
        named = f"mask_start_s={span.start_s:g} mask_end_s={span.end_s:g}"
        if not 0 <= span.start_s < span.end_s:
            raise BadValue(
                named, "the span to regenerate starts at 0 or later, and ends after its start",
                f"e.g. mask_start_s={clip_s / 4:.3g} mask_end_s={clip_s / 2:.3g}",
            )  # fmt: skip
        if span.end_s > clip_s + 1e-6:
            raise BadValue(
                named, f"the model's clips end at {clip_s:g} s",
                "count from the start of the clip: where in the recording it begins, init=FILE@SECONDS says",
            )  # fmt: skip
        return span

    def weights(self, count: int, clip_s: float) -> np.ndarray:
        """float32 [count]: how much of the new is in each of `count` equal parts of the clip.

        0 outside, 1 inside but for a short fade at those ends that are not the clip's own; a stretch shorter
        than a part still fills one.
        """
        edges = np.linspace(0, clip_s, count + 1)
        middle = (edges[:-1] + edges[1:]) / 2
        fade_s = min(_FADE_S, (self.end_s - self.start_s) / 4)
        rise = (middle - self.start_s) / fade_s if self.start_s > 0 else np.full(count, np.inf)
        fall = (self.end_s - middle) / fade_s if self.end_s < clip_s - 1e-6 else np.full(count, np.inf)
        found = np.minimum(rise, fall).clip(0, 1).astype(np.float32)
        if not found.any():
            found[min(count - 1, int((self.start_s + self.end_s) / 2 / clip_s * count))] = 1
        return found

    def touched(self, count: int, clip_s: float) -> np.ndarray:
        """bool [count]: which of `count` equal parts of the clip the stretch touches."""
        low, high = self.start_s / clip_s * count, self.end_s / clip_s * count
        at = np.arange(count)
        return (at + 1 > low + 1e-9) & (at < high - 1e-9)


@dataclass(frozen=True)
class Start:
    """A clip that is there already. `picture`: uint8 [bands, frames, 3]; `waveform`: float32 [channels,
    samples] of one clip, None for a picture. `identity` says which content it is, wherever its file lies.
    """

    named: str
    picture: np.ndarray
    waveform: np.ndarray | None
    identity: str

    @classmethod
    def read(cls, text: str, codec: Codec) -> Start:
        """The clip that `init=FILE` or `init=RECORDING@SECONDS` names.

        A recording's part is cut to the codec's clip and encoded with it; what is missing at its end is
        silence. A picture must be a PNG of the codec's size, as birdsd writes them.
        """
        path, start_s = split_offset(text)
        if not path.is_file():
            raise NotFound(
                f"init={text}: {path} does not exist", "a sample starts from a recording or a birdsd picture"
            )
        content = fingerprint([sha256_file(path), start_s])
        named = f"{path.resolve()}@{start_s:g}" if start_s else str(path.resolve())
        if path.suffix.lower() == PICTURE_SUFFIX:
            if start_s:
                raise BadValue(f"init={text}", "a picture is one clip, from its start", f"init={path}")
            return cls(named, _picture(path, codec), None, content)
        waveform = _sound(path, start_s, codec)
        return cls(named, codec.to_rgb(codec.encode(waveform, codec.rate_hz)), waveform, content)

    def latents(self, vae: Any) -> Tensor:
        """float32 [1, C, h, w]: the most likely latents, scaled as the UNet knows them."""
        import torch

        device = next(vae.parameters()).device
        pixels = torch.from_numpy(self.picture.astype(np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            found = vae.encode(pixels.to(device, vae.dtype)).latent_dist.mode()
        return (found * vae.config.scaling_factor).float()


def split_offset(text: str) -> tuple[Path, float]:
    """FILE or FILE@SECONDS; a file whose own name ends so is itself."""
    path = Path(text).expanduser()
    before, at, seconds = text.rpartition("@")
    if path.exists() or not at:
        return path, 0.0
    try:
        start_s = float(seconds)
    except ValueError:
        return path, 0.0
    if not 0 <= start_s < float("inf"):
        raise BadValue(f"init={text}", "what follows the @ are seconds from the start", f"init={before}@0")
    return Path(before).expanduser(), start_s


def _picture(path: Path, codec: Codec) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Damaged(f"init={path} is damaged or not a picture ({error})") from error
    if picture.shape[:2] != (codec.bands, codec.frames):
        raise BadValue(
            f"init={path} is an image of {picture.shape[1]} x {picture.shape[0]} pixels",
            f"this model's are {codec.frames} x {codec.bands} (frames x bands)",
            "take a picture that a model of the same codec made, or the recording itself",
        )
    return picture


def _sound(path: Path, start_s: float, codec: Codec) -> np.ndarray:
    """float32 [channels, samples_per_clip], silence behind the recording's end."""
    from birdsd.sound.audio.levels import SILENCE_DBFS
    from birdsd.sound.audio.recordings import read

    heard = read(path, codec.rate_hz, start_s=start_s, duration_s=codec.clip_s, channels=codec.channels)
    if heard.shape[1] < _LEAST_SHARE * codec.samples_per_clip:
        raise BadValue(
            f"init={path}: {heard.shape[1] / codec.rate_hz:.3g} s of sound are left from {start_s:g} s on",
            f"a clip of this model lasts {codec.clip_s:.3g} s, of which a quarter must be there",
            "take an earlier start (init=FILE@SECONDS), or a longer recording",
        )
    if codec.level_db(heard) < SILENCE_DBFS:
        raise NothingLeft(
            f"init={path} is silent from {start_s:g} s to {start_s + codec.clip_s:.5g} s",
            "the start must not be silent",
            "take another start: init=FILE@SECONDS",
        )
    clip = np.zeros((codec.channels, codec.samples_per_clip), np.float32)
    length = min(heard.shape[1], clip.shape[1])
    clip[:, :length] = heard[:, :length]
    return clip


@dataclass(frozen=True)
class KnownLatents:
    """A `sampling.Guide`: starts from `latents` [1 or B, C, h, w] after leaving out `skipped` steps, and
    where there is `anew` (bool [w]: columns that may change) keeps to them elsewhere.
    """

    latents: Tensor
    skipped: int
    anew: Tensor | None = None

    def begin(self, scheduler: Any, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The known latents under as much of the noise as belongs to the first timestep that is left."""
        known = self._like(noise)
        if not len(timesteps):
            return known
        if not self.skipped:
            start: Tensor = noise * scheduler.init_noise_sigma
        else:
            start = scheduler.add_noise(known, noise, timesteps[:1])
        return start if self.anew is None else self.after(scheduler, start, noise, timesteps[0])

    def after(self, scheduler: Any, latents: Tensor, noise: Tensor, following: Tensor | None) -> Tensor:
        """Put the known latents back, with the noise of the timestep that follows."""
        if self.anew is None:
            return latents
        known = self._like(noise)
        if following is not None:
            known = scheduler.add_noise(known, noise, following.reshape(1))
        return known.where(~self.anew.to(noise.device), latents)

    def _like(self, noise: Tensor) -> Tensor:
        return self.latents.to(noise.device, noise.dtype).expand_as(noise)


def known_latents(start: Start, vae: Any, codec: Codec, skipped: int, span: Span | None) -> KnownLatents:
    """The guide for a start, `skipped` steps on its way; in `span`, if there is one, it is made anew."""
    import torch

    latents = start.latents(vae)
    anew = None if span is None else torch.from_numpy(span.touched(latents.shape[-1], codec.clip_s))
    return KnownLatents(latents, skipped, anew)


def keep_outside(pictures: np.ndarray, start: Start, span: Span, codec: Codec) -> np.ndarray:
    """uint8 [B, H, W, 3]: outside the stretch the start's own picture, to the pixel.

    The decoder sees over the edge of the stretch, so that what it makes outside is close, not equal.
    """
    new = span.weights(pictures.shape[2], codec.clip_s)[:, None]
    mixed = np.rint(new * pictures + (1 - new) * start.picture.astype(np.float32))
    return mixed.astype(np.uint8)


def keep_sound(waveform: np.ndarray, start: Start, span: Span, codec: Codec) -> np.ndarray:
    """float32 [channels, samples]: outside the stretch the recording's own samples, to the bit.

    A picture has no sound of its own to keep, and one without absolute levels (intensity "power") none that
    would fit: then the waveform stays as it was decoded.
    """
    if start.waveform is None or not codec.keeps_level:
        return waveform
    new = span.weights(codec.samples_per_clip, codec.clip_s)
    kept: np.ndarray = (new * waveform + (1 - new) * start.waveform).astype(np.float32)
    return kept
