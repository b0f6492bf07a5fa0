"""Soundscapes as data: what was asked for, checked, and solved for who sounds when."""
