"""YAML as people mean it: text stays as it is written, and numbers are those of YAML 1.2.

PyYAML reads YAML 1.1, in which 16:00 is 960, 0012 is 10, 1_000 is 1000, `yes` and `on` are true, and 1e-4 is
text. In a site's file, whose values are words for a shell or for Slurm, each of these is a silent error.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class Plain(str):
    """A scalar that was written without quotes: what it means is for the place that it stands in."""


class _AsWritten(yaml.SafeLoader):
    """Every scalar is text, and one without quotes a `Plain`; a key may stand only once in its mapping."""

    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012 - of the base class
        "<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))]
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands there twice", key.start_mark
                    )
                seen.add(key.value)
        return {
            str(key) if isinstance(key, str) else key: value
            for key, value in super().construct_mapping(node, deep).items()
        }


def _text(loader: _AsWritten, node: yaml.ScalarNode) -> str:
    value = str(loader.construct_scalar(node))
    return Plain(value) if node.style is None else value


_AsWritten.add_constructor("tag:yaml.org,2002:str", _text)

_NULL = re.compile(r"null|Null|NULL|~|")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_ODD = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}


def load(text: str) -> Any:
    """The document with every scalar as text, those without quotes as `Plain`. Raises `yaml.YAMLError`."""
    return yaml.load(text, Loader=_AsWritten)


def is_null(value: Any) -> bool:
    """Whether a value is YAML's null: nothing at all, null or ~, without quotes."""
    return isinstance(value, Plain) and _NULL.fullmatch(value) is not None


def typed(value: Any) -> Any:
    """What a loaded value means in YAML 1.2's core schema: true and false, numbers, null, and else text.

    Numbers that begin with a zero, and those with underscores or colons, are text.
    """
    if isinstance(value, dict):
        return {str(key): typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    if not isinstance(value, Plain):
        return value
    if is_null(value):
        return None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if _INTEGER.fullmatch(value):
        return int(value)
    if value.lower() in _ODD:
        return float(_ODD[value.lower()])
    digits = value.lstrip("+-")
    if _FLOAT.fullmatch(value) and not (len(digits) > 1 and digits[0] == "0" and digits[1].isdigit()):
        return float(value)
    return str(value)


def written(value: Any) -> Any:
    """A loaded value as it is written, text throughout; null is None."""
    if isinstance(value, dict):
        return {str(key): written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [written(item) for item in value]
    return None if is_null(value) else str(value) if isinstance(value, Plain) else value


def quoted(text: str) -> str:
    """Text in double quotes that `load` reads back to the character, whatever it holds."""

    def one(character: str) -> str:
        if character in '"\\':
            return "\\" + character
        if character.isprintable():
            return character
        code = ord(character)
        return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"

    plain = text.isprintable() and '"' not in text and "\\" not in text
    return '"' + (text if plain else "".join(map(one, text))) + '"'


def flow(value: Any) -> str:
    """A value in YAML's flow style, on one line, that `typed(load(...))` reads back as it is."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(str(key))}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return str(value) if isinstance(value, int) else quoted(str(value))
