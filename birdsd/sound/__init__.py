"""Recordings, labels, segments, the spectrogram codec and its inverse."""
