"""A GPU that is there for a quarter of an hour, taken through everything, in order of worth (docs/gpu.md)."""
