"""What is left open in a training's settings is filled in, and what cannot be carried out is refused."""

from __future__ import annotations

from typing import Any

from birdsd import method_facts, schema
from birdsd.errors import Mismatch, clipped, unknown_name


def fill_open(config: schema.TrainConfig) -> None:
    """Fill the settings that are left open as the model preset recommends, else with the usual values."""
    facts = method_facts.find(config.method.name, config.method.form)
    own = facts.defaults if facts is not None else {}
    usual = {**schema.OPTIM_DEFAULTS, **(facts.optim if facts is not None else {})}
    for name, value in {**usual, **own, **_recommended(config)}.items():
        if name not in schema.OPTIM_DEFAULTS and name not in own:
            raise unknown_name(
                f"setting recommended by model preset {config.model.name}",
                name,
                [*schema.OPTIM_DEFAULTS, *own],
            )
        section: Any = config.method if name in own else config.optim
        present = getattr(section, name)
        # An optimizer's 0 is a choice, and so is a false where null is what leaves it open.
        if present is None or (name in own and own[name] is not None and not present):
            setattr(section, name, value)


def _recommended(config: schema.TrainConfig) -> dict[str, Any]:
    """What the model preset recommends for the method; fine-tuning may have an entry of its own, and from
    scratch another optimizer."""
    advice = config.model.recommended
    facts = method_facts.find(config.method.name, config.method.form)
    title = config.method.name if facts is None else facts.title
    pretrained = config.model.init == "pretrained"
    titles = [f"{title}_pretrained" if pretrained else f"{title}_{config.optim.optimizer}", title]
    settings: dict[str, Any] = next((advice[name] for name in titles if advice.get(name)), {})
    # A pretrained model keeps its prediction type, and whoever sets one of the noise settings sets them all.
    is_set = any(getattr(config.method, key, None) is not None for key in schema.NOISE_DEFAULTS)
    return {k: v for k, v in settings.items() if not (k in schema.NOISE_DEFAULTS and (pretrained or is_set))}


def refuse_of_other_methods(chosen: method_facts.MethodFacts, name: str, value: Any, default: Any) -> None:
    """Refuse a setting of other methods: it would be ignored. One that says what is usual is let through."""
    if value in (default, schema.NOISE_DEFAULTS.get(name, default)):
        return
    owners = [facts.settings for facts in method_facts.built_in() if name in facts.keys]
    shown = str(value).lower() if isinstance(value, bool) else value
    raise Mismatch(
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
        raise Mismatch(
            f"optim.optimizer=muon with DeepSpeed ZeRO-{machine.zero_stage}",
            "Muon needs whole matrices, and ZeRO partitions parameters into flat pieces",
            "set machine.engine=torch, or optim.optimizer=adamw",
        )
    if machine.optimizer_bits == 8:
        raise Mismatch(
            "optim.optimizer=muon with machine.optimizer_bits=8",
            "only AdamW has 8-bit optimizer states",
            "set machine.optimizer_bits=32, or optim.optimizer=adamw",
        )
