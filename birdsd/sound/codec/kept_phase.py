"""The phase in two images beside the level: cosine and sine of every cell, so that nothing wraps and nothing
is estimated on the way back.

Where it is quiet, the phase is noise that no network can learn and no ear hears: there the vector is shorter,
down to nothing at the floor. Its length says how far the direction is to be trusted; a decoder uses the
direction alone.
"""

from __future__ import annotations

import numpy as np

from birdsd.sound.codec.transform import Stft

_FULL_LEVEL = 48  # of 255, about 19 dB above a floor at -100 dB: from here up a vector has its full length


def spectrum_of(waveform: np.ndarray, stft: Stft, bins: slice) -> np.ndarray:
    """Complex64 [frames, bins] of `waveform` [samples], phases counted from the window's centre: then they
    hardly change across the bins of one sound, where from the window's start they would alternate."""
    out = np.empty((len(waveform) // stft.hop, bins.stop - bins.start), np.complex64)
    for part, spectrum in stft.spectra(np.asarray(waveform, np.float32)):
        np.multiply(spectrum[:, bins], _to_centre(stft)[bins], out=out[part])
    return out


def from_centre(spectrum: np.ndarray, stft: Stft) -> np.ndarray:
    """The inverse turn: `spectrum` [frames, stft.bins] counted from the centre, as `stft` counts."""
    return spectrum * _to_centre(stft).conj()


def _to_centre(stft: Stft) -> np.ndarray:
    turn = np.pi * stft.window / stft.n_fft * np.arange(stft.bins)
    return np.exp(1j * turn).astype(np.complex64)


def phase_images(spectrum: np.ndarray, loudness: np.ndarray) -> np.ndarray:
    """Cosine and sine, uint8 [2, bands, frames] with the highest band first, of `spectrum` [frames, bands].

    loudness: [bands, frames] of the level's image on 0..255, quiet is 0; it shortens the vector.
    """
    length = np.minimum(loudness.astype(np.float32) / _FULL_LEVEL, 1)
    direction = spectrum / np.maximum(np.abs(spectrum), np.float32(1e-20))
    turned = direction.T[::-1] * length
    return np.rint(127.5 + 127.5 * np.stack([turned.real, turned.imag])).clip(0, 255).astype(np.uint8)


def directions(images: np.ndarray) -> np.ndarray:
    """Complex64 [frames, bands] of length 1, lowest band first, of the images of cosine and sine [2, bands,
    frames]; they may be float, on the same 0..255."""
    cosine, sine = (np.asarray(images, np.float32) / 127.5 - 1)[:, ::-1].transpose(0, 2, 1)
    vector = cosine + 1j * sine
    return (vector / np.maximum(np.abs(vector), np.float32(1e-6))).astype(np.complex64)
