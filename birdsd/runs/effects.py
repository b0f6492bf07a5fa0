"""Settings that have no effect in the mode that a job runs in: the user gets a line for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from birdsd import config, method_facts
from birdsd.remarks import Remark
from birdsd.schema import MethodConfig, SpaceConfig, TrainConfig

_OF_TRAINING = (
    "engine", "zero_stage", "offload_optimizer", "offload_parameters", "optimizer_bits", "micro_batch",
    "gradient_checkpointing", "compile", "reader_threads", "prefetch_batches", "cache_latents",
    "cache_folder", "watchdog_s", "session_hours", "session_lead_min", "session_began",
    "save_in_background", "collective_timeout_s",
)  # fmt: skip
_OF_CLIPS = ("attention", "offload_generation", "vae_tiling")
# Fields of `machine` that a job ignores, by job.
_MACHINE: dict[str, tuple[str, ...]] = {
    "prepare": (*_OF_TRAINING, *_OF_CLIPS, "precision", "max_gpu_memory_gib"),
    "generate": (*_OF_TRAINING, "processes"),
    "grid": (*_OF_TRAINING, "processes"),
    "bank": (*_OF_TRAINING, "processes"),
    "scene": (*_OF_TRAINING, "processes"),
    "quality": (*_OF_TRAINING, *_OF_CLIPS, "processes", "precision", "max_gpu_memory_gib"),
    "train": ("processes", *_OF_CLIPS),
}
# With recipe=FILE these still take effect; everything else comes from the recipe.
_BESIDE_RECIPE = ("recipe", "run", "runs", "add", "base", "guide", "upscale", "out", "part")


def without_effect(job: str, settings: Sequence[str], settled: Any) -> list[str]:
    """A line for each of `settings` (as typed) that has no effect in `settled`, with the reason.

    Settings that equal the default are left out.
    """
    keys = {key for text in settings if (key := text.partition("=")[0]) and "=" in text}
    method = type(settled.method) if isinstance(settled, TrainConfig) else MethodConfig
    usual = dict(config.keys(config.job_type(job), method=method))
    values = dict(config.listed(settled))
    lines: dict[str, str] = {}
    for key, why in _unused(job, settled, keys):
        if key in keys and key in usual and values[key] != usual[key]:
            text = f"{key}={_text(values[key])} has no effect: {why}"
            lines.setdefault(key, Remark(text, "no-effect", key=key, value=values[key], why=why))
    return list(lines.values())


def _unused(job: str, settled: Any, keys: set[str]) -> Iterator[tuple[str, str]]:
    """(key, why it has no effect) for all keys of this job in this mode."""
    for name in _MACHINE.get(job, ()):
        yield f"machine.{name}", f"{job} does not use it"
    if isinstance(settled, TrainConfig):
        yield from _of_training(settled, keys)
        if job == "train":
            yield from _of_machine(settled)
    elif job in ("generate", "grid"):
        yield from _of_clips(settled, keys)
    elif job in ("bank", "scene"):
        yield from _of_songs(job, settled)
    elif job == "evaluate":
        yield from _of_evaluation(settled)
    elif job == "separate":
        yield from _of_separation(settled)
    elif job == "prepare" and settled.data.clean == "off":
        yield "data.clean_db", "data.clean=off cleans nothing"
    elif job == "sim2real":
        yield from _of_sim2real(settled)


# What decides songs that a model makes.
_OF_SONGS = (
    "tries", "judge", "shards", "steps", "guidance", "scheduler", "batch_size", "add", "base", "upscale",
    "upscale_sharpness",
)  # fmt: skip


_OF_SPACE = tuple(f"space.{one.name}" for one in fields(SpaceConfig))


def _of_songs(job: str, settled: Any) -> Iterator[tuple[str, str]]:
    there = settled.recordings if job == "bank" else settled.bank and not settled.run
    if there:
        why = "songs are cut out of recordings" if job == "bank" else "all songs come from the bank"
        # In a scene a judge listens to the mix, and with confirm=mix songs of a bank are tried too.
        used = () if job == "bank" else ("judge", *(("tries",) if settled.confirm == "mix" else ()))
        yield from ((key, why) for key in _OF_SONGS if key not in used)
    if job == "bank" and not settled.recordings:
        yield "rate_hz", "a model's songs have the rate of its codec"
    if job == "scene" and (settled.prompts or settled.way == "canvas"):
        on_canvas = ("tries", "confirm", "split", "stems", "layout", *_OF_SPACE)
        yield from ((key, "on a canvas there are no single songs") for key in on_canvas)
    if job == "scene" and not settled.prompts and not settled.recipe:
        yield "moving", "only an animation (prompts=) moves"
    if job == "scene" and settled.layout == "mono":
        yield from ((key, "layout=mono is heard from nowhere") for key in _OF_SPACE)
    if job == "scene" and settled.layout != "array":
        yield "space.recorders", "only layout=array has recorders"
    if job == "scene" and settled.recipe:
        kept = (
            "confirm",
            "seed",
            "count",
            "part",
            "split",
            "format",
            "stems",
            "picture",
            "layout",
            *_OF_SPACE,
        )
        yield from ((key, "recipe= says it") for key in (*_OF_SONGS, *kept))


def _of_evaluation(settled: Any) -> Iterator[tuple[str, str]]:
    if not settled.data.shards:
        yield "split", "data.shards is not set: all of data.recordings is heard"
    if not settled.strong:
        yield "collar_s", "strong=false scores no events"
    for key, _ in config.keys(type(settled.data)):
        if key not in ("name", "shards", "recordings", "labels"):
            yield f"data.{key}", "it affects `birdsd run prepare` only"


def _of_separation(settled: Any) -> Iterator[tuple[str, str]]:
    if not settled.learn:
        yield from ((key, "nothing is learnt without learn.SOURCE=FOLDER") for key in ("save", "domain"))
        if not settled.model:
            yield from ((key, "it goes with a model") for key in ("free", "adapt"))
    if settled.method != "pcnmf":
        yield "turned", "only method=pcnmf guesses which source is the bird"
    if settled.method == "gate":
        yield from (
            (key, "method=gate has no bases") for key in ("bases", "depth", "seed", "floor_db", "power")
        )


# What decides synthetic clips that sim2real has made.
_OF_GENERATORS = (
    "model", "codec", "cuts_per_song", "autoencoder_samples", "diffusion_samples", "settings",
    "sampling_steps", "guidance",
)  # fmt: skip

_OF_SCENES = ("scenes_per_level", "pool")


def _of_sim2real(settled: Any) -> Iterator[tuple[str, str]]:
    if settled.synthetic:
        yield "clips_per_species", "synthetic names the clips"
    if settled.synthetic and (settled.scenes or not settled.distribution):
        heard = settled.classifier == "head"  # others learn from pictures of the codec
        named = [key for key in _OF_GENERATORS if heard or key != "codec"]
        yield from ((key, "synthetic names the clips: no model is trained") for key in named)
    if settled.scenes:
        yield from ((key, "scenes names the scenes") for key in ("distribution", *_OF_SCENES))
    elif not settled.distribution:
        yield from ((key, "no scenes are drawn without a distribution") for key in _OF_SCENES)


def _of_training(settled: TrainConfig, keys: set[str]) -> Iterator[tuple[str, str]]:
    method, model, optim, save = settled.method, settled.model, settled.optim, settled.save
    facts = method_facts.find(method.name, method.form)
    if facts is None:
        return  # building the method reports it
    yield from facts.without_effect(settled)
    if model.init == "scratch":
        yield "method.train_text_encoder", "with model.init=scratch the text encoder always learns"
        yield (
            "model.source",
            "model.init=scratch starts from random weights; model.init=pretrained starts from it",
        )
    if "clip" not in facts.models:
        *others, last = (m.name for m in method_facts.built_in() if "clip" in m.models)
        those = f"{', '.join(others)} and {last}"
        yield "model.clip", f"method={method.name} does not use it ({those} do)"
    if "autoencoder" not in facts.models:
        yield "model.autoencoder", f"method={method.name} does not use one"
    if optim.decay == "constant":
        yield "optim.min_learning_rate_ratio", "optim.decay=constant keeps the learning rate"
    if not save.preview_every_samples:
        yield "save.preview_prompts", "save.preview_every_samples=0 draws no previews"
    if not save.validate_every_samples:
        yield "save.validation_samples", "save.validate_every_samples=0 validates nothing"
    for item in config.keys(type(settled.data)):
        if item[0] not in ("name", "shards"):
            yield f"data.{item[0]}", "it affects `birdsd run prepare` only; the shards already exist"


def _of_machine(settled: TrainConfig) -> Iterator[tuple[str, str]]:
    machine = settled.machine
    if machine.engine == "torch" and machine.name != "auto":
        yield "machine.zero_stage", "machine.engine=torch shards nothing (machine.engine=deepspeed does)"
    if machine.device == "cpu":
        yield "machine.max_gpu_memory_gib", "machine.device=cpu uses no GPU"
        if machine.engine == "torch":
            yield "machine.offload_optimizer", "machine.device=cpu holds everything in host memory already"
    if not machine.cache_latents:
        yield "machine.cache_folder", "machine.cache_latents=false caches nothing"
    if not machine.session_hours:
        for field in ("session_lead_min", "session_began"):
            yield f"machine.{field}", "machine.session_hours=0: no session ends"


def _of_clips(settled: Any, keys: set[str]) -> Iterator[tuple[str, str]]:
    if getattr(settled, "recipe", None):
        for key, _ in config.keys(type(settled)):
            if not key.startswith("machine.") and key not in _BESIDE_RECIPE:
                yield key, "the recipe determines it"
        return
    if settled.guidance is not None and settled.guidance <= 1:
        yield (
            "negative_prompt",
            f"guidance={settled.guidance:g} turns guidance off (values above 1 turn it on)",
        )
        if not settled.guide:
            for key in ("guidance_start", "guidance_end", "guidance_rescale"):
                yield key, f"guidance={settled.guidance:g} turns guidance off, and there is no guide"
    if settled.seeds:
        yield "seed", "seeds overrides it"
    if not settled.upscale:
        yield "upscale_sharpness", "there is no upscale"
    if settled.aesthetic_steps == 0:
        for key, _ in config.keys(type(settled)):
            if key.startswith("aesthetic_") and key != "aesthetic_steps":
                yield key, "aesthetic_steps=0 turns personalisation off"
    for axis in ("x", "y"):
        key = str(getattr(settled, axis, None) or "").partition("=")[0].strip()
        if key and key in keys:
            yield key, f"the {axis} axis sets it"


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
