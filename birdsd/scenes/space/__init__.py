"""Scenes that come from somewhere: stereo, ambisonics and arrays, and labels with their bearings."""
