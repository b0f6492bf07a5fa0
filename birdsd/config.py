"""One way to configure: presets in groups, then `key=value`.

`compose("train", ["machine=smoke", "optim.learning_rate=1e-4"])` gives a typed `TrainConfig`.
Hydra's compose API chooses and merges the presets over the dataclasses of `birdsd.schema`; values
are then set through OmegaConf's typed nodes rather than Hydra's override grammar, so that a prompt
or a path may hold commas, quotes, `$`, `=` or brackets as they are.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import birdsd
from birdsd import method_facts, plugins, schema
from birdsd.errors import UserError, clipped, listed_names, nearest, unknown_name
from birdsd.files import fingerprint
from birdsd.values import OPEN, as_field, as_setting, decoded, encoded, read_preset, value_of

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Preset:
    """One file of configs/GROUP: its name and the line that describes it."""

    group: str
    name: str
    line: str
    path: Path

    @property
    def reference(self) -> str:
        """What stands for it among the groups to compose: its name, or the file of one that is not ours."""
        return self.name if self.path.parent.parent == config_folder() else str(self.path)


_GROUPS = ("codec", "data", "machine", "method", "model", "site")


def config_folder() -> Path:
    """configs/ of the checkout, or the copy inside the installed package."""
    for root in birdsd.__path__:
        folder = Path(root) / "configs"
        if folder.is_dir():
            return folder.resolve()
    raise UserError("the folder configs/ is missing from this installation", "", "reinstall birdsd")


def own_config_folder() -> Path:
    """Presets of the user's own, in the same groups: $BIRDSD_CONFIGS, or birdsd/ in the user's settings."""
    named = os.environ.get("BIRDSD_CONFIGS")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "birdsd"


def presets() -> dict[str, list[Preset]]:
    """Every preset by group; the line is the first comment of its file."""
    found: dict[str, list[Preset]] = {}
    own = [path for path in own_config_folder().glob("*/*.yaml") if path.parent.name in _GROUPS]
    ours = sorted(config_folder().glob("*/*.yaml"))
    taken = {(path.parent.name, path.name) for path in ours}
    packaged = [path for folder in plugins.config_folders() for path in sorted(folder.glob("*/*.yaml"))]
    others = [
        path
        for path in packaged
        if path.parent.name in _GROUPS and (path.parent.name, path.name) not in taken
    ]
    for path in [*ours, *others, *sorted(own)]:
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        line = first.lstrip("# ").strip() if first.startswith("#") else ""
        same = found.setdefault(path.parent.name, [])
        same[:] = [
            preset for preset in same if preset.name != path.stem
        ]  # the user's presets take precedence
        same.append(Preset(path.parent.name, path.stem, line, path))
    return found


def job_type(job: str) -> type:
    """The configuration class of a job; an unknown job names the valid ones."""
    if job == schema.SUBMIT:
        return schema.SubmitConfig
    if job not in schema.JOBS:
        raise unknown_name("job", job, schema.JOBS)
    return schema.JOBS[job]


def job_line(job: str) -> str:
    """What a job does, in one line: the first line of its configuration's docstring."""
    return (job_type(job).__doc__ or "").strip().split("\n")[0]


def keys(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that can be set, with its default; dictionaries are open below their own key."""
    for item in dataclasses.fields(kind):
        default = item.default if item.default is not dataclasses.MISSING else None
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        if dataclasses.is_dataclass(default):
            yield from keys(type(default), f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", default


def compose(job: str, overrides: Sequence[str] = ()) -> Any:
    """The resolved configuration of `job`: an instance of its dataclass in `birdsd.schema`.

    An override is `group=preset`, `group=FILE.yaml` (a custom preset) or `key=value`. Raises
    `UserError` for an unknown job, group, preset or key (naming the valid ones and the nearest) and for
    a value of the wrong type.
    """
    kind = job_type(job)
    groups = dict(schema.GROUP_DEFAULTS[job])
    values: list[tuple[str, str]] = []
    for override in overrides:
        key, value = _split(override)
        if key in groups:
            groups[key] = _preset(key, value, values)
        else:
            values.append((key, value))
    if groups.get("codec", "").endswith((".yaml", ".yml")):
        kind = plugins.with_codec(kind, read_preset(Path(groups["codec"])).get("kind"))
    resolved = _merge_presets(job, kind, groups)
    valid = dict(keys(kind))
    for key, value in values:
        _set(resolved, job, key, value, valid)
    config = _finish(resolved)
    for key, value in values:
        found = reduce(lambda held, name: getattr(held, name, None), key.split("."), config)
        if isinstance(found, float) and not math.isfinite(found):
            raise UserError(f"{key} is {value}", "it must be a finite number")
    if isinstance(machine := getattr(config, "machine", None), schema.MachineConfig):
        machine.said = tuple(key.split(".")[1] for key, _ in values if key.startswith("machine."))
    return config


def _split(override: str) -> tuple[str, str]:
    key, equals, value = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w.-]*", key):
        raise UserError(
            f"cannot read the setting '{clipped(override)}'",
            "a setting is group=preset or key=value, e.g. machine=smoke or optim.learning_rate=1e-4",
        )
    return key, value


def _preset(group: str, value: str, values: list[tuple[str, str]]) -> str:
    """The preset that `group=value` names. `data=FOLDER` stands for data=song with those recordings."""
    known = {preset.name: preset for preset in presets().get(group, [])}
    if value in known:
        # A site's file is read as it is written, wherever it lies.
        return str(known[value].path) if group == "site" else known[value].reference
    if value.endswith((".yaml", ".yml")):
        if not Path(value).is_file():
            raise UserError(
                f"{group}={clipped(value)}: the file does not exist", "", f"or one of {listed_names(known)}"
            )
        return str(Path(value).resolve())
    if group == "data" and ("/" in value or Path(value).exists()):
        values.insert(0, ("data.recordings", value))
        return known[schema.GROUP_DEFAULTS["prepare"]["data"]].reference
    raise unknown_name(f"preset of {group}", value, known, "`birdsd presets` describes them.")


def _merge_presets(job: str, kind: type, groups: dict[str, str]) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    own = {group: Path(value) for group, value in groups.items() if value.endswith((".yaml", ".yml"))}
    ours = {group: value for group, value in groups.items() if group not in own}
    defaults: list[Any] = ["_self_", *({group: preset} for group, preset in ours.items())]
    node = dataclasses.make_dataclass(
        kind.__name__,
        [("defaults", list, dataclasses.field(default_factory=lambda: list(defaults)))],
        bases=(kind,),
    )
    ConfigStore.instance().store(name=f"job_{job}", node=node)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3", job_name="birdsd"):
            composed = hydra_compose(f"job_{job}")
        plain = OmegaConf.to_container(composed)
        assert isinstance(plain, dict)
        plain.pop("defaults", None)
        for group, path in own.items():
            plain[group] = _own_preset(kind, group, path)
        return OmegaConf.merge(OmegaConf.structured(kind), plain)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        named = listed_names(str(path) for path in own.values()) if own else listed_names(ours.values())
        said = str(error).strip().split("\n")[0]
        raise UserError(f"a preset cannot be used ({named})", clipped(said, 160)) from error


def _own_preset(kind: type, group: str, path: Path) -> dict[str, Any]:
    """What a preset file says, each value as the field that it is for takes it; refused by name otherwise."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    section = next(item for item in dataclasses.fields(kind) if item.name == group)
    of_group: Any = section.default_factory
    valid = {item.name for item in dataclasses.fields(of_group)}
    told = {"name": path.stem}
    for key, value in read_preset(path).items():
        if (group, key, value) == ("codec", "kind", schema.SPECTROGRAM):
            continue  # the usual one
        if key not in valid:
            raise unknown_name(f"key in {path}", key, valid, whole=f"`birdsd run JOB --keys`, {group}.*")
        told[key] = encoded(as_field(f"{group}.{key}", getattr(of_group(), key), value))
        try:
            OmegaConf.merge(OmegaConf.structured(of_group), {key: told[key]})
        except (OmegaConfBaseException, ValueError) as error:
            raise UserError(
                f"{path}: {key}: {value} does not fit",
                f"{_fitting(getattr(of_group(), key), error) or str(error).splitlines()[0]}; "
                f"the default is {getattr(of_group(), key)!r}",
                f"`birdsd run ... --keys` and {group}'s presets show what a value looks like",
            ) from error
    return told


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


def split_settings(job: str, settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The settings of `birdsd submit JOB`, told apart: (where it runs, what the job is)."""
    of_submit = set(schema.GROUP_DEFAULTS[schema.SUBMIT])
    of_submit |= {key.split(".")[0] for key, _ in keys(schema.SubmitConfig)}
    of_job = {key.split(".")[0] for key, _ in keys(job_type(job))}
    where: list[str] = []
    what: list[str] = []
    for setting in settings:
        key = _split(setting)[0]
        first = key.split(".")[0]
        if first not in of_submit | of_job:
            names = [name for kind in (job_type(job), schema.SubmitConfig) for name, _ in keys(kind)]
            raise _unknown_key(job, key, [*names, *schema.GROUP_DEFAULTS[job], "site"])
        (where if first in of_submit - of_job else what).append(setting)
    return where, what


def _set(resolved: DictConfig, job: str, key: str, value: str, valid: dict[str, Any]) -> None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    below_open = [k for k, default in valid.items() if isinstance(default, dict) and key.startswith(k + ".")]
    if key not in valid and not below_open:
        raise _unknown_key(job, key, [*valid, *schema.GROUP_DEFAULTS[job]])
    try:
        told = value_of(key, value, valid.get(key), below_open[0] if below_open else "")
        OmegaConf.update(resolved, key, told, force_add=bool(below_open))
    except (OmegaConfBaseException, ValueError) as error:
        reason = _fitting(valid.get(key), error) or clipped(str(error).split("\n")[0], 160)
        default = clipped(repr(valid.get(key)))
        raise UserError(
            f"{key}={clipped(value)} does not fit", f"{reason}; the default is {default}"
        ) from error


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


def _finish(resolved: DictConfig) -> Any:
    """Fill what is left open from the model's recommendation, and make plain dataclasses of it all."""
    from omegaconf import OmegaConf

    config = decoded(OmegaConf.to_object(resolved))
    if isinstance(config, schema.TrainConfig):
        fill_open(config)
        refuse_keys_of_others(config)
        check_optimizer(config.optim, config.machine)
    return config


def refuse_keys_of_others(config: schema.TrainConfig) -> None:
    """A setting that the chosen method does not have would be ignored, and yet make another run of it.

    Only here, where settings are typed: a run that was stored with such a value can still be read.
    """
    chosen = method_facts.find(config.method.name, config.method.base_method)
    if chosen is None:
        return  # no such method; whoever makes it says so
    usual = dataclasses.asdict(schema.MethodConfig())
    for name, default in usual.items():
        value = getattr(config.method, name)
        if name in chosen.keys or value in (default, schema.NOISE_DEFAULTS.get(name, default)):
            continue  # what is usual makes no other run
        owners = [one.settings for one in method_facts.built_in() if name in one.keys]
        if not owners:
            continue  # every method has it
        shown = str(value).lower() if isinstance(value, bool) else value
        raise UserError(
            f"method.{name}={clipped(shown)} with {chosen.settings}",
            f"{name} is a setting of {' and of '.join(owners)} only",
            f"leave method.{name} out, or choose a method that has it",
        )


def check_optimizer(optim: schema.OptimConfig, machine: schema.MachineConfig) -> None:
    """Refuse an optimizer that does not exist, or that these settings of the machine cannot carry out: here,
    and not when the job has waited in a queue."""
    if optim.optimizer not in schema.OPTIMIZERS:
        raise unknown_name("optim.optimizer", str(optim.optimizer), schema.OPTIMIZERS)
    if optim.optimizer != "muon":
        return
    if machine.engine == "deepspeed" and machine.zero_stage:
        raise UserError(
            f"optim.optimizer=muon with DeepSpeed ZeRO-{machine.zero_stage}",
            "Muon needs whole matrices, and ZeRO partitions parameters into flat pieces",
            "set machine.engine=torch, or optim.optimizer=adamw",
        )
    if machine.optimizer_bits == 8:
        raise UserError(
            "optim.optimizer=muon with machine.optimizer_bits=8",
            "only AdamW has 8-bit optimizer states",
            "set machine.optimizer_bits=32, or optim.optimizer=adamw",
        )


def fill_open(config: schema.TrainConfig) -> None:
    """Fill the settings that are left open as the model preset recommends, else with the usual values."""
    facts = method_facts.find(config.method.name, config.method.base_method)
    own = facts.defaults if facts is not None else {}
    for name, value in {**schema.OPTIM_DEFAULTS, **own, **_advice(config)}.items():
        if name not in schema.OPTIM_DEFAULTS and name not in own:
            raise unknown_name(
                f"setting recommended by model preset {config.model.name}",
                name,
                [*schema.OPTIM_DEFAULTS, *own],
            )
        section: Any = config.method if name in own else config.optim
        said = getattr(section, name)
        # An optimizer's 0 is a choice, and so is a false where null is what leaves it open.
        if said is None or (name in own and own[name] is not None and not said):
            setattr(section, name, value)


def _advice(config: schema.TrainConfig) -> dict[str, Any]:
    """What the model preset recommends for the method; a fine-tuning may have a line of its own, and from
    scratch another optimizer."""
    told, name = config.model.recommended, advice_name(config)
    pretrained = config.model.init == "pretrained"
    names = [f"{name}_pretrained" if pretrained else f"{name}_{config.optim.optimizer}", name]
    found: dict[str, Any] = next((told[one] for one in names if told.get(one)), {})
    # A pretrained model goes on predicting what it predicts, and of the noise one says all or nothing.
    said = any(getattr(config.method, key) is not None for key in schema.NOISE_DEFAULTS)
    return {k: v for k, v in found.items() if not (k in schema.NOISE_DEFAULTS and (pretrained or said))}


def advice_name(config: schema.TrainConfig) -> str:
    """Under which name a model preset keeps its recommendation for a method."""
    facts = method_facts.find(config.method.name, config.method.base_method)
    return config.method.name if facts is None else facts.title


def altered(job: str, settled: Any, key: str, value: str) -> Any:
    """A copy of a settled configuration of `job` in which `key` has another value, as `compose` reads it."""
    return _with(job, type(settled), as_dict(settled), [(key, value)])


def changed(job: str, stored: Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """A configuration of `job` that was stored as plain values, to the character, with some `key=value`s set
    anew. Fields that this version does not know are left out."""
    codec = stored.get("codec")
    kind = plugins.with_codec(job_type(job), codec.get("kind") if isinstance(codec, Mapping) else None)
    return _with(job, kind, _known(kind, stored), [_split(override) for override in overrides])


def _with(job: str, kind: type, plain: Mapping[str, Any], values: Sequence[tuple[str, str]]) -> Any:
    from omegaconf import OmegaConf

    resolved: Any = OmegaConf.merge(OmegaConf.structured(kind), encoded(dict(plain)))
    valid = dict(keys(kind))
    for key, value in values:
        _set(resolved, job, key, value, valid)
    return decoded(OmegaConf.to_object(resolved))


def _known(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for item in dataclasses.fields(kind):
        if item.name not in stored:
            continue
        value, made = stored[item.name], item.default_factory
        inner = made if isinstance(made, type) and dataclasses.is_dataclass(made) else None
        found[item.name] = _known(inner, value) if inner and isinstance(value, Mapping) else value
    return found


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain JSON-able values."""
    return dataclasses.asdict(config)


def signature(config: schema.TrainConfig, **fingerprints: str) -> str:
    """A hash of what decides the learning: the scientific sections and what they point to.

    Paths are left out and come in as `fingerprints` (the data's, the autoencoder's) instead, so
    that the same run on another machine, or in another folder, has the same signature. A field at its
    default is left out too: a setting that a later version adds does not make another run of an old one;
    neither does it matter whether a run says what is usual, or leaves it open.
    """
    plain = as_dict(config)
    defaults = dict(keys(schema.TrainConfig))
    science = {name: plain[name] for name in schema.SCIENTIFIC}
    for section in ("model", "method"):
        held = science[section]
        science[section] = {k: v for k, v in held.items() if v != defaults[f"{section}.{k}"] or k == "name"}
    for name, usual in schema.NOISE_DEFAULTS.items():
        if science["method"].get(name) == usual:
            del science["method"][name]
    if science["optim"].get("optimizer") in (None, schema.OPTIM_DEFAULTS["optimizer"]):
        science["optim"].pop("optimizer", None)
    for name in (*schema.MODEL_KEYS, "recommended", "name"):
        science["model"].pop(name, None)
    return fingerprint({**science, **fingerprints}, length=12)


def settings_as_typed(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A configuration as the lines `key=value` that would set it, each value to the character."""
    for key, value in config.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" not in OPEN:
            yield from settings_as_typed(value, f"{prefix}{key}.")
        else:
            yield as_setting(f"{prefix}{key}", value)
