"""Checkpoints: written, committed, checked and read back."""
