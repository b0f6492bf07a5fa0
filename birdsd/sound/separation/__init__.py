"""Separation: a recording as stems that sum to it, by a spectral gate or by non-negative matrix
factorisation."""
