"""Positions to micro-batches, for any world size."""
