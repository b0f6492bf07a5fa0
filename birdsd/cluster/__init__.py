"""Runs and where they live."""
