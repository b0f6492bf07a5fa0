"""Stems on disk: a recording's separation as sound, tables, picture and recipe, in blocks, so that hours
fit."""
