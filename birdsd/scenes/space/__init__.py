"""Scenes that come from somewhere: stereo, ambisonics and arrays, and labels that say from where."""
