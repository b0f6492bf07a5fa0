"""Codecs: sound to an image and back. What every kind has, and the spectrogram, which is ours."""

from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.codec.protocol import Codec

__all__ = ["Codec", "SpectrogramCodec"]
