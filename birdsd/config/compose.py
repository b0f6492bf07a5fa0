"""Presets in groups, then `key=value`, as one typed configuration.

`compose("train", ["machine=smoke", "optim.learning_rate=1e-4"])` gives a typed `TrainConfig`. Presets and
values are set through OmegaConf's typed nodes, over the dataclasses of `birdsd.schema` and that of the
chosen method. A value is taken as it stands, so that a prompt or a path may hold commas, quotes, `$`, `=` or
brackets.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

from birdsd import method_facts, plugins, schema
from birdsd.config.presets import preset_file, presets
from birdsd.config.settle import check_optimizer, fill_open, refuse_of_other_methods
from birdsd.errors import BadValue, UserError, clipped, nearest, unknown_name
from birdsd.schema import MethodConfig
from birdsd.values import OPEN, as_field, as_setting, decoded, encoded, read_preset, value_of


def job_type(job: str) -> type:
    """The configuration class of a job; an unknown job names the valid ones."""
    if job == schema.SUBMIT:
        return schema.SubmitConfig
    job = job_name(job)
    if job not in schema.JOBS:
        raise unknown_name("job", job, schema.JOBS)
    return schema.JOBS[job]


def job_name(job: str) -> str:
    """What a job is called today; stored submissions and scripts may hold its old name."""
    return schema.OLD_JOBS.get(job, job)


def job_line(job: str) -> str:
    """What a job does, in one line: the first line of its configuration's docstring."""
    return (job_type(job).__doc__ or "").strip().split("\n")[0]


def keys(
    kind: type, prefix: str = "", method: type[MethodConfig] = MethodConfig
) -> Iterator[tuple[str, Any]]:
    """Every key that can be set, with its default; dictionaries are open below their own key.

    The section `method` has the keys of `method`, and those of all methods that come with birdsd.
    """
    for item in dataclasses.fields(kind):
        default = item.default if item.default is not dataclasses.MISSING else None
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if isinstance(default, MethodConfig):
            kinds = (method, *(facts.config for facts in method_facts.built_in()))
            yield from dict(pair for one in kinds for pair in keys(one, f"{prefix}{item.name}.")).items()
        elif dataclasses.is_dataclass(default):
            yield from keys(type(default), f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", default


def listed(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key that could have been set in a configuration, with its value in it. Keys of other methods are
    among them, at their defaults."""
    method = type(config.method) if isinstance(config, schema.TrainConfig) else MethodConfig
    for key, default in keys(type(config), method=method):
        yield key, reduce(lambda section, name: getattr(section, name, default), key.split("."), config)


def as_listed(config: Any) -> dict[str, Any]:
    """What `listed` gives, as plain JSON-able values in sections."""
    found: dict[str, Any] = {}
    for key, value in listed(config):
        *sections, name = key.split(".")
        reduce(lambda section, part: section.setdefault(part, {}), sections, found)[name] = value
    return found


def compose(job: str, overrides: Sequence[str] = ()) -> Any:
    """The resolved configuration of `job`: an instance of its dataclass in `birdsd.schema`.

    An override is `group=preset`, `group=FILE.yaml` (a custom preset) or `key=value`. Raises
    `UserError` for an unknown job, group, preset or key (naming the valid ones and the nearest) and for
    a value of the wrong type.
    """
    kind = job_type(job)
    groups = dict(schema.GROUP_DEFAULTS[job_name(job)])
    known, values = presets(), list[tuple[str, str]]()
    for override in _with_keys(job, overrides):
        key, value = _split(override)
        if key == "data" and key in groups and _is_folder_of_data(value, known):
            values.insert(0, ("data.recordings", value))  # stands for data=song with these recordings
            groups[key] = schema.GROUP_DEFAULTS["prepare"][key]
        elif key in groups:
            preset_file(key, value, known)
            groups[key] = value
        else:
            values.append((key, value))
    files = {group: preset_file(group, value, known) for group, value in groups.items()}
    read = {group: {"name": path.stem, **read_preset(path)} for group, path in files.items()}
    if "codec" in read:
        kind = plugins.with_codec(kind, read["codec"].pop("kind", None))
    draft = _Draft(job, kind, _method_of(read["method"], values) if "method" in read else None)
    for group, path in files.items():
        draft.take_preset(group, path, read[group])
    for key, value in values:
        draft.set(key, value)
    config = draft.settled()
    if isinstance(config, schema.TrainConfig):
        fill_open(config)
        check_optimizer(config.optim, config.machine)
    for key, value in values:
        present = reduce(lambda section, name: getattr(section, name, None), key.split("."), config)
        if isinstance(present, float) and not math.isfinite(present):
            raise BadValue(f"{key} is {value}", "it must be a finite number")
    if isinstance(machine := getattr(config, "machine", None), schema.MachineConfig):
        machine.said = tuple(key.split(".")[1] for key, _ in values if key.startswith("machine."))
    return config


def _is_folder_of_data(value: str, known: Mapping[str, Sequence[Any]]) -> bool:
    if value.endswith((".yaml", ".yml")) or value in {preset.name for preset in known.get("data", ())}:
        return False
    return "/" in value or Path(value).exists()


def _method_of(section: Mapping[str, Any], values: Sequence[tuple[str, str]]) -> method_facts.MethodFacts:
    """The method that a preset, and what is typed after it, choose; `UserError` where there is none such."""
    typed = {key.partition(".")[2]: value for key, value in values if key.startswith("method.")}
    chosen = {**section, **typed}
    return method_facts.named(str(chosen["name"]), str(chosen.get("base_method", "")))


class _Draft:
    """A configuration while it is put together: typed nodes, whose keys are set one after the other."""

    def __init__(self, job: str, kind: type, method: method_facts.MethodFacts | None) -> None:
        from omegaconf import OmegaConf

        self.blank, section = kind(), MethodConfig if method is None else method.config
        if issubclass(kind, schema.TrainConfig):
            self.blank.method = section()
        self.job, self.method = job, method
        self.own = {item.name for item in dataclasses.fields(section)}
        self.defaults = dict(keys(kind, method=section))
        self.node: Any = OmegaConf.structured(self.blank)
        self.noise: dict[str, Any] = {}

    def settled(self) -> Any:
        """Plain dataclasses of it all."""
        from omegaconf import OmegaConf

        config = decoded(OmegaConf.to_object(self.node))
        if isinstance(config, schema.TrainConfig):
            config.method.noise = self.noise
        return config

    def take_preset(self, group: str, path: Path, values: Mapping[str, Any]) -> None:
        """The values of a preset file, each as its field takes it; refused by name otherwise."""
        valid = [key.split(".", 1)[1] for key in self.defaults if key.startswith(f"{group}.")]
        hint = f"`birdsd run ... --keys` and {group}'s presets show what a value looks like"
        # Where method.name was typed over a preset of another method, what that one has besides is not meant.
        other = group == "method" and self.method is not None and values["name"] != self.method.name
        for name, value in values.items():
            if other and name not in self.own and name in valid:
                continue
            if name not in valid:
                raise unknown_name(f"key in {path}", name, valid, whole=f"`birdsd run JOB --keys`, {group}.*")
            key, default = f"{group}.{name}", self.defaults[f"{group}.{name}"]
            with _explained(f"{path}: {name}: {value} does not fit", default, hint):
                self._put(key, encoded(as_field(key, default, value)))

    def set(self, key: str, text: str) -> None:
        """Set a key to a value that was typed."""
        default = self.defaults.get(key)
        dictionaries = [name for name, value in self.defaults.items() if isinstance(value, dict)]
        above = next((name for name in dictionaries if key.startswith(f"{name}.")), "")
        if key not in self.defaults and not above:
            raise _unknown_key(self.job, key, [*self.defaults, *schema.GROUP_DEFAULTS[job_name(self.job)]])
        with _explained(f"{key}={clipped(text)} does not fit", default):
            self._put(key, value_of(key, text, default, above), below_open=bool(above))

    def _put(self, key: str, value: Any, below_open: bool = False) -> None:
        from omegaconf import OmegaConf

        section, _, name = key.partition(".")
        if section != "method" or name.split(".")[0] in self.own or self.method is None:
            OmegaConf.update(self.node, key, value, force_add=below_open)
            return
        owner = next(facts.config for facts in method_facts.built_in() if name in facts.keys)
        theirs = OmegaConf.structured(owner(name=""))
        OmegaConf.update(theirs, name, value)
        typed = getattr(decoded(OmegaConf.to_object(theirs)), name)
        refuse_of_other_methods(self.method, name, typed, self.defaults[key])
        if name in schema.NOISE_DEFAULTS and typed is not None:
            self.noise[name] = typed


@contextmanager
def _explained(problem: str, default: Any, hint: str = "") -> Iterator[None]:
    """What OmegaConf, or whoever reads a value, cannot make a field's value of, as a `UserError`."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (OmegaConfBaseException, ValueError) as error:
        reason = _fitting(default, error) or clipped(str(error).split("\n")[0], 160)
        raise BadValue(problem, f"{reason}; the default is {clipped(repr(default))}", hint) from error


def _fitting(default: Any, error: Exception) -> str:
    """What a value of this key looks like, going by its default, or by what could not be made of it."""
    kinds = (
        ("Boolean", bool, "true or false"),
        ("Integer", int, "a whole number"),
        ("Float", float, "a number"),
    )
    lists = ("ListConfig", list, "a list, such as [a, b]"), ("DictConfig", dict, "names and values: {a: b}")
    wanted = re.search(r"converted to (\w+)", str(error))
    for name, kind, words in (*kinds, *lists):
        if isinstance(default, kind) or (wanted and wanted[1] == name):
            return f"it is {words}"
    return ""


def _with_keys(job: str, words: Sequence[str]) -> list[str]:
    """The settings of a job, its bare words among them: names of files are the value of the key that takes
    them."""
    key = schema.BARE.get(job_name(job))
    bare = [word for word in words if key and ("=" not in word or Path(word).exists())]
    if not key or not bare:
        return list(words)
    return [as_setting(key, bare), *(word for word in words if word not in bare)]


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
        raise BadValue(
            f"cannot read the setting '{clipped(override)}'",
            "a setting is group=preset or key=value, e.g. machine=smoke or optim.learning_rate=1e-4",
        )
    return _ALIASES.get(key, key), value


_ALIASES = {"upscale.sharpness": "upscale_sharpness"}  # `upscale` is a value, and no section


def split_settings(job: str, settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The settings of `birdsd submit JOB`, told apart: (where it runs, what the job is)."""
    of_submit = set(schema.GROUP_DEFAULTS[schema.SUBMIT])
    of_submit |= {key.split(".")[0] for key, _ in keys(schema.SubmitConfig)}
    of_job = {key.split(".")[0] for key, _ in keys(job_type(job))}
    where: list[str] = []
    what: list[str] = []
    for setting in _with_keys(job, settings):
        key = _split(setting)[0]
        first = key.split(".")[0]
        if first not in of_submit | of_job:
            names = [name for kind in (job_type(job), schema.SubmitConfig) for name, _ in keys(kind)]
            raise _unknown_key(job, key, [*names, *schema.GROUP_DEFAULTS[job_name(job)], "site"])
        (where if first in of_submit - of_job else what).append(setting)
    return where, what


# What other trainers call it: the last part of a key there, and here.
_ALSO_CALLED = {
    "lr": "learning_rate",
    "epochs": "total_samples",
    "steps": "total_samples",
    "max_steps": "total_samples",
    "max_train_steps": "total_samples",
    "batch_size": "global_batch",
    "train_batch_size": "global_batch",
    "workers": "reader_threads",
    "num_workers": "reader_threads",
    "mixed_precision": "precision",
    "dtype": "precision",
    "gpus": "tasks_per_node",
    "output_dir": "runs",
    "cfg": "guidance",
    "cfg_scale": "guidance",
    "guidance_scale": "guidance",
    "num_inference_steps": "steps",
}


def _unknown_key(job: str, key: str, names: Sequence[str]) -> UserError:
    """The error for a key that a job does not have."""
    ours = _ALSO_CALLED.get(key.rpartition(".")[2].lower(), "")
    meant = [name for name in names if ours and name.rpartition(".")[2] == ours]
    whole = (
        f"birdsd run {job} --keys" if job != schema.SUBMIT else "site, nodes, tasks_per_node, array, site.*"
    )
    groups = {group for known in schema.GROUP_DEFAULTS.values() for group in known}
    near = (meant or nearest(key, names, 1))[0]
    way = "A group takes a preset's name." if near in groups else ""
    return unknown_name(f"key for job {job}", key, names, way, whole, meant)


def altered(job: str, settled: Any, key: str, value: str) -> Any:
    """A copy of a settled configuration of `job` in which `key` has another value, as `compose` reads it."""
    return _with(job, type(settled), as_dict(settled), [(key, value)])


def changed(job: str, stored: Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """A configuration of `job` that was stored as plain values, to the character, with some `key=value`s set
    anew. Fields that this version does not know are left out, and so are those of another method."""
    codec = stored.get("codec")
    kind = plugins.with_codec(job_type(job), codec.get("kind") if isinstance(codec, Mapping) else None)
    return _with(job, kind, stored, [_split(override) for override in overrides])


def _with(job: str, kind: type, plain: Mapping[str, Any], values: Sequence[tuple[str, str]]) -> Any:
    from omegaconf import OmegaConf

    method = None
    if issubclass(kind, schema.TrainConfig):
        typed = {key.partition(".")[2]: value for key, value in values if key.startswith("method.")}
        method = method_facts.stored({"method": {**(plain.get("method") or {}), **typed}})
    draft = _Draft(job, kind, method)
    draft.node = OmegaConf.merge(draft.node, encoded(_known(draft.blank, plain)))
    for key, value in values:
        draft.set(key, value)
    return draft.settled()


def _known(blank: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Of stored values those that the dataclass `blank` has fields for, in its sections too."""
    found = {}
    for item in dataclasses.fields(blank):
        if item.name in stored:
            value, section = stored[item.name], getattr(blank, item.name)
            inner = dataclasses.is_dataclass(section) and isinstance(value, Mapping)
            found[item.name] = _known(section, value) if inner else value
    return found


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON-able values."""
    return dataclasses.asdict(config)


def settings_as_typed(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A configuration as the lines `key=value` that would set it, each value to the character."""
    for key, value in config.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" not in OPEN:
            yield from settings_as_typed(value, f"{prefix}{key}.")
        else:
            yield as_setting(f"{prefix}{key}", value)
