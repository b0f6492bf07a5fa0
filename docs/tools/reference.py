"""Pages about jobs, presets and commands, made from the code when the site is built.

A key's meaning is the comment beside its field in birdsd/schema; its default is the field's. Whoever adds
a key, a job, a preset or a verb has documented it with that.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import io
import os
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from birdsd import config, schema
from birdsd.cli.main import _parser
from birdsd.errors import UserError
from birdsd.site.choose import SHARED_JOBS

BASH = "```bash\n{}\n```\n"
HELP_COLUMNS = "96"


@dataclass(frozen=True)
class Key:
    """One key of a job: as it is typed, the type and default of its field, and what it means."""

    name: str
    type: str
    default: Any
    meaning: str


def notes(kind: type) -> dict[str, tuple[str, str]]:
    """Of each field of a dataclass: its annotation as written, and the comment at the end of its line.

    Fields that are inherited are told by the class that has them; a class's own word goes first.
    """
    found: dict[str, tuple[str, str]] = {}
    for one in reversed(kind.__mro__):
        if dataclasses.is_dataclass(one):
            found.update(_notes_of(one))
    return found


@functools.cache
def _notes_of(kind: type) -> dict[str, tuple[str, str]]:
    text = textwrap.dedent(inspect.getsource(kind))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = text.splitlines()
    comments = {  # those that stand beside something; a field may go over several lines
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokens
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1][: token.start[1]].strip()
    }
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: (
            ast.unparse(field.annotation),
            " ".join(comments[n] for n in range(field.lineno, (field.end_lineno or 0) + 1) if n in comments),
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def keys_of(kind: type, prefix: str = "") -> Iterator[Key]:
    """Every key of a configuration class, in the order in which `birdsd run JOB --keys` lists them."""
    told = notes(kind)
    for item in dataclasses.fields(kind):
        default = item.default if item.default is not dataclasses.MISSING else None
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        name = f"{prefix}{item.name}"
        if dataclasses.is_dataclass(default):
            yield from keys_of(type(default), f"{name}.")
        else:
            annotation, comment = told[item.name]
            yield Key(name, _type_words(annotation), default, _meaning(name, comment))


def _type_words(annotation: str) -> str:
    """`Optional[float]` -> number, or null; as somebody says it who types the value."""
    inner = re.fullmatch(r"Optional\[(.*)\]", annotation)
    if annotation == "Text" or inner:
        return f"{_type_words(inner[1]) if inner else 'text'}, or null"
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    if listed := re.fullmatch(r"list\[(.*)\]", annotation):
        return "list of " + {"str": "texts", "int": "whole numbers"}.get(listed[1], listed[1])
    return "names and values" if annotation.startswith("dict[") else words.get(annotation, annotation)


def _meaning(name: str, comment: str) -> str:
    """The comment, and what the tables of the schema say of this key besides."""
    section, _, field = name.rpartition(".")
    parts = [comment] if comment else []
    if section == "optim" and field in schema.OPTIM_DEFAULTS:
        parts.append(f"null: as the model preset recommends, else {_value(schema.OPTIM_DEFAULTS[field])}")
    if section == "method" and (methods := methods_with(field)):
        parts.append(f"*only with {', '.join(methods)}*")
    return "; ".join(parts)


@functools.cache
def methods_with(field: str) -> tuple[str, ...]:
    """The methods that have a field of `method`, by trying it with each; empty where all of them do."""
    usual = getattr(schema.MethodConfig(), field)
    another: Any = "another" if usual is None or isinstance(usual, str) else ["another"]
    if isinstance(usual, (bool, int, float)):
        another = not usual if isinstance(usual, bool) else usual + 7
    found, every = {}, {}
    for name in [preset.name for preset in _shipped()["method"]]:
        for base in ("lora", "full") if name == "dreambooth" else ("lora",):
            tried = schema.TrainConfig()
            tried.method.name, tried.method.base_method = name, base
            every.setdefault(name, []).append(base)
            if field != "base_method" or name != "dreambooth":
                setattr(tried.method, field, another)
            with suppress(UserError):
                config.refuse_keys_of_others(tried)
                found.setdefault(name, []).append(base)
    if found == every:
        return ()
    return tuple(
        f"`{name}`" if bases == every[name] else f"`{name}` on `{bases[0]}`" for name, bases in found.items()
    )


def _value(value: Any) -> str:
    """A value as it is typed."""
    if value == schema.MISSING:
        return "the preset's name"
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower()}`".replace("none", "null")
    if isinstance(value, dict):
        return "`{...}`" if value else "`{}`"
    return "``" if value == "" else f"`{value}`"


def _cell(text: str) -> str:
    """Text that a table's cell can hold: no bar ends it, no angle bracket opens a tag."""
    escaped = text.replace("|", "\\|")
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", escaped)


def rows(kind: type, starts_with: Mapping[str, Any]) -> Iterator[str]:
    """A table's row for each key: what it is called, its type, default, what the job starts with, meaning."""
    for key in keys_of(kind):
        start = starts_with[key.name]
        other = _value(start) if start != key.default else ""
        cells = (f"`{key.name}`", key.type, _value(key.default) if key.default != "" else "empty", other)
        yield "| " + " | ".join(_cell(cell) for cell in (*cells, key.meaning)) + " |"


def settled(job: str) -> dict[str, Any]:
    """Every key of a job with its value where the user says nothing: presets and advice applied."""
    plain = config.compose(job)
    return {name: functools.reduce(getattr, name.split("."), plain) for name, _ in config.keys(type(plain))}


def job_page(job: str) -> str:
    """The page of one job: its usage, the presets it starts from, and every key, section by section."""
    kind = config.job_type(job)
    title = f"# {job}\n\n{config.job_line(job).rstrip('.')}.\n"
    verb = "birdsd submit JOB {}" if job == schema.SUBMIT else f"birdsd run {job} {{}}"
    usage = [verb.format("KEY=VALUE ..."), f"birdsd run {job} --keys"][: 1 if job == schema.SUBMIT else 2]
    if job in ("train", *SHARED_JOBS):
        usage.append(f"birdsd submit {job} site=SITE KEY=VALUE ...")
    parts = [title, BASH.format("\n".join(usage)), _groups(job)]
    sections: dict[str, list[str]] = {}
    for row in rows(kind, settled(job)):
        name = row.split("`")[1]
        sections.setdefault(name.rpartition(".")[0], []).append(row)
    head = "| key | type | default | starts with | meaning |\n|---|---|---|---|---|\n"
    for section in sorted(sections, key=lambda one: one != ""):  # the job's own keys first
        of_section = _section_type(kind, section)
        line = (of_section.__doc__ or "").strip() if section else ""
        title = f"## {section}.*" if section else "## Its own keys"
        said = f"{inspect.cleandoc(line)}\n\n" if line else ""
        parts.append(f"{title}\n\n{said}{head}" + "\n".join(sections[section]) + "\n")
    return "\n".join(parts)


def _section_type(kind: type, section: str) -> type:
    for name in filter(None, section.split(".")):
        (item,) = [item for item in dataclasses.fields(kind) if item.name == name]
        made: Any = item.default_factory
        kind = type(made())
    return kind


def _groups(job: str) -> str:
    known, groups = _shipped(), schema.GROUP_DEFAULTS[job]
    if not groups:
        return "It chooses no presets by group.\n"
    lines = [
        f"- `{group}=`: " + ", ".join(f"**{p.name}**" if p.name == start else p.name for p in known[group])
        for group, start in groups.items()
    ]
    text = (
        "Presets, the one it starts from in bold ([all presets](../presets.md), or a YAML file of your own):"
    )
    return "\n".join([text, "", *lines, ""])


def _shipped() -> dict[str, list[config.Preset]]:
    """The presets that come with birdsd, without those of whoever builds the site."""
    ours = config.config_folder()
    return {
        group: [preset for preset in found if preset.path.parent.parent == ours]
        for group, found in config.presets().items()
    }


_JOBS = """# Jobs

A job is named after `birdsd run` (here) or `birdsd submit` (on a cluster); its settings follow as
`group=preset` or `key=value`. These pages are made from the schema that checks the settings.

| job | what it does |
|---|---|
{jobs}

[submit](submit.md) has the keys that say where a submitted job runs: nodes, tasks, and the site.

*Default* is what a key has where no preset sets it; *starts with*, where it differs, what it has after
the presets that the job starts from. `null` stands for a choice left open.
"""

_PRESETS = """# Presets

A preset is a small YAML file of settings: `machine=laptop-4gb`. A single key after it still wins. Your own
presets lie in `~/.config/birdsd/GROUP/NAME.yaml` (or below `$BIRDSD_CONFIGS`), or are named by their file:
`machine=FILE.yaml`. `birdsd presets` lists them all.
"""


def jobs_page() -> str:
    """The list of jobs, and how settings are typed."""
    lines = [f"| [{job}]({job}.md) | {_cell(config.job_line(job))} |" for job in schema.JOBS]
    return _JOBS.format(jobs="\n".join(lines))


def presets_page() -> str:
    """Every preset that comes with birdsd: its line, and its file."""
    parts = [_PRESETS]
    for group, found in _shipped().items():
        table = [f"| [`{group}={p.name}`](#{_anchor(group, p.name)}) | {_cell(p.line)} |" for p in found]
        parts.append("\n".join([f"## {group}\n", "| preset | |", "|---|---|", *table, ""]))
        for preset in found:
            head = f"### {group}={preset.name} {{ #{_anchor(group, preset.name)} }}"
            parts.append(f"{head}\n\n```yaml\n{preset.path.read_text(encoding='utf-8').strip()}\n```\n")
    return "\n".join(parts)


def _anchor(group: str, name: str) -> str:
    return f"{group}-" + name.replace("+", "-and-")


def commands_page() -> str:
    """What every verb says of itself with --help."""
    parts = ["# Commands\n", "Each verb with what its `--help` prints.\n"]
    with patch.dict(os.environ, {"COLUMNS": HELP_COLUMNS, "NO_COLOR": "1"}):
        for name, parser in verbs():
            text = re.sub(r"\x1b\[[0-9;]*m", "", parser.format_help()).strip()
            parts.append(f"## birdsd {name}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def verbs() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every verb with its parser; a verb of two words (`site detect`) by its second word's."""
    waiting = [("", _parser())]
    while waiting:
        name, parser = waiting.pop(0)
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if name and not below:
            yield name, parser
        waiting[:0] = [(f"{name} {one}".strip(), p) for a in below for one, p in a.choices.items()]


def pages() -> dict[str, str]:
    """Every page that is made here, by its path in the site."""
    jobs = {f"jobs/{job}.md": job_page(job) for job in (*schema.JOBS, schema.SUBMIT)}
    others = {"jobs/index.md": jobs_page(), "presets.md": presets_page(), "commands.md": commands_page()}
    return {**others, **jobs}
