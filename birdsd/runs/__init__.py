"""Runs: their folders, records and allocations."""
