"""Presets, small YAML files in groups: those of birdsd, of other packages, and the user's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import birdsd
from birdsd import plugins
from birdsd.errors import NotFound, clipped, listed_names, unknown_name

_GROUPS = ("codec", "data", "machine", "method", "model", "site")


@dataclass(frozen=True)
class Preset:
    """One file of configs/GROUP: its name and the line that describes it."""

    group: str
    name: str
    line: str
    path: Path


def config_folder() -> Path:
    """configs/ of the checkout, or the copy inside the installed package."""
    for root in birdsd.__path__:
        folder = Path(root) / "configs"
        if folder.is_dir():
            return folder.resolve()
    raise NotFound("the folder configs/ is missing from this installation", "", "reinstall birdsd")


def own_config_folder() -> Path:
    """The user's own presets, in the same groups: $BIRDSD_CONFIGS, or birdsd/ in the user's settings."""
    named = os.environ.get("BIRDSD_CONFIGS")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "birdsd"


def presets() -> dict[str, list[Preset]]:
    """Every preset by group; the line is the first comment of its file. The user's own take precedence over
    ours, and ours over those of installed packages."""
    packaged = [path for folder in plugins.config_folders() for path in sorted(folder.glob("*/*.yaml"))]
    shipped = sorted(config_folder().glob("*/*.yaml"))
    shipped_names = {(path.parent.name, path.name) for path in shipped}
    added = [path for path in packaged if (path.parent.name, path.name) not in shipped_names]
    added += sorted(own_config_folder().glob("*/*.yaml"))
    by_group: dict[str, dict[str, Preset]] = {}
    for path in [*shipped, *(path for path in added if path.parent.name in _GROUPS)]:
        group = by_group.setdefault(path.parent.name, {})
        group.pop(path.stem, None)  # so that one that replaces another is listed where it comes
        group[path.stem] = Preset(path.parent.name, path.stem, _line(path), path)
    return {name: list(group.values()) for name, group in by_group.items()}


def _line(path: Path) -> str:
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def preset_file(group: str, value: str, known: Mapping[str, list[Preset]]) -> Path:
    """The file that `group=value` names: a preset among those `known`, by its name, or any YAML file."""
    files = {preset.name: preset.path for preset in known.get(group, [])}
    if value in files:
        return files[value]
    if not value.endswith((".yaml", ".yml")):
        raise unknown_name(f"preset of {group}", value, files, "`birdsd presets` describes them.")
    if not Path(value).is_file():
        raise NotFound(
            f"{group}={clipped(value)}: the file does not exist", "", f"or one of {listed_names(files)}"
        )
    return Path(value).resolve()
