"""A run in one file, to resume it on another machine."""
