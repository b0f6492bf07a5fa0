"""Honest measures of what was learnt."""
