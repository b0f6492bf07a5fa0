"""The spectrogram codec: sound to an image and back."""

from birdsd.sound.codec.codec import SpectrogramCodec

__all__ = ["SpectrogramCodec"]
