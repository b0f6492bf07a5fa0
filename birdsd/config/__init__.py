"""Presets in groups, then `key=value`, as one typed configuration; and its signature."""

from birdsd import schema
from birdsd.config.compose import (
    altered,
    as_dict,
    as_listed,
    changed,
    compose,
    job_line,
    job_name,
    job_type,
    keys,
    listed,
    settings_as_typed,
    split_settings,
)
from birdsd.config.presets import Preset, config_folder, own_config_folder, presets
from birdsd.config.settle import fill_open
from birdsd.config.signature import signature

__all__ = [
    "Preset",
    "altered",
    "as_dict",
    "as_listed",
    "changed",
    "compose",
    "config_folder",
    "fill_open",
    "job_line",
    "job_name",
    "job_type",
    "keys",
    "listed",
    "own_config_folder",
    "presets",
    "schema",
    "settings_as_typed",
    "signature",
    "split_settings",
]
