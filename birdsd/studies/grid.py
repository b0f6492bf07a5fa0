"""An X/Y grid over two settings of generate: axes, cells, and the command that generates each cell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from birdsd import config, yamltext
from birdsd.diffusion.generation.recommended import USUAL
from birdsd.diffusion.generation.request import Request
from birdsd.errors import BadValue, Mismatch, NotSet, UserError, unknown_name
from birdsd.runs.models.loading import recommended_sampling, split_weight
from birdsd.runs.models.places import place_of
from birdsd.runs.models.upscaling import upscaler_place
from birdsd.runs.models.weaker import placed
from birdsd.schema import ClipsConfig, GenerateConfig, GridConfig
from birdsd.values import as_setting

MOST_CLIPS = 100  # on one page; its pictures and sounds are inside it
NOTHING = ("", "none", "null")
_FIXED = {"machine", "runs", "count", "seeds", "batch_size"}  # not one clip against another


@dataclass(frozen=True)
class Axis:
    """One setting and the texts of its values."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, name: str) -> Axis:
        """Read `SETTING=VALUE,VALUE` or `SETTING=["a, b", "c"]`; `name` is x or y, for the errors."""
        key, equals, listed = text.partition("=")
        key = key.strip()
        example = f'{name}="guidance=1,3,5"'
        if not equals or not key:
            raise BadValue(f"{name}={text!r}", "an axis is a setting with its values", f"e.g. {example}")
        valid = [field.name for field in fields(ClipsConfig) if field.name not in _FIXED]
        if key not in valid:
            raise unknown_name(f"setting on the {name} axis", key, valid, whole="birdsd run generate --keys")
        values = tuple(dict.fromkeys(_values(listed)))
        if not values:
            raise NotSet(f"{name}={text!r} has no values", "they follow, with commas", f"e.g. {example}")
        return cls(key, values)


def _values(text: str) -> list[str]:
    items: Any = None
    if text.strip().startswith("["):
        try:
            items = yamltext.load(text)
        except yaml.YAMLError:
            items = None
    if isinstance(items, list):
        return ["" if yamltext.is_null(item) else str(item) for item in items]
    return [item.strip() for item in text.split(",") if item.strip()]


@dataclass(frozen=True)
class Cell:
    """One place of the grid, and the settings that generate its clips."""

    column: int
    row: int
    settings: GenerateConfig
    request: Request

    @property
    def place(self) -> tuple[int, int]:
        return self.row, self.column

    @property
    def model_key(self) -> tuple[object, ...]:
        """Cells with the same key share one loaded model."""
        told = self.settings
        upscaled = told.upscale, told.upscale_sharpness
        return told.run, told.base, told.guide, *upscaled, tuple(told.add)


@dataclass(frozen=True)
class Grid:
    """All cells, row by row. Without a y axis there is one row."""

    x: Axis
    y: Axis | None
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, config: GridConfig) -> Grid:
        """The grid of a configuration. Every cell is checked, so that none fails after hours of others."""
        if not config.x:
            raise NotSet("x is not set", "a grid varies a setting", 'e.g. x="guidance=1,3,5"')
        x = Axis.parse(config.x, "x")
        y = Axis.parse(config.y, "y") if config.y else None
        if y is not None and y.key == x.key:
            raise Mismatch(f"x and y are both {x.key}", "a grid varies two different settings", "leave y out")
        shared = {field.name: getattr(config, field.name) for field in fields(ClipsConfig)}
        cells = []
        for row, below in enumerate(y.values if y else ("",)):
            for column, right in enumerate(x.values):
                settings = GenerateConfig(**{**shared, "out": config.out})
                for axis, value in ((x, right), (y, below)):
                    settings = _with(settings, axis.key, value) if axis else settings
                request = Request.of(settings, recommended_sampling(settings))
                cells.append(Cell(column, row, settings, request))
        clips = sum(cell.request.total for cell in cells)
        if clips > MOST_CLIPS:
            shape = f"{len(x.values)} x {len(y.values) if y else 1}"
            raise BadValue(
                f"a grid of {shape} cells with {clips} clips in all",
                f"one page holds at most {MOST_CLIPS}",
                "give fewer values or a smaller count, or make several grids",
            )
        return cls(x, y, tuple(cells))


def _with(settings: GenerateConfig, key: str, value: str) -> GenerateConfig:
    if key == "prompt":
        value = yamltext.flow([value])
    elif key == "add":  # several at once: "runs/a:0.5 + runs/b"
        parts = [part.strip() for part in value.split(" + ")]
        value = yamltext.flow([part for part in parts if part.lower() not in NOTHING])
    elif value.lower() in NOTHING and key != "negative_prompt":
        value = "null"
    altered: GenerateConfig = config.altered("generate", settings, key, value)
    return altered


def command(settings: GenerateConfig) -> str:
    """The `birdsd run generate` that makes the same clips, to be pasted into a shell anywhere here.

    Default settings are left out; models and recordings are named by their full paths.
    """
    usual: GenerateConfig = config.compose("generate")
    words = [f"machine={settings.machine.name}"] if settings.machine.name != usual.machine.name else []
    try:
        machine = config.compose("generate", words).machine
        words += _differing(settings.machine, machine, "machine.")
    except UserError:  # a preset from a custom file
        words = _differing(settings.machine, usual.machine, "machine.")
    best = {**USUAL, **recommended_sampling(settings)}
    left_out: dict[str, Any] = {
        name: None for name, value in best.items() if getattr(settings, name) == value
    }
    named = replace(
        settings,
        **left_out,
        run=str(place_of(settings, settings.run).resolve()) if settings.run else None,
        add=[_placed(settings, text) for text in settings.add],
        init=_absolute(settings.init) if settings.init else None,
        guide=placed(settings, settings.guide) if settings.guide else None,
        upscale=str(upscaler_place(settings, settings.upscale)) if settings.upscale else None,
        runs=usual.runs,
        out=usual.out,
        machine=usual.machine,
    )
    changed = _differing(named, usual, "")
    first = [word for name in ("run=", "prompt=") for word in changed if word.startswith(name)]
    return shlex.join(["birdsd", "run", "generate", *first, *(w for w in changed if w not in first), *words])


def _placed(settings: GenerateConfig, text: str) -> str:
    name, weight = split_weight(text)
    return f"{place_of(settings, name).resolve()}:{weight:g}"


def _absolute(text: str) -> str:
    from birdsd.diffusion.generation.conditioning import split_offset

    path, start_s = split_offset(text)
    return f"{path.resolve()}@{start_s:g}" if start_s else str(path.resolve())


def _differing(given: Any, usual: Any, prefix: str) -> list[str]:
    return [
        f"{prefix}{field.name}={as_text(getattr(given, field.name))}"
        for field in fields(given)
        if getattr(given, field.name) != getattr(usual, field.name)
    ]


def as_text(value: object) -> str:
    """A value as a setting's text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        plain = len(value) == 1 and not str(value[0]).startswith("[")
        return str(value[0]) if plain else yamltext.flow(list(value))
    return as_setting("", value)[1:] if isinstance(value, str) else str(value)


def axis_name(key: str) -> str:
    """A setting's name for people: guidance, negative prompt, start from."""
    return {"add": "added", "init": "start from", "run": "model"}.get(key, key.replace("_", " "))


def value_name(key: str, value: str) -> str:
    """A value for people: paths by their last part, nothing as a word."""
    if value.lower() in NOTHING:
        return "none"
    if key in ("run", "add", "init", "base", "guide", "upscale"):
        return " + ".join(_short(part) for part in value.split(" + "))
    return value


def _short(text: str) -> str:
    name, weight = split_weight(text)
    path = Path(name)
    short = path.parent.name if path.name == "export" else path.name
    return f"{short or name} at {weight:g}" if weight != 1 else short or name


def fixed_settings(config: GridConfig, grid: Grid) -> dict[str, str]:
    """What all cells share that differs from the defaults, by name, for the page."""
    skipped = {grid.x.key, grid.y.key if grid.y else "", "machine", "runs", "batch_size", "out", "x", "y"}
    usual = GenerateConfig()
    shown = ("prompt", "run", "seed", "steps", "guidance", "scheduler")
    shared: dict[str, str] = {}
    for field in fields(ClipsConfig):
        value = getattr(config, field.name)
        if field.name in skipped or not (field.name in shown or value != getattr(usual, field.name)):
            continue
        if value is None and field.name in shown[3:]:  # as the models recommend
            value = list(dict.fromkeys(getattr(cell.request, field.name) for cell in grid.cells))
        shared[axis_name(field.name)] = _shown_value(field.name, value)
    return shared


def _shown_value(key: str, value: object) -> str:
    values: Sequence[object] = value if isinstance(value, list) else [value]
    return ", ".join(value_name(key, as_text(one)) for one in values)
