"""Backgrounds of any length: generated without seams, or out of a pool of recordings."""
