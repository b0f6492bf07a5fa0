"""`birdsd plan`: estimates memory and time before anything runs, and chooses the fastest layout that fits.

A step is traced (`trace`), the states of engines are added up (`budget`), and the machine comes from
`hardware`. Times are estimates, and are labelled so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from birdsd import config as configuration
from birdsd.errors import BadValue, Unsupported, UserError, unknown_name
from birdsd.files import fingerprint, read_json, write_json
from birdsd.format import size
from birdsd.method_facts import facts_of
from birdsd.planning.hardware import Hardware, hardware
from birdsd.runs.auto import AUTO
from birdsd.runs.run import RunStore
from birdsd.schema import MODEL_KEYS
from birdsd.site.choose import check_site

if TYPE_CHECKING:
    from birdsd.planning.memory_budget import Budget, Layout, Tracer
    from birdsd.planning.trace import Encoding, Step
    from birdsd.schema import MachineConfig, SubmitConfig, TrainConfig

# Of a card's dense 16-bit peak that a Stable Diffusion training with cached latents reaches with many samples
# at once: MosaicML's published one, 290 images/s on 8 A100. And what each way of saving memory costs in time.
MFU = 0.28
_FP32_SLOWER = 8
# Of one EPYC core, by a step of tiny in the bench of methods (25 GFLOP in 0.22 s).
CPU_FLOPS_PER_S = 1.1e11
_COST = {1: 1.03, 2: 1.05, 3: 1.2}
_BUS_BYTES_PER_S, _HOST_BYTES_PER_S = 12e9, 20e9
# For fragmentation: memory that is free but in pieces that are too small.
_FRAGMENTED = 1.05
T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """A layout, its memory, whether it fits, and seconds per sample of all GPUs together."""

    budget: Budget
    fits: bool
    lacks: str
    sample_s: float

    @property
    def layout(self) -> Layout:
        return self.budget.layout


@dataclass(frozen=True)
class Plan:
    """A plan. `asked`: the layout of the machine preset; `chosen`: the fastest that fits, or None."""

    config: TrainConfig
    codec: dict[str, Any]
    there: Hardware
    asked: Choice
    chosen: Choice | None
    tried: list[Choice]
    notes: list[str]
    encoding: Encoding | None = None

    @property
    def samples(self) -> int:
        return int(self.config.optim.total_samples or 1)

    def hours(self, choice: Choice) -> float:
        """The estimated hours until the last sample."""
        return self.samples * choice.sample_s / 3600


def plan_training(
    config: TrainConfig,
    codec: dict[str, Any],
    target: Hardware,
    notes: Sequence[str],
    eight_bits: bool = True,
    deepspeed: bool = True,
) -> Plan:
    """Try the layouts from fast to memory-saving; the first kind of which one fits is chosen.
    `eight_bits`: 8-bit moments are allowed, which need bitsandbytes; `deepspeed`: it is installed. With
    machine=auto, settings that the user typed are kept."""
    from birdsd.planning.memory_budget import Layout
    from birdsd.training.batches.global_batch import BatchPlan
    from birdsd.training.engines.choice import check_engine

    trace = _tracer(config, codec)
    average = bool(config.optim.ema_decay)
    machine, batch = config.machine, int(config.optim.global_batch or 1)
    check_engine(machine)
    if config.optim.optimizer == "muon":  # which needs whole matrices, with moments of 32 bits
        eight_bits = deepspeed = False
    precision = precision_on(target, machine)
    ways = BatchPlan(batch, target.ranks, 0, machine.micro_batch)
    share = ways.largest_slice
    requested = Layout.of(machine, precision, ways.size, target.ranks, max(1, target.gpus_per_node))

    def tried(layout: Layout) -> Choice:
        return _choice(trace, layout, target, average, batch)

    typed = machine.said if machine.name == AUTO else ()
    sizes = [requested.micro_batch] if "micro_batch" in typed else _sizes(share)
    tried_layouts, chosen = [], None
    for kind in _with_typed(_kinds(requested, target, eight_bits), requested, typed):
        for layout in kind:
            if layout.sharded and not deepspeed and layout.engine != requested.engine:
                continue
            choices = [tried(replace(layout, micro_batch=count)) for count in sizes]
            tried_layouts += choices
        if fitting := [choice for choice in tried_layouts if choice.fits]:
            chosen = min(fitting, key=lambda choice: (round(choice.sample_s, 6), choice.budget.gpu_bytes))
            break
    return Plan(config, codec, target, tried(requested), chosen, tried_layouts, list(notes))


def _kinds(requested: Layout, target: Hardware, eight_bits: bool) -> list[list[Layout]]:
    """The kinds of layouts, from fast to memory-saving."""
    plain = replace(
        requested, engine="torch", zero_stage=0, offload_optimizer=False, offload_parameters=False,
        optimizer_bits=32, save_in_background=True,
    )  # fmt: skip
    kinds = [[replace(plain, checkpointing=value) for value in (False, True)]]
    if target.card is None:
        return kinds
    offloaded = replace(plain, offload_optimizer=True, checkpointing=True)
    if target.ranks > 1:
        sharded = [replace(plain, engine="deepspeed", zero_stage=stage) for stage in (1, 2, 3)]
        kinds.append([replace(base, checkpointing=value) for base in sharded for value in (False, True)])
        dealt = replace(offloaded, engine="deepspeed", zero_stage=2)
        return [*kinds, [dealt], [replace(dealt, zero_stage=3, offload_parameters=True)]]
    if eight_bits:
        kinds.append([replace(base, optimizer_bits=8) for base in kinds[0]])
    kinds += [[offloaded], [replace(offloaded, save_in_background=False)]]
    if eight_bits:
        kinds.append([replace(offloaded, save_in_background=False, optimizer_bits=8)])
    zero = replace(offloaded, engine="deepspeed", zero_stage=3, offload_parameters=True)
    return [*kinds, [zero]]


def _with_typed(kinds: list[list[Layout]], requested: Layout, typed: Sequence[str]) -> list[list[Layout]]:
    """The layouts that keep the settings in `typed` (fields of MachineConfig) as they are in `requested`; if
    there are none, that one alone."""
    wanted = {name: value for name, value in requested.settings().items() if name in typed}
    wanted.pop("micro_batch", None)
    if requested.engine == "torch":
        wanted.pop("zero_stage", None)  # without effect there
    matching = [[layout for layout in kind if wanted.items() <= layout.settings().items()] for kind in kinds]
    return [kind for kind in matching if kind] or [[requested]]


def precision_on(target: Hardware, machine: MachineConfig) -> str:
    """The number format of `machine.precision` on this hardware; `UserError` for an unknown one."""
    from birdsd.training.devices.precision import DTYPES

    if machine.precision not in ("auto", *DTYPES):
        raise unknown_name("machine.precision", machine.precision, ("auto", *DTYPES))
    fast = "fp32" if target.card is None else "bf16" if target.card.bf16 else "fp16"
    return fast if machine.precision == "auto" else machine.precision


def _sizes(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length()) if 2**k <= most]


def _choice(trace: Tracer, layout: Layout, target: Hardware, average: bool, global_batch: int) -> Choice:
    from birdsd.planning.memory_budget import budget

    planned = budget(trace, layout, average=average, on_cpu=target.card is None)
    lacks = ""
    if layout.offload_optimizer and not layout.sharded and layout.gpus > 1:
        lacks = "plain torch offloads for one process; machine.engine=deepspeed does for several"
    elif target.card is not None and planned.gpu_bytes * _FRAGMENTED > target.gpu_bytes:
        lacks = (
            f"{size(planned.gpu_bytes)} of the GPU's {size(target.gpu_bytes)}, most of it {planned.largest()}"
        )
    elif planned.host_bytes > target.host_bytes:
        most = max(planned.host, key=lambda name: planned.host[name])
        lacks = f"{size(planned.host_bytes)} of the host's {size(target.host_bytes)}, most of it {most}"
    return Choice(planned, not lacks, lacks, _sample_s(planned, target, global_batch))


def _sample_s(planned: Budget, target: Hardware, global_batch: int) -> float:
    layout, step = planned.layout, planned.step
    if target.card is None:
        reached = CPU_FLOPS_PER_S
    else:
        # The more samples at once, the better a GPU is used.
        reached = target.card.tflops * 1e12 * MFU * layout.micro_batch / (layout.micro_batch + 1)
        if layout.precision == "fp32":
            reached /= _FP32_SLOWER
    each = step.flops / layout.micro_batch / reached * _COST.get(layout.zero_stage, 1.0)
    if layout.offload_optimizer:
        own = step.learning / layout.gpus
        bus = own * 4 / _BUS_BYTES_PER_S + own * 32 / _HOST_BYTES_PER_S
        each += bus / (global_batch / layout.gpus)
        if not layout.sharded:  # gradients of all micro-batches are accumulated in host memory
            each += own * (2 / _BUS_BYTES_PER_S + 10 / _HOST_BYTES_PER_S) / layout.micro_batch
    if layout.optimizer_bits == 8:
        where = _HOST_BYTES_PER_S / 4 if layout.offload_optimizer else 2 * _HOST_BYTES_PER_S
        each += step.learning * 12 / where / global_batch
    if layout.offload_parameters:
        each += 3 * 2 * step.learning / layout.gpus / _BUS_BYTES_PER_S / layout.micro_batch
    return each / layout.gpus


def _tracer(config: TrainConfig, codec: dict[str, Any]) -> Tracer:
    """A tracer whose results are cached in the user's cache folder: tracing a large model takes seconds."""
    from birdsd.planning import trace as accounting

    own = _fingerprint(config, codec)

    def trace(micro_batch: int, precision: str, checkpointing: bool, low: bool) -> Step:
        changed = replace(config, machine=replace(config.machine, gradient_checkpointing=checkpointing))
        return _kept(
            f"{own}-{micro_batch}-{precision}-{int(checkpointing)}-{int(low)}.json",
            accounting.Step,
            lambda: accounting.trace_step(
                changed, codec, micro_batch, precision, low_precision_weights=low, flops=micro_batch == 1
            ),
        )

    return trace


def _encoding(config: TrainConfig, codec: dict[str, Any]) -> Encoding | None:
    """What computing the cached latents and text states takes; None where nothing is cached."""
    from birdsd.diffusion.learning.embedding_cache import pictures_together
    from birdsd.planning import trace as accounting

    if not config.machine.cache_latents or not facts_of(config.method).caches:
        return None
    together = pictures_together(codec)
    return _kept(
        f"{_fingerprint(config, codec)}-encoding-{together}.json",
        accounting.Encoding,
        lambda: accounting.trace_encoding(config, codec, together),
    )


def _fingerprint(config: TrainConfig, codec: dict[str, Any]) -> str:
    """A fingerprint of everything that a trace depends on."""
    from birdsd.planning import trace as accounting

    cached = config.machine.cache_latents
    parts = [asdict(config.model), asdict(config.method), codec, cached, _architecture(config)]
    return fingerprint([*parts, accounting.VERSION])


def _kept(name: str, kind: type[T], make: Callable[[], T]) -> T:
    """A trace from the user's cache folder; computed and cached where it is missing."""
    path = _cache_folder() / name
    with suppress(TypeError, UserError):
        if path.is_file():
            return kind(**read_json(path))
    value = make()
    with suppress(OSError, UserError):  # the next time is slower, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(value))  # type: ignore[call-overload]
    return value


def _architecture(config: TrainConfig) -> list[Any]:
    """The configurations of local models, so that another model is traced anew."""
    from birdsd.diffusion.networks.clip import clip_place
    from birdsd.planning.trace import config_of

    sources = (config.model.source, config.model.autoencoder)
    parts: list[Any] = [
        config_of(source, part) for source in sources for part in ("unet", "vae", "text_encoder")
    ]
    with suppress(UserError):  # building the model reports the problem
        place = Path(clip_place(config.model.clip or "")).expanduser() / "config.json"
        if config.model.clip and place.is_file():
            parts.append(read_json(place))
    return parts


def _cache_folder() -> Path:
    import os

    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "birdsd" / "plan"


# -- the request ------------------------------------------------------------------------------------------


def make_plan(settings: Sequence[str], gpu: str | None = None, site: str | None = None) -> Plan:
    """The plan of `birdsd plan train SETTINGS`: those of train, and of submit (nodes, site, ...)."""
    where, what = configuration.split_settings("train", settings)
    preset = preset_in(what)
    config: TrainConfig = configuration.compose("train", what)
    requested: SubmitConfig | None = None
    if site:
        where = [*where, f"site={site}"]
    if where:
        named = any(text.startswith("site=") for text in where)
        requested = configuration.compose("submit", where if named else [*where, "site=local"])
    known = (
        requested.site if requested is not None and any(text.startswith("site=") for text in where) else None
    )
    nodes, per_node = (requested.nodes, requested.tasks_per_node) if requested is not None else (1, 0)
    if requested is not None and known is not None:
        check_site(requested, "train")
    if nodes < 1 or per_node < 0:
        raise BadValue(f"nodes={nodes} tasks_per_node={per_node}", "a job has at least one node and process")
    target = hardware(preset, gpu, known, nodes, per_node)
    store = RunStore(Path(config.runs))
    for name in MODEL_KEYS:
        setattr(config.model, name, _found(store, getattr(config.model, name), f"model.{name}"))
    codec, notes = codec_for(config)
    if config.model.init == "pretrained" and config.model.source and not Path(config.model.source).exists():
        notes.append(
            f"{config.model.source} is not here: assumed to have the shape of model={config.model.name}"
        )
    if target.assumed:
        notes.append(target.assumed)
    plan = replace(plan_training(config, codec, target, notes), encoding=_encoding(config, codec))
    # machine=auto asks for no layout of its own where there is a GPU: it is what the plan chooses.
    if preset == AUTO and target.card is not None and plan.chosen is not None:
        return replace(plan, asked=plan.chosen)
    return plan


def _found(store: RunStore, name: str | None, key: str) -> str | None:
    """The folder of a named run, as training finds it; any other name is a hub id and stays."""
    try:
        return store.model_source(name, key)
    except UserError:
        return name


def preset_in(settings: Sequence[str]) -> str:
    """The machine preset of the settings, or the default one."""
    named = [text.split("=", 1)[1] for text in settings if text.startswith("machine=")]
    return named[-1] if named else AUTO


def codec_for(config: TrainConfig, run: Path | None = None) -> tuple[dict[str, Any], list[str]]:
    """The codec of the run or of the shards, else a common one with a note."""
    from birdsd.diffusion.export import read_codec
    from birdsd.shards.index import ShardIndex
    from birdsd.sound.codec.protocol import Codec

    if run is not None:
        for folder in (run, run / "export"):
            if (folder / "codec.json").is_file():
                return read_codec(folder), []
    place = config.data.shards
    if place and Path(place).exists():
        recorded = ShardIndex.open(Path(place)).codec
        if recorded:
            return dict(recorded), []
    name = "birdsong-small" if config.model.name == "tiny" else "riffusion"
    codec = Codec.from_config(configuration.compose("prepare", [f"codec={name}"]).codec)
    why = f"no shards in {place} yet" if place else "no shards are named"
    note = f"{why}: planned for images of {codec.bands} x {codec.frames} (codec {name})"
    return codec.to_json(), [note]


def with_chosen_machine(config: TrainConfig, ranks: int = 1, ranks_here: int = 1) -> TrainConfig:
    """`config`, and with machine=auto its machine as the plan chooses it for the GPUs here and so many ranks.
    On a CPU there is nothing to choose. Raises `UserError` where nothing fits."""
    if config.machine.name != AUTO or config.machine.device == "cpu" or not facts_of(config.method).trains:
        return config
    target = hardware(AUTO, nodes=max(1, ranks // ranks_here), per_node=ranks_here)
    if target.card is None:
        return config
    codec, notes = codec_for(config)
    extras = [find_spec(name) is not None for name in ("bitsandbytes", "deepspeed")]
    plan = plan_training(config, codec, target, notes, *extras)
    if plan.chosen is None:
        raise Unsupported(
            f"machine=auto: nothing fits on {plan.there.described()}",
            plan.asked.lacks or "the machine has too little memory",
            "a smaller method (lora, textual_inversion), or see where the memory goes: birdsd plan train ...",
        )
    chosen: dict[str, Any] = plan.chosen.layout.settings()
    return replace(config, machine=replace(config.machine, **chosen))
