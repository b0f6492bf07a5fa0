"""What a value means that was written down as text, in a preset's file or as `key=value`, and back again."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from birdsd import yamltext
from birdsd.errors import BadValue, Damaged

# Open dictionaries whose values are words, not numbers.
_OF_WORDS = ("site.environment", "site.sbatch", "learn")
# Dictionaries whose keys are not fields.
OPEN = ("model.unet", "model.vae", "model.text", "model.recommended", "settings", *_OF_WORDS)
# OmegaConf would read "${...}" as an interpolation, which may even name an environment variable, and "???"
# as a value that is missing. U+FDD0 is no character, and stands in for their first while it holds a value.
_STAND_IN = "\ufdd0"


def encoded(value: Any) -> Any:
    """A value whose text OmegaConf takes as it is."""
    if isinstance(value, dict):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encoded(item) for item in value]
    if not isinstance(value, str):
        return value
    return _STAND_IN + value if value == "???" else str(value).replace("${", _STAND_IN + "{")


def decoded(value: Any) -> Any:
    """What `encoded` was given; dataclasses are changed in place."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            setattr(value, item.name, decoded(getattr(value, item.name)))
        return value
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item) for item in value]
    if not isinstance(value, str):
        return value
    return "???" if value == f"{_STAND_IN}???" else value.replace(_STAND_IN + "{", "${")


def as_setting(key: str, value: Any) -> str:
    """The setting `key=value` that `compose` reads back as this very value, whatever text it holds."""
    below = any(key.startswith(f"{one}.") for one in OPEN)
    if isinstance(value, str) and not below:
        return f"{key}={value}" if not re.fullmatch(r'"*null"*', value) else f'{key}="{value}"'
    return f"{key}={yamltext.flow(value)}"


def read_preset(path: Path) -> dict[str, Any]:
    """The values of a preset file, as `yamltext.load` gives them."""
    import yaml

    try:
        values = yamltext.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise Damaged(f"the preset {path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise BadValue(f"the preset {path} holds no settings", "a preset is a YAML file of key: value lines")
    return {str(key): value for key, value in values.items()}


def as_field(key: str, default: Any, value: Any) -> Any:
    """A value that `yamltext.load` gave, as the field `key` takes it.

    Fields of one type take text as it is written. Of the open dictionaries those of a site are words for a
    shell and for sbatch, and stay as written too; those of a model are numbers and lists, read as YAML 1.2.
    """
    if not isinstance(default, dict) or not isinstance(value, dict):
        return yamltext.written(value)
    if key not in _OF_WORDS:
        return yamltext.typed(value)
    return {str(name): _word(f"{key}.{name}", item) for name, item in value.items()}


def _word(key: str, value: Any) -> Any:
    """A value in an open dictionary of a site. Options of sbatch may also be true, false, or a list."""
    if key.startswith("site.sbatch"):
        switch = isinstance(value, yamltext.Plain) and value in ("true", "false", "True", "False")
        return value.lower() == "true" if switch else yamltext.written(value)
    if isinstance(value, (dict, list)):
        raise BadValue(
            f"{key} holds {yamltext.written(value)}", "a variable's value is text", "put it in quotes"
        )
    return "" if yamltext.is_null(value) else str(value)


def value_of(key: str, text: str, default: Any, below: str) -> Any:
    """What a setting's text means for a field with this default, or in the open dictionary `below`."""
    import yaml

    if isinstance(default, list):
        return None if text == "null" else [encoded(item) for item in _listed(text)]
    if not below and not isinstance(default, dict):
        return None if text == "null" else encoded(_unquoted_null(text))
    try:
        value = yamltext.load(text)
    except yaml.YAMLError as error:
        if below not in _OF_WORDS:
            raise ValueError(f"it is not valid YAML: {getattr(error, 'problem', error)}") from error
        value = yamltext.Plain(text)
    if not below:
        return encoded(as_field(key, default, yamltext.typed(value) if value is None else value))
    if below not in _OF_WORDS:
        return encoded(yamltext.typed(value))
    # A word is taken as it stands, spaces and brackets too, unless it was put in quotes.
    quoted = isinstance(value, str) and not isinstance(value, yamltext.Plain)
    return encoded(value if quoted else _word(below, yamltext.Plain(text)))


def _listed(text: str) -> list[str]:
    """The items of `[a, "b, c"]`; anything that is not such a list is one item as it stands."""
    import yaml

    try:
        items = yamltext.load(text) if text.startswith("[") else None
    except yaml.YAMLError:
        items = None
    if not isinstance(items, list) or any(isinstance(item, (dict, list)) for item in items):
        return [text]
    return [str(item) for item in items]


def _unquoted_null(text: str) -> str:
    # null is no value, so the word needs a way to be written: "null", and with a pair of quotes more that.
    return text[1:-1] if re.fullmatch(r'"+null"+', text) else text
