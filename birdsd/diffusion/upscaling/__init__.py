"""Upscaling: a coarse picture made fine, and each coarse cell as loud as it was."""
