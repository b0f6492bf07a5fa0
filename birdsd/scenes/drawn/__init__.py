"""Scenes by the thousand, each a pure function of a distribution, a seed and its number."""
